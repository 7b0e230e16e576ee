"""Judges a lung mask by what lungs are: their volume, sides, pieces, share of the body, and what cuts or fills them."""

import numpy as np
from jaxtyping import UInt8
from scipy import ndimage

from hilum.findings import Finding, find
from hilum.preparing.body import field_of_view
from hilum.preparing.field import Chest
from hilum.preparing.sides import LEFT, RIGHT

_LITRES = (1.0, 9.0)
_RIGHT_SHARE = (0.38, 0.70)
_CUT = 0.25
_CUT_CM2 = 15.0
_LOOSE = 0.05
_OF_BODY = (0.08, 0.75)
_DENSE = 0.07


def check(chest: Chest, field: UInt8[np.ndarray, "z y x"]) -> tuple[Finding, ...]:
    """What speaks against a mask; nothing for healthy lungs that were seen whole.

    Args:
        chest: The coarse scan with its lungs.
        field: Their fields.
    """
    labels, ml = chest.labels, chest.step_mm**3 / 1000
    lungs = labels > 0
    if not lungs.any():
        return (find("no-lungs", "no lungs found: nothing like them in the field of view"),)
    litres = np.count_nonzero(lungs) * ml / 1000
    found = []
    if not _LITRES[0] <= litres <= _LITRES[1]:
        low, high = _LITRES
        found.append(find("lungs-volume", f"the lungs measure {litres:.2f} litres, plausible are {low:g} to {high:g}"))
    right = np.count_nonzero(labels == RIGHT) / np.count_nonzero(lungs)
    if not _RIGHT_SHARE[0] <= right <= _RIGHT_SHARE[1]:
        low, high = _RIGHT_SHARE
        found.append(find("lungs-uneven", f"the right lung is {right:.0%} of both, usual are {low:.0%} to {high:.0%}"))
    found += _cuts(chest, litres)
    loose = 1 - sum(_largest(labels == side) for side in (RIGHT, LEFT)) / np.count_nonzero(lungs)
    if loose > _LOOSE:
        found.append(find("lungs-parts", f"{loose:.0%} of the lungs lie apart from the two largest pieces"))
    share = np.count_nonzero(lungs) / np.count_nonzero(chest.body[lungs.any(axis=(1, 2))])
    if not _OF_BODY[0] <= share <= _OF_BODY[1]:
        low, high = _OF_BODY
        message = f"the lungs fill {share:.0%} of the body in their slices, plausible are {low:.0%} to {high:.0%}"
        found.append(find("lungs-share", message))
    deep = ndimage.binary_erosion(field > 0, iterations=2)
    dense = np.count_nonzero(deep & ~lungs) / np.count_nonzero(field)
    if dense > _DENSE:
        found.append(
            find("lungs-dense", f"{dense:.0%} of the lung fields hold no air: consolidation, fluid or collapse")
        )
    return tuple(found)


def _cuts(chest: Chest, litres: float) -> list[Finding]:
    """Where the scan's border cuts the lungs."""
    areas = np.count_nonzero(chest.labels, axis=(1, 2))
    ends = {"lower": areas[0], "upper": areas[-1]}
    edges = [name for name, area in ends.items() if area > _CUT * areas.max()]
    seen = field_of_view(chest.hu)
    inner = ndimage.binary_erosion(seen, border_value=0)
    side_cm2 = np.count_nonzero(chest.labels[:, seen & ~inner]) * chest.step_mm**2 / 100
    if side_cm2 > _CUT_CM2:
        edges.append("side")
    if not edges:
        return []
    message = f"the scan's {' and '.join(edges)} border cuts the lungs; {litres:.2f} litres were seen"
    return [find("lungs-cut", message)]


def _largest(mask: np.ndarray) -> int:
    """Voxels of the largest piece."""
    pieces, count = ndimage.label(mask)
    return int(np.bincount(pieces.ravel())[1:].max()) if count else 0
