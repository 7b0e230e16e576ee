"""Plots that only the report has: decision curves, and figures of subgroups side by side."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int

from hilum.drawing import (
    BLUE,
    GREEN,
    GREY,
    INK,
    ORANGE,
    PALE,
    Panels,
    empty_panels,
    label,
    legend,
    note,
    unit_square,
)  # fmt: skip
from hilum.judging.evaluation_folder import EvaluationFolder
from hilum.judging.figures import ClassJudgement, Stated
from hilum.measuring.abstaining import log_odds_distance, risk_by_coverage
from hilum.measuring.bootstrap import Figure
from hilum.measuring.decision_curve import decision_curve
from hilum.measuring.metrics import roc_auc, roc_curve

_LOWEST_BENEFIT = -0.05
"""Lower end of the axis of net benefit, in which calling everybody falls without end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForestRow:
    """One row of a forest plot: a heading without a figure, or a group with one.

    Attributes:
        text: Name of the column or group.
        figure: The figure with its interval; None for a heading.
        remark: Shown instead of a figure that does not exist.
    """

    text: str
    figure: Figure | None = None
    remark: str = ""


def decision_curve_page(one: ClassJudgement, stated: Stated | None) -> Panels:
    """Plot the net benefit of the model, of calling every case and of calling none.

    At a stated prevalence, probabilities and threshold are those there; without knowledge of the prevalence at which
    the probabilities are stated there is no curve.
    """
    panels = empty_panels()
    axes = panels.axes[0]
    label(axes, title="Decision curve", x="Threshold probability", y="Net benefit")
    if len(set(one.y.tolist())) < 2:
        note(axes, "not defined:\nthe cases are of one class")
        return panels
    p, threshold = one.p, one.asked.threshold
    if stated is not None:
        if stated.log_odds_shift is None:
            note(axes, "not known:\nthe model does not tell the prevalence\nof its probabilities")
            return panels
        p, threshold = _shifted(p, stated.log_odds_shift), stated.threshold
    curve = decision_curve(one.y, p, prevalence=None if stated is None else stated.prevalence)
    axes.axhline(0, color=GREY, linewidth=1.2, label="call nobody")
    axes.plot(curve.thresholds, curve.everybody, color=ORANGE, linewidth=1.5, label="call everybody")
    axes.plot(curve.thresholds, curve.model, color=BLUE, linewidth=2, label="call by the model")
    if threshold is not None:
        name = f"frozen threshold {threshold:.3g}"
        axes.axvline(threshold, color=INK, linewidth=1, linestyle=(0, (4, 3)), label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(min(_LOWEST_BENEFIT, -0.15 * curve.prevalence), max(curve.prevalence * 1.15, 0.02))
    legend(axes, "upper right")
    return panels


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Risk:
    """What is needed to plot the share of wrong decisions over coverage.

    Attributes:
        name: The class or label; ``all classes`` of more than two.
        is_wrong: Whether each case would be decided wrongly if none were left undecided.
        certainty: How certain each of these decisions would be.
        order: What orders the cases, in a few words.
        decided_wrongly: Whether the cases that the model decides are decided wrongly.
    """

    name: str
    is_wrong: Bool[np.ndarray, " n"]
    certainty: Float64[np.ndarray, " n"]
    order: str
    decided_wrongly: Bool[np.ndarray, " m"]


def risks_of(judged: EvaluationFolder) -> list[Risk]:
    """Risks of the second of two classes, of each label, or of all of more classes together.

    Out of fold each fold has a threshold of its own, which is read from its decisions: midway between the highest
    probability that was called negative and the lowest that was called positive.
    """
    if len(judged.classes) > 2 and not judged.multi_label:
        known = judged.decided >= 0
        risk = Risk(
            name="all classes",
            is_wrong=judged.probs.argmax(axis=1) != judged.labels,
            certainty=judged.probs.max(axis=1),
            order="the highest probabilities",
            decided_wrongly=(judged.decided != judged.labels)[known],
        )
        return [risk]
    found = []
    for one in judged.each:
        cuts = np.full(len(one.p), np.nan if one.asked.threshold is None else one.asked.threshold)
        if one.asked.threshold is None:
            folds = np.array(judged.folds)
            for fold in set(judged.folds):
                inside = folds == fold
                cuts[inside] = _cut(one.p[inside], one.called[inside], one.is_decided[inside])
        found.append(
            Risk(
                name=one.name,
                is_wrong=(one.p >= cuts) != (one.y == 1),
                certainty=log_odds_distance(one.p, cuts),
                order="the furthest from the threshold",
                decided_wrongly=(one.called != (one.y == 1))[one.is_decided],
            )
        )
    return found


def _cut(p: Float64[np.ndarray, " n"], called: Bool[np.ndarray, " n"], is_decided: Bool[np.ndarray, " n"]) -> float:
    """Where the decisions of a fold change; 0.5 where none is decided."""
    negative, positive = p[is_decided & ~called], p[is_decided & called]
    ends = [*([float(negative.max())] if len(negative) else []), *([float(positive.min())] if len(positive) else [])]
    return float(np.mean(ends)) if ends else 0.5


def risk_page(one: Risk) -> Panels:
    """Plot the share of wrong decisions among the most certain cases, by the share of these cases.

    Beside it stands the share among the cases that the model decides.
    """
    panels = empty_panels()
    axes = panels.axes[0]
    label(axes, title="Errors over coverage", x="Share of the cases that are decided", y="Share of wrong decisions")
    coverage, risk = risk_by_coverage(one.is_wrong, one.certainty)
    axes.plot(coverage, risk, color=BLUE, linewidth=2, label=one.order)
    number, known = len(one.is_wrong), len(one.decided_wrongly)
    if 0 < known < number:
        wrong = float(one.decided_wrongly.mean())
        name = f"as decided: {wrong:.3f} of {known / number:.1%}"
        axes.plot(known / number, wrong, "o", color=ORANGE, markersize=8, markeredgecolor="white", label=name)
    axes.set_xlim(0, 1.015)
    axes.set_ylim(0, max(0.05, 1.25 * float(risk.max())))
    legend(axes, "upper left")
    return panels


def _shifted(p: Float64[np.ndarray, " n"], by: float) -> Float64[np.ndarray, " n"]:
    """Probabilities whose log odds are shifted; 0 and 1 stay."""
    with np.errstate(divide="ignore"):
        return np.asarray(1 / (1 + np.exp(np.log1p(-p) - np.log(p) - by)))


def forest(rows: Sequence[ForestRow], *, overall: Figure, title: str, x: str) -> Panels:
    """Plot a figure of many groups with its intervals below one another, and that of all cases as a line."""
    panels = empty_panels(inches=(7.2, 1.4 + 0.24 * len(rows)))
    axes = panels.axes[0]
    axes.grid(visible=False)
    if not math.isnan(overall.value):
        axes.axvspan(overall.low, overall.high, color=PALE, linewidth=0)
        axes.axvline(overall.value, color=GREY, linewidth=1.2, linestyle=(0, (4, 3)))
    known = [row.figure for row in rows if row.figure is not None and not math.isnan(row.figure.value)]
    left = min([0.5, *(one.low for one in known if not math.isnan(one.low))])
    for place, row in enumerate(rows):
        one = row.figure
        if one is None or math.isnan(one.value):
            if row.remark:
                axes.text(left + 0.01, place, row.remark, fontsize=8, color=GREY, va="center")
            continue
        below, above = max(one.value - one.low, 0), max(one.high - one.value, 0)
        axes.errorbar(one.value, place, xerr=[[below], [above]], fmt="o", color=BLUE, markersize=5, elinewidth=1.4)
    axes.set_yticks(range(len(rows)), [row.text for row in rows], parse_math=False)
    for text, row in zip(axes.get_yticklabels(), rows, strict=True):
        text.set_fontweight("bold" if row.figure is None and not row.remark else "normal")
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(left - 0.01, 1.01)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    label(axes, title=title, x=x, y="")
    return panels


def roc_overlay(
    curves: Sequence[tuple[str, Float64[np.ndarray, " n"]]], y: Int[np.ndarray, " n"], *, title: str
) -> Panels:
    """Plot the ROC curves of several raters of the same cases over one another, the first of them on top."""
    panels = empty_panels()
    axes = panels.axes[0]
    unit_square(axes)
    label(axes, title=title, x="1 − specificity", y="Sensitivity")
    if len(set(y.tolist())) < 2:
        note(axes, "not defined:\nthe cases are of one class")
        return panels
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 4)))
    colours = (BLUE, ORANGE, GREEN, INK, GREY)
    shown = []
    for place, (name, values) in reversed(list(enumerate(curves))):
        style = "-" if place < len(colours) else (0, (2, 2))
        (line,) = axes.plot(*roc_curve(y, values), color=colours[place % len(colours)], linewidth=2, linestyle=style)
        shown.append((line, f"{name.lstrip('_')}: {roc_auc(y, values):.3f}"))  # a leading _ hides a name from the key
    lines, names = zip(*shown[::-1], strict=True)
    key = axes.legend(lines, names, loc="lower right", fontsize=9, framealpha=0.9, edgecolor="none", labelcolor=INK)
    for text in key.get_texts():
        text.set_parse_math(False)
    return panels
