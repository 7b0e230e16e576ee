"""Reads a path of any format as a Volume in HU with findings."""

from dataclasses import replace
from pathlib import Path

from hilum.errors import GeometryError, HilumError, ReadError
from hilum.files import user_path
from hilum.findings import Finding, refusals
from hilum.reading.dicom.pixels import load_series
from hilum.reading.dicom.series import find_series
from hilum.reading.hu_check import check_hu
from hilum.reading.images.files import image_suffix, is_image
from hilum.reading.images.reader import read_image
from hilum.reading.paths import Tree, opened_tree
from hilum.reading.select import choose_series
from hilum.reading.source import ScanSource, source_of
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume


def read(path: str | Path, *, series: str | None = None, reading: ReadingConfig | None = None) -> Volume:
    """Read one scan: a DICOM folder or file, a DICOMDIR, NIfTI, NRRD or MetaImage, or a zip or tar of one.

    Args:
        path: A folder, at any depth, an archive or a file; a DICOMDIR stands for the folder it lies in.
        series: The series to take where there are several: its SeriesInstanceUID, the hash that ``hilum inspect``
            lists, or a rule of ``select.RULES`` such as ``thinnest``. None takes the best of one study, if one is.
        reading: Policy for irregular scans, and the largest size of a scan.

    Returns:
        A Volume in HU, axes feet to head, front to back, right to left.

    Raises:
        ReadError: If there is nothing to read, or no series is the one to take.
        GeometryError: If the slices form no volume, or a finding refuses what they form.
    """
    return read_source(path, series=series, reading=reading).volume


def read_source(
    path: str | Path, *, series: str | None = None, reading: ReadingConfig | None = None, headers: bool = False
) -> ScanSource:
    """Read one scan as ``read`` does, and keep what its slices were.

    Args:
        path: See ``read``.
        series: See ``read``.
        reading: See ``read``.
        headers: Keep the headers of DICOM files, for objects that return to their source.

    Raises:
        ReadError: If there is nothing to read, or no series is the one to take.
        GeometryError: If the slices form no volume, or a finding refuses what they form.
    """
    path, reading = user_path(path), reading or ReadingConfig()
    try:
        with opened_tree(path, reading) as tree:
            source = _source(path, tree, series, reading, headers=headers)
            volume = source.volume
            return replace(source, volume=_accepted(volume.with_findings(*check_hu(volume, reading.rules)[1])))
    except MemoryError as exc:
        msg = "the scan does not fit into memory"
        raise ReadError(msg, path=path) from exc
    except HilumError as exc:
        exc.path = path
        raise


def _source(path: Path, tree: Tree, series: str | None, reading: ReadingConfig, *, headers: bool) -> ScanSource:
    found, unreadable = find_series(tree.files, reading, where=tree.where, incomplete=tree.incomplete)
    unreadable = [*tree.findings, *unreadable]
    if found:
        chosen, others = choose_series(found, series)
        volume = load_series(chosen).with_findings(*unreadable, *others)
        return source_of(chosen, volume, headers=headers)
    images = image_files(tree, path)  # none of them is DICOM, whatever it is called
    if len(images) == 1:
        return ScanSource(volume=_image(images[0], path, tree, reading).with_findings(*unreadable))
    raise ReadError(_nothing(path, images, unreadable))


def image_files(tree: Tree, path: Path) -> list[Path]:
    """The image files, by their names; also the file that was asked for if it is another program's .hdr."""
    return [file for file in tree.files if is_image(file) or (file == path and image_suffix(file))]


def _image(file: Path, path: Path, tree: Tree, reading: ReadingConfig) -> Volume:
    try:
        return read_image(file, reading)
    except ReadError as exc:
        if file == path:
            raise
        msg = f"{tree.where(file)}: {exc.message}"  # its own path may be that of an unpacked archive
        raise type(exc)(msg, code=exc.code) from exc


def _accepted(volume: Volume) -> Volume:
    """The volume, unless a finding refuses it."""
    refused = [f for f in refusals(volume.findings) if f.code not in ("unreadable-file", "unsafe-archive")]
    if refused:
        raise GeometryError("; ".join(map(str, refused)), code=refused[0].code)
    return volume


def _nothing(path: Path, images: list[Path], unreadable: list[Finding]) -> str:
    if images:
        return f"must hold one scan, holds {len(images)} image files: name one of them"
    if unreadable:
        return "; ".join(str(f) for f in unreadable[:3])
    kind = "folder" if path.is_dir() else "file"
    return (
        f"no CT in this {kind}; DICOM, NIfTI (.nii, .nii.gz, .hdr of a pair), NRRD (.nrrd) and "
        "MetaImage (.mha, .mhd) are read"
    )
