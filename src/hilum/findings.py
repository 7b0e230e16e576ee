"""What was noticed about a scan, and the table that says how severe each kind of finding is."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal

Severity = Literal["note", "repaired", "refused"]

POLICY: dict[str, Severity] = {
    # reading: what the files are
    "not-an-image": "refused",
    "unreadable-file": "refused",
    "truncated-file": "refused",
    "wrong-modality": "refused",
    "localizer": "refused",
    "secondary-capture": "refused",
    "derived-image": "refused",
    "processed-image": "note",
    "mixed-series": "note",
    "lossy-compression": "note",
    "rescale-missing": "note",
    # reading: geometry
    "single-slice": "refused",
    "few-slices": "note",
    "missing-slices": "refused",
    "irregular-spacing": "refused",
    "time-series": "refused",
    "mixed-orientation": "refused",
    "mixed-shape": "refused",
    "duplicate-slices": "repaired",
    "gantry-tilt": "repaired",
    "oblique": "note",
    "slice-gap": "refused",
    "anisotropic": "note",
    # reading: intensities
    "padding": "repaired",
    "clipped": "repaired",
    # preparing
    "no-lungs": "refused",
    "lungs-cut": "note",
    "lungs-volume": "note",
    "beyond-grid": "note",
    "beyond-scan": "note",
    "point-outside": "refused",
}
"""Severity by code. ``refused``: no volume. ``repaired``: a volume, changed. ``note``: a volume as it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing noticed about a scan.

    Attributes:
        code: The kind, a key of ``POLICY``.
        severity: What was done about it.
        message: A sentence with the numbers in it.
        where: A file's name, a position or a series; empty if it concerns the whole scan.
    """

    code: str
    severity: Severity
    message: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.code} ({self.severity}): {self.message}" + (f" [{self.where}]" if self.where else "")


def find(code: str, message: str, where: str = "") -> Finding:
    """A finding with the severity that the policy table gives its code."""
    return Finding(code=code, severity=POLICY[code], message=message, where=where)


def refusals(findings: Iterable[Finding]) -> list[Finding]:
    """Those findings that forbid the use of the scan."""
    return [finding for finding in findings if finding.severity == "refused"]


def as_records(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Findings as plain dictionaries, for JSON."""
    return [asdict(finding) for finding in findings]
