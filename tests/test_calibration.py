"""Probabilities mean what they say after calibration, at every prevalence, and it is said how far they do."""

import json
import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from hilum.errors import CohortError, ConfigError
from hilum.measuring import metrics
from hilum.measuring.agreement import calibration_line, ece_floor, expected_calibration_error, reliability
from hilum.measuring.calibration import Calibration, class_log_odds, probabilities
from hilum.measuring.fit_calibration import HIGHEST_T, LOWEST_T, fit_calibration, fit_temperature
from hilum.measuring.prevalence import prior_bias, threshold_at
from hilum.measuring.regression import rising_corners, softmax_regression
from hilum.settings.toml import from_dict, to_dict

FITS = ("temperature", "platt", "isotonic")
QUARTER = (0.75, 0.25)


def of_two(z):
    """Logits of two classes whose difference is z."""
    return np.stack([np.zeros_like(z), z], axis=1)


def scored(num_negatives, num_positives, seed=0, distance=1.8):
    """Labels and scores of two normal distributions (AUC 0.9), and the true log odds of a positive among them."""
    rng = np.random.default_rng(seed)
    y = np.repeat([0, 1], [num_negatives, num_positives])
    x = rng.normal(size=len(y)) + distance * y
    return y, x, distance * x - distance**2 / 2 + math.log(num_positives / num_negatives)


def of_many(n, shares, seed=0):
    """Labels and true log posteriors of normal distributions in the plane, one for each class."""
    rng = np.random.default_rng(seed)
    y = rng.choice(len(shares), n, p=shares)
    angles = 2 * np.pi * np.arange(len(shares)) / len(shares)
    centres = 1.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    x = centres[y] + rng.normal(size=(n, 2))
    log_joint = -((x[:, None] - centres) ** 2).sum(2) / 2 + np.log(shares)
    return y, log_joint


@st.composite
def answers(draw):
    """Labels, and probabilities with many ties."""
    n = draw(st.integers(4, 40))
    y = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    return y, np.array(draw(st.lists(st.integers(0, 12), min_size=n, max_size=n))) / 12


@st.composite
def validated(draw, fewest=30):
    """Logits and labels of two to four classes, each often enough for every fit, with ties."""
    c = draw(st.integers(2, 4))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    labels = np.repeat(np.arange(c), rng.integers(fewest, fewest + 40, c))
    signal = draw(st.sampled_from([-2.0, 0.0, 1.0, 30.0]))
    logits = signal * np.eye(c)[labels] + rng.normal(size=(len(labels), c)) * 2 + rng.normal(size=c)
    return logits.round(draw(st.sampled_from([0, 1, 9]))) * draw(st.sampled_from([1e-3, 1.0, 1e4])), labels


# Fits


def test_platt_is_the_maximum_of_the_likelihood_of_platts_targets():
    y, _, truth = scored(160, 40)
    z = 0.4 * truth + 2
    fitted = fit_calibration(of_two(z), y, method="platt")
    targets = np.where(y == 1, 41 / 42, 1 / 162)

    def loss(line):
        return np.sum(np.logaddexp(0, line[0] * z + line[1]) - targets * (line[0] * z + line[1]))

    slope, intercept = optimize.minimize(loss, [1.0, 0.0], tol=1e-12).x
    assert 1 / fitted.temperature == pytest.approx(slope, rel=1e-4)
    assert fitted.bias[1] - fitted.bias[0] == pytest.approx(intercept, abs=1e-4)
    assert fitted.prevalence == (0.8, 0.2)
    assert fitted.rule.endswith("(Platt), on 200 validation cases, by class 160, 40")


def test_platt_of_many_cases_is_scikit_learns_logistic_regression():
    y, _, truth = scored(60_000, 20_000)
    z = 0.25 * truth + 1
    fitted = fit_calibration(of_two(z), y, method="platt")
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(z[:, None], y)
    assert 1 / fitted.temperature == pytest.approx(line.coef_[0, 0], rel=1e-3)
    assert fitted.bias[1] - fitted.bias[0] == pytest.approx(line.intercept_[0], abs=2e-3)


def test_platt_of_three_classes_is_the_maximum_of_the_likelihood_of_one_slope_and_an_offset_for_each():
    y, truth = of_many(300, [0.7, 0.2, 0.1])
    logits = 3 * truth + [1.0, -1.0, 2.0]
    fitted = fit_calibration(logits, y, method="platt")
    n = np.bincount(y)[y][:, None]
    targets = np.where(np.eye(3)[y] == 1, n + 1, 1) / (n + 3)

    def loss(at):
        scores = at[0] * logits + [0.0, *at[1:]]
        return np.sum(np.logaddexp.reduce(scores, axis=1) - (targets * scores).sum(1))

    slope, *offsets = optimize.minimize(loss, [1.0, 0.0, 0.0], tol=1e-12).x
    assert 1 / fitted.temperature == pytest.approx(slope, rel=1e-4)
    assert np.diff(fitted.bias) == pytest.approx(np.diff([0.0, *offsets]), abs=1e-3)
    assert sum(fitted.bias) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("factor", [1 / 30, 1.0, 30.0])
def test_platt_undoes_a_factor_and_a_prior_that_one_temperature_cannot(factor):
    """Weights of 1 / n move the log odds by log(n0 / n1); LDAM's scale makes them 30 times too small."""
    y, _, truth = scored(900, 100)
    other_y, _, other_truth = scored(9000, 1000, seed=1)
    error = {}
    for method in ("temperature", "platt"):
        fitted = fit_calibration(of_two(factor * (truth + math.log(9))), y, method=method)
        p = fitted.probabilities(of_two(factor * (other_truth + math.log(9))))[:, 1]
        error[method] = expected_calibration_error(other_y, p)
    assert error["platt"] < 0.02
    assert error["temperature"] > 0.1
    assert fitted.temperature == pytest.approx(factor, rel=0.25)


def test_platt_on_five_positives_is_better_than_an_offset_of_two_left_alone():
    """Mean loss over 60 validation parts; what is left of the loss is the price of so few cases."""
    other_y, _, other_truth = scored(9000, 1000, seed=1)
    left, fitted = [], []
    for seed in range(60):
        y, _, truth = scored(45, 5, seed=seed + 10)
        calibrated = fit_calibration(of_two(truth + 2), y, method="platt")
        fitted.append(metrics.log_loss(other_y, calibrated.probabilities(of_two(other_truth + 2))))
        left.append(metrics.log_loss(other_y, probabilities(of_two(other_truth + 2))))
    best = metrics.log_loss(other_y, probabilities(of_two(other_truth)))
    assert np.mean(fitted) - best < 0.25 * (np.mean(left) - best)
    assert np.max(fitted) < np.mean(left)


def worst_cases():
    y = np.repeat([0, 1], [40, 10])
    rng = np.random.default_rng(0)
    noise = rng.normal(size=50)
    return {
        "perfectly separated": (y * 2.0 + 0.1 * noise, y),
        "separated, huge": (1e4 * (y - 0.5) + noise, y),
        "all wrong": (1e4 * (0.5 - y) + noise, y),
        "huge": (1e4 * noise + 1e4 * y, y),
        "huge offset": (1e4 + noise + y, y),
        "one far off": (np.where(np.arange(50) == 3, 1e4, noise + y), y),
        "constant": (np.full(50, 7.0), y),
        "differ by rounding": (1 + 1e-13 * (y + noise), y),
        "only two values": (np.where(y == 1, 0.01, -0.01), y),
    }


@pytest.mark.parametrize("name", worst_cases())
def test_platt_converges_keeps_the_order_and_is_never_surer_than_its_cases(name):
    z, y = worst_cases()[name]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted = fit_calibration(of_two(z), y, method="platt")
        p = fitted.probabilities(of_two(z))[:, 1]
    assert np.isfinite([fitted.temperature, *fitted.bias]).all()
    assert fitted.temperature >= 0.001
    assert p.mean() == pytest.approx(0.2, abs=0.02)  # the bias is at its best, whatever the slope may be
    assert p.mean() == pytest.approx(np.mean(np.where(y == 1, 11 / 12, 1 / 42)), abs=1e-6)
    order = np.argsort(z, kind="stable")
    assert (np.diff(p[order]) >= 0).all()
    assert -np.log(1 - p[y == 0]).mean() > 1 / 45  # in sum not surer than one wrong case in 40 allows
    assert metrics.log_loss(y, p) <= 0.51  # never worse than saying the prevalence to everybody


def test_platt_leaves_the_slope_of_constant_logits_alone():
    z, y = worst_cases()["constant"]
    fitted = fit_calibration(of_two(z), y, method="platt")
    assert fitted.temperature == 1.0
    assert np.ptp(fitted.probabilities(of_two(z))[:, 1]) == 0


def test_platt_of_logits_that_rank_backwards_says_the_prevalence_to_everybody():
    z, y = worst_cases()["all wrong"]
    p = fit_calibration(of_two(z), y, method="platt").probabilities(of_two(z))[:, 1]
    assert np.abs(p - 0.2).max() < 0.02
    assert metrics.roc_auc(y, p) == metrics.roc_auc(y, z)


@pytest.mark.parametrize("far", [-3000.0, -30.0, 10.0, 30.0, 300.0])
def test_a_regression_that_starts_far_from_its_minimum_gets_there(far):
    """Where all probabilities are near 1 the curvature is nothing, and a full Newton step overshoots by far."""
    features = np.tile([[0.0], [1.0]], (10, 1, 1))
    targets = np.tile([0.8, 0.2], (10, 1))
    found = softmax_regression(features, targets, offset=np.tile([0.0, far], (10, 1)))
    assert found == pytest.approx([math.log(0.2 / 0.8) - far])


@settings(max_examples=80)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_the_rising_curve_is_scipys_and_scikit_learns(seed, n):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, 15, n) / 3, rng.integers(0, 2, n).astype(np.float64)
    corners = rising_corners(x, y)
    levels, level, sizes = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(level, weights=y) / sizes
    at, values = np.array(corners).T
    best = optimize.isotonic_regression(means, weights=sizes).x
    np.testing.assert_allclose(np.interp(levels, at, values), best, atol=1e-12)
    assert len(corners) <= 2 * len(np.unique(best.round(12)))
    asked = np.linspace(-1, 6, 50)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(x, y).predict(asked)
    np.testing.assert_allclose(np.interp(asked, at, values), theirs, atol=1e-12)


def test_isotonic_calibration_is_the_rising_curve_of_platts_targets_and_never_sure():
    y, _, truth = scored(120, 40)
    z = np.sign(truth) * np.abs(truth) ** 3
    fitted = fit_calibration(of_two(z), y, method="isotonic")
    targets = np.where(y == 1, 41 / 42, 1 / 122)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(z, targets)
    asked = np.append(np.linspace(-80, 80, 400), [-1e4, 1e4])
    p = fitted.probabilities(of_two(asked))[:, 1]
    np.testing.assert_allclose(p, theirs.predict(asked), atol=1e-9)
    assert (p.min(), p.max()) == pytest.approx((1 / 122, 41 / 42))
    assert fitted.probabilities(of_two(z))[:, 1].mean() == pytest.approx(0.25, abs=0.01)


def test_isotonic_calibration_of_three_classes_is_each_against_the_rest_normalised():
    y, truth = of_many(400, [0.5, 0.3, 0.2])
    fitted = fit_calibration(5 * truth, y, method="isotonic")
    shares = []
    for k, n in enumerate(np.bincount(y)):
        share = probabilities(5 * truth)[:, k]
        targets = np.where(y == k, (n + 1) / (n + 2), 1 / (400 - n + 2))
        shares.append(IsotonicRegression(out_of_bounds="clip").fit(share, targets).predict(share))
    expected = np.stack(shares, axis=1)
    found = fitted.probabilities(5 * truth)
    np.testing.assert_allclose(found, expected / expected.sum(1, keepdims=True), atol=1e-9)
    assert metrics.log_loss(y, found) < metrics.log_loss(y, probabilities(5 * truth))


def test_isotonic_calibration_mends_a_distortion_that_platt_cannot():
    y, _, truth = scored(3000, 1000)
    other_y, _, other_truth = scored(9000, 3000, seed=1)
    loss = {}
    for method in FITS:
        fitted = fit_calibration(of_two(np.exp(truth)), y, method=method)
        loss[method] = metrics.log_loss(other_y, fitted.probabilities(of_two(np.exp(other_truth))))
    assert loss["isotonic"] < loss["platt"] - 0.01
    assert loss["isotonic"] < metrics.log_loss(other_y, probabilities(of_two(other_truth))) + 0.01


@pytest.mark.parametrize("method", FITS)
@settings(max_examples=60)
@given(case=validated())
def test_every_fit_gives_probabilities_and_no_fit_turns_the_order_of_two_classes(method, case):
    logits, labels = case
    fitted = fit_calibration(logits, labels, method=method)
    asked = np.concatenate([logits, 3 * logits, np.random.default_rng(0).normal(size=(30, logits.shape[1]))])
    probs = fitted.probabilities(asked)
    assert np.isfinite(probs).all()
    assert (probs >= 0).all()
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-12)
    if logits.shape[1] == 2:
        order = np.argsort(asked[:, 1] - asked[:, 0], kind="stable")
        assert (np.diff(probs[order, 1]) >= -1e-12).all()
    again = from_dict(Calibration, json.loads(json.dumps(to_dict(fitted))))
    assert again == fitted
    assert (again.probabilities(asked) == probs).all()


def test_platt_and_temperature_leave_the_auc_as_it_is_and_isotonic_moves_it_by_ties_alone():
    y, _, truth = scored(200, 60)
    for method in FITS:
        p = fit_calibration(of_two(truth), y, method=method).probabilities(of_two(truth))[:, 1]
        if method == "isotonic":
            assert len(np.unique(p)) < len(np.unique(truth))
            assert metrics.roc_auc(y, p) >= metrics.roc_auc(y, truth)
        else:
            assert metrics.roc_auc(y, p) == metrics.roc_auc(y, truth)


def test_the_log_odds_of_a_class_are_those_of_its_probability_however_sure():
    logits = np.random.default_rng(0).normal(size=(20, 4)) * 3
    p = probabilities(logits)
    np.testing.assert_allclose(class_log_odds(logits), np.log(p / (1 - p)), atol=1e-9)
    np.testing.assert_allclose(class_log_odds(np.array([[1e4, 0.0, 0.0]])), [[1e4 - math.log(2), -1e4, -1e4]])


@pytest.mark.parametrize(
    ("method", "counts", "said"),
    [
        ("temperature", (20, 9), "at least 30 validation cases, 5 of each class; got 29, by class 20, 9"),
        ("platt", (10, 10), "at least 30 validation cases, 5 of each class; got 20, by class 10, 10"),
        ("platt", (96, 4), "5 of each class; got 100, by class 96, 4"),
        ("platt", (96, 4, 0), "5 of each class; got 100, by class 96, 4, 0"),
        ("isotonic", (29, 71), "30 of each class; got 100, by class 29, 71"),
    ],
)
def test_too_few_cases_are_said_with_their_numbers(method, counts, said):
    labels = np.repeat(np.arange(len(counts)), counts)
    with pytest.raises(CohortError, match=f"{method} calibration needs .*{said}"):
        fit_calibration(np.zeros((len(labels), len(counts))), labels, method=method)


def test_no_fit_leaves_logits_alone_and_claims_no_prevalence():
    logits = np.random.default_rng(0).normal(size=(5, 3))
    plain = fit_calibration(logits, np.zeros(5, np.int64), method="none")
    assert plain == Calibration()
    np.testing.assert_array_equal(plain.probabilities(logits), probabilities(logits))


def test_a_fit_needs_finite_logits_and_labels_that_are_classes():
    labels = np.arange(40) % 2
    with pytest.raises(CohortError, match="finite logits, got 1 cases without"):
        fit_calibration(np.where(np.arange(40)[:, None] == 3, np.inf, np.zeros((40, 2))), labels, method="platt")
    with pytest.raises(CohortError, match="labels must be 0 to 1, got 0 to 2"):
        fit_calibration(np.zeros((40, 2)), np.arange(40) % 3, method="platt")
    with pytest.raises(CohortError, match=r"two classes or more, got 40 labels, logits of shape \(40, 1\)"):
        fit_calibration(np.zeros((40, 1)), labels, method="platt")


# What is stored


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"temperature": 0.0}, "temperature must be positive"),
        ({"method": "platt", "temperature": math.nan}, "temperature must be positive"),
        ({"temperature": 2.0}, "temperature must be 1 with method none"),
        ({"method": "prior", "bias": (1.0,)}, "bias must be empty, or a finite number for each class"),
        ({"method": "prior", "bias": (1.0, math.inf)}, "bias must be empty, or a finite number for each class"),
        ({"method": "isotonic"}, "curves must be one for two classes .*, got 0 with method isotonic"),
        ({"curves": (((0.0, 0.5),),)}, "got 1 with method none"),
        ({"method": "isotonic", "curves": ((),)}, "a calibration curve must be rising"),
        ({"method": "isotonic", "curves": (((0.0, 0.5), (1.0, 0.4)),)}, "a calibration curve must be rising"),
        ({"method": "isotonic", "curves": (((1.0, 0.5), (1.0, 0.6)),)}, "a calibration curve must be rising"),
        ({"method": "isotonic", "curves": (((0.0, 0.0), (1.0, 0.4)),)}, "p between 0 and 1"),
        ({"prevalence": (0.5, 0.4)}, "prevalence must be a share for each of two classes"),
        ({"prevalence": (0.5, 0.5), "bias": (0.0, 0.0, 0.0)}, "for the same number of classes"),
    ],
)
def test_nonsense_is_no_calibration(values, said):
    with pytest.raises(ConfigError, match=said):
        Calibration(**values)


def test_a_calibration_fits_its_number_of_classes_only():
    two = Calibration(method="prior", bias=(-1.0, 1.0))
    assert two.num_classes == 2
    assert Calibration().num_classes is None
    with pytest.raises(ConfigError, match="logits must be of 2 classes, got 3"):
        two.probabilities(np.zeros((1, 3)))


# Prevalence


@pytest.mark.parametrize("method", FITS)
def test_probabilities_at_another_prevalence_agree_with_cases_of_it(method):
    y, _, truth = scored(3000, 1000)
    fitted = fit_calibration(of_two(truth), y, method=method)
    rare_y, x, _ = scored(19_000, 1000, seed=1)
    logits = of_two(1.8 * x - 1.62 + math.log(1 / 3))  # as the network says it, whoever is scanned
    before, after = (c.probabilities(logits)[:, 1] for c in (fitted, fitted.at((0.95, 0.05))))
    assert after.mean() == pytest.approx(0.05, abs=0.006)
    assert expected_calibration_error(rare_y, after) < 0.012
    assert expected_calibration_error(rare_y, before) > 0.05


@pytest.mark.parametrize("method", FITS)
def test_odds_are_multiplied_by_the_ratio_of_the_odds_for_every_method_and_there_and_back_is_the_same(method):
    y, truth = of_many(400, [0.5, 0.3, 0.2])
    fitted = fit_calibration(truth, y, method=method)
    to = (0.9, 0.06, 0.04)
    moved = fitted.at(to)
    assert moved.prevalence == to
    assert moved.rule == fitted.rule
    expected = fitted.probabilities(truth) * np.array(to) / np.array(fitted.prevalence)
    expected /= expected.sum(1, keepdims=True)
    np.testing.assert_allclose(moved.probabilities(truth), expected, atol=1e-12)
    back = moved.at((0.2, 0.2, 0.6)).at(fitted.prevalence)
    np.testing.assert_allclose(back.probabilities(truth), fitted.probabilities(truth), atol=1e-12)
    assert back.prevalence == fitted.prevalence


def test_certainty_stays_certainty_at_every_prevalence():
    sure = Calibration(prevalence=(0.5, 0.5))
    logits = of_two(np.array([-1e4, 1e4]))
    np.testing.assert_array_equal(sure.at((0.999, 0.001)).probabilities(logits), [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("prevalence", "to", "said"),
    [
        ((), QUARTER, "the prevalence that the probabilities stand for must be known, got none"),
        ((1.0, 0.0), QUARTER, "stand for must be more than 0 of every class"),
        (QUARTER, (1.0, 0.0), "the new prevalence must be more than 0 of every class"),
        (QUARTER, (0.5, 0.2, 0.3), "the new prevalence must be a share for each of 2 classes"),
        (QUARTER, (0.25, 0.25), "the new prevalence must be a share .* summing to 1"),
    ],
)
def test_what_has_no_odds_cannot_be_restated(prevalence, to, said):
    with pytest.raises(ConfigError, match=said):
        Calibration(prevalence=prevalence).at(to)


@settings(max_examples=200)
@given(st.floats(-12, 12), st.lists(st.floats(-12, 12), min_size=1, max_size=20), st.floats(0.001, 0.999))
def test_a_shifted_threshold_keeps_every_decision(cut, zs, share):
    kept = Calibration(prevalence=QUARTER)
    logits = of_two(np.array(zs))
    threshold = 1 / (1 + math.exp(-cut))
    p = kept.probabilities(logits)[:, 1]
    clear = np.abs(np.array(zs) - cut) > 1e-9
    to = (1 - share, share)
    moved = kept.at(to).probabilities(logits)[:, 1]
    shifted = threshold_at(threshold, of=QUARTER, to=to)
    np.testing.assert_array_equal((moved >= shifted)[clear], (p >= threshold)[clear])


def test_thresholds_of_none_and_all_stay_and_of_three_classes_there_are_none():
    for end in (0.0, 1.0):
        assert threshold_at(end, of=QUARTER, to=(0.99, 0.01)) == end
    with pytest.raises(ConfigError, match="prevalence of a threshold must be of two classes"):
        threshold_at(0.5, of=(0.2, 0.3, 0.5), to=(0.2, 0.3, 0.5))


@pytest.mark.parametrize(
    "trained", ["weighted", "over", "weighted and over", "logit-adjusted"], ids=lambda name: name.replace(" ", "-")
)
def test_the_analytic_correction_recovers_the_true_probabilities_of_cross_entropy(trained):
    counts = (36_000, 4_000)
    y, x, truth = scored(*counts)
    draws = (36_000, 12_000) if "over" in trained else counts
    weights = (0.4, 1.6) if "weighted" in trained else (1.0, 1.0)
    per_case = np.array([w * r / n for w, r, n in zip(weights, draws, counts, strict=True)])[y]
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(x[:, None], y, sample_weight=per_case)
    z = line.decision_function(x[:, None])
    tau = 1.0 if trained == "logit-adjusted" else 0.0
    z = z - tau * math.log(counts[1] / counts[0])  # the loss saw logits + tau log(n / N), which became the posterior
    bias = prior_bias(counts, weights=weights, draws=draws, tau=tau)
    corrected = Calibration(method="prior", bias=bias, prevalence=(0.9, 0.1))
    p = 1 / (1 + np.exp(-truth))
    assert np.abs(probabilities(of_two(z))[:, 1] - p).max() > 0.2
    assert np.abs(corrected.probabilities(of_two(z))[:, 1] - p).max() < 0.03


def test_the_analytic_correction_does_not_hold_for_the_focal_loss():
    """Its minimum is no posterior moved by a constant, which is why Platt is fitted there."""
    p = np.array([0.02, 0.1, 0.3, 0.5, 0.8])

    def focal(z, share):
        q = 1 / (1 + np.exp(-z))
        return -share * (1 - q) ** 2 * np.log(q) - (1 - share) * q**2 * np.log(1 - q)

    logits = [optimize.minimize_scalar(focal, bounds=(-9, 9), args=(s,), method="bounded").x for s in p]
    assert np.ptp(np.array(logits) - np.log(p / (1 - p))) > 1


def test_a_mean_over_the_weights_of_small_batches_weighs_less_than_the_weights():
    """prior_bias says so: weights of 9 to 1 act like 5.0 to 1 among 8 cases with 10 % positives."""
    rng = np.random.default_rng(0)
    positive = rng.random((400_000, 8)) < 0.1
    weight = np.where(positive, 9.0, 1.0)
    share = weight / weight.sum(1, keepdims=True)
    assert share[positive].mean() / share[~positive].mean() == pytest.approx(5.05, abs=0.05)


def test_no_weights_and_no_sampling_need_no_correction():
    assert prior_bias((90, 10)) == (0.0, 0.0)
    assert prior_bias((90, 10), weights=(3.0, 3.0), draws=(45, 5)) == pytest.approx((0, 0))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"counts": (5,)}, "counts must be of two classes or more"),
        ({"counts": (5, 0)}, "counts must be positive, for each of 2 classes"),
        ({"counts": (5, 5), "weights": (1.0, 0.0)}, "weights must be positive"),
        ({"counts": (5, 5), "draws": (1.0, 1.0, 2.0)}, "draws must be positive, for each of 2 classes"),
        ({"counts": (5, 5), "tau": -1.0}, "tau must be at least 0"),
    ],
)
def test_a_correction_needs_cases_weights_and_draws_of_every_class(given, said):
    with pytest.raises(ConfigError, match=said):
        prior_bias(given.pop("counts"), **given)


# Agreement


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.integers(1, 400))
def test_the_calibration_error_is_the_mean_distance_in_the_bins_of_reliability(seed, n):
    rng = np.random.default_rng(seed)
    y, p = rng.integers(0, 2, n), rng.integers(0, 30, n) / 29
    expected = sum(each.num_cases / n * abs(each.observed - each.predicted) for each in reliability(y, p))
    assert expected_calibration_error(y, p) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(("n", "published"), [(798, 0.034), (196, 0.069)])
def test_a_perfect_model_has_the_calibration_error_of_the_floor(n, published):
    """Both figures stand in the project's own notes on judging."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.8, 1.6, n)
    floor = ece_floor(p)
    found = [expected_calibration_error((rng.random(n) < p).astype(np.int64), p) for _ in range(300)]
    assert floor == pytest.approx(np.mean(found), rel=0.05)
    assert floor == pytest.approx(published, rel=0.2)
    assert floor == ece_floor(p) != ece_floor(p, seed=1)
    assert expected_calibration_error((rng.random(n) < p).astype(np.int64), np.sqrt(p)) > 2 * floor


def test_figures_of_no_cases_do_not_exist():
    y, p = np.zeros(0, np.int64), np.zeros(0)
    assert reliability(y, p) == ()
    assert math.isnan(expected_calibration_error(y, p))
    assert math.isnan(ece_floor(p))
    assert all(map(math.isnan, calibration_line(y, p)))


@pytest.mark.parametrize(("offset", "factor"), [(0.0, 1.0), (2.0, 1.0), (-1.0, 0.5), (0.0, -1.0)])
def test_the_calibration_line_is_scikit_learns_logistic_regression(offset, factor):
    y, _, truth = scored(300, 100)
    z = factor * truth + offset
    p = 1 / (1 + np.exp(-z))
    line = LogisticRegression(C=np.inf, tol=1e-10).fit(z[:, None], y)
    intercept, slope = calibration_line(y, p)
    assert slope == pytest.approx(line.coef_[0, 0], rel=1e-4)
    assert intercept == pytest.approx(line.intercept_[0], abs=1e-4)


def test_the_line_of_true_probabilities_is_perfect_and_of_doubled_logits_half_as_steep():
    y, _, truth = scored(30_000, 10_000)
    assert calibration_line(y, 1 / (1 + np.exp(-truth))) == pytest.approx((0, 1), abs=0.05)
    assert calibration_line(y, 1 / (1 + np.exp(-2 * truth))) == pytest.approx((0, 0.5), abs=0.05)
    assert calibration_line(y, 1 / (1 + np.exp(-truth - 2))) == pytest.approx((-2, 1), abs=0.08)


@pytest.mark.parametrize(
    ("y", "p"),
    [
        ([0, 0, 1, 1], [0.1, 0.2, 0.3, 0.4]),
        ([1, 1, 0, 0], [0.1, 0.2, 0.3, 0.4]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.2, 0.4]),
        ([0, 1, 0, 1], [0.3, 0.3, 0.3, 0.3]),
        ([1, 1, 1, 1], [0.1, 0.2, 0.3, 0.4]),
    ],
    ids=["separated", "separated backwards", "separated but for a tie", "constant", "one class"],
)
def test_where_no_line_is_the_most_likely_there_is_none(y, p):
    assert all(map(math.isnan, calibration_line(np.array(y), np.array(p))))


def test_probabilities_of_exactly_0_and_1_have_a_line():
    y, p = np.array([0, 1, 0, 1, 0, 1]), np.array([0.0, 0.0, 0.4, 0.6, 1.0, 1.0], np.float32)
    intercept, slope = calibration_line(y, p)
    assert math.isfinite(intercept)
    assert 0 < slope < 0.1


# One temperature, and bins


@pytest.mark.parametrize("truth", [0.3, 1.0, 4.0])
def test_the_temperature_that_spoilt_the_logits_is_found(truth):
    rng = np.random.default_rng(6)
    logits = rng.normal(size=(20_000, 3)) * 1.5
    probs = probabilities(logits)
    labels = (rng.random(len(probs))[:, None] > probs.cumsum(1)).sum(1)
    assert fit_temperature(logits * truth, labels) == pytest.approx(truth, rel=0.06)


def test_the_temperature_is_the_minimum_of_the_loss():
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 2, 200)
    logits = (rng.normal(size=(200, 2)) * 4 + 3 * np.eye(2)[labels]).astype(np.float32)
    best = fit_temperature(logits, labels)

    def loss(temperature):
        return metrics.log_loss(labels, probabilities(logits, temperature=temperature))

    assert loss(best) <= min(loss(best * 1.01), loss(best / 1.01), loss(1.0))


def test_a_temperature_is_bounded_and_leaves_zero_logits_alone():
    perfect = 5 * np.eye(2)[[0, 1, 1, 0]]
    assert fit_temperature(perfect, np.array([0, 1, 1, 0])) == pytest.approx(LOWEST_T)
    assert fit_temperature(perfect, np.array([1, 0, 0, 1])) == pytest.approx(HIGHEST_T)
    assert fit_temperature(np.zeros((4, 2)), np.array([0, 1, 1, 0])) == 1.0


def test_a_temperature_needs_finite_logits():
    with pytest.raises(CohortError, match="finite logits of at least one case"):
        fit_temperature(np.full((2, 2), np.nan), np.array([0, 1]))
    with pytest.raises(CohortError, match="at least one case, got 0 cases"):
        fit_temperature(np.zeros((0, 2)), np.zeros(0, np.int64))


@settings(max_examples=50)
@given(answers())
def test_reliability_bins_hold_every_case_once_and_keep_equal_probabilities_together(answer):
    y, p = answer
    bins = reliability(y, p)
    assert sum(each.num_cases for each in bins) == len(y)
    assert sum(each.num_cases * each.observed for each in bins) == pytest.approx(y.sum())
    centres = [each.predicted for each in bins]
    assert centres == sorted(set(centres))


def test_two_levels_of_probability_are_two_reliability_bins():
    y = np.array([1] * 16 + [0] * 284)
    rare, often = reliability(y, np.where(y == 1, 0.97, 0.02))
    assert (rare.num_cases, often.num_cases) == (284, 16)
    even = reliability(y, np.linspace(0, 1, 300))
    assert [each.num_cases for each in even] == [30] * 10
