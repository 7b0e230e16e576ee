"""Occlusion: how the log odds fall when a cube of the image is replaced (Zeiler and Fergus 2014, arXiv:1311.2901).

Cubes are replaced by air and, once more, by the mean of their surroundings: each makes an image that the model never
saw, in another way. Large cubes come first, smaller ones only where large ones mattered most; the fall of a large cube
is shared out over its volume, so that the map has one unit.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Float64, Num

from hilum.predicting.explain.sample_odds import SampleOdds, VoxelBox, odds_when_filled
from hilum.settings.recipe import Size, Triple
from hilum.volume import AIR_HU

FILLS = ("air", "local mean")

_REFINED = 0.15
"""Share of the large cubes, those that matter most, in which the smaller ones lie."""

_PEAKS = (0.5, 8)
"""Smaller cubes around which the last level lies: those with this share of the largest fall, at most so many."""

_CHUNK = 64
"""Cubes between two reports of progress."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Occluded:
    """Result of occlusion.

    Attributes:
        values: Fall of the log odds for a volume of the smallest cube, by output and member.
        settings: Of each output: patch, stride and fills, and how well the fills agree.
    """

    values: Float32[np.ndarray, "k m z y x"]
    settings: tuple[dict[str, Any], ...]


def occlude(
    sample_odds: SampleOdds,
    spacing_mm: Triple,
    patch_mm: float,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Occluded:
    """Map the fall of the log odds by replacing cubes.

    Three levels: cubes of twice the patch side by side; within those that matter most the patch side by side; and in
    and around those of them that matter most, so that a peak has cubes on every side, the patch at steps of half its
    edge.

    Args:
        sample_odds: What is explained.
        spacing_mm: Of the sample's voxels (z, y, x).
        patch_mm: Edge of the smallest cube.
        progress: Called with the number of cubes done and, as far as known, of all.
    """
    patch = _voxels(patch_mm, spacing_mm, sample_odds.shape)
    double, half = _times(patch, 2.0, sample_odds.shape), _times(patch, 0.5, sample_odds.shape)
    hu = sample_odds.hu[0].numpy()
    means = _BoxMeans(hu)
    whole = sample_odds.whole()
    base = sample_odds.of_grids(whole)
    active = np.ones(sample_odds.shape, bool)
    values = np.zeros((base.shape[1], base.shape[0], *sample_odds.shape), np.float32)
    by_fill: list[Float64[np.ndarray, "n 2 k"]] = []
    done = 0
    for level, (size, stride) in enumerate(((double, double), (patch, patch), (patch, half))):
        boxes = _boxes(sample_odds.shape, size, stride, active)
        falls = np.zeros((len(boxes), len(FILLS), *base.shape))
        for start in range(0, len(boxes), _CHUNK):
            some = boxes[start : start + _CHUNK]
            falls[start : start + len(some)] = _falls(sample_odds, some, means, whole, base)
            done += len(some)
            if progress is not None:
                progress(done, done + len(boxes) - start - len(some))
        by_fill.append(falls.mean(axis=2))
        mean = falls.mean(axis=1)
        active = np.zeros(sample_odds.shape, bool)
        share = math.prod(patch) / math.prod(size)
        for k, maps in enumerate(values):
            _paint(maps, boxes, mean[:, :, k] * share)
            for n in _first(mean[:, :, k].mean(axis=1), level):
                active[_grown(boxes[n], half if level == 1 else (0, 0, 0), sample_odds.shape)] = True
    settings = {
        "patch_mm": [round(n * s, 3) for n, s in zip(patch, spacing_mm, strict=True)],
        "stride_mm": [round(n * s, 3) for n, s in zip(half, spacing_mm, strict=True)],
        "coarse_patch_mm": [round(n * s, 3) for n, s in zip(double, spacing_mm, strict=True)],
        "fills": list(FILLS),
        "cubes": done,
    }
    pairs = np.concatenate(by_fill)
    each = tuple({**settings, "fill_agreement": _correlation(pairs[:, :, k])} for k in range(len(values)))
    return Occluded(values=values, settings=each)


def _first(falls: Float64[np.ndarray, " n"], level: int) -> list[int]:
    """The cubes of a level in which the next one lies."""
    order = np.argsort(-falls, kind="stable")
    if level == 0:
        return list(order[: math.ceil(_REFINED * len(order))].tolist())
    share, most = _PEAKS
    return [n for n in order[:most].tolist() if falls[n] >= share * falls[order[0]]]


def _grown(box: VoxelBox, by: Size, shape: Size) -> VoxelBox:
    """A box with a margin on each side, within the sample."""
    z, y, x = (slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in zip(box, by, shape, strict=True))
    return z, y, x


def patch_of(size: Size, spacing_mm: Triple) -> float:
    """Edge of the smallest cube by default, in mm: an eighth of the shortest edge of the model's box.

    An edge under half of the longest, as the thickness of a slab, does not count.
    """
    edges = [n * s for n, s in zip(size, spacing_mm, strict=True)]
    return min(edge for edge in edges if edge >= max(edges) / 2) / 8


def _falls(
    sample_odds: SampleOdds, boxes: Sequence[VoxelBox], means: "_BoxMeans", whole: Any, base: np.ndarray
) -> Float64[np.ndarray, "n f m k"]:
    """Fall of the log odds for each box and fill by member and output; a fill that changes nothing costs nothing."""
    fills = [fill for box in boxes for fill in (float(AIR_HU), means.around(box))]
    each = [box for box in boxes for _ in FILLS]
    changes = [n for n, (box, fill) in enumerate(zip(each, fills, strict=True)) if _changes(sample_odds, box, fill)]
    falls = np.zeros((len(each), *base.shape))
    if changes:
        falls[changes] = base - odds_when_filled(
            sample_odds, [each[n] for n in changes], [fills[n] for n in changes], whole
        )
    return falls.reshape(len(boxes), len(FILLS), *base.shape)


def _changes(sample_odds: SampleOdds, box: VoxelBox, fill_hu: float) -> bool:
    """Whether a fill changes the network's input: air filled with air does not, nor what a window shows alike."""
    hu = sample_odds.hu[(0, *box)].numpy()
    return any(
        not (np.clip(hu, low, high) == np.clip(fill_hu, low, high)).all() for low, high in sample_odds.recipe.windows
    )


def _paint(values: np.ndarray, boxes: Sequence[VoxelBox], falls: Float64[np.ndarray, "n m"]) -> None:
    """Set each voxel that lies in a box to the mean over the boxes that hold it; others stay as they are.

    A box counts less towards its faces: between boxes at steps of half their edge the map is linear, and its peak moves
    with them by less than a step.
    """
    total, weight = np.zeros_like(values), np.zeros(values.shape[1:], np.float32)
    for box, fall in zip(boxes, falls, strict=True):
        z, y, x = (_tent(side.stop - side.start) for side in box)
        tent = z[:, None, None] * y[:, None] * x
        total[(slice(None), *box)] += fall.astype(np.float32)[:, None, None, None] * tent
        weight[box] += tent
    there = weight > 0
    values[:, there] = total[:, there] / weight[there]


def _tent(length: int) -> Float32[np.ndarray, " n"]:
    return (1 - np.abs((2 * np.arange(length) + 1) / length - 1) + 1e-3).astype(np.float32)


def _boxes(shape: Size, size: Size, stride: Size, active: Bool[np.ndarray, "z y x"]) -> list[VoxelBox]:
    """Boxes of a size that are evenly spaced by at most the stride, and whose centres are active."""
    axes = []
    for length, edge, step in zip(shape, size, stride, strict=True):
        count = -(-(length - edge) // step) + 1
        axes.append(np.rint(np.linspace(0, length - edge, count)).astype(int))
    found = []
    for start in np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3):
        centre = tuple(s + n // 2 for s, n in zip(start, size, strict=True))
        if active[centre]:
            z, y, x = (slice(int(s), int(s) + n) for s, n in zip(start, size, strict=True))
            found.append((z, y, x))
    return found


def _voxels(mm: float, spacing_mm: Triple, shape: Size) -> Size:
    z, y, x = (min(n, max(1, round(mm / s))) for n, s in zip(shape, spacing_mm, strict=True))
    return z, y, x


def _times(patch: Size, factor: float, shape: Size) -> Size:
    z, y, x = (min(n, max(1, int(factor * p))) for p, n in zip(patch, shape, strict=True))
    return z, y, x


def _correlation(pairs: Float64[np.ndarray, "n 2"]) -> float | None:
    """Correlation of the falls by both fills over all cubes; None where one is constant."""
    if len(pairs) < 2 or not (pairs.std(axis=0) > 0).all():
        return None
    return round(float(np.corrcoef(pairs.T)[0, 1]), 3)


class _BoxMeans:
    """Mean HU around boxes, from the sums over all boxes that begin at the first voxel."""

    def __init__(self, hu: Num[np.ndarray, "z y x"]) -> None:
        self.shape = hu.shape
        self.sums = np.pad(hu, ((1, 0),) * 3).astype(np.float64)
        for axis in range(3):
            np.cumsum(self.sums, axis=axis, out=self.sums)

    def around(self, box: VoxelBox) -> float:
        """Mean HU of a shell around a box, half as thick as its edges; of the box itself where nothing is around it."""
        edges = [side.stop - side.start for side in box]
        reach = [max(1, edge // 2) for edge in edges]
        sides = zip(box, reach, self.shape, strict=True)
        z, y, x = (slice(max(0, s.start - r), min(n, s.stop + r)) for s, r, n in sides)
        total, number = self._of((z, y, x))
        inner, inside = self._of(box)
        return inner / inside if number == inside else (total - inner) / (number - inside)

    def _of(self, box: VoxelBox) -> tuple[float, int]:
        total = 0.0
        for corner in np.ndindex(2, 2, 2):
            at = tuple(side.stop if bit else side.start for side, bit in zip(box, corner, strict=True))
            total += (-1) ** (3 - sum(corner)) * self.sums[at]
        return total, math.prod(side.stop - side.start for side in box)
