"""Segments the trachea and the main bronchi, so that they can be removed from the air inside the body."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from hilum.preparing.lungs.morphology import Mask, dilated

LUNG_HU = -320
"""Threshold between air or lung and tissue (rule of thumb)."""

_AIRWAY_HU = -930
"""Airway lumen at full inspiration is darker than nearly all lung (rule of thumb); region growing starts below it."""
_AIRWAYS_ML = (2.0, 120.0)
"""Plausible volume of trachea and main bronchi (rule of thumb); a larger region has leaked into a lung."""
_TRACHEA_HU = (-500, -600, -700, -800, -850)
"""Thresholds for the trachea, tried in this order (rule of thumb)."""
_TRACHEA_MM2 = (40.0, 900.0)
"""Cross-section of the trachea: normal diameters are 10 to 27 mm (Breatnach 1984, Dimensions of the normal human
trachea), with a reserve for coarse voxels and wide tracheas (rule of thumb)."""
_TRACHEA_MM, _TRACHEA_LEAST_MM = 120.0, 30.0
"""Length over which the trachea is followed (100 to 120 mm in adults; the limit was chosen on simulated
chests), and the shortest visible part that counts (rule of thumb)."""
_BOX = 24
"""Half edge, in voxels, of the first box around a seed in which an airway is grown."""


def find_airways(hu: np.ndarray, air: Mask, *, step_mm: float) -> Mask:
    """Segment trachea and main bronchi: grown from the trachea at the last threshold without leakage into a lung.

    If lung is as dark as the trachea every threshold leaks; the result is then the trachea alone.

    Args:
        hu: A scan on a cubic grid, (z, y, x), feet to head.
        air: Air inside the body.
        step_mm: Edge of a voxel.
    """
    trachea = _trachea(hu, air, step_mm)
    if not trachea.any():
        return trachea
    seed = tuple(int(at) for at in np.unravel_index(np.argmin(np.where(trachea, hu, np.inf)), hu.shape))
    low, high = (ml * 1000 / step_mm**3 for ml in _AIRWAYS_ML)
    best = np.zeros(hu.shape, bool)
    for threshold in range(_AIRWAY_HU - 50, LUNG_HU, 20):
        grown = _grown(hu, air, seed, threshold, high)
        size = int(np.count_nonzero(grown))
        if not size:
            continue
        if size > high or (best.any() and size > max(3 * int(np.count_nonzero(best)), 4 * low)):
            break
        best = grown
    airways: np.ndarray = dilated(best | trachea) & (hu < 0)
    return airways


def _grown(hu: np.ndarray, air: Mask, seed: tuple[int, ...], threshold: int, high: float) -> Mask:
    """The component below a threshold around a seed; growth stops once it exceeds ``high`` voxels.

    It is labelled in a box around the seed, which is enlarged as long as the component reaches its sides.
    """
    out = np.zeros(hu.shape, bool)
    reach = _BOX
    while True:
        box = tuple(slice(max(0, at - reach), at + reach + 1) for at in seed)
        pieces, _ = ndimage.label((hu[box] < threshold) & air[box])
        number = pieces[tuple(at - part.start for at, part in zip(seed, box, strict=True))]
        if not number:
            return out
        grown = pieces == number
        whole = all(part.start == 0 and part.stop >= n for part, n in zip(box, hu.shape, strict=True))
        if whole or np.count_nonzero(grown) > high or not _reaches_side(grown, box, hu.shape):
            out[box] = grown
            return out
        reach *= 2


def _reaches_side(grown: Mask, box: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    """Whether a component touches a side of its box that is not a side of the scan."""
    for axis, (part, length) in enumerate(zip(box, shape, strict=True)):
        sides = np.moveaxis(grown, axis, 0)
        if (part.start > 0 and sides[0].any()) or (part.stop < length and sides[-1].any()):
            return True
    return False


def _trachea(hu: np.ndarray, air: Mask, step_mm: float) -> Mask:
    """The uppermost round hole near the midline that has the size of a trachea and continues downwards."""
    none = np.zeros(hu.shape, bool)
    columns = np.flatnonzero(air.any(axis=(0, 1)))
    if not len(columns):
        return none
    middle, half = (columns[0] + columns[-1]) / 2, (columns[-1] - columns[0]) / 2
    for z in range(hu.shape[0] - 1, hu.shape[0] // 3, -1):
        pieces, count = ndimage.label(air[z] & (hu[z] < _AIRWAY_HU + 130))
        for number, box in enumerate(ndimage.find_objects(pieces, count), 1):
            area = np.count_nonzero(pieces[box] == number) * step_mm**2
            height, width = (s.stop - s.start for s in box)
            round_enough = 0.4 < height / width < 2.5
            if not (_TRACHEA_MM2[0] < area < _TRACHEA_MM2[1] and round_enough):
                continue
            piece = pieces == number
            if abs(ndimage.center_of_mass(piece)[1] - middle) < 0.35 * half:
                lowest = max(0, z - round(_TRACHEA_MM / step_mm))
                below = _followed(hu, air, piece, range(z, lowest - 1, -1), step_mm)
                if np.count_nonzero(below.any(axis=(1, 2))) * step_mm >= _TRACHEA_LEAST_MM:
                    above = _followed(hu, air, piece, range(z, hu.shape[0]), step_mm)
                    trachea: np.ndarray = below | above
                    return trachea
    return none


def _followed(hu: np.ndarray, air: Mask, piece: Bool[np.ndarray, "y x"], planes: range, step_mm: float) -> Mask:
    """Track a hole from slice to slice, at the highest threshold that separates it from the lungs."""
    out = np.zeros(hu.shape, bool)
    for z in planes:
        for threshold in _TRACHEA_HU:
            pieces, _ = ndimage.label((hu[z] < threshold) & air[z])
            shared = np.bincount(pieces[piece])[1:]
            if not shared.any():
                continue
            found = pieces == 1 + np.argmax(shared)
            if np.count_nonzero(found) * step_mm**2 <= _TRACHEA_MM2[1]:
                out[z] = piece = found
                break
        else:
            break
    return out
