"""The members of a tar, plain or compressed, one after another as they stream by."""

import tarfile
from collections.abc import Iterator

from hilum.reading.archives.streams import (
    CHUNK,
    PIECE,
    Allowance,
    DamagedError,
    Member,
    Unpacking,
    UnsafeError,
    check_fold,
)

_BLOCK = 512
_MAX_HEADER = 1 << 20
"""Largest extended header in bytes; names take some hundred, a Mac's attributes some ten thousand."""

_FILES = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_LABEL = b"V"


class _Payload:
    """The bytes of one member, which end where its header said."""

    def __init__(self, tar: Unpacking, name: str, size: int) -> None:
        self._tar, self._name, self._size, self._left = tar, name, size, size
        self._packed_before = tar.packed

    def read(self, num_bytes: int, /) -> bytes:
        part = self._tar.read(min(num_bytes, self._left))
        if len(part) < min(num_bytes, self._left):
            msg = "it ends within a member"
            raise DamagedError(msg)
        self._left -= len(part)
        # what came of the piece before counts for this member: no member is refused that is within the limit
        check_fold(self._size - self._left, self._tar.packed - self._packed_before + PIECE, self._name)
        return part

    def finish(self) -> None:
        """Pass over what was not read, and over the rest of its last block."""
        while self._left:
            self.read(CHUNK)
        padding = -self._size % _BLOCK
        if len(self._tar.read(padding)) < padding:
            msg = "it ends within a member"
            raise DamagedError(msg)


def is_tar_header(block: bytes) -> bool:
    """True where a block of 512 bytes is the header of a member: its sum is right."""
    try:
        tarfile.TarInfo.frombuf(block[:_BLOCK], "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        return False
    return True


def tar_members(tar: Unpacking, allowance: Allowance) -> Iterator[Member]:
    """The files and folders of a tar, in its order.

    Headers are walked here and not by ``tarfile``, which ends in silence at a damaged one, keeps all of them in memory,
    and takes a time that grows with the square of an extended header's length.

    Raises:
        UnsafeError: If there is a link, a device, a sparse file, or more than is allowed.
        DamagedError: If the tar is not whole.
    """
    extended: dict[bytes, bytes] = {}
    while True:
        block = tar.read(_BLOCK)
        if len(block) < _BLOCK:
            msg = "it has no end: a part of it is missing"
            raise DamagedError(msg)
        if not block.strip(b"\0"):
            break
        allowance.count()
        header = _header(block)
        if header.type in {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE}:
            extended |= _records(_content(tar, header))
        elif header.type == tarfile.GNUTYPE_LONGNAME:
            extended[b"path"] = _content(tar, header).partition(b"\0")[0]
        elif header.type == tarfile.XGLTYPE:
            if _records(_content(tar, header)).keys() & {b"path", b"size", b"linkpath"}:
                msg = "a header gives one name or size to all members"
                raise UnsafeError(msg)
        elif header.type == tarfile.GNUTYPE_LONGLINK:
            _content(tar, header)
        elif header.type != _LABEL:
            yield from _member(tar, header, extended)
            extended = {}
    while rest := tar.read(CHUNK):  # to the end, so that the compressed stream's own checks are made
        if rest.strip(b"\0"):
            msg = "more follows after its end"
            raise DamagedError(msg)


def _header(block: bytes) -> tarfile.TarInfo:
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError) as exc:
        msg = "a header is damaged"
        raise DamagedError(msg) from exc
    if header.size < 0:
        msg = "a member has a negative size"
        raise DamagedError(msg)
    return header


def _member(tar: Unpacking, header: tarfile.TarInfo, extended: dict[bytes, bytes]) -> Iterator[Member]:
    name = extended[b"path"].decode("utf-8", "surrogateescape") if b"path" in extended else header.name
    if header.issym() or header.islnk():
        msg = "it holds a link"
        raise UnsafeError(msg, name)
    if header.type == tarfile.GNUTYPE_SPARSE or any(key.startswith(b"GNU.sparse") for key in extended):
        msg = "it holds a sparse file"
        raise UnsafeError(msg, name)
    if header.isdir():
        yield Member(name=name, source=None)
        return
    if header.type not in _FILES:
        msg = "it holds a device, a pipe or what is neither file nor folder"
        raise UnsafeError(msg, name)
    size = extended.get(b"size", b"%d" % header.size)
    if not size.isdigit() or len(size) > 20:
        msg = "a member's size is no number"
        raise DamagedError(msg)
    payload = _Payload(tar, name, int(size))
    yield Member(name=name, source=payload)
    payload.finish()


def _content(tar: Unpacking, header: tarfile.TarInfo) -> bytes:
    """What an extended header holds."""
    if header.size > _MAX_HEADER:
        msg = f"a header must have at most {_MAX_HEADER} bytes, has {header.size}"
        raise UnsafeError(msg)
    payload = _Payload(tar, "", header.size)
    content = payload.read(header.size)
    payload.finish()
    return content


def _records(content: bytes) -> dict[bytes, bytes]:
    """The records of a pax header: ``20 path=IM/0001.dcm`` and a line's end, the length of all of it first."""
    records = {}
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 10)
        length = content[at : max(space, at)]
        end = at + int(length) if length.isdigit() else 0
        if not space < end <= len(content) or content[end - 1 : end] != b"\n":
            msg = "an extended header is damaged"
            raise DamagedError(msg)
        key, _, value = content[space + 1 : end - 1].partition(b"=")
        records[key] = value
        at = end
    return records
