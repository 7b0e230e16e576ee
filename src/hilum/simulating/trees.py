"""Grows airways and vessels of a simulated patient: tapering tubes that branch until they fill the lungs."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hilum.randomness import generator
from hilum.simulating.anatomy import Anatomy, heart_centre
from hilum.simulating.pleura import aerated_distance
from hilum.volume import Triple

_LEAVES = 150
"""Terminal branches of each tree in each lung: eight generations; arteries taper from 14 to 1.7 mm in diameter."""
_TAPER = 0.4
"""Exponent of a vessel's radius over its share of the terminal branches: 0.76 of the parent's radius at each fork (rule
of thumb; Murray's law, Murray 1926, PNAS 12:207, gives 1/3, that is 0.79). Airways have 0.45 at the start of a tube and
0.5 at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tube:
    """A straight tube with round ends and linearly changing radius.

    Attributes:
        start_mm: Start, (x, y, z) in the patient's frame.
        end_mm: End.
        radii_mm: Radius at both ends; for an airway that of the lumen.
        wall_mm: Thickness of the wall; 0 for vessels.
    """

    start_mm: Triple
    end_mm: Triple
    radii_mm: tuple[float, float]
    wall_mm: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trees:
    """Airways and vessels of a chest.

    Attributes:
        airways: Trachea, main bronchi and the airways inside the lungs.
        vessels: Arteries beside the airways, and veins.
        trunks: Great vessels outside the lungs.
    """

    airways: tuple[Tube, ...]
    vessels: tuple[Tube, ...]
    trunks: tuple[Tube, ...]


def grow_trees(anatomy: Anatomy) -> Trees:
    """Grow the trees of a patient, from the patient's seed."""
    rng = generator(anatomy.seed, "trees")
    carina = np.array(anatomy.carina_mm)
    top = (0.0, carina[1] - 12.0, anatomy.height_mm + 60.0)
    trachea = anatomy.trachea_mm / 2
    airways = [_tube(top, carina, (trachea, trachea), wall_mm=1.5)]
    vessels: list[Tube] = []
    heart = np.array(heart_centre(anatomy))
    atrium = np.array([anatomy.shift_mm + 5, carina[1] - 12, carina[2] - 38])
    for side in (-1, 1):
        hilum = _beside(carina, side * (anatomy.mediastinum_mm + 12), 2.0, -22.0 - 6 * (side > 0))
        targets = _points_in_lung(anatomy, side, 2 * _LEAVES, rng)
        if len(targets) <= _LEAVES:  # no lung, or nearly none: a bronchial stump
            airways.append(_tube(carina, 0.6 * carina + 0.4 * hilum, (0.6 * trachea, 0.6 * trachea), wall_mm=1.3))
            continue
        bundles = _grow(hilum, targets[:_LEAVES])
        main = 0.68 * trachea
        airways.append(_tube(carina, hilum, (main, main), wall_mm=1.3))
        for start, end, share, parent in bundles:
            lumen = 0.8 * main * share**0.45, 0.8 * main * share**0.5
            if lumen[0] > 0.8:
                airways.append(_tube(start, end, lumen, wall_mm=0.6 + 0.12 * lumen[0]))
            # The artery runs beside its airway, never inside it.
            beside = np.array([0.0, -1.0, 0.5]) * (1.1 * lumen[0] + 7.0 * share**_TAPER) * 0.75
            beside_parent = beside if parent == share else beside * (parent / share) ** 0.4
            vessels.append(_tube(start + beside_parent, end + beside, _radii(7.0, share, parent)))
        vein_root = _beside(atrium, side * (anatomy.mediastinum_mm + 4), 0.0, 0.0)
        vessels += [
            _tube(a, b, _radii(6.0, share, parent)) for a, b, share, parent in _grow(vein_root, targets[_LEAVES:])
        ]
    # A branch to a distant lobe may cross the edge of the heart, where an airway, unlike a vessel, would be visible.
    ends = np.array([tube.end_mm for tube in airways]).T
    starts = np.array([tube.start_mm for tube in airways]).T
    outside = aerated_distance(anatomy, *(0.5 * (starts + ends))[::-1]) > 2
    airways = [tube for tube, out in zip(airways, outside, strict=True) if not out or tube.radii_mm[0] >= 0.6 * trachea]
    return Trees(airways=tuple(airways), vessels=tuple(vessels), trunks=_trunks(anatomy, carina, heart))


def _trunks(anatomy: Anatomy, carina: np.ndarray, heart: np.ndarray) -> tuple[Tube, ...]:
    """Aorta, pulmonary arteries and superior vena cava, as tubes in the mediastinum."""
    sx, sy = anatomy.spine_mm
    descending = np.array([sx + 0.5 * anatomy.shift_mm + 20, sy - 24, 0.0])
    arch_back, arch_front = descending * [1, 1, 0] + [0, 0, carina[2] + 28], _beside(carina, -4.0, -34.0, 30.0)
    root = _beside(heart, -22.0, -6.0, 34.0)
    half = anatomy.mediastinum_mm
    pairs = [
        (descending - [0, 0, 80], arch_back, 11.0),
        (arch_back, arch_front, 12.0),
        (arch_front, root, 14.0),
        (_beside(heart, 0.0, -12.0, 30.0), _beside(carina, 14.0, -24.0, -16.0), 12.0),
        (_beside(carina, 14.0, -24.0, -16.0), _beside(carina, half + 12.0, -8.0, -20.0), 8.0),
        (_beside(carina, 14.0, -24.0, -16.0), _beside(carina, -half - 8.0, -10.0, -22.0), 8.0),
        (_beside(heart, -34.0, 0.0, 20.0), _beside(carina, -22.0, -26.0, 60.0), 8.0),
    ]
    return tuple(_tube(a, b, (r, r)) for a, b, r in pairs)


def _beside(point: np.ndarray, x: float, y: float, z: float) -> np.ndarray:
    return np.asarray(point + np.array([x, y, z]))


def _tube(start: Iterable[float], end: Iterable[float], radii: tuple[float, float], *, wall_mm: float = 0.0) -> Tube:
    a, b = (tuple(float(v) for v in point) for point in (start, end))
    return Tube(start_mm=(a[0], a[1], a[2]), end_mm=(b[0], b[1], b[2]), radii_mm=radii, wall_mm=wall_mm)


def _radii(root_mm: float, share: float, parent: float) -> tuple[float, float]:
    return root_mm * min(parent, 1.25 * share) ** _TAPER, root_mm * (0.8 * share) ** _TAPER


def _points_in_lung(anatomy: Anatomy, side: int, number: int, rng: np.random.Generator) -> np.ndarray:
    """Random points (number, 3), at least 4 mm inside one lung; -1 is the right one."""
    width, depth = anatomy.cavity_mm
    box = rng.random((12 * number, 3)) * [width, 2 * depth, anatomy.height_mm]
    x, y, z = (box * [side, 1, 1] + [0, anatomy.cavity_y_mm - depth, 0]).T
    inside = (aerated_distance(anatomy, z, y, x) < -4) & ((x - anatomy.shift_mm) * side > 0)
    return np.asarray(np.stack([x, y, z], axis=1)[inside][:number])


def _grow(root: np.ndarray, targets: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, float, float]]:
    """Grow branches (start, end, share of the targets, parent's share) towards targets, which each fork halves.

    Each branch ends before the centre of its targets; each child supplies one half of them, split across the longest
    side. So branches stay within the lung, which is nearly convex, and reach all of it.
    """
    branches = []
    stack = [(root, targets, 1.0)]
    while stack:
        start, points, parent = stack.pop()
        share = len(points) / len(targets)
        if len(points) <= 1:
            branches.append((start, points[0] if len(points) else start, share, parent))
            continue
        centre = points.mean(0)
        end = start + 0.42 * (centre - start)
        branches.append((start, end, share, parent))
        order = np.argsort(points[:, int(np.argmax(np.ptp(points, axis=0)))])
        half = len(points) // 2
        stack += [(end, points[order[:half]], share), (end, points[order[half:]], share)]
    return branches
