"""Fills in the card of a trained model (``deciding.model_folder.ModelCard``)."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hilum.cohorts.dataset import SplitCohort
from hilum.cohorts.labels import Labels
from hilum.cohorts.table import PARTS, Case
from hilum.deciding.decision import Decisions
from hilum.deciding.fit_decisions import HeldOut, TrainingCases, decisions_of
from hilum.deciding.model_folder import ModelCard
from hilum.deciding.tta import Views
from hilum.measuring.metrics import confusion, multiclass_accuracy, roc_auc
from hilum.measuring.thresholds import Threshold
from hilum.settings.run import RunConfig
from hilum.settings.toml import to_dict


def model_card(
    config: RunConfig,
    data: SplitCohort,
    trained: TrainingCases,
    held_out: HeldOut,
    views: Views | None,
    about: dict[str, Any],
) -> ModelCard:
    """Make the card of a model, fitting calibration and thresholds.

    Args:
        config: All settings; the table and paths are left out of the card.
        data: The cases and their parts.
        trained: The training cases.
        held_out: The cases on which calibration and thresholds are fitted.
        views: Test-time augmentation with which they were predicted.
        about: What is told of this kind of model: the digest of the split, the kept epoch, the members.
    """
    cohort = data.cohort
    each, chosen = decisions_of(config, cohort.classes, trained, held_out)
    decisions = Decisions(classes=cohort.classes, multi_label=cohort.multi_label, each=each)
    return ModelCard(
        model=config.model,
        recipe=config.recipe.in_numbers,
        reading=config.reading,
        decisions=decisions,
        views=views,
        training={
            **about,
            **({"leakage": data.leakage} if data.leakage else {}),
            "counts": _counts(data),
            "validation": validation_figures(decisions, held_out.labels, held_out.logits, chosen),
            "statements": to_dict(config.card),
            "settings": _settings(config),
        },
    )


def validation_figures(
    decisions: Decisions, labels: Labels, logits: Float[np.ndarray, "n c"], chosen: tuple[Threshold | None, ...]
) -> dict[str, Any]:
    """Accuracy and, for two classes or for each label, AUC, and sensitivity and specificity at the threshold.

    Args:
        decisions: What was fitted on the cases.
        labels: Their labels.
        logits: Their logits.
        chosen: The thresholds as they were chosen.
    """
    probs = decisions.probabilities(logits)
    if decisions.multi_label:
        triples = zip(decisions.classes, labels.T, probs.T, chosen, strict=True)
        return {name: _binary_figures(y, p, at) for name, y, p, at in triples if at is not None}
    accuracy = {"accuracy": multiclass_accuracy(labels, probs)}
    return accuracy if chosen[0] is None else accuracy | _binary_figures(labels, probs[:, 1], chosen[0])


def figures_of(
    labels: Labels, probs: Float[np.ndarray, "n c"], decided: Labels, decisions: Decisions
) -> dict[str, Any]:
    """The same of cases that others have decided: those of each fold by the fits on the other folds.

    Sensitivity, specificity and accuracy are those of the decided cases, None without any; -1 is no decision.
    """
    if decisions.multi_label:
        triples = zip(decisions.classes, labels.T, probs.T, decided.T, strict=True)
        return {name: _called_figures(y, p, called) for name, y, p, called in triples}
    right = (decided == labels)[decided >= 0]
    accuracy = {"accuracy": float(right.mean()) if len(right) else None}
    return accuracy if len(decisions.classes) > 2 else accuracy | _called_figures(labels, probs[:, 1], decided)


def _called_figures(
    labels: Int[np.ndarray, " n"], p: Float[np.ndarray, " n"], called: Int[np.ndarray, " n"]
) -> dict[str, float | None]:
    is_decided = called >= 0
    counts = confusion(labels[is_decided], called[is_decided])
    rates = {"sensitivity": float(counts.sensitivity), "specificity": float(counts.specificity)}
    known = {name: None if math.isnan(rate) else rate for name, rate in rates.items()}
    return {"auc": roc_auc(labels, p), **known}


def _binary_figures(labels: Int[np.ndarray, " n"], p: Float[np.ndarray, " n"], chosen: Threshold) -> dict[str, float]:
    return {"auc": roc_auc(labels, p), "sensitivity": chosen.sensitivity, "specificity": chosen.specificity}


def _settings(config: RunConfig) -> dict[str, Any]:
    """The settings that a card repeats: neither the table nor paths."""
    left_out = ("cohort", "store", "store_gb", "reading", "recipe", "model", "card")
    settings = {name: value for name, value in to_dict(config).items() if name not in left_out}
    del settings["training"]["weights"]
    return settings


def _counts(data: SplitCohort) -> dict[str, dict[str, int]]:
    """The counts of each part that there is: in a run of folds all cases are in one."""
    return {part: _counts_of(cases, data.cohort.classes) for part in PARTS if (cases := data.cases(part))}


def _counts_of(cases: Sequence[Case], classes: Sequence[str]) -> dict[str, int]:
    """Number of cases and patients, and of cases of each class."""
    having = [[k for k, is_there in case.sides if is_there] for case in cases]
    by_class = {f"class {name}": sum(k in one for one in having) for k, name in enumerate(classes)}
    return {"cases": len(cases), "patients": len({case.patient_id for case in cases}), **by_class}
