"""A model is calibrated anew on cases of another site: same weights, both decisions kept, nothing seen is judged."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from held_out import held_out
from hilum import Predictor, evaluate, recalibrate
from hilum.cli import main
from hilum.cohorts.split_file import extended_splits, read_splits
from hilum.cohorts.table import Cohort
from hilum.deciding.decision import Decisions
from hilum.deciding.fit_decisions import refitted_decisions
from hilum.deciding.model_folder import load_model
from hilum.errors import CohortError, ConfigError
from hilum.measuring.fit_calibration import fit_calibration
from hilum.measuring.thresholds import choose_threshold
from hilum.reading.identity import hashed
from hilum.settings.run import DecisionConfig


def write_site(folder, *, seed, cases, name="site.csv", split=""):
    """A table of volumes of another scanner: more noise, fainter balls, many of them harmless, two cases a patient."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(12) - 5.5] * 3, indexing="ij"))
    folder.mkdir(exist_ok=True)
    rows = ["case_id,path,label,patient_id" + (",split" if split else "")]
    for k in range(cases):
        volume = rng.normal(0.2, 0.07, (12, 12, 12))
        positive = k % 3 == 0
        if positive or rng.random() < 0.5:
            centre = rng.uniform(-2, 2, (3, 1, 1, 1))
            volume[((grid - centre) ** 2).sum(axis=0) < 7] += rng.uniform(0.05, 0.35)
        np.save(folder / f"{seed}-{k:03d}.npy", np.clip(volume, 0, 1).astype(np.float32))
        row = f"c{k:02d},{seed}-{k:03d}.npy,{int(positive)},SITE{seed}-{k // 2}"
        rows.append(row + (f",{split if k % 4 < 2 else 'test'}" if split else ""))
    (folder / name).write_text("\n".join(rows) + "\n")
    return folder / name


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    return write_site(tmp_path_factory.mktemp("site"), seed=1, cases=90)


@pytest.fixture(scope="module")
def recalibrated(trained_run, site, tmp_path_factory):
    """The new folder, and what the function returns."""
    out = tmp_path_factory.mktemp("recalibrated") / "there"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HILUM_KEY", "tests")
        return out, recalibrate(trained_run, site, out)


def test_the_weights_stay_and_the_card_keeps_both_decisions_without_ids_or_paths(trained_run, recalibrated, site):
    out, done = recalibrated
    before, after = (load_file(run / "model" / "weights.safetensors") for run in (trained_run, out))
    assert all(torch.equal(before[name], after[name]) for name in before)
    old, new = load_model(trained_run)[1], load_model(out)[1]
    (entry,) = new.training["recalibrated"]
    assert entry["before"]["decisions"]["each"][0]["threshold"] == old.decisions.each[0].threshold
    assert entry["before"]["validation"] == old.training["validation"]
    assert new.decisions.each[0].calibration.method == "platt"
    assert new.decisions.each[0].rule.endswith("on 90 validation cases with 30 positives")
    assert entry["counts"] == {
        "cases": 90, "patients": 45, "cases of 0": 60, "patients of 0": 45, "cases of 1": 30, "patients of 1": 30
    }  # fmt: skip
    assert "weights are unchanged" in entry["about"]
    text = (out / "model" / "model.json").read_text()
    assert "SITE1" not in text
    assert "c01" not in text
    assert str(site.parent) not in text
    assert (new.recipe, new.model, new.training["counts"]) == (old.recipe, old.model, old.training["counts"])
    assert done["thresholds"] == {"before": old.decisions.thresholds, "after": new.decisions.thresholds}


def test_the_old_line_shows_what_was_wrong_and_the_new_one_is_straight_on_the_fitting_cases(recalibrated):
    before, after = (recalibrated[1]["calibration_lines"][when]["1"] for when in ("before", "after"))
    is_off = [not low <= perfect <= high for perfect, (_, low, high) in zip((0, 1), before.values(), strict=True)]
    assert any(is_off)
    for perfect, (value, low, high) in zip((0, 1), after.values(), strict=True):
        assert low < perfect < high
        assert value == pytest.approx(perfect, abs=0.2), "except for the smoothing of Platt's targets"


def test_decisions_are_those_of_the_arithmetic_on_the_logits(trained_run, recalibrated, site):
    lines = [line.split(",") for line in site.read_text().splitlines()[1:]]
    predictor = Predictor(trained_run)
    odds = []
    for line in lines:
        p = predictor.predict(site.parent / line[1]).probabilities["1"]
        odds.append(np.log(p / (1 - p)))
    assert predictor.card.decisions.each[0].calibration.method == "none"
    logits, y = np.stack([np.zeros(90), odds], axis=1), np.array([int(line[2]) for line in lines])
    fitted = fit_calibration(logits, y, method="platt")
    chosen = choose_threshold(y, fitted.probabilities(logits)[:, 1], rule=DecisionConfig())
    assert recalibrated[1]["thresholds"]["after"]["1"] == pytest.approx(chosen.value, rel=1e-4)


def test_a_later_evaluation_leaves_out_what_trained_and_what_calibrated(
    trained_run, recalibrated, npy_cohort, site, tmp_path
):
    fresh = write_site(tmp_path / "fresh", seed=2, cases=12)
    trained = (npy_cohort / "cohort.csv").read_text().splitlines()[1:]
    rows = [f"t{k},{npy_cohort}/{line.split(',')[1]},{line.split(',')[2]},{line.split(',')[3]}" for k, line in
            enumerate(trained)]  # fmt: skip
    for table in (site, fresh):
        for line in table.read_text().splitlines()[1:]:
            _, path, label, patient = line.split(",")
            rows.append(f"{path},{table.parent}/{path},{label},{patient if table == fresh else ''}")  # known by voxels
    (tmp_path / "all.csv").write_text("\n".join(["case_id,path,label,patient_id", *rows]) + "\n")
    figures = evaluate(recalibrated[0], tmp_path / "all.csv", tmp_path / "judged")
    tested = sum(part == "test" for part in read_splits(trained_run / "splits.csv").parts.values())
    assert figures["num_cases"] == tested + 12
    assert figures["num_seen"] == 60 - tested + 90
    assert figures["seen_checked"] is True


def test_the_new_folder_predicts_and_exports_but_has_no_test_part_and_no_run_to_resume(
    recalibrated, site, tmp_path, capsys
):
    out, done = recalibrated
    prediction = Predictor(out / "model").predict(site.parent / "1-000.npy")
    assert prediction.thresholds == done["thresholds"]["after"]
    assert main(["export", str(out), "--format", "pt2", "--out", str(tmp_path / "model.pt2")]) == 0
    assert main(["evaluate", str(out)]) == 1
    assert "the model has no test part of its own" in capsys.readouterr().err


def test_it_can_be_done_again_and_case_ids_may_repeat(recalibrated, tmp_path):
    other = write_site(tmp_path / "other", seed=3, cases=60)
    done = recalibrate(recalibrated[0], other, tmp_path / "again", decision={"rule": "sensitivity", "at": 0.8})
    assert done["num_seen"] == 0
    assert done["rules"][0].startswith("largest specificity with a sensitivity of at least 0.8")
    first, second = load_model(tmp_path / "again")[1].training["recalibrated"]
    assert first["counts"]["cases"] == 90
    kept = {"gate_share": 0.01, "abstain": "none", "error": 0.1, "coverage": 0.5}
    assert second["settings"] == {"rule": "sensitivity", "at": 0.8, "calibration": "auto", **kept}
    parts = read_splits(tmp_path / "again" / "splits.csv").parts
    assert len(parts) == 60 + 90 + 60
    with pytest.raises(CohortError, match="no case is left; the model has seen 60 of 60"):
        recalibrate(tmp_path / "again", other, tmp_path / "third")


def test_of_a_table_with_a_split_only_val_is_used_and_test_stays_unseen(trained_run, tmp_path, capsys):
    table = write_site(tmp_path / "site", seed=4, cases=80, split="val")
    words = ["recalibrate", str(trained_run), str(table), "--out", str(tmp_path / "there")]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("40 cases, 20 patients, ")
    assert "calibration before, class 1: intercept " in shown
    assert shown.count("; fitted on these cases") == 1
    assert "threshold of 1: " in shown
    figures = evaluate(tmp_path / "there", table, tmp_path / "judged")
    assert (figures["num_cases"], figures["num_seen"]) == (40, 0)


def test_cases_that_trained_the_model_are_left_out(trained_run, npy_cohort, site, tmp_path, capsys):
    rows = [f"{site.parent}/{line.split(',')[1]},{line.split(',')[2]}" for line in site.read_text().splitlines()[1:]]
    rows += [f"{npy_cohort}/{k:02d}.npy,{k % 2}" for k in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    assert (
        main(["recalibrate", str(trained_run), str(tmp_path / "t.csv"), "--out", str(tmp_path / "out"), "--json"]) == 0
    )
    done = json.loads(capsys.readouterr().out)
    seen = sum(part != "test" for part in read_splits(trained_run / "splits.csv").parts.values())
    assert (done["counts"]["cases"], done["num_seen"]) == (150 - seen, seen)
    assert "trained or validated the model" in (tmp_path / "out" / "refused.csv").read_text()


@pytest.mark.parametrize(
    ("cases", "message"), [(24, "at least 30 validation cases, 5 of each class; got 24, by class")]
)
def test_too_few_cases_are_one_line_and_nothing_is_written(trained_run, tmp_path, capsys, cases, message):
    table = write_site(tmp_path / "site", seed=5, cases=cases)
    assert main(["recalibrate", str(trained_run), str(table), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_not_allowed_is_said_before_anything_is_computed(trained_run, site, tmp_path):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").touch()
    for out in (tmp_path / "taken", trained_run):
        with pytest.raises(ConfigError, match="--out must be a new or empty folder"):
            recalibrate(trained_run, site, out)
    for decision, message in (
        ({"tta": 4}, "settings of a recalibration must be among rule, at, calibration, gate_share, .*, got tta"),
        ({"rule": "best"}, r"decision\.rule must be one of youden"),
        ({"at": 0.9}, r"decision\.at must be given with the rule sensitivity or specificity, got the rule youden"),
        ({"calibration": "prior"}, "prior needs the training cases"),
    ):
        with pytest.raises(ConfigError, match=message):
            recalibrate(trained_run, site, tmp_path / "new", decision=decision)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("is_bare", [False, True], ids=["another key", "a model away from its run"])
def test_where_training_cases_cannot_be_recognised_that_stays_said(trained_run, site, tmp_path, monkeypatch, is_bare):
    model = trained_run
    if is_bare:
        model = shutil.copytree(trained_run / "model", tmp_path / "away" / "model")
    else:
        monkeypatch.setenv("HILUM_KEY", "another site")
    with pytest.raises(CohortError, match="cannot be told from others"):
        recalibrate(model, site, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert recalibrate(model, site, tmp_path / "out", unchecked=True)["unchecked"]
    assert load_model(tmp_path / "out")[1].training["recalibrated"][0]["seen_checked"] is False
    fresh = write_site(site.parent, seed=6, cases=10, name="fresh.csv")
    both = tmp_path / "both.csv"
    rows = [line.split(",") for table in (site, fresh) for line in table.read_text().splitlines()[1:]]
    both.write_text(
        "path,label,patient_id\n" + "\n".join(f"{site.parent}/{p},{y},{who}" for _, p, y, who in rows) + "\n"
    )
    for key in ("another site", "tests"):
        monkeypatch.setenv("HILUM_KEY", key)
        with pytest.raises(CohortError, match="cannot be told from others"):
            evaluate(tmp_path / "out", both, tmp_path / "judged")
    figures = evaluate(tmp_path / "out", both, tmp_path / "judged", unchecked=True)
    assert (figures["num_cases"], figures["num_seen"], figures["seen_checked"]) == (10, 90, False)


def test_a_split_of_an_older_format_is_extended_in_the_current_one_and_still_recognises_its_scans(site, tmp_path):
    digest = "0" * 64
    older = f"case_id,split,patient,scan_hu\nc00,train,,{hashed('scan', digest)}\nc01,test,,\n"
    (tmp_path / "splits.csv").write_text(older)
    cases = Cohort.read(site).cases[:2]
    splits = extended_splits(read_splits(tmp_path / "splits.csv"), cases, {"c00": "1" * 64})
    (tmp_path / "new.csv").write_text(splits.text)
    again = read_splits(tmp_path / "new.csv")
    assert again.parts == {"c00": "train", "c01": "test", "c00-added": "val", "c01-added": "val"}
    assert again.format == 3
    stranger = replace(cases[0], patient_id="file:x")
    for known in (digest, "1" * 64):
        assert again.trained_on.has(stranger, known)
    assert not again.trained_on.has(stranger, "2" * 64)
    assert again.trained_on.has(cases[1], ""), "by its patient"


def test_each_label_of_several_is_calibrated_by_itself_and_named_where_its_cases_are_too_few():
    rng = np.random.default_rng(0)
    labels = (rng.random((80, 2)) < [0.5, 0.3]).astype(np.int64)
    logits = rng.normal(size=(80, 2)) + labels
    each, chosen = refitted_decisions(
        DecisionConfig(calibration="temperature"), ("mass", "effusion"), held_out(labels, logits)
    )
    decisions = Decisions(classes=("mass", "effusion"), multi_label=True, each=each)
    assert list(decisions.thresholds.values()) == [one.value for one in chosen]
    pair = np.stack([np.zeros(80), logits[:, 1]], axis=1)
    assert each[1].calibration == fit_calibration(pair, labels[:, 1], method="temperature")
    labels[:, 1] = 0
    with pytest.raises(CohortError, match="effusion: platt calibration needs at least 30 validation cases, 5 of each"):
        refitted_decisions(DecisionConfig(), ("mass", "effusion"), held_out(labels, logits))


def test_of_three_classes_the_most_probable_one_stays_the_decision():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 3, 90)
    each, chosen = refitted_decisions(
        DecisionConfig(), ("a", "b", "c"), held_out(labels, np.eye(3)[labels] + rng.normal(size=(90, 3)))
    )
    assert chosen == (None,)
    assert each[0].rule == "the most probable class"
    assert each[0].calibration.method == "platt"
