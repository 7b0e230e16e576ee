"""Which way the axes of a grid run: the turn that makes them run feet to head, front to back and right to left."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

_SNAP = 1e-4
"""Directions this close to an axis are snapped to it: file formats store them in single precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A permutation of array axes, followed by flips.

    Attributes:
        shape: Shape of the array before.
        order: For each new axis, the old axis.
        flipped: For each new axis, whether it is reversed.
    """

    shape: tuple[int, int, int]
    order: tuple[int, int, int]
    flipped: tuple[bool, bool, bool]

    @property
    def is_identity(self) -> bool:
        """Whether the array stays as it is."""
        return self.order == (0, 1, 2) and not any(self.flipped)

    def turned(self, array: np.ndarray) -> np.ndarray:
        """A view of the array, permuted and flipped."""
        flips = tuple(slice(None, None, -1 if f else 1) for f in self.flipped)
        view: np.ndarray = array.transpose(self.order)[flips]
        return view

    def unturned(self, array: np.ndarray) -> np.ndarray:
        """A view of a turned array in its old orientation: the inverse of ``turned``."""
        flips = tuple(slice(None, None, -1 if f else 1) for f in self.flipped)
        view: np.ndarray = array[flips].transpose(np.argsort(self.order))
        return view

    def moved(self, axis: int, index: int) -> tuple[int, int]:
        """New axis and index of a slice."""
        new = self.order.index(axis)
        return new, self.shape[axis] - 1 - index if self.flipped[new] else index


def canonical(affine: Float[np.ndarray, "4 4"], shape: tuple[int, int, int]) -> tuple[Turn, Float[np.ndarray, "4 4"]]:
    """The turn that makes a grid run feet to head, front to back and right to left, and the new affine, rounded."""
    rounded = _rounded(affine)  # before the flips, which would carry a format's rounding to the other corner
    steps = rounded[:3, :3]
    order = _nearest_axes(steps / np.linalg.norm(steps, axis=0))
    out = np.eye(4)
    out[:3, :3] = steps[:, order]
    out[:3, 3] = rounded[:3, 3]
    flipped = [False, False, False]
    for axis, world in enumerate((2, 1, 0)):
        if out[world, axis] < 0:
            out[:3, 3] += out[:3, axis] * (shape[order[axis]] - 1)
            out[:3, axis] *= -1
            flipped[axis] = True
    out[:3, 3] = np.round(out[:3, 3], 3)
    turn = Turn(shape=shape, order=order, flipped=(flipped[0], flipped[1], flipped[2]))
    return turn, out + 0.0  # turns -0.0 into 0.0


def _nearest_axes(directions: Float[np.ndarray, "3 3"]) -> tuple[int, int, int]:
    """For world z, y and x, the array axis most nearly parallel to it; each axis is used once."""
    left = [0, 1, 2]
    chosen: dict[int, int] = {}
    strength = np.abs(directions)
    for world, axis in sorted(np.ndindex(3, 3), key=lambda pair: -strength[pair]):
        if world not in chosen and axis in left:
            chosen[world] = axis
            left.remove(axis)
    return chosen[2], chosen[1], chosen[0]


def _rounded(affine: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4 4"]:
    """Snap directions within 1e-4 of an axis to it; round spacing to 1e-6 mm and origin to 1e-3 mm.

    Both are first rounded to single precision, as NIfTI stores them: a number half-way between two roundings would
    otherwise be rounded up in one format and down in another.
    """
    out = np.eye(4)
    for axis in range(3):
        step = affine[:3, axis]
        spacing = float(np.linalg.norm(step))
        direction = step / spacing
        nearest = np.zeros(3)
        nearest[np.argmax(np.abs(direction))] = np.sign(direction[np.argmax(np.abs(direction))])
        if np.max(np.abs(direction - nearest)) < _SNAP:
            direction = nearest
        out[:3, axis] = direction * round(float(np.float32(spacing)), 6)
    out[:3, 3] = np.round(affine[:3, 3].astype(np.float32).astype(np.float64), 3)
    return out
