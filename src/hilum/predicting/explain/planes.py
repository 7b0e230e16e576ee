"""Draws three planes of a scan through the peak of a map, with the map over the lung window."""

from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from hilum.drawing import BLUE, INK, ORANGE, Panels, empty_panels
from hilum.pages import WINDOW_HU
from hilum.predicting.explain.heat_map import HeatMap
from hilum.preparing.resample import sample
from hilum.volume import Affine, Volume

_PIXELS = 256
"""Pixels along the longest edge of the model's box."""

FULL_COLOUR_ODDS = 0.5
"""Smallest log odds of the full colour: what changes a probability of 0.5 by less than 0.12 is to look faint."""

_COLOURS = LinearSegmentedColormap.from_list("against and for", [BLUE, BLUE, "#FFFFFF00", ORANGE, "#F0E442"])
"""Blue where the image speaks against the output, clear where it changes nothing, orange to yellow where it speaks for
it."""

_VIEWS = (("axial", "right", "left"), ("coronal", "right", "left"), ("sagittal", "front", "back"))


def planes_of(heat_map: HeatMap, scan: Volume, *, title: str, foot: str, least: float = FULL_COLOUR_ODDS) -> Panels:
    """Axial, coronal and sagittal planes of the model's box: head up, the patient's right on the left of the picture.

    Args:
        heat_map: The map, whose peak the planes cross; without one, the middle of the box.
        scan: The scan in its own geometry, or the prepared sample where there is no other.
        title: Above the planes.
        foot: Below them.
        least: Smallest log odds of the full colour.
    """
    shape, spacing = np.array(heat_map.values.shape), np.linalg.norm(heat_map.affine[:3, :3], axis=0)
    pixel_mm = float((shape * spacing).max()) / _PIXELS
    peak = heat_map.peak_index
    centre = (shape - 1) / 2 if peak is None else peak
    limit = max(float(np.abs(heat_map.values).max()), least) or 1.0
    panels = empty_panels(columns=3, inches=(12.0, 5.0))
    values = Volume(voxels_hu=np.ascontiguousarray(heat_map.values, np.float32), affine=heat_map.affine)
    shown = None
    for axis, (axes, (name, left, right)) in enumerate(zip(panels.axes, _VIEWS, strict=True)):
        affine, size = _plane(heat_map.affine, shape, spacing, centre, axis, pixel_mm)
        hu = sample(scan, affine, size).squeeze(axis)  # air beyond the scan
        heat = sample(values, affine, size, outside="edge").squeeze(axis)
        upright = {"origin": "upper" if axis == 0 else "lower", "interpolation": "nearest"}
        axes.imshow(hu, cmap="gray", vmin=WINDOW_HU[0], vmax=WINDOW_HU[1], **upright)
        opacity = np.clip(np.abs(heat) / limit, 0, 1) ** 0.7 * 0.75
        shown = axes.imshow(heat, cmap=_COLOURS, vmin=-limit, vmax=limit, alpha=opacity, **upright)
        _cross(axes, size, (centre + 0.5) * spacing / pixel_mm - 0.5, axis, has_peak=peak is not None)
        axes.set_title(f"{name}\n{left} - {right}", fontsize=9, color=INK)
        axes.set_axis_off()
    bar: Any = panels.picture.colorbar(shown, ax=list(panels.axes), shrink=0.75, pad=0.01)
    bar.set_label(f"added to the log odds of {heat_map.output}", fontsize=9, color=INK, parse_math=False)
    bar.ax.tick_params(labelsize=8, colors=INK)
    panels.picture.suptitle(title, fontsize=12, fontweight="bold", color=INK, parse_math=False)
    panels.picture.supxlabel(foot, fontsize=9, color=INK, parse_math=False)
    return panels


def _plane(
    affine: Affine, shape: np.ndarray, spacing: np.ndarray, centre: np.ndarray, axis: int, pixel_mm: float
) -> tuple[Affine, tuple[int, int, int]]:
    """Affine and shape of a plane of square pixels that covers a grid, through an index on one axis."""
    factor = pixel_mm / spacing
    size = np.maximum(1, np.rint(shape / factor).astype(int))
    size[axis] = 1
    first = factor / 2 - 0.5
    first[axis], factor[axis] = centre[axis], 1.0
    plane = np.eye(4)
    plane[:3, :3] = affine[:3, :3] * factor
    plane[:3, 3] = affine[:3, :3] @ first + affine[:3, 3]
    z, y, x = size.tolist()
    return plane, (z, y, x)


def _cross(axes: Any, size: tuple[int, int, int], place: np.ndarray, axis: int, *, has_peak: bool) -> None:
    """Mark the peak by short lines at the edges, which hide nothing of it."""
    if not has_peak:
        return
    down, across = (a for a in range(3) if a != axis)
    height, width = size[down], size[across]
    reach = 0.06 * max(height, width)
    for start, stop in ((-0.5, reach), (width - reach, width - 0.5)):
        axes.plot([start, stop], [place[down]] * 2, color="white", linewidth=1.2)
    for start, stop in ((-0.5, reach), (height - reach, height - 0.5)):
        axes.plot([place[across]] * 2, [start, stop], color="white", linewidth=1.2)
