"""Small DICOM, NIfTI, NRRD and MetaImage files, and what can go wrong with their bytes.

A case follows from a seed and its number alone. Names and ids in the headers hold ``SECRETS``, so that it shows where
one of them gets out.
"""

import functools
import gzip
import re
import struct
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from machine import DATA
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    RLELossless,
)

SECRETS = ("Zq^Sentinel", "zq-77123-id", "1.2.826.0.1.3680043.8.498.77123")
"""A name, an id and the root of all UIDs: none may be in a message or a finding."""

_NAME, _ID, _ROOT = SECRETS
_SLICES, _ROWS, _COLUMNS = 4, 24, 32
_NATIVE = {
    "dicom explicit": ExplicitVRLittleEndian,
    "dicom implicit": ImplicitVRLittleEndian,
    "dicom big endian": ExplicitVRBigEndian,
    "dicom deflated": DeflatedExplicitVRLittleEndian,
}
_ENCODED = {"dicom rle": RLELossless, "dicom jpeg": JPEGLosslessSV1, "dicom jpeg 2000": JPEG2000Lossless}
_IMAGES = {
    "nifti": ".nii", "nifti gz": ".nii.gz", "nrrd": ".nrrd", "nrrd gzip": ".nrrd", "mha": ".mha", "mhd": ".mhd",
}  # fmt: skip
FORMATS = (*_NATIVE, "dicom enhanced", *_ENCODED, "dicom jpeg-ls", *_IMAGES)

Files = dict[str, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Files to read, mutated.

    Attributes:
        format: One of FORMATS.
        files: Contents by name.
        path: What to read of them; empty: the folder.
        what: What was done.
    """

    format: str
    files: Files
    path: str
    what: str


def case(seed: int, number: int) -> Case:
    """A case: one file mutated, or, of a series, sometimes all of them."""
    kind = FORMATS[number % len(FORMATS)]
    rng = np.random.default_rng([seed, number])
    variants = seeds(kind)
    files = dict(variants[rng.integers(len(variants))])
    names = sorted(files)
    steps = rng.choice([1, 2, 3], p=[0.7, 0.2, 0.1])
    how = [_MUTATIONS[i] for i in rng.choice(len(_MUTATIONS), steps, p=_weights(kind))]
    if kind.startswith("dicom"):
        chosen = names if rng.random() < 0.35 else [names[rng.integers(len(names))]]
        path = "" if len(names) > 1 or rng.random() < 0.3 else names[0]
    else:
        chosen = [name for name in names if name.endswith(".raw")] if rng.random() < 0.2 else []
        chosen = chosen or [name for name in names if name.endswith(_IMAGES[kind])]
        path = "" if rng.random() < 0.1 else next(name for name in names if name.endswith(_IMAGES[kind]))
    alike = rng.random() < 0.7
    key = int(rng.integers(2**32))
    for number_, name in enumerate(chosen):
        own = np.random.default_rng(key if alike else [key, number_])
        for mutate in how:
            files[name] = mutate(files[name], own, kind)
    what = f"{', '.join(m.__name__.strip('_') for m in how)} of {len(chosen)} of {len(names)}"
    return Case(format=kind, files=files, path=path, what=what)


@functools.cache
def seeds(kind: str) -> list[Files]:
    """Whole files of one format, in several variants."""
    both = (False, True)
    if kind in _NATIVE:
        return [_series(_NATIVE[kind], signed=s, coarse=c, busy=b) for s in both for c in both for b in both]
    if kind in _ENCODED:
        return [_series(_ENCODED[kind], signed=False, coarse=c, busy=c) for c in both]
    if kind == "dicom enhanced":
        return [{"enhanced.dcm": _enhanced(coarse=c)} for c in both]
    if kind == "dicom jpeg-ls":
        folder = DATA / "odd" / "compressed"
        names = [folder / f"CT{n}_{syntax}" for n in (1, 2) for syntax in ("JLSL", "JLSN")]
        return [_from_one(name) for name in names if name.is_file()] or seeds("dicom jpeg 2000")
    types = [np.int16, np.uint8, np.float32, np.float64]
    return [_image(kind, dtype, coarse=c) for dtype in types for c in both if not (c and dtype is np.uint8)]


# whole files


def _hu() -> np.ndarray:
    """A body of soft tissue in air, lungs and airways in it, with some noise."""
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in (_SLICES, _ROWS, _COLUMNS)), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.8, 40, -1000)
    hu = np.where((abs(x) - 0.4) ** 2 + y**2 < 0.08, -850, hu)
    hu = np.where((abs(x) - 0.4) ** 2 + y**2 < 0.02, -970, hu)
    return np.maximum(hu + np.random.default_rng(0).integers(-20, 20, hu.shape) + 5 * z, -1020).astype(np.int16)


def _series(syntax: UID, *, signed: bool, coarse: bool, busy: bool) -> Files:
    files = {}
    for k, plane in enumerate(_hu()):
        one = _slice(k, syntax, coarse=coarse, busy=busy)
        one.PixelRepresentation = int(signed)
        one.RescaleIntercept = "0" if signed else "-1024"
        stored = plane if signed else (plane + 1024).astype(np.uint16)
        if syntax == ExplicitVRBigEndian:
            stored = stored.astype(stored.dtype.newbyteorder(">"))
        one.PixelData = stored.tobytes() if syntax in _NATIVE.values() else _encoded(stored, syntax, one)
        one["PixelData"].VR = "OW" if syntax in _NATIVE.values() else "OB"
        files[f"IM{(k * 7) % 4:03d}.dcm"] = _bytes(one)
    return files


def _slice(k: int, syntax: UID = ExplicitVRLittleEndian, *, coarse: bool, busy: bool) -> FileDataset:
    """A CT slice without pixels: coarse ones are large enough for their HU to be judged, busy ones have sequences."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.TransferSyntaxUID = syntax
    encoding = {"is_implicit_VR": syntax.is_implicit_VR, "is_little_endian": syntax.is_little_endian}
    out = FileDataset("", Dataset(), file_meta=meta, preamble=b"\0" * 128, **encoding)
    pixel, step = (10.0, 40.0) if coarse else (0.75, 2.5)
    values = {
        "SOPClassUID": CTImageStorage, "SOPInstanceUID": f"{_ROOT}.4.{k}", "StudyInstanceUID": f"{_ROOT}.1",
        "SeriesInstanceUID": f"{_ROOT}.2", "FrameOfReferenceUID": f"{_ROOT}.3", "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"], "PatientName": _NAME, "PatientID": _ID,
        "AccessionNumber": _ID[:16], "InstitutionName": _NAME, "StudyDate": "20200101", "AcquisitionTime": f"10000{k}",
        "Manufacturer": "ACME", "ManufacturerModelName": "Scan", "KVP": "120", "Exposure": "40",
        "BodyPartExamined": "CHEST", "ConvolutionKernel": "B30f", "SliceThickness": str(step),
        "AcquisitionNumber": "1", "InstanceNumber": str(k + 1),
        "ImagePositionPatient": [-160.0, -120.0, -300.0 + k * step], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelSpacing": [pixel, pixel], "SamplesPerPixel": 1, "PhotometricInterpretation": "MONOCHROME2",
        "Rows": _ROWS, "Columns": _COLUMNS, "BitsAllocated": 16, "BitsStored": 16, "HighBit": 15,
        "PixelRepresentation": 0, "RescaleSlope": "1", "RescaleIntercept": "-1024", "RescaleType": "HU",
    }  # fmt: skip
    for keyword, value in values.items():
        setattr(out, keyword, value)
    if busy:
        out.SpecificCharacterSet = ["", "ISO 2022 IR 87"] if coarse else "ISO_IR 192"
        out.add_new("PixelPaddingValue", "US", 63536)
        out.add_new("PixelPaddingRangeLimit", "US", 63537)
        inner = _item(CodeValue="113800", CodeMeaning=_NAME)
        for item in (outer := [_item(ReferencedSOPInstanceUID=f"{_ROOT}.9", PurposeOfReferenceCodeSequence=[inner])]):
            item.is_undefined_length_sequence_item = True
            item["PurposeOfReferenceCodeSequence"].is_undefined_length = True
        out.ReferencedImageSequence = Sequence(outer)
        out["ReferencedImageSequence"].is_undefined_length = True
        block = out.private_block(0x0019, _NAME, create=True)
        block.add_new(0x01, "LO", _ID)
        block.add_new(0x02, "UN", bytes(range(64)))
    out.file_meta.MediaStorageSOPInstanceUID = out.SOPInstanceUID
    return out


def _item(**values: object) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, Sequence(value) if isinstance(value, list) and keyword.endswith("Sequence") else value)
    return item


def _encoded(stored: np.ndarray, syntax: UID, one: FileDataset) -> bytes:
    """Compressed pixels: by pydicom, or taken from a file that GDCM writes."""
    if syntax == RLELossless:
        from pydicom.encoders import RLELosslessEncoder

        one.PixelData = stored.tobytes()
        described = {
            "rows": _ROWS, "columns": _COLUMNS, "samples_per_pixel": 1, "bits_allocated": 16, "bits_stored": 16,
            "number_of_frames": 1, "pixel_representation": 0, "photometric_interpretation": "MONOCHROME2",
        }  # fmt: skip
        return encapsulate([RLELosslessEncoder.encode(stored, **described)])
    with tempfile.TemporaryDirectory() as folder:
        writer = sitk.ImageFileWriter()
        writer.SetFileName(f"{folder}/one.dcm")
        writer.SetImageIO("GDCMImageIO")
        writer.SetUseCompression(True)
        writer.SetCompressor("JPEG" if syntax == JPEGLosslessSV1 else "JPEG2000")
        writer.Execute(sitk.GetImageFromArray(stored))
        return bytes(pydicom.dcmread(f"{folder}/one.dcm").PixelData)


def _enhanced(*, coarse: bool) -> bytes:
    pixel, step = (10.0, 40.0) if coarse else (0.75, 2.5)
    out = _slice(0, coarse=coarse, busy=coarse)
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "SliceThickness",
                    "RescaleSlope", "RescaleIntercept", "RescaleType", "ConvolutionKernel"):  # fmt: skip
        del out[keyword]
    out.SOPClassUID = out.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    out.NumberOfFrames = _SLICES
    rescale = _item(RescaleSlope="1", RescaleIntercept="-1024", RescaleType="HU")
    out.SharedFunctionalGroupsSequence = Sequence([_item(
        PlaneOrientationSequence=[_item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[_item(PixelSpacing=[pixel, pixel], SliceThickness=str(step))],
        PixelValueTransformationSequence=[rescale],
    )])  # fmt: skip
    out.PerFrameFunctionalGroupsSequence = Sequence(
        _item(PlanePositionSequence=[_item(ImagePositionPatient=[-160.0, -120.0, -300.0 + k * step])])
        for k in range(_SLICES)
    )
    out.PixelData = (_hu() + 1024).astype(np.uint16).tobytes()
    out["PixelData"].VR = "OW"
    return _bytes(out)


def _from_one(path: Path) -> Files:
    """Four slices that all hold the pixels of one file."""
    files = {}
    for k in range(_SLICES):
        one = pydicom.dcmread(path)
        for element in _slice(k, coarse=False, busy=False):
            if element.tag.group < 0x0028:
                one[element.tag] = element
        one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID
        files[f"IM{k:03d}"] = _bytes(one)
    return files


def _bytes(one: FileDataset) -> bytes:
    with tempfile.TemporaryFile() as file:
        one.save_as(file, enforce_file_format=True)
        file.seek(0)
        return file.read()


def _image(kind: str, dtype: type, *, coarse: bool) -> Files:
    voxels = _hu()
    voxels = (voxels // 16 + 64).astype(dtype) if dtype is np.uint8 else voxels.astype(dtype)
    voxels += dtype(0.5) if np.dtype(dtype).kind == "f" and coarse else dtype(0)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing([10.0, 10.0, 40.0] if coarse else [0.75, 0.75, 2.5])
    image.SetOrigin([-160.0, -120.0, -300.0])
    for key in ("descrip", "aux_file", "intent_name", "Comment", "patient"):
        image.SetMetaData(key, _NAME)
    with tempfile.TemporaryDirectory() as folder:
        compressed = kind == "nrrd gzip" or (coarse and kind in {"mha", "mhd"})
        sitk.WriteImage(image, f"{folder}/scan{_IMAGES[kind]}", useCompression=compressed)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


# what goes wrong

Mutation = Callable[[bytes, np.random.Generator, str], bytes]

_NUMBERS = (0, 1, 2, 3, 255, 256, 32767, 32768, 65535, 65536, 10**6, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
_TEXTS = (
    b"0", b"-1", b"1", b"2", b"65535", b"2147483647", b"4294967295", b"9223372036854775807", b"99999999999999999999",
    b"1e308", b"-1e308", b"1e-308", b"1e9", b"1e5", b"nan", b"inf", b"-inf", b"", b"x", b"0x10", b"1_0", b"\xd9\xa3",
    b"1e400", b"." * 40, b"9" * 5000,
)  # fmt: skip
_LINES = (
    b"", b"0", b"-1", b"1 1", b"0 0 0", b"-1 -1 -1", b"2 2 2 2 2 2 2 2 2", b"32 24 4 1", b"65536 65536 65536",
    b"4294967295 4294967295 2", b"2147483648 2 1", b"46341 46341 2", b"500 500 500", b"nan nan nan", b"inf inf inf",
    b"1e308 1e308 1e308", b"(1,0,0) (0,1,0) (0,0,0)", b"(nan,0,0) (0,1,0) (0,0,1)", b"none", b"(0,0)", b"float",
    b"double", b"block", b"MET_DOUBLE", b"MET_OTHER", b"MET_LONG_LONG", b"MET_USHORT_ARRAY", b"uchar", b"int64",
    b"raw", b"gzip", b"bzip2", b"hex", b"ascii", b"text", b"True", b"False", b"big", b"little", b"LOCAL", b"LIST",
    b"LIST 2", b"%03d.raw 0 99999999 1", b"scan%d.raw 1 2 0", b"%s%s%s%n", b"/dev/zero", b"/etc/hostname",
    b"../scan.raw", b"scan.mhd", b"scan.nrrd", b".", b"/", b"http://localhost/x", b"scan.raw\0x", b"a" * 300,
    b"a" * 70000, b"-2147483649", b"99999999999999999999", b"3", b"16", b"17", b"space", b"left-posterior-superior",
    b"scanner-xyz-time", b"RAI", b"\xff\xfe", b'"unit" "', b"domain domain domain", b"vector 3-color list",
    b"cell node ???",
)  # fmt: skip
_KEYS = (
    b"byte skip: ", b"line skip: ", b"data file: ", b"type: ", b"sizes: ", b"dimension: ", b"block size: ", b"kinds: ",
    b"space dimension: ", b"space: ", b"spacings: ", b"axis mins: ", b"old min: ", b"measurement frame: ", b"units: ",
    b"HeaderSize = ", b"ElementNumberOfChannels = ", b"CompressedDataSize = ", b"BinaryData = ", b"NDims = ",
    b"ElementToIntensityFunctionSlope = ", b"ElementDataFile = ", b"ObjectType = ", b"Orientation = ", b"DimSize = ",
    b"ElementSize = ", b"TransformMatrix = ", b"Modality = ", b"CenterOfRotation = ", b"AnatomicalOrientation = ",
)  # fmt: skip


def _flipped_bits(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    out = bytearray(content)
    for _ in range(int(rng.choice([1, 2, 8, 64]))):
        if out:
            out[_place(rng, len(out), kind)] ^= 1 << int(rng.integers(8))
    return bytes(out)


def _replaced_bytes(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    out = bytearray(content)
    for _ in range(int(rng.choice([1, 4, 32]))):
        if out:
            out[_place(rng, len(out), kind)] = int(rng.choice([0, 1, 127, 128, 255, int(rng.integers(256))]))
    return bytes(out)


def _moved_span(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    """Deleted, zeroed, doubled, swapped for noise, or inserted elsewhere."""
    start = _place(rng, len(content), kind)
    span = content[start : start + int(rng.choice([1, 2, 4, 8, 64, 1000]))]
    rest = content[start + len(span) :]
    match int(rng.integers(5)):
        case 0:
            return content[:start] + rest
        case 1:
            return content[:start] + bytes(len(span)) + rest
        case 2:
            return content[:start] + span * int(rng.choice([2, 3, 50])) + rest
        case 3:
            return content[:start] + rng.bytes(len(span)) + rest
    to = _place(rng, len(content), kind)
    return content[:to] + span + content[to:]


def _truncated(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    at = int(rng.choice([0, 1, 128, 132, 140, 348, 352, len(content) - 1, _place(rng, len(content), kind)]))
    return content[: max(0, at)]


def _spliced(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    """The beginning of one file and the end of another, often of another format."""
    other = kind if rng.random() < 0.5 else FORMATS[rng.integers(len(FORMATS))]
    variants = seeds(other)
    end = next(iter(variants[rng.integers(len(variants))].values()))
    at = _place(rng, len(content), kind)
    return content[:at] + end[at if rng.random() < 0.5 else _place(rng, len(end), other) :]


def _absurd_text(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    """Decimal numbers in the header replaced, of the same length where that can be."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", content[: _header_bytes(kind)]))
    if not found:
        return content
    one = found[rng.integers(len(found))]
    text = _TEXTS[rng.integers(len(_TEXTS))]
    if rng.random() < 0.7:
        text = text[: len(one[0])].ljust(len(one[0]))
    return content[: one.start()] + text + content[one.end() :]


def _absurd_number(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    """A binary number of the header replaced: a value or a length of DICOM, a field of NIfTI, else any bytes."""
    if not content:
        return content
    order = ">" if kind == "dicom big endian" else "<"
    value = int(rng.choice(np.array(_NUMBERS, np.uint64)))
    if kind.startswith("nifti"):
        at, code = _NIFTI[rng.integers(len(_NIFTI))]
        floats = (0.0, -1.0, 1.0, 1e-30, 1e30, 3e38, float("nan"), float("inf"), 352.5, 2.0**31, -(2.0**63), 0.5)
        new = floats[rng.integers(len(floats))] if code == "f" else _wrapped(value, struct.calcsize(code), signed=True)
        packed = struct.pack(order + code, new)
    else:
        spots = _dicom_numbers(content, kind) if kind.startswith("dicom") else []
        spots = spots or [(_place(rng, len(content), kind), int(n)) for n in (2, 4)]
        at, size = spots[rng.integers(len(spots))]
        packed = struct.pack(order + {2: "H", 4: "I"}[size], _wrapped(value, size, signed=False))
    return content[:at] + packed + content[at + len(packed) :]


def _wrapped(value: int, size: int, *, signed: bool) -> int:
    value %= 1 << 8 * size
    return value - (1 << 8 * size) if signed and value >> (8 * size - 1) else value


_NIFTI = (
    [(0, "i"), (344, "i"), *((40 + 2 * k, "h") for k in range(8)), (68, "h"), (70, "h"), (72, "h"), (252, "h"),
     (254, "h"), (123, "b")]
    + [(at, "f") for at in (*range(76, 120, 4), *range(256, 328, 4))]
)  # fmt: skip
"""Fields of NIfTI-1: sizes, types, spacings, where the voxels are, rescale, quaternion and matrix."""


def _dicom_numbers(content: bytes, kind: str) -> list[tuple[int, int]]:
    """Where lengths of elements and 16-bit values lie, by the look of the tags: (byte, size)."""
    order = "little" if kind != "dicom big endian" else "big"
    spots = []
    head = content[: _header_bytes(kind)]
    for tag in (*_TAGS, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD, 0x7FE00010, 0x00020010, 0x00020000):
        key = (tag >> 16).to_bytes(2, order) + (tag & 0xFFFF).to_bytes(2, order)
        at = head.find(key)
        while at >= 0:
            is_explicit = content[at + 4 : at + 6].isupper() and content[at + 4 : at + 6].isalpha()
            is_long = content[at + 4 : at + 6] in {b"OB", b"OW", b"SQ", b"UN"}
            spots.append((at + (8 if is_long else 6 if is_explicit else 4), 2 if is_explicit and not is_long else 4))
            if tag >> 16 == 0x0028:
                spots.append((at + 8, 2))
            at = head.find(key, at + 4)
    return spots


_TAGS = [
    int(pydicom.datadict.tag_for_keyword(keyword) or 0)
    for keyword in (
        "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "SamplesPerPixel",
        "PixelPaddingValue", "PixelPaddingRangeLimit", "NumberOfFrames", "PixelSpacing", "RescaleSlope", "RescaleType",
        "RescaleIntercept", "ImagePositionPatient", "ImageOrientationPatient", "ImageType", "Modality", "KVP",
        "ConvolutionKernel", "SeriesInstanceUID", "PatientName", "PatientID", "SpecificCharacterSet", "SOPClassUID",
        "ReferencedImageSequence", "PurposeOfReferenceCodeSequence", "SharedFunctionalGroupsSequence",
        "PerFrameFunctionalGroupsSequence", "PlanePositionSequence", "PixelMeasuresSequence", "Manufacturer",
        "SliceThickness",
        "PlaneOrientationSequence", "PixelValueTransformationSequence", "AcquisitionNumber", "BodyPartExamined",
    )
]  # fmt: skip


def _absurd_line(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    """A line of a text header given another value, left out, doubled, swapped or added."""
    cut = content.find(b"\n\n") if kind.startswith("nrrd") else content.find(b"\n", content.find(b"ElementDataFile"))
    head, rest = (content, b"") if cut < 0 else (content[:cut], content[cut:])
    lines = head.split(b"\n")
    at = int(rng.integers(len(lines)))
    value = _LINES[rng.integers(len(_LINES))]
    key = re.match(rb"[^:=]*[:=]+ ?", lines[at])
    match int(rng.integers(8)):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, lines[rng.integers(len(lines))])
        case 2:
            other = int(rng.integers(len(lines)))
            lines[at], lines[other] = lines[other], lines[at]
        case 3:
            lines.insert(max(1, at), _KEYS[rng.integers(len(_KEYS))] + value)
        case _:
            lines[at] = (key[0] if key else b"") + value
    return b"\n".join(lines) + rest


def _repacked(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    """What was deflated, mutated within and deflated again, or another number of bytes of it."""
    mutate = (_absurd_number, _flipped_bits, _moved_span, _truncated, _absurd_text)[rng.integers(5)]
    try:
        if kind == "nifti gz":
            return gzip.compress(mutate(gzip.decompress(content), rng, kind), mtime=0)
        if kind == "nrrd gzip":
            head, _, packed = content.partition(b"\n\n")
            unpacked = gzip.decompress(packed)
            longer = unpacked * 3 if rng.random() < 0.3 else _truncated(unpacked, rng, kind)
            return head + b"\n\n" + gzip.compress(longer, mtime=0)
        if kind == "dicom deflated":
            start = 132 + 12 + struct.unpack_from("<I", content, 140)[0]
            body = mutate(zlib.decompress(content[start:], -zlib.MAX_WBITS), rng, kind)
            packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
            return content[:start] + packer.compress(body) + packer.flush()
    except (OSError, EOFError, zlib.error, struct.error):  # a second mutation of one file
        pass
    return mutate(content, rng, kind)


def _bomb(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    """Three hundred million zeros behind what is deflated."""
    if kind == "dicom deflated" and len(content) > 144:
        return content[: 132 + 12 + struct.unpack_from("<I", content, 140)[0] % len(content)] + _zeros()
    zeros = b"\x1f\x8b\x08" + bytes(7) + _zeros() + struct.pack("<II", _zeros_crc(), 300 * 10**6)
    if kind == "nifti gz":
        return content + zeros if rng.random() < 0.5 else zeros
    return content.partition(b"\n\n")[0] + b"\n\n" + zeros


_FILLS = (
    b"\0", b"\xff", b"\n", b"a", b"0 ", b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\x08\x00\x05\x00CS\0\0",
)  # fmt: skip
"""Among them items of sequences, and elements without values."""


def _swollen(content: bytes, rng: np.random.Generator, kind: str) -> bytes:
    """Eight million bytes put in, all alike."""
    fill = _FILLS[rng.integers(len(_FILLS))]
    at = _place(rng, len(content), kind)
    return content[:at] + fill * (8 * 10**6 // len(fill)) + content[at:]


@functools.cache
def _zeros() -> bytes:
    """Three hundred million of them, deflated."""
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    million = packer.compress(bytes(10**6)) + packer.flush(zlib.Z_FULL_FLUSH)
    return million * 300 + packer.flush()


@functools.cache
def _zeros_crc() -> int:
    crc = 0
    for _ in range(300):
        crc = zlib.crc32(bytes(10**6), crc)
    return crc


_MUTATIONS: tuple[Mutation, ...] = (
    _flipped_bits, _replaced_bytes, _moved_span, _truncated, _spliced, _absurd_text, _absurd_number, _absurd_line,
    _repacked, _swollen, _bomb,
)  # fmt: skip


def _weights(kind: str) -> np.ndarray:
    """How likely each mutation is for a format."""
    is_text, is_deflated = kind.startswith(("nrrd", "mh")), kind in {"nifti gz", "nrrd gzip", "dicom deflated"}
    weights = np.array([2, 1, 2, 1.5, 1, 2, 0 if is_text else 4, 6 * is_text, 4 * is_deflated, 0.2, 0.2 * is_deflated])
    return weights / weights.sum()


def _header_bytes(kind: str) -> int:
    return 352 if kind == "nifti" else 600 if kind in {"nrrd", "nrrd gzip", "mha", "mhd"} else 3000


def _place(rng: np.random.Generator, length: int, kind: str) -> int:
    """A byte, most often one of the header."""
    if length < 1:
        return 0
    return int(rng.integers(min(length, _header_bytes(kind)) if rng.random() < 0.75 else length))
