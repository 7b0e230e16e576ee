"""A store of prepared samples on disk, addressed by the content of their sources, so that no work is done twice."""

import contextlib
import hashlib
import json
import math
import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from hilum.errors import ConfigError, HilumError, PrepareError, ReadError, StoreError
from hilum.files import is_alive, machine_id
from hilum.preparing.prepare import prepare_path
from hilum.preparing.sample_file import SUFFIX, load_sample, read_sample, save_sample
from hilum.preparing.sources import INDEX, Sources
from hilum.settings.run import ReadingConfig, Recipe
from hilum.settings.toml import to_dict
from hilum.volume import Volume

_VERSION = 8
"""Increased whenever reading or preparing gives another sample for the same scan and recipe."""

_FOLDER = re.compile(r"[0-9a-f]{2}")
_SAMPLE = re.compile(rf"[0-9a-f]{{32}}{re.escape(SUFFIX)}")
_LEFTOVER = re.compile(rf"\.[0-9a-f]{{32}}{re.escape(SUFFIX)}\.(\d{{1,10}})\.([0-9a-f]{{4}})[0-9a-f]{{4}}")
"""Names of a store's own files; no other file is ever counted or removed."""

_HEADER_BYTES = 8192
"""Approximate size of a sample's header."""

_LONGEST_WRITE_S = 3600.0
"""Age from which a temporary file is a leftover on any machine: no sample takes that long to write (rule of thumb)."""


class Fetched(NamedTuple):
    """A scan's sample: its file, its content, and whether it was made by this call."""

    file: Path
    volume: Volume
    made: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """File of a sample in a store.

    Attributes:
        file: Its path.
        num_bytes: Its size.
        used: Time of its last use, in seconds since 1970.
    """

    file: Path
    num_bytes: int
    used: float


class Store:
    """A folder of prepared samples, one file each; safe under concurrent writers and readers.

    Attributes:
        folder: Folder of the samples; made on first use.
        reading: Policy of reading.
        max_gb: Largest size of the samples after a command, in GB (10^9 bytes); 0: no bound.
    """

    def __init__(self, folder: Path, reading: ReadingConfig | None = None, *, max_gb: float = 0.0) -> None:
        self.folder = folder.absolute()  # another process may have another working folder
        self.reading = reading or ReadingConfig()
        self.max_gb = max_gb
        self.sources = Sources(self.folder / INDEX)

    def get(self, path: Path, recipe: Recipe, **which: Any) -> Volume:
        """The prepared sample of a scan; arguments and errors as for ``fetch``."""
        return self.fetch(path, recipe, **which).volume

    def fetch(
        self, path: Path, recipe: Recipe, *, point_mm: Any = None, series: str = "", mask: Path | None = None
    ) -> Fetched:
        """Look up a scan's prepared sample, or make it if it is missing or damaged.

        Args:
            path: A path that ``prepare_path`` accepts.
            recipe: The model's input.
            point_mm: Centre of the grid, for region ``point``.
            series: The series to read, if the path holds several.
            mask: A lung mask; not read if the recipe does not need the lungs.

        Raises:
            HilumError: If the scan cannot be read or prepared, or changes meanwhile.
        """
        mask = mask if recipe.needs_lungs else None
        if mask is not None and not mask.exists():
            msg = "the mask cannot be used: no file or folder"
            raise PrepareError(msg, path=mask)
        read = [path] if mask is None else [path, mask]
        before = [self.sources.state(one) for one in read]
        sources = [self.sources.digest(one) for one in read]
        file = self._path_of(sources, recipe, is_array=_is_array(path), point_mm=point_mm, series=series)
        with contextlib.suppress(PrepareError):
            return Fetched(file, load_sample(file), made=False)
        volume = prepare_path(path, recipe, point_mm=point_mm, series=series, mask=mask, reading=self.reading)
        for one, state in zip(read, before, strict=True):
            if self.sources.state(one) != state:
                msg = "was changed while it was read"
                raise ReadError(msg, path=one)
        try:
            save_sample(volume, file)
        except HilumError as exc:
            raise StoreError(exc.message, path=exc.path) from exc
        return Fetched(file, volume, made=True)

    def find(
        self, path: Path, recipe: Recipe, *, point_mm: Any = None, series: str = "", mask: Path | None = None
    ) -> Fetched | None:
        """Look up the sample of a scan without reading the scan; None if it is missing or the scan may have changed.

        Arguments as for ``fetch``.
        """
        with contextlib.suppress(ReadError, PrepareError):
            read = [path] if mask is None or not recipe.needs_lungs else [path, mask]
            sources = [known for one in read if (known := self.sources.known(one)) is not None]
            if len(sources) == len(read):
                file = self._path_of(sources, recipe, is_array=_is_array(path), point_mm=point_mm, series=series)
                return Fetched(file, load_sample(file), made=False)
        return None

    def _path_of(self, sources: list[str], recipe: Recipe, *, is_array: bool, point_mm: Any, series: str) -> Path:
        """Path of a sample: a hash of the bytes of scan and mask, and of all settings that preparing depends on.

        Settings that are applied to samples later, such as windows, are left out; but a ``.npy`` in [0, 1] depends on
        its window.
        """
        settings = to_dict(recipe.in_numbers)
        for name in ("overlap", "aggregate", *(() if is_array else ("windows_hu", "npy_range"))):
            settings.pop(name, None)
        content = {
            "sources": sources,
            "recipe": settings,
            "policy": [self.reading.policy, *sorted(self.reading.override)],
            "series": series,
            "point_mm": None if point_mm is None else [float(v) for v in point_mm],
            "version": _VERSION,
        }
        key = hashlib.blake2b(json.dumps(content, sort_keys=True).encode(), digest_size=16).hexdigest()
        folder = self.folder / key[:2]
        if folder.is_symlink():
            msg = "must be a folder of the store, is a link"
            raise StoreError(msg, path=folder)
        return folder / f"{key}{SUFFIX}"

    def samples(self) -> list[Stored]:
        """All samples, the longest unused first; links are not followed."""
        found = []
        for entry in self._entries(_SAMPLE):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                about = entry.stat(follow_symlinks=False)
                found.append(Stored(file=Path(entry.path), num_bytes=about.st_size, used=about.st_atime))
        return sorted(found, key=lambda one: (one.used, one.file.name))

    def damaged(self, samples: list[Stored]) -> Iterator[tuple[Path, str]]:
        """Yield the damaged samples with the reason; all bytes are read."""
        for one in samples:
            try:
                read_sample(one.file, fully=True, use=False)
            except PrepareError as exc:
                if os.path.lexists(one.file):
                    yield one.file, str(exc)

    def leftovers(self) -> list[Path]:
        """Temporary files of killed writers: their process does not exist on this machine, or they are too old."""
        found = []
        for entry in self._entries(_LEFTOVER):
            match = _LEFTOVER.fullmatch(entry.name)
            with contextlib.suppress(FileNotFoundError):
                age = time.time() - entry.stat(follow_symlinks=False).st_mtime
                if match and (age > _LONGEST_WRITE_S or (match[2] == machine_id() and not is_alive(int(match[1])))):
                    found.append(Path(entry.path))
        return found

    def sweep(self) -> int:
        """Remove temporary files of killed writers; returns their number."""
        return self.remove(self.leftovers())

    def remove(self, files: list[Path]) -> int:
        """Remove files that ``damaged`` or ``leftovers`` listed; returns their number."""
        return sum(_remove(path) for path in files)

    def require_room(self, number: int, recipe: Recipe) -> None:
        """Check that a number of samples fits within the bound, for a command must not remove samples that it needs.

        Raises:
            ConfigError: If they do not fit.
        """
        each = (2 + recipe.keeps_lungs) * math.prod(recipe.size)  # with sub_volumes at least
        need = number * (each + _HEADER_BYTES) / 1e9
        if 0 < self.max_gb < need:
            msg = (
                f"store_gb must be at least {math.ceil(need * 1000) / 1000:g} for this cohort of {number} samples "
                f"(0: no bound), got {self.max_gb:g}"
            )
            raise ConfigError(msg)

    def trim(self, *, keep: Collection[Path] = ()) -> int:
        """Remove the longest unused samples until the rest is within the bound; returns their number.

        A process that has mapped a removed file can still read it.

        Args:
            keep: Files that are never removed.
        """
        if self.max_gb <= 0:
            return 0
        samples, needed, removed = self.samples(), set(keep), 0
        excess = sum(one.num_bytes for one in samples) - self.max_gb * 1e9
        for one in samples:
            if excess <= 0:
                break
            if one.file not in needed and _remove(one.file):
                excess -= one.num_bytes
                removed += 1
        return removed

    def _entries(self, name: re.Pattern[str]) -> Iterator["os.DirEntry[str]"]:
        """Regular files of the store whose names match; links are not followed."""
        for folder in _listed(self.folder):
            if _FOLDER.fullmatch(folder.name) and folder.is_dir(follow_symlinks=False):
                for entry in _listed(Path(folder.path)):
                    if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                        yield entry


def _is_array(path: Path) -> bool:
    return path.suffix.lower() == ".npy"


def _listed(folder: Path) -> list["os.DirEntry[str]"]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove(path: Path) -> bool:
    """Remove a file; False if another process removed it first, or holds it open on Windows."""
    try:
        path.unlink()
    except OSError:
        return False
    return True
