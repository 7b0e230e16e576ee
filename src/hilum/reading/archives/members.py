"""Lists the members of a zip or tar; the standard library unpacks them, and limits are checked meanwhile."""

import bz2
import gzip
import io
import lzma
import os
import re
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hilum.reading.archives.limits import (
    MAX_DICTIONARY,
    MAX_DIRECTORY,
    MAX_HEADER,
    MAX_MEMBERS,
    Allowance,
    check_fold,
    damaged,
    unsafe,
)

CHUNK = 1 << 18
_PIECE = 1 << 10
"""Packed bytes given to a decoder at a time, so that the position in the file says how many it has used."""

_BLOCK = 512
_ENDLESS_NUMBER = re.compile(rb"\d{100}")
"""A run of digits in an extended header on which ``tarfile`` spends time that grows with the square of its length."""

_ENCRYPTED = 0x1 | 0x40
_VOLUME_LABEL = b"V"
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}


@runtime_checkable
class Source(Protocol):
    """A file object that the bytes of a member are read from."""

    def read(self, num_bytes: int, /) -> bytes:
        """Read at most so many bytes; none at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file or folder of an archive.

    Attributes:
        name: Name in the archive: not to be trusted.
        source: Its bytes, to be read before the next member is asked for; None for a folder.
    """

    name: str
    source: Source | None


class _MemberSource:
    """The bytes of one member, counted as they come out.

    Args:
        source: The member's bytes as the standard library unpacks them.
        name: Name of the member.
        size: Unpacked size by the archive's header.
        packed: Returns the packed bytes used so far, at least.
        count: Called with the number of bytes unpacked.
    """

    def __init__(
        self, source: Source, name: str, size: int, packed: Callable[[], int], count: Callable[[int], None]
    ) -> None:
        self._source, self._name, self._size, self._packed, self._count = source, name, size, packed, count
        self._num_bytes = 0

    def read(self, num_bytes: int, /) -> bytes:
        part = self._source.read(num_bytes)
        self._num_bytes += len(part)
        self._count(len(part))
        check_fold(self._num_bytes, self._packed(), self._name)
        if not part and self._num_bytes != self._size:
            msg = "a member is shorter than the archive says"
            raise damaged(msg)
        return part


# zip


class ZipBytes(io.BufferedReader):
    """A zip file that refuses a list of members that would fill the memory; ``zipfile`` reads it in one go."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read like any file, but refuse a list of members beyond the limit."""
        if size is not None and size > MAX_DIRECTORY:
            msg = f"its list of members must have at most {MAX_DIRECTORY} bytes, has {size}"
            raise unsafe(msg)
        part = super().read(size)
        if len(part) > 46 * MAX_MEMBERS and part.count(b"PK\1\2") > MAX_MEMBERS:  # 46: bytes of the shortest entry
            msg = f"it must have at most {MAX_MEMBERS} members, has more"
            raise unsafe(msg)
        return part


def zip_members(file: ZipBytes, allowance: Allowance) -> Iterator[Member]:
    """The files and folders of a zip, in the order of its list.

    Raises:
        ReadError: If there is a link, a device, an encrypted member or more than is allowed, or a member is shorter
            than listed or cannot be unpacked in parts.
    """
    num_packed = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            allowance.count_member()
            name = info.orig_filename
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                msg = "it holds a link, a device or a pipe"
                raise unsafe(msg, name)
            if info.flag_bits & _ENCRYPTED:
                msg = "it is encrypted"
                raise unsafe(msg, name)
            if name.endswith("/") or kind == stat.S_IFDIR:
                yield Member(name=name, source=None)
                continue
            if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                # zipfile unpacks what it reads of the others in one go, however large that becomes
                msg = f"members must be stored or deflated (method 0 or 8), one is compressed by {info.compress_type}"
                raise damaged(msg)
            with archive.open(info) as content:
                source = _MemberSource(
                    content,
                    name,
                    info.file_size,
                    packed=lambda size=info.compress_size: size,  # type: ignore[misc]
                    count=lambda num_bytes: allowance.take(num_bytes, num_packed),
                )
                yield Member(name=name, source=source)


# tar


def compression(head: bytes) -> str:
    """How a file that begins so is compressed: gzip, bzip2, xz, or an empty string."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


def is_tar_header(block: bytes) -> bool:
    """True where a block of 512 bytes is the header of a member: its sum is right."""
    try:
        tarfile.TarInfo.frombuf(block[:_BLOCK], "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


class TarBytes:
    """A plain or compressed tar for ``tarfile``: read forwards, within limits, and in small parts.

    Attributes:
        last: The bytes read last.
        is_in_header: Whether ``tarfile`` reads a header now, and not the bytes of a member.
    """

    def __init__(self, path: Path, allowance: Allowance) -> None:
        with path.open("rb") as file:
            kind = compression(file.read(8))
        self._file = _Pieces(path) if kind else path.open("rb")
        self._source = _UNPACKED[kind](self._file)
        self._allowance = allowance
        self._at = 0
        self.last = b""
        self.is_in_header = True

    @property
    def packed(self) -> int:
        """Bytes of the file that are used so far."""
        return self._file.tell()

    def read(self, size: int, /) -> bytes:
        """Read so many bytes, fewer where the archive ends."""
        if size > MAX_HEADER:  # tarfile reads nothing else in one go
            msg = f"a header must have at most {MAX_HEADER} bytes, has {size}"
            raise unsafe(msg)
        self.last = self._source.read(size)
        self._at += len(self.last)
        self._allowance.take(len(self.last), self.packed)
        if self.is_in_header and size > _BLOCK and _ENDLESS_NUMBER.search(self.last):
            msg = "an extended header is damaged"
            raise damaged(msg)
        return self.last

    def tell(self) -> int:
        """Number of bytes read so far."""
        return self._at

    def seek(self, target: int, /) -> None:
        """Skip forwards to an offset in the unpacked bytes.

        Raises:
            ReadError: If the offset has been passed, which only a damaged header asks for.
        """
        if target < self._at:
            msg = "a member has a negative size"
            raise damaged(msg)
        while self._at < target and self.read(min(CHUNK, target - self._at)):
            pass

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Pieces(io.FileIO):
    """A file that is read in small pieces, however much is asked for."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(_PIECE if size is None or size < 0 else min(size, _PIECE))


class _XzBytes(io.RawIOBase):
    """The unpacked bytes of an xz file; ``lzma.open`` would take any dictionary that a header claims."""

    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces
        self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_DICTIONARY)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override]
        unpacked = b""
        while not unpacked:
            packed = b""
            if self._decoder.eof:  # another stream follows, or only zeros, which tapes add
                packed = self._decoder.unused_data.lstrip(b"\0")
                while not packed and (piece := self._pieces.read()):
                    packed = piece.lstrip(b"\0")
                if not packed:
                    return 0
                self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_DICTIONARY)
            elif self._decoder.needs_input:
                packed = self._pieces.read()
                if not packed:
                    msg = "its compressed data end too early"
                    raise damaged(msg)
            unpacked = self._decoder.decompress(packed, len(buffer))
        buffer[: len(unpacked)] = unpacked
        return len(unpacked)


_UNPACKED: dict[str, Callable[[Any], Any]] = {
    "": lambda file: file,
    "gzip": lambda file: gzip.GzipFile(fileobj=file),
    "bzip2": bz2.BZ2File,
    "xz": lambda file: io.BufferedReader(_XzBytes(file)),
}
"""Function that unpacks a file, by its compression."""


def tar_members(file: TarBytes, allowance: Allowance) -> Iterator[Member]:
    """The files and folders of a tar, in its order.

    Raises:
        ReadError: If there is a link, a device, a sparse file or more than is allowed, or the tar is not whole.
    """
    tar = tarfile.TarFile(fileobj=file, encoding="utf-8", errors="surrogateescape")  # type: ignore[arg-type]
    while (info := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep them all
        allowance.count_member()
        if info.issym() or info.islnk():
            msg = "it holds a link"
            raise unsafe(msg, info.name)
        if info.issparse():
            msg = "it holds a sparse file"
            raise unsafe(msg, info.name)
        if info.isdir():
            yield Member(name=info.name, source=None)
        elif info.isreg():
            yield from _tar_file(tar, info, file)
        elif info.type != _VOLUME_LABEL:
            msg = "it holds a device, a pipe or another special file"
            raise unsafe(msg, info.name)
    if len(file.last) < _BLOCK:
        msg = "it has no end: a part of it is missing"
        raise damaged(msg)
    if file.last.strip(b"\0"):  # tarfile ends in silence there
        msg = "a header is damaged"
        raise damaged(msg)
    while rest := file.read(CHUNK):  # to the end, so that the compressed stream's own checks are made
        if rest.strip(b"\0"):
            msg = "more follows after its end"
            raise damaged(msg)


def _tar_file(tar: tarfile.TarFile, info: tarfile.TarInfo, file: TarBytes) -> Iterator[Member]:
    """Yield one member; bytes that the caller leaves unread are skipped, still within the limits."""
    before = file.packed
    content = tar.extractfile(info)
    assert content is not None  # a file's  # noqa: S101
    # the piece before may hold its first bytes: no member is refused that is within the limit
    source = _MemberSource(
        content, info.name, info.size, packed=lambda: file.packed - before + _PIECE, count=lambda _: None
    )
    file.is_in_header = False
    yield Member(name=info.name, source=source)
    while source.read(CHUNK):
        pass
    file.is_in_header = True
