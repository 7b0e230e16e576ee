"""Training that begins with weights from a file: frozen parts, rates by stage, and what the run says about it."""

import json
import logging
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from hilum.errors import CheckpointError, ConfigError, TrainingError
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.weights.freezing import freeze, parts, train_what_learns
from hilum.modelling.weights.matching import load_weights
from hilum.settings.run import TrainingConfig
from hilum.settings.toml import load
from hilum.training.optimizer import make_optimizer
from hilum.training.schedule import Schedule
from hilum.training.train import train

CPU = torch.device("cpu")


def small():
    torch.manual_seed(0)
    return ResNet3D(10, width=4, stem="small")


@pytest.fixture
def weights(npy_cohort):
    """Weights of another training, beside the config, of three classes."""
    torch.manual_seed(5)
    network = ResNet3D(10, width=4, stem="small", num_classes=3)
    torch.save(network.state_dict(), npy_cohort / "other.pth")
    return network


def short(npy_cohort, **training):
    config = load(npy_cohort / "config.toml")
    return replace(config, training=replace(config.training, **({"epochs": 2, "weights": "other.pth"} | training)))


def model_of(run):
    return load_file(run / "model" / "weights.safetensors")


def part_of(name):
    return {"conv1": 0, "bn1": 0, "avgpool": 5, "fc": 5}.get(name.split(".")[0]) or int(
        name[5] if name.startswith("layer") else 0
    )


def test_the_parts_are_the_stem_the_stages_and_the_head_and_nothing_is_left_out():
    network = ResNet3D(10, width=4, pooling="attention", squeeze_excite=True)
    listed = [p for part in parts(network) for p in part.parameters()]
    assert [id(p) for p in listed] == [id(p) for p in network.parameters()]
    assert len(parts(network)) == 6


@pytest.mark.parametrize("number", range(6))
def test_frozen_parts_stay_bit_for_bit_their_running_statistics_too_and_the_others_learn(number):
    network = small()
    freeze(network, number)
    optimizer = make_optimizer(TrainingConfig(), network, CPU)
    before = {name: t.clone() for name, t in network.state_dict().items()}
    network.eval()
    train_what_learns(network)
    network(torch.rand(3, 1, 12, 12, 12)).square().sum().backward()
    optimizer.step()
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]) == (part_of(name) < number), name


def test_each_part_learns_at_the_next_ones_rate_times_the_decay():
    network = small()
    freeze(network, 1)
    groups = make_optimizer(TrainingConfig(lr=0.1, lr_decay=0.5), network, CPU).param_groups
    assert [group["lr"] for group in groups] == pytest.approx([0.1 / 16, 0.1 / 8, 0.1 / 4, 0.1 / 2, 0.1])
    assert [id(p) for group in groups for p in group["params"]] == [id(p) for p in list(network.parameters())[3:]]


@pytest.mark.parametrize("schedule", ["one-cycle", "plateau"])
def test_the_schedule_keeps_the_rates_in_proportion_and_shows_the_heads(schedule):
    settings = TrainingConfig(lr=0.1, lr_decay=0.5, schedule=schedule, epochs=4, plateau_patience=1)
    plan = Schedule(settings, make_optimizer(settings, small(), CPU), 10)
    seen = set()
    for step in range(40):
        plan.before_step(step)
        rates = [group["lr"] for group in plan.optimizer.param_groups]
        assert rates == pytest.approx([rates[-1] / 2**below for below in (5, 4, 3, 2, 1, 0)])
        assert plan.lr == rates[-1]
        seen.add(rates[-1])
        if step % 10 == 9:
            plan.after_epoch(1.0)
    assert len(seen) > 1
    assert max(seen) == pytest.approx(0.1, rel=1e-2)


@pytest.mark.parametrize("kind", ["adam", "adamw"])
def test_the_fused_step_is_the_plain_one(kind):
    networks = [small(), small()]
    for network, device in zip(networks, ("cpu", "meta"), strict=True):  # for any other device it is not fused
        optimizer = make_optimizer(TrainingConfig(optimizer=kind), network, torch.device(device))
        assert bool(optimizer.param_groups[0]["fused"]) == (device == "cpu")
        for step in range(3):
            optimizer.zero_grad()
            network(torch.rand(3, 1, 12, 12, 12, generator=torch.Generator().manual_seed(step))).sum().backward()
            optimizer.step()
    for first, second in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.allclose(first, second, atol=1e-5)


# whole runs


def test_a_run_begins_with_the_weights_and_says_so_in_its_log_and_its_card(npy_cohort, weights, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    train(short(npy_cohort, epochs=1, freeze=5), tmp_path / "run", base=npy_cohort)
    assert "weights of the tutorial or Hilum, a ResNet-10 of width 4, shortcut B" in caplog.text
    assert "skipped fc.weight, fc.bias: of 3 classes, this network has 2" in caplog.text
    model = model_of(tmp_path / "run")
    theirs = weights.state_dict()
    assert all(torch.equal(model[name], theirs[name]) for name in theirs if not name.startswith("fc."))
    text = (tmp_path / "run" / "model" / "model.json").read_text()
    said = json.loads(text)["training"]["weights"]
    assert said["source"] == "the tutorial or Hilum"
    assert (said["skipped"], said["missing"]) == (2, 2)
    assert said["matched"] == len([n for n in theirs if "num_batches" not in n]) - 2
    assert "other.pth" not in text


def test_the_paths_of_weights_are_relative_to_the_config_and_then_to_the_run(npy_cohort, weights, tmp_path):
    train(short(npy_cohort, epochs=1), tmp_path / "run", base=npy_cohort)
    again = load(tmp_path / "run" / "config.toml").training.weights
    assert (tmp_path / "run" / again).resolve() == (npy_cohort / "other.pth").resolve()


@pytest.mark.parametrize("schedule", ["plateau", "one-cycle"])
def test_a_resumed_run_with_frozen_parts_and_rates_by_stage_equals_an_unbroken_one(
    npy_cohort, weights, tmp_path, train_until, schedule
):
    config = short(npy_cohort, epochs=3, schedule=schedule, freeze=2, lr_decay=0.7)
    train(config, tmp_path / "whole", base=npy_cohort)
    train_until(config, tmp_path / "broken", base=npy_cohort, epochs=2)
    (npy_cohort / "other.pth").unlink()  # a run that goes on has its weights
    train(config, tmp_path / "broken", resume=True)
    runs = [tmp_path / "whole", tmp_path / "broken"]
    assert len({(run / "metrics.csv").read_bytes() for run in runs}) == 1
    whole, broken = map(model_of, runs)
    assert all(torch.equal(whole[name], broken[name]) for name in whole)
    cards = [json.loads((run / "model" / "model.json").read_text())["training"] for run in runs]
    assert cards[0]["weights"] == cards[1]["weights"]


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"weights": "nowhere.pth"}, CheckpointError, r"there are no weights .*nowhere\.pth"),
        ({"weights": "", "freeze": 1}, ConfigError, r"training\.freeze must be 0 without training\.weights, got 1"),
    ],
)
def test_weights_that_cannot_be_used_end_a_run_before_anything_is_written(
    npy_cohort, weights, tmp_path, change, error, says
):
    with pytest.raises(error, match=says):
        train(short(npy_cohort, **change), tmp_path / "run", base=npy_cohort)
    assert list(tmp_path.iterdir()) == []


def test_what_the_weights_do_not_bring_cannot_be_frozen(npy_cohort, tmp_path):
    torch.save(ResNet3D(10, width=4).state_dict(), npy_cohort / "full.pth")
    config = short(npy_cohort, weights="full.pth", freeze=1)
    with pytest.raises(ConfigError, match=r"freeze = 1 would freeze conv1\.weight, which .* does not bring \(5 such"):
        train(config, tmp_path / "run", base=npy_cohort)
    train(replace(config, training=replace(config.training, freeze=0, epochs=1)), tmp_path / "run", base=npy_cohort)


@pytest.mark.parametrize("of", ["a batch norm without them", "a group norm"])
def test_running_statistics_that_the_weights_do_not_bring_cannot_be_frozen(npy_cohort, tmp_path, of):
    """A frozen norm would stay with mean 0 and variance 1 under weights that were trained with others."""
    norm = "group" if of == "a group norm" else "batch"
    state = ResNet3D(10, width=4, stem="small", norm=norm).state_dict()
    torch.save({n: t for n, t in state.items() if "running" not in n}, npy_cohort / "other.pth")
    config = short(npy_cohort, freeze=3, epochs=1)
    with pytest.raises(ConfigError, match=r"would freeze bn1\.running_mean, which .* does not bring \(12 such"):
        train(config, tmp_path / "run", base=npy_cohort)
    train(replace(config, training=replace(config.training, freeze=0)), tmp_path / "run", base=npy_cohort)


@pytest.mark.parametrize(
    ("keep", "says"), [("best", "in every epoch"), ("last", r"in epoch 2, which training\.keep = 'last' keeps")]
)
def test_a_run_whose_validation_loss_is_never_finite_ends_in_one_line(npy_cohort, weights, tmp_path, keep, says):
    """Running means at the end of float32 are finite, and what validation computes from them is not."""
    weights.bn1.running_mean.fill_(-3e38)
    torch.save(weights.state_dict(), npy_cohort / "other.pth")
    with pytest.raises(TrainingError, match=rf"^the validation loss must be finite, is nan {says}; no model") as error:
        train(short(npy_cohort, keep=keep, norm_statistics="running"), tmp_path / "run", base=npy_cohort)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "model").exists()
    assert len((tmp_path / "run" / "metrics.csv").read_text().splitlines()) == 3


def test_settings_of_transfer_that_make_no_sense_are_named():
    with pytest.raises(ConfigError, match=r"training\.freeze must be 0 to 5, got 6"):
        TrainingConfig(freeze=6)
    with pytest.raises(ConfigError, match=r"training\.lr_decay must be above 0 and at most 1, got 0\.0"):
        TrainingConfig(lr_decay=0.0)


def test_a_model_trained_here_is_the_start_of_another(trained_run):
    network = small()
    report = load_weights(network, trained_run / "model")
    assert report.counts["source"] == "Hilum"
    assert all(torch.equal(t, network.state_dict()[n]) for n, t in model_of(trained_run).items() if "batches" not in n)
