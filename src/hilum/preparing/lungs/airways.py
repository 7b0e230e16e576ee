"""Tells the trachea and the main bronchi from the lungs, so that they can be taken out of the air inside the body."""

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from hilum.preparing.lungs.morphology import Mask, dilated

LUNG_HU = -320
"""Darker than this is air or lung."""

_AIRWAY_HU = -930
_AIRWAYS_ML = (2.0, 120.0)
_TRACHEA_HU = (-500, -600, -700, -800, -850)
_TRACHEA_MM2 = 900.0
_TRACHEA_MM, _TRACHEA_LEAST_MM = 120.0, 30.0
_BOX = 24
"""Voxels on each side of a seed where an airway is looked for first."""


def find_airways(hu: np.ndarray, air: Mask, *, step_mm: float) -> Mask:
    """Trachea and main bronchi: grown from the trachea at the last threshold that does not leak into a lung.

    Where lung is as dark as the trachea every threshold leaks; what is left then is the trachea, slice by slice.

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
    """The darker piece around a seed, or a part of it that is larger than ``high``, in voxels.

    It is looked for in a box around the seed, which is widened while the piece goes on beyond it.
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
        if whole or np.count_nonzero(grown) > high or not _goes_on(grown, box, hu.shape):
            out[box] = grown
            return out
        reach *= 2


def _goes_on(grown: Mask, box: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    """True where a piece meets a side of its box that is no side of the scan."""
    for axis, (part, length) in enumerate(zip(box, shape, strict=True)):
        sides = np.moveaxis(grown, axis, 0)
        if (part.start > 0 and sides[0].any()) or (part.stop < length and sides[-1].any()):
            return True
    return False


def _trachea(hu: np.ndarray, air: Mask, step_mm: float) -> Mask:
    """From the top, the first round hole of a trachea's size near the midline that goes on below."""
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
            if not (40 < area < _TRACHEA_MM2 and round_enough):
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
    """A hole followed from slice to slice, at the highest threshold that keeps it apart from the lungs."""
    out = np.zeros(hu.shape, bool)
    for z in planes:
        for threshold in _TRACHEA_HU:
            pieces, _ = ndimage.label((hu[z] < threshold) & air[z])
            shared = np.bincount(pieces[piece])[1:]
            if not shared.any():
                continue
            found = pieces == 1 + np.argmax(shared)
            if np.count_nonzero(found) * step_mm**2 <= _TRACHEA_MM2:
                out[z] = piece = found
                break
        else:
            break
    return out
