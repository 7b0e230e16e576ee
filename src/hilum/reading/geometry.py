"""Judges whether slices form one volume: their order along the normal, their spacing, and what is wrong with them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from hilum.findings import Finding, find
from hilum.reading.headers import Frame, number
from hilum.volume import Affine

SAME_POSITION_MM = 1e-3
TILT_DEG = 0.1
MIN_SLICES, FEW_SLICES = 3, 10
_PARALLEL = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stack:
    """Slices in order along their normal.

    Attributes:
        order: Indices into the frames, feet to head along the normal; repeated positions stay adjacent.
        repeated: For each ordered slice, whether it lies where the one before it lies.
        affine: Index (z, y, x) to LPS mm; None where there is no regular grid.
        findings: What is wrong or worth knowing.
    """

    order: Int[np.ndarray, " n"]
    repeated: list[bool]
    affine: Affine | None
    findings: list[Finding]


def stack(frames: list[Frame]) -> Stack:
    """Order the frames of one series and judge their geometry by positions alone, never by SliceThickness."""
    findings = _common(frames)
    if findings:
        return Stack(order=np.arange(len(frames)), repeated=[], affine=None, findings=findings)
    normal = frames[0].normal
    positions = np.array([f.position_mm for f in frames])
    along = positions @ normal
    order = np.argsort(along, kind="stable")
    steps = np.diff(along[order])
    repeated = [False, *(bool(s < SAME_POSITION_MM) for s in steps)]
    keep = order[~np.array(repeated)]
    if len(keep) < MIN_SLICES:
        if len(keep) < len(frames):
            findings.append(find("time-series", f"{len(frames)} slices lie at {len(keep)} positions"))
        else:
            findings.append(find("single-slice", f"a volume must have at least {MIN_SLICES} slices, got {len(keep)}"))
        return Stack(order=order, repeated=repeated, affine=None, findings=findings)
    findings += _regularity(frames, keep, along[keep], positions[keep])
    first = frames[keep[0]]
    assert first.directions is not None and first.pixel_mm is not None  # checked in _common  # noqa: S101, PT018
    affine = np.eye(4)
    affine[:3, 0] = (positions[keep[-1]] - positions[keep[0]]) / (len(keep) - 1)
    affine[:3, 1] = first.directions[1] * first.pixel_mm[0]
    affine[:3, 2] = first.directions[0] * first.pixel_mm[1]
    affine[:3, 3] = positions[keep[0]]
    findings += _tilt(affine, normal)
    return Stack(order=order, repeated=repeated, affine=affine, findings=findings)


def _common(frames: list[Frame]) -> list[Finding]:
    """What must be the same for all slices: a position each, one orientation, one matrix, one pixel size."""
    for frame in frames:
        if frame.position_mm is None or frame.directions is None or frame.pixel_mm is None:
            message = "a slice has no usable position, orientation or pixel spacing"
            return [find("not-an-image", message, frame.path.name)]
    first = frames[0]
    for frame in frames[1:]:
        where = frame.path.name
        if frame.shape != first.shape:
            message = f"slices of {first.shape} and {frame.shape} pixels in one series"
            return [find("mixed-shape", message, where)]
        if float(first.normal @ frame.normal) < 1 - _PARALLEL or not np.allclose(
            np.asarray(first.directions), np.asarray(frame.directions), atol=_PARALLEL
        ):
            return [find("mixed-orientation", "slices of several orientations in one series", where)]
        if not np.allclose(np.asarray(first.pixel_mm), np.asarray(frame.pixel_mm), rtol=1e-4):
            message = f"pixels of {first.pixel_mm} and {frame.pixel_mm} mm in one series"
            return [find("mixed-shape", message, where)]
    return []


def _regularity(
    frames: list[Frame],
    keep: Int[np.ndarray, " n"],
    along: Float[np.ndarray, " n"],
    positions: Float[np.ndarray, "n 3"],
) -> list[Finding]:
    steps = np.diff(along)
    step = float(np.median(steps))
    tolerance = max(0.02, 0.02 * step)
    findings = []
    off = np.flatnonzero(np.abs(steps - step) > tolerance)
    multiples = np.rint(steps[off] / step)
    if len(off) and np.all((multiples >= 2) & (np.abs(steps[off] - multiples * step) <= tolerance * multiples)):
        at = int(off[0])
        message = (
            f"missing slices: {int(np.sum(multiples - 1))}, places: {len(off)}; the first, a gap of {steps[at]:.3g} mm "
            f"at {along[at]:.1f} mm, expected {step:.3g} mm"
        )
        findings.append(find("missing-slices", message, f"after {frames[keep[at]].path.name}"))
    elif len(off):
        message = f"the step between slices varies from {steps.min():.3g} to {steps.max():.3g} mm"
        findings.append(find("irregular-spacing", message, f"after {frames[keep[int(off[0])]].path.name}"))
    else:
        line = positions[0] + np.linspace(0, 1, len(keep))[:, None] * (positions[-1] - positions[0])
        drift = float(np.abs(positions - line).max())
        if drift > 0.2:
            findings.append(find("irregular-spacing", f"slices drift by {drift:.2f} mm from an even stack"))
    if len(keep) < FEW_SLICES:
        findings.append(find("few-slices", f"only {len(keep)} slices"))
    thickness = number(frames[0].header, "SliceThickness")
    if thickness and step > 1.5 * thickness and not len(off):
        message = f"slices of {thickness:g} mm every {step:.3g} mm leave gaps"
        findings.append(find("slice-gap", message))
    return findings


def _tilt(affine: Affine, normal: Float[np.ndarray, "3"]) -> list[Finding]:
    """A sheared stack (tilted gantry) or an oblique one; both keep their affine."""
    step = affine[:3, 0] / np.linalg.norm(affine[:3, 0])
    tilt = float(np.degrees(np.arccos(np.clip(abs(step @ normal), 0, 1))))
    if tilt > TILT_DEG:
        message = f"the gantry was tilted by {tilt:.1f} degrees; the affine keeps the shear"
        return [find("gantry-tilt", message)]
    oblique = float(np.degrees(np.arccos(np.clip(np.abs(normal).max(), 0, 1))))
    if oblique > TILT_DEG:
        return [find("oblique", f"the slices lie {oblique:.1f} degrees off the nearest axis")]
    return []
