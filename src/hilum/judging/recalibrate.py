"""Fits calibration and thresholds of a model anew on labelled cases of another site; the weights stay."""

import contextlib
import logging
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from hilum.cohorts.copies import join_patients
from hilum.cohorts.labels import Labels, labels_of
from hilum.cohorts.links import Link, find_links, find_links_to, leakage_note, warn_of_links
from hilum.cohorts.prepared import PreparedCohort, prepare_cohort, write_refusals
from hilum.deciding.decision import Decisions
from hilum.deciding.facts import facts_of, kernel_of
from hilum.deciding.fit_decisions import HeldOut, refitted_decisions
from hilum.deciding.fit_gate import Seen, outside_when_left_out, widened_gate, with_limit
from hilum.deciding.gate import Gate
from hilum.deciding.model_folder import ModelCard, load_model, save_model
from hilum.errors import CohortError, require
from hilum.files import user_path
from hilum.judging.candidates import cases_of, check_leaks, unseen_of
from hilum.measuring.agreement import calibration_line_intervals
from hilum.measuring.thresholds import Threshold
from hilum.predicting import Predictor
from hilum.predicting.tables import outputs_of_prepared
from hilum.preparing import Store, load_sample
from hilum.settings.run import CohortConfig, ColumnsConfig, DecisionConfig
from hilum.settings.toml import from_dict, to_dict
from hilum.training.card import validation_figures
from hilum.training.run_cases import extend_run, known_cases
from hilum.training.run_folder import Run

_log = logging.getLogger("hilum")

_ABOUT = (
    "Calibration and thresholds were fitted anew on labelled cases of another cohort; the weights are unchanged. "
    "The previous ones are under `before`. Where the model has a gate, it accepts scans like these too."
)
_REFITTED = ("rule", "at", "calibration", "gate_share", "abstain", "error", "coverage")
"""Settings of the section decision that can change; views of test-time augmentation stay with the weights."""


def recalibrate(
    model: str | Path,
    table: str | Path,
    out: str | Path,
    *,
    decision: Mapping[str, object] | None = None,
    columns: ColumnsConfig | None = None,
    store: str | Path | None = None,
    device: str = "auto",
    max_refused: float = CohortConfig().max_refused,
    unchecked: bool = False,
    allow_leakage: bool = False,
) -> dict[str, Any]:
    """Fit calibration and thresholds of a model anew on labelled cases, and write it as a new folder.

    If a table has a split column, its val rows are used, else all rows. Cases that trained the model are left out as in
    ``evaluate``, and ``refused.csv`` lists them. The new folder holds ``model/`` with the same weights, and the split
    of the model's run with these cases as validation cases, so that a later evaluation leaves out both.

    Args:
        model: The run folder, or the model folder in it.
        table: The labelled cases.
        out: The new folder; must not exist, or be empty.
        decision: Settings ``rule``, ``at``, ``calibration``, ``gate_share``, ``abstain``, ``error`` and ``coverage``
            that differ from the model's own.
        columns: Names of the table's columns.
        store: Folder of prepared samples; None: a temporary one.
        device: Device of the network.
        max_refused: Largest share of the unseen cases that may be refused.
        unchecked: Go on even if training cases cannot be recognised, as in ``evaluate``.
        allow_leakage: Go on even if cases are of a study of the training cases or near copies of their scans; the card
            says so.

    Returns:
        counts, num_seen, num_refused, thresholds before and after, rules, abstains, gate, unchecked (why training cases
        could not be recognised), leaks that were allowed, notes on what could not be compared, and the calibration
        lines on these cases before and after, by class: intercept and slope, each with its interval; null if it does
        not exist.

    Raises:
        HilumError: If the model, table or folder is not usable, the cases leak, or there are too few; then nothing is
            written.
    """
    table, new = user_path(table), Run(out)
    _check_new(new.folder)
    run, predictor = Run.of(model), Predictor(model, device=device)
    card = predictor.card
    rule = _rule(card, decision or {})
    found = cases_of(table, run, predictor, columns, unchecked=unchecked, part="val")
    candidates = replace(found, max_refused=max_refused)
    with contextlib.ExitStack() as stack:
        folder = user_path(store or stack.enter_context(tempfile.TemporaryDirectory(prefix="hilum-")))
        prepared = prepare_cohort(candidates.cohort, card.recipe, Store(folder, card.reading))
        unseen, refused, seen = unseen_of(candidates, prepared)
        links, known = find_links(unseen.cases, unseen), known_cases(run, card)
        for warning in (*warn_of_links(links), *known.notes):
            _log.warning("warning: %s", warning)
        leaking = find_links_to(known, unseen.cases, unseen)
        leaks = [link.sentence("trained or validated the model") for link in leaking]
        check_leaks(leaks, candidates.cohort.source, "to calibrate on", allowed=allow_leakage)
        logits, distances = outputs_of_prepared(predictor, unseen)
        gate = _refitted_gate(card, unseen, distances, rule.gate_share)
    labels, patients = labels_of(unseen.cases), _patients(unseen, links)
    held_out = HeldOut(labels=labels, logits=logits, patients=tuple(patients), chose_epoch=False)
    decisions, chosen = _refitted(card, rule, held_out, table)
    both = {"before": card.decisions, "after": decisions}
    lines = {when: _lines(one, labels, logits, patients) for when, one in both.items()}
    entry = {
        "about": _ABOUT,
        "counts": _counts(card.classes, labels, patients),
        "settings": {name: getattr(rule, name) for name in _REFITTED},
        "seen_checked": not candidates.unchecked,
        "leakage": leakage_note(leaking, where="of cases that trained the model") if leaks else "",
        "notes": list(known.notes),
        "calibration_lines": lines,
        "before": {"decisions": to_dict(card.decisions), "validation": card.training.get("validation", {})},
    }
    fitted = decisions, validation_figures(decisions, labels, logits, chosen), entry
    _write(new, run, replace(card, gate=gate), unseen, fitted, predictor)
    write_refusals(new.refused_file, (*seen, *refused))
    return {name: entry[name] for name in ("counts", "calibration_lines", "notes")} | {
        "num_seen": len(seen),
        "num_refused": len(refused),
        "thresholds": {when: one.thresholds for when, one in both.items()},
        "rules": [one.rule for one in decisions.each],
        "abstains": [one.abstains for one in decisions.each if one.abstains],
        "gate": "" if gate is None else gate.rule,
        "unchecked": candidates.unchecked,
        "leaks": leaks,
    }


def _refitted_gate(
    card: ModelCard, unseen: PreparedCohort, distances: Float64[np.ndarray, " n"] | None, share: float
) -> Gate | None:
    """The gate widened to accept the scans of these cases, with its limit chosen on them."""
    gate, recipe = card.gate, card.recipe
    if gate is None:
        return None
    samples = [load_sample(file) for file in unseen.samples]  # mapped from their files
    seen = Seen(
        facts=tuple(facts_of(one, recipe) for one in samples),
        kernels=tuple(map(kernel_of, samples)),
        patients=tuple(case.patient_id for case in unseen.cases),
    )
    return with_limit(widened_gate(gate, seen), seen.patients, outside_when_left_out(gate, seen), distances, share)


def _refitted(
    card: ModelCard, rule: DecisionConfig, held_out: HeldOut, table: Path
) -> tuple[Decisions, tuple[Threshold | None, ...]]:
    """The new decisions, and their thresholds with what they do on these cases."""
    try:
        each, chosen = refitted_decisions(rule, card.classes, held_out)
    except CohortError as exc:
        raise CohortError(exc.message, path=table, hint=exc.hint) from exc
    return replace(card.decisions, each=each), chosen


def _write(
    new: Run,
    run: Run,
    card: ModelCard,
    unseen: PreparedCohort,
    fitted: tuple[Decisions, dict[str, Any], dict[str, Any]],
    predictor: Predictor,
) -> None:
    """Write split, record and model of a recalibrated run; ``fitted`` are decisions, their figures and the entry."""
    decisions, figures, entry = fitted
    extend_run(new, run, card, unseen)
    training = {
        **card.training,
        "split": new.split_digest,
        "validation": figures,
        "recalibrated": [*card.training.get("recalibrated", []), entry],
    }
    network, _ = load_model(predictor.folder)
    save_model(new.model, network, replace(card, decisions=decisions, training=training), predictor.statistics)


def _check_new(folder: Path) -> None:
    is_free = (folder.is_dir() and not any(folder.iterdir())) or not (folder.exists() or folder.is_symlink())
    require(is_free, "--out", "a new or empty folder", folder)


def _rule(card: ModelCard, changes: Mapping[str, object]) -> DecisionConfig:
    """The settings with which the model was last calibrated, with changes."""
    unknown = [name for name in changes if name not in _REFITTED]
    require(not unknown, "settings of a recalibration", f"among {', '.join(_REFITTED)}", ", ".join(unknown))
    earlier = card.training.get("settings", {}).get("decision", {})
    if "recalibrated" in card.training:
        earlier = card.training["recalibrated"][-1]["settings"]
    kept = {name: value for name, value in earlier.items() if name in _REFITTED}
    rule = from_dict(DecisionConfig, {**kept, **changes}, "decision")
    has_effect = "at" not in changes or rule.rule in ("sensitivity", "specificity")
    require(has_effect, "decision.at", "given with the rule sensitivity or specificity", f"the rule {rule.rule}")
    has_gate = "gate_share" not in changes or card.gate is not None
    require(has_gate, "decision.gate_share", "given for a model with a gate", "one without")
    for name in ("error", "coverage"):
        has_effect = name not in changes or rule.abstain != "none"
        require(has_effect, f"decision.{name}", "given with decision.abstain = band or sets", "none")
    return rule


def _patients(unseen: PreparedCohort, links: Sequence[Link]) -> list[str]:
    """Patient of each case; patients who share a scan, a study or near copies of a scan count as one."""
    joined = join_patients(unseen.cases, unseen.copies, [link.cases for link in links])
    return [case.patient_id for case in joined]


def _counts(classes: Sequence[str], labels: Labels, patients: Sequence[str]) -> dict[str, int]:
    """Numbers of cases and patients, of all and of each class or label."""
    counts, of = {"cases": len(labels), "patients": len(set(patients))}, np.array(patients)
    for k, name in enumerate(classes):
        has = labels[:, k] == 1 if labels.ndim == 2 else labels == k
        counts |= {f"cases of {name}": int(has.sum()), f"patients of {name}": len(set(of[has].tolist()))}
    return counts


def _lines(
    decisions: Decisions, labels: Labels, logits: Float64[np.ndarray, "n c"], patients: Sequence[str]
) -> dict[str, dict[str, list[float] | None]]:
    """Intercept and slope, each with its interval, of the second of two classes, or of each class or label."""
    probs, found = decisions.probabilities(logits), {}
    for k, name in enumerate(decisions.classes):
        if k == 0 and len(decisions.classes) == 2 and not decisions.multi_label:
            continue
        y = labels[:, k] if labels.ndim == 2 else (labels == k).astype(np.int64)
        line = calibration_line_intervals(y, probs[:, k], patients=patients)
        ends = {"intercept": line.intercept, "slope": line.slope}
        found[name] = {
            what: None if math.isnan(one.low) else [one.value, one.low, one.high] for what, one in ends.items()
        }
    return found
