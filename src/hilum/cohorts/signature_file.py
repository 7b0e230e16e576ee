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
    """Write signatures by case id: one array, and ids, grids and hashed studies as JSON."""
    ordered = sorted(signatures.items())
    longest = max((one.source.profiles.shape[1] for _, one in ordered), default=1)
    profiles = np.full((len(ordered), 3, longest), NO_BIN, np.int16)
    for row, (_, one) in zip(profiles, ordered, strict=True):
        row[:, : one.source.profiles.shape[1]] = one.source.profiles
    about = [[name, list(one.source.shape), list(one.source.spacing_mm), one.study] for name, one in ordered]
    write_whole(path, save({"profiles": profiles}, {_KEY: json.dumps(about)}))


def read_signatures(path: Path) -> dict[str, Signature]:
    """Read the signatures of a run by case id.

    Raises:
        CheckpointError: If the file is damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            about, profiles = json.loads(file.metadata()[_KEY]), file.get_tensor("profiles")
        found = {}
        for (name, (nz, ny, nx), (z, y, x), study), own in zip(about, profiles, strict=True):
            source = SourceScan(digest="", shape=(nz, ny, nx), spacing_mm=(z, y, x), profiles=own)
            found[name] = Signature(source=source, study=study)
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as exc:
        msg = "the signatures cannot be read: the file is damaged"
        raise CheckpointError(msg, path=path) from exc
    return found
