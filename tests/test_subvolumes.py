"""Samples larger than the model's grid: every voxel is seen in prediction, a random grid in training."""

import csv
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from hilum.cohorts.dataset import CohortDataset, as_sample
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.split_file import read_splits
from hilum.cohorts.table import Cohort
from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.inference import case_logits
from hilum.deciding.model_folder import ModelCard, build, save_model
from hilum.judging import evaluate
from hilum.measuring.calibration import Calibration
from hilum.modelling.augmenting.augment import Augment
from hilum.modelling.input import model_input
from hilum.predicting import Predictor
from hilum.preparing import Store, load_sample, prepare, save_sample
from hilum.preparing.subvolumes import all_starts, cut, random_start
from hilum.randomness import generator
from hilum.settings.run import ModelConfig, Recipe
from hilum.settings.toml import load
from hilum.simulating import plan_cohort, simulate_case, simulate_cohort
from hilum.training import finish
from hilum.training.train import train
from hilum.volume import Volume, affine_from

CPU = torch.device("cpu")


def recipe_of(size, **settings):
    return Recipe(**({"region": "whole", "size": size, "spacing_mm": (2.0, 2.0, 2.0), "sub_volumes": True} | settings))


def volume_of(shape, lungs=None, seed=0):
    hu = np.random.default_rng(seed).integers(-1000, 400, shape).astype(np.int16)
    affine = affine_from(spacing_mm=(2.0, 2.0, 2.0), origin_mm=(0.0, 0.0, 0.0))
    return Volume(voxels_hu=hu, affine=affine, lungs=lungs)


sizes = st.tuples(*[st.integers(1, 7)] * 3)
more = st.tuples(*[st.integers(0, 15)] * 3)


@given(sizes, more, st.sampled_from([0.0, 0.25, 0.5, 0.9]))
def test_the_grids_cover_every_voxel_and_stay_inside(size, more, overlap):
    shape = tuple(a + b for a, b in zip(size, more, strict=True))
    starts = all_starts(volume_of(shape), recipe_of(size, overlap=overlap))
    seen = np.zeros(shape, int)
    for start in starts:
        assert (start >= 0).all()
        assert (start + size <= shape).all()
        seen[tuple(slice(s, s + n) for s, n in zip(start, size, strict=True))] += 1
    assert seen.min() >= 1
    assert len({tuple(start) for start in starts}) == len(starts)
    for axis in range(3):
        places = np.unique(starts[:, axis])
        assert places[0] == 0
        assert places[-1] == shape[axis] - size[axis]
        steps = np.diff(places)
        assert steps.max(initial=0) - steps.min(initial=99 if not len(steps) else steps[0]) <= 1
        assert steps.max(initial=0) <= max(1, np.ceil(size[axis] * (1 - overlap)))


def test_grids_without_lung_are_left_out_and_no_lung_voxel_is():
    lungs = np.zeros((20, 24, 28), np.uint8)
    lungs[2:9, 3:8, 20:27] = 1
    recipe = recipe_of((6, 6, 6))
    starts = all_starts(volume_of(lungs.shape, lungs), recipe)
    everywhere = all_starts(volume_of(lungs.shape), recipe)
    assert 0 < len(starts) < len(everywhere)
    seen = np.zeros(lungs.shape, bool)
    for z, y, x in starts:
        assert lungs[z : z + 6, y : y + 6, x : x + 6].any()
        seen[z : z + 6, y : y + 6, x : x + 6] = True
    assert seen[lungs > 0].all()
    assert np.array_equal(all_starts(volume_of(lungs.shape, lungs * np.uint8(0)), recipe), everywhere)


@settings(max_examples=50)
@given(sizes, more, st.integers(0, 10**6))
def test_a_random_grid_lies_around_a_voxel_of_the_lungs(size, more, seed):
    shape = tuple(a + b for a, b in zip(size, more, strict=True))
    random = np.random.default_rng(seed)
    lungs = np.zeros(shape, np.uint8)
    voxel = random.integers(shape)
    lungs[tuple(voxel)] = 1
    start = np.array(random_start(volume_of(shape, lungs), recipe_of(size), random))
    assert (start >= 0).all()
    assert (start + size <= shape).all()
    off = voxel - (start + np.array(size) // 2)
    at_border = (start == 0) | (start + size == shape)
    assert ((off == 0) | at_border).all()
    assert (start <= voxel).all()
    assert (voxel < start + size).all()


def test_random_grids_show_the_border_of_the_lungs_too():
    """A grid nearly as large as the sample: its centre alone would leave most of the lungs out."""
    lungs = np.ones((10, 10, 10), np.uint8)
    random = np.random.default_rng(0)
    starts = {random_start(volume_of((10, 10, 10), lungs), recipe_of((8, 8, 8)), random) for _ in range(300)}
    assert {0, 1, 2} == {start[0] for start in starts}
    seen = np.zeros(lungs.shape, bool)
    for z, y, x in starts:
        seen[z : z + 8, y : y + 8, x : x + 8] = True
    assert seen.all()


def test_random_grids_reach_all_of_the_lungs_and_without_lungs_all_of_the_sample():
    lungs = np.zeros((12, 12, 12), np.uint8)
    lungs[4, 5, 3:9] = 1
    random = np.random.default_rng(0)
    centres = {
        tuple(np.add(random_start(volume_of((12,) * 3, lungs), recipe_of((6, 6, 6)), random), 3)) for _ in range(200)
    }
    assert centres == {(4, 5, x) for x in range(3, 9)}
    starts = {random_start(volume_of((7, 7, 7)), recipe_of((6, 6, 6)), random) for _ in range(200)}
    assert len(starts) == 8


# preparing


def test_the_sample_is_the_whole_box_with_its_margin_and_never_smaller_than_the_grid():
    scan = simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=6.0)[0]
    fine = recipe_of((16, 16, 16), region="lungs", spacing_mm=(4.0, 5.0, 6.0))
    bare, wide = prepare(scan, fine), prepare(scan, replace(fine, margin_mm=20.0))
    assert np.allclose(np.array(wide.shape) - bare.shape, 40 / np.array([4, 5, 6]), atol=1)
    assert bare.spacing_mm == (4.0, 5.0, 6.0)
    assert bare.lungs.any(axis=(1, 2))[1:-1].all()
    large = prepare(scan, replace(fine, size=(200, 16, 16)))
    assert large.shape == (200, *bare.shape[1:])
    assert (large.voxels_hu[0] == -1000).all()


# a case's logits


def network_for(recipe, num_classes=2, seed=0):
    torch.manual_seed(seed)
    return build(ModelConfig(depth=10, width=4, stem="small"), recipe, num_classes).eval()


@pytest.mark.parametrize("num_classes", [2, 3])
@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_a_prediction_is_what_one_computes_by_hand(tmp_path, aggregate, num_classes):
    recipe = recipe_of((8, 8, 8), aggregate=aggregate, lung_channel=True, windows_hu=("lung", "bone"))
    lungs = np.zeros((14, 17, 20), np.uint8)
    lungs[2:12, 2:9, 3:18] = 1
    sample = volume_of(lungs.shape, lungs)
    network = network_for(recipe, num_classes)
    warm = Calibration(method="temperature", temperature=1.7)
    card = ModelCard(
        model=ModelConfig(depth=10, width=4, stem="small"), recipe=recipe.in_numbers, training={},
        decisions=Decisions(classes=("a", "b", "c")[:num_classes], each=(Decision(calibration=warm),)),
    )  # fmt: skip
    save_model(tmp_path / "model", network, card)
    got = Predictor(tmp_path / "model", device="cpu").predict_samples([sample, sample])
    probs = []
    with torch.inference_mode():
        for start in all_starts(sample, recipe):
            x = torch.from_numpy(cut(sample, recipe, tuple(int(s) for s in start))).float()[None]
            probs.append(network(model_input(x, recipe.windows)).double().softmax(dim=1)[0].numpy())
    assert len(probs) > 8
    case = np.mean(probs, axis=0) if aggregate == "mean" else probs[int(np.argmin(np.array(probs)[:, 0]))]
    cooled = case ** (1 / 1.7) / (case ** (1 / 1.7)).sum()
    for prediction in got:
        assert list(prediction.probabilities.values()) == pytest.approx(cooled, abs=1e-5)


def test_a_case_has_the_same_logits_whoever_shares_its_batch():
    recipe = recipe_of((6, 6, 6))
    network = network_for(recipe)
    samples = [
        as_sample(volume_of(shape, seed=i), recipe) for i, shape in enumerate([(9, 10, 11), (6, 6, 6), (20, 7, 6)])
    ]
    with torch.inference_mode():
        together = case_logits(network, samples, recipe, CPU)
        for one, logits in zip(samples, together, strict=True):
            assert torch.equal(case_logits(network, [one], recipe, CPU)[0], logits)


def test_a_sample_no_larger_than_the_grid_is_seen_as_without_sub_volumes():
    recipe = recipe_of((9, 10, 11))
    network, sample = network_for(recipe), volume_of((9, 10, 11))
    plain = replace(recipe, sub_volumes=False)
    with torch.inference_mode():
        assert torch.equal(
            case_logits(network, [as_sample(sample, recipe)], recipe, CPU),
            case_logits(network, [as_sample(sample, plain)], plain, CPU),
        )


def test_few_grids_are_on_the_device_at_a_time():
    recipe, seen = recipe_of((4, 4, 4)), []

    def network(x):
        seen.append(len(x))
        return x.mean(dim=(1, 2, 3, 4))[:, None] * torch.tensor([1.0, -1.0])

    sample = as_sample(volume_of((20, 20, 20)), recipe)
    case_logits(network, [sample], recipe, CPU)
    assert sum(seen) == len(sample["starts"]) == 9**3
    assert max(seen) <= 8


# training


@pytest.fixture(scope="module")
def cut_up(npy_cohort):
    """Settings for the cohort of 12 cubed in grids of 8 cubed."""
    config = load(npy_cohort / "config.toml")
    return replace(
        config,
        recipe=replace(config.recipe, size=(8, 8, 8), sub_volumes=True),
        training=replace(config.training, epochs=2),
    )


def drawn_in(run, monkeypatch):
    """Every grid that the loop trains on, by epoch and case."""
    seen = {}
    call = Augment.__call__

    def keep(self, x, spacing_mm, case_ids, *, epoch):
        seen.update(zip([(epoch, case) for case in case_ids], x.clone(), strict=True))
        return call(self, x, spacing_mm, case_ids, epoch=epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Augment, "__call__", keep)
        run()
    return seen


def test_training_draws_the_same_grids_with_workers_and_after_a_resume(
    npy_cohort, cut_up, tmp_path, monkeypatch, train_until
):
    whole = drawn_in(partial(train, cut_up, tmp_path / "whole", base=npy_cohort), monkeypatch)
    workers = replace(cut_up, training=replace(cut_up.training, workers=2))
    parallel = drawn_in(partial(train, workers, tmp_path / "workers", base=npy_cohort), monkeypatch)
    train_until(cut_up, tmp_path / "broken", base=npy_cohort)
    resumed = drawn_in(partial(train, cut_up, tmp_path / "broken", resume=True), monkeypatch)
    assert {epoch for epoch, _ in resumed} == {2}
    assert set(whole) == set(parallel)
    for key, grid in whole.items():
        assert grid.shape == (1, 8, 8, 8)
        assert torch.equal(grid, parallel[key])
        assert key not in resumed or torch.equal(grid, resumed[key])
    cases = {case for _, case in whole}
    assert any(not torch.equal(whole[1, case], whole[2, case]) for case in cases)
    weights = [load_file(tmp_path / run / "model" / "weights.safetensors") for run in ("whole", "workers", "broken")]
    assert all(torch.equal(weights[0][name], other[name]) for other in weights[1:] for name in weights[0])


def test_validation_in_training_and_prediction_say_the_same_of_a_case(npy_cohort, cut_up, tmp_path, monkeypatch):
    noted = []
    card = finish.model_card
    monkeypatch.setattr(finish, "model_card", lambda *args: noted.append(args[3]) or card(*args))
    model = train(cut_up, tmp_path / "run", base=npy_cohort)
    logits = noted[0].logits
    cohort = Cohort.read(npy_cohort / "cohort.csv", cut_up.cohort)
    prepared = prepare_cohort(cohort, cut_up.recipe, Store(npy_cohort / "store"))
    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    samples = [
        load_sample(path)
        for case, path in zip(prepared.cases, prepared.samples, strict=True)
        if parts[case.case_id] == "val"
    ]
    assert samples[0].shape == (12, 12, 12)
    predictor = Predictor(model, device="cpu")
    with torch.inference_mode():
        again = case_logits(predictor.network, [as_sample(s, cut_up.recipe) for s in samples], cut_up.recipe, CPU)
    assert np.array_equal(again.double().numpy(), logits)
    assert evaluate(model, None, tmp_path / "judged")["num_cases"] > 0


def test_grids_of_the_lungs_with_a_lung_channel_go_the_whole_way_from_dicom(tmp_path):
    table = simulate_cohort(tmp_path / "c", num_cases=9, seed=3, diseased=0.5, pixel_mm=8.0, workers=1)
    (tmp_path / "config.toml").write_text(
        f"""
        [cohort]
        table = "{table}"
        max_refused = 0.5
        [split]
        val = 0.3
        test = 0.3
        [recipe]
        region = "lungs"
        size = [12, 12, 16]
        spacing_mm = [10.0, 10.0, 10.0]
        margin_mm = 10.0
        lung_channel = true
        sub_volumes = true
        aggregate = "max"
        windows_hu = ["lung", "mediastinum"]
        [model]
        depth = 10
        width = 2
        stem = "small"
        [training]
        epochs = 1
        batch_size = 3
        """
    )
    model = train(tmp_path / "config.toml", tmp_path / "run")
    answer = evaluate(model, None, tmp_path / "judged")
    assert answer["num_cases"] >= 2
    predictor = Predictor(model, device="cpu")
    assert predictor.network.conv1.in_channels == 3
    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    cohort = Cohort.read(table)
    case = next(c for c in cohort.cases if parts[c.case_id] == "test")
    with (tmp_path / "judged" / "cases.csv").open(newline="") as file:
        judged = {row["case_id"]: float(row["prob_1"]) for row in csv.DictReader(file)}
    assert predictor.predict(case.path).probabilities["1"] == judged[case.case_id]


def test_a_drawn_grid_depends_on_seed_epoch_and_case_alone(npy_cohort, cut_up):
    cohort = Cohort.read(npy_cohort / "cohort.csv", cut_up.cohort)
    prepared = prepare_cohort(cohort, cut_up.recipe, Store(npy_cohort / "store"))
    parts = dict.fromkeys((c.case_id for c in cohort.cases), "train")
    dataset = CohortDataset(prepared, parts, "train", 2, cut_up.recipe, seed=5)
    volume = load_sample(prepared.samples[7])
    start = random_start(volume, cut_up.recipe, generator(5, 3, "c07", "sub-volume"))
    assert np.array_equal(dataset[7, 3, 0]["hu"].numpy(), cut(volume, cut_up.recipe, start))
    assert dataset[7]["hu"].shape == (1, 12, 12, 12)


def test_each_sample_of_a_fitted_recipe_keeps_its_spacing_in_the_data_set(tmp_path, npy_cohort):
    recipe = Recipe(region="whole", size=(4, 4, 4), fit="region")
    for name, spacing in (("a", 2.0), ("b", 3.5)):
        affine = affine_from(spacing_mm=(spacing,) * 3, origin_mm=(0.0, 0.0, 0.0))
        save_sample(Volume(voxels_hu=np.zeros((4, 4, 4), np.int16), affine=affine), tmp_path / name)
    cohort = Cohort.read(npy_cohort / "cohort.csv")
    prepared = prepare_cohort(cohort, load(npy_cohort / "config.toml").recipe, Store(npy_cohort / "store"))
    prepared = replace(prepared, cases=prepared.cases[:2], samples=(tmp_path / "a", tmp_path / "b"))
    dataset = CohortDataset(prepared, {"c00": "train", "c01": "train"}, "train", 2, recipe)
    assert [dataset[i]["spacing_mm"].tolist() for i in (0, 1)] == [[2.0] * 3, [3.5] * 3]
