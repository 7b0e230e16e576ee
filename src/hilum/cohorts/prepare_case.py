"""The task of a worker that prepares one case; imports no table readers, so that workers start quickly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hilum.preparing import Fetched, Store
from hilum.settings.run import Recipe, Triple
from hilum.volume import SourceScan, Tags


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A scan to prepare.

    Attributes:
        path: The scan; absolute, for a worker may have another working folder.
        point_mm: Centre of the grid, for region ``point``.
        series: The series to read, if the path holds several.
        mask: A lung mask; absolute too.
    """

    path: Path
    point_mm: Triple | None
    series: str
    mask: Path | None = None

    @property
    def which(self) -> dict[str, Any]:
        """Keyword arguments of ``Store.fetch``."""
        return {"point_mm": self.point_mm, "series": self.series, "mask": self.mask}


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The sample of a case.

    Attributes:
        file: Its file in the store.
        codes: Codes of its findings.
        made: Whether it was made now; else it was in the store.
        source: The whole scan; None if its sample does not tell.
        tags: Acquisition tags of the scan.
    """

    file: Path
    codes: frozenset[str]
    made: bool
    source: SourceScan | None
    tags: Tags

    @property
    def scan(self) -> str:
        """Digest of the scan's HU; empty if unknown."""
        return self.source.digest if self.source else ""


def find_case(task: Task, recipe: Recipe, store: Store) -> Done | None:
    """Look up the sample of a case without reading the scan; None if it is missing or the scan may have changed."""
    got = store.find(task.path, recipe, **task.which)
    return None if got is None else _done(got)


def prepare_case(task: Task, recipe: Recipe, store: Store) -> Done:
    """Look up the sample of a case, or make it.

    Raises:
        HilumError: If the scan cannot be read or prepared.
    """
    return _done(store.fetch(task.path, recipe, **task.which))


def _done(got: Fetched) -> Done:
    codes = frozenset(f.code for f in got.volume.findings)
    return Done(file=got.file, codes=codes, made=got.made, source=got.volume.source, tags=got.volume.tags)
