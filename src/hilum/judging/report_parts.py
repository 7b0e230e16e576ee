"""The parts of a report as rows and sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hilum.drawing import Panels
from hilum.judging.checklist import is_compared
from hilum.judging.evaluation_folder import EvaluationFolder
from hilum.judging.figures import ClassJudgement, Evaluation, figures_in
from hilum.judging.report_plots import ForestRow, forest
from hilum.judging.report_words import NAMES, figure_text, flat, p_value, rounded, sortable
from hilum.judging.subgroups import FEWEST
from hilum.measuring.intervals import Figure
from hilum.pages import grey, png
from hilum.preparing import load_sample
from hilum.reading.identity import hashed

OPTIONAL = {
    "table-1": "table_one",
    "baselines": "baselines",
    "size-matched": "size_matched",
    "audit": "audit",
    "training": "training",
}
"""Sections that are left out where there is nothing to show, and the value that tells so."""

PLACES = {
    "flow": "Flow of the cases",
    "intended-use": "Intended use",
    "label-origin": "Origin of the labels",
    "recalibrated": "Recalibrated",
    "privacy": "Privacy",
}
"""Places within a section."""

PRIVACY = {
    True: "This page holds no pixels of patients, no names, ids or dates; case ids are hashes under the site's key, "
    "and groups under ten cases are merged.",
    False: "This page holds pixels of patients and names small groups. It must not be shared. Case ids are hashes "
    "under the site's key.",
}

_ROUGH_AUC, _ROUGH_PATIENTS = 0.95, 50
"""Above this AUC with fewer patients of the smaller class the coverage of intervals was found to leave 92 to 98 %:
91.8 % at AUC 0.97 with about 20 patients who have a positive (benchmarks/results/interval_coverage.json)."""

_LONGEST = 32
"""Letters of a name in a plot."""

_MOST_ERRORS = 12
_MOST_FOREST = 120
"""Largest number of rows of the forest plot; the table holds all."""


def of_output(judged: EvaluationFolder, name: str) -> tuple[Evaluation, Evaluation | None]:
    """The figures of one class or label: of all cases and, if there are undecided ones, of the decided cases."""
    key = "by_label" if judged.multi_label else "by_class"
    whole, decided = judged.evaluation, judged.evaluation["decided"]
    if key not in whole:
        return whole, decided
    return whole[key][name], decided and decided[key][name]


def title(judged: EvaluationFolder) -> str:
    """What was judged."""
    if not judged.multi_label and len(judged.classes) == 2:
        return f"Class {judged.classes[1]} against {judged.classes[0]}: judged on {_cases(judged.evaluation)}"
    word = "labels" if judged.multi_label else "classes"
    return f"{len(judged.classes)} {word}: judged on {_cases(judged.evaluation)}"


def _cases(evaluation: Evaluation) -> str:
    cases, patients = evaluation["num_cases"], evaluation["num_patients"]
    return f"{cases} case{'s' * (cases != 1)} of {patients} patient{'s' * (patients != 1)}"


def warnings(judged: EvaluationFolder, is_shareable: bool) -> list[dict[str, str]]:
    """What a reader must know before any figure."""
    evaluation, found = judged.evaluation, []
    notes = (evaluation.get("audit") or {}).get("notes", [])
    found += [{"what": "Not compared in full.", "why": f"{note[:1].upper()}{note[1:]}."} for note in notes]
    if not is_shareable:
        found.append({"what": "Not to be shared.", "why": "This page holds pixels of patients and names small groups."})
    if evaluation.get("leakage"):
        found.append({"what": "With leakage.", "why": f"{evaluation['leakage']}; the figures flatter the model."})
    if evaluation.get("unchecked"):
        why = f"Cases that trained the model could not be recognised: {evaluation['unchecked']}."
        found.append({"what": "Not checked.", "why": why})
    for one in judged.each:
        positives, negatives = (_patients(judged, one, value) for value in (1, 0))
        if not positives or not negatives:
            what = "no case is positive" if not positives else "every case is positive"
            why = f"{what}, so that ROC AUC, and one of sensitivity and specificity, cannot be said."
            found.append({"what": f"{one.name}:", "why": why})
        elif min(positives, negatives) < _ROUGH_PATIENTS and one.figures["auc"].value > _ROUGH_AUC:
            why = (
                f"at a ROC AUC as high as {one.figures['auc'].value:.3f} with {min(positives, negatives)} patients of "
                "the smaller class, intervals of the AUC may be too narrow: in simulations of such tests they held the "
                "truth in 92 of 100, not in 95 (docs/concepts/intervals.md)."
            )
            found.append({"what": f"{one.name}:", "why": why})
        elif min(positives, negatives) < FEWEST:
            fewer = "with" if positives < negatives else "without"
            why = (
                f"only {min(positives, negatives)} patients {fewer} it. Intervals of so few are rough: see how often "
                "they hold the truth in docs/concepts/intervals.md."
            )
            found.append({"what": f"{one.name}:", "why": why})
    return found


def _patients(judged: EvaluationFolder, one: ClassJudgement, value: int) -> int:
    return len({patient for patient, y in zip(judged.patients, one.y.tolist(), strict=True) if y == value})


def question(judged: EvaluationFolder) -> list[tuple[str, str]]:
    """The question that the model answers, and how it decides."""
    model = judged.evaluation.get("model", {})
    recipe = model.get("recipe", {})
    word = "labels, each present or absent" if judged.multi_label else "classes that exclude one another"
    rows = [("Asked for", f"{', '.join(judged.classes)} ({word})"), ("Judged on", _cases(judged.evaluation))]
    if recipe:
        size = " x ".join(map(str, recipe["size"]))
        rows.append(("The model sees", f"region {recipe['region']}, {size} voxels (z, y, x)"))
    rules = judged.evaluation.get("threshold_rule")
    if isinstance(rules, str):
        rows.append(("Decides by", rules))
    elif rules:
        rows += [(f"Decides {name} by", rule) for name, rule in rules.items()]
    return rows


def statements(evaluation: Evaluation) -> dict[str, str]:
    """What the model's card states of its use and its labels; empty where nothing was stated."""
    stated = evaluation.get("model", {}).get("training", {}).get("statements", {})
    return {name: str(stated.get(name, "")).strip() for name in ("intended_use", "label_origin")}


def flow(evaluation: Evaluation) -> list[tuple[str, int]]:
    """Steps from the table's rows to the judged cases, with the number of cases."""
    about = evaluation.get("cohort")
    if not about:
        return []
    refused = [(f"refused: {code}", number) for code, number in about["refused_by_code"].items()]
    rows = [
        ("rows of the table", about["num_rows"]),
        ("without a label", about["num_unlabelled"]),
        ("in other parts of the split", about["num_other_parts"]),
        ("patient or scan known to the model, left out", about["num_seen"]),
        *refused,
        ("judged", about["num_judged"]),
    ]
    return [row for row in rows if row[1] or row[0] in ("rows of the table", "judged")]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableOne:
    """Table 1: names of the parts, and rows of texts."""

    parts: list[str]
    rows: list[tuple[str, list[str]]]


_PARTS = {"train": "Training", "val": "Validation", "test": "Test", "judged": "Judged"}


def table_one_rows(evaluation: Evaluation, is_shareable: bool) -> TableOne | None:
    """Table 1; in a page that is shared, groups under ten cases are merged."""
    about = (evaluation.get("cohort") or {}).get("table_one")
    if not about or not about["parts"]:
        return None
    parts: dict[str, Any] = about["parts"]
    rows = [
        ("Cases", [str(one["num_cases"]) for one in parts.values()]),
        ("Patients", [str(one["num_patients"]) for one in parts.values()]),
    ]
    for name in evaluation["classes"]:
        cells = [_share(one["by_class"][name], one["num_cases"]) for one in parts.values()]
        rows.append((f"Class {name}" if not evaluation.get("multi_label") else f"Label {name}", cells))
    for column, content in about["columns"].items():
        if "quartiles" in content:
            rows.append((column, [_median(content["quartiles"][part], content["missing"][part]) for part in parts]))
            continue
        totals = {part: one["num_cases"] for part, one in parts.items()}
        shown_groups = _grouped(content, list(parts)) if is_shareable else content
        hidden = {part: _hidden({g: counts[part] for g, counts in shown_groups.items()}) for part in parts}
        for group, counts in shown_groups.items():
            cells = [
                "–" if is_shareable and group in hidden[part] else _share(counts[part], totals[part]) for part in parts
            ]
            rows.append((f"{column}: {group}", cells))
    return TableOne(parts=[_PARTS[part] for part in parts], rows=rows)


def _grouped(content: Mapping[str, Mapping[str, int]], parts: Sequence[str]) -> dict[str, Mapping[str, int]]:
    """The groups of a column by part; those with fewer than ten cases in all are merged."""
    small = [group for group, counts in content.items() if sum(counts.values()) < FEWEST]
    kept = {group: counts for group, counts in content.items() if group not in small}
    if small:
        kept[_under_ten(len(small))] = {part: sum(content[group][part] for group in small) for part in parts}
    return kept


def _hidden(counts: Mapping[str, int]) -> set[str]:
    """Groups whose counts are not shown: those under ten, and the next one if they could be told from the total."""
    hidden = {group for group, count in counts.items() if 0 < count < FEWEST}
    if hidden and sum(counts[group] for group in hidden) < FEWEST:
        others = [group for group, count in counts.items() if count >= FEWEST]
        hidden |= {min(others, key=lambda group: counts[group])} if others else set()
    return hidden


def _under_ten(number: int) -> str:
    return f"{number} group{'s' * (number > 1)} under ten"


def _share(count: int, total: int) -> str:
    return f"{count} ({count / total:.0%})" if total else str(count)


def _median(quartiles: Sequence[float] | None, missing: int) -> str:
    if quartiles is None:
        return "–"
    low, middle, high = (f"{value:.4g}" for value in quartiles)
    return f"{middle} ({low} to {high})" + (f", {missing} missing" if missing else "")


def overall(judged: EvaluationFolder) -> str:
    """The figures over all classes or labels in one line."""
    found = figures_in(judged.evaluation)
    return "; ".join(f"{NAMES[name]} {figure_text(judged.evaluation, name)}" for name in NAMES if name in found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """Subgroups for the page: heads and rows of their table, how many intervals it has, and the plot with its texts."""

    heads: list[str]
    rows: list[dict[str, Any]]
    num_intervals: int
    forest: tuple[Panels, str, str, str] | None


def merged_subgroups(evaluation: Evaluation, is_shareable: bool) -> Groups:
    """The subgroups; in a page that is shared, groups under ten cases of a column are merged to one line of counts."""
    of_two = not evaluation.get("multi_label") and len(evaluation["classes"]) == 2
    figures = ["auc", "sensitivity", "specificity"] if of_two else ["mean_auc"]
    heads = ["Column", "Group", "Cases", "Patients", *(["Positive"] if of_two else []), *(NAMES[f] for f in figures)]
    counts = ["num_cases", "num_patients", *(["num_positives"] if of_two else [])]
    rows: list[dict[str, Any]] = []
    plotted: list[ForestRow] = []
    for column, groups in evaluation["subgroups"].items():
        plotted.append(ForestRow(text=_shortened(column)))
        small = [one for one in groups if one["num_cases"] < FEWEST]
        named = [one for one in groups if one not in small or not is_shareable]
        if small and is_shareable:
            sums = {name: sum(one[name] for one in small) for name in counts}
            named.append({"group": _under_ten(len(small)), **sums})
        sizes = {one["group"]: one["num_cases"] for one in named}
        hidden_groups = _hidden(sizes) if is_shareable else set()
        for one in named:
            hidden = one["group"] in hidden_groups
            cells = [("", "–") if hidden else (str(one[name]), str(one[name])) for name in counts]
            has_figures = figures[0] in one
            cells += [sortable(one, name) if has_figures else ("", "–") for name in figures]
            rows.append({"column": column, "group": one["group"], "cells": cells})
            remark = "" if has_figures and one[figures[0]] is not None else _why(one, has_figures)
            name = _shortened(one["group"])
            text = name if hidden else f"{name} ({one['num_cases']})"
            plotted.append(ForestRow(text=text, figure=figures_in(one).get(figures[0]), remark=remark))
    if not rows:
        return Groups(heads=heads, rows=[], num_intervals=0, forest=None)
    name = "auc" if of_two else "macro_auc"
    whole = figures_in(evaluation).get(name, Figure(value=np.nan, low=np.nan, high=np.nan))
    panels = forest(plotted[:_MOST_FOREST], overall=whole, title="Subgroups", x=NAMES[figures[0]])
    more = (
        f"; the first {_MOST_FOREST} of {len(plotted)} rows, the table holds all" if len(plotted) > _MOST_FOREST else ""
    )
    caption = f"{NAMES[figures[0]]} by subgroup with 95 % intervals; dashed line and band: all cases{more}"
    number = sum(" to " in text for row in rows for _, text in row["cells"])
    return Groups(heads=heads, rows=rows, num_intervals=number, forest=(panels, "forest", caption, caption))


def _shortened(text: str) -> str:
    """A name for a plot, in which long ones would take the room of the figures."""
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _why(group: Mapping[str, Any], has_figures: bool) -> str:
    if not has_figures:
        return "too few cases"
    if "num_positives" not in group:
        return "not defined"
    return "no case is positive" if not group["num_positives"] else "every case is positive"


def undecided(judged: EvaluationFolder) -> str:
    """A sentence on the cases without a decision."""
    number = sum(map(bool, judged.doubts))
    if not number:
        return f"All {len(judged.doubts)} cases have a decision."
    text = (
        f"{number} of {len(judged.doubts)} cases have no decision, because something is in doubt about the scan or the "
        f"lungs. Coverage is {judged.evaluation['coverage']:.3f}. "
    )
    return text + (
        "The figures of all cases count them as if the threshold had decided; those of the decided cases stand beside."
        if judged.evaluation["decided"]
        else "No case is decided."
    )


def baseline_rows(evaluation: Evaluation) -> list[dict[str, Any]]:
    """Each measurement alone beside the model, the best first."""
    rows = []
    for one in sorted(evaluation["baselines"], key=lambda one: -(one["auc"] or 0)):
        p = one.get("p_value")
        better = sortable(one, "difference") if "difference" in one else ("", "–")
        cells = [
            sortable(one, "auc"),
            sortable(one, "model_auc"),
            better,
            ("", "–") if p is None else (f"{p:.6g}", p_value(p)),
        ]
        rows.append({**one, "cells": cells})
    return rows


def size_rows(evaluation: Evaluation) -> list[list[str]]:
    """Size-matched AUCs as texts."""
    return [
        [
            one["column"],
            ", ".join(f"{edge:.3g}" for edge in one["edges"]),
            figure_text(one, "model_auc"),
            figure_text(one, "size_auc"),
        ]
        for one in evaluation["size_matched"]
    ]


def smallest_difference_lines(judged: EvaluationFolder) -> list[str]:
    """What a test of this size could have shown, for each class or label."""
    lines = []
    for one in judged.each:
        smallest = of_output(judged, one.name)[0]["smallest_difference"]
        lines.append(
            f"{one.name}: it cannot be said, for the ROC AUC has no standard error here."
            if smallest is None
            else f"{one.name}: that the ROC AUC lies {smallest:.3f} above a fixed value is found in 80 of 100 such "
            "tests (two-sided, at 5 %)."
        )
    return [*lines, "A smaller difference is found less often; that none was found does not show that there is none."]


def audit_parts(evaluation: Evaluation, is_shareable: bool) -> list[dict[str, Any]]:
    """The audits of the judged cases and, before training, of the whole cohort; empty if none was made."""
    parts = []
    if evaluation.get("audit"):
        clean = (
            "Compared with the training and validation cases by patient, study, scan and signature: no match."
            if is_compared(evaluation)
            else "Not compared in full with the training and validation cases:"
        )
        parts += _audit_parts("Judged cases", evaluation["audit"], clean, is_shareable)
    if evaluation.get("training_audit"):
        clean = "No leak between the parts was found."
        parts += _audit_parts("Whole cohort, before training", evaluation["training_audit"], clean, is_shareable)
    return parts


def _audit_parts(name: str, audit: Mapping[str, Any], clean: str, is_shareable: bool) -> list[dict[str, Any]]:
    """Leaks and warnings, what gives the label away, refusals and odd values, as the parts of a section."""
    leaks = [one["kind"] if is_shareable else one["sentence"] for one in audit["leaks"]]
    lines = [f"Leak: {text}." for text in leaks] or [clean]
    lines += [f"Warning: {text}." for text in audit["warnings"] if not is_shareable or " (row " not in text]
    parts = [{"title": f"{name}: leaks and warnings", "lines": [*lines, *audit["notes"]], "heads": [], "rows": []}]
    told = sorted((one for one in audit["giveaways"] if one["auc"] is not None), key=lambda one: -one["auc"])
    rows = []
    for one in told:
        figure = {"auc": one["auc"], "auc_ci": [one["low"], one["high"]]}
        use = "technical" if one["is_technical"] else "for comparison"
        rows.append([(text, text) for text in (one["tag"], one["target"], use)] + [sortable(figure, "auc")])
    untold = sorted({one["reason"] for one in audit["giveaways"] if one["auc"] is None})
    lines = [
        "Cross-validated ROC AUC of each thing alone, by patient. A technical tag that tells the class can be learned "
        "instead of the disease.",
        *(f"Without a figure: {reason}." for reason in untold),
    ]
    heads = ["Thing", "Class or label", "Kind", "Cross-validated AUC"]
    parts.append({"title": f"{name}: what gives the label away", "lines": lines, "heads": heads, "rows": rows})
    lines = [_refused_line(one) for one in audit["refused"] if sum(one["refused"].values())]
    lines = lines or ["No scan with a label was refused."]
    parts.append({"title": f"{name}: refused scans", "lines": lines, "heads": [], "rows": []})
    rows = [
        [
            (one["column"], one["column"]),
            (f"{one['missing']:.6g}", f"{one['missing']:.1%}"),
            (str(len(one["extreme"])), str(len(one["extreme"]))),
        ]
        for one in audit["values"]
    ]
    lines = [] if rows else ["No column has missing or extreme values."]
    heads = ["Column", "Missing", "Extreme values"]
    parts.append({"title": f"{name}: missing and extreme values", "lines": lines, "heads": heads, "rows": rows})
    return parts


def _refused_line(one: Mapping[str, Any]) -> str:
    counts = ", ".join(f"{number} of {number + one['used'][name]} of {name}" for name, number in one["refused"].items())
    among = f"{one['target']}: " if one["target"] else ""
    p = one["reason"] if one["p"] is None else f"p = {rounded(one['p'])}"
    return f"{among}refused were {counts} ({p})."


def errors(judged: EvaluationFolder, samples: Mapping[str, Path] | None) -> list[dict[str, Any]]:
    """The wrong decisions that were furthest from the threshold, with planes of their samples if these are given."""
    is_decided = np.array([not doubt for doubt in judged.doubts])
    found = []
    for one in judged.each:
        wrong = np.flatnonzero((one.called != (one.y == 1)) & is_decided)
        if not judged.multi_label and len(judged.classes) > 2:
            wrong = wrong[one.called[wrong]]  # each wrong case once, under the class that was decided
        threshold = 0.5 if one.asked.threshold is None else one.asked.threshold
        for row in wrong.tolist():
            beyond = float(one.p[row]) - threshold
            distance, room = (beyond, 1 - threshold) if one.called[row] else (-beyond, threshold)
            found.append((distance / room if room > 0 else 1.0, row, one))
    found.sort(key=lambda error: -error[0])
    return [_error(judged, row, one, samples) for _, row, one in found[:_MOST_ERRORS]]


def _error(
    judged: EvaluationFolder, row: int, one: ClassJudgement, samples: Mapping[str, Path] | None
) -> dict[str, Any]:
    case_id = judged.case_ids[row]
    if judged.multi_label:
        truth, decision = ("present" if one.y[row] else "absent"), ("present" if one.called[row] else "absent")
    else:
        truth, decision = judged.classes[judged.labels[row]], judged.classes[judged.decided[row]]
    sample = None if samples is None else samples.get(case_id)
    return {
        "case": hashed("case", case_id),
        "output": one.name,
        "truth": truth,
        "decision": decision,
        "p": float(one.p[row]),
        "picture": "" if sample is None else _planes(sample),
    }


def _planes(file: Path) -> str:
    """The three middle planes of a sample, head up, in true proportions, as a PNG."""
    from PIL import Image

    volume = load_sample(file)
    hu, (dz, dy, dx) = volume.voxels_hu, volume.spacing_mm
    z, y, x = (n // 2 for n in hu.shape)
    planes = ((hu[z], dy, dx), (hu[::-1, y], dz, dx), (hu[::-1, :, x], dz, dy))
    mm = max(volume.extent_mm) / 192
    pictures = []
    for plane, down, across in planes:
        size = (max(1, round(plane.shape[1] * across / mm)), max(1, round(plane.shape[0] * down / mm)))
        pictures.append(np.asarray(Image.fromarray(grey(plane)).resize(size, Image.Resampling.BILINEAR)))
    return png(pictures)


def card_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The main facts of the model card."""
    model = evaluation.get("model")
    if not model:
        return [("Model card", "not known")]
    training, rows = model["training"], flat(model["network"], "network.") + flat(model["recipe"], "recipe.")
    for one, name in zip(model["decisions"]["each"], _decision_names(model["decisions"]), strict=True):
        rows += [(f"calibration{name}", one["calibration"]["rule"]), (f"threshold{name}", one["rule"])]
    rows += flat(training.get("counts", {}), "cases.") + flat(training.get("validation", {}), "validation.")
    if "epoch" in training:
        rows.append(("kept epoch", str(training["epoch"])))
    if training.get("leakage"):
        rows.append(("leakage in training", str(training["leakage"])))
    return [*rows, ("Hilum", str(model["version"]))]


def _decision_names(decisions: Mapping[str, Any]) -> list[str]:
    return [f" of {name}" for name in decisions["classes"]] if decisions.get("multi_label") else [""]


def recalibrated_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """What a recalibrated model's card tells of its fit; empty for other models."""
    entries = evaluation.get("model", {}).get("training", {}).get("recalibrated") or []
    rows = []
    for place, entry in enumerate(entries):
        which = f"{place + 1}. " if len(entries) > 1 else ""
        shown_parts = {
            name: entry[name] for name in ("about", "counts", "settings", "calibration_lines") if name in entry
        }
        rows += flat(shown_parts, which)
        before = entry.get("before", {}).get("decisions", {}).get("each", [])
        rows += [(f"{which}before", f"{one['calibration']['rule']}; {one['rule']}") for one in before]
    return rows
