"""Computes a case's logits from its sample, as a whole or grid by grid, for validation and prediction alike."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hilum.cohorts.dataset import Sample, to_float
from hilum.deciding.tta import Views, mean_logits, view_logits
from hilum.settings.recipe import Recipe

_AT_ONCE = 8
"""Grids of one case in a batch on the device."""


def case_logits(
    network: Callable[[Tensor], Tensor],
    samples: Sequence[Sample],
    recipe: Recipe,
    device: torch.device,
    views: Views | None = None,
    *,
    multi_label: bool = False,
) -> Float[Tensor, "b c"]:
    """Logits of each case; without ``sub_volumes`` in one batch, else case by case, so that batches do not matter.

    The probabilities of a case with several grids are their mean, as in sliding windows and ensembles (nnU-Net,
    Isensee 2021; Lakshminarayanan 2017), or, with ``aggregate = max``, those of the grid in which the first class is
    least probable: one lesion makes a scan positive, as in multiple instance learning (Ilse 2018). With multiple labels
    each label has its own such grid. The returned logits are those of these probabilities, so that loss and
    calibration apply unchanged.

    Args:
        network: In evaluation mode.
        samples: Samples of the cases.
        recipe: Size, windows, and the aggregation of grids.
        device: Device of the network.
        views: Test-time augmentation of each grid.
        multi_label: Whether the outputs are labels that do not exclude one another.
    """
    if not recipe.sub_volumes:
        hu = to_float(torch.stack([s["hu"] for s in samples]), device)
        spacing_mm = np.stack([s["spacing_mm"].numpy() for s in samples])
        return view_logits(network, hu, spacing_mm, recipe, views, multi_label=multi_label)
    return torch.stack([_case_logits(network, one, recipe, device, views, multi_label) for one in samples])


def _case_logits(
    network: Callable[[Tensor], Tensor],
    sample: Sample,
    recipe: Recipe,
    device: torch.device,
    views: Views | None,
    multi_label: bool,
) -> Float[Tensor, " c"]:
    starts = sample["starts"].tolist()
    logits = []
    for first in range(0, len(starts), _AT_ONCE):
        boxes = [
            tuple(slice(s, s + n) for s, n in zip(start, recipe.size, strict=True))
            for start in starts[first : first + _AT_ONCE]
        ]
        hu = torch.stack([sample["hu"][(slice(None), *box)] for box in boxes])
        spacing_mm = np.tile(sample["spacing_mm"].numpy(), (len(hu), 1))
        seen = view_logits(network, to_float(hu, device), spacing_mm, recipe, views, multi_label=multi_label)
        logits.append(seen.float())
    return aggregated(torch.cat(logits), recipe, multi_label=multi_label)


def aggregated(each: Float[Tensor, "g c"], recipe: Recipe, *, multi_label: bool) -> Float[Tensor, " c"]:
    """Logits of a case from those of its grids."""
    if len(each) == 1:
        return each[0]
    if recipe.aggregate == "max":
        return each.amax(dim=0) if multi_label else each[each.log_softmax(dim=1)[:, 0].argmin()]
    return mean_logits(each[:, None], multi_label=multi_label)[0]
