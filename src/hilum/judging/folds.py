"""Judges a run of folds by its predictions out of fold."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hilum.cohorts.copies import join_patients
from hilum.cohorts.labels import Labels, labels_of
from hilum.cohorts.links import find_links
from hilum.cohorts.prepared import prepare_cohort, write_refusals
from hilum.cohorts.table import Cohort
from hilum.deciding.model_folder import ModelCard, read_card
from hilum.deciding.outcome import Outcome, outcome_of
from hilum.errors import CheckpointError, CohortError
from hilum.judging.candidates import Candidates
from hilum.judging.cohort_table import cohort_flow
from hilum.judging.figures import with_ends
from hilum.judging.judge import judge
from hilum.judging.model_facts import about_model, abstaining_facts, calibrated_at, case_columns
from hilum.judging.report import report
from hilum.judging.report_errors import CasePictures
from hilum.measuring.roc_variance import mean_area, obuchowski
from hilum.predicting import Predictor
from hilum.preparing import Store, load_sample
from hilum.training.out_of_fold import OutOfFold, digest_of, read_out_of_fold
from hilum.training.run_cases import check_tested, splits_of
from hilum.training.run_folder import Run

MIXED = "The pooled figures rank cases of several folds together, although the scale of each fold's logits is its own."


_CROSS_FITTED = "; here by fits on the other folds, where these allow one"

_CHECKED = {
    "leakage": "", "leaks_compared": True, "audit": None, "seen_checked": True, "unchecked": "", "num_seen": 0,
}  # fmt: skip
"""What an evaluation says of leaks: folds have none, for linked patients were joined before they were drawn."""


def evaluate_folds(run: Run, out: Path, *, prevalence: Sequence[float] = (), pictures: bool = False) -> dict[str, Any]:
    """Judge a run of folds: pooled figures of all cases, and the mean of the folds.

    Each case was predicted by the members that held it out, and decided by calibration, threshold, abstaining and gate
    that were fitted on the other folds. Nothing is said of the ensemble of all members: no case of the run is unseen by
    it.

    Args:
        run: The run, whose members are trained.
        out: Folder for the figures.
        prevalence: See ``evaluate``.
        pictures: See ``evaluate``.

    Raises:
        HilumError: If the predictions are missing, or the cohort has changed.
    """
    card = read_card(run.model)
    decisions = card.decisions
    cohort = Cohort.read(run.table, replace(run.settings.cohort, classes=decisions.classes))
    splits = splits_of(run, cohort)
    prepared = prepare_cohort(cohort, card.recipe, Store(run.store, card.reading, max_gb=run.settings.store_gb))
    check_tested(run, prepared, replace(splits, parts=dict.fromkeys(splits.parts, "test")))
    if digest_of(run.cases_file) != card.training.get("ensemble", {}).get("cases"):
        msg = "must hold the predictions that calibrated the ensemble, and holds others, or none"
        raise CheckpointError(msg, path=run.cases_file, hint="hilum train --resume makes both anew")
    predicted = read_out_of_fold(run.cases_file, decisions.classes, multi_label=decisions.multi_label)
    known = set(predicted.case_ids)
    pairs = zip(prepared.cases, prepared.samples, strict=True)
    judged = [(case, file) for case, file in pairs if case.is_labelled and case.case_id in known]
    if not judged:
        msg = "no case of the table was predicted out of fold"
        raise CohortError(msg, path=run.cases_file)
    cases, samples = zip(*judged, strict=True)
    unseen = replace(prepared, cases=cases, samples=samples)
    found = predicted.of(cases)
    joined = join_patients(cases, prepared.copies, [link.cases for link in find_links(cohort.cases, prepared)])
    patients, labels = [case.patient_id for case in joined], labels_of(cases)
    parts = dict.fromkeys(found.case_ids, "test")
    num_unlabelled = cohort.num_unlabelled + len(cohort.cases) - len(cohort.labelled)
    labelled = replace(cohort, cases=cohort.labelled, num_unlabelled=num_unlabelled)
    flow = Candidates(whole=labelled, parts=parts, refused_before=run.refused_ids, cohort=labelled, splits=splits)
    evaluation = judge(
        case_ids=found.case_ids,
        rows=[case.row for case in cases],
        scans=[prepared.scans.get(case.case_id, "") for case in cases],
        patients=patients,
        labels=labels,
        probs=found.probs,
        classes=decisions.classes,
        threshold=[None] * len(decisions.classes) if decisions.multi_label else None,
        decided=found.decided,
        folder=out,
        outcomes=_outcomes(samples, found, card),
        prevalence=prevalence,
        calibrated_at=calibrated_at(decisions),
        columns=case_columns(unseen),
        further={"fold": [str(fold) for fold in found.folds.tolist()]},
        extra={
            **_CHECKED,
            "num_refused": len(prepared.refusals),
            "cohort": cohort_flow(flow, unseen, prepared.refusals, ()),
            "training_audit": run.audit,
            "threshold_rule": f"thresholds of each fold, chosen on the others by {run.settings.decision.rule}",
            "findings": unseen.findings,
            "abstains": abstaining_facts(decisions, labels, found.sets, note=_CROSS_FITTED),
            "folds": fold_figures(found, labels, patients, card),
            "lost_members": card.training["ensemble"]["lost"],
            "model": about_model(card),
        },
    )
    write_refusals(out / "refused.csv", prepared.refusals)
    shown = {case.case_id: file for case, file in judged}
    by_case = predictors_out_of_fold(run, Predictor(run.folder)) if pictures else None
    report(out, pictures=CasePictures(samples=shown, predictor_of=by_case) if pictures else None)
    return evaluation


def _outcomes(samples: Sequence[Path], found: OutOfFold, card: ModelCard) -> list[Outcome]:
    """Outcomes of cases out of fold, by the gate of the members that held them out."""
    undecided = np.asarray((found.decided.reshape(len(samples), -1) < 0).any(axis=1)).tolist()
    return [
        outcome_of(load_sample(file), card.recipe, card.gate, unseen, is_undecided=one)
        for file, unseen, one in zip(samples, found.unseen, undecided, strict=True)
    ]


def predictors_out_of_fold(run: Run, predictor: Predictor) -> Callable[[str], Predictor]:
    """For each case of a run of folds, its ensemble with the members alone that held the case out."""
    card = predictor.card
    predicted = read_out_of_fold(run.cases_file, card.classes, multi_label=card.decisions.multi_label)
    fold_of = dict(zip(predicted.case_ids, predicted.folds.tolist(), strict=True))
    members = card.training["ensemble"]["members"]
    folds = {one["fold"] for one in members}
    each = {n: predictor.of_members([one["name"] for one in members if one["fold"] == n]) for n in folds}
    return lambda case_id: each[fold_of[case_id]]


def fold_figures(found: OutOfFold, labels: Labels, patients: Sequence[str], card: ModelCard) -> dict[str, Any]:
    """The AUC of each fold and their mean with its interval, for the second of two classes, or each class or label."""
    decisions = card.decisions
    two = len(decisions.classes) == 2 and not decisions.multi_label
    outputs = range(1, 2) if two else range(len(decisions.classes))
    owners = np.array(patients)
    by_output: dict[str, Any] = {}
    for k in outputs:
        y = labels[:, k] if labels.ndim == 2 else (labels == k).astype(np.int64)
        rows, parts = [], []
        for fold in np.unique(found.folds):
            inside = found.folds == fold
            areas = obuchowski(y[inside], found.probs[inside, k], patients=owners[inside].tolist())
            counts = {"num_cases": int(inside.sum()), "num_positives": int((y[inside] == 1).sum())}
            rows.append({"fold": int(fold), **counts, **with_ends({"auc": areas.figures[0]})})
            parts.append(areas)
        by_output[decisions.classes[k]] = {"folds": rows, **with_ends({"auc_fold_mean": mean_area(parts)})}
    return {"note": card.training["ensemble"]["note"], "pooled": MIXED, "outputs": by_output}
