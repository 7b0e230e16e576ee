"""Flags and printed lines of the verbs that write files of scans."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hilum.cli.arguments import ScanPath
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig

if TYPE_CHECKING:
    from hilum.serving.record import WrittenScan


@dataclass(frozen=True, kw_only=True)
class ScanFlags(FilesConfig):
    """Flags of convert and lungs; inherited, so that a wrong value is a usage error."""

    path: ScanPath
    """A folder tree, a file, a DICOMDIR, or a zip or tar of them: DICOM, NIfTI, NRRD, MetaImage."""

    series: str | None = None
    """For one file: the series to take, by the name that hilum inspect lists, or a rule such as thinnest."""

    json: bool = False
    """Print one JSON object instead of lines."""

    reading: ReadingConfig = field(default_factory=ReadingConfig)

    out: Annotated[str, tyro.conf.arg(metavar="PATH")]
    """A file .nii, .nii.gz, .nrrd or .mha for one scan; else a folder for all, with / at its end if it has a dot."""

    @property
    def files(self) -> FilesConfig:
        """The form of the files."""
        return FilesConfig(**{one.name: getattr(self, one.name) for one in fields(FilesConfig)})

    def told(self, found: "Sequence[WrittenScan]", lines: Sequence[str], table: object = None) -> int:
        """Print what became of the scans, and return the exit code.

        Args:
            found: The scans.
            lines: Lines of the verb's own.
            table: The table that lists all, if one was written.
        """
        from hilum.serving.scan_table import as_summary, num_refused, refused_lines, summary_line

        if self.json:
            print(json.dumps(as_summary(found, keep_paths=self.keep_paths), indent=2))
        else:
            for line in [*lines, *refused_lines(found, keep_paths=self.keep_paths)]:
                print(line)
            print(f"{Path(self.out)}: {summary_line(found)}" + (f", listed in {table}" if table else ""))
        return 3 if num_refused(found) else 0
