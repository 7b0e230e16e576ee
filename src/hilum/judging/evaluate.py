"""Judges a model on cases that it has not seen: its predictions, figures, pictures and a row for each case."""

import contextlib
import logging
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from hilum.cohorts.copies import find_copies, join_patients
from hilum.cohorts.labels import labels_of
from hilum.cohorts.prepared import PreparedCohort, Refusal, check_refusals, prepare_cohort, write_refusals
from hilum.cohorts.split_file import TrainedOn, read_splits
from hilum.cohorts.spreadsheet import read_sheet
from hilum.cohorts.table import Cohort
from hilum.deciding.decision import Decisions
from hilum.errors import CohortError, ConfigError, require
from hilum.judging.judge import check_folder, judge
from hilum.predicting import Prediction, Predictor, predict_prepared
from hilum.preparing import Store
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.training.run_folder import Run

_log = logging.getLogger("hilum")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """The cases that are to be judged.

    Attributes:
        cohort: All of them.
        trained_on: Who must be left out.
        refused: Those that the run would refuse today.
        unchecked: Why cases that trained the model cannot be told from others; empty where they can.
        own: Whether they are the test part of the model's own run.
        max_refused: Largest share that may be refused.
    """

    cohort: Cohort
    trained_on: TrainedOn = field(default_factory=TrainedOn)
    refused: tuple[Refusal, ...] = ()
    unchecked: str = ""
    own: bool = False
    max_refused: float = 1.0


def evaluate(
    model: str | Path,
    table: str | Path | None = None,
    out: str | Path | None = None,
    *,
    columns: ColumnsConfig | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    max_refused: float = CohortConfig().max_refused,
    unchecked: bool = False,
) -> dict[str, Any]:
    """Judge a model by its predictions on cases it has not seen.

    Of a table with a split column the rows marked test are judged, else all rows. Cases that trained or validated the
    model are left out: they are recognised by keyed hashes of the patients, and by the scans' HU, whatever their files.
    Scans that cannot be prepared are refused, and so are copies of one scan whose labels differ; all are listed in
    ``refused.csv``. Patients who share a scan count as one.

    Args:
        model: The run folder, or the model folder in it.
        table: The cases; None: the test part of the model's own run.
        out: Folder for ``evaluation.json``, ``cases.csv`` and the pictures; None: that of the run, for its own cases.
        columns: Which column of the table holds what; those of the run where the table is its own. A model of several
            labels looks for columns of their names where ``columns.labels`` is empty.
        store: Where prepared samples are kept; None: for the time of the call, or in the run's own store.
        device: Where the network runs.
        max_refused: Largest share of the unseen cases of a table that may be refused before it is an error; of its own
            run the training has seen to that.
        unchecked: Judge even where nothing tells which cases trained the model: the run was made with another key, by
            an older Hilum, or is not there. What can be recognised is left out; all figures say that they are
            unchecked.

    Returns:
        What evaluation.json holds.

    Raises:
        HilumError: If the model or the table is not usable, the cases cannot be checked, too many are refused, or none
            is left.
    """
    run = Run(model) if (Path(model) / "config.toml").is_file() else Run.of_model(model)
    if out is None and table is not None:
        msg = "judging the cases of a table needs a folder for the figures, out"
        raise ConfigError(msg)
    out = (run.evaluation if out is None else Path(out)).absolute()
    check_folder(out)
    predictor = Predictor(model, device=device)
    if table is None:
        asked = _own_cases(run, predictor)
        store = store or run.store
    else:
        asked = _cases_of(Path(table), run, predictor, columns, unchecked=unchecked)
        asked = replace(asked, max_refused=max_refused)
    with contextlib.ExitStack() as stack:
        folder = Path(store) if store else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-")))
        samples = Store(folder, predictor.card.reading)
        prepared = prepare_cohort(asked.cohort, predictor.card.recipe, samples)
        unseen, refused, seen = _unseen(asked, prepared)
        predictions = list(predict_prepared(predictor, unseen))
    answer = _judged(asked, predictor, unseen, predictions, out, num_seen=len(seen), num_refused=len(refused))
    write_refusals(out / "refused.csv", (*seen, *refused))
    return answer


def _judged(
    asked: _Asked,
    predictor: Predictor,
    unseen: PreparedCohort,
    predictions: list[Prediction],
    out: Path,
    **counts: int,
) -> dict[str, Any]:
    """Figures, pictures and cases of the predictions."""
    copies = find_copies(unseen.cases, unseen.scans, at_points=predictor.card.recipe.region == "point")
    for warning in () if asked.own else copies.warnings:  # of its own table the training has logged them
        _log.warning("%s", warning)
    decisions = predictor.card.decisions
    rules = [one.rule for one in decisions.each]
    return judge(
        case_ids=[case.case_id for case in unseen.cases],
        rows=[case.row for case in unseen.cases],
        patients=[case.patient_id for case in join_patients(unseen.cases, copies)],
        labels=labels_of(unseen.cases),
        probs=np.array([list(p.probabilities.values()) for p in predictions]),
        classes=decisions.classes,
        threshold=[one.threshold for one in decisions.each] if decisions.multi_label else decisions.each[0].threshold,
        folder=out,
        doubts=[p.reason for p in predictions],
        note=f"NOT CHECKED for cases that trained the model: {asked.unchecked}" if asked.unchecked else "",
        extra={
            **counts,
            "num_indeterminate": sum(bool(p.reason) for p in predictions),
            "seen_checked": not asked.unchecked,
            "unchecked": asked.unchecked,
            "threshold_rule": dict(zip(decisions.classes, rules, strict=True)) if decisions.multi_label else rules[0],
            "findings": unseen.findings,
        },
    )


def _own_cases(run: Run, predictor: Predictor) -> _Asked:
    """The test part of the run, by its own split and with its own columns."""
    config, decisions = run.settings.cohort, predictor.card.decisions
    given = config.columns.labels
    must = "labels, as the model has them" if decisions.multi_label else "empty, as the model has classes"
    require(bool(given) == decisions.multi_label, f"columns.labels in {run.settings_file}", must, given)
    cohort = Cohort.read(run.table, replace(config, classes=decisions.classes))
    splits = run.splits(cohort)
    at_points = predictor.card.recipe.region == "point"
    opposed = find_copies(cohort.cases, splits.scans, at_points=at_points).reasons  # in whatever part
    tested = [case for case in cohort.cases if splits.parts.get(case.case_id) == "test"]
    return _Asked(
        cohort=replace(cohort, cases=tuple(case for case in tested if case.case_id not in opposed)),
        refused=tuple(
            Refusal(case_id=case.case_id, row=case.row, reason=opposed[case.case_id])
            for case in tested
            if case.case_id in opposed
        ),
        own=True,
    )


def _cases_of(table: Path, run: Run, predictor: Predictor, columns: ColumnsConfig | None, *, unchecked: bool) -> _Asked:
    """The cases of another table, and what tells those that trained the model.

    Raises:
        CohortError: If nothing tells them, and ``unchecked`` is not given.
    """
    why = run.why_unchecked()
    if why and not unchecked:
        msg = f"cases that trained the model cannot be told from others: {why}"
        hint = "set HILUM_KEY, or the key file of the site, to the key of the run; or give --unchecked to judge anyway"
        raise CohortError(msg, hint=hint)
    if why:
        _log.warning("warning: unchecked: %s", why)
    columns = columns or ColumnsConfig()
    columns = replace(columns, labels=_label_columns(table, columns.labels, predictor.card.decisions))
    config = CohortConfig(columns=columns, unlabelled="drop", classes=predictor.card.decisions.classes)
    cohort = Cohort.read(table, config)
    for warning in cohort.warnings:
        _log.warning("%s", warning)
    if any(case.split for case in cohort.cases):
        cohort = replace(cohort, cases=tuple(case for case in cohort.cases if case.split == "test"))
    trained_on = read_splits(run.splits_file).trained_on if run.splits_file.exists() else TrainedOn()
    return _Asked(cohort=cohort, trained_on=trained_on, unchecked=why)


def _unseen(asked: _Asked, prepared: PreparedCohort) -> tuple[PreparedCohort, list[Refusal], list[Refusal]]:
    """The cases that did not train the model, the refused ones among them, and the others, each with its reason.

    Cases of a patient who trained it are recognised by his id, by one of his scans, or by a scan of another who is the
    same patient by a scan of theirs. So the scans of those who are known by their ids are prepared as well.

    Raises:
        CohortError: If none is left, or too many are refused.
    """
    cohort = asked.cohort
    patient_of = {case.case_id: case.patient_id for case in join_patients(cohort.cases, prepared.copies)}
    patients = {
        patient_of[case.case_id]
        for case in cohort.cases
        if asked.trained_on.has(case, prepared.scans.get(case.case_id, ""))
    }
    reason = "this patient or scan trained or validated the model"
    seen = [
        Refusal(case_id=case.case_id, row=case.row, reason=reason)
        for case in cohort.cases
        if patient_of[case.case_id] in patients
    ]
    known = {one.case_id for one in seen}
    refused = [*asked.refused, *(one for one in prepared.refusals if one.case_id not in known)]
    check_refusals(cohort.source, len(cohort.cases) - len(known), refused, asked.max_refused, "--cohort.max-refused")
    pairs = [pair for pair in zip(prepared.cases, prepared.samples, strict=True) if pair[0].case_id not in known]
    if not pairs:
        msg = f"{cohort.source}: no case is left to judge; the model has seen {len(known)} of {len(cohort.cases)}"
        raise CohortError(msg)
    cases, samples = zip(*pairs, strict=True)
    return replace(prepared, cases=cases, samples=samples), refused, seen


def headline(answer: dict[str, Any]) -> str:
    """The figures that matter most, in one line."""
    if answer.get("multi_label"):
        about, figures = _label_figures(answer)
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


def _label_figures(answer: dict[str, Any]) -> tuple[str, list[str]]:
    """The means, and what they hide: the rarest label, the one with the lowest AUC, and those without one."""
    found = answer["by_finding"]
    rarest = min(found, key=lambda name: found[name]["num_positives"])
    known = [name for name in found if found[name]["auc"] is not None]
    figures = [_shown(answer, name) for name in ("macro_auc", "macro_average_precision")]
    if known:
        lowest = min(known, key=lambda name: found[name]["auc"])
        figures.append(f"lowest {_shown(found[lowest], 'auc')} of {lowest}")
    if len(known) < len(found):
        figures.append(f"no AUC of {', '.join(name for name in found if name not in known)}")
    return f", {len(found)} labels, the rarest ({rarest}) in {found[rarest]['num_positives']}", figures


def _label_columns(table: Path, given: tuple[str, ...], decisions: Decisions) -> tuple[str, ...]:
    """The columns of another table for the model's labels, in their order; none for classes that exclude another.

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
        must = f"the columns of the model's {len(names)} labels, in this order: {', '.join(names)}"
        require(len(given) == len(names), "columns.labels", must, given)
        swapped = [one for one, name in zip(given, names, strict=True) if one != name and one in names]
        require(not swapped, "columns.labels", must, given)
        return given
    there = read_sheet(table).columns
    missing = [name for name in names if name not in there]
    if missing:
        msg = (
            f"{table}: there must be a column for each label of the model, got none for {', '.join(missing)}, but "
            f"the columns {', '.join(there)}; name those of {', '.join(names)}, in this order, with columns.labels"
        )
        raise CohortError(msg)
    return names
