"""``hilum cohort``: makes a table of cases from a folder of scans."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hilum.cli.arguments import FolderPath
from hilum.settings.run import ReadingConfig


@dataclass(frozen=True, kw_only=True)
class MakeCohort:
    """Make a table of cases from a folder of scans: one sub-folder for each class, or labels from a spreadsheet.

    Exits with 3 if a scan or file was refused or could not be read; the table then holds the rest.
    """

    folder: FolderPath
    """The scans: DICOM series at any depth, zips and tars of them, NIfTI, NRRD, MetaImage, .npy."""

    out: Path
    """The table to write, such as cohort.csv."""

    labels: Path | None = None
    """A spreadsheet without paths, joined by a tag; by default the sub-folders are the classes."""

    key: Literal["accession", "study-uid", "patient-id"] = "accession"
    """DICOM tag that joins scans and rows of the spreadsheet."""

    label: Annotated[str, tyro.conf.arg(name="columns.label")] = "label"
    """Label column of the spreadsheet."""

    several: Annotated[tuple[str, ...], tyro.conf.arg(name="columns.labels")] = ()
    """Instead, several columns, one for each label, with 1 where it is present, else 0."""

    reading: ReadingConfig = field(default_factory=ReadingConfig)

    def run(self) -> int:
        """Find the scans and write the table."""
        from collections import Counter

        from hilum.cohorts.folder import check_table, from_class_folders, from_spreadsheet, write_table

        check_table(self.out, self.labels)
        if self.labels is None:
            listing = from_class_folders(self.folder, self.reading)
        else:
            listing = from_spreadsheet(
                self.folder, self.labels, key=self.key, columns=self.several or (self.label,), reading=self.reading
            )
        private = write_table(listing.scans, self.out, listing.columns)
        for note in listing.notes:
            sys.stderr.write(f"{note}\n")
        if len(listing.columns) > 1:
            pairs = [pair for scan in listing.scans for pair in zip(listing.columns, scan.labels, strict=True)]
            counts = Counter(f"{column} = {cell}" for column, cell in pairs if cell not in ("", "0"))
        else:
            counts = Counter(scan.labels[0] for scan in listing.scans)
        shown = ", ".join(f"{n} of {label}" for label, n in sorted(counts.items()))
        print(f"{self.out}: {len(listing.scans)} scans, {shown}")
        print(f"{private}: which case is which scan; keep it to yourself, and the table, which holds the paths too")
        if listing.num_refused or listing.num_passed_over:
            print(
                f"left out: {listing.num_refused} scans, files, folders and links that cannot be used, "
                f"{listing.num_passed_over} series that are no CT scans"
            )
        return 3 if listing.num_refused else 0
