"""``hilum convert``: converts scans to NIfTI, NRRD or MetaImage."""

from dataclasses import dataclass

from hilum.cli.arguments import OutPath
from hilum.cli.scan_flags import ScanFlags


@dataclass(frozen=True, kw_only=True)
class Convert(ScanFlags):
    """Convert one scan to a file, or a tree of scans into a folder, in HU; continues after a stop.

    Beside each file lies a JSON with its findings and technical tags: no names, ids or dates. Exits with 3 if some
    scans of a tree were refused; convert.csv in the folder lists why.
    """

    out: OutPath
    """A file .nii, .nii.gz, .nrrd or .mha for one scan; else a folder for all, with / at its end if it has a dot."""

    def run(self) -> int:
        """Convert, and print what was refused."""
        from hilum.files import user_path
        from hilum.serving.convert import CONVERT_TABLE, convert

        found = convert(self.path, self.out, series=self.series, files=self.files, reading=self.reading)
        is_tree = user_path(self.out).is_dir()
        lines = [] if is_tree else [str(finding) for finding in found[0].findings]
        return self.told(found, lines, CONVERT_TABLE if is_tree else None)
