"""Trains a member for each fold and seed from one prepared cohort, and makes one calibrated ensemble of them."""

import logging
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from hilum.cohorts.audit import audit
from hilum.cohorts.dataset import SplitCohort
from hilum.cohorts.links import find_links
from hilum.cohorts.splits import check_parts, split
from hilum.cohorts.table import Cohort
from hilum.errors import CheckpointError, CohortError, ConfigError, PrepareError, ResourceError, TrainingError, require
from hilum.files import cores, share_cores, user_path
from hilum.modelling.memory import kept_memory
from hilum.settings.run import RunConfig
from hilum.settings.toml import settings_of
from hilum.training.cohort import joined, prepared, read_cohort, same_cohort
from hilum.training.decided_settings import check_abstaining, check_settings, check_weights, decided
from hilum.training.ensemble import Trained, make_ensemble
from hilum.training.fit import fit
from hilum.training.folds_plan import FoldsPlan
from hilum.training.run_cases import check_settings_kept, check_unchanged, has_split
from hilum.training.run_folder import Run
from hilum.working.jobs import run_jobs
from hilum.working.stop import Stop
from hilum.working.tasks import Failed

_log = logging.getLogger("hilum")


_LOSES_A_MEMBER = (CohortError, TrainingError, ResourceError, CheckpointError, PrepareError)
"""Errors of one member, after which the others go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A member to train.

    Attributes:
        config: Its settings, nothing left open.
        cohort: The table as it was read.
        data: The cases, and their parts in its fold.
        folder: Its run folder.
    """

    config: RunConfig
    cohort: Cohort
    data: SplitCohort
    folder: Path

    @property
    def name(self) -> str:
        """Short name for the log."""
        return f"fold {self.config.split.fold}, seed {self.config.training.seed}"


def train_folds(
    config: RunConfig | str | Path,
    out: str | Path,
    *,
    folds: int = 5,
    seeds: int = 1,
    jobs: int = 1,
    base: str | Path = ".",
    resume: bool = False,
) -> Path:
    """Train a classifier on all folds, and make one calibrated ensemble of the members.

    The table is read, prepared and audited once. Each case is predicted out of fold by the members that held it out;
    these predictions, in ``cases.csv``, calibrate the ensemble and give its figures (``hilum evaluate RUN``).

    Args:
        config: Settings, or a TOML file; its ``split.fold`` has no effect.
        out: The run folder; must be new or empty unless a run is resumed. Its members are run folders in it.
        folds: Number of folds, two at least.
        seeds: Members of each fold: ``training.seed`` and the numbers after it.
        jobs: Members that are trained at a time, each with its share of the cores.
        base: Folder to which paths in ``config`` are relative if it is not a file.
        resume: Go on with the run in ``out``, with its own settings, folds and seeds; lost members are trained again.

    Returns:
        The model folder, ``out/model``.

    Raises:
        HilumError: If the table, the scans or the settings are not usable; nothing is written then.
        TrainingError: If fewer than two folds have a member in the end.
    """
    require(jobs >= 1, "--jobs", "at least 1", jobs)
    run = Run(out)
    jobs = max(1, min(jobs, run.plan.folds * run.plan.seeds if resume else folds * seeds))
    with _sharing(jobs):
        tasks = _resumed(run) if resume else _begun(config, run, folds, seeds, base)
        _check_members(tasks)
        with run.writing(), run.locked():
            run.remove_temporaries()
            lost = _trained(run, tasks, jobs)
            members = [
                Trained(config=task.config, data=task.data, run=Run(task.folder), name=task.folder.name)
                for task in tasks
            ]
            return make_ensemble(run, members, lost)


@contextmanager
def _sharing(jobs: int) -> Iterator[None]:
    """Measure and compute with the threads that each of the members has."""
    before = torch.get_num_threads()
    share_cores(jobs)
    torch.set_num_threads(min(before, cores()))
    try:
        yield
    finally:
        share_cores(1)
        torch.set_num_threads(before)


def _begun(config: RunConfig | str | Path, run: Run, folds: int, seeds: int, base: str | Path) -> list[_Task]:
    """Begin a run of folds; nothing is written before all settings and cases are checked."""
    require(folds >= 2, "--folds", "at least 2", folds)
    require(seeds >= 1, "--seeds", "at least 1", seeds)
    inputs = [] if isinstance(config, RunConfig) else [user_path(config)]
    config = settings_of(config, base)
    config = replace(config, split=replace(config.split, folds=folds, fold=0))
    run.check_new([*inputs, *filter(None, (config.cohort.table, config.training.weights))])
    check_settings(config)
    cohort = read_cohort(config)
    check_abstaining(config, cohort, is_of_folds=True)
    if config.training.weights:
        check_weights(config, Path(config.training.weights), len(cohort.classes))
    data = prepared(config, cohort, split(cohort, config.split))
    links = find_links(cohort.cases, data.prepared)
    everywhere = {case.case_id: "train" for case in cohort.cases}
    found = audit(cohort, data.prepared, everywhere, links=links)
    for warning in found.warnings:
        _log.warning("%s", warning)
    data = joined(replace(data, parts=everywhere), links, is_accepted=False)
    tasks = _tasks(run, config, cohort, data, seeds)
    plan = FoldsPlan(folds=folds, seeds=seeds)
    with run.writing(), run.locked():
        run.check_new()
        config = replace(config, loss=tasks[0].config.loss, speed=tasks[0].config.speed)
        run.begin(config, cohort, data.prepared, everywhere, found, plan=plan)
    return tasks


def _resumed(run: Run) -> list[_Task]:
    """Go on with a run of folds."""
    plan, config = run.plan, run.settings
    if plan.is_merged:
        msg = f"{run.folder} is an ensemble of other runs, and has nothing to resume"
        raise ConfigError(msg, hint="resume one of these, and make the ensemble anew")
    check_settings(config)
    cohort, _ = same_cohort(run, config)
    everywhere = {case.case_id: "train" for case in cohort.cases}
    data = prepared(config, cohort, everywhere)
    data = joined(data, find_links(cohort.cases, data.prepared), is_accepted=False)
    check_unchanged(run, cohort, data.prepared)
    return _tasks(run, config, cohort, data, plan.seeds)


def _tasks(run: Run, config: RunConfig, cohort: Cohort, data: SplitCohort, seeds: int) -> list[_Task]:
    """The members: all folds of a seed before the next, so that an ensemble can be made early."""
    by_fold = []
    for fold in range(config.split.folds):
        one = replace(config, split=replace(config.split, fold=fold))
        own = replace(data, parts=split(data.cohort, one.split))
        check_parts(own.prepared.cases, own.parts, own.cohort)
        if not fold:
            one = decided(one, own)
            config = replace(config, loss=one.loss, speed=one.speed)  # the same of all members
        by_fold.append((one, own))
    return [
        _Task(
            config=replace(one, training=replace(one.training, seed=one.training.seed + number)),
            cohort=cohort,
            data=own,
            folder=run.folder / f"fold-{one.split.fold}-seed-{one.training.seed + number}",
        )
        for number in range(seeds)
        for one, own in by_fold
    ]


def _check_members(tasks: Sequence[_Task]) -> None:
    """Check that what lies in the folders of members belongs there: another fold's member has seen this one's cases.

    Raises:
        CheckpointError: If a folder holds another run.
    """
    for task in tasks:
        member = Run(task.folder)
        if member.state == "new":
            continue
        own = (member.settings.split, member.settings.training.seed)
        is_own = own == (task.config.split, task.config.training.seed)
        if not is_own or not has_split(member, task.cohort, task.data.parts, task.data.prepared.scans):
            msg = f"{member.folder} must be the member of {task.name}, and was trained on other cases"
            raise CheckpointError(msg, hint="move it away, and resume the run: it trains the member again")
        check_settings_kept(member, task.config)


def _trained(run: Run, tasks: Sequence[_Task], jobs: int) -> list[str]:
    """Train the members that are not yet; returns a sentence for each that was lost."""
    left = [task for task in tasks if Run(task.folder).state != "whole"]
    try:
        if jobs == 1:
            results = [_alone(task) for task in left]
        else:
            stop = Stop("stopping after these steps, and saving; once more: at once")
            names = [task.name for task in left]
            results = run_jobs(_member, left, jobs=jobs, names=names, stop=stop, on_failure=_lost)
    except (KeyboardInterrupt, SystemExit):
        _log.warning("stopped: %s goes on", run.resume_command)
        raise
    for one in results:
        if isinstance(one, Failed) and not isinstance(one.error, _LOSES_A_MEMBER):
            raise one.error  # of the machine or the settings: no other member would fare better
    lost = [f"{task.name}: {one.error}" for task, one in zip(left, results, strict=True) if isinstance(one, Failed)]
    if lost:
        _log.warning("warning: members that were lost: %d; %s trains them again", len(lost), run.resume_command)
    return lost


def _lost(name: str, failed: Failed) -> None:
    """Say at once that a member is lost."""
    if isinstance(failed.error, _LOSES_A_MEMBER):
        _log.warning("warning: a member was lost, and the others go on: %s: %s", name, failed.error)


def _alone(task: _Task) -> Failed | None:
    """Train a member in this process."""
    _log.info("%s:", task.name)
    try:
        _member(task)
    except _LOSES_A_MEMBER as exc:
        failed = Failed(error=exc)
        _lost(task.name, failed)
        return failed
    return None


def _member(task: _Task) -> None:
    """Train or resume a member."""
    torch.set_num_threads(min(torch.get_num_threads(), cores()))
    member = Run(task.folder)
    with member.locked(), kept_memory(task.config.speed.keep_memory == "on"):
        if member.state == "begun":
            member.remove_temporaries()
            try:
                fit(task.config, task.data, member, resume=True)
            except CheckpointError as exc:
                _log.warning("warning: the member is trained anew: %s", exc)
                shutil.rmtree(member.checkpoint)
            else:
                return
        member.begin(task.config, task.cohort, task.data.prepared, task.data.parts, None)
        fit(task.config, task.data, member)
