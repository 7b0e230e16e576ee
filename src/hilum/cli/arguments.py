"""Types of positional arguments, and flags that were renamed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from hilum.errors import ConfigError
from hilum.volume import Triple

ModelPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="MODEL")]
CohortPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="COHORT")]
ScanPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="SCAN")]
ConfigPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="CONFIG")]
FolderPath = Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FOLDER")]

OutPath = Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="OUT")]
"""A text, for a Path has no ``/`` at its end, which names a folder."""

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


def refuse_flags_of_scans(path: Path, region: str, *, point: Triple | None, series: str) -> None:
    """Raise a ConfigError where a flag has no effect on a model's region, or on a prepared volume."""
    if point is not None and region != "point":
        msg = f"--point is for models of region point, this one is of region {region}"
        raise ConfigError(msg)
    if path.suffix.lower() == ".npy" and (point is not None or series):
        msg = "--point and --series need a scan; a .npy file is a prepared volume"
        raise ConfigError(msg)
