"""Near copies: residuals of altered copies beside those of different scans, and time and memory of a large audit.

    python benchmarks/near_copies.py [--quick] [--json]

Different scans are all pairs of 1,000 simulated patients of one scanner (3 mm pixels, 2.5 mm slices), and all pairs of
the crops of lidc-nodules, and copies are made of the first 100 of each, and of two real chests (HILUM_DATA or
../shared/data; left out where they are not there). A shift is up to three voxels along each axis, rolled or padded; a
crop takes ten slices, or a third of a small scan; other spacings are 0.7 to 1.6 of the old ones, 0.5 to 2 between
slices. The audit is of 10,000 samples of 48 x 56 x 64 in a fresh process, whose signatures are made from those of the
simulated patients, with 1,000 altered copies among them, of which the share found is told. The thresholds of
hilum.cohorts.near_copies rest on these figures.
"""

import argparse
import csv
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import DATA, line, machine
from scipy import ndimage

from hilum import read
from hilum.cohorts import near_copies
from hilum.cohorts.near_copies import find_near_copies
from hilum.preparing.signature import profiles_of
from hilum.simulating import Scanner, simulate_scan
from hilum.volume import SourceScan, Volume

SCANNER = Scanner(pixel_mm=3.0, pixels=128, thickness_mm=2.5, increment_mm=2.5)
KINDS = ("flip", "roll", "pad", "crop", "resample", "flip+roll", "flip+crop", "crop+resample", "flip+pad+crop+resample")
FARTHEST = 0.05
REAL = ("lidc-0314", "lung-dx-a0001")
CHILD = """
import json, sys, time
import numpy as np
from machine import peak_bytes
from pathlib import Path
from hilum.cohorts.audit import audit
from hilum.cohorts.prepared import PreparedCohort
from hilum.cohorts.table import Case, Cohort
from hilum.volume import SourceScan, Tags

folder, number = Path(sys.argv[1]), int(sys.argv[2])
profiles, shapes = np.load(folder / "profiles.npy"), np.load(folder / "shapes.npy")
rng = np.random.default_rng(0)
cases = tuple(
    Case(case_id=f"c{i}", path=Path(f"{i}"), label=int(rng.random() < 0.3), patient_id=f"id:{i}", row=i + 2)
    for i in range(number)
)
grids = [{"shape": tuple(map(int, shape)), "spacing_mm": (2.5, 3.0, 3.0)} for shape in shapes]
sources = {
    case.case_id: SourceScan(digest=f"d{i}", profiles=profiles[i], **grids[i]) for i, case in enumerate(cases)
}
tags = {case.case_id: Tags(kernel=str(rng.integers(4)), manufacturer=str(rng.integers(3))) for case in cases}
files = tuple(folder / f"{i}.safetensors" for i in range(number))
cohort = Cohort(cases=cases, classes=("0", "1"), source=folder / "t.csv")
scans = {name: one.digest for name, one in sources.items()}
prepared = PreparedCohort(cases=cases, samples=files, refusals=(), scans=scans, sources=sources, tags=tags)
started = time.perf_counter()
found = audit(cohort, prepared, {case.case_id: "train" if i % 5 else "test" for i, case in enumerate(cases)})
seconds = time.perf_counter() - started
pairs = sorted(tuple(sorted(int(case.case_id[1:]) for case in link.cases)) for link in found.links)
print(json.dumps({"seconds": seconds, "peak_mb": peak_bytes() / 1e6, "pairs": pairs}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="100 patients, 20 copies of each kind, 1,000 samples")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = machine("scipy", "scikit-learn")
    print(line(found))
    patients, copied, samples = (100, 20, 1000) if args.quick else (1000, 100, 10_000)
    limit = near_copies._LARGEST_RESIDUAL
    sets = {"simulated": [simulate_scan(77, key=f"p{i}", scanner=SCANNER)[0] for i in range(patients)], **_real()}
    results = {}
    for name, volumes in sets.items():
        scans = {str(i): _signed(volume, str(i)) for i, volume in enumerate(volumes)}
        row: dict[str, Any] = {"scans": len(scans), "pairs": len(scans) * (len(scans) - 1) // 2}
        row["called copies"] = len(find_near_copies(scans))
        row["closest"] = [round(r, 4) for r in _closest(scans)[:5]]
        row["copies"] = {kind: _copies(volumes, scans, kind, copied, limit) for kind in KINDS}
        results[name] = row
        print(f"{name}: {row['pairs']} pairs, {row['called copies']} called copies, closest {row['closest'][:3]}")
        for kind, one in row["copies"].items():
            print(f"    {kind:<24} {one['found']:.0%} found, residual median {one['median']}, largest {one['largest']}")
    large = _large([_signed(volume, str(i)) for i, volume in enumerate(sets["simulated"])], samples)
    print(
        f"audit of {samples} samples: {large['seconds']:.1f} s, peak {large['peak_mb']:.0f} MB; "
        f"{large['found']:.1%} of {large['copies']} altered copies found, {large['others']} other pairs called copies, "
        f"{large['others without a patient in common']} of them made of different patients"
    )
    if args.json:
        print(json.dumps({"limit": limit, "results": results, "audit": large, "machine": found}))


def _real() -> dict[str, list[Volume]]:
    """Real crops and chests, as far as they are there."""
    sets = {}
    table = DATA / "lidc-nodules" / "nodules.csv"
    if table.is_file():
        with table.open(newline="") as file:
            sets["lidc-nodules"] = [read(table.parent / row["image"]) for row in csv.DictReader(file)]
    chests = [read(DATA / name) for name in REAL if (DATA / name).is_dir()]
    return sets | ({"real chests": chests} if chests else {})


def _signed(volume: Volume, digest: str) -> SourceScan:
    profiles = profiles_of(volume.voxels_hu, volume.spacing_mm)
    return SourceScan(digest=digest, shape=volume.shape, spacing_mm=volume.spacing_mm, profiles=profiles)


def _closest(scans: dict[str, SourceScan]) -> list[float]:
    """Residuals of the closest pairs of different scans, before short stretches are compared; all pairs are aligned."""
    limits = near_copies._LARGEST_RESIDUAL, near_copies._LARGEST_SHORT
    near_copies._LARGEST_RESIDUAL, near_copies._LARGEST_SHORT = FARTHEST, np.inf
    near_copies._ALL_PAIRS, usual = len(scans), near_copies._ALL_PAIRS
    try:
        return sorted(pair.residual for pair in find_near_copies(scans))
    finally:
        near_copies._LARGEST_RESIDUAL, near_copies._LARGEST_SHORT = limits
        near_copies._ALL_PAIRS = usual


def _copies(
    volumes: Sequence[Volume], scans: dict[str, SourceScan], kind: str, number: int, limit: float
) -> dict[str, float | None]:
    near_copies._LARGEST_RESIDUAL = 1.0
    residuals = []
    for seed, (volume, scan) in enumerate(zip(volumes[:number], scans.values(), strict=False)):
        copy = _signed(_altered(volume, kind, np.random.default_rng(seed)), "copy")
        pairs = find_near_copies({"scan": scan}, {"copy": copy})
        residuals.append(pairs[0].residual if pairs else np.inf)
    near_copies._LARGEST_RESIDUAL = limit
    median, largest = (float(f) for f in (np.median(residuals), max(residuals)))
    return {
        "found": round(float(np.mean(np.array(residuals) <= limit)), 3),
        "median": round(median, 4) if np.isfinite(median) else None,
        "largest": round(largest, 4) if np.isfinite(largest) else None,
    }


def _altered(volume: Volume, kind: str, rng: np.random.Generator) -> Volume:
    """A copy of a scan, altered in one or several ways."""
    hu, spacing = volume.voxels_hu, list(volume.spacing_mm)
    for step in kind.split("+"):
        if step == "flip":
            hu = np.flip(hu, [axis for axis in range(3) if rng.random() < 0.5] or [int(rng.integers(3))])
        elif step == "roll":
            hu = np.roll(hu, rng.integers(-3, 4, 3), (0, 1, 2))
        elif step == "pad":
            hu = _padded(hu, np.minimum(rng.integers(-3, 4, 3), np.array(hu.shape) - 1))
        elif step == "crop":
            cut = min(10, hu.shape[0] // 3)
            below = int(rng.integers(0, cut + 1))
            hu = hu[below : hu.shape[0] - (cut - below)]
        else:
            by = np.array([rng.choice([0.5, 0.8, 1.25, 2.0]), *rng.uniform(0.7, 1.6, 2)])
            zoom = [max(round(n / f), 1) / n for n, f in zip(hu.shape, by, strict=True)]
            smooth = ndimage.gaussian_filter(hu.astype(np.float32), [max(0.0, 0.4 * (1 / z - 1)) for z in zoom])
            old = hu.shape
            hu = ndimage.zoom(smooth, zoom, order=1, grid_mode=True, mode="nearest")
            spacing = [mm * before / after for mm, before, after in zip(spacing, old, hu.shape, strict=True)]
    return Volume.from_array(np.rint(hu).astype(np.int16), spacing_mm=spacing)


def _padded(hu: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """The scan displaced, with air on one side and without what was moved out on the other."""
    out = np.full_like(hu, -1024)
    shift = np.maximum(shift, 1 - np.array(hu.shape))
    source = tuple(slice(max(0, -s), min(n, n - s)) for s, n in zip(shift, hu.shape, strict=True))
    target = tuple(slice(max(0, s), min(n, n + s)) for s, n in zip(shift, hu.shape, strict=True))
    out[target] = hu[source]
    return out


def _large(scans: Sequence[SourceScan], number: int) -> dict[str, float]:
    """Audit many samples in a fresh process; the last tenth are altered copies of the first."""
    rng = np.random.default_rng(1)
    copies = number // 10
    parents, made = (list(some) for some in zip(*_mixtures(scans, number - copies, rng), strict=True))
    parents += parents[:copies]
    made += [_altered_signature(made[i], rng) for i in range(copies)]
    longest = max(one.profiles.shape[1] for one in made)
    profiles = np.full((number, 3, longest), near_copies.NO_BIN, np.int16)
    for row, one in zip(profiles, made, strict=True):
        row[:, : one.profiles.shape[1]] = one.profiles
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "profiles.npy", profiles)
        np.save(folder / "shapes.npy", np.array([one.shape for one in made]))
        _write_samples(folder, number, rng)
        started = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, name, str(number)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parent,
        )
        answer = json.loads(done.stdout)
        whole = time.perf_counter() - started
    true = {(i, number - copies + i) for i in range(copies)}
    pairs = {tuple(pair) for pair in answer["pairs"]}
    return {
        "samples": number,
        "seconds": round(answer["seconds"], 1),
        "with_start_s": round(whole, 1),
        "peak_mb": round(answer["peak_mb"]),
        "copies": copies,
        "found": round(len(true & pairs) / copies, 4),
        "others": len(pairs - true),
        "others without a patient in common": sum(not parents[i] & parents[j] for i, j in pairs - true),
    }


def _mixtures(
    scans: Sequence[SourceScan], number: int, rng: np.random.Generator
) -> Iterator[tuple[set[int], SourceScan]]:
    """Signatures beyond one patient's, away from another's, stretched to another height: as far apart as patients."""
    for i in range(number):
        pair = rng.choice(len(scans), 2, replace=False).tolist()
        one, two = (scans[k] for k in pair)
        share, stretch = rng.uniform(1.4, 1.8), rng.uniform(0.9, 1.1)
        slices = round(one.shape[0] * stretch)
        rows = []
        for axis in range(3):
            first, second = (
                row[row != near_copies.NO_BIN].astype(float) for row in (one.profiles[axis], two.profiles[axis])
            )
            bins = round(slices * 2.5 / 2) if axis == 0 else len(first)
            places = np.linspace(0, 1, bins)
            mixed = share * np.interp(places, np.linspace(0, 1, len(first)), first)
            rows.append(mixed + (1 - share) * np.interp(places, np.linspace(0, 1, len(second)), second))
        yield set(pair), replace(one, shape=(slices, *one.shape[1:]), digest=str(i), profiles=_table(rows))


def _altered_signature(scan: SourceScan, rng: np.random.Generator) -> SourceScan:
    """The signature flipped along any axis, without ten slices, and with the noise of another sampling."""
    rows = []
    cut = 0
    for axis in range(3):
        row = scan.profiles[axis][scan.profiles[axis] != near_copies.NO_BIN].astype(float)
        if axis == 0:
            below = int(rng.integers(0, 13))
            row = row[below : len(row) - (12 - below)]
            cut = 10
        row = row[:: rng.choice([-1, 1])] + rng.normal(0, 4, len(row))
        rows.append(row)
    return replace(scan, shape=(scan.shape[0] - cut, *scan.shape[1:]), profiles=_table(rows))


def _table(rows: Sequence[np.ndarray]) -> np.ndarray:
    profiles = np.full((3, max(map(len, rows))), near_copies.NO_BIN, np.int16)
    for axis, row in enumerate(rows):
        profiles[axis, : len(row)] = np.rint(row)
    return profiles


def _write_samples(folder: Path, number: int, rng: np.random.Generator) -> None:
    from hilum.preparing import save_sample

    hu = rng.integers(-1000, 400, (48, 56, 64)).astype(np.int16)
    for i in range(number):
        volume = Volume.from_array(np.roll(hu, i), spacing_mm=(8.0, 8.0, 8.0))
        save_sample(volume, folder / f"{i}.safetensors")


if __name__ == "__main__":
    main()
