"""Reads the header of a DICOM file, without its pixels, as one Frame for each slice it holds."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom.config import IGNORE
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSNearLossless,
)

from hilum.errors import ReadError
from hilum.reading.dicom.header_scan import NATIVE, Elements, Values, begins_bare, inflated, scan
from hilum.reading.dicom.headers import KIND, FileHeader, header_of, value_of
from hilum.reading.dicom.values import DAMAGED, number, numbers, position, shown, texts

_LOSSY = {JPEGBaseline8Bit, JPEGExtended12Bit, JPEGLSNearLossless}
"""Transfer syntaxes that are always lossy; for JPEG 2000 the header says whether it is."""

_HEAD = 1 << 14
"""Bytes read of each file at first: nearly every header is shorter."""

_ROOM, _ROOM_OF_FRAME = 4_000_000, 20_000
"""Bytes beside compressed pixels in their element, and more for each frame."""

_OTHERS = {".txt", ".csv", ".xlsx", ".json", ".xml", ".html", ".pdf", ".md", ".log"}
_MOST_FRAMES = 10_000


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """One slice of a DICOM file, its pixels still on disk.

    Attributes:
        path: The file.
        where: Returns the name of a file in a finding.
        index: Number of the frame in the file, from 0.
        header: Its interpreted header.
        values: Elements as they are stored, identifiers among them: never passed out of ``reading``.
        position_mm: Centre of the first pixel, LPS mm; None where the file lacks it.
        offset: Byte at which this frame's pixels begin; None where they are compressed.
        is_one_of_many: Whether the file has other frames.
        inflated_bytes: Bytes that must be inflated to reach the end of the pixels; 0 if the file is not deflated.
        missing_bytes: Bytes that the file's native pixels lack; 0 for a whole file.
        file_rescale: Slope and intercept of the file's first frame, by which GDCM rescales all of them.
    """

    path: Path = field(repr=False)
    where: Callable[[Path], str] = field(repr=False)
    index: int
    header: FileHeader
    values: Values = field(repr=False)
    position_mm: tuple[float, float, float] | None
    offset: int | None
    is_one_of_many: bool
    inflated_bytes: int
    missing_bytes: int
    file_rescale: tuple[float, float]

    @property
    def name(self) -> str:
        """Its name in a finding."""
        return self.where(self.path) if self.index == 0 else f"{self.where(self.path)} frame {self.index + 1}"

    def text(self, keyword: str) -> str:
        """A text element as one string, its values joined by backslashes; empty where it is absent."""
        return "\\".join(texts(self.values.get(keyword, b""), self.values.get("SpecificCharacterSet", b"")))

    def shown(self, keyword: str) -> str:
        """The same as ``text``, printable, for reports."""
        return shown(self.text(keyword))


def is_dicom(path: Path) -> bool:
    """True where a file begins as a DICOM file does."""
    try:
        with path.open("rb") as file:
            head = file.read(132)
    except OSError:
        return False
    return head[128:] == b"DICM" or begins_bare(head)


def file_name(path: Path) -> str:
    """The name of a file without its folder."""
    return path.name


def read_frames(path: Path, max_bytes: int, where: Callable[[Path], str] = file_name) -> list[Frame] | None:
    """The frames of one DICOM file.

    Args:
        path: Any file.
        max_bytes: Most bytes of it in memory.
        where: Returns the name of a file in a finding.

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
    is_bare = head[128:132] != b"DICM"
    if is_bare and not begins_bare(head):
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
    """The UID of the first element with this tag, with a length of four bytes or two; empty where there is none."""
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


def _is_no_image(sop_class: str, *, has_pixels: bool) -> bool:
    """True for an object that is no image: by its class, or of a vendor's own class and without pixels."""
    uid = UID(sop_class, IGNORE)  # a warning would quote what stands there
    is_known = uid.name != uid
    return ("Image" not in uid.name) if is_known else bool(sop_class) and not has_pixels


def _frames(
    path: Path, where: Callable[[Path], str], elements: Elements, whole: Callable[[], bytes], max_bytes: int
) -> list[Frame]:
    tables = _tables(elements)
    loses = elements.syntax in _LOSSY
    headers = [header_of(tuple(t.get(k) for k in KIND), elements.order, syntax_loses=loses) for t in tables]
    tables, positions = _placed(tables, headers, elements)
    headers *= len(tables) // len(headers)
    sizes = [h.shape[0] * h.shape[1] * h.num_samples * h.bits[0] // 8 for h in headers]
    is_native = elements.syntax in NATIVE
    packed = elements.size - elements.header_bytes
    most = _ROOM + len(tables) * (_ROOM_OF_FRAME + 2 * max(sizes))
    if not is_native and packed > most:  # GDCM takes seconds for each such file
        msg = f"a damaged DICOM file: {packed / 1e6:.1f} MB of compressed pixels for {sum(sizes) / 1e6:.1f} MB"
        raise ReadError(msg)
    start = elements.size if elements.pixels is None else elements.pixels
    needed = start + sum(sizes)
    is_deflated = elements.syntax == DeflatedExplicitVRLittleEndian
    if not elements.has_pixels or (is_native and elements.pixels is None):
        missing = sum(sizes)
    elif not is_native or (is_deflated and needed > max_bytes):  # the decoder checks it, or it is too large in any case
        missing = 0
    else:
        missing = max(0, needed - (len(inflated(whole(), needed)) if is_deflated else elements.size))
    frames = []
    for index, (values, header, place) in enumerate(zip(tables, headers, positions, strict=True)):
        frames.append(
            Frame(
                path=path,
                where=where,
                index=index,
                header=header,
                values=values,
                position_mm=place,
                offset=start if is_native else None,
                is_one_of_many=len(tables) > 1,
                inflated_bytes=needed if is_deflated else 0,  # and not one more: a small file can inflate without end
                missing_bytes=missing,
                file_rescale=(headers[0].slope, headers[0].intercept or 0.0),
            )
        )
        start += sizes[index]
    return frames


def _tables(elements: Elements) -> list[Values]:
    """The elements of each frame that the functional groups describe; of a file without them one table.

    Raises:
        ReadError: If there are more frames than are described, or fewer.
    """
    tables: list[Values] = [{**elements.values, **own} if own else elements.values for own in elements.frames]
    count = number(elements.values.get("NumberOfFrames", b""))
    if any(elements.frames) and count is not None and count != len(tables):
        msg = f"a damaged header: {count:g} frames, of which {len(tables)} are described"
        raise ReadError(msg)
    return tables


def _placed(
    tables: list[Values], headers: list[FileHeader], elements: Elements
) -> tuple[list[Values], list[tuple[float, float, float] | None]]:
    """The tables of all frames, and the position of each.

    Frames without functional groups share their header. They lie along its normal where the file says how far each is
    from the first (GridFrameOffsetVector, PS3.3 C.8.8.3.2; no standard fixes the sign of SliceLocation). Else only the
    first frame's position would be known, and none of them gets one.

    Raises:
        ReadError: If there are more frames than can be.
    """
    positions = [value_of("ImagePositionPatient", position, t.get("ImagePositionPatient", b"")) for t in tables]
    if any(elements.frames):
        return tables, positions
    (table,), (header,), (start,) = tables, headers, positions
    count = number(table.get("NumberOfFrames", b"")) or 1
    each = max(1, header.shape[0] * header.shape[1] * header.num_samples * header.bits[0] // 8)
    num_frames = max(int(count), elements.pixel_bytes // each, 1)
    if num_frames == 1:
        return tables, positions
    if num_frames > _MOST_FRAMES or (elements.pixel_bytes and num_frames * each > elements.size):
        msg = f"a damaged header: {num_frames} frames, more than the file can hold"
        raise ReadError(msg)
    offsets = value_of("GridFrameOffsetVector", numbers, table.get("GridFrameOffsetVector", b""))
    nowhere: list[tuple[float, float, float] | None] = [None] * num_frames
    if len(offsets) != num_frames or start is None or header.directions is None:
        return tables * num_frames, nowhere
    along = np.array(start) + (np.array(offsets) - offsets[0])[:, None] * header.normal
    return tables * num_frames, [(float(x), float(y), float(z)) for x, y, z in along]
