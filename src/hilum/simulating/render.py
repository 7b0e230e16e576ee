"""Fourth step of a simulated scan: anatomy, trees and lesions become HU without noise, and masks, on any grid."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8
from scipy import ndimage

from hilum.randomness import generator
from hilum.simulating.anatomy import (
    Anatomy,
    cavity_distance,
    diaphragm_height,
    heart_centre,
    heart_distance,
    lung_distance,
)
from hilum.simulating.draw import Axes, blend, box_around, draw_lesion, draw_tube, near_tube, share_inside
from hilum.simulating.lesions import Lesion, lesion_distance, spicules_of
from hilum.simulating.trees import Trees, Tube
from hilum.volume import AIR_HU

BONE_HU, MARROW_HU, WALL_HU, HOLE_HU, FISSURE_HU = 750.0, 220.0, 20.0, -970.0, -600.0
_TILE, _TILE_MM = 64, 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A patient with everything that lies in the chest.

    Attributes:
        anatomy: Body and lungs.
        trees: Airways and vessels.
        lesions: Findings, in the patient's frame.
    """

    anatomy: Anatomy
    trees: Trees
    lesions: tuple[Lesion, ...]


def render_hu(scene: Scene, axes: Axes) -> Float32[np.ndarray, "z y x"]:
    """HU without noise. Later structures cover earlier ones: opacities hide vessels' contrast, airways stay open."""
    anatomy = scene.anatomy
    hu = np.empty((len(axes.z_mm), len(axes.y_mm), len(axes.x_mm)), np.float32)
    hu[:] = _cross_section(anatomy, axes)
    _draw_shoulders(hu, anatomy, axes)
    width, depth = anatomy.cavity_mm
    chest = axes.within(
        (-width - 20, anatomy.cavity_y_mm - depth - 20, -1000.0),
        (width + 20, anatomy.cavity_y_mm + depth + 20, anatomy.height_mm + 20),
    )
    if chest is not None:
        _draw_chest(hu[chest], scene, axes.part(chest))
    for tube in scene.trees.airways:
        draw_tube(hu, tube, axes, hu_inside=WALL_HU, extra_mm=tube.wall_mm)
    for tube in scene.trees.airways:
        draw_tube(hu, tube, axes, hu_inside=float(AIR_HU))
    return hu


def lung_mask(anatomy: Anatomy, axes: Axes) -> UInt8[np.ndarray, "z y x"]:
    """1 in the right lung, 2 in the left, 0 elsewhere; vessels and lesions inside belong to the lung."""
    mask = np.zeros((len(axes.z_mm), len(axes.y_mm), len(axes.x_mm)), np.uint8)
    width, depth = anatomy.cavity_mm
    centre = anatomy.cavity_y_mm
    chest = axes.within((-width, centre - depth, 0.0), (width, centre + depth, anatomy.height_mm))
    if chest is not None:
        part = axes.part(chest)
        side = np.where(part.x_mm < anatomy.shift_mm, np.uint8(1), np.uint8(2))
        mask[chest] = (lung_distance(anatomy, *part.open) < 0) * side
    return mask


def airway_mask(trees: Trees, axes: Axes) -> UInt8[np.ndarray, "z y x"]:
    """1 in the lumen of trachea, bronchi and airways."""
    mask = np.zeros((len(axes.z_mm), len(axes.y_mm), len(axes.x_mm)), np.uint8)
    for tube in trees.airways:
        near = near_tube(tube, axes, margin_mm=0.0)
        if near is not None:
            mask[near[0]] |= near[1] < 0
    return mask


def lesion_mask(scene: Scene, axes: Axes, lungs: UInt8[np.ndarray, "z y x"]) -> UInt8[np.ndarray, "z y x"]:
    """The number of the lesion, counted from 1, in its part of the lungs; 0 elsewhere."""
    mask = np.zeros(lungs.shape, np.uint8)
    for number, lesion in enumerate(scene.lesions, start=1):
        box = box_around(lesion, axes)
        if box is not None:
            mask[box][(lesion_distance(lesion, *axes.part(box).open) < 0) & (lungs[box] > 0)] = number
    return mask


def _cross_section(anatomy: Anatomy, axes: Axes) -> np.ndarray:
    """Trunk without lungs, spine, breastbone, table: what is the same at every height."""
    _, y, x = (a[0] for a in axes.open)
    blur = axes.blur_mm
    hu = np.full((len(axes.y_mm), len(axes.x_mm)), AIR_HU, np.float32)
    width, depth = anatomy.body_mm
    trunk = (np.abs(x / width) ** 2.5 + np.abs(y / depth) ** 2.3 - 1) * (0.5 * (width + depth) / 2.4)
    behind = -1 if anatomy.prone else 1
    table = np.abs(behind * y - depth - 9 + 0.0009 * x * x) - 1.5
    blend(hu, share_inside(np.maximum(table, np.abs(x) - 230), blur), 60.0)
    blend(hu, share_inside(trunk, blur), anatomy.fat_hu)
    blend(hu, share_inside(trunk + anatomy.fat_mm, 2 * blur), anatomy.muscle_hu)
    # Fat around the heart and between the great vessels.
    front = np.hypot((x - anatomy.shift_mm) / 26, (y - anatomy.cavity_y_mm + 0.75 * anatomy.cavity_mm[1]) / 30) - 1
    blend(hu, 0.7 * share_inside(front * 25, 12.0), anatomy.fat_hu)
    sx, sy = anatomy.spine_mm
    body = np.hypot((x - sx) / 1.2, y - sy) - 16
    arch = np.maximum(np.abs(np.hypot(x - sx, y - sy - 24) - 12) - 3.5, 12 - (y - sy))
    spinous = np.maximum(np.abs(x - sx) - 4, np.abs(y - sy - 46) - 13)
    transverse = np.maximum(np.abs(x - sx) - 30, np.abs(y - sy - 24 - 0.1 * np.abs(x - sx)) - 4)
    bone = np.minimum(np.minimum(body, arch), np.minimum(spinous, transverse))
    sternum = np.hypot(x / 2.6, y - anatomy.cavity_y_mm + anatomy.cavity_mm[1] + 7) - 7
    bone = np.minimum(bone, sternum)
    blend(hu, share_inside(bone, blur), BONE_HU)
    blend(hu, share_inside(bone + 2.0, blur), MARROW_HU)
    return hu


def _draw_shoulders(hu: np.ndarray, anatomy: Anatomy, axes: Axes) -> None:
    """Arms beside the trunk or beside the head, with their bones, and collar bones."""
    top, width = anatomy.height_mm, anatomy.body_mm[0]
    for side in (-1, 1):
        joint = (side * (width + 6.0), 5.0, top - 8.0)
        down, up = (side * (width + 34), 15.0, top - 330), (side * (width - 25), -5.0, top + 300)
        hand = down if anatomy.arms == "down" else up
        for radius, filling in (
            (54.0, anatomy.fat_hu),
            (44.0, anatomy.muscle_hu),
        ):
            arm = Tube(start_mm=joint, end_mm=hand, radii_mm=(radius, 0.8 * radius))
            draw_tube(hu, arm, axes, hu_inside=filling, only_air=filling == anatomy.fat_hu)
        bones = [
            Tube(start_mm=joint, end_mm=hand, radii_mm=(21.0, 11.0)),
            Tube(
                start_mm=(side * 14.0, anatomy.cavity_y_mm - 0.85 * anatomy.cavity_mm[1], top - 12),
                end_mm=(side * (width - 30), -10.0, top + 14),
                radii_mm=(6.0, 6.0),
            ),
            Tube(
                start_mm=(side * (0.72 * width), 0.72 * anatomy.body_mm[1], top - 20),
                end_mm=(side * (0.66 * width), 0.70 * anatomy.body_mm[1], top - 120),
                radii_mm=(5.0, 3.0),
            ),
        ]
        for bone in bones:
            draw_tube(hu, bone, axes, hu_inside=BONE_HU)
            draw_tube(hu, bone, axes, hu_inside=MARROW_HU, extra_mm=-3.0)


def _draw_chest(hu: np.ndarray, scene: Scene, axes: Axes) -> None:
    """Ribs, heart, great vessels, gas in the bowel, lungs and all that lies in them."""
    anatomy, blur = scene.anatomy, axes.blur_mm
    z, y, x = axes.open
    _draw_ribs(hu, anatomy, axes)
    cx, cy, cz = heart_centre(anatomy)
    reach = 85 * anatomy.heart
    box = axes.within((cx - reach, cy - reach, cz - reach), (cx + reach, cy + reach, cz + reach))
    if box is not None:
        chambers = heart_distance(anatomy, *axes.part(box).open) + 7
        blend(hu[box], share_inside(chambers, 5.0), anatomy.blood_hu)
    for trunk in scene.trees.trunks:
        draw_tube(hu, trunk, axes, hu_inside=anatomy.blood_hu)
    for gas in _bowel_gas(anatomy):
        draw_lesion(hu, gas, axes, blur_mm=blur)
    distance = lung_distance(anatomy, z, y, x)
    inside = share_inside(distance, blur)
    chosen = np.flatnonzero(inside.any((1, 2)))
    if len(chosen) == 0:
        return
    rows = slice(int(chosen[0]), int(chosen[-1]) + 1)
    part = Axes(z_mm=axes.z_mm[rows], y_mm=axes.y_mm, x_mm=axes.x_mm)
    lung = _parenchyma(anatomy, part)
    for hole in _holes(anatomy):
        draw_lesion(lung, hole, part, blur_mm=blur + 2)
    for lesion in scene.lesions:
        draw_lesion(lung, lesion, part, blur_mm=blur + lesion.margin_mm)
        for strand in spicules_of(lesion):
            draw_tube(lung, strand, part, hu_inside=lesion.hu)
    for tube in scene.trees.vessels:
        draw_tube(lung, tube, part, hu_inside=anatomy.blood_hu, brighten=True)
    lung -= hu[rows]
    lung *= inside[rows]
    hu[rows] += lung


def _draw_ribs(hu: np.ndarray, anatomy: Anatomy, axes: Axes) -> None:
    """Bands in the shell around the lungs that fall from the spine to the front."""
    z, y, x = axes.open
    shell = cavity_distance(anatomy, z, y, x) - 6.5
    np.abs(shell, out=shell)
    turn = (z + 0.55 * y) * np.float32(2 * np.pi / 26)
    band = np.clip((np.cos(turn) - 0.25) * (4 / axes.blur_mm), 0, 1)
    band = band * (z < anatomy.height_mm - 8)
    # In front the ribs end in cartilage.
    band = band * np.clip((y - anatomy.cavity_y_mm + 0.75 * anatomy.cavity_mm[1]) / 12, 0.1, 1)
    cortex = share_inside(shell - 4.0, axes.blur_mm)
    cortex *= band
    blend(hu, cortex, 520.0)


def _parenchyma(anatomy: Anatomy, axes: Axes) -> np.ndarray:
    """Lung without vessels: density that follows gravity, patches of centimetres, texture of millimetres, fissures."""
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
    # The oblique fissures fall from behind to the front.
    sheet = 0.42 * anatomy.height_mm + 0.85 * (y - anatomy.cavity_y_mm) + 0.0012 * (np.abs(x) - 0.5 * depth) ** 2
    off = np.abs(z - sheet)
    off *= -1 / max(axes.blur_mm, 1.0)
    off += 1
    np.maximum(off, 0, out=off)
    off *= (FISSURE_HU - anatomy.lung_hu) * min(1.0, 1.2 / axes.blur_mm)
    hu += off
    return hu


def _holes(anatomy: Anatomy) -> list[Lesion]:
    """Centrilobular emphysema: dark holes, more of them in the upper half."""
    rng = generator(anatomy.seed, "holes")
    width, depth = anatomy.cavity_mm
    holes = []
    for _ in range(anatomy.emphysema):
        x, y, z = rng.uniform(-width, width), rng.uniform(-depth, depth), anatomy.height_mm * rng.beta(3, 2)
        size = rng.uniform(5, 16)
        holes.append(Lesion(kind="scar", centre_mm=(x, y, z), diameter_mm=size, hu=HOLE_HU, seed=anatomy.seed))
    return holes


def _bowel_gas(anatomy: Anatomy) -> list[Lesion]:
    """Gas in stomach and colon, close under the left dome, where a threshold takes it for lung."""
    rng = generator(anatomy.seed, "gas")
    width, _ = anatomy.cavity_mm
    gas = []
    for _ in range(int(rng.integers(0, 4))):
        size = rng.uniform(25, 55)
        x, y = rng.uniform(0.25, 0.65) * width, anatomy.cavity_y_mm - rng.uniform(-10, 45)
        roof = float(diaphragm_height(anatomy, np.array(y), np.array(x)))
        centre = (x, y, roof - 0.62 * size - rng.uniform(3, 25))
        gas.append(Lesion(kind="scar", centre_mm=centre, diameter_mm=size, hu=-960.0, axes=(1.2, 1.0, 0.8)))
    return gas
