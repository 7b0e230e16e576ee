"""A judgement is a folder that can be checked: figures with intervals, cases, pictures, and nobody's id."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from hilum.errors import CohortError, ConfigError
from hilum.judging.judge import judge
from hilum.measuring.metrics import confusion, roc_auc

PNG = b"\x89PNG\r\n\x1a\n"


def answers(n: int = 60, num_classes: int = 2, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, n)
    powers = np.exp(rng.normal(size=(n, num_classes)) + 1.5 * np.eye(num_classes)[labels])
    return {
        "case_ids": [f"case-{k}" for k in range(n)],
        "patients": [f"SECRET-{k // 2}" for k in range(n)],
        "labels": labels,
        "probs": powers / powers.sum(1, keepdims=True),
        "classes": ("benign", "malignant", "other", "none")[:num_classes],
        "threshold": 0.4 if num_classes == 2 else None,
    }


@pytest.fixture(scope="module")
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "evaluation"
    return folder, judge(**answers(), folder=folder, extra={"shape_auc": math.nan, "card": {"sizes": (1, 2)}})


def test_the_answer_is_what_the_file_says(judged):
    folder, answer = judged
    assert json.loads((folder / "evaluation.json").read_text()) == answer
    given = answers()
    p, y = given["probs"][:, 1], given["labels"]
    table = confusion(y, p >= 0.4)
    assert (answer["num_cases"], answer["num_patients"], answer["num_positives"]) == (60, 30, int(y.sum()))
    assert answer["threshold"] == 0.4
    assert answer["prevalence"] == pytest.approx(y.mean())
    assert answer["confusion"] == {name: int(getattr(table, name)) for name in ("tn", "fp", "fn", "tp")}
    assert answer["auc"] == pytest.approx(roc_auc(y, p))


def test_every_figure_has_its_interval_beside_it(judged):
    _, answer = judged
    rates = ("accuracy", "sensitivity", "specificity", "ppv", "npv", "balanced_accuracy", "f1")
    for name in (*rates, "auc", "average_precision", "brier"):
        low, high = answer[f"{name}_ci"]
        assert low < answer[name] < high


def test_extra_keys_are_merged_and_nan_is_null(judged):
    _, answer = judged
    assert answer["shape_auc"] is None
    assert answer["card"] == {"sizes": [1, 2]}


def test_every_figure_can_be_computed_again_from_the_cases(judged):
    folder, answer = judged
    with (folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["case_id", "label", "prob_benign", "prob_malignant", "decision"]
    y = np.array([int(row["label"] == "malignant") for row in rows])
    p = np.array([float(row["prob_malignant"]) for row in rows])
    assert roc_auc(y, p) == answer["auc"]
    assert [row["decision"] == "malignant" for row in rows] == (p >= 0.4).tolist()


def test_patients_are_written_nowhere(judged):
    folder, _ = judged
    for file in folder.iterdir():
        assert b"SECRET" not in file.read_bytes()


def test_the_folder_holds_the_pictures_and_nothing_half_made(judged):
    folder, _ = judged
    names = {"evaluation.json", "cases.csv", "roc.png", "pr.png", "confusion.png", "calibration.png"}
    assert {file.name for file in folder.iterdir()} == names
    assert [file.name for file in folder.parent.iterdir()] == ["evaluation"]
    for file in folder.glob("*.png"):
        assert file.read_bytes().startswith(PNG)
        assert b"Software" not in file.read_bytes()


def test_judging_again_gives_the_same_bytes(judged, tmp_path):
    folder, _ = judged
    judge(**answers(), folder=tmp_path / "again", extra={"shape_auc": math.nan, "card": {"sizes": (1, 2)}})
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_no_window_is_opened_and_no_global_state_is_touched():
    code = "import sys, hilum.judging.judge; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_many_classes_have_macro_figures_and_a_matrix(tmp_path):
    given = answers(num_classes=4)
    answer = judge(**given, folder=tmp_path / "evaluation")
    matrix = np.array(answer["confusion"])
    assert matrix.shape == (4, 4)
    assert matrix.sum(1).tolist() == answer["num_by_class"]
    assert answer["accuracy"] == pytest.approx(np.trace(matrix) / 60)
    for name in ("accuracy", "balanced_accuracy", "macro_auc", "macro_f1"):
        low, high = answer[f"{name}_ci"]
        assert low < answer[name] < high
    assert {file.name for file in (tmp_path / "evaluation").iterdir()} == {
        "evaluation.json",
        "cases.csv",
        "confusion.png",
    }


@pytest.mark.parametrize("label", [0, 1])
def test_cases_of_one_class_are_judged_as_far_as_they_can_be(tmp_path, label):
    given = answers() | {"labels": np.full(60, label)}
    answer = judge(**given, folder=tmp_path / "evaluation")
    assert answer["auc"] is None
    assert answer["auc_ci"] == [None, None]
    assert answer["accuracy"] is not None
    assert (tmp_path / "evaluation" / "roc.png").read_bytes().startswith(PNG)


def test_an_auc_of_zero_reaches_the_file(tmp_path):
    """The tutorial prints the AUC only ``if auc:``."""
    p = np.array([0.9, 0.8, 0.2, 0.1])
    given = answers(4) | {"labels": np.array([0, 0, 1, 1]), "probs": np.stack([1 - p, p], 1)}
    assert judge(**given, folder=tmp_path / "evaluation")["auc"] == 0.0


def test_without_a_threshold_the_more_probable_class_is_decided(tmp_path):
    given = answers() | {"threshold": None}
    answer = judge(**given, folder=tmp_path / "evaluation")
    assert answer["threshold"] == 0.5


def test_single_precision_probabilities_are_judged(tmp_path):
    given = answers()
    given["probs"] = given["probs"].astype(np.float32)
    assert 0.5 < judge(**given, folder=tmp_path / "evaluation")["auc"] <= 1


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"patients": ["a"]}, "as many patients, labels and probabilities as cases.*60 cases, 1 patients"),
        ({"classes": ("a", "b", "c")}, "one probability for each of at least two classes, got 2 for 3"),
        ({"labels": np.full(60, 2)}, "case 'case-0': its label must be below 2, got 2"),
        (
            {"probs": np.full((60, 2), 0.7)},
            r"case 'case-0': probabilities must be at least 0 and sum to 1, got 0\.7, 0\.7",
        ),
        ({"probs": np.full((60, 2), np.nan)}, "case 'case-0': probabilities must be"),
    ],
)
def test_what_cannot_be_judged_is_named_and_nothing_is_written(tmp_path, change, match):
    with pytest.raises(CohortError, match=match):
        judge(**(answers() | change), folder=tmp_path / "evaluation")
    assert list(tmp_path.iterdir()) == []


def test_extra_keys_cannot_replace_figures(tmp_path):
    with pytest.raises(ConfigError, match="must not be names of figures, got 'auc'"):
        judge(**answers(), folder=tmp_path / "evaluation", extra={"auc": 1.0})


def test_why_a_prediction_was_indeterminate_is_beside_its_case(tmp_path):
    doubts = [""] * 59 + ["the lungs measure 0.12 litres"]
    judge(**answers(), folder=tmp_path / "evaluation", doubts=doubts)
    lines = (tmp_path / "evaluation" / "cases.csv").read_text().splitlines()
    assert lines[0].endswith(",decision,indeterminate")
    assert lines[1].endswith(",")
    assert lines[-1].endswith(",the lungs measure 0.12 litres")
