"""First step: a path to a Volume in HU with what was noticed about it, whatever the format."""

from pathlib import Path

from hilum.errors import GeometryError, HilumError, ReadError
from hilum.findings import Finding, refusals
from hilum.reading.archives.unpack import has_archive_name
from hilum.reading.dicom.pixels import load
from hilum.reading.dicom.series import Series, find_series
from hilum.reading.doctor import Examined, examine
from hilum.reading.hounsfield import check_hu
from hilum.reading.identity import hashed, hashed_all, is_placeholder
from hilum.reading.images.reader import detached_files, image_suffix, is_image, read_image
from hilum.reading.paths import Tree, opened, source_files
from hilum.reading.select import choose, rate
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume

__all__ = [
    "Examined",
    "Series",
    "Tree",
    "detached_files",
    "examine",
    "find_series",
    "has_archive_name",
    "hashed",
    "hashed_all",
    "is_image",
    "is_placeholder",
    "opened",
    "rate",
    "read",
    "source_files",
]


def read(path: str | Path, *, series: str | None = None, reading: ReadingConfig | None = None) -> Volume:
    """Read one scan: a DICOM folder or file, a DICOMDIR, NIfTI, NRRD or MetaImage, or a zip or tar of one.

    Args:
        path: A folder, at any depth, an archive or a file.
        series: Which series to take where there are several: its SeriesInstanceUID, the hash that ``hilum inspect``
            lists, or a rule of ``select.RULES`` such as ``thinnest``. None takes the best of one study, if one is.
        reading: What is done about odd scans, and how large one may be.

    Returns:
        A Volume in HU, axes feet to head, front to back, right to left.

    Raises:
        ReadError: If there is nothing to read, or no series is the one to take.
        GeometryError: If the slices form no volume, or a finding refuses what they form.
    """
    path, reading = Path(path), reading or ReadingConfig()
    try:
        with opened(path, reading) as tree:
            volume = _volume(path, tree, series, reading)
            return _accepted(volume.with_findings(*check_hu(volume, reading.rules)[1]))
    except MemoryError as exc:
        msg = f"{path}: the scan does not fit into memory"
        raise ReadError(msg) from exc
    except HilumError as exc:
        if str(path) in str(exc):
            raise
        msg = f"{path}: {exc}"
        raise type(exc)(msg) from exc


def _volume(path: Path, tree: Tree, series: str | None, reading: ReadingConfig) -> Volume:
    found, unreadable = find_series(tree.files, reading, where=tree.where, incomplete=tree.incomplete)
    unreadable = [*tree.findings, *unreadable]
    if found:
        chosen, others = choose(found, series)
        return load(chosen).with_findings(*unreadable, *others)
    images = [
        f for f in tree.files if is_image(f) or (f == path and image_suffix(f))
    ]  # none of them is DICOM, whatever it is called
    if len(images) == 1:
        return read_image(images[0], reading).with_findings(*unreadable)
    raise ReadError(_nothing(path, images, unreadable))


def _accepted(volume: Volume) -> Volume:
    """The volume, unless what its voxels are refuses it."""
    refused = [f for f in refusals(volume.findings) if f.code not in ("unreadable-file", "unsafe-archive")]
    if refused:
        raise GeometryError("; ".join(map(str, refused)))
    return volume


def _nothing(path: Path, images: list[Path], unreadable: list[Finding]) -> str:
    if images:
        return f"{path} must hold one scan, holds {len(images)} image files: name one of them"
    if unreadable:
        return f"{path}: " + "; ".join(str(f) for f in unreadable[:3])
    kind = "folder" if path.is_dir() else "file"
    return (
        f"{path}: no CT in this {kind}; DICOM, NIfTI (.nii, .nii.gz, .hdr of a pair), NRRD (.nrrd) and "
        "MetaImage (.mha, .mhd) are read"
    )
