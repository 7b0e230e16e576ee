"""Judges predictions and writes a folder with figures, cases and pictures."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int

from hilum.cohorts.cells import NO_RESULT, UNDECIDED
from hilum.cohorts.labels import Labels
from hilum.cohorts.prepared import REFUSALS_MARK
from hilum.deciding.outcome import Outcome
from hilum.errors import CohortError, ConfigError, require
from hilum.files import PNG_MARK, check_output, csv_text, whole_folder
from hilum.judging.baselines import baselines, size_matched
from hilum.judging.figures import Evaluation, Judgement, Rules, judge_cases, to_plain
from hilum.judging.pictures import plot_judged
from hilum.judging.subgroups import columns_of, subgroup_figures
from hilum.measuring.operating_points import OperatingPoint

REPORT_MARK = r'^<!doctype html>\n<html lang="en">\n<head>\n(?s:.*?)content="hilum report"'
"""Pattern at the beginning of a report."""

EVALUATION_FORMAT = 3
"""Format of evaluation.json and cases.csv. 1, or none: an older version, with fewer figures. 2: its figures of
decisions count cases without one."""

_PICTURES = r"(roc|pr|calibration|confusion)(-\d+)?\.png"
_STALE = rf"{_PICTURES}|report\.html"
"""Names of files of an earlier evaluation that would not fit the new figures."""

_MARKS = {
    _PICTURES: PNG_MARK,
    r"evaluation\.json": r'^\{\s*("format": \d+,\s*)?"num_cases": \d+,\s*"num_patients": \d+,',
    r"cases\.csv": r'^case_id,(row,)?(patient_number,)?"?label[_,](?s:.*),"?prob_',
    r"refused\.csv": REFUSALS_MARK,
    r"report\.html": REPORT_MARK,
}
"""Patterns of the names of the written files, and of their content."""


def judge(
    *,
    case_ids: Sequence[str],
    patients: Sequence[str],
    labels: Labels,
    probs: Float[np.ndarray, "m k"],
    classes: tuple[str, ...],
    threshold: float | Sequence[float | None] | None,
    folder: Path,
    seed: int = 0,
    outcomes: Sequence[Outcome] | None = None,
    rows: Sequence[int] | None = None,
    scans: Sequence[str] | None = None,
    points: Sequence[Sequence[OperatingPoint]] = (),
    prevalence: Sequence[float] = (),
    calibrated_at: Sequence[float | None] = (),
    decided: Labels | None = None,
    further: Mapping[str, Sequence[str]] | None = None,
    columns: Mapping[str, Sequence[str]] | None = None,
    note: str = "",
    extra: dict[str, object] | None = None,
) -> Evaluation:
    """Judge predictions and write figures, cases and pictures.

    Writes ``evaluation.json`` (each figure ``KEY`` with its 95 % interval ``KEY_ci``; null if a figure does not exist),
    ``cases.csv``, ``roc.png``, ``pr.png``, ``calibration.png`` and ``confusion.png``. All are written to a temporary
    folder first; ``evaluation.json`` is moved last. Patients are written as numbers in the order of their cases.

    More than two classes are also judged each against the rest, under ``by_class``. Each of several labels is judged
    like the second of two classes, under ``by_label``, with means over all; pictures then have a panel for each, and
    continue in ``roc-2.png`` and so on after twelve.

    A case without a decision is never counted as negative: figures of decisions, such as sensitivity, are of the
    decided cases, figures of probabilities alone, such as the AUC, of all. ``coverage`` is the share of decided cases,
    and ``decided`` holds all figures of these alone.

    Args:
        case_ids: Id of each case.
        patients: Patient of each case.
        labels: Index of the true class, (n,); or 1 where a label is present, else 0, (n, c).
        probs: Calibrated probabilities; rows sum to 1 unless there are several labels.
        classes: Names of the classes; the second of two is the positive one.
        threshold: Positive is ``prob >= threshold``; None, and with more than two classes: the most probable class. For
            several labels one for each, 0.5 for None.
        folder: Output folder; created if missing.
        seed: Seed of the bootstrap.
        outcomes: Whether each case gets a decision, and why not; columns of cases.csv. None: all do.
        rows: Row of each case in its table; a column of cases.csv.
        scans: Digest of the HU of each case's scan, empty where unknown; a column of cases.csv.
        points: Operating points of the second of two classes, or of each label; empty: read from the cases' own curves.
        prevalence: Prevalence at which predictive values and net benefit are stated too: of the second of two classes,
            of each class or of each label.
        calibrated_at: Prevalence at which the probabilities are stated, of the same outputs; None where it is unknown.
        decided: Decision of each case, or of each label of it, -1: none; where a band, sets or several thresholds
            decide. None: by the threshold.
        further: Further columns of cases.csv.
        columns: Text of each case by the name of a column, for figures by subgroup and by a measurement alone.
        note: A sentence at the foot of each picture, and in each row of cases.csv.
        extra: Further keys for evaluation.json.

    Returns:
        The content of evaluation.json.

    Raises:
        CohortError: If there are no cases, or a label or probability is invalid.
        ConfigError: If a key in ``extra`` is the name of a figure, or the number of thresholds is wrong.
        HilumError: If a file that Hilum did not write would be overwritten.
    """
    probs = probs.astype(np.float64)
    cuts = list(threshold) if isinstance(threshold, Sequence) else [threshold]
    _check(case_ids, patients, labels, probs, classes, cuts)
    rules = Rules(
        thresholds=_thresholds(cuts, is_single=labels.ndim == 1, num_classes=len(classes), given=decided is not None),
        points=tuple(map(tuple, points)),
        prevalence=checked_prevalence(prevalence, classes, multi_label=labels.ndim == 2),
        calibrated_at=tuple(calibrated_at),
    )
    outcomes = outcomes or [Outcome()] * len(labels)
    by_rule = _by_rule(labels, probs, rules) if decided is None else decided.copy()
    by_rule[[one.kind == NO_RESULT for one in outcomes]] = -1
    judged = judge_cases(labels, probs, classes=classes, rules=rules, patients=patients, seed=seed, decided=by_rule)
    counts = {"num_cases": len(labels), "num_patients": len(set(patients))}
    evaluation: Evaluation = {"format": EVALUATION_FORMAT, **counts, "classes": list(classes), **judged.figures}
    evaluation |= _decided(labels, probs, classes, rules, patients, seed, by_rule) | _abstained(outcomes)
    evaluation |= _by_column(columns or {}, judged, labels, probs, patients)
    taken = sorted(set(evaluation) & set(extra or {}))
    require(not taken, "extra keys", "other names than those of figures", ", ".join(taken))
    evaluation |= {name: to_plain(value) for name, value in (extra or {}).items()}
    table = [["case_id", *case_ids], *([["row", *map(str, rows)]] if rows is not None else [])]
    table += [["patient_number", *_numbered(patients)], *_columns(labels, probs, classes, by_rule, outcomes)]
    named: dict[str, Sequence[str] | None] = {**(further or {}), "scan": scans, **_why(outcomes)}
    table += [[name, *texts] for name, texts in named.items() if texts is not None]
    table += [["note", *[note] * len(labels)]] if note else []
    table += [["format", *[str(EVALUATION_FORMAT)] * len(labels)]]
    _write(folder.absolute(), evaluation, list(zip(*table, strict=True)), judged, note)
    return evaluation


def _thresholds(cuts: Sequence[float | None], *, is_single: bool, num_classes: int, given: bool) -> tuple[float, ...]:
    """The thresholds of two classes or of labels, 0.5 for None; empty where there are none, or none decides all."""
    if (is_single and num_classes > 2) or (given and all(cut is None for cut in cuts)):
        return ()
    return tuple(0.5 if cut is None else cut for cut in cuts)


def _why(outcomes: Sequence[Outcome]) -> dict[str, list[str]]:
    """Columns of cases.csv: whether each case has a decision, and why not."""
    return {
        "outcome": [one.kind for one in outcomes],
        "reason_codes": [" ".join(one.codes) for one in outcomes],
        "reason": [one.reason for one in outcomes],
    }


def _by_rule(labels: Labels, probs: Float64[np.ndarray, "n c"], rules: Rules) -> Labels:
    """Decided class of each case, or 1 where a label is called, by the thresholds or as the most probable class."""
    if labels.ndim == 2:
        return (probs >= np.array(rules.thresholds)).astype(np.int64)
    return (probs[:, 1] >= rules.thresholds[0] if rules.thresholds else probs.argmax(1)).astype(np.int64)


def _abstained(outcomes: Sequence[Outcome]) -> Evaluation:
    """Numbers of cases without a decision, and of each reason; a case may have several."""
    codes = Counter(code for one in outcomes for code in one.codes)
    return {
        "num_no_result": sum(one.kind == NO_RESULT for one in outcomes),
        "num_undecided": sum(one.kind == UNDECIDED for one in outcomes),
        "reasons": dict(sorted(codes.items())),
    }


def checked_prevalence(prevalence: Sequence[float], classes: Sequence[str], *, multi_label: bool) -> tuple[float, ...]:
    """The stated prevalence of each output that is judged; empty if none is.

    Raises:
        ConfigError: If there is not one for the second of two classes, for each class or for each label, or one is not
            above 0 and below 1.
    """
    outputs = tuple(classes) if multi_label or len(classes) > 2 else tuple(classes[1:])
    if prevalence:
        must = f"a share for each of {', '.join(outputs)}"
        require(len(prevalence) == len(outputs), "prevalence", must, tuple(prevalence))
        for share in prevalence:
            require(0 < share < 1, "prevalence", "above 0 and below 1", share)
        is_whole = multi_label or len(outputs) == 1 or abs(sum(prevalence) - 1) < 1e-6
        require(is_whole, "prevalence", "shares of classes that sum to 1", tuple(prevalence))
    return tuple(prevalence)


def _decided(
    labels: Labels,
    probs: Float64[np.ndarray, "n c"],
    classes: tuple[str, ...],
    rules: Rules,
    patients: Sequence[str],
    seed: int,
    decided: Labels,
) -> Evaluation:
    """Share of the cases of which all is decided, and all figures of these alone; None if all are, or none is."""
    known = np.asarray((decided.reshape(len(labels), -1) >= 0).all(axis=1))
    share: Evaluation = {"coverage": float(known.mean()), "decided": None}
    if known.all() or not known.any():
        return share
    inside = [patient for patient, one in zip(patients, known, strict=True) if one]
    alone = judge_cases(
        labels[known], probs[known], classes=classes, rules=rules, patients=inside, seed=seed, decided=decided[known]
    )
    counts = {"num_cases": len(inside), "num_patients": len(set(inside))}
    return share | {"decided": {**counts, **alone.figures}}


def _by_column(
    cells: Mapping[str, Sequence[str]],
    judged: Judgement,
    labels: Labels,
    probs: Float64[np.ndarray, "n c"],
    patients: Sequence[str],
) -> Evaluation:
    """Figures by subgroup, of each measurement alone, and among cases of one size."""
    columns, left_out = columns_of(cells)
    return {
        "subgroups": subgroup_figures(columns, judged, labels, probs, patients),
        "no_subgroups": left_out,
        "baselines": baselines(columns, judged, patients),
        "size_matched": size_matched(columns, judged, patients),
    }


def _numbered(patients: Sequence[str]) -> list[str]:
    """Patients as numbers from 1, in the order of their first cases."""
    numbers: dict[str, int] = {}
    return [str(numbers.setdefault(patient, len(numbers) + 1)) for patient in patients]


def check_folder(folder: Path, inputs: Iterable[Path] = ()) -> None:
    """Check that only an earlier evaluation would be overwritten in a folder, and none of the inputs.

    Raises:
        HilumError: If another file would be overwritten, or the folder is a file.
    """
    if (folder.exists() or folder.is_symlink()) and not folder.is_dir():
        msg = f"the folder for the figures must be new or a folder, {folder} is a file"
        raise ConfigError(msg)
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        for pattern, mark in _MARKS.items():
            if re.fullmatch(pattern, file.name):
                check_output(file, mark, inputs=inputs)


def _write(folder: Path, evaluation: Evaluation, table: Sequence[Sequence[str]], judged: Judgement, note: str) -> None:
    """Write all files atomically, and remove other pictures and the report of an earlier evaluation."""
    check_folder(folder)
    with whole_folder(folder, lambda file: re.fullmatch(_STALE, file.name) is not None) as new:
        plot_judged(new, judged.each, matrix=judged.matrix, classes=tuple(evaluation["classes"]), note=note)
        (new / "cases.csv").write_text(csv_text(table), encoding="utf-8", newline="")
        text = json.dumps(evaluation, indent=2, ensure_ascii=False, allow_nan=False)
        (new / "evaluation.json").write_text(text + "\n", encoding="utf-8")


def _columns(
    labels: Labels,
    probs: Float64[np.ndarray, "n c"],
    classes: tuple[str, ...],
    decided: Labels,
    outcomes: Sequence[Outcome],
) -> list[list[str]]:
    """Columns of cases.csv: labels, decisions, and probabilities in full precision, to recompute every figure.

    A label without a decision has an empty cell.
    """
    if labels.ndim == 1:
        names = [[f"prob_{name}", *map(repr, column.tolist())] for name, column in zip(classes, probs.T, strict=True)]
        return [
            ["label", *(classes[k] for k in labels)],
            *names,
            ["decision", *(classes[k] if k >= 0 else one.kind for k, one in zip(decided, outcomes, strict=True))],
        ]
    columns = []
    for name, y, p, called in zip(classes, labels.T, probs.T, decided.T, strict=True):
        columns.append([f"label_{name}", *map(str, y.tolist())])
        columns.append([f"prob_{name}", *map(repr, p.tolist())])
        columns.append([f"called_{name}", *("" if one < 0 else str(one) for one in called.tolist())])
    return columns


def _check(
    case_ids: Sequence[str],
    patients: Sequence[str],
    labels: Labels,
    probs: Float[np.ndarray, "m k"],
    classes: tuple[str, ...],
    thresholds: Sequence[float | None],
) -> None:
    sizes = {len(case_ids), len(patients), len(labels), len(probs)}
    if len(sizes) != 1 or not len(labels):
        msg = (
            "there must be as many patients, labels and probabilities as cases, and at least one, got "
            f"{len(case_ids)} cases, {len(patients)} patients, {len(labels)} labels, {len(probs)} probabilities"
        )
        raise CohortError(msg)
    if probs.shape[1] != len(classes) or len(classes) < 2:
        msg = f"there must be one probability for each of at least two classes, got {probs.shape[1]} for {len(classes)}"
        raise CohortError(msg)
    if labels.ndim == 2:
        _check_labels(case_ids, labels, probs, classes, thresholds)
        return
    if len(thresholds) != 1:
        msg = f"classes that exclude one another must have one threshold or none, got {len(thresholds)}"
        raise ConfigError(msg)
    wrong = ~(np.isfinite(probs).all(1) & (probs >= 0).all(1) & (np.abs(probs.sum(1) - 1) < 1e-3))
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        got = ", ".join(f"{value:g}" for value in probs[first])
        msg = f"case {case_ids[first]!r}: probabilities must be at least 0 and sum to 1, got {got}"
        raise CohortError(msg)
    outside = (labels < 0) | (labels >= len(classes))
    if outside.any():
        first = int(np.flatnonzero(outside)[0])
        msg = f"case {case_ids[first]!r}: its label must be below {len(classes)}, got {labels[first]}"
        raise CohortError(msg)


def _check_labels(
    case_ids: Sequence[str],
    labels: Int[np.ndarray, "n f"],
    probs: Float[np.ndarray, "n c"],
    names: tuple[str, ...],
    thresholds: Sequence[float | None],
) -> None:
    number = len(names)
    if labels.shape[1] != number:
        msg = f"there must be {number} labels for each case, got {labels.shape[1]}"
        raise CohortError(msg)
    if len(thresholds) != number:
        msg = f"there must be a threshold for each of {number} labels, got {len(thresholds)}"
        raise ConfigError(msg)
    rules = (
        (labels, (labels == 0) | (labels == 1), "the label of", "0 or 1"),
        (probs, (probs >= 0) & (probs <= 1), "the probability of", "between 0 and 1"),  # nan is neither
    )
    for values, right, what, must in rules:
        if not right.all():
            row, column = np.argwhere(~right)[0]
            got = values[row, column]
            msg = f"case {case_ids[row]!r}: {what} {names[column]!r} must be {must}, got {got:g}"
            raise CohortError(msg)
