"""Finds the lungs without a network: body, air inside it, airways away, left and right, closed over vessels."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from hilum.findings import Finding, find
from hilum.preparing.airways import LUNG_HU, find_airways
from hilum.preparing.resample import grid_around, sample
from hilum.volume import Affine, Volume

RIGHT, LEFT = 1, 2
COARSE_MM = 3.0

_TISSUE_HU = -300
_GAS_HU, _GAS_ML = -960, 600.0
"""Pieces smaller than this whose median is darker are gas in the bowel or the stomach, not lung."""
_PLAUSIBLE_LITRES = (1.0, 9.0)
_LEAST_LUNG_ML = 30.0
_CLOSE_MM = 9.0

Part = Literal["lungs", "lung-field", "right", "left"]
Verdict = Literal["good", "doubtful", "no-lungs"]

_Labels = UInt8[np.ndarray, "z y x"]
_Mask = Bool[np.ndarray, "z y x"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lungs:
    """Where the lungs are.

    Attributes:
        labels: 0 elsewhere, 1 right lung, 2 left lung (the patient's right and left): air, and what air surrounds.
        field: The same for the lung fields: each lung's smooth hull to the chest wall, dense disease included.
        affine: Index (z, y, x) of ``labels`` to LPS mm.
        right_ml: Volume of the right lung.
        left_ml: Volume of the left lung.
        verdict: ``good``, ``doubtful`` where a finding speaks against them, or ``no-lungs``.
        findings: ``no-lungs``, ``lungs-volume`` or ``lungs-cut`` where there is doubt.
    """

    labels: _Labels
    field: _Labels
    affine: Affine
    right_ml: float
    left_ml: float
    verdict: Verdict
    findings: tuple[Finding, ...]

    @property
    def mask(self) -> _Mask:
        """True inside either lung."""
        return self.part("lungs")

    def part(self, part: Part) -> _Mask:
        """True inside a part: both lungs, both lung fields, or one lung."""
        if part == "lung-field":
            return np.asarray(self.field > 0)
        if part == "lungs":
            return np.asarray(self.labels > 0)
        return np.asarray(self.labels == (RIGHT if part == "right" else LEFT))

    def box_mm(self, part: Part = "lungs") -> np.ndarray | None:
        """Corners (2, 3) of a part's box in LPS mm, (x, y, z), outer voxels counted whole; None where it is empty."""
        where = np.argwhere(self.part(part))
        if not len(where):
            return None
        lower, upper = where.min(axis=0) - 0.5, where.max(axis=0) + 0.5
        corners = np.array([[(lower, upper)[b][a] for a, b in enumerate(bits)] for bits in np.ndindex(2, 2, 2)])
        mm = corners @ self.affine[:3, :3].T + self.affine[:3, 3]
        return np.stack([mm.min(axis=0), mm.max(axis=0)])


def segment_lungs(volume: Volume) -> Lungs:
    """The lungs of a scan on the scan's own grid, vessels included, main airways not.

    They are found on a coarse grid; the border is then drawn on the fine one.
    """
    coarse = locate_lungs(volume)
    index = np.linalg.inv(coarse.affine) @ volume.affine
    near = ndimage.grey_dilation(coarse.labels, size=(3, 3, 3))
    labels = _nearest(near, index, volume.shape)
    core = _nearest(np.where(ndimage.binary_erosion(coarse.mask), coarse.labels, 0), index, volume.shape)
    spacing = np.array(volume.spacing_mm)
    if np.all(spacing >= COARSE_MM * 0.99):  # the coarse grid was the scan's own
        labels = coarse.labels.copy()
    else:
        labels[(volume.voxels_hu > LUNG_HU) & (core == 0)] = 0
        for side in (RIGHT, LEFT):
            labels = _smoothed(labels, side)
    return _described(labels, volume.affine, volume.voxel_mm3)


def locate_lungs(volume: Volume) -> Lungs:
    """The lungs on a grid of about 3 mm: enough for a box, and quick."""
    coarse = _coarse(volume)
    hu, spacing = coarse.voxels_hu, np.array(coarse.spacing_mm)
    body = _body(hu, spacing)
    air = (hu < LUNG_HU) & body
    airways = find_airways(hu, air, voxel_mm3=coarse.voxel_mm3, spacing_mm=spacing)
    labels = _sides(hu, air & ~airways, coarse.voxel_mm3)
    for side in (RIGHT, LEFT):
        closed = _closed(labels == side, spacing) & (labels == 0) & body & ~airways
        labels[closed] = side
    return _described(labels, coarse.affine, coarse.voxel_mm3)


def _coarse(volume: Volume) -> Volume:
    """About 3 mm along each axis that is finer."""
    factor = np.array([max(1.0, COARSE_MM / s) for s in volume.spacing_mm])
    if np.all(factor == 1):
        return volume
    shape = tuple(int(n) for n in np.maximum(1, np.round(np.array(volume.shape) / factor)))
    affine = grid_around(volume.centre_mm, volume.affine[:3, :3] * factor, shape)
    return Volume(voxels_hu=sample(volume, affine, shape, outside="edge"), affine=affine)


def _body(hu: np.ndarray, spacing_mm: np.ndarray) -> _Mask:
    """The patient, filled: the largest piece of tissue without thin things such as the table, holes closed by slice."""
    tissue = ndimage.binary_opening(hu > _TISSUE_HU, _ball(spacing_mm, 5.0))
    pieces, count = ndimage.label(tissue)
    if not count:
        return np.zeros(hu.shape, bool)
    body: np.ndarray = pieces == 1 + np.argmax(np.bincount(pieces.ravel())[1:])
    flat = ndimage.generate_binary_structure(2, 1)
    for plane in body:
        # the field of view may cut the body: tissue that meets the border at both ends of a gap closes it
        framed = np.pad(plane, 1)
        framed[0, 1:-1] = _span(plane[0])
        framed[-1, 1:-1] = _span(plane[-1])
        framed[1:-1, 0] = _span(plane[:, 0])
        framed[1:-1, -1] = _span(plane[:, -1])
        plane[:] = ndimage.binary_fill_holes(framed, flat)[1:-1, 1:-1]
    return body


def _span(line: np.ndarray) -> np.ndarray:
    """True from the first to the last true element."""
    where = np.flatnonzero(line)
    out = np.zeros(len(line), bool)
    if len(where):
        out[where[0] : where[-1] + 1] = True
    return out


def _sides(hu: np.ndarray, air: _Mask, voxel_mm3: float) -> _Labels:
    """Right and left lung: the large pieces of air; a piece that holds both is parted where it is thinnest."""
    labels = np.zeros(air.shape, np.uint8)
    pieces, count = ndimage.label(air)
    if not count:
        return labels
    sizes = np.bincount(pieces.ravel())[1:] * voxel_mm3 / 1000
    for piece in np.flatnonzero((sizes >= _LEAST_LUNG_ML) & (sizes < _GAS_ML)):
        if np.median(hu[pieces == piece + 1]) < _GAS_HU:
            sizes[piece] = 0
    large = [int(p) + 1 for p in np.argsort(-sizes) if sizes[p] >= max(_LEAST_LUNG_ML, 0.1 * sizes.max())][:2]
    if not large:
        return labels
    middle = _middle(np.isin(pieces, large))
    parts = [pieces == p for p in large]
    if len(parts) == 1 or _spans(parts[0], middle):
        parts = _parted(parts[0], middle)
    for part in parts:
        side = LEFT if ndimage.center_of_mass(part)[2] > middle else RIGHT  # x grows to the patient's left
        labels[part] = side
    return labels


def _middle(lungs: _Mask) -> float:
    """The column midway between the outer borders of the lungs."""
    columns = np.flatnonzero(lungs.any(axis=(0, 1)))
    return float(columns[0] + columns[-1]) / 2


def _spans(part: _Mask, middle: float) -> bool:
    """True where a fifth of a piece lies on either side of the middle."""
    share = float(np.count_nonzero(part[:, :, : int(middle)]) / np.count_nonzero(part))
    return 0.2 < share < 0.8


def _parted(part: _Mask, middle: float) -> list[_Mask]:
    """Two lungs that touch, parted: eroded until they separate, then each voxel goes to the nearer core."""
    if not _spans(part, middle):
        return [part]
    core = part
    for _ in range(8):
        core = ndimage.binary_erosion(core)
        pieces, count = ndimage.label(core)
        sizes = np.bincount(pieces.ravel())[1:]
        if count >= 2 and np.sort(sizes)[-2] > 0.15 * sizes.sum():
            first, second = np.argsort(-sizes)[:2] + 1
            near = ndimage.distance_transform_edt(
                ~np.isin(pieces, (first, second)), return_distances=False, return_indices=True
            )
            owner = pieces[tuple(near)]
            return [part & (owner == first), part & (owner == second)]
    columns = np.arange(part.shape[2])
    return [part & (columns <= middle), part & (columns > middle)]


def _closed(lung: _Mask, spacing_mm: np.ndarray) -> _Mask:
    """Vessels and nodules inside or at the border of a lung closed, in mm; holes filled."""
    if not lung.any():
        return lung
    box = tuple(slice(max(0, s.start - 5), s.stop + 5) for s in ndimage.find_objects(lung.astype(np.uint8))[0])
    reach = np.ceil(_CLOSE_MM / spacing_mm).astype(int) + 1
    padded = np.pad(lung[box], [(r, r) for r in reach])
    near = ndimage.distance_transform_edt(~padded, sampling=spacing_mm) <= _CLOSE_MM / 2
    closed = ndimage.distance_transform_edt(near, sampling=spacing_mm) > _CLOSE_MM / 2
    out = lung.copy()
    out[box] |= ndimage.binary_fill_holes(closed)[tuple(slice(r, -r) for r in reach)]
    return out


def _smoothed(labels: _Labels, side: int) -> _Labels:
    """The largest piece of one lung on the fine grid, its holes in each slice filled."""
    box = ndimage.find_objects((labels == side).astype(np.uint8))
    if not box:
        return labels
    part = labels[box[0]]
    pieces, count = ndimage.label(part == side)
    if count > 1:
        part[(part == side) & (pieces != 1 + np.argmax(np.bincount(pieces.ravel())[1:]))] = 0
    for plane in part:
        plane[ndimage.binary_fill_holes(plane == side) & (plane == 0)] = side
    return labels


def _nearest(labels: np.ndarray, index: np.ndarray, shape: tuple[int, int, int]) -> _Labels:
    """Labels of a coarse grid at the nearest voxels of a fine one; the grids are parallel."""
    axes = []
    for axis, n in enumerate(shape):
        at = np.rint(index[axis, 3] + index[axis, axis] * np.arange(n)).astype(int)
        axes.append(np.clip(at, 0, labels.shape[axis] - 1))
    fine: np.ndarray = labels[np.ix_(*axes)].astype(np.uint8)
    return fine


def _ball(spacing_mm: np.ndarray, radius_mm: float) -> np.ndarray:
    """A ball in mm on an anisotropic grid, at least a cross."""
    reach = np.maximum(1, (radius_mm / spacing_mm).astype(int))
    grid = np.meshgrid(*(np.arange(-r, r + 1) * s for r, s in zip(reach, spacing_mm, strict=True)), indexing="ij")
    ball: np.ndarray = np.square(grid).sum(axis=0) <= max(radius_mm, spacing_mm.max()) ** 2
    return ball


def _described(labels: _Labels, affine: Affine, voxel_mm3: float) -> Lungs:
    """Labels with their volumes and what is doubtful about them."""
    right, left = (np.count_nonzero(labels == side) * voxel_mm3 / 1000 for side in (RIGHT, LEFT))
    litres = (right + left) / 1000
    findings = []
    if litres == 0:
        findings.append(find("no-lungs", "no lungs found: nothing like them in the field of view"))
    elif not _PLAUSIBLE_LITRES[0] <= litres <= _PLAUSIBLE_LITRES[1]:
        low, high = _PLAUSIBLE_LITRES
        findings.append(
            find("lungs-volume", f"the lungs measure {litres:.2f} litres, plausible are {low:g} to {high:g}")
        )
    cut = [int(np.count_nonzero(labels[z])) * voxel_mm3 for z in (0, -1)]
    whole = np.count_nonzero(labels, axis=(1, 2)).max() * voxel_mm3
    if whole and max(cut) > 0.25 * whole:
        edge = "lower" if cut[0] >= cut[1] else "upper"
        findings.append(find("lungs-cut", f"the scan's {edge} border cuts the lungs; {litres:.2f} litres were seen"))
    verdict: Verdict = "no-lungs" if litres == 0 else "doubtful" if findings else "good"
    return Lungs(
        labels=labels,
        field=labels.copy(),
        affine=affine,
        right_ml=right,
        left_ml=left,
        verdict=verdict,
        findings=tuple(findings),
    )


FindLungs: TypeAlias = Callable[[Volume], Lungs]
"""What may be plugged in instead of ``locate_lungs``."""


def lungs_from_mask(volume: Volume, mask: Volume) -> Lungs:
    """The lungs of a scan from a mask that another program made, on the mask's own grid.

    Args:
        volume: The scan.
        mask: Not 0 inside the lungs; any grid in the same patient coordinates.
    """
    index = np.linalg.inv(volume.affine) @ mask.affine
    del index
    return _described((mask.voxels_hu > 0).astype(np.uint8), mask.affine, mask.voxel_mm3)
