"""``hilum lungs``: writes masks of the lungs of scans, and their volumes."""

import json
from dataclasses import dataclass
from dataclasses import field as default
from pathlib import Path
from typing import Annotated

import tyro

from hilum.cli.arguments import ScanPath
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig


@dataclass(frozen=True, kw_only=True)
class MaskLungs:
    """Write masks of the lungs of one scan, or of a tree into a folder, without weights; continues after a stop.

    Masks lie on the scan's own grid: 1 in the patient's right lung, 2 in the left. Beside each lies a JSON with
    volumes, verdict and findings. Exits with 3 if some scans of a tree were refused or have no lungs.
    """

    path: ScanPath
    """A folder tree, a file, a DICOMDIR, or a zip or tar of them: DICOM, NIfTI, NRRD, MetaImage."""

    out: Path
    """A file .nii, .nii.gz, .nrrd or .mha for one scan; else a folder for all."""

    series: str | None = None
    """For one file: the series to take, by the name that hilum inspect lists, or a rule such as thinnest."""

    field: bool = False
    """Write the lung fields too, smooth hulls up to the chest wall; their names end with -field."""

    table: Path | None = None
    """CSV to write: volumes, verdict and findings of each scan."""

    files: Annotated[FilesConfig, tyro.conf.arg(prefix_name=False)] = default(default_factory=FilesConfig)

    json: bool = False
    """Print one JSON object instead of lines."""

    reading: ReadingConfig = default(default_factory=ReadingConfig)

    def run(self) -> int:
        """Write the masks, and print volumes and what was refused."""
        from hilum.serving.lung_masks import lung_line, lung_masks
        from hilum.serving.scan_table import as_summary, num_refused, refused_lines, summary_line

        found = lung_masks(
            self.path, self.out, series=self.series, field=self.field, table=self.table, files=self.files,
            reading=self.reading,
        )  # fmt: skip
        if self.json:
            print(json.dumps(as_summary(found, keep_paths=self.files.keep_paths), indent=2))
            return 3 if num_refused(found) else 0
        for one in found:
            if one.lungs is not None:
                print(f"{one.name}: {lung_line(one)}")
        for line in refused_lines(found, keep_paths=self.files.keep_paths):
            print(line)
        print(f"{self.out}: {summary_line(found)}" + (f", listed in {self.table}" if self.table else ""))
        return 3 if num_refused(found) else 0
