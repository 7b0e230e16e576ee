"""Slices as grey pictures, and self-contained HTML pages that show them."""

import base64
import io
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

WINDOW_HU = (-1000.0, 400.0)
"""HU of black and of white in pictures of whole scans: air to bright soft tissue."""

_BASE = "page_base.html"

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
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    homes = {_BASE: "hilum"}
    loader = FunctionLoader(lambda name: files(homes.get(name, package)).joinpath(name).read_text(encoding="utf-8"))
    pages = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return pages.get_template(template).render(values)
