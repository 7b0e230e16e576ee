"""Fixed operating points: thresholds chosen on validation cases for a stated sensitivity or specificity."""

from dataclasses import dataclass
from typing import Literal

from hilum.arrays import ArrayLike
from hilum.errors import ConfigError, require
from hilum.measuring.thresholds import choose_threshold
from hilum.settings.run import DecisionConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatingPoint:
    """A demand on decisions, and the threshold that met it on validation cases.

    Attributes:
        rule: What is demanded.
        at: Smallest allowed value of it.
        threshold: Smallest probability that is positive; None: not chosen on validation cases, so that the point can
            only be read from the curve of the cases that are judged, which flatters it.
    """

    rule: Literal["sensitivity", "specificity"]
    at: float
    threshold: float | None = None

    def __post_init__(self) -> None:
        require(0 < self.at < 1, "an operating point", "between 0 and 1", self.at)

    @property
    def name(self) -> str:
        """Its rule and value, such as ``sensitivity 0.9``."""
        return f"{self.rule} {self.at:g}"


FIXED_POINTS = tuple(OperatingPoint(rule=rule, at=at) for rule in ("sensitivity", "specificity") for at in (0.90, 0.95))
"""The operating points of every evaluation, without thresholds."""


def choose_points(y: ArrayLike, p: ArrayLike) -> tuple[OperatingPoint, ...]:
    """The fixed operating points with thresholds chosen on validation cases; without one where none can meet it.

    Args:
        y: 1 where positive; of both classes.
        p: Probability of the positive class, calibrated as it will be in use.

    Raises:
        CohortError: If the cases are of one class only.
    """
    points = []
    for point in FIXED_POINTS:
        try:
            chosen = choose_threshold(y, p, rule=DecisionConfig(rule=point.rule, at=point.at))
        except ConfigError:
            points.append(point)
        else:
            points.append(OperatingPoint(rule=point.rule, at=point.at, threshold=chosen.value))
    return tuple(points)
