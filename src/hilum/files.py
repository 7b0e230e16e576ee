"""Files that are there as a whole or not at all, and how many cores this process may use."""

import contextlib
import os
import secrets
from pathlib import Path

from hilum.errors import HilumError


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file beside its place first and move it there; what was there before stays until then.

    Raises:
        HilumError: If it cannot be written, or is a folder or a device; nothing is left behind.
    """
    is_special = path.absolute().parts[1:2] in (("dev",), ("proc",))
    if is_special or (path.exists() and not path.is_file()):
        msg = f"{path} cannot be written: it must be a file"
        raise HilumError(msg)
    if path.is_symlink():
        path = path.resolve()
    new = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(content.encode() if isinstance(content, str) else content)
        new.replace(path)
    except OSError as exc:
        msg = f"{path} cannot be written: {exc.strerror or exc}"
        raise HilumError(msg) from exc
    finally:
        with contextlib.suppress(OSError):
            new.unlink()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
