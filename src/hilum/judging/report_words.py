"""How the pages write figures: their names, numbers with intervals, and tables of confusion."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int

from hilum.judging.figures import Evaluation

NAMES = {
    "auc": "ROC AUC",
    "macro_auc": "Mean ROC AUC",
    "mean_auc": "Mean ROC AUC",
    "auc_by_variance": "ROC AUC with the interval of its analytic variance",
    "partial_auc": "Partial ROC AUC at specificities from 0.9 on (chance 0.5, McClish)",
    "average_precision": "Average precision",
    "macro_average_precision": "Mean average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "Positive predictive value, at the prevalence of these cases",
    "npv": "Negative predictive value, at the prevalence of these cases",
    "balanced_accuracy": "Balanced accuracy",
    "macro_balanced_accuracy": "Mean balanced accuracy",
    "macro_partial_auc": "Mean partial ROC AUC",
    "macro_sensitivity": "Mean sensitivity",
    "macro_specificity": "Mean specificity",
    "accuracy": "Accuracy",
    "subset_accuracy": "Share of cases with every label right",
    "f1": "F1",
    "macro_f1": "Mean F1",
    "mcc": "Matthews' correlation coefficient",
    "macro_mcc": "Mean Matthews' correlation coefficient",
    "brier": "Brier score",
    "macro_brier": "Mean Brier score",
    "macro_log_loss": "Mean log loss of the classes one by one, nats",
    "log_loss": "Log loss, nats",
    "net_benefit": "Net benefit at the threshold",
    "calibration_slope": "Calibration slope (1 is right, below 1 too sure)",
    "calibration_intercept": "Calibration intercept at that slope (0 is right)",
    "ece": "Expected calibration error, bins of equal numbers",
    "ece_floor": "The same of a perfect model, by chance alone",
    "ece_excess": "Calibration error beyond chance",
}
"""Names of the figures in the order in which they are shown."""

_TINY = 0.001
"""Smaller numbers are shown with two digits instead of three decimals."""

_WITHOUT_DECISION = ("sensitivity", "specificity")


def figure_text(evaluation: Mapping[str, Any], name: str) -> str:
    """A figure with its interval, such as ``0.985 (0.952 to 0.996)``."""
    value, ends = evaluation.get(name), evaluation.get(f"{name}_ci", [None, None])
    if value is None:
        return "not defined"
    if None in ends:
        return rounded(value)
    if 0 < abs(value) < _TINY:
        return f"{rounded(value)} ({rounded(ends[0])} to {rounded(ends[1])})"
    low, high = (f"{end:.3f}".replace("-", "−") for end in ends)
    return f"{rounded(value)} ({low} to {high})"


def sortable(evaluation: Mapping[str, Any], name: str) -> tuple[str, str]:
    """A figure as the value by which a column is sorted, and as text."""
    value = evaluation.get(name)
    return ("" if value is None else f"{value:.6g}"), figure_text(evaluation, name)


def rounded(value: float) -> str:
    """Three decimals; numbers below 0.001 with two digits."""
    if not math.isfinite(value):
        return "not defined"
    return f"{value:.2g}" if 0 < abs(value) < _TINY else f"{value:.3f}".replace("-", "−")


def p_value(value: float | None) -> str:
    """A p-value with three decimals."""
    return "not defined" if value is None else "below 0.001" if value < 0.001 else f"{value:.3f}"


def figure_rows(evaluation: Evaluation, decided: Evaluation | None) -> list[tuple[str, list[str]]]:
    """Name and texts of each figure: of all cases and, if there are undecided ones, of the decided cases."""
    columns = [evaluation] if decided is None else [evaluation, decided]
    method = {"auc_by_variance": f" ({evaluation.get('auc_variance_by')})"}
    rows = [
        (text + method.get(name, ""), [figure_text(one, name) for one in columns])
        for name, text in NAMES.items()
        if name in evaluation
    ]
    stated = evaluation.get("at_prevalence")
    if stated:
        there = [one.get("at_prevalence") or {} for one in columns]
        at = f"at a prevalence of {stated['prevalence']:g}"
        for name, text in (("ppv", "Positive predictive value"), ("npv", "Negative predictive value")):
            rows.append((f"{text}, {at}", [figure_text(one, name) for one in there]))
        if "net_benefit" in stated:
            rows.append((f"Net benefit at the threshold, {at}", [figure_text(one, "net_benefit") for one in there]))
    return rows


def point_rows(evaluation: Evaluation, *, cross_fitted: bool = False) -> list[list[str]]:
    """Texts of the operating points: demand, where it was chosen, threshold, sensitivity, specificity.

    Args:
        evaluation: The figures of one class or label.
        cross_fitted: Whether each fold has a threshold of its own.
    """
    frozen = evaluation["threshold"]
    rates = [figure_text(evaluation, name) for name in _WITHOUT_DECISION]
    rows = [["the most probable class", "–", "–", *rates]]
    if cross_fitted:
        rows = [["the threshold of each fold", "the other folds", "–", *rates]]
    elif frozen is not None:
        rows = [["the model's own threshold", "validation cases", rounded(frozen), *rates]]
    for point in evaluation["operating_points"]:
        demand = f"{point['rule']} of at least {point['at']:g}"
        threshold = "–" if point["threshold"] is None else rounded(point["threshold"])
        where = "read from the curve of these cases" if point["threshold"] is None else point["chosen_on"]
        rows.append([demand, where, threshold, *(figure_text(point, name) for name in _WITHOUT_DECISION)])
    return rows


def confusion_table(matrix: Int[np.ndarray, "c c"], names: tuple[str, ...]) -> dict[str, Any]:
    """A confusion matrix for a table: its counts, shares of the true class, and whether a cell is right or wrong."""
    totals = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    rows = [
        (
            name,
            [
                {
                    "count": int(matrix[row, column]),
                    "share": float(shares[row, column]),
                    "percent": f"{shares[row, column]:.0%}" if totals[row, 0] else "–",
                    "kind": "right" if row == column else "wrong",
                }
                for column in range(len(names))
            ],
        )
        for row, name in enumerate(names)
    ]
    return {"names": names, "rows": rows}


def flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as pairs of a dotted name and a text."""
    pairs: list[tuple[str, str]] = []
    for name, value in settings.items():
        if isinstance(value, Mapping):
            pairs += flat(value, f"{prefix}{name}.")
        else:
            values = value if isinstance(value, list | tuple) else [value]
            text = ", ".join(f"{one:.4g}" if isinstance(one, float) else str(one) for one in values)
            pairs.append((f"{prefix}{name}", text or "none"))
    return pairs
