"""Measures how well a scan's technical tags alone tell the label: what a model could learn instead of the disease."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hilum.cohorts.cells import is_size, number_in
from hilum.cohorts.copies import CaseGroup, join_patients
from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.table import Case, Cohort
from hilum.measuring.bootstrap import Z95
from hilum.measuring.metrics import roc_auc
from hilum.measuring.roc_variance import expected_auc_half_width
from hilum.preparing import load_sample
from hilum.volume import LOWEST_HU

_FOLDS = 5
_LEAST_PATIENTS = 20
"""Fewest patients with and without a class: four of each in every fold."""

_QUANTILES = 5
"""Levels into which numbers are divided."""

_PRIOR = 2.0
"""Cases of the mean rate that are added to each level, so that a level of one case tells little."""

_HIGHEST_AUC = 0.95
"""AUC whose standard error that of a higher one is taken for: in a small fold 1 would have none."""

_HU_STEP, _HU_BINS = 50, 32
"""Width and number of the bins of an HU histogram, from -1024 HU on; the last holds all that is denser."""

_MOST_SAMPLES = 2500
"""Samples with a class, and without it, from which histograms are made: enough for an interval of 0.02."""

_BASELINES = ("HU histogram", "size")

Column: TypeAlias = list[str] | Float[np.ndarray, " n"]
"""A tag of each case: words, or numbers with nan where missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Giveaway:
    """How well one thing alone tells one class from the rest.

    Attributes:
        tag: Name of the thing.
        target: Name of the class or label.
        is_technical: Whether it is a tag of the scanner or of the grid, not a baseline that may know the disease.
        auc: Cross-validated AUC; None if it cannot be computed.
        low: Lower end of its 95 % interval.
        high: Upper end.
        reason: Reason why there is no figure.
    """

    tag: str
    target: str
    is_technical: bool
    auc: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def find_giveaways(
    cohort: Cohort, prepared: PreparedCohort, *, linked: Iterable[CaseGroup] = ()
) -> tuple[Giveaway, ...]:
    """Cross-validated AUC of each technical tag, of sizes and of an HU histogram, for each class against the rest.

    Folds are by patient and stratified. A tag predicts the rate of the class at its level in the other folds, smoothed
    towards the mean; numbers are divided into quantiles, and a missing value is a level. The AUC is the mean over the
    folds; its standard error is Hanley's and McNeil's with patients for cases.

    Args:
        cohort: Classes of the table.
        prepared: Its usable cases, with their tags and samples.
        linked: Groups of cases that count as one patient, such as copies: else these would leak between the folds.
    """
    cases = [case for case in prepared.cases if case.is_labelled]
    files = dict(zip((case.case_id for case in prepared.cases), prepared.samples, strict=True))
    columns = _columns(cases, prepared)
    joined = [case.patient_id for case in join_patients(cases, prepared.copies, linked)]
    patients = np.unique(joined, return_inverse=True)[1] if cases else np.zeros(0, int)
    histograms: dict[str, np.ndarray] = {}
    found = []
    for target, present in _targets(cohort, cases):
        reason = _why_not(present, patients)
        if reason:
            found += [_without_figure(name, target, reason) for name in (*columns, "HU histogram")]
            continue
        folds = _folds(present, patients)
        for name, column in columns.items():
            if not _differs(column):
                found.append(_without_figure(name, target, "all cases have the same value, or none"))
                continue
            found.append(_measured(name, target, present, patients, folds, lambda *of, c=column: _rates(c, *of)))
        some = _some(present)
        for case in (cases[place] for place in some):
            if case.case_id not in histograms:
                histograms[case.case_id] = _histogram(load_sample(files[case.case_id]).voxels_hu)
        table = np.stack([histograms[cases[place].case_id] for place in some])
        found.append(_of_histograms(table, target, present[some], patients[some]))
    return tuple(found)


def _without_figure(name: str, target: str, reason: str) -> Giveaway:
    return Giveaway(tag=name, target=target, is_technical=_is_technical(name), reason=reason)


def _is_technical(name: str) -> bool:
    return not name.startswith(_BASELINES)


def _columns(cases: Sequence[Case], prepared: PreparedCohort) -> dict[str, Column]:
    """The technical tags of each case, and its sizes."""
    tags = [prepared.tags.get(case.case_id) for case in cases]
    sources = [prepared.sources.get(case.case_id) for case in cases]
    columns: dict[str, Column] = {
        "kernel": [one.kernel if one else "" for one in tags],
        "manufacturer": [one.manufacturer if one else "" for one in tags],
        "model": [one.model if one else "" for one in tags],
        "slice thickness": _numbers([one.thickness_mm if one else None for one in tags]),
        "spacing z": _numbers([one.spacing_mm[0] if one else None for one in sources]),
        "spacing in plane": _numbers([one.spacing_mm[1] if one else None for one in sources]),
        "number of slices": _numbers([one.shape[0] if one else None for one in sources]),
        "extent z": _numbers([one.extent_mm[0] if one else None for one in sources]),
        "extent in plane": _numbers([one.extent_mm[1] if one else None for one in sources]),
    }
    for name in cases[0].groups if cases else ():
        if is_size(name):
            columns[f"size ({name})"] = _numbers([number_in(case.groups.get(name, "")) for case in cases])
    return columns


def _numbers(values: Sequence[int | float | None]) -> Float[np.ndarray, " n"]:
    return np.array([np.nan if value is None else value for value in values], np.float64)


def _differs(column: Column) -> bool:
    """Whether a column has several values."""
    if isinstance(column, list):
        return len(set(column)) > 1
    return len(np.unique(column[~np.isnan(column)])) > (0 if np.isnan(column).any() else 1)


def _targets(cohort: Cohort, cases: Sequence[Case]) -> Iterator[tuple[str, Bool[np.ndarray, " n"]]]:
    """Each class against the rest, of two classes the second; each label."""
    first = 1 if len(cohort.classes) == 2 and not cohort.multi_label else 0
    for number, name in enumerate(cohort.classes[first:], start=first):
        yield name, np.array([(number, True) in case.sides for case in cases], bool)


def _why_not(present: Bool[np.ndarray, " n"], patients: Int[np.ndarray, " n"]) -> str:
    """Reason why a class cannot be cross-validated; empty if it can."""
    counts = [len(np.unique(patients[present == state])) for state in (True, False)]
    if min(counts) < _LEAST_PATIENTS:
        return (
            f"too few patients: {counts[0]} with the class and {counts[1]} without, "
            f"{_LEAST_PATIENTS} of each are needed"
        )
    return ""


def _folds(present: Bool[np.ndarray, " n"], patients: Int[np.ndarray, " n"]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Training and test cases of each fold whose both sides have both classes."""
    splitter = StratifiedGroupKFold(_FOLDS, shuffle=True, random_state=0)
    folds = list(splitter.split(present, present.astype(int), patients))
    return [(train, test) for train, test in folds if all(0 < present[part].mean() < 1 for part in (train, test))]


def _measured(
    name: str,
    target: str,
    present: Bool[np.ndarray, " n"],
    patients: Int[np.ndarray, " n"],
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    predict: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
) -> Giveaway:
    """The AUC of a prediction from the training cases, their classes and the test cases of each fold."""
    if not folds:
        return _without_figure(name, target, "no fold has patients with and without the class on both sides")
    areas, variances = [], []
    for train, test in folds:
        areas.append(roc_auc(present[test].astype(int), predict(train, present[train], test)))
        positives, negatives = (len(np.unique(patients[test][present[test] == state])) for state in (True, False))
        area = min(max(areas[-1], 1 - _HIGHEST_AUC), _HIGHEST_AUC)
        variances.append((expected_auc_half_width(positives, negatives, auc=area) / Z95) ** 2)
    mean, half = float(np.mean(areas)), Z95 * math.sqrt(sum(variances)) / len(areas)
    low, high = max(0.0, mean - half), min(1.0, mean + half)
    return Giveaway(tag=name, target=target, is_technical=_is_technical(name), auc=mean, low=low, high=high)


def _rates(column: Column, train: np.ndarray, present: np.ndarray, test: np.ndarray) -> Float[np.ndarray, " m"]:
    """Smoothed rate of the class at the level of each test case."""
    levels = _levels(column, train)
    rate = present.mean()
    counts = np.bincount(levels[train], minlength=levels.max() + 1)
    sums = np.bincount(levels[train], present, minlength=levels.max() + 1)
    rates = (sums + _PRIOR * rate) / (counts + _PRIOR)
    predicted: np.ndarray = rates[levels[test]]
    return predicted


def _levels(column: Column, train: np.ndarray) -> Int[np.ndarray, " n"]:
    """Level of each case: a word, a quantile of the training cases, or missing."""
    if isinstance(column, list):
        return np.unique(column, return_inverse=True)[1].astype(int)
    known = column[train][~np.isnan(column[train])]
    edges = np.unique(np.quantile(known, np.linspace(0, 1, _QUANTILES + 1)[1:-1])) if len(known) else np.zeros(0)
    return np.where(np.isnan(column), len(edges) + 1, np.searchsorted(edges, column, side="left")).astype(int)


def _histogram(voxels_hu: Int[np.ndarray, "z y x"]) -> Float[np.ndarray, " b"]:
    """Square roots of the shares of voxels by HU; every second voxel along each axis."""
    part = voxels_hu[::2, ::2, ::2].astype(np.int32).ravel()
    bins = np.clip((part - LOWEST_HU) // _HU_STEP, 0, _HU_BINS - 1)
    shares: np.ndarray = np.sqrt(np.bincount(bins, minlength=_HU_BINS) / len(bins))
    return shares


def _some(present: Bool[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Cases whose samples are read: of many with or without the class, evenly spaced ones."""
    sides = [np.flatnonzero(present == state) for state in (True, False)]
    return np.sort(np.concatenate([side[:: max(1, -(-len(side) // _MOST_SAMPLES))] for side in sides]))


def _of_histograms(
    histograms: Float[np.ndarray, "n b"], target: str, present: Bool[np.ndarray, " n"], patients: Int[np.ndarray, " n"]
) -> Giveaway:
    def predict(train: np.ndarray, classes: np.ndarray, test: np.ndarray) -> np.ndarray:
        return _regression(histograms, train, classes, test)

    return _measured("HU histogram", target, present, patients, _folds(present, patients), predict)


def _regression(
    histograms: Float[np.ndarray, "n b"], train: np.ndarray, present: np.ndarray, test: np.ndarray
) -> Float[np.ndarray, " m"]:
    """Probability of the class by logistic regression on the histograms."""
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=200))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(histograms[train], present)
    probs: np.ndarray = model.predict_proba(histograms[test])[:, 1]
    return probs
