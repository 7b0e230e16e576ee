"""The bootstrap of patients: figures on resamples of the patients, and the interval of each on its own scale.

Patients, not cases, are resampled. The interval is symmetric on the logit scale, with the standard error of the
bootstrap carried over by the derivative of the logit. Its half width is 1.96 standard errors for a share of cases, such
as sensitivity. For figures of both classes together, such as AUC or log loss, it is Student's quantile, with one degree
of freedom less than the relevant patients: with few of them the standard error is itself too uncertain, and often too
small. How often they hold the truth stands in docs/concepts/intervals.md
(``benchmarks/interval_coverage.py``). If a figure is exactly 0 or 1, or the bootstrap has no spread, the
interval is Wilson's (JASA 22, 1927), with the number of relevant patients as its n: those with a positive for
sensitivity, those with a case decided positive for the positive predictive value, the smaller class for AUC. Figures
that are no shares have their own scale: Fisher's z for Matthews' coefficient, the logarithm for log loss, the plain one
for net benefit; without a spread they have no interval.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float
from scipy.special import stdtrit

from hilum.arrays import patient_index
from hilum.errors import CohortError
from hilum.measuring.metrics import Figures
from hilum.randomness import generator

Z95 = 1.959963984540054
"""97.5 % quantile of the normal distribution."""

_LARGEST_BLOCK = 4_000_000
"""Resampled weights in memory at a time, for large cohorts."""

_SCALES: dict[str, Literal["logit", "fisher", "log", "plain"]] = {
    "mcc": "fisher",
    "log_loss": "log",
    "net_benefit": "plain",
}
"""Scales on which figures that are no shares are nearly normal; those of all others are logits."""

_SHARES = ("accuracy", "sensitivity", "specificity", "ppv", "npv", "subset_accuracy")
"""Shares of cases of one kind: the normal interval on the logit scale covers 94 to 97 % with few patients."""

Resamples = Float[np.ndarray, "b n"]
"""How often each case (column) is in each resample (row)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure and its 95 % interval; all nan if it does not exist.

    Attributes:
        value: The figure on all cases.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return "undefined" if math.isnan(self.value) else f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"


def logit_interval(value: float, error: float, *, rests_on: int, quantile: float = Z95) -> Figure:
    """A figure between 0 and 1 with its interval: symmetric on the logit scale, or Wilson's without a spread.

    Args:
        value: The figure.
        error: Its standard error, carried over by the derivative of the logit; nan if there is none.
        rests_on: Number of patients on which it rests, for Wilson's interval.
        quantile: Half width in standard errors; see ``student95``.
    """
    if math.isnan(value):
        return Figure(value=value, low=math.nan, high=math.nan)
    inner = 1e-12 < value < 1 - 1e-12
    if not inner or not error >= 1e-12:
        low, high = wilson(float(np.clip(value, 0, 1)) if inner else float(round(value)), rests_on)
        return Figure(value=value, low=low, high=high)
    logit = math.log(value / (1 - value))
    half = min(quantile * error / (value * (1 - value)), 500.0)
    return Figure(value=value, low=1 / (1 + math.exp(-(logit - half))), high=1 / (1 + math.exp(-(logit + half))))


def student95(num_patients: int) -> float:
    """97.5 % quantile of Student's distribution with one degree of freedom less than the patients, at least one.

    Example:
        >>> round(student95(11), 3)
        2.228
    """
    return float(stdtrit(max(num_patients - 1, 1), 0.975))


def wilson(value: float, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share of n independent observations."""
    if n < 1 or math.isnan(value):
        return math.nan, math.nan
    centre = (value + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 / (1 + Z95**2 / n) * math.sqrt(value * (1 - value) / n + Z95**2 / (4 * n**2))
    return (0.0 if value == 0 else max(centre - half, 0.0)), (1.0 if value == 1 else min(centre + half, 1.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Resampled:
    """A figure on all cases and on resamples of the patients.

    Attributes:
        value: On all cases.
        resampled: On each resample; nan where it does not exist.
        rests_on: Number of patients on which it rests.
        is_share: Whether it is a mean over cases.
        scale: Scale on which it is nearly normal.
    """

    value: float
    resampled: Float[np.ndarray, " b"]
    rests_on: int
    is_share: bool = False
    scale: Literal["logit", "fisher", "log", "plain"] = "logit"

    @property
    def error(self) -> float:
        """Standard error; 0 if the figure exists in at most half of the resamples."""
        defined = self.resampled[np.isfinite(self.resampled)]
        return float(np.std(defined, ddof=1)) if len(defined) > max(1, len(self.resampled) // 2) else 0.0

    @property
    def quantile(self) -> float:
        """Half width of its interval in standard errors."""
        return Z95 if self.is_share else student95(self.rests_on)

    @property
    def figure(self) -> Figure:
        """The figure with its interval, symmetric on its scale."""
        value, error, quantile = self.value, self.error, self.quantile
        if self.scale == "logit":
            return logit_interval(value, error, rests_on=self.rests_on, quantile=quantile)
        if self.scale == "fisher":  # Fisher's z is half the logit of (1 + value) / 2
            half = logit_interval((1 + value) / 2, error / 2, rests_on=self.rests_on, quantile=quantile)
            return Figure(value=value, low=2 * half.low - 1, high=2 * half.high - 1)
        if math.isnan(value) or error < 1e-12 or (self.scale == "log" and value <= 0):
            return Figure(value=value, low=math.nan, high=math.nan)
        if self.scale == "log":
            factor = math.exp(min(quantile * error / value, 500.0))
            return Figure(value=value, low=value / factor, high=value * factor)
        return Figure(value=value, low=value - quantile * error, high=value + quantile * error)


class PatientBootstrap:
    """Resamples patients; the resamples depend only on the seed and the patients."""

    def __init__(self, patients: Sequence[str], num_cases: int, seed: int, num_resamples: int) -> None:
        if num_cases == 0 or len(patients) != num_cases:
            got = f"{num_cases} cases, {len(patients)} patients"
            msg = f"figures need at least one case and a patient for each, got {got}"
            raise CohortError(msg)
        self.index = patient_index(patients, num_cases)
        self.num_patients = int(self.index.max()) + 1
        self.seed, self.num_resamples = seed, num_resamples

    def count(self, rows: Bool[np.ndarray, " n"]) -> int:
        """Number of different patients in some of the cases."""
        return len(np.unique(self.index[rows]))

    def resample(
        self, figures: Callable[[Resamples], dict[str, Figures]], rests_on: dict[str, int]
    ) -> dict[str, Resampled]:
        """Figures on all cases and on the resamples."""
        rng, shares = generator(self.seed, "bootstrap"), np.full(self.num_patients, 1 / self.num_patients)
        block = max(1, _LARGEST_BLOCK // len(self.index))
        blocks = []
        for start in range(0, self.num_resamples, block):
            times = rng.multinomial(self.num_patients, shares, size=min(block, self.num_resamples - start))
            blocks.append(figures(times[:, self.index].astype(np.float64)))
        return {
            name: Resampled(
                value=float(np.squeeze(value)),
                resampled=np.concatenate([one[name] for one in blocks]),
                rests_on=rests_on[name],
                is_share=name.split()[-1] in _SHARES,
                scale=_SCALES.get(name, "logit"),
            )
            for name, value in figures(np.ones((1, len(self.index)))).items()
        }
