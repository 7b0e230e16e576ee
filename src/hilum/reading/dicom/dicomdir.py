"""Which files a DICOMDIR, the table of contents of a CD, leads to."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from hilum.errors import ReadError
from hilum.reading.archives.streams import MAX_MEMBERS
from hilum.reading.archives.unpack import Trouble, shown

MAX_DICOMDIR = 1 << 28
"""Largest DICOMDIR in bytes; one of 10,000 images has some 5 MB, with an icon of each some 100 MB."""

_CLASS = b"\2\0\2\0UI\x14\x001.2.840.10008.1.3.10"
"""MediaStorageSOPClassUID of a DICOMDIR; file meta information is always explicit VR little endian (PS3.10 7.1)."""

_RECORDS = re.compile(rb"\x04\0\x20\x12(?:SQ\0\0)?(....)", re.DOTALL)
_ENTRY = re.compile(
    rb"\x04\0\x10\x14(?:US\x02\0|\x02\0\0\0)(?P<in_use>..)"
    rb"|\x04\0\x00\x15(?:CS(?P<short>..)|(?P<long>.[\0-\3]\0\0))",
    re.DOTALL,
)
"""RecordInUseFlag (0004,1410), which goes before, or ReferencedFileID (0004,1500); explicit or implicit VR."""

Entry: TypeAlias = os.DirEntry[str]

_UNDEFINED = 0xFFFFFFFF
_END = b"\xfe\xff\xdd\xe0\0\0\0\0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """Where a DICOMDIR leads.

    Attributes:
        files: Those of its files that are there, in its order.
        troubles: Entries that lead outside or to nothing.
    """

    files: tuple[Path, ...]
    troubles: tuple[Trouble, ...]


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


def read_dicomdir(path: Path, *, max_bytes: int = MAX_DICOMDIR) -> Directory:
    """Find the files that a DICOMDIR names, below the folder it lies in and nowhere else.

    Names are found as CDs have them: in upper or lower case, with the ``;1`` or the point that ISO 9660 adds.

    Raises:
        ReadError: If it is damaged, too large or cannot be read.
    """
    folder = path.parent
    listings: dict[str, dict[str, Entry]] = {}
    found: dict[Path, None] = {}
    outside: list[str] = []
    missing: list[str] = []
    for name in dict.fromkeys(_references(_content(path, min(max_bytes, MAX_DICOMDIR)))):
        parts = [part.strip() for part in re.split(r"[\\/]", name)]
        if not all(parts) or {".", ".."}.intersection(parts) or re.match("[A-Za-z]:", name) or "\0" in name:
            outside.append(name)
            continue
        steps = _steps(str(folder), parts, listings)
        if not steps or not _is_file(steps[-1]):
            missing.append(name)
        elif any(step.is_symlink() for step in steps) and not _is_below(Path(steps[-1]), folder):
            outside.append(name)
        elif Path(steps[-1]) != path:
            found[Path(steps[-1])] = None
    troubles = []
    if outside:
        message = f"entries of the DICOMDIR that lead out of its folder are not followed: {len(outside)}"
        troubles.append(Trouble(code="unsafe-archive", message=message, member=_as_path(outside[0])))
    if missing:
        message = f"entries of the DICOMDIR that lead to no file: {len(missing)} of {len(missing) + len(found)}"
        troubles.append(Trouble(code="missing-file", message=message, member=_as_path(missing[0])))
    return Directory(files=tuple(found), troubles=tuple(troubles))


def _content(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except OSError as exc:
        msg = f"the DICOMDIR cannot be read: {exc.strerror or 'a damaged disk'}"
        raise ReadError(msg) from exc
    if len(content) > limit:
        msg = f"a DICOMDIR must have at most {limit} bytes, has more"
        raise ReadError(msg)
    return content


def _references(content: bytes) -> list[str]:
    """The file names in the directory records, in order, without those of records that are not in use.

    They are looked for by their tag: one pass over any bytes, where a parser would build a data set for each of
    millions of records, or follow sequences within sequences without end.
    """
    records = _RECORDS.search(content)
    if content[128:132] != b"DICM" or records is None:
        msg = "the DICOMDIR is damaged: it has no directory records"
        raise ReadError(msg)
    length = int.from_bytes(records[1], "little")
    end = len(content) if length == _UNDEFINED else records.end() + length
    if end > len(content) or (length == _UNDEFINED and _END not in content[-1024:]):
        msg = "the DICOMDIR is damaged: a part of its directory records is missing"
        raise ReadError(msg)
    names = []
    in_use = True
    for match in _ENTRY.finditer(content, records.end(), end):
        if match["in_use"] is not None:
            in_use = match["in_use"] != b"\0\0"
            continue
        size = int.from_bytes(match["short"] or match["long"], "little")
        if in_use and size:
            names.append(content[match.end() : match.end() + size].decode("latin-1").rstrip("\0 "))
        in_use = True
    if len(names) > MAX_MEMBERS:
        msg = f"a DICOMDIR must name at most {MAX_MEMBERS} files, names {len(names)}"
        raise ReadError(msg)
    return names


def _steps(folder: str, parts: list[str], listings: dict[str, dict[str, Entry]]) -> list[Entry]:
    """The folders and the file that a name leads through, whatever its case; none where it leads to nothing."""
    steps = []
    for part in parts:
        if folder not in listings:
            listings[folder] = _listing(folder)
        entry = listings[folder].get(part) or listings[folder].get(_key(part))
        if entry is None:
            return []
        steps.append(entry)
        folder = entry.path
    return steps


def _listing(folder: str) -> dict[str, Entry]:
    try:
        with os.scandir(folder) as entries:
            seen = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return {}
    seen = [entry for entry in seen if not entry.name.startswith(".")]
    return {_key(entry.name): entry for entry in seen} | {entry.name: entry for entry in seen}


def _key(name: str) -> str:
    return re.sub(r"\.?(;\d+)?$", "", name).casefold()


def _is_file(entry: Entry) -> bool:
    try:
        return entry.is_file()
    except OSError:
        return False


def _is_below(file: Path, folder: Path) -> bool:
    """Whether a file lies in the folder once links are followed."""
    try:
        return file.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):
        return False


def _as_path(name: str) -> str:
    return shown(name.replace("\\", "/"))
