"""The memory, steps and time that a run will take on this machine, before it starts."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from hilum.cohorts.batches import EpochBatches
from hilum.modelling.device import pick_device
from hilum.modelling.memory import within_memory
from hilum.modelling.speed import choose_speed, name_of
from hilum.modelling.weights.freezing import freeze
from hilum.planning.memory_fit import MOST, fit_into_memory, largest_batch, usable_bytes
from hilum.planning.resources import Cost, Memory, cost_of, network_of, prediction_bytes, training_memory
from hilum.planning.timing import step_seconds
from hilum.settings.run import RunConfig

_CASES = (1, 2, 4, 8, 16, 32)
"""Numbers of cases at once for which memory is listed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRow:
    """Bytes for a number of cases at once.

    Attributes:
        cases: Number of cases at once.
        training: Bytes of training; None: batch norm cannot train on one case.
        checkpointing: Bytes of training with blocks computed twice.
        prediction: Bytes of prediction in float32.
    """

    cases: int
    training: int | None
    checkpointing: int | None
    prediction: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourcePlan:
    """Memory, steps and time of a run.

    Attributes:
        cost: Parameters and arithmetic of the network.
        rows: Memory by the number of cases.
        device: The device on which it would run.
        usable_bytes: Memory that may be used; None: unknown.
        precision: Precision for which the memory is given; fp32 unless the config fixes it, as fp32 takes more.
        own: Memory with the config's batch, but no more cases than there are to train on.
        fits: The config, with a micro batch or checkpointing if necessary; None: it cannot fit.
        largest: Most cases that fit at once, with the config's checkpointing; None: unknown. 1024: or more.
        num_train: Training cases; None: there is no table.
        steps: Steps in an epoch; None: there is no table.
        step_s: Seconds of a step with the speed setting that would be chosen, keyed by its name; empty: not measured.
    """

    cost: Cost
    rows: tuple[MemoryRow, ...]
    device: str
    usable_bytes: float | None
    precision: str
    own: Memory
    fits: RunConfig | None
    largest: int | None
    num_train: int | None
    steps: int | None
    step_s: dict[str, float]

    @property
    def epoch_s(self) -> float | None:
        """Seconds of the training steps of an epoch."""
        return self.steps * min(self.step_s.values()) if self.steps and self.step_s else None

    @property
    def more_may_fit(self) -> bool:
        """Whether the search for the largest batch ended at its bound, so that more cases may fit."""
        return self.largest == MOST

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names = ("device", "usable_bytes", "precision", "largest", "more_may_fit", "num_train", "steps", "step_s")
        chosen = ("batch_size", "micro_batch", "checkpointing")
        return {
            "cost": asdict(self.cost),
            "memory": [asdict(row) for row in self.rows],
            "own": asdict(self.own) | {"total": self.own.total},
            "chosen": {name: getattr(self.fits.training, name) for name in chosen} if self.fits else None,
            **{name: getattr(self, name) for name in (*names, "epoch_s")},
        }


def plan_resources(
    config: RunConfig,
    num_classes: int,
    num_train: int | None = None,
    *,
    num_drawn: int | None = None,
    timed: bool = True,
) -> ResourcePlan:
    """Estimate the memory and the steps of a run on this machine, and measure its time.

    Args:
        config: All settings.
        num_classes: Classes of the table.
        num_train: Its training cases.
        num_drawn: Cases sampled in an epoch, if not each once.
        timed: Measure a step, on random numbers.

    Raises:
        ConfigError: If the machine has no such device.
        ResourceError: If a step is measured and memory does not suffice.
    """
    device = pick_device(config.training.device)
    bf16 = config.speed.precision == "bf16"
    usable = usable_bytes(device)
    drawn = num_train if num_drawn is None else num_drawn
    step = config_of_a_step(config, drawn)
    fits = step if usable is None else fit_into_memory(step, num_classes, usable, bf16=bf16)
    return ResourcePlan(
        cost=cost_of(config, num_classes),
        rows=tuple(_memory_row(config, num_classes, cases, bf16) for cases in _CASES),
        device=str(device),
        usable_bytes=usable,
        precision="bf16" if bf16 else "fp32",
        own=training_memory(step, num_classes, bf16=bf16),
        fits=fits and _with_batch(fits, config.training.batch_size),
        largest=None if usable is None else largest_batch(config, num_classes, usable, bf16=bf16),
        num_train=num_train,
        steps=len(EpochBatches(drawn, config.training.batch_size)) if drawn else None,
        step_s=_step_s(fits, num_classes, drawn or 0) if timed and fits is not None else {},
    )


def _step_s(config: RunConfig, num_classes: int, num_drawn: int) -> dict[str, float]:
    """Seconds of a step with the fastest speed setting, keyed by its name."""
    device, batch = pick_device(config.training.device), config.training.batch_size
    at_once = config.at_once(batch)
    network = network_of(config, num_classes)
    shape = (at_once, network.in_channels, *config.recipe.size)
    grid = " x ".join(map(str, config.recipe.size))
    what = f"timing a step on {at_once} cases of {grid} voxels at a time"
    with within_memory(what, "plan fewer at a time, or with --no-time"):
        freeze(network, config.training.freeze)
        steps = config.training.epochs * math.ceil(num_drawn / batch)
        speed = choose_speed(network, shape, config.speed, device, expected_steps=steps).speed
        seconds = step_seconds(network, config.recipe.size, at_once, device=device, speed=speed)
    return {name_of(speed): seconds * config.parts_of(batch)}


def config_of_a_step(config: RunConfig, num_train: int | None) -> RunConfig:
    """The config with a batch of no more cases than there are to train on."""
    return _with_batch(config, min(config.training.batch_size, max(2, num_train or config.training.batch_size)))


def _with_batch(config: RunConfig, cases: int) -> RunConfig:
    return replace(config, training=replace(config.training, batch_size=cases))


def _memory_row(config: RunConfig, num_classes: int, cases: int, bf16: bool) -> MemoryRow:
    def training(checkpointing: bool) -> int | None:
        if cases < config.model.least_cases:
            return None
        micro = 1 if cases == 1 else 0
        settings = replace(config.training, batch_size=max(2, cases), micro_batch=micro, checkpointing=checkpointing)
        return training_memory(replace(config, training=settings), num_classes, bf16=bf16).total

    prediction = prediction_bytes(config, num_classes, cases)
    return MemoryRow(cases=cases, training=training(False), checkpointing=training(True), prediction=prediction)
