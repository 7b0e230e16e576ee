"""Applies a Recipe: a scan becomes the HU of the model's grid in one interpolation."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from hilum.errors import GeometryError, PrepareError
from hilum.preparing.grid_placement import place
from hilum.preparing.lungs.masks import GivenLungs, lungs_of, mask_on, read_lungs, widened
from hilum.preparing.lungs.segment import refine_lungs
from hilum.preparing.npy import from_npy
from hilum.preparing.resample import sample
from hilum.reading.reader import read
from hilum.settings.recipe import Range, Recipe
from hilum.settings.run import ReadingConfig
from hilum.volume import AIR_HU, HIGHEST_HU, LOWEST_HU, Volume, clip, hu_digest


def prepare(volume: Volume, recipe: Recipe, *, point_mm: Any = None, lungs: GivenLungs = None) -> Volume:
    """The part of a scan that the model sees, on the model's grid, in int16 HU.

    Args:
        volume: The scan, any orientation.
        recipe: Where the grid lies, how fine it is, what lies outside.
        point_mm: Centre of the grid for region ``point``, LPS mm (x, y, z).
        lungs: Lungs from elsewhere, or a function that finds them; None: they are found as ``segment_lungs`` does.

    Returns:
        A volume of shape ``recipe.size`` (with ``sub_volumes`` of that or more) with axes feet to head, front to back,
        right to left, the findings of the scan and of its preparation and, where the recipe asks, the lungs.

    Raises:
        GeometryError: If the point lies outside the scan.
        PrepareError: If the region cannot be found, or a point is missing.
        ConfigError: If lungs are given and the recipe does not look for them.
    """
    found, noticed = lungs_of(volume, recipe, lungs)
    grid = place(volume, recipe, point_mm=point_mm, lungs=found)
    hu = sample(volume, grid.affine, grid.shape, outside=recipe.outside, interpolation=recipe.interpolation)
    inside = None
    if found is not None and (recipe.keeps_lungs or recipe.outside_lungs == "air"):
        # A box needs the coarse lungs only; voxels are told by those with the border on the scan's grid.
        fine = refine_lungs(volume, found) if lungs is None else found
        inside = mask_on(fine, recipe, grid.affine, grid.shape)
        if recipe.outside_lungs == "air":
            hu[~widened(inside, recipe.margin_mm, grid.affine)] = AIR_HU
    return Volume(
        voxels_hu=np.rint(np.clip(hu, LOWEST_HU, HIGHEST_HU)).astype(np.int16),
        affine=grid.affine,
        tags=volume.tags,
        findings=(*volume.findings, *noticed, *grid.findings),
        lungs=inside.astype(np.uint8) if inside is not None and recipe.keeps_lungs else None,
        scan=volume.scan,
    )


def prepare_path(
    path: Path,
    recipe: Recipe,
    *,
    point_mm: Any = None,
    series: str = "",
    mask: Path | None = None,
    reading: ReadingConfig | None = None,
) -> Volume:
    """``prepare`` for a scan on disk; a ``.npy`` volume counts as already prepared. The digest of its HU is kept.

    Args:
        path: Whatever ``read`` takes, or a ``.npy`` array of shape ``recipe.size``.
        recipe: The model's input.
        point_mm: See ``prepare``.
        series: Which series, where the path holds several.
        mask: A mask of the lungs in a file, not 0 inside, for recipes that look for them; None: they are found.
        reading: What is done about odd scans; None: the defaults.
    """
    if path.suffix.lower() == ".npy":
        return from_npy(path, recipe)
    volume = read(path, series=series or None, reading=reading)
    volume = replace(volume, scan=hu_digest(volume.voxels_hu))
    try:
        return prepare(volume, recipe, point_mm=point_mm, lungs=read_lungs(mask, volume) if mask else None)
    except (GeometryError, PrepareError) as exc:
        exc.path = exc.path or path
        raise


def window(volume: Volume, window_hu: Range) -> Volume:
    """HU limited to a window; what is darker is black, what is brighter is white."""
    return clip(volume, *window_hu)


def normalize(volume: Volume, window_hu: Range) -> Float32[np.ndarray, "z y x"]:
    """Voxels scaled to [0, 1] within a window: fixed numbers, never the scan's own extremes."""
    low, high = window_hu
    scaled = (volume.voxels_hu.astype(np.float32) - low) / (high - low)
    limited: np.ndarray = np.clip(scaled, 0, 1, dtype=np.float32)
    return limited
