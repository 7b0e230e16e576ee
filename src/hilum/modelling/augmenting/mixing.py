"""Mixup and cutmix: two cases of a batch mixed into one, and their labels with them."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hilum.randomness import generator
from hilum.settings.augmentation import AugmentConfig
from hilum.settings.recipe import Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What is mixed into a case.

    Attributes:
        partner: Index in the batch of the other case.
        share: Share of the case itself that stays, by weight or by volume.
        box: Middle of the box that is replaced, 0 to 1 of the grid (z, y, x); None: all voxels are mixed.
    """

    partner: int
    share: float
    box: Triple | None = None


def draw_mixes(config: AugmentConfig, case_ids: list[str], *, seed: int, epoch: int) -> list[Mix | None]:
    """Draw the mix of each case from (seed, epoch, case), and its partner from the batch, whatever its order.

    Args:
        config: Probabilities of mixup and cutmix.
        case_ids: Case id of each sample of a batch.
        seed: Seed of the run.
        epoch: Number of the training epoch.
    """
    if len(case_ids) < 2 or not config.mixup + config.cutmix:
        return [None] * len(case_ids)
    by_name = sorted(range(len(case_ids)), key=lambda i: case_ids[i])
    return [_draw_mix(config, case_ids[i], [j for j in by_name if j != i], seed, epoch) for i in range(len(case_ids))]


def _draw_mix(config: AugmentConfig, case_id: str, others: list[int], seed: int, epoch: int) -> Mix | None:
    random = generator(seed, epoch, case_id, "mix")
    kind, choice, z, y, x = random.random(5).tolist()
    share = float(random.beta(config.mix_alpha, config.mix_alpha))
    is_mixup = kind < config.mixup
    is_cutmix = kind >= 1 - config.cutmix  # from the other end, so that one probability does not move the other
    if not (is_mixup or is_cutmix):
        return None
    return Mix(partner=others[int(choice * len(others))], share=share, box=None if is_mixup else (z, y, x))


def mix(
    x: Float[Tensor, "b c z y x"], targets: Float[Tensor, "b k"], mixes: list[Mix | None]
) -> tuple[Float[Tensor, "b c z y x"], Float[Tensor, "b k"]]:
    """The mixed batch; a target is the mean of the targets of both cases, weighted by their shares.

    Args:
        x: Any channels; mixed masks become shares.
        targets: A probability for each class.
        mixes: The mix of each case, from ``draw_mixes``.
    """
    if not any(mixes):
        return x, targets
    out, labels = x.clone(), targets.clone()
    for i, one in enumerate(mixes):
        if one is None:
            continue
        share = one.share
        if one.box is None:
            out[i] = torch.lerp(x[one.partner], x[i], share)
        else:
            box = _box(one.box, share, x.shape[2:])
            out[i][box] = x[one.partner][box]
            share = 1 - out[i][box].numel() / out[i].numel()
        labels[i] = torch.lerp(targets[one.partner], targets[i], share)
    return out, labels


def _box(middle: Triple, share: float, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The replaced box, with the grid's proportions and clipped to the grid, in all channels."""
    edge = (1 - share) ** (1 / 3)
    box = [slice(None)]
    for at, n in zip(middle, shape, strict=True):
        box.append(slice(max(round((at - edge / 2) * n), 0), min(round((at + edge / 2) * n), n)))
    return tuple(box)
