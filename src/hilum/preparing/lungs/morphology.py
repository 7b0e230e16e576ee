"""Morphology of masks by shifting whole arrays, with SciPy's results in a fraction of the time."""

import numpy as np
from jaxtyping import Bool, UInt
from scipy import ndimage

Mask = Bool[np.ndarray, "z y x"]

IN_SLICE = np.zeros((3, 3, 3), int)
IN_SLICE[1] = ndimage.generate_binary_structure(2, 1)


def eroded(mask: Mask, times: int = 1) -> Mask:
    """Erode by the six neighbours of each voxel; outside the array the mask is False."""
    for _ in range(times):
        out = mask.copy()
        for now, before in _neighbours(mask, out):
            now &= before
        for axis in range(3):
            for end in (0, -1):
                out[(slice(None),) * axis + (end,)] = False
        mask = out
    return mask


def dilated(mask: Mask, times: int = 1) -> Mask:
    """Dilate by the six neighbours of each voxel."""
    for _ in range(times):
        out = mask.copy()
        for now, before in _neighbours(mask, out):
            now |= before
        mask = out
    return mask


def opened(mask: Mask) -> Mask:
    """Open by the six neighbours of each voxel, which removes structures two voxels thin."""
    return dilated(eroded(mask))


def squares_to(mask: Mask, radius: float) -> UInt[np.ndarray, "z y x"]:
    """Squared distance to the nearest voxel of a mask, in voxels: exact within a radius, larger than its square beyond.

    Squared distances are minimised one axis after the other. Flat arrays are shifted; padding keeps values that are
    shifted over the end of an axis apart from the next row.
    """
    reach, beyond = int(radius), int(radius**2) + 1
    kind: type[np.uint8 | np.uint32] = np.uint8 if beyond + reach**2 <= np.iinfo(np.uint8).max else np.uint32
    padded = np.pad(mask, (0, reach))
    squares = np.where(padded, 0, beyond).astype(kind).ravel()
    for stride in (1, padded.shape[2], padded.shape[1] * padded.shape[2]):
        before = squares.copy()
        for distance in range(1, reach + 1):
            shift = stride * distance
            further = np.add(before, distance**2, dtype=kind)
            np.minimum(squares[shift:], further[:-shift], out=squares[shift:])
            np.minimum(squares[:-shift], further[shift:], out=squares[:-shift])
    box = tuple(slice(n) for n in mask.shape)
    return np.asarray(squares.reshape(padded.shape)[box])


def opened_by_ball(mask: Mask, radius: float) -> Mask:
    """Open with a ball, its radius in voxels; outside the array the mask is False."""
    reach = int(radius)
    inner = tuple(slice(reach, reach + n) for n in mask.shape)
    core = squares_to(np.pad(~mask, reach, constant_values=True), radius)[inner] > radius**2
    return np.asarray(squares_to(core, radius) <= radius**2)


def filled_slices(mask: Mask) -> Mask:
    """Fill the holes of each slice, with four neighbours."""
    pieces, count = ndimage.label(~mask, IN_SLICE)
    open_ = np.zeros(count + 1, bool)
    for border in (pieces[:, 0], pieces[:, -1], pieces[:, :, 0], pieces[:, :, -1]):
        open_[border] = True
    open_[0] = False
    return np.asarray(~open_[pieces])


def _neighbours(mask: Mask, out: Mask) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pairs of views: an array, and the mask shifted by one voxel, in six directions."""
    pairs = []
    for axis in range(3):
        ahead, behind = ((slice(None),) * axis + (part,) for part in (slice(1, None), slice(None, -1)))
        pairs += [(out[ahead], mask[behind]), (out[behind], mask[ahead])]
    return pairs
