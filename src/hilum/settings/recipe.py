"""The Recipe, a model's input contract: where its grid lies in the scan, how fine it is, how HU become numbers."""

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias, cast, get_args, get_origin, get_type_hints

from hilum.errors import ConfigError, require
from hilum.volume import Triple as Triple

Size: TypeAlias = tuple[int, int, int]
Range: TypeAlias = tuple[float, float]
Window: TypeAlias = Literal["lung", "mediastinum", "bone"]
LungPart: TypeAlias = Literal["lungs", "lung-field", "left", "right"]

WINDOWS: dict[str, Range] = {"lung": (-1000.0, 400.0), "mediastinum": (-160.0, 240.0), "bone": (-500.0, 1300.0)}
"""HU of black and of white. Mediastinum (level 40, width 400) and bone (level 400, width 1800) are the usual reading
windows (Radiopaedia, Windowing (CT)). Lung is not the reading window, which shows all soft tissue white, but the range
customary for classifying nodules since Setio 2016 (doi:10.1109/TMI.2016.2536809)."""


MOST_VOXELS = 2**29
"""Largest sample: 1 GB in int16."""

_MM = (1e-2, 1e4)
_MOST_MARGIN_MM = 1000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """The input contract of a model: where its grid lies in the scan, how fine it is, and how HU become numbers."""

    region: Literal["lungs", "lung-field", "left", "right", "point", "whole"] = "lungs"
    """The grid is centred on the box around the lungs, the lung fields (dense disease included) or one lung, on a point
    given with each case, or on the whole scan."""

    size: Size = (64, 96, 96)
    """Voxels (z, y, x) that the model sees."""

    spacing_mm: Triple | None = None
    """Distance between voxels (z, y, x) in mm. Give this or extent_mm; hilum train of a table plans it."""

    extent_mm: Triple | None = None
    """Edges of the box (z, y, x) in mm. Give this or spacing_mm."""

    fit: Literal["fixed", "region"] = "fixed"
    """fixed: one spacing for all cases. region: each case's box just fits, with the same scale along all axes."""

    margin_mm: float = 0.0
    """Margin around the region's box, if the grid is fitted to it, and around its mask, if outside_lungs is air."""

    interpolation: Literal["linear", "cubic", "nearest"] = "linear"
    """linear stays within the range of the scan; cubic is sharper and overshoots a little; nearest has no low-pass."""

    windows_hu: tuple[Range | Window, ...] = ((-1000.0, 400.0),)
    """One channel for each window: HU of black and of white, or lung, mediastinum or bone."""

    lung_channel: bool = False
    """One more channel: 1 inside the lungs, or inside the region's part of them, else 0."""

    outside: Literal["air", "edge"] = "air"
    """Filling beyond the scan: air (-1000 HU) or the nearest voxel."""

    outside_lungs: Literal["keep", "air"] = "keep"
    """Filling beyond the region's mask; only for regions lungs, lung-field, left and right."""

    npy_range: Literal["unit", "hu"] = "unit"
    """Range of .npy volumes: [0, 1] within the first window (the tutorial's format), or HU."""

    sub_volumes: bool = False
    """The sample is the whole region at spacing_mm; the model sees grids of size: a random one in training, all
    overlapping ones that cover it in prediction."""

    overlap: float = 0.5
    """Share of a grid that overlaps with the next one; with sub_volumes."""

    aggregate: Literal["mean", "max"] = "mean"
    """The case's probabilities: mean over its grids, or those of the grid where the first class is least probable."""

    def __post_init__(self) -> None:
        for name, hint in get_type_hints(type(self)).items():
            if get_origin(hint) is Literal:
                allowed, value = get_args(hint), getattr(self, name)
                require(value in allowed, f"recipe.{name}", f"one of {', '.join(allowed)}", value)
        right = all(isinstance(n, int) and n >= 1 for n in self.size) and math.prod(self.size) <= MOST_VOXELS
        require(right, "recipe.size", f"positive (z, y, x) and at most {MOST_VOXELS:.0e} voxels", self.size)
        for name in ("spacing_mm", "extent_mm"):
            value = getattr(self, name)
            if value is not None:
                low, high = _MM
                right = all(low <= v <= high for v in value)
                require(right, f"recipe.{name}", f"positive (z, y, x) in mm, {low:g} to {high:g}", value)
        require(0 <= self.margin_mm <= _MOST_MARGIN_MM, "recipe.margin_mm", "0 to 1000", self.margin_mm)
        require(0 <= self.overlap < 1, "recipe.overlap", "at least 0 and below 1", self.overlap)
        require(len(self.windows_hu) >= 1, "recipe.windows_hu", "at least one window", self.windows_hu)
        for window in self.windows_hu:
            if isinstance(window, str):
                require(window in WINDOWS, "a window", f"(low, high) in HU or one of {', '.join(WINDOWS)}", window)
            else:
                right = -math.inf < window[0] < window[1] < math.inf
                require(right, "a window", "(low, high) in HU, low first", window)
        self._check_together()

    def _check_together(self) -> None:
        """Raise a ConfigError where a setting would have no effect beside the others."""
        require(
            self.spacing_mm is None or self.extent_mm is None,
            "recipe",
            "given spacing_mm or extent_mm, not both",
            f"spacing_mm = {self.spacing_mm}, extent_mm = {self.extent_mm}",
        )
        require(
            self.outside_lungs == "keep" or self.part is not None,
            "recipe.outside_lungs",
            f"keep for region {self.region} (it is no part of the lungs)",
            self.outside_lungs,
        )
        if self.fit == "region":
            require(self.region != "point", "recipe.fit", "fixed for region point (a point has no box)", self.fit)
            sizes = self.spacing_mm or self.extent_mm
            require(sizes is None, "recipe", "given no spacing_mm or extent_mm with fit = region", sizes)
            require(not self.sub_volumes, "recipe.fit", "fixed with sub_volumes (all at one spacing)", self.fit)
        if self.sub_volumes:
            require(self.region != "point", "recipe.sub_volumes", "false for region point", self.sub_volumes)
        else:
            rest = "with sub_volumes = false (there is one grid)"
            require(self.overlap == 0.5, "recipe.overlap", f"left at 0.5 {rest}", self.overlap)
            require(self.aggregate == "mean", "recipe.aggregate", f"left at mean {rest}", self.aggregate)
        require(
            self.margin_mm == 0 or self.fit == "region" or self.sub_volumes or self.outside_lungs == "air",
            "recipe.margin_mm",
            "0 unless fit = region, sub_volumes = true or outside_lungs = air (else nothing is kept or cut)",
            self.margin_mm,
        )

    @property
    def part(self) -> LungPart | None:
        """The part of the lungs that the region is; None for points and whole scans."""
        return cast("LungPart", self.region) if self.region in get_args(LungPart) else None

    @property
    def needs_lungs(self) -> bool:
        """Whether the lungs must be segmented."""
        return self.part is not None or self.lung_channel

    @property
    def keeps_lungs(self) -> bool:
        """Whether the sample carries the lungs: as a channel, or to know where its sub-volumes may lie."""
        return self.lung_channel or (self.sub_volumes and self.part is not None)

    @property
    def windows(self) -> tuple[Range, ...]:
        """The windows as numbers."""
        return tuple(WINDOWS[w] if isinstance(w, str) else w for w in self.windows_hu)

    @property
    def num_channels(self) -> int:
        """Channels that the network sees."""
        return len(self.windows_hu) + self.lung_channel

    @property
    def in_numbers(self) -> "Recipe":
        """The same recipe with windows as numbers, for a later version might define their names otherwise."""
        return replace(self, windows_hu=self.windows)

    @property
    def grid_spacing_mm(self) -> Triple:
        """Distance between the model's voxels (z, y, x), in mm.

        Raises:
            ConfigError: If it is not given, or differs by case (fit = region).
        """
        if self.spacing_mm is not None:
            return self.spacing_mm
        if self.extent_mm is None:
            msg = "recipe must be given spacing_mm or extent_mm, has neither"
            if self.fit == "region":
                msg = "with recipe.fit = region each sample has a spacing of its own"
            raise ConfigError(msg)
        z, y, x = (e / n for e, n in zip(self.extent_mm, self.size, strict=True))
        return z, y, x

    @property
    def grid_extent_mm(self) -> Triple:
        """Edges of the model's box (z, y, x), in mm."""
        z, y, x = (s * n for s, n in zip(self.grid_spacing_mm, self.size, strict=True))
        return z, y, x

    def check_complete(self) -> None:
        """Raise a ConfigError if the recipe has no spacing yet."""
        if self.fit == "fixed":
            _ = self.grid_spacing_mm
