"""First step: a path to a Volume in HU with what was noticed about it, whatever the format."""

from pathlib import Path

from hilum.errors import HilumError, ReadError
from hilum.findings import Finding, find
from hilum.reading.dicom import Series, find_series, load
from hilum.reading.doctor import Examined, examine
from hilum.reading.identity import hashed, is_placeholder
from hilum.reading.images import detached_files, image_suffix, read_image
from hilum.reading.paths import source_files
from hilum.volume import Volume

__all__ = [
    "Examined",
    "Series",
    "detached_files",
    "examine",
    "find_series",
    "hashed",
    "image_suffix",
    "is_placeholder",
    "read",
    "source_files",
]


_LISTED = 12
"""More series than this are not listed in one line; ``hilum inspect`` has them all."""


def read(path: str | Path, *, series: str | None = None) -> Volume:
    """Read one scan: a DICOM folder or file, NIfTI, NRRD or MetaImage.

    Args:
        path: A folder with one DICOM series (at any depth) or one image file, or a file.
        series: Which series to take where there are several: its SeriesInstanceUID, or the hash that the error lists.

    Returns:
        A Volume in HU, axes feet to head, front to back, right to left.

    Raises:
        ReadError: If there is nothing to read, or more than one series and none is picked.
        GeometryError: If the slices form no volume.
    """
    path = Path(path)
    if not path.exists():
        msg = f"no file or folder {path}"
        raise ReadError(msg)
    try:
        if path.is_file() and image_suffix(path):
            return read_image(path)
        files = source_files(path)
        found, unreadable = find_series(files)
        if not found:
            images = [f for f in files if image_suffix(f)]
            if len(images) == 1:
                return read_image(images[0])
            raise ReadError(_nothing(path, images, unreadable))
        chosen = found[0] if len(found) == 1 and series is None else _picked(path, found, series)
        others = [find("mixed-series", f"one of {len(found)} series here")] if len(found) > 1 else []
        return load(chosen).with_findings(*unreadable, *others)
    except MemoryError as exc:
        msg = f"{path}: the scan does not fit into memory"
        raise ReadError(msg) from exc
    except HilumError as exc:
        if str(path) in str(exc):
            raise
        msg = f"{path}: {exc}"
        raise type(exc)(msg) from exc


def _picked(path: Path, found: list[Series], wanted: str | None) -> Series:
    listing = "; ".join(s.summary for s in found[:_LISTED]) + (" ..." if len(found) > _LISTED else "")
    if wanted is None:
        msg = f"{path} holds {len(found)} series, pick one with series: {listing}"
        raise ReadError(msg)
    chosen = [s for s in found if wanted == s.uid or (len(wanted) >= 4 and s.tags.series.startswith(wanted))]
    if len(chosen) != 1:
        msg = f"{path} holds no series {wanted}; there are: {listing}"
        raise ReadError(msg)
    return chosen[0]


def _nothing(path: Path, images: list[Path], unreadable: list[Finding]) -> str:
    if images:
        return f"{path} must hold one scan, holds {len(images)} image files: name one of them"
    if unreadable:
        return f"{path}: " + "; ".join(str(f) for f in unreadable[:3])
    kind = "folder" if path.is_dir() else "file"
    return (
        f"{path}: no CT in this {kind}; DICOM, NIfTI (.nii, .nii.gz), NRRD (.nrrd) and MetaImage (.mha, .mhd) are read"
    )
