"""Finds the wanted elements in the bytes of a DICOM file, without its pixels and without interpreting them."""

import io
import struct
import warnings
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import pydicom
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian

from hilum.errors import ReadError
from hilum.reading.values import DAMAGED, PYDICOM

KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "AccessionNumber", "Modality", "Manufacturer",
    "BurnedInAnnotation",
    "ManufacturerModelName", "PatientID", "BodyPartExamined", "SliceThickness", "KVP", "Exposure", "ConvolutionKernel",
    "StudyInstanceUID", "SeriesInstanceUID", "AcquisitionNumber", "AcquisitionTime", "AcquisitionDateTime",
    "FrameAcquisitionDateTime", "ContentTime", "TemporalPositionIdentifier", "TemporalPositionIndex",
    "StackID", "FrameType", "FrameOfReferenceUID",
    "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "NumberOfFrames",
    "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "RescaleType",
    "LossyImageCompression",
)  # fmt: skip
_NAMES: dict[int, str] = {int(tag_for_keyword(keyword) or 0): keyword for keyword in KEYWORDS}

_SYNTAX, _CLASS = 0x00020010, 0x00020002
_PIXELS, _PER_FRAME, _SHARED = 0x7FE00010, 0x52009230, 0x52009229
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_LONG_VRS = frozenset([b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"])
_IMPLICIT = "1.2.840.10008.1.2"
_DEEPEST = 32
_LONGEST_HEADER, _CHUNK = 1 << 24, 1 << 20
NATIVE = frozenset([_IMPLICIT, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian])
"""Transfer syntaxes whose pixels are not compressed one by one."""

_GROUPS = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "FrameContentSequence", "CTReconstructionSequence", "CTImageFrameTypeSequence",
)  # fmt: skip
"""Functional groups of an enhanced CT that hold wanted elements (PS3.3 A.38)."""

Values = Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Elements:
    """The wanted elements of one file as they are stored.

    Attributes:
        values: Bytes by keyword.
        frames: Those of the functional groups of each frame of an enhanced file; one empty table for others.
        order: ``<`` or ``>``.
        syntax: Transfer syntax UID.
        sop_class: MediaStorageSOPClassUID.
        pixels: Byte at which native pixels begin, in the inflated file where it is deflated; None for compressed
            pixels and where there are none.
        has_pixels: Whether there is an element with pixels.
        size: Bytes of the file; of a deflated one, those looked at.
    """

    values: Values
    frames: tuple[Values, ...]
    order: Literal["<", ">"]
    syntax: str
    sop_class: str
    pixels: int | None
    has_pixels: bool
    size: int


class _UnusualError(Exception):
    """A file that the fast walk leaves to pydicom."""


def scan(head: bytes, size: int, whole: Callable[[], bytes]) -> Elements:
    """The wanted elements of a DICOM file.

    A file of one frame in little endian, which nearly all are, is walked through without pydicom: it is ten times
    as fast. Whatever is unusual is parsed by pydicom.

    Args:
        head: How the file begins; should hold all before the pixels.
        size: Bytes of the file.
        whole: Gives the file's bytes, if the head was not enough.

    Raises:
        ReadError: If the file is not DICOM or damaged.
    """
    try:
        try:
            return _walked(head, size)
        except (_UnusualError, struct.error):
            content = head if len(head) >= size else whole()
        try:
            return _walked(content, size)
        except (_UnusualError, struct.error):
            return _parsed(content)
    except (*DAMAGED, _UnusualError, MemoryError) as exc:
        msg = "a damaged DICOM file"
        raise ReadError(msg) from exc


def inflated(content: bytes, most: int) -> bytes | bytearray:
    """How a deflated file (PS3.5 A.5) would begin without that: at most so many bytes, inflated no further."""
    start = _walk(content, 132, {}, explicit=True, last_group=2)
    out = bytearray(content[:start])
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    waiting = content[start:]
    while waiting and len(out) < most:
        out += inflater.decompress(waiting, min(most - len(out), _CHUNK))
        waiting = inflater.unconsumed_tail
    return out


def _walked(content: bytes, size: int) -> Elements:
    """By a walk over the elements of the top level."""
    meta: dict[int, bytes] = {}
    at = 132
    if content[128:132] != b"DICM":
        if content[:2] != b"\x08\x00":
            raise _UnusualError
        at, syntax = 0, _IMPLICIT if content[4:6] not in (b"CS", b"UI", b"UL") else str(ExplicitVRLittleEndian)
    else:
        at = _walk(content, 132, meta, explicit=True, last_group=2)
        syntax = _uid(meta.get(_SYNTAX, b"")) or _IMPLICIT
    if syntax in (DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        raise _UnusualError
    explicit = syntax != _IMPLICIT
    found: dict[int, bytes] = {}
    at = _walk(content, at, found, explicit=explicit, last_group=0x7FDF)
    if _PER_FRAME in found or _SHARED in found:
        raise _UnusualError
    has_pixels = content[at : at + 4] == b"\xe0\x7f\x10\x00"
    pixels = None
    if has_pixels:
        if explicit and content[at + 4 : at + 6] in _LONG_VRS:
            start, length = at + 12, struct.unpack_from("<I", content, at + 8)[0]
        elif explicit:
            start, length = at + 8, struct.unpack_from("<H", content, at + 6)[0]
        else:
            start, length = at + 8, struct.unpack_from("<I", content, at + 4)[0]
        pixels = None if length == _UNDEFINED else start
    elif at + 8 <= size and content[at + 2 : at + 4] != b"\x7f" and len(content) < size:
        raise _UnusualError  # the head ends before the pixels
    return Elements(
        values={_NAMES[tag]: value for tag, value in found.items()},
        frames=({},),
        order="<",
        syntax=syntax,
        sop_class=_uid(meta.get(_CLASS, b"")),
        pixels=pixels,
        has_pixels=has_pixels,
        size=size,
    )


_EXPLICIT, _SHORT, _LENGTH = struct.Struct("<HH2sH"), struct.Struct("<HHI"), struct.Struct("<I")


def _walk(content: bytes, at: int, found: dict[int, bytes], *, explicit: bool, last_group: int) -> int:
    """Collects wanted elements from byte ``at`` up to the first element beyond ``last_group``; returns its byte."""
    end = len(content)
    previous = -1
    while at + 8 <= end:
        if explicit:
            group, element, vr, length = _EXPLICIT.unpack_from(content, at)
            if group > last_group:
                return at
            start = at + 8
            if vr in _LONG_VRS:
                (length,) = _LENGTH.unpack_from(content, start)
                start += 4
        else:
            group, element, length = _SHORT.unpack_from(content, at)
            if group > last_group:
                return at
            start = at + 8
        tag = group << 16 | element
        if tag <= previous:
            raise _UnusualError
        previous = tag
        if tag in _NAMES or tag in (_SYNTAX, _CLASS, _PER_FRAME, _SHARED):
            if tag in (_PER_FRAME, _SHARED):
                raise _UnusualError
            found[tag] = content[start : start + length]
        at = _sequence_end(content, start, explicit=explicit, depth=0) if length == _UNDEFINED else start + length
        if at > end:
            raise _UnusualError
    return at


def _sequence_end(content: bytes, at: int, *, explicit: bool, depth: int) -> int:
    """The byte after a sequence of undefined length that begins at byte ``at`` (PS3.5 7.5)."""
    if depth > _DEEPEST:
        raise _UnusualError
    while True:
        group, element, length = _SHORT.unpack_from(content, at)
        tag = group << 16 | element
        at += 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM:
            raise _UnusualError
        at = _item_end(content, at, explicit=explicit, depth=depth) if length == _UNDEFINED else at + length


def _item_end(content: bytes, at: int, *, explicit: bool, depth: int) -> int:
    """The byte after an item of undefined length whose elements begin at byte ``at``."""
    while True:
        group, element, length = _SHORT.unpack_from(content, at)
        if group << 16 | element == _ITEM_END:
            return at + 8
        start = at + 8
        if explicit:
            vr = content[at + 4 : at + 6]
            if vr in _LONG_VRS:
                (length,) = _LENGTH.unpack_from(content, start)
                start += 4
            else:
                length >>= 16
        at = start + length
        if length == _UNDEFINED:
            at = _sequence_end(content, start, explicit=explicit, depth=depth + 1)


def _parsed(content: bytes) -> Elements:
    """By pydicom: enhanced files, big endian, deflated ones, and whatever is out of order."""
    meta: dict[int, bytes] = {}
    has_meta = content[128:132] == b"DICM"
    start = _walk(content, 132, meta, explicit=True, last_group=2) if has_meta else 0
    syntax = _uid(meta.get(_SYNTAX, b"")) or _IMPLICIT
    if syntax == DeflatedExplicitVRLittleEndian:
        content = bytes(inflated(content, _LONGEST_HEADER))
    order: Literal["<", ">"] = ">" if syntax == ExplicitVRBigEndian else "<"
    file = io.BytesIO(content)  # never gives more than there is, however long an element says it is
    file.seek(start)
    with PYDICOM, warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")  # they quote names, ids and dates that are not written as they must be
        header = read_dataset(file, syntax == _IMPLICIT, order == "<", stop_when=_is_pixels)
        at = file.tell()
        values = _raw(header)
        shared = _flat(header, "SharedFunctionalGroupsSequence")
        per_frame = _flat(header, "PerFrameFunctionalGroupsSequence")
    frames = tuple({**(shared[0] if shared else {}), **values} for values in per_frame) or ({},)
    tag = content[at : at + 4]
    has_pixels = tag == (b"\xe0\x7f\x10\x00" if order == "<" else b"\x7f\xe0\x00\x10")
    pixels = None
    if has_pixels and syntax in NATIVE:
        pixels = at + (12 if syntax != _IMPLICIT and content[at + 4 : at + 6] in _LONG_VRS else 8)
    return Elements(
        values=values,
        frames=frames,
        order=order,
        syntax=syntax,
        sop_class=_uid(meta.get(_CLASS, b"")),
        pixels=pixels,
        has_pixels=has_pixels,
        size=len(content),
    )


def _is_pixels(tag: Any, _vr: Any, _length: Any) -> bool:
    return bool(tag >= 0x7FE00000)


def _raw(dataset: Dataset) -> dict[str, bytes]:
    """The wanted elements of a data set that pydicom has not converted."""
    values = {}
    for tag, name in _NAMES.items():
        if tag in dataset:
            value = dataset.get_item(tag).value
            if isinstance(value, bytes):
                values[name] = value
            elif value is None:
                values[name] = b""
            else:  # converted on reading, as the character set is
                parts = value if isinstance(value, list | tuple | pydicom.multival.MultiValue) else [value]
                values[name] = "\\".join(map(str, parts)).encode("latin-1", "replace")
    return values


def _flat(header: Dataset, keyword: str) -> list[dict[str, bytes]]:
    return [_grouped(item) for item in header.get(keyword) or ()]


def _grouped(item: Dataset) -> dict[str, bytes]:
    """The wanted elements of one item of functional groups."""
    values: dict[str, bytes] = {}
    for keyword in _GROUPS:
        group = item.get(keyword)
        if group:
            values |= _raw(group[0])
    return values


def _uid(raw: bytes) -> str:
    return raw.rstrip(b"\0 ").decode("latin-1")
