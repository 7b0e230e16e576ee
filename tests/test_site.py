"""The documentation site as it is built: complete, with links that lead somewhere, and from one host."""

import dataclasses
import functools
import json
import re
import shutil
import subprocess
import sys
import threading
import typing
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import markdown
import pytest
from build_site import navigation, notebook_text, staged

from hilum import errors
from hilum.cli import VERBS
from hilum.findings import POLICY
from hilum.settings.run import RunConfig
from hilum.settings.serving import ServeConfig
from test_view import BROWSER, CHROMIUM

ROOT = Path(__file__).parents[1]
PAGES = ["index.html", "reference/api/predicting.html", "concepts/findings.html"]


def test_links_of_a_page_lead_to_pages_and_files_of_the_site():
    text = (
        "[a](findings.md#the-policy) [b](../../src/hilum/volume.py) ![c](../pictures/view-demo.png) [d](https://x.y/z)"
    )
    files = {}
    targets = {"docs/concepts/findings.md": "concepts/findings.md", "docs/how-to/x.md": "how-to/x.md"}
    changed = staged(text.replace("findings.md", "../concepts/findings.md"), "docs/how-to/x.md", targets, files)
    assert changed == (
        "[a](../concepts/findings.md#the-policy) [b](../files/src/hilum/volume.py) ![c](../pictures/view-demo.png) "
        "[d](https://x.y/z)"
    )
    assert files == {
        "files/src/hilum/volume.py": ROOT / "src/hilum/volume.py",
        "pictures/view-demo.png": ROOT / "docs/pictures/view-demo.png",
    }
    assert staged("```\n[a](none.md)\n```\n", "docs/x.md", targets, files) == "```\n[a](none.md)\n```\n"
    with pytest.raises(SystemExit, match=r"docs/x\.md: none\.md is neither a page nor a file"):
        staged("[a](none.md)", "docs/x.md", targets, files)


def test_lists_are_lists_in_the_markdown_of_the_generator_too():
    text = "Text:\n- one\n  more\n  - inner\n    more\n- two\n"
    html = markdown.markdown(staged(text, "docs/x.md", {"docs/x.md": "x.md"}, {}))
    assert re.sub(r"\s+", "", html) == "<p>Text:</p><ul><li>onemore<ul><li>innermore</li></ul></li><li>two</li></ul>"


def test_a_notebook_becomes_a_page_with_its_texts_and_code():
    cells = [("markdown", ["# Title\n", "Text."]), ("code", ["import hilum\n", "hilum.read"]), ("code", [])]
    notebook = {"cells": [{"cell_type": kind, "source": source, "outputs": []} for kind, source in cells]}
    assert notebook_text(json.dumps(notebook)) == "# Title\nText.\n\n```python\nimport hilum\nhilum.read\n```\n"


def test_a_page_that_no_section_names_comes_last_in_that_of_its_folder():
    nav = [
        {"Home": "index.md"},
        {"Concepts": ["concepts/b.md", "concepts/gone.md"]},
        {"Results": []},
        {"中文": ["zh/index.md"]},
    ]
    pages = {"index.md", "concepts/a.md", "concepts/b.md", "zh/index.md"}
    assert navigation(nav, pages) == [
        {"Home": "index.md"}, {"Concepts": ["concepts/b.md", "concepts/a.md"]}, {"中文": ["zh/index.md"]},
    ]  # fmt: skip


class Page(HTMLParser):
    """Ids, links, what the browser fetches, and rows of tables of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.rows: dict[str, list[str]] = {}
        self._row: list[str] | None = None
        self._row_id = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        if found.get("id"):
            self.ids.add(found["id"])
            self._row_id = self._row_id or found["id"]
        if tag == "a" and found.get("href") is not None:
            self.links.append(found["href"])
        elif tag in ("link", "use", "image") and found.get("href"):
            self.fetched.append(found["href"])
        elif found.get("src"):
            self.fetched.append(found["src"])
        if tag == "tr":
            self._row, self._row_id = [], ""
        elif tag == "td" and self._row is not None:
            self._row.append("")

    def handle_data(self, data):
        if self._row:
            self._row[-1] += data

    def handle_endtag(self, tag):
        if tag == "tr" and self._row is not None:
            if self._row_id:
                self.rows[self._row_id] = [cell.strip() for cell in self._row]
            self._row = None


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built in strict mode: the build ends with an error at any warning."""
    out = tmp_path_factory.mktemp("site") / "built"
    command = [sys.executable, ROOT / "docs" / "site" / "build_site.py", out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return out


@pytest.fixture(scope="module")
def pages(site):
    built = sorted(site.rglob("*.html"))
    return {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in built}


def test_every_page_of_docs_is_a_page_of_the_site_and_is_reached_from_the_first(pages):
    docs = ROOT / "docs"
    sources = [*docs.rglob("*.md"), *docs.rglob("*.ipynb")]
    wanted = {path.relative_to(docs).with_suffix(".html").as_posix() for path in sources}
    assert wanted | {"changelog.html", "contributing.html"} <= set(pages)
    reached, ahead = set(), {"index.html"}
    while ahead:
        page = ahead.pop()
        reached.add(page)
        places = (place(page, link) for link in pages[page].links)
        ahead |= {target for target, _ in places if target in pages} - reached
    assert set(pages) - reached <= {"404.html"}


def test_every_public_name_and_every_exception_is_in_the_reference(pages):
    ids = {name for page, parsed in pages.items() if page.startswith("reference/api/") for name in parsed.ids}
    stub = (ROOT / "src" / "hilum" / "__init__.pyi").read_text()
    names = re.findall(r"^from (\S+) import \w+ as (\w+)$", stub, re.M)
    assert len(names) > 50
    assert [name for _, name in names if f"hilum.{name}" not in ids] == []
    assert [f"{home}.{name}" for home, name in names if not any(one.endswith(f".{name}") for one in ids)] == []
    raised = [
        name for name, one in vars(errors).items() if isinstance(one, type) and issubclass(one, errors.HilumError)
    ]
    assert len(raised) > 8
    assert [name for name in raised if f"hilum.errors.{name}" not in ids] == []


def test_docstrings_are_rendered_with_their_signatures(site):
    text = (site / "reference" / "api" / "reading.html").read_text()
    assert re.search(r"<code>.*?read.*?reading", text, re.S)
    assert "Parameters:" in text
    assert ":::" not in text


def settings_of(kind: type, path: str = "") -> typing.Iterator[str]:
    for name, hint in typing.get_type_hints(kind).items():
        inner = [one for one in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(one)]
        if inner:
            yield from settings_of(inner[0], f"{path}{name}.")
        else:
            yield f"{path}{name}"


@pytest.mark.parametrize(("kind", "prefix", "least"), [(RunConfig, "", 150), (ServeConfig, "serve.", 40)])
def test_every_setting_is_in_the_reference_with_its_type_and_meaning(pages, kind, prefix, least):
    rows = pages["reference/settings.html"].rows
    names = [prefix + name for name in settings_of(kind)]
    assert len(names) > least
    assert [name for name in names if name not in rows] == []
    for name in names:
        setting, meaning, _, type_ = rows[name]
        assert setting == name.rpartition(".")[2]
        assert type_, name
        assert len(meaning) > 5, name


def test_a_setting_is_explained_as_its_docstring_does(pages):
    rows = pages["reference/settings.html"].rows
    assert rows["training.epochs"] == ["epochs", "Largest number of passes over the training cases.", "50", "integer"]
    assert rows["recipe.size"] == ["size", "Voxels (z, y, x) that the model sees.", "[64, 96, 96]", "3 integers"]
    assert rows["model.norm"][2:] == ['"batch"', '"batch", "group", "instance"']
    assert rows["serve.limits.queue"][2:] == ["1000", "integer"]


def test_every_finding_code_is_in_the_reference_with_its_meaning_and_severities(pages):
    rows = pages["reference/findings.html"].rows
    assert {code: rows[code][2:] for code in POLICY} == {code: list(row) for code, row in POLICY.items()}
    assert [code for code in POLICY if len(rows[code][1]) < 5] == []


def test_every_verb_and_every_flag_is_in_the_reference(site, pages):
    flags = [line.split(" ", 1) for line in (ROOT / "tests" / "flags.txt").read_text().splitlines()]
    assert {verb for verb, _ in flags} == set(VERBS)
    for verb, (_, what) in VERBS.items():
        assert f"{verb}.html" in pages["reference/cli/index.html"].links
        text = (site / "reference" / "cli" / f"{verb}.html").read_text()
        assert f"<h1>hilum {verb}" in re.sub(r'<h1 id="[^"]+">', "<h1>", text)
        assert [flag for of, flag in flags if of == verb and f"<code>{flag}</code>" not in text] == []
        assert what in re.sub(r"<[^>]+>|`", "", (site / "reference" / "cli" / "index.html").read_text())


def place(page: str, link: str) -> tuple[str, str]:
    """The file and the anchor that a link of a page leads to; no file for another host."""
    parts = urlsplit(link)
    if parts.scheme or parts.netloc:
        return "", ""
    if not parts.path:
        return page, unquote(parts.fragment)
    path = Path("/", page).parent / unquote(parts.path)
    target = Path(*[part for part in path.resolve().parts if part != "/"]).as_posix()
    return ("index.html" if target == "." else target), unquote(parts.fragment)


def test_every_link_and_anchor_leads_somewhere(site, pages):
    broken = []
    for page, parsed in pages.items():
        for link in parsed.links + parsed.fetched if page != "404.html" else []:
            target, anchor = place(page, link)
            if target and not (site / target).is_file():
                broken.append(f"{page}: {link}")
            if target in pages and anchor and anchor not in pages[target].ids:
                broken.append(f"{page}: {link}")
    assert broken == []


def test_results_and_files_of_the_repository_are_served_with_the_pages_that_link_to_them(site):
    results = sorted((site / "files" / "benchmarks" / "results").iterdir())
    assert len(results) > 10
    for path in results:
        assert path.read_bytes() == (ROOT / path.relative_to(site / "files")).read_bytes()


def test_no_page_or_style_fetches_anything_from_another_host(site, pages):
    for page, parsed in pages.items():
        assert [one for one in parsed.fetched if urlsplit(one).netloc] == [], page
    for path in site.rglob("*.css"):
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import", path.read_text(encoding="utf-8")), path


def test_no_page_advertises_its_generator_or_offers_to_edit(site):
    for page in ("index.html", "concepts/findings.html"):
        text = (site / page).read_text()
        assert "Made with" not in text
        assert "md-source" not in text
        assert "Not a medical device." in text


@pytest.fixture(scope="module")
def used(site):
    """What Chromium saw of the first page, a page of the reference and one of the concepts, and of a search."""
    node = shutil.which("node")
    if node is None or not CHROMIUM.exists() or not (BROWSER / "node_modules").is_dir():
        pytest.skip("node, Chromium or playwright-core is not here (scripts/tools)")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        command = [node, "site.mjs", address, "low-pass", "", *PAGES]
        done = subprocess.run(command, cwd=BROWSER, capture_output=True, text=True, timeout=120)
        server.shutdown()
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), address


def test_a_browser_asks_no_other_host_and_reports_no_error(used):
    seen, address = used
    assert f"{address}/index.html" in seen["requests"]
    assert [url for url in seen["requests"] if not url.startswith(f"{address}/")] == []
    assert seen["console"] == []
    assert seen["failed"] == []


def test_pages_fit_wide_and_narrow_screens(used):
    seen = used[0]
    assert len(seen["overflow"]) == len(PAGES) * 4
    assert {key: value for key, value in seen["overflow"].items() if value > 0} == {}
    assert {key: value for key, value in seen["clipped"].items() if value} == {}


def test_light_and_dark_follow_the_system(used):
    shades = {
        scheme: {
            sum(map(int, re.findall(r"\d+", value)[:3]))
            for key, value in used[0]["background"].items()
            if scheme in key
        }
        for scheme in ("light", "dark")
    }
    assert min(shades["light"]) > 3 * 200
    assert max(shades["dark"]) < 3 * 60


def test_search_finds_the_pages_about_a_term(used):
    seen, address = used
    found = [url.removeprefix(f"{address}/").partition("?")[0] for url in seen["results"]]
    assert "concepts/recipe.html" in found
    assert "reference/api/preparing.html" in found
    assert "low-pass" in seen["found"]
