"""Resampling weights along one axis: the interpolated scan, averaged over each new voxel."""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float, Float32

Interpolation: TypeAlias = Literal["linear", "cubic", "nearest"]
Outside: TypeAlias = Literal["air", "edge"]

_ROWS = 8
"""New voxels in a block of weights: few, so that blocks are narrow, but enough for a matrix product to be fast."""

_AVERAGED = 0.2
"""Logarithm of the ratio of voxel sizes from which new voxels are averaged over their whole length (rule of thumb);
below it the length shrinks in proportion, to none for equal sizes."""

_REACH = {"linear": 1.0, "cubic": 2.0}
"""Half width of a kernel, in old voxels."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Weights:
    """A banded matrix from old to new voxels along one axis, stored as blocks around the diagonal.

    Attributes:
        blocks: For a run of new voxels each: their range, the range of old voxels that they need, and the weights.
        inside: Sum of the weights of each new voxel: below 1 where a part of it lies outside the scan.
    """

    blocks: tuple[tuple[slice, slice, Float32[np.ndarray, "_ _"]], ...]
    inside: Float[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.inside)


def weights(
    centres: Float[np.ndarray, " n"], step: float, num_source: int, *, interpolation: Interpolation, outside: Outside
) -> Weights:
    """Weight of each old voxel in each new one along one axis.

    A new voxel is the mean of the interpolated scan over its length, which is a low-pass where resolution is lost. The
    weights sum to 1 and are balanced about the centre, and each old voxel has the same total weight in the new ones:
    linear ramps are reproduced exactly, and a nodule keeps its mass wherever it lies between the voxels. Voxels of
    equal size are not averaged: the same grid gives the same voxels.

    Args:
        centres: Centres of the new voxels, in old voxels.
        step: Distance between new voxels, in old voxels; may be negative.
        num_source: Number of old voxels.
        interpolation: ``linear``, ``cubic`` (Keys 1981 with a = -0.5, doi:10.1109/TASSP.1981.1163711) or ``nearest``.
        outside: Weights beyond the scan are dropped (air) or given to the nearest voxel (edge).
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
    """Length over which a new voxel is averaged, in old voxels: its own, or less if both are of similar size.

    Averaging over less than the full length gives some old voxels more weight than others, here by less than 2 %.
    """
    return step * min(1.0, abs(float(np.log(step))) / _AVERAGED)


def _mean(distance: np.ndarray, length: float, *, cubic: bool) -> np.ndarray:
    """Mean of the kernel over a length around each distance."""
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
    """Integral of the linear kernel from 0 to x."""
    d = np.minimum(np.abs(x), 1.0)
    integral: np.ndarray = np.sign(x) * (d - d * d / 2)
    return integral


def _keys_integral(x: np.ndarray) -> np.ndarray:
    """Integral of Keys' cubic kernel from 0 to x."""
    d = np.minimum(np.abs(x), 2.0)
    near = ((0.375 * d - 2.5 / 3) * d * d + 1) * d
    far = (((-0.125 * d + 2.5 / 3) * d - 2) * d + 2) * d - 1 / 6
    integral: np.ndarray = np.sign(x) * np.where(d < 1, near, far)
    return integral
