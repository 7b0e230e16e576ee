"""Transforms between the patient's frame and the scanner's, for rolled and tilted patients."""

import math
from dataclasses import replace

import numpy as np

from hilum.simulating.anatomy import Anatomy
from hilum.simulating.lesions import Lesion
from hilum.simulating.pleura import rotation
from hilum.simulating.rasterize import Axes
from hilum.simulating.trees import Tube
from hilum.volume import Triple


def is_upright(anatomy: Anatomy) -> bool:
    """Whether the patient's frame is the scanner's: neither roll nor tilt."""
    return anatomy.roll_deg == 0 and anatomy.tilt_deg == 0


def to_scanner(anatomy: Anatomy, point_mm: Triple) -> Triple:
    """Convert a point (x, y, z) from the patient's frame to the scanner's, rotating about the centre of the lungs."""
    if is_upright(anatomy):
        return point_mm
    middle = _middle(anatomy)
    x, y, z = rotation(anatomy) @ (np.array(point_mm) - middle) + middle
    return float(x), float(y), float(z)


def tube_in_scanner(anatomy: Anatomy, tube: Tube) -> Tube:
    """Convert a tube to the scanner's frame."""
    if is_upright(anatomy):
        return tube
    return Tube(
        start_mm=to_scanner(anatomy, tube.start_mm),
        end_mm=to_scanner(anatomy, tube.end_mm),
        radii_mm=tube.radii_mm,
        wall_mm=tube.wall_mm,
    )


def lesion_in_scanner(anatomy: Anatomy, lesion: Lesion) -> Lesion:
    """Convert the centre of a lesion to the scanner's frame; its axes are not rotated."""
    return replace(lesion, centre_mm=to_scanner(anatomy, lesion.centre_mm))


def in_patient(anatomy: Anatomy, axes: Axes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coordinates (z, y, x) of a grid in the patient's frame; broadcastable for an upright patient."""
    if is_upright(anatomy):
        return axes.open
    turn = rotation(anatomy).T.astype(np.float32)
    cx, cy, cz = (np.float32(c) for c in _middle(anatomy))
    z, y, x = axes.open
    z, y, x = z - cz, y - cy, x - cx
    xyz = [row[0] * x + row[1] * y + row[2] * z + c for row, c in zip(turn, (cx, cy, cz), strict=True)]
    return xyz[2], xyz[1], xyz[0]


def upright_grid(anatomy: Anatomy, axes: Axes) -> tuple[Axes, np.ndarray, np.ndarray]:
    """A grid in the patient's frame that covers a grid in the scanner's frame.

    Returns:
        The grid; matrix and offset that map an index (z, y, x) of ``axes`` to an index of the grid.
    """
    middle, turn = _middle(anatomy), rotation(anatomy).T
    sides = (axes.x_mm, axes.y_mm, axes.z_mm)
    corners = np.array([[side[-bit] for side, bit in zip(sides, bits, strict=True)] for bits in np.ndindex(2, 2, 2)])
    held = (corners - middle) @ turn.T + middle
    low, high = held.min(0), held.max(0)
    steps = [float(side[1] - side[0]) if len(side) > 1 else 1.0 for side in sides]
    new = [
        (start + step * np.arange(math.ceil((stop - start) / step) + 2)).astype(np.float32)
        for start, stop, step in zip(low - np.array(steps), high + np.array(steps), steps, strict=True)
    ]
    grid = Axes(z_mm=new[2], y_mm=new[1], x_mm=new[0])
    # Index of axes to mm, rotated into the patient's frame, mm to index of the grid; all as (z, y, x).
    matrix = (turn * np.array(steps) / np.array(steps)[:, None])[::-1, ::-1]
    first = turn @ (np.array([side[0] for side in sides], np.float64) - middle) + middle
    offset = ((first - np.array([axis[0] for axis in new], np.float64)) / np.array(steps))[::-1]
    return grid, matrix, offset


def _middle(anatomy: Anatomy) -> np.ndarray:
    return np.array([0.0, 0.0, anatomy.height_mm / 2])
