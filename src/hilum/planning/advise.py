"""What is advised about the rare classes of a table, from the loss to the threshold, each with its reason."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hilum.cohorts.splits import check_classes
from hilum.cohorts.table import Cohort
from hilum.planning.classes import FEW, ClassTable, class_table
from hilum.planning.evidence import EVIDENCE, Evidence, in_words, near_to
from hilum.settings.imbalance import OF_THE_BATCH, LossName, WeightsName
from hilum.settings.run import DecisionConfig, HeadConfig, LossConfig, RunConfig, SamplingConfig, SplitConfig

_RULE: tuple[tuple[float, str, tuple[tuple[LossName, WeightsName], ...]], ...] = (
    (0.1, "has under 10 %", (("focal", "effective"), ("combined", "none"))),
    (0.3, "has 10 to 30 %", (("cross-entropy", "inverse"),)),
    (math.inf, "has 30 % or more", ()),
)
"""The tutorial's rule of thumb: below which share of the rarest class which losses, the simplest first."""

_VERDICTS = {
    "better": "so it supports the rule",
    "worse": "so it contradicts the rule",
    "cannot tell": "so it cannot tell",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A loss and why.

    Attributes:
        loss: With its class weights.
        reason: One sentence.
    """

    loss: LossConfig
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """What is advised for a cohort.

    Attributes:
        table: Its classes.
        loss: With its class weights.
        sampling: How often cases are drawn.
        head: The second stage.
        decision: Calibration and threshold.
        instead: A loss to take instead of it, where recall comes first.
        reasons: A sentence for each of loss, sampling, second stage, calibration and threshold.
        warnings: What the cohort does not allow.
        evidence: What was measured near its share of the rarest class, each method once.
    """

    table: ClassTable
    loss: LossConfig
    sampling: SamplingConfig
    head: HeadConfig
    decision: DecisionConfig
    instead: LossConfig | None
    reasons: dict[str, str]
    warnings: tuple[str, ...]
    evidence: tuple[Evidence, ...]

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """The sections of a config that say all of it."""
        decision: dict[str, Any] = {"calibration": self.decision.calibration}
        if self.table.has_thresholds:
            at = {"at": self.decision.at} if self.decision.rule == "sensitivity" else {}
            decision = {"rule": self.decision.rule, **at, **decision}
        return {
            "loss": {"name": self.loss.name, "class_weights": self.loss.class_weights},
            "sampling": {"method": self.sampling.method},
            "head": {"retrain": self.head.retrain},
            "decision": decision,
        }


def advise(
    cohort: Cohort,
    split: SplitConfig | None = None,
    *,
    recall_first: bool = False,
    evidence: Sequence[Evidence] | None = None,
) -> Advice:
    """Advise on the rare classes of a table; no scan is read.

    Args:
        cohort: Labelled cases.
        split: Says how many patients validate and test, where the table does not.
        recall_first: A missed case is worse than a false alarm.
        evidence: What was measured; without it ``EVIDENCE``.

    Raises:
        CohortError: If the cases are of one class, or all or none have a finding.
    """
    check_classes(cohort)
    table = class_table(cohort, split)
    near = near_to(EVIDENCE if evidence is None else evidence, table.rarest.share)
    choice = choose_loss(table, RunConfig(), evidence)
    plain = (choice.loss.name, choice.loss.class_weights) == ("cross-entropy", "none")
    decision = DecisionConfig(
        rule="sensitivity" if recall_first and table.has_thresholds else "youden",
        at=0.9,
        calibration="temperature" if plain else "platt",
    )
    reasons = {
        "loss": choice.reason,
        "sampling": "none: repeating the cases of few patients shows no new patient, leaving cases out loses some"
        + "; it would take a case for the rarest finding that it has (drawn as)" * table.multi_label,
        "second stage": "none: balanced or synthetic features of few patients show no new patient either",
        "calibration": "temperature: what was not weighted keeps the shares of the classes and is at most too sure"
        if plain
        else "platt: this loss shifts the probability of rare classes, which a temperature cannot undo",
        "threshold": _threshold(table, decision),
    } | ({"recall first": _recall_first(table)} if recall_first else {})
    for name, kind in (("sampling", "sampling"), ("second stage", "retrain")):
        found = [one for one in near if getattr(one, kind) != "none"]
        reasons[name] += f"; AUC measured beside cross entropy: {'; '.join(map(str, found))}" if found else ""
    return Advice(
        table=table,
        loss=choice.loss,
        sampling=SamplingConfig(),
        head=HeadConfig(),
        decision=decision,
        instead=LossConfig(name="tversky") if decision.rule == "sensitivity" else None,
        reasons=reasons,
        warnings=table.warnings(),
        evidence=near,
    )


def choose_loss(table: ClassTable, config: RunConfig, evidence: Sequence[Evidence] | None = None) -> Choice:
    """The loss for a table, by the tutorial's rule where what was measured does not say otherwise.

    Of the losses that the rule names, the first that was measured to be better than cross entropy without weights is
    taken; where none of them was measured near this share, the first; else cross entropy, the simplest.

    Args:
        table: The rarest of its classes decides.
        config: Sampling and second stage: where cases are drawn alike, nothing is weighted as well. A class_weights
            other than auto is kept, and so are the other figures of the loss. With a micro batch there is no loss
            that needs a whole batch.
        evidence: What was measured; without it ``EVIDENCE``.
    """
    plain = _made(config.loss, "cross-entropy", "none")
    for what, how in (("sampling.method", config.sampling.method), ("head.retrain", config.head.retrain)):
        if how != "none":
            reason = f"{_of(plain)}: {what} = {how} already answers the rare class, and nothing should answer it twice"
            return Choice(loss=plain, reason=reason)
    share = table.rarest.share
    where, named = next((words, losses) for bound, words, losses in _RULE if share < bound)
    near = {one.method: one for one in near_to(EVIDENCE if evidence is None else evidence, share)}
    losses = [_made(config.loss, *one) for one in named]
    measured = [(loss, near.get((loss.name, loss.class_weights, "none", "none"))) for loss in losses if loss != plain]
    possible = [one for one in measured if not (config.training.micro_batch and one[0].name in OF_THE_BATCH)]
    best = _first(measured, plain)
    loss = best if best == plain or best in [one for one, _ in possible] else _first(possible, plain)
    says = " or ".join(map(_of, losses)) or "nothing"
    simplest = "" if loss in losses or not losses else ", the simplest"
    said = [f"{_of(loss)}{simplest}: {table.share_of_rarest}; where the rarest {where} the tutorial's rule says {says}"]
    found = [one for _, one in measured if one]
    for place in dict.fromkeys(one.place for one in found):
        judged = "; ".join(f"{one}, {_VERDICTS[one.verdict]}" for one in found if one.place == place)
        said.append(f"measured {place}, AUC beside cross entropy without weights: {judged}")
    if found and not table.is_binary:
        said.append(f"that was of two classes, here are {len(table.rows)} {table.plural}")
    if measured and not found:
        said.append("nothing was measured near that share")
    if best != loss:
        said.append(f"{_of(best)} needs whole batches, but training.micro_batch is {config.training.micro_batch}")
    if config.loss.class_weights != "auto":
        said.append(f"class_weights = {config.loss.class_weights}, as given")
    return Choice(loss=loss, reason="; ".join(said))


def _first(measured: list[tuple[LossConfig, Evidence | None]], plain: LossConfig) -> LossConfig:
    """The first that was measured to be better; the first of the rule where none was measured; else plain."""
    if not measured:
        return plain
    better = [loss for loss, one in measured if one and one.verdict == "better"]
    unknown = [] if any(one for _, one in measured) else [loss for loss, _ in measured]
    return [*better, *unknown, plain][0]


def _made(given: LossConfig, name: LossName, weights: WeightsName) -> LossConfig:
    return replace(given, name=name, class_weights=weights if given.class_weights == "auto" else given.class_weights)


def _of(loss: LossConfig) -> str:
    return in_words(loss.name, loss.class_weights)


def _threshold(table: ClassTable, decision: DecisionConfig) -> str:
    if not table.has_thresholds:
        return "none: of more than two classes the most probable one is decided"
    row = table.rarest
    many = "s" * (row.val_patients != 1)
    firm = ", too few for it to be firm" if row.val_patients < FEW else ""
    what = {
        "youden": "youden: the largest sensitivity + specificity",
        "sensitivity": f"sensitivity: the highest specificity at a sensitivity of {decision.at:g} or more",
    }[decision.rule]
    said = f"{what}, on about {row.val_patients} validation patient{many} of {row.rare}{firm}"
    if table.is_binary and row is table.rows[0]:
        first, second = table.rows[0].name, table.rows[1].name
        said += (
            f'; sensitivity is of the second class, {second}: for {first} set cohort.classes = ["{second}", "{first}"]'
        )
    return said


def _recall_first(table: ClassTable) -> str:
    dice = "not Dice, which the tutorial takes: it follows F1, to which a false alarm is as bad as a miss"
    if table.has_thresholds:
        return f"by the threshold, and {dice}"
    return f"{dice}; a threshold would do, but not of more than two classes: ask for findings, or for two classes"
