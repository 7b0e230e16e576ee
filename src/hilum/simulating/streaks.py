"""Adds metal artifacts: dark and bright streaks in the slices that contain metal."""

import numpy as np
from jaxtyping import Float32

from hilum.randomness import generator
from hilum.simulating.anatomy import Anatomy
from hilum.simulating.body import metal_tubes
from hilum.simulating.pose import tube_in_scanner
from hilum.simulating.rasterize import Axes

_STRONGEST_HU, _FADE_MM = 450.0, 45.0
"""Amplitude of the streaks of thick metal, and the distance over which they fade (rule of thumb)."""
_RAYS = (3, 5, 8, 13, 21)
"""Streaks around a piece of metal: beam hardening makes few broad ones, photon starvation many narrow ones."""


def add_streaks(slices: Float32[np.ndarray, "z y x"], anatomy: Anatomy, axes: Axes) -> None:
    """Add streaks around each piece of metal and a dark band between two, in place; stronger for thick metal."""
    tubes = [tube_in_scanner(anatomy, tube) for tube in metal_tubes(anatomy)]
    rng = generator(anatomy.seed, "streaks")
    phases = rng.uniform(0, 2 * np.pi, (len(tubes), len(_RAYS)))
    for plane, z in zip(slices, axes.z_mm.tolist(), strict=True):
        places = []
        for tube, phase in zip(tubes, phases, strict=True):
            (x0, y0, z0), (x1, y1, z1) = tube.start_mm, tube.end_mm
            radius = max(tube.radii_mm)
            if not min(z0, z1) - radius <= z <= max(z0, z1) + radius:
                continue
            along = min(max((z - z0) / (z1 - z0), 0.0), 1.0) if abs(z1 - z0) > 1 else 0.5
            place = x0 + along * (x1 - x0), y0 + along * (y1 - y0)
            places.append(place)
            dx, dy = axes.x_mm - place[0], axes.y_mm[:, None] - place[1]
            angle, away = np.arctan2(dy, dx), np.hypot(dx, dy)
            rays = sum(np.cos(n * angle + p + 0.15 * z * (n > 5)) for n, p in zip(_RAYS, phase, strict=True))
            strength = _STRONGEST_HU * min(1.0, radius / 4) / (1 + (away / _FADE_MM) ** 1.5)
            plane += (strength * rays / len(_RAYS)).astype(np.float32)
        if len(places) > 1:
            _darken_between(plane, places[0], places[-1], axes)


def _darken_between(plane: np.ndarray, one: tuple[float, float], other: tuple[float, float], axes: Axes) -> None:
    """Darken the band between two pieces of metal, as beam hardening does."""
    (x0, y0), (x1, y1) = one, other
    length = float(np.hypot(x1 - x0, y1 - y0))
    if length < 1:
        return
    ux, uy = (x1 - x0) / length, (y1 - y0) / length
    dx, dy = axes.x_mm - x0, axes.y_mm[:, None] - y0
    along, across = dx * ux + dy * uy, dy * ux - dx * uy
    inside = (along > 0) & (along < length)
    plane -= (0.6 * _STRONGEST_HU * np.exp(-((across / 4) ** 2)) * inside).astype(np.float32)
