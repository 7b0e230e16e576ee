"""Finds the usable scans below a folder, each acquisition once, with notes on what was left out."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from hilum.findings import Finding, refusals
from hilum.reading.archives.unpack import has_archive_name
from hilum.reading.dicom.series import Series, find_series
from hilum.reading.images.files import is_image
from hilum.reading.paths import Tree, opened_tree, source_files
from hilum.reading.select import rate
from hilum.settings.run import ReadingConfig
from hilum.volume import Tags

NO_SCANS = frozenset(["localizer", "secondary-capture", "wrong-modality"])
"""Findings of series that are not CT scans and accompany nearly every study."""

_DEFAULT_READING = ReadingConfig()


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """One scan found in a folder.

    Attributes:
        path: Its folder or file.
        series: Hash of its series, if the folder holds several; else empty.
        tags: Tags of a DICOM series; empty for other formats.
        labels: Its class, or the cells of several labels; empty until known.
    """

    path: Path
    series: str
    tags: Tags
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Scans with labels, and notes on what was left out.

    Attributes:
        scans: In the order of their paths.
        notes: A sentence for each thing left out, with the reason.
        columns: Names of the label columns.
        num_refused: Number of series, files, folders and links that may be scans but cannot be used.
        num_passed_over: Number of series that are not CT scans: localizers, pages of text, other modalities.
    """

    scans: tuple[Scan, ...]
    notes: tuple[str, ...]
    columns: tuple[str, ...] = ("label",)
    num_refused: int = 0
    num_passed_over: int = 0


def find_scans(folder: Path, reading: ReadingConfig = _DEFAULT_READING) -> Listing:
    """Find the usable scans below a folder; of several reconstructions of one acquisition, the one ``read`` prefers.

    An archive counts as a folder: its scans have the path of the archive.
    """
    notes = Notes()
    return notes.listing(scans_below(folder, reading, notes))


@dataclass(slots=True, kw_only=True)
class Notes:
    """Collects the notes and counts of a listing."""

    lines: list[str] = field(default_factory=list)
    num_refused: int = 0
    num_passed_over: int = 0

    def add(self, line: str) -> None:
        """Add a note that counts nothing."""
        self.lines.append(line)

    def refuse(self, findings: Iterable[Finding], folder: str = "") -> None:
        """Note and count files, folders and links that cannot be used."""
        for one in findings:
            self.lines.append(f"{folder}{one.where}: {one.message}")
            self.num_refused += 1

    def leave_out(self, series: Series, place: str, why: Finding) -> None:
        """Note and count a series that cannot be used or is not a CT scan."""
        self.lines.append(f"series {series.summary}, in {place}, is left out: {why.message}")
        self.num_passed_over += why.code in NO_SCANS
        self.num_refused += why.code not in NO_SCANS

    def listing(self, scans: Iterable[Scan]) -> Listing:
        """The listing of these scans with the notes so far."""
        return Listing(
            scans=tuple(scans),
            notes=tuple(self.lines),
            num_refused=self.num_refused,
            num_passed_over=self.num_passed_over,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """A scan with its series; image files have none. ``points`` are score, number of slices and reasons."""

    scan: Scan
    series: Series | None = None
    points: "tuple[int, int, str] | None" = None

    def rated(self) -> "_Found":
        """The scan with its points, scored as when ``read`` chooses among the series of a study."""
        if self.series is None or self.points is not None:
            return self
        choice = rate(self.series)
        self.series.opened.clear()
        return replace(self, points=(choice.score, len(self.series.frames), ", ".join(choice.reasons)))


def scans_below(folder: Path, reading: ReadingConfig, notes: Notes) -> list[Scan]:
    """Find the usable scans among the files below a folder, see ``scans_among``."""
    left_out: list[Finding] = []
    files = source_files(folder, left_out)
    notes.refuse(left_out)
    return scans_among(files, folder, reading, notes)


def scans_among(files: Sequence[Path], root: Path, reading: ReadingConfig, notes: Notes) -> list[Scan]:
    """Find the usable scans among files, each acquisition once, in the order of their paths.

    Args:
        files: Files below the root.
        root: The folder that the user named; notes give paths relative to it.
        reading: The policy that decides which scans are usable.
        notes: Receives a note for each thing left out.
    """

    def where(file: Path) -> str:
        return file.relative_to(root).as_posix()

    archives = [file for file in files if has_archive_name(file.name)]
    found = _found([file for file in files if file not in set(archives)], None, reading, where, notes)
    for archive in archives:
        parent = "" if archive.parent == root else f"{where(archive.parent)}/"
        with opened_tree(archive, reading) as tree:
            notes.refuse(tree.findings, parent)
            inside = _found(tree.files, archive, reading, partial(_inside, tree, parent), notes)
            found += [one.rated() if one.scan.tags.acquisition else one for one in inside]  # before it is removed
    usable: dict[str, list[_Found]] = {}
    for one in found:
        alone = f"{one.scan.path} {one.scan.series}"
        usable.setdefault(one.scan.tags.acquisition or alone, []).append(one)
    scans = [_once(group, notes) for group in usable.values()]
    return sorted(scans, key=lambda s: (str(s.path), s.series))


def _once(group: list[_Found], notes: Notes) -> Scan:
    """Choose among reconstructions of one acquisition: most points, then most slices, as ``read`` does."""
    if len(group) == 1:
        return group[0].scan
    best, second, *_ = sorted(
        (one.rated() for one in group),
        key=lambda one: (*(one.points or (0, 0))[:2], one.scan.tags.kernel, one.scan.tags.series),
        reverse=True,
    )
    kernels = ", ".join(sorted({one.scan.tags.kernel or "unnamed" for one in group}))
    (score, slices, reasons), (next_score, next_slices, _) = best.points or (0, 0, ""), second.points or (0, 0, "")
    if score > next_score:
        why = f"with {score} points before {next_score}: {reasons}"
    elif slices > next_slices:
        why = f"with {score} points as another, and {slices} slices before {next_slices}: {reasons}"
    else:
        why = f"one of several that are equally good, with {score} points: {reasons}"
    summary = best.series.summary if best.series else best.scan.path.name
    notes.add(f"{len(group)} reconstructions of one acquisition (kernels {kernels}) count once: {summary}, {why}")
    return best.scan


def _inside(tree: Tree, parent: str, file: Path) -> str:
    return f"{parent}{tree.where(file)}"


def _found(
    files: Sequence[Path],
    archive: Path | None,
    reading: ReadingConfig,
    where: Callable[[Path], str],
    notes: Notes,
) -> list[_Found]:
    """The usable scans among files, which may be those of an archive; notes why others are left out."""
    series, unreadable = find_series(files, reading, where=where)
    notes.refuse(unreadable)
    crowded = Counter(path for one in series for path in {f.path.parent for f in one.frames})
    found = []
    for one in series:
        parents = {f.path.parent for f in one.frames}
        if archive is not None:
            home, alone = archive, len(series) == 1
        elif len({f.path for f in one.frames}) == 1:
            home, alone = one.frames[0].path, one.part == 0
        else:
            home = Path(os.path.commonpath(sorted(parents)))
            alone = len(parents) == 1 and crowded[home] == 1
        refused = refusals(one.findings)
        if refused:
            notes.leave_out(one, where(one.frames[0].path if archive else home), refused[0])
            continue
        scan = Scan(path=home, series="" if alone else one.name, tags=one.tags)
        found.append(_Found(scan=scan, series=one))
    dicom = {f.path for one in series for f in one.frames}
    images = [f for f in files if (is_image(f) and f not in dicom) or f.suffix.lower() == ".npy"]
    if archive is None:
        found += [_Found(scan=Scan(path=image, series="", tags=Tags())) for image in images]
    elif len(images) == 1 and not series:
        found.append(_Found(scan=Scan(path=archive, series="", tags=Tags())))
    elif images:
        message = f"an archive of several scans must hold DICOM only; images in it: {len(images)}"
        notes.refuse([reading.rules.find("not-an-image", message, where(images[0]))])
    return found
