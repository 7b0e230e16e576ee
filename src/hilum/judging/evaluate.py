"""A model folder and a table of cases it has not seen to figures, pictures and a row for each case."""

import contextlib
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hilum.cohorts.prepared import Refusal, prepare_cohort, write_refusals
from hilum.cohorts.splits import patient_key, read_splits, seen_patients
from hilum.cohorts.table import Cohort
from hilum.config import CohortConfig, ColumnsConfig
from hilum.configfile import load
from hilum.errors import CohortError
from hilum.judging.judge import judge
from hilum.predicting import Predictor, predict_prepared
from hilum.preparing import Store


def evaluate(
    model: str | Path,
    table: str | Path | None,
    out: str | Path,
    *,
    columns: ColumnsConfig | None = None,
    store: str | Path | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Judge a model by its predictions on cases it has not seen.

    Of a table with a split column the rows marked test are judged, else all rows. Cases of patients that trained or
    validated the model are refused, as are scans that cannot be prepared; both are listed in ``refused.csv``.

    Args:
        model: The model folder; ``splits.csv`` of its run, where it still lies beside it, tells who has been seen.
        table: The cases; None: the test part of the model's own run.
        out: Folder for ``evaluation.json``, ``cases.csv`` and the pictures.
        columns: Which column of the table holds what; those of the run where the table is its own.
        store: Where prepared samples are kept; None: for the time of the run, or in the run's own store.
        device: Where the network runs.

    Returns:
        What evaluation.json holds.

    Raises:
        HilumError: If the model or the table is not usable, or no case is left.
    """
    model, out = Path(model), Path(out)
    predictor = Predictor(model, device=device)
    run = model.resolve().parent
    cohort, config = _cohort(predictor, run, Path(table) if table is not None else None, columns)
    refused: list[Refusal] = []
    if table is None:
        parts = read_splits(run / "splits.csv")
        store = store or run / load(run / "config.toml").store
        cases = [case for case in cohort.cases if parts.get(case.case_id) == "test"]
    else:
        seen = seen_patients(run / "splits.csv")
        marked = any(case.split for case in cohort.cases)
        cases = []
        for case in cohort.cases:
            if marked and case.split != "test":
                continue
            if patient_key(case) in seen:
                reason = "this patient trained or validated the model"
                refused.append(Refusal(case_id=case.case_id, row=case.row, reason=reason))
            else:
                cases.append(case)
    if not cases:
        msg = f"{cohort.source}: no case is left to judge; {len(refused)} are of patients that the model has seen"
        raise CohortError(msg)
    with contextlib.ExitStack() as stack:
        folder = Path(store) if store else Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-")))
        prepared = prepare_cohort(
            replace(cohort, cases=tuple(cases)), predictor.card.recipe, Store(folder), npy_range=config.npy_range
        )
        predictions = list(predict_prepared(predictor, prepared))
    refusals = (*refused, *prepared.refusals)
    answer = judge(
        case_ids=[case.case_id for case in prepared.cases],
        patients=[case.patient_id for case in prepared.cases],
        labels=np.array([case.label for case in prepared.cases], np.int64),
        probs=np.array([list(p.probabilities.values()) for p in predictions]),
        classes=predictor.card.classes,
        threshold=predictor.card.threshold,
        folder=out,
        extra={
            "num_refused": len(refusals),
            "num_indeterminate": sum(bool(p.reason) for p in predictions),
            "threshold_rule": predictor.card.threshold_rule,
        },
    )
    write_refusals(out / "refused.csv", refusals)
    return answer


def headline(answer: dict[str, Any]) -> str:
    """The figures that matter most, in one line."""
    positives = f", {answer['num_positives']} of class {answer['classes'][1]}" if "num_positives" in answer else ""
    names = ("auc", "sensitivity", "specificity") if "num_positives" in answer else ("auc", "balanced_accuracy")
    figures = []
    for name in names:
        value, ci = answer.get(name), answer.get(f"{name}_ci", [None, None])
        if value is not None and None not in ci:
            figures.append(f"{name.upper() if name == 'auc' else name} {value:.3f} ({ci[0]:.3f} to {ci[1]:.3f})")
    refused = f"; {answer['num_refused']} refused" if answer.get("num_refused") else ""
    return f"{answer['num_cases']} cases{positives}: {', '.join(figures)}{refused}"


def _cohort(
    predictor: Predictor, run: Path, table: Path | None, columns: ColumnsConfig | None
) -> tuple[Cohort, CohortConfig]:
    """The cases, with the model's classes; of the run's own table with the run's own settings."""
    if table is None:
        config = load(run / "config.toml").cohort
        table = run / config.table
    else:
        config = CohortConfig(columns=columns or ColumnsConfig(), unlabelled="drop")
    config = replace(config, classes=predictor.card.classes)
    return Cohort.read(table, config), config
