"""Renders lungs and lung fields over three planes of a scan, for visual inspection."""

from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hilum.pages import LUNG_RGB, grey, outline
from hilum.preparing.lungs.segment import Lungs, locate_lungs
from hilum.reading.doctor import Inspection
from hilum.volume import Volume

RIGHT_RGB, LEFT_RGB, FIELD_RGB = LUNG_RGB, (0, 114, 178), (240, 228, 66)
"""Okabe and Ito's vermilion, blue and yellow."""

_TINT = 0.35

Picture = UInt8[np.ndarray, "y x rgb"]


def inspect_lungs(volume: Volume) -> Inspection:
    """Segment the lungs for ``hilum inspect --lungs``: verdict, figures, findings and pictures of three planes."""
    lungs = locate_lungs(volume)
    figures = lungs.figures
    summary = "no lungs found"
    if figures.litres:
        summary = (
            f"lungs {lungs.verdict}: {figures.litres:.2f} litres, {figures.right:.0%} right; "
            f"fields {figures.field_litres:.2f} litres, "
            f"{figures.dense:.0%} dense; {figures.body:.0%} of the body"
        )
    # Reading never refuses a scan for its lungs; only a recipe that needs them does.
    findings = tuple(replace(finding, severity="note") for finding in lungs.findings)
    return Inspection(
        what="lungs", verdict=lungs.verdict, summary=summary, figures=figures, findings=findings,
        pictures=overlay(volume, lungs),
    )  # fmt: skip


def overlay(volume: Volume, lungs: Lungs, *, point_mm: Any = None, pixel_mm: float = 1.6) -> tuple[Picture, ...]:
    """Render axial, coronal and sagittal pictures in radiological orientation: head up, patient's right on the left.

    The right lung is tinted vermilion, the left blue; the lung fields have a yellow outline.

    Args:
        volume: A scan.
        lungs: Its lungs, on any parallel grid.
        point_mm: Intersection of the planes, LPS mm (x, y, z); None: the centre of the larger lung.
        pixel_mm: Edge of a pixel.
    """
    to_lungs = np.linalg.inv(lungs.affine) @ volume.affine
    at = [
        (np.arange(max(1, round(extent / pixel_mm))) + 0.5) * pixel_mm / spacing - 0.5
        for extent, spacing in zip(volume.extent_mm, volume.spacing_mm, strict=True)
    ]
    middle = _middle(lungs, to_lungs, volume) if point_mm is None else volume.mm_to_index(point_mm)
    pictures = []
    for axis in range(3):
        index = [np.array([middle[axis]]) if a == axis else places for a, places in enumerate(at)]
        hu = volume.voxels_hu[_nearest(index, volume.shape)].squeeze(axis)
        lungs_index = [to_lungs[a, a] * places + to_lungs[a, 3] for a, places in enumerate(index)]
        cells = _nearest(lungs_index, lungs.labels.shape)
        picture = _tinted(hu, lungs.labels[cells].squeeze(axis), lungs.field[cells].squeeze(axis))
        pictures.append(picture if axis == 0 else picture[::-1])
    return tuple(pictures)


def _middle(lungs: Lungs, to_lungs: np.ndarray, volume: Volume) -> np.ndarray:
    """Index in the scan of the centre of the larger lung, or without lungs of the scan."""
    sides = [lungs.labels == side for side in (1, 2)]
    larger = max(sides, key=np.count_nonzero)
    if not larger.any():
        return (np.array(volume.shape) - 1) / 2
    centre = np.array([np.median(axis) for axis in np.nonzero(larger)])
    return np.asarray((centre - to_lungs[:3, 3]) / np.diag(to_lungs[:3, :3]))


def _nearest(index: list[np.ndarray], shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    return np.ix_(*(np.rint(places).astype(int).clip(0, n - 1) for places, n in zip(index, shape, strict=True)))


def _tinted(hu: np.ndarray, labels: np.ndarray, field: np.ndarray) -> Picture:
    picture = np.repeat(grey(hu)[..., np.newaxis], 3, axis=2).astype(np.float32)
    for side, colour in ((1, RIGHT_RGB), (2, LEFT_RGB)):
        picture[labels == side] += _TINT * (np.array(colour) - picture[labels == side])
        picture[outline(field == side)] = FIELD_RGB
    return picture.round().astype(np.uint8)
