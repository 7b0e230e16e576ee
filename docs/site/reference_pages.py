"""Reference pages from their sources: the API, the command line, every setting and every finding code."""

import argparse
import ast
import dataclasses
import importlib
import inspect
import re
import types
import typing
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hilum import _HOME
from hilum.cli import VERBS
from hilum.findings import POLICY
from hilum.settings.document import field_docs
from hilum.settings.run import RunConfig
from hilum.settings.serving import ServeConfig

ROOT = Path(__file__).parents[2]
ROOMS = {
    "basics": "Volumes, findings and errors", "settings": "Settings", "reading": "Reading", "simulating": "Simulating",
    "preparing": "Preparing", "cohorts": "Cohorts", "modelling": "Modelling", "planning": "Planning",
    "training": "Training", "predicting": "Predicting", "judging": "Judging", "serving": "Serving",
}  # fmt: skip
"""Pages of the API in the order of the data, and their titles; modules outside packages are basics."""


def api_pages() -> dict[str, str]:
    """A page for each room, with the public names that live in it."""
    names: dict[str, list[tuple[str, str]]] = {room: [] for room in ROOMS}
    for name, module in _HOME.items():
        room = module.split(".")[1]
        names[room if room in ROOMS else "basics"].append((name, module))
    pages = {}
    for room, title in ROOMS.items():
        lines = [f"# {title}", ""]
        if room != "basics":
            doc = ast.get_docstring(ast.parse((ROOT / "src" / "hilum" / room / "__init__.py").read_text("utf-8")))
            lines += [*_prose(doc or ""), ""]
        for name, module in names[room]:
            if module != "hilum.errors":
                lines += _api_entry(f"hilum.{name}", f"{module}.{name}")
        if room == "basics":
            lines += ["## Errors", "", '<a id="hilum.HilumError"></a>', ""]
            for name in _exceptions():
                lines += _api_entry(name, f"hilum.errors.{name}", level=3)
        pages[f"reference/api/{room}.md"] = "\n".join(lines) + "\n"
    return pages


def _exceptions() -> list[str]:
    tree = ast.parse((ROOT / "src" / "hilum" / "errors.py").read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.ClassDef)]


def _api_entry(title: str, home: str, level: int = 2) -> list[str]:
    anchor = [f'<a id="{title}"></a>', ""] if title.startswith("hilum.") else []
    options = [f"        heading: {title}", f"        toc_label: {title.removeprefix('hilum.')}"]
    return [*anchor, f"::: {home}", "    options:", f"        heading_level: {level}", *options, ""]


def cli_pages() -> dict[str, str]:
    """A page for each verb: what it does, its usage and its flags."""
    lines = ["# Command line", "", "| verb | what it does |", "|---|---|"]
    lines += [f"| [`hilum {verb}`]({verb}.md) | {_cell(what)} |" for verb, (_, what) in VERBS.items()]
    lines += ["", "`hilum VERB --help` prints the flags of a verb. `hilum --version` prints the version."]
    lines += ["Exit codes are in [Cohorts](../../concepts/cohorts.md#how-commands-end)."]
    pages = {"reference/cli/index.md": "\n".join(lines) + "\n"}
    return pages | {f"reference/cli/{verb}.md": "\n".join(_verb_lines(verb)) + "\n" for verb in VERBS}


def _verb_lines(verb: str) -> Iterator[str]:
    import tyro

    kind = getattr(importlib.import_module(f"hilum.cli.{verb}"), VERBS[verb][0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        actions = tyro.extras.get_parser(kind, prog=f"hilum {verb}")._actions
    actions = [one for one in actions if "-h" not in one.option_strings]
    places = [str(one.metavar) for one in actions if not one.option_strings]
    required = [one for one in actions if one.option_strings and "(required)" in str(one.help)]
    usage = " ".join([f"hilum {verb}", *places, *(f"{one.option_strings[0]} {one.metavar}" for one in required)])
    yield from (f"# hilum {verb}", "", *_prose(inspect.getdoc(kind) or ""), "", "```text", f"{usage} [OPTIONS]", "```")
    own: list[argparse.Action] = []
    of_settings: dict[str, list[argparse.Action]] = {}
    for action in actions:
        section = action.option_strings[0][2:].rpartition(".")[0] if action.option_strings else ""
        (of_settings.setdefault(section, []) if section else own).append(action)
    yield from ("", *_flag_table(own))
    if of_settings:
        yield from (
            "",
            "## Settings as flags",
            "",
            "Each setting of a config is a flag, too; [their page](../settings.md)",
        )
        yield "explains them together."
    for section, flags in of_settings.items():
        yield from ("", f"### {section}", "", *_flag_table(flags))


def _flag_table(actions: list[argparse.Action]) -> Iterator[str]:
    yield from ("| flag | <span class='wide'>meaning</span> | default | value |", "|---|---|---|---|")
    for one in actions:
        name = "<br>".join(f"`{text}`" for text in (one.option_strings or [str(one.metavar)]))
        text, default = str(one.help or ""), ""
        found = re.search(r"\s*\((required|default: ((?:[^()]|\([^()]*\))*))\)$", text)
        if found:
            text, default = text[: found.start()], "required" if found[2] is None else found[2]
        default = default if default == "required" else f"`{default}`" if default.strip("' ") else ""
        default = "" if default in ("`None`", "`False`") else default
        value = _value(str(one.metavar)) if one.option_strings and one.metavar else ""
        yield f"| {name} | {_cell(text)} | {_cell(default)} | {value} |"


def _value(metavar: str) -> str:
    """The value of a flag, as in help, without braces around words and without None."""
    words = metavar.replace("{None}|", "").replace("|{None}", "")
    if re.fullmatch(r"\{[^{}\[\] ]*\}", words):
        return ", ".join(f"`{word}`" for word in words[1:-1].split(","))
    return "`" + re.sub(r"^\{([^{}]*)\}$", r"\1", words) + "`"


def settings_page() -> str:
    """Every setting of a run and of the service, with its type, default and docstring."""
    lines = [
        "# Settings", "",
        "A run is described by one TOML file. `hilum config` prints it with every setting explained, `hilum train`",
        "takes each setting as a flag, and Python takes the dataclasses of [the API](api/settings.md). An unknown",
        "setting is an error. [`hilum serve`](cli/serve.md) reads [a file of its own](#settings-of-the-service).", "",
        "## Settings of a run",
        *_section_lines(RunConfig, "", ""),
        "", "## Settings of the service", "",
        "The file that `hilum serve --config` reads.",
        *_section_lines(ServeConfig, "", "serve."),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _section_lines(kind: type, path: str, prefix: str, head: str = "") -> Iterator[str]:
    docs, hints = field_docs(kind), typing.get_type_hints(kind, include_extras=False)
    if path:
        yield from ("", f"### `{head}` {{ #{prefix}{path} }}", "", *_prose(inspect.getdoc(kind) or ""))
    tables = {one.name: _dataclass_in(hints[one.name]) for one in dataclasses.fields(kind)}
    plain = [one for one in dataclasses.fields(kind) if tables[one.name] is None]
    if plain:
        yield from ("", "| setting | <span class='wide'>meaning</span> | default | type |", "|---|---|---|---|")
    for one in plain:
        name = f"`{one.name}`{{ #{prefix}{path + '.' if path else ''}{one.name} }}"
        default = one.default if one.default is not dataclasses.MISSING else None
        if one.default_factory is not dataclasses.MISSING:
            default = one.default_factory()
        shown = "" if default is None else f"`{_as_toml(default)}`"
        yield f"| {name} | {_cell(docs[one.name])} | {_cell(shown)} | {_cell(_type_name(hints[one.name]))} |"
    for name, table in tables.items():
        if table is not None:
            inner = f"{path}.{name}".strip(".")
            yield from _section_lines(table, inner, prefix, _table_name(inner, hints[name]))


def _table_name(path: str, hint: Any) -> str:
    """Head of a TOML table, with two brackets where there can be several."""
    return f"[[{path}]]" if typing.get_origin(hint) is tuple else f"[{path}]"


def _dataclass_in(hint: Any) -> type | None:
    """The dataclass that a hint is, or that a tuple or dictionary of it holds."""
    if dataclasses.is_dataclass(hint):
        return hint  # type: ignore[return-value]
    found = [_dataclass_in(arg) for arg in typing.get_args(hint)]
    return next((one for one in found if one is not None), None)


def _type_name(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return ", ".join(f"`{_as_toml(arg)}`" for arg in args)
    if origin in (types.UnionType, typing.Union):
        return " or ".join(_type_name(arg) for arg in args if arg is not types.NoneType)
    if origin is tuple:
        plural = "" if typing.get_args(args[0]) else "s"
        if args[-1] is Ellipsis:
            return f"list of {_type_name(args[0])}{plural}"
        return f"{len(args)} {_type_name(args[0])}{plural}"
    if origin is dict:
        return f"table of {_type_name(args[1])}"
    names = {"str": "text", "int": "integer", "float": "number", "bool": "true or false", "Path": "path"}
    return names.get(getattr(hint, "__name__", str(hint)), str(hint))


def _as_toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_as_toml(one) for one in value) + "]"
    return f'"{value}"' if isinstance(value, str) else str(value)


def findings_page() -> str:
    """Every finding code with its meaning and its severity under each policy."""
    means = {}
    for path in sorted((ROOT / "docs").rglob("*.md")):
        folder = path.parent.relative_to(ROOT / "docs").as_posix()
        for code, meaning in re.findall(
            r"^\| `([\w-]+)` \| ([^|]+) \| \w+ \| \w+ \| \w+ \|$", path.read_text("utf-8"), re.M
        ):
            means.setdefault(code, re.sub(r"\]\((?![a-z]+:|#)", f"](../{folder}/", meaning))
    lines = [
        "# Finding codes", "",
        "Every code of the policy table, `hilum.findings.POLICY`. [Findings](../concepts/findings.md) explains",
        "severities, and how a site overrides them.", "",
        "| code | <span class='wide'>meaning</span> | strict | standard | lenient |", "|---|---|---|---|---|",
        *(f"| `{code}`{{ #{code} }} | {means.get(code, '')} | {' | '.join(row)} |" for code, row in POLICY.items()),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _prose(doc: str) -> list[str]:
    """A docstring up to its first section such as Args, as Markdown."""
    text = re.split(r"\n\n(?:Args|Attributes|Raises|Returns|Examples?):\n", doc)[0]
    return text.replace("``", "`").split("\n")


def _cell(text: str) -> str:
    """A text within a cell of a table."""
    text = " ".join(text.replace("``", "`").split())
    return re.sub(r"(?<!\\)\|", r"\\|", text)
