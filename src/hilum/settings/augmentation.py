"""What may happen to a training sample, how probably and how far; imports no torch."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from hilum.errors import require
from hilum.settings.recipe import Range, Recipe, Triple

PresetName: TypeAlias = Literal["none", "tutorial", "standard", "strong"]

LARGEST_ELASTIC = 0.4
"""Of a control point's way, as a share of the distance between control points: a cubic B-spline field folds nowhere if
each component stays below 1 / 2.48 = 0.403 of it (Choi and Lee 2000, Injectivity conditions of 2D and 3D uniform cubic
B-spline functions, doi:10.1006/gmod.2000.0531)."""

LARGEST_POINT_ELASTIC = 0.1
"""The same around a point, where much bending would be a change of size and margin."""

POINT_SIZE = 0.03
"""Largest change of size around a point: a nodule's size is the strongest sign of what it is."""

GEOMETRY = ("rotation", "scaling", "translation", "shear", "elastic")
PROBABILITIES = (
    "extent", *GEOMETRY, "zoom", "noise", "kernel", "thickness", "calibration", "level", "width", "gamma", "cutout",
    "mixup", "cutmix",
)  # fmt: skip
"""The settings that are one probability; flips have three."""

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
"""Of each setting: what lies beyond is a slip of the pen, or more than the machine can do."""

_RANGES = ("zoom_by", "dose", "noise_lp_mm", "thickness_mm", "cutout_mm")


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentConfig:
    """Random changes to training samples in HU and mm: of each its probability and how far it goes.

    The defaults are the preset ``standard`` for whole chests. A name without a unit is a probability, one with a unit
    or ``_by`` is how far: drawn evenly up to it in both directions, or between two numbers.
    """

    preset: PresetName = "standard"
    """Where what is not given comes from: none, tutorial (its seven, its ranges), standard or strong."""

    extent: float = 0.0
    """A sample that ends early, as crops do: nothing can be read from where a crop ends."""

    extent_by: Triple = (0.5, 1.0, 1.0)
    """Least share of the grid's extent (z, y, x) that is kept, around its middle; beyond lies recipe.outside."""

    flip: Triple = (0.0, 0.0, 0.0)
    """A flip along (z, y, x), each on its own. The heart has a side: none for whole chests."""

    rotation: float = 0.5
    """Probability of a rotation."""

    rotation_deg: Triple = (10.0, 10.0, 10.0)
    """About the (z, y, x) axis, in degrees: of the body, not of voxels."""

    scaling: float = 0.5
    """Probability of a change of size."""

    scaling_by: float = 0.05
    """Change of size of all axes together: 0.05 is 0.95 to 1.05."""

    stretch_by: float = 0.02
    """Further change of each axis on its own, drawn with scaling."""

    translation: float = 0.5
    """Probability of a shift."""

    translation_mm: Triple = (5.0, 5.0, 5.0)
    """Along (z, y, x)."""

    shear: float = 0.0
    """Probability of a shear."""

    shear_deg: float = 5.0
    """Of each axis against the next ones."""

    zoom: float = 0.0
    """Probability of a random crop."""

    zoom_by: Range = (1.0, 1.2)
    """A box so many times smaller, anywhere inside the grid, fills it: a random crop."""

    elastic: float = 0.2
    """Probability of an elastic deformation."""

    elastic_mm: float = 4.0
    """Largest way of a control point along each axis; at most 0.4 of elastic_grid_mm, so that nothing folds."""

    elastic_grid_mm: float = 40.0
    """Distance between the control points of the B-spline."""

    noise: float = 0.3
    """Quantum noise of a lower dose, correlated as a reconstruction kernel leaves it; none in padding."""

    noise_hu: float = 10.0
    """Standard deviation in the sample's voxels at the scan's own dose; at a share d of it, noise_hu * sqrt(1/d - 1) is
    added. Ten suits voxels of 2 to 3 mm, 20 to 30 those of less than 1 mm."""

    dose: Range = (0.3, 1.0)
    """Share of the dose that is left."""

    noise_lp_mm: Range = (0.15, 0.45)
    """Line pairs per mm at which the noise is strongest: low for smooth kernels, high for sharp ones."""

    kernel: float = 0.2
    """Another reconstruction kernel: smoother or sharper, in the plane of the slices."""

    blur_mm: float = 0.8
    """Standard deviation of the smoothest."""

    sharpen_by: float = 0.5
    """How much of what that blur takes away the sharpest adds."""

    thickness: float = 0.1
    """Probability of thicker slices."""

    thickness_mm: Range = (3.0, 5.0)
    """Slices this thick: averaged along z and repeated."""

    calibration: float = 0.3
    """Another scanner's calibration."""

    offset_hu: float = 10.0
    """Offset of all HU, up to this in both directions."""

    slope_by: float = 0.01
    """Change of the HU scale about water: 0.01 moves air by 10 HU."""

    level: float = 0.3
    """Probability of another level of the window."""

    level_hu: float = 30.0
    """The window's level: brightness."""

    width: float = 0.3
    """Probability of another width of the window."""

    width_by: float = 0.1
    """The window's width: contrast. 0.1 is divided or multiplied by 1.1."""

    gamma: float = 0.1
    """Probability of another gamma."""

    gamma_by: float = 0.15
    """Power within the first window, 0.15 is divided or multiplied by 1.15; its ends stay."""

    cutout: float = 0.0
    """Probability of a box that is blotted out."""

    cutout_mm: Range = (15.0, 40.0)
    """Edges of a box that is filled with its mean."""

    mixup: float = 0.0
    """Mixed with another case of the batch, labels too (Zhang 2018)."""

    cutmix: float = 0.0
    """A box of another case of the batch put in, labels by its volume (Yun 2019)."""

    mix_alpha: float = 0.4
    """Of the Beta distribution of the share: small leaves most of one case."""

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
        """Raise a ConfigError where settings do not go together; not sooner, for flags come one by one."""
        most = LARGEST_ELASTIC * self.elastic_grid_mm
        limits = f"at most {LARGEST_ELASTIC:g} of elastic_grid_mm, {most:g} (beyond, tissue could fold)"
        require(self.elastic_mm <= most, "augment.elastic_mm", limits, self.elastic_mm)
        require(self.mixup + self.cutmix <= 1, "augment.mixup + cutmix", "at most 1", self.mixup + self.cutmix)

    def check_for(self, recipe: Recipe) -> None:
        """Raise a ConfigError also where a change would destroy what the recipe's region is looked at for.

        Args:
            recipe: Of the samples.
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
        """The same without any change of HU and without mixing: what test-time augmentation does."""
        off: dict[str, Any] = {name: 0.0 for name in PROBABILITIES if name not in GEOMETRY}
        return replace(self, **off)
