"""What an evaluation says of the model and of the cases beside their figures."""

from typing import Any

from hilum.cohorts.prepared import PreparedCohort
from hilum.deciding.decision import Decisions
from hilum.deciding.model_folder import ModelCard
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


def about_model(card: ModelCard) -> dict[str, Any]:
    """What the report says of the model: network, input, decisions, training; no ids, paths or host."""
    training = {name: value for name, value in card.training.items() if name != "split"}
    return {
        "version": card.version,
        "network": to_dict(card.model),
        "recipe": to_dict(card.recipe),
        "decisions": to_dict(card.decisions),
        "training": training,
    }
