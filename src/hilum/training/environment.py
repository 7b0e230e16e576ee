"""What a run was made with: versions, device, state of the code, digests of table and samples; no host, no path."""

import hashlib
import platform
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from hilum.files import cores
from hilum.modelling.device import pick_device
from hilum.planning.installation import package_versions


def environment_of(device: str, table: Path, samples: Iterable[Path]) -> dict[str, Any]:
    """The environment of a run that begins.

    Args:
        device: ``training.device``.
        table: The table of cases.
        samples: The prepared samples, whose names depend on scan, recipe and code.
    """
    names = "\n".join(sorted(file.stem for file in samples))
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        **_computing(device),
        "cores": cores(),
        "git": _git(),
        "table": _digest(table.read_bytes()),
        "samples": _digest(names.encode()),
    }


def _computing(device: str) -> dict[str, Any]:
    """What the digits of a training depend on."""
    return {"packages": package_versions(), "device": _device_name(device), "threads": torch.get_num_threads()}


def differences(began: dict[str, Any], device: str) -> list[str]:
    """What makes figures of a run that is resumed here differ from those of an unbroken one, in words.

    Args:
        began: What ``environment_of`` gave when the run began.
        device: ``training.device``.
    """
    now = _computing(device)
    before, after = (one["packages"] | {name: one.get(name) for name in ("device", "threads")} for one in (began, now))
    before = {name: value for name, value in before.items() if value is not None}  # older runs have no threads
    return [f"{name} was {before[name]}, is {after.get(name)}" for name in before if before[name] != after.get(name)]


def _device_name(device: str) -> str:
    picked = pick_device(device)
    if picked.type == "cuda":
        return torch.cuda.get_device_name(picked)
    return picked.type


def _git() -> dict[str, Any] | None:
    """Commit of the current folder's repository, and whether files were changed since; None without one."""
    try:
        commit = _of_git("rev-parse", "HEAD")
        return {"commit": commit, "changed": bool(_of_git("status", "--porcelain", "--untracked-files=no"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _of_git(*args: str) -> str:
    command = ["git", *args]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603 - no input
    return done.stdout.strip()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
