"""Writes the page of a scan: reads it, finds its lungs, asks a model if there is one, and embeds all of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hilum.arrays import ArrayLike, three
from hilum.errors import GeometryError, ReadError
from hilum.files import check_output, check_place, user_path, write_whole
from hilum.findings import Finding
from hilum.predicting.explain import ExplainConfig, HeatMap
from hilum.predicting.predictor import Prediction, Predictor
from hilum.preparing.lungs.masks import read_lungs
from hilum.preparing.lungs.segment import Lungs, segment_lungs
from hilum.preparing.lungs.sides import LEFT, RIGHT
from hilum.reading.reader import read_source
from hilum.reading.source import ScanSource
from hilum.serving.scan_result import ScanResult, ask_of_scan
from hilum.serving.viewer.answer import answer_of
from hilum.serving.viewer.embedded import EmbeddedScan, embed
from hilum.serving.viewer.layers import Layer, box_layer, lung_layers, map_layers
from hilum.serving.viewer.page import PAGE_MARK, NamedPlace, PageContent, viewer_page
from hilum.volume import Triple, Volume

MOST_PAGE_BYTES = 8_000_000
"""Of a page: what an e-mail or a pull request takes."""
_FIRST_GUESS = 0.5
"""Share of the page's bytes with which the compressed scan is tried first: NiiVue and base64 take the rest."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Viewed:
    """What a page shows.

    Attributes:
        num_bytes: Size of the page.
        shown: How the scan is shown, in words: as it is, or reduced to which grid.
        prediction: What the model says; None: there is none.
        heat_maps: The model's maps.
    """

    num_bytes: int
    shown: str
    prediction: Prediction | None = None
    heat_maps: tuple[HeatMap, ...] = ()


def view(
    scan: Volume | str | Path,
    out: str | Path,
    *,
    model: str | Path | None = None,
    names: Sequence[str] = (),
    with_map: bool = True,
    config: ExplainConfig = ExplainConfig(),  # noqa: B008  # frozen
    point_mm: ArrayLike | None = None,
    series: str = "",
    mask: str | Path | None = None,
    device: str = "auto",
    show_progress: bool = False,
) -> Viewed:
    """Write one HTML file that shows a scan in a browser: planes, render, lungs, findings, and what a model says.

    The page needs no network. It holds no names, ids or dates, but the pixels of a patient.

    Args:
        scan: A path that ``read`` accepts, or a Volume in HU.
        out: The file; an earlier page is replaced.
        model: A model folder, or the run folder around it; None: the scan alone.
        names: Names of the model's outputs, in order; none: its own.
        with_map: Whether a map shows what the prediction depends on; see ``explain``.
        config: How the map is made.
        point_mm: Where the crosshair starts, LPS mm (x, y, z); models of region ``point`` look there.
        series: The series to read, if the folder holds several.
        mask: File of a lung mask; None: the lungs are segmented.
        device: Device of the network.
        show_progress: Show a bar where the map takes longer than two seconds.

    Raises:
        HilumError: If the scan, the model or a setting is not usable, or the file cannot be written.
    """
    out, at = user_path(out), user_path(mask) if mask is not None else None
    inputs = [None if isinstance(scan, Volume) else user_path(scan), at]
    check_place(out, "a page")
    check_output(out, PAGE_MARK, inputs=inputs)
    predictor = None if model is None else Predictor(model, device=device).named(names)
    source = _source(scan, series, predictor)
    volume = source.volume
    point = None if point_mm is None else _point_in(volume, point_mm)
    if predictor is None:
        found: ScanResult | Lungs = read_lungs(at, volume) if at is not None else segment_lungs(volume)
    else:
        seen = point if predictor.card.recipe.region == "point" else None
        found = ask_of_scan(
            predictor, source, config=config if with_map else None, point_mm=seen, mask=at, path=inputs[0],
            show_progress=show_progress,
        )  # fmt: skip
    page, shown = page_of_scan(source, found, point)
    write_whole(out, page, mark=PAGE_MARK)
    result = found if isinstance(found, ScanResult) else None
    return Viewed(
        num_bytes=len(page),
        shown=shown,
        prediction=None if result is None else result.prediction,
        heat_maps=() if result is None else result.heat_maps,
    )


def _source(scan: Volume | str | Path, series: str, predictor: Predictor | None) -> ScanSource:
    if isinstance(scan, Volume):
        return ScanSource(volume=scan)
    path = user_path(scan)
    if path.suffix.lower() == ".npy":
        msg = "must be a scan with its place in the patient, a .npy file is a prepared volume"
        raise ReadError(msg, path=path)
    return read_source(path, series=series or None, reading=None if predictor is None else predictor.card.reading)


def _point_in(volume: Volume, point_mm: Any) -> Triple:
    x, y, z = three(point_mm, "a point in LPS mm (x, y, z)").tolist()
    if not volume.contains_mm((x, y, z)):
        msg = f"a point must lie within the scan, {x:g} {y:g} {z:g} (LPS mm) does not"
        raise GeometryError(msg, code="point-outside")
    return x, y, z


def page_of_scan(source: ScanSource, found: ScanResult | Lungs, point_mm: Triple | None = None) -> tuple[bytes, str]:
    """The page of a scan, as fine as its size allows, and in words how the scan is shown.

    Args:
        source: The scan.
        found: What a model says of it, or its lungs alone.
        point_mm: Where the crosshair starts, LPS mm (x, y, z).
    """
    lungs, result = (found.lungs, found) if isinstance(found, ScanResult) else (found, None)
    content = _content(source, lungs, result, point_mm)
    page, embedded = _fitted(source.volume, lungs, result, content)
    return page, embedded.words


def _fitted(
    volume: Volume, lungs: Lungs, result: ScanResult | None, content: PageContent
) -> tuple[bytes, EmbeddedScan]:
    """The page with the scan as fine as the page's size allows."""
    most = int(_FIRST_GUESS * MOST_PAGE_BYTES)
    maps = [] if result is None else map_layers(result.heat_maps)
    while True:
        embedded = embed(volume, most)
        layers: list[Layer] = lung_layers(lungs, embedded.volume)
        if result is not None:
            layers += [box_layer(result.sample, embedded.volume), *maps]
        page = viewer_page(embedded, layers, content).encode()
        if len(page) <= MOST_PAGE_BYTES:
            return page, embedded
        most -= (len(page) - MOST_PAGE_BYTES) * 3 // 4 + MOST_PAGE_BYTES // 1000


def _content(source: ScanSource, lungs: Lungs, result: ScanResult | None, point: Triple | None) -> PageContent:
    """Places, findings and the answer."""
    places = [
        NamedPlace(name=f"Centre of the {name} lung", lps_mm=_centre(lungs, side))
        for name, side in (("right", RIGHT), ("left", LEFT))
        if np.any(lungs.labels == side)
    ]
    first = None if not places else max(places, key=lambda one: (lungs.right_ml, lungs.left_ml)["left" in one.name])
    start = source.volume.centre_mm if first is None else first.lps_mm
    found = list(source.volume.findings)
    if result is not None:
        found = list(result.prediction.findings)
        places.append(NamedPlace(name="Box that the model saw", lps_mm=_triple(result.sample.centre_mm)))
        peaks = [(one, one.peak_mm) for one in result.heat_maps]
        maps = [
            NamedPlace(name=f"Peak of the map of {one.output}", lps_mm=_triple(p)) for one, p in peaks if p is not None
        ]
        places += maps
        start = maps[0].lps_mm if maps else start
    if point is not None:
        places.append(NamedPlace(name="Point that was given", lps_mm=point))
        start = point
    litres = ""
    if lungs.right_ml + lungs.left_ml:
        litres = f"Lungs: right {lungs.right_ml / 1000:.2f} litres, left {lungs.left_ml / 1000:.2f} litres."
    return PageContent(
        start_mm=_triple(start),
        places=tuple(places),
        findings=tuple((one, source.place_mm(one.where) if one.where else None) for one in _with_lungs(found, lungs)),
        lungs=litres,
        answer=None if result is None else answer_of(result.prediction, result.card),
    )


def _with_lungs(findings: Sequence[Finding], lungs: Lungs) -> list[Finding]:
    """Findings with those of the lungs that are not among them yet, as notes: they refuse nothing that is shown."""
    known = {(one.code, one.message) for one in findings}
    notes = [replace(one, severity="note") for one in lungs.findings if (one.code, one.message) not in known]
    return [*findings, *notes]


def _centre(lungs: Lungs, side: int) -> Triple:
    """Centre of a lung: its voxel nearest to the median along each axis."""
    index = np.argwhere(lungs.labels == side)
    nearest = index[np.abs(index - np.median(index, axis=0)).sum(axis=1).argmin()]
    return _triple(lungs.affine[:3, :3] @ nearest + lungs.affine[:3, 3])


def _triple(point_mm: Any) -> Triple:
    x, y, z = (float(mm) for mm in point_mm)
    return x, y, z
