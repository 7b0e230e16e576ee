"""Reads an evaluation folder: figures of evaluation.json, and cases of cases.csv."""

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from hilum.cohorts.labels import Labels
from hilum.deciding.outcome import DECIDED
from hilum.errors import ConfigError
from hilum.files import user_path
from hilum.judging.figures import ClassJudgement, Evaluation, Stated, figures_in
from hilum.judging.judge import EVALUATION_FORMAT
from hilum.measuring.intervals import Asked
from hilum.training.run_folder import Run

_KEYS = {"num_patients", "coverage", "decided", "subgroups", "no_subgroups", "baselines", "size_matched"}
"""Keys that every evaluation.json has, beside its figures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationFolder:
    """Content of an evaluation folder.

    Attributes:
        folder: Its path.
        evaluation: Content of evaluation.json.
        case_ids: Id of each case.
        patients: Number of the patient of each case, as text; a number is a patient within this folder only.
        labels: Index of the true class, or 1 where a label is present, else 0.
        probs: Probabilities.
        decided: Index of the decided class, or 1 where a label is called, else 0; -1 without a decision.
        reasons: Why a case, or a label of it, has no decision, else empty.
        scans: Digest of the HU of each case's scan; empty where unknown.
        folds: Fold of each case, as text; empty for a single model.
    """

    folder: Path
    evaluation: Evaluation
    case_ids: tuple[str, ...]
    patients: tuple[str, ...]
    labels: Labels
    probs: Float64[np.ndarray, "n c"]
    decided: Labels
    reasons: tuple[str, ...]
    scans: tuple[str, ...]
    folds: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes or labels."""
        return tuple(self.evaluation["classes"])

    @property
    def multi_label(self) -> bool:
        """Whether they are labels that do not exclude one another."""
        return bool(self.evaluation.get("multi_label"))

    @property
    def each(self) -> tuple[ClassJudgement, ...]:
        """The second of two classes, each class against the rest, or each label, with its figures."""
        columns: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]
        if self.multi_label:
            by_name = self.evaluation["by_label"]
            columns = zip(self.labels.T, self.probs.T, self.decided.T, strict=True)
        elif len(self.classes) > 2:
            by_name = self.evaluation["by_class"]
            of_class = ((self.decided == k).astype(np.int64) - (self.decided < 0) for k in range(len(self.classes)))
            columns = ((self.labels == k, self.probs[:, k], one) for k, one in enumerate(of_class))
        else:
            by_name = {self.classes[1]: self.evaluation}
            columns = [(self.labels, self.probs[:, 1], self.decided)]
        return tuple(
            ClassJudgement(
                name=name,
                y=np.asarray(y, np.int64),
                p=p,
                called=np.asarray(called == 1),
                is_decided=np.asarray(called >= 0),
                asked=Asked(threshold=by_name[name]["threshold"], points=()),
                figures=figures_in(by_name[name]),
                agreement={},
                stated=_stated(by_name[name]["at_prevalence"]),
            )
            for name, (y, p, called) in zip(by_name, columns, strict=True)
        )


def _stated(at_prevalence: Evaluation | None) -> Stated | None:
    """The stated prevalence in a part of evaluation.json."""
    if at_prevalence is None:
        return None
    return Stated(**{name: at_prevalence[name] for name in ("prevalence", "threshold", "log_odds_shift")})


def evaluation_folder_of(path: str | Path) -> Path:
    """The evaluation folder of a run, or the path itself if it is one.

    Raises:
        ConfigError: If neither holds an evaluation.json.
    """
    path = user_path(path)
    for folder in (path, Run(path).evaluation, Run.of(path).evaluation):
        if (folder / "evaluation.json").is_file():
            return folder
    msg = f"there must be an evaluation in {path} or in its evaluation/, got none"
    raise ConfigError(msg, hint="judge the model first: hilum evaluate RUN")


def read_evaluation(path: str | Path) -> EvaluationFolder:
    """Read the evaluation in a folder, or that of a run.

    Raises:
        ConfigError: If there is none, or it is damaged, or of another format.
    """
    folder = evaluation_folder_of(path)
    try:
        evaluation = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        with (folder / "cases.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, RecursionError, csv.Error) as exc:
        msg = f"the evaluation in {folder} cannot be read: {getattr(exc, 'strerror', None) or exc}"
        raise ConfigError(msg) from exc
    number = evaluation.get("format", 1) if isinstance(evaluation, dict) else None
    if number != EVALUATION_FORMAT:
        msg = f"the evaluation in {folder} must be of format {EVALUATION_FORMAT}, is of {number!r}"
        is_older = number in range(1, EVALUATION_FORMAT)
        hint = "judge the model again" if is_older else "use the Hilum that wrote it"
        raise ConfigError(msg, hint=hint)
    try:
        return _folder(folder, evaluation, rows)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as exc:
        msg = f"the evaluation in {folder} is damaged: evaluation.json and cases.csv do not fit together"
        raise ConfigError(msg, hint="judge the model again") from exc


def _folder(folder: Path, evaluation: dict[str, Any], rows: Sequence[dict[str, str]]) -> EvaluationFolder:
    classes = [str(name) for name in evaluation["classes"]]
    if evaluation.get("multi_label"):
        labels, decided = (
            np.array([[int(row[f"{what}_{name}"] or -1) for name in classes] for row in rows])
            for what in ("label", "called")
        )
    else:
        labels = np.array([classes.index(row["label"]) for row in rows])
        decided = np.array([classes.index(row["decision"]) if row["outcome"] == DECIDED else -1 for row in rows])
    probs = np.array([[float(row[f"prob_{name}"]) for name in classes] for row in rows])
    if len(rows) != evaluation["num_cases"] or not np.isfinite(probs).all() or not evaluation.keys() >= _KEYS:
        raise ValueError(len(rows))
    return EvaluationFolder(
        folder=folder,
        evaluation=evaluation,
        case_ids=tuple(row["case_id"] for row in rows),
        patients=tuple(row["patient_number"] for row in rows),
        labels=labels,
        probs=probs,
        decided=decided,
        reasons=tuple(row["reason"] for row in rows),
        scans=tuple(row.get("scan", "") for row in rows),
        folds=tuple(row.get("fold", "") for row in rows),
    )
