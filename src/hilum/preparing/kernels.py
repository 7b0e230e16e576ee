"""Weights of old voxels in new ones along one axis: the interpolated scan, averaged over each new voxel."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32

Interpolation: TypeAlias = Literal["linear", "cubic", "nearest"]
Outside: TypeAlias = Literal["air", "edge"]

_ROWS = 8
"""New voxels that share a block of weights: few, so that blocks are narrow; enough for a matrix product to pay."""

_AVERAGED = 0.2
"""Voxels this much larger or smaller, as a logarithm, are averaged over their whole length; equal ones not at all."""

_REACH = {"linear": 1.0, "cubic": 2.0}
"""The distance at which a kernel ends, in old voxels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weights:
    """A matrix from old to new voxels along one axis, of which only the blocks around the diagonal are kept.

    Attributes:
        blocks: For each run of new voxels: which they are, which old ones they need, and the weights.
        inside: For each new voxel, the sum of its weights: below 1 where a part of it lies outside the scan.
    """

    blocks: tuple[tuple[slice, slice, Float32[np.ndarray, "_ _"]], ...]
    inside: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.inside)


def weights(
    centres: Float[np.ndarray, " n"], step: float, num_source: int, *, interpolation: Interpolation, outside: Outside
) -> Weights:
    """Weight of each old voxel for each new one along one axis.

    A new voxel is the mean of the interpolated scan over its length, which is the low-pass where resolution is lost.
    The weights so sum to 1 and balance about the centre, and each old voxel has the same weight in all new ones
    together: linear ramps come back exactly, and a nodule keeps its mass wherever it lies between the voxels. Where
    the voxels are equally large nothing is averaged: the same grid gives the same voxels.

    Args:
        centres: Where the new voxels lie, in old voxels.
        step: From one new voxel to the next, in old voxels; may be negative.
        num_source: Old voxels.
        interpolation: ``linear``, ``cubic`` (Keys 1981 with a = -0.5, doi:10.1109/TASSP.1981.1163711) or ``nearest``.
        outside: What lies beyond the scan: its weights are dropped (air) or given to the nearest voxel (edge).
    """
    if interpolation == "nearest":
        taps = np.floor(centres + 0.5).astype(int)[:, None]
        weight = np.ones(taps.shape)
    else:
        length = averaged(abs(step))
        reach = _REACH[interpolation] + length / 2
        taps = np.ceil(centres - reach).astype(int)[:, None] + np.arange(int(2 * reach) + 2)
        weight = _mean(taps - centres[:, None], length, cubic=interpolation == "cubic")
    kept = (taps >= 0) & (taps < num_source) if outside == "air" else np.ones(taps.shape, bool)
    weight, taps = np.where(kept, weight, 0.0), np.clip(taps, 0, num_source - 1)
    blocks = []
    for start in range(0, len(centres), _ROWS):
        rows = slice(start, min(start + _ROWS, len(centres)))
        low, high = int(taps[rows].min()), int(taps[rows].max()) + 1
        block = np.zeros((rows.stop - start, high - low))
        np.add.at(block, (np.arange(len(block))[:, None], taps[rows] - low), weight[rows])
        used = np.flatnonzero(block.any(axis=0))
        if len(used):
            columns = slice(low + int(used[0]), low + int(used[-1]) + 1)
            blocks.append((rows, columns, block[:, used[0] : used[-1] + 1].astype(np.float32)))
    return Weights(blocks=tuple(blocks), inside=weight.sum(axis=1))


def averaged(step: float) -> float:
    """Over which length a new voxel is averaged, in old voxels: its own, but less where it is as large as an old one.

    Averaging over another length than its own gives some old voxels more weight than others, by less than 2 % here.
    """
    return step * min(1.0, abs(float(np.log(step))) / _AVERAGED)


def _mean(distance: np.ndarray, length: float, *, cubic: bool) -> np.ndarray:
    """The kernel averaged over a length around each distance."""
    if length < 1e-3:
        return _keys(distance) if cubic else np.maximum(0.0, 1.0 - np.abs(distance))
    integral = _keys_integral if cubic else _tent_integral
    mean: np.ndarray = (integral(distance + length / 2) - integral(distance - length / 2)) / length
    return mean


def _keys(distance: np.ndarray) -> np.ndarray:
    d = np.abs(distance)
    near = (1.5 * d - 2.5) * d * d + 1
    far = ((-0.5 * d + 2.5) * d - 4) * d + 2
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def _tent_integral(x: np.ndarray) -> np.ndarray:
    """From 0 to x."""
    d = np.minimum(np.abs(x), 1.0)
    integral: np.ndarray = np.sign(x) * (d - d * d / 2)
    return integral


def _keys_integral(x: np.ndarray) -> np.ndarray:
    """From 0 to x."""
    d = np.minimum(np.abs(x), 2.0)
    near = ((0.375 * d - 2.5 / 3) * d * d + 1) * d
    far = (((-0.125 * d + 2.5 / 3) * d - 2) * d + 2) * d - 1 / 6
    integral: np.ndarray = np.sign(x) * np.where(d < 1, near, far)
    return integral
