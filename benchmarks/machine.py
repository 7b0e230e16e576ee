"""What a figure was measured on, without the name of the machine."""

import importlib
import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HILUM_DATA", ROOT.parent / "shared" / "data"))


def machine(*packages: str) -> dict[str, Any]:
    """Cores, processor, Python and the versions of packages."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    versions = {name: _version(name) for name in ("hilum", "numpy", *packages)}
    return {"cores": cores, "processor": _processor(), "python": platform.python_version(), "versions": versions}


def need(*modules: str) -> None:
    """End with exit 1 where one cannot be imported: a row that is lost in silence would be the rival that won."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as exc:  # noqa: BLE001  # a library that was built for another NumPy raises anything
            reason = str(exc).strip().split("\n")[0]
            sys.exit(f"{name} cannot be imported, and its row would be lost ({reason}); scripts/bench installs it")


def line(found: dict[str, Any]) -> str:
    """The same as one line."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    return f"{found['cores']} cores of {found['processor']}, Python {found['python']}, {versions}"


def peak_bytes(pid: int | str = "self") -> int:
    """The most memory that a process has held since ``forget_peak``, or since it began; Linux only."""
    return _status("VmHWM", pid)


def mapped_bytes() -> int:
    """The address space of this process; Linux only."""
    return _status("VmSize")


def forget_peak(pid: int | str = "self") -> int:
    """Begin to measure anew; what is held now."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _status("VmRSS", pid)


def _status(field: str, pid: int | str = "self") -> int:
    for row in Path(f"/proc/{pid}/status").read_text().splitlines():
        if row.startswith(f"{field}:"):
            return int(row.split()[1]) * 1024
    msg = f"/proc does not say {field}"  # of a process that has just ended
    raise OSError(msg)


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for row in cpuinfo.read_text().splitlines():
            if row.startswith("model name"):
                return row.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
