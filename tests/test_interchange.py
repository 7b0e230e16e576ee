"""Volumes and masks as images of SimpleITK, nibabel, TorchIO and MONAI: the same HU at the same place, and back."""

import builtins
import inspect

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import torchio
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import LoadImage, Orientation
from scipy.spatial.transform import Rotation

from dicom_sources import planes_of
from hilum.errors import ConfigError, GeometryError, PrepareError, ReadError
from hilum.preparing import lungs_from_mask, prepare, segment_lungs
from hilum.preparing.lungs.masks import lungs_of
from hilum.reading.reader import read
from hilum.settings.recipe import Recipe
from hilum.volume import Volume, affine_from, reorient

LPS_FROM_RAS = np.array([-1.0, -1.0, 1.0])
THERE_AND_BACK = {
    "SimpleITK": (Volume.to_sitk, Volume.from_sitk),
    "nibabel": (Volume.to_nibabel, Volume.from_nibabel),
    "TorchIO": (Volume.to_torchio, Volume.from_torchio),
    "MONAI": (Volume.to_monai, Volume.from_monai),
}


@st.composite
def scans(draw, *, sheared: bool) -> dict[str, np.ndarray]:
    """Voxels and affines of scans on grids of any direction and spacing, with HU that are all different."""
    shape = draw(st.tuples(*[st.integers(2, 5)] * 3))  # TorchIO hands ITK one slice as a picture
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = random.permutation(np.prod(shape)).reshape(shape) - 1024
    hu = values.astype(np.int16) if draw(st.booleans()) else values.astype(np.float32) + np.float32(0.1)
    affine = np.eye(4)
    turn = Rotation.from_quat(random.normal(size=4)).as_matrix() if draw(st.booleans()) else np.eye(3)
    mirrored = np.diag(draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3)))
    affine[:3, :3] = (turn @ mirrored)[:, draw(st.permutations(range(3)))] * random.uniform(0.3, 6, 3)
    if sheared and draw(st.booleans()):
        affine[:3, 0] += 0.3 * affine[:3, 1]
    affine[:3, 3] = random.uniform(-500, 500, 3)
    return {"voxels_hu": hu, "affine": affine}


def corners_mm(volume: Volume) -> np.ndarray:
    return volume.index_to_mm(np.array(list(np.ndindex(2, 2, 2))) * (np.array(volume.shape) - 1))


@pytest.mark.parametrize("library", THERE_AND_BACK)
@given(data=st.data())
@settings(max_examples=60)
def test_a_volume_comes_back_bit_for_bit_at_the_same_place(library, data):
    there, back = THERE_AND_BACK[library]
    volume = Volume(**data.draw(scans(sheared=library != "SimpleITK")))
    again = back(there(volume))
    assert again.voxels_hu.dtype == volume.voxels_hu.dtype
    np.testing.assert_array_equal(again.voxels_hu, volume.voxels_hu)
    assert np.abs(corners_mm(again) - corners_mm(volume)).max() < 1e-3


@given(scan=scans(sheared=False), data=st.data())
@settings(max_examples=60)
def test_a_user_of_each_library_sees_the_voxel_that_hilum_sees_at_the_same_mm(scan, data):
    """The libraries' own words for where a voxel lies, at a random voxel."""
    volume = Volume(**scan)
    z, y, x = (data.draw(st.integers(0, n - 1)) for n in volume.shape)
    lps, hu = volume.index_to_mm((z, y, x)), volume.voxels_hu[z, y, x]

    itk = volume.to_sitk()
    assert itk.GetPixel(x, y, z) == hu
    np.testing.assert_allclose(itk.TransformIndexToPhysicalPoint((x, y, z)), lps, atol=1e-3)

    nifti = volume.to_nibabel()
    assert nifti.get_fdata()[x, y, z] == hu
    np.testing.assert_allclose(nibabel.affines.apply_affine(nifti.affine, (x, y, z)) * LPS_FROM_RAS, lps, atol=1e-3)

    image = volume.to_torchio()
    assert image.data[0, x, y, z] == hu
    np.testing.assert_allclose(nibabel.affines.apply_affine(image.affine, (x, y, z)) * LPS_FROM_RAS, lps, atol=1e-3)
    np.testing.assert_allclose(image.as_sitk().TransformIndexToPhysicalPoint((x, y, z)), lps, atol=1e-3)

    tensor = volume.to_monai()
    assert tensor[0, x, y, z] == hu
    np.testing.assert_allclose((tensor.affine.numpy() @ (x, y, z, 1))[:3] * LPS_FROM_RAS, lps, atol=1e-3)


@pytest.mark.filterwarnings("ignore:NvImgCodecPydicomReader")
@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_what_the_libraries_read_from_a_file_of_hilum_is_what_hilum_gives_them(suffix, tmp_path):
    hu, affine = planes_of("prone")
    volume, path = Volume(voxels_hu=hu, affine=affine), tmp_path / f"scan{suffix}"
    volume.write(path)
    read_by_torchio, given_to_torchio = torchio.ScalarImage(path), volume.to_torchio()
    np.testing.assert_array_equal(read_by_torchio.data, given_to_torchio.data)
    np.testing.assert_allclose(read_by_torchio.affine, given_to_torchio.affine, atol=1e-3)
    if suffix == ".nii.gz":  # of the others MONAI reads none with the packages that are here
        read_by_monai = LoadImage("NibabelReader", ensure_channel_first=True, image_only=True)(path)
        given_to_monai = volume.to_monai()
        assert read_by_monai.meta["space"] == given_to_monai.meta["space"]
        np.testing.assert_array_equal(read_by_monai, given_to_monai)
        np.testing.assert_allclose(read_by_monai.affine, given_to_monai.affine, atol=1e-3)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "uint8", "int32", "float32", "float64"])
@pytest.mark.parametrize("rescaled", [(1, 0), (1, -1024), (0.5, 3)])
def test_an_image_of_nibabel_is_the_volume_that_read_makes_of_its_file(dtype, rescaled, tmp_path):
    affine = np.array([[-0.7, 0, 0, 100.25], [0, 0.7, 0, -80.5], [0, 0, 2.5, -300.75], [0, 0, 0, 1]])
    stored = np.random.default_rng(0).integers(0, 200, (20, 21, 22)).astype(dtype)
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_slope_inter(*rescaled)
    image.header.set_xyzt_units("mm")
    nibabel.save(image, tmp_path / "raw.nii")
    content = bytearray((tmp_path / "raw.nii").read_bytes())
    content[112:120] = np.array(rescaled, "<f4").tobytes()  # nibabel would change the voxels for another slope
    (tmp_path / "scan.nii").write_bytes(content)
    given_by_nibabel = reorient(Volume.from_nibabel(nibabel.load(tmp_path / "scan.nii")))
    found = read(tmp_path / "scan.nii")
    np.testing.assert_array_equal(given_by_nibabel.voxels_hu, found.voxels_hu)
    np.testing.assert_array_equal(given_by_nibabel.affine, found.affine)


def test_the_units_of_a_nifti_header_count():
    image = nibabel.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.diag([0.001, 0.001, 0.002, 1]))
    image.header.set_xyzt_units("meter")
    assert Volume.from_nibabel(image).spacing_mm == (2.0, 1.0, 1.0)
    image.header["xyzt_units"] = 7  # nibabel has no name for it
    assert Volume.from_nibabel(image).spacing_mm == (0.002, 0.001, 0.001)


def test_a_tensor_of_monai_is_taken_in_its_own_space_and_after_any_orientation():
    hu, affine = planes_of("prone")
    volume = Volume(voxels_hu=hu, affine=affine)
    turned = Volume.from_monai(Orientation("PLI", labels=None)(volume.to_monai()))
    again = reorient(turned)
    np.testing.assert_array_equal(again.voxels_hu, reorient(volume).voxels_hu)
    np.testing.assert_allclose(again.affine, reorient(volume).affine, atol=1e-3)
    assert not np.allclose(turned.affine, volume.affine)
    lps = MetaTensor(np.zeros((1, 3, 4, 5), np.int16), affine=np.diag([1.0, 2, 3, 1]), meta={"space": "LPS"})
    np.testing.assert_array_equal(Volume.from_monai(lps).affine, affine_from(spacing_mm=(3, 2, 1), origin_mm=(0, 0, 0)))
    assert Volume.from_monai(lps[0]).shape == (5, 4, 3)


def test_lungs_are_masks_in_every_library_and_come_back_as_the_same_lungs():
    hu, affine = planes_of("prone")
    scan = Volume(voxels_hu=hu, affine=affine)
    lungs = segment_lungs(scan)
    assert isinstance(lungs.to_torchio(), torchio.LabelMap)
    backs = {
        "SimpleITK": lambda one: Volume.from_sitk(one),
        "nibabel": lambda one: Volume.from_nibabel(one),
        "TorchIO": lambda one: Volume.from_torchio(one),
        "MONAI": lambda one: Volume.from_monai(one),
    }
    for field, wanted in ((False, lungs.labels), (True, lungs.field)):
        images = [
            lungs.to_sitk(field=field),
            lungs.to_nibabel(field=field),
            lungs.to_torchio(field=field),
            lungs.to_monai(field=field),
        ]
        for image, back in zip(images, backs.values(), strict=True):
            mask = back(image)
            np.testing.assert_array_equal(mask.voxels_hu, wanted)
            np.testing.assert_allclose(mask.affine, scan.affine, atol=1e-3)
    mask = Volume.from_torchio(lungs.to_torchio())
    np.testing.assert_array_equal(lungs_from_mask(scan, mask).labels, lungs.labels)


def test_the_mask_of_a_sample_goes_with_it_and_one_without_says_so():
    hu, affine = planes_of("prone")
    scan = Volume(voxels_hu=hu, affine=affine)
    sample = prepare(scan, Recipe(region="lungs", size=(24, 24, 24), spacing_mm=(12.0, 12.0, 12.0), lung_channel=True))
    subject = torchio.Subject(image=sample.to_torchio(), lungs=sample.to_torchio(mask=True))
    subject.check_consistent_space()
    np.testing.assert_array_equal(subject["lungs"].data[0].numpy().transpose(2, 1, 0), sample.lungs)
    for to in (Volume.to_sitk, Volume.to_nibabel, Volume.to_torchio, Volume.to_monai):
        with pytest.raises(ConfigError, match="lung mask only in a sample"):
            to(scan, mask=True)


def test_a_change_of_the_image_does_not_reach_the_volume():
    volume = Volume(voxels_hu=np.zeros((3, 4, 5), np.int16), affine=np.eye(4)[[2, 1, 0, 3]])
    volume.to_nibabel().dataobj[...] = 7
    volume.to_torchio().data[...] = 7
    volume.to_monai()[...] = 7
    assert not volume.voxels_hu.any()


WITHOUT_CODES = nibabel.Nifti1Image.from_bytes(nibabel.Nifti1Image(np.zeros((3, 3, 3), np.int16), None).to_bytes())
COLOURS = nibabel.Nifti1Image(np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")]), np.eye(4))


@pytest.mark.parametrize(
    ("back", "image", "message"),
    [
        (Volume.from_nibabel, np.zeros((3, 3, 3)), "an image of nibabel with an affine, got numpy.ndarray"),
        (Volume.from_nibabel, WITHOUT_CODES, "where the scan lies"),
        (Volume.from_nibabel, COLOURS, "single numbers, this image holds colours"),
        (Volume.from_nibabel, nibabel.Nifti1Image(np.zeros((3, 3, 3, 2)), np.eye(4)), r"shape \(3, 3, 3, 2\)"),
        (Volume.from_nibabel, nibabel.Nifti1Image(np.zeros((3, 3)), np.eye(4)), r"shape \(3, 3\)"),
        (Volume.from_torchio, sitk.Image(3, 3, 3, sitk.sitkInt16), "an image of TorchIO, got SimpleITK.Image"),
        (Volume.from_torchio, torchio.ScalarImage(tensor=np.zeros((2, 3, 3, 3))), "one channel"),
        (Volume.from_monai, np.zeros((1, 3, 3, 3)), "a MetaTensor of MONAI, got numpy.ndarray"),
        (
            Volume.from_monai,
            MetaTensor(np.zeros((2, 1, 3, 3, 3))),
            r"one image, got a batch of .*\(2, 1, 3, 3, 3\)",
        ),
        (Volume.from_monai, MetaTensor(np.zeros((1, 3, 3, 3)), affine=np.eye(3)), "an affine 4 x 4, got 3 x 3"),
        (Volume.from_monai, MetaTensor(np.zeros((1, 3, 3, 3)), meta={"space": "scanner"}), "RAS or LPS, is scanner"),
        (Volume.from_monai, Orientation("PLI", labels=None)(MetaTensor(np.zeros((1, 3, 3, 3))), lazy=True), "lazy"),
    ],
)
def test_an_image_that_is_no_scan_is_refused_in_words(back, image, message):
    with pytest.raises(GeometryError, match=message):
        back(image)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_tensors_that_need_gradients_or_are_in_bf16_are_volumes_too(kind):
    tensor = torch.arange(24.0).reshape(1, 2, 3, 4).to(kind).requires_grad_()
    for volume in (
        Volume.from_torchio(torchio.ScalarImage(tensor=tensor)),
        Volume.from_monai(MetaTensor(tensor)),
    ):
        np.testing.assert_array_equal(volume.voxels_hu.transpose(2, 1, 0), np.arange(24).reshape(2, 3, 4))


@pytest.mark.parametrize("cut", [0.5, 0.95])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_an_image_whose_file_ends_too_early_is_refused_in_words(suffix, cut, tmp_path):
    path = tmp_path / f"scan{suffix}"
    noise = np.random.default_rng(0).integers(-1000, 1000, (40, 40, 40), np.int16)
    nibabel.save(nibabel.Nifti1Image(noise, np.eye(4)), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(cut * len(content))])
    with pytest.raises(ReadError, match="voxels of the image cannot be read"):
        Volume.from_nibabel(nibabel.load(path))


def test_a_change_of_the_file_or_of_the_image_does_not_reach_the_volume(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((3, 4, 5), np.int16, order="F"), np.eye(4))
    nibabel.save(image, tmp_path / "scan.nii")
    loaded = nibabel.load(tmp_path / "scan.nii")
    volumes = [Volume.from_nibabel(image), Volume.from_nibabel(loaded)]
    image.dataobj[...] = 7
    with (tmp_path / "scan.nii").open("r+b") as file:
        file.seek(352)
        file.write(b"\7" * 120)
    assert not any(volume.voxels_hu.any() for volume in volumes)


def test_voxels_that_are_no_numbers_become_air_with_a_finding_in_every_library_and_never_water():
    hu = np.full((3, 4, 5), -700, np.float32)
    hu[0, 0, :3] = np.nan, np.inf, -np.inf
    itk = sitk.GetImageFromArray(hu)
    images = {
        Volume.from_sitk: itk,
        Volume.from_nibabel: nibabel.Nifti1Image(hu.transpose(2, 1, 0), np.eye(4)),
        Volume.from_torchio: torchio.ScalarImage(tensor=hu.transpose(2, 1, 0)[np.newaxis].copy()),
        Volume.from_monai: MetaTensor(hu.transpose(2, 1, 0)[np.newaxis].copy()),
    }
    volumes = [back(image) for back, image in images.items()]
    volumes.append(Volume.from_array(hu, spacing_mm=(1, 1, 1)))
    for volume in volumes:
        assert volume.voxels_hu[0, 0].tolist() == [-1000, 3071, -1000, -700, -700]
        assert [finding.code for finding in volume.findings] == ["padding"]
        assert "3 of 60 voxels are not finite" in volume.findings[0].message


def test_a_scan_with_voxels_that_are_no_numbers_is_not_prepared():
    hu = np.full((20, 20, 20), -700, np.float32)
    hu[4:6] = np.nan
    scan = Volume(voxels_hu=hu, affine=affine_from(spacing_mm=(2, 2, 2), origin_mm=(0, 0, 0)))
    for recipe, point in (
        (Recipe(region="whole", size=(8, 8, 8), spacing_mm=(5.0, 5.0, 5.0)), None),
        (Recipe(region="point", size=(8, 8, 8), spacing_mm=(2.0, 2.0, 2.0)), (20, 20, 10)),
    ):
        with pytest.raises(PrepareError, match="HU must be finite"):
            prepare(scan, recipe, point_mm=point)


def test_lungs_that_are_something_else_are_refused_in_words():
    hu, affine = planes_of("prone")
    scan = Volume(voxels_hu=hu, affine=affine)
    mask = scan.to_monai()
    recipe = Recipe(region="lungs", size=(24, 24, 24), spacing_mm=(12.0, 12.0, 12.0))
    with pytest.raises(ConfigError, match=r"lungs must be what segment_lungs .* got MetaTensor"):
        inspect.unwrap(lungs_of)(scan, recipe, mask)  # in tests the types of arguments are checked before
    with pytest.raises(PrepareError, match="a mask must be a Volume, got MetaTensor"):
        inspect.unwrap(lungs_from_mask)(scan, mask)


def test_directions_that_a_format_has_rounded_are_no_shear_for_itk():
    turn = np.round(Rotation.from_euler("xyz", (11, 23, 37), degrees=True).as_matrix(), 5)
    affine = np.eye(4)
    affine[:3, :3] = turn * (2.5, 0.7, 0.7)
    volume = Volume(voxels_hu=np.zeros((3, 4, 5), np.int16), affine=affine)
    image = volume.to_sitk()
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((4, 3, 2)), volume.index_to_mm((2, 3, 4)), atol=1e-3)
    affine[:3, 0] += 0.01 * affine[:3, 1]
    with pytest.raises(GeometryError, match="sheared"):
        Volume(voxels_hu=volume.voxels_hu, affine=affine).to_sitk()


def test_an_affine_with_another_last_row_is_refused():
    affine = np.eye(4)
    affine[3] = (1, 0, 0, 1)
    with pytest.raises(GeometryError, match="last row of a volume's affine must be 0 0 0 1, is 1 0 0 1"):
        Volume(voxels_hu=np.zeros((3, 4, 5), np.int16), affine=affine)


@pytest.mark.parametrize("package", ["torchio", "monai"])
def test_a_library_that_is_not_installed_is_named(package, monkeypatch):
    importing = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    def import_module(name):
        return without(name)

    monkeypatch.setattr("hilum.interchange.importlib.import_module", import_module)
    volume = Volume(voxels_hu=np.zeros((3, 4, 5), np.int16), affine=np.eye(4)[[2, 1, 0, 3]])
    with pytest.raises(ConfigError, match=f"need the package {package}.*pip install {package}"):
        THERE_AND_BACK[{"torchio": "TorchIO", "monai": "MONAI"}[package]][0](volume)
