"""``hilum inspect``: lists the scans under a path with their findings."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from hilum.cli.arguments import ScanPath
from hilum.settings.run import ReadingConfig

if TYPE_CHECKING:
    from hilum.findings import Finding
    from hilum.reading.doctor import Examined


_LEFT_OUT = ("unreadable-file", "missing-file", "unsafe-archive")
"""Findings about files, folders and links that were not examined."""


_MARK = 'name="generator" content="hilum inspect"'
"""Pattern that identifies pages of this command."""


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """List the scans under a path, series by series, with their findings."""

    path: ScanPath
    """A folder tree, a file, a DICOMDIR, or a zip or tar of them: DICOM, NIfTI, NRRD, MetaImage."""

    json: bool = False
    """Print one JSON object instead of a table."""

    html: Path | None = None
    """Write a page with a picture of each scan to this file."""

    lungs: bool = False
    """Segment the lungs too: verdict and figures, and with --html pictures."""

    keep_uids: bool = False
    """Print SeriesInstanceUIDs instead of hashes."""

    hide_paths: bool = False
    """Hide the names of files and folders, which can be names of patients."""

    reading: ReadingConfig = field(default_factory=ReadingConfig)

    def run(self) -> int:
        """Examine and print; 0 if any series was found, even a refused one."""
        from hilum.files import check_output, write_whole
        from hilum.findings import as_records
        from hilum.preparing.lungs.overlay import inspect_lungs
        from hilum.reading.doctor import examine, without_paths

        if self.html is not None:
            check_output(self.html, _MARK)
        found, loose = examine(
            self.path,
            self.reading,
            keep_uids=self.keep_uids,
            pictures=self.html is not None,
            look=inspect_lungs if self.lungs else None,
            progress=sys.stderr.isatty(),
        )
        if self.hide_paths:
            found, loose = without_paths(found, loose)
        if self.html is not None:
            from hilum.reading.page import inspection_page

            write_whole(self.html, inspection_page(found, loose), mark=_MARK)
        if self.json:
            result = {
                "series": [one.as_dict() for one in found],
                "findings": as_records(loose),
                "num_left_out": _num_left_out(loose),
            }
            print(json.dumps(result, indent=2))
        else:
            _print(found, loose)
        return 0 if found else 1


def _print(found: "list[Examined]", loose: "list[Finding]") -> None:
    """Print a row for each scan, and below it the name of its series, its score and its findings."""
    if not found:
        print("no CT was found")
    else:
        heads: tuple[str, ...] = ("verdict", "slices", "pixels", "spacing z y x, mm", "thick", "kernel", "where")
        rows = [heads, *(_row(one) for one in found)]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        print("  ".join(cell.ljust(width) for cell, width in zip(rows[0], widths, strict=True)).rstrip())
        for row, one in zip(rows[1:], found, strict=True):
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
            if one.series and one.series != one.where:
                points = "" if one.score is None or one.score < 0 else f", {one.score} points: {', '.join(one.reasons)}"
                print(f"    {one.series}{points}")
            for finding in one.findings:
                print(f"    {finding}")
            if one.inspection:
                print(f"    {one.inspection.summary}")
                for finding in one.inspection.findings:
                    print(f"    {finding}")
    for finding in loose:
        print(finding)
    if len(found) > 1:
        verdicts = [one.verdict for one in found]
        print(", ".join(f"{verdicts.count(name)} {name}" for name in ("ok", "repaired", "refused")))
    if left_out := _num_left_out(loose):
        print(f"left out: {left_out} files, folders and links that cannot be read, named above")


def _num_left_out(loose: "list[Finding]") -> int:
    return sum(finding.code in _LEFT_OUT for finding in loose)


def _row(one: "Examined") -> tuple[str, ...]:
    spacing = " ".join(f"{s:.4g}" for s in one.spacing_mm) if one.spacing_mm else "-"
    thick = "-" if one.thickness_mm is None else f"{one.thickness_mm:g}"
    pixels = f"{one.size[0]}x{one.size[1]}" if one.num_slices else "-"
    return one.verdict, str(one.num_slices), pixels, spacing, thick, one.kernel or "-", one.where
