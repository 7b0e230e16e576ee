"""Writes files of one scan, or of each scan of a tree: in parallel, and continuing where an earlier call stopped."""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Num
from tqdm import tqdm

from hilum.errors import ConfigError, GeometryError, HilumError, PrepareError, ReadError, StoreError, require
from hilum.files import check_output, check_place, cores, free_bytes, sweep_new_files
from hilum.findings import Finding, refusals
from hilum.imagefile import WRITTEN_SUFFIXES, has_mark, replace_image, written_suffix
from hilum.preparing.sources import scan_files
from hilum.reading.dicom.dicomdir import is_dicomdir
from hilum.reading.dicom.series import Series
from hilum.reading.doctor import Examined, examine_scan, list_scans, scan_place
from hilum.reading.identity import hashed
from hilum.reading.images.files import detached_files, image_suffix
from hilum.reading.paths import Tree, opened_tree
from hilum.reading.reader import read
from hilum.serving.record import (
    SourceState,
    WrittenScan,
    finished,
    is_record,
    reason_of,
    recorded_files,
    recorded_name,
    without_names,
    without_places,
    write_record,
)
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume
from hilum.working.stop import Stop
from hilum.working.tasks import Failed, run_tasks

_FEW = 16
"""Up to this many scans threads are faster, for processes take time to start (rule of thumb)."""

_PROCESS_BYTES = 150e6
"""Memory of a process before it reads a scan: 81 MB measured, plus a reserve."""

_BYTES_FOR_VOXELS = 3.5
"""Peak memory for each byte of a scan's voxels as int16: 1.4 measured for HU, 2.8 for lungs, plus a reserve."""

_BYTES_FOR_FILE = 7.0
"""The same for each byte of an image file, compressed to half."""

_log = logging.getLogger("hilum")


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
class _Target:
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


def _sweep(targets: Iterable[_Target]) -> None:
    """Remove temporary files that a killed call left, in the folder of all."""
    targets = list(targets)
    names = {path.name for one in targets for path in (*one.images, one.record)}
    if targets:
        sweep_new_files(targets[0].folder, names)


_SHEARED = (
    "NRRD and MetaImage hold only grids with right angles, this one is sheared, as of a tilted gantry; NIfTI holds it"
)


def _not_written(exc: Exception, path: Path) -> StoreError:
    """The error of a file that cannot be written, which ends the command."""
    if isinstance(exc, HilumError):
        return StoreError(exc.message, path=exc.path or path)
    return StoreError(f"cannot be written: {getattr(exc, 'strerror', None) or exc}", path=path)


def is_image_name(out: Path) -> bool:
    """Whether an output is the file of one scan, by its name, else a folder.

    Raises:
        ConfigError: If it is named like an image file of a format that is read but not written.
    """
    if out.is_dir():
        return False
    if out.name.lower().endswith(WRITTEN_SUFFIXES):
        return True
    if image_suffix(out):
        written_suffix(out)  # says which are
    return False


# one scan


def write_scan(
    scan: Path, out: Path, product: Product, *, series: str | None, files: FilesConfig, reading: ReadingConfig
) -> WrittenScan:
    """Write the files of one scan, chosen as ``hilum.read`` does, unless an earlier call has done so.

    Args:
        scan: A folder, an archive or a file.
        out: The first of the files; others and the JSON lie beside it.
        product: What is written.
        series: The series to take where there are several.
        files: The level of compression; the rest is for folders.
        reading: Policy for unusual scans.

    Raises:
        ConfigError: If a setting has no effect on one file, or the place cannot be written to.
        HilumError: If the scan cannot be read, is refused, or a file would be overwritten or cannot be written.
    """
    for name in ("suffix", "keep_paths", "workers"):
        is_default = getattr(files, name) == getattr(FilesConfig(), name)
        require(is_default, name.replace("_", "-"), f"left out for one file, as {out.name} is", getattr(files, name))
    suffix = written_suffix(out)
    has_level = suffix != ".nii" or files.level == FilesConfig().level
    require(has_level, "level", "left out for a .nii, which is not compressed", files.level)
    require(len(out.name) > len(suffix), product.flag, "the name of a file before its suffix", out)
    settings = _settings(files, reading, suffix) | {"series": series or ""}
    target = _Target(
        folder=out.parent, name=out.name[: -len(suffix)], suffix=out.name[-len(suffix) :], product=product,
        level=files.level, settings=settings,
    )  # fmt: skip
    _check_apart(scan, out, product)
    target.check_own(scan)
    _sweep([target])
    try:
        detached = detached_files(scan)
        source = SourceState.of(scan_files(scan)[: -len(detached) or None], detached)
        done = target.finished(source)
        if done is not None:
            return done
        origin = (source.state, source.digest())
    except OSError as exc:
        msg = f"cannot be read: {exc.strerror or exc}"
        raise ReadError(msg, path=scan) from exc
    volume = read(scan, series=series, reading=reading)
    name = volume.tags.series or _hash_of_path(str(scan.absolute()))
    before = recorded_name(target.record)
    if before and before != name:
        msg = "holds another scan, and would be overwritten; name another file, or remove it"
        raise HilumError(msg, path=out)
    try:
        images = target.write(volume)
    except (PrepareError, GeometryError) as exc:
        exc.path = scan
        raise
    names = [file.name for file in source.files]
    written = WrittenScan(
        name=name,
        verdict="repaired" if any(f.severity == "repaired" for f in volume.findings) else "ok",
        files=target.names,
        shape=volume.shape,
        spacing_mm=volume.spacing_mm,
        findings=without_places(volume.findings, names),
        lungs=images.lungs,
    )
    target.confirm(written, volume, origin)
    return written


def _settings(files: FilesConfig, reading: ReadingConfig, suffix: str) -> dict[str, Any]:
    """All that determines a scan's files beside the scan, for the JSON."""
    return {"suffix": suffix, "level": files.level, "policy": reading.policy, "override": list(reading.override)}


def _hash_of_path(path: str) -> str:
    """Name of an image file: its keyed hash."""
    return hashed("image", f"./{os.fsencode(path).decode('latin-1')}")  # a name need not be valid text


def _check_apart(scan: Path, out: Path, product: Product) -> None:
    """Make sure that the next call would not find the written files among the scans.

    Raises:
        ConfigError: If they would lie in the folder of the scans, or cannot be written.
    """
    folder = scan.parent if scan.is_file() and is_dicomdir(scan) else scan
    inside, around = Path(os.path.realpath(out)), Path(os.path.realpath(folder))
    if folder.is_dir() and around in (inside, *inside.parents):
        msg = f"{product.flag} must lie outside the folder of the scans, {folder}, got {out}"
        raise ConfigError(msg)
    check_place(out, "files", product.flag)


# each scan of a tree


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A scan of a tree.

    Attributes:
        item: The series or image file.
        where: Its path below the tree.
        target: Its files.
    """

    item: Series | Path
    where: str
    target: _Target


def write_scans(
    scan: Path, out: Path, product: Product, *, series: str | None, files: FilesConfig, reading: ReadingConfig
) -> list[WrittenScan]:
    """Write the files of each scan below a path into a folder; what an earlier call has done stays.

    On Ctrl-C and other signals to end, the scans under way are finished first.

    Args:
        scan: A folder tree, an archive or a file.
        out: The folder.
        product: What is written.
        series: Must be None: all are taken.
        files: Their form.
        reading: Policy for unusual scans.

    Returns:
        What became of each series, each image file and each file that cannot be read, in the order of their names.

    Raises:
        ReadError: If there is no such path, or no scan below it.
        ConfigError: If one series is asked for, or the place cannot be written to.
        HilumError: If a file would be overwritten or cannot be written.
    """
    require(series is None, "series", f"left out for a folder, as {out} is: all series go into it", series)
    require(out.is_dir() or not out.exists(), product.flag, "a folder or an image file to write", f"the file {out}")
    _check_apart(scan, out, product)
    with opened_tree(scan, reading) as tree:
        items, loose = list_scans(tree, scan, reading, progress=None)
        target = partial(
            _Target, folder=out.absolute(), suffix=files.suffix, product=product, level=files.level,
            settings=_settings(files, reading, files.suffix),
        )  # fmt: skip
        tasks = _tasks(items, tree, target)
        for task in tasks:
            task.target.check_own(scan)
        _sweep(task.target for task in tasks)
        found = [*_worked(tasks, files.workers, reading), *_left_out(loose)]
    if not found:
        msg = "no CT here; DICOM, NIfTI (.nii, .nii.gz, .hdr of a pair), NRRD and MetaImage are read"
        raise ReadError(msg, path=scan)
    return sorted(found, key=lambda one: (one.name, one.where))


def _tasks(items: Sequence[Series | Path], tree: Tree, target: Callable[..., _Target]) -> list[_Task]:
    """A task for each scan, with names that no two share."""
    tasks = []
    taken: dict[str, int] = {}
    for item in items:
        where = scan_place(item, tree)
        if isinstance(item, Path):
            inside = tree.unpacked is None or not item.is_relative_to(tree.unpacked)
            name = _hash_of_path(str(item.relative_to(tree.root)) if inside else where)
        elif item.tags.series:
            name = item.name
        else:
            name = hashed("series", f"./{where}") + (f".{item.part}" if item.part else "")
        taken[name] = taken.get(name, 0) + 1
        name += f"-{taken[name]}" if taken[name] > 1 else ""
        tasks.append(_Task(item=item, where=where, target=target(name=name)))
    return tasks


def _left_out(loose: Sequence[Finding]) -> list[WrittenScan]:
    """Files, folders and links that may be scans but cannot be read."""
    found = []
    for finding in refusals(loose):
        findings = without_places([finding], [finding.where])
        found.append(
            WrittenScan(
                name=hashed("file", f"./{finding.where}"), verdict="refused", findings=findings,
                reason=reason_of(findings), code=finding.code, where=finding.where,
            )
        )  # fmt: skip
    return found


def _worked(tasks: Sequence[_Task], workers: int, reading: ReadingConfig) -> list[WrittenScan]:
    """What became of each scan, in order; ends the process if a signal requested it."""
    if not tasks:
        return []
    threads = len(tasks) <= _FEW
    workers = _limited(tasks, workers, threads=threads)
    found: list[WrittenScan] = []
    refused = 0
    stop = Stop()
    with stop.on_signals(), tqdm(total=len(tasks), desc="scans", unit="scan", disable=None, leave=False) as bar:
        results = run_tasks(partial(_work, reading=reading), tasks, workers=workers, threads=threads, stop=stop)
        for task, result in zip(tasks, results, strict=False):  # fewer where a signal asked for an end
            if isinstance(result, Failed) and isinstance(result.error, StoreError):
                raise result.error
            one = _failed(task, result.error) if isinstance(result, Failed) else result
            found.append(one)
            refused += not one.files
            bar.set_postfix({"refused": refused}, refresh=False)
            bar.update()
    if stop.signal:
        _log.warning(
            "stopped: %d of %d scans are done, %d of them refused; the same command goes on from there",
            len(found), len(tasks), refused,
        )  # fmt: skip
        stop.end()
    return found


def _limited(tasks: Sequence[_Task], wanted: int, *, threads: bool) -> int:
    """Number of scans at once: as many as wanted, or as fit into the free memory."""
    largest = max(map(_bytes_for, tasks))
    fitting = free_bytes() / ((0 if threads else _PROCESS_BYTES) + largest)
    return max(1, int(min(wanted or cores(), len(tasks), fitting)))


def _bytes_for(task: _Task) -> float:
    """Memory that a scan takes at most."""
    if isinstance(task.item, Path):
        try:
            return max(1.0, _BYTES_FOR_FILE * task.item.stat().st_size)
        except OSError:
            return 1.0
    rows, columns = task.item.frames[0].header.shape
    return max(1.0, _BYTES_FOR_VOXELS * 2 * rows * columns * max(len(task.item.stack.at), len(task.item.frames)))


def _work(task: _Task, reading: ReadingConfig) -> WrittenScan:
    """Write the files of one scan, unless they are there.

    Raises:
        StoreError: If they cannot be written.
        OSError: If the scan's files cannot be read.
    """
    target = task.target
    try:
        source = _source(task.item)
        done = target.finished(source)
        if done is not None:
            return replace(done, where=task.where)
        origin = (source.state, source.digest())
    except (ReadError, OSError):
        origin = ("", "")  # reading says what is wrong
    examined, volume = examine_scan(task.item, task.where, reading)
    written = _described(task, examined)
    if volume is None:
        target.remove()
        return written
    try:
        images = target.write(volume)
    except (PrepareError, GeometryError) as exc:
        target.remove()
        return _not_made(written, exc)
    written = replace(written, files=target.names, shape=volume.shape, spacing_mm=volume.spacing_mm, lungs=images.lungs)
    target.confirm(written, volume, origin)
    return written


def _source(item: Series | Path) -> SourceState:
    """The files of a scan.

    Raises:
        ReadError: If a header names none that hold its voxels.
        OSError: If one cannot be asked.
    """
    if isinstance(item, Path):
        return SourceState.of([item], detached_files(item))
    return SourceState.of(sorted({frame.path for frame in item.frames}))


def _described(task: _Task, examined: Examined) -> WrittenScan:
    """What the doctor found, without names of files."""
    findings = without_places(examined.findings, _names(task))
    refused = refusals(findings)
    return WrittenScan(
        name=task.target.name,
        verdict=examined.verdict,
        shape=(examined.num_slices, *examined.size),
        spacing_mm=examined.spacing_mm,
        findings=findings,
        reason=reason_of(findings),
        code=refused[0].code if refused else "",
        where=task.where,
    )


def _not_made(written: WrittenScan, exc: HilumError) -> WrittenScan:
    """A scan that is read well, but has no lungs or does not fit into the format."""
    findings = written.findings
    if exc.code:
        findings = (*findings, Finding(code=exc.code, severity="refused", message=exc.message))
    reason = f"{exc.code}: {exc.message}" if exc.code else exc.message
    return replace(written, verdict="refused", findings=findings, reason=reason, code=exc.code or "")


def _failed(task: _Task, exc: Exception) -> WrittenScan:
    """A scan that cannot be examined."""
    if isinstance(exc, HilumError):
        code, message = exc.code or "", exc.message
    else:
        code, message = "", "the scan does not fit into memory" if isinstance(exc, MemoryError) else f"{exc}"
    reason = without_names(f"{code}: {message}" if code else message, _names(task))
    return WrittenScan(name=task.target.name, verdict="refused", reason=reason, code=code, where=task.where)


def _names(task: _Task) -> list[str]:
    """Names that sentences about a scan may hold."""
    if isinstance(task.item, Path):
        return [task.where, task.item.name]
    return [task.where, *dict.fromkeys(frame.where(frame.path) for frame in task.item.frames)]
