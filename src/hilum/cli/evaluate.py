"""``hilum evaluate``: a model on cases that it has not seen."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from hilum.config import ColumnsConfig


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """A model on a table of cases it has not seen: figures with intervals, pictures, each case.

    Rows with split = test are judged where the table says so, else all; patients of the training set are refused.
    """

    model: tyro.conf.Positional[Path]
    """The model folder of a run."""

    table: tyro.conf.Positional[Path]
    """CSV, Excel or Parquet with paths and labels."""

    out: Path
    """Folder for evaluation.json, cases.csv and the pictures."""

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Which column of the table holds what."""

    store: Path | None = None
    """Where prepared samples are kept; without it, for the time of the run only."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""

    json: bool = False
    """Print evaluation.json instead of one line."""

    def run(self) -> int:
        """Judge and print."""
        from hilum.judging import evaluate, headline

        answer = evaluate(self.model, self.table, self.out, columns=self.columns, store=self.store, device=self.device)
        print(json.dumps(answer, indent=2) if self.json else f"{headline(answer)}\nfigures and pictures: {self.out}")
        return 0
