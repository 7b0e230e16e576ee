"""The members of a zip."""

import io
import os
import stat
import zipfile
from collections.abc import Iterator

from hilum.reading.archives.streams import MAX_MEMBERS, Allowance, DamagedError, Member, Source, UnsafeError, check_fold

_MAX_DIRECTORY = 1 << 26
"""Largest list of members at the end of a zip, in bytes: 335 for each of the most there may be."""

_ENCRYPTED = 0x1 | 0x40


class ZipBytes(io.BufferedReader):
    """A zip file that refuses a list of members that would fill the memory; ``zipfile`` reads it in one go."""

    def read(self, size: int | None = -1, /) -> bytes:
        """As any file, but never a list of members beyond the limit."""
        if size is not None and size > _MAX_DIRECTORY:
            msg = f"its list of members must have at most {_MAX_DIRECTORY} bytes, has {size}"
            raise UnsafeError(msg)
        part = super().read(size)
        if len(part) > 46 * MAX_MEMBERS and part.count(b"PK\1\2") > MAX_MEMBERS:
            msg = f"it must have at most {MAX_MEMBERS} members, has more"
            raise UnsafeError(msg)
        return part


def zip_members(file: ZipBytes, allowance: Allowance) -> Iterator[Member]:
    """The files and folders of a zip, in the order of its list.

    Raises:
        UnsafeError: If there is a link, a device, an encrypted member, or more than is allowed.
        DamagedError: If a member is shorter than listed or cannot be unpacked in parts.
    """
    num_packed = os.fstat(file.fileno()).st_size
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            allowance.count()
            name = info.orig_filename
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
                msg = "it holds a link, a device or a pipe"
                raise UnsafeError(msg, name)
            if info.flag_bits & _ENCRYPTED:
                msg = "it is encrypted"
                raise UnsafeError(msg, name)
            if name.endswith("/") or kind == stat.S_IFDIR:
                yield Member(name=name, source=None)
                continue
            if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
                # zipfile unpacks what it reads of the others in one go, however large that becomes
                msg = f"members must be stored or deflated (method 0 or 8), one is compressed by {info.compress_type}"
                raise DamagedError(msg)
            with archive.open(info) as source:
                yield Member(name=name, source=_Counted(source, info, num_packed, allowance))


class _Counted:
    """The bytes of a zip's member, counted as they come out."""

    def __init__(self, source: Source, info: zipfile.ZipInfo, num_packed: int, allowance: Allowance) -> None:
        self._source, self._info, self._num_packed, self._allowance = source, info, num_packed, allowance
        self._num_bytes = 0

    def read(self, num_bytes: int, /) -> bytes:
        part = self._source.read(num_bytes)
        self._num_bytes += len(part)
        self._allowance.take(len(part), self._num_packed)
        check_fold(self._num_bytes, self._info.compress_size, self._info.orig_filename)
        if not part and self._num_bytes != self._info.file_size:
            msg = "a member is shorter than the archive says"
            raise DamagedError(msg)
        return part
