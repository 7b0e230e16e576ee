"""``hilum evaluate``: a model on cases that it has not seen."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from hilum.errors import require
from hilum.settings.run import CohortConfig, ColumnsConfig


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """A model on a table of cases it has not seen: figures with intervals, pictures, each case.

    Rows with split = test are judged where the table says so, else all; patients and scans that the model has seen are
    left out. Scans that cannot be used are refused, listed and counted; more than --max-refused of them end with 1.
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

    max_refused: float = CohortConfig().max_refused
    """Largest share of the cases that may be refused before it is an error."""

    json: bool = False
    """Print evaluation.json instead of one line."""

    def __post_init__(self) -> None:
        require(0 <= self.max_refused <= 1, "max_refused", "between 0 and 1", self.max_refused)

    def run(self) -> int:
        """Judge and print."""
        from hilum.judging import evaluate, headline

        answer = evaluate(
            self.model,
            self.table,
            self.out,
            columns=self.columns,
            store=self.store,
            device=self.device,
            max_refused=self.max_refused,
        )
        if self.json:
            print(json.dumps(answer, indent=2))
            return 0
        print(headline(answer))
        if answer["num_refused"] or answer["num_seen"]:
            counts = f"{answer['num_refused']} refused, {answer['num_seen']} seen by the model"
            print(f"left out: {counts}, listed in {self.out / 'refused.csv'}")
        print(f"figures and pictures: {self.out}")
        return 0
