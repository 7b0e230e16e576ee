"""What is done to one sample, as plain numbers: drawn from (seed, epoch, case), saved, replayed and put into words."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float64

from hilum.randomness import generator, torch_seed
from hilum.settings.augmentation import AugmentConfig
from hilum.settings.recipe import Triple

Flips: TypeAlias = tuple[bool, bool, bool]
Rows: TypeAlias = tuple[
    tuple[float, float, float, float], tuple[float, float, float, float], tuple[float, float, float, float]
]

STAY: Rows = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))
"""The map that moves nothing."""

_ROWS = (
    "extent", "flip", "rotation", "scaling", "translation", "shear", "zoom", "elastic", "noise", "kernel", "thickness",
    "calibration", "level", "width", "gamma", "cutout",
)  # fmt: skip
"""Each change has random numbers of its own, so that switching one off leaves the others as they were; a new one is
added at the end, or all others would be drawn anew."""

_COLUMNS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is done to one sample, in the order of the fields; the defaults do nothing.

    Only numbers, so that it can be kept as JSON (``configfile.to_dict`` and ``from_dict``) and applied again.

    Attributes:
        extent: Share of the grid (z, y, x) that is kept, around its middle.
        flip: Along (z, y, x).
        affine: From output to input positions relative to the middle, (z, y, x) in mm.
        zoom: Edge of the grid over that of the box that fills it.
        zoom_at: Where the box lies, -1 to 1 along (z, y, x).
        elastic_mm: Largest way of a control point along each axis.
        elastic_grid_mm: Distance between control points.
        elastic_seed: Of their ways.
        noise_hu: Standard deviation of the noise that is added.
        noise_lp_mm: Line pairs per mm at which it is strongest.
        noise_seed: Of the noise.
        kernel: How much of what a blur in the plane takes away is added; -1: the blur itself.
        kernel_mm: Standard deviation of that blur.
        thickness_mm: Of the slices; 0: as they are.
        thickness_at: Where the first of them begins, 0 to 1 of a slice.
        slope: HU about water are multiplied by it,
        offset_hu: and moved by this.
        level_hu: The window's level is moved by this,
        width: and its width multiplied by this.
        gamma: Power within the window.
        cutout_mm: Edges of the box that is filled with its mean, (z, y, x); 0: none.
        cutout_at: Its middle, 0 to 1 of the grid.
    """

    extent: Triple = (1.0, 1.0, 1.0)
    flip: Flips = (False, False, False)
    affine: Rows = STAY
    zoom: float = 1.0
    zoom_at: Triple = (0.0, 0.0, 0.0)
    elastic_mm: float = 0.0
    elastic_grid_mm: float = 40.0
    elastic_seed: int = 0
    noise_hu: float = 0.0
    noise_lp_mm: float = 0.3
    noise_seed: int = 0
    kernel: float = 0.0
    kernel_mm: float = 0.8
    thickness_mm: float = 0.0
    thickness_at: float = 0.0
    slope: float = 1.0
    offset_hu: float = 0.0
    level_hu: float = 0.0
    width: float = 1.0
    gamma: float = 1.0
    cutout_mm: Triple = (0.0, 0.0, 0.0)
    cutout_at: Triple = (0.5, 0.5, 0.5)

    @property
    def moves(self) -> bool:
        """Whether the sample is resampled."""
        return self.affine != STAY or self.zoom != 1 or self.elastic_mm > 0

    @property
    def recolours(self) -> bool:
        """Whether HU change where nothing moves."""
        return (
            self.noise_hu > 0
            or self.kernel != 0
            or self.thickness_mm > 0
            or (self.slope, self.offset_hu, self.level_hu, self.width, self.gamma) != (1, 0, 0, 1, 1)
            or any(self.cutout_mm)
        )


def draw(config: AugmentConfig, case_ids: list[str], *, seed: int, epoch: int) -> list[Change]:
    """The change of each case, from (seed, epoch, case) alone, whatever batch it is in.

    Args:
        config: Probabilities and ranges.
        case_ids: One for each sample of a batch.
        seed: Of the run.
        epoch: Of the training.
    """
    return [_drawn(config, case_id, seed, epoch) for case_id in case_ids]


def _drawn(config: AugmentConfig, case_id: str, seed: int, epoch: int) -> Change:
    numbers = generator(seed, epoch, case_id, "augment").random((len(_ROWS), _COLUMNS))
    u = {name: _Numbers(row) for name, row in zip(_ROWS, numbers.tolist(), strict=True)}
    affine = np.eye(3, 4)
    for name, part in (("rotation", _rotation), ("scaling", _scaling), ("shear", _shear)):
        if u[name].happens(getattr(config, name)):
            affine[:, :3] @= part(config, u[name])
    if u["translation"].happens(config.translation):
        affine[:, 3] = [u["translation"].either(mm) for mm in config.translation_mm]
    change = Change(
        flip=_three(u["flip"].happens(p) for p in config.flip),
        affine=_three(tuple(row) for row in affine.tolist()),
        elastic_grid_mm=config.elastic_grid_mm,
        elastic_seed=torch_seed(seed, epoch, case_id, "elastic"),
        noise_seed=torch_seed(seed, epoch, case_id, "noise"),
    )
    others = (_extent, _zoom, _elastic, _noise, _kernel, _thickness, _calibration, _level, _width, _gamma, _cutout)
    drawn: dict[str, Any] = {}
    for other in others:
        name = other.__name__.removeprefix("_")
        if u[name].happens(getattr(config, name)):
            drawn |= other(config, u[name])
    return replace(change, **drawn)


class _Numbers:
    """Even random numbers from 0 to 1, taken one after another."""

    def __init__(self, values: list[float]) -> None:
        self._left = iter(values)

    def happens(self, probability: float) -> bool:
        return next(self._left) < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._left)

    def either(self, most: float) -> float:
        return most * (2 * next(self._left) - 1)

    def factor(self, by: float) -> float:
        """From 1 / (1 + by) to 1 + by, as often smaller as larger."""
        return math.exp(self.either(math.log1p(by)))


def _rotation(config: AugmentConfig, u: _Numbers) -> Float64[np.ndarray, "3 3"]:
    matrix = np.eye(3)
    for axis, most in enumerate(config.rotation_deg):
        angle = math.radians(u.either(most))
        i, j = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
        matrix = matrix @ turn
    return matrix


def _scaling(config: AugmentConfig, u: _Numbers) -> Float64[np.ndarray, "3 3"]:
    together = 1 + u.either(config.scaling_by)
    return np.diag([1 / (together * (1 + u.either(config.stretch_by))) for _ in range(3)])


def _shear(config: AugmentConfig, u: _Numbers) -> Float64[np.ndarray, "3 3"]:
    """Each axis against the next ones: unit triangular, so that volumes stay."""
    matrix = np.eye(3)
    matrix[np.triu_indices(3, 1)] = [math.tan(math.radians(u.either(config.shear_deg))) for _ in range(3)]
    return matrix


def _extent(config: AugmentConfig, u: _Numbers) -> dict[str, Any]:
    return {"extent": _three(u.between(least, 1.0) for least in config.extent_by)}


def _zoom(config: AugmentConfig, u: _Numbers) -> dict[str, Any]:
    return {"zoom": u.between(*config.zoom_by), "zoom_at": _three(u.either(1.0) for _ in range(3))}


def _elastic(config: AugmentConfig, _: _Numbers) -> dict[str, Any]:
    return {"elastic_mm": config.elastic_mm}


def _noise(config: AugmentConfig, u: _Numbers) -> dict[str, Any]:
    added = config.noise_hu * math.sqrt(1 / u.between(*config.dose) - 1)
    return {"noise_hu": added, "noise_lp_mm": u.between(*config.noise_lp_mm)}


def _kernel(config: AugmentConfig, u: _Numbers) -> dict[str, Any]:
    """Half of them smoother, half sharper."""
    most = config.sharpen_by if u.happens(0.5) else -1.0
    return {"kernel": most * u.between(0.0, 1.0), "kernel_mm": config.blur_mm}


def _thickness(config: AugmentConfig, u: _Numbers) -> dict[str, Any]:
    return {"thickness_mm": u.between(*config.thickness_mm), "thickness_at": u.between(0.0, 1.0)}


def _calibration(config: AugmentConfig, u: _Numbers) -> dict[str, Any]:
    return {"slope": 1 + u.either(config.slope_by), "offset_hu": u.either(config.offset_hu)}


def _level(config: AugmentConfig, u: _Numbers) -> dict[str, Any]:
    return {"level_hu": u.either(config.level_hu)}


def _width(config: AugmentConfig, u: _Numbers) -> dict[str, Any]:
    return {"width": u.factor(config.width_by)}


def _gamma(config: AugmentConfig, u: _Numbers) -> dict[str, Any]:
    return {"gamma": u.factor(config.gamma_by)}


def _cutout(config: AugmentConfig, u: _Numbers) -> dict[str, Any]:
    edges = _three(u.between(*config.cutout_mm) for _ in range(3))
    return {"cutout_mm": edges, "cutout_at": _three(u.between(0.0, 1.0) for _ in range(3))}


def _three(values: Iterable[Any]) -> tuple[Any, Any, Any]:
    z, y, x = values
    return z, y, x
