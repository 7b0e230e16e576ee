"""``hilum train``: a config, or a table alone, to a trained and tested model."""

import csv
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from hilum.errors import ConfigError
from hilum.settings.presets import under_flags
from hilum.settings.run import RunConfig
from hilum.settings.toml import load, to_dict

_log = logging.getLogger("hilum")


@dataclass(frozen=True, kw_only=True)
class Train:
    """A config, or a table alone, to a run folder with a trained and tested model.

    Cases that cannot be used are refused, listed and counted; more than cohort.max_refused of them end with 1.
    """

    source: tyro.conf.Positional[Path]
    """CONFIG.toml; or a table of cases, for which a config is planned, written down and explained."""

    out: Path | None = None
    """The run folder, new or empty; runs/NAME without it."""

    resume: bool = False
    """Go on after the last whole epoch of the run in --out."""

    settings: Annotated[RunConfig, tyro.conf.arg(name="")] = field(default_factory=RunConfig)
    """Flags win over the file."""

    @property
    def is_table(self) -> bool:
        """Whether the source is a table, not a config."""
        return self.source.suffix.lower() != ".toml"

    def with_file(self, args: Sequence[str]) -> "Train":
        """The command again, with the settings of the file, or planned for the table, as defaults of the flags."""
        if self.resume:
            return self._resumed(args)
        if not self.is_table:
            return self._again(args, load(self.source))
        from hilum.cohorts.table import Cohort
        from hilum.planning.plan import draft, plan

        table = replace(self.settings, cohort=replace(self.settings.cohort, table=self.source.name))
        cohort = Cohort.read(self.source, table.cohort)
        drafted = self._again(args, draft(cohort, table)).settings
        drafted.augment.check()  # before any scan is looked at
        import torch

        planned = plan(cohort, drafted, gpu=torch.cuda.is_available())
        for reason in planned.reasons:
            _log.info("%s", reason)
        for warning in planned.warnings:
            _log.warning("warning: %s", warning)
        command = self._again(args, planned.config)
        for name, (was, now) in _changes(planned.config, command.settings).items():
            _log.info("by flag: %s = %s, planned was %s", name, now, was)
        return command

    def _resumed(self, args: Sequence[str]) -> "Train":
        """A run goes on with its own settings; flags that would change them are an error, not silently dropped."""
        if self.out is None or not (self.out / "config.toml").is_file():
            msg = f"--resume needs --out with a run folder, got {self.out}"
            raise ConfigError(msg)
        own = load(self.out / "config.toml")
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
        from hilum.judging import evaluate, headline
        from hilum.training.train import train

        out = self.out or Path("runs") / self.source.stem
        settings = self.settings
        if self.is_table and settings.store == RunConfig().store:  # beside the runs, not among the scans
            settings = replace(settings, store=str((out.parent / settings.store).absolute()))
        model = train(settings, out, base=self.source.parent, resume=self.resume)
        if self.is_table:
            _log.info("the planned settings are in %s", out / "config.toml")
        answer = evaluate(model, None, out / "evaluation")
        print(headline(answer))
        if (out / "refused.csv").is_file():
            print(f"refused: {_num_rows(out / 'refused.csv')} cases of the table, listed in {out / 'refused.csv'}")
        print(f"model: {model}")
        print(f"figures and pictures: {out / 'evaluation'}")
        return 0


def _num_rows(table: Path) -> int:
    with table.open(encoding="utf-8", newline="") as file:
        return sum(1 for _ in csv.DictReader(file))


def _changes(before: RunConfig, after: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ, by name."""
    first, second = _flat(to_dict(before)), _flat(to_dict(after))
    names = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    return {name: (first.get(name), second.get(name)) for name in names}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return flat
