"""The largest batch that fits into the memory of a machine, and how a larger batch is split to fit."""

import math
from dataclasses import replace

import torch

from hilum.files import free_bytes
from hilum.planning.resources import training_memory
from hilum.settings.imbalance import OF_THE_BATCH
from hilum.settings.run import RunConfig

_USED = 0.85
"""Usable share of the free memory: measured use was up to 17 % above the estimate."""

_FEW = 4
"""Micro batch below which, with batch norm, computing blocks twice is preferred."""

MOST = 1024
"""The search for the largest batch ends here."""


def usable_bytes(device: torch.device) -> float | None:
    """Memory of a device that a plan may use, with a margin; None: unknown."""
    if device.type == "cuda":
        return _USED * torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return _USED * (torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    free = free_bytes()
    return _USED * free if math.isfinite(free) else None


def fit_into_memory(config: RunConfig, num_classes: int, limit: float, *, bf16: bool = False) -> RunConfig | None:
    """The config with a micro batch, or with checkpointing as well, so that training fits; None: it cannot.

    The batch size stays, so the result of training is the same, but for batch norm, which sees micro batches; small
    ones are tried last. With a loss of the whole batch, such as Dice, only checkpointing can help.

    Args:
        config: All settings; returned unchanged if it fits.
        num_classes: Number of outputs.
        limit: Bytes that training may take.
        bf16: Whether training runs under autocast.
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
    """Most cases that can be trained on at once; 0: not even the fewest, 1024: that many or more."""

    def fits(cases: int) -> bool:
        whole = replace(config, training=replace(config.training, batch_size=max(cases, 2), micro_batch=0))
        return training_memory(whole, num_classes, bf16=bf16).total <= limit

    good = config.model.least_cases
    if not fits(good):
        return 0
    while good < MOST and fits(min(2 * good, MOST)):  # by doubling
        good = min(2 * good, MOST)
    bad = 2 * good
    while good < MOST and bad - good > 1:  # by halving the interval
        middle = (good + bad) // 2
        good, bad = (middle, bad) if fits(middle) else (good, middle)
    return good
