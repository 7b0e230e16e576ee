"""Speed measurements of this machine, in one file of the user's cache; without it everything is measured again."""

import contextlib
import hashlib
import json
import logging
import os
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from hilum.errors import HilumError
from hilum.files import write_whole
from hilum.settings.run import SpeedConfig
from hilum.settings.toml import from_dict

_log = logging.getLogger("hilum")


def key_of(device: torch.device, *about: Any) -> str:
    """A key of the machine and of everything else that decides which way is fastest."""
    name = (
        torch.cuda.get_device_name(device) if device.type == "cuda" else f"{_processor()} x {torch.get_num_threads()}"
    )
    return hashlib.sha256(json.dumps([name, torch.__version__, version("hilum"), *about]).encode()).hexdigest()[:32]


def remembered(key: str) -> tuple[SpeedConfig, dict[str, float]] | None:
    """The chosen settings, and the seconds of all ways that were tried; None if nothing can be read."""
    try:
        entry = _all_remembered()[key]
        speed = from_dict(SpeedConfig, entry["speed"])  # raises a ConfigError, which is a ValueError
        seconds = {str(name): float(s) for name, s in entry["seconds"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
    return (speed, seconds) if speed.is_resolved else None


def remember(key: str, speed: SpeedConfig, seconds: dict[str, float]) -> None:
    """Store it for the next run; if it cannot be written, the next run measures again."""
    known = _all_remembered() | {key: {"speed": asdict(speed), "seconds": seconds}}
    try:
        write_whole(_path(), json.dumps(known, indent=1))
    except (HilumError, RuntimeError) as exc:  # RuntimeError: the user has no home folder
        _log.info("the measured speed is not stored: %s", exc)


def _path() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "hilum" / "speed.json"


def _all_remembered() -> dict[str, Any]:
    try:
        known = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    return known if isinstance(known, dict) else {}


def _processor() -> str:
    """The processor and its features: machines of one name may differ."""
    with contextlib.suppress(OSError):
        rows = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return " ".join(sorted({row for row in rows if row.startswith(("model name", "flags"))}))
    return f"{platform.machine()} {platform.processor()}"
