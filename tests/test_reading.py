"""Whatever the format, the same scan is the same Volume, and what is no CT volume is refused in one line."""

import dataclasses
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, RLELossless

from dicom_files import SERIES, enhanced_dataset, scan_hu, slice_dataset, write_series
from hilum.errors import GeometryError, ReadError
from hilum.preparing import prepare
from hilum.reading import identity as identity_module
from hilum.reading.dicom import pixels as pixels_module
from hilum.reading.dicom.frames import read_frames
from hilum.reading.dicom.pixels import slice_hu
from hilum.reading.dicom.series import find_series
from hilum.reading.doctor import examine
from hilum.reading.identity import hashed, is_placeholder
from hilum.reading.reader import read
from hilum.reading.rescale import unpacked
from hilum.settings.run import Recipe
from hilum.volume import Volume, affine_from, reorient

FORMATS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")


def _codes(volume):
    return [f.code for f in volume.findings]


def _image(path: Path, voxels: np.ndarray) -> Path:
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(path))
    return path


def _same(one: Volume, other: Volume) -> bool:
    """Bit for bit: type, voxels and affine."""
    return (
        one.voxels_hu.dtype == other.voxels_hu.dtype
        and np.array_equal(one.voxels_hu, other.voxels_hu)
        and one.affine.tobytes() == other.affine.tobytes()
    )


# DICOM: order, geometry


def test_a_shuffled_series_is_read_feet_to_head_with_spacing_from_positions(tmp_path):
    """SliceThickness says 2.5 mm and SpacingBetweenSlices 9 mm: neither is believed."""
    write_series(tmp_path, step_mm=(0, 0, 1.75), SliceThickness="2.5", SpacingBetweenSlices="9")
    volume = read(tmp_path)
    assert np.array_equal(volume.voxels_hu, scan_hu())
    assert volume.voxels_hu.dtype == np.int16
    assert volume.spacing_mm == (1.75, 0.75, 0.5)
    assert np.array_equal(volume.affine, affine_from(spacing_mm=(1.75, 0.75, 0.5), origin_mm=(-10.0, -20.0, 30.0)))


def test_slices_are_sorted_along_their_normal_not_along_z(tmp_path):
    """Sagittal slices all have z alike; their order is along x."""
    write_series(tmp_path, step_mm=(2.5, 0, 0), ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    volume = read(tmp_path)
    assert volume.spacing_mm == (0.75, 0.5, 2.5)
    for k in range(5):
        point = np.array([-10, -20, 30]) + k * np.array([2.5, 0, 0]) + np.array([0, 3 * 0.5, -2 * 0.75])
        at = np.rint(volume.mm_to_index(point)).astype(int)
        assert volume.voxels_hu[tuple(at)] == scan_hu()[k, 2, 3]


def test_an_oblique_series_keeps_its_affine_and_says_so(tmp_path):
    c, s = np.cos(np.radians(10)), np.sin(np.radians(10))
    write_series(tmp_path, step_mm=(0, -2.5 * s, 2.5 * c), ImageOrientationPatient=[1, 0, 0, 0, c, s])
    volume = read(tmp_path)
    assert _codes(volume) == ["few-slices", "oblique"]
    assert "10.0 degrees" in str(volume.findings[1])
    assert volume.voxel_mm3 == pytest.approx(2.5 * 0.75 * 0.5, rel=1e-4)
    assert np.allclose(volume.affine[:3, 1], np.array([0, c, s]) * 0.75, atol=1e-5)


@pytest.mark.parametrize("angle", [-14.0, 14.0])
def test_a_tilted_gantry_is_kept_as_shear_and_found_whatever_its_sign(tmp_path, angle):
    shift = 2.5 * np.tan(np.radians(angle))
    write_series(tmp_path, step_mm=(0, shift, 2.5))
    volume = read(tmp_path)
    assert "gantry-tilt" in _codes(volume)
    assert any("14.0 degrees" in f.message for f in volume.findings)
    assert np.allclose(volume.affine[:3, 0], [0, shift, 2.5], atol=1e-5)
    assert volume.voxel_mm3 == pytest.approx(2.5 * 0.75 * 0.5, rel=1e-4)


def test_a_prone_series_stored_turned_lies_where_the_patient_lay(tmp_path):
    write_series(tmp_path, ImageOrientationPatient=[-1, 0, 0, 0, -1, 0])
    volume = read(tmp_path)
    assert np.array_equal(volume.voxels_hu, scan_hu()[:, ::-1, ::-1])
    assert volume.index_to_mm((0, 5, 7)).tolist() == [-10, -20, 30]


_origins = st.floats(-900, 900).map(lambda v: round(v, 6)) | st.integers(-900_000, 900_000).map(
    lambda k: k / 1e3 + 5e-4
)


@settings(max_examples=20)
@given(st.floats(0.5, 6).map(lambda v: round(v, 3)), st.tuples(_origins, _origins, _origins))
def test_every_format_gives_the_affine_of_the_dicom_series_bit_for_bit(tmp_path_factory, step, origin):
    """NIfTI holds single precision: numbers just between two roundings must not fall apart."""
    folder = tmp_path_factory.mktemp("formats")
    write_series(folder / "dicom", origin_mm=origin, step_mm=(0, 0, step), SliceThickness=None)
    volume = read(folder / "dicom")
    raw = Volume(voxels_hu=scan_hu(), affine=affine_from(spacing_mm=(step, 0.75, 0.5), origin_mm=tuple(origin)))
    for suffix in (".nii", ".nrrd", ".mha"):
        raw.write(folder / f"scan{suffix}")
        assert _same(read(folder / f"scan{suffix}"), volume)
    shutil.rmtree(folder)


# DICOM: several series, missing, repeated, foreign


def test_a_folder_of_two_series_is_read_with_the_reason_for_one_or_by_name(tmp_path):
    """Defect 1: the tutorial takes the first series in a folder, silently."""
    write_series(tmp_path / "a")
    write_series(tmp_path / "b", scan_hu(3) + 7, SeriesInstanceUID="1.2.3.4", ConvolutionKernel="B60f")
    chosen = read(tmp_path)
    assert chosen.shape[0] == 5
    assert any(f.code == "mixed-series" and "one of 2 series" in f.message for f in chosen.findings)
    by_uid = read(tmp_path, series="1.2.3.4")
    by_hash = read(tmp_path, series=hashed("series", SERIES))
    assert by_uid.shape[0] == 3
    assert by_hash.shape[0] == 5
    assert _codes(by_uid) == ["few-slices", "mixed-series"]
    with pytest.raises(ReadError, match=r"there are no series 9\.9: series-"):
        read(tmp_path, series="9.9")


def test_a_series_that_is_not_there_is_an_error_even_where_there_is_only_one(tmp_path):
    write_series(tmp_path)
    with pytest.raises(ReadError, match=r"there are no series 9\.9"):
        read(tmp_path, series="9.9")


def test_missing_slices_are_refused_with_number_place_and_gap(tmp_path):
    """Defect 1: the tutorial closes the gap silently and stretches the spacing."""
    paths = write_series(tmp_path, scan_hu(12))
    paths[5].unlink()
    paths[6].unlink()
    with pytest.raises(
        GeometryError,
        match=rf"missing slices: 2, places: 1; the first, a gap of 7\.5 mm at z = 40\.0 mm.*after {paths[4].name}",
    ):
        read(tmp_path)


def test_uneven_steps_are_refused(tmp_path):
    for k, z in enumerate([0, 2.5, 5, 8.3, 10]):
        slice_dataset(scan_hu()[k].astype(np.uint16), (0, 0, z)).save_as(
            tmp_path / f"{k}.dcm", enforce_file_format=True
        )
    with pytest.raises(GeometryError, match=r"irregular-spacing.*from 1\.7 to 3\.3 mm"):
        read(tmp_path)


def test_exact_copies_of_slices_are_dropped_and_reported(tmp_path):
    """Defect 1: the tutorial counts them as slices and shrinks the spacing."""
    paths = write_series(tmp_path)
    shutil.copy(paths[2], tmp_path / "copy.dcm")
    volume = read(tmp_path)
    assert np.array_equal(volume.voxels_hu, scan_hu())
    assert volume.spacing_mm[0] == 2.5
    assert "duplicate-slices" in _codes(volume)


def test_slices_that_differ_at_one_position_are_refused_as_a_time_series(tmp_path):
    write_series(tmp_path / "first")
    write_series(tmp_path / "second", scan_hu() + 1)
    with pytest.raises(
        GeometryError,
        match=r"time-series \(refused\): two slices differ at one position.*\[\w+/IM\d+\.dcm, \w+/IM\d+\.dcm\]",
    ):
        read(tmp_path)


def test_many_slices_at_one_position_are_no_volume(tmp_path):
    write_series(tmp_path, step_mm=(0, 0, 0))
    with pytest.raises(GeometryError, match="5 slices lie at 1 position"):
        read(tmp_path)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_slices_are_no_volume(tmp_path, count):
    write_series(tmp_path, scan_hu(count))
    with pytest.raises(GeometryError, match=f"single-slice.*must have at least 3 slices, got {count}"):
        read(tmp_path)


def test_thin_slices_far_apart_are_refused(tmp_path):
    write_series(tmp_path, step_mm=(0, 0, 10), SliceThickness="1")
    with pytest.raises(GeometryError, match="slices of 1 mm every 10 mm leave gaps"):
        read(tmp_path)


@pytest.mark.parametrize("thickness", ["", None])
def test_a_series_without_a_slice_thickness_is_read(tmp_path, thickness):
    write_series(tmp_path, SliceThickness=thickness)
    assert read(tmp_path).tags.thickness_mm is None


def test_slices_of_two_sizes_in_one_series_are_refused(tmp_path):
    write_series(tmp_path)
    other = slice_dataset(np.zeros((4, 4), np.uint16), (-10, -20, 42.5))
    other.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(GeometryError, match=r"mixed-shape.*\(6, 8\) and \(4, 4\) pixels|\(4, 4\) and \(6, 8\) pixels"):
        read(tmp_path)


def test_a_slice_of_another_orientation_is_left_out_and_named(tmp_path):
    write_series(tmp_path)
    other = slice_dataset(np.zeros((6, 8), np.uint16), (0, 0, 0), ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    other.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    volume = read(tmp_path)
    assert np.array_equal(volume.voxels_hu, scan_hu())
    assert {"mixed-orientation", "mixed-series"} <= set(_codes(volume))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Modality": "MR"}, "modality is MR, must be CT"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, "localizer"),
        ({"ImageType": "LOCALIZER"}, "a localizer"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR", "MIP"]}, "derived-image.*MIP"),
        ({"RescaleType": "OD"}, "RescaleType is OD, must be HU"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "secondary-capture"),
        ({"ImagePositionPatient": None}, r"no usable ImagePositionPatient \(0020,0032\)"),
        ({"PixelSpacing": None}, r"no usable PixelSpacing \(0028,0030\)"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, r"no usable ImageOrientationPatient \(0020,0037\)"),
    ],
)
def test_what_is_no_scan_in_hu_is_refused_with_its_reason(tmp_path, changes, message):
    write_series(tmp_path, **changes)
    with pytest.raises(GeometryError, match=message):
        read(tmp_path)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"ImageType": ["DERIVED", "PRIMARY", "AXIAL"]}, "processed-image"),
        ({"LossyImageCompression": "01"}, "lossy-compression"),
        ({"RescaleIntercept": None, "RescaleSlope": None, "RescaleType": None}, "rescale-missing"),
    ],
)
def test_what_is_only_worth_knowing_is_a_note(tmp_path, changes, code):
    write_series(tmp_path, **changes)
    assert code in _codes(read(tmp_path))


def test_reports_and_directories_beside_a_series_are_passed_over(tmp_path):
    write_series(tmp_path)
    report = slice_dataset(
        np.zeros((2, 2), np.uint16), (0, 0, 0), PixelData=None, Rows=None, Columns=None, Modality="SR"
    )
    report.SOPClassUID = report.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.88.33"
    report.save_as(tmp_path / "report.dcm", enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".DS_Store").write_text("hidden")
    assert _codes(read(tmp_path)) == ["few-slices"]


# DICOM: pixels


def test_rescale_slope_and_intercept_are_applied_slice_by_slice(tmp_path):
    hu = scan_hu()
    tmp_path.joinpath("s").mkdir()
    for k in range(5):
        slope, intercept = k + 1, -1000 + 10 * k
        stored = np.arange(48, dtype=np.uint16).reshape(6, 8)
        hu[k] = stored.astype(int) * slope + intercept
        slice_dataset(stored, (0, 0, 2.5 * k), RescaleSlope=str(slope), RescaleIntercept=str(intercept)).save_as(
            tmp_path / "s" / f"{k}.dcm", enforce_file_format=True
        )
    assert np.array_equal(read(tmp_path / "s").voxels_hu, hu)


def test_a_fractional_slope_gives_float_voxels(tmp_path):
    write_series(tmp_path, RescaleSlope="0.5", RescaleIntercept="-1000.25")
    volume = read(tmp_path)
    assert volume.voxels_hu.dtype == np.float32
    assert np.allclose(volume.voxels_hu, (scan_hu() + 1024.0) * 0.5 - 1000.25)


def test_monochrome1_concerns_display_and_inverts_nothing(tmp_path):
    write_series(tmp_path, PhotometricInterpretation="MONOCHROME1")
    assert np.array_equal(read(tmp_path).voxels_hu, scan_hu())


def test_signed_pixels_keep_their_sign(tmp_path):
    write_series(tmp_path, stored=scan_hu(), RescaleIntercept="0")
    assert np.array_equal(read(tmp_path).voxels_hu, scan_hu())


def test_bits_above_bits_stored_are_masked(tmp_path):
    """Overlays were once kept in the upper four bits."""
    stored = (scan_hu().astype(np.int32) + 1024).astype(np.uint16) | 0xA000
    write_series(tmp_path, stored=stored, BitsStored=12, HighBit=11)
    assert np.array_equal(read(tmp_path).voxels_hu, scan_hu())


@cache
def _any_header():
    with tempfile.TemporaryDirectory() as folder:
        (path, *_) = write_series(Path(folder))
        (frame,) = read_frames(path, 10**9)
    return frame.header


@given(st.integers(2, 16), st.data())
def test_a_stored_value_is_found_wherever_its_bits_lie(bits, data):
    signed = data.draw(st.booleans())
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    value = data.draw(st.integers(low, high))
    high_bit = data.draw(st.integers(bits - 1, 15))
    dirt = data.draw(st.integers(0, 0xFFFF))
    field = ((1 << bits) - 1) << (high_bit + 1 - bits)
    word = ((value << (high_bit + 1 - bits)) & field) | (dirt & ~field & 0xFFFF)
    header = dataclasses.replace(_any_header(), bits=(16, bits, high_bit), is_signed=signed)
    words = np.array([[word]], np.uint16)
    got = unpacked(words.view(np.int16) if signed else words, header)
    if bits < 16:
        assert int(got[0, 0]) == value


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian])
def test_every_native_transfer_syntax_gives_the_same_voxels(tmp_path, syntax):
    stored = (scan_hu().astype(np.int32) + 1024).astype(">u2" if syntax == ExplicitVRBigEndian else "<u2")
    for k in range(5):
        one = slice_dataset(stored[k], (-10, -20, 30 + 2.5 * k), syntax=syntax, PixelRepresentation=0)
        one.save_as(tmp_path / f"{k}.dcm", enforce_file_format=True)
    assert np.array_equal(read(tmp_path).voxels_hu, scan_hu())


@pytest.mark.parametrize(
    ("kind", "vr", "named"),
    [("i2", "SS", -2000), ("i2", "US", 63536), ("u2", "US", 63536), ("u2", "SS", -2000)],
)
def test_padding_becomes_air_whatever_sign_its_tag_has(tmp_path, kind, vr, named):
    """The pixels hold -2000, or 63536 where they are unsigned; the tag may say either."""
    stored = scan_hu().astype(np.int32) + 1024
    stored[:, 0, :3] = stored[:, -1, -2:] = -2000
    series = tmp_path / "s"
    series.mkdir()
    for k in range(5):
        one = slice_dataset(stored[k].astype(np.uint16).view(kind), (-10, -20, 30 + 2.5 * k))
        one.add_new("PixelPaddingValue", vr, named)
        one.save_as(series / f"{k}.dcm", enforce_file_format=True)
    volume = read(series)
    padded = stored == -2000
    assert (volume.voxels_hu[padded] == -1000).all()
    assert np.array_equal(volume.voxels_hu[~padded], scan_hu()[~padded])
    assert "padding" in _codes(volume)


def test_a_padding_value_that_no_corner_holds_is_in_use_and_stays(tmp_path):
    stored = (scan_hu().astype(np.int32) + 1024).astype(np.uint16)
    water = int(stored[2, 3, 3])
    series = tmp_path / "s"
    write_series(series, PixelPaddingValue=water)
    assert np.array_equal(read(series).voxels_hu, scan_hu())


def test_padding_that_is_air_already_stays_so_that_other_formats_agree(tmp_path):
    hu = scan_hu()
    hu[:, 0, 0] = -1024
    write_series(tmp_path / "s", hu, PixelPaddingValue=0)
    volume = read(tmp_path / "s")
    volume.write(tmp_path / "s.nrrd")
    assert np.array_equal(volume.voxels_hu, hu)
    assert _same(read(tmp_path / "s.nrrd"), volume)


def test_metal_is_limited_to_what_a_scanner_can_measure_and_counted(tmp_path):
    hu = scan_hu()
    hu[2, 2, 2] = 9000
    write_series(tmp_path, hu)
    volume = read(tmp_path)
    assert volume.voxels_hu.max() == 3071
    assert any(f.code == "clipped" and f.message.startswith("1 voxels above 3071") for f in volume.findings)


def test_compressed_slices_decode_to_the_same_voxels_padding_too(tmp_path):
    stored = scan_hu().astype(np.int32) + 1024
    stored[:, 0, :3] = -2000
    for folder in ("native", "rle"):
        (tmp_path / folder).mkdir()
        for k in range(5):
            one = slice_dataset(stored[k].astype(np.uint16), (0, 0, 2.5 * k), PixelPaddingValue=63536)
            if folder == "rle":
                one.compress(RLELossless)
            one.save_as(tmp_path / folder / f"{k}.dcm", enforce_file_format=True)
    assert _same(read(tmp_path / "rle"), read(tmp_path / "native"))
    assert (read(tmp_path / "rle").voxels_hu[:, 0, :3] == -1000).all()


def test_padding_that_is_brighter_than_metal_is_padding_wherever_it_lies(tmp_path):
    """It can be nothing else; here no corner holds it."""
    stored = (scan_hu().astype(np.int32) + 1024).astype(np.uint16)
    stored[2, 3, 3:5] = 63536  # -2000, as its sign was lost
    write_series(tmp_path, stored=stored, PixelPaddingValue=63536)
    volume = read(tmp_path)
    assert volume.voxels_hu[2, 3, 3:5].tolist() == [-1000, -1000]
    assert "clipped" not in _codes(volume)


# DICOM: multi-frame


def test_a_compressed_multi_frame_file_is_decoded_once_for_all_that_is_asked_of_it(tmp_path, monkeypatch):
    """Once for each frame was once, and took hours."""
    dataset = enhanced_dataset(scan_hu(12))
    dataset.compress(RLELossless)
    dataset.save_as(tmp_path / "e.dcm", enforce_file_format=True)
    decoded = []
    original = pixels_module.decode
    monkeypatch.setattr(pixels_module, "decode", lambda path, *a, **k: decoded.append(path) or original(path, *a, **k))
    (examined,), _ = examine(tmp_path, pictures=True)
    assert examined.verdict == "ok"
    assert examined.score > 0
    assert len(decoded) == 1


def test_two_stacks_in_one_file_are_two_volumes(tmp_path):
    dataset = enhanced_dataset(scan_hu(12))
    for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        content = pydicom.Dataset()
        content.StackID = str(1 + k % 2)
        frame.FrameContentSequence = pydicom.Sequence([content])
    dataset.save_as(tmp_path / "e.dcm", enforce_file_format=True)
    series, _ = find_series([tmp_path / "e.dcm"])
    assert [len(s.frames) for s in series] == [6, 6]
    assert all(np.linalg.norm(s.stack.affine[:3, 0]) == pytest.approx(5.0) for s in series)


def test_the_type_of_a_frame_is_looked_at(tmp_path):
    dataset = enhanced_dataset(scan_hu(12))
    kind = pydicom.Dataset()
    kind.FrameType = ["DERIVED", "PRIMARY", "VOLUME", "MAX_IP", "MIP"]
    dataset.SharedFunctionalGroupsSequence[0].CTImageFrameTypeSequence = pydicom.Sequence([kind])
    dataset.save_as(tmp_path / "e.dcm", enforce_file_format=True)
    with pytest.raises(GeometryError, match=r"derived-image \(refused\): ImageType has MIP"):
        read(tmp_path / "e.dcm")


@pytest.mark.parametrize("count", [4, 6])
def test_a_file_whose_number_of_frames_contradicts_itself_is_damaged(tmp_path, count):
    dataset = enhanced_dataset(scan_hu())
    dataset.NumberOfFrames = count
    dataset.save_as(tmp_path / "e.dcm", enforce_file_format=True)
    with pytest.raises(ReadError, match=f"a damaged header: {count} frames, of which 5 are described"):
        read(tmp_path / "e.dcm")


@pytest.mark.parametrize("shared_rescale", [True, False])
def test_an_enhanced_multi_frame_file_is_a_volume(tmp_path, shared_rescale):
    write_series(tmp_path / "classic")
    path = tmp_path / "enhanced.dcm"
    enhanced_dataset(scan_hu(), order=[3, 0, 4, 1, 2], shared_rescale=shared_rescale).save_as(
        path, enforce_file_format=True
    )
    assert _same(read(path), read(tmp_path / "classic"))


def test_frames_with_a_rescale_of_their_own_are_rescaled_by_it(tmp_path):
    hu = (scan_hu() // 12) * 12
    enhanced_dataset(
        hu, slopes=[1, 2, 3, 4, 6], intercepts=[-1200, -1200, -1200, -1200, -1200], shared_rescale=False
    ).save_as(tmp_path / "e.dcm", enforce_file_format=True)
    assert np.array_equal(read(tmp_path / "e.dcm").voxels_hu, hu)


def test_a_compressed_multi_frame_file_gives_the_voxels_of_the_native_one(tmp_path):
    native = enhanced_dataset(scan_hu(), order=[3, 0, 4, 1, 2])
    native.save_as(tmp_path / "native.dcm", enforce_file_format=True)
    native.compress(RLELossless)
    native.save_as(tmp_path / "rle.dcm", enforce_file_format=True)
    assert _same(read(tmp_path / "rle.dcm"), read(tmp_path / "native.dcm"))


# damaged


def test_a_truncated_file_is_refused_with_the_bytes_that_are_missing(tmp_path):
    """Defect 1: the tutorial drops the slice, silently."""
    paths = write_series(tmp_path)
    paths[1].write_bytes(paths[1].read_bytes()[:-20])
    with pytest.raises(GeometryError, match=rf"truncated-file \(refused\): 20 bytes .* missing \[{paths[1].name}\]"):
        read(tmp_path)


def test_files_cut_at_any_byte_are_an_error_and_never_a_crash(tmp_path):
    paths = write_series(tmp_path, scan_hu(3))
    whole = paths[1].read_bytes()
    for size in range(0, len(whole) - 1, 31):
        paths[1].write_bytes(whole[:size])
        with pytest.raises(ReadError, match=r"a volume must have|missing|damaged"):
            read(tmp_path)


def test_bytes_changed_anywhere_in_the_header_are_a_volume_or_an_error_and_never_a_crash(tmp_path):
    paths = write_series(tmp_path, scan_hu(3))
    whole = paths[1].read_bytes()
    random = np.random.default_rng(0)
    for at in random.integers(140, len(whole) - 100, 150):
        changed = bytearray(whole)
        changed[at] = random.integers(256)
        paths[1].write_bytes(bytes(changed))
        try:
            assert read(tmp_path).shape[0] >= 3
        except ReadError as error:
            assert "\n" not in str(error)  # noqa: PT017


def test_a_text_file_named_like_dicom_is_named_in_the_error(tmp_path):
    (tmp_path / "scan.dcm").write_text("not an image")
    with pytest.raises(ReadError, match="named like a DICOM file but is none"):
        read(tmp_path / "scan.dcm")


@pytest.mark.parametrize(
    ("keyword", "value"), [("BitsAllocated", 12), ("BitsStored", 17), ("HighBit", 3), ("PixelRepresentation", None)]
)
def test_pixels_stored_in_an_impossible_way_are_a_damaged_header(tmp_path, keyword, value):
    write_series(tmp_path, **{keyword: value})
    with pytest.raises(ReadError, match="damaged header"):
        read(tmp_path)


def test_an_empty_folder_and_a_missing_path_are_one_line(tmp_path):
    with pytest.raises(ReadError, match=r"no CT in this folder; DICOM, NIfTI") as caught:
        read(tmp_path)
    assert "\n" not in str(caught.value)
    with pytest.raises(ReadError, match=r"nowhere: no file or folder"):
        read(tmp_path / "nowhere")


# NIfTI, NRRD, MetaImage


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_image_file_is_the_dicom_series_bit_for_bit(tmp_path, suffix):
    write_series(tmp_path / "s", origin_mm=(-193.7, 12.3456, -801.25), step_mm=(0, 0, 1.25))
    volume = read(tmp_path / "s")
    path = tmp_path / f"scan{suffix}"
    written = tmp_path / "scan.mha" if suffix == ".mhd" else path  # Hilum writes no voxels beside their header
    volume.write(written)
    if written != path:
        sitk.WriteImage(sitk.ReadImage(str(written)), str(path))
    assert _same(read(path), volume)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("order", [(2, 1, 0), (0, 1, 2), (1, 2, 0)])
@pytest.mark.parametrize("flip", [(False, False, False), (True, True, False), (True, False, True)])
def test_an_image_stored_flipped_or_permuted_is_the_same_volume(tmp_path, suffix, order, flip):
    write_series(tmp_path / "s")
    image = sitk.PermuteAxes(sitk.Flip(sitk.Cast(_as_image(read(tmp_path / "s")), sitk.sitkInt16), flip), order)
    sitk.WriteImage(image, str(tmp_path / f"x{suffix}"))
    assert _same(read(tmp_path / f"x{suffix}"), read(tmp_path / "s"))


def _as_image(volume: Volume) -> sitk.Image:
    image = sitk.GetImageFromArray(volume.voxels_hu)
    spacing = np.array(volume.spacing_mm)
    image.SetSpacing(spacing[::-1].tolist())
    image.SetDirection((volume.affine[:3, :3] / spacing)[:, ::-1].ravel().tolist())
    image.SetOrigin(volume.affine[:3, 3].tolist())
    return image


def test_one_image_file_in_a_folder_is_read_and_two_must_be_named(tmp_path):
    _image(tmp_path / "a.nii", scan_hu())
    assert np.array_equal(np.sort(read(tmp_path).voxels_hu, None), np.sort(scan_hu(), None))
    _image(tmp_path / "b.nrrd", scan_hu())
    with pytest.raises(ReadError, match="holds 2 image files: name one of them"):
        read(tmp_path)


def test_a_crop_of_two_slices_is_a_volume_where_the_header_gives_the_spacing(tmp_path):
    volume = read(_image(tmp_path / "crop.nii.gz", scan_hu(2)))
    assert volume.shape[0] == 2
    assert _codes(volume) == ["few-slices"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (sitk.Image([6, 6, 6, 3], sitk.sitkInt16), "must be one volume, not several, is 6 x 6 x 6 x 3"),
        (sitk.Image([6, 6, 1], sitk.sitkInt16), "is 6 x 6 x 1"),
        (sitk.Image([6, 6, 6], sitk.sitkVectorFloat32, 3), "one real value in each voxel, has vector"),
    ],
    ids=["four dimensions", "one slice", "vectors"],
)
def test_an_image_that_is_no_volume_of_hu_is_refused(tmp_path, image, message):
    sitk.WriteImage(image, str(tmp_path / "x.nii"))
    with pytest.raises(ReadError, match=message):
        read(tmp_path / "x.nii")


def test_a_fourth_dimension_of_length_one_is_no_dimension(tmp_path):
    sitk.WriteImage(sitk.Image([6, 6, 4, 1], sitk.sitkInt16), str(tmp_path / "x.nii"))
    assert sorted(read(tmp_path / "x.nii").shape) == [4, 6, 6]


def test_not_a_number_and_infinity_become_air_and_metal(tmp_path):
    hu = scan_hu().astype(np.float32)
    hu[0, 0, 0], hu[0, 0, 1], hu[0, 0, 2] = np.nan, -np.inf, np.inf
    volume = read(_image(tmp_path / "x.mha", hu))
    assert volume.voxels_hu[0, 0, :3].tolist() == [-1000, -1000, 3071]
    assert volume.voxels_hu.dtype == np.int16
    assert {"padding", "clipped"} <= set(_codes(volume))


def test_whole_numbers_are_int16_and_others_float32_however_they_are_stored(tmp_path):
    assert read(_image(tmp_path / "a.nrrd", scan_hu().astype(np.float64))).voxels_hu.dtype == np.int16
    assert read(_image(tmp_path / "b.nrrd", scan_hu() + 0.5)).voxels_hu.dtype == np.float32


@pytest.mark.parametrize("kind", ["uint8", "uint16", "int32", "uint32"])
def test_any_integer_type_with_metal_is_read(tmp_path, kind):
    values = np.full((4, 4, 4), min(5000, np.iinfo(kind).max), kind)
    assert read(_image(tmp_path / "x.nrrd", values)).voxels_hu.max() == min(3071, np.iinfo(kind).max)


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_damaged_image_is_one_line_without_addresses_or_folders(tmp_path, suffix):
    (tmp_path / f"bad{suffix}").write_bytes(b"garbage" * 100)
    with pytest.raises(ReadError, match=rf"bad{suffix}: (cannot be read|is damaged)") as caught:
        read(tmp_path / f"bad{suffix}")
    assert "0x" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_image_name_in_capitals_is_an_image_name(tmp_path):
    _image(tmp_path / "x.nii.gz", scan_hu()).rename(tmp_path / "X.NII.GZ")
    assert read(tmp_path / "X.NII.GZ").voxels_hu.size == scan_hu().size


# privacy

_IDENTIFYING = {
    "PatientName": "SENTINEL^NAME",
    "PatientID": "SENTINEL-ID",
    "OtherPatientIDs": "SENTINEL-OTHER",
    "PatientBirthDate": "19610203",
    "PatientAddress": "SENTINEL STREET",
    "AccessionNumber": "SENTINELACC",
    "InstitutionName": "SENTINEL HOSPITAL",
    "ReferringPhysicianName": "SENTINEL^DOCTOR",
    "OperatorsName": "SENTINEL^OPERATOR",
    "StudyID": "SENTINELSTUDY",
    "StudyDescription": "SENTINEL STUDY",
    "SeriesDescription": "SENTINEL SERIES",
    "ImageComments": "SENTINEL COMMENT",
    "StudyDate": "19870605",
    "SeriesDate": "19870605",
    "AcquisitionDate": "19870605",
    "AcquisitionDateTime": "19870605112233",
    "ContentDate": "19870605",
    "StudyTime": "112233",
    "AcquisitionTime": "112233",
    "StationName": "SENTINELSTATION",
    "DeviceSerialNumber": "SENTINELSERIAL",
    "StudyInstanceUID": "1.2.99.1",
    "SeriesInstanceUID": "1.2.99.2",
    "FrameOfReferenceUID": "1.2.99.3",
}


@settings(max_examples=15)
@given(st.text("abcdefghijkXYZ0123456789", min_size=6, max_size=12))
def test_no_identifier_name_or_date_leaves_reading(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("private")
    values = {k: v.replace("SENTINEL", text) for k, v in _IDENTIFYING.items() if len(v) + len(text) < 24 or "." in v}
    paths = write_series(folder, **values)
    said = repr(read(folder))
    paths[2].unlink()
    with pytest.raises(GeometryError, match="missing-slices") as caught:
        read(folder)
    said += str(caught.value) + "".join(map(repr, (s.tags for s in find_series(sorted(folder.iterdir()))[0])))
    shutil.rmtree(folder)
    for secret in (text, "19870605", "112233", "19610203", "1.2.99"):
        assert secret not in said


def test_an_identifier_has_one_hash_at_one_site_and_another_elsewhere(monkeypatch):
    here = hashed("patient", "P-1")
    assert here == hashed("patient", " P-1 ")
    assert here == hashed("patient", here)
    assert here != hashed("study", "P-1").replace("study", "patient")
    assert "P-1" not in here
    monkeypatch.setenv("HILUM_KEY", "another site")
    assert hashed("patient", "P-1") != here
    assert hashed("patient", "") == ""


def test_the_site_key_is_a_file_that_only_its_owner_can_read(monkeypatch, tmp_path):
    monkeypatch.delenv("HILUM_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    identity_module._key.cache_clear()
    first = hashed("patient", "P-1")
    key = tmp_path / "hilum" / "key"
    assert key.stat().st_mode & 0o777 == 0o600
    assert len(key.read_text()) == 64
    assert [file.name for file in key.parent.iterdir()] == ["key"]
    identity_module._key.cache_clear()
    assert hashed("patient", "P-1") == first
    key.unlink()
    identity_module._key.cache_clear()
    assert hashed("patient", "P-1") != first
    identity_module._key.cache_clear()


def test_an_empty_key_file_hashes_nothing(monkeypatch, tmp_path):
    monkeypatch.delenv("HILUM_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "hilum").mkdir()
    (tmp_path / "hilum" / "key").write_text("\n")
    identity_module._key.cache_clear()
    with pytest.raises(ReadError, match=r"key file .* is empty"):
        hashed("patient", "P-1")


def test_a_key_that_cannot_be_kept_is_an_error_that_names_the_way_out(monkeypatch, tmp_path):
    monkeypatch.delenv("HILUM_KEY")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "file"))
    identity_module._key.cache_clear()
    with pytest.raises(ReadError, match="set HILUM_KEY"):
        hashed("patient", "P-1")


@pytest.mark.parametrize("word", ["", " ", "ANONYMOUS", "Anon", "unknown", "0", "n/a"])
def test_words_that_name_nobody_are_placeholders_and_have_no_hash_in_the_tags(tmp_path, word):
    assert is_placeholder(word)
    write_series(tmp_path, PatientID=word)
    assert read(tmp_path).tags.patient == ""


def test_the_tags_say_how_the_scan_was_made(tmp_path):
    write_series(tmp_path, ConvolutionKernel=["Br40d", "3"], Manufacturer="ACME", KVP="120", Exposure=80)
    tags = read(tmp_path).tags
    assert (tags.kernel, tags.manufacturer, tags.tube_voltage_kv, tags.exposure_mas) == ("Br40d\\3", "ACME", 120, 80)
    assert tags.modality == "CT"
    assert tags.thickness_mm == 2.5
    assert dataclasses.asdict(tags)["series"].startswith("series-")


def test_two_kernels_of_one_acquisition_share_its_hash_and_another_acquisition_does_not(tmp_path):
    here = {"StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.2.9"}
    write_series(tmp_path / "a", AcquisitionTime="101010", **here)
    write_series(tmp_path / "b", AcquisitionTime="101010", SeriesInstanceUID="1.2.3", ConvolutionKernel="B60f", **here)
    write_series(tmp_path / "c", AcquisitionTime="101011", SeriesInstanceUID="1.2.4", **here)
    a, b, c = (read(tmp_path / name).tags.acquisition for name in "abc")
    assert a == b != c


# real CT


@pytest.mark.parametrize("name", ["lung-dx-a0001", pytest.param("lidc-0314", marks=pytest.mark.slow)])
def test_a_real_scan_is_one_volume_and_one_sample_in_every_format(shared_data, tmp_path, name):
    volume = read(shared_data / name)
    recipe = Recipe(region="lungs", size=(16, 32, 32), extent_mm=(320.0, 340.0, 340.0))
    sample = prepare(volume, recipe)
    for suffix in (".nii", ".nrrd", ".mha"):
        path = tmp_path / f"scan{suffix}"
        volume.write(path)
        copy = read(path)
        path.unlink()
        assert _same(copy, volume)
    assert _same(prepare(copy, recipe), sample)  # the copies are identical: one stands for all


@pytest.mark.parametrize("scan", ["CT1", "CT2"])
def test_real_lossless_slices_decode_identically_and_lossy_ones_are_named(shared_data, tmp_path, scan):
    odd = shared_data / "odd" / "compressed"
    frames = {}
    for path in sorted(odd.glob(f"{scan}_*")):
        copy = tmp_path / path.name
        shutil.copy(path, copy)
        (found,), unreadable = find_series([copy])
        assert not unreadable
        assert [f.code for f in found.findings if f.severity == "refused"] == ["single-slice"]
        lossy = path.name.endswith(("J2KI", "JLSN"))
        assert ("lossy-compression" in [f.code for f in found.findings]) == lossy
        frames[path.name[4:]] = _pixels(found)
    for lossless in ("RLE", "J2KR", "JLSL"):
        assert np.array_equal(frames[lossless], frames["JPLL"])
    air = {kind: np.maximum(hu.astype(int), -1000) for kind, hu in frames.items()}  # padding becomes air
    near = np.abs(air["JLSN"] - air["JPLL"])
    assert 0 < near.max() <= 4


def _pixels(series):
    return slice_hu(series.frames[0], series)


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("slice-increment", "missing-slices"),
        ("slice-count", "wrong-modality"),
        ("not-a-volume", "time-series"),
        ("multiframe/CT_small.dcm", "single-slice"),
        ("multiframe/eCT_Supplemental.dcm", "derived-image"),
    ],
)
def test_real_odd_series_are_refused_for_their_reason(shared_data, name, code):
    with pytest.raises(GeometryError, match=rf"{code} \(refused\)"):
        read(shared_data / "odd" / name)


def test_a_real_tilted_series_is_read_with_its_shear(shared_data):
    volume = read(shared_data / "odd" / "gantry-tilt")
    assert "gantry-tilt" in _codes(volume)
    assert volume.shape[0] == 4


def test_the_real_low_resolution_scan_is_the_same_as_nrrd_and_as_dicom(shared_data):
    """Their origins differ by 4e-4 mm in the files."""
    dicom, nrrd = read(shared_data / "ct-64" / "dicom"), read(shared_data / "ct-64" / "ct-64.nrrd")
    assert np.array_equal(dicom.voxels_hu, nrrd.voxels_hu)
    assert np.abs(dicom.affine - nrrd.affine).max() <= 1e-3


def test_reorienting_what_was_read_changes_nothing(tmp_path):
    write_series(tmp_path)
    assert _same(reorient(read(tmp_path)), read(tmp_path))


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_truncated_nifti_is_refused_and_never_filled_with_water(tmp_path, suffix):
    path = tmp_path / f"scan{suffix}"
    sitk.WriteImage(
        sitk.GetImageFromArray(np.random.default_rng(0).integers(-900, 90, (8, 32, 32), np.int16)), str(path)
    )
    whole = path.read_bytes()
    for size in (len(whole) // 2, len(whole) - 100):
        path.write_bytes(whole[:size])
        with pytest.raises(ReadError, match=r"it lacks|cannot be inflated"):
            read(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_not_a_number_is_air_in_every_format(tmp_path, suffix):
    voxels = np.full((4, 5, 6), 30.5, np.float32)
    voxels[1, 2, 3] = np.nan
    sitk.WriteImage(sitk.GetImageFromArray(voxels), str(tmp_path / f"scan{suffix}"))
    volume = read(tmp_path / f"scan{suffix}")
    assert np.count_nonzero(volume.voxels_hu == -1000) == 1
    assert [f.code for f in volume.findings if f.code == "padding"] == ["padding"]


def test_a_complex_image_is_refused(tmp_path):
    image = sitk.GetImageFromArray(np.ones((4, 4, 4), np.complex64))
    sitk.WriteImage(image, str(tmp_path / "scan.nrrd"))
    with pytest.raises(ReadError, match="must have one real value in each voxel, has 2"):
        read(tmp_path / "scan.nrrd")


def test_a_header_cannot_name_voxels_in_another_folder(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "secret").write_bytes(bytes(1000))
    header = "ObjectType = Image\nNDims = 3\nDimSize = 4 4 4\nElementType = MET_SHORT\nElementDataFile = ../secret\n"
    (tmp_path / "deep" / "scan.mhd").write_text(header)
    with pytest.raises(ReadError, match="names one in another folder"):
        read(tmp_path / "deep" / "scan.mhd")


def test_a_damaged_image_writes_nothing_but_the_error(tmp_path, capfd):
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros((8, 32, 32), np.int16)), str(tmp_path / "scan.mha"))
    whole = (tmp_path / "scan.mha").read_bytes()
    (tmp_path / "scan.mha").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ReadError, match="cannot be read"):
        read(tmp_path / "scan.mha")
    assert capfd.readouterr().err == ""


def test_a_pipe_in_a_folder_is_passed_over(tmp_path):
    write_series(tmp_path)
    os.mkfifo(tmp_path / "pipe.dcm")
    assert read(tmp_path).shape[0] > 3


def test_a_compressed_file_that_is_much_larger_than_its_pixels_is_damaged(tmp_path):
    """The decoder would look at each megabyte of it for a second."""
    for k in range(5):
        one = slice_dataset((scan_hu()[k].astype(np.int32) + 1024).astype(np.uint16), (0, 0, 2.5 * k))
        one.compress(RLELossless)
        one.save_as(tmp_path / f"{k}.dcm", enforce_file_format=True)
    whole = (tmp_path / "2.dcm").read_bytes()
    (tmp_path / "2.dcm").write_bytes(whole + b"\xfe\xff\x00\xe0\0\0\0\0" * 1_000_000)
    with pytest.raises(GeometryError, match=r"truncated-file \(refused\): damaged DICOM files lie beside it"):
        read(tmp_path)
