"""Counts of the classes in the training labels, and the weights that follow from them."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from hilum.arrays import ArrayLike, whole
from hilum.errors import CohortError, ConfigError, require


def class_counts(labels: ArrayLike, *, num_classes: int, names: Sequence[str] = ()) -> Int64[np.ndarray, "..."]:
    """Cases of each class, (c,); of multi-label findings cases without and with each, (c, 2).

    Args:
        labels: Of the training cases, and of no others.
        num_classes: Outputs of the model.
        names: Of the classes, for the error's text.

    Raises:
        CohortError: If a class has no case, or of a finding no case has it or all have it.
    """
    labels = whole(labels, "labels", axes=(1, 2))
    named = list(names) if len(names) == num_classes else [str(k) for k in range(num_classes)]
    if labels.ndim == 2:
        present = (labels == 1).sum(0).astype(np.int64)
        counts = np.stack([len(labels) - present, present], axis=1)
        for name, (without, having) in zip(named, counts.tolist(), strict=True):
            if not (without and having):
                msg = (
                    f"training cases must be with and without each finding; got {having} with {name}, {without} without"
                )
                raise CohortError(msg)
        return counts
    if len(labels) and labels.min() < 0:
        msg = f"labels must be 0 to {num_classes - 1}, got {labels.min()}"
        raise CohortError(msg)
    counts = np.bincount(labels, minlength=num_classes)
    if len(counts) > num_classes or not counts.all():
        absent = [name for name, count in zip(named, counts, strict=False) if not count]
        msg = f"every class from 0 to {num_classes - 1} must have training cases; got counts " + (
            f"{counts.tolist()}" + (f", none of class {', '.join(absent)}" if absent else "")
        )
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

    Those of a finding have a mean of 1 over the cases: the rarer of two findings must not count less in their mean.

    Args:
        labels: Of the training cases, and of no others.
        method: ``inverse``: 1 / n. ``sqrt``: 1 / sqrt(n). ``effective``: (1 - beta) / (1 - beta^n), Cui et al. 2019
            (arXiv:1901.05555). ``none``: 1.
        num_classes: Outputs of the model.
        beta: Of the effective number; near 1 it is 1 / n, 0 is no weight.
        names: Of the classes, for the error's text.

    Raises:
        CohortError: If a class has no case.
        ConfigError: If the method is not known, or beta not at least 0 and below 1.

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
    if labels.ndim == 2:
        total = (weights * counts).sum(-1, keepdims=True) / len(labels)
    else:
        total = weights.sum() / len(weights)
    scaled: np.ndarray = weights / total
    return scaled
