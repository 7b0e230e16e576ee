"""What comes out of an archive, byte by byte and within limits: the ground that zips and tars stand on."""

import bz2
import lzma
import zlib
from dataclasses import dataclass
from typing import BinaryIO, Protocol, runtime_checkable

MAX_MEMBERS = 200_000
MAX_FOLD = 1000
_FREE = 1_000_000
"""Bytes up to which the compression may be as high as it likes: an empty slice is some hundred kB of zeros."""

CHUNK = 1 << 18
PIECE = 1 << 10
"""Compressed bytes given to a decoder at a time: a decoder does not say how many it has used."""

_MAX_DICTIONARY = 1 << 28
"""Largest memory of an xz decoder in bytes; ``xz -9`` takes 65 MB, a header can claim 4 GB."""


class UnsafeError(Exception):
    """An archive does what no archive of scans needs to do: nothing of it is read.

    Attributes:
        member: Name of the member that does, as the archive gives it; empty where it is the archive as a whole.
    """

    def __init__(self, message: str, member: str = "") -> None:
        super().__init__(message)
        self.member = member


class DamagedError(Exception):
    """An archive is not what its format says."""


@runtime_checkable
class Source(Protocol):
    """What the bytes of a member are read from."""

    def read(self, num_bytes: int, /) -> bytes:
        """At most so many bytes; none at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One file or folder of an archive.

    Attributes:
        name: As the archive gives it: not to be trusted.
        source: Its bytes, to be read before the next member is asked for; None for a folder.
    """

    name: str
    source: Source | None


@dataclass(slots=True, kw_only=True)
class Allowance:
    """Counts what comes out of an archive, whatever its headers say, and stops it at the limits.

    Attributes:
        max_bytes: Limit of what it unpacks to.
        num_bytes: What it has unpacked to so far.
        num_members: Members and headers so far.
    """

    max_bytes: int
    num_bytes: int = 0
    num_members: int = 0

    def take(self, num_bytes: int, packed: int) -> None:
        """Count bytes that came out, of an archive of which so many packed bytes are used."""
        self.num_bytes += num_bytes
        if self.num_bytes > self.max_bytes:
            msg = f"it must unpack to at most {self.max_bytes} bytes (reading.max_gb), unpacks to more"
            raise UnsafeError(msg)
        check_fold(self.num_bytes, packed)

    def count(self) -> None:
        """Count a member."""
        self.num_members += 1
        if self.num_members > MAX_MEMBERS:
            msg = f"it must have at most {MAX_MEMBERS} members, has more"
            raise UnsafeError(msg)


def check_fold(num_bytes: int, packed: int, member: str = "") -> None:
    """Refuse what unpacks to far more than scans do.

    Raises:
        UnsafeError: If the compression is over 1000-fold, of more than 1 MB.
    """
    if num_bytes > _FREE and num_bytes > MAX_FOLD * packed:
        msg = f"it must be compressed at most {MAX_FOLD}-fold, is more"
        raise UnsafeError(msg, member)


class _Gzip:
    """zlib's decoder of one gzip stream, with the methods of those of bz2 and lzma."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(zlib.MAX_WBITS | 16)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data

    def decompress(self, packed: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + packed, max_length)


_Decoder = _Gzip | bz2.BZ2Decompressor | lzma.LZMADecompressor

_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\0": "xz"}


def compression(head: bytes) -> str:
    """How a file that begins so is compressed: gzip, bzip2, xz, or an empty string."""
    return next((name for magic, name in _MAGIC.items() if head.startswith(magic)), "")


class Unpacking:
    """A tar's bytes, uncompressed as they are asked for: never more of them in memory than asked for.

    The standard library's own readers would take any dictionary that an xz header claims, and do not tell how much they
    have read. Several streams in one file (pigz, pbzip2) are one.
    """

    def __init__(self, file: BinaryIO, allowance: Allowance) -> None:
        file.seek(0)
        self._compression = compression(file.read(8))
        file.seek(0)
        self._file = file
        self._decoder: _Decoder | None = None
        self._pending = b""
        self._allowance = allowance
        self.packed = 0

    def read(self, num_bytes: int, /) -> bytes:
        """So many bytes, fewer where the archive ends.

        Raises:
            UnsafeError: If more came out than is allowed.
            DamagedError: If a compressed stream has no end.
        """
        parts = []
        while num_bytes:
            part = self._some(num_bytes)
            if not part:
                break
            self._allowance.take(len(part), self.packed)
            num_bytes -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _some(self, num_bytes: int) -> bytes:
        if not self._compression:
            part = self._file.read(num_bytes)
            self.packed += len(part)
            return part
        while True:
            decoder = self._decoder or self._begun()
            if decoder is None:
                return b""
            if decoder.needs_input and not self._pending and not self._fill():
                msg = "its compressed data end too early"
                raise DamagedError(msg)
            packed, self._pending = (self._pending, b"") if decoder.needs_input else (b"", self._pending)
            part = decoder.decompress(packed, num_bytes)
            if decoder.eof:
                self._pending, self._decoder = decoder.unused_data, None
            if part:
                return part

    def _begun(self) -> _Decoder | None:
        """The decoder of the next compressed stream; None where only zeros, which tapes add, are left."""
        self._pending = self._pending.lstrip(b"\0")
        while not self._pending:
            if not self._fill():
                return None
            self._pending = self._pending.lstrip(b"\0")
        if self._compression == "gzip":
            self._decoder = _Gzip()
        elif self._compression == "bzip2":
            self._decoder = bz2.BZ2Decompressor()
        else:
            self._decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_DICTIONARY)
        return self._decoder

    def _fill(self) -> bool:
        self._pending = self._file.read(PIECE)
        self.packed += len(self._pending)
        return bool(self._pending)
