"""The header of a DICOM slice: its kind of image, its grid and how its pixels are stored."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np
from jaxtyping import Float

from hilum.errors import ReadError
from hilum.reading.dicom.header_scan import named
from hilum.reading.dicom.values import DAMAGED, directions, first, integer, number, numbers, shown, texts

KIND = (
    "SpecificCharacterSet", "SOPClassUID", "Modality", "ImageType", "FrameType", "ConvolutionKernel", "SliceThickness",
    "BodyPartExamined", "ImageOrientationPatient", "PixelSpacing", "SamplesPerPixel", "Rows", "Columns",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "RescaleIntercept", "RescaleSlope", "RescaleType", "LossyImageCompression", "LossyImageCompressionRatio",
    "PhotometricInterpretation",
)  # fmt: skip
"""Elements that the slices of a series usually share."""

_LARGEST_RESCALE = 1e6
_PIXEL_MM = (1e-3, 1e3)
"""Plausible edge of a scanner's pixel in mm; beyond it a header is damaged."""

_MUST = {
    "PixelSpacing": r"two decimal numbers, as in 0.7\0.7",
    "ImagePositionPatient": r"three decimal numbers, as in 0.5\0.5\0.5",
    "ImageOrientationPatient": r"six decimal numbers, as in 1\0\0\0\1\0",
}

_MOST_VALUES = 16
_CODE = re.compile(r"[A-Z0-9_ ./-]{0,24}")
"""A code string (PS3.5 6.2), with what vendors add to it; anything else is no code and may be a name."""

_SHORT = re.compile(r"[A-Z_]{0,8}")
"""A modality or a type of rescale."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FileHeader:
    """The header of a slice: kind of image, grid and storage of pixels; slices that agree share one.

    Attributes:
        modality: Modality.
        sop_class: SOPClassUID.
        image_type: ImageType, in capitals; the frame's own where it has one.
        kernel: ConvolutionKernel.
        thickness_mm: SliceThickness; None where it is absent or no positive number.
        body_part: BodyPartExamined, in capitals.
        directions: Unit vectors (row, column) of the image in LPS, shape (2, 3); None where the file lacks them.
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
        assert self.directions is not None  # callers check the geometry first  # noqa: S101
        normal: np.ndarray = np.cross(self.directions[0], self.directions[1])
        return normal

    @property
    def word(self) -> np.dtype:
        """Type of a stored pixel, byte order included."""
        return np.dtype(f"{self.order}{'i' if self.is_signed else 'u'}{self.bits[0] // 8}")


T = TypeVar("T")


def value_of(keyword: str, read: Callable[[bytes], T], raw: bytes) -> T:
    """The value of an element.

    Raises:
        ReadError: If it is damaged. The text names the element, and quotes nothing: names may stand in it.
    """
    try:
        return read(raw)
    except DAMAGED as exc:
        msg = f"a damaged header: {named(keyword)} must be {_MUST.get(keyword, 'a number')}"
        raise ReadError(msg) from exc


@lru_cache(1024)
def header_of(kind: tuple[bytes | None, ...], order: str, *, syntax_loses: bool) -> FileHeader:
    """The header of stored elements, in the order of ``KIND``; remembered, since hundreds of slices share one.

    Raises:
        ReadError: If an element is damaged, or what says how pixels are stored is missing or contradicts itself.
    """
    stored = {keyword: value for keyword, value in zip(KIND, kind, strict=True) if value is not None}

    def words(keyword: str) -> tuple[str, ...]:
        found = texts(stored.get(keyword, b""), stored.get("SpecificCharacterSet", b""))
        return tuple(shown(word) for word in found[:_MOST_VALUES])

    def codes(keyword: str) -> tuple[str, ...]:
        return tuple(word if _CODE.fullmatch(word) else "?" for word in (w.upper() for w in words(keyword)))

    def whole(keyword: str) -> int:
        if keyword not in stored:
            msg = f"a damaged header: {named(keyword)} is missing"
            raise ReadError(msg)
        return value_of(keyword, partial(integer, order=order), stored[keyword])

    bits = _bits(whole("BitsAllocated"), whole("BitsStored"), whole("HighBit") if stored.get("HighBit") else None)
    shape = whole("Rows"), whole("Columns")
    if min(shape) < 1:
        msg = f"a damaged header: {shape[0]} rows and {shape[1]} columns"
        raise ReadError(msg)
    representation = whole("PixelRepresentation")
    if representation not in (0, 1):
        msg = "a damaged header: PixelRepresentation must be 0 or 1"
        raise ReadError(msg)
    num_samples = whole("SamplesPerPixel") if stored.get("SamplesPerPixel") else 1
    slope, intercept = (value_of(k, first, stored.get(k, b"")) for k in ("RescaleSlope", "RescaleIntercept"))
    slope = 1.0 if slope is None else slope
    if not 0 < abs(slope) <= _LARGEST_RESCALE or not abs(intercept or 0.0) <= _LARGEST_RESCALE:
        msg = f"a damaged header: RescaleSlope {slope:g}, RescaleIntercept {intercept or 0:g}"
        raise ReadError(msg)
    thickness = number(stored.get("SliceThickness", b""))
    pixel = value_of("PixelSpacing", partial(numbers, count=2), stored.get("PixelSpacing", b""))
    return FileHeader(
        modality="\\".join(word if _SHORT.fullmatch(word) else "?" for word in codes("Modality")),
        sop_class="".join(words("SOPClassUID")),
        image_type=codes("FrameType") or codes("ImageType"),
        kernel="\\".join(words("ConvolutionKernel")),
        thickness_mm=thickness if thickness and thickness > 0 else None,
        body_part="\\".join(codes("BodyPartExamined")),
        directions=value_of("ImageOrientationPatient", directions, stored.get("ImageOrientationPatient", b"")),
        pixel_mm=(pixel[0], pixel[1])
        if len(pixel) == 2 and min(pixel) > _PIXEL_MM[0] and max(pixel) < _PIXEL_MM[1]
        else None,
        shape=shape,
        num_samples=num_samples,
        is_grey=num_samples == 1
        and (codes("PhotometricInterpretation") or ("MONOCHROME2",))[0].startswith("MONOCHROME"),
        bits=bits,
        is_signed=representation == 1,
        order=order,
        padding=_padding(stored, order, signed=representation == 1),
        slope=slope,
        intercept=intercept,
        rescale_type="\\".join(word if _SHORT.fullmatch(word) else "?" for word in codes("RescaleType")),
        is_lossy=syntax_loses or "01" in words("LossyImageCompression") or _ratio(stored) > 1,
    )


def _bits(allocated: int, used: int, high: int | None) -> tuple[int, int, int]:
    """BitsAllocated, BitsStored and HighBit, which the highest bit in use replaces where it is absent."""
    high = used - 1 if high is None else high
    if allocated not in (8, 16, 32) or not 0 < used <= allocated or not used - 1 <= high < allocated:
        msg = f"a damaged header: {used} bits stored up to bit {high} of {allocated}"
        raise ReadError(msg)
    return allocated, used, high


def _ratio(stored: dict[str, bytes]) -> float:
    """LossyImageCompressionRatio; 1 where it is absent."""
    return number(stored.get("LossyImageCompressionRatio", b"")) or 1.0


def _padding(stored: dict[str, bytes], order: str, *, signed: bool) -> tuple[int, int] | None:
    """PixelPaddingValue and PixelPaddingRangeLimit as stored values, lowest first."""
    ends = [stored.get(keyword, b"") for keyword in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    values = [integer(end, order, signed=signed) for end in ends if len(end) >= 2]
    return (min(values), max(values)) if ends[0] and values else None
