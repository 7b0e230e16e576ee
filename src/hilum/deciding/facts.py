"""Facts of a scan by which it can be told from those of training: its acquisition, its lungs, and the HU seen."""

from dataclasses import dataclass

import numpy as np

from hilum.reading.select import is_sharp
from hilum.settings.recipe import Recipe
from hilum.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """A number that a scan has.

    Attributes:
        code: Code of the finding where it lies outside of what training saw.
        words: Its name in a sentence.
        unit: Its unit.
        least: Smallest margin around the range of training, in the unit (rule of thumb).
        share: Smallest margin as a share of the value (rule of thumb).
        has_sign: Whether its sign tells more than its size: where all of training have one sign, the range keeps it.
    """

    code: str
    words: str
    unit: str
    least: float = 0.0
    share: float = 0.0
    has_sign: bool = False


FACTS: dict[str, Fact] = {
    "slice_mm": Fact(code="unseen-spacing", words="the distance of slices", unit="mm", share=0.1),
    "pixel_mm": Fact(code="unseen-spacing", words="the size of pixels", unit="mm", share=0.1),
    "thickness_mm": Fact(code="unseen-thickness", words="the thickness of slices", unit="mm", share=0.1),
    "coverage_mm": Fact(code="unseen-coverage", words="the height of the scan", unit="mm", least=20.0),
    "lungs_litres": Fact(code="unseen-lungs", words="the volume of the lungs", unit="litres", least=0.2),
    "low_hu": Fact(code="unseen-hu", words="the 5th percentile of HU", unit="HU", least=30.0),
    "middle_hu": Fact(code="unseen-hu", words="the median of HU", unit="HU", least=30.0),
    "high_hu": Fact(code="unseen-hu", words="the 95th percentile of HU", unit="HU", least=30.0),
    "downward_hu": Fact(code="unseen-orientation", words="the excess of HU in the lower half", unit="HU", least=30.0),
    "backward_hu": Fact(code="unseen-orientation", words="the excess of HU in the back half", unit="HU", least=30.0),
    "recess_share": Fact(
        code="unseen-orientation", words="the excess of lung at the lower back", unit="", least=0.004, has_sign=True
    ),
}

_LUNG_HU = (-950, -500)
"""HU of aerated lung (rule of thumb)."""


def facts_of(sample: Volume, recipe: Recipe) -> dict[str, float]:
    """Facts of a prepared sample and the scan that it comes from, as far as they are known.

    A prepared volume tells nothing of its scan. Of region ``point`` only what is around the point matters, and not how
    much of the patient was scanned.
    """
    hu = sample.voxels_hu
    low, middle, high = np.percentile(hu[::2, ::2, ::2], [5, 50, 95])
    z, y = hu.mean(axis=(1, 2), dtype=np.float64), hu.mean(axis=(0, 2), dtype=np.float64)
    facts = {"low_hu": low, "middle_hu": middle, "high_hu": high}
    if recipe.region != "point":
        facts |= {"downward_hu": _halves(z[::-1]), "backward_hu": _halves(y), "recess_share": _recess(hu)}
    source = sample.source
    if source is not None and (source.shape, source.spacing_mm) != (sample.shape, sample.spacing_mm):
        facts |= {"slice_mm": source.spacing_mm[0], "pixel_mm": max(source.spacing_mm[1:])}
        if recipe.region != "point":
            facts["coverage_mm"] = source.extent_mm[0]
        if source.lungs_litres is not None and recipe.part is not None:
            facts["lungs_litres"] = source.lungs_litres
    if sample.tags.thickness_mm is not None:
        facts["thickness_mm"] = sample.tags.thickness_mm
    return {name: float(value) for name, value in facts.items()}


def kernel_of(sample: Volume) -> str:
    """``sharp`` or ``soft``; empty where the kernel is unknown."""
    kernel = sample.tags.kernel
    return "" if not kernel else "sharp" if is_sharp(kernel) else "soft"


def _recess(hu: np.ndarray) -> float:
    """How much more lung lies behind than in front in the lowest third, less the same in the uppermost third.

    The lungs reach lowest behind the diaphragm, and the heart lies in front: of a scan upside down it is negative.
    """
    third, half = max(1, hu.shape[0] // 3), hu.shape[1] // 2
    low, high = _LUNG_HU
    lung = (hu > low) & (hu < high)
    if not half:
        return 0.0
    behind = [float(part[:, half:].mean() - part[:, :half].mean()) for part in (lung[:third], lung[-third:])]
    return behind[0] - behind[1]


def _halves(means: np.ndarray) -> float:
    """Mean of the second half of the planes less that of the first."""
    half = len(means) // 2
    return float(means[len(means) - half :].mean() - means[:half].mean()) if half else 0.0
