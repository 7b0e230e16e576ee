"""Writes the report of an evaluation: one HTML file that opens from disk without a network."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup

from hilum.drawing import Panels, svg
from hilum.errors import ConfigError
from hilum.files import check_output, user_path, write_whole
from hilum.judging import report_parts as parts
from hilum.judging.checklist import checked
from hilum.judging.evaluation_folder import EvaluationFolder, read_evaluation
from hilum.judging.figures import ClassJudgement
from hilum.judging.headline import headline
from hilum.judging.judge import REPORT_MARK
from hilum.judging.pictures import calibration_page, pr_page, roc_page
from hilum.judging.report_audit import audit_parts
from hilum.judging.report_errors import CasePictures, errors
from hilum.judging.report_groups import merged_subgroups, table_one_rows
from hilum.judging.report_plots import Risk, decision_curve_page, risk_page, risks_of
from hilum.judging.report_words import confusion_table, figure_rows, figure_text, flat, point_rows, sortable
from hilum.measuring.metrics import confusion_matrix
from hilum.pages import html_page
from hilum.training.history import history_panels
from hilum.training.run_folder import Run

_SECTIONS = {
    "question": "What was asked",
    "table-1": "Patients",
    "figures": "Figures",
    "decision-curve": "Decision curve",
    "undecided": "Without a decision",
    "subgroups": "Subgroups",
    "baselines": "Baselines",
    "size-matched": "Of one size",
    "smallest-difference": "What it could show",
    "audit": "Audit",
    "errors": "Errors",
    "training": "Training",
    "card": "Model card",
    "checklist": "Checklist",
}
_OVERVIEW = {
    "auc": "ROC AUC",
    "average_precision": "Average precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
}


def report(path: str | Path, out: str | Path | None = None, *, pictures: CasePictures | None = None) -> Path:
    """Write the report of an evaluation, ``report.html``.

    All figures are those of evaluation.json and cases.csv; none is computed anew. Case ids are keyed hashes.

    Args:
        path: An evaluation folder, or a run with one.
        out: The file; None: ``report.html`` in the evaluation folder.
        pictures: Samples of the cases, of which planes and maps are shown for the most certain errors; the page then
            names small groups too and must not be shared. None: no pixels of patients, and groups under ten cases are
            merged.

    Returns:
        The file.

    Raises:
        HilumError: If there is no evaluation, or the file is not a report.
    """
    judged = read_evaluation(path)
    file = judged.folder / "report.html" if out is None else user_path(out)
    if file.suffix.lower() not in (".html", ".htm"):
        msg = "a report is an HTML file: it must be named .html"
        raise ConfigError(msg, path=file)
    check_output(file, REPORT_MARK)
    try:
        values = _values(judged, pictures)
    except (KeyError, TypeError, ValueError, AttributeError) as exc:  # a file of the right format, edited by hand
        msg = f"the evaluation in {judged.folder} is damaged: {type(exc).__name__} {exc}"
        raise ConfigError(msg, hint="judge the model again") from exc
    page = html_page("hilum.judging", "report.html", **values)
    write_whole(file, page)
    return file


def _values(judged: EvaluationFolder, pictures: CasePictures | None) -> dict[str, Any]:
    """What the template shows."""
    evaluation, each, is_shareable = judged.evaluation, judged.each, pictures is None
    training = _training(judged)
    groups = merged_subgroups(evaluation, is_shareable)
    values: dict[str, Any] = {
        "generator": "hilum report",
        "title": parts.title(judged),
        "headline": headline(evaluation),
        "warnings": parts.warnings(judged, is_shareable),
        "version": evaluation.get("model", {}).get("version", ""),
        "shareable": is_shareable,
        "question": parts.question(judged),
        "statements": parts.statements(evaluation),
        "flow": parts.flow(evaluation),
        "table_one": table_one_rows(evaluation, is_shareable),
        "num_cases": evaluation["num_cases"],
        "output_word": "Label" if judged.multi_label else "Class",
        "overall": parts.overall(judged),
        "overview_names": list(_OVERVIEW.values()),
        "outputs": [_output(one, k, judged) for k, one in enumerate(each)],
        "has_decided": evaluation["decided"] is not None,
        "matrix": _matrix(judged),
        "decision_curves": [
            _plot(
                decision_curve_page(one, one.stated),
                f"decision-{k}",
                f"{one.name}: net benefit over thresholds",
                f"{one.name}, at a prevalence of {one.stated.prevalence if one.stated else np.mean(one.y):.3g}",
            )
            for k, one in enumerate(each)
        ],
        "fold_notes": parts.fold_notes(evaluation),
        "undecided": parts.undecided(judged),
        "risk_plots": _risk_plots(risks_of(judged)),
        "subgroups": groups.rows,
        "subgroup_heads": groups.heads,
        "num_subgroup_intervals": groups.num_intervals,
        "forest_plot": groups.forest and _plot(*groups.forest),
        "no_subgroups": list(evaluation["no_subgroups"].items()),
        "baselines": parts.baseline_rows(evaluation),
        "size_matched": parts.size_rows(evaluation),
        "smallest_difference": parts.smallest_difference_lines(judged),
        "audit": audit_parts(evaluation, is_shareable),
        "errors": errors(judged, pictures),
        "error_head": f"Probability of {judged.classes[1]}" if len(each) == 1 else "Its probability",
        "training": training,
        "card": parts.card_rows(evaluation),
        "recalibrated": parts.recalibrated_rows(evaluation),
        "settings": flat(evaluation.get("model", {}).get("training", {}).get("settings", {})),
        "privacy": parts.PRIVACY[is_shareable],
    }
    there = {place for place in _SECTIONS if place not in parts.OPTIONAL or values[parts.OPTIONAL[place]]}
    values["sections"] = [(place, name) for place, name in _SECTIONS.items() if place in there]
    is_shown = {"training": training is not None, "maps": any(one["map"] for one in values["errors"])}
    values["checklist"] = checked(judged, [name for name, shown in is_shown.items() if shown])
    values["names"] = _SECTIONS | parts.PLACES
    return values


def _risk_plots(risks: Sequence[Risk]) -> list[dict[str, Any]]:
    titles = [f"{one.name}: errors over coverage" for one in risks]
    return [_plot(risk_page(one), f"risk-{k}", titles[k], titles[k]) for k, one in enumerate(risks)]


def _plot(panels: Panels, name: str, title: str, caption: str) -> dict[str, Any]:
    return {"svg": Markup(svg(panels, name=name, title=title)), "caption": caption}  # noqa: S704 - made by matplotlib


def _output(one: ClassJudgement, place: int, judged: EvaluationFolder) -> dict[str, Any]:
    """Tables and plots of one class or label."""
    evaluation, decided = parts.of_output(judged, one.name)
    area, ap = figure_text(evaluation, "auc"), figure_text(evaluation, "average_precision")
    slope = figure_text(evaluation, "calibration_slope")
    names = ("absent", "present") if judged.multi_label else (f"not {one.name}", one.name)
    if len(judged.classes) == 2 and not judged.multi_label:
        names = (judged.classes[0], judged.classes[1])
    return {
        "name": one.name,
        "num_positives": evaluation["num_positives"],
        "caption": f"Figures of {one.name} against the rest: {evaluation['num_positives']} of {len(one.y)} cases",
        "rows": figure_rows(evaluation, decided),
        "overview": [sortable(evaluation, name) for name in _OVERVIEW],
        "points": point_rows(evaluation, cross_fitted=bool(judged.evaluation.get("folds"))),
        "folds": parts.fold_rows(judged.evaluation, one.name),
        "confusion": confusion_table(one.matrix, names),
        "plots": [
            _plot(roc_page([one], alone=True), f"roc-{place}", f"ROC curve of {one.name}: AUC {area}", "ROC curve"),
            _plot(
                pr_page([one], alone=True), f"pr-{place}",
                f"Precision over recall of {one.name}: average precision {ap}", "Precision and recall",
            ),
            _plot(
                calibration_page([one], alone=True), f"calibration-{place}",
                f"Observed over predicted share of {one.name}, slope {slope}; below, histograms of the probabilities",
                "Calibration; below it, histograms of the probabilities",
            ),
        ],
    }  # fmt: skip


def _matrix(judged: EvaluationFolder) -> dict[str, Any] | None:
    """The confusion matrix of more than two classes."""
    if judged.multi_label or len(judged.classes) == 2:
        return None
    known = judged.decided >= 0
    matrix = confusion_matrix(judged.labels[known], judged.decided[known], num_classes=len(judged.classes))
    return confusion_table(matrix, judged.classes)


def _training(judged: EvaluationFolder) -> dict[str, Any] | None:
    """Curves of the run around the evaluation; None without one."""
    run = Run(judged.folder.parent)
    file = run.folder / "metrics.csv"
    kept = judged.evaluation.get("model", {}).get("training", {}).get("epoch")
    if not run.is_begun or kept is None or not file.is_file():
        return None
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except (OSError, UnicodeDecodeError, csv.Error):
        return None
    if str(kept) not in [row["epoch"] for row in rows]:
        return None
    title = f"Loss, accuracy, F1 and AUC by epoch; epoch {kept} was kept"
    return _plot(history_panels(rows, kept_epoch=kept), "training", title, title)
