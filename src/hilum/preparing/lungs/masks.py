"""The lungs that a recipe asks for: found here, or read from a mask that another program made."""

from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool
from scipy import ndimage

from hilum.errors import ConfigError, HilumError, PrepareError
from hilum.findings import Finding, refusals
from hilum.preparing.lungs.segment import FindLungs, Lungs, locate_lungs, lungs_from_mask
from hilum.preparing.resample import sample_mask
from hilum.reading.reader import read
from hilum.settings.recipe import Recipe
from hilum.settings.run import ReadingConfig
from hilum.volume import Affine, Volume

_AS_MASK = ReadingConfig(policy="lenient", override=("geometry-missing=refused", "position-missing=refused"))
"""A mask holds no HU and may have few slices; but its header must say where it lies."""

GivenLungs: TypeAlias = Lungs | FindLungs | None
"""Lungs that are known, a function that finds them, or None: they are looked for as Hilum does."""


def lungs_of(volume: Volume, recipe: Recipe, given: GivenLungs) -> tuple[Lungs | None, tuple[Finding, ...]]:
    """The lungs of a scan, where the recipe asks for them, and what was noticed about them.

    Raises:
        PrepareError: If the region is a part of the lungs and there are none. Else that is a note.
        ConfigError: If lungs are given and the recipe does not ask for them.
    """
    if not recipe.needs_lungs:
        if given is not None:
            msg = f"lungs must be given only where the recipe looks for them, it is of region {recipe.region}"
            raise ConfigError(msg)
        return None, ()
    lungs = given if isinstance(given, Lungs) else (given or locate_lungs)(volume)
    refused = refusals(lungs.findings)
    if recipe.part is None:
        return lungs, tuple(replace(f, severity="note") if f in refused else f for f in lungs.findings)
    if refused or lungs.verdict == "no-lungs":
        raise PrepareError("; ".join(str(f) for f in lungs.findings))
    return lungs, lungs.findings


def read_lungs(path: Path, volume: Volume) -> Lungs:
    """The lungs of a scan from a mask in a file, as ``lungs_from_mask`` reads it.

    Args:
        path: Whatever ``read`` takes.
        volume: The scan; the mask may be on another grid in the same patient coordinates.

    Raises:
        PrepareError: If the mask cannot be read, holds other numbers, lies beside the scan, or its header does not say
            where it lies.
    """
    try:
        mask = read(path, reading=_AS_MASK)
    except HilumError as exc:
        msg = f"the mask cannot be used: {exc.message}"
        raise PrepareError(msg, path=path, code=exc.code) from exc
    try:
        return lungs_from_mask(volume, mask)
    except PrepareError as exc:
        exc.path = path
        raise


def mask_on(lungs: Lungs, recipe: Recipe, affine: Affine, shape: tuple[int, int, int]) -> Bool[np.ndarray, "z y x"]:
    """The region's part of the lungs, or both lungs, on the model's grid."""
    return sample_mask(lungs.part(recipe.part or "lungs"), lungs.affine, affine, shape)


def widened(mask: Bool[np.ndarray, "z y x"], margin_mm: float, affine: Affine) -> Bool[np.ndarray, "z y x"]:
    """A mask with everything that is within a margin of it."""
    if margin_mm == 0 or not mask.any():
        return mask
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing) <= margin_mm)
