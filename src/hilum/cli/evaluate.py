"""``hilum evaluate``: judges a model on cases that it has not seen."""

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
    """Judge a model on cases that it has not seen: figures with intervals, a report, and a row for each case.

    Without a table, the test part of the model's own run is judged. Of a table with a split column, the rows with split
    = test are judged, else all; patients and scans that the model has seen are left out. Scans that cannot be used are
    refused, listed and counted; if they exceed --cohort.max-refused the command exits with 1.
    """

    model: ModelPath
    """A run folder, or the model folder in it."""

    table: Annotated[tyro.conf.Positional[Path | None], tyro.conf.arg(metavar="[COHORT]")] = None
    """CSV, Excel or Parquet with paths and labels; by default the test part of the run."""

    out: Path | None = None
    """Folder for evaluation.json, cases.csv and the pictures; for the run's own cases by default its evaluation/."""

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of the columns."""

    store: Path | None = None
    """Folder of prepared samples; by default a temporary one."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""

    max_refused: Annotated[float, tyro.conf.arg(name="cohort.max-refused")] = CohortConfig().max_refused
    """Largest share of the cases that may be refused before it is an error."""

    unchecked: bool = False
    """Judge even if training cases cannot be recognised, as under another HILUM_KEY; all figures are marked so."""

    allow_leakage: bool = False
    """Judge even if cases leak from training; all figures are marked so."""

    prevalence: tuple[float, ...] = ()
    """Prevalence at which predictive values and net benefit are stated too: of the second of two classes, of each of
    more classes, or of each label."""

    pictures: bool = False
    """Show planes and maps of the most certain errors in report.html, which must then not be shared."""

    json: bool = False
    """Print evaluation.json instead of one line."""

    def __post_init__(self) -> None:
        require(0 <= self.max_refused <= 1, "cohort.max_refused", "between 0 and 1", self.max_refused)

    def run(self) -> int:
        """Judge and print."""
        from hilum.judging import evaluate, headline
        from hilum.training.run_folder import Run

        given = {
            "columns": self.columns != ColumnsConfig(),
            "cohort.max-refused": self.max_refused != CohortConfig().max_refused,
            "unchecked": self.unchecked,
        }
        for name, is_given in given.items():
            require(not is_given or self.table is not None, f"--{name}", "given with a table only", "no table")
        evaluation = evaluate(
            self.model,
            self.table,
            self.out,
            columns=self.columns,
            store=self.store,
            device=self.device,
            max_refused=self.max_refused,
            unchecked=self.unchecked,
            allow_leakage=self.allow_leakage,
            prevalence=self.prevalence,
            pictures=self.pictures,
        )
        if self.json:
            print(json.dumps(evaluation, indent=2))
            return 0
        out = self.out or Run.of(self.model).evaluation
        print(headline(evaluation))
        if evaluation["num_refused"] or evaluation["num_seen"]:
            counts = f"{evaluation['num_refused']} refused, {evaluation['num_seen']} seen by the model"
            print(f"left out: {counts}, listed in {out / 'refused.csv'}")
        print(f"report: {out / 'report.html'}")
        return 0
