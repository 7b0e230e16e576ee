"""What a table advises about rare classes, on what evidence, and what loss = auto becomes."""

import json
import logging
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hilum.cli import main
from hilum.cli.train import Train
from hilum.cohorts.sampling import strata
from hilum.cohorts.table import Cohort
from hilum.errors import CohortError, ConfigError
from hilum.measuring.roc_variance import expected_auc_half_width
from hilum.planning.advise import advise, choose_loss
from hilum.planning.classes import class_table
from hilum.planning.evidence import EVIDENCE, Evidence
from hilum.planning.plan import draft, plan
from hilum.settings.run import (
    CohortConfig,
    ColumnsConfig,
    HeadConfig,
    LossConfig,
    RunConfig,
    SamplingConfig,
    SplitConfig,
    TrainingConfig,
)
from hilum.settings.toml import from_dict, load, save
from hilum.training.train import train

PLAIN = ("cross-entropy", "none")
NOTHING: tuple[Evidence, ...] = ()


@pytest.fixture(autouse=True)
def _no_evidence(monkeypatch):
    """The tests bring their own evidence: they must not depend on what has been measured so far."""
    monkeypatch.setattr("hilum.planning.advise.EVIDENCE", ())


def cohort_of(folder, labels, *, patients=None, splits=None):
    """A cohort of cases with these labels, each of its own patient unless given; the scans are not there."""
    patients = patients or [f"P{i}" for i in range(len(labels))]
    splits = splits or [""] * len(labels)
    rows = [f"c{i},{i}.nii,{y},{p},{s}" for i, (y, p, s) in enumerate(zip(labels, patients, splits, strict=True))]
    (folder / "t.csv").write_text("\n".join(["case_id,path,label,patient_id,split", *rows]) + "\n")
    return Cohort.read(folder / "t.csv")


def findings_of(folder, names, present):
    """A multi-label cohort, one case for each patient."""
    rows = [f"c{i},{i}.nii,P{i},{','.join(map(str, row))}" for i, row in enumerate(present)]
    (folder / "t.csv").write_text("\n".join([f"case_id,path,patient_id,{','.join(names)}", *rows]) + "\n")
    return Cohort.read(folder / "t.csv", CohortConfig(columns=ColumnsConfig(labels=tuple(names))))


def share_of(folder, positives, total=400):
    return cohort_of(folder, [int(i < positives) for i in range(total)])


def measured(difference, half_width, *, prevalence=0.05, where="nodules", **method):
    method = method or {"loss": "focal", "class_weights": "effective"}
    low, high = difference - half_width, difference + half_width
    return Evidence(prevalence=prevalence, difference=difference, low=low, high=high, where=where, **method)


def loss_of(choice):
    return choice.loss.name, choice.loss.class_weights


# the class table


def test_the_class_table_counts_cases_and_patients(tmp_path):
    labels = [0, 0, 0, 0, 1, 1, 0, 2]
    table = class_table(cohort_of(tmp_path, labels, patients=["A", "A", "B", "C", "C", "D", "D", "E"]))
    assert [(row.name, row.cases, row.patients) for row in table.rows] == [("0", 5, 4), ("1", 2, 2), ("2", 1, 1)]
    assert (table.num_cases, table.num_patients) == (8, 5)
    assert table.ratio == 4.0
    assert table.rarest.name == "2"
    assert table.rarest.share == pytest.approx(1 / 8)


@pytest.mark.parametrize(
    ("labels", "patients", "says"),
    [
        ([1, 0, 0, 0] * 10, [f"P{i // 4}" for i in range(40)], "1 has 10 of 40 cases (25 %)"),
        ([1] * 40 + [0] * 10, ["A"] * 40 + [f"P{i}" for i in range(10)], "1 has 1 of 11 patients (9.1 %)"),
    ],
)
def test_the_share_of_the_rarest_is_that_of_cases_or_of_patients_whichever_is_smaller(tmp_path, labels, patients, says):
    """Nodules: every patient has one that is benign. Follow-up: one patient has forty scans."""
    assert class_table(cohort_of(tmp_path, labels, patients=patients)).share_of_rarest == says


def test_each_finding_has_its_row_and_one_that_most_have_is_rare_by_its_absence(tmp_path):
    present = [[1, int(i < 12), int(i < 30)] for i in range(40)]
    present[0][0] = 0
    table = class_table(findings_of(tmp_path, ["opacity", "nodule", "mass"], present))
    assert [(row.name, row.cases) for row in table.rows] == [("opacity", 39), ("nodule", 12), ("mass", 30)]
    assert (table.rarest.rare, table.rarest.rare_patients, table.rarest.patients) == ("no opacity", 1, 39)
    assert [row.rare_patients for row in table.rows] == [1, 12, 10]
    assert "no opacity (1)" in table.warnings()[0]


def test_a_finding_is_present_where_half_of_the_readers_saw_it(tmp_path):
    table = class_table(findings_of(tmp_path, ["a", "b"], [[0.5, 0.25], [0.49, 1], [1, 0.75]]))
    assert [row.cases for row in table.rows] == [2, 2]


def test_findings_are_drawn_as_sampling_draws_them(tmp_path):
    random = np.random.default_rng(3)
    present = (random.random((80, 4)) < [0.5, 0.3, 0.15, 0.1]).astype(int)
    table = class_table(findings_of(tmp_path, list("abcd"), present.tolist()))
    none = int((present.sum(1) == 0).sum())
    drawn = [row.drawn for row in table.rows]
    assert sum(drawn) + none == 80
    assert sorted([none, *drawn]) == sorted(np.bincount(strata(present)).tolist())
    rarest = int(present.sum(0).argmin())
    assert drawn[rarest] == present[:, rarest].sum()


def test_what_an_auc_can_be_shown_to_follows_from_the_patients(tmp_path):
    row = class_table(share_of(tmp_path, 40)).rows[1]
    assert row.auc_all == pytest.approx(expected_auc_half_width(40, 360))
    assert row.auc_test == pytest.approx(expected_auc_half_width(6, 54))
    folds = class_table(share_of(tmp_path, 40), SplitConfig(folds=4)).rows[1]
    assert folds.auc_test == pytest.approx(expected_auc_half_width(10, 90))
    assert (row.val_patients, folds.val_patients) == (6, 4)  # with folds, of those that do not test


def test_the_tables_own_test_part_is_counted(tmp_path):
    labels = [int(i % 4 == 0) for i in range(80)]
    splits = ["test" if i < 20 else "val" if i < 32 else "" for i in range(80)]
    table = class_table(cohort_of(tmp_path, labels, splits=splits))
    assert table.rows[1].auc_test == pytest.approx(expected_auc_half_width(5, 15))
    assert table.rows[1].val_patients == 3
    assert "the table's test part to +- " in table.sample_size()


def test_of_three_classes_each_is_judged_against_the_rest(tmp_path):
    table = class_table(cohort_of(tmp_path, ["a"] * 50 + ["b"] * 30 + ["c"] * 20))
    assert table.rows[2].auc_all == pytest.approx(expected_auc_half_width(20, 80))
    assert table.sample_size().startswith("20 patients of class c can show an AUC to +- ")


@pytest.mark.parametrize(("positives", "warned"), [(19, True), (20, False)])
def test_under_twenty_patients_are_said_to_be_too_few_to_judge(tmp_path, positives, warned):
    warnings = advise(share_of(tmp_path, positives)).warnings
    expected = (f"under 20 patients of class 1 ({positives}): too few to judge a classifier",)
    assert warnings == (expected if warned else ())


def test_patients_who_cannot_be_in_all_parts_are_said_as_well(tmp_path):
    assert advise(share_of(tmp_path, 2)).warnings[1] == (
        "under 3 patients of class 1 (2): too few to be in train, val, test"
    )


# the rule and the evidence


@pytest.mark.parametrize(
    ("positives", "expected", "band"),
    [
        (39, ("focal", "effective"), "under 10 %"),
        (40, ("cross-entropy", "inverse"), "10 to 30 %"),
        (119, ("cross-entropy", "inverse"), "10 to 30 %"),
        (120, PLAIN, "30 % or more"),
    ],
)
def test_without_evidence_the_tutorials_rule_stands_and_it_is_said(tmp_path, positives, expected, band):
    choice = choose_loss(class_table(share_of(tmp_path, positives)), RunConfig(), NOTHING)
    assert loss_of(choice) == expected
    assert f"{positives} of 400 patients" in choice.reason
    assert f"where the rarest has {band} the tutorial's rule says" in choice.reason
    assert ("nothing was measured near that share" in choice.reason) == (positives < 120)


@pytest.mark.parametrize(
    ("difference", "expected", "says"),
    [
        (0.020, ("focal", "effective"), "+0.020 (+0.010 to +0.030), so it supports the rule"),
        (-0.020, PLAIN, "-0.020 (-0.030 to -0.010), so it contradicts the rule"),
        (0.004, PLAIN, "+0.004 (-0.006 to +0.014), so it cannot tell"),
    ],
)
def test_what_was_measured_supports_or_contradicts_the_rule_or_cannot_tell(tmp_path, difference, expected, says):
    found = [measured(difference, 0.010), measured(0.0, 0.010, loss="combined")]
    choice = choose_loss(class_table(share_of(tmp_path, 20)), RunConfig(), found)
    assert loss_of(choice) == expected
    assert "the tutorial's rule says focal with class weights (effective) or focal + Dice" in choice.reason
    assert f"measured at 5.0 % on nodules, AUC beside cross entropy without weights: focal with class weights (effec" \
        f"tive) {says}" in choice.reason  # fmt: skip


def test_an_interval_that_ends_at_nought_cannot_tell():
    assert measured(0.01, 0.01).verdict == "cannot tell"
    assert measured(-0.01, 0.01).verdict == "cannot tell"


def test_of_the_two_losses_of_the_rule_the_one_measured_to_be_better_is_taken(tmp_path):
    table = class_table(share_of(tmp_path, 20))
    found = [measured(0.0, 0.01), measured(0.02, 0.01, loss="combined")]
    assert loss_of(choose_loss(table, RunConfig(), found)) == ("combined", "none")
    both = [measured(0.02, 0.01), measured(0.03, 0.01, loss="combined")]
    assert loss_of(choose_loss(table, RunConfig(), both)) == ("focal", "effective")  # the simpler of two good ones
    one = [measured(0.0, 0.01)]
    assert loss_of(choose_loss(table, RunConfig(), one)) == ("cross-entropy", "none")  # what is known is against more


def test_weights_are_judged_by_what_was_measured_of_weights(tmp_path):
    table = class_table(share_of(tmp_path, 60))
    other = [measured(-0.05, 0.01, prevalence=0.10, loss="focal")]
    assert loss_of(choose_loss(table, RunConfig(), other)) == ("cross-entropy", "inverse")
    weights = [measured(-0.05, 0.01, prevalence=0.10, class_weights="inverse")]
    assert loss_of(choose_loss(table, RunConfig(), weights)) == PLAIN


def test_what_was_measured_nearest_counts_and_what_is_far_away_does_not(tmp_path):
    table = class_table(share_of(tmp_path, 36))  # 9 %
    near, far = measured(0.02, 0.01, prevalence=0.10), measured(-0.02, 0.01, prevalence=0.05)
    assert loss_of(choose_loss(table, RunConfig(), [far, near])) == ("focal", "effective")
    rare = class_table(share_of(tmp_path, 4))  # 1 %
    choice = choose_loss(rare, RunConfig(), [far, near])
    assert loss_of(choice) == ("focal", "effective")
    assert "nothing was measured near that share" in choice.reason


def test_evidence_of_two_classes_is_said_to_be_that_for_labels(tmp_path):
    names, random = ["a", "b", "c"], np.random.default_rng(0)
    present = (random.random((200, 3)) < [0.3, 0.2, 0.05]).astype(int).tolist()
    choice = choose_loss(class_table(findings_of(tmp_path, names, present)), RunConfig(), [measured(0.02, 0.01)])
    assert "that was of two classes, here are 3 labels" in choice.reason


@pytest.mark.parametrize("wrong", [{"low": 0.1}, {"high": -0.1}, {"prevalence": 0.0}, {"loss": "auto"}])
def test_evidence_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ConfigError, match="must be"):
        replace(measured(0.0, 0.01), **wrong)


# what is advised


@pytest.mark.parametrize("positives", [20, 60, 200])
def test_calibration_undoes_smoothed_labels_whatever_the_loss(tmp_path, positives):
    made = advise(share_of(tmp_path, positives))
    assert made.decision.calibration == "platt"
    assert (made.sampling, made.head) == (SamplingConfig(), HeadConfig())
    assert made.decision.rule == "youden"
    assert made.alternative is None


def test_recall_first_is_a_threshold_and_tversky_and_why_not_dice(tmp_path):
    made = advise(share_of(tmp_path, 20), recall_first=True)
    assert (made.decision.rule, made.decision.at) == ("sensitivity", 0.9)
    assert made.alternative.name == "tversky"
    assert made.alternative.tversky_beta > made.alternative.tversky_alpha
    assert made.loss.name == "focal"
    assert "not Dice, which the tutorial takes: it follows F1" in made.reasons["recall first"]


def test_of_more_than_two_classes_no_threshold_is_promised(tmp_path):
    made = advise(cohort_of(tmp_path, ["a"] * 50 + ["b"] * 30 + ["c"] * 20), recall_first=True)
    assert made.alternative is None
    assert set(made.sections["decision"]) == {"calibration"}
    assert "ask for labels, or for two classes" in made.reasons["recall first"]


def test_the_class_whose_sensitivity_is_meant_is_named(tmp_path):
    made = advise(cohort_of(tmp_path, ["diseased"] * 10 + ["healthy"] * 90))
    assert 'for diseased set cohort.classes = ["healthy", "diseased"]' in made.reasons["threshold"]
    assert "sensitivity is of" not in advise(share_of(tmp_path, 20)).reasons["threshold"]


def test_a_threshold_from_few_patients_is_said_not_to_be_firm(tmp_path):
    assert "on about 3 validation patients of 1, too few" in advise(share_of(tmp_path, 20)).reasons["threshold"]
    assert "on about 30 validation patients of 1" in advise(share_of(tmp_path, 200)).reasons["threshold"]
    assert "too few" not in advise(share_of(tmp_path, 200)).reasons["threshold"]


def test_sampling_and_the_second_stage_cite_what_was_measured(tmp_path):
    found = [measured(-0.01, 0.02, sampling="over"), measured(0.001, 0.004, retrain="smote")]
    made = advise(share_of(tmp_path, 20), evidence=found)
    assert "sampling over -0.010 (-0.030 to +0.010)" in made.reasons["sampling"]
    assert "second stage smote +0.001 (-0.003 to +0.005)" in made.reasons["second stage"]
    assert made.evidence == tuple(found)


def test_a_table_of_one_class_is_an_error(tmp_path):
    with pytest.raises(CohortError, match="must be of at least two classes, got only 1"):
        advise(cohort_of(tmp_path, [1, 1, 1]))


# what is given is kept


@pytest.mark.parametrize("given", ["sqrt", "inverse", "none"])
def test_class_weights_that_are_given_are_kept_and_so_are_other_figures(tmp_path, given):
    config = RunConfig(loss=LossConfig(name="auto", class_weights=given, gamma=1.5))
    choice = choose_loss(class_table(share_of(tmp_path, 20)), config)
    assert choice.loss == LossConfig(name="focal", class_weights=given, gamma=1.5)
    assert f"class_weights = {given}, as given" in choice.reason


@pytest.mark.parametrize(
    "answered",
    [
        RunConfig(sampling=SamplingConfig(method="over")),
        RunConfig(head=HeadConfig(retrain="balanced")),
    ],
)
def test_a_rare_class_is_not_answered_twice(tmp_path, answered):
    choice = choose_loss(class_table(share_of(tmp_path, 20)), answered)
    assert loss_of(choice) == PLAIN
    assert "one answer is enough" in choice.reason


def test_with_a_micro_batch_no_loss_of_whole_batches_is_chosen_and_it_is_said(tmp_path):
    table = class_table(share_of(tmp_path, 20))
    found = [measured(0.0, 0.01, loss="focal"), measured(0.02, 0.01, loss="combined")]
    whole, parts = RunConfig(), RunConfig(training=TrainingConfig(micro_batch=4))
    assert choose_loss(table, whole, found).loss.name == "combined"
    choice = choose_loss(table, parts, found)
    assert loss_of(choice) == ("focal", "effective")
    assert "focal + Dice needs whole batches, but training.micro_batch is 4" in choice.reason
    replace(parts, loss=choice.loss, recipe=replace(parts.recipe, spacing_mm=(2.0, 2.0, 2.0))).check_together()


# plan and train


@pytest.fixture
def volumes(npy_cohort, tmp_path):
    """A folder with 60 small volumes; ``volumes(labels, splits)`` writes its table, each case of its own patient."""
    shutil.copytree(npy_cohort, tmp_path / "c", ignore=shutil.ignore_patterns("run", "store"))
    folder = tmp_path / "c"

    def table(labels, splits=None, header="label"):
        splits = splits or [""] * len(labels)
        rows = [f"c{i},{i:02d}.npy,P{i},{s},{y}" for i, (y, s) in enumerate(zip(labels, splits, strict=True))]
        (folder / "cohort.csv").write_text("\n".join([f"case_id,path,patient_id,split,{header}", *rows]) + "\n")
        config = load(folder / "config.toml")
        config = replace(config, loss=LossConfig(name="auto"), training=replace(config.training, epochs=1))
        save(config, folder / "config.toml")
        return folder / "cohort.csv"

    return table


def test_a_planned_run_says_what_advise_says(volumes):
    table = volumes([int(i < 5) for i in range(60)])
    cohort = Cohort.read(table)
    made, advice = plan(cohort, draft(cohort, RunConfig())), advise(cohort)
    assert made.config.loss == advice.loss == LossConfig(name="focal", class_weights="effective")
    assert f"loss: {advice.reasons['loss']}" in made.reasons
    assert f"sample size: {advice.table.sample_size()}" in made.reasons
    assert set(advice.warnings) <= set(made.warnings)


def test_findings_can_be_planned(volumes):
    table = volumes([f"{int(i < 5)},{i % 2}" for i in range(60)], header="mass,nodule")
    config = RunConfig(cohort=CohortConfig(columns=ColumnsConfig(labels=("mass", "nodule"))))
    cohort = Cohort.read(table, config.cohort)
    assert plan(cohort, draft(cohort, config)).config.loss.name == "focal"


@pytest.mark.parametrize("flags", [["--loss.name", "tversky"], ["--loss.name", "auto"], ["--loss.name", "focal"]])
def test_a_loss_that_is_given_is_not_planned_over(volumes, flags):
    args = [str(volumes([int(i < 5) for i in range(60)])), *flags]
    settings = Train(source=volumes([int(i < 5) for i in range(60)])).with_file(args).settings
    assert settings.loss == LossConfig(name=flags[1])


def training_part_is_rarer():
    """Labels and parts: 2 of 30 train as positives (6.7 %), but 14 of 54 in all (26 %)."""
    labels = [1] * 2 + [0] * 28 + ([1] * 6 + [0] * 6) * 2
    return labels, ["train"] * 30 + ["val"] * 12 + ["test"] * 12


def test_auto_is_what_the_training_part_asks_for_and_is_written_down(volumes, tmp_path, caplog):
    table = volumes(*training_part_is_rarer())
    assert loss_of(advise(Cohort.read(table))) == ("cross-entropy", "inverse")
    with caplog.at_level(logging.INFO, "hilum"):
        train(table.parent / "config.toml", tmp_path / "run")
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("loss: ")]
    assert line.startswith("loss: focal with class weights (effective): 1 has 2 of 30 patients (6.7 %)")
    assert "\n" not in line
    written = tomllib.loads((tmp_path / "run" / "config.toml").read_text())["loss"]
    assert (written["name"], written["class_weights"]) == ("focal", "effective")
    before = (tmp_path / "run" / "config.toml").read_bytes()
    train(table.parent / "config.toml", tmp_path / "run", resume=True)
    assert (tmp_path / "run" / "config.toml").read_bytes() == before


def test_auto_trains_as_the_loss_that_it_becomes(volumes, tmp_path):
    table = volumes(*training_part_is_rarer())
    config = load(table.parent / "config.toml")
    for name, loss in (("auto", config.loss), ("named", LossConfig(name="focal", class_weights="effective"))):
        train(replace(config, loss=loss), tmp_path / name, base=table.parent)
    weights = [(tmp_path / name / "model" / "weights.safetensors").read_bytes() for name in ("auto", "named")]
    assert weights[0] == weights[1]


def test_auto_with_a_micro_batch_does_not_fail_late(volumes, tmp_path, monkeypatch, caplog):
    better = (measured(0.02, 0.01, loss="combined"),)
    monkeypatch.setattr("hilum.planning.advise.EVIDENCE", better)
    table = volumes(*training_part_is_rarer())
    config = load(table.parent / "config.toml")
    config = replace(config, training=replace(config.training, micro_batch=3))
    with caplog.at_level(logging.INFO, "hilum"):
        train(config, tmp_path / "run", base=table.parent)
    assert load(tmp_path / "run" / "config.toml").loss.name == "focal"
    assert "focal + Dice needs whole batches, but training.micro_batch is 3" in caplog.text


def test_plan_takes_a_config_whose_loss_is_auto(volumes, tmp_path, capsys, brief_plan):
    table = volumes(*training_part_is_rarer())
    new = tmp_path / "new.toml"
    assert main(["plan", str(table.parent / "config.toml"), "--no-time", "--write", str(new)]) == 0
    assert "30 training cases" in capsys.readouterr().out
    assert load(new).loss == LossConfig(name="auto")


# the command


def shown(capsys, *words):
    assert main(["advise", *map(str, words)]) == 0
    return capsys.readouterr().out


def test_what_is_printed_can_be_pasted_into_a_config(tmp_path, capsys):
    made = advise(share_of(tmp_path, 20), recall_first=True)
    page = shown(capsys, tmp_path / "t.csv", "--recall-first")
    first, second = page[page.index("[loss]") :].split("\nor, where ")
    config = from_dict(RunConfig, tomllib.loads(first))
    assert (config.loss, config.sampling, config.head) == (made.loss, made.sampling, made.head)
    assert config.decision == made.decision
    assert from_dict(RunConfig, tomllib.loads(second[second.index("[loss]") :])).loss == made.alternative


def test_the_page_has_each_class_the_ratio_and_what_it_rests_on(tmp_path, capsys):
    share_of(tmp_path, 20)
    page = shown(capsys, tmp_path / "t.csv")
    lines = page.splitlines()
    assert lines[0] == "t.csv: 400 cases of 400 patients, 2 classes"
    widths = [f"{expected_auc_half_width(*counts):.2f}" for counts in ((20, 380), (3, 57))]
    assert lines[4].split() == ["1", "20", "5.0", "%", "20", "5.0", "%", *widths]
    assert "imbalance     19.0 to 1, patients of the commonest class (0) to the rarest (1)" in lines
    assert "evidence      none near 5.0 %: this is the tutorial's rule of thumb and no more" in lines


def test_the_page_tells_better_worse_and_those_that_cannot_tell(tmp_path, capsys, monkeypatch):
    share_of(tmp_path, 20)
    found = (measured(0.0, 0.01), measured(-0.05, 0.02, loss="dice"), measured(0.01, 0.005, sampling="progressive"))
    monkeypatch.setattr("hilum.planning.advise.EVIDENCE", found)
    page = shown(capsys, tmp_path / "t.csv")
    assert "better: sampling progressive +0.010 (+0.005 to +0.015)" in page
    assert "worse: Dice -0.050 (-0.070 to -0.030)" in page
    assert "the interval of 1 includes 0" in page
    assert "of 3 such intervals some may miss 0 by chance" in page


def test_a_page_of_fourteen_findings_with_long_names_fits_a_terminal(tmp_path, capsys):
    names = [f"finding-{k}-of-a-very-long-name-that-nobody-types" for k in range(14)]
    random = np.random.default_rng(0)
    findings_of(tmp_path, names, (random.random((1500, 14)) < np.linspace(0.004, 0.4, 14)).astype(int).tolist())
    page = shown(capsys, tmp_path / "t.csv", "--columns.labels", *names, "--recall-first")
    table = page.split("\n\n")[1].splitlines()
    assert len(table) == 15
    assert max(map(len, page.splitlines())) <= 100
    assert len({len(line) for line in table}) == 1


def test_json_is_one_object_with_the_same_advice(tmp_path, capsys):
    share_of(tmp_path, 20)
    answer = json.loads(shown(capsys, tmp_path / "t.csv", "--json"))
    assert answer["config"]["loss"] == {"name": "focal", "class_weights": "effective"}
    assert answer["classes"][1]["patients"] == 20
    assert answer["imbalance_ratio"] == 19.0
    assert answer["evidence"] == []
    assert answer["instead"] is None


def test_what_does_not_exist_is_null_in_json(tmp_path, capsys):
    labels, splits = [1] * 5 + [0] * 35, ["train"] * 30 + ["test"] * 10
    cohort_of(tmp_path, labels, splits=splits)
    text = shown(capsys, tmp_path / "t.csv", "--json")
    assert "NaN" not in text
    assert json.loads(text)["classes"][1]["auc_test"] is None


def test_columns_are_mapped_and_rows_without_a_label_dropped(tmp_path, capsys):
    rows = [f"{i}.nii,{'' if i >= 90 else int(i < 30)}" for i in range(100)]
    (tmp_path / "t.csv").write_text("\n".join(["image,finding", *rows]) + "\n")
    words = [tmp_path / "t.csv", "--columns.path", "image", "--columns.label", "finding"]
    assert main(["advise", *map(str, words)]) == 1
    assert "must be filled, got an empty cell (10 of 100 rows have none)" in capsys.readouterr().err
    assert main(["advise", *map(str, words), "--cohort.unlabelled", "drop"]) == 0
    out, err = capsys.readouterr()
    assert "90 cases of 90 patients" in out
    assert "10 of 100 rows have no label and are left out" in err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "there is no such table"),
        ("path\na.nii\n", "there must be a column 'label' for label"),
        ("path,label\na.nii,1\nb.nii,1\n", "the labels must be of at least two classes, got only 1"),
        ("path,label\n", "t.csv"),
    ],
)
def test_a_table_that_cannot_be_advised_on_gets_one_line_and_exit_1(tmp_path, capsys, text, says):
    if text is not None:
        (tmp_path / "t.csv").write_text(text)
    assert main(["advise", str(tmp_path / "t.csv")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("hilum: ")
    assert err.count("\n") == 1
    assert says in err


def test_no_patient_and_no_case_is_named_on_the_page(tmp_path, capsys):
    cohort_of(tmp_path, [0] * 30 + [1] * 10, patients=[f"DOE-{i}" for i in range(40)])
    for words in ([], ["--json"]):
        assert "DOE" not in shown(capsys, tmp_path / "t.csv", *words)


def test_letters_that_control_a_terminal_are_not_printed(tmp_path, capsys):
    cohort_of(tmp_path, ["a"] * 30 + ["b\x1b[31m"] * 10)
    assert "\x1b" not in shown(capsys, tmp_path / "t.csv")


def test_advice_needs_no_torch(tmp_path):
    share_of(tmp_path, 20)
    code = "import sys; from hilum.cli import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    words = [sys.executable, "-c", code, "advise", str(tmp_path / "t.csv")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "[loss]" in done.stdout


def test_the_evidence_is_what_the_benchmark_measured():
    """Each arm of each share, to the digits of its file."""
    results = json.loads((Path(__file__).parents[1] / "src" / "hilum" / "planning" / "imbalance.json").read_text())
    measured = [row["auc"] for row in results["rows"] if row["arm"] != "plain"]
    said = [(one.difference, one.low, one.high) for one in EVIDENCE]
    assert said == [(auc["difference"], *auc["difference_ci"]) for auc in measured]
    worse = [one for one in EVIDENCE if one.verdict == "worse"]
    assert [(one.sampling, one.prevalence, one.difference) for one in worse] == [("under", 0.05, -0.1004)]
    shares = [row["rate"] for row in results["rows"] if row["arm"] != "plain"]
    assert [one.prevalence for one in EVIDENCE] == shares
    methods = {one.method for one in EVIDENCE}
    assert len(methods) == 18
    assert ("focal", "effective", "none", "none") in methods
    assert ("combined", "none", "none", "none") in methods
