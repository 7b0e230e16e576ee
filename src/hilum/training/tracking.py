"""Tracks a run: metrics.csv, TensorBoard events and the history plot."""

import time
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from hilum.cohorts.dataset import CohortDataset, as_sample, to_float
from hilum.files import csv_text, new_file, write_whole
from hilum.measuring.calibration import probabilities
from hilum.modelling.input import model_input
from hilum.preparing import load_sample
from hilum.training.epoch_metrics import FIGURES
from hilum.training.events import Events
from hilum.training.history import plot_history

_FIGURES = ("loss", *FIGURES)
_SHOWN = ("loss", "accuracy", "f1", "auc")
"""Figures of an epoch's line in the log."""

COLUMNS = ("epoch", "lr", *(f"{part}_{name}" for part in ("train", "val") for name in _FIGURES))

_CASES = 16
"""Largest number of cases in a picture."""

_GAP = 2
"""Voxels between the slices of a picture."""


class Tracker:
    """Writes the figures of each epoch, and pictures of what is trained on.

    ``metrics.csv`` holds figures only, so that two runs with one seed can be compared byte by byte; times are in the
    events. The events also hold pixels of patients: a batch as augmented, and the most wrong validation cases with
    their ids.

    Args:
        out: The run folder.
        rows: Rows of ``metrics.csv`` so far.
        epochs: Epochs of the whole run.

    Attributes:
        rows: One dictionary for each epoch so far.
    """

    def __init__(self, out: Path, rows: list[dict[str, str]], epochs: int) -> None:
        self.out = out
        self.rows = rows
        self.epochs = epochs
        out.mkdir(parents=True, exist_ok=True)
        self.events = Events(out, len(rows) + 1)
        self.began, self.rows_before = time.monotonic(), len(rows)
        self.has_batch = bool(rows)

    def show_batch(self, x: Float[Tensor, "b c z y x"]) -> None:
        """Show the first batch of a run as the network sees it, once."""
        if not self.has_batch:
            self.has_batch = True
            self.events.image("batch as augmented", _mosaic(x[:_CASES]), 1)

    def write(self, epoch: int, lr: float, train: dict[str, float], val: dict[str, float]) -> None:
        """Record one epoch."""
        figures = {f"{part}_{name}": f[name] for part, f in (("train", train), ("val", val)) for name in _FIGURES}
        row = {"epoch": str(epoch), "lr": f"{lr:.6g}"} | {name: f"{value:.6g}" for name, value in figures.items()}
        self.rows.append(row)
        table = [COLUMNS, *([one[name] for name in COLUMNS] for one in self.rows)]
        write_whole(self.out / "metrics.csv", csv_text(table), follow=False)
        for name, value in figures.items():
            part, figure = name.split("_", 1)
            self.events.scalar(f"{figure}/{part}", value, epoch)
        self.events.scalar("lr", lr, epoch)

    def line(self) -> str:
        """The last epoch in one line, with the time left if all epochs are trained."""
        row = self.rows[-1]
        figures = ", ".join(
            f"{part} " + " ".join(f"{name} {float(row[f'{part}_{name}']):.3f}" for name in _SHOWN)
            for part in ("train", "val")
        )
        done, left = len(self.rows) - self.rows_before, self.epochs - len(self.rows)
        return figures + (f", {duration((time.monotonic() - self.began) / done * left)} left" if left and done else "")

    def show_most_wrong(self, dataset: CohortDataset, logits: Float[np.ndarray, "n c"]) -> None:
        """Show the validation cases whose label the kept weights find least probable, the worst first."""
        if dataset.labels.ndim == 2:
            of_label = 1 / (1 + np.exp(-np.where(dataset.labels == 1, logits, -logits)))
            wanted = of_label.min(axis=1)
        else:
            wanted = probabilities(logits)[np.arange(len(logits)), dataset.labels]
        worst = np.argsort(wanted, kind="stable")[:_CASES].tolist()
        lines = []
        for place, number in enumerate(worst):
            index = dataset.indices[number]
            sample = as_sample(load_sample(dataset.prepared.samples[index]), dataset.recipe)
            x = model_input(to_float(sample["hu"][None], sample["hu"].device), dataset.recipe.windows)
            self.events.image(f"most wrong in validation/{place + 1}", _mosaic(x), len(self.rows))
            lines.append(f"{place + 1}. {dataset.prepared.cases[index].case_id}: {wanted[number]:.3f}")
        self.events.text("most wrong in validation: probability of the label", "\n".join(lines), len(self.rows))

    def plot(self, kept_epoch: int) -> None:
        """Plot the history."""
        with new_file(self.out / "history.png", follow=False, suffix=".png") as new:
            plot_history(self.rows, new, kept_epoch=kept_epoch)


def duration(seconds: float) -> str:
    """A time in words: about 40 s, about 5 min, about 2 h 10 min."""
    if seconds < 90:
        return f"about {max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"about {minutes} min" if minutes < 90 else f"about {minutes // 60} h {minutes % 60} min"


def _mosaic(x: Float[Tensor, "b c z y x"]) -> UInt8[np.ndarray, "h w"]:
    """The middle slice of each case, of the first window, side by side in rows."""
    slices = x[:, 0, x.shape[2] // 2].detach().float().cpu().numpy()
    columns = int(np.ceil(np.sqrt(len(slices))))
    rows = -(-len(slices) // columns)
    height, width = slices.shape[1:]
    picture = np.zeros((rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP))
    for number, one in enumerate(slices):
        top, left = (number // columns) * (height + _GAP), (number % columns) * (width + _GAP)
        picture[top : top + height, left : left + width] = one
    grey: np.ndarray = np.rint(255 * picture.clip(0, 1)).astype(np.uint8)
    return grey
