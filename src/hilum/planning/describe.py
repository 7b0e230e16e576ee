"""Describes a drawn change, and the changes that a config allows, in words: mm, degrees, HU and the patient's sides."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hilum.modelling.augmenting.changes import Change
from hilum.settings.augmentation import PROBABILITIES, AugmentConfig
from hilum.settings.recipe import Range, Triple

_SIDES = (("feet", "head"), ("front", "back"), ("right", "left"))
"""The patient's sides at which the axes (z, y, x) of a sample begin and end."""

_FLIPPED = ("head and feet", "front and back", "left and right")
_DIRECTION = (("clockwise", "anticlockwise"), ("anticlockwise", "clockwise"), ("anticlockwise", "clockwise"))
"""How a rotation about (z, y, x) by a positive and a negative angle looks, axial, coronal and sagittal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A change that a config allows.

    Attributes:
        name: The config's name for it.
        how_often: Its probability.
        how_far: Its range.
    """

    name: str
    how_often: str
    how_far: str


def describe(change: Change, shape: tuple[int, int, int], spacing_mm: Triple) -> list[str]:
    """What a change does to a sample, in the order in which it is applied; what rounds to nothing is left out.

    Rotations are described as they look on pictures with the head up and the patient's right side on the left.

    Args:
        change: A drawn change.
        shape: Shape of the sample, (z, y, x).
        spacing_mm: Spacing of the sample, (z, y, x).
    """
    extent_mm = np.array(shape) * spacing_mm
    kept = (f"{100 * share:.1f} % of {axis}" for axis, share in zip("zyx", change.extent, strict=True) if share < 1)
    parts = [
        _listed("cropped to the middle", kept),
        *(f"{_FLIPPED[axis]} flipped" for axis, flipped in enumerate(change.flip) if flipped),
        *_spatial(change, extent_mm),
        *_intensity(change, spacing_mm),
    ]
    if any(change.cutout_mm):
        edges = np.minimum(change.cutout_mm, extent_mm)
        middle = np.clip(np.array(change.cutout_at) * extent_mm, edges / 2, extent_mm - edges / 2) - extent_mm / 2
        parts.append(f"a box of {' x '.join(f'{edge:.0f}' for edge in edges)} mm (z, y, x) filled with its mean")
        parts.append(_shifted("its middle", middle))
    return [part for part in parts if part]


def _spatial(change: Change, extent_mm: np.ndarray) -> list[str]:
    """The affine map decomposed into rotation R, scaling D and unit triangular shear U: p_in = R D U p_out + t."""
    matrix = np.array(change.affine)
    rotation, rest = np.linalg.qr(matrix[:, :3])
    signs = np.sign(np.diag(rest))
    rotation, rest = rotation * signs, rest * signs[:, None]
    sines = np.clip(-rotation[0, 2], -1, 1)
    angles = np.arctan2(-rotation[1, 2], rotation[2, 2]), np.arcsin(sines), np.arctan2(-rotation[0, 1], rotation[0, 0])
    turned = (
        f"{abs(angle):.1f}° about {'zyx'[axis]} ({_DIRECTION[axis][angle < 0]})"
        for axis, angle in enumerate(np.degrees(angles).tolist())
        if abs(angle) >= 0.05
    )
    shear = np.degrees(np.arctan(np.abs(rest / np.diag(rest)[:, None])))
    pairs = {"z against y": shear[0, 1], "z against x": shear[0, 2], "y against x": shear[1, 2]}
    parts = [
        _listed("rotated", turned),
        _sizes(1 / np.diag(rest)),
        _listed("sheared", (f"{name} {angle:.1f}°" for name, angle in pairs.items() if angle >= 0.05)),
        _shifted("moved", -np.linalg.solve(matrix[:, :3], matrix[:, 3])),
    ]
    if change.zoom != 1:
        middle = np.array(change.zoom_at) * extent_mm / 2 * (1 - 1 / change.zoom)
        parts += [f"a box {change.zoom:.2f} times smaller fills the grid", _shifted("its middle", middle)]
    if change.elastic_mm:
        apart = f"points {change.elastic_grid_mm:g} mm apart"
        parts.append(f"deformed, {apart} by up to {change.elastic_mm:.1f} mm along each axis")
    return parts


def _sizes(factors: np.ndarray) -> str:
    """Changes of size along (z, y, x), in one number if they round to the same."""
    percent = [round(100 * (factor - 1), 1) for factor in factors.tolist()]
    if len(set(percent)) == 1:
        return f"{abs(percent[0]):.1f} % {'larger' if percent[0] > 0 else 'smaller'}" if percent[0] else ""
    return ", ".join(
        f"{abs(p):.1f} % {'longer' if p > 0 else 'shorter'} in {axis}"
        for axis, p in zip("zyx", percent, strict=True)
        if p
    )


def _shifted(what: str, shift_mm: np.ndarray) -> str:
    """A shift (z, y, x) in mm, by the patient's sides."""
    shifts = enumerate(shift_mm.tolist())
    return _listed(what, (f"{abs(mm):.1f} mm to the {_SIDES[axis][mm > 0]}" for axis, mm in shifts if abs(mm) >= 0.05))


def _intensity(change: Change, spacing_mm: Triple) -> list[str]:
    parts = []
    if change.noise_hu:
        finest = 0.5 / min(spacing_mm[1:])
        beyond = f" (the grid ends at {finest:.2f})" if change.noise_lp_mm > finest else ""
        parts.append(f"noise of {change.noise_hu:.0f} HU, strongest at {change.noise_lp_mm:.2f} lp/mm{beyond}")
    if change.kernel < 0:
        parts.append(f"smoother kernel: {-100 * change.kernel:.0f} % of a blur of {change.kernel_mm:g} mm")
    elif change.kernel:
        added = f"what a blur of {change.kernel_mm:g} mm takes away added"
        parts.append(f"sharper kernel: {100 * change.kernel:.0f} % of {added}")
    if change.thickness_mm:
        none = " (the grid's are no thinner: nothing changes)" if change.thickness_mm <= spacing_mm[0] else ""
        parts.append(f"slices {change.thickness_mm:.1f} mm thick{none}")
    if (change.slope, change.offset_hu) != (1, 0):
        parts.append(f"calibration: HU about water times {change.slope:.3f}, {change.offset_hu:+.1f} HU")
    if abs(change.level_hu) >= 0.5:
        parts.append(f"level {change.level_hu:+.0f} HU ({'darker' if change.level_hu > 0 else 'brighter'})")
    if abs(change.width - 1) >= 0.005:
        parts.append(f"width times {change.width:.2f} ({'less' if change.width > 1 else 'more'} contrast)")
    if abs(change.gamma - 1) >= 0.005:
        parts.append(f"gamma {change.gamma:.2f} ({'darker' if change.gamma > 1 else 'brighter'})")
    return parts


def describe_settings(config: AugmentConfig) -> list[Setting]:
    """The changes with a probability above 0, in the order in which they are applied."""
    often = {name: _percent(getattr(config, name)) for name in PROBABILITIES if getattr(config, name)}
    if any(config.flip):
        each = (f"{_percent(p)} {axis}" for axis, p in zip("zyx", config.flip, strict=True) if p)
        often["flip"] = f"{_percent(config.flip[0])} each" if len(set(config.flip)) == 1 else ", ".join(each)
    ranges = _ranges(config).items()
    return [Setting(name=name, how_often=often[name], how_far=how_far) for name, how_far in ranges if name in often]


def _ranges(config: AugmentConfig) -> dict[str, str]:
    """The range of each change, in the order in which they are applied."""
    kept = [f"{_percent(share)} of {axis}" for axis, share in zip("zyx", config.extent_by, strict=True) if share < 1]
    least, most = (float(round(config.noise_hu * math.sqrt(1 / share - 1))) for share in reversed(config.dose))
    noise = f"{_range((least, most))} HU ({_range(config.dose, 100.0)} % of the dose)"
    stretched = f", each axis {_around_1(config.stretch_by)} times again" if config.stretch_by else ""
    sharper = f"or up to {_percent(config.sharpen_by)} of what that takes away added (sharper)"
    apart = f"points {config.elastic_grid_mm:g} mm apart"
    return {
        "extent": f"the sample ends early; at least {', '.join(kept) or 'all'} is kept",
        "flip": ", ".join(f"{_FLIPPED[axis]} ({name})" for axis, name in enumerate("zyx") if config.flip[axis]),
        "rotation": f"rotated by up to {_along(config.rotation_deg, '°', 'about')}",
        "scaling": f"{_around_1(config.scaling_by)} times as large{stretched}",
        "translation": f"moved by up to {_along(config.translation_mm, ' mm', 'along')}",
        "shear": f"sheared by up to {config.shear_deg:g}° of each axis against each other",
        "zoom": f"a box {_range(config.zoom_by)} times smaller fills the grid",
        "elastic": f"deformed, {apart} by up to {config.elastic_mm:g} mm along each axis",
        "noise": f"{noise}, strongest at {_range(config.noise_lp_mm)} lp/mm",
        "kernel": f"blurred by up to {config.blur_mm:g} mm in the plane (smoother), {sharper}",
        "thickness": f"slices {_range(config.thickness_mm)} mm thick",
        "calibration": f"HU about water times {_around_1(config.slope_by)}, up to {config.offset_hu:g} HU more or less",
        "level": f"the window's level up to {config.level_hu:g} HU higher or lower (brightness)",
        "width": f"the window's width times {_factor(config.width_by)} (contrast)",
        "gamma": f"power of {_factor(config.gamma_by)} within the window",
        "cutout": f"a box with edges of {_range(config.cutout_mm)} mm filled with its mean",
        "mixup": "mixed with another case of the batch, labels too",
        "cutmix": "a box of another case of the batch put in, labels by its volume",
    }


def _listed(what: str, parts: Iterable[str]) -> str:
    """``what`` before the parts; empty without parts."""
    joined = ", ".join(parts)
    return f"{what} {joined}" if joined else ""


def _along(values: Triple, unit: str, word: str) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:g}{unit} {word} each axis"
    return ", ".join(f"{v:g}{unit} {word} {axis}" for v, axis in zip(values, "zyx", strict=True) if v)


def _range(values: Range, times: float = 1.0) -> str:
    low, high = (f"{times * v:g}" for v in values)
    return low if low == high else f"{low} to {high}"


def _around_1(by: float) -> str:
    return _range((1 - by, 1 + by))


def _factor(by: float) -> str:
    return f"{1 / (1 + by):.2f} to {1 + by:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
