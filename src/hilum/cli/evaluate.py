"""``hilum evaluate``: a model on cases that it has not seen."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from hilum.cli.arguments import ModelPath
from hilum.errors import require
from hilum.settings.run import CohortConfig, ColumnsConfig


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """A model on cases it has not seen: figures with intervals, pictures, each case.

    Without a table, the test part of the model's own run. Of a table the rows with split = test are judged where it
    says so, else all; patients and scans that the model has seen are left out. Scans that cannot be used are refused,
    listed and counted; more than --cohort.max-refused of them end with 1.
    """

    model: ModelPath
    """A run folder, or the model folder in it."""

    table: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[COHORT]")] = None
    """CSV, Excel or Parquet with paths and labels; without it the test part of the run."""

    out: Path | None = None
    """Folder for evaluation.json, cases.csv and the pictures; for the run's own cases by default its evaluation/."""

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Which column of the table holds what."""

    store: Path | None = None
    """Where prepared samples are kept; without it, for the time of the command only."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""

    max_refused: Annotated[float, tyro.conf.arg(name="cohort.max-refused")] = CohortConfig().max_refused
    """Largest share of the cases that may be refused before it is an error."""

    unchecked: bool = False
    """Judge even if nothing tells which cases trained the model, as under another HILUM_KEY; all figures say so."""

    json: bool = False
    """Print evaluation.json instead of one line."""

    def __post_init__(self) -> None:
        require(0 <= self.max_refused <= 1, "cohort.max_refused", "between 0 and 1", self.max_refused)

    def run(self) -> int:
        """Judge and print."""
        from hilum.judging import evaluate, headline

        own = self.table is None
        require(not own or self.columns == ColumnsConfig(), "--columns", "given with a table only", self.columns)
        answer = evaluate(
            self.model,
            self.table,
            self.out,
            columns=self.columns,
            store=self.store,
            device=self.device,
            max_refused=self.max_refused,
            unchecked=self.unchecked,
        )
        if self.json:
            print(json.dumps(answer, indent=2))
            return 0
        out = self.out or self.model / "evaluation"
        print(headline(answer))
        if answer["num_refused"] or answer["num_seen"]:
            counts = f"{answer['num_refused']} refused, {answer['num_seen']} seen by the model"
            print(f"left out: {counts}, listed in {out / 'refused.csv'}")
        print(f"figures and pictures: {out}")
        return 0
