"""What a command ends with: 0 all done, 3 some refused and the rest kept, 1 bad input and nothing done."""

import csv
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest

from hilum.cli import main
from hilum.simulating import plan_cohort, simulate_case


def run(*words):
    """The exit code of a command as users type it."""
    return main([str(word) for word in words])


def refused_in(path):
    with path.open(newline="") as file:
        return [int(row["row"]) for row in csv.DictReader(file)]


@pytest.fixture
def cohort(npy_cohort, tmp_path):
    """A cohort of its own, of which files can be taken away."""
    shutil.copytree(npy_cohort, tmp_path / "c", ignore=shutil.ignore_patterns("run", "store"))
    return tmp_path / "c"


@pytest.mark.parametrize("verb", ["predict", "prepare", "cohort", "convert", "lungs"])
def test_help_says_where_3_can_come(verb):
    done = subprocess.run(
        [sys.executable, "-c", f"from hilum.cli import run; run({verb!r}, ['--help'])"],
        capture_output=True,
        text=True,
        check=False,
    )
    text = " ".join(done.stdout.replace("│", " ").split())
    assert "xits with 3 if" in text


def test_predict_on_a_table_says_how_many_were_refused_and_where_the_list_is(trained_run, cohort, tmp_path, capsys):
    words = ("predict", trained_run / "model", cohort / "cohort.csv", "--out", tmp_path / "p.csv")
    assert run(*words) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'p.csv'}: 60 predictions\n"
    for name in ("07.npy", "09.npy"):
        (cohort / name).unlink()
    assert run(*words) == 3
    listed = tmp_path / "p.refused.csv"
    assert capsys.readouterr().out == f"{tmp_path / 'p.csv'}: 58 predictions, 2 refused, listed in {listed}\n"
    assert refused_in(listed) == [9, 11]
    assert run(*words, "--json") == 3
    summary = json.loads(capsys.readouterr().out)
    assert (summary["num_cases"], summary["num_refused"], summary["refused"]) == (58, 2, str(listed))
    for path in cohort.glob("*.npy"):
        path.unlink()
    assert run(*words) == 1
    assert len((tmp_path / "p.csv").read_text().splitlines()) == 59, "what was there stays"


def test_prepare_ends_with_3_where_some_were_refused(cohort, capsys):
    assert run("prepare", cohort / "config.toml") == 0
    (cohort / "07.npy").unlink()
    assert run("prepare", cohort / "config.toml") == 3
    assert "59 samples, 59 were there, 1 refused, listed in refused.csv" in capsys.readouterr().out
    for path in cohort.glob("*.npy"):
        path.unlink()
    assert run("prepare", cohort / "config.toml") == 1


def test_train_ends_with_0_while_refusals_stay_within_the_share_and_says_how_many(cohort, tmp_path, capsys):
    for name in ("07.npy", "19.npy"):
        (cohort / name).unlink()
    words = ("train", cohort / "config.toml", "--training.epochs", 1)
    assert run(*words, "--out", tmp_path / "run") == 0
    listed = tmp_path / "run" / "refused.csv"
    assert f"refused: 2 cases of the table, listed in {listed}" in capsys.readouterr().out.splitlines()
    assert refused_in(listed) == [9, 21]
    assert run(*words, "--out", tmp_path / "none", "--cohort.max-refused", 0.03) == 1
    assert "2 of 60 cases are refused, allowed are 3%" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_evaluate_ends_with_0_while_refusals_stay_within_the_share_and_says_how_many(
    trained_run, npy_cohort, tmp_path, capsys
):
    shutil.copytree(trained_run / "model", tmp_path / "model")  # away from its run nothing is known to be seen
    rows = [f"{npy_cohort}/{i:02d}.npy,{i % 2}" for i in range(19)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows, "gone.npy,1"]) + "\n")
    words = ("evaluate", tmp_path / "model", tmp_path / "t.csv", "--out", tmp_path / "e")
    words += ("--unchecked",)
    assert run(*words) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("; 1 refused; NOT CHECKED for cases that trained the model")
    assert said[1] == f"left out: 1 refused, 0 seen by the model, listed in {tmp_path / 'e' / 'refused.csv'}"
    assert refused_in(tmp_path / "e" / "refused.csv") == [21]
    shutil.rmtree(tmp_path / "e")
    assert run(*words, "--cohort.max-refused", 0.04) == 1
    assert "1 of 20 cases are refused, allowed are 4%" in capsys.readouterr().err
    assert not (tmp_path / "e").exists()
    with pytest.raises(SystemExit) as stop:
        run(*words, "--cohort.max-refused", 2)
    assert stop.value.code == 2


def test_cohort_ends_with_3_for_a_scan_that_is_refused_and_not_for_what_is_no_scan(tmp_path, capsys):
    chest = simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=8.0)[0]
    for label in ("a", "b"):
        chest.write(tmp_path / "scans" / label / "x.nii.gz")
    (tmp_path / "scans" / "b" / "notes.txt").write_text("not asked for")
    words = ("cohort", tmp_path / "scans", "--out", tmp_path / "t.csv")
    assert run(*words) == 0
    assert "left out" not in capsys.readouterr().out
    (tmp_path / "scans" / "b" / "y.dcm").write_bytes(b"no scan")
    assert run(*words) == 3
    shown = capsys.readouterr()
    assert shown.out.splitlines()[-1].startswith("left out: 1 scans, files")
    assert "b/y.dcm: " in shown.err
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 3
    (tmp_path / "scans" / "a" / "x.nii.gz").unlink()
    assert run(*words) == 1


def test_inspect_ends_with_0_if_any_series_was_found_even_a_refused_one(tmp_path, capsys):
    (tmp_path / "bad.nii").write_bytes(b"no image")
    assert run("inspect", tmp_path) == 0
    (tmp_path / "bad.nii").unlink()
    assert run("inspect", tmp_path) == 1
    assert run("inspect", tmp_path / "nowhere") == 1
    capsys.readouterr()


def test_store_verify_ends_with_1_on_damage(cohort, capsys):
    assert run("prepare", cohort / "config.toml") == 0
    assert run("store", "verify", cohort / "store") == 0
    sample = next((cohort / "store").rglob("*.safetensors"))
    content = np.frombuffer(sample.read_bytes(), np.uint8).copy()
    content[-1] ^= 1
    sample.write_bytes(content.tobytes())
    assert run("store", "verify", cohort / "store") == 1
    assert run("store", "list", cohort / "store") == 0
    capsys.readouterr()
