"""Models as one file for other programs: the same probabilities, what a reader must know, and nothing else."""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hilum.cli import main
from hilum.deciding.decision import Decisions
from hilum.deciding.model_folder import ModelCard, build, load_model, save_model
from hilum.errors import CheckpointError, ConfigError
from hilum.predicting import Predictor
from hilum.predicting.export import export_model
from hilum.predicting.export_check import largest_difference
from hilum.preparing import prepare_path
from hilum.settings.run import ModelConfig, Recipe
from hilum.simulating import plan_cohort, simulate_case

WEIGHTS_PAGE = Path(__file__).parents[1] / "docs" / "concepts" / "weights.md"
FORMATS = ("onnx", "pt2")


def changed(model, folder, **about):
    """The model folder with other things said about it."""
    shutil.copytree(model, folder)
    said = json.loads((folder / "model.json").read_text())
    for name, value in about.items():
        said[name] = {**said[name], **value} if isinstance(value, dict) and name in said else value
    (folder / "model.json").write_text(json.dumps(said))
    return folder


def said_in(path):
    if path.suffix == ".onnx":
        onnx = pytest.importorskip("onnx")
        return {one.key: one.value for one in onnx.load(path).metadata_props}
    extra = {"hilum.json": ""}
    torch.export.load(path, extra_files=extra)
    return json.loads(extra["hilum.json"])


def run_file(path, hu):
    if path.suffix == ".onnx":
        onnxruntime = pytest.importorskip("onnxruntime")
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return session.run(["probabilities"], {"hu": hu})[0]
    return torch.export.load(path).module()(torch.from_numpy(hu)).detach().numpy()


@pytest.fixture(scope="module")
def files(trained_run, tmp_path_factory):
    """The model of the session, exported by the command line in both formats."""
    folder = tmp_path_factory.mktemp("export")
    for kind in FORMATS:
        words = ["export", str(trained_run / "model"), "--format", kind, "--out", str(folder / f"model.{kind}")]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            assert main(words) == 0
        (folder / f"{kind}.txt").write_text(printed.getvalue())
    return folder


@pytest.mark.parametrize("kind", FORMATS)
def test_a_prepared_case_gets_the_predictors_probability_from_the_file(trained_run, npy_cohort, files, kind):
    predictor = Predictor(trained_run / "model", device="cpu")
    samples = [prepare_path(npy_cohort / f"{i:02d}.npy", predictor.card.recipe) for i in range(4)]
    got = run_file(files / f"model.{kind}", np.stack([s.voxels_hu.astype(np.float32)[None] for s in samples]))
    expected = [list(one.probabilities.values()) for one in predictor.predict_samples(samples)]
    assert got == pytest.approx(np.array(expected), abs=1e-4)
    assert np.ptp(got[:, 1]) > 0.01  # and they are not all one


def test_the_page_on_weights_runs_an_exported_file(trained_run, files, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    (block,) = re.findall(r"^```py\n(.*?)^```", WEIGHTS_PAGE.read_text(), re.M | re.S)
    shutil.copy(files / "model.onnx", tmp_path)
    simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=4.0)[0].write(tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(block, str(WEIGHTS_PAGE), "exec"), names)  # noqa: S102
    predicted = Predictor(trained_run / "model", device="cpu").predict(tmp_path / "scan.nii.gz")
    got = dict(zip(names["classes"], names["probabilities"].tolist(), strict=True))
    assert got == pytest.approx(predicted.probabilities, abs=1e-4)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_says_what_its_reader_must_know(trained_run, files, kind):
    said, card = said_in(files / f"model.{kind}"), load_model(trained_run / "model")[1]
    assert json.loads(said["classes"]) == list(card.classes)
    assert json.loads(said["thresholds"]) == card.decisions.thresholds
    assert json.loads(said["decisions"])[0]["rule"] == card.decisions.each[0].rule
    assert json.loads(said["recipe"])["size"] == [12, 12, 12]
    assert said["version"]
    assert "Not a medical device" in said["use"]


@pytest.mark.parametrize("kind", FORMATS)
def test_no_path_of_this_machine_no_case_and_no_patient_is_in_a_file(trained_run, npy_cohort, files, kind):
    path = files / f"model.{kind}"
    content = path.read_bytes()
    if kind == "pt2":
        with zipfile.ZipFile(path) as archive:
            content = b"".join(archive.read(name) for name in archive.namelist())
    for secret in (".py", "SMITH", ".npy", str(npy_cohort), "/hilum/", "site-packages", "cohort.csv"):
        assert secret.encode() not in content, secret


@pytest.mark.parametrize("kind", FORMATS)
def test_the_command_prints_the_largest_difference(files, kind):
    shown = (files / f"{kind}.txt").read_text()
    assert float(shown.split("within ")[1].split(" ")[0]) <= 1e-4
    note, told = shown.splitlines()
    assert note.startswith("note: the file has no gate")
    assert told.startswith(str(files))


CALIBRATIONS = {
    "temperature": {"method": "temperature", "temperature": 2.5},
    "platt": {"method": "platt", "temperature": 0.04, "bias": [1.5, -1.5]},
    "isotonic": {
        "method": "isotonic",
        "curves": [[[-3.0, 0.01], [0.0, 0.2], [0.5, 0.2], [4.0, 0.97]]],
        "bias": [-0.5, 0.5],
    },
    "one corner": {"method": "isotonic", "curves": [[[0.0, 0.3]]]},
}


@pytest.mark.parametrize(
    ("calibration", "kind"),
    [
        ("isotonic", "onnx"),
        *(
            pytest.param(calibration, kind, marks=pytest.mark.slow)
            for calibration, kind in itertools.product(CALIBRATIONS, FORMATS)
            if (calibration, kind) != ("isotonic", "onnx")
        ),
    ],
)
def test_windows_the_lungs_and_the_calibration_are_in_the_file(trained_run, tmp_path, kind, calibration):
    windows = {"windows_hu": [[-1000.0, 400.0], [-160.0, 240.0]], "lung_channel": True, "region": "lungs"}
    folder = changed(
        trained_run / "model",
        tmp_path / "m",
        recipe=windows,
        decisions={"each": [{"calibration": CALIBRATIONS[calibration]}]},
    )
    weights = load_file(folder / "weights.safetensors")
    weights["conv1.weight"] = weights["conv1.weight"].repeat(1, 3, 1, 1, 1)
    save_file(weights, folder / "weights.safetensors")
    exported = export_model(folder, tmp_path / f"m.{kind}", format=kind)
    assert exported.difference <= 1e-4
    assert exported.notes == ("the file has no gate: it answers for scans too that the model gives no result for",)
    assert "the second the lungs: 1 inside, 0 outside" in said_in(tmp_path / f"m.{kind}")["input"]
    assert run_file(tmp_path / f"m.{kind}", np.zeros((5, 2, 12, 12, 12), np.float32)).shape == (5, 2)


GROUPS = {"norm": "group", "squeeze_excite": True, "shortcut": "A", "stem_stride": (1, 2, 2)}
INSTANCES = {"norm": "instance", "pooling": "attention", "stem": "small", "dropout": 0.3, "stochastic_depth": 0.2}
DEEP = {"depth": 50, "zero_init": True}


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        pytest.param(GROUPS, "onnx", marks=pytest.mark.slow),
        (GROUPS, "pt2"),
        pytest.param(INSTANCES, "onnx", marks=pytest.mark.slow),
        pytest.param(INSTANCES, "pt2", marks=pytest.mark.slow),
        pytest.param(DEEP, "onnx", marks=pytest.mark.slow),
        pytest.param(DEEP, "pt2", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_option_of_the_network_can_be_exported(tmp_path, options, kind):
    torch.manual_seed(0)
    model = ModelConfig(**({"depth": 10, "width": 4} | options))
    recipe = Recipe(region="whole", size=(20, 24, 28), spacing_mm=(2.0, 2.0, 2.0))
    card = ModelCard(model=model, recipe=recipe, decisions=Decisions(classes=("a", "b", "c")), training={})
    save_model(tmp_path / "m", build(model, recipe, 3), card)
    assert export_model(tmp_path / "m", tmp_path / f"m.{kind}", format=kind).difference <= 1e-4


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_of_other_weights_is_found_out(trained_run, tmp_path, files, kind):
    network, card = load_model(trained_run / "model")
    network.fc.bias += torch.tensor([0.0, 0.1])
    assert largest_difference(files / f"model.{kind}", network, card) > 1e-3


def test_weights_whose_output_is_not_finite_leave_nothing_behind(trained_run, tmp_path):
    folder = changed(trained_run / "model", tmp_path / "m")
    weights = load_file(folder / "weights.safetensors")
    weights["fc.bias"].fill_(torch.nan)
    save_file(weights, folder / "weights.safetensors")
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match=r"^the network's output must be finite; the weights .* are damaged$"):
        export_model(folder, tmp_path / "out" / "m.pt2", format="pt2")
    assert list((tmp_path / "out").iterdir()) == []


def test_weights_of_a_model_folder_are_of_the_precision_that_they_were_saved_in(trained_run, tmp_path):
    folder = changed(trained_run / "model", tmp_path / "m")
    weights = load_file(folder / "weights.safetensors")
    save_file({n: t.half() if t.is_floating_point() else t for n, t in weights.items()}, folder / "weights.safetensors")
    with pytest.raises(CheckpointError, match=r"must be as they were saved, conv1\.weight of float32, is float16$"):
        load_model(folder)


def test_the_free_axis_is_called_batch(files):
    onnx = pytest.importorskip("onnx")
    graph = onnx.load(files / "model.onnx").graph
    (hu,), (probabilities,) = graph.input, graph.output
    assert [one.type.tensor_type.shape.dim[0].dim_param for one in (hu, probabilities)] == ["batch", "batch"]
    assert [axis.dim_value for axis in hu.type.tensor_type.shape.dim[1:]] == [1, 12, 12, 12]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_that_is_there_is_kept(trained_run, tmp_path, kind):
    out = tmp_path / f"keep.{kind}"
    out.write_text("mine")
    with pytest.raises(ConfigError, match=r"^--out must be a new file, got .*keep\."):
        export_model(trained_run / "model", out, format=kind)
    assert out.read_text() == "mine"


def test_a_place_where_no_file_can_be_is_said_before_the_model_is_read(tmp_path):
    (tmp_path / "small.csv").write_text("a,b")
    with pytest.raises(ConfigError, match=r"^--out must be a file in a folder, got .*small\.csv is no folder$"):
        export_model(tmp_path / "no model", tmp_path / "small.csv" / "m.onnx", format="onnx")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="to root all folders are open")
def test_a_folder_that_cannot_be_written_to_is_said_before_the_model_is_read(tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(ConfigError, match=r"^--out must be a file in a folder that can be written to, got .*m\.pt2$"):
        export_model(tmp_path / "no model", tmp_path / "closed" / "m.pt2", format="pt2")


def test_what_the_file_leaves_out_is_said(trained_run, tmp_path, capsys):
    views = {"count": 2, "augment": {"flip": [0.5, 0.5, 0.5]}}
    folder = changed(trained_run / "model", tmp_path / "m", recipe={"sub_volumes": True}, views=views)
    assert main(["export", str(folder), "--format", "pt2", "--out", str(tmp_path / "m.pt2")]) == 0
    shown = capsys.readouterr().out
    assert "the file sees one grid of 12 x 12 x 12 voxels; the model takes the mean over all grids" in shown
    assert "2 moved views" in shown
    assert "2 moved views" in said_in(tmp_path / "m.pt2")["notes"]


def test_a_missing_extra_is_named(trained_run, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"needs the package onnxscript: pip install hilum\[export\]"):
        export_model(trained_run / "model", tmp_path / "m.onnx", format="onnx")


def test_a_file_named_otherwise_than_its_format_is_refused(trained_run, tmp_path):
    with pytest.raises(ConfigError, match=r"--out must be a file named \.onnx, got .*m\.pt2"):
        export_model(trained_run / "model", tmp_path / "m.pt2", format="onnx")
