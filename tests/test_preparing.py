"""A scan on another grid: in the right place, at the right scale, with air or its edge outside."""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hilum.errors import ConfigError, GeometryError, PrepareError, ReadError
from hilum.preparing import normalize, prepare, prepare_path, resample, sample, window
from hilum.preparing.resample import grid_around
from hilum.settings.run import Recipe
from hilum.simulating import Scanner, simulate_scan
from hilum.volume import Volume, affine_from, crop

SLOPES = np.array([2.0, -3.0, 1.5])
"""HU per mm along x, y, z."""


@pytest.fixture(scope="module")
def chest():
    return simulate_scan(7, scanner=Scanner(pixel_mm=4.0, pixels=96, thickness_mm=6.0, increment_mm=6.0))


def _ramp(affine, shape):
    """A scan whose HU are a linear function of the position in mm, zero at the centre."""
    blank = Volume(voxels_hu=np.zeros(shape, np.float32), affine=affine)
    where = blank.index_to_mm(np.moveaxis(np.indices(shape), 0, -1))
    return replace(blank, voxels_hu=((where - blank.centre_mm) @ SLOPES).astype(np.float32))


def _inside(volume, points, margin):
    index = volume.mm_to_index(points)
    return ((index >= margin) & (index <= np.array(volume.shape) - 1 - margin)).all(axis=-1)


@st.composite
def _sources(draw, kind):
    """Affines of one kind of grid around the origin."""
    spacing = np.diag([draw(st.floats(0.6, 3)) for _ in range(3)])[::-1]
    if kind == "flipped":
        return spacing * np.array([-1.0, 1.0, -1.0])
    if kind == "permuted":
        return spacing[:, [2, 0, 1]]
    if kind == "oblique":
        angles = [draw(st.floats(-25, 25)) for _ in range(3)]
        return Rotation.from_euler("zyx", angles, degrees=True).as_matrix() @ spacing
    if kind == "sheared":
        spacing[1, 0] = draw(st.floats(-0.4, 0.4)) * spacing[2, 0]
    return spacing


@pytest.mark.parametrize("kind", ["axial", "flipped", "permuted", "oblique", "sheared"])
@settings(max_examples=25)
@given(st.data())
def test_a_linear_ramp_in_mm_comes_back_from_any_grid(kind, data):
    """Defect 2: the tutorial moves the scan by half a voxel's difference."""
    shape = (22, 24, 26)
    source = _ramp(grid_around(np.array([3.0, -2.0, 5.0]), data.draw(_sources(kind)), shape), shape)
    step = data.draw(st.floats(0.5, 4))
    target = grid_around(np.array([3.5, -1.0, 5.25]), np.diag([step] * 3)[::-1].copy(), (7, 7, 7))
    points = Volume(voxels_hu=np.zeros((7, 7, 7), np.int16), affine=target).index_to_mm(
        np.moveaxis(np.indices((7, 7, 7)), 0, -1)
    )
    got = sample(source, target, (7, 7, 7))
    lost = np.maximum(1, step / np.array(source.spacing_mm))
    interior = _inside(source, points, 2 * lost.max() + 1)
    expected = (points - source.centre_mm) @ SLOPES
    assert np.abs(got - expected)[interior].max(initial=0) < 0.02


def test_the_same_grid_gives_the_same_voxels_bit_for_bit(chest):
    volume, _ = chest
    assert np.array_equal(sample(volume, volume.affine, volume.shape), volume.voxels_hu)


def test_a_grid_moved_by_whole_voxels_is_a_crop_bit_for_bit(chest):
    volume, _ = chest
    box = crop(volume, (3, 10, 20), (13, 40, 60))
    assert np.array_equal(sample(volume, box.affine, box.shape), box.voxels_hu)


def test_a_grid_moved_by_half_a_voxel_is_the_mean_of_neighbours():
    voxels = np.random.default_rng(0).integers(-1000, 1000, (6, 6, 6)).astype(np.int16)
    volume = Volume(voxels_hu=voxels, affine=np.eye(4)[[2, 1, 0, 3]])
    moved = volume.affine.copy()
    moved[:3, 3] = volume.index_to_mm((0, 0, 0.5))
    got = sample(volume, moved, (6, 6, 5))
    assert np.allclose(got, (voxels[:, :, :-1] + voxels[:, :, 1:].astype(float)) / 2, atol=1e-3)


def test_resampling_keeps_the_centre_and_the_ramp():
    """Defect 2: with the origin of the old grid, voxels twice as large lie half a voxel off."""
    volume = _ramp(affine_from(spacing_mm=(1.0, 1.0, 1.0), origin_mm=(-9.0, 4.0, 7.0)), (20, 20, 20))
    coarse = resample(volume, (2.0, 2.0, 2.0))
    assert coarse.shape == (10, 10, 10)
    assert coarse.spacing_mm == (2.0, 2.0, 2.0)
    assert np.allclose(coarse.centre_mm, volume.centre_mm)
    inner = (slice(2, -2),) * 3
    expected = (coarse.index_to_mm(np.moveaxis(np.indices(coarse.shape), 0, -1)) - volume.centre_mm) @ SLOPES
    assert np.allclose(coarse.voxels_hu[inner], expected[inner], atol=1e-3)


@pytest.mark.parametrize("outside", ["air", "edge"])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (0.7, 3.1, 1.3), (4.0, 4.0, 4.0)])
def test_nothing_but_the_scan_and_air_comes_into_a_resampled_scan(outside, spacing):
    """Defect 2: the tutorial pads with the number of the pixel type, +2 HU, which is water."""
    volume = Volume(
        voxels_hu=np.full((15, 31, 33), -850, np.int16),
        affine=affine_from(spacing_mm=(2.5, 0.8, 0.8), origin_mm=(0.0, 0.0, 0.0)),
    )
    got = resample(volume, spacing, outside=outside).voxels_hu
    assert got.max() <= -850 + 1e-3
    assert got.min() >= (-1000 if outside == "air" else -850) - 1e-3
    assert got[tuple(n // 2 for n in got.shape)] == pytest.approx(-850)


@pytest.mark.parametrize("turn", [0.0, 5.0])
def test_far_outside_lies_air_or_the_nearest_voxel(turn):
    steps = Rotation.from_euler("z", turn, degrees=True).as_matrix() @ np.diag([1.0, 1.0, 1.0])[::-1]
    volume = Volume(voxels_hu=np.full((8, 8, 8), 40, np.int16), affine=grid_around(np.zeros(3), steps, (8, 8, 8)))
    target = grid_around(np.zeros(3), np.diag([1.0, 1.0, 1.0])[::-1].copy(), (40, 40, 40))
    air, edge = (sample(volume, target, (40, 40, 40), outside=o) for o in ("air", "edge"))
    assert air[0, 0, 0] == -1000
    assert air[20, 20, 20] == pytest.approx(40)
    assert np.allclose(edge, 40, atol=1e-3)


def test_a_grid_wholly_outside_the_scan_is_air():
    volume = Volume(voxels_hu=np.full((8, 8, 8), 40, np.int16), affine=np.eye(4)[[2, 1, 0, 3]])
    far = affine_from(spacing_mm=(1.0, 1.0, 1.0), origin_mm=(500.0, 500.0, 500.0))
    assert (sample(volume, far, (4, 4, 4)) == -1000).all()


@settings(max_examples=10)
@given(st.tuples(*[st.floats(-1.5, 1.5)] * 3))
def test_a_small_nodule_keeps_its_mass_when_resolution_is_lost(shift):
    """Defect 2: without a low-pass, sampling every fourth voxel keeps the nodule or loses it by chance."""
    shape = (60, 60, 60)
    volume = Volume(voxels_hu=np.zeros(shape, np.int16), affine=grid_around(np.zeros(3), np.eye(3)[::-1] * 0.8, shape))
    where = volume.index_to_mm(np.moveaxis(np.indices(shape), 0, -1))
    inside = ((where - np.array(shift)) ** 2).sum(axis=-1) < 2.5**2
    volume = replace(volume, voxels_hu=np.where(inside, 40, -850).astype(np.int16))
    coarse = resample(volume, (3.2, 3.2, 3.2))
    mass = ((volume.voxels_hu.astype(float) + 850) * volume.voxel_mm3).sum()
    interior = (coarse.voxels_hu[2:-2, 2:-2, 2:-2].astype(float) + 850) * coarse.voxel_mm3
    assert interior.sum() == pytest.approx(mass, rel=0.03)


@pytest.mark.parametrize("spacing", [(0.0, 1.0, 1.0), (1.0, -1.0, 1.0), (1.0, 1.0, float("nan"))])
def test_a_spacing_that_is_not_positive_is_refused(spacing):
    volume = Volume(voxels_hu=np.zeros((4, 4, 4), np.int16), affine=np.eye(4))
    with pytest.raises(ConfigError, match=r"spacing_mm must be positive \(z, y, x\), got"):
        resample(volume, spacing)


# recipes


def test_the_lungs_box_is_centred_and_keeps_its_shape_in_mm(chest):
    """Defect 7: the tutorial squeezes the whole scan into a cube and forgets the spacing."""
    volume, truth = chest
    recipe = Recipe(region="lungs", size=(32, 40, 48), spacing_mm=(9.0, 8.0, 7.0))
    prepared = prepare(volume, recipe)
    assert prepared.shape == (32, 40, 48)
    assert prepared.spacing_mm == (9.0, 8.0, 7.0)
    assert prepared.voxels_hu.dtype == np.int16
    lungs = volume.index_to_mm(np.argwhere(truth.lungs > 0))
    middle = (lungs.min(axis=0) + lungs.max(axis=0)) / 2
    assert np.abs(prepared.centre_mm - middle).max() < 10
    assert np.allclose(prepared.affine[:3, :3], [[0, 0, 7], [0, 8, 0], [9, 0, 0]])


def test_what_lies_outside_the_lungs_is_air_and_never_water(chest):
    """Defect 5: the tutorial multiplies HU by the mask, which makes everything else 0 HU, water."""
    volume, truth = chest
    recipe = Recipe(region="lungs", size=(40, 48, 64), spacing_mm=(7.0, 6.0, 6.0), outside_lungs="air")
    prepared = prepare(volume, recipe)
    inside = Volume(voxels_hu=(truth.lungs > 0).astype(np.float32), affine=volume.affine)
    share = sample(inside, prepared.affine, prepared.shape, outside="edge")
    assert (prepared.voxels_hu[share < 0.01] == -1000).mean() > 0.98
    assert prepared.voxels_hu[share > 0.99].mean() > -950
    kept = prepare(volume, replace(recipe, outside_lungs="keep"))
    assert (kept.voxels_hu == prepared.voxels_hu)[share > 0.99].mean() > 0.95
    assert kept.voxels_hu.max() > 0 > prepared.voxels_hu[share < 0.01].max() - 200


def test_lungs_larger_than_the_box_are_a_finding(chest):
    volume, _ = chest
    prepared = prepare(volume, Recipe(region="lungs", size=(16, 16, 16), spacing_mm=(2.0, 2.0, 2.0)))
    (found,) = [f for f in prepared.findings if f.code == "beyond-grid"]
    assert found.message.startswith("the lungs measure")


def test_a_point_is_the_centre_of_its_box(chest):
    volume, _ = chest
    point = volume.index_to_mm((20, 40, 50))
    prepared = prepare(volume, Recipe(region="point", size=(5, 7, 9), spacing_mm=(6.0, 4.0, 4.0)), point_mm=point)
    assert np.allclose(prepared.index_to_mm((2, 3, 4)), point)
    assert np.array_equal(prepared.voxels_hu, volume.voxels_hu[18:23, 37:44, 46:55].clip(-1024, 3071))
    assert prepared.findings == volume.findings


@pytest.mark.parametrize("outside", ["air", "edge"])
def test_a_box_that_sticks_out_is_filled_and_reported(chest, outside):
    volume, _ = chest
    point = volume.index_to_mm((0, 40, 50))
    recipe = Recipe(region="point", size=(5, 5, 5), spacing_mm=(6.0, 4.0, 4.0), outside=outside)
    prepared = prepare(volume, recipe, point_mm=point)
    expected = np.full((5, 5), -1000) if outside == "air" else volume.voxels_hu[0, 38:43, 48:53].clip(-1024)
    assert np.array_equal(prepared.voxels_hu[0], expected)
    (found,) = [f for f in prepared.findings if f.code == "beyond-scan"]
    assert "12.0 mm" in found.message


def test_a_point_outside_the_scan_is_refused_with_the_scan_box(chest):
    volume, _ = chest
    recipe = Recipe(region="point", size=(5, 5, 5), spacing_mm=(1.0, 1.0, 1.0))
    for point in ((1e4, 0, 0), (float("nan"), 0, 0)):
        with pytest.raises(
            GeometryError, match=r"point-outside.*must lie inside the scan: x, y, z in .* to .* mm \(LPS\)"
        ):
            prepare(volume, recipe, point_mm=point)


def test_a_missing_point_is_refused(chest):
    with pytest.raises(PrepareError, match="region point needs a point"):
        prepare(chest[0], Recipe(region="point", spacing_mm=(1.0, 1.0, 1.0)))


def test_the_whole_scan_is_centred_on_the_scan(chest):
    volume, _ = chest
    prepared = prepare(volume, Recipe(region="whole", size=(20, 30, 30), extent_mm=(300.0, 390.0, 390.0)))
    assert np.allclose(prepared.centre_mm, volume.centre_mm)
    small = prepare(volume, Recipe(region="whole", size=(20, 30, 30), extent_mm=(300.0, 384.0, 200.0)))
    (found,) = [f for f in small.findings if f.code == "beyond-grid"]
    assert found.message == "the scan measures 384 mm along x, 184 mm more than the model's box"


def test_a_scan_without_lungs_is_refused():
    water = Volume(voxels_hu=np.zeros((20, 20, 20), np.int16), affine=np.diag([10.0, 10, 10, 1])[[2, 1, 0, 3]])
    with pytest.raises(PrepareError, match=r"no-lungs \(refused\)"):
        prepare(water, Recipe(region="lungs", spacing_mm=(1.0, 1.0, 1.0)))


def test_tags_and_findings_of_the_scan_stay_with_the_sample(chest):
    volume, _ = chest
    prepared = prepare(volume, Recipe(region="whole", size=(4, 4, 4), extent_mm=(500.0,) * 3))
    assert prepared.tags == volume.tags


# window and scale


def test_a_window_limits_and_a_scale_maps_it_to_zero_and_one():
    """Defect 3: the tutorial computes the windowed scan and drops it."""
    volume = Volume(voxels_hu=np.array([[[-1024, -1000, -300, 400, 3071]]], np.int16), affine=np.eye(4))
    assert window(volume, (-1000.0, 400.0)).voxels_hu.tolist() == [[[-1000, -1000, -300, 400, 400]]]
    assert normalize(volume, (-1000.0, 400.0)).tolist() == [[[0, 0, 0.5, 1, 1]]]
    assert normalize(volume, (-1000.0, 400.0)).dtype == np.float32


def test_one_metal_voxel_moves_no_other_voxel():
    """Defect 6: the tutorial scales by the scan's own extremes, so one metal voxel darkens everything."""
    volume = Volume(voxels_hu=np.full((4, 4, 4), -600, np.int16), affine=np.eye(4))
    metal = volume.voxels_hu.copy()
    metal[0, 0, 0] = 3071
    plain, spoiled = (normalize(replace(volume, voxels_hu=v), (-1000.0, 400.0)) for v in (volume.voxels_hu, metal))
    assert np.array_equal(plain.ravel()[1:], spoiled.ravel()[1:])


def test_a_constant_scan_is_scaled_without_nan():
    """Defect 6: the tutorial divides zero by zero."""
    volume = Volume(voxels_hu=np.full((4, 4, 4), -1000, np.int16), affine=np.eye(4))
    assert (normalize(volume, (-1000.0, 400.0)) == 0).all()


# prepared volumes (.npy)

NPY = Recipe(region="whole", size=(4, 5, 6), spacing_mm=(3.0, 2.0, 1.0), windows_hu=((-1000.0, 400.0),))


def test_a_prepared_volume_in_zero_to_one_becomes_hu_within_the_window(tmp_path):
    unit = np.linspace(0, 1, 120, dtype=np.float32).reshape(4, 5, 6)
    np.save(tmp_path / "x.npy", unit)
    volume = prepare_path(tmp_path / "x.npy", NPY)
    assert volume.voxels_hu.dtype == np.int16
    assert volume.voxels_hu.min() == -1000
    assert volume.voxels_hu.max() == 400
    assert np.abs(normalize(volume, (-1000.0, 400.0)) - unit).max() < 0.5 / 1400 + 1e-6
    assert volume.spacing_mm == (3.0, 2.0, 1.0)
    assert np.allclose(volume.centre_mm, 0)


def test_a_prepared_volume_in_hu_is_taken_as_it_is(tmp_path):
    hu = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
    np.save(tmp_path / "x.npy", hu)
    assert np.array_equal(prepare_path(tmp_path / "x.npy", dataclasses.replace(NPY, npy_range="hu")).voxels_hu, hu)


@pytest.mark.parametrize(
    ("array", "error", "message"),
    [
        (
            np.zeros((4, 5, 7), np.float32),
            PrepareError,
            r"\(4, 5, 6\) \(recipe\.size\), holds float32 of \(4, 5, 7\)",
        ),
        (np.zeros((1, 4, 5, 6), np.float32), PrepareError, r"holds float32 of \(1, 4, 5, 6\)"),
        (np.zeros((4, 5, 6), complex), PrepareError, "must hold numbers"),
        (np.full((4, 5, 6), np.nan), PrepareError, "not finite"),
        (
            np.full((4, 5, 6), -600.0),
            PrepareError,
            r"must lie in \[0, 1\] \(recipe\.npy_range = unit\), lies in \[",
        ),
        (np.array(["text"], object), ReadError, r"is not a plain \.npy array"),
    ],
    ids=["size", "channels", "complex", "nan", "hu", "pickle"],
)
def test_a_prepared_volume_that_does_not_fit_is_refused(tmp_path, array, error, message):
    np.save(tmp_path / "x.npy", array, allow_pickle=True)
    with pytest.raises(error, match=message):
        prepare_path(tmp_path / "x.npy", NPY)


def test_a_missing_or_damaged_prepared_volume_is_a_read_error(tmp_path):
    with pytest.raises(ReadError, match="no file or folder"):
        prepare_path(tmp_path / "nowhere.npy", NPY)
    (tmp_path / "x.npy").write_bytes(b"")
    with pytest.raises(ReadError, match=r"is not a plain \.npy array"):
        prepare_path(tmp_path / "x.npy", NPY)


def test_errors_of_preparing_name_the_path(tmp_path):
    from dicom_files import write_series

    write_series(tmp_path / "scan")
    with pytest.raises(PrepareError, match="scan: no-lungs"):
        prepare_path(tmp_path / "scan", Recipe(spacing_mm=(1.0, 1.0, 1.0)))
