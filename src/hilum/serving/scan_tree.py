"""Writes files of each scan of a tree into a folder: in parallel, and continuing where an earlier call stopped."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from hilum.errors import ReadError, StoreError
from hilum.files import cores, free_bytes, sweep_new_files
from hilum.findings import Finding, refusals
from hilum.reading.dicom.series import Series
from hilum.reading.doctor import list_scans, scan_path
from hilum.reading.paths import Tree, opened_tree
from hilum.serving.record import WrittenScan, reason_of, without_places
from hilum.serving.scan_product import Product, ScanTarget, file_settings, place_name
from hilum.serving.scan_task import ScanTask, failed_scan, most_bytes, write_task
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig
from hilum.working.stop import Stop
from hilum.working.tasks import Failed, run_tasks

_FEW = 16
"""Up to this many scans threads are faster, for processes take time to start (rule of thumb)."""

_PROCESS_BYTES = 150e6
"""Memory of a process before it reads a scan: 81 MB measured, plus a reserve."""

_log = logging.getLogger("hilum")


def write_scans(
    scan: Path, out: Path, product: Product, *, files: FilesConfig, reading: ReadingConfig
) -> list[WrittenScan]:
    """Write the files of each scan below a path into a folder; what an earlier call has done stays.

    On Ctrl-C and other signals to end, the scans under way are finished first.

    Args:
        scan: A folder tree, an archive or a file.
        out: The folder.
        product: What is written.
        files: Their form.
        reading: Policy for unusual scans.

    Returns:
        What became of each series, each image file and each file that cannot be read, in the order of their names.

    Raises:
        ReadError: If there is no such path, or no scan below it.
        HilumError: If a file would be overwritten or cannot be written.
    """
    with opened_tree(scan, reading) as tree:
        items, loose = list_scans(tree, scan, reading, progress=None)
        target = partial(
            ScanTarget, folder=out.absolute(), suffix=files.suffix, product=product, level=files.level,
            settings=file_settings(files, reading, files.suffix),
        )  # fmt: skip
        tasks = _tasks(items, tree, target)
        for task in tasks:
            task.target.check_own(scan)
        sweep_new_files(out, {name for task in tasks for name in task.target.all_names})
        found = [*_worked(tasks, files.workers, reading), *_left_out(loose, tree)]
    if not found:
        msg = "no CT here; DICOM, NIfTI (.nii, .nii.gz, .hdr of a pair), NRRD and MetaImage are read"
        raise ReadError(msg, path=scan)
    return sorted(found, key=lambda one: (one.name, one.where))


def _tasks(items: Sequence[Series | Path], tree: Tree, target: Callable[..., ScanTarget]) -> list[ScanTask]:
    """A task for each scan, with names that no two share."""
    tasks = []
    taken: Counter[str] = Counter()
    for item in items:
        path = scan_path(item, tree)
        if isinstance(item, Path):
            name = place_name("image", tree.place(path))
        elif item.tags.series:
            name = item.name
        else:
            name = place_name("series", tree.place(path)) + (f".{item.part}" if item.part else "")
        taken[name] += 1
        name += f"-{taken[name]}" if taken[name] > 1 else ""
        tasks.append(ScanTask(item=item, where=tree.where(path), target=target(name=name)))
    return tasks


def _left_out(loose: Sequence[Finding], tree: Tree) -> list[WrittenScan]:
    """Files, folders and links that may be scans but cannot be read."""
    found = []
    for finding in refusals(loose):
        findings = without_places([finding], [finding.where])
        found.append(
            WrittenScan(
                name=place_name("file", tree.place(tree.root / finding.where)), verdict="refused", findings=findings,
                reason=reason_of(findings), code=finding.code, where=finding.where,
            )
        )  # fmt: skip
    return found


def _worked(tasks: Sequence[ScanTask], workers: int, reading: ReadingConfig) -> list[WrittenScan]:
    """What became of each scan, in order; ends the process if a signal requested it."""
    if not tasks:
        return []
    threads = len(tasks) <= _FEW
    workers = _limited(tasks, workers, threads=threads)
    found: list[WrittenScan] = []
    refused = 0
    stop = Stop()
    with stop.on_signals(), tqdm(total=len(tasks), desc="scans", unit="scan", disable=None, leave=False) as bar:
        results = run_tasks(partial(write_task, reading=reading), tasks, workers=workers, threads=threads, stop=stop)
        for task, result in zip(tasks, results, strict=False):  # fewer where a signal asked for an end
            if isinstance(result, Failed) and isinstance(result.error, StoreError):
                raise result.error
            one = failed_scan(task, result.error) if isinstance(result, Failed) else result
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


def _limited(tasks: Sequence[ScanTask], wanted: int, *, threads: bool) -> int:
    """Number of scans at once: as many as wanted, or as fit into the free memory."""
    largest = max(map(most_bytes, tasks))
    fitting = free_bytes() / ((0 if threads else _PROCESS_BYTES) + largest)
    return max(1, int(min(wanted or cores(), len(tasks), fitting)))
