"""Judges a model on unseen cases: predictions, figures, pictures and a row for each case."""

import contextlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hilum.cohorts.audit import Audit, audit
from hilum.cohorts.copies import find_copies, join_patients
from hilum.cohorts.labels import labels_of
from hilum.cohorts.links import leakage_note
from hilum.cohorts.prepared import PreparedCohort, Refusal, prepare_cohort, write_refusals
from hilum.cohorts.table import Cohort
from hilum.errors import ConfigError, require
from hilum.files import user_path
from hilum.judging.candidates import Candidates, cases_of, check_leaks, own_cases, unseen_of
from hilum.judging.cohort_table import cohort_flow
from hilum.judging.evaluation_figures import EvaluationFigures
from hilum.judging.evaluation_folder import evaluation_folder_of
from hilum.judging.folds import evaluate_folds, predictors_out_of_fold
from hilum.judging.judge import check_folder, checked_prevalence, judge
from hilum.judging.model_facts import about_model, abstaining_facts, calibrated_at, case_columns
from hilum.judging.report import report
from hilum.judging.report_errors import CasePictures
from hilum.predicting import Prediction, Predictor, predict_prepared
from hilum.preparing import Store
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.training.run_cases import check_tested, known_cases, splits_of
from hilum.training.run_folder import Run

_log = logging.getLogger("hilum")


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
    allow_leakage: bool = False,
    prevalence: Sequence[float] = (),
    pictures: bool = False,
) -> EvaluationFigures:
    """Judge a model by its predictions on unseen cases.

    If a table has a split column, its test rows are judged, else all rows. Training and validation cases of the model
    are left out: they are recognised by keyed hashes of the patients, and by the HU of the scans, whatever their files.
    Scans that cannot be prepared are refused, and so are copies of one scan with different labels; all are listed in
    ``refused.csv``. Patients who share a scan, a study or near copies of a scan count as one.

    The unseen cases are audited: one of a study of the training cases, or a near copy of their scans, is a leak, and
    judging stops.

    Args:
        model: The run folder, or the model folder in it.
        table: The cases; None: the test part of the model's own run, or all cases of a run of folds, out of fold.
        out: Folder for ``evaluation.json``, ``cases.csv`` and the pictures; None: that of the run, for its own cases.
        columns: Names of the table's columns; for the run's own cases those of the run. A multi-label model uses
            columns with the names of its labels if ``columns.labels`` is empty.
        store: Folder of prepared samples; None: a temporary one, or for its own cases the run's.
        device: Device of the network.
        max_refused: Largest share of the unseen cases of a table that may be refused; the run's own cases were already
            checked in training.
        unchecked: Judge even if training cases cannot be recognised: the run was made with another key, by an older
            version, or is missing. Recognised cases are still left out; all figures are marked as unchecked.
        allow_leakage: Judge even if a leak is found; all figures are marked so.
        prevalence: Prevalence at which predictive values and net benefit are stated too: of the second of two classes,
            of each of more classes, or of each label.
        pictures: Show planes and maps of the most certain errors in the report, which must then not be shared.

    Returns:
        The content of evaluation.json, a dictionary; notebooks show it as a table.

    Raises:
        HilumError: If the model or the table is not usable, the cases cannot be checked or leak, too many are refused,
            or none is left.
    """
    run, table = Run.of(model), None if table is None else user_path(table)
    if out is None and table is not None:
        msg = "judging the cases of a table needs a folder for the figures: --out FOLDER"
        raise ConfigError(msg)
    out = (run.evaluation if out is None else user_path(out)).absolute()
    _check_place(out, is_own=table is None)
    check_folder(out, inputs=[] if table is None else [table])
    if table is None and run.is_of_folds:
        _check_of_folds(store, device)
        return EvaluationFigures(evaluate_folds(run, out, prevalence=prevalence, pictures=pictures))
    predictor = Predictor(model, device=device)
    decisions = predictor.card.decisions
    prevalence = checked_prevalence(prevalence, decisions.classes, multi_label=decisions.multi_label)
    if table is None:
        candidates = own_cases(run, predictor)
    else:
        candidates = replace(cases_of(table, run, predictor, columns, unchecked=unchecked), max_refused=max_refused)
    is_own_store = table is None and store is None
    store = run.store if is_own_store else store
    with contextlib.ExitStack() as stack:
        folder = user_path(store or stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-")))
        samples = Store(folder, predictor.card.reading, max_gb=run.settings.store_gb if is_own_store else 0.0)
        prepared = prepare_cohort(candidates.cohort, predictor.card.recipe, samples)
        if candidates.splits is not None:
            check_tested(run, prepared, candidates.splits)
        unseen, refused, seen = unseen_of(candidates, prepared)
        known = known_cases(run, predictor.card)
        found = audit(candidates.cohort, unseen, _roles(candidates.cohort, seen), known=known)
        leakage = _leakage(found, candidates, predictor, allowed=allow_leakage)
        predictions = list(predict_prepared(predictor, unseen))
        audited = {"leakage": leakage, "leaks_compared": not known.notes, "audit": found.as_dict()}
        about = {**_about(run, candidates, unseen, refused, seen), **audited}
        evaluation = _judged(candidates, predictor, unseen, predictions, out, found, prevalence, about)
        write_refusals(out / "refused.csv", (*seen, *refused))
        report(out, pictures=_pictures(unseen, predictor) if pictures else None)
    return EvaluationFigures(evaluation)


def _pictures(prepared: PreparedCohort, predictor: Predictor) -> CasePictures:
    """Cases that one model predicted."""
    samples = {case.case_id: file for case, file in zip(prepared.cases, prepared.samples, strict=True)}
    return CasePictures(samples=samples, predictor_of=lambda _case_id: predictor)


def _check_of_folds(store: str | Path | None, device: str) -> None:
    """Raise a ConfigError if an option is given that a run of folds has no use for."""
    require(store is None, "--store", "absent for a run of folds, which has its own", store)
    require(device == "auto", "--device", "absent for a run of folds, whose predictions are kept", device)


def _check_place(out: Path, *, is_own: bool) -> None:
    """Raise a ConfigError if figures would lie among the files of a run or model, or replace a run's own figures."""
    if Run(out).is_begun or (out / "model.json").exists():
        msg = f"the folder for the figures must not be a run or model folder, {out} is one"
        raise ConfigError(msg, hint="name another --out")
    around = Run(out.parent)
    if not is_own and out == around.evaluation and around.is_begun:
        msg = f"{out} is for the figures of the run's own test part, not for those of a table"
        raise ConfigError(msg, hint="name another --out")


def _roles(cohort: Cohort, seen: Sequence[Refusal]) -> dict[str, str]:
    """Train for cases that the model has seen, test for all others: a link between both is a leak."""
    left_out = {one.case_id for one in seen}
    return {case.case_id: "train" if case.case_id in left_out else "test" for case in cohort.cases}


def _leakage(found: Audit, candidates: Candidates, predictor: Predictor, *, allowed: bool) -> str:
    """The allowed leaks in one sentence without ids; empty if there are none.

    Raises:
        CohortError: If there are leaks, and they are allowed neither now nor, for the run's own cases, in training.
    """
    trained_with = predictor.card.training.get("leakage", "") if candidates.splits is not None else ""
    check_leaks(found.leaks, candidates.cohort.source, "to judge", allowed=allowed or bool(trained_with))
    return trained_with or (leakage_note(found.leaking) if found.leaks else "")


def _judged(
    candidates: Candidates,
    predictor: Predictor,
    unseen: PreparedCohort,
    predictions: list[Prediction],
    out: Path,
    found: Audit,
    prevalence: Sequence[float],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Judge predictions and write figures, pictures and cases."""
    copies = find_copies(unseen.cases, unseen.scans, at_points=predictor.card.recipe.region == "point")
    for warning in () if candidates.splits else (*copies.warnings, *found.warnings):  # training has logged its own
        _log.warning("%s", warning)
    for note in found.notes:
        _log.warning("warning: %s", note)
    decisions = predictor.card.decisions
    rules = [one.rule for one in decisions.each]
    marks = [f"NOT CHECKED for cases that trained the model: {candidates.unchecked}"] if candidates.unchecked else []
    marks += [f"WITH LEAKAGE: {about['leakage']}"] if about["leakage"] else []
    joined = join_patients(unseen.cases, copies, [link.cases for link in found.links])
    labels, probs = labels_of(unseen.cases), np.array([list(p.probabilities.values()) for p in predictions])
    return judge(
        case_ids=[case.case_id for case in unseen.cases],
        rows=[case.row for case in unseen.cases],
        scans=[unseen.scans.get(case.case_id, "") for case in unseen.cases],
        patients=[case.patient_id for case in joined],
        labels=labels,
        probs=probs,
        classes=decisions.classes,
        threshold=[one.threshold for one in decisions.each] if decisions.multi_label else decisions.each[0].threshold,
        folder=out,
        outcomes=[p.outcome for p in predictions],
        decided=decisions.decided(probs),
        points=[one.operating_points for one in decisions.each] if decisions.thresholds else (),
        prevalence=prevalence,
        calibrated_at=calibrated_at(decisions),
        columns=case_columns(unseen),
        note="; ".join(marks),
        extra={
            **about,
            "abstains": abstaining_facts(decisions, labels, [one.sets for one in predictions]),
            "seen_checked": not candidates.unchecked,
            "unchecked": candidates.unchecked,
            "threshold_rule": dict(zip(decisions.classes, rules, strict=True)) if decisions.multi_label else rules[0],
            "findings": unseen.findings,
            "model": about_model(predictor.card),
        },
    )


def _about(
    run: Run, candidates: Candidates, unseen: PreparedCohort, refused: Sequence[Refusal], seen: Sequence[Refusal]
) -> dict[str, Any]:
    """Keys of evaluation.json on the cases, beside their figures."""
    return {
        "num_seen": len(seen),
        "num_refused": len(refused),
        "cohort": cohort_flow(candidates, unseen, refused, seen),
        "training_audit": run.audit if candidates.splits is not None else None,
    }


def own_pictures(path: str | Path) -> CasePictures:
    """Samples of the test part of the run around an evaluation, prepared again if they are not in the run's store.

    Raises:
        HilumError: If there is no run around it, or its cohort has changed.
    """
    folder = evaluation_folder_of(path)
    run = Run(folder.parent)
    if not run.is_begun:
        msg = f"pictures need the scans, and the evaluation in {folder} lies in no run folder"
        raise ConfigError(msg, hint="judge the model again: hilum evaluate RUN COHORT --out FOLDER --pictures")
    predictor = Predictor(run.folder)
    card = predictor.card
    cohort = Cohort.read(run.table, replace(run.settings.cohort, classes=card.classes))
    parts = splits_of(run, cohort).parts
    judged = [case for case in cohort.labelled if run.is_of_folds or parts.get(case.case_id) == "test"]
    tested = replace(cohort, cases=tuple(judged))
    found = _pictures(prepare_cohort(tested, card.recipe, Store(run.store, card.reading)), predictor)
    return replace(found, predictor_of=predictors_out_of_fold(run, predictor)) if run.is_of_folds else found
