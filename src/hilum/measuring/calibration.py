"""The calibration that a model keeps: it turns logits into probabilities, stated at a prevalence."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float64

from hilum.arrays import ArrayLike, real
from hilum.errors import require
from hilum.measuring.prevalence import Shares, check_shares, log_shift
from hilum.measuring.regression import softmax

MethodName: TypeAlias = Literal["none", "temperature", "platt", "isotonic", "prior"]
Corner: TypeAlias = tuple[float, float]
Logits: TypeAlias = Float[np.ndarray, "n c"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Turns a model's logits into probabilities: softmax(logits / temperature + bias), or a rising curve.

    Attributes:
        method: Method by which it was fitted.
        temperature: Divides the logits.
        bias: Added to the logarithm of each class's probability before normalisation: to the divided logits, or to the
            logarithms of the curves' values. Empty: nothing.
        curves: For isotonic calibration, the corners of each class (log odds of the class against the rest in the
            softmax of the plain logits, probability); of two classes, those of the second alone. Linear between
            corners, constant beyond the ends; of more than two classes the probabilities are then normalised.
        prevalence: Share of each class at which the probabilities are stated: that of the cases on which it was fitted,
            unless it was restated. Empty: unknown.
        rule: A sentence about how it was fitted; a restated prevalence is not in it.
    """

    method: MethodName = "none"
    temperature: float = 1.0
    bias: tuple[float, ...] = ()
    curves: tuple[tuple[Corner, ...], ...] = ()
    prevalence: Shares = ()
    rule: str = "as the model was trained"

    def __post_init__(self) -> None:
        require(0 < self.temperature < math.inf, "calibration.temperature", "positive", self.temperature)
        scaled = self.temperature == 1 or self.method in ("temperature", "platt")
        require(scaled, "calibration.temperature", f"1 with method {self.method}", self.temperature)
        finite = len(self.bias) != 1 and all(map(math.isfinite, self.bias))
        require(finite, "calibration.bias", "empty, or a finite number for each class", self.bias)
        as_many = bool(self.curves) == (self.method == "isotonic") and len(self.curves) != 2
        must = "one for two classes or one for each of more, with method isotonic, and none without"
        require(as_many, "calibration.curves", must, f"{len(self.curves)} with method {self.method}")
        for curve in self.curves:
            rising = all(left[0] < right[0] and left[1] <= right[1] for left, right in pairwise(curve))
            within = bool(curve) and all(math.isfinite(at) and 0 < value < 1 for at, value in curve)
            require(rising and within, "a calibration curve", "rising, of finite log odds and p between 0 and 1", curve)
        if self.prevalence:
            check_shares(self.prevalence, "calibration.prevalence")
        numbers = self._numbers_of_classes()
        require(
            len(numbers) <= 1,
            "bias, curves and prevalence of a calibration",
            "all for the same number of classes",
            numbers,
        )

    def _numbers_of_classes(self) -> set[int]:
        curves = 2 if len(self.curves) == 1 else len(self.curves)
        return {len(self.bias), len(self.prevalence), curves} - {0}

    @property
    def num_classes(self) -> int | None:
        """Number of classes that it fits; None: any."""
        return next(iter(self._numbers_of_classes()), None)

    def probabilities(self, logits: ArrayLike) -> Float64[np.ndarray, "n c"]:
        """Probabilities of the classes, rows summing to 1.

        Raises:
            ConfigError: If it was fitted for another number of classes.
        """
        logits = real(logits, "logits", axes=(2,))
        num_classes = logits.shape[1]
        require(self.num_classes in (None, num_classes), "logits", f"of {self.num_classes} classes", num_classes)
        scores = self._on_curves(logits) if self.curves else logits.astype(np.float64) / self.temperature
        return softmax(scores + np.array(self.bias)) if self.bias else softmax(scores)

    def _on_curves(self, logits: Logits) -> Float64[np.ndarray, "n c"]:
        """Logarithms of the curves' values of each class."""
        odds, curves = class_log_odds(logits), [np.array(curve).T for curve in self.curves]
        if len(curves) == 1:
            second = np.interp(odds[:, 1], *curves[0])
            shares = [1 - second, second]
        else:
            shares = [np.interp(odds[:, k], *curve) for k, curve in enumerate(curves)]
        return np.asarray(np.log(np.stack(shares, axis=1)))

    def at(self, prevalence: Shares) -> "Calibration":
        """The calibration at another prevalence, assuming that scans within a class look the same as before.

        Odds are multiplied by the ratio of the new to the old odds; see ``hilum.measuring.prevalence``, also for the
        threshold that goes with it. Probabilities of exactly 0 and 1 stay.

        Raises:
            ConfigError: If its own prevalence is unknown, or a share is 0.
        """
        shift = log_shift(of=self.prevalence, to=prevalence)
        bias = tuple(b + s for b, s in zip(self.bias or (0.0,) * len(shift), shift, strict=True))
        return replace(self, bias=bias, prevalence=prevalence)


def probabilities(logits: ArrayLike, *, temperature: float = 1.0) -> Float[np.ndarray, "n c"]:
    """Softmax of logits divided by a temperature, in double precision."""
    return softmax(real(logits, "logits", axes=(2,)).astype(np.float64) / temperature)


def class_log_odds(logits: ArrayLike) -> Float64[np.ndarray, "n c"]:
    """Log odds of each class against the rest in the softmax of the logits, exact also for very sure logits."""
    wide = real(logits, "logits", axes=(2,)).astype(np.float64)
    if wide.shape[1] == 2:
        second = wide[:, 1] - wide[:, 0]
        return np.stack([-second, second], axis=1)
    odds = np.empty_like(wide)
    for k in range(wide.shape[1]):
        odds[:, k] = wide[:, k] - np.logaddexp.reduce(np.delete(wide, k, axis=1), axis=1)
    return odds
