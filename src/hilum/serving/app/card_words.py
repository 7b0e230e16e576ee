"""What the card of a model tells, as the sentences and tables of its page."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hilum.cohorts.cells import PARTS
from hilum.deciding.decision_words import decision_notes, shown_probability
from hilum.deciding.facts import FACTS
from hilum.deciding.gate import Gate
from hilum.deciding.model_folder import ModelCard
from hilum.measuring.operating_points import OperatingPoint
from hilum.serving.app.worker import ServedModel

_REGIONS = {
    "lungs": "the lungs",
    "lung-field": "the lung fields, dense disease included",
    "left": "the left lung",
    "right": "the right lung",
    "point": "the surroundings of a point that is given with each scan",
    "whole": "the whole scan",
}
_PARTS = dict(zip(PARTS, ("Training", "Validation", "Test (not used for the model)"), strict=True))
_FIGURES = {"auc": "ROC AUC", "sensitivity": "Sensitivity", "specificity": "Specificity", "accuracy": "Accuracy"}


@dataclass(frozen=True, slots=True, kw_only=True)
class WordTable:
    """A table of texts.

    Attributes:
        caption: What it shows.
        heads: Names of the columns.
        rows: Cells of each row; the first names it.
    """

    caption: str
    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionWords:
    """How an output is decided.

    Attributes:
        name: Of a label; empty where one decision is for all classes.
        notes: Sentences about threshold, band, sets and calibration.
        points: Further operating points; None: there are none.
    """

    name: str
    notes: tuple[str, ...]
    points: WordTable | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CardWords:
    """A card, ready to be shown.

    Attributes:
        question: What the model tells apart.
        statements: Intended use and origin of the labels.
        warnings: What must be known before its figures.
        decisions: How it decides.
        counts: Cases of each part; None: not known.
        validation: Figures on validation cases; None: not known.
        gate: Which scans get a result, in words.
        ranges: What the gate accepts; None: there is no gate.
        network: Input, network, version and digest.
    """

    question: str
    statements: tuple[tuple[str, str], ...]
    warnings: tuple[str, ...]
    decisions: tuple[DecisionWords, ...]
    counts: WordTable | None
    validation: WordTable | None
    gate: str
    ranges: WordTable | None
    network: tuple[tuple[str, str], ...]


def words_of(model: ServedModel) -> CardWords:
    """What the card of a model tells; a card need not say anything of its training."""
    card = model.card
    stated = _mapping(card.training.get("statements"))
    statements = {"Intended use": "intended_use", "Origin of the labels": "label_origin"}
    leakage = card.training.get("leakage")
    return CardWords(
        question=_question(card),
        statements=tuple((name, str(stated.get(key) or "not stated")) for name, key in statements.items()),
        warnings=(f"Training had leakage: {leakage}. Figures of this model flatter it.",) if leakage else (),
        decisions=_decisions(card),
        counts=_counts(card),
        validation=_validation(card),
        gate=_gate_words(card.gate),
        ranges=None if card.gate is None else _ranges(card.gate),
        network=_network(model),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _question(card: ModelCard) -> str:
    names = ", ".join(card.classes)
    if card.decisions.multi_label:
        return f"Says of each of these labels whether it is present: {names}."
    return f"Decides between the classes {names}."


def _decisions(card: ModelCard) -> tuple[DecisionWords, ...]:
    decisions = card.decisions
    return tuple(
        DecisionWords(
            name=decisions.classes[k] if decisions.multi_label else "",
            notes=tuple(decision_notes(decisions, k)),
            points=_points(one.operating_points),
        )
        for k, one in enumerate(decisions.each)
    )


def _points(points: tuple[OperatingPoint, ...]) -> WordTable | None:
    rows = tuple(
        (f"{one.rule} of at least {one.at:g}", shown_probability(one.threshold))
        for one in points
        if one.threshold is not None
    )
    caption = "Thresholds for other demands, on validation cases; they decide nothing"
    return WordTable(caption=caption, heads=("Demand", "Threshold"), rows=rows) if rows else None


def _counts(card: ModelCard) -> WordTable | None:
    parts = {part: _mapping(one) for part, one in _mapping(card.training.get("counts")).items() if part in PARTS}
    if not parts:
        return None
    heads = ("Part", "Patients", "Cases", *card.classes)
    rows = []
    for part, counts in parts.items():
        by_class = [str(number) for name, number in counts.items() if str(name).startswith("class ")]
        by_class = by_class if len(by_class) == len(card.classes) else ["not known"] * len(card.classes)
        both = (str(counts.get(name, "not known")) for name in ("patients", "cases"))
        rows.append((_PARTS[part], *both, *by_class))
    return WordTable(caption="Patients and cases of each part, and cases by class", heads=heads, rows=tuple(rows))


def _validation(card: ModelCard) -> WordTable | None:
    found = _mapping(card.training.get("validation"))
    each = [_mapping(one) for one in found.values()] if card.decisions.multi_label else [found]
    names = [name for name in _FIGURES if any(name in one for one in each)]
    if not names or len(each) != (len(card.classes) if card.decisions.multi_label else 1):
        return None
    columns = card.classes if card.decisions.multi_label else ("Value",)
    rows = tuple((_FIGURES[name], *(_figure(one.get(name)) for one in each)) for name in names)
    return WordTable(caption="Figures on validation cases", heads=("Figure", *columns), rows=rows)


def _figure(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "not defined"


def _gate_words(gate: Gate | None) -> str:
    if gate is None:
        return "The model has no gate: it predicts every scan that can be read and prepared, however unlike training."
    outside = "gets no result" if gate.policy == "no-result" else "gets its prediction, with a finding"
    return f"A scan unlike those of training {outside}." + (f" The gate {gate.rule}." if gate.rule else "")


def _ranges(gate: Gate) -> WordTable:
    rows = [
        (_capital(FACTS[name].words.removeprefix("the ")), f"{low:.4g}", f"{high:.4g}", FACTS[name].unit)
        for name, (low, high) in gate.ranges.items()
    ]
    if gate.kernels:
        rows.append(("Kernel", " or ".join(gate.kernels), "", ""))
    if gate.limit is not None:
        rows.append(("Distance of the features from training", "0", f"{gate.limit:.3g}", ""))
    return WordTable(caption="What the gate accepts", heads=("Fact", "From", "To", "Unit"), rows=tuple(rows))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _network(model: ServedModel) -> tuple[tuple[str, str], ...]:
    card, recipe = model.card, model.card.recipe
    size = " x ".join(map(str, recipe.size))
    distance = ", fitted to each scan"
    if recipe.fit == "fixed":
        distance = f", {' x '.join(f'{mm:.3g}' for mm in recipe.grid_spacing_mm)} mm apart"
    windows = "; ".join(one if isinstance(one, str) else f"{one[0]:g} to {one[1]:g} HU" for one in recipe.windows_hu)
    count = len(card.members)
    network = f"3D ResNet-{card.model.depth}, width {card.model.width}"
    rows = [
        ("Region", _REGIONS[recipe.region]),
        ("Grid (z, y, x)", f"{size} voxels{distance}"),
        ("Windows", windows),
        ("Network", f"an ensemble of {count}; the first: {network}" if count else network),
    ]
    if card.views is not None:
        rows.append(("Test-time augmentation", f"mean over the scan and {card.views.count} moved copies"))
    epoch = card.training.get("epoch")
    if epoch is not None:
        rows.append(("Kept epoch", str(epoch)))
    return (*rows, ("Made by", f"Hilum {card.version or 'of an unknown version'}"), ("SHA-256", model.digest))
