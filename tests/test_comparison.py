"""Two classifiers on the same cases: differences, their intervals, and the tests of equal areas and equal curves."""

import itertools
import math
import time

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as oracle

from hilum.errors import CohortError, ConfigError
from hilum.measuring import comparison
from hilum.measuring.bootstrap import wilson
from hilum.measuring.comparison import Rating, areas_test, compare_ratings, curves_test, smallest_difference
from test_roc_variance import ovarian


def two_models(seed: int, patients: int = 60, gap: float = 0.0) -> tuple[np.ndarray, Rating, Rating, list[str]]:
    """Probabilities of two models with equal curves unless there is a gap, with patients of one to five cases."""
    rng = np.random.default_rng(seed)
    of = np.repeat(np.arange(patients), rng.integers(1, 6, patients))
    y = (rng.random(len(of)) < 0.3).astype(np.int64)
    shared = rng.normal(size=patients)[of] + 0.5 * rng.normal(size=len(of))
    odds = [1.5 * y + shared + 0.7 * (rng.normal(size=patients)[of] + rng.normal(size=len(of))) for _ in range(2)]
    a, b = (1 / (1 + np.exp(-z)) for z in (odds[0] + gap * y, odds[1]))
    return y, Rating(values=a, threshold=0.6), Rating(values=b, threshold=0.5), [f"P{k}" for k in of]


def test_differences_are_those_of_scikit_learns_figures():
    y, a, b, patients = two_models(0)
    found = compare_ratings(y, a, b, patients=patients, num_resamples=200)
    for rating, figures in ((a, found.a), (b, found.b)):
        called = rating.values >= rating.threshold
        assert figures == pytest.approx({
            "auc": oracle.roc_auc_score(y, rating.values),
            "average_precision": oracle.average_precision_score(y, rating.values),
            "sensitivity": oracle.recall_score(y, called),
            "specificity": oracle.recall_score(1 - y, ~called),
            "brier": oracle.brier_score_loss(y, rating.values),
        })  # fmt: skip
    for name, figure in found.differences.items():
        assert figure.value == pytest.approx(found.a[name] - found.b[name])
        assert figure.low < figure.value < figure.high
    assert (found.num_cases, found.num_patients) == (len(y), 60)


def test_paired_intervals_are_narrower_than_those_of_unrelated_classifiers_and_turn_with_the_order():
    y, a, _, patients = two_models(1)
    noise = np.random.default_rng(0).normal(size=len(y))
    near = Rating(values=np.clip(a.values + 0.02 * noise, 0, 1), threshold=0.6)
    found = compare_ratings(y, a, near, patients=patients, num_resamples=300)
    turned = compare_ratings(y, near, a, patients=patients, num_resamples=300)
    auc = found.differences["auc"]
    assert auc.high - auc.low < 0.05
    assert (auc.low, auc.high) == pytest.approx((-turned.differences["auc"].high, -turned.differences["auc"].low))
    assert found.p_areas == pytest.approx(turned.p_areas)


def test_sensitivity_needs_decisions_of_both_and_brier_probabilities_of_both():
    y, a, _, patients = two_models(2)
    diameter = Rating(values=30 * a.values + 2, is_probability=False)
    found = compare_ratings(y, a, diameter, patients=patients, num_resamples=50)
    assert list(found.differences) == ["auc", "average_precision"]
    with pytest.raises(ConfigError, match="probabilities must be between 0 and 1"):
        Rating(values=30 * a.values)
    with pytest.raises(ConfigError, match="ratings must be finite"):
        Rating(values=np.array([0.1, math.nan]), is_probability=False)


def test_a_classifier_and_itself_differ_by_nothing_with_newcombes_interval():
    y, a, _, patients = two_models(3)
    found = compare_ratings(y, a, a, patients=patients, num_resamples=100)
    assert (found.p_areas, found.p_curves) == (1.0, 1.0)
    assert math.isnan(found.smallest_difference)
    share, positive_patients = found.a["sensitivity"], len({one for one, k in zip(patients, y, strict=True) if k})
    low, high = wilson(share, positive_patients)
    half = math.hypot(share - low, high - share)
    figure = found.differences["sensitivity"]
    assert (figure.value, figure.low, figure.high) == (0.0, pytest.approx(-half), pytest.approx(half))


def test_of_one_class_only_nothing_is_compared_but_what_exists():
    y, a, b, patients = two_models(4)
    found = compare_ratings(np.zeros_like(y), a, b, patients=patients, num_resamples=50)
    assert all(
        map(math.isnan, (found.p_areas, found.p_curves, found.smallest_difference, found.differences["auc"].low))
    )
    assert not math.isnan(found.differences["specificity"].low)


def test_cases_must_be_the_same():
    y, a, b, patients = two_models(5)
    with pytest.raises(CohortError, match=f"{len(y) - 1} labels, {len(y)} and {len(y)} ratings, {len(y)} patients"):
        compare_ratings(y[1:], a, b, patients=patients)


def test_equal_areas_of_the_ovarian_cancer_data_have_the_published_errors_and_students_p_values():
    y, ratings = ovarian()
    alone = [str(k) for k in range(len(y))]
    for column, published, difference in ((0, "0.0953", 0.0107527), (1, "0.1046", -0.0779570)):
        found = areas_test(y, ratings[:, column], ratings[:, 2], patients=alone)
        p, error = found.p, found.error
        assert f"{error:.4f}" == published
        assert p == pytest.approx(2 * stats.t.sf(abs(difference) / error, 11), abs=1e-6), "12 patients are negative"


def by_enumeration(y, a, b, patients):
    """The permutation test from its words: all exchanges, areas from pairs."""
    ranks = np.stack([stats.rankdata(a), stats.rankdata(b)])

    def gap(order):
        area = [oracle.roc_auc_score(y, np.where(order, ranks[1 - k], ranks[k])) for k in (0, 1)]
        return abs(area[0] - area[1])

    ids = sorted(set(patients))
    observed = gap(np.zeros(len(y), bool))
    gaps = [gap(np.isin(patients, list(itertools.compress(ids, chosen)))) for chosen in
            itertools.product([False, True], repeat=len(ids))]  # fmt: skip
    return np.mean([one >= observed - 1e-12 for one in gaps])


@pytest.mark.parametrize("seed", range(4))
def test_few_patients_are_exchanged_in_all_ways(seed):
    rng = np.random.default_rng(seed)
    y, patients = np.array([0, 1] * 7), [f"P{k // 2}" for k in range(14)]
    a, b = rng.integers(0, 6, 14) + 2 * y, 10 * rng.integers(0, 6, 14)
    found = curves_test(y, a, b, patients=patients)
    assert found == pytest.approx(by_enumeration(y, a, b, patients), abs=1e-12)
    many = curves_test(y, a, b, patients=patients, num_permutations=127)
    assert many == pytest.approx(found, abs=0.15), "drawn where there are more exchanges than permutations"


def test_the_permutation_test_is_of_ranks_has_its_seed_and_no_blocks(monkeypatch):
    y, a, b, patients = two_models(6, gap=0.4)
    p = curves_test(y, a.values, b.values, patients=patients, num_permutations=300)
    assert p == curves_test(y, np.exp(5 * a.values), b.values, patients=patients, num_permutations=300)
    assert p != curves_test(y, a.values, b.values, patients=patients, num_permutations=300, seed=1)
    monkeypatch.setattr(comparison, "_LARGEST_BLOCK", 7 * (2 * len(y) + 1))
    assert p == curves_test(y, a.values, b.values, patients=patients, num_permutations=300)


def test_a_large_gap_is_found_and_p_is_never_zero():
    y, a, b, patients = two_models(7, patients=150, gap=2.0)
    found = compare_ratings(y, a, b, patients=patients, num_resamples=400)
    assert found.differences["auc"].low > 0
    assert found.p_areas < 0.001
    assert found.p_curves == 1 / 401


def test_under_no_difference_5_of_100_comparisons_are_significant():
    found = np.zeros(2)
    for seed in range(300):
        y, a, b, patients = two_models(100 + seed, patients=80)
        p_areas = areas_test(y, a.values, b.values, patients=patients).p
        p_curves = curves_test(y, a.values, b.values, patients=patients, seed=seed, num_permutations=99)
        found += np.array([p_areas, p_curves]) <= 0.05
    assert (found / 300 < 0.09).all()
    assert (found / 300 > 0.02).all()


@pytest.mark.parametrize("patients", [3, 5, 12, 30, 200])
def test_the_smallest_difference_is_found_with_the_stated_power_by_students_test(patients):
    """The noncentral t distribution of SciPy is the oracle."""
    for power in (0.5, 0.8, 0.9):
        true = smallest_difference(0.02, num_patients=patients, power=power)
        limit = stats.t.ppf(0.975, patients - 1)
        shift = true / 0.02
        reached = stats.nct.sf(limit, patients - 1, shift) + stats.nct.cdf(-limit, patients - 1, shift)
        assert reached == pytest.approx(power, abs=1e-4)
    assert smallest_difference(1.0, num_patients=10**6) == pytest.approx(2.8015852, abs=1e-4), (
        "1.96 + 0.84 of textbooks"
    )


def test_without_a_standard_error_no_smallest_difference_can_be_said():
    assert math.isnan(smallest_difference(0.0, num_patients=20))
    assert math.isnan(smallest_difference(math.nan, num_patients=20))
    assert math.isnan(smallest_difference(0.1, num_patients=1))
    with pytest.raises(ConfigError, match="power must be above 0 and below 1, got 1"):
        smallest_difference(0.1, num_patients=20, power=1.0)


def test_ten_thousand_cases_with_two_thousand_resamples_take_a_few_seconds():
    y, a, b, patients = two_models(8, patients=3400)
    started = time.perf_counter()
    compare_ratings(y, a, b, patients=patients)
    assert time.perf_counter() - started < 20
