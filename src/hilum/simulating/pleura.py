"""Distance functions of the pleural spaces, and of fluid, air and aerated lung in them.

All distances are approximate, in mm, negative inside, and broadcast like those of the anatomy.
"""

import math
from functools import lru_cache

import numpy as np

from hilum.errors import ConfigError
from hilum.simulating.anatomy import Anatomy, cavity_distance, lung_distance

_MENISCUS_MM, _MENISCUS_REACH_MM = 22.0, 12.0
"""Height of the meniscus at the wall, and the distance over which it decays (rule of thumb)."""
_CAUDAL = 0.25
"""Fall of the fluid's surface for each mm towards the head, so that most fluid lies at the base (rule of thumb)."""
_GRID_MM = 4.0
"""Grid on which volumes are measured."""
_MOST = 0.85
"""Largest share of a pleural space that may be fluid (rule of thumb)."""


def space_distance(anatomy: Anatomy, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distance to the pleural spaces with lungs, fluid and air; a resected lung has none."""
    distance = lung_distance(anatomy, z, y, x)
    side = {"right": -1, "left": 1}.get(anatomy.pleura.missing)
    return distance if side is None else np.asarray(np.maximum(distance, _on_side(anatomy, x, side)))


def fluid_distance(anatomy: Anatomy, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray | None:
    """Distance to fluid, including the fluid in the space of a resected lung; None without fluid.

    It is not valid outside the pleural spaces.
    """
    parts = []
    for side, ml in zip((-1, 1), anatomy.pleura.effusion_ml, strict=True):
        if anatomy.pleura.missing == _name(side):
            parts.append(-_on_side(anatomy, x, side))
        elif ml > 0:
            above = _level(anatomy, side) - _depth(anatomy, z, y, x)
            parts.append(np.maximum(above, -_on_side(anatomy, x, side)))
    return np.minimum.reduce(np.broadcast_arrays(*parts)) if parts else None


def air_distance(anatomy: Anatomy, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray | None:
    """Distance to the air of a pneumothorax; None without one."""
    parts = []
    for side, gap_mm in zip((-1, 1), anatomy.pleura.pneumothorax_mm, strict=True):
        if gap_mm > 0 and anatomy.pleura.missing != _name(side):
            up = -_downwards(anatomy, y, x) / anatomy.cavity_mm[1]
            off = np.float32(gap_mm) * np.clip(0.35 + 0.75 * up, 0, 1).astype(np.float32)
            parts.append(np.maximum(-cavity_distance(anatomy, z, y, x) - off, -_on_side(anatomy, x, side)))
    return np.minimum.reduce(np.broadcast_arrays(*parts)) if parts else None


def aerated_distance(anatomy: Anatomy, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distance to aerated lung: the pleural spaces without fluid and free air."""
    distance = space_distance(anatomy, z, y, x)
    for other in (fluid_distance(anatomy, z, y, x), air_distance(anatomy, z, y, x)):
        if other is not None:
            distance = np.maximum(distance, -other)
    return distance


@lru_cache(maxsize=64)
def collapse(anatomy: Anatomy, side: int) -> float:
    """Volume of a pleural space (-1: right) over that of its lung: the factor by which a collapsed lung is denser."""
    z, y, x = _grid(anatomy)
    space = (space_distance(anatomy, z, y, x) < 0) & (_on_side(anatomy, x, side) > 0)
    air = air_distance(anatomy, z, y, x)
    if air is None or not space.any():
        return 1.0
    lung = int(np.count_nonzero(space & (air >= 0)))
    return float(np.count_nonzero(space)) / max(1, lung)


def rotation(anatomy: Anatomy) -> np.ndarray:
    """Rotation matrix (x, y, z) from the patient's frame to the scanner's: roll first, then tilt."""
    roll, tilt = math.radians(anatomy.roll_deg), math.radians(anatomy.tilt_deg)
    about_z = [[math.cos(roll), -math.sin(roll), 0], [math.sin(roll), math.cos(roll), 0], [0, 0, 1]]
    about_y = [[math.cos(tilt), 0, math.sin(tilt)], [0, 1, 0], [-math.sin(tilt), 0, math.cos(tilt)]]
    return np.asarray(np.array(about_y) @ np.array(about_z))


def _downwards(anatomy: Anatomy, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Distance of a point below the centre of the chest in the direction of gravity, in mm."""
    down = rotation(anatomy)[1] * (-1 if anatomy.prone else 1)
    return np.asarray(np.float32(down[1]) * (y - np.float32(anatomy.cavity_y_mm)) + np.float32(down[0]) * x)


def _depth(anatomy: Anatomy, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Priority with which fluid fills a point: larger for low points, near the base and at the wall."""
    wall = np.maximum(-cavity_distance(anatomy, z, y, x), 0)
    rise = np.float32(_MENISCUS_MM) * np.exp(-wall / np.float32(_MENISCUS_REACH_MM))
    return np.asarray(_downwards(anatomy, y, x) - np.float32(_CAUDAL) * z + rise)


@lru_cache(maxsize=64)
def _level(anatomy: Anatomy, side: int) -> np.float32:
    """Depth beyond which the space of a side has the volume of its fluid."""
    z, y, x = _grid(anatomy)
    inside = (space_distance(anatomy, z, y, x) < 0) & (_on_side(anatomy, x, side) > 0)
    depths = np.sort(np.broadcast_to(_depth(anatomy, z, y, x), inside.shape)[inside])[::-1]
    ml = anatomy.pleura.effusion_ml[0 if side < 0 else 1]
    number = round(ml * 1000 / _GRID_MM**3)
    if number > _MOST * len(depths):
        most = _MOST * len(depths) * _GRID_MM**3 / 1000
        msg = f"pleura.effusion_ml must be at most {most:.0f} ml on the {_name(side)} of this patient, got {ml}"
        raise ConfigError(msg)
    return np.float32(depths[number])


def _grid(anatomy: Anatomy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    width, depth = anatomy.cavity_mm
    z = np.arange(0, anatomy.height_mm + _GRID_MM, _GRID_MM).astype(np.float32)[:, None, None]
    y = np.arange(-1.15 * depth, depth, _GRID_MM).astype(np.float32)[:, None]
    return z, y, np.arange(-width, width + 1, _GRID_MM).astype(np.float32)


def _on_side(anatomy: Anatomy, x: np.ndarray, side: int) -> np.ndarray:
    """Distance from the midline into a side; -1 is the right one."""
    return np.asarray(side * (x - np.float32(anatomy.shift_mm)))


def _name(side: int) -> str:
    return "right" if side < 0 else "left"
