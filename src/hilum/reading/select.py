"""Chooses one of several series: by points with stated reasons, by UID, or by one named rule."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from hilum.errors import HilumError, ReadError
from hilum.findings import Finding, refusals
from hilum.orientation import canonical
from hilum.reading.dicom.pixels import slice_hu
from hilum.reading.dicom.series import Series
from hilum.reading.hu_check import cell_strides, check_hu
from hilum.volume import Volume

_LISTED = 12
"""More series than this are not listed in one line; ``hilum inspect`` has them all."""

_CHEST = re.compile(r"CHEST|THORAX|LUNG|TORSO")
_SHARP = re.compile(
    r"LUNG|BONE|EDGE|SHARP|ULTRA|^Y[A-E]|^[DE]$|^L$|^FC(5\d|8\d|3\d)|^BL\d|^[A-Z]{1,2}(5[5-9]|[6-9]\d)[A-Z]?", re.I
)
"""Reconstruction kernels that sharpen: GE's by name, Siemens' by number, Philips' by letter, Canon's FC series."""

_LUNG_HU, _LUNG_SHARE = (-950, -500), 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesChoice:
    """A series with its points.

    Attributes:
        series: The series.
        score: Points; -1 for one that is refused.
        reasons: Reasons for the points, such as ``+2 axial``.
    """

    series: Series
    score: int
    reasons: tuple[str, ...]


def rate(series: Series, volume: Volume | None = None) -> SeriesChoice:
    """Points for a series as the chest CT to take of a study, with reasons.

    Args:
        series: A series.
        volume: The same, where it is loaded already; else a slice every 8 mm is read.
    """
    refused = refusals(series.findings)
    if refused:
        return SeriesChoice(series=series, score=-1, reasons=(f"refused: {refused[0].code}",))
    first = series.frames[0].header
    step = _step(series)
    extent = len(series.stack.at) * step
    lungs, is_airless = _lungs(series, volume)
    points = [
        (4 * (lungs >= _LUNG_SHARE and not is_airless), f"lungs in {lungs:.0%} of the field"),
        (3 if step <= 1.5 else 2 if step <= 3 else int(step <= 5), f"a slice every {step:.3g} mm"),
        (2 if extent >= 200 else int(extent >= 100), f"{extent:.0f} mm long"),
        (int(len(series.frames) >= 50), f"{len(series.frames)} slices"),
        (2 * ("ORIGINAL" in first.image_type), f"image type {first.image_type[0] if first.image_type else ''}"),
        (2 * bool(abs(first.normal[2]) > 0.9), "axial"),
        (_body_part(first.body_part), f"body part {first.body_part.lower() or 'not given'}"),
        (int(not is_sharp(first.kernel)), f"kernel {first.kernel or 'not given'}"),
        (-sum(f.severity == "repaired" and f.code != "gantry-tilt" for f in series.findings), "repaired"),
    ]
    reasons = tuple(f"{score:+d} {reason}" for score, reason in points if score)
    return SeriesChoice(series=series, score=sum(score for score, _ in points), reasons=reasons)


def is_sharp(kernel: str) -> bool:
    """True for kernels that sharpen edges and noise, as for lungs and bone.

    Example:
        >>> is_sharp("B70f"), is_sharp("LUNG"), is_sharp("B30f"), is_sharp("STANDARD")
        (True, True, False, False)
    """
    return bool(_SHARP.search(kernel.split("\\")[0]))


_Key = Callable[[SeriesChoice], float]
RULES: dict[str, _Key] = {
    "best": lambda choice: choice.score,
    "thinnest": lambda choice: -_step(choice.series),
    "most-slices": lambda choice: len(choice.series.frames),
    "soft": lambda choice: choice.score - 100 * is_sharp(choice.series.tags.kernel),
    "sharp": lambda choice: choice.score + 100 * is_sharp(choice.series.tags.kernel),
}
"""Named rules: the series with the largest number is taken; ties are settled by points."""


def _step(series: Series) -> float:
    """Distance between slices in mm; infinite without a regular grid."""
    return float(np.linalg.norm(series.stack.affine[:3, 0])) if series.stack.affine is not None else np.inf


def choose_series(found: list[Series], wanted: str | None) -> tuple[Series, list[Finding]]:
    """The series to take, and a note on how it was chosen where there were several.

    Args:
        found: The series; at least one.
        wanted: A SeriesInstanceUID, a name as in ``Series.name`` or its beginning, one of ``RULES``, or None.

    Raises:
        ReadError: If none is wanted by that name, or none is better than the rest.
    """
    rules = found[0].reading.rules
    if wanted is not None and wanted not in RULES:
        wanted = wanted.strip()
        named = [s for s in found if wanted in (s.uid, s.name) or (len(wanted) >= 4 and s.name.startswith(wanted))]
        exact = [s for s in found if wanted in (s.name, s.uid_name)] or named
        if len(exact) != 1 and not (exact and len({s.uid for s in exact}) == 1):
            problem = "several series that begin with" if exact else "no series"
            msg = f"there must be one series to pick, there are {problem} {wanted}: {_listing(found)}"
            raise ReadError(msg)
        if len(exact) == 1:
            others = [rules.find("mixed-series", f"one of {len(found)} series here, picked by name")]
            return exact[0], others if len(found) > 1 else []
        found = exact
    if len(found) == 1:
        return found[0], []
    return _best(found, wanted if wanted in RULES else None)


def _best(found: list[Series], rule: str | None) -> tuple[Series, list[Finding]]:
    usable = [s for s in found if not refusals(s.findings)]
    if not usable:
        msg = f"all {len(found)} series are refused: " + "; ".join(
            f"{s.summary}: {refusals(s.findings)[0]}" for s in found[:_LISTED]
        )
        raise ReadError(msg)
    if len({s.tags.study for s in usable}) > 1:
        msg = f"series of several studies lie here, pick one with series: {_listing(usable)}"
        raise ReadError(msg)
    key = RULES[rule or "best"]

    def rank(choice: SeriesChoice) -> tuple[Any, ...]:
        return key(choice), choice.score, len(choice.series.frames)

    choices = []
    for one in usable:
        choices.append(rate(one) if len(usable) > 1 else SeriesChoice(series=one, score=0, reasons=()))
        first = max(choices, key=rank)
        for choice in choices:  # other series must not keep their decoded pixels
            if choice is not first:
                choice.series.opened.clear()
    ranked = sorted(choices, key=rank, reverse=True)
    best = ranked[0]
    if len(ranked) > 1 and key(best) == key(ranked[1]) and best.score == ranked[1].score:
        equal = [c.series for c in ranked if key(c) == key(best) and c.score == best.score]
        msg = f"{len(equal)} of {len(found)} series are equally good, pick one with series: {_listing(equal)}"
        raise ReadError(msg)
    phases = [s for s in usable if s.uid == best.series.uid and s.tags.kernel == best.series.tags.kernel]
    if len(phases) > 1 and len({s.frames[0].header.image_type for s in phases}) == 1:
        msg = f"the best series is {len(phases)} volumes, pick one with series: {_listing(phases)}"
        raise ReadError(msg)
    if len(usable) == 1:
        message = f"one of {len(found)} series here, the others are refused"
    elif rule:
        message = f"one of {len(found)} series here, taken by the rule {rule}"
    else:
        message = f"one of {len(found)} series here, taken with {best.score} points before {ranked[1].score}: "
        message += ", ".join(best.reasons)
    return best.series, [best.series.reading.rules.find("mixed-series", message)]


def _listing(found: list[Series]) -> str:
    return "; ".join(s.summary for s in found[:_LISTED]) + (" ..." if len(found) > _LISTED else "")


def _body_part(named: str) -> int:
    return 0 if not named else 2 if _CHEST.search(named) else -2


def _lungs(series: Series, volume: Volume | None) -> tuple[float, bool]:
    """Share of the field with HU of lungs, and whether ``check_hu`` finds no lungs (``no-air``).

    A head has skin, cushions and sinuses of such HU, but no 20 ml of air within tissue.
    """
    if volume is None:
        try:
            volume = _thinned(series)
        except HilumError:  # it is refused when it is loaded, with the reason
            return 0.0, False
    pixels = volume.voxels_hu[:: cell_strides(volume.affine)[0], ::4, ::4]
    share = float(np.mean((pixels > _LUNG_HU[0]) & (pixels < _LUNG_HU[1])))
    return share, any(f.code == "no-air" for f in check_hu(volume, series.reading.rules)[1])


def _thinned(series: Series) -> Volume:
    """The series with only those of its slices that ``check_hu`` samples."""
    affine = series.stack.affine
    assert affine is not None  # else a finding refuses it  # noqa: S101
    stride = cell_strides(affine)[0]
    measured = [at for at, again in zip(series.stack.order.tolist(), series.stack.repeated, strict=True) if not again]
    places = np.rint(series.stack.at[::stride]).astype(int)
    planes = [slice_hu(series.frames[measured[place]], series) for place in places]
    turn, turned = canonical(affine @ np.diag([stride, 1.0, 1.0, 1.0]), (len(planes), *planes[0].shape))
    kind = np.result_type(*planes)
    return Volume(voxels_hu=turn.turned(np.stack(planes).astype(kind, copy=False)), affine=turned)
