"""What a verb writes of a scan: images of its voxels, and the JSON that says they are whole."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Num

from hilum.errors import GeometryError, HilumError, StoreError
from hilum.files import check_output
from hilum.imagefile import has_mark, replace_image
from hilum.reading.identity import hashed
from hilum.serving.record import SourceState, WrittenScan, finished, is_record, recorded_files, write_record
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume

_SHEARED = (
    "NRRD and MetaImage hold only grids with right angles, this one is sheared, as of a tilted gantry; NIfTI holds it"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Images:
    """What is written of one scan.

    Attributes:
        voxels: An array on the scan's grid for each file.
        lungs: Verdict and volumes, where lungs were asked for.
    """

    voxels: tuple[Num[np.ndarray, "z y x"], ...]
    lungs: dict[str, Any] | None = None


MakeImages: TypeAlias = Callable[[Volume], Images]
"""Of a scan its images; raises a PrepareError or GeometryError where there are none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """What a verb writes of each scan.

    Attributes:
        verb: The verb, which marks its files.
        flag: The flag or argument that names the file or folder.
        make: A function that other processes can import.
        endings: End of the name of each file, before its suffix; the first is empty.
    """

    verb: str
    flag: str
    make: MakeImages
    endings: tuple[str, ...] = ("",)

    @property
    def mark(self) -> str:
        """Text in the headers of its files."""
        return f"written by hilum {self.verb}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTarget:
    """The files of one scan.

    Attributes:
        folder: Their folder.
        name: Name of the first, without suffix.
        suffix: Their format.
        product: What is written.
        level: Level of compression.
        settings: All that determines the files beside the scan.
    """

    folder: Path
    name: str
    suffix: str
    product: Product
    level: int
    settings: dict[str, Any]

    @property
    def images(self) -> tuple[Path, ...]:
        """The image files."""
        return tuple(self.folder / f"{self.name}{ending}{self.suffix}" for ending in self.product.endings)

    @property
    def names(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(path.name for path in self.images)

    @property
    def record(self) -> Path:
        """The JSON beside them."""
        return self.folder / f"{self.name}.json"

    @property
    def all_names(self) -> tuple[str, ...]:
        """The names of all these files."""
        return (*self.names, self.record.name)

    def check_own(self, scan: Path) -> None:
        """Make sure that no file of another program, nor the scan itself, would be overwritten.

        Raises:
            HilumError: If one would be.
        """
        for path in self.images:
            check_output(path, lambda one: has_mark(one, self.product.mark), inputs=[scan])
        check_output(self.record, lambda one: is_record(one, self.product.verb), inputs=[scan])

    def finished(self, source: SourceState) -> WrittenScan | None:
        """What an earlier call wrote of the same scan, if it is whole."""
        return finished(self.record, verb=self.product.verb, files=self.names, source=source, settings=self.settings)

    def write(self, volume: Volume) -> Images:
        """Write the images of a scan, before which what an earlier call wrote of it is removed.

        Raises:
            PrepareError: If there are no such images of this scan.
            GeometryError: If the format cannot represent its grid.
            StoreError: If a file cannot be written.
        """
        images = self.product.make(volume)
        try:
            self.remove()
            for path, voxels in zip(self.images, images.voxels, strict=True):
                replace_image(voxels, volume.affine, path, level=self.level, mark=self.product.mark)
        except GeometryError as exc:
            if ".nii" in self.suffix:
                raise
            raise GeometryError(_SHEARED) from exc
        except (HilumError, OSError) as exc:
            raise _not_written(exc, self.images[0]) from exc
        return images

    def confirm(self, written: WrittenScan, volume: Volume, source: tuple[str, str]) -> None:
        """Write the JSON, which says that the images are whole.

        Raises:
            StoreError: If it cannot be written.
        """
        try:
            write_record(self.record, written, volume, verb=self.product.verb, source=source, settings=self.settings)
        except (HilumError, OSError) as exc:
            raise _not_written(exc, self.record) from exc

    def remove(self) -> None:
        """Remove what an earlier call wrote of the scan, the JSON first, for without it no file counts as whole."""
        before = [path for path in recorded_files(self.record) if has_mark(path, self.product.mark)]
        for path in (self.record, *before, *self.images):
            path.unlink(missing_ok=True)


def _not_written(exc: Exception, path: Path) -> StoreError:
    """The error of a file that cannot be written, which ends the command."""
    if isinstance(exc, HilumError):
        return StoreError(exc.message, path=exc.path or path)
    return StoreError(f"cannot be written: {getattr(exc, 'strerror', None) or exc}", path=path)


def file_settings(files: FilesConfig, reading: ReadingConfig, suffix: str) -> dict[str, Any]:
    """All that determines a scan's files beside the scan, for the JSON."""
    return {"suffix": suffix, "level": files.level, "policy": reading.policy, "override": list(reading.override)}


def place_name(kind: str, place: str) -> str:
    """Name of a scan without a UID: the keyed hash of its absolute path."""
    return hashed(kind, os.fsencode(place).decode("latin-1"))  # a path need not be valid text
