"""Measured effects of methods for rare classes, compared with plain cross entropy, from the benchmark's results."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Literal

from hilum.errors import require
from hilum.planning.classes import percent
from hilum.settings.imbalance import LossName, RetrainName, SamplingName, WeightsName


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """A measured comparison of a method with cross entropy without weights, sampling or a second stage.

    Attributes:
        loss: The loss, by its name in a config, as are the next three.
        class_weights: Class weights of the loss.
        sampling: Sampling of the cases.
        retrain: The second stage.
        prevalence: Share of the rarer of two classes among the training cases.
        difference: AUC of the method minus that of cross entropy, paired.
        low: Lower end of its 95 % interval.
        high: Upper end.
        where: The data, and where the measurement is documented.
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
        """Loss, class weights, sampling and second stage."""
        return (self.loss, self.class_weights, self.sampling, self.retrain)

    @property
    def place(self) -> str:
        """The prevalence and the data."""
        return f"at {percent(self.prevalence)} on {self.where}"

    @property
    def verdict(self) -> Literal["better", "worse", "cannot tell"]:
        """What the interval shows."""
        return "better" if self.low > 0 else "worse" if self.high < 0 else "cannot tell"

    def __str__(self) -> str:
        parts = [f"sampling {self.sampling}"] if self.sampling != "none" else []
        parts += [f"second stage {self.retrain}"] if self.retrain != "none" else []
        if not parts or (self.loss, self.class_weights) != ("cross-entropy", "none"):
            parts.insert(0, describe_loss(self.loss, self.class_weights))
        return f"{', '.join(parts)} {self.difference:+.3f} ({self.low:+.3f} to {self.high:+.3f})"


def _read_benchmark() -> tuple[Evidence, ...]:
    """The rows of ``imbalance.json``, which ``benchmarks/imbalance.py`` writes; the plain arm is the reference."""
    rows = json.loads(files("hilum.planning").joinpath("imbalance.json").read_text(encoding="utf-8"))["rows"]
    found = []
    for row in rows:
        if row["arm"] != "plain":
            low, high = row["auc"]["difference_ci"]
            numbers = {"prevalence": row["rate"], "difference": row["auc"]["difference"], "low": low, "high": high}
            found.append(Evidence(**row["method"], **numbers, where="LIDC nodules (docs/concepts/imbalance.md)"))
    return tuple(found)


EVIDENCE = _read_benchmark()
"""All measurements. They decide where they can; where nothing was measured, the tutorial's rule is applied."""

_FACTOR = 3.0
"""A measurement counts for shares up to this many times larger or smaller."""

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
    """The measurement nearest to a share for each method, by the ratio of the shares; none beyond a limit."""
    nearest: dict[tuple[str, ...], Evidence] = {}
    for one in sorted(evidence, key=lambda one: _distance(one, share)):
        if _distance(one, share) <= math.log(_FACTOR):
            nearest.setdefault(one.method, one)
    return tuple(nearest.values())


def _distance(one: Evidence, share: float) -> float:
    return abs(math.log(one.prevalence / share)) if share else math.inf


def describe_loss(name: str, weights: str) -> str:
    """A loss and its class weights."""
    unweighted = " without weights" if name == "cross-entropy" else ""
    return _NAMES.get(name, name) + (f" with class weights ({weights})" if weights != "none" else unweighted)
