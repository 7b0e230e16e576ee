"""From logits to decisions: which calibration a run gets, what is kept of it, and decisions at another prevalence."""

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from held_out import held_out
from hilum.cli import main
from hilum.cohorts.batches import EpochBatches
from hilum.cohorts.sampling import draws
from hilum.cohorts.split_file import read_splits
from hilum.cohorts.table import Cohort
from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.fit_decisions import TrainingCases, decisions_of
from hilum.deciding.model_folder import load_model
from hilum.errors import ConfigError
from hilum.measuring.calibration import Calibration
from hilum.measuring.metrics import log_loss
from hilum.measuring.operating_points import OperatingPoint
from hilum.modelling.losses import WeightedCrossEntropyLoss
from hilum.predicting import Predictor
from hilum.predicting.calibrated_network import Calibrated
from hilum.settings.run import DecisionConfig, HeadConfig, LossConfig, RunConfig, SamplingConfig
from hilum.settings.toml import from_dict, load, to_dict
from hilum.training import epoch, fit, part_loader
from hilum.training.train import train

CLASSES = ("healthy", "diseased")
FINDINGS = ("nodule", "effusion", "fibrosis")


def binary(threshold=0.3, **calibration):
    given = {"method": "platt", "temperature": 0.8, "bias": (0.7, -0.7), "prevalence": (0.9, 0.1)} | calibration
    return Decisions(classes=CLASSES, each=(Decision(calibration=Calibration(**given), threshold=threshold),))


def of_findings():
    each = [
        Decision(calibration=Calibration(method="platt", bias=(b, -b), prevalence=(1 - p, p)), threshold=t)
        for b, p, t in ((0.5, 0.3, 0.4), (0.0, 0.1, 0.2), (-1.0, 0.02, 0.7))
    ]
    return Decisions(classes=FINDINGS, multi_label=True, each=tuple(each))


# decisions


def test_findings_are_calibrated_and_called_one_by_one():
    logits = np.array([[1.0, -2.0, 3.0], [-9.0, -9.0, -9.0], [9.0, 9.0, 9.0]])
    decisions = of_findings()
    probs = decisions.probabilities(logits)
    expected = 1 / (1 + np.exp(-(logits - 2 * np.array([0.5, 0.0, -1.0]))))
    assert probs == pytest.approx(expected)
    assert decisions.described(decisions.decided(probs)) == [
        "nodule + fibrosis",
        "no finding",
        "nodule + effusion + fibrosis",
    ]
    assert decisions.thresholds == {"nodule": 0.4, "effusion": 0.2, "fibrosis": 0.7}


@given(st.lists(st.tuples(st.floats(-20, 20), st.floats(-20, 20)), min_size=1, max_size=20), st.floats(0.001, 0.999))
def test_another_prevalence_moves_probabilities_and_no_decision(rows, prevalence):
    logits, decisions = np.array(rows), binary()
    moved = decisions.at([prevalence])
    before, after = decisions.probabilities(logits), moved.probabilities(logits)
    clear = np.abs(before[:, 1] - 0.3) > 1e-9
    assert np.array_equal(decisions.decided(before)[clear], moved.decided(after)[clear])
    odds = (prevalence / (1 - prevalence)) / (0.1 / 0.9)
    assert after[:, 1] == pytest.approx(odds * before[:, 1] / (odds * before[:, 1] + before[:, 0]), abs=1e-9)


def test_each_finding_has_a_prevalence_of_its_own():
    logits = np.random.default_rng(0).normal(0, 3, (50, 3))
    decisions = of_findings()
    moved = decisions.at([0.5, 0.5, 0.5])
    before, after = decisions.probabilities(logits), moved.probabilities(logits)
    assert np.array_equal(decisions.decided(before), moved.decided(after))
    assert (after > before).all()


@pytest.mark.parametrize(
    ("decisions", "prevalence", "message"),
    [
        (binary(), [0.1, 0.9], "prevalence must be 1 share, got 2"),
        (binary(), [0.0], "prevalence must be above 0 and below 1, got 0"),
        (of_findings(), [0.1], "prevalence must be 3 shares, got 1"),
        (binary(prevalence=()), [0.1], "the prevalence that the probabilities stand for must be known"),
    ],
    ids=["two for one", "zero", "one for three", "unknown"],
)
def test_a_prevalence_that_makes_no_sense_is_refused(decisions, prevalence, message):
    with pytest.raises(ConfigError, match=message):
        decisions.at(prevalence)


def test_a_file_says_decisions_back():
    for decisions in (binary(), of_findings(), Decisions(classes=("a", "b", "c"))):
        assert from_dict(Decisions, json.loads(json.dumps(to_dict(decisions)))) == decisions


CURVE = ((-3.0, 0.01), (0.0, 0.2), (0.5, 0.2), (4.0, 0.97))


@pytest.mark.parametrize(
    "decisions",
    [
        binary(),
        of_findings(),
        binary(method="isotonic", temperature=1.0, curves=(CURVE,)),
        Decisions(
            classes=("a", "b", "c"),
            each=(Decision(calibration=Calibration(method="isotonic", curves=(CURVE, ((0.0, 0.3),), CURVE))),),
        ),
    ],
    ids=["platt", "findings", "isotonic", "three curves"],
)
def test_a_calibration_as_a_network_says_the_same(decisions):
    logits = np.random.default_rng(1).normal(0, 4, (200, len(decisions.classes))).astype(np.float32)
    got = Calibrated(decisions)(torch.from_numpy(logits))
    assert got.numpy() == pytest.approx(decisions.probabilities(logits), abs=2e-6)


# which calibration a run gets


def validated(positives=40, negatives=160, offset=0.0, seed=0):
    """Logits of a good model, off by a shift of the prior."""
    labels = np.repeat([0, 1], [negatives, positives])
    z = np.random.default_rng(seed).normal(2 * labels - 1, 1.0) + math.log(positives / negatives) + offset
    return labels, np.stack([np.zeros(len(z)), z], axis=1)


PLAIN_LOSS = LossConfig(class_weights="none", label_smoothing=0.0)
WEIGHTED_LOSS = LossConfig(label_smoothing=0.0)


def chosen(labels, logits, trained=None, **sections):
    config = replace(RunConfig(loss=PLAIN_LOSS), **sections)
    of = np.repeat([0, 1], [320, 80]) if trained is None else trained
    on = TrainingCases(labels=of, counted=np.ones(len(of)))
    (decision,), (threshold,) = decisions_of(config, CLASSES, on, held_out(labels, logits))
    assert decision.threshold == threshold.value
    return decision.calibration


@pytest.mark.parametrize(
    ("sections", "method"),
    [
        ({}, "temperature"),
        ({"loss": LossConfig(class_weights="none", label_smoothing=0.1)}, "platt"),
        ({"loss": WEIGHTED_LOSS}, "platt"),
        ({"loss": LossConfig()}, "platt"),
        ({"loss": LossConfig(name="focal", class_weights="none")}, "platt"),
        ({"loss": LossConfig(name="dice")}, "platt"),
        ({"head": HeadConfig(retrain="balanced")}, "platt"),
        ({"decision": DecisionConfig(calibration="isotonic")}, "isotonic"),
        ({"decision": DecisionConfig(calibration="none")}, "none"),
        ({"loss": WEIGHTED_LOSS, "decision": DecisionConfig(calibration="prior")}, "prior"),
        ({"loss": LossConfig(), "decision": DecisionConfig(calibration="temperature")}, "temperature"),
    ],
)
def test_platt_is_fitted_where_training_moved_the_probabilities_else_one_temperature(sections, method):
    assert chosen(*validated(), **sections).method == method


def test_sampling_moves_the_probabilities_too():
    trained = np.repeat([0, 1], [320, 80])
    on = TrainingCases(labels=trained, counted=np.where(trained == 1, 4.0, 1.0))
    config = RunConfig(loss=PLAIN_LOSS, sampling=SamplingConfig(method="over"))
    (decision,), _ = decisions_of(config, CLASSES, on, held_out(*validated()))
    assert decision.calibration.method == "platt"
    config = replace(config, decision=DecisionConfig(calibration="prior"))
    (decision,), _ = decisions_of(config, CLASSES, on, held_out(*validated()))
    assert decision.calibration.bias == pytest.approx((math.log(2), -math.log(2)))


@pytest.mark.parametrize(
    ("loss", "offset"),
    [(WEIGHTED_LOSS, math.log(4)), (LossConfig(name="logit-adjusted", label_smoothing=0.0), math.log(4))],
)
def test_the_correction_without_a_fit_undoes_weights_and_logit_adjustment(loss, offset):
    labels, logits = validated(offset=offset, seed=3)
    calibration = chosen(labels, logits, loss=loss, decision=DecisionConfig(calibration="prior"))
    right = Calibration().probabilities(logits - [[0.0, offset]])
    assert calibration.probabilities(logits) == pytest.approx(right)
    assert log_loss(labels, calibration.probabilities(logits)) < log_loss(labels, Calibration().probabilities(logits))


@pytest.mark.parametrize("positives", [3, 4])
def test_with_too_few_positives_to_fit_the_correction_without_a_fit_is_taken_where_it_holds(positives, caplog):
    labels, logits = validated(positives=positives)
    calibration = chosen(labels, logits, loss=LossConfig(class_weights="inverse"))
    assert calibration.method == "prior"
    assert f"by class 160, {positives}" in caplog.text
    assert "platt calibration needs" in calibration.rule
    calibration = chosen(labels, logits, loss=LossConfig(name="focal", class_weights="none"))
    assert calibration.method == "none"
    assert calibration.prevalence == ()


def test_offsets_leave_what_label_smoothing_does_and_say_so():
    labels, logits = validated(positives=3)
    calibration = chosen(labels, logits, loss=LossConfig(class_weights="inverse"))
    assert calibration.bias == pytest.approx((math.log(2), -math.log(2)))
    says = "offsets that undo weights and sampling (no fit), which leaves label smoothing, for platt"
    assert calibration.rule.startswith(says)
    calibration = chosen(labels, logits, loss=LossConfig(class_weights="none"))
    assert calibration.method == "none"
    assert calibration.rule.startswith("none, which leaves label smoothing, for platt")


def test_few_cases_of_a_plain_run_are_left_as_they_are_and_the_threshold_is_said_not_to_be_firm(caplog):
    calibration = chosen(*validated(positives=3))
    assert calibration.method == "none"
    assert calibration.prevalence == (0.8, 0.2)
    assert [record.getMessage() for record in caplog.records] == [
        "warning: the threshold was chosen from 3 validation cases of the positive class: unreliable"
    ]


def test_weights_of_cases_that_favour_a_class_are_undone_too():
    trained = np.repeat([0, 1], [320, 80])
    on = TrainingCases(labels=trained, counted=np.where(trained == 1, 4.0, 1.0))
    config = RunConfig(loss=PLAIN_LOSS)
    (decision,), _ = decisions_of(config, CLASSES, on, held_out(*validated()))
    assert decision.calibration.method == "platt"


def test_offsets_are_those_of_the_epoch_that_is_kept(npy_cohort, tmp_path):
    """Progressive sampling has other shares in each epoch; those of the last were never trained on here."""
    config = load(npy_cohort / "config.toml")
    config = replace(
        config,
        loss=PLAIN_LOSS,
        sampling=SamplingConfig(method="progressive"),
        decision=DecisionConfig(calibration="prior"),
        training=replace(config.training, epochs=3, stop_patience=1, lr=1e-9),
    )
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            part_loader, "TrainingCases", lambda **given: seen.append(given["counted"]) or TrainingCases(**given)
        )
        train(config, tmp_path / "run", base=npy_cohort)
    _, card = load_model(tmp_path / "run" / "model")
    kept = card.training["epoch"]
    cohort = Cohort.read(npy_cohort / "cohort.csv", config.cohort)
    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    labels = np.array([case.label for case in cohort.cases if parts[case.case_id] == "train"])
    expected = draws("progressive", np.bincount(labels), epoch=kept, epochs=3)
    assert np.bincount(labels, weights=seen[0]).tolist() == expected.tolist()


def test_auto_that_becomes_a_loss_without_offsets_is_refused_with_them(npy_cohort, tmp_path, monkeypatch):
    from hilum.training import decided_settings

    config = load(npy_cohort / "config.toml")
    config = replace(
        config, loss=LossConfig(name="auto", label_smoothing=0.0), decision=DecisionConfig(calibration="prior")
    )
    monkeypatch.setattr(decided_settings, "_advised", lambda *_: LossConfig(name="focal"))
    with pytest.raises(ConfigError, match=r"decision\.calibration must be another with loss\.name = focal"):
        train(config, tmp_path / "run", base=npy_cohort)
    assert not (tmp_path / "run").exists()


def test_each_finding_is_calibrated_on_its_own():
    random = np.random.default_rng(0)
    labels = (random.random((300, 3)) < (0.4, 0.2, 0.008)).astype(np.int64)
    labels[0] = 1
    logits = random.normal(3 * labels - 2.0, 1.0)
    trained = TrainingCases(labels=labels, counted=np.ones(300))
    decisions, _ = decisions_of(RunConfig(loss=LossConfig()), FINDINGS, trained, held_out(labels, logits))
    assert [one.calibration.method for one in decisions] == ["platt", "platt", "prior"]
    assert decisions[1].calibration.prevalence == pytest.approx((1 - labels[:, 1].mean(), labels[:, 1].mean()))


# in a run


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_class_weights_weigh_what_they_say_in_small_batches(npy_cohort, tmp_path, monkeypatch, micro_batch):
    """Divided by what each batch happens to weigh, 9 to 1 acts like 5 to 1 in batches of 8, and alone like 1 to 1."""
    config = load(npy_cohort / "config.toml")
    config = replace(
        config,
        training=replace(config.training, epochs=1, batch_size=6, micro_batch=micro_batch),
    )

    class WeightAlone(WeightedCrossEntropyLoss):
        def head_losses(self, odds, label):
            return self.weighted(label).sum(dim=2) + 0 * odds.sum(dim=2)

    values = []
    backward = epoch.Fabric.backward
    monkeypatch.setattr(fit, "make_loss", lambda *_: WeightAlone(torch.tensor([0.2, 1.8])))
    monkeypatch.setattr(epoch.Fabric, "backward", lambda self, v: values.append(float(v.detach())) or backward(self, v))
    train(config, tmp_path / "run", base=npy_cohort)
    cohort = Cohort.read(npy_cohort / "cohort.csv", config.cohort)
    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    labels = np.array([case.label for case in cohort.cases if parts[case.case_id] == "train"])
    batches = EpochBatches(len(labels), 6, seed=config.training.seed)
    batches.epoch = 1
    weights = np.array([0.2, 1.8])[labels]
    expected = [weights[batch].sum() / (len(batch) * weights.mean()) for batch in batches]
    ends = np.cumsum([config.parts_of(len(batch)) for batch in batches])[:-1]
    assert [part.sum() for part in np.split(values, ends)] == pytest.approx(expected, rel=1e-5)
    assert np.std(expected) > 0.05, "of batches that have more of the one class and of the other"


def test_a_model_written_before_there_were_decisions_is_read(trained_run, npy_cohort, tmp_path):
    shutil.copytree(trained_run / "model", tmp_path / "model")
    about = json.loads((tmp_path / "model" / "model.json").read_text())
    del about["decisions"]
    about |= {"classes": ["0", "1"], "temperature": 2.0, "threshold": 0.25, "threshold_rule": "so"}
    (tmp_path / "model" / "model.json").write_text(json.dumps(about))
    _, card = load_model(tmp_path / "model")
    (decision,) = card.decisions.each
    assert (decision.calibration.temperature, decision.threshold, decision.rule) == (2.0, 0.25, "so")
    assert Predictor(tmp_path / "model", device="cpu").predict(npy_cohort / "00.npy").thresholds == {"1": 0.25}


def test_a_stated_prevalence_by_flag_moves_probability_and_threshold_together(trained_run, npy_cohort, capsys):
    answers = []
    for flags in ([], ["--prevalence", "0.01"]):
        assert main(["predict", str(trained_run / "model"), str(npy_cohort / "00.npy"), "--json", *flags]) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers[1]["probabilities"]["1"] < answers[0]["probabilities"]["1"]
    assert answers[1]["thresholds"]["1"] < answers[0]["thresholds"]["1"]
    assert answers[0]["decision"] == answers[1]["decision"]
    assert main(["predict", str(trained_run / "model"), str(npy_cohort / "00.npy"), "--prevalence", "1.5"]) == 1
    assert capsys.readouterr().err == "hilum: prevalence must be above 0 and below 1, got 1.5\n"


def test_operating_points_decide_the_same_cases_at_another_prevalence():
    points = (OperatingPoint(rule="sensitivity", at=0.9, threshold=0.2), OperatingPoint(rule="specificity", at=0.9))
    calibration = Calibration(method="temperature", temperature=1.5, prevalence=(0.7, 0.3))
    decision = Decision(calibration=calibration, threshold=0.4, operating_points=points)
    there = decision.at((0.98, 0.02))
    logits = np.random.default_rng(0).normal(size=(200, 2))
    before, after = (one.calibration.probabilities(logits)[:, 1] for one in (decision, there))
    moved = there.operating_points[0].threshold
    assert moved < 0.05
    np.testing.assert_array_equal(before >= 0.2, after >= moved)
    assert there.operating_points[1].threshold is None
