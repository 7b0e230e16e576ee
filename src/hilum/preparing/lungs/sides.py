"""Assigns components of air inside the body to the right and the left lung, and separates lungs that touch."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from hilum.preparing.lungs.morphology import Mask, dilated, eroded, squares_to

RIGHT, LEFT = 1, 2
"""The patient's right and left."""

# Rules of thumb; benchmarks/lungs.py measures the result.
_LEAST_ML = 30.0
"""Smallest component that may be lung."""
_GAS_HU, _GAS_ML = -960, 600.0
"""Components smaller than this whose median is darker are gas in bowel or stomach, or air outside the patient."""
_BOWEL_HU, _BOWEL_ML = -930, (5.0, 1500.0)
"""Threshold and volume of bowel gas that touches lung."""
_DIAPHRAGM_HU, _LOW, _SHUT_IN = -600, 0.3, 0.6
"""Bowel gas lies in the lowest 30 % of the air, and at least 60 % of its shell is brighter than -600 HU."""
_MINOR = 0.25
"""Share of the largest component below which another one is small."""
_MOST_EROSIONS = 10
"""Erosions after which lungs that touch count as inseparable: contacts of up to 60 mm on voxels of 3 mm."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Piece:
    """A component: its box, its mask in the box, its voxels, and its mean distance to the left of the midplane."""

    box: tuple[slice, ...]
    mask: np.ndarray
    voxels: int
    leftward_mm: float


def right_and_left(
    hu: np.ndarray, air: Mask, leftward_mm: Float[np.ndarray, "y x"], *, step_mm: float
) -> UInt8[np.ndarray, "z y x"]:
    """Label the lungs: 1 in the right, 2 in the left.

    Args:
        hu: A scan on a cubic grid, (z, y, x), feet to head.
        air: Air inside the body, without trachea and main bronchi.
        leftward_mm: Distance of each column to the left of the midplane.
        step_mm: Edge of a voxel.
    """
    labels = np.zeros(air.shape, np.uint8)
    numbers, _ = ndimage.label(air & ~_gas(hu, air, step_mm))
    boxes = ndimage.find_objects(numbers)
    counts = np.bincount(numbers.ravel())
    millilitres = counts * step_mm**3 / 1000
    pieces: list[_Piece] = []
    for number in 1 + np.argsort(-counts[1:], kind="stable"):
        if millilitres[number] < _LEAST_ML:
            break
        box = boxes[number - 1]
        inside = numbers[box] == number
        if np.median(hu[box][inside]) < _GAS_HU and (millilitres[number] < _GAS_ML or _at_the_side(box, air.shape)):
            continue
        piece = _piece(box, inside, leftward_mm)
        if not (pieces and _under(piece, pieces[0])):
            pieces += _separated(piece, leftward_mm)
    for piece, side in zip(pieces, _sides(pieces), strict=True):
        labels[piece.box][piece.mask] = side
    return labels


def _gas(hu: np.ndarray, air: Mask, step_mm: float) -> Mask:
    """Segment gas in bowel and stomach: dark, low and enclosed by tissue, at least by the diaphragm below the lung."""
    gas = np.zeros(air.shape, bool)
    heights = np.flatnonzero(air.any(axis=(1, 2)))
    if not len(heights):
        return gas
    numbers, _ = ndimage.label(eroded(air & (hu < _BOWEL_HU)))
    counts = np.bincount(numbers.ravel()) * step_mm**3 / 1000
    for number, box in enumerate(ndimage.find_objects(numbers), 1):
        if not _BOWEL_ML[0] < counts[number] < _BOWEL_ML[1]:
            continue
        near = tuple(slice(max(0, s.start - 4), s.stop + 4) for s in box)
        blob = dilated(numbers[near] == number)
        wide = dilated(blob, 2)
        shell = dilated(wide) & ~wide
        low = np.nonzero(blob)[0].mean() + near[0].start < heights[0] + _LOW * (heights[-1] - heights[0])
        if low and (hu[near][shell] > _DIAPHRAGM_HU).mean() > _SHUT_IN:
            gas[near] |= wide
    return gas


def _piece(box: tuple[slice, ...], mask: np.ndarray, leftward_mm: np.ndarray) -> _Piece:
    shadow = mask.sum(axis=0)
    voxels = int(shadow.sum())
    return _Piece(box=box, mask=mask, voxels=voxels, leftward_mm=float((shadow * leftward_mm[box[1:]]).sum() / voxels))


def _at_the_side(box: tuple[slice, ...], shape: tuple[int, ...]) -> bool:
    """Whether a component touches a side of the field of view."""
    return any(s.start == 0 or s.stop == n for s, n in zip(box[1:], shape[1:], strict=True))


def _under(piece: _Piece, lung: _Piece) -> bool:
    """Whether a component is small and low beside the largest: gas and stool in the colon below the diaphragm."""
    heights = piece.mask.sum(axis=(1, 2))
    height = piece.box[0].start + float(np.average(np.arange(len(heights)), weights=heights))
    low, high = lung.box[0].start, lung.box[0].stop
    return piece.voxels < _MINOR * lung.voxels and height < low + 0.25 * (high - low)


def _separated(piece: _Piece, leftward_mm: np.ndarray) -> list[_Piece]:
    """Separate two lungs that touch: erode until they come apart, then assign each voxel to the nearer core."""
    left = leftward_mm[piece.box[1:]] > 0
    share = np.count_nonzero(piece.mask & left) / piece.voxels
    if not 0.2 < share < 0.8:
        return [piece]
    core = piece.mask
    for erosions in range(1, _MOST_EROSIONS + 1):
        core = eroded(core)
        numbers, count = ndimage.label(core)
        sizes = np.bincount(numbers.ravel())[1:]
        if count >= 2 and np.sort(sizes)[-2] > 0.15 * sizes.sum():
            first, second = 1 + np.argsort(-sizes)[:2]
            reach = float(erosions + 3)  # voxels further from both cores are assigned by their side of the midplane
            away = [squares_to(numbers == one, reach).astype(int) for one in (first, second)]
            means = [_piece(piece.box, numbers == one, leftward_mm).leftward_mm for one in (first, second)]
            nearer = np.where(away[0] == away[1], left == (means[0] > means[1]), away[0] < away[1])
            return [_piece(piece.box, piece.mask & own, leftward_mm) for own in (nearer, ~nearer)]
    if not 0.35 < share < 0.65:  # one lung that extends across the midplane
        return [piece]
    return [_piece(piece.box, piece.mask & side, leftward_mm) for side in (left, ~left)]


def _sides(pieces: list[_Piece]) -> list[int]:
    """RIGHT or LEFT for each component; of two large ones the one further left is LEFT, wherever the midplane lies."""
    large = [p for p in pieces if p.voxels >= _MINOR * pieces[0].voxels][:2]
    middle = 0.0
    if (
        len(large) == 2
        and abs(large[0].leftward_mm - large[1].leftward_mm) > abs(sum(p.leftward_mm for p in large)) / 2
    ):
        middle = sum(p.leftward_mm for p in large) / 2
    return [LEFT if p.leftward_mm > middle else RIGHT for p in pieces]
