"""Figures agree with scikit-learn, do not exist where they cannot, and their intervals cover what they promise."""

import math
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as oracle

from hilum.errors import CohortError, ConfigError
from hilum.measuring import calibration, metrics
from hilum.measuring.bootstrap import Figure, wilson
from hilum.measuring.decision_curve import decision_curve
from hilum.measuring.intervals import (
    Asked,
    with_called_intervals,
    with_class_intervals,
    with_intervals,
    with_mean_auc,
    with_stratified_auc,
)
from hilum.measuring.operating_points import OperatingPoint, choose_points
from hilum.measuring.roc_variance import expected_auc_half_width
from hilum.measuring.stated_prevalence import figures_at
from hilum.measuring.thresholds import choose_threshold
from hilum.settings.run import DecisionConfig


@st.composite
def answers(draw, both: bool = True):
    """Labels, probabilities with many ties, and weights, some of them zero."""
    n = draw(st.integers(4, 40))
    y = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    if both:
        y[:2] = [0, 1]
    p = np.array(draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))) / 12
    w = np.array(draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)), np.float64)
    w[:2] = 1
    return y, p, w


def patients_of(n: int, cases_each: int = 1) -> list[str]:
    return [f"P{k // cases_each}" for k in range(n)]


@settings(max_examples=60, deadline=None)
@given(answers())
def test_curves_and_areas_agree_with_scikit_learn_ties_and_weights_included(answer):
    y, p, w = answer
    for weights in (None, w):
        counts = metrics.ranked_counts(y, p, weights=weights)
        assert metrics.auc_from(*counts) == pytest.approx(oracle.roc_auc_score(y, p, sample_weight=weights), abs=1e-12)
        assert metrics.ap_from(*counts) == pytest.approx(
            oracle.average_precision_score(y, p, sample_weight=weights), abs=1e-12
        )
    assert metrics.roc_auc(y, p) == pytest.approx(oracle.roc_auc_score(y, p), abs=1e-12)
    assert metrics.average_precision(y, p) == pytest.approx(oracle.average_precision_score(y, p), abs=1e-12)
    false_rate, true_rate, _ = oracle.roc_curve(y, p, drop_intermediate=False)
    np.testing.assert_allclose(metrics.roc_curve(y, p), (false_rate, true_rate))
    precision, recall, _ = oracle.precision_recall_curve(y, p)
    ours_recall, ours_precision = metrics.pr_curve(y, p)
    np.testing.assert_allclose(ours_recall, recall[:-1][::-1])
    np.testing.assert_allclose(ours_precision, precision[:-1][::-1])


@settings(max_examples=60, deadline=None)
@given(answers())
def test_decisions_agree_with_scikit_learn_weights_included(answer):
    y, p, w = answer
    decided = p >= 0.5
    for weights in (None, w):
        ours = metrics.confusion(y, decided, weights=weights)
        table = oracle.confusion_matrix(y, decided, labels=[0, 1], sample_weight=weights).ravel()
        np.testing.assert_allclose([ours.tn, ours.fp, ours.fn, ours.tp], table)
        nan = {"sample_weight": weights, "zero_division": np.nan}
        expected = {
            "accuracy": oracle.accuracy_score(y, decided, sample_weight=weights),
            "balanced_accuracy": oracle.balanced_accuracy_score(y, decided, sample_weight=weights),
            "sensitivity": oracle.recall_score(y, decided, **nan),
            "specificity": oracle.recall_score(y, decided, pos_label=0, **nan),
            "ppv": oracle.precision_score(y, decided, **nan),
            "npv": oracle.precision_score(y, decided, pos_label=0, **nan),
            "f1": oracle.f1_score(y, decided, **nan),
        }
        for name, value in expected.items():
            assert float(getattr(ours, name)) == pytest.approx(value, abs=1e-12, nan_ok=True), name


@settings(max_examples=60, deadline=None)
@given(answers())
def test_brier_and_log_loss_agree_with_scikit_learn(answer):
    y, p, _ = answer
    assert metrics.brier(y, p) == pytest.approx(oracle.brier_score_loss(y, p))
    assert metrics.log_loss(y, p) == pytest.approx(oracle.log_loss(y, p, labels=[0, 1]))
    assert metrics.log_loss(y, np.stack([1 - p, p], 1)) == pytest.approx(metrics.log_loss(y, p))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5))
def test_figures_of_many_classes_agree_with_scikit_learn(seed, num_classes):
    rng = np.random.default_rng(seed)
    y = np.concatenate([np.arange(num_classes), rng.integers(0, num_classes, 30)])
    probs = rng.dirichlet(np.ones(num_classes), len(y)).round(1) + 0.01
    probs /= probs.sum(1, keepdims=True)
    decided = probs.argmax(1)
    matrix = metrics.confusion_matrix(y, decided, num_classes=num_classes)
    np.testing.assert_array_equal(matrix, oracle.confusion_matrix(y, decided))
    assert metrics.multiclass_accuracy(y, probs) == pytest.approx(oracle.accuracy_score(y, decided))
    assert float(metrics.macro_recall(matrix)) == pytest.approx(oracle.balanced_accuracy_score(y, decided))
    assert float(metrics.macro_f1(matrix)) == pytest.approx(oracle.f1_score(y, decided, average="macro"))
    expected = [oracle.roc_auc_score(y == k, probs[:, k]) for k in range(num_classes)]
    assert float(metrics.macro_auc(y, probs)) == pytest.approx(np.mean(expected))


def test_many_sets_of_weights_at_once_equal_one_after_another():
    rng = np.random.default_rng(0)
    y, p = rng.integers(0, 2, 50), rng.integers(0, 9, 50) / 9
    weights = rng.integers(0, 3, (7, 50)).astype(np.float64)
    tps, fps = metrics.ranked_counts(y, p, weights=weights)
    tables = metrics.confusion(y, p > 0.4, weights=weights)
    for k, row in enumerate(weights):
        counts = metrics.ranked_counts(y, p, weights=row)
        assert metrics.auc_from(tps, fps)[k] == pytest.approx(metrics.auc_from(*counts))
        assert metrics.ap_from(tps, fps)[k] == pytest.approx(metrics.ap_from(*counts))
        assert tables.f1[k] == pytest.approx(float(metrics.confusion(y, p > 0.4, weights=row).f1))


def test_a_figure_without_a_denominator_is_nan_and_warns_nobody():
    y, p = np.zeros(4, np.int64), np.linspace(0.1, 0.4, 4)
    table = metrics.confusion(y, p > 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for value in (table.sensitivity, table.ppv, table.f1, table.balanced_accuracy):
            assert math.isnan(value)
        assert math.isnan(metrics.roc_auc(y, p))
        assert math.isnan(metrics.average_precision(y, p))
        assert math.isnan(metrics.roc_auc(y[:0], p[:0]))
        assert math.isnan(metrics.brier(y[:0], p[:0]))
    assert float(table.specificity) == 1


def test_an_all_negative_model_at_5_percent_prevalence_has_no_sensitivity():
    """The tutorial's weighted recall is accuracy by another name: it gives this model a recall of 0.95."""
    y = np.array([1] * 5 + [0] * 95)
    decided = np.zeros(100, np.int64)
    weighted = oracle.recall_score(y, decided, average="weighted")
    table = metrics.confusion(y, decided)
    assert weighted == pytest.approx(0.95) == float(table.accuracy)
    assert float(table.sensitivity) == 0
    assert float(table.balanced_accuracy) == 0.5


def test_an_auc_of_zero_is_shown_as_zero():
    """The tutorial's ``if auc:`` hides the worst of all results."""
    y, p = np.array([1, 1, 0, 0]), np.array([0.1, 0.2, 0.8, 0.9])
    assert metrics.roc_auc(y, p) == 0.0
    figure = with_intervals(y, p, threshold=0.5, patients=patients_of(4))["auc"]
    assert figure.value == 0.0
    assert figure.low == 0.0
    assert str(figure).startswith("0.000 (0.000 to 0.")


def test_800_cases_take_less_than_a_second():
    rng = np.random.default_rng(0)
    y = (rng.random(800) < 0.3).astype(np.int64)
    p = 1 / (1 + np.exp(-rng.normal(size=800) - y))
    started = time.perf_counter()
    with_intervals(y, p, threshold=0.5, patients=patients_of(800, 2))
    assert time.perf_counter() - started < 1.5


def test_values_are_those_of_the_cases_and_lie_within_their_intervals():
    rng = np.random.default_rng(1)
    y = (rng.random(120) < 0.3).astype(np.int64)
    p = (1 / (1 + np.exp(-rng.normal(size=120) - 1.5 * y + 1))).astype(np.float32)
    figures = with_intervals(y, p, threshold=0.4, patients=patients_of(120, 2), num_resamples=400)
    wide = p.astype(np.float64)
    table = metrics.confusion(y, wide >= 0.4)
    assert figures["auc"].value == pytest.approx(metrics.roc_auc(y, wide))
    assert figures["average_precision"].value == pytest.approx(metrics.average_precision(y, wide))
    assert figures["brier"].value == pytest.approx(metrics.brier(y, wide))
    for name in ("accuracy", "sensitivity", "specificity", "ppv", "npv", "balanced_accuracy", "f1"):
        assert figures[name].value == pytest.approx(float(getattr(table, name)))
    assert all(figure.low < figure.value < figure.high for figure in figures.values())
    shares = figures.keys() - {"log_loss", "net_benefit", "mcc"}
    assert all(0 < figures[name].low < figures[name].high < 1 for name in shares)


def test_intervals_depend_on_the_seed_and_not_on_the_order_of_cases_or_the_memory(monkeypatch):
    rng = np.random.default_rng(2)
    y, p = rng.integers(0, 2, 60), rng.random(60)
    patients = patients_of(60, 3)

    def auc(order, seed=0):
        given = [patients[k] for k in order]
        return with_intervals(y[order], p[order], threshold=0.5, patients=given, seed=seed, num_resamples=300)["auc"]

    first = auc(np.arange(60))
    shuffled = auc(rng.permutation(60))
    assert (first.low, first.high) == pytest.approx((shuffled.low, shuffled.high))
    assert first.low != auc(np.arange(60), seed=1).low
    monkeypatch.setattr("hilum.measuring.bootstrap._LARGEST_BLOCK", 60 * 7)
    assert auc(np.arange(60)) == first


def test_scans_of_the_same_patients_again_do_not_narrow_the_interval():
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 80)
    p = np.clip(0.5 + 0.2 * (y - 0.5) + 0.2 * rng.normal(size=80), 0, 1)
    once = with_intervals(y, p, threshold=0.5, patients=patients_of(80))["auc"]
    copied = with_intervals(np.tile(y, 9), np.tile(p, 9), threshold=0.5, patients=patients_of(80) * 9)["auc"]
    believed = with_intervals(np.tile(y, 9), np.tile(p, 9), threshold=0.5, patients=patients_of(720))["auc"]
    assert copied.high - copied.low == pytest.approx(once.high - once.low, rel=1e-6)
    assert believed.high - believed.low < 0.5 * (once.high - once.low)


def test_the_interval_of_a_perfect_figure_is_wilsons_over_patients():
    y = np.array([1] * 20 + [0] * 30)
    figures = with_intervals(y, y * 0.8 + 0.1, threshold=0.5, patients=patients_of(50, 2))
    assert figures["auc"] == Figure(value=1.0, low=wilson(1.0, 10)[0], high=1.0)
    assert figures["sensitivity"].low == wilson(1.0, 10)[0]
    assert figures["specificity"].low == wilson(1.0, 15)[0]
    assert figures["accuracy"].low == wilson(1.0, 25)[0]


def test_figures_that_do_not_exist_have_no_interval():
    figures = with_intervals(np.zeros(9, np.int64), np.full(9, 0.1), threshold=0.5, patients=patients_of(9))
    for name in ("auc", "average_precision", "sensitivity", "ppv", "balanced_accuracy", "f1"):
        assert all(map(math.isnan, (figures[name].value, figures[name].low, figures[name].high))), name
    assert str(figures["auc"]) == "undefined"
    assert figures["specificity"].value == 1


def test_one_patient_gives_wide_intervals_and_not_none():
    y, p = np.array([0, 1, 1, 0]), np.array([0.1, 0.9, 0.2, 0.6])
    figure = with_intervals(y, p, threshold=0.5, patients=["P"] * 4)["accuracy"]
    assert figure.high - figure.low > 0.5


def test_intervals_need_cases_with_a_patient_each():
    with pytest.raises(CohortError, match="at least one case and a patient for each, got 3 cases, 2 patients"):
        with_intervals(np.array([0, 1, 1]), np.array([0.1, 0.2, 0.3]), threshold=0.5, patients=["a", "b"])


def test_intervals_of_many_classes_hold_their_values():
    rng = np.random.default_rng(4)
    y = rng.integers(0, 3, 90)
    logits = rng.normal(size=(90, 3)) + 1.5 * np.eye(3)[y]
    probs = calibration.probabilities(logits)
    figures = with_class_intervals(y, probs, patients=patients_of(90, 2), num_resamples=300)
    assert list(figures) == ["accuracy", "balanced_accuracy", "macro_auc", "macro_f1"]
    assert figures["macro_auc"].value == pytest.approx(float(metrics.macro_auc(y, probs)))
    assert figures["macro_f1"].value == pytest.approx(oracle.f1_score(y, probs.argmax(1), average="macro"))
    assert all(figure.low < figure.value < figure.high for figure in figures.values())


def test_95_percent_intervals_cover_the_truth_in_about_95_of_100_studies_of_clustered_patients():
    """AUC 0.9 with up to three scans of a patient, half of whose noise they share."""
    distance = 1.2815515655446004 * math.sqrt(2)  # AUC 0.9 for two normal distributions of unit variance
    rng = np.random.default_rng(5)
    hits = 0
    for study in range(200):
        sizes = rng.integers(1, 4, 80)
        patients = np.repeat(np.arange(80), sizes)
        y = np.repeat((rng.random(80) < 0.35).astype(np.int64), sizes)
        noise = math.sqrt(0.5) * (np.repeat(rng.normal(size=80), sizes) + rng.normal(size=len(y)))
        p = 1 / (1 + np.exp(-(noise + distance * y)))
        names = patients.astype(str).tolist()
        figure = with_intervals(y, p, threshold=0.5, patients=names, seed=study, num_resamples=300)["auc"]
        hits += figure.low <= 0.9 <= figure.high
    assert 0.90 <= hits / 200 <= 0.99


def test_wilsons_interval_is_the_published_one():
    assert wilson(0.0, 10) == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert wilson(0.5, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    assert all(map(math.isnan, wilson(0.5, 0)))


def test_the_expected_width_is_that_of_simulated_studies():
    rng = np.random.default_rng(8)
    distance = 1.2815515655446004 * math.sqrt(2)
    y = np.repeat([1, 0], 50)
    aucs = [metrics.roc_auc(y, rng.normal(size=100) + distance * y) for _ in range(500)]
    assert expected_auc_half_width(50, 50, auc=0.9) == pytest.approx(1.96 * np.std(aucs), rel=0.12)
    assert expected_auc_half_width(38, 100) < expected_auc_half_width(38, 40)
    assert math.isnan(expected_auc_half_width(0, 40))


RULES = [DecisionConfig(rule=rule, at=0.7) for rule in ("youden", "sensitivity", "specificity", "f1")]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.rule)
@settings(max_examples=60, deadline=None)
@given(answer=answers())
def test_the_threshold_is_the_best_of_all_and_reports_what_it_does(rule, answer):
    y, p, _ = answer
    tables = [metrics.confusion(y, p >= t) for t in np.unique(p)]
    pairs = [(float(t.sensitivity), float(t.specificity), float(t.f1)) for t in tables]
    allowed = {
        "youden": [a + b for a, b, _ in pairs],
        "f1": [f for _, _, f in pairs],
        "sensitivity": [b for a, b, _ in pairs if a >= rule.at - 1e-9 and b > 0],
        "specificity": [a for a, b, _ in pairs if b >= rule.at - 1e-9 and a > 0],
    }[rule.rule]
    if not allowed:
        with pytest.raises(ConfigError, match=rf"decision\.at must be a {rule.rule} that leaves any"):
            choose_threshold(y, p, rule=rule)
        return
    chosen = choose_threshold(y, p, rule=rule)
    done = metrics.confusion(y, p >= chosen.value)
    assert (chosen.sensitivity, chosen.specificity) == pytest.approx((float(done.sensitivity), float(done.specificity)))
    reached = {
        "youden": chosen.sensitivity + chosen.specificity,
        "f1": float(done.f1),
        "sensitivity": chosen.specificity,
        "specificity": chosen.sensitivity,
    }[rule.rule]
    assert reached == pytest.approx(max(allowed))


def test_the_threshold_lies_midway_between_neighbours_so_that_a_last_bit_decides_nothing():
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.3, 0.5, 0.9])
    chosen = choose_threshold(y, p, rule=DecisionConfig())
    assert chosen.value == pytest.approx(0.4)
    assert (chosen.sensitivity, chosen.specificity) == (1.0, 1.0)
    assert chosen.rule == "largest sensitivity + specificity (Youden), on 4 validation cases with 2 positives"
    assert choose_threshold(y, p.astype(np.float32), rule=DecisionConfig()).value == pytest.approx(0.4)


def test_neighbours_in_double_precision_are_still_told_apart():
    low = 0.3
    p = np.array([low, np.nextafter(low, 1)])
    chosen = choose_threshold(np.array([0, 1]), p, rule=DecisionConfig())
    assert (p >= chosen.value).tolist() == [False, True]


def test_a_useless_model_still_gets_a_threshold():
    chosen = choose_threshold(np.array([0, 1, 0]), np.full(3, 0.5), rule=DecisionConfig())
    assert (chosen.value, chosen.sensitivity, chosen.specificity) == (0.25, 1.0, 0.0)


def test_a_demand_names_its_rule():
    y, p = np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.5, 0.9])
    chosen = choose_threshold(y, p, rule=DecisionConfig(rule="sensitivity", at=0.95))
    assert chosen.rule.startswith("largest specificity with a sensitivity of at least 0.95, on 4")


def test_an_impossible_demand_says_what_can_be_reached():
    y, p = np.array([1, 0, 1, 0, 1]), np.array([0.1, 0.2, 0.3, 0.8, 0.9])
    with pytest.raises(ConfigError, match=r"sensitivity that leaves any specificity, got 0\.9; here at most 0\.667"):
        choose_threshold(y, p, rule=DecisionConfig(rule="sensitivity", at=0.9))
    with pytest.raises(ConfigError, match=r"here no specificity"):
        choose_threshold(np.array([0, 1]), np.full(2, 0.5), rule=DecisionConfig(rule="sensitivity"))


@pytest.mark.parametrize("label", [0, 1])
def test_a_threshold_needs_both_classes(label):
    with pytest.raises(CohortError, match=f"cases of both classes, got {3 * label} positives among 3 cases"):
        choose_threshold(np.full(3, label), np.array([0.1, 0.2, 0.3]), rule=DecisionConfig())


# figures that came with the reports


def rated(n: int = 300, seed: int = 0, prevalence: float = 0.3, decimals: int = 2):
    """Labels and probabilities with ties, and patients of one to four cases."""
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < prevalence).astype(int)
    p = np.round(1 / (1 + np.exp(-(rng.normal(size=n) + 1.4 * y - 1))), decimals)
    return y, p, [f"p{k}" for k in rng.integers(0, n // 2, n)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_fpr", [0.05, 0.1, 0.5])
def test_the_partial_area_and_matthews_coefficient_agree_with_scikit_learn(seed, max_fpr):
    y, p, _ = rated(seed=seed)
    found = metrics.partial_auc_from(*metrics.ranked_counts(y, p), max_fpr=max_fpr)
    assert found == pytest.approx(oracle.roc_auc_score(y, p, max_fpr=max_fpr), abs=1e-12)
    weights = np.random.default_rng(seed).integers(0, 4, len(y)).astype(float)
    found = metrics.partial_auc_from(*metrics.ranked_counts(y, p, weights=weights), max_fpr=max_fpr)
    assert found == pytest.approx(oracle.roc_auc_score(y, p, max_fpr=max_fpr, sample_weight=weights), abs=1e-12)
    table = metrics.confusion(y, p >= 0.4)
    assert table.mcc == pytest.approx(oracle.matthews_corrcoef(y, p >= 0.4), abs=1e-12)


def test_rates_on_the_curve_are_the_best_points_that_meet_the_demand():
    y, p, _ = rated()
    false_rate, true_rate, _ = oracle.roc_curve(y, p, drop_intermediate=False)
    counts = metrics.ranked_counts(y, p)
    for at in (0.5, 0.9, 0.95):
        assert metrics.sensitivity_at(*counts, at) == pytest.approx(true_rate[1 - false_rate >= at - 1e-12].max())
        assert metrics.specificity_at(*counts, at) == pytest.approx((1 - false_rate)[true_rate >= at - 1e-12].max())
    assert np.isnan(metrics.sensitivity_at(*metrics.ranked_counts(np.zeros(5, int), np.arange(5) / 5), 0.9))


def test_net_benefit_is_that_of_its_published_formula():
    """Vickers & Elkin 2006: true positives per case, less false positives per case times the odds of the threshold."""
    y, p, _ = rated()
    for threshold in (0.1, 0.35, 0.8):
        called = p >= threshold
        expected = np.sum(called & (y == 1)) / len(y) - np.sum(called & (y == 0)) / len(y) * threshold / (1 - threshold)
        assert metrics.confusion(y, called).net_benefit(threshold) == pytest.approx(expected, abs=1e-12)
    curve = decision_curve(y, p)
    at = list(curve.thresholds).index(0.35)
    assert curve.model[at] == pytest.approx(metrics.confusion(y, p >= 0.35).net_benefit(0.35))
    everybody = metrics.confusion(y, np.ones(len(y), bool))
    assert curve.everybody[at] == pytest.approx(everybody.net_benefit(0.35), abs=1e-12)


def test_predictive_values_at_a_prevalence_are_bayes_rule_and_those_of_cases_repeated_to_it():
    y, p, _ = rated()
    table = metrics.confusion(y, p >= 0.4)
    there = table.at(0.02)
    se, sp = table.sensitivity, table.specificity
    assert there.ppv == pytest.approx(se * 0.02 / (se * 0.02 + (1 - sp) * 0.98), abs=1e-12)
    assert there.npv == pytest.approx(sp * 0.98 / (sp * 0.98 + (1 - se) * 0.02), abs=1e-12)
    own = table.at(float(np.mean(y)))
    assert own.ppv == pytest.approx(table.ppv, abs=1e-12)
    assert own.net_benefit(0.4) == pytest.approx(table.net_benefit(0.4), abs=1e-12)


def test_every_figure_of_a_report_has_an_interval_around_it():
    y, p, patients = rated()
    points = (OperatingPoint(rule="sensitivity", at=0.9, threshold=0.2), OperatingPoint(rule="specificity", at=0.9))
    asked = Asked(threshold=0.4, points=points)
    figures = with_called_intervals(y, p, called=p >= 0.4, patients=patients, asked=asked)
    assert {"mcc", "log_loss", "net_benefit", "partial_auc"} <= figures.keys()
    for name, one in figures.items():
        assert one.low < one.value < one.high, name
    assert figures["log_loss"].value == pytest.approx(oracle.log_loss(y, np.clip(p, 1e-15, 1)), abs=1e-9)
    called = metrics.confusion(y, p >= 0.2)
    assert figures["sensitivity 0.9 sensitivity"].value == pytest.approx(called.sensitivity)
    assert figures["sensitivity 0.9 specificity"].value == pytest.approx(called.specificity)


def test_operating_points_are_chosen_on_validation_cases_and_left_open_where_none_can_be():
    y, p, _ = rated()
    for point in choose_points(y, p):
        table = metrics.confusion(y, p >= point.threshold)
        assert getattr(table, point.rule) >= point.at
    y, p = np.array([1, 1, 0, 0]), np.array([0.1, 0.2, 0.2, 0.2])
    assert {point.name for point in choose_points(y, p) if point.threshold is None}


def test_the_area_within_strata_counts_only_pairs_of_one_stratum():
    y, p, patients = rated(n=120, decimals=1)
    strata = np.random.default_rng(3).integers(0, 4, len(y))
    pairs = [
        (p[i] > p[j]) + (p[i] == p[j]) / 2
        for i in np.flatnonzero(y == 1)
        for j in np.flatnonzero(y == 0)
        if strata[i] == strata[j]
    ]
    found = with_stratified_auc(y, p, strata=strata.tolist(), patients=patients)
    assert found.value == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found.low < found.value < found.high


def test_the_mean_area_leaves_out_labels_that_no_case_or_every_case_has():
    y, p, patients = rated()
    both = np.stack([y, np.zeros_like(y), 1 - y], axis=1)
    probs = np.stack([p, p, p], axis=1)
    area = metrics.roc_auc(y, p)
    found = with_mean_auc(both, probs, patients=patients)
    assert found.value == pytest.approx((area + 1 - area) / 2)
    assert np.isnan(with_mean_auc(both[:, 1:2], probs[:, 1:2], patients=patients).value)


@pytest.mark.parametrize(("sensitivity", "specificity", "sizes"), [(0.8, 0.97, (20, 50)), (0.7, 0.9, (40, 200))])
def test_intervals_at_a_stated_prevalence_hold_the_truth_though_few_are_called(sensitivity, specificity, sizes):
    """An interval of the called cases alone would hold it in 77 of 100 studies of the first kind."""
    rng, prevalence, threshold, studies = np.random.default_rng(0), 0.02, 0.1, 400
    wrong = (1 - specificity) * (1 - prevalence)
    truth = {
        "ppv": sensitivity * prevalence / (sensitivity * prevalence + wrong),
        "npv": specificity * (1 - prevalence) / (specificity * (1 - prevalence) + (1 - sensitivity) * prevalence),
        "net_benefit": prevalence * sensitivity - wrong * threshold / (1 - threshold),
    }
    held = dict.fromkeys(truth, 0)
    for _ in range(studies):
        rates = [rng.binomial(n, rate) / n for n, rate in zip(sizes, (sensitivity, specificity), strict=True)]
        ends = [wilson(rate, n) for rate, n in zip(rates, sizes, strict=True)]
        both = [Figure(value=rate, low=low, high=high) for rate, (low, high) in zip(rates, ends, strict=True)]
        found = figures_at(*both, prevalence=prevalence, threshold=threshold)
        for name, true in truth.items():
            held[name] += found[name].low <= true <= found[name].high
    assert all(0.92 <= count / studies <= 0.99 for count in held.values()), held


def test_a_perfect_specificity_on_few_cases_does_not_make_the_predictive_value_certain():
    both = Figure(value=0.9, low=0.6, high=0.98), Figure(value=1.0, low=0.912, high=1.0)
    ppv = figures_at(*both, prevalence=0.01)["ppv"]
    assert ppv.value == ppv.high == 1
    assert ppv.low < 0.15
    at_most_one = figures_at(Figure(value=1.0, low=0.7, high=1.0), both[1], prevalence=0.01)["npv"]
    assert 0.99 < at_most_one.low < at_most_one.value == at_most_one.high == 1
    none = Figure(value=math.nan, low=math.nan, high=math.nan)
    assert math.isnan(figures_at(none, both[1], prevalence=0.5)["ppv"].value)


def test_figures_of_both_classes_rest_on_the_smaller_one():
    """All decisions are right, on three positives: Matthews' coefficient is no surer than the sensitivity."""
    y = np.array([1] * 3 + [0] * 197)
    figures = with_intervals(y, y * 0.9 + 0.05, threshold=0.5, patients=patients_of(200))
    assert figures["mcc"].value == 1
    assert figures["mcc"].low < 2 * figures["sensitivity"].low - 1 + 1e-9
    strata = np.arange(62) // 2
    strata[1] = 0
    y = np.zeros(62, int)
    y[0] = 1
    alone = with_stratified_auc(y, np.linspace(1, 0, 62), strata=strata.tolist(), patients=patients_of(62))
    assert (alone.value, alone.low) == (1, pytest.approx(wilson(1.0, 1)[0])), "one pair says next to nothing"
