"""Tracks a run: metrics.csv, TensorBoard events and the history plot."""

from pathlib import Path
from typing import Any

from hilum.files import csv_text, new_file, write_whole
from hilum.training.epoch_metrics import FIGURES
from hilum.training.history import plot_history

_FIGURES = ("loss", *FIGURES)
_SHOWN = ("loss", "accuracy", "f1", "auc")
"""Figures of an epoch's line in the log."""

COLUMNS = ("epoch", "lr", *(f"{part}_{name}" for part in ("train", "val") for name in _FIGURES))


class Tracker:
    """Writes the figures of each epoch.

    ``metrics.csv`` holds figures only, so that two runs with one seed can be compared byte by byte; times are in the
    events.

    Attributes:
        rows: One dictionary for each epoch so far.
    """

    def __init__(self, out: Path, rows: list[dict[str, str]]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.out = out
        self.rows = rows
        out.mkdir(parents=True, exist_ok=True)
        self.events: Any = SummaryWriter(str(out), purge_step=len(rows) + 1)

    def write(self, epoch: int, lr: float, train: dict[str, float], val: dict[str, float]) -> None:
        """Record one epoch."""
        figures = {f"{part}_{name}": f[name] for part, f in (("train", train), ("val", val)) for name in _FIGURES}
        row = {"epoch": str(epoch), "lr": f"{lr:.6g}"} | {name: f"{value:.6g}" for name, value in figures.items()}
        self.rows.append(row)
        table = [COLUMNS, *([one[name] for name in COLUMNS] for one in self.rows)]
        write_whole(self.out / "metrics.csv", csv_text(table), follow=False)
        for name, value in figures.items():
            part, figure = name.split("_", 1)
            self.events.add_scalar(f"{figure}/{part}", value, epoch)
        self.events.add_scalar("lr", lr, epoch)
        self.events.flush()

    def line(self) -> str:
        """The last epoch in one line."""
        row = self.rows[-1]
        return ", ".join(
            f"{part} " + " ".join(f"{name} {float(row[f'{part}_{name}']):.3f}" for name in _SHOWN)
            for part in ("train", "val")
        )

    def close(self, kept_epoch: int) -> None:
        """Close the events and plot the history."""
        self.events.close()
        with new_file(self.out / "history.png", follow=False, suffix=".png") as new:
            plot_history(self.rows, new, kept_epoch=kept_epoch)
