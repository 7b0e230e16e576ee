"""Random changes to a batch in HU, on its device: slab, flips, one affine map, noise."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from hilum.config import AugmentConfig
from hilum.randomness import generator, torch_seed
from hilum.volume import AIR_HU


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AugmentParams:
    """What will be done to each case of a batch.

    Attributes:
        slab_mm: Thickness along z that is kept.
        flip: Whether to flip along (z, y, x).
        affine: Maps output to input positions relative to the centre, mm in (z, y, x, 1); identity: not resampled.
        noise_hu: Standard deviation of the noise.
        noise_seed: Seed of the noise.
    """

    slab_mm: Float64[np.ndarray, " b"]
    flip: Bool[np.ndarray, "b 3"]
    affine: Float64[np.ndarray, "b 3 4"]
    noise_hu: Float64[np.ndarray, " b"]
    noise_seed: list[int]


def draw(config: AugmentConfig, case_ids: list[str], *, seed: int, epoch: int) -> AugmentParams:
    """Parameters for a batch; each case's come from (seed, epoch, case) alone, whatever batch it is in."""
    slabs, flips, affines, noises = [], [], [], []
    for case_id in case_ids:
        random = generator(seed, epoch, case_id, "augment")
        thick = random.uniform(*(config.slab_mm or (0, 0)))
        slabs.append(thick if config.slab_mm else np.inf)
        flips.append(random.random(3) < config.flip)
        uniform = random.uniform(-1, 1, (3, 3))
        moved = random.random() < config.affine
        affines.append(_affine(config, uniform) if moved else np.eye(3, 4))
        strength = random.random() * config.noise_hu
        noises.append(strength if random.random() < config.noise else 0.0)
    return AugmentParams(
        slab_mm=np.array(slabs, float),
        flip=np.array(flips),
        affine=np.array(affines),
        noise_hu=np.array(noises, float),
        noise_seed=[torch_seed(seed, epoch, case_id, "noise") for case_id in case_ids],
    )


def apply(
    x: Float[Tensor, "b c z y x"],
    params: AugmentParams,
    spacing_mm: Float64[np.ndarray, "b 3"],
    *,
    outside: Literal["air", "edge"],
) -> Float[Tensor, "b c z y x"]:
    """The batch with the drawn changes; what comes in from outside is what the recipe says lies outside.

    The lungs go where the HU go, by the same map; they have no noise and end where the grid ends.

    Args:
        x: HU, and the lungs (0 or 1) where there is a second channel.
        params: From ``draw``.
        spacing_mm: Of each sample, (z, y, x).
        outside: What lies beyond the grid.
    """
    out = x.clone()
    for i in np.flatnonzero(np.isfinite(params.slab_mm)):
        out[i] = _slab(out[i], float(params.slab_mm[i]), float(spacing_mm[i, 0]))
    for i in np.flatnonzero(params.flip.any(axis=1)):
        out[i] = out[i].flip([1 + int(axis) for axis in np.flatnonzero(params.flip[i])])
    moved = np.flatnonzero((params.affine != np.eye(3, 4)).any(axis=(1, 2)))
    if len(moved):
        at = torch.from_numpy(moved).to(x.device)
        out[at] = _moved(out[at], params.affine[moved], spacing_mm[moved], edge=outside == "edge")
    for i in np.flatnonzero(params.noise_hu):
        random = torch.Generator(x.device).manual_seed(params.noise_seed[i])
        hu = out[i, :1]
        hu += float(params.noise_hu[i]) * torch.randn(hu.shape, generator=random, device=x.device)
    return out


def _affine(config: AugmentConfig, uniform: Float64[np.ndarray, "3 3"]) -> Float64[np.ndarray, "3 4"]:
    """Rotations about z, y and x, a scale and a shift, as one map of mm."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.radians(np.array(config.rotation_deg) * uniform[0])):
        i, j = (a for a in range(3) if a != axis)
        turn = np.eye(3)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    scale = 1 + config.scaling * uniform[1, 0]
    return np.concatenate([matrix / scale, (np.array(config.translation_mm) * uniform[2])[:, None]], axis=1)


def _slab(hu: Float[Tensor, "c z y x"], thickness_mm: float, step_mm: float) -> Float[Tensor, "c z y x"]:
    """The central slices within a thickness, the outermost of them repeated to the ends."""
    n = hu.shape[1]
    offset = (np.arange(n) - (n - 1) / 2) * step_mm
    kept = np.flatnonzero(np.abs(offset) <= max(thickness_mm / 2, step_mm / 2))
    return hu[:, np.clip(np.arange(n), kept[0], kept[-1])]


def _moved(
    x: Float[Tensor, "b c z y x"],
    affine: Float64[np.ndarray, "b 3 4"],
    spacing_mm: Float64[np.ndarray, "b 3"],
    *,
    edge: bool,
) -> Float[Tensor, "b c z y x"]:
    """One linear resampling. ``grid_sample`` counts (x, y, z) from -1 to 1, so mm are scaled by half the extent."""
    half = np.array(x.shape[2:]) * spacing_mm / 2
    theta = affine.copy()
    theta[:, :, :3] *= half[:, None, :] / half[:, :, None]
    theta[:, :, 3] /= half
    theta = theta[:, ::-1, [2, 1, 0, 3]].copy()
    grid = F.affine_grid(torch.from_numpy(theta).to(x), [len(x), 1, *x.shape[2:]], align_corners=False)
    hu, lungs = x[:, :1], x[:, 1:]
    if edge:
        hu = F.grid_sample(hu, grid, padding_mode="border", align_corners=False)
    else:
        hu = F.grid_sample(hu - AIR_HU, grid, padding_mode="zeros", align_corners=False) + AIR_HU
    if not lungs.shape[1]:
        return hu
    share = F.grid_sample(lungs, grid, padding_mode="zeros", align_corners=False)
    return torch.cat([hu, (share >= 0.5).to(hu)], dim=1)
