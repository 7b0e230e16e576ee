"""The headers of a source as DICOM objects refer to them: checked, with blanks where the standard wants an element."""

import copy
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from hilum.errors import ReadError
from hilum.reading.source import ScanSource

_NEEDED = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_BLANK = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
"""Elements of type 2 of Patient and General Study: blank where they are unknown (PS3.3 C.7.1.1, C.7.2.1)."""


_REFERRING = ("ReferencedStudySequence", "ReferencedPatientSequence")
"""Sequences that objects copy, whose items must be whole."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class References:
    """What objects refer to.

    Attributes:
        files: A header for each file of the series, which objects copy the patient and the study from.
        of_slices: For each measured slice the number of its file and of its frame, from 0 and 1.
        blanked: Keywords of elements that are left blank, because the standard does not allow what stands in them.
        are_frames: Whether the files hold several frames.
        are_numbered: Whether a frame can be referred to by its number: not in files of a class for single slices.
        planes: Affine from (plane, row, column) of the scan's own grid, before it was turned, to LPS mm.
        thickness_mm: SliceThickness, or the distance of planes where it is unknown: frames must have one.
    """

    files: tuple[Dataset, ...]
    of_slices: tuple[tuple[int, int], ...]
    blanked: tuple[str, ...]
    are_frames: bool
    are_numbered: bool
    planes: Float[np.ndarray, "4 4"]
    thickness_mm: float

    def images(self) -> list[tuple[Dataset, list[int] | None]]:
        """Each file, with the numbers of its frames that are measured slices; None where they have none."""
        if not self.are_numbered:
            return [(file, None) for file in self.files]
        frames = [[frame for n, frame in self.of_slices if n == number] for number in range(len(self.files))]
        return list(zip(self.files, frames, strict=True))


def references_of(source: ScanSource, frame_of_reference: str) -> References:
    """The headers of a source, with what is blank filled in.

    A series whose slices each name another frame of reference, as anonymisers leave them, gets that of its first slice.

    Args:
        source: A scan with its headers.
        frame_of_reference: FrameOfReferenceUID of a series that has none.
    """
    first = source.headers[0].get("FrameOfReferenceUID") or frame_of_reference
    planes = _planes(source)
    thickness = source.volume.tags.thickness_mm or round(float(np.linalg.norm(planes[:3, 0])), 6)
    files = tuple(_header(one, first, thickness) for one in source.headers)
    return References(
        files=files,
        of_slices=tuple((one.file, one.frame) for one in source.slices),
        blanked=tuple(one for one in _BLANK if source.headers[0].get(one) and not files[0].get(one)),
        are_frames=any("NumberOfFrames" in file for file in files),
        are_numbered=any("PerFrameFunctionalGroupsSequence" in file for file in files),
        planes=planes,
        thickness_mm=thickness,
    )


def check_headers(source: ScanSource) -> None:
    """Check that objects can refer to a source, before anything is computed.

    Raises:
        ReadError: If a UID is missing, or two files have the same.
    """
    for header in source.headers:
        missing = [keyword for keyword in _NEEDED if not str(header.get(keyword) or "").strip()]
        if missing:
            msg = f"a DICOM source must have {', '.join(_NEEDED)} for objects to refer to it, it has no {missing[0]}"
            raise ReadError(msg)
    if len({str(header.SOPInstanceUID) for header in source.headers}) < len(source.headers):
        msg = "each file of a DICOM source must have its own SOPInstanceUID to be referred to, two share one"
        raise ReadError(msg)


def _header(original: Any, frame_of_reference: str, thickness_mm: float) -> Dataset:
    """A copy of a header with blanks in place of what is unknown or what the standard does not allow."""
    header = blank_header(copy.deepcopy(original))
    header.FrameOfReferenceUID = frame_of_reference
    header.SliceThickness = thickness_mm
    if not header.get("PositionReferenceIndicator"):
        header.PositionReferenceIndicator = ""
    return header


def blank_header(header: Dataset) -> Dataset:
    """Put blanks in place of elements of patient and study that are unknown or not allowed, and return the header."""
    for keyword in _BLANK:
        if keyword not in header or not _is_allowed(keyword, header[keyword].value):
            text = _without_colons(header, keyword)
            setattr(header, keyword, text)
    for keyword in _REFERRING:
        if any(not item.get("ReferencedSOPClassUID") for item in header.get(keyword) or ()):
            del header[keyword]  # anonymisers leave halves, which would make objects invalid
    return header


def _is_allowed(keyword: str, value: Any) -> bool:
    """Whether a value can stand in an object: a blank can; dates, times, sexes and names must be such."""
    text = str(value or "")
    if keyword.endswith("Date"):
        return re.fullmatch(r"(\d{8})?", text) is not None
    if keyword.endswith("Time"):
        return re.fullmatch(r"(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?", text) is not None
    if keyword == "PatientSex":
        return text in ("", "M", "F", "O")
    return not isinstance(value, MultiValue)


def _without_colons(header: Dataset, keyword: str) -> str:
    """A time of the form of ACR-NEMA, 10:11:12, as DICOM writes it; anything else that is not allowed becomes blank."""
    text = str(header[keyword].value or "").replace(":", "") if keyword in header and keyword.endswith("Time") else ""
    return text if _is_allowed(keyword, text) else ""


def _planes(source: ScanSource) -> Float[np.ndarray, "4 4"]:
    """The affine of a volume before it was turned: from (plane, row, column) to LPS mm."""
    turn, volume = source.turn, source.volume
    assert turn is not None  # only DICOM has headers  # noqa: S101
    affine = np.eye(4)
    first = [turn.shape[old] - 1 if flipped else 0 for old, flipped in zip(turn.order, turn.flipped, strict=True)]
    affine[:3, 3] = volume.index_to_mm(first)
    for new, (old, flipped) in enumerate(zip(turn.order, turn.flipped, strict=True)):
        affine[:3, old] = volume.affine[:3, new] * (-1 if flipped else 1)
    return affine
