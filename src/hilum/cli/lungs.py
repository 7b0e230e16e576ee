"""``hilum lungs``: writes masks of the lungs of scans, and their volumes."""

from dataclasses import dataclass
from pathlib import Path

from hilum.cli.scan_flags import ScanFlags


@dataclass(frozen=True, kw_only=True)
class MaskLungs(ScanFlags):
    """Write masks of the lungs of one scan, or of a tree into a folder, without weights; continues after a stop.

    Masks lie on the scan's own grid: 1 in the patient's right lung, 2 in the left. Beside each lies a JSON with
    volumes, verdict and findings. Exits with 3 if some scans of a tree were refused or have no lungs.
    """

    field: bool = False
    """Write the lung fields too, smooth hulls up to the chest wall; their names end with -field."""

    table: Path | None = None
    """CSV to write: volumes, verdict and findings of each scan; rows stay as long as their files."""

    def run(self) -> int:
        """Write the masks, and print volumes and what was refused."""
        from hilum.serving.lung_masks import lung_line, lung_masks

        found = lung_masks(
            self.path,
            self.out,
            series=self.series,
            field=self.field,
            table=self.table,
            files=self.files,
            reading=self.reading,
        )
        lines = [f"{one.name}: {lung_line(one)}" for one in found if one.lungs is not None]
        return self.told(found, lines, self.table)
