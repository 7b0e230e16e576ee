"""Builds the documentation site: stages the pages of docs/, adds the generated reference, runs the site generator.

Usage: python docs/site/build_site.py [OUT]; OUT is a new or an earlier folder of the site, by default site/.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import tomli_w
from reference_pages import ROOMS, ROOT, api_pages, cli_pages, findings_page, settings_page

from hilum.cli import VERBS

DOCS = ROOT / "docs"
HERE = Path(__file__).parent
GUIDES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "README.zh.md": "zh/index.md"}
"""Pages outside docs/ that are pages of the site."""

LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?(\))")
FENCE = re.compile(r"^(```.*?^```[^\S\n]*$)", re.M | re.S)


def build(out: Path) -> None:
    """Build the site into a folder; any warning of the generator is an error."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        pages = stage(work / "pages")
        config = tomllib.loads((HERE / "zensical.toml").read_text(encoding="utf-8"))
        config["project"]["nav"] = navigation(config["project"]["nav"], pages)
        config["project"]["plugins"]["mkdocstrings"]["handlers"]["python"]["paths"] = [str(ROOT / "src")]
        (work / "zensical.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
        command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(work / "zensical.toml")]
        plain = os.environ | {"NO_COLOR": "1"}
        done = subprocess.run(command, cwd=work, env=plain, capture_output=True, text=True, check=False)  # noqa: S603
        said = done.stdout + done.stderr
        if done.returncode or re.search(r"warning|error", said, re.I):
            sys.exit(said)
        for page in (work / "site" / "zh").glob("*.html"):
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace('<html lang="en"', '<html lang="zh-Hans"', 1), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        shutil.move(work / "site", out)


def stage(pages: Path) -> set[str]:
    """Write every page of the site as Markdown, with the files that the pages link to.

    Returns:
        Paths of the pages below the folder.
    """
    sources = {f"docs/{path.relative_to(DOCS).as_posix()}": path for path in sorted(DOCS.rglob("*.md"))}
    sources |= {f"docs/{path.relative_to(DOCS).as_posix()}": path for path in sorted(DOCS.rglob("*.ipynb"))}
    sources |= {name: ROOT / name for name in GUIDES if (ROOT / name).is_file()}
    targets = {source: page_of(source) for source in sources}
    files: dict[str, Path] = {}
    written = api_pages() | cli_pages()
    written |= {"reference/settings.md": settings_page(), "reference/findings.md": findings_page()}
    for source, path in sources.items():
        text = path.read_text(encoding="utf-8")
        text = notebook_text(text) if path.suffix == ".ipynb" else text
        written[targets[source]] = staged(text, source, targets, files)
    written["reference/index.md"] += reference_list()
    for page, text in written.items():
        (pages / page).parent.mkdir(parents=True, exist_ok=True)
        (pages / page).write_text(text, encoding="utf-8")
    for target, path in files.items():
        (pages / target).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, pages / target)
    (pages / "assets").mkdir()
    shutil.copyfile(HERE / "hilum.css", pages / "assets" / "hilum.css")
    shutil.copyfile(ROOT / "src/hilum/serving/app/static/icon.svg", pages / "assets" / "icon.svg")
    return set(written)


def page_of(source: str) -> str:
    """Place of a page within the site, by its place in the repository."""
    return GUIDES.get(source) or str(PurePosixPath(source.removeprefix("docs/")).with_suffix(".md"))


def staged(text: str, source: str, targets: dict[str, str], files: dict[str, Path]) -> str:
    """A page with its links as they are within the site, in the Markdown of the generator.

    Args:
        text: The page.
        source: Its place in the repository.
        targets: Places of all pages within the site, by those in the repository.
        files: Takes the files that the page links to, by their place within the site.

    Returns:
        The page as it is staged.
    """

    def relinked(match: re.Match[str]) -> str:
        path = os.path.normpath(PurePosixPath(source).parent / match[2])
        if path in targets:
            target = targets[path]
        elif path == "README.md":
            target = "index.md"
        elif (ROOT / path).is_file():
            target = path.removeprefix("docs/") if path.startswith("docs/") else f"files/{path}"
            files[target] = ROOT / path
        else:
            sys.exit(f"{source}: {match[2]} is neither a page nor a file")
        link = os.path.relpath(target, PurePosixPath(targets[source]).parent)
        return match[1] + link + (match[3] or "") + match[4]

    return _outside_fences(text, lambda part: _as_python_markdown(LINK.sub(relinked, part)))


def _outside_fences(text: str, change: Callable[[str], str]) -> str:
    return "".join(part if part.startswith("```") else change(part) for part in FENCE.split(text))


def _as_python_markdown(text: str) -> str:
    """Lists as Python-Markdown reads them: after an empty line, and nested by four blanks."""
    lines: list[str] = []
    for line in text.split("\n"):
        item = re.match(r"( *)([-*]|\d+\.) ", line)
        if item and len(item[1]) in (2, 3):
            line = " " * (4 - len(item[1])) + line
        before = lines[-1] if lines else ""
        if item and not item[1] and before.strip() and not re.match(r" *([-*]|\d+\.) |  ", before):
            lines.append("")
        lines.append(line)
    return "\n".join(lines)


def notebook_text(text: str) -> str:
    """A notebook as Markdown: its texts, and its code as fenced blocks; outputs are not stored in the repository."""
    blocks = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"]).strip()
        if source:
            blocks.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
    return "\n\n".join(blocks) + "\n"


def reference_list() -> str:
    """Links to all generated pages, for the end of the first page of the reference."""
    lines = ["", "## Python", ""]
    lines += [f"- [{title}](api/{room}.md)" for room, title in ROOMS.items()]
    lines += ["", "## Command line", ""]
    lines += [f"- [`hilum {verb}`](cli/{verb}.md): {what}" for verb, (_, what) in VERBS.items()]
    lines += ["", "## Settings and findings", "", "- [Settings](settings.md)", "- [Finding codes](findings.md)", ""]
    return "\n".join(lines)


def navigation(nav: list[dict[str, Any]], pages: set[str]) -> list[dict[str, Any]]:
    """The sections of the configuration with every page in one of them; sections without a page are left out."""
    listed = {page for section in nav for page in _as_list(next(iter(section.values())))}
    rest = sorted(pages - listed - set(GUIDES.values()))
    folders = {"Get started": "", "中文": "zh/"}
    filled = []
    for section in nav:
        ((title, content),) = section.items()
        if isinstance(content, str):
            filled.append(section)
            continue
        folder = folders.get(title, f"{title.lower()}/")
        items: list[Any] = [page for page in content if page in pages]
        if title == "Reference":
            items += ["reference/settings.md", "reference/findings.md"]
            items.append({"Command line": ["reference/cli/index.md", *(f"reference/cli/{verb}.md" for verb in VERBS)]})
            items.append({"Python": [f"reference/api/{room}.md" for room in ROOMS]})
            items += ["changelog.md", "contributing.md"]
        else:
            items += [page for page in rest if page.startswith(folder) and ("/" in page) == bool(folder)]
        if items:
            filled.append({title: items})
    return filled


def _as_list(content: str | list[str]) -> list[str]:
    return [content] if isinstance(content, str) else content


if __name__ == "__main__":
    build(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "site").resolve())
