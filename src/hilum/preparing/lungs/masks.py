"""The lungs that a recipe needs: segmented, or read from a mask of another program."""

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
"""A mask holds no HU and may have few slices, but its header must give its position."""

GivenLungs: TypeAlias = Lungs | FindLungs | None
"""Known lungs, a function that segments them, or None for ``locate_lungs``."""


def lungs_of(volume: Volume, recipe: Recipe, given: GivenLungs) -> tuple[Lungs | None, tuple[Finding, ...]]:
    """The lungs of a scan, if the recipe needs them, and their findings.

    Raises:
        PrepareError: If the region is a part of the lungs and none were found; for other regions that is a note.
        ConfigError: If lungs are given and the recipe does not need them.
    """
    if not recipe.needs_lungs:
        if given is not None:
            msg = f"lungs must be given only where the recipe looks for them, it is of region {recipe.region}"
            raise ConfigError(msg)
        return None, ()
    if not (given is None or isinstance(given, Lungs) or callable(given)):
        msg = f"lungs must be what segment_lungs or lungs_from_mask gives, got {type(given).__name__}"
        raise ConfigError(msg, hint="hilum.lungs_from_mask(scan, mask), mask being a Volume")
    lungs = given if isinstance(given, Lungs) else (locate_lungs if given is None else given)(volume)
    refused = refusals(lungs.findings)
    if recipe.part is None:
        return lungs, tuple(replace(f, severity="note") if f in refused else f for f in lungs.findings)
    if refused or lungs.verdict == "no-lungs":
        code = refused[0].code if refused else lungs.verdict
        raise PrepareError("; ".join(str(f) for f in lungs.findings), code=code)
    return lungs, lungs.findings


def read_lungs(path: Path, volume: Volume) -> Lungs:
    """Read the lungs of a scan from a mask file, see ``lungs_from_mask``.

    Args:
        path: A path that ``read`` accepts.
        volume: The scan; the mask may be on another grid in the same patient coordinates.

    Raises:
        PrepareError: If the mask cannot be read, holds other numbers, lies outside the scan, or its header gives no
            position.
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
    """Dilate a mask by a margin in mm."""
    if margin_mm == 0 or not mask.any():
        return mask
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=spacing) <= margin_mm)
