"""Where the header of an image file says that its voxels lie, and what it does not say: the same for all formats."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hilum.errors import GeometryError
from hilum.volume import Affine

Doubt = tuple[str, str]
"""Code of a finding and its sentence."""

MISSING, UNPLACED, UNCLEAR = "geometry-missing", "position-missing", "geometry-unclear"

MM_PER_UNIT = {
    **dict.fromkeys(["", "?", "???", "none", "unknown"], 1.0),  # mm, as everybody takes it
    **dict.fromkeys(["mm", "millimeter", "millimeters", "millimetre", "millimetres"], 1.0),
    **dict.fromkeys(["cm", "centimeter", "centimeters", "centimetre", "centimetres"], 10.0),
    **dict.fromkeys(["m", "meter", "meters", "metre", "metres"], 1000.0),
    **dict.fromkeys(["um", "micrometer", "micrometers", "micrometre", "micrometres", "micron", "microns"], 1e-3),
    **dict.fromkeys(["\u00b5m", "\u03bcm", "\udcb5m"], 1e-3),  # the micro sign, the Greek letter, the sign in Latin-1
}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """Where an image lies.

    Attributes:
        shape: Number of voxels (z, y, x): the header's axes that run through space, the slowest first.
        affine: Index (z, y, x) to LPS mm; a guess where ``doubts`` say so.
        doubts: What the header does not say, or says in two ways.
    """

    shape: tuple[int, int, int]
    affine: Affine
    doubts: tuple[Doubt, ...] = ()


def placement(
    name: str, sizes: Sequence[int], steps: np.ndarray, origin_mm: np.ndarray, doubts: Sequence[Doubt]
) -> Placement:
    """A placement from a header's three axes, x first; each column of ``steps`` leads one voxel along one of them.

    Raises:
        GeometryError: If the sizes make no volume, or the axes none that can be.
    """
    x, y, z = sizes
    affine = np.eye(4)
    affine[:3, :3] = steps[:, ::-1]
    affine[:3, 3] = origin_mm
    with np.errstate(all="ignore"):
        lengths = np.linalg.norm(affine[:3, :3], axis=0)
        filled = abs(np.linalg.det(affine[:3, :3] / lengths))  # 1 where axes are at right angles, 0 where they lie flat
    if not (np.isfinite(affine).all() and filled > 1e-2 and lengths.min() > 5e-3 and lengths.max() < 1e4):
        shown = " x ".join(f"{length:.3g}" for length in lengths)
        msg = f"{name}: voxels must measure 0.005 to 10000 mm along axes that span a space, measure {shown} mm"
        raise GeometryError(msg)
    if np.abs(affine[:3, 3]).max() > 1e7:
        msg = f"{name}: the first voxel must lie within 10 km, lies at {affine[:3, 3].tolist()} mm"
        raise GeometryError(msg)
    return Placement(shape=(z, y, x), affine=affine, doubts=tuple(doubts))


def checked_sizes(name: str, sizes: Sequence[int]) -> Sequence[int]:
    """The sizes of the three axes in space, if the further ones are of length 1.

    Raises:
        GeometryError: If they make no volume.
    """
    if len(sizes) < 3 or min(sizes[:3]) < 2 or math.prod(sizes[3:]) != 1:
        several = len(sizes) > 3 and math.prod(sizes[3:]) != 1
        must = "one volume, not several" if several else "a volume of at least 2 slices"
        msg = f"{name} must be {must}, is {' x '.join(map(str, sizes))}"
        raise GeometryError(msg)  # the header gives the spacing: two slices are a crop
    return sizes[:3]


def known_spacing(name: str, spacing_mm: np.ndarray) -> tuple[np.ndarray, list[Doubt]]:
    """Spacing (x, y, z) with 1 mm where a header gives none (not a number, or 0), and the doubt that this leaves.

    Raises:
        GeometryError: If one is no length.
    """
    if (spacing_mm < 0).any() or np.isinf(spacing_mm).any():
        shown = " x ".join(f"{length:g}" for length in spacing_mm.tolist())
        msg = f"{name}: the spacing must be positive and finite, is {shown} mm (x, y, z)"
        raise GeometryError(msg)
    lacks = np.isnan(spacing_mm) | (spacing_mm == 0)
    if not lacks.any():
        return spacing_mm, []
    along = " and ".join(axis for axis, is_missing in zip("xyz", lacks, strict=True) if is_missing)
    message = f"the header does not give the spacing along {along}: 1 mm would be a guess"
    return np.where(lacks, 1.0, spacing_mm), [(MISSING, message)]


def mm_per(name: str, unit: str) -> float:
    """Millimetres in a unit as headers write it; a unit that is not named is taken as mm.

    Raises:
        GeometryError: If it is no length that is known.
    """
    factor = MM_PER_UNIT.get(unit.strip().lower())
    if factor is None:
        msg = f"{name} must be measured in mm, cm, m or um, says another unit"
        raise GeometryError(msg)
    return factor
