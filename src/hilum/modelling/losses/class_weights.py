"""Counts of the classes in the training labels, and the class weights that follow from them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from hilum.arrays import ArrayLike, whole
from hilum.errors import CohortError, ConfigError, require


def class_counts(labels: ArrayLike, *, num_classes: int, names: Sequence[str] = ()) -> Int64[np.ndarray, "..."]:
    """Number of cases of each class, (c,); multi-label: of cases without and with each label, (c, 2).

    Args:
        labels: Labels of the training cases only.
        num_classes: Outputs of the model.
        names: Names of the classes, for the error's text.

    Raises:
        CohortError: If a class has no case, or no case or every case has a label.
    """
    labels = whole(labels, "labels", axes=(1, 2))
    named = list(names) if len(names) == num_classes else [str(k) for k in range(num_classes)]
    if labels.ndim == 2:
        present = (labels == 1).sum(0).astype(np.int64)
        counts = np.stack([len(labels) - present, present], axis=1)
        for name, (without, having) in zip(named, counts.tolist(), strict=True):
            if not (without and having):
                msg = f"training cases must be with and without each label; got {having} with {name}, {without} without"
                raise CohortError(msg)
        return counts
    if len(labels) and labels.min() < 0:
        msg = f"labels must be 0 to {num_classes - 1}, got {labels.min()}"
        raise CohortError(msg)
    counts = np.bincount(labels, minlength=num_classes)
    if len(counts) > num_classes or not counts.all():
        absent = [name for name, count in zip(named, counts, strict=False) if not count]
        none = f", none of class {', '.join(absent)}" if absent else ""
        msg = f"every class from 0 to {num_classes - 1} must have training cases; got counts {counts.tolist()}{none}"
        raise CohortError(msg)
    return counts


def class_weights(
    labels: ArrayLike,
    *,
    method: Literal["none", "inverse", "sqrt", "effective"] = "inverse",
    num_classes: int,
    beta: float = 0.999,
    names: Sequence[str] = (),
) -> Float64[np.ndarray, "..."]:
    """One weight for each class, summing to the number of classes; multi-label: absent and present of each, (c, 2).

    The weights of a label have a mean of 1 over the cases: the rarer of two labels must not count less in their mean.

    Args:
        labels: Labels of the training cases only.
        method: ``inverse``: 1 / n. ``sqrt``: 1 / sqrt(n). ``effective``: (1 - beta) / (1 - beta^n), Cui et al. 2019
            (arXiv:1901.05555). ``none``: 1.
        num_classes: Outputs of the model.
        beta: Parameter of the effective number; near 1 it is 1 / n, at 0 all weights are the same.
        names: Names of the classes, for the error's text.

    Raises:
        CohortError: If a class has no case.
        ConfigError: If the method is unknown, or beta is below 0 or at least 1.

    Example:
        >>> class_weights([0, 0, 0, 1], num_classes=2)
        array([0.5, 1.5])
    """
    labels = whole(labels, "labels", axes=(1, 2))
    require(0 <= beta < 1, "beta", "at least 0 and below 1", beta)
    counts = class_counts(labels, num_classes=num_classes, names=names).astype(float)
    formulas = {
        "none": np.ones_like(counts),
        "inverse": 1 / counts,
        "sqrt": 1 / np.sqrt(counts),
        "effective": (1 - beta) / -np.expm1(counts * np.log(beta)) if beta else np.ones_like(counts),
    }
    if method not in formulas:
        msg = f"method must be one of {', '.join(formulas)}, got {method}"
        raise ConfigError(msg)
    weights = formulas[method]
    is_multi_label = labels.ndim == 2
    mean = (weights * counts).sum(-1, keepdims=True) / len(labels) if is_multi_label else weights.sum() / len(weights)
    scaled: np.ndarray = weights / mean
    return scaled
