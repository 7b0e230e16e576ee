"""What a trained model says about itself: its temperature and threshold from validation, and how it was trained."""

import logging
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hilum.cohorts.prepared import PreparedCohort
from hilum.config import DecisionConfig, RunConfig
from hilum.configfile import to_dict
from hilum.errors import ConfigError
from hilum.measuring.calibration import probabilities
from hilum.measuring.fitting import fit_temperature
from hilum.measuring.metrics import multiclass_accuracy, roc_auc
from hilum.measuring.thresholds import choose_threshold
from hilum.predicting.model import ModelCard
from hilum.predicting.tta import Views

_log = logging.getLogger("hilum")

_FEW = 30
"""Fewer validation cases than this cannot tell a temperature; the logits are left as they are."""


def model_card(
    config: RunConfig,
    prepared: PreparedCohort,
    parts: dict[str, str],
    classes: tuple[str, ...],
    validated: tuple[Int[np.ndarray, " n"], Float[np.ndarray, "n c"]],
    views: Views | None,
    about: dict[str, Any],
) -> ModelCard:
    """What the model folder says about itself.

    Args:
        config: All settings; those of the table and of paths are left out.
        prepared: The cases.
        parts: Part of each case, by its id.
        classes: Class names.
        validated: Labels and logits of the validation part, which choose temperature and threshold.
        views: With which they were seen.
        about: The epoch whose weights were kept, and from what file's weights the training began.
    """
    labels, logits = validated
    temperature = fit_temperature(logits, labels) if len(labels) >= _FEW else 1.0
    probs = probabilities(logits, temperature=temperature)
    validation = {"accuracy": multiclass_accuracy(labels, probs)}
    threshold, rule = None, "the most probable class"
    if len(classes) == 2:
        try:
            chosen = choose_threshold(labels, probs[:, 1], rule=config.decision)
            rule = chosen.rule
        except ConfigError as exc:  # only now is it known what validation can meet: the training must not be lost
            chosen = choose_threshold(labels, probs[:, 1], rule=DecisionConfig(rule="youden"))
            rule = f"{chosen.rule}, for {exc}"
            _log.warning("warning: %s; the threshold is that of largest sensitivity + specificity", exc)
        threshold = chosen.value
        validation |= {
            "auc": roc_auc(labels, probs[:, 1]),
            "sensitivity": chosen.sensitivity,
            "specificity": chosen.specificity,
        }
    settings = {
        k: v
        for k, v in to_dict(config).items()
        if k not in ("cohort", "store", "store_gb", "reading", "recipe", "model")
    }
    del settings["training"]["weights"]
    return ModelCard(
        model=config.model,
        recipe=config.recipe.in_numbers,
        reading=config.reading,
        classes=classes,
        views=views,
        temperature=temperature,
        threshold=threshold,
        threshold_rule=rule,
        training={
            **about,
            "counts": {part: _counts(prepared, parts, classes, part) for part in ("train", "val", "test")},
            "validation": validation,
            "settings": settings,
        },
    )


def _counts(prepared: PreparedCohort, parts: dict[str, str], classes: tuple[str, ...], part: str) -> dict[str, int]:
    cases = [case for case in prepared.cases if parts[case.case_id] == part]
    by_class = {f"class {name}": sum(case.label == k for case in cases) for k, name in enumerate(classes)}
    return {"cases": len(cases), "patients": len({case.patient_id for case in cases}), **by_class}
