"""What a model says of a scan, as a page shows it: probabilities, the decision and its reasons in words."""

from dataclasses import dataclass

from hilum.cohorts.cells import NO_RESULT, UNDECIDED
from hilum.deciding.decision import Decisions
from hilum.deciding.decision_words import decision_notes
from hilum.deciding.model_folder import ModelCard
from hilum.predicting.predictor import Prediction


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """The probability of an output on its scale from 0 to 1.

    Attributes:
        name: The class or label.
        p: Its probability.
        spread: Standard deviation over the members of an ensemble; None for one network.
        threshold: Smallest probability that is positive; None: there is none.
        band: Ends of the band in which the model is undecided; None: there is none.
        members: Conformal set; None: there is none.
        notes: Sentences about threshold, band, set and calibration.
    """

    name: str
    p: float
    spread: float | None
    threshold: float | None
    band: tuple[float, float] | None
    members: tuple[str, ...] | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a model says of a scan.

    Attributes:
        decision: As ``hilum predict`` prints it.
        kind: ``decided``, ``no-result`` or ``undecided``.
        meaning: What that means, in sentences.
        scales: A scale for the second of two classes, each of more classes, or each label; none without a result.
        others: Name and probability of the first of two classes; else empty.
        version: Version of Hilum that made the model.
    """

    decision: str
    kind: str
    meaning: str
    scales: tuple[Scale, ...]
    others: tuple[tuple[str, float], ...]
    version: str


def answer_of(prediction: Prediction, card: ModelCard) -> Answer:
    """What a model says of a scan."""
    decisions, p = card.decisions, prediction.probabilities
    pairs = len(card.classes) == 2 and not decisions.multi_label
    has_result = prediction.outcome.kind != NO_RESULT
    shown = (card.classes[1:] if pairs else card.classes) if has_result else ()
    return Answer(
        decision=prediction.decision,
        kind=prediction.outcome.kind,
        meaning=meaning_of(prediction.outcome.kind, prediction.outcome.reason),
        scales=tuple(_scale(name, k, prediction, decisions) for k, name in enumerate(shown)),
        others=((card.classes[0], p[card.classes[0]]),) if pairs and has_result else (),
        version=card.version,
    )


def meaning_of(kind: str, reason: str) -> str:
    """What an outcome means, in sentences.

    Args:
        kind: ``decided``, ``no-result`` or ``undecided``.
        reason: Why there is no decision; empty if there is one.
    """
    if kind == NO_RESULT:
        return (
            f"The model has no result for this scan, because {reason}. This is not a negative result: it says "
            "nothing about disease. No probability and no map is shown, for they would mean nothing."
        )
    if kind == UNDECIDED:
        return (
            f"The model does not decide this scan: {reason}. This is not a negative result. The probability lies where "
            "the model was wrong too often on other patients."
        )
    return "The decision compares the probability with the model's frozen threshold. It is no diagnosis."


def _scale(name: str, k: int, prediction: Prediction, decisions: Decisions) -> Scale:
    many = decisions.multi_label
    one = decisions.each[k if many else 0]
    threshold = one.threshold if one.threshold is not None or not many else 0.5
    has_cut = many or len(decisions.classes) == 2
    band = None
    if one.band is not None and one.band.low <= one.band.high:
        band = (one.band.low, one.band.high)
    return Scale(
        name=name,
        p=prediction.probabilities[name],
        spread=prediction.spread.get(name),
        threshold=threshold if has_cut and one.sets is None else None,
        band=band,
        members=prediction.sets.get(name if many else "classes"),
        notes=tuple(decision_notes(decisions, k if many else 0)),
    )
