"""Memory that does not suffice ends in one line of advice, not in a traceback."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from hilum.errors import ResourceError

__all__ = ["within_memory"]

_SIGNS = re.compile(
    r"out of memory|(can't|Cannot) allocate memory|not enough memory|bad_alloc|could not (create|execute) a primitive$"
)
"""What CUDA and MPS, the CPU allocator, safetensors, Windows, C++ and oneDNN say, each as a RuntimeError."""


@contextmanager
def within_memory(doing: str, advice: str) -> Iterator[None]:
    """Do something that may need more memory than there is.

    Args:
        doing: What is computed, on what.
        advice: What a user can do, as a whole clause.

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
