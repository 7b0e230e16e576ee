"""What was measured about answers to rare classes, each beside cross entropy without any, and where."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hilum.errors import require
from hilum.planning.classes import percent
from hilum.settings.imbalance import LossName, RetrainName, SamplingName, WeightsName


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """How a method was measured to compare with cross entropy without weights, sampling or a second stage.

    Attributes:
        loss: The method, in the words of a config.
        class_weights: Of the loss.
        sampling: Of the cases.
        retrain: The second stage.
        prevalence: Share of the rarer of two classes among the training cases.
        difference: Of the AUC: the method's less that of cross entropy, paired.
        low: Lower end of its 95 % interval.
        high: Upper end.
        where: On what it was measured, and by what.
    """

    loss: LossName = "cross-entropy"
    class_weights: WeightsName = "none"
    sampling: SamplingName = "none"
    retrain: RetrainName = "none"
    prevalence: float
    difference: float
    low: float
    high: float
    where: str

    def __post_init__(self) -> None:
        require(0 < self.prevalence <= 0.5, "prevalence", "above 0 and at most 0.5", self.prevalence)
        inside = self.low <= self.difference <= self.high
        require(inside, "difference", f"from {self.low} to {self.high}", self.difference)
        names = {"loss": self.loss, "class_weights": self.class_weights}
        require("auto" not in names.values(), "a method", "named, not auto", names)

    @property
    def method(self) -> tuple[str, ...]:
        """What was compared."""
        return (self.loss, self.class_weights, self.sampling, self.retrain)

    @property
    def place(self) -> str:
        """At which share and on what."""
        return f"at {percent(self.prevalence)} on {self.where}"

    @property
    def verdict(self) -> Literal["better", "worse", "cannot tell"]:
        """What the interval says."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "cannot tell"

    def __str__(self) -> str:
        parts = [f"sampling {self.sampling}"] if self.sampling != "none" else []
        parts += [f"second stage {self.retrain}"] if self.retrain != "none" else []
        if not parts or (self.loss, self.class_weights) != ("cross-entropy", "none"):
            parts.insert(0, in_words(self.loss, self.class_weights))
        return f"{', '.join(parts)} {self.difference:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


_LIDC: tuple[tuple[LossName, WeightsName, SamplingName, RetrainName, float, float, float, float], ...] = (
    # loss, class weights, sampling, second stage, share of positives, difference of the AUC, its interval
    ("cross-entropy", "inverse", "none", "none", 0.10, +0.0120, -0.0318, +0.0558),
    ("cross-entropy", "sqrt", "none", "none", 0.10, +0.0017, -0.0288, +0.0322),
    ("focal", "none", "none", "none", 0.10, +0.0033, -0.0495, +0.0561),
    ("focal", "inverse", "none", "none", 0.10, +0.0020, -0.0346, +0.0386),
    ("focal", "effective", "none", "none", 0.10, +0.0037, -0.0411, +0.0485),
    ("dice", "none", "none", "none", 0.10, -0.0048, -0.0654, +0.0557),
    ("combined", "none", "none", "none", 0.10, +0.0053, -0.0356, +0.0463),
    ("asymmetric", "none", "none", "none", 0.10, +0.0051, -0.0486, +0.0588),
    ("tversky", "none", "none", "none", 0.10, -0.0004, -0.0839, +0.0832),
    ("logit-adjusted", "none", "none", "none", 0.10, -0.0006, -0.0183, +0.0172),
    ("ldam", "none", "none", "none", 0.10, -0.0025, -0.0500, +0.0451),
    ("poly1", "none", "none", "none", 0.10, +0.0055, -0.0348, +0.0458),
    ("cross-entropy", "none", "over", "none", 0.10, +0.0162, -0.0295, +0.0619),
    ("cross-entropy", "none", "under", "none", 0.10, -0.0254, -0.0857, +0.0349),
    ("cross-entropy", "none", "combined", "none", 0.10, +0.0047, -0.0329, +0.0424),
    ("cross-entropy", "none", "progressive", "none", 0.10, +0.0063, -0.0240, +0.0366),
    ("cross-entropy", "none", "none", "balanced", 0.10, +0.0018, -0.0282, +0.0317),
    ("cross-entropy", "none", "none", "smote", 0.10, +0.0018, -0.0369, +0.0405),
    ("cross-entropy", "inverse", "none", "none", 0.05, +0.0117, -0.0135, +0.0368),
    ("cross-entropy", "sqrt", "none", "none", 0.05, +0.0005, -0.0192, +0.0201),
    ("focal", "none", "none", "none", 0.05, +0.0012, -0.0335, +0.0358),
    ("focal", "inverse", "none", "none", 0.05, +0.0058, -0.0264, +0.0380),
    ("focal", "effective", "none", "none", 0.05, +0.0099, -0.0274, +0.0473),
    ("dice", "none", "none", "none", 0.05, -0.0560, -0.1632, +0.0512),
    ("combined", "none", "none", "none", 0.05, +0.0047, -0.0115, +0.0208),
    ("asymmetric", "none", "none", "none", 0.05, +0.0007, -0.0434, +0.0449),
    ("tversky", "none", "none", "none", 0.05, -0.0283, -0.1275, +0.0708),
    ("logit-adjusted", "none", "none", "none", 0.05, +0.0004, -0.0300, +0.0307),
    ("ldam", "none", "none", "none", 0.05, -0.0357, -0.1172, +0.0458),
    ("poly1", "none", "none", "none", 0.05, -0.0075, -0.0351, +0.0201),
    ("cross-entropy", "none", "over", "none", 0.05, +0.0184, -0.0192, +0.0560),
    ("cross-entropy", "none", "under", "none", 0.05, -0.1004, -0.1504, -0.0504),
    ("cross-entropy", "none", "combined", "none", 0.05, +0.0035, -0.0105, +0.0176),
    ("cross-entropy", "none", "progressive", "none", 0.05, +0.0169, -0.0106, +0.0445),
    ("cross-entropy", "none", "none", "balanced", 0.05, -0.0239, -0.0591, +0.0113),
    ("cross-entropy", "none", "none", "smote", 0.05, -0.0235, -0.0597, +0.0127),
)  # fmt: skip
"""``benchmarks/results/imbalance.json``, of which a test holds it to be a copy."""

EVIDENCE: tuple[Evidence, ...] = tuple(
    Evidence(
        loss=loss, class_weights=weights, sampling=sampling, retrain=retrain, prevalence=share, difference=difference,
        low=low, high=high, where="LIDC nodules (docs/concepts/imbalance.md)",
    )
    for loss, weights, sampling, retrain, share, difference, low, high in _LIDC
)  # fmt: skip
"""All that was measured. It decides where it can; where nothing was measured, the tutorial's rule stands by itself."""

_FACTOR = 3.0
"""What was measured at a share so many times larger or smaller says nothing here."""

_NAMES = {
    "cross-entropy": "cross entropy",
    "combined": "focal + Dice",
    "dice": "Dice",
    "tversky": "Tversky",
    "logit-adjusted": "logit adjustment",
    "ldam": "LDAM",
    "poly1": "poly-1",
}


def near_to(evidence: Sequence[Evidence], share: float) -> tuple[Evidence, ...]:
    """Of each method what was measured nearest to a share, by the ratio of the two; nothing from too far away."""
    nearest: dict[tuple[str, ...], Evidence] = {}
    for one in sorted(evidence, key=lambda one: _away(one, share)):
        if _away(one, share) <= math.log(_FACTOR):
            nearest.setdefault(one.method, one)
    return tuple(nearest.values())


def _away(one: Evidence, share: float) -> float:
    return abs(math.log(one.prevalence / share)) if share else math.inf


def in_words(name: str, weights: str) -> str:
    """A loss and its class weights."""
    unweighted = " without weights" if name == "cross-entropy" else ""
    return _NAMES.get(name, name) + (f" with class weights ({weights})" if weights != "none" else unweighted)
