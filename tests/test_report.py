"""The report is one file that says what was measured and what cannot be said, and tells nobody who the patients are."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from hilum.cli import main
from hilum.deciding.outcome import Outcome
from hilum.errors import ConfigError, HilumError
from hilum.judging import judge, report, report_errors
from hilum.judging.checklist import ITEMS, checked
from hilum.judging.evaluation_folder import read_evaluation
from hilum.judging.report_errors import CasePictures
from hilum.judging.subgroups import columns_of
from hilum.measuring.decision_curve import decision_curve
from hilum.measuring.intervals import with_rates
from hilum.measuring.metrics import roc_auc
from hilum.reading.identity import hashed

NOTED = {
    "leaks": [], "warnings": ["kernel alone tells 'malignant'", "odd: 'SECRET' (row 3)"],
    "notes": ["altered copies are not looked for"], "giveaways": [], "values": [],
    "refused": [{"target": "", "refused": {"benign": 3, "malignant": 9}, "used": {"benign": 40, "malignant": 40},
                 "p": 0.09, "reason": ""}],
}  # fmt: skip


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


def outcomes_of(doubts):
    return [Outcome(kind="no-result", codes=("lungs-cut",), reason=one) if one else Outcome() for one in doubts]


def test_decided_cases_stand_beside_all_with_their_coverage(tmp_path):
    given = cases()
    doubts = ["the lungs are cut" if k % 4 == 0 else "" for k in range(80)]
    page = page_of(tmp_path / "e", given, outcomes=outcomes_of(doubts))
    answer = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    rows = np.array([not doubt for doubt in doubts])
    assert answer["coverage"] == 0.75
    assert answer["decided"]["num_cases"] == 60
    assert answer["decided"]["auc"] == pytest.approx(roc_auc(given["labels"][rows], given["probs"][rows, 1]))
    assert "Of 80 cases 20 without a result: 75.0% are decided. Reasons: lungs-cut 20." in page.text
    assert "; 75.0% decided, 20 without a result" in page.text
    assert "Decided cases alone" in page.text


@pytest.mark.parametrize("label", [0, 1])
def test_cases_of_one_class_have_a_page_that_says_what_cannot_be_said(tmp_path, label):
    page = page_of(tmp_path / "e", cases() | {"labels": np.full(80, label)}, columns={"sex": ["F", "M"] * 40})
    why = "no case is positive" if label == 0 else "every case is positive"
    assert f"{why}, so that ROC AUC, and one of sensitivity and specificity, cannot be said." in page.text
    assert "not defined" in page.text


def test_a_page_without_any_decision_says_so(tmp_path):
    page = page_of(tmp_path / "e", cases(), outcomes=outcomes_of(["in doubt"] * 80))
    assert "No case is decided" in page.text
    assert "Decided cases alone" not in page.text


@pytest.mark.parametrize(
    "given",
    [
        cases(n=5),
        cases() | {"probs": np.full((80, 2), 0.5)},
        cases(num_classes=3),
        cases(num_classes=4) | {"labels": np.zeros(80, np.int64)},
        findings(n=40),
        findings(n=5, names=3),
        cases(n=1),
    ],
    ids=["five cases", "equal scores", "three classes", "one of four classes", "14 findings", "5 of 3", "one case"],
)
def test_a_page_is_made_of_whatever_can_be_judged(tmp_path, given):
    n = len(given["labels"])
    columns = {"sex": [("F", "M", "")[k % 3] for k in range(n)], "site": ["x"] * n, "mm": [str(k) for k in range(n)]}
    doubts = ["in doubt" if k % 2 else "" for k in range(n)]
    page = page_of(tmp_path / "e", given, columns=columns, outcomes=outcomes_of(doubts))
    assert ("Decided cases alone" in page.text) == (n > 1)
    names = given["classes"] if len(given["classes"]) > 2 else given["classes"][1:]
    captions = [f"Figures of {name} against the rest" for name in names]
    assert [caption for caption in captions if caption not in page.text] == []


def test_a_subgroup_without_a_positive_is_named_and_its_area_is_not_defined(tmp_path):
    given = cases()
    groups = ["none" if y == 0 and k % 2 else "some" for k, y in enumerate(given["labels"])]
    page = page_of(tmp_path / "e", given, columns={"group": groups})
    answer = json.loads((tmp_path / "e" / "evaluation.json").read_text())
    none = next(one for one in answer["subgroups"]["group"] if one["group"] == "none")
    assert (none["num_positives"], none["auc"], none["sensitivity"]) == (0, None, None)
    assert none["specificity"] is not None
    assert "no case is positive" in page.text


def ticked(folder):
    """Texts of the items of the checklist that have a place on the page."""
    return {row["text"] for row in checked(read_evaluation(folder), ()) if row["place"]}


MEASURED = {
    "Size of the test, and what it could have shown", "Measures of discrimination with uncertainty",
    "Calibration: curve, slope and intercept", "Net benefit of decisions", "Cases without a decision",
    "Failures: the most certain errors",
}  # fmt: skip
"""What an evaluation of probabilities alone measures."""


def test_nothing_counts_in_the_checklist_that_no_one_wrote_or_measured(tmp_path):
    page = page_of(tmp_path / "bare", cases())
    assert ticked(tmp_path / "bare") == MEASURED
    assert page.text.count("missing") == len(ITEMS) - len(MEASURED)
    assert page.text.count("not stated") == 2
    page_of(tmp_path / "sexes", cases(), columns={"sex": ["F", "M"] * 40})
    assert ticked(tmp_path / "sexes") - MEASURED == {"Differences between groups of patients and scanners"}
    statements = {"intended_use": "Triage of nodules", "label_origin": "Histology"}
    model = {
        "version": "1", "network": {"depth": 10}, "recipe": {"region": "lungs", "size": [4, 4, 4]},
        "decisions": {"classes": ["benign", "malignant"], "each": []}, "training": {"statements": statements},
    }  # fmt: skip
    model["decisions"]["each"] = [{"calibration": {"rule": "Platt"}, "rule": "Youden"}]
    stated = page_of(tmp_path / "stated", cases(), extra={"model": model})
    assert "Triage of nodules" in stated.text
    assert ticked(tmp_path / "stated") - MEASURED == {
        "Intended use and the people it is meant for", "Who or what decided the labels, and on what evidence",
        "How scans were prepared for the model", "Network, input and output", "Software and its version",
        "Calibration, thresholds and how they were chosen",
    }  # fmt: skip


@pytest.mark.parametrize("change", [{"leaks_compared": False}, {"unchecked": "another key"}, {"audit": NOTED}])
def test_a_page_reassures_of_copies_only_where_all_was_compared(tmp_path, change):
    clean = {"leaks_compared": True, "unchecked": "", "audit": NOTED | {"notes": []}}
    page = page_of(tmp_path / "clean", cases(), extra=clean)
    assert "no match" in page.text
    looked = "Parts disjoint by patient, and looked through for copies"
    assert looked in ticked(tmp_path / "clean")
    page = page_of(tmp_path / "not", cases(), extra=clean | change)
    assert looked not in ticked(tmp_path / "not")
    assert "no match" not in page.text
    assert "Not compared" in page.text or "Not checked" in page.text


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
        (lambda folder: _edit(folder, format=2), "must be of format 3, is of 2"),
        (lambda folder: _edit(folder, format=4), "must be of format 3, is of 4"),
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


def test_the_audit_is_on_the_page_and_sentences_with_ids_only_where_it_is_not_shared(tmp_path):
    page = page_of(tmp_path / "e", cases(), extra={"audit": NOTED, "leaks_compared": True})
    assert "kernel alone tells" in page.text
    assert "refused were 3 of 43 of benign, 9 of 49 of malignant (p = 0.090)" in page.text
    assert "SECRET" not in page.text
    own = Page(report(tmp_path / "e", pictures=CasePictures(samples={})).read_text())
    assert "odd: 'SECRET' (row 3)" in own.text


def test_counts_of_few_cases_cannot_be_told_from_the_others_of_a_shared_page(tmp_path):
    """Five of 80 are hidden, and so is the next group, or the five would be the rest of the total."""
    groups = {"site": ["A"] * 45 + ["B"] * 30 + ["C"] * 5}
    parts = {
        part: {"num_cases": 80, "num_patients": 40, "by_class": {"benign": 40, "malignant": 40}} for part in ("test",)
    }
    table = {"parts": parts, "columns": {"site": {"A": {"test": 45}, "B": {"test": 30}, "C": {"test": 5}}}}
    flow = {
        "num_rows": 80, "num_unlabelled": 0, "num_other_parts": 0, "num_seen": 0, "refused_by_code": {},
        "num_judged": 80, "table_one": table,
    }  # fmt: skip
    page = page_of(tmp_path / "e", cases(), columns=groups, extra={"cohort": flow})
    rows = [" ".join(row.split()) for row in page.text.split("site")]
    assert any(row.startswith(": A 45 (56%)") for row in rows)
    assert any(row.startswith(": B –") for row in rows)
    assert any(row.startswith(": 1 group under ten –") for row in rows)
    assert any(row.startswith("B – – –") for row in rows), "in the table of subgroups too"
    own = Page(report(tmp_path / "e", pictures=CasePictures(samples={})).read_text())
    assert "site: C 5 (6%)" in own.text


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("PatientName", ["a", "b"]),
        ("patientId", ["1", "2"]),
        ("PatientNo", ["1", "2"]),
        ("AccessionNumber", ["x", "y"]),
        ("surname", ["a", "b"]),
        ("YOB", ["1950", "1960"]),
        ("scanned", ["12-03-2024", "13-03-2024"]),
        ("scanned", ["3 Jan 2024", "4 Feb 2024"]),
        ("scanned", ["Mar 12, 2024", "unknown"]),
        ("scanned", ["2024-03-12 10:30", "n/a"]),
        ("scanned", ["202403", "202404"]),
        ("who", ["Smith^John", "Doe^Jane"]),
    ],
)
def test_a_column_of_names_ids_or_dates_is_no_subgroup_however_it_is_spelt(name, texts):
    columns, left_out = columns_of({name: texts * 20, "patient_age": ["40", "50"] * 20, "scanner": ["A", "B"] * 20})
    assert [one.name for one in columns] == ["patient_age", "scanner"]
    assert list(left_out) == [name]


def test_missing_cells_are_one_group_and_leave_a_measurement_a_measurement():
    sizes = [str(k + 0.5) for k in range(20)]
    columns, _ = columns_of({"diameter_mm": [*sizes, "NA", ""], "sex": ["F", "M"] * 10 + ["n/a", "nan"]})
    assert columns[0].numbers is not None
    assert np.isnan(columns[0].numbers).sum() == 2
    assert columns[1].order == ("F", "M", "missing")


def test_thirds_of_numbers_that_differ_in_late_digits_are_thirds():
    columns, _ = columns_of({"x": [f"{1024 + k / 100:.2f}" for k in range(60)]})
    assert [int(columns[0].rows(group).sum()) for group in columns[0].order] == [20, 20, 20]


def test_at_a_stated_prevalence_probabilities_and_threshold_are_those_there(tmp_path, monkeypatch):
    """A perfect model stays of use: with the probabilities of the cases it would look harmful."""
    rng = np.random.default_rng(0)
    p = rng.beta(1, 2.3, 4000)
    y = (rng.random(4000) < p).astype(int)
    given = {
        "case_ids": [str(k) for k in range(4000)], "patients": [str(k) for k in range(4000)], "labels": y,
        "probs": np.stack([1 - p, p], axis=1), "classes": ("no", "yes"), "threshold": 0.4,
    }  # fmt: skip
    drawn = []

    def noted(*given, **how):
        drawn.append(decision_curve(*given, **how))
        return drawn[-1]

    monkeypatch.setattr("hilum.judging.report_plots.decision_curve", noted)
    judge(**given, folder=tmp_path / "e", prevalence=[0.02], calibrated_at=[float(y.mean())])
    report(tmp_path / "e")
    (curve,) = drawn
    at = np.searchsorted(curve.thresholds, 0.1)
    assert curve.prevalence == 0.02
    assert curve.model[at] > 0 > curve.everybody[at]
    found = json.loads((tmp_path / "e" / "evaluation.json").read_text())["at_prevalence"]
    odds = 0.4 / 0.6 * (0.02 / 0.98) / (y.mean() / (1 - y.mean()))
    assert found["threshold"] == pytest.approx(odds / (1 + odds))
    judge(**given, folder=tmp_path / "u", prevalence=[0.02])
    page = Page(report(tmp_path / "u").read_text())
    assert "the model does not tell the prevalence" in page.text
    assert "net_benefit" not in json.loads((tmp_path / "u" / "evaluation.json").read_text())["at_prevalence"]


def test_what_the_test_could_show_stands_there_for_each_label_and_not_where_there_is_no_error(tmp_path):
    page = page_of(tmp_path / "three", cases(num_classes=3))
    answer = json.loads((tmp_path / "three" / "evaluation.json").read_text())
    for name, one in answer["by_class"].items():
        assert f"{name}: that the ROC AUC lies {one['smallest_difference']:.3f} above a fixed value" in page.text
    perfect = cases() | {"probs": np.eye(2)[cases()["labels"]] * 0.8 + 0.1}
    page = page_of(tmp_path / "perfect", perfect)
    assert "malignant: it cannot be said, for the ROC AUC has no standard error here." in page.text


def test_errors_are_the_surest_first_once_each_and_never_cases_without_a_decision(tmp_path):
    given = cases(num_classes=3)
    doubts = ["cut" if k % 2 else "" for k in range(80)]
    judge(**given, folder=tmp_path / "e", outcomes=outcomes_of(doubts))
    found = read_evaluation(tmp_path / "e")
    listed = report_errors.errors(found, None)
    wrong = [k for k in range(80) if found.decided[k] != found.labels[k] and not doubts[k]]
    assert len(listed) == min(len(wrong), 12)
    assert len({one["case"] for one in listed}) == len(listed)
    assert [one["p"] for one in listed] == sorted((one["p"] for one in listed), reverse=True)
    cut = {hashed("case", found.case_ids[k]) for k in range(80) if doubts[k]}
    assert not cut & {one["case"] for one in listed}
    judge(**(cases() | {"threshold": 1.0, "probs": np.eye(2)[1 - cases()["labels"]]}), folder=tmp_path / "sure")
    assert len(report_errors.errors(read_evaluation(tmp_path / "sure"), None)) == 12


def test_a_report_that_fails_leaves_no_older_page_beside_new_figures(tmp_path):
    judge(**cases(), folder=tmp_path / "e")
    report(tmp_path / "e")
    judge(**cases(seed=1), folder=tmp_path / "e")
    assert not (tmp_path / "e" / "report.html").exists()


@pytest.mark.parametrize(
    ("given", "prevalence", "match"),
    [
        (cases(), [1.5], "prevalence must be above 0 and below 1, got 1.5"),
        (cases(), [float("nan")], "prevalence must be above 0 and below 1, got nan"),
        (cases(), [0.1, 0.2], "prevalence must be a share for each of malignant, got"),
        (cases(num_classes=3), [0.1], "a share for each of benign, malignant, other, got"),
        (cases(num_classes=3), [0.1, 0.2, 0.3], "shares of classes that sum to 1"),
        (findings(names=2), [0.1, 0.0], "above 0 and below 1, got 0.0"),
    ],
    ids=["above 1", "nan", "two for two classes", "one for three", "no whole", "zero of a label"],
)
def test_a_prevalence_that_cannot_be_is_refused_before_anything_is_written(tmp_path, given, prevalence, match):
    with pytest.raises(ConfigError, match=match):
        judge(**given, folder=tmp_path / "e", prevalence=prevalence)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["subgroups", "baselines", "operating_points", "auc_ci", "num_patients"])
def test_an_evaluation_that_lacks_a_key_is_damaged(tmp_path, key):
    judge(**cases(), folder=tmp_path / "e")
    file = tmp_path / "e" / "evaluation.json"
    content = json.loads(file.read_text())
    del content[key]
    file.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="is damaged"):
        report(tmp_path / "e")
