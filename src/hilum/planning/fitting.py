"""How many cases fit into the memory of a machine at a time, and how a batch that does not is cut into parts."""

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from hilum.files import free_bytes
from hilum.planning.resources import training_memory
from hilum.settings.imbalance import OF_THE_BATCH
from hilum.settings.run import RunConfig

__all__ = ["MOST", "fitted", "largest_batch", "usable_bytes"]

_USED = 0.85
"""Share of the free memory that may be planned with: what is estimated was measured to be up to 17 % more."""

_FEW = 4
"""Batch norm on fewer cases is worse than computing blocks twice."""

MOST = 1024
"""Cases at which the search for the largest batch ends."""


def usable_bytes(device: torch.device) -> float | None:
    """Memory of a device that a plan may count on, with a margin; None: it is not known."""
    if device.type == "cuda":
        return _USED * torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return _USED * (torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    free = free_bytes()
    return _USED * free if math.isfinite(free) else None


def fitted(config: RunConfig, num_classes: int, limit: float, *, bf16: bool = False) -> RunConfig | None:
    """The config with a micro batch, and only then with checkpointing, such that training fits; None: it cannot.

    The batch is kept, and so is what is learned; but batch norm sees a micro batch, and gets few cases last of all. A
    loss of the whole batch, such as Dice, leaves checkpointing alone.

    Args:
        config: All settings; comes back as it is where it fits.
        num_classes: Outputs.
        limit: Bytes that training may take.
        bf16: Under autocast.
    """
    settings = config.training
    counts = [config.at_once(settings.batch_size)]
    while counts[-1] > config.model.least_cases and config.loss.name not in OF_THE_BATCH:
        counts.append(max(config.model.least_cases, math.ceil(counts[-1] / 2)))
    few = _FEW if config.model.norm == "batch" else 0
    for cases in ([n for n in counts if n >= few], [n for n in counts if n < few]):
        for checkpointing in sorted({settings.checkpointing, True}):
            for at_once in cases:
                micro = settings.micro_batch if at_once == counts[0] else at_once
                tried = replace(config, training=replace(settings, micro_batch=micro, checkpointing=checkpointing))
                if training_memory(tried, num_classes, bf16=bf16).total <= limit:
                    return tried
    return None


def largest_batch(config: RunConfig, num_classes: int, limit: float, *, bf16: bool = False) -> int:
    """Most cases that can be trained on at a time; 0: not even the fewest, 1024: that many or more."""

    def fits(cases: int) -> bool:
        whole = replace(config, training=replace(config.training, batch_size=max(cases, 2), micro_batch=0))
        return training_memory(whole, num_classes, bf16=bf16).total <= limit

    return _largest(fits, config.model.least_cases)


def _largest(fits: Callable[[int], bool], least: int) -> int:
    """By doubling, then by halves."""
    if not fits(least):
        return 0
    good = least
    while good < MOST and fits(min(2 * good, MOST)):
        good = min(2 * good, MOST)
    bad = 2 * good
    while good < MOST and bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
