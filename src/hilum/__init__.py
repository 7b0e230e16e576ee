"""Hilum: chest CT scans and a table of labels to a 3D ResNet classifier that can be trusted.

The names of the Python API stand in ``__init__.pyi``, which type checkers read; each is loaded when it is first
used, so that ``import hilum`` is quick.
"""

import importlib
import re
from pathlib import Path
from typing import Any

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_HOME = {name: module for module, name in re.findall(r"^from (\S+) import (\w+) as \2$", _STUB, re.M)}

__all__ = ["__version__", *sorted(_HOME)]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("hilum")
    if name not in _HOME:
        msg = f"module 'hilum' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(importlib.import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
