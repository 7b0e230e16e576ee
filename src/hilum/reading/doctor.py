"""Examines what lies under a path, series by series, with all checks, without stopping at a bad one."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from hilum.errors import GeometryError, HilumError
from hilum.files import cores
from hilum.findings import Finding, Policy, as_records, refusals
from hilum.pages import PLANES_CAPTION, grey, notebook_card, three_planes
from hilum.reading.dicom.frames import is_dicom
from hilum.reading.dicom.pixels import load_series, slice_hu, without_duplicates
from hilum.reading.dicom.series import Series, find_series
from hilum.reading.hu_check import Levels, check_hu
from hilum.reading.images.reader import read_image
from hilum.reading.paths import Tree, opened_tree
from hilum.reading.reader import image_files
from hilum.reading.select import rate
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume

Verdict = Literal["ok", "repaired", "refused"]

_AT_ONCE = 4
"""Scans in memory at one time; each is decoded by threads of its own."""

_SLICES = {"CT", "MR", "PT"}
"""Modalities whose pictures come from a reconstruction and not from a screen."""

_PLANE_PIXELS = 160
"""Longest side of a picture."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inspection:
    """Result of an inspection callback on a scan's voxels.

    Attributes:
        what: Subject of the inspection, in one word.
        verdict: Verdict, in one word.
        summary: The verdict with figures, in a line.
        figures: A dataclass of numbers.
        findings: Findings of the inspection.
        pictures: Planes in colour, of any size.
    """

    what: str
    verdict: str
    summary: str
    figures: Any
    findings: tuple[Finding, ...] = ()
    pictures: tuple[UInt8[np.ndarray, "_ _ rgb"], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        figures = {name: round(value, 4) for name, value in asdict(self.figures).items()}
        return {"verdict": self.verdict, **figures, "findings": as_records(self.findings)}


Look: TypeAlias = Callable[[Volume], Inspection]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examined:
    """The result for one series or image file.

    Attributes:
        where: Path relative to the one examined.
        series: Name to pick it by, a hash; empty for image files.
        modality: DICOM Modality.
        num_slices: Slices, duplicates counted.
        size: Rows and columns.
        spacing_mm: (z, y, x); None where there is no regular grid.
        thickness_mm: SliceThickness.
        kernel: ConvolutionKernel.
        findings: All findings.
        score: Points in the choice of a series, see ``select.rate``; None for image files.
        reasons: Reasons for the points.
        levels: HU of air, fat and muscle; None for crops and for scans that cannot be read.
        planes: Pictures through the middle, axial, coronal and sagittal, 0 to 255, all with pixels of one size in mm;
            only the middle slice of what forms no volume; empty unless asked for.
        inspection: Result of the inspection callback; None without one, and for refused scans.
    """

    where: str
    series: str = ""
    modality: str = ""
    num_slices: int = 0
    size: tuple[int, int] = (0, 0)
    spacing_mm: tuple[float, float, float] | None = None
    thickness_mm: float | None = None
    kernel: str = ""
    findings: tuple[Finding, ...] = ()
    score: int | None = None
    reasons: tuple[str, ...] = ()
    levels: Levels | None = None
    planes: tuple[UInt8[np.ndarray, "_ _"], ...] = ()
    inspection: Inspection | None = None

    @property
    def verdict(self) -> Verdict:
        """``refused`` if a finding refuses it, ``repaired`` if one repaired it, else ``ok``."""
        if refusals(self.findings):
            return "refused"
        return "repaired" if any(f.severity == "repaired" for f in self.findings) else "ok"

    def _repr_html_(self) -> str:
        """Verdict, grid, planes if they were asked for, and findings, for notebooks."""
        grid = "" if self.spacing_mm is None else f", {' x '.join(f'{s:.4g}' for s in self.spacing_mm)} mm (z, y, x)"
        kernel = f", kernel {self.kernel}" if self.kernel else ""
        facts = [f"{self.num_slices} slices of {self.size[0]} x {self.size[1]} pixels{grid}{kernel}"]
        if self.score is not None:
            facts.append(f"{self.score} points in the choice of a series: {', '.join(self.reasons)}")
        return notebook_card(
            f"{self.where}: {self.verdict}",
            facts=facts,
            planes=self.planes,
            caption=PLANES_CAPTION if len(self.planes) == 3 else "the middle slice",
            findings=self.findings,
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return {
            "where": self.where,
            "series": self.series,
            "modality": self.modality,
            "num_slices": self.num_slices,
            "size": list(self.size),
            "spacing_mm": None if self.spacing_mm is None else list(self.spacing_mm),
            "thickness_mm": self.thickness_mm,
            "kernel": self.kernel,
            "verdict": self.verdict,
            "score": self.score,
            "reasons": list(self.reasons),
            "levels_hu": None if self.levels is None else asdict(self.levels),
            "findings": as_records(self.findings),
            **({self.inspection.what: self.inspection.as_dict()} if self.inspection else {}),
        }


def examine(
    path: str | Path,
    reading: ReadingConfig | None = None,
    *,
    keep_uids: bool = False,
    pictures: bool = False,
    look: Look | None = None,
    progress: bool = False,
) -> tuple[list[Examined], list[Finding]]:
    """Examine every series and image file below a path; also returns the findings that concern none of them.

    Args:
        path: A folder tree, an archive or a file.
        reading: Policy for irregular scans; None: the defaults.
        keep_uids: SeriesInstanceUIDs as they are instead of hashes.
        pictures: Whether to render three planes of each.
        look: Inspection callback, called with each scan that is not refused.
        progress: Whether to show a progress bar on standard error.

    Raises:
        ReadError: If there is no such path.
    """
    reading = reading or ReadingConfig()
    with opened_tree(Path(path), reading) as tree:
        work, loose = list_scans(tree, Path(path), reading, progress=progress)

        def one(item: Series | Path) -> Examined:
            where = tree.where(scan_path(item, tree))
            examined, volume = examine_scan(item, where, reading, keep_uids=keep_uids, pictures=pictures)
            return examined if look is None or volume is None else replace(examined, inspection=look(volume))

        with ThreadPoolExecutor(min(_AT_ONCE, cores())) as pool:
            results = pool.map(one, work)
            found = list(tqdm(results, total=len(work), desc="scans", unit="scan", leave=False, disable=not progress))
    if len(found) > 1:
        message = f"{len(found)} series or image files under one path"
        loose.append(reading.rules.find("mixed-series", message))
    return sorted(found, key=lambda e: (e.where, e.series)), loose


def list_scans(
    tree: Tree, path: Path, reading: ReadingConfig, *, progress: bool | None = False
) -> tuple[list[Series | Path], list[Finding]]:
    """The series and image files of a tree, of which no voxel is read yet, and the findings that concern none of them.

    Args:
        tree: The opened path.
        path: The path, as it was asked for.
        reading: The policy and the limits.
        progress: Whether to show a progress bar on standard error; None: where that is a terminal.
    """
    quiet = None if progress is None else not progress
    files: Iterable[Path] = tqdm(tree.files, desc="headers", unit="file", leave=False, disable=quiet)
    where = replace(tree, files=(), findings=()).where  # frames keep it, and are sent to other processes
    series, loose = find_series(files, reading, where=where, incomplete=tree.incomplete)
    images = [file for file in image_files(tree, path) if not is_dicom(file)]
    return [*series, *images], [*tree.findings, *loose]


def scan_path(item: Series | Path, tree: Tree) -> Path:
    """The file of a series or image file, or the folder of its files."""
    if isinstance(item, Path):
        return item
    paths = {f.path for f in item.frames}
    return item.frames[0].path if len(paths) == 1 else tree.common_folder(paths)


def examine_scan(
    item: Series | Path,
    where: str,
    reading: ReadingConfig,
    *,
    keep_uids: bool = False,
    pictures: bool = False,
) -> tuple[Examined, Volume | None]:
    """Examine one series or image file of ``list_scans``; also returns the scan, None where it is refused.

    Args:
        item: The series or image file.
        where: Its path relative to what was opened.
        reading: Policy for irregular scans.
        keep_uids: As in ``examine``.
        pictures: As in ``examine``.
    """
    if isinstance(item, Path):
        return _from_image(item, where, reading, pictures=pictures)
    try:
        return _from_series(item, where, keep_uids=keep_uids, pictures=pictures)
    finally:
        item.opened.clear()


def without_paths(found: list[Examined], loose: list[Finding]) -> tuple[list[Examined], list[Finding]]:
    """The same with numbers and hashes in place of names of files and folders, which can be names of patients."""
    hidden = []
    for number, one in enumerate(found, 1):
        findings = tuple(replace(f, where="") for f in one.findings)
        hidden.append(replace(one, where=one.series or f"image {number}", findings=findings))
    return hidden, [replace(f, where="") for f in loose]


def _from_series(series: Series, where: str, *, keep_uids: bool, pictures: bool) -> tuple[Examined, Volume | None]:
    spacing = None
    if series.stack.affine is not None:
        z, y, x = (round(float(s), 6) for s in np.linalg.norm(series.stack.affine[:3, :3], axis=0))
        spacing = (z, y, x)
    first = series.frames[0]
    examined = Examined(
        where=where,
        series=series.uid_name if keep_uids else series.name,
        modality=series.tags.modality,
        num_slices=len(series.frames),
        size=first.header.shape,
        spacing_mm=spacing,
        thickness_mm=series.tags.thickness_mm,
        kernel=series.tags.kernel,
        findings=series.findings,
    )
    findings = series.findings
    if any(series.stack.repeated) and not refusals(findings):
        findings = (*findings, *without_duplicates(series)[1])
    examined = replace(examined, findings=findings, score=-1)
    if refusals(findings):
        reasons = (f"refused: {refusals(findings)[0].code}",)
        return replace(examined, reasons=reasons, planes=_middle_slice(series) if pictures else ()), None
    try:
        volume = load_series(series)
    except (HilumError, MemoryError) as exc:
        return replace(examined, findings=(*findings, _failure(exc, where, series.reading.rules))), None
    choice = rate(series, volume)
    examined = replace(examined, findings=volume.findings, score=choice.score, reasons=choice.reasons)
    return _with_voxels(examined, volume, series.reading.rules, pictures=pictures)


def _from_image(file: Path, where: str, reading: ReadingConfig, *, pictures: bool) -> tuple[Examined, Volume | None]:
    try:
        volume = read_image(file, reading)
    except (HilumError, MemoryError) as exc:
        return Examined(where=where, findings=(_failure(exc, where, reading.rules),)), None
    z, y, x = volume.shape
    examined = Examined(where=where, num_slices=z, size=(y, x), spacing_mm=volume.spacing_mm, findings=volume.findings)
    return _with_voxels(examined, volume, reading.rules, pictures=pictures)


def _failure(error: HilumError | MemoryError, where: str, rules: Policy) -> Finding:
    """Why something could not be read."""
    if isinstance(error, MemoryError):
        return rules.find("too-large", "the scan does not fit into memory", where)
    code = error.code or ("not-an-image" if isinstance(error, GeometryError) else "unreadable-file")
    return rules.find(code, error.message, where, repairable=False)


def _with_voxels(
    examined: Examined, volume: Volume, rules: Policy, *, pictures: bool
) -> tuple[Examined, Volume | None]:
    """Add levels and pictures; also returns the volume, None where the scan is refused."""
    levels, findings = check_hu(volume, rules)
    planes = _planes(volume) if pictures else ()
    examined = replace(examined, findings=(*examined.findings, *findings), levels=levels, planes=planes)
    return examined, None if examined.verdict == "refused" else volume


def _planes(volume: Volume) -> tuple[UInt8[np.ndarray, "_ _"], ...]:
    """Axial, coronal and sagittal pictures through the middle."""
    z, y, x = (n // 2 for n in volume.shape)
    planes = three_planes(volume.voxels_hu, volume.spacing_mm, (z, y, x), _PLANE_PIXELS)
    return tuple(grey(plane) for plane in planes)


def _middle_slice(series: Series) -> tuple[UInt8[np.ndarray, "_ _"], ...]:
    """A picture of the middle slice of a series that forms no volume; none where it cannot be decoded.

    None either of what may be a page of text or a picture of a screen: names may be burned in.
    """
    order = series.stack.order
    frame = series.frames[order[len(order) // 2]]
    codes = {f.code for f in series.findings}
    may_name = {"secondary-capture", "not-an-image"} & codes or frame.header.modality not in _SLICES
    if frame.missing_bytes or may_name or "too-large" in codes:
        return ()
    try:
        hu = slice_hu(frame, series)
    except HilumError:
        return ()
    step = max(1, max(hu.shape) // _PLANE_PIXELS)
    return (grey(hu[::step, ::step]),)
