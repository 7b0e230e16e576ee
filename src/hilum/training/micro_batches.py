"""Splits batches into micro batches, and advises settings if memory does not suffice."""

from contextlib import AbstractContextManager

from torch import Tensor

from hilum.modelling.memory import within_memory
from hilum.settings.imbalance import OF_THE_BATCH
from hilum.settings.run import RunConfig


def micro_batches(batch: Tensor, config: RunConfig) -> tuple[Tensor, ...]:
    """Split a batch into its micro batches, whose sizes differ by one at most."""
    return batch.tensor_split(config.parts_of(len(batch)))


def within_memory_of(doing: str, config: RunConfig, num_cases: int) -> AbstractContextManager[None]:
    """A context that turns a lack of memory into a ResourceError with settings that need less.

    Args:
        doing: The activity, such as training.
        config: All settings.
        num_cases: Number of cases, which limits a batch.
    """
    settings = config.training
    cases = config.at_once(min(settings.batch_size, num_cases))
    grid = " x ".join(map(str, config.recipe.size))
    divisible = cases // 2 >= config.model.least_cases and config.loss.name not in OF_THE_BATCH
    options = [f"training.micro_batch = {cases // 2}"] if divisible else []
    options += [] if settings.checkpointing else ["training.checkpointing = true"]
    smaller = "take a smaller model.width or a coarser recipe; hilum plan says what fits"
    advice = f"set {' or '.join(options)}, or {smaller}" if options else smaller
    return within_memory(f"{doing} on {cases} cases of {grid} voxels at a time", advice)
