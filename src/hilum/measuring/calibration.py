"""Logits to probabilities that mean what they say: one temperature, and how well they agree with what happened."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hilum.errors import CohortError
from hilum.measuring.metrics import Labels, Probs

LOWEST_T, HIGHEST_T = 0.05, 20.0
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
    six digits. It lies between 0.05 and 20: perfectly separated cases get the lower bound.

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
    """Bins of equally many cases, lowest probabilities first; equal probabilities share a bin.

    At most ``num_bins``, and no fewer than 15 cases in each where there are that many.
    """
    order = np.argsort(p, kind="stable")
    num_bins = max(1, min(num_bins, len(p) // 15))
    edges = np.unique(np.searchsorted(p[order], p[order][np.linspace(0, len(p), num_bins + 1)[1:-1].astype(int)]))
    parts: list[Int[np.ndarray, " m"]] = [part for part in np.split(order, edges) if len(part)]
    return tuple(
        Bin(num_cases=len(part), predicted=float(p[part].mean()), observed=float((y[part] == 1).mean()))
        for part in parts
    )
