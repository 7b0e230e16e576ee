"""DICOM files to series whose geometry is judged, with all that is wrong with them, before any pixel is read."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hilum.config import ReadingConfig
from hilum.errors import ReadError
from hilum.findings import Finding, Policy
from hilum.reading.geometry import Stack, stack
from hilum.reading.grouping import Group, group_frames
from hilum.reading.headers import Frame, number, read_frames
from hilum.reading.identity import hashed, is_placeholder
from hilum.volume import Tags

_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_NOT_HU = {
    "MIP",
    "MINIP",
    "MAXIP",
    "PROJECTION IMAGE",
    "PERFUSION",
    "RCBF",
    "RCBV",
    "MTT",
    "TTP",
    "FUSION",
    "SCREEN SAVE",
}
_NAMED_LIKE_DICOM = {".dcm", ".dicom", ".ima"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What could be one volume: frames of one DICOM series, their geometry judged, their pixels still on disk.

    Attributes:
        uid: SeriesInstanceUID; never leaves this room unhashed.
        part: Which volume of its series, from 1; 0 where the series is one volume.
        frames: In the order in which they were found.
        tags: What the first file says.
        stack: Order and affine of the slices.
        findings: All that was noticed before the pixels were read.
        reading: The settings under which they were.
    """

    uid: str
    part: int
    frames: list[Frame]
    tags: Tags
    stack: Stack
    findings: tuple[Finding, ...]
    reading: ReadingConfig

    @property
    def name(self) -> str:
        """What to pick it by: the hash of its UID, and its part where the series is several volumes."""
        return f"{self.tags.series}.{self.part}" if self.part else self.tags.series

    @property
    def summary(self) -> str:
        """One line to choose a series by."""
        thickness = f", {self.tags.thickness_mm:g} mm" if self.tags.thickness_mm else ""
        kernel = f", kernel {self.tags.kernel}" if self.tags.kernel else ""
        return f"{self.name}: {self.tags.modality or 'no modality'}, {len(self.frames)} slices{thickness}{kernel}"


def _file_name(path: Path) -> str:
    return path.name


def find_series(
    files: Iterable[Path], reading: ReadingConfig | None = None, *, where: Callable[[Path], str] = _file_name
) -> tuple[list[Series], list[Finding]]:
    """All volumes among the files, largest first, and the findings on files that could not be read.

    Files that are not DICOM are passed over, unless they are named as if they were.

    Args:
        files: In any order.
        reading: The policy and the limits; None: the defaults.
        where: How a file is called in a finding.
    """
    reading = reading or ReadingConfig()
    rules = reading.rules
    findings: list[Finding] = []
    frames: list[Frame] = []
    for path in files:
        try:
            found = read_frames(path, reading.max_bytes)
        except ReadError as exc:
            findings.append(rules.find("unreadable-file", str(exc), where(path)))
            continue
        if found is None and path.suffix.lower() in _NAMED_LIKE_DICOM:
            findings.append(rules.find("unreadable-file", "named like a DICOM file but is none", where(path)))
        frames += found or ()
    groups = group_frames(frames)
    parts: dict[str, list[Group]] = {}
    for group in groups:
        parts.setdefault(group.frames[0].text("SeriesInstanceUID"), []).append(group)
    series = [
        _series(uid, number_ if len(members) > 1 else 0, group, len(members), reading)
        for uid, members in parts.items()
        for number_, group in enumerate(members, 1)
    ]
    return sorted(series, key=lambda s: (-len(s.frames), s.uid, s.part)), findings


def _series(uid: str, part: int, group: Group, num_parts: int, reading: ReadingConfig) -> Series:
    rules = reading.rules
    frames, findings = _whole(group.frames, rules)
    judged = stack(frames, rules)
    findings += _kind(frames, rules)
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
        uid=uid,
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
    return (whole if found.severity == "repaired" else frames), [found]


def _kind(frames: list[Frame], rules: Policy) -> list[Finding]:
    """Whether the slices are what they must be: CT, original, in HU."""
    first, where = frames[0].header, frames[0].name
    headers = {id(f.header): f.header for f in frames}.values()
    findings = []
    if first.modality != "CT":
        message = f"modality is {first.modality or 'not given'}, must be CT"
        findings.append(rules.find("wrong-modality", message, where))
    if first.sop_class == _SECONDARY_CAPTURE or first.samples != 1:
        findings.append(rules.find("secondary-capture", "a screen capture, not a scan", where))
    if "LOCALIZER" in first.image_type:
        findings.append(rules.find("localizer", "a localizer (scout), not a scan", where))
    rescaled_to = {kind for h in headers for kind in h.rescale_type.split("\\")} - {"", "HU", "US"}
    not_hu = sorted(_NOT_HU.intersection(first.image_type))
    if not_hu:
        message = f"ImageType has {', '.join(not_hu)}: these are no HU of a scan"
        findings.append(rules.find("derived-image", message, where))
    elif rescaled_to:  # US is "unspecified", PS3.3 C.11.1.1.2
        message = f"RescaleType is {', '.join(sorted(rescaled_to))}, must be HU"
        findings.append(rules.find("derived-image", message, where))
    elif "DERIVED" in first.image_type:
        message = "ImageType is DERIVED: processed or anonymised after the scan"
        findings.append(rules.find("processed-image", message, where))
    lossy = next((f.name for f in frames if f.header.is_lossy), None)
    if lossy is not None:
        findings.append(rules.find("lossy-compression", "the pixels went through lossy compression", lossy))
    if any(h.intercept is None for h in headers):
        message = "no RescaleIntercept: stored values are taken as HU"
        findings.append(rules.find("rescale-missing", message, where))
    rescales = {(h.slope, h.intercept) for h in headers}
    if len(rescales) > 1:
        message = f"slices have {len(rescales)} rescales; each is rescaled by its own"
        findings.append(rules.find("mixed-rescale", message))
    return findings


def _tags(frames: list[Frame]) -> Tags:
    """Technical tags as they are, identifiers as keyed hashes."""
    first = frames[0]
    patient = first.text("PatientID")
    times = min(f.values.get("AcquisitionDateTime") or f.values.get("AcquisitionTime") or b"" for f in frames)
    source = [first.text(k) for k in ("StudyInstanceUID", "FrameOfReferenceUID", "AcquisitionNumber")]
    acquisition = "|".join([*source, times.decode("latin-1").strip("\0 ")])
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
        acquisition=hashed("acquisition", acquisition),
    )
