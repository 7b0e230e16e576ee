"""The members that a run of folds shall have."""

from dataclasses import dataclass
from typing import ClassVar

from hilum.errors import require


@dataclass(frozen=True, slots=True, kw_only=True)
class FoldsPlan:
    """The members of a run of folds.

    Attributes:
        folds: Number of folds.
        seeds: Members of each fold.
        is_merged: Whether the run is an ensemble of other runs, and has no members of its own to train.
    """

    FORMAT: ClassVar[int] = 1

    folds: int
    seeds: int
    is_merged: bool = False

    def __post_init__(self) -> None:
        require(self.folds >= 2, "folds", "at least 2", self.folds)
        require(self.seeds >= 1, "seeds", "at least 1", self.seeds)
