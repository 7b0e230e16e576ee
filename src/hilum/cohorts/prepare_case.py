"""One case brought into the store: what each worker does; without what reads tables, so that workers start quickly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilum.errors import HilumError, StoreError
from hilum.preparing import Fetched, Store
from hilum.settings.run import Recipe, Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A scan and what of it is wanted.

    Attributes:
        number: The case's place in its cohort.
        path: The scan; absolute, as a worker may have another working folder.
        point_mm: Centre of the grid, for region ``point``.
        series: Which series, where the path holds several.
        mask: A mask of its lungs; absolute likewise.
    """

    number: int
    path: Path
    point_mm: Triple | None
    series: str
    mask: Path | None = None

    @property
    def which(self) -> dict[str, Any]:
        """What of the scan, as ``Store.fetch`` takes it."""
        return {"point_mm": self.point_mm, "series": self.series, "mask": self.mask}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """A case's sample.

    Attributes:
        file: Where it lies.
        codes: Of its findings.
        made: Whether it was made only now.
        scan: Digest of its scan's HU.
    """

    file: Path
    codes: frozenset[str]
    made: bool
    scan: str


def find_case(task: Task, recipe: Recipe, store: Store) -> tuple[int, Done | HilumError | None]:
    """The case's number, and its sample if it is there and its scan is known by its files' times; else None."""
    got = store.find(task.path, recipe, **task.which)
    return task.number, None if got is None else _done(got)


def prepare_case(task: Task, recipe: Recipe, store: Store) -> tuple[int, Done | HilumError | None]:
    """The case's number, and its sample; or why there is none."""
    try:
        return task.number, _done(store.fetch(task.path, recipe, **task.which))
    except StoreError:
        raise
    except HilumError as exc:
        return task.number, exc
    except (OSError, MemoryError) as exc:
        return task.number, HilumError(f"{type(exc).__name__}: {exc}"[:200])


def _done(got: Fetched) -> Done:
    codes = frozenset(f.code for f in got.volume.findings)
    return Done(file=got.file, codes=codes, made=got.made, scan=got.volume.scan)
