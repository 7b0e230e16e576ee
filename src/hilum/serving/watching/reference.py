"""What a model met in training, by which its results are watched; kept in the data base beside them."""

from dataclasses import dataclass, field
from typing import Any

from hilum.deciding.model_folder import ModelCard
from hilum.settings.recipe import Range


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingReference:
    """What a model met in training.

    Attributes:
        shares: Share of the cases of the training part that have each class or label; empty where it is unknown.
        ranges: Range of each fact that its gate accepts; empty without a gate.
        kernels: Kernels, sharp or soft; empty: unknown.
    """

    shares: dict[str, float] = field(default_factory=dict)
    ranges: dict[str, Range] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()


def training_reference(card: ModelCard, names: tuple[str, ...]) -> TrainingReference:
    """What a model met in training, as its card tells.

    Args:
        card: The card.
        names: Names of the outputs in training, in the order of the card's, which may have been renamed.
    """
    counts = _training_counts(card)
    cases = counts.get("cases", 0)
    shares = {}
    for now, then in zip(card.classes, names, strict=True):
        if cases and f"class {then}" in counts:
            shares[now] = counts[f"class {then}"] / cases
    gate = card.gate
    return TrainingReference(
        shares=shares,
        ranges=dict(gate.ranges) if gate is not None else {},
        kernels=gate.kernels if gate is not None else (),
    )


def _training_counts(card: ModelCard) -> dict[str, Any]:
    """Counts of the training part; of a run of folds, of all its cases."""
    counts = card.training.get("counts", {})
    found: Any = counts.get("train") or next(iter(counts.values()), {}) if isinstance(counts, dict) else {}
    return found if isinstance(found, dict) else {}
