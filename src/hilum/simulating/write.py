"""Writes a simulated scan as a DICOM series like a hospital's."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from hilum.errors import ConfigError
from hilum.randomness import generator
from hilum.simulating.scanner import PADDING_HU
from hilum.volume import Volume

_UID_ROOT = "1.2.826.0.1.3680043.8.498."
_IMPLEMENTATION_UID = _UID_ROOT + "1"
_LOWEST_STORED, _HIGHEST_STORED = -32768, 32767


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """Identity and storage of a simulated DICOM series.

    Attributes:
        patient_id: PatientID; all UIDs derive from it and the study.
        patient_name: PatientName.
        study: Name of the study; scans of one patient and study share their StudyInstanceUID.
        series: SeriesNumber.
        study_date: YYYYMMDD.
        intercept: RescaleIntercept. Voxels are unsigned where none would be negative, signed otherwise.
        position: PatientPosition: head first or feet first, supine or prone. It determines the order of the slices and
            the first stored corner of the image, not the patient's coordinates.
    """

    patient_id: str = "PHANTOM-0000"
    patient_name: str = "PHANTOM^0000"
    study: str = "1"
    series: int = 2
    study_date: str = "20200101"
    intercept: int = -1024
    position: Literal["HFS", "FFS", "HFP", "FFP"] = "HFS"


def write_dicom(volume: Volume, folder: Path, *, header: Header) -> tuple[Path, ...]:
    """Write an axial volume as a CT series, one file per slice, with file names in another order than the slices.

    Args:
        volume: Whole HU. Voxels of -2000 become PixelPaddingValue.
        folder: Made if it does not exist.
        header: Identity and storage.

    Returns:
        The files, from feet to head.

    Raises:
        ConfigError: If the voxels are not int16 or do not fit into 16 bits with this intercept.
    """
    if volume.voxels_hu.dtype != np.int16:
        msg = f"a DICOM series stores whole HU, int16, got {volume.voxels_hu.dtype}"
        raise ConfigError(msg)
    stored = volume.voxels_hu.astype(np.int32) - header.intercept
    low, high = int(stored.min()), int(stored.max())
    if low < _LOWEST_STORED or high > _HIGHEST_STORED:
        msg = f"voxels minus the intercept {header.intercept} must fit into 16 bits, got {low} to {high}"
        raise ConfigError(msg)
    signed = low < 0
    affine = volume.affine
    if header.position in ("HFP", "FFP"):
        # Prone images are stored rotated by 180 degrees: the first pixel is the patient's left, back.
        affine = affine.copy()
        affine[:3, 3] = volume.index_to_mm([0, volume.shape[1] - 1, volume.shape[2] - 1])
        affine[:3, 1:3] *= -1
        stored = stored[:, ::-1, ::-1]
    stored = np.ascontiguousarray(stored.astype(np.int16 if signed else np.uint16))
    padded = bool((volume.voxels_hu == PADDING_HU).any())
    instance = _series_dataset(volume, header, signed=signed, padded=padded)
    folder.mkdir(parents=True, exist_ok=True)
    series_uid = str(instance.SeriesInstanceUID)
    count = volume.shape[0]
    names = generator(0, series_uid, "names").permutation(count)
    paths = []
    for k in range(count):
        number = count - k if header.position in ("HFS", "HFP") else k + 1
        position = affine[:3, 3] + k * affine[:3, 0]
        instance.SOPInstanceUID = _uid(series_uid, str(number))
        instance.file_meta.MediaStorageSOPInstanceUID = instance.SOPInstanceUID
        instance.InstanceNumber = number
        instance.ImagePositionPatient = [_number(v) for v in position]
        instance.SliceLocation = _number(position[2])
        instance.PixelData = stored[k].tobytes()
        path = folder / f"IM{int(names[k]) + 1:04d}.dcm"
        instance.save_as(path, enforce_file_format=True)
        paths.append(path)
    return tuple(paths)


def _series_dataset(volume: Volume, header: Header, *, signed: bool, padded: bool) -> FileDataset:
    """The tags that all slices share."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _IMPLEMENTATION_UID
    out = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128)
    study = _uid(header.patient_id, header.study)
    out.SpecificCharacterSet = "ISO_IR 100"
    out.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    out.SOPClassUID = CTImageStorage
    out.StudyDate = out.SeriesDate = out.AcquisitionDate = out.ContentDate = header.study_date
    out.StudyTime = out.SeriesTime = out.AcquisitionTime = out.ContentTime = "120000"
    out.AccessionNumber = ""
    out.Modality = "CT"
    out.Manufacturer = volume.tags.manufacturer or "Hilum simulation"
    out.ManufacturerModelName = volume.tags.model or "Phantom"
    out.ReferringPhysicianName = ""
    out.StudyDescription = "SIMULATED CHEST CT"
    out.SeriesDescription = f"CHEST {volume.tags.kernel}".strip().upper()
    out.PatientName = header.patient_name
    out.PatientID = header.patient_id
    out.PatientBirthDate = ""
    out.PatientSex = "O"
    out.BodyPartExamined = "CHEST"
    thickness = volume.tags.thickness_mm
    out.SliceThickness = _number(volume.spacing_mm[0] if thickness is None else thickness)
    out.KVP = _number(volume.tags.tube_voltage_kv or 120.0)
    if volume.tags.exposure_mas is not None:
        out.Exposure = round(volume.tags.exposure_mas)
    out.ConvolutionKernel = volume.tags.kernel or "soft"
    out.PatientPosition = header.position
    out.StudyInstanceUID = study
    out.SeriesInstanceUID = _uid(header.patient_id, header.study, str(header.series))
    out.StudyID = "1"
    out.SeriesNumber = header.series
    out.AcquisitionNumber = 1
    out.FrameOfReferenceUID = _uid(study, "frame")
    out.PositionReferenceIndicator = ""
    turned = -1.0 if header.position in ("HFP", "FFP") else 1.0
    columns = volume.affine[:3, :3] / np.linalg.norm(volume.affine[:3, :3], axis=0) * turned
    out.ImageOrientationPatient = [_number(v) for v in (*columns[:, 2], *columns[:, 1])]
    out.SamplesPerPixel = 1
    out.PhotometricInterpretation = "MONOCHROME2"
    _, out.Rows, out.Columns = volume.shape
    out.PixelSpacing = [_number(volume.spacing_mm[1]), _number(volume.spacing_mm[2])]
    out.BitsAllocated = out.BitsStored = 16
    out.HighBit = 15
    out.PixelRepresentation = int(signed)
    if padded:
        out.add_new("PixelPaddingValue", "SS" if signed else "US", PADDING_HU - header.intercept)
    out.WindowCenter, out.WindowWidth = "-500", "1500"
    out.RescaleIntercept = str(header.intercept)
    out.RescaleSlope = "1"
    out.RescaleType = "HU"
    return out


def _uid(*parts: str) -> str:
    """A UID that depends only on the parts."""
    return str(generate_uid(prefix=_UID_ROOT, entropy_srcs=["hilum simulation", *parts]))


def _number(value: float) -> str:
    """A DICOM decimal string, at most 16 characters, exact to 1e-6 (DICOM PS3.5, 6.2)."""
    text = f"{round(value, 6) + 0.0:.6f}".rstrip("0").rstrip(".")
    if len(text) > 16 or not math.isfinite(value):
        msg = f"a DICOM number has at most 16 characters, got {value}"
        raise ConfigError(msg)
    return text
