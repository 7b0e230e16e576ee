"""Settings of image files that are written for other programs."""

from dataclasses import dataclass

from hilum.errors import require
from hilum.imagefile import GZIP_LEVEL, WRITTEN_SUFFIXES


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesConfig:
    """Form of the files that are written of scans; all but the level are for a folder of them."""

    suffix: str = ".nii.gz"
    """Format of files in a folder: .nii, .nii.gz, .nrrd or .mha. A single file is named with its suffix."""

    level: int = GZIP_LEVEL
    """Compression, 1 (fast) to 9 (small); a .nii has none."""

    keep_paths: bool = False
    """Add the column where, with paths below SCAN, to the table; they can be names of patients."""

    workers: int = 0
    """Scans at once, if memory allows; 0: one for each core."""

    def __post_init__(self) -> None:
        require(self.suffix in WRITTEN_SUFFIXES, "suffix", f"one of {', '.join(WRITTEN_SUFFIXES)}", self.suffix)
        require(1 <= self.level <= 9, "level", "1 to 9", self.level)
        has_level = self.suffix != ".nii" or self.level == GZIP_LEVEL
        require(has_level, "level", "left out with .nii, which is not compressed", self.level)
        require(self.workers >= 0, "workers", "at least 0", self.workers)
