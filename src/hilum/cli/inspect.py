"""``hilum inspect``: what lies under a path and what is wrong with it."""

import json
from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Inspect:
    """What lies under a path, series by series, and what is wrong with it."""

    path: tyro.conf.Positional[Path]
    """A folder tree or a file: DICOM, NIfTI, NRRD, MetaImage."""

    json: bool = False
    """One JSON object instead of a table."""

    def run(self) -> int:
        """Examine and print; 0 if any series was found, even a refused one."""
        from hilum.findings import as_records
        from hilum.reading import examine

        found, loose = examine(self.path)
        if self.json:
            answer = {"series": [one.as_dict() for one in found], "findings": as_records(loose)}
            print(json.dumps(answer, indent=2))
            return 0 if found else 1
        if not found:
            print(f"no CT under {self.path}")
        else:
            rows = [("verdict", "slices", "pixels", "spacing z y x, mm", "thick", "kernel", "where")]
            for one in found:
                spacing = " ".join(f"{s:.4g}" for s in one.spacing_mm) if one.spacing_mm else "-"
                thick = "-" if one.thickness_mm is None else f"{one.thickness_mm:g}"
                pixels = f"{one.size[0]}x{one.size[1]}"
                rows.append((one.verdict, str(one.num_slices), pixels, spacing, thick, one.kernel or "-", one.where))
            widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
            for row, findings in zip(rows, [(), *(one.findings for one in found)], strict=True):
                print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
                for finding in findings:
                    print(f"    {finding}")
        for finding in loose:
            print(finding)
        return 0 if found else 1
