"""``hilum compare``: compares a model with others, or with columns of the table, on the same cases."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import tyro

from hilum.errors import require
from hilum.settings.run import ColumnsConfig


@dataclass(frozen=True, kw_only=True)
class Compare:
    """Compare the first model with others, or with columns of the table, on the same cases.

    Prints differences with intervals by patient and p-values, and writes one HTML page.
    """

    evaluations: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN|EVALUATION ...")]
    """Run folders that have been judged, or folders that hilum evaluate wrote; one suffices with --column."""

    column: tuple[str, ...] = ()
    """Columns of the table to compare with: a measurement such as a diameter, or a reader's 0 and 1."""

    table: Path | None = None
    """The table of these columns; by default that of the first run."""

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of the columns of --table."""

    common: bool = False
    """Compare on the cases that all have, if they differ."""

    out: Path = Path("comparison.html")
    """The HTML page to write."""

    json: bool = False
    """Print one JSON object instead of a few lines."""

    def run(self) -> int:
        """Compare and print."""
        from hilum.judging import compare

        given = {"--table": self.table is not None, "--columns": self.columns != ColumnsConfig()}
        for name, is_given in given.items():
            require(not is_given or bool(self.column), name, "given with --column only", "no --column")
        compared = compare(
            self.evaluations,
            columns=self.column,
            table=self.table,
            table_columns=self.columns,
            common=self.common,
            out=self.out,
        )
        if self.json:
            print(json.dumps(compared.as_dict(), indent=2))
            return 0
        print(f"{compared.num_cases} cases of {compared.num_patients} patients")
        for mark in compared.marks:
            print(mark)
        for pair in compared.pairs:
            print(_line(pair))
        print(f"page: {self.out}")
        return 0


def _line(pair: dict[str, Any]) -> str:
    """The difference of the areas in one line."""
    value, ends = pair["differences"]["auc"], pair["differences"]["auc_ci"]
    who = f"{pair['first']} against {pair['other']}, {pair['output']}"
    if value is None:
        return f"{who}: no ROC AUC, the cases are of one class"
    shown = "" if None in ends else f" ({ends[0]:+.3f} to {ends[1]:+.3f})"
    p = " and ".join("undefined" if pair[key] is None else f"{pair[key]:.3g}" for key in ("p_areas", "p_curves"))
    both = pair["figures"]["auc"]
    return (
        f"{who}: AUC {both['first']:.3f} and {both['other']:.3f}, difference {value:+.3f}{shown}, p {p} (areas, curves)"
    )
