"""How often each case is sampled in an epoch, by class: exact, from the seed and the epoch."""

import math
from heapq import heapreplace

import numpy as np
from jaxtyping import Bool, Int, Shaped

from hilum.cohorts.labels import Labels
from hilum.errors import CohortError
from hilum.randomness import generator
from hilum.settings.imbalance import SamplingName

_NEW = 0, 0, np.empty(0, int)
"""State of a class before its first epoch: no epoch done, no deck shuffled, no case left in the deck."""


def draws(
    method: SamplingName, counts: Int[np.ndarray, " c"], *, epoch: int = 1, epochs: int = 1
) -> Int[np.ndarray, " c"]:
    """Number of draws of each class in an epoch; their sum is the same in every epoch.

    - ``none``: n_c, as many as it has cases.
    - ``over``: max n; ``under``: min n; ``combined``: sqrt(min n * max n), rounded.
    - ``balanced``: N / C; there are N draws in all, as there are cases.
    - ``progressive``: (1 - t) n_c + t N / C, with t from 0 in the first epoch to 1 in the last (Kang et al. 2020,
      arXiv:1910.09217); N draws in all. A run of one epoch has a first epoch alone.

    Fractional shares of N are rounded down, and the remaining draws go to the classes with the largest remainders, one
    each; ties go to the rarer class, then to the first. Nothing is computed in floating point.

    Args:
        method: Method of ``SamplingConfig``.
        counts: Cases of each class.
        epoch: Number of the epoch, from 1; only ``progressive`` depends on it.
        epochs: Epochs of the run.

    Raises:
        CohortError: If a class has no case.

    Example:
        >>> draws("combined", np.array([400, 100])).tolist()
        [200, 200]
    """
    _check_counts("class", counts)
    least, most = int(counts.min()), int(counts.max())
    if method in ("over", "under", "combined"):
        root = (math.isqrt(4 * least * most) + 1) // 2  # no whole number has a root that ends in a half
        return np.full_like(counts, {"over": most, "under": least, "combined": root}[method])
    steps = max(epochs - 1, 1)
    gone = {"none": 0, "balanced": steps}.get(method, min(max(epoch - 1, 0), epochs - 1))
    total, num_classes = int(counts.sum()), len(counts)
    shares, remainders = np.divmod((steps - gone) * num_classes * counts + gone * total, num_classes * steps)
    shares[np.lexsort((counts, -remainders))[: total - shares.sum()]] += 1
    return shares


def strata(present: Shaped[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
    """Stratum of each case of a multi-label cohort, for sampling: its rarest label, or a stratum of cases without any.

    Of equally rare labels the first counts. Strata are numbered from 0 without gaps: a label that never occurs without
    a rarer one has none.

    Args:
        present: 1 or True where a case (row) has a label (column), else 0 or False.

    Raises:
        CohortError: If a label has no case, or an entry is something else.

    Example:
        >>> strata(np.array([[0, 0], [1, 0], [1, 0], [1, 1]])).tolist()
        [0, 1, 1, 2]
    """
    odd = ~np.isin(present, (0, 1))
    if odd.any():
        msg = f"labels must be 0 or 1 to be sampled by, got {present[odd][0]}"
        raise CohortError(msg)
    has = present.astype(bool)
    _check_counts("label", has.sum(axis=0))
    return np.unique(rarest(has), return_inverse=True)[1]


def rarest(has: Bool[np.ndarray, "n k"]) -> Int[np.ndarray, " n"]:
    """Index of the rarest label of each case, the first of equally rare ones; -1 for cases without labels."""
    often = np.where(has, has.sum(axis=0), len(has) + 1)
    return np.where(has.any(axis=1), often.argmin(axis=1), -1)


def drawn_by(labels: Labels) -> Int[np.ndarray, " n"]:
    """The class by which each case is sampled: its own, or for several labels its stratum."""
    return labels if labels.ndim == 1 else strata(labels)


def num_draws(labels: Labels, method: SamplingName) -> int:
    """Number of draws in each epoch of these training cases."""
    return len(labels) if method == "none" else int(draws(method, np.bincount(drawn_by(labels))).sum())


class Decks:
    """How often each case is drawn in each epoch.

    The cases of a class are a deck of cards. Each epoch takes every case as often as the draws divide evenly; the
    remaining draws take the next cards of a shuffled deck, epoch after epoch, and an empty deck is shuffled anew. So
    two cases of a class differ by one draw at most, in an epoch and after any number of epochs. Any epoch can be
    computed directly; only the shuffles of the earlier ones are repeated.

    Args:
        labels: Class of each case; for several labels, its stratum.
        method: Method of ``SamplingConfig``.
        seed: Seed of the run.
        epochs: Epochs of the run.
        num_classes: Classes of the cohort; 0: as many as the labels have.

    Raises:
        CohortError: If a class has no case.

    Example:
        >>> Decks(np.array([0, 0, 0, 1]), "over").times(1).tolist()
        [1, 1, 1, 3]
    """

    def __init__(
        self,
        labels: Int[np.ndarray, " n"],
        method: SamplingName,
        *,
        seed: int = 0,
        epochs: int = 1,
        num_classes: int = 0,
    ) -> None:
        self.method = method
        self.seed = seed
        self.epochs = epochs
        self.num_cases = len(labels)
        self.counts: Int[np.ndarray, " c"] = np.bincount(labels, minlength=num_classes)
        _check_counts("class", self.counts)
        self._dealt: dict[int, tuple[int, int, np.ndarray]] = {}  # state of each class after the last hand
        self._members = np.split(np.argsort(labels, kind="stable"), np.cumsum(self.counts)[:-1])

    def draws(self, epoch: int) -> Int[np.ndarray, " c"]:
        """Number of draws of each class in an epoch."""
        return draws(self.method, self.counts, epoch=epoch, epochs=self.epochs)

    def times(self, epoch: int) -> Int[np.ndarray, " n"]:
        """How often each case is drawn in an epoch; epochs count from 1."""
        now = self.draws(epoch)
        before = [self.draws(e) if self.method == "progressive" else now for e in range(1, epoch)]
        times = np.empty(self.num_cases, int)
        for number, (members, dealt) in enumerate(zip(self._members, np.array([*before, now]).T, strict=True)):
            whole, rest = np.divmod(dealt, len(members))
            times[members] = whole[-1]
            times[members[self._hand(number, rest.tolist())]] += 1
        return times

    def _hand(self, number: int, sizes: list[int]) -> Int[np.ndarray, " h"]:
        """Deal hands of these sizes to a class; returns the last one.

        A hand that a deck cannot fill continues with the next deck, skipping cases already in the hand; these stay in
        that deck.
        """
        dealt, num_decks, deck = self._dealt.get(number, _NEW)
        if dealt >= len(sizes):
            dealt, num_decks, deck = _NEW
        for size in sizes[dealt:]:
            hand, deck = deck[:size], deck[size:]
            if len(hand) < size:
                cards = generator(self.seed, "deck", number, num_decks).permutation(int(self.counts[number]))
                held = np.zeros(len(cards), bool)
                held[hand] = True
                fresh = ~held[cards]
                fresh[np.flatnonzero(fresh)[size - len(hand) :]] = False
                hand, deck, num_decks = np.concatenate([hand, cards[fresh]]), cards[~fresh], num_decks + 1
        self._dealt[number] = len(sizes), num_decks, deck
        return hand


def shared_out(times: Int[np.ndarray, " n"], world_size: int, random: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Distribute cases over ranks, with all draws of a case on one rank and the ranks as even as possible.

    Cases are assigned in descending number of draws, each to the rank with the fewest draws so far.

    Args:
        times: Number of draws of each case.
        world_size: Processes that train together.
        random: Orders cases with equally many draws.
    """
    order = random.permutation(len(times))
    order = order[np.argsort(-times[order], kind="stable")]
    loads = [(0, rank) for rank in range(world_size)]
    ranks = []
    for many in times[order].tolist():
        load, rank = loads[0]
        ranks.append(rank)
        heapreplace(loads, (load + many, rank))
    out = np.empty(len(times), int)
    out[order] = ranks
    return out


def _check_counts(what: str, counts: Int[np.ndarray, " c"]) -> None:
    if not len(counts) or not counts.all():
        absent = ", ".join(map(str, np.flatnonzero(counts == 0))) or "any"
        msg = f"every {what} must have a training case to be drawn, got counts {counts.tolist()}: none of {absent}"
        raise CohortError(msg)
