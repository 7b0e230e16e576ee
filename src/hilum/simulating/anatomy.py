"""Samples the anatomy of a simulated patient; body and lungs are distance functions that any grid can evaluate.

The patient's frame is LPS mm with x = 0 at the spine, y = 0 in the middle of the body and z = 0 at the lowest point of
the lungs; right is x < 0. Shapes are separable wherever possible, so that a grid of millions of voxels costs a few
array operations. Sizes and densities are rules of thumb unless a source is given.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hilum.errors import ConfigError

SMALLEST_LUNGS_L, LARGEST_LUNGS_L = 1.2, 7.5
RIGHT_SHARE = (0.525, 0.575)
"""Sampled right share of the lung volume; a little inside 52-58 % (anatomy), to allow for rounding on a coarse grid."""

_EXPONENT = 2.3
"""Exponent of the superellipse of the rib cage: between an ellipse (2) and a box."""
_RIDGE = 0.3
"""Share of the half width over which the top of the rib cage is flat, so that each lung has its own apex."""
_COARSE_MM = 8.0
"""Grid on which lung volumes are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pleura:
    """Fluid and air in the pleural spaces, (right, left).

    Attributes:
        effusion_ml: Volume of fluid in the dependent part, with a meniscus at the wall.
        pneumothorax_mm: Largest distance of the lung from the wall, in the part away from the table.
        fluid_hu: Density of the fluid.
        missing: The lung that was resected; fluid fills its space.
    """

    effusion_ml: tuple[float, float] = (0.0, 0.0)
    pneumothorax_mm: tuple[float, float] = (0.0, 0.0)
    fluid_hu: float = 10.0
    missing: Literal["neither", "right", "left"] = "neither"

    def __post_init__(self) -> None:
        for name in ("effusion_ml", "pneumothorax_mm"):
            if not min(getattr(self, name)) >= 0:
                msg = f"pleura.{name} must be at least 0, got {getattr(self, name)}"
                raise ConfigError(msg)
        if self.missing not in ("neither", "right", "left"):
            msg = f"pleura.missing must be neither, right or left, got {self.missing}"
            raise ConfigError(msg)
        if self.missing != "neither":
            side = 0 if self.missing == "right" else 1
            if self.effusion_ml[side] or self.pneumothorax_mm[side]:
                given = f"effusion_ml {self.effusion_ml}, pneumothorax_mm {self.pneumothorax_mm}"
                msg = (
                    f"pleura: a missing lung has neither effusion nor pneumothorax, got {given}, {self.missing} missing"
                )
                raise ConfigError(msg)


@dataclass(frozen=True, slots=True, kw_only=True)
class Anatomy:
    """The random parameters of a simulated patient.

    Attributes:
        body_mm: Half width and half depth of the trunk.
        fat_mm: Thickness of the subcutaneous fat.
        cavity_mm: Half width and half depth inside the ribs.
        height_mm: Distance from the lowest point of the lungs to their apex.
        domes_mm: Tops of the right and the left dome of the diaphragm, above the lowest point.
        shift_mm: Shift of the mediastinum to the left.
        mediastinum_mm: Half width of the mediastinum at the hila.
        front_gap_mm: Anterior distance between the lungs.
        heart: Scale of the heart, 1 is usual.
        lung_hu: Density of parenchyma without vessels, in the middle of the chest.
        gradient_hu_cm: Increase of lung density towards the dependent side.
        texture_hu: Standard deviation of the 1-3 mm texture of the lung.
        patchiness_hu: Amplitude of density variation over centimetres.
        emphysema: Number of emphysematous holes.
        blood_hu: Density of vessels and heart chambers; 150-350 with contrast.
        muscle_hu: Density of muscle, liver and spleen.
        fat_hu: Density of fat.
        trachea_mm: Inner diameter of the trachea.
        arms: Up beside the head, or down beside the trunk.
        prone: Whether the patient lies prone.
        seed: Seed of the trees, the texture and the small shapes.
        pleura: Fluid and air in the pleural spaces.
        bowel_gas_mm: Width of a stomach full of gas, with gas-filled colon under both domes; 0 for usual gas.
        metal: A pacemaker below the left clavicle with its leads, or two rods with screws at the spine.
        roll_deg: Rotation about the body's long axis; the right side rises if positive.
        tilt_deg: Rotation in the coronal plane; the head moves to the patient's left if positive.
    """

    body_mm: tuple[float, float]
    fat_mm: float
    cavity_mm: tuple[float, float]
    height_mm: float
    domes_mm: tuple[float, float]
    shift_mm: float
    mediastinum_mm: float
    front_gap_mm: float
    heart: float
    lung_hu: float
    gradient_hu_cm: float
    texture_hu: float
    patchiness_hu: float
    emphysema: int
    blood_hu: float
    muscle_hu: float
    fat_hu: float
    trachea_mm: float
    arms: Literal["up", "down"]
    prone: bool
    seed: int
    pleura: Pleura = Pleura()
    bowel_gas_mm: float = 0.0
    metal: Literal["none", "pacemaker", "rods"] = "none"
    roll_deg: float = 0.0
    tilt_deg: float = 0.0

    @property
    def cavity_y_mm(self) -> float:
        """Centre of the rib cage from front to back; the muscles of the back shift it forwards."""
        return -0.1 * self.cavity_mm[1]

    @property
    def spine_mm(self) -> tuple[float, float]:
        """Centre of the vertebral bodies, (x, y)."""
        return 0.0, self.cavity_y_mm + self.cavity_mm[1] - 14.0

    @property
    def carina_mm(self) -> tuple[float, float, float]:
        """Where the trachea divides, (x, y, z)."""
        return 0.5 * self.shift_mm, self.spine_mm[1] - 40.0, 0.6 * self.height_mm


def sample_anatomy(rng: np.random.Generator, *, prone: bool = False, volume_l: float | None = None) -> Anatomy:
    """Sample a patient whose lungs have the sampled volume and right share.

    Args:
        rng: Random generator.
        prone: Whether the patient lies prone: the lung is then denser in front.
        volume_l: Volume of both lungs; None: sampled.

    Raises:
        ConfigError: If the volume lies outside 1.2 to 7.5 litres.
    """
    sampled_l = float(np.clip(4.2 * math.exp(rng.normal(0, 0.28)), 1.6, 7.2))
    litres = sampled_l if volume_l is None else volume_l
    if not SMALLEST_LUNGS_L <= litres <= LARGEST_LUNGS_L:
        msg = f"lung volume must be {SMALLEST_LUNGS_L} to {LARGEST_LUNGS_L} litres, got {litres}"
        raise ConfigError(msg)
    size = (litres / 4.5) ** (1 / 3)
    width, depth = 130 * size * rng.uniform(0.95, 1.05), 92 * size * rng.uniform(0.92, 1.08)
    fat = rng.uniform(10, 32)
    dome = rng.uniform(42, 62) * size
    # Deep inspiration makes the lung darker; emphysema and disease are added later.
    lung_hu = float(np.clip(-852 - 16 * (litres - 4.2) + rng.normal(0, 20), -905, -740))
    anatomy = Anatomy(
        body_mm=(width + 22 + fat, depth + 16 + fat),
        fat_mm=fat,
        cavity_mm=(width, depth),
        height_mm=240 * size,
        domes_mm=(dome, dome - rng.uniform(11, 19)),
        shift_mm=0.0,
        mediastinum_mm=rng.uniform(24, 32) * size,
        front_gap_mm=rng.uniform(0.5, 2.0) if rng.random() < 0.3 else rng.uniform(3, 18),
        heart=rng.uniform(0.85, 1.15) * size,
        lung_hu=lung_hu,
        gradient_hu_cm=rng.uniform(2, 5),
        texture_hu=rng.uniform(18, 40),
        patchiness_hu=rng.uniform(8, 28),
        emphysema=int(rng.integers(20, 160)) if rng.random() < 0.25 else 0,
        blood_hu=rng.uniform(150, 350) if rng.random() < 0.35 else rng.uniform(30, 60),
        muscle_hu=rng.normal(50, 7),
        fat_hu=rng.normal(-110, 5),
        trachea_mm=rng.uniform(15, 20) * min(1.1, size),
        arms="up" if rng.random() < 0.75 else "down",
        prone=prone,
        seed=int(rng.integers(2**31)),
    )
    return _with_volume(anatomy, litres=litres, right_share=rng.uniform(*RIGHT_SHARE))


def cavity_distance(anatomy: Anatomy, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Approximate signed distance to the rib cage in mm, negative inside; coordinates broadcast."""
    width, depth = anatomy.cavity_mm
    flat, level = _RIDGE * width, 0.3 * anatomy.height_mm
    scale = 0.5 * (width - flat + depth) / _EXPONENT
    along_x = (np.maximum(np.abs(x) - flat, 0) / (width - flat)) ** _EXPONENT
    along_y = (np.abs(y - anatomy.cavity_y_mm) / depth) ** _EXPONENT
    along_z = (np.maximum(z - level, 0) / (anatomy.height_mm - level)) ** 2.2
    return np.asarray(scale * along_y - scale + (scale * along_x + scale * along_z))


def heart_distance(anatomy: Anatomy, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Approximate signed distance to the heart in mm, negative inside; the apex points left, forward and down."""
    cx, cy, cz = heart_centre(anatomy)
    down = z - cz
    along, across = np.cos(0.7), np.sin(0.7)
    u = along * (x - cx) - across * (y - cy) + 0.35 * down
    v = across * (x - cx) + along * (y - cy)
    a, b, c = (h * anatomy.heart for h in (66.0, 46.0, 52.0))
    return np.asarray(((u / a) ** 2 + (v / b) ** 2 + (down / c) ** 2 - 1) * (b / 2))


def heart_centre(anatomy: Anatomy) -> tuple[float, float, float]:
    """Centre of the heart, (x, y, z)."""
    width, depth = anatomy.cavity_mm
    low = 0.5 * sum(anatomy.domes_mm)
    return anatomy.shift_mm + 0.17 * width, anatomy.cavity_y_mm - 0.3 * depth, low + 32 * anatomy.heart


def lung_distance(anatomy: Anatomy, z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Approximate signed distance to the lungs in mm, negative inside; coordinates broadcast."""
    distance = cavity_distance(anatomy, z, y, x)
    np.maximum(distance, 0.8 * (diaphragm_height(anatomy, y, x) - z), out=distance)
    np.maximum(distance, -heart_distance(anatomy, z, y, x), out=distance)
    middle = _mediastinum(anatomy, y) - np.abs(x - anatomy.shift_mm)
    sx, sy = anatomy.spine_mm
    spine = 21 - np.hypot(x - sx, y - sy)
    aorta = 14 - np.hypot(x - sx - 0.5 * anatomy.shift_mm - 20, y - sy + 24)
    return np.asarray(np.maximum(distance, np.maximum(middle, np.maximum(spine, aorta)), out=distance))


def diaphragm_height(anatomy: Anatomy, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Height of the diaphragm above the lowest point of the lungs, in mm."""
    width, depth = anatomy.cavity_mm
    right, left = anatomy.domes_mm
    top = np.where(x < anatomy.shift_mm, x.dtype.type(right), x.dtype.type(left))
    across = ((np.abs(x) - 0.42 * width) / (0.6 * width)) ** 2
    along = ((y - anatomy.cavity_y_mm + 0.15 * depth) / depth) ** 2
    return np.asarray(np.maximum(top * (1 - across - along), 0))


def _mediastinum(anatomy: Anatomy, y: np.ndarray) -> np.ndarray:
    """Half width of the mediastinum by y: narrow in front, wide at the hila, narrow behind."""
    depth = anatomy.cavity_mm[1]
    where = (y - anatomy.cavity_y_mm) / depth
    front, wide, behind = anatomy.front_gap_mm / 2, anatomy.mediastinum_mm, 8.0
    rise, fall = (0.5 - 0.5 * np.cos(np.pi * np.clip(t, 0, 1)) for t in ((where + 0.85) / 0.6, (0.8 - where) / 0.5))
    return np.asarray((np.minimum(front + (wide - front) * rise, behind + (wide - behind) * fall)).astype(where.dtype))


def lung_volumes_l(anatomy: Anatomy) -> tuple[float, float]:
    """Volume of the right and of the left lung, in litres."""
    width, depth = anatomy.cavity_mm
    z = np.arange(0, anatomy.height_mm + _COARSE_MM, _COARSE_MM).astype(np.float32)[:, None, None]
    y = np.arange(-1.15 * depth, depth, _COARSE_MM).astype(np.float32)[:, None]
    x = np.arange(-width, width + 1, _COARSE_MM).astype(np.float32)
    inside = np.clip(0.5 - lung_distance(anatomy, z, y, x) / _COARSE_MM, 0, 1)
    columns = inside.sum((0, 1), dtype=np.float64) * _COARSE_MM**3 / 1e6
    # A column that the midline crosses is shared by both sides, so that the volume is continuous in the shift.
    right = np.clip(0.5 + (anatomy.shift_mm - x) / _COARSE_MM, 0, 1)
    return float(columns @ right), float(columns @ (1 - right))


def _with_volume(anatomy: Anatomy, *, litres: float, right_share: float) -> Anatomy:
    """Adapt height and shift of the mediastinum until lung volume and right share are as sampled."""
    for _ in range(3):
        low, high = -45.0, 45.0
        for _ in range(7):
            middle = (low + high) / 2
            right, left = lung_volumes_l(replace(anatomy, shift_mm=middle))
            low, high = (middle, high) if right / (right + left) < right_share else (low, middle)
        anatomy = replace(anatomy, shift_mm=(low + high) / 2)
        for _ in range(2):
            # The part above the diaphragm grows with the height, the part beside the domes does not.
            ratio = litres / sum(lung_volumes_l(anatomy))
            dome = 0.5 * anatomy.domes_mm[0]
            anatomy = replace(anatomy, height_mm=dome + (anatomy.height_mm - dome) * ratio)
    return anatomy
