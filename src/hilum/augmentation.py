"""What may happen to a training sample, how probably and how far; the presets; imports no torch."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, get_args

from hilum.errors import require
from hilum.recipe import Range, Recipe, Triple

PresetName: TypeAlias = Literal["none", "tutorial", "standard", "strong"]

LARGEST_ELASTIC = 0.4
"""Of a control point's way, as a share of the distance between control points: a cubic B-spline field folds nowhere if
each component stays below 1 / 2.48 = 0.403 of it (Choi and Lee 2000, Injectivity conditions of 2D and 3D uniform cubic
B-spline functions, doi:10.1006/gmod.2000.0531)."""

POINT_SIZE = 0.03
"""Largest change of size around a point: a nodule's size is the strongest sign of what it is."""

GEOMETRY = ("rotation", "scaling", "translation", "shear", "elastic")
PROBABILITIES = (
    "extent", *GEOMETRY, "zoom", "noise", "kernel", "thickness", "calibration", "level", "width", "gamma", "cutout",
    "mixup", "cutmix",
)  # fmt: skip
"""The settings that are one probability; flips have three."""

_ONE_OF_THEM = f"one of {', '.join(get_args(PresetName))}"
_NEVER_FULL = 0.5
_DEGREES = 180.0


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
    rotation_deg: Triple = (10.0, 10.0, 10.0)
    """About the (z, y, x) axis, in degrees: of the body, not of voxels."""

    scaling: float = 0.5
    scaling_by: float = 0.05
    """Change of size of all axes together: 0.05 is 0.95 to 1.05."""

    stretch_by: float = 0.02
    """Further change of each axis on its own, drawn with scaling."""

    translation: float = 0.5
    translation_mm: Triple = (5.0, 5.0, 5.0)
    """Along (z, y, x)."""

    shear: float = 0.0
    shear_deg: float = 5.0
    """Of each axis against each other."""

    zoom: float = 0.0
    zoom_by: Range = (1.0, 1.2)
    """A box so many times smaller, anywhere inside the grid, fills it: a random crop."""

    elastic: float = 0.2
    elastic_mm: float = 4.0
    """Way of a control point along each axis; at most 0.4 of elastic_grid_mm, so that nothing folds."""

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
    thickness_mm: Range = (3.0, 5.0)
    """Slices this thick: averaged along z and repeated."""

    calibration: float = 0.3
    """Another scanner's calibration."""

    offset_hu: float = 10.0
    slope_by: float = 0.01
    """Change of the HU scale about water: 0.01 moves air by 10 HU."""

    level: float = 0.3
    level_hu: float = 30.0
    """The window's level: brightness."""

    width: float = 0.3
    width_by: float = 0.1
    """The window's width: contrast. 0.1 is divided or multiplied by 1.1."""

    gamma: float = 0.1
    gamma_by: float = 0.15
    """Power within the first window, 0.15 is divided or multiplied by 1.15; its ends stay."""

    cutout: float = 0.0
    cutout_mm: Range = (15.0, 40.0)
    """Edges of a box that is filled with its mean."""

    mixup: float = 0.0
    """Mixed with another case of the batch, labels too (Zhang 2018)."""

    cutmix: float = 0.0
    """A box of another case of the batch put in, labels by its volume (Yun 2019)."""

    mix_alpha: float = 0.4
    """Of the Beta distribution of the share: small leaves most of one case."""

    def __post_init__(self) -> None:
        require(self.preset in get_args(PresetName), "augment.preset", _ONE_OF_THEM, self.preset)
        for name in PROBABILITIES:
            require(0 <= getattr(self, name) <= 1, f"augment.{name}", "a probability", getattr(self, name))
        require(all(0 <= p <= 1 for p in self.flip), "augment.flip", "probabilities (z, y, x)", self.flip)
        require(self.mixup + self.cutmix <= 1, "augment.mixup + cutmix", "at most 1", self.mixup + self.cutmix)
        right = all(0 < share <= 1 for share in self.extent_by)
        require(right, "augment.extent_by", "shares (z, y, x) above 0, at most 1", self.extent_by)
        right = all(0 <= angle <= _DEGREES for angle in self.rotation_deg)
        require(right, "augment.rotation_deg", "(z, y, x) of 0 to 180", self.rotation_deg)
        right = all(0 <= mm < math.inf for mm in self.translation_mm)
        require(right, "augment.translation_mm", "(z, y, x) in mm, finite, at least 0", self.translation_mm)
        for name in ("scaling_by", "stretch_by", "slope_by"):
            value = getattr(self, name)
            require(0 <= value < _NEVER_FULL, f"augment.{name}", "at least 0 and below 0.5", value)
        require(0 <= self.shear_deg <= 30, "augment.shear_deg", "0 to 30", self.shear_deg)
        for name in ("noise_hu", "sharpen_by", "offset_hu", "level_hu", "width_by", "gamma_by"):
            value = getattr(self, name)
            require(0 <= value < math.inf, f"augment.{name}", "finite, at least 0", value)
        for name in ("elastic_grid_mm", "blur_mm", "mix_alpha"):
            value = getattr(self, name)
            require(0 < value < math.inf, f"augment.{name}", "finite and positive", value)
        most = LARGEST_ELASTIC * self.elastic_grid_mm
        limits = f"0 to {LARGEST_ELASTIC:g} of elastic_grid_mm, {most:g} (beyond, tissue could fold)"
        require(0 <= self.elastic_mm <= most, "augment.elastic_mm", limits, self.elastic_mm)
        for name in ("zoom_by", "dose", "noise_lp_mm", "thickness_mm", "cutout_mm"):
            low, high = getattr(self, name)
            require(0 < low <= high < math.inf, f"augment.{name}", "(from, to), positive", (low, high))
        require(self.dose[1] <= 1, "augment.dose", "(from, to), at most 1", self.dose)

    def check_for(self, recipe: Recipe) -> None:
        """Raise a ConfigError where a change would destroy what the recipe's region is looked at for.

        Args:
            recipe: Of the samples.
        """
        if recipe.region != "point":
            return
        low, high = 1.0, 1.0
        if self.scaling:
            low, high = ((1 + side * self.scaling_by) * (1 + side * self.stretch_by) for side in (-1, 1))
        if self.zoom:
            low, high = low * min(1.0, self.zoom_by[0]), high * max(1.0, self.zoom_by[1])
        most = max(high - 1, 1 - low)
        what = f"at most {POINT_SIZE:g} for region point (size is a nodule's strongest sign)"
        require(most <= POINT_SIZE + 1e-9, "the change of size by augment.scaling and zoom", what, f"{most:.3g}")

    @property
    def moves(self) -> bool:
        """Whether anything is ever moved."""
        return any(self.flip) or any(getattr(self, name) for name in GEOMETRY)

    @property
    def geometry(self) -> "AugmentConfig":
        """The same without any change of HU and without mixing: what test-time augmentation does."""
        off: dict[str, Any] = {name: 0.0 for name in PROBABILITIES if name not in GEOMETRY}
        return replace(self, **off)


_NONE = AugmentConfig(preset="none", **dict.fromkeys(PROBABILITIES, 0.0))  # type: ignore[arg-type]


def preset(name: PresetName, recipe: Recipe) -> AugmentConfig:
    """A preset for what a recipe looks at: whole chests, or small things around a point.

    Args:
        name: none, tutorial, standard or strong.
        recipe: Its region and the shape of its box decide.

    Raises:
        ConfigError: If there is no such preset.
    """
    require(name in get_args(PresetName), "augment.preset", _ONE_OF_THEM, name)
    if name == "none":
        return _NONE
    chest = _TUTORIAL if name == "tutorial" else AugmentConfig() if name == "standard" else _STRONG
    return _around_point(chest, recipe) if recipe.region == "point" else chest


def _around_point(chest: AugmentConfig, recipe: Recipe) -> AugmentConfig:
    """A finding has no side and any pose, and its size is kept; a thin box is turned in its plane alone."""
    sized = replace(chest, scaling_by=0.02, stretch_by=0.009, zoom=0.0, cutout=0.0)
    if chest.preset == "tutorial":  # in voxels of its 128 cubed: here of a box of 40 mm
        return replace(sized, scaling_by=0.03, stretch_by=0.0, translation_mm=(1.5, 1.5, 1.5), elastic_mm=1.6,
                       elastic_grid_mm=20.0)  # fmt: skip
    known = recipe.spacing_mm or recipe.extent_mm
    thin = bool(known) and recipe.grid_extent_mm[0] < recipe.grid_extent_mm[1] / 2
    strong = chest.preset == "strong"
    tilt = 0.0 if thin else 30.0 if strong else 15.0
    return replace(
        sized,
        extent=1.0 if thin and recipe.outside == "edge" else 0.0,  # ends of air would show how thick it is
        flip=(0.5, 0.5, 0.5),
        rotation=1.0,
        rotation_deg=(180.0, tilt, tilt),
        scaling=1.0,
        translation=1.0,
        translation_mm=(0.0 if thin else 2.0, 2.0, 2.0),
        shear=0.0,
        elastic=0.2 if strong else 0.0,
        elastic_mm=1.0,
        elastic_grid_mm=10.0,
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
    elastic_mm=13.0,  # as even as its normal with 3 voxels
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
