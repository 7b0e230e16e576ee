"""A case's logits from its sample, seen whole or grid by grid: one way for validation and for prediction."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hilum.cohorts.dataset import Sample, to_float
from hilum.predicting.tta import Views, seen_logits
from hilum.recipe import Recipe

_AT_ONCE = 8
"""Grids of one case that are on the device at a time."""


def case_logits(
    network: Callable[[Tensor], Tensor],
    samples: Sequence[Sample],
    recipe: Recipe,
    device: torch.device,
    views: Views | None = None,
) -> Float[Tensor, "b c"]:
    """Logits of each case; without ``sub_volumes`` in one batch, else case by case, so that batches change nothing.

    The probabilities of a case with several grids are their mean, as in sliding windows and ensembles (nnU-Net,
    Isensee 2021; Lakshminarayanan 2017), or, with ``aggregate = max``, those of the one grid in which the first class
    is least probable: one finding makes a scan positive, as in multiple instance learning (Ilse 2018). The logits are
    then the logarithms of the mean, and those of the grid itself, so that loss and temperature apply as ever.

    Args:
        network: In evaluation mode.
        samples: Of the cases.
        recipe: Size, windows, and how grids make a case.
        device: Where the network is.
        views: Of each grid, beside itself.
    """
    if not recipe.sub_volumes:
        hu = to_float(torch.stack([s["hu"] for s in samples]), device)
        return seen_logits(network, hu, np.stack([s["spacing_mm"].numpy() for s in samples]), recipe, views)
    return torch.stack([_aggregated(network, sample, recipe, device, views) for sample in samples])


def _aggregated(
    network: Callable[[Tensor], Tensor], sample: Sample, recipe: Recipe, device: torch.device, views: Views | None
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
        logits.append(seen_logits(network, to_float(hu, device), spacing_mm, recipe, views).float())
    each = torch.cat(logits)
    if len(each) == 1:
        return each[0]
    log_probs = each.log_softmax(dim=1)
    if recipe.aggregate == "max":
        return each[log_probs[:, 0].argmin()]
    return log_probs.logsumexp(dim=0) - torch.log(torch.tensor(float(len(each)), device=each.device))
