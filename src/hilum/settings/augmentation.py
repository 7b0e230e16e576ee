"""Settings of the random changes to training samples; imports no torch."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from hilum.errors import require
from hilum.settings.recipe import Range, Recipe, Triple

PresetName: TypeAlias = Literal["none", "tutorial", "standard", "strong"]

LARGEST_ELASTIC = 0.4
"""Largest displacement of a control point over the distance between control points: a cubic B-spline field folds
nowhere if each component stays below 1 / 2.48 = 0.403 of it (Choi and Lee 2000, Injectivity conditions of 2D and 3D
uniform cubic B-spline functions, doi:10.1006/gmod.2000.0531)."""

LARGEST_POINT_ELASTIC = 0.1
"""The same for region point, where a stronger deformation would change a lesion's size and margin (rule of thumb)."""

POINT_SIZE = 0.03
"""Largest change of size for region point (rule of thumb): its size is the strongest sign of what a nodule is."""

GEOMETRY = ("rotation", "scaling", "translation", "shear", "elastic")
PROBABILITIES = (
    "extent", *GEOMETRY, "zoom", "noise", "kernel", "thickness", "calibration", "level", "width", "gamma", "cutout",
    "mixup", "cutmix",
)  # fmt: skip
"""The settings that are a single probability; ``flip`` has three."""

PRESETS = f"one of {', '.join(get_args(PresetName))}"

_LIMITS: dict[str, Range] = {
    "extent_by": (0.05, 1.0),
    "flip": (0.0, 1.0),
    "rotation_deg": (0.0, 180.0),
    "scaling_by": (0.0, 0.5),
    "stretch_by": (0.0, 0.5),
    "translation_mm": (0.0, 1000.0),
    "shear_deg": (0.0, 30.0),
    "zoom_by": (0.5, 4.0),
    "elastic_mm": (0.0, 400.0),
    "elastic_grid_mm": (5.0, 1000.0),
    "noise_hu": (0.0, 500.0),
    "dose": (0.01, 1.0),
    "noise_lp_mm": (0.02, 5.0),
    "blur_mm": (0.05, 20.0),
    "sharpen_by": (0.0, 5.0),
    "thickness_mm": (0.1, 100.0),
    "offset_hu": (0.0, 500.0),
    "slope_by": (0.0, 0.5),
    "level_hu": (0.0, 1000.0),
    "width_by": (0.0, 4.0),
    "gamma_by": (0.0, 4.0),
    "cutout_mm": (1.0, 500.0),
    "mix_alpha": (0.05, 100.0),
}
"""Allowed range of each setting (rules of thumb): other values are typing errors, or too expensive to compute."""

_RANGES = ("zoom_by", "dose", "noise_lp_mm", "thickness_mm", "cutout_mm")


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Random changes to training samples in HU and mm: the probability and the range of each.

    The defaults are the preset ``standard`` for whole chests. A name without a unit is a probability; one with a unit
    or ``_by`` is a range: sampled uniformly up to it in both directions, or between two numbers.
    """

    preset: PresetName = "standard"
    """Source of the settings that are not given: none, tutorial (its seven changes and ranges), standard or strong."""

    extent: float = 0.0
    """Probability that a sample ends early, as crops do, so that nothing can be learned from where a crop ends."""

    extent_by: Triple = (0.5, 1.0, 1.0)
    """Least share of the grid's extent (z, y, x) that is kept, around its centre; the rest becomes recipe.outside."""

    flip: Triple = (0.0, 0.0, 0.0)
    """Probability of a flip along each of (z, y, x). None for whole chests, for the heart lies left."""

    rotation: float = 0.5
    """Probability of a rotation."""

    rotation_deg: Triple = (10.0, 10.0, 10.0)
    """Largest angle about the (z, y, x) axis, in degrees of the body, not of the voxel grid."""

    scaling: float = 0.5
    """Probability of a change of size."""

    scaling_by: float = 0.05
    """Change of size of all axes together: 0.05 is 0.95 to 1.05."""

    stretch_by: float = 0.02
    """Further change of each axis on its own, sampled with scaling."""

    translation: float = 0.5
    """Probability of a shift."""

    translation_mm: Triple = (5.0, 5.0, 5.0)
    """Largest shift along (z, y, x)."""

    shear: float = 0.0
    """Probability of a shear."""

    shear_deg: float = 5.0
    """Largest angle of each axis against the next ones."""

    zoom: float = 0.0
    """Probability of a random crop."""

    zoom_by: Range = (1.0, 1.2)
    """Factor by which a random box inside the grid is magnified to fill it."""

    elastic: float = 0.2
    """Probability of an elastic deformation."""

    elastic_mm: float = 4.0
    """Largest displacement of a control point along each axis; at most 0.4 of elastic_grid_mm, else tissue folds."""

    elastic_grid_mm: float = 40.0
    """Distance between the control points of the B-spline."""

    noise: float = 0.3
    """Probability of the quantum noise of a lower dose, correlated as by a reconstruction kernel; none in padding."""

    noise_hu: float = 10.0
    """Standard deviation in the sample's voxels at the scan's own dose; at a share d of it, noise_hu * sqrt(1/d - 1) is
    added. Ten suits voxels of 2 to 3 mm, 20 to 30 those of less than 1 mm."""

    dose: Range = (0.3, 1.0)
    """Share of the dose that is left."""

    noise_lp_mm: Range = (0.15, 0.45)
    """Line pairs per mm at which the noise is strongest: low for smooth kernels, high for sharp ones."""

    kernel: float = 0.2
    """Probability of another reconstruction kernel: smoother or sharper, in the plane of the slices."""

    blur_mm: float = 0.8
    """Standard deviation of the smoothest kernel."""

    sharpen_by: float = 0.5
    """Strength of the sharpest kernel: the share of the detail removed by blur_mm that is added."""

    thickness: float = 0.1
    """Probability of thicker slices."""

    thickness_mm: Range = (3.0, 5.0)
    """Thickness of the new slices: averaged along z and repeated."""

    calibration: float = 0.3
    """Probability of another scanner's calibration."""

    offset_hu: float = 10.0
    """Largest offset of all HU, in both directions."""

    slope_by: float = 0.01
    """Change of the HU scale about water: 0.01 moves air by 10 HU."""

    level: float = 0.3
    """Probability of another level of the window."""

    level_hu: float = 30.0
    """Largest shift of the window's level (brightness)."""

    width: float = 0.3
    """Probability of another width of the window."""

    width_by: float = 0.1
    """Largest change of the window's width (contrast): 0.1 is divided or multiplied by 1.1."""

    gamma: float = 0.1
    """Probability of another gamma."""

    gamma_by: float = 0.15
    """Largest change of the power within the first window: 0.15 is divided or multiplied by 1.15."""

    cutout: float = 0.0
    """Probability that a box is filled with its mean."""

    cutout_mm: Range = (15.0, 40.0)
    """Edges of that box."""

    mixup: float = 0.0
    """Probability that a sample and its label are mixed with another case of the batch (Zhang 2018)."""

    cutmix: float = 0.0
    """Probability that a box is replaced by that of another case of the batch, labels by volume (Yun 2019)."""

    mix_alpha: float = 0.4
    """Parameter of the Beta distribution of the mixing share; a small one keeps most of one case."""

    def __post_init__(self) -> None:
        require(self.preset in get_args(PresetName), "augment.preset", PRESETS, self.preset)
        for name in PROBABILITIES:
            require(0 <= getattr(self, name) <= 1, f"augment.{name}", "a probability", getattr(self, name))
        for name, (low, high) in _LIMITS.items():
            value, default = getattr(self, name), type(self).__dataclass_fields__[name].default
            numbers, count = (tuple(value), len(default)) if isinstance(default, tuple) else ((value,), 1)
            right = len(numbers) == count and all(low <= number <= high for number in numbers)
            require(right, f"augment.{name}", f"{'' if count == 1 else f'{count} of '}{low:g} to {high:g}", value)
        for name in _RANGES:
            first, last = getattr(self, name)
            require(first <= last, f"augment.{name}", "(from, to)", (first, last))

    def check(self) -> None:
        """Raise a ConfigError where settings are inconsistent; not in __post_init__, for flags come one by one."""
        most = LARGEST_ELASTIC * self.elastic_grid_mm
        limits = f"at most {LARGEST_ELASTIC:g} of elastic_grid_mm, {most:g} (beyond, tissue could fold)"
        require(self.elastic_mm <= most, "augment.elastic_mm", limits, self.elastic_mm)
        require(self.mixup + self.cutmix <= 1, "augment.mixup + cutmix", "at most 1", self.mixup + self.cutmix)

    def check_for(self, recipe: Recipe) -> None:
        """Raise a ConfigError also where a change would destroy the signs of disease in the recipe's region.

        Args:
            recipe: Recipe of the samples.
        """
        self.check()
        if recipe.region != "point":
            return
        most = LARGEST_POINT_ELASTIC * self.elastic_grid_mm if self.elastic else self.elastic_mm
        limits = f"at most {LARGEST_POINT_ELASTIC:g} of elastic_grid_mm for region point, {most:g}"
        require(self.elastic_mm <= most, "augment.elastic_mm", limits, self.elastic_mm)
        low, high = 1.0, 1.0
        if self.scaling:
            low, high = ((1 + side * self.scaling_by) * (1 + side * self.stretch_by) for side in (-1, 1))
        if self.zoom:
            low, high = low * min(1.0, self.zoom_by[0]), high * max(1.0, self.zoom_by[1])
        if self.shear:
            sheared = math.tan(math.radians(self.shear_deg))
            low, high = low / (1 + sheared), high * (1 + sheared)
        most = max(high - 1, 1 - low)
        what = f"at most {POINT_SIZE:g} for region point (size is a nodule's strongest sign)"
        require(most <= POINT_SIZE + 1e-9, "the change of size by augment.scaling, zoom and shear", what, f"{most:.3g}")

    @property
    def geometry(self) -> "AugmentConfig":
        """The geometric changes alone, without changes of HU and mixing, as test-time augmentation uses them."""
        off: dict[str, Any] = {name: 0.0 for name in PROBABILITIES if name not in GEOMETRY}
        return replace(self, **off)
