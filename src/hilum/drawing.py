"""The look of all plots: an empty figure with its panels, and how it is written; no global state."""

import html
import io
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import LogLocator, NullLocator

BLUE, ORANGE, GREEN, INK, GREY, PALE = "#0072B2", "#D55E00", "#009E73", "#1F2933", "#7B8794", "#E4E7EB"
"""Okabe and Ito's colours, which colour-blind readers can tell apart, and greys."""

_VARIABLES = {
    BLUE: "blue", ORANGE: "orange", GREEN: "green", INK: "ink", GREY: "grey", PALE: "pale", "#FFFFFF": "paper"
}  # fmt: skip
"""CSS variables of the colours in an SVG, so that a page can show it on light and dark ground."""

_DPI = 150
_FOOT_LETTERS = 72
"""Of a line at the foot of the narrowest picture, 5 inches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panels:
    """A figure and its axes.

    Attributes:
        picture: matplotlib's figure.
        axes: Row by row.
    """

    picture: Any
    axes: Sequence[Any]


def empty_panels(
    *,
    rows: int = 1,
    columns: int = 1,
    inches: tuple[float, float] = (5.2, 5.2),
    heights: tuple[float, ...] | None = None,
) -> Panels:
    """A white figure with light grids; ``heights`` are the relative heights of the rows."""
    picture: Any = Picture(figsize=inches, dpi=_DPI, layout="constrained", facecolor="white")
    FigureCanvasAgg(picture)
    picture.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    panels = picture.subplots(rows, columns, squeeze=False, height_ratios=heights).ravel().tolist()
    for axes in panels:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(GREY)
        axes.tick_params(colors=INK, labelsize=9, length=3)
        _grid(axes)
    return Panels(picture=picture, axes=panels)


def _grid(axes: Any) -> None:
    axes.grid(visible=True, color=PALE, linewidth=0.8)
    axes.set_axisbelow(True)


def logarithmic(axes: Any) -> None:
    """A logarithmic vertical axis with plain numbers."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 3.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_locator(NullLocator())
    _grid(axes)  # a new scale removes it


def label(axes: Any, *, title: str, x: str, y: str) -> None:
    """Name a panel and its axes; dollar signs in a title are not parsed as mathematics."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color=INK, pad=10, parse_math=False)
    axes.set_xlabel(x, fontsize=10, color=INK)
    axes.set_ylabel(y, fontsize=10, color=INK)


def unit_square(axes: Any) -> None:
    """Both axes from 0 to 1, of equal length, with room for the line width."""
    axes.set_xlim(-0.015, 1.015)
    axes.set_ylim(-0.015, 1.015)
    axes.set_aspect("equal")
    ticks = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    axes.set_xticks(ticks)
    axes.set_yticks(ticks)


def legend(axes: Any, where: str) -> None:
    """A legend with a translucent background."""
    axes.legend(loc=where, fontsize=9, frameon=True, framealpha=0.9, edgecolor="none", labelcolor=INK)


def note(axes: Any, text: str) -> None:
    """A sentence instead of a curve that does not exist."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=10, color=GREY, wrap=True)


def write(panels: Panels, path: Path, *, foot: str = "") -> None:
    """Write a PNG that is the same bytes for the same plot: no version and no date inside.

    Args:
        panels: The plot.
        path: The file.
        foot: A sentence below it.
    """
    if foot:
        panels.picture.supxlabel(textwrap.fill(foot, _FOOT_LETTERS), fontsize=8, color=INK)
    panels.picture.savefig(path, format="png", metadata={"Software": "Hilum"})  # see files.PNG_MARK


def svg(panels: Panels, *, name: str, title: str) -> str:
    """The plot as an SVG element for an HTML page: text is text, colours are CSS variables, no identifiers collide.

    The same plot gives the same text.

    Args:
        panels: The plot.
        name: Unique on the page.
        title: What the plot shows, for readers who cannot see it.
    """
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        panels.picture.savefig(file, format="svg", metadata=metadata, facecolor="none")
    text = file.getvalue()
    text = text[text.index("<svg ") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(
        r"font-family: [^;\"]*;?|font: ([\d.]+px) [^;\"]*", lambda m: f"font-size: {m[1]}" if m[1] else "", text
    )
    for colour, variable in _VARIABLES.items():
        text = re.sub(re.escape(colour), f"var(--{variable})", text, flags=re.IGNORECASE)
    start = text.index(">") + 1
    width, height = (float(size) for size in re.findall(r'(?:width|height)="([\d.]+)pt"', text[:start]))
    opening = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-label="{html.escape(title)}" style="max-width: {width / 72:.2f}in">'
    )
    return opening + re.sub(r"\n\s*", "\n", text[start:]).strip()
