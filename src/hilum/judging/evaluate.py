"""A model folder and a table of cases it has not seen to figures, pictures and a row for each case."""

import contextlib
import logging
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hilum.cohorts.copies import find_copies, join_patients
from hilum.cohorts.labels import labels_of
from hilum.cohorts.prepared import PreparedCohort, Refusal, check_refusals, prepare_cohort, write_refusals
from hilum.cohorts.splits import Seen, other_key, patient_key, read_scans, read_seen, read_splits, scan_key
from hilum.cohorts.spreadsheet import read_sheet
from hilum.cohorts.table import Cohort
from hilum.deciding.decision import Decisions
from hilum.errors import CohortError, ConfigError, require
from hilum.judging.judge import judge
from hilum.predicting import Predictor, predict_prepared
from hilum.preparing import Store
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.settings.toml import load

_log = logging.getLogger("hilum")


def evaluate(
    model: str | Path,
    table: str | Path | None,
    out: str | Path,
    *,
    columns: ColumnsConfig | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    max_refused: float = CohortConfig().max_refused,
) -> dict[str, Any]:
    """Judge a model by its predictions on cases it has not seen.

    Of a table with a split column the rows marked test are judged, else all rows. Cases that trained or validated the
    model are left out: they are known by keyed hashes of the patients, and of the scans' HU, whatever their files.
    Scans that cannot be prepared are refused, and so are copies of one scan whose labels differ; all are listed in
    ``refused.csv``. Patients who share a scan count as one.

    Args:
        model: The model folder; ``splits.csv`` of its run, where it still lies beside it, tells who has been seen.
        table: The cases; None: the test part of the model's own run.
        out: Folder for ``evaluation.json``, ``cases.csv`` and the pictures.
        columns: Which column of the table holds what; those of the run where the table is its own. A model of findings
            looks for columns of their names where ``columns.labels`` is empty.
        store: Where prepared samples are kept; None: for the time of the run, or in the run's own store.
        device: Where the network runs.
        max_refused: Largest share of the unseen cases of a table that may be refused before it is an error; of its own
            run the training has seen to that.

    Returns:
        What evaluation.json holds.

    Raises:
        HilumError: If the model or the table is not usable, too many cases are refused, or no case is left.
    """
    model, out = Path(model), Path(out).absolute()
    if out.exists() and not out.is_dir():
        msg = f"the folder for the figures must be new or a folder, {out} is a file"
        raise ConfigError(msg)
    predictor = Predictor(model, device=device)
    run, recipe = model.resolve().parent, predictor.card.recipe
    at_points = recipe.region == "point"
    cohort = _cohort(predictor, run, Path(table) if table is not None else None, columns)
    splits = run / "splits.csv"
    seen = read_seen(splits) if splits.exists() else Seen(scans_known=False)
    refused: list[Refusal] = []
    if table is None:
        seen = Seen()  # the split itself says who tests
        max_refused = 1.0
        parts = read_splits(splits, named_by_path=cohort.named_by_path)
        opposed = find_copies(cohort.cases, read_scans(splits), at_points=at_points).reasons  # in whatever part
        if cohort.named_by_path and not any(case.case_id in parts for case in cohort.cases):
            raise CohortError(other_key(run))
        tested = [case for case in cohort.cases if parts.get(case.case_id) == "test"]
        refused = [Refusal(case_id=i, row=c.row, reason=opposed[i]) for c in tested if (i := c.case_id) in opposed]
        cohort = replace(cohort, cases=tuple(case for case in tested if case.case_id not in opposed))
        store = store or run / load(run / "config.toml").store
    elif any(case.split for case in cohort.cases):
        cohort = replace(cohort, cases=tuple(c for c in cohort.cases if c.split == "test"))
    if not splits.exists():
        _log.warning(
            "warning: %s is not there: cases that trained the model cannot be told, and are not left out", splits
        )
    elif not seen.scans_known:
        _log.warning(
            "warning: %s is of an older Hilum: patients who trained the model are left out, but scans that trained it "
            "cannot be told under other ids; train anew to have them checked", splits
        )  # fmt: skip
    with contextlib.ExitStack() as stack:
        folder = Path(store) if store else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-")))
        prepared = prepare_cohort(cohort, recipe, Store(folder, predictor.card.reading))
        known = _known(cohort, prepared, seen)
        refused += [one for one in prepared.refusals if one.case_id not in known]
        check_refusals(cohort.source, len(cohort.cases) - len(known), refused, max_refused, "--max-refused")
        pairs = [pair for pair in zip(prepared.cases, prepared.samples, strict=True) if pair[0].case_id not in known]
        if not pairs:
            msg = f"{cohort.source}: no case is left to judge; the model has seen {len(known)} of {len(cohort.cases)}"
            raise CohortError(msg)
        prepared = replace(prepared, cases=tuple(case for case, _ in pairs), samples=tuple(file for _, file in pairs))
        copies = find_copies(prepared.cases, prepared.scans, at_points=at_points)
        for warning in copies.warnings if table is not None else ():  # of its own table the training has said them
            _log.warning("%s", warning)
        predictions = list(predict_prepared(predictor, prepared))
    decisions = predictor.card.decisions
    rules = [one.rule for one in decisions.each]
    answer = judge(
        case_ids=[case.case_id for case in prepared.cases],
        rows=[case.row for case in prepared.cases],
        patients=[case.patient_id for case in join_patients(prepared.cases, copies)],
        labels=labels_of(prepared.cases),
        probs=np.array([list(p.probabilities.values()) for p in predictions]),
        classes=decisions.classes,
        threshold=[one.threshold for one in decisions.each] if decisions.multi_label else decisions.each[0].threshold,
        folder=out,
        doubts=[p.reason for p in predictions],
        extra={
            "num_seen": len(known),
            "num_refused": len(refused),
            "num_indeterminate": sum(bool(p.reason) for p in predictions),
            "seen_checked": seen.scans_known,
            "threshold_rule": dict(zip(decisions.classes, rules, strict=True)) if decisions.multi_label else rules[0],
            "findings": prepared.findings,
        },
    )
    reason = "this patient or scan trained or validated the model"
    left_out = [Refusal(case_id=c.case_id, row=c.row, reason=reason) for c in cohort.cases if c.case_id in known]
    write_refusals(out / "refused.csv", (*left_out, *refused))
    return answer


def _known(cohort: Cohort, prepared: PreparedCohort, seen: Seen) -> set[str]:
    """Ids of the cases of patients who trained or validated the model.

    They are known by their ids, by their scans, and by the scans of others who are the same patient by a scan of
    theirs. So the scans of those who are known by their ids are prepared as well.
    """
    patient_of = {case.case_id: case.patient_id for case in join_patients(cohort.cases, prepared.copies)}
    patients = {
        patient_of[case.case_id]
        for case in cohort.cases
        if patient_key(case) in seen.patients or scan_key(prepared.scans.get(case.case_id, "")) in seen.scans
    }
    return {case_id for case_id, patient in patient_of.items() if patient in patients}


def headline(answer: dict[str, Any]) -> str:
    """The figures that matter most, in one line."""
    if answer.get("multi_label"):
        about, figures = _of_findings(answer)
    elif "num_positives" in answer:
        about = f", {answer['num_positives']} of class {answer['classes'][1]}"
        figures = [_shown(answer, name) for name in ("auc", "sensitivity", "specificity")]
    else:
        about, figures = "", [_shown(answer, name) for name in ("macro_auc", "balanced_accuracy")]
    seen = f"; {answer['num_seen']} left out, for the model has seen them" if answer.get("num_seen") else ""
    refused = f"; {answer['num_refused']} refused" if answer.get("num_refused") else ""
    return f"{answer['num_cases']} cases{about}: {', '.join(filter(None, figures))}{seen}{refused}"


def _shown(answer: dict[str, Any], name: str) -> str:
    """A figure with its interval; empty where it does not exist."""
    value, ci = answer.get(name), answer.get(f"{name}_ci", [None, None])
    if value is None or None in ci:
        return ""
    return f"{name.replace('_', ' ').replace('auc', 'AUC')} {value:.3f} ({ci[0]:.3f} to {ci[1]:.3f})"


def _of_findings(answer: dict[str, Any]) -> tuple[str, list[str]]:
    """The means, and what they hide: the rarest finding, the one that is told apart worst, and those without an AUC."""
    found = answer["by_finding"]
    rarest = min(found, key=lambda name: found[name]["num_positives"])
    known = [name for name in found if found[name]["auc"] is not None]
    figures = [_shown(answer, name) for name in ("macro_auc", "macro_average_precision")]
    if known:
        lowest = min(known, key=lambda name: found[name]["auc"])
        figures.append(f"lowest {_shown(found[lowest], 'auc')} of {lowest}")
    if len(known) < len(found):
        figures.append(f"no AUC of {', '.join(name for name in found if name not in known)}")
    return f", {len(found)} findings, the rarest ({rarest}) in {found[rarest]['num_positives']}", figures


def _cohort(predictor: Predictor, run: Path, table: Path | None, columns: ColumnsConfig | None) -> Cohort:
    """The cases, with the model's classes; of the run's own table with the run's own settings."""
    decisions, own = predictor.card.decisions, table is None
    if table is None:
        config = load(run / "config.toml").cohort
        table, given = Path(os.path.normpath(run / config.table)), config.columns.labels
        must = "findings, as the model has them" if decisions.multi_label else "empty, as the model has classes"
        require(bool(given) == decisions.multi_label, f"columns.labels in {run / 'config.toml'}", must, given)
    else:
        columns = columns or ColumnsConfig()
        columns = replace(columns, labels=_findings(table, columns.labels, decisions))
        config = CohortConfig(columns=columns, unlabelled="drop")
    cohort = Cohort.read(table, replace(config, classes=decisions.classes))
    for warning in () if own else cohort.warnings:  # of its own table the training has said them
        _log.warning("%s", warning)
    return cohort


def _findings(table: Path, given: tuple[str, ...], decisions: Decisions) -> tuple[str, ...]:
    """The columns of another table for the model's findings, in their order; none for classes that exclude another.

    Raises:
        ConfigError: If columns are given that do not fit the model.
        CohortError: If none are given, and the table has none of their names.
    """
    names = decisions.classes
    if not decisions.multi_label:
        classes = ", ".join(names)
        require(not given, "columns.labels", f"empty, for the model decides between classes ({classes})", given)
        return ()
    if given:
        if set(given) == set(names):
            return names
        must = f"the columns of the model's {len(names)} findings, in this order: {', '.join(names)}"
        require(len(given) == len(names), "columns.labels", must, given)
        swapped = [one for one, name in zip(given, names, strict=True) if one != name and one in names]
        require(not swapped, "columns.labels", must, given)
        return given
    there = read_sheet(table).columns
    missing = [name for name in names if name not in there]
    if missing:
        msg = (
            f"{table}: there must be a column for each finding of the model, got none for {', '.join(missing)}, but "
            f"the columns {', '.join(there)}; name those of {', '.join(names)}, in this order, with columns.labels"
        )
        raise CohortError(msg)
    return names
