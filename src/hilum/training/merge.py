"""Makes one ensemble of several runs on the same cases: ``hilum ensemble``."""

import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hilum.cohorts.dataset import SplitCohort
from hilum.cohorts.links import find_leaks, find_links
from hilum.cohorts.splits import split
from hilum.cohorts.table import Cohort
from hilum.deciding.model_folder import read_card
from hilum.errors import CheckpointError, ConfigError, require
from hilum.settings.toml import to_dict
from hilum.training.cohort import joined, prepared, same_cohort, were_allowed
from hilum.training.ensemble import Trained, make_ensemble, validated_ensemble
from hilum.training.folds_plan import FoldsPlan
from hilum.training.run_cases import check_unchanged, has_split, labels_at_begin
from hilum.training.run_folder import Run

_log = logging.getLogger("hilum")


def ensemble(runs: Sequence[str | Path], out: str | Path) -> Path:
    """Make one calibrated ensemble of runs that were trained on the same cases with the same split and recipe.

    Of runs of folds each case is predicted out of fold, as in ``train_folds``. Single runs are calibrated together on
    their validation part, and their test part stays unseen. Networks, losses and seeds may differ.

    Args:
        runs: Run folders: all of folds, or all single.
        out: The new folder, which must not exist, or be empty; it gets ``model/``.

    Returns:
        The model folder, ``out/model``.

    Raises:
        HilumError: If a run has no model, or the runs do not fit together.
    """
    sources, new = [Run(one) for one in runs], Run(out)
    require(len(sources) >= 1, "an ensemble", "of one run at least", 0)
    new.check_new()
    for one in sources:
        if not (one.is_of_folds or one.is_begun):
            msg = f"{one.folder} is no run folder"
            raise ConfigError(msg)
    folders = [one.folder.resolve() for one in sources]
    twice = [folder for folder in folders if folders.count(folder) > 1]
    require(not twice, "the runs of an ensemble", "different", f"{twice[0]} twice" if twice else "")
    of_folds = [one.is_of_folds for one in sources]
    if len(set(of_folds)) > 1:
        msg = "the runs of an ensemble must be all of folds, or all single; got both"
        raise ConfigError(msg)
    first = sources[0]
    for one in sources:
        _check_same(first, one)
    cohort, data = _cohort_of(first)
    plan, members, lost = None, [], []
    if first.is_of_folds:
        seeds = sum(one.plan.seeds for one in sources)
        plan = FoldsPlan(folds=first.plan.folds, seeds=seeds, is_merged=True)
        members = [member for one in sources for member in _of_folds(one, cohort, data, alone=len(sources) == 1)]
        lost = [f"{one.name} has no model" for one in members if one.run.state != "whole"]
        for sentence in lost:
            _log.warning("warning: a member is left out: %s", sentence)
    else:
        members = [Trained(config=one.settings, data=data, run=one, name=_name(one)) for one in sources]
    _check_names(members)
    with new.writing(), new.locked():
        try:
            new.begin(first.settings, cohort, data.prepared, data.parts, None, plan=plan)
            if first.audit_file.is_file():
                new.audit_file.write_bytes(first.audit_file.read_bytes())
            return make_ensemble(new, members, lost) if plan else validated_ensemble(new, members)
        finally:
            if new.state != "whole":  # it was stopped, and there is nothing to resume
                new.plan_file.unlink(missing_ok=True)
                shutil.rmtree(new.model, ignore_errors=True)
                new.clear()


def _cohort_of(run: Run) -> tuple[Cohort, SplitCohort]:
    """The table of a run, and its cases with their parts; all are in train in a run of folds."""
    cohort, splits = same_cohort(run, run.settings)
    data = prepared(run.settings, cohort, splits.parts)
    links = find_links(cohort.cases, data.prepared)
    data = joined(data, links, is_accepted=were_allowed(run, find_leaks(links, data.parts)[0]))
    check_unchanged(run, cohort, data.prepared)
    return cohort, data


def _of_folds(run: Run, cohort: Cohort, data: SplitCohort, *, alone: bool) -> list[Trained]:
    """The members of a run of folds, as planned; one that is lost has no model.

    Raises:
        CheckpointError: If a member was trained on other cases than those of its fold.
    """
    plan, config, members = run.plan, run.settings, []
    for number in range(plan.seeds):
        for fold in range(plan.folds):
            seed = config.training.seed + number
            member = Run(run.folder / f"fold-{fold}-seed-{seed}")
            own = replace(data, parts=split(data.cohort, replace(config.split, fold=fold)))
            settings = member.settings if member.state == "whole" else config
            if member.state == "whole" and not has_split(member, cohort, own.parts, data.prepared.scans):
                msg = f"{member.folder} must be the member of fold {fold}, and was trained on other cases"
                raise CheckpointError(msg)
            settings = replace(settings, split=replace(config.split, fold=fold))
            name = _name(member) if alone else f"{_name(run)}-{_name(member)}"
            members.append(Trained(config=settings, data=own, run=member, name=name))
    return members


def _name(run: Run) -> str:
    """The name of a run's folder, as far as a member may have it."""
    return re.sub(r"[^A-Za-z0-9_.-]", "-", run.folder.resolve().name).lstrip("_.-") or "run"


def _check_names(members: Sequence[Trained]) -> None:
    names = [one.name for one in members]
    twice = sorted({name for name in names if names.count(name) > 1})
    require(not twice, "the folders of the runs", "of different names", ", ".join(twice))


def _check_same(first: Run, other: Run) -> None:
    """Check that two runs can be members of one ensemble.

    Raises:
        ConfigError: If one has no model, or members of other runs, or they differ in cases, labels, split, recipe,
            reading or classes.
    """
    facts = []
    for run in (first, other):
        if run.state != "whole":
            msg = f"every run of an ensemble must have a model, {run.folder} has none"
            raise ConfigError(msg)
        card, settings = read_card(run.model), run.settings
        if card.members and not (run.is_of_folds and not run.plan.is_merged):
            msg = f"{run.folder} is an ensemble of other runs, and has no members of its own"
            raise ConfigError(msg, hint="name the runs that it was made of")
        is_prior = settings.decision.calibration == "prior"  # undoes what loss and sampling did
        facts.append(
            {
                "cases and split": (run.split_digest, replace(settings.split, fold=0) if run.is_of_folds else None),
                "recipe": to_dict(card.recipe),
                "reading": to_dict(card.reading),
                "classes": (card.classes, card.decisions.multi_label),
                "section decision": settings.decision,
                "shift of probabilities": (settings.loss, settings.sampling) if is_prior else None,
                "labels": labels_at_begin(run),
            }
        )
    for what, value in facts[0].items():
        if facts[1][what] != value:
            msg = f"the runs of an ensemble must have the same {what}, {other.folder} has another than {first.folder}"
            raise ConfigError(msg)
