"""Cases that leak from training are found before they are judged, and no figure hides that they were allowed."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import hilum
from hilum.cli import main
from hilum.cohorts.links import find_links_to
from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.signature_file import read_signatures, write_signatures
from hilum.cohorts.split_file import read_splits
from hilum.cohorts.table import Case
from hilum.deciding.model_folder import read_card
from hilum.errors import CohortError
from hilum.judging import evaluate
from hilum.simulating import Scanner, simulate_scan
from hilum.training.run_cases import known_cases
from hilum.training.run_folder import Run
from hilum.volume import Tags

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
    assert "WITH LEAKAGE" in capsys.readouterr().out


def test_new_scans_are_judged_without_a_word_on_leaks(trained, tmp_path):
    answer = evaluate(trained / "run", others(trained, altered=None), tmp_path / "e")
    assert (answer["num_cases"], answer["leakage"], answer["audit"]["leaks"]) == (8, "", [])
    assert answer["cohort"]["num_rows"] == answer["cohort"]["num_judged"] == 8
    assert "With leakage" not in (tmp_path / "e" / "report.html").read_text()


def test_a_run_judges_its_own_cases_against_its_own_training_cases(trained):
    answer = evaluate(trained / "run")
    assert answer["leakage"] == ""
    assert answer["training_audit"]["num_cases"] == 24
    assert answer["cohort"]["num_rows"] == 24
    assert answer["cohort"]["num_other_parts"] == 24 - answer["num_cases"] > 0
    parts = answer["cohort"]["table_one"]["parts"]
    assert sum(one["num_cases"] for one in parts.values()) == 24
    assert parts["test"]["num_cases"] == answer["num_cases"]
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


# under another key, and by studies


def test_under_another_key_the_audit_of_a_table_stops_unless_only_its_scans_are_to_be_compared(
    trained, monkeypatch, capsys
):
    words = ["audit", str(others(trained, altered=None)), "--run", str(trained / "run")]
    table = trained / "others.csv"
    with (trained / "run" / "splits.csv").open() as file:
        used = next(row["case_id"] for row in csv.DictReader(file) if row["split"] == "train")
    table.write_text(table.read_text().replace(",N0\n", f",P{used[1:]}\n").replace(",N0\r", f",P{used[1:]}\r"))
    assert main(words) == 1
    assert "the same patient trained or validated the model: 'new0' (row 2)" in capsys.readouterr().err
    monkeypatch.setenv("HILUM_KEY", "another site")
    assert main(words) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot be told from others: the run was made with another key" in error
    assert "--unchecked" in error
    assert main([*words, "--unchecked"]) == 0
    said = capsys.readouterr().out
    assert "patients and studies were not compared with those that trained the model: the run was made with an" in said
    assert "no leak was found\n" not in said
    others(trained, altered=flipped)
    assert main([*words, "--unchecked"]) == 1
    assert "nearly the same scan trained or validated the model: 'new0' (row 2)" in capsys.readouterr().err
    others(trained, altered=lambda volume: volume)
    assert main([*words, "--unchecked"]) == 1
    assert "the same scan, by its voxels, trained or validated the model: 'new0' (row 2)" in capsys.readouterr().err


def test_a_model_away_from_its_run_is_compared_with_nothing_and_that_is_said(trained, tmp_path, capsys):
    shutil.copytree(trained / "run" / "model", tmp_path / "away" / "model")
    known = known_cases(Run.of(tmp_path / "away" / "model"))
    assert known.sources == {}
    assert known.unchecked
    assert "nothing was compared with the cases that trained the model: the model's run, whose spl" in known.notes[0]
    words = ["audit", str(others(trained, altered=None)), "--run", str(tmp_path / "away")]
    assert main(words) == 1
    assert "cannot be told from others" in capsys.readouterr().err
    assert main([*words, "--unchecked"]) == 0
    assert "nothing was compared with the cases that trained the model" in capsys.readouterr().out


def test_a_study_of_the_training_cases_is_a_leak_and_one_of_the_test_cases_is_not(trained, tmp_path):
    run = Run(shutil.copytree(trained / "run", tmp_path / "run"))
    parts = read_splits(run.splits_file).parts
    of = {part: next(case_id for case_id, one in parts.items() if one == part) for part in ("train", "val", "test")}
    signatures = read_signatures(run.signatures_file)
    signatures |= {case_id: replace(signatures[case_id], study=f"study {part}") for part, case_id in of.items()}
    write_signatures(run.signatures_file, signatures)
    names = ("train", "val", "test", "other")
    cases = tuple(Case(case_id=name, path=Path(name), patient_id=f"id:{name}", row=2, label=0) for name in names)
    tags = {name: Tags(study=f"study {name}") for name in names}
    new = PreparedCohort(cases=cases, samples=(), refusals=(), tags=tags)
    (link,) = find_links_to(known_cases(run), cases, new)
    assert (link.kind, *(case.case_id for case in link.cases)) == ("study", "train", "val")


# a model that is calibrated anew


@pytest.fixture(scope="module")
def site(trained):
    """A table of 30 chests of another site; the last is a flipped copy of the first, under another patient."""
    rows = [("case_id", "path", "label", "patient_id")]
    for k in range(30):
        volume = simulate_scan(9, key=f"site{k}", scanner=SCANNER)[0] if k < 29 else None
        if volume is None:
            volume = flipped(hilum.read(trained / "site-0.nii.gz"))
        volume.write(trained / f"site-{k}.nii.gz")
        rows.append((f"s{k}", f"site-{k}.nii.gz", 0 if k == 29 else k % 2, f"S{k}"))
    write_table(trained / "site.csv", rows)
    return trained / "site.csv"


def with_training_copy(trained, site, name):
    """The table of the site with a flipped copy of a training scan as a new patient."""
    with (trained / "run" / "splits.csv").open() as file:
        used = [row["case_id"] for row in csv.DictReader(file) if row["split"] == "train"]
    (trained / "flipped.nii.gz").unlink(missing_ok=True)
    flipped(hilum.read(trained / f"{used[3][1:]}.nii.gz")).write(trained / "flipped.nii.gz")
    with site.open(newline="") as file:
        write_table(trained / name, [*csv.reader(file), ("hidden", "flipped.nii.gz", 1, "H")])
    return trained / name


def test_calibration_is_not_fitted_on_copies_of_training_scans_unless_that_is_allowed_and_noted(
    trained, site, tmp_path, capsys
):
    table = with_training_copy(trained, site, "leaking.csv")
    words = ["recalibrate", str(trained / "run"), str(table), "--out", str(tmp_path / "new")]
    assert main(words) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert (
        "the cases to calibrate on leak: nearly the same scan trained or validated the model: 'hidden' (row 32)"
        in error
    )
    assert "--allow-leakage" in error
    assert not (tmp_path / "new").exists()
    assert main([*words, "--allow-leakage"]) == 0
    assert "WITH LEAKAGE that was allowed: nearly the same scan" in capsys.readouterr().out
    entry = read_card(tmp_path / "new").training["recalibrated"][0]
    assert entry["leakage"] == "leaks of cases that trained the model were allowed (near copies: 1)"
    assert "hidden" not in json.dumps(entry)


def test_near_copies_of_what_trained_and_of_what_calibrated_are_found_by_the_new_model(trained, site, tmp_path, capsys):
    done = hilum.recalibrate(trained / "run", site, tmp_path / "new")
    assert (done["counts"]["cases"], done["counts"]["patients"]) == (30, 29), "the flipped copy counts as one patient"
    assert (done["leaks"], done["notes"]) == ([], [])
    with_training_copy(trained, site, "leaking.csv")
    flipped(hilum.read(trained / "site-5.nii.gz")).write(trained / "again.nii.gz")
    rows = [("case_id", "path", "label", "patient_id"), ("hidden", "flipped.nii.gz", 1, "H")]
    rows += [("again", "again.nii.gz", 0, "A")]
    write_table(trained / "both.csv", rows)
    with pytest.raises(CohortError, match=r"nearly the same scan .* \(and 1 more leaks\)"):
        evaluate(tmp_path / "new", trained / "both.csv", tmp_path / "judged")
    for named in (tmp_path / "new", tmp_path / "new" / "model"):
        assert main(["audit", str(trained / "both.csv"), "--run", str(named)]) == 1
        said = capsys.readouterr().out
        assert "trained or validated the model: 'hidden' (row 2)" in said
        assert "trained or validated the model: 'again' (row 3)" in said
