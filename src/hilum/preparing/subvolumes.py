"""Crops grids of the model's size from a larger sample: a random one, or all that cover it."""

import numpy as np
from jaxtyping import Int, Int16

from hilum.settings.recipe import Recipe, Size
from hilum.volume import Volume

_TRIES = 200
"""Random voxels that are tried before all voxels of the lungs are listed, which takes far longer."""


def channels(volume: Volume, recipe: Recipe) -> Int16[np.ndarray, "c z y x"]:
    """HU of a sample and, if the recipe asks for it, the lung mask as a second channel."""
    hu = np.array(volume.voxels_hu, np.int16)  # a copy, for a stored sample is read-only
    if not recipe.lung_channel:
        return hu[None]
    lungs = np.zeros(hu.shape, np.int16) if volume.lungs is None else volume.lungs.astype(np.int16)
    return np.stack([hu, lungs])


def cut(volume: Volume, recipe: Recipe, start: Size) -> Int16[np.ndarray, "c z y x"]:
    """The channels of the grid that begins at a voxel (z, y, x) of a sample."""
    box = tuple(slice(s, s + n) for s, n in zip(start, recipe.size, strict=True))
    lungs = None if volume.lungs is None else volume.lungs[box]
    part = Volume(voxels_hu=volume.voxels_hu[box], affine=volume.affine, lungs=lungs)
    return channels(part, recipe)


def all_starts(volume: Volume, recipe: Recipe) -> Int[np.ndarray, "n 3"]:
    """First voxels (z, y, x) of the grids that cover a sample; grids without lung are left out.

    The grids are evenly spaced, the last ends at the border, and each shares at least ``recipe.overlap`` with the next.
    If the lung mask is unknown or empty, none is left out.
    """
    axes = []
    for length, size in zip(volume.shape, recipe.size, strict=True):
        stride = max(1, int(size * (1 - recipe.overlap) + 1e-9))
        count = -(-(length - size) // stride) + 1
        axes.append(np.rint(np.linspace(0, length - size, count)).astype(int))
    starts = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    if volume.lungs is None:
        return starts
    boxes = [tuple(slice(s, s + n) for s, n in zip(start, recipe.size, strict=True)) for start in starts]
    holds = np.array([volume.lungs[box].any() for box in boxes])
    return starts[holds] if holds.any() else starts


def random_start(volume: Volume, recipe: Recipe, random: np.random.Generator) -> Size:
    """First voxel (z, y, x) of a random grid around a random voxel of the lungs, if these are known.

    The voxel lies in the centre of the grid, or as near to it as the sample's border allows. Without lungs all grids
    are equally likely.
    """
    size, shape = np.array(recipe.size), np.array(volume.shape)
    voxel = None if volume.lungs is None else _random_voxel(volume.lungs, random)
    if voxel is None:
        return _size(random.integers(shape - size + 1))
    return _size(np.clip(voxel - size // 2, 0, shape - size))


def _random_voxel(mask: np.ndarray, random: np.random.Generator) -> np.ndarray | None:
    """Index of a random true voxel; None if there is none."""
    for voxel in random.integers(mask.shape, size=(_TRIES, 3)):
        if mask[tuple(voxel)]:
            return np.asarray(voxel)
    inside = np.flatnonzero(mask)
    if not len(inside):
        return None
    return np.array(np.unravel_index(inside[random.integers(len(inside))], mask.shape))


def _size(start: np.ndarray) -> Size:
    z, y, x = (int(s) for s in start)
    return z, y, x
