"""Prepared samples on disk, addressed by what they were made from, so that no work is done twice."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from hilum.config import ReadingConfig, Recipe
from hilum.configfile import from_dict, to_dict
from hilum.errors import ConfigError, PrepareError, ReadError
from hilum.files import write_whole
from hilum.findings import Finding
from hilum.preparing.recipe import prepare_path
from hilum.reading import detached_files, source_files
from hilum.volume import Tags, Volume

_VERSION = 4
"""Raised whenever reading or preparing gives other voxels for the same scan and recipe."""

_CHUNK = 1 << 20


class Store:
    """A folder of prepared samples, one safetensors file each; safe under concurrent writers.

    Attributes:
        folder: Where the samples lie; made on first use.
        reading: What is done about odd scans.
    """

    def __init__(self, folder: Path, reading: ReadingConfig | None = None) -> None:
        self.folder = folder.absolute()  # another process may have another working folder
        self.reading = reading or ReadingConfig()

    def get(self, path: Path, recipe: Recipe, **which: Any) -> Volume:
        """The prepared sample of a scan; arguments and errors as for ``fetch``."""
        return self.fetch(path, recipe, **which)[1]

    def ensure(self, path: Path, recipe: Recipe, **which: Any) -> Path:
        """The file of a scan's prepared sample; arguments and errors as for ``fetch``."""
        return self.fetch(path, recipe, **which)[0]

    def fetch(
        self, path: Path, recipe: Recipe, *, point_mm: Any = None, series: str = "", mask: Path | None = None
    ) -> tuple[Path, Volume]:
        """A scan's prepared sample and its file, made if it is not there or damaged; read once.

        Args:
            path: Whatever ``prepare_path`` takes, and so the other arguments.
            recipe: The model's input.
            point_mm: Centre of the grid, for region ``point``.
            series: Which series, where the path holds several.
            mask: A mask of the lungs; not read where the recipe does not look for them.

        Raises:
            HilumError: If the scan cannot be read or prepared.
        """
        which = {"point_mm": point_mm, "series": series, "mask": mask if recipe.needs_lungs else None}
        file = self._path_of(path, recipe, which)
        try:
            return file, load_sample(file)
        except PrepareError:
            volume = prepare_path(path, recipe, **which, reading=self.reading)
            save_sample(volume, file)
            return file, volume

    def _path_of(self, path: Path, recipe: Recipe, which: dict[str, Any]) -> Path:
        """Where a sample lies: by the scan's bytes and by all that decides what becomes of them."""
        point = which["point_mm"]
        content = {
            "source": _digest(path),
            "recipe": to_dict(recipe.in_numbers),
            "policy": [self.reading.policy, *sorted(self.reading.override)],
            **which,
            "point_mm": None if point is None else [float(v) for v in point],
            "mask": _mask_digest(which["mask"]),
            "version": _VERSION,
        }
        key = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
        return self.folder / key[:2] / f"{key}.safetensors"


def save_sample(volume: Volume, path: Path) -> None:
    """Write a sample so that it is there as a whole or not at all."""
    about = {
        "affine": volume.affine.tolist(),
        "tags": asdict(volume.tags),
        "findings": [asdict(f) for f in volume.findings],
        "checksum": _checksum(volume.voxels_hu, volume.lungs),
    }
    arrays = {"voxels_hu": np.ascontiguousarray(volume.voxels_hu)}
    if volume.lungs is not None:
        arrays["lungs"] = np.ascontiguousarray(volume.lungs)
    write_whole(path, save(arrays, {"hilum": json.dumps(about)}))


def load_sample(path: Path) -> Volume:
    """Read a sample and check that it is what was written.

    Raises:
        PrepareError: If it is not there or damaged.
    """
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads(file.metadata()["hilum"])
            voxels = file.get_tensor("voxels_hu")
            lungs = file.get_tensor("lungs") if "lungs" in file.keys() else None  # noqa: SIM118
        if _checksum(voxels, lungs) != about["checksum"]:
            msg = f"the sample {path.name} is damaged"
            raise PrepareError(msg)
        return Volume(
            voxels_hu=voxels,
            affine=np.array(about["affine"]),
            tags=from_dict(Tags, about["tags"]),
            findings=tuple(Finding(**f) for f in about["findings"]),
            lungs=lungs,
        )
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, ConfigError) as exc:
        msg = f"the sample {path.name} is not there or damaged"
        raise PrepareError(msg) from exc


def _checksum(*arrays: np.ndarray | None) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for array in arrays:
        if array is not None:
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _digest(path: Path) -> str:
    """Hash of a scan's bytes; of all files below a folder, whatever their names and order."""
    files = [*source_files(path), *detached_files(path)]
    if not files or not path.exists():
        msg = f"no file or folder {path}" if not path.exists() else f"{path}: an empty folder"
        raise ReadError(msg)
    try:
        digests = sorted(_file_digest(f) for f in files)
    except OSError as exc:
        msg = f"{path} cannot be read: {exc.strerror or exc}"
        raise ReadError(msg) from exc
    return hashlib.blake2b(b"".join(digests), digest_size=16).hexdigest()


def _mask_digest(path: Path | None) -> str | None:
    try:
        return None if path is None else _digest(path)
    except ReadError as exc:
        msg = f"the mask cannot be used: {exc}"
        raise PrepareError(msg) from exc


def _file_digest(path: Path) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.digest()
