"""Variance of the area under the ROC curve without resampling: of independent cases, and of patients with several.

DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988) 837-845, for independent cases, computed from mid-ranks as in
Sun & Xu, IEEE Signal Processing Letters 21 (2014) 1389-1393; Obuchowski, Biometrics 53 (1997) 567-578, for clusters.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int

from hilum.arrays import ArrayLike, labelled, patient_index
from hilum.errors import require
from hilum.measuring.bootstrap import Z95, Figure, logit_interval, student95


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """Areas under the ROC curves of several classifiers on the same cases.

    Attributes:
        aucs: The area of each classifier; nan if the cases are of one class.
        covariance: Of these areas; nan with fewer than two patients who have positives, or two who have negatives.
        num_patients: Patients of the smaller class: the fewer of those with a positive and those with a negative.
    """

    aucs: Float64[np.ndarray, " k"]
    covariance: Float64[np.ndarray, "k k"]
    num_patients: int

    @property
    def errors(self) -> Float64[np.ndarray, " k"]:
        """Standard error of each area."""
        return np.asarray(np.sqrt(np.diagonal(self.covariance)))

    @property
    def figures(self) -> tuple[Figure, ...]:
        """Each area with its 95 % interval, as in ``hilum.measuring.intervals`` but with this standard error."""
        pairs, quantile = zip(self.aucs.tolist(), self.errors.tolist(), strict=True), student95(self.num_patients)
        return tuple(logit_interval(auc, e, rests_on=self.num_patients, quantile=quantile) for auc, e in pairs)


def mean_area(parts: Sequence[Areas]) -> Figure:
    """Mean over parts of the first classifier's area, with its 95 % interval; no patient may be in two of the parts.

    Then their variances add.
    """
    number = sum(one.num_patients for one in parts)
    error = float(np.sqrt(sum(one.errors[0] ** 2 for one in parts)) / len(parts))
    mean = float(np.mean([one.aucs[0] for one in parts]))
    return logit_interval(mean, error, rests_on=number, quantile=student95(number))


def delong(y: ArrayLike, ratings: ArrayLike) -> Areas:
    """Areas of classifiers with their covariance, of independent cases; too small where patients have several.

    Args:
        y: 1 where positive.
        ratings: A number for each case, higher where more likely positive, (n,); or of k classifiers, (n, k).
    """
    y, ratings = labelled(y, ratings, what="ratings", axes=(1, 2))
    return _areas(y, ratings, np.arange(len(y)))


def obuchowski(y: ArrayLike, ratings: ArrayLike, *, patients: Sequence[str]) -> Areas:
    """Areas of classifiers with their covariance, where cases of one patient are correlated, across classes as well.

    Where each patient has one case it is DeLong's.

    Args:
        y: 1 where positive.
        ratings: A number for each case, higher where more likely positive, (n,); or of k classifiers, (n, k).
        patients: Patient of each case.
    """
    y, ratings = labelled(y, ratings, what="ratings", axes=(1, 2))
    return _areas(y, ratings, patient_index(patients, len(y)))


def _areas(y: Int[np.ndarray, " n"], ratings: np.ndarray, patient: Int[np.ndarray, " n"]) -> Areas:
    """The sums of Obuchowski's paper over clusters, which are the patients."""
    require(bool(np.isfinite(ratings).all()), "ratings", "finite", "nan or infinity")
    columns = ratings.astype(np.float64).reshape(len(y), -1).T
    positive = y == 1
    num_pos, num_neg = int(positive.sum()), int((~positive).sum())
    if not num_pos or not num_neg:
        missing = np.full(len(columns), np.nan)
        return Areas(aucs=missing, covariance=np.full((len(columns),) * 2, np.nan), num_patients=0)
    above, below = (np.stack(one) for one in zip(*(_placements(column, positive) for column in columns), strict=True))
    aucs = above.mean(axis=1)
    num_all = int(patient.max()) + 1
    groups = [(above, patient[positive]), (below, patient[~positive])]
    of_pos, of_neg = (_sums(values - aucs[:, None], of, num_all) for values, of in groups)
    with_pos, with_neg = (len(np.unique(of)) for _, of in groups)
    if min(with_pos, with_neg) < 2:
        covariance = np.full((len(columns),) * 2, np.nan)
    else:
        across = of_pos @ of_neg.T * (num_all / (num_all - 1)) / (num_pos * num_neg)
        covariance = of_pos @ of_pos.T * (with_pos / (with_pos - 1)) / num_pos**2
        covariance = covariance + of_neg @ of_neg.T * (with_neg / (with_neg - 1)) / num_neg**2 + across + across.T
        covariance[np.diag_indices_from(covariance)] = np.maximum(np.diagonal(covariance), 0)
    return Areas(aucs=aucs, covariance=covariance, num_patients=min(with_pos, with_neg))


def _placements(
    ratings: Float64[np.ndarray, " n"], positive: np.ndarray
) -> tuple[Float64[np.ndarray, " p"], Float64[np.ndarray, " m"]]:
    """For each positive the share of negatives below it, for each negative of positives above it; ties count half."""
    ranks = mid_ranks(ratings)
    num_pos, num_neg = int(positive.sum()), int((~positive).sum())
    above = (ranks[positive] - mid_ranks(ratings[positive])) / num_neg
    below = 1 - (ranks[~positive] - mid_ranks(ratings[~positive])) / num_pos
    return above, below


def mid_ranks(values: np.ndarray) -> Float64[np.ndarray, " n"]:
    """Ranks from 1, equal values sharing the mean of theirs.

    Example:
        >>> mid_ranks(np.array([0.3, 0.1, 0.3])).tolist()
        [2.5, 1.0, 2.5]
    """
    _, level, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return np.asarray((last - (sizes - 1) / 2)[level.reshape(-1)])


def _sums(values: Float64[np.ndarray, "k n"], of: Int[np.ndarray, " n"], size: int) -> Float64[np.ndarray, "k i"]:
    """Sum of the values of each patient."""
    return np.stack([np.bincount(of, weights=row, minlength=size) for row in values])


def expected_auc_half_width(num_positives: int, num_negatives: int, *, auc: float = 0.85) -> float:
    """Expected half width of the 95 % interval of an AUC, before any model is trained.

    Hanley & McNeil, "The meaning and use of the area under a ROC curve", Radiology 143 (1982), with their
    exponential approximation of Q1 and Q2. It assumes independent cases: pass numbers of patients.
    """
    if num_positives < 1 or num_negatives < 1:
        return math.nan
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    variance = auc * (1 - auc) + (num_positives - 1) * (q1 - auc**2) + (num_negatives - 1) * (q2 - auc**2)
    return Z95 * math.sqrt(variance / (num_positives * num_negatives))
