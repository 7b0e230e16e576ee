"""Fits calibration and thresholds on validation cases, by the settings of a run."""

import logging
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

from hilum.cohorts.labels import Labels
from hilum.deciding.decision import Decision, label_logits
from hilum.errors import CohortError, ConfigError
from hilum.measuring.abstaining import choose_band, fit_sets
from hilum.measuring.calibration import Calibration
from hilum.measuring.fit_calibration import fit_calibration
from hilum.measuring.operating_points import choose_points
from hilum.measuring.prevalence import prior_bias
from hilum.measuring.thresholds import Threshold, choose_threshold
from hilum.modelling.losses.class_weights import class_counts
from hilum.modelling.losses.make import weights_of
from hilum.settings.imbalance import AT_THE_PROBABILITY
from hilum.settings.run import DecisionConfig, RunConfig

_log = logging.getLogger("hilum")

_FIRM = 10
"""Fewest validation positives for a firm threshold: with fewer, one case moves the sensitivity by more than 0.1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingCases:
    """Labels and sampling of the training cases.

    Attributes:
        labels: Labels of the training cases.
        counted: Weight of each case in the kept epoch: how often it was sampled, times its weight in the table.
    """

    labels: Labels
    counted: Float[np.ndarray, " n"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """Cases that were never trained on, from which calibration, thresholds and abstaining are fitted.

    Attributes:
        labels: Their labels.
        logits: Their logits.
        patients: Patient of each.
        chose_epoch: Whether they chose the epoch whose weights were kept, as validation cases do.
    """

    labels: Labels
    logits: Float[np.ndarray, "n c"]
    patients: tuple[str, ...]
    chose_epoch: bool

    @property
    def name(self) -> str:
        """What they are, in a sentence."""
        return "validation cases" if self.chose_epoch else "cases that were held out"


def decisions_of(
    config: RunConfig,
    classes: tuple[str, ...],
    trained: TrainingCases,
    held_out: HeldOut,
) -> tuple[tuple[Decision, ...], tuple[Threshold | None, ...]]:
    """Fit one decision for all classes, or one for each label of a multi-label model, with its threshold.

    Args:
        config: Its loss, sampling and head changed the class shares; its decision section says what to fit.
        classes: Names of the outputs.
        trained: The training cases.
        held_out: Cases that were never trained on.
    """
    labels, logits = held_out.labels, held_out.logits
    shifts = _shifts(config, classes, trained)
    counts = class_counts(trained.labels, num_classes=len(classes))
    many, outputs = labels.ndim == 2, [("", labels, logits, shifts[0], counts)]
    if many:
        whose = [f"{name}: " for name in classes]
        outputs = list(zip(whose, labels.T, label_logits(logits), shifts, counts, strict=True))
    decisions, thresholds = [], []
    for name, column, scores, shift, seen in outputs:
        calibration = _calibration(config, name, shift, _shares(seen), column, scores)
        probs = calibration.probabilities(scores)
        chosen = _threshold(config.decision, column, probs, name) if many or len(classes) == 2 else None
        decision = _decision(calibration, chosen, column, probs)
        decisions.append(_abstaining(decision, config.decision, held_out, column, probs, name))
        thresholds.append(chosen)
    return tuple(decisions), tuple(thresholds)


def refitted_decisions(
    rule: DecisionConfig, classes: tuple[str, ...], held_out: HeldOut
) -> tuple[tuple[Decision, ...], tuple[Threshold | None, ...]]:
    """Fit the decisions of a trained model anew on cases of another cohort, whose classes have other shares.

    ``auto`` is Platt's fit: one temperature cannot follow another prevalence. Nothing is fitted to fewer cases than
    ``fit_calibration`` asks for, and a threshold that cannot meet its rule is an error.

    Args:
        rule: What to fit; ``prior`` needs the training cases, and is refused.
        classes: Names of the outputs.
        held_out: The cases, on which the model was not trained.

    Raises:
        CohortError: If there are too few cases, of all or of a class.
        ConfigError: If a setting is not allowed, or the threshold's rule cannot be met.
    """
    method = "platt" if rule.calibration == "auto" else rule.calibration
    if method == "prior":
        msg = "decision.calibration must be auto, none, temperature, platt or isotonic; prior needs the training cases"
        raise ConfigError(msg)
    labels, logits = held_out.labels, held_out.logits
    many, outputs = labels.ndim == 2, [(labels, logits)]
    if many:
        outputs = list(zip(labels.T, label_logits(logits), strict=True))
    decisions, thresholds = [], []
    for k, (column, scores) in enumerate(outputs):
        whose, hint = f"{classes[k]}: " if many else "", None
        try:
            calibration = fit_calibration(scores, column, method=method)
            probs, chosen = calibration.probabilities(scores), None
            if many or len(classes) == 2:
                chosen = choose_threshold(column, probs[:, 1], rule=rule)
                _warn_of_few(column, whose)
            decision = _decision(calibration, chosen, column, probs)
            hint = "--decision.abstain none fits a model that decides every case"
            decisions.append(_with_abstaining(decision, rule, held_out, column, probs))
        except (CohortError, ConfigError) as exc:
            msg = f"{whose}{exc.message}"
            raise type(exc)(msg, hint=hint) from exc
        thresholds.append(chosen)
    return tuple(decisions), tuple(thresholds)


def _abstaining(
    decision: Decision,
    rule: DecisionConfig,
    held_out: HeldOut,
    labels: Int[np.ndarray, " n"],
    probs: Float[np.ndarray, "n c"],
    whose: str = "",
) -> Decision:
    """The decision with a band or sets; without, where they cannot be had: the training must not be lost."""
    try:
        return _with_abstaining(decision, rule, held_out, labels, probs)
    except (CohortError, ConfigError) as exc:
        if rule.abstain == "band" or not held_out.chose_epoch:  # a member of folds has no sets; its ensemble may
            _log.warning("warning: %s%s; the model decides every case", whose, exc)
        return replace(decision, abstains=f"never: {exc.message}")


def _with_abstaining(
    decision: Decision,
    rule: DecisionConfig,
    held_out: HeldOut,
    labels: Int[np.ndarray, " n"],
    probs: Float[np.ndarray, "n c"],
) -> Decision:
    """The decision with what ``decision.abstain`` asks for.

    Raises:
        CohortError: If there are too few patients, or too few cases would be decided.
        ConfigError: If it cannot be had of such cases or classes.
    """
    if rule.abstain == "none":
        return decision
    error, patients = rule.error, held_out.patients
    if rule.abstain == "band":
        if decision.threshold is None:
            msg = "decision.abstain must be none or sets for more than two classes, a band lies around a threshold"
            raise ConfigError(msg)
        at = decision.threshold
        band = choose_band(labels, probs[:, 1], threshold=at, error=error, coverage=rule.coverage, patients=patients)
        about = (
            f"undecided from {band.low:.3g} to {band.high:.3g}: at most {error:g} of each class is decided wrongly, "
        )
        about += f"{band.coverage:.0%} of the {held_out.name} were decided"
        return replace(decision, band=band, abstains=about)
    if held_out.chose_epoch:
        msg = "conformal sets need cases that did not choose the epoch, validation cases did"
        raise ConfigError(msg, hint="train folds, or hilum recalibrate on other cases")
    sets = fit_sets(labels, probs, error=error, patients=patients)
    if sets.singles < rule.coverage:
        msg = f"with an error of {error:g} {sets.singles:.0%} of the sets hold one class, must be {rule.coverage:.0%}"
        raise CohortError(msg)
    about = f"undecided where the conformal set holds not one class: {1 - error:g} of each class are covered, "
    about += f"{sets.singles:.0%} of the sets of {held_out.name} hold one"
    return replace(decision, sets=sets, abstains=about)


def _decision(
    calibration: Calibration, chosen: Threshold | None, labels: Int[np.ndarray, " n"], probs: Float[np.ndarray, "n c"]
) -> Decision:
    if chosen is None:
        return Decision(calibration=calibration, rule="the most probable class")
    points = choose_points(labels, probs[:, 1])
    return Decision(calibration=calibration, threshold=chosen.value, rule=chosen.rule, operating_points=points)


def _shares(counts: Int[np.ndarray, " c"]) -> tuple[float, ...]:
    return tuple((counts / counts.sum()).tolist())


def _shifts(config: RunConfig, classes: tuple[str, ...], trained: TrainingCases) -> list[tuple[float, ...] | None]:
    """Logit offsets, for the classes or for each label, that undo weights, sampling and logit adjustment.

    They leave what label smoothing does. None where no offsets can: if the loss is not smallest at the true
    probabilities, or more than the class shares was changed. Multi-label cases are sampled by their rarest label, which
    also changes how often labels occur together.
    """
    counts = np.atleast_2d(class_counts(trained.labels, num_classes=len(classes)))
    many, sampled = trained.labels.ndim == 2, config.sampling.method != "none"
    if config.loss.name not in AT_THE_PROBABILITY or config.head.retrain != "none" or (many and sampled):
        return [None] * len(counts)
    weights = weights_of(config, trained.labels, classes)
    factors = np.ones(counts.shape) if weights is None else np.atleast_2d(weights)
    tau = config.loss.tau if config.loss.name == "logit-adjusted" else 0.0
    if many:
        present = trained.counted @ trained.labels
        drawn = np.stack([trained.counted.sum() - present, present], axis=1)
    else:
        drawn = np.bincount(trained.labels, weights=trained.counted, minlength=len(classes))[None]
    return [
        prior_bias(n.tolist(), weights=w.tolist(), draws=r.tolist(), tau=tau)
        for n, w, r in zip(counts, factors, drawn, strict=True)
    ]


def _calibration(
    config: RunConfig,
    whose: str,
    shift: tuple[float, ...] | None,
    shares: tuple[float, ...],
    labels: Int[np.ndarray, " n"],
    logits: Float[np.ndarray, "n c"],
) -> Calibration:
    """Fit the calibration of the settings; with too few validation cases, use the analytic offsets where they hold."""
    smoothing, shifted = config.loss.label_smoothing > 0, shift is None or max(map(abs, shift)) > 1e-9
    moves = shifted or smoothing  # else the network's own probabilities are the cohort's
    method = config.decision.calibration
    wanted = ("platt" if moves else "temperature") if method == "auto" else method
    why = ""
    if wanted != "none" and wanted != "prior":
        try:
            return fit_calibration(logits, labels, method=wanted)
        except CohortError as exc:
            why = f", for {exc}"
            if moves or method != "auto":
                _log.warning("warning: %s%s", whose, exc)
    if shift is not None and wanted != "none":
        why = ", which leaves label smoothing" * smoothing + why
        if not shifted:
            return Calibration(prevalence=shares, rule=f"none{why}")
        rule = f"offsets that undo weights and sampling (no fit){why}"
        return Calibration(method="prior", bias=shift, prevalence=shares, rule=rule)
    return Calibration(prevalence=() if moves else shares, rule=f"none{why}")


def _threshold(
    rule: DecisionConfig, labels: Int[np.ndarray, " n"], probs: Float[np.ndarray, "n 2"], whose: str = ""
) -> Threshold:
    _warn_of_few(labels, whose)
    try:
        return choose_threshold(labels, probs[:, 1], rule=rule)
    except ConfigError as exc:  # validation cannot meet the rule, but the training must not be lost
        chosen = choose_threshold(labels, probs[:, 1], rule=DecisionConfig(rule="youden"))
        _log.warning("warning: %s%s; the threshold is that of largest sensitivity + specificity", whose, exc)
        return replace(chosen, rule=f"{chosen.rule}, for {exc}")


def _warn_of_few(labels: Int[np.ndarray, " n"], whose: str) -> None:
    positives = int((labels == 1).sum())
    if positives < _FIRM:
        cases = f"{positives} validation case{'s' * (positives > 1)}"
        _log.warning("warning: %sthe threshold was chosen from %s of the positive class: unreliable", whose, cases)
