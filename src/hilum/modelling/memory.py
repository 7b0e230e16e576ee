"""Keeps freed memory between steps, and turns an allocation that fails into one line of advice."""

import ctypes
import platform
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from hilum.errors import ResourceError

_SIGNS = re.compile(
    r"out of memory|(can't|Cannot) allocate memory|not enough memory|bad_alloc|could not (create|execute) a primitive$"
)
"""Messages of CUDA and MPS, the CPU allocator, safetensors, Windows, C++ and oneDNN, all in a RuntimeError."""


@contextmanager
def within_memory(doing: str, advice: str) -> Iterator[None]:
    """A context for work that may need more memory than there is.

    Args:
        doing: The work, for the message.
        advice: Advice to the user, as a whole clause.

    Raises:
        ResourceError: If an allocation fails; other errors pass as they are.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as exc:
        said = " ".join(str(exc).split())
        if not isinstance(exc, MemoryError) and not _SIGNS.search(said):
            raise
        at = min((said.find(word) for word in ("you tried", "Tried to allocate") if word in said), default=-1)
        asked = f" ({said[at:].split('. ')[0].rstrip('.')})" if at >= 0 else ""
        msg = f"out of memory while {doing}{asked}; {advice}"
        raise ResourceError(msg) from exc


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MMAP_MAX, _TRIM_THRESHOLD = 65536, 128 * 1024
"""Constants of glibc's malloc.h, and their default values."""


def can_keep() -> bool:
    """Whether this is Linux with glibc, whose allocator can be configured."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


@contextmanager
def kept_memory(on: bool = True) -> Iterator[None]:
    """A context in which freed memory stays with the process; by default glibc unmaps each large tensor.

    The kernel clears each page that is mapped again: that takes a seventh of a training step.
    """
    if not on or not can_keep():
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(_M_MMAP_MAX, 0)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        libc.mallopt(_M_MMAP_MAX, _MMAP_MAX)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD)
        libc.malloc_trim(0)
