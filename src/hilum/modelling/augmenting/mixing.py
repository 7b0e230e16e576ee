"""Mixup and cutmix: two cases of a batch in one, with both their labels."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hilum.randomness import generator
from hilum.settings.augmentation import AugmentConfig
from hilum.settings.recipe import Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """What of another case comes into one.

    Attributes:
        partner: The other's place in the batch.
        share: How much of the case itself stays, by weight or by volume.
        box: Where the box's middle lies, 0 to 1 of the grid (z, y, x); None: all voxels are mixed.
    """

    partner: int
    share: float
    box: Triple | None = None


def draw_mixes(config: AugmentConfig, case_ids: list[str], *, seed: int, epoch: int) -> list[Mix | None]:
    """Who is mixed with whom: from (seed, epoch, case), and the partner among those in the batch, in any order.

    Args:
        config: Probabilities of mixup and cutmix.
        case_ids: One for each sample of a batch.
        seed: Of the run.
        epoch: Of the training.
    """
    if len(case_ids) < 2 or not config.mixup + config.cutmix:
        return [None] * len(case_ids)
    places = sorted(range(len(case_ids)), key=lambda i: case_ids[i])
    return [_drawn(config, case_ids[i], [j for j in places if j != i], seed, epoch) for i in range(len(case_ids))]


def _drawn(config: AugmentConfig, case_id: str, others: list[int], seed: int, epoch: int) -> Mix | None:
    random = generator(seed, epoch, case_id, "mix")
    which, whom, z, y, x = random.random(5).tolist()
    share = float(random.beta(config.mix_alpha, config.mix_alpha))
    whole, box = which < config.mixup, which >= 1 - config.cutmix  # from both ends: one does not move the other
    if not (whole or box):
        return None
    partner = others[int(whom * len(others))]
    return Mix(partner=partner, share=share, box=None if whole else (z, y, x))


def mix(
    x: Float[Tensor, "b c z y x"], targets: Float[Tensor, "b k"], mixes: list[Mix | None]
) -> tuple[Float[Tensor, "b c z y x"], Float[Tensor, "b k"]]:
    """The batch with its mixes; a target is the mean of both by how much of each is there.

    Args:
        x: Any channels; masks that are mixed become shares.
        targets: A probability for each class.
        mixes: From ``draw_mixes``.
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
            box = _box(one, x.shape[2:])
            out[i][box] = x[one.partner][box]
            share = 1 - out[i][box].numel() / out[i].numel()
        labels[i] = torch.lerp(targets[one.partner], targets[i], share)
    return out, labels


def _box(one: Mix, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """A box of the share that goes in all channels, of the grid's own form, cut where it leaves the grid."""
    assert one.box is not None  # noqa: S101
    edge = (1 - one.share) ** (1 / 3)
    bounds = [(round((at - edge / 2) * n), round((at + edge / 2) * n)) for at, n in zip(one.box, shape, strict=True)]
    return (slice(None), *(slice(max(low, 0), min(high, n)) for (low, high), n in zip(bounds, shape, strict=True)))
