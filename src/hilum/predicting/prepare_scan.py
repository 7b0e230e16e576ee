"""Prepares one scan as the sample that a model sees; the card of the model says how."""

from pathlib import Path

from hilum.arrays import ArrayLike
from hilum.deciding.model_folder import ModelCard
from hilum.errors import ConfigError
from hilum.files import user_path
from hilum.preparing import prepare, prepare_path
from hilum.preparing.lungs.masks import read_lungs
from hilum.volume import Volume


def prepare_scan(
    card: ModelCard,
    scan: Volume | str | Path,
    *,
    point_mm: ArrayLike | None = None,
    series: str = "",
    mask: str | Path | None = None,
) -> Volume:
    """Prepare one scan as the sample that a model sees.

    Args:
        card: The model's card.
        scan: A Volume in HU, or a path that ``read`` accepts.
        point_mm: LPS mm (x, y, z), for models of region ``point``.
        series: The series to read, if the folder holds several.
        mask: File of a lung mask, for models that need the lungs.

    Raises:
        ConfigError: If a mask is given that would have no effect.
        HilumError: If the scan cannot be read or prepared.
    """
    recipe, at = card.recipe, user_path(mask) if mask is not None else None
    if at is not None and not recipe.needs_lungs:
        msg = f"a mask is for models that look for the lungs, this one is of region {recipe.region}"
        raise ConfigError(msg)
    if at is not None and not isinstance(scan, Volume) and Path(scan).suffix.lower() == ".npy":
        msg = f"a mask needs a scan; {scan} is a prepared volume"
        raise ConfigError(msg)
    if isinstance(scan, Volume):
        lungs = read_lungs(at, scan) if at is not None else None
        return prepare(scan, recipe, point_mm=point_mm, lungs=lungs)
    return prepare_path(user_path(scan), recipe, point_mm=point_mm, series=series, mask=at, reading=card.reading)
