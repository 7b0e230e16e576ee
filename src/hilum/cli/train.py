"""``hilum train``: trains and tests a model from a config, or from a table alone."""

import csv
import logging
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from hilum.errors import ConfigError, require
from hilum.settings.presets import under_flags
from hilum.settings.run import RunConfig
from hilum.settings.toml import load, to_dict

if TYPE_CHECKING:
    from hilum.training.folds_plan import FoldsPlan

_log = logging.getLogger("hilum")

_COMMON = (
    "columns.path", "columns.label", "columns.labels", "columns.patient_id", "reading.policy", "split.val",
    "split.test", "split.folds", "split.fold", "recipe.region", "recipe.size", "recipe.spacing_mm", "recipe.windows_hu",
    "augment.preset", "model.depth", "model.width", "loss.name", "sampling.method", "training.epochs",
    "training.batch_size", "training.lr", "training.weights", "training.seed", "device", "decision.rule",
    "decision.tta", "store",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train and test a model from a config, or from a table alone, into a run folder.

    Cases that cannot be used are refused, listed and counted; if they exceed cohort.max_refused the command exits with
    1.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG|COHORT")]
    """CONFIG.toml; or a table of cases, for which a config is planned, explained and written to the run folder."""

    out: Path | None = None
    """The run folder, new or empty; by default runs/NAME."""

    folds: int = 0
    """Train a member for each of so many folds, and make one calibrated ensemble of them; 0: one model."""

    seeds: int = 1
    """Members of each fold: training.seed and the numbers after it; with --folds."""

    jobs: int = 1
    """Members that are trained at a time, each with its share of the cores; with --folds."""

    resume: bool = False
    """Go on with the run in --out where it stopped, with its own settings."""

    allow_leakage: bool = False
    """Train even if the table's own split puts linked cases into different parts; the model's card says so."""

    settings: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    """Flags win over the file."""

    @property
    def is_table(self) -> bool:
        """Whether the source is a table, not a config."""
        return self.source.suffix.lower() != ".toml"

    def with_file(self, args: Sequence[str]) -> "Train":
        """Parse the flags again, with the settings of the file, or planned for the table, as defaults."""
        if self.resume:
            return self._resumed(args)
        if not self.is_table:
            return self._again(args, load(self.source))
        table = replace(self.settings, cohort=replace(self.settings.cohort, table=str(self.source)))
        config, reasons, warnings = planned(table, lambda drafted: self._again(args, drafted).settings)
        for reason in reasons:
            _log.info("%s", reason)
        for warning in warnings:
            _log.warning("warning: %s", warning)
        command = self._again(args, config)
        for name, (was, now) in _changes(config, command.settings).items():
            _log.info("by flag: %s = %s, planned was %s", name, now, was)
        return command

    def _resumed(self, args: Sequence[str]) -> "Train":
        """Load the settings of the run to resume; flags that would change them are an error."""
        from hilum.training.run_folder import Run

        if self.out is None or not Run(self.out).settings_file.is_file():
            msg = f"--resume needs --out with a run folder, got {self.out}"
            raise ConfigError(msg)
        own = Run(self.out).settings
        changes = _changes(own, self._again(args, own).settings)
        if changes:
            msg = f"a resumed run keeps its settings, got a flag for {', '.join(changes)}; train a new run instead"
            raise ConfigError(msg)
        return replace(self, settings=own)

    def _again(self, args: Sequence[str], settings: RunConfig) -> "Train":
        def parsed(defaults: RunConfig) -> "Train":
            return tyro.cli(Train, args=args, default=replace(self, settings=defaults), prog="hilum train")

        flags = parsed(settings).settings
        augment = under_flags(settings.augment, settings.recipe, flags.augment.preset, flags.recipe)
        return parsed(replace(settings, augment=augment))

    def run(self) -> int:
        """Train, then judge the model on the test part."""
        from hilum.deciding.model_folder import read_card
        from hilum.judging import evaluate, headline
        from hilum.training.folds import train_folds
        from hilum.training.run_folder import Run
        from hilum.training.train import train

        run, settings = Run(self.out or Path("runs") / self.source.stem), self.settings
        if self.is_table and settings.store == RunConfig().store:  # beside the runs, not among the scans
            settings = replace(settings, store=str(run.folder.parent / settings.store))
        if not self.resume:
            run.check_new([self.source])  # ``train`` does not know this file, so it cannot check it
        lost = False
        single = not self.resume or run.is_of_folds
        require(single or not self.folds, "--folds", "absent for a single run that is resumed", self.folds)
        if self.folds or (self.resume and run.is_of_folds):
            if self.resume:
                _check_plan(run.plan, self)
            require(not self.allow_leakage, "--allow-leakage", "absent with --folds, which draws the parts", True)
            model = train_folds(
                settings, run.folder, folds=self.folds, seeds=self.seeds, jobs=self.jobs, resume=self.resume
            )
            lost = bool(read_card(model).training["ensemble"]["lost"])
        else:
            for name, value in {"seeds": self.seeds, "jobs": self.jobs}.items():
                require(value == 1, f"--{name}", "1 without --folds", value)
            train(settings, run.folder, resume=self.resume, allow_leakage=self.allow_leakage)
        if self.is_table:
            _log.info("the planned settings are in %s", run.settings_file)
        answer = evaluate(run.folder, allow_leakage=self.allow_leakage)
        print(headline(answer))
        if run.refused_file.is_file():
            print(f"refused: {_num_rows(run.refused_file)} cases of the table, listed in {run.refused_file}")
        print(f"model: {run.model}")
        print(f"report: {run.evaluation / 'report.html'}")
        return 3 if lost else 0

    @staticmethod
    def short_help() -> str:
        """Help on the most common flags; ``--help-all`` shows all."""
        from hilum.settings.document import field_docs, setting_lines

        docs = field_docs(Train)
        own = [
            line
            for name in ("out", "folds", "seeds", "jobs", "resume", "allow_leakage")
            for line in (f"  --{name.replace('_', '-')}", f"      {docs[name]}")
        ]
        return "\n".join(
            [
                "usage: hilum train CONFIG|COHORT [--out RUN] [--folds N [--seeds N] [--jobs N]] [--resume] "
                "[--allow-leakage] [--SECTION.SETTING VALUE ...]",
                "",
                *textwrap.wrap((Train.__doc__ or "").split("\n\n")[0], 100),
                "",
                f"  CONFIG|COHORT\n      {docs['source']}",
                *own,
                "",
                "The most common settings with their defaults; flags override the file:",
                *setting_lines(_COMMON),
                "",
                "hilum train --help-all lists all settings; hilum config prints them as a commented TOML file.\n",
            ]
        )


def _check_plan(plan: "FoldsPlan", command: Train) -> None:
    """Raise a ConfigError if a resumed run would have other folds or seeds than it was begun with."""
    for name, given, default in (("folds", command.folds, 0), ("seeds", command.seeds, 1)):
        own = getattr(plan, name)
        must = f"absent or {own}, as the run was begun with"
        require(given in (default, own), f"--{name} of a resumed run", must, given)


def planned(
    settings: RunConfig, with_flags: Callable[[RunConfig], RunConfig] = lambda drafted: drafted
) -> tuple[RunConfig, list[str], list[str]]:
    """Plan settings for a table of cases, with reasons and warnings.

    Args:
        settings: Settings whose ``cohort`` names the table.
        with_flags: Function that applies the flags of the command line to the draft.
    """
    from hilum.cohorts.table import Cohort
    from hilum.planning.plan import draft, plan

    cohort = Cohort.read(settings.cohort.table, settings.cohort)
    drafted = with_flags(draft(cohort, settings))
    drafted.augment.check()  # before any scan is read
    import torch

    made = plan(cohort, drafted, gpu=torch.cuda.is_available())
    return made.config, list(made.reasons), list(made.warnings)


def _num_rows(table: Path) -> int:
    with table.open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def _changes(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, by name, with both values."""
    first, second = _flat(to_dict(before)), _flat(to_dict(after))
    names = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    return {name: (first.get(name), second.get(name)) for name in names}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
