"""Measures a cohort: the grids of its scans, and the sizes of lungs and targets."""

import logging
import statistics
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hilum.cohorts.table import Case, Cohort
from hilum.errors import CohortError, HilumError
from hilum.preparing import locate_lungs
from hilum.randomness import generator
from hilum.reading.reader import read
from hilum.settings.recipe import LungPart
from hilum.settings.run import ReadingConfig

_log = logging.getLogger("hilum")

_LOOKED_AT = 12
"""Scans that are read for a plan: the sizes of chests vary little, so that a dozen describes a cohort."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """Measurements of a cohort that settings are planned from.

    Attributes:
        num_cases: All cases.
        spacing_mm: Median spacing (z, y, x) of the scans that were read; None for .npy volumes.
        extents_mm: Extent (z, y, x) of each scan that was read.
        lungs_mm: Extent (z, y, x) of the box of the lungs, or of a part of them, in each; empty if not segmented.
        npy_size: Shape of the .npy volumes, if the cohort has those.
        target_mm: Median of the table's column ``diameter_mm``, if it has one.
    """

    num_cases: int
    spacing_mm: tuple[float, float, float] | None
    extents_mm: Float[np.ndarray, "n 3"]
    lungs_mm: Float[np.ndarray, "m 3"]
    npy_size: tuple[int, int, int] | None
    target_mm: float | None


def fingerprint(cohort: Cohort, part: LungPart | None, reading: ReadingConfig | None = None) -> Fingerprint:
    """Measure the table, and a dozen of its scans drawn with a fixed seed.

    Args:
        cohort: The cases.
        part: The part of the lungs that is measured; None: no segmentation.
        reading: Handling of irregular scans.

    Raises:
        CohortError: If none of the drawn scans can be read.
    """
    npy = [case for case in cohort.cases if case.path.suffix.lower() == ".npy"]
    spacings, extents, lungs = [], [], []
    problem = ""
    if not npy:
        chosen = generator(0, "fingerprint").permutation(len(cohort.cases))[:_LOOKED_AT]
        for case in (cohort.cases[i] for i in sorted(chosen)):
            try:
                volume = read(case.path, series=case.series or None, reading=reading)
            except HilumError as exc:
                problem = str(exc)
                continue
            spacings.append(volume.spacing_mm)
            extents.append((np.abs(volume.affine[:3, :3]) @ volume.shape)[::-1])
            box = locate_lungs(volume).box_mm(part) if part is not None else None
            if box is not None:
                lungs.append((box[1] - box[0])[::-1])
        if not extents:
            msg = f"none of the {len(chosen)} scans looked at can be read; the last: {problem}"
            raise CohortError(msg, path=cohort.source)
    z, y, x = np.median(spacings, axis=0).tolist() if spacings else (0.0, 0.0, 0.0)
    return Fingerprint(
        num_cases=len(cohort.cases),
        spacing_mm=(z, y, x) if spacings else None,
        extents_mm=np.array(extents, float).reshape(-1, 3),
        lungs_mm=np.array(lungs, float).reshape(-1, 3),
        npy_size=_npy_size(npy[0]) if npy else None,
        target_mm=_target(cohort.cases),
    )


def _npy_size(case: Case) -> tuple[int, int, int]:
    try:
        shape = np.load(case.path, mmap_mode="r", allow_pickle=False).shape
        z, y, x = shape
    except (OSError, ValueError) as exc:
        msg = f"row {case.row}: {case.path} is not a plain .npy volume (z, y, x)"
        raise CohortError(msg) from exc
    return z, y, x


def _target(cases: tuple[Case, ...]) -> float | None:
    sizes = []
    for case in cases:
        try:
            sizes.append(float(case.groups.get("diameter_mm", "")))
        except ValueError:
            continue
    return statistics.median(sizes) if sizes else None
