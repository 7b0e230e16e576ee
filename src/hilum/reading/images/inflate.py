"""Inflates the gzip or zlib stream of an image file, part by part, with its checksums."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hilum.errors import ReadError
from hilum.reading.images.placement import truncated

NOT_INFLATED = "is damaged: it cannot be inflated to its end"
INFLATION_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
"""What the standard library raises on a damaged stream."""

_BEHIND = 1 << 20
"""Bytes behind the voxels that are still inflated, for the checksum at the end."""

_CHUNK = 1 << 20
_PART = 4 << 20
_GZIP = b"\x1f\x8b"


def inflated_parts(path: Path, start: int = 0) -> Iterator[bytes]:
    """What a file inflates to from byte ``start`` on, a few million bytes at a time.

    Members of a gzip file follow one another; zeros or other bytes behind the last one are its end. It takes three
    quarters of the time of ``gzip.open``, which reads 8 kB at a time.

    Raises:
        EOFError, zlib.error: If the stream is damaged or ends too early.
    """
    either = 32 + zlib.MAX_WBITS  # gzip or zlib
    stream = zlib.decompressobj(wbits=either)
    packed = b""
    with path.open("rb") as file:
        file.seek(start)
        while True:
            packed = packed or file.read(_CHUNK)
            if stream.eof:
                if not packed.startswith(_GZIP):
                    return
                stream = zlib.decompressobj(wbits=either)
            part = stream.decompress(packed, _PART)
            if not packed and not part:
                raise EOFError
            yield part
            packed = stream.unused_data or stream.unconsumed_tail


def inflate_voxels(voxels: np.ndarray, path: Path, start: int = 0, *, skip: int = 0) -> int:
    """Fill a contiguous array with what a file inflates to, and verify the checksum of the stream.

    Args:
        voxels: The array to fill.
        path: The file.
        start: Byte at which the stream begins.
        skip: Number of inflated bytes before the voxels; negative: the voxels are the last.

    Returns:
        Number of bytes behind the voxels; counting stops after about a million.

    Raises:
        ReadError: If the stream is damaged, or holds fewer bytes.
    """
    rest, before, behind = voxels.reshape(-1).view(np.uint8).data, skip, 0
    try:
        if skip < 0:
            before = max(0, sum(map(len, inflated_parts(path, start))) - voxels.nbytes)
        for part in inflated_parts(path, start):
            own = memoryview(part)[before:]
            before = max(0, before - len(part))
            cut = min(len(own), len(rest))
            rest[:cut] = own[:cut]
            rest, behind = rest[cut:], behind + len(own) - cut
            if behind > _BEHIND:
                break
    except INFLATION_ERRORS as exc:
        raise ReadError(NOT_INFLATED) from exc
    if rest:
        raise truncated(len(rest), voxels.nbytes)
    return behind
