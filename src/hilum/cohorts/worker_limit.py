"""Limits the number of scans prepared at once by the free memory."""

import os
from collections.abc import Sequence
from pathlib import Path

from hilum.errors import HilumError
from hilum.files import cores, free_bytes
from hilum.reading.paths import source_files

_PROCESS_BYTES = 300e6
"""Memory of a process before it reads a scan: 230 MB measured, plus a reserve."""

_BYTES_FOR_SOURCE = 6.0
"""Peak memory of preparing for each byte of a scan's files: 1.1 to 2.5 measured; more for compressed files."""

_ASKED = 64
"""Scans, spread over the cohort, whose sizes are looked up; thousands would take minutes on a network share."""


def worker_limit(paths: Sequence[Path], wanted: int = 0) -> tuple[int, str]:
    """Number of scans to prepare at once, and a warning if memory allows fewer than wanted.

    Args:
        paths: The scans.
        wanted: The number that the user wants; 0: one for each core.
    """
    wanted = max(1, min(wanted or cores(), len(paths)))
    step = max(1, len(paths) // _ASKED)
    largest = max(map(_size, paths[::step]), default=0)
    each, free = _PROCESS_BYTES + _BYTES_FOR_SOURCE * largest, free_bytes()
    fitting = max(1, int(free / each))
    if fitting >= wanted:
        return wanted, ""
    return fitting, (
        f"{fitting} instead of {wanted} scans at once: the largest may take {each / 1e9:.1f} GB, {free / 1e9:.1f} GB "
        "of memory are free"
    )


def _size(path: Path) -> int:
    """Bytes of a scan's files; 0 if they cannot be listed, for reading reports that."""
    try:
        return sum(os.stat(file).st_size for file in source_files(path, []))  # noqa: PTH116
    except (OSError, HilumError):
        return 0
