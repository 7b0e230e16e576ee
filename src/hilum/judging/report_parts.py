"""The parts of a report as rows and sentences."""

from collections.abc import Mapping
from typing import Any

from hilum.judging.evaluation_folder import EvaluationFolder
from hilum.judging.figures import ClassJudgement, Evaluation, figures_in
from hilum.judging.report_words import NAMES, figure_text, flat, p_value, sortable
from hilum.judging.subgroups import FEWEST

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


def overall(judged: EvaluationFolder) -> str:
    """The figures over all classes or labels in one line."""
    found = figures_in(judged.evaluation)
    return "; ".join(f"{NAMES[name]} {figure_text(judged.evaluation, name)}" for name in NAMES if name in found)


def undecided(judged: EvaluationFolder) -> list[str]:
    """Sentences on the cases without a decision, and on how the model abstains."""
    evaluation, number = judged.evaluation, len(judged.reasons)
    without = {"without a result": evaluation["num_no_result"], "undecided": evaluation["num_undecided"]}
    counts = [f"{count} {words}" for words, count in without.items() if count]
    told = [f"All {number} cases have a decision."]
    if counts:
        reasons = ", ".join(f"{code} {count}" for code, count in evaluation["reasons"].items())
        told = [
            f"Of {number} cases {' and '.join(counts)}: {evaluation['coverage']:.1%} are decided. Reasons: {reasons}.",
            "No case without a decision counts as negative: figures of decisions, such as sensitivity, are of the "
            "decided cases; figures of probabilities alone, such as the AUC, of all.",
        ]
        told += [] if evaluation["coverage"] else ["No case is decided."]
    for name, one in evaluation.get("abstains", {}).items():
        told.append(f"{name}: {one['rule']}.")
        if "covered" in one:
            covered = ", ".join(f"{each['class']} {figure_text(each, 'share')}" for each in one["covered"])
            told.append(
                f"Here the sets cover {covered}, at {1 - one['error']:g} asked for, and {one['singles']:.1%} hold one "
                "class alone: neither says anything without the other."
            )
    return told


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


def fold_rows(evaluation: Evaluation, output: str) -> list[list[str]]:
    """Fold, cases, positives and AUC of each fold, then their mean; empty for a single model."""
    by_fold = evaluation.get("folds", {}).get("outputs", {}).get(output)
    if not by_fold:
        return []
    rows = [
        [str(one["fold"]), str(one["num_cases"]), str(one["num_positives"]), figure_text(one, "auc")]
        for one in by_fold["folds"]
    ]
    return [*rows, ["mean of the folds", "", "", figure_text(by_fold, "auc_fold_mean")]]


def fold_notes(evaluation: Evaluation) -> list[str]:
    """What must be known of figures out of fold; empty for a single model."""
    folds = evaluation.get("folds")
    lost = [f"A member was lost: {one}" for one in evaluation.get("lost_members", [])]
    return [folds["note"], folds["pooled"], *lost] if folds else []


def card_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    """The main facts of the model card."""
    model = evaluation.get("model")
    if not model:
        return [("Model card", "not known")]
    training, rows = model["training"], flat(model["network"], "network.") + flat(model["recipe"], "recipe.")
    for one, name in zip(model["decisions"]["each"], _decision_names(model["decisions"]), strict=True):
        rows += [(f"calibration{name}", one["calibration"]["rule"]), (f"threshold{name}", one["rule"])]
    rows += flat(training.get("counts", {}), "cases.") + flat(training.get("validation", {}), "validation.")
    if model.get("gate"):
        rows.append(("gate", model["gate"]["rule"]))
    for one in training.get("ensemble", {}).get("members", []):
        rows.append((f"member {one['name']}", f"fold {one['fold']}, seed {one['seed']}, kept epoch {one['epoch']}"))
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
