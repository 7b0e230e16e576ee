"""Test-time augmentation: the mean probability of a case and of moved views of it, by the training's own changes."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hilum.augmentation import AugmentConfig
from hilum.errors import require
from hilum.modelling.augment import apply
from hilum.modelling.changes import Change, draw
from hilum.modelling.input import model_input
from hilum.recipe import Recipe

_TRIES = 1024
"""Draws among which views are looked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """What is looked at beside the case itself; the same for every case, on every machine.

    Attributes:
        count: Number of moved views.
        augment: How they may be moved; of it the geometry alone, for HU are what they are.
    """

    count: int
    augment: AugmentConfig

    def __post_init__(self) -> None:
        require(1 <= self.count <= 64, "views.count", "1 to 64", self.count)
        self.augment.check()
        found = len(changes_of(self))
        require(found == self.count, "views.augment", f"one that moves {self.count} of {_TRIES} draws", found)


@lru_cache(maxsize=8)
def changes_of(views: Views) -> tuple[Change, ...]:
    """What the views are: the first draws that move anything at all."""
    drawn = (draw(views.augment.geometry, ["view"], seed=0, epoch=number)[0] for number in range(_TRIES))
    return tuple(islice((change for change in drawn if change.moves or any(change.flip)), views.count))


def seen_logits(
    network: Callable[[Tensor], Tensor],
    hu: Float[Tensor, "b c z y x"],
    spacing_mm: Float64[np.ndarray, "b 3"],
    recipe: Recipe,
    views: Views | None,
) -> Float[Tensor, "b k"]:
    """Logits of a batch; with views the logarithms of the mean probabilities.

    Args:
        network: In evaluation mode.
        hu: HU and further channels, on the network's device.
        spacing_mm: Of each sample, (z, y, x).
        recipe: Its windows, and what lies outside.
        views: None: the samples alone.
    """
    logits = network(model_input(hu, recipe.windows))
    if views is None:
        return logits
    log_probs = [logits.float().log_softmax(dim=1)]
    for change in changes_of(views):
        moved = apply(hu, [change] * len(hu), spacing_mm, recipe)
        log_probs.append(network(model_input(moved, recipe.windows)).float().log_softmax(dim=1))
    return torch.stack(log_probs).logsumexp(dim=0) - math.log(len(log_probs))
