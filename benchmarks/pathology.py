"""Places particular lesions on request: a pleural nodule, a lobar consolidation, diffuse disease."""

from dataclasses import replace
from typing import Literal, TypeAlias

import numpy as np

from hilum.errors import ConfigError
from hilum.simulating.anatomy import Anatomy, cavity_distance, diaphragm_height
from hilum.simulating.lesions import Lesion, lesion_distance, sample_lesion
from hilum.simulating.pleura import aerated_distance

Surface: TypeAlias = Literal["costal", "diaphragmatic", "mediastinal"]

_ON_PLEURA = (0.6, 0.95)
"""Share of a pleural nodule that lies inside the lung (rule of thumb)."""
_LOBE = (0.25, 0.40)
"""Share of a lung that a lobar consolidation may fill (rule of thumb)."""
_STEP_MM = 6.0
"""Grid on which volumes are measured."""


def pleural_nodule(anatomy: Anatomy, diameter_mm: float, surface: Surface, *, rng: np.random.Generator) -> Lesion:
    """A solid nodule on a part of the pleura, mostly inside the lung.

    Raises:
        ConfigError: If no position fits.
    """
    nodule = Lesion(
        kind="solid nodule",
        centre_mm=(0.0, 0.0, 0.0),
        diameter_mm=diameter_mm,
        hu=rng.uniform(20, 60),
        seed=int(rng.integers(2**31)),
    )
    width, depth = anatomy.cavity_mm
    box = rng.random((40_000, 3)) * [2 * width, 2 * depth, anatomy.height_mm]
    x, y, z = (box - [width, depth - anatomy.cavity_y_mm, 0]).T
    inside = -aerated_distance(anatomy, z, y, x)
    ribs, below = -cavity_distance(anatomy, z, y, x), 0.8 * (z - diaphragm_height(anatomy, y, x))
    nearest = {
        "costal": np.isclose(inside, ribs) & (z < 0.85 * anatomy.height_mm),
        "diaphragmatic": np.isclose(inside, below) & (z > 5),
        "mediastinal": (inside < ribs - 8) & (inside < below - 8),
    }[surface]
    for n in np.flatnonzero(nearest & (inside > 0) & (inside < 0.4 * diameter_mm)):
        placed = replace(nodule, centre_mm=(float(x[n]), float(y[n]), float(z[n])))
        if _ON_PLEURA[0] <= _share_in_lung(anatomy, placed) <= _ON_PLEURA[1]:
            return placed
    msg = f"a nodule of {diameter_mm:g} mm must fit on the {surface} pleura, found no place"
    raise ConfigError(msg)


def lobar_consolidation(
    anatomy: Anatomy, side: Literal["right", "left"], share: float, *, rng: np.random.Generator
) -> Lesion:
    """A consolidation of a share of one lung, from the posterior costal and the diaphragmatic pleura inwards.

    Raises:
        ConfigError: If the share is not between 0.25 and 0.4.
    """
    if not _LOBE[0] <= share <= _LOBE[1]:
        msg = f"share of a lung must be {_LOBE[0]} to {_LOBE[1]}, got {share}"
        raise ConfigError(msg)
    width, depth = anatomy.cavity_mm
    sign = -1 if side == "right" else 1
    lesion = Lesion(
        kind="consolidation",
        centre_mm=(sign * 0.74 * width, anatomy.cavity_y_mm + 0.55 * depth, 0.3 * anatomy.height_mm),
        diameter_mm=60.0,
        hu=rng.uniform(10, 45),
        axes=(0.72, 1.1, 1.26),
        seed=int(rng.integers(2**31)),
    )
    grid = _grid(anatomy)
    lung = (aerated_distance(anatomy, *grid) < 0) & (sign * (grid[2] - anatomy.shift_mm) > 0)
    low, high = 60.0, 200.0
    for _ in range(9):
        lesion = replace(lesion, diameter_mm=0.5 * (low + high))
        filled = np.count_nonzero(lung & (lesion_distance(lesion, *grid) < 0)) / np.count_nonzero(lung)
        low, high = (lesion.diameter_mm, high) if filled < share else (low, lesion.diameter_mm)
    return lesion


def diffuse_disease(
    anatomy: Anatomy, kind: Literal["emphysema", "ground-glass opacity"], *, number: int, rng: np.random.Generator
) -> tuple[Lesion, ...]:
    """Emphysema or ground glass in large parts of both lungs: ``number`` patches of 70 to 120 mm."""
    return tuple(
        replace(sample_lesion(anatomy, kind, rng=rng), diameter_mm=rng.uniform(70, 120)) for _ in range(number)
    )


def _share_in_lung(anatomy: Anatomy, lesion: Lesion) -> float:
    reach = lesion.reach_mm
    x, y, z = (np.linspace(c - reach, c + reach, 25).astype(np.float32) for c in lesion.centre_mm)
    grid = z[:, None, None], y[:, None], x
    whole = lesion_distance(lesion, *grid) < 0
    return float(np.count_nonzero(whole & (aerated_distance(anatomy, *grid) < 0)) / np.count_nonzero(whole))


def _grid(anatomy: Anatomy) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    width, depth = anatomy.cavity_mm
    z = np.arange(0, anatomy.height_mm, _STEP_MM).astype(np.float32)[:, None, None]
    y = np.arange(-1.15 * depth, depth, _STEP_MM).astype(np.float32)[:, None]
    return z, y, np.arange(-width, width + 1, _STEP_MM).astype(np.float32)
