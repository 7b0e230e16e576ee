"""A batch that is computed in parts, and blocks that are computed twice, train the same network."""

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from hilum.errors import ConfigError, ResourceError
from hilum.modelling.speed import PLAIN
from hilum.settings.run import LossConfig
from hilum.settings.toml import load
from hilum.training import epoch, fit
from hilum.training.micro_batches import micro_batches, within_memory_of
from hilum.training.train import train


def config_of(npy_cohort, *, norm="group", **training):
    config = load(npy_cohort / "config.toml")
    given = {"epochs": 2, "batch_size": 8} | training
    return replace(
        config,
        model=replace(config.model, norm=norm),
        loss=replace(config.loss, class_weights="inverse"),
        training=replace(config.training, **given),
        speed=PLAIN,
    )


def trained(config, npy_cohort, out):
    train(config, out, base=npy_cohort)
    return load_file(out / "model" / "weights.safetensors"), (out / "metrics.csv").read_text()


def far(first, second):
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def test_parts_of_a_batch_train_the_weights_of_the_whole_batch(npy_cohort, tmp_path, monkeypatch):
    """By plain steps: Adam makes a whole one of a gradient that is zero but for rounding, on some processors.

    Over one epoch: where rounding carries a value over the corner of a ReLU, the weights part for good.
    """
    plain = lambda settings, network, *_: torch.optim.SGD(network.parameters(), lr=settings.lr)  # noqa: E731
    monkeypatch.setattr(fit, "make_optimizer", plain)
    whole, _ = trained(config_of(npy_cohort, lr=0.05, epochs=1), npy_cohort, tmp_path / "whole")
    start, _ = trained(config_of(npy_cohort, lr=1e-12, epochs=1), npy_cohort, tmp_path / "start")
    moved = far(whole, start)
    assert moved > 1e-2, "an epoch moves the weights"
    for micro in (1, 3):
        parts, _ = trained(
            config_of(npy_cohort, lr=0.05, epochs=1, micro_batch=micro), npy_cohort, tmp_path / f"parts of {micro}"
        )
        assert far(whole, parts) < 0.02 * moved, micro


@pytest.mark.parametrize(
    ("cases", "micro", "norm", "sizes"),
    [
        (8, 0, "batch", [8]),
        (8, 3, "batch", [3, 3, 2]),
        (7, 3, "batch", [3, 2, 2]),
        (9, 8, "batch", [5, 4]),
        (5, 2, "batch", [3, 2]),
        (3, 2, "batch", [3]),
        (1, 4, "batch", [1]),
        (5, 2, "group", [2, 2, 1]),
        (3, 1, "group", [1, 1, 1]),
    ],
)
def test_a_batch_comes_in_even_parts_and_batch_norm_never_sees_a_case_alone(npy_cohort, cases, micro, norm, sizes):
    config = config_of(npy_cohort, norm=norm, micro_batch=micro)
    assert [len(part) for part in micro_batches(torch.zeros(cases, 1), config)] == sizes


def test_no_more_cases_are_validated_at_a_time_than_trained_on(npy_cohort, tmp_path, monkeypatch):
    seen = []
    case_logits = epoch.case_logits
    monkeypatch.setattr(epoch, "case_logits", lambda *a, **k: seen.append(len(a[1])) or case_logits(*a, **k))
    train(config_of(npy_cohort, batch_size=4, micro_batch=100), tmp_path / "run", base=npy_cohort)
    assert 0 < max(seen) <= 5, "a last case joins the batch before"


def test_a_micro_batch_that_cuts_nothing_is_said_once(npy_cohort, tmp_path, caplog):
    train(config_of(npy_cohort, norm="batch", micro_batch=100), tmp_path / "run", base=npy_cohort)
    said = [record.message for record in caplog.records if "cuts nothing" in record.message]
    assert len(said) == 1
    assert re.fullmatch(r"training\.micro_batch = 100 cuts nothing: a batch is of \d+ cases", said[0])


def test_a_micro_batch_of_one_case_is_refused_with_batch_norm(npy_cohort, tmp_path):
    with pytest.raises(ConfigError, match=r"micro_batch must be 0 or at least 2 with model\.norm = batch, got 1"):
        train(config_of(npy_cohort, norm="batch", micro_batch=1), tmp_path / "run", base=npy_cohort)


def test_a_run_in_parts_goes_on_exactly_where_it_stopped(npy_cohort, tmp_path, train_until):
    config = config_of(npy_cohort, norm="batch", micro_batch=3)
    unbroken, metrics = trained(config, npy_cohort, tmp_path / "whole")
    train_until(config, tmp_path / "broken", base=npy_cohort)
    train(config, tmp_path / "broken", resume=True)
    assert (tmp_path / "broken" / "metrics.csv").read_text() == metrics
    assert far(unbroken, load_file(tmp_path / "broken" / "model" / "weights.safetensors")) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"dropout": 0.3, "stochastic_depth": 0.3, "squeeze_excite": True},
        pytest.param({}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_checkpointing_changes_no_weight_no_statistic_and_no_figure(npy_cohort, tmp_path, settings):
    config = config_of(npy_cohort, norm="batch")
    config = replace(config, model=replace(config.model, **settings))
    kept, first = trained(config, npy_cohort, tmp_path / "kept")
    config = replace(config, training=replace(config.training, checkpointing=True))
    again, second = trained(config, npy_cohort, tmp_path / "again")
    assert any(name.endswith("running_var") for name in kept)
    assert far(kept, again) == 0
    assert first == second


def test_a_loss_of_the_whole_batch_is_not_cut_where_memory_ends(npy_cohort):
    config = replace(config_of(npy_cohort), loss=LossConfig(name="tversky"))
    with (
        pytest.raises(ResourceError, match=r"; set training\.checkpointing = true, or take a smaller"),
        within_memory_of("training", config, 41),
    ):
        raise MemoryError


@pytest.mark.parametrize(
    ("training", "cases", "advice"),
    [
        (
            {"batch_size": 512},
            41,
            "; set training.micro_batch = 20 or training.checkpointing = true, or take a smaller",
        ),
        (
            {"micro_batch": 100},
            41,
            "; set training.micro_batch = 4 or training.checkpointing = true, or take a smaller",
        ),
        ({"batch_size": 2, "micro_batch": 1, "checkpointing": True}, 41, "; take a smaller model.width or a coarser"),
    ],
)
def test_where_memory_ends_each_way_out_is_said_to_be_one_of_several(npy_cohort, training, cases, advice):
    with (
        pytest.raises(ResourceError, match="out of memory while training on ") as told,
        within_memory_of("training", config_of(npy_cohort, **training), cases),
    ):
        raise MemoryError
    assert advice in str(told.value)
