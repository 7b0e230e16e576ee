"""Judges predictions and writes a folder with figures, cases and pictures."""

import json
import os
import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float64, Int

from hilum.cohorts.labels import Labels
from hilum.cohorts.prepared import REFUSALS_MARK
from hilum.errors import CohortError, ConfigError
from hilum.files import PNG_MARK, check_output, csv_text
from hilum.judging.figures import Evaluation, Judgement, judge_classes, judge_labels, judge_two, to_plain
from hilum.judging.pictures import plot_confusion, plot_judged

EVALUATION_FORMAT = 1
"""Format of evaluation.json and cases.csv; files without one are of an older version, with the same keys."""

_PICTURES = r"(roc|pr|calibration|confusion)(-\d+)?\.png"
_MARKS = {
    _PICTURES: PNG_MARK,
    r"evaluation\.json": r'^\{\s*("format": \d+,\s*)?"num_cases": \d+,\s*"num_patients": \d+,',
    r"cases\.csv": r'^case_id,(row,)?"?label[_,](?s:.*),"?prob_',
    r"refused\.csv": REFUSALS_MARK,
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
    doubts: Sequence[str] | None = None,
    rows: Sequence[int] | None = None,
    note: str = "",
    extra: dict[str, object] | None = None,
) -> Evaluation:
    """Judge predictions and write figures, cases and pictures.

    Writes ``evaluation.json`` (each figure ``KEY`` with its 95 % interval ``KEY_ci``; null if a figure does not exist),
    ``cases.csv`` and ``confusion.png``; for two classes and for several labels also ``roc.png``, ``pr.png`` and
    ``calibration.png``. All are written to a temporary folder first; ``evaluation.json`` is moved last. Patients are
    used for the intervals only and are written nowhere.

    More than two classes are also judged each against the rest, under ``by_class``. Each of several labels is judged
    like the second of two classes, under ``by_label``, with means over all; pictures then have a panel for each, and
    continue in ``roc-2.png`` and so on after twelve.

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
        doubts: Reason why a prediction is indeterminate, else empty; a column of cases.csv. The figures include all
            cases, decided by the threshold.
        rows: Row of each case in its table; a column of cases.csv.
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
    judged = _judged(labels, probs, classes, [0.5 if cut is None else cut for cut in cuts], patients, seed)
    about = {
        "format": EVALUATION_FORMAT,
        "num_cases": len(labels),
        "num_patients": len(set(patients)),
        "classes": list(classes),
    }
    evaluation: Evaluation = {**about, **judged.figures}
    taken = sorted(set(evaluation) & set(extra or {}))
    if taken:
        msg = f"extra keys must not be names of figures, got {taken[0]!r}"
        raise ConfigError(msg)
    evaluation |= {name: to_plain(value) for name, value in (extra or {}).items()}
    columns = [["case_id", *case_ids]]
    columns += [["row", *map(str, rows)]] if rows is not None else []
    columns += _columns(labels, probs, classes, judged)
    columns += [["indeterminate", *doubts]] if doubts is not None else []
    columns += [["note", *[note] * len(labels)]] if note else []
    columns += [["format", *[str(EVALUATION_FORMAT)] * len(labels)]]
    _write(folder.absolute(), evaluation, list(zip(*columns, strict=True)), judged, note)
    return evaluation


def _judged(
    labels: Labels,
    probs: Float64[np.ndarray, "n c"],
    classes: tuple[str, ...],
    thresholds: Sequence[float],
    patients: Sequence[str],
    seed: int,
) -> Judgement:
    """Judge two classes, more classes, or several labels."""
    if labels.ndim == 2:
        return judge_labels(labels, probs, names=classes, thresholds=thresholds, patients=patients, seed=seed)
    if len(classes) == 2:
        return judge_two(labels, probs, name=classes[1], threshold=thresholds[0], patients=patients, seed=seed)
    return judge_classes(labels, probs, classes=classes, patients=patients, seed=seed)


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
    """Write all files atomically, and remove other pictures of an earlier evaluation."""
    check_folder(folder)
    new = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(new, ignore_errors=True)  # left by a killed run
    try:
        new.mkdir(parents=True)
        plot_judged(new, judged.each, note=note)
        if judged.matrix is not None:
            plot_confusion(new / "confusion.png", matrix=judged.matrix, classes=tuple(evaluation["classes"]), note=note)
        (new / "cases.csv").write_text(csv_text(table), encoding="utf-8", newline="")
        text = json.dumps(evaluation, indent=2, ensure_ascii=False, allow_nan=False)
        (new / "evaluation.json").write_text(text + "\n", encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for old in [file for file in folder.iterdir() if re.fullmatch(_PICTURES, file.name)]:
            if not (new / old.name).exists():
                old.unlink()
        for file in sorted(new.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
            file.replace(folder / file.name)
    except OSError as exc:
        msg = f"the folder {folder} cannot be written: {exc.strerror or exc}"
        raise ConfigError(msg) from exc
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _columns(
    labels: Labels, probs: Float64[np.ndarray, "n c"], classes: tuple[str, ...], judged: Judgement
) -> list[list[str]]:
    """Columns of cases.csv: labels, decisions, and probabilities in full precision, to recompute every figure."""
    if labels.ndim == 1:
        decided = judged.each[0].called.astype(int) if judged.each else probs.argmax(1)
        names = [[f"prob_{name}", *map(repr, column.tolist())] for name, column in zip(classes, probs.T, strict=True)]
        return [
            ["label", *(classes[k] for k in labels)],
            *names,
            ["decision", *(classes[k] for k in decided)],
        ]
    columns = []
    for one in judged.each:
        columns.append([f"label_{one.name}", *map(str, one.y.tolist())])
        columns.append([f"prob_{one.name}", *map(repr, one.p.tolist())])
        columns.append([f"called_{one.name}", *map(str, one.called.astype(int).tolist())])
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
