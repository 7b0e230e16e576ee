"""Renders anatomy, trees and lesions as HU without noise, on any grid."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32
from scipy import ndimage

from hilum.randomness import generator
from hilum.simulating.anatomy import Anatomy, heart_centre, heart_distance, lung_distance
from hilum.simulating.body import (
    METAL_HU,
    bowel_gas,
    cross_section,
    metal_tubes,
    render_ribs,
    render_shoulders,
    table_share,
)
from hilum.simulating.lesions import Lesion, spicules_of
from hilum.simulating.pleura import air_distance, collapse, fluid_distance
from hilum.simulating.pose import is_upright, upright_grid
from hilum.simulating.rasterize import Axes, blend, render_lesion, render_tube, share_inside
from hilum.simulating.trees import Trees
from hilum.volume import AIR_HU

WALL_HU, HOLE_HU, FISSURE_HU, SKIN_HU = 20.0, -970.0, -600.0, -450.0
_TILE, _TILE_MM = 64, 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """Everything that is rendered of a patient.

    Attributes:
        anatomy: Body and lungs.
        trees: Airways and vessels.
        lesions: Lesions, in the patient's frame.
    """

    anatomy: Anatomy
    trees: Trees
    lesions: tuple[Lesion, ...]


def render_hu(scene: Scene, axes: Axes) -> Float32[np.ndarray, "z y x"]:
    """Render HU without noise. Later structures cover earlier ones: opacities hide vessels, airways stay open.

    Rolled or tilted patients are rendered upright, then rotated with one linear interpolation; the table is not.
    """
    if is_upright(scene.anatomy):
        return _render_upright(scene, axes)
    grid, matrix, offset = upright_grid(scene.anatomy, axes)
    shape = (len(axes.z_mm), len(axes.y_mm), len(axes.x_mm))
    straight = _render_upright(scene, grid)
    hu: np.ndarray = ndimage.affine_transform(straight, matrix, offset, shape, order=1, mode="nearest")
    hu += table_share(scene.anatomy, axes) * (hu < -500) * (60.0 - hu)
    return hu


def _render_upright(scene: Scene, axes: Axes) -> Float32[np.ndarray, "z y x"]:
    anatomy = scene.anatomy
    hu = np.empty((len(axes.z_mm), len(axes.y_mm), len(axes.x_mm)), np.float32)
    hu[:] = cross_section(anatomy, axes)
    render_shoulders(hu, anatomy, axes)
    width, depth = anatomy.cavity_mm
    chest = axes.within(
        (-width - 20, anatomy.cavity_y_mm - depth - 20, -1000.0),
        (width + 20, anatomy.cavity_y_mm + depth + 20, anatomy.height_mm + 20),
    )
    if chest is not None:
        _render_chest(hu[chest], scene, axes.part(chest))
    for tube in scene.trees.airways:
        render_tube(hu, tube, axes, hu_inside=WALL_HU, extra_mm=tube.wall_mm)
    for tube in scene.trees.airways:
        render_tube(hu, tube, axes, hu_inside=float(AIR_HU))
    for tube in metal_tubes(anatomy):
        render_tube(hu, tube, axes, hu_inside=METAL_HU)
    return hu


def _render_chest(hu: np.ndarray, scene: Scene, axes: Axes) -> None:
    """Render ribs, heart, great vessels, bowel gas, and the lungs with their content."""
    anatomy, blur = scene.anatomy, axes.blur_mm
    z, y, x = axes.open
    render_ribs(hu, anatomy, axes)
    cx, cy, cz = heart_centre(anatomy)
    reach = 85 * anatomy.heart
    box = axes.within((cx - reach, cy - reach, cz - reach), (cx + reach, cy + reach, cz + reach))
    if box is not None:
        chambers = heart_distance(anatomy, *axes.part(box).open) + 7
        blend(hu[box], share_inside(chambers, 5.0), anatomy.blood_hu)
    for trunk in scene.trees.trunks:
        render_tube(hu, trunk, axes, hu_inside=anatomy.blood_hu)
    for gas in bowel_gas(anatomy):
        render_lesion(hu, gas, axes, blur_mm=blur)
    distance = lung_distance(anatomy, z, y, x)
    inside = share_inside(distance, blur)
    chosen = np.flatnonzero(inside.any((1, 2)))
    if len(chosen) == 0:
        return
    rows = slice(int(chosen[0]), int(chosen[-1]) + 1)
    part = Axes(z_mm=axes.z_mm[rows], y_mm=axes.y_mm, x_mm=axes.x_mm)
    lung = _parenchyma(anatomy, part)
    _condense(lung, anatomy, part)
    for hole in _holes(anatomy):
        render_lesion(lung, hole, part, blur_mm=blur + 2)
    for lesion in scene.lesions:
        render_lesion(lung, lesion, part, blur_mm=blur + lesion.margin_mm)
        for strand in spicules_of(lesion):
            render_tube(lung, strand, part, hu_inside=lesion.hu)
    for tube in scene.trees.vessels:
        render_tube(lung, tube, part, hu_inside=anatomy.blood_hu, brighten=True)
    _render_pleura(lung, anatomy, part)
    lung -= hu[rows]
    lung *= inside[rows]
    hu[rows] += lung


def _condense(lung: np.ndarray, anatomy: Anatomy, axes: Axes) -> None:
    """Increase the density of a collapsed lung, which holds the same tissue in less volume."""
    for side in (-1, 1):
        factor = collapse(anatomy, side)
        if factor > 1:
            beyond = side * (axes.x_mm - anatomy.shift_mm) > 0
            lung[..., beyond] = AIR_HU + factor * (lung[..., beyond] - AIR_HU)


def _render_pleura(lung: np.ndarray, anatomy: Anatomy, axes: Axes) -> None:
    """Render free air with the visceral pleura at its border, and fluid."""
    air, fluid = air_distance(anatomy, *axes.open), fluid_distance(anatomy, *axes.open)
    if air is not None:
        blend(lung, share_inside(air, axes.blur_mm), float(AIR_HU))
        blend(lung, min(1.0, 1.0 / axes.blur_mm) * share_inside(np.abs(air) - 0.5, axes.blur_mm), SKIN_HU)
    if fluid is not None:
        blend(lung, share_inside(fluid, axes.blur_mm), anatomy.pleura.fluid_hu)


def _parenchyma(anatomy: Anatomy, axes: Axes) -> np.ndarray:
    """Render parenchyma: density with gravity, variation over centimetres, texture of millimetres, and fissures."""
    rng = generator(anatomy.seed, "texture")
    tile = ndimage.gaussian_filter(rng.standard_normal((_TILE,) * 3, np.float32), 0.8, mode="wrap")
    tile *= anatomy.texture_hu / tile.std()
    cells = [np.round(axis / _TILE_MM).astype(np.intp) % _TILE for axis in (axes.z_mm, axes.y_mm, axes.x_mm)]
    hu: np.ndarray = tile[np.ix_(*cells)]
    z, y, x = axes.open
    down = -1 if anatomy.prone else 1
    plane = anatomy.lung_hu + down * anatomy.gradient_hu_cm / 10 * (y - anatomy.cavity_y_mm)
    hu += plane.astype(np.float32)
    for _ in range(2):
        fz, fy, fx = (np.float32(2 * np.pi / rng.uniform(50, 120)) for _ in range(3))
        pz, py, px = (np.float32(p) for p in rng.uniform(0, 2 * np.pi, 3))
        wave = np.cos(fy * y + py) * np.cos(fx * x + px) * np.float32(1.4 * anatomy.patchiness_hu)
        hu += np.cos(fz * z + pz) * wave
    _, depth = anatomy.cavity_mm
    # The oblique fissures descend from back to front.
    sheet = 0.42 * anatomy.height_mm + 0.85 * (y - anatomy.cavity_y_mm) + 0.0012 * (np.abs(x) - 0.5 * depth) ** 2
    off = np.abs(z - sheet)
    off *= -1 / max(axes.blur_mm, 1.0)
    off += 1
    np.maximum(off, 0, out=off)
    off *= (FISSURE_HU - anatomy.lung_hu) * min(1.0, 1.2 / axes.blur_mm)
    hu += off
    return hu


def _holes(anatomy: Anatomy) -> list[Lesion]:
    """Holes of centrilobular emphysema, more of them in the upper half."""
    rng = generator(anatomy.seed, "holes")
    width, depth = anatomy.cavity_mm
    holes = []
    for _ in range(anatomy.emphysema):
        x, y, z = rng.uniform(-width, width), rng.uniform(-depth, depth), anatomy.height_mm * rng.beta(3, 2)
        size = rng.uniform(5, 16)
        holes.append(Lesion(kind="scar", centre_mm=(x, y, z), diameter_mm=size, hu=HOLE_HU, seed=anatomy.seed))
    return holes
