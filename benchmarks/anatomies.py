"""Simulates scans without lungs: a head and an abdomen, in which no lungs must be found."""

import numpy as np

from hilum.randomness import generator
from hilum.simulating.rasterize import blend, share_inside
from hilum.simulating.scanner import Scanner, reconstruct
from hilum.volume import AIR_HU, HIGHEST_HU, LOWEST_HU, Tags, Volume, affine_from

_Grid = tuple[np.ndarray, np.ndarray, np.ndarray]
_Ball = tuple[tuple[float, float, float], tuple[float, float, float], float]
"""Centre (x, y, z), half axes (x, y, z), all in mm, and HU."""

_HEAD: tuple[_Ball, ...] = (
    ((0.0, 0.0, 30.0), (79.0, 98.0, 92.0), 45.0),  # scalp
    ((0.0, 20.0, -75.0), (58.0, 62.0, 90.0), 50.0),  # neck
    ((0.0, -45.0, -40.0), (58.0, 58.0, 58.0), 45.0),  # face
    ((0.0, 0.0, 30.0), (73.0, 92.0, 86.0), 1100.0),  # skull
    ((0.0, 0.0, 30.0), (67.0, 86.0, 80.0), 36.0),  # brain
    ((0.0, -5.0, 40.0), (9.0, 32.0, 14.0), 8.0),  # ventricles
    ((0.0, 35.0, -75.0), (17.0, 17.0, 90.0), 420.0),  # cervical spine
    ((0.0, -62.0, -62.0), (36.0, 34.0, 12.0), 700.0),  # jaws
    ((-36.0, 18.0, -18.0), (20.0, 18.0, 18.0), 850.0),  # temporal bones
    ((36.0, 18.0, -18.0), (20.0, 18.0, 18.0), 850.0),
    ((-28.0, -68.0, -20.0), (15.0, 17.0, 17.0), -1000.0),  # maxillary sinuses
    ((28.0, -68.0, -20.0), (15.0, 17.0, 17.0), -1000.0),
    ((0.0, -82.0, 12.0), (22.0, 8.0, 12.0), -1000.0),  # frontal sinus
    ((0.0, -40.0, -8.0), (14.0, 13.0, 11.0), -1000.0),  # sphenoid sinus
    ((0.0, -68.0, -22.0), (9.0, 34.0, 20.0), -1000.0),  # nose
    ((0.0, -12.0, -55.0), (13.0, 9.0, 42.0), -1000.0),  # pharynx
    ((0.0, -50.0, -62.0), (20.0, 26.0, 5.0), -1000.0),  # mouth
    ((0.0, -2.0, -120.0), (9.0, 9.0, 45.0), -1000.0),  # larynx
)
_ABDOMEN: tuple[_Ball, ...] = (
    ((-55.0, -10.0, 90.0), (85.0, 75.0, 85.0), 60.0),  # liver
    ((95.0, 30.0, 110.0), (30.0, 40.0, 50.0), 50.0),  # spleen
    ((-60.0, 45.0, 30.0), (28.0, 26.0, 55.0), 35.0),  # kidneys
    ((60.0, 45.0, 40.0), (28.0, 26.0, 55.0), 35.0),
    ((0.0, 62.0, 0.0), (21.0, 18.0, 500.0), 350.0),  # spine
    ((0.0, 95.0, 0.0), (5.0, 15.0, 500.0), 450.0),
    ((5.0, 35.0, 0.0), (10.0, 10.0, 500.0), 45.0),  # aorta
    ((-85.0, 35.0, -125.0), (32.0, 45.0, 60.0), 380.0),  # hip bones
    ((85.0, 35.0, -125.0), (32.0, 45.0, 60.0), 380.0),
    ((0.0, 70.0, -130.0), (38.0, 18.0, 50.0), 350.0),  # sacrum
    ((0.0, -20.0, -150.0), (38.0, 32.0, 30.0), 5.0),  # bladder
)


def simulate_head(seed: int, *, pixel_mm: float = 1.0, thickness_mm: float = 2.5) -> Volume:
    """Simulate head and neck in HU (int16), with skull, brain and the air of sinuses, mastoids, mouth and throat."""
    rng = generator(seed, "head")
    mastoids: list[_Ball] = [
        ((side * rng.uniform(28, 50), rng.uniform(10, 30), rng.uniform(-38, -5)), (2.5, 2.5, 2.5), -850.0)
        for side in (-1, 1)
        for _ in range(40)
    ]
    cells: list[_Ball] = [
        ((side * rng.uniform(3, 12), rng.uniform(-75, -45), rng.uniform(-8, 6)), (3.5, 4.0, 4.0), -950.0)
        for side in (-1, 1)
        for _ in range(10)
    ]
    return _scan("head", seed, [*_HEAD, *mastoids, *cells], (-130.0, 130.0), 250.0, pixel_mm, thickness_mm)


def simulate_abdomen(seed: int, *, pixel_mm: float = 1.5, thickness_mm: float = 5.0) -> Volume:
    """Simulate abdomen and pelvis below the lungs in HU (int16), with gas in stomach and colon."""
    rng = generator(seed, "abdomen")
    trunk: list[_Ball] = [
        ((0.0, 0.0, 0.0), (175.0, 118.0, 2000.0), -105.0),
        ((0.0, 2.0, 0.0), (152.0, 96.0, 2000.0), 50.0),
    ]
    trunk.append(((0.0, -18.0, 0.0), (125.0, 68.0, 2000.0), -90.0))  # fat between the bowel
    loops: list[_Ball] = []
    for _ in range(45):
        centre = rng.uniform(-95, 95), rng.uniform(-65, 10), rng.uniform(-110, 60)
        loops.append((centre, (14.0, 14.0, 20.0), 25.0))
    gas: list[_Ball] = [((60.0, -35.0, 95.0), (38.0, 24.0, 26.0), -1000.0)]
    frame = [(-110.0, 10.0, -90.0), (-110.0, 5.0, -50.0), (-110.0, 0.0, -10.0), (110.0, 10.0, -80.0), (110.0, 5.0, 0.0)]
    frame += [(-60.0, -55.0, 35.0), (-20.0, -55.0, 35.0), (20.0, -55.0, 35.0)]
    for x, y, z in [*frame, *((rng.uniform(-80, 80), -50.0, rng.uniform(-100, 0)) for _ in range(3))]:
        loops.append(((x, y, z), (25.0, 23.0, 28.0), 20.0))
        gas.append(((x, y - 4.0, z), (20.0, 16.0, 22.0), -1000.0))
    return _scan("abdomen", seed, [*trunk, *_ABDOMEN, *loops, *gas], (-190.0, 150.0), 400.0, pixel_mm, thickness_mm)


def _scan(
    name: str,
    seed: int,
    balls: list[_Ball],
    z_mm: tuple[float, float],
    extent_mm: float,
    pixel_mm: float,
    thickness_mm: float,
) -> Volume:
    """Render ellipsoids, later ones over earlier ones, on a table, with the noise of a soft kernel."""
    scanner = Scanner(
        pixel_mm=pixel_mm,
        pixels=round(extent_mm / pixel_mm),
        thickness_mm=thickness_mm,
        increment_mm=thickness_mm,
        noise_hu=15.0,
    )
    steps = ((np.arange(scanner.pixels) - (scanner.pixels - 1) / 2) * pixel_mm).astype(np.float32)
    z = np.arange(z_mm[0], z_mm[1], thickness_mm).astype(np.float32)
    grid = z[:, None, None], steps[:, None], steps
    hu = np.full((len(z), len(steps), len(steps)), AIR_HU, np.float32)
    for ball in balls:
        _render_ball(hu, ball, grid, pixel_mm)
    low = max(centre[1] + half[1] for centre, half, _ in balls[:3]) + 6
    table = np.abs(grid[1] - low - 0.0009 * grid[2] ** 2) - 1.5
    hu += share_inside(table, pixel_mm) * (hu < -500) * (60 - hu)
    reconstruct(hu, scanner, levels=np.ones(len(z)), rng=generator(seed, name, "noise"))
    affine = affine_from(
        spacing_mm=(thickness_mm, pixel_mm, pixel_mm), origin_mm=(float(steps[0]), float(steps[0]), float(z[0]))
    )
    tags = Tags(modality="CT", kernel="soft", thickness_mm=thickness_mm, manufacturer="Hilum simulation")
    return Volume(voxels_hu=np.clip(np.rint(hu), LOWEST_HU, HIGHEST_HU).astype(np.int16), affine=affine, tags=tags)


def _render_ball(hu: np.ndarray, ball: _Ball, grid: _Grid, blur_mm: float) -> None:
    centre, half, density = ball
    box = tuple(
        slice(*np.searchsorted(axis.ravel(), (c - h - blur_mm, c + h + blur_mm)).tolist())
        for axis, c, h in zip(grid, centre[::-1], half[::-1], strict=True)
    )
    z, y, x = (
        (axis.ravel()[part] - np.float32(c)) / np.float32(h)
        for axis, part, c, h in zip(grid, box, centre[::-1], half[::-1], strict=True)
    )
    distance = (np.sqrt(z[:, None, None] ** 2 + y[:, None] ** 2 + x**2) - 1) * np.float32(min(half))
    blend(hu[box], share_inside(distance, blur_mm), density)
