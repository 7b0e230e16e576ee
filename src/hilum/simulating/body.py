"""Renders the trunk of a simulated patient: soft tissue, bones, arms, table, bowel gas and metal.

Shapes, sizes and densities are rules of thumb.
"""

from itertools import pairwise

import numpy as np

from hilum.randomness import generator
from hilum.simulating.anatomy import Anatomy, cavity_distance, diaphragm_height
from hilum.simulating.lesions import Lesion
from hilum.simulating.pleura import rotation
from hilum.simulating.pose import is_upright
from hilum.simulating.rasterize import Axes, blend, render_tube, share_inside
from hilum.simulating.trees import Tube
from hilum.volume import AIR_HU

BONE_HU, MARROW_HU, METAL_HU = 750.0, 220.0, 9000.0


def cross_section(anatomy: Anatomy, axes: Axes) -> np.ndarray:
    """Cross-section of trunk, spine and sternum, and of the table for a straight patient: the same at every height."""
    _, y, x = (a[0] for a in axes.open)
    blur = axes.blur_mm
    hu = np.full((len(axes.y_mm), len(axes.x_mm)), AIR_HU, np.float32)
    width, depth = anatomy.body_mm
    trunk = (np.abs(x / width) ** 2.5 + np.abs(y / depth) ** 2.3 - 1) * (0.5 * (width + depth) / 2.4)
    if is_upright(anatomy):
        blend(hu, table_share(anatomy, axes), 60.0)
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


def table_share(anatomy: Anatomy, axes: Axes) -> np.ndarray:
    """Share of each pixel (y, x), in the scanner's frame, that the table fills; it supports the lowest edge."""
    _, y, x = (a[0] for a in axes.open)
    width, depth = anatomy.body_mm
    turned = rotation(anatomy)
    # The corners of a rolled trunk are rounded: it reaches less far down than its box.
    lowest = depth if is_upright(anatomy) else float(np.hypot(0.9 * width * turned[1, 0], depth * turned[1, 1]))
    behind = -1 if anatomy.prone else 1
    table = np.abs(behind * y - lowest - 9 + 0.0009 * x * x) - 1.5
    return share_inside(np.maximum(table, np.abs(x) - 230), axes.blur_mm)


def render_shoulders(hu: np.ndarray, anatomy: Anatomy, axes: Axes) -> None:
    """Render arms beside the trunk or the head, with their bones, and clavicles."""
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
            render_tube(hu, arm, axes, hu_inside=filling, only_air=filling == anatomy.fat_hu)
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
            render_tube(hu, bone, axes, hu_inside=BONE_HU)
            render_tube(hu, bone, axes, hu_inside=MARROW_HU, extra_mm=-3.0)


def render_ribs(hu: np.ndarray, anatomy: Anatomy, axes: Axes) -> None:
    """Render ribs: bands in the shell around the lungs that descend from the spine to the front."""
    z, y, x = axes.open
    shell = cavity_distance(anatomy, z, y, x) - 6.5
    np.abs(shell, out=shell)
    turn = (z + 0.55 * y) * np.float32(2 * np.pi / 26)
    band = np.clip((np.cos(turn) - 0.25) * (4 / axes.blur_mm), 0, 1)
    band = band * (z < anatomy.height_mm - 8)
    # Anteriorly the ribs end in cartilage.
    band = band * np.clip((y - anatomy.cavity_y_mm + 0.75 * anatomy.cavity_mm[1]) / 12, 0.1, 1)
    cortex = share_inside(shell - 4.0, axes.blur_mm)
    cortex *= band
    blend(hu, cortex, 520.0)


def bowel_gas(anatomy: Anatomy) -> list[Lesion]:
    """Gas in stomach and colon, close below the left dome, where a threshold mistakes it for lung."""
    rng = generator(anatomy.seed, "gas")
    width, _ = anatomy.cavity_mm
    gas = []
    for _ in range(int(rng.integers(0, 4))):
        size = rng.uniform(25, 55)
        x, y = rng.uniform(0.25, 0.65) * width, anatomy.cavity_y_mm - rng.uniform(-10, 45)
        roof = float(diaphragm_height(anatomy, np.array(y), np.array(x)))
        centre = (x, y, roof - 0.62 * size - rng.uniform(3, 25))
        gas.append(Lesion(kind="scar", centre_mm=centre, diameter_mm=size, hu=-960.0, axes=(1.2, 1.0, 0.8)))
    return gas + _full_bowel(anatomy)


def _full_bowel(anatomy: Anatomy) -> list[Lesion]:
    """A stomach full of gas below the left dome, and gas-filled colon below both."""
    size = anatomy.bowel_gas_mm
    if size == 0:
        return []
    width, _ = anatomy.cavity_mm
    loops = [(0.45, -15.0, 1.0)] + [(0.12 * k, -40.0, 0.55) for k in range(-5, 6)]
    gas = []
    for across, forward, share in loops:
        x, y = across * width, anatomy.cavity_y_mm + forward
        roof = float(diaphragm_height(anatomy, np.array(y), np.array(x)))
        flat = 0.75 if share == 1 else 1.0
        z = roof - 0.5 * share * size * flat - 4.0
        gas.append(Lesion(kind="scar", centre_mm=(x, y, z), diameter_mm=share * size, hu=-990.0, axes=(1.1, 1.0, flat)))
    return gas


def metal_tubes(anatomy: Anatomy) -> tuple[Tube, ...]:
    """Tubes of an implant: pacemaker with leads, or rods with screws."""
    front, top = anatomy.cavity_y_mm - anatomy.cavity_mm[1], anatomy.height_mm
    if anatomy.metal == "pacemaker":
        x, y, z = 0.55 * anatomy.cavity_mm[0], front - 8.0, top - 55.0
        can = [
            Tube(start_mm=(x - 14, y, z + lift), end_mm=(x + 14, y, z + lift), radii_mm=(4.5, 4.5))
            for lift in (-14.0, -7.0, 0.0, 7.0, 14.0)
        ]
        vein = (anatomy.shift_mm - 22.0, 0.5 * front, 0.72 * top)
        tip = (anatomy.shift_mm + 15.0, 0.6 * front, 0.35 * top)
        lead = ((x - 14, y, z + 10), (20.0, 0.65 * front, top - 15.0), vein, tip)
        return (*can, *(Tube(start_mm=a, end_mm=b, radii_mm=(1.2, 1.2)) for a, b in pairwise(lead)))
    if anatomy.metal == "rods":
        (_, y), low, high = anatomy.spine_mm, 0.15 * top, 0.7 * top
        rods = [Tube(start_mm=(x, y + 34, low), end_mm=(x, y + 34, high), radii_mm=(3.0, 3.0)) for x in (-17.0, 17.0)]
        screws = [
            Tube(start_mm=(x, y + 34, z), end_mm=(0.55 * x, y, z), radii_mm=(3.0, 2.5))
            for x in (-17.0, 17.0)
            for z in np.linspace(low, high, 4).tolist()
        ]
        return (*rods, *screws)
    return ()
