"""Logits to probabilities that mean what they say: one temperature, and how well they agree with what happened."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hilum.errors import CohortError
from hilum.measuring.metrics import Labels, Probs

LOWEST_T, HIGHEST_T = 0.25, 5.0
"""A temperature outside says that the validation part is too small or too easy to fit one."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Cases of similar probability.

    Attributes:
        num_cases: How many.
        predicted: Their mean probability.
        observed: The share of them that is positive.
    """

    num_cases: int
    predicted: float
    observed: float


def probabilities(logits: Float[np.ndarray, "n c"], *, temperature: float = 1.0) -> Float[np.ndarray, "n c"]:
    """Softmax of logits divided by a temperature, in double precision."""
    scaled = logits.astype(np.float64) / temperature
    powers = np.exp(scaled - scaled.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def fit_temperature(logits: Float[np.ndarray, "n c"], labels: Labels) -> float:
    """The temperature under which validation labels are most likely (Guo et al., ICML 2017).

    The mean negative log likelihood is convex in 1 / T, so it has one valley in log T, which golden sections find to
    six digits. It lies between 0.25 and 5: a small validation part that happens to be perfectly separated must not
    make the model sure of itself.

    Raises:
        CohortError: If there are no cases, or a logit is not finite.
    """
    if len(labels) == 0 or not np.isfinite(logits).all():
        msg = f"a temperature needs finite logits of at least one case, got {len(labels)} cases"
        raise CohortError(msg)
    wide = logits.astype(np.float64)
    centred = wide - wide[np.arange(len(labels)), labels][:, None]

    def loss(log_t: float) -> float:
        scaled = centred / math.exp(log_t)
        top = scaled.max(1)
        return float(np.mean(top + np.log(np.exp(scaled - top[:, None]).sum(1))))

    low, high = math.log(LOWEST_T), math.log(HIGHEST_T)
    while high - low > 1e-7:
        left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(left) <= loss(right):
            high = right
        else:
            low = left
    best = (low + high) / 2
    ends = {value: loss(value) for value in (math.log(LOWEST_T), best, math.log(HIGHEST_T), 0.0)}
    lowest = min(ends.values())
    if ends[0.0] <= lowest + 1e-12:  # a flat valley: leave the logits alone
        return 1.0
    return math.exp(min(ends, key=lambda value: ends[value]))


def reliability(y: Labels, p: Probs, *, num_bins: int = 10) -> tuple[Bin, ...]:
    """Bins of nearly equally many cases, lowest probabilities first; equal probabilities are never parted.

    At most ``num_bins``, and so few that there are about 15 cases or more in each.
    """
    left = max(1, min(num_bins, len(p) // 15))
    levels, level = np.unique(p, return_inverse=True)
    sizes = np.bincount(level.reshape(-1), minlength=len(levels))
    positives = np.bincount(level.reshape(-1), weights=y == 1, minlength=len(levels))
    bins = []
    start, remaining = 0, len(p)
    for stop in range(1, len(levels) + 1):
        num_cases = int(sizes[start:stop].sum())
        if stop < len(levels) and (left == 1 or num_cases < remaining / left):
            continue
        predicted = float(levels[start:stop] @ sizes[start:stop] / num_cases)
        bins.append(
            Bin(num_cases=num_cases, predicted=predicted, observed=float(positives[start:stop].sum()) / num_cases)
        )
        start, remaining, left = stop, remaining - num_cases, left - 1
    return tuple(bins)
