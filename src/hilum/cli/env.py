"""``hilum env``: describes the installation and the machine, for bug reports; nothing private is in it."""

import json
import textwrap
from dataclasses import dataclass
from typing import Any

_WIDTH = 110


@dataclass(frozen=True, kw_only=True)
class ShowEnvironment:
    """Versions, extras, devices, cores, memory and the key's fingerprint, to paste into a bug report."""

    json: bool = False
    """One JSON object instead of text."""

    def run(self) -> int:
        """Print the description."""
        from hilum.planning.installation import describe_installation

        found = describe_installation()
        print(json.dumps(found, indent=2) if self.json else _text(found))
        return 0


def _text(found: dict[str, Any]) -> str:
    packages = found["packages"]
    rows = [
        ("hilum", packages["hilum"]),
        ("python", f"{found['python']}, {found['system']}"),
        ("packages", _listed({name: one for name, one in packages.items() if name != "hilum"})),
    ]
    extras = found["extras"]
    complete = [name for name, needed in extras.items() if all(needed.values())]
    rows.append(("extras", ", ".join(complete) or "none"))
    rows += [(f"  {name}", _listed(needed)) for name, needed in extras.items() if name in complete]
    rows += [
        (f"  {name}", f"{_listed(needed)}; pip install 'hilum[{name}]'")
        for name, needed in extras.items()
        if name not in complete
    ]
    rows += [("device" if n == 0 else "", device) for n, device in enumerate(found["devices"])]
    rows += [
        ("cores", f"{found['cores']} of {found['cores_of_machine']}, PyTorch takes {found['torch_threads']}"),
        ("memory", f"{_gb(found['memory_gb'])}, {_gb(found['memory_free_gb'])} of it free"),
        ("/dev/shm", _gb(found["shm_gb"])),  # noqa: S108 - a name
        ("key", _key(found["key"])),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(
        textwrap.fill(text, _WIDTH, initial_indent=f"{name:<{width}}  ", subsequent_indent=" " * (width + 2))
        for name, text in rows
    )


def _listed(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {one or 'MISSING'}" for name, one in versions.items())


def _gb(number: float | None) -> str:
    return "not known" if number is None else f"{number:.2f} GB"


def _key(key: dict[str, str] | None) -> str:
    if key is None:
        return "not made yet"
    return (
        f"{key['origin']}: {key['problem']}" if "problem" in key else f"{key['fingerprint']}..., from {key['origin']}"
    )
