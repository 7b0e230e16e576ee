"""Plots loss, accuracy, F1 and AUC of a run by epoch."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from hilum.drawing import BLUE, GREEN, GREY, Panels, empty_panels, label, legend, logarithmic, write

_WIDE = 10.0
"""Ratio of losses beyond which a linear axis hides the small ones below a single peak."""

_TITLES = {"loss": "Loss", "accuracy": "Accuracy", "f1": "F1", "auc": "AUC"}


def plot_history(rows: list[dict[str, str]], path: Path, *, kept_epoch: int) -> None:
    """Plot the rows of ``metrics.csv`` as a PNG, see ``history_panels``."""
    write(history_panels(rows, kept_epoch=kept_epoch), path)


def history_panels(rows: list[dict[str, str]], *, kept_epoch: int) -> Panels:
    """Plot the rows of ``metrics.csv``, training and validation, with a mark at the kept epoch.

    Args:
        rows: ``epoch`` and ``train_NAME``, ``val_NAME`` for loss, accuracy, f1 and auc.
        kept_epoch: The epoch whose weights were kept.
    """
    epochs = np.array([int(row["epoch"]) for row in rows])
    panels = empty_panels(rows=2, columns=2, inches=(9.6, 6.6))
    for axes, (name, title) in zip(panels.axes, _TITLES.items(), strict=True):
        for curve, part, colour in (("training", "train", GREY), ("validation", "val", BLUE)):
            values = np.array([float(row[f"{part}_{name}"]) for row in rows])
            marker = "o" if len(epochs) <= 30 else ""
            axes.plot(epochs, values, color=colour, linewidth=2, marker=marker, markersize=3.5, label=curve)
        if name == "loss":
            _scale_loss(axes)
        value = float(values[epochs == kept_epoch][0])
        axes.axvline(kept_epoch, color=GREEN, linewidth=1.2, linestyle=(0, (4, 3)))
        if math.isfinite(value):
            axes.plot(kept_epoch, value, "o", color=GREEN, markersize=8, markeredgecolor="white", zorder=5)
            axes.plot([], [], "o", color=GREEN, label=f"kept, epoch {kept_epoch}: {value:.3f}")
        axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True)
        label(axes, title=title, x="Epoch", y="")
        legend(axes, "best")
    return panels


def _scale_loss(axes: Any) -> None:
    """A linear axis from 0, or a logarithmic one if a linear one would hide most of the curves."""
    losses = np.concatenate([line.get_ydata() for line in axes.lines])
    losses = losses[np.isfinite(losses) & (losses > 0)]
    if losses.size and losses.max() > _WIDE * losses.min():
        logarithmic(axes)
    else:
        axes.set_ylim(bottom=0)
