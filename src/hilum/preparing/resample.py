"""Samples a scan on another grid in one interpolation, with a low-pass along axes that lose resolution."""

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
"""Grids whose axes stray by less than this many voxels over their length count as parallel."""

_COLUMNS = 1024
"""Of a matrix product at a time: small ones stay on the core that asks, large ones OpenBLAS would spread over all."""

_TILE = (16, 64, 64)
"""Voxels of an oblique grid that are sampled at a time: few, so that they need a small box of the scan."""

_SPLINE_REACH = 16
"""Old voxels beyond a box that still count for a cubic spline inside it: the rest is below 1e-9."""


def resample(
    volume: Volume, spacing_mm: ArrayLike, *, outside: Outside = "air", interpolation: Interpolation = "linear"
) -> Volume:
    """The scan at a new voxel spacing on the same axes, keeping its centre.

    Each new voxel is the mean of the interpolated scan over its length, so that nothing small is missed.

    Args:
        volume: Any orientation.
        spacing_mm: Wanted (z, y, x) spacing, in mm.
        outside: What lies beyond the scan.
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
    """HU of a scan at the voxels of another grid.

    Parallel grids, nearly all of them, take one small matrix for each axis; oblique and sheared ones a general
    interpolation of the part of the scan that they need.

    Args:
        volume: The scan.
        affine: The other grid, index (z, y, x) to LPS mm.
        shape: Its voxels (z, y, x).
        outside: What lies beyond the scan: air, or the nearest voxel.
        interpolation: ``linear``; ``cubic``, sharper and with a slight overshoot at edges; ``nearest``, which makes
            no new values and has no low-pass: for labels.
        air: What air is; 0 for masks.
    """
    to_source = np.linalg.inv(volume.affine) @ affine
    matrix, offset = to_source[:3, :3], to_source[:3, 3]
    order = np.abs(matrix).argmax(axis=0)  # for each new axis, the old one that it runs along
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
    """Where a mask on a grid of its own covers at least half of a voxel of another grid; nothing lies outside it."""
    inside = Volume(voxels_hu=mask.astype(np.int16), affine=own)
    share = sample(inside, affine, shape, air=0.0)
    return np.asarray(share >= 0.5)


def _separable(voxels: Voxels, axes: list[Weights], air: float) -> Float32[np.ndarray, "_ _ _"]:
    """In the plane slice by slice, then along z; runs of new slices side by side, each with the old ones it needs."""
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

    _side_by_side(run, along_z.blocks)
    lacking = [1 - axis.inside for axis in axes]
    if any(np.abs(each).max() > 1e-6 for each in lacking):  # dropped weights are air's
        z, y, x = (axis.inside.astype(np.float32) for axis in axes)
        out += np.float32(air) * (1 - z[:, None, None] * y[:, None] * x)
    return out


def _side_by_side(run: Any, blocks: Any) -> None:
    """Independent pieces of work on all cores: NumPy's matrix products release the interpreter."""
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
    """A rotated or sheared grid, tile by tile; new voxels longer than wide are sampled at several places along them."""
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

    _side_by_side(run, tiles)
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
    """Some voxels of an oblique grid: the box of the scan that they need, averaged along its axes, interpolated."""
    corners = np.array(list(np.ndindex(2, 2, 2))) * (np.array(out.shape) - 1) @ matrix.T
    around = (1, 2, 0, _SPLINE_REACH)[order] + np.ceil(lengths / 2)
    last = np.array(voxels.shape) - 1
    low = np.clip(np.floor(corners.min(axis=0) + np.min(offsets, axis=0) - around), 0, last).astype(int)
    high = np.clip(np.ceil(corners.max(axis=0) + np.max(offsets, axis=0) + around), low, last).astype(int) + 1
    box = voxels[tuple(slice(a, b) for a, b in zip(low, high, strict=True))].astype(np.float32)
    if outside == "air":
        box -= np.float32(air)  # so that nothing is air
    for axis, length in enumerate(lengths):
        if length > 1:
            reach = int(np.ceil((length - 1) / 2))
            share = np.clip(length / 2 + 0.5 - np.abs(np.arange(-reach, reach + 1)), 0, 1) / length
            box = ndimage.correlate1d(box, share, axis, mode="nearest" if outside == "edge" else "constant")
    mode = "nearest" if outside == "edge" else "grid-constant"
    if order == 3:
        padding = 0 if outside == "edge" else _SPLINE_REACH  # of air, which the spline must see
        box = ndimage.spline_filter(np.pad(box, padding), order=3, output=np.float32, mode="mirror")
        low = low - padding
    for offset in offsets:
        out += ndimage.affine_transform(
            box, matrix, offset - low, out.shape, output=np.float32, order=order, mode=mode, prefilter=False
        )
    out /= len(offsets)
    if outside == "air":
        out += np.float32(air)
