"""What a run decides from its validation cases: calibration and threshold of the classes, or of each finding."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from held_out import held_out
from hilum.cohorts.sampling import Decks, strata
from hilum.deciding.fit_decisions import TrainingCases, decisions_of
from hilum.errors import ConfigError
from hilum.settings.run import (
    CohortConfig,
    ColumnsConfig,
    DecisionConfig,
    HeadConfig,
    LossConfig,
    Recipe,
    RunConfig,
    SamplingConfig,
)

COMPLETE = RunConfig(recipe=Recipe(spacing_mm=(2.0, 2.0, 2.0)))
FINDINGS = CohortConfig(columns=ColumnsConfig(labels=("nodule", "mass")))


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def cases_of_findings(n, seed=0):
    """Labels of two findings, a common and a rare one, and the log odds under which they were drawn."""
    rng = np.random.default_rng(seed)
    odds = rng.normal(size=(n, 2)) * 1.5 + (0.0, -2.5)
    return (rng.random((n, 2)) < sigmoid(odds)).astype(np.int64), odds


def test_weights_are_undone_for_each_finding_by_its_own_counts():
    """Too few validation cases for a fit: the log odds that the weights moved come back by the offsets alone."""
    trained, _ = cases_of_findings(4000)
    labels, odds = cases_of_findings(24, seed=3)
    present = trained.sum(axis=0)
    moved = odds + np.log((4000 - present) / present)  # weights of 1/n
    config = replace(COMPLETE, loss=LossConfig(class_weights="inverse"))
    each, chosen = decisions_of(
        config, ("nodule", "mass"), TrainingCases(labels=trained, counted=np.ones(4000)), held_out(labels, moved)
    )
    assert [one.calibration.method for one in each] == ["prior", "prior"]
    assert [one.threshold for one in each] == [one.value for one in chosen]
    for k, one in enumerate(each):
        pair = np.stack([np.zeros(24), moved[:, k]], axis=1)
        assert np.allclose(one.calibration.probabilities(pair)[:, 1], sigmoid(odds[:, k]))
        assert one.calibration.prevalence == pytest.approx((1 - present[k] / 4000, present[k] / 4000))


def test_findings_that_were_drawn_by_their_rarest_are_not_corrected_by_offsets(caplog):
    """The draws of a finding depend on which others come with it: no constant undoes that."""
    trained, _ = cases_of_findings(400)
    labels, odds = cases_of_findings(24, seed=3)
    config = replace(COMPLETE, sampling=SamplingConfig(method="over"))
    times = Decks(strata(trained), "over").times(1).astype(float)
    with caplog.at_level(logging.WARNING, "hilum"):
        each, _ = decisions_of(
            config, ("nodule", "mass"), TrainingCases(labels=trained, counted=times), held_out(labels, odds)
        )
    assert [(one.calibration.method, one.calibration.prevalence) for one in each] == [("none", ())] * 2
    assert "warning: nodule: platt calibration needs at least 30" in caplog.text
    assert "warning: mass: platt calibration needs at least 30" in caplog.text


def test_a_finding_that_the_last_epoch_did_not_draw_costs_no_training():
    """Under-sampled by rarer findings, a finding may not be drawn at all in an epoch."""
    trained = np.zeros((40, 4), np.int64)
    trained[:6, 0] = 1
    trained[[0, 1, 2, 6, 7], 1] = 1
    trained[[3, 4, 5, 8, 9], 2] = 1
    trained[10, 3] = 1
    decks = Decks(strata(trained), "under")
    times = next(t for t in (decks.times(epoch) for epoch in range(1, 100)) if not t @ trained[:, 0])
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.eye(4, dtype=np.int64), np.zeros((6, 4), np.int64)])
    config = replace(COMPLETE, sampling=SamplingConfig(method="under"))
    each, _ = decisions_of(
        config,
        ("a", "b", "c", "d"),
        TrainingCases(labels=trained, counted=times.astype(float)),
        held_out(labels, rng.normal(size=(10, 4))),
    )
    assert all(0 <= one.threshold <= 1 for one in each)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"loss": LossConfig(name="focal")}, "loss.name = focal"),
        ({"loss": LossConfig(label_smoothing=0.05)}, "loss.label_smoothing = 0.05"),
        ({"head": HeadConfig(retrain="balanced")}, "head.retrain = balanced"),
        ({"cohort": FINDINGS, "sampling": SamplingConfig(method="over")}, r"several labels \(columns.labels\)"),
    ],
)
def test_offsets_are_not_asked_for_where_they_undo_nothing(change, what):
    config = replace(COMPLETE, decision=DecisionConfig(calibration="prior"), **change)
    with pytest.raises(ConfigError, match=f"decision.calibration must be another with {what}.*, which no offsets undo"):
        config.check_together()


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"loss": LossConfig(name="logit-adjusted", label_smoothing=0.0)},
        {"sampling": SamplingConfig(method="over")},
        {"cohort": FINDINGS},
    ],
)
def test_offsets_may_be_asked_for_where_they_hold(change):
    plain = replace(COMPLETE, loss=LossConfig(label_smoothing=0.0), decision=DecisionConfig(calibration="prior"))
    replace(plain, **change).check_together()
