"""Writes small CT series by pydicom, right or wrong on purpose, for the tests of reading."""

from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

STUDY, SERIES = "1.2.826.0.1.3680043.8.498.7.1", "1.2.826.0.1.3680043.8.498.7.2"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)


def scan_hu(num_slices: int = 5, rows: int = 6, columns: int = 8) -> np.ndarray:
    """Whole HU, every voxel another, so that nothing can be swapped unseen."""
    return np.arange(num_slices * rows * columns, dtype=np.int16).reshape(num_slices, rows, columns) - 900


def slice_dataset(stored: np.ndarray, position_mm, *, syntax=ExplicitVRLittleEndian, **changes) -> FileDataset:
    """One CT slice; ``changes`` are attributes by keyword, None removes one."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = syntax
    encoding = {"is_implicit_VR": syntax.is_implicit_VR, "is_little_endian": syntax.is_little_endian}
    out = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128, **encoding)
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": f"{SERIES}.{abs(hash(tuple(np.round(position_mm, 3)))) % 10**9}",
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "PatientID": "P-1",
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": SERIES,
        "SliceThickness": "2.5",
        "ConvolutionKernel": "B30f",
        "ImagePositionPatient": [round(float(v), 6) for v in position_mm],
        "ImageOrientationPatient": list(AXIAL),
        "PixelSpacing": ["0.75", "0.5"],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[-2],
        "Columns": stored.shape[-1],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "RescaleSlope": "1",
        "RescaleIntercept": "-1024",
        "RescaleType": "HU",
        "PixelData": stored.tobytes(),
        **changes,
    }
    for keyword, value in values.items():
        if value is not None:
            setattr(out, keyword, value)
    if "PixelData" in out:
        out["PixelData"].VR = "OW"
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID
    return out


def write_series(
    folder: Path, hu: np.ndarray | None = None, *, step_mm=(0.0, 0.0, 2.5), origin_mm=(-10.0, -20.0, 30.0), **changes
) -> list[Path]:
    """A series, feet to head, under names in another order; ``changes`` as for ``slice_dataset``."""
    hu = scan_hu() if hu is None else hu
    stored = changes.pop("stored", (hu.astype(np.int32) + 1024).astype(np.uint16))
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(0).permutation(len(stored))
    paths = []
    for k, plane in enumerate(stored):
        position = np.array(origin_mm) + k * np.array(step_mm)
        path = folder / f"IM{names[k]:03d}.dcm"
        slice_dataset(plane, position, **changes).save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def enhanced_dataset(hu: np.ndarray, *, slopes=None, intercepts=None, order=None, shared_rescale: bool = True):
    """An enhanced multi-frame CT: orientation and pixel size shared, positions per frame, in any order of frames."""
    count = len(hu)
    slopes = slopes or [1.0] * count
    intercepts = intercepts or [-1024.0] * count
    order = list(order or range(count))
    stored = np.stack([(hu[k] - intercepts[k]) / slopes[k] for k in order]).astype(np.uint16)
    gone = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
            "RescaleIntercept", "RescaleType", "ConvolutionKernel")  # fmt: skip
    out = slice_dataset(stored, (0, 0, 0), **dict.fromkeys(gone))
    out.SOPClassUID = out.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    out.NumberOfFrames = count
    shared = Dataset()
    shared.PlaneOrientationSequence = Sequence([_item(ImageOrientationPatient=list(AXIAL))])
    shared.PixelMeasuresSequence = Sequence([_item(PixelSpacing=["0.75", "0.5"], SliceThickness="2.5")])
    per_frame = []
    for k in order:
        frame = Dataset()
        frame.PlanePositionSequence = Sequence([_item(ImagePositionPatient=[-10.0, -20.0, 30.0 + 2.5 * k])])
        rescale = _item(RescaleSlope=str(slopes[k]), RescaleIntercept=str(intercepts[k]), RescaleType="HU")
        if shared_rescale:
            shared.PixelValueTransformationSequence = Sequence([rescale])
        else:
            frame.PixelValueTransformationSequence = Sequence([rescale])
        per_frame.append(frame)
    out.SharedFunctionalGroupsSequence = Sequence([shared])
    out.PerFrameFunctionalGroupsSequence = Sequence(per_frame)
    return out


def _item(**values) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
