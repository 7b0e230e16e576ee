"""Writes the files of one scan of a tree, and says what became of it as ``hilum inspect`` does."""

from dataclasses import dataclass, replace
from pathlib import Path

from hilum.errors import GeometryError, HilumError, PrepareError, ReadError
from hilum.findings import Finding, refusals
from hilum.reading.dicom.series import Series
from hilum.reading.doctor import Examined, examine_scan
from hilum.reading.images.files import detached_files
from hilum.serving.record import SourceState, WrittenScan, reason_of, without_names, without_places
from hilum.serving.scan_product import ScanTarget
from hilum.settings.run import ReadingConfig

_BYTES_FOR_VOXELS = 3.5
"""Peak memory for each byte of a scan's voxels as int16: 1.4 measured for HU, 2.8 for lungs, plus a reserve."""

_BYTES_FOR_FILE = 7.0
"""The same for each byte of an image file, compressed to half."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanTask:
    """A scan of a tree.

    Attributes:
        item: The series or image file.
        where: Its path below the tree.
        target: Its files.
    """

    item: Series | Path
    where: str
    target: ScanTarget


def most_bytes(task: ScanTask) -> float:
    """Memory that a scan takes at most."""
    if isinstance(task.item, Path):
        try:
            return max(1.0, _BYTES_FOR_FILE * task.item.stat().st_size)
        except OSError:
            return 1.0
    rows, columns = task.item.frames[0].header.shape
    return max(1.0, _BYTES_FOR_VOXELS * 2 * rows * columns * max(len(task.item.stack.at), len(task.item.frames)))


def write_task(task: ScanTask, reading: ReadingConfig) -> WrittenScan:
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


def _described(task: ScanTask, examined: Examined) -> WrittenScan:
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


def failed_scan(task: ScanTask, exc: Exception) -> WrittenScan:
    """A scan that cannot be examined."""
    if isinstance(exc, HilumError):
        code, message = exc.code or "", exc.message
    elif isinstance(exc, MemoryError):
        code, message = "", "the scan does not fit into memory"
    else:  # its own text would name the file
        code, message = "", f"cannot be read: {getattr(exc, 'strerror', None) or type(exc).__name__}"
    reason = without_names(f"{code}: {message}" if code else message, _names(task))
    return WrittenScan(name=task.target.name, verdict="refused", reason=reason, code=code, where=task.where)


def _names(task: ScanTask) -> list[str]:
    """Names that sentences about a scan may hold."""
    if isinstance(task.item, Path):
        return [task.where, task.item.name]
    return [task.where, *dict.fromkeys(frame.where(frame.path) for frame in task.item.frames)]
