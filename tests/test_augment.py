"""Augmentation: where voxels go, what happens to HU, and that both follow from seed, epoch and case alone."""

import inspect
import json
import math
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline
from scipy.ndimage import gaussian_filter1d, map_coordinates
from scipy.special import ndtr

from hilum import Augment, AugmentConfig, Recipe
from hilum.errors import ConfigError
from hilum.modelling.augmenting.augment import apply
from hilum.modelling.augmenting.changes import Change, changes_nothing, draw
from hilum.modelling.augmenting.mixing import Mix, draw_mixes, mix
from hilum.modelling.augmenting.spatial import control_displacements, sampling_grid, smallest_jacobian
from hilum.modelling.input import model_input
from hilum.settings.augmentation import LARGEST_ELASTIC, PROBABILITIES
from hilum.settings.presets import preset
from hilum.settings.toml import from_dict, load, to_dict

SPACING_MM = (3.0, 1.0, 1.5)
GRID = Recipe(region="whole", size=(12, 20, 18), spacing_mm=SPACING_MM)
HERE = torch.zeros(1)
NONE = preset("none", GRID)
ALL = replace(preset("strong", GRID), **dict.fromkeys((*PROBABILITIES[:-2],), 1.0), flip=(0.5, 0.5, 0.5), cutmix=0.0)
POINT = Recipe(region="point", size=(32, 48, 48), extent_mm=(32.0, 32.0, 32.0))


def _hu(count=1, size=GRID.size, channels=1, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randint(-1000, 400, (count, channels, *size), generator=random).float()


def _apply(x, change, recipe=GRID, **more):
    changes = change if isinstance(change, list) else [change] * len(x)
    return apply(x, changes, np.tile(recipe.grid_spacing_mm, (len(x), 1)), recipe, **more)


def _only(name, **more):
    """A config in which one change always happens."""
    return replace(NONE, **{name: 1.0}, **more)


def _rows(matrix, shift=(0.0, 0.0, 0.0)):
    return tuple(tuple(float(v) for v in (*row, t)) for row, t in zip(np.asarray(matrix), shift, strict=True))


# the same every time


def test_a_case_alone_is_augmented_as_it_is_in_any_batch():
    """Defect 11: the tutorial's results depend on the number of workers and on who shares a batch."""
    augment = Augment(ALL, GRID, seed=1)
    ids, x, spacing_mm = list("abc"), _hu(3), np.tile(SPACING_MM, (3, 1))
    together = augment(x, spacing_mm, ids, epoch=2)
    backwards = augment(x.flip(0), spacing_mm, ids[::-1], epoch=2).flip(0)
    assert torch.equal(together, backwards)
    for i, case in enumerate(ids):
        alone = augment(x[i : i + 1], spacing_mm[:1], [case], epoch=2)
        assert torch.equal(alone[0], together[i])


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_the_number_of_cores_changes_nothing_but_the_last_digits(cores):
    before = torch.get_num_threads()
    expected = Augment(ALL, GRID)(_hu(), np.array([SPACING_MM]), ["a"], epoch=0)
    try:
        torch.set_num_threads(cores)
        got = Augment(ALL, GRID)(_hu(), np.array([SPACING_MM]), ["a"], epoch=0)
    finally:
        torch.set_num_threads(before)
    assert torch.allclose(got, expected, atol=1e-2)


def test_another_epoch_seed_or_case_is_augmented_otherwise():
    changes = [
        draw(ALL, [case], seed=seed, epoch=epoch)[0]
        for seed, epoch, case in ((0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"))
    ]
    results = [_apply(_hu(), change) for change in changes]
    for i, one in enumerate(results):
        assert not any(torch.equal(one, other) for other in results[i + 1 :])


def test_changes_kept_as_json_are_applied_again_bit_for_bit():
    changes = draw(ALL, list("abcd"), seed=3, epoch=4)
    kept = json.loads(json.dumps([to_dict(change) for change in changes]))
    again = [from_dict(Change, values) for values in kept]
    assert again == changes
    assert torch.equal(_apply(_hu(4), again), _apply(_hu(4), changes))


@pytest.mark.parametrize("name", [name for name in PROBABILITIES if name not in ("mixup", "cutmix")])
def test_switching_one_change_off_leaves_the_others_as_they_were(name):
    with_it, without = (draw(config, ["a"], seed=0, epoch=0)[0] for config in (ALL, replace(ALL, **{name: 0.0})))
    differ = {f.name for f in fields(Change) if getattr(with_it, f.name) != getattr(without, f.name)}
    of_it = {"calibration": {"slope", "offset_hu"}, "level": {"level_hu"}}
    of_it |= {spatial: {"affine"} for spatial in ("rotation", "scaling", "translation", "shear")}
    assert differ
    assert differ <= of_it.get(name, {f.name for f in fields(Change) if f.name.startswith(name)})


def test_each_change_happens_as_often_as_its_probability_says():
    ids = [str(i) for i in range(2000)]
    config = replace(ALL, noise=0.3, elastic=0.2, flip=(0.0, 0.1, 0.6), dose=(0.2, 0.8))
    changes = draw(config, ids, seed=0, epoch=0)
    shares = {
        0.3: np.mean([c.noise_hu > 0 for c in changes]),
        0.2: np.mean([c.elastic_mm > 0 for c in changes]),
        0.1: np.mean([c.flip[1] for c in changes]),
        0.6: np.mean([c.flip[2] for c in changes]),
    }
    assert not any(c.flip[0] for c in changes)
    for wanted, got in shares.items():
        assert got == pytest.approx(wanted, abs=4 * math.sqrt(wanted * (1 - wanted) / len(ids)))


@pytest.mark.parametrize("epoch", range(5))
def test_single_precision_is_enough_for_a_thousandth_of_the_window(epoch):
    """What another device may round otherwise is far below what can be seen."""
    size = (48, 64, 64)
    z, y, x = np.meshgrid(*[np.arange(n) for n in size], indexing="ij")
    hu = torch.from_numpy(1000 * np.sin(z / 2) * np.sin(y / 3) * np.sin(x / 2.5))[None, None]
    changes = draw(replace(ALL, noise=0.0), ["a"], seed=0, epoch=epoch)
    single, double = (
        apply(hu.to(kind), changes, np.array([SPACING_MM]), GRID) for kind in (torch.float32, torch.float64)
    )
    assert float((single - double).abs().max()) < 1e-3 * 1400


@pytest.mark.parametrize(
    ("x", "count", "message"),
    [
        (torch.zeros(1, 1, 4, 4, 4, dtype=torch.float16), 1, r"float32 or float64, got torch\.float16"),
        (torch.zeros(2, 1, 4, 4, 4), 1, "changes must be one for each of 2 samples, got 1"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(x, count, message):
    with pytest.raises(ConfigError, match=message):
        apply(x, [Change()] * count, np.ones((len(x), 3)), GRID)


@pytest.mark.parametrize("step", [0.0, -1.0, math.nan, math.inf])
def test_a_spacing_that_is_none_is_refused(step):
    with pytest.raises(ConfigError, match="spacing_mm must be positive"):
        apply(torch.zeros(1, 1, 4, 4, 4), [Change()], np.array([[1.0, step, 1.0]]), GRID)


def test_a_batch_that_learns_is_changed_without_a_gradient():
    got = _apply(_hu().requires_grad_(), draw(ALL, ["a"], seed=0, epoch=0))
    assert not got.requires_grad
    with pytest.raises(ConfigError, match="num_images must be 1 to 1, the batch's channels, got 0"):
        _apply(_hu(), Change(), num_images=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("epoch", range(5))
def test_a_gpu_gives_what_the_cpu_gives_to_a_thousandth_of_the_window(epoch):
    x, augment = _hu(4), Augment(replace(ALL, noise=0.0), GRID)
    spacing_mm = np.tile(SPACING_MM, (4, 1))
    cpu, gpu = (augment(x.to(device), spacing_mm, list("abcd"), epoch=epoch).cpu() for device in ("cpu", "cuda"))
    assert float((cpu - gpu).abs().max()) < 1.4


# where voxels go


def test_without_changes_the_batch_comes_back_bit_for_bit_and_is_left_alone():
    x = _hu(4, channels=2)
    before = x.clone()
    assert torch.equal(Augment(NONE, GRID)(x, np.tile(SPACING_MM, (4, 1)), list("abcd"), epoch=0), x)
    Augment(ALL, GRID)(x, np.tile(SPACING_MM, (4, 1)), list("abcd"), epoch=0)
    assert torch.equal(x, before)


def test_a_case_drawn_without_a_spatial_change_is_not_resampled(monkeypatch):
    asked = []
    monkeypatch.setattr("torch.nn.functional.grid_sample", lambda *a, **k: asked.append(1))
    config = replace(NONE, rotation=0.0, flip=(1.0, 1.0, 1.0), level=1.0, extent=1.0)
    Augment(config, GRID)(_hu(4), np.tile(SPACING_MM, (4, 1)), list("abcd"), epoch=0)
    assert not asked


def test_whatever_is_moved_is_interpolated_once(monkeypatch):
    """Defect 8: the tutorial interpolates three times for one rotation, and up to six times in all."""
    from torch.nn import functional

    asked, real = [], functional.grid_sample
    monkeypatch.setattr(functional, "grid_sample", lambda *a, **k: asked.append(1) or real(*a, **k))
    _apply(_hu(), draw(ALL, ["a"], seed=0, epoch=0))
    assert len(asked) == 1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_flips_are_exact(axis):
    x = _hu(channels=2)
    flip = tuple(a == axis for a in range(3))
    assert torch.equal(_apply(x, Change(flip=flip)), x.flip(2 + axis))


def _ellipsoid(shape, spacing_mm, radii_mm, centre_mm):
    """HU of an ellipsoid of 40 HU in air, seen by a scanner whose edges are 2 mm wide: half of it at the surface."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing_mm, strict=True)]
    where = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    depth_mm = (1 - np.linalg.norm((where - centre_mm) / radii_mm, axis=-1)) * np.mean(radii_mm)
    return (ndtr(depth_mm / 2) * 1040 - 1000).astype(np.float32)


@pytest.mark.parametrize("seed", range(6))
def test_an_ellipsoid_lands_where_the_matrix_says_to_a_tenth_of_a_voxel(seed):
    """On the rays from its middle the surface lies where the turned, scaled, sheared and shifted ellipsoid has it."""
    shape, spacing_mm = (36, 60, 50), (2.0, 1.0, 1.25)
    recipe = Recipe(region="whole", size=shape, spacing_mm=spacing_mm)
    radii_mm, centre_mm = np.array([16.0, 12.0, 14.0]), np.array([2.0, -3.0, 4.0])
    config = replace(NONE, rotation=1.0, rotation_deg=(40.0, 30.0, 30.0), scaling=1.0, scaling_by=0.1, stretch_by=0.1,
                     shear=1.0, translation=1.0, translation_mm=(4.0, 4.0, 4.0))  # fmt: skip
    change = draw(config, ["a"], seed=seed, epoch=0)[0]
    matrix, shift = np.array(change.affine)[:, :3], np.array(change.affine)[:, 3]
    x = torch.from_numpy(_ellipsoid(shape, spacing_mm, radii_mm, centre_mm))[None, None]
    got = _apply(x, change, recipe)[0, 0].numpy()

    middle = np.linalg.solve(matrix, centre_mm - shift)
    rays = np.random.default_rng(seed).normal(size=(60, 3))
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    expected = 1 / np.linalg.norm(rays @ matrix.T / radii_mm, axis=1)
    steps = np.arange(0, 30, 0.05)
    places = middle + rays[:, None] * steps[:, None]
    index = np.moveaxis(places / spacing_mm + (np.array(shape) - 1) / 2, -1, 0)
    profile = map_coordinates(got, index, order=1, mode="nearest")
    found = np.array([np.interp(480, -one, steps) for one in profile])
    voxel = 1 / np.linalg.norm(rays / spacing_mm, axis=1)
    assert np.abs((found - expected) / voxel).max() < 0.1


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_ten_degrees_are_ten_degrees_on_an_anisotropic_grid(axis):
    config = _only("rotation", rotation_deg=tuple(10.0 * (a == axis) for a in range(3)))
    matrix = np.array(draw(config, ["a"], seed=0, epoch=0)[0].affine)[:, :3]
    angle = np.degrees(np.arccos((np.trace(matrix) - 1) / 2))
    grid = sampling_grid(Change(affine=_rows(matrix)), (12, 20, 18), SPACING_MM, like=HERE).numpy()[..., ::-1]
    mm = grid * np.array(GRID.grid_extent_mm) / 2
    along = [mm.take(-1, axis=a) - mm.take(0, axis=a) for a in range(3)]
    others = [along[a].reshape(-1, 3).mean(axis=0) for a in range(3) if a != axis]
    for a, way in zip((a for a in range(3) if a != axis), others, strict=True):
        turned = np.degrees(np.arccos(way[a] / np.linalg.norm(way)))
        assert turned == pytest.approx(angle, abs=1e-3)
        assert np.linalg.norm(way) == pytest.approx((GRID.size[a] - 1) * SPACING_MM[a], rel=1e-5)


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_drawn_maps_stay_within_their_limits(seed):
    config = replace(NONE, rotation=1.0, rotation_deg=(10.0, 0.0, 0.0), scaling=1.0, scaling_by=0.1, stretch_by=0.02,
                     translation=1.0, translation_mm=(1.0, 2.0, 3.0))  # fmt: skip
    affine = np.array(draw(config, ["a"], seed=seed, epoch=0)[0].affine)
    turn, scales, _ = np.linalg.svd(affine[:, :3])
    assert (1 / scales >= 0.9 * 0.98 - 1e-9).all()
    assert (1 / scales <= 1.1 * 1.02 + 1e-9).all()
    assert (np.abs(affine[:, 3]) <= [1, 2, 3]).all()
    assert abs(np.linalg.det(turn)) == pytest.approx(1)


@pytest.mark.parametrize("zoom_at", [(0.0, 0.0, 0.0), (1.0, -1.0, 0.5)])
def test_a_zoom_shows_a_smaller_box_that_lies_inside_the_grid(zoom_at):
    grid = sampling_grid(Change(zoom=1.25, zoom_at=zoom_at), GRID.size, SPACING_MM, like=HERE).numpy()[..., ::-1]
    low, high = grid.reshape(-1, 3).min(axis=0), grid.reshape(-1, 3).max(axis=0)
    assert np.allclose(high - low, (1 - 1 / np.array(GRID.size)) * 2 / 1.25, atol=1e-6)
    assert (low >= -1).all()
    assert (high <= 1).all()
    assert np.allclose((low + high) / 2, np.array(zoom_at) * 0.2, atol=1e-6)


def test_each_sample_is_moved_by_its_own_spacing():
    x = torch.full((2, 1, 9, 9, 9), -1000.0)
    x[:, :, 4, 4, 4] = 0.0
    change = Change(affine=_rows(np.eye(3), (1.5, 0.0, 0.0)))
    got = apply(x, [change, change], np.array([[1.0, 1.0, 1.0], [3.0, 3.0, 3.0]]), GRID) + 1000
    place = (got.sum(dim=(1, 3, 4)) @ torch.arange(9.0)) / got.sum(dim=(1, 2, 3, 4)) - 4
    assert place.tolist() == pytest.approx([-1.5, -0.5], abs=1e-3)


@pytest.mark.parametrize(("outside", "expected"), [("air", -1000.0), ("edge", 40.0)])
def test_what_comes_in_from_outside_is_what_the_recipe_says(outside, expected):
    """Defect 8: the tutorial pads with 0, which is water."""
    change = Change(affine=_rows(np.eye(3), (0.0, 8.0, 0.0)))
    got = _apply(torch.full((1, 1, *GRID.size), 40.0), change, replace(GRID, outside=outside))
    assert torch.allclose(got[:, :, :, -6:], torch.tensor(expected), atol=1e-3)
    assert torch.allclose(got[:, :, :, :10], torch.tensor(40.0), atol=1e-3)
    assert got.dtype == torch.float32


@pytest.mark.parametrize("outside", ["air", "edge"])
def test_a_sample_that_ends_early_goes_on_as_the_recipe_says(outside):
    x = torch.cat([_hu(), torch.ones(1, 1, *GRID.size)], dim=1)
    got = _apply(x, Change(extent=(0.5, 1.0, 0.2)), replace(GRID, outside=outside))
    kept = (0, 0, slice(3, 9), slice(None), slice(7, 11))
    assert torch.equal(got[kept], x[kept])
    beyond = got[0, 0, :3, :, 7:11]
    assert torch.equal(beyond, x[0, 0, 3:4, :, 7:11].expand_as(beyond) if outside == "edge" else beyond * 0 - 1000)
    assert float(got[0, 1].sum()) == 6 * 20 * 4


def test_one_interpolation_blurs_no_more_than_linear():
    """A small turn and its inverse keep a smooth picture."""
    z, y, x = np.meshgrid(*[np.linspace(0, np.pi, n) for n in GRID.size], indexing="ij")
    hu = torch.from_numpy(400 * np.sin(z) * np.sin(y) * np.sin(x)).float()[None, None]
    c, s = np.cos(0.1), np.sin(0.1)
    turn, back = (Change(affine=_rows([[1, 0, 0], [0, c, t], [0, -t, c]])) for t in (s, -s))
    again = _apply(_apply(hu, turn), back)
    inner = (..., slice(2, -2), slice(5, -5), slice(5, -5))
    assert (again - hu)[inner].abs().max() < 8


# masks


@pytest.mark.parametrize("outside", ["air", "edge"])
def test_masks_go_where_the_voxels_go_and_keep_their_values(outside):
    """Labels 1 and 2 whose HU are their own: after any change they are where those HU are, to half a voxel."""
    labels = torch.zeros(4, 1, 16, 20, 24)
    labels[:, :, 4:11, 5:12, 8:14], labels[:, :, 4:11, 5:12, 14:20] = 1, 2
    hu = -1000 + 400 * labels
    spacing_mm = np.array([[3.0, 1.0, 1.0], [2.0, 2.0, 2.0], [1.0, 1.5, 1.2], [4.0, 0.7, 0.7]])
    config = replace(ALL.geometry, flip=(0.5, 0.5, 0.5), zoom=1.0)
    changes = draw(config, list("abcd"), seed=1, epoch=2)
    got = apply(torch.cat([hu, labels], dim=1), changes, spacing_mm, replace(GRID, outside=outside))
    assert set(got[:, 1].unique().tolist()) == {0.0, 1.0, 2.0}
    inside = got[:, 0] > -620  # all eight neighbours are of one label where the interpolated HU is that label's
    assert ((got[:, 1] >= 1) | (got[:, 0] < -200 - 1e-2)).all()
    pure = [(got[:, 0] - (-1000 + 400 * label)).abs() < 1e-2 for label in (0, 1, 2)]
    for label in (0, 2):
        assert (got[:, 1][pure[label]] == label).all()
    assert inside.any()


def test_masks_have_no_noise_and_no_window():
    x = torch.cat([_hu(), torch.ones(1, 1, *GRID.size)], dim=1)
    change = Change(noise_hu=50.0, level_hu=100.0, kernel=-1.0, gamma=1.2, cutout_mm=(9.0, 9.0, 9.0))
    got = _apply(x, change)
    assert torch.equal(got[:, 1], x[:, 1])
    assert not torch.equal(got[:, 0], x[:, 0])


def test_nothing_outside_the_grid_is_in_a_mask_whatever_lies_there():
    x = torch.cat([torch.full((1, 1, 8, 8, 8), 40.0), torch.ones(1, 1, 8, 8, 8)], dim=1)
    got = _apply(x, Change(affine=_rows(np.eye(3), (0.0, 0.0, 4.5))), replace(GRID, outside="edge"))
    assert float(got[0, 1].sum()) == 8 * 8 * 5
    assert torch.equal(got[0, 0], x[0, 0])


# elastic


def test_the_elastic_field_is_the_cubic_b_spline_of_its_control_points():
    """Against SciPy's basis functions, at places of an anisotropic grid, behind a turn."""
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    change = Change(affine=_rows(turn, (1.0, 2.0, 3.0)), elastic_mm=3.0, elastic_grid_mm=8.0, elastic_seed=5)
    half = np.array(GRID.grid_extent_mm) / 2
    got = sampling_grid(change, GRID.size, SPACING_MM, like=HERE).numpy()[..., ::-1] * half
    ways = control_displacements(change, GRID.size, SPACING_MM)
    basis = BSpline.basis_element([-2, -1, 0, 1, 2], extrapolate=False)
    for place in ((0, 0, 0), (11, 19, 17), (5, 7, 13), (3, 18, 2)):
        p = (np.array(place) - (np.array(GRID.size) - 1) / 2) * SPACING_MM
        weights = [
            np.nan_to_num(basis(v / 8.0 - (np.arange(n) - (n - 1) / 2))) for v, n in zip(p, ways.shape, strict=False)
        ]
        assert [w.sum() for w in weights] == pytest.approx([1, 1, 1])
        way = np.einsum("i,j,k,ijkc->c", *weights, ways)
        assert got[place] == pytest.approx(turn @ (p + way) + [1, 2, 3], abs=1e-4)


def test_tissue_folds_nowhere_in_a_thousand_draws_of_the_largest_ways_allowed():
    config = replace(ALL, elastic_grid_mm=16.0, elastic_mm=16.0 * LARGEST_ELASTIC)
    shape, spacing_mm, ids = (4, 5, 5), (6.0, 4.0, 4.5), [str(i) for i in range(1000)]
    changes = [replace(change, elastic_mm=config.elastic_mm) for change in draw(config, ids, seed=0, epoch=0)]
    least = [smallest_jacobian(change, shape, spacing_mm) for change in changes]
    assert min(least) > 0
    assert min(least) < 0.5  # the draws do bend


def test_the_smallest_jacobian_is_that_of_the_grid_by_differences():
    shape, spacing_mm = (24, 24, 24), (1.0, 1.0, 1.0)
    change = replace(draw(ALL, ["a"], seed=0, epoch=0)[0], elastic_mm=3.0, elastic_grid_mm=12.0, zoom=1.1)
    mm = sampling_grid(change, shape, spacing_mm, like=HERE).double().numpy()[..., ::-1] * np.array(shape) / 2
    slopes = np.stack([np.gradient(mm, axis=a) for a in range(3)], axis=-1)[1:-1, 1:-1, 1:-1]
    assert smallest_jacobian(change, shape, spacing_mm) == pytest.approx(np.linalg.det(slopes).min(), abs=0.03)


# HU


@pytest.mark.parametrize("name", ["standard", "strong", "tutorial"])
def test_hu_stay_within_the_scanners_range(name):
    ends = torch.tensor([-1024.0, 3071.0] * 4).reshape(8, 1, 1, 1, 1).expand(8, 1, *GRID.size)
    x = torch.cat([_hu(8), ends])
    changes = draw(preset(name, GRID), [str(i) for i in range(len(x))], seed=0, epoch=0)
    got = _apply(x, changes)
    assert torch.isfinite(got).all()
    assert float(got.min()) >= -1024
    assert float(got.max()) <= 3071


def test_noise_has_the_drawn_strength_no_mean_and_independent_slices():
    hu = torch.zeros(1, 1, 24, 64, 64)
    noise = _apply(hu, Change(noise_hu=30.0, noise_lp_mm=0.3, noise_seed=1), replace(GRID, size=(24, 64, 64)))[0, 0]
    assert float(noise.std()) == pytest.approx(30, rel=0.03)
    assert float(noise.mean(dim=(1, 2)).abs().max()) < 0.01
    across = np.corrcoef(noise[:-1].flatten().numpy(), noise[1:].flatten().numpy())[0, 1]
    assert abs(across) < 0.02


@pytest.mark.parametrize("lp_mm", [0.1, 0.2, 0.3])
def test_noise_is_strongest_at_the_drawn_frequency_and_vanishes_at_low_ones(lp_mm):
    """White noise is not CT noise: the reconstruction filter leaves little at low frequencies."""
    recipe = replace(GRID, size=(40, 64, 64), spacing_mm=(1.0, 1.0, 1.0))
    noise = _apply(torch.zeros(1, 1, 40, 64, 64), Change(noise_hu=30.0, noise_lp_mm=lp_mm), recipe)[0, 0].numpy()
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(64), np.fft.fftfreq(64), indexing="ij"))
    rings = np.arange(0, 0.5, 0.025)
    radial = np.array([power[(frequency >= low) & (frequency < low + 0.025)].mean() for low in rings])
    assert rings[radial.argmax()] + 0.0125 == pytest.approx(lp_mm, abs=0.04)
    assert radial[0] < 0.35 * radial.max()


def test_there_is_no_noise_in_padding():
    """Defect 8: the tutorial puts noise on the masked background."""
    hu = torch.zeros(1, 1, *GRID.size)
    hu[..., :9] = -1000
    got = _apply(hu, Change(noise_hu=30.0, affine=_rows(np.eye(3), (0.0, 9.0, 0.0))))
    assert (got[..., :9] == -1000).all()
    assert (got[0, 0, :, -8:] == -1000).all()
    assert float(got[0, 0, :, :8, 10:].std()) > 20


def test_added_noise_is_that_of_the_dose_that_is_left():
    config = _only("noise", noise_hu=20.0, dose=(0.25, 0.25))
    assert draw(config, ["a"], seed=0, epoch=0)[0].noise_hu == pytest.approx(20 * math.sqrt(3))


def test_a_smoother_kernel_is_a_gaussian_in_the_plane_and_a_sharper_one_its_opposite():
    hu = _hu()[0, 0].double().numpy()
    blurred = hu
    for axis, step in ((1, 1.0), (2, 1.5)):
        blurred = gaussian_filter1d(blurred, 2.0 / step, axis=axis, mode="nearest", truncate=6)
    smooth, sharp = (_apply(_hu(), Change(kernel=k, kernel_mm=2.0))[0, 0].double().numpy() for k in (-1.0, 0.5))
    assert np.abs(smooth - blurred).max() < 12  # ours is the mean over each voxel, not its middle
    assert np.allclose(sharp, (hu + 0.5 * (hu - smooth)).clip(-1024, 3071), atol=0.01)
    flat = torch.full((1, 1, *GRID.size), -700.0)
    assert torch.allclose(_apply(flat, Change(kernel=-1.0)), flat, atol=1e-2)


@pytest.mark.parametrize("thickness_mm", [6.0, 10.0, 15.0])
def test_thick_slices_are_means_of_thin_ones_and_are_repeated(thickness_mm):
    hu = _hu()
    got = _apply(hu, Change(thickness_mm=thickness_mm, thickness_at=0.25))[0, 0]
    cuts = np.flatnonzero((got[1:] != got[:-1]).any(dim=2).any(dim=1).numpy()) + 1
    groups = np.split(np.arange(12), cuts)
    assert max(map(len, groups)) in (math.floor(thickness_mm / 3), math.ceil(thickness_mm / 3))
    for group in groups:
        mean = hu[0, 0, group].mean(dim=0, keepdim=True)
        assert torch.allclose(got[group], mean.expand(len(group), -1, -1), atol=1e-2)
    assert torch.equal(_apply(hu, Change(thickness_mm=2.0))[0, 0], hu[0, 0])  # as thin as they are


@given(st.floats(-80, 80), st.floats(0.8, 1.25))
def test_a_moved_level_and_width_are_what_another_window_shows(level_hu, width):
    """The tutorial's brightness and contrast took the mean of the scan; ours is the radiologist's window."""
    hu = _hu()
    low, high = -1000 + level_hu + 700 * (1 - width), 400 + level_hu - 700 * (1 - width)
    expected = model_input(hu, ((low, high),))
    got = model_input(_apply(hu, Change(level_hu=level_hu, width=width)), GRID.windows)
    assert torch.allclose(got, expected, atol=2e-4)


def test_another_calibration_keeps_water_but_for_its_offset():
    hu = torch.tensor([-1000.0, 0.0, 1000.0]).reshape(1, 1, 1, 1, 3)
    got = apply(hu, [Change(slope=1.02, offset_hu=5.0)], np.ones((1, 3)), GRID)
    assert got.flatten().tolist() == pytest.approx([-1015, 5, 1025])


@given(st.floats(0.7, 1.4))
def test_gamma_is_a_power_within_the_window_and_leaves_what_is_outside(gamma):
    hu = torch.tensor([-1020.0, -1000.0, -650.0, -300.0, 50.0, 400.0, 1500.0]).reshape(1, 1, 1, 1, 7)
    got = apply(hu, [Change(gamma=gamma)], np.ones((1, 3)), GRID).flatten()
    expected = [-1020, -1000, *(-1000 + 1400 * v**gamma for v in (0.25, 0.5, 0.75)), 400, 1500]
    assert got.tolist() == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("at", [(0.5, 0.5, 0.5), (0.0, 1.0, 0.99)])
def test_a_box_that_is_cut_out_holds_its_mean_and_the_rest_is_untouched(at):
    hu = _hu()
    got = _apply(hu, Change(cutout_mm=(9.0, 6.0, 6.0), cutout_at=at))
    box = (got != hu)[0, 0]
    assert box.sum() == pytest.approx(3 * 6 * 4, abs=2)  # a voxel may be its mean
    values = got[0, 0][box]
    assert (values == values[0]).all()
    assert float(values[0]) == pytest.approx(float(hu[0, 0][box].mean()), abs=20)


# mixing


def _mixable(count=5):
    config = replace(NONE, mixup=0.5, cutmix=0.5)
    return config, [f"c{i}" for i in range(count)], _hu(count), torch.eye(2)[torch.arange(count) % 2]


def test_mixing_does_not_depend_on_the_order_of_the_batch():
    config, ids, x, targets = _mixable()
    augment = Augment(config, GRID, seed=3)
    got, labels = augment.mixed(x, targets, ids, epoch=1)
    backwards, labels_backwards = augment.mixed(x.flip(0), targets.flip(0), ids[::-1], epoch=1)
    assert torch.equal(got, backwards.flip(0))
    assert torch.equal(labels, labels_backwards.flip(0))
    assert not torch.equal(got, x)


def test_a_mixup_is_the_weighted_mean_of_two_cases_and_their_labels():
    _, _, x, targets = _mixable(2)
    got, labels = mix(x, targets, [Mix(partner=1, share=0.75), None])
    assert torch.allclose(got[0], 0.75 * x[0] + 0.25 * x[1], atol=1e-3)
    assert labels[0].tolist() == [0.75, 0.25]
    assert torch.equal(got[1], x[1])


def test_a_cutmix_is_a_box_of_the_other_case_and_its_label_by_volume():
    _, _, x, targets = _mixable(2)
    got, labels = mix(x, targets, [Mix(partner=1, share=0.7, box=(0.1, 0.5, 0.9)), None])
    other = (got[0] == x[1]) & (x[0] != x[1])
    assert torch.equal(torch.where(other, x[1], x[0]), got[0])
    assert float(labels[0, 1]) == pytest.approx(float(other.float().mean()), abs=0.002)
    assert 0 < float(labels[0, 1]) < 0.3


def test_switching_mixup_off_leaves_cutmix_as_it_was_and_the_other_way_round():
    config, ids, _, _ = _mixable(40)
    config = replace(config, mixup=0.4, cutmix=0.3)
    both = draw_mixes(config, ids, seed=0, epoch=0)
    for name, boxed in (("mixup", True), ("cutmix", False)):
        only = draw_mixes(replace(config, **{name: 0.0}), ids, seed=0, epoch=0)
        assert only == [one if one is not None and (one.box is not None) == boxed else None for one in both]
        assert any(only)


def test_targets_of_any_mix_are_probabilities_and_a_case_alone_is_not_mixed():
    config, ids, x, targets = _mixable(5)
    for epoch in range(10):
        mixes = draw_mixes(config, ids, seed=0, epoch=epoch)
        assert all(one is not None and ids[one.partner] != own for one, own in zip(mixes, ids, strict=True))
        _, labels = mix(x, targets, mixes)
        assert torch.allclose(labels.sum(dim=1), torch.ones(5))
        assert float(labels.min()) >= 0
    assert draw_mixes(config, ids[:1], seed=0, epoch=0) == [None]


# configs and presets


def test_the_tutorials_preset_has_its_seven_and_no_more():
    on = {name for name in PROBABILITIES if getattr(preset("tutorial", GRID), name)}
    assert on == {"rotation", "scaling", "translation", "noise", "level", "width", "elastic"}
    assert preset("tutorial", GRID).flip == (0.0, 0.0, 0.0)
    assert not any(getattr(NONE, name) for name in PROBABILITIES)


@pytest.mark.parametrize(("recipe", "box_mm"), [(GRID, 320.0), (POINT, 40.0)])
def test_the_tutorials_voxels_are_mm_of_a_chest_or_of_a_box_around_a_point(recipe, box_mm):
    config, voxel_mm = preset("tutorial", recipe), box_mm / 128
    as_wide = 3**0.5  # a uniform distribution with the deviation of a normal one
    assert config.translation_mm == pytest.approx([5 * voxel_mm] * 3, rel=0.05)
    assert config.elastic_mm == pytest.approx(3 * voxel_mm * as_wide, rel=0.05)
    assert config.elastic_grid_mm == box_mm / 2, "three points along a side"


@pytest.mark.parametrize("name", ["none", "tutorial", "standard", "strong"])
def test_no_preset_changes_the_size_around_a_point_by_more_than_three_percent(name):
    config = preset(name, POINT)
    config.check_for(POINT)
    scales = [
        np.linalg.svd(np.array(change.affine)[:, :3], compute_uv=False)
        for change in draw(config, [str(i) for i in range(300)], seed=0, epoch=0)
    ]
    assert np.abs(1 / np.array(scales) - 1).max() <= 0.03 + 1e-9
    assert all(change.zoom == 1 for change in draw(config, ["a"], seed=0, epoch=0))


def test_whole_chests_are_never_flipped_by_a_preset_and_findings_are():
    for name in ("tutorial", "standard", "strong"):
        assert preset(name, GRID).flip == (0.0, 0.0, 0.0)
    assert preset("standard", POINT).flip == (0.5, 0.5, 0.5)


def test_a_thin_box_around_a_point_is_turned_in_its_plane_alone():
    thin = Recipe(region="point", size=(4, 48, 48), extent_mm=(5.0, 32.0, 32.0), outside="edge")
    config = preset("standard", thin)
    assert config.rotation_deg == (180.0, 0.0, 0.0)
    assert config.translation_mm[0] == 0
    assert config.extent == 1
    assert preset("standard", replace(thin, outside="air")).extent == 0  # black ends would show how thick it is


def test_an_unknown_preset_lists_the_known_ones():
    unchecked = inspect.unwrap(preset)  # the tests' type checker would be first
    with pytest.raises(ConfigError, match=r"augment\.preset must be one of none, tutorial, standard, strong, got weak"):
        unchecked("weak", GRID)


@pytest.mark.parametrize(
    ("settings_", "got"),
    [
        ({"scaling": 0.5, "scaling_by": 0.05}, "0.05"),
        ({"zoom": 0.1, "zoom_by": (1.0, 1.2)}, "0.2"),
        ({"shear": 0.1, "shear_deg": 10.0}, "0.176"),
    ],
)
def test_a_config_that_changes_the_size_of_nodules_is_refused(settings_, got):
    config = replace(preset("none", POINT), stretch_by=0.0, **settings_)
    with pytest.raises(ConfigError, match=rf"at most 0\.03 for region point .* got {got}"):
        Augment(config, POINT)
    Augment(config, GRID)


def test_a_config_that_bends_nodules_much_is_refused():
    config = replace(preset("standard", POINT), elastic=0.3, elastic_mm=3.0)
    with pytest.raises(
        ConfigError, match=r"elastic_mm must be at most 0\.1 of elastic_grid_mm for region point, 2, got 3"
    ):
        Augment(config, POINT)
    Augment(replace(config, elastic=0.0), POINT)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"rotation": 1.5}, "augment.rotation must be a probability, got 1.5"),
        ({"noise": math.nan}, "augment.noise must be a probability, got nan"),
        ({"flip": (0.0, 0.0, -0.1)}, "augment.flip must be 3 of 0 to 1, got"),
        ({"rotation_deg": (0.0, math.nan, 0.0)}, "augment.rotation_deg must be 3 of 0 to 180"),
        ({"rotation_deg": (-10.0, 0.0, 0.0)}, "augment.rotation_deg must be"),
        ({"translation_mm": (0.0, 0.0, math.inf)}, "augment.translation_mm must be 3 of 0 to 1000"),
        ({"scaling_by": 0.6}, "augment.scaling_by must be 0 to 0.5"),
        ({"noise_hu": math.inf}, "augment.noise_hu must be 0 to 500, got inf"),
        ({"elastic_grid_mm": 0.02}, "augment.elastic_grid_mm must be 5 to 1000"),
        ({"dose": (0.5, 1.5)}, "augment.dose must be 2 of 0.01 to 1"),
        ({"dose": (1e-320, 1.0)}, "augment.dose must be 2 of 0.01 to 1"),
        ({"sharpen_by": 1e300}, "augment.sharpen_by must be 0 to 5"),
        ({"thickness_mm": (5.0, 2.5)}, r"augment.thickness_mm must be \(from, to\)"),
        ({"zoom_by": (0.0, 1.0)}, "augment.zoom_by must be"),
        ({"extent_by": (0.0, 1.0, 1.0)}, "augment.extent_by must be 3 of 0.05 to 1"),
        ({"blur_mm": 0.0}, "augment.blur_mm must be 0.05 to 20"),
    ],
)
def test_a_setting_out_of_range_is_refused_where_it_is_made(settings_, message):
    with pytest.raises(ConfigError, match=message):
        AugmentConfig(**settings_)


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"elastic_mm": 20.0}, r"augment.elastic_mm must be at most 0.4 of elastic_grid_mm, 16 .*fold.*got 20"),
        ({"mixup": 0.6, "cutmix": 0.6}, r"augment.mixup \+ cutmix must be at most 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused_before_anything_is_changed(settings_, message):
    with pytest.raises(ConfigError, match=message):
        Augment(AugmentConfig(**settings_), GRID)


def test_a_file_names_a_preset_and_changes_some_of_it(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text("[augment]\npreset = 'strong'\nnoise_hu = 5.0\n[recipe]\nspacing_mm = [2, 2, 2]\n")
    assert load(path).augment == replace(preset("strong", GRID), noise_hu=5.0)
    path.write_text("[recipe]\nregion = 'point'\nextent_mm = [40, 40, 40]\n")
    assert load(path).augment == preset("standard", POINT)
    path.write_text("[augment]\npreset = 'weak'\n")
    with pytest.raises(ConfigError, match=r"c\.toml: augment\.preset must be one of none, tutorial, standard, strong"):
        load(path)


def test_no_augmentation_draws_nothing_and_gives_the_batch_itself():
    recipe = Recipe(spacing_mm=(2.0, 2.0, 2.0))
    none = preset("none", recipe)
    x = torch.full((2, 1, 4, 4, 4), 5000.0)
    assert Augment(none, recipe)(x, np.full((2, 3), 2.0), ["a", "b"], epoch=1) is x
    for name, value in (("flip", (0.0, 0.0, 0.5)), ("noise", 0.5), ("cutout", 0.1), ("extent", 1.0)):
        assert not changes_nothing(replace(none, **{name: value}))
