"""What a decision rests on, in sentences: threshold, band, calibration and prevalence, the same wherever shown."""

from hilum.deciding.decision import Decisions


def decision_notes(decisions: Decisions, output: int = 0) -> list[str]:
    """Sentences about how an output is decided and calibrated.

    Args:
        decisions: The decisions of a model.
        output: Number of a label, of a model with several; else 0.
    """
    one = decisions.each[output]
    has_cut = decisions.multi_label or len(decisions.classes) == 2
    notes = []
    if one.sets is None and has_cut and one.threshold is not None:
        notes.append(f"Threshold {shown_probability(one.threshold)}: {one.rule or 'its rule is unknown'}.")
    elif one.sets is None and has_cut:
        notes.append("No threshold was chosen: 0.5 decides.")
    elif one.sets is None:
        notes.append("The most probable class is decided.")
    if one.band is not None and one.band.low <= one.band.high:
        low, high = shown_probability(one.band.low), shown_probability(one.band.high)
        notes.append(f"Undecided from {low} to {high}.")
    if one.abstains:
        notes.append(f"Abstaining: {one.abstains}.")
    notes.append(f"Calibration ({one.calibration.method}): {one.calibration.rule}.")
    shares = one.calibration.prevalence
    if shares and (decisions.multi_label or len(shares) == 2):
        notes.append(
            f"The probability is meant for cases of which {_percent(shares[-1])} have it; elsewhere it is off."
        )
    elif shares:
        names = ", ".join(f"{_percent(share)} {name}" for share, name in zip(shares, decisions.classes, strict=True))
        notes.append(f"The probabilities are meant for cases of which {names}; elsewhere they are off.")
    else:
        notes.append("The share of cases for which the probability is meant is unknown.")
    return notes


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def shown_probability(p: float) -> str:
    """A probability with three decimals, below 0.01 with three digits."""
    return f"{p:.3f}" if p >= 0.01 or p == 0 else f"{p:.3g}"
