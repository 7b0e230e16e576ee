"""Memory between steps: kept with the process, so that each step does not map its large tensors anew."""

import ctypes
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_MMAP_MAX, _TRIM_THRESHOLD = 65536, 128 * 1024
"""Of glibc's malloc.h, and its defaults."""


def can_keep() -> bool:
    """Whether this is Linux with glibc, whose allocator can be told."""
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


@contextmanager
def kept_memory(on: bool = True) -> Iterator[None]:
    """Where freed memory stays with the process; elsewhere glibc gives each large tensor back and maps it anew.

    A page that is mapped anew is cleared first: that is a seventh of a training step.
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
