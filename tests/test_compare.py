"""Models are compared on the same cases, case by case, and what cannot be compared is named."""

import csv
import json

import numpy as np
import pytest

from hilum.cli import main
from hilum.deciding.outcome import Outcome
from hilum.errors import CohortError, ConfigError
from hilum.judging import compare, judge
from hilum.measuring.comparison import Rating, compare_ratings
from hilum.measuring.metrics import confusion, roc_auc


def answers(seed: int, strength: float = 1.5, n: int = 80, num_classes: int = 2, threshold: float = 0.4):
    """Predictions on the same cases; a seed is a model."""
    labels = np.random.default_rng(0).integers(0, num_classes, n)
    noise = np.random.default_rng(seed).normal(size=(n, num_classes))
    powers = np.exp(noise + strength * np.eye(num_classes)[labels])
    return {
        "case_ids": [f"case-{k}" for k in range(n)],
        "patients": [f"p{k // 2}" for k in range(n)],
        "labels": labels,
        "probs": powers / powers.sum(1, keepdims=True),
        "classes": ("benign", "malignant", "other")[:num_classes],
        "threshold": threshold if num_classes == 2 else None,
    }


@pytest.fixture
def two(tmp_path):
    folders = []
    for name, given in {"first": answers(1, 2.5), "second": answers(2, 0.8, threshold=0.6)}.items():
        judge(**given, folder=tmp_path / name)
        folders.append(tmp_path / name)
    return folders


def test_the_difference_is_that_of_both_on_the_same_cases_in_whatever_order(two, tmp_path):
    first, second = answers(1, 2.5), answers(2, 0.8)
    found = compare(two)
    (pair,) = found.pairs
    y, p, q = first["labels"], first["probs"][:, 1], second["probs"][:, 1]
    assert pair["differences"]["auc"] == pytest.approx(roc_auc(y, p) - roc_auc(y, q))
    expected = compare_ratings(
        y, Rating(values=p, threshold=0.4), Rating(values=q, threshold=0.6), patients=first["patients"]
    )
    low, high = pair["differences"]["auc_ci"]
    assert (low, high) == pytest.approx((expected.differences["auc"].low, expected.differences["auc"].high), abs=0.02)
    assert pair["p_areas"] == pytest.approx(expected.p_areas)
    assert set(pair["figures"]) == {"auc", "average_precision", "sensitivity", "specificity", "brier"}
    turned = (
        second
        | {name: np.array(second[name])[::-1] for name in ("labels", "probs")}
        | {name: second[name][::-1] for name in ("case_ids", "patients")}
    )
    judge(**(turned | {"threshold": 0.6}), folder=tmp_path / "turned")
    again = compare([two[0], tmp_path / "turned"])
    assert again.pairs[0]["differences"] == pair["differences"]


def test_the_page_and_the_lines_say_the_same(two, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["compare", *map(str, two), "--out", str(page)]) == 0
    out = capsys.readouterr().out
    assert "80 cases of 40 patients" in out
    assert "first against second, malignant: AUC" in out
    text = page.read_text()
    pair = compare(two).pairs[0]
    assert f"{pair['differences']['auc']:.3f}" in text
    assert "Bandos 2005" in text
    assert "curves are not the same" in text
    assert main(["compare", *map(str, two), "--out", str(page), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pairs"][0]["p_curves"] == pair["p_curves"]


def test_a_model_compared_with_itself_differs_in_nothing(two):
    (pair,) = compare([two[0], two[0]]).pairs
    assert {pair["differences"][name] for name in pair["figures"]} == {0.0}
    assert (pair["p_areas"], pair["p_curves"]) == (1.0, 1.0)
    assert pair["first"] != pair["other"]


def test_other_cases_are_refused_and_the_common_ones_are_compared_on_request(two, tmp_path, capsys):
    fewer = {name: value[:50] for name, value in answers(2).items() if name not in ("classes", "threshold")}
    judge(**fewer, classes=("benign", "malignant"), threshold=0.4, folder=tmp_path / "fewer")
    assert main(["compare", str(two[0]), str(tmp_path / "fewer"), "--out", str(tmp_path / "c.html")]) == 1
    error = capsys.readouterr().err
    assert "must be judged on the same cases, got 30 that only one of them has, such as 'case-50'" in error
    assert not (tmp_path / "c.html").exists()
    found = compare([two[0], tmp_path / "fewer"], common=True, out=tmp_path / "c.html")
    assert (found.num_cases, found.left_out) == (50, 30)
    assert "30 cases that not all have were left out" in (tmp_path / "c.html").read_text()
    others = answers(2) | {"case_ids": [f"x{k}" for k in range(80)]}
    judge(**others, folder=tmp_path / "others")
    with pytest.raises(CohortError, match="there must be cases that all have, got none"):
        compare([two[0], tmp_path / "others"], common=True)


def test_other_labels_or_classes_cannot_be_compared(two, tmp_path):
    labels = answers(2)["labels"].copy()
    labels[7] = 1 - labels[7]
    judge(**(answers(2) | {"labels": labels}), folder=tmp_path / "labels")
    with pytest.raises(CohortError, match="label of case 'case-7' must be the same in all evaluations"):
        compare([two[0], tmp_path / "labels"])
    judge(**answers(2, num_classes=3), folder=tmp_path / "three")
    with pytest.raises(ConfigError, match="compared on the same classes or labels, got benign, malignant and benign"):
        compare([two[0], tmp_path / "three"])
    with pytest.raises(ConfigError, match="there must be at least two to compare"):
        compare([two[0]])


def test_a_case_of_the_same_name_but_another_scan_is_another_case(two, tmp_path):
    """Two cohorts may both number their cases from 1."""
    for name, scans in {"a": ["x"] * 80, "b": ["x"] * 79 + ["y"], "c": [""] * 80}.items():
        judge(**answers(1), folder=tmp_path / name, scans=scans)
    with pytest.raises(CohortError, match="the scan of case 'case-79' must be the same in all evaluations"):
        compare([tmp_path / "a", tmp_path / "b"])
    assert compare([tmp_path / "a", tmp_path / "c"]).num_cases == 80, "unknown scans are not compared"


def test_patients_that_one_evaluation_joins_are_one_in_the_comparison(two, tmp_path):
    joined = answers(2) | {"patients": ["same"] * 10 + [f"p{k // 2}" for k in range(10, 80)]}
    judge(**joined, folder=tmp_path / "joined")
    assert compare([two[0], tmp_path / "joined"]).num_patients == 36


def test_each_class_or_label_is_compared_by_itself(tmp_path):
    for seed in (1, 2):
        judge(**answers(seed, num_classes=3), folder=tmp_path / str(seed))
    found = compare([tmp_path / "1", tmp_path / "2"])
    assert [pair["output"] for pair in found.pairs] == ["benign", "malignant", "other"]


def write_table(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["case_id", "path", *columns])
        for k in range(80):
            writer.writerow([f"case-{k}", f"{k}.nii", *(column[k] for column in columns.values())])
    return path


def test_a_measurement_and_a_reader_of_the_table_are_raters(two, tmp_path):
    y = answers(1)["labels"]
    sizes = np.random.default_rng(4).normal(size=80) + y
    reader = np.where(np.arange(80) % 5 == 0, 1 - y, y)
    table = write_table(tmp_path / "t.csv", {"mm": sizes, "reader": reader, "text": ["a"] * 80})
    found = compare(two[:1], columns=("mm", "reader"), table=table)
    size, human = found.pairs
    assert size["figures"]["auc"]["other"] == pytest.approx(roc_auc(y, sizes))
    assert set(size["figures"]) == {"auc", "average_precision"}
    assert human["figures"]["sensitivity"]["other"] == pytest.approx(np.mean(reader[y == 1]))
    assert "brier" not in human["figures"]
    with pytest.raises(CohortError, match="column 'text' must be a number, got 'a'"):
        compare(two[:1], columns=("text",), table=table)
    with pytest.raises(
        CohortError, match="there must be a column 'cm' to compare with, got the columns mm, reader, te"
    ):
        compare(two[:1], columns=("cm",), table=table)
    with pytest.raises(ConfigError, match="the table of the columns must be given"):
        compare(two[:1], columns=("mm",))


def test_cases_without_the_measurement_must_be_left_out_by_request(two, tmp_path):
    sizes = ["" if k < 9 else str(k % 7) for k in range(80)]
    table = write_table(tmp_path / "t.csv", {"mm": sizes})
    with pytest.raises(CohortError, match="got 9 that only one"):
        compare(two[:1], columns=("mm",), table=table)
    assert compare(two[:1], columns=("mm",), table=table, common=True).num_cases == 71


def test_marks_of_an_evaluation_stay_with_its_comparison(two, tmp_path, capsys):
    judge(**answers(2), folder=tmp_path / "marked", extra={"leakage": "near copies: 2", "unchecked": "another key"})
    page = tmp_path / "c.html"
    assert main(["compare", str(two[0]), str(tmp_path / "marked"), "--out", str(page)]) == 0
    out = capsys.readouterr().out
    for text in ("marked is judged WITH LEAKAGE: near copies: 2", "marked is NOT CHECKED for cases that trained it"):
        assert text in out
        assert text in page.read_text()
    assert compare(two).marks == []


def test_names_like_formulas_and_hidden_ones_are_in_the_key_of_the_curves(tmp_path):
    for name in ("_first", "$\\frac$"):
        judge(**answers(1), folder=tmp_path / name)
    page = tmp_path / "c.html"
    compare([tmp_path / "_first", tmp_path / "$\\frac$"], out=page)
    assert ">first: 0." in page.read_text()
    assert ">$\\frac$: 0." in page.read_text()


def test_a_cell_that_is_no_number_is_named_and_a_missing_one_is_missing(two, tmp_path):
    table = write_table(tmp_path / "t.csv", {"mm": ["inf" if k == 4 else str(k) for k in range(80)]})
    with pytest.raises(CohortError, match="row 6, column 'mm' must be a number, got 'inf'"):
        compare(two[:1], columns=("mm",), table=table)
    table = write_table(tmp_path / "u.csv", {"mm": ["NA" if k < 9 else str(k) for k in range(80)]})
    assert compare(two[:1], columns=("mm",), table=table, common=True).num_cases == 71


def test_a_comparison_without_a_difference_does_not_say_that_it_could_have_shown_one(two):
    (pair,) = compare([two[0], two[0]]).pairs
    assert pair["smallest_difference"] is None


def test_cases_that_one_model_does_not_decide_count_for_areas_alone(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1], 60)
    given = {
        "case_ids": [f"c{k}" for k in range(120)],
        "patients": [f"p{k}" for k in range(120)],
        "labels": labels,
        "classes": ("benign", "malignant"),
        "threshold": 0.5,
    }
    probs = [1 / (1 + np.exp(-rng.normal(2.0 * labels - 1, 1.0))) for _ in range(2)]
    held_back = Outcome(kind="no-result", codes=("unseen-hu",), reason="HU")
    outcomes = [held_back if k % 3 == 0 else Outcome() for k in range(120)]
    for name, p, of in (("a", probs[0], None), ("b", probs[1], outcomes)):
        judge(**given, probs=np.stack([1 - p, p], axis=1), folder=tmp_path / name, outcomes=of)
    (pair,) = compare([tmp_path / "a", tmp_path / "b"], out=tmp_path / "page.html").pairs
    known = np.arange(120) % 3 != 0
    assert pair["num_decided"] == 80
    assert pair["figures"]["auc"]["first"] == pytest.approx(roc_auc(labels, probs[0]))
    for side, p in (("first", probs[0]), ("other", probs[1])):
        expected = confusion(labels[known], (p >= 0.5)[known])
        assert pair["figures"]["sensitivity"][side] == pytest.approx(float(expected.sensitivity))
    assert "both decide malignant in 80 cases" in (tmp_path / "page.html").read_text()


def test_a_model_that_decides_otherwise_than_by_its_threshold_is_compared_as_it_decides(tmp_path):
    labels, p = np.tile([0, 1], 30), np.linspace(0.05, 0.95, 60)
    decided = (p >= 0.8).astype(np.int64)
    given = {
        "case_ids": [f"c{k}" for k in range(60)],
        "patients": [f"p{k}" for k in range(60)],
        "labels": labels,
        "probs": np.stack([1 - p, p], axis=1),
        "classes": ("benign", "malignant"),
        "threshold": 0.5,
    }
    judge(**given, folder=tmp_path / "a", decided=decided)
    judge(**given, folder=tmp_path / "b")
    (pair,) = compare([tmp_path / "a", tmp_path / "b"], out=tmp_path / "page.html").pairs
    assert pair["figures"]["sensitivity"]["first"] == pytest.approx(np.mean(decided[labels == 1]))
    assert pair["figures"]["sensitivity"]["other"] == pytest.approx(np.mean(p[labels == 1] >= 0.5))
