"""Writes and reads prepared samples: raw int16 HU after a short header, memory-mapped and verified by a checksum.

The layout is that of safetensors (eight bytes with the header's length, JSON, then the raw arrays): other programs can
open a sample, and a part of it is read without decoding. The library's own writer copies the arrays first and takes
three times as long.
"""

import json
import math
import mmap
import os
import time
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from hilum.errors import ConfigError, PrepareError
from hilum.files import write_whole
from hilum.findings import Finding
from hilum.settings.toml import from_dict
from hilum.volume import SourceScan, Tags, Volume

SUFFIX = ".safetensors"

_KINDS: dict[str, np.dtype] = {"I16": np.dtype("<i2"), "U8": np.dtype("u1")}
"""Names in safetensors of the data types in a sample."""

_checked: set[tuple[int, int, int, int]] = set()
"""Files that this process has verified: device, inode, size, time of change. A changed file is verified again."""


def save_sample(volume: Volume, path: Path) -> None:
    """Write a sample atomically.

    Args:
        volume: The sample, with int16 voxels.
        path: The file; its name without the suffix is the sample's key.
    """
    arrays = _arrays(volume)
    about = {
        "key": path.stem,
        "shape": list(volume.shape),
        "affine": volume.affine.tolist(),
        "tags": asdict(volume.tags),
        "findings": [asdict(replace(f, where="")) for f in volume.findings],  # file names can be names of patients
        "source": _source_record(volume.source),
    }
    about["checksum"] = _checksum(about, arrays)
    header: dict[str, Any] = {"__metadata__": {"hilum": json.dumps(about)}}
    end = 0
    for name, array in arrays.items():
        kind = next(kind for kind, dtype in _KINDS.items() if dtype == array.dtype)
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # aligns the arrays
    write_whole(path, (len(text).to_bytes(8, "little"), text, *(array.data for array in arrays.values())), follow=False)


def load_sample(path: Path) -> Volume:
    """Load a sample as a view of its memory-mapped file, which may be removed meanwhile.

    A process verifies all bytes when it first loads the file, afterwards only that the file is unchanged. The time of
    access of the file is set to now.

    Returns:
        A volume with read-only voxels.

    Raises:
        PrepareError: If the file is missing or damaged.
    """
    return read_sample(path, fully=False, use=True)


def read_sample(path: Path, *, fully: bool, use: bool) -> Volume:
    """Load a sample as ``load_sample`` does.

    Args:
        path: The file.
        fully: Verify all bytes even if this process has verified the file before.
        use: Set the time of access to now; else keep it.

    Raises:
        PrepareError: If the file is missing or damaged.
    """
    try:
        if path.is_symlink():
            msg = f"the sample {path.name} is damaged: it is a link"
            raise PrepareError(msg)
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        start = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:start])
        about = json.loads(header["__metadata__"]["hilum"])
        arrays = {name: _view(content, start, place) for name, place in header.items() if name != "__metadata__"}
        sizes = sum(array.nbytes for array in arrays.values())
        same = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)
        if start + sizes != found.st_size:
            msg = f"the sample {path.name} is damaged: it must have {start + sizes} bytes, has {found.st_size}"
            raise PrepareError(msg)
        if any(list(a.shape) != about["shape"] for a in arrays.values()):
            msg = f"the sample {path.name} is damaged: its header gives two shapes"
            raise PrepareError(msg)
        if fully or same not in _checked:
            _checked.discard(same)
            if about.pop("checksum") != _checksum(about, arrays):
                msg = f"the sample {path.name} is damaged: its bytes are not those that were written"
                raise PrepareError(msg)
            _checked.add(same)
        if about["key"] != path.stem:
            msg = f"the sample {path.name} is damaged: it is the sample {about['key']} under another name"
            raise PrepareError(msg)
        volume = _volume(about, arrays)
    except FileNotFoundError as exc:
        msg = f"the sample {path.name} is not there"
        raise PrepareError(msg) from exc
    except (
        OSError,
        KeyError,
        TypeError,
        ValueError,
        OverflowError,
        AttributeError,
        RecursionError,
        ConfigError,
    ) as exc:
        msg = f"the sample {path.name} is damaged"
        raise PrepareError(msg) from exc
    _set_access_time(path, time.time_ns() if use else found.st_atime_ns, found.st_mtime_ns)
    return volume


def _arrays(volume: Volume) -> dict[str, np.ndarray]:
    """The arrays of a sample: int16 voxels first, then the uint8 mask, so that both stay aligned."""
    arrays = {"voxels_hu": np.ascontiguousarray(volume.voxels_hu)}
    if volume.lungs is not None:
        arrays["lungs"] = np.ascontiguousarray(volume.lungs)
    return arrays


def _volume(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> Volume:
    return Volume(
        affine=np.array(about["affine"]),
        tags=from_dict(Tags, about["tags"]),
        findings=tuple(Finding(**f) for f in about["findings"]),
        voxels_hu=arrays["voxels_hu"],
        lungs=arrays.get("lungs"),
        source=_source(about.get("source")),  # older samples have none
    )


def _source_record(source: SourceScan | None) -> dict[str, Any] | None:
    """What the header holds of the source; its profiles as lists, for they are short."""
    if source is None:
        return None
    return {
        "digest": source.digest,
        "shape": list(source.shape),
        "spacing_mm": list(source.spacing_mm),
        "profiles": source.profiles.tolist(),
        "lungs_litres": source.lungs_litres,
    }


def _source(record: dict[str, Any] | None) -> SourceScan | None:
    if record is None:
        return None
    (nz, ny, nx), (z, y, x) = record["shape"], record["spacing_mm"]
    return SourceScan(
        digest=record["digest"],
        shape=(nz, ny, nx),
        spacing_mm=(z, y, x),
        profiles=np.array(record["profiles"], np.int16),
        lungs_litres=record.get("lungs_litres"),
    )


def _view(content: mmap.mmap, start: int, place: dict[str, Any]) -> np.ndarray:
    kind, shape, (begin, end) = _KINDS[place["dtype"]], place["shape"], place["data_offsets"]
    if min(shape) < 1 or (end - begin) != kind.itemsize * math.prod(shape):
        raise ValueError(place)
    view: np.ndarray = np.frombuffer(content, kind, math.prod(shape), start + begin).reshape(shape)
    return view


def _checksum(about: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    """CRC-32 of header and arrays: five times as fast as a cryptographic hash, and sufficient against damage."""
    value = zlib.crc32(json.dumps(about).encode())
    for _, array in sorted(arrays.items()):
        value = zlib.crc32(array.data, value)
    return f"{value:08x}"


def _set_access_time(path: Path, used_ns: int, changed_ns: int) -> None:
    """Set the time of access, unless the store is read-only."""
    try:
        os.utime(path, ns=(used_ns, changed_ns))
    except OSError:
        return
