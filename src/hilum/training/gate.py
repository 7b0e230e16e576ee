"""Fits the gate of a run's model, and that of an ensemble of members, on what they trained on and what they did not."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float64

from hilum.cohorts.dataset import CohortDataset, as_sample
from hilum.cohorts.labels import labels_of
from hilum.cohorts.table import Case
from hilum.deciding.facts import facts_of, kernel_of
from hilum.deciding.features import case_outputs
from hilum.deciding.fit_gate import Seen, fit_features, fit_ranges, outside, with_limit
from hilum.deciding.gate import FeatureStatistics, Gate, mean_distance
from hilum.deciding.tta import Views
from hilum.findings import Finding
from hilum.modelling.ensemble import Network
from hilum.preparing import load_sample
from hilum.randomness import generator
from hilum.settings.run import DecisionConfig, Recipe, RunConfig

_log = logging.getLogger("hilum")

_MOST_CASES = 1000
"""Training cases that the gate is fitted on, at random: more would change it little, and each is computed once more."""

_AT_ONCE = 8
"""Cases in a batch; it does not change the logits."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Outputs:
    """What a network or ensemble makes of cases.

    Attributes:
        cases: The cases.
        logits: Their logits.
        features: Their features, by member.
        seen: Facts of their scans.
    """

    cases: tuple[Case, ...]
    logits: Float64[np.ndarray, "n c"]
    features: tuple[Float64[np.ndarray, "n d"], ...]
    seen: Seen


@torch.inference_mode()
def outputs_of(
    network: Network,
    cases: Sequence[Case],
    files: Sequence[Path],
    recipe: Recipe,
    device: torch.device,
    views: Views | None = None,
) -> Outputs:
    """Logits and features of prepared cases, and facts of their scans.

    Args:
        network: For prediction, on the device.
        cases: The cases; one at least.
        files: Their samples.
        recipe: The model's input.
        device: Device of the network.
        views: Test-time augmentation.
    """
    many = bool(cases) and labels_of(cases).ndim == 2
    logits, features, facts, kernels = [], [], [], []
    for start in range(0, len(files), _AT_ONCE):
        volumes = [load_sample(file) for file in files[start : start + _AT_ONCE]]
        samples = [as_sample(volume, recipe) for volume in volumes]
        found = case_outputs(network, samples, recipe, device, views, multi_label=many)
        logits.append(found.logits.cpu().double().numpy())
        features.append([one.cpu().double().numpy() for one in found.features])
        facts += [facts_of(volume, recipe) for volume in volumes]
        kernels += [kernel_of(volume) for volume in volumes]
    patients = tuple(case.patient_id for case in cases)
    return Outputs(
        cases=tuple(cases),
        logits=np.concatenate(logits),
        features=tuple(np.concatenate(column) for column in zip(*features, strict=True)),
        seen=Seen(facts=tuple(facts), kernels=tuple(kernels), patients=patients),
    )


def gate_of_run(
    network: Network, train: CohortDataset, val: CohortDataset, config: RunConfig, device: torch.device
) -> tuple[Gate | None, tuple[FeatureStatistics, ...]]:
    """The gate of a single network: fitted on training cases, its limit on validation cases.

    Args:
        network: For prediction, on the device.
        train: The training part.
        val: The validation part.
        config: Settings of the run.
        device: Device of the network.
    """
    rule = config.decision
    if rule.gate == "off":
        return None, ()
    random = generator(config.training.seed, "gate").permutation(len(train))[:_MOST_CASES]
    trained = outputs_of(network, *_cases_of(train, sorted(random.tolist())), config.recipe, device)
    held_out = outputs_of(network, *_cases_of(val, range(len(val))), config.recipe, device)
    is_labelled = np.array([case.is_labelled for case in trained.cases])
    owners = [patient for patient, one in zip(trained.seen.patients, is_labelled, strict=True) if one]
    statistics = fit_features(trained.features[0][is_labelled], labels_of(trained.cases)[is_labelled], owners)
    found = () if statistics is None else (statistics,)
    distances = mean_distance(found, held_out.features) if found else None
    gate, seen = fit_ranges(trained.seen, rule), held_out.seen
    return with_limit(gate, seen.patients, outside(gate, seen), distances, rule.gate_share), found


def gate_of_members(
    gates: Sequence[Gate | None],
    statistics: Sequence[Sequence[FeatureStatistics]],
    held_out: Sequence[tuple[Outputs, Sequence[int]]],
    rule: DecisionConfig,
) -> tuple[Gate | None, tuple[FeatureStatistics, ...]]:
    """The gate of an ensemble: what any member saw, with a limit on cases that the members who count held out.

    Args:
        gates: Of each member.
        statistics: Of each member; empty where its features are not judged.
        held_out: Outputs of cases by some members, and the numbers of these.
        rule: Settings of the decision.
    """
    known = [gate for gate in gates if gate is not None]
    if rule.gate == "off":
        return None, ()
    if len(known) < len(gates):
        _log.warning(
            "warning: %d of %d members have no gate: the ensemble has none", len(gates) - len(known), len(gates)
        )
        return None, ()
    if not all(statistics):
        _log.warning("warning: not every member judges features: the ensemble's gate judges ranges alone")
        statistics = ()
    flat = tuple(own[0] for own in statistics)
    return _gate_of(known, range(len(known)), flat, held_out, rule.gate_share), flat


def found_out_of_fold(
    gates: Sequence[Gate],
    statistics: Sequence[FeatureStatistics],
    by_fold: Sequence[tuple[Outputs, Sequence[int]]],
    rule: DecisionConfig,
) -> list[tuple[Finding, ...]]:
    """What each case has unlike training, by the gate of the members that held it out, its limit from other folds.

    Args:
        gates: Of each member.
        statistics: Of each member; empty: features are not judged.
        by_fold: Outputs of the cases of a fold by the members that held them out, and the numbers of these.
        rule: Settings of the decision.
    """
    found = []
    for n, (outputs, numbers) in enumerate(by_fold):
        gate = _gate_of(gates, numbers, statistics, [*by_fold[:n], *by_fold[n + 1 :]], rule.gate_share)
        distances = _distances([(outputs, numbers)], statistics)
        away = [None] * len(outputs.cases) if distances is None else distances.tolist()
        seen = zip(outputs.seen.facts, outputs.seen.kernels, away, strict=True)
        found += [gate.findings(facts, kernel, distance) for facts, kernel, distance in seen]
    return found


def _gate_of(
    gates: Sequence[Gate],
    members: Sequence[int],
    statistics: Sequence[FeatureStatistics],
    held_out: Sequence[tuple[Outputs, Sequence[int]]],
    share: float,
) -> Gate:
    """What the gate of any of some members accepts, with a limit on cases that members held out."""
    is_outside = [out for outputs, numbers in held_out for out in outside(_joined(gates, numbers), outputs.seen)]
    patients = [patient for outputs, _ in held_out for patient in outputs.seen.patients]
    return with_limit(_joined(gates, members), patients, is_outside, _distances(held_out, statistics), share)


def _joined(gates: Sequence[Gate], members: Sequence[int]) -> Gate:
    """What the gate of any of some members accepts, without a limit."""
    own = [gates[i] for i in members]
    names = set().union(*(gate.ranges for gate in own))
    ends = {name: [gate.ranges[name] for gate in own if name in gate.ranges] for name in sorted(names)}
    return replace(
        own[0],
        ranges={name: (min(low for low, _ in own), max(high for _, high in own)) for name, own in ends.items()},
        kernels=tuple(sorted(set().union(*(gate.kernels for gate in own)))),
        limit=None,
    )


def _distances(
    held_out: Sequence[tuple[Outputs, Sequence[int]]], statistics: Sequence[FeatureStatistics]
) -> Float64[np.ndarray, " n"] | None:
    """Distance of the features of each case by the members that held it out; None: features are not judged."""
    if not statistics:
        return None
    each = [mean_distance([statistics[i] for i in numbers], outputs.features) for outputs, numbers in held_out]
    return np.concatenate(each)


def _cases_of(dataset: CohortDataset, places: Sequence[int]) -> tuple[list[Case], list[Path]]:
    prepared, indices = dataset.prepared, [dataset.indices[place] for place in places]
    return [prepared.cases[i] for i in indices], [prepared.samples[i] for i in indices]
