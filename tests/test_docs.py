"""What the documents say is run, and what they name exists."""

import re
import shutil
from pathlib import Path

import pytest

from hilum.cli import VERBS
from hilum.findings import POLICY
from hilum.simulating import plan_cohort, simulate_case

ROOT = Path(__file__).parents[1]
READMES = [ROOT / "README.md", ROOT / "README.zh.md"]
CHINESE = [ROOT / "README.zh.md", *sorted((ROOT / "docs" / "zh").glob("*.md"))]
PAGES = sorted([*READMES, *(ROOT / "docs").rglob("*.md")])
BLOCK = re.compile(r"^```python\n(.*?)^```", re.M | re.S)
FENCE = re.compile(r"^```\w*\n(.*?)^```", re.M | re.S)


def chinese_text_of(page: str) -> list[str]:
    """Lines of a page without code, targets of links and URLs; of code its comments and strings stay."""

    def spoken(block: re.Match[str]) -> str:
        return "\n".join(re.findall(r'#.*|"[^"\n]*"', re.sub(r"\{[^}\n]*\}", "x", block[1])))

    text = FENCE.sub(spoken, page)
    for code, instead in (
        (r"`[^`\n]*`", "x"),
        (r"\]\([^)\n]*\)", "]"),
        (r"https?://[\w.:/-]*", "x"),
        (r"(?<=\d),(?=\d{3}\b)", ""),
        (r"[\[\]*]", ""),
    ):
        text = re.sub(code, instead, text)
    return [line for line in text.splitlines() if re.search(r"[\u4e00-\u9fff]", line)]


def links_of(text: str) -> list[str]:
    """Targets of links to files in Markdown, without their anchors."""
    return re.findall(r"\]\((?!https?:)([^)#]+)", text)


def test_there_are_pages():
    assert len(PAGES) >= 3


@pytest.fixture(scope="module")
def scan():
    return simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=6.0)[0]


@pytest.mark.filterwarnings("ignore:.*treespec:FutureWarning", "ignore::UserWarning:lightning.*")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: str(page.relative_to(ROOT))
)
def test_every_python_block_of_a_page_runs_in_order(page, scan, npy_cohort, tmp_path, monkeypatch):
    """In a folder with a scan, and with a table and a config as users have them."""
    shutil.copytree(npy_cohort, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("run", "store"))
    scan.write(tmp_path / "scan.nii.gz")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in BLOCK.findall(page.read_text()):
        exec(compile(block, str(page), "exec"), names)  # noqa: S102


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_test_that_a_page_names_exists(page):
    for file, name in re.findall(r"`(test_\w+)::(test_\w+)`", page.read_text()):
        assert f"def {name}(" in (ROOT / "tests" / f"{file}.py").read_text(), f"{file}::{name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_file_leads_somewhere(page):
    for target in links_of(page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_verb_that_a_page_types_exists(page):
    for verb in re.findall(r"^ *(?:\$ )?hilum ([a-z]+)", page.read_text(), re.M):
        assert verb in VERBS, verb


@pytest.mark.parametrize("readme", READMES, ids=lambda page: page.name)
def test_a_readme_prints_every_room_in_the_order_of_the_data(readme):
    text = readme.read_text()
    rooms = [path.name for path in (ROOT / "src" / "hilum").iterdir() if (path / "__init__.py").exists()]
    places = {room: text.index(f"{room}/") for room in rooms}
    assert set(places) == set(rooms)
    order = [
        "settings", "measuring", "working", "reading", "simulating", "preparing", "cohorts", "modelling", "deciding",
        "planning", "training", "predicting", "judging", "serving", "cli",
    ]  # fmt: skip
    assert sorted(places, key=places.__getitem__) == order


@pytest.mark.parametrize("readme", READMES, ids=lambda page: page.name)
def test_a_readme_can_be_read_in_three_minutes(readme):
    assert len(readme.read_text().splitlines()) <= 120


def test_the_chinese_readme_has_the_same_sections_commands_and_pictures():
    english, chinese = (readme.read_text() for readme in READMES)
    for what in (r"^## ", r"^    (hilum \S+|scripts/\S+)", r"!\[.*\]\((.*)\)", r"^<!-- .*"):
        assert [found.strip() for found in re.findall(what, english, re.M)] == [
            found.strip() for found in re.findall(what, chinese, re.M)
        ]


@pytest.mark.parametrize("page", CHINESE, ids=lambda page: str(page.relative_to(ROOT)))
def test_chinese_text_has_no_half_width_punctuation(page):
    """None beside a character, no , ; : after wide punctuation, nor without a blank after it, as in "HU,LPS"."""
    character, wide = r"[\u4e00-\u9fff]", r"[\u3000-\u303f\uff00-\uffef]"
    beside = rf"(?<={character})[,;:()]|[()](?={character})|(?<={wide})[,;:]|[,;:](?=[^\s\"])"
    wrong = re.compile(rf".{{0,9}}(?:{beside}).{{0,9}}")
    assert [found for line in chinese_text_of(page.read_text()) for found in wrong.findall(line)] == []


def test_the_page_on_findings_has_the_policy_table_as_it_is():
    text = (ROOT / "docs" / "concepts" / "findings.md").read_text()
    rows = re.findall(r"^\| `([\w-]+)` \| [^|]+ \| (\w+) \| (\w+) \| (\w+) \|$", text, re.M)
    assert {code: severities for code, *severities in rows} == {code: list(row) for code, row in POLICY.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_two_commands_of_a_page_write_the_same_file(page):
    """Who types them one after another would be stopped: a page of one command is not written over by another's."""
    wrote: dict[str, str] = {}
    for verb, rest in re.findall(r"^ *(?:\$ )?hilum ([a-z]+)([^\n#]*)", page.read_text(), re.M):
        for name in re.findall(r"--(?:out|html|table|write)[ =](\S+\.\w+)", rest):
            assert wrote.setdefault(name, verb) == verb, f"{name} is written by hilum {wrote[name]} and by hilum {verb}"


def test_every_picture_of_the_documents_is_made_by_the_script_and_shown():
    script = (ROOT / "docs" / "pictures" / "make_pictures.py").read_text()
    made = set(re.findall(r'^    "([\w-]+\.png)": \w+,$', script, re.M))
    assert {path.name for path in (ROOT / "docs" / "pictures").glob("*.png")} == made
    shown = {Path(target).name for page in PAGES for target in links_of(page.read_text()) if target.endswith(".png")}
    assert shown == made
    assert not [path for path in (ROOT / "docs").rglob("*.png") if path.parent.name != "pictures"]


def test_every_function_class_and_table_of_the_tutorial_has_its_row(shared_data):
    source = (shared_data.parent / "tutorial.txt").read_text()
    page = (ROOT / "docs" / "from-the-tutorial.md").read_text()
    names = set(re.findall(r"^(?:def|class) (\w+)", source, re.M)) - {"__init__", "forward", "__len__", "__getitem__"}
    missing = sorted(name for name in names if f"`{name}`" not in page and f".{name}`" not in page)
    assert missing == []
