"""Slices as grey pictures, and self-contained HTML pages that show them."""

import base64
import io
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, UInt8

if TYPE_CHECKING:
    from jinja2 import Environment

WINDOW_HU = (-1000.0, 400.0)
"""HU of black and of white in pictures of whole scans: air to bright soft tissue."""

LUNG_RGB = (213, 94, 0)
"""Okabe and Ito's vermilion, of outlines."""

PICTURE_PIXELS = 240
"""Along the longest edge of a plane in a notebook."""

PLANES_CAPTION = "axial, coronal and sagittal, through the middle; the patient's right on the left, head up"

_SHARED = ("page_base.html", "page_base.css")
"""Templates of this package that those of others may extend or include."""

_GAP = 4
"""Black pixels between pictures side by side."""


def grey(hu: np.ndarray, window_hu: tuple[float, float] = WINDOW_HU) -> UInt8[np.ndarray, "_ _"]:
    """A slice in HU as grey levels from 0 to 255."""
    low, high = window_hu
    levels: np.ndarray = np.clip((hu.astype(np.float32) - low) / (high - low), 0, 1) * 255
    return levels.round().astype(np.uint8)


def outline(mask: Bool[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """The pixels of a mask that have a neighbour outside it; the border of the picture is no outline."""
    from scipy import ndimage

    return np.asarray(mask & ~ndimage.binary_erosion(mask, border_value=1))


def three_planes(
    values: np.ndarray, spacing_mm: tuple[float, float, float], middle: tuple[int, ...], longest: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Axial, coronal and sagittal planes through a voxel, head up and right side left, with pixels of one size in mm.

    Args:
        values: Array (z, y, x) that runs feet to head, front to back, right to left.
        spacing_mm: (z, y, x).
        middle: Index of the voxel.
        longest: Most pixels along an edge.
    """
    extents = [n * s for n, s in zip(values.shape, spacing_mm, strict=True)]
    pixel_mm = max(max(extents) / longest, min(spacing_mm))
    z, y, x = (
        ((np.arange(max(1, round(extent / pixel_mm))) + 0.5) * pixel_mm / spacing).astype(int).clip(0, count - 1)
        for extent, spacing, count in zip(extents, spacing_mm, values.shape, strict=True)
    )
    return (
        values[middle[0]][np.ix_(y, x)],
        values[:, middle[1]][np.ix_(z[::-1], x)],
        values[:, :, middle[2]][np.ix_(z[::-1], y)],
    )


def with_outlines(
    plane_hu: np.ndarray, masks: Sequence[tuple[np.ndarray, tuple[int, int, int]]]
) -> UInt8[np.ndarray, "y x rgb"]:
    """A slice in HU as a grey picture, with the outline of each mask (y, x) in its colour."""
    picture = np.repeat(grey(plane_hu)[..., np.newaxis], 3, axis=2)
    for mask, colour in masks:
        picture[outline(mask)] = colour
    return picture


def notebook_card(
    title: str,
    *,
    facts: Sequence[str] = (),
    planes: Sequence[np.ndarray] = (),
    caption: str = "",
    probabilities: Mapping[str, float] | None = None,
    thresholds: Mapping[str, float] | None = None,
    tables: Sequence[tuple[Sequence[str], Sequence[Sequence[str]]]] = (),
    findings: Sequence[Any] = (),
) -> str:
    """An HTML fragment for notebooks, readable on light and dark ground.

    Args:
        title: Its first line.
        facts: Sentences below it.
        planes: Pictures, side by side.
        caption: Below the pictures.
        probabilities: A bar for each name.
        thresholds: A mark on the bar of a name.
        tables: For each table the names of its columns, and its rows.
        findings: A line for each.
    """
    cuts = thresholds or {}
    bars = [
        {
            "name": name,
            "percent": round(100 * value, 2),
            "cut": round(100 * cuts[name], 2) if name in cuts else None,
            "text": f"{value:.3f}" + (f", threshold {cuts[name]:.3f}" if name in cuts else ""),
        }
        for name, value in (probabilities or {}).items()
    ]
    return html_page(
        "hilum", "notebook.html", title=title, facts=facts, picture=png(planes), caption=caption, bars=bars,
        tables=tables, findings=findings,
    )  # fmt: skip


def png(planes: Sequence[np.ndarray]) -> str:
    """Planes (y, x), or (y, x, rgb), side by side as a PNG in base64; empty without any."""
    from PIL import Image

    if not planes:
        return ""
    height = max(plane.shape[0] for plane in planes)
    tiles = []
    for plane in planes:
        above = (height - plane.shape[0]) // 2
        margins = ((above, height - plane.shape[0] - above), (0, _GAP), (0, 0))
        tiles.append(np.pad(plane, margins[: plane.ndim]))
    file = io.BytesIO()
    Image.fromarray(np.hstack(tiles)[:, :-_GAP]).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


def html_page(package: str, template: str, **values: Any) -> str:
    """Fill in a template that lies in a package; text is escaped, and a value that is missing is an error.

    A template may extend ``page_base.html``, the look of all reports.
    """
    return _templates(package).get_template(template).render(values)


@cache
def _templates(package: str) -> "Environment":
    """The templates of a package, each of which is read and compiled once."""
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    def text(name: str) -> str:
        return files("hilum" if name in _SHARED else package).joinpath(name).read_text(encoding="utf-8")

    return Environment(
        loader=FunctionLoader(text), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
