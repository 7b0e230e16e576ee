"""Where the text headers of NRRD and MetaImage say that voxels lie.

The formats are defined at https://teem.sourceforge.net/nrrd/format.html and https://docs.itk.org/en/latest/learn/metaio.html.
"""

import re
from typing import Any

import numpy as np

from hilum.errors import GeometryError, ReadError
from hilum.reading.images.placement import (
    UNCLEAR,
    UNPLACED,
    Doubt,
    Placement,
    checked_sizes,
    known_spacing,
    mm_per,
    placement,
)
from hilum.reading.images.voxel_file import shown

_TO_LPS = {
    **dict.fromkeys(["lps", "left-posterior-superior"], (1.0, 1.0, 1.0)),
    **dict.fromkeys(["ras", "right-anterior-superior"], (-1.0, -1.0, 1.0)),
    **dict.fromkeys(["las", "left-anterior-superior"], (1.0, -1.0, 1.0)),
}
"""Signs that make a patient's axes LPS, by the name of an NRRD's space."""

_OTHER_SPACES = {"scanner-xyz", "3d-right-handed", "3d-left-handed"}
_IN_SPACE = {"domain", "space", "???", "none", ""}
_NO_SIDES = "left and right, and points in mm, cannot be trusted"
_NO_POINTS = "points in mm cannot be trusted"
_NOT_GIVEN = np.full(3, np.nan)


def nrrd_placement(name: str, fields: dict[str, str], sizes: list[int]) -> Placement:
    """Where the voxels of an NRRD file lie.

    Raises:
        ReadError: If the header contradicts itself.
        GeometryError: If it is no volume, or not measured in a unit that is known.
    """
    num_axes = len(sizes)
    signs, dims, doubts = _space(name, fields)
    directions = _directions(name, fields, num_axes, dims)
    kinds = [kind.lower() for kind in fields.get("kinds", "").split()] or [""] * num_axes
    _same_length(name, "kinds", kinds, num_axes)
    axes = _axes_in_space(name, sizes, kinds, directions)
    if directions is None:
        per_axis = _spacings_mm(name, fields, num_axes)[axes]
        steps = np.eye(3)
        doubts = [(UNPLACED, f"the header gives no directions (space directions): {_NO_SIDES}")]
    else:
        _no_spacing_beside(name, fields, directions)
        world_mm = _world_mm(name, fields, dims) * signs
        vectors = np.array([d[:3] for d in (directions[axis] for axis in axes) if d is not None]).T * world_mm[:, None]
        per_axis = np.linalg.norm(vectors, axis=0)  # not a number, or 0, where no direction is given
        with np.errstate(all="ignore"):
            steps = vectors / per_axis
        if not np.isfinite(steps).all():
            steps = np.eye(3)
    spacing_mm, lacks = known_spacing(name, per_axis)
    origin_mm = _NOT_GIVEN
    if "spaceorigin" in fields:
        (origin,) = _vectors(name, "space origin", fields["spaceorigin"], 1, dims)
        origin_mm = _NOT_GIVEN if origin is None else origin[:3] * _world_mm(name, fields, dims) * signs
    if np.isnan(origin_mm).any():
        doubts.append((UNPLACED, f"the header gives no origin (space origin): {_NO_POINTS}"))
        origin_mm = np.zeros(3)
    return placement(name, [sizes[a] for a in axes], steps * spacing_mm, origin_mm, [*lacks, *doubts])


def meta_placement(name: str, fields: dict[str, str], sizes: list[int]) -> Placement:
    """Where the voxels of a MetaImage file lie. ElementSize is the extent of a voxel, not the distance to the next.

    Raises:
        ReadError: If the header contradicts itself.
        GeometryError: If it is no volume, or not measured in a unit that is known.
    """
    num_axes = len(sizes)
    in_space = checked_sizes(name, sizes)
    unit_mm = mm_per(name, fields.get("distanceunits", ""))
    spacing = _numbers(name, fields, ("ElementSpacing",), num_axes)
    spacing_mm, doubts = known_spacing(name, _NOT_GIVEN if spacing is None else spacing[:3] * unit_mm)
    matrix = _numbers(name, fields, ("TransformMatrix", "Rotation", "Orientation"), num_axes**2)
    if matrix is None or np.isnan(matrix).any():
        directions = np.eye(3)
        doubts.append((UNPLACED, f"the header gives no directions (TransformMatrix): {_NO_SIDES}"))
    else:
        directions = matrix.reshape(num_axes, num_axes)[:3, :3].T  # each row of the file is the direction of an axis
        if not np.abs(np.linalg.norm(directions, axis=0) - 1).max() <= 1e-3:
            msg = f"{name} must have a TransformMatrix of unit vectors"
            raise GeometryError(msg)
        centre = _numbers(name, fields, ("CenterOfRotation",), num_axes)
        if centre is not None and centre.any() and not np.array_equal(directions, np.eye(3)):
            message = (
                "the header has a CenterOfRotation beside a TransformMatrix; Offset is taken as the first voxel's place"
            )
            doubts.append((UNCLEAR, message))
    origin = _numbers(name, fields, ("Offset", "Position", "Origin"), num_axes)
    if origin is None or np.isnan(origin).any():
        origin = np.zeros(3)
        doubts.append((UNPLACED, f"the header gives no origin (Offset): {_NO_POINTS}"))
    return placement(name, in_space, directions * spacing_mm, origin[:3] * unit_mm, doubts)


def _space(name: str, fields: dict[str, str]) -> tuple[np.ndarray, int, list[Doubt]]:
    """Signs that make the space's axes LPS, how many axes it has, and whether they are the patient's."""
    if "space" in fields and "spacedimension" in fields:
        raise _contradiction(name, "space and space dimension")
    if "space" not in fields and "spacedimension" not in fields:
        if "spacedirections" in fields or "spaceorigin" in fields:
            msg = f"{name} cannot be read: its header has directions or an origin, but no space"
            raise ReadError(msg)
        return np.ones(3), 3, []
    doubt = (UNPLACED, f"the header does not name the patient's axes (space): {_NO_SIDES}")
    if "spacedimension" in fields:
        dims = _float(name, "space dimension", fields["spacedimension"])
        signs = None
    else:
        space = fields["space"].lower()
        spatial = space.removesuffix("-time")
        if space in {"lpst", "rast", "last"}:
            spatial = space[:3]
        dims = 3 if spatial == space else 4
        signs = _TO_LPS.get(spatial)
        if signs is None and spatial not in _OTHER_SPACES:
            msg = f"{name} cannot be read: the space of an NRRD file must be one that its format knows"
            raise ReadError(msg)
    if dims not in {3, 4}:
        msg = f"{name} must lie in a space of 3 axes, is in one of {shown(dims)}"
        raise GeometryError(msg)
    return np.array(signs or (1.0, 1.0, 1.0)), int(dims), [] if signs else [doubt]


def _axes_in_space(
    name: str, sizes: list[int], kinds: list[str], directions: list[np.ndarray | None] | None
) -> list[int]:
    """The three axes that run through space; the others must be of length 1."""
    axes = [
        a for a, kind in enumerate(kinds) if kind in _IN_SPACE and (directions is None or directions[a] is not None)
    ]
    if len(axes) > 3:
        axes = [a for a in axes if sizes[a] > 1]
    for axis, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        if axis not in axes and size > 1 and kind != "time":
            msg = f"{name} must have one real value in each voxel, has {'complex ones' if kind == 'complex' else size}"
            raise GeometryError(msg)
    checked_sizes(name, [*(sizes[a] for a in axes), *(n for a, n in enumerate(sizes) if a not in axes)])
    return axes


def _spacings_mm(name: str, fields: dict[str, str], num_axes: int) -> np.ndarray:
    """Distances between samples along the header's axes; not a number where there is none."""
    values = _numbers(name, fields, ("spacings",), num_axes)
    if values is None:
        return np.full(num_axes, np.nan)
    units = _quoted(name, fields, "units", num_axes)
    given = zip(values, units, strict=True)
    return np.array([value if np.isnan(value) else value * mm_per(name, unit) for value, unit in given])


def _no_spacing_beside(name: str, fields: dict[str, str], directions: list[np.ndarray | None]) -> None:
    """An axis with a direction has its spacing and unit from there; the format allows no others."""
    for key in ("spacings", "axismins", "axismaxs"):
        values = _numbers(name, fields, (key,), len(directions))
        if values is not None and any(
            d is not None and not np.isnan(v) for d, v in zip(directions, values, strict=True)
        ):
            raise _contradiction(name, f"{key} and space directions")
    units = _quoted(name, fields, "units", len(directions))
    if any(d is not None and unit for d, unit in zip(directions, units, strict=True)):
        raise _contradiction(name, "units and space directions")


def _world_mm(name: str, fields: dict[str, str], dims: int) -> np.ndarray:
    """Millimetres in a unit of each of the world's axes."""
    return np.array([mm_per(name, unit) for unit in _quoted(name, fields, "space units", dims)[:3]])


def _quoted(name: str, fields: dict[str, str], what: str, count: int) -> list[str]:
    """Texts in quotation marks, one for each axis; empty ones where the header has none."""
    key = what.replace(" ", "")
    if key not in fields:
        return [""] * count
    found = re.findall(r'"([^"]*)"|(\S+)', fields[key])
    return _same_length(name, what, [quoted or bare for quoted, bare in found], count)


def _directions(name: str, fields: dict[str, str], count: int, dims: int) -> list[np.ndarray | None] | None:
    if "spacedirections" not in fields:
        return None
    return _vectors(name, "space directions", fields["spacedirections"], count, dims)


def _vectors(name: str, what: str, text: str, count: int, dims: int) -> list[np.ndarray | None]:
    """Vectors as ``(x,y,z)``, or None for ``none``."""
    vectors: list[np.ndarray | None] = []
    for word in _same_length(name, what, re.findall(r"\([^()]*\)|[^\s()]+", text), count):
        if word == "none":
            vectors.append(None)
        else:
            values = [_float(name, what, part) for part in word.strip("()").split(",")]
            vectors.append(np.array(_same_length(name, what, values, dims)))
    return vectors


def _numbers(name: str, fields: dict[str, str], names: tuple[str, ...], count: int) -> np.ndarray | None:
    """The numbers of a field, which may have several names; None where the header has none of them."""
    given = [key for key in names if key.lower() in fields]
    if not given:
        return None
    values = [
        np.array(_same_length(name, key, [_float(name, key, word) for word in fields[key.lower()].split()], count))
        for key in given
    ]
    if any(not np.array_equal(values[0], other, equal_nan=True) for other in values[1:]):
        raise _contradiction(name, " and ".join(given))
    return values[0]


def _float(name: str, what: str, word: str) -> float:
    try:
        return float(word.replace("_", "?"))  # 1_0 is a number for Python alone
    except ValueError as exc:
        msg = f"{name} cannot be read: its header must have numbers as {what}"
        raise ReadError(msg) from exc


def _same_length(name: str, what: str, values: list[Any], count: int) -> list[Any]:
    if len(values) != count:
        msg = f"{name} cannot be read: its header must have {count} values as {what}, has {len(values)}"
        raise ReadError(msg)
    return values


def _contradiction(name: str, what: str) -> ReadError:
    return ReadError(f"{name} cannot be read: its header contradicts itself in {what}")
