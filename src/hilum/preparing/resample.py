"""Resamples a scan to another grid in one interpolation, with a low-pass along axes that lose resolution."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float32, UInt8
from scipy import ndimage

from hilum.arrays import ArrayLike, three
from hilum.errors import ConfigError
from hilum.files import cores
from hilum.preparing.kernels import Interpolation, Outside, Weights, averaged, weights
from hilum.volume import AIR_HU, Affine, Volume, Voxels

_ALIGNED_VOXELS = 1e-3
"""Largest deviation of the axes over the length of the grids, in voxels, at which they count as parallel."""

_COLUMNS = 1024
"""Columns of a matrix product: OpenBLAS computes small products on one core and would spread larger ones over all."""

_TILE = (16, 64, 64)
"""Voxels of an oblique grid that are sampled at a time: few, so that they need a small box of the scan."""

_SPLINE_REACH = 16
"""Margin of a box, in old voxels, for the prefilter of a cubic spline, whose response beyond it is below 1e-9."""


def resample(
    volume: Volume, spacing_mm: ArrayLike, *, outside: Outside = "air", interpolation: Interpolation = "linear"
) -> Volume:
    """Resample a scan to a new voxel spacing along the same axes, keeping its centre.

    Each new voxel is the mean of the interpolated scan over its length, so that small structures are not missed.

    Args:
        volume: Any orientation.
        spacing_mm: New (z, y, x) spacing, in mm.
        outside: Filling beyond the scan.
        interpolation: See ``sample``.

    Returns:
        A float32 volume of shape round(old shape * old spacing / new spacing), at least 1.

    Raises:
        ConfigError: If a spacing is not positive.
        GeometryError: If there are not three of them.
    """
    spacing_mm = three(spacing_mm, "spacing_mm (z, y, x)")
    if not (np.isfinite(spacing_mm) & (spacing_mm > 0)).all():
        msg = f"spacing_mm must be positive (z, y, x), got {tuple(spacing_mm.tolist())}"
        raise ConfigError(msg)
    steps = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0) * spacing_mm
    shape = tuple(max(1, round(e / s)) for e, s in zip(volume.extent_mm, spacing_mm, strict=True))
    affine = grid_around(volume.centre_mm, steps, shape)
    hu = sample(volume, affine, shape, outside=outside, interpolation=interpolation)
    lungs = None if volume.lungs is None else sample_mask(volume.lungs, volume.affine, affine, shape).astype(np.uint8)
    made = []
    for axis, index in volume.interpolated:
        step = spacing_mm[axis] / volume.spacing_mm[axis]
        place = (np.arange(shape[axis]) - (shape[axis] - 1) / 2) * step + (volume.shape[axis] - 1) / 2
        made += [(axis, int(i)) for i in np.flatnonzero(np.abs(place - index) <= max(1.0, step) / 2)]
    return replace(volume, voxels_hu=hu, affine=affine, lungs=lungs, interpolated=tuple(made))


def grid_around(
    centre_mm: Float[np.ndarray, "3"], steps_mm: Float[np.ndarray, "3 3"], shape: tuple[int, ...]
) -> Affine:
    """Affine of a grid with the given step vectors (columns z, y, x; rows LPS x, y, z) around a centre."""
    affine = np.eye(4)
    affine[:3, :3] = steps_mm
    affine[:3, 3] = centre_mm - steps_mm @ ((np.array(shape) - 1) / 2)
    return affine


def sample(
    volume: Volume,
    affine: Affine,
    shape: tuple[int, ...],
    *,
    outside: Outside = "air",
    interpolation: Interpolation = "linear",
    air: float = float(AIR_HU),
) -> Float32[np.ndarray, "z y x"]:
    """Sample the HU of a scan on another grid.

    Parallel grids, the usual case, need one small matrix for each axis; oblique and sheared ones a general
    interpolation of the part of the scan that they need.

    Args:
        volume: The scan.
        affine: The other grid, index (z, y, x) to LPS mm.
        shape: Its voxels (z, y, x).
        outside: Filling beyond the scan: air, or the nearest voxel.
        interpolation: ``linear``; ``cubic``, sharper, with a slight overshoot at edges; ``nearest``, for labels,
            without new values and without low-pass.
        air: Value of air; 0 for masks.
    """
    to_source = np.linalg.inv(volume.affine) @ affine
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    order = np.abs(matrix).argmax(axis=0)  # for each new axis, the old axis most nearly parallel to it
    along = matrix[order, range(3)]
    stray = np.abs(matrix)
    stray[order, range(3)] = 0
    if sorted(order) != [0, 1, 2] or (stray * np.array(shape)).max() >= _ALIGNED_VOXELS:
        edges_mm = np.linalg.norm(affine[:3, :3], axis=0)
        return _general(volume.voxels_hu, matrix, offset, shape, edges_mm, outside, interpolation, air)
    voxels = volume.voxels_hu.transpose(order)
    axes = [
        weights(
            offset[order[axis]] + along[axis] * np.arange(shape[axis]),
            float(along[axis]),
            voxels.shape[axis],
            interpolation=interpolation,
            outside=outside,
        )
        for axis in range(3)
    ]
    return _separable(voxels, axes, air)


def sample_mask(
    mask: Bool[np.ndarray, "_ _ _"] | UInt8[np.ndarray, "_ _ _"], own: Affine, affine: Affine, shape: tuple[int, ...]
) -> Bool[np.ndarray, "z y x"]:
    """Voxels of another grid of which a mask covers at least half; the mask is 0 outside its own grid."""
    inside = Volume(voxels_hu=mask.astype(np.int16), affine=own)
    share = sample(inside, affine, shape, air=0.0)
    return np.asarray(share >= 0.5)


def _separable(voxels: Voxels, axes: list[Weights], air: float) -> Float32[np.ndarray, "_ _ _"]:
    """Resample in the plane, then along z; blocks of new slices run in parallel, each on the old slices it needs."""
    along_z, along_y, along_x = axes
    out = np.zeros((len(along_z), len(along_y), len(along_x)), np.float32)
    if not (along_z.blocks and along_y.blocks and along_x.blocks):
        return np.full(out.shape, air, np.float32)
    rows = slice(min(b[1].start for b in along_y.blocks), max(b[1].stop for b in along_y.blocks))
    columns = slice(min(b[1].start for b in along_x.blocks), max(b[1].stop for b in along_x.blocks))
    turned = [(new, slice(old.start - columns.start, old.stop - columns.start), np.ascontiguousarray(w.T))
              for new, old, w in along_x.blocks]  # fmt: skip

    def run(block: tuple[slice, slice, np.ndarray]) -> None:
        new, old, weight = block
        planes = np.zeros((old.stop - old.start, len(along_y), len(along_x)), np.float32)
        tall = np.zeros((len(along_y), columns.stop - columns.start), np.float32)
        for plane, source in zip(planes, voxels[old, rows, columns], strict=True):
            hu = np.ascontiguousarray(source, np.float32)
            for new_y, old_y, w in along_y.blocks:
                np.matmul(w, hu[old_y.start - rows.start : old_y.stop - rows.start], out=tall[new_y])
            for new_x, old_x, w in turned:
                np.matmul(tall[:, old_x], w, out=plane[:, new_x])
        flat, done = planes.reshape(len(planes), -1), out[new].reshape(new.stop - new.start, -1)
        for start in range(0, flat.shape[1], _COLUMNS):
            part = slice(start, start + _COLUMNS)
            np.matmul(weight, flat[:, part], out=done[:, part])

    _in_parallel(run, along_z.blocks)
    missing = [1 - axis.inside for axis in axes]
    if any(np.abs(each).max() > 1e-6 for each in missing):  # dropped weights stand for air
        z, y, x = (axis.inside.astype(np.float32) for axis in axes)
        out += np.float32(air) * (1 - z[:, None, None] * y[:, None] * x)
    return out


def _in_parallel(run: Any, blocks: Any) -> None:
    """Process independent blocks on all cores: NumPy's matrix products release the interpreter lock."""
    if len(blocks) == 1 or cores() == 1:
        for block in blocks:
            run(block)
        return
    with ThreadPoolExecutor(min(len(blocks), cores())) as pool:
        list(pool.map(run, blocks))


def _general(
    voxels: Voxels,
    matrix: Float[np.ndarray, "3 3"],
    offset: Float[np.ndarray, "3"],
    shape: tuple[int, ...],
    edges_mm: Float[np.ndarray, "3"],
    outside: Outside,
    interpolation: Interpolation,
    air: float,
) -> Float32[np.ndarray, "_ _ _"]:
    """Sample a rotated or tilted (sheared) grid by tiles; a long voxel is the mean of several positions along it."""
    out = np.zeros(shape, np.float32)
    times = np.round(edges_mm / edges_mm.min()).astype(int)
    times[(np.linalg.norm(matrix, axis=0) <= 1) | (interpolation == "nearest")] = 1
    places = (np.array(list(np.ndindex(*times))) + 0.5) / times - 0.5
    tiles = list(itertools.product(*(range(0, n, most) for n, most in zip(shape, _TILE, strict=True))))
    lengths = np.zeros(3)
    if interpolation != "nearest":
        lengths = np.array([averaged(float(step)) for step in np.linalg.norm(matrix / times, axis=1)])
    sampled = partial(
        _tile,
        voxels=voxels,
        matrix=matrix,
        lengths=lengths,
        outside=outside,
        order={"nearest": 0, "linear": 1, "cubic": 3}[interpolation],
        air=air,
    )

    def run(start: tuple[int, ...]) -> None:
        part = tuple(slice(first, first + most) for first, most in zip(start, _TILE, strict=True))
        sampled(out[part], offsets=[offset + matrix @ (place + start) for place in places])

    _in_parallel(run, tiles)
    return out


def _tile(
    out: np.ndarray,
    *,
    voxels: Voxels,
    matrix: np.ndarray,
    offsets: list[np.ndarray],
    lengths: np.ndarray,
    outside: Outside,
    order: int,
    air: float,
) -> None:
    """Sample a tile of an oblique grid: crop the box of the scan that it needs, average along its axes, interpolate."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(out.shape) - 1) @ matrix.T
    around = (1, 2, 0, _SPLINE_REACH)[order] + np.ceil(lengths / 2)
    last = np.array(voxels.shape) - 1
    low = np.clip(np.floor(corners.min(axis=0) + np.min(offsets, axis=0) - around), 0, last).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0) + np.max(offsets, axis=0) + around), low, last).astype(int) + 1
    box = voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
    if outside == "air":
        box -= np.float32(air)  # so that zero padding is air
    for axis, length in enumerate(lengths):
        if length > 1:
            reach = int(np.ceil((length - 1) / 2))
            share = np.clip(length / 2 + 0.5 - np.abs(np.arange(-reach, reach + 1)), 0, 1) / length
            box = ndimage.correlate1d(box, share, axis, mode="nearest" if outside == "edge" else "constant")
    mode = "nearest" if outside == "edge" else "grid-constant"
    if order == 3:
        padding = 0 if outside == "edge" else _SPLINE_REACH  # air that the spline must include
        box = ndimage.spline_filter(np.pad(box, padding), order=3, output=np.float32, mode="mirror")
        low = low - padding
    for offset in offsets:
        out += ndimage.affine_transform(
            box, matrix, offset - low, out.shape, output=np.float32, order=order, mode=mode, prefilter=False
        )
    out /= len(offsets)
    if outside == "air":
        out += np.float32(air)
