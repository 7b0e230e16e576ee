"""An examination as one HTML page: a picture of each scan, its verdict and its findings."""

from collections import Counter

from hilum.findings import Finding
from hilum.pages import html_page, png
from hilum.reading.doctor import Examined


def inspection_page(found: list[Examined], loose: list[Finding]) -> str:
    """One self-contained HTML page; nothing is loaded from anywhere.

    Args:
        found: Examined scans, with pictures.
        loose: Findings that concern none of the scans.
    """
    return html_page(
        "hilum.reading",
        "page.html",
        found=found,
        loose=loose,
        counts={"ok": 0, "repaired": 0, "refused": 0, **Counter(one.verdict for one in found)},
        facts=[facts(one) for one in found],
        pictures=[png(one.planes) for one in found],
        seen=[png(one.inspection.pictures) if one.inspection else "" for one in found],
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
