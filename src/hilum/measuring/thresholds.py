"""Chooses the threshold at which a case is decided positive, from validation probabilities."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hilum.arrays import ArrayLike, labelled
from hilum.errors import CohortError, ConfigError
from hilum.measuring.metrics import Probs, ranked_counts
from hilum.settings.run import DecisionConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A threshold, and the rule that chose it.

    Attributes:
        value: A case is positive at ``p >= value``, p in double precision.
        rule: A description of the rule and the cases.
        sensitivity: Sensitivity on the cases from which it was chosen; on others it will be a little lower.
        specificity: Specificity on the cases from which it was chosen.
    """

    value: float
    rule: str
    sensitivity: float
    specificity: float


def choose_threshold(y: ArrayLike, p: ArrayLike, *, rule: DecisionConfig) -> Threshold:
    """Choose the threshold by a rule.

    Candidates lie midway between neighbouring probabilities, so that rounding decides nothing, and midway between
    0 and the lowest, so that every case is positive. Of equally good candidates the one with the higher sensitivity is
    taken. With a required sensitivity the highest specificity is taken, and the other way round.

    Args:
        y: 1 where positive.
        p: Probability of the positive class, calibrated as it will be in use.
        rule: The rule, with its required value.

    Raises:
        CohortError: If the cases are of one class only.
        ConfigError: If the requirement can only be met by deciding all cases alike.
    """
    y, p = labelled(y, p)
    num_positives = int(np.sum(y == 1))
    if not 0 < num_positives < len(y):
        msg = f"a threshold needs cases of both classes, got {num_positives} positives among {len(y)} cases"
        raise CohortError(msg)
    p = p.astype(np.float64)
    values = _candidates(p)
    tps, fps = ranked_counts(y, p)
    sensitivity, specificity = tps / tps[-1], 1 - fps / fps[-1]
    best = _best(sensitivity, specificity, 2 * tps / (tps + fps + tps[-1]), rule)
    return Threshold(
        value=float(values[best]),
        rule=f"{_describe(rule)}, on {len(y)} validation cases with {num_positives} positives",
        sensitivity=float(sensitivity[best]),
        specificity=float(specificity[best]),
    )


def _candidates(p: Probs) -> Float[np.ndarray, " k"]:
    """One threshold below each distinct probability, highest first."""
    levels = np.unique(p)[::-1]
    below = np.append(levels[1:], 0.0)
    middle = (levels + below) / 2
    return np.where((middle > below) | (levels == below), middle, levels)  # adjacent double-precision numbers


def _best(
    sensitivity: Float[np.ndarray, " k"],
    specificity: Float[np.ndarray, " k"],
    f1: Float[np.ndarray, " k"],
    rule: DecisionConfig,
) -> int:
    if rule.rule == "youden":
        return _last_highest(sensitivity + specificity)
    if rule.rule == "f1":
        return _last_highest(f1)
    required, other = (sensitivity, specificity) if rule.rule == "sensitivity" else (specificity, sensitivity)
    meets = (required >= rule.at - 1e-12) & (other > 0)
    if not meets.any():
        other_name = "specificity" if rule.rule == "sensitivity" else "sensitivity"
        useful = required[other > 0]
        reached = f"at most {useful.max():.3f}" if len(useful) else f"no {other_name}"
        msg = f"decision.at must be a {rule.rule} that leaves any {other_name}, got {rule.at}; here {reached}"
        raise ConfigError(msg)
    return _last_highest(np.where(meets, other, -1.0))


def _last_highest(values: Float[np.ndarray, " k"]) -> int:
    """The last of the highest values: among equally good thresholds the lowest, which is the most sensitive."""
    return int(np.flatnonzero(values >= values.max() - 1e-12)[-1])


def _describe(rule: DecisionConfig) -> str:
    if rule.rule == "youden":
        return "largest sensitivity + specificity (Youden)"
    if rule.rule == "f1":
        return "largest F1"
    other = "specificity" if rule.rule == "sensitivity" else "sensitivity"
    return f"largest {other} with a {rule.rule} of at least {rule.at:g}"
