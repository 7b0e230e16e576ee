"""Prepared samples as a torch data set: HU, class and place; nothing random but the grids that are sampled."""

from dataclasses import dataclass
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int16, Int64
from torch import Tensor
from torch.utils.data import Dataset

from hilum.cohorts.batches import Drawn
from hilum.cohorts.labels import labels_of, targets_of
from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.table import Case, Cohort
from hilum.preparing import load_sample
from hilum.preparing.subvolumes import all_starts, channels, cut, random_start
from hilum.randomness import generator
from hilum.settings.recipe import Recipe
from hilum.volume import Volume


class Sample(TypedDict):
    """What the data set gives for one case.

    ``hu`` holds HU and, where the recipe asks for them, the lungs (0 or 1) as a second channel; ``starts`` is where the
    model's grids begin in it, (z, y, x); ``index`` is the case's place in its part; ``name`` is for its random numbers:
    the case's name, and another for each copy of it in an epoch.
    """

    hu: Int16[Tensor, "c z y x"]
    starts: Int64[Tensor, "n 3"]
    spacing_mm: Float64[Tensor, "3"]
    index: int
    name: str


def as_sample(volume: Volume, recipe: Recipe, index: int = 0, *, name: str = "") -> Sample:
    """A prepared volume as the network takes it: whole, with where its grids begin."""
    starts = all_starts(volume, recipe) if recipe.sub_volumes else np.zeros((1, 3), np.int64)
    return {
        "hu": torch.from_numpy(channels(volume, recipe)),
        "starts": torch.from_numpy(starts.astype(np.int64)),
        "spacing_mm": torch.tensor(volume.spacing_mm, dtype=torch.float64),
        "index": index,
        "name": name,
    }


class CohortDataset(Dataset[Sample]):
    """The cases of a prepared cohort that are in one part.

    Augmentation is the training loop's, so that validation and test cases can never be augmented.

    Args:
        prepared: The cohort.
        parts: Part of each case, by its id.
        part: The part that is wanted.
        num_classes: Classes of the cohort.
        recipe: With which it was prepared.
        seed: Of the sub-volumes that are drawn.

    Attributes:
        indices: Places of this part's cases in the cohort.
        names: What their random numbers go by.
        labels: Their classes, (n,); of a multi-label cohort 1 where a label is present, 0 where not, (n, c).
        targets: Their labels as a probability for each class; soft where the table has soft labels.
        weights: How much each counts in the loss.
    """

    def __init__(
        self,
        prepared: PreparedCohort,
        parts: dict[str, str],
        part: str,
        num_classes: int,
        recipe: Recipe,
        *,
        seed: int = 0,
    ) -> None:
        self.prepared = prepared
        self.recipe = recipe
        self.seed = seed
        self.indices = [i for i, case in enumerate(prepared.cases) if parts[case.case_id] == part]
        cases = [prepared.cases[i] for i in self.indices]
        self.names = [case.name for case in cases]
        self.labels = labels_of(cases)
        self.targets: Float64[np.ndarray, "n c"] = targets_of(cases, num_classes)
        self.weights: Float64[np.ndarray, " n"] = np.array([case.weight for case in cases], float)

    def __len__(self) -> int:
        return len(self.indices)

    def targets_of(self, places: list[int]) -> Float32[Tensor, "n c"]:
        """Targets of the cases at these places."""
        return torch.from_numpy(self.targets[places]).float()

    def weights_of(self, places: list[int]) -> Float32[Tensor, " n"]:
        """How much the cases at these places count in the loss."""
        return torch.from_numpy(self.weights[places]).float()

    def __getitem__(self, item: int | Drawn) -> Sample:
        """The case at a place of this part; as drawn, with ``sub_volumes``, the grid of this epoch and this copy."""
        place, epoch, copy = item if isinstance(item, tuple) else (item, None, 0)
        name = self.names[place] + (f"\0{copy}" if copy else "")  # no name has the character: names come from text
        volume = load_sample(self.prepared.samples[self.indices[place]])
        if epoch is None or not self.recipe.sub_volumes:
            return as_sample(volume, self.recipe, place, name=name)
        random = generator(self.seed, epoch, name, "sub-volume")
        return {
            "hu": torch.from_numpy(cut(volume, self.recipe, random_start(volume, self.recipe, random))),
            "starts": torch.zeros((1, 3), dtype=torch.int64),
            "spacing_mm": torch.tensor(volume.spacing_mm, dtype=torch.float64),
            "index": place,
            "name": name,
        }


def to_float(hu: Int16[Tensor, "b c z y x"], device: torch.device) -> Float32[Tensor, "b c z y x"]:
    """A batch of HU as the network's number type, on its device: int16 travels, half as many bytes."""
    return hu.to(device, non_blocking=True).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCohort:
    """A prepared cohort and its split: what a run is trained and validated on.

    Attributes:
        cohort: The table's classes and columns.
        prepared: The cases that can be used.
        parts: Part of each case, by its id.
    """

    cohort: Cohort
    prepared: PreparedCohort
    parts: dict[str, str]

    def cases(self, part: str) -> tuple[Case, ...]:
        """The usable cases of a part."""
        return tuple(case for case in self.prepared.cases if self.parts[case.case_id] == part)

    def dataset(self, part: str, recipe: Recipe, *, seed: int = 0) -> CohortDataset:
        """The samples of a part; see ``CohortDataset``."""
        return CohortDataset(self.prepared, self.parts, part, len(self.cohort.classes), recipe, seed=seed)
