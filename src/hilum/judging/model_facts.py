"""What an evaluation says of the model and of the cases beside their figures."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hilum.cohorts.labels import Labels
from hilum.cohorts.prepared import PreparedCohort
from hilum.deciding.decision import Decisions
from hilum.deciding.model_folder import ModelCard
from hilum.measuring.bootstrap import wilson
from hilum.settings.toml import to_dict
from hilum.volume import Tags


def calibrated_at(decisions: Decisions) -> list[float | None]:
    """Prevalence at which the probabilities of the second of two classes, or of each class or label, are stated."""
    shares = [one.calibration.prevalence for one in decisions.each]
    if decisions.multi_label or len(decisions.classes) == 2:
        return [both[1] if both else None for both in shares]
    return list(shares[0]) or [None] * len(decisions.classes)


def case_columns(unseen: PreparedCohort) -> dict[str, list[str]]:
    """The table's further columns and the technical tags of the scans, as text; empty where missing."""
    tags = [unseen.tags.get(case.case_id, Tags()) for case in unseen.cases]
    columns = {
        "kernel": [one.kernel for one in tags],
        "manufacturer": [one.manufacturer for one in tags],
        "scanner model": [one.model for one in tags],
        "slice thickness, mm": ["" if one.thickness_mm is None else f"{one.thickness_mm:g}" for one in tags],
    }
    known = {name: texts for name, texts in columns.items() if any(texts)}
    return known | {name: [case.groups[name] for case in unseen.cases] for name in unseen.cases[0].groups}


def abstaining_facts(
    decisions: Decisions, labels: Labels, sets: Sequence[Mapping[str, Sequence[str]]], *, note: str = ""
) -> dict[str, dict[str, Any]]:
    """How the model abstains, by output; of conformal sets also what they cover of these cases, and how many decide.

    The coverage of each class has Wilson's interval, which takes the cases for independent.

    Args:
        decisions: Of the model.
        labels: Of the cases.
        sets: Conformal sets of each, as from ``Decisions.sets_of``; cases without any are left out.
        note: Said after each rule.
    """
    found: dict[str, dict[str, Any]] = {}
    for k, one in enumerate(decisions.each):
        if not one.abstains:
            continue
        key, classes = "classes", decisions.classes
        if decisions.multi_label:
            key, classes = decisions.classes[k], ("absent", "present")
        name = decisions.classes[1] if len(classes) == 2 and not decisions.multi_label else key
        truth = (labels[:, k] if decisions.multi_label else labels).tolist()
        found[name] = {"rule": f"{one.abstains}{note}"}
        known = [(classes[number], own[key]) for number, own in zip(truth, sets, strict=True) if key in own]
        if one.sets is not None and known:
            found[name] |= {
                "error": one.sets.error,
                "singles": float(np.mean([len(own) == 1 for _, own in known])),
                "covered": [_covered(c, [c in own for true, own in known if true == c]) for c in classes],
            }
    return found


def _covered(name: str, inside: Sequence[bool]) -> dict[str, Any]:
    if not inside:
        return {"class": name, "num_cases": 0, "share": None, "share_ci": [None, None]}
    share = sum(inside) / len(inside)
    return {"class": name, "num_cases": len(inside), "share": share, "share_ci": list(wilson(share, len(inside)))}


def about_model(card: ModelCard) -> dict[str, Any]:
    """What the report says of the model: network, input, decisions, training; no ids, paths or host."""
    training = {name: value for name, value in card.training.items() if name != "split"}
    return {
        "version": card.version,
        "network": to_dict(card.model),
        "recipe": to_dict(card.recipe),
        "decisions": to_dict(card.decisions),
        "gate": None if card.gate is None else to_dict(card.gate),
        "training": training,
    }
