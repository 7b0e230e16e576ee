"""Checks a lung mask for plausibility: volume, right share, components, share of the body, cut and dense parts."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from hilum.findings import Finding, find
from hilum.preparing.lungs.body import TISSUE_HU, field_of_view
from hilum.preparing.lungs.field import Chest
from hilum.preparing.lungs.morphology import eroded
from hilum.preparing.lungs.sides import LEFT, RIGHT

_LITRES = (1.0, 9.0)
"""Plausible volume of both lungs: total lung capacity of adults is about 4 to 8.5 l (Quanjer 1993, ECSC reference
values, for heights of 1.5 to 1.95 m), less at expiration and in children."""
_RIGHT = (0.38, 0.70)
"""Plausible share of the right lung, which is 52 to 58 % in healthy people (rule of thumb)."""
_BODY = (0.08, 0.75)
"""Plausible share of the lungs in the body, in the slices with lung (rule of thumb)."""
_END, _SIDE_CM2 = 0.25, 15.0
"""Area of the lungs in the first or last slice over the largest one, and area at the sides of the field of view, from
which the scan counts as cut (rules of thumb)."""
_LOOSE = 0.05
_DENSE = 0.07
_BRIGHT = 0.3
"""Largest unremarkable values of the figures of the same names (rules of thumb)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LungFigures:
    """Measurements of a lung mask; shares lie between 0 and 1.

    Attributes:
        litres: Volume of both lungs.
        field_litres: Volume of both lung fields.
        right: Share of the right lung in the volume of both.
        body: Share of the lungs in the body, in the slices with lung.
        lower_end: Area of the lungs in the lowest slice of the scan over their largest area.
        upper_end: The same for the uppermost slice.
        side_cm2: Area in which the lungs touch the side of the field of view.
        loose: Share of the lungs outside the largest component of each lung.
        dense: Share of the lung fields without air, excluding a rim of 6 mm.
        bright: Share of the lungs that is as bright as tissue: small for Hilum's own masks, which start from air.
    """

    litres: float = 0.0
    field_litres: float = 0.0
    right: float = 0.0
    body: float = 0.0
    lower_end: float = 0.0
    upper_end: float = 0.0
    side_cm2: float = 0.0
    loose: float = 0.0
    dense: float = 0.0
    bright: float = 0.0


def measure(chest: Chest, field: UInt8[np.ndarray, "z y x"]) -> LungFigures:
    """Measure lungs and lung fields; all zeros without lungs."""
    lungs = chest.labels > 0
    if not lungs.any():
        return LungFigures()
    voxels, litre = np.count_nonzero(lungs), 1e6 / chest.step_mm**3
    areas = np.count_nonzero(lungs, axis=(1, 2))
    seen = field_of_view(chest.hu)
    side = seen & ~ndimage.binary_erosion(seen)
    deep = eroded(field > 0, round(6 / chest.step_mm))
    values = {
        "litres": voxels / litre,
        "field_litres": np.count_nonzero(field) / litre,
        "right": np.count_nonzero(chest.labels == RIGHT) / voxels,
        "body": voxels / max(1, int(np.count_nonzero(chest.body[areas > 0]))),
        "lower_end": areas[0] / areas.max(),
        "upper_end": areas[-1] / areas.max(),
        "side_cm2": np.count_nonzero(lungs[:, side]) * chest.step_mm**2 / 100,
        "loose": 1 - sum(_largest(chest.labels == one) for one in (RIGHT, LEFT)) / voxels,
        "bright": np.count_nonzero(chest.hu[lungs] > TISSUE_HU) / voxels,
        "dense": np.count_nonzero(deep & ~lungs) / np.count_nonzero(field),
    }
    return LungFigures(**{name: float(value) for name, value in values.items()})


def judge_lungs(figures: LungFigures) -> tuple[Finding, ...]:
    """Findings against a mask; none for healthy lungs that the scan covers completely."""
    if not figures.litres:
        return (find("no-lungs", "no lungs found: nothing like them in the field of view"),)
    found = []
    low, high = _LITRES
    if not low <= figures.litres <= high:
        message = f"the lungs measure {figures.litres:.2f} litres, plausible are {low:g} to {high:g}"
        found.append(find("lungs-volume", message))
    low, high = _RIGHT
    if not low <= figures.right <= high:
        message = f"the right lung is {figures.right:.0%} of both, usual are {low:.0%} to {high:.0%}"
        found.append(find("lungs-uneven", message))
    ends = {"lower": figures.lower_end > _END, "upper": figures.upper_end > _END, "side": figures.side_cm2 > _SIDE_CM2}
    cut = " and ".join(name for name, is_cut in ends.items() if is_cut)
    if cut:
        message = f"the scan's {cut} border cuts the lungs; {figures.litres:.2f} litres were seen"
        found.append(find("lungs-cut", message))
    if figures.loose > _LOOSE:
        message = f"{figures.loose:.0%} of the lungs lie apart from the largest piece of each"
        found.append(find("lungs-parts", message))
    low, high = _BODY
    if not low <= figures.body <= high:
        message = (
            f"the lungs fill {figures.body:.0%} of the body in their slices, plausible are {low:.0%} to {high:.0%}"
        )
        found.append(find("lungs-share", message))
    if figures.dense > _DENSE:
        message = f"{figures.dense:.0%} of the lung fields hold no air: consolidation, fluid, collapse or a mass"
        found.append(find("lungs-dense", message))
    if figures.bright > _BRIGHT:
        found.append(find("lungs-bright", f"{figures.bright:.0%} of the lungs is as bright as tissue"))
    return tuple(found)


def _largest(mask: np.ndarray) -> int:
    """Voxels of the largest connected component."""
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    pieces, count = ndimage.label(mask[boxes[0]] if boxes else mask)
    return int(np.bincount(pieces.ravel())[1:].max()) if count else 0
