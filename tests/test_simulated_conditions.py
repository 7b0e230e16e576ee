"""Fluid, air, missing lungs, whole lobes, metal, breath and turned patients are where the truth says they are."""

from dataclasses import replace

import numpy as np
import pytest
from anatomies import simulate_abdomen, simulate_head
from pathology import diffuse_disease, lobar_consolidation, pleural_nodule
from scipy import ndimage

from hilum.errors import ConfigError
from hilum.randomness import generator
from hilum.simulating import (
    Lesion,
    Pleura,
    Scanner,
    sample_anatomy,
    simulate_scan,
)
from hilum.simulating.body import metal_tubes
from hilum.simulating.pose import to_scanner
from hilum.simulating.scanner import grid_of

QUICK = Scanner(pixel_mm=4.0, pixels=96, thickness_mm=4.0, increment_mm=4.0, noise_hu=0.0)
FINE = replace(QUICK, pixel_mm=2.0, pixels=180, thickness_mm=2.0, increment_mm=2.0)
PATIENT = replace(sample_anatomy(generator(1, "patient"), volume_l=5.0), arms="up", emphysema=0)
RIGHT, LEFT = 1, 2


def _scan(anatomy=PATIENT, lesions=(), scanner=QUICK):
    return simulate_scan(1, anatomy=anatomy, lesions=tuple(lesions), scanner=scanner)


def _ml(volume, mask):
    return float(np.count_nonzero(mask)) * volume.voxel_mm3 / 1000


def _inner(mask):
    return ndimage.binary_erosion(mask, iterations=1)


@pytest.fixture(scope="module")
def healthy():
    return _scan()


def test_without_disease_of_the_pleura_the_lung_fields_are_the_lungs(healthy):
    assert np.array_equal(healthy[1].field, healthy[1].lungs)


@pytest.mark.parametrize("side", [RIGHT, LEFT])
@pytest.mark.parametrize("ml", [100.0, 400.0, 1000.0])
def test_an_effusion_is_fluid_in_the_field_of_its_side_and_not_lung(side, ml):
    effusion = (ml, 0.0) if side == RIGHT else (0.0, ml)
    volume, truth = _scan(replace(PATIENT, pleura=Pleura(effusion_ml=effusion, fluid_hu=12.0)))
    fluid = (truth.field > 0) & (truth.lungs == 0)
    assert set(np.unique(truth.field[fluid])) == {side}
    assert _ml(volume, fluid) == pytest.approx(ml, rel=0.08)
    assert np.median(volume.voxels_hu[fluid]) == pytest.approx(12, abs=6)


@pytest.mark.parametrize(("prone", "roll_deg"), [(False, 0.0), (True, 0.0), (False, 20.0), (False, -20.0)])
def test_an_effusion_lies_on_the_side_that_lies_down_and_higher_at_the_wall(prone, roll_deg):
    body = replace(PATIENT, prone=prone, roll_deg=roll_deg, pleura=Pleura(effusion_ml=(600.0, 0.0)))
    volume, truth = _scan(body)
    fluid = (truth.field == RIGHT) & (truth.lungs == 0)
    down = -1 if prone else 1
    heights = [-down * volume.index_to_mm(np.argwhere(mask))[:, 1] for mask in (fluid, truth.lungs == RIGHT)]
    assert np.mean(heights[0]) < np.mean(heights[1]) - 30
    # The surface of a level fluid would be flat in each slice but for the meniscus at the wall.
    k = int(np.argmax(fluid.sum((1, 2))))
    columns = np.flatnonzero(fluid[k].any(0))
    tops = np.array([np.flatnonzero(fluid[k, :, x])[0 if down > 0 else -1] for x in columns]) * -down
    outer, inner = tops[:2].max(), np.median(tops[len(tops) // 3 : -len(tops) // 3])
    assert outer > inner


def test_free_air_lies_in_front_and_the_lung_behind_it_is_denser(healthy):
    volume, truth = _scan(replace(PATIENT, pleura=Pleura(pneumothorax_mm=(0.0, 45.0))))
    assert np.array_equal(truth.lungs, healthy[1].lungs)
    hu = {side: volume.voxels_hu[_inner(truth.lungs == side)] for side in (RIGHT, LEFT)}
    free = _inner(truth.lungs == LEFT) & (volume.voxels_hu < -990)
    assert 200 < _ml(volume, free) < 1200
    assert np.mean(hu[RIGHT] < -990) < 0.01
    y_mm = [volume.index_to_mm(np.argwhere(mask))[:, 1].mean() for mask in (free, truth.lungs == LEFT)]
    assert y_mm[0] < y_mm[1] - 25
    assert np.median(hu[LEFT][hu[LEFT] > -960]) > np.median(hu[RIGHT]) + 20


def test_free_air_of_a_prone_patient_lies_behind():
    volume, truth = _scan(replace(PATIENT, prone=True, pleura=Pleura(pneumothorax_mm=(45.0, 0.0))))
    free = _inner(truth.lungs == RIGHT) & (volume.voxels_hu < -990)
    y_mm = [volume.index_to_mm(np.argwhere(mask))[:, 1].mean() for mask in (free, truth.lungs == RIGHT)]
    assert y_mm[0] > y_mm[1] + 25


@pytest.mark.parametrize(("missing", "side", "shift_mm"), [("right", RIGHT, -25.0), ("left", LEFT, 25.0)])
def test_a_missing_lung_leaves_soft_tissue_and_neither_mask_nor_airways(healthy, missing, side, shift_mm):
    body = replace(PATIENT, shift_mm=PATIENT.shift_mm + shift_mm, pleura=Pleura(missing=missing))
    volume, truth = _scan(body)
    assert np.unique(truth.field).tolist() == np.unique(truth.lungs).tolist() == [0, 3 - side]
    assert _ml(volume, truth.lungs) > 1.05 * _ml(volume, healthy[1].lungs == 3 - side)
    place = _inner((healthy[1].lungs == side) & (truth.lungs == 0))
    assert -5 < np.median(volume.voxels_hu[place]) < 60
    assert np.mean(volume.voxels_hu[place] < -300) < 0.01


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("share", [0.25, 0.4])
def test_a_filled_lobe_is_dense_on_the_pleura_of_one_lung_and_still_lung(healthy, side, share):
    lobe = lobar_consolidation(PATIENT, side, share, rng=generator(2))
    volume, truth = _scan(lesions=[lobe])
    lung = truth.lungs == (RIGHT if side == "right" else LEFT)
    filled = truth.lesion_numbers == 1
    assert np.array_equal(truth.lungs, healthy[1].lungs)
    assert np.count_nonzero(filled & lung) / np.count_nonzero(lung) == pytest.approx(share, abs=0.03)
    assert np.count_nonzero(filled & ~lung) < 0.05 * np.count_nonzero(filled)
    assert np.median(volume.voxels_hu[_inner(filled)]) == pytest.approx(lobe.hu, abs=15)
    rim = lung & ~_inner(lung)
    assert np.count_nonzero(rim & filled) > 0.15 * np.count_nonzero(rim)


@pytest.mark.parametrize(("kind", "low", "high"), [("emphysema", -1000, -940), ("ground-glass opacity", -660, -280)])
def test_diffuse_disease_fills_large_parts_of_both_lungs(kind, low, high):
    volume, truth = _scan(lesions=diffuse_disease(PATIENT, kind, number=16, rng=generator(3)))
    for side in (RIGHT, LEFT):
        hu = volume.voxels_hu[truth.lungs == side]
        assert np.mean((hu > low) & (hu < high)) > 0.25
        assert np.mean(truth.lesion_numbers[truth.lungs == side] > 0) > 0.35


@pytest.mark.parametrize("surface", ["costal", "diaphragmatic", "mediastinal"])
@pytest.mark.parametrize("diameter_mm", [6.0, 12.0, 20.0])
def test_a_nodule_on_the_pleura_crosses_it_with_most_of_it_in_the_lung(surface, diameter_mm):
    nodule = pleural_nodule(PATIENT, diameter_mm, surface, rng=generator(4, surface))
    window = replace(QUICK, pixel_mm=1.0, pixels=48, increment_mm=1.0, thickness_mm=1.0, centre_mm=nodule.centre_mm[:2])
    volume, truth = _scan(lesions=[nodule], scanner=window)
    share = np.count_nonzero(truth.lesion_numbers) * volume.voxel_mm3 / (np.pi / 6 * diameter_mm**3)
    assert 0.5 < share < 1.0
    (found,) = truth.lesions
    assert truth.lesion_numbers[tuple(np.rint(volume.mm_to_index(found.centre_mm)).astype(int))] == 1
    outside = ndimage.binary_dilation(truth.lesion_numbers > 0, iterations=2) & (truth.lungs == 0)
    assert outside.any()


@pytest.mark.parametrize(
    ("roll_deg", "tilt_deg"),
    [
        (-15.0, 8.0),
        pytest.param(20.0, 0.0, marks=pytest.mark.slow),
        pytest.param(0.0, -10.0, marks=pytest.mark.slow),
    ],
)
def test_who_lies_askew_takes_masks_and_lesions_along(roll_deg, tilt_deg):
    nodule = Lesion(kind="solid nodule", diameter_mm=20.0, hu=40.0, centre_mm=(-0.6 * PATIENT.cavity_mm[0], 0.0, 120.0))
    turned = replace(PATIENT, roll_deg=roll_deg, tilt_deg=tilt_deg)
    (straight, upright), (volume, truth) = (_scan(body, [nodule], FINE) for body in (PATIENT, turned))
    offset = np.array(upright.lesions[0].centre_mm) - nodule.centre_mm
    assert np.array(truth.lesions[0].centre_mm) - offset == pytest.approx(to_scanner(turned, nodule.centre_mm))
    for side in (RIGHT, LEFT):
        points = straight.index_to_mm(np.argwhere(upright.lungs == side))[::97] - offset
        moved = [np.array(to_scanner(turned, tuple(p))) + offset for p in points.tolist()]
        index = np.rint(volume.mm_to_index(np.array(moved))).astype(int)
        assert np.mean(truth.lungs[tuple(index.T)] == side) > 0.98
    for name in ("lungs", "airways", "lesion_numbers"):
        before, after = (np.count_nonzero(getattr(t, name)) for t in (upright, truth))
        assert after == pytest.approx(before, rel=0.02)
    z, y, x = np.rint(volume.mm_to_index(truth.lesions[0].centre_mm)).astype(int)
    assert volume.voxels_hu[z, y, x] == pytest.approx(40, abs=15)
    # The voxels have turned as the masks have: lung is dark, what surrounds it is not.
    inside, around = _inner(truth.lungs > 0), ndimage.binary_dilation(truth.lungs > 0, iterations=4)
    around &= ~ndimage.binary_dilation(truth.lungs > 0, iterations=1)
    assert np.mean(volume.voxels_hu[inside] < -500) > 0.88
    assert np.mean(volume.voxels_hu[around] > -500) > 0.97


def test_the_right_side_rises_and_the_head_goes_left_by_positive_angles():
    rolled, tilted = replace(PATIENT, roll_deg=10.0), replace(PATIENT, tilt_deg=10.0)
    assert to_scanner(rolled, (-100.0, 0.0, 0.0))[1] < -10
    assert to_scanner(tilted, (0.0, 0.0, PATIENT.height_mm))[0] > 10


def test_a_breath_moves_voxels_masks_and_lesions_above_it_and_nothing_below():
    nodule = Lesion(
        kind="solid nodule",
        diameter_mm=16.0,
        hu=40.0,
        centre_mm=(-0.6 * PATIENT.cavity_mm[0], 0.0, 0.7 * PATIENT.height_mm),
    )
    still, before = _scan(lesions=[nodule])
    volume, truth = _scan(lesions=[nodule], scanner=replace(QUICK, breath_mm=(8.0, 4.0)))
    first = int(np.flatnonzero((truth.lungs != before.lungs).any((1, 2)))[0])
    assert np.array_equal(volume.voxels_hu[: first - 1], still.voxels_hu[: first - 1])
    # 8 mm up are two slices, 4 mm towards the back one row.
    assert np.array_equal(truth.lungs[first + 3 :, 1:], before.lungs[first + 1 : -2, :-1])
    assert np.abs(volume.voxels_hu[first + 3 :, 1:] - still.voxels_hu[first + 1 : -2, :-1]).mean() < 1
    moved = np.array(truth.lesions[0].centre_mm) - before.lesions[0].centre_mm
    assert moved == pytest.approx([0, 4, 8], abs=1e-6)


@pytest.mark.parametrize("metal", ["pacemaker", "rods"])
def test_metal_is_the_brightest_and_streaks_its_slices_only(healthy, metal):
    volume, _ = _scan(replace(PATIENT, metal=metal))
    still, _ = healthy
    bright = (volume.voxels_hu == 3071).any((1, 2))
    assert bright.sum() > 4
    changed = np.abs(volume.voxels_hu.astype(int) - still.voxels_hu)
    heights = np.array([(t.start_mm[2], t.end_mm[2]) for t in metal_tubes(replace(PATIENT, metal=metal))])
    z_mm = grid_of(QUICK, PATIENT.height_mm).z_mm
    away = (z_mm < heights.min() - 10) | (z_mm > heights.max() + 10)
    assert away.sum() > 10
    assert changed[away].max() == 0
    strong = (changed[bright] > 50).mean((1, 2))
    assert strong.max() > 0.05
    assert (volume.voxels_hu[bright] < still.voxels_hu[bright] - 50).any()
    assert (volume.voxels_hu[bright] > still.voxels_hu[bright] + 50).any()


def test_a_bowel_full_of_gas_lies_under_the_lungs_and_is_none(healthy):
    volume, truth = _scan(replace(PATIENT, bowel_gas_mm=90.0))
    gas = (volume.voxels_hu < -900) & (healthy[0].voxels_hu > -200)
    assert _ml(volume, gas) > 300
    assert not truth.field[gas].any()
    assert np.array_equal(truth.lungs, healthy[1].lungs)


def test_nothing_is_true_where_padding_hides_it():
    volume, truth = _scan(scanner=replace(QUICK, pixels=60, padding=True))
    padded = volume.voxels_hu == -2000
    assert padded.any()
    assert _scan(scanner=replace(QUICK, pixels=60))[1].lungs[padded].any()
    assert not truth.lungs[padded].any()
    assert not truth.field[padded].any()


def test_a_head_has_skull_brain_and_air_and_an_abdomen_has_gas_and_fat():
    head, abdomen = simulate_head(0, pixel_mm=2.0, thickness_mm=5.0), simulate_abdomen(0, pixel_mm=3.0)
    middle = head.voxels_hu[ndimage.binary_erosion(np.abs(head.voxels_hu - 36) < 60, iterations=4)]
    assert np.median(middle) == pytest.approx(36, abs=12)
    assert head.voxels_hu.max() > 900
    for volume, low_ml, high_ml in ((head, 20, 300), (abdomen, 150, 1500)):
        body = np.stack([ndimage.binary_fill_holes(plane) for plane in volume.voxels_hu > -400])
        air = ndimage.binary_erosion(body, iterations=2) & (volume.voxels_hu < -800)
        assert low_ml < _ml(volume, air) < high_ml
        again = (simulate_head if volume is head else simulate_abdomen)(1, pixel_mm=4.0)
        assert again.spacing_mm[1] == 4.0
    assert np.mean(np.abs(abdomen.voxels_hu + 105) < 30) > 0.05


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Pleura(effusion_ml=(-1.0, 0.0)), r"pleura.effusion_ml must be at least 0, got \(-1.0, 0.0\)"),
        (lambda: _scan(replace(PATIENT, pleura=Pleura(effusion_ml=(9000.0, 0.0)))), r"at most \d+ ml on the right"),
        (lambda: Pleura(missing="left", effusion_ml=(0.0, 50.0)), r"a missing lung has neither .* left missing"),
        (lambda: Scanner(breath_at=1.5), r"breath_at must be a share between 0 and 1, got 1.5"),
        (lambda: lobar_consolidation(PATIENT, "left", 0.9, rng=generator(0)), r"0.25 to 0.4, got 0.9"),
    ],
)
def test_what_no_patient_can_have_is_named(call, match):
    with pytest.raises(ConfigError, match=match):
        call()
