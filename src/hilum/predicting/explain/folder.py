"""Writes the folder of an explanation: maps as NIfTI in the scan's geometry, pictures, JSON and a page."""

import base64
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32
from markupsafe import Markup

from hilum.drawing import BLUE, GREY, Panels, empty_panels, label, legend, svg, write
from hilum.files import check_own_folder, user_path, whole_folder
from hilum.imagefile import write_image
from hilum.pages import html_page
from hilum.predicting.explain.check import Curves, SanityCheck
from hilum.predicting.explain.heat_map import HeatMap
from hilum.predicting.explain.location import MAP_PLACES, Location
from hilum.predicting.explain.planes import planes_of
from hilum.predicting.predictor import Prediction
from hilum.preparing.resample import sample
from hilum.volume import Volume

EXPLANATION_FORMAT = 1
_MARK = re.compile(r'\{\s*"format": \d+,\s*"meaning": ')
"""How explanation.json begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """A map, where it lies, and whether it can be believed.

    Attributes:
        heat_map: The map.
        location: Where it lies; None: not asked, for a prepared volume has no scan.
        check: Its tests; None: not asked for.
    """

    heat_map: HeatMap
    location: Location | None
    check: SanityCheck | None = None


def check_explanation_folder(out: Path, inputs: Sequence[Path] = ()) -> None:
    """Check, before anything is computed, that a folder is new, empty, or holds an earlier explanation alone.

    Args:
        out: The folder.
        inputs: Files and folders that are read, and must not lie in it.

    Raises:
        ConfigError: If it is a file, cannot be written, or holds other files.
    """
    own = _files_of(out)
    check_own_folder(out, lambda file: file.name in own, "an earlier explanation", inputs=inputs)


def _files_of(out: Path) -> set[str]:
    """Names of the files of an earlier explanation, as its explanation.json lists them; empty if it has none."""
    file = out / "explanation.json"
    try:
        text = file.read_text(encoding="utf-8")
        if file.is_symlink() or not _MARK.match(text):
            return set()
        listed = {str(name) for one in json.loads(text)["maps"] for name in one["files"]}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return set()
    named = {"explanation.json", "explanation.html", *listed}
    return {name for name in named if (out / name).is_file() and not (out / name).is_symlink()}


def write_explanation(
    out: str | Path, scan: Volume, explained: Sequence[Explained], prediction: Prediction, version: str
) -> dict[str, Any]:
    """Write ``explanation.json`` and ``.html``, and for each output ``map.nii.gz`` and ``planes.png``, all or none.

    With several outputs the names are ``map-1.nii.gz`` and so on. An ensemble's maps have their standard deviation over
    the members beside them, ``spread.nii.gz``.

    Args:
        out: The folder.
        scan: The scan in its own geometry, on whose grid the maps are written: 0 outside what the model saw.
        explained: The maps, in order.
        prediction: The prediction.
        version: Version of Hilum that made the model.

    Returns:
        The content of explanation.json.

    Raises:
        ConfigError: If the folder cannot be written, or holds other files.
    """
    out = user_path(out).absolute()
    check_explanation_folder(out)
    with whole_folder(out, lambda _: True) as new:
        rows = []
        for number, one in enumerate(explained, start=1):
            suffix = f"-{number}" if len(explained) > 1 else ""
            rows.append(_write_map(new, one, scan, suffix))
        about = {
            "format": EXPLANATION_FORMAT,
            "meaning": explained[0].heat_map.meaning,
            "model_version": version,
            "prediction": prediction.as_dict(),
            "maps": rows,
        }
        text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)
        (new / "explanation.json").write_text(text + "\n", encoding="utf-8")
        (new / "explanation.html").write_text(_page(new, about, explained), encoding="utf-8")
    return about


def on_scan(values: Float32[np.ndarray, "_ _ _"], heat_map: HeatMap, scan: Volume) -> Float32[np.ndarray, "z y x"]:
    """Values of a map on the scan's own grid, linearly between the model's voxels; 0 outside what the model saw."""
    seen = Volume(voxels_hu=np.ascontiguousarray(values, np.float32), affine=heat_map.affine)
    return sample(seen, scan.affine, scan.shape, air=0.0)


def _write_map(folder: Path, one: Explained, scan: Volume, suffix: str) -> dict[str, Any]:
    """Write the files of a map; returns its entry in explanation.json."""
    heat_map = one.heat_map
    files = {"map": heat_map.values} | ({"spread": heat_map.spread} if heat_map.spread is not None else {})
    for name, values in files.items():
        write_image(on_scan(values, heat_map, scan), scan.affine, folder / f"{name}{suffix}.nii.gz")
    title = f"What speaks for {heat_map.output} ({heat_map.method})"
    write(planes_of(heat_map, scan, title=title, foot=heat_map.meaning), folder / f"planes{suffix}.png")
    location, check, index = one.location, one.check, heat_map.peak_index
    peak = None if location is None else heat_map.peak_mm  # a prepared volume has no position
    return {
        "output": heat_map.output,
        "method": heat_map.method,
        "settings": heat_map.settings,
        "doubt": heat_map.doubt,
        "log_odds": heat_map.log_odds,
        "peak_lps_mm": None if peak is None else [round(float(mm), 3) for mm in peak],
        "peak_index_zyx": None if index is None else [round(float(i), 2) for i in index],
        "peak_value": float(heat_map.values.max()),
        "peak_in": None if location is None else location.peak,
        "shares": None if location is None else location.shares,
        "check": None if check is None else {**asdict(check), "holds": check.holds, "verdict": check.verdict},
        "files": [f"{name}{suffix}.nii.gz" for name in files] + [f"planes{suffix}.png"],
    }


def _page(folder: Path, about: dict[str, Any], explained: Sequence[Explained]) -> str:
    """The page: every map with its planes, numbers and tests."""
    cards = []
    for number, (row, one) in enumerate(zip(about["maps"], explained, strict=True), start=1):
        picture = base64.b64encode((folder / row["files"][-1]).read_bytes()).decode("ascii")
        plots = [] if one.check is None else [_svg(*plot, number) for plot in _check_plots(one.check)]
        cards.append({**row, "picture": picture, "facts": _facts(row), "plots": plots})
    return html_page(
        "hilum.predicting.explain",
        "explanation.html",
        generator="hilum explain",
        title="What this prediction depends on",
        prediction=about["prediction"],
        meaning=about["meaning"],
        maps=cards,
    )


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """Name and text of what the page says of a map."""
    peak, index = row["peak_lps_mm"], row["peak_index_zyx"]
    facts = [("method", row["method"])]
    facts += [(name.replace("_", " "), _words(value)) for name, value in row["settings"].items()]
    facts += [("log odds, before calibration", f"{row['log_odds']:.2f}")]
    if index is None:
        return [*facts, ("peak", "none: nothing in the image speaks for it")]
    where = f"voxel {', '.join(f'{i:g}' for i in index)} (z, y, x) of the volume"
    if peak is not None:
        where = f"{', '.join(f'{mm:.1f}' for mm in peak)} mm (LPS x, y, z)"
    facts += [("peak", f"{where}, {row['peak_value']:.3g}")]
    if row["peak_in"] is not None:
        facts += [("the peak lies", MAP_PLACES[row["peak_in"]])]
        facts += [(f"share {MAP_PLACES[name]}", f"{share:.0%}") for name, share in row["shares"].items()]
    if row["check"] is not None:
        facts += [("the check", row["check"]["verdict"])]
    return facts


def _words(value: Any) -> str:
    if isinstance(value, list):
        return " x ".join(f"{v:g}" for v in value) if value and not isinstance(value[0], str) else ", ".join(value)
    return "not defined" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _check_plots(check: SanityCheck) -> list[tuple[Panels, str, str]]:
    """Plot the curves, and the correlations with maps of lost weights."""
    panels = empty_panels(inches=(5.2, 3.6))
    axes, curves = panels.axes[0], check.curves
    _curve(axes, curves)
    label(axes, title="Deletion and insertion", x="Share of the image", y="Log odds")
    legend(axes, "best")
    bars = empty_panels(inches=(5.2, 3.6))
    names = list(check.correlations)
    bars.axes[0].bar(names, list(check.correlations.values()), color=BLUE)
    bars.axes[0].axhline(0, color=GREY, linewidth=1)
    bars.axes[0].set_ylim(-1, 1)
    label(bars.axes[0], title="Map after losing weights", x="Lost from the head to", y="Rank correlation")
    return [
        (
            panels,
            "curves",
            "Log odds while a tenth of the image is replaced by its blurred self cube by cube, or put back",
        ),
        (bars, "weights", "Rank correlation of the map with that after the weights were lost, part by part"),
    ]


def _curve(axes: Any, curves: Curves) -> None:
    axes.plot(curves.shares, curves.deletion, color=BLUE, linewidth=2, label="deleted by the map")
    axes.plot(curves.shares, curves.random_deletion, color=GREY, linewidth=2, label="deleted at random")
    axes.plot(curves.shares, curves.insertion, color=BLUE, linewidth=2, linestyle=":", label="inserted by the map")
    axes.plot(curves.shares, curves.random_insertion, color=GREY, linewidth=2, linestyle=":", label="at random")


def _svg(panels: Panels, name: str, caption: str, number: int) -> dict[str, Any]:
    text = svg(panels, name=f"{name}-{number}", title=caption)
    return {"svg": Markup(text), "caption": caption}  # noqa: S704  # made by matplotlib
