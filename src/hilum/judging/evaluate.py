"""Judges a model on unseen cases: predictions, figures, pictures and a row for each case."""

import contextlib
import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hilum.cohorts.copies import find_copies, join_patients
from hilum.cohorts.labels import labels_of
from hilum.cohorts.prepared import OPPOSED, PreparedCohort, Refusal, check_refusals, prepare_cohort, write_refusals
from hilum.cohorts.split_file import Splits, TrainedOn, read_splits
from hilum.cohorts.spreadsheet import read_sheet
from hilum.cohorts.table import Cohort
from hilum.deciding.decision import Decisions
from hilum.errors import CohortError, ConfigError, require
from hilum.files import user_path
from hilum.judging.cohort_table import refused_by_code, table_one
from hilum.judging.evaluation_folder import evaluation_folder_of
from hilum.judging.judge import check_folder, judge
from hilum.judging.report import report
from hilum.predicting import Prediction, Predictor, predict_prepared
from hilum.preparing import Store, load_sample
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.settings.toml import to_dict
from hilum.training.run_folder import Run

_log = logging.getLogger("hilum")


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """The cases to use, before training cases and refused ones are left out.

    Attributes:
        cohort: All of them.
        trained_on: Patients and scans to leave out.
        refused: Cases that the run refuses now, as copies with another label.
        unchecked: Why training cases cannot be recognised; empty if they can.
        splits: The split of the model's own run, if the cases are its test part.
        max_refused: Largest share that may be refused.
        whole: All labelled cases of the table, of every part.
        parts: Part of each case of the table.
    """

    cohort: Cohort
    trained_on: TrainedOn = field(default_factory=TrainedOn)
    refused: tuple[Refusal, ...] = ()
    unchecked: str = ""
    splits: Splits | None = None
    max_refused: float = 1.0
    whole: Cohort
    parts: dict[str, str]


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
    prevalence: Sequence[float] = (),
    pictures: bool = False,
) -> dict[str, Any]:
    """Judge a model by its predictions on unseen cases.

    If a table has a split column, its test rows are judged, else all rows. Training and validation cases of the model
    are left out: they are recognised by keyed hashes of the patients, and by the HU of the scans, whatever their files.
    Scans that cannot be prepared are refused, and so are copies of one scan with different labels; all are listed in
    ``refused.csv``. Patients who share a scan count as one.

    Args:
        model: The run folder, or the model folder in it.
        table: The cases; None: the test part of the model's own run.
        out: Folder for ``evaluation.json``, ``cases.csv`` and the pictures; None: that of the run, for its own cases.
        columns: Names of the table's columns; for the run's own cases those of the run. A multi-label model uses
            columns with the names of its labels if ``columns.labels`` is empty.
        store: Folder of prepared samples; None: a temporary one, or for its own cases the run's.
        device: Device of the network.
        max_refused: Largest share of the unseen cases of a table that may be refused; the run's own cases were already
            checked in training.
        unchecked: Judge even if training cases cannot be recognised: the run was made with another key, by an older
            version, or is missing. Recognised cases are still left out; all figures are marked as unchecked.
        prevalence: Prevalence at which predictive values and net benefit are stated too: of the second of two classes,
            of each of more classes, or of each label.
        pictures: Show planes of the most certain errors in the report, which must then not be shared.

    Returns:
        The content of evaluation.json.

    Raises:
        HilumError: If the model or the table is not usable, the cases cannot be checked, too many are refused, or none
            is left.
    """
    run, table = Run.of(model), None if table is None else user_path(table)
    if out is None and table is not None:
        msg = "judging the cases of a table needs a folder for the figures, out"
        raise ConfigError(msg)
    out = (run.evaluation if out is None else user_path(out)).absolute()
    _check_place(out, is_own=table is None)
    check_folder(out, inputs=[] if table is None else [table])
    predictor = Predictor(model, device=device)
    if table is None:
        candidates = _own_cases(run, predictor)
    else:
        candidates = replace(cases_of(table, run, predictor, columns, unchecked=unchecked), max_refused=max_refused)
    is_own_store = table is None and store is None
    store = run.store if is_own_store else store
    with contextlib.ExitStack() as stack:
        folder = user_path(store or stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-")))
        samples = Store(folder, predictor.card.reading, max_gb=run.settings.store_gb if is_own_store else 0.0)
        prepared = prepare_cohort(candidates.cohort, predictor.card.recipe, samples)
        if candidates.splits is not None:
            run.check_tested(prepared, candidates.splits)
        unseen, refused, seen = unseen_of(candidates, prepared)
        predictions = list(predict_prepared(predictor, unseen))
        tags = tags_of(unseen.samples)
        evaluation = _judged(
            candidates, predictor, unseen, predictions, out, tags, prevalence, _about(candidates, unseen, refused, seen)
        )
        write_refusals(out / "refused.csv", (*seen, *refused))
        report(out, samples=samples_by_case(unseen) if pictures else None)
    return evaluation


def _check_place(out: Path, *, is_own: bool) -> None:
    """Raise a ConfigError if figures would lie among the files of a run or model, or replace a run's own figures."""
    if Run(out).is_begun or (out / "model.json").exists():
        msg = f"the folder for the figures must not be a run or model folder, {out} is one"
        raise ConfigError(msg, hint="name another --out")
    around = Run(out.parent)
    if not is_own and out == around.evaluation and around.is_begun:
        msg = f"{out} is for the figures of the run's own test part, not for those of a table"
        raise ConfigError(msg, hint="name another --out")


def _judged(
    candidates: Candidates,
    predictor: Predictor,
    unseen: PreparedCohort,
    predictions: list[Prediction],
    out: Path,
    tags: dict[str, list[str]],
    prevalence: Sequence[float],
    about: dict[str, Any],
) -> dict[str, Any]:
    """Judge predictions and write figures, pictures and cases."""
    copies = find_copies(unseen.cases, unseen.scans, at_points=predictor.card.recipe.region == "point")
    for warning in () if candidates.splits else copies.warnings:  # training has logged those of its own table
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
        points=[one.operating_points for one in decisions.each] if decisions.thresholds else (),
        prevalence=prevalence,
        columns={name: [case.groups[name] for case in unseen.cases] for name in unseen.cases[0].groups} | tags,
        note=f"NOT CHECKED for cases that trained the model: {candidates.unchecked}" if candidates.unchecked else "",
        extra={
            **about,
            "num_indeterminate": sum(bool(p.reason) for p in predictions),
            "seen_checked": not candidates.unchecked,
            "unchecked": candidates.unchecked,
            "threshold_rule": dict(zip(decisions.classes, rules, strict=True)) if decisions.multi_label else rules[0],
            "findings": unseen.findings,
            "model": _about_model(predictor),
        },
    )


def _own_cases(run: Run, predictor: Predictor) -> Candidates:
    """The test part of the model's own run.

    Raises:
        ConfigError: If there is no run folder around the model.
        CohortError: If another split trained the model, or the table has changed since the run began.
    """
    on_table = "judge it on a table: hilum evaluate RUN COHORT --out FOLDER"
    if not run.settings_file.exists():
        msg = f"the model has no test part of its own, since it lies in no whole run folder: no {run.settings_file}"
        raise ConfigError(msg, hint=on_table)
    config, decisions = run.settings.cohort, predictor.card.decisions
    read_splits(run.splits_file)  # a missing, damaged or newer file is no other split
    if not run.trained(predictor.card):
        msg = f"the model was trained with another split than that of {run.folder}, so its test part is not known"
        raise CohortError(msg, hint=on_table)
    given = config.columns.labels
    must = "labels, as the model has them" if decisions.multi_label else "empty, as the model has classes"
    require(bool(given) == decisions.multi_label, f"columns.labels in {run.settings_file}", must, given)
    cohort = Cohort.read(run.table, replace(config, classes=decisions.classes))
    splits = run.splits(cohort)
    at_points = predictor.card.recipe.region == "point"
    opposed = find_copies(cohort.cases, splits.scans, at_points=at_points).reasons  # in whatever part
    tested = [case for case in cohort.cases if splits.parts.get(case.case_id) == "test"]
    return Candidates(
        whole=cohort,
        parts=splits.parts,
        cohort=replace(cohort, cases=tuple(case for case in tested if case.case_id not in opposed)),
        refused=tuple(
            Refusal(case_id=case.case_id, row=case.row, reason=opposed[case.case_id], code=OPPOSED)
            for case in tested
            if case.case_id in opposed
        ),
        splits=splits,
    )


def cases_of(
    table: Path,
    run: Run,
    predictor: Predictor,
    columns: ColumnsConfig | None,
    *,
    unchecked: bool,
    part: Literal["val", "test"] = "test",
) -> Candidates:
    """The cases of a table, of one part if it has a split, and the patients and scans that trained the model.

    Raises:
        CohortError: If training cases cannot be recognised, and ``unchecked`` is not given.
    """
    why = run.why_unchecked(predictor.card)
    if why and not unchecked:
        msg = f"cases that trained the model cannot be told from others: {why}"
        hint = (
            "name it in its run folder and under the key of the run (set HILUM_KEY, or the site's key file); or give "
            "--unchecked to go on anyway"
        )
        raise CohortError(msg, hint=hint)
    if why:
        _log.warning("warning: unchecked: %s", why)
    columns = columns or ColumnsConfig()
    columns = replace(columns, labels=_label_columns(table, columns.labels, predictor.card.decisions))
    config = CohortConfig(columns=columns, unlabelled="drop", classes=predictor.card.decisions.classes)
    cohort = Cohort.read(table, config)
    for warning in cohort.warnings:
        _log.warning("%s", warning)
    whole, parts = cohort, {case.case_id: case.split or "judged" for case in cohort.cases}
    if any(case.split for case in cohort.cases):
        cohort = replace(cohort, cases=tuple(case for case in cohort.cases if case.split == part))
        if not cohort.cases:
            msg = f"{cohort.source}: there must be rows with split = {part} to use, or no column split"
            raise CohortError(msg)
    trained_on = read_splits(run.splits_file).trained_on if run.trained(predictor.card) else TrainedOn()
    return Candidates(cohort=cohort, trained_on=trained_on, unchecked=why, whole=whole, parts=parts)


def unseen_of(candidates: Candidates, prepared: PreparedCohort) -> tuple[PreparedCohort, list[Refusal], list[Refusal]]:
    """Divide cases into unseen ones, refused ones, and those that trained or validated the model.

    A training patient is recognised by id, by a scan, or by sharing a scan with another training patient. So the scans
    of patients who are recognised by id are prepared as well.

    Raises:
        CohortError: If none is left, or too many are refused.
    """
    cohort = candidates.cohort
    patient_of = {case.case_id: case.patient_id for case in join_patients(cohort.cases, prepared.copies)}
    patients = {
        patient_of[case.case_id]
        for case in cohort.cases
        if candidates.trained_on.has(case, prepared.scans.get(case.case_id, ""))
    }
    reason = "this patient or scan trained or validated the model"
    seen = [
        Refusal(case_id=case.case_id, row=case.row, reason=reason, code="seen")
        for case in cohort.cases
        if patient_of[case.case_id] in patients
    ]
    known = {one.case_id for one in seen}
    refused = [*candidates.refused, *(one for one in prepared.refusals if one.case_id not in known)]
    num_unseen = len(cohort.cases) + len(candidates.refused) - len(known)
    check_refusals(cohort.source, num_unseen, refused, candidates.max_refused, "--cohort.max-refused")
    pairs = [pair for pair in zip(prepared.cases, prepared.samples, strict=True) if pair[0].case_id not in known]
    if not pairs:
        msg = f"{cohort.source}: no case is left; the model has seen {len(known)} of {len(cohort.cases)}"
        raise CohortError(msg)
    cases, samples = zip(*pairs, strict=True)
    return replace(prepared, cases=cases, samples=samples), refused, seen


def _about(
    candidates: Candidates, unseen: PreparedCohort, refused: Sequence[Refusal], seen: Sequence[Refusal]
) -> dict[str, Any]:
    """Keys of evaluation.json on the cases, beside their figures."""
    return {
        "num_seen": len(seen),
        "num_refused": len(refused),
        "cohort": _cohort(candidates, unseen, refused, seen),
    }


def samples_by_case(prepared: PreparedCohort) -> dict[str, Path]:
    """Sample files by case id."""
    return {case.case_id: file for case, file in zip(prepared.cases, prepared.samples, strict=True)}


def own_samples(path: str | Path) -> dict[str, Path]:
    """Samples of the test part of the run around an evaluation, prepared again if they are not in the run's store.

    Raises:
        HilumError: If there is no run around it, or its cohort has changed.
    """
    folder = evaluation_folder_of(path)
    run = Run(folder.parent)
    if not run.is_begun:
        msg = f"pictures need the scans, and the evaluation in {folder} lies in no run folder"
        raise ConfigError(msg, hint="judge the model again: hilum evaluate RUN COHORT --out FOLDER --pictures")
    card = Predictor(run.folder).card
    cohort = Cohort.read(run.table, replace(run.settings.cohort, classes=card.classes))
    parts = run.splits(cohort).parts
    tested = replace(cohort, cases=tuple(case for case in cohort.cases if parts.get(case.case_id) == "test"))
    return samples_by_case(prepare_cohort(tested, card.recipe, Store(run.store, card.reading)))


def _cohort(
    candidates: Candidates, unseen: PreparedCohort, refused: Sequence[Refusal], seen: Sequence[Refusal]
) -> dict[str, Any]:
    """The flow from the table's rows to the judged cases, and the table of its parts."""
    whole, parts = candidates.whole, dict(candidates.parts)
    left_out = {one.case_id for one in (*refused, *seen)}
    judged = {case.case_id for case in unseen.cases}
    parts = {case_id: part for case_id, part in parts.items() if case_id not in left_out}
    if candidates.splits is None:
        parts = dict.fromkeys(judged, "judged")
    return {
        "num_rows": len(whole.cases) + whole.num_unlabelled,
        "num_unlabelled": whole.num_unlabelled,
        "num_other_parts": len(whole.cases) - len(candidates.cohort.cases) - len(candidates.refused),
        "num_seen": len(seen),
        "refused_by_code": refused_by_code(refused),
        "num_judged": len(judged),
        "table_one": table_one(whole.cases, parts, whole.classes),
    }


def tags_of(samples: Sequence[Path]) -> dict[str, list[str]]:
    """Technical tags of prepared samples as columns of text, empty where missing; tags that none has are left out."""
    tags = [load_sample(file).tags for file in samples]
    columns = {
        "kernel": [one.kernel for one in tags],
        "manufacturer": [one.manufacturer for one in tags],
        "scanner model": [one.model for one in tags],
        "slice thickness, mm": ["" if one.thickness_mm is None else f"{one.thickness_mm:g}" for one in tags],
    }
    return {name: texts for name, texts in columns.items() if any(texts)}


def _about_model(predictor: Predictor) -> dict[str, Any]:
    """What the report says of the model: network, input, decisions, training; no ids, paths or host."""
    card = predictor.card
    training = {name: value for name, value in card.training.items() if name != "split"}
    return {
        "version": card.version,
        "network": to_dict(card.model),
        "recipe": to_dict(card.recipe),
        "decisions": to_dict(card.decisions),
        "training": training,
    }


def _label_columns(table: Path, given: tuple[str, ...], decisions: Decisions) -> tuple[str, ...]:
    """Columns of a table for the labels of a multi-label model, in its order; empty for other models.

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
    columns = read_sheet(table).columns
    missing = [name for name in names if name not in columns]
    if missing:
        msg = (
            f"{table}: there must be a column for each label of the model, got none for {', '.join(missing)}, but "
            f"the columns {', '.join(columns)}; name those of {', '.join(names)}, in this order, with columns.labels"
        )
        raise CohortError(msg)
    return names
