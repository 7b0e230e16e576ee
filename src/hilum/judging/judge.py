"""Predictions on cases that trained nothing, to a folder with the figures, the cases and the pictures."""

import csv
import json
import math
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hilum.errors import CohortError, ConfigError
from hilum.judging.pictures import draw_calibration, draw_confusion, draw_pr, draw_roc
from hilum.measuring.intervals import Figure, with_class_intervals, with_intervals
from hilum.measuring.metrics import confusion_matrix, log_loss

Answer = dict[str, Any]


def judge(
    *,
    case_ids: Sequence[str],
    patients: Sequence[str],
    labels: Int[np.ndarray, " n"],
    probs: Float[np.ndarray, "n c"],
    classes: tuple[str, ...],
    threshold: float | None,
    folder: Path,
    seed: int = 0,
    doubts: Sequence[str] | None = None,
    extra: dict[str, object] | None = None,
) -> Answer:
    """Judge a model by its predictions and write what was found.

    ``folder`` then holds ``evaluation.json`` (beside each figure ``KEY`` its 95 % interval ``KEY_ci``; null where a
    figure does not exist), ``cases.csv`` and ``confusion.png``; for two classes also ``roc.png``, ``pr.png`` and
    ``calibration.png``. All are made in a folder beside it first; ``evaluation.json`` is moved in last. Patients
    are used for the intervals and are written nowhere.

    Args:
        case_ids: One for each case.
        patients: One for each case.
        labels: Index of the true class.
        probs: Calibrated as in use; rows sum to 1.
        classes: Their names; of two, the second is the positive one.
        threshold: Positive is ``prob >= threshold``; None, and with more than two classes: the most probable class.
        folder: Made if it is not there.
        seed: Of the bootstrap.
        doubts: Why a prediction was indeterminate, empty where it was not; a column of cases.csv. The figures are over
            all cases, decided by the threshold.
        extra: Further keys for evaluation.json.

    Returns:
        What evaluation.json holds.

    Raises:
        CohortError: If there are no cases, or a probability is not one.
        ConfigError: If a key in ``extra`` is the name of a figure.
    """
    probs = probs.astype(np.float64)
    _check(case_ids, patients, labels, probs, classes)
    binary = len(classes) == 2
    cut = 0.5 if threshold is None else threshold
    decided = (probs[:, 1] >= cut).astype(np.int64) if binary else probs.argmax(1)
    matrix = confusion_matrix(labels, decided, num_classes=len(classes))
    answer: Answer = {"num_cases": len(labels), "num_patients": len(set(patients)), "classes": list(classes)}
    if binary:
        figures = with_intervals(labels, probs[:, 1], threshold=cut, patients=patients, seed=seed)
        answer |= {
            "num_positives": int(np.sum(labels == 1)),
            "prevalence": float(np.mean(labels == 1)),
            "threshold": cut,
            "confusion": dict(zip(("tn", "fp", "fn", "tp"), matrix.ravel().tolist(), strict=True)),
        }
    else:
        figures = with_class_intervals(labels, probs, patients=patients, seed=seed)
        answer |= {"num_by_class": matrix.sum(1).tolist(), "confusion": matrix.tolist()}
    for name, figure in figures.items():
        answer |= {name: _plain(figure.value), f"{name}_ci": [_plain(figure.low), _plain(figure.high)]}
    answer["log_loss"] = _plain(log_loss(labels, probs))
    taken = sorted(set(answer) & set(extra or {}))
    if taken:
        msg = f"extra keys must not be names of figures, got {taken[0]!r}"
        raise ConfigError(msg)
    answer |= {name: _plain(value) for name, value in (extra or {}).items()}

    folder = folder.absolute()
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)  # left by a killed run
    try:
        beside.mkdir(parents=True)
        draw_confusion(beside / "confusion.png", matrix=matrix, classes=classes)
        if binary:
            _draw_binary(beside, labels, probs[:, 1], figures, cut)
        table = _cases(case_ids, labels, probs, decided, classes)
        if doubts is not None:
            table = [[*row, doubt] for row, doubt in zip(table, ["indeterminate", *doubts], strict=True)]
        _write_table(beside / "cases.csv", table)
        text = json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False)
        (beside / "evaluation.json").write_text(text + "\n", encoding="utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(beside.iterdir(), key=lambda file: (file.suffix == ".json", file.name)):
            file.replace(folder / file.name)
    except OSError as exc:
        msg = f"the folder {folder} cannot be written: {exc.strerror or exc}"
        raise ConfigError(msg) from exc
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return answer


def _check(
    case_ids: Sequence[str],
    patients: Sequence[str],
    labels: Int[np.ndarray, " n"],
    probs: Float[np.ndarray, "n c"],
    classes: tuple[str, ...],
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


def _draw_binary(
    folder: Path, y: Int[np.ndarray, " n"], p: Float[np.ndarray, " n"], figures: dict[str, Figure], threshold: float
) -> None:
    draw_roc(folder / "roc.png", y=y, p=p, figures=figures, threshold=threshold)
    draw_pr(folder / "pr.png", y=y, p=p, figures=figures, threshold=threshold)
    draw_calibration(folder / "calibration.png", y=y, p=p, figures=figures)


def _cases(
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


def _write_table(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def _plain(value: object) -> Any:
    """A value as JSON has it: null for nan and infinity, lists for arrays."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value
