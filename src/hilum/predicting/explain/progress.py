"""Shows a bar where a map or its test takes longer than a moment."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

_PATIENCE_S = 2.0
"""Seconds before a bar is shown."""


@contextmanager
def progress_bar(is_shown: bool, what: str = "occlusion", unit: str = "cubes") -> Iterator[Callable[[int, int], None]]:
    """A function that takes the number of units that are done and of all."""
    with tqdm(desc=what, unit=f" {unit}", delay=_PATIENCE_S, disable=not is_shown or None, leave=False) as bar:

        def show(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show
