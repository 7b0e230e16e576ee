"""Predictions on cases that trained nothing, to a folder with the figures, the cases and the pictures."""

import csv
import json
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from hilum.cohorts.labels import Labels
from hilum.errors import CohortError, ConfigError
from hilum.judging.answer import Answer, Judged, of_classes, of_findings, of_two, plain
from hilum.judging.pictures import draw_confusion, draw_judged

_OURS = re.compile(r"(roc|pr|calibration|confusion)(-\d+)?\.png")
"""Pictures of an earlier judgement: what this one does not draw must not stay beside its figures."""


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
    extra: dict[str, object] | None = None,
) -> Answer:
    """Judge a model by its predictions and write what was found.

    ``folder`` then holds ``evaluation.json`` (beside each figure ``KEY`` its 95 % interval ``KEY_ci``; null where a
    figure does not exist), ``cases.csv`` and ``confusion.png``; for two classes and for findings also ``roc.png``,
    ``pr.png`` and ``calibration.png``. All are made in a folder beside it first; ``evaluation.json`` is moved in last.
    Patients are used for the intervals and are written nowhere.

    Of more than two classes each is also judged against the rest, under ``by_class``. Of findings that do not exclude
    one another each is judged as the second of two classes would be, under ``by_finding``, and the means over them are
    given; a picture then has a panel for each, and more than twelve go on in ``roc-2.png`` and so on.

    Args:
        case_ids: One for each case.
        patients: One for each case.
        labels: Index of the true class, (n,); or 1 where a finding is present, 0 where not, (n, c).
        probs: Calibrated as in use; rows sum to 1, but for findings.
        classes: Their names; of two, the second is the positive one.
        threshold: Positive is ``prob >= threshold``; None, and with more than two classes: the most probable class. Of
            findings one for each, 0.5 where it is None.
        folder: Made if it is not there.
        seed: Of the bootstrap.
        doubts: Why a prediction was indeterminate, empty where it was not; a column of cases.csv. The figures are over
            all cases, decided by the threshold.
        rows: Where each case stands in its table; a column of cases.csv.
        extra: Further keys for evaluation.json.

    Returns:
        What evaluation.json holds.

    Raises:
        CohortError: If there are no cases, or a label or a probability is not one.
        ConfigError: If a key in ``extra`` is the name of a figure, or there is not one threshold for each finding.
    """
    probs = probs.astype(np.float64)
    cuts = list(threshold) if isinstance(threshold, Sequence) else [threshold]
    _check(case_ids, patients, labels, probs, classes, cuts)
    thresholds = [0.5 if cut is None else cut for cut in cuts]
    each: list[Judged] = []
    matrix: np.ndarray | None = None
    if labels.ndim == 2:
        each, said = of_findings(labels, probs, findings=classes, thresholds=thresholds, patients=patients, seed=seed)
        table = _rows_of_findings(case_ids, each)
    elif len(classes) == 2:
        two = of_two(labels, probs, name=classes[1], threshold=thresholds[0], patients=patients, seed=seed)
        each, said, matrix = [two], two.answer, two.matrix
        table = _rows(case_ids, labels, probs, two.called.astype(np.int64), classes)
    else:
        matrix, said = of_classes(labels, probs, classes=classes, patients=patients, seed=seed)
        table = _rows(case_ids, labels, probs, probs.argmax(1).astype(np.int64), classes)
    answer: Answer = {"num_cases": len(labels), "num_patients": len(set(patients)), "classes": list(classes), **said}
    taken = sorted(set(answer) & set(extra or {}))
    if taken:
        msg = f"extra keys must not be names of figures, got {taken[0]!r}"
        raise ConfigError(msg)
    answer |= {name: plain(value) for name, value in (extra or {}).items()}
    if rows is not None:
        table = [[row[0], str(number), *row[1:]] for row, number in zip(table, ["row", *rows], strict=True)]
    if doubts is not None:
        table = [[*row, doubt] for row, doubt in zip(table, ["indeterminate", *doubts], strict=True)]
    _write(folder.absolute(), answer, table, each, matrix)
    return answer


def _write(
    folder: Path, answer: Answer, table: list[list[str]], each: list[Judged], matrix: Int[np.ndarray, "c c"] | None
) -> None:
    """All files, whole or not at all."""
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)  # left by a killed run
    try:
        beside.mkdir(parents=True)
        draw_judged(beside, each)
        if matrix is not None:
            draw_confusion(beside / "confusion.png", matrix=matrix, classes=tuple(answer["classes"]))
        with (beside / "cases.csv").open("w", encoding="utf-8", newline="") as cases:
            csv.writer(cases, lineterminator="\n").writerows(table)
        text = json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False)
        (beside / "evaluation.json").write_text(text + "\n", encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for old in [file for file in folder.iterdir() if _OURS.fullmatch(file.name)]:
            if not (beside / old.name).exists():
                old.unlink()
        for file in sorted(beside.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
            file.replace(folder / file.name)
    except OSError as exc:
        msg = f"the folder {folder} cannot be written: {exc.strerror or exc}"
        raise ConfigError(msg) from exc
    finally:
        shutil.rmtree(beside, ignore_errors=True)


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
        _check_findings(case_ids, labels, probs, classes, thresholds)
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


def _check_findings(
    case_ids: Sequence[str],
    labels: Int[np.ndarray, "n f"],
    probs: Float[np.ndarray, "n c"],
    findings: tuple[str, ...],
    thresholds: Sequence[float | None],
) -> None:
    num_findings = len(findings)
    if labels.shape[1] != num_findings:
        msg = f"there must be a label for each of {num_findings} findings, got {labels.shape[1]}"
        raise CohortError(msg)
    if len(thresholds) != num_findings:
        msg = f"there must be a threshold for each of {num_findings} findings, got {len(thresholds)}"
        raise ConfigError(msg)
    rules = (
        (labels, (labels == 0) | (labels == 1), "the label of", "0 or 1"),
        (probs, (probs >= 0) & (probs <= 1), "the probability of", "between 0 and 1"),  # nan is neither
    )
    for values, right, what, must in rules:
        if not right.all():
            row, column = np.argwhere(~right)[0]
            got = values[row, column]
            msg = f"case {case_ids[row]!r}: {what} {findings[column]!r} must be {must}, got {got:g}"
            raise CohortError(msg)


def _rows(
    case_ids: Sequence[str],
    labels: Int[np.ndarray, " n"],
    probs: Float[np.ndarray, "n c"],
    decided: Int[np.ndarray, " n"],
    classes: tuple[str, ...],
) -> list[list[str]]:
    """One row for each case below a header; probabilities in full, so that every figure can be computed again."""
    rows = [["case_id", "label", *(f"prob_{name}" for name in classes), "decision"]]
    for case_id, label, row, decision in zip(case_ids, labels, probs, decided, strict=True):
        rows.append([case_id, classes[label], *(repr(float(p)) for p in row), classes[decision]])
    return rows


def _rows_of_findings(case_ids: Sequence[str], each: list[Judged]) -> list[list[str]]:
    """One row for each case below a header: of each finding the label, the probability in full, and the decision."""
    columns = [["case_id", *case_ids]]
    for one in each:
        columns.append([f"label_{one.name}", *map(str, one.y.tolist())])
        columns.append([f"prob_{one.name}", *map(repr, one.p.tolist())])
        columns.append([f"called_{one.name}", *map(str, one.called.astype(int).tolist())])
    return [list(row) for row in zip(*columns, strict=True)]
