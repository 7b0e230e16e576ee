"""Reads .npy arrays, which count as prepared already, on the recipe's grid."""

from pathlib import Path

import numpy as np

from hilum.errors import PrepareError, ReadError
from hilum.preparing.hu_digest import hu_digest
from hilum.preparing.resample import grid_around
from hilum.preparing.signature import profiles_of
from hilum.settings.recipe import Recipe
from hilum.volume import HIGHEST_HU, LOWEST_HU, SourceScan, Volume, affine_from

_UNIT = 1000
"""Factor of values in [0, 1] for their digest, which must not depend on the recipe's window."""


def from_npy(path: Path, recipe: Recipe) -> Volume:
    """Read a ``.npy`` array as a sample centred on the origin, with its values converted to HU.

    Args:
        path: An array of shape ``recipe.size``; with ``sub_volumes`` at least that along each axis.
        recipe: Gives size, spacing and the range of the values.

    Raises:
        ReadError: If the file is not a plain array.
        PrepareError: If its shape or values do not fit, or the recipe needs the lungs.
    """
    unknown = {
        "recipe.lung_channel": recipe.lung_channel,
        "recipe.outside_lungs = air": recipe.outside_lungs == "air",
        "recipe.fit = region": recipe.fit == "region",
    }
    for what in (what for what, wanted in unknown.items() if wanted):
        msg = f"is prepared already: its lungs are not known, and {what} cannot be applied to it"
        raise PrepareError(msg, path=path)
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError as exc:
        msg = "no file or folder"
        raise ReadError(msg, path=path) from exc
    except (OSError, ValueError, EOFError) as exc:
        msg = "is not a plain .npy array"
        raise ReadError(msg, path=path) from exc
    right = array.shape == recipe.size
    if recipe.sub_volumes and array.ndim == 3:
        right = all(n >= least for n, least in zip(array.shape, recipe.size, strict=True))
    if array.dtype.kind not in "iuf" or not right:
        least = " or more" if recipe.sub_volumes else ""
        msg = f"must hold numbers of shape {recipe.size}{least} (recipe.size), holds {array.dtype} of {array.shape}"
        raise PrepareError(msg, path=path)
    if not np.isfinite(array).all():
        msg = "holds values that are not finite"
        raise PrepareError(msg, path=path)
    hu = array.astype(np.float32)
    if recipe.npy_range == "unit":
        if hu.min() < -1e-3 or hu.max() > 1 + 1e-3:
            msg = f"must lie in [0, 1] (recipe.npy_range = unit), lies in [{hu.min():g}, {hu.max():g}]"
            raise PrepareError(msg, path=path)
        low, high = recipe.windows[0]
        hu = low + hu * (high - low)
    source = SourceScan(
        digest=hu_digest(array if recipe.npy_range == "hu" else array.astype(np.float64) * _UNIT),
        shape=hu.shape,
        spacing_mm=recipe.grid_spacing_mm,
        profiles=profiles_of(hu, recipe.grid_spacing_mm),
    )
    steps = affine_from(spacing_mm=recipe.grid_spacing_mm, origin_mm=(0.0, 0.0, 0.0))[:3, :3]
    return Volume(
        voxels_hu=np.rint(np.clip(hu, LOWEST_HU, HIGHEST_HU)).astype(np.int16),
        affine=grid_around(np.zeros(3), steps, array.shape),
        source=source,
    )
