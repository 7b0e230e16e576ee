"""NIfTI headers: where the voxels lie and how they are rescaled.

ITK is asked for the geometry alone: it fills a truncated file with 0 HU, and takes the voxels of x.nii.gz from an x.nii
that lies beside it.
"""

import struct
from pathlib import Path

import numpy as np

from hilum.errors import ReadError
from hilum.reading.voxelfile import Layout, checked_bytes, read_into

_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 32: "c8", 64: "f8", 128: "V3", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8", 1792: "c16", 2304: "V4",
}  # fmt: skip
"""https://nifti.nimh.nih.gov; V3 and V4 are colours."""

_SIZE = 348
_APART_MM = 0.5


def nifti_layout(path: Path, max_bytes: int) -> tuple[Layout, str]:
    """The layout of a NIfTI-1 file, from its header alone, and what is unclear about where it lies; empty if nothing.

    Raises:
        ReadError: If it is none, or promises what cannot be or more than ``max_bytes`` of voxels.
    """
    head = bytearray(352)
    is_deflated = path.name.lower().endswith(".gz")
    whole = Layout(path=path, shape=(352,), dtype=np.dtype("u1"), is_deflated=is_deflated)
    num_bytes = read_into([memoryview(head)], whole, path.name)
    for order in "<>":
        if num_bytes < 352 or struct.unpack_from(f"{order}i", head)[0] != 348 or head[344:347] != b"n+1":
            continue
        dims = struct.unpack_from(f"{order}8h", head, 40)
        kind = struct.unpack_from(f"{order}h", head, 70)[0]
        start, slope, intercept = struct.unpack_from(f"{order}3f", head, 108)
        if not 1 <= dims[0] <= 7 or kind not in _TYPES or not 0 <= start < 1 << 40:
            msg = f"{path.name} cannot be read: its NIfTI header has {dims[0]} axes of data type {kind} from {start:g}"
            raise ReadError(msg)
        sizes = dims[1 : 1 + dims[0]]
        dtype = np.dtype(order + _TYPES[kind])
        checked_bytes(path.name, sizes, dtype.itemsize, max_bytes)
        slope, intercept = _usable(slope, intercept)
        layout = Layout(
            path=path,
            shape=sizes[::-1],
            dtype=dtype,
            is_deflated=is_deflated,
            offset=max(int(start), _SIZE),
            slope=slope,
            intercept=intercept,
        )
        return layout, _doubt(head, order)
    if head[4:8] == b"n+2\0":  # ITK, which knows what the many fields on geometry mean, does not know this one
        msg = f"{path.name} cannot be read: it must be NIfTI-1, is NIfTI-2"
        raise ReadError(msg)
    msg = f"{path.name} cannot be read: it does not begin as a NIfTI file does"
    raise ReadError(msg)


def _doubt(head: bytearray, order: str) -> str:
    """Neither of a header's two ways to say where a scan lies is used, or they contradict each other."""
    by_quaternion, by_matrix = struct.unpack_from(f"{order}2h", head, 252)
    if by_quaternion <= 0 and by_matrix <= 0:
        return "the header does not say how the scan lies (no qform, no sform): left and right are a guess"
    if by_quaternion > 0 and by_matrix > 0:
        b, c, d, *shift = struct.unpack_from(f"{order}6f", head, 256)
        matrix = np.array(struct.unpack_from(f"{order}12f", head, 280), np.float64).reshape(3, 4)
        pixdim = np.array(struct.unpack_from(f"{order}4f", head, 76), np.float64)
        a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        steps = turn * pixdim[1:] * [1, 1, -1 if pixdim[0] < 0 else 1]
        sizes = np.array(struct.unpack_from(f"{order}3h", head, 42), np.float64)
        apart = np.abs((matrix[:, :3] - steps) * sizes).sum(axis=1) + np.abs(matrix[:, 3] - shift)
        if not apart.max() <= _APART_MM:
            return f"qform and sform lie up to {apart.max():.3g} mm apart; the sform is taken"
    return ""


def _usable(slope: float, intercept: float) -> tuple[float, float]:
    """Slope and intercept; a slope of 0 means that neither is given (ITK takes the intercept all the same)."""
    if not (np.isfinite(slope) and abs(slope) >= np.finfo(np.float64).eps):
        return 1.0, 0.0
    return float(slope), float(intercept) if np.isfinite(intercept) else 0.0
