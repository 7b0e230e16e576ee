"""Examines what lies under a path, series by series, without stopping at a bad one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hilum.errors import HilumError, ReadError
from hilum.findings import Finding, as_records, find, refusals
from hilum.reading.dicom import Series, find_series, without_duplicates
from hilum.reading.headers import is_dicom
from hilum.reading.images import image_suffix, read_image
from hilum.reading.paths import source_files
from hilum.volume import Volume

Verdict = Literal["ok", "repaired", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """One series or image file as it was found.

    Attributes:
        where: Path relative to the one examined.
        series: Hash of the series; empty for image files.
        modality: DICOM Modality.
        num_slices: Slices, duplicates counted.
        size: Rows and columns.
        spacing_mm: (z, y, x); None where there is no regular grid.
        thickness_mm: SliceThickness.
        kernel: ConvolutionKernel.
        findings: All that was noticed.
    """

    where: str
    series: str = ""
    modality: str = ""
    num_slices: int = 0
    size: tuple[int, int] = (0, 0)
    spacing_mm: tuple[float, float, float] | None = None
    thickness_mm: float | None = None
    kernel: str = ""
    findings: tuple[Finding, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """``refused`` if a finding refuses it, ``repaired`` if one repaired it, else ``ok``."""
        if refusals(self.findings):
            return "refused"
        return "repaired" if any(f.severity == "repaired" for f in self.findings) else "ok"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "where": self.where,
            "series": self.series,
            "modality": self.modality,
            "num_slices": self.num_slices,
            "size": list(self.size),
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
            "thickness_mm": self.thickness_mm,
            "kernel": self.kernel,
            "verdict": self.verdict,
            "findings": as_records(self.findings),
        }


def examine(path: Path) -> tuple[list[Examined], list[Finding]]:
    """Every series and image file below a path, and the findings that concern none of them.

    Raises:
        ReadError: If there is no such path.
    """
    if not path.exists():
        msg = f"no file or folder {path}"
        raise ReadError(msg)
    files = source_files(path)
    root = path if path.is_dir() else path.parent
    series, loose = find_series(files)
    found = [_from_series(one, root) for one in series]
    found += [_from_image(file, root) for file in files if image_suffix(file) and not is_dicom(file)]
    if len(found) > 1:
        loose.append(find("mixed-series", f"{len(found)} series or image files under one path"))
    return sorted(found, key=lambda one: (one.where, one.series)), loose


def _from_series(series: Series, root: Path) -> Examined:
    spacing = None
    if series.stack.affine is not None:
        z, y, x = (round(float(s), 6) for s in np.linalg.norm(series.stack.affine[:3, :3], axis=0))
        spacing = (z, y, x)
    findings = series.findings
    if any(series.stack.repeated) and not refusals(findings):
        findings = (*findings, *without_duplicates(series)[1])
    first = series.frames[0]
    where = first.path.parent if len({f.path for f in series.frames}) > 1 else first.path
    return Examined(
        where=str(where.relative_to(root)),
        series=series.tags.series,
        modality=series.tags.modality,
        num_slices=len(series.frames),
        size=first.shape,
        spacing_mm=spacing,
        thickness_mm=series.tags.thickness_mm,
        kernel=series.tags.kernel,
        findings=findings,
    )


def _from_image(file: Path, root: Path) -> Examined:
    where = str(file.relative_to(root))
    try:
        volume: Volume = read_image(file)
    except HilumError as exc:
        return Examined(where=where, findings=(find("unreadable-file", str(exc), where),))
    z, y, x = volume.shape
    return Examined(where=where, num_slices=z, size=(y, x), spacing_mm=volume.spacing_mm, findings=volume.findings)
