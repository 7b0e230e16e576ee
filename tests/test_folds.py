"""Tests of runs of folds: members, predictions out of fold, the ensemble, and ensembles of several runs."""

import contextlib
import csv
import json
import logging
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from held_out import held_out
from hilum import Predictor, evaluate, train
from hilum.cli import main
from hilum.cohorts.split_file import read_splits
from hilum.cohorts.table import Case, Cohort
from hilum.deciding.decision import Decisions
from hilum.deciding.fit_decisions import TrainingCases, decisions_of
from hilum.deciding.model_folder import load_model, read_card, save_model
from hilum.errors import ConfigError, TrainingError
from hilum.findings import find
from hilum.judging.model_facts import abstaining_facts
from hilum.measuring.metrics import roc_auc
from hilum.modelling.ensemble import Ensemble
from hilum.predicting.export import export_model
from hilum.preparing.npy import from_npy
from hilum.settings.run import DecisionConfig, LossConfig, RunConfig
from hilum.settings.toml import load
from hilum.training import folds as folds_module
from hilum.training.card import figures_of
from hilum.training.folds import train_folds
from hilum.training.merge import ensemble
from hilum.training.out_of_fold import cross_fitted, read_out_of_fold, write_out_of_fold
from hilum.training.run_folder import Run

LOGGER = logging.getLogger("hilum")


def rows_of(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def quick(folder, **settings):
    config = load(folder / "config.toml")
    return replace(config, training=replace(config.training, epochs=2, **settings))


@pytest.fixture(scope="module")
def folder(npy_cohort, tmp_path_factory):
    """A cohort of its own, for runs beside it."""
    own = tmp_path_factory.mktemp("folds")
    shutil.copytree(npy_cohort, own / "c", ignore=shutil.ignore_patterns("run", "store"))
    return own / "c"


@pytest.fixture(scope="module")
def run(folder):
    """A run of three folds and two seeds, by the command line and two processes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HILUM_KEY", "tests")
        out = folder.parent / "run"
        flags = ["--folds", "3", "--seeds", "2", "--jobs", "2", "--training.epochs", "2"]
        assert main(["train", str(folder / "config.toml"), "--out", str(out), *flags]) == 0
    return Run(out)


def test_each_case_is_predicted_by_the_members_that_held_it_out_and_by_no_other(run, folder):
    rows = rows_of(run.cases_file)
    assert sorted(row["case_id"] for row in rows) == [f"c{i:02d}" for i in range(60)]
    assert {row["fold"] for row in rows} == {"0", "1", "2"}
    predictors = {member.folder.name: Predictor(member.folder) for member in run.members}
    assert sorted(predictors) == sorted(f"fold-{fold}-seed-{seed}" for fold in range(3) for seed in range(2))
    for row in rows[::7]:
        fold, logits = int(row["fold"]), []
        sample = from_npy(folder / f"{row['case_id'][1:]}.npy", predictors["fold-0-seed-0"].card.recipe)
        for seed in range(2):
            name = f"fold-{fold}-seed-{seed}"
            assert read_splits(run.folder / name / "splits.csv").parts[row["case_id"]] == "test"
            logits.append(predictors[name].logits([sample])[0])
        expected = np.mean(logits, axis=0)
        assert np.allclose([float(row["logit_0"]), float(row["logit_1"])], expected, atol=1e-5)


def test_a_run_of_folds_whose_plan_is_lost_says_so_on_resume_and_is_still_judged(run, capsys):
    lost = run.folder.parent / "lost"
    shutil.copytree(run.folder, lost)
    (lost / "folds.json").unlink()
    assert main(["train", str(lost / "config.toml"), "--out", str(lost), "--resume"]) == 1
    assert re.search(r"folds\.json: .*cannot be read: No such file", capsys.readouterr().err)
    assert evaluate(lost)["auc"] == evaluate(run.folder)["auc"]


def test_nothing_is_computed_for_a_run_folder_that_cannot_be_made(folder, tmp_path, capsys):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "run"
    assert main(["train", str(folder / "config.toml"), "--out", str(out), "--folds", "3"]) == 1
    assert (
        capsys.readouterr().err
        == f"hilum: --out must be a run folder in a folder, got {out}: {out.parent} is no folder\n"
    )


def test_no_patient_is_in_two_folds_and_every_fold_has_both_classes(run, folder):
    patient = {case.case_id: case.patient_id for case in Cohort.read(folder / "cohort.csv").cases}
    fold_of = {}
    for row in rows_of(run.cases_file):
        assert fold_of.setdefault(patient[row["case_id"]], row["fold"]) == row["fold"]
    assert {(row["fold"], row["label"]) for row in rows_of(run.cases_file)} == {
        (fold, label) for fold in "012" for label in "01"
    }


def test_probabilities_and_decisions_of_a_fold_are_fitted_on_the_others(run, folder):
    """By hand: the same fit on the other folds' logits gives the same numbers, and its own labels change nothing."""
    found = read_out_of_fold(run.cases_file, ("0", "1"), multi_label=False)
    cases = {case.case_id: case for case in Cohort.read(folder / "cohort.csv").cases}
    ordered = [cases[case_id] for case_id in found.case_ids]
    labels = np.array([case.label for case in ordered])
    config, trained = run.members[0].settings, TrainingCases(labels=labels, counted=np.ones(len(labels)))
    for fold in range(3):
        others = found.folds != fold
        each, _ = decisions_of(config, ("0", "1"), trained, held_out(labels[others], found.logits[others]))
        decisions = Decisions(classes=("0", "1"), each=each)
        probs = decisions.probabilities(found.logits[~others])
        assert np.allclose(found.probs[~others], probs, atol=1e-9)
        assert found.decided[~others].tolist() == decisions.decided(probs).tolist()
    turned = [replace(c, label=1 - c.label) if f == 1 else c for c, f in zip(ordered, found.folds, strict=True)]
    again, _ = cross_fitted(config, ("0", "1"), trained, turned, found.folds, found.logits, found.unseen)
    assert np.allclose(again.probs[found.folds == 1], found.probs[found.folds == 1])
    assert not np.allclose(again.probs[found.folds == 0], found.probs[found.folds == 0])


def test_sets_and_gate_out_of_fold_are_kept_with_the_predictions_and_fitted_on_other_folds(tmp_path):
    rng = np.random.default_rng(4)
    labels, folds = rng.integers(0, 2, 450), np.repeat([0, 1, 2], 150)
    logits = np.stack([np.zeros(450), rng.normal(2.0 * labels - 1, 1.0)], axis=1)
    cases = [Case(case_id=f"c{n}", path=tmp_path, label=k, patient_id=f"p{n}") for n, k in enumerate(labels.tolist())]
    unseen = [(find("unseen-hu", "the median of HU is 3 HU"),) if n == 7 else () for n in range(450)]
    config = RunConfig(decision=DecisionConfig(abstain="sets", error=0.1))
    trained = TrainingCases(labels=labels, counted=np.ones(450))
    found, by_fold = cross_fitted(config, ("0", "1"), trained, cases, folds, logits, unseen)
    for fold in range(3):
        others = folds != fold
        (one,), _ = decisions_of(
            config, ("0", "1"), trained, held_out(labels[others], logits[others], chose_epoch=False)
        )
        members = one.sets.members(found.probs[folds == fold]).tolist()
        kept = [found.sets[n]["classes"] for n in np.flatnonzero(folds == fold)]
        assert kept == [tuple(name for name, inside in zip("01", row, strict=True) if inside) for row in members]
    write_out_of_fold(tmp_path / "cases.csv", ("0", "1"), cases, found)
    again = read_out_of_fold(tmp_path / "cases.csv", ("0", "1"), multi_label=False)
    assert (again.sets, again.unseen) == (found.sets, found.unseen)
    told = abstaining_facts(Decisions(classes=("0", "1"), each=by_fold[0].each), labels, again.sets)["1"]
    for k, each in enumerate(told["covered"]):
        assert each["share"] == np.mean([str(k) in own["classes"] for own in np.array(found.sets)[labels == k]])
        assert 0.84 < each["share"] < 0.96
    assert told["singles"] == np.mean([len(own["classes"]) == 1 for own in found.sets])


def test_the_evaluation_has_the_pooled_figure_the_mean_of_the_folds_and_says_what_they_are(run):
    evaluation = json.loads((run.evaluation / "evaluation.json").read_text())
    rows = rows_of(run.cases_file)
    y, p = np.array([int(row["label"]) for row in rows]), np.array([float(row["prob_1"]) for row in rows])
    fold = np.array([int(row["fold"]) for row in rows])
    assert evaluation["num_cases"] == 60
    assert evaluation["auc"] == pytest.approx(roc_auc(y, p))
    by_fold = evaluation["folds"]["outputs"]["1"]
    each = [roc_auc(y[fold == k], p[fold == k]) for k in range(3)]
    assert [one["auc"] for one in by_fold["folds"]] == pytest.approx(each)
    assert by_fold["auc_fold_mean"] == pytest.approx(np.mean(each))
    called = np.array([row["decision"] == "1" for row in rows])
    assert evaluation["sensitivity"] == pytest.approx(called[y == 1].mean())
    page = (run.evaluation / "report.html").read_text()
    assert "no honest figure" in page
    assert "hilum recalibrate" in page
    assert "the scale of each fold&#39;s logits is its own" in page or "the scale of each fold's logits" in page
    assert "mean of the folds" in page
    assert "1: errors over coverage" in page
    assert rows_of(run.evaluation / "cases.csv")[0].keys() >= {"fold", "prob_1", "decision"}


def test_a_card_of_cases_that_all_are_undecided_has_no_rates_and_is_no_broken_json():
    labels, undecided = np.array([0, 1, 1]), np.full(3, -1)
    said = figures_of(labels, np.array([[0.6, 0.4]] * 3), undecided, Decisions(classes=("0", "1")))
    assert (said["accuracy"], said["sensitivity"], said["specificity"]) == (None, None, None)
    assert said["auc"] == 0.5


def test_the_card_of_the_ensemble_names_its_members_and_has_no_figure_of_its_own(run):
    card = read_card(run.model)
    about = card.training["ensemble"]
    assert (about["folds"], about["seeds"], about["lost"]) == (3, 2, [])
    assert [one.name for one in card.members] == [one["name"] for one in about["members"]]
    assert "no honest figure" in about["note"]
    assert "recalibrate" in about["note"]
    rows = rows_of(run.cases_file)
    called, labels = (np.array([int(row[name]) for row in rows]) for name in ("decision", "label"))
    said = card.training["validation"]
    assert said["sensitivity"] == pytest.approx(np.mean(called[labels == 1]))
    assert said["specificity"] == pytest.approx(np.mean(1 - called[labels == 0]))
    assert said["auc"] == pytest.approx(roc_auc(labels, np.array([float(row["prob_1"]) for row in rows])))


def test_folds_whose_other_cases_were_too_few_for_a_fit_are_told(folder, tmp_path, caplog):
    """Of 40 cases in two folds 20 are left for a fold's fit, and 40 for the ensemble's; Platt's asks for 30."""
    lines = (folder / "cohort.csv").read_text().splitlines()
    (folder / "small.csv").write_text("\n".join(lines[:41]) + "\n")
    config = quick(folder)
    config = replace(config, cohort=replace(config.cohort, table="small.csv"))
    train_folds(config, tmp_path / "run", folds=2, base=folder)
    card = read_card(tmp_path / "run")
    assert card.decisions.each[0].calibration.method == "platt"
    told = "but for the cases of fold 0, 1 the other folds allowed: "
    assert told in card.training["ensemble"]["note"]
    assert f"warning: The ensemble is calibrated by platt, {told}" in caplog.text
    evaluate(tmp_path / "run")
    assert told in json.loads((tmp_path / "run" / "evaluation" / "evaluation.json").read_text())["folds"]["note"]
    assert told in (tmp_path / "run" / "evaluation" / "report.html").read_text()


def test_the_ensemble_predicts_the_mean_logit_of_all_members(run, folder):
    predictor = Predictor(run.folder)
    samples = [from_npy(folder / f"{i:02d}.npy", predictor.card.recipe) for i in range(4)]
    each = [Predictor(member.folder).logits(samples) for member in run.members]
    assert np.allclose(predictor.logits(samples), np.mean(each, axis=0), atol=1e-5)
    prediction = predictor.predict(folder / "01.npy")
    assert set(prediction.probabilities) == {"0", "1"}
    assert prediction.decision in ("0", "1")


def test_an_ensemble_is_exported_as_one_file_that_agrees(run, tmp_path):
    """Two of its members are exported: each takes seconds."""
    pytest.importorskip("onnxruntime")
    network, card = load_model(run.model)
    two = Ensemble(dict(list(network.members.items())[::5]))
    save_model(tmp_path / "two", two, replace(card, members=card.members[::5]))
    assert len(load_model(tmp_path / "two")[0].members) == 2
    assert export_model(tmp_path / "two", tmp_path / "e.onnx", format="onnx").difference < 1e-4
    assert export_model(tmp_path / "two", tmp_path / "e.pt2", format="pt2").difference < 1e-4


def test_evaluate_on_a_table_leaves_out_what_any_member_has_seen(run, folder, tmp_path, capsys):
    table = tmp_path / "new.csv"
    lines = (folder / "cohort.csv").read_text().splitlines()
    rows = [line.replace(line.split(",")[1], str(folder / line.split(",")[1])) for line in lines[1:]]
    random = np.random.default_rng(5)
    for i in range(6):
        np.save(tmp_path / f"n{i}.npy", random.uniform(0, 1, (12, 12, 12)).astype(np.float32))
    new = [f"n{i},n{i}.npy,{i % 2},NEW-{i},7" for i in range(6)]
    table.write_text("\n".join([lines[0], *rows, *new]) + "\n")
    answer = evaluate(run.folder, table, tmp_path / "out", max_refused=0.5)
    assert (answer["num_seen"], answer["num_cases"]) == (60, 6)
    with pytest.raises(Exception, match="the model has seen 60 of 60"):
        evaluate(run.folder, folder / "cohort.csv", tmp_path / "none")


def test_evaluate_without_a_table_judges_out_of_fold_again(run, tmp_path):
    before = json.loads((run.evaluation / "evaluation.json").read_text())
    again = evaluate(run.folder, None, tmp_path / "again")
    assert again["auc"] == before["auc"]
    assert again["folds"] == before["folds"]


def test_an_ensemble_is_recalibrated_like_any_model(run, folder, tmp_path):
    random = np.random.default_rng(6)
    rows = ["case_id,path,label,patient_id"]
    for i in range(30):
        np.save(tmp_path / f"n{i}.npy", random.uniform(0, 0.5 + 0.3 * (i % 2), (12, 12, 12)).astype(np.float32))
        rows.append(f"n{i},n{i}.npy,{i % 2},NEW-{i}")
    (tmp_path / "new.csv").write_text("\n".join(rows) + "\n")
    command = ["recalibrate", str(run.folder), str(tmp_path / "new.csv"), "--out", str(tmp_path / "again")]
    assert main([*command, "--decision.calibration", "temperature"]) == 0
    network, card = load_model(tmp_path / "again")
    assert isinstance(network, Ensemble)
    assert len(card.members) == 6
    assert "recalibrated" in card.training


def test_a_member_is_a_run_of_its_own(run):
    member = run.members[0]
    assert (member.state, member.settings.split.fold) == ("whole", 0)
    answer = evaluate(member.folder)
    assert answer["num_cases"] == sum(row["fold"] == "0" for row in rows_of(run.cases_file))


def test_jobs_do_not_change_the_result(run, folder, tmp_path):
    train_folds(quick(folder), tmp_path / "one", folds=3, seeds=1, base=folder)
    for fold in range(3):
        name = f"fold-{fold}-seed-0"
        one, two = (f / name / "metrics.csv" for f in (tmp_path / "one", run.folder))
        assert one.read_bytes() == two.read_bytes()


def test_a_run_of_folds_that_was_stopped_goes_on_and_ends_as_an_unbroken_one(folder, tmp_path, monkeypatch):
    config = quick(folder)
    train_folds(config, tmp_path / "whole", folds=3, base=folder)
    fit, calls = folds_module.fit, []

    def stopped(*args, **kwargs):
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return fit(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(folds_module, "fit", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_folds(config, tmp_path / "broken", folds=3, base=folder)
    assert Run(tmp_path / "broken").state == "begun"
    with pytest.raises(ConfigError, match="must be new or empty"):
        train_folds(config, tmp_path / "broken", folds=3, base=folder)
    train_folds(config, tmp_path / "broken", resume=True)
    assert (tmp_path / "broken" / "cases.csv").read_bytes() == (tmp_path / "whole" / "cases.csv").read_bytes()
    cards = [read_card(tmp_path / name).decisions for name in ("broken", "whole")]
    assert cards[0] == cards[1]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_lost_a_member_says_so_and_goes_on(folder, tmp_path, monkeypatch, caplog, capsys, jobs):
    """The member is lost because its folder is locked, as it would be by memory that runs out."""
    check = folds_module._check_members

    def locked(tasks):
        """Another process trains in the folder of a member."""
        for task in tasks:
            if task.config.split.fold == 1:
                other.enter_context(Run(task.folder).locked())
        check(tasks)

    other = contextlib.ExitStack()
    monkeypatch.setattr(folds_module, "_check_members", locked)
    flags = ["--folds", "3", "--jobs", str(jobs), "--training.epochs", "1", "--out", str(tmp_path / "run")]
    assert main(["train", str(folder / "config.toml"), *flags]) == 3
    said = [record.getMessage() for record in caplog.records]
    lost = next(k for k, line in enumerate(said) if "a member was lost, and the others go on: fold 1, seed 0" in line)
    assert jobs == 2 or lost < said.index("fold 2, seed 0:"), "said when it happened"
    assert (
        f"members that were lost: 1; hilum train {tmp_path}/run/config.toml --out {tmp_path}/run --resume"
        in caplog.text
    )
    assert "fold 1 has no member" in caplog.text
    run = Run(tmp_path / "run")
    assert {row["fold"] for row in rows_of(run.cases_file)} == {"0", "2"}
    assert "fold 1, seed 0" in read_card(run.model).training["ensemble"]["lost"][0]
    assert "A member was lost" in (run.evaluation / "report.html").read_text()
    other.close()
    monkeypatch.setattr(folds_module, "_check_members", check)
    assert main(["train", str(folder / "config.toml"), "--out", str(tmp_path / "run"), "--resume"]) == 0
    assert {row["fold"] for row in rows_of(run.cases_file)} == {"0", "1", "2"}


def test_a_member_whose_state_cannot_be_read_is_trained_anew(run, folder, caplog):
    copy = run.folder.with_name("unread")
    shutil.copytree(run.folder, copy)
    for lost in (copy / "model", copy / "fold-2-seed-1" / "model"):
        shutil.rmtree(lost)
    (copy / "fold-2-seed-1" / "last" / "state.safetensors").write_bytes(b"damaged")
    train_folds(quick(folder), copy, resume=True)
    assert "warning: the member is trained anew" in caplog.text
    assert (copy / "cases.csv").read_bytes() == run.cases_file.read_bytes()


def test_members_in_the_wrong_folders_are_refused_for_they_have_seen_the_cases(run, folder, capsys):
    copy = run.folder.with_name("swapped")  # beside it, for its paths are relative
    shutil.copytree(run.folder, copy)
    one, other = (copy / f"fold-{fold}-seed-0" for fold in (0, 1))
    one.rename(copy.with_name("aside"))
    other.rename(one)
    copy.with_name("aside").rename(other)
    shutil.rmtree(copy / "model")
    assert main(["train", str(folder / "config.toml"), "--out", str(copy), "--resume"]) == 1
    assert "must be the member of fold 0, seed 0, and was trained on other cases" in capsys.readouterr().err
    assert not (copy / "model").exists()


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        ("config.toml", "\nepochs = 2", "\nepochs = 3", "training.epochs must be 2, is 3"),
        ("config.toml", "label_smoothing = 0.1", "label_smoothing = 0.0", "loss.label_smoothing must be 0.1, is 0.0"),
        ("fold-1-seed-0/run.json", '"training.lr": ', '"training.lr": 1', "training.lr must be"),
        ("folds.json", '"seeds": 2', '"seeds": -2', "seeds must be at least 1, got -2"),
    ],
)
def test_settings_that_were_changed_before_a_resume_are_refused(run, folder, capsys, file, old, new, says):
    copy = run.folder.with_name("changed")
    shutil.copytree(run.folder, copy)
    text = (copy / file).read_text()
    assert old in text
    (copy / file).write_text(text.replace(old, new))
    shutil.rmtree(copy / "model")
    assert main(["train", str(folder / "config.toml"), "--out", str(copy), "--resume"]) == 1
    said = capsys.readouterr().err
    shutil.rmtree(copy)
    assert says in said
    assert said.count("\n") == 1


def test_a_state_of_another_member_is_not_gone_on_with(run, folder, caplog):
    """It has seen the cases of this fold."""
    copy = run.folder.with_name("mixed")
    shutil.copytree(run.folder, copy)
    for lost in (copy / "model", copy / "fold-1-seed-0" / "model"):
        shutil.rmtree(lost)
    name = "last/state.safetensors"
    shutil.copy(copy / "fold-0-seed-0" / name, copy / "fold-1-seed-0" / name)
    train_folds(quick(folder), copy, resume=True)
    assert "the member is trained anew" in caplog.text
    assert "it is the state of another fold or seed" in caplog.text
    assert (copy / "cases.csv").read_bytes() == run.cases_file.read_bytes()


def test_predictions_of_another_run_are_not_judged(run, capsys):
    copy = run.folder.with_name("shortened")
    shutil.copytree(run.folder, copy)
    lines = (copy / "cases.csv").read_text().splitlines()
    (copy / "cases.csv").write_text("\n".join(lines[:4]) + "\n")
    assert main(["evaluate", str(copy)]) == 1
    assert "must hold the predictions that calibrated the ensemble" in capsys.readouterr().err


def test_a_resumed_run_keeps_its_folds_and_seeds(run, folder, capsys):
    command = ["train", str(folder / "config.toml"), "--out", str(run.folder), "--resume"]
    assert main([*command, "--folds", "5"]) == 1
    assert "--folds of a resumed run must be absent or 3, as the run was begun with, got 5" in capsys.readouterr().err
    assert main([*command, "--folds", "3", "--seeds", "3"]) == 1
    assert "--seeds of a resumed run must be absent or 2" in capsys.readouterr().err


def test_loaders_of_members_that_are_trained_side_by_side_have_processes_of_their_own(folder, tmp_path):
    config = quick(folder, workers=1)
    train_folds(
        replace(config, training=replace(config.training, epochs=1)), tmp_path / "run", folds=2, jobs=2, base=folder
    )
    assert read_card(tmp_path / "run").training["ensemble"]["lost"] == []


def test_an_ensemble_of_one_fold_is_refused(folder, tmp_path, monkeypatch):
    def lost(task):
        raise TrainingError("lost")

    monkeypatch.setattr(folds_module, "_member", lost)
    with pytest.raises(TrainingError, match="needs members of two folds or more"):
        train_folds(quick(folder), tmp_path / "run", folds=3, base=folder)


@pytest.mark.parametrize(("flags", "says"), [
    (["--folds", "1"], "--folds must be at least 2, got 1"),
    (["--folds", "3", "--seeds", "0"], "--seeds must be at least 1, got 0"),
    (["--folds", "3", "--jobs", "0"], "--jobs must be at least 1, got 0"),
    (["--seeds", "2"], "--seeds must be 1 without --folds, got 2"),
    (["--folds", "40"], "take at most"),
    (["--folds", "3", "--allow-leakage"], "--allow-leakage must be absent with --folds"),
])  # fmt: skip
def test_wrong_flags_are_one_line_and_nothing_is_written(folder, tmp_path, capsys, flags, says):
    assert main(["train", str(folder / "config.toml"), "--out", str(tmp_path / "run"), *flags]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert says in error
    assert not (tmp_path / "run").exists()


def test_a_table_with_a_split_of_its_own_has_no_folds(folder, tmp_path, capsys):
    lines = (folder / "cohort.csv").read_text().splitlines()
    parts = ["train", "val", "test"]
    split = [f"{line},{parts[(i // 4) % 3]}" for i, line in enumerate(lines[1:])]
    table = folder / "split.csv"
    table.write_text("\n".join([f"{lines[0]},split", *split]) + "\n")
    command = ["train", str(folder / "config.toml"), "--cohort.table", str(table), "--folds", "3"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 1
    assert "has a split column and split.folds = 3 is set" in capsys.readouterr().err


def test_runs_of_the_same_folds_become_one_ensemble(run, folder, tmp_path):
    train_folds(quick(folder, seed=7), tmp_path / "other", folds=3, base=folder)
    model = ensemble([run.folder, tmp_path / "other"], tmp_path / "both")
    card = read_card(model)
    assert len(card.members) == 9
    with pytest.raises(ConfigError, match="is an ensemble of other runs, and has nothing to resume"):
        train_folds(quick(folder), tmp_path / "both", resume=True)
    with pytest.raises(ConfigError, match="has no members of its own"):
        ensemble([tmp_path / "both", run.folder], tmp_path / "more")
    both = read_out_of_fold(tmp_path / "both" / "cases.csv", ("0", "1"), multi_label=False)
    one, other = (
        read_out_of_fold(r / "cases.csv", ("0", "1"), multi_label=False) for r in (run.folder, tmp_path / "other")
    )
    assert both.case_ids == one.case_ids == other.case_ids
    assert np.allclose(both.logits, (2 * one.logits + other.logits) / 3, atol=1e-5)
    assert evaluate(tmp_path / "both")["num_cases"] == 60


def test_single_runs_of_one_split_are_calibrated_on_validation_and_their_test_part_stays_unseen(
    folder, tmp_path, capsys
):
    for seed in (0, 1):
        train(quick(folder, seed=seed), tmp_path / f"r{seed}", base=folder)
    assert main(["ensemble", str(tmp_path / "r0"), str(tmp_path / "r1"), "--out", str(tmp_path / "both")]) == 0
    own = evaluate(tmp_path / "r0", None, tmp_path / "own")
    both = json.loads((tmp_path / "both" / "evaluation" / "evaluation.json").read_text())
    assert both["num_cases"] == own["num_cases"]
    predictor = Predictor(tmp_path / "both")
    sample = from_npy(folder / "00.npy", predictor.card.recipe)
    each = [Predictor(tmp_path / f"r{seed}").logits([sample]) for seed in (0, 1)]
    assert np.allclose(predictor.logits([sample]), np.mean(each, axis=0), atol=1e-5)


def test_runs_that_do_not_fit_together_are_named(run, folder, tmp_path, capsys):
    train(quick(folder), tmp_path / "single", base=folder)
    other = quick(folder)
    train(replace(other, split=replace(other.split, seed=3)), tmp_path / "split", base=folder)
    train(other, tmp_path / "a" / "single", base=folder)
    for runs, says in (
        ([run.folder, tmp_path / "single"], "must be all of folds, or all single"),
        ([tmp_path / "single", tmp_path / "split"], "must have the same cases and split"),
        ([tmp_path / "single", tmp_path / "single"], "must be different"),
        ([tmp_path / "single", tmp_path / "a" / "single"], "of different names"),
        ([tmp_path / "missing", run.folder], "missing is no run folder"),
    ):
        assert main(["ensemble", *map(str, runs), "--out", str(tmp_path / "both")]) == 1
        assert says in capsys.readouterr().err
        assert not (tmp_path / "both").exists()


def test_runs_on_other_labels_of_the_same_cases_are_refused(run, folder, tmp_path):
    """Their splits are the same: all cases of a run of folds are in train."""
    lines = (folder / "cohort.csv").read_text().splitlines()
    turned = [
        lines[0],
        *(",".join([c, p, str(1 - int(y)), *rest]) for c, p, y, *rest in (r.split(",") for r in lines[1:])),
    ]
    (folder / "turned.csv").write_text("\n".join(turned) + "\n")
    config = quick(folder)
    config = replace(config, cohort=replace(config.cohort, table="turned.csv"))
    train_folds(config, tmp_path / "turned", folds=3, base=folder)
    with pytest.raises(ConfigError, match="must have the same "):
        ensemble([run.folder, tmp_path / "turned"], tmp_path / "both")


def test_members_of_other_losses_are_calibrated_by_a_fit_for_any_shift(run, folder, tmp_path):
    """One temperature, right for plain cross entropy, could not undo what class weights did to the other members."""
    plain = replace(quick(folder), loss=LossConfig(class_weights="none", label_smoothing=0.0))
    train_folds(plain, tmp_path / "plain", folds=3, base=folder)
    assert read_card(tmp_path / "plain").decisions.each[0].calibration.method == "temperature"
    for number, runs in enumerate(([tmp_path / "plain", run.folder], [run.folder, tmp_path / "plain"])):
        both = read_card(ensemble(runs, tmp_path / f"both-{number}"))
        assert both.decisions.each[0].calibration.method == "platt"


def test_an_ensemble_that_was_stopped_leaves_nothing(run, tmp_path, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("hilum.training.ensemble.save_model", stopped)
    with pytest.raises(KeyboardInterrupt):
        ensemble([run.folder], tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_an_ensemble_of_single_runs_is_no_member_and_a_run_inside_another_makes_no_folds(folder, tmp_path):
    for out in ("a", "a/again"):
        train(quick(folder), tmp_path / out, base=folder)
    assert not Run(tmp_path / "a").is_of_folds
    both = tmp_path / "a" / "both"
    ensemble([tmp_path / "a", tmp_path / "a" / "again"], both)
    for runs in ([both, tmp_path / "a"], [tmp_path / "a", both]):
        with pytest.raises(ConfigError, match="is an ensemble of other runs, and has no members of its own"):
            ensemble(runs, tmp_path / "more")
    assert not (tmp_path / "more").exists()


def test_a_damaged_member_is_named(run, folder, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    (tmp_path / "run" / "model" / "members" / "fold-1-seed-0" / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(Exception, match="fold-1-seed-0 is damaged"):
        load_model(tmp_path / "run")
    about = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    about["members"][0]["name"] = "../../outside"
    (tmp_path / "run" / "model" / "model.json").write_text(json.dumps(about))
    with pytest.raises(Exception, match="name of a member"):
        load_model(tmp_path / "run")


def test_members_of_other_inputs_are_refused():
    from hilum.modelling.resnet import ResNet3D

    with pytest.raises(ConfigError, match="of the same input and outputs"):
        Ensemble({"a": ResNet3D(10, width=4), "b": ResNet3D(10, 2, width=4)})
    with pytest.raises(ConfigError, match="of one network at least"):
        Ensemble({})
    one = ResNet3D(10, width=4, stem="small").eval()
    x = torch.rand(2, 1, 12, 12, 12)
    assert torch.allclose(Ensemble({"a": one, "b": one}).eval()(x), one(x))
