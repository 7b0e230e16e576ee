"""Intervals of calibration intercept and slope are statsmodels' cluster-robust ones with Student's quantile."""

import math
import time

import numpy as np
import pytest
import statsmodels.api as sm
from scipy import stats

from hilum.errors import CohortError
from hilum.measuring.agreement import calibration_line, calibration_line_intervals
from hilum.measuring.bootstrap import Figure


def clustered(seed: int, patients: int = 60) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, too sure probabilities and patients with one to five cases."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    odds = rng.normal(size=patients)[of] + rng.normal(size=len(of)) - 0.5
    y = (rng.random(len(of)) < 1 / (1 + np.exp(-0.7 * odds + 0.2))).astype(np.int64)
    return y, 1 / (1 + np.exp(-odds)), [f"P{k}" for k in of]


@pytest.mark.parametrize("seed", range(5))
def test_line_and_errors_equal_the_cluster_robust_regression_of_statsmodels(seed):
    y, p, patients = clustered(seed)
    groups = np.unique(patients, return_inverse=True)[1]
    features = sm.add_constant(np.log(p) - np.log1p(-p))
    fit = sm.Logit(y, features).fit(disp=0, tol=1e-14, cov_type="cluster", cov_kwds={"groups": groups})
    smaller = min(len(set(groups[y == k])) for k in (0, 1))
    found = calibration_line_intervals(y, p, patients=patients)
    for figure, value, error in zip((found.intercept, found.slope), fit.params, fit.bse, strict=True):
        half = stats.t.ppf(0.975, smaller - 1) * error
        np.testing.assert_allclose([figure.value, figure.low, figure.high], value + half * np.array([0, -1, 1]), 1e-9)


def test_cases_that_occur_again_under_their_patients_hardly_narrow_the_intervals():
    y, p, patients = clustered(7)
    once = calibration_line_intervals(y, p, patients=patients).slope
    again = calibration_line_intervals(np.tile(y, 4), np.tile(p, 4), patients=patients * 4).slope
    assert again.value == pytest.approx(once.value)
    assert again.high - again.low == pytest.approx(once.high - once.low, rel=0.02)


@pytest.mark.parametrize("y", [[1, 1, 1, 1], [0, 0, 1, 1]], ids=["one class", "separated"])
def test_without_a_maximum_nothing_exists(y):
    found = calibration_line_intervals(y, [0.1, 0.2, 0.6, 0.9], patients=list("abcd"))
    for figure in (found.intercept, found.slope):
        assert all(map(math.isnan, (figure.value, figure.low, figure.high)))


def test_positives_of_one_patient_give_a_line_without_ends():
    y, p = [0, 1, 0, 1, 0], [0.2, 0.5, 0.6, 0.9, 0.1]
    found = calibration_line_intervals(y, p, patients=["a", "b", "c", "b", "d"])
    assert (found.intercept.value, found.slope.value) == calibration_line(y, p)
    assert isinstance(found.slope, Figure)
    assert math.isnan(found.slope.low)
    with pytest.raises(CohortError, match="a patient for each case, got 2 patients for 5 cases"):
        calibration_line_intervals(y, p, patients=["a", "b"])


def test_95_percent_intervals_of_the_slope_cover_1_in_about_95_of_100_studies_of_clustered_patients():
    rng = np.random.default_rng(4)
    hits = 0
    for _ in range(300):
        of = np.repeat(np.arange(80), rng.integers(1, 6, 80))
        odds = 1.2 * (rng.normal(size=80)[of] + rng.normal(size=len(of))) - 1.5
        p = 1 / (1 + np.exp(-odds))
        slope = calibration_line_intervals(rng.random(len(of)) < p, p, patients=of.astype(str).tolist()).slope
        hits += slope.low <= 1 <= slope.high
    assert 0.91 <= hits / 300 <= 0.985


def test_ten_thousand_cases_take_well_under_a_second():
    y, p, patients = clustered(0, patients=3400)
    started = time.perf_counter()
    calibration_line_intervals(y, p, patients=patients)
    assert time.perf_counter() - started < 0.7
