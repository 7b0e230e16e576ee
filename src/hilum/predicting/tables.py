"""Predicts a table of scans to a table of predictions."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64

from hilum.cohorts.prepared import REFUSALS_MARK, PreparedCohort, prepare_cohort, write_refusals
from hilum.cohorts.table import Cohort
from hilum.errors import ConfigError, ResourceError
from hilum.files import check_output, csv_text, user_path, write_whole
from hilum.predicting.predictor import Prediction, Predictor
from hilum.preparing import Store, load_sample
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.volume import Volume

_Result = TypeVar("_Result")
_BATCH = 16
_MARK = r"^case_id,row,(?s:.*),decision,(reason_codes,)?reason\r?\n"
"""Pattern at the beginning of a table of predictions."""


def predict_table(
    predictor: Predictor, table: Path, out: Path | None, *, columns: ColumnsConfig | None = None
) -> dict[str, Any]:
    """Predict every scan of a table; labels are neither needed nor read.

    Args:
        predictor: The model.
        table: CSV, Excel or Parquet with a column of paths.
        out: The CSV to write: case_id, row in the table, probability of each class, decision, and why there is none, in
            codes and in words. Cases that cannot be prepared are listed in ``NAME.refused.csv`` beside it.
        columns: Names of the columns.

    Returns:
        Numbers of predicted and refused cases, their files, and the number of cases with each decision.

    Raises:
        HilumError: If the table is not usable, or none of its scans is.
    """
    if out is None:
        msg = "predicting a table needs --out, the CSV to write"
        raise ConfigError(msg)
    out, table = user_path(out), user_path(table)
    if out.suffix.lower() != ".csv":
        msg = "predictions are written as CSV: the file must be named .csv"
        raise ConfigError(msg, path=out)
    listed = out.with_suffix(".refused.csv")
    check_output(out, _MARK, inputs=[table])
    check_output(listed, REFUSALS_MARK, inputs=[table])
    cohort = Cohort.read(table, CohortConfig(columns=columns or ColumnsConfig()), labelled=False)
    with tempfile.TemporaryDirectory(prefix="hilum-") as folder:
        prepared = prepare_cohort(cohort, predictor.card.recipe, Store(Path(folder), predictor.card.reading))
        predictions = list(predict_prepared(predictor, prepared))
    header = [
        "case_id",
        "row",
        *(f"prob_{name}" for name in predictor.card.classes),
        "decision",
        "reason_codes",
        "reason",
    ]
    rows = (
        [
            case.case_id,
            case.row,
            *one.probabilities.values(),
            one.decision,
            " ".join(one.outcome.codes),
            one.outcome.reason,
        ]
        for case, one in zip(prepared.cases, predictions, strict=True)
    )
    write_whole(out, csv_text([header, *rows]))
    write_refusals(listed, prepared.refusals)
    return {
        "out": str(out),
        "num_cases": len(predictions),
        "num_refused": len(prepared.refusals),
        "refused": str(listed) if prepared.refusals else "",
        "decisions": {d: sum(p.decision == d for p in predictions) for d in sorted({p.decision for p in predictions})},
    }


def predict_prepared(predictor: Predictor, prepared: PreparedCohort) -> Iterator[Prediction]:
    """Predict prepared cases in order, batch by batch, with as many at once as the memory allows."""
    for batch in _in_batches(predictor.predict_samples, prepared.samples):
        yield from batch


def logits_of_prepared(predictor: Predictor, prepared: PreparedCohort) -> Float64[np.ndarray, "n c"]:
    """Logits of prepared cases in order, as ``predict_prepared`` computes them."""
    return np.concatenate(list(_in_batches(predictor.logits, prepared.samples)))


def outputs_of_prepared(
    predictor: Predictor, prepared: PreparedCohort
) -> tuple[Float64[np.ndarray, "n c"], Float64[np.ndarray, " n"] | None]:
    """Logits of prepared cases in order, and the distances of their features; see ``logits_and_distances``."""
    batches = list(_in_batches(predictor.logits_and_distances, prepared.samples))
    logits = np.concatenate([own for own, _ in batches])
    distances = [own for _, own in batches if own is not None]
    return logits, np.concatenate(distances) if distances else None


def _in_batches(run: Callable[[list[Volume]], _Result], samples: Sequence[Path]) -> Iterator[_Result]:
    """Results for batches of samples, which are made smaller where memory does not suffice."""
    size, start = _BATCH, 0
    while start < len(samples):
        try:
            batch = run([load_sample(path) for path in samples[start : start + size]])
        except ResourceError:
            if size == 1:
                raise
            size //= 2
            continue
        yield batch
        start += size
