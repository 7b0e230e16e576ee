"""Arrays of labels and targets from cases: classes, multiple labels and soft labels."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from jaxtyping import Float64, Int

from hilum.cohorts.table import PRESENT, Case

Labels: TypeAlias = Int[np.ndarray, " n"] | Int[np.ndarray, "n c"]
"""Class of each case; for a multi-label cohort 0 or 1 for each label."""


def labels_of(cases: Sequence[Case]) -> Labels:
    """Class of each case, (n,); for a multi-label cohort 1 where a label is present, else 0, (n, c).

    A case with a soft label alone counts as the second class from a half on.
    """
    if cases and cases[0].present:
        return np.array([[share >= PRESENT for share in case.present] for case in cases], np.int64)
    return np.array([_class_of(case) for case in cases], np.int64)


def _class_of(case: Case) -> int:
    if case.label is None and case.soft_label is not None:
        return int(case.soft_label >= PRESENT)
    assert case.label is not None  # as tables without labels are not read for training  # noqa: S101
    return case.label


def targets_of(cases: Sequence[Case], num_classes: int) -> Float64[np.ndarray, "n c"]:
    """Target probability of each class; soft where the table has soft labels or shares of readers."""
    if cases and cases[0].present:
        return np.array([case.present for case in cases], np.float64)
    targets = np.eye(num_classes)[labels_of(cases)]
    for row, case in enumerate(cases):
        if case.soft_label is not None and num_classes == 2:
            targets[row] = 1 - case.soft_label, case.soft_label
    return targets
