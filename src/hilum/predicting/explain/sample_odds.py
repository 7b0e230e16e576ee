"""The quantity that maps explain: the log odds of outputs, as a function of the HU of a prepared sample."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, Float64, Int16
from torch import Tensor

from hilum.deciding.inference import aggregated
from hilum.modelling.ensemble import Network, members_of
from hilum.modelling.input import model_input
from hilum.modelling.losses.base import log_odds
from hilum.modelling.resnet import ResNet3D
from hilum.settings.recipe import Recipe

VoxelBox = tuple[slice, slice, slice]
"""Voxels (z, y, x) of a sample."""

_VOXELS = 1 << 22
"""Voxels of a batch (measured: larger batches are no faster on CPUs)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SampleOdds:
    """The log odds of outputs of a model for a prepared sample, and for changed copies of it.

    Test-time augmentation is left out, and so is calibration, which only stretches the log odds of a model.

    Attributes:
        network: The network or ensemble, in evaluation mode.
        hu: The sample: HU and further channels, (c, z, y, x).
        starts: First voxels (n, 3) of the model's grids in it.
        recipe: The model's input.
        outputs: Indices of the classes or labels.
        multi_label: Whether outputs are labels that do not exclude one another.
        device: Device of the network.
    """

    network: Network
    hu: Int16[Tensor, "c z y x"]
    starts: Sequence[tuple[int, int, int]]
    recipe: Recipe
    outputs: tuple[int, ...]
    multi_label: bool
    device: torch.device

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of the sample."""
        _, z, y, x = self.hu.shape
        return z, y, x

    @property
    def grids(self) -> list[VoxelBox]:
        """The model's grids in the sample."""
        return [_box(start, self.recipe.size) for start in self.starts]

    def input_of(self, hu: Tensor) -> Float[Tensor, "b c z y x"]:
        """The network's input for a batch of grids in HU."""
        return model_input(hu.to(self.device).float(), self.recipe.windows)

    def of_logits(self, logits: Float[Tensor, "b c"]) -> Float[Tensor, "b k"]:
        """Log odds of the outputs."""
        odds = log_odds(logits, multi_label=self.multi_label)
        return (odds[:, :, 1] if self.multi_label else odds[:, 0])[:, self.outputs]

    def of_grids(self, logits: Float[Tensor, "m g c"]) -> Float64[np.ndarray, "m k"]:
        """Log odds of the outputs by each member, from its logits for all grids of the sample."""
        each = [aggregated(one, self.recipe, multi_label=self.multi_label) for one in logits]
        return self.of_logits(torch.stack(each)).double().numpy()

    def share_of_grids(self, logits: Float[Tensor, "g c"], output: int) -> Float[Tensor, "g c"]:
        """Gradient of a member's log odds of one of the outputs by its logits for the grids of the sample."""
        with torch.inference_mode(False), torch.enable_grad():
            each = logits.clone().requires_grad_()
            case = aggregated(each, self.recipe, multi_label=self.multi_label)
            (shares,) = torch.autograd.grad(self.of_logits(case[None])[0, output], each)
        return shares

    @torch.inference_mode()
    def logits(self, grids: Iterable[Tensor]) -> Float[Tensor, "m g c"]:
        """Logits of each member for grids in HU, on the CPU; they are taken batch by batch."""
        at_once = max(1, _VOXELS // math.prod(self.recipe.size))
        rows, left = [], iter(grids)
        while batch := list(islice(left, at_once)):
            seen = self.input_of(torch.stack(batch))
            rows.append(torch.stack([one(seen).float().cpu() for one in members_of(self.network)]))
        return torch.cat(rows, dim=1)

    def whole(self) -> Float[Tensor, "m g c"]:
        """Logits of each member for the grids of the unchanged sample."""
        return self.logits(self.hu[(slice(None), *grid)] for grid in self.grids)


def odds_when_filled(
    sample_odds: SampleOdds, boxes: Sequence[VoxelBox], fills_hu: Sequence[float], whole: Float[Tensor, "m g c"]
) -> Float64[np.ndarray, "n m k"]:
    """Log odds by each member after each box alone was filled with a density; only grids that it touches are computed.

    Args:
        sample_odds: What is explained.
        boxes: Voxels of the sample.
        fills_hu: The density of each.
        whole: Logits of the unchanged sample.
    """
    touched = [[g for g, grid in enumerate(sample_odds.grids) if _overlap(box, grid)] for box in boxes]
    jobs = [(g, n) for n, grids in enumerate(touched) for g in grids]
    logits = torch.empty((len(whole), len(jobs), whole.shape[2]))
    for g in sorted({g for g, _ in jobs}):  # grid by grid, for the first layer of a grid is kept
        own = [place for place, (grid, _) in enumerate(jobs) if grid == g]
        inner = [_overlap(boxes[jobs[place][1]], sample_odds.grids[g]) for place in own]
        fills = [fills_hu[jobs[place][1]] for place in own]
        logits[:, own] = _logits_with_boxes(sample_odds, sample_odds.grids[g], [box for box in inner if box], fills)
    found, done = np.empty((len(boxes), len(whole), len(sample_odds.outputs))), 0
    for n, grids in enumerate(touched):
        changed = whole.clone()
        changed[:, grids] = logits[:, done : done + len(grids)]
        found[n] = sample_odds.of_grids(changed)
        done += len(grids)
    return found


@torch.inference_mode()
def _logits_with_boxes(
    sample_odds: SampleOdds, grid: VoxelBox, boxes: Sequence[VoxelBox], fills_hu: Sequence[float]
) -> Float[Tensor, "m n c"]:
    """Logits of each member for a grid in which each box alone is filled.

    The first layer is computed once for the whole grid, and again only around each box.
    """
    hu = sample_odds.hu[(slice(None), *grid)].float()
    at_once = max(1, _VOXELS // math.prod(sample_odds.recipe.size))
    rows = []
    for network in members_of(sample_odds.network):
        plain = sample_odds.input_of(hu[None])
        first = network.first_layer(plain)
        found = []
        for start in range(0, len(boxes), at_once):
            some = range(start, min(start + at_once, len(boxes)))
            layers = first.repeat(len(some), 1, 1, 1, 1).contiguous(memory_format=torch.channels_last_3d)
            for place, n in enumerate(some):
                _update(layers[place], network, sample_odds, hu, boxes[n], fills_hu[n])
            measured = None
            if network.measures is not None:
                changed = [_with_box(hu, boxes[n], fills_hu[n]) for n in some]
                measured = network.measured(sample_odds.input_of(torch.stack(changed)))
            found.append(network.forward_head(network.features_after(layers), measured).float().cpu())
        rows.append(torch.cat(found))
    return torch.stack(rows)


def _with_box(hu: Float[Tensor, "c z y x"], box: VoxelBox, fill_hu: float) -> Float[Tensor, "c z y x"]:
    changed = hu.clone()
    changed[(0, *box)] = fill_hu
    return changed


def _update(
    layer: Float[Tensor, "c _ _ _"],
    network: ResNet3D,
    sample_odds: SampleOdds,
    hu: Float[Tensor, "k z y x"],
    box: VoxelBox,
    fill_hu: float,
) -> None:
    """Compute the first layer again where a filled box of the input reaches, in place."""
    crop: list[slice] = []
    within: list[slice] = []
    inner: list[slice] = []
    outer: list[slice] = []
    for side, length, kernel, stride in zip(
        box, hu.shape[1:], network.conv1.kernel_size, network.conv1.stride, strict=True
    ):
        reach = kernel // 2
        margin = -(-reach // stride) * stride  # a multiple of the stride, for the same voxels to be computed
        low = max(0, -(-(side.start - reach) // stride))
        high = min((side.stop - 1 + reach) // stride, (length - 1) // stride)
        start = max(0, low * stride - margin)
        crop.append(slice(start, min(length, high * stride + margin + 1)))
        within.append(slice(side.start - start, side.stop - start))
        inner.append(slice(low - start // stride, high - start // stride + 1))
        outer.append(slice(low, high + 1))
    from_z, from_y, from_x = crop
    part = hu[:, from_z, from_y, from_x].clone()
    in_z, in_y, in_x = within
    part[0, in_z, in_y, in_x] = fill_hu
    computed = network.first_layer(sample_odds.input_of(part[None]))[0]
    (z, y, x), (to_z, to_y, to_x) = inner, outer
    layer[:, to_z, to_y, to_x] = computed[:, z, y, x]


def _box(start: Sequence[int], size: Sequence[int]) -> VoxelBox:
    z, y, x = (slice(int(s), int(s) + n) for s, n in zip(start, size, strict=True))
    return z, y, x


def _overlap(box: VoxelBox, grid: VoxelBox) -> VoxelBox | None:
    """The part of a box that lies in a grid, in the grid's own voxels; None if there is none."""
    low = [max(b.start, g.start) - g.start for b, g in zip(box, grid, strict=True)]
    high = [min(b.stop, g.stop) - g.start for b, g in zip(box, grid, strict=True)]
    if any(a >= b for a, b in zip(low, high, strict=True)):
        return None
    z, y, x = (slice(a, b) for a, b in zip(low, high, strict=True))
    return z, y, x
