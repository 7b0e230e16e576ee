"""The audits of a report: leaks, warnings, what gives the label away, refusals and odd values."""

from collections.abc import Mapping
from typing import Any

from hilum.judging.checklist import is_compared
from hilum.judging.figures import Evaluation
from hilum.judging.report_words import rounded, sortable


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
