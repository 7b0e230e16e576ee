"""Atomic writing that never overwrites files of other programs; cores and memory of this process."""

import contextlib
import csv
import hashlib
import io
import math
import os
import platform
import re
import secrets
import shutil
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from pathlib import Path

from hilum.errors import ConfigError, HilumError, require

PNG_MARK = "Software\\x00Hilum"
"""Pattern that Hilum's PNG files contain near their beginning."""


def user_path(path: str | Path) -> Path:
    """A path from a user, in which a leading ``~`` is the home folder."""
    path = Path(path)
    if "\0" in str(path):
        msg = "a path must not contain the character NUL"
        raise HilumError(msg)
    return path.expanduser() if path.parts[:1] == ("~",) else path


def machine_id() -> str:
    """Four hexadecimal digits from the host name, which distinguish machines that write to one folder."""
    return hashlib.blake2b(platform.node().encode(), digest_size=2).hexdigest()


def check_place(out: Path, what: str, flag: str = "--out") -> None:
    """Check, before anything is computed, that a file or folder can be made where it shall be.

    Args:
        out: The file or folder.
        what: The kind of thing, for the error.
        flag: The flag or argument that names it, for the error.

    Raises:
        ConfigError: If the nearest existing folder is none, or cannot be written to.
    """
    folder = next(
        one for one in (out, *out.absolute().parents) if one.is_dir() or (one != out and os.path.lexists(one))
    )
    require(folder.is_dir(), flag, f"{what} in a folder", f"{out}: {folder} is no folder")
    require(os.access(folder, os.W_OK | os.X_OK), flag, f"{what} in a folder that can be written to", out)


def check_own_folder(
    out: Path, is_own: Callable[[Path], bool], what: str, *, flag: str = "--out", inputs: Iterable[Path] = ()
) -> None:
    """Check, before anything is computed, that a folder is new, empty, or holds what the same command wrote alone.

    Args:
        out: The folder.
        is_own: Whether the command wrote a file in it.
        what: What it wrote, in words.
        flag: The flag that names the folder.
        inputs: Files and folders that are read, and must not lie in it.

    Raises:
        ConfigError: If it is a file, cannot be written, or holds other files.
    """
    check_place(out, "a folder", flag)
    held = [file.name for file in inputs if file.resolve().is_relative_to(out.resolve())]
    if out.is_dir():
        held += [file.name for file in sorted(out.iterdir()) if not is_own(file) and not is_unfinished(file)]
    if held or (out.exists() and not out.is_dir()):
        found = f"holds {held[0]}" if held else "is a file"
        msg = f"{flag} must be a folder that is new, empty or of {what}, {out} {found}"
        raise ConfigError(msg)


def check_output(path: Path, mark: str | Callable[[Path], bool], *, inputs: Iterable[Path | None] = ()) -> None:
    """Make sure that an output is new, or was written by the same command: judged by its content, not its name.

    Args:
        path: The file to write; a link is followed.
        mark: A regular expression that the first 64 KiB of such a file match, or a function that recognises it.
        inputs: Input files, which are never overwritten.

    Raises:
        HilumError: If another file or an input would be overwritten, or the path is a folder.
    """
    _check_is_file(path)
    if not path.exists():
        return
    is_own = holds(path, mark) if isinstance(mark, str) else mark(path)
    is_input = any(one is not None and one.exists() and path.samefile(one) for one in inputs)
    if is_input or not is_own:
        what = "is one of the inputs" if is_input else "exists, and this command did not write its content"
        msg = f"would be overwritten: it {what}; name another file, or remove it"
        raise HilumError(msg, path=path)


def _check_is_file(path: Path) -> None:
    is_special = path.absolute().parts[1:2] in (("dev",), ("proc",))
    if is_special or (path.exists() and not path.is_file()):
        msg = f"cannot be written: it must be a file{', is a folder' if path.is_dir() else ''}"
        raise HilumError(msg, path=path)


def holds(path: Path, mark: str) -> bool:
    """Whether the first 64 KiB of a file match a regular expression."""
    with path.open("rb") as file:
        return re.search(mark.encode(), file.read(1 << 16)) is not None


def csv_text(rows: Iterable[Iterable[object]]) -> str:
    """Rows as the text of a CSV file."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write_whole(
    path: Path,
    content: str | bytes | Sequence[bytes | memoryview],
    *,
    follow: bool = True,
    private: bool = False,
    mark: str = "",
) -> None:
    """Write a file atomically: to a temporary file beside it, which then replaces it.

    Args:
        path: The file.
        content: Its new content.
        follow: Whether a link is followed; else it is replaced.
        private: Whether only the owner can read the file, whatever the rights of the old one.
        mark: If given, only a file with this mark is overwritten, see ``check_output``.

    Raises:
        HilumError: If the file cannot be written, or is a folder or a device; no temporary file remains.
    """
    if mark:
        check_output(path, mark)
    parts = [content.encode()] if isinstance(content, str) else [content] if isinstance(content, bytes) else content
    rights = 0o600 if private else 0o666
    with (
        new_file(path, follow=follow) as new,
        open(new, "xb", opener=lambda name, flags: os.open(name, flags, rights)) as file,
    ):
        file.writelines(parts)


@contextlib.contextmanager
def new_file(path: Path, *, follow: bool = True, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path beside a file; it replaces the file at the end, if nothing was raised.

    Args:
        path: The file.
        suffix: End of the temporary name, for programs that choose a format by it.
        follow: Whether a link is followed; else it is replaced.

    Raises:
        HilumError: If the file cannot be written, or is a folder or a device; no temporary file remains.
    """
    if follow or not path.is_symlink():
        _check_is_file(path)
    if follow and path.is_symlink():
        try:
            path = path.resolve()
        except (OSError, RuntimeError) as exc:
            msg = "cannot be written: it is a link that leads in a circle"
            raise HilumError(msg, path=path) from exc
    new = path.with_name(f".{path.name}.{os.getpid()}.{machine_id()}{secrets.token_hex(2)}{suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield new
        new.replace(path)
    except OSError as exc:
        msg = f"cannot be written: {exc.strerror or exc}"
        raise HilumError(msg, path=path) from exc
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


_NEW_FILE = re.compile(r"\.(.+)\.(\d{1,10})\.([0-9a-f]{4})[0-9a-f]{4}(?:\.[a-z.]+)?")
"""Names of the temporary files of ``new_file``: of which file, process and machine."""


def sweep_new_files(folder: Path, names: Container[str]) -> None:
    """Remove what killed writers of some files left in a folder: their process does not exist on this machine."""
    if not folder.is_dir():
        return
    for entry in list(folder.iterdir()):
        match = _NEW_FILE.fullmatch(entry.name)
        if match and match[1] in names and match[3] == machine_id() and _has_ended(int(match[2])):
            with contextlib.suppress(OSError):
                entry.unlink()


def _has_ended(pid: int) -> bool:
    """Whether the writer of this number has ended: also if it was an earlier one with the number of this process.

    In a container every process may have the same number.
    """
    return pid == os.getpid() or not is_alive(pid)


def is_alive(pid: int) -> bool:
    """Whether a process exists on this machine; always true on Windows, where asking would end it."""
    if os.name == "nt":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


_NEW_FOLDER = re.compile(r"\.new\.(\d+)\.([0-9a-f]{4})")
_CGROUP = Path("/sys/fs/cgroup")
_sharers = 1


@contextlib.contextmanager
def whole_folder(folder: Path, is_stale: Callable[[Path], bool], *, last: str = ".json") -> Iterator[Path]:
    """A temporary folder in a folder, to which its files move once the block succeeds.

    What a killed writer left is removed first. It lies within the folder, which may be a file system of its own.

    Args:
        folder: The folder; made if it does not exist.
        is_stale: Which of its files are removed where no new file has their name.
        last: End of the name of the file that tells of the rest, and moves last.

    Raises:
        ConfigError: If the files cannot be written; no temporary folder remains.
    """
    is_new = not folder.exists()
    new = folder / f".new.{os.getpid()}.{machine_id()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in [file for file in folder.iterdir() if is_unfinished(file)]:
            shutil.rmtree(old, ignore_errors=True)
        new.mkdir()
        yield new
        files = sorted(new.iterdir(), key=lambda file: (file.name.endswith(last), file.name))
        old_files = [file for file in folder.iterdir() if not file.is_dir() and is_stale(file)]
        stale = [file for file in old_files if not (new / file.name).exists()]
        for file in files[:-1]:
            file.replace(folder / file.name)
        for old in stale:
            old.unlink()
        for file in files[-1:]:
            file.replace(folder / file.name)
    except OSError as exc:
        msg = f"the folder {folder} cannot be written: {exc.strerror or exc}"
        raise ConfigError(msg) from exc
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if is_new:
            with contextlib.suppress(OSError):  # unless it holds the files
                folder.rmdir()


def sync_to_disk(path: Path) -> None:
    """See to it that a file, or the list of a folder, survives a power failure from now on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_unfinished(path: Path) -> bool:
    """Whether a path is what a killed writer of ``whole_folder`` left."""
    match = _NEW_FOLDER.fullmatch(path.name)
    return match is not None and match[2] == machine_id() and _has_ended(int(match[1]))


def cores() -> int:
    """Cores that this process may use."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, number // _sharers)


def share_cores(sharers: int) -> None:
    """Limit this process to its share of the cores, next to other worker processes."""
    global _sharers
    _sharers = sharers


def free_bytes() -> float:
    """Memory that is still available on this machine, within the limit of a container."""
    free = math.inf
    for limit, used, stat, cached in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat", "total_inactive_file"),
    ):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            left = int((_CGROUP / limit).read_text()) - int((_CGROUP / used).read_text())
            with contextlib.suppress(OSError, ValueError):  # cached files make room when memory is short
                counts = dict(line.split() for line in (_CGROUP / stat).read_text().splitlines())
                left += int(counts.get(cached, 0))
            free = min(free, left)
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = min(free, int(line.split()[1]) * 1024)
    return float(max(free, 0))
