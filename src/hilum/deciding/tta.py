"""Test-time augmentation: the mean probability over a case and geometrically augmented views of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor
from torch.nn import functional as F

from hilum.errors import require
from hilum.modelling.augmenting.augment import apply
from hilum.modelling.augmenting.changes import Change, draw
from hilum.modelling.input import model_input
from hilum.settings.augmentation import AugmentConfig
from hilum.settings.recipe import Recipe
from hilum.settings.run import RunConfig

_TRIES = 1024
"""Largest number of sampled changes among which distinct views are searched."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """The views of test-time augmentation beside the case itself; the same for every case, on every machine.

    Attributes:
        count: Number of views.
        augment: Augmentation of the views, of which only the geometry is used; HU are not changed.
    """

    count: int
    augment: AugmentConfig

    def __post_init__(self) -> None:
        require(1 <= self.count <= 64, "views.count", "1 to 64", self.count)
        self.augment.check()
        found = len(changes_of(self))
        require(found == self.count, "views.augment", f"one that moves in {self.count} ways in {_TRIES} draws", found)


@lru_cache(maxsize=8)
def changes_of(views: Views) -> tuple[Change, ...]:
    """The changes of the views: the first sampled ones that differ from the identity and from one another."""
    found: dict[Any, Change] = {}
    for number in range(_TRIES):
        (change,) = draw(views.augment.geometry, ["view"], seed=0, epoch=number)
        bent = change.elastic_seed if change.elastic_mm else None
        if change.resamples or any(change.flip):
            found.setdefault((change.flip, change.affine, bent), change)
        if len(found) == views.count:
            break
    return tuple(found.values())


def views_of(config: RunConfig) -> Views | None:
    """The views of a run's settings; None without test-time augmentation.

    Raises:
        ConfigError: If the augmentation has too few distinct geometric changes.
    """
    if not config.decision.tta:
        return None
    return Views(count=config.decision.tta, augment=config.augment.geometry)


def view_logits(
    network: Callable[[Tensor], Tensor],
    hu: Float[Tensor, "b c z y x"],
    spacing_mm: Float64[np.ndarray, "b 3"],
    recipe: Recipe,
    views: Views | None,
    *,
    multi_label: bool = False,
) -> Float[Tensor, "b k"]:
    """Logits of a batch; with test-time augmentation, those of the mean probabilities.

    Args:
        network: In evaluation mode.
        hu: HU and further channels, on the network's device.
        spacing_mm: Spacing of each sample, (z, y, x).
        recipe: Its windows, and the filling outside.
        views: None: the samples alone.
        multi_label: Whether the outputs are labels that do not exclude one another.
    """
    logits = network(model_input(hu, recipe.windows))
    if views is None:
        return logits
    each = [logits.float()]
    for change in changes_of(views):
        moved = apply(hu, [change] * len(hu), spacing_mm, recipe)
        each.append(network(model_input(moved, recipe.windows)).float())
    return mean_logits(torch.stack(each), multi_label=multi_label)


def mean_logits(each: Float[Tensor, "v b k"], *, multi_label: bool = False) -> Float[Tensor, "b k"]:
    """Logits of the mean probabilities: their logarithms, or for labels their log odds."""
    if multi_label:
        return F.logsigmoid(each).logsumexp(dim=0) - F.logsigmoid(-each).logsumexp(dim=0)
    return each.log_softmax(dim=2).logsumexp(dim=0) - math.log(len(each))
