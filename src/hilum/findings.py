"""Findings about a scan, and the policy table that gives each code its severity."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from hilum.errors import ConfigError

Severity = Literal["note", "repaired", "refused"]
PolicyName = Literal["strict", "standard", "lenient"]

_R: Severity = "refused"
_P: Severity = "repaired"
_N: Severity = "note"

POLICY: dict[str, tuple[Severity, Severity, Severity]] = {
    # code                 strict standard lenient
    # reading: what the files are
    "not-an-image": (_R, _R, _R),
    "unreadable-file": (_R, _R, _R),
    "missing-file": (_R, _N, _N),
    "unsafe-archive": (_R, _R, _R),
    "too-large": (_R, _R, _R),
    "truncated-file": (_R, _R, _P),
    "wrong-modality": (_R, _R, _R),
    "localizer": (_R, _R, _R),
    "secondary-capture": (_R, _R, _R),
    "derived-image": (_R, _R, _R),
    "processed-image": (_N, _N, _N),
    "mixed-series": (_N, _N, _N),
    "lossy-compression": (_R, _N, _N),
    # reading: geometry
    "single-slice": (_R, _R, _R),
    "few-slices": (_R, _N, _N),
    "missing-slices": (_R, _P, _P),
    "irregular-spacing": (_R, _P, _P),
    "duplicate-slices": (_R, _P, _P),
    "time-series": (_R, _R, _R),
    "interleaved-series": (_R, _R, _N),
    "mixed-orientation": (_R, _N, _N),
    "mixed-shape": (_R, _R, _R),
    "gantry-tilt": (_R, _P, _P),
    "oblique": (_N, _N, _N),
    "geometry-missing": (_R, _R, _N),
    "position-missing": (_R, _N, _N),
    "geometry-unclear": (_R, _N, _N),
    "anisotropic": (_N, _N, _N),
    "slice-gap": (_R, _R, _N),
    "overlapping-slices": (_N, _N, _N),
    "thickness-differs": (_R, _N, _N),
    # reading: intensities
    "rescale-missing": (_R, _N, _N),
    "mixed-rescale": (_N, _N, _N),
    "hu-implausible": (_R, _R, _N),
    "no-air": (_R, _N, _N),
    "padding": (_P, _P, _P),
    "air-noise": (_N, _N, _N),
    "clipped": (_P, _P, _P),
    # preparing
    "no-lungs": (_R, _R, _R),
    "lungs-cut": (_N, _N, _N),
    "lungs-volume": (_N, _N, _N),
    "lungs-uneven": (_N, _N, _N),
    "lungs-parts": (_N, _N, _N),
    "lungs-share": (_N, _N, _N),
    "lungs-dense": (_N, _N, _N),
    "lungs-bright": (_N, _N, _N),
    "beyond-grid": (_N, _N, _N),
    "beyond-scan": (_N, _N, _N),
    "point-outside": (_R, _R, _R),
    "point-interpolated": (_N, _N, _N),
    # deciding: what training has not seen; decision.gate says whether there is a decision
    "unseen-spacing": (_N, _N, _N),
    "unseen-thickness": (_N, _N, _N),
    "unseen-kernel": (_N, _N, _N),
    "unseen-coverage": (_N, _N, _N),
    "unseen-lungs": (_N, _N, _N),
    "unseen-hu": (_N, _N, _N),
    "unseen-orientation": (_N, _N, _N),
    "unseen-features": (_N, _N, _N),
}
"""Severity by code and policy. ``refused``: no volume. ``repaired``: a changed volume. ``note``: unchanged."""

_NO_VOLUME = frozenset(
    [
        "not-an-image", "unreadable-file", "unsafe-archive", "too-large", "localizer", "single-slice", "time-series",
        "mixed-shape", "no-lungs", "point-outside",
    ]
)  # fmt: skip
"""Codes that are always refused, for no volume or sample can be made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One observation about a scan that the user should know.

    Attributes:
        code: The kind, a key of ``POLICY``.
        severity: Whether the scan was left as it is, repaired or refused.
        message: A sentence with the numbers in it; never a path.
        where: A file name, a position or a series; empty if it concerns the whole scan.
    """

    code: str
    severity: Severity
    message: str
    where: str = ""

    def __str__(self) -> str:
        return f"{self.code} ({self.severity}): {self.message}" + (f" [{self.where}]" if self.where else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """One column of ``POLICY``, with a site's own overrides.

    Attributes:
        name: The column.
        override: Severities that differ from it, as ``code=severity``.

    Raises:
        ConfigError: If a code or severity is unknown, or not allowed for the code.
    """

    name: PolicyName = "standard"
    override: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.name not in get_args(PolicyName):
            msg = f"a policy must be one of {', '.join(get_args(PolicyName))}, got {self.name!r}"
            raise ConfigError(msg)
        codes = [entry.partition("=")[0] for entry in self.override]
        if len(set(codes)) < len(codes):
            msg = f"an override must name each code once, got {', '.join(self.override)}"
            raise ConfigError(msg)
        for entry in self.override:
            code, _, severity = entry.partition("=")
            if code not in POLICY or severity not in get_args(Severity):
                msg = f"an override must be code=note, code=repaired or code=refused with a known code, got {entry!r}"
                raise ConfigError(msg)
            if severity not in _allowed(code):
                msg = f"the severity of {code} must be {' or '.join(_allowed(code))}, got {entry!r}"
                raise ConfigError(msg)

    def severity(self, code: str) -> Severity:
        """The severity that this policy gives a code."""
        for entry in self.override:
            if entry.partition("=")[0] == code:
                severity: Severity = entry.partition("=")[2]  # type: ignore[assignment]  # checked above
                return severity
        return POLICY[code][get_args(PolicyName).index(self.name)]

    def find(self, code: str, message: str, where: str = "", *, repairable: bool = True) -> Finding:
        """Make a finding with the severity of its code; always refused if not ``repairable``."""
        severity = self.severity(code) if repairable else "refused"
        return Finding(code=code, severity=severity, message=message, where=printable(where))


def _allowed(code: str) -> list[str]:
    """Severities that a code can have; a repaired finding changes the scan, so it cannot be a note."""
    if code in _NO_VOLUME:
        return ["refused"]
    return ["repaired" if "repaired" in POLICY[code] else "note", "refused"]


def printable(name: str) -> str:
    """Replace what cannot be printed in a file name by ``?``: line ends, and bytes that are not text."""
    return name if name.isprintable() else "".join(c if c.isprintable() else "?" for c in name)


STANDARD = Policy()
find = STANDARD.find


def refusals(findings: Iterable[Finding]) -> list[Finding]:
    """The findings of severity ``refused``."""
    return [finding for finding in findings if finding.severity == "refused"]


def as_records(findings: Iterable[Finding]) -> list[dict[str, str]]:
    """Findings as plain dictionaries, for JSON."""
    return [asdict(finding) for finding in findings]
