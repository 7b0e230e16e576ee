"""Simulates a scan with its truth: patient, lesions and scanner from a seed."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import UInt8

from hilum.randomness import generator
from hilum.simulating.anatomy import Anatomy, sample_anatomy
from hilum.simulating.lesions import DISEASES, Disease, Lesion, sample_disease
from hilum.simulating.masks import airway_mask, field_mask, lesion_mask, without_fluid
from hilum.simulating.pose import to_scanner
from hilum.simulating.rasterize import Axes
from hilum.simulating.render import Scene
from hilum.simulating.scanner import Scanner, acquire, grid_of, sample_scanner, seen, seen_at, stretches
from hilum.simulating.trees import grow_trees
from hilum.volume import Tags, Volume, affine_from


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Truth:
    """Truth of a simulated scan, on its grid; masks are 0 in padding.

    Attributes:
        lungs: 1 in the right lung, 2 in the left, including vessels, lesions of any density and the free air of a
            pneumothorax, which only a network could tell from a bulla; without fluid and great airways.
        field: 1 in the right lung field, 2 in the left: the lungs and fluid around them; 0 for a missing lung.
        airways: 1 in the lumen of trachea and airways.
        lesion_numbers: Number of the lesion in ``lesions``, from 1; else 0.
        lesions: The lesions, with centres in LPS mm of the scan.
        label: 1 if any lesion is a mass, a consolidation or a ground-glass opacity.
        anatomy: The patient, in the patient's frame.
        scanner: Settings of the scan.
    """

    lungs: UInt8[np.ndarray, "z y x"]
    field: UInt8[np.ndarray, "z y x"]
    airways: UInt8[np.ndarray, "z y x"]
    lesion_numbers: UInt8[np.ndarray, "z y x"]
    lesions: tuple[Lesion, ...]
    label: int
    anatomy: Anatomy
    scanner: Scanner


def simulate_scan(
    seed: int,
    *,
    key: str = "scan",
    disease: Disease = "none",
    anatomy: Anatomy | None = None,
    lesions: tuple[Lesion, ...] | None = None,
    scanner: Scanner | None = None,
) -> tuple[Volume, Truth]:
    """Simulate a chest CT with its truth; the same arguments give the same scan, bit for bit.

    Args:
        seed: Seed, together with the key, of everything that is not given.
        key: Name of the scan.
        disease: Disease of which lesions are sampled, unless they are given.
        anatomy: The patient.
        lesions: Lesions, in the patient's frame.
        scanner: Settings of the scan.

    Returns:
        The volume, int16 HU, and its truth.
    """
    if anatomy is None:
        anatomy = sample_anatomy(generator(seed, key, "anatomy"))
    if lesions is None:
        lesions = sample_disease(anatomy, disease, rng=generator(seed, key, "lesions"))
    if scanner is None:
        scanner = sample_scanner(generator(seed, key, "scanner"))
    scene = Scene(anatomy=anatomy, trees=grow_trees(anatomy), lesions=lesions)
    voxels = acquire(scene, scanner, rng=generator(seed, key, "noise"))
    axes = grid_of(scanner, anatomy.height_mm)
    # The scanner's origin lies anywhere in the patient; in whole 1/1000 mm, as formats store it.
    offset = np.round(generator(seed, key, "table").uniform([-20, -180, -700], [20, -60, 100]), 3)
    first = np.array([axes.x_mm[0], axes.y_mm[0], axes.z_mm[0]], np.float64)
    origin = np.round(first + offset, 3)
    affine = affine_from(
        spacing_mm=(scanner.increment_mm, scanner.pixel_mm, scanner.pixel_mm),
        origin_mm=(float(origin[0]), float(origin[1]), float(origin[2])),
    )
    tags = Tags(
        modality="CT",
        kernel=scanner.kernel,
        thickness_mm=scanner.thickness_mm,
        manufacturer="Hilum simulation",
        model="Phantom",
        tube_voltage_kv=120.0,
    )
    field, lungs, airways, found = (
        masks[0] if len(masks) == 1 else np.concatenate(masks)
        for masks in zip(*(_masks(scene, part) for part in stretches(scanner, anatomy.height_mm)), strict=True)
    )
    for mask in (field, lungs, airways, found):
        mask[:, ~seen(scanner)] = 0
    truth = Truth(
        lungs=lungs,
        field=field,
        airways=airways,
        lesion_numbers=found,
        lesions=tuple(_moved(lesion, anatomy, scanner, offset) for lesion in lesions),
        label=int(any(lesion.kind in DISEASES for lesion in lesions)),
        anatomy=anatomy,
        scanner=scanner,
    )
    return Volume(voxels_hu=voxels, affine=affine, tags=tags), truth


def _masks(scene: Scene, axes: Axes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lung fields, lungs, airways and lesions on one part of the scan's grid."""
    field = field_mask(scene.anatomy, axes)
    lungs = without_fluid(scene.anatomy, axes, field)
    return field, lungs, airway_mask(scene.anatomy, scene.trees, axes), lesion_mask(scene, axes, lungs)


def _moved(lesion: Lesion, anatomy: Anatomy, scanner: Scanner, offset_mm: np.ndarray) -> Lesion:
    place = seen_at(scanner, anatomy.height_mm, to_scanner(anatomy, lesion.centre_mm))
    x, y, z = (float(c + o) for c, o in zip(place, offset_mm, strict=True))
    return replace(lesion, centre_mm=(x, y, z))
