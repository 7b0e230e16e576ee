"""DeLong's and Obuchowski's variances equal their papers' sums and a published example."""

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilum.errors import CohortError, ConfigError
from hilum.measuring.metrics import roc_auc
from hilum.measuring.roc_variance import delong, obuchowski

OVARIAN = """
3.0 5.8 10 0   3.2 6.3  5 1   3.9 6.8  3 1   2.8 4.8  6 0   3.2 5.8  3 1   0.9 4.0  5 0   2.5 5.7  8 0
1.6 5.6  5 1   3.8 5.7  5 1   3.7 6.7  6 1   3.2 5.4  4 1   3.8 6.6  6 1   4.1 6.6  5 1   3.6 5.7  5 1
4.3 7.0  4 1   3.6 6.7  4 0   2.3 4.4  6 1   4.2 7.6  4 0   4.0 6.6  6 0   3.5 5.8  6 1   3.8 6.8  7 1
3.0 4.7  8 0   4.5 7.4  5 1   3.7 7.4  5 1   3.1 6.6  6 1   4.1 8.2  6 1   4.3 7.0  5 1   4.3 6.5  4 1
3.2 5.1  5 1   2.6 4.7  6 1   3.3 6.8  6 0   1.7 4.0  7 0   3.7 6.1  5 1   3.3 6.3  7 1   4.2 7.7  6 1
3.5 6.2  5 1   2.9 5.7  9 0   2.1 4.8  7 1   2.8 6.2  8 0   4.0 7.0  7 1   3.3 5.7  6 1   3.7 6.9  5 1
3.6 6.6  5 1
"""
"""Albumin, total protein, K-G score and outcome of the 43 complete patients of DeLong et al. (1988), as in the
documentation of PROC LOGISTIC (SAS/STAT, "Comparing Receiver Operating Characteristic Curves")."""


def ovarian() -> tuple[np.ndarray, np.ndarray]:
    """Outcomes, and the ratings albumin, total protein and K-G score."""
    table = np.array(OVARIAN.split(), np.float64).reshape(-1, 4)
    return table[:, 3].astype(np.int64), table[:, :3] * [1, 1, -1]


def by_the_papers_sums(y, ratings, patients):
    """Obuchowski 1997 (S10, S01 and S11), case by case."""
    psi = lambda x, z: 1.0 if x > z else 0.5 if x == z else 0.0  # noqa: E731 - the paper's name
    k, ids = ratings.shape[1], sorted(set(patients))
    pos, neg = np.flatnonzero(y == 1), np.flatnonzero(y != 1)
    m, n, count = len(pos), len(neg), len(ids)
    theta = [sum(psi(ratings[i, r], ratings[j, r]) for i in pos for j in neg) / (m * n) for r in range(k)]
    x, z = np.zeros((k, count)), np.zeros((k, count))
    for r in range(k):
        for i in pos:
            x[r, ids.index(patients[i])] += sum(psi(ratings[i, r], ratings[j, r]) for j in neg) / n - theta[r]
        for j in neg:
            z[r, ids.index(patients[j])] += sum(psi(ratings[i, r], ratings[j, r]) for i in pos) / m - theta[r]
    i10, i01 = len({patients[i] for i in pos}), len({patients[j] for j in neg})
    covariance = np.zeros((k, k))
    for r in range(k):
        for s in range(k):
            s10 = i10 / ((i10 - 1) * m) * sum(x[r, i] * x[s, i] for i in range(count))
            s01 = i01 / ((i01 - 1) * n) * sum(z[r, i] * z[s, i] for i in range(count))
            s11 = count / (count - 1) * sum(x[r, i] * z[s, i] for i in range(count))
            s11_turned = count / (count - 1) * sum(x[s, i] * z[r, i] for i in range(count))
            covariance[r, s] = s10 / m + s01 / n + (s11 + s11_turned) / (m * n)
    return np.array(theta), covariance


@st.composite
def rated(draw):
    """Labels, ratings of two classifiers with ties, and patients, of whom two or more have cases of each class."""
    n = draw(st.integers(6, 25))
    numbers = lambda low, high: np.array(draw(st.lists(st.integers(low, high), min_size=n, max_size=n)))  # noqa: E731
    y, patients = numbers(0, 1), numbers(0, 6).astype(str)
    y[:4], patients[:4] = [0, 1, 0, 1], ["a", "a", "b", "c"]
    return y, np.stack([numbers(0, 9), numbers(0, 9)], axis=1), patients.tolist()


def test_published_areas_errors_and_contrasts_of_the_ovarian_cancer_data_are_met_in_all_digits():
    found = delong(*ovarian())
    assert [f"{auc:.4f} {error:.4f}" for auc, error in zip(found.aucs, found.errors, strict=True)] == [
        "0.7366 0.0927", "0.6478 0.1000", "0.7258 0.1028"
    ]  # fmt: skip
    contrast = np.array([[1.0, 0, -1], [0, 1, -1]])  # against the K-G score
    differences, covariance = contrast @ found.aucs, contrast @ found.covariance @ contrast.T
    errors = np.sqrt(np.diagonal(covariance))
    chi_square = (differences / errors) ** 2
    assert [f"{d:.4f} {e:.4f} {c:.4f}" for d, e, c in zip(differences, errors, chi_square, strict=True)] == [
        "0.0108 0.0953 0.0127", "-0.0780 0.1046 0.5554"
    ]  # fmt: skip
    assert [f"{math.erfc(math.sqrt(c / 2)):.4f}" for c in chi_square] == ["0.9102", "0.4561"]
    of_both = differences @ np.linalg.solve(covariance, differences)
    assert f"{of_both:.4f} {math.exp(-of_both / 2):.4f}" == "2.5340 0.2817"


@settings(max_examples=40, deadline=None)
@given(rated())
def test_areas_and_covariance_of_clusters_equal_the_papers_sums(cases):
    y, ratings, patients = cases
    aucs, covariance = by_the_papers_sums(y, ratings, patients)
    found = obuchowski(y, ratings, patients=patients)
    np.testing.assert_allclose(found.aucs, aucs, atol=1e-12)
    off = ~np.eye(2, dtype=bool)
    np.testing.assert_allclose(found.covariance[off], covariance[off], atol=1e-12)
    np.testing.assert_allclose(np.diagonal(found.covariance), np.maximum(np.diagonal(covariance), 0), atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(rated())
def test_of_patients_with_one_case_each_it_is_delongs_which_equals_its_papers_sums(cases):
    y, ratings, _ = cases
    alone = [str(k) for k in range(len(y))]
    aucs, covariance = by_the_papers_sums(y, ratings, alone)
    for found in (delong(y, ratings), obuchowski(y, ratings, patients=alone)):
        np.testing.assert_allclose(found.aucs, aucs, atol=1e-12)
        np.testing.assert_allclose(found.covariance, covariance, atol=1e-12)
    assert delong(y, ratings[:, 0]).aucs[0] == pytest.approx(roc_auc(y, ratings[:, 0].astype(float)))


def test_cases_that_occur_again_under_their_patients_add_no_certainty_but_to_delong():
    y, ratings = ovarian()
    patients = [str(k) for k in range(len(y))]
    tripled = np.tile(y, 3), np.tile(ratings, (3, 1))
    clustered = obuchowski(*tripled, patients=patients * 3)
    np.testing.assert_allclose(clustered.covariance, delong(y, ratings).covariance, rtol=1e-9)
    assert (delong(*tripled).errors < 0.6 * clustered.errors).all()


def test_intervals_are_students_on_the_logit_scale_and_wilsons_without_a_spread():
    y, ratings = ovarian()
    areas = delong(y, ratings)
    figure = areas.figures[0]
    half = 2.2009851600916384 * areas.errors[0] / (figure.value * (1 - figure.value))
    # the table's quantile for 11 degrees of freedom: 12 patients are negative
    odds = math.log(figure.value / (1 - figure.value))
    assert (figure.low, figure.high) == pytest.approx([1 / (1 + math.exp(-(odds + s * half))) for s in (-1, 1)])
    perfect = delong(y, y.astype(float)).figures[0]
    assert perfect.value == perfect.high == 1
    assert perfect.low == pytest.approx(1 / (1 + 1.959963984540054**2 / 12), abs=1e-9), "12 patients are negative"


def test_what_cannot_be_known_is_nan():
    assert np.isnan(delong([1, 1, 1], [0.1, 0.2, 0.3]).aucs).all()
    one_patient = obuchowski([1, 1, 0, 0], [0.4, 0.2, 0.3, 0.1], patients=["a", "a", "b", "c"])
    assert one_patient.aucs[0] == 0.75
    assert np.isnan(one_patient.covariance).all()


def test_a_rating_that_is_missing_and_a_patient_that_is_missing_are_errors():
    with pytest.raises(ConfigError, match="ratings must be finite"):
        delong([0, 1], [0.1, math.nan])
    with pytest.raises(CohortError, match="a patient for each case, got 1 patients for 2 cases"):
        obuchowski([0, 1], [0.1, 0.2], patients=["a"])


def test_ten_thousand_cases_take_well_under_a_second():
    rng = np.random.default_rng(0)
    y = (rng.random(10_000) < 0.3).astype(np.int64)
    ratings = rng.normal(size=(10_000, 2)) + y[:, None]
    started = time.perf_counter()
    obuchowski(y, ratings, patients=[str(k // 3) for k in range(10_000)])
    assert time.perf_counter() - started < 0.5
