"""``hilum plan``: what a config will take on this machine, before anything is read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hilum.cli.arguments import ConfigPath
from hilum.errors import ConfigError, require
from hilum.settings.run import RunConfig

if TYPE_CHECKING:
    from hilum.planning.resource_plan import ResourcePlan


@dataclass(frozen=True, kw_only=True)
class MakePlan:
    """What a config will take on this machine: memory by batch size, steps and time. No scan is read."""

    config: ConfigPath
    """CONFIG.toml."""

    time: bool = True
    """Measure a few steps on random numbers; --no-time: do not."""

    write: Path | None = None
    """A new TOML file: the config with the micro batch and checkpointing with which it fits."""

    json: bool = False
    """One JSON object instead of text."""

    def run(self) -> int:
        """Print the plan; 1 if it cannot fit and is to be written."""
        from hilum.planning.resource_plan import plan_resources
        from hilum.settings.toml import load, save

        config = load(self.config)
        config.check_together()
        if self.write is not None:
            named = self.write.suffix.lower() == ".toml"  # hilum train takes any other name for a table
            require(named and not self.write.exists(), "--write", "a new file NAME.toml", self.write)
        num_classes, num_train, num_drawn = _cases(config)
        outlook = plan_resources(config, num_classes, num_train, num_drawn=num_drawn, timed=self.time)
        if self.write is not None:
            if outlook.fits is None:
                msg = f"{self.config} cannot fit into this machine's memory, so there is nothing to write"
                raise ConfigError(msg)
            save(outlook.fits, self.write)
        print(json.dumps(outlook.as_dict(), indent=2) if self.json else _page(config, outlook))
        return 0


def _cases(config: RunConfig) -> tuple[int, int | None, int | None]:
    """The number of classes and, where the table is there, of training cases and of draws in an epoch."""
    from hilum.cohorts.labels import labels_of
    from hilum.cohorts.sampling import num_draws
    from hilum.cohorts.splits import split
    from hilum.cohorts.table import Cohort

    table = Path(config.cohort.table)
    if not config.cohort.table or not table.exists():
        return len(config.cohort.classes) or len(config.cohort.columns.labels) or 2, None, None
    cohort = Cohort.read(table, config.cohort)
    parts = split(cohort, config.split)
    labels = labels_of([case for case in cohort.cases if parts[case.case_id] == "train"])
    return len(cohort.classes), len(labels), num_draws(labels, config.sampling.method)


def _page(config: RunConfig, seen: "ResourcePlan") -> str:
    from hilum.planning.resource_plan import config_of_a_step

    model, recipe, training, cost = config.model, config.recipe, config.training, seen.cost
    free = seen.usable_bytes
    usable = "its free memory is not known" if free is None else f"{_gb(free)} may be used"
    spacing = recipe.spacing_mm or recipe.extent_mm
    step_mm = f" of {' x '.join(f'{s:.3g}' for s in recipe.grid_spacing_mm)} mm" if spacing else ""
    grid, plural = " x ".join(map(str, recipe.size)), "s" if recipe.num_channels > 1 else ""
    own = seen.own
    frozen = f" {cost.trained:,} of them trained," if cost.trained < cost.parameters else ""
    lines = [
        f"network  ResNet-{model.depth} of width {model.width}, {model.stem} stem, {model.norm} norm: "
        f"{cost.parameters:,} parameters,{frozen}",
        f"         {_flop(cost.forward_flop)} for each case predicted, {_flop(cost.step_flop)} trained on",
        f"input    {grid} voxels (z, y, x){step_mm}, {recipe.num_channels} channel{plural}",
        f"device   {seen.device}, {seen.precision}: {usable}",
        "memory   at a time   training   checkpointing   prediction",
    ]
    for row in seen.rows:
        cells = (_cell(n, seen.usable_bytes) for n in (row.training, row.checkpointing, row.prediction))
        lines.append("         {:>9}   {:>8}   {:>13}   {:>10}".format(row.cases, *cells))
    batch = config_of_a_step(config, seen.num_train).training.batch_size
    lines.append(
        f"config   {batch} cases in a batch, {config.at_once(batch)} at a time: {_gb(own.total)} = "
        f"weights {_gb(2 * own.weights)} + optimizer {_gb(own.optimizer)} + "
        f"the rest {_gb(own.total - 2 * own.weights - own.optimizer)}"
    )
    if training.micro_batch >= batch:
        lines.append(
            f"         training.micro_batch = {training.micro_batch} cuts nothing: a batch is of {batch} cases"
        )
    if seen.usable_bytes is not None:
        lines.append(f"         {_verdict(config, seen)}")
    if seen.steps is not None:
        lines.append(
            f"steps    {seen.num_train} training cases: {seen.steps} step{'s' if seen.steps > 1 else ''} in an epoch"
        )
    else:
        lines.append("steps    not known: the config's table is not there")
    for way, seconds in seen.step_s.items():
        lines.append(f"time     {seconds:.3g} s for a step, measured ({way})")
    if seen.epoch_s is not None:
        whole = _clock(seen.epoch_s * training.epochs)
        lines.append(
            f"         {_clock(seen.epoch_s)} for an epoch and {whole} for all {training.epochs}, "
            "beside loading, augmenting and validating"
        )
    return "\n".join(lines)


def _verdict(config: RunConfig, seen: "ResourcePlan") -> str:
    if seen.fits == config:
        most = f"{seen.largest} cases or more" if seen.more_may_fit else f"at most {seen.largest} cases"
        return f"that fits; {most} at a time would"
    if seen.fits is None:
        return "that does not fit, in whatever parts: take a coarser recipe, a smaller model.width or depth"
    now = seen.fits.training
    settings = [f"training.micro_batch = {now.micro_batch}"] if now.micro_batch != config.training.micro_batch else []
    settings += ["training.checkpointing = true"] if now.checkpointing != config.training.checkpointing else []
    return f"that does not fit; set {' and '.join(settings)}"


def _cell(num_bytes: int | None, usable: float | None) -> str:
    if num_bytes is None:
        return "-"
    return _gb(num_bytes) + ("*" if usable is not None and num_bytes > usable else "")


def _gb(num_bytes: int | float) -> str:
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 99.95e6 else f"{num_bytes / 1e6:.3g} MB"


def _flop(number: int) -> str:
    return f"{number / 1e9:.1f} GFLOP" if number >= 999.5e6 else f"{number / 1e6:.3g} MFLOP"


def _clock(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 9.5 else f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
