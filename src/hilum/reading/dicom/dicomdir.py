"""Finds files that the DICOMDIR of a CD names but that are missing; the DICOMDIR itself stands for its folder."""

import re
from collections.abc import Iterable
from pathlib import Path

_LONGEST = 1 << 28
"""Bytes of a DICOMDIR that are looked at; one of 10,000 images has some 5 MB, with an icon of each some 100 MB."""

_CLASS = b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10"
"""MediaStorageSOPClassUID of a DICOMDIR; file meta information is always explicit VR little endian (PS3.10 7.1)."""

_FILE_ID = re.compile(rb"\x04\0\0\x15CS(..)", re.DOTALL)
"""ReferencedFileID (0004,1500) and its length; a DICOMDIR is explicit VR little endian, too (PS3.10 8.6)."""


def is_dicomdir(path: Path) -> bool:
    """True for a DICOMDIR, by its name or by its class."""
    if path.name.upper() == "DICOMDIR":
        return True
    try:
        with path.open("rb") as file:
            head = file.read(1024)
    except OSError:
        return False
    return head[128:132] == b"DICM" and _CLASS in head


def lost_files(path: Path, files: Iterable[Path]) -> list[str]:
    """Names in a DICOMDIR that no file below its folder has, in its order; empty where it cannot be read.

    Names match as CDs have them: in upper or lower case, with the ``;1`` or the point that ISO 9660 adds.

    Args:
        path: The DICOMDIR.
        files: The files below its folder.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST)
    except OSError:
        return []  # reading it as one of the files says so
    there = {_key(file.relative_to(path.parent).as_posix()) for file in files if file.is_relative_to(path.parent)}
    names = []
    for match in _FILE_ID.finditer(content):
        stored = content[match.end() : match.end() + int.from_bytes(match[1], "little")]
        names.append(stored.decode("latin-1").rstrip("\0 ").replace("\\", "/"))
    return [name for name in dict.fromkeys(names) if name and _key(name) not in there]


def _key(name: str) -> str:
    return "/".join(re.sub(r"\.?(;\d+)?$", "", part.strip()) for part in name.split("/")).casefold()
