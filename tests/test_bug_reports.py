"""What public bug reports say that others read wrongly in silence: read rightly here, or refused by its reason."""

import dataclasses
import gc
import re

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag
from pydicom.uid import ImplicitVRLittleEndian, RLELossless
from scipy import ndimage

from dicom_files import enhanced_dataset, scan_hu, slice_dataset, write_series
from hilum.errors import GeometryError, ReadError
from hilum.reading.dicom.frames import read_frames
from hilum.reading.dicom.series import find_series
from hilum.reading.doctor import examine
from hilum.reading.paths import source_files
from hilum.reading.reader import read
from hilum.reading.select import choose_series, rate
from hilum.settings.run import ReadingConfig
from test_series import codes, make

BOTH = ReadingConfig(policy="lenient")


def _field(seed: int, shape, sigma) -> np.ndarray:
    """Smooth anatomy of 200 HU or so."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(0, 1, shape), sigma)
    return noise / noise.std() * 100 - 400


def _written(folder, hu, *, start=0.0, step=1.0, prefix="", **changes) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for k, plane in enumerate(np.rint(hu).astype(np.int16)):
        dataset = slice_dataset(plane, (0, 0, start + k * step), **{"RescaleIntercept": "0", **changes})
        dataset.save_as(folder / f"{prefix}{k:03d}", enforce_file_format=True)


def _set_text(dataset, keyword: str, text: str) -> None:
    """A text as it is, whatever pydicom thinks of it."""
    tag, raw = tag_for_keyword(keyword), (text + " " * (len(text) % 2)).encode()
    if keyword in dataset:
        del dataset[keyword]
    vr = dictionary_VR(keyword)
    dataset[tag] = RawDataElement(Tag(tag), vr, len(raw), raw, 0, dataset.is_implicit_VR, True, True)


# two reconstructions in one series


@pytest.mark.parametrize(
    "changes",
    [
        {"SliceThickness": "1.25"},
        {"ReconstructionDiameter": "250"},
        {"SeriesDescription": "LUNG 1.0"},
        {"SeriesNumber": "5"},
        {"ConvolutionKernel": "B70f"},
        {"ImageType": "DERIVED\\SECONDARY\\AXIAL"},
        {"AcquisitionNumber": 2},
        {"AcquisitionTime": "111111"},
    ],
    ids=lambda changes: next(iter(changes)),
)
@pytest.mark.parametrize("offset", [0.75, 0.0], ids=["half a step apart", "at the same positions"])
def test_what_differs_between_two_reconstructions_of_one_series_tells_them_apart(tmp_path, changes, offset):
    common = {
        "SliceThickness": "1.5", "ReconstructionDiameter": "300", "SeriesDescription": "CHEST", "SeriesNumber": "4",
        "AcquisitionNumber": 1, "AcquisitionTime": "101010",
    }  # fmt: skip
    one = make(tmp_path / "s", 12)
    one.changes = common
    one.write()
    other = make(tmp_path / "s" / "b", 12, origin=(-120.0, -110.0, -300.0 + offset))
    other.hu = other.hu[::-1].copy()
    other.changes = {**common, **changes}
    other.write()
    series, _ = find_series(source_files(tmp_path / "s"))
    assert [len(s.frames) for s in series] == [12, 12]
    for made in (one, other):
        (name,) = [s.name for s in series if s.frames[0].path.parent == made.folder]
        made.agrees_with(read(tmp_path / "s", series=name))


def test_two_phases_of_two_thicknesses_are_four_volumes(tmp_path):
    for number, (time, thickness) in enumerate([("1", "1.5"), ("1", "3"), ("2", "1.5"), ("2", "3")]):
        made = make(tmp_path / str(number), 12)
        made.changes = {"AcquisitionTime": f"10101{time}", "SliceThickness": thickness}
        made.write()
    series, _ = find_series(source_files(tmp_path))
    assert [len(s.frames) for s in series] == [12] * 4
    assert all("told apart by AcquisitionTime and SliceThickness" in str(s.findings) for s in series)


@pytest.mark.parametrize(
    "changes",
    [
        {"SliceThickness": ["1.5" if k % 7 else "1.50" for k in range(40)]},
        {"SliceThickness": ["1.5" if k % 4 else None for k in range(40)]},
        {"ReconstructionDiameter": ["350" if k % 3 else "350.0" for k in range(40)]},
        {"SeriesNumber": ["4" if k % 2 else "04" for k in range(40)]},
        {"SeriesDescription": ["CHEST" if k % 2 else "Chest " for k in range(40)]},
        {"SeriesDescription": ["CHEST" if k % 8 else None for k in range(40)]},
        {"AcquisitionTime": ["101010" if k % 2 else "101010.000" for k in range(40)]},
        {"AcquisitionNumber": [1 if k % 3 else None for k in range(40)]},
        {"SliceThickness": ["1.5" if k not in (5, 20, 35) else "1.6" for k in range(40)]},
    ],
    ids=[
        "thickness spelt", "thickness blank", "diameter spelt", "number spelt", "description spelt",
        "description blank", "time spelt", "acquisition blank", "few of another thickness",
    ],
)  # fmt: skip
def test_a_tag_that_some_slices_lack_or_spell_otherwise_divides_no_series(tmp_path, changes):
    made = make(tmp_path / "s", 40)
    made.changes = changes
    volume = read(made.write().folder)
    made.agrees_with(volume)
    assert volume.shape[0] == 40
    assert not volume.interpolated


def _interleaved(kind: str) -> np.ndarray:
    """Forty slices of which every second one is of another kernel, contrast phase or breath."""
    hu = _field(0, (40, 48, 48), (3, 3, 3))
    if kind == "kernel":
        hu[::2] += np.random.default_rng(1).normal(0, 40, hu[::2].shape)
    elif kind == "contrast":
        hu = np.clip(hu + 450, -200, 200)
        hu[::2] += 10
    else:
        hu[::2] = _field(1, hu.shape, (3, 3, 3))[::2]
    return hu


@pytest.mark.parametrize("kind", ["kernel", "contrast", "breath"])
@pytest.mark.parametrize("suffix", ["", ".nii.gz", ".nrrd", ".mha"])
def test_reconstructions_that_nothing_tells_apart_are_refused_by_their_content(tmp_path, kind, suffix):
    hu = _interleaved(kind)
    path = tmp_path / f"scan{suffix}"
    if suffix:
        sitk.WriteImage(sitk.GetImageFromArray(np.rint(hu).astype(np.int16)), str(path))
    else:
        _written(path, hu)
    with pytest.raises(GeometryError, match=r"interleaved-series \(refused\): two recon"):
        read(path)
    assert "interleaved-series" in codes(read(path, reading=BOTH))


def test_slices_that_interleave_in_an_image_are_found_along_the_axis_of_its_slices(tmp_path):
    image = sitk.GetImageFromArray(np.rint(_interleaved("kernel")).astype(np.int16))
    image.SetDirection((1, 0, 0, 0, 0, 1, 0, -1, 0))
    sitk.WriteImage(image, str(tmp_path / "coronal.nii.gz"))
    with pytest.raises(GeometryError, match="interleaved-series"):
        read(tmp_path / "coronal.nii.gz")


def test_a_scan_that_was_resampled_to_half_its_step_is_no_interleaved_one(tmp_path):
    hu = _field(0, (30, 64, 64), (2, 2, 2)) + np.random.default_rng(1).normal(0, 60, (30, 64, 64))
    image = sitk.GetImageFromArray(np.rint(hu).astype(np.int16))
    image.SetSpacing((1, 1, 2))
    halved = sitk.Resample(
        image, (64, 64, 59), sitk.Transform(), sitk.sitkLinear, image.GetOrigin(), (1, 1, 1), image.GetDirection()
    )
    sitk.WriteImage(halved, str(tmp_path / "one.nii.gz"))
    assert "processed-image" in codes(read(tmp_path / "one.nii.gz"))


def test_little_noise_is_no_sign_of_two_series(tmp_path):
    """Differences are judged relative to the noise, of which a smooth scan has hardly any."""
    noise = np.random.default_rng(0).normal(0, 1, (40, 64, 64))
    hu = 10.0 * np.arange(40)[:, None, None] + np.linspace(0, 60, 64) + noise
    _written(tmp_path, hu)
    (found,), _ = examine(tmp_path)
    assert found.verdict == "ok", found.findings


@pytest.mark.parametrize("thickness", [1, 2, 5])
def test_overlap_alone_is_normal(tmp_path, thickness):
    """Thick slices at small steps share their content and half of their noise."""
    noisy = _field(0, (40 + thickness, 48, 48), (3, 3, 3))
    noisy = noisy + np.random.default_rng(1).normal(0, 60, noisy.shape)
    hu = np.stack([noisy[k : k + thickness].mean(axis=0) for k in range(40)])
    _written(tmp_path, hu, SliceThickness=str(thickness))
    (found,), _ = examine(tmp_path)
    assert found.verdict == "ok", found.findings


def test_phases_that_nothing_tells_apart_are_called_so_only_where_they_are(tmp_path):
    made = make(tmp_path / "s", 12).write()
    dataclasses.replace(made, folder=tmp_path / "s" / "b", hu=made.hu + 3, paths=[]).write()
    with pytest.raises(GeometryError, match="2 slices lie at each position: phases that nothing tells apart"):
        read(tmp_path / "s")
    made = make(tmp_path / "t", 12).write()
    dataclasses.replace(made, folder=tmp_path / "t" / "b", hu=made.hu + 3, paths=[]).write([4])
    with pytest.raises(GeometryError, match="1 of 13 slices lie where another lies, and nothing tells which is right"):
        read(tmp_path / "t")
    made = make(tmp_path / "u", 12).write()
    again = dataclasses.replace(made, folder=tmp_path / "u" / "b", hu=made.hu + 3, paths=[])
    again.changes = {"AcquisitionTime": "101010"}
    again.write([4])
    with pytest.raises(GeometryError, match="they have another AcquisitionTime, which does not divide the series"):
        read(tmp_path / "u")


# several frames in one file


@pytest.mark.parametrize("syntax", [None, RLELossless], ids=["native", "compressed"])
def test_frames_without_a_place_are_refused_and_never_read_as_the_first_alone(tmp_path, syntax):
    hu = np.repeat(np.repeat(scan_hu(12), 4, axis=1), 4, axis=2)
    dataset = slice_dataset((hu + 1024).astype(np.uint16), (0, 0, 0), NumberOfFrames=12)
    if syntax:
        dataset.compress(syntax, encoding_plugin="pydicom")
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(GeometryError, match="a file of 12 frames does not say where each of them lies"):
        read(tmp_path)
    (found,), _ = examine(tmp_path)
    assert (found.num_slices, found.verdict) == (12, "refused")


def test_slice_locations_place_no_frames(tmp_path):
    """Their sign is nobody's rule: real scans have them feet to head and head to feet."""
    locations = [float(-k) for k in range(12)]
    dataset = slice_dataset((scan_hu(12) + 1024).astype(np.uint16), (0, 0, 0), NumberOfFrames=12)
    dataset.SliceLocationVector = locations
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(GeometryError, match="a file of 12 frames does not say where each of them lies"):
        read(tmp_path)


@pytest.mark.parametrize("count", [9_999, 400_000])
def test_more_frames_than_the_file_can_hold_are_a_damaged_header(tmp_path, count):
    dataset = slice_dataset((scan_hu(12) + 1024).astype(np.uint16), (0, 0, 0), NumberOfFrames=count)
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(ReadError, match=f"a damaged header: {count} frames, more than the file can hold"):
        read(tmp_path)


def test_more_pixels_than_the_number_of_frames_says_are_more_frames(tmp_path):
    dataset = slice_dataset((scan_hu(12) + 1024).astype(np.uint16), (0, 0, 0))
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    (found,), _ = examine(tmp_path)
    assert (found.num_slices, found.verdict) == (12, "refused")


def test_frames_of_which_one_is_described_are_a_damaged_header(tmp_path):
    dataset = enhanced_dataset(scan_hu())
    dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:1]
    dataset.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(ReadError, match="5 frames, of which 1 are described"):
        read(tmp_path)


# padding of texts


@pytest.mark.parametrize("padding", ["\0", " "], ids=["NUL", "blank"])
@pytest.mark.parametrize("keyword", ["SeriesInstanceUID", "StudyInstanceUID", "PatientID", "FrameOfReferenceUID"])
def test_padding_of_texts_divides_no_series(tmp_path, keyword, padding):
    hu = scan_hu(12)
    for k, plane in enumerate(hu):
        dataset = slice_dataset((plane + 1024).astype(np.uint16), (0, 0, k * 2.5))
        setattr(dataset, keyword, "1.2.3456")
        dataset.save_as(tmp_path / str(k), enforce_file_format=True)
        content = (tmp_path / str(k)).read_bytes()
        assert content.count(b"1.2.3456") == 1
        ending = (padding if k % 2 else "\0 ").ljust(2, padding)[:2].encode()
        (tmp_path / str(k)).write_bytes(content.replace(b"1.2.3456", b"1.2.34" + ending))
    assert np.array_equal(read(tmp_path).voxels_hu, hu)
    assert len(find_series(source_files(tmp_path))[0]) == 1


@pytest.mark.parametrize("keep_uids", [False, True])
@pytest.mark.parametrize("uid", ["1.2.3", ""], ids=["copied", "blank"])
def test_each_name_that_is_printed_picks_exactly_one_series(tmp_path, keep_uids, uid):
    for number, changes in enumerate([{}, {"PatientID": "Q"}, {"StudyInstanceUID": "1.9"}]):
        write_series(tmp_path / str(number), scan_hu(12) + number, SeriesInstanceUID=uid, **changes)
    write_series(tmp_path / "3", scan_hu(12) + 3, SeriesInstanceUID="1.2.3.1")
    found, _ = examine(tmp_path, keep_uids=keep_uids)
    names = [e.series for e in found]
    assert len(set(names)) == 4
    values = [int(read(tmp_path, series=name).voxels_hu[0, 0, 0]) + 900 for name in names]
    assert sorted(values) == [0, 1, 2, 3]


# files that are DICOM, and numbers that are none


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, RLELossless], ids=["explicit", "implicit", "RLE"])
@pytest.mark.parametrize("first", [2, 8], ids=["group 2 first", "group 8 first"])
def test_dicom_without_a_preamble_is_dicom(tmp_path, syntax, first):
    if (syntax, first) == (RLELossless, 8):
        pytest.skip("without group 2 nothing says that the pixels are compressed")
    hu = np.repeat(np.repeat(scan_hu(12), 4, axis=1), 4, axis=2)
    for k, plane in enumerate(hu):
        uid = {"syntax": syntax} if syntax == ImplicitVRLittleEndian else {}
        dataset = slice_dataset((plane + 1024).astype(np.uint16), (0, 0, k * 2.5), **uid)
        if syntax == RLELossless:
            dataset.compress(syntax, encoding_plugin="pydicom")
        dataset.save_as(tmp_path / str(k), enforce_file_format=True)
        content = (tmp_path / str(k)).read_bytes()[132:]
        start = content.index(b"\x08\0\x08\0") if first == 8 else 0
        (tmp_path / str(k)).write_bytes(content[start:])
    assert np.array_equal(read(tmp_path).voxels_hu, hu)


@pytest.mark.parametrize(
    "content",
    [
        np.array([8, 0] + [7] * 100, "<i4").tobytes(),
        b"\x08\0" + bytes(range(254)) * 4,
        b"\x02\0" + b"\xff" * 500,
        b"\x08\0\x08\0",
        b"\x08\0\x05\0CS" + b"a" * 300,
    ],
)
def test_what_only_begins_like_dicom_is_passed_over(tmp_path, content):
    made = make(tmp_path / "s", 24).write()
    (made.folder / "notes").write_bytes(content)
    try:
        assert not read_frames(made.folder / "notes", 10**9)
    except ReadError:
        return  # a damaged DICOM file, by its first element: said, not passed over
    made.agrees_with(read(made.folder))


@pytest.mark.parametrize(
    ("spacing", "wanted"), [("3,6\\4,2", (3.6, 4.2)), ("3.6,4.2", (3.6, 4.2)), ("3,6\\4", (3.6, 4.0))]
)
def test_commas_are_read_where_they_can_mean_one_thing_only(tmp_path, spacing, wanted):
    for k in range(12):
        dataset = slice_dataset(np.zeros((6, 8), np.uint16), (0, 0, k))
        _set_text(dataset, "PixelSpacing", spacing)
        _set_text(dataset, "ImagePositionPatient", f"-1,5\\-2,25\\{k},5")
        _set_text(dataset, "ImageOrientationPatient", "1,0,0,0,1,0")
        _set_text(dataset, "RescaleIntercept", "-1024,0")
        dataset.save_as(tmp_path / str(k), enforce_file_format=True)
    volume = read(tmp_path)
    assert volume.spacing_mm == (1.0, *wanted)
    assert volume.affine[:3, 3].tolist() == [-1.5, -2.25, 0.5]


@pytest.mark.parametrize(
    ("keyword", "text", "named"),
    [
        ("PixelSpacing", "3,6,4,2", r"PixelSpacing \(0028,0030\) must be two decimal numbers"),
        ("RescaleIntercept", "-1,024", r"RescaleIntercept \(0028,1052\) must be a number"),
        ("RescaleSlope", "one", r"RescaleSlope \(0028,1053\) must be a number"),
        ("ImagePositionPatient", "0\\0\\SMITH", r"ImagePositionPatient \(0020,0032\) must be three decimal numbers"),
    ],
)
def test_a_damaged_header_names_the_tag_and_the_file_with_its_folder(tmp_path, keyword, text, named):
    (tmp_path / "exam" / "IM").mkdir(parents=True)
    for k in range(12):
        dataset = slice_dataset(np.zeros((6, 8), np.uint16), (0, 0, k))
        if k == 7:
            _set_text(dataset, keyword, text)
        dataset.save_as(tmp_path / "exam" / "IM" / str(k), enforce_file_format=True)
    _, loose = examine(tmp_path / "exam")
    (found,) = [f for f in loose if f.code == "unreadable-file"]
    assert found.where == "IM/7"
    assert re.search(named, found.message)
    assert "SMITH" not in found.message


def test_a_number_that_is_missing_is_named(tmp_path):
    dataset = slice_dataset(np.zeros((6, 8), np.uint16), (0, 0, 0), BitsAllocated=None)
    dataset.save_as(tmp_path / "x", enforce_file_format=True)
    with pytest.raises(ReadError, match=r"BitsAllocated \(0028,0100\) is missing"):
        read(tmp_path)


# noise of air


def _air(shape=(12, 40, 40)) -> np.ndarray:
    hu = np.random.default_rng(0).normal(-1000, 30, shape).round().astype(np.int16)
    hu[:, 10:30, 10:30] = 40
    return hu


@pytest.mark.parametrize("suffix", ["", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("turned", [False, True])
def test_air_that_is_noise_below_the_range_is_limited_and_the_scan_is_ok(tmp_path, suffix, turned):
    hu = _air()
    path = tmp_path / f"scan{suffix}"
    if suffix:
        image = sitk.GetImageFromArray(hu.transpose(2, 1, 0) if turned else hu)
        sitk.WriteImage(image, str(path))
    else:
        _written(path, hu)
    (found,), _ = examine(path)
    assert found.verdict == "ok"
    (finding,) = [f for f in found.findings if f.code == "air-noise"]
    assert f"{np.mean(hu < -1024):.1%} of the voxels" in finding.message
    voxels = read(path).voxels_hu
    expected = np.maximum(hu, -1024)
    assert np.array_equal(np.sort(voxels, axis=None), np.sort(expected, axis=None))


@pytest.mark.parametrize("value", [-2000, -3024])
def test_one_constant_below_the_range_is_padding_beside_noise(tmp_path, value):
    hu = _air()
    hu[:, :5] = value
    _written(tmp_path / "s", hu)
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "s.nii.gz"))
    expected = np.where(hu == value, -1000, np.maximum(hu, -1024))
    for name in ("s", "s.nii.gz"):
        volume = read(tmp_path / name)
        assert {"padding", "air-noise"} <= codes(volume)
        assert np.array_equal(np.sort(volume.voxels_hu, axis=None), np.sort(expected, axis=None))


def test_padding_with_rounding_errors_is_padding_and_noise_in_coarse_steps_is_noise(tmp_path):
    hu = _air().astype(np.float32)
    hu[:, :8] = -3024 + np.random.default_rng(1).choice([-3e-4, 3e-4], (12, 8, 40))
    sitk.WriteImage(sitk.GetImageFromArray(hu), str(tmp_path / "a.nrrd"))
    volume = read(tmp_path / "a.nrrd")
    assert {"padding", "air-noise"} <= codes(volume)
    assert np.sum(volume.voxels_hu == -1000) >= 12 * 8 * 40
    coarse = (np.rint(_air() / 16) * 16).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(coarse), str(tmp_path / "b.nrrd"))
    volume = read(tmp_path / "b.nrrd")
    assert "padding" not in codes(volume)
    assert np.array_equal(np.sort(volume.voxels_hu, axis=None), np.sort(np.maximum(coarse, -1024), axis=None))


# what is chosen


def _head() -> np.ndarray:
    """A head of 16 cm in noisy air, of which a seventh measures what lungs do."""
    z, y, x = np.mgrid[-30:30, -30:30, -30:30] * 4.0
    hu = np.where(x**2 + y**2 + (z / 1.4) ** 2 < 80**2, 35, -1000)
    return hu + np.random.default_rng(0).normal(0, 45, hu.shape)


def test_a_head_gets_no_points_for_lungs(tmp_path):
    _written(tmp_path / "head", _head(), step=4.0, PixelSpacing=["4", "4"], SliceThickness="4")
    (found,), _ = examine(tmp_path)
    assert "no-air" in {f.code for f in found.findings}
    assert not [reason for reason in found.reasons if "lungs" in reason]
    (series,), _ = find_series(source_files(tmp_path))
    assert rate(series).score == found.score
    assert rate(series).reasons == found.reasons


def test_series_that_are_not_taken_keep_no_decoded_pixels(tmp_path):
    hu = np.repeat(np.repeat(scan_hu(12), 4, axis=1), 4, axis=2)
    for name, step in (("a", 5.0), ("b", 1.0), ("c", 2.0)):
        dataset = enhanced_dataset(hu)
        dataset.SeriesInstanceUID = f"1.2.{ord(name)}"
        for k, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            frame.PlanePositionSequence[0].ImagePositionPatient = [0, 0, k * step]
        dataset.compress(RLELossless, encoding_plugin="pydicom", generate_instance_uid=False)
        dataset.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    series, _ = find_series(source_files(tmp_path))
    taken, _ = choose_series(series, None)
    gc.collect()
    assert taken.opened
    assert [bool(s.opened) for s in series if s is not taken] == [False, False]


def test_the_header_of_another_program_is_no_scan(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(scan_hu(12)), str(tmp_path / "scan.nii"))
    (tmp_path / "e.hdr").write_text("ENVI\nsamples = 8\n")
    assert read(tmp_path).shape[0] == 12
    assert len(examine(tmp_path)[0]) == 1
