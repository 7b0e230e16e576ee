"""What is foretold about arithmetic and memory, against what is."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from hilum.cli import main
from hilum.cohorts.split_file import read_splits
from hilum.errors import ConfigError
from hilum.modelling.speed import PLAIN
from hilum.modelling.weights.freezing import freeze
from hilum.planning import memory_fit
from hilum.planning.memory_fit import fit_into_memory, largest_batch, usable_bytes
from hilum.planning.resource_plan import plan_resources
from hilum.planning.resources import cost_of, network_of, prediction_bytes, training_memory
from hilum.planning.timing import step_seconds
from hilum.settings.run import LossConfig, ModelConfig, Recipe, RunConfig, SpeedConfig, TrainingConfig
from hilum.settings.toml import beside, load
from hilum.training.train import train


def config_of(*, size=16, norm="batch", depth=10, width=8, **training):
    return RunConfig(
        recipe=Recipe(region="whole", size=(size, size, size), spacing_mm=(1.0, 1.0, 1.0)),
        model=ModelConfig(depth=depth, width=width, norm=norm),
        training=TrainingConfig(**({"batch_size": 8} | training)),
    )


def total(config, **how):
    return memory_fit.training_memory(config, 2, **how).total  # of each config once: see common_fixtures.py


@pytest.mark.parametrize("depth", [10, pytest.param(50, marks=pytest.mark.slow)])
def test_arithmetic_is_that_of_every_convolution_and_product(depth):
    """Two operations for each weight that an output meets; backward is twice that, without the scan's own gradient."""
    config = config_of(depth=depth)
    network = network_of(config, 2)
    counted = []

    def count(module, _, out):
        counted.append(2 * out.numel() * module.weight[0].numel())

    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.Linear):
            module.register_forward_hook(count)
    network.eval()(torch.zeros(1, 1, 16, 16, 16))
    cost = cost_of(config, 2)
    assert cost.parameters == sum(p.numel() for p in network.parameters())
    assert cost.forward_flop == sum(counted)
    assert cost.step_flop == 3 * sum(counted) - counted[0]
    twice = replace(config, training=replace(config.training, checkpointing=True))
    assert cost_of(twice, 2).step_flop == cost.step_flop + sum(counted[1:-1]), "the blocks once more"


def test_checkpointing_keeps_less():
    config = config_of(size=48, depth=50)
    again = replace(config, training=replace(config.training, checkpointing=True))
    kept, less = training_memory(config, 2), training_memory(again, 2)
    assert less.saved < 0.6 * kept.saved
    assert less.total < kept.total
    assert less.weights == kept.weights


def test_weights_gradients_and_moments_are_counted_byte_by_byte():
    config = config_of()
    network = network_of(config, 2)
    parameters = 4 * sum(p.numel() for p in network.parameters())
    memory = training_memory(config, 2)
    assert memory.weights == parameters + sum(b.numel() * b.element_size() for b in network.buffers())
    assert memory.gradients == parameters
    assert memory.optimizer == 2 * parameters
    assert memory.batch == 8 * 2 * 4 * 16**3


@pytest.mark.parametrize("number", [1, 3, 5])
def test_frozen_parts_have_no_gradient_and_no_moments_and_keep_nothing(number):
    config = config_of(size=32, weights="some", freeze=number)
    network = network_of(config, 2)
    freeze(network, number)
    learning = sum(p.numel() for p in network.parameters() if p.requires_grad)
    free, frozen = training_memory(config_of(size=32), 2), training_memory(config, 2)
    assert (frozen.gradients, frozen.optimizer) == (4 * learning, 8 * learning)
    assert frozen.weights == free.weights
    assert frozen.saved < free.saved
    assert frozen.total < free.total
    cost, whole = cost_of(config, 2), cost_of(config_of(size=32), 2)
    assert (cost.trained, cost.parameters) == (learning, whole.parameters)
    assert cost.forward_flop == whole.forward_flop
    assert cost.step_flop < whole.step_flop


def test_with_all_but_the_head_frozen_a_step_is_a_prediction_and_the_product_of_the_head():
    config = config_of(size=32, weights="some", freeze=5)
    head = 2 * network_of(config, 2).fc.weight.numel()
    cost = cost_of(config, 2)
    assert cost.step_flop == cost.forward_flop + head
    assert training_memory(config, 2).saved < 0.02 * training_memory(config_of(size=32), 2).saved


def test_a_frozen_network_is_timed_as_it_trains(npy_cohort, monkeypatch, brief_plan):
    seen = []
    step = "hilum.planning.resource_plan.step_seconds"
    monkeypatch.setattr(step, lambda network, *a, **_: seen.append(network) or 1.0)
    config = load(npy_cohort / "config.toml")
    config = replace(config, training=replace(config.training, weights="some", freeze=5))
    plan_resources(config, 2, 41)
    assert {name for name, p in seen[0].named_parameters() if p.requires_grad} == {"fc.weight", "fc.bias"}
    before = {name: t.clone() for name, t in seen[0].state_dict().items()}
    assert step_seconds(seen[0], (12, 12, 12), 2, device=torch.device("cpu"), speed=PLAIN) > 0
    changed = {name for name, t in seen[0].state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_what_forward_keeps_is_what_autograd_keeps():
    """Each storage once, on real tensors; the fake ones must not know better."""
    config = config_of(size=32)
    network = network_of(config, 2).train()
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    x = torch.zeros(8, 1, 32, 32, 32)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        logits = network(x)
    held = sum(size for at, size in kept.items() if at not in own | {x.untyped_storage().data_ptr()})
    assert training_memory(config, 2).saved == pytest.approx(held, rel=0.02)
    assert logits.requires_grad


def test_bfloat16_and_fewer_cases_take_less():
    config = config_of(size=64)
    assert total(config, bf16=True) < total(config)
    part = replace(config, training=replace(config.training, micro_batch=2))
    assert total(part) < total(config)
    assert prediction_bytes(config, 2, 8) < total(config)


MEASURED = """
import json, re, sys
from pathlib import Path
import torch
from hilum.modelling.resnet import ResNet3D

def held(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

def train(cases, size, width):
    network = ResNet3D(18, width=width)
    best = {name: t.clone() for name, t in network.state_dict().items()}
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    hu, x = (torch.rand(cases, 1, size, size, size) for _ in range(2))
    for _ in range(3):
        optimizer.zero_grad()
        network(x).sum().backward()
        optimizer.step()

torch.set_num_threads(1)
train(2, 16, 4)
Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
train(8, 64, 32)
print(held("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is measured as Linux does")
def test_the_memory_of_training_is_what_a_process_takes_to_a_fifth():
    done = subprocess.run([sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True)
    measured = int(done.stdout)
    assert measured > 300e6
    assert 0.8 < total(config_of(size=64, depth=18, width=32)) / measured < 1.2


def test_a_config_that_fits_stays_as_it_is():
    for config in (config_of(), *(config_of(micro_batch=micro) for micro in (4, 8, 100))):
        assert fit_into_memory(config, 2, 1e12) == config


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_a_batch_that_does_not_fit_is_cut_and_what_comes_back_fits(norm):
    config = config_of(size=64, norm=norm, batch_size=32)
    limit = 0.6 * total(config)
    found = fit_into_memory(config, 2, limit)
    assert found.training.batch_size == 32
    assert 2 <= found.training.micro_batch <= 16
    assert total(found) <= limit
    assert replace(found, training=config.training) == config


def test_batch_norm_gets_few_cases_last_of_all_and_other_norms_before_blocks_are_computed_twice():
    batch, group = (config_of(size=64, norm=norm, depth=18) for norm in ("batch", "group"))
    few = {"micro_batch": 2, "checkpointing": False}
    with_few = [total(replace(c, training=replace(c.training, **few))) for c in (batch, group)]
    twice = total(replace(batch, training=replace(batch.training, micro_batch=4, checkpointing=True)))
    assert with_few[0] < twice
    assert fit_into_memory(batch, 2, float(twice)).training.checkpointing
    assert not fit_into_memory(group, 2, float(with_few[1])).training.checkpointing


def test_what_cannot_fit_is_said_to():
    assert fit_into_memory(config_of(), 2, 1e5) is None
    assert largest_batch(config_of(), 2, 1e5) == 0


def test_a_loss_of_the_whole_batch_is_computed_twice_but_never_in_parts():
    dice = replace(config_of(size=64), loss=LossConfig(name="dice"))
    limit = training_memory(dice, 2).total - 1.0
    found = fit_into_memory(dice, 2, limit)
    assert found.training.checkpointing
    assert found.training.micro_batch == 0
    assert fit_into_memory(dice, 2, 1e7) is None
    with pytest.raises(ConfigError, match=r"training\.micro_batch must be 0 with loss\.name = dice, .* got 4"):
        replace(dice, training=replace(dice.training, micro_batch=4)).check_together()


def test_the_largest_batch_fits_and_one_more_does_not():
    config = config_of(size=32)
    limit = 1.01 * total(replace(config, training=replace(config.training, batch_size=21)))
    found = largest_batch(config, 2, limit)
    batches = [replace(config, training=replace(config.training, batch_size=found + more)) for more in (0, 1)]
    assert total(batches[0]) <= limit < total(batches[1])
    assert found >= 21


def test_this_machine_has_memory_that_may_be_used():
    usable = usable_bytes(torch.device("cpu"))
    assert usable is None or 0 < usable < 1e15
    assert usable is not None or not sys.platform.startswith("linux")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_is_timed_on_the_network_itself_which_learns(precision):
    network = network_of(config_of(), 2)
    before = network.fc.weight.detach().clone()
    speed = replace(PLAIN, precision=precision)
    assert step_seconds(network, (16, 16, 16), 2, device=torch.device("cpu"), speed=speed) > 0
    assert not torch.equal(before, network.fc.weight)


def test_an_outlook_knows_the_steps_and_their_time(npy_cohort, monkeypatch):
    monkeypatch.setattr("hilum.planning.resource_plan.largest_batch", lambda *_, **__: 64)
    config = load(npy_cohort / "config.toml")
    seen = plan_resources(config, 2, 41)
    assert seen.steps == 8, "the last case joins the batch before"
    assert len(seen.step_s) == 1
    assert seen.epoch_s == 8 * min(seen.step_s.values())
    assert seen.rows[0].training is None
    assert [row.cases for row in seen.rows] == [1, 2, 4, 8, 16, 32]
    assert seen.fits == config


def test_no_batch_holds_more_cases_than_there_are_to_train_on(npy_cohort, monkeypatch, brief_plan):
    config = replace(load(npy_cohort / "config.toml"), training=TrainingConfig(batch_size=512))
    whole = replace(config, training=TrainingConfig(batch_size=41))
    timed = []
    monkeypatch.setattr("hilum.planning.resource_plan.step_seconds", lambda *a, **_: timed.append(a[2]) or 1.0)
    monkeypatch.setattr("hilum.planning.resource_plan.usable_bytes", lambda device: float(total(whole)))
    seen = plan_resources(config, 2, 41)
    assert seen.own.total == total(whole)
    assert (seen.fits, timed, seen.epoch_s) == (config, [41], 1.0)
    monkeypatch.setattr("hilum.planning.resource_plan.usable_bytes", lambda device: 0.7 * total(whole))
    seen = plan_resources(config, 2, 41)
    assert seen.fits == replace(config, training=TrainingConfig(batch_size=512, micro_batch=21))
    assert timed == [41, 21]
    assert seen.epoch_s == 2.0


def test_one_step_in_an_epoch_is_one_step(npy_cohort, tmp_path, capsys):
    text = (npy_cohort / "config.toml").read_text().replace("batch_size = 5", "batch_size = 512")
    for name, content in (("cohort.csv", (npy_cohort / "cohort.csv").read_text()), ("c.toml", text)):
        (tmp_path / name).write_text(content)
    assert main(["plan", str(tmp_path / "c.toml"), "--no-time"]) == 0
    shown = capsys.readouterr().out
    cases = re.search(r"^steps    (\d+) training cases: 1 step in an epoch$", shown, re.M)[1]
    assert f"config   {cases} cases in a batch, {cases} at a time" in shown


@pytest.mark.parametrize("largest", [1023, 1024])
def test_where_the_search_for_the_largest_batch_ends_more_may_fit(largest, npy_cohort, capsys, monkeypatch):
    monkeypatch.setattr("hilum.planning.resource_plan.largest_batch", lambda *_, **__: largest)
    words = ["plan", str(npy_cohort / "config.toml"), "--no-time"]
    assert main(words) == 0
    told = {1023: "that fits; so would up to 1023 cases at a time", 1024: "so would 1024 or more cases at a time"}
    assert told[largest] in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["largest"], answer["more_may_fit"]) == (largest, largest == 1024)


def test_the_search_for_the_largest_batch_ends_at_1024():
    assert largest_batch(config_of(), 2, 1e15) == 1024


def test_what_a_small_network_takes_is_told_in_smaller_units(npy_cohort, capsys):
    assert main(["plan", str(npy_cohort / "config.toml"), "--no-time"]) == 0
    page = capsys.readouterr().out
    cost = cost_of(load(npy_cohort / "config.toml"), 2)
    assert f"{cost.forward_flop / 1e6:.3g} MFLOP for each case predicted, {cost.step_flop / 1e6:.3g} MFLOP" in page
    assert not re.search(r"\b0\.00? (GB|MB|GFLOP|MFLOP)", page)
    assert re.search(r"config .* [\d.]+ MB = weights [\d.]+ MB \+ optimizer [\d.]+ MB", page)


@pytest.mark.parametrize("micro", [4, 5, 100])
def test_a_micro_batch_that_cuts_nothing_is_said_to(micro, npy_cohort, tmp_path, capsys):
    text = (npy_cohort / "config.toml").read_text() + f"micro_batch = {micro}\n"
    (tmp_path / "c.toml").write_text(text)
    assert main(["plan", str(tmp_path / "c.toml"), "--no-time"]) == 0
    page = capsys.readouterr().out
    assert (f"training.micro_batch = {micro} cuts nothing: a batch is of 5 cases\n" in page) == (micro >= 5)
    assert "that fits" in page


def test_the_largest_part_of_a_batch_is_counted_as_training_cuts_it(npy_cohort, tmp_path, capsys, brief_plan):
    """With batch norm no part is of one case: of five cases in twos, one part has three; of eight in fives, four."""
    for cases, micro, largest in [(5, 2, 3), (8, 5, 4)]:
        cut = training_memory(config_of(size=32, batch_size=cases, micro_batch=micro), 2)
        assert cut.saved == training_memory(config_of(size=32, batch_size=largest), 2).saved
    (tmp_path / "c.toml").write_text((npy_cohort / "config.toml").read_text() + "micro_batch = 2\n")
    assert main(["plan", str(tmp_path / "c.toml"), "--no-time"]) == 0
    assert "config   5 cases in a batch, 3 at a time: " in capsys.readouterr().out


def test_a_container_without_free_memory_is_not_called_unknown(npy_cohort, capsys, monkeypatch):
    monkeypatch.setattr("hilum.planning.resource_plan.usable_bytes", lambda device: 0.0)
    assert main(["plan", str(npy_cohort / "config.toml"), "--no-time"]) == 0
    page = capsys.readouterr().out
    assert "0 MB may be used" in page
    assert "that does not fit" in page


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"checkpointing": True, "freeze": 3, "micro_batch": 2},
        pytest.param({"checkpointing": True}, marks=pytest.mark.slow),
        pytest.param({"freeze": 3}, marks=pytest.mark.slow),
        pytest.param({"micro_batch": 2}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_way_that_a_run_computes_is_measured_on_what_it_trains_and_the_plan_knows_it(
    npy_cohort, tmp_path, caplog, monkeypatch, brief_plan, how
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # nothing is known of this machine
    config = load(npy_cohort / "config.toml")
    given = {"epochs": 1, "batch_size": 5, "freeze": 0} | how
    if given["freeze"]:
        network = network_of(config, 2)
        torch.save(network.state_dict(), tmp_path / "w.pth")
        given["weights"] = str(tmp_path / "w.pth")
    config = replace(config, speed=SpeedConfig(), training=replace(config.training, **given))
    with caplog.at_level("INFO", "hilum"):
        train(config, tmp_path / "run", base=npy_cohort)
        assert sum("speed: measuring" in record.message for record in caplog.records) == 1
        caplog.clear()
        parts = read_splits(tmp_path / "run" / "splits.csv").parts.values()
        plan_resources(config, 2, sum(part == "train" for part in parts))
    assert not any("speed: measuring" in record.message for record in caplog.records)


def test_a_short_epoch_does_not_take_zero_seconds(npy_cohort, capsys, monkeypatch, brief_plan):
    monkeypatch.setattr("hilum.planning.resource_plan.step_seconds", lambda *a, **_: 0.004)
    assert main(["plan", str(npy_cohort / "config.toml")]) == 0
    assert re.search(r"^         0\.03\d* s for an epoch and [\d.]+ s for all", capsys.readouterr().out, re.M)


def test_plan_reads_the_table_and_no_scan(npy_cohort, tmp_path, capsys):
    for name in ("cohort.csv", "config.toml"):
        (tmp_path / name).write_bytes((npy_cohort / name).read_bytes())
    assert main(["plan", str(tmp_path / "config.toml"), "--no-time"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^steps    4\d training cases: \d+ steps in an epoch$", shown, re.M)
    assert re.search(r"that fits; so would (up to \d+|1024 or more) cases at a time$", shown, re.M)
    assert "measured" not in shown
    assert {path.name for path in tmp_path.iterdir()} == {"cohort.csv", "config.toml"}


def test_plan_speaks_json_and_says_where_there_is_no_table(npy_cohort, tmp_path, capsys):
    text = (npy_cohort / "config.toml").read_text().replace("batch_size = 5", "batch_size = 8")
    (tmp_path / "c.toml").write_text(text)
    assert main(["plan", str(tmp_path / "c.toml"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["chosen"] == {"batch_size": 8, "micro_batch": 0, "checkpointing": False}
    assert (answer["num_train"], answer["steps"], answer["epoch_s"]) == (None, None, None)
    assert answer["memory"][3]["training"] == answer["own"]["total"]
    assert len(answer["step_s"]) == 1
    assert main(["plan", str(tmp_path / "c.toml"), "--no-time"]) == 0
    assert "the config's table is not there" in capsys.readouterr().out


def test_a_config_too_large_for_the_machine_is_written_as_one_that_fits(
    npy_cohort, tmp_path, capsys, monkeypatch, brief_plan
):
    config = replace(load(npy_cohort / "config.toml"), training=TrainingConfig(batch_size=16))
    half = 0.7 * total(config)
    monkeypatch.setattr("hilum.planning.resource_plan.usable_bytes", lambda device: half)
    (tmp_path / "new").mkdir()
    written = tmp_path / "new" / "fits.toml"
    words = ["--no-time", "--write", str(written)]
    text = (npy_cohort / "config.toml").read_text().replace("batch_size = 5", "batch_size = 16")
    (npy_cohort / "large.toml").write_text(text)
    assert main(["plan", str(npy_cohort / "large.toml"), *words]) == 0
    assert "that does not fit; set training.micro_batch = " in capsys.readouterr().out
    made = load(written)
    assert made.training.batch_size == 16
    assert total(made) <= half
    assert (written.parent / made.cohort.table).resolve() == Path(npy_cohort / "cohort.csv").resolve()
    (npy_cohort / "large.toml").unlink()


def test_a_written_config_finds_its_table_weights_and_store_from_its_own_folder(npy_cohort, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(npy_cohort))
    lines = ['store = "mine"', *(npy_cohort / "config.toml").read_text().splitlines(), 'weights = "run1/model"']
    (tmp_path / "c.toml").write_text("\n".join(lines).replace("cohort.csv", "~/cohort.csv"))
    made = tmp_path / "new" / "sub" / "w.toml"
    assert main(["plan", str(tmp_path / "c.toml"), "--no-time", "--write", str(made)]) == 0
    config = load(made)
    assert beside(made.parent, config.training.weights) == tmp_path / "run1" / "model"
    assert beside(made.parent, config.cohort.table) == npy_cohort / "cohort.csv"
    assert beside(made.parent, config.store) == tmp_path / "mine"


def test_a_table_in_the_home_folder_is_found_as_training_finds_it(npy_cohort, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HOME", str(npy_cohort))
    text = (npy_cohort / "config.toml").read_text().replace("cohort.csv", "~/cohort.csv")
    (tmp_path / "c.toml").write_text(text)
    assert main(["plan", str(tmp_path / "c.toml"), "--no-time"]) == 0
    assert re.search(r"^steps    4\d training cases", capsys.readouterr().out, re.M)


def test_a_name_that_training_would_take_for_a_table_is_not_written_to(npy_cohort, tmp_path, capsys):
    name = tmp_path / "afile.txt"
    assert main(["plan", str(npy_cohort / "config.toml"), "--no-time", "--write", str(name)]) == 1
    assert capsys.readouterr().err == f"hilum: --write must be a new file NAME.toml, got {name}\n"
    assert not name.exists()


def test_nothing_is_written_where_nothing_fits(npy_cohort, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("hilum.planning.resource_plan.usable_bytes", lambda device: 1e4)
    assert main(["plan", str(npy_cohort / "config.toml"), "--write", str(tmp_path / "x.toml")]) == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "x.toml").exists()
    assert main(["plan", str(npy_cohort / "config.toml")]) == 0
    assert "does not fit, in whatever parts" in capsys.readouterr().out
