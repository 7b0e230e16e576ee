"""Fills in the page of a scan: its template, style, script, NiiVue, and the images that it draws."""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from typing import Any

import numpy as np
from markupsafe import Markup

from hilum.deciding.decision_words import shown_probability
from hilum.findings import Finding
from hilum.pages import html_page
from hilum.serving.viewer.answer import Answer
from hilum.serving.viewer.embedded import EmbeddedScan
from hilum.serving.viewer.layers import Layer
from hilum.volume import Triple

PAGE_MARK = 'name="generator" content="hilum view"'
"""Pattern that identifies pages of this command."""

_PACKAGE = "hilum.serving.viewer"
_WINDOWS = (("Lung", -600, 1500), ("Soft tissue", 40, 400), ("Bone", 400, 1800))
"""Name, level and width in HU: the usual reading windows (Radiopaedia, Windowing (CT))."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedPlace:
    """A place in the scan that a button leads to.

    Attributes:
        name: What lies there.
        lps_mm: Where, LPS mm (x, y, z).
    """

    name: str
    lps_mm: Triple


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PageContent:
    """What a page shows beside the scan.

    Attributes:
        start_mm: Where the crosshair is at first, LPS mm (x, y, z).
        places: Places that buttons lead to.
        findings: Findings, each with its place in LPS mm, if it has one.
        lungs: Volumes of the lungs in words; empty without lungs.
        answer: What a model says; None: there is none.
    """

    start_mm: Triple
    places: tuple[NamedPlace, ...] = ()
    findings: tuple[tuple[Finding, Triple | None], ...] = ()
    lungs: str = ""
    answer: Answer | None = None


def viewer_page(scan: EmbeddedScan, layers: Sequence[Layer], content: PageContent) -> str:
    """The page as HTML: one file that needs no other."""
    answer = content.answer
    return html_page(
        _PACKAGE,
        "viewer.html",
        generator="hilum view",
        title="CT scan" if answer is None else "CT scan, and what a model says of it",
        version=version("hilum"),
        style=_part("viewer.css"),
        script=_part("viewer.js"),
        niivue=_part("niivue.umd.js"),
        licence=_part("niivue.LICENSE.txt"),
        scene=_scene(scan, layers, content.start_mm),
        windows=[{"name": name, "level": level, "width": width} for name, level, width in _WINDOWS],
        shown=scan.words,
        layers=layers,
        jumps=[{"name": one.name, "lps": _rounded(one.lps_mm)} for one in content.places],
        findings=[
            {"code": one.code, "severity": one.severity, "message": one.message, "lps": at and _rounded(at)}
            for one, at in content.findings
        ],
        lungs=content.lungs,
        answer=answer,
        shown_p=shown_probability,
    )


@cache
def _part(name: str) -> Markup:
    return Markup(files(_PACKAGE).joinpath(name).read_text(encoding="utf-8"))  # noqa: S704  # a file of this package


def _scene(scan: EmbeddedScan, layers: Sequence[Layer], start_mm: Triple) -> Markup:
    """What the script needs, as JSON that is safe within HTML."""
    volume = scan.volume
    about: dict[str, Any] = {
        "scan": _base64(scan.nifti),
        "layers": [
            {
                "nifti": _base64(one.nifti),
                "rgb": one.rgb,
                "limit": one.limit,
                "opacity": one.opacity,
                "is_shown": one.is_shown,
            }
            for one in layers
        ],
        "windows": [{"range": [level - width / 2, level + width / 2]} for _, level, width in _WINDOWS],
        "low": _rounded(volume.index_to_mm((0, 0, 0))),
        "high": _rounded(volume.index_to_mm(np.array(volume.shape) - 1)),
        "spacing": volume.spacing_mm[::-1],
        "start": _rounded(start_mm),
    }
    text = json.dumps(about, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704  # escaped for a script


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _rounded(point_mm: Sequence[float] | np.ndarray) -> list[float]:
    return [round(float(mm), 2) for mm in point_mm]
