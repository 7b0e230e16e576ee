"""A judgement is a folder that can be checked: figures with intervals, cases, pictures, and nobody's id."""

import csv
import json
import math
import subprocess
import sys

import numpy as np
import pytest

from hilum.deciding.outcome import Outcome
from hilum.errors import CohortError, ConfigError
from hilum.judging import headline
from hilum.judging.judge import judge
from hilum.measuring.comparison import Rating, compare_ratings
from hilum.measuring.intervals import with_stratified_auc
from hilum.measuring.metrics import confusion, roc_auc
from hilum.measuring.operating_points import OperatingPoint
from hilum.measuring.roc_variance import delong

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
def judged(tmp_path_factory, rendered_charts):
    folder = tmp_path_factory.mktemp("run") / "evaluation"
    with rendered_charts():
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
    assert list(rows[0]) == [
        "case_id", "patient_number", "label", "prob_benign", "prob_malignant", "decision", "outcome", "reason_codes",
        "reason", "format",
    ]  # fmt: skip
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
        assert b"Matplotlib" not in file.read_bytes()


def test_both_axes_of_each_curve_go_from_0_to_1_in_fifths(tmp_path, monkeypatch):
    pages = {}
    monkeypatch.setattr("hilum.judging.pictures.write", lambda panels, path, **_: pages.update({path.name: panels}))
    judge(**answers(), folder=tmp_path / "evaluation")
    for name in ("roc.png", "pr.png", "calibration.png"):
        axes = pages[name].axes[0]
        for limits, ticks in ((axes.get_xlim(), axes.get_xticks()), (axes.get_ylim(), axes.get_yticks())):
            assert np.allclose(limits, (0, 1), atol=0.02), name
            assert np.allclose(ticks, np.arange(6) / 5), name


@pytest.mark.charts
def test_judging_again_gives_the_same_bytes(judged, tmp_path):
    folder, _ = judged
    judge(**answers(), folder=tmp_path / "again", extra={"shape_auc": math.nan, "card": {"sizes": (1, 2)}})
    for file in folder.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name


def test_no_window_is_opened_and_no_global_state_is_touched():
    code = "import sys, hilum.judging.judge; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.charts
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
    pictures = {f"{name}.png" for name in ("roc", "pr", "calibration", "confusion")}
    assert {file.name for file in (tmp_path / "evaluation").iterdir()} == pictures | {"evaluation.json", "cases.csv"}


@pytest.mark.charts
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
    with pytest.raises(ConfigError, match="extra keys must be other names than those of figures, got auc"):
        judge(**answers(), folder=tmp_path / "evaluation", extra={"auc": 1.0})


def no_result(reason="no lungs", code="lungs-volume"):
    return Outcome(kind="no-result", codes=(code,), reason=reason)


def second_without_result():
    return [Outcome(), no_result(), *[Outcome()] * 58]


def test_why_a_prediction_has_no_result_is_beside_its_case(tmp_path):
    outcomes = [Outcome()] * 59 + [no_result("the lungs measure 0.12 litres")]
    answer = judge(**answers(), folder=tmp_path / "evaluation", outcomes=outcomes)
    lines = (tmp_path / "evaluation" / "cases.csv").read_text().splitlines()
    assert lines[0].endswith(",decision,outcome,reason_codes,reason,format")
    assert lines[1].endswith(",decided,,,3")
    assert lines[-1].endswith(",no-result,no-result,lungs-volume,the lungs measure 0.12 litres,3")
    assert (answer["num_no_result"], answer["num_undecided"]) == (1, 0)
    assert answer["reasons"] == {"lungs-volume": 1}


def test_a_case_without_a_decision_counts_for_no_rate_and_for_the_auc(tmp_path):
    given = answers()
    y, p = given["labels"], given["probs"][:, 1]
    whole = judge(**given, folder=tmp_path / "whole")
    missed = np.flatnonzero((y == 1) & (p < given["threshold"]))[:1]
    assert len(missed) == 1
    outcomes = [no_result() if k in missed else Outcome() for k in range(len(y))]
    answer = judge(**given, folder=tmp_path / "one-less", outcomes=outcomes)
    known = np.array([one.kind == "decided" for one in outcomes])
    expected = confusion(y[known], (p >= given["threshold"])[known])
    assert answer["sensitivity"] == pytest.approx(float(expected.sensitivity))
    assert answer["sensitivity"] > whole["sensitivity"]
    assert answer["confusion"]["fn"] == whole["confusion"]["fn"] - 1
    assert answer["auc"] == whole["auc"]
    assert answer["coverage_by_class"] == [1.0, pytest.approx(known[y == 1].mean())]


def test_undecided_labels_leave_their_own_rates_alone(tmp_path):
    given = several_labels(names=NAMES)
    decided = (given["probs"] >= np.array(given["threshold"])).astype(np.int64)
    decided[::3, 0] = -1
    answer = judge(**given, folder=tmp_path / "evaluation", decided=decided)
    first, second = (answer["by_label"][name] for name in NAMES[:2])
    known = decided[:, 0] >= 0
    expected = confusion(given["labels"][known, 0], decided[known, 0] == 1)
    assert first["sensitivity"] == pytest.approx(float(expected.sensitivity))
    assert first["num_decided"] == known.sum()
    assert second["num_decided"] == len(known)


# labels side by side, and classes each against the rest


def several_labels(n: int = 60, names=("nodule", "effusion", "mass"), prevalence=(0.5, 0.3, 0.15), seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, len(names))) < prevalence).astype(np.int64)
    odds = rng.normal(size=labels.shape) + 1.5 * labels - 1
    return {
        "case_ids": [f"case-{k}" for k in range(n)],
        "patients": [f"SECRET-{k // 2}" for k in range(n)],
        "labels": labels,
        "probs": 1 / (1 + np.exp(-odds)),
        "classes": tuple(names),
        "threshold": tuple(0.2 + 0.1 * k for k in range(len(names))),
    }


NAMES = ("nodule", "ground glass, bilateral", "a/b.c ä")


@pytest.fixture(scope="module")
def judged_labels(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels") / "evaluation"
    return folder, judge(
        **several_labels(names=NAMES), folder=folder, outcomes=[Outcome(), no_result(), *[Outcome()] * 58]
    )


def alone(given, k):
    """One of the labels as two classes, without and with it."""
    p = given["probs"][:, k]
    return given | {
        "labels": given["labels"][:, k],
        "probs": np.stack([1 - p, p], axis=1),
        "classes": ("without", given["classes"][k]),
        "threshold": given["threshold"][k],
    }


def test_each_label_is_judged_as_the_second_of_two_classes_would_be(judged_labels, tmp_path):
    given, (folder, answer) = several_labels(names=NAMES), judged_labels
    assert json.loads((folder / "evaluation.json").read_text()) == answer
    assert answer["multi_label"] is True
    assert answer["classes"] == list(answer["by_label"]) == list(NAMES)
    for k, name in enumerate(given["classes"]):
        single = judge(**alone(given, k), folder=tmp_path / "one", outcomes=second_without_result())
        found = answer["by_label"][name]
        assert found == {key: single[key] for key in found}
        assert {"auc", "log_loss", "mcc", "calibration_slope", "operating_points"} <= found.keys()


def test_figures_over_the_labels_are_means_and_cases_of_which_all_is_right(judged_labels):
    given, (_, answer) = several_labels(names=NAMES), judged_labels
    for name in ("auc", "average_precision", "balanced_accuracy", "f1"):
        mean = np.mean([one[name] for one in answer["by_label"].values()])
        low, high = answer[f"macro_{name}_ci"]
        assert answer[f"macro_{name}"] == pytest.approx(mean)
        assert low < mean < high
    right = ((given["probs"] >= given["threshold"]) == given["labels"]).all(axis=1)
    assert answer["subset_accuracy"] == pytest.approx(np.delete(right, 1).mean())


def test_the_same_patients_are_drawn_for_every_label(tmp_path):
    """Of a label and its copy the mean is the label's own figure, and no surer."""
    one = several_labels(names=("a",), prevalence=(0.4,))
    twice = one | {
        "labels": np.repeat(one["labels"], 2, axis=1),
        "probs": np.repeat(one["probs"], 2, axis=1),
        "classes": ("a", "b"),
        "threshold": one["threshold"] * 2,
    }
    answer = judge(**twice, folder=tmp_path / "evaluation")
    assert answer["macro_auc_ci"] == pytest.approx(answer["by_label"]["a"]["auc_ci"], abs=1e-12)


def test_every_label_can_be_computed_again_from_the_cases(judged_labels):
    folder, answer = judged_labels
    with (folder / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = [f"{what}_{name}" for name in NAMES for what in ("label", "prob", "called")]
    assert list(rows[0]) == ["case_id", "patient_number", *names, "outcome", "reason_codes", "reason", "format"]
    for name in NAMES:
        y = np.array([int(row[f"label_{name}"]) for row in rows])
        p = np.array([float(row[f"prob_{name}"]) for row in rows])
        known = np.array([row[f"called_{name}"] != "" for row in rows])
        called = np.array([row[f"called_{name}"] == "1" for row in rows])
        found = answer["by_label"][name]
        assert roc_auc(y, p) == found["auc"]
        assert confusion(y[known], called[known]).sensitivity == found["sensitivity"]
    assert [row["reason"] for row in rows[:3]] == ["", "no lungs", ""]
    assert "SECRET" not in (folder / "cases.csv").read_text() + (folder / "evaluation.json").read_text()


@pytest.mark.charts
def test_labels_have_a_panel_each_whatever_they_are_called_and_go_on_in_further_pictures(tmp_path, monkeypatch):
    """Names are no file names, and no formulas: a mathematical one that cannot be parsed would end the drawing."""
    monkeypatch.setattr("hilum.judging.pictures._ON_A_PAGE", 2)
    folder = tmp_path / "evaluation"
    judge(**several_labels(names=(r"$\frac$", "../a/b.c", "Ä" * 300)), folder=folder)
    pictures = {f"{what}{page}.png" for what in ("roc", "pr", "calibration", "confusion") for page in ("", "-2")}
    assert {file.name for file in folder.iterdir()} == pictures | {"evaluation.json", "cases.csv"}
    assert [file.name for file in tmp_path.iterdir()] == ["evaluation"]
    judge(**several_labels(names=("a", "b"), prevalence=0.3), folder=folder)
    assert {file.name for file in folder.glob("*.png")} == {name for name in pictures if "-2" not in name}


def test_pictures_of_another_model_do_not_stay_beside_the_figures_of_this_one(tmp_path):
    folder = tmp_path / "evaluation"
    judge(**answers(), folder=folder)
    (folder / "roc-of-mine.png").write_bytes(PNG)
    judge(**several_labels(names=[f"label {k}" for k in range(13)], prevalence=0.3), folder=folder)
    assert (folder / "roc-2.png").exists()
    judge(**answers(num_classes=3), folder=folder)
    names = {f"{name}.png" for name in ("roc", "pr", "calibration", "confusion", "roc-of-mine")}
    assert {file.name for file in folder.glob("*.png")} == names


@pytest.mark.charts
def test_a_class_with_a_name_like_a_formula_is_drawn(tmp_path):
    judge(**(answers() | {"classes": ("benign", r"$\frac$")}), folder=tmp_path / "evaluation")
    assert (tmp_path / "evaluation" / "confusion.png").read_bytes().startswith(PNG)


def test_a_label_that_no_case_has_leaves_the_means_open_and_the_line_says_so(tmp_path):
    given = several_labels()
    given["labels"][:, 2] = 0
    answer = judge(**given, folder=tmp_path / "evaluation")
    assert answer["by_label"]["mass"]["auc"] is None
    assert (answer["macro_auc"], answer["macro_auc_ci"]) == (None, [None, None])
    line = headline(answer)
    assert line.startswith("60 cases, 3 labels, the rarest (mass) in 0: lowest AUC 0.")
    assert line.endswith("no AUC of mass")


def test_the_line_on_labels_names_the_worst_beside_the_mean(tmp_path):
    given = several_labels()
    given["probs"][:, 1] = 0.5
    answer = judge(**given, folder=tmp_path / "evaluation", extra={"num_refused": 2})
    line = headline(answer)
    assert line.count("\n") == 0
    assert f"macro AUC {answer['macro_auc']:.3f} (" in line
    assert "lowest AUC 0.500 (" in line
    assert line.endswith(" of effusion; 2 refused")


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"probs": np.full((60, 3), 1.01)}, CohortError, "'case-0': the probability of 'nodule' must be .*, got 1.01"),
        ({"probs": np.full((60, 3), np.nan)}, CohortError, "'nodule' must be between 0 and 1, got nan"),
        ({"labels": np.full((60, 3), 2)}, CohortError, "'case-0': the label of 'nodule' must be 0 or 1, got 2"),
        ({"labels": np.zeros((60, 2), int)}, CohortError, "3 labels for each case, got 2"),
        ({"probs": np.full((60, 2), 0.5)}, CohortError, "one probability for each of .* classes, got 2 for 3"),
        ({"probs": np.full((59, 3), 0.5)}, CohortError, "as many patients, labels and probabilities as cases"),
        ({"threshold": (0.5, 0.5)}, ConfigError, "a threshold for each of 3 labels, got 2"),
        ({"threshold": 0.5}, ConfigError, "a threshold for each of 3 labels, got 1"),
        ({"extra": {"by_label": {}}}, ConfigError, "must be other names than those of figures, got by_label"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_judged_are_named_and_nothing_is_written(tmp_path, change, error, match):
    with pytest.raises(error, match=match):
        judge(**(several_labels() | change), folder=tmp_path / "evaluation")
    assert list(tmp_path.iterdir()) == []


def test_a_label_without_a_threshold_is_called_where_it_is_more_probable_than_not(tmp_path):
    answer = judge(**(several_labels() | {"threshold": (None, 0.3, None)}), folder=tmp_path / "evaluation")
    assert [one["threshold"] for one in answer["by_label"].values()] == [0.5, 0.3, 0.5]


def test_classes_have_one_threshold_at_most(tmp_path):
    with pytest.raises(ConfigError, match="one threshold or none, got 2"):
        judge(**(answers() | {"threshold": (0.5, 0.5)}), folder=tmp_path / "evaluation")


def test_each_of_many_classes_is_judged_against_the_rest(tmp_path):
    """The rare class is never decided, and the accuracy does not show it."""
    given = answers(n=200, num_classes=3)
    kept = (given["labels"] != 2) | (np.arange(200) % 8 == 0)
    given |= {name: np.array(given[name])[kept] for name in ("labels", "probs")}
    given |= {name: np.array(given[name])[kept].tolist() for name in ("case_ids", "patients")}
    given["probs"][:, 2] *= 0.01
    given["probs"] /= given["probs"].sum(axis=1, keepdims=True)
    answer = judge(**given, folder=tmp_path / "evaluation")
    matrix = np.array(answer["confusion"])
    assert list(answer["by_class"]) == answer["classes"]
    for k, name in enumerate(answer["classes"]):
        found = answer["by_class"][name]
        assert found["num_positives"] == answer["num_by_class"][k]
        assert found["auc"] == pytest.approx(roc_auc((given["labels"] == k).astype(int), given["probs"][:, k]))
        assert found["sensitivity"] == pytest.approx(matrix[k, k] / matrix[k].sum())
        others = np.delete(matrix, k, axis=0)
        assert found["specificity"] == pytest.approx(np.delete(others, k, axis=1).sum() / others.sum())
        for figure in ("auc", "sensitivity", "specificity"):
            low, high = found[f"{figure}_ci"]
            assert low <= found[figure] <= high
    assert np.mean([one["auc"] for one in answer["by_class"].values()]) == pytest.approx(answer["macro_auc"])
    assert answer["by_class"]["other"]["sensitivity"] == 0
    assert answer["accuracy"] > 0.7


def test_operating_points_are_those_of_validation_or_read_off_and_then_without_an_interval_of_what_was_demanded(
    tmp_path,
):
    given = answers(n=200)
    points = [(OperatingPoint(rule="sensitivity", at=0.9, threshold=0.2), OperatingPoint(rule="specificity", at=0.9))]
    first, second = judge(**given, folder=tmp_path / "e", points=points)["operating_points"]
    y, p = given["labels"], given["probs"][:, 1]
    assert first["chosen_on"] == "validation cases"
    assert first["sensitivity"] == pytest.approx(confusion(y, p >= 0.2).sensitivity)
    assert None not in first["sensitivity_ci"]
    assert (second["chosen_on"], second["threshold"]) == ("these cases", None)
    assert second["specificity"] >= 0.9
    assert second["specificity_ci"] == [None, None]
    assert None not in second["sensitivity_ci"]


def test_the_calibration_error_beyond_chance_is_what_is_left_above_the_floor(judged):
    _, answer = judged
    assert answer["ece_excess"] == pytest.approx(answer["ece"] - answer["ece_floor"])
    assert answer["ece_floor"] > 0


def test_the_variance_of_the_area_is_delongs_only_where_each_patient_has_one_case(tmp_path):
    clustered = judge(**answers(), folder=tmp_path / "e")
    alone = judge(**(answers() | {"patients": [str(k) for k in range(60)]}), folder=tmp_path / "e")
    assert (clustered["auc_variance_by"], alone["auc_variance_by"]) == ("Obuchowski", "DeLong")
    given = answers()
    figure = delong(given["labels"], given["probs"][:, 1]).figures[0]
    assert alone["auc_by_variance_ci"] == pytest.approx([figure.low, figure.high])


def test_every_figure_of_many_classes_has_a_mean_over_them(tmp_path):
    answer = judge(**answers(n=200, num_classes=3), folder=tmp_path / "e")
    for name in ("auc", "average_precision", "sensitivity", "specificity", "mcc", "brier", "log_loss", "f1"):
        mean = np.mean([one[name] for one in answer["by_class"].values()])
        low, high = answer[f"macro_{name}_ci"]
        assert low < answer[f"macro_{name}"] < high
        assert answer[f"macro_{name}"] == pytest.approx(mean)


def test_a_measurement_beside_the_model_has_the_interval_of_their_difference_by_variance(tmp_path):
    given = answers()
    sizes = np.random.default_rng(2).normal(size=60) + given["labels"]
    answer = judge(**given, folder=tmp_path / "e", columns={"size": [f"{v:.4f}" for v in sizes]})
    (one,) = answer["baselines"]
    both = compare_ratings(
        given["labels"], Rating(values=given["probs"][:, 1]),
        Rating(values=np.round(sizes, 4), is_probability=False), patients=given["patients"],
    )  # fmt: skip
    low, high = one["difference_ci"]
    assert one["difference"] == pytest.approx(both.differences["auc"].value)
    assert high - low == pytest.approx(both.differences["auc"].high - both.differences["auc"].low, rel=0.2)
    (matched,) = answer["size_matched"]
    assert len(matched["edges"]) == 4
    strata = np.searchsorted(matched["edges"], np.round(sizes, 4), side="right")
    figure = with_stratified_auc(
        given["labels"], given["probs"][:, 1], strata=strata.tolist(), patients=given["patients"]
    )
    assert matched["model_auc"] == pytest.approx(figure.value)
