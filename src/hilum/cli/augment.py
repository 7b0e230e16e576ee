"""``hilum augment``: shows the random changes of a config on a scan, as a page of pictures."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import tyro

from hilum.cli.arguments import ScanPath
from hilum.errors import ConfigError, require
from hilum.settings.augmentation import AugmentConfig
from hilum.settings.presets import under_flags
from hilum.settings.run import ReadingConfig, Recipe, RunConfig, Triple
from hilum.settings.toml import load

_MARK = 'name="generator" content="hilum augment"'
"""Pattern that identifies pages of this command."""
_MOST_DRAWS = 64
_SIZE = (96, 112, 128)
_MARGIN_MM = 10.0
_POINT_SIZE = (64, 64, 64)
_POINT_MM = (40.0, 40.0, 40.0)


@dataclass(frozen=True, kw_only=True)
class ShowAugmentation:
    """Show the random changes of a config on a scan, as a page of pictures, for visual inspection before training."""

    path: ScanPath
    """A scan: DICOM folder or file, NIfTI, NRRD, MetaImage; or a prepared .npy volume."""

    out: Path
    """The page to write."""

    config: Path | None = None
    """CONFIG.toml, for its recipe, augment and reading sections; flags win over them."""

    number: int = 8
    """Number of random draws on the page, 1 to 64."""

    seed: int = 0

    point: Triple | None = None
    """X Y Z in LPS mm, for region point."""

    series: str = ""
    """Series to read, if the folder holds several."""

    mask: Path | None = None
    """Lung mask from another program, for recipes that need the lungs."""

    recipe: Recipe = field(default_factory=Recipe)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)

    def __post_init__(self) -> None:
        require(1 <= self.number <= _MOST_DRAWS, "number", f"1 to {_MOST_DRAWS}", self.number)

    def with_file(self, args: Sequence[str]) -> "ShowAugmentation":
        """Parse the flags again, with the settings of the file, or of a preset, as defaults."""
        own = RunConfig() if self.config is None else load(self.config)
        flags = self._again(args, own.recipe, own.augment, own.reading)
        recipe = _with_spacing(flags.recipe, self.path)
        augment = under_flags(own.augment, own.recipe, flags.augment.preset, recipe)
        return self._again(args, recipe, augment, own.reading)

    def _again(
        self, args: Sequence[str], recipe: Recipe, augment: AugmentConfig, reading: ReadingConfig
    ) -> "ShowAugmentation":
        default = replace(self, recipe=recipe, augment=augment, reading=reading)
        return tyro.cli(ShowAugmentation, args=args, default=default, prog="hilum augment")

    def _refuse_ineffective_flags(self) -> None:
        if self.point is not None and self.recipe.region != "point":
            msg = f"--point is for recipes of region point (--recipe.region point), this one is of {self.recipe.region}"
            raise ConfigError(msg)
        if self.mask is not None and not self.recipe.needs_lungs:
            msg = f"--mask is for recipes that look for the lungs, this one is of region {self.recipe.region}"
            raise ConfigError(msg)
        for flag, value in (("--mask", self.mask), ("--point", self.point), ("--series", self.series or None)):
            if value is not None and self.path.suffix.lower() == ".npy":
                msg = f"{flag} needs a scan; {self.path} is a prepared volume"
                raise ConfigError(msg)

    def run(self) -> int:
        """Prepare the scan, change it and write the page."""
        from hilum.files import check_output, write_whole
        from hilum.planning.augment_page import augment_page
        from hilum.preparing import prepare_path

        check_output(self.out, _MARK)
        self._refuse_ineffective_flags()
        recipe = _with_spacing(self.recipe, self.path)
        self.augment.check_for(recipe)
        sample = prepare_path(
            self.path, recipe, point_mm=self.point, series=self.series, mask=self.mask, reading=self.reading
        )
        write_whole(
            self.out, augment_page(sample, recipe, self.augment, number=self.number, seed=self.seed), mark=_MARK
        )
        print(f"{self.out}: {self.number} draw{'s' * (self.number > 1)} of preset {self.augment.preset}")
        return 0


def _with_spacing(recipe: Recipe, path: Path) -> Recipe:
    """Complete a recipe without a spacing; settings that were given do not change."""
    if recipe.fit == "region" or recipe.spacing_mm is not None or recipe.extent_mm is not None:
        return recipe
    as_given = recipe.size != Recipe().size
    if path.suffix.lower() == ".npy":  # its spacing is unknown; 1 mm as `hilum train` plans it
        region = recipe.region if recipe.region == "point" else "whole"
        return replace(recipe, region=region, spacing_mm=(1.0, 1.0, 1.0), size=_npy_size(path, recipe))
    if recipe.region == "point":
        return replace(recipe, size=recipe.size if as_given else _POINT_SIZE, extent_mm=_POINT_MM, outside="edge")
    return replace(recipe, size=recipe.size if as_given else _SIZE, fit="region", margin_mm=_MARGIN_MM)


def _npy_size(path: Path, recipe: Recipe) -> tuple[int, int, int]:
    import numpy as np

    try:
        z, y, x = np.load(path, mmap_mode="r", allow_pickle=False).shape
    except (OSError, ValueError, EOFError):
        return recipe.size  # reading the file reports the error
    return z, y, x
