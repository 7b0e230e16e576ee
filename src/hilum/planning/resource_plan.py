"""What a run will take on this machine, before it is started: memory, steps and time."""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from hilum.cohorts.batches import EpochBatches
from hilum.modelling.device import pick_device
from hilum.modelling.memory import within_memory
from hilum.modelling.speed import choose, name_of
from hilum.modelling.weights.freezing import freeze
from hilum.planning.fitting import MOST, fitted, largest_batch, usable_bytes
from hilum.planning.resources import Cost, Memory, cost_of, network_of, prediction_bytes, training_memory
from hilum.planning.timing import step_seconds
from hilum.settings.run import RunConfig

__all__ = ["Outlook", "Row", "config_of_a_step", "look_ahead"]

_CASES = (1, 2, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Bytes for so many cases at a time.

    Attributes:
        cases: At a time.
        training: None: batch norm cannot train on one case.
        checkpointing: Training with blocks computed twice.
        prediction: In float32.
    """

    cases: int
    training: int | None
    checkpointing: int | None
    prediction: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """What a run will take.

    Attributes:
        cost: Of the network.
        rows: Memory by the number of cases.
        device: Where it would run.
        usable_bytes: Memory that may be planned with; None: not known.
        precision: That the memory is of; fp32 where it is not fixed, for that takes more.
        own: Memory as the config has it, with a batch of no more cases than there are to train on.
        fits: The config, with a micro batch or checkpointing where it must; None: it cannot fit.
        largest: Most cases that fit at a time, as the config has checkpointing; None: not known. 1024: or more.
        num_train: Training cases; None: there is no table.
        steps: In an epoch; None: there is no table.
        step_s: Seconds of a step as it would be computed, by the name of that way; empty: not measured.
    """

    cost: Cost
    rows: tuple[Row, ...]
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
        training = self.fits.training if self.fits else None
        chosen = (
            {name: getattr(training, name) for name in ("batch_size", "micro_batch", "checkpointing")}
            if training
            else None
        )
        values = {
            name: getattr(self, name)
            for name in (
                "device",
                "usable_bytes",
                "precision",
                "largest",
                "more_may_fit",
                "num_train",
                "steps",
                "step_s",
                "epoch_s",
            )
        }
        return {
            "cost": asdict(self.cost),
            "memory": [asdict(row) for row in self.rows],
            "own": asdict(self.own) | {"total": self.own.total},
            "chosen": chosen,
            **values,
        }


def look_ahead(
    config: RunConfig,
    num_classes: int,
    num_train: int | None = None,
    *,
    num_drawn: int | None = None,
    timed: bool = True,
) -> Outlook:
    """What a run of a config will take on this machine.

    Args:
        config: All settings.
        num_classes: Of the table.
        num_train: Its training cases.
        num_drawn: Draws of an epoch, where sampling makes them more or fewer.
        timed: Measure a step, on random numbers.

    Raises:
        ConfigError: If the machine has no such device.
        ResourceError: If a step is measured and memory does not suffice.
    """
    device = pick_device(config.training.device)
    precision = config.speed.precision
    bf16 = precision == "bf16"
    usable = usable_bytes(device)
    drawn = num_train if num_drawn is None else num_drawn
    step = config_of_a_step(config, drawn)
    fits = step if usable is None else fitted(step, num_classes, usable, bf16=bf16)
    seconds: dict[str, float] = {}
    if timed and fits is not None:
        batch = fits.training.batch_size
        at_once = fits.at_once(batch)
        network = network_of(fits, num_classes)
        shape = (at_once, network.in_channels, *fits.recipe.size)
        steps = fits.training.epochs * math.ceil((drawn or 0) / batch)
        grid = " x ".join(map(str, fits.recipe.size))
        what = f"timing a step on {at_once} cases of {grid} voxels at a time"
        with within_memory(what, "plan fewer at a time, or with --no-time"):
            freeze(network, fits.training.freeze)
            speed = choose(network, shape, fits.speed, device, expected_steps=steps).speed
            once = step_seconds(network, fits.recipe.size, at_once, device=device, speed=speed)
        seconds[name_of(speed)] = once * fits.parts_of(batch)
    return Outlook(
        cost=cost_of(config, num_classes),
        rows=tuple(_row(config, num_classes, cases, bf16) for cases in _CASES),
        device=str(device),
        usable_bytes=usable,
        precision="bf16" if bf16 else "fp32",
        own=training_memory(step, num_classes, bf16=bf16),
        fits=fits and _with_batch(fits, config.training.batch_size),
        largest=None if usable is None else largest_batch(config, num_classes, usable, bf16=bf16),
        num_train=num_train,
        steps=len(EpochBatches(drawn, config.training.batch_size)) if drawn else None,
        step_s=seconds,
    )


def config_of_a_step(config: RunConfig, num_train: int | None) -> RunConfig:
    """The config with a batch of no more cases than there are to train on."""
    return _with_batch(config, min(config.training.batch_size, max(2, num_train or config.training.batch_size)))


def _with_batch(config: RunConfig, cases: int) -> RunConfig:
    return replace(config, training=replace(config.training, batch_size=cases))


def _row(config: RunConfig, num_classes: int, cases: int, bf16: bool) -> Row:
    def training(checkpointing: bool) -> int | None:
        if cases < config.model.least_cases:
            return None
        alone = {"batch_size": max(2, cases), "micro_batch": 1 if cases == 1 else 0, "checkpointing": checkpointing}
        settings = replace(config.training, **alone)  # type: ignore[arg-type]
        return training_memory(replace(config, training=settings), num_classes, bf16=bf16).total

    return Row(
        cases=cases,
        training=training(False),
        checkpointing=training(True),
        prediction=prediction_bytes(config, num_classes, cases),
    )
