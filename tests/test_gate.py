"""Scans unlike those of training get no decision."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import ledoit_wolf

from hilum.cli import main
from hilum.cohorts.table import Case
from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.facts import FACTS, facts_of, kernel_of
from hilum.deciding.fit_gate import (
    Seen,
    fit_features,
    fit_ranges,
    outside,
    outside_when_left_out,
    widened_gate,
    with_limit,
)
from hilum.deciding.gate import FeatureStatistics, Gate, mean_distance
from hilum.deciding.model_folder import ModelCard, build, read_card, save_model
from hilum.errors import CheckpointError, ConfigError
from hilum.measuring.abstaining import coverage_ends
from hilum.predicting import Predictor
from hilum.preparing import prepare
from hilum.settings.recipe import Recipe
from hilum.settings.run import DecisionConfig, ModelConfig
from hilum.simulating import plan_cohort, simulate_case
from hilum.training.gate import Outputs, found_out_of_fold, gate_of_members
from hilum.volume import Tags, Volume, affine_from

RULE = DecisionConfig()
LUNGS = Recipe(region="lungs", size=(48, 40, 56), spacing_mm=(6.0, 6.0, 6.0))


def seen(facts, kernels=None, patients=None):
    n = len(facts)
    return Seen(
        facts=tuple(facts),
        kernels=tuple(kernels or [""] * n),
        patients=tuple(patients or [f"p{k}" for k in range(n)]),
    )


@pytest.fixture(scope="module")
def chests():
    """Prepared chests with the scans that they come from."""
    volumes = [simulate_case(case, seed=5, pixel_mm=6.0)[0] for case in plan_cohort(16, seed=5)]
    return [(volume, prepare(volume, LUNGS)) for volume in volumes]


@pytest.fixture(scope="module")
def gate(chests):
    return fit_ranges(seen([facts_of(one, LUNGS) for _, one in chests]), RULE)


# facts and ranges


def test_facts_are_those_of_the_scan_that_a_sample_comes_from(chests):
    volume, sample = chests[0]
    facts = facts_of(sample, LUNGS)
    assert set(facts) == set(FACTS)
    assert facts["slice_mm"] == volume.spacing_mm[0]
    assert facts["pixel_mm"] == volume.spacing_mm[1]
    assert facts["coverage_mm"] == pytest.approx(volume.shape[0] * volume.spacing_mm[0])
    assert facts["thickness_mm"] == volume.tags.thickness_mm
    assert 1.0 < facts["lungs_litres"] < 8.0
    assert facts["middle_hu"] == pytest.approx(np.median(sample.voxels_hu[::2, ::2, ::2]))


def test_of_a_point_neither_the_height_of_the_scan_nor_the_lungs_matter():
    of = Recipe(region="point", size=(8, 8, 8), spacing_mm=(2.0, 2.0, 2.0))
    hu = np.random.default_rng(0).integers(-900, 100, (20, 30, 30)).astype(np.int16)
    volume = Volume(voxels_hu=hu, affine=affine_from(spacing_mm=(2.0, 1.0, 1.0), origin_mm=(0, 0, 0)))
    facts = facts_of(prepare(volume, of, point_mm=volume.centre_mm), of)
    assert set(facts) == {"low_hu", "middle_hu", "high_hu", "slice_mm", "pixel_mm"}


def test_a_prepared_volume_tells_nothing_of_its_scan(tmp_path):
    of = Recipe(region="whole", size=(8, 8, 8), spacing_mm=(2.0, 2.0, 2.0), npy_range="hu")
    np.save(tmp_path / "a.npy", np.zeros((8, 8, 8), np.int16))
    from hilum.preparing import prepare_path

    assert not {"slice_mm", "pixel_mm", "coverage_mm"} & set(facts_of(prepare_path(tmp_path / "a.npy", of), of))


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (lambda v: v, set()),
        (lambda v: replace(v, voxels_hu=np.clip(v.voxels_hu + 300, -1024, 3071).astype(np.int16)), {"unseen-hu"}),
        (lambda v: replace(v, voxels_hu=np.ascontiguousarray(v.voxels_hu[::-1])), {"unseen-orientation"}),
        (lambda v: replace(v, voxels_hu=np.ascontiguousarray(v.voxels_hu[:, ::-1])), {"unseen-orientation"}),
        (lambda v: thick(v, 3), {"unseen-spacing"}),
        (lambda v: replace(v, tags=replace(v.tags, thickness_mm=12.0)), {"unseen-thickness"}),
    ],
    ids=["as it is", "HU + 300", "upside down", "front to back", "three slices as one", "thick slices"],
)
def test_what_training_did_not_see_is_named(chests, gate, change, codes):
    volume, _ = chests[3]
    changed = prepare(change(volume), LUNGS)
    found = gate.findings(facts_of(changed, LUNGS), kernel_of(changed), None)
    assert {one.code for one in found} >= codes
    assert codes or not found
    assert all(one.severity == "note" and any(c.isdigit() for c in one.message) for one in found)


def thick(volume: Volume, number: int) -> Volume:
    """Several slices averaged into one."""
    count = volume.shape[0] // number
    hu = volume.voxels_hu[: count * number].reshape(count, number, *volume.shape[1:]).mean(axis=1)
    affine = volume.affine.copy()
    affine[:3, 0] *= number
    affine[:3, 3] = volume.index_to_mm(((number - 1) / 2, 0, 0))
    return replace(volume, voxels_hu=np.rint(hu).astype(np.int16), affine=affine)


def test_every_chest_upside_down_is_told_from_every_one_upright(chests, gate):
    for volume, sample in chests:
        turned = prepare(replace(volume, voxels_hu=np.ascontiguousarray(volume.voxels_hu[::-1])), LUNGS)
        assert not gate.findings(facts_of(sample, LUNGS), "", None)
        assert gate.findings(facts_of(turned, LUNGS), "", None)


def test_a_kernel_is_judged_only_where_training_knew_one_kind_alone():
    both = fit_ranges(seen([{}, {}], ["soft", "sharp"]), RULE)
    soft = fit_ranges(seen([{}, {}], ["soft", ""]), RULE)
    unknown = fit_ranges(seen([{}, {}]), RULE)
    assert [one.code for one in soft.findings({}, "sharp", None)] == ["unseen-kernel"]
    assert [gate.findings({}, kernel, None) for gate, kernel in ((soft, "soft"), (soft, ""), (both, "sharp"))] == [
        ()
    ] * 3
    assert unknown.findings({}, "sharp", None) == ()
    volume = Volume(voxels_hu=np.zeros((2, 2, 2), np.int16), affine=np.eye(4), tags=Tags(kernel="B70f"))
    assert kernel_of(volume) == "sharp"


@pytest.mark.parametrize(
    "wrong",
    [
        {"limit": math.nan},
        {"limit": math.inf},
        {"limit": -1.0},
        {"share": 7.0},
        {"num_held_out": -3},
        {"kernels": ("hard",)},
        {"ranges": {"low_hu": (9.0, 1.0)}},
        {"ranges": {"low_hu": (math.nan, math.nan)}},
        {"ranges": {"weight_kg": (1.0, 2.0)}},
    ],
    ids=str,
)
def test_a_gate_that_is_none_is_refused(wrong):
    with pytest.raises(ConfigError):
        Gate(**wrong)


def test_a_distance_that_is_no_number_is_outside():
    assert [one.code for one in Gate(limit=2.0).findings({}, "", math.nan)] == ["unseen-features"]


def test_a_widened_gate_accepts_what_both_sites_have():
    ours = fit_ranges(seen([{"slice_mm": 1.0}, {"slice_mm": 1.2}], ["soft", "soft"]), RULE)
    theirs = seen([{"slice_mm": 5.0, "low_hu": -900.0}], ["sharp"])
    both = widened_gate(ours, theirs)
    for mm in (1.0, 1.2, 5.0):
        assert both.findings({"slice_mm": mm}, "sharp", None) == ()
    assert set(both.ranges) == {"slice_mm"}


# features


def test_the_distance_is_mahalanobis_to_the_nearest_mean_over_the_root_of_the_features():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(60, 5)) @ rng.normal(size=(5, 5)) + np.repeat([[0.0], [4.0]], 30, axis=0)
    labels, patients = np.repeat([0, 1], 30), [f"p{k}" for k in range(60)]
    found = fit_features(features, labels, patients)
    means = np.stack([features[labels == k].mean(axis=0) for k in (0, 1)])
    covariance, _ = ledoit_wolf(features - means[labels], assume_centered=True)
    new = rng.normal(size=(7, 5)) * 3
    inverse = np.linalg.inv(covariance)
    expected = [min(mahalanobis(one, mean, inverse) for mean in means) / math.sqrt(5) for one in new]
    assert found.distances(new) == pytest.approx(expected, rel=1e-3)


def test_classes_under_twenty_patients_share_a_mean_and_fewer_patients_have_none():
    rng = np.random.default_rng(1)
    features, labels = rng.normal(size=(60, 4)), np.repeat([0, 1, 2], [30, 15, 15])
    patients = [f"p{k}" for k in range(60)]
    found = fit_features(features, labels, patients)
    assert found.means[0] == pytest.approx(features[30:].mean(axis=0), abs=1e-6)
    assert found.means[1] == pytest.approx(features[:30].mean(axis=0), abs=1e-6)
    scans_of_few = fit_features(features, labels, [f"p{k % 19}" for k in range(60)])
    assert scans_of_few is None
    assert len(fit_features(features, rng.integers(0, 2, (60, 3)), patients).means) == 1


def test_features_that_never_vary_are_no_obstacle():
    features = np.zeros((40, 6))
    features[:, 0] = np.random.default_rng(0).normal(size=40)
    found = fit_features(features, np.zeros(40, int), [f"p{k}" for k in range(40)])
    assert np.isfinite(found.distances(features)).all()
    assert found.distances(features + np.eye(6)[3])[0] > 3


def test_members_have_features_of_their_own_and_their_distances_are_averaged():
    one, other = (
        FeatureStatistics(means=np.zeros((1, 2), np.float32), covariance=np.eye(2, dtype=np.float32) * k)
        for k in (1, 4)
    )
    features = np.array([[2.0, 2.0]])
    assert mean_distance([one, other], [features, features]) == pytest.approx([(2.0 + 1.0) / 2])


# the share that is held back


def limited(gate, held_out, distances, asked):
    return with_limit(gate, held_out.patients, outside(gate, held_out), distances, asked)


def test_of_folds_and_recalibrated_models_too_no_more_is_held_back_than_is_stated():
    """A case counts by ranges that were fitted without it: the ranges of all would hold it back never."""
    rng, rule = np.random.default_rng(1), DecisionConfig(gate_share=0.05)

    def draw(n):
        facts = [
            {name: float(rng.standard_t(5)) * FACTS[name].least for name in ("middle_hu", "high_hu")} for _ in range(n)
        ]
        return facts, rng.normal(size=n) ** 2

    of_distance = FeatureStatistics(means=np.zeros((1, 1), np.float32), covariance=np.ones((1, 1), np.float32))
    told, back = (
        {"folds": [], "out of fold": [], "recalibrated": []},
        {"folds": [], "out of fold": [], "recalibrated": []},
    )
    for run in range(30):
        (facts, distances), (new, away) = draw(150), draw(600)
        fold = np.arange(150) % 5
        parts = [np.flatnonzero(fold == k).tolist() for k in range(5)]
        gates = [fit_ranges(seen([facts[i] for i in range(150) if fold[i] != k]), rule) for k in range(5)]
        by_fold = []
        for k, own in enumerate(parts):
            owners = [f"{run}-{i}" for i in own]
            cases = tuple(Case(case_id=one, path=Path(one), label=0, patient_id=one) for one in owners)
            known = seen([facts[i] for i in own], patients=owners)
            outputs = Outputs(cases=cases, logits=np.zeros((30, 2)), features=(distances[own][:, None],), seen=known)
            by_fold.append((outputs, [k]))
        whole, _ = gate_of_members(gates, [(of_distance,)] * 5, by_fold, rule)
        found = found_out_of_fold(gates, [of_distance] * 5, by_fold, rule)
        more = seen(facts)
        again = with_limit(
            widened_gate(gates[0], more), more.patients, outside_when_left_out(gates[0], more), distances, 0.05
        )
        for name, gate in (("folds", whole), ("recalibrated", again)):
            told[name].append(gate.share)
            pairs = zip(new, away.tolist(), strict=True)
            back[name].append(np.mean([bool(gate.findings(one, "", d)) for one, d in pairs]))
        told["out of fold"].append(whole.share)
        back["out of fold"].append(np.mean([bool(one) for one in found]))
    for name, shares in back.items():
        error = np.std(shares) / np.sqrt(len(shares))
        assert np.mean(shares) < np.mean(told[name]) + 2.5 * error, name
        assert np.mean(shares) > np.mean(told[name]) / 3, name


@pytest.mark.parametrize("share", [0.02, 0.2])
def test_the_share_held_back_is_the_one_asked_for_within_its_beta_binomial_interval(share):
    """Of features and ranges together: a tenth of the share lies outside the ranges."""
    rng = np.random.default_rng(0)

    def draw(n):
        return seen([{"low_hu": v} for v in (rng.random(n) < 1 - share / 10) * -900.0]), rng.gamma(3, size=n)

    base = Gate(ranges={"low_hu": (-1000.0, -800.0)})
    held, tested, fits = [], 500, 200
    for _ in range(fits):
        gate = limited(base, *draw(300), share)
        new, distances = draw(tested)
        pairs = zip(new.facts, distances.tolist(), strict=True)
        held.append(np.mean([bool(gate.findings(facts, "", d)) for facts, d in pairs]))
    low, high = coverage_ends(300, share, tested)
    assert np.mean((1 - np.array(held) >= low - 1e-9) & (1 - np.array(held) <= high + 1e-9)) > 0.9
    assert np.mean(held) == pytest.approx(share, rel=0.1)


def test_with_few_patients_the_share_is_what_they_allow_and_one_random_case_of_each_counts():
    """The first scan of a patient may be unlike the later ones, as here: it must not stand for them."""
    distances = np.arange(40.0) % 2
    patients = [f"p{k // 2}" for k in range(40)]
    gate = limited(Gate(), seen([{}] * 40, patients=patients), distances, 0.01)
    assert gate.num_held_out == 20
    assert gate.share == pytest.approx(1 / 21)
    assert gate.limit == 1.0
    assert "0.01 was asked for: that needs 99 patients" in gate.rule


def test_ranges_that_hold_back_more_than_the_share_are_said_to():
    facts = [{"low_hu": 0.0 if k % 4 == 0 else -900.0} for k in range(100)]
    gate = limited(Gate(ranges={"low_hu": (-1000.0, -800.0)}), seen(facts), np.arange(100.0), 0.02)
    assert gate.share == pytest.approx(26 / 101)
    assert gate.limit == 99.0
    assert "0.02 was asked for: the ranges alone hold back more" in gate.rule
    assert "25 of 100 patients that were held out lie outside the ranges" in gate.rule


def test_out_of_fold_the_gate_of_the_members_that_held_a_case_out_judges_it_by_a_limit_from_other_folds(tmp_path):
    gates = [Gate(ranges={"slice_mm": (1.0, 2.0)}), Gate(ranges={"slice_mm": (1.0, 9.0)})]
    at_zero = FeatureStatistics(means=np.zeros((1, 1), np.float32), covariance=np.ones((1, 1), np.float32))
    distances = [np.array([0.5, 1.5, 2.5, 3.0]), np.array([1.0, 2.0, 0.1, 4.0])]
    by_fold = []
    for number, away in enumerate(distances):
        owners = [f"{number}-{n}" for n in range(4)]
        cases = [Case(case_id=owner, path=tmp_path, label=0, patient_id=owner) for owner in owners]
        facts = seen([{"slice_mm": mm} for mm in (1.5, 1.5, 1.5, 3.0)], patients=owners)
        by_fold.append(
            (Outputs(cases=tuple(cases), logits=np.zeros((4, 2)), features=(away[:, None],), seen=facts), [number])
        )
    found = found_out_of_fold(gates, [at_zero, at_zero], by_fold, DecisionConfig(gate_share=0.4))
    codes = [{one.code for one in own} for own in found]
    # fold 0: member 0 saw 1 to 2 mm, and by its ranges a case of fold 1 is outside: the limit is the third of 0.1, 1, 2
    assert codes[:4] == [set(), set(), {"unseen-features"}, {"unseen-spacing", "unseen-features"}]
    # fold 1: member 1 saw 1 to 9 mm, and the limit is the third of 0.5, 1.5, 2.5, 3
    assert codes[4:] == [set(), set(), set(), {"unseen-features"}]


# in a model's folder


def test_training_keeps_the_gate_in_the_model_folder_without_ids(trained_run):
    card = read_card(trained_run)
    assert card.gate.policy == "no-result"
    assert "low_hu" in card.gate.ranges
    assert "membership" in card.gate.privacy
    text = (trained_run / "model" / "model.json").read_text()
    assert json.loads(text)["format"] == 4


@pytest.fixture(scope="module")
def gated(tmp_path_factory):
    """A model of forty whole chests, each of another patient; the lungs, which take longest, are looked for below."""
    from hilum.simulating import simulate_cohort

    folder = tmp_path_factory.mktemp("gated")
    table = simulate_cohort(folder, num_cases=48, seed=2, diseased=0.4, pixel_mm=12.0, workers=1)
    flags = ["--out", str(folder / "run"), "--recipe.size", "24", "20", "28", "--recipe.spacing-mm", "12", "12", "12"]
    flags += ["--recipe.region", "whole", "--model.depth", "10", "--model.width", "8"]
    flags += ["--training.epochs", "2", "--device", "cpu", "--store", str(folder / "store")]
    assert main(["train", str(table), *flags]) == 0
    return folder


def test_a_scan_like_those_of_training_is_decided_and_others_are_not(gated, tmp_path, capsys):
    predictor = Predictor(gated / "run", device="cpu")
    assert (gated / "run" / "model" / "gate.safetensors").is_file()
    volume = simulate_case(plan_cohort(1, seed=2)[0], seed=2, pixel_mm=12.0)[0]
    assert predictor.predict(volume).outcome.kind == "decided"
    shifted = replace(volume, voxels_hu=np.clip(volume.voxels_hu + 300, -1024, 3071).astype(np.int16))
    found = predictor.predict(shifted)
    assert found.decision == "no-result"
    assert "unseen-hu" in found.outcome.codes
    assert found.as_dict()["reason_codes"] == list(found.outcome.codes)
    thick(volume, 3).write(tmp_path / "thick.nii.gz")
    assert main(["predict", str(gated / "run"), str(tmp_path / "thick.nii.gz")]) == 0
    assert "decision: no-result (threshold" in capsys.readouterr().out


def test_the_gate_of_a_model_of_lungs_judges_scans_in_which_it_finds_them(chests, gate, tmp_path):
    decisions = Decisions(classes=("0", "1"), each=(Decision(),))
    network = ModelConfig(depth=10, width=1, stem="small")
    card = ModelCard(model=network, recipe=LUNGS, decisions=decisions, training={}, gate=gate)
    save_model(tmp_path, build(network, LUNGS, 2), card)
    predictor, (volume, _) = Predictor(tmp_path, device="cpu"), chests[3]
    assert predictor.predict(volume).outcome.kind == "decided"
    turned = predictor.predict(replace(volume, voxels_hu=np.ascontiguousarray(volume.voxels_hu[::-1])))
    assert turned.decision == "no-result"
    assert "unseen-orientation" in turned.outcome.codes


def test_by_policy_the_gate_only_notes_or_is_off(gated, tmp_path):
    volume = simulate_case(plan_cohort(1, seed=2)[0], seed=2, pixel_mm=12.0)[0]
    shifted = replace(volume, voxels_hu=np.clip(volume.voxels_hu + 300, -1024, 3071).astype(np.int16))
    for policy in ("note", "off"):
        predictor = Predictor(gated / "run", device="cpu")
        gate = replace(predictor.card.gate, policy="note") if policy == "note" else None
        predictor.card = replace(predictor.card, gate=gate)
        found = predictor.predict(shifted)
        codes = {one.code for one in found.findings}
        assert ("unseen-hu" in codes) == (policy == "note")
        assert "unseen-hu" not in found.outcome.codes


def test_cases_that_the_gate_holds_back_are_listed_with_their_codes_and_counted(gated, tmp_path):
    from hilum.judging import evaluate

    rows = ["path,label"]
    for k, case in enumerate(plan_cohort(8, seed=77, diseased=0.5)):
        volume = simulate_case(case, seed=77, pixel_mm=12.0)[0]
        (thick(volume, 3) if k % 2 else volume).write(tmp_path / f"{k}.nii.gz")
        rows.append(f"{k}.nii.gz,{case.label}")
    (tmp_path / "new.csv").write_text("\n".join(rows) + "\n")
    found = evaluate(gated / "run", tmp_path / "new.csv", tmp_path / "out", device="cpu", unchecked=True)
    assert found["num_no_result"] >= 4
    assert found["reasons"]["unseen-spacing"] == 4
    assert found["coverage"] == pytest.approx(1 - found["num_no_result"] / 8)
    assert sum(found["confusion"].values()) == 8 - found["num_no_result"]
    assert "unseen-spacing" in (tmp_path / "out" / "report.html").read_text()
    assert main(["predict", str(gated / "run"), str(tmp_path / "new.csv"), "--out", str(tmp_path / "p.csv")]) == 0
    text = (tmp_path / "p.csv").read_text()
    assert text.splitlines()[0].endswith("decision,reason_codes,reason")
    assert text.count("no-result") == found["num_no_result"]


def test_an_ensemble_of_single_runs_has_a_gate_that_judges_the_features_of_each(gated, tmp_path, monkeypatch):
    monkeypatch.delenv("HILUM_KEY", raising=False)
    flags = ["--training.seed", "1", "--out", str(gated / "second")]
    assert main(["train", str(gated / "run" / "config.toml"), *flags]) == 0
    assert main(["ensemble", str(gated / "run"), str(gated / "second"), "--out", str(tmp_path / "both")]) == 0
    card = read_card(tmp_path / "both")
    assert card.gate.limit > 0
    assert len(Predictor(tmp_path / "both", device="cpu").statistics) == 2


def test_a_lost_or_damaged_gate_is_one_line(gated, tmp_path, capsys):
    import shutil

    def another(number):
        zero, unit = np.zeros((1, number), np.float32), np.eye(number, dtype=np.float32)
        return lambda file: save_file({"means": zero, "covariance": unit}, file)

    lost, garbage = (lambda file: file.unlink()), (lambda file: file.write_bytes(b"nothing"))

    def flat(file):
        save_file({name: np.ones((1, 1), np.float32) for name in ("means", "covariance")}, file)

    for damage in (lost, garbage, another(3), flat):
        folder = tmp_path / "model"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(gated / "run" / "model", folder)
        damage(folder / "gate.safetensors")
        with pytest.raises(CheckpointError, match=r"the gate.safetensors that its gate needs cannot be read"):
            Predictor(folder, device="cpu")
