"""Out-of-fold predictions: each case by the members of its fold, which held it out; decided by fits on other folds."""

import csv
import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int

from hilum.cohorts.cells import UNDECIDED
from hilum.cohorts.dataset import SplitCohort
from hilum.cohorts.labels import Labels, labels_of
from hilum.cohorts.table import Case
from hilum.deciding.decision import Decisions
from hilum.deciding.fit_decisions import HeldOut, TrainingCases, decisions_of
from hilum.deciding.tta import views_of
from hilum.errors import CheckpointError, CohortError, require
from hilum.files import csv_text, write_whole
from hilum.findings import Finding, find
from hilum.modelling.device import pick_device
from hilum.modelling.ensemble import Network
from hilum.modelling.speed import EXACT, for_prediction
from hilum.settings.run import RunConfig
from hilum.training.gate import Outputs, outputs_of

CASES_MARK = r"^case_id,fold,label"
"""Pattern at the beginning of cases.csv of a run of folds."""

_FORMAT = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfFold:
    """Predictions of cases by members that held them out.

    Attributes:
        case_ids: Id of each case.
        folds: Its fold.
        logits: Mean logits of the members of its fold.
        probs: Probabilities by the calibration that was fitted on the other folds.
        decided: Decisions by what was fitted on the other folds: classes, or 0 and 1 for each label; -1: undecided.
        sets: Conformal sets by what was fitted on the other folds, as from ``Decisions.sets_of``; empty without any.
        unseen: What the gate of the members of its fold found, with its limit from the other folds.
    """

    case_ids: tuple[str, ...]
    folds: Int[np.ndarray, " n"]
    logits: Float64[np.ndarray, "n c"]
    probs: Float64[np.ndarray, "n c"]
    decided: Labels
    sets: tuple[dict[str, tuple[str, ...]], ...]
    unseen: tuple[tuple[Finding, ...], ...]

    def of(self, cases: Iterable[Case]) -> "OutOfFold":
        """The same of some cases, in their order.

        Raises:
            CohortError: If one has no prediction.
        """
        place = {case_id: i for i, case_id in enumerate(self.case_ids)}
        cases = list(cases)
        missing = [case.case_id for case in cases if case.case_id not in place]
        if missing:
            msg = f"every case must have been predicted out of fold, {missing[0]!r} was not ({len(missing)} in all)"
            raise CohortError(msg)
        at = np.array([place[case.case_id] for case in cases], int)
        ids = tuple(self.case_ids[i] for i in at)
        return OutOfFold(
            case_ids=ids,
            folds=self.folds[at],
            logits=self.logits[at],
            probs=self.probs[at],
            decided=self.decided[at],
            sets=tuple(self.sets[i] for i in at),
            unseen=tuple(self.unseen[i] for i in at),
        )


def outputs_of_part(network: Network, data: SplitCohort, config: RunConfig, part: str) -> Outputs:
    """Outputs for the cases of a part, those with a soft label alone included.

    Args:
        network: Members that were not trained on this part.
        data: The cases.
        config: Settings of a member: recipe, test-time augmentation, device.
        part: The part: of a fold its cases are the test part.
    """
    device = pick_device(config.training.device)
    predicting = for_prediction(network.to(device), EXACT)
    pairs = zip(data.prepared.cases, data.prepared.samples, strict=True)
    held_out = [(case, file) for case, file in pairs if data.parts[case.case_id] == part]
    cases, files = zip(*held_out, strict=True)
    return outputs_of(predicting, cases, files, config.recipe, device, views_of(config))


def cross_fitted(
    config: RunConfig,
    classes: tuple[str, ...],
    trained: TrainingCases,
    cases: Sequence[Case],
    folds: Int[np.ndarray, " n"],
    logits: Float64[np.ndarray, "n c"],
    unseen: Sequence[tuple[Finding, ...]],
) -> tuple[OutOfFold, dict[int, Decisions]]:
    """Probabilities and decisions of each fold, by calibration and thresholds that are fitted on the other folds.

    Too few cases for a fit leave a fold without one; so the decisions of each fold are returned as well.

    Args:
        config: What to fit.
        classes: Names of the outputs.
        trained: Training cases of a member.
        cases: The cases; those without a label are decided, and nothing is fitted on them.
        folds: Fold of each.
        logits: Its logits by the members that held it out.
        unseen: What their gate found.
    """
    has_label = np.array([case.is_labelled for case in cases])
    labels = labels_of(cases)
    probs, decided = np.zeros(logits.shape), np.zeros(labels.shape, np.int64)
    sets: list[dict[str, tuple[str, ...]]] = [{} for _ in cases]
    by_fold: dict[int, Decisions] = {}
    for fold in np.unique(folds).tolist():
        own, others = folds == fold, (folds != fold) & has_label
        own_patients = tuple(case.patient_id for case, one in zip(cases, others, strict=True) if one)
        held_out = HeldOut(labels=labels[others], logits=logits[others], patients=own_patients, chose_epoch=False)
        each, _ = decisions_of(config, classes, trained, held_out)
        decisions = by_fold[fold] = Decisions(classes=classes, multi_label=labels.ndim == 2, each=each)
        probs[own] = decisions.probabilities(logits[own])
        decided[own] = decisions.decided(probs[own])
        for n in np.flatnonzero(own).tolist():
            sets[n] = decisions.sets_of(probs[n])
    ids = tuple(case.case_id for case in cases)
    found = OutOfFold(
        case_ids=ids, folds=folds, logits=logits, probs=probs, decided=decided, sets=tuple(sets), unseen=tuple(unseen)
    )
    return found, by_fold


def write_out_of_fold(path: Path, classes: Sequence[str], cases: Sequence[Case], found: OutOfFold) -> None:
    """Write predictions as CSV; a case with a soft label alone has an empty label."""
    labels = labels_of(cases)
    columns: list[list[str]] = [["case_id", *found.case_ids], ["fold", *map(str, found.folds.tolist())]]
    if labels.ndim == 1:
        names = [classes[k] if case.is_labelled else "" for k, case in zip(labels.tolist(), cases, strict=True)]
        columns += [["label", *names]]
    else:
        columns += [[f"label_{name}", *map(str, labels[:, k].tolist())] for k, name in enumerate(classes)]
    for what, values in (("logit", found.logits), ("prob", found.probs)):
        columns += [[f"{what}_{name}", *map(repr, values[:, k].tolist())] for k, name in enumerate(classes)]
    if labels.ndim == 1:
        columns += [["decision", *(classes[k] if k >= 0 else UNDECIDED for k in found.decided.tolist())]]
    else:
        columns += [[f"called_{name}", *map(str, found.decided[:, k].tolist())] for k, name in enumerate(classes)]
    columns += [["sets", *map(json.dumps, found.sets)]]
    columns += [["unseen", *(json.dumps([(one.code, one.message) for one in own]) for own in found.unseen)]]
    columns += [["format", *[_FORMAT] * len(found.case_ids)]]
    write_whole(path, csv_text(list(zip(*columns, strict=True))))


def digest_of(path: Path) -> str:
    """Digest of predictions on disk, by which a model knows those that calibrated it; empty if they are not there."""
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else ""


def read_out_of_fold(path: Path, classes: Sequence[str], *, multi_label: bool) -> OutOfFold:
    """Read what ``write_out_of_fold`` wrote.

    Raises:
        CheckpointError: If the file is missing, damaged or of another format.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        require({row["format"] for row in rows} == {_FORMAT}, "the format of each row", _FORMAT, "another")
        logits, probs = (
            np.array([[float(row[f"{what}_{name}"]) for name in classes] for row in rows]) for what in ("logit", "prob")
        )
        if multi_label:
            decided = np.array([[int(row[f"called_{name}"]) for name in classes] for row in rows])
        else:
            numbers = {name: k for k, name in enumerate(classes)} | {UNDECIDED: -1}
            decided = np.array([numbers[row["decision"]] for row in rows])
        return OutOfFold(
            case_ids=tuple(row["case_id"] for row in rows),
            folds=np.array([int(row["fold"]) for row in rows]),
            logits=logits,
            probs=probs,
            decided=decided,
            sets=tuple({key: tuple(one) for key, one in json.loads(row["sets"]).items()} for row in rows),
            unseen=tuple(tuple(find(code, text) for code, text in json.loads(row["unseen"])) for row in rows),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as exc:
        msg = f"the predictions out of fold cannot be read: {getattr(exc, 'strerror', None) or exc}"
        raise CheckpointError(msg, path=path) from exc
