"""Documents the settings by their docstrings: as a commented TOML file and as lines of help."""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from functools import cache
from typing import Any

import tomli_w

from hilum.settings.run import RunConfig
from hilum.settings.toml import to_dict

_WIDTH = 110


@cache
def field_docs(config: type) -> dict[str, str]:
    """The docstring below each field of a dataclass, on one line; empty where there is none."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(config))).body
    assert isinstance(tree, ast.ClassDef)  # noqa: S101 - the source of a class
    docs: dict[str, str] = {}
    name = ""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
            docs[name] = ""
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            docs[name] = " ".join(str(node.value.value).split())
            name = ""
    return docs


def commented_toml(config: RunConfig) -> str:
    """The settings as TOML that ``settings.toml.load`` reads, each below its docstring.

    Settings that are None, for which TOML has no value, are comments themselves.
    """
    return "\n".join(_section(config, "", to_dict(config))).strip() + "\n"


def _section(config: Any, path: str, values: dict[str, Any]) -> Iterator[str]:
    """Lines of one TOML table: first its own keys, then its sub-tables."""
    kind: Any = type(config)
    if path:
        yield from ("", *_comment(" ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split())), f"[{path}]")
    docs, tables = field_docs(kind), []
    for one in dataclasses.fields(kind):
        value = getattr(config, one.name)
        if dataclasses.is_dataclass(value):
            tables.append(one.name)
            continue
        yield from _comment(docs[one.name])
        line = tomli_w.dumps({one.name: values[one.name]}).strip() if value is not None else f"# {one.name} ="
        yield re.sub(r"\n *", " ", line)  # lists are written over several lines
    for name in tables:
        yield from _section(getattr(config, name), f"{path}.{name}".strip("."), values[name])


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ")


def setting_lines(names: tuple[str, ...]) -> list[str]:
    """A line of help for each setting, such as ``--training.epochs 50``, with its docstring below.

    Args:
        names: Names of flags without the leading dashes.
    """
    lines = []
    for name in names:
        *path, last = ("cohort", *name.split(".")) if name.startswith("columns.") else name.split(".")
        path = ["training"] if name == "device" else path
        config: Any = RunConfig()
        for part in path:
            config = getattr(config, part)
        kind: Any = type(config)
        value = getattr(config, last)
        lines.append(f"  --{name.replace('_', '-')} {' '.join(_flag_values(value))}".rstrip())
        lines += textwrap.wrap(field_docs(kind)[last], 96, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return lines


def _flag_values(value: Any) -> list[str]:
    """A value as the arguments of its flag."""
    if isinstance(value, tuple):
        return [text for one in value for text in _flag_values(one)]
    return [] if value is None else [str(value)]
