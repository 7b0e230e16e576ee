"""Prepared samples as a torch data set: HU, class and place, nothing random but who is seen and which grid of them."""

import math
from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int16, Int64
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hilum.cohorts.labels import labels_of, targets_of
from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.sampling import Decks, shared_out
from hilum.errors import ConfigError, require
from hilum.preparing import load_sample
from hilum.preparing.subvolumes import all_starts, channels, cut, random_start
from hilum.randomness import generator
from hilum.recipe import Recipe
from hilum.volume import Volume


class Sample(TypedDict):
    """What the data set gives for one case.

    ``hu`` holds HU and, where the recipe asks for them, the lungs (0 or 1) as a second channel; ``starts`` is where the
    model's grids begin in it, (z, y, x); ``index`` is the case's place in its part; ``name`` is for its random numbers:
    the case's id, and another for each copy of it in an epoch.
    """

    hu: Int16[Tensor, "c z y x"]
    starts: Int64[Tensor, "n 3"]
    spacing_mm: Float64[Tensor, "3"]
    index: int
    name: str


Drawn = tuple[int, int, int]
"""A case's place in its part, the epoch in which it is drawn (processes that load samples outlive one), and which of
its copies in this epoch it is, from 0."""

Batch = tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]
"""Places of a batch's cases, and which of their copies they are."""


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
        case_ids: Their ids.
        labels: Their classes, (n,); of a multi-label cohort 1 where a finding is present, 0 where not, (n, c).
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
        self.case_ids = [case.case_id for case in cases]
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
        name = self.case_ids[place] + (f"\0{copy}" if copy else "")  # no id has the character: ids come from text
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


class EpochBatches(Sampler[list[int]]):
    """Batches of an epoch, shuffled by (seed, epoch) alone; without a seed in order.

    A last batch of one case joins the batch before it: batch normalisation cannot be computed on one.

    With several ranks the draws of an epoch are shared out: each is on one rank, all draws of a case on the same. Every
    rank has as many batches as the others, of sizes that differ by one at most and are never 1: nothing is added,
    repeated or left out, and no rank waits for another's batch. Where there would be a batch of one, batches are
    larger by one, as with one process; with a ``batch_size`` of 1 or 2 they may be of up to 4.

    Args:
        num_cases: Of the part.
        batch_size: Of one rank.
        seed: Of the run.
        decks: How often each case is drawn in an epoch; by default once.
        rank: Which of the processes that train together this one is.
        world_size: How many they are.

    Attributes:
        epoch: Set before each epoch.
        first: The batch with which the epoch begins, to go on after a stop: the number of steps that were taken. (What
            loads samples is ahead of the steps, so batches do not count themselves.) Set it to 0 for the next epoch.

    Raises:
        ConfigError: If there are decks without a seed or of other cases, the rank is none of them, ``first`` lies
            behind the epoch, or the draws of an epoch cannot be shared out so.
    """

    def __init__(
        self,
        num_cases: int,
        batch_size: int,
        *,
        seed: int | None = None,
        decks: Decks | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        require(0 <= rank < world_size, "rank", f"at least 0 and below world_size = {world_size}", rank)
        if decks is not None:
            require(seed is not None, "seed", "given where cases are drawn from decks", seed)
            require(decks.num_cases == num_cases, "decks", f"of {num_cases} cases", decks.num_cases)
        self.num_cases = num_cases
        self.batch_size = batch_size
        self.seed = seed
        self.decks = decks
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self.first = 0
        self._kept: tuple[int, list[Batch]] | None = None

    @property
    def num_batches(self) -> int:
        """Batches of the whole epoch, wherever it begins."""
        return len(self._batches())

    def __len__(self) -> int:
        """Batches from ``first`` on."""
        return len(self._from_first())

    def __iter__(self) -> Iterator[list[int]]:
        for places, _ in self._from_first():
            yield places.tolist()

    def drawn(self) -> Iterator[list[Drawn]]:
        """The same batches, each case with the epoch and the number of its copy."""
        epoch = self.epoch
        for places, copies in self._from_first():
            yield [(place, epoch, copy) for place, copy in zip(places.tolist(), copies.tolist(), strict=True)]

    def _from_first(self) -> list[Batch]:
        batches = self._batches()
        require(0 <= self.first <= len(batches), "first", f"0 to {len(batches)}, the batches of an epoch", self.first)
        return batches[self.first :]

    def _batches(self) -> list[Batch]:
        """Those of the epoch, computed once."""
        if self._kept is None or self._kept[0] != self.epoch:
            self._kept = self.epoch, self._computed()
        return self._kept[1]

    def _computed(self) -> list[Batch]:
        times = np.ones(self.num_cases, int) if self.decks is None else self.decks.times(self.epoch)
        places = np.repeat(np.arange(self.num_cases), times)
        copies = np.arange(len(places)) - np.repeat(np.cumsum(times) - times, times)
        order = np.arange(len(places))
        if self.seed is not None:
            order = generator(self.seed, self.epoch, "order").permutation(len(places))
        if self.world_size == 1:
            batches = [order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size)]
            if len(batches) > 1 and len(batches[-1]) == 1:
                batches[-2:] = [np.concatenate(batches[-2:])]
        else:
            ranks = shared_out(times, self.world_size, generator(self.seed or 0, self.epoch, "ranks"))
            loads = np.bincount(ranks, weights=times, minlength=self.world_size).astype(int)
            batches = np.array_split(order[ranks[places[order]] == self.rank], self._num_steps(loads))
        return [(places[batch], copies[batch]) for batch in batches]

    def _num_steps(self, loads: Int[np.ndarray, " ranks"]) -> int:
        """Batches of each rank, where they have so many draws."""
        least, most = int(loads.min()), int(loads.max())
        steps = min(math.ceil(most / self.batch_size), least // 2)
        if not steps or most > steps * max(self.batch_size + 1, 4):
            msg = (
                f"the draws of an epoch must make as many batches of at least 2 and about {self.batch_size} on each of "
                f"{self.world_size} processes, with all draws of a case on one; got {loads.sum()} draws, {least} to "
                f"{most} for a process. Take fewer processes, or a method of sampling that repeats cases less often"
            )
            raise ConfigError(msg)
        return steps


class DrawnBatches(Sampler[list[Drawn]]):
    """The same batches, each case with the epoch and the number of its copy, for a data set that draws."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Drawn]]:
        return self.batches.drawn()


def to_float(hu: Int16[Tensor, "b c z y x"], device: torch.device) -> Float32[Tensor, "b c z y x"]:
    """A batch of HU as the network's number type, on its device: int16 travels, half as many bytes."""
    return hu.to(device, non_blocking=True).float()
