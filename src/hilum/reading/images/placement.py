"""Checks that the header of an image file describes one possible volume, and notes gaps in it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hilum.errors import GeometryError, ReadError
from hilum.findings import printable
from hilum.reading.images.files import unreadable_image
from hilum.volume import Affine

Doubt = tuple[str, str]
"""Code of a finding and its sentence."""

MISSING, UNPLACED, UNCLEAR = "geometry-missing", "position-missing", "geometry-unclear"
LONGEST_AXIS = 65536


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Placement:
    """Position of an image in patient space, and what its header leaves unclear about it.

    Attributes:
        shape: Number of voxels (z, y, x): the header's axes that run through space, the slowest first.
        affine: Index (z, y, x) to LPS mm; a guess where ``doubts`` say so.
        doubts: Gaps and contradictions of the header.
    """

    shape: tuple[int, int, int]
    affine: Affine
    doubts: tuple[Doubt, ...] = ()


def placement(sizes: Sequence[int], steps: np.ndarray, origin_mm: np.ndarray, doubts: Sequence[Doubt]) -> Placement:
    """The placement by a header's three axes, x first; each column of ``steps`` leads one voxel along one of them.

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
        measured = " x ".join(f"{length:.3g}" for length in lengths)
        msg = f"voxels must measure 0.005 to 10000 mm along axes that span a space, measure {measured} mm"
        raise GeometryError(msg)
    if np.abs(affine[:3, 3]).max() > 1e7:
        msg = f"the first voxel must lie within 10 km, lies at {affine[:3, 3].tolist()} mm"
        raise GeometryError(msg)
    return Placement(shape=(z, y, x), affine=affine, doubts=tuple(doubts))


def check_axes(sizes: Sequence[int]) -> None:
    """Make sure that a header's axes can be those of an image.

    Raises:
        ReadError: If there are none, too many, or one that is too long.
    """
    if not sizes or len(sizes) > 16 or min(sizes) < 1 or max(sizes) > LONGEST_AXIS:
        got = " x ".join(short(n) for n in sizes[:16])
        msg = f"each axis must have 1 to {LONGEST_AXIS} voxels, has {got}"
        raise unreadable_image(msg)


def check_channels(number: int | str) -> None:
    """Make sure that voxels are numbers and no vectors.

    Raises:
        ReadError: If they are not.
    """
    if number != 1:
        msg = f"must have one real value in each voxel, has {number}"
        raise ReadError(msg)


def checked_bytes(num_bytes: int, max_bytes: int) -> int:
    """The bytes of the voxels that a header promises.

    Raises:
        ReadError: If they are more than ``max_bytes``.
    """
    if num_bytes > max_bytes:
        msg = f"must have at most {max_bytes / 1e9:g} GB of voxels, has {num_bytes / 1e9:.3g} GB"
        raise ReadError(msg, code="too-large")
    return num_bytes


def truncated(lacks: int, promised: int) -> ReadError:
    """The error of an image file with fewer bytes of voxels than its header promises."""
    return unreadable_image(f"it lacks {lacks} of the {promised} bytes of its voxels", code="truncated-file")


def checked_sizes(sizes: Sequence[int]) -> Sequence[int]:
    """The sizes of the three axes in space, if the further ones are of length 1.

    Raises:
        GeometryError: If they make no volume.
    """
    if len(sizes) < 3 or min(sizes[:3]) < 2 or math.prod(sizes[3:]) != 1:
        several = len(sizes) > 3 and math.prod(sizes[3:]) != 1
        must = "one volume, not several" if several else "a volume of at least 2 slices"
        msg = f"must be {must}, is {' x '.join(map(str, sizes))}"
        raise GeometryError(msg)  # the header gives the spacing: two slices are a crop
    return sizes[:3]


def known_spacing(spacing_mm: np.ndarray, lacks: np.ndarray) -> tuple[np.ndarray, list[Doubt]]:
    """Spacing (x, y, z) with 1 mm where a header gives none, and a doubt about those axes.

    Args:
        spacing_mm: Spacing as the header gives it.
        lacks: True for each axis without a spacing.

    Raises:
        GeometryError: If a given spacing is not positive and finite.
    """
    if not np.all(lacks | ((spacing_mm > 0) & np.isfinite(spacing_mm))):
        got = " x ".join(f"{length:g}" for length in spacing_mm.tolist())
        msg = f"the spacing must be positive and finite, is {got} mm (x, y, z)"
        raise GeometryError(msg)
    if not lacks.any():
        return spacing_mm, []
    along = " and ".join(axis for axis, is_missing in zip("xyz", lacks, strict=True) if is_missing)
    message = f"the header does not give the spacing along {along}: 1 mm would be a guess"
    return np.where(lacks, 1.0, spacing_mm), [(MISSING, message)]


def short(value: object) -> str:
    """A value from a file, short and on one line."""
    text = printable(str(value))
    return text if len(text) <= 40 else text[:37] + "..."
