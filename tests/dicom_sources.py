"""Writes a simulated chest as DICOM series of every kind that results must return to, by pydicom alone."""

from functools import cache
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileDataset
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRBigEndian, ExplicitVRLittleEndian

from dicom_files import SERIES, STUDY, slice_dataset
from hilum.preparing import sample
from hilum.simulating import plan_cohort, simulate_case
from hilum.volume import Volume, reorient

PATIENT = {
    "PatientName": "Müller^Jörg",
    "PatientID": "P-1",
    "PatientBirthDate": "19500102",
    "PatientSex": "M",
    "StudyDate": "20200304",
    "StudyTime": "101112",
    "StudyID": "7",
    "AccessionNumber": "A-9",
    "ReferringPhysicianName": "House^Gregory",
    "StudyDescription": "CT THORAX",
    "PatientAge": "070Y",
    "InstitutionName": "St. Elsewhere",
    "FrameOfReferenceUID": f"{STUDY}.9",
    "PositionReferenceIndicator": "",
    "SpecificCharacterSet": "ISO_IR 100",
    "Manufacturer": "ACME",
    "PatientPosition": "HFS",
}
KINDS = ("plain", "tilted", "oblique", "repaired", "big-endian", "prone", "multi-frame", "offsets", "several-files")


@cache
def chest() -> Volume:
    """A simulated chest of 6 mm pixels and slices of 5 mm or so, in whole HU."""
    return simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=6.0)[0]


def planes_of(kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Whole HU (plane, row, column) and their affine to LPS mm, as a scanner of this kind stores them."""
    volume = reorient(chest())
    affine, shape = volume.affine.copy(), volume.shape
    if kind == "tilted":
        affine[1, 0] = affine[2, 0] * np.tan(np.radians(12))
        affine[1, 3] -= affine[1, 0] * shape[0] / 2
    elif kind == "oblique":
        turn = np.radians(10)
        rotation = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
        affine[:3, :3] = rotation @ affine[:3, :3]
        affine[:3, 3] = volume.centre_mm - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    elif kind == "repaired":  # only gaps of at most 5 mm are
        affine[:3, 0] /= 2
        shape = (2 * shape[0], *shape[1:])
    elif kind == "prone":  # stored turned by 180 degrees, from the head down
        affine[:3, 3] = volume.index_to_mm(np.array(shape) - 1)
        affine[:3, :3] *= -1
    hu = volume.voxels_hu[::-1, ::-1, ::-1] if kind == "prone" else sample(volume, affine, shape)
    return np.rint(np.maximum(hu, -1024)).astype(np.int16), affine


def write_source(folder: Path, kind: str, **changes) -> Path:
    """Write the chest as a series of a kind; ``changes`` are attributes by keyword, None removes one."""
    folder.mkdir(parents=True)
    hu, affine = planes_of(kind)
    stored = (hu.astype(np.int32) + 1024).astype(np.uint16)
    directions = affine[:3, [2, 1]] / np.linalg.norm(affine[:3, [2, 1]], axis=0)
    about = {
        **PATIENT,
        "ImageOrientationPatient": [round(float(v), 9) for v in directions.T.ravel()],
        "PixelSpacing": [round(float(np.linalg.norm(affine[:3, axis])), 6) for axis in (1, 2)],
        "SliceThickness": "5",
        **changes,
    }
    positions = affine[:3, 3] + np.arange(len(hu))[:, None] * affine[:3, 0]
    if kind in ("multi-frame", "several-files"):
        middle = len(hu) // 2 if kind == "several-files" else len(hu)
        for number, part in enumerate(filter(len, np.split(np.arange(len(hu)), [middle]))):
            order = np.random.default_rng(number).permutation(part)
            made = _frames(stored[order], positions[order], about)
            made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"{SERIES}.{number + 1}"
            made.save_as(folder / f"frames-{number}.dcm", enforce_file_format=True)
        return folder
    if kind == "offsets":
        offsets = [round(float(np.linalg.norm(p - positions[0])), 6) for p in positions]
        made = slice_dataset(stored, positions[0], SOPClassUID=CTImageStorage, NumberOfFrames=len(hu), **about)
        made.GridFrameOffsetVector = offsets
        made.save_as(folder / "frames.dcm", enforce_file_format=True)
        return folder
    syntax = ExplicitVRBigEndian if kind == "big-endian" else ExplicitVRLittleEndian
    names = np.random.default_rng(0).permutation(len(hu))
    for k, (plane, position) in enumerate(zip(stored, positions, strict=True)):
        if kind == "repaired" and k == len(hu) // 2:
            continue
        pixels = plane.astype(">u2") if kind == "big-endian" else plane
        made = slice_dataset(
            pixels, position, syntax=syntax, SOPInstanceUID=f"{SERIES}.{k + 1}", InstanceNumber=k + 1, **about
        )
        made.save_as(folder / f"IM{names[k]:03d}.dcm", enforce_file_format=True)
    return folder


def _frames(stored: np.ndarray, positions: np.ndarray, about: dict) -> FileDataset:
    """An enhanced multi-frame CT."""
    gone = ("ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "RescaleType", "ConvolutionKernel")
    shared_keys = ("ImageOrientationPatient", "PixelSpacing", "SliceThickness")
    rest = {key: value for key, value in about.items() if key not in shared_keys}
    made = slice_dataset(stored, (0, 0, 0), **{**dict.fromkeys((*gone, *shared_keys)), **rest})
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    made.NumberOfFrames = len(stored)
    shared = Dataset()
    shared.PlaneOrientationSequence = _items(ImageOrientationPatient=about["ImageOrientationPatient"])
    shared.PixelMeasuresSequence = _items(PixelSpacing=about["PixelSpacing"], SliceThickness=about["SliceThickness"])
    shared.PixelValueTransformationSequence = _items(RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU")
    frames = []
    for position in positions:
        frame = Dataset()
        frame.PlanePositionSequence = _items(ImagePositionPatient=[round(float(v), 6) for v in position])
        frames.append(frame)
    made.SharedFunctionalGroupsSequence = Sequence([shared])
    made.PerFrameFunctionalGroupsSequence = Sequence(frames)
    return made


def _items(**values) -> Sequence:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return Sequence([item])
