"""Applies a Recipe to a scan: HU on the model's grid, in one interpolation."""

from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from hilum.arrays import ArrayLike
from hilum.errors import GeometryError, PrepareError
from hilum.preparing.grid_placement import place
from hilum.preparing.lungs.masks import GivenLungs, lungs_of, mask_on, read_lungs, widened
from hilum.preparing.lungs.segment import Lungs, refine_lungs
from hilum.preparing.npy import from_npy
from hilum.preparing.resample import sample
from hilum.preparing.signature import sign
from hilum.reading.reader import read
from hilum.settings.recipe import Range, Recipe
from hilum.settings.run import ReadingConfig
from hilum.volume import AIR_HU, HIGHEST_HU, LOWEST_HU, NO_BIN, SourceScan, Volume, clip


def prepare(volume: Volume, recipe: Recipe, *, point_mm: ArrayLike | None = None, lungs: GivenLungs = None) -> Volume:
    """Resample the part of a scan that the model sees to the model's grid, in int16 HU.

    Args:
        volume: The scan, any orientation.
        recipe: Position and spacing of the grid, and the filling outside the scan.
        point_mm: Centre of the grid for region ``point``, LPS mm (x, y, z).
        lungs: Known lungs, or a function that segments them; None: ``segment_lungs``.

    Returns:
        A volume of shape ``recipe.size`` (with ``sub_volumes`` at least that) with axes feet to head, front to back,
        right to left, the findings of reading and preparing and, if the recipe asks for it, the lung mask.

    Raises:
        GeometryError: If the point lies outside the scan.
        PrepareError: If the region cannot be found, a point is missing, or HU are not finite.
        ConfigError: If lungs are given and the recipe does not need them, or they are something else.
    """
    found, lung_findings = lungs_of(volume, recipe, lungs)
    grid = place(volume, recipe, point_mm=point_mm, lungs=found)
    hu = sample(volume, grid.affine, grid.shape, outside=recipe.outside, interpolation=recipe.interpolation)
    if not np.isfinite(hu).all():
        msg = "a scan's HU must be finite where the model sees it, they are not"
        raise PrepareError(msg, hint="Volume.from_array makes such voxels air")
    inside = None
    if found is not None and (recipe.keeps_lungs or recipe.outside_lungs == "air"):
        # Coarse lungs suffice for a box; a mask needs their border on the scan's own grid.
        fine = refine_lungs(volume, found) if lungs is None else found
        inside = mask_on(fine, recipe, grid.affine, grid.shape)
        if recipe.outside_lungs == "air":
            hu[~widened(inside, recipe.margin_mm, grid.affine)] = AIR_HU
    return Volume(
        voxels_hu=np.rint(np.clip(hu, LOWEST_HU, HIGHEST_HU)).astype(np.int16),
        affine=grid.affine,
        tags=volume.tags,
        findings=(*volume.findings, *lung_findings, *grid.findings),
        lungs=inside.astype(np.uint8) if inside is not None and recipe.keeps_lungs else None,
        source=_source(volume, found),
    )


def _source(volume: Volume, lungs: Lungs | None) -> SourceScan:
    """What is known of the whole scan; without digest and profiles, where nobody has signed it."""
    source = volume.source
    if source is None:
        unsigned = np.full((3, 1), NO_BIN, np.int16)
        source = SourceScan(digest="", shape=volume.shape, spacing_mm=volume.spacing_mm, profiles=unsigned)
    return source if lungs is None else replace(source, lungs_litres=lungs.figures.litres)


def prepare_path(
    path: Path,
    recipe: Recipe,
    *,
    point_mm: ArrayLike | None = None,
    series: str = "",
    mask: Path | None = None,
    reading: ReadingConfig | None = None,
) -> Volume:
    """Read and prepare a scan, keeping its digest and signature; a ``.npy`` volume counts as prepared already.

    Args:
        path: A path that ``read`` accepts, or a ``.npy`` array of shape ``recipe.size``.
        recipe: The model's input.
        point_mm: See ``prepare``.
        series: The series to read, if the path holds several.
        mask: File of a lung mask, not 0 inside, for recipes that need the lungs; None: they are segmented.
        reading: Policy of reading; None: the defaults.
    """
    if path.suffix.lower() == ".npy":
        return from_npy(path, recipe)
    volume = read(path, series=series or None, reading=reading)
    volume = replace(volume, source=sign(volume))
    try:
        return prepare(volume, recipe, point_mm=point_mm, lungs=read_lungs(mask, volume) if mask else None)
    except (GeometryError, PrepareError) as exc:
        exc.path = exc.path or path
        raise


def window(volume: Volume, window_hu: Range) -> Volume:
    """Clip HU to a window."""
    return clip(volume, *window_hu)


def normalize(volume: Volume, window_hu: Range) -> Float32[np.ndarray, "z y x"]:
    """Scale voxels to [0, 1] within a window, never by the scan's own minimum and maximum."""
    low, high = window_hu
    scaled = (volume.voxels_hu.astype(np.float32) - low) / (high - low)
    limited: np.ndarray = np.clip(scaled, 0, 1, dtype=np.float32)
    return limited
