"""An examination as one HTML page: a picture of each scan, its verdict and its findings."""

import base64
import io
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files

import numpy as np
from jinja2 import Environment, StrictUndefined
from PIL import Image

from hilum.findings import Finding
from hilum.reading.doctor import Examined

_GAP = 4


def inspection_page(found: list[Examined], loose: list[Finding]) -> str:
    """One self-contained HTML page; nothing is loaded from anywhere.

    Args:
        found: Examined with pictures.
        loose: Findings that concern none of them.
    """
    template = files("hilum.reading").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        found=found,
        loose=loose,
        counts={"ok": 0, "repaired": 0, "refused": 0, **Counter(one.verdict for one in found)},
        facts=[facts(one) for one in found],
        pictures=[_png(one.planes) for one in found],
        seen=[_png(one.inspection.pictures) if one.inspection else "" for one in found],
    )


def facts(one: Examined) -> str:
    """One line on a scan: modality, grid, thickness, kernel and the HU of air, fat and muscle."""
    parts = [one.modality, _grid(one)]
    if one.spacing_mm:
        parts.append(" x ".join(f"{s:.4g}" for s in one.spacing_mm) + " mm (z, y, x)")
    if one.thickness_mm:
        parts.append(f"{one.thickness_mm:g} mm thick")
    if one.kernel:
        parts.append(f"kernel {one.kernel}")
    if one.levels:
        named = {name: getattr(one.levels, name) for name in ("air", "airways", "fat", "muscle")}
        measured = [f"{name} {value:.0f}" for name, value in named.items() if value is not None]
        parts.append(f"{', '.join(measured)} HU" if measured else "")
    return " · ".join([*filter(None, parts), *([one.series] if one.series else [])])


def _grid(one: Examined) -> str:
    count = f"{one.num_slices} slice{'s' * (one.num_slices > 1)}"
    return f"{count} of {one.size[0]} x {one.size[1]}" if one.num_slices else ""


def _png(planes: Sequence[np.ndarray]) -> str:
    """Planes (y, x), or (y, x, rgb), side by side as a PNG in base64; empty without any."""
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
