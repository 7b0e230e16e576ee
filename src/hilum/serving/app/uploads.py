"""Takes an upload from a client to disk, within limits: a zip, a tar or a DICOM file, or a form of files."""

import asyncio
import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from hilum.files import sync_to_disk
from hilum.serving.app.database import sync_folder
from hilum.serving.app.refusals import RefusedError, drain
from hilum.settings.serving import LimitsConfig

_SUFFIX = re.compile(
    r"(\.(?:nii|hdr|img)(?:\.gz)?|\.(?:nrrd|nhdr|mha|mhd|raw|zraw|dcm|zip|tar|tgz|tbz2?|txz)|\.tar\.(?:gz|bz2|xz)|\.raw\.gz)$",
    re.IGNORECASE,
)
"""Ends of names by which files of an upload are told apart; the rest of a client's names is not kept."""

_LOOK_BYTES = 1 << 24
"""Bytes of a body between looks at the room on the disk."""

_SMALL_BYTES, _SMALL_S = 4096, 10.0


class Uploads:
    """The uploads that are under way.

    Args:
        folder: Where uploads are kept.
        limits: The limits.

    Attributes:
        num_open: Number of uploads under way.
    """

    def __init__(self, folder: Path, limits: LimitsConfig) -> None:
        self.folder, self.limits, self.num_open = folder, limits, 0

    async def receive(self, request: Request, id: str) -> int:  # noqa: A002
        """Write the body of a request to ``folder/ID``: a form's files to a folder, anything else to a file.

        Returns:
            Its size in bytes.

        Raises:
            RefusedError: If a limit is reached, the body breaks the rules, or the disk is full; nothing is left.
            ClientDisconnect: If the client ends before the body does; nothing is left.
        """
        target, new = self.folder / id, self.folder / f".new-{id}"
        self.num_open += 1
        is_read = False
        try:
            self._check_room(request)
            with _disk_errors():
                kind, options = parse_options_header(request.headers.get("content-type", ""))
                if kind == b"multipart/form-data":
                    form = _Form(new, options.get(b"boundary", b""), self.limits.parts)
                    with contextlib.closing(form):
                        num_bytes = await self._copy(request, form.write)
                        is_read = True
                        form.end()
                    await asyncio.to_thread(sync_folder, new)
                else:
                    with open(new, "xb", opener=_private) as file:
                        num_bytes = await self._copy(request, file.write)
                    is_read = True
                    await asyncio.to_thread(sync_to_disk, new)
                _check_is_there(num_bytes)
                new.rename(target)
                await asyncio.to_thread(sync_to_disk, self.folder)
                return num_bytes
        except RefusedError:
            if not is_read:
                await drain(request.receive)
            raise
        finally:
            self.num_open -= 1
            if new.is_dir():
                await asyncio.to_thread(shutil.rmtree, new, ignore_errors=True)
            else:
                new.unlink(missing_ok=True)

    def _check_room(self, request: Request) -> None:
        """Raise a RefusedError if an upload cannot be taken, as far as its head tells."""
        if self.num_open > self.limits.uploads:
            detail = f"at most {self.limits.uploads} uploads may be under way"
            raise RefusedError(429, "too-many-uploads", detail, headers={"retry-after": "5"}, closes=True)
        announced = request.headers.get("content-length", "")
        num_bytes = int(announced) if announced.isdigit() else 0
        if num_bytes > self._most_bytes:
            raise self._too_large()
        self._check_disk(num_bytes)

    @property
    def _most_bytes(self) -> int:
        return int(self.limits.body_gb * 1e9)

    def _too_large(self) -> RefusedError:
        return RefusedError(413, "too-large", f"a body must have at most {self.limits.body_gb:g} GB", closes=True)

    def _check_disk(self, num_bytes: int) -> None:
        """Raise a RefusedError if the disk has no room for so many bytes more."""
        if shutil.disk_usage(self.folder).free - num_bytes < self.limits.free_gb * 1e9:
            raise _full()

    async def _copy(self, request: Request, write: Callable[[bytes], object]) -> int:
        """Pass the body on in pieces, and return its size."""
        start, num_bytes, looked = time.monotonic(), 0, 0
        async for piece in self._pieces(request, start):
            num_bytes += len(piece)
            if num_bytes > self._most_bytes:
                raise self._too_large()
            if num_bytes - looked > _LOOK_BYTES:
                self._check_disk(0)
                looked = num_bytes
            write(piece)
        return num_bytes

    async def _pieces(self, request: Request, start: float) -> AsyncIterator[bytes]:
        """The pieces of a body, as long as it comes fast enough."""
        limits, num_bytes = self.limits, 0
        pieces = aiter(request.stream())
        while True:
            allowed_s = limits.grace_s + num_bytes / (limits.slowest_kb_s * 1000)
            try:
                piece = await asyncio.wait_for(anext(pieces), max(0.0, start + allowed_s - time.monotonic()))
            except StopAsyncIteration:
                return
            except TimeoutError:
                detail = f"after {limits.grace_s:g} s a body must come at {limits.slowest_kb_s:g} kB/s or faster"
                raise RefusedError(408, "too-slow", detail, closes=True) from None
            num_bytes += len(piece)
            yield piece


async def small_body(request: Request) -> bytes:
    """The body of a request that sends a few words.

    Raises:
        RefusedError: If it is too long or too slow.
    """
    body = b""
    try:
        async with asyncio.timeout(_SMALL_S):
            async for piece in request.stream():
                body += piece
                if len(body) > _SMALL_BYTES:
                    raise RefusedError(
                        413, "too-large", f"the body must have at most {_SMALL_BYTES} bytes", closes=True
                    )
    except TimeoutError:
        raise RefusedError(408, "too-slow", f"the body must come within {_SMALL_S:g} s", closes=True) from None
    return body


class _Form:
    """A form in the making: its files, written one after the other, under names of our own.

    Args:
        folder: The folder of the files; made.
        boundary: What stands between parts.
        most: Most files.
    """

    def __init__(self, folder: Path, boundary: bytes, most: int) -> None:
        if not 1 <= len(boundary) <= 70:
            raise RefusedError(400, "form", "a form must name its boundary, of 1 to 70 characters", closes=True)
        folder.mkdir(mode=0o700)
        self._folder, self._most = folder, most
        self._file: BinaryIO | None = None
        self._num_files, self._stems = 0, dict[str, str]()
        self._header, self._headers = b"", dict[bytes, bytes]()
        self._value, self._has_ended = b"", False
        self._parser = MultipartParser(boundary, {
            "on_part_begin": self._begin, "on_header_field": self._field, "on_header_value": self._text,
            "on_header_end": self._header_end, "on_headers_finished": self._open, "on_part_data": self._data,
            "on_part_end": self._end_part, "on_end": self._end,
        })  # fmt: skip

    def write(self, piece: bytes) -> None:
        try:
            self._parser.write(piece)
        except MultipartParseError as exc:
            raise RefusedError(400, "form", "the body breaks the rules of multipart/form-data", closes=True) from exc

    def end(self) -> None:
        """Check that the form is whole."""
        if not self._has_ended or not self._num_files:
            raise RefusedError(400, "form", "the form must hold files, and end with its boundary")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def _begin(self) -> None:
        self._headers = {}

    def _field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _text(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _open(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        if b"filename" not in options:
            detail = "a form must hold files alone; settings stand in the query"
            raise RefusedError(400, "form", detail, closes=True)
        self._num_files += 1
        if self._num_files > self._most:
            raise RefusedError(413, "too-many-parts", f"a form must hold at most {self._most} files", closes=True)
        name = options[b"filename"].decode("utf-8", "replace")
        found = _SUFFIX.search(name)
        suffix = found[0].lower() if found else ""
        stem = self._stems.setdefault(name[: len(name) - len(suffix)], f"{self._num_files:06d}")  # header and voxels
        own = self._folder / f"{stem}{suffix}"
        if own.exists():
            own = self._folder / f"{self._num_files:06d}{suffix}"
        self._file = open(own, "xb", opener=_private)  # noqa: SIM115  # closed at the part's end

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._file is not None:
            self._file.write(memoryview(data)[start:end])

    def _end_part(self) -> None:
        self.close()

    def _end(self) -> None:
        self._has_ended = True


def _check_is_there(num_bytes: int) -> None:
    if not num_bytes:
        raise RefusedError(400, "empty", "the body must hold a scan, is empty")


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)


def _full() -> RefusedError:
    return RefusedError(507, "disk-full", "the disk of the service has no room for this upload", closes=True)


@contextmanager
def _disk_errors() -> Iterator[None]:
    """A context in which a disk that cannot take more is a refusal."""
    try:
        yield
    except OSError as exc:
        if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EMFILE, errno.ENFILE):
            raise _full() from exc
        raise
