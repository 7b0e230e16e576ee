"""Which cases are judged: those of a run's own test part or of a table, without those that the model has seen."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from hilum.cohorts.copies import find_copies, join_patients
from hilum.cohorts.prepared import OPPOSED, PreparedCohort, Refusal, check_refusals
from hilum.cohorts.split_file import Splits, TrainedOn, read_splits
from hilum.cohorts.spreadsheet import read_sheet
from hilum.cohorts.table import Cohort
from hilum.deciding.decision import Decisions
from hilum.errors import CohortError, ConfigError, require
from hilum.predicting import Predictor
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.training.run_cases import has_trained, splits_of, why_unchecked
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
        refused_before: Ids of the cases that were refused when the run began.
    """

    cohort: Cohort
    trained_on: TrainedOn = field(default_factory=TrainedOn)
    refused: tuple[Refusal, ...] = ()
    unchecked: str = ""
    splits: Splits | None = None
    max_refused: float = 1.0
    whole: Cohort
    parts: dict[str, str]
    refused_before: frozenset[str] = frozenset()


def own_cases(run: Run, predictor: Predictor) -> Candidates:
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
    if not has_trained(run, predictor.card):
        msg = f"the model was trained with another split than that of {run.folder}, so its test part is not known"
        raise CohortError(msg, hint=on_table)
    given = config.columns.labels
    must = "labels, as the model has them" if decisions.multi_label else "empty, as the model has classes"
    require(bool(given) == decisions.multi_label, f"columns.labels in {run.settings_file}", must, given)
    cohort = Cohort.read(run.table, replace(config, classes=decisions.classes))
    splits = splits_of(run, cohort)
    at_points = predictor.card.recipe.region == "point"
    opposed = find_copies(cohort.cases, splits.scans, at_points=at_points).reasons  # in whatever part
    tested = [case for case in cohort.labelled if splits.parts.get(case.case_id) == "test"]
    return Candidates(
        whole=cohort,
        parts=splits.parts,
        refused_before=run.refused_ids,
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
    why = why_unchecked(run, predictor.card)
    check_recognised(why, unchecked=unchecked)
    columns = columns or ColumnsConfig()
    labels = label_columns(table, columns.labels, predictor.card.decisions)
    columns = replace(columns, labels=labels, auxiliary=(), num_readers="")  # of training alone
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
    trained_on = read_splits(run.splits_file).trained_on if has_trained(run, predictor.card) else TrainedOn()
    return Candidates(cohort=cohort, trained_on=trained_on, unchecked=why, whole=whole, parts=parts)


def check_recognised(why: str, *, unchecked: bool) -> None:
    """Stop if cases that trained a model cannot be recognised, unless that is allowed; then log it.

    Args:
        why: Why not; empty if they can.
        unchecked: Whether it is allowed.

    Raises:
        CohortError: If they cannot, and it is not allowed.
    """
    if why and not unchecked:
        msg = f"cases that trained the model cannot be told from others: {why}"
        hint = (
            "name it in its run folder and under the key of the run (set HILUM_KEY, or the site's key file); or give "
            "--unchecked to go on anyway"
        )
        raise CohortError(msg, hint=hint)
    if why:
        _log.warning("warning: unchecked: %s", why)


def check_leaks(leaks: Sequence[str], source: Path, what: str, *, allowed: bool) -> None:
    """Stop if cases of a table leak from those that trained a model, unless that is allowed; then log it.

    Args:
        leaks: A sentence for each leak, which names the cases.
        source: The table.
        what: What its cases are for, such as ``to judge``.
        allowed: Whether leaks are allowed.

    Raises:
        CohortError: If there are leaks, and they are not allowed.
    """
    if leaks and not allowed:
        more = f" (and {len(leaks) - 1} more leaks)" if len(leaks) > 1 else ""
        msg = f"{source}: the cases {what} leak: {leaks[0]}{more}"
        hint = "remove them, or give --allow-leakage to go on all the same; hilum audit --run lists all"
        raise CohortError(msg, hint=hint)
    if leaks:
        _log.warning("warning: leaks are allowed: %s", "; ".join(leaks))


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


def label_columns(table: Path, given: tuple[str, ...], decisions: Decisions) -> tuple[str, ...]:
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
