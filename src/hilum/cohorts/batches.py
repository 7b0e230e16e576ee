"""Batches of an epoch, on one process or several, from the seed and the epoch alone."""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from torch.utils.data import Sampler

from hilum.cohorts.sampling import Decks, shared_out
from hilum.errors import ConfigError, require
from hilum.randomness import generator

Drawn = tuple[int, int, int]
"""Index of a case in its part, the epoch (loader processes outlive an epoch), and the number of its copy in this
epoch, from 0."""

Batch = tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]
"""Indices of a batch's cases, and the numbers of their copies."""


class EpochBatches(Sampler[list[int]]):
    """Batches of an epoch, shuffled by (seed, epoch) alone; without a seed in order.

    A last batch of one case joins the batch before it, for batch normalisation needs two cases.

    With several ranks the draws of an epoch are distributed: each draw on one rank, all draws of a case on the same.
    Every rank has the same number of batches, of sizes that differ by one at most and are never 1: nothing is added,
    repeated or left out, and no rank waits for another. Where there would be a batch of one, batches are larger by
    one, as with one process; with a ``batch_size`` of 1 or 2 they may hold up to 4 cases.

    Args:
        num_cases: Cases of the part.
        batch_size: Cases in a batch of one rank.
        seed: Seed of the run.
        decks: How often each case is drawn in an epoch; None: once.
        rank: Number of this process among those that train together.
        world_size: Number of processes that train together.

    Attributes:
        epoch: Set before each epoch.
        first: First batch of the epoch, to continue after a stop: the number of steps already taken. (Loaders run
            ahead of the steps, so batches are not counted as they are loaded.) Set it to 0 for the next epoch.

    Raises:
        ConfigError: If decks are given without a seed or for other cases, the rank is out of range, ``first`` lies
            beyond the epoch, or the draws of an epoch cannot be distributed in this way.
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
        """Batches of the whole epoch, whatever ``first`` is."""
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
        """All batches of the epoch, computed once."""
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
        """Batches of each rank, given the number of draws of each."""
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
    """The same batches, each case with the epoch and the number of its copy, for a randomly cropping data set."""

    def __init__(self, batches: EpochBatches) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Drawn]]:
        return self.batches.drawn()
