"""What was measured about answers to rare classes, each beside cross entropy without any, and where."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hilum.errors import require
from hilum.imbalance import LossName, RetrainName, SamplingName, WeightsName
from hilum.planning.classes import percent


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


EVIDENCE: tuple[Evidence, ...] = ()
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
