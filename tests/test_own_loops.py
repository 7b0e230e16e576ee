"""Parts of Hilum in other programs: a cohort's parts as data sets of PyTorch, a model folder as a module."""

import csv
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from hilum.cohorts.table import Cohort
from hilum.errors import CheckpointError, CohortError, ConfigError
from hilum.modelling.input import model_input
from hilum.predicting import Predictor
from hilum.predicting.calibrated_network import load_network
from hilum.preparing import load_sample
from hilum.settings.toml import load
from hilum.training.cohort import datasets
from hilum.training.run_folder import Run


@pytest.fixture
def cohort(npy_cohort, tmp_path):
    shutil.copytree(npy_cohort, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run", "store"))
    return tmp_path


def test_the_parts_are_those_that_training_draws(trained_run, npy_cohort):
    with Run(trained_run).splits_file.open() as file:
        drawn = {row["case_id"]: row["split"] for row in csv.DictReader(file)}
    for source in (npy_cohort / "config.toml", trained_run):
        parts = datasets(source)
        assert list(parts) == ["train", "val", "test"]
        assert {name: part for part, data in parts.items() for name in data.names} == drawn


def test_an_item_is_the_prepared_case_with_its_label(npy_cohort):
    labels = {case.case_id: case.label for case in Cohort.read(npy_cohort / "cohort.csv").cases}
    for data in datasets(npy_cohort / "config.toml").values():
        assert isinstance(data, Dataset)
        for place, name in enumerate(data.names):
            item = data[place]
            assert item["target"].tolist() == np.eye(2)[labels[name]].tolist()
            sample = load_sample(data.prepared.samples[data.indices[place]])
            np.testing.assert_array_equal(item["hu"][0], sample.voxels_hu)
            assert item["name"] == name


@pytest.mark.parametrize("workers", [0, 1])
def test_pytorchs_own_loader_makes_batches_of_them(npy_cohort, workers):
    data = datasets(load(npy_cohort / "config.toml"))["train"]
    seen = []
    for batch in DataLoader(data, batch_size=4, shuffle=True, num_workers=workers):
        assert batch["hu"].shape[1:] == (1, 12, 12, 12)
        assert batch["hu"].dtype == torch.int16
        assert batch["target"].shape == (len(batch["hu"]), 2)
        seen += batch["name"]
    assert sorted(seen) == sorted(data.names)


def test_soft_labels_are_targets(cohort):
    table = (cohort / "cohort.csv").read_text().splitlines()
    rows = [f"{row},{'soft_label' if n == 0 else 0.25}" for n, row in enumerate(table)]
    (cohort / "cohort.csv").write_text("\n".join(rows) + "\n")
    data = datasets(cohort / "config.toml")["train"]
    assert {tuple(data[n]["target"].tolist()) for n in range(len(data))} == {(0.75, 0.25)}


def test_a_table_that_has_changed_since_the_run_began_is_refused(trained_run, npy_cohort, tmp_path):
    shutil.copytree(npy_cohort, tmp_path / "moved", ignore=shutil.ignore_patterns("store"))
    table = tmp_path / "moved" / "cohort.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(CohortError, match="must hold the cases that"):
        datasets(tmp_path / "moved" / "run")


def _a_label_is_swapped(folder):
    table = folder / "cohort.csv"
    table.write_text(table.read_text().replace("c05,05.npy,1", "c05,05.npy,0"))


def _a_scan_is_another(folder):
    np.save(folder / "05.npy", np.random.default_rng(9).random((12, 12, 12), np.float32))


def _a_scan_is_gone(folder):
    (folder / "05.npy").unlink()


def _a_setting_is_another(folder):
    config = folder / "run" / "config.toml"
    text = config.read_text()
    assert 'outside = "air"' in text
    config.write_text(text.replace('outside = "air"', 'outside = "edge"'))


@pytest.mark.parametrize("change", [_a_label_is_swapped, _a_scan_is_another, _a_scan_is_gone, _a_setting_is_another])
def test_a_run_whose_cases_or_settings_have_changed_gives_no_data_sets(change, trained_run, npy_cohort, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(npy_cohort, moved, ignore=shutil.ignore_patterns("store"))
    assert len(datasets(moved / "run")["train"])
    change(moved)
    with pytest.raises((CohortError, ConfigError), match=r"(has changed since it was|was) begun"):
        datasets(moved / "run")


def test_a_base_may_be_named_by_the_home_folder(cohort, monkeypatch):
    monkeypatch.setenv("HOME", str(cohort.parent))
    config = replace(load(cohort / "config.toml"), store="store")
    config = replace(config, cohort=replace(config.cohort, table="cohort.csv"))
    assert len(datasets(config, base=f"~/{cohort.name}")["train"])


def test_a_leak_of_the_tables_own_split_stops_unless_it_is_allowed(cohort):
    rows = (cohort / "cohort.csv").read_text().splitlines()
    parts = ["split", *(("train", "val", "test")[n // 4 % 3] for n in range(60))]
    (cohort / "cohort.csv").write_text("\n".join(f"{row},{part}" for row, part in zip(rows, parts, strict=True)) + "\n")
    shutil.copy(cohort / "01.npy", cohort / "05.npy")  # the same scan in training and validation
    with pytest.raises(CohortError, match="leaks"):
        datasets(cohort / "config.toml")
    assert len(datasets(cohort / "config.toml", allow_leakage=True)["train"]) == 20


def test_a_run_of_folds_is_asked_for_a_member(tmp_path, trained_run):
    folds = tmp_path / "folds"
    shutil.copytree(trained_run, folds / "fold-1-seed-0", ignore=shutil.ignore_patterns("evaluation", "last"))
    shutil.copy(trained_run / "config.toml", folds / "config.toml")
    with pytest.raises(ConfigError, match=r"run of folds.*one of its members"):
        datasets(folds)


def test_a_model_folder_is_a_module_from_hu_to_the_predictors_probabilities(trained_run, npy_cohort):
    network = load_network(trained_run)
    assert isinstance(network, torch.nn.Module)
    assert not network.training
    data, predictor = datasets(trained_run)["test"], Predictor(trained_run)
    for item in (data[n] for n in range(4)):
        with torch.no_grad():
            probs = network(item["hu"][None].float())[0].numpy()
        sample = load_sample(data.prepared.samples[data.indices[item["index"]]])
        found = predictor.predict_samples([sample])[0].probabilities
        np.testing.assert_allclose(probs, list(found.values()), atol=1e-6)


def test_the_network_of_a_model_folder_can_be_trained_further(trained_run):
    network, data = load_network(trained_run).network, datasets(trained_run)["train"]
    batch = next(iter(DataLoader(data, batch_size=6)))
    x = model_input(batch["hu"].float(), data.recipe.windows)
    assert not network(x).requires_grad
    network.train().requires_grad_()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        loss = torch.nn.functional.cross_entropy(network(x), batch["target"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_a_folder_without_a_model_says_so(tmp_path):
    with pytest.raises(CheckpointError, match="is no model folder"):
        load_network(tmp_path)
