"""Computes the figures of evaluation.json for two classes, more classes, or several labels."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int

from hilum.cohorts.labels import Labels
from hilum.measuring.agreement import calibration_line_intervals, ece_floor, expected_calibration_error
from hilum.measuring.bootstrap import Figure
from hilum.measuring.comparison import smallest_difference
from hilum.measuring.intervals import Asked, with_called_intervals, with_class_intervals, with_label_intervals
from hilum.measuring.metrics import confusion_matrix, log_loss
from hilum.measuring.operating_points import FIXED_POINTS, OperatingPoint
from hilum.measuring.prevalence import log_shift, threshold_at
from hilum.measuring.roc_variance import obuchowski
from hilum.measuring.stated_prevalence import figures_at

Evaluation = dict[str, Any]
"""Content of evaluation.json, or a part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """How probabilities are judged.

    Attributes:
        thresholds: Smallest positive probability of the second of two classes, or of each label; of more than two
            classes the most probable one is decided.
        points: Operating points of the second of two classes, or of each label; empty: read from the test's own curves.
        prevalence: Prevalence at which predictive values and net benefit are stated, of the second of two classes, of
            each class or of each label; empty: not stated.
        calibrated_at: Prevalence at which the probabilities themselves are stated; None where it is unknown, empty:
            nowhere known.
    """

    thresholds: tuple[float, ...] = ()
    points: tuple[tuple[OperatingPoint, ...], ...] = ()
    prevalence: tuple[float, ...] = ()
    calibrated_at: tuple[float | None, ...] = ()

    def asked(self, output: int) -> Asked:
        """Further figures of one output."""
        return Asked(
            threshold=self.thresholds[output] if self.thresholds else None,
            points=(self.points[output] if self.points else ()) or FIXED_POINTS,
        )

    def stated(self, output: int) -> "Stated | None":
        """The prevalence that is stated for one output; None if none is."""
        if not self.prevalence:
            return None
        there, here = self.prevalence[output], self.calibrated_at[output] if self.calibrated_at else None
        if here is None or not 0 < here < 1:
            return Stated(prevalence=there)
        of, to = (1 - here, here), (1 - there, there)
        negative, positive = log_shift(of=of, to=to)
        threshold = threshold_at(self.thresholds[output], of=of, to=to) if self.thresholds else None
        return Stated(prevalence=there, threshold=threshold, log_odds_shift=positive - negative)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stated:
    """A prevalence at which figures are stated, and what probabilities become there.

    Attributes:
        prevalence: The prevalence.
        threshold: The threshold of the decisions there; None if it is unknown.
        log_odds_shift: To be added to the log odds of the probabilities; None if it is unknown.
    """

    prevalence: float
    threshold: float | None = None
    log_odds_shift: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassJudgement:
    """Truth, probability and figures of the second of two classes, of one class against the rest, or of one label.

    Attributes:
        name: Name of the class or label.
        y: 1 where it is present, else 0.
        p: Its probability, in double precision.
        called: Whether it is what the threshold says, for each case.
        is_decided: Whether the model decides, for each case; figures of decisions leave the others out.
        asked: What was asked of it; its threshold is None where the most probable class is decided.
        figures: Figures with their intervals.
        agreement: Agreement of probabilities and outcomes.
        stated: The prevalence at which figures are stated too; None: only that of the cases.
    """

    name: str
    y: Int[np.ndarray, " n"]
    p: Float64[np.ndarray, " n"]
    called: Bool[np.ndarray, " n"]
    is_decided: Bool[np.ndarray, " n"]
    asked: Asked
    figures: dict[str, Figure]
    agreement: Evaluation
    stated: Stated | None = None

    @property
    def matrix(self) -> Int[np.ndarray, "2 2"]:
        """Confusion matrix of the decided cases: absent and present (rows), not called and called (columns)."""
        known = self.is_decided
        return confusion_matrix(self.y[known], self.called[known].astype(np.int64), num_classes=2)

    @property
    def evaluation(self) -> Evaluation:
        """Counts, figures and their intervals."""
        further = {f"{point.name} {rate}" for point in self.asked.points for rate in ("sensitivity", "specificity")}
        figures = {name: one for name, one in self.figures.items() if name not in further}
        return {
            "num_positives": int(np.sum(self.y == 1)),
            "prevalence": float(np.mean(self.y == 1)),
            "threshold": self.asked.threshold,
            "num_decided": int(self.is_decided.sum()),
            "coverage_by_class": [_share(self.is_decided[self.y != 1]), _share(self.is_decided[self.y == 1])],
            "confusion": dict(zip(("tn", "fp", "fn", "tp"), self.matrix.ravel().tolist(), strict=True)),
            **with_ends(figures),
            **self.agreement,
            "operating_points": [self._at(point) for point in self.asked.points],
            "at_prevalence": self._at_prevalence(),
        }

    def _at_prevalence(self) -> Evaluation | None:
        """Predictive values and net benefit at the stated prevalence; None if none is stated."""
        if self.stated is None:
            return None
        rates = (self.figures[name] for name in ("sensitivity", "specificity"))
        found = figures_at(*rates, prevalence=self.stated.prevalence, threshold=self.stated.threshold)
        return {**asdict(self.stated), **with_ends(found)}

    def _at(self, point: OperatingPoint) -> Evaluation:
        """Both rates at an operating point; a rate that was read off the curve has no interval of its own."""
        rates = {rate: self.figures[f"{point.name} {rate}"] for rate in ("sensitivity", "specificity")}
        if point.threshold is None:
            rates[point.rule] = replace(rates[point.rule], low=math.nan, high=math.nan)
        where = "these cases" if point.threshold is None else "validation cases"
        return {
            "rule": point.rule,
            "at": point.at,
            "chosen_on": where,
            "threshold": point.threshold,
            **with_ends(rates),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """All figures of one evaluation.

    Attributes:
        figures: Figures for evaluation.json.
        each: The second of two classes, each class against the rest, or each label.
        matrix: Confusion matrix, true (rows) and decided classes; None for several labels.
    """

    figures: Evaluation
    each: tuple[ClassJudgement, ...]
    matrix: Int[np.ndarray, "c c"] | None = None


def judge_cases(
    labels: Labels,
    probs: Float64[np.ndarray, "n c"],
    *,
    classes: tuple[str, ...],
    rules: Rules,
    patients: Sequence[str],
    seed: int,
    decided: Labels,
) -> Judgement:
    """Judge two classes, more classes, or several labels that do not exclude one another (labels of two axes).

    Figures of decisions are of the decided cases, figures of probabilities alone are of all.

    Args:
        labels: True class of each case, or 1 where a label is present.
        probs: Probabilities.
        classes: Names of the outputs.
        rules: How probabilities are judged.
        patients: Patient of each case.
        seed: Seed of the bootstrap.
        decided: Decided class of each case, or 1 where a label is called; -1: no decision.
    """
    if labels.ndim == 2:
        return _judge_labels(labels, probs, classes, rules, patients, seed, decided)
    if len(classes) > 2:
        return _judge_classes(labels, probs, classes, rules, patients, seed, decided)
    called, known = decided == 1, decided >= 0
    figures = with_called_intervals(
        labels, probs[:, 1], called=called, is_decided=known, patients=patients, asked=rules.asked(0), seed=seed
    )
    two = _class_judgement(classes[1], labels, probs[:, 1], (called, known), (rules, 0), figures, patients)
    return Judgement(figures=two.evaluation, each=(two,), matrix=two.matrix)


def _judge_classes(
    labels: Int[np.ndarray, " n"],
    probs: Float64[np.ndarray, "n c"],
    classes: tuple[str, ...],
    rules: Rules,
    patients: Sequence[str],
    seed: int,
    decided: Labels,
) -> Judgement:
    """Judge more than two classes: all together, then each against the rest."""
    known, size = decided >= 0, len(classes)
    matrix = confusion_matrix(labels[known], decided[known], num_classes=size)
    present = np.eye(size, dtype=np.int64)[labels]
    called, is_decided = decided[:, None] == np.arange(size), np.repeat(known[:, None], size, axis=1)
    asked = [rules.asked(k) for k in range(size)]
    means, figures = with_label_intervals(
        present, probs, called=called, is_decided=is_decided, patients=patients, asked=asked, seed=seed
    )
    del means["subset_accuracy"]  # the same as the accuracy
    together = means | with_class_intervals(labels, probs, is_decided=known, patients=patients, seed=seed)
    each = [
        _class_judgement(name, present[:, k], probs[:, k], (called[:, k], known), (rules, k), figures[k], patients)
        for k, name in enumerate(classes)
    ]
    evaluation = {
        "num_by_class": present.sum(0).tolist(),
        "confusion": matrix.tolist(),
        **with_ends(together),
        "log_loss": to_plain(log_loss(labels, probs)),
        "by_class": {one.name: one.evaluation for one in each},
    }
    return Judgement(figures=evaluation, each=tuple(each), matrix=matrix)


def _judge_labels(
    labels: Int[np.ndarray, "n c"],
    probs: Float64[np.ndarray, "n c"],
    names: tuple[str, ...],
    rules: Rules,
    patients: Sequence[str],
    seed: int,
    decided: Labels,
) -> Judgement:
    """Judge several labels that do not exclude one another: means over them, then each."""
    called, known = decided == 1, decided >= 0
    asked = [rules.asked(k) for k in range(len(names))]
    over_all, figures = with_label_intervals(
        labels, probs, called=called, is_decided=known, patients=patients, asked=asked, seed=seed
    )
    each = tuple(
        _class_judgement(name, labels[:, k], probs[:, k], (called[:, k], known[:, k]), (rules, k), figures[k], patients)
        for k, name in enumerate(names)
    )
    by_label = {one.name: one.evaluation for one in each}
    return Judgement(figures={"multi_label": True, **with_ends(over_all), "by_label": by_label}, each=each)


def _class_judgement(
    name: str,
    y: Int[np.ndarray, " n"],
    p: Float64[np.ndarray, " n"],
    decided: tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]],
    rule: tuple[Rules, int],
    figures: dict[str, Figure],
    patients: Sequence[str],
) -> ClassJudgement:
    (called, is_decided), (rules, output) = decided, rule
    return ClassJudgement(
        name=name,
        y=y,
        p=p,
        called=called,
        is_decided=is_decided,
        asked=rules.asked(output),
        figures=figures,
        agreement={**_agreement(y, p, patients), **_area(y, p, patients)},
        stated=rules.stated(output),
    )


def _share(inside: Bool[np.ndarray, " m"]) -> float | None:
    return float(inside.mean()) if len(inside) else None


def to_plain(value: object) -> Any:
    """Convert a value for JSON: None for nan and infinity, lists for arrays."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): to_plain(inner) for key, inner in value.items()}
    return [to_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _agreement(y: Int[np.ndarray, " n"], p: Float64[np.ndarray, " n"], patients: Sequence[str]) -> Evaluation:
    """Agreement of probabilities with outcomes: calibration error, its value by chance, and calibration line."""
    error, floor = expected_calibration_error(y, p), ece_floor(p)
    line = calibration_line_intervals(y, p, patients=patients)
    return {
        **{
            name: to_plain(value)
            for name, value in (("ece", error), ("ece_floor", floor), ("ece_excess", error - floor))
        },
        **with_ends({"calibration_intercept": line.intercept, "calibration_slope": line.slope}),
    }


def _area(y: Int[np.ndarray, " n"], p: Float64[np.ndarray, " n"], patients: Sequence[str]) -> Evaluation:
    """The interval of the AUC by its analytic variance, and the smallest difference from a value that it could show."""
    areas = obuchowski(y, p, patients=patients)
    error = float(areas.errors[0])
    return {
        "auc_variance_by": "DeLong" if len(set(patients)) == len(y) else "Obuchowski",
        **with_ends({"auc_by_variance": areas.figures[0]}),
        "smallest_difference": to_plain(_found_above(float(areas.aucs[0]), error, areas.num_patients)),
    }


def _found_above(auc: float, error: float, num_patients: int) -> float:
    """How far below the AUC a fixed value must lie to be found different in 80 of 100 tests, on the logit scale."""
    if not 0 < auc < 1:
        return math.nan
    needed = smallest_difference(error / (auc * (1 - auc)), num_patients=num_patients)
    return auc - 1 / (1 + math.exp(min(needed, 500.0)) * (1 - auc) / auc)


def with_ends(figures: Mapping[str, Figure]) -> Evaluation:
    """Each figure KEY with its 95 % interval KEY_ci."""
    evaluation: Evaluation = {}
    for name, figure in figures.items():
        evaluation |= {name: to_plain(figure.value), f"{name}_ci": [to_plain(figure.low), to_plain(figure.high)]}
    return evaluation


def figures_in(evaluation: Mapping[str, Any]) -> dict[str, Figure]:
    """The figures with intervals in a part of evaluation.json: the inverse of ``with_ends``."""
    found = {}
    for name, ends in evaluation.items():
        if name.endswith("_ci"):
            value = evaluation[name.removesuffix("_ci")]
            value, low, high = (math.nan if number is None else number for number in (value, *ends))
            found[name.removesuffix("_ci")] = Figure(value=value, low=low, high=high)
    return found
