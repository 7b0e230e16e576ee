"""Collects DICOM files into series with geometry and findings, before any pixel is read."""

import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Num

from hilum.errors import ReadError
from hilum.findings import Finding, Policy, refusals
from hilum.reading.dicom.frames import Frame, claimed_series, file_name, read_frames
from hilum.reading.dicom.grouping import Group, group_frames
from hilum.reading.dicom.values import number, trimmed_time
from hilum.reading.geometry import MIN_SLICES, Stack, stack
from hilum.reading.identity import hashed, is_placeholder
from hilum.settings.run import ReadingConfig
from hilum.volume import Tags

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_NOT_HU = frozenset(
    [
        "MIP", "MINIP", "MAXIP", "MAXIMUM", "MINIMUM", "PROJECTION", "PERFUSION", "RCBF", "RCBV", "MTT", "TTP",
        "FUSION", "VRT", "SSD", "IODINE", "VNC",
    ]
)  # fmt: skip
"""Words of ImageType: projections, renderings and maps."""

_PAGES = frozenset(["SCREEN SAVE", "PROT", "DOSE", "DOSE_INFO", "DOSE REPORT"])
"""Values of ImageType: the vendors' pages of text, with names on them."""

_LOCALIZER = frozenset(["LOCALIZER", "SCOUT", "TOPOGRAM", "TOP"])
_NAMED_LIKE_DICOM = {".dcm", ".dicom", ".ima"}


Opened: TypeAlias = bytes | bytearray | Num[np.ndarray, "n y x"]
"""A whole file: inflated bytes, or frames as GDCM decoded them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Frames of one DICOM series that could be one volume: their geometry is judged, their pixels are still on disk.

    Attributes:
        uid: SeriesInstanceUID; only its hash is passed out of ``reading``.
        part: Number of the volume among those with its UID, from 1; 0 where it is the only one.
        frames: The frames, in the order in which they were found.
        tags: Tags of the first file.
        stack: Order and affine of the slices.
        findings: Findings on the headers, before the pixels are read.
        reading: The settings.
        opened: Files with several frames that are held in memory until it is loaded: inflated, or as GDCM decoded them.
    """

    uid: str = field(repr=False)
    part: int
    frames: list[Frame] = field(repr=False)
    tags: Tags
    stack: Stack
    findings: tuple[Finding, ...]
    reading: ReadingConfig
    opened: dict[Path, Opened] = field(default_factory=dict, repr=False, compare=False)

    @property
    def name(self) -> str:
        """Its name in reports and flags: the hash of its UID, and its part where several volumes have that UID."""
        name = self.tags.series or "series-without-uid"
        return f"{name}.{self.part}" if self.part else name

    @property
    def uid_name(self) -> str:
        """The same with the UID itself; the part follows a character that no UID has."""
        uid = self.uid or self.tags.series or "series-without-uid"
        return f"{uid}#{self.part}" if self.part else uid

    @property
    def summary(self) -> str:
        """One line to choose a series by."""
        thickness = f", {self.tags.thickness_mm:g} mm" if self.tags.thickness_mm else ""
        kernel = f", kernel {self.tags.kernel}" if self.tags.kernel else ""
        return f"{self.name}: {self.tags.modality or 'no modality'}, {len(self.frames)} slices{thickness}{kernel}"


def find_series(
    files: Iterable[Path],
    reading: ReadingConfig | None = None,
    *,
    where: Callable[[Path], str] = file_name,
    incomplete: Collection[Path] = (),
) -> tuple[list[Series], list[Finding]]:
    """All volumes among the files, largest first, and the findings on files that could not be read.

    Files that are not DICOM are left out; those with a DICOM suffix give a finding.

    Args:
        files: The files, in any order.
        reading: The policy and the limits; None: the defaults.
        where: Returns the name of a file in a finding.
        incomplete: Folders below which files are known to be lost.
    """
    reading = reading or ReadingConfig()
    rules = reading.rules
    findings: list[Finding] = []
    frames: list[Frame] = []
    unread: set[Path] = set()
    damaged: dict[tuple[Path, str], list[Path]] = {}
    blank: list[Path] = []
    for path in files:
        try:
            found = read_frames(path, reading.max_bytes, where)
        except ReadError as exc:
            findings.append(rules.find("unreadable-file", str(exc), where(path)))
            uid = claimed_series(path)
            if uid is not None:
                damaged.setdefault((path.parent, uid), []).append(path)
            continue
        if found is None and path.suffix.lower() in _NAMED_LIKE_DICOM:
            findings.append(rules.find("unreadable-file", "named like a DICOM file but is none", where(path)))
            unread.add(path.parent)
        elif found is None and _is_blank(path):
            blank.append(path)
        frames += found or ()
    folders = {f.path.parent for f in frames}
    for path in (p for p in blank if p.parent in folders):
        findings.append(rules.find("unreadable-file", "an empty file among DICOM files", where(path)))
        damaged.setdefault((path.parent, ""), []).append(path)
    volumes = group_frames(frames)
    series = [
        _series(group, part if len(groups) > 1 else 0, len(groups), reading)
        for groups in volumes
        for part, group in enumerate(groups, 1)
    ]
    no_volumes = [s for s in series if len(s.frames) < MIN_SLICES or (s.part and refusals(s.findings))]
    rests = {(f.path.parent, s.uid) for s in no_volumes for f in s.frames}
    lost = {f.path.parent for f in frames if not set(incomplete).isdisjoint(f.path.parents)} if incomplete else set()
    series = [_with_damage(_not_made_up(one, unread | lost, rests), damaged) for one in series]
    return sorted(series, key=lambda s: (-len(s.frames), s.uid, s.part)), findings


def _is_blank(path: Path) -> bool:
    """True for a file without extension that a full disk, or a damaged one, left empty or filled with zeros."""
    if path.suffix:
        return False
    try:
        with path.open("rb") as file:
            return not file.read(132).strip(b"\0")
    except OSError:
        return False


def _not_made_up(series: Series, folders: set[Path], rests: set[tuple[Path, str]]) -> Series:
    """Refuse to interpolate a gap beside files that are damaged or in no volume: they may be the missing slices.

    Args:
        series: A series, with or without gaps.
        folders: Folders with files that could not be read, or that are known to be lost.
        rests: Folders and SeriesInstanceUIDs of slices that are in no volume.
    """
    here = {f.path.parent for f in series.frames}
    beside = folders & here or rests & {(folder, uid) for folder in here for uid in (series.uid, "")}
    if not series.stack.made or not beside:
        return series
    findings = []
    for finding in series.findings:
        if finding.code == "missing-slices" and finding.severity == "repaired":
            message = f"{series.stack.gaps}; not interpolated: files lie beside it that are in no volume"
            finding = replace(finding, severity="refused", message=message)
        findings.append(finding)
    return replace(series, findings=tuple(findings))


def _with_damage(series: Series, damaged: dict[tuple[Path, str], list[Path]]) -> Series:
    """Note damaged DICOM files in the folder of a series: one may be its first or last slice, which leaves no gap.

    Files that still name another series are not counted.
    """
    here = {f.path.parent for f in series.frames}
    files = [file for folder in here for uid in (series.uid, "") for file in damaged.get((folder, uid), ())]
    if not files:
        return series
    message = f"damaged DICOM files lie beside it, which may be slices of it: {len(files)}"
    found = series.reading.rules.find("truncated-file", message, series.frames[0].where(files[0]))
    return replace(series, findings=(*series.findings, found))


def _series(group: Group, part: int, num_parts: int, reading: ReadingConfig) -> Series:
    rules = reading.rules
    frames, findings = _whole(group.frames, rules)
    judged = stack(frames, rules)
    findings += _kind_findings(frames, rules)
    if group.num_orientations > 1:
        message = f"its series has slices of {group.num_orientations} orientations; those of one are taken together"
        findings.append(rules.find("mixed-orientation", message))
    if num_parts > 1 and group.told_apart_by:
        message = f"its series is {num_parts} volumes, told apart by {' and '.join(group.told_apart_by)}"
        findings.append(rules.find("mixed-series", message))
    findings += judged.findings
    rows, columns = frames[0].header.shape
    num_bytes = 2 * rows * columns * max(len(judged.at), len(frames))
    if num_bytes > reading.max_bytes:
        message = f"{num_bytes / 1e9:.3g} GB of voxels, at most {reading.max_gb:g} GB are allowed (reading.max_gb)"
        findings.append(rules.find("too-large", message))
    return Series(
        uid=frames[0].text("SeriesInstanceUID"),
        part=part,
        frames=frames,
        tags=_tags(frames),
        stack=judged,
        findings=tuple(findings),
        reading=reading,
    )


def _whole(frames: list[Frame], rules: Policy) -> tuple[list[Frame], list[Finding]]:
    """Truncated files refuse their series; a lenient policy leaves them out, and they count as missing slices."""
    damaged = [frame for frame in frames if frame.missing_bytes]
    if not damaged:
        return frames, []
    files = {frame.path: frame.missing_bytes for frame in damaged}
    message = f"{damaged[0].missing_bytes} bytes of its pixels are missing"
    if len(files) > 1:
        message += f"; truncated files: {len(files)}"
    whole = [frame for frame in frames if not frame.missing_bytes]
    found = rules.find("truncated-file", message, damaged[0].name, repairable=bool(whole))
    if found.severity != "repaired":
        return frames, [found]
    return whole, [replace(found, message=f"{message}; left out")]


def _kind_findings(frames: list[Frame], rules: Policy) -> list[Finding]:
    """Findings on modality, kind of image, compression and rescale: slices must be CT, original, in HU."""
    where = frames[0].name
    headers = {id(f.header): f.header for f in frames}.values()
    words = {word for h in headers for value in h.image_type for word in (value, *re.split(r"[ _]", value))}
    pages = any(value in _PAGES or value.endswith(" PROT") for h in headers for value in h.image_type)
    findings = []
    modalities = {h.modality for h in headers} - {"CT"}
    if modalities:
        message = f"modality is {', '.join(sorted(modalities)) or 'not given'}, must be CT"
        findings.append(rules.find("wrong-modality", message, where))
    if any(h.sop_class.startswith(_SECONDARY_CAPTURE) or not h.is_grey for h in headers) or pages:
        findings.append(rules.find("secondary-capture", "a screen capture or a page of text, not a scan", where))
    elif any(f.text("BurnedInAnnotation").upper() == "YES" for f in frames):
        findings.append(rules.find("secondary-capture", "texts are burned into the picture", where))
    if words & _LOCALIZER:
        findings.append(rules.find("localizer", "a localizer (scout), not a scan", where))
    rescaled_to = {kind for h in headers for kind in h.rescale_type.split("\\")} - {"", "HU", "US"}
    not_hu = sorted(words & _NOT_HU)
    if not_hu:
        message = f"ImageType has {', '.join(not_hu)}: these are no HU of a scan"
        findings.append(rules.find("derived-image", message, where))
    elif rescaled_to:  # US is "unspecified", PS3.3 C.11.1.1.2
        message = f"RescaleType is {', '.join(sorted(rescaled_to))}, must be HU"
        findings.append(rules.find("derived-image", message, where))
    elif any("ModalityLUTSequence" in f.values for f in frames):
        message = "a Modality LUT gives the values, which is not read: a scan in HU has slope and intercept"
        findings.append(rules.find("derived-image", message, where))
    elif "DERIVED" in words:
        message = "ImageType is DERIVED: processed or anonymised after the scan"
        findings.append(rules.find("processed-image", message, where))
    lossy = next((f.name for f in frames if f.header.is_lossy), None)
    if lossy is not None:
        findings.append(rules.find("lossy-compression", "the pixels went through lossy compression", lossy))
    silent = [h.intercept is None for h in headers]
    if all(silent):
        message = "no RescaleIntercept: stored values are taken as HU"
        findings.append(rules.find("rescale-missing", message, where))
    elif any(silent):
        message = "some slices have a RescaleIntercept and others have none: their values cannot be told"
        findings.append(rules.find("rescale-missing", message, where, repairable=False))
    rescales = {(h.slope, h.intercept) for h in headers}
    if len(rescales) > 1:
        message = f"slices have {len(rescales)} rescales; each is rescaled by its own"
        findings.append(rules.find("mixed-rescale", message))
    return findings


def _tags(frames: list[Frame]) -> Tags:
    """Technical tags as they are, identifiers as keyed hashes."""
    first = frames[0]
    patient = first.text("PatientID")
    return Tags(
        modality=first.header.modality,
        kernel=first.header.kernel,
        thickness_mm=first.header.thickness_mm,
        manufacturer=first.shown("Manufacturer"),
        model=first.shown("ManufacturerModelName"),
        tube_voltage_kv=number(first.values.get("KVP", b"")),
        exposure_mas=number(first.values.get("Exposure", b"")),
        series=hashed("series", first.text("SeriesInstanceUID")),
        study=hashed("study", first.text("StudyInstanceUID")),
        accession=hashed("accession", first.text("AccessionNumber")),
        patient="" if is_placeholder(patient) else hashed("patient", patient),
        acquisition=hashed("acquisition", _acquisition(frames)),
    )


def _acquisition(frames: list[Frame]) -> str:
    """An identifier that the reconstructions of one acquisition share; empty where the tags do not suffice for one.

    A blank identifies nothing, and neither does a study or a frame of reference that differs from slice to slice.
    """

    def values(keyword: str) -> list[str]:
        different = {f.values.get(keyword, b""): f for f in frames}  # few are, however many slices
        return sorted({f.text(keyword) for f in different.values()} - {""})

    study, place = values("StudyInstanceUID"), values("FrameOfReferenceUID")
    numbers = values("FrameAcquisitionNumber") or values("AcquisitionNumber")
    began = min(filter(None, map(_began, {_moments(f): f for f in frames}.values())), default="")
    patient = values("PatientID")
    has_patient = len(patient) == 1 and not is_placeholder(patient[0])  # without, a number, often 1, is not enough
    if len(study) != 1 or len(place) != 1 or not (began or (numbers and has_patient)):
        return ""
    exposures = values("Exposure")  # with a modulated tube current they differ from slice to slice
    exposure = exposures if len(exposures) == 1 else []
    parts = [patient, study, place, numbers, [began], values("KVP"), exposure, values("ContrastBolusAgent")]
    return "|".join("\\".join(part) for part in parts)


_MOMENTS = ("FrameAcquisitionDateTime", "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime")


def _moments(frame: Frame) -> tuple[bytes, ...]:
    return tuple(frame.values.get(keyword, b"") for keyword in _MOMENTS)


def _began(frame: Frame) -> str:
    """When a frame's acquisition began, ``20240131093005.25``; without the date where only the time is given."""
    for keyword in _MOMENTS[:2]:
        moment = re.split("[+-]", frame.text(keyword))[0]
        if len(moment) > len("20240131"):  # a date alone tells no acquisition from another
            return trimmed_time(moment)
    time = frame.text("AcquisitionTime").replace(":", "")
    return trimmed_time(frame.text("AcquisitionDate").replace(".", "") + time) if time else ""
