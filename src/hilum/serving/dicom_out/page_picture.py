"""Draws the page: decision, probabilities, three planes with lungs and the model's box, the map, and what it means."""

import contextlib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version

import numpy as np
from jaxtyping import UInt8
from matplotlib import rc_context
from matplotlib.font_manager import findfont, get_font

from hilum.drawing import BLUE, INK, ORANGE, PALE, Panels, empty_panels
from hilum.pages import with_outlines
from hilum.predicting.explain.planes import planes_of
from hilum.preparing.lungs.overlay import FIELD_RGB, LEFT_RGB, RIGHT_RGB
from hilum.preparing.resample import sample
from hilum.serving.dicom_out.identity import RESEARCH
from hilum.serving.dicom_out.report import decision_text, model_lines
from hilum.serving.scan_result import ScanResult
from hilum.volume import Affine, Volume

_INCHES, _DPI = 10.24, 100
_LETTERS = 135
"""Characters of a line at the foot of the page."""

_MORE_FONTS = ("Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "PingFang SC", "Microsoft YaHei")
"""Fonts with Chinese and Japanese letters, where one is installed; no font comes with Hilum."""

_DECISION_LETTERS, _ROW_INCHES = 108, 0.34

_MOST_MAPS, _MOST_FINDINGS = 2, 8
"""More would make the page taller than a screen; all stand in the report."""

_PIXELS = 300
"""Along the longest edge of the scan."""

_VIEWS = (("axial", "RL"), ("coronal", "RL"), ("sagittal", "AP"))
"""Name, and letters of the sides, left and right in the picture."""


def page_picture(result: ScanResult) -> UInt8[np.ndarray, "y x rgb"]:
    """The page, 1024 pixels wide."""
    with rc_context({"font.family": list(_fonts())}):
        strips = [_head(result), _planes(result)]
        for heat_map in result.heat_maps[:_MOST_MAPS]:
            shown = replace(heat_map, output=drawable(heat_map.output, result.card.classes))
            title = f"What speaks for {shown.output} ({shown.method})"
            foot = textwrap.fill(f"{shown.meaning} {shown.doubt}".strip(), _DECISION_LETTERS)
            panels = planes_of(shown, result.source.volume, title=title, foot=foot)
            panels.picture.set_size_inches(_INCHES, 4.3)
            strips.append(panels)
        strips.append(_foot(result))
        return np.vstack([_pixels(strip) for strip in strips])


def _pixels(panels: Panels) -> UInt8[np.ndarray, "y x rgb"]:
    panels.picture.set_dpi(_DPI)
    panels.picture.canvas.draw()
    return np.array(panels.picture.canvas.buffer_rgba())[..., :3]


@cache
def _fonts() -> dict[str, frozenset[int]]:
    """The usual font and those of ``_MORE_FONTS`` that are installed, each with the characters that it draws."""
    found = {}
    for name in ("DejaVu Sans", *_MORE_FONTS):
        with contextlib.suppress(ValueError):  # not installed
            found[name] = frozenset(get_font(findfont(name, fallback_to_default=False)).get_charmap())
    return found


def drawable(text: str, names: Sequence[str]) -> str:
    """A text in which each name that no installed font can draw is ``class 1``, ``class 2`` and so on.

    Args:
        text: The text.
        names: Names of the model's outputs, in order.
    """
    for number, name in sorted(enumerate(names, start=1), key=lambda one: -len(one[1])):
        if not {ord(letter) for letter in name} <= frozenset().union(*_fonts().values()):
            text = text.replace(name, f"class {number}")
    return text


def _head(result: ScanResult) -> Panels:
    """The banner, the decision, and a bar for each probability."""
    named = result.prediction.probabilities if result.has_result else {}
    classes = result.card.classes
    words = textwrap.wrap(drawable(f"Decision: {decision_text(result)}", classes), _DECISION_LETTERS)  # all of it
    first = 1.4 + 0.8 * len(words) + 0.6  # of the bars, in rows
    num_rows = first + len(named)
    panels = empty_panels(inches=(_INCHES, _ROW_INCHES * num_rows))
    axes = panels.axes[0]
    axes.set_axis_off()
    axes.set_xlim(0, 1)
    axes.set_ylim(num_rows, 0)
    axes.axhspan(0, 1, color=ORANGE)
    axes.text(0.5, 0.5, RESEARCH, ha="center", va="center", color="white", fontsize=14, fontweight="bold")
    axes.text(0, 1.4, "\n".join(words), ha="left", va="top", fontsize=11, color=INK, parse_math=False)
    thresholds = result.prediction.thresholds
    for row, (name, probability) in enumerate(named.items()):
        y = first + row
        left, width = 0.3, 0.5
        shown = drawable(name, classes)
        short = shown if len(shown) <= 34 else f"{shown[:33]}..."
        axes.text(0.28, y, short, ha="right", va="center", fontsize=10, color=INK, parse_math=False)
        axes.barh(y, width, left=left, height=0.5, color=PALE)
        axes.barh(y, width * probability, left=left, height=0.5, color=BLUE)
        value = f"{probability:.3f}"
        if name in thresholds:
            axes.plot([left + width * thresholds[name]] * 2, [y - 0.4, y + 0.4], color=INK, linewidth=1.5)
            value += f", threshold {thresholds[name]:.3f}"
        axes.text(0.81, y, value, ha="left", va="center", fontsize=10, color=INK)
    return panels


def _planes(result: ScanResult) -> Panels:
    """Axial, coronal and sagittal planes through the given point, the map's peak or the centre of the model's box."""
    panels = empty_panels(columns=3, inches=(_INCHES, 3.9))
    centre = result.sample.centre_mm
    if result.point_mm is not None:
        centre = np.array(result.point_mm)
    elif result.heat_maps and result.heat_maps[0].peak_mm is not None:
        centre = np.asarray(result.heat_maps[0].peak_mm)
    planes = list(planes_through(result, centre))
    volume = result.source.volume
    outlines: list[list[tuple[np.ndarray, tuple[int, int, int]]]] = [[] for _ in planes]
    for mask, colour in (
        (result.lungs_on_scan == 1, RIGHT_RGB),
        (result.lungs_on_scan == 2, LEFT_RGB),
        (result.seen, FIELD_RGB),
    ):
        inside = Volume(voxels_hu=mask.astype(np.int16), affine=volume.affine)  # once for all planes: it is large
        for found, (axis, affine, shape) in zip(outlines, planes, strict=True):
            found.append((sample(inside, affine, shape, air=0.0).squeeze(axis) >= 0.5, colour))
    for axes, (axis, affine, shape), (title, sides), masks in zip(panels.axes, planes, _VIEWS, outlines, strict=True):
        picture = with_outlines(sample(volume, affine, shape).squeeze(axis), masks)
        axes.imshow(picture if axis == 0 else picture[::-1], interpolation="nearest")
        axes.set_title(title, fontsize=9, color=INK)
        axes.set_axis_off()
        for x, side, where in zip((0.02, 0.98), sides, ("left", "right"), strict=True):
            axes.text(x, 0.5, side, transform=axes.transAxes, ha=where, color="white", fontsize=9, fontweight="bold")
    foot = "vermilion: right lung; blue: left lung; yellow: the box that the model saw"
    panels.picture.supxlabel(foot, fontsize=9, color=INK)
    return panels


def planes_through(result: ScanResult, centre_mm: np.ndarray) -> Iterator[tuple[int, Affine, tuple[int, int, int]]]:
    """Straight planes of square pixels through a point: axis (z, y, x) at right angles, affine and shape of one."""
    volume = result.source.volume
    corners = volume.index_to_mm(np.array(list(np.ndindex(2, 2, 2))) * np.array(volume.shape) - 0.5)
    low, high = corners.min(axis=0)[::-1], corners.max(axis=0)[::-1]
    pixel = float((high - low).max()) / _PIXELS
    for axis in range(3):
        size = np.maximum(1, np.rint((high - low) / pixel)).astype(int)
        first = low + pixel / 2
        size[axis], first[axis] = 1, centre_mm[::-1][axis]
        affine = np.zeros((4, 4))
        affine[[2, 1, 0], [0, 1, 2]] = pixel
        affine[:3, 3], affine[3, 3] = first[::-1], 1
        z, y, x = size.tolist()
        yield axis, affine, (z, y, x)


def _foot(result: ScanResult) -> Panels:
    """Findings, and what the model is and how it was calibrated."""
    findings = result.prediction.findings
    lines = [f"{one.code} ({one.severity}): {one.message}" for one in findings[:_MOST_FINDINGS]]
    if len(findings) > _MOST_FINDINGS:
        lines.append(f"and {len(findings) - _MOST_FINDINGS} more findings, in the report")
    lines += [drawable(line, result.card.classes) for line in model_lines(result)]
    lines.append(f"Made by Hilum {version('hilum')}. Preliminary and not verified by a person. {RESEARCH}")
    wrapped = [part for line in lines for part in textwrap.wrap(line, _LETTERS)]
    panels = empty_panels(inches=(_INCHES, 0.3 + 0.17 * len(wrapped)))
    axes = panels.axes[0]
    axes.set_axis_off()
    axes.text(
        0, 1, "\n".join(wrapped), ha="left", va="top", fontsize=8.5, color=INK, transform=axes.transAxes,
        parse_math=False,
    )  # fmt: skip
    return panels
