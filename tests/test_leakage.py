"""Cases that leak from training are found before they are judged, and no figure hides that they were allowed."""

import csv
import json

import numpy as np
import pytest

import hilum
from hilum.cli import main
from hilum.errors import CohortError
from hilum.judging import evaluate
from hilum.simulating import Scanner, simulate_scan

SCANNER = Scanner(pixel_mm=6.0, pixels=64, thickness_mm=5.0, increment_mm=5.0)
CONFIG = """
[cohort]
table = "cohort.csv"
classes = ["0", "1"]
[split]
val = 0.25
test = 0.25
[recipe]
region = "whole"
size = [8, 8, 8]
extent_mm = [320.0, 320.0, 320.0]
[model]
depth = 10
width = 2
stem = "small"
[training]
epochs = 1
batch_size = 4
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on 24 simulated chests, whose first training scan is a file ``known.nii.gz``."""
    folder = tmp_path_factory.mktemp("leaks")
    rows = [("case_id", "path", "label", "patient_id")]
    for k in range(24):
        simulate_scan(5, key=f"p{k}", scanner=SCANNER)[0].write(folder / f"{k}.nii.gz")
        rows.append((f"c{k}", f"{k}.nii.gz", k % 2, f"P{k}"))
    write_table(folder / "cohort.csv", rows)
    (folder / "config.toml").write_text(CONFIG)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HILUM_KEY", "tests")
        hilum.train(folder / "config.toml", folder / "run")
    return folder


def write_table(path, rows):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def others(folder, *, altered):
    """A table of eight new chests, of which the first two are training scans, altered."""
    with (folder / "run" / "splits.csv").open() as file:
        used = [row["case_id"] for row in csv.DictReader(file) if row["split"] == "train"]
    rows = [("case_id", "path", "label", "patient_id")]
    for k in range(8):
        if altered is not None and k < 2:
            volume = altered(hilum.read(folder / f"{used[k][1:]}.nii.gz"))
        else:
            volume = simulate_scan(6, key=f"new{k}", scanner=SCANNER)[0]
        path = folder / f"other-{k}.nii.gz"
        path.unlink(missing_ok=True)
        volume.write(path)
        rows.append((f"new{k}", path.name, k % 2, f"N{k}"))
    write_table(folder / "others.csv", rows)
    return folder / "others.csv"


def flipped(volume):
    return hilum.Volume(voxels_hu=np.ascontiguousarray(volume.voxels_hu[:, :, ::-1]), affine=volume.affine)


def test_a_table_with_altered_training_scans_is_not_judged_and_the_line_names_them(trained, tmp_path, capsys):
    table = others(trained, altered=flipped)
    assert main(["evaluate", str(trained / "run"), str(table), "--out", str(tmp_path / "e")]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "the cases to judge leak: nearly the same scan trained or validated the model" in error
    assert "'new0' (row 2)" in error
    assert "--allow-leakage" in error
    assert not (tmp_path / "e").exists()


def test_allowed_leaks_stand_in_every_file_of_figures(trained, tmp_path, capsys):
    table = others(trained, altered=flipped)
    answer = evaluate(trained / "run", table, tmp_path / "e", allow_leakage=True)
    assert "near copies" in answer["leakage"]
    assert "new0" not in answer["leakage"]
    assert "'new0'" in answer["audit"]["leaks"][0]["sentence"]
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["leakage"] == answer["leakage"]
    with (tmp_path / "e" / "cases.csv").open() as file:
        assert all(row["note"].startswith("WITH LEAKAGE") for row in csv.DictReader(file))
    page = (tmp_path / "e" / "report.html").read_text()
    assert "With leakage." in page
    assert "new0" not in page
    line = ["evaluate", str(trained / "run"), str(table), "--out", str(tmp_path / "f"), "--allow-leakage"]
    assert main(line) == 0
    assert "WITH LEAKAGE that was allowed" in capsys.readouterr().out


def test_new_scans_are_judged_without_a_word_on_leaks(trained, tmp_path):
    answer = evaluate(trained / "run", others(trained, altered=None), tmp_path / "e")
    assert (answer["num_cases"], answer["leakage"], answer["audit"]["leaks"]) == (8, "", [])
    assert answer["cohort"]["num_rows"] == answer["cohort"]["num_judged"] == 8
    assert "With leakage" not in (tmp_path / "e" / "report.html").read_text()


def test_a_run_judges_its_own_cases_against_its_own_training_cases(trained):
    answer = evaluate(trained / "run")
    assert answer["leakage"] == ""
    assert answer["training_audit"]["num_cases"] == 24
    page = (trained / "run" / "evaluation" / "report.html").read_text()
    assert "Whole cohort, before training" in page


def test_a_run_that_was_trained_with_leaks_says_so_wherever_it_is_judged(trained, tmp_path):
    """Its own test part leaks, which was accepted in training."""
    with (trained / "cohort.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    table = [(*rows[0], "split")]
    table += [(*row, ("train", "train", "val", "test")[k // 6]) for k, row in enumerate(rows[1:])]
    copy = flipped(hilum.read(trained / "0.nii.gz"))
    copy.write(tmp_path / "copy.nii.gz")
    table.append(("copy", str(tmp_path / "copy.nii.gz"), "0", "Pcopy", "test"))
    write_table(trained / "apart.csv", table)
    (trained / "apart.toml").write_text(CONFIG.replace("cohort.csv", "apart.csv"))
    with pytest.raises(CohortError, match=r"the table's own split leaks: nearly the same scan .*'c0' \(row 2, train\)"):
        hilum.train(trained / "apart.toml", tmp_path / "run")
    hilum.train(trained / "apart.toml", tmp_path / "run", allow_leakage=True)
    answer = evaluate(tmp_path / "run")
    assert "near copies" in answer["leakage"]
    assert "'copy'" in answer["audit"]["leaks"][0]["sentence"]
    assert "leakage in training" in (tmp_path / "run" / "evaluation" / "report.html").read_text()
