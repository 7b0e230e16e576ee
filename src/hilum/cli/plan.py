"""``hilum plan``: estimates memory, steps and time of a config on this machine."""

import json
from collections.abc import Iterator
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
    """Estimate memory by batch size, steps and time of a config on this machine. Reads no scan."""

    config: ConfigPath
    """CONFIG.toml."""

    time: bool = True
    """Measure a few steps on random numbers."""

    write: Path | None = None
    """Write the config with a micro batch and checkpointing with which it fits to a new TOML file."""

    json: bool = False
    """Print one JSON object instead of text."""

    def run(self) -> int:
        """Print the plan; with ``write``, an error if nothing fits."""
        from hilum.planning.resource_plan import plan_resources
        from hilum.settings.toml import load, save

        config = load(self.config)
        config.check_together()
        if self.write is not None:
            named = self.write.suffix.lower() == ".toml"  # hilum train takes any other name for a table
            require(named and not self.write.exists(), "--write", "a new file NAME.toml", self.write)
        num_classes, num_train, num_drawn = _cases(config)
        plan = plan_resources(config, num_classes, num_train, num_drawn=num_drawn, timed=self.time)
        if self.write is not None:
            if plan.fits is None:
                msg = f"{self.config} cannot fit into this machine's memory, so there is nothing to write"
                raise ConfigError(msg)
            save(plan.fits, self.write)
        print(json.dumps(plan.as_dict(), indent=2) if self.json else _page(config, plan))
        return 0


def _cases(config: RunConfig) -> tuple[int, int | None, int | None]:
    """Number of classes and, if the table exists, of training cases and of draws in an epoch."""
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


def _page(config: RunConfig, plan: "ResourcePlan") -> str:
    lines = [*_network_lines(config, plan), *_memory_lines(config, plan), *_time_lines(config, plan)]
    return "\n".join(f"{label:<9}{text}" for label, text in lines)


def _network_lines(config: RunConfig, plan: "ResourcePlan") -> Iterator[tuple[str, str]]:
    model, recipe, cost = config.model, config.recipe, plan.cost
    frozen = f" {cost.trained:,} of them trained," if cost.trained < cost.parameters else ""
    yield (
        "network",
        f"ResNet-{model.depth} of width {model.width}, {model.stem} stem, {model.norm} norm: "
        f"{cost.parameters:,} parameters,{frozen}",
    )
    yield "", f"{_flop(cost.forward_flop)} for each case predicted, {_flop(cost.step_flop)} trained on"
    has_spacing = recipe.spacing_mm or recipe.extent_mm
    step_mm = f" of {' x '.join(f'{s:.3g}' for s in recipe.grid_spacing_mm)} mm" if has_spacing else ""
    channels = f"{recipe.num_channels} channel{'s' if recipe.num_channels > 1 else ''}"
    yield "input", f"{' x '.join(map(str, recipe.size))} voxels (z, y, x){step_mm}, {channels}"
    usable = "its free memory is not known" if plan.usable_bytes is None else f"{_gb(plan.usable_bytes)} may be used"
    yield "device", f"{plan.device}, {plan.precision}: {usable}"


def _memory_lines(config: RunConfig, plan: "ResourcePlan") -> Iterator[tuple[str, str]]:
    from hilum.planning.resource_plan import config_of_a_step

    yield "memory", "at a time   training   checkpointing   prediction"
    for row in plan.rows:
        cells = (_cell(n, plan.usable_bytes) for n in (row.training, row.checkpointing, row.prediction))
        yield "", "{:>9}   {:>8}   {:>13}   {:>10}".format(row.cases, *cells)
    own, batch = plan.own, config_of_a_step(config, plan.num_train).training.batch_size
    yield (
        "config",
        f"{batch} cases in a batch, {config.at_once(batch)} at a time: {_gb(own.total)} = "
        f"weights {_gb(2 * own.weights)} + optimizer {_gb(own.optimizer)} + "
        f"the rest {_gb(own.total - 2 * own.weights - own.optimizer)}",
    )
    micro = config.training.micro_batch
    if micro >= batch:
        yield "", f"training.micro_batch = {micro} cuts nothing: a batch is of {batch} cases"
    if plan.usable_bytes is not None:
        yield "", _verdict(config, plan)


def _time_lines(config: RunConfig, plan: "ResourcePlan") -> Iterator[tuple[str, str]]:
    if plan.steps is None:
        yield "steps", "not known: the config's table is not there"
    else:
        steps = f"{plan.steps} step{'s' if plan.steps > 1 else ''}"
        yield "steps", f"{plan.num_train} training cases: {steps} in an epoch"
    for settings, seconds in plan.step_s.items():
        yield "time", f"{seconds:.3g} s for a step, measured ({settings})"
    if plan.epoch_s is not None:
        epochs = config.training.epochs
        whole = f"{_clock(plan.epoch_s)} for an epoch and {_clock(plan.epoch_s * epochs)} for all {epochs}"
        yield "", f"{whole}, beside loading, augmenting and validating"


def _verdict(config: RunConfig, plan: "ResourcePlan") -> str:
    if plan.fits == config:
        most = f"{plan.largest} or more" if plan.more_may_fit else f"up to {plan.largest}"
        return f"that fits; so would {most} cases at a time"
    if plan.fits is None:
        return "that does not fit, in whatever parts: take a coarser recipe, a smaller model.width or depth"
    now = plan.fits.training
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
