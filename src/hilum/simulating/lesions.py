"""Samples lesions of the lungs, with position, size, density and exact shape.

Sizes, densities and frequencies are rules of thumb.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from hilum.errors import ConfigError, require
from hilum.randomness import generator
from hilum.simulating.anatomy import Anatomy
from hilum.simulating.pleura import aerated_distance
from hilum.simulating.trees import Tube
from hilum.volume import Triple

Kind = Literal[
    "solid nodule", "part-solid nodule", "ground-glass nodule", "calcified nodule", "scar",
    "mass", "consolidation", "ground-glass opacity", "emphysema",
]  # fmt: skip
Disease = Literal["none", "mass", "consolidation", "ground-glass opacity"]
DISEASES: tuple[Disease, ...] = ("mass", "consolidation", "ground-glass opacity")
"""The kinds that make a chest diseased; all others occur in healthy chests too."""

_BENIGN: dict[Kind, float] = {
    "solid nodule": 0.4,
    "calcified nodule": 0.15,
    "ground-glass nodule": 0.1,
    "part-solid nodule": 0.05,
    "scar": 0.3,
}
"""Kinds that occur in any chest, with their frequencies."""
_BENIGN_MEAN, _BENIGN_MM = 1.2, 12.0
"""Mean number of benign lesions in a chest, and the diameter below which they must stay to count as benign."""

_HU: dict[Kind, tuple[float, float]] = {
    "solid nodule": (0, 60),
    "part-solid nodule": (-650, -500),
    "ground-glass nodule": (-650, -450),
    "calcified nodule": (200, 800),
    "scar": (-100, 40),
    "mass": (0, 60),
    "consolidation": (-50, 50),
    "ground-glass opacity": (-550, -300),
    "emphysema": (-990, -950),
}
_DIAMETER_MM: dict[Kind, tuple[float, float]] = {
    "scar": (5, 10),
    "mass": (25, 45),
    "consolidation": (30, 60),
    "ground-glass opacity": (40, 80),
    "emphysema": (60, 120),
}
_NUMBER: dict[Disease, tuple[int, int]] = {"mass": (2, 5), "consolidation": (3, 6), "ground-glass opacity": (3, 6)}
"""Number of lesions in a diseased chest: at least the first, less than the second."""
_LOBULATION: dict[Kind, float] = {
    "mass": 0.10,
    "consolidation": 0.16,
    "ground-glass opacity": 0.18,
    "scar": 0.15,
    "emphysema": 0.18,
}
_MARGIN_MM: dict[Kind, float] = {"consolidation": 3.0, "ground-glass opacity": 7.0, "emphysema": 10.0}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesion:
    """A simulated lesion.

    Attributes:
        kind: Kind of lesion.
        centre_mm: LPS (x, y, z), in the frame of the anatomy or, in a ``Truth``, of the scan.
        diameter_mm: Mean diameter.
        hu: Density; for a part-solid nodule that of the ground-glass part.
        axes: Lengths of the axes (x, y, z) over the diameter.
        core: Diameter of the solid core over that of the lesion; 0 without core.
        spicules: Number of spicules.
        seed: Seed of the outline.
    """

    kind: Kind
    centre_mm: Triple
    diameter_mm: float
    hu: float
    axes: tuple[float, float, float] = (1.0, 1.0, 1.0)
    core: float = 0.0
    spicules: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            msg = f"a lesion's kind must be one of {', '.join(get_args(Kind))}, got {self.kind}"
            raise ConfigError(msg)
        if not 0 < self.diameter_mm <= 200:
            msg = f"a lesion's diameter must be above 0 and at most 200 mm, got {self.diameter_mm}"
            raise ConfigError(msg)

    @property
    def margin_mm(self) -> float:
        """Width over which it fades into the lung."""
        return _MARGIN_MM.get(self.kind, 0.0)

    @property
    def reach_mm(self) -> float:
        """Largest distance of the lesion, without spicules, from its centre."""
        return 0.5 * self.diameter_mm * max(self.axes) * (1 + 2 * _LOBULATION.get(self.kind, 0.04)) + self.margin_mm


def sample_lesion(anatomy: Anatomy, kind: Kind, *, rng: np.random.Generator) -> Lesion:
    """Sample a lesion of a kind, at a position in the lungs where it fits.

    The size of nodules is log-normal, 3 in 10 touch the pleura; masses and opacities may extend to the pleura.
    """
    if kind in _DIAMETER_MM:
        diameter = rng.uniform(*_DIAMETER_MM[kind])
    else:
        diameter = float(np.clip(7.5 * np.exp(rng.normal(0, 0.45)), 4, 30))
    stretch = np.exp(rng.normal(0, 0.25 if kind == "scar" else 0.1, 3))
    if kind == "scar":
        stretch[rng.integers(3)] *= 3.0
    stretch /= np.prod(stretch) ** (1 / 3)
    on_pleura = kind not in DISEASES and rng.random() < 0.3
    depth = diameter * (0.2 if on_pleura else 0.3 if kind in DISEASES else 0.6)
    spicules = int(rng.integers(2, 9)) if kind in ("mass", "solid nodule") and rng.random() < 0.4 else 0
    return Lesion(
        kind=kind,
        centre_mm=_place(anatomy, max(depth, 3.0), rng),
        diameter_mm=diameter,
        hu=rng.uniform(*_HU[kind]),
        axes=(float(stretch[0]), float(stretch[1]), float(stretch[2])),
        core=rng.uniform(0.3, 0.7) if kind == "part-solid nodule" else 0.0,
        spicules=spicules,
        seed=int(rng.integers(2**31)),
    )


def sample_disease(anatomy: Anatomy, disease: Disease, *, rng: np.random.Generator) -> tuple[Lesion, ...]:
    """Sample the lesions of one chest: benign ones as in any chest, and those of the disease.

    Raises:
        ConfigError: If the disease is unknown.
    """
    require(disease in ("none", *DISEASES), "disease", f"none, {', '.join(DISEASES)}", repr(disease))
    benign = list(_BENIGN)
    chosen = rng.choice(len(benign), size=rng.poisson(_BENIGN_MEAN), p=list(_BENIGN.values()))
    kinds: list[Kind] = [benign[i] for i in chosen]
    if disease != "none":
        kinds += [disease] * int(rng.integers(*_NUMBER[disease]))
    lesions = [sample_lesion(anatomy, kind, rng=rng) for kind in kinds]
    return tuple(s for s in lesions if s.kind in DISEASES or s.diameter_mm < _BENIGN_MM)


def lesion_distance(lesion: Lesion, z: np.ndarray, y: np.ndarray, x: np.ndarray, *, core: bool = False) -> np.ndarray:
    """Approximate signed distance to the surface of a lesion (or its core) in mm, negative inside; broadcasts."""
    radius = lesion.diameter_mm / 2 * (lesion.core if core else 1.0)
    cx, cy, cz = lesion.centre_mm
    ax, ay, az = lesion.axes
    u, v, w = ((p - c) / np.float32(radius * a) for p, c, a in ((x, cx, ax), (y, cy, ay), (z, cz, az)))
    distance = np.sqrt(u * u + v * v + w * w)
    amplitude = np.float32(_LOBULATION.get(lesion.kind, 0.04))
    waves = generator(lesion.seed, "outline")
    for _ in range(2):
        frequency, phase = waves.uniform(1.5, 3.0, 3), waves.uniform(0, 2 * np.pi, 3)
        bump = np.asarray(amplitude)
        for wave, f, p in zip((u, v, w), frequency, phase, strict=True):
            bump = bump * np.cos(np.float32(f) * wave + np.float32(p))
        # Bumps fade towards the centre, so that the centre always lies inside.
        distance = distance + bump * np.minimum(distance, 1)
    return np.asarray((distance - 1) * np.float32(radius))


def spicules_of(lesion: Lesion) -> tuple[Tube, ...]:
    """Spicules of a lesion, 2-8 mm long."""
    rng = generator(lesion.seed, "spicules")
    centre = np.array(lesion.centre_mm)
    strands = []
    for _ in range(lesion.spicules):
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        start = centre + 0.4 * lesion.diameter_mm * direction
        end = centre + (0.5 * lesion.diameter_mm + rng.uniform(2, 8)) * direction
        strands.append(
            Tube(
                start_mm=(float(start[0]), float(start[1]), float(start[2])),
                end_mm=(float(end[0]), float(end[1]), float(end[2])),
                radii_mm=(1.0, 0.4),
            )
        )
    return tuple(strands)


def _place(anatomy: Anatomy, depth_mm: float, rng: np.random.Generator) -> Triple:
    """Sample a point at least this deep inside a lung, or the deepest one if there is none."""
    width, depth = anatomy.cavity_mm
    box = rng.random((4000, 3)) * [2 * width, 2 * depth, anatomy.height_mm]
    x, y, z = (box - [width, depth - anatomy.cavity_y_mm, 0]).T
    inside = -aerated_distance(anatomy, z, y, x)
    fits = np.flatnonzero(inside > depth_mm)
    best = int(fits[0]) if len(fits) else int(np.argmax(inside))
    return float(x[best]), float(y[best]), float(z[best])
