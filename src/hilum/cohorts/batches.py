"""Batches of an epoch: who is drawn in which, on one process or on several, from the seed and the epoch."""

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int
from torch.utils.data import Sampler

from hilum.cohorts.sampling import Decks, shared_out
from hilum.errors import ConfigError, require
from hilum.randomness import generator

Drawn = tuple[int, int, int]
"""A case's place in its part, the epoch in which it is drawn (processes that load samples outlive one), and which of
its copies in this epoch it is, from 0."""

Batch = tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]
"""Places of a batch's cases, and which of their copies they are."""


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
