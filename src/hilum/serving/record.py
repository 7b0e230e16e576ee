"""The JSON beside each file that is written of a scan: what the file holds, and from what it was made."""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hilum.files import holds, write_whole
from hilum.findings import Finding, refusals
from hilum.preparing.sources import files_digest, files_state
from hilum.reading.doctor import Verdict
from hilum.reading.identity import hashed
from hilum.volume import Triple, Volume

_FORMAT = 1
_TAGS = ("modality", "kernel", "thickness_mm", "manufacturer", "model", "tube_voltage_kv", "exposure_mas")
"""Tags that are written: none identifies a patient, a study or a series."""

_SHORT = 5
"""File names of fewer digits than this stay in a sentence: they are slice numbers, and its counts look the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenScan:
    """What became of one scan.

    Attributes:
        name: Keyed hash of its series, or of its absolute path where it has no series UID.
        verdict: As of ``hilum inspect``; ``refused`` too where its files cannot be made.
        files: Names of the files written of it, without the JSON; empty where it is refused.
        shape: Number of voxels (z, y, x); zeros where unknown.
        spacing_mm: Distance between them (z, y, x); None where there is no regular grid.
        findings: The findings, without places.
        reason: Why it is refused; else empty.
        code: Code of that reason; empty where there is none.
        lungs: Verdict and volumes, of a scan whose lungs were asked for.
        where: Its path below the one that was asked for; not in the JSON.
        is_new: Whether its files were written now; else they were there.
    """

    name: str
    verdict: Verdict
    files: tuple[str, ...] = ()
    shape: tuple[int, int, int] = (0, 0, 0)
    spacing_mm: Triple | None = None
    findings: tuple[Finding, ...] = ()
    reason: str = ""
    code: str = ""
    lungs: dict[str, Any] | None = None
    where: str = ""
    is_new: bool = True

    @property
    def codes(self) -> str:
        """The codes of its findings, each once, separated by blanks."""
        return " ".join(dict.fromkeys(finding.code for finding in self.findings))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceState:
    """The files that a scan is read from, as keyed hashes.

    Attributes:
        files: The files.
        detached: Files that hold the voxels of a header.
        state: Hash of names, sizes and times; empty where a file is so young that it could change again unseen.
    """

    files: tuple[Path, ...]
    detached: tuple[Path, ...]
    state: str

    @classmethod
    def of(cls, files: Sequence[Path], detached: Sequence[Path] = ()) -> "SourceState":
        """Ask for the state of some files.

        Raises:
            OSError: If one cannot be asked.
        """
        state, settled = files_state([*files, *detached])
        return cls(files=tuple(files), detached=tuple(detached), state=hashed("state", state) if settled else "")

    def digest(self) -> str:
        """Hash of all bytes.

        Raises:
            OSError: If a file cannot be read.
        """
        return hashed("source", files_digest(self.files, self.detached))


def write_record(
    path: Path, written: WrittenScan, volume: Volume, *, verb: str, source: tuple[str, str], settings: dict[str, Any]
) -> None:
    """Write the JSON of a scan, which says that its files are whole.

    Args:
        path: The JSON, in the folder of the files.
        written: What became of the scan.
        volume: The scan.
        verb: The verb that wrote them.
        source: State and digest of the scan's files.
        settings: All that determines the files beside the scan.

    Raises:
        HilumError: If it cannot be written.
    """
    tags = asdict(volume.tags)
    document = {
        "hilum_scan_file": _FORMAT,
        "verb": verb,
        "hilum": version("hilum"),
        "name": written.name,
        "files": {name: (path.parent / name).stat().st_size for name in written.files},
        "verdict": written.verdict,
        "findings": [{"code": f.code, "severity": f.severity, "message": f.message} for f in written.findings],
        "axes": "index (z, y, x) to LPS mm (x, y, z)",
        "shape": list(written.shape),
        "spacing_mm": list(volume.spacing_mm),
        "affine": volume.affine.tolist(),
        "interpolated": [list(one) for one in volume.interpolated],
        "tags": {name: tags[name] for name in _TAGS},
        **({} if written.lungs is None else {"lungs": written.lungs}),
        "settings": settings,
        "state": source[0],
        "source": source[1],
    }
    write_whole(path, json.dumps(document, indent=2) + "\n", follow=False)


def is_record(path: Path, verb: str) -> bool:
    """Whether a file is such a JSON of this verb, of any version of Hilum."""
    return holds(path, rf'^\{{\s*"hilum_scan_file": \d+,\s*"verb": "{verb}"')


def recorded_name(path: Path) -> str:
    """The name of the scan that a JSON is of; empty where there is no such JSON."""
    return str(_document(path).get("name", ""))


def recorded_files(path: Path) -> list[Path]:
    """The files that a JSON says were written with it; none where there is no such JSON."""
    files = _document(path).get("files")
    return [path.parent / name for name in files if Path(name).name == name] if isinstance(files, dict) else []


def finished(
    path: Path, *, verb: str, files: Sequence[str], source: SourceState, settings: dict[str, Any]
) -> WrittenScan | None:
    """What an earlier call wrote of the same scan with the same settings and version; None if that is not all there.

    Args:
        path: The JSON.
        verb: The verb that wrote it.
        files: Names of the files that must be there.
        source: The scan's files.
        settings: All that determines the files beside the scan.

    Raises:
        OSError: If the scan's files cannot be read.
    """
    document = _document(path)
    try:
        is_same = (
            (document["hilum_scan_file"], document["verb"], document["hilum"]) == (_FORMAT, verb, version("hilum"))
            and document["settings"] == settings
            and all((path.parent / name).stat().st_size == size for name, size in document["files"].items())
        )
        z, y, x = document["shape"]
        written = WrittenScan(
            name=document["name"],
            verdict=document["verdict"],
            files=tuple(document["files"]),
            shape=(z, y, x),
            spacing_mm=tuple(document["spacing_mm"]),
            findings=tuple(Finding(**finding) for finding in document["findings"]),
            lungs=document.get("lungs"),
            is_new=False,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OSError):
        return None
    if not is_same or not set(files) <= set(written.files):
        return None
    is_unchanged = bool(source.state) and document.get("state") == source.state
    return written if is_unchanged or document.get("source") == source.digest() else None


def _document(path: Path) -> dict[str, Any]:
    """The content of a JSON; empty where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def without_places(findings: Iterable[Finding], names: Iterable[str]) -> tuple[Finding, ...]:
    """Findings without their places, and without names of files in their sentences."""
    names = list(names)
    return tuple(replace(one, where="", message=without_names(one.message, names)) for one in findings)


def reason_of(findings: Iterable[Finding]) -> str:
    """The sentences of the findings that refuse a scan."""
    return "; ".join(f"{one.code}: {one.message}" for one in refusals(findings))


def without_names(text: str, names: Iterable[str]) -> str:
    """A sentence with ``a file`` in place of paths and names of files, which can be names of patients."""
    spelt: set[str] = set()
    for name in names:
        spelt |= {name, name.rpartition("/")[2]}
    known = [name for name in spelt if name and not (name.isdigit() and len(name) < _SHORT)]
    stems = [name.partition(".")[0] for name in known if "." in name[1:]]
    patterns = [re.escape(name) for name in sorted(known, key=len, reverse=True) if name in text]
    patterns += [rf"{re.escape(stem)}(?:\.\w+)+" for stem in sorted(set(stems), key=len, reverse=True) if stem in text]
    return re.sub(rf"(?<![\w.-])(?:\S*/)?(?:{'|'.join(patterns)})(?!\w)", "a file", text) if patterns else text
