"""Image files as they lie on disk: their suffixes, the text headers of NRRD and MetaImage, and where voxels are."""

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from hilum.errors import ReadError
from hilum.findings import printable
from hilum.reading.images.voxel_file import LONGEST_AXIS, Layout, checked_bytes, shown

ImageFormat = Literal["nifti", "nrrd", "meta"]

_FORMATS: dict[str, ImageFormat] = {
    ".nii": "nifti",
    ".nii.gz": "nifti",
    ".hdr": "nifti",
    ".hdr.gz": "nifti",
    ".nrrd": "nrrd",
    ".nhdr": "nrrd",
    ".mha": "meta",
    ".mhd": "meta",
}

_LONGEST_HEADER = 1 << 20
_HEADER_SIZES = (348, 540)
"""With which the headers of NIfTI-1 (and ANALYZE) and of NIfTI-2 begin."""
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
_YES, _NO = {"true", "t", "1"}, {"false", "f", "0"}
_PACKING = {"raw": "raw", "text": "text", "txt": "text", "ascii": "text", "hex": "hex", "gzip": "gzip", "gz": "gzip"}
_UNSUPPORTED = {"bzip2", "bz2", "zrl", "block"}
"""Encodings and a type of NRRD that exist and are not read."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLayout:
    """The voxels that an NRRD or MetaImage header promises.

    Attributes:
        sizes: Of the header's axes, the fastest first.
        num_bytes: Of all of them, as they are stored.
        layout: Where they lie; None where that is not simple to say: text, several files, bytes to be skipped.
    """

    sizes: list[int]
    num_bytes: int
    layout: Layout | None


def is_image(path: Path) -> bool:
    """True for a file that is named as an image is; other programs' headers are called .hdr, too, and are none."""
    suffix = image_suffix(path)
    if suffix not in (".hdr", ".hdr.gz"):
        return bool(suffix)
    try:
        with gzip.open(path) if suffix.endswith(".gz") else path.open("rb") as file:
            start = file.read(4)
    except (OSError, EOFError, zlib.error):
        return True  # reading it says what is wrong
    return any(int.from_bytes(start, order) in _HEADER_SIZES for order in ("little", "big"))


def image_suffix(path: Path) -> str:
    """The suffix by which an image file is read, or an empty string."""
    name = path.name.lower()
    return next((s for s in _FORMATS if name.endswith(s)), "")


def image_format(path: Path) -> ImageFormat:
    """The format of an image file, by its suffix."""
    return _FORMATS[image_suffix(path)]


def nifti_voxel_file(path: Path) -> Path:
    """The file that holds the voxels of a NIfTI header: itself, or for ``x.hdr`` the file ``x.img`` beside it.

    Raises:
        ReadError: If there is none.
    """
    suffix = image_suffix(path)
    if not suffix.startswith(".hdr"):
        return path
    stem = path.name[: -len(suffix)]
    names = [f"{stem}{image}{gz}" for gz in sorted(["", ".gz"], key=suffix[4:].__ne__) for image in (".img", ".IMG")]
    for name in names:
        if (path.parent / name).is_file():
            return path.parent / name
    msg = f"{path.name} cannot be read: its voxels are missing, they must lie beside it as {printable(names[0])}"
    raise ReadError(msg)


def detached_files(path: Path) -> list[Path]:
    """The files that hold the voxels of a header; none where the file holds them itself.

    Where the header does not name them one by one, all files beside it.

    Raises:
        ReadError: If the header names a file in another folder, or is that of a NIfTI pair without its other file.
    """
    if not image_suffix(path) or not path.is_file():
        return []
    if image_format(path) == "nifti":
        file = nifti_voxel_file(path)
        return [] if file == path else [file]
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


def text_layout(path: Path, header: TextHeader, max_bytes: int) -> TextLayout:
    """How many bytes of voxels an NRRD or MetaImage header promises, and where they lie, if that is simple to say.

    Raises:
        ReadError: If it promises nothing that can be, more than ``max_bytes``, or more than its files may hold.
    """
    fields = header.fields
    try:
        if image_format(path) == "nrrd":
            axes, sizes = int(fields["dimension"]), [int(n) for n in fields["sizes"].split()]
            kind = _supported(path.name, "type", fields["type"], _NRRD_TYPES)
            packing = _supported(path.name, "encoding", fields["encoding"].lower(), _PACKING)
            channels = 1
            skipped = [int(fields.get(key, "0")) for key in ("byteskip", "lineskip")]
            order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower(), "")
            is_simple = not any(skipped)
        else:
            axes, sizes = int(fields["ndims"]), [int(n) for n in fields["dimsize"].split()]
            kind = _supported(path.name, "ElementType", fields["elementtype"], _META_TYPES)
            channels = int(fields.get("elementnumberofchannels", "1"))
            packing = "gzip" if _is_true(path.name, "CompressedData", fields, default="false") else "raw"
            packing = packing if _is_true(path.name, "BinaryData", fields, default="true") else "text"
            skipped = [int(fields.get("headersize", "0"))]
            msb = fields.get("binarydatabyteordermsb", fields.get("elementbyteordermsb", "")).lower()
            order = "<" if msb in _NO else ">" if msb in _YES else ""
            if packing == "text" and order == ">":
                msg = f"{path.name} cannot be read: text has no byte order, its BinaryDataByteOrderMSB must be False"
                raise ReadError(msg)  # ITK would swap the bytes of its numbers
            is_simple = not (any(skipped) or "LONG" in fields["elementtype"] or any("function" in k for k in fields))
    except (KeyError, ValueError) as exc:
        msg = f"{path.name} cannot be read: its header does not say, or not rightly, what the voxels are"
        raise ReadError(msg) from exc
    if axes != len(sizes) or not 1 <= channels <= LONGEST_AXIS:
        msg = f"{path.name} cannot be read: it must have as many sizes as axes ({shown(axes)}), has {len(sizes)}"
        raise ReadError(msg)
    if channels != 1:
        msg = f"{path.name} must have one real value in each voxel, has {channels}"
        raise ReadError(msg)
    word = np.dtype(kind).itemsize
    promised = checked_bytes(path.name, sizes, word, max_bytes)
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
    layout = None
    if is_simple and len(files) == 1 and packing in {"raw", "gzip"} and (word == 1 or order):
        layout = Layout(
            path=files[0],
            shape=tuple(sizes[::-1]),
            dtype=np.dtype((order or "=") + kind),
            start=0 if header.names else header.num_bytes,
            is_deflated=packing == "gzip",
        )
    return TextLayout(sizes=sizes, num_bytes=promised, layout=layout)


def _supported(name: str, what: str, value: str, known: dict[str, str]) -> str:
    """What a word of a header stands for; another one is named in the error where the format knows it."""
    if value in known:
        return known[value]
    is_known = value.lower() in _UNSUPPORTED or re.fullmatch(r"MET_[A-Z_]{1,30}", value)
    msg = f"{name} cannot be read: its {what} {f'{value} ' if is_known else ''}is not supported"
    raise ReadError(msg)


def _is_true(name: str, what: str, fields: dict[str, str], *, default: str) -> bool:
    value = fields.get(what.lower(), default).lower()
    if value not in _YES | _NO:
        msg = f"{name} cannot be read: its {what} must be True or False"
        raise ReadError(msg)
    return value in _YES


def _files(path: Path, header: TextHeader) -> list[Path]:
    """The files that hold the voxels, the header's own among them."""
    files = detached_files(path)  # refuses a header that names files elsewhere
    if not header.names:
        return [path]
    if header.is_listed and not all((path.parent / name).is_file() for name in header.names):
        msg = f"{path.name} cannot be read: its voxels are missing, they must lie beside it in the file that it names"
        raise ReadError(msg)
    return files
