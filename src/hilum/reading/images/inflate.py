"""Inflates the gzip or zlib stream of an image file, part by part, with its checksums."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path

NOT_INFLATED = "is damaged: it cannot be inflated to its end"
INFLATION_ERRORS = (EOFError, gzip.BadGzipFile, zlib.error)
"""What the standard library raises on a damaged stream."""

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
