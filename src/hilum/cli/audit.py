"""``hilum audit``: looks for leaks in a table of cases, and for what gives its labels away."""

import contextlib
import json
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from hilum.cli.arguments import CohortPath
from hilum.errors import require
from hilum.files import user_path
from hilum.settings.run import CohortConfig, ColumnsConfig, ReadingConfig, Recipe

if TYPE_CHECKING:
    from hilum.cohorts.audit import Audit
    from hilum.cohorts.table import Cohort
    from hilum.deciding.model_folder import ModelCard
    from hilum.training.run_folder import Run

_RECIPE = Recipe(region="whole", size=(48, 56, 64), extent_mm=(384.0, 448.0, 512.0))
"""Samples for the HU histogram where no run gives a recipe: whole scans in voxels of 8 mm, without lungs."""


@dataclass(frozen=True, kw_only=True)
class AuditCohort:
    """Look for leaks in a table of cases: patients, studies, scans and altered copies of scans in several parts.

    Also for technical tags that give the label away, classes whose scans are refused more often, and extreme values.
    Parts are those of the split column; with --run those of the run for its own table, and for another table all rows
    that are not marked train or val are compared with the training and validation cases of the run. Exits with 1 if
    anything leaks, else with 3 if scans were refused.
    """

    table: CohortPath
    """CSV, Excel or Parquet with paths and labels."""

    run_folder: Annotated[Path | None, tyro.conf.arg(name="run")] = None
    """A run or model folder, with whose cases those of the table are compared, and whose recipe is used."""

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """Names of the columns."""

    store: Path | None = None
    """Folder of prepared samples; by default a temporary one."""

    unchecked: bool = False
    """Compare scans with those of the run even if its patients cannot be recognised, as under another HILUM_KEY."""

    json: bool = False
    """Print one JSON object instead of a summary."""

    out: Path | None = None
    """Write the same JSON to this file too."""

    def __post_init__(self) -> None:
        require(not self.unchecked or self.run_folder is not None, "--unchecked", "given with --run", "no --run")

    def run(self) -> int:
        """Prepare the cases, audit them, and print what was found."""
        from hilum.cohorts.audit import AUDIT_MARK, audit
        from hilum.cohorts.prepared import prepare_cohort
        from hilum.cohorts.table import Cohort
        from hilum.errors import CohortError
        from hilum.files import check_output, write_whole
        from hilum.judging.candidates import check_recognised
        from hilum.preparing import Store
        from hilum.training.run_cases import known_cases, splits_of

        if self.out is not None:
            check_output(self.out, AUDIT_MARK, inputs=[self.table])
        basis = None if self.run_folder is None else _Basis.of(self.run_folder, self.table, self.columns)
        config = CohortConfig(unlabelled="drop", columns=self.columns) if basis is None else basis.cohort
        cohort = Cohort.read(self.table, config)
        recipe = _recipe_of(cohort) if basis is None else basis.recipe
        known, parts = None, {case.case_id: case.split for case in cohort.cases if case.split is not None}
        if basis is not None and basis.is_own:
            parts = splits_of(basis.run, cohort).parts
        elif basis is not None:
            known = known_cases(basis.run, basis.card)
            check_recognised(known.unchecked, unchecked=self.unchecked)
        with contextlib.ExitStack() as stack:
            folder = self.store or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-")))
            prepared = prepare_cohort(cohort, recipe, Store(folder, None if basis is None else basis.reading))
            found = audit(cohort, prepared, parts, known=known)
        refused = [f"refused, row {one.row}: {one.reason}" for one in prepared.refusals]
        text = json.dumps(found.as_dict(), indent=2)
        if self.out is not None:
            write_whole(self.out, text + "\n", mark=AUDIT_MARK)
        print(text if self.json else "\n".join([*cohort.warnings, *refused, *_summary(found)]))
        if found.leaks:
            more = f" (and {len(found.leaks) - 1} more leaks)" if len(found.leaks) > 1 else ""
            msg = f"{self.table} leaks: {found.leaks[0]}{more}"
            raise CohortError(msg)
        return 3 if prepared.refusals else 0


@dataclass(frozen=True, kw_only=True)
class _Basis:
    """What an audit takes from a run or a model.

    Attributes:
        run: The run, which need not be whole.
        card: Card of its model; None if it has none yet.
        cohort: Settings of the table.
        recipe: Recipe of the samples.
        reading: Policy of reading.
        is_own: Whether the table is the run's own.
    """

    run: "Run"
    card: "ModelCard | None"
    cohort: CohortConfig
    recipe: Recipe
    reading: ReadingConfig
    is_own: bool

    @classmethod
    def of(cls, folder: Path, table: Path, columns: ColumnsConfig) -> "_Basis":
        """Of a run with settings; or of a model around which there are none, such as one calibrated anew.

        Raises:
            HilumError: If the folder holds neither, or its model does not fit the table.
        """
        from hilum.deciding.model_folder import read_card
        from hilum.judging.candidates import label_columns
        from hilum.training.run_folder import Run

        run = Run.of(folder)
        if not run.settings_file.exists():
            alone = read_card(user_path(folder))
            columns = replace(columns, labels=label_columns(table, columns.labels, alone.decisions))
            cohort = CohortConfig(columns=columns, unlabelled="drop", classes=alone.classes)
            return cls(run=run, card=alone, cohort=cohort, recipe=alone.recipe, reading=alone.reading, is_own=False)
        card, settings = read_card(run.model) if run.state == "whole" else None, run.settings
        return cls(
            run=run,
            card=card,
            cohort=replace(settings.cohort, columns=settings.cohort.columns if columns == ColumnsConfig() else columns),
            recipe=settings.recipe,
            reading=settings.reading,
            is_own=run.table.exists() and table.samefile(run.table),
        )


def _recipe_of(cohort: "Cohort") -> Recipe:
    """The recipe of an audit without a run: for prepared volumes one of their own size, else a small one of scans."""
    import numpy as np

    path = cohort.cases[0].path if cohort.cases else Path()
    if path.suffix.lower() != ".npy":
        return _RECIPE
    try:
        shape = np.load(path, mmap_mode="r").shape
    except (OSError, ValueError):  # refused when it is prepared
        return _RECIPE
    if len(shape) != 3 or min(shape) < 1:
        return _RECIPE
    z, y, x = shape
    return replace(_RECIPE, size=(z, y, x), extent_mm=(float(z), float(y), float(x)))


def _summary(found: "Audit") -> list[str]:
    """The audit in lines."""
    lines = [f"{found.num_cases} cases"]
    none = "no leak was found in what could be compared; not all could:" if found.notes else "no leak was found"
    lines += [f"leak: {sentence}" for sentence in found.leaks] or [none]
    lines += list(found.notes)
    lines += [f"warning: {sentence}" for sentence in found.warnings]
    known = [one for one in found.giveaways if one.auc is not None]
    if known:
        lines += ["", "what alone tells the class: cross-validated AUC (95 % interval)"]
        width = max(len(one.tag) for one in known)
        lines += [
            f"  {one.tag:<{width}}  {one.target}: {one.auc:.2f} ({one.low:.2f} to {one.high:.2f})"
            + ("" if one.is_technical else ", for comparison")
            for one in known
        ]
    elif found.giveaways:
        lines.append(f"no AUC of technical tags: {found.giveaways[0].reason}")
    for refused in found.refused:
        counts = ", ".join(f"{number} of {name}" for name, number in sorted(refused.refused.items()))
        p = refused.reason if refused.p is None else f"p = {refused.p:.2g}"
        lines.append(f"refused{f' ({refused.target})' if refused.target else ''}: {counts} ({p})")
    lines += [
        f"column {one.column!r}: {one.missing:.1%} of the cells are empty, {len(one.extreme)} extreme values"
        for one in found.values
    ]
    return lines
