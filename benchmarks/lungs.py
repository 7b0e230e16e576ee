"""Hilum's lungs and lung fields on forty simulated scans with known truth, on a head and an abdomen, on real scans.

    python benchmarks/lungs.py [--quick] [--only NAME ...] [--keep FOLDER] [--written] [--json]

The scans are listed in ``phantoms.py``. Two processes with one thread each; with ``--keep`` simulated scans are kept
and used again, so that a run that was broken off goes on. The real data are looked for at HILUM_DATA or
../shared/data and left out where they are absent. Takes about five minutes on two cores, two with kept scans. With
``--written`` the masks of simulated scans are those of files that ``hilum.lung_masks`` writes, read by SimpleITK.

Dice and the 95 % Hausdorff distance (the larger of the 95th percentiles of both directions, between surface voxels in
mm) are of both lungs together. ``nodule`` is the smallest share of a juxtapleural nodule that lies in the lung field,
``dense`` that of a consolidation, ``fluid`` that of the effusion; ``field +`` is the share of the lung field that lies
more than 5 mm outside the true one.
"""

import argparse
import csv
import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from anatomies import simulate_abdomen, simulate_head
from joblib import Parallel, delayed, parallel_config
from machine import DATA, line, machine
from phantoms import CASES, QUICK, Case, kept, make
from scipy.spatial import cKDTree

from hilum.preparing import segment_lungs
from hilum.reading.reader import read
from hilum.serving.lung_masks import lung_masks
from hilum.settings.run import ReadingConfig
from hilum.volume import Volume

RIGHT, LEFT = 1, 2
BEYOND_MM = 5.0
INSIDE = 0.95
"""A nodule counts as inside the field where at least this share of its voxels is."""
_SAMPLED = 200_000
"""At most so many voxels of the field outside the true one are asked how far out they lie."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="eight of the scans, at coarser pixels")
    parser.add_argument("--only", nargs="+", metavar="NAME", choices=[case.name for case in CASES])
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep simulated scans here, about 3 GB")
    parser.add_argument("--written", action="store_true", help="masks from files")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    wanted = args.only or (QUICK if args.quick else [case.name for case in CASES])
    cases = [case for case in CASES if case.name in wanted]
    found = machine("scipy", "simpleitk")
    print(line(found))
    print(HEADER)
    rows = []
    with parallel_config("loky", inner_max_num_threads=1):
        jobs = (delayed(measured)(case, args.keep, coarse=args.quick, is_written=args.written) for case in cases)
        for row in Parallel(n_jobs=args.workers, return_as="generator")(jobs):
            rows.append(row)
            print(_line(row), flush=True)
    summary = summarised(rows)
    print()
    for name, value in summary.items():
        print(f"{name.replace('_', ' '):<34}{value}")
    rows += [_without_lungs(name) for name in ("head", "abdomen")]
    rows += _real()
    if args.json:
        print(json.dumps({"rows": rows, "summary": summary, "machine": found}))


# a simulated scan


def measured(case: Case, keep: Path | None, *, coarse: bool, is_written: bool = False) -> dict[str, Any]:
    """The row of one simulated scan."""
    started = time.perf_counter()
    known = kept(case, keep, coarse=coarse) if keep else make(case, coarse=coarse)
    simulated = time.perf_counter()
    found = segment_lungs(known.volume)
    segmented = time.perf_counter()
    if is_written:
        found = replace(found, labels=written_labels(known.volume))
    spacing = np.array(known.volume.spacing_mm)
    inside = found.field > 0
    nodules = _shares(
        inside, known.lesion_numbers, [n for n, one in enumerate(known.lesions, 1) if "nodule" in one.kind]
    )
    dense = _shares(
        inside, known.lesion_numbers, [n for n, one in enumerate(known.lesions, 1) if one.kind == "consolidation"]
    )
    fluid = (known.field > 0) & (known.lungs == 0)
    return {
        "scan": case.name,
        "shows": case.shows,
        "shape": list(known.volume.shape),
        "dice": dice(found.labels > 0, known.lungs > 0),
        "dice_right": dice(found.labels == RIGHT, known.lungs == RIGHT),
        "dice_left": dice(found.labels == LEFT, known.lungs == LEFT),
        "swapped": swapped(found.labels, known.lungs),
        "hd95_mm": hd95_mm(found.labels > 0, known.lungs > 0, spacing),
        "nodules": nodules,
        "dense": min(dense) if dense else None,
        "fluid": float(inside[fluid].mean()) if fluid.any() else None,
        "field_beyond": beyond(inside, known.field > 0, spacing),
        "field_missed": float((~inside)[known.field > 0].mean()),
        "litres": (found.right_ml + found.left_ml) / 1000,
        "true_litres": float(np.count_nonzero(known.lungs)) * known.volume.voxel_mm3 / 1e6,
        "verdict": found.verdict,
        "codes": [one.code for one in found.findings],
        "simulating_s": simulated - started,
        "seconds": segmented - simulated,
    }


def written_labels(volume: Volume) -> np.ndarray:
    """Labels of a mask that is written of a scan on disk, as SimpleITK reads them; they lie on the scan's own grid."""
    with tempfile.TemporaryDirectory() as folder:
        scan, mask = Path(folder) / "scan.nii.gz", Path(folder) / "mask.nii.gz"
        volume.write(scan, level=1)
        lung_masks(scan, mask)
        image = sitk.ReadImage(str(mask))
    assert np.allclose(image.GetOrigin(), volume.affine[:3, 3], atol=1e-3)
    assert np.allclose(image.GetSpacing()[::-1], volume.spacing_mm, atol=1e-3)
    return sitk.GetArrayFromImage(image)


def dice(one: np.ndarray, other: np.ndarray) -> float | None:
    """Overlap of two masks; None where both are empty."""
    total = np.count_nonzero(one) + np.count_nonzero(other)
    return 2 * float(np.count_nonzero(one & other)) / float(total) if total else None


def swapped(labels: np.ndarray, truth: np.ndarray) -> bool:
    """True where a side overlaps the other side's truth more than its own."""
    return any(
        np.count_nonzero((labels == side) & (truth == 3 - side)) > np.count_nonzero((labels == side) & (truth == side))
        for side in (RIGHT, LEFT)
    )


def hd95_mm(one: np.ndarray, other: np.ndarray, spacing_mm: np.ndarray) -> float | None:
    """95 % Hausdorff distance in mm; None where a mask is empty."""
    points = [_surface(mask) * spacing_mm for mask in (one, other)]
    if not all(map(len, points)):
        return None
    both = [cKDTree(b, balanced_tree=False).query(a)[0] for a, b in (points, points[::-1])]
    return max(float(np.percentile(distances, 95)) for distances in both)


def beyond(field: np.ndarray, truth: np.ndarray, spacing_mm: np.ndarray) -> float:
    """Share of the field's voxels that lie more than 5 mm from the true one."""
    outside = np.argwhere(field & ~truth)
    if not len(outside):
        return 0.0
    surface = _surface(truth)
    step = -(-len(outside) // _SAMPLED)
    far = 1.0
    if len(surface):
        tree = cKDTree(surface * spacing_mm, balanced_tree=False)
        reached = tree.query(outside[::step] * spacing_mm, distance_upper_bound=BEYOND_MM)[0]
        far = float(np.mean(~np.isfinite(reached)))
    return far * len(outside) / float(np.count_nonzero(field))


def _surface(mask: np.ndarray) -> np.ndarray:
    """Indices (n, 3) of the voxels of a mask with a neighbour outside it; beyond the scan lies outside."""
    inner = mask.copy()
    for axis in range(3):
        here = np.moveaxis(inner, axis, 0)
        whole = np.moveaxis(mask, axis, 0)
        here[1:] &= whole[:-1]
        here[:-1] &= whole[1:]
        here[[0, -1]] = False
    return np.argwhere(mask & ~inner)


def _shares(inside: np.ndarray, lesions: np.ndarray, numbers: list[int]) -> list[float]:
    """Share of each lesion, by number, that lies inside; those that the scan does not show are left out."""
    at = np.flatnonzero(lesions)
    which, held = lesions.ravel()[at], inside.ravel()[at]
    return [float(held[which == n].mean()) for n in numbers if (which == n).any()]


def summarised(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What must hold, over all simulated scans."""
    trusted = [row for row in rows if row["verdict"] != "doubtful"]
    nodules = [share for row in rows for share in row["nodules"]]
    worst = min(trusted, key=lambda row: row["dice"], default=None)
    distances = [np.inf if row["hd95_mm"] is None else row["hd95_mm"] for row in rows]
    return {
        "scans": len(rows),
        "median_dice": round(statistics.median(row["dice"] for row in rows), 4),
        "worst_dice_not_doubtful": worst and round(worst["dice"], 4),
        "worst_scan_not_doubtful": worst and worst["scan"],
        "worst_dice": round(min(row["dice"] for row in rows), 4),
        "median_hd95_mm": round(statistics.median(distances), 2),
        "swapped": sum(row["swapped"] for row in rows),
        "nodules": len(nodules),
        "nodules_not_inside": sum(share < INSIDE for share in nodules),
        "smallest_nodule_share": round(min(nodules), 3) if nodules else None,
        "smallest_dense_share": _least(rows, "dense"),
        "smallest_fluid_share": _least(rows, "fluid"),
        "largest_field_beyond": round(max(row["field_beyond"] for row in rows), 3),
        "doubtful": sum(row["verdict"] == "doubtful" for row in rows),
        "share_doubtful": round(sum(row["verdict"] == "doubtful" for row in rows) / len(rows), 3),
        "median_seconds": round(statistics.median(row["seconds"] for row in rows), 2),
    }


def _least(rows: list[dict[str, Any]], name: str) -> float | None:
    values = [row[name] for row in rows if row[name] is not None]
    return round(min(values), 3) if values else None


HEADER = (
    f"\n{'scan':<12}{'shows':<32}{'dice':>7}{'right':>7}{'left':>7}{'swap':>6}{'HD95':>7}{'nodule':>8}{'dense':>7}"
    f"{'fluid':>7}{'field +':>9}{'litres':>8}{'true':>7}{'s':>7}  verdict"
)


def _line(row: dict[str, Any]) -> str:
    def cell(value: float | None, width: int, digits: int = 3) -> str:
        return f"{'':>{width}}" if value is None else f"{value:>{width}.{digits}f}"

    dices = "".join(cell(row[name], 7) for name in ("dice", "dice_right", "dice_left"))
    shares = f"{cell(min(row['nodules'], default=None), 8)}{cell(row['dense'], 7)}{cell(row['fluid'], 7)}"
    return (
        f"{row['scan']:<12}{row['shows']:<32}{dices}{'yes' if row['swapped'] else '':>6}{cell(row['hd95_mm'], 7, 2)}"
        f"{shares}{cell(row['field_beyond'], 9)}{cell(row['litres'], 8, 2)}{cell(row['true_litres'], 7, 2)}"
        f"{cell(row['seconds'], 7, 2)}  {' '.join([row['verdict'], *row['codes']])}"
    )


# scans without lungs, and real ones


def _without_lungs(name: str) -> dict[str, Any]:
    volume = simulate_head(0) if name == "head" else simulate_abdomen(0)
    return _told(f"simulated {name} (no-lungs)", volume, {})


def _told(name: str, volume: Volume, figures: dict[str, Any], found: Any = None) -> dict[str, Any]:
    """A row for a scan whose lungs nobody has drawn, printed."""
    found = found or segment_lungs(volume)
    row = {
        "scan": name,
        "verdict": found.verdict,
        "codes": [one.code for one in found.findings],
        "litres": (found.right_ml + found.left_ml) / 1000,
        **figures,
    }
    told = ", ".join(f"{key} {value:.4g}" for key, value in figures.items())
    print(f"{name:<32}{row['litres']:>7.2f} litres  {' '.join([row['verdict'], *row['codes']])}{told and '  ' + told}")
    return row


def _real() -> list[dict[str, Any]]:
    rows = []
    for name, measure in (
        ("ct-64", _low_resolution),
        ("odd/abdomen.nii.gz", _lung_bases),
        ("lidc-0314", _one_nodule),
        ("lung-dx-a0001", _one_tumour),
    ):
        if (DATA / name).exists():
            rows.append(measure(DATA / name))
        else:
            print(f"{name}: left out, there is no such file in HILUM_DATA or ../shared/data", file=sys.stderr)
    return rows


def _low_resolution(folder: Path) -> dict[str, Any]:
    volume, maps = read(folder / "ct-64.nrrd"), ReadingConfig(policy="lenient")
    whole = read(folder / "wholeLung-64.nrrd", reading=maps).voxels_hu > 0
    region = read(folder / "lm-64.nrrd", reading=maps).voxels_hu.astype(np.int64) & 255
    right, left = ((region >= low) & (region <= low + 2) for low in (12, 9))
    found = segment_lungs(volume)
    figures = {
        "dice": dice(found.labels > 0, whole),
        "hd95_mm": hd95_mm(found.labels > 0, whole, np.array(volume.spacing_mm)),
        "dice_right": dice(found.labels == RIGHT, right),
        "dice_left": dice(found.labels == LEFT, left),
    }
    return _told("ct-64", volume, figures, found)


def _lung_bases(path: Path) -> dict[str, Any]:
    return _told("odd/abdomen (doubtful, 0.108 l)", read(path), {})


def _one_nodule(folder: Path) -> dict[str, Any]:
    volume = read(folder)
    found = segment_lungs(volume)
    z, y, x = np.rint(volume.mm_to_index((-57.44, 131.23, -520.36))).astype(int)
    return _told("lidc-0314", volume, {"nodule_in_field": float(found.field[z, y, x] > 0)}, found)


def _one_tumour(folder: Path) -> dict[str, Any]:
    """Share of the ellipses in the readers' boxes that lies in the field."""
    volume = read(folder)
    found = segment_lungs(volume)
    _, step_y, step_x = volume.spacing_mm
    voxels, inside = 0, 0
    with (folder / "tumour_boxes.csv").open() as file:
        for box in csv.DictReader(file):
            centre = [float(box[name]) for name in ("centre_x_mm_lps", "centre_y_mm_lps", "z_mm_lps")]
            z, y, x = volume.mm_to_index(centre)
            half_y = (float(box["ymax_px"]) - float(box["ymin_px"])) / 2
            half_x = (float(box["xmax_px"]) - float(box["xmin_px"])) / 2
            rows, columns = np.ogrid[: volume.shape[1], : volume.shape[2]]
            ellipse = ((rows - y) / half_y) ** 2 + ((columns - x) / half_x) ** 2 <= 1
            voxels += int(np.count_nonzero(ellipse))
            inside += int(np.count_nonzero(found.field[round(float(z))][ellipse]))
    assert step_x == step_y  # the boxes are in pixels of the file
    return _told("lung-dx-a0001", volume, {"tumour_in_field": inside / voxels}, found)


if __name__ == "__main__":
    main()
