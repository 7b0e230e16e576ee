"""Files that are there as a whole or not at all, and how many cores and how much memory this process may use."""

import contextlib
import hashlib
import math
import os
import platform
import secrets
from collections.abc import Sequence
from pathlib import Path

from hilum.errors import HilumError


def here() -> str:
    """Four hexadecimal digits that tell this machine from another one that writes to the same folder."""
    return hashlib.blake2b(platform.node().encode(), digest_size=2).hexdigest()


def write_whole(
    path: Path, content: str | bytes | Sequence[bytes | memoryview], *, follow: bool = True, private: bool = False
) -> None:
    """Write a file beside its place first and move it there; what was there before stays until then.

    Args:
        path: The file.
        content: What it will hold.
        follow: Whether a link there is followed, or replaced.
        private: Whether only its owner can read it, whoever could read what was there before.

    Raises:
        HilumError: If it cannot be written, or is a folder or a device; nothing is left behind.
    """
    is_special = path.absolute().parts[1:2] in (("dev",), ("proc",))
    if is_special or (path.exists() and not path.is_file() and (follow or not path.is_symlink())):
        msg = f"{path} cannot be written: it must be a file"
        raise HilumError(msg)
    if follow and path.is_symlink():
        try:
            path = path.resolve()
        except (OSError, RuntimeError) as exc:
            msg = f"{path} cannot be written: it is a link that leads in a circle"
            raise HilumError(msg) from exc
    new = path.with_name(f".{path.name}.{os.getpid()}.{here()}{secrets.token_hex(2)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = (
            (content.encode(),) if isinstance(content, str) else (content,) if isinstance(content, bytes) else content
        )
        with open(new, "xb", opener=lambda name, flags: os.open(name, flags, 0o600 if private else 0o666)) as file:
            for part in parts:
                file.write(part)
        new.replace(path)
    except OSError as exc:
        msg = f"{path} cannot be written: {exc.strerror or exc}"
        raise HilumError(msg) from exc
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


_sharers = 1


def cores() -> int:
    """Cores that this process may use."""
    number = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, number // _sharers)


def share_cores(sharers: int) -> None:
    """From now on this process uses no more than its share of the cores beside others like it."""
    global _sharers
    _sharers = sharers


def free_bytes() -> float:
    """Memory that this process and its children may still take: of the machine, within a container's limit."""
    free = math.inf
    for name, own in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        with contextlib.suppress(OSError, ValueError):  # ValueError: "max"
            folder = Path("/sys/fs/cgroup")
            free = min(free, int((folder / name).read_text()) - int((folder / own).read_text()))
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = min(free, int(line.split()[1]) * 1024)
    return float(max(free, 0))
