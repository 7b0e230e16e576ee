"""Says where a map lies: in the lungs, in the lung fields, elsewhere in the body, or outside of it."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool

from hilum.predicting.explain.heat_map import HeatMap
from hilum.preparing.lungs.segment import Lungs, body_of, locate_lungs
from hilum.preparing.resample import sample_mask
from hilum.volume import Volume

MAP_PLACES = {
    "lungs": "in the lungs",
    "lung-field": "in the lung fields, outside the lungs",
    "body": "in the body, outside the lung fields",
    "outside": "outside the body",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where a map lies; None where it has no positive part.

    Attributes:
        peak: The place of the peak, a key of ``MAP_PLACES``.
        shares: Share of the sum of positive values in each place; each voxel counts for the first that holds it.
    """

    peak: str | None
    shares: dict[str, float] | None


def places_of(volume: Volume, sample: Volume, lungs: Lungs | None = None) -> dict[str, Bool[np.ndarray, "z y x"]]:
    """Masks of the places on a sample's grid, which together hold every voxel once.

    Args:
        volume: The scan.
        sample: The sample prepared from it.
        lungs: Its lungs; None: segmented.
    """
    lungs = locate_lungs(volume) if lungs is None else lungs
    body, affine = body_of(volume)
    inside = [
        sample_mask(mask, own, sample.affine, sample.shape)
        for mask, own in ((lungs.mask, lungs.affine), (lungs.part("lung-field"), lungs.affine), (body, affine))
    ]
    masks, free = {}, np.ones(sample.shape, bool)
    for name, mask in zip(MAP_PLACES, [*inside, free.copy()], strict=True):
        masks[name] = mask & free
        free &= ~mask
    return masks


def locate(heat_map: HeatMap, places: dict[str, Bool[np.ndarray, "z y x"]]) -> Location:
    """Where the peak and the positive values of a map lie."""
    index = heat_map.peak_index
    if index is None:
        return Location(peak=None, shares=None)
    voxel = tuple(np.rint(index).astype(int).clip(0, np.array(heat_map.values.shape) - 1).tolist())
    positive = np.maximum(heat_map.values, 0).astype(np.float64)
    total = positive.sum()
    return Location(
        peak=next(name for name, mask in places.items() if mask[voxel]),
        shares={name: float(positive[mask].sum() / total) for name, mask in places.items()},
    )
