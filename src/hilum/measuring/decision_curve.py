"""Net benefit of deciding by the model, by calling everybody and by calling nobody, over thresholds."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from hilum.arrays import ArrayLike, labelled
from hilum.errors import require
from hilum.measuring.metrics import confusion

THRESHOLDS = tuple(k / 100 for k in range(1, 100))


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionCurve:
    """Net benefit by threshold (Vickers & Elkin, Medical Decision Making 26, 2006); calling nobody has 0.

    Attributes:
        thresholds: Probabilities at which a case is called.
        model: Net benefit of calling by the model's probabilities.
        everybody: Net benefit of calling every case.
        prevalence: Prevalence at which they are stated.
    """

    thresholds: Float64[np.ndarray, " t"]
    model: Float64[np.ndarray, " t"]
    everybody: Float64[np.ndarray, " t"]
    prevalence: float


def decision_curve(y: ArrayLike, p: ArrayLike, *, prevalence: float | None = None) -> DecisionCurve:
    """The decision curve of calibrated probabilities.

    Args:
        y: 1 where positive; cases of both classes if a prevalence is stated.
        p: Calibrated probability of the positive class, at the prevalence that is stated.
        prevalence: Prevalence of the population in which decisions are made; None: that of the cases.
    """
    y, p = labelled(y, p)
    require(prevalence is None or 0 < prevalence < 1, "prevalence", "between 0 and 1", prevalence)
    share = float(np.mean(y == 1)) if prevalence is None else prevalence
    model = []
    for threshold in THRESHOLDS:
        table = confusion(y, p >= threshold)
        model.append(float((table if prevalence is None else table.at(prevalence)).net_benefit(threshold)))
    thresholds = np.array(THRESHOLDS)
    everybody = share - (1 - share) * thresholds / (1 - thresholds)
    return DecisionCurve(thresholds=thresholds, model=np.array(model), everybody=everybody, prevalence=share)
