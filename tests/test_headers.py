"""The walk over a DICOM file finds what pydicom finds."""

import io
import struct
import tracemalloc
import warnings
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from dicom_files import enhanced_dataset, scan_hu, slice_dataset, write_series
from hilum.errors import ReadError
from hilum.reading.dicom.frames import read_frames
from hilum.reading.dicom.header_scan import KEYWORDS, scan
from hilum.reading.dicom.values import texts
from hilum.reading.doctor import examine
from hilum.reading.identity import hashed
from hilum.reading.reader import read

STORED = np.arange(48, dtype=np.uint16).reshape(6, 8)
LIMIT = 10**8


def _item(depth: int) -> Dataset:
    item = Dataset()
    item.Rows = 7  # a wanted element where it must not be taken from
    item.SeriesInstanceUID = "9.9.9"
    if depth:
        item.SourceImageSequence = Sequence([_item(depth - 1), Dataset()])
    return item


def _bytes(dataset, *, undefined: bool = False, edges: bool = False) -> bytes:
    """A file's bytes; sequences of undefined length where wanted."""
    for element in dataset.iterall():
        if element.VR == "SQ":
            element.is_undefined_length = undefined
            for item in element.value:
                item.is_undefined_length_sequence_item = undefined
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue() + (b"\xfc\xff\xfc\xff\x00\x00\x02\x00\x00\x00\x00\x00" if edges else b"")


_values = st.fixed_dictionaries(
    {
        "ImageType": st.lists(st.sampled_from(["ORIGINAL", "PRIMARY", "AXIAL", "X"]), min_size=1, max_size=5),
        "PatientID": st.text("abcXYZ019 ^-", max_size=20).map(str.strip),
        "AcquisitionTime": st.sampled_from(["", "101112", "101112.123456"]),
        "ConvolutionKernel": st.sampled_from([None, "", "B30f", ["Br40d", "3"]]),
        "ImageComments": st.text("ab ", max_size=40),
    }
)


def _by_pydicom(content: bytes) -> dict[str, bytes]:
    """The wanted elements as a parser finds them, unconverted."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        dataset = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True)
        found = {}
        for keyword in KEYWORDS:
            if keyword in dataset:
                raw = dataset.get_item(keyword).value
                parts = raw if isinstance(raw, list | tuple) else [raw or ""]
                found[keyword] = raw if isinstance(raw, bytes) else "\\".join(map(str, parts)).encode("latin-1")
    return found


def _without_padding(values) -> dict[str, bytes]:
    """Texts as the walk gives them: trailing blanks and NUL, and leading blanks, mean nothing (PS3.5 6.2)."""
    binary = {"US", "UL", "FD", "SQ", "US or SS"}
    return {k: v if dictionary_VR(k) in binary else v.strip(b"\0 ") for k, v in values.items()}


@given(
    _values,
    st.sampled_from([ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]),
    st.integers(0, 3),
    st.booleans(),
    st.booleans(),
)
def test_the_walk_finds_what_pydicom_finds(values, syntax, depth, undefined, private):
    stored = STORED.astype(">u2") if syntax == ExplicitVRBigEndian else STORED
    dataset = slice_dataset(stored, (1, 2, 3), syntax=syntax, PixelRepresentation=0, **values)
    dataset.ReferencedImageSequence = Sequence([_item(depth), Dataset()])
    if private:
        block = dataset.private_block(0x29, "A VENDOR", create=True)
        block.add_new(1, "SQ", Sequence([_item(depth)]))
        block.add_new(2, "OB", bytes(2000))
    content = _bytes(dataset, undefined=undefined, edges=private)
    elements = scan(content, len(content), lambda: content)
    assert elements.values == _without_padding(_by_pydicom(content))
    assert content[elements.pixels :].startswith(stored.tobytes())


@pytest.mark.parametrize("undefined", [False, True])
@pytest.mark.parametrize("shared_rescale", [False, True])
def test_the_walk_finds_what_pydicom_finds_in_each_frame(undefined, shared_rescale):
    dataset = enhanced_dataset(scan_hu(), order=[3, 0, 4, 1, 2], shared_rescale=shared_rescale)
    dataset.SharedFunctionalGroupsSequence[0].ReferencedImageSequence = Sequence([_item(2)])
    content = _bytes(dataset, undefined=undefined)
    elements = scan(content, len(content), lambda: content)
    for values, item in zip(elements.frames, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = item.PlanePositionSequence[0].ImagePositionPatient
        assert [float(v) for v in values["ImagePositionPatient"].split(b"\\")] == list(position)
        assert values["RescaleIntercept"].strip() == b"-1024.0"
        assert values["PixelSpacing"].strip() == b"0.75\\0.5"
        assert "Rows" not in values


def test_the_walk_finds_what_pydicom_finds_in_every_real_file(shared_data):
    walked = 0
    for path in sorted(p for p in shared_data.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            if file.read(132)[128:] != b"DICM":
                continue
        content = path.read_bytes()
        elements = scan(content[: 1 << 14], len(content), lambda content=content: content)
        assert elements.values == _without_padding(_by_pydicom(content)), path
        walked += 1
    assert walked > 400


@pytest.mark.parametrize("filling", [b"\0", b"\xfe\xff\x00\xe0\0\0\0\0", b"\x08\0\x08\0CS\0\0"])
def test_a_file_filled_with_one_thing_is_damaged_at_once(tmp_path, filling):
    """As a damaged disk leaves them: a parser would take each eight bytes for an element."""
    (path, *_) = write_series(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[:400] + filling * (8_000_000 // len(filling)))
    with pytest.raises(ReadError, match="a damaged"):
        read_frames(path, LIMIT)


def _element(group: int, element: int, vr: bytes, value: bytes, *, undefined: bool = False) -> bytes:
    """An explicit element with a long length."""
    head = struct.pack("<HH2sH", group, element, vr, 0)
    return head + (b"\xff\xff\xff\xff" if undefined else struct.pack("<I", len(value))) + value


@pytest.mark.parametrize("nested", [False, True])
def test_what_is_unknown_and_of_undefined_length_is_implicit_within(tmp_path, nested):
    """PACSs write private sequences so (PS3.5 6.2.2, note 2)."""
    inner = struct.pack("<HHI", 0x0029, 0x1001, 8) + b"SLICEMAP"
    if nested:
        inner += struct.pack("<HHI", 0x0029, 0x1002, 0xFFFFFFFF) + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner
        inner += b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    item = b"\xfe\xff\x00\xe0\xff\xff\xff\xff" + inner + b"\xfe\xff\x0d\xe0\0\0\0\0"
    unknown = _element(0x0029, 0x1010, b"UN", item + b"\xfe\xff\xdd\xe0\0\0\0\0", undefined=True)
    for path in write_series(tmp_path):
        content = path.read_bytes()
        pixels = content.rindex(b"\xe0\x7f\x10\x00")
        path.write_bytes(content[:pixels] + unknown + content[pixels:])
    assert np.array_equal(read(tmp_path).voxels_hu, scan_hu())


@pytest.mark.parametrize("before", ["length of the group", "offset table"])
def test_what_stands_before_the_pixels_in_their_group_is_passed_over(tmp_path, before):
    extra = struct.pack("<HH2sHI", 0x7FE0, 0, b"UL", 4, 108)
    extra = extra if before == "length of the group" else _element(0x7FE0, 1, b"OV", bytes(16))
    for path in write_series(tmp_path):
        content = path.read_bytes()
        pixels = content.rindex(b"\xe0\x7f\x10\x00")
        path.write_bytes(content[:pixels] + extra + content[pixels:])
    assert np.array_equal(read(tmp_path).voxels_hu, scan_hu())


@pytest.mark.parametrize(
    ("is_really", "says"),
    [(ImplicitVRLittleEndian, ExplicitVRLittleEndian), (ExplicitVRLittleEndian, ImplicitVRLittleEndian)],
)
def test_a_file_is_read_by_what_it_is_not_by_what_it_says(tmp_path, is_really, says):
    for path in write_series(tmp_path, syntax=is_really):
        content = path.read_bytes()
        old, new = (uid.encode() + b"\0" * (len(uid) % 2) for uid in (is_really, says))
        at = content.index(b"\x02\0\x10\0UI")
        length = len(new).to_bytes(2, "little")
        path.write_bytes(content[: at + 6] + length + new + content[at + 8 + len(old) :])
    assert np.array_equal(read(tmp_path).voxels_hu, scan_hu())


def test_a_header_longer_than_what_is_read_at_first_is_read_whole(tmp_path):
    for k, hu in enumerate(scan_hu()):
        dataset = slice_dataset((hu.astype(np.int32) + 1024).astype(np.uint16), (-10, -20, 30 + 2.5 * k))
        dataset.private_block(0x29, "A VENDOR", create=True).add_new(1, "OB", bytes(200_000))
        dataset.save_as(tmp_path / f"{k}.dcm", enforce_file_format=True)
    assert np.array_equal(read(tmp_path).voxels_hu, scan_hu())


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_file_without_preamble_is_read(tmp_path, syntax):
    for path in write_series(tmp_path, syntax=syntax):
        content = path.read_bytes()
        start = content.index(b"\x08\x00\x08\x00")  # ImageType, the first element of the data set
        path.write_bytes(content[start:])
    assert np.array_equal(read(tmp_path).voxels_hu, scan_hu())


@pytest.mark.parametrize("syntax", [DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_deflated_or_big_endian_series_is_the_same_volume(tmp_path, syntax):
    write_series(tmp_path / "plain")
    stored = (scan_hu().astype(np.int32) + 1024).astype(">u2" if syntax == ExplicitVRBigEndian else "<u2")
    write_series(tmp_path / "other", stored=stored, syntax=syntax, PixelRepresentation=0)
    one, other = read(tmp_path / "plain"), read(tmp_path / "other")
    assert np.array_equal(one.voxels_hu, other.voxels_hu)
    assert one.affine.tobytes() == other.affine.tobytes()


def test_a_deflated_enhanced_file_is_inflated_once_for_all_its_frames(tmp_path):
    dataset = enhanced_dataset(scan_hu(), order=[3, 0, 4, 1, 2])
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "e.dcm", enforce_file_format=True)
    assert np.array_equal(read(tmp_path / "e.dcm").voxels_hu, scan_hu())


def test_a_deflated_file_is_inflated_no_further_than_its_pixels_go(tmp_path):
    """A small file can inflate without end."""
    (path, *_) = write_series(tmp_path, syntax=DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    start = 132 + 12 + content[140]  # the group's length, and what it counts
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(zlib.decompress(content[start:], -zlib.MAX_WBITS)) + packer.compress(bytes(300_000_000))
    path.write_bytes(content[:start] + bomb + packer.flush())
    tracemalloc.start()
    try:
        assert np.isin(read(tmp_path).voxels_hu, scan_hu()).all()
        assert tracemalloc.get_traced_memory()[1] < 60_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("tail", [b"\0", b"x" * 3000])
def test_what_follows_a_deflated_file_is_not_waited_for(tmp_path, tail):
    """zlib gives a stale rest back for ever."""
    for path in write_series(tmp_path, syntax=DeflatedExplicitVRLittleEndian, PixelData=bytes(90)):
        path.write_bytes(path.read_bytes() + tail)
    with pytest.raises(ReadError, match="truncated-file"):
        read(tmp_path)


def test_a_deflated_file_that_ends_too_soon_is_truncated(tmp_path):
    (path, *_) = write_series(tmp_path, syntax=DeflatedExplicitVRLittleEndian)
    path.write_bytes(path.read_bytes()[:-20])
    (found,), _ = examine(tmp_path)
    assert "truncated-file" in {f.code for f in found.findings}


@pytest.mark.parametrize(
    ("character_set", "stored", "text"),
    [
        ("ISO_IR 100", "Müller-7".encode("latin-1"), "Müller-7"),
        ("ISO_IR 192", "Müller-7".encode(), "Müller-7"),
        ("", "M\xfcller".encode("latin-1"), "M"),
        ("nonsense", "Müller-7".encode("latin-1"), "M"),
        ("n\xf6nsense", "Müller-7".encode("latin-1"), "M"),
    ],
)
def test_identifiers_are_decoded_by_the_character_set_of_the_file(character_set, stored, text):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (got,) = texts(stored, character_set.encode("latin-1"))
    assert got.startswith(text)


def test_a_patient_id_in_another_character_set_has_the_hash_of_its_text(tmp_path):
    for number, (character_set, name) in enumerate([("ISO_IR 100", "a"), ("ISO_IR 192", "b")]):
        write_series(tmp_path / name, SpecificCharacterSet=character_set, PatientID="Müller-7", StudyID=str(number))
        assert read(tmp_path / name).tags.patient == hashed("patient", "Müller-7")


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("RescaleSlope", "0"),
        ("RescaleSlope", "1e300"),
        ("RescaleIntercept", "-1e200"),
        ("BitsAllocated", 64),
        ("Rows", 0),
    ],
)
def test_a_rescale_or_word_that_no_scanner_writes_is_a_damaged_header(tmp_path, keyword, value):
    paths = write_series(tmp_path, **{keyword: value})
    with pytest.raises(ReadError, match="a damaged header"):
        read_frames(paths[0], LIMIT)


def test_what_is_no_dicom_file_has_no_frames(tmp_path):
    (tmp_path / "text").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "group8").write_bytes(b"\x08\x00\x08\x00" + bytes(100))
    assert [read_frames(tmp_path / name, LIMIT) for name in ("text", "empty", "group8")] == [None, None, None]


def test_slices_that_agree_share_one_header(tmp_path):
    headers = {id(read_frames(path, LIMIT)[0].header) for path in write_series(tmp_path)}
    assert len(headers) == 1


@pytest.mark.parametrize("keyword", ["Modality", "RescaleType", "ConvolutionKernel", "ImageType", "Manufacturer"])
def test_a_text_that_swallowed_what_follows_it_is_not_shown(tmp_path, keyword):
    """A damaged length: the element holds those after it, names among them."""
    for path in write_series(tmp_path, PatientName="SENTINEL^ANNA", Manufacturer="ACME"):
        content = bytearray(path.read_bytes())
        tag = pydicom.tag.Tag(keyword)
        at = content.index(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little"), 132)
        length = content[at + 6]
        content[at + 6 : at + 8] = (length + 60).to_bytes(2, "little")
        path.write_bytes(bytes(content))
    found, loose = examine(tmp_path)
    said = repr(found) + repr(loose) + (str(found[0].as_dict()) if found else "")
    assert "SENTINEL" not in said
    assert "\\x0" not in said


def test_a_damaged_class_is_no_warning(tmp_path):
    (path, *_) = write_series(tmp_path)
    dataset = pydicom.dcmread(path)
    del dataset.Rows
    dataset.save_as(path)
    content = path.read_bytes()
    path.write_bytes(
        content.replace(dataset.SOPClassUID.encode(), b"1.2.SENTINEL.10008.5.1.4.1.1"[: len(dataset.SOPClassUID)])
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ReadError, match="no rows and columns"):
            read_frames(path, LIMIT)
