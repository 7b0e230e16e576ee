"""Types of positional arguments, and flags that were renamed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

ModelPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
CohortPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="COHORT")]
ScanPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCAN")]
ConfigPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG")]
FolderPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]

_READING = {f"--{name}": f"--reading.{name}" for name in ("policy", "override", "max-gb")}
_RENAMED = {
    "inspect": _READING,
    "cohort": {**_READING, "--label-column": "--columns.label, or --columns.labels for several"},
    "advise": {"--unlabelled": "--cohort.unlabelled"},
    "evaluate": {"--max-refused": "--cohort.max-refused"},
}


def renamed_flag(verb: str, args: Sequence[str]) -> str:
    """Message about the first renamed flag among the arguments; empty if there is none."""
    for arg in args:
        name = arg.partition("=")[0].replace("_", "-")
        if name in _RENAMED.get(verb, {}):
            return f"{name} is now {_RENAMED[verb][name]}"
    return ""
