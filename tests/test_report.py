"""The report is one file that says what was measured and what cannot be said, and tells nobody who the patients are."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from hilum.cli import main
from hilum.errors import ConfigError, HilumError
from hilum.judging import judge, report
from hilum.judging.checklist import ITEMS
from hilum.judging.evaluation_folder import read_evaluation
from hilum.judging.subgroups import columns_of
from hilum.measuring.intervals import with_rates
from hilum.measuring.metrics import roc_auc


def cases(n: int = 80, num_classes: int = 2, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, n)
    powers = np.exp(rng.normal(size=(n, num_classes)) + 1.5 * np.eye(num_classes)[labels])
    return {
        "case_ids": [f"SECRET-case-{k}" for k in range(n)],
        "patients": [f"SECRET-patient-{k // 2}" for k in range(n)],
        "labels": labels,
        "probs": powers / powers.sum(1, keepdims=True),
        "classes": ("benign", "malignant", "other", "none")[:num_classes],
        "threshold": 0.4 if num_classes == 2 else None,
    }


def findings(n: int = 60, names: int = 14, seed: int = 0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, names)) < 0.3).astype(np.int64)
    return cases(n) | {
        "labels": labels,
        "probs": 1 / (1 + np.exp(-(rng.normal(size=labels.shape) + 1.5 * labels - 1))),
        "classes": tuple(f"finding {k}" for k in range(names)),
        "threshold": (0.4,) * names,
    }


class Page(HTMLParser):
    """Tags, links and text of a page; fails where elements are not closed in order."""

    VOID = frozenset(["meta", "img", "br", "link", "input"])

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words = [], [], [], [], []
        self.feed(text)
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        self.ids += [attrs["id"]] if "id" in attrs else []
        self.links += [attrs[name] for name in ("href", "src", "xlink:href", "action", "data") if name in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["style"], ["script"]):
            self.words.append(data)


def page_of(folder, given, **more):
    judge(**given, folder=folder, **more)
    return Page(report(folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "evaluation"
    rng = np.random.default_rng(1)
    columns = {
        "sex": ["F" if k % 3 else "M" for k in range(80)],
        "age": [str(30 + k % 60) for k in range(80)],
        "diameter_mm": [f"{v:.2f}" for v in rng.gamma(3, 3, 80)],
        "site": ["A"] * 70 + ["B"] * 6 + ["C"] * 4,
        "patient_name": [f"SECRET {k % 3}" for k in range(80)],
        "scan_day": ["2020-01-02"] * 40 + ["2021-05-06"] * 40,
        "remark": [f"SECRET text {k}" for k in range(80)],
        "reader": ["1" if k % 2 else "" for k in range(80)],
    }
    extra = {"unchecked": "", "model": {}}
    page = page_of(folder, cases(), columns=columns, prevalence=[0.05], extra=extra)
    return folder, page, columns


def test_the_page_needs_no_network_and_is_well_formed(made):
    folder, page, _ = made
    for link in page.links:
        assert link.startswith(("#", "data:image/png;base64,")), link
    text = (folder / "report.html").read_text()
    assert not re.search(r"https?://(?!www\.w3\.org/1999/xlink)", text)
    assert "@import" not in text
    assert "url(" not in re.sub(r"url\(#\w+\)", "", text)
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_identifiers_are_unique_and_every_link_within_the_page_leads_somewhere(made):
    _, page, _ = made
    assert len(page.ids) == len(set(page.ids))
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids


def test_plots_have_texts_for_those_who_cannot_see_them_and_tables_have_heads(made):
    _, page, _ = made
    drawings = [attrs for tag, attrs in page.tags if tag == "svg"]
    assert len(drawings) >= 5
    assert all(attrs["role"] == "img" and len(attrs["aria-label"]) > 10 for attrs in drawings)
    assert all(attrs.get("alt") for tag, attrs in page.tags if tag == "img")
    assert all(attrs.get("scope") in ("col", "row") for tag, attrs in page.tags if tag == "th")
    assert ("html", {"lang": "en"}) in page.tags


def test_the_page_shows_the_figures_of_the_file(made):
    folder, page, _ = made
    answer = json.loads((folder / "evaluation.json").read_text())
    for name in ("auc", "sensitivity", "mcc", "brier", "calibration_slope"):
        low, high = answer[f"{name}_ci"]
        assert f"{answer[name]:.3f} ({low:.3f} to {high:.3f})".replace("-", "−") in page.text
    assert f"{answer['at_prevalence']['ppv']:.3f}" in page.text
    assert "at a prevalence of 0.05" in page.text


def test_the_page_that_is_shared_names_nobody_and_merges_small_groups(made):
    folder, page, _ = made
    assert "SECRET" not in (folder / "report.html").read_text()
    assert "2020-01-02" not in page.text
    assert "2 groups under ten" in page.text
    assert "patient_name" in page.text  # as a column that gives no subgroups
    assert "identifiers, names, dates and free text are no subgroups" in page.text


def test_groups_are_judged_as_if_they_were_alone(made):
    folder, _, columns = made
    given, answer = cases(), json.loads((folder / "evaluation.json").read_text())
    assert list(answer["subgroups"]) == ["sex", "age", "diameter_mm", "site", "reader"]
    rows = np.array(columns["sex"]) == "F"
    found = next(one for one in answer["subgroups"]["sex"] if one["group"] == "F")
    y, p = given["labels"][rows], given["probs"][rows, 1]
    assert found["num_cases"] == rows.sum()
    assert found["auc"] == pytest.approx(roc_auc(y, p))
    inside = np.array(given["patients"])[rows].tolist()
    figure = with_rates(y, p, called=p >= 0.4, patients=inside)["sensitivity"]
    assert (found["sensitivity"], *found["sensitivity_ci"]) == pytest.approx((figure.value, figure.low, figure.high))
    small = next(one for one in answer["subgroups"]["site"] if one["group"] == "C")
    assert small == {"group": "C", "num_cases": 4, "num_patients": 2, "num_positives": small["num_positives"]}
    assert {one["group"] for one in answer["subgroups"]["reader"]} == {"1", "missing"}


def test_ages_fall_into_decades_and_measurements_into_thirds():
    ages = [str(age) for age in range(35, 95)]
    columns, left_out = columns_of({"age_years": ages, "mm": [str(k) for k in range(60)], "x": ["", *["1"] * 59]})
    assert columns[0].order == (
        "below 40", "40 to below 50", "50 to below 60", "60 to below 70", "70 to below 80", "80 or more"
    )  # fmt: skip
    assert [int(columns[0].rows(group).sum()) for group in columns[0].order] == [5, 10, 10, 10, 10, 15]
    assert [int(columns[1].rows(group).sum()) for group in columns[1].order] == [20, 20, 20]
    assert columns[2].order == ("1", "missing")
    assert left_out == {}


def test_a_measurement_alone_stands_beside_the_model_and_size_is_matched(made):
    folder, page, columns = made
    answer = json.loads((folder / "evaluation.json").read_text())
    found = {one["column"]: one for one in answer["baselines"]}
    sizes, y = np.array(columns["diameter_mm"], float), cases()["labels"]
    area = roc_auc(y, sizes)
    assert found["diameter_mm"]["auc"] == pytest.approx(max(area, 1 - area))
    assert found["diameter_mm"]["higher_is_positive"] is bool(area >= 0.5)
    assert found["diameter_mm"]["difference"] == pytest.approx(answer["auc"] - max(area, 1 - area))
    assert 0 <= found["diameter_mm"]["p_value"] <= 1
    (matched,) = answer["size_matched"]
    assert matched["column"] == "diameter_mm"
    assert matched["model_auc_ci"][0] < matched["model_auc"] < matched["model_auc_ci"][1]
    assert "Among cases of one size" in page.text


def test_decided_cases_stand_beside_all_with_their_coverage(tmp_path):
    given = cases()
    doubts = ["the lungs are cut" if k % 4 == 0 else "" for k in range(80)]
    page = page_of(tmp_path / "e", given, doubts=doubts, extra={"num_indeterminate": 20})
    answer = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    rows = np.array([not doubt for doubt in doubts])
    assert answer["coverage"] == 0.75
    assert answer["decided"]["num_cases"] == 60
    assert answer["decided"]["auc"] == pytest.approx(roc_auc(given["labels"][rows], given["probs"][rows, 1]))
    assert "20 of 80 cases have no decision" in page.text
    assert "20 without a decision, the 60 decided ones: sensitivity" in page.text
    assert "Decided cases only" in page.text


@pytest.mark.parametrize("label", [0, 1])
def test_cases_of_one_class_have_a_page_that_says_what_cannot_be_said(tmp_path, label):
    page = page_of(tmp_path / "e", cases() | {"labels": np.full(80, label)}, columns={"sex": ["F", "M"] * 40})
    assert "cannot be said" in page.text
    assert "not defined" in page.text


@pytest.mark.parametrize(
    "given",
    [
        cases(n=5),
        cases() | {"probs": np.full((80, 2), 0.5)},
        cases(num_classes=3),
        cases(num_classes=4) | {"labels": np.zeros(80, np.int64)},
        findings(),
        findings(n=5),
        cases(n=1),
    ],
    ids=["five cases", "equal scores", "three classes", "one of four classes", "14 findings", "5 of 14", "one case"],
)
def test_a_page_is_made_of_whatever_can_be_judged(tmp_path, given):
    n = len(given["labels"])
    columns = {"sex": [("F", "M", "")[k % 3] for k in range(n)], "site": ["x"] * n, "mm": [str(k) for k in range(n)]}
    page = page_of(tmp_path / "e", given, columns=columns, doubts=["in doubt"] * n)
    assert "No case is decided" in page.text
    for name in given["classes"] if len(given["classes"]) > 2 else given["classes"][1:]:
        assert name in page.text


def test_a_subgroup_without_a_positive_is_named_and_its_area_is_not_defined(tmp_path):
    given = cases()
    groups = ["none" if y == 0 and k % 2 else "some" for k, y in enumerate(given["labels"])]
    page = page_of(tmp_path / "e", given, columns={"group": groups})
    answer = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    none = next(one for one in answer["subgroups"]["group"] if one["group"] == "none")
    assert (none["num_positives"], none["auc"], none["sensitivity"]) == (0, None, None)
    assert none["specificity"] is not None
    assert "no case is positive" in page.text


def test_nothing_counts_in_the_checklist_that_no_one_wrote_or_measured(tmp_path):
    page = page_of(tmp_path / "bare", cases())
    missing = page.text.count("missing")
    assert missing > len(ITEMS) / 2
    assert page.text.count("not stated") == 2
    statements = {"intended_use": "Triage of nodules", "label_origin": "Histology"}
    model = {
        "version": "1", "network": {}, "recipe": {"region": "lungs", "size": [4, 4, 4]},
        "decisions": {"classes": ["benign", "malignant"], "each": []}, "training": {"statements": statements},
    }  # fmt: skip
    model["decisions"]["each"] = [{"calibration": {"rule": "Platt"}, "rule": "Youden"}]
    stated = page_of(tmp_path / "stated", cases(), extra={"model": model})
    assert "Triage of nodules" in stated.text
    assert stated.text.count("missing") < missing


def test_a_page_is_the_same_bytes_again_and_replaces_no_other_file(tmp_path):
    judge(**cases(), folder=tmp_path / "e")
    first = report(tmp_path / "e").read_bytes()
    assert report(tmp_path / "e").read_bytes() == first
    (tmp_path / "mine.html").write_text("<p>mine</p>")
    with pytest.raises(HilumError, match="would be overwritten"):
        report(tmp_path / "e", tmp_path / "mine.html")
    with pytest.raises(ConfigError, match=r"must be named \.html"):
        report(tmp_path / "e", tmp_path / "page.pdf")
    assert (tmp_path / "mine.html").read_text() == "<p>mine</p>"


def test_names_that_are_markup_are_text_on_the_page(tmp_path):
    given = cases() | {"classes": ("benign", "<script>alert(1)</script>")}
    page = page_of(tmp_path / "e", given, columns={"<b>x</b>": ["<i>a</i>", "&b"] * 40})
    assert [tag for tag, _ in page.tags].count("script") == 1
    assert {"b", "i"}.isdisjoint(tag for tag, _ in page.tags)
    assert "<script>alert(1)</script>" in page.text


def test_an_evaluation_is_read_back_as_it_was_judged(tmp_path):
    for name, given in {"two": cases(), "three": cases(num_classes=3), "labels": findings(names=3)}.items():
        judge(**given, folder=tmp_path / name)
        found = read_evaluation(tmp_path / name)
        np.testing.assert_array_equal(found.labels, given["labels"])
        np.testing.assert_array_equal(found.probs, given["probs"])
        assert found.case_ids == tuple(given["case_ids"])
        assert len(set(found.patients)) == len(set(given["patients"]))
        assert found.patients[0] == found.patients[1] != found.patients[2]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda folder: (folder / "cases.csv").unlink(), "cannot be read"),
        (lambda folder: (folder / "evaluation.json").write_text("{"), "cannot be read"),
        (lambda folder: (folder / "cases.csv").write_text("case_id\n1\n"), "is damaged"),
        (lambda folder: _edit(folder, format=1), "must be of format 2, is of 1"),
        (lambda folder: _edit(folder, format=3), "must be of format 2, is of 3"),
        (lambda folder: _edit(folder, classes=["a"]), "is damaged"),
    ],
    ids=["no cases", "no JSON", "other cases", "older", "newer", "other classes"],
)
def test_an_evaluation_that_cannot_be_read_is_one_line(tmp_path, capsys, change, match):
    judge(**cases(), folder=tmp_path / "e")
    change(tmp_path / "e")
    assert main(["report", str(tmp_path / "e")]) == 1
    error = capsys.readouterr().err
    assert match in error
    assert error.count("\n") == 1


def _edit(folder, **changes):
    file = folder / "evaluation.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_folder_without_an_evaluation_is_named(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 1
    assert "there must be an evaluation in" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_run_has_its_report_with_training_curves_and_pictures_only_where_asked(trained_run, tmp_path, capsys):
    page = Page((trained_run / "evaluation" / "report.html").read_text())
    assert "kept" in page.text
    assert "rows of the table" in page.text
    assert "img" not in [tag for tag, _ in page.tags]
    assert main(["report", str(trained_run), "--pictures", "--out", str(tmp_path / "own.html")]) == 0
    assert capsys.readouterr().out.strip().endswith("own.html")
    own = Page((tmp_path / "own.html").read_text())
    errors = read_evaluation(trained_run).each[0]
    wrong = int(np.sum(errors.called != (errors.y == 1)))
    assert [tag for tag, _ in own.tags].count("img") == min(wrong, 12)
    assert "must not be shared" in own.text
