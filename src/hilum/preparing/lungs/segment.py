"""Segments the lungs without a network: body, air inside it, without airways, right and left, closed over vessels."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from hilum import interchange
from hilum.errors import PrepareError
from hilum.files import cores
from hilum.findings import Finding
from hilum.orientation import canonical
from hilum.pages import notebook_card
from hilum.preparing.lungs.airways import LUNG_HU, find_airways
from hilum.preparing.lungs.body import find_body, leftward_mm
from hilum.preparing.lungs.check import LungFigures, judge_lungs, measure
from hilum.preparing.lungs.field import Chest, lung_field
from hilum.preparing.lungs.morphology import IN_SLICE, filled_slices, squares_to
from hilum.preparing.lungs.sides import LEFT, RIGHT, right_and_left
from hilum.preparing.resample import grid_around, sample, sample_mask
from hilum.settings.recipe import MOST_VOXELS, LungPart
from hilum.volume import Affine, Volume, reorient

COARSE_MM = 3.0
"""Edge of the coarse voxels: fine enough for a box, and fast (rule of thumb)."""
_CLOSE_MM = 9.0
"""Diameter of the closing ball: wider than most vessels outside the hilum (rule of thumb)."""
_HOLE_MM2 = 2500.0
"""Largest hole in a slice that is filled: a mass may be, the mediastinum may not (rule of thumb)."""
_BORDER_HU = -400
"""Threshold of the refined border, midway between lung at -850 HU and tissue at 50 HU."""
_PARENCHYMA_HU = -850
"""HU that voxels of a given mask are taken to have, those of healthy lung."""
_LUNGMASK = {1, 2, 3, 4, 5}
"""Labels of lungmask: right and left lung, or five lobes."""
_TOTALSEGMENTATOR, _TOTALSEGMENTATOR_1 = {10, 11, 12, 13, 14}, {13, 14, 15, 16, 17}
"""Lobes of the lungs in TotalSegmentator 2, and in version 1."""
_MOST_NUMBER = 255

LungVerdict = Literal["good", "doubtful", "no-lungs"]

_Labels = UInt8[np.ndarray, "z y x"]
_Mask = Bool[np.ndarray, "z y x"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lungs:
    """Segmented lungs and lung fields.

    Attributes:
        labels: 1 in the patient's right lung, 2 in the left, else 0: air, and structures that air surrounds.
        field: The same for the lung fields: each lung's smooth hull up to the chest wall, including dense disease.
        affine: Index (z, y, x) of ``labels`` to LPS mm.
        verdict: ``good``, ``doubtful`` if there are findings, or ``no-lungs``.
        figures: Measurements on cubic voxels of 3 mm, on which the verdict is based.
        findings: Findings against the mask: codes ``no-lungs`` and ``lungs-...``.
        scan: The scan, for pictures; kept in memory as long as the lungs are.
    """

    labels: _Labels
    field: _Labels
    affine: Affine
    verdict: LungVerdict
    figures: LungFigures
    findings: tuple[Finding, ...]
    scan: Volume | None = None

    def _repr_html_(self) -> str:
        """Three planes of the scan with the lungs and their fields, for notebooks."""
        from hilum.preparing.lungs.overlay import overlay  # which draws lungs

        scan = None if self.scan is None else reorient(self.scan)
        return notebook_card(
            f"Lungs {self.verdict}: right {self.right_ml:.0f} ml, left {self.left_ml:.0f} ml",
            planes=() if scan is None else overlay(scan, self._on(scan)),
            caption="vermilion: right; blue: left; yellow: lung fields; the patient's right on the left, head up",
            findings=self.findings,
        )

    def _on(self, scan: Volume) -> "Lungs":
        """The same on the grid of a scan."""
        if self.labels.shape == scan.shape and np.array_equal(self.affine, scan.affine):
            return self
        labels, fields = (
            sample(Volume(voxels_hu=one.astype(np.int16), affine=self.affine), scan.affine, scan.shape,
                   interpolation="nearest", air=0.0).astype(np.uint8)
            for one in (self.labels, self.field)
        )  # fmt: skip
        return replace(self, labels=labels, field=fields, affine=scan.affine)

    @property
    def right_ml(self) -> float:
        """Volume of the right lung."""
        return self._ml(RIGHT)

    @property
    def left_ml(self) -> float:
        """Volume of the left lung."""
        return self._ml(LEFT)

    def _ml(self, side: int) -> float:
        return np.count_nonzero(self.labels == side) * float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000

    @property
    def mask(self) -> _Mask:
        """True inside either lung."""
        return self.part("lungs")

    def part(self, part: LungPart) -> _Mask:
        """True inside a part: both lungs, both lung fields, or one lung."""
        if part == "lung-field":
            return np.asarray(self.field > 0)
        if part == "lungs":
            return np.asarray(self.labels > 0)
        return np.asarray(self.labels == (RIGHT if part == "right" else LEFT))

    def to_sitk(self, *, field: bool = False) -> Any:
        """Convert to a ``SimpleITK.Image``: 1 in the right lung, 2 in the left, 0 elsewhere.

        Args:
            field: The lung fields instead, with the same numbers.

        Raises:
            GeometryError: If the grid is sheared, which ITK cannot represent.
        """
        return interchange.to_sitk(self.field if field else self.labels, self.affine)

    def to_nibabel(self, *, field: bool = False) -> Any:
        """Convert to a ``nibabel.Nifti1Image``; see ``to_sitk``.

        Raises:
            GeometryError: If NIfTI-1 cannot represent the grid.
        """
        return interchange.to_nibabel((self.field if field else self.labels).copy(), self.affine)

    def to_torchio(self, *, field: bool = False) -> Any:
        """Convert to a ``torchio.LabelMap``; see ``to_sitk``.

        Raises:
            ConfigError: If TorchIO is not installed.
        """
        return interchange.to_torchio(self.field if field else self.labels, self.affine, is_mask=True)

    def to_monai(self, *, field: bool = False) -> Any:
        """Convert to a ``monai.data.MetaTensor``; see ``to_sitk``.

        Raises:
            ConfigError: If MONAI is not installed.
        """
        return interchange.to_monai(self.field if field else self.labels, self.affine)

    def box_mm(self, part: LungPart = "lungs") -> np.ndarray | None:
        """Corners (2, 3) of a part's box in LPS mm, (x, y, z), at the outer faces of voxels; None if it is empty."""
        mask = self.part(part)
        surface = np.argwhere(mask & ~ndimage.binary_erosion(mask))
        if not len(surface):
            return None
        mm = surface @ self.affine[:3, :3].T + self.affine[:3, 3]
        half = np.abs(self.affine[:3, :3]).sum(axis=1) / 2
        return np.stack([mm.min(axis=0) - half, mm.max(axis=0) + half])


FindLungs: TypeAlias = Callable[[Volume], Lungs]
"""A function that can replace ``locate_lungs``."""


def segment_lungs(volume: Volume) -> Lungs:
    """Segment the lungs on the scan's own grid, including vessels, excluding the main airways.

    They are segmented on a coarse grid; the border is then refined on the fine one.
    """
    return refine_lungs(volume, locate_lungs(volume))


def refine_lungs(volume: Volume, coarse: Lungs) -> Lungs:
    """Refine the border of lungs from ``locate_lungs`` on the scan's own grid."""
    turn, _ = canonical(volume.affine, volume.shape)
    turned = volume if turn.is_identity else reorient(volume)
    labels, fields = (np.ascontiguousarray(turn.unturned(one)) for one in _refined(turned, coarse))
    return replace(coarse, labels=labels, field=fields, affine=volume.affine, scan=volume)


def _refined(volume: Volume, coarse: Lungs) -> tuple[_Labels, _Labels]:
    """Labels and fields on the grid of a scan, slice by slice; both grids are parallel."""
    index = np.linalg.inv(coarse.affine) @ volume.affine
    near = ndimage.grey_dilation(coarse.labels, size=(3, 3, 3))
    core = np.where(ndimage.binary_erosion(coarse.mask), coarse.labels, 0)
    at_z, at_y, at_x = (
        np.clip(np.rint(index[a, 3] + index[a, a] * np.arange(volume.shape[a])), 0, near.shape[a] - 1).astype(int)
        for a in range(3)
    )
    half = int(max(0.0, index[0, 0] - 1) / 2)  # coarse planes on each side of the nearest that a thick slice covers
    labels, field = (np.zeros(volume.shape, np.uint8) for _ in range(2))

    def refine_slice(z: int) -> None:
        at = at_z[z]
        hull = coarse.field[max(0, at - half) : at + half + 1].max(axis=0)
        seen = near[at] | hull
        rows, columns = (np.flatnonzero(seen.any(axis=1 - a)[where]) for a, where in enumerate((at_y, at_x)))
        if len(rows) and len(columns):
            box = (z, slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))
            pick = np.ix_(at_y[box[1]], at_x[box[2]])
            labels[box] = np.where(volume.voxels_hu[box] <= _BORDER_HU, near[at][pick], core[at][pick])
            field[box] = np.maximum(hull[pick], labels[box])

    with ThreadPoolExecutor(cores()) as pool:
        list(pool.map(refine_slice, range(volume.shape[0])))
    return labels, field


def locate_lungs(volume: Volume) -> Lungs:
    """Segment the lungs on cubic voxels of 3 mm, which suffices for a box and is fast."""
    coarse = _coarse(volume)
    hu = coarse.voxels_hu
    body = find_body(hu, COARSE_MM)
    leftward = leftward_mm(hu, body, COARSE_MM)
    air = (hu < LUNG_HU) & body
    airways = find_airways(hu, air, step_mm=COARSE_MM)
    labels = right_and_left(hu, air & ~airways, leftward, step_mm=COARSE_MM)
    for side in (RIGHT, LEFT):
        closed = _closed(labels == side, COARSE_MM) & (labels == 0) & body
        labels[closed] = side
    return _with_field(Chest(hu=hu, step_mm=COARSE_MM, body=body, leftward_mm=leftward, labels=labels), coarse)


def body_of(volume: Volume) -> tuple[_Mask, Affine]:
    """The patient, without table and outside air, on cubic voxels of 3 mm with their affine."""
    coarse = _coarse(volume)
    return find_body(coarse.voxels_hu, COARSE_MM), coarse.affine


def lungs_from_mask(volume: Volume, mask: Volume) -> Lungs:
    """Convert a lung mask from another program to lungs, on the mask's grid.

    Right and left are determined by position, not by the mask's numbers; fields and findings are computed as usual.

    Args:
        volume: The scan.
        mask: Mask in the same patient coordinates, on any grid: one number for both lungs; lungmask's 1 and 2, or its
            lobes 1 to 5; or TotalSegmentator's lobes among other organs, 10 to 14 or, before its version 2, 13 to 17.

    Raises:
        PrepareError: If the mask is no volume, holds other numbers, or lies outside the scan.
    """
    if not isinstance(mask, Volume):
        msg = f"a mask must be a Volume, got {type(mask).__name__}"
        raise PrepareError(msg, hint="Volume.from_sitk, from_nibabel, from_torchio and from_monai make one")
    ends = volume.mm_to_index(mask.index_to_mm(list(np.ndindex(2, 2, 2)) * (np.array(mask.shape) - 1)))
    if np.any(ends.max(axis=0) < 0) or np.any(ends.min(axis=0) > np.array(volume.shape) - 1):
        msg = "a mask must lie on its scan, this one lies beside it (in LPS mm)"
        raise PrepareError(msg)
    coarse = _coarse(volume)
    numbers = sample(mask, coarse.affine, coarse.shape, interpolation="nearest", air=0.0)
    lung = np.isin(mask.voxels_hu, list(_lung_numbers(mask.voxels_hu, numbers, coarse.voxels_hu)))
    body = find_body(coarse.voxels_hu, COARSE_MM)
    leftward = leftward_mm(coarse.voxels_hu, body, COARSE_MM)
    parenchyma = np.full(coarse.shape, _PARENCHYMA_HU, np.float32)  # so that no part of the mask counts as bowel gas
    inside = sample_mask(lung, mask.affine, coarse.affine, coarse.shape)
    labels = right_and_left(parenchyma, inside, leftward, step_mm=COARSE_MM)
    found = _with_field(
        Chest(hu=coarse.voxels_hu, step_mm=COARSE_MM, body=body, leftward_mm=leftward, labels=labels), coarse
    )
    nearest = ndimage.distance_transform_edt(labels == 0, return_distances=False, return_indices=True)
    sides, field = (
        sample(Volume(voxels_hu=one.astype(np.int16), affine=coarse.affine), mask.affine, mask.shape,
               outside="edge", interpolation="nearest").astype(np.uint8)
        for one in (labels[tuple(nearest)], found.field)
    )  # fmt: skip
    sides[~lung] = 0
    return replace(found, labels=sides, field=np.maximum(field, sides), affine=mask.affine, scan=volume)


def _lung_numbers(voxels: np.ndarray, coarse: np.ndarray, hu: np.ndarray) -> set[int]:
    """Numbers of lung in a label map; the version of TotalSegmentator is recognised by which labels are dark."""
    found = np.unique(voxels).tolist()
    numbers = {int(n) for n in found} - {0}
    if found[0] >= 0 and found[-1] <= _MOST_NUMBER and all(n == int(n) for n in found):
        if len(numbers) <= 1 or numbers <= _LUNGMASK:
            return numbers
        dark = {n for n in numbers if np.any(coarse == n) and np.mean(hu[coarse == n] < LUNG_HU) > 0.5}
        if numbers & (_TOTALSEGMENTATOR | _TOTALSEGMENTATOR_1):
            return set(_TOTALSEGMENTATOR_1 if dark & {15, 17} else _TOTALSEGMENTATOR)  # else oesophagus and thyroid
    some = ", ".join(f"{n:g}" for n in found[:8])
    msg = f"a lung mask must hold one number, 1 to 5 (lungmask) or TotalSegmentator's besides 0, holds {some}"
    raise PrepareError(msg)


def _with_field(chest: Chest, coarse: Volume) -> Lungs:
    """Lungs with their fields, figures and findings."""
    field = lung_field(chest)
    figures = measure(chest, field)
    findings = judge_lungs(figures)
    return Lungs(
        labels=chest.labels,
        field=field,
        scan=coarse,
        affine=coarse.affine,
        verdict="no-lungs" if not chest.labels.any() else "doubtful" if findings else "good",
        figures=figures,
        findings=findings,
    )


def _coarse(volume: Volume) -> Volume:
    """Resample a scan to cubic voxels of 3 mm along its own axes, feet to head, front to back, right to left."""
    turn, own = canonical(volume.affine, volume.shape)
    spacing = np.linalg.norm(own[:3, :3], axis=0)
    extent = spacing * turn.turned(np.empty(volume.shape, bool)).shape
    z, y, x = (max(1, round(float(e) / COARSE_MM)) for e in extent)
    if z * y * x > MOST_VOXELS:
        msg = f"lungs are found in at most {MOST_VOXELS:.0e} voxels of 3 mm, this scan has {z * y * x:.0e}"
        raise PrepareError(msg)
    affine = grid_around(volume.centre_mm, own[:3, :3] * (COARSE_MM / spacing), (z, y, x))
    hu = sample(volume, affine, (z, y, x), outside="edge")
    if not np.isfinite(hu).all():
        msg = "a scan must hold finite HU for its lungs to be found, some are not"
        raise PrepareError(msg)
    return Volume(voxels_hu=hu, affine=affine)


def _closed(lung: _Mask, step_mm: float) -> _Mask:
    """Close vessels and nodules in a lung or at its border; fill holes in 3D, and small ones in each slice."""
    if not lung.any():
        return lung
    radius = _CLOSE_MM / 2 / step_mm
    margin = int(np.ceil(radius)) + 1
    box = ndimage.find_objects(lung.astype(np.uint8))[0]
    near = squares_to(np.pad(lung[box], margin), radius) <= radius**2
    closed = squares_to(~near, radius) > radius**2
    pieces, _ = ndimage.label(~closed)
    filled = pieces != pieces[0, 0, 0]
    holes, _ = ndimage.label(filled_slices(filled) & ~filled, IN_SLICE)
    small: np.ndarray = np.bincount(holes.ravel()) * step_mm**2 <= _HOLE_MM2
    small[0] = False
    out = lung.copy()
    out[box] |= (filled | small[holes])[(slice(margin, -margin),) * 3]
    return out
