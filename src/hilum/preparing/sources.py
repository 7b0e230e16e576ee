"""Hashes the bytes of a scan's files, and caches the hashes of unchanged files."""

import hashlib
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

from hilum.errors import ReadError
from hilum.reading.images.files import detached_files
from hilum.reading.paths import source_files

INDEX = "sources.txt"

_CHUNK = 1 << 20
_SETTLED_NS = 10 * 10**9
"""Least age of a file whose hash is cached: a younger one could change again within the resolution of its file
system's clock (2 s on FAT)."""


class Sources:
    """Digests of scans, cached in a file with one line for each state of a scan's files.

    A line is keyed by a hash of the names, sizes, inodes and times (mtime and ctime) of all files: any change
    to a file updates its ctime, even if its mtime is set back. The cache is only appended to;
    incomplete lines are ignored.

    Attributes:
        file: The cache; holds no names.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._known: dict[str, str] | None = None

    def __reduce__(self) -> tuple[type["Sources"], tuple[Path]]:
        return Sources, (self.file,)  # another process reads the file itself

    def digest(self, path: Path) -> str:
        """Hash of a scan's bytes; for a folder of all files below it, whatever their names and order.

        Raises:
            ReadError: If there are no files, or they cannot be read.
        """
        state, settled = _state(path)
        known = self._lines().get(state)
        if known is None:
            known = _digest(path)
            if settled and _state(path)[0] == state:
                self._remember(state, known)
        return known

    def known(self, path: Path) -> str | None:
        """The cached digest of a scan; None if the files would have to be read.

        Raises:
            ReadError: If there are no files, or they cannot be read.
        """
        return self._lines().get(_state(path)[0])

    def state(self, path: Path) -> str:
        """A hash that changes when any of a scan's files changes, without reading them.

        Raises:
            ReadError: If there are no files, or they cannot be read.
        """
        return _state(path)[0]

    def _lines(self) -> dict[str, str]:
        if self._known is None:
            try:
                words = [line.split(" ") for line in self.file.read_text(encoding="ascii").splitlines()]
            except (OSError, UnicodeDecodeError):
                words = []
            self._known = {w[0]: w[1] for w in words if len(w) == 3 and w[2] == _check(w[0], w[1])}
        return self._known

    def _remember(self, state: str, digest: str) -> None:
        self._lines()[state] = digest
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            if self.file.is_symlink():
                return
            with self.file.open("a", encoding="ascii") as file:  # a line this short is appended atomically
                file.write(f"{state} {digest} {_check(state, digest)}\n")
        except OSError:
            return  # the files are hashed again next time


def _check(state: str, digest: str) -> str:
    return hashlib.blake2b(f"{state} {digest}".encode(), digest_size=4).hexdigest()


def scan_files(path: Path) -> list[Path]:
    """The files of a scan: those below its folder, or the file and those that hold its voxels, which come last.

    Raises:
        ReadError: If there are none.
    """
    files = [*source_files(path, left_out=[]), *detached_files(path)]  # reading reports what is left out
    if not files or not path.exists():
        msg = "no file or folder" if not path.exists() else "an empty folder"
        raise ReadError(msg, path=path)
    return files


def _state(path: Path) -> tuple[str, bool]:
    """``files_state`` of a scan's files."""
    try:
        return files_state(scan_files(path))
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def _digest(path: Path) -> str:
    """``files_digest`` of a scan's files."""
    detached = detached_files(path)
    try:
        return files_digest(scan_files(path)[: -len(detached) or None], detached)
    except OSError as exc:
        raise _unreadable(path, exc) from exc


def files_state(files: Sequence[Path]) -> tuple[str, bool]:
    """A hash of names, sizes, inodes and times, and whether all files are old enough to be cached.

    Raises:
        OSError: If a file cannot be asked.
    """
    found = [(str(f.absolute()), os.stat(f)) for f in files]  # noqa: PTH116 - of the target of a link
    about = sorted((n, s.st_dev, s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for n, s in found)
    latest = max(max(s.st_mtime_ns, s.st_ctime_ns) for _, s in found)
    state = hashlib.blake2b(json.dumps(about).encode(), digest_size=16).hexdigest()
    return state, latest < time.time_ns() - _SETTLED_NS


def files_digest(files: Sequence[Path], detached: Sequence[Path] = ()) -> str:
    """Hash the bytes of files in any order, and of detached voxel files in the order of their header.

    Raises:
        OSError: If a file cannot be read.
    """
    digests = sorted(_file_digest(f) for f in files)
    digests += [_file_digest(f) for f in detached]
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def _file_digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()


def _unreadable(path: Path, exc: OSError) -> ReadError:
    return ReadError(f"cannot be read: {exc.strerror or exc}", path=path)
