"""A volume keeps voxels and millimetres together, whatever is done to it."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from hilum.errors import GeometryError
from hilum.findings import POLICY, as_records, find, refusals
from hilum.orientation import Turn
from hilum.volume import Volume, affine_from, clip, crop, reorient

# some lie just between two roundings, where single and double precision go apart
mm = st.floats(-500, 500).map(lambda v: round(v, 6)) | st.integers(-500_000, 500_000).map(lambda k: k / 1e3 + 5e-4)
steps = st.floats(0.3, 6).map(lambda v: round(v, 6)) | st.integers(300_000, 6_000_000).map(lambda k: k / 1e6 + 5e-7)
sizes = st.tuples(st.integers(2, 5), st.integers(2, 5), st.integers(2, 5))


def _numbered(shape):
    return np.arange(np.prod(shape), dtype=np.int16).reshape(shape)


def _volume(grid):
    shape, affine = grid
    return Volume(voxels_hu=_numbered(shape), affine=affine)


@st.composite
def grids(draw, *, tilted: bool = True):
    """Shape and affine of any grid: rotated, mirrored, permuted, sheared."""
    affine = np.eye(4)
    affine[:3, :3] = np.diag([draw(steps), draw(steps), draw(steps)])[::-1]
    affine[:3, 3] = draw(mm), draw(mm), draw(mm)
    affine[:3, :3] = affine[:3, draw(st.permutations(range(3)))] * draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    if tilted:
        turn = Rotation.from_euler("zyx", [draw(st.floats(-40, 40)) for _ in range(3)], degrees=True).as_matrix()
        shear = np.eye(3)
        shear[1, 2] = draw(st.floats(-0.4, 0.4))
        affine[:3, :3] = turn @ shear @ affine[:3, :3]
    return draw(sizes), affine


@given(grids(), st.tuples(mm, mm, mm))
def test_index_to_mm_and_back_is_the_identity(grid, index):
    volume = _volume(grid)
    there = volume.index_to_mm(index)
    assert np.allclose(volume.mm_to_index(there), index, atol=1e-6)


@given(grids())
def test_reorienting_moves_no_voxel_in_the_patient(grid):
    volume = _volume(grid)
    turned = reorient(volume)
    assert sorted(turned.voxels_hu.ravel()) == sorted(volume.voxels_hu.ravel())
    for value in (0, volume.voxels_hu.size // 2, volume.voxels_hu.size - 1):
        was = volume.index_to_mm(np.argwhere(volume.voxels_hu == value)[0])
        now = turned.index_to_mm(np.argwhere(turned.voxels_hu == value)[0])
        assert np.abs(was - now).max() < 5e-3


@given(grids())
def test_reorienting_twice_is_reorienting_once(grid):
    volume = _volume(grid)
    once = reorient(volume)
    twice = reorient(once)
    assert np.array_equal(once.voxels_hu, twice.voxels_hu)
    assert np.allclose(once.affine, twice.affine, atol=2e-3)


@given(grids(tilted=False))
def test_a_reoriented_axial_grid_runs_feet_to_head_front_to_back_right_to_left(grid):
    volume = _volume(grid)
    turned = reorient(volume)
    z, y, x = turned.spacing_mm
    assert np.array_equal(turned.affine[:3, :3], [[0, 0, x], [0, y, 0], [z, 0, 0]])
    assert turned.voxels_hu.flags.c_contiguous


@given(grids(tilted=False), st.permutations(range(3)), st.tuples(*[st.booleans()] * 3))
def test_a_grid_stored_flipped_and_permuted_is_the_same_grid_after_reorienting(grid, order, flips):
    volume = _volume(grid)
    volume = replace(volume, affine=np.round(volume.affine, 2))
    affine, voxels = volume.affine.copy(), volume.voxels_hu
    for axis in np.flatnonzero(flips):
        affine[:3, 3] += affine[:3, axis] * (voxels.shape[axis] - 1)
        affine[:3, axis] *= -1
        voxels = np.flip(voxels, axis)
    affine[:3, :3] = affine[:3, order]
    stored = Volume(voxels_hu=np.transpose(voxels, order), affine=affine)
    assert np.array_equal(reorient(stored).voxels_hu, reorient(volume).voxels_hu)
    assert np.array_equal(reorient(stored).affine, reorient(volume).affine)


@given(grids(tilted=False))
def test_single_precision_and_directions_off_by_rounding_give_the_same_affine_bit_for_bit(grid):
    volume = _volume(grid)
    rough = volume.affine.astype(np.float32).astype(np.float64)
    rough[:3, :3] += 1e-6 * np.abs(rough[:3, :3]).max(axis=0) * np.array([[1, -1, 1], [1, 1, -1], [-1, 1, 1]])
    spacing = np.linalg.norm(volume.affine[:3, :3], axis=0)
    rough[:3, :3] *= spacing.astype(np.float32) / np.linalg.norm(rough[:3, :3], axis=0)
    assert reorient(replace(volume, affine=rough)).affine.tobytes() == reorient(volume).affine.tobytes()


def test_an_oblique_grid_keeps_its_angle():
    affine = affine_from(spacing_mm=(2.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 0.0))
    affine[:3, :3] = Rotation.from_euler("x", 7, degrees=True).as_matrix() @ affine[:3, :3]
    turned = reorient(Volume(voxels_hu=_numbered((3, 4, 5)), affine=affine))
    assert np.allclose(turned.affine, affine)
    assert turned.spacing_mm == (2, 1, 1)


@given(grids(), st.data())
def test_a_crop_keeps_every_voxel_where_it_was(grid, data):
    volume = _volume(grid)
    start = tuple(data.draw(st.integers(0, n - 1)) for n in volume.shape)
    stop = tuple(data.draw(st.integers(a + 1, n)) for a, n in zip(start, volume.shape, strict=True))
    box = crop(volume, start, stop)
    assert np.array_equal(box.voxels_hu, volume.voxels_hu[tuple(map(slice, start, stop))])
    assert np.allclose(box.index_to_mm((0, 0, 0)), volume.index_to_mm(start))
    restored = np.zeros(volume.shape, np.int16)
    at = np.rint(volume.mm_to_index(box.index_to_mm((0, 0, 0)))).astype(int)
    restored[tuple(slice(a, a + n) for a, n in zip(at, box.shape, strict=True))] = box.voxels_hu
    assert np.array_equal(restored[tuple(map(slice, start, stop))], box.voxels_hu)


@pytest.mark.parametrize(("start", "stop"), [((0, 0, 0), (4, 4, 9)), ((-1, 0, 0), (2, 2, 2)), ((1, 1, 1), (1, 2, 2))])
def test_a_crop_outside_the_volume_is_refused_with_its_shape(start, stop):
    volume = Volume(voxels_hu=_numbered((4, 4, 4)), affine=np.eye(4))
    with pytest.raises(GeometryError, match=r"inside the volume of shape \(4, 4, 4\), got"):
        crop(volume, start, stop)


def test_clipping_limits_and_keeps_the_type():
    volume = Volume(voxels_hu=np.array([[[-2000, 0, 2000]]], np.int16), affine=np.eye(4))
    assert clip(volume, -1000.0, 400.0).voxels_hu.tolist() == [[[-1000, 0, 400]]]
    assert clip(volume, -1000.0, 400.0).voxels_hu.dtype == np.int16
    assert clip(volume, -1e9, 1e9).voxels_hu.tolist() == [[[-2000, 0, 2000]]]


def test_volume_spacing_extent_and_centre_of_a_simple_grid():
    volume = Volume(
        voxels_hu=_numbered((4, 3, 2)), affine=affine_from(spacing_mm=(5.0, 2.0, 1.0), origin_mm=(10.0, 20.0, 30.0))
    )
    assert volume.spacing_mm == (5, 2, 1)
    assert volume.extent_mm == (20, 6, 2)
    assert volume.voxel_mm3 == pytest.approx(10)
    assert volume.centre_mm.tolist() == [10.5, 22, 37.5]


def test_a_sheared_grid_has_the_voxel_volume_of_its_determinant():
    affine = affine_from(spacing_mm=(5.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 0.0))
    affine[1, 0] = 3.0
    assert Volume(voxels_hu=_numbered((2, 2, 2)), affine=affine).voxel_mm3 == pytest.approx(5)


def test_a_point_is_inside_up_to_half_a_voxel_beyond_the_outer_centres():
    volume = Volume(
        voxels_hu=_numbered((4, 4, 4)), affine=affine_from(spacing_mm=(2.0, 1.0, 1.0), origin_mm=(0.0, 0.0, 0.0))
    )
    assert volume.contains_mm((-0.5, 0, -1))
    assert volume.contains_mm((3.5, 3.5, 7))
    assert not volume.contains_mm((0, 0, 7.01))
    assert not volume.contains_mm((np.nan, 0, 0))


@pytest.mark.parametrize("affine", [np.zeros((4, 4)), np.full((4, 4), np.nan), np.diag([1.0, 1, 0, 1])])
def test_an_affine_that_cannot_be_inverted_is_refused(affine):
    with pytest.raises(GeometryError, match="finite and invertible"):
        Volume(voxels_hu=_numbered((2, 2, 2)), affine=affine)


def test_a_volume_without_voxels_is_refused():
    with pytest.raises(GeometryError, match=r"must have voxels, got shape \(0, 4, 4\)"):
        Volume(voxels_hu=np.zeros((0, 4, 4), np.int16), affine=np.eye(4))


def test_a_volume_is_frozen_and_findings_are_added_to_a_copy():
    volume = Volume(voxels_hu=_numbered((2, 2, 2)), affine=np.eye(4))
    with pytest.raises(FrozenInstanceError, match="cannot assign"):
        volume.affine = np.eye(4)
    assert volume.with_findings(find("oblique", "7 degrees")).findings[0].code == "oblique"
    assert volume.findings == ()


def test_a_finding_takes_its_severity_from_the_policy_and_reads_as_a_sentence():
    found = find("slice-gap", "3 mm are missing", "after IM7.dcm")
    assert str(found) == "slice-gap (refused): 3 mm are missing [after IM7.dcm]"
    assert refusals([found, find("oblique", "7 degrees")]) == [found]
    assert as_records([found])[0]["where"] == "after IM7.dcm"
    assert {severity for row in POLICY.values() for severity in row} == {"note", "repaired", "refused"}


def test_marks_of_interpolated_slices_follow_crops_and_turns():
    """Slice 5 of 8 along the third axis, which runs up in the world and is turned to be the first."""
    affine = np.eye(4)
    affine[:3, :3] = [[0, 1, 0], [1, 0, 0], [0, 0, -2]]
    volume = Volume(voxels_hu=_numbered((4, 6, 8)), affine=affine, interpolated=((2, 5),))
    turned = reorient(volume)
    assert turned.interpolated == ((0, 2),)
    assert np.array_equal(np.sort(turned.voxels_hu[2], None), np.sort(volume.voxels_hu[:, :, 5], None))
    assert crop(turned, (1, 0, 0), (4, 2, 2)).interpolated == ((0, 1),)
    assert crop(turned, (3, 0, 0), (5, 2, 2)).interpolated == ()


@given(st.permutations([0, 1, 2]), st.tuples(st.booleans(), st.booleans(), st.booleans()))
def test_a_turn_and_its_inverse_are_the_same_array(order, flipped):
    array = _numbered((3, 4, 5))
    turn = Turn(shape=(3, 4, 5), order=tuple(order), flipped=flipped)
    assert np.array_equal(turn.unturned(turn.turned(array)), array)
    assert np.shares_memory(turn.unturned(turn.turned(array)), array)
