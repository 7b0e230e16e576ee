"""Ramps come back exactly and nodules keep their mass, from every grid and every format."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from dicom_files import write_series
from hilum.preparing import resample, sample
from hilum.preparing.kernels import weights
from hilum.preparing.resample import grid_around
from hilum.reading.reader import read
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume, affine_from

SLOPES = np.array([11.0, -20.0, 15.0])
"""HU per mm along x, y, z: 27 HU/mm in all."""


def axial(spacing_mm):
    return np.diag(np.array(spacing_mm, float))[::-1].copy()


def positions(affine, shape):
    return np.moveaxis(np.indices(shape), 0, -1) @ affine[:3, :3].T + affine[:3, 3]


def ramp(affine, shape, slopes=SLOPES):
    return Volume(voxels_hu=(positions(affine, shape) @ slopes).astype(np.float32), affine=affine)


def interior(volume, points, margin):
    index = volume.mm_to_index(points)
    return ((index >= margin) & (index <= np.array(volume.shape) - 1 - margin)).all(axis=-1)


@st.composite
def grids(draw, kind):
    """Step vectors of a scan."""
    steps = axial([draw(st.floats(0.5, 5)), draw(st.floats(0.5, 1.5)), draw(st.floats(0.5, 1.5))])
    if kind == "flipped":
        return steps * np.array([-1.0, 1.0, -1.0])
    if kind == "permuted":
        return steps[:, [2, 0, 1]]
    if kind == "oblique":
        return (
            Rotation.from_euler("zyx", [draw(st.floats(-180, 180)) for _ in range(3)], degrees=True).as_matrix() @ steps
        )
    if kind == "sheared":
        steps[:2, 0] = [draw(st.floats(-0.5, 0.5)) * steps[2, 0] for _ in range(2)]
    return steps


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("kind", ["axial", "flipped", "permuted", "oblique", "sheared"])
@settings(max_examples=20)
@given(st.data())
def test_a_steep_ramp_in_mm_comes_back_within_a_tenth_of_a_unit(kind, interpolation, data):
    shape = (44, 48, 52)
    source = ramp(grid_around(np.zeros(3), data.draw(grids(kind)), shape), shape)
    spacing = [data.draw(st.floats(0.5, 5)) for _ in range(3)]
    target = grid_around(np.array([data.draw(st.floats(-0.5, 0.5)) for _ in range(3)]), axial(spacing), (5, 5, 5))
    points = positions(target, (5, 5, 5))
    got = sample(source, target, (5, 5, 5), interpolation=interpolation)
    lost = np.abs(np.linalg.inv(source.affine[:3, :3]) @ target[:3, :3]).sum(axis=1).max()
    inner = interior(source, points, (10 if interpolation == "cubic" else 2) + lost)
    assert np.abs(got - points @ SLOPES)[inner].max(initial=0) < 0.1


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("step", [0.31, 0.77, 0.96, 1.0, 1.04, 1.28, 1.5, 2.56, 6.4])
def test_weights_sum_to_one_balance_about_the_centre_and_use_every_old_voxel_alike(step, interpolation):
    """A ramp, and the mass of anything however small, follow from these three sums."""
    centres = 12.3 + step * np.arange(round(100 / step))
    made = weights(centres, step, 140, interpolation=interpolation, outside="air")
    matrix = np.zeros((len(centres), 140))
    for rows, columns, block in made.blocks:
        matrix[rows, columns] = block
    assert matrix.sum(axis=1) == pytest.approx(np.ones(len(centres)), abs=1e-6)
    assert matrix @ np.arange(140) == pytest.approx(centres, abs=1e-4)
    assert matrix.sum(axis=0)[30:95] * step == pytest.approx(np.ones(65), abs=0.02)
    if interpolation == "linear":
        assert matrix.min() >= 0, "linear interpolation never leaves the range of the scan"


def nodule(steps, centre_mm, edge_mm=46.0):
    """A ball of 6 mm and 40 HU in lung of -850 HU, with partial volume at its border."""
    shape = tuple(int(np.ceil(edge_mm / s)) for s in np.linalg.norm(steps, axis=0))
    affine = grid_around(np.zeros(3), steps, shape)
    hu = np.full(shape, -850.0)
    near = np.argwhere(((positions(affine, shape) - centre_mm) ** 2).sum(axis=-1) < 9.0**2)
    low, high = near.min(axis=0), near.max(axis=0) + 1
    fine = 7
    index = [(np.arange(a * fine, b * fine) + 0.5) / fine - 0.5 for a, b in zip(low, high, strict=True)]
    points = np.stack(np.meshgrid(*index, indexing="ij"), axis=-1) @ affine[:3, :3].T + affine[:3, 3]
    inside = ((points - centre_mm) ** 2).sum(axis=-1) < 3.0**2
    counts = high - low
    share = inside.reshape(counts[0], fine, counts[1], fine, counts[2], fine).mean(axis=(1, 3, 5))
    hu[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] += 890 * share
    return Volume(voxels_hu=np.rint(hu).astype(np.int16), affine=affine)


MASS = 4 / 3 * np.pi * 3.0**3 * 890


@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
@pytest.mark.parametrize("turn", [0, 20])
@pytest.mark.parametrize(
    "source",
    [
        pytest.param((0.6, 0.6, 0.6), marks=pytest.mark.slow),
        (1.0, 0.8, 0.8),
        (1.25, 0.7, 0.7),
        (2.5, 0.75, 0.75),
        (5.0, 0.7, 0.7),
    ],
)
def test_a_nodule_of_six_millimetres_keeps_its_excess_within_five_percent(source, turn, interpolation):
    random = np.random.default_rng(round(source[0] * 100) + turn)
    rotation = Rotation.from_euler("zyx", random.uniform(-turn, turn, 3), degrees=True).as_matrix()
    volume = nodule(rotation @ axial(source), random.uniform(-2, 2, 3))
    for target in [(s, s, s) for s in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)] + [(5.0, 1.0, 1.0)]:
        shape = tuple(int(26 / s) for s in target)
        grid = grid_around(random.uniform(-0.5, 0.5, 3) * np.array(target)[::-1], axial(target), shape)
        got = sample(volume, grid, shape, interpolation=interpolation, outside="edge").astype(float)
        assert ((got + 850) * np.prod(target)).sum() == pytest.approx(MASS, rel=0.05), target


def test_half_a_voxel_is_half_a_voxel_for_even_and_odd_numbers_of_voxels():
    """The centre of a scan stays where it is, however many voxels there are before and after."""
    for before in (20, 21):
        for after in (9, 10):
            source = ramp(grid_around(np.zeros(3), axial((1.0, 1.0, 1.0)), (before,) * 3), (before,) * 3)
            target = grid_around(np.zeros(3), axial((1.5, 1.5, 1.5)), (after,) * 3)
            got = sample(source, target, (after,) * 3)
            assert got == pytest.approx((positions(target, (after,) * 3) @ SLOPES), abs=1e-2)


def test_labels_stay_labels_and_go_to_the_nearest_voxel():
    labels = np.random.default_rng(0).choice(np.array([0, 7, 40], np.int16), (9, 9, 9))
    source = Volume(voxels_hu=labels, affine=grid_around(np.zeros(3), axial((1.0, 1.0, 1.0)), (9, 9, 9)))
    for turn in (0.0, 10.0):
        steps = Rotation.from_euler("z", turn, degrees=True).as_matrix() @ axial((0.4, 0.4, 0.4))
        target = grid_around(np.array([0.07, 0.03, 0.01]), steps, (13, 13, 13))
        got = sample(source, target, (13, 13, 13), interpolation="nearest")
        nearest = np.rint(source.mm_to_index(positions(target, (13, 13, 13)))).astype(int)
        assert np.array_equal(got, labels[tuple(np.moveaxis(nearest, -1, 0))])


def test_a_slice_that_was_missing_stays_marked_on_the_new_grid():
    voxels = np.zeros((11, 4, 4), np.int16)
    source = Volume(voxels_hu=voxels, affine=grid_around(np.zeros(3), axial((2.0, 1.0, 1.0)), voxels.shape))
    marked = replace(source, interpolated=((0, 5), (0, 10)))
    assert resample(marked, (2.0, 2.0, 2.0)).interpolated == ((0, 5), (0, 10))
    assert resample(marked, (22 / 33, 1.0, 1.0)).interpolated == tuple((0, i) for i in (15, 16, 17, 30, 31, 32))
    assert resample(marked, (22 / 3, 1.0, 1.0)).interpolated == ((0, 1), (0, 2))


def test_the_number_of_cores_changes_no_bit(monkeypatch):
    hu = np.random.default_rng(0).integers(-1000, 1000, (50, 40, 45)).astype(np.int16)
    source = Volume(voxels_hu=hu, affine=grid_around(np.zeros(3), axial((2.0, 0.8, 0.8)), hu.shape))
    results = []
    for number in (1, 3):
        monkeypatch.setattr(sys.modules["hilum.preparing.resample"], "cores", lambda number=number: number)
        for turn in (0.0, 8.0):
            steps = Rotation.from_euler("x", turn, degrees=True).as_matrix() @ axial((1.1, 1.3, 1.3))
            results.append(sample(source, grid_around(np.zeros(3), steps, (70, 20, 20)), (70, 20, 20)))
    assert np.array_equal(results[0], results[2])
    assert np.array_equal(results[1], results[3])


# from files

TILT = np.array([0.0, 0.5, 2.5])


def write_dicom_ramp(folder, slopes, *, step_mm=(0.0, 0.0, 2.5), orientation=(1, 0, 0, 0, 1, 0)):
    """A DICOM series whose stored numbers hold the ramp to 1/32 HU."""
    shape = (40, 52, 64)
    row, column = np.array(orientation[:3], float), np.array(orientation[3:], float)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([np.array(step_mm), column * 0.75, row * 0.5], axis=1)
    affine[:3, 3] = (-10.0, -20.0, 30.0)
    hu = (positions(affine, shape) - positions(affine, shape).mean(axis=(0, 1, 2))) @ slopes - 300
    stored = np.rint((hu + 1000) * 32).astype(np.int64)
    assert stored.min() >= 0
    assert stored.max() < 2**16
    write_series(
        folder, hu, stored=stored.astype(np.uint16), step_mm=step_mm, RescaleSlope="0.03125", RescaleIntercept="-1000",
        ImageOrientationPatient=list(orientation),
    )  # fmt: skip
    return positions(affine, shape).mean(axis=(0, 1, 2))


def write_image_ramp(path, slopes, *, turn):
    shape = (40, 52, 64)
    rotation = Rotation.from_euler("zyx", turn, degrees=True).as_matrix()
    affine = grid_around(np.array([5.0, -3.0, 8.0]), rotation @ axial((2.5, 0.75, 0.5)), shape)
    hu = (positions(affine, shape) - [5.0, -3.0, 8.0]) @ slopes - 300
    image = sitk.GetImageFromArray(hu.astype(np.float32))
    image.SetSpacing((0.5, 0.75, 2.5))
    image.SetDirection(rotation.ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return np.array([5.0, -3.0, 8.0])


def check_ramp(scan, middle, slopes):
    volume = read(scan, reading=ReadingConfig(policy="lenient"))
    for spacing in ((0.7, 0.7, 0.7), (1.0, 1.0, 1.0), (2.1, 1.3, 1.3), (3.0, 3.0, 3.0)):
        for interpolation in ("linear", "cubic"):
            shape = (7, 7, 7)
            target = grid_around(np.add(volume.centre_mm, (0.3, -0.2, 0.4)), axial(spacing), shape)
            points = positions(target, shape)
            lost = np.abs(np.linalg.inv(volume.affine[:3, :3]) @ target[:3, :3]).sum(axis=1).max()
            inner = interior(volume, points, (7 if interpolation == "cubic" else 2) + lost)
            assert inner.any()
            got = sample(volume, target, shape, interpolation=interpolation)
            assert np.abs(got - ((points - middle) @ slopes - 300))[inner].max() < 0.1


GENTLE = np.array([5.0, -7.0, 4.0])


@pytest.mark.parametrize("case", ["axial", "tilted gantry", "oblique", "feet first"])
def test_a_ramp_written_as_dicom_comes_back(tmp_path, case):
    turned = Rotation.from_euler("zyx", (9, -6, 12), degrees=True).as_matrix().round(6)
    settings_of = {
        "axial": {},
        "tilted gantry": {"step_mm": tuple(TILT)},
        "oblique": {"step_mm": tuple(turned[:, 2] * 2.5), "orientation": (*turned[:, 0], *turned[:, 1])},
        "feet first": {"orientation": (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0)},
    }[case]
    middle = write_dicom_ramp(tmp_path / "scan", GENTLE, **settings_of)
    check_ramp(tmp_path / "scan", middle, GENTLE)


@pytest.mark.parametrize("turn", [(0, 0, 0), (9, -6, 12), (90, 0, 0), (180, 0, 90)], ids=str)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_a_ramp_written_as_an_image_comes_back(tmp_path, suffix, turn):
    middle = write_image_ramp(tmp_path / f"scan{suffix}", GENTLE, turn=turn)
    check_ramp(tmp_path / f"scan{suffix}", middle, GENTLE)


def test_padding_is_air_before_anything_is_interpolated(tmp_path):
    """Between padding of -2000 HU and tissue lie mixtures with air, never with -2000."""
    hu = np.full((12, 24, 24), 40, np.int32)
    rows, columns = np.indices((24, 24)) - 11.5
    outside = rows**2 + columns**2 > 10.0**2
    hu[:, outside] = -2000
    hu[:, 9:12, 9:12] = -900
    write_series(tmp_path / "scan", stored=(hu + 2048).astype(np.uint16), RescaleIntercept="-2048")
    volume = read(tmp_path / "scan", reading=ReadingConfig(policy="lenient"))
    clean = replace(volume, voxels_hu=np.where(hu == -2000, -1000, hu).astype(np.int16))
    for turn in (0.0, 7.0):
        steps = Rotation.from_euler("z", turn, degrees=True).as_matrix() @ axial((2.0, 0.6, 0.6))
        target = grid_around(volume.centre_mm, steps, (8, 20, 20))
        got = sample(volume, target, (8, 20, 20))
        assert np.array_equal(got, sample(clean, target, (8, 20, 20)))
        assert got.min() >= -1000 - 1e-3


def test_a_far_larger_scan_is_read_only_where_the_grid_needs_it():
    """An oblique grid in the corner of a scan that is mostly not there: a view of a few bytes."""
    voxels = np.broadcast_to(np.int16(-700), (4000, 4000, 4000))
    source = Volume(voxels_hu=voxels, affine=affine_from(spacing_mm=(1.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 0.0)))
    for turn in (0.0, 12.0):
        steps = Rotation.from_euler("zx", (turn, turn), degrees=True).as_matrix() @ axial((2.0, 2.0, 2.0))
        got = sample(source, grid_around(np.array([300.0, 200.0, 250.0]), steps, (24, 24, 24)), (24, 24, 24))
        assert got == pytest.approx(-700, abs=1e-3)
