"""Labels, probabilities and figures to pictures: ROC, precision-recall, confusion, reliability."""

import math
from pathlib import Path

import numpy as np
from jaxtyping import Int

from hilum.drawing import BLUE, GREY, INK, ORANGE, label, legend, note, sheet, unit_square, write
from hilum.measuring.agreement import reliability
from hilum.measuring.intervals import Figure, wilson
from hilum.measuring.metrics import Labels, Probs, pr_curve, roc_curve

_ONE_CLASS = "not defined:\nthe cases are of one class"


def draw_roc(path: Path, *, y: Labels, p: Probs, figures: dict[str, Figure], threshold: float) -> None:
    """The ROC curve with its area, and the frozen threshold's point with the intervals of both its rates."""
    drawn = sheet()
    axes = drawn.axes[0]
    unit_square(axes)
    if math.isnan(figures["auc"].value):
        note(axes, _ONE_CLASS)
    else:
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=(0, (4, 4)))
        false_rate, true_rate = roc_curve(y, p)
        axes.fill_between(false_rate, true_rate, color=BLUE, alpha=0.08, linewidth=0)
        axes.plot(false_rate, true_rate, color=BLUE, linewidth=2, label=f"AUC {figures['auc']}")
        sensitivity, specificity = figures["sensitivity"], figures["specificity"]
        name = f"threshold {threshold:.3g}: sensitivity {sensitivity.value:.2f}, specificity {specificity.value:.2f}"
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
        legend(axes, "lower right")
    label(axes, title="ROC", x="1 − specificity", y="Sensitivity")
    write(drawn, path)


def draw_pr(path: Path, *, y: Labels, p: Probs, figures: dict[str, Figure], threshold: float) -> None:
    """Precision over recall, with the prevalence, which is the precision of a guess."""
    drawn = sheet()
    axes = drawn.axes[0]
    unit_square(axes)
    prevalence = float(np.mean(y == 1))
    axes.axhline(prevalence, color=GREY, linewidth=1, linestyle=(0, (4, 4)), label=f"prevalence {prevalence:.3f}")
    if math.isnan(figures["average_precision"].value):
        note(axes, "not defined:\nno case is positive")
    else:
        recall, precision = pr_curve(y, p)
        steps = np.append(0.0, recall), np.append(precision[0], precision)
        axes.fill_between(*steps, step="pre", color=BLUE, alpha=0.08, linewidth=0)
        name = f"average precision {figures['average_precision']}"
        axes.plot(*steps, drawstyle="steps-pre", color=BLUE, linewidth=2, label=name)
        ppv, sensitivity = figures["ppv"].value, figures["sensitivity"].value
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
                label=f"threshold {threshold:.3g}: PPV {ppv:.2f}, sensitivity {sensitivity:.2f}",
            )
    legend(axes, "lower left" if figures["average_precision"].value > 0.5 else "upper right")
    label(axes, title="Precision and recall", x="Recall (sensitivity)", y="Precision (PPV)")
    write(drawn, path)


def draw_confusion(path: Path, *, matrix: Int[np.ndarray, "c c"], classes: tuple[str, ...]) -> None:
    """Counts by true and decided class; the shade is the share of the true class."""
    size = len(classes)
    edge = min(3.2 + 0.75 * size, 14.0)
    drawn = sheet(inches=(edge, edge))
    axes = drawn.axes[0]
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
    axes.set_xticks(range(size), names, **ends)
    axes.set_yticks(range(size), names)
    axes.tick_params(length=0, labelsize=10)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    label(axes, title="Confusion matrix", x="Decided", y="True")
    write(drawn, path)


def draw_calibration(path: Path, *, y: Labels, p: Probs, figures: dict[str, Figure]) -> None:
    """Observed against predicted share of positives in bins of equally many cases, above where the cases lie."""
    drawn = sheet(rows=2, inches=(5.2, 6.2), heights=(6.0, 1.0))
    axes, below = drawn.axes
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
    legend(axes, "upper left")
    label(axes, title="Calibration", x="", y="Observed share of positives")
    axes.text(0.98, 0.03, f"Brier {figures['brier']}", transform=axes.transAxes, ha="right", fontsize=9, color=INK)
    edges = np.linspace(0, 1, 26)
    below.hist([p[y != 1], p[y == 1]], bins=edges, stacked=True, color=[GREY, ORANGE], label=["negative", "positive"])
    below.set_xlim(-0.015, 1.015)
    below.margins(y=0.5)  # for the legend
    below.yaxis.get_major_locator().set_params(integer=True, nbins=3)
    below.set_xlabel("Predicted probability", fontsize=10, color=INK)
    below.set_ylabel("Cases", fontsize=10, color=INK)
    below.legend(fontsize=8, frameon=False, ncols=2, loc="upper right", labelcolor=INK)
    write(drawn, path)
