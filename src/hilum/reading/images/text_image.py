"""Reads NRRD and MetaImage files with ITK, and checks what ITK misreads or does not report.

The formats are defined at https://teem.sourceforge.net/nrrd/format.html and https://docs.itk.org/en/latest/learn/metaio.html.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from hilum.errors import GeometryError
from hilum.reading.images.files import TextHeader, detached_files, image_format, unreadable_image
from hilum.reading.images.inflate import inflate_voxels
from hilum.reading.images.placement import (
    LONGEST_AXIS,
    UNCLEAR,
    UNPLACED,
    Doubt,
    Placement,
    check_axes,
    check_channels,
    checked_sizes,
    known_spacing,
    placement,
    short,
    truncated,
)

_INFLATION = 1032
"""Deflate makes nothing smaller than by this factor (https://zlib.net/zlib_tech.html)."""

_META_TYPES = frozenset(
    [
        "MET_CHAR", "MET_UCHAR", "MET_SHORT", "MET_USHORT", "MET_INT", "MET_UINT", "MET_LONG", "MET_ULONG",
        "MET_LONG_LONG", "MET_ULONG_LONG", "MET_FLOAT", "MET_DOUBLE",
    ]
)  # fmt: skip
_YES, _NO = {"true", "t", "1"}, {"false", "f", "0"}
_PACKING = {"raw": "raw", "text": "text", "txt": "text", "ascii": "text", "hex": "hex", "gzip": "gzip", "gz": "gzip"}
_UNSUPPORTED = {"bzip2", "bz2", "zrl", "block"}
"""Encodings and a type of NRRD that Hilum does not read."""

_PATIENT_SPACES = {
    "lps", "left-posterior-superior", "ras", "right-anterior-superior", "las", "left-anterior-superior",
}  # fmt: skip
"""Spaces of an NRRD whose axes are the patient's."""

_IN_SPACE = {"domain", "space", "???", "none", ""}
_NO_SIDES = "left and right, and points in mm, cannot be trusted"
_NO_POINTS = "points in mm cannot be trusted"
_NOTHING_LACKS = np.zeros(3, bool)

MM_PER_UNIT = {
    **dict.fromkeys(["", "?", "???", "none", "unknown"], 1.0),  # mm, as other readers take it
    **dict.fromkeys(["mm", "millimeter", "millimeters", "millimetre", "millimetres"], 1.0),
    **dict.fromkeys(["cm", "centimeter", "centimeters", "centimetre", "centimetres"], 10.0),
    **dict.fromkeys(["m", "meter", "meters", "metre", "metres"], 1000.0),
    **dict.fromkeys(["um", "micrometer", "micrometers", "micrometre", "micrometres", "micron", "microns"], 1e-3),
    **dict.fromkeys(["\u00b5m", "\u03bcm", "\udcb5m"], 1e-3),  # the micro sign, the Greek letter, the sign in Latin-1
}


def check_storage(path: Path, header: TextHeader) -> list[Path]:
    """Make sure that a header says how its voxels are stored, in a way that ITK reads rightly.

    Returns:
        The files that hold the voxels.

    Raises:
        ReadError: If it does not, or names files that are missing or in another folder.
    """
    fields = header.fields
    try:
        if image_format(path) == "nrrd":
            axes, sizes = int(fields["dimension"]), [int(n) for n in fields["sizes"].split()]
            channels = 1
            _require_supported("type", fields["type"], fields["type"].lower() not in _UNSUPPORTED)
            _require_supported("encoding", fields["encoding"], fields["encoding"].lower() in _PACKING)
        else:
            axes, sizes = int(fields["ndims"]), [int(n) for n in fields["dimsize"].split()]
            channels = int(fields.get("elementnumberofchannels", "1"))
            _require_supported("ElementType", fields["elementtype"], fields["elementtype"] in _META_TYPES)
            if _packing(header) == "text" and _msb(header):
                msg = "text has no byte order, its BinaryDataByteOrderMSB must be False"
                raise unreadable_image(msg)  # ITK would swap the bytes of its numbers
    except (KeyError, ValueError) as exc:
        msg = "its header does not say, or not rightly, what the voxels are"
        raise unreadable_image(msg) from exc
    if axes != len(sizes) or not 1 <= channels <= LONGEST_AXIS:
        msg = f"it must have as many sizes as axes ({short(axes)}), has {len(sizes)}"
        raise unreadable_image(msg)
    check_axes(sizes)
    check_channels(channels)
    files = detached_files(path) or [path]
    if header.is_listed and not all((path.parent / name).is_file() for name in header.names):
        msg = "its voxels are missing, they must lie beside it in the file that it names"
        raise unreadable_image(msg)
    return files


def check_length(files: list[Path], header: TextHeader, num_voxels: int, num_bytes: int) -> None:
    """Make sure that the files of an image can hold all voxels, before memory is allocated for them.

    Raises:
        ReadError: If they cannot.
    """
    header_size = _header_size(header)
    start = header_size if header.names else header.num_bytes
    packing = _packing(header)
    skipped = 0 if packing == "gzip" else _nrrd_skip(header, "byteskip")
    held = sum(file.stat().st_size for file in files) - max(0, start) - max(0, skipped)
    least = {"raw": num_bytes, "text": num_voxels, "hex": 2 * num_bytes, "gzip": num_bytes // _INFLATION - 1}[packing]
    if held < least:
        raise truncated(least - max(0, held), least)


def inflated_voxels(path: Path, header: TextHeader, dtype: np.dtype, num_voxels: int) -> np.ndarray | None:
    """The stored values of a compressed image, (voxel,); None if the image is not compressed.

    ITK is not used for them: it trusts CompressedDataSize, and returns other numbers where a stream is damaged.

    Args:
        path: The image.
        header: Its header.
        dtype: Type of the stored values.
        num_voxels: Number of voxels in all files.

    Raises:
        ReadError: If a stream is damaged, or a file holds fewer bytes than its share, or one of several more.
    """
    if _packing(header) != "gzip":
        return None
    files = _files_in_order(path, header)
    if num_voxels % len(files):
        msg = f"its {num_voxels} voxels cannot be shared out among {len(files)} files"
        raise unreadable_image(msg)
    is_big = header.fields.get("endian", "").lower() == "big" if header.is_nrrd else _msb(header)
    voxels = np.empty(num_voxels, dtype.newbyteorder(">" if is_big else "<"))
    skip = _nrrd_skip(header, "byteskip")
    for file, part in zip(files, np.split(voxels, len(files)), strict=True):
        if inflate_voxels(part, file, _stream_start(file, header), skip=skip) and len(files) > 1:
            msg = f"each of its {len(files)} files must hold {part.nbytes} bytes of voxels, one holds more"
            raise unreadable_image(msg)
    return voxels


def _files_in_order(path: Path, header: TextHeader) -> list[Path]:
    """The files that hold the voxels, in the order of the slices; a pattern with numbers is expanded."""
    if not header.names:
        return [path]
    names = [*header.names]
    if not header.is_listed:
        place = header.fields["datafile" if header.is_nrrd else "elementdatafile"].split()
        found = re.fullmatch(r"([^%]*)%(0?)(\d?)d([^%]*)", place[0])
        first, last, step = (int(word) for word in place[1:4])
        numbers = range(first, last + (1 if step > 0 else -1), step)
        if found is None or not 0 < len(numbers) <= LONGEST_AXIS:
            msg = "the pattern of its file names is damaged"
            raise unreadable_image(msg)
        before, zero, width, after = found.groups()
        names = [f"{before}{number:{zero}{width}d}{after}" for number in numbers]
    return [path.parent / name for name in names]


def _stream_start(file: Path, header: TextHeader) -> int:
    """Byte of a file at which its compressed voxels begin."""
    start = _header_size(header) if header.names else header.num_bytes
    lines = _nrrd_skip(header, "lineskip")
    if lines <= 0:
        return start
    with file.open("rb") as opened:
        opened.seek(start)
        for _ in range(lines):
            if not opened.readline():
                break
        return opened.tell()


def _header_size(header: TextHeader) -> int:
    """HeaderSize of a MetaImage: bytes from the start of a file to its voxels; -1: the voxels are at its end.

    Raises:
        ReadError: If it is not where the voxels follow the header, or is -1 and the voxels are compressed.
    """
    size = 0 if header.is_nrrd else int(header.fields.get("headersize", "0"))
    is_place = size >= 0 if header.names else size in (0, header.num_bytes)
    if not is_place and (size != -1 or _packing(header) == "gzip"):
        msg = f"its HeaderSize must be where its voxels begin, is {short(size)}"
        raise unreadable_image(msg)
    return size


def _nrrd_skip(header: TextHeader, key: str) -> int:
    """A number of bytes or lines to skip; a MetaImage has none, whatever keys of its own it holds."""
    return int(header.fields.get(key, "0")) if header.is_nrrd else 0


def _msb(header: TextHeader) -> bool:
    """Whether the voxels of a MetaImage are stored with the most significant byte first."""
    fields = header.fields
    return fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "")).lower() in _YES


def _packing(header: TextHeader) -> str:
    """How voxels are encoded: raw, text, hex or gzip."""
    if header.is_nrrd:
        return _PACKING[header.fields["encoding"].lower()]
    is_compressed = _is_true("CompressedData", header.fields, default="false")
    is_binary = _is_true("BinaryData", header.fields, default="true")
    return "text" if not is_binary else "gzip" if is_compressed else "raw"


def _require_supported(what: str, value: str, is_supported: bool) -> None:
    """Refuse a value of a header that is not supported; the message names it if the format defines it."""
    if not is_supported:
        is_known = value.lower() in _UNSUPPORTED or re.fullmatch(r"MET_[A-Z_]{1,30}", value)
        msg = f"its {what} {value} is not supported" if is_known else f"its {what} is not supported"
        raise unreadable_image(msg)


def _is_true(what: str, fields: dict[str, str], *, default: str) -> bool:
    value = fields.get(what.lower(), default).lower()
    if value not in _YES | _NO:
        msg = f"its {what} must be True or False"
        raise unreadable_image(msg)
    return value in _YES


def text_placement(path: Path, header: TextHeader, reader: Any) -> Placement:
    """Position of the voxels of an NRRD or MetaImage file in space.

    Args:
        path: The file.
        header: Its header.
        reader: ITK's reader, after it has read the header.

    Raises:
        ReadError: If the header contradicts itself.
        GeometryError: If it is no volume, or not measured in a unit that is known.
    """
    num_axes = reader.GetDimension()
    directions = np.array(reader.GetDirection()).reshape(num_axes, num_axes)
    spacing, origin = np.array(reader.GetSpacing()), np.array(reader.GetOrigin())
    if image_format(path) == "nrrd":
        return _nrrd_placement(header.fields, directions, spacing, origin)
    return _meta_placement(header.fields, directions, spacing, origin)


def _nrrd_placement(
    fields: dict[str, str], directions: np.ndarray, spacing: np.ndarray, origin: np.ndarray
) -> Placement:
    """The placement of an NRRD; ITK has made the axes LPS and refused contradictions, but ignores units."""
    sizes = [int(n) for n in fields["sizes"].split()]
    vectors = re.findall(r"\([^()]*\)|[^\s()]+", fields.get("spacedirections", "")) or [""] * len(sizes)
    axes = _axes_in_space(fields, sizes, vectors)
    itk_axes = axes if len(spacing) == len(sizes) else range(3)  # it has no axis without a direction
    spacing, doubts = spacing[itk_axes], list[Doubt]()
    if "spacedirections" in fields:
        if directions.shape != (3, 3):
            msg = f"the image must have 3 spatial axes, has {len(directions)}"
            raise GeometryError(msg)
        lacks = np.array(["nan" in vectors[axis].lower() for axis in axes])
        if fields.get("space", "").lower() not in _PATIENT_SPACES:
            doubts.append((UNPLACED, f"the header does not name the patient's axes (space): {_NO_SIDES}"))
    else:
        directions = np.eye(3)
        words = fields.get("spacings", " nan" * len(sizes)).lower().split()
        lacks = np.array(["nan" in words[axis] for axis in axes])
        spacing = spacing * _units_mm(fields.get("units", ""), axes)
        doubts.append((UNPLACED, f"the header gives no directions (space directions): {_NO_SIDES}"))
    world_mm = _units_mm(fields.get("spaceunits", ""), range(3))
    spacing_mm, missing = known_spacing(spacing, lacks)
    if "nan" in fields.get("spaceorigin", "nan").lower():
        doubts.append((UNPLACED, f"the header gives no origin (space origin): {_NO_POINTS}"))
    steps = directions * spacing_mm * np.where(lacks, 1.0, world_mm[:, None])
    return placement([sizes[a] for a in axes], steps, origin[:3] * world_mm, [*missing, *doubts])


def _axes_in_space(fields: dict[str, str], sizes: list[int], vectors: list[str]) -> list[int]:
    """The three axes that run through space; the others must be of length 1."""
    kinds = fields.get("kinds", "").lower().split() or [""] * len(sizes)
    axes = [a for a, kind in enumerate(kinds) if kind in _IN_SPACE and vectors[a] != "none"]
    if len(axes) > 3:
        axes = [a for a in axes if sizes[a] > 1]
    for axis, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        if axis not in axes and size > 1 and kind != "time":
            check_channels("complex ones" if kind == "complex" else size)
    checked_sizes([*(sizes[a] for a in axes), *(n for a, n in enumerate(sizes) if a not in axes)])
    return axes


def _units_mm(quoted: str, axes: "range | list[int]") -> np.ndarray:
    """Millimetres in the unit of each axis, of units in quotation marks; mm where none are given."""
    units = re.findall(r'"([^"]*)"', quoted) or [""] * (1 + max(axes))
    return np.array([mm_per(units[axis]) for axis in axes])


def _meta_placement(
    fields: dict[str, str], directions: np.ndarray, spacing: np.ndarray, origin: np.ndarray
) -> Placement:
    """The placement of a MetaImage; ITK accepts headers with contradictions, too few numbers or invalid ones.

    ElementSize is the extent of a voxel, not the distance to the next.
    """
    num_axes = len(spacing)
    sizes = checked_sizes([int(n) for n in fields["dimsize"].split()])
    unit_mm = mm_per(fields.get("distanceunits", ""))
    given = _numbers(fields, ("ElementSpacing",), num_axes)
    lacks = _NOTHING_LACKS if given is not None else ~_NOTHING_LACKS
    spacing_mm, doubts = known_spacing((spacing if given is None else given)[:3] * unit_mm, lacks)
    matrix = _numbers(fields, ("TransformMatrix", "Rotation", "Orientation"), num_axes**2)
    directions = directions[:3, :3]
    if matrix is None:
        doubts.append((UNPLACED, f"the header gives no directions (TransformMatrix): {_NO_SIDES}"))
    elif not np.abs(np.linalg.norm(matrix.reshape(num_axes, num_axes), axis=1) - 1).max() <= 1e-3:
        msg = "must have a TransformMatrix of unit vectors"
        raise GeometryError(msg)
    centre = _numbers(fields, ("CenterOfRotation",), num_axes)
    if centre is not None and centre.any() and not np.array_equal(directions, np.eye(3)):
        message = (
            "the header has a CenterOfRotation beside a TransformMatrix; Offset is taken as the first voxel's place"
        )
        doubts.append((UNCLEAR, message))
    offset = _numbers(fields, ("Offset", "Position", "Origin"), num_axes)
    if offset is None or np.isnan(offset).any():
        doubts.append((UNPLACED, f"the header gives no origin (Offset): {_NO_POINTS}"))
    return placement(sizes, directions * spacing_mm, origin[:3] * unit_mm, doubts)


def mm_per(unit: str) -> float:
    """Millimetres in a unit as headers write it; a unit that is not named is taken as mm.

    Raises:
        GeometryError: If it is no length that is known.
    """
    factor = MM_PER_UNIT.get(unit.strip().lower())
    if factor is None:
        msg = "must be measured in mm, cm, m or um, says another unit"
        raise GeometryError(msg)
    return factor


def _numbers(fields: dict[str, str], names: tuple[str, ...], count: int) -> np.ndarray | None:
    """The numbers of a field, which may have several names; None where the header has none of them."""
    given = [key for key in names if key.lower() in fields]
    values = []
    for key in given:
        words = fields[key.lower()].split()
        if len(words) != count:
            msg = f"its header must have {count} values as {key}, has {len(words)}"
            raise unreadable_image(msg)
        try:
            values.append(np.array([float(word.replace("_", "?")) for word in words]))  # 1_0 is one for Python alone
        except ValueError as exc:
            msg = f"its header must have numbers as {key}"
            raise unreadable_image(msg) from exc
    if any(not np.array_equal(values[0], other, equal_nan=True) for other in values[1:]):
        msg = f"its header contradicts itself in {' and '.join(given)}"
        raise unreadable_image(msg)
    return values[0] if values else None
