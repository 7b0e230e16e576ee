"""Fast scan of DICOM headers: finds the elements that Hilum needs by walking over tags and lengths.

It takes a seventh to a tenth of the time of ``pydicom.dcmread(specific_tags=...)`` for the same elements: measured,
29 ms against 192 ms for the 275 slices of a scan that is read within 300 ms. Values stay bytes, which ``values`` and
``headers`` interpret, and pixels are not read. The walk only goes forward, so that no damaged length can make it loop.
"""

import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from pydicom.datadict import tag_for_keyword
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from hilum.errors import ReadError
from hilum.reading.dicom.values import DAMAGED

KEYWORDS = (
    "SpecificCharacterSet", "ImageType", "SOPClassUID", "AccessionNumber", "Modality", "Manufacturer",
    "BurnedInAnnotation", "ModalityLUTSequence",
    "ManufacturerModelName", "PatientID", "BodyPartExamined", "SliceThickness", "KVP", "Exposure", "ConvolutionKernel",
    "StudyInstanceUID", "SeriesInstanceUID", "AcquisitionNumber", "AcquisitionTime", "AcquisitionDateTime",
    "FrameAcquisitionDateTime", "ContentTime", "TemporalPositionIdentifier", "TemporalPositionIndex",
    "StackID", "FrameType", "FrameOfReferenceUID",
    "ImagePositionPatient", "ImageOrientationPatient", "SamplesPerPixel", "NumberOfFrames",
    "Rows", "Columns", "PixelSpacing", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleIntercept", "RescaleSlope", "RescaleType",
    "LossyImageCompression", "LossyImageCompressionRatio", "PhotometricInterpretation", "TriggerTime",
    "NominalPercentageOfCardiacPhase", "SeriesDescription", "SeriesNumber", "ReconstructionDiameter",
    "GridFrameOffsetVector", "AcquisitionDate", "ContrastBolusAgent",
    "FrameAcquisitionNumber",
)  # fmt: skip

_BINARY = frozenset(
    [
        "SamplesPerPixel", "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
        "PixelPaddingValue", "PixelPaddingRangeLimit", "TemporalPositionIndex", "NominalPercentageOfCardiacPhase",
        "FrameAcquisitionNumber", "ModalityLUTSequence",
    ]
)  # fmt: skip
"""Keywords whose values are not texts; the values of texts are stripped of padding (PS3.5 6.2)."""

_GROUPS = (
    "PixelMeasuresSequence", "PlanePositionSequence", "PlaneOrientationSequence", "PixelValueTransformationSequence",
    "FrameContentSequence", "CTReconstructionSequence", "CTImageFrameTypeSequence",
)  # fmt: skip
"""Functional groups of an enhanced CT that hold wanted elements (PS3.3 A.38)."""


def _tags(keywords: Collection[str]) -> dict[int, str]:
    return {int(tag_for_keyword(keyword) or 0): keyword for keyword in keywords}


_NAMES, _GROUP_NAMES = _tags(KEYWORDS), _tags(_GROUPS)
_META = _tags(["MediaStorageSOPClassUID", "TransferSyntaxUID"])
_PER_FRAME, _SHARED = 0x52009230, 0x52009229
_TOP = {**_NAMES, _PER_FRAME: "", _SHARED: ""}

NATIVE = frozenset(
    [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
"""Transfer syntaxes whose pixels are not compressed; deflate compresses the file as a whole."""

_SHORT_VRS = frozenset(
    [
        b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS",
        b"ST", b"TM", b"UI", b"UL", b"US",
    ]
)  # fmt: skip
_LONG_VRS = frozenset([b"OB", b"OW", b"OD", b"OF", b"OL", b"OV", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"])
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_UNDEFINED = 0xFFFFFFFF
_BEFORE_PIXELS, _ALL = 0x7FDF, 0xFFFD
_DEEPEST, _MOST_DESCENTS = 32, 100
"""Sequences within sequences; and elements out of order, as some programs write a few."""

_LONGEST_HEADER, _CHUNK = 1 << 24, 1 << 20
_FIRST_BYTES = 256
"""The first elements of group 8 (its length, character set, image type, dates, UIDs) are never longer."""

Values = Mapping[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Elements:
    """The wanted elements of one file as they are stored.

    Attributes:
        values: Bytes by keyword.
        frames: Elements of the functional groups of each frame of an enhanced file; one empty table for others.
        order: ``<`` or ``>``.
        syntax: Transfer syntax UID.
        sop_class: MediaStorageSOPClassUID.
        pixels: Byte at which native pixels begin, in the inflated file where it is deflated; None for compressed
            pixels and where there are none.
        pixel_bytes: Length that their element states; 0 in the same cases.
        has_pixels: Whether there is an element with pixels.
        header_bytes: Bytes before it.
        size: Bytes of the file; of a deflated one, those looked at.
    """

    values: Values
    frames: tuple[Values, ...]
    order: Literal["<", ">"]
    syntax: str
    sop_class: str
    pixels: int | None
    pixel_bytes: int
    has_pixels: bool
    header_bytes: int
    size: int


class _DamagedError(Exception):
    """The elements of a header contradict their lengths."""


def scan(head: bytes, size: int, whole: Callable[[], bytes]) -> Elements:
    """The wanted elements of a DICOM file.

    Args:
        head: The first bytes of the file; they should hold everything before the pixels.
        size: Bytes of the file.
        whole: Gives the file's bytes, if the head was not enough.

    Raises:
        ReadError: If the file is damaged.
    """
    try:
        try:
            return _elements(head, size)
        except (_DamagedError, struct.error):
            if len(head) >= size:
                raise
            return _elements(whole(), size)
    except (*DAMAGED, _DamagedError, MemoryError) as exc:
        msg = "a damaged DICOM file"
        raise ReadError(msg) from exc


def inflated(content: bytes, most: int) -> bytes | bytearray:
    """The first bytes of a deflated file (PS3.5 A.5), inflated no further than so many bytes."""
    start = _Walk(content, "<", explicit=True).over(_meta_start(content) or 0, len(content), _META, last_group=2)[1]
    out = bytearray(content[:start])
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    waiting = content[start:]
    while waiting and not inflater.eof and len(out) < most:
        out += inflater.decompress(waiting, min(most - len(out), _CHUNK))
        waiting = inflater.unconsumed_tail
    return out


def _elements(content: bytes, size: int) -> Elements:
    start = _meta_start(content)
    at, meta = start or 0, {}
    if start is not None:
        walk = _Walk(content, "<", explicit=True)
        places, at = walk.over(start, len(content), _META, last_group=2)
        meta = {_META[tag]: content[a:b].rstrip(b"\0 ").decode("latin-1") for tag, (a, b, _) in places.items()}
        syntax = meta.get("TransferSyntaxUID", "") or str(ImplicitVRLittleEndian)
    else:
        is_explicit = content[4:6] in _SHORT_VRS
        syntax = str(ExplicitVRLittleEndian if is_explicit else ImplicitVRLittleEndian)
    is_deflated = syntax == DeflatedExplicitVRLittleEndian
    if is_deflated:
        content = bytes(inflated(content, _LONGEST_HEADER))
        size = len(content)
    order: Literal["<", ">"] = ">" if syntax == ExplicitVRBigEndian else "<"
    is_explicit = content[at + 4 : at + 6].isalpha()  # some files say one thing and are the other
    walk = _Walk(content, order, explicit=is_explicit)
    places, at = walk.over(at, len(content), _TOP, last_group=_BEFORE_PIXELS)
    has_pixels, pixels, pixel_bytes = walk.pixels(at)
    if not has_pixels and len(content) < size:
        raise _DamagedError  # so far: the head ends before the pixels
    shared = [inner.groups(item) for inner, item in walk.items(places.pop(_SHARED, _NOWHERE))]
    per_frame = [inner.groups(item) for inner, item in walk.items(places.pop(_PER_FRAME, _NOWHERE))]
    return Elements(
        values=walk.values(places),
        frames=tuple({**(shared[0] if shared else {}), **own} for own in per_frame) or ({},),
        order=order,
        syntax=syntax,
        sop_class=meta.get("MediaStorageSOPClassUID", ""),
        pixels=pixels if syntax in NATIVE else None,
        pixel_bytes=pixel_bytes if syntax in NATIVE else 0,
        has_pixels=has_pixels,
        header_bytes=at,
        size=size,
    )


def named(keyword: str) -> str:
    """An element by its keyword and its tag: PixelSpacing (0028,0030)."""
    tag = int(tag_for_keyword(keyword) or 0)
    return f"{keyword} ({tag >> 16:04X},{tag & 0xFFFF:04X})"


def begins_bare(head: bytes) -> bool:
    """True where a file begins with an element of group 2 or 8, without a preamble, as old files do.

    A VR must follow the tag, or a length behind which the next element begins: other files may begin so, too.
    """
    if head[:2] not in (b"\x02\0", b"\x08\0") or len(head) < 132:
        return False
    if head[4:6] in _SHORT_VRS | _LONG_VRS:
        return True
    element, length = int.from_bytes(head[2:4], "little"), int.from_bytes(head[4:8], "little")
    next_tag = [int.from_bytes(head[8 + length + k : 10 + length + k], "little") for k in (0, 2)]
    return head[0] == 8 and length <= _FIRST_BYTES and (8, element) < tuple(next_tag) < (0x18, 0)


def _meta_start(content: bytes) -> int | None:
    """Where the file meta information (group 2) begins; None in a file that has none."""
    return 132 if content[128:132] == b"DICM" else 0 if content[:2] == b"\x02\0" else None


_Place = tuple[int, int, bytes]
"""First byte of a value, the byte after it, and its VR; no VR where the file gives none."""

_NOWHERE: _Place = (0, 0, b"")


class _Walk:
    """Walks over the elements of one encoding (PS3.5 7)."""

    def __init__(self, content: bytes, order: str, *, explicit: bool) -> None:
        self.content, self.explicit = content, explicit
        self.with_vr = struct.Struct(f"{order}HH2sH").unpack_from
        self.without = struct.Struct(f"{order}HHI").unpack_from
        self.length = struct.Struct(f"{order}I").unpack_from

    def over(
        self, at: int, end: int, wanted: Collection[int], *, last_group: int = _ALL
    ) -> tuple[dict[int, _Place], int]:
        """Positions of the wanted elements from byte ``at`` on, and the byte of the first beyond ``last_group``."""
        content, found, previous, descents, vr = self.content, {}, -1, 0, b""
        while at + 8 <= end:
            if self.explicit:
                group, element, vr, length = self.with_vr(content, at)
                if group > last_group:
                    break
                start = at + 8
                if vr in _LONG_VRS:
                    (length,) = self.length(content, start)
                    start += 4
            else:
                group, element, length = self.without(content, at)
                if group > last_group:
                    break
                start = at + 8
            tag = group << 16 | element
            if tag <= previous:
                descents += 1
                if descents > _MOST_DESCENTS:
                    raise _DamagedError
            previous = tag
            if length != _UNDEFINED:
                at = start + length
            else:
                explicit = self.explicit and (vr != b"UN" or self._is_explicit_item(start))
                at = self.sequence_end(start, 0, explicit=explicit)
            if at > end:
                raise _DamagedError
            if tag in wanted:
                found[tag] = (start, at, vr)
        return found, at

    def values(self, places: Mapping[int, _Place]) -> dict[str, bytes]:
        """The bytes of elements by keyword, of texts without the padding, which is no part of the value (PS3.5 6.2)."""
        found = {_NAMES[tag]: self.content[start:stop] for tag, (start, stop, _) in places.items()}
        return {name: raw if name in _BINARY else raw.strip(b"\0 ") for name, raw in found.items()}

    def pixels(self, at: int) -> tuple[bool, int | None, int]:
        """Whether PixelData follows at byte ``at``, the first byte of its values, and their length.

        The byte is None and the length 0 where the values are fragments.
        """
        while at + 8 <= len(self.content):
            group, element, length = self.without(self.content, at)
            if group != 0x7FE0 or element > 0x0010:
                break
            start = at + 8
            if self.explicit and self.content[at + 4 : at + 6] in _LONG_VRS:
                start, (length,) = at + 12, self.length(self.content, at + 8)
            elif self.explicit:
                length = self.with_vr(self.content, at)[3]
            if element == 0x0010:
                return (True, None, 0) if length == _UNDEFINED else (True, start, length)
            at = start + length  # the group's length, or a table of offsets
        return False, None, 0

    def groups(self, item: _Place) -> dict[str, bytes]:
        """The wanted elements of the functional groups in an item."""
        values: dict[str, bytes] = {}
        for place in self.over(*item[:2], _GROUP_NAMES)[0].values():
            for inner, group in islice(self.items(place), 1):
                values |= inner.values(inner.over(*group[:2], _NAMES)[0])
        return values

    def items(self, sequence: _Place) -> Iterator[tuple["_Walk", _Place]]:
        """Iterate over the items of a sequence: a walk over the elements of each, and their positions."""
        at, end, vr = sequence
        inner = self._within(at, vr)
        while at + 8 <= end:
            group, element, length = inner.without(self.content, at)
            if group << 16 | element == _SEQUENCE_END:
                return
            if group << 16 | element != _ITEM:
                raise _DamagedError
            start = at + 8
            at = start + length if length != _UNDEFINED else inner.item_end(start, 0, explicit=inner.explicit)
            if at > end:
                raise _DamagedError
            yield inner, (start, at, b"")

    def _within(self, at: int, vr: bytes) -> "_Walk":
        """The walk over a sequence whose first item begins at byte ``at``.

        A program that does not know a sequence writes it as UN, with implicit elements in little endian whatever the
        file does (PS3.5 6.2.2); some leave the elements explicit as they were.
        """
        if vr != b"UN":
            return self
        return _Walk(self.content, "<", explicit=self._is_explicit_item(at))

    def _is_explicit_item(self, at: int) -> bool:
        """Whether the first element of the item at byte ``at`` has a VR."""
        return self.content[at + 12 : at + 14] in _SHORT_VRS | _LONG_VRS

    def sequence_end(self, at: int, depth: int, *, explicit: bool) -> int:
        """The byte after a sequence of undefined length whose items begin at byte ``at``.

        What is unknown (UN) and of undefined length mostly holds implicit elements: see ``_within``.
        """
        if depth > _DEEPEST:
            raise _DamagedError
        while True:
            group, element, length = self.without(self.content, at)
            tag = group << 16 | element
            at += 8
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                raise _DamagedError
            at = self.item_end(at, depth, explicit=explicit) if length == _UNDEFINED else at + length

    def item_end(self, at: int, depth: int, *, explicit: bool) -> int:
        """The byte after an item of undefined length whose elements begin at byte ``at``."""
        previous = descents = 0
        while True:
            group, element, length = self.without(self.content, at)
            tag = group << 16 | element
            if tag == _ITEM_END:
                return at + 8
            descents += tag <= previous
            if descents > _MOST_DESCENTS:
                raise _DamagedError
            previous = tag
            start, inner = at + 8, explicit
            if explicit:
                _, _, vr, length = self.with_vr(self.content, at)
                inner = vr != b"UN" or self._is_explicit_item(start + 4)
                if vr in _LONG_VRS:
                    (length,) = self.length(self.content, start)
                    start += 4
            at = start + length if length != _UNDEFINED else self.sequence_end(start, depth + 1, explicit=inner)
