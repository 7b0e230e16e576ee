"""Images as they are embedded in a page: compressed NIfTI along the patient's axes, reduced until they fit."""

import gzip
import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64, Num

from hilum.errors import ReadError
from hilum.interchange import to_nibabel
from hilum.preparing.resample import sample
from hilum.settings.recipe import Size
from hilum.volume import HIGHEST_HU, LOWEST_HU, Affine, Triple, Volume, affine_from, reorient

_LEVEL = 6
"""Of compression: level 9 takes six times as long and saves one byte in a hundred."""
_STEP_HU = 8
"""Step of HU in a reduced scan: below the noise of its voxels, and a fifth fewer bytes than steps of 4."""
_USUAL_BYTES = 0.6
"""Of a voxel of a chest in such steps, compressed: for the first grid that is tried."""
_FULL = 0.95
"""Share of the bytes that are allowed from which a grid counts as the finest that fits."""
_ROUNDS = 5
"""Grids that are tried before the finest that fits is taken."""
_PARTS = 16
"""One slice in so many is compressed, to see whether the whole scan could fit."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EmbeddedScan:
    """A scan as a page holds it.

    Attributes:
        volume: int16 HU along the patient's axes: feet to head, front to back, right to left.
        nifti: The same as compressed NIfTI.
        step_hu: HU are multiples of it.
        was_shape: Voxels of the scan (z, y, x).
        was_spacing_mm: Distance between them (z, y, x).
        is_straightened: Whether the scan was oblique or tilted.
    """

    volume: Volume
    nifti: bytes
    step_hu: int
    was_shape: Size
    was_spacing_mm: Triple
    is_straightened: bool

    @property
    def is_reduced(self) -> bool:
        """Whether voxels or steps of HU are larger than those of the scan."""
        return self.step_hu > 1

    @property
    def words(self) -> str:
        """How the scan is shown, in a sentence or two."""
        was, now = (_words(*grid) for grid in ((self.was_shape, self.was_spacing_mm), _grid(self.volume)))
        if not self.is_reduced and not self.is_straightened:
            return f"Shown as it is: {now}."
        done = []
        if self.is_straightened:
            done.append("resampled from an oblique or tilted grid to one along the patient's axes")
        if self.is_reduced:
            done.append(f"reduced so that the page stays small, with HU in steps of {self.step_hu}")
        text = " and ".join(done)
        return f"{text[0].upper()}{text[1:]}: from {was} to {now}. Fine detail is lost: read the scan itself."


def _grid(volume: Volume) -> tuple[Size, Triple]:
    return volume.shape, volume.spacing_mm


def _words(shape: Size, spacing_mm: Triple) -> str:
    z, y, x = spacing_mm
    return f"{shape[0]} slices of {shape[2]} x {shape[1]} pixels ({x:.3g} x {y:.3g} mm, {z:.3g} mm apart)"


def nifti_gz(voxels: Num[np.ndarray, "z y x"], affine: Affine, *, slope: float = 1.0) -> bytes:
    """Voxels as compressed NIfTI, the same bytes for the same voxels; their values are voxels times the slope."""
    image = to_nibabel(voxels, affine)
    image.header.set_slope_inter(slope, 0)
    return gzip.compress(image.to_bytes(), _LEVEL, mtime=0)


def embed(scan: Volume, most_bytes: int) -> EmbeddedScan:
    """Embed a scan: as it is if it fits, else on the finest grid that does.

    That grid has cubic voxels, except along axes whose voxels are longer already. Its low-pass keeps small structures,
    fainter.

    Args:
        scan: A scan.
        most_bytes: Of the compressed NIfTI.

    Raises:
        ReadError: If HU are not finite, or there is not even room for a few voxels.
    """
    if not np.isfinite(scan.voxels_hu).all():
        msg = "a scan must hold finite HU to be shown, some are not"
        raise ReadError(msg)
    turned = reorient(scan)
    steps = turned.affine[:3, :3]
    is_straight = bool(np.count_nonzero(steps) == 3)
    native = np.linalg.norm(steps, axis=0)
    low, extent = _box(turned)

    def made(spacing: np.ndarray, step_hu: int) -> EmbeddedScan:
        volume = turned
        if not is_straight or (spacing > native).any():
            volume = _resampled(turned, low, extent, spacing, is_straight=is_straight)
        volume = replace(volume, voxels_hu=_stepped(volume.voxels_hu, step_hu))
        stored = volume.voxels_hu // np.int16(step_hu)
        return EmbeddedScan(
            volume=volume,
            nifti=nifti_gz(stored, volume.affine, slope=float(step_hu)),
            step_hu=step_hu,
            was_shape=scan.shape,
            was_spacing_mm=scan.spacing_mm,
            is_straightened=not is_straight,
        )

    part = _stepped(turned.voxels_hu[::_PARTS], 1)
    if len(gzip.compress(part.tobytes(), _LEVEL)) * turned.shape[0] / len(part) < 1.1 * most_bytes:
        whole = made(native, 1)
        if len(whole.nifti) <= most_bytes:
            return whole
    best: EmbeddedScan | None = None
    voxels, rounds = most_bytes / _USUAL_BYTES, 0
    while best is None or rounds < _ROUNDS:
        spacing = _spacing_for(voxels, extent, native)
        one = made(spacing, _STEP_HU)
        size, rounds = len(one.nifti), rounds + 1
        if size <= most_bytes and (best is None or one.volume.voxels_hu.size > best.volume.voxels_hu.size):
            best = one
        if best is one and (size >= _FULL * most_bytes or (spacing <= native).all()):
            break
        voxels *= 0.98 * most_bytes / size
        if voxels < 1:
            msg = f"a scan must have room in its page, there are {most_bytes} bytes"
            raise ReadError(msg)
    return best


def _stepped(hu: np.ndarray, step_hu: int) -> np.ndarray:
    """HU within the range of a CT scanner, rounded to multiples of a step."""
    clipped = np.clip(hu, LOWEST_HU, HIGHEST_HU)
    is_whole = clipped.dtype == np.int16 and step_hu == 1
    whole = clipped if is_whole else np.rint(clipped / np.float32(step_hu)) * step_hu
    return np.asarray(whole, np.int16)


def _box(volume: Volume) -> tuple[Float64[np.ndarray, "3"], Float64[np.ndarray, "3"]]:
    """Lower corner and edges of the box along the patient's axes around a scan, LPS mm in order (z, y, x)."""
    ends = np.array(list(np.ndindex(2, 2, 2))) * np.array(volume.shape) - 0.5
    corners = volume.index_to_mm(ends)[:, ::-1]
    return corners.min(axis=0), np.ptp(corners, axis=0)


def _resampled(
    volume: Volume, low: np.ndarray, extent: np.ndarray, spacing: np.ndarray, *, is_straight: bool
) -> Volume:
    """The scan on a grid that fills a box along the patient's axes, of voxels that are about as long as asked for."""
    z, y, x = np.maximum(1, np.rint(extent / spacing)).astype(int).tolist()
    spacing = extent / (z, y, x)
    affine = affine_from(spacing_mm=spacing, origin_mm=(low + spacing / 2)[::-1])
    hu = sample(volume, affine, (z, y, x), outside="edge" if is_straight else "air")
    return Volume(voxels_hu=hu, affine=affine)


def _spacing_for(voxels: float, extent: np.ndarray, native: np.ndarray) -> np.ndarray:
    """Spacing with about so many voxels in a box: one for all axes, but nowhere less than the scan's own."""
    least, most = float(native.min()), float(extent.max())
    for _ in range(40):
        edge = math.sqrt(least * most)
        if np.prod(extent / np.maximum(native, edge)) > voxels:
            least = edge
        else:
            most = edge
    return np.asarray(np.maximum(native, most))
