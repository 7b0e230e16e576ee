"""Finds scans that are altered copies of one another, by their signatures: flipped, shifted, cropped or resampled."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from jaxtyping import Complex, Float, Int
from scipy import fft

from hilum.preparing.signature import BIN_MM, STEP_HU
from hilum.volume import NO_BIN, SourceScan

_STRETCH, _SHORT_STRETCH = 4, 1
"""Bins of a stretch, 8 mm, and of one in scans with a short axis, 2 mm. Profiles are compared by the differences of
neighbouring stretches: the slow rise and fall of density that all chests share then counts little, and slices of 5 mm
still resolve them."""

_NOISE_HU2 = 0.25
"""Mean square of the noise of a difference: a profile that varies less tells nothing."""

_LEAST = 1e-3
"""Smallest residual of an axis that counts: below it lies the noise of sampling."""

_LARGEST_RESIDUAL = 0.011
"""Largest residual of near copies: between the copies that were altered in one way, at most 0.0103 on simulated and
real chests, and the closest of all 499,500 pairs of 1,000 simulated patients of one scanner, 0.0137. That of
lidc-nodules has 0.025, before short stretches are compared (benchmarks/near_copies.py)."""

_LARGEST_SHORT = 0.03
"""Largest residual in short stretches, in which a displacement by a part of a bin already shows."""

_INDEPENDENT = 12
"""Stretches from which a profile has enough independent values. Of a shorter one the residual counts in proportion
more, and scans with such an axis, below 96 mm, must agree in short stretches as well."""

_MOST_CUT = 0.3
"""Largest share of an axis by which a copy is cut off or displaced."""

_CUT_VOXELS = 13
"""Voxels by which a copy is cut off or displaced: ten slices of a crop and three of a shift."""

_ALL_PAIRS = 1000
"""Up to this many scans, all pairs are aligned."""

_NEIGHBOURS = 30
"""Scans of the most similar spectra with which each scan of a larger set is aligned."""

_FREQUENCIES = 48
"""Lowest frequencies of a spectrum that are compared: waves longer than about 20 mm."""

_BLOCK = 2000
"""Pairs that are aligned at a time."""

_SHORT_MM = _INDEPENDENT * _STRETCH * BIN_MM
"""Length below which an axis is short."""

_AXES = ("feet to head", "front to back", "right to left")


_Pair: TypeAlias = tuple[int, int, tuple[int, ...], tuple[int, ...], float]
"""Places of two scans, flips and displacements by axis, and residual."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NearCopy:
    """Two scans, one of which is an altered copy of the other.

    Attributes:
        first: Case id of one.
        second: Case id of the other; in a comparison of two sets, that of the second set.
        how: How they differ, such as "flipped right to left, resampled".
        residual: Share of the variation of one that the other does not explain, see ``find_near_copies``.
    """

    first: str
    second: str
    how: str
    residual: float


def find_near_copies(
    sources: Mapping[str, SourceScan], others: Mapping[str, SourceScan] | None = None
) -> tuple[NearCopy, ...]:
    """Find near copies among scans, or between two sets of scans; scans with the same digest are left out.

    Profiles are compared along each axis after the best flip and displacement; the residual of an axis is the share of
    the variation that is left. Scans are near copies if the geometric mean of two figures is small: the largest
    residual, since all axes must agree, and the geometric mean of all three, since a crop along one axis changes the
    others a little and leaves its own as it was.

    Args:
        sources: The scans by case id.
        others: A second set; None: the scans are compared with one another.
    """
    names = [*sources, *(others or {})]
    scans = [*sources.values(), *(others or {}).values()]
    firsts, seconds = _once_each(scans, len(sources))
    split = None if others is None else len(firsts)
    places = np.array([*firsts, *seconds], int)
    if len(firsts) < (2 if others is None else 1) or (others is not None and not seconds):
        return ()
    axes = [_Axis([scans[place] for place in places], axis) for axis in range(3)]
    first, second = _pairs(axes, len(places), split)
    found = []
    for start in range(0, len(first), _BLOCK):
        block = slice(start, start + _BLOCK)
        found += _aligned(axes, first[block], second[block], _LARGEST_RESIDUAL)
    found = _confirmed([scans[place] for place in places], found)
    return tuple(
        NearCopy(
            first=names[places[i]],
            second=names[places[j]],
            how=_how(scans[places[i]], scans[places[j]], flips, shifts),
            residual=residual,
        )
        for i, j, flips, shifts, residual in found
        if scans[places[i]].digest != scans[places[j]].digest
    )


def _once_each(scans: Sequence[SourceScan], number: int) -> tuple[list[int], list[int]]:
    """Places of the scans of the first and of the second set, each digest once in a set; none without a digest."""
    once: tuple[dict[str, int], dict[str, int]] = ({}, {})
    for place, scan in enumerate(scans):
        if scan.digest:
            once[place >= number].setdefault(scan.digest, place)
    return list(once[0].values()), list(once[1].values())


class _Axis:
    """The profiles of all scans along one axis, as differences, with what their comparison needs."""

    def __init__(self, scans: Sequence[SourceScan], axis: int, stretch: int = _STRETCH) -> None:
        self.stretch = stretch
        self.voxel_mm = np.array([scan.spacing_mm[axis] for scan in scans])
        rows = [scan.profiles[axis] for scan in scans]
        rows = [row[row != NO_BIN].astype(np.float32) * np.float32(STEP_HU) for row in rows]
        self.bins = np.array([len(row) for row in rows])
        self.lengths = np.maximum(self.bins - 2 * stretch + 1, 1)
        self.longest = int(self.lengths.max())
        self.size = int(fft.next_fast_len(2 * self.longest, real=True))
        forward, backward = (self._differences(rows, turn) for turn in (1, -1))
        self.variation = (forward.astype(np.float64) ** 2).sum(1) / self.lengths
        self.spectra = [fft.rfft(one, self.size) for one in (forward, backward)]
        self.sums = [
            np.concatenate([np.zeros((len(rows), 1)), np.cumsum(one.astype(np.float64) ** 2, 1)], 1)
            for one in (forward, backward)
        ]

    def _differences(self, rows: Sequence[np.ndarray], turn: int) -> np.ndarray:
        table = np.zeros((len(rows), self.longest), np.float32)
        for place, row in enumerate(rows):
            if len(row) >= 2 * self.stretch:
                sums = np.concatenate([[0], np.cumsum(row[::turn], dtype=np.float64)])
                means = (sums[self.stretch :] - sums[: -self.stretch]) / self.stretch
                table[place, : len(means) - self.stretch] = means[self.stretch :] - means[: -self.stretch]
        return table

    def descriptors(self) -> Float[np.ndarray, "n f"]:
        """Spectra without phase, which no flip or displacement changes, of length 1."""
        size = 1024 // round(BIN_MM)  # one frequency for all sets of scans: waves of 1024 mm and its parts
        spectra = np.abs(fft.rfft(fft.irfft(self.spectra[0], self.size)[:, : self.longest], size)[:, 1:_FREQUENCIES])
        lengths: np.ndarray = np.linalg.norm(spectra, axis=1, keepdims=True)
        scaled: np.ndarray = (spectra / np.maximum(lengths, 1e-6)).astype(np.float32)
        return scaled

    def align(
        self, first: Int[np.ndarray, " p"], second: Int[np.ndarray, " p"]
    ) -> tuple[Float[np.ndarray, " p"], Int[np.ndarray, " p"], Int[np.ndarray, " p"]]:
        """Lowest residual of each pair, relative to the largest allowed; whether flipped, and displacement in bins."""
        longest = np.maximum(self.bins[first], self.bins[second])
        cut = _CUT_VOXELS * np.maximum(self.voxel_mm[first], self.voxel_mm[second]) / BIN_MM
        cut = np.rint(np.minimum(cut, _MOST_CUT * longest)).astype(int)
        most = int(cut.max())
        shifts = np.arange(-most, most + 1)
        here, there = self.lengths[first][:, None], self.lengths[second][:, None]
        begin, end = np.maximum(0, shifts) + 0 * here, np.minimum(here, shifts + there)
        overlap = end - begin
        allowed = (overlap >= np.maximum(1, np.maximum(here, there) - cut[:, None])) & (abs(shifts) <= cut[:, None])
        end = np.maximum(end, begin)
        own = self._between(self.sums[0][first], begin, end)
        scale = 0.5 * (self.variation[first] + self.variation[second])[:, None] + _NOISE_HU2
        share = np.minimum(1, np.minimum(self.bins[first], self.bins[second]) / (_INDEPENDENT * self.stretch))
        best, flipped, shift = np.full(len(first), np.inf), np.zeros(len(first), int), np.zeros(len(first), int)
        for flip in (0, 1):
            products = self._products(self.spectra[0][first], self.spectra[flip][second], shifts)
            square = own + self._between(self.sums[flip][second], begin - shifts, end - shifts) - 2 * products
            residual = np.maximum(square, 0) / np.maximum(overlap, 1) / scale
            residual = np.where(allowed, residual, np.inf)
            place = residual.argmin(1)
            lowest = _between_bins(residual, place)
            better = lowest < 0.5 * best if flip else lowest < best
            best = np.where(better, lowest, best)
            flipped = np.where(better, flip, flipped)
            shift = np.where(better, shifts[place], shift)
        known = np.minimum(self.variation[first], self.variation[second]) > _NOISE_HU2
        return np.where(known, best / share, np.inf), flipped, shift

    def _between(self, sums: Float[np.ndarray, "p n"], begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Sum of squares of each pair between two places."""
        ends = (np.clip(place, 0, self.longest) for place in (begin, end))
        low, high = (np.take_along_axis(sums, place, 1) for place in ends)
        between: np.ndarray = high - low
        return between

    def _products(
        self, first: Complex[np.ndarray, "p k"], second: Complex[np.ndarray, "p k"], shifts: np.ndarray
    ) -> np.ndarray:
        """Sum of products of each pair at each displacement, by the correlation theorem."""
        products: np.ndarray = fft.irfft(first * np.conj(second), self.size)[:, shifts % self.size]
        return products


def _between_bins(residual: Float[np.ndarray, "p s"], place: Int[np.ndarray, " p"]) -> Float[np.ndarray, " p"]:
    """Lowest residual between the displacements: the minimum of a parabola through the lowest and its neighbours."""
    rows = np.arange(len(residual))
    lowest: np.ndarray = residual[rows, place]
    if residual.shape[1] < 3:
        return lowest
    left, right = (residual[rows, np.clip(place + step, 0, residual.shape[1] - 1)] for step in (-1, 1))
    inside = (place > 0) & (place < residual.shape[1] - 1) & np.isfinite(left) & np.isfinite(right)
    left, right = np.where(inside, left, 0), np.where(inside, right, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        below = (right - left) ** 2 / (8 * (left + right - 2 * lowest))
    better: np.ndarray = np.where(inside & np.isfinite(below), np.maximum(lowest - below, 0), lowest)
    return better


def _pairs(axes: Sequence[_Axis], number: int, split: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Pairs to align: all of them, or in a large set each scan and those with the most similar spectra."""
    rows = number if split is None else split
    first_column = 0 if split is None else split
    if number <= _ALL_PAIRS:
        first, second = np.divmod(np.arange(rows * (number - first_column)), number - first_column)
        second = second + first_column
        keep = first < second
        return first[keep], second[keep]
    spectra = np.concatenate([axis.descriptors() for axis in axes], 1)
    columns = spectra[first_column:]
    near = min(_NEIGHBOURS, len(columns))
    pairs = []
    for start in range(0, rows, _BLOCK):
        part = np.arange(start, min(start + _BLOCK, rows))
        likeness = spectra[part] @ columns.T
        if split is None:
            likeness[np.arange(len(part)), part] = -np.inf
        nearest = np.argpartition(-likeness, near - 1, axis=1)[:, :near] + first_column
        pairs.append(np.stack([np.repeat(part, near), nearest.ravel()], 1))
    both = np.unique(np.sort(np.concatenate(pairs), 1), axis=0)
    return both[:, 0], both[:, 1]


def _aligned(axes: Sequence[_Axis], first: np.ndarray, second: np.ndarray, most: float) -> list[_Pair]:
    """The pairs of at most this residual, with flips, displacements and residual."""
    each, flips, shifts = zip(*(axis.align(first, second) for axis in axes), strict=True)
    residuals = np.maximum(each, _LEAST)
    logs = np.log(residuals).mean(0) / 2 + np.log(residuals.max(0)) / 2
    residual = np.exp(logs)
    return [
        (
            int(first[k]),
            int(second[k]),
            tuple(int(flip[k]) for flip in flips),
            tuple(int(shift[k]) for shift in shifts),
            float(residual[k]),
        )
        for k in np.flatnonzero(residual <= most)
    ]


def _confirmed(scans: Sequence[SourceScan], found: list[_Pair]) -> list[_Pair]:
    """The pairs that agree in short stretches as well, as far as one of their axes is short."""
    short = [pair for pair in found if min(min(scans[place].extent_mm) for place in pair[:2]) < _SHORT_MM]
    if not short:
        return found
    both = [scans[place] for pair in short for place in pair[:2]]
    axes = [_Axis(both, axis, _SHORT_STRETCH) for axis in range(3)]
    first = np.arange(0, len(both), 2)
    agreeing = {pair[0] // 2 for pair in _aligned(axes, first, first + 1, _LARGEST_SHORT)}
    lost = {pair[:2] for number, pair in enumerate(short) if number not in agreeing}
    return [pair for pair in found if pair[:2] not in lost]


def _how(one: SourceScan, other: SourceScan, flips: tuple[int, ...], shifts: tuple[int, ...]) -> str:
    """How two near copies differ, as far as their grids and the alignment tell."""
    words = [f"flipped {name}" for name, flip in zip(_AXES, flips, strict=True) if flip]
    lost = [a - b for a, b in zip(one.extent_mm, other.extent_mm, strict=True)]
    cropped = [abs(mm) > BIN_MM for mm in lost]
    words += [f"cropped by {abs(mm):.0f} mm {name}" for name, mm, cut in zip(_AXES, lost, cropped, strict=True) if cut]
    moved = [(name, abs(shift) * BIN_MM) for name, shift, cut in zip(_AXES, shifts, cropped, strict=True) if not cut]
    words += [f"shifted by about {mm:.0f} mm {name}" for name, mm in moved if mm]
    if any(abs(a - b) > 0.01 * max(a, b) for a, b in zip(one.spacing_mm, other.spacing_mm, strict=True)):
        grids = (" x ".join(f"{mm:.3g}" for mm in scan.spacing_mm) for scan in (one, other))
        words.append(f"resampled ({' and '.join(grids)} mm)")
    return ", ".join(words) or "with other voxels on the same grid"
