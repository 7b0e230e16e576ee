"""Compares models, and measurements or readers of the table, with a first model on the same cases."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int
from markupsafe import Markup
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from hilum.cohorts.cells import is_missing, number_in
from hilum.cohorts.labels import Labels
from hilum.cohorts.table import Cohort
from hilum.drawing import svg
from hilum.errors import CohortError, ConfigError
from hilum.files import check_output, user_path, write_whole
from hilum.judging.evaluation_folder import EvaluationFolder, read_evaluation
from hilum.judging.figures import to_plain, with_ends
from hilum.judging.report_plots import roc_overlay
from hilum.judging.report_words import NAMES, figure_text, p_value, rounded
from hilum.measuring.comparison import Comparison, Rating, compare_ratings
from hilum.pages import html_page, notebook_card
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.training.run_folder import Run

_MARK = r'^<!doctype html>\n<html lang="en">\n<head>\n(?s:.*?)content="hilum compare"'
_SHOWN = ("auc", "average_precision", "sensitivity", "specificity", "brier")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Rater:
    """One model, measurement or reader: its ratings of all outputs, by case.

    Attributes:
        name: Its name on the page.
        case_ids: Id of each case.
        ratings: A number for each case and output.
        thresholds: Threshold of each output; empty: no decisions.
        is_probability: Whether the numbers are probabilities.
        called: Whether each output of each case is decided positive; None: by the threshold.
        is_decided: Whether each output of each case has a decision; None: all have.
    """

    name: str
    case_ids: tuple[str, ...]
    ratings: Float64[np.ndarray, "n c"]
    thresholds: tuple[float | None, ...] = ()
    is_probability: bool = True
    called: Bool[np.ndarray, "n c"] | None = None
    is_decided: Bool[np.ndarray, "n c"] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """Result of a comparison.

    Attributes:
        num_cases: Number of cases, the same for all.
        num_patients: Number of their patients.
        left_out: Number of cases that some have and others have not.
        marks: Sentences on evaluations whose figures are unchecked or leak.
        pairs: For each other rater and each class or label: names, figures, differences and p-values.
    """

    num_cases: int
    num_patients: int
    left_out: int = 0
    marks: list[str] = field(default_factory=list)
    pairs: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {"format": 1, **asdict(self)}

    @property
    def rows(self) -> list[list[str]]:
        """Texts of the main figures: the other, output, figure, value of both, their difference, p-values."""
        rows = []
        for pair in self.pairs:
            for name in _SHOWN:
                if name in pair["figures"]:
                    both = pair["figures"][name]
                    texts = [rounded(np.nan if one is None else one) for one in (both["first"], both["other"])]
                    p = [p_value(pair[key]) for key in ("p_areas", "p_curves")] if name == "auc" else ["–", "–"]
                    difference = figure_text(pair["differences"], name)
                    rows.append([pair["other"], pair["output"], NAMES[name], *texts, difference, *p])
        return rows

    def _repr_html_(self) -> str:
        """The main figures side by side, with their differences, for notebooks."""
        first = self.pairs[0]["first"] if self.pairs else ""
        header = ["compared with", "output", "figure", first, "the other", "difference (95 %)", "p, areas", "p, curves"]
        facts = [*self.marks, *([f"{self.left_out} cases that not all have are left out"] if self.left_out else [])]
        title = f"{first} compared on {self.num_cases} cases of {self.num_patients} patients"
        return notebook_card(title, facts=facts, tables=[(header, self.rows)])


def compare(
    evaluations: Sequence[str | Path],
    *,
    columns: Sequence[str] = (),
    table: str | Path | None = None,
    table_columns: ColumnsConfig | None = None,
    common: bool = False,
    out: str | Path | None = None,
) -> Compared:
    """Compare the first model with others, and with columns of the table, on the same cases.

    Differences are those of the first from each other one, with intervals by patient. Each model decides at its own
    threshold. A column of the table is a measurement; if it holds only 0 and 1, it is a reader who decides.

    Args:
        evaluations: Runs or evaluation folders; one suffices if there are columns.
        columns: Columns of the table to compare with. Higher numbers count as more likely positive.
        table: The table of these columns; None: that of the first model's run.
        table_columns: Names of the columns of the table, if it is given.
        common: Judge the cases that all have, if they differ; else that is an error.
        out: HTML page to write; None: none.

    Raises:
        HilumError: If there is nothing to compare, or cases, labels or classes differ.
    """
    if len(evaluations) + len(columns) < 2 or not evaluations:
        msg = f"there must be at least two to compare, a model first, got {len(evaluations)} and {len(columns)} columns"
        raise ConfigError(msg)
    page = None if out is None else user_path(out)
    if page is not None:
        if page.suffix.lower() not in (".html", ".htm"):
            msg = "a comparison is an HTML file: it must be named .html"
            raise ConfigError(msg, path=page)
        check_output(page, _MARK)
    folders = [read_evaluation(one) for one in evaluations]
    _check_alike(folders)
    raters = [_model(folder, name) for folder, name in zip(folders, _names(evaluations), strict=True)]
    if columns:
        cohort = _cohort(evaluations[0], folders[0], table, table_columns)
        raters += [_column(cohort, name, folders[0]) for name in columns]
    case_ids, num_others = _common(raters, common)
    y, patients = _truth(folders, case_ids)
    pairs = [_pair(raters[0], other, case_ids, y, patients, folders[0]) for other in raters[1:]]
    compared = Compared(
        num_cases=len(case_ids),
        num_patients=len(set(patients)),
        left_out=num_others,
        marks=[mark for folder, rater in zip(folders, raters, strict=False) for mark in _marks(folder, rater.name)],
        pairs=[one for pair in pairs for one in pair],
    )
    if page is not None:
        write_whole(page, _page(compared, raters, case_ids, y, folders[0]))
    return compared


def _marks(folder: EvaluationFolder, name: str) -> list[str]:
    """What keeps the figures of an evaluation from being those of unseen cases."""
    marks = []
    if folder.evaluation.get("unchecked"):
        marks.append(f"{name} is NOT CHECKED for cases that trained it: {folder.evaluation['unchecked']}")
    if folder.evaluation.get("leakage"):
        marks.append(f"{name} is judged WITH LEAKAGE: {folder.evaluation['leakage']}")
    notes = (folder.evaluation.get("audit") or {}).get("notes", [])
    return [*marks, *(f"{name} is not compared in full with its training cases: {note}" for note in notes)]


def _names(evaluations: Sequence[str | Path]) -> list[str]:
    """The last part of each path that tells them apart."""
    paths = [user_path(one).resolve() for one in evaluations]
    names = [path.parent.name if path.name in ("evaluation", "model") else path.name for path in paths]
    return [f"{name} ({k + 1})" if names.count(name) > 1 else name for k, name in enumerate(names)]


def _check_alike(folders: Sequence[EvaluationFolder]) -> None:
    """Raise a ConfigError unless all have the same classes or labels."""
    first = folders[0]
    for other in folders[1:]:
        if (other.classes, other.multi_label) != (first.classes, first.multi_label):
            got = f"{', '.join(first.classes)} and {', '.join(other.classes)}"
            msg = f"models are compared on the same classes or labels, got {got}"
            raise ConfigError(msg)


def _model(folder: EvaluationFolder, name: str) -> _Rater:
    of_two = len(folder.classes) == 2 and not folder.multi_label
    return _Rater(
        name=name,
        case_ids=folder.case_ids,
        ratings=folder.probs[:, 1:] if of_two else folder.probs,
        thresholds=tuple(one.asked.threshold for one in folder.each),
        called=np.stack([one.called for one in folder.each], axis=1),
        is_decided=np.stack([one.is_decided for one in folder.each], axis=1),
    )


def _cohort(
    evaluation: str | Path, folder: EvaluationFolder, table: str | Path | None, columns: ColumnsConfig | None
) -> Cohort:
    """The table that holds the columns to compare with.

    Raises:
        ConfigError: If none is given and the evaluation lies in no run folder.
    """
    if table is not None:
        config = CohortConfig(columns=columns or ColumnsConfig(), unlabelled="drop")
        return Cohort.read(table, config, labelled=False)
    run = Run(folder.folder.parent)
    if not run.is_begun:
        msg = f"the table of the columns must be given, since {evaluation} is not the evaluation of a run's test part"
        raise ConfigError(msg, hint="name it with --table")
    return Cohort.read(run.table, replace(run.settings.cohort, classes=()), labelled=False)


def _column(cohort: Cohort, name: str, folder: EvaluationFolder) -> _Rater:
    """A column of the table as a rater of the cases that have a number in it.

    Raises:
        CohortError: If there is no such column, or no case has a number in it.
    """
    known = cohort.cases[0].groups if cohort.cases else {}
    if name not in known:
        msg = f"{cohort.source}: there must be a column {name!r} to compare with, got the columns {', '.join(known)}"
        raise CohortError(msg)
    wanted = set(folder.case_ids)
    values: dict[str, float] = {}
    for case in cohort.cases:
        text = case.groups[name]
        if case.case_id not in wanted or is_missing(text):
            continue
        number = number_in(text)
        if number is None:
            msg = f"row {case.row}, column {name!r} must be a number, got {text!r}"
            raise CohortError(msg, path=cohort.source)
        values[case.case_id] = number
    if not values:
        msg = f"{cohort.source}: column {name!r} must hold numbers of the judged cases, got none"
        raise CohortError(msg)
    numbers = np.array(list(values.values()))
    num_outputs = len(folder.each)
    decides = set(numbers.tolist()) <= {0.0, 1.0}
    return _Rater(
        name=name,
        case_ids=tuple(values),
        ratings=np.repeat(numbers[:, None], num_outputs, axis=1),
        thresholds=(0.5,) * num_outputs if decides else (),
        is_probability=False,
    )


def _common(raters: Sequence[_Rater], common: bool) -> tuple[tuple[str, ...], int]:
    """Cases that all have, in the order of the first, and the number of the others.

    Raises:
        CohortError: If some have others and ``common`` is not given, or all have none.
    """
    shared = set.intersection(*(set(one.case_ids) for one in raters))
    every = set.union(*(set(one.case_ids) for one in raters))
    if every != shared and not common:
        other = next(one for one in raters if set(one.case_ids) != set(raters[0].case_ids))
        alone = sorted(set(raters[0].case_ids) ^ set(other.case_ids))
        msg = (
            f"{raters[0].name} and {other.name} must be judged on the same cases, got {len(alone)} that only one "
            f"of them has, such as {alone[0]!r}"
        )
        hint = "judge them on the same table, or fill the column; or compare on the common cases: --common"
        raise CohortError(msg, hint=hint)
    if not shared:
        msg = "there must be cases that all have, got none"
        raise CohortError(msg)
    return tuple(one for one in raters[0].case_ids if one in shared), len(every) - len(shared)


def _truth(folders: Sequence[EvaluationFolder], case_ids: Sequence[str]) -> tuple[Int[np.ndarray, "n c"], list[str]]:
    """Presence of each output, and the patient of each case: cases that share one in any evaluation share one here.

    Raises:
        CohortError: If a case has another label or scan in another evaluation.
    """
    labels: list[Labels] = []
    links: list[tuple[int, int]] = []
    scans = {case_id: scan for case_id, scan in zip(folders[0].case_ids, folders[0].scans, strict=True) if scan}
    for folder in folders:
        place = {case_id: row for row, case_id in enumerate(folder.case_ids)}
        rows = [place[case_id] for case_id in case_ids]
        for case_id, row in zip(case_ids, rows, strict=True):
            if folder.scans[row] and scans.get(case_id, folder.scans[row]) != folder.scans[row]:
                msg = f"the scan of case {case_id!r} must be the same in all evaluations, it differs"
                raise CohortError(msg, hint="judge all models on the same table")
        labels.append(folder.labels[rows])
        differ = np.flatnonzero(np.any(np.atleast_2d((labels[0] != labels[-1]).T).T, axis=-1))
        if len(differ):
            msg = f"the label of case {case_ids[differ[0]]!r} must be the same in all evaluations, it differs"
            raise CohortError(msg, hint="judge all models on the same table")
        first: dict[str, int] = {}
        links += [(first.setdefault(folder.patients[row], k), k) for k, row in enumerate(rows)]
    starts, ends = np.array(links).T
    graph = coo_array((np.ones(len(links)), (starts, ends)), shape=(len(case_ids),) * 2)
    patients = [str(one) for one in connected_components(graph, directed=False)[1]]
    one = folders[0]
    if one.multi_label:
        return labels[0], patients
    if len(one.classes) == 2:
        return (labels[0] == 1).astype(np.int64)[:, None], patients
    return np.eye(len(one.classes), dtype=np.int64)[labels[0]], patients


def _rating(rater: _Rater, case_ids: Sequence[str], output: int) -> Rating:
    place = {case_id: row for row, case_id in enumerate(rater.case_ids)}
    rows = [place[case_id] for case_id in case_ids]
    threshold = rater.thresholds[output] if rater.thresholds else None
    called = None if rater.called is None else rater.called[rows, output]
    return Rating(
        values=rater.ratings[rows, output], threshold=threshold, is_probability=rater.is_probability, called=called
    )


def _pair(
    first: _Rater,
    other: _Rater,
    case_ids: Sequence[str],
    y: Int[np.ndarray, "n c"],
    patients: Sequence[str],
    folder: EvaluationFolder,
) -> list[dict[str, Any]]:
    """The comparison of two raters for each class or label."""
    pairs = []
    for output, judged in enumerate(folder.each):
        a, b = (_rating(one, case_ids, output) for one in (first, other))
        found = compare_ratings(y[:, output], a, b, patients=patients)
        known = _known(first, case_ids, output) & _known(other, case_ids, output)
        if not known.all():
            found = _of_decided(found, y[:, output], a, b, patients, known)
        pairs.append(
            {
                "first": first.name,
                "other": other.name,
                "output": judged.name,
                "num_positives": int(y[:, output].sum()),
                "num_decided": int(known.sum()),
                "figures": {name: {"first": found.a[name], "other": found.b[name]} for name in found.a},
                "differences": with_ends(found.differences),
                "p_areas": found.p_areas,
                "p_curves": found.p_curves,
                "smallest_difference": found.smallest_difference,
            }
        )
    return [to_plain(one) for one in pairs]


def _known(one: _Rater, case_ids: Sequence[str], output: int) -> Bool[np.ndarray, " n"]:
    """Whether each case has a decision."""
    if one.is_decided is None:
        return np.ones(len(case_ids), bool)
    place = {case_id: row for row, case_id in enumerate(one.case_ids)}
    return np.asarray(one.is_decided[[place[case_id] for case_id in case_ids], output])


def _of_decided(
    found: Comparison,
    y: Int[np.ndarray, " n"],
    a: Rating,
    b: Rating,
    patients: Sequence[str],
    known: Bool[np.ndarray, " n"],
) -> Comparison:
    """The comparison with figures of decisions on the cases alone that both decide; without them where none is."""
    names = [name for name in ("sensitivity", "specificity") if name in found.a]
    figures = [{name: value for name, value in one.items() if name not in names} for one in (found.a, found.b)]
    differences = {name: one for name, one in found.differences.items() if name not in names}
    if names and known.any():
        both = [
            replace(one, values=one.values[known], called=None if one.called is None else one.called[known])
            for one in (a, b)
        ]
        owners = [patient for patient, one in zip(patients, known, strict=True) if one]
        inside = compare_ratings(y[known], *both, patients=owners)
        for name in names:
            figures[0][name], figures[1][name] = inside.a[name], inside.b[name]
            differences[name] = inside.differences[name]
    return replace(found, a=figures[0], b=figures[1], differences=differences)


def _page(
    compared: Compared,
    raters: Sequence[_Rater],
    case_ids: Sequence[str],
    y: Int[np.ndarray, "n c"],
    folder: EvaluationFolder,
) -> str:
    plots = []
    for output, judged in enumerate(folder.each):
        curves = [(one.name, _rating(one, case_ids, output).values) for one in raters]
        title = f"ROC curves of {', '.join(one.name for one in raters)} for {judged.name}"
        made = svg(roc_overlay(curves, y[:, output], title=judged.name), name=f"roc-{output}", title=title)
        plots.append({"svg": Markup(made), "caption": title})  # noqa: S704 - made by matplotlib
    return html_page(
        "hilum.judging",
        "comparison.html",
        generator="hilum compare",
        title=f"{raters[0].name} compared with {', '.join(one.name for one in raters[1:])}",
        first=raters[0].name,
        compared=compared,
        rows=compared.rows,
        plots=plots,
        smallest=[(one["other"], one["output"], one["smallest_difference"]) for one in compared.pairs],
    )
