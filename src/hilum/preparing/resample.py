"""Samples a scan on another grid in one interpolation, with a low-pass along axes that lose resolution."""

from dataclasses import replace
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32
from scipy import ndimage

from hilum.errors import ConfigError
from hilum.volume import AIR_HU, Affine, Triple, Volume, Voxels

Outside = Literal["air", "edge"]

_ALIGNED_VOXELS = 1e-3
"""Grids whose axes stray by less than this many voxels over their length count as parallel."""


def resample(volume: Volume, spacing_mm: Triple, *, outside: Outside = "air") -> Volume:
    """The scan at a new voxel spacing on the same axes, keeping its centre.

    Linear interpolation; a tent as wide as the new voxel where resolution is lost, so that nothing aliases.

    Args:
        volume: Any orientation.
        spacing_mm: Wanted (z, y, x) spacing, in mm.
        outside: What lies beyond the scan.

    Returns:
        A float32 volume of shape round(old shape * old spacing / new spacing), at least 1.

    Raises:
        ConfigError: If a spacing is not positive.
    """
    if not all(np.isfinite(s) and s > 0 for s in spacing_mm):
        msg = f"spacing_mm must be positive (z, y, x), got {spacing_mm}"
        raise ConfigError(msg)
    steps = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0) * np.array(spacing_mm)
    shape = tuple(max(1, round(e / s)) for e, s in zip(volume.extent_mm, spacing_mm, strict=True))
    affine = grid_around(volume.centre_mm, steps, shape)
    return replace(volume, voxels_hu=sample(volume, affine, shape, outside=outside), affine=affine)


def grid_around(
    centre_mm: Float[np.ndarray, "3"], steps_mm: Float[np.ndarray, "3 3"], shape: tuple[int, ...]
) -> Affine:
    """Affine of a grid with the given step vectors (columns z, y, x; rows LPS x, y, z) around a centre."""
    affine = np.eye(4)
    affine[:3, :3] = steps_mm
    affine[:3, 3] = centre_mm - steps_mm @ ((np.array(shape) - 1) / 2)
    return affine


def sample(
    volume: Volume, affine: Affine, shape: tuple[int, ...], *, outside: Outside = "air"
) -> Float32[np.ndarray, "z y x"]:
    """HU of a scan at the voxels of another grid.

    Parallel grids, nearly all of them, take one small matrix for each axis; oblique and sheared ones a general
    interpolation.

    Args:
        volume: The scan.
        affine: The other grid, index (z, y, x) to LPS mm.
        shape: Its voxels (z, y, x).
        outside: What lies beyond the scan: air, or the nearest voxel.
    """
    to_source = np.linalg.inv(volume.affine) @ affine
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    stray = np.abs(matrix - np.diag(np.diag(matrix))) * np.array(shape)
    if stray.max() < _ALIGNED_VOXELS and np.diag(matrix).min() > 0:
        weights = [
            _weights(offset[axis] + matrix[axis, axis] * np.arange(shape[axis]), matrix[axis, axis], n, outside)
            for axis, n in enumerate(volume.shape)
        ]
        return _separable(volume.voxels_hu, weights)
    return _general(volume.voxels_hu, matrix, offset, shape, outside)


def _weights(
    centres: Float[np.ndarray, " n"], step: float, num_source: int, outside: Outside
) -> Float32[np.ndarray, "n m"]:
    """Weight of each source voxel for each new voxel along one axis.

    A tent of half width max(1, step) source voxels: linear interpolation where resolution is kept or gained, and
    the matching low-pass where it is lost. What falls outside is dropped (air) or given to the nearest voxel (edge).
    """
    width = max(1.0, step)
    first = np.ceil(centres - width).astype(int)
    taps = first[:, None] + np.arange(int(2 * width) + 2)
    weight = np.maximum(0.0, 1 - np.abs(taps - centres[:, None]) / width)
    weight /= weight.sum(axis=1, keepdims=True)
    matrix = np.zeros((len(centres), num_source), np.float32)
    rows = np.broadcast_to(np.arange(len(centres))[:, None], taps.shape)
    inside = (taps >= 0) & (taps < num_source) if outside == "air" else np.ones(taps.shape, bool)
    np.add.at(matrix, (rows[inside], np.clip(taps, 0, num_source - 1)[inside]), weight[inside])
    return matrix


def _separable(voxels: Voxels, weights: list[Float32[np.ndarray, "_ _"]]) -> Float32[np.ndarray, "_ _ _"]:
    """Slice by slice in the plane, then along z; only voxels with a weight are read."""
    used = []
    for matrix in weights:
        columns = np.flatnonzero(matrix.any(axis=0))
        used.append(slice(int(columns[0]), int(columns[-1]) + 1) if len(columns) else slice(0, 0))
    along_z, along_y, along_x = (matrix[:, box] for matrix, box in zip(weights, used, strict=True))
    box = voxels[tuple(used)]
    planes = np.empty((box.shape[0], len(along_y), len(along_x)), np.float32)
    columns = np.ascontiguousarray(along_x.T)
    for z in range(box.shape[0]):
        planes[z] = along_y @ ((box[z].astype(np.float32) - AIR_HU) @ columns)  # air is 0, so dropped taps are air
    height, width = planes.shape[1:]
    out: np.ndarray = (along_z @ planes.reshape(-1, height * width)).reshape(-1, height, width)
    out += AIR_HU
    return out


def _general(
    voxels: Voxels,
    matrix: Float[np.ndarray, "3 3"],
    offset: Float[np.ndarray, "3"],
    shape: tuple[int, ...],
    outside: Outside,
) -> Float32[np.ndarray, "_ _ _"]:
    """Linear interpolation on a rotated or sheared grid, after a tent along each source axis that loses resolution."""
    source = voxels.astype(np.float32) - AIR_HU
    mode = "nearest" if outside == "edge" else "constant"
    for axis, step in enumerate(np.abs(matrix).max(axis=1)):
        if step > 1:
            reach = int(np.ceil(step)) - 1
            tent = np.maximum(0, 1 - np.abs(np.arange(-reach, reach + 1)) / step)
            source = ndimage.correlate1d(source, tent / tent.sum(), axis, mode=mode)
    out: np.ndarray = ndimage.affine_transform(
        source,
        matrix,
        offset,
        shape,
        output=np.float32,
        order=1,
        mode="nearest" if outside == "edge" else "grid-constant",
    )
    out += AIR_HU
    return out
