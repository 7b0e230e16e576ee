"""Voxels as they lie in a file, raw or deflated: read once, no further than needed, and never fewer than promised."""

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from hilum.errors import ReadError
from hilum.findings import printable

LONGEST_AXIS = 65536
_CHUNK = 1 << 20
_MAGIC = b"\x1f\x8b"
_BEHIND = 1 << 20
"""Bytes behind deflated voxels that are still inflated, for the checksum at the end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where voxels lie, and what they mean.

    Attributes:
        path: The file.
        shape: Array axes, slowest first.
        dtype: How they are stored.
        start: Byte of the file at which they begin, or the stream that inflates to them.
        is_deflated: Whether it is such a stream (gzip, zlib).
        offset: Byte at which the voxels begin behind that, in what is inflated.
        slope: By which they are multiplied.
        intercept: What is then added.
    """

    path: Path
    shape: tuple[int, ...]
    dtype: np.dtype
    start: int = 0
    is_deflated: bool = False
    offset: int = 0
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def num_bytes(self) -> int:
        """Bytes of the voxels."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_rescaled(self) -> bool:
        """Whether the values are others than the stored ones."""
        return (self.slope, self.intercept) != (1.0, 0.0)

    def rescaled(self, stored: np.ndarray) -> np.ndarray:
        """The values, to the bit as ITK gives them: integers become single precision, sums are taken in double."""
        if not self.is_rescaled:
            return stored
        exact = stored if stored.dtype.kind == "f" else stored.astype(np.float32)
        with np.errstate(over="ignore"):  # to infinity, which is metal
            out: np.ndarray = (exact.astype(np.float64) * self.slope + self.intercept).astype(exact.dtype)
        return out


def stored_voxels(layout: Layout, name: str) -> np.ndarray:
    """The stored values: a view of the file, or of what was inflated.

    Args:
        layout: Where they lie.
        name: Of the image, for errors.

    Raises:
        ReadError: If there are fewer than promised, or they cannot be inflated.
    """
    if not layout.is_deflated:
        start = layout.start + layout.offset
        held = layout.path.stat().st_size - start
        if held >= layout.num_bytes:
            return np.memmap(layout.path, layout.dtype, "r", start, layout.shape)
    else:
        voxels = np.empty(layout.shape, layout.dtype)
        parts = [voxels.reshape(-1).view(np.uint8).data, memoryview(bytearray(_BEHIND))]
        held = read_into(parts, layout, name)
        if held >= layout.num_bytes:
            return voxels
    lacks = layout.num_bytes - max(0, held)
    msg = f"truncated-file: {name} cannot be read: it lacks {lacks} of the {layout.num_bytes} bytes of its voxels"
    raise ReadError(msg)


def checked_bytes(name: str, sizes: list[int] | tuple[int, ...], word: int, max_bytes: int) -> int:
    """The bytes of voxels of these sizes.

    Raises:
        ReadError: If a size cannot be, or they are more than ``max_bytes``.
    """
    if not sizes or len(sizes) > 16 or min(sizes) < 1 or max(sizes) > LONGEST_AXIS:
        sizes_shown = " x ".join(shown(n) for n in sizes[:16])
        msg = f"{name} cannot be read: each axis must have 1 to {LONGEST_AXIS} voxels, has {sizes_shown}"
        raise ReadError(msg)
    promised = math.prod(sizes) * word
    if promised > max_bytes:
        msg = f"too-large: {name} must have at most {max_bytes / 1e9:g} GB of voxels, has {promised / 1e9:.3g} GB"
        raise ReadError(msg)
    return promised


def shown(value: object) -> str:
    """A value from a file, short and on one line."""
    text = printable(str(value))
    return text if len(text) <= 40 else text[:37] + "..."


def read_into(parts: list[memoryview], layout: Layout, name: str) -> int:
    """Fill buffers, one after the other, with what lies behind the offset; how many bytes there were.

    Raises:
        ReadError: If it cannot be read or inflated.
    """
    parts = [*parts]
    filled = -layout.offset
    try:
        with layout.path.open("rb") as file:
            file.seek(layout.start)
            chunks = _inflated(file) if layout.is_deflated else iter(lambda: file.read(_CHUNK), b"")
            for chunk in chunks:
                rest = memoryview(chunk)
                if filled < 0:
                    cut = min(-filled, len(rest))
                    rest, filled = rest[cut:], filled + cut
                while rest and parts:
                    cut = min(len(rest), len(parts[0]))
                    parts[0][:cut] = rest[:cut]
                    rest, filled, parts[0] = rest[cut:], filled + cut, parts[0][cut:]
                    if not parts[0]:
                        parts.pop(0)
                if not parts:
                    break
    except (OSError, zlib.error) as exc:
        msg = f"{name} is damaged: it cannot be inflated to its end"
        raise ReadError(msg) from exc
    return filled


def _inflated(file: IO[bytes]) -> Iterator[bytes]:
    """The bytes of a gzip or zlib stream, member after member, a few million at a time; its checksums are looked at."""
    either = 32 + zlib.MAX_WBITS
    stream = zlib.decompressobj(wbits=either)
    chunk = b""
    while True:
        chunk = chunk or file.read(_CHUNK)
        if stream.eof:
            if not chunk.startswith(_MAGIC):  # the end, or what some systems pad a file with
                return
            stream = zlib.decompressobj(wbits=either)
        inflated = stream.decompress(chunk, 4 * _CHUNK)
        if not chunk and not inflated:
            msg = "the file ends too early"
            raise zlib.error(msg)
        yield inflated
        chunk = stream.unused_data or stream.unconsumed_tail
