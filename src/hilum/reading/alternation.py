"""Finds two interleaved reconstructions in one stack, by slices that alternate in sharpness or brightness."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int, Num

from hilum.findings import Finding, Policy

_ROWS = 16
"""Rows of each slice that are sampled: enough to decide, in a few milliseconds."""

_LEAST_SLICES, _LEAST_PIXELS = 8, 1024
"""Fewer slices, or smaller ones, alternate by chance."""

_TISSUE_HU = (-200, 300)
_EDGE_HU = 150
"""Larger differences of neighbouring pixels are edges, not noise."""

_SHARPER, _BRIGHTER_HU, _LIKER = 0.12, 2.0, 0.85
"""Least differences by which every second slice is sharper or brighter, or more like the next but one."""

_ROUNDING = 0.05
"""A mean that was rounded or slightly smoothed differs by no more of the usual difference of neighbours, or 0.5 HU."""

_SPREADS = 2.0
"""The difference must be this many times its own spread along the stack."""


def alternation_findings(
    planes: Sequence[Num[np.ndarray, "y x"]] | Num[np.ndarray, "z y x"],
    places: Sequence[int] | Int[np.ndarray, " n"],
    rules: Policy,
) -> list[Finding]:
    """Findings on a stack of two reconstructions, or two phases, half a step apart, that the headers do not separate.

    Slices that overlap are alike. Where two kernels interleave, every second slice is sharper; where two phases do,
    every second one is brighter, or slices are more like the next but one than like their neighbours.

    Args:
        planes: Measured slices in HU, in order.
        places: Index of each in the grid.
        rules: The policy.
    """
    if len(planes) < _LEAST_SLICES or planes[0].size < _LEAST_PIXELS:
        return []
    step = max(1, len(planes[0]) // _ROWS)
    sample = np.stack([plane[::step] for plane in planes]).astype(np.float32)
    if _is_resampled(sample):
        message = "every second slice is the mean of its neighbours: the scan was resampled to half its step"
        return [rules.find("processed-image", message)]
    sign = np.where(np.asarray(places) % 2, -1.0, 1.0)
    noise = np.minimum(np.abs(np.diff(sample, axis=2)), _EDGE_HU).mean(axis=(1, 2))
    level = np.clip(sample, *_TISSUE_HU).mean(axis=(1, 2))
    sharper = _alternates(noise, sign) / max(float(np.median(noise)), 1.0)
    brighter = _alternates(level, sign)
    if sharper > _SHARPER:
        how = f"every second slice is sharper or noisier than its neighbours, by {sharper:.0%}"
    elif brighter > _BRIGHTER_HU:
        how = f"every second slice is brighter than its neighbours, by {brighter:.1f} HU"
    elif (liker := _liker_next_but_one(sample)) < _LIKER:
        how = f"slices are more like the next but one than like their neighbours (a difference of {liker:.2f} to 1)"
    else:
        return []
    message = f"two reconstructions or phases interleave, and nothing tells their slices apart: {how}"
    return [rules.find("interleaved-series", message)]


def _is_resampled(sample: Float[np.ndarray, "n y x"]) -> bool:
    """True where the even slices, or the odd ones, are means of their neighbours to within rounding."""
    apart = np.abs(sample[1:-1] - (sample[:-2] + sample[2:]) / 2).mean(axis=(1, 2))
    near = float(np.median(np.abs(np.diff(sample, axis=0)).mean(axis=(1, 2))))
    return near > 1.0 and min(float(np.median(apart[::2])), float(np.median(apart[1::2]))) < max(0.5, _ROUNDING * near)


def _alternates(figure: Float[np.ndarray, " n"], sign: Float[np.ndarray, " n"]) -> float:
    """Difference of a figure between even and odd slices; 0 where it does not hold all along the stack."""
    steps = sign[1:-1] * (figure[1:-1] - (figure[:-2] + figure[2:]) / 2)
    middle = float(np.median(steps))
    spread = 1.4826 * float(np.median(np.abs(steps - middle)))
    return abs(middle) if abs(middle) > _SPREADS * spread and np.mean(steps * middle > 0) > 0.9 else 0.0


def _liker_next_but_one(sample: Float[np.ndarray, "n y x"]) -> float:
    """The difference of slices two apart, as a share of that of neighbours; 1 for slices all alike."""
    near = float(np.median(np.abs(np.diff(sample, axis=0)).mean(axis=(1, 2))))
    far = float(np.median(np.abs(sample[2:] - sample[:-2]).mean(axis=(1, 2))))
    return far / near if near > 1.0 else 1.0
