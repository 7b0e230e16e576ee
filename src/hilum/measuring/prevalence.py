"""Restates probabilities and thresholds at another prevalence, and undoes class weights and sampling."""

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from hilum.errors import require

Shares: TypeAlias = tuple[float, ...]
"""Share of each class among the cases; they sum to 1."""


def check_shares(shares: Shares, what: str) -> None:
    """Raise a ConfigError unless these are the shares of two classes or more."""
    right = len(shares) >= 2 and all(0 <= share <= 1 for share in shares) and math.isclose(sum(shares), 1, abs_tol=1e-6)
    require(right, what, "a share for each of two classes or more, summing to 1", shares)


def log_shift(*, of: Shares, to: Shares) -> Shares:
    """The bias to add to the log probability of each class, before normalisation, if the shares of the classes change.

    Only the shares change, not what the scans of a class look like ("label shift"): then the odds of two classes are
    multiplied by the ratio of their new to their old odds (Saerens, Latinne, Decaestecker, Neural Computation 2002).

    Raises:
        ConfigError: If the old shares are not known (empty), or an old or a new one is 0.
    """
    require(len(of) > 0, "the prevalence that the probabilities stand for", "known", "none")
    for shares, what in ((of, "the prevalence that the probabilities stand for"), (to, "the new prevalence")):
        check_shares(shares, what)
        require(min(shares) > 0, what, "more than 0 of every class", shares)
    require(len(of) == len(to), "the new prevalence", f"a share for each of {len(of)} classes", to)
    return tuple(math.log(new / old) for old, new in zip(of, to, strict=True))


def threshold_at(threshold: float, *, of: Shares, to: Shares) -> float:
    """The threshold that decides every case as before, after the probabilities are restated at another prevalence.

    Args:
        threshold: Threshold of the probability of the second of two classes; 0 and 1 stay.
        of: Shares at which the probabilities are stated: of the negatives, of the positives.
        to: The new ones.

    Raises:
        ConfigError: If there are not two classes, or a share is unknown or 0.

    Example:
        >>> round(threshold_at(0.5, of=(0.5, 0.5), to=(0.9, 0.1)), 6)
        0.1
    """
    require(0 <= threshold <= 1, "threshold", "between 0 and 1", threshold)
    require(len(of) == 2, "the prevalence of a threshold", "of two classes", of)
    negative, positive = log_shift(of=of, to=to)
    above, below = threshold * math.exp(positive), (1 - threshold) * math.exp(negative)
    return above / (above + below)


def prior_bias(
    counts: Sequence[int],
    *,
    weights: Sequence[float] = (),
    draws: Sequence[int | float] = (),
    tau: float = 0.0,
) -> tuple[float, ...]:
    """The bias to add to logits to undo class weights, sampling or logit adjustment; sums to 0.

    A network that minimises cross entropy learns log p(x | c) + log of the share of class c among its training samples.
    With n_c cases, drawn r_c times in an epoch, each weighing w_c, that share is proportional to w_c r_c and not to
    n_c: the offset is log n_c - log(w_c r_c). Logit adjustment (Menon et al. 2021, arXiv:2007.07314) removes tau
    log(n_c / N) from the logits, which is added again.

    It holds only for cross entropy, weighted or logit-adjusted, whose minimum is the posterior probability. Focal,
    poly-1, LDAM, asymmetric, Dice, Tversky and combined losses have other minima, by an amount that depends on the
    probability itself, so no constant undoes them. It holds for weights that multiply each case's loss before a
    mean over cases, as in Hilum's training, not for a mean over the weights of each small batch: among 8 cases with
    10 % positives, weights of 9 to 1 act like 5.0 to 1; alone in its batch a case weighs the same whatever its class.
    And it assumes that the network has reached its minimum; a fit on validation cases does not.

    Args:
        counts: Training cases of each class.
        weights: Weight of each class in the loss; empty: all 1.
        draws: Cases of each class drawn in an epoch; empty: each case once.
        tau: Strength of the logit adjustment, with the shares of ``counts``.

    Raises:
        ConfigError: If there are fewer than two classes, or a number is not positive and finite.

    Example:
        >>> [round(b, 3) for b in prior_bias((90, 10), weights=(0.2, 1.8))]
        [1.099, -1.099]
    """
    require(len(counts) >= 2, "counts", "of two classes or more", counts)
    require(math.isfinite(tau) and tau >= 0, "tau", "at least 0", tau)
    factors = {"counts": counts, "weights": weights or [1.0] * len(counts), "draws": draws or counts}
    for name, values in factors.items():
        right = len(values) == len(counts) and all(0 < value < math.inf for value in values)
        require(right, name, f"positive, for each of {len(counts)} classes", tuple(values))
    n, w, r = (np.log(np.array(values, np.float64)) for values in factors.values())
    bias = n - w - r + tau * n
    return tuple((bias - bias.mean()).tolist())
