"""Image files as they lie on disk: their suffixes, the text headers of NRRD and MetaImage, and where voxels are."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hilum.errors import GeometryError, ReadError
from hilum.reading.voxelfile import LONGEST_AXIS, Layout, checked_bytes, shown

ITK_FORMATS = {
    ".nii": "NiftiImageIO",
    ".nii.gz": "NiftiImageIO",
    ".nrrd": "NrrdImageIO",
    ".nhdr": "NrrdImageIO",
    ".mha": "MetaImageIO",
    ".mhd": "MetaImageIO",
}

_LONGEST_HEADER = 1 << 20
_INFLATION = 1032
"""Deflate makes nothing smaller than by this factor (https://zlib.net/zlib_tech.html)."""

_NRRD_TYPES = {
    **dict.fromkeys(["signed char", "int8", "int8_t"], "i1"),
    **dict.fromkeys(["uchar", "unsigned char", "uint8", "uint8_t"], "u1"),
    **dict.fromkeys(["short", "short int", "signed short", "signed short int", "int16", "int16_t"], "i2"),
    **dict.fromkeys(["ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"], "u2"),
    **dict.fromkeys(["int", "signed int", "int32", "int32_t"], "i4"),
    **dict.fromkeys(["uint", "unsigned int", "uint32", "uint32_t"], "u4"),
    **dict.fromkeys(["longlong", "long long", "long long int", "signed long long", "signed long long int"], "i8"),
    **dict.fromkeys(["int64", "int64_t"], "i8"),
    **dict.fromkeys(["ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"], "u8"),
    "float": "f4",
    "double": "f8",
}
_META_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip
_SPACES = {
    "lps", "left-posterior-superior", "ras", "right-anterior-superior", "las", "left-anterior-superior", "lpst", "rast",
    "last", "left-posterior-superior-time", "right-anterior-superior-time", "left-anterior-superior-time",
}  # fmt: skip
_YES, _NO = {"true", "t", "1"}, {"false", "f", "0"}
_PACKING = {"raw": "raw", "text": "text", "txt": "text", "ascii": "text", "hex": "hex", "gzip": "gzip", "gz": "gzip"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TextHeader:
    """The header of an NRRD or MetaImage file.

    Attributes:
        fields: Values by key; keys in small letters, without blanks.
        num_bytes: What it takes of its file.
        names: Of the files that hold the voxels, as they are written; empty where they follow the header.
        is_listed: Whether ``names`` has them all; else the header counts them up by a pattern.
    """

    fields: dict[str, str]
    num_bytes: int
    names: tuple[str, ...]
    is_listed: bool


def image_suffix(path: Path) -> str:
    """The suffix by which an image file is read, or an empty string."""
    name = path.name.lower()
    return next((s for s in ITK_FORMATS if name.endswith(s)), "")


def detached_files(path: Path) -> list[Path]:
    """The files that hold the voxels of a header; none where the file holds them itself.

    Where the header does not name them one by one, all files beside it.

    Raises:
        ReadError: If the header names a file in another folder.
    """
    if ITK_FORMATS.get(image_suffix(path)) not in {"NrrdImageIO", "MetaImageIO"} or not path.is_file():
        return []
    header = text_header(path)
    if not header.names:
        return []
    named = [path.parent / name for name in header.names]
    try:
        for file in named:
            if not file.resolve().is_relative_to(path.parent.resolve()):
                msg = f"{path.name} must hold its voxels or name files beside it, names one in another folder"
                raise ReadError(msg)
        if header.is_listed and all(file.is_file() for file in named):
            return named
        return [file for file in sorted(path.parent.iterdir()) if file.is_file() and file != path]
    except (OSError, ValueError, RuntimeError) as exc:  # too long a name, a zero in it, links in a circle
        msg = f"{path.name} cannot be read: the names of the files with its voxels are damaged"
        raise ReadError(msg) from exc


def text_header(path: Path) -> TextHeader:
    """The header of an NRRD or MetaImage file; what follows it is not read.

    Raises:
        ReadError: If it cannot be read, or says one thing twice.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST_HEADER)
    except OSError as exc:
        msg = f"{path.name} cannot be read: {exc.strerror or 'not a file'}"
        raise ReadError(msg) from exc
    is_nrrd = start.startswith(b"NRRD")
    fields: dict[str, str] = {}
    num_bytes = 0
    for line in re.findall(rb"[^\n]*\n|[^\n]+", start):
        num_bytes += len(line)
        if is_nrrd and not line.strip():
            break
        key, _, value = os.fsdecode(line).partition(":" if is_nrrd else "=")
        key = key.replace(" ", "").strip().lower()
        if line.startswith(b"#") or (is_nrrd and value.startswith("=") and key != "datafile"):
            continue
        if key in fields and key:
            msg = f"{path.name} cannot be read: its header says one thing twice"
            raise ReadError(msg)
        fields[key] = value.strip()
        if key == "elementdatafile" or (is_nrrd and value.split()[:1] == ["LIST"] and key == "datafile"):
            break
    place = fields.get("datafile" if is_nrrd else "elementdatafile", "")
    words = place.split()
    if words[:1] == ["LIST"]:
        listed = tuple(name for name in (os.fsdecode(line).strip() for line in start[num_bytes:].split(b"\n")) if name)
        return TextHeader(fields=fields, num_bytes=num_bytes, names=listed, is_listed=True)
    names = () if not place or (not is_nrrd and place.upper() == "LOCAL") else (place,)
    is_listed = not re.search(r"%\d*d", place)
    if not is_listed:
        names = (words[0],)
    return TextHeader(fields=fields, num_bytes=num_bytes, names=names, is_listed=is_listed)


def text_layout(path: Path, max_bytes: int) -> tuple[int, Layout | None]:
    """How many bytes of voxels an NRRD or MetaImage header promises, and where they lie, if that is simple to say.

    Raises:
        ReadError: If it promises nothing that can be, more than ``max_bytes``, or more than its files may hold.
    """
    header = text_header(path)
    fields = header.fields
    try:
        if ITK_FORMATS[image_suffix(path)] == "NrrdImageIO":
            axes, sizes = int(fields["dimension"]), [int(n) for n in fields["sizes"].split()]
            kind, packing, channels = _NRRD_TYPES[fields["type"]], _PACKING[fields["encoding"].lower()], 1
            skipped = [int(fields.get(key, "0")) for key in ("byteskip", "lineskip")]
            order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower(), "")
            is_simple = not any(skipped)
        else:
            axes, sizes = int(fields["ndims"]), [int(n) for n in fields["dimsize"].split()]
            kind, channels = _META_TYPES[fields["elementtype"]], int(fields.get("elementnumberofchannels", "1"))
            packing = "gzip" if fields.get("compresseddata", "").lower() in _YES else "raw"
            packing = "text" if fields.get("binarydata", "true").lower() in _NO else packing
            skipped = [int(fields.get("headersize", "0"))]
            msb = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "")).lower()
            order = "<" if msb in _NO else ">" if msb in _YES else ""
            is_simple = not (any(skipped) or "LONG" in fields["elementtype"] or any("function" in k for k in fields))
    except (KeyError, ValueError) as exc:
        msg = f"{path.name} cannot be read: its header does not say, or not rightly, what the voxels are"
        raise ReadError(msg) from exc
    if axes != len(sizes) or not 1 <= channels <= LONGEST_AXIS:
        msg = f"{path.name} cannot be read: it must have as many sizes as axes ({shown(axes)}), has {len(sizes)}"
        raise ReadError(msg)
    word = np.dtype(kind).itemsize
    promised = checked_bytes(path.name, sizes, word * channels, max_bytes)
    files = _files(path, header)
    held = sum(file.stat().st_size for file in files) - max(0, skipped[0])
    held -= 0 if header.names else header.num_bytes
    least = {
        "raw": promised,
        "text": promised // word,
        "hex": 2 * promised,
        "gzip": promised // _INFLATION - 1,
    }[packing]
    if held < least:
        msg = f"truncated-file: {path.name} cannot be read: it lacks {least - held} of the {least} bytes of its voxels"
        raise ReadError(msg)
    if not is_simple or channels != 1 or len(files) != 1 or packing not in {"raw", "gzip"} or (word > 1 and not order):
        return promised, None
    dtype = np.dtype((order or "=") + kind)
    start = 0 if header.names else header.num_bytes
    is_deflated = packing == "gzip"
    return promised, Layout(path=files[0], shape=tuple(sizes[::-1]), dtype=dtype, start=start, is_deflated=is_deflated)


def text_doubt(path: Path) -> str:
    """What an NRRD or MetaImage header leaves unclear about where the scan lies; empty if nothing.

    Raises:
        GeometryError: If it measures in another unit than mm, or along axes that are no unit vectors.
    """
    fields = text_header(path).fields
    if ITK_FORMATS[image_suffix(path)] == "NrrdImageIO":
        units = set(re.findall(r'"([^"]*)"', fields.get("spaceunits", "")))
        if not units <= {"mm", "", "???", "none"}:
            msg = f"{path.name} must be measured in mm, says another unit"
            raise GeometryError(msg)
        if fields.get("space", "").lower() not in _SPACES:
            return "the header does not name the patient's axes (space): left and right are a guess"
        return ""
    axes = int(fields["ndims"])
    given = next((fields[key] for key in ("transformmatrix", "rotation", "orientation") if key in fields), "")
    values = np.array([float(v) for v in given.split()] or np.eye(axes).ravel())
    if values.size == axes * axes and np.abs(np.linalg.norm(values.reshape(axes, axes), axis=1) - 1).max() > 1e-3:
        msg = f"{path.name} must have a TransformMatrix of unit vectors"
        raise GeometryError(msg)
    return "" if given else "the header has no TransformMatrix: left and right are a guess"


def _files(path: Path, header: TextHeader) -> list[Path]:
    """The files that hold the voxels, the header's own among them."""
    files = detached_files(path)  # refuses a header that names files elsewhere
    if not header.names:
        return [path]
    if header.is_listed and not all((path.parent / name).is_file() for name in header.names):
        msg = f"{path.name} cannot be read: its voxels are missing, they must lie beside it in the file that it names"
        raise ReadError(msg)
    return files
