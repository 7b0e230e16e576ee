"""Stored bytes of DICOM elements as texts, numbers, positions and directions."""

import math
import re
import struct
import warnings
import zlib
from functools import lru_cache
from threading import RLock
from typing import Any

import numpy as np
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.errors import BytesLengthException

DAMAGED = (
    ArithmeticError,
    AttributeError,
    BytesLengthException,
    EOFError,
    LookupError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)
"""Errors of pydicom and NumPy on values that break the standard; their texts may quote the header."""

_WARNINGS = RLock()
"""Guards the process's warning filters, which one thread at a time may change."""

LONGEST = 64
"""Most characters of a text (LO, PS3.5 6.2)."""

_THOUSANDS = re.compile(rb"[+-]?[1-9]\d{0,2},\d{3}")

_FARTHEST_MM = 1e6
"""Largest coordinate of a position in mm; a larger one is damaged."""


@lru_cache(4096)
def texts(raw: bytes, character_set: bytes = b"") -> tuple[str, ...]:
    r"""The values of a text element, without padding; none where it is empty.

    Example:
        >>> texts(b"ORIGINAL\\PRIMARY ")
        ('ORIGINAL', 'PRIMARY')
    """
    if raw.isascii():
        text = raw.decode("ascii")
    else:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                encodings = convert_encodings([s or "ISO_IR 6" for s in texts(character_set)] or ["ISO_IR 6"])
                text = decode_bytes(raw, encodings, set())
            except DAMAGED:
                text = raw.decode("latin-1")
    text = text.strip("\0 ")
    return tuple(part.strip("\0 \t\r\n") for part in text.split("\\")) if text else ()


@lru_cache(4096)
def numbers(raw: bytes, count: int = 0) -> tuple[float, ...]:
    r"""The values of a decimal or integer string; none where it is empty.

    Commas, which the standard forbids, are read where they can mean one thing only: decimal points where backslashes
    divide the values (``3,6\4,2``), or dividers where points are there or the count leaves nothing else (``3.6,4.2``).

    Args:
        raw: The stored bytes.
        count: Number of values that there must be; 0: any number.

    Raises:
        ValueError: If one is no number, or a comma can mean two things.
    """
    text = raw.strip(b"\0 ")
    parts = text.split(b"\\") if text else []
    if b"," in text:
        divides = len(parts) == 1 and text.count(b",") == count - 1 and (count > 2 or b"." in text)
        parts = text.split(b",") if divides else [_with_point(part, alone=count < 2) for part in parts]
    return tuple(float(part) for part in parts)


def _with_point(part: bytes, *, alone: bool) -> bytes:
    """A number with a decimal comma, such as ``3,6``; alone, ``1,024`` may be a thousand and is none."""
    if b"," not in part:
        return part
    if b"." in part or part.count(b",") > 1 or (alone and _THOUSANDS.fullmatch(part.strip())):
        raise ValueError
    return part.replace(b",", b".")


def integer(raw: bytes, order: str, *, signed: bool = False) -> int:
    """A 16-bit element.

    Raises:
        struct.error: If it has fewer than two bytes.
    """
    value: Any = struct.unpack_from(f"{order}{'h' if signed else 'H'}", raw)[0]
    return int(value)


def first(raw: bytes) -> float | None:
    """The first value of a decimal or integer string; None where it is empty.

    Raises:
        ValueError: If a value is no number.
    """
    values = numbers(raw, 1)
    return values[0] if values else None


def number(raw: bytes) -> float | None:
    """``first`` for values that are only reported: None where it is no number."""
    try:
        value = first(raw)
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) else None


def trimmed_time(text: str) -> str:
    """A date or time in one spelling, whether it has a fraction or not."""
    return text.rstrip("0").rstrip(".") if "." in text else text


def shown(text: str) -> str:
    """A text for reports, ``?`` if it is too long: a damaged length takes in what follows, and names may be in that."""
    return text if len(text) <= LONGEST and text.isprintable() else "?"


def position(raw: bytes) -> tuple[float, float, float] | None:
    """A point in LPS mm; None where it is empty, incomplete or implausibly far away.

    Raises:
        ValueError: If a value is no number.
    """
    values = numbers.__wrapped__(raw, 3)  # differs in each slice: not worth caching
    if len(values) != 3 or not all(abs(v) <= _FARTHEST_MM for v in values):
        return None
    x, y, z = values
    return x, y, z


def directions(raw: bytes) -> np.ndarray | None:
    """Row and column directions, orthogonal unit vectors; files round them, so they are made exact here.

    Raises:
        ValueError: If a value is no number.
    """
    values: Any = numbers(raw, 6)
    if len(values) != 6 or not all(abs(v) < 2 for v in values):
        return None
    row, column = np.array(values[:3]), np.array(values[3:])
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        return None
    return np.stack([row / np.linalg.norm(row), column / np.linalg.norm(column)])
