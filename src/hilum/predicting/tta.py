"""Test-time augmentation: the mean probability of a case and of moved views of it, by the training's own changes."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hilum.augmentation import AugmentConfig
from hilum.errors import require
from hilum.modelling.augment import apply
from hilum.modelling.changes import draw
from hilum.modelling.input import model_input
from hilum.recipe import Recipe


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
    for number in range(1, views.count + 1):
        changes = draw(views.augment.geometry, ["view"], seed=0, epoch=number) * len(hu)
        moved = apply(hu, changes, spacing_mm, recipe)
        log_probs.append(network(model_input(moved, recipe.windows)).float().log_softmax(dim=1))
    return torch.stack(log_probs).logsumexp(dim=0) - math.log(len(log_probs))
