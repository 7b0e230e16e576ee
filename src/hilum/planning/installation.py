"""The installation and its machine, as a bug report needs them: nothing of patients, users, hosts or places."""

import math
import os
import platform
import re
import shutil
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

import torch

from hilum.errors import ReadError
from hilum.files import cores, free_bytes
from hilum.reading.identity import key_fingerprint, key_origin

PACKAGES = ("hilum", "torch", "lightning-fabric", "numpy", "scipy", "scikit-learn", "SimpleITK", "pydicom", "nibabel")
"""Packages on which the digits of a result depend."""

_FURTHER = ("pandas", "safetensors", "matplotlib", "zlib-ng", "loky", "tyro")
_OF_DEVELOPERS = ("all", "bench", "docs", "test")
"""Extras that no use of Hilum needs, and the one that names the others."""

_SHOWN_OF_KEY = 4
"""Digits of the key's fingerprint in a report that may become public: two keys are told apart, and of a key that is a
common word nobody can be sure."""


def package_versions(names: tuple[str, ...] = PACKAGES) -> dict[str, str]:
    """Installed version of each package; empty for one that is missing."""
    return {name: _version(name) for name in names}


def describe_installation() -> dict[str, Any]:
    """Versions, extras, devices, cores, memory, shared memory, and the fingerprint of the site's key.

    The key is not made if there is none yet.
    """
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": package_versions(PACKAGES + _FURTHER),
        "extras": _extras(),
        "devices": _devices(),
        "torch_threads": torch.get_num_threads(),
        "cores": cores(),
        "cores_of_machine": os.cpu_count(),
        "memory_gb": _gb(_memory()),
        "memory_free_gb": _gb(free_bytes()),
        "shm_gb": _gb(_shared_memory()),
        "key": _key(),
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _extras() -> dict[str, dict[str, str]]:
    """Packages of each extra with their versions, as the metadata of the installed Hilum has them."""
    found: dict[str, dict[str, str]] = {}
    for requirement in requires("hilum") or []:
        name, extra = re.match(r"[\w.-]+", requirement), re.search(r"extra == ['\"]([\w-]+)['\"]", requirement)
        if name and extra and extra[1] not in _OF_DEVELOPERS:
            found.setdefault(extra[1], {})[name[0]] = _version(name[0])
    return found


def _devices() -> list[str]:
    devices = [f"cpu, {torch.backends.cpu.get_cpu_capability()}"]
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        devices.append(f"cuda:{number}, {about.name}, {about.total_memory / 1e9:.1f} GB, CUDA {torch.version.cuda}")
    if torch.backends.mps.is_available():
        devices.append("mps")
    return devices


def _memory() -> float:
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # not on every system
        return math.inf


def _shared_memory() -> float:
    """Size of /dev/shm, through which loader processes send batches."""
    shm = Path("/dev/shm")  # noqa: S108 - its size is read
    return float(shutil.disk_usage(shm).total) if shm.is_dir() else math.inf


def _key() -> dict[str, str] | None:
    """Where the key comes from, with its fingerprint or that it cannot be read; None: not made yet. No path."""
    try:
        origin = key_origin()
        if not origin:
            return None
        return {"origin": origin, "fingerprint": key_fingerprint().removeprefix("key-")[:_SHOWN_OF_KEY]}
    except (ReadError, OSError, RuntimeError):  # RuntimeError: nobody knows the home folder
        return {"origin": "file", "problem": "cannot be read, or is empty"}


def _gb(number: float) -> float | None:
    return round(number / 1e9, 2) if math.isfinite(number) else None
