"""Advice on the rare classes of a table, from the loss to the threshold, each with its reason."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from hilum.cohorts.splits import check_classes
from hilum.cohorts.table import Cohort
from hilum.planning.classes import FEW, ClassTable, class_table
from hilum.planning.evidence import EVIDENCE, Evidence, describe_loss, near_to
from hilum.settings.imbalance import OF_THE_BATCH, LossName, WeightsName
from hilum.settings.run import DecisionConfig, HeadConfig, LossConfig, RunConfig, SamplingConfig, SplitConfig

_RULE: tuple[tuple[float, str, tuple[tuple[LossName, WeightsName], ...]], ...] = (
    (0.1, "has under 10 %", (("focal", "effective"), ("combined", "none"))),
    (0.3, "has 10 to 30 %", (("cross-entropy", "inverse"),)),
    (math.inf, "has 30 % or more", ()),
)
"""The tutorial's rule of thumb: an upper bound of the rarest class's share, and its losses, the simplest first."""

_VERDICTS = {
    "better": "so it supports the rule",
    "worse": "so it contradicts the rule",
    "cannot tell": "so it cannot tell",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossChoice:
    """A loss and the reason for it.

    Attributes:
        loss: The loss, with its class weights.
        reason: One sentence.
    """

    loss: LossConfig
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """The advice for a cohort.

    Attributes:
        table: Counts of each class of the cohort.
        loss: The loss, with its class weights.
        sampling: Sampling of the cases in an epoch.
        head: Settings of the second training stage, which refits the last layer.
        decision: Calibration and threshold.
        alternative: Another loss, if training itself should favour recall.
        reasons: A sentence for each of loss, sampling, second stage, calibration and threshold.
        warnings: Conclusions that the cohort is too small for.
        evidence: Measurements near its share of the rarest class, one for each method.
    """

    table: ClassTable
    loss: LossConfig
    sampling: SamplingConfig
    head: HeadConfig
    decision: DecisionConfig
    alternative: LossConfig | None
    reasons: dict[str, str]
    warnings: tuple[str, ...]
    evidence: tuple[Evidence, ...]

    @property
    def sections(self) -> dict[str, dict[str, Any]]:
        """The sections of a config that follow the advice."""
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
        split: Shares of validation and test patients, where the table has no split.
        recall_first: A missed case is worse than a false alarm.
        evidence: Measurements; None: ``EVIDENCE``.

    Raises:
        CohortError: If all cases are of one class, or no case or every case has a label.
    """
    check_classes(cohort)
    table = class_table(cohort, split)
    near = near_to(EVIDENCE if evidence is None else evidence, table.rarest.share)
    choice = choose_loss(table, RunConfig(), evidence)
    decision = DecisionConfig(
        rule="sensitivity" if recall_first and table.has_thresholds else "youden",
        at=0.9,
        calibration="platt",
    )
    reasons = {
        "loss": choice.reason,
        "sampling": "none: repeating the cases of few patients shows no new patient, leaving cases out loses some",
        "second stage": "none: balanced or synthetic features of few patients show no new patient either",
        "calibration": "platt: smoothed labels and weighted classes move the probability of rare classes, which one "
        "temperature cannot undo",
        "threshold": _threshold(table, decision),
    }
    if table.multi_label:
        reasons["sampling"] += "; it would count a case for the rarest label that it has (sampled)"
    if recall_first:
        reasons["recall first"] = _recall_first(table)
    for name, setting in (("sampling", "sampling"), ("second stage", "retrain")):
        found = [str(one) for one in near if getattr(one, setting) != "none"]
        if found:
            reasons[name] += f"; AUC measured beside cross entropy: {'; '.join(found)}"
    return Advice(
        table=table,
        loss=choice.loss,
        sampling=SamplingConfig(),
        head=HeadConfig(),
        decision=decision,
        alternative=LossConfig(name="tversky") if decision.rule == "sensitivity" else None,
        reasons=reasons,
        warnings=table.warnings(),
        evidence=near,
    )


def choose_loss(table: ClassTable, config: RunConfig, evidence: Sequence[Evidence] | None = None) -> LossChoice:
    """Choose the loss for a table by the tutorial's rule, unless measurements contradict it.

    Of the losses that the rule names, the first that was measured to be better than cross entropy without weights is
    taken. If none of them was measured near this share, the first is taken; else cross entropy, the simplest.

    Args:
        table: Its rarest class decides.
        config: All settings; with sampling or a second stage the loss is not weighted. Class weights other than auto
            and the other numbers of the loss are kept. With a micro batch no loss is chosen that needs a whole batch.
        evidence: Measurements; None: ``EVIDENCE``.
    """
    plain = _loss_config(config.loss, "cross-entropy", "none")
    for setting, value in (("sampling.method", config.sampling.method), ("head.retrain", config.head.retrain)):
        if value != "none":
            reason = f"{_name(plain)}: {setting} = {value} already answers the rare class, one answer is enough"
            return LossChoice(loss=plain, reason=reason)
    share = table.rarest.share
    where, named = next((words, losses) for bound, words, losses in _RULE if share < bound)
    near = {one.method: one for one in near_to(EVIDENCE if evidence is None else evidence, share)}
    losses = [_loss_config(config.loss, *one) for one in named]
    measured = [(loss, near.get((loss.name, loss.class_weights, "none", "none"))) for loss in losses if loss != plain]
    possible = [one for one in measured if not (config.training.micro_batch and one[0].name in OF_THE_BATCH)]
    best = _first_better(measured, plain)
    loss = best if best == plain or best in [one for one, _ in possible] else _first_better(possible, plain)
    rule = " or ".join(map(_name, losses)) or "nothing"
    simplest = "" if loss in losses or not losses else ", the simplest"
    parts = [
        f"{_name(loss)}{simplest}: {table.share_of_rarest}; where the rarest {where} the tutorial's rule says {rule}"
    ]
    found = [one for _, one in measured if one]
    for place in dict.fromkeys(one.place for one in found):
        verdicts = "; ".join(f"{one}, {_VERDICTS[one.verdict]}" for one in found if one.place == place)
        parts.append(f"measured {place}, AUC beside cross entropy without weights: {verdicts}")
    if found and not table.is_binary:
        parts.append(f"that was of two classes, here are {len(table.rows)} {table.plural}")
    if measured and not found:
        parts.append("nothing was measured near that share")
    if best != loss:
        parts.append(f"{_name(best)} needs whole batches, but training.micro_batch is {config.training.micro_batch}")
    if config.loss.class_weights != "auto":
        parts.append(f"class_weights = {config.loss.class_weights}, as given")
    return LossChoice(loss=loss, reason="; ".join(parts))


def _first_better(measured: list[tuple[LossConfig, Evidence | None]], plain: LossConfig) -> LossConfig:
    """The first loss that was measured to be better; the rule's first if none was measured; else plain."""
    if measured and not any(one for _, one in measured):
        return measured[0][0]
    return next((loss for loss, one in measured if one and one.verdict == "better"), plain)


def _loss_config(given: LossConfig, name: LossName, weights: WeightsName) -> LossConfig:
    return replace(given, name=name, class_weights=weights if given.class_weights == "auto" else given.class_weights)


def _name(loss: LossConfig) -> str:
    return describe_loss(loss.name, loss.class_weights)


def _threshold(table: ClassTable, decision: DecisionConfig) -> str:
    if not table.has_thresholds:
        return "none: of more than two classes the most probable one is decided"
    row = table.rarest
    plural = "s" if row.val_patients != 1 else ""
    few = ", too few for it to be firm" if row.val_patients < FEW else ""
    rule = "youden: the largest sensitivity + specificity"
    if decision.rule == "sensitivity":
        rule = f"sensitivity: the highest specificity at a sensitivity of {decision.at:g} or more"
    reason = f"{rule}, on about {row.val_patients} validation patient{plural} of {row.rare}{few}"
    if table.is_binary and row is table.rows[0]:
        first, second = table.rows[0].name, table.rows[1].name
        reason += (
            f'; sensitivity is of the second class, {second}: for {first} set cohort.classes = ["{second}", "{first}"]'
        )
    return reason


def _recall_first(table: ClassTable) -> str:
    dice = "not Dice, which the tutorial takes: it follows F1, to which a false alarm is as bad as a miss"
    if table.has_thresholds:
        return f"by the threshold, and {dice}"
    return f"{dice}; a threshold would do, but not of more than two classes: ask for labels, or for two classes"
