"""Applies a Recipe: a scan becomes the HU of the model's grid in one interpolation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from hilum.config import Range, ReadingConfig, Recipe
from hilum.errors import GeometryError, PrepareError, ReadError
from hilum.findings import Finding, find, refusals
from hilum.preparing.lungs import Lungs, locate_lungs
from hilum.preparing.resample import grid_around, sample
from hilum.reading import read
from hilum.volume import AIR_HU, HIGHEST_HU, LOWEST_HU, Volume, affine_from, clip

_BEYOND_MM = 1.0
"""A box that sticks out by less than this is not worth a finding."""


def prepare(volume: Volume, recipe: Recipe, *, point_mm: Any = None) -> Volume:
    """The part of a scan that the model sees, on the model's grid, in int16 HU.

    Args:
        volume: The scan, any orientation.
        recipe: Where the grid lies, how fine it is, what lies outside.
        point_mm: Centre of the grid for region ``point``, LPS mm (x, y, z).

    Returns:
        A volume of shape ``recipe.size`` with axes feet to head, front to back, right to left, and the findings of
        the scan and of its preparation.

    Raises:
        GeometryError: If the point lies outside the scan.
        PrepareError: If the region cannot be found, or a point is missing.
    """
    centre, findings, lungs = _centre(volume, recipe, point_mm)
    z, y, x = recipe.grid_spacing_mm
    steps = np.array([[0, 0, x], [0, y, 0], [z, 0, 0]], float)
    affine = grid_around(centre, steps, recipe.size)
    hu = sample(volume, affine, recipe.size, outside=recipe.outside)
    if lungs is not None and recipe.outside_lungs == "air":
        inside = Volume(voxels_hu=lungs.mask.astype(np.float32), affine=lungs.affine)
        hu[sample(inside, affine, recipe.size, outside="edge") < 0.5] = AIR_HU
    voxels = np.rint(np.clip(hu, LOWEST_HU, HIGHEST_HU)).astype(np.int16)
    return Volume(voxels_hu=voxels, affine=affine, tags=volume.tags, findings=(*volume.findings, *findings))


def prepare_path(
    path: Path, recipe: Recipe, *, point_mm: Any = None, series: str = "", reading: ReadingConfig | None = None
) -> Volume:
    """``prepare`` for a scan on disk; a ``.npy`` volume counts as already prepared.

    Args:
        path: Whatever ``read`` takes, or a ``.npy`` array of shape ``recipe.size``.
        recipe: The model's input.
        point_mm: See ``prepare``.
        series: Which series, where the path holds several.
        reading: What is done about odd scans; None: the defaults.
    """
    if path.suffix.lower() == ".npy":
        return _from_npy(path, recipe)
    try:
        return prepare(read(path, series=series or None, reading=reading), recipe, point_mm=point_mm)
    except (GeometryError, PrepareError) as exc:
        if str(path) in str(exc):
            raise
        msg = f"{path}: {exc}"
        raise type(exc)(msg) from exc


def window(volume: Volume, window_hu: Range) -> Volume:
    """HU limited to a window; what is darker is black, what is brighter is white."""
    return clip(volume, *window_hu)


def normalize(volume: Volume, window_hu: Range) -> Float32[np.ndarray, "z y x"]:
    """Voxels scaled to [0, 1] within a window: fixed numbers, never the scan's own extremes."""
    low, high = window_hu
    scaled = (volume.voxels_hu.astype(np.float32) - low) / (high - low)
    limited: np.ndarray = np.clip(scaled, 0, 1, dtype=np.float32)
    return limited


def _centre(volume: Volume, recipe: Recipe, point_mm: Any) -> tuple[np.ndarray, list[Finding], Lungs | None]:
    """Where the grid's centre lies, LPS mm, and what is worth knowing about it."""
    if recipe.region == "whole":
        return volume.centre_mm, _beyond(np.abs(volume.affine[:3, :3]) @ volume.shape, recipe, "scan"), None
    if recipe.region == "lungs":
        lungs = locate_lungs(volume)
        box = lungs.box_mm()
        if box is None or refusals(lungs.findings):
            raise PrepareError("; ".join(str(f) for f in lungs.findings))
        return box.mean(axis=0), [*lungs.findings, *_beyond(box[1] - box[0], recipe, "lungs")], lungs
    if point_mm is None:
        msg = "region point needs a point in LPS mm with each case (columns x_mm, y_mm, z_mm; --point X Y Z)"
        raise PrepareError(msg)
    point = np.array(point_mm, float)
    if not np.isfinite(point).all() or not volume.contains_mm(point):
        corners = volume.index_to_mm([(-0.5, -0.5, -0.5), np.array(volume.shape) - 0.5])
        ranges = zip(corners.min(axis=0), corners.max(axis=0), strict=True)
        inside = ", ".join(f"{a:.1f} to {b:.1f}" for a, b in ranges)
        message = f"the point {tuple(point.tolist())} must lie inside the scan: x, y, z in {inside} mm (LPS)"
        raise GeometryError(str(find("point-outside", message)))
    findings = []
    nearest = np.rint(volume.mm_to_index(point)).astype(int)
    if any(nearest[axis] == index for axis, index in volume.interpolated):
        message = "the point lies in a missing slice, interpolated from its neighbours"
        findings.append(find("point-interpolated", message))
    half = np.array(recipe.grid_extent_mm)[::-1] / 2
    corners = volume.mm_to_index([point - half, point + half])
    lacking = (
        np.maximum(-0.5 - corners.min(axis=0), corners.max(axis=0) - np.array(volume.shape) + 0.5) * volume.spacing_mm
    )
    if lacking.max() > _BEYOND_MM:
        filled = "air" if recipe.outside == "air" else "its nearest voxels"
        message = f"the box around the point sticks {lacking.max():.1f} mm out of the scan; filled with {filled}"
        findings.append(find("beyond-scan", message))
    return point, findings, None


def _beyond(extent_mm: np.ndarray, recipe: Recipe, what: str) -> list[Finding]:
    """A note where something larger than the model's box is cut by it."""
    cut = extent_mm - np.array(recipe.grid_extent_mm)[::-1]
    if cut.max() <= _BEYOND_MM:
        return []
    axis = int(np.argmax(cut))
    message = (
        f"the {what} {'measures' if what == 'scan' else 'measure'} {extent_mm[axis]:.0f} mm along {'xyz'[axis]}, "
        f"{cut[axis]:.0f} mm more than the model's box"
    )
    return [find("beyond-grid", message)]


def _from_npy(path: Path, recipe: Recipe) -> Volume:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as exc:
        msg = f"no file or folder {path}"
        raise ReadError(msg) from exc
    except (OSError, ValueError, EOFError) as exc:
        msg = f"{path} is not a plain .npy array"
        raise ReadError(msg) from exc
    if array.dtype.kind not in "iuf" or array.shape != recipe.size:
        msg = f"{path} must hold numbers of shape {recipe.size} (recipe.size), holds {array.dtype} of {array.shape}"
        raise PrepareError(msg)
    if not np.isfinite(array).all():
        msg = f"{path} holds values that are not finite"
        raise PrepareError(msg)
    hu = array.astype(np.float32)
    if recipe.npy_range == "unit":
        if hu.min() < -1e-3 or hu.max() > 1 + 1e-3:
            msg = f"{path} must lie in [0, 1] (recipe.npy_range = unit), lies in [{hu.min():g}, {hu.max():g}]"
            raise PrepareError(msg)
        low, high = recipe.windows_hu[0]
        hu = low + hu * (high - low)
    volume = Volume(
        voxels_hu=np.rint(np.clip(hu, LOWEST_HU, HIGHEST_HU)).astype(np.int16),
        affine=affine_from(spacing_mm=recipe.grid_spacing_mm, origin_mm=(0.0, 0.0, 0.0)),
    )
    return replace(volume, affine=grid_around(np.zeros(3), volume.affine[:3, :3], recipe.size))
