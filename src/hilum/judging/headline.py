"""The main figures of an evaluation in one line."""

from typing import Any


def headline(evaluation: dict[str, Any]) -> str:
    """The main figures in one line."""
    if evaluation.get("multi_label"):
        about, figures = _label_figures(evaluation)
    elif "num_positives" in evaluation:
        about = f", {evaluation['num_positives']} of class {evaluation['classes'][1]}"
        figures = [_formatted(evaluation, name) for name in ("auc", "sensitivity", "specificity")]
    else:
        about, figures = "", [_formatted(evaluation, name) for name in ("macro_auc", "balanced_accuracy")]
    folds = evaluation.get("folds")
    by_fold = next(iter(folds["outputs"].values())) if folds else {}
    if folds and len(folds["outputs"]) > 1:
        about += f", out of fold, of {len(by_fold['folds'])} folds"
    elif folds:
        mean = _formatted({**by_fold, "mean": by_fold["auc_fold_mean"], "mean_ci": by_fold["auc_fold_mean_ci"]}, "mean")
        about += f", out of fold, of {len(by_fold['folds'])} folds"
        figures.insert(1, mean.replace("mean", "mean of the folds", 1))
    seen = f"; {evaluation['num_seen']} left out, for the model has seen them" if evaluation.get("num_seen") else ""
    refused = f"; {evaluation['num_refused']} refused" if evaluation.get("num_refused") else ""
    abstained = _abstained(evaluation)
    unchecked = "; NOT CHECKED for cases that trained the model" if evaluation.get("unchecked") else ""
    notes = (evaluation.get("audit") or {}).get("notes")
    unchecked += "; NOT COMPARED in full with training cases, see the report" if notes and not unchecked else ""
    leaking = "; WITH LEAKAGE, see the report" if evaluation.get("leakage") else ""
    shown = ", ".join(filter(None, figures))
    number = evaluation["num_cases"]
    cases = f"{number} case{'s' * (number != 1)}{about}"
    return f"{cases}: {shown}{abstained}{seen}{refused}{unchecked}{leaking}"


def _abstained(evaluation: dict[str, Any]) -> str:
    """Numbers of cases without a decision, which sensitivity and specificity leave out, and the share of the others."""
    kinds = {"without a result": "num_no_result", "undecided": "num_undecided"}
    counts = [f"{evaluation[key]} {words}" for words, key in kinds.items() if evaluation.get(key)]
    return f"; {evaluation['coverage']:.1%} decided, {' and '.join(counts)}" if counts else ""


def _formatted(evaluation: dict[str, Any], name: str) -> str:
    """A figure with its interval; empty if it does not exist."""
    value, ci = evaluation.get(name), evaluation.get(f"{name}_ci", [None, None])
    if value is None or None in ci:
        return ""
    return f"{name.replace('_', ' ').replace('auc', 'AUC')} {value:.3f} ({ci[0]:.3f} to {ci[1]:.3f})"


def _label_figures(evaluation: dict[str, Any]) -> tuple[str, list[str]]:
    """Means over labels, with the rarest label, the label of lowest AUC, and labels without an AUC."""
    by_label = evaluation["by_label"]
    rarest = min(by_label, key=lambda name: by_label[name]["num_positives"])
    known = [name for name in by_label if by_label[name]["auc"] is not None]
    figures = [_formatted(evaluation, name) for name in ("macro_auc", "macro_average_precision")]
    if known:
        lowest = min(known, key=lambda name: by_label[name]["auc"])
        figures.append(f"lowest {_formatted(by_label[lowest], 'auc')} of {lowest}")
    if len(known) < len(by_label):
        figures.append(f"no AUC of {', '.join(name for name in by_label if name not in known)}")
    return f", {len(by_label)} labels, the rarest ({rarest}) in {by_label[rarest]['num_positives']}", figures
