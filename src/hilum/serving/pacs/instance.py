"""What the service needs to know of an instance of a study: its UIDs, and what rules ask for."""

import re
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.errors import InvalidDicomError
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage

from hilum.errors import ReadError
from hilum.serving.dicom_out.identity import MANUFACTURER

SOURCE_CLASSES = frozenset(map(str, (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)))
_TAGS = [
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality", "Manufacturer",
    "BodyPartExamined", "StudyDescription", "SeriesDescription", "PatientAge", "PatientBirthDate", "StudyDate",
    "SeriesDate", "AcquisitionDate",
]  # fmt: skip
_YEARS = {"Y": 1.0, "M": 1 / 12, "W": 7 / 365.25, "D": 1 / 365.25}


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceHeader:
    """Elements of an instance; its UIDs are not shown by ``repr``.

    Attributes:
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        instance: SOPInstanceUID.
        sop_class: SOPClassUID.
        modality: Modality; CT where an image of CT has none.
        manufacturer: Manufacturer.
        body_part: BodyPartExamined.
        descriptions: StudyDescription and SeriesDescription.
        age: Age in years when the study was made; None if it is unknown.
    """

    study: str = field(repr=False)
    series: str = field(repr=False)
    instance: str = field(repr=False)
    sop_class: str
    modality: str
    manufacturer: str
    body_part: str
    descriptions: tuple[str, str] = field(repr=False)
    age: float | None = field(repr=False)

    @property
    def is_source(self) -> bool:
        """Whether it is an image of CT that Hilum did not make itself."""
        return self.sop_class in SOURCE_CLASSES and self.modality == "CT" and self.manufacturer != MANUFACTURER


def read_instance(file: Path) -> InstanceHeader:
    """Read the header of a file.

    Raises:
        ReadError: If it is no DICOM file, or has no UIDs.
    """
    try:
        found = pydicom.dcmread(file, stop_before_pixels=True, specific_tags=_TAGS)
        header = _header(found)
    except (OSError, InvalidDicomError, ValueError, TypeError, AttributeError, NotImplementedError, KeyError) as exc:
        msg = "its header cannot be read"
        raise ReadError(msg) from exc
    if not all(is_uid(one) for one in (header.study, header.series, header.instance)):
        msg = "it has no UIDs"
        raise ReadError(msg)
    return header


def is_uid(text: str) -> bool:
    """Whether a text is a UID (PS3.5, 9.1); leading zeros of its numbers are common, and are let through."""
    return len(text) <= 64 and re.fullmatch(r"[0-9]+(\.[0-9]+)*", text) is not None


def _header(found: Dataset) -> InstanceHeader:
    def text(keyword: str) -> str:
        value = found.get(keyword)
        return "" if value is None else str(value).strip()

    return InstanceHeader(
        study=text("StudyInstanceUID"),
        series=text("SeriesInstanceUID"),
        instance=text("SOPInstanceUID"),
        sop_class=text("SOPClassUID"),
        modality=text("Modality").upper() or ("CT" if text("SOPClassUID") in SOURCE_CLASSES else ""),
        manufacturer=text("Manufacturer"),
        body_part=text("BodyPartExamined"),
        descriptions=(text("StudyDescription"), text("SeriesDescription")),
        age=age_of(
            text("PatientAge"),
            text("PatientBirthDate"),
            text("StudyDate") or text("SeriesDate") or text("AcquisitionDate"),
        ),
    )


def age_of(age: str, birth: str, day: str) -> float | None:
    """Age in years from PatientAge, such as 070Y, else from the birth date and the date of the study.

    Example:
        >>> age_of("018M", "", ""), age_of("", "19500102", "20200104"), age_of("", "19500102", "")
        (1.5, 70.0, None)
    """
    match = re.fullmatch(r"(\d{1,3})([YMWD])", age.upper())
    if match:
        return int(match[1]) * _YEARS[match[2]]
    born, then = _date(birth), _date(day)
    if born is None or then is None or then < born:
        return None
    return float(then.year - born.year - ((then.month, then.day) < (born.month, born.day)))


def _date(text: str) -> date | None:
    try:
        return date(int(text[:4]), int(text[4:6]), int(text[6:8])) if re.fullmatch(r"\d{8}", text) else None
    except ValueError:
        return None
