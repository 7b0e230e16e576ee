"""Segments the lung fields: each lung up to the chest wall, including parts that disease has made dense."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from hilum.preparing.lungs.body import TISSUE_HU
from hilum.preparing.lungs.morphology import Mask, dilated, opened, squares_to
from hilum.preparing.lungs.sides import LEFT, RIGHT

# Rules of thumb unless a source is given; benchmarks/lungs.py measures the result.
_HULL_MM = 32.0
"""Radius of the closing ball: gaps narrower than its diameter are closed."""
_RIM_MM = 5.0
"""Width of the rim around the hull, for pleura and nodules on it."""
_AROUND_MM, _WALL_MM = 40.0, 12.0
"""Margin of the box around the lungs, and reach up and down in which ribs of neighbouring slices count."""
_NEAR_MM = 6.0
"""Margin within which tissue still lies above lung."""
_LEVELS_MM = 30.0
"""Reach up and down of the median that smooths the plane between the sides of the chest."""
_BONE_HU = 220
"""Threshold of ribs."""
_SMOOTH_MM = 4.5
"""Sigma of the Gaussian that removes noise before fluid and muscle are compared."""
_MUSCLE_HU = (15, 90)
"""Range in which the mode of HU is muscle."""
_FLUID_HU = (-30, 28, 18)
"""Fluid is brighter than the first, darker than the second, and darker than muscle by the third."""
_LEAST_ML = 1.0
"""Smallest dense component that is added to a field."""
_UNDER_MM, _EFFUSION_ML, _TABLE_ML = 20.0, 30.0, 20.0
"""Depth below the lungs' mean height from which fluid collects, the smallest effusion, and the smallest table."""
_RAYS, _CLOSE_RIBS = 120, 0.8
"""Rays in a slice, and the share of the median radius of lung beyond which ribs count on rays without lung."""
_SMALL = 0.8
"""Share of its usual volume below which a lung counts as much smaller than the other."""
_USUAL = {RIGHT: 1.18, LEFT: 1 / 1.18}
"""Usual volume of a lung over that of the other: the right share is about 54 % (anatomy)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chest:
    """A coarse scan with its body and lungs, from which the fields are segmented.

    Attributes:
        hu: The scan on a cubic grid, (z, y, x).
        step_mm: Edge of a voxel.
        body: Mask of the patient.
        leftward_mm: Distance of each column to the left of the plane between the lungs.
        labels: 1 in the right lung, 2 in the left: air, and structures that air surrounds.
    """

    hu: Float[np.ndarray, "z y x"]
    step_mm: float
    body: Mask
    leftward_mm: Float[np.ndarray, "y x"]
    labels: UInt8[np.ndarray, "z y x"]


def lung_field(chest: Chest) -> UInt8[np.ndarray, "z y x"]:
    """Segment the lung fields: 1 in the right, 2 in the left.

    Each lung is closed with a ball of 32 mm radius, which includes vessels, the hilum, nodules and masses at the
    pleura. Tissue between that hull and the ribs is added if it is fluid, or lies where the mirrored other lung is. If
    one lung is much smaller than the other, all tissue above its base is added that lies in the mirrored other lung.
    """
    out = np.zeros(chest.labels.shape, np.uint8)
    found = ndimage.find_objects((chest.labels > 0).astype(np.uint8))
    if not found:
        return out
    down = -1 if _lies_on_front(chest) else 1  # index y runs from the front to the back
    around = round(_AROUND_MM / chest.step_mm)
    box = tuple(slice(max(0, part.start - around), part.stop + around) for part in found[0])
    chest = replace(
        chest,
        hu=chest.hu[box],
        body=chest.body[box],
        leftward_mm=chest.leftward_mm[box[1:]],
        labels=chest.labels[box],
    )
    out[box] = _field(chest, down)
    return out


def _field(chest: Chest, down: int) -> UInt8[np.ndarray, "z y x"]:
    """``lung_field`` in the box around the lungs; ``down`` is the sign of y that points down as the patient lies."""
    field = np.zeros(chest.labels.shape, np.uint8)
    lungs = {side: chest.labels == side for side in (RIGHT, LEFT)}
    hulls = {side: _hull(lung, chest.step_mm) for side, lung in lungs.items()}
    both = hulls[RIGHT] | hulls[LEFT]
    inside, wide, beyond = _ribs(chest, both)
    soft = chest.body & ~both & (chest.hu < _BONE_HU)
    fluid = _fluid(chest, soft & wide, both, down)
    tissue = soft & inside
    middle = _middle(chest, both)
    sizes = {side: np.count_nonzero(lung) for side, lung in lungs.items()}
    for side in (RIGHT, LEFT):
        if not sizes[side]:
            continue
        other = RIGHT + LEFT - side
        mine = (chest.leftward_mm > 0) == (side == LEFT)
        more = fluid & mine
        if sizes[other]:
            mirrored = _mirrored(chest, middle, tissue & mine, hulls[other])
            near = tissue & mine & ndimage.maximum_filter(mirrored, (1, 5, 5))
            more |= _large(near & beyond, near=hulls[side], step_mm=chest.step_mm)
            if sizes[side] < _SMALL * _USUAL[side] * sizes[other]:
                above = _above(hulls[side] | more, chest.step_mm)
                more |= _large(mirrored & above, near=hulls[side] | more, step_mm=chest.step_mm)
        own = _hull(hulls[side] | more, chest.step_mm, rim_mm=0.0) & wide if more.any() else hulls[side]
        field[(own | hulls[side]) & chest.body & (field == 0) & ~lungs[other]] = side
    return field


def _hull(lung: Mask, step_mm: float, *, rim_mm: float = _RIM_MM) -> Mask:
    """Close a lung with a large ball, at half resolution for speed, and dilate it by a rim for the pleura."""
    out = np.zeros(lung.shape, bool)
    if not lung.any():
        return out
    radius, rim = _HULL_MM / (2 * step_mm), rim_mm / (2 * step_mm)
    margin = int(np.ceil(radius)) + 2
    even = np.pad(lung, [(0, n % 2) for n in lung.shape], mode="edge").astype(np.uint8)
    half = np.sum([even[z::2, y::2, x::2] for z, y, x in np.ndindex(2, 2, 2)], axis=0) >= 4
    if not half.any():
        return lung
    box = ndimage.find_objects(half.astype(np.uint8))[0]
    near = squares_to(np.pad(half[box], margin), radius) <= radius**2
    squares = squares_to(~near, radius + 2)  # beyond that only the sign of the depth matters
    depth = np.sqrt(squares, dtype=float) - radius + rim
    keep = slice(margin - 1, 1 - margin)  # one voxel around the box: the rim may reach into it
    fine = ndimage.zoom(depth[keep, keep, keep], 2, order=1, grid_mode=True, mode="nearest") > 0
    low = [2 * (s.start - 1) for s in box]
    ours = tuple(slice(max(0, a), max(0, min(n, a + m))) for a, m, n in zip(low, fine.shape, lung.shape, strict=True))
    theirs = tuple(slice(s.start - a, s.stop - a) for s, a in zip(ours, low, strict=True))
    out[ours] = fine[theirs]
    return np.asarray(out | lung)


def _fluid(chest: Chest, tissue: Mask, lungs: Mask, down: int) -> Mask:
    """Segment effusion: clearly darker than muscle, in the dependent part below lung, or connected to such a part.

    It must begin directly below lung, for fatty liver and the stomach are as dark and lie beside it.
    """
    under = np.maximum.accumulate(lungs[:, ::down], axis=1)[:, ::down]
    far = down * (np.arange(lungs.shape[1]) - _mean_y(lungs)) * chest.step_mm > _UNDER_MM
    tissue = tissue & far[:, np.newaxis]
    if np.count_nonzero(opened(tissue & under)) * chest.step_mm**3 < _EFFUSION_ML * 1000:
        return np.zeros(lungs.shape, bool)
    smooth = _smooth(chest)
    darkest, brightest = _MUSCLE_HU
    some = smooth[chest.body & (smooth >= darkest) & (smooth <= brightest)]
    counts, edges = np.histogram(some, np.arange(darkest, brightest, 3))
    muscle = float(edges[np.argmax(counts)]) + 1.5
    low, high, below = _FLUID_HU
    dark = tissue & (smooth > low) & (smooth < min(high, muscle - below))
    seed = _large(dark & under, near=lungs, step_mm=chest.step_mm, least_ml=_EFFUSION_ML)
    if not seed.any():
        return seed
    pieces, count = ndimage.label(opened(dark))
    reached = np.zeros(count + 1, bool)
    reached[pieces[seed]] = True
    return np.asarray(reached[pieces])


def _smooth(chest: Chest) -> Float[np.ndarray, "z y x"]:
    """Smooth the scan in the box around the body; 0 elsewhere."""
    sigma, truncate = _SMOOTH_MM / chest.step_mm, 4.0
    out = np.zeros_like(chest.hu)
    boxes = ndimage.find_objects(chest.body.astype(np.uint8))
    for box in boxes:
        reach = int(truncate * sigma + 0.5)
        wide = tuple(slice(max(0, part.start - reach), part.stop + reach) for part in box)
        out[wide] = ndimage.gaussian_filter(chest.hu[wide], sigma, truncate=truncate)
    return out


def _mean_y(mask: Mask) -> float:
    return float(np.average(np.arange(mask.shape[1]), weights=mask.sum(axis=2).sum(axis=0)))


def _lies_on_front(chest: Chest) -> bool:
    """Whether the patient lies prone: the table is in front of the body."""
    if not chest.body.any():
        return False
    outside = (chest.hu > TISSUE_HU) & ~dilated(chest.body, 2)
    if np.count_nonzero(outside) * chest.step_mm**3 < _TABLE_ML * 1000:
        return False
    return bool(_mean_y(outside) < _mean_y(chest.body))


def _ribs(chest: Chest, lungs: Mask) -> tuple[Mask, Mask, Mask]:
    """Three masks: inside the ribs; inside ribs and rib cartilage; and beyond all lung, seen from the chest's centre.

    Rays from the centre of the chest, one every three degrees, find the ribs in each slice; as ribs run obliquely,
    those of neighbouring slices count too.
    """
    at_y = _mean_y(lungs)
    middle = at_y, float(np.argmin(np.abs(chest.leftward_mm[round(at_y)])))
    y, x = (np.asarray(axis) for axis in np.indices(lungs.shape[1:]))
    radius = np.hypot(y - middle[0], x - middle[1])
    ray = (np.arctan2(y - middle[0], x - middle[1]) / (2 * np.pi) * _RAYS).astype(int) % _RAYS
    order = np.argsort(ray, axis=None, kind="stable")
    rays, starts = np.unique(ray.ravel()[order], return_index=True)
    radii = radius.ravel()[order]
    last, wall = np.full((len(lungs), _RAYS), -np.inf), np.full((len(lungs), _RAYS), np.inf)
    found = lungs.reshape(len(lungs), -1)[:, order]
    last[:, rays] = np.maximum.reduceat(np.where(found, radii, -np.inf), starts, axis=1)
    reach = 2 * round(_WALL_MM / chest.step_mm) + 1
    bone = ndimage.maximum_filter1d((chest.hu > _BONE_HU) & chest.body, reach, axis=0)
    far = np.where(np.isfinite(last), last, _CLOSE_RIBS * np.median(last[np.isfinite(last)]))
    z, at = np.nonzero(bone.reshape(len(bone), -1))
    hit = radius.ravel()[at] > far[z, ray.ravel()[at]] - 1
    z, at = z[hit], at[hit]
    np.minimum.at(wall, (z, ray.ravel()[at]), radius.ravel()[at])
    wall = ndimage.median_filter(np.pad(wall, ((0, 0), (3, 3)), mode="wrap"), (3, 7), mode="nearest")[:, 3:-3]
    normal_y, normal_x = np.gradient(chest.leftward_mm)
    across = round((2 * np.arctan2(normal_y[0, 0], normal_x[0, 0]) + np.pi) / (2 * np.pi) * _RAYS)
    opposite = (across - np.arange(_RAYS)) % _RAYS  # cartilage is not seen as bone: the other side gives its distance
    wide = np.where(np.isfinite(wall), wall, np.maximum(last, last[:, opposite]) + 1)
    wall = np.where(np.isfinite(wall), wall, last)
    beyond = radius > np.where(np.isfinite(last), last, np.inf)[:, ray] - 1
    return radius < wall[:, ray], radius < wide[:, ray], beyond


def _middle(chest: Chest, lungs: Mask) -> Float[np.ndarray, " z"]:
    """Offset to the left, in voxels, of the plane midway between the sides of the chest in each slice."""
    leftward = chest.leftward_mm / chest.step_mm
    ends = np.array([_ends(leftward[plane]) for plane in lungs])
    levels = 2 * round(_LEVELS_MM / chest.step_mm) + 1
    return np.asarray(ndimage.median_filter(ends.mean(axis=1), levels, mode="nearest"))


def _mirrored(chest: Chest, middle: Float[np.ndarray, " z"], tissue: Mask, other: Mask) -> Mask:
    """The tissue inside the mirror image of the other lung.

    Each slice is mirrored at the plane midway between the sides of the chest, which need not contain the spine.
    """
    leftward = chest.leftward_mm / chest.step_mm
    normal_y, normal_x = leftward[1, 0] - leftward[0, 0], leftward[0, 1] - leftward[0, 0]
    z, y, x = np.nonzero(tissue)
    across = leftward[y, x] - middle[z]
    from_y = np.rint(y - 2 * across * normal_y).astype(int)
    from_x = np.rint(x - 2 * across * normal_x).astype(int)
    seen = (from_y >= 0) & (from_y < tissue.shape[1]) & (from_x >= 0) & (from_x < tissue.shape[2])
    out = np.zeros(tissue.shape, bool)
    z, y, x = z[seen], y[seen], x[seen]
    out[z, y, x] = other[z, from_y[seen], from_x[seen]]
    return out


def _ends(values: np.ndarray) -> tuple[float, float]:
    """Smallest and largest value; zeros without values."""
    return (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)


def _above(lung: Mask, step_mm: float) -> Mask:
    """Voxels above lung, within a margin; tissue below the lung may be liver."""
    wide = 2 * round(_NEAR_MM / step_mm) + 1
    return np.asarray(np.maximum.accumulate(ndimage.maximum_filter(lung, (1, wide, wide)), axis=0))


def _large(candidate: Mask, *, near: Mask, step_mm: float, least_ml: float = _LEAST_ML) -> Mask:
    """The components that are thick, large and touch the lung."""
    thick = opened(candidate)
    if not thick.any():
        return thick
    pieces, count = ndimage.label(thick)
    large: np.ndarray = np.bincount(pieces.ravel(), minlength=count + 1) * step_mm**3 / 1000 >= least_ml
    large[0] = False
    if not large.any():
        return np.zeros(candidate.shape, bool)
    touching = np.zeros(count + 1, bool)
    touching[pieces[dilated(near, 2)]] = True
    return np.asarray((large & touching)[pieces])
