"""Renders tubes and lesions into grids in the patient's frame.

Every small structure is rendered in its own box, with edges one pixel wide as partial volume.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from hilum.simulating.lesions import Lesion, lesion_distance
from hilum.simulating.trees import Tube
from hilum.volume import Triple

Box = tuple[slice, slice, slice]

CORE_HU = 30.0
"""Density of the solid core of a part-solid nodule (rule of thumb)."""
_NEGLIGIBLE = 0.35
"""Diameter of a tube over a pixel below which it is not rendered (rule of thumb)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Axes:
    """Voxel centres of a grid in the patient's frame: three evenly spaced, ascending axes, in mm."""

    z_mm: Float32[np.ndarray, " z"]
    y_mm: Float32[np.ndarray, " y"]
    x_mm: Float32[np.ndarray, " x"]

    @property
    def open(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The axes, shaped to broadcast to the grid."""
        return self.z_mm[:, None, None], self.y_mm[None, :, None], self.x_mm[None, None, :]

    @property
    def blur_mm(self) -> float:
        """Width of an edge: one pixel, as partial volume blurs it."""
        return max(float(self.x_mm[1] - self.x_mm[0]), 0.6)

    def within(self, low: Triple, high: Triple) -> Box | None:
        """The part of the grid between two corners (x, y, z), or None if it is empty."""
        # Called for thousands of tubes, of which most lie above or below a slab.
        z = _span(self.z_mm, low[2], high[2])
        if z.stop <= z.start:
            return None
        y, x = _span(self.y_mm, low[1], high[1]), _span(self.x_mm, low[0], high[0])
        return (z, y, x) if y.stop > y.start and x.stop > x.start else None

    def part(self, box: Box) -> "Axes":
        """The part of the grid in a box."""
        return Axes(z_mm=self.z_mm[box[0]], y_mm=self.y_mm[box[1]], x_mm=self.x_mm[box[2]])


def _span(axis: np.ndarray, low: float, high: float) -> slice:
    first, number = float(axis[0]), len(axis)
    step = float(axis[1]) - first if number > 1 else 1.0
    start, stop = math.ceil((low - first) / step), math.floor((high - first) / step) + 1
    return slice(min(max(start, 0), number), max(min(stop, number), 0))


def render_lesion(hu: np.ndarray, lesion: Lesion, axes: Axes, *, blur_mm: float) -> None:
    """Render a lesion and its core, with an edge of this width, in place."""
    box = box_around(lesion, axes)
    if box is None:
        return
    grid = axes.part(box).open
    distance = lesion_distance(lesion, *grid)
    blend(hu[box], share_inside(distance, blur_mm), lesion.hu)
    if lesion.core > 0:
        blend(hu[box], share_inside(lesion_distance(lesion, *grid, core=True), blur_mm), CORE_HU)


def box_around(lesion: Lesion, axes: Axes) -> Box | None:
    """The part of the grid that a lesion may reach, without spicules."""
    x, y, z = lesion.centre_mm
    reach = lesion.reach_mm + axes.blur_mm
    return axes.within((x - reach, y - reach, z - reach), (x + reach, y + reach, z + reach))


def render_tube(
    hu: np.ndarray,
    tube: Tube,
    axes: Axes,
    *,
    hu_inside: float,
    extra_mm: float = 0.0,
    brighten: bool = False,
    only_air: bool = False,
) -> None:
    """Render a tube in place; one thinner than a pixel is weighted by the share of the pixel that it fills."""
    blur = axes.blur_mm
    thin = (max(tube.radii_mm) + extra_mm) * 2 / blur
    near = None if thin < _NEGLIGIBLE else near_tube(tube, axes, margin_mm=extra_mm + 0.5 * blur)
    if near is None:
        return
    box, distance = near
    distance -= extra_mm
    share = share_inside(distance, blur)
    if thin < 1:
        share *= thin
    if only_air:
        share *= hu[box] < -500
    if brighten:
        # A vessel does not darken a denser lesion.
        np.maximum(hu[box], hu[box] + share * (hu_inside - hu[box]), out=hu[box])
    else:
        blend(hu[box], share, hu_inside)


def near_tube(tube: Tube, axes: Axes, *, margin_mm: float) -> tuple[Box, np.ndarray] | None:
    """The box around a tube, and the signed distance to its surface in the box in mm, negative inside."""
    (x0, y0, z0), (x1, y1, z1) = tube.start_mm, tube.end_mm
    reach = max(tube.radii_mm) + margin_mm
    box = axes.within(
        (min(x0, x1) - reach, min(y0, y1) - reach, min(z0, z1) - reach),
        (max(x0, x1) + reach, max(y0, y1) + reach, max(z0, z1) + reach),
    )
    if box is None:
        return None
    length = math.dist(tube.start_mm, tube.end_mm) + 1e-6
    ux, uy, uz = (np.float32(u / length) for u in (x1 - x0, y1 - y0, z1 - z0))
    z = axes.z_mm[box[0]][:, None, None] - np.float32(z0)
    y = axes.y_mm[box[1]][:, None] - np.float32(y0)
    x = axes.x_mm[box[2]] - np.float32(x0)
    dot = (z * uz) + (y * uy + x * ux)
    along = np.minimum(np.maximum(dot, 0), np.float32(length))
    squared = (z * z) + (y * y + x * x)
    squared += along * (along - 2 * dot)
    distance = np.sqrt(np.maximum(squared, 0))
    first, last = tube.radii_mm
    along *= np.float32((last - first) / length)
    distance -= along
    distance -= np.float32(first)
    return box, distance


def share_inside(distance: np.ndarray, blur_mm: float) -> np.ndarray:
    """Share of a voxel that lies inside a surface at this distance from its centre."""
    share = distance * np.float32(-1 / blur_mm)
    share += np.float32(0.5)
    return np.asarray(np.minimum(np.maximum(share, 0, out=share), 1, out=share))


def blend(hu: np.ndarray, share: np.ndarray, hu_inside: float) -> None:
    """Mix another density into every voxel by its share, in place."""
    hu += share * (np.float32(hu_inside) - hu)
