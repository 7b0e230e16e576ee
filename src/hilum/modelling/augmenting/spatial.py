"""Spatial changes: a sample is cropped and flipped, then resampled once on one composed field in mm."""

import math
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float64
from torch import Tensor

from hilum.modelling.augmenting.changes import Change, Channels
from hilum.modelling.device import tensor_like
from hilum.settings.recipe import Triple
from hilum.volume import AIR_HU


def warp(
    x: Channels, change: Change, spacing_mm: Triple, *, outside: Literal["air", "edge"], num_images: int
) -> Channels:
    """Apply the spatial part of a change to a sample; without one the sample comes back bit for bit.

    Args:
        x: Images in HU, then masks, which are 0 outside the grid.
        change: The change drawn for this sample.
        spacing_mm: Spacing of the sample, (z, y, x).
        outside: The value of images beyond the grid, and beyond the extent that is kept.
        num_images: Number of channels that are images: they are interpolated linearly, masks by the nearest voxel.
    """
    if min(change.extent) < 1:
        x = _cropped(x, change.extent, outside, num_images)
    if any(change.flip):
        x = x.flip([1 + axis for axis, flipped in enumerate(change.flip) if flipped])
    if not change.resamples:
        return x
    grid = sampling_grid(change, x.shape[1:], spacing_mm, like=x)
    if outside == "edge":
        images = _sampled(x[:num_images], grid, "bilinear", "border")
    else:
        images = _sampled(x[:num_images] - AIR_HU, grid, "bilinear", "zeros").add_(AIR_HU)
    if len(x) == num_images:
        return images
    return torch.cat([images, _sampled(x[num_images:], grid, "nearest", "zeros")])


def sampling_grid(
    change: Change, shape: tuple[int, ...], spacing_mm: Triple, *, like: Tensor
) -> Float[Tensor, "z y x 3"]:
    """Input position of each output voxel in the coordinates of ``grid_sample``: (x, y, z), -1 to 1 over the extent.

    The position is A (p + u(p)), with A the affine map and u the elastic displacement, all in mm about the middle. A
    voxel needs only a sum of three numbers, in the same order for every batch: devices agree to the last digits.

    Args:
        change: The change drawn for this sample.
        shape: Shape of the sample, (z, y, x).
        spacing_mm: Spacing of the sample, (z, y, x).
        like: A tensor that gives the device and the type of the grid.
    """
    half = np.array(shape) * spacing_mm / 2
    matrix = _affine(change, half)
    parts = []
    for axis, (n, step) in enumerate(zip(shape, spacing_mm, strict=True)):
        places = (np.arange(n) - (n - 1) / 2) * step
        part = places[:, None] * matrix[:, axis] / half
        parts.append(part + matrix[:, 3] / half if axis == 2 else part)
    table = tensor_like(np.concatenate(parts)[:, ::-1].copy(), like)  # at once: each transfer to a device costs time
    along_z, along_y, along_x = torch.split(table, list(shape))
    grid: Tensor = along_z[:, None, None] + (along_y[:, None] + along_x)
    if change.elastic_mm:
        bent = control_displacements(change, shape, spacing_mm) @ matrix[:, :3].T / half
        _bend(grid, bent[..., ::-1], change.elastic_grid_mm, spacing_mm)
    return grid


def control_displacements(change: Change, shape: tuple[int, ...], spacing_mm: Triple) -> Float64[np.ndarray, "z y x 3"]:
    """Displacements of the control points in mm (z, y, x), drawn from their seed; as many as the extent needs."""
    extent = np.array(shape) * spacing_mm
    counts = [math.ceil(mm / change.elastic_grid_mm) + 3 for mm in extent.tolist()]
    return change.elastic_mm * np.random.default_rng(change.elastic_seed).uniform(-1, 1, (*counts, 3))


def smallest_jacobian(change: Change, shape: tuple[int, ...], spacing_mm: Triple) -> float:
    """The smallest Jacobian determinant of the map from output to input; above 0 the map does not fold.

    Args:
        change: The change drawn for this sample.
        shape: Shape of the sample, (z, y, x).
        spacing_mm: Spacing of the sample, (z, y, x).
    """
    whole = float(np.linalg.det(_affine(change, np.array(shape) * spacing_mm / 2)[:, :3]))
    if not change.elastic_mm:
        return whole
    displacements, step = control_displacements(change, shape, spacing_mm), change.elastic_grid_mm
    weights = [_spline(n, mm, step) for n, mm in zip(shape, spacing_mm, strict=True)]
    slopes = [_spline(n, mm, step, slope=True) for n, mm in zip(shape, spacing_mm, strict=True)]
    least = np.inf
    for z in range(shape[0]):  # slice by slice: the matrices of a whole sample are large
        jacobian = np.zeros((*shape[1:], 3, 3))
        for axis in range(3):
            along = [(slopes if a == axis else weights)[a] for a in range(3)]
            jacobian[..., axis] = np.einsum("i,yj,xk,ijkc->yxc", along[0][z], *along[1:], displacements, optimize=True)
        least = min(least, float(np.linalg.det(np.eye(3) + jacobian).min()))
    return whole * least


def _affine(change: Change, half_mm: Float64[np.ndarray, "3"]) -> Float64[np.ndarray, "3 4"]:
    """The affine map and the zoom in one, from output to input positions, in mm about the middle."""
    matrix = np.array(change.affine) / change.zoom
    matrix[:, 3] += np.array(change.zoom_at) * half_mm * (1 - 1 / change.zoom)
    return matrix


def _bend(
    grid: Float[Tensor, "z y x 3"], displacements: Float64[np.ndarray, "i j k 3"], step_mm: float, spacing_mm: Triple
) -> None:
    """Add a cubic B-spline field to a grid, axis by axis; the last product writes in place, to save memory."""
    z, y, x, _ = grid.shape
    along_z, along_y, along_x = (_spline(n, mm, step_mm) for n, mm in zip((z, y, x), spacing_mm, strict=True))
    planes = np.einsum("zi,ijkc->zjkc", along_z, displacements)
    rows = tensor_like(along_y, grid) @ tensor_like(planes, grid).flatten(2)
    vectors = tensor_like(np.kron(along_x.T, np.eye(3)), grid)
    grid.view(z * y, x * 3).addmm_(rows.flatten(0, 1), vectors)


def _spline(n: int, spacing_mm: float, step_mm: float, *, slope: bool = False) -> Float64[np.ndarray, "n k"]:
    """Weights of an axis's control points, centred on its middle, for each voxel; or their slope per mm."""
    count = math.ceil(n * spacing_mm / step_mm) + 3
    place = (np.arange(n) - (n - 1) / 2) * spacing_mm / step_mm
    t = place[:, None] - (np.arange(count) - (count - 1) / 2)
    near, far = 1 - np.abs(t).clip(0, 1), 2 - np.abs(t).clip(0, 2)
    weights: np.ndarray = np.sign(t) * (4 * near**2 - far**2) / 2 / step_mm if slope else (far**3 - 4 * near**3) / 6
    return weights


def _sampled(x: Channels, grid: Float[Tensor, "z y x 3"], mode: str, padding: str) -> Channels:
    """``grid_sample`` of one sample; the CPU uses one core per batch item, so rows are split into items."""
    z, y, rows, _ = grid.shape
    cores = torch.get_num_threads() if x.device.type == "cpu" else 1
    parts = max(n for n in range(1, cores + 1) if (z * y) % n == 0)
    sampled = F.grid_sample(
        x.expand(parts, *x.shape),
        grid.reshape(parts, z * y // parts, 1, rows, 3),
        mode=mode,
        padding_mode=padding,
        align_corners=False,
    )
    return sampled.transpose(0, 1).reshape(len(x), z, y, rows)


def _cropped(x: Channels, share: Triple, outside: str, num_images: int) -> Channels:
    """Keep the voxels whose centres lie within the share around the middle, at least one; the rest is outside."""
    out = x.clone()
    for axis, (n, kept) in enumerate(zip(x.shape[1:], share, strict=True), start=1):
        away = np.abs(np.arange(n) - (n - 1) / 2)
        inside = np.flatnonzero(away <= max(kept * n / 2, 0.5))
        first, last = int(inside[0]), int(inside[-1])
        for beyond, edge in ((slice(0, first), first), (slice(last + 1, n), last)):
            gone = out.narrow(axis, beyond.start, beyond.stop - beyond.start)
            gone[:num_images] = out[:num_images].narrow(axis, edge, 1) if outside == "edge" else AIR_HU
            gone[num_images:] = 0
    return out
