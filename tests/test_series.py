"""Generated series, whole or damaged in a known way: the verdict is right, and each voxel lies where its tags say."""

import dataclasses
import shutil

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from scipy.spatial.transform import Rotation

from dicom_files import slice_dataset
from hilum.errors import GeometryError, ReadError
from hilum.reading.dicom.series import find_series
from hilum.reading.doctor import examine
from hilum.reading.reader import read
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume

ROWS, COLUMNS = 4, 5


@dataclasses.dataclass
class Made:
    """A generated series: where its slices lie by their tags, and what they hold."""

    folder: object
    positions: np.ndarray
    directions: np.ndarray
    pixel_mm: tuple[float, float]
    hu: np.ndarray
    paths: list = dataclasses.field(default_factory=list)
    changes: dict = dataclasses.field(default_factory=dict)

    def write(self, kept=None) -> "Made":
        self.folder.mkdir(parents=True, exist_ok=True)
        names = np.random.default_rng(len(self.hu)).permutation(len(self.hu))
        for k in range(len(self.hu)) if kept is None else kept:
            changes = {name: value[k] if isinstance(value, list) else value for name, value in self.changes.items()}
            slope, intercept = float(changes.get("RescaleSlope", 1)), float(changes.get("RescaleIntercept") or -1024)
            stored = np.rint((self.hu[k] - intercept) / slope).astype(np.uint16)
            given = {
                "ImageOrientationPatient": [round(float(v), 9) for v in self.directions.ravel()],
                "PixelSpacing": [str(v) for v in self.pixel_mm],
                "SliceThickness": None,
            }
            path = self.folder / f"{names[k]:03d}"
            slice_dataset(stored, self.positions[k], **given | changes).save_as(path, enforce_file_format=True)
            self.paths.append(path)
        return self

    def agrees_with(self, volume: Volume, slices=None) -> None:
        """Each pixel of each slice is found where its tags place it, within 2e-3 mm, with its value."""
        row, column = np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij")
        offsets = (
            column[..., None] * self.directions[0] * self.pixel_mm[1]
            + row[..., None] * self.directions[1] * self.pixel_mm[0]
        )
        for k in range(len(self.hu)) if slices is None else slices:
            mm = self.positions[k] + offsets
            index = np.rint(volume.mm_to_index(mm)).astype(int)
            assert np.abs(volume.index_to_mm(index) - mm).max() <= 2e-3
            assert np.array_equal(volume.voxels_hu[tuple(np.moveaxis(index, -1, 0))], self.hu[k])


def make(folder, count=24, *, step=1.5, tilt=0.0, rotation=None, origin=(-120.0, -110.0, -300.0), pixel_mm=(0.7, 0.6)):
    """Slices in any orientation, each pixel another value; tilt moves each slice along its columns."""
    matrix = np.eye(3) if rotation is None else rotation.as_matrix()
    directions = matrix[:, :2].T
    vector = np.cross(*directions) * step + directions[1] * step * np.tan(np.radians(tilt))
    positions = np.array(origin) + np.arange(count)[:, None] * vector
    hu = (np.arange(count * ROWS * COLUMNS).reshape(count, ROWS, COLUMNS) * 7 % 1900 - 1000).astype(np.int16)
    return Made(folder, np.round(positions, 6), directions, pixel_mm, hu)


def codes(volume) -> set[str]:
    return {f.code for f in volume.findings}


steps = st.sampled_from([0.5, 0.625, 1.0, 1.25, 2.0, 2.5, 3.0])
rotations = st.tuples(*[st.floats(-180, 180)] * 3).map(lambda angles: Rotation.from_euler("zyx", angles, degrees=True))
flips = st.sampled_from(
    [
        Rotation.from_matrix(np.array(axes, float).T)
        for axes in (
            [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
            [[-1, 0, 0], [0, -1, 0], [0, 0, 1]],
            [[-1, 0, 0], [0, 1, 0], [0, 0, -1]],
            [[1, 0, 0], [0, 0, -1], [0, 1, 0]],
            [[0, 1, 0], [0, 0, -1], [-1, 0, 0]],
            [[0, 0, 1], [1, 0, 0], [0, 1, 0]],
        )
    ]
)
counts = st.integers(21, 26)


@pytest.fixture
def folder(tmp_path):
    """A folder for one example, emptied for the next."""

    def fresh():
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        return tmp_path / "s"

    return fresh


_EXAMPLES = settings(max_examples=12)


@_EXAMPLES
@given(counts, steps, rotations | flips, st.sampled_from([0.0, -20.0, 3.0, 14.0]))
def test_a_shuffled_series_in_any_orientation_lies_where_its_tags_say(tmp_path_factory, count, step, rotation, tilt):
    made = make(tmp_path_factory.mktemp("x") / "s", count, step=step, rotation=rotation, tilt=tilt).write()
    volume = read(made.folder)
    made.agrees_with(volume)
    assert ("gantry-tilt" in codes(volume)) == (tilt != 0)
    assert "missing-slices" not in codes(volume)
    assert not volume.interpolated
    shutil.rmtree(made.folder)


@_EXAMPLES
@given(st.data(), counts, st.sampled_from([0.5, 1.25, 2.5]), rotations | flips)
def test_one_missing_slice_is_interpolated_and_marked_and_the_rest_stays(tmp_path_factory, data, count, step, rotation):
    made = make(tmp_path_factory.mktemp("x") / "s", count, step=step, rotation=rotation)
    lost = data.draw(st.integers(1, count - 2))
    kept = [k for k in range(count) if k != lost]
    volume = read(made.write(kept).folder)
    made.agrees_with(volume, kept)
    assert "missing-slices" in codes(volume)
    ((axis, index),) = volume.interpolated
    place = np.rint(volume.mm_to_index(made.positions[lost])).astype(int)
    assert place[axis] == index
    row, column = 1, 2
    point = (
        made.positions[lost]
        + column * made.directions[0] * made.pixel_mm[1]
        + row * made.directions[1] * made.pixel_mm[0]
    )
    got = volume.voxels_hu[tuple(np.rint(volume.mm_to_index(point)).astype(int))]
    assert abs(got - (made.hu[lost - 1, row, column] / 2 + made.hu[lost + 1, row, column] / 2)) <= 0.5
    shutil.rmtree(made.folder)


@_EXAMPLES
@given(st.data(), counts, steps)
def test_slices_missing_at_will_are_repaired_within_the_limits_and_refused_beyond(tmp_path_factory, data, count, step):
    made = make(tmp_path_factory.mktemp("x") / "s", count, step=step)
    lost = data.draw(st.sets(st.integers(1, count - 2), min_size=1, max_size=4))
    kept = [k for k in range(count) if k not in lost]
    runs = "".join("x" if k in lost else "." for k in range(count)).split(".")
    longest = max(map(len, runs))
    (examined,), _ = examine(made.write(kept).folder)
    found = {f.code: f.severity for f in examined.findings}
    repairable = longest <= 2 and (longest + 1) * step <= 5.01 and len(lost) <= 0.05 * count
    if repairable:
        assert found["missing-slices"] == "repaired"
        volume = read(made.folder)
        assert len(volume.interpolated) == len(lost)
        made.agrees_with(volume, kept)
    else:
        assert "refused" in (found.get("missing-slices"), found.get("irregular-spacing"))
        with pytest.raises(GeometryError, match=r"missing-slices|irregular-spacing"):
            read(made.folder)
    shutil.rmtree(made.folder)


@_EXAMPLES
@given(st.data(), counts, rotations | flips)
def test_copies_of_slices_are_dropped_wherever_they_are(tmp_path_factory, data, count, rotation):
    made = make(tmp_path_factory.mktemp("x") / "s", count, rotation=rotation).write()
    copied = data.draw(st.sets(st.integers(0, count - 1), min_size=1))
    for k in copied:
        shutil.copy(made.paths[k], made.folder / f"copy{k}")
    volume = read(made.folder)
    made.agrees_with(volume)
    assert [f.message for f in volume.findings if f.code == "duplicate-slices"] == [
        f"exact copies of neighbouring slices were dropped: {len(copied)}"
    ]
    shutil.rmtree(made.folder)


@_EXAMPLES
@given(counts, counts, steps, rotations | flips, st.floats(0.1, 0.4))
def test_two_series_interleaved_in_one_folder_are_told_apart(tmp_path_factory, many, few, step, rotation, shift):
    folder = tmp_path_factory.mktemp("x") / "s"
    one = make(folder, many, step=step, rotation=rotation).write()
    other = make(folder, few, step=step, rotation=rotation, origin=np.array((-120, -110, -300 + shift * step)))
    other.hu = other.hu[::-1].copy()
    for k, name in enumerate(np.random.default_rng(0).permutation(few)):
        stored = (other.hu[k].astype(int) + 1024).astype(np.uint16)
        directions = [round(float(v), 9) for v in other.directions.ravel()]
        dataset = slice_dataset(
            stored,
            other.positions[k],
            SeriesInstanceUID="1.2.3",
            ImageOrientationPatient=directions,
            PixelSpacing=["0.7", "0.6"],
            SliceThickness=None,
        )
        dataset.save_as(folder / f"b{name:03d}", enforce_file_format=True)
    one.agrees_with(read(folder, series=one_uid()))
    other.agrees_with(read(folder, series="1.2.3"))
    found, loose = examine(folder)
    assert sorted(e.num_slices for e in found) == sorted([many, few])
    assert [f.code for f in loose] == ["mixed-series"]
    shutil.rmtree(folder)


def one_uid() -> str:
    from dicom_files import SERIES

    return SERIES


@_EXAMPLES
@given(st.data(), st.integers(5, 12))
def test_each_slice_is_rescaled_by_its_own_slope_and_intercept(tmp_path_factory, data, count):
    made = make(tmp_path_factory.mktemp("x") / "s", count)
    slopes = data.draw(st.lists(st.sampled_from([1, 2, 4]), min_size=count, max_size=count))
    intercepts = data.draw(st.lists(st.sampled_from([-1024, -1000, -1200]), min_size=count, max_size=count))
    made.hu = (made.hu + 1200) // 8 * 8 - 1200  # what all slopes and intercepts can store
    made.changes = {"RescaleSlope": list(map(str, slopes)), "RescaleIntercept": list(map(str, intercepts))}
    made.hu = np.maximum(made.hu, -1000)
    volume = read(made.write().folder)
    made.agrees_with(volume)
    assert ("mixed-rescale" in codes(volume)) == (len(set(zip(slopes, intercepts, strict=True))) > 1)
    shutil.rmtree(made.folder)


@_EXAMPLES
@given(counts, counts, st.sampled_from([0.5, 1.0, 2.0]), st.sampled_from([1.5, 2.0, 2.5]), rotations | flips)
def test_a_lasting_change_of_step_is_resampled_to_the_finer_one(tmp_path_factory, fine, coarse, step, times, rotation):
    made = make(tmp_path_factory.mktemp("x") / "s", fine + coarse, step=1.0, rotation=rotation)
    along = np.concatenate([np.arange(fine) * step, fine * step + np.arange(coarse) * step * times])
    normal = np.cross(*made.directions)
    made.positions = np.round(np.array([-120, -110, -300]) + along[:, None] * normal, 6)
    made.hu[:] = np.rint(along * 4 - 900)[:, None, None]  # a ramp along the stack is what linear interpolation keeps
    volume = read(made.write().folder)
    assert "irregular-spacing" in codes(volume)
    assert min(volume.spacing_mm) <= step + 1e-3
    for k in range(len(along)):
        index = volume.mm_to_index(made.positions[k])  # the last slice may lie less than a step beyond the grid
        assert (index > -1).all()
        near = np.clip(np.rint(index).astype(int), 0, np.array(volume.shape) - 1)
        mm = volume.index_to_mm(near)
        expected = ((mm - made.positions[0]) @ normal) * 4 - 900
        assert abs(volume.voxels_hu[tuple(near)] - expected) <= 1.0
    shutil.rmtree(made.folder)


# what is not repaired


@pytest.mark.parametrize(
    ("along", "message"),
    [
        ([0, 1, 2, 3, 4.4, 5, 6, 7, 8.7, 9, 10, 11], r"varies from 0\.3 to 1\.7 mm"),
        ([*range(10), *range(19, 119, 10)], r"changes from 1 to 10 mm; too far apart to interpolate"),
        ([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11.5, 12.5, 13.5, 14.5], r"varies from 1 to 1\.5 mm"),
        ([*range(13), 12.012, *range(13, 26)], r"varies from 0\.012 to 1 mm"),
        ([*range(10), *range(11, 25), *range(26, 60, 2)], r"varies from 1 to 2 mm"),
    ],
    ids=["jitter", "far apart", "one odd gap", "one slice too near", "a gap before the change"],
)
def test_steps_that_jump_about_or_leave_too_much_out_are_refused(folder, along, message):
    made = make(folder(), len(along))
    made.positions = np.array([-120, -110, -300]) + np.array(along, float)[:, None] * [0, 0, 1]
    with pytest.raises(GeometryError, match=rf"irregular-spacing \(refused\).*{message}"):
        read(made.write().folder)


def test_slices_that_wander_sideways_are_refused(folder):
    made = make(folder(), 30)
    made.positions[:, 0] += np.sin(np.arange(30) / 3)
    with pytest.raises(GeometryError, match=r"irregular-spacing \(refused\): slices drift by 1\.19 mm"):
        read(made.write().folder)


def test_slices_that_creep_away_from_an_even_stack_are_resampled(folder):
    made = make(folder(), 100, step=1.0)
    made.positions[:, 2] += np.where(np.arange(100) > 50, 0.015 * (np.arange(100) - 50), 0)
    volume = read(made.write().folder)
    assert any(f.code == "irregular-spacing" and "creep" in f.message for f in volume.findings)


@pytest.mark.parametrize("policy", ["strict", "standard", "lenient"])
def test_a_policy_decides_whether_a_gap_is_repaired(folder, policy):
    made = make(folder(), 24)
    made.write([k for k in range(24) if k != 7])
    reading = ReadingConfig(policy=policy)
    if policy == "strict":
        with pytest.raises(GeometryError, match=r"missing-slices \(refused\)"):
            read(made.folder, reading=reading)
    else:
        assert len(read(made.folder, reading=reading).interpolated) == 1
    with pytest.raises(GeometryError, match=r"missing-slices \(refused\)"):
        read(made.folder, reading=ReadingConfig(policy=policy, override=("missing-slices=refused",)))


def test_a_truncated_file_is_no_missing_slice_but_under_a_lenient_policy(folder):
    made = make(folder(), 24).write()
    made.paths[5].write_bytes(made.paths[5].read_bytes()[:-10])
    with pytest.raises(GeometryError, match=r"truncated-file \(refused\): 10 bytes of its pixels are missing"):
        read(made.folder)
    volume = read(made.folder, reading=ReadingConfig(policy="lenient"))
    assert {"truncated-file", "missing-slices"} <= codes(volume)
    made.agrees_with(volume, [k for k in range(24) if k != 5])


# one series UID that is several volumes


def _copy_with(made: Made, folder, offset=0, **changes) -> None:
    again = dataclasses.replace(made, folder=folder, hu=made.hu + offset, paths=[], changes=changes)
    again.write()


def test_phases_of_one_series_are_volumes_of_their_own(folder):
    """The same positions twice: told apart by acquisition, or by time where that is one."""
    first = make(folder(), 12)
    first.changes = {"AcquisitionNumber": 1, "AcquisitionTime": "101010"}
    first.write()
    _copy_with(first, first.folder / "b", 3, AcquisitionNumber=1, AcquisitionTime="101020")
    series, _ = find_series(sorted(p for p in first.folder.rglob("*") if p.is_file()))
    assert [(len(s.frames), s.name[-2:]) for s in series] == [(12, ".1"), (12, ".2")]
    assert all("told apart by AcquisitionTime" in str(s.findings) for s in series)
    values = sorted(int(read(first.folder, series=s.name).voxels_hu.sum()) for s in series)
    assert values == sorted([int(first.hu.sum()), int(first.hu.sum()) + 3 * first.hu.size])
    with pytest.raises(ReadError, match="equally good"):
        read(first.folder)


def test_phases_that_nothing_tells_apart_are_refused(folder):
    first = make(folder(), 12).write()
    _copy_with(first, first.folder / "b", 3)
    with pytest.raises(GeometryError, match=r"time-series \(refused\): two slices differ at one position"):
        read(first.folder)


def test_acquisitions_at_other_positions_are_one_helical_volume(folder):
    made = make(folder(), 24)
    made.changes = {"AcquisitionNumber": [1] * 12 + [2] * 12}
    volume = read(made.write().folder)
    made.agrees_with(volume)
    assert codes(volume) == set()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"ConvolutionKernel": "B70f"}, "told apart by kernel"),
        ({"ImageType": "DERIVED\\SECONDARY\\AXIAL"}, "told apart by image type"),
    ],
)
def test_kernels_and_image_types_within_a_series_are_volumes_of_their_own(folder, changes, told):
    made = make(folder(), 12).write()
    _copy_with(made, made.folder / "b", 5, **changes)
    found, _ = examine(made.folder)
    assert [e.num_slices for e in found] == [12, 12]
    assert all(any(told in f.message for f in e.findings if f.code == "mixed-series") for e in found)


def test_orientations_within_a_series_are_volumes_of_their_own(folder):
    made = make(folder(), 12).write()
    turned = make(made.folder / "b", 11, rotation=Rotation.from_euler("x", 90, degrees=True)).write()
    found, _ = examine(made.folder)
    assert sorted(e.num_slices for e in found) == [11, 12]
    assert all("mixed-orientation" in {f.code for f in e.findings} for e in found)
    made.agrees_with(read(made.folder, series=next(e.series for e in found if e.num_slices == 12)))
    turned.agrees_with(read(made.folder, series=next(e.series for e in found if e.num_slices == 11)))


@pytest.mark.parametrize(
    "changes",
    [
        {"PatientID": "B", "StudyInstanceUID": "1.2.9"},
        {"FrameOfReferenceUID": "1.2.9"},
        {"AcquisitionNumber": 2},
        {"AcquisitionTime": "111111"},
    ],
    ids=["patient", "frame of reference", "acquisition", "time"],
)
@pytest.mark.parametrize("uid", ["", "1.2.3"])
def test_slices_that_interleave_under_one_uid_are_never_one_volume(folder, uid, changes):
    """Anonymisers blank or copy UIDs; half a step apart, two scans look like one of half the step."""
    common = {"SeriesInstanceUID": uid, "AcquisitionNumber": 1, "AcquisitionTime": "101010"}
    one = make(folder(), 24)
    one.changes = common
    one.write()
    other = make(one.folder / "b", 24, origin=(-120.0, -110.0, -299.25))
    other.hu = other.hu[::-1].copy()
    other.changes = {**common, **changes}
    other.write()
    series, _ = find_series(sorted(p for p in one.folder.rglob("*") if p.is_file()))
    assert [len(s.frames) for s in series] == [24, 24]
    assert all({f.path.parent for f in s.frames} in ({one.folder}, {other.folder}) for s in series)


# what SliceThickness says


@pytest.mark.parametrize(
    ("thickness", "step", "found"),
    [
        ("1", 10.0, "slice-gap"),
        ("1", 1.55, "slice-gap"),
        ("1", 1.5, ""),
        ("5", 2.5, "overlapping-slices"),
        (["1"] * 12 + ["2"] * 12, 1.0, "thickness-differs"),
        ("1.5", 1.5, ""),
        ("", 1.5, ""),
        ("0", 1.5, ""),
    ],
)
def test_thickness_is_compared_with_the_step_and_never_makes_geometry(folder, thickness, step, found):
    made = make(folder(), 24, step=step)
    made.changes = {"SliceThickness": thickness}
    (examined,), _ = examine(made.write().folder)
    assert {f.code for f in examined.findings} - {"anisotropic"} == ({found} if found else set())
    assert examined.spacing_mm[0] == step


def test_gaps_between_thin_slices_are_let_through_by_a_lenient_policy_only(folder):
    made = make(folder(), 24, step=10.0)
    made.changes = {"SliceThickness": "1"}
    made.write()
    with pytest.raises(GeometryError, match=r"slice-gap \(refused\): slices of 1 mm every 10 mm leave gaps"):
        read(made.folder)
    assert read(made.folder, reading=ReadingConfig(policy="lenient")).spacing_mm[0] == 10


def test_a_scan_larger_than_the_limit_is_refused_before_its_pixels_are_read(folder):
    made = make(folder(), 24).write()
    with pytest.raises(GeometryError, match=r"too-large \(refused\): 9\.6e-07 GB of voxels, at most 5e-07 GB"):
        read(made.folder, reading=ReadingConfig(max_gb=5e-7))


@pytest.mark.parametrize("z", [[0, 1e-2, 1e6], [0, 1.0, 9e9], [0, 1e308, -1e308], [0, 2e-3, 4e-3, 9e5]])
def test_absurd_positions_are_refused_at_once(folder, z):
    made = make(folder(), len(z))
    made.positions = np.array([[0, 0, v] for v in z], float)
    made.folder.mkdir()
    for k in range(len(z)):
        dataset = slice_dataset(np.zeros((4, 5), np.uint16), (0, 0, k), PixelSpacing=["0.7", "0.6"])
        content = f"0\\0\\{z[k]!r}"
        dataset.ImagePositionPatient = None
        dataset["ImagePositionPatient"]._value = content
        dataset.save_as(made.folder / str(k), enforce_file_format=True)
    with pytest.raises(ReadError, match=r"irregular-spacing|missing-slices|time-series|no usable ImagePositionPatient"):
        read(made.folder)


# what must not pass for a missing slice, or for a scan


@pytest.mark.parametrize("gone", ["ConvolutionKernel", "ImageType", "SliceThickness", "RescaleType", "Manufacturer"])
def test_a_slice_that_lacks_a_tag_is_still_a_slice(folder, gone):
    made = make(folder(), 24)
    usual = {"ImageType": "ORIGINAL\\PRIMARY", "RescaleType": "HU"}.get(gone, "1.5")
    made.changes = {gone: [None if k == 11 else usual for k in range(24)]}
    volume = read(made.write().folder)
    made.agrees_with(volume)
    assert "missing-slices" not in codes(volume)


def test_a_gap_is_not_filled_where_a_slice_that_is_in_no_volume_lies_beside_it(folder):
    made = make(folder(), 24)
    plain = [round(float(v), 9) for v in made.directions.ravel()]
    made.changes = {"ImageOrientationPatient": [None if k == 11 else "\\".join(map(str, plain)) for k in range(24)]}
    with pytest.raises(ReadError, match=r"missing-slices \(refused\).*not interpolated: files lie beside it"):
        read(made.write().folder)


@pytest.mark.parametrize("lost", [0, 11, 23])
@pytest.mark.parametrize("size", [200, 300, 600])
def test_a_file_cut_within_its_header_refuses_the_series_in_its_folder(folder, lost, size):
    made = make(folder(), 24).write()
    made.paths[lost].write_bytes(made.paths[lost].read_bytes()[:size])
    with pytest.raises(GeometryError, match=r"truncated-file \(refused\): damaged DICOM files lie beside it.*: 1"):
        read(made.folder)


def test_slices_at_one_height_but_not_one_place_are_no_copies(folder):
    made = make(folder(), 24).write()
    aside = dataclasses.replace(
        made, folder=made.folder / "b", positions=made.positions + np.array([50, 0, 0]), paths=[]
    )
    aside.write([7])
    with pytest.raises(GeometryError, match=r"irregular-spacing \(refused\): slices at one height lie 50\.0 mm beside"):
        read(made.folder)


def test_acquisitions_that_meet_in_a_copy_of_a_slice_are_one_volume(folder):
    made = make(folder(), 100)
    made.changes = {"AcquisitionNumber": [1] * 60 + [2] * 40}
    made.write()
    again = dataclasses.replace(made, folder=made.folder / "b", paths=[], changes={"AcquisitionNumber": 2})
    again.write([59])
    volume = read(made.folder)
    made.agrees_with(volume)
    assert codes(volume) == {"duplicate-slices"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"Modality": ["CT"] * 13 + ["PT"] * 11}, "wrong-modality"),
        ({"SOPClassUID": ["1.2.840.10008.5.1.4.1.1.2"] * 23 + ["1.2.840.10008.5.1.4.1.1.7"]}, "secondary-capture"),
        ({"ImageType": "DERIVED\\SECONDARY\\MPR\\CSA MIP"}, "derived-image"),
        ({"ImageType": "DERIVED\\SECONDARY\\REFORMATTED\\MINIMUM"}, "derived-image"),
        ({"ImageType": "DERIVED\\SECONDARY\\OTHER\\CT_SOM5 PROT"}, "secondary-capture"),
        ({"BurnedInAnnotation": ["NO"] * 23 + ["YES"]}, "secondary-capture"),
        ({"ImageType": "ORIGINAL\\PRIMARY\\SCOUT"}, "localizer"),
        ({"ImageType": "ORIGINAL\\PRIMARY\\CT_SOM5 TOP"}, "localizer"),
    ],
)
def test_one_slice_that_is_no_ct_slice_refuses_its_volume(folder, changes, code):
    made = make(folder(), 24)
    made.changes = changes
    (examined,), _ = examine(made.write().folder)
    assert code in {f.code for f in examined.findings if f.severity == "refused"}


@pytest.mark.parametrize(
    ("image_type", "code"),
    [("ORIGINAL\\PRIMARY\\AXIAL\\CT_SOM5 SPI DUAL", ""), ("DERIVED\\PRIMARY\\AXIAL", "processed-image")],
)
def test_what_vendors_add_to_the_type_of_a_scan_refuses_nothing(folder, image_type, code):
    made = make(folder(), 24)
    made.changes = {"ImageType": image_type}
    assert codes(read(made.write().folder)) == ({code} if code else set())


def test_steps_that_change_twice_are_resampled_to_the_finest(folder):
    """Thick, thin through a nodule, thick again."""
    along = np.concatenate([np.arange(0, 40, 4), np.arange(40, 60), np.arange(60, 100, 4)]).astype(float)
    made = make(folder(), len(along))
    made.positions = np.array([-120, -110, -300]) + along[:, None] * [0, 0, 1]
    made.hu[:] = np.rint(along * 4 - 900)[:, None, None]
    volume = read(made.write().folder)
    assert volume.shape[0] == 97
    assert np.array_equal(volume.voxels_hu[:, 0, 0], np.arange(97) * 4 - 900)


@pytest.mark.parametrize(
    ("step", "off", "is_regular"), [(1.0, 0.015, True), (1.0, 0.03, False), (5.0, 0.09, True), (5.0, 0.11, False)]
)
def test_a_step_may_deviate_by_two_hundredths_of_a_mm_or_two_per_cent(folder, step, off, is_regular):
    made = make(folder(), 24, step=step)
    made.positions[12, 2] += off
    (examined,), _ = examine(made.write().folder)
    assert ("irregular-spacing" in {f.code for f in examined.findings}) == (not is_regular)


@pytest.mark.parametrize(
    ("apart", "code"), [(0.0, "duplicate-slices"), (0.006, "duplicate-slices"), (0.02, "irregular-spacing")]
)
def test_a_copy_lies_where_its_slice_does_to_the_digits_of_a_position(folder, apart, code):
    made = make(folder(), 24).write()
    again = dataclasses.replace(
        made, folder=made.folder / "b", positions=made.positions + np.array([0, 0, apart]), paths=[]
    )
    again.write([7])
    (examined,), _ = examine(made.folder)
    assert code in {f.code for f in examined.findings}


def test_a_scout_in_the_same_folder_keeps_no_gap_from_being_filled(folder):
    made = make(folder(), 24)
    made.write([k for k in range(24) if k != 11])
    scout = slice_dataset(
        np.zeros((4, 5), np.uint16), (0, 0, 0), SeriesInstanceUID="1.2.9", ImageType="ORIGINAL\\PRIMARY\\LOCALIZER"
    )
    scout.save_as(made.folder / "scout", enforce_file_format=True)
    volume = read(made.folder)
    assert len(volume.interpolated) == 1


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_a_damaged_file_that_still_names_another_series_refuses_that_one_only(folder, syntax):
    made = make(folder(), 24).write()
    other = slice_dataset(np.zeros((4, 5), np.uint16), (0, 0, 0), SeriesInstanceUID="1.2.9", syntax=syntax)
    other.save_as(made.folder / "other", enforce_file_format=True)
    content = (made.folder / "other").read_bytes()
    (made.folder / "other").write_bytes(content[: content.index(b"1.2.9\0\x20\0") + 20])
    made.agrees_with(read(made.folder))
    _, loose = examine(made.folder)
    assert [f.code for f in loose] == ["unreadable-file"]


# what a second look found


def test_a_slice_without_a_rescale_among_others_that_have_one_is_refused(folder):
    made = make(folder(), 24)
    made.changes = {"RescaleIntercept": [None if k == 5 else "-1024" for k in range(24)]}
    with pytest.raises(GeometryError, match=r"rescale-missing \(refused\): some slices have a RescaleIntercept"):
        read(made.write().folder)


@pytest.mark.parametrize("gone", ["ConvolutionKernel", "ImageType"])
def test_a_reconstruction_that_says_less_is_not_merged_with_one_half_a_step_away(folder, gone):
    one = make(folder(), 24).write()
    other = make(one.folder / "b", 24, origin=(-120.0, -110.0, -299.25))
    other.changes = {gone: None}
    other.write()
    found, _ = examine(one.folder)
    assert [e.num_slices for e in found] == [24, 24]


def test_acquisitions_that_overlap_are_told_apart_where_they_interleave(folder):
    """Two breath-holds: in their overlap the slices of both would alternate."""
    first = make(folder(), 50, step=1.0)
    first.changes = {"AcquisitionNumber": 1}
    first.write()
    second = make(first.folder / "b", 50, step=1.0, origin=(-120.0, -110.0, -300 + 35.5))
    second.changes = {"AcquisitionNumber": 2}
    second.write()
    series, _ = find_series(sorted(p for p in first.folder.rglob("*") if p.is_file()))
    assert [len(s.frames) for s in series] == [50, 50]
    with pytest.raises(ReadError, match="pick one with series"):
        read(first.folder)


@pytest.mark.parametrize("turned", [False, True])
def test_a_wide_step_before_a_lasting_change_is_no_regime_of_its_own(folder, turned):
    along = np.array([0, *range(5, 32), *range(37, 90, 5)], float)
    along = along[-1] - along[::-1] if turned else along
    made = make(folder(), len(along))
    made.positions = np.array([-120, -110, -300]) + along[:, None] * [0, 0, 1]
    with pytest.raises(GeometryError, match=r"irregular-spacing \(refused\)"):
        read(made.write().folder)


@pytest.mark.parametrize("content", [b"", bytes(5000)], ids=["empty", "zeros"])
def test_an_empty_file_among_slices_refuses_the_series(folder, content):
    """A full disk leaves them; at the end of a stack no gap would show it."""
    made = make(folder(), 24).write()
    made.paths[23].write_bytes(content)
    with pytest.raises(GeometryError, match=r"truncated-file \(refused\): damaged DICOM files lie beside it"):
        read(made.folder)


@pytest.mark.parametrize("name", ["slice.zip", "slice.nii", "slice.tar.gz"])
def test_a_slice_is_a_slice_whatever_it_is_called(folder, name):
    made = make(folder(), 24).write()
    made.paths[7].rename(made.folder / name)
    volume = read(made.folder)
    made.agrees_with(volume)
    assert codes(volume) == set()


def test_words_of_low_dose_make_no_page_of_text(folder):
    made = make(folder(), 24)
    made.changes = {"ImageType": "ORIGINAL\\PRIMARY\\AXIAL\\LOW_DOSE"}
    assert codes(read(made.write().folder)) == set()


@pytest.mark.parametrize(
    ("fine", "coarse", "times"),
    [(6, 5, 2.0), (6, 4, 1.5), (5, 12, 2.5), pytest.param(20, 5, 2.0, marks=pytest.mark.slow)],
)
def test_a_change_of_step_lasts_from_a_few_slices_to_the_end_on(folder, fine, coarse, times):
    along = np.concatenate([np.arange(fine), fine - 1 + np.arange(1, coarse + 1) * times])
    made = make(folder(), len(along))
    made.positions = np.array([-120, -110, -300]) + along[:, None] * [0, 0, 1]
    volume = read(made.write().folder)
    assert "irregular-spacing" in codes(volume)
    assert volume.spacing_mm[0] == 1.0
    assert volume.shape[0] == int(along[-1]) + 1


def test_every_second_slice_missing_in_the_middle_is_no_change_of_step(folder):
    made = make(folder(), 40)
    with pytest.raises(GeometryError, match=r"missing-slices \(refused\): missing slices: 6, places: 6"):
        read(made.write([k for k in range(40) if k not in range(10, 22, 2)]).folder)
