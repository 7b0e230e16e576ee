"""Random changes of a batch in HU, on its device: at most one resampling, and each case is the same in any batch."""

from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hilum.errors import require
from hilum.modelling.augmenting.changes import Change, changes_nothing, draw
from hilum.modelling.augmenting.intensity import change_intensity
from hilum.modelling.augmenting.mixing import draw_mixes, mix
from hilum.modelling.augmenting.spatial import warp
from hilum.settings.augmentation import AugmentConfig
from hilum.settings.recipe import Recipe
from hilum.volume import HIGHEST_HU, LOWEST_HU

Samples: TypeAlias = Float[Tensor, "b c z y x"]


class Augment:
    """Random changes of batches, the same for the same (seed, epoch, case).

    Args:
        config: Probabilities and ranges of the changes.
        recipe: Recipe of the samples: gives the first window, and the filling outside the scan.
        seed: Seed of the run.

    Raises:
        ConfigError: If the config would destroy what the recipe's region is about.

    Example:
        >>> from hilum import AugmentConfig, Recipe
        >>> augment = Augment(AugmentConfig(), Recipe(spacing_mm=(2.0, 2.0, 2.0)))
        >>> batch = torch.zeros(2, 1, 8, 8, 8)
        >>> augment(batch, np.full((2, 3), 2.0), ["case-1", "case-2"], epoch=1).shape
        torch.Size([2, 1, 8, 8, 8])
    """

    def __init__(self, config: AugmentConfig, recipe: Recipe, *, seed: int = 0) -> None:
        config.check_for(recipe)
        self.config = config
        self.recipe = recipe
        self.seed = seed

    def __call__(
        self,
        x: Samples,
        spacing_mm: Float64[np.ndarray, "b 3"],
        case_ids: list[str],
        *,
        epoch: int,
        num_images: int = 1,
    ) -> Samples:
        """The changed batch; the given batch is not modified.

        Args:
            x: HU, and masks in further channels.
            spacing_mm: Spacing of each sample, (z, y, x).
            case_ids: Case id of each sample.
            epoch: Number of the training epoch.
            num_images: Number of channels that are images in HU; the rest are masks.
        """
        if changes_nothing(self.config):
            return x
        changes = draw(self.config, case_ids, seed=self.seed, epoch=epoch)
        return apply(x, changes, spacing_mm, self.recipe, num_images=num_images)

    def mixed(
        self, x: Samples, targets: Float[Tensor, "b k"], case_ids: list[str], *, epoch: int
    ) -> tuple[Samples, Float[Tensor, "b k"]]:
        """The batch after mixup and cutmix, and its soft labels; partners come from the batch.

        Args:
            x: The changed batch.
            targets: A probability for each class.
            case_ids: Case id of each sample.
            epoch: Number of the training epoch.
        """
        return mix(x, targets, draw_mixes(self.config, case_ids, seed=self.seed, epoch=epoch))


@torch.no_grad()
def apply(
    x: Samples, changes: list[Change], spacing_mm: Float64[np.ndarray, "b 3"], recipe: Recipe, *, num_images: int = 1
) -> Samples:
    """Apply a change to each sample of a batch: positions first, then HU, clipped to -1024 to 3071 HU.

    Samples are computed one by one, so that a result cannot depend on the batch. A sample without a change comes back
    bit for bit.

    Args:
        x: HU, and masks in further channels; float32 or float64.
        changes: One per sample, from ``draw`` or stored earlier.
        spacing_mm: Spacing of each sample, (z, y, x).
        recipe: Gives the first window, and the filling outside the scan.
        num_images: Number of channels that are images in HU; the rest are masks, which keep their values.

    Raises:
        ConfigError: If the batch is of another type, a spacing is not positive, or counts do not match.
    """
    require(x.dtype in (torch.float32, torch.float64), "a batch that is changed", "float32 or float64", x.dtype)
    require(1 <= num_images <= x.shape[1], "num_images", f"1 to {x.shape[1]}, the batch's channels", num_images)
    require(bool(np.all(spacing_mm > 0) and np.all(np.isfinite(spacing_mm))), "spacing_mm", "positive", spacing_mm)
    require(len(changes) == len(x), "changes", f"one for each of {len(x)} samples", len(changes))
    require(np.shape(spacing_mm) == (len(x), 3), "spacing_mm", f"of shape ({len(x)}, 3)", np.shape(spacing_mm))
    out = torch.empty_like(x)
    for sample, before, change, (z, y, x_mm) in zip(out, x, changes, spacing_mm.tolist(), strict=True):
        step_mm = (z, y, x_mm)
        sample.copy_(warp(before, change, step_mm, outside=recipe.outside, num_images=num_images))
        images = sample[:num_images]
        change_intensity(images, change, step_mm, recipe.windows[0])
        if change.resamples or change.changes_intensity:
            images.clamp_(LOWEST_HU, HIGHEST_HU)
    return out
