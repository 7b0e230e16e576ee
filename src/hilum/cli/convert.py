"""``hilum convert``: converts scans to NIfTI, NRRD or MetaImage."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hilum.cli.arguments import ScanPath
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig

OutPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="OUT")]


@dataclass(frozen=True, kw_only=True)
class Convert:
    """Convert one scan to a file, or a tree of scans into a folder, in HU; continues after a stop.

    Beside each file lies a JSON with its findings and technical tags: no names, ids or dates. Exits with 3 if some
    scans of a tree were refused; convert.csv in the folder lists why.
    """

    path: ScanPath
    """A folder tree, a file, a DICOMDIR, or a zip or tar of them: DICOM, NIfTI, NRRD, MetaImage."""

    out: OutPath
    """A file .nii, .nii.gz, .nrrd or .mha for one scan; else a folder for all."""

    series: str | None = None
    """For one file: the series to take, by the name that hilum inspect lists, or a rule such as thinnest."""

    files: Annotated[FilesConfig, tyro.conf.arg(prefix_name=False)] = field(default_factory=FilesConfig)

    json: bool = False
    """Print one JSON object instead of lines."""

    reading: ReadingConfig = field(default_factory=ReadingConfig)

    def run(self) -> int:
        """Convert, and print what was refused."""
        from hilum.serving.convert import CONVERT_TABLE, convert
        from hilum.serving.scan_table import as_summary, num_refused, refused_lines, summary_line

        found = convert(self.path, self.out, series=self.series, files=self.files, reading=self.reading)
        if self.json:
            print(json.dumps(as_summary(found, keep_paths=self.files.keep_paths), indent=2))
            return 3 if num_refused(found) else 0
        for line in refused_lines(found, keep_paths=self.files.keep_paths):
            print(line)
        if len(found) == 1:
            for finding in found[0].findings:
                print(finding)
        print(f"{self.out}: {summary_line(found)}" + (f", listed in {CONVERT_TABLE}" if self.out.is_dir() else ""))
        return 3 if num_refused(found) else 0
