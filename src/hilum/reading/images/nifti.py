"""Reads NIfTI headers with nibabel: position of the voxels in the file and in space, and their rescaling."""

import gzip
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hilum.errors import GeometryError, ReadError
from hilum.interchange import MM_PER_NIFTI_UNIT, RAS_FROM_LPS
from hilum.reading.images.files import image_suffix, nifti_voxel_file, unreadable_image
from hilum.reading.images.inflate import INFLATION_ERRORS, NOT_INFLATED, inflate_voxels
from hilum.reading.images.placement import (
    MISSING,
    UNCLEAR,
    Doubt,
    Placement,
    check_axes,
    check_channels,
    checked_bytes,
    checked_sizes,
    known_spacing,
    placement,
    truncated,
)

if TYPE_CHECKING:  # only the decoder's process imports it, when it meets the first NIfTI file
    from nibabel.nifti1 import Nifti1Header

_LONGEST_HEADER, _SHORTEST_HEADER = 540, 348
_UNIT_LENGTH = 1e-5
"""A quaternion may be this much longer than 1: many are written in single precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiVoxels:
    """Position of the voxels in a NIfTI file, and how they are stored.

    Attributes:
        path: The file.
        shape: Array axes, slowest first.
        dtype: Stored type of the voxels.
        offset: Byte at which they begin in the file, or in what it inflates to.
        slope: Factor of the stored values.
        intercept: Added after ``slope``.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    offset: int
    slope: float
    intercept: float

    @property
    def num_bytes(self) -> int:
        """Bytes of the voxels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_rescaled(self) -> bool:
        """Whether values differ from the stored ones."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    def rescaled(self, stored: np.ndarray) -> np.ndarray:
        """The values, to the bit as ITK gives them: integers become single precision, sums are taken in double."""
        if not self.is_rescaled:
            return stored
        exact = stored if stored.dtype.kind == "f" else stored.astype(np.float32)
        with np.errstate(over="ignore"):  # to infinity, which is metal
            out: np.ndarray = (exact.astype(np.float64) * self.slope + self.intercept).astype(exact.dtype)
        return out

    def stored(self) -> np.ndarray:
        """The stored values: a view of the file, or of what was inflated.

        Raises:
            ReadError: If there are fewer than promised, or they cannot be inflated.
        """
        if not _is_deflated(self.path):
            held = self.path.stat().st_size - self.offset
            if held >= self.num_bytes:
                return np.memmap(self.path, self.dtype, "r", self.offset, self.shape)
            raise truncated(self.num_bytes - max(0, held), self.num_bytes)
        voxels = np.empty(self.shape, self.dtype)
        inflate_voxels(voxels, self.path, skip=self.offset)
        return voxels


def nifti_layout(path: Path, max_bytes: int) -> tuple[NiftiVoxels, Placement]:
    """Position of the voxels of a NIfTI-1 or NIfTI-2 file or pair, from the header alone.

    Raises:
        ReadError: If it is no NIfTI file, or promises impossible sizes or more than ``max_bytes`` of voxels.
        GeometryError: If it is no volume, or has no possible position.
    """
    header = _header(path)
    num_axes, start = int(header["dim"][0]), float(header["vox_offset"])
    if not 1 <= num_axes <= 7 or not 0 <= start < 1 << 40:
        msg = f"its NIfTI header must have 1 to 7 axes, has {num_axes}, and voxels from byte {start:g}"
        raise unreadable_image(msg)
    sizes = [int(n) for n in header["dim"][1 : 1 + num_axes]]
    check_axes(sizes)
    dtype = _dtype(header)
    checked_bytes(math.prod(sizes) * dtype.itemsize, max_bytes)
    if len(sizes) > 4:
        check_channels(sizes[4] if sizes[4] == 1 else f"vectors of {sizes[4]}")
    place = _placed(header, checked_sizes(sizes))
    slope, intercept = _usable(float(header["scl_slope"]), float(header["scl_inter"]))
    file = nifti_voxel_file(path)
    voxels = NiftiVoxels(
        path=file,
        shape=tuple(sizes[::-1]),
        dtype=dtype,
        offset=int(start) if file != path else max(int(start), header.sizeof_hdr),
        slope=slope,
        intercept=intercept,
    )
    return voxels, place


def _is_deflated(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _header(path: Path) -> "Nifti1Header":
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    try:
        with gzip.open(path) if _is_deflated(path) else path.open("rb") as file:
            block = file.read(_LONGEST_HEADER)
    except INFLATION_ERRORS as exc:
        raise ReadError(NOT_INFLATED) from exc
    is_pair = image_suffix(path).startswith(".hdr")
    for kind in (Nifti1Header, Nifti2Header):
        if len(block) < kind.sizeof_hdr:
            break
        header = kind(block[: kind.sizeof_hdr], check=False)
        magic = kind.pair_magic if is_pair else kind.single_magic
        if kind.sizeof_hdr == int(header["sizeof_hdr"]) and header["magic"].item() == magic:
            return header
    begins = {struct.unpack_from(f"{order}i", block.ljust(4))[0] for order in "<>"}
    if is_pair and len(block) >= _SHORTEST_HEADER and _SHORTEST_HEADER in begins:
        msg = "must be a NIfTI header, is one of ANALYZE 7.5, which does not say how the scan lies"
        raise GeometryError(msg)
    msg = "it does not begin as a NIfTI file does"
    raise unreadable_image(msg)


def _dtype(header: "Nifti1Header") -> np.dtype:
    from nibabel.nifti1 import data_type_codes

    code = int(header["datatype"])
    label = data_type_codes.label[code] if code in data_type_codes.label else str(code)
    if label.startswith(("complex", "RGB")):
        check_channels(label)
    if not label.startswith(("int", "uint", "float")) or label == "float128":
        msg = f"its data type {label} is not supported; integers and floats up to 64 bits are"
        raise unreadable_image(msg)
    dtype: np.dtype = header.get_data_dtype()
    return dtype


def _placed(header: "Nifti1Header", sizes: Sequence[int]) -> Placement:
    """The sform where its code is above 0, else the qform where its code is, else no place but pixdim.

    Raises:
        GeometryError: If the one that is taken makes no grid.
    """
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    unit = MM_PER_NIFTI_UNIT.get(int(header["xyzt_units"]) & 7, 1.0)
    doubts: list[Doubt] = []
    if sform > 0:
        ras = header.get_sform()
        if qform > 0:
            doubts = _disagreement(header, sizes, ras, unit)
    elif qform > 0:
        ras, doubts = _by_quaternion(header)
    else:
        spacing_mm, doubts = _pixdim(header)
        ras = RAS_FROM_LPS @ np.diag([*spacing_mm, 1.0])  # the file's axes as the patient's, LPS
        doubts = [*doubts, (MISSING, _NOWHERE)]
    lps = RAS_FROM_LPS @ ras
    return placement(sizes, lps[:3, :3] * unit, lps[:3, 3] * unit, doubts)


_NOWHERE = (
    "the header does not say where the scan lies (no code of sform or qform is above 0): pixdim alone would leave "
    "sides and points a guess"
)


def _pixdim(header: "Nifti1Header") -> tuple[np.ndarray, list[Doubt]]:
    """Spacing (x, y, z) in the file's unit; 0 and what is no number stand for none."""
    spacing = np.array(header["pixdim"][1:4], np.float64)
    return known_spacing(spacing, np.isnan(spacing) | (spacing == 0))


def _by_quaternion(header: "Nifti1Header") -> tuple[np.ndarray, list[Doubt]]:
    """The qform, index (x, y, z) to RAS in the file's unit.

    Raises:
        GeometryError: If it is none.
    """
    spacing, doubts = _pixdim(header)
    whole = header.copy()
    whole["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # 0 stands for 1
    whole["pixdim"][1:4] = spacing
    whole.quaternion_threshold = -_UNIT_LENGTH
    try:
        return np.asarray(whole.get_qform(), np.float64), doubts
    except ValueError as exc:
        msg = f"the qform must hold a rotation, holds {[float(header[f'quatern_{k}']) for k in 'bcd']}"
        raise GeometryError(msg) from exc


def _disagreement(header: "Nifti1Header", sizes: Sequence[int], sform: np.ndarray, unit: float) -> list[Doubt]:
    """A doubt if the qform is invalid, or differs from the sform by more than half a voxel at a corner of the grid."""
    codes = f"sform (code {int(header['sform_code'])}) and qform (code {int(header['qform_code'])})"
    try:
        qform, lacks = _by_quaternion(header)
    except GeometryError:
        lacks = [(MISSING, "")]
    if lacks or not np.isfinite(qform).all():
        return [(UNCLEAR, f"of {codes} only the sform makes a grid, and is taken")]
    corners = np.array([(*corner, 1) for corner in product(*((0, n - 1) for n in sizes))])
    apart = float(np.linalg.norm(corners @ (sform - qform)[:3].T, axis=1).max())
    if not apart > np.linalg.norm(sform[:3, :3], axis=0).min() / 2:
        return []
    return [(UNCLEAR, f"{codes} put a corner of the grid {apart * unit:.3g} mm apart; the sform is taken")]


def _usable(slope: float, intercept: float) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 means that neither is given (ITK takes the intercept all the same)."""
    if not (np.isfinite(slope) and abs(slope) >= np.finfo(np.float64).eps):
        return 1.0, 0.0
    return slope, intercept if np.isfinite(intercept) else 0.0
