"""Orders slices along their normal, judges their steps, and makes one regular grid of them where it can."""

from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np
from jaxtyping import Float, Int

from hilum.findings import Finding, Policy
from hilum.reading.dicom.frames import Frame
from hilum.reading.dicom.header_scan import named
from hilum.volume import Affine

_NEEDED = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")

SAME_POSITION_MM = 0.01
"""Positions are written with few digits; no scanner makes steps this small."""

TILT_DEG = 0.1
MIN_SLICES, FEW_SLICES = 3, 10
ANISOTROPIC = 5.0
"""Voxels this many times as long as wide are worth a note."""

_LARGEST_GAP_MM, _MISSING_IN_A_ROW, _MISSING_SHARE = 5.0, 2, 0.05
"""Missing slices are interpolated up to this distance of those that are left, this many in a row, this share of all."""

_LASTING = 4
"""Steps of one size in a row that make a change of step a lasting one."""

_LASTING_MULTIPLE, _LASTING_AT_AN_END = 8, 5
"""The same where the step is a multiple of the usual one, as where each second slice is missing."""

_ONE_DECIMAL_MM, _FLOAT_MM = 0.1, 1e-4
"""The unit of positions with one decimal, and what single precision makes of them."""

_DRIFT_MM = 0.2
_MOST_SLICES = 100_000
_GAP = 1.5
"""A step of more than this many thicknesses leaves tissue between the slices unseen."""

_PARALLEL = 5e-4
"""Larger differences of orientation move the corners of a slice by more than ``_DRIFT_MM``."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """Slices in order along their normal, and the regular grid that is made of them.

    Attributes:
        order: Indices into the frames, feet to head along the normal; repeated positions stay adjacent.
        repeated: Whether each ordered slice lies at the position of the one before it.
        at: Position of each slice of the grid among the slices at distinct positions: 3 is the fourth of them,
            3.5 half-way to the fifth.
        made: Slices of the grid that were missing.
        affine: Index (z, y, x) to LPS mm; None where there is no regular grid.
        gaps: Where slices are missing, without what is done about it; empty where none are.
        findings: Findings on the geometry.
    """

    order: Int[np.ndarray, " n"]
    repeated: list[bool]
    at: Float[np.ndarray, " m"]
    made: tuple[int, ...] = ()
    affine: Affine | None
    gaps: str = ""
    findings: list[Finding]


def stack(frames: list[Frame], rules: Policy) -> Stack:
    """Order the frames of one volume and judge their geometry by positions alone, never by SliceThickness."""
    nothing = Stack(order=np.arange(len(frames)), repeated=[], at=np.empty(0), affine=None, findings=[])
    findings = _common(frames, rules)
    if findings:
        return replace(nothing, findings=findings)
    first = frames[0].header
    assert first.directions is not None and first.pixel_mm is not None  # checked in _common  # noqa: S101, PT018
    positions = np.array([f.position_mm for f in frames])
    along = positions @ first.normal
    order = np.argsort(along, kind="stable")
    repeated = [False, *(np.diff(along[order]) < SAME_POSITION_MM).tolist()]
    keep = order[~np.array(repeated)]
    aside = np.linalg.norm(np.diff(positions[order], axis=0), axis=1)[repeated[1:]]
    if np.any(aside > _DRIFT_MM):
        message = f"slices at one height lie {aside.max():.1f} mm beside one another"
        found = rules.find("irregular-spacing", message, repairable=False)
        return replace(nothing, order=order, repeated=repeated, findings=[found])
    if len(keep) < MIN_SLICES:
        if len(keep) < len(frames):
            found = rules.find(
                "time-series", f"{len(frames)} slices lie at {len(keep)} position{'s' * (len(keep) > 1)}"
            )
        else:
            found = rules.find("single-slice", f"a volume must have at least {MIN_SLICES} slices, got {len(keep)}")
        return replace(nothing, order=order, repeated=repeated, findings=[found])
    steps = _Steps(names=[frames[k].name for k in keep], along=along[keep], positions=positions[keep])
    thickness = [f.header.thickness_mm for f in frames if f.header.thickness_mm is not None]
    grid = _grid(steps, max(thickness, default=None), rules)
    affine = np.eye(4)
    affine[:3, 0] = grid.step
    affine[:3, 1] = first.directions[1] * first.pixel_mm[0]
    affine[:3, 2] = first.directions[0] * first.pixel_mm[1]
    affine[:3, 3] = positions[keep[0]]
    findings = [*grid.findings, *_thickness(thickness, float(np.linalg.norm(grid.step @ first.normal)), rules)]
    if len(keep) < FEW_SLICES:
        findings.append(rules.find("few-slices", f"only {len(keep)} slices"))
    findings += grid_findings(affine, rules)
    return Stack(
        order=order, repeated=repeated, at=grid.at, made=grid.made, affine=affine, gaps=grid.gaps, findings=findings
    )


def grid_findings(affine: Affine, rules: Policy) -> list[Finding]:
    """Shear (a tilted gantry), an oblique grid, and voxels much longer than wide; the affine keeps them all."""
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    normal = np.cross(steps[:, 1], steps[:, 2])
    normal /= np.linalg.norm(normal)
    findings = []
    tilt = float(np.degrees(np.arccos(np.clip(abs(steps[:, 0] @ normal), 0, 1))))
    if tilt > TILT_DEG:
        message = f"the gantry was tilted by {tilt:.1f} degrees; the affine keeps the shear"
        findings.append(rules.find("gantry-tilt", message))
    oblique = float(np.degrees(np.arccos(np.clip(np.abs(normal).max(), 0, 1))))
    turned = float(np.degrees(np.arccos(np.clip(np.abs(steps[:, 1:]).max(axis=0).min(), 0, 1))))
    if tilt <= TILT_DEG and max(oblique, turned) > TILT_DEG:
        message = f"the slices lie {oblique:.1f} degrees off the nearest axis"
        if oblique <= TILT_DEG:
            message = f"the slices are turned by {turned:.1f} degrees in their plane"
        findings.append(rules.find("oblique", message))
    lengths = np.linalg.norm(affine[:3, :3], axis=0)
    if lengths.max() > (ANISOTROPIC + 1e-6) * lengths.min():
        sizes = " x ".join(f"{length:.3g}" for length in lengths)
        message = f"voxels of {sizes} mm are {lengths.max() / lengths.min():.1f} times as long as they are wide"
        findings.append(rules.find("anisotropic", message))
    return findings


def _common(frames: list[Frame], rules: Policy) -> list[Finding]:
    """Findings on slices without a position, or that differ in matrix or pixel size."""
    for frame in frames:
        header = frame.header
        needed = (frame.position_mm, header.directions, header.pixel_mm)
        lacking = [named(keyword) for keyword, value in zip(_NEEDED, needed, strict=True) if value is None]
        if lacking:
            message = f"a slice has no usable {lacking[0]}"
            if frame.is_one_of_many and frame.position_mm is None:
                count = sum(one.path == frame.path for one in frames)
                message = f"a file of {count} frames does not say where each of them lies"
            return [rules.find("not-an-image", message, frame.name)]
    first = frames[0].header
    for frame in frames[1:]:
        header = frame.header
        if header is first:
            continue
        if header.shape != first.shape:
            message = f"slices of {first.shape} and {header.shape} pixels in one series"
            return [rules.find("mixed-shape", message, frame.name)]
        if not np.allclose(np.asarray(first.pixel_mm), np.asarray(header.pixel_mm), rtol=1e-4):
            message = f"pixels of {first.pixel_mm} and {header.pixel_mm} mm in one series"
            return [rules.find("mixed-shape", message, frame.name)]
    return []


def are_parallel(one: Frame, other: Frame) -> bool:
    """True where both slices have one orientation, or neither has any."""
    a, b = one.header.directions, other.header.directions
    return a is b or (a is not None and b is not None and float(np.abs(a - b).max()) < _PARALLEL)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Steps:
    """Slices at distinct positions, in order: their names, their place along the normal and in space, in mm."""

    names: list[str]
    along: Float[np.ndarray, " n"]
    positions: Float[np.ndarray, "n 3"]

    def place(self, index: int) -> str:
        """The position of a slice for messages."""
        x, y, z = self.positions[index].tolist()
        is_axial = abs(self.along[-1] - self.along[0]) < 1.2 * abs(self.positions[-1, 2] - self.positions[0, 2])
        return f"z = {z:.1f} mm" if is_axial else f"({x:.1f}, {y:.1f}, {z:.1f}) mm"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Grid:
    """A regular grid: the vector from slice to slice in mm, and as in ``Stack``."""

    step: Float[np.ndarray, "3"]
    at: Float[np.ndarray, " m"]
    made: tuple[int, ...] = ()
    gaps: str = ""
    findings: list[Finding]


def _grid(slices: _Steps, thickness_mm: float | None, rules: Policy) -> _Grid:
    for multiples in (_multiples(np.diff(slices.along)), _rounded_multiples(slices)):
        if multiples is not None and not _is_lasting(multiples):
            grid = _filled(slices, multiples, rules)
            if grid is not None:
                return grid
    return _resampled(slices, thickness_mm, rules)


def _multiples(steps: Float[np.ndarray, " k"]) -> Int[np.ndarray, " k"] | None:
    """Each step as a multiple of the usual one; None where one is no multiple."""
    step = usual_step(steps)
    multiples = np.maximum(np.rint(steps / step), 1)
    near = np.abs(steps - multiples * step) <= _tolerance(step) * multiples
    return multiples.astype(int) if np.all(near) else None


def _rounded_multiples(slices: _Steps) -> Int[np.ndarray, " k"] | None:
    """The same where positions are written with one decimal, which makes steps of 0.45 mm ones of 0.4 and 0.5 mm.

    Slices are even where each lies within half a unit of its last written digit of an even stack.
    """
    written = np.abs(slices.positions * 10 - np.rint(slices.positions * 10)).max(axis=0) < 10 * _FLOAT_MM
    half_units = np.where(written, _ONE_DECIMAL_MM / 2, 0.0)
    travel = slices.positions[-1] - slices.positions[0]
    most = float(half_units @ np.abs(travel / np.linalg.norm(travel)))
    if most == 0:
        return None
    steps = np.diff(slices.along)
    single = np.abs(steps - usual_step(steps)) <= 2 * most + _FLOAT_MM
    multiples = np.maximum(np.rint(steps / steps[single].mean()), 1).astype(int)
    index = np.concatenate([[0], np.cumsum(multiples)])
    return multiples if _distance_from_even(index, slices.along) <= most + _FLOAT_MM else None


def _distance_from_even(index: Int[np.ndarray, " n"], along: Float[np.ndarray, " n"]) -> float:
    """How far slices lie at most from that even stack, in mm, for which this is least (a linear program)."""
    from scipy.optimize import linprog  # rarely needed, and slow to import

    line = np.column_stack([np.ones(len(index)), index, -np.ones(len(index))])
    sides = np.vstack([line, line * [-1, -1, 1]])
    start = along[0]
    found = linprog([0, 0, 1], A_ub=sides, b_ub=np.concatenate([along - start, start - along]), bounds=(None, None))
    return float(found.fun) if found.success else np.inf


def _is_lasting(multiples: Int[np.ndarray, " k"]) -> bool:
    """True where a multiple of the usual step lasts: the spacing changes there, and no slices are missing."""
    runs = [(multiple, len(list(run))) for multiple, run in groupby(multiples.tolist())]
    inside = max((n for multiple, n in runs if multiple > 1), default=0)
    at_an_end = max((n for multiple, n in (runs[0], runs[-1]) if multiple > 1), default=0)
    return inside >= _LASTING_MULTIPLE or at_an_end >= _LASTING_AT_AN_END


def _filled(slices: _Steps, multiples: Int[np.ndarray, " k"], rules: Policy) -> _Grid | None:
    """The grid where each step is the usual one or, where slices are missing, a multiple; None where slices drift."""
    index = np.concatenate([[0], np.cumsum(multiples)])
    if index[-1] > _MOST_SLICES:
        return None
    vector = (slices.positions[-1] - slices.positions[0]) / index[-1]
    drift = np.abs(slices.positions - slices.positions[0] - index[:, None] * vector).max()
    if drift > _DRIFT_MM:
        return None
    at = np.interp(np.arange(index[-1] + 1), index, np.arange(len(index)))
    missing = np.setdiff1d(np.arange(index[-1] + 1), index)
    if len(missing) == 0:
        return _Grid(step=vector, at=at, findings=[])
    step = float(np.linalg.norm(vector))
    gaps = np.flatnonzero(multiples > 1)
    widest = float(np.diff(slices.along).max())
    share = len(missing) / (index[-1] + 1)
    limits = []
    if widest > _LARGEST_GAP_MM + SAME_POSITION_MM:
        limits.append(f"those around a gap must be at most {_LARGEST_GAP_MM:g} mm apart, are {widest:.3g} mm")
    if multiples.max() - 1 > _MISSING_IN_A_ROW:
        limits.append(f"at most {_MISSING_IN_A_ROW} in a row, {multiples.max() - 1} are")
    if share > _MISSING_SHARE:
        limits.append(f"at most {_MISSING_SHARE:.0%} of the series, {share:.0%} are")
    first, gap_mm = int(gaps[0]), float(np.diff(slices.along)[gaps[0]])
    where = (
        f"missing slices: {len(missing)}, places: {len(gaps)}; "
        f"the first, a gap of {gap_mm:.3g} mm at {slices.place(first)}, expected {step:.3g} mm"
    )
    outcome = f"too many to interpolate ({'; '.join(limits)})" if limits else "interpolated from their neighbours"
    message = f"{where}; {outcome}"
    found = rules.find("missing-slices", message, f"after {slices.names[first]}", repairable=not limits)
    return _Grid(step=vector, at=at, made=tuple(missing.tolist()), gaps=where, findings=[found])


def _resampled(slices: _Steps, thickness_mm: float | None, rules: Policy) -> _Grid:
    """The finer regular grid where the step changes once and for long, or creeps; refused where it jumps about."""
    steps = np.diff(slices.along)
    runs = _runs(steps)
    lasting = [float(np.mean(run)) for run in runs if len(run) >= _LASTING]
    jumps = any(abs(a - b) <= _tolerance(a) for a, b in pairwise(lasting))  # an odd step within one regime
    jumps |= min(len(runs[0]), len(runs[-1])) < _LASTING  # or before the first, or after the last
    fine = min(lasting, default=float(steps.min()))
    length = slices.along[-1] - slices.along[0]
    vector = (slices.positions[-1] - slices.positions[0]) / length * fine
    aside = slices.positions - slices.positions[0] - (slices.along - slices.along[0])[:, None] / fine * vector
    drift = float(np.abs(aside).max())
    coarse = float(steps.max())
    repairable = False
    if len(runs) == 1:
        message = f"steps of {fine:.3g} mm creep away from an even stack"
    elif len(lasting) < 2 or jumps or len(runs) >= 2 * len(lasting) or coarse > max(lasting) + _tolerance(coarse):
        message = f"the step between slices varies from {steps.min():.3g} to {coarse:.3g} mm"
        lasting = []
    else:
        message = f"the step between slices changes from {lasting[0]:.3g} to {lasting[1]:.3g} mm"
    if drift > _DRIFT_MM:
        message = f"slices drift by {drift:.2f} mm from an even stack"
    elif coarse > max(_LARGEST_GAP_MM, _GAP * (thickness_mm or 0)) + SAME_POSITION_MM:
        message += f"; too far apart to interpolate (at most {_LARGEST_GAP_MM:g} mm)"
    elif lasting and length / fine < _MOST_SLICES:
        repairable = True
        message += f"; resampled to {fine:.3g} mm"
    count = int(np.floor(length / fine + 1e-3)) + 1 if repairable else 0
    at = np.interp(slices.along[0] + fine * np.arange(count), slices.along, np.arange(len(slices.along))).round(6)
    where = f"after {slices.names[len(runs[0])]}" if len(runs) > 1 else ""
    found = rules.find("irregular-spacing", message, where, repairable=repairable)
    return _Grid(step=vector, at=at, findings=[found])


def _tolerance(step: float) -> float:
    return max(0.02, 0.02 * step)


def usual_step(steps: Float[np.ndarray, " k"]) -> float:
    """The step to which most others are equal within the tolerance; the smaller one of two that are equally common."""
    ordered = np.sort(steps)
    width = np.maximum(0.02, 0.02 * ordered)
    alike = np.searchsorted(ordered, ordered + width, "right") - np.searchsorted(ordered, ordered - width, "left")
    best = int(np.argmax(alike))
    near = ordered[np.abs(ordered - ordered[best]) <= width[best]]
    return float(np.median(near))


def _runs(steps: Float[np.ndarray, " k"]) -> list[list[float]]:
    """Runs of consecutive steps that are equal within the tolerance."""
    runs: list[list[float]] = []
    for step in steps.tolist():
        if runs and abs(step - np.mean(runs[-1])) <= _tolerance(float(np.mean(runs[-1]))):
            runs[-1].append(step)
        else:
            runs.append([step])
    return runs


def _thickness(thickness: list[float], step: float, rules: Policy) -> list[Finding]:
    """Findings on SliceThickness beside the step: gaps, overlap, several values. It never decides the geometry."""
    if not thickness:
        return []
    findings = []
    thinnest, thickest = min(thickness), max(thickness)
    if thickest > 1.01 * thinnest:
        findings.append(rules.find("thickness-differs", f"the slices are {thinnest:g} to {thickest:g} mm thick"))
    if step > _GAP * thickest:
        findings.append(rules.find("slice-gap", f"slices of {thickest:g} mm every {step:.3g} mm leave gaps"))
    elif step < 0.95 * thinnest:
        findings.append(rules.find("overlapping-slices", f"slices of {thinnest:g} mm every {step:.3g} mm overlap"))
    return findings
