"""Truth of a simulated scan: masks of lungs, lung fields, airways and lesions on the scan's grid."""

from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import UInt8

from hilum.simulating.anatomy import Anatomy, Pleura
from hilum.simulating.lesions import lesion_distance
from hilum.simulating.pleura import air_distance, fluid_distance, space_distance
from hilum.simulating.pose import in_patient, is_upright, lesion_in_scanner, tube_in_scanner
from hilum.simulating.rasterize import Axes, Box, box_around, near_tube
from hilum.simulating.render import Scene
from hilum.simulating.trees import Trees

_SLAB_VOXELS = 4_000_000


def field_mask(anatomy: Anatomy, axes: Axes) -> UInt8[np.ndarray, "z y x"]:
    """1 in the right pleural space, 2 in the left, else 0: lung, fluid and free air; 0 for a missing lung."""
    mask = np.zeros((len(axes.z_mm), len(axes.y_mm), len(axes.x_mm)), np.uint8)
    for box in _chest(anatomy, axes):
        z, y, x = in_patient(anatomy, axes.part(box))
        side = np.where(x < anatomy.shift_mm, np.uint8(1), np.uint8(2))
        mask[box] = (space_distance(anatomy, z, y, x) < 0) * side
    return mask


def without_fluid(anatomy: Anatomy, axes: Axes, field: UInt8[np.ndarray, "z y x"]) -> UInt8[np.ndarray, "z y x"]:
    """Remove fluid from lung fields, which gives the lungs with vessels, lesions and free air."""
    return _outside(fluid_distance, anatomy, axes, field)


def airway_mask(anatomy: Anatomy, trees: Trees, axes: Axes) -> UInt8[np.ndarray, "z y x"]:
    """1 in the lumen of trachea, bronchi and airways."""
    mask = np.zeros((len(axes.z_mm), len(axes.y_mm), len(axes.x_mm)), np.uint8)
    for tube in trees.airways:
        near = near_tube(tube_in_scanner(anatomy, tube), axes, margin_mm=0.0)
        if near is not None:
            mask[near[0]] |= near[1] < 0
    return mask


def lesion_mask(scene: Scene, axes: Axes, lungs: UInt8[np.ndarray, "z y x"]) -> UInt8[np.ndarray, "z y x"]:
    """Number of the lesion, from 1, inside the lungs without free air; 0 elsewhere."""
    tissue = _outside(air_distance, scene.anatomy, axes, lungs)
    mask = np.zeros(lungs.shape, np.uint8)
    for number, lesion in enumerate(scene.lesions, start=1):
        box = box_around(lesion_in_scanner(scene.anatomy, lesion), axes)
        if box is not None:
            distance = lesion_distance(lesion, *in_patient(scene.anatomy, axes.part(box)))
            mask[box][(distance < 0) & (tissue[box] > 0)] = number
    return mask


def _outside(
    distance_to: Callable[..., np.ndarray | None], anatomy: Anatomy, axes: Axes, mask: UInt8[np.ndarray, "z y x"]
) -> UInt8[np.ndarray, "z y x"]:
    """Remove fluid or free air from a mask; returns the same array if there is none."""
    if anatomy.pleura == Pleura():
        return mask
    left = mask.copy()
    for box in _chest(anatomy, axes):
        distance = distance_to(anatomy, *in_patient(anatomy, axes.part(box)))
        if distance is not None:
            left[box][np.broadcast_to(distance, left[box].shape) < 0] = 0
    return left


def _chest(anatomy: Anatomy, axes: Axes) -> Iterator[Box]:
    """Slabs of the grid that together cover the chest."""
    width, depth = anatomy.cavity_mm
    centre = anatomy.cavity_y_mm
    low, high = (-width, centre - depth, 0.0), (width, centre + depth, anatomy.height_mm)
    chest = axes.within(low, high) if is_upright(anatomy) else axes.within((-1e4,) * 3, (1e4,) * 3)
    if chest is None:
        return
    z, y, x = chest
    step = max(1, _SLAB_VOXELS // ((y.stop - y.start) * (x.stop - x.start)))
    for start in range(z.start, z.stop, step):
        yield slice(start, min(start + step, z.stop)), y, x
