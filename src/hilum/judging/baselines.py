"""What a measurement of the table does alone on the judged cases, and the model among cases of one size."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hilum.judging.figures import Judgement, to_plain, with_ends
from hilum.judging.subgroups import CaseColumn
from hilum.measuring.bootstrap import Figure, student95
from hilum.measuring.comparison import areas_test, smallest_difference
from hilum.measuring.intervals import with_stratified_auc
from hilum.measuring.metrics import roc_auc
from hilum.measuring.roc_variance import obuchowski

_STRATA = 5
"""Strata of nearly equal numbers of cases."""


def baselines(columns: Sequence[CaseColumn], judged: Judgement, patients: Sequence[str]) -> list[dict[str, Any]]:
    """AUC of each measurement alone, for two classes, beside that of the model on the same cases.

    Intervals and the p-value of equal areas are by Obuchowski's variance. The measurement counts in the direction that
    gives an AUC of at least one half here. Cases without it are left out for both.
    """
    if len(judged.each) != 1:
        return []
    (one,) = judged.each
    which, found = np.asarray(patients, dtype=str), []
    for column in columns:
        if column.numbers is None:
            continue
        rows = np.isfinite(column.numbers)
        y, numbers, inside = one.y[rows], column.numbers[rows], which[rows].tolist()
        rises = not roc_auc(y, numbers) < 0.5
        alone = numbers if rises else -numbers
        areas = obuchowski(y, np.stack([alone, one.p[rows]], axis=1), patients=inside)
        test = areas_test(y, one.p[rows], alone, patients=inside)
        difference, half = float(areas.aucs[1] - areas.aucs[0]), student95(areas.num_patients) * test.error
        figures = {
            "auc": areas.figures[0],
            "model_auc": areas.figures[1],
            "difference": Figure(value=difference, low=difference - half, high=difference + half),
        }
        found.append(
            {
                "column": column.name,
                "higher_is_positive": rises,
                "num_cases": int(rows.sum()),
                **with_ends(figures),
                "p_value": to_plain(test.p),
                "smallest_difference": to_plain(smallest_difference(test.error, num_patients=test.num_patients)),
            }
        )
    return found


def size_matched(columns: Sequence[CaseColumn], judged: Judgement, patients: Sequence[str]) -> list[dict[str, Any]]:
    """AUC among cases of nearly one size, by each column of a size: of the model, and of the size itself.

    Only pairs within one of five strata of the size count. A model that has learned nothing but size keeps little more
    than the size itself has within its strata.
    """
    if len(judged.each) != 1:
        return []
    (one,) = judged.each
    which, found = np.asarray(patients, dtype=str), []
    for column in columns:
        if not column.is_size or column.numbers is None:
            continue
        rows = np.isfinite(column.numbers)
        sizes, inside = column.numbers[rows], which[rows].tolist()
        edges = np.unique(np.quantile(sizes, np.arange(1, _STRATA) / _STRATA))
        strata = np.searchsorted(edges, sizes, side="right")
        figures = {
            f"{name}_auc": with_stratified_auc(one.y[rows], ranking, strata=strata.tolist(), patients=inside)
            for name, ranking in (("model", one.p[rows]), ("size", sizes))
        }
        about = {"column": column.name, "edges": edges.tolist(), "num_cases": int(rows.sum())}
        found.append(about | with_ends(figures))
    return found
