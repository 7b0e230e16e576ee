"""Reads what a DICOM file says about itself, without its pixels, as one Frame for each slice it holds."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydicom.config import IGNORE
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from hilum.errors import ReadError
from hilum.reading.elements import NATIVE, Elements, Values, inflated, scan
from hilum.reading.values import DAMAGED, directions, first, integer, number, numbers, position, shown, texts

_LOSSY = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless}
"""Transfer syntaxes that always lose; JPEG 2000 may or may not, there the header must say."""

_HEAD = 1 << 14
"""Bytes read of each file at first: nearly every header is shorter."""

_KIND = (
    "SpecificCharacterSet", "SOPClassUID", "Modality", "ImageType", "FrameType", "ConvolutionKernel", "SliceThickness",
    "BodyPartExamined", "ImageOrientationPatient", "PixelSpacing", "SamplesPerPixel", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "LossyImageCompression", "LossyImageCompressionRatio",
    "PhotometricInterpretation",
)  # fmt: skip
"""What the slices of a series usually share."""

_ROOM, _ROOM_OF_FRAME = 4_000_000, 20_000
"""Bytes beside compressed pixels in their element, and more for each frame."""

_OTHERS = {".txt", ".csv", ".xlsx", ".json", ".xml", ".html", ".pdf", ".md", ".log"}
_LARGEST_RESCALE = 1e6
_PIXEL_MM = (1e-3, 1e3)
"""What a pixel of a scanner can measure; beyond it a header is damaged."""

_MOST_VALUES = 16
_CODE = re.compile(r"[A-Z0-9_ ./-]{0,24}")
"""A code string (PS3.5 6.2), with what vendors add to it; anything else is no code and may be a name."""

_SHORT = re.compile(r"[A-Z_]{0,8}")
"""A modality or a type of rescale."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Header:
    """What a slice says about its kind, its grid and how its pixels are stored; slices that agree share one.

    Attributes:
        modality: Modality.
        sop_class: SOPClassUID.
        image_type: ImageType, in capitals; the frame's own where it has one.
        kernel: ConvolutionKernel.
        thickness_mm: SliceThickness; None where it is absent or no positive number.
        body_part: BodyPartExamined, in capitals.
        directions: Unit vectors (row, column) of the image in LPS, shape (2, 3); None where the file does not say.
        pixel_mm: Distance between rows and between columns, in mm; None likewise.
        shape: Rows and columns.
        num_samples: SamplesPerPixel.
        is_grey: Whether a pixel is one shade of grey, not a colour or an index of one.
        bits: BitsAllocated, BitsStored and HighBit.
        is_signed: PixelRepresentation.
        order: Byte order, ``<`` or ``>``.
        padding: Lowest and highest stored value that is padding; None where none is named.
        slope: RescaleSlope.
        intercept: RescaleIntercept; None where there is no rescale.
        rescale_type: RescaleType, in capitals.
        is_lossy: Whether the pixels went through lossy compression, by the header or the transfer syntax.
    """

    modality: str
    sop_class: str
    image_type: tuple[str, ...]
    kernel: str
    thickness_mm: float | None
    body_part: str
    directions: Float[np.ndarray, "2 3"] | None
    pixel_mm: tuple[float, float] | None
    shape: tuple[int, int]
    num_samples: int
    is_grey: bool
    bits: tuple[int, int, int]
    is_signed: bool
    order: str
    padding: tuple[int, int] | None
    slope: float
    intercept: float | None
    rescale_type: str
    is_lossy: bool

    @property
    def normal(self) -> Float[np.ndarray, "3"]:
        """Unit vector at right angles to the slice."""
        assert self.directions is not None  # only slices with geometry come here  # noqa: S101
        normal: np.ndarray = np.cross(self.directions[0], self.directions[1])
        return normal

    @property
    def word(self) -> np.dtype:
        """Type of a stored pixel, byte order included."""
        return np.dtype(f"{self.order}{'i' if self.is_signed else 'u'}{self.bits[0] // 8}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One slice of a DICOM file, its pixels still on disk.

    Attributes:
        path: The file.
        where: How a file is called in a finding.
        index: Which frame of the file, from 0.
        header: What it says about itself.
        values: Elements as they are stored, identifiers among them: they never leave this room.
        position_mm: Centre of the first pixel, LPS mm; None where the file does not say.
        offset: Byte at which this frame's pixels begin; None where they are compressed.
        is_one_of_many: Whether the file has other frames.
        inflated_bytes: Where that is counted in an inflated file, how much of it has to be; else 0.
        missing_bytes: How much of the file's native pixels is not there; 0 for a whole file.
        file_rescale: Slope and intercept of the file's first frame, by which GDCM rescales all of them.
    """

    path: Path = field(repr=False)
    where: Callable[[Path], str] = field(repr=False)
    index: int
    header: Header
    values: Values = field(repr=False)
    position_mm: tuple[float, float, float] | None
    offset: int | None
    is_one_of_many: bool
    inflated_bytes: int
    missing_bytes: int
    file_rescale: tuple[float, float]

    @property
    def name(self) -> str:
        """How it is called in a finding."""
        return self.where(self.path) if self.index == 0 else f"{self.where(self.path)} frame {self.index + 1}"

    def text(self, keyword: str) -> str:
        """A text element as one string, its values joined by backslashes; empty where it is absent."""
        return "\\".join(texts(self.values.get(keyword, b""), self.values.get("SpecificCharacterSet", b"")))

    def shown(self, keyword: str) -> str:
        """``text`` for reports."""
        return shown(self.text(keyword))


def is_dicom(path: Path) -> bool:
    """True where a file begins as a DICOM file does."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def file_name(path: Path) -> str:
    """The name alone, without its folder."""
    return path.name


def read_frames(path: Path, max_bytes: int, where: Callable[[Path], str] = file_name) -> list[Frame] | None:
    """The frames of one DICOM file.

    Args:
        path: Any file.
        max_bytes: How much of it may be held in memory.
        where: How a file is called in a finding.

    Returns:
        No frames for a report, a DICOMDIR or another object that is no image by its class; None for a file that is
        not DICOM.

    Raises:
        ReadError: If the file cannot be read or is damaged.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            head = os.read(descriptor, _HEAD)
            size = os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)
    except OSError as exc:
        msg = f"cannot be read: {exc.strerror or exc}"
        raise ReadError(msg) from exc
    is_bare = _is_bare(head)
    if head[128:132] != b"DICM" and not is_bare:
        return None
    whole = _whole(path, size, max_bytes)
    elements = scan(head, size, whole)
    if elements.values.get("Rows") and elements.values.get("Columns"):
        try:
            return _frames(path, where, elements, whole, max_bytes)
        except DAMAGED as exc:
            msg = "a damaged header"
            raise ReadError(msg) from exc
    if _is_no_image(elements.sop_class, has_pixels=elements.has_pixels):
        return []
    if is_bare:
        return None
    msg = "a damaged DICOM file: no rows and columns"
    raise ReadError(msg)


def claimed_series(path: Path) -> str | None:
    """The SeriesInstanceUID that a damaged file still names; empty where it does not say, None where it is no image."""
    try:
        with path.open("rb") as file:
            head = file.read(4 * _HEAD)
    except OSError:
        return None if path.suffix.lower() in _OTHERS else ""
    if _is_no_image(_after(b"\x02\0\x02\0UI", head), has_pixels=True):
        return None
    return _after(b"\x20\0\x0e\0UI", head) or _after(b"\x20\0\x0e\0", head, wide=True)


def _after(tag: bytes, head: bytes, *, wide: bool = False) -> str:
    """The UID of the first element that begins so, with a length of four bytes or two; empty where there is none."""
    at = head.find(tag)
    start = at + len(tag) + (4 if wide else 2)
    length = int.from_bytes(head[at + len(tag) : start], "little") if at >= 0 else 0
    uid = head[start : start + length].rstrip(b"\0 ").decode("latin-1") if 0 < length <= 64 else ""
    return uid if re.fullmatch(r"[0-9.]+", uid) else ""


def _whole(path: Path, size: int, max_bytes: int) -> Callable[[], bytes]:
    def content() -> bytes:
        if size > max_bytes:
            msg = f"must not take more than {max_bytes / 1e9:g} GB (reading.max_gb), takes {size / 1e9:.3g} GB"
            raise ReadError(msg)
        return path.read_bytes()

    return content


def _is_bare(head: bytes) -> bool:
    """True where a file begins with the first elements of group 8, without preamble, as old files do."""
    return head[:2] == b"\x08\x00" and head[2:4] in (b"\x00\x00", b"\x01\x00", b"\x05\x00", b"\x08\x00", b"\x16\x00")


def _is_no_image(sop_class: str, *, has_pixels: bool) -> bool:
    """True for an object that is no image: by its class, or of a vendor's own class and without pixels."""
    uid = UID(sop_class, IGNORE)  # a warning would quote what stands there
    is_known = uid.name != uid
    return ("Image" not in uid.name) if is_known else bool(sop_class) and not has_pixels


def _frames(
    path: Path, where: Callable[[Path], str], elements: Elements, whole: Callable[[], bytes], max_bytes: int
) -> list[Frame]:
    tables = [{**elements.values, **own} if own else elements.values for own in elements.frames]
    count = number(elements.values.get("NumberOfFrames", b""))
    if len(tables) > 1 and count is not None and count != len(tables):
        msg = f"a damaged header: {count:g} frames, of which {len(tables)} are described"
        raise ReadError(msg)
    loses = elements.syntax in _LOSSY
    headers = [_header(tuple(t.get(k) for k in _KIND), elements.order, syntax_loses=loses) for t in tables]
    sizes = [h.shape[0] * h.shape[1] * h.num_samples * h.bits[0] // 8 for h in headers]
    is_native = elements.syntax in NATIVE
    packed, frames_at_least = elements.size - elements.header_bytes, max(len(tables), int(count or 1))
    most = _ROOM + frames_at_least * (_ROOM_OF_FRAME + 2 * max(sizes))
    if not is_native and packed > most:  # GDCM takes seconds for each such file
        msg = f"a damaged DICOM file: {packed / 1e6:.1f} MB of compressed pixels for {sum(sizes) / 1e6:.1f} MB"
        raise ReadError(msg)
    start = elements.size if elements.pixels is None else elements.pixels
    needed = start + sum(sizes)
    is_deflated = elements.syntax == DeflatedExplicitVRLittleEndian
    if not elements.has_pixels or (is_native and elements.pixels is None):
        missing = sum(sizes)
    elif not is_native or (is_deflated and needed > max_bytes):  # its decoder says, or it is too large in any case
        missing = 0
    else:
        missing = max(0, needed - (len(inflated(whole(), needed)) if is_deflated else elements.size))
    frames = []
    for index, (values, header) in enumerate(zip(tables, headers, strict=True)):
        frames.append(
            Frame(
                path=path,
                where=where,
                index=index,
                header=header,
                values=values,
                position_mm=position(values.get("ImagePositionPatient", b"")),
                offset=start if is_native else None,
                is_one_of_many=len(tables) > 1,
                inflated_bytes=needed if is_deflated else 0,  # and not one more: a small file can inflate without end
                missing_bytes=missing,
                file_rescale=(headers[0].slope, headers[0].intercept or 0.0),
            )
        )
        start += sizes[index]
    return frames


@lru_cache(1024)
def _header(kind: tuple[bytes | None, ...], order: str, *, syntax_loses: bool) -> Header:
    """The header of stored elements, in the order of ``_KIND``; remembered, since hundreds of slices share one.

    Raises:
        ReadError: If what says how pixels are stored is missing or contradicts itself.
        ValueError, struct.error: If an element is damaged.
    """
    stored = {keyword: value for keyword, value in zip(_KIND, kind, strict=True) if value is not None}

    def words(keyword: str) -> tuple[str, ...]:
        found = texts(stored.get(keyword, b""), stored.get("SpecificCharacterSet", b""))
        return tuple(shown(word) for word in found[:_MOST_VALUES])

    def codes(keyword: str) -> tuple[str, ...]:
        return tuple(word if _CODE.fullmatch(word) else "?" for word in (w.upper() for w in words(keyword)))

    def whole(keyword: str) -> int:
        return integer(stored[keyword], order)

    allocated, used = whole("BitsAllocated"), whole("BitsStored")
    high = whole("HighBit") if stored.get("HighBit") else used - 1
    if allocated not in (8, 16, 32) or not 0 < used <= allocated or not used - 1 <= high < allocated:
        msg = f"a damaged header: {used} bits stored up to bit {high} of {allocated}"
        raise ReadError(msg)
    shape = whole("Rows"), whole("Columns")
    if min(shape) < 1:
        msg = f"a damaged header: {shape[0]} rows and {shape[1]} columns"
        raise ReadError(msg)
    representation = whole("PixelRepresentation")
    if representation not in (0, 1):
        msg = "a damaged header: PixelRepresentation must be 0 or 1"
        raise ReadError(msg)
    num_samples = whole("SamplesPerPixel") if stored.get("SamplesPerPixel") else 1
    slope, intercept = (first(stored.get(f"Rescale{n}", b"")) for n in ("Slope", "Intercept"))
    slope = 1.0 if slope is None else slope
    if not 0 < abs(slope) <= _LARGEST_RESCALE or not abs(intercept or 0.0) <= _LARGEST_RESCALE:
        msg = f"a damaged header: RescaleSlope {slope:g}, RescaleIntercept {intercept or 0:g}"
        raise ReadError(msg)
    thickness = number(stored.get("SliceThickness", b""))
    pixel = numbers(stored.get("PixelSpacing", b""))
    return Header(
        modality="\\".join(word if _SHORT.fullmatch(word) else "?" for word in codes("Modality")),
        sop_class="".join(words("SOPClassUID")),
        image_type=codes("FrameType") or codes("ImageType"),
        kernel="\\".join(words("ConvolutionKernel")),
        thickness_mm=thickness if thickness and thickness > 0 else None,
        body_part="\\".join(codes("BodyPartExamined")),
        directions=directions(stored.get("ImageOrientationPatient", b"")),
        pixel_mm=(pixel[0], pixel[1])
        if len(pixel) == 2 and min(pixel) > _PIXEL_MM[0] and max(pixel) < _PIXEL_MM[1]
        else None,
        shape=shape,
        num_samples=num_samples,
        is_grey=num_samples == 1
        and (codes("PhotometricInterpretation") or ("MONOCHROME2",))[0].startswith("MONOCHROME"),
        bits=(allocated, used, high),
        is_signed=representation == 1,
        order=order,
        padding=_padding(stored, order, signed=representation == 1),
        slope=slope,
        intercept=intercept,
        rescale_type="\\".join(word if _SHORT.fullmatch(word) else "?" for word in codes("RescaleType")),
        is_lossy=syntax_loses or "01" in words("LossyImageCompression") or _ratio(stored) > 1,
    )


def _ratio(stored: dict[str, bytes]) -> float:
    """LossyImageCompressionRatio; 1 where it is absent."""
    return number(stored.get("LossyImageCompressionRatio", b"")) or 1.0


def _padding(stored: dict[str, bytes], order: str, *, signed: bool) -> tuple[int, int] | None:
    """PixelPaddingValue and PixelPaddingRangeLimit as stored values, lowest first."""
    ends = [stored.get(keyword, b"") for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    values = [integer(end, order, signed=signed) for end in ends if len(end) >= 2]
    return (min(values), max(values)) if ends[0] and values else None
