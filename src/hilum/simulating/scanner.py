"""Simulates the scanner: slices with thickness, kernel, noise, field of view and padding, in int16 HU."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int16
from scipy import fft

from hilum.errors import ConfigError
from hilum.simulating.anatomy import Anatomy
from hilum.simulating.pose import is_upright
from hilum.simulating.rasterize import Axes
from hilum.simulating.render import Scene, render_hu
from hilum.simulating.streaks import add_streaks
from hilum.volume import HIGHEST_HU, LOWEST_HU, Triple

PADDING_HU = -2000
_SLAB_VOXELS = 2_000_000
"""Voxels rendered at once: few enough for the cache."""

_MTF50 = {"soft": 0.40, "sharp": 0.70}
"""Frequency in 1/mm at which the modulation transfer of a kernel is one half (rule of thumb)."""
_NOISE_FACTOR = {"soft": 1.0, "sharp": 3.0}
"""Noise of a kernel over that of the soft one at the same dose (rule of thumb)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """Settings of a simulated scan.

    Attributes:
        pixel_mm: Size of a pixel.
        pixels: Rows and columns.
        thickness_mm: Full width of the slice profile at half maximum.
        increment_mm: Distance between slices.
        kernel: soft (MTF50 0.4 /mm) or sharp (0.7 /mm, with overshoot).
        profile: Shape of the slice profile.
        noise_hu: Standard deviation of noise in a 1 mm slice of the soft kernel with pixels below 1 mm. It falls with
            the root of the thickness and triples with the sharp kernel; larger pixels lose frequencies beyond theirs.
        padding: Whether pixels outside a circle are -2000 HU, as some scanners write.
        centre_mm: Centre of the field of view, (x, y) in the patient's frame.
        margin_mm: Extent of the scan below and above the lungs.
        breath_mm: Displacement of the patient, (z, y), in the slices above ``breath_at``.
        breath_at: Share of the height of the lungs above which the patient has moved.
    """

    pixel_mm: float = 0.75
    pixels: int = 512
    thickness_mm: float = 1.25
    increment_mm: float = 1.0
    kernel: Literal["soft", "sharp"] = "soft"
    profile: Literal["box", "gaussian"] = "box"
    noise_hu: float = 20.0
    padding: bool = False
    centre_mm: tuple[float, float] = (0.0, 0.0)
    margin_mm: tuple[float, float] = (30.0, 25.0)
    breath_mm: tuple[float, float] = (0.0, 0.0)
    breath_at: float = 0.5

    def __post_init__(self) -> None:
        for name in ("pixel_mm", "thickness_mm", "increment_mm"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                msg = f"scanner.{name} must be positive, got {value}"
                raise ConfigError(msg)
        if self.pixels < 16:
            msg = f"scanner.pixels must be at least 16, got {self.pixels}"
            raise ConfigError(msg)
        if not self.noise_hu >= 0:
            msg = f"scanner.noise_hu must be at least 0, got {self.noise_hu}"
            raise ConfigError(msg)
        if not 0 < self.breath_at < 1:
            msg = f"scanner.breath_at must be a share between 0 and 1, got {self.breath_at}"
            raise ConfigError(msg)
        if self.kernel not in _MTF50:
            msg = f"scanner.kernel must be one of {', '.join(_MTF50)}, got {self.kernel}"
            raise ConfigError(msg)


def sample_scanner(
    rng: np.random.Generator, *, pixel_mm: float = 0.75, pixels: int = 512, thin: bool = True
) -> Scanner:
    """Sample the settings of a scan; thick slices (4-5 mm) are faster to simulate.

    Args:
        rng: Random generator.
        pixel_mm: Mean size of a pixel; sampled within 6 % of it.
        pixels: Rows and columns.
        thin: Slices of 1 to 2.5 mm instead of 4 to 5 mm.
    """
    thickness = float(rng.choice([1.0, 1.25, 2.0, 2.5] if thin else [4.0, 5.0, 5.0]))
    kernel: Literal["soft", "sharp"] = "sharp" if rng.random() < 0.35 else "soft"
    return Scanner(
        pixel_mm=round(pixel_mm * rng.uniform(0.94, 1.06), 4),
        pixels=pixels,
        thickness_mm=thickness,
        increment_mm=round(thickness * float(rng.choice([0.8, 1.0, 1.0])), 3),
        kernel=kernel,
        profile="box" if rng.random() < 0.5 else "gaussian",
        noise_hu=rng.uniform(12, 28),
        padding=bool(rng.random() < 0.3),
        centre_mm=(rng.uniform(-12, 12), rng.uniform(-12, 12)),
        margin_mm=(rng.uniform(15, 50), rng.uniform(12, 35)),
    )


def grid_of(scanner: Scanner, height_mm: float) -> Axes:
    """Voxel centres of a scan of lungs of this height."""
    below, above = scanner.margin_mm
    slices = max(2, math.ceil((height_mm + below + above) / scanner.increment_mm))
    half = (scanner.pixels - 1) / 2
    steps = (np.arange(scanner.pixels) - half) * scanner.pixel_mm
    cx, cy = scanner.centre_mm
    return Axes(
        z_mm=(np.arange(slices) * scanner.increment_mm - below).astype(np.float32),
        y_mm=(steps + cy).astype(np.float32),
        x_mm=(steps + cx).astype(np.float32),
    )


def stretches(scanner: Scanner, height_mm: float) -> list[Axes]:
    """The scan's grid in the patient's frame, feet to head: in two parts if the patient has moved in between."""
    axes = grid_of(scanner, height_mm)
    if scanner.breath_mm == (0.0, 0.0):
        return [axes]
    moved_z, moved_y = scanner.breath_mm
    first = int(np.searchsorted(axes.z_mm, scanner.breath_at * height_mm))
    if not 0 < first < len(axes.z_mm):
        return [axes]
    above = axes.z_mm[first:] - np.float32(moved_z)
    return [
        Axes(z_mm=axes.z_mm[:first], y_mm=axes.y_mm, x_mm=axes.x_mm),
        Axes(z_mm=above, y_mm=axes.y_mm - np.float32(moved_y), x_mm=axes.x_mm),
    ]


def seen_at(scanner: Scanner, height_mm: float, point_mm: Triple) -> Triple:
    """Position in the scan of a point (x, y, z) of the patient, who may have moved."""
    x, y, z = point_mm
    moved_z, moved_y = scanner.breath_mm
    lower = z < scanner.breath_at * height_mm
    return point_mm if lower else (x, y + moved_y, z + moved_z)


def acquire(scene: Scene, scanner: Scanner, *, rng: np.random.Generator) -> Int16[np.ndarray, "z y x"]:
    """Simulate the scan of a scene in int16 HU: slice profile, kernel and noise slice by slice, padding."""
    axes = grid_of(scanner, scene.anatomy.height_mm)
    parts = [_thick_slices(scene, scanner, part) for part in stretches(scanner, scene.anatomy.height_mm)]
    slices = parts[0] if len(parts) == 1 else np.concatenate(parts)
    add_streaks(slices, scene.anatomy, axes)
    reconstruct(slices, scanner, levels=_shoulder_noise(scene.anatomy, axes), rng=rng)
    hu: np.ndarray = np.clip(np.rint(slices), LOWEST_HU, HIGHEST_HU).astype(np.int16)
    hu[:, ~seen(scanner)] = PADDING_HU
    return hu


def seen(scanner: Scanner) -> Bool[np.ndarray, "y x"]:
    """Mask of the reconstructed pixels; with padding, those in the circle."""
    if not scanner.padding:
        return np.ones((scanner.pixels, scanner.pixels), bool)
    steps = np.arange(scanner.pixels) - (scanner.pixels - 1) / 2
    return np.asarray(np.hypot(steps[:, None], steps) <= scanner.pixels / 2)


def slice_weights(scanner: Scanner, offset_mm: np.ndarray, step_mm: float) -> np.ndarray:
    """Weight of a thin slice in a thick one, by its offset from the centre; not normalised."""
    if scanner.profile == "gaussian":
        return np.asarray(np.exp(-4 * math.log(2) * (offset_mm / scanner.thickness_mm) ** 2))
    overlap = np.asarray((scanner.thickness_mm + step_mm) / 2 - np.abs(offset_mm))
    return np.asarray(np.clip(overlap, 0, min(step_mm, scanner.thickness_mm)))


def _thick_slices(scene: Scene, scanner: Scanner, axes: Axes) -> Float32[np.ndarray, "z y x"]:
    """Average thick slices from thin ones, which are rendered slab by slab."""
    parts = max(1, math.ceil(scanner.increment_mm / max(1.25, 1.25 * scanner.pixel_mm)))
    step = scanner.increment_mm / parts
    reach = scanner.thickness_mm * (1.0 if scanner.profile == "gaussian" else 0.5) + step
    extra = math.ceil(reach / step)
    # With an even number of parts the thin slices lie on both sides of each centre.
    shift = 0.5 * step if parts % 2 == 0 else 0.0
    fine = float(axes.z_mm[0]) + shift + step * np.arange(-extra, parts * len(axes.z_mm) + extra)
    weights = slice_weights(scanner, fine[None] - axes.z_mm[:, None].astype(np.float64), step)
    weights /= weights.sum(1, keepdims=True)
    out = np.zeros((len(axes.z_mm), scanner.pixels, scanner.pixels), np.float32)
    # A slice through a rolled or tilted patient crosses many upright slices: larger slabs share them.
    slab = max(2, (1 if is_upright(scene.anatomy) else 8) * _SLAB_VOXELS // scanner.pixels**2)
    for start in range(0, len(fine), slab):
        part = Axes(z_mm=fine[start : start + slab].astype(np.float32), y_mm=axes.y_mm, x_mm=axes.x_mm)
        columns = weights[:, start : start + slab]
        if columns.any():
            thin = render_hu(scene, part)
            for k, j in zip(*np.nonzero(columns), strict=True):
                out[k] += np.float32(columns[k, j]) * thin[j]
    return out


def _shoulder_noise(anatomy: Anatomy, axes: Axes) -> np.ndarray:
    """Noise of each slice over that of the mid chest: bones and arms at the shoulders absorb more photons."""
    height = np.clip((axes.z_mm - anatomy.height_mm + 60) / 50, 0, 1)
    return np.asarray(1 + (1.0 if anatomy.arms == "down" else 0.5) * height)


def reconstruct(
    slices: Float32[np.ndarray, "z y x"], scanner: Scanner, *, levels: np.ndarray, rng: np.random.Generator
) -> None:
    """Apply the kernel and add noise whose power spectrum is a ramp times the kernel's square, in place."""
    n = scanner.pixels
    frequency = np.hypot(fft.fftfreq(n, scanner.pixel_mm)[:, None], fft.rfftfreq(n, scanner.pixel_mm))
    transfer = _mtf(frequency, scanner.kernel).astype(np.float32)
    spectrum = np.sqrt(frequency) * transfer
    # White noise of variance 1 through this filter has the variance of the filter's mean square: the noise within
    # the pixels' limit, over that of the whole kernel.
    everywhere = np.linspace(0, 3, 3001)
    total = 2 * np.pi * np.sum(everywhere * everywhere * _mtf(everywhere, scanner.kernel) ** 2) * 0.001
    level = scanner.noise_hu * _NOISE_FACTOR[scanner.kernel] / math.sqrt(scanner.thickness_mm)
    spectrum *= level / (scanner.pixel_mm * math.sqrt(total))
    spectrum = spectrum.astype(np.float32)
    shared = max(0.0, 1 - scanner.increment_mm / scanner.thickness_mm)
    previous = np.zeros_like(transfer, np.complex64)
    for k, plane in enumerate(slices):
        fresh = fft.rfft2(rng.standard_normal((n, n), np.float32))
        # Overlapping slices share a part of their photons.
        noise = math.sqrt(1 - shared**2) * fresh + shared * previous if k else fresh
        previous = noise
        plane[:] = fft.irfft2(fft.rfft2(plane) * transfer + noise * (spectrum * np.float32(levels[k])), s=(n, n))


def _mtf(frequency: np.ndarray, kernel: str) -> np.ndarray:
    """Modulation transfer of a kernel at a frequency in 1/mm; the sharp one enhances edges."""
    half = _MTF50[kernel]
    if kernel == "soft":
        return np.asarray(np.exp(-math.log(2) * (frequency / half) ** 2))
    overshoot = 1 + 1.2 * (frequency / half) ** 2
    return np.asarray(overshoot * np.exp(-math.log(4.4) * (frequency / half) ** 2))
