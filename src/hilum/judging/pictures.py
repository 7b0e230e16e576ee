"""Plots ROC, precision-recall, confusion and calibration, for several labels side by side."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

from hilum.drawing import BLUE, GREY, INK, ORANGE, Panels, empty_panels, label, legend, note, unit_square, write
from hilum.judging.figures import ClassJudgement
from hilum.measuring.agreement import reliability
from hilum.measuring.bootstrap import wilson
from hilum.measuring.metrics import pr_curve, roc_curve

_ONE_CLASS = "not defined:\nthe cases are of one class"

_ON_A_PAGE = 12
"""Largest number of labels in one picture, to keep it legible."""

_LETTERS = 6
"""Letters of a label's name above its panel, per inch of width."""


def plot_judged(
    folder: Path,
    each: Sequence[ClassJudgement],
    *,
    matrix: Int[np.ndarray, "c c"] | None,
    classes: tuple[str, ...],
    note: str = "",
) -> None:
    """Plot ``roc.png``, ``pr.png``, ``calibration.png`` and ``confusion.png``.

    Each label has a panel in each picture; after twelve labels follow ``roc-2.png`` and so on.

    Args:
        folder: Output folder.
        each: The positive one of two classes, each class against the rest, or all labels.
        matrix: Confusion matrix of all classes; None for several labels, which have one each.
        classes: Names of the classes.
        note: A sentence at the foot of each picture.
    """
    alone = len(each) == 1
    plots = {"roc": roc_page, "pr": pr_page, "calibration": calibration_page}
    for start in range(0, len(each), _ON_A_PAGE):
        page, number = each[start : start + _ON_A_PAGE], f"-{start // _ON_A_PAGE + 1}" if start else ""
        for name, plot in plots.items():
            write(plot(page, alone=alone), folder / f"{name}{number}.png", foot=note)
        if matrix is None:
            write(confusion_page(page), folder / f"confusion{number}.png", foot=note)
    if matrix is not None:
        write(confusion_panel(matrix, classes), folder / "confusion.png", foot=note)


def roc_page(each: Sequence[ClassJudgement], *, alone: bool) -> Panels:
    """Plot ROC curves with their areas, and the threshold's point with the intervals of both rates."""
    panels = _panels(each, alone=alone)
    for axes, one in zip(panels.axes, each, strict=True):
        unit_square(axes)
        if math.isnan(one.figures["auc"].value):
            note(axes, _ONE_CLASS)
        else:
            _roc(axes, one)
            _legend(axes, "lower right", alone=alone)
        _name(axes, "ROC" if alone else one, x="1 − specificity", y="Sensitivity")
    return panels


def _roc(axes: Any, one: ClassJudgement) -> None:
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 4)))
    false_rate, true_rate = roc_curve(one.y, one.p)
    axes.fill_between(false_rate, true_rate, color=BLUE, alpha=0.08, linewidth=0)
    axes.plot(false_rate, true_rate, color=BLUE, linewidth=2, label=f"AUC {one.figures['auc']}")
    sensitivity, specificity = one.figures["sensitivity"], one.figures["specificity"]
    name = f"{_cut(one)}: sensitivity {sensitivity.value:.2f}, specificity {specificity.value:.2f}"
    axes.errorbar(
        1 - specificity.value,
        sensitivity.value,
        xerr=[[max(specificity.high - specificity.value, 0)], [max(specificity.value - specificity.low, 0)]],
        yerr=[[max(sensitivity.value - sensitivity.low, 0)], [max(sensitivity.high - sensitivity.value, 0)]],
        fmt="o",
        color=ORANGE,
        markersize=8,
        markeredgecolor="white",
        elinewidth=1.5,
        zorder=5,
        clip_on=False,
        label=name,
    )


def _cut(one: ClassJudgement) -> str:
    """The threshold of a class or label; without one of all cases, the most probable class or each fold's decided."""
    return "as decided" if one.asked.threshold is None else f"threshold {one.asked.threshold:.3g}"


def pr_page(each: Sequence[ClassJudgement], *, alone: bool) -> Panels:
    """Plot precision over recall, with the prevalence, which is the precision by chance."""
    panels = _panels(each, alone=alone)
    for axes, one in zip(panels.axes, each, strict=True):
        unit_square(axes)
        prevalence = float(np.mean(one.y == 1))
        axes.axhline(prevalence, color=GREY, linewidth=1, linestyle=(0, (4, 4)), label=f"prevalence {prevalence:.3f}")
        if math.isnan(one.figures["average_precision"].value):
            note(axes, "not defined:\nno case is positive")
        else:
            _pr(axes, one)
        where = "lower left" if one.figures["average_precision"].value > 0.5 else "upper right"
        _legend(axes, where, alone=alone)
        _name(axes, "Precision and recall" if alone else one, x="Recall (sensitivity)", y="Precision (PPV)")
    return panels


def _pr(axes: Any, one: ClassJudgement) -> None:
    recall, precision = pr_curve(one.y, one.p)
    steps = np.append(0.0, recall), np.append(precision[0], precision)
    axes.fill_between(*steps, step="pre", color=BLUE, alpha=0.08, linewidth=0)
    name = f"average precision {one.figures['average_precision']}"
    axes.plot(*steps, drawstyle="steps-pre", color=BLUE, linewidth=2, label=name)
    ppv, sensitivity = one.figures["ppv"].value, one.figures["sensitivity"].value
    if not math.isnan(ppv):
        axes.plot(
            sensitivity,
            ppv,
            "o",
            color=ORANGE,
            markersize=8,
            markeredgecolor="white",
            zorder=5,
            clip_on=False,
            label=f"{_cut(one)}: PPV {ppv:.2f}, sensitivity {sensitivity:.2f}",
        )


def calibration_page(each: Sequence[ClassJudgement], *, alone: bool) -> Panels:
    """Plot observed over predicted shares of positives in bins of equal size, above histograms of the cases."""
    panels = _panels(each, alone=alone, below=True)
    for axes, below, one in zip(panels.axes[::2], panels.axes[1::2], each, strict=True):
        _calibration(axes, one)
        _histogram(below, one)
        _legend(axes, "upper left", alone=alone, under=below)
        _name(axes, "Calibration" if alone else one, x="", y="Observed share of positives")
    return panels


def _calibration(axes: Any, one: ClassJudgement) -> None:
    y, p = one.y, one.p
    unit_square(axes)
    axes.set_aspect("auto")  # as wide as the panel below
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 4)), label="perfectly calibrated")
    bins = reliability(y, p)
    predicted = np.array([each.predicted for each in bins])
    observed = np.array([each.observed for each in bins])
    ends = np.array([wilson(each.observed, each.num_cases) for each in bins])
    axes.errorbar(
        predicted,
        observed,
        yerr=np.maximum([observed - ends[:, 0], ends[:, 1] - observed], 0),
        fmt="o-",
        color=BLUE,
        linewidth=1.5,
        elinewidth=1.2,
        markersize=6,
        markeredgecolor="white",
        clip_on=False,
        label=f"bins of about {round(len(y) / len(bins))} cases, 95 % intervals",
    )
    brier = f"Brier {one.figures['brier']}"
    axes.text(0.98, 0.03, brier, transform=axes.transAxes, ha="right", fontsize=9, color=INK)


def _histogram(below: Any, one: ClassJudgement) -> None:
    y, p = one.y, one.p
    edges = np.linspace(0, 1, 26)
    below.hist([p[y != 1], p[y == 1]], bins=edges, stacked=True, color=[GREY, ORANGE], label=["negative", "positive"])
    below.set_xlim(-0.015, 1.015)
    below.margins(y=0.5)  # for the legend
    below.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    below.set_xlabel("Predicted probability", fontsize=10, color=INK)
    below.set_ylabel("Cases", fontsize=10, color=INK)
    below.legend(fontsize=8, frameon=False, ncols=2, loc="upper right", labelcolor=INK)


def confusion_panel(matrix: Int[np.ndarray, "c c"], classes: tuple[str, ...]) -> Panels:
    """Plot counts by true and decided class; the shade is the share of the true class."""
    size = len(classes)
    edge = min(3.2 + 0.75 * size, 14.0)
    panels = empty_panels(inches=(edge, edge))
    _confusion(panels.axes[0], matrix, classes)
    label(panels.axes[0], title="Confusion matrix", x="Decided", y="True")
    return panels


def confusion_page(each: Sequence[ClassJudgement]) -> Panels:
    """Plot the confusion matrix of each label: absent and present, not called and called."""
    panels = _panels(each, alone=False, inches=(3.6, 3.6))
    for axes, one in zip(panels.axes, each, strict=True):
        _confusion(axes, one.matrix, ("absent", "present"))
        _name(axes, one, x="Decided", y="True")
    return panels


def _confusion(axes: Any, matrix: Int[np.ndarray, "c c"], classes: tuple[str, ...]) -> None:
    size = len(classes)
    totals = matrix.sum(1, keepdims=True)
    shares = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.15)
    axes.grid(visible=False)
    for row in range(size):
        for column in range(size):
            ink = "white" if shares[row, column] > 0.6 else INK
            count, share = matrix[row, column], shares[row, column]
            axes.text(column, row, str(count), ha="center", va="bottom", color=ink, fontsize=14, fontweight="bold")
            text = f"{share:.0%}" if totals[row, 0] else "–"
            axes.text(column, row + 0.06, text, ha="center", va="top", color=ink, fontsize=9)
    names = [name if len(name) <= 16 else name[:15] + "…" for name in classes]
    turned = 0 if max(map(len, names)) * size <= 24 else 35
    ends = {"rotation": turned, "ha": "right", "rotation_mode": "anchor"} if turned else {}
    axes.set_xticks(range(size), names, parse_math=False, **ends)
    axes.set_yticks(range(size), names, parse_math=False)
    axes.tick_params(length=0, labelsize=10)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)


def _panels(
    each: Sequence[ClassJudgement], *, alone: bool, below: bool = False, inches: tuple[float, float] = (4.4, 5.5)
) -> Panels:
    """One panel, or one for each label, row by row; with ``below`` each is followed by a flat panel beneath it."""
    if alone:
        return empty_panels(rows=2, inches=(5.2, 6.2), heights=(6.0, 1.0)) if below else empty_panels()
    columns = 2 if len(each) == 4 else min(len(each), 3)
    rows = math.ceil(len(each) / columns)
    wide, high = inches
    size = (wide * columns, (high + below) * rows)
    panels = empty_panels(
        rows=rows * (1 + below), columns=columns, inches=size, heights=(6.0, 1.0) * rows if below else None
    )
    grid = np.array(panels.axes, object).reshape(rows, 1 + below, columns)
    places = [tuple(grid[divmod(k, columns)[0], :, k % columns]) for k in range(rows * columns)]
    for place in places[len(each) :]:
        for axes in place:
            axes.remove()
    return Panels(picture=panels.picture, axes=[axes for place in places[: len(each)] for axes in place])


def _name(axes: Any, what: str | ClassJudgement, *, x: str, y: str) -> None:
    """Set the titles of a panel and its axes; a label's title gives its name and frequency."""
    if isinstance(what, str):
        label(axes, title=what, x=x, y=y)
        return
    most = round(_LETTERS * axes.figure.get_size_inches()[0] / axes.get_gridspec().ncols)
    name = what.name if len(what.name) <= most else what.name[: most - 1] + "…"
    label(axes, title=f"{name}\n{int(np.sum(what.y == 1))} of {len(what.y)} cases", x=x, y=y)


def _legend(axes: Any, where: str, *, alone: bool, under: Any = None) -> None:
    """Add a legend inside a single panel, or below each of several panels."""
    if alone:
        legend(axes, where)
        return
    lines, names = axes.get_legend_handles_labels()
    place: dict[str, Any] = {"loc": "upper center", "fontsize": 9, "frameon": False, "labelcolor": INK}
    if under is None:
        axes.legend(lines, names, bbox_to_anchor=(0.5, -0.15), **place)
        return
    more = under.get_legend_handles_labels()
    beside = {"ncols": 2, "columnspacing": 1.0}
    under.legend(lines + more[0], names + more[1], bbox_to_anchor=(0.5, -0.7), **beside, **place)
