"""A change, and what a config allows, in words that a radiologist reads: mm, degrees, HU and the patient's sides."""

import math
from dataclasses import dataclass

import numpy as np

from hilum.modelling.augmenting.changes import Change
from hilum.settings.augmentation import PROBABILITIES, AugmentConfig
from hilum.settings.recipe import Range, Triple

_TOWARDS = (("feet", "head"), ("front", "back"), ("right", "left"))
"""Where the axes (z, y, x) of a sample run from and to; sides are the patient's."""

_FLIPPED = ("head and feet", "front and back", "left and right")
_TURNED = (("clockwise", "anticlockwise"), ("anticlockwise", "clockwise"), ("anticlockwise", "clockwise"))
"""How a turn about (z, y, x) by an angle above and below 0 looks on the axial, coronal and sagittal picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A change that a config allows, in words.

    Attributes:
        name: As in the config.
        how_often: Its probability.
        how_far: Its range.
    """

    name: str
    how_often: str
    how_far: str


def in_words(change: Change, shape: tuple[int, int, int], spacing_mm: Triple) -> list[str]:
    """What a change does to a sample, in the order in which it is done; nothing for one that does nothing.

    What rounds to nothing is left out. Turns are said as they look on pictures with the head up and the patient's right
    side on the left.

    Args:
        change: Drawn.
        shape: Of the sample, (z, y, x).
        spacing_mm: Of the sample, (z, y, x).
    """
    half = [n * step / 2 for n, step in zip(shape, spacing_mm, strict=True)]
    return [*_beginning(change), *_moved(change, half), *_recoloured(change, shape, spacing_mm)]


def _beginning(change: Change) -> list[str]:
    kept = [f"{100 * share:.1f} % of {axis}" for axis, share in zip("zyx", change.extent, strict=True) if share < 1]
    said = [f"cut to the middle {', '.join(kept)}"] if kept else []
    return said + [f"{_FLIPPED[axis]} flipped" for axis, flipped in enumerate(change.flip) if flipped]


def _moved(change: Change, half_mm: list[float]) -> list[str]:
    """The map in its parts: p_in = R D U p_out + t with a turn R, sizes D and a unit triangle U, which are unique."""
    matrix = np.array(change.affine)
    turn, rest = np.linalg.qr(matrix[:, :3])
    signs = np.sign(np.diag(rest))
    turn, rest = turn * signs, rest * signs[:, None]
    angles = (
        math.atan2(-turn[1, 2], turn[2, 2]),
        math.asin(max(-1.0, min(1.0, -turn[0, 2]))),
        math.atan2(-turn[0, 1], turn[0, 0]),
    )
    said = _turned([math.degrees(angle) for angle in angles])
    said += _sized([1 / size for size in np.diag(rest).tolist()])
    said += _sheared(rest / np.diag(rest)[:, None])
    said += _towards("moved", -np.linalg.solve(matrix[:, :3], matrix[:, 3]))
    if change.zoom != 1:
        aside = [at * mm * (1 - 1 / change.zoom) for at, mm in zip(change.zoom_at, half_mm, strict=True)]
        said.append(f"a box {change.zoom:.2f} times smaller fills the grid")
        said += _towards("its middle", np.array(aside))
    if change.elastic_mm:
        apart = f"points {change.elastic_grid_mm:g} mm apart"
        said.append(f"bent, {apart} by up to {change.elastic_mm:.1f} mm along each axis")
    return said


def _turned(degrees: list[float]) -> list[str]:
    parts = [
        f"{abs(angle):.1f}° about {axis} ({_TURNED[i][angle < 0]})"
        for i, (axis, angle) in enumerate(zip("zyx", degrees, strict=True))
        if abs(angle) >= 0.05
    ]
    return [f"turned {', '.join(parts)}"] if parts else []


def _sized(sizes: list[float]) -> list[str]:
    """Sizes along (z, y, x), which are one where they round to one."""
    percent = [round(100 * (size - 1), 1) for size in sizes]
    if not any(percent):
        return []
    if len(set(percent)) == 1:
        return [f"{abs(percent[0]):.1f} % {'larger' if percent[0] > 0 else 'smaller'}"]
    parts = [
        f"{abs(p):.1f} % {'longer' if p > 0 else 'shorter'} in {axis}"
        for axis, p in zip("zyx", percent, strict=True)
        if p
    ]
    return [", ".join(parts)]


def _sheared(triangle: np.ndarray) -> list[str]:
    pairs = {"z against y": (0, 1), "z against x": (0, 2), "y against x": (1, 2)}
    degrees = {name: math.degrees(math.atan(abs(triangle[at]))) for name, at in pairs.items()}
    parts = [f"{name} {angle:.1f}°" for name, angle in degrees.items() if angle >= 0.05]
    return [f"sheared {', '.join(parts)}"] if parts else []


def _towards(what: str, way_mm: np.ndarray) -> list[str]:
    """A way (z, y, x) in mm by the patient's sides."""
    parts = [
        f"{abs(mm):.1f} mm to the {_TOWARDS[axis][mm > 0]}"
        for axis, mm in enumerate(way_mm.tolist())
        if abs(mm) >= 0.05
    ]
    return [f"{what} {', '.join(parts)}"] if parts else []


def _recoloured(change: Change, shape: tuple[int, int, int], spacing_mm: Triple) -> list[str]:
    said = []
    if change.noise_hu:
        finest = 0.5 / min(spacing_mm[1:])
        beyond = f" (the grid ends at {finest:.2f})" if change.noise_lp_mm > finest else ""
        said.append(f"noise of {change.noise_hu:.0f} HU, strongest at {change.noise_lp_mm:.2f} lp/mm{beyond}")
    if change.kernel < 0:
        said.append(f"smoother kernel: {-100 * change.kernel:.0f} % of a blur of {change.kernel_mm:g} mm")
    elif change.kernel:
        said.append(
            f"sharper kernel: {100 * change.kernel:.0f} % of what a blur of {change.kernel_mm:g} mm takes away added"
        )
    if change.thickness_mm:
        none = " (the grid's are no thinner: nothing changes)" if change.thickness_mm <= spacing_mm[0] else ""
        said.append(f"slices {change.thickness_mm:.1f} mm thick{none}")
    if (change.slope, change.offset_hu) != (1, 0):
        said.append(f"calibration: HU about water times {change.slope:.3f}, {change.offset_hu:+.1f} HU")
    if abs(change.level_hu) >= 0.5:
        said.append(f"level {change.level_hu:+.0f} HU ({'darker' if change.level_hu > 0 else 'brighter'})")
    if abs(change.width - 1) >= 0.005:
        said.append(f"width times {change.width:.2f} ({'less' if change.width > 1 else 'more'} contrast)")
    if abs(change.gamma - 1) >= 0.005:
        said.append(f"gamma {change.gamma:.2f} ({'darker' if change.gamma > 1 else 'brighter'})")
    if any(change.cutout_mm):
        said += _cut_out(change, shape, spacing_mm)
    return said


def _cut_out(change: Change, shape: tuple[int, int, int], spacing_mm: Triple) -> list[str]:
    """The box, and where it lies: within the grid."""
    extent = np.array(shape) * spacing_mm
    edges = np.minimum(change.cutout_mm, extent)
    at = np.clip(np.array(change.cutout_at) * extent, edges / 2, extent - edges / 2) - extent / 2
    box = f"a box of {' x '.join(f'{edge:.0f}' for edge in edges)} mm (z, y, x) filled with its mean"
    return [box, *_towards("its middle", at)]


def settings_in_words(config: AugmentConfig) -> list[Setting]:
    """Every change that a config allows, in the order in which they are done: those of a probability above 0."""
    far = _how_far(config)
    often = {name: _percent(getattr(config, name)) for name in PROBABILITIES if getattr(config, name)}
    if any(config.flip):
        one = len(set(config.flip)) == 1
        axes = [f"{_percent(p)} {axis}" for axis, p in zip("zyx", config.flip, strict=True) if p]
        often["flip"] = f"{_percent(config.flip[0])} each" if one else ", ".join(axes)
    return [
        Setting(name=name, how_often=often[name], how_far=how_far) for name, how_far in far.items() if name in often
    ]


def _how_far(config: AugmentConfig) -> dict[str, str]:
    kept = [f"{_percent(share)} of {axis}" for axis, share in zip("zyx", config.extent_by, strict=True) if share < 1]
    least, most = (round(config.noise_hu * math.sqrt(1 / share - 1)) for share in reversed(config.dose))
    stretched = f", each axis {_by(config.stretch_by)} times again" if config.stretch_by else ""
    sharper = f"or up to {_percent(config.sharpen_by)} of what that takes away added (sharper)"
    return {
        "extent": f"the sample ends early; at least {', '.join(kept) or 'all'} is kept",
        "flip": ", ".join(f"{_FLIPPED[axis]} ({name})" for axis, name in enumerate("zyx") if config.flip[axis]),
        "rotation": f"turned by up to {_along(config.rotation_deg, '°', 'about')}",
        "scaling": f"{_by(config.scaling_by)} times as large{stretched}",
        "translation": f"moved by up to {_along(config.translation_mm, ' mm', 'along')}",
        "shear": f"sheared by up to {config.shear_deg:g}° of each axis against each other",
        "zoom": f"a box {_range(config.zoom_by)} times smaller fills the grid",
        "elastic": f"bent, points {config.elastic_grid_mm:g} mm apart by up to {config.elastic_mm:g} mm on each axis",
        "noise": (
            f"{_range((float(least), float(most)))} HU ({_range(config.dose, 100.0)} % of the dose), strongest at "
            f"{_range(config.noise_lp_mm)} lp/mm"
        ),
        "kernel": f"blurred by up to {config.blur_mm:g} mm in the plane (smoother), {sharper}",
        "thickness": f"slices {_range(config.thickness_mm)} mm thick",
        "calibration": f"HU about water times {_by(config.slope_by)}, up to {config.offset_hu:g} HU more or less",
        "level": f"the window's level up to {config.level_hu:g} HU higher or lower (brightness)",
        "width": f"the window's width times {_factor(config.width_by)} (contrast)",
        "gamma": f"power of {_factor(config.gamma_by)} within the window",
        "cutout": f"a box with edges of {_range(config.cutout_mm)} mm filled with its mean",
        "mixup": "mixed with another case of the batch, labels too",
        "cutmix": "a box of another case of the batch put in, labels by its volume",
    }


def _along(values: Triple, unit: str, word: str) -> str:
    if len(set(values)) == 1:
        return f"{values[0]:g}{unit} {word} each axis"
    return ", ".join(f"{v:g}{unit} {word} {axis}" for v, axis in zip(values, "zyx", strict=True) if v)


def _range(values: Range, times: float = 1.0) -> str:
    low, high = (f"{times * v:g}" for v in values)
    return low if low == high else f"{low} to {high}"


def _by(share: float) -> str:
    return _range((1 - share, 1 + share))


def _factor(by: float) -> str:
    return f"{1 / (1 + by):.2f} to {1 + by:.2f}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
