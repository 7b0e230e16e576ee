"""Weights of the classes from the training labels."""

from typing import Literal

import numpy as np
from jaxtyping import Float64, Int

from hilum.errors import CohortError, ConfigError

_BETA = 0.999
"""Of the effective number of samples (Cui et al. 2019)."""


def class_weights(
    labels: Int[np.ndarray, " n"],
    *,
    method: Literal["none", "inverse", "sqrt", "effective"] = "inverse",
    num_classes: int,
) -> Float64[np.ndarray, " c"]:
    """One weight for each class, summing to the number of classes.

    Args:
        labels: Class indices of the training cases, and of no others.
        method: ``inverse``: 1 / n. ``sqrt``: 1 / sqrt(n). ``effective``: (1 - beta) / (1 - beta^n), Cui et al. 2019
            (arXiv:1901.05555), beta 0.999. ``none``: 1.
        num_classes: Outputs of the model.

    Raises:
        CohortError: If a class has no case.
        ConfigError: If the method is not known.

    Example:
        >>> class_weights(np.array([0, 0, 0, 1]), num_classes=2)
        array([0.5, 1.5])
    """
    counts = np.bincount(labels, minlength=num_classes).astype(float)
    if len(counts) > num_classes or not counts.all():
        absent = [str(c) for c in np.flatnonzero(counts == 0)]
        msg = f"every class from 0 to {num_classes - 1} must have training cases; got counts " + (
            f"{counts.astype(int).tolist()}" + (f", none of class {', '.join(absent)}" if absent else "")
        )
        raise CohortError(msg)
    formulas = {
        "none": np.ones_like(counts),
        "inverse": 1 / counts,
        "sqrt": 1 / np.sqrt(counts),
        "effective": (1 - _BETA) / (1 - _BETA**counts),
    }
    if method not in formulas:
        msg = f"method must be one of {', '.join(formulas)}, got {method}"
        raise ConfigError(msg)
    weights: np.ndarray = formulas[method] / formulas[method].sum() * num_classes
    return weights
