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


def nifti_layout(path: Path, max_bytes: int) -> Layout:
    """The layout of a NIfTI-1 file, from its header alone.

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
        return Layout(
            path=path,
            shape=sizes[::-1],
            dtype=dtype,
            is_deflated=is_deflated,
            offset=max(int(start), _SIZE),
            slope=slope,
            intercept=intercept,
        )
    if head[4:8] == b"n+2\0":  # ITK, which knows what the many fields on geometry mean, does not know this one
        msg = f"{path.name} cannot be read: it must be NIfTI-1, is NIfTI-2"
        raise ReadError(msg)
    msg = f"{path.name} cannot be read: it does not begin as a NIfTI file does"
    raise ReadError(msg)


def _usable(slope: float, intercept: float) -> tuple[float, float]:
    """Slope and intercept as ITK takes them: a slope of 0 means that none is given."""
    given = np.isfinite(slope) and abs(slope) >= np.finfo(np.float64).eps
    return float(slope) if given else 1.0, float(intercept) if np.isfinite(intercept) else 0.0
