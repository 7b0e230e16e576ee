import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tyro

import hilum
from hilum.cli import VERBS, main
from hilum.cli.predict import Predict
from hilum.cli.train import Train
from hilum.cohorts.split_file import read_splits
from hilum.settings.document import field_docs
from hilum.settings.presets import preset
from hilum.settings.run import RunConfig
from hilum.settings.toml import load, relative_to
from hilum.simulating import Header, plan_cohort, simulate_case, write_dicom
from hilum.volume import crop


def run(*words):
    """The exit code of a command as users type it."""
    return main([str(word) for word in words])


def chest():
    """A simulated chest CT on coarse pixels, quick to make."""
    return simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=6.0)[0]


def test_help_lists_every_verb_and_is_not_slow(capsys):
    assert run("--help") == 0
    shown = capsys.readouterr().out
    assert all(f"hilum {verb}" in shown for verb in VERBS)
    assert "Not a medical device" in shown


HELP = """
import sys
from hilum.cli import VERBS, run
for verb in VERBS:
    try:
        run(verb, ["--help"])
    except SystemExit as stop:
        assert not stop.code, verb
    assert "torch" not in sys.modules, verb
"""


def test_every_verb_has_help_that_imports_no_torch():
    done = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in VERBS:
        assert f"usage: hilum {verb}" in done.stdout


def test_importing_hilum_imports_no_torch():
    code = "import sys, hilum; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_python_api_is_what_it_says():
    assert len(hilum.__all__) == len(set(hilum.__all__)) > 40
    assert hilum.__version__ == version("hilum")
    assert (Path(hilum.__file__).parent / "py.typed").is_file()
    assert {"read", "Recipe", "Cohort", "ResNet3D", "train", "evaluate", "Predictor"} <= set(hilum.__all__)
    for name in set(hilum.__all__) - {"__version__"}:
        assert getattr(hilum, name).__module__.startswith("hilum."), name
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        hilum.nonsense  # noqa: B018


def test_a_verb_that_is_not_there_is_a_usage_error(capsys):
    assert run("trian") == 2
    assert "there are: demo, inspect" in capsys.readouterr().err


def test_a_wrong_flag_exits_with_2():
    with pytest.raises(SystemExit) as stop:
        run("train", "x.toml", "--training.epoch", 3)
    assert stop.value.code == 2


def test_a_wrong_value_exits_with_2():
    with pytest.raises(SystemExit) as stop:
        run("train", "x.toml", "--training.epochs", 0)
    assert stop.value.code == 2


def test_flags_win_over_the_file_and_the_file_over_the_defaults(npy_cohort):
    args = [
        str(npy_cohort / "config.toml"),
        "--training.epochs",
        "7",
        "--device",
        "cpu",
        "--columns.path",
        "path",
        "--recipe.size",
        "8",
        "8",
        "8",
    ]
    command = Train(source=npy_cohort / "config.toml").with_file(args)
    assert command.settings.training.epochs == 7
    assert command.settings.training.device == "cpu"
    assert command.settings.recipe.size == (8, 8, 8)
    assert command.settings.training.batch_size == 5
    assert command.settings.training.clip_norm == 1.0


def test_training_on_a_table_plans_a_config_writes_it_down_and_says_why(npy_cohort, tmp_path, capsys):
    shutil.copytree(npy_cohort, tmp_path / "c", ignore=shutil.ignore_patterns("run", "store"))
    table = tmp_path / "c" / "cohort.csv"
    assert run("train", table, "--out", tmp_path / "run", "--training.epochs", 1, "--model.width", 4) == 0
    shown = capsys.readouterr()
    assert "recipe: .npy volumes of (12, 12, 12)" in shown.err
    assert "sample size: 15 patients of class 1 can show an AUC to +-" in shown.err
    assert "too few to judge" in shown.err
    written = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    assert written["training"]["epochs"] == 1
    assert written["recipe"]["size"] == [12, 12, 12]
    assert "AUC" in shown.out
    assert not (tmp_path / "c" / "store").exists(), "the folder of the scans stays as it is"
    assert (tmp_path / "store").is_dir()


def test_evaluate_leaves_out_what_the_model_has_seen_and_lists_it(trained_run, npy_cohort, tmp_path, capsys):
    assert run("evaluate", trained_run / "model", npy_cohort / "cohort.csv", "--out", tmp_path / "e", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    on_its_test_part = json.loads((trained_run / "evaluation" / "evaluation.json").read_text())
    assert answer["num_cases"] == on_its_test_part["num_cases"]
    assert answer["auc"] == on_its_test_part["auc"]
    assert answer["num_seen"] == 60 - answer["num_cases"]
    assert answer["seen_checked"] is True
    assert "this patient or scan trained or validated the model" in (tmp_path / "e" / "refused.csv").read_text()


def test_scans_that_trained_are_known_by_their_voxels_where_there_are_no_ids(trained_run, npy_cohort, tmp_path, capsys):
    lines = (npy_cohort / "cohort.csv").read_text().splitlines()[1:]
    for line in lines:
        shutil.copy(npy_cohort / line.split(",")[1], tmp_path / f"renamed-{line.split(',')[1]}")
    rows = [f"renamed-{line.split(',')[1]},{line.split(',')[2]}" for line in lines]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    assert run("evaluate", trained_run / "model", tmp_path / "t.csv", "--out", tmp_path / "e", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["num_seen"] == sum(part != "test" for part in read_splits(trained_run / "splits.csv").parts.values())


def test_a_model_away_from_its_run_is_judged_only_with_unchecked(trained_run, npy_cohort, tmp_path, capsys):
    shutil.copytree(trained_run / "model", tmp_path / "model")
    words = ["evaluate", tmp_path / "model", npy_cohort / "cohort.csv", "--out", tmp_path / "e", "--json"]
    assert run(*words) == 1
    assert "cases that trained the model cannot be told" in capsys.readouterr().err
    assert run(*words, "--unchecked") == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out)["seen_checked"] is False
    assert "warning: unchecked: the model's run" in shown.err


def test_evaluate_takes_mapped_columns_and_only_rows_marked_test(trained_run, npy_cohort, tmp_path, capsys):
    parts = read_splits(trained_run / "splits.csv").parts
    lines = [line.split(",") for line in (npy_cohort / "cohort.csv").read_text().splitlines()[1:]]
    unseen = [line for line in lines if parts[line[0]] == "test"]
    rows = [f"{npy_cohort}/{line[1]},{line[2]},{'test' if i < 4 else 'train'}" for i, line in enumerate(unseen)]
    (tmp_path / "other.csv").write_text("\n".join(["image,label,split", *rows]) + "\n")
    words = ["--out", tmp_path / "e", "--columns.path", "image", "--json"]
    assert run("evaluate", trained_run / "model", tmp_path / "other.csv", *words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["num_cases"], answer["num_seen"]) == (4, 0)


def test_several_classes_by_name_go_the_whole_way(npy_cohort, tmp_path, capsys):
    lines = [line.split(",") for line in (npy_cohort / "cohort.csv").read_text().splitlines()[1:]]
    names = ("clear", "nodule", "mass")
    rows = [f"{npy_cohort}/{line[1]},{names[i % 3]},P{i}" for i, line in enumerate(lines)]
    (tmp_path / "cohort.csv").write_text("\n".join(["path,label,patient_id", *rows]) + "\n")
    (tmp_path / "config.toml").write_text((npy_cohort / "config.toml").read_text())
    assert run("train", tmp_path / "config.toml", "--out", tmp_path / "run", "--training.epochs", 1) == 0
    assert "macro AUC" in capsys.readouterr().out
    assert run("predict", tmp_path / "run" / "model", npy_cohort / "00.npy", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert set(answer["probabilities"]) == set(names)
    assert answer["decision"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_a_model_of_volumes_in_hu_predicts_volumes_in_hu(npy_cohort, tmp_path, capsys):
    shutil.copytree(npy_cohort, tmp_path / "c", ignore=shutil.ignore_patterns("run", "store"))
    for path in (tmp_path / "c").glob("*.npy"):
        np.save(path, np.load(path) * 1400 - 1000)
    words = ["--out", tmp_path / "run", "--training.epochs", 1, "--recipe.npy-range", "hu"]
    assert run("train", tmp_path / "c" / "config.toml", *words) == 0
    assert run("predict", tmp_path / "run" / "model", tmp_path / "c" / "00.npy") == 0
    capsys.readouterr()


def test_a_run_goes_on_by_the_command_line_and_keeps_its_settings(npy_cohort, tmp_path, capsys):
    config = npy_cohort / "config.toml"
    assert run("train", config, "--out", tmp_path / "run", "--training.epochs", 1) == 0
    assert run("train", config, "--out", tmp_path / "run", "--resume") == 0
    capsys.readouterr()
    assert run("train", config, "--out", tmp_path / "run", "--resume", "--training.epochs", 9) == 1
    assert "a resumed run keeps its settings, got a flag for training.epochs" in capsys.readouterr().err


def test_an_export_with_several_series_in_a_folder_can_be_trained_on(tmp_path, capsys):
    for i, case in enumerate(plan_cohort(10, seed=0)):
        whole = simulate_case(case, seed=0, pixel_mm=12.0)[0]
        middle = whole.shape[0] // 2
        simulated = crop(whole, (middle - 12, 0, 0), (middle + 12, *whole.shape[1:]))
        for study in ("1", "2"):
            header = Header(patient_id=f"P{i}", study=study)
            for path in write_dicom(simulated, tmp_path / "new", header=header):
                folder = tmp_path / "scans" / "ab"[i % 2] / f"DOE^JOHN{i}"
                folder.mkdir(parents=True, exist_ok=True)
                path.rename(folder / f"{study}-{path.name}")
    assert run("cohort", tmp_path / "scans", "--out", tmp_path / "cohort.csv") == 0
    words = ["--recipe.region", "whole", "--recipe.size", 8, 8, 8, "--recipe.spacing-mm", 40, 40, 40]
    words += ["--training.epochs", 1, "--model.width", 2, "--model.depth", 10]
    assert run("train", tmp_path / "cohort.csv", "--out", tmp_path / "run", *words) == 0
    assert "by flag: training.epochs = 1, planned was" in capsys.readouterr().err
    assert tomllib.loads((tmp_path / "run" / "config.toml").read_text())["recipe"]["spacing_mm"] == [40, 40, 40]
    for path in [tmp_path / "run" / "splits.csv", *(tmp_path / "run" / "evaluation").glob("*.csv")]:
        assert "DOE" not in path.read_text(), path.name


def test_predict_takes_one_volume_and_answers_in_json(trained_run, npy_cohort, capsys):
    assert run("predict", trained_run / "model", npy_cohort / "01.npy", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    why = {"outcome", "reason_codes", "reason"}
    assert set(answer) == {"probabilities", "decision", *why, "thresholds", "sets", "spread", "findings", "geometry"}
    assert sum(answer["probabilities"].values()) == pytest.approx(1)
    assert answer["decision"] == ("1" if answer["probabilities"]["1"] >= answer["thresholds"]["1"] else "0")
    assert answer["geometry"]["size_zyx"] == [12, 12, 12]


def test_predict_speaks_to_people_too(trained_run, npy_cohort, capsys):
    assert run("predict", trained_run / "model", npy_cohort / "01.npy") == 0
    shown = capsys.readouterr().out
    assert "P(1) = " in shown
    assert "decision: " in shown


def test_predict_takes_a_whole_table_without_labels(trained_run, npy_cohort, tmp_path, capsys):
    rows = [f"{npy_cohort}/{i:02d}.npy" for i in range(20)] + [f"{npy_cohort}/nowhere.npy"]
    (tmp_path / "new.csv").write_text("\n".join(["path", *rows]) + "\n")
    assert run("predict", trained_run / "model", tmp_path / "new.csv", "--out", tmp_path / "p.csv", "--json") == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["num_cases"] == 20
    assert summary["num_refused"] == 1
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "case_id,row,prob_0,prob_1,decision,reason_codes,reason"
    assert "no file or folder" in (tmp_path / "p.refused.csv").read_text()


def test_predictions_of_a_table_equal_those_one_by_one(trained_run, npy_cohort, tmp_path, capsys):
    (tmp_path / "new.csv").write_text(f"case_id,path\na,{npy_cohort}/00.npy\nb,{npy_cohort}/01.npy\n")
    assert run("predict", trained_run / "model", tmp_path / "new.csv", "--out", tmp_path / "p.csv") == 0
    capsys.readouterr()
    rows = [line.split(",") for line in (tmp_path / "p.csv").read_text().splitlines()[1:]]
    for row, name in zip(rows, ("00.npy", "01.npy"), strict=True):
        run("predict", trained_run / "model", npy_cohort / name, "--json")
        assert float(row[3]) == pytest.approx(json.loads(capsys.readouterr().out)["probabilities"]["1"], abs=1e-6)


def test_prepare_fills_the_store_and_lists_what_was_refused(npy_cohort, tmp_path, capsys):
    shutil.copytree(npy_cohort, tmp_path / "c", ignore=shutil.ignore_patterns("run", "store"))
    (tmp_path / "c" / "07.npy").unlink()
    assert run("prepare", tmp_path / "c" / "config.toml") == 3
    shown = capsys.readouterr().out
    assert "refused, row 9: " in shown
    assert "59 samples, 0 were there, 1 refused, listed in refused.csv" in shown
    assert len(list((tmp_path / "c" / "store").rglob("*.safetensors"))) == 59


def test_inspect_speaks_json(tmp_path, capsys):
    chest().write(tmp_path / "scan.nii.gz")
    assert run("inspect", tmp_path, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["series"][0]["where"] == "scan.nii.gz"
    assert answer["series"][0]["verdict"] in ("ok", "repaired")
    assert answer["findings"] == []


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("path,label\n00.npy,0\n01.npy,maybe\n", "row 3, column 'label' must be one of 0, 1, got 'maybe'"),
        ("path\n00.npy\n", "there must be a column 'label' for label, got the columns path"),
        (
            "path,label,patient_id,split\n00.npy,0,A,train\n01.npy,1,A,test\n",
            "all rows of a patient must be in one split",
        ),
        ("", "cohort.csv: "),
    ],
)
def test_a_bad_table_gets_one_line_and_exit_1_and_leaves_nothing(npy_cohort, tmp_path, capsys, table, says):
    (tmp_path / "cohort.csv").write_text(table)
    config = (npy_cohort / "config.toml").read_text().replace("[recipe]", 'classes = ["0", "1"]\n[recipe]')
    (tmp_path / "config.toml").write_text(config)
    assert run("train", tmp_path / "config.toml", "--out", tmp_path / "run") == 1
    err = capsys.readouterr().err
    assert err.startswith("hilum: ")
    assert err.count("\n") == 1
    assert says in err
    assert {path.name for path in tmp_path.iterdir()} == {"cohort.csv", "config.toml"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["inspect", "nowhere"], "nowhere: no file or folder"),
        (["train", "nowhere.toml"], "nowhere.toml: there is no such config file"),
        (["train", "nowhere.csv"], "nowhere.csv: there is no such table"),
        (["train", "broken.toml"], "broken.toml: is not a TOML file"),
        (["train", "misspelt.toml"], "unknown setting training.epoch; known are: epochs, batch_size"),
        (["plan", "nowhere.toml"], "nowhere.toml: there is no such config file"),
        (["plan", "misspelt.toml"], "unknown setting training.epoch"),
        (["plan", "table.toml"], "there must be a column 'label' for label"),
        (["plan", "table.toml", "--write", "t.csv"], "--write must be a new file NAME.toml, got t.csv"),
        (["plan", "table.toml", "--write", "table.toml"], "--write must be a new file NAME.toml, got table.toml"),
        (["advise", "nowhere.csv"], "nowhere.csv: there is no such table"),
        (["advise", "t.csv"], "t.csv: there must be a column 'label' for label"),
        (["prepare", "broken.toml"], "broken.toml: is not a TOML file"),
        (["cohort", "empty", "--out", "new.csv"], "must hold one sub-folder of scans"),
        (["predict", "empty", "x.nii"], "empty is no model folder"),
        (["predict", "MODEL", "empty"], "no CT in this folder"),
        (["predict", "MODEL", "text.dcm"], "named like a DICOM file but is none"),
        (["predict", "MODEL", "nowhere.nii"], "nowhere.nii: no file or folder"),
        (["predict", "MODEL", "t.csv"], "needs --out"),
        (
            ["predict", "POINT", "scan.nii", "--point", "9", "9", "9999"],
            "point-outside (refused): the point (9.0, 9.0, 9999.0)",
        ),
        (["predict", "POINT", "scan.nii"], "region point needs a point"),
        (["evaluate", "MODEL", "nowhere.csv", "--out", "e"], "there is no such table"),
        (["demo", "--out", "full"], "must be new or empty"),
        (["predict", "MODEL", "x.npy", "--point", "1", "2", "3"], "--point is for models of region point"),
        (["predict", "MODEL", "x.npy", "--out", "p.csv"], "--out is for a table"),
        (["predict", "MODEL", "x.npy", "--series", "abcd"], "a .npy file is a prepared volume"),
        (["predict", "MODEL", "x.npy", "--columns.path", "p"], "--columns is for a table"),
        (["predict", "MODEL", "t.csv", "--series", "abcd"], "--point and --series are for one scan"),
        (
            ["predict", "MODEL", "t.csv", "--out", "full.csv"],
            "full.csv: cannot be written: it must be a file, is a folder",
        ),
        (["predict", "MODEL", "x.npy", "--device", "tpu"], "device must be auto, cpu, cuda"),
        (["evaluate", "MODEL", "t.csv", "--out", "t.csv"], "t.csv is a file"),
        (["train", "misspelt.toml", "--resume", "--out", "full"], "--resume needs --out with a run folder"),
    ],
)
def test_bad_input_gets_one_line_and_exit_1(trained_run, tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full.csv").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "text.dcm").write_text("not an image\n" * 40)
    (tmp_path / "broken.toml").write_text("[cohort\n")
    (tmp_path / "misspelt.toml").write_text("[training]\nepoch = 3\n")
    (tmp_path / "t.csv").write_text("path\nx.npy\n")
    (tmp_path / "table.toml").write_text('[cohort]\ntable = "t.csv"\n[recipe]\nspacing_mm = [2, 2, 2]\n')
    if "POINT" in words:
        shutil.copytree(trained_run / "model", tmp_path / "point")
        about = json.loads((tmp_path / "point" / "model.json").read_text())
        about["recipe"]["region"] = "point"
        (tmp_path / "point" / "model.json").write_text(json.dumps(about))
        chest().write(tmp_path / "scan.nii")
    before = sorted(tmp_path.rglob("*"))
    words = [{"MODEL": str(trained_run / "model"), "POINT": "point"}.get(word, word) for word in words]
    assert run(*words) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("hilum: ")
    assert shown.err.count("\n") == 1
    assert says in shown.err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_model_folder_without_weights_is_named(trained_run, tmp_path, capsys):
    shutil.copytree(trained_run / "model", tmp_path / "model")
    (tmp_path / "model" / "weights.safetensors").write_bytes(b"")
    assert run("predict", tmp_path / "model", "x.nii") == 1
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"each": [{"calibration": {"method": "temperature", "temperature": 0.0}}]}, "temperature must be positive"),
        ({"each": [{"threshold": 2.0}]}, "threshold must be between 0 and 1"),
        ({"each": []}, "decisions must be 1 for these classes, got 0"),
        ({"classes": ["x", "x"]}, "classes must be distinct"),
        ({"classes": ["x"]}, "classes must be at least two"),
        ({"classes": ["x", "y", "z"]}, "threshold must be absent for more than two classes"),
        ({"training": 3}, "training must be"),
        ({"model": {"depth": 18, "width": 10**7, "stem": "full", "dropout": 0.0}}, "do not fit the network"),
    ],
)
def test_a_model_that_makes_no_sense_decides_nothing(trained_run, tmp_path, capsys, change, says):
    shutil.copytree(trained_run / "model", tmp_path / "model")
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    of_decisions = not change.keys() & about.keys()
    about |= {"decisions": about["decisions"] | change} if of_decisions else change
    (tmp_path / "model" / "model.json").write_text(json.dumps(about))
    assert run("predict", tmp_path / "model", "x.nii") == 1
    assert says in capsys.readouterr().err


def test_a_model_moved_away_from_its_run_still_predicts(trained_run, npy_cohort, tmp_path, capsys):
    shutil.copytree(trained_run / "model", tmp_path / "model")
    assert run("predict", tmp_path / "model", npy_cohort / "00.npy") == 0
    assert "decision" in capsys.readouterr().out


def test_the_command_can_be_built_in_python(trained_run, npy_cohort, capsys):
    assert Predict(model=trained_run / "model", path=npy_cohort / "00.npy", json=True).run() == 0
    assert json.loads(capsys.readouterr().out)["thresholds"].keys() == {"1"}
    assert np.load(npy_cohort / "00.npy").shape == (12, 12, 12)


def flags_of(verb):
    """The positional arguments and flags that a verb takes, a line for each."""
    kind = getattr(importlib.import_module(f"hilum.cli.{verb}"), VERBS[verb][0])
    parser = tyro.extras.get_parser(kind, prog=f"hilum {verb}")
    for action in parser._actions:
        if "-h" not in action.option_strings:
            yield f"{verb} {action.option_strings[0] if action.option_strings else action.metavar}"


@pytest.mark.filterwarnings("ignore:get_parser:DeprecationWarning")
def test_the_flags_of_all_verbs_are_pinned():
    """A new, renamed or lost flag changes tests/flags.txt, where a reader of the change sees it."""
    lines = sorted(line for verb in VERBS for line in flags_of(verb))
    assert lines == (Path(__file__).parent / "flags.txt").read_text().splitlines()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["inspect", "x", "--policy", "strict"], "hilum inspect: --policy is now --reading.policy"),
        (["cohort", "x", "--out", "t.csv", "--max_gb=3"], "hilum cohort: --max-gb is now --reading.max-gb"),
        (["cohort", "x", "--out", "t.csv", "--label-column", "a"], "--label-column is now --columns.label, or --col"),
        (["evaluate", "m", "t", "--max-refused", "1"], "--max-refused is now --cohort.max-refused"),
        (["advise", "t.csv", "--unlabelled", "drop"], "--unlabelled is now --cohort.unlabelled"),
    ],
)
def test_an_old_spelling_of_a_setting_ends_with_the_new_one(words, says, capsys):
    assert main(words) == 2
    assert says in capsys.readouterr().err


def test_help_names_positional_arguments_and_train_shows_what_most_people_set(capsys):
    for verb, names in {"predict": ["MODEL", "SCAN"], "advise": ["COHORT"], "plan": ["CONFIG"]}.items():
        with pytest.raises(SystemExit):
            main([verb, "--help"])
        shown = capsys.readouterr().out
        assert all(name in shown for name in names), shown
    assert main(["train", "--help"]) == 0
    short = capsys.readouterr().out
    assert "--training.epochs 50" in short
    assert "--loss.tversky-alpha" not in short
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    assert "--loss.tversky-alpha" in capsys.readouterr().out


def test_config_prints_every_setting_with_its_docstring_and_is_read_back(npy_cohort, tmp_path, capsys):
    out = tmp_path / "all.toml"
    assert main(["config", "--out", str(out)]) == 0
    text = out.read_text()
    assert relative_to(load(out), tmp_path) == RunConfig()
    assert "# Channels of the first stage; 64 as in the tutorial, fewer are faster.\nwidth = 64" in text
    assert main(["config", "--out", str(out)]) == 2 or out.read_text() == text
    capsys.readouterr()
    assert main(["config", "--from", str(npy_cohort / "cohort.csv")]) == 0
    planned = capsys.readouterr().out
    (tmp_path / "planned.toml").write_text(planned)
    assert load(tmp_path / "planned.toml").recipe.region == "whole"
    assert planned.startswith("# ")


def test_every_setting_has_a_docstring_of_its_own():
    def check(config):
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                check(value)
            else:
                assert field_docs(type(config))[field.name], f"{type(config).__name__}.{field.name}"

    check(RunConfig())


@pytest.mark.parametrize(
    ("text", "flags", "expected"),
    [
        ("", ["--augment.preset", "strong"], lambda recipe: preset("strong", recipe)),
        (
            "[augment]\nnoise_hu = 5.0",
            ["--augment.preset", "tutorial", "--augment.noise", "0.9"],
            lambda recipe: replace(preset("tutorial", recipe), noise=0.9),
        ),
        ("[augment]\nnoise_hu = 5.0", [], lambda recipe: replace(preset("standard", recipe), noise_hu=5.0)),
        ("", ["--recipe.region", "point"], lambda recipe: preset("standard", recipe)),
        (
            "[augment]\nnoise_hu = 5.0",
            ["--recipe.region", "point"],
            lambda recipe: replace(preset("standard", recipe), noise_hu=5.0),
        ),
        (
            "",
            ["--augment.preset", "tutorial", "--augment.elastic-mm", "20"],
            lambda recipe: replace(preset("tutorial", recipe), elastic_mm=20.0),
        ),
    ],
)
def test_a_preset_by_flag_is_all_of_that_preset_for_the_recipe(tmp_path, text, flags, expected):
    (tmp_path / "c.toml").write_text(f"[recipe]\nspacing_mm = [2, 2, 2]\n{text}\n")
    args = [str(tmp_path / "c.toml"), *flags]
    settings = tyro.cli(Train, args=args).with_file(args).settings
    assert settings.augment == expected(settings.recipe)


UNUSED_BY_PREDICT = (
    "torch._dynamo", "torch.distributed.fsdp", "pandas", "sklearn", "matplotlib", "lightning_fabric", "tensorboard",
    "jinja2", "SimpleITK", "nibabel", "scipy.optimize",
)  # fmt: skip


def test_predicting_one_scan_imports_nothing_that_it_does_not_need(trained_run, tmp_path):
    write_dicom(chest(), tmp_path / "scan", header=Header())
    code = (
        "import sys; from hilum.cli import main\n"
        "status = main(sys.argv[2:])\nnames = sys.argv[1].split(',')\n"
        "sys.exit(f'{status} {[name for name in names if name in sys.modules]}')"
    )
    words = [",".join(UNUSED_BY_PREDICT), "predict", trained_run / "model", tmp_path / "scan"]
    done = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "0 []", done.stderr
