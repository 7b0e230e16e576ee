"""Layers over a scan in a page: lungs, lung fields, the box of a model's input and its maps."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from hilum.predicting.explain.heat_map import HeatMap
from hilum.predicting.explain.planes import FULL_COLOUR_ODDS
from hilum.preparing.lungs.overlay import FIELD_RGB, LEFT_RGB, RIGHT_RGB
from hilum.preparing.lungs.segment import Lungs
from hilum.preparing.lungs.sides import LEFT, RIGHT
from hilum.preparing.resample import sample_mask
from hilum.serving.viewer.embedded import nifti_gz
from hilum.volume import Volume

BOX_RGB = (0, 158, 115)
"""Okabe and Ito's green."""
_DOTS = 4
"""One voxel in so many of a face of the box is drawn."""
_LEVELS = 100
"""Steps of a map on each side of 0: as many as the eye tells apart, and few bytes."""

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layer:
    """An image over the scan.

    Attributes:
        name: What it shows, for the reader.
        nifti: The image as compressed NIfTI.
        rgb: Colour of a mask; None: a map, blue below 0 and orange above.
        limit: Value of the full colour.
        opacity: At first, 0 to 1.
        is_shown: Whether it is shown at first.
        note: What must be said of it; empty: nothing.
    """

    name: str
    nifti: bytes
    rgb: Rgb | None = None
    limit: float = 1.0
    opacity: float = 0.5
    is_shown: bool = True
    note: str = ""


def lung_layers(lungs: Lungs, shown: Volume) -> list[Layer]:
    """Right and left lung, and the outline of the lung fields, on the grid of the shown scan; empty without lungs."""
    if not lungs.labels.any():
        return []

    def on_page(labels: np.ndarray, side: int) -> np.ndarray:
        return sample_mask(np.asarray(labels == side), lungs.affine, shown.affine, shown.shape)

    found = []
    for name, side, rgb in (("Right lung", RIGHT, RIGHT_RGB), ("Left lung", LEFT, LEFT_RGB)):
        found.append(_mask_layer(name, on_page(lungs.labels, side), shown, rgb, opacity=0.25))
    outline = np.zeros(shown.shape, bool)
    for side in (RIGHT, LEFT):
        mask = on_page(lungs.field, side)
        outline |= mask & ~ndimage.binary_erosion(mask, border_value=1)
    fields = _mask_layer("Lung fields (outline)", outline, shown, FIELD_RGB, opacity=0.6)
    found.append(replace(fields, is_shown=False))  # in a render they hide the lungs
    return found


def box_layer(sample: Volume, shown: Volume) -> Layer:
    """The edges of the box that a model saw, and its faces as dots, through which a render stays visible."""
    inside, num_ends = np.ones(shown.shape, bool), np.zeros(shown.shape, np.uint8)
    to_sample = np.linalg.inv(sample.affine) @ shown.affine
    for axis in range(3):  # both grids run along the patient's axes
        at = to_sample[axis, axis] * np.arange(shown.shape[axis]) + to_sample[axis, 3]
        is_in = (at >= -0.5) & (at <= sample.shape[axis] - 0.5)
        is_end = is_in & ~ndimage.binary_erosion(is_in)
        inside &= is_in.reshape([-1 if a == axis else 1 for a in range(3)])
        num_ends += is_end.reshape([-1 if a == axis else 1 for a in range(3)])
    z, y, x = np.indices(shown.shape, sparse=True)
    dots = (z + y + x) % _DOTS == 0
    drawn = inside & ((num_ends >= 2) | ((num_ends == 1) & dots))
    return _mask_layer("Box that the model saw", drawn, shown, BOX_RGB, opacity=0.9)


def map_layers(heat_maps: Sequence[HeatMap]) -> list[Layer]:
    """Maps on the model's grid; the first is shown."""
    found = []
    for number, one in enumerate(heat_maps):
        limit = max(float(np.abs(one.values).max()), FULL_COLOUR_ODDS)
        steps = np.rint(one.values / limit * _LEVELS).astype(np.int16)
        found.append(
            Layer(
                name=f"Map: what speaks for {one.output} ({one.method})",
                nifti=nifti_gz(steps, one.affine, slope=limit / _LEVELS),
                limit=limit,
                opacity=0.7,
                is_shown=number == 0,
                note=f"{one.meaning} {one.doubt}".strip(),
            )
        )
    return found


def _mask_layer(name: str, mask: Bool[np.ndarray, "z y x"], shown: Volume, rgb: Rgb, *, opacity: float) -> Layer:
    return Layer(name=name, nifti=nifti_gz(mask.astype(np.uint8), shown.affine), rgb=rgb, opacity=opacity)
