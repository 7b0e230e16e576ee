"""Makes one calibrated ensemble of the members of a run of folds."""

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from jaxtyping import Float64

from hilum.cohorts.dataset import SplitCohort
from hilum.cohorts.labels import labels_of
from hilum.cohorts.table import Case
from hilum.deciding.decision import Decisions
from hilum.deciding.fit_decisions import HeldOut, TrainingCases
from hilum.deciding.gate import FeatureStatistics, Gate
from hilum.deciding.model_folder import EnsembleMember, ModelCard, load_model, load_statistics, save_model
from hilum.deciding.tta import views_of
from hilum.errors import CheckpointError, TrainingError
from hilum.modelling.ensemble import Ensemble, Network
from hilum.modelling.resnet import ResNet3D
from hilum.settings.run import RunConfig
from hilum.training.card import figures_of, model_card
from hilum.training.gate import Outputs, found_out_of_fold, gate_of_members
from hilum.training.out_of_fold import cross_fitted, digest_of, outputs_of_part, write_out_of_fold
from hilum.training.part_loader import PartLoader
from hilum.training.run_folder import Run

_log = logging.getLogger("hilum")

NO_FIGURE = (
    "The figures are of predictions out of fold: each case by the members of its fold alone, with calibration, "
    "threshold, abstaining and gate fitted on the other folds. The ensemble of all members has no honest figure on "
    "these cases, and its probabilities are sharper or flatter than those on which it was calibrated: hilum "
    "recalibrate, on cases that no member has seen, mends that."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A member of a run of folds.

    Attributes:
        config: Its settings.
        data: The cases, and their parts in its fold.
        run: Its run folder.
        name: Its name in the ensemble.
    """

    config: RunConfig
    data: SplitCohort
    run: Run
    name: str


def make_ensemble(run: Run, members: Sequence[Trained], lost: Sequence[str]) -> Path:
    """Predict out of fold, calibrate, and write ``cases.csv`` and the model folder; returns the latter.

    Args:
        run: The run of folds.
        members: Its members, in the order of their seeds and folds; those without a model are left out.
        lost: A sentence for each lost member, for the card.

    Raises:
        TrainingError: If fewer than two folds have a member.
    """
    done = [one for one in members if one.run.state == "whole"]
    by_fold: dict[int, list[Trained]] = {}
    for one in done:
        by_fold.setdefault(one.config.split.fold, []).append(one)
    if len(by_fold) < 2:
        msg = f"an ensemble needs members of two folds or more, {run.folder} has those of {len(by_fold)}"
        raise TrainingError(msg, hint="once what lost the others is mended, --resume goes on")
    for fold in range(members[0].config.split.folds):
        if fold not in by_fold:
            _log.warning("warning: fold %d has no member: its cases have no prediction out of fold", fold)
    networks = {one.name: _loaded(one) for one in done}
    first = done[0]
    config, cohort = _fitted_by(done), first.data.cohort
    outputs, folds = [], []
    for fold, own in sorted(by_fold.items()):
        each = {one.name: cast("ResNet3D", networks[one.name][0]) for one in own}
        outputs.append(outputs_of_part(Ensemble(each).eval(), own[0].data, config, "test"))
        folds += [fold] * len(outputs[-1].cases)
    cases = [case for one in outputs for case in one.cases]
    scores = np.concatenate([one.logits for one in outputs])
    trained = _training_cases(first, networks)
    names = [one.name for one in done]
    by_members = [[names.index(one.name) for one in own] for _, own in sorted(by_fold.items())]
    held_out = list(zip(outputs, by_members, strict=True))
    gate, statistics = _gate(done, networks, held_out, config)
    gates = [own for own in (networks[name][1].gate for name in names) if own is not None]
    unseen = [()] * len(cases) if gate is None else found_out_of_fold(gates, statistics, held_out, config.decision)
    found, by_fold_decisions = cross_fitted(config, cohort.classes, trained, cases, np.array(folds), scores, unseen)
    write_out_of_fold(run.cases_file, cohort.classes, cases, found)
    has_label = np.array([case.is_labelled for case in cases])
    labels = labels_of(cases)[has_label]
    about = {
        "folds": config.split.folds,
        "seeds": len({one.config.training.seed for one in done}),
        "lost": list(lost),
        "cases": digest_of(run.cases_file),
    }
    everywhere = replace(first.data, parts=dict.fromkeys(first.data.parts, "train"))
    told = {"split": run.split_digest, "ensemble": about}
    card = _card(done, networks, everywhere, trained, _held_out(cases, scores, chose_epoch=False), told)
    about = card.training["ensemble"] | {"note": NO_FIGURE + _unfitted(card.decisions, by_fold_decisions)}
    validated = figures_of(labels, found.probs[has_label], found.decided[has_label], card.decisions)
    card = replace(card, training=card.training | {"ensemble": about, "validation": validated}, gate=gate)
    return _saved(run, networks, card, statistics)


def _unfitted(whole: Decisions, by_fold: Mapping[int, Decisions]) -> str:
    """Sentences about the folds that were calibrated, or abstain, otherwise than the ensemble; empty: none."""
    methods = [one.calibration.method for one in whole.each]
    others = [fold for fold, own in by_fold.items() if [one.calibration.method for one in own.each] != methods]
    told = ""
    if others:
        rules = "; ".join(one.calibration.rule for one in by_fold[others[0]].each)
        told += (
            f" The ensemble is calibrated by {', '.join(methods)}, but for the cases of fold "
            f"{', '.join(map(str, others))} the other folds allowed: {rules}. So calibration and Brier score here are "
            "not those of the ensemble."
        )
    others = [fold for fold, own in by_fold.items() if _abstains(own) != _abstains(whole)]
    if others:
        rules = "; ".join(one.abstains for one in by_fold[others[0]].each)
        told += (
            f" The ensemble abstains, but for the cases of fold {', '.join(map(str, others))} the other folds allowed: "
            f"{rules}. So the share of decided cases here is not that of the ensemble."
        )
    if told:
        _log.warning("warning:%s", told)
    return told


def _abstains(decisions: Decisions) -> list[bool]:
    return [one.band is not None or one.sets is not None for one in decisions.each]


def validated_ensemble(run: Run, members: Sequence[Trained]) -> Path:
    """Calibrate single runs of one split together on their validation part; returns the model folder.

    Args:
        run: The new run, which has their split.
        members: The runs.
    """
    networks = {one.name: load_model(one.run.model) for one in members}
    first = members[0]
    whole = Ensemble({name: cast("ResNet3D", network) for name, (network, _) in networks.items()}).eval()
    outputs = outputs_of_part(whole, first.data, first.config, "val")
    validated = _held_out(outputs.cases, outputs.logits, chose_epoch=True)
    note = "Calibrated on the validation part, which chose the epochs of its members; the test part is unseen."
    told = {"split": run.split_digest, "ensemble": {"lost": [], "note": note}}
    card = _card(members, networks, first.data, _training_cases(first, networks), validated, told)
    gate, statistics = _gate(members, networks, [(outputs, range(len(members)))], first.config)
    return _saved(run, networks, replace(card, gate=gate), statistics)


def _held_out(cases: Sequence[Case], logits: Float64[np.ndarray, "n c"], *, chose_epoch: bool) -> HeldOut:
    """The cases with a label."""
    has_label = np.array([case.is_labelled for case in cases])
    patients = tuple(case.patient_id for case in cases if case.is_labelled)
    labels = labels_of(cases)[has_label]
    return HeldOut(labels=labels, logits=logits[has_label], patients=patients, chose_epoch=chose_epoch)


def _gate(
    members: Sequence[Trained],
    networks: Mapping[str, tuple[Network, ModelCard]],
    held_out: Sequence[tuple[Outputs, Sequence[int]]],
    config: RunConfig,
) -> tuple[Gate | None, tuple[FeatureStatistics, ...]]:
    """The gate of an ensemble from those of its members."""
    cards = [networks[one.name][1] for one in members]
    statistics = [_statistics(one, card) for one, card in zip(members, cards, strict=True)]
    return gate_of_members([card.gate for card in cards], statistics, held_out, config.decision)


def _loaded(one: Trained) -> tuple[Network, ModelCard]:
    """Network and card of a member.

    Raises:
        CheckpointError: If they are damaged.
    """
    with _hint(one):
        return load_model(one.run.model)


def _statistics(one: Trained, card: ModelCard) -> tuple[FeatureStatistics, ...]:
    """Statistics of the gate of a member.

    Raises:
        CheckpointError: If they are damaged.
    """
    with _hint(one):
        return load_statistics(one.run.model, card)


@contextmanager
def _hint(one: Trained) -> Iterator[None]:
    """Say of a damaged model how it is made again."""
    try:
        yield
    except CheckpointError as exc:
        exc.hint = f"remove {one.run.model}, and resume the run: it makes the member's model again"
        raise


def _fitted_by(members: Sequence[Trained]) -> RunConfig:
    """Settings of the fits: the first member's, but a fit for any shift where losses or sampling of members differ.

    What moved the probabilities of one member says nothing of the others' then, and no offsets are known.
    """
    config = members[0].config
    moved_by = [(one.config.loss, one.config.sampling, one.config.head) for one in members]
    if any(one != moved_by[0] for one in moved_by) and config.decision.calibration == "auto":
        return replace(config, decision=replace(config.decision, calibration="platt"))
    return config


def _training_cases(one: Trained, networks: Mapping[str, tuple[Network, ModelCard]]) -> TrainingCases:
    """The training cases of a member, as its kept epoch sampled them; of the others alike, for folds are stratified."""
    train = PartLoader(one.data.dataset("train", one.config.recipe), one.config, seed=one.config.training.seed)
    return train.cases_of(networks[one.name][1].training["epoch"])


def _card(
    members: Sequence[Trained],
    networks: Mapping[str, tuple[Network, ModelCard]],
    data: SplitCohort,
    trained: TrainingCases,
    held_out: HeldOut,
    about: dict[str, Any],
) -> ModelCard:
    """The card of an ensemble, with calibration and threshold fitted on logits of cases that were held out.

    Args:
        members: The members, whose settings say what is fitted.
        networks: Network and card of each.
        data: The cases and the parts that the ensemble has seen them in.
        trained: The training cases of a member.
        held_out: Labels, logits and patients.
        about: The digest of the split, and what is told of the ensemble beside its members.
    """
    config = _fitted_by(members)
    listed = [_about(one, networks[one.name][1]) for one in members]
    about = {"split": about["split"], "ensemble": {"members": listed, **about["ensemble"]}}
    card = model_card(config, data, trained, held_out, views_of(config), about)
    return replace(card, members=tuple(EnsembleMember(name=one.name, model=one.config.model) for one in members))


def _saved(
    run: Run,
    networks: Mapping[str, tuple[Network, ModelCard]],
    card: ModelCard,
    statistics: Sequence[FeatureStatistics],
) -> Path:
    (run.model / "model.json").unlink(missing_ok=True)  # first, for a folder with it is complete
    shutil.rmtree(run.model / "members", ignore_errors=True)  # of an ensemble with other members
    members = {name: cast("ResNet3D", network) for name, (network, _) in networks.items()}
    save_model(run.model, Ensemble(members), card, statistics)
    return run.model


def _about(one: Trained, card: ModelCard) -> dict[str, Any]:
    fold, seed = one.config.split.fold, one.config.training.seed
    return {"name": one.name, "fold": fold, "seed": seed, "epoch": card.training.get("epoch")}
