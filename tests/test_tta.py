"""Test-time augmentation: the mean of a case and of moved views of it, in validation as in prediction."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hilum.cohorts.dataset import as_sample
from hilum.cohorts.split_file import read_splits
from hilum.deciding.inference import case_logits
from hilum.deciding.tta import Views, changes_of
from hilum.errors import CheckpointError, ConfigError
from hilum.modelling.augmenting.augment import apply
from hilum.modelling.input import model_input
from hilum.predicting import Predictor
from hilum.settings.presets import preset
from hilum.settings.run import Recipe
from hilum.settings.toml import load
from hilum.training.train import train
from hilum.volume import Volume

CPU = torch.device("cpu")
RECIPE = Recipe(region="point", size=(8, 10, 12), spacing_mm=(2.0, 1.0, 1.5), outside="edge")
VIEWS = Views(count=3, augment=preset("standard", RECIPE))


def network(x):
    """Logits that say where the bright voxels lie."""
    corner = x[:, 0, :4, :5, :6].mean(dim=(1, 2, 3))
    return torch.stack([4 * corner, 2 - 4 * corner], dim=1)


def _samples(count, recipe=RECIPE):
    random = np.random.default_rng(0)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(recipe.grid_spacing_mm)[::-1]
    return [
        as_sample(Volume(voxels_hu=random.integers(-1000, 400, recipe.size, dtype=np.int16), affine=affine), recipe, i)
        for i in range(count)
    ]


def test_the_probabilities_are_the_mean_over_the_case_and_its_views():
    (sample,) = _samples(1)
    hu, spacing_mm = sample["hu"][None].float(), sample["spacing_mm"].numpy()[None]
    seen = [hu, *(apply(hu, [view], spacing_mm, RECIPE) for view in changes_of(VIEWS))]
    each = [network(model_input(x, RECIPE.windows)).softmax(dim=1)[0] for x in seen]
    got = case_logits(network, [sample], RECIPE, CPU, VIEWS).softmax(dim=1)[0]
    assert torch.allclose(got, torch.stack(each).mean(dim=0), atol=1e-6)
    assert len({round(float(p[0]), 5) for p in each}) == 4


@pytest.mark.parametrize("recipe", [RECIPE, Recipe(spacing_mm=(2.0, 2.0, 2.0))])
@pytest.mark.parametrize("name", ["tutorial", "standard", "strong"])
def test_views_are_as_many_as_asked_for_all_move_and_none_changes_hu(name, recipe):
    views = changes_of(Views(count=16, augment=preset(name, recipe)))
    x = torch.randn(1, 1, *RECIPE.size) * 100
    moved = [x, *(apply(x, [view], np.array([RECIPE.spacing_mm]), RECIPE) for view in views)]
    assert not any(torch.equal(one, other) for i, one in enumerate(moved) for other in moved[:i])
    for view in views:
        assert view.resamples or any(view.flip)
        assert not view.changes_intensity
        assert view.extent == (1.0, 1.0, 1.0)
        assert view.zoom == 1


def test_views_that_hardly_ever_move_are_refused(monkeypatch):
    monkeypatch.setattr("hilum.deciding.tta._TRIES", 64)
    for augment in ({"rotation": 1e-9}, {"rotation": 1.0, "rotation_deg": (0.0,) * 3}, {}):
        with pytest.raises(ConfigError, match=r"views\.augment must be one that moves in 4 ways in 64 draws, got 0"):
            Views(count=4, augment=replace(preset("none", RECIPE), **augment))
    flips = replace(preset("none", RECIPE), flip=(0.0, 0.0, 0.5))
    assert [view.flip for view in changes_of(Views(count=1, augment=flips))] == [(False, False, True)]
    with pytest.raises(ConfigError, match="moves in 2 ways in 64 draws, got 1"):
        Views(count=2, augment=flips)


def test_views_that_cannot_be_are_refused_before_anything_is_prepared(npy_cohort, tmp_path):
    config = load(npy_cohort / "config.toml")
    config = replace(config, augment=preset("none", RECIPE), decision=replace(config.decision, tta=4))
    with pytest.raises(ConfigError, match="moves in 4 ways"):
        train(config, tmp_path / "run", base=npy_cohort)
    assert not (tmp_path / "run").exists()


def test_a_case_is_seen_alike_in_any_batch():
    samples = _samples(3)
    together = case_logits(network, samples, RECIPE, CPU, VIEWS)
    for sample, logits in zip(samples, together, strict=True):
        assert torch.equal(case_logits(network, [sample], RECIPE, CPU, VIEWS)[0], logits)


def test_every_grid_of_a_large_sample_has_its_views():
    recipe = Recipe(region="whole", size=(6, 6, 6), spacing_mm=(2.0, 1.0, 1.5), sub_volumes=True)
    (sample,) = _samples(1, replace(recipe, size=(6, 10, 12)))
    sample["starts"] = torch.tensor([[0, 0, 0], [0, 4, 6]])
    batches = []
    case_logits(lambda x: batches.append(len(x)) or network(x), [sample], recipe, CPU, VIEWS)
    assert batches == [2] * 4


@pytest.fixture(scope="module")
def with_views(npy_cohort, tmp_path_factory):
    """A run whose decisions are taken with four views, and its twin without."""
    runs = []
    for tta in (4, 0):
        config = load(npy_cohort / "config.toml")
        config = replace(
            config,
            training=replace(config.training, epochs=2),
            decision=replace(config.decision, tta=tta),
            augment=replace(config.augment, flip=(0.5, 0.5, 0.5), rotation=1.0, translation=1.0),
        )
        out = tmp_path_factory.mktemp("tta") / "run"
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HILUM_KEY", "tests")
            runs.append(train(config, out, base=npy_cohort))
    return runs


def test_the_model_folder_says_how_cases_are_seen_and_the_weights_are_the_same(with_views):
    model, twin = with_views
    about = json.loads((model / "model.json").read_text())
    assert about["views"]["count"] == 4
    assert about["views"]["augment"]["rotation"] == 1
    assert about["views"]["augment"]["noise"] == 0
    assert "views" not in json.loads((twin / "model.json").read_text())
    assert (model / "weights.safetensors").read_bytes() == (twin / "weights.safetensors").read_bytes()


def test_temperature_and_threshold_are_chosen_as_predictions_are_made(with_views, npy_cohort):
    """The threshold lies midway between two probabilities that the predictor gives validation cases."""
    model, _ = with_views
    predictor = Predictor(model, device="cpu")
    val = [case for case, part in read_splits(model.parent / "splits.csv").parts.items() if part == "val"]
    probs = sorted(predictor.predict(npy_cohort / f"{case[1:]}.npy").probabilities["1"] for case in val)
    midway = [(low + high) / 2 for low, high in zip([0.0, *probs], [*probs, 1.0], strict=True)]
    assert min(abs(middle - predictor.card.decisions.each[0].threshold) for middle in midway) < 1e-6


def test_a_number_of_views_that_is_not_allowed_is_damage(with_views, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("weights.safetensors", "model.json"):
        (folder / name).write_bytes((with_views[0] / name).read_bytes())
    about = json.loads((folder / "model.json").read_text())
    about["views"]["count"] = 10_000
    (folder / "model.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match=r"views\.count must be 1 to 64, got 10000"):
        Predictor(folder, device="cpu")
