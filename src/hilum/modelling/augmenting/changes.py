"""The random change of one sample as plain numbers, drawn from (seed, epoch, case): it can be kept and replayed."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, Float64
from torch import Tensor

from hilum.randomness import generator, torch_seed
from hilum.settings.augmentation import AugmentConfig
from hilum.settings.recipe import Triple

Channels: TypeAlias = Float[Tensor, "c z y x"]
Flips: TypeAlias = tuple[bool, bool, bool]
Rows: TypeAlias = tuple[
    tuple[float, float, float, float], tuple[float, float, float, float], tuple[float, float, float, float]
]

IDENTITY: Rows = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0))

_ROWS = (
    "extent", "flip", "rotation", "scaling", "translation", "shear", "zoom", "elastic", "noise", "kernel", "thickness",
    "calibration", "level", "width", "gamma", "cutout",
)  # fmt: skip
"""Each setting has its own row of random numbers, so that switching one off leaves the others as they were. Add a new
one at the end: then the others keep their numbers."""

_COLUMNS = 8
"""Random numbers of a row: more than any setting uses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What is done to one sample, in the order of the fields; the defaults do nothing.

    It holds only numbers, so it can be kept as JSON (``settings.toml.to_dict`` and ``from_dict``) and applied again.

    Attributes:
        extent: Share of the grid (z, y, x) that is kept, around its middle.
        flip: Whether the sample is flipped along (z, y, x).
        affine: Affine map from output to input positions relative to the middle, (z, y, x) in mm.
        zoom: Edge of the grid divided by the edge of the box that fills it.
        zoom_at: Position of the box, -1 to 1 along (z, y, x).
        elastic_mm: Largest displacement of a control point along each axis.
        elastic_grid_mm: Distance between control points.
        elastic_seed: Seed of the displacements.
        noise_hu: Standard deviation of the added noise.
        noise_lp_mm: Line pairs per mm at which the noise is strongest.
        noise_seed: Seed of the noise.
        kernel: Factor of the detail (sample minus its blur in the plane) that is added; -1: the blur itself.
        kernel_mm: Standard deviation of that blur.
        thickness_mm: Thickness of the slices; 0: unchanged.
        thickness_at: Where the first thick slice begins, 0 to 1 of its thickness.
        slope: Factor of HU about water.
        offset_hu: Added to HU after ``slope``.
        level_hu: Added to the window's level.
        width: Factor of the window's width.
        gamma: Power within the window.
        cutout_mm: Edges of the box that is filled with its mean, (z, y, x); 0: none.
        cutout_at: Middle of that box, 0 to 1 of the grid.
    """

    extent: Triple = (1.0, 1.0, 1.0)
    flip: Flips = (False, False, False)
    affine: Rows = IDENTITY
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
    def resamples(self) -> bool:
        """Whether voxels are interpolated at new positions."""
        return self.affine != IDENTITY or self.zoom != 1 or self.elastic_mm > 0

    @property
    def changes_intensity(self) -> bool:
        """Whether HU change other than by resampling."""
        scales = (self.slope, self.offset_hu, self.level_hu, self.width, self.gamma) != (1, 0, 0, 1, 1)
        return scales or self.noise_hu > 0 or self.kernel != 0 or self.thickness_mm > 0 or any(self.cutout_mm)


def draw(config: AugmentConfig, case_ids: list[str], *, seed: int, epoch: int) -> list[Change]:
    """Draw the change of each case, from (seed, epoch, case) only: it does not depend on the batch.

    Args:
        config: Probabilities and ranges.
        case_ids: Case id of each sample of a batch.
        seed: Seed of the run.
        epoch: Number of the training epoch.
    """
    return [_draw_one(config, case_id, seed, epoch) for case_id in case_ids]


def changes_nothing(config: AugmentConfig) -> bool:
    """Whether no change is ever drawn."""
    return not any(config.flip) and not any(getattr(config, name) for name in _ROWS if name != "flip")


def _draw_one(config: AugmentConfig, case_id: str, seed: int, epoch: int) -> Change:
    table = generator(seed, epoch, case_id, "augment").random((len(_ROWS), _COLUMNS))
    rows = {name: _Uniform(row) for name, row in zip(_ROWS, table.tolist(), strict=True)}
    flip = _three(rows["flip"].happens(p) for p in config.flip)
    on = {name: row for name, row in rows.items() if name != "flip" and row.happens(getattr(config, name))}
    changed: dict[str, Any] = {"affine": _affine(config, on)}
    if u := on.get("extent"):
        changed["extent"] = _three(u.between(least, 1.0) for least in config.extent_by)
    if u := on.get("zoom"):
        changed |= {"zoom": u.between(*config.zoom_by), "zoom_at": _three(u.either(1.0) for _ in range(3))}
    if "elastic" in on:
        changed["elastic_mm"] = config.elastic_mm
    if u := on.get("noise"):
        changed["noise_hu"] = config.noise_hu * math.sqrt(1 / u.between(*config.dose) - 1)
        changed["noise_lp_mm"] = u.between(*config.noise_lp_mm)
    if u := on.get("kernel"):
        most = config.sharpen_by if u.happens(0.5) else -1.0  # half of them sharper, half smoother
        changed |= {"kernel": most * u.between(0.0, 1.0), "kernel_mm": config.blur_mm}
    if u := on.get("thickness"):
        changed |= {"thickness_mm": u.between(*config.thickness_mm), "thickness_at": u.between(0.0, 1.0)}
    if u := on.get("calibration"):
        changed |= {"slope": 1 + u.either(config.slope_by), "offset_hu": u.either(config.offset_hu)}
    if u := on.get("level"):
        changed["level_hu"] = u.either(config.level_hu)
    if u := on.get("width"):
        changed["width"] = u.factor(config.width_by)
    if u := on.get("gamma"):
        changed["gamma"] = u.factor(config.gamma_by)
    if u := on.get("cutout"):
        changed["cutout_mm"] = _three(u.between(*config.cutout_mm) for _ in range(3))
        changed["cutout_at"] = _three(u.between(0.0, 1.0) for _ in range(3))
    return Change(
        flip=flip,
        elastic_grid_mm=config.elastic_grid_mm,
        elastic_seed=torch_seed(seed, epoch, case_id, "elastic"),
        noise_seed=torch_seed(seed, epoch, case_id, "noise"),
        **changed,
    )


class _Uniform:
    """Uniform random numbers from 0 to 1, used one after another."""

    def __init__(self, values: list[float]) -> None:
        self._left = iter(values)

    def happens(self, probability: float) -> bool:
        return next(self._left) < probability

    def between(self, low: float, high: float) -> float:
        return low + (high - low) * next(self._left)

    def either(self, most: float) -> float:
        """A number from -most to most."""
        return most * (2 * next(self._left) - 1)

    def factor(self, by: float) -> float:
        """A log-uniform factor from 1 / (1 + by) to 1 + by."""
        return math.exp(self.either(math.log1p(by)))


def _affine(config: AugmentConfig, on: dict[str, _Uniform]) -> Rows:
    """Rotation, scaling, shear and translation in one map from output to input positions."""
    affine = np.eye(3, 4)
    if u := on.get("rotation"):
        affine[:, :3] = _rotation([math.radians(u.either(most)) for most in config.rotation_deg])
    if u := on.get("scaling"):
        size = 1 + u.either(config.scaling_by)
        affine[:, :3] @= np.diag([1 / (size * (1 + u.either(config.stretch_by))) for _ in range(3)])
    if u := on.get("shear"):  # each axis against the next ones: unit triangular, so that volumes stay
        shear = np.eye(3)
        shear[np.triu_indices(3, 1)] = [math.tan(math.radians(u.either(config.shear_deg))) for _ in range(3)]
        affine[:, :3] @= shear
    if u := on.get("translation"):
        affine[:, 3] = [u.either(mm) for mm in config.translation_mm]
    return _three(tuple(row) for row in affine.tolist())


def _rotation(angles: list[float]) -> Float64[np.ndarray, "3 3"]:
    """Rotations about the z, y and x axis, one after another; angles in radians."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
        matrix = matrix @ turn
    return matrix


def _three(values: Iterable[Any]) -> tuple[Any, Any, Any]:
    z, y, x = values
    return z, y, x
