"""A batch in parts, and what to set where one needs more memory than there is."""

from contextlib import AbstractContextManager

from torch import Tensor

from hilum.modelling.memory import within_memory
from hilum.settings.imbalance import OF_THE_BATCH
from hilum.settings.run import RunConfig


def micro_batches(batch: Tensor, config: RunConfig) -> tuple[Tensor, ...]:
    """A batch in the parts in which it is computed, as even as can be."""
    return batch.tensor_split(config.parts_of(len(batch)))


def within_memory_of(doing: str, config: RunConfig, num_cases: int) -> AbstractContextManager[None]:
    """Where memory that does not suffice ends in what to set.

    Args:
        doing: What is done with a batch, in a word.
        config: All settings.
        num_cases: That there are; a batch has no more.
    """
    settings = config.training
    cases = config.at_once(min(settings.batch_size, num_cases))
    grid = " x ".join(map(str, config.recipe.size))
    divisible = cases // 2 >= config.model.least_cases and config.loss.name not in OF_THE_BATCH
    ways = [f"training.micro_batch = {cases // 2}"] if divisible else []
    ways += [] if settings.checkpointing else ["training.checkpointing = true"]
    smaller = "take a smaller model.width or a coarser recipe; hilum plan says what fits"
    advice = f"set {' or '.join(ways)}, or {smaller}" if ways else smaller
    return within_memory(f"{doing} on {cases} cases of {grid} voxels at a time", advice)
