"""Reads and writes the signatures of a run's scans, so that altered copies of them are recognised later."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hilum.cohorts.prepared import PreparedCohort
from hilum.errors import CheckpointError
from hilum.files import write_whole
from hilum.volume import NO_BIN, SourceScan

_KEY = "hilum_signatures"

SIGNATURES_MARK = rf'^(?s:.{{8}})\{{"__metadata__":\{{"{_KEY}":'
"""Pattern at the beginning of a file of signatures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What a run keeps of the scan of a case.

    Attributes:
        source: Grid and profiles; without digest, which ``splits.csv`` holds.
        study: Keyed hash of the study; empty if unknown.
    """

    source: SourceScan
    study: str


def signatures_of(prepared: PreparedCohort) -> dict[str, Signature]:
    """The signatures of prepared cases by case id."""
    studies = {name: tags.study for name, tags in prepared.tags.items()}
    return {name: Signature(source=one, study=studies.get(name, "")) for name, one in prepared.sources.items()}


def write_signatures(path: Path, signatures: Mapping[str, Signature]) -> None:
    """Write signatures by case id: an array of profiles, and grids, hashed studies and case ids as JSON."""
    numbers: dict[object, int] = {}
    scans: list[Signature] = []
    cases: dict[str, int] = {}
    for name, one in sorted(signatures.items()):
        source = one.source
        key = (source.digest, source.spacing_mm, one.study) if source.digest else name
        cases[name] = numbers.setdefault(key, len(scans))
        if cases[name] == len(scans):
            scans.append(one)
    longest = max((one.source.profiles.shape[1] for one in scans), default=1)
    profiles = np.full((len(scans), 3, longest), NO_BIN, np.int16)
    for row, one in zip(profiles, scans, strict=True):
        row[:, : one.source.profiles.shape[1]] = one.source.profiles
    grids = [[one.source.shape, one.source.spacing_mm, one.study] for one in scans]
    write_whole(path, save({"profiles": profiles}, {_KEY: json.dumps({"scans": grids, "cases": cases})}))


def read_signatures(path: Path) -> dict[str, Signature]:
    """Read the signatures of a run by case id.

    Raises:
        CheckpointError: If the file is damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            about, profiles = json.loads(file.metadata()[_KEY]), file.get_tensor("profiles")
        scans = []
        for ((nz, ny, nx), (z, y, x), study), own in zip(about["scans"], profiles, strict=True):
            source = SourceScan(digest="", shape=(nz, ny, nx), spacing_mm=(z, y, x), profiles=own)
            scans.append(Signature(source=source, study=study))
        return {name: scans[number] for name, number in about["cases"].items()}
    except (OSError, SafetensorError, KeyError, IndexError, TypeError, AttributeError, ValueError) as exc:
        msg = "the signatures cannot be read: the file is damaged"
        raise CheckpointError(msg, path=path) from exc
