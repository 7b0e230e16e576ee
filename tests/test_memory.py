"""Allocations that really fail, and what is said about them."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from hilum.cli import main
from hilum.deciding.decision import Decisions
from hilum.deciding.model_folder import ModelCard, build, save_model
from hilum.errors import ResourceError
from hilum.modelling.memory import within_memory
from hilum.settings.run import ModelConfig, Recipe

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits the address space as Linux does")

LIMITED = """
import os, re, resource, sys
from pathlib import Path
import hilum.training.train, hilum.judging.evaluate, hilum.predicting.predictor, hilum.cli.predict
from hilum.cli import main
import numpy, scipy.linalg, torch
torch.set_num_threads(1)
numpy.ones((256, 256)) @ numpy.ones((256, 256)), scipy.linalg.inv(numpy.eye(256))  # their buffers are there at once
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # no processes beside this one, which would have its limit
torch.nn.Conv3d(1, 4, 3)(torch.zeros(2, 1, 8, 8, 8)).sum().backward()
held = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + int(sys.argv[1]) * 2**20, resource.RLIM_INFINITY))
sys.exit(main(sys.argv[2:]))
"""


def limited(mib, *words):
    """A command in a process that gets so much more address space than it has."""
    words = [sys.executable, "-c", LIMITED, str(mib), *map(str, words)]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("allocate", [torch.empty, np.empty], ids=["torch", "numpy"])
def test_an_allocation_that_fails_becomes_advice(allocate):
    advice = pytest.raises(ResourceError, match=r"^out of memory while training on 8 cases.*; take fewer$")
    with advice, within_memory("training on 8 cases", "take fewer"):
        allocate(2**50)


def test_the_advice_says_how_much_was_asked_for():
    asked = pytest.raises(ResourceError, match=r"\(you tried to allocate 4503599627370496 bytes\)")
    with asked, within_memory("x", "y"):
        torch.empty(2**50)


def test_other_errors_pass_as_they_are():
    with pytest.raises(RuntimeError, match=r"size mismatch|must match|shapes cannot"), within_memory("x", "y"):
        torch.zeros(2, 3) @ torch.zeros(2, 3)


@pytest.fixture(scope="module")
def large_grids(tmp_path_factory):
    """Twenty volumes of 48 cubed, a table and a config."""
    folder = tmp_path_factory.mktemp("large")
    random = np.random.default_rng(0)
    for i in range(20):
        np.save(folder / f"{i}.npy", random.random((48, 48, 48)).astype(np.float32))
    rows = [f"{i}.npy,{i % 2}" for i in range(20)]
    (folder / "cohort.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    (folder / "config.toml").write_text(
        '[cohort]\ntable = "cohort.csv"\n[recipe]\nregion = "whole"\nsize = [48, 48, 48]\n'
        "spacing_mm = [1.0, 1.0, 1.0]\n"
        '[model]\ndepth = 10\nstem = "small"\nwidth = 16\n[augment]\npreset = "none"\n'
        "[training]\nepochs = 1\nbatch_size = 8\n"
    )
    assert main(["prepare", str(folder / "config.toml"), "--workers", "1"]) == 0
    return folder


@pytest.mark.slow
def test_training_beyond_the_memory_ends_in_one_line_that_says_what_to_set(large_grids, tmp_path):
    done = limited(200, "train", large_grids / "config.toml", "--out", tmp_path / "run", "--device", "cpu")
    assert done.returncode == 1, done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("hilum: out of memory while training on 8 cases of 48 x 48 x 48 voxels at a time"), last
    assert "; set training.micro_batch = 4 or training.checkpointing = true, or take a smaller model.width or a" in last
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_prediction_beyond_the_memory_ends_in_one_line(large_grids, tmp_path):
    recipe = Recipe(region="whole", size=(48, 48, 48), spacing_mm=(1.0, 1.0, 1.0))
    card = ModelCard(
        model=ModelConfig(depth=10, width=32, stem="small"),
        recipe=recipe,
        decisions=Decisions(classes=("0", "1")),
        training={},
    )
    save_model(tmp_path / "model", build(card.model, recipe, 2), card)
    done = limited(48, "predict", tmp_path / "model", large_grids / "0.npy", "--device", "cpu")
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
    assert done.stderr.startswith("hilum: out of memory while predicting 1 scan on"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pt2", "onnx"])
def test_an_export_beyond_the_memory_ends_in_one_line_and_leaves_no_file(tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    recipe = Recipe(region="whole", size=(200, 200, 200), spacing_mm=(1.0, 1.0, 1.0))
    card = ModelCard(
        model=ModelConfig(depth=10, width=32, stem="small"),
        recipe=recipe,
        decisions=Decisions(classes=("0", "1")),
        training={},
    )
    save_model(tmp_path / "model", build(card.model, recipe, 2), card)
    done = limited(900, "export", tmp_path / "model", "--format", kind, "--out", tmp_path / f"m.{kind}")
    assert done.returncode == 1, done.stderr
    assert done.stderr.strip().count("\n") == 0, done.stderr
    assert done.stderr.startswith("hilum: out of memory while checking the file on 2 cases of 200 x"), done.stderr
    assert "fewer than 2 would not show that the batch is free" in done.stderr
    assert not (tmp_path / f"m.{kind}").exists()


ONNX = """
import re, resource, sys
from pathlib import Path
import torch
from hilum.modelling.memory import within_memory
from hilum.predicting.export_check import runner
run = runner(Path(sys.argv[1]))
held = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + 200 * 2**20, resource.RLIM_INFINITY))
try:
    with within_memory("checking the file", "free some"):
        run(torch.zeros(64, 1, 48, 48, 48))
except Exception as exc:
    print(type(exc).__name__, exc)
"""


@pytest.mark.slow
def test_what_onnx_runtime_says_of_memory_is_translated(tmp_path):
    pytest.importorskip("onnxruntime")
    recipe = Recipe(region="whole", size=(48, 48, 48), spacing_mm=(1.0, 1.0, 1.0))
    model = ModelConfig(depth=10, width=32, stem="small")
    card = ModelCard(model=model, recipe=recipe, decisions=Decisions(classes=("0", "1")), training={})
    save_model(tmp_path / "model", build(model, recipe, 2), card)
    assert main(["export", str(tmp_path / "model"), "--format", "onnx", "--out", str(tmp_path / "m.onnx")]) == 0
    words = [sys.executable, "-c", ONNX, str(tmp_path / "m.onnx")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.stdout == "ResourceError out of memory while checking the file; free some\n", done.stderr
    assert not done.stderr


SAVED = """
import re, sys
from pathlib import Path
from types import SimpleNamespace
import numpy as np
import torch
from hilum.settings.run import RunConfig, TrainingConfig
from hilum.modelling.resnet import ResNet3D
from hilum.training.kept_weights import KeptWeights
from hilum.training.state import TrainingState
from hilum.training.schedule import Schedule

def held(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024

network = ResNet3D(10)
optimizer = torch.optim.AdamW(network.parameters())
for p in network.parameters():
    p.grad = torch.ones_like(p)
optimizer.step()
schedule = Schedule(TrainingConfig(), optimizer, 10)
best = {name: t.clone() for name, t in network.state_dict().items()}
Path("/proc/self/clear_refs").write_text("5")
before = held("VmRSS")
cases = SimpleNamespace(labels=np.zeros(4, int), is_labelled=np.ones(4, bool))
state = TrainingState(KeptWeights(network, RunConfig(), cases, 10), schedule, None, cases)
state.best = best
state.save(Path(sys.argv[1]))
print((held("VmHWM") - before) / sum(t.nbytes for t in best.values()))
"""


@pytest.mark.slow
def test_a_checkpoint_is_written_without_a_second_copy_of_the_weights(tmp_path):
    done = subprocess.run([sys.executable, "-c", SAVED, tmp_path], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 0.5
