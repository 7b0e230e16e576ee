"""``hilum recalibrate``: fits calibration and thresholds of a model anew on cases of another site."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from hilum.cli.arguments import CohortPath, ModelPath
from hilum.errors import require
from hilum.settings.run import CohortConfig, ColumnsConfig


@dataclass(frozen=True, kw_only=True)
class Recalibrate:
    """Fit calibration and thresholds of a model anew on labelled cases of another site; the weights stay.

    Of a table with a split column, the rows with split = val are used, else all; patients and scans that trained the
    model are left out. The new folder can be named wherever a run or model is; its card keeps what the decisions were.
    """

    model: ModelPath
    """A run folder, or the model folder in it."""

    table: CohortPath
    """CSV, Excel or Parquet with paths and labels."""

    out: Path
    """The new folder; must not exist, or be empty."""

    rule: Annotated[
        Literal["youden", "sensitivity", "specificity", "f1"] | None, tyro.conf.arg(name="decision.rule")
    ] = None
    """Rule of the threshold; by default that of the model."""

    at: Annotated[float | None, tyro.conf.arg(name="decision.at")] = None
    """The sensitivity or specificity that the rule asks for."""

    calibration: Annotated[
        Literal["auto", "none", "temperature", "platt", "isotonic"] | None, tyro.conf.arg(name="decision.calibration")
    ] = None
    """How logits become probabilities; by default as for the model. auto: platt, which follows another prevalence."""

    abstain: Annotated[Literal["none", "band", "sets"] | None, tyro.conf.arg(name="decision.abstain")] = None
    """band: undecided between two thresholds. sets: undecided where a conformal set holds not one class."""

    error: Annotated[float | None, tyro.conf.arg(name="decision.error")] = None
    """With abstain: the share of each class that may be decided wrongly."""

    coverage: Annotated[float | None, tyro.conf.arg(name="decision.coverage")] = None
    """With abstain: smallest share of the cases that must be decided."""

    gate_share: Annotated[float | None, tyro.conf.arg(name="decision.gate-share")] = None
    """Share of scans like these that the gate may hold back."""

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of the columns."""

    store: Path | None = None
    """Folder of prepared samples; by default a temporary one."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""

    max_refused: Annotated[float, tyro.conf.arg(name="cohort.max-refused")] = CohortConfig().max_refused
    """Largest share of the cases that may be refused before it is an error."""

    unchecked: bool = False
    """Go on even if training cases cannot be recognised, as under another HILUM_KEY."""

    allow_leakage: bool = False
    """Go on even if cases are of a study of the training cases, or near copies of their scans; the card says so."""

    json: bool = False
    """Print one JSON object instead of a few lines."""

    def __post_init__(self) -> None:
        require(0 <= self.max_refused <= 1, "cohort.max_refused", "between 0 and 1", self.max_refused)

    def run(self) -> int:
        """Fit, write and print."""
        from hilum.judging import recalibrate

        names = ("rule", "at", "calibration", "abstain", "error", "coverage", "gate_share")
        changes = {name: getattr(self, name) for name in names}
        done = recalibrate(
            self.model,
            self.table,
            self.out,
            decision={name: value for name, value in changes.items() if value is not None},
            columns=self.columns,
            store=self.store,
            device=self.device,
            max_refused=self.max_refused,
            unchecked=self.unchecked,
            allow_leakage=self.allow_leakage,
        )
        print(json.dumps(done, indent=2) if self.json else "\n".join([*_lines(done), f"new model: {self.out}"]))
        return 0


def _lines(done: dict[str, Any]) -> list[str]:
    """What was used, and calibration and thresholds before and after."""
    lines = [", ".join(f"{number} {what}" for what, number in done["counts"].items())]
    left_out = {"that the model has seen": done["num_seen"], "refused": done["num_refused"]}
    if any(left_out.values()):
        lines.append(f"left out: {', '.join(f'{n} {what}' for what, n in left_out.items())}, listed in refused.csv")
    if done["unchecked"]:
        lines.append(f"NOT CHECKED for cases that trained the model: {done['unchecked']}")
    if done["leaks"]:
        lines.append(f"WITH LEAKAGE that was allowed: {'; '.join(done['leaks'])}")
    lines += done["notes"]
    for when, note in (("before", ""), ("after", "; fitted on these cases")):
        for name, line in done["calibration_lines"][when].items():
            figures = ", ".join(f"{what} {_figure(one)}" for what, one in line.items())
            lines.append(f"calibration {when}, class {name}: {figures}{note}")
    rules = done["rules"] if done["thresholds"]["after"] else []  # more than two classes have no threshold
    for (name, after), rule in zip(done["thresholds"]["after"].items(), rules, strict=True):
        before = done["thresholds"]["before"].get(name)
        was = "" if before is None else f"{before:.3g}, now "
        lines.append(f"threshold of {name}: {was}{after:.3g} ({rule})")
    lines += done["abstains"]
    return [*lines, f"gate: {done['gate']}"] if done["gate"] else lines


def _figure(ends: list[float] | None) -> str:
    return "undefined" if ends is None else "{:.2f} ({:.2f} to {:.2f})".format(*ends)
