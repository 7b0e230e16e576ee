"""What is dense stays in the lung fields, what is no lung stays out, and a mask that may be wrong says so."""

from dataclasses import replace

import numpy as np
import pytest
from anatomies import simulate_abdomen, simulate_head
from pathology import lobar_consolidation, pleural_nodule
from scipy import ndimage

from hilum.errors import PrepareError
from hilum.preparing import locate_lungs, lungs_from_mask, segment_lungs
from hilum.randomness import generator
from hilum.simulating import (
    Pleura,
    Scanner,
    sample_anatomy,
    simulate_scan,
)
from hilum.volume import Volume

QUICK = Scanner(pixel_mm=2.5, pixels=152, thickness_mm=3.0, increment_mm=3.0, noise_hu=15.0)
PATIENT = replace(sample_anatomy(generator(1, "patient"), volume_l=4.5), arms="up", emphysema=0)
RIGHT, LEFT = 1, 2


def _scan(anatomy=PATIENT, lesions=(), scanner=QUICK):
    return simulate_scan(1, anatomy=anatomy, lesions=tuple(lesions), scanner=scanner)


def _dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


def _codes(lungs):
    return {f.code for f in lungs.findings}


@pytest.fixture(scope="module")
def healthy():
    volume, truth = _scan()
    return volume, truth, segment_lungs(volume)


def test_healthy_lungs_are_good_and_their_figures_are_those_of_lungs(healthy):
    volume, truth, lungs = healthy
    assert (lungs.verdict, lungs.findings) == ("good", ())
    figures = lungs.figures
    assert figures.litres == pytest.approx(np.count_nonzero(truth.lungs) * volume.voxel_mm3 / 1e6, rel=0.03)
    assert figures.right == pytest.approx(np.mean(truth.lungs[truth.lungs > 0] == RIGHT), abs=0.02)
    assert figures.field_litres > figures.litres
    assert 0 <= figures.dense < 0.05
    assert figures.loose < 0.01
    assert figures.lower_end == figures.upper_end == figures.side_cm2 == 0


def test_the_lung_fields_hold_the_lungs_do_not_overlap_and_stay_near_them(healthy):
    volume, truth, lungs = healthy
    for side in (RIGHT, LEFT):
        assert np.mean(lungs.field[lungs.labels == side] == side) == 1
    away_mm = ndimage.distance_transform_edt(truth.lungs == 0, sampling=volume.spacing_mm)
    assert np.mean(away_mm[lungs.field > 0] > 8) < 0.05  # the hilum and the space between vessels
    assert not lungs.field[volume.voxels_hu < -980].any() or np.mean(lungs.field[volume.voxels_hu < -980] > 0) < 0.01


@pytest.mark.parametrize("diameter_mm", [7.0, 10.0, 18.0])
def test_nodules_on_the_pleura_of_ribs_diaphragm_and_mediastinum_lie_in_the_lung_field(diameter_mm):
    surfaces = ("costal", "diaphragmatic", "mediastinal")
    volume, truth = _scan(lesions=[pleural_nodule(PATIENT, diameter_mm, s, rng=generator(3, s)) for s in surfaces])
    field = segment_lungs(volume).field
    for number, nodule in enumerate(truth.lesions, 1):
        assert np.mean(field[truth.lesion_numbers == number] > 0) >= 0.95
        assert field[tuple(np.rint(volume.mm_to_index(nodule.centre_mm)).astype(int))] > 0


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_consolidated_lobe_stays_in_the_lung_field_and_is_named(side):
    """Defect 4: the tutorial cuts out what is denser than -320 HU, pneumonia among it, though it looks for that."""
    volume, truth = _scan(lesions=[lobar_consolidation(PATIENT, side, 0.3, rng=generator(2))])
    found = segment_lungs(volume)
    dense = (truth.lesion_numbers == 1) & (truth.lungs > 0) & (volume.voxels_hu > -300)
    assert np.mean(found.field[dense] == (RIGHT if side == "right" else LEFT)) > 0.85
    assert np.mean(found.labels[dense] > 0) < 0.5
    assert (found.verdict, "lungs-dense" in _codes(found)) == ("doubtful", True)


@pytest.mark.parametrize("prone", [False, True])
def test_an_effusion_lies_in_the_lung_field_and_not_in_the_lung(prone):
    volume, truth = _scan(replace(PATIENT, prone=prone, pleura=Pleura(effusion_ml=(700.0, 0.0))))
    found = segment_lungs(volume)
    fluid = (truth.field > 0) & (truth.lungs == 0)
    assert np.mean(found.field[fluid] == RIGHT) > 0.75
    assert np.mean(found.labels[fluid] > 0) < 0.05
    assert np.mean(found.field[truth.field == LEFT] == LEFT) > 0.99


@pytest.mark.parametrize(("missing", "left"), [("right", LEFT), ("left", RIGHT)])
def test_the_only_lung_keeps_its_side_and_is_named_as_the_only_one(missing, left):
    shift = -25.0 if missing == "right" else 25.0
    body = replace(PATIENT, shift_mm=PATIENT.shift_mm + shift, pleura=Pleura(missing=missing))
    volume, truth = _scan(body)
    found = segment_lungs(volume)
    assert set(np.unique(found.labels)) == set(np.unique(found.field)) == {0, left}
    assert _dice(found.mask, truth.lungs > 0) > 0.97
    assert "lungs-uneven" in _codes(found)


@pytest.mark.parametrize("roll_deg", [-20.0, 20.0])
def test_a_rolled_patient_keeps_right_and_left(roll_deg):
    volume, truth = _scan(replace(PATIENT, roll_deg=roll_deg))
    found = segment_lungs(volume)
    for side in (RIGHT, LEFT):
        assert _dice(found.labels == side, truth.lungs == side) > 0.97


def test_a_pneumothorax_is_no_gas_in_the_bowel_and_gas_in_the_bowel_is_no_lung():
    for body in (
        replace(PATIENT, pleura=Pleura(pneumothorax_mm=(0.0, 45.0))),
        replace(PATIENT, bowel_gas_mm=90.0),
    ):
        volume, truth = _scan(body)
        found = segment_lungs(volume)
        assert _dice(found.mask, truth.lungs > 0) > 0.97
        assert found.verdict == "good"


@pytest.mark.parametrize(("fov_mm", "cut"), [(300.0, False), (255.0, True)])
def test_a_round_field_of_view_loses_no_lung_and_says_when_it_cuts_one(fov_mm, cut):
    """Defect 4: where the body touches the border, the tutorial takes a lung for the background."""
    scanner = replace(QUICK, pixel_mm=1.5, pixels=round(fov_mm / 1.5), padding=True)
    volume, truth = _scan(scanner=scanner)
    volume = replace(volume, voxels_hu=np.maximum(volume.voxels_hu, np.int16(-1000)))  # as reading replaces padding
    found = segment_lungs(volume)
    assert _dice(found.mask, truth.lungs > 0) > 0.97
    assert ("lungs-cut" in _codes(found)) == cut


def test_thick_slices_and_much_noise_are_no_obstacle():
    thick = replace(QUICK, pixel_mm=1.5, pixels=256, thickness_mm=10.0, increment_mm=10.0)
    loud = replace(QUICK, pixel_mm=1.5, pixels=256, kernel="sharp", noise_hu=45.0)
    for scanner in (thick, loud):
        volume, truth = _scan(scanner=scanner)
        found = segment_lungs(volume)
        assert _dice(found.mask, truth.lungs > 0) > 0.97
        assert found.verdict == "good"


@pytest.mark.parametrize("simulate", [simulate_head, simulate_abdomen])
def test_a_head_and_a_belly_have_no_lungs(simulate):
    found = locate_lungs(simulate(1))
    assert (found.verdict, _codes(found)) == ("no-lungs", {"no-lungs"})
    assert found.box_mm() is None


@pytest.mark.parametrize("scale", [0.55, 1.35])
def test_lungs_of_an_impossible_size_are_doubtful(healthy, scale):
    """Less than 1 and more than 9 litres."""
    volume = healthy[0]
    affine = volume.affine.copy()
    affine[:3, :3] *= scale
    found = locate_lungs(replace(volume, affine=affine))
    assert (found.verdict, "lungs-volume" in _codes(found)) == ("doubtful", True)
    assert f"{found.figures.litres:.2f} litres" in " ".join(f.message for f in found.findings)


def _coded(truth, coding):
    """A mask as other programs write it."""
    numbers = {
        "one number": {RIGHT: 1, LEFT: 1},
        "255": {RIGHT: 255, LEFT: 255},
        "lungmask": {RIGHT: 1, LEFT: 2},
        "lungmask, sides swapped": {RIGHT: 2, LEFT: 1},
        "TotalSegmentator": {RIGHT: 12, LEFT: 10},
    }[coding]
    mask = np.zeros(truth.shape, np.int16)
    for side, number in numbers.items():
        mask[truth == side] = number
    if coding == "TotalSegmentator":
        mask[:3] = 5  # the liver
        mask[truth == LEFT] = 10
    return mask


@pytest.mark.parametrize("coding", ["one number", "255", "lungmask", "lungmask, sides swapped", "TotalSegmentator"])
def test_a_mask_from_elsewhere_stands_for_our_own_and_sides_are_told_by_place(healthy, coding):
    volume, truth, _ = healthy
    found = lungs_from_mask(volume, replace(volume, voxels_hu=_coded(truth.lungs, coding)))
    assert found.verdict == "good"
    assert np.array_equal(found.mask, truth.lungs > 0)
    assert _dice(found.labels == LEFT, truth.lungs == LEFT) > 0.99


def test_a_mask_on_another_grid_is_placed_by_its_coordinates(healthy):
    volume, truth, _ = healthy
    affine = volume.affine.copy()
    affine[:3, :3] *= 2
    coarse = Volume(voxels_hu=(truth.lungs[::2, ::2, ::2] > 0).astype(np.int16), affine=affine)
    found = lungs_from_mask(volume, coarse)
    low, high = found.box_mm()
    where = volume.index_to_mm(np.argwhere(truth.lungs > 0))
    assert np.abs(low - where.min(axis=0)).max() < 8
    assert np.abs(high - where.max(axis=0)).max() < 8
    assert found.figures.litres == pytest.approx(np.count_nonzero(truth.lungs) * volume.voxel_mm3 / 1e6, rel=0.05)


def test_a_mask_that_cannot_be_one_is_refused_with_what_it_holds(healthy):
    volume, truth, _ = healthy
    with pytest.raises(PrepareError, match=r"holds -1000, -999"):
        lungs_from_mask(volume, replace(volume, voxels_hu=np.clip(volume.voxels_hu, -1000, -900).astype(np.int16)))
    far = volume.affine.copy()
    far[:3, 3] += 2000
    mask = replace(volume, voxels_hu=(truth.lungs > 0).astype(np.int16), affine=far)
    with pytest.raises(PrepareError, match="lies beside"):
        lungs_from_mask(volume, mask)


def test_an_empty_mask_means_no_lungs(healthy):
    volume = healthy[0]
    found = lungs_from_mask(volume, replace(volume, voxels_hu=np.zeros(volume.shape, np.int16)))
    assert found.verdict == "no-lungs"


def test_the_nodule_and_the_tumour_of_real_scans_lie_in_the_lung_fields(shared_data):
    """Both touch dense tissue: collapsed lung, the chest wall and the aorta."""
    import csv

    from hilum.reading.reader import read

    volume = read(shared_data / "lidc-0314")
    nodule = tuple(np.rint(volume.mm_to_index([-57.44, 131.23, -520.36])).astype(int))
    assert segment_lungs(volume).field[nodule] == RIGHT
    volume = read(shared_data / "lung-dx-a0001")
    field = segment_lungs(volume).field > 0
    inside = total = 0
    with (shared_data / "lung-dx-a0001" / "tumour_boxes.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            at = [float(row[name]) for name in ("centre_x_mm_lps", "centre_y_mm_lps", "z_mm_lps")]
            z, y, x = volume.mm_to_index(at)
            high, wide = (float(row[f"{a}max_px"]) - float(row[f"{a}min_px"]) for a in "yx")
            rows, columns = np.indices(volume.shape[1:])
            ellipse = ((rows - y) / high * 2) ** 2 + ((columns - x) / wide * 2) ** 2 <= 1
            inside += np.count_nonzero(field[round(z)] & ellipse)
            total += np.count_nonzero(ellipse)
    assert inside / total > 0.9  # the readers' boxes reach into rib and aorta


@pytest.mark.parametrize(("order", "flipped"), [((0, 1, 2), (2,)), ((2, 0, 1), (0, 1)), ((1, 0, 2), (0,))])
def test_right_stays_right_in_a_volume_whose_axes_run_otherwise(healthy, order, flipped):
    volume, _, lungs = healthy
    flips = tuple(slice(None, None, -1 if axis in flipped else 1) for axis in range(3))
    affine = np.eye(4)
    affine[:3, :3] = volume.affine[:3, :3][:, order]
    affine[:3, 3] = volume.affine[:3, 3]
    for axis in flipped:
        affine[:3, 3] += affine[:3, axis] * (volume.shape[order[axis]] - 1)
        affine[:3, axis] *= -1
    turned = Volume(voxels_hu=np.ascontiguousarray(volume.voxels_hu.transpose(order)[flips]), affine=affine)
    found = segment_lungs(turned)
    assert _dice(found.labels == LEFT, lungs.labels.transpose(order)[flips] == LEFT) > 0.99
    assert _dice(found.field == RIGHT, lungs.field.transpose(order)[flips] == RIGHT) > 0.99
    assert np.abs(found.box_mm("left") - lungs.box_mm("left")).max() < 1e-3


def test_the_box_of_lungs_in_a_turned_grid_is_as_large_as_in_a_straight_one(healthy):
    """The box around the corners of a box would grow with the angle, and a fitted grid with it."""
    _, _, lungs = healthy
    angle = np.radians(30)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    ball = np.square(np.indices((40, 40, 40)) - 19.5).sum(axis=0) < 15**2
    straight = replace(lungs, labels=ball.astype(np.uint8), field=ball.astype(np.uint8), affine=np.diag([2.0, 2, 2, 1]))
    low, high = replace(straight, affine=turn @ straight.affine).box_mm()
    extent = straight.box_mm()[1] - straight.box_mm()[0]
    assert np.abs(high - low - extent).max() < 3


def test_hu_that_are_not_finite_and_grids_beyond_reason_are_refused(healthy):
    volume = healthy[0]
    voxels = volume.voxels_hu.astype(np.float32)
    voxels[10:12] = np.nan
    with pytest.raises(PrepareError, match="finite HU"):
        segment_lungs(replace(volume, voxels_hu=voxels))
    huge = volume.affine.copy()
    huge[:3, :3] *= 100
    with pytest.raises(PrepareError, match="at most 5e\\+08 voxels"):
        locate_lungs(replace(volume, affine=huge))


def test_the_lobes_of_totalsegmentators_first_version_are_told_by_what_is_dark(healthy):
    volume, truth, _ = healthy
    mask = np.zeros(volume.shape, np.int16)
    mask[truth.lungs == LEFT], mask[truth.lungs == RIGHT] = 13, 15
    mask[:2] = 10  # the pancreas
    found = lungs_from_mask(volume, replace(volume, voxels_hu=mask))
    assert np.array_equal(found.mask, truth.lungs > 0)


def test_a_mask_upside_down_is_doubtful(healthy):
    volume, truth, _ = healthy
    mask = replace(volume, voxels_hu=(truth.lungs[::-1, ::-1] > 0).astype(np.int16))
    found = lungs_from_mask(volume, mask)
    assert "lungs-bright" in _codes(found)
    assert found.verdict == "doubtful"
    beside = replace(volume, voxels_hu=np.roll(truth.lungs > 0, 50, axis=1).astype(np.int16))
    assert "lungs-bright" in _codes(lungs_from_mask(volume, beside))
