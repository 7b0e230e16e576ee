"""Converts settings to and from TOML and JSON; unknown names and wrong types are errors."""

import dataclasses
import os
import tomllib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import tomli_w

from hilum.errors import ConfigError, require
from hilum.files import user_path, write_whole
from hilum.settings.augmentation import PresetName
from hilum.settings.presets import preset
from hilum.settings.run import Recipe, RunConfig

Config = TypeVar("Config")


def from_dict(cls: type[Config], values: Any, where: str = "") -> Config:
    """Make a config from the plain values of TOML or JSON.

    Raises:
        ConfigError: On an unknown name, a wrong type or a value that is not allowed.
    """
    if not isinstance(values, dict):
        msg = f"{where or 'a config'} must be a table, got {values!r}"
        raise ConfigError(msg)
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        msg = f"unknown setting {where}{'.' if where else ''}{unknown[0]}; known are: {', '.join(hints)}"
        raise ConfigError(msg)
    for one in dataclasses.fields(cls):  # type: ignore[arg-type]
        optional = one.default is not dataclasses.MISSING or one.default_factory is not dataclasses.MISSING
        require(optional or one.name in values, f"{where}.{one.name}".strip("."), "given", "nothing")
    given = {name: _convert(hints[name], v, f"{where}.{name}".strip(".")) for name, v in values.items()}
    return cls(**given)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Convert a TOML value to the type of its field: dataclass, tuple, dictionary, literal, number or None."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, where)
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        choices = [a for a in args if a is not type(None)]
        named = [a for a in choices if get_origin(a) is Literal]
        if named and len(choices) > 1:  # a pair of numbers, or a name that stands for one
            require(isinstance(value, str | list | tuple), where, f"a list or {_names(named[0])}", repr(value))
            choices = named if isinstance(value, str) else [a for a in choices if a not in named]
        return _convert(choices[0], value, where)
    if origin is tuple and isinstance(value, list | tuple):
        variadic = len(args) == 2 and args[1] is Ellipsis
        require(variadic or len(value) == len(args), where, f"a list of {len(args)}", value)
        inner = [args[0]] * len(value) if variadic else args
        return tuple(_convert(a, v, where) for a, v in zip(inner, value, strict=True))
    if origin is dict and isinstance(value, dict) and args[1] is not Any:
        return {name: _convert(args[1], one, f"{where}.{name}") for name, one in value.items()}
    if origin is Literal:
        right = any(value == known and type(value) is type(known) for known in args)
        require(right, where, _names(hint), repr(value))
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    require(origin is not tuple, where, f"a list{'' if args[-1:] == (Ellipsis,) else f' of {len(args)}'}", repr(value))
    kind = origin or hint
    right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    require(right, where, f"of type {getattr(hint, '__name__', hint)}", repr(value))
    return value


def _names(hint: Any) -> str:
    return f"one of {', '.join(map(str, get_args(hint)))}"


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a config to plain values, leaving out None; the inverse of ``from_dict``."""
    values = dataclasses.asdict(config)

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items() if v is not None}
        return [plain(v) for v in value] if isinstance(value, tuple | list) else value

    result: dict[str, Any] = plain(values)
    return result


def load(path: Path) -> RunConfig:
    """Read a config from a TOML file or a run folder; its paths become absolute.

    Raises:
        ConfigError: If the file is missing, not TOML, or holds settings that are not allowed.
    """
    path = path / "config.toml" if path.is_dir() else path
    values = _values(path)
    try:
        return located(from_dict(RunConfig, _with_preset(values)), path.parent)
    except ConfigError as exc:
        raise ConfigError(exc.message, path=path, hint=exc.hint) from exc


def load_settings(cls: type[Config], path: Path) -> Config:
    """Read settings of another kind than those of a run from a TOML file.

    Raises:
        ConfigError: If the file is missing, not TOML, or holds settings that are not allowed.
    """
    try:
        return from_dict(cls, _values(path))
    except ConfigError as exc:
        raise ConfigError(exc.message, path=path, hint=exc.hint) from exc


def _values(path: Path) -> dict[str, Any]:
    """The content of a TOML file."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as exc:
        msg = "there is no such config file"
        raise ConfigError(msg, path=path) from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as exc:
        msg = f"is not a TOML file: {exc}"
        raise ConfigError(msg, path=path) from exc


def _with_preset(values: dict[str, Any]) -> dict[str, Any]:
    """Complete the [augment] table by the settings of its preset for this recipe."""
    given = values.get("augment", {})
    if not isinstance(given, dict):
        return values
    recipe = from_dict(Recipe, values.get("recipe", {}), "recipe")
    name = _convert(PresetName, given.get("preset", "standard"), "augment.preset")
    return {**values, "augment": {**to_dict(preset(name, recipe)), **given}}


def beside(base: Path, path: str) -> Path:
    """Make a path absolute that is relative to a folder; ``~`` is the home folder.

    If the path contains ``..``, links in the folder are resolved first, as the operating system does.
    """
    given = user_path(path)
    folder = base.resolve() if ".." in given.parts and not given.is_absolute() else base.absolute()
    return Path(os.path.normpath(folder / given))


def located(config: RunConfig, base: str | Path) -> RunConfig:
    """The settings with absolute paths instead of paths relative to a folder; empty paths stay empty."""
    return _with_paths(config, lambda path: str(beside(user_path(base), path)))


def settings_of(config: RunConfig | str | Path, base: str | Path = ".") -> RunConfig:
    """Settings with absolute paths: given ones, whose paths are relative to ``base``, or those of a file or run folder.

    Raises:
        ConfigError: If the file is missing, not TOML, or holds settings that are not allowed.
    """
    return located(config, base) if isinstance(config, RunConfig) else load(user_path(config))


def relative_to(config: RunConfig, folder: Path) -> RunConfig:
    """The settings with paths relative to a folder instead of absolute paths."""
    at = folder.resolve()

    def from_folder(given: str) -> str:
        path = user_path(given)
        return os.path.relpath(path.parent.resolve() / path.name, at) if path.is_absolute() else given

    return _with_paths(config, from_folder)


def _with_paths(config: RunConfig, change: Callable[[str], str]) -> RunConfig:
    table, weights, store = (
        change(path) if path else "" for path in (config.cohort.table, config.training.weights, config.store)
    )
    return dataclasses.replace(
        config,
        cohort=dataclasses.replace(config.cohort, table=table),
        training=dataclasses.replace(config.training, weights=weights),
        store=store,
    )


def save(config: RunConfig, path: Path, *, comment: str = "") -> None:
    """Write a config as TOML, with paths relative to the file; ``load`` reads it back.

    Args:
        config: Settings; relative paths in them are relative to the file already.
        path: The file.
        comment: First line of the file.
    """
    text = tomli_w.dumps(to_dict(relative_to(config, path.parent)))
    write_whole(path, (f"# {comment}\n" if comment else "") + text)
