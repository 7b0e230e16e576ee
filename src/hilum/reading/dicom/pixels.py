"""Loads a series as a Volume: reads or decodes pixels in threads, rescales them, and writes them to their places."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Num

from hilum.errors import GeometryError, ReadError
from hilum.files import cores
from hilum.findings import Finding, refusals
from hilum.orientation import canonical
from hilum.reading.alternation import alternation_findings
from hilum.reading.decoder_pool import decode
from hilum.reading.dicom.frames import Frame
from hilum.reading.dicom.grouping import TELLING, spelt
from hilum.reading.dicom.header_scan import inflated
from hilum.reading.dicom.series import Opened, Series
from hilum.reading.rescale import intensity_findings, settle, slice_into
from hilum.volume import Volume

_THREADS = 8


def load_series(series: Series) -> Volume:
    """The voxels of a series in HU, canonically oriented; its findings may still refuse it because of its HU.

    Raises:
        GeometryError: If a finding refuses the series; the message names all that do.
        ReadError: If pixels cannot be decoded.
    """
    _refuse(series, series.findings)
    grid = series.stack
    assert grid.affine is not None  # else a finding refuses it  # noqa: S101
    order, findings = without_duplicates(series)
    _refuse(series, findings)
    frames = [series.frames[i] for i in order]
    turn, affine = canonical(grid.affine, (len(grid.at), *frames[0].header.shape))
    shape = tuple(turn.shape[axis] for axis in turn.order)
    voxels = np.empty(shape, np.int16 if _are_whole(frames) else np.float32)
    planes = turn.unturned(voxels)  # a view: slices are written to where they end up
    findings += _fill_grid(planes, frames, series)
    return Volume(
        voxels_hu=voxels,
        affine=affine,
        tags=series.tags,
        findings=(*series.findings, *findings),
        interpolated=tuple(turn.moved(0, z) for z in grid.made),
    )


def _refuse(series: Series, findings: Iterable[Finding]) -> None:
    refused = refusals(findings)
    if refused:
        msg = f"series {series.name} is refused: " + "; ".join(map(str, refused))
        raise GeometryError(msg, code=refused[0].code)


def without_duplicates(series: Series) -> tuple[list[int], list[Finding]]:
    """The slices' order with exact copies dropped; a finding refuses slices that differ at one position."""
    rules = series.reading.rules
    kept: list[int] = []
    dropped = []
    for at, repeated in zip(series.stack.order.tolist(), series.stack.repeated, strict=True):
        if not repeated:
            kept.append(at)
            continue
        frame, twin = series.frames[at], series.frames[kept[-1]]
        if not np.array_equal(slice_hu(frame, series), slice_hu(twin, series)):
            found = rules.find("time-series", _why_two(frame, twin, series), f"{frame.name}, {twin.name}")
            return kept, [found]
        dropped.append(frame.name)
    if not dropped:
        return kept, []
    message = f"exact copies of neighbouring slices were dropped: {len(dropped)}"
    return kept, [rules.find("duplicate-slices", message, dropped[0])]


def _why_two(frame: Frame, twin: Frame, series: Series) -> str:
    """The likely reason why two different slices lie at one position, as far as the headers show."""
    telling = [k for k in TELLING if spelt(k, frame.values.get(k, b"")) != spelt(k, twin.values.get(k, b""))]
    repeated = series.stack.repeated
    num_places, num_again = repeated.count(False), repeated.count(True)
    if telling:
        why = f"they have another {telling[0]}, which does not divide the series into whole volumes"
    elif num_again % num_places == 0:
        why = f"{num_again // num_places + 1} slices lie at each position: phases that nothing tells apart"
    else:
        why = f"{num_again} of {len(repeated)} slices lie where another lies, and nothing tells which is right"
    return f"two slices differ at one position; {why}"


def slice_hu(frame: Frame, series: Series) -> Num[np.ndarray, "y x"]:
    """The HU of one slice alone, as it is stored."""
    out = np.empty(frame.header.shape, np.int16 if _are_whole([frame]) else np.float32)
    if _slice_into(out, frame, series)[0]:
        settle([out])
    return out


def _are_whole(frames: list[Frame]) -> bool:
    """Whether all HU are whole numbers."""
    rescales = {(f.header.slope, f.header.intercept or 0.0) for f in frames}
    return all(float(v).is_integer() for rescale in rescales for v in rescale)


def _fill_grid(planes: np.ndarray, frames: list[Frame], series: Series) -> list[Finding]:
    """Write the slices of the grid: measured ones as they are, those between by linear interpolation."""
    at = series.stack.at
    on_grid = np.flatnonzero(at == np.rint(at))
    in_place = np.array_equal(at[on_grid], np.arange(len(frames)))  # each measured slice is one of the grid
    source = planes if in_place else np.empty((len(frames), *planes.shape[1:]), planes.dtype)
    places = on_grid if in_place else np.arange(len(frames))
    num_low, num_metal = _fill(source, places, frames, series)
    measured = [source[place] for place in places]
    num_padding, num_noise = settle(measured) if num_low else (0, 0)
    rules = series.reading.rules
    findings = intensity_findings(num_padding, num_noise, num_metal, len(frames) * planes[0].size, rules)
    findings += alternation_findings(measured, places, rules)
    for z, place in enumerate(at.tolist()):
        below, share = int(place), place % 1
        if share or not in_place:
            above = min(below + 1, len(frames) - 1)
            planes[z] = _between(source[places[below]], source[places[above]], share)
    return findings


def _fill(planes: np.ndarray, places: np.ndarray, frames: list[Frame], series: Series) -> tuple[int, int]:
    """Write all measured slices to their places; returns the number of voxels below a scanner's range and above it."""
    for path in {f.path for f in frames if _is_packed(f)}:
        _opened(next(f for f in frames if f.path == path), series)  # once, before threads ask for it

    def fill(number: int) -> tuple[int, int]:
        return _slice_into(planes[places[number]], frames[number], series)

    with ThreadPoolExecutor(min(_THREADS, cores())) as pool:
        try:
            counts = np.array(list(pool.map(fill, range(len(frames)))))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # one damaged slice refuses the scan
            raise
    series.opened.clear()
    return int(counts[:, 0].sum()), int(counts[:, 1].sum())


def _is_packed(frame: Frame) -> bool:
    """True for a frame of a file that is inflated or decoded as a whole, for all its frames at once."""
    return frame.is_one_of_many and (frame.offset is None or frame.inflated_bytes > 0)


def _opened(frame: Frame, series: Series) -> Opened:
    """The file of a frame inflated, or decoded; of one with several frames it is kept until the series is loaded."""
    if frame.path in series.opened:
        return series.opened[frame.path]
    content = _content(frame, series.reading.max_bytes)
    if _is_packed(frame):
        series.opened[frame.path] = content
    return content


def _content(frame: Frame, max_bytes: int) -> Opened:
    """A file inflated, or its compressed pixels decoded and rescaled by GDCM in a process of their own."""
    if frame.inflated_bytes:
        try:
            return inflated(frame.path.read_bytes(), frame.inflated_bytes)
        except OSError as exc:
            msg = f"pixels cannot be read: {exc.strerror or exc}"
            raise _failed(frame, msg) from exc
    try:
        return decode(frame.path, "dicom", max_bytes=max_bytes)
    except ReadError as exc:
        raise _failed(frame, exc.message, exc.code) from exc


def _failed(frame: Frame, why: str, code: str | None = None) -> ReadError:
    """The error of one slice, with the slice's name in findings."""
    return ReadError(f"{frame.name}: {why}", code=code)


def _slice_into(out: Num[np.ndarray, "y x"], frame: Frame, series: Series) -> tuple[int, int]:
    """Write the HU of one frame; returns the number of pixels below a scanner's range and above it (metal)."""
    header = frame.header
    if frame.offset is None:
        pixels = _opened(frame, series)
        assert isinstance(pixels, np.ndarray)  # noqa: S101
        return slice_into(out, _unscaled(pixels, frame), header, unpack=False)
    rows, columns = header.shape
    try:
        if frame.inflated_bytes:
            words = np.frombuffer(_opened(frame, series), header.word, rows * columns, frame.offset)
        else:
            words = np.fromfile(frame.path, header.word, rows * columns, offset=frame.offset)
        words = words.reshape(rows, columns)
    except OSError as exc:
        msg = f"pixels cannot be read: {exc.strerror or 'a damaged disk'}"
        raise _failed(frame, msg) from exc
    except ValueError as exc:  # fewer than when its header was read
        msg = "pixels are missing; the file was changed while it was read"
        raise _failed(frame, msg, "truncated-file") from exc
    return slice_into(out, words.astype(header.word.newbyteorder("="), copy=False), header)


def _unscaled(pixels: Num[np.ndarray, "n y x"], frame: Frame) -> Num[np.ndarray, "y x"]:
    """The stored values of one frame, from GDCM's, which it rescales by what it finds first in the file."""
    if frame.index >= len(pixels) or pixels.shape[1:] != frame.header.shape:
        msg = "compressed pixels are not those that the header describes"
        raise _failed(frame, msg)
    slope, intercept = frame.file_rescale
    stored: np.ndarray = (pixels[frame.index] - intercept) / slope
    whole: np.ndarray = np.rint(stored).astype(np.int32)
    return whole


def _between(below: Num[np.ndarray, "y x"], above: Num[np.ndarray, "y x"], share: float) -> Num[np.ndarray, "y x"]:
    """Linear interpolation between two slices."""
    if share == 0:
        return below
    mixed: np.ndarray = below + np.float32(share) * (above.astype(np.float32) - below)
    if below.dtype.kind == "i":
        np.rint(mixed, out=mixed)
    return mixed.astype(below.dtype, copy=False)
