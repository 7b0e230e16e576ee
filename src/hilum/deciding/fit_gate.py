"""Fits the gate: ranges and feature statistics on training cases, the limit on cases that were held out."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64, Int
from sklearn.covariance import LedoitWolf

from hilum.cohorts.labels import Labels
from hilum.deciding.facts import FACTS
from hilum.deciding.gate import FeatureStatistics, Gate
from hilum.measuring.abstaining import one_each
from hilum.randomness import generator
from hilum.settings.recipe import Range
from hilum.settings.run import DecisionConfig

_LEAST_PATIENTS = 20
"""Fewest patients of a mean of its own: fewer classes are pooled, and with fewer patients in all there is no mean."""

_PARTS = 5
"""Parts of the patients, each left out once where ranges are widened by the cases that also choose the limit."""

_MARGIN = 0.1
"""Margin on each side of a range, as a share of it; with few cases more: 2 / n (rules of thumb)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Seen:
    """Scans from which a gate is fitted.

    Attributes:
        facts: Of each scan.
        kernels: Of each scan; empty where unknown.
        patients: Of each scan.
    """

    facts: tuple[dict[str, float], ...]
    kernels: tuple[str, ...]
    patients: tuple[str, ...]


def fit_ranges(trained: Seen, rule: DecisionConfig) -> Gate:
    """A gate with the ranges of training cases, without a limit of features."""
    kernels = tuple(sorted(set(trained.kernels) - {""}))
    return Gate(
        policy="note" if rule.gate == "note" else "no-result",
        ranges=_ranges(trained.facts),
        kernels=kernels,
        rule="ranges of training; features are not judged",
    )


def widened_gate(gate: Gate, seen: Seen) -> Gate:
    """The gate with ranges and kernels that accept further scans too."""
    own = _ranges(seen.facts)
    ranges = {
        name: (min(low, own[name][0]), max(high, own[name][1])) if name in own else (low, high)
        for name, (low, high) in gate.ranges.items()
    }
    kernels = tuple(sorted({*gate.kernels, *seen.kernels} - {""})) if gate.kernels else ()
    return replace(gate, ranges=ranges, kernels=kernels, limit=None)


def _ranges(facts: Sequence[dict[str, float]]) -> dict[str, Range]:
    values = {name: [one[name] for one in facts if name in one] for name in FACTS}
    return {name: _range(name, own) for name, own in values.items() if own}


def fit_features(
    features: Float[np.ndarray, "n d"], labels: Labels, patients: Sequence[str]
) -> FeatureStatistics | None:
    """Statistics of the features of training cases; None with fewer than twenty patients.

    Args:
        features: Of each training case.
        labels: Their classes; several labels have one mean together.
        patients: Of each case.
    """
    owners = np.array(patients)
    if len(set(patients)) < _LEAST_PATIENTS:
        return None
    classes = labels if labels.ndim == 1 else np.zeros(len(labels), np.int64)
    counts = {k: len(set(owners[classes == k].tolist())) for k in np.unique(classes).tolist()}
    groups = np.array([k if counts[k] >= _LEAST_PATIENTS else -1 for k in classes.tolist()])
    wide = features.astype(np.float64)
    means = {k: wide[groups == k].mean(axis=0) for k in np.unique(groups).tolist()}
    residuals = wide - np.stack([means[k] for k in groups.tolist()])
    covariance = LedoitWolf(assume_centered=True).fit(residuals).covariance_
    floor = max(1e-12, 1e-6 * float(np.trace(covariance)) / len(covariance))  # features that never vary
    return FeatureStatistics(
        means=np.stack(list(means.values())).astype(np.float32),
        covariance=(covariance + floor * np.eye(len(covariance))).astype(np.float32),
    )


def outside(gate: Gate, seen: Seen) -> list[bool]:
    """Whether scans lie outside the ranges and kernels of a gate."""
    return [bool(gate.findings(facts, kernel, None)) for facts, kernel in zip(seen.facts, seen.kernels, strict=True)]


def outside_when_left_out(gate: Gate, seen: Seen) -> list[bool]:
    """Whether scans lie outside the gate widened by the others alone: by fifths of their patients."""
    patients = sorted(set(seen.patients))
    fifth = dict(zip(patients, generator(0, "fifths").permutation(len(patients)) % _PARTS, strict=True))
    parts = np.array([fifth[patient] for patient in seen.patients])
    found = np.zeros(len(parts), bool)
    for part in range(_PARTS):
        inside, others = np.flatnonzero(parts == part), np.flatnonzero(parts != part)
        found[inside] = outside(widened_gate(gate, _some(seen, others)), _some(seen, inside))
    return found.tolist()


def _some(seen: Seen, places: Int[np.ndarray, " m"]) -> Seen:
    facts, kernels, patients = (
        tuple(column[n] for n in places) for column in (seen.facts, seen.kernels, seen.patients)
    )
    return Seen(facts=facts, kernels=kernels, patients=patients)


def with_limit(
    gate: Gate,
    patients: Sequence[str],
    is_outside: Sequence[bool],
    distances: Float64[np.ndarray, " n"] | None,
    asked: float,
) -> Gate:
    """The gate with the limit of features at which it holds back a share of scans like those of training.

    Of each patient a random case counts. Cases outside the ranges count as held back already, so that the share is
    that of the whole gate; of a new case it holds on average over such fits (split conformal prediction, Vovk 2005).

    Args:
        gate: A gate with ranges.
        patients: Patients of cases that were not trained on.
        is_outside: Whether each lies outside ranges that were fitted without it.
        distances: Their distances; None: features are not judged.
        asked: The share; with fewer than 1 / share - 1 patients the smallest that they allow.
    """
    chosen = one_each(np.zeros(len(patients), int), patients).tolist()
    number = len(chosen)
    outside = sum(is_outside[n] for n in chosen)
    by_ranges = f"{outside} of {number} patients that were held out lie outside the ranges"
    if distances is None or not number:
        return replace(gate, num_held_out=number, share=None, rule=f"ranges of training alone; {by_ranges}")
    share = max(asked, 1 / (number + 1))
    scores = np.array([math.inf if is_outside[n] else float(distances[n]) for n in chosen])
    limit = np.sort(scores)[math.ceil((number + 1) * (1 - share) - 1e-9) - 1]
    if math.isinf(limit):  # the ranges alone hold back more than the share
        limit = max((score for score in scores if math.isfinite(score)), default=math.inf)
        share = (outside + 1) / (number + 1)
    why = ""
    if share > asked:
        needed = math.ceil(1 / asked - 1 - 1e-9)
        why = f", {asked:.2g} was asked for: " + (
            f"that needs {needed} patients" if number < needed else "the ranges alone hold back more"
        )
    rule = f"holds back {share:.2g} of scans like those of training, by {number} patients held out{why}; {by_ranges}"
    return replace(
        gate, limit=float(limit) if math.isfinite(limit) else None, share=share, num_held_out=number, rule=rule
    )


def _range(name: str, values: Sequence[float]) -> Range:
    low, high = min(values), max(values)
    fact = FACTS[name]
    margin = max((_MARGIN + 2 / len(values)) * (high - low), fact.least)
    below, above = (max(margin, fact.share * abs(end)) for end in (low, high))
    least, most = low - below, high + above
    if fact.has_sign:
        least, most = (max(least, 0.0) if low > 0 else least), (min(most, 0.0) if high < 0 else most)
    return least, most
