"""The second stage: the last layer fitted anew, and synthetic features that lie between two patients or nowhere."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression

from hilum.cohorts.dataset import CohortDataset
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.split_file import read_splits
from hilum.cohorts.table import Cohort
from hilum.deciding.model_folder import load_model
from hilum.errors import ConfigError
from hilum.modelling.speed import EXACT, for_prediction
from hilum.preparing import Store
from hilum.randomness import torch_seed
from hilum.settings.run import HeadConfig
from hilum.settings.toml import load
from hilum.training.second_stage import balanced_features, features_of, fit_head
from hilum.training.train import train

SYNTHETIC = ("smote", "borderline-smote", "adasyn")


def features(seed, rare_patients=4, of_each=3):
    """60 common cases of 30 patients, and some rare ones, a little apart."""
    random = np.random.default_rng(seed)
    rare = rare_patients * of_each
    labels = np.repeat([0, 1], [60, rare])
    owners = np.concatenate([np.arange(60) // 2, np.repeat(np.arange(30, 30 + rare_patients), of_each)])
    return random.normal(0, 1, (60 + rare, 5)) + 0.7 * labels[:, None], labels, owners


def between(point, cases):
    """Pairs of cases on whose line a point lies, or the case that it is."""
    found = []
    for i, a in enumerate(cases):
        if np.allclose(point, a):
            found.append((i, i))
        for j, b in enumerate(cases):
            along = b - a
            if i != j and along @ along > 0:
                t = float((point - a) @ along / (along @ along))
                if -1e-9 <= t <= 1 + 1e-9 and np.allclose(a + t * along, point, atol=1e-9):
                    found.append((i, j))
    return found


@settings(max_examples=15)
@given(st.integers(0, 1000), st.sampled_from(SYNTHETIC), st.integers(2, 5), st.integers(1, 4))
def test_synthetic_features_lie_between_two_patients(seed, kind, rare_patients, of_each):
    """SMOTE's own neighbours are mostly other scans of the same patient, where there are several."""
    x, labels, owners = features(seed, rare_patients, of_each)
    made, of_class = balanced_features(x, labels, owners, HeadConfig(retrain=kind), seed=seed)
    assert np.array_equal(made[: len(x)], x)
    assert np.array_equal(of_class[: len(x)], labels)
    assert (of_class[len(x) :] == 1).all()
    rare, of_patient = x[labels == 1], owners[labels == 1]
    for point in made[len(x) :][:20]:
        pairs = between(point, rare)
        assert any(i == j or of_patient[i] != of_patient[j] for i, j in pairs)


@pytest.mark.parametrize("kind", ["smote", "borderline-smote"])
def test_classes_are_equally_many_then(kind):
    x, labels, owners = features(0)
    _, of_class = balanced_features(x, labels, owners, HeadConfig(retrain=kind), seed=0)
    assert np.bincount(of_class).tolist() == [60, 60]


@pytest.mark.parametrize("kind", SYNTHETIC)
@pytest.mark.parametrize("rare", [9, 25])
def test_where_each_case_is_of_another_patient_the_features_are_those_of_imbalanced_learn(kind, rare):
    over_sampling = pytest.importorskip("imblearn.over_sampling")
    random = np.random.default_rng(rare)
    labels = np.repeat([0, 1], [60, rare])
    x = random.normal(0, 1, (60 + rare, 5)) + 0.7 * labels[:, None]
    state = torch_seed(3, "head") % 2**32
    theirs = {
        "smote": lambda: over_sampling.SMOTE(random_state=state, k_neighbors=4),
        "borderline-smote": lambda: over_sampling.BorderlineSMOTE(random_state=state, k_neighbors=4),
        "adasyn": lambda: over_sampling.ADASYN(random_state=state, n_neighbors=4),
    }[kind]()
    expected, of_class = theirs.fit_resample(x, labels)
    config = HeadConfig(retrain=kind, neighbours=4)
    made, classes = balanced_features(x, labels, np.arange(60 + rare), config, seed=3)
    assert np.array_equal(classes, of_class)
    assert np.allclose(made, expected, rtol=0, atol=1e-12)


def test_synthetic_features_come_from_the_seed():
    x, labels, owners = features(0)
    made = [balanced_features(x, labels, owners, HeadConfig(retrain="smote"), seed=seed)[0] for seed in (0, 0, 1)]
    assert np.array_equal(made[0], made[1])
    assert not np.array_equal(made[0], made[2])


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_cases_of_one_patient_have_no_neighbours_and_are_repeated(kind):
    x, labels, owners = features(0, rare_patients=1, of_each=4)
    made, _ = balanced_features(x, labels, owners, HeadConfig(retrain=kind), seed=0)
    assert all(any(np.array_equal(point, case) for case in x[labels == 1]) for point in made[len(x) :])


@pytest.mark.parametrize("kind", SYNTHETIC)
def test_classes_far_apart_leave_nothing_to_the_border_and_smote_takes_over(kind, caplog):
    x, labels, owners = features(0)
    x[labels == 1] += 100
    made, of_class = balanced_features(x, labels, owners, HeadConfig(retrain=kind), seed=0)
    assert np.bincount(of_class).tolist() == [60, 60]
    assert len(made) == len(of_class)
    assert kind == "smote" or f"head.retrain = {kind} makes nothing here of a rare class" in caplog.text


def test_one_of_three_classes_far_apart_is_not_left_rare(caplog):
    random = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [60, 15, 15])
    x = random.normal(0, 1, (90, 5)) + np.array([0.0, 0.7, 50.0])[labels][:, None]
    _, of_class = balanced_features(x, labels, np.arange(90), HeadConfig(retrain="borderline-smote"), seed=0)
    assert np.bincount(of_class).tolist() == [60, 60, 60]
    assert "makes nothing here of a rare class" in caplog.text


def test_a_penalty_is_one_however_many_features_were_made():
    """Else synthetic features would weaken it, and SMOTE would be compared with less of it."""
    x, _, owners = features(0)
    twice = np.repeat([0, 1], [60, 12])
    norms = [
        np.linalg.norm(fit_head(x, twice, owners, HeadConfig(retrain=kind, penalty=300.0), seed=0)[0])
        for kind in ("balanced", "smote")
    ]
    assert norms[1] / norms[0] == pytest.approx(1, abs=0.2)


def test_the_same_features_of_two_patients_keep_their_owners():
    x, labels, owners = features(0, rare_patients=2, of_each=2)
    x[61] = x[62]  # of the first and of the second rare patient
    x[60] += 5
    made, _ = balanced_features(x, labels, owners, HeadConfig(retrain="smote"), seed=0)
    middle = (made[len(x) :, None] == x[60]).all(-1).any(1)
    assert middle.sum() < 60
    for point in made[len(x) :]:
        assert any(i == j or owners[60 + i] != owners[60 + j] for i, j in between(point, x[60:]))


def test_a_balanced_head_is_the_logistic_regression_with_balanced_weights():
    x, labels, owners = features(1)
    weight, bias = fit_head(x, labels, owners, HeadConfig(retrain="balanced", penalty=0.5), seed=0)
    standard = (x - x.mean(0)) / x.std(0)
    theirs = LogisticRegression(C=2.0, class_weight="balanced", max_iter=1000).fit(standard, labels)
    odds = (x @ weight.T + bias) @ [-1, 1]
    assert odds == pytest.approx(theirs.decision_function(standard), abs=1e-3)


def test_a_feature_that_is_the_same_for_all_costs_nothing():
    x, labels, owners = features(1)
    x[:, 2] = 3.0
    weight, bias = fit_head(x, labels, owners, HeadConfig(retrain="balanced"), seed=0)
    assert np.isfinite(weight).all()
    assert np.isfinite(bias).all()


@pytest.mark.parametrize("kind", ["balanced", "smote"])
def test_three_classes_and_several_findings_have_a_row_each(kind):
    random = np.random.default_rng(0)
    x, owners = random.normal(0, 1, (90, 4)), np.arange(90)
    three = np.repeat([0, 1, 2], [60, 20, 10])
    x[np.arange(90), three] += 3
    weight, bias = fit_head(x, three, owners, HeadConfig(retrain=kind), seed=0)
    assert ((x @ weight.T + bias).argmax(1) == three).mean() > 0.8
    findings = np.stack([x[:, 0] > 1.5, x[:, 1] > 2], axis=1).astype(np.int64)
    weight, bias = fit_head(x, findings, owners, HeadConfig(retrain=kind), seed=0)
    assert ((x @ weight.T + bias > 0) == findings).mean() > 0.85


# in a run


@pytest.fixture(scope="module")
def runs(npy_cohort, tmp_path_factory):
    """The same run without and with a second stage."""
    config = load(npy_cohort / "config.toml")
    config = replace(config, training=replace(config.training, epochs=2))
    made = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HILUM_KEY", "tests")
        for kind in ("none", "smote"):
            made[kind] = tmp_path_factory.mktemp("head") / kind
            train(replace(config, head=HeadConfig(retrain=kind)), made[kind], base=npy_cohort)
    return config, made


def test_the_second_stage_changes_only_the_last_layer(runs):
    _, made = runs
    first, second = (load_file(made[kind] / "model" / "weights.safetensors") for kind in ("none", "smote"))
    changed = {name for name in first if not torch.equal(first[name], second[name])}
    assert changed == {"fc.weight", "fc.bias"}


def test_the_second_stage_uses_only_training_cases(runs, npy_cohort):
    config, made = runs
    cohort = Cohort.read(npy_cohort / "cohort.csv", config.cohort)
    prepared = prepare_cohort(cohort, config.recipe, Store(npy_cohort / "store"))
    parts = read_splits(made["smote"] / "splits.csv").parts
    dataset = CohortDataset(prepared, parts, "train", 2, config.recipe)
    network, _ = load_model(made["none"] / "model")
    seen = features_of(for_prediction(network, EXACT), dataset, torch.device("cpu"), 8)
    owners = np.unique([prepared.cases[i].patient_id for i in dataset.indices], return_inverse=True)[1]
    weight, bias = fit_head(seen, dataset.labels, owners, HeadConfig(retrain="smote"), seed=config.training.seed)
    written = load_file(made["smote"] / "model" / "weights.safetensors")
    assert written["fc.weight"].numpy() == pytest.approx(weight, rel=1e-4, abs=1e-4)
    assert written["fc.bias"].numpy() == pytest.approx(bias, rel=1e-4, abs=1e-4)


def test_a_case_of_several_grids_has_no_second_stage(npy_cohort, tmp_path):
    config = load(npy_cohort / "config.toml")
    recipe = replace(config.recipe, sub_volumes=True, size=(8, 8, 8))
    with pytest.raises(ConfigError, match=r"head\.retrain must be none with recipe\.sub_volumes"):
        train(replace(config, recipe=recipe, head=HeadConfig(retrain="balanced")), tmp_path / "run", base=npy_cohort)
