"""Who is drawn in an epoch and how often, so that rare classes are seen enough: exact, from the seed and the epoch."""

import math
from heapq import heapreplace

import numpy as np
from jaxtyping import Bool, Int, Shaped

from hilum.cohorts.labels import Labels
from hilum.errors import CohortError
from hilum.randomness import generator
from hilum.settings.imbalance import SamplingName

_NEW = 0, 0, np.empty(0, int)
"""Nothing is dealt: no hand, no deck, no card left of it."""


def draws(
    method: SamplingName, counts: Int[np.ndarray, " c"], *, epoch: int = 1, epochs: int = 1
) -> Int[np.ndarray, " c"]:
    """How many draws each class has in an epoch; their sum is the same in every epoch.

    - ``none``: n_c, as many as it has cases.
    - ``over``: max n; ``under``: min n; ``combined``: sqrt(min n * max n), rounded.
    - ``balanced``: N / C; there are N draws in all, as there are cases.
    - ``progressive``: (1 - t) n_c + t N / C, with t from 0 in the first epoch to 1 in the last (Kang et al. 2020,
      arXiv:1910.09217); N draws in all. A run of one epoch has a first epoch alone.

    Shares of N that are no whole numbers are rounded down, and what is left goes by the largest remainder, one draw
    each; of equal ones to the rarer class, then to the first. Nothing is computed in floating point.

    Args:
        method: Of ``SamplingConfig``.
        counts: Cases of each class.
        epoch: From 1; it matters to ``progressive`` alone.
        epochs: Of the run.

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
    """One class for each case of a multi-label cohort, to sample by: the rarest label that it has, or none of them.

    Of labels that are equally rare it is the first. Classes are numbered from 0 without a gap: there is none for a
    label that never comes without a rarer one, nor for cases without a label where all have one.

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
    """The rarest label that each case has, the first of equally rare ones; -1 where it has none."""
    often = np.where(has, has.sum(axis=0), len(has) + 1)
    return np.where(has.any(axis=1), often.argmin(axis=1), -1)


def drawn_by(labels: Labels) -> Int[np.ndarray, " n"]:
    """The class of each case that sampling goes by: its own, or of several labels its stratum."""
    return labels if labels.ndim == 1 else strata(labels)


def num_draws(labels: Labels, method: SamplingName) -> int:
    """Draws of an epoch of these training cases; every epoch has as many."""
    return len(labels) if method == "none" else int(draws(method, np.bincount(drawn_by(labels))).sum())


class Decks:
    """How often each case is drawn in each epoch.

    A class is a deck of cards. As long as it has a draw for each of its cases, all of them are drawn; the rest is a
    hand that is dealt from a shuffled deck, epoch after epoch, and a deck that is through is shuffled anew. So two
    cases of a class differ by one draw at most, in an epoch and after any number of epochs. Any epoch can be asked for
    without the earlier ones: their hands are dealt again then, and nothing else of them is computed.

    Args:
        labels: Class of each case; where a case has several labels, what ``strata`` says.
        method: Of ``SamplingConfig``.
        seed: Of the run.
        epochs: Of the run.
        num_classes: Of the cohort; by default as many as there are in the labels.

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
        self._dealt: dict[int, tuple[int, int, np.ndarray]] = {}  # where the last hand ended: the next begins there
        self._members = np.split(np.argsort(labels, kind="stable"), np.cumsum(self.counts)[:-1])

    def draws(self, epoch: int) -> Int[np.ndarray, " c"]:
        """How many draws each class has in an epoch."""
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
        """The last of the hands of these sizes that a class is dealt.

        Where a deck ends, the hand goes on in the next one with whom it does not hold yet; these stay in that deck.
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
    """The rank on which each case is drawn: all its draws on one, and as many draws on each rank as can be.

    Who is drawn most often goes first, in random order, each to the rank that has the fewest draws so far.

    Args:
        times: How often each case is drawn.
        world_size: Processes that train together.
        random: For the order of those who are drawn equally often.
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
