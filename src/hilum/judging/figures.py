"""Computes the figures of evaluation.json for two classes, more classes, or several labels."""

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
    with_intervals,
    with_label_intervals,
)
from hilum.measuring.metrics import confusion_matrix, log_loss

Evaluation = dict[str, Any]
"""Content of evaluation.json, or a part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassJudgement:
    """Truth, probability and figures of the second of two classes, or of one label.

    Attributes:
        name: Name of the class or label.
        y: 1 where it is present, else 0.
        p: Its probability, in double precision.
        threshold: Smallest probability at which it is called.
        figures: Figures with their intervals.
        log_loss: Log loss, in nats.
    """

    name: str
    y: Int[np.ndarray, " n"]
    p: Float64[np.ndarray, " n"]
    threshold: float
    figures: dict[str, Figure]
    log_loss: float

    @property
    def called(self) -> Bool[np.ndarray, " n"]:
        """Whether it is called, for each case."""
        return self.p >= self.threshold

    @property
    def matrix(self) -> Int[np.ndarray, "2 2"]:
        """Confusion matrix: absent and present (rows), not called and called (columns)."""
        return confusion_matrix(self.y, self.called.astype(np.int64), num_classes=2)

    @property
    def evaluation(self) -> Evaluation:
        """Counts, figures and their intervals."""
        return {
            **_counts(self.y),
            "threshold": self.threshold,
            **_tables(self.matrix),
            **_with_intervals(self.figures),
            "log_loss": to_plain(self.log_loss),
            **_agreement(self.y, self.p),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """All figures of one evaluation.

    Attributes:
        figures: Figures for evaluation.json.
        each: The second of two classes, or each label; empty for more than two classes.
        matrix: Confusion matrix, true (rows) and decided classes; None for several labels.
    """

    figures: Evaluation
    each: tuple[ClassJudgement, ...] = ()
    matrix: Int[np.ndarray, "c c"] | None = None


def judge_two(
    labels: Int[np.ndarray, " n"],
    probs: Float64[np.ndarray, "n 2"],
    *,
    name: str,
    threshold: float,
    patients: Sequence[str],
    seed: int,
) -> Judgement:
    """Judge the second of two classes against the first."""
    figures = with_intervals(labels, probs[:, 1], threshold=threshold, patients=patients, seed=seed)
    loss = log_loss(labels, probs)
    two = ClassJudgement(name=name, y=labels, p=probs[:, 1], threshold=threshold, figures=figures, log_loss=loss)
    return Judgement(figures=two.evaluation, each=(two,), matrix=two.matrix)


def judge_classes(
    labels: Int[np.ndarray, " n"],
    probs: Float64[np.ndarray, "n c"],
    *,
    classes: tuple[str, ...],
    patients: Sequence[str],
    seed: int,
) -> Judgement:
    """Judge more than two classes: all together, then each against the rest."""
    decided = probs.argmax(1).astype(np.int64)
    matrix = confusion_matrix(labels, decided, num_classes=len(classes))
    together = with_class_intervals(labels, probs, patients=patients, seed=seed)
    by_class = {}
    for k, name in enumerate(classes):
        y, called = (labels == k).astype(np.int64), decided == k
        figures = with_called_intervals(y, probs[:, k], called=called, patients=patients, seed=seed)
        two = confusion_matrix(y, called.astype(np.int64), num_classes=2)
        by_class[name] = {**_counts(y), **_tables(two), **_with_intervals(figures)}
    evaluation = {
        "num_by_class": matrix.sum(1).tolist(),
        "confusion": matrix.tolist(),
        **_with_intervals(together),
        "log_loss": to_plain(log_loss(labels, probs)),
        "by_class": by_class,
    }
    return Judgement(figures=evaluation, matrix=matrix)


def judge_labels(
    labels: Int[np.ndarray, "n c"],
    probs: Float64[np.ndarray, "n c"],
    *,
    names: tuple[str, ...],
    thresholds: Sequence[float],
    patients: Sequence[str],
    seed: int,
) -> Judgement:
    """Judge several labels that do not exclude one another: means over them, then each."""
    called = probs >= np.array(thresholds)
    over_all, figures = with_label_intervals(labels, probs, called=called, patients=patients, seed=seed)
    each = tuple(
        ClassJudgement(name=name, y=y, p=p, threshold=float(cut), figures=found, log_loss=log_loss(y, p))
        for name, y, p, cut, found in zip(names, labels.T, probs.T, thresholds, figures, strict=True)
    )
    by_label = {one.name: one.evaluation for one in each}
    return Judgement(figures={"multi_label": True, **_with_intervals(over_all), "by_label": by_label}, each=each)


def to_plain(value: object) -> Any:
    """Convert a value for JSON: None for nan and infinity, lists for arrays."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    return [to_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _counts(y: Int[np.ndarray, " n"]) -> Evaluation:
    return {"num_positives": int(np.sum(y == 1)), "prevalence": float(np.mean(y == 1))}


def _agreement(y: Int[np.ndarray, " n"], p: Float64[np.ndarray, " n"]) -> Evaluation:
    """Agreement of probabilities with outcomes: calibration error, its value by chance, and calibration line."""
    intercept, slope = calibration_line(y, p)
    return {
        "ece": to_plain(expected_calibration_error(y, p)),
        "ece_floor": to_plain(ece_floor(p)),
        "calibration_intercept": to_plain(intercept),
        "calibration_slope": to_plain(slope),
    }


def _tables(matrix: Int[np.ndarray, "2 2"]) -> Evaluation:
    return {"confusion": dict(zip(("tn", "fp", "fn", "tp"), matrix.ravel().tolist(), strict=True))}


def _with_intervals(figures: dict[str, Figure]) -> Evaluation:
    """Each figure KEY with its 95 % interval KEY_ci."""
    evaluation: Evaluation = {}
    for name, figure in figures.items():
        evaluation |= {name: to_plain(figure.value), f"{name}_ci": [to_plain(figure.low), to_plain(figure.high)]}
    return evaluation
