"""A run folder keeps what it was begun with, one process at a time, and loses nothing that others put there."""

import csv
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import openpyxl
import pytest

import hilum
from hilum.cli import main
from hilum.cohorts.split_file import read_splits, splits_text
from hilum.cohorts.table import Cohort
from hilum.errors import CheckpointError, CohortError, ConfigError, HilumError, TrainingError
from hilum.files import PNG_MARK, check_output, holds
from hilum.judging import evaluate
from hilum.settings.toml import load
from hilum.training.run_cases import splits_of
from hilum.training.run_folder import Run
from hilum.training.state import TrainingState
from hilum.training.train import train


@pytest.fixture
def quick(npy_cohort):
    config = load(npy_cohort / "config.toml")
    return replace(config, training=replace(config.training, epochs=2))


# the guard against judging on what trained the model


def test_under_another_key_a_table_is_not_judged_but_on_request_and_then_every_figure_says_so(
    trained_run, npy_cohort, tmp_path, monkeypatch, capsys
):
    table, out = str(npy_cohort / "cohort.csv"), tmp_path / "e"
    monkeypatch.setenv("HILUM_KEY", "another")
    assert main(["evaluate", str(trained_run), table, "--out", str(out)]) == 1
    said = capsys.readouterr().err
    assert "made with another key" in said
    assert "set HILUM_KEY" in said
    assert "--unchecked" in said
    assert not out.exists()
    assert main(["evaluate", str(trained_run), table, "--out", str(out), "--unchecked"]) == 0
    assert "; NOT CHECKED for cases that trained the model" in capsys.readouterr().out
    answer = json.loads((out / "evaluation.json").read_text())
    assert answer["seen_checked"] is False
    assert "another key" in answer["unchecked"]
    with (out / "cases.csv").open(newline="") as file:
        assert all(row["note"].startswith("NOT CHECKED for cases that trained") for row in csv.DictReader(file))
    num_used = sum(part != "test" for part in read_splits(trained_run / "splits.csv").parts.values())
    assert answer["num_seen"] == num_used, "scans are recognised by their voxels without any key"


def test_pictures_of_unchecked_figures_carry_the_reason(trained_run, npy_cohort, tmp_path, monkeypatch):
    import hilum.judging.pictures as pictures

    feet = []
    write = pictures.write
    monkeypatch.setattr(
        pictures, "write", lambda drawn, path, foot="": feet.append(foot) or write(drawn, path, foot=foot)
    )
    monkeypatch.setenv("HILUM_KEY", "another")
    evaluate(trained_run, npy_cohort / "cohort.csv", tmp_path / "e", unchecked=True)
    assert len(feet) == 4
    assert all(foot.startswith("NOT CHECKED for cases that trained the model: the run was made") for foot in feet)


def test_settings_that_would_have_no_effect_on_a_runs_own_cases_are_refused(trained_run, capsys):
    for flag, value in (("--unchecked", []), ("--cohort.max-refused", ["0.5"]), ("--columns.label", ["x"])):
        assert main(["evaluate", str(trained_run), flag, *value]) == 1
        assert f"{flag.split('.label')[0]} must be given with a table only" in capsys.readouterr().err


def test_the_folder_of_figures_is_named_for_a_model_folder_too(trained_run, tmp_path, capsys):
    shutil.copytree(trained_run.parent, tmp_path / "all")
    run = tmp_path / "all" / trained_run.name
    assert main(["evaluate", str(run / "model")]) == 0
    assert f"report: {run / 'evaluation' / 'report.html'}\n" in capsys.readouterr().out


def test_a_model_folder_without_its_run_is_judged_only_with_unchecked(trained_run, npy_cohort, tmp_path):
    shutil.copytree(trained_run / "model", tmp_path / "alone" / "model")
    with pytest.raises(CohortError, match=r"splits\.csv tells which cases trained it, is not the folder"):
        evaluate(tmp_path / "alone" / "model", npy_cohort / "cohort.csv", tmp_path / "e")
    with pytest.raises(ConfigError, match=r"no test part of its own, .* no whole run folder: no .*alone/config\.toml"):
        evaluate(tmp_path / "alone" / "model")


def test_a_model_beside_the_split_of_another_run_is_judged_only_with_unchecked(trained_run, npy_cohort, tmp_path):
    """Otherwise its training cases would be judged, and said to be checked."""
    shutil.copytree(trained_run, tmp_path / "other")
    splits = tmp_path / "other" / "splits.csv"
    splits.write_text(splits.read_text().replace(",train,", ",test,", 1))
    with pytest.raises(CohortError, match=r"splits\.csv tells which cases trained it, is not the folder"):
        evaluate(tmp_path / "other" / "model", npy_cohort / "cohort.csv", tmp_path / "e")
    answer = evaluate(tmp_path / "other", npy_cohort / "cohort.csv", tmp_path / "e", unchecked=True)
    assert (answer["num_seen"], answer["seen_checked"]) == (0, False)
    with pytest.raises(CohortError, match=r"trained with another split than that of .*, so its test part is not known"):
        evaluate(tmp_path / "other" / "model")
    lost = changed_run(trained_run, tmp_path / "all")
    (lost / "splits.csv").unlink()
    with pytest.raises(CohortError, match=r"splits\.csv: the splits cannot be read"):
        evaluate(lost)


def test_a_run_judges_its_own_test_part_from_the_shell(trained_run, tmp_path, capsys):
    shutil.copytree(trained_run.parent, tmp_path / "all")
    run = tmp_path / "all" / trained_run.name
    before = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert main(["evaluate", str(run)]) == 0
    assert f"report: {run / 'evaluation' / 'report.html'}" in capsys.readouterr().out
    assert json.loads((run / "evaluation" / "evaluation.json").read_text()) == before
    assert main(["evaluate", str(run / "model"), "--out", str(tmp_path / "other")]) == 0
    assert (tmp_path / "other" / "cases.csv").read_bytes() == (run / "evaluation" / "cases.csv").read_bytes()


def test_formats_have_numbers_and_newer_ones_are_refused_in_one_line(trained_run, tmp_path, npy_cohort):
    formats = {"evaluation/evaluation.json": 3, "run.json": 1, "model/model.json": 4}
    for file, number in formats.items():
        assert json.loads((trained_run / file).read_text())["format"] == number
    with (trained_run / "evaluation" / "cases.csv").open(newline="") as file:
        assert {row["format"] for row in csv.DictReader(file)} == {"3"}
    shutil.copytree(trained_run, tmp_path / "run")
    for file, does in (("run.json", evaluate), ("model/model.json", evaluate)):
        path = tmp_path / "run" / file
        text = path.read_text()
        path.write_text(text.replace(f'"format": {formats[file]}', '"format": 99', 1))
        with pytest.raises(CheckpointError, match=rf"format must be {formats[file]}.*, is 99"):
            does(tmp_path / "run", npy_cohort / "cohort.csv", tmp_path / "e")
        path.write_text(text)


def test_a_run_folder_stands_for_the_model_in_it(trained_run, npy_cohort, capsys):
    shown = []
    for folder in (trained_run, trained_run / "model"):
        assert main(["predict", str(folder), str(npy_cohort / "00.npy")]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]


def changed_run(run, folder, **files):
    """A copy of a run and its cohort; each file is changed by a function of its text."""
    shutil.copytree(run.parent, folder)
    for name, change in files.items():
        path = (
            folder / {"table": "cohort.csv", "about": f"{run.name}/run.json", "splits": f"{run.name}/splits.csv"}[name]
        )
        path.write_text(change(path.read_text()))
    return folder / run.name


def test_a_run_judges_its_own_test_part_only_as_it_was_begun_with(trained_run, tmp_path):
    parts = read_splits(trained_run / "splits.csv").parts
    tested = next(case_id for case_id, part in sorted(parts.items()) if part == "test")
    line = next(one for one in (trained_run.parent / "cohort.csv").read_text().splitlines() if one.startswith(tested))
    name, path, label, *rest = line.split(",")
    other = ",".join([name, path, str(1 - int(label)), *rest])
    for number, (change, says) in enumerate(
        [(other, f"the label of case '{tested}'"), ("", f"case '{tested}' can no longer be used")]
    ):
        run = changed_run(trained_run, tmp_path / str(number), table=lambda text, new=change: text.replace(line, new))
        before = (run / "evaluation" / "evaluation.json").read_bytes()
        with pytest.raises(CohortError, match=rf"test part of .* has changed since the run was begun: {says}"):
            evaluate(run)
        assert (run / "evaluation" / "evaluation.json").read_bytes() == before
    run = changed_run(trained_run, tmp_path / "scans")
    shutil.copy(trained_run.parent / "00.npy", run.parent / path)
    with pytest.raises(CohortError, match=rf"the scan of case '{tested}'"):
        evaluate(run)


def test_the_bound_of_a_runs_store_holds_for_that_store_alone(trained_run, tmp_path):
    run = changed_run(trained_run, tmp_path / "all")
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("store_gb = 0.0", "store_gb = 1e-9"))
    with pytest.raises(ConfigError, match="store_gb"):
        evaluate(run)
    assert evaluate(run, store=tmp_path / "another")["num_cases"] > 0


def test_a_split_column_without_val_is_that_of_its_run(npy_cohort, quick, tmp_path):
    """Validation is then drawn from the training rows."""
    rows = [f"{npy_cohort}/{i:02d}.npy,{i % 2},P{i // 4},{'test' if i < 16 else 'train'}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,patient_id,split", *rows]) + "\n")
    once = replace(quick.training, epochs=1)
    config = replace(quick, training=once, cohort=replace(quick.cohort, table=str(tmp_path / "t.csv")))
    train(config, tmp_path / "run", base=npy_cohort)
    assert evaluate(tmp_path / "run")["num_cases"] == 16


def test_the_record_of_another_run_does_not_vouch_for_a_key(
    trained_run, npy_cohort, quick, tmp_path, monkeypatch, train_until
):
    """Else cases would be judged under another key than that of the split, and said to be checked."""
    run = changed_run(trained_run, tmp_path / "all")
    monkeypatch.setenv("HILUM_KEY", "another")
    train_until(quick, tmp_path / "other", base=npy_cohort)
    shutil.copy(tmp_path / "other" / "run.json", run / "run.json")
    for table in (npy_cohort / "cohort.csv", None):
        with pytest.raises(
            CheckpointError, match=r"run\.json: is not the record of .*splits\.csv: one of them comes from"
        ):
            evaluate(run, table, tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_figures_of_a_table_lie_neither_in_a_run_or_model_folder_nor_in_place_of_a_runs_own(
    trained_run, npy_cohort, tmp_path
):
    run = changed_run(trained_run, tmp_path / "all")
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    for out in (run, run / "model", run / "evaluation"):
        with pytest.raises(ConfigError, match=r"must not be a run or model folder|is for the figures of the run's own"):
            evaluate(run, npy_cohort / "cohort.csv", out)
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_a_split_that_cannot_be_read_is_said_in_one_line(trained_run, npy_cohort, tmp_path):
    run = changed_run(trained_run, tmp_path / "all")
    (run / "splits.csv").unlink()
    (run / "splits.csv").mkdir()
    for table in (None, npy_cohort / "cohort.csv"):
        with pytest.raises(CohortError, match=r"splits\.csv: the splits cannot be read: Is a directory"):
            evaluate(run, table, tmp_path / "e")


def test_a_split_that_is_cut_off_is_not_that_of_the_model(trained_run, npy_cohort, tmp_path):
    run = changed_run(trained_run, tmp_path / "all", splits=lambda text: "\n".join(text.splitlines()[:20]) + "\n")
    with pytest.raises(CohortError, match="cannot be told from others"):
        evaluate(run, npy_cohort / "cohort.csv", tmp_path / "e")


DAMAGES = {
    "no key": lambda about: {k: v for k, v in about.items() if k != "key"},
    "no split": lambda about: {k: v for k, v in about.items() if k != "split"},
    "cases in a list": lambda about: about | {"cases": [1, 2]},
    "numbers for cases": lambda about: about | {"cases": {"c00": 1}},
    "empty cases": lambda about: about | {"cases": {"c00": {}}},
    "a number of classes": lambda about: about | {"classes": 3},
    "numbers for classes": lambda about: about | {"classes": [0, 1]},
    "no format": lambda about: {k: v for k, v in about.items() if k != "format"},
    "null for the format": lambda about: about | {"format": None},
    "no object": lambda about: [1],
}
"""What can be wrong with ``run.json``."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_of_a_run_is_one_error(trained_run, tmp_path, damage):
    run = changed_run(trained_run, tmp_path / "all", about=lambda text: json.dumps(DAMAGES[damage](json.loads(text))))
    for does in (lambda: evaluate(run), lambda: train(load(run / "config.toml"), run, resume=True)):
        with pytest.raises(CheckpointError, match=r"run\.json: is damaged: it must hold format, key, split, classes"):
            does()


def test_a_record_that_cannot_be_read_is_not_called_damaged(trained_run, tmp_path):
    run = changed_run(trained_run, tmp_path / "all")
    (run / "run.json").unlink()
    (run / "run.json").mkdir()
    with pytest.raises(CheckpointError, match=r"run\.json: cannot be read: Is a directory"):
        evaluate(run)


def test_a_run_without_its_record_and_one_of_another_format_are_one_error(trained_run, tmp_path):
    run = changed_run(trained_run, tmp_path / "all", about=lambda text: text.replace('"format": 1', '"format": true'))
    with pytest.raises(CheckpointError, match="the format must be 1, is True"):
        evaluate(run)
    (run / "run.json").unlink()
    for does in (lambda: evaluate(run), lambda: train(load(run / "config.toml"), run, resume=True)):
        with pytest.raises(CheckpointError, match=r"run\.json: is missing"):
            does()
    table = run.parent / "cohort.csv"
    with pytest.raises(CohortError, match=r"its run\.json is lost"):
        evaluate(run, table, tmp_path / "e")
    assert evaluate(run, table, tmp_path / "e", unchecked=True)["num_seen"] > 30
    (run / "config.toml").unlink()
    with pytest.raises(ConfigError, match=rf"no whole run folder: no .*{trained_run.name}/config\.toml"):
        evaluate(run)
    (run / "model" / "model.json").write_text('{"a":' * 100_000)
    with pytest.raises(CheckpointError, match="is damaged"):
        hilum.Predictor(run)


# resuming


CHANGES = {
    "a label": (lambda rows: rows[3].__setitem__(2, "0"), r"the label of case 'c03'"),
    "a soft label": (lambda rows: rows[3].__setitem__(5, "0.6"), r"the soft label of case 'c03'"),
    "a weight": (lambda rows: rows[3].__setitem__(6, "2"), r"the weight of case 'c03'"),
    "a sample": (None, r"the sample of case 'c03'"),
    "a split": (lambda rows: [row.__setitem__(4, "test") for row in rows], r"the split of case"),
    "a name of a class": (
        lambda rows: [row.__setitem__(2, {"0": "b", "1": "a"}[row[2]]) for row in rows],
        r"its classes must be 0, 1, are a, b",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_whose_cohort_has_changed_is_not_resumed_and_the_case_is_named(
    npy_cohort, quick, tmp_path, train_until, change
):
    folder = tmp_path / "cohort"
    folder.mkdir()
    rows = []
    for i in range(60):
        shutil.copy(npy_cohort / f"{i:02d}.npy", folder)
        rows.append([f"c{i:02d}", f"{i:02d}.npy", str(i % 2), f"P{i // 4}", "", str(float(i % 2)), "1"])

    def write():
        header = "case_id,path,label,patient_id,split,soft_label,case_weight"
        (folder / "cohort.csv").write_text("\n".join([header, *map(",".join, rows)]) + "\n")

    write()
    config = replace(quick, cohort=replace(quick.cohort, table="cohort.csv"), store="store")
    train_until(config, tmp_path / "run", base=folder)
    changed, says = CHANGES[change]
    if changed is None:
        np.save(folder / "03.npy", np.load(folder / "03.npy")[::-1])
    else:
        changed(rows)
    write()
    with pytest.raises(CohortError, match=says):
        train(config, tmp_path / "run", resume=True)


def test_cases_that_change_patients_are_refused_by_resume_and_by_a_runs_own_judging(
    npy_cohort, quick, tmp_path, train_until
):
    """Otherwise a training patient could be among the tested ones."""
    table = tmp_path / "cohort.csv"
    rows = [f"c{i:02d},{npy_cohort}/{i:02d}.npy,{i % 2},P{i // 4}" for i in range(60)]
    table.write_text("\n".join(["case_id,path,label,patient_id", *rows]) + "\n")
    config = replace(quick, cohort=replace(quick.cohort, table=str(table)))
    train_until(config, tmp_path / "run", base=npy_cohort)
    table.write_text(table.read_text().replace(",P3", ",other"))
    assert train(config, tmp_path / "run", resume=True).is_dir(), "the same cases share another id"
    for changed in ((",other", ",P4"), (",other", ",")):  # joined with the next patient; or known no longer
        table.write_text("\n".join(["case_id,path,label,patient_id", *rows]).replace(",P3", ",other").replace(*changed))
        with pytest.raises(CohortError, match=r"patient of case 'c1\d' in .*cohort\.csv has changed"):
            train(config, tmp_path / "run", resume=True)
        with pytest.raises(CohortError, match=r"patient of case 'c1\d'"):
            evaluate(tmp_path / "run")


@pytest.mark.parametrize(("case", "patient"), [("c14", "alone"), ("c12", "alone"), ("c14", "P4"), ("c16", "P3")])
def test_a_case_that_changes_patients_is_named_itself_and_under_another_key_as_one_of_its_patient(
    npy_cohort, quick, tmp_path, monkeypatch, case, patient
):
    table = tmp_path / "cohort.csv"
    rows = [f"c{i:02d},{npy_cohort}/{i:02d}.npy,{i % 2},P{i // 4}" for i in range(60)]
    table.write_text("\n".join(["case_id,path,label,patient_id", *rows]) + "\n")
    cohort = Cohort.read(table)
    parts = {one.case_id: "train" for one in cohort.cases}
    run = Run(tmp_path / "run")
    run.folder.mkdir()
    run.splits_file.write_text(splits_text(cohort, parts, dict.fromkeys(parts, "0fab")))
    number = int(case[1:])
    table.write_text(table.read_text().replace(rows[number], rows[number].replace(f"P{number // 4}", patient)))
    with pytest.raises(CohortError, match=rf"the patient of case '{case}' in .*cohort\.csv has changed"):
        splits_of(run, Cohort.read(table))
    monkeypatch.setenv("HILUM_KEY", "another")
    with pytest.raises(CohortError, match=r"the patient of case 'c1[2-7]' or of a case that shares it in .* changed"):
        splits_of(run, Cohort.read(table))


def test_where_a_file_system_has_no_locks_training_goes_on_with_a_warning(tmp_path, monkeypatch, caplog):
    def without_locks(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("hilum.training.run_folder.fcntl.flock", without_locks)
    with Run(tmp_path / "run").locked():
        assert "cannot be locked against a second process: Function not implemented" in caplog.text


def test_a_second_process_does_not_train_in_the_same_folder(npy_cohort, quick, tmp_path, train_until):
    train_until(quick, tmp_path / "run", base=npy_cohort)
    code = (
        "import sys\nfrom hilum.training.run_folder import Run\n"
        "with Run(sys.argv[1]).locked():\n    print('locked', flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "run"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert other.stdout.readline() == b"locked\n"
    with pytest.raises(TrainingError, match="another process is training in"):
        train(quick, tmp_path / "run", resume=True)
    other.kill()  # the system ends the lock of a killed process
    other.communicate()
    assert train(quick, tmp_path / "run", resume=True).is_dir()


def test_a_resumed_run_removes_what_a_killed_process_was_writing_and_nothing_else(
    npy_cohort, quick, tmp_path, train_until
):
    train_until(quick, tmp_path / "run", base=npy_cohort)
    (tmp_path / "run" / "model").mkdir()
    left = ("last/.state.safetensors.1.abcd0123", "last/.tmpVBqbBp", "model/.tmpVBqbBp", ".metrics.csv.1.abcd0123")
    others = (".tmpVBqbBp", ".notes.txt.1.abcd0123", "last/.tmp", ".metrics.csv")
    for name in (*left, *others):
        (tmp_path / "run" / name).write_bytes(b"half")
    train(quick, tmp_path / "run", resume=True)
    assert not any((tmp_path / "run" / name).exists() for name in left)
    assert all((tmp_path / "run" / name).exists() for name in others)


@pytest.mark.parametrize("is_linked", [True, False])
@pytest.mark.parametrize("name", ["history.png", "metrics.csv"])
def test_a_resumed_run_overwrites_no_file_of_others(npy_cohort, quick, tmp_path, train_until, name, is_linked):
    train_until(quick, tmp_path / "run", base=npy_cohort)
    mine = tmp_path / "mine.txt" if is_linked else tmp_path / "run" / name
    (tmp_path / "run" / name).unlink(missing_ok=True)
    mine.write_text("precious")
    if is_linked:
        (tmp_path / "run" / name).symlink_to(mine)
    with pytest.raises(HilumError, match=rf"{name}: would be overwritten"):
        train(quick, tmp_path / "run", resume=True)
    assert mine.read_text() == "precious"


def test_a_run_that_failed_at_its_first_checkpoint_is_begun_again_by_the_same_command(
    npy_cohort, quick, tmp_path, monkeypatch
):
    def full_disk(state, folder):
        folder.mkdir()
        (folder / ".state.safetensors.1.abcd0123").touch()
        (folder / ".tmpVBqbBp").write_bytes(b"half")  # under this name safetensors writes
        (folder.parent / ".metrics.csv.1.abcd0123").write_text("half")
        msg = "No space left on device"
        raise OSError(28, msg)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "save", full_disk)
        with pytest.raises(ConfigError, match="No space left on device"):
            train(quick, tmp_path / "run", base=npy_cohort)
    assert not (tmp_path / "run").exists()
    with monkeypatch.context() as patch:  # as a killed process leaves it
        patch.setattr(TrainingState, "save", full_disk)
        patch.setattr(Run, "clear", lambda self: None)
        with pytest.raises(ConfigError):
            train(quick, tmp_path / "run", base=npy_cohort)
    assert {"config.toml", "splits.csv", "run.json", "metrics.csv"} <= {f.name for f in (tmp_path / "run").iterdir()}
    assert Run(tmp_path / "run").state == "new"
    assert train(quick, tmp_path / "run", base=npy_cohort).is_dir()
    assert Run(tmp_path / "run").state == "whole"


def test_what_marks_a_folder_as_a_runs_is_removed_last(npy_cohort, quick, tmp_path, monkeypatch):
    """Or a process that is killed meanwhile would leave files that belong to nobody."""
    gone = []
    unlink = Path.unlink
    monkeypatch.setattr(Path, "unlink", lambda file, **how: gone.append(file.name) or unlink(file, **how))
    monkeypatch.setattr("hilum.training.train.fit", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(quick, tmp_path / "run", base=npy_cohort)
    names = [name for name in gone if name in ("config.toml", "splits.csv", "run.json")]
    assert sorted(names) == ["config.toml", "run.json", "splits.csv"]
    assert names[-1] == "run.json"


def test_what_a_stranger_puts_into_the_folder_while_a_run_fails_stays(npy_cohort, quick, tmp_path, monkeypatch):
    def fail(state, folder):
        (tmp_path / "run" / "notes.txt").write_text("mine")
        (tmp_path / "run" / "history.png").write_text("mine too")
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingState, "save", fail)
    (tmp_path / "run").mkdir()
    with pytest.raises(KeyboardInterrupt):
        train(quick, tmp_path / "run", base=npy_cohort)
    assert {f.name for f in (tmp_path / "run").iterdir()} == {"notes.txt", "history.png"}
    with pytest.raises(ConfigError, match=r"must be new or empty.*history\.png, which no run wrote"):
        train(quick, tmp_path / "run", base=npy_cohort)


def test_a_run_removes_neither_its_inputs_nor_files_of_runs_and_programs_that_it_did_not_begin(
    trained_run, npy_cohort, tmp_path, capsys
):
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(trained_run / "config.toml", folder)
    events = next(trained_run.glob("events*"))
    for config, what in ((folder / "config.toml", "an input of the run"), (npy_cohort / "config.toml", "which no run")):
        assert main(["train", str(config), "--out", str(folder)]) == 1
        assert f"config.toml, {what}" in capsys.readouterr().err
    assert (folder / "config.toml").read_bytes() == (trained_run / "config.toml").read_bytes()
    (folder / "config.toml").unlink()
    shutil.copy(events, folder)
    assert main(["train", str(npy_cohort / "config.toml"), "--out", str(folder)]) == 1
    assert f"{events.name}, which no run wrote (move it, or name another --out)" in capsys.readouterr().err
    assert [file.name for file in folder.iterdir()] == [events.name]


# paths


def test_a_link_that_leads_nowhere_is_no_folder_for_a_run_or_for_figures(trained_run, npy_cohort, quick, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(ConfigError, match="must be new or empty"):
        train(quick, tmp_path / "link", base=npy_cohort)
    with pytest.raises(ConfigError, match="must be new or a folder"):
        evaluate(trained_run, out=tmp_path / "link")


def test_a_run_below_a_linked_folder_finds_its_table_and_store(npy_cohort, quick, tmp_path, train_until):
    (tmp_path / "elsewhere" / "deep" / "runs").mkdir(parents=True)
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "runs").symlink_to(tmp_path / "elsewhere" / "deep" / "runs")
    out = tmp_path / "project" / "runs" / "a"
    train_until(quick, out, base=npy_cohort)
    assert Run(out).table.samefile(npy_cohort / "cohort.csv")
    assert Run(tmp_path / "elsewhere" / "deep" / "runs" / "a").store.samefile(npy_cohort / "store")
    train(quick, out, resume=True)
    assert evaluate(out)["num_cases"] > 0


def test_a_home_folder_in_a_path_is_one_in_every_verb(npy_cohort, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(npy_cohort))
    text = (npy_cohort / "config.toml").read_text().replace('"cohort.csv"', '"~/cohort.csv"')
    config = tmp_path / "config.toml"
    config.write_text('store = "~/store"\n' + text)
    assert main(["prepare", str(config)]) == 0
    assert main(["store", "list", str(config)]) == 0
    assert f"{npy_cohort / 'store'}: " in capsys.readouterr().out
    assert main(["plan", str(config), "--no-time"]) == 0
    assert "training cases" in capsys.readouterr().out
    assert not (tmp_path / "~").exists()


def test_a_home_folder_in_a_cell_a_flag_or_an_argument_is_that_of_the_user(
    trained_run, npy_cohort, tmp_path, monkeypatch, capsys
):
    tmp_path = tmp_path / r"\Users"  # no pattern of a regular expression
    tmp_path.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(npy_cohort)
    hilum.Volume.from_array(np.zeros((5, 6, 7)), spacing_mm=(3, 2, 1)).write("~/scan.nii.gz")
    assert hilum.read("~/scan.nii.gz").shape == (5, 6, 7)
    shutil.copy("00.npy", tmp_path)
    (tmp_path / "table.csv").write_text("path,label\n~/00.npy,0\n01.npy,1\n")
    assert [case.path for case in Cohort.read("~/table.csv").cases] == [tmp_path / "00.npy", tmp_path / "01.npy"]
    assert main(["predict", str(trained_run), "~/table.csv", "--out=~/p.csv"]) == 3, "01.npy is not there"
    assert (tmp_path / "p.csv").is_file()
    assert evaluate(trained_run, out="~/e")["num_cases"] > 0
    assert (tmp_path / "e" / "cases.csv").is_file()
    assert not (npy_cohort / "~").exists()


# outputs never overwrite what others wrote


def stranger(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("someone's notes\n")
    return path


def test_no_verb_overwrites_a_file_that_it_did_not_write(trained_run, npy_cohort, tmp_path, capsys):
    scan, table, model = npy_cohort / "00.npy", npy_cohort / "cohort.csv", trained_run / "model"
    page, sheet, figures = (stranger(tmp_path / name) for name in ("page.html", "sheet.csv", "e/evaluation.json"))
    picture = stranger(tmp_path / "pictures" / "roc.png")
    refused, cases = stranger(tmp_path / "r" / "refused.csv"), tmp_path / "c" / "cases.csv"
    cases.parent.mkdir()
    shutil.copy(trained_run / "evaluation" / "cases.csv", cases)  # its own format, but an input
    linked = tmp_path / "linked.csv"
    linked.symlink_to(table)
    before = {file: file.read_bytes() for file in (page, sheet, figures, picture, refused, cases, scan, table)}
    commands = [
        ["inspect", npy_cohort, "--html", page],
        ["augment", scan, "--out", page],
        ["augment", scan, "--out", scan],
        ["cohort", npy_cohort, "--out", sheet],
        ["cohort", npy_cohort, "--labels", sheet, "--out", sheet],
        ["predict", model, table, "--out", sheet],
        ["predict", model, table, "--out", table],
        ["predict", model, table, "--out", linked],
        ["evaluate", trained_run, table, "--out", figures.parent],
        ["evaluate", trained_run, table, "--out", picture.parent],
        ["evaluate", trained_run, cases, "--out", cases.parent],
        ["evaluate", trained_run, "--out", refused.parent],
        ["train", npy_cohort / "config.toml", "--out", figures.parent],
        ["plan", npy_cohort / "config.toml", "--write", npy_cohort / "config.toml"],
        ["export", model, "--format", "onnx", "--out", npy_cohort / "cohort.csv"],
    ]
    for command in commands:
        assert main([*map(str, command)]) == 1, command
        assert capsys.readouterr().err.count("\n") == 1, command
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.charts
def test_what_a_verb_wrote_before_it_writes_again(trained_run, npy_cohort, tmp_path):
    table, out = npy_cohort / "cohort.csv", tmp_path / "p.csv"
    for _ in range(2):
        assert main(["predict", str(trained_run / "model"), str(table), "--out", str(out)]) == 0
        assert main(["inspect", str(npy_cohort), "--html", str(tmp_path / "page.html")]) in (0, 1)
        assert main(["evaluate", str(trained_run), "--out", str(tmp_path / "e")]) == 0
    assert holds(tmp_path / "e" / "roc.png", PNG_MARK)


def test_an_output_is_known_by_what_is_in_it_not_by_its_name(tmp_path):
    own, other = tmp_path / "own.txt", tmp_path / "other.txt"
    own.write_text("mark and more")
    other.write_text("more")
    check_output(tmp_path / "new.txt", "^mark")
    check_output(own, "^mark")
    for path, inputs in ((other, []), (own, [own]), (tmp_path, [])):
        with pytest.raises(HilumError, match=r"overwritten|must be a file") as caught:
            check_output(path, "^mark", inputs=inputs)
        assert caught.value.path == path


def test_a_cohort_is_written_as_excel_where_its_name_says_so(tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "scans" / name).mkdir(parents=True)
        np.save(tmp_path / "scans" / name / "007.npy", np.random.default_rng(0).uniform(0, 1, (6, 6, 6)))
    out = tmp_path / "cohort.xlsx"
    for _ in range(2):
        assert main(["cohort", str(tmp_path / "scans"), "--out", str(out)]) == 0
    rows = list(openpyxl.load_workbook(out).active.values)
    assert rows[0][:3] == ("case_id", "path", "label")
    assert [row[2] for row in rows[1:]] == ["a", "b"]
    assert oct((tmp_path / "cohort.xlsx.map.csv").stat().st_mode & 0o777) == "0o600"
    assert main(["cohort", str(tmp_path / "scans"), "--out", str(tmp_path / "cohort.doc")]) == 1
    assert "must be named .csv, .xlsx or .parquet" in capsys.readouterr().err
