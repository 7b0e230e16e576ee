"""Unpacks a zip or tar completely into a folder, within limits, or refuses it."""

import contextlib
import errno
import io
import lzma
import os
import re
import shutil
import tarfile
import unicodedata
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hilum.errors import ReadError
from hilum.findings import printable
from hilum.reading.archives.limits import MAX_MEMBERS, Allowance, unsafe
from hilum.reading.archives.members import (
    CHUNK,
    Member,
    TarBytes,
    ZipBytes,
    compression,
    is_tar_header,
    tar_members,
    zip_members,
)
from hilum.reading.dicom.frames import is_dicom

_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz")
_NO_ARCHIVES = (
    ".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz", ".nrrd", ".nhdr", ".mha", ".mhd",
    ".apk", ".docm", ".docx", ".ear", ".egg", ".epub", ".jar", ".npz", ".odp", ".ods", ".odt", ".pptm", ".pptx", ".pt",
    ".pth", ".war", ".whl", ".xlsm", ".xlsx", ".xpi",
)  # fmt: skip
"""Suffixes of images, and of files that are zips by their bytes but do not hold scans."""

_MAX_NAME = 2000
_MAX_FOLDERS = 64
_NO_NAME = {errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ, errno.EEXIST, errno.ENOTDIR, errno.EISDIR}

_FOREIGN = (
    OSError, EOFError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, RuntimeError, MemoryError,
    zipfile.BadZipFile, zipfile.LargeZipFile, tarfile.TarError, zlib.error, lzma.LZMAError,
)  # fmt: skip
"""What the standard library raises on damaged archives: struct.error is a ValueError, RecursionError a RuntimeError."""


def has_archive_name(name: str) -> bool:
    """True for the names of zips and tars."""
    return name.lower().endswith(_SUFFIXES)


def is_archive(path: Path) -> bool:
    """Whether a file is a zip or tar, by its name or else by its first bytes; images and documents are not."""
    if has_archive_name(path.name):
        return not is_dicom(path)
    if path.name.lower().endswith(_NO_ARCHIVES):
        return False
    try:
        with path.open("rb") as file:
            head = file.read(512)
        if head[128:132] == b"DICM":
            return False
        if compression(head):
            with contextlib.closing(TarBytes(path, Allowance(max_bytes=1 << 20))) as tar:
                head = tar.read(512)
        elif head.startswith((b"PK\3\4", b"PK\5\6")):
            return True
    except (*_FOREIGN, ReadError):
        return False  # reading the file as something else says what is wrong with it
    return is_tar_header(head)


def unpack(path: Path, folder: Path, *, max_bytes: int) -> list[ReadError]:
    """Write the files of an archive below a folder, which is made, and is empty where the archive is refused.

    Hidden members are passed over, archives within it are not opened.

    Returns:
        Errors that say why the archive or a member is not read: ``code`` of the finding, ``path`` of the member.

    Raises:
        ReadError: If the folder cannot take the files: a full disk.
    """
    _make(folder)
    allowance = Allowance(max_bytes=max_bytes)
    into = _Folder(folder=folder)
    try:
        with contextlib.closing(_open_archive(path, allowance)) as file:
            members = zip_members(file, allowance) if isinstance(file, ZipBytes) else tar_members(file, allowance)
            return [trouble for member in members for trouble in into.add(member)]
    except ReadError as exc:
        if exc.code is None:  # the disk's fault
            raise
        is_unsafe = exc.code == "unsafe-archive"
        said = f"the archive {'is not opened' if is_unsafe else 'cannot be read'}: {exc.message}"
        trouble = ReadError(said, code=exc.code, path=exc.path)
    except _FOREIGN as exc:
        why = ""
        if isinstance(exc, OSError) and exc.filename:  # it could not be opened
            why = f": {exc.strerror}"
        elif isinstance(exc, EOFError) or "unexpected end" in str(exc):  # gzip's and bz2's, or tarfile's
            why = ": it ends too early"
        trouble = ReadError(f"the archive is damaged or cannot be read{why}", code="unreadable-file")
    try:
        shutil.rmtree(folder)
    except OSError as exc:
        raise _no_room(exc) from exc
    _make(folder)
    return [trouble]


def shown_name(name: str | Path | None, limit: int = 80) -> str:
    """A name that is not to be trusted, fit for a line of a report: no control characters, no root, not too long."""
    name = printable(str(name or "")[: 4 * limit]).lstrip("/")
    return name if len(name) <= limit else f"{name[: limit - 3]}..."


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700)
    except OSError as exc:
        raise _no_room(exc) from exc


def _no_room(exc: OSError) -> ReadError:
    return ReadError(
        f"the temporary folder must have room for the unpacked archive: {exc.strerror or 'it cannot be written'}",
        hint="TMPDIR names another folder",
    )


def _open_archive(path: Path, allowance: Allowance) -> ZipBytes | TarBytes:
    """The bytes of an archive by what it is, whatever its name."""
    with path.open("rb") as file:
        head = file.read(512)
    if compression(head) or is_tar_header(head) or not head.strip(b"\0"):
        return TarBytes(path, allowance)
    return ZipBytes(io.FileIO(path))


@dataclass(slots=True, kw_only=True)
class _Folder:
    """The folder that members are written to, and the names in use, compared without case."""

    folder: Path
    files: set[str] = field(default_factory=set)
    folders: set[str] = field(default_factory=set)

    def add(self, member: Member) -> list[ReadError]:
        """Write a member, unless it is hidden or an archive itself.

        Raises:
            ReadError: If its name leads elsewhere, is taken, or cannot be a file's.
        """
        parts = _parts(member.name)
        if member.source is not None and (not parts or member.name.endswith(("/", "/."))):
            raise _no_name(member)
        self._claim(parts, member)
        if member.source is None or "__MACOSX" in parts or any(part.startswith(".") for part in parts):
            return []
        head = member.source.read(CHUNK)
        if _is_nested(parts[-1], head):
            message = "an archive within an archive is not opened"
            return [ReadError(message, code="unsafe-archive", path=member.name)]
        target = self.folder.joinpath(*parts)
        with _writing(member):
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            descriptor = os.open(target, flags, 0o600)
        with os.fdopen(descriptor, "wb", 0) as file:
            while head:
                with _writing(member):
                    view = memoryview(head)
                    while view:
                        view = view[file.write(view) :]
                head = member.source.read(CHUNK)
        return []

    def _claim(self, parts: list[str], member: Member) -> None:
        keys = [_key("/".join(parts[: n + 1])) for n in range(len(parts))]
        above, own = (keys, []) if member.source is None else (keys[:-1], keys[-1:])
        if self.files.intersection(keys) or self.folders.intersection(own):
            msg = "two members have the same name (case ignored)"
            raise unsafe(msg, member.name)
        self.folders.update(above)
        self.files.update(own)
        if len(self.files) + len(self.folders) > MAX_MEMBERS:
            msg = f"it must have at most {MAX_MEMBERS} files and folders, has more"
            raise unsafe(msg)


@contextlib.contextmanager
def _writing(member: Member) -> Iterator[None]:
    """A context that tells errors of the disk from names that are not allowed."""
    try:
        yield
    except OSError as exc:
        raise (_no_name(member) if exc.errno in _NO_NAME else _no_room(exc)) from exc


def _no_name(member: Member) -> ReadError:
    return unsafe("a name cannot be a file's", member.name)


def _parts(name: str) -> list[str]:
    """Folders and file name of a member."""
    if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name):
        msg = "a name is absolute or a Windows path"
        raise unsafe(msg, name)
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts:
        msg = "a name leads out of the archive"
        raise unsafe(msg, name)
    try:
        lengths = [len(os.fsencode(part)) for part in parts]
    except UnicodeEncodeError:
        lengths = [_MAX_NAME + 1]
    if "\0" in name or max(lengths, default=0) > 255 or sum(lengths) > _MAX_NAME or len(parts) > _MAX_FOLDERS:
        msg = "a name cannot be a file's"
        raise unsafe(msg, name)
    return parts


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _is_nested(name: str, head: bytes) -> bool:
    """True for an archive by its name or by its first bytes, unless it is an image or a document."""
    if has_archive_name(name):
        return True
    if name.lower().endswith(_NO_ARCHIVES) or head[128:132] == b"DICM":
        return False
    return bool(compression(head)) or head.startswith(b"PK\3\4") or head[257:262] == b"ustar"
