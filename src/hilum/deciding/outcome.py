"""Whether a case gets a decision, and the codes of why not: the same wherever a result is shown."""

from dataclasses import dataclass
from typing import Literal

from hilum.cohorts.cells import NO_RESULT, UNDECIDED
from hilum.deciding.gate import Gate
from hilum.findings import Finding
from hilum.settings.recipe import Recipe
from hilum.volume import Volume

DECIDED: Literal["decided"] = "decided"

UNCERTAIN = "uncertain"
"""Code of a case that is undecided: its probability lies in the band, or its conformal set holds not one class."""

_DOUBT_OF_PLACE = ("point-interpolated",)
_DOUBT = (*_DOUBT_OF_PLACE, "lungs-volume", "lungs-cut", "lungs-parts", "lungs-share", "lungs-bright")
"""Findings without a result; those of the lungs only if the region is a part of the lungs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Whether a case gets a decision.

    Attributes:
        kind: ``decided``; ``no-result``: the scan is none that the model answers for; ``undecided``: it does not
            know. Neither is negative.
        codes: Codes of the findings behind it, or ``uncertain``.
        reason: The same in words; empty if decided.
    """

    kind: Literal["decided", "no-result", "undecided"] = DECIDED
    codes: tuple[str, ...] = ()
    reason: str = ""


def outcome_of(
    sample: Volume, recipe: Recipe, gate: Gate | None, unseen: tuple[Finding, ...], *, is_undecided: bool
) -> Outcome:
    """The outcome of a case.

    Args:
        sample: Its prepared sample, with the findings of reading and preparing.
        recipe: The model's input.
        gate: The model's gate; None: it has none.
        unseen: Findings of the gate.
        is_undecided: Whether the probability, or that of any label, lies where the model abstains.
    """
    doubtful = _DOUBT if recipe.part else _DOUBT_OF_PLACE
    found = [finding for finding in sample.findings if finding.code in doubtful]
    if gate is not None and gate.policy == NO_RESULT:
        found += unseen
    if found:
        codes = tuple(dict.fromkeys(finding.code for finding in found))
        return Outcome(kind=NO_RESULT, codes=codes, reason="; ".join(finding.message for finding in found))
    if is_undecided:
        return Outcome(kind=UNDECIDED, codes=(UNCERTAIN,), reason="the model is not certain enough")
    return Outcome()
