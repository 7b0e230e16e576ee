"""Converts stored values to HU, the same for every format: rescales, makes padding air, limits to a scanner's range."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Num
from scipy import ndimage

from hilum.findings import Finding, Policy
from hilum.reading.dicom.headers import FileHeader
from hilum.volume import AIR_HU, HIGHEST_HU, LOWEST_HU

_INT16 = np.iinfo(np.int16)

PADDED = int(_INT16.min)
"""The value of padding until it becomes air: lower than any HU."""

_ONE_VALUE, _NEAR_HU, _LEAST = 0.9, (5, 100), 10
"""A value is a constant where it is at least this share of all voxels near it, and so many voxels. Near is three times
the smallest difference of values, within these bounds."""


def slice_into(
    out: Num[np.ndarray, "y x"], words: Num[np.ndarray, "y x"], header: FileHeader, *, unpack: bool = True
) -> tuple[int, int]:
    """Write the HU of one slice to its place in a volume.

    Args:
        out: The slice's place in the volume: int16 where slope and intercept are whole, else float32.
        words: Stored words in native byte order; may be overwritten.
        header: Header of the slice.
        unpack: Whether bits above HighBit must be masked; pixels decoded by GDCM have none.

    Returns:
        Number of pixels below a scanner's range, which stay there until ``settle`` has seen all slices, and number of
        pixels above it (metal), which are limited.
    """
    if unpack:
        words = unpacked(words, header)
    slope, intercept = header.slope, header.intercept or 0.0
    if out.dtype == np.int16 and slope == 1 and words.dtype.itemsize == 2:
        low, high = int(words.min()) + int(intercept), int(words.max()) + int(intercept)
        if (
            _INT16.min <= low and high <= _INT16.max and not _has_bright_padding(words, header, high)
        ):  # then unsigned words may be read as signed: sums are the same
            np.add(words.view(np.int16), np.array(int(intercept)).astype(np.int16), out=out)
            num_low = int(np.count_nonzero(out < LOWEST_HU)) if low < LOWEST_HU else 0
            num_metal = int(np.count_nonzero(out > HIGHEST_HU)) if high > HIGHEST_HU else 0
            if num_metal:
                np.minimum(out, HIGHEST_HU, out=out)
            return num_low, num_metal
    hu, num_low, num_metal = limited(frame_hu(words, header))
    out[...] = hu
    return num_low, num_metal


def _padding_ranges(header: FileHeader) -> list[tuple[int, int]]:
    """Ranges of stored values that are padding; the tag may have another sign than the pixels."""
    if header.padding is None:
        return []
    low, high = header.padding
    return [(low + shift, high + shift) for shift in (0, 1 << header.bits[0], -(1 << header.bits[0]))]


def _has_bright_padding(stored: Num[np.ndarray, "y x"], header: FileHeader, high_hu: int) -> bool:
    """Whether padding may be brighter than air: a corner pixel is, or some pixel is brighter than metal."""
    if header.padding is None:
        return False
    corners = [int(stored[y, x]) for y in (0, -1) for x in (0, -1)]
    slope, intercept = header.slope, header.intercept or 0.0
    ranges = _padding_ranges(header)
    bright = any(a <= c <= b and c * slope + intercept > AIR_HU for c in corners for a, b in ranges)
    return bright or high_hu > HIGHEST_HU


def frame_hu(stored: Num[np.ndarray, "y x"], header: FileHeader) -> Num[np.ndarray, "y x"]:
    """Rescaled HU of one slice; pixels marked as padding are ``PADDED``, or air as they are.

    PixelPaddingValue is a stored value (PS3.3 C.7.5.1.1.2), often written with the wrong sign. Within the range of a
    scanner it counts only where a corner of the slice holds it: some files name a value that is in use, such as 0 for
    water. Padding that is air already stays, so that a copy of the scan in a format without that attribute has the same
    voxels.
    """
    slope, intercept = header.slope, header.intercept or 0.0
    integral = slope == round(slope) and intercept == round(intercept)
    rescaled = stored.astype(np.int64) * int(slope) + int(intercept) if integral else stored * slope + intercept
    if header.padding:
        corners = stored[[0, 0, -1, -1], [0, -1, 0, -1]].astype(np.int64)
        for low, high in _padding_ranges(header):
            floor = AIR_HU if ((corners >= low) & (corners <= high)).any() else HIGHEST_HU
            rescaled[(stored >= low) & (stored <= high) & (rescaled > floor)] = PADDED
    return rescaled


def unpacked(words: Num[np.ndarray, "*shape"], header: FileHeader) -> Num[np.ndarray, "*shape"]:
    """Stored values from allocated words: bits above HighBit are masked, the sign is extended."""
    allocated, stored, high = header.bits
    if stored == allocated:
        return words
    if stored == high + 1 and words.size:  # nothing below; where nothing is above either, the words are the values
        low, most = int(words.min()), int(words.max())
        floor = -(1 << (stored - 1)) if header.is_signed else 0
        if floor <= low and most < floor + (1 << stored):
            return words
    wide = words.astype(np.int64)
    field = (wide >> (high + 1 - stored)) & ((1 << stored) - 1)
    if header.is_signed:
        sign = 1 << (stored - 1)
        return (field ^ sign) - sign
    return field


def limited(hu: Num[np.ndarray, "*shape"]) -> tuple[Num[np.ndarray, "*shape"], int, int]:
    """HU up to 3071, with ``PADDED`` for nan, and the number of voxels below the range and above it (metal)."""
    if hu.dtype.kind == "u":  # cannot hold HU of air
        hu = hu.astype(np.int64 if hu.dtype.itemsize > 2 else np.int32)
    low = hu < LOWEST_HU if hu.dtype.kind == "i" else ~(hu >= LOWEST_HU)
    metal = hu > HIGHEST_HU
    num_low, num_metal = int(np.count_nonzero(low)), int(np.count_nonzero(metal))
    if num_low:
        hu = np.where(low & ~(hu > PADDED), hu.dtype.type(PADDED), hu)
    if num_metal:
        hu = np.where(metal, hu.dtype.type(HIGHEST_HU), hu)
    return hu, num_low, num_metal


def settle(planes: Sequence[Num[np.ndarray, "y x"]] | Num[np.ndarray, "z y x"]) -> tuple[int, int]:
    """Bring values below -1024 HU into the scanner's range, in place, judged over all slices of a scan.

    One constant, and voxels marked as padding, become air (-1000 HU), so that it can be interpolated. Scattered
    values are the noise of air, which is limited to -1024 HU. All slices are judged together, so that the same scan is
    the same in every format, whichever way its slices run.

    Returns:
        Number of voxels that were padding, and that were noise.
    """
    counts = np.zeros(LOWEST_HU - PADDED, np.int64)  # by value, -32768 HU first
    for plane in planes:
        counts += np.bincount(_place(plane[plane < LOWEST_HU]), minlength=len(counts))
    occurring = np.flatnonzero(counts)
    width = int(np.clip(3 * np.diff(occurring).min(initial=1 << 15), *_NEAR_HU))  # HU may come in coarse steps
    near = ndimage.convolve1d(counts, np.ones(2 * width + 1, np.int64), mode="constant")
    is_padding = (counts >= _LEAST) & (counts >= _ONE_VALUE * near)
    is_padding[0] = True
    for plane in planes:
        low = plane < LOWEST_HU
        plane[low] = np.where(is_padding[_place(plane[low])], AIR_HU, LOWEST_HU)
    return int(counts[is_padding].sum()), int(counts[~is_padding].sum())


def _place(low: Num[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """The bins of values below the range; fractions are counted with the nearest whole number below it."""
    place: np.ndarray = np.minimum(np.rint(low), LOWEST_HU - 1).astype(np.int64) - PADDED
    return place


def intensity_findings(
    num_padding: int, num_noise: int, num_metal: int, num_voxels: int, rules: Policy
) -> list[Finding]:
    """Findings on the voxels that ``settle`` and ``limited`` changed."""
    findings = []
    if num_padding:
        message = f"{_count(num_padding, num_voxels)} are padding (below {LOWEST_HU} HU); they are air now"
        findings.append(rules.find("padding", message))
    if num_noise:
        message = f"{_count(num_noise, num_voxels)} are noise of air below {LOWEST_HU} HU; they are limited to it"
        findings.append(rules.find("air-noise", message))
    if num_metal:
        findings.append(rules.find("clipped", f"{num_metal} voxels above {HIGHEST_HU} HU are limited to it"))
    return findings


def _count(number: int, num_voxels: int) -> str:
    share = number / num_voxels
    return f"{share:.1%} of the voxels" if share >= 1e-3 else f"{number} of the voxels"
