"""Computes the figures of an epoch over its cases, not as means over batches."""

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hilum.cohorts.labels import Labels
from hilum.measuring.calibration import probabilities
from hilum.measuring.metrics import (
    average_precision,
    confusion_matrix,
    macro_auc,
    macro_f1,
    multiclass_accuracy,
    roc_auc,
)

EpochFigures = dict[str, float]

FIGURES = ("accuracy", "f1", "auc", "average_precision", "balanced_accuracy")


class EpochMetrics:
    """Collects logits and the weighted loss of an epoch.

    Args:
        labels: Labels of all cases of the part: classes, or 0 and 1 for each label of a multi-label cohort.
        is_labelled: Whether each has a label; the others count in the loss alone. None: all.
    """

    def __init__(self, labels: Labels, is_labelled: Bool[np.ndarray, " n"] | None = None) -> None:
        self.labels = labels
        self.is_labelled = np.ones(len(labels), bool) if is_labelled is None else is_labelled
        self.order: list[int] = []
        self.logits: list[Tensor] = []
        self.loss_sum = self.weight_sum = 0.0

    def as_state(self) -> tuple[dict[str, float], dict[str, Tensor]]:
        """What has been collected, as numbers and tensors; see ``of_state``."""
        tensors = {"order": torch.tensor(self.order, dtype=torch.int64)}
        if self.logits:
            tensors["logits"] = torch.cat(self.logits)
        return {"loss": self.loss_sum, "weight": self.weight_sum}, tensors

    @classmethod
    def of_state(
        cls,
        labels: Labels,
        is_labelled: Bool[np.ndarray, " n"],
        numbers: dict[str, float],
        tensors: dict[str, Tensor],
    ) -> "EpochMetrics":
        """The metrics that ``as_state`` gave."""
        metrics = cls(labels, is_labelled)
        metrics.loss_sum, metrics.weight_sum = numbers["loss"], numbers["weight"]
        metrics.order = tensors["order"].tolist()
        metrics.logits = [tensors["logits"]] if "logits" in tensors else []
        return metrics

    def add(self, index: list[int], logits: Float[Tensor, "b c"]) -> None:
        """Add the logits of cases with these indices."""
        self.order += index
        self.logits.append(logits.detach().float().cpu())

    def add_loss(self, value: float, weight: float) -> None:
        """Add the weighted sum of the losses of some cases, and the sum of their weights."""
        self.loss_sum += value
        self.weight_sum += weight

    def all_logits(self) -> Float[np.ndarray, "n c"]:
        """All logits, in the order of the cases."""
        logits: np.ndarray = torch.cat(self.logits).double().numpy()[np.argsort(self.order, kind="stable")]
        return logits

    def figures(self) -> EpochFigures:
        """Loss and ``FIGURES``: for the second of two classes, else the mean over classes or labels."""
        order = np.sort(self.order)
        known, labels = self.is_labelled[order], self.labels[order]
        figures_of = _label_figures if labels.ndim == 2 else _class_figures
        return {"loss": self.loss_sum / self.weight_sum} | figures_of(labels[known], self.all_logits()[known])


def _class_figures(labels: Labels, logits: Float[np.ndarray, "n c"]) -> EpochFigures:
    probs = probabilities(logits)
    matrix = confusion_matrix(labels, probs.argmax(axis=1), num_classes=probs.shape[1])
    binary = probs.shape[1] == 2
    return {
        "accuracy": multiclass_accuracy(labels, probs),
        "f1": _f1(matrix) if binary else float(macro_f1(matrix)),
        "auc": roc_auc(labels, probs[:, 1]) if binary else float(macro_auc(labels, probs)),
        "average_precision": _mean_precision(labels, probs),
        "balanced_accuracy": _balanced(matrix),
    }


def _label_figures(labels: Labels, logits: Float[np.ndarray, "n c"]) -> EpochFigures:
    """Means over the labels of a multi-label cohort, each called above a probability of 0.5."""
    called = (logits > 0).astype(np.int64)
    pairs = list(zip(labels.T, called.T, strict=True))
    matrices = [confusion_matrix(y, decided, num_classes=2) for y, decided in pairs]
    return {
        "accuracy": float((labels == called).mean()),
        "f1": float(np.mean([_f1(matrix) for matrix in matrices])),
        "auc": float(np.mean([roc_auc(y, z) for y, z in zip(labels.T, logits.T, strict=True)])),
        "average_precision": float(np.mean([average_precision(y, z) for y, z in zip(labels.T, logits.T, strict=True)])),
        "balanced_accuracy": float(np.mean([_balanced(matrix) for matrix in matrices])),
    }


def _mean_precision(labels: Labels, probs: Float[np.ndarray, "n c"]) -> float:
    """Average precision of the second of two classes, else the mean over the classes."""
    classes = [1] if probs.shape[1] == 2 else range(probs.shape[1])
    return float(np.mean([average_precision((labels == k).astype(np.int64), probs[:, k]) for k in classes]))


def _balanced(matrix: np.ndarray) -> float:
    """Mean recall of the classes that occur; the most probable class is the decision."""
    counts = matrix.sum(axis=1)
    return float(np.mean(np.diag(matrix)[counts > 0] / counts[counts > 0]))


def _f1(matrix: np.ndarray) -> float:
    """F1 of the second of two classes; 0 if it neither occurs nor is called."""
    either = int(matrix[:, 1].sum()) + int(matrix[1].sum())
    return 2 * float(matrix[1, 1]) / either if either else 0.0
