"""Presets of augmentation, for whole chests and for points; imports no torch."""

from dataclasses import fields, replace
from typing import get_args

from hilum.errors import require
from hilum.settings.augmentation import PRESETS, PROBABILITIES, AugmentConfig, PresetName
from hilum.settings.recipe import Recipe

_NONE = AugmentConfig(preset="none", **dict.fromkeys(PROBABILITIES, 0.0))  # type: ignore[arg-type]


def preset(name: PresetName, recipe: Recipe) -> AugmentConfig:
    """The preset of a name for the region of a recipe: whole chests, or lesions around a point.

    Args:
        name: none, tutorial, standard or strong.
        recipe: Its region and the shape of its box matter.

    Raises:
        ConfigError: If there is no such preset.
    """
    require(name in get_args(PresetName), "augment.preset", PRESETS, name)
    if name == "none":
        return _NONE
    chest = _TUTORIAL if name == "tutorial" else AugmentConfig() if name == "standard" else _STRONG
    return _around_point(chest, recipe) if recipe.region == "point" else chest


def _around_point(chest: AugmentConfig, recipe: Recipe) -> AugmentConfig:
    """Adapt a preset to lesions: any flip and rotation, but nearly no change of size; a thin box turns in its plane."""
    sized = replace(chest, scaling_by=0.02, stretch_by=0.009, zoom=0.0, cutout=0.0)
    if chest.preset == "tutorial":  # the tutorial's voxels of 128 cubed, in mm of a box of 40 mm
        return replace(sized, scaling_by=0.03, stretch_by=0.0, translation_mm=(1.5, 1.5, 1.5), elastic_mm=1.6,
                       elastic_grid_mm=20.0)  # fmt: skip
    known = recipe.spacing_mm or recipe.extent_mm
    thin = bool(known) and recipe.grid_extent_mm[0] < recipe.grid_extent_mm[1] / 2
    strong = chest.preset == "strong"
    tilt = 0.0 if thin else 30.0 if strong else 15.0
    return replace(
        sized,
        extent=1.0 if thin and recipe.outside == "edge" else 0.0,  # with air outside, the thickness would show
        flip=(0.5, 0.5, 0.5),
        rotation=1.0,
        rotation_deg=(180.0, tilt, tilt),
        scaling=1.0,
        translation=1.0,
        translation_mm=(0.0 if thin else 2.0, 2.0, 2.0),
        shear=0.0,
        elastic=0.0,
        elastic_mm=1.0,
        elastic_grid_mm=20.0,
        noise_hu=2 * chest.noise_hu,
        thickness_mm=(2.0, 3.0),
    )


_TUTORIAL = replace(
    _NONE,
    preset="tutorial",
    rotation=0.5,
    rotation_deg=(10.0, 10.0, 10.0),
    scaling=0.5,
    scaling_by=0.1,
    stretch_by=0.0,
    translation=0.5,
    translation_mm=(12.5, 12.5, 12.5),  # 5 voxels of a chest of 320 mm in 128 cubed
    elastic=0.2,
    elastic_mm=13.0,  # uniform, with the standard deviation of the tutorial's normal: 3 voxels
    elastic_grid_mm=160.0,  # 3 points along 128 voxels
    noise=0.3,
    noise_hu=70.0,  # 0.05 of the window
    dose=(0.5, 0.5),
    level=0.3,
    level_hu=70.0,
    width=0.3,
    width_by=0.1,
)

_STRONG = replace(
    AugmentConfig(),
    preset="strong",
    rotation=0.8,
    rotation_deg=(20.0, 15.0, 15.0),
    scaling=0.8,
    scaling_by=0.1,
    stretch_by=0.05,
    translation=0.8,
    translation_mm=(15.0, 15.0, 15.0),
    shear=0.3,
    zoom=0.2,
    elastic=0.4,
    elastic_mm=8.0,
    noise=0.5,
    noise_hu=15.0,
    dose=(0.15, 1.0),
    kernel=0.4,
    blur_mm=1.2,
    sharpen_by=1.0,
    thickness=0.2,
    thickness_mm=(3.0, 8.0),
    calibration=0.5,
    offset_hu=20.0,
    slope_by=0.02,
    level=0.5,
    level_hu=60.0,
    width=0.5,
    width_by=0.2,
    gamma=0.3,
    gamma_by=0.3,
    cutout=0.2,
    mixup=0.1,
    cutmix=0.1,
)


def under_flags(own: AugmentConfig, recipe: Recipe, name: PresetName, now: Recipe) -> AugmentConfig:
    """Defaults of the augmentation flags: a preset for the new recipe, with the settings that a file overrides.

    Args:
        own: The file's augmentation.
        recipe: The file's recipe.
        name: The preset that the flags name; if it is not the file's, the file's own settings are dropped.
        now: The recipe with the flags applied.
    """
    before, after = preset(own.preset, recipe), preset(name, now)
    if name != own.preset:
        return after
    set_otherwise = {
        f.name: getattr(own, f.name) for f in fields(own) if getattr(own, f.name) != getattr(before, f.name)
    }
    return replace(after, **set_otherwise)
