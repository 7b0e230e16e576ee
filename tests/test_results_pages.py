"""The pages of results hold what the benchmarks measured: no figure is typed, and each says where it comes from."""

import json
import re
from pathlib import Path

import pytest
import results_format
import results_pages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs" / "results"
PAGES = sorted(DOCS.glob("*.md"))
FILES = results_format.result_files()
ORIGIN = re.compile(
    r"Script: `benchmarks/(\w+\.py)[^`]*`\. Machine: (.+?)\. Runs: (.+?)\. Spread: (.+?)\. All figures: \["
)


def tables(text):
    """Each table of a page, and what follows it."""
    return re.findall(r"((?:^\|[^\n]*\n)+)\n(.*?)(?:\n\n|\Z)", text, re.M | re.S)


def excludes_zero(ends):
    low, high = ends
    return low > 0 or high < 0


def test_the_pages_and_the_readme_are_what_the_script_writes_now():
    for path, text in results_pages.written().items():
        assert path.read_text() == text, f"{path.relative_to(ROOT)}: run python benchmarks/results_pages.py"
    assert sorted(results_pages.written().keys() - {ROOT / name for name in results_pages.LANGUAGES}) == PAGES


def test_the_readme_has_the_marks_between_which_the_script_writes():
    assert ROOT / "README.md" in results_pages.written()
    text = (ROOT / "README.md").read_text()
    for mark in (results_pages.BEGIN, results_pages.END):
        assert text.count(mark) == 1


def test_a_figure_that_was_typed_is_named_by_check(tmp_path, monkeypatch, capsys):
    page = DOCS / "gone.md"
    monkeypatch.setattr(results_pages, "written", lambda: {path: path.read_text() + "x" for path in PAGES[:1]})
    monkeypatch.setattr(results_pages, "DOCS", tmp_path)
    monkeypatch.setattr(results_pages.sys, "argv", ["results_pages.py", "--check"])
    with pytest.raises(SystemExit) as ended:
        results_pages.main()
    assert ended.value.code == 1
    assert f"docs/results/{PAGES[0].name} is not what" in capsys.readouterr().out
    assert not page.exists()
    assert not PAGES[0].read_text().endswith("x")


@pytest.mark.parametrize("name", FILES)
def test_every_json_is_on_a_page(name):
    link = f"[{FILES[name].name}](../../{FILES[name].relative_to(ROOT)})"
    pages = " ".join(" ".join(path.read_text().split()) for path in PAGES)
    assert link in pages


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "index.md"], ids=lambda page: page.stem)
def test_every_table_names_its_script_machine_number_of_runs_and_spread(page):
    found = tables(page.read_text())
    assert found
    for table, after in found:
        origin = ORIGIN.match(" ".join(after.split()))
        assert origin, f"{page.name}: {table.splitlines()[0]}"
        script, machine, *_ = origin.groups()
        assert (ROOT / "benchmarks" / script).is_file()
        assert re.search(r"^\d+ cores of .+, Python [\d.]+, ", machine), machine


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_row_has_as_many_cells_as_its_header(page):
    for table in re.findall(r"(?:^\|.*\n)+", page.read_text(), re.M):
        counts = {len(re.findall(r"(?<!\\)\|", row)) for row in table.splitlines()}
        assert len(counts) == 1, table.splitlines()[0]


def test_every_link_to_a_heading_of_the_results_leads_to_one():
    headings = {
        page.name: {
            re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
            for title in re.findall(r"^#+ (.+)$", page.read_text(), re.M)
        }
        for page in PAGES
    }
    seen = 0
    for page in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]:
        folder = r"(?:docs/|\.\./)?results/" if page.parent != DOCS else ""
        for name, heading in re.findall(rf"\]\({folder}(\w+\.md)?#([\w-]+)\)", page.read_text()):
            if name in headings or (not name and page.parent == DOCS):
                assert heading in headings[name or page.name], f"{page.name}: {name}#{heading}"
                seen += 1
    assert seen > 15


def test_a_translated_table_has_other_words_and_the_same_numbers():
    english = results_pages.headlines("")
    translated = results_pages.headlines("", lambda text: {"measured": "gemessen"}.get(text, "~" + text))
    assert translated.startswith("| gemessen | ~Hilum |")
    assert re.findall(r"[\d.]+", translated) == re.findall(r"[\d.]+", english)


def test_numbers_are_written_with_their_significant_digits_and_no_exponent():
    assert [results_format.digits(value) for value in (0.15674, 0.0486, 4.0576, 10.328, 1234.5, 0, 0.9996)] == [
        "0.157", "0.0486", "4.06", "10.3", "1230", "0", "1.00",
    ]  # fmt: skip
    assert results_format.between(-0.00198, (-0.0261, 0.0221), signed=True) == "-0.002 (-0.026 to +0.022)"
    assert results_format.small(float("inf")) == results_format.small(float("nan")) == "not finite"
    assert results_format.span([3, 1, 2]) == "1 to 3"
    assert results_format.span([2, 2]) == "2"


def test_what_the_pages_say_in_words_holds_for_the_figures():
    """Sentences that stand beside the tables, and would stay if a benchmark is run again with another outcome."""
    found = {name: json.loads(path.read_text()) for name, path in FILES.items()}
    nodules, learning, rare = found["nodules"], found["learning"], found["imbalance"]
    for part in ("", "_folds_3_4", "_6_15mm"):
        assert not excludes_zero(nodules[f"gain_over_diameter{part}_ci"])
    assert not excludes_zero(nodules["gain_over_automatic_size_folds_3_4_ci"])
    assert nodules["gain_over_automatic_size_ci"][0] > 0
    for row in learning["rows"][1:]:
        assert not excludes_zero(row["auc_difference"][1:])
        assert not excludes_zero(row["ensemble_difference"][1:])
    differences = {
        (row["arm"], row["rate"]): row["auc"]["difference_ci"] for row in rare["rows"] if row["arm"] != "plain"
    }
    assert [key for key, ends in differences.items() if excludes_zero(ends)] == [("under", 0.05)]
    assert differences["under", 0.05][1] < 0
    (gain,) = found["augment_lidc_fold1"]["differences"]
    assert not excludes_zero(gain["ci"])
    assert min(gain["by_seed"]) > 0
    assert found["augment"]["gpu"] is None
    ways = {(name, row["way"][:4]) for name in ("training_step", "training_step_slow_bf16")
            for row in found[name]["rows"] if row["row"] == "hilum"}  # fmt: skip
    assert ways == {("training_step", "bf16"), ("training_step_slow_bf16", "fp32")}
    step = next(row for row in found["training_step"]["rows"] if row["row"] == "monai, bf16, channels last")
    assert step["gradient_error"] > 0.5
