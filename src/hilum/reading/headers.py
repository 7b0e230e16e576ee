"""Reads what a DICOM file says about itself, without its pixels, as one Frame for each slice it holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from jaxtyping import Float
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.multival import MultiValue
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from hilum.errors import ReadError

_TAGS = [
    "SOPClassUID", "Modality", "ImageType", "PatientID", "AccessionNumber", "StudyInstanceUID", "SeriesInstanceUID",
    "FrameOfReferenceUID", "AcquisitionNumber", "AcquisitionTime", "AcquisitionDateTime", "ImagePositionPatient",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "ConvolutionKernel", "Manufacturer",
    "ManufacturerModelName", "KVP", "Exposure", "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel",
    "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "PixelPaddingValue", "PixelPaddingRangeLimit", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "LossyImageCompression", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
]  # fmt: skip

_NATIVE = {ImplicitVRLittleEndian: "<", ExplicitVRLittleEndian: "<", ExplicitVRBigEndian: ">"}
_LOSSY = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless}
"""Transfer syntaxes that always lose; JPEG 2000 may or may not, there the header must say."""
DAMAGED = (
    AttributeError,
    ArithmeticError,
    BytesLengthException,
    LookupError,
    NotImplementedError,
    TypeError,
    ValueError,
)
"""What pydicom and NumPy raise on values that are not what the standard says. Their texts may quote the header."""

_RESCALE = ("Slope", "Intercept")
_LONG_VRS = {b"OB", b"OW", b"UN"}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One slice of a DICOM file, its pixels still on disk.

    Attributes:
        header: The file's data set, without pixels.
        series_uid: SeriesInstanceUID; never leaves this room unhashed.
        path: The file.
        index: Which frame of the file, from 0.
        offset: Byte at which the file's pixels begin; None where they are compressed.
        byte_order: ``<`` or ``>``.
        position_mm: Centre of the first pixel, LPS mm; None where the file does not say.
        directions: Unit vectors (row, column) of the image in LPS, shape (2, 3); None likewise.
        pixel_mm: Distance between rows and between columns, in mm.
        slope: RescaleSlope.
        intercept: RescaleIntercept; None where there is no rescale.
        file_rescale: Slope and intercept of the file's first frame, by which GDCM rescales all of them.
        missing_bytes: How much of the file's native pixels is not there; 0 for a whole file.
        is_lossy: Whether the pixels went through lossy compression, by the header or the transfer syntax.
    """

    header: Any
    series_uid: str
    path: Path
    index: int
    offset: int | None
    byte_order: str
    position_mm: Float[np.ndarray, "3"] | None
    directions: Float[np.ndarray, "2 3"] | None
    pixel_mm: tuple[float, float] | None
    slope: float
    intercept: float | None
    file_rescale: tuple[float, float]
    missing_bytes: int
    is_lossy: bool

    @property
    def normal(self) -> Float[np.ndarray, "3"]:
        """Unit vector at right angles to the slice."""
        assert self.directions is not None  # only frames with geometry come here  # noqa: S101
        normal: np.ndarray = np.cross(self.directions[0], self.directions[1])
        return normal

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return int(self.header.Rows), int(self.header.Columns)


def is_dicom(path: Path) -> bool:
    """True where a file begins as a DICOM file does."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def texts(header: Any, keyword: str) -> list[str]:
    """The values of a text attribute; none where it is absent or empty."""
    value = header.get(keyword)
    if value is None or value == "":
        return []
    return [str(v).strip() for v in value] if isinstance(value, MultiValue) else [str(value).strip()]


def number(header: Any, keyword: str) -> float | None:
    """The value of a numeric attribute; None where it is absent, empty or no number."""
    try:
        return float(header.get(keyword))
    except (TypeError, ValueError):
        return None


def read_frames(path: Path) -> list[Frame]:
    """The frames of one DICOM file; none of a report, a DICOMDIR or another object that is no image by its class.

    Raises:
        ReadError: If the file is not DICOM or damaged.
    """
    try:
        with path.open("rb") as file:
            header = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
            offset = file.tell()
            syntax = header.file_meta.get("TransferSyntaxUID", ImplicitVRLittleEndian)
            start = _pixel_start(file.read(12), offset, _NATIVE.get(syntax), implicit=syntax == ImplicitVRLittleEndian)
            size = file.seek(0, 2)
    except InvalidDicomError as exc:
        msg = f"{path.name} is not a DICOM file"
        raise ReadError(msg) from exc
    except OSError as exc:
        msg = f"{path.name} cannot be read: {exc.strerror or exc}"
        raise ReadError(msg) from exc
    except Exception as exc:
        msg = f"{path.name} is a damaged DICOM file"
        raise ReadError(msg) from exc
    if "Rows" not in header or "Columns" not in header:
        if _is_no_image(header.file_meta.get("MediaStorageSOPClassUID")):
            return []
        msg = f"{path.name} is a damaged DICOM file: no rows and columns"
        raise ReadError(msg)
    try:
        count = len(header.get("PerFrameFunctionalGroupsSequence") or [0])
        allocated = _pixel_bits(header, path)
        expected = count * int(header.Rows) * int(header.Columns) * (allocated // 8)
        native = size if start is None and syntax in _NATIVE else start
        missing = 0 if native is None else max(0, native + expected - size)
        lossy = syntax in _LOSSY or "01" in texts(header, "LossyImageCompression")
        frames = _frames(header, path, start, _NATIVE.get(syntax, "<"), missing, is_lossy=lossy)
    except DAMAGED as exc:
        msg = f"{path.name} has a damaged header"
        raise ReadError(msg) from exc
    return frames


def _is_no_image(sop_class: Any) -> bool:
    """True for a known kind of object that is no image."""
    uid = UID(str(sop_class or ""))
    return uid.name != uid and "Image" not in uid.name


def _pixel_bits(header: Any, path: Path) -> int:
    """BitsAllocated.

    Raises:
        ReadError: If the attributes that say how pixels are stored contradict each other.
    """
    allocated, stored, high = (int(header[name].value) for name in ("BitsAllocated", "BitsStored", "HighBit"))
    if allocated not in (8, 16, 32) or not 0 < stored <= allocated or not stored - 1 <= high < allocated:
        msg = f"{path.name} has a damaged header: {stored} bits stored up to bit {high} of {allocated}"
        raise ReadError(msg)
    if int(header["PixelRepresentation"].value) not in (0, 1):
        msg = f"{path.name} has a damaged header: PixelRepresentation must be 0 or 1"
        raise ReadError(msg)
    return allocated


def _pixel_start(head: bytes, offset: int, order: str | None, *, implicit: bool) -> int | None:
    """Where the values of Pixel Data begin, given the 12 bytes at its tag; None where they are not native."""
    if order is None or len(head) < 12 or head[:4] != (b"\xe0\x7f\x10\x00" if order == "<" else b"\x7f\xe0\x00\x10"):
        return None
    return offset + (12 if not implicit and head[4:6] in _LONG_VRS else 8)


def _frames(header: Any, path: Path, start: int | None, order: str, missing: int, *, is_lossy: bool) -> list[Frame]:
    shared = header.get("SharedFunctionalGroupsSequence")
    per_frame = header.get("PerFrameFunctionalGroupsSequence")
    groups = [[g, shared[0]] if shared else [g] for g in per_frame] if per_frame else [[]]
    uid = str(header.get("SeriesInstanceUID") or "")
    frames: list[Frame] = []
    for index, group in enumerate(groups):
        position = _value(header, group, "PlanePositionSequence", "ImagePositionPatient")
        orientation = _value(header, group, "PlaneOrientationSequence", "ImageOrientationPatient")
        pixel = _value(header, group, "PixelMeasuresSequence", "PixelSpacing")
        given = [_value(header, group, "PixelValueTransformationSequence", f"Rescale{n}") for n in _RESCALE]
        slope, intercept = (None if value in (None, "") else float(value) for value in given)
        slope = 1.0 if slope is None else slope
        frames.append(
            Frame(
                header=header,
                series_uid=uid,
                path=path,
                index=index,
                offset=start,
                byte_order=order,
                position_mm=_vector(position, 3),
                directions=_directions(orientation),
                pixel_mm=None if pixel in (None, "") else (float(pixel[0]), float(pixel[1])),
                slope=slope,
                intercept=intercept,
                file_rescale=(frames[0].slope, frames[0].intercept or 0.0) if frames else (slope, intercept or 0.0),
                missing_bytes=missing,
                is_lossy=is_lossy,
            )
        )
    return frames


def _value(header: Any, groups: list[Any], sequence: str, keyword: str) -> Any:
    """An attribute of a frame: from its functional groups in an enhanced file, else from the header."""
    for group in groups:
        items = group.get(sequence)
        if items and keyword in items[0]:
            return items[0].get(keyword)
    return header.get(keyword)


def _vector(values: Any, length: int) -> np.ndarray | None:
    if values in (None, "") or len(values) != length:
        return None
    vector = np.array([float(v) for v in values])
    return vector if np.isfinite(vector).all() else None


def _directions(values: Any) -> np.ndarray | None:
    """Row and column directions, orthogonal unit vectors; files round them, so they are made exact here."""
    vector = _vector(values, 6)
    if vector is None:
        return None
    row, column = vector[:3], vector[3:]
    if abs(np.linalg.norm(row) - 1) > 0.01 or abs(np.linalg.norm(column) - 1) > 0.01 or abs(row @ column) > 0.01:
        return None
    return np.stack([row / np.linalg.norm(row), column / np.linalg.norm(column)])
