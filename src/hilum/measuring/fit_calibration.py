"""Fits temperature, Platt or isotonic calibration on validation logits by maximum likelihood."""

import math
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int

from hilum.arrays import ArrayLike, labelled
from hilum.errors import CohortError
from hilum.measuring.calibration import Calibration, Logits, class_log_odds
from hilum.measuring.regression import rising_corners, softmax_regression

FEWEST_CASES = 30
"""Fewer validation cases do not determine even a temperature."""

FEWEST_OF_A_CLASS = {"none": 0, "temperature": 5, "platt": 5, "isotonic": 30}
"""From a simulation with a model that gains 0.10 nats (AUC 0.80, a fifth of the cases positive): Platt's fit loses
0.026 of them with 3 positives, 0.017 with 5, 0.009 with 10; isotonic 0.037 with 5, 0.024 with 30. An uncorrected offset
of 2 costs 0.31, so few cases are better than none; the same probability for every case costs 0.10."""

LOWEST_T, HIGHEST_T = 0.25, 5.0
"""A temperature outside these bounds means that the validation part is too small or too easy to fit one."""

_HIGHEST_SLOPE = 1000.0
"""Largest factor of Platt's fit: LDAM's logits need about 30; logits that differ by rounding must not be separated."""

_LEAST_SPREAD = 0.01
"""Least root mean square of Platt's log odds: ranks are kept even if the validation cases contradict them."""


def fit_calibration(
    logits: ArrayLike, labels: ArrayLike, *, method: Literal["none", "temperature", "platt", "isotonic"]
) -> Calibration:
    """The calibration with the greatest likelihood on validation cases, which must not have been trained on.

    temperature
        One factor, for a model that is too sure or too unsure. See ``fit_temperature``.
    platt
        A positive factor and an offset for each class, also for a model trained on other shares of the classes.
        For two classes it is Platt's sigmoid (1999) on the difference of the logits, for more the bias-corrected
        temperature of Alexandari, Kundaje, Shrikumar (arXiv:1901.06852).
    isotonic
        Any rising curve, by pooling adjacent violators (Zadrozny & Elkan, KDD 2002); for more than two classes one for
        each against the rest, normalised. Cases may become ties; with two classes their order is never reversed.

    The targets of platt and isotonic are not 0 and 1 but Platt's, so that a small part without errors does not make
    the model too sure: among c classes a case of a class with n cases counts (n + 1) / (n + c) for its own class and
    1 / (n + c) for each other, as if there were one more case of each (Lin, Lin, Weng 2007 for c = 2).

    Args:
        logits: Logits of validation cases.
        labels: Their classes.
        method: ``none`` leaves the logits as they are. For ``prior`` see ``hilum.measuring.prevalence.prior_bias``.

    Raises:
        CohortError: If there are too few cases, of all (30) or of a class (5; 30 for isotonic), a logit is
            not finite or a label is not one of the classes.
    """
    if method == "none":
        return Calibration()
    labels, logits = labelled(labels, logits, what="logits", axes=(2,))
    counts = _counts(logits, labels)
    few = FEWEST_OF_A_CLASS[method]
    if len(labels) < FEWEST_CASES or counts.min() < few:
        must = f"{FEWEST_CASES} validation cases" + (f", {few} of each class" if few else "")
        msg = f"{method} calibration needs at least {must}; got {len(labels)}, by class {', '.join(map(str, counts))}"
        raise CohortError(msg)
    prevalence = tuple((counts / len(labels)).tolist())
    on = f"on {len(labels)} validation cases, by class {', '.join(map(str, counts))}"
    if method == "temperature":
        temperature = fit_temperature(logits, labels)
        rule = f"temperature {temperature:.3g}, {on}"
        return Calibration(method=method, temperature=temperature, prevalence=prevalence, rule=rule)
    n, c = counts[labels][:, None], len(counts)
    targets = np.where(labels[:, None] == np.arange(c), n + 1, 1) / (n + c)
    if method == "platt":
        temperature, bias = _fit_platt(logits.astype(np.float64), targets)
        rule = f"temperature {temperature:.3g} and offsets {', '.join(f'{b:+.3g}' for b in bias)} (Platt), {on}"
        return Calibration(method=method, temperature=temperature, bias=bias, prevalence=prevalence, rule=rule)
    odds = class_log_odds(logits)
    curves = tuple(rising_corners(odds[:, k], _smoothed(labels == k)) for k in ([1] if c == 2 else range(c)))
    return Calibration(method=method, curves=curves, prevalence=prevalence, rule=f"rising curve (isotonic), {on}")


def _fit_platt(
    logits: Float64[np.ndarray, "n c"], targets: Float64[np.ndarray, "n c"]
) -> tuple[float, tuple[float, ...]]:
    """Temperature and bias of greatest likelihood; the loss is convex, so a slope out of bounds is set to the bound."""
    num_classes = logits.shape[1]
    centred = logits - logits.mean(1, keepdims=True)
    middle = centred.mean(0)
    centred = centred - middle
    spread = float(np.sqrt(np.mean(centred**2)))
    unit = spread or 1.0
    offsets = np.broadcast_to(np.eye(num_classes)[:, 1:], (len(logits), num_classes, num_classes - 1))
    free = softmax_regression(np.concatenate([centred[:, :, None] / unit, offsets], axis=2), targets)
    lowest = min(_LEAST_SPREAD / unit, 1.0) if spread else 1.0
    slope = min(max(float(free[0]) / unit, lowest), _HIGHEST_SLOPE)
    bias = np.append(0.0, softmax_regression(offsets, targets, offset=slope * centred)) - slope * middle
    return 1 / slope, tuple((bias - bias.mean()).tolist())


def _counts(logits: Logits, labels: Int[np.ndarray, " n"]) -> Int[np.ndarray, " c"]:
    """Cases of each class, after checking that logits and labels fit together."""
    num_classes = logits.shape[1]
    if len(labels) != len(logits) or num_classes < 2:
        got = f"{len(labels)} labels, logits of shape {logits.shape}"
        msg = f"calibration needs a label for each case and two classes or more, got {got}"
        raise CohortError(msg)
    if not np.isfinite(logits).all():
        msg = f"calibration needs finite logits, got {int((~np.isfinite(logits).all(1)).sum())} cases without"
        raise CohortError(msg)
    if len(labels) and not 0 <= labels.min() <= labels.max() < num_classes:
        msg = f"labels must be 0 to {num_classes - 1}, got {labels.min()} to {labels.max()}"
        raise CohortError(msg)
    return np.bincount(labels, minlength=num_classes)


def _smoothed(positive: Bool[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """Platt's targets of one class against the rest."""
    num_positives, num_negatives = int(positive.sum()), int((~positive).sum())
    return np.where(positive, (num_positives + 1) / (num_positives + 2), 1 / (num_negatives + 2))


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> float:
    """The temperature of greatest likelihood on validation cases (Guo et al., ICML 2017).

    The mean negative log likelihood is convex in 1 / T, so it has one minimum in log T, which Brent's method finds to
    six digits. It is limited to 0.25 to 5: a small validation part that happens to be perfectly separated must not
    make the model too sure.

    Raises:
        CohortError: If there are no cases, or a logit is not finite.
    """
    from scipy.optimize import minimize_scalar

    labels, logits = labelled(labels, logits, what="logits", axes=(2,))
    if len(labels) == 0 or not np.isfinite(logits).all():
        msg = f"a temperature needs finite logits of at least one case, got {len(labels)} cases"
        raise CohortError(msg)
    wide = logits.astype(np.float64)
    centred = wide - wide[np.arange(len(labels)), labels][:, None]

    def loss(log_t: float) -> float:
        scaled = centred / math.exp(log_t)
        return float(np.mean(np.logaddexp.reduce(scaled, axis=1)))

    low, high = math.log(LOWEST_T), math.log(HIGHEST_T)
    best = float(minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-7}).x)
    ends = {value: loss(value) for value in (low, best, high, 0.0)}
    lowest = min(ends.values())
    if ends[0.0] <= lowest + 1e-12:  # a flat minimum: keep the logits
        return 1.0
    return math.exp(min(ends, key=lambda value: ends[value]))
