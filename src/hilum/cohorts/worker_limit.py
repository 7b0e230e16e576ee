"""How many scans are worked on at once, within memory."""

import os
from collections.abc import Sequence
from pathlib import Path

from hilum.errors import HilumError
from hilum.files import cores, free_bytes
from hilum.reading.paths import source_files

_PROCESS_BYTES = 300e6
"""What a process holds before it reads anything (230 MB measured, and some to spare)."""

_BYTES_FOR_SOURCE = 6.0
"""Most that preparing holds for each byte of a scan's files: 1.1 to 2.5 measured; compressed ones more."""

_ASKED = 64
"""The sizes of so many scans, spread over the cohort, are looked up; of thousands it would take minutes on a share."""


def worker_limit(paths: Sequence[Path], wanted: int = 0) -> tuple[int, str]:
    """How many scans are worked on at once, and why not more where memory allows fewer than were wanted.

    Args:
        paths: The scans.
        wanted: How many the user wants; 0: as many as there are cores.
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
    """Bytes of a scan's files; 0 where that cannot be known, as reading will say why."""
    try:
        return sum(os.stat(file).st_size for file in source_files(path, []))  # noqa: PTH116
    except (OSError, HilumError):
        return 0
