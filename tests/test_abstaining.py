"""Bands and conformal sets: where a model abstains, and how often it is wrong elsewhere."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from held_out import held_out
from hilum.cli import main
from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.fit_decisions import TrainingCases, decisions_of, refitted_decisions
from hilum.deciding.outcome import Outcome
from hilum.errors import CohortError, ConfigError
from hilum.judging.evaluation_folder import read_evaluation
from hilum.judging.judge import judge
from hilum.judging.model_facts import abstaining_facts
from hilum.judging.report_plots import risks_of
from hilum.measuring.abstaining import (
    Band,
    ConformalSets,
    choose_band,
    coverage_ends,
    fit_sets,
    log_odds_distance,
    one_each,
    risk_by_coverage,
)
from hilum.measuring.calibration import Calibration
from hilum.settings.run import DecisionConfig, RunConfig

CLASSES = ("benign", "malignant")


def scores(rng, patients, scans=(1, 1), prevalence=0.3):
    """Labels, probabilities and patients: a patient's scans share a label and half of their score."""
    labels, p, owners = [], [], []
    for k in range(patients):
        label, own = int(rng.random() < prevalence), rng.normal()
        for _ in range(rng.integers(scans[0], scans[1] + 1)):
            z = 2.0 * label - 1.0 + (own + rng.normal()) / np.sqrt(2)
            labels.append(label)
            p.append(1 / (1 + np.exp(-z)))
            owners.append(f"p{k}")
    return np.array(labels), np.array(p), owners


def two(p):
    return np.stack([1 - p, p], axis=1)


@pytest.mark.parametrize("scans", [(1, 1), (1, 5)], ids=["one scan", "one to five scans a patient"])
def test_sets_and_bands_are_right_as_often_as_stated_of_2000_cases(scans):
    """Each class within its beta-binomial interval in 95 of 100 fits, and the mean at the stated coverage."""
    error, inside, covered, decided_wrong = 0.1, [], [], []
    for seed in range(120):
        rng = np.random.default_rng(seed)
        labels, p, owners = scores(rng, 2000 // np.mean(scans).astype(int), scans)
        new_labels, new_p, new_owners = scores(rng, 1000, scans)
        sets = fit_sets(labels, two(p), error=error, patients=owners)
        band = choose_band(labels, p, threshold=0.5, error=error, coverage=0.0, patients=owners)
        first = one_each(new_labels, new_owners)
        y, q = new_labels[first], new_p[first]
        members = sets.members(two(q))
        for k in (0, 1):
            share = members[y == k, k].mean()
            low, high = coverage_ends(sets.patients[k], error, int((y == k).sum()))
            inside.append(low <= share <= high)
            covered.append(share)
        wrong = np.where(y == 1, q < band.low, q > band.high)
        decided_wrong.append([wrong[y == k].mean() for k in (0, 1)])
    assert 0.91 <= np.mean(inside) <= 0.99
    assert np.mean(covered) == pytest.approx(1 - error, abs=0.006)
    assert np.mean(decided_wrong, axis=0) == pytest.approx([error, error], abs=0.01)


def test_one_random_case_of_each_patient_counts():
    """Of patients with many scans the first is no better than the others: it does not matter which come first."""
    labels, owners = np.array([0, 0, 0, 1, 1, 0]), ["a", "a", "b", "a", "c", "c"]
    found = one_each(labels, owners)
    assert len(found) == 5
    assert {(owners[n], labels[n]) for n in found} == {("a", 0), ("a", 1), ("b", 0), ("c", 0), ("c", 1)}
    assert one_each(labels, owners).tolist() == found.tolist()
    many = one_each(np.zeros(4000, int), [f"p{k // 4}" for k in range(4000)])
    assert np.bincount(many % 4) == pytest.approx([250] * 4, abs=60)


@pytest.mark.parametrize(("error", "needed"), [(0.1, 50), (0.01, 99), (0.02, 50), (0.019, 52)])
def test_too_few_patients_for_sets_are_refused_with_the_number_that_would_do(error, needed):
    labels, owners = np.repeat([0, 1], [needed - 1, 300]), [f"p{k}" for k in range(needed + 299)]
    p = np.random.default_rng(0).random(len(labels))
    with pytest.raises(
        CohortError, match=f"error of {error:g} need {needed} patients of each class, got {needed - 1}, 300"
    ):
        fit_sets(labels, two(p), error=error, patients=owners)
    more = np.append(labels, 0)
    fit_sets(more, two(np.append(p, 0.5)), error=error, patients=[*owners, "one more"])


def test_too_few_patients_for_a_band_are_refused_with_the_number_and_so_is_too_small_a_coverage():
    labels, p = np.repeat([0, 1], [100, 8]), np.random.default_rng(0).random(108)
    owners = [f"p{k}" for k in range(108)]
    with pytest.raises(
        CohortError, match=r"a band with an error of 0\.1 needs 9 patients with and without the class, got 8"
    ):
        choose_band(labels, p, threshold=0.5, error=0.1, coverage=0.0, patients=owners)
    with pytest.raises(CohortError, match=r"only \d+% of the cases would be decided, must be 90%"):
        choose_band(np.tile([0, 1], 54), p, threshold=0.5, error=0.1, coverage=0.9, patients=owners)


def test_classes_far_apart_need_no_band_and_every_case_is_decided_as_by_the_threshold():
    p = np.concatenate([np.linspace(0.05, 0.3, 60), np.linspace(0.7, 0.95, 60)])
    y, owners = np.repeat([0, 1], 60), [f"p{k}" for k in range(120)]
    band = choose_band(y, p, threshold=0.5, error=0.05, coverage=0.99, patients=owners)
    decision = Decision(threshold=0.5, band=band, calibration=Calibration(prevalence=(0.5, 0.5)))
    assert band.coverage == 1.0
    assert decision.decided(two(p)).tolist() == y.tolist()
    assert decision.decided(two(np.array([0.5]))).tolist() == [1]
    moved = decision.at((0.97, 0.03))
    there = two(np.array([moved.threshold, np.nextafter(moved.threshold, 0)]))
    assert moved.decided(there).tolist() == [1, 0]


@pytest.mark.parametrize("threshold", [0.1, 0.85])
def test_a_threshold_within_a_class_has_a_band_up_to_where_few_enough_are_wrong(threshold):
    p = np.concatenate([np.linspace(0.05, 0.3, 60), np.linspace(0.7, 0.95, 60)])
    y, owners = np.repeat([0, 1], 60), [f"p{k}" for k in range(120)]
    band = choose_band(y, p, threshold=threshold, error=0.05, coverage=0.0, patients=owners)
    decided = Decision(threshold=threshold, band=band).decided(two(p))
    assert 0 < np.mean(decided == -1) < 0.5
    for k in (0, 1):
        assert np.mean(decided[y == k] == 1 - k) <= 0.05


def test_a_band_holds_its_threshold_so_that_nobody_beyond_it_is_decided_against_it():
    rng = np.random.default_rng(3)
    labels, p, owners = scores(rng, 500)
    for threshold in (0.05, 0.5, 0.95):
        band = choose_band(labels, p, threshold=threshold, error=0.1, coverage=0.0, patients=owners)
        decisions = Decisions(classes=CLASSES, each=(Decision(threshold=threshold, band=band),))
        decided = decisions.decided(two(p))
        assert np.array_equal(decided[decided >= 0], (p >= threshold)[decided >= 0])
        assert set(decisions.described(decided)) <= {*CLASSES, "undecided"}


def test_another_prevalence_changes_neither_who_is_decided_nor_the_sets():
    rng = np.random.default_rng(4)
    labels, p, owners = scores(rng, 600)
    band = choose_band(labels, p, threshold=0.4, error=0.1, coverage=0.0, patients=owners)
    sets = fit_sets(labels, two(p), error=0.1, patients=owners)
    calibration = Calibration(prevalence=(0.7, 0.3))
    before = Decisions(classes=CLASSES, each=(Decision(calibration=calibration, threshold=0.4, band=band),))
    logits = np.stack([np.zeros(len(p)), np.log(p / (1 - p))], axis=1)
    after = before.at([0.02])
    here, there = before.probabilities(logits), after.probabilities(logits)
    assert there[:, 1].mean() < here[:, 1].mean()
    assert np.array_equal(before.decided(here), after.decided(there))
    with_sets = replace(before, each=(replace(before.each[0], band=None, sets=sets),))
    moved = with_sets.at([0.02])
    assert [with_sets.sets_of(one) for one in here] == [moved.sets_of(one) for one in there]


@examples(max_examples=300, deadline=None)
@given(
    threshold=st.floats(1e-4, 1 - 1e-4),
    share=st.floats(0.01, 0.99),
    to=st.floats(1e-3, 0.999),
    low=st.floats(0, 1),
    high=st.sampled_from([0.0, 0.3, None]),
)
def test_a_band_holds_its_threshold_at_every_prevalence(threshold, share, to, low, high):
    """Rounding must not move an end past the threshold; a band that is open above it stays open."""
    above = math.nextafter(threshold, 0) if high is None else threshold + high * (1 - threshold)
    band = Band(low=low * threshold, high=above, error=0.1, coverage=0.5, patients=(90, 90))
    one = Decision(calibration=Calibration(prevalence=(1 - share, share)), threshold=threshold, band=band)
    (moved,) = Decisions(classes=CLASSES, each=(one,)).at([to]).each
    at = moved.threshold
    assert moved.band.low <= at
    assert moved.band.holds(np.array([at]))[0] == (high is not None)
    assert moved.decided(two(np.array([at]))).tolist() == [1 if high is None else -1]


def test_sets_of_three_classes_are_not_lost_in_silence_at_another_prevalence():
    sets = ConformalSets(least=(0.2, 0.2, 0.2), error=0.1, patients=(90, 90, 90), singles=0.5)
    one = Decision(calibration=Calibration(prevalence=(0.5, 0.3, 0.2)), sets=sets)
    with pytest.raises(ConfigError, match="a stated prevalence must be absent for a model with conformal sets"):
        Decisions(classes=("a", "b", "c"), each=(one,)).at([0.2, 0.3, 0.5])


def test_with_the_fewest_patients_a_class_is_cut_just_below_its_lowest_case():
    y, p = np.repeat([0, 1], 9), np.concatenate([np.linspace(0.1, 0.3, 9), np.linspace(0.6, 0.9, 9)])
    band = choose_band(y, p, threshold=0.5, error=0.1, coverage=0.0, patients=[str(n) for n in range(18)])
    assert band.low == 0.5
    overlapping = choose_band(
        y, p - 0.4 * (y == 1), threshold=0.5, error=0.1, coverage=0.0, patients=list("abcdefghijklmnopqr")
    )
    assert overlapping.low == pytest.approx(0.2, abs=0.002)
    assert overlapping.low < 0.2


def test_the_one_class_of_a_set_is_the_decision_whatever_the_threshold():
    sets = ConformalSets(least=(0.45, 0.4), error=0.1, patients=(90, 90), singles=0.7)
    one = Decision(threshold=0.8, sets=sets)
    assert one.decided(two(np.array([0.3, 0.5, 0.57, 0.6, 0.9]))).tolist() == [0, -1, 1, 1, 1]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Band(low=0.9, high=0.1, error=0.1, coverage=0.5, patients=(9, 9)),
        lambda: Band(low=0.1, high=0.9, error=5.0, coverage=0.5, patients=(9, 9)),
        lambda: ConformalSets(least=(0.1, np.nan), error=0.1, patients=(90, 90), singles=0.5),
        lambda: ConformalSets(least=(0.1,), error=0.1, patients=(90,), singles=0.5),
        lambda: Decision(threshold=0.1, band=Band(low=0.4, high=0.6, error=0.1, coverage=0.5, patients=(9, 9))),
        lambda: Decisions(
            classes=CLASSES,
            each=(Decision(sets=ConformalSets(least=(0.1,) * 3, error=0.1, patients=(90,) * 3, singles=0.5)),),
        ),
        lambda: Decisions(classes=("benign", "undecided")),
        lambda: Decisions(classes=("no-result", "malignant")),
    ],
    ids=["band inverted", "error above 1", "nan", "one class", "beside the threshold", "of three", "names", "name"],
)
def test_what_cannot_be_is_refused_when_a_model_is_loaded(wrong):
    with pytest.raises(ConfigError):
        wrong()


def test_each_label_is_undecided_by_itself_and_said_so():
    band = Band(low=0.4, high=0.6, error=0.1, coverage=0.8, patients=(90, 90))
    each = (Decision(threshold=0.5, band=band), Decision(threshold=0.5), Decision(threshold=0.5, band=band))
    decisions = Decisions(classes=("a", "b", "c"), multi_label=True, each=each)
    probs = np.array([[0.5, 0.9, 0.1], [0.5, 0.1, 0.5], [0.1, 0.1, 0.1], [0.9, 0.55, 0.9]])
    decided = decisions.decided(probs)
    assert decided.tolist() == [[-1, 1, 0], [-1, 0, -1], [0, 0, 0], [1, 1, 1]]
    assert decisions.described(decided) == ["b; undecided: a", "undecided: a + c", "no finding", "a + b + c"]


def test_sets_are_named_by_their_classes_and_may_be_empty_or_hold_several():
    sets = ConformalSets(least=(0.5, 0.3, 0.25), error=0.1, patients=(90, 90, 90), singles=0.7)
    decisions = Decisions(classes=("a", "b", "c"), each=(Decision(sets=sets),))
    probs = np.array([[0.6, 0.3, 0.1], [0.4, 0.29, 0.21], [0.1, 0.6, 0.3], [0.9, 0.05, 0.05]])
    assert [decisions.sets_of(one)["classes"] for one in probs] == [("a", "b"), (), ("b", "c"), ("a",)]
    assert decisions.decided(probs).tolist() == [-1, -1, -1, 0]


# by the settings of a run


def logits_of(labels, rng):
    return np.stack([np.zeros(len(labels)), rng.normal(2.0 * labels - 1, 1.0)], axis=1)


def fitted(number=300, chose_epoch=True, **decision):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], number // 2)
    config = RunConfig(decision=DecisionConfig(**decision))
    trained = TrainingCases(labels=labels, counted=np.ones(len(labels)))
    found = held_out(labels, logits_of(labels, rng), chose_epoch=chose_epoch)
    (one,), _ = decisions_of(config, CLASSES, trained, found)
    return one


def test_a_band_is_fitted_on_validation_cases_and_sets_only_on_cases_that_chose_no_epoch(caplog):
    one = fitted(abstain="band", error=0.1)
    assert one.band.patients == (150, 150)
    assert "at most 0.1 of each class is decided wrongly" in one.abstains
    assert fitted().band is None
    refused = fitted(abstain="sets")
    assert refused.sets is None
    assert refused.abstains.startswith("never: conformal sets need cases that did not choose the epoch")
    assert not caplog.text  # the ensemble of a run of folds may have what its members cannot
    held = fitted(abstain="sets", chose_epoch=False)
    assert held.sets.patients == (150, 150)
    few = fitted(number=60, abstain="sets", chose_epoch=False)
    assert few.abstains == "never: conformal sets with an error of 0.1 need 50 patients of each class, got 30, 30"
    assert "need 50 patients of each class, got 30, 30; the model decides every case" in caplog.text


def test_what_could_never_abstain_is_refused_before_any_scan_is_read(npy_cohort, tmp_path, capsys):
    rows = (npy_cohort / "cohort.csv").read_text().splitlines()
    at = rows[0].split(",").index("label")
    three = [row.split(",") for row in rows]
    for n, row in enumerate(three[1:]):
        row[at] = str(n % 3)
    (tmp_path / "three.csv").write_text("\n".join(",".join(row) for row in three) + "\n")  # of scans that are not there
    flags = ["--decision.abstain", "sets", "--out", str(tmp_path / "run")]
    assert main(["train", str(npy_cohort / "config.toml"), *flags]) == 1
    wanted = "hilum: decision.abstain = sets needs cases that did not choose the epoch, and a single run has none "
    assert capsys.readouterr().err == wanted + "(train with --folds, or fit sets later: hilum recalibrate)\n"
    flags = [
        "--decision.abstain",
        "band",
        "--out",
        str(tmp_path / "run"),
        "--cohort.table",
        str(tmp_path / "three.csv"),
    ]
    for further in ([], ["--folds", "2"]):
        assert main(["train", str(npy_cohort / "config.toml"), *flags, *further]) == 1
        assert "must be none or sets for 3 classes" in capsys.readouterr().err
    flags = ["--decision.error", "0.2", "--out", str(tmp_path / "run")]
    assert main(["train", str(npy_cohort / "config.toml"), *flags]) == 1
    assert "decision.error must be 0.1 with decision.abstain = none, got 0.2" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_recalibration_refuses_what_it_cannot_fit():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 40)
    found = held_out(labels, logits_of(labels, rng), chose_epoch=False)
    with pytest.raises(CohortError, match="need 50 patients of each class, got 40, 40"):
        refitted_decisions(DecisionConfig(abstain="sets"), CLASSES, found)
    three = held_out(np.repeat([0, 1, 2], 60), rng.normal(size=(180, 3)) + 3 * np.repeat(np.eye(3), 60, axis=0))
    with pytest.raises(ConfigError, match="none or sets for more than two classes"):
        refitted_decisions(DecisionConfig(abstain="band"), ("a", "b", "c"), three)
    with pytest.raises(CohortError) as error:
        refitted_decisions(DecisionConfig(abstain="sets"), CLASSES, found)
    assert error.value.hint == "--decision.abstain none fits a model that decides every case"


def test_an_evaluation_says_what_sets_cover_and_how_many_hold_one_class_together():
    rng = np.random.default_rng(5)
    labels, p, owners = scores(rng, 900)
    one = Decision(threshold=0.5, sets=fit_sets(labels, two(p), error=0.1, patients=owners), abstains="by sets")
    decisions = Decisions(classes=CLASSES, each=(one,))
    new_labels, new_p, _ = scores(rng, 400)
    told = abstaining_facts(decisions, new_labels, [decisions.sets_of(one) for one in two(new_p)])["malignant"]
    members = one.sets.members(two(new_p))
    assert told["singles"] == pytest.approx((members.sum(axis=1) == 1).mean())
    for k, each in enumerate(told["covered"]):
        assert each["share"] == pytest.approx(members[new_labels == k, k].mean())
        assert each["share_ci"][0] < each["share"] < each["share_ci"][1]


def test_out_of_fold_the_risk_is_over_the_distance_from_each_folds_own_threshold(tmp_path):
    rng = np.random.default_rng(8)
    labels, fold = rng.integers(0, 2, 60), np.repeat([0, 1], 30)
    p = rng.random(60)
    cuts = np.where(fold == 0, 0.3, 0.7)
    decided = (p >= cuts).astype(int)
    judge(
        case_ids=[f"c{n}" for n in range(60)], patients=[f"p{n}" for n in range(60)], labels=labels, probs=two(p),
        classes=CLASSES, threshold=None, decided=decided, folder=tmp_path, further={"fold": list(map(str, fold))},
    )  # fmt: skip
    (one,) = risks_of(read_evaluation(tmp_path))
    assert one.is_wrong.tolist() == (decided != labels).tolist()
    gap = [
        np.sort(p[fold == k])[np.searchsorted(np.sort(p[fold == k]), c) + np.array([-1, 0])]
        for k, c in ((0, 0.3), (1, 0.7))
    ]
    middle = np.where(fold == 0, np.mean(gap[0]), np.mean(gap[1]))
    assert one.certainty == pytest.approx(np.abs(np.log(p / (1 - p)) - np.log(middle / (1 - middle))))


def test_of_three_classes_the_risk_is_over_the_highest_probability(tmp_path):
    rng = np.random.default_rng(9)
    labels, probs = rng.integers(0, 3, 40), rng.dirichlet(np.ones(3), 40)
    cases, outcomes = (
        [f"c{n}" for n in range(40)],
        [Outcome()] * 30 + [Outcome(kind="undecided", codes=("uncertain",))] * 10,
    )
    decided = np.where(np.arange(40) < 30, probs.argmax(axis=1), -1)
    judge(
        case_ids=cases, patients=cases, labels=labels, probs=probs, classes=("a", "b", "c"), threshold=None,
        decided=decided, outcomes=outcomes, folder=tmp_path,
    )  # fmt: skip
    (one,) = risks_of(read_evaluation(tmp_path))
    assert one.name == "all classes"
    assert one.is_wrong.tolist() == (probs.argmax(axis=1) != labels).tolist()
    assert one.certainty.tolist() == probs.max(axis=1).tolist()
    assert one.decided_wrongly.tolist() == (decided != labels)[:30].tolist()


def test_risk_over_coverage_begins_with_the_surest_and_ends_with_all():
    y, p = np.array([1, 1, 0, 0, 1]), np.array([0.99, 0.6, 0.05, 0.55, 0.3])
    coverage, risk = risk_by_coverage((p >= 0.5) != (y == 1), log_odds_distance(p, 0.5))
    assert coverage == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert risk == pytest.approx([0, 0, 1 / 3, 1 / 4, 2 / 5])
    tied, _ = risk_by_coverage(np.array([False, True, False]), log_odds_distance(np.array([0.8, 0.8, 0.6]), 0.5))
    assert tied == pytest.approx([2 / 3, 1.0])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gate": "closed"}, "gate"),
        ({"gate_share": 0.0}, r"decision\.gate_share must be above 0 and below 1, got 0.0"),
        ({"error": 0.5}, r"decision\.error must be above 0 and below 0.5, got 0.5"),
        ({"coverage": 1.0}, r"decision\.coverage must be at least 0 and below 1, got 1.0"),
    ],
)
def test_settings_that_are_not_allowed(settings, message):
    from hilum.settings.toml import from_dict

    with pytest.raises(ConfigError, match=message):
        from_dict(DecisionConfig, settings, "decision")
