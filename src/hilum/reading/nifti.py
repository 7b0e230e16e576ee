"""What a NIfTI header promises, checked against the file: ITK reads a truncated one as if the rest were 0 HU."""

import gzip
import io
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hilum.errors import ReadError

_FLOATS = {16: "f4", 64: "f8"}
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class NiftiLayout:
    """Where the voxels of a NIfTI file lie.

    Attributes:
        shape: Array axes, slowest first.
        offset: Byte at which the voxels begin, in the inflated file.
        num_bytes: How many bytes they take.
        dtype: Of floating-point voxels; None for others.
    """

    shape: tuple[int, ...]
    offset: int
    num_bytes: int
    dtype: np.dtype | None


def nifti_layout(path: Path) -> NiftiLayout | None:
    """The layout of a NIfTI-1 or NIfTI-2 file; None where it begins like neither.

    Raises:
        ReadError: If the file holds fewer voxels than its header promises, or cannot be inflated.
    """
    try:
        with _opened(path) as file:
            layout = _layout(file.read(540))
            if layout is None:
                return None
            size = _size(path)
    except (OSError, EOFError, zlib.error) as exc:
        msg = f"{path.name} is damaged: it cannot be inflated to its end"
        raise ReadError(msg) from exc
    missing = layout.offset + layout.num_bytes - size
    if missing > 0:
        msg = f"truncated-file: {path.name} lacks {missing} of the {layout.num_bytes} bytes of its voxels"
        raise ReadError(msg)
    return layout


def undefined_voxels(path: Path, layout: NiftiLayout) -> np.ndarray | None:
    """Where floating-point voxels are not a number, which ITK turns into 0; None where there are none."""
    if layout.dtype is None:
        return None
    with _opened(path) as file:
        file.seek(layout.offset)
        values = np.frombuffer(file.read(layout.num_bytes), layout.dtype)
    undefined = np.isnan(values)
    return undefined.reshape(layout.shape) if undefined.any() else None


def _opened(path: Path) -> io.BufferedIOBase:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _size(path: Path) -> int:
    """Bytes of the file, inflated."""
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size
    size = 0
    with gzip.open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            size += len(chunk)
    return size


def _layout(head: bytes) -> NiftiLayout | None:
    """From the header (https://nifti.nimh.nih.gov): sizes, data type and where the voxels begin."""
    for order in "<>":
        if len(head) >= 348 and struct.unpack(f"{order}i", head[:4])[0] == 348:
            dims = struct.unpack(f"{order}8h", head[40:56])
            kind, bits = struct.unpack(f"{order}2h", head[70:74])
            offset = int(struct.unpack(f"{order}f", head[108:112])[0])
        elif len(head) >= 540 and struct.unpack(f"{order}i", head[:4])[0] == 540:
            dims = struct.unpack(f"{order}8q", head[16:80])
            kind, bits = struct.unpack(f"{order}2h", head[12:16])
            offset = struct.unpack(f"{order}q", head[168:176])[0]
        else:
            continue
        if not 1 <= dims[0] <= 7 or min(dims[1 : 1 + dims[0]]) < 1 or offset < 0:
            return None
        shape = tuple(int(n) for n in dims[dims[0] : 0 : -1])
        number = 1
        for n in shape:
            number *= n
        dtype = np.dtype(f"{order}{_FLOATS[kind]}") if kind in _FLOATS else None
        return NiftiLayout(shape=shape, offset=offset, num_bytes=number * bits // 8, dtype=dtype)
    return None
