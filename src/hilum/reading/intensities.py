"""Stored values to HU, the same for every file format: rescaled, padding made air, limited to a scanner's range."""

from typing import Any

import numpy as np
from jaxtyping import Num

from hilum.findings import Finding, find
from hilum.reading.headers import Frame
from hilum.volume import AIR_HU, HIGHEST_HU, LOWEST_HU


def frame_hu(stored: Num[np.ndarray, "y x"], frame: Frame) -> Num[np.ndarray, "y x"]:
    """Rescaled HU of one slice; pixels marked as padding lie below a scanner's range, or are air as they are.

    PixelPaddingValue is a stored value (PS3.3 C.7.5.1.1.2), often written with the wrong sign. It counts only where
    a corner of the slice holds it: some files name a value that is in use, such as 0 for water. Padding that is air
    already stays, so that a copy of the scan in a format without that attribute has the same voxels.
    """
    header = frame.header
    slope, intercept = frame.slope, frame.intercept or 0.0
    integral = slope == round(slope) and intercept == round(intercept)
    rescaled = stored.astype(np.int32) * int(slope) + int(intercept) if integral else stored * slope + intercept
    padding = header.get("PixelPaddingValue")
    if isinstance(padding, int):
        low, high = sorted((padding, int(header.get("PixelPaddingRangeLimit", padding))))
        bits = int(header.BitsAllocated)
        corners = stored[[0, 0, -1, -1], [0, -1, 0, -1]].astype(np.int64)
        for shift in (0, 1 << bits, -(1 << bits)):  # the tag's sign may not be the pixels'
            if ((corners >= low + shift) & (corners <= high + shift)).any():
                rescaled[(stored >= low + shift) & (stored <= high + shift) & (rescaled > AIR_HU)] = LOWEST_HU - 1
    return rescaled


def unpacked(words: Num[np.ndarray, "*shape"], header: Any) -> Num[np.ndarray, "*shape"]:
    """Stored values out of allocated words: bits above HighBit are masked, the sign is extended."""
    allocated, stored, high = int(header.BitsAllocated), int(header.BitsStored), int(header.HighBit)
    signed = int(header.PixelRepresentation) == 1
    if stored == allocated:
        return words
    left, right = allocated - 1 - high, allocated - stored
    wide = words.astype(np.int64)
    if signed:
        sign = 1 << (stored - 1)
        field = (wide >> (high + 1 - stored)) & ((1 << stored) - 1)
        return (field ^ sign) - sign
    return ((wide << left) & ((1 << allocated) - 1)) >> right


def limited(hu: Num[np.ndarray, "*shape"]) -> tuple[Num[np.ndarray, "*shape"], int, int]:
    """HU within a scanner's range, and how many voxels were padding and how many metal.

    What lies below -1024 HU, or is not a number, is padding and becomes air (-1000 HU), so that it can be
    interpolated; what lies above 3071 HU is metal and is limited to that.
    """
    if hu.dtype.kind == "u":  # has no word for air
        hu = hu.astype(np.int64 if hu.dtype.itemsize > 2 else np.int32)
    padding = hu < LOWEST_HU if hu.dtype.kind == "i" else ~(hu >= LOWEST_HU)
    metal = hu > HIGHEST_HU
    num_padding, num_metal = int(np.count_nonzero(padding)), int(np.count_nonzero(metal))
    if num_padding or num_metal:
        hu = np.where(padding, hu.dtype.type(AIR_HU), np.where(metal, hu.dtype.type(HIGHEST_HU), hu))
    return hu, num_padding, num_metal


def intensity_findings(num_padding: int, num_metal: int, num_voxels: int) -> list[Finding]:
    """What ``limited`` changed, as findings."""
    findings = []
    if num_padding:
        message = f"{num_padding / num_voxels:.1%} of the voxels are padding (below {LOWEST_HU} HU); they are air now"
        findings.append(find("padding", message))
    if num_metal:
        findings.append(find("clipped", f"{num_metal} voxels above {HIGHEST_HU} HU are limited to it"))
    return findings
