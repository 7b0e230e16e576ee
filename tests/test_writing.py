"""Volumes are written as they are and read back where they were; what a format cannot hold is refused."""

from dataclasses import replace

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hilum import Volume, read
from hilum.errors import ConfigError, GeometryError, HilumError
from hilum.simulating import plan_cohort, simulate_case
from hilum.volume import affine_from, reorient

SUFFIXES = (".nii", ".nii.gz", ".nrrd", ".mha")


def chest(
    kind=np.int16, *, angles=(0.0, 0.0, 0.0), spacing=(2.5, 0.7, 0.8), origin=(-120.5, 33.25, -701.0), shape=None
):
    """Random HU with air, lungs and tissue, on a turned grid."""
    random = np.random.default_rng(0)
    shape = shape or (12, 10, 9)
    hu = random.choice([-1000, -850, 40, 300], shape) + random.normal(0, 10, shape)
    affine = affine_from(spacing_mm=spacing, origin_mm=(-120.5, 33.25, -701.0))
    affine[:3, :3] = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ affine[:3, :3]
    return Volume(voxels_hu=(np.rint(hu) if kind is np.int16 else hu).astype(kind), affine=affine)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", [np.int16, np.float32])
@given(angles=st.tuples(*[st.floats(-40, 40)] * 3), spacing=st.tuples(*[st.floats(0.3, 4)] * 3))
def test_a_volume_is_read_back_with_its_voxels_where_they_were(tmp_path_factory, suffix, kind, angles, spacing):
    volume = chest(kind, angles=angles, spacing=spacing)
    path = tmp_path_factory.mktemp("w") / f"scan{suffix}"
    volume.write(path)
    if suffix.startswith(".nii"):
        header = nibabel.load(path)
        ras = np.diag([-1, -1, 1, 1]) @ volume.affine[:, [2, 1, 0, 3]]
        assert np.array_equal(header.affine, ras.astype(np.float32).astype(np.float64))
        stored = np.asanyarray(header.dataobj).transpose(2, 1, 0)
    else:
        image = sitk.ReadImage(str(path))
        assert image.GetOrigin() == pytest.approx(volume.affine[:3, 3], abs=1e-9)
        assert image.GetSpacing()[::-1] == pytest.approx(np.linalg.norm(volume.affine[:3, :3], axis=0), abs=1e-9)
        stored = sitk.GetArrayFromImage(image)
    assert stored.dtype == kind
    assert np.array_equal(stored, volume.voxels_hu)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_hilum_reads_what_it_wrote_as_the_same_volume(tmp_path, suffix):
    volume = simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=8.0)[0]
    volume = replace(volume, voxels_hu=np.maximum(volume.voxels_hu, np.int16(-1000)))  # no padding
    volume.write(tmp_path / f"scan{suffix}")
    again = read(tmp_path / f"scan{suffix}")
    expected = reorient(volume)
    assert np.array_equal(again.voxels_hu, expected.voxels_hu)
    assert np.array_equal(again.affine, expected.affine)


def test_a_sheared_grid_is_written_as_nifti_and_refused_by_the_others(tmp_path):
    affine = chest().affine.copy()
    affine[1, 0] += 0.6  # a tilted gantry
    volume = replace(chest(shape=(20, 16, 16)), affine=affine)
    volume.write(tmp_path / "scan.nii.gz")
    ras = nibabel.load(tmp_path / "scan.nii.gz").affine
    assert (np.diag([-1, -1, 1, 1]) @ ras)[:, [2, 1, 0, 3]] == pytest.approx(affine, abs=1e-4)
    for suffix in (".nrrd", ".mha"):
        with pytest.raises(GeometryError, match="right angles, this one is sheared; write it as NIfTI"):
            volume.write(tmp_path / f"scan{suffix}")
    assert [file.name for file in tmp_path.iterdir()] == ["scan.nii.gz"]


def test_what_nifti_cannot_hold_is_refused(tmp_path):
    long = Volume(voxels_hu=np.zeros((32768, 1, 1), np.int16), affine=np.eye(4))
    with pytest.raises(GeometryError, match="NIfTI-1 holds at most 32767 voxels along an axis, got 32768 x 1 x 1"):
        long.write(tmp_path / "scan.nii")
    far = Volume(voxels_hu=np.zeros((2, 2, 2), np.int16), affine=np.diag([1e39, 1.0, 1.0, 1.0]))
    with pytest.raises(GeometryError, match="NIfTI-1 holds an affine in float32"):
        far.write(tmp_path / "scan.nii")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".nii", ".mha"])
def test_below_a_file_nothing_can_be_written(tmp_path, suffix):
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(HilumError, match=r"cannot be written|exists"):
        chest().write(tmp_path / "file" / f"scan{suffix}")
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_file_that_exists_is_never_overwritten_and_other_suffixes_are_named(tmp_path):
    path = tmp_path / "scan.nii"
    path.write_bytes(b"mine")
    with pytest.raises(HilumError, match="exists already") as caught:
        chest().write(path)
    assert caught.value.path == path
    assert path.read_bytes() == b"mine"
    with pytest.raises(ConfigError, match=r"must be named one of \.nii, \.nii\.gz, \.nrrd, \.mha, got scan\.png"):
        chest().write(tmp_path / "scan.png")


@given(angles=st.tuples(*[st.floats(-180, 180)] * 3), spacing=st.tuples(*[st.floats(0.3, 4)] * 3))
def test_to_simpleitk_and_back_is_the_same_volume_and_places_agree(angles, spacing):
    volume = chest(angles=angles, spacing=spacing)
    image = volume.to_sitk()
    for index in ((0, 0, 0), (3, 5, 7)):
        there = image.TransformIndexToPhysicalPoint(index[::-1])
        assert there == pytest.approx(tuple(volume.index_to_mm(index)), abs=1e-9)
    again = Volume.from_sitk(image)
    assert np.array_equal(again.voxels_hu, volume.voxels_hu)
    assert again.affine == pytest.approx(volume.affine, abs=1e-9)


def test_only_images_of_single_numbers_in_three_dimensions_become_volumes():
    for image in (sitk.Image(4, 4, sitk.sitkInt16), sitk.Image([4, 4, 4], sitk.sitkVectorInt16, 3)):
        with pytest.raises(GeometryError, match="three-dimensional image of single numbers"):
            Volume.from_sitk(image)
    for other in (sitk.Image([4, 4, 4], sitk.sitkLabelUInt8), 3):  # labels would end the process
        with pytest.raises(GeometryError, match=r"must come from a SimpleITK\.Image of numbers"):
            Volume.from_sitk(other)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([[[1, 2]]], np.uint8), np.int16),
        (np.array([[[40000]]], np.int64), np.float32),
        (np.array([[[1.5]]]), np.float32),
        (np.array([[[True]]]), np.int16),
        ([[[1, -1000]]], np.int16),
    ],
)
def test_numbers_become_hu_of_the_type_that_holds_them(values, kind):
    volume = Volume.from_array(values, spacing_mm=(1, 1, 1))
    assert volume.voxels_hu.dtype == kind
    assert np.array_equal(volume.voxels_hu, values)


def test_an_array_may_have_a_direction_and_must_be_three_dimensional():
    for spacing, direction in (((-5, 1, 2), None), ((5, 0, 2), None), ((5, 1, 2), 2 * np.eye(3)), ((5, 1, 2), [1, 0])):
        with pytest.raises(
            GeometryError, match=r"a spacing must be positive|a direction must be a 3 x 3 array of unit"
        ):
            Volume.from_array(np.zeros((2, 3, 4)), spacing_mm=spacing, direction=direction)
    volume = Volume.from_array(np.zeros((2, 3, 4)), spacing_mm=(5, 1, 2), origin_mm=(1, 2, 3), direction=np.eye(3))
    assert volume.index_to_mm((1, 1, 1)) == pytest.approx((1 + 5, 2 + 1, 3 + 2))
    for values in (np.zeros((2, 3)), np.array([[["a"]]]), [[[1, 2], [3]]]):
        with pytest.raises(GeometryError, match="HU must be a numeric array"):
            Volume.from_array(values, spacing_mm=(1, 1, 1))


@pytest.mark.parametrize("values", [[[[2**24 + 1]]], [[[1e300]]]])
def test_numbers_that_float32_does_not_hold_are_refused(values):
    with pytest.raises(GeometryError, match="HU must be numbers that float32 holds"):
        Volume.from_array(np.array(values), spacing_mm=(1, 1, 1))
    kept = Volume.from_array(np.array([[[np.inf, np.nan, 2.0**24]]]), spacing_mm=(1, 1, 1)).voxels_hu
    assert kept.tolist() == [[[3071.0, -1000.0, 2.0**24]]]
