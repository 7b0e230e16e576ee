import csv
import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hilum.cohorts.batches import EpochBatches
from hilum.cohorts.dataset import CohortDataset
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.sampling import draws
from hilum.cohorts.split_file import read_splits
from hilum.cohorts.splits import split
from hilum.cohorts.table import Cohort
from hilum.deciding.model_folder import load_model
from hilum.errors import CheckpointError, CohortError, ConfigError, TrainingError
from hilum.measuring.metrics import roc_auc
from hilum.modelling.augmenting.augment import Augment
from hilum.preparing import Store
from hilum.settings.run import DecisionConfig, SamplingConfig, SplitConfig, TrainingConfig
from hilum.settings.toml import load
from hilum.training import finish, fit, history
from hilum.training.epoch_metrics import EpochMetrics
from hilum.training.schedule import one_cycle
from hilum.training.train import train


def short(npy_cohort, **training):
    config = load(npy_cohort / "config.toml")
    return replace(config, training=replace(config.training, **({"epochs": 2} | training)))


def at(config, folder):
    """The settings for the table in another folder."""
    return replace(config, cohort=replace(config.cohort, table=str(folder / "cohort.csv")))


def test_a_run_folder_holds_what_the_design_says(trained_run):
    names = {path.name.split(".")[0] if "tfevents" in path.name else path.name for path in trained_run.iterdir()}
    assert names == {
        "config.toml", "run.json", "splits.csv", "signatures.safetensors", "audit.json", "metrics.csv", "history.png",
        "events", "last", "model", "evaluation",
    }  # fmt: skip
    assert {path.name for path in (trained_run / "model").iterdir()} == {"weights.safetensors", "model.json"}
    assert len({path.stat().st_mode for path in (trained_run / "model").iterdir()}) == 1, "who reads one reads both"
    assert {"evaluation.json", "cases.csv", "roc.png", "pr.png", "confusion.png"} <= {
        path.name for path in (trained_run / "evaluation").iterdir()
    }


@pytest.mark.parametrize(("losses", "scale", "holds"), [
    ([0.7, 41.0, 0.3], "log", (0.3, 41.0)),
    ([0.7, 0.6, 0.5], "linear", (0.0, 0.7)),
    ([0.0, math.nan, 0.5], "linear", (0.0, 0.5)),
])  # fmt: skip
def test_the_plot_of_the_loss_shows_small_losses_beside_a_peak(tmp_path, monkeypatch, losses, scale, holds):
    plotted = []
    monkeypatch.setattr(history, "write", lambda panels, path: plotted.append(panels.axes[0]))
    rows = [{"epoch": str(n), "train_loss": "0.5", "val_loss": str(loss)} for n, loss in enumerate(losses, start=1)]
    others = {f"{part}_{name}": "0.5" for part in ("train", "val") for name in ("accuracy", "f1", "auc")}
    history.plot_history([row | others for row in rows], tmp_path / "history.png", kept_epoch=3)
    bottom, top = plotted[0].get_ylim()
    assert plotted[0].get_yscale() == scale
    assert bottom <= holds[0] < holds[1] <= top
    assert scale == "log" or bottom == 0


def test_metrics_have_the_figures_of_both_parts_and_no_times(trained_run):
    with (trained_run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["epoch", "lr"] + [
        f"{part}_{name}"
        for part in ("train", "val")
        for name in ("loss", "accuracy", "f1", "auc", "average_precision", "balanced_accuracy")
    ]
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]


def test_the_rate_in_the_metrics_is_that_of_the_last_step_of_the_epoch(npy_cohort, tmp_path):
    config = short(npy_cohort, epochs=2, lr=0.01, schedule="one-cycle", batch_size=64)  # one step each
    train(config, tmp_path / "run", base=npy_cohort)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        rates = [float(row["lr"]) for row in csv.DictReader(file)]
    assert rates == pytest.approx([0.01 / 25, 0.01 / 25 * 1e-4], rel=1e-5)


def test_a_few_seconds_of_training_learn_a_bright_ball(trained_run):
    answer = json.loads((trained_run / "evaluation" / "evaluation.json").read_text())
    assert answer["auc"] > 0.9
    low, high = answer["auc_ci"]
    assert low < answer["auc"] <= high


def test_two_runs_with_one_seed_are_identical_with_and_without_workers(npy_cohort, trained_run, tmp_path):
    again = load(npy_cohort / "config.toml")
    train(replace(again, training=replace(again.training, workers=2)), tmp_path / "run", base=npy_cohort)
    for name in ("metrics.csv", "splits.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (trained_run / name).read_bytes()
    first, second = (load_file(run / "model" / "weights.safetensors") for run in (trained_run, tmp_path / "run"))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("schedule", ["plateau", "one-cycle"])
def test_a_resumed_run_equals_an_unbroken_one_bit_for_bit(npy_cohort, tmp_path, train_until, schedule):
    config = short(npy_cohort, epochs=3, schedule=schedule)
    config = replace(config, model=replace(config.model, dropout=0.3))
    train(config, tmp_path / "whole", base=npy_cohort)
    train_until(config, tmp_path / "broken", base=npy_cohort, epochs=2)
    assert not (tmp_path / "broken" / "model").exists()
    train(config, tmp_path / "broken", resume=True)
    assert (tmp_path / "broken" / "metrics.csv").read_bytes() == (tmp_path / "whole" / "metrics.csv").read_bytes()
    whole, broken = (load_file(tmp_path / run / "model" / "weights.safetensors") for run in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_a_checkpoint_of_another_network_is_refused_with_the_weights_that_do_not_fit(npy_cohort, tmp_path, train_until):
    config = short(npy_cohort)
    train_until(config, tmp_path / "run", base=npy_cohort)
    train_until(replace(config, model=replace(config.model, width=6)), tmp_path / "other", base=npy_cohort)
    shutil.copytree(tmp_path / "other" / "last", tmp_path / "run" / "last", dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match=r"cannot be resumed: size mismatch for \S+weight"):
        train(config, tmp_path / "run", resume=True)


def test_a_folder_without_a_run_cannot_be_resumed(npy_cohort, tmp_path):
    with pytest.raises(ConfigError, match="cannot be resumed: it holds no last/"):
        train(load(npy_cohort / "config.toml"), tmp_path, resume=True)


def test_a_damaged_checkpoint_is_named(npy_cohort, trained_run, tmp_path):
    shutil.copytree(trained_run, tmp_path / "run")
    config = (
        (tmp_path / "run" / "config.toml")
        .read_text()
        .replace('table = "../cohort.csv"', f'table = "{npy_cohort}/cohort.csv"')
    )
    (tmp_path / "run" / "config.toml").write_text(config)
    (tmp_path / "run" / "last" / "state.safetensors").write_bytes(b"broken")
    with pytest.raises(CheckpointError, match="last cannot be resumed"):
        train(load(npy_cohort / "config.toml"), tmp_path / "run", resume=True)


def test_a_run_folder_that_is_not_empty_is_never_overwritten(npy_cohort, trained_run):
    before = (trained_run / "metrics.csv").read_bytes()
    with pytest.raises(ConfigError, match="must be new or empty"):
        train(load(npy_cohort / "config.toml"), trained_run, base=npy_cohort)
    assert (trained_run / "metrics.csv").read_bytes() == before


def test_a_loss_that_is_not_finite_stops_the_run_before_the_step(npy_cohort, tmp_path):
    config = short(npy_cohort, lr=1e30, clip_norm=1e30)
    with pytest.raises(
        TrainingError, match=r"(loss|gradient) must be finite, is .* in epoch \d, batch \d+; the step was"
    ):
        train(config, tmp_path / "run", base=npy_cohort)
    assert not (tmp_path / "run" / "model").exists()


def test_a_last_batch_of_one_case_joins_the_one_before():
    """The tutorial's dies in BatchNorm (FIELD 18)."""
    sizes = [len(batch) for batch in EpochBatches(9, 4, seed=0)]
    assert sizes == [4, 5]
    assert sorted(i for batch in EpochBatches(9, 4, seed=0) for i in batch) == list(range(9))


def test_training_with_a_last_batch_of_one_case_goes_on(npy_cohort, tmp_path):
    config = short(npy_cohort, epochs=1)
    cohort = Cohort.read(npy_cohort / "cohort.csv", config.cohort)
    parts = split(cohort, config.split)
    num_train = sum(part == "train" for part in parts.values())
    one_left = next(b for b in range(3, num_train) if num_train % b == 1)
    train(replace(config, training=replace(config.training, batch_size=one_left)), tmp_path / "run", base=npy_cohort)
    assert (tmp_path / "run" / "model" / "model.json").exists()


def test_batches_are_shuffled_by_seed_and_epoch_alone():
    first, second = EpochBatches(50, 8, seed=1), EpochBatches(50, 8, seed=1)
    assert list(first) == list(second)
    second.epoch = 1
    assert list(first) != list(second)
    assert list(EpochBatches(5, 2)) == [[0, 1], [2, 3, 4]]


def test_only_training_cases_are_augmented(npy_cohort, tmp_path, monkeypatch):
    """The tutorial's random_split augments validation and test (FIELD 10)."""
    augmented = set()
    call = Augment.__call__

    def noted(self, x, spacing_mm, case_ids, **more):
        augmented.update(case_ids)
        return call(self, x, spacing_mm, case_ids, **more)

    monkeypatch.setattr(Augment, "__call__", noted)
    train(short(npy_cohort, epochs=1), tmp_path / "run", base=npy_cohort)
    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    assert augmented == {case_id for case_id, part in parts.items() if part == "train"}


def test_class_weights_see_the_training_labels_alone(npy_cohort, tmp_path, monkeypatch):
    """The tutorial's see the test labels (FIELD 10)."""
    seen = []
    made = fit.make_loss
    monkeypatch.setattr(fit, "make_loss", lambda config, labels, *of: seen.append(labels) or made(config, labels, *of))
    train(short(npy_cohort, epochs=1), tmp_path / "run", base=npy_cohort)
    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    assert [len(labels) for labels in seen] == [sum(part == "train" for part in parts.values())]


@pytest.mark.parametrize("method", ["none", "over", "progressive"])
def test_validation_losses_are_of_the_shares_that_are_trained_on_and_can_be_compared(
    npy_cohort, tmp_path, monkeypatch, method
):
    seen = []
    validate = fit.validate
    monkeypatch.setattr(finish, "validate", lambda *a, **k: seen.append("final") or validate(*a, **k))
    monkeypatch.setattr(fit, "validate", lambda *a, **k: seen.append(k["weights"]) or validate(*a, **k))
    lines = (npy_cohort / "cohort.csv").read_text().splitlines()
    few = [line for n, line in enumerate(lines[1:]) if line.split(",")[2] == "0" or n % 3]
    (npy_cohort / "uneven.csv").write_text("\n".join([lines[0], *few]) + "\n")
    config = short(npy_cohort, epochs=3)
    config = replace(config, cohort=replace(config.cohort, table="uneven.csv"), sampling=SamplingConfig(method=method))
    train(config, tmp_path / "run", base=npy_cohort)
    if method == "none":
        assert seen == [None, None, None, "final"]
        return
    assert all(torch.equal(weights, seen[0]) for weights in seen[1:3])
    cohort, parts = (
        Cohort.read(npy_cohort / "uneven.csv", config.cohort),
        read_splits(tmp_path / "run" / "splits.csv").parts,
    )
    labels = {part: np.array([c.label for c in cohort.cases if parts[c.case_id] == part]) for part in ("train", "val")}
    counts = np.bincount(labels["train"])
    weights = (draws(method, counts, epoch=3, epochs=3) / counts)[labels["val"]]
    assert seen[0].numpy() == pytest.approx(weights, rel=1e-6)
    assert weights.std() > 0


def test_the_epochs_loss_is_a_mean_over_cases_not_over_batches():
    """Weighted means of batches must not be averaged (FIELD 19)."""
    seen = EpochMetrics(np.array([0, 1, 1]))
    seen.add([0, 1, 2], torch.zeros(3, 2))
    seen.add_loss(1.0, 1.0)
    seen.add_loss(54.0, 18.0)
    assert seen.figures()["loss"] == pytest.approx((1 + 9 * 3 + 9 * 3) / 19)


def test_an_epoch_of_one_class_has_no_auc_but_goes_on():
    seen = EpochMetrics(np.zeros(2, int))
    seen.add([0, 1], torch.zeros(2, 2))
    seen.add_loss(1.0, 2.0)
    assert math.isnan(seen.figures()["auc"])


def test_the_best_weights_are_kept_or_the_last(npy_cohort, tmp_path):
    config = short(npy_cohort, epochs=3, keep="last")
    train(config, tmp_path / "run", base=npy_cohort)
    card = load_model(tmp_path / "run" / "model")[1]
    assert card.training["epoch"] == 3
    best = load_model(
        train(replace(config, training=replace(config.training, keep="best")), tmp_path / "b", base=npy_cohort)
    )
    with (tmp_path / "b" / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert best[1].training["epoch"] == 1 + int(np.argmin([float(row["val_loss"]) for row in rows]))


def test_training_stops_early_when_validation_stalls(npy_cohort, tmp_path):
    train(short(npy_cohort, epochs=30, lr=1e-9, stop_patience=2), tmp_path / "run", base=npy_cohort)
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) < 20


def test_a_bad_case_is_refused_listed_and_left_out(npy_cohort, tmp_path, caplog):
    lines = (npy_cohort / "cohort.csv").read_text().splitlines()
    table = [lines[0], *(line.replace(",", f",{npy_cohort}/", 1) for line in lines[1:]), "bad,nowhere.nii,0,JONES,5"]
    (tmp_path / "cohort.csv").write_text("\n".join(table) + "\n")
    train(at(short(npy_cohort, epochs=1), tmp_path), tmp_path / "run")
    with (tmp_path / "run" / "refused.csv").open(newline="") as file:
        (refused,) = list(csv.DictReader(file))
    assert refused["case_id"] == "bad"
    assert "no file or folder" in refused["reason"]
    assert refused["row"] == "62"


def test_too_many_bad_cases_are_an_error_and_leave_nothing(npy_cohort, tmp_path):
    rows = [f"c{i},nowhere-{i}.nii,{i % 2},P{i}" for i in range(40)]
    (tmp_path / "cohort.csv").write_text("\n".join(["case_id,path,label,patient_id", *rows]) + "\n")
    with pytest.raises(
        CohortError, match=r"40 of 40 cases are refused, allowed are 10%.*row 2: nowhere-0\.nii: no file or folder"
    ):
        train(at(short(npy_cohort), tmp_path), tmp_path / "run")
    assert [path.name for path in tmp_path.iterdir()] == ["cohort.csv"]


def test_soft_labels_train_and_hard_ones_judge(npy_cohort, tmp_path):
    lines = (npy_cohort / "cohort.csv").read_text().splitlines()
    rows = [lines[0] + ",soft_label", *(f"{line},{0.8 if line.split(',')[2] == '1' else 0.1}" for line in lines[1:])]
    (npy_cohort / "soft.csv").write_text("\n".join(rows) + "\n")
    config = short(npy_cohort)
    cohort = Cohort.read(npy_cohort / "soft.csv", config.cohort)
    prepared = prepare_cohort(cohort, config.recipe, Store(npy_cohort / "store"))
    dataset = CohortDataset(
        prepared, dict.fromkeys((c.case_id for c in cohort.cases), "train"), "train", 2, config.recipe
    )
    assert dataset.targets[:2].tolist() == [[0.9, 0.1], [pytest.approx(0.2), 0.8]]
    assert dataset.labels[:2].tolist() == [0, 1]


def test_the_tutorials_npy_volumes_keep_their_range(npy_cohort, tmp_path):
    config = load(npy_cohort / "config.toml")
    cohort = Cohort.read(npy_cohort / "cohort.csv", config.cohort)
    prepared = prepare_cohort(cohort, config.recipe, Store(tmp_path))
    dataset = CohortDataset(prepared, dict.fromkeys((c.case_id for c in cohort.cases), "val"), "val", 2, config.recipe)
    unit = np.load(npy_cohort / "00.npy")
    low, high = config.recipe.windows_hu[0]
    assert np.abs((dataset[0]["hu"][0].numpy() - low) / (high - low) - unit).max() <= 0.51 / (high - low)


def test_the_model_card_names_no_case_no_patient_and_no_path(npy_cohort, trained_run):
    text = (trained_run / "model" / "model.json").read_text()
    for secret in ("SMITH", "c00", ".npy", str(npy_cohort), "cohort.csv", "patient-"):
        assert secret not in text


def test_patient_ids_are_in_no_file_of_a_run(trained_run):
    for path in trained_run.rglob("*"):
        if path.is_file():
            assert b"SMITH" not in path.read_bytes(), path.name


def test_one_cycle_warms_up_and_anneals():
    shares = [one_cycle(p) for p in np.linspace(0, 1, 101)]
    assert shares[0] == pytest.approx(0.04)
    assert max(shares) == pytest.approx(1)
    assert shares[-1] < 1e-5
    assert np.argmax(shares) == 30


def test_an_unknown_device_is_named(npy_cohort, tmp_path):
    with pytest.raises(ConfigError, match="device must be auto, cpu, cuda, cuda:N or mps, got tpu"):
        train(short(npy_cohort, device="tpu"), tmp_path / "run", base=npy_cohort)


def test_the_threshold_comes_from_validation(trained_run, npy_cohort):
    _, card = load_model(trained_run / "model")
    assert 0 < card.decisions.each[0].threshold < 1
    assert "validation cases" in card.decisions.each[0].rule
    assert set(card.training["counts"]) == {"train", "val", "test"}


def test_settings_that_make_no_sense_are_named():
    with pytest.raises(ConfigError, match=r"training\.epochs must be at least 1, got 0"):
        TrainingConfig(epochs=0)
    with pytest.raises(ConfigError, match=r"split\.fold must be at least 0 and below split\.folds, got 5"):
        SplitConfig(folds=5, fold=5)


def test_an_auc_of_zero_is_not_hidden():
    assert roc_auc(np.array([0, 1]), np.array([0.9, 0.1])) == 0.0


def test_a_resumed_run_keeps_its_split_and_refuses_a_table_that_has_changed(npy_cohort, tmp_path):
    """A new draw would move cases from the training part to the test part."""
    shutil.copytree(npy_cohort, tmp_path / "c", ignore=shutil.ignore_patterns("run", "store"))
    train(at(short(npy_cohort, epochs=1), tmp_path / "c"), tmp_path / "run")
    splits = (tmp_path / "run" / "splits.csv").read_bytes()
    table = tmp_path / "c" / "cohort.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-4]) + "\n")
    with pytest.raises(CohortError, match=r"must hold the cases that .* was begun with; 4 were added or removed"):
        train(short(npy_cohort), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "splits.csv").read_bytes() == splits


def test_resuming_a_run_that_stopped_early_adds_no_epoch(npy_cohort, tmp_path):
    train(short(npy_cohort, epochs=30, lr=1e-9, stop_patience=2), tmp_path / "run", base=npy_cohort)
    before = (tmp_path / "run" / "metrics.csv").read_bytes()
    train(short(npy_cohort), tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "metrics.csv").read_bytes() == before


@pytest.mark.parametrize("change", [{"device": "cpu:3"}, {"device": "cuda:9"}, {"lr": 1e30, "clip_norm": 1e30}])
def test_a_run_that_fails_before_its_first_epoch_leaves_nothing_behind(npy_cohort, tmp_path, change):
    with pytest.raises((ConfigError, TrainingError)):
        train(short(npy_cohort, **change), tmp_path / "run", base=npy_cohort)
    assert list(tmp_path.iterdir()) == []


def test_a_class_lost_to_refusals_is_said_before_training(npy_cohort, tmp_path):
    shutil.copytree(npy_cohort, tmp_path / "c", ignore=shutil.ignore_patterns("run", "store"))
    config = short(npy_cohort)
    cohort = Cohort.read(tmp_path / "c" / "cohort.csv", config.cohort)
    parts = split(cohort, config.split)
    for case in cohort.cases:
        if parts[case.case_id] == "val" and case.label == 1:
            case.path.write_bytes(b"broken")
    config = replace(config, cohort=replace(config.cohort, max_refused=0.5))
    with pytest.raises(CohortError, match="no case of class '1' is left in val"):
        train(at(config, tmp_path / "c"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_demand_that_validation_cannot_meet_costs_no_training(npy_cohort, tmp_path, caplog):
    config = short(npy_cohort, epochs=1, lr=1e-9, norm_statistics="running")
    config = replace(config, decision=DecisionConfig(rule="sensitivity", at=0.999))
    _, card = load_model(train(config, tmp_path / "run", base=npy_cohort))
    (decision,) = card.decisions.each
    assert 0 <= decision.threshold <= 1
    assert decision.rule.startswith("largest sensitivity + specificity (Youden)")
    assert "the threshold is that of largest sensitivity + specificity" in caplog.text


def test_a_reason_for_refusal_names_the_scan_relative_to_the_table(npy_cohort, tmp_path):
    shutil.copytree(npy_cohort, tmp_path / "c", ignore=shutil.ignore_patterns("run", "store"))
    (tmp_path / "c" / "07.npy").write_bytes(b"broken")
    train(at(short(npy_cohort, epochs=1), tmp_path / "c"), tmp_path / "run")
    text = (tmp_path / "run" / "refused.csv").read_text()
    assert "07.npy: is not a plain .npy array" in text
    assert str(tmp_path) not in text
