"""Checks whether a scan's values are plausible HU: air, airways and soft tissue must have their known HU."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from scipy import ndimage

from hilum.findings import Finding, Policy
from hilum.volume import AIR_HU, Affine, Volume

_CELL_MM = 8.0
"""Distance of the voxels that are sampled: some hundred thousand of a scan suffice, in a few milliseconds."""

_LEAST_MM = (100.0, 150.0)
"""Shortest extent and side of a scan that is checked: a smaller one may be a crop of any tissue."""

_SOFT_HU = (-150, 150)
"""Fat (-100) and muscle (50), or the one peak that noise makes of them."""

_AIRWAY_HU = (-1024, -800)
"""Air in trachea and bronchi: -1000 HU, brighter by noise and by walls in the same voxel."""

_LUNG_HU = (-930, -400)
"""Aerated lung, from emphysema to expiration."""
_DENSE_HU, _DENSE_SHARE = 700, 0.15
"""Bone and metal are never this much of a scan: soft tissue is, where 1024 was not taken off."""

_LEAST_LUNG_ML = 20.0
"""Every chest has more air than this within tissue; a head has less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Levels:
    """HU of the parts of a scan; None where there are too few voxels.

    Attributes:
        air: Median of the air that reaches the sides, padding left out; lungs too, in a field that cuts them.
        airways: Darkest hundredth of the air within the body: trachea and bronchi.
        fat: Peak between -160 and -50 HU.
        muscle: Peak between -30 and 150 HU.
        lungs_ml: Volume of what looks like lung, its borders left out.
    """

    air: float | None
    airways: float | None
    fat: float | None
    muscle: float | None
    lungs_ml: float


def check_hu(volume: Volume, rules: Policy) -> tuple[Levels | None, list[Finding]]:
    """The levels of a scan and findings on them; None and no findings for small crops."""
    shortest, side, _ = sorted(volume.extent_mm)
    if shortest < _LEAST_MM[0] or side < _LEAST_MM[1]:
        return None, []
    strides = cell_strides(volume.affine)
    cells = volume.voxels_hu[:: strides[0], :: strides[1], :: strides[2]]
    measured = cells[cells != AIR_HU]  # padding is air now; the few measured voxels of this HU do not matter
    if measured.size < 1000:
        return None, [rules.find("hu-implausible", "the scan is empty: nearly all voxels are air or padding")]
    levels = _levels(cells, measured, volume.voxel_mm3 * float(np.prod(strides)) / 1000)
    problem = _problem(measured, levels)
    findings = [rules.find("hu-implausible", problem)] if problem else []
    if not problem and levels.lungs_ml < _LEAST_LUNG_ML:
        message = f"nothing like lungs in the field: {levels.lungs_ml:.0f} ml of air within tissue"
        findings.append(rules.find("no-air", message))
    return levels, findings


def cell_strides(affine: Affine) -> tuple[int, int, int]:
    """Stride of the sampled voxels along each axis of a grid."""
    z, y, x = (max(1, round(_CELL_MM / float(s))) for s in np.linalg.norm(affine[:3, :3], axis=0))
    return z, y, x


def _levels(cells: Shaped[np.ndarray, "z y x"], measured: Shaped[np.ndarray, " n"], cell_ml: float) -> Levels:
    dark = cells < _LUNG_HU[1]
    parts, _ = ndimage.label(dark)
    edges = np.concatenate([parts[:, :, [0, -1]].ravel(), parts[:, [0, -1], :].ravel()])
    outside = np.isin(parts, np.unique(edges[edges > 0]))
    around, within = cells[outside & (cells != AIR_HU)], cells[dark & ~outside]
    lung = ndimage.binary_erosion(dark & ~outside, border_value=1)
    if np.count_nonzero(lung) * cell_ml < _LEAST_LUNG_ML:  # a field that cuts the lungs: air around is darker than they
        lung = ndimage.binary_erosion(dark & (cells > _LUNG_HU[0]), border_value=1)
    counts = np.bincount(np.clip(np.rint(measured).astype(np.int64), -1024, 1023) + 1024, minlength=2048)
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 8)
    return Levels(
        air=float(np.median(around)) if around.size > 100 else None,
        airways=float(np.percentile(within, 1)) if within.size * cell_ml > 50 else None,
        fat=_peak(smooth, -160, -50),
        muscle=_peak(smooth, -30, 150),
        lungs_ml=float(np.count_nonzero(lung)) * cell_ml,
    )


def _peak(smooth: Shaped[np.ndarray, " n"], low: int, high: int) -> float | None:
    """The highest point between two HU, where it is a peak and not a flank."""
    part = smooth[low + 1024 : high + 1025]
    top = int(np.argmax(part))
    return float(low + top) if 0 < top < len(part) - 1 and part[top] > 0 else None


def _problem(measured: Shaped[np.ndarray, " n"], levels: Levels) -> str:
    """A sentence on why the values cannot be HU; empty where they can."""
    dark, dense = float(np.mean(measured < -50)), float(np.mean(measured > _DENSE_HU))
    soft = float(np.mean((measured > -200) & (measured < 300)))
    if dense > _DENSE_SHARE:
        return f"{dense:.0%} of the voxels lie above {_DENSE_HU} HU, as if {-AIR_HU} or 1024 had not been taken off"
    if dark < 1e-3:
        return f"no voxels are as dark as fat or air: the darkest is {measured.min():g} HU"
    if soft < 0.01:
        return f"only {soft:.1%} of the voxels lie between -200 and 300 HU, where soft tissue is"
    tissue = measured[(measured > -300) & (measured < 1000)]
    counts = np.bincount(np.rint(tissue).astype(np.int64) + 300, minlength=1300)
    peak = int(np.argmax(ndimage.gaussian_filter1d(counts.astype(float), 15))) - 300
    if not _SOFT_HU[0] <= peak <= _SOFT_HU[1]:
        return f"soft tissue peaks at {peak} HU, must peak between {_SOFT_HU[0]} and {_SOFT_HU[1]} HU"
    if levels.airways is not None and levels.airways > _AIRWAY_HU[1]:
        return f"the darkest air within the body measures {levels.airways:.0f} HU, must be below {_AIRWAY_HU[1]} HU"
    return ""
