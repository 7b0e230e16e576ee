"""Tests whether a map says anything: by deleting and inserting what it shows, and by losing the model's weights.

Deletion and insertion: Petsiuk et al. 2018 (arXiv:1806.07421). Randomised weights: Adebayo et al. 2018
(arXiv:1810.03292).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from jaxtyping import Float32
from scipy import ndimage, stats
from torch import Tensor, nn

from hilum.modelling.ensemble import Network, members_of
from hilum.modelling.resnet import ResNet3D
from hilum.predicting.explain.sample_odds import SampleOdds, VoxelBox
from hilum.randomness import generator, torch_seed
from hilum.settings.recipe import Triple

_PARTS = ("head", "layer4", "layer3", "layer2", "layer1", "stem")
"""Parts of a network in the order in which their weights are lost."""

_POINTS = 12
"""Points of a curve."""

_PART = 0.1
"""Share of the image that is deleted or put back (rule of thumb): more makes images that no scanner makes, and that a
network may take for anything."""

_ORDERS = 3
"""Random orders whose curves are averaged."""

_ALIKE = 0.5
"""Rank correlation from which a map of random weights counts as the same map, or its negative (rule of thumb)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """Log odds while the first tenth of the image is replaced by its blurred self cube by cube, or put back.

    Attributes:
        shares: Share of the cubes that are replaced, or put back.
        deletion: Log odds when the cubes are replaced in the order of the map, largest values first.
        insertion: Log odds when they are put back into the blurred image in this order.
        random_deletion: Mean over random orders.
        random_insertion: Mean over random orders.
    """

    shares: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]
    random_deletion: tuple[float, ...]
    random_insertion: tuple[float, ...]

    @property
    def deletion_fall(self) -> float:
        """Mean of the log odds by which deletion in the map's order lowers the output; negative where it rises."""
        return self.deletion[0] - _mean(self.shares, self.deletion)

    @property
    def deletion_gain(self) -> float:
        """Mean of the log odds by which deletion in the map's order stays below random orders; positive is good."""
        return _mean(self.shares, self.random_deletion) - _mean(self.shares, self.deletion)

    @property
    def insertion_gain(self) -> float:
        """Mean of the log odds by which insertion in the map's order exceeds random orders; positive is good."""
        return _mean(self.shares, self.insertion) - _mean(self.shares, self.random_insertion)


@dataclass(frozen=True, slots=True, kw_only=True)
class SanityCheck:
    """What the tests of a map found.

    Attributes:
        curves: Of the map.
        random_gain: Deletion gain in the TRAINED network of a map that a network of random weights made.
        correlations: Rank correlation of the map with that after the weights of these parts were lost, from the head
            down; the last part is the stem, after which no trained weight is left.
    """

    curves: Curves
    random_gain: float
    correlations: dict[str, float]

    @property
    def holds(self) -> bool:
        """Whether the map depends on the weights, and deleting what it shows lowers the output more than others do."""
        lowers = self.curves.deletion_fall > 0 and self.curves.deletion_gain > max(0.0, self.random_gain)
        return self._changes and lowers

    @property
    def _changes(self) -> bool:
        return abs(list(self.correlations.values())[-1]) < _ALIKE

    @property
    def verdict(self) -> str:
        """The same in sentences, with what putting back alone what the map shows does."""
        more = "raises" if self.curves.insertion_gain > 0 else "does not raise"
        back = f" Putting it back into a blurred image {more} the output more than chance does."
        if not self._changes:
            return "This map does not change when the weights are lost, and says nothing."
        if self.curves.deletion_fall <= 0:
            return f"Deleting what this map shows does not lower the output: it says nothing.{back}"
        if not self.holds:
            told = "Deleting what this map shows lowers the output no more than chance or lost weights"
            return f"{told}: it says nothing.{back}"
        told = (
            "This map changes when the weights are lost, and deleting what it shows lowers the output more than chance"
        )
        return f"{told}.{back}"


def curves_of(
    sample_odds: SampleOdds, values: Float32[np.ndarray, "z y x"], patch_mm: float, spacing_mm: Triple, *, seed: int = 0
) -> Curves:
    """Deletion and insertion curves of the first output.

    Args:
        sample_odds: The model and the sample.
        values: The map.
        patch_mm: Edge of the cubes, and standard deviation of the blur.
        spacing_mm: Of the sample's voxels.
        seed: Of the random orders.
    """
    plan = _plan(sample_odds, values, patch_mm, spacing_mm, seed)
    hu, blurred = plan.hu, plan.blurred
    deleted = np.array([_odds(sample_odds, _replaced(hu, blurred, plan, order)) for order in plan.orders])
    inserted = np.array([_odds(sample_odds, _replaced(blurred, hu, plan, order)) for order in plan.orders])
    return Curves(
        shares=plan.shares,
        deletion=tuple(deleted[0].tolist()),
        insertion=tuple(inserted[0].tolist()),
        random_deletion=tuple(deleted[1:].mean(axis=0).tolist()),
        random_insertion=tuple(inserted[1:].mean(axis=0).tolist()),
    )


def deletion_gain(
    sample_odds: SampleOdds, values: Float32[np.ndarray, "z y x"], patch_mm: float, spacing_mm: Triple, *, seed: int = 0
) -> float:
    """``Curves.deletion_gain`` without the other curves; arguments are those of ``curves_of``."""
    plan = _plan(sample_odds, values, patch_mm, spacing_mm, seed)
    means = [_mean(plan.shares, _odds(sample_odds, _replaced(plan.hu, plan.blurred, plan, o))) for o in plan.orders]
    return float(np.mean(means[1:])) - means[0]


def randomised(network: Network, *, seed: int = 0) -> Iterator[tuple[str, Network]]:
    """Copies of a network whose weights are lost part by part, from the head down, with the part that was last.

    Every layer is as new: weights are random, and norms know no mean and variance.
    """
    lost = copy.deepcopy(network)
    for number, part in enumerate(_PARTS):
        with torch.random.fork_rng(), torch.no_grad():
            torch.manual_seed(torch_seed(seed, "randomised", number))
            for member in members_of(lost):
                for layer in (layer for module in _modules(member, part) for layer in module.modules()):
                    if next(layer.parameters(recurse=False), None) is not None:
                        cast("nn.Linear", layer).reset_parameters()  # every layer with weights has it
        yield part, lost


def check_map(
    sample_odds: SampleOdds,
    values: Float32[np.ndarray, "z y x"],
    map_of: Callable[[SampleOdds], Float32[np.ndarray, "z y x"]],
    patch_mm: float,
    spacing_mm: Triple,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> SanityCheck:
    """Test a map of the first output.

    Args:
        sample_odds: The model and the sample.
        values: The map.
        map_of: Makes the same kind of map for another network.
        patch_mm: Edge of the cubes that are deleted.
        spacing_mm: Of the sample's voxels.
        progress: Called with the number of steps that are done, and of all.
    """
    correlations, other, steps = {}, values, len(_PARTS) + 1
    for done, (part, network) in enumerate(randomised(sample_odds.network), start=1):
        other = map_of(replace(sample_odds, network=network))
        correlations[part] = rank_correlation(values, other, patch_mm, spacing_mm)
        if progress is not None:
            progress(done, steps)
    return SanityCheck(
        curves=curves_of(sample_odds, values, patch_mm, spacing_mm),
        random_gain=deletion_gain(sample_odds, other, patch_mm, spacing_mm),
        correlations=correlations,
    )


def rank_correlation(
    one: Float32[np.ndarray, "z y x"], other: Float32[np.ndarray, "z y x"], patch_mm: float, spacing_mm: Triple
) -> float:
    """Spearman's correlation of the means in cubes, without those where both maps are 0, as in air; 0 if undefined."""
    boxes = _tiles(one.shape, [max(1, round(patch_mm / s)) for s in spacing_mm])
    pairs = np.array([(one[box].mean(), other[box].mean()) for box in boxes])
    pairs = pairs[(pairs != 0).any(axis=1)]
    if len(pairs) < 3 or not (pairs.std(axis=0) > 0).all():
        return 0.0
    return float(stats.spearmanr(pairs[:, 0], pairs[:, 1]).statistic)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Plan:
    """What is replaced when.

    Attributes:
        hu: The sample.
        blurred: The sample without detail.
        boxes: Cubes that together hold every voxel once.
        orders: Orders of the cubes: by the map, then random ones.
        counts: Numbers of replaced cubes at which the log odds are computed.
    """

    hu: Tensor
    blurred: Tensor
    boxes: list[VoxelBox]
    orders: list[list[int]]
    counts: list[int]

    @property
    def shares(self) -> tuple[float, ...]:
        return tuple(count / len(self.boxes) for count in self.counts)


def _plan(sample_odds: SampleOdds, values: np.ndarray, patch_mm: float, spacing_mm: Triple, seed: int) -> _Plan:
    boxes = _tiles(sample_odds.shape, [max(1, round(patch_mm / s)) for s in spacing_mm])
    ranked = np.argsort([-float(values[box].mean()) for box in boxes], kind="stable").tolist()
    random = generator(seed, "deletion")
    hu = sample_odds.hu.float()
    blurred = hu.clone()
    sigmas = [patch_mm / s for s in spacing_mm]
    blurred[0] = torch.from_numpy(ndimage.gaussian_filter(hu[0].numpy(), sigmas, mode="nearest"))
    return _Plan(
        hu=hu,
        blurred=blurred,
        boxes=boxes,
        orders=[ranked, *(random.permutation(len(boxes)).tolist() for _ in range(_ORDERS))],
        counts=np.unique(np.rint(np.linspace(0, max(1.0, _PART * len(boxes)), _POINTS + 1)).astype(int)).tolist(),
    )


def _replaced(hu: Tensor, by: Tensor, plan: _Plan, order: Sequence[int]) -> Iterator[Tensor]:
    """The sample after the first boxes of an order were replaced, for each count."""
    changed, done = hu.clone(), 0
    for count in plan.counts:
        for n in order[done:count]:
            changed[(0, *plan.boxes[n])] = by[(0, *plan.boxes[n])]
        done = count
        yield changed.clone()


def _odds(sample_odds: SampleOdds, samples: Iterator[Tensor]) -> list[float]:
    """Mean log odds of the first output by the members, for each sample."""
    logits = sample_odds.logits(one[(slice(None), *grid)] for one in samples for grid in sample_odds.grids)
    grids = len(sample_odds.starts)
    cases = (logits[:, first : first + grids] for first in range(0, logits.shape[1], grids))
    return [float(sample_odds.of_grids(case)[:, 0].mean()) for case in cases]


def _tiles(shape: Sequence[int], size: Sequence[int]) -> list[VoxelBox]:
    """Boxes side by side that hold every voxel once; the last ones are smaller."""
    axes = [[slice(a, min(a + s, n)) for a in range(0, n, s)] for n, s in zip(shape, size, strict=True)]
    return [(z, y, x) for z in axes[0] for y in axes[1] for x in axes[2]]


def _mean(shares: Sequence[float], odds: Sequence[float]) -> float:
    """Mean of a curve."""
    return float(np.trapezoid(odds, shares)) / shares[-1]


def _modules(network: ResNet3D, part: str) -> list[nn.Module]:
    if part == "head":
        return [network.fc, network.avgpool]
    if part == "stem":
        return [network.conv1, network.bn1]
    return [network.get_submodule(part)]
