"""Labels and probabilities to what evaluation.json says: of two classes, of many, or of findings side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from hilum.measuring.agreement import calibration_line, ece_floor, expected_calibration_error
from hilum.measuring.intervals import (
    Figure,
    with_called_intervals,
    with_class_intervals,
    with_finding_intervals,
    with_intervals,
)
from hilum.measuring.metrics import confusion_matrix, log_loss

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One class against the other, or a finding: where it is, how probable it was held, and how that agrees.

    Attributes:
        name: Of the class or the finding.
        y: 1 where it is.
        p: Its probability, in double precision.
        threshold: It is called from there on.
        figures: With their intervals.
        log_loss: In nats.
    """

    name: str
    y: Int[np.ndarray, " n"]
    p: Float64[np.ndarray, " n"]
    threshold: float
    figures: dict[str, Figure]
    log_loss: float

    @property
    def called(self) -> Bool[np.ndarray, " n"]:
        """Where it is called."""
        return self.p >= self.threshold

    @property
    def matrix(self) -> Int[np.ndarray, "2 2"]:
        """Cases without and with it (rows), not called and called (columns)."""
        return confusion_matrix(self.y, self.called.astype(np.int64), num_classes=2)

    @property
    def answer(self) -> Answer:
        """Counts, figures and their intervals."""
        return {
            **_counts(self.y),
            "threshold": self.threshold,
            **_tables(self.matrix),
            **_with_intervals(self.figures),
            "log_loss": plain(self.log_loss),
            **_agreement(self.y, self.p),
        }


def of_two(
    labels: Int[np.ndarray, " n"],
    probs: Float64[np.ndarray, "n 2"],
    *,
    name: str,
    threshold: float,
    patients: Sequence[str],
    seed: int,
) -> Judged:
    """The second of two classes against the first."""
    figures = with_intervals(labels, probs[:, 1], threshold=threshold, patients=patients, seed=seed)
    return Judged(
        name=name,
        y=labels,
        p=probs[:, 1],
        threshold=threshold,
        figures=figures,
        log_loss=log_loss(labels, probs),
    )


def of_classes(
    labels: Int[np.ndarray, " n"],
    probs: Float64[np.ndarray, "n c"],
    *,
    classes: tuple[str, ...],
    patients: Sequence[str],
    seed: int,
) -> tuple[Int[np.ndarray, "c c"], Answer]:
    """The confusion matrix, and what is said of more than two classes: together, then each against the rest."""
    decided = probs.argmax(1).astype(np.int64)
    matrix = confusion_matrix(labels, decided, num_classes=len(classes))
    together = with_class_intervals(labels, probs, patients=patients, seed=seed)
    by_class = {}
    for k, name in enumerate(classes):
        y, called = (labels == k).astype(np.int64), decided == k
        figures = with_called_intervals(y, probs[:, k], called=called, patients=patients, seed=seed)
        two = confusion_matrix(y, called.astype(np.int64), num_classes=2)
        by_class[name] = {**_counts(y), **_tables(two), **_with_intervals(figures)}
    return matrix, {
        "num_by_class": matrix.sum(1).tolist(),
        "confusion": matrix.tolist(),
        **_with_intervals(together),
        "log_loss": plain(log_loss(labels, probs)),
        "by_class": by_class,
    }


def of_findings(
    labels: Int[np.ndarray, "n c"],
    probs: Float64[np.ndarray, "n c"],
    *,
    findings: tuple[str, ...],
    thresholds: Sequence[float],
    patients: Sequence[str],
    seed: int,
) -> tuple[list[Judged], Answer]:
    """Each finding on its own, and what is said of all: means over them, then each."""
    called = probs >= np.array(thresholds)
    over_all, figures = with_finding_intervals(labels, probs, called=called, patients=patients, seed=seed)
    each = [
        Judged(name=name, y=y, p=p, threshold=float(cut), figures=found, log_loss=log_loss(y, p))
        for name, y, p, cut, found in zip(findings, labels.T, probs.T, thresholds, figures, strict=True)
    ]
    by_finding = {one.name: one.answer for one in each}
    return each, {"multi_label": True, **_with_intervals(over_all), "by_finding": by_finding}


def plain(value: object) -> Any:
    """A value as JSON has it: null for nan and infinity, lists for arrays."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _counts(y: Int[np.ndarray, " n"]) -> Answer:
    return {"num_positives": int(np.sum(y == 1)), "prevalence": float(np.mean(y == 1))}


def _agreement(y: Int[np.ndarray, " n"], p: Float64[np.ndarray, " n"]) -> Answer:
    """How well probabilities say what happened: the calibration error, what chance makes of it, and the line."""
    intercept, slope = calibration_line(y, p)
    return {
        "ece": plain(expected_calibration_error(y, p)),
        "ece_floor": plain(ece_floor(p)),
        "calibration_intercept": plain(intercept),
        "calibration_slope": plain(slope),
    }


def _tables(matrix: Int[np.ndarray, "2 2"]) -> Answer:
    return {"confusion": dict(zip(("tn", "fp", "fn", "tp"), matrix.ravel().tolist(), strict=True))}


def _with_intervals(figures: dict[str, Figure]) -> Answer:
    """Beside each figure KEY its 95 % interval KEY_ci."""
    answer: Answer = {}
    for name, figure in figures.items():
        answer |= {name: plain(figure.value), f"{name}_ci": [plain(figure.low), plain(figure.high)]}
    return answer
