"""DICOM files to series, and a series to a Volume."""

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import numpy as np
import pydicom
from jaxtyping import Num

from hilum.errors import GeometryError, ReadError
from hilum.files import cores
from hilum.findings import Finding, find, refusals
from hilum.reading.geometry import Stack, stack
from hilum.reading.headers import DAMAGED, Frame, is_dicom, number, read_frames, texts
from hilum.reading.identity import hashed, is_placeholder
from hilum.reading.intensities import frame_hu, intensity_findings, limited, unpacked
from hilum.volume import Tags, Volume, reorient

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
_HEADERS = Lock()
"""Warnings and pydicom's settings belong to the process: one thread at a time may change them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The frames of one DICOM series, with its geometry judged and its pixels still on disk.

    Attributes:
        uid: SeriesInstanceUID; never leaves this room unhashed.
        frames: In the order in which they were found.
        tags: What the first file says.
        stack: Order and affine of the slices.
        findings: All that was noticed before the pixels were read.
    """

    uid: str
    frames: list[Frame]
    tags: Tags
    stack: Stack
    findings: tuple[Finding, ...]

    @property
    def summary(self) -> str:
        """One line to choose a series by."""
        thickness = f", {self.tags.thickness_mm:g} mm" if self.tags.thickness_mm else ""
        kernel = f", kernel {self.tags.kernel}" if self.tags.kernel else ""
        return (
            f"{self.tags.series}: {self.tags.modality or 'no modality'}, {len(self.frames)} slices{thickness}{kernel}"
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Keeps pydicom from printing warnings, which quote names, ids and dates that are not written as they must be."""
    with _HEADERS, warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def find_series(files: Iterable[Path]) -> tuple[list[Series], list[Finding]]:
    """All series among the files, largest first, and the findings on files that could not be read.

    Files that are not DICOM are passed over, unless they are named as if they were.
    """
    findings = []
    frames: dict[str, list[Frame]] = {}
    with _silence():
        for path in files:
            if not is_dicom(path):
                if path.suffix.lower() in {".dcm", ".dicom", ".ima"}:
                    findings.append(find("unreadable-file", "named like a DICOM file but is none", path.name))
                continue
            try:
                for frame in read_frames(path):
                    frames.setdefault(frame.series_uid, []).append(frame)
            except ReadError as exc:
                findings.append(find("unreadable-file", str(exc), path.name))
        series = []
        for uid, found in frames.items():
            try:
                series.append(_series(uid, found))
            except DAMAGED:  # values are decoded when they are asked for; what they hold is not for others to see
                findings.append(find("unreadable-file", "a damaged header", found[0].path.name))
    return sorted(series, key=lambda s: (-len(s.frames), s.uid)), findings


def load(series: Series) -> Volume:
    """The voxels of a series in HU, canonically oriented.

    Raises:
        GeometryError: If a finding refuses the series; the message names all that do.
        ReadError: If pixels cannot be decoded.
    """
    _refuse(series, series.findings)
    assert series.stack.affine is not None  # else a finding refuses it  # noqa: S101
    order, findings = without_duplicates(series)
    _refuse(series, findings)
    frames = [series.frames[i] for i in order]
    packed = Counter(f.path for f in frames if f.offset is None)
    decoded = {path: _decoded(path) for path, count in packed.items() if count > 1}  # once, not for each frame
    whole = all(float(f.slope).is_integer() and float(f.intercept or 0).is_integer() for f in frames)
    voxels = np.empty((len(frames), *frames[0].shape), np.int16 if whole else np.float32)

    def fill(z: int) -> tuple[int, int]:
        voxels[z], num_padding, num_metal = limited(_hu(frames[z], decoded.get(frames[z].path)))
        return num_padding, num_metal

    with ThreadPoolExecutor(min(8, cores())) as pool:
        counts = np.array(list(pool.map(fill, range(len(frames)))))
    findings += intensity_findings(int(counts[:, 0].sum()), int(counts[:, 1].sum()), voxels.size)
    volume = Volume(voxels_hu=voxels, affine=series.stack.affine, tags=series.tags, findings=series.findings)
    return reorient(volume.with_findings(*findings))


def _refuse(series: Series, findings: Iterable[Finding]) -> None:
    refused = refusals(findings)
    if refused:
        raise GeometryError(f"series {series.tags.series} is refused: " + "; ".join(map(str, refused)))


def _series(uid: str, frames: list[Frame]) -> Series:
    judged = stack(frames)
    findings = (*_kind(frames), *judged.findings)
    return Series(uid=uid, frames=frames, tags=_tags(frames), stack=judged, findings=findings)


def _kind(frames: list[Frame]) -> list[Finding]:
    """Whether the files are what they must be: whole, CT, original, in HU."""
    header, where = frames[0].header, frames[0].path.name
    image_type = [v.upper() for v in texts(header, "ImageType")]
    findings = []
    for frame in frames:
        if frame.missing_bytes:
            message = f"{frame.missing_bytes} bytes of its pixels are missing"
            findings.append(find("truncated-file", message, frame.path.name))
    if header.get("Modality", "") != "CT":
        findings.append(find("wrong-modality", f"modality is {header.get('Modality', 'not given')}, must be CT", where))
    if header.get("SOPClassUID") == _SECONDARY_CAPTURE or int(header.get("SamplesPerPixel", 1)) != 1:
        findings.append(find("secondary-capture", "a screen capture, not a scan", where))
    if "LOCALIZER" in image_type:
        findings.append(find("localizer", "a localizer (scout), not a scan", where))
    rescaled_to = {v.upper() for v in texts(header, "RescaleType")}
    not_hu = sorted(_NOT_HU.intersection(image_type))
    if not_hu:
        findings.append(find("derived-image", f"ImageType has {', '.join(not_hu)}: these are no HU of a scan", where))
    elif rescaled_to - {"HU", "US"}:  # US is "unspecified", PS3.3 C.11.1.1.2
        kinds = ", ".join(sorted(rescaled_to - {"HU", "US"}))
        findings.append(find("derived-image", f"RescaleType is {kinds}, must be HU", where))
    elif "DERIVED" in image_type:
        findings.append(find("processed-image", "ImageType is DERIVED: processed or anonymised after the scan", where))
    lossy = next((f.path.name for f in frames if f.is_lossy), None)
    if lossy is not None:
        findings.append(find("lossy-compression", "the pixels went through lossy compression", lossy))
    if any(f.intercept is None for f in frames):
        findings.append(find("rescale-missing", "no RescaleIntercept: stored values are taken as HU", where))
    return findings


def _tags(frames: list[Frame]) -> Tags:
    """Technical tags as they are, identifiers as keyed hashes."""
    header = frames[0].header

    def text(keyword: str) -> str:
        return "\\".join(texts(header, keyword))

    patient = text("PatientID")
    times = sorted(str(f.header.get("AcquisitionDateTime") or f.header.get("AcquisitionTime") or "") for f in frames)
    acquisition = "|".join((text("StudyInstanceUID"), text("FrameOfReferenceUID"), text("AcquisitionNumber"), times[0]))
    return Tags(
        modality=text("Modality"),
        kernel=text("ConvolutionKernel"),
        thickness_mm=number(header, "SliceThickness"),
        manufacturer=text("Manufacturer"),
        model=text("ManufacturerModelName"),
        tube_voltage_kv=number(header, "KVP"),
        exposure_mas=number(header, "Exposure"),
        series=hashed("series", text("SeriesInstanceUID")),
        study=hashed("study", text("StudyInstanceUID")),
        accession=hashed("accession", text("AccessionNumber")),
        patient="" if is_placeholder(patient) else hashed("patient", patient),
        acquisition=hashed("acquisition", acquisition),
    )


def without_duplicates(series: Series) -> tuple[list[int], list[Finding]]:
    """The slices' order with exact copies dropped; a finding refuses slices that differ at one position."""
    kept: list[int] = []
    dropped = []
    for at, repeated in zip(series.stack.order.tolist(), series.stack.repeated, strict=True):
        if not repeated:
            kept.append(at)
            continue
        frame, twin = series.frames[at], series.frames[kept[-1]]
        if not np.array_equal(_hu(frame), _hu(twin)):
            message = f"{frame.path.name} and {twin.path.name} differ at one position"
            return kept, [find("time-series", message, frame.path.name)]
        dropped.append(frame.path.name)
    if not dropped:
        return kept, []
    message = f"exact copies of neighbouring slices were dropped: {len(dropped)}"
    return kept, [find("duplicate-slices", message, dropped[0])]


def _hu(frame: Frame, decoded: Num[np.ndarray, "n y x"] | None = None) -> Num[np.ndarray, "y x"]:
    """The rescaled pixels of one frame; of a file that was decoded before, if it is given."""
    if frame.offset is None:
        pixels = _decoded(frame.path) if decoded is None else decoded
        return frame_hu(_unscaled(pixels, frame), frame)
    header = frame.header
    kind = "i" if int(header.PixelRepresentation) == 1 else "u"
    word = np.dtype(f"{frame.byte_order}{kind}{int(header.BitsAllocated) // 8}")
    rows, columns = frame.shape
    offset = frame.offset + frame.index * rows * columns * word.itemsize
    try:
        words = np.fromfile(frame.path, word, rows * columns, offset=offset).reshape(rows, columns)
    except (OSError, ValueError) as exc:
        msg = f"{frame.path.name}: pixels cannot be read: {exc}"
        raise ReadError(msg) from exc
    return frame_hu(unpacked(words.astype(word.newbyteorder("="), copy=False), header), frame)


def _decoded(path: Path) -> Num[np.ndarray, "n y x"]:
    """All frames of a file with compressed pixels, decoded and rescaled by GDCM."""
    import SimpleITK as sitk

    try:
        pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(path), imageIO="GDCMImageIO"))
    except RuntimeError as exc:
        msg = f"{path.name}: compressed pixels cannot be decoded"
        raise ReadError(msg) from exc
    frames: np.ndarray = pixels.reshape(-1, *pixels.shape[-2:])
    return frames


def _unscaled(pixels: Num[np.ndarray, "n y x"], frame: Frame) -> Num[np.ndarray, "y x"]:
    """The stored values of one frame, from GDCM's, which it rescales by what it finds first in the file."""
    if frame.index >= len(pixels) or pixels.shape[1:] != frame.shape:
        msg = f"{frame.path.name}: compressed pixels are not those that the header describes"
        raise ReadError(msg)
    stored: np.ndarray = np.rint((pixels[frame.index] - frame.file_rescale[1]) / frame.file_rescale[0]).astype(np.int32)
    return stored
