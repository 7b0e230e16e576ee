"""NIfTI headers, read by nibabel: where the voxels lie in their file and in space, and how they are rescaled."""

import struct
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hilum.errors import GeometryError, ReadError
from hilum.reading.images.files import image_suffix, nifti_voxel_file
from hilum.reading.images.placement import MISSING, UNCLEAR, Doubt, Placement, checked_sizes, known_spacing, placement
from hilum.reading.images.voxel_file import Layout, checked_bytes, read_into

if TYPE_CHECKING:  # only the decoder's process imports it, when it meets the first NIfTI file
    from nibabel.nifti1 import Nifti1Header

_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_MM_PER_CODE = {1: 1000.0, 2: 1.0, 3: 1e-3}
"""By the three lowest bits of xyzt_units: metre, mm and micron; anything else is taken as mm."""

_LONGEST_HEADER, _SHORTEST_HEADER = 540, 348
_UNIT_LENGTH = 1e-5
"""A quaternion may be this much longer than 1: many are written in single precision."""


def nifti_layout(path: Path, max_bytes: int) -> tuple[Layout, Placement]:
    """Where the voxels of a NIfTI-1 or NIfTI-2 file or pair lie, from the header alone.

    Raises:
        ReadError: If it is none, or promises what cannot be or more than ``max_bytes`` of voxels.
        GeometryError: If it is no volume, or does not lie where one can.
    """
    header = _header(path)
    num_axes, start = int(header["dim"][0]), float(header["vox_offset"])
    if not 1 <= num_axes <= 7 or not 0 <= start < 1 << 40:
        msg = f"{path.name} cannot be read: its NIfTI header has {num_axes} axes from {start:g}"
        raise ReadError(msg)
    sizes = [int(n) for n in header["dim"][1 : 1 + num_axes]]
    dtype = _dtype(path.name, header)
    checked_bytes(path.name, sizes, dtype.itemsize, max_bytes)
    if len(sizes) > 4 and sizes[4] > 1:
        msg = f"{path.name} must have one real value in each voxel, has vectors of {sizes[4]}"
        raise ReadError(msg)
    place = _placed(path.name, header, checked_sizes(path.name, sizes))
    slope, intercept = _usable(float(header["scl_slope"]), float(header["scl_inter"]))
    file = nifti_voxel_file(path)
    layout = Layout(
        path=file,
        shape=tuple(sizes[::-1]),
        dtype=dtype,
        is_deflated=file.name.lower().endswith(".gz"),
        offset=int(start) if file != path else max(int(start), header.sizeof_hdr),
        slope=slope,
        intercept=intercept,
    )
    return layout, place


def _header(path: Path) -> "Nifti1Header":
    from nibabel.nifti1 import Nifti1Header
    from nibabel.nifti2 import Nifti2Header

    block = bytearray(_LONGEST_HEADER)
    is_deflated = path.name.lower().endswith(".gz")
    whole = Layout(path=path, shape=(len(block),), dtype=np.dtype("u1"), is_deflated=is_deflated)
    num_bytes = read_into([memoryview(block)], whole, path.name)
    is_pair = image_suffix(path).startswith(".hdr")
    for kind in (Nifti1Header, Nifti2Header):
        header = kind(bytes(block[: kind.sizeof_hdr]), check=False)
        magic = kind.pair_magic if is_pair else kind.single_magic
        if num_bytes >= kind.sizeof_hdr == int(header["sizeof_hdr"]) and header["magic"].item() == magic:
            return header
    begins = {struct.unpack_from(f"{order}i", block)[0] for order in "<>"}
    if is_pair and num_bytes >= _SHORTEST_HEADER and _SHORTEST_HEADER in begins:
        msg = f"{path.name} must be a NIfTI header, is one of ANALYZE 7.5, which does not say how the scan lies"
        raise GeometryError(msg)
    msg = f"{path.name} cannot be read: it does not begin as a NIfTI file does"
    raise ReadError(msg)


def _dtype(name: str, header: "Nifti1Header") -> np.dtype:
    from nibabel.nifti1 import data_type_codes

    code = int(header["datatype"])
    label = data_type_codes.label[code] if code in data_type_codes.label else str(code)
    if label.startswith(("complex", "RGB")):
        msg = f"{name} must have one real value in each voxel, has {label}"
        raise ReadError(msg)
    if not label.startswith(("int", "uint", "float")) or label == "float128":
        msg = f"{name} cannot be read: its data type {label} is not supported; integers and floats up to 64 bits are"
        raise ReadError(msg)
    dtype: np.dtype = header.get_data_dtype()
    return dtype


def _placed(name: str, header: "Nifti1Header", sizes: Sequence[int]) -> Placement:
    """The sform where its code is above 0, else the qform where its code is, else no place but pixdim.

    Raises:
        GeometryError: If the one that is taken makes no grid.
    """
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    unit = _MM_PER_CODE.get(int(header["xyzt_units"]) & 7, 1.0)
    doubts: list[Doubt] = []
    if sform > 0:
        ras = header.get_sform()
        if qform > 0:
            doubts = _disagreement(name, header, sizes, ras, unit)
    elif qform > 0:
        ras, doubts = _by_quaternion(name, header)
    else:
        spacing_mm, doubts = known_spacing(name, np.array(header["pixdim"][1:4], np.float64))
        ras = _RAS_TO_LPS @ np.diag([*spacing_mm, 1.0])  # the file's axes as the patient's, LPS
        doubts = [*doubts, (MISSING, _NOWHERE)]
    lps = _RAS_TO_LPS @ ras
    return placement(name, sizes, lps[:3, :3] * unit, lps[:3, 3] * unit, doubts)


_NOWHERE = (
    "the header does not say where the scan lies (no code of sform or qform is above 0): pixdim alone would leave "
    "sides and points a guess"
)


def _by_quaternion(name: str, header: "Nifti1Header") -> tuple[np.ndarray, list[Doubt]]:
    """The qform, index (x, y, z) to RAS in the file's unit.

    Raises:
        GeometryError: If it is none.
    """
    spacing, doubts = known_spacing(name, np.array(header["pixdim"][1:4], np.float64))
    whole = header.copy()
    whole["pixdim"][0] = -1 if header["pixdim"][0] < 0 else 1  # 0 stands for 1
    whole["pixdim"][1:4] = spacing
    whole.quaternion_threshold = -_UNIT_LENGTH
    try:
        return np.asarray(whole.get_qform(), np.float64), doubts
    except ValueError as exc:
        msg = f"{name}: the qform must hold a rotation, holds {[float(header[f'quatern_{k}']) for k in 'bcd']}"
        raise GeometryError(msg) from exc


def _disagreement(
    name: str, header: "Nifti1Header", sizes: Sequence[int], sform: np.ndarray, unit: float
) -> list[Doubt]:
    """That the qform puts a corner of the grid more than half a voxel away from where the sform does, or nowhere."""
    codes = f"sform (code {int(header['sform_code'])}) and qform (code {int(header['qform_code'])})"
    try:
        qform, lacks = _by_quaternion(name, header)
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
