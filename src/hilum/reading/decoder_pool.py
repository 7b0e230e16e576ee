"""Native decoders in child processes: a crash, a hang or an absurd allocation in one becomes a ReadError."""

import atexit
import contextlib
import json
import math
import os
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Num

from hilum.errors import GeometryError, ReadError
from hilum.files import cores
from hilum.reading.decoder_child import allowed_wall_s
from hilum.reading.images.files import image_format

DecoderKind = Literal["dicom", "image"]

_START_S = 60.0
_LONGEST_ANSWER = 1 << 16
_PIPE = 1 << 20
_QUIET = {
    "OMP_NUM_THREADS": "1",  # threads reserve address space, which is limited
    "OPENBLAS_NUM_THREADS": "1",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1",
    "MALLOC_ARENA_MAX": "1",
}
_RUN = "import sys; sys.path[:] = sys.argv[1:]; from hilum.reading.decoder_child import serve; serve()"


def decode(path: Path, kind: DecoderKind, *, max_bytes: int) -> Num[np.ndarray, "z y x"]:
    """The voxels of a compressed DICOM file, or of a NIfTI, NRRD or MetaImage file.

    May be called from several threads at once.

    Args:
        path: The file.
        kind: ``dicom`` or ``image``.
        max_bytes: Most bytes of voxels.

    Returns:
        Of DICOM: (frame, y, x), rescaled by GDCM. Of an image: (z, y, x), int16 where all HU are whole, else float32.

    Raises:
        ReadError: If it cannot be decoded, is larger, takes too long, or the decoder crashes.
    """
    with decoding(path, kind, max_bytes=max_bytes) as answer:
        voxels = np.empty(answer.shape, answer.dtype)
        answer.read_into(voxels)
    return voxels


@contextlib.contextmanager
def decoding(path: Path, kind: DecoderKind, *, max_bytes: int) -> Iterator["DecodedAnswer"]:
    """A context that gives a file's shape, type and affine; its voxels are then read from the answer.

    Raises:
        ReadError: As ``decode`` does.
    """
    try:
        file_bytes = _file_bytes(path)
        with _borrowed() as child:
            child.load("nibabel" if kind == "image" and image_format(path) == "nifti" else "SimpleITK")
            start = time.monotonic()
            request = {"path": str(path.absolute()), "kind": kind, "max_bytes": max_bytes}
            child.ask(request, allowed_wall_s(kind, file_bytes, 0))
            before = child.record()
            promised = before["voxel_bytes"]
            child.within(allowed_wall_s(kind, file_bytes, promised) - (time.monotonic() - start))
            yield DecodedAnswer(child, before | child.record(), max_bytes)
            child.within(None)
    except MemoryError as exc:
        msg = "cannot be read: its voxels do not fit into memory"
        raise ReadError(msg, path=path) from exc
    except ReadError as exc:
        exc.path = path  # a decoder knows its request alone
        raise


def _file_bytes(path: Path) -> int:
    """Size of a regular file; one byte is read, so that a sleeping disk spins up before the time limit starts."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            msg = "cannot be read: it must be a file"
            raise ReadError(msg)
        with path.open("rb") as file:
            file.read(1)
    except (OSError, ValueError) as exc:
        msg = f"cannot be read: {getattr(exc, 'strerror', None) or 'not a file'}"
        raise ReadError(msg) from exc
    return found.st_size


class DecodedAnswer:
    """A decoder's answer about a file's voxels, before they are read.

    Attributes:
        shape: (z, y, x), or (frame, y, x).
        dtype: Type of the voxels.
        affine: Index (z, y, x) to LPS mm; None for DICOM.
        doubts: Findings that the header's gaps give rise to, as code and sentence.
    """

    def __init__(self, child: "_Child", record: dict[str, Any], max_bytes: int) -> None:
        z, y, x = record["shape"]
        self.shape = (int(z), int(y), int(x))
        self.dtype = np.dtype(record["dtype"])
        if math.prod(self.shape) * self.dtype.itemsize > max_bytes:
            msg = f"must have at most {max_bytes / 1e9:g} GB of voxels"
            raise ReadError(msg, code="too-large")
        self.affine = None if record["affine"] is None else np.array(record["affine"], np.float64).reshape(4, 4)
        self.doubts = [(str(code), str(message)) for code, message in record["doubts"]]
        self._child = child
        self._num_left = math.prod(self.shape) * self.dtype.itemsize

    def read_into(self, voxels: Num[np.ndarray, "*shape"]) -> None:
        """Fill a contiguous array with the next voxels."""
        self._child.read_into(voxels.data.cast("B"))
        self._num_left -= voxels.nbytes
        self._child.is_done = self._num_left == 0

    def planes(self) -> Iterator[Num[np.ndarray, "y x"]]:
        """One plane after the other, each in the same memory."""
        plane = np.empty(self.shape[1:], self.dtype)
        for _ in range(self.shape[0]):
            self.read_into(plane)
            yield plane


class _Child:
    """A decoder's process.

    Attributes:
        process: The process.
        is_done: Whether it waits for the next request.
    """

    def __init__(self) -> None:
        environment = {k: v for k, v in os.environ.items() if k != "HILUM_KEY"} | _QUIET
        self.is_done = False
        self._loaded: set[str] = set()
        self._lock = threading.Lock()
        self._alarm: threading.Timer | None = None
        self._is_late = False
        try:
            self.process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-P", "-W", "ignore", "-c", _RUN, *(p or os.getcwd() for p in sys.path)],  # noqa: PTH109
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
                env=environment,
                start_new_session=True,  # Ctrl-C in the terminal is for its parent
            )
        except (OSError, ValueError, TypeError) as exc:
            msg = "cannot be read: no process can be started for its decoder"
            raise ReadError(msg) from exc
        assert self.process.stdin is not None and self.process.stdout is not None  # noqa: S101, PT018
        self._requests, self._answers = self.process.stdin, self.process.stdout
        with contextlib.suppress(ImportError, AttributeError, OSError):  # a speed, on Linux, for some users
            import fcntl

            fcntl.fcntl(self._answers, fcntl.F_SETPIPE_SZ, _PIPE)
        self.within(_START_S)
        self.record()
        self.within(None)

    def load(self, library: str) -> None:
        """Have the process import its libraries; a slow disk must not count as the fault of a file."""
        if library not in self._loaded:
            self.ask({"library": library}, _START_S)
            self.record()
            self.within(None)
            self._loaded.add(library)

    def ask(self, request: dict[str, Any], seconds: float) -> None:
        """Send a request, to be answered within so many seconds."""
        self.is_done = False
        self.within(seconds)
        text = json.dumps(request).encode()
        try:
            self._requests.write(struct.pack("<I", len(text)) + text)
        except OSError as exc:
            raise self.failure() from exc

    def record(self) -> dict[str, Any]:
        """The next answer.

        Raises:
            ReadError: If it is an error, or there is none.
        """
        size = bytearray(4)
        self.read_into(memoryview(size))
        length = struct.unpack("<I", size)[0]
        if length > _LONGEST_ANSWER:
            raise self.failure()
        text = bytearray(length)
        self.read_into(memoryview(text))
        record: dict[str, Any] = json.loads(text)
        if "error" in record:
            self.is_done = True
            raise (GeometryError if record["is_geometry"] else ReadError)(record["error"], code=record["code"])
        return record

    def read_into(self, rest: memoryview) -> None:
        """Fill a buffer with what the process writes."""
        while rest:
            count = self._answers.readinto(rest)  # type: ignore[attr-defined]  # unbuffered
            if not count:
                raise self.failure()
            rest = rest[count:]

    def failure(self) -> ReadError:
        """Why the process gives no answer; it is ended if it has not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(1)  # its pipe closes a moment before it ends
        self.end()
        if self._is_late or self.process.returncode == -24:  # SIGXCPU, which Windows has no name for
            return ReadError("cannot be read: decoding it takes too long")
        return ReadError("cannot be read: the decoder crashed on it")

    def within(self, seconds: float | None) -> None:
        """Kill the process when so many seconds have passed, or, with None, do not."""
        with self._lock:
            if self._alarm:
                self._alarm.cancel()
            self._alarm = None
            if seconds is not None:
                self._alarm = threading.Timer(min(max(0.0, seconds), threading.TIMEOUT_MAX), self._ring)
                self._alarm.daemon = True
                self._alarm.start()

    def _ring(self) -> None:
        with self._lock:
            if threading.current_thread() is self._alarm:  # else it was cancelled while it rang
                self._is_late = True
                self.process.kill()

    def end(self) -> None:
        """End the process, now."""
        self.within(None)
        self.process.kill()
        self.process.wait()
        self.close()

    def close(self) -> None:
        """Close the pipes."""
        self._requests.close()
        self._answers.close()


class _Pool:
    """The decoder processes of this process; each is lent to one thread at a time."""

    def __init__(self) -> None:
        self.children: set[_Child] = set()
        self._idle: list[_Child] = []
        self._num_lent = 0
        self._freed = threading.Condition()

    def take(self) -> _Child:
        """Lend an idle process, or a new one; if there is one for each core, wait for the next that is given back."""
        with self._freed:
            self._freed.wait_for(lambda: self._num_lent < cores())
            self._num_lent += 1
            while self._idle:
                child = self._idle.pop()
                if child.process.poll() is None:
                    return child
                self.children.discard(child)  # it was ended while it waited
                child.end()
        try:
            child = _Child()
        except BaseException:
            self.give(None)
            raise
        self.children.add(child)
        return child

    def give(self, child: _Child | None) -> None:
        """Take a process back; it is ended if it is still working."""
        if child and not child.is_done:
            self.children.discard(child)
            child.end()
        with self._freed:
            self._num_lent -= 1
            if child and child.is_done:
                self._idle.append(child)
            self._freed.notify()

    def end(self) -> None:
        """End all processes."""
        for child in [*self.children]:
            child.end()


_pool = _Pool()


@contextlib.contextmanager
def _borrowed() -> Iterator[_Child]:
    pool = _pool
    child = pool.take()
    try:
        yield child
    finally:
        pool.give(child)


def _forget() -> None:
    """After a fork: the children are the parent's, and end when it closes its pipes, so that this one must too."""
    global _pool
    for child in [*_pool.children]:
        child.process.returncode = 0  # not ours to wait for
        child.close()
    _pool = _Pool()


atexit.register(lambda: _pool.end())
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
