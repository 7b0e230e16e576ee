"""Places a recipe's grid in a scan: its centre, spacing and shape, with findings about what it cuts."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from hilum.arrays import three
from hilum.errors import GeometryError, PrepareError
from hilum.findings import Finding, find
from hilum.preparing.lungs.segment import Lungs
from hilum.preparing.resample import grid_around
from hilum.settings.recipe import MOST_VOXELS, Recipe
from hilum.volume import Affine, Volume

_BEYOND_MM = 1.0
"""Smallest excess that gives a finding (rule of thumb)."""

PART_NAMES = {"lungs": "lungs", "lung-field": "lung fields", "left": "left lung", "right": "right lung"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Place:
    """A grid in a scan.

    Attributes:
        affine: Index (z, y, x) to LPS mm; axes run feet to head, front to back, right to left.
        shape: Voxels (z, y, x).
        findings: Parts that the grid cuts off, or that lie outside the scan.
    """

    affine: Affine
    shape: tuple[int, int, int]
    findings: tuple[Finding, ...] = ()


def place(volume: Volume, recipe: Recipe, *, point_mm: Any = None, lungs: Lungs | None = None) -> Place:
    """Place the grid of a recipe in a scan.

    Args:
        volume: The scan.
        recipe: The region, and the spacing and size of its grid.
        point_mm: Centre of the grid for region ``point``, LPS mm (x, y, z).
        lungs: The scan's lungs, for regions that are a part of them.

    Raises:
        GeometryError: If the point lies outside the scan.
        PrepareError: If a point is missing, or the part of the lungs was not found.
    """
    if recipe.region == "point":
        centre, findings = _around_point(volume, recipe, point_mm)
        return _grid(centre, np.array(recipe.grid_spacing_mm), recipe.size, findings)
    centre, extent_mm, what = _region(volume, recipe, lungs)
    wanted = extent_mm[::-1] + 2 * recipe.margin_mm  # z, y, x, as all tuples of a recipe
    size = recipe.size
    if recipe.fit == "region":
        spacing = np.full(3, (wanted / size).max())
        return _grid(centre, spacing, size, [])
    spacing = np.array(recipe.grid_spacing_mm)
    if recipe.sub_volumes:
        needed = np.maximum(size, np.ceil(wanted / spacing - 1e-6))
        if needed.prod() > MOST_VOXELS:
            msg = f"a sample must have at most {MOST_VOXELS:.0e} voxels, at this spacing it has {needed.prod():.0e}"
            raise PrepareError(msg)
        z, y, x = needed.astype(int).tolist()
        return _grid(centre, spacing, (z, y, x), [])
    return _grid(centre, spacing, size, _beyond(extent_mm, recipe, what))


def _grid(centre_mm: np.ndarray, spacing_mm: np.ndarray, shape: tuple[int, int, int], findings: list[Finding]) -> Place:
    z, y, x = spacing_mm
    steps = np.array([[0, 0, x], [0, y, 0], [z, 0, 0]], float)
    return Place(affine=grid_around(centre_mm, steps, shape), shape=shape, findings=tuple(findings))


def _region(
    volume: Volume, recipe: Recipe, lungs: Lungs | None
) -> tuple[Float[np.ndarray, "3"], Float[np.ndarray, "3"], str]:
    """Centre and extent of the region's box, LPS mm (x, y, z), and its name."""
    if recipe.part is None:
        return volume.centre_mm, np.abs(volume.affine[:3, :3]) @ volume.shape, "scan"
    box = None if lungs is None else lungs.box_mm(recipe.part)
    if box is None:
        finding = find("no-lungs", f"no {PART_NAMES[recipe.part]} found")
        raise PrepareError(str(finding), code=finding.code)
    return box.mean(axis=0), box[1] - box[0], PART_NAMES[recipe.part]


def _around_point(volume: Volume, recipe: Recipe, point_mm: Any) -> tuple[np.ndarray, list[Finding]]:
    if point_mm is None:
        msg = "region point needs a point in LPS mm with each case (columns x_mm, y_mm, z_mm; --point X Y Z)"
        raise PrepareError(msg)
    point = three(point_mm, "a point in LPS mm (x, y, z)")
    if not np.isfinite(point).all() or not volume.contains_mm(point):
        corners = volume.index_to_mm([(-0.5, -0.5, -0.5), np.array(volume.shape) - 0.5])
        ranges = zip(corners.min(axis=0), corners.max(axis=0), strict=True)
        inside = ", ".join(f"{a:.1f} to {b:.1f}" for a, b in ranges)
        message = f"the point {tuple(point.tolist())} must lie inside the scan: x, y, z in {inside} mm (LPS)"
        finding = find("point-outside", message)
        raise GeometryError(str(finding), code=finding.code)
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
    return point, findings


def _beyond(extent_mm: np.ndarray, recipe: Recipe, what: str) -> list[Finding]:
    """A note if the region is larger than the model's box."""
    cut = extent_mm - np.array(recipe.grid_extent_mm)[::-1]
    if cut.max() <= _BEYOND_MM:
        return []
    axis = int(np.argmax(cut))
    message = (
        f"the {what} {'measure' if what.endswith('s') else 'measures'} {extent_mm[axis]:.0f} mm along {'xyz'[axis]}, "
        f"{cut[axis]:.0f} mm more than the model's box"
    )
    return [find("beyond-grid", message)]
