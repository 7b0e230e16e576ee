"""Segments the patient in a coarse scan, without table and outside air, and finds the plane between right and left."""

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from hilum.preparing.lungs.morphology import Mask, filled_slices, opened_by_ball

TISSUE_HU = -300
"""Threshold between tissue and air or lung (rule of thumb)."""

_BONE_HU = 200
"""Threshold of bone (rule of thumb)."""
_TABLE_MM = 5.0
"""Radius of the opening that removes table, blankets and wires, which are thinner than 10 mm (rule of thumb)."""
_SPINE_MM = 14.0
"""Sigma of the Gaussian that finds the spine, about half the width of a vertebral body (rule of thumb)."""
_MOST_ROLL, _ELONGATED = 35.0, 1.2
"""Largest believable roll in degrees, and least ratio of the variances of the body's axes that defines a roll (rules
of thumb)."""
_OUTSIDE_HU = -945
"""Threshold between outside air and lung at the border of the field of view (rule of thumb)."""
_DISC = 0.97
"""Least Dice of the reconstructed pixels with a disc at which the field of view counts as one (rule of thumb)."""


def find_body(hu: np.ndarray, step_mm: float) -> Mask:
    """Segment the patient: the largest component of tissue without thin structures such as the table, holes filled.

    Where the field of view cuts the body, the border closes it; lung at the border is told from outside air by HU.

    Args:
        hu: A scan on a cubic grid, (z, y, x).
        step_mm: Edge of a voxel.
    """
    seen = field_of_view(hu)
    tissue = _without_thin((hu > TISSUE_HU) & seen, seen, _TABLE_MM / step_mm)
    pieces, count = ndimage.label(tissue)
    if not count:
        return np.zeros(hu.shape, bool)
    body: Mask = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    edge = _border(seen)
    whole = np.pad(body, ((0, 0), (1, 1), (1, 1)))
    for plane, level, framed in zip(body, hu, whole, strict=True):
        for part in edge:
            rows, columns = part.T
            closed = _closed_disc(plane, level, part) if len(edge) == 1 else _closed_edge(plane[rows, columns])
            framed[rows + 1, columns + 1] |= closed
    return np.asarray((filled_slices(whole)[:, 1:-1, 1:-1] & seen) | body)


def field_of_view(hu: np.ndarray) -> Bool[np.ndarray, "y x"]:
    """Pixels that the scanner has reconstructed: all, or a disc if the pixels outside it are constant."""
    filled = np.ptp(hu, axis=0) < 0.5  # HU; reconstructed air has noise
    seen: np.ndarray = ~filled
    rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
    if not len(rows):
        return np.ones(hu.shape[1:], bool)
    y, x = np.indices(seen.shape)
    high, wide = (axis[-1] - axis[0] + 1 for axis in (rows, columns))
    away = np.hypot((y - rows.mean()) / (high / 2), (x - columns.mean()) / (wide / 2))
    disc: np.ndarray = away <= 1
    alike = 2 * np.count_nonzero(disc & seen) / (np.count_nonzero(disc) + np.count_nonzero(seen))
    if alike <= _DISC or not 0.9 < high / wide < 1.1:
        return np.ones(hu.shape[1:], bool)
    whole: np.ndarray = away <= 1 - 3 / min(high, wide)  # without the outermost pixels, which are partly filling
    return whole


def leftward_mm(hu: np.ndarray, body: Mask, step_mm: float) -> Float[np.ndarray, "y x"]:
    """Distance of each column of voxels to the left of the plane through spine and breastbone.

    The spine is the densest bone behind the centre of the body; the body's long axis gives the roll of the patient.

    Args:
        hu: A scan on a cubic grid, (z, y, x), x to the patient's left and y to his back.
        body: The patient in it.
        step_mm: Edge of a voxel.
    """
    y, x = (a.astype(float) for a in np.indices(hu.shape[1:]))
    shadow = body.sum(axis=0).astype(float)
    if not shadow.any():
        return np.asarray((x - x.mean()) * step_mm)
    mid_y, mid_x = (float((a * shadow).sum() / shadow.sum()) for a in (y, x))
    moment = [[float((a * b * shadow).sum()) for b in (x - mid_x, y - mid_y)] for a in (x - mid_x, y - mid_y)]
    roll = 0.5 * float(np.arctan2(2 * moment[0][1], moment[0][0] - moment[1][1]))
    if abs(np.degrees(roll)) > _MOST_ROLL or moment[0][0] < _ELONGATED * moment[1][1]:
        roll = 0.0
    along, behind = _turned(x - mid_x, y - mid_y, roll)
    width = 2 * float(np.sqrt((along**2 * shadow).sum() / shadow.sum()))
    bone = ((hu > _BONE_HU) & body).sum(axis=0).astype(float)
    bone[(behind < 0) | (np.abs(along) > 0.5 * width)] = 0
    thick = ndimage.gaussian_filter(bone, _SPINE_MM / step_mm)
    if bone.sum() > 0:
        at = np.unravel_index(np.argmax(thick), thick.shape)
        along = along - along[at]
    return np.asarray(along * step_mm)


def _turned(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    return np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x


def _without_thin(tissue: Mask, seen: Bool[np.ndarray, "y x"], radius: float) -> Mask:
    """Open tissue with a ball, its radius in voxels; beyond the field of view tissue is assumed."""
    reach = max(1, int(radius))
    wide = ((0, 0), (2 * reach, 2 * reach), (2 * reach, 2 * reach))
    beyond = ~np.pad(seen, wide[1:])
    opened = opened_by_ball(np.pad(tissue, wide) | beyond, float(np.sqrt(radius**2 + 0.5)))
    inner = slice(2 * reach, -2 * reach)
    return np.asarray(opened[:, inner, inner] & seen)


def _border(seen: Bool[np.ndarray, "y x"]) -> list[np.ndarray]:
    """Pixels (y, x) at the border of the field of view, in order: four edges, or once around a disc."""
    if seen.all():
        y, x = (np.arange(n) for n in seen.shape)
        lines = [(y, 0 * y), (y, 0 * y + x[-1]), (0 * x, x), (0 * x + y[-1], x)]
        return [np.stack(line, axis=1) for line in lines]
    edge = np.argwhere(seen & ~ndimage.binary_erosion(seen))
    away = edge - edge.mean(axis=0)
    return [edge[np.argsort(np.arctan2(away[:, 0], away[:, 1]))]]


def _closed_edge(tissue: np.ndarray) -> np.ndarray:
    """Pixels of a straight edge beyond which the body continues: from the first to the last tissue."""
    shut = tissue.copy()
    if tissue.any():
        shut[np.argmax(tissue) : len(tissue) - np.argmax(tissue[::-1])] = True
    return shut


def _closed_disc(plane: np.ndarray, hu: np.ndarray, edge: np.ndarray) -> np.ndarray:
    """Pixels of a disc's edge beyond which the body continues: tissue, and lung, which is brighter than air.

    The darkest of four voxels inwards counts: a table may run along the edge, with air between it and the back.
    """
    shut: np.ndarray = plane[edge[:, 0], edge[:, 1]]
    if not shut.any():
        return shut
    inward = edge.mean(axis=0) - edge
    length = np.linalg.norm(inward, axis=1, keepdims=True)
    inward /= np.maximum(length, 1)  # the field of view of a crop may be a voxel wide: never past its centre
    depths = [edge + np.rint(np.minimum(depth, length) * inward).astype(int) for depth in range(4)]
    level = np.min([hu[at[:, 0], at[:, 1]] for at in depths], axis=0)
    start = int(np.argmax(shut))
    shut, level = np.roll(shut, -start), np.roll(level, -start)
    gaps, count = ndimage.label(~shut)
    is_lung = [False, *(bool(np.median(level[gaps == gap]) > _OUTSIDE_HU) for gap in range(1, count + 1))]
    return np.asarray(np.roll(shut | np.array(is_lung)[gaps], start))
