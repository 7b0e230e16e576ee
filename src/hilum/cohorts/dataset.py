"""Prepared samples as a torch data set: HU, spacing and index; nothing random but the positions of sub-volumes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int16, Int64
from torch import Tensor
from torch.utils.data import Dataset

from hilum.cohorts.batches import Drawn
from hilum.cohorts.labels import labels_of, targets_of
from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.table import Case, Cohort
from hilum.errors import PrepareError
from hilum.preparing import load_sample
from hilum.preparing.subvolumes import all_starts, channels, cut, random_start
from hilum.randomness import generator
from hilum.settings.recipe import Recipe
from hilum.volume import Volume


class Sample(TypedDict):
    """One item of the data set.

    ``hu`` holds HU and, if the recipe asks for it, the lung mask (0 or 1) as a second channel; ``starts`` are the first
    voxels (z, y, x) of the model's grids in it; ``index`` is the case's index in its part; ``name`` keys its random
    numbers: the case's name, with a suffix for each further copy in an epoch. ``target`` holds a probability for each
    class, or for each label of several; a sample that is only predicted has none.
    """

    hu: Int16[Tensor, "c z y x"]
    starts: Int64[Tensor, "n 3"]
    spacing_mm: Float64[Tensor, "3"]
    index: int
    name: str
    target: NotRequired[Float32[Tensor, " classes"]]


def as_sample(volume: Volume, recipe: Recipe, index: int = 0, *, name: str = "") -> Sample:
    """Convert a whole prepared volume to a sample, with the starts of its grids."""
    starts = all_starts(volume, recipe) if recipe.sub_volumes else np.zeros((1, 3), np.int64)
    return {
        "hu": torch.from_numpy(channels(volume, recipe)),
        "starts": torch.from_numpy(starts.astype(np.int64)),
        "spacing_mm": torch.tensor(volume.spacing_mm, dtype=torch.float64),
        "index": index,
        "name": name,
    }


def _is_in(part: str, case: Case, parts: Mapping[str, str]) -> bool:
    return parts[case.case_id] == part and (case.is_labelled or part == "train")


class CohortDataset(Dataset[Sample]):
    """The cases of a prepared cohort that are in one part; those with a soft label alone only to be trained on.

    The training loop augments, not the data set, so that validation and test cases can never be augmented.

    Args:
        prepared: The cohort.
        parts: Part of each case, by its id.
        part: The part of this data set.
        num_classes: Classes of the cohort.
        recipe: The recipe with which the cohort was prepared.
        seed: Seed of the random sub-volumes.

    Attributes:
        indices: Indices of this part's cases in the cohort.
        names: Names of the cases, which key their random numbers.
        labels: Class of each case, (n,); for a multi-label cohort 1 or 0 for each label, (n, c).
        is_labelled: Whether each has a label; a case with a soft label alone counts in no statistics of the classes.
        targets: Probability of each class; soft where the table has soft labels.
        weights: Weight of each case in the loss.
        auxiliary: Value of each auxiliary target; NaN where there is none.
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
        self.indices = [i for i, case in enumerate(prepared.cases) if _is_in(part, case, parts)]
        cases = [prepared.cases[i] for i in self.indices]
        self.names = [case.name for case in cases]
        self.labels = labels_of(cases)
        self.is_labelled: Bool[np.ndarray, " n"] = np.array([case.is_labelled for case in cases], bool)
        self.targets: Float64[np.ndarray, "n c"] = targets_of(cases, num_classes)
        self.weights: Float64[np.ndarray, " n"] = np.array([case.weight for case in cases], float)
        self.auxiliary: Float64[np.ndarray, "n a"] = np.array([case.auxiliary for case in cases], float)

    def __len__(self) -> int:
        return len(self.indices)

    def check(self) -> None:
        """Load every sample.

        Raises:
            PrepareError: If one is missing or damaged; the text names its case.
        """
        for place in range(len(self)):
            self._volume(place)

    def _volume(self, place: int) -> Volume:
        try:
            return load_sample(self.prepared.samples[self.indices[place]])
        except PrepareError as exc:
            msg = f"case {self.prepared.cases[self.indices[place]].case_id!r}: {exc.message}"
            raise PrepareError(msg, path=exc.path, hint="hilum prepare makes it anew") from exc

    def targets_of(self, places: list[int]) -> Float32[Tensor, "n c"]:
        """Targets of the cases with these indices."""
        return torch.from_numpy(self.targets[places]).float()

    def weights_of(self, places: list[int]) -> Float32[Tensor, " n"]:
        """Weights in the loss of the cases with these indices."""
        return torch.from_numpy(self.weights[places]).float()

    def __getitem__(self, item: int | Drawn) -> Sample:
        """The case of an index; with ``sub_volumes``, an item with epoch and copy gives a random grid of the case."""
        place, epoch, copy = item if isinstance(item, tuple) else (item, None, 0)
        name = self.names[place] + (f"\0{copy}" if copy else "")  # no name has the character: names come from text
        volume, target = self._volume(place), self.targets_of([place])[0]
        if epoch is None or not self.recipe.sub_volumes:
            return {**as_sample(volume, self.recipe, place, name=name), "target": target}
        random = generator(self.seed, epoch, name, "sub-volume")
        return {
            "hu": torch.from_numpy(cut(volume, self.recipe, random_start(volume, self.recipe, random))),
            "starts": torch.zeros((1, 3), dtype=torch.int64),
            "spacing_mm": torch.tensor(volume.spacing_mm, dtype=torch.float64),
            "index": place,
            "name": name,
            "target": target,
        }


def to_float(hu: Int16[Tensor, "b c z y x"], device: torch.device) -> Float32[Tensor, "b c z y x"]:
    """Move a batch of HU to a device and convert it to float32 there; int16 halves the transfer."""
    return hu.to(device, non_blocking=True).float()


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitCohort:
    """A prepared cohort and its split.

    Attributes:
        cohort: The cases and classes of the table.
        prepared: The usable cases.
        parts: Part of each case, by its id.
        leakage: Sentence on leaks between the parts; empty if there are none.
    """

    cohort: Cohort
    prepared: PreparedCohort
    parts: dict[str, str]
    leakage: str = ""

    def cases(self, part: str) -> tuple[Case, ...]:
        """The usable cases of a part; those with a soft label alone only to be trained on."""
        return tuple(case for case in self.prepared.cases if _is_in(part, case, self.parts))

    def dataset(self, part: str, recipe: Recipe, *, seed: int = 0) -> CohortDataset:
        """The samples of a part; see ``CohortDataset``."""
        return CohortDataset(self.prepared, self.parts, part, len(self.cohort.classes), recipe, seed=seed)
