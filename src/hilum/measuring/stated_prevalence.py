"""Predictive values and net benefit at a stated prevalence, from sensitivity and specificity with their intervals."""

import math

from hilum.errors import require
from hilum.measuring.bootstrap import Figure


def figures_at(
    sensitivity: Figure, specificity: Figure, *, prevalence: float, threshold: float | None = None
) -> dict[str, Figure]:
    """Figures of the same decisions in a population of another prevalence, in which scans of a class look the same.

    Both rates come from different cases, so their intervals are combined by the method of variance estimates recovery:
    for the ratio of sensitivity to 1 - specificity that of Donner & Zou, Statistical Methods in Medical Research 21
    (2012), from which the positive predictive value follows (and the negative one likewise); for net benefit, which is
    linear in both, that of Zou & Donner, Statistics in Medicine 27 (2008).

    Args:
        sensitivity: With its interval.
        specificity: With its interval.
        prevalence: Share of the positives in the population.
        threshold: The threshold of the decisions as a probability in that population; None: no net benefit.

    Returns:
        ppv, npv and, with a threshold below 1, net_benefit. nan if a rate does not exist.
    """
    require(0 < prevalence < 1, "prevalence", "between 0 and 1", prevalence)
    missed, false = _complement(sensitivity), _complement(specificity)
    found = {
        "ppv": _share(_ratio(sensitivity, false), prevalence / (1 - prevalence)),
        "npv": _share(_ratio(specificity, missed), (1 - prevalence) / prevalence),
    }
    if threshold is not None and threshold < 1:
        found["net_benefit"] = _benefit(sensitivity, false, prevalence, threshold / (1 - threshold))
    return found


def _complement(one: Figure) -> Figure:
    return Figure(value=1 - one.value, low=1 - one.high, high=1 - one.low)


def _ratio(above: Figure, below: Figure) -> Figure:
    """Above / below with its interval; infinite where nothing is below."""
    if math.isnan(above.value) or math.isnan(below.value) or above.value == below.value == 0:
        return Figure(value=math.nan, low=math.nan, high=math.nan)
    value = above.value / below.value if below.value > 0 else math.inf
    return Figure(
        value=value,
        low=_end(above, below, above.low, below.high, -1),
        high=_end(above, below, above.high, below.low, 1),
    )


def _end(above: Figure, below: Figure, own: float, other: float, side: int) -> float:
    """One end of the interval of a ratio; ``own`` and ``other`` are the ends of both that lead to it."""
    a, b = above.value, below.value
    if other <= 0:
        return math.inf if side > 0 or a > 0 else 0.0
    if abs(2 * b - other) < 1e-9:
        other *= 1 + 1e-6
    root = max((a * b) ** 2 - own * other * (2 * a - own) * (2 * b - other), 0.0)
    end = (a * b + side * math.sqrt(root)) / (other * (2 * b - other))
    return max(end, 0.0)


def _share(ratio: Figure, odds: float) -> Figure:
    """The predictive value that a likelihood ratio gives at these odds before the test."""

    def after(value: float) -> float:
        return 1.0 if value == math.inf else value * odds / (1 + value * odds)

    return Figure(value=after(ratio.value), low=after(ratio.low), high=after(ratio.high))


def _benefit(sensitivity: Figure, false: Figure, prevalence: float, odds: float) -> Figure:
    gain, loss = prevalence, (1 - prevalence) * odds
    value = gain * sensitivity.value - loss * false.value
    down = math.hypot(gain * (sensitivity.value - sensitivity.low), loss * (false.high - false.value))
    up = math.hypot(gain * (sensitivity.high - sensitivity.value), loss * (false.value - false.low))
    return Figure(value=value, low=value - down, high=value + up)
