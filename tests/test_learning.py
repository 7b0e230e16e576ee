"""Tests of what changes how a network learns: averaged weights, statistics, optimizers, schedules, votes, measures."""

import csv
import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from hilum import Predictor, evaluate, train
from hilum.cli import main
from hilum.cohorts.auxiliary_targets import Auxiliary
from hilum.cohorts.dataset import CohortDataset, SplitCohort
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.split_file import read_splits
from hilum.cohorts.splits import split
from hilum.cohorts.table import Cohort
from hilum.deciding.model_folder import load_model, read_card
from hilum.errors import CohortError, ConfigError
from hilum.measuring.metrics import average_precision
from hilum.modelling.input import model_input
from hilum.modelling.losses import WeightedCrossEntropyLoss
from hilum.modelling.measures import NoduleMeasures
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.speed import PLAIN, for_prediction
from hilum.preparing import Store
from hilum.settings.run import CohortConfig, ColumnsConfig, SplitConfig, TrainingConfig
from hilum.settings.toml import load
from hilum.training.auxiliary import AuxiliaryHead
from hilum.training.epoch_metrics import EpochMetrics
from hilum.training.folds import train_folds
from hilum.training.kept_weights import KeptWeights, plain_batches
from hilum.training.optimizer import make_optimizer
from hilum.training.part_loader import PartLoader
from hilum.training.schedule import Schedule, warmed_cosine


def config_of(folder, **sections):
    config = load(folder / "config.toml")
    changes = {"training": {"epochs": 2}} | sections
    return replace(config, **{name: replace(getattr(config, name), **values) for name, values in changes.items()})


def dataset_of(folder, config):
    """The training cases of a config."""
    cohort = Cohort.read(folder / "cohort.csv", config.cohort)
    prepared = prepare_cohort(cohort, config.recipe, Store(folder / "store"))
    data = SplitCohort(cohort=cohort, prepared=prepared, parts=split(cohort, config.split))
    return data.dataset("train", config.recipe)


# the weights that are kept


@pytest.mark.parametrize(("steps_per_epoch", "every"), [(3, 1), (14, 3)])
def test_averaged_weights_are_a_mean_at_first_and_then_an_exponential_one(npy_cohort, steps_per_epoch, every):
    config = config_of(npy_cohort, training={"ema_epochs": 2.0})
    network = ResNet3D(10, width=4, stem="small")
    kept = KeptWeights(network, config, dataset_of(npy_cohort, config), steps_per_epoch=steps_per_epoch)
    decay, expected, so_far = math.exp(-every / (2 * steps_per_epoch)), math.nan, []
    for n in range(10 * steps_per_epoch):
        now, step = float(n % 7), n % steps_per_epoch + 1
        with torch.no_grad():
            network.fc.weight.fill_(now)
        kept.after_step(step)
        if (steps_per_epoch - step) % every == 0:
            so_far.append(now)
            is_mean = 1 / len(so_far) > 1 - decay
            expected = np.mean(so_far) if is_mean else decay * expected + (1 - decay) * now
        if so_far:
            assert float(kept.network.fc.weight.detach()[0, 0]) == pytest.approx(expected, rel=1e-5)
    assert torch.all(network.fc.weight == now), "the weights in training are left alone"


def test_the_average_takes_in_the_last_step_of_an_epoch_and_costs_eight_updates_in_its_span(npy_cohort):
    config = config_of(npy_cohort, training={"ema_epochs": 2.0})
    network = ResNet3D(10, width=4, stem="small")
    kept = KeptWeights(network, config, dataset_of(npy_cohort, config), steps_per_epoch=50)
    counts = []
    for step in range(1, 51):
        kept.after_step(step)
        counts.append(int(kept.averaged.n_averaged))
    assert counts[-1] == 5
    assert counts[-2] == 4


def test_statistics_are_the_means_of_the_batches_of_training_cases_for_the_kept_weights(npy_cohort):
    config = config_of(npy_cohort)
    dataset = dataset_of(npy_cohort, config)
    network = ResNet3D(10, width=4, stem="small")
    network.bn1.running_mean.fill_(1e3)
    kept = KeptWeights(network, config, dataset, steps_per_epoch=3)
    kept.after_epoch()
    sums = []
    for hu in plain_batches(dataset, config, torch.device("cpu")):
        x = network.conv1(model_input(hu, config.recipe.windows))
        sums.append((x.mean(dim=(0, 2, 3, 4)), x.var(dim=(0, 2, 3, 4))))
    mean, var = (torch.stack(one).mean(dim=0) for one in zip(*sums, strict=True))
    assert torch.allclose(kept.network.bn1.running_mean, mean, atol=1e-5)
    assert torch.allclose(kept.network.bn1.running_var, var, rtol=1e-4)
    assert float(network.bn1.running_mean[0]) == 1e3, "the network in training keeps its own"
    assert not kept.network.training
    assert all(one.momentum == 0.1 for one in kept.network.modules() if isinstance(one, nn.BatchNorm3d))


def test_running_statistics_are_kept_where_set_so_and_those_of_frozen_parts_always(npy_cohort):
    dataset = dataset_of(npy_cohort, config_of(npy_cohort))
    network = ResNet3D(10, width=4, stem="small")
    network.bn1.running_mean.fill_(7.0)
    network.layer1[0].bn1.running_mean.fill_(7.0)
    for statistics, frozen, changed in (
        ("running", False, False),
        ("recomputed", True, False),
        ("recomputed", False, True),
    ):
        network.conv1.requires_grad_(not frozen)
        network.bn1.requires_grad_(not frozen)
        config = config_of(npy_cohort, training={"norm_statistics": statistics})
        kept = KeptWeights(network, config, dataset, 3)
        kept.after_epoch()
        assert bool(torch.any(kept.network.bn1.running_mean != 7.0)) is changed
        assert bool(torch.any(kept.network.layer1[0].bn1.running_mean != 7.0)) is (statistics == "recomputed")


@pytest.mark.parametrize("keep_by", ["loss", "auc", "average_precision", "balanced_accuracy"])
def test_the_epoch_that_is_kept_is_the_best_by_its_figure(npy_cohort, tmp_path, keep_by):
    config = config_of(npy_cohort, training={"epochs": 4, "keep_by": keep_by, "lr": 0.02})
    card = read_card(train(config, tmp_path / "run", base=npy_cohort))
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        values = [float(row[f"val_{keep_by}"]) for row in csv.DictReader(file)]
    best = min(values) if keep_by == "loss" else max(values)
    assert card.training["epoch"] == values.index(best) + 1


def test_the_figures_of_an_epoch_are_those_of_scikit_learn():
    from sklearn.metrics import balanced_accuracy_score

    random = np.random.default_rng(0)
    labels, logits = random.integers(0, 3, 60), torch.from_numpy(random.normal(size=(60, 3))).float()
    metrics = EpochMetrics(labels)
    metrics.add(list(range(60)), logits)
    metrics.add_loss(1.0, 1.0)
    figures = metrics.figures()
    assert figures["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, logits.argmax(1)))
    probs = logits.double().softmax(1).numpy()
    each = [average_precision((labels == k).astype(int), probs[:, k]) for k in range(3)]
    assert figures["average_precision"] == pytest.approx(np.mean(each))


def test_the_state_of_an_epochs_figures_comes_back_exactly():
    random = np.random.default_rng(1)
    labels = random.integers(0, 2, 20)
    whole, first = EpochMetrics(labels), EpochMetrics(labels)
    logits = torch.from_numpy(random.normal(size=(20, 2))).float()
    for start in range(0, 20, 5):
        for one in (whole, first) if start < 10 else (whole,):
            one.add(list(range(start, start + 5)), logits[start : start + 5])
            one.add_loss(0.1 * start, 5.0)
    again = EpochMetrics.of_state(labels, np.ones(20, bool), *first.as_state())
    for start in (10, 15):
        again.add(list(range(start, start + 5)), logits[start : start + 5])
        again.add_loss(0.1 * start, 5.0)
    assert again.figures() == whole.figures()


# optimizer, schedule, smoothing


def test_sgd_is_nesterovs_and_takes_its_rate_and_decay():
    network = ResNet3D(10, width=4)
    settings = TrainingConfig(optimizer="sgd", lr=0.05, weight_decay=5e-4, momentum=0.8)
    optimizer = make_optimizer(settings, network, torch.device("cpu"))
    assert isinstance(optimizer, torch.optim.SGD)
    group = optimizer.param_groups[0]
    assert (group["lr"], group["momentum"], group["nesterov"], group["weight_decay"]) == (0.05, 0.8, True, 5e-4)


@given(st.floats(0, 1), st.floats(0, 0.9))
def test_the_warmed_cosine_rises_to_the_highest_rate_and_falls_to_nothing(progress, warm_up):
    share = warmed_cosine(progress, warm_up)
    assert 0 <= share <= 1
    assert warmed_cosine(1.0, warm_up) == pytest.approx(0, abs=1e-12)
    assert warmed_cosine(warm_up, warm_up) == pytest.approx(1)
    later = (1 + progress) / 2
    if later <= warm_up:
        assert share <= warmed_cosine(later, warm_up)
    if progress >= warm_up:
        assert share >= warmed_cosine(later, warm_up)


def test_the_cosine_schedule_is_pytorchs_behind_a_line():
    """LinearLR and CosineAnnealingLR one after the other, at the same steps."""
    network = nn.Linear(2, 2)
    steps, warm = 100, 20
    config = TrainingConfig(schedule="cosine", warm_up=0.2, epochs=10, lr=0.1)
    schedule = Schedule(config, torch.optim.SGD(network.parameters(), lr=0.1), steps_per_epoch=10)
    rates = []
    for step in range(steps):
        schedule.before_step(step)
        rates.append(schedule.lr)
    assert rates[0] > 0
    assert rates[-1] > 0
    assert rates == sorted(rates[: np.argmax(rates)]) + sorted(rates[np.argmax(rates) :], reverse=True)
    assert max(rates) == pytest.approx(0.1, rel=0.01)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=steps + 1 - warm)
    expected = [optimizer.param_groups[0]["lr"]]
    for _ in range(steps - warm - 1):
        optimizer.step()
        cosine.step()
        expected.append(optimizer.param_groups[0]["lr"])
    assert np.allclose(rates[warm:], expected, atol=2e-3)


def test_smoothed_labels_are_pytorchs_in_training_and_plain_in_evaluation():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    ours = WeightedCrossEntropyLoss(smoothing=0.2)
    assert torch.allclose(ours(logits, labels), nn.functional.cross_entropy(logits, labels, label_smoothing=0.2))
    assert torch.allclose(ours.eval()(logits, labels), nn.functional.cross_entropy(logits, labels))
    present = torch.tensor([[1.0, 0.0, 1.0]] * 6)
    of_labels = WeightedCrossEntropyLoss(smoothing=0.2, multi_label=True)(logits, present)
    theirs = nn.functional.binary_cross_entropy_with_logits(logits, 0.8 * present + 0.1)
    assert torch.allclose(of_labels, theirs)


def test_a_smoothed_case_keeps_the_weight_of_its_own_class():
    """Where 1 in 20 is positive and weighs 19 times as much, the least loss of a case known by heart is at 0.05."""
    logits = torch.zeros(20, 2, requires_grad=True)
    labels = torch.tensor([1] + [0] * 19)
    loss = WeightedCrossEntropyLoss(torch.tensor([1.0, 19.0]), smoothing=0.1)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        value = loss(logits, labels)
        value.backward()
        return value

    optimizer.step(closure)
    probs = logits.softmax(dim=1)[:, 1]
    assert torch.allclose(probs, torch.tensor([0.95] + [0.05] * 19), atol=2e-3)


def test_the_validation_loss_is_of_the_labels_as_they_are(npy_cohort, tmp_path):
    """metrics.csv against the probabilities of the kept network, by PyTorch's weighted cross entropy."""
    sections = {"training": {"epochs": 1, "keep": "last"}, "loss": {"label_smoothing": 0.4}}
    config = config_of(npy_cohort, decision={"calibration": "none"}, speed={"precision": "fp32"}, **sections)
    train(config, tmp_path / "run", base=npy_cohort)
    with (tmp_path / "run" / "metrics.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    cases = Cohort.read(npy_cohort / "cohort.csv", config.cohort).labelled
    val, learned = ([case for case in cases if parts[case.case_id] == part] for part in ("val", "train"))
    predictor = Predictor(tmp_path / "run")
    probs = [predictor.predict(case.path).probabilities for case in val]
    logits = torch.tensor([[math.log(one["0"]), math.log(one["1"])] for one in probs])
    counts = torch.bincount(torch.tensor([int(case.label) for case in learned]))
    labels = torch.tensor([int(case.label) for case in val])
    expected = nn.functional.cross_entropy(logits, labels, weight=1 / counts.to(logits))
    assert float(row["val_loss"]) == pytest.approx(float(expected), rel=1e-4)


# votes


def test_a_share_weighed_by_its_readers_is_the_likelihood_of_their_votes():
    """The gradient of three soft cases is that of their ten single votes."""
    logits = torch.randn(3, 2, requires_grad=True)
    votes = [[1, 1, 0, 1], [0, 0, 0], [1, 0, 1]]
    shares = torch.tensor([sum(v) / len(v) for v in votes])
    number = torch.tensor([float(len(v)) for v in votes])
    loss = WeightedCrossEntropyLoss()
    soft = loss(logits, torch.stack([1 - shares, shares], dim=1), number)
    (ours,) = torch.autograd.grad(soft, logits)
    of = torch.tensor([i for i, v in enumerate(votes) for _ in v])
    single = loss(logits[of], torch.tensor([one for v in votes for one in v]))
    (theirs,) = torch.autograd.grad(single, logits)
    assert torch.allclose(ours, theirs, atol=1e-6)
    assert torch.allclose(soft, single)


def votes_table(folder, out):
    """The cohort with shares, readers and ties: every seventh case, and both cases of two patients of their own."""
    lines = (folder / "cohort.csv").read_text().splitlines()
    rows = [f"{lines[0]},share,readers"]
    for i, line in enumerate(lines[1:]):
        case_id, path, label, patient, size = line.split(",")
        tied = i % 7 == 3 or patient in ("SMITH-2", "SMITH-5")
        share = 0.5 if tied else (0.75 if label == "1" else 0.25)
        rows.append(f"{case_id},{folder / path},{'' if tied else label},{patient},{size},{share},{2 if tied else 4}")
    out.write_text("\n".join(rows) + "\n")
    return CohortConfig(
        table=str(out),
        columns=ColumnsConfig(soft_label="share", num_readers="readers"),
        unlabelled="train",
    )


def test_ties_change_no_fold_follow_their_patient_and_are_in_no_other_fold(npy_cohort, tmp_path):
    config = votes_table(npy_cohort, tmp_path / "votes.csv")
    both = Cohort.read(config.table, config)
    without = Cohort.read(config.table, replace(config, unlabelled="drop"))
    assert len(both.cases) == 60
    ties = {case.case_id for case in both.cases} - {case.case_id for case in without.cases}
    assert ties == {case.case_id for case in both.cases if case.label is None}
    tested = []
    for fold in range(3):
        folds = SplitConfig(folds=3, fold=fold)
        all_parts, parts = split(both, folds), split(without, folds)
        assert {case_id: all_parts[case_id] for case_id in parts} == parts
        by_patient = {}
        for case in both.cases:
            by_patient.setdefault(case.patient_id, set()).add(all_parts[case.case_id])
        assert all(len(found) == 1 for found in by_patient.values())
        tested += [case.case_id for case in both.cases if all_parts[case.case_id] == "test"]
    assert sorted(tested) == sorted(case.case_id for case in both.cases), "each is tested, or predicted, once"


def test_ties_are_trained_on_and_never_judged(npy_cohort, tmp_path):
    config = replace(config_of(npy_cohort), cohort=votes_table(npy_cohort, tmp_path / "votes.csv"))
    assert {case.weight for case in Cohort.read(config.cohort.table, config.cohort).cases} == {2.0, 4.0}
    train(config, tmp_path / "run", base=npy_cohort)
    with_ties = dataset_with(config, tmp_path)
    assert any(case.label is None for case in with_ties)
    answer = evaluate(tmp_path / "run")
    judged = (tmp_path / "run" / "evaluation" / "cases.csv").read_text()
    ties = {case.case_id for case in Cohort.read(config.cohort.table, config.cohort).cases if case.label is None}
    assert not any(f"\n{case_id}," in judged for case_id in ties)
    assert answer["cohort"]["table_one"]["parts"]["test"]["num_cases"] == answer["num_cases"] > 0


def test_ties_of_a_run_of_folds_are_predicted_out_of_fold_and_never_judged(npy_cohort, tmp_path):
    import csv

    config = replace(config_of(npy_cohort), cohort=votes_table(npy_cohort, tmp_path / "votes.csv"))
    train_folds(config, tmp_path / "run", folds=3, base=npy_cohort)
    with (tmp_path / "run" / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 60
    answer, num_labelled = evaluate(tmp_path / "run"), sum(row["label"] != "" for row in rows)
    assert answer["num_cases"] == num_labelled < 60
    assert answer["cohort"]["table_one"]["parts"]["test"]["num_cases"] == num_labelled
    assert answer["cohort"]["num_unlabelled"] == 60 - num_labelled


def test_ties_count_in_no_statistics_of_the_classes(npy_cohort, tmp_path):
    """Neither in class weights and calibration nor in the figures of an epoch: they are of no class."""
    config = replace(config_of(npy_cohort), cohort=votes_table(npy_cohort, tmp_path / "votes.csv"))
    cohort = Cohort.read(config.cohort.table, config.cohort)
    prepared = prepare_cohort(cohort, config.recipe, Store(tmp_path / "store"))
    parts = split(cohort, config.split)
    part = PartLoader(CohortDataset(prepared, parts, "train", 2, config.recipe), config, seed=0)
    known = [case.label for case in cohort.cases if parts[case.case_id] == "train" and case.label is not None]
    assert len(part.dataset) > len(known)
    assert part.cases_of(1).labels.tolist() == known
    metrics = EpochMetrics(part.dataset.labels, part.dataset.is_labelled)
    right = np.where(part.dataset.is_labelled, part.dataset.labels, 1 - part.dataset.labels)
    metrics.add(list(range(len(right))), torch.eye(2)[torch.from_numpy(right)])
    metrics.add_loss(1.0, 1.0)
    assert metrics.figures()["accuracy"] == 1.0


def dataset_with(config, tmp_path):
    from hilum.cohorts.split_file import read_splits

    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    return [case for case in Cohort.read(config.cohort.table, config.cohort).cases if parts[case.case_id] == "train"]


def test_rows_without_any_label_are_dropped_and_a_missing_column_is_named(npy_cohort, tmp_path):
    config = votes_table(npy_cohort, tmp_path / "votes.csv")
    text = (tmp_path / "votes.csv").read_text().splitlines()
    text[4] = ",".join(["", *text[4].split(",")[1:5], "", "2"]).replace(",", f"{text[4].split(',')[0]},", 1)
    (tmp_path / "votes.csv").write_text("\n".join(text) + "\n")
    cohort = Cohort.read(config.table, config)
    assert (len(cohort.cases), cohort.num_unlabelled) == (59, 1)
    with pytest.raises(CohortError, match="there must be a column 'soft_label' of soft labels"):
        Cohort.read(config.table, replace(config, columns=ColumnsConfig()))


# auxiliary targets


def test_auxiliary_targets_are_learned_and_nothing_of_them_is_in_the_model(npy_cohort, tmp_path):
    table = tmp_path / "aux.csv"
    lines = (npy_cohort / "cohort.csv").read_text().splitlines()
    rows = [f"{lines[0]},texture"]
    for i, line in enumerate(lines[1:]):
        case_id, path, *rest = line.split(",")
        rows.append(",".join([case_id, str(npy_cohort / path), *rest, ("solid", "part", "", "ground")[i % 4]]))
    table.write_text("\n".join(rows) + "\n")
    columns = ColumnsConfig(auxiliary=("diameter_mm", "texture"))
    cohort = CohortConfig(table=str(table), columns=columns)
    found = Cohort.read(table, cohort)
    assert found.auxiliary == (
        Auxiliary(name="diameter_mm"),
        Auxiliary(name="texture", classes=("ground", "part", "solid")),
    )
    assert found.cases[0].auxiliary == (5.0, 2.0)
    assert math.isnan(found.cases[2].auxiliary[1])
    assert found.cases[0].groups["texture"] == "solid", "it still describes the case"
    train(replace(config_of(npy_cohort), cohort=cohort), tmp_path / "run", base=npy_cohort)
    train(config_of(npy_cohort), tmp_path / "plain", base=npy_cohort)
    with_aux, without = (load_model(tmp_path / name)[0].state_dict() for name in ("run", "plain"))
    assert {n: t.shape for n, t in with_aux.items()} == {n: t.shape for n, t in without.items()}
    assert any(not torch.equal(with_aux[n], without[n]) for n in with_aux)
    assert "texture" not in json.dumps(read_card(tmp_path / "run").training.get("counts"))
    assert Predictor(tmp_path / "run").predict(npy_cohort / "01.npy").decision in ("0", "1")
    assert main(["evaluate", str(tmp_path / "run"), "--out", str(tmp_path / "e")]) == 0


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ([*map(str, range(59)), "inf"], "must hold numbers alone or classes alone, got 'inf' among numbers"),
        ([*map(str, range(59)), ">30"], "got '>30' among numbers"),
        ([f"remark {k % 40}" for k in range(60)], "must hold classes that cases share, got 40 in 60 cells"),
    ],
)
def test_a_column_that_is_neither_numbers_nor_classes_is_not_learned(npy_cohort, tmp_path, values, says):
    lines = (npy_cohort / "cohort.csv").read_text().splitlines()
    rows = [f"{lines[0]},extra", *(f"{line},{value}" for line, value in zip(lines[1:], values, strict=True))]
    (tmp_path / "cohort.csv").write_text("\n".join(rows) + "\n")
    with pytest.raises(CohortError, match=re.escape(says)):
        Cohort.read(tmp_path / "cohort.csv", CohortConfig(columns=ColumnsConfig(auxiliary=("extra",))))


def test_the_loss_of_the_head_is_pytorchs_over_the_values_that_are_there():
    values = np.array([[1.0, 0.0], [3.0, np.nan], [np.nan, 2.0], [5.0, 1.0]])
    targets = (Auxiliary(name="a"), Auxiliary(name="b", classes=("x", "y", "z")))
    head = AuxiliaryHead(targets, 6, values)
    assert float(head.mean[0]) == pytest.approx(3.0)
    assert float(head.scale[0]) == pytest.approx(np.std([1, 3, 5]))
    outputs = torch.randn(4, 4)
    number = nn.functional.smooth_l1_loss(outputs[[0, 1, 3], 0], (torch.tensor([1.0, 3.0, 5.0]) - 3) / head.scale[0])
    classes = nn.functional.cross_entropy(outputs[[0, 2, 3], 1:], torch.tensor([0, 2, 1]))
    assert torch.allclose(head.loss(outputs, torch.from_numpy(values).float()), (number + classes) / 2)
    nothing = torch.full((4, 2), torch.nan)
    assert float(head.loss(outputs, nothing)) == 0


@pytest.mark.parametrize(("column", "says"), [
    ("label", "columns that hold nothing else"),
    ("missing", "there must be a column 'missing' for auxiliary"),
    ("same", "must hold two values or more to be learned, got x"),
    ("names", "must hold numbers, or at most 50 classes, got 60"),
])  # fmt: skip
def test_columns_that_cannot_be_learned_are_named(npy_cohort, tmp_path, column, says):
    lines = (npy_cohort / "cohort.csv").read_text().splitlines()
    rows = [f"{lines[0]},same,names", *(f"{line},x,name {i}" for i, line in enumerate(lines[1:]))]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    if column == "label":
        with pytest.raises(ConfigError, match=says):
            CohortConfig(columns=ColumnsConfig(labels=("label", "x"), auxiliary=("label",)))
        return
    with pytest.raises(CohortError, match=says):
        Cohort.read(tmp_path / "t.csv", CohortConfig(columns=ColumnsConfig(auxiliary=(column,))))


@pytest.mark.parametrize(("sections", "says"), [
    ({"augment": {"mixup": 0.5}, "aux": True}, "columns.auxiliary must be empty with augment.mixup and cutmix"),
    ({"model": {"measures": "nodule"}}, "model.measures must be none unless recipe.region is point"),
    ({"loss": {"label_smoothing": 0.2}, "decision": {"calibration": "prior"}}, "with loss.label_smoothing = 0.2,"),
    ({"training": {"warm_up": 1.0}}, "training.warm_up must be at least 0 and below 1"),
    ({"training": {"ema_epochs": -1.0}}, "training.ema_epochs must be at least 0"),
    ({"training": {"checkpoint_minutes": 0.0}}, "training.checkpoint_minutes must be positive"),
])  # fmt: skip
def test_settings_that_make_no_sense_together_are_named(npy_cohort, tmp_path, sections, says):
    def trained():
        given = {name: values for name, values in sections.items() if name != "aux"}
        config = config_of(npy_cohort, **given)
        if "aux" in sections:
            columns = replace(config.cohort.columns, auxiliary=("diameter_mm",))
            config = replace(config, cohort=replace(config.cohort, columns=columns))
        train(config, tmp_path / "run", base=npy_cohort)

    with pytest.raises(ConfigError, match=says):
        trained()
    assert not (tmp_path / "run").exists()


# measures of a nodule


def disc(radius_mm, *, size=(4, 40, 40), step=(1.25, 0.64, 0.64), blur=0.5, wall=None):
    """A bright disc in a dark lung, as the network's input, with the chest wall beyond a distance."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(size, step, strict=True)]
    _, y, x = np.meshgrid(*axes, indexing="ij")
    distance = np.hypot(y, x)
    image = 0.15 + 0.55 / (1 + np.exp((distance - radius_mm) / (blur / 2)))
    if wall is not None:
        image = np.maximum(image, 0.7 * (x > wall))
    return torch.from_numpy(image).float()[None, None]


@given(st.floats(2.5, 10.0))
def test_the_measured_diameter_is_that_of_the_disc(radius):
    measures = NoduleMeasures((4, 40, 40), (1.25, 0.64, 0.64))
    found = float(measures.measured(disc(radius))[0, 0])
    assert found == pytest.approx(2 * radius, abs=1.0)


@pytest.mark.parametrize("step", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("radius", [4.0, 6.0, 9.0])
def test_coarse_voxels_do_not_shrink_the_measured_diameter(step, radius):
    size = (4, *(2 * round(16 / step),) * 2)
    measures = NoduleMeasures(size, (1.25, step, step))
    found = float(measures.measured(disc(radius, size=size, step=(1.25, step, step)))[0, 0])
    assert found == pytest.approx(2 * radius, abs=step)


def test_a_grid_without_rings_is_refused():
    with pytest.raises(ConfigError, match=r"the grid of model.measures must be at least 2 mm wide"):
        NoduleMeasures((1, 2, 2), (4.0, 4.0, 4.0))


def test_prediction_in_bf16_measures_in_full_precision():
    measures = NoduleMeasures((4, 24, 24), (1.25, 1.0, 1.0))
    measures.fit(measures.measured(torch.rand(50, 1, 4, 24, 24)))
    network = ResNet3D(10, width=4, stem="small", measures=measures).eval()
    fast = for_prediction(network, replace(PLAIN, precision="bf16"))
    x = torch.rand(2, 1, 4, 24, 24)
    assert torch.equal(fast.measured(x), network.measured(x))
    assert torch.allclose(fast(x).float(), network(x), atol=0.1)


@given(st.floats(2.5, 7.0))
def test_the_chest_wall_beside_a_nodule_hardly_changes_its_diameter(radius):
    measures = NoduleMeasures((4, 40, 40), (1.25, 0.64, 0.64))
    alone, beside = (float(measures.measured(disc(radius, wall=wall))[0, 0]) for wall in (None, 9.5))
    assert beside == pytest.approx(alone, rel=0.25)


def test_measures_do_not_change_with_flips_and_quarter_turns():
    measures = NoduleMeasures((4, 40, 40), (1.25, 0.64, 0.64))
    x = torch.rand(2, 1, 4, 40, 40)
    for turned in (x.flip(2), x.flip(3), x.flip(4), x.transpose(3, 4)):
        assert torch.allclose(measures.measured(turned), measures.measured(x), atol=1e-4)


def test_measures_are_standardised_by_the_training_cases_and_travel_with_the_weights(tmp_path):
    measures = NoduleMeasures((4, 24, 24), (1.25, 1.0, 1.0))
    seen = measures.measured(torch.rand(50, 1, 4, 24, 24))
    measures.fit(seen)
    standard = (seen - measures.mean) / measures.scale
    assert torch.allclose(standard.mean(0), torch.zeros(seen.shape[1]), atol=1e-3)
    network = ResNet3D(10, width=4, stem="small", measures=measures).eval()
    assert network.fc.in_features == 8 * 4 + measures.num_measures
    other = ResNet3D(10, width=4, stem="small", measures=NoduleMeasures((4, 24, 24), (1.25, 1.0, 1.0))).eval()
    other.load_state_dict(network.state_dict())
    x = torch.rand(3, 1, 4, 24, 24)
    assert torch.equal(network(x), other(x))
    features = network.forward_head(network.forward_features(x), network.measured(x), pre_logits=True)
    assert torch.equal(network.logits_of(features), network(x))
