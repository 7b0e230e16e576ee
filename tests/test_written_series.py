"""A hundred DICOM series, written field by field in all the ways that scanners and anonymisers do: each voxel is where
the affine says that was written, with its HU."""

import struct

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)
from scipy.spatial.transform import Rotation

from dicom_files import SERIES, slice_dataset
from hilum.reading.reader import read

SYNTAXES = [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
NEAR_MM = 0.05


def _text(values, rng, *, comma: bool) -> str:
    text = "\\".join(f"{v:.6f}".rstrip("0").rstrip(".") for v in values)
    return (text.replace(".", ",") if comma else text) + " " * int(rng.integers(0, 3))


def _directions(rng) -> np.ndarray:
    """Rows and columns: axial, flipped, turned by quarters, or oblique."""
    kind = rng.integers(0, 4)
    if kind == 0:
        return np.eye(3)[:2]
    if kind == 1:
        return np.eye(3)[:2] * rng.choice([-1, 1], (2, 1))
    if kind == 2:
        return np.eye(3)[rng.permutation(3)[:2]] * rng.choice([-1, 1], (2, 1))
    return Rotation.from_euler("zyx", rng.uniform(-40, 40, 3), degrees=True).as_matrix()[:, :2].T


def _implicit(sequence) -> bytes:
    """The items of a sequence as programs write them that do not know it (UN): implicit, in little endian."""
    from pydicom.filebase import DicomBytesIO
    from pydicom.filewriter import write_sequence

    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = True, True
    element = pydicom.DataElement(0x52009230, "SQ", sequence)
    write_sequence(file, element, ["iso8859"])
    return file.getvalue()


def _enhanced(hu, stored, directions, pixel_mm, positions, way: str) -> tuple[Dataset, bytes]:
    gone = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness")
    out = slice_dataset(stored, (0, 0, 0), RescaleIntercept="-1024", RescaleSlope="1", **dict.fromkeys(gone))
    out.SOPClassUID = out.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    out.NumberOfFrames = len(hu)
    shared = Dataset()
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [float(f"{v:.9f}") for v in directions.ravel()]
    measures.PixelSpacing = [float(v) for v in pixel_mm]
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Sequence([orientation]), Sequence([measures])
    frames = []
    for position in positions:
        frame, plane = Dataset(), Dataset()
        plane.ImagePositionPatient = [round(float(v), 6) for v in position]
        frame.PlanePositionSequence = Sequence([plane])
        frames.append(frame)
    groups = {0x52009229: Sequence([shared]), 0x52009230: Sequence(frames)}
    if way == "sequence":
        for tag, sequence in groups.items():
            out.add_new(tag, "SQ", sequence)
        return out, b""
    raw = b""
    for tag, sequence in groups.items():
        items = _implicit(sequence)
        length, end = (0xFFFFFFFF, b"\xfe\xff\xdd\xe0\0\0\0\0") if way == "unknown, undefined" else (len(items), b"")
        raw += struct.pack("<HH2sHI", tag >> 16, tag & 0xFFFF, b"UN", 0, length) + items + end
    return out, raw


def _save(dataset, path, rng, *, preamble: bool, before_pixels: bytes = b"") -> None:
    dataset.save_as(path, enforce_file_format=True)
    content = path.read_bytes()
    if before_pixels:
        at = content.rindex(b"\xe0\x7f\x10\0OW")
        content = content[:at] + before_pixels + content[at:]
    path.write_bytes(content if preamble else content[132:])
    if rng.random() < 0.2:  # whatever it is called
        path.rename(path.with_suffix(".ima"))


@pytest.mark.parametrize("seed", range(100))
def test_each_voxel_of_a_series_lies_where_its_file_says(tmp_path, seed):
    rng = np.random.default_rng(seed)
    count, rows, columns = (int(n) for n in rng.integers((10, 4, 5), (30, 9, 12)))
    syntax = SYNTAXES[rng.integers(0, 4)] if rng.random() < 0.8 else RLELossless
    if syntax == RLELossless:
        rows, columns = 8, 16  # GDCM refuses slices that do not become smaller
    directions = _directions(rng)
    pixel_mm = np.round(rng.uniform(0.5, 1.2, 2), 4)
    normal = np.cross(*directions)
    step = round(float(rng.uniform(0.45, 3.75)), 3)
    one_decimal = np.abs(normal).max() == 1 and rng.random() < 0.5
    tilt = 0.0 if one_decimal or rng.random() < 0.7 else np.tan(np.radians(rng.uniform(2, 25)))
    vector = normal * step + directions[1] * step * tilt
    origin = np.round(rng.uniform(-300, 300, 3), 1)
    positions = origin + np.arange(count)[:, None] * vector
    written = np.round(positions, 1) if one_decimal else np.round(positions, 6)

    hu = rng.permutation(np.arange(count * rows * columns) % 3800 - 900).reshape(count, rows, columns)
    hu = np.clip(hu, -900, 2900)
    intercept = int(rng.choice([0, -1000, -1024, -8192]))
    is_signed = intercept in (0, -1000)
    stored = (hu - intercept).astype(np.int16 if is_signed else np.uint16)
    kind = rng.choice(["slices", "slices", "slices", "enhanced", "offsets"])
    rescale = {"RescaleIntercept": str(intercept), "RescaleSlope": "1", "SliceThickness": None}
    preamble = bool(rng.random() < 0.7)
    if kind == "slices":
        encoding = ExplicitVRLittleEndian if syntax == RLELossless else syntax
        preamble = preamble or syntax == RLELossless
        comma = bool(rng.random() < 0.2)
        names = rng.permutation(count)
        for k in range(count):
            plane = stored[k].astype(stored.dtype.newbyteorder(">" if syntax == ExplicitVRBigEndian else "<"))
            with pydicom.config.disable_value_validation():
                dataset = slice_dataset(plane, written[k], syntax=encoding, **rescale)
                if syntax == RLELossless:
                    dataset.compress(RLELossless, encoding_plugin="pydicom")
                dataset.SeriesInstanceUID = SERIES + " " * int(rng.integers(0, 3))
                dataset.PatientID = "P-1" + " " * int(rng.integers(0, 2))
                texts = {
                    "ImagePositionPatient": _text(written[k], rng, comma=comma),
                    "PixelSpacing": _text(pixel_mm, rng, comma=comma),
                    "ImageOrientationPatient": "\\".join(f"{v:.9f}" for v in directions.ravel()),
                }
                for keyword, text in texts.items():
                    del dataset[keyword]
                    tag = pydicom.datadict.tag_for_keyword(keyword)
                    dataset[tag] = pydicom.dataelem.RawDataElement(
                        pydicom.tag.Tag(tag), "DS", len(text) + len(text) % 2, (text + " " * (len(text) % 2)).encode(),
                        0, encoding.is_implicit_VR, encoding.is_little_endian, True,
                    )  # fmt: skip
                _save(dataset, tmp_path / f"{names[k]:03d}", rng, preamble=preamble)
    elif kind == "enhanced":
        order = rng.permutation(count)
        plain = (hu + 1024).astype(np.uint16)
        way = ("sequence", "unknown", "unknown, undefined")[rng.integers(0, 3)]
        dataset, groups = _enhanced(hu, plain[order], directions, pixel_mm, written[order], way)
        _save(dataset, tmp_path / "enhanced.dcm", rng, preamble=preamble, before_pixels=groups)
    else:  # several frames without functional groups
        vector = normal * step
        positions = written = origin + np.arange(count)[:, None] * vector
        start = float(rng.choice([0.0, 100.0]))
        dataset = slice_dataset(
            stored, origin, **rescale, NumberOfFrames=count, SOPClassUID=CTImageStorage,
            ImageOrientationPatient=[float(f"{v:.9f}") for v in directions.ravel()], PixelSpacing=list(pixel_mm),
        )  # fmt: skip
        offsets = [round(start + k * step, 6) for k in range(count)]
        dataset.GridFrameOffsetVector = offsets
        _save(dataset, tmp_path / "frames", rng, preamble=preamble)

    volume = read(tmp_path)
    affine = np.eye(4)  # index (slice, row, column) to LPS mm
    affine[:3, :3] = np.column_stack([vector, directions[1] * pixel_mm[0], directions[0] * pixel_mm[1]])
    affine[:3, 3] = origin
    index = np.stack(np.meshgrid(*map(np.arange, hu.shape), indexing="ij"), axis=-1).reshape(-1, 3)
    mm = index @ affine[:3, :3].T + affine[:3, 3]
    found = np.rint(volume.mm_to_index(mm)).astype(int)
    assert np.linalg.norm(volume.index_to_mm(found) - mm, axis=1).max() <= NEAR_MM + 1e-4
    assert np.array_equal(volume.voxels_hu[tuple(found.T)], hu.reshape(-1))
    assert volume.voxels_hu.size == hu.size
