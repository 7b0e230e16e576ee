"""Image files as they lie on disk: their suffixes, the text headers of NRRD and MetaImage, and where voxels are."""

import gzip
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hilum.errors import ReadError
from hilum.findings import printable

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
"""Header sizes of NIfTI-1 (and ANALYZE) and of NIfTI-2, the first number in the header."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TextHeader:
    """The header of an NRRD or MetaImage file.

    Attributes:
        is_nrrd: Whether it is an NRRD's, else a MetaImage's.
        fields: Values by key; keys in small letters, without blanks.
        num_bytes: Length of the header in its file.
        names: Names of the files that hold the voxels, as written; empty where the voxels follow the header.
        is_listed: Whether ``names`` lists all files; else the header numbers them by a pattern.
    """

    is_nrrd: bool
    fields: dict[str, str]
    num_bytes: int
    names: tuple[str, ...]
    is_listed: bool


def is_image(path: Path) -> bool:
    """Whether the suffix is an image's.

    A .hdr must also begin with the header size of NIfTI or ANALYZE, because other programs use .hdr too.
    """
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


def unreadable_image(why: str, *, path: Path | None = None, code: str | None = None) -> ReadError:
    """The error of an image file that cannot be read."""
    return ReadError(f"cannot be read: {why}", path=path, code=code)


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
    msg = f"its voxels are missing, they must lie beside it as {printable(names[0])}"
    raise unreadable_image(msg, path=path)


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
                msg = "must hold its voxels or name files beside it, names one in another folder"
                raise ReadError(msg, path=path)
        if header.is_listed and all(file.is_file() for file in named):
            return named
        return [file for file in sorted(path.parent.iterdir()) if file.is_file() and file != path]
    except (OSError, ValueError, RuntimeError) as exc:  # too long a name, a zero in it, links in a circle
        msg = "the names of the files with its voxels are damaged"
        raise unreadable_image(msg, path=path) from exc


def text_header(path: Path) -> TextHeader:
    """The header of an NRRD or MetaImage file; what follows it is not read.

    Raises:
        ReadError: If it cannot be read, or says one thing twice.
    """
    try:
        with path.open("rb") as file:
            start = file.read(_LONGEST_HEADER)
    except OSError as exc:
        raise unreadable_image(exc.strerror or "not a file", path=path) from exc
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
            msg = "its header says one thing twice"
            raise unreadable_image(msg, path=path)
        fields[key] = value.strip()
        if key == "elementdatafile" or (is_nrrd and value.split()[:1] == ["LIST"] and key == "datafile"):
            break
    place = fields.get("datafile" if is_nrrd else "elementdatafile", "")
    words = place.split()
    if words[:1] == ["LIST"]:
        listed = tuple(name for name in (os.fsdecode(line).strip() for line in start[num_bytes:].split(b"\n")) if name)
        return TextHeader(is_nrrd=is_nrrd, fields=fields, num_bytes=num_bytes, names=listed, is_listed=True)
    names = () if not place or (not is_nrrd and place.upper() == "LOCAL") else (place,)
    is_listed = not re.search(r"%\d*d", place)
    if not is_listed:
        names = (words[0],)
    return TextHeader(is_nrrd=is_nrrd, fields=fields, num_bytes=num_bytes, names=names, is_listed=is_listed)
