"""A real series from its folder to .nii.gz by ``hilum convert``, beside dcm2niix at the same level; lungs per second.

    python benchmarks/convert.py [--quick] [--rounds 7] [--json]

Whole processes, from their start to their end, interleaved in each round, none kept from using threads; medians after
one round to warm up. dcm2niix compresses by its own zlib (``-z i``), on one core. Both files are read by nibabel, and
their HU compared voxel by voxel at the same places. Lungs per second are those of ``hilum lungs`` on a folder of
copies of two real scans as NIfTI, masks written, start of the process included. The data are looked for at HILUM_DATA
or ../shared/data. Takes about four minutes on two cores.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from machine import DATA, line, machine, need

LEVEL = 6
"""Of gzip: what both take where nothing is said."""

SCANS = ("lidc-0314", "lung-dx-a0001")
LIMITS_HU = (-1024, 3071)
"""Hilum's, of a 12-bit scanner; beyond it lie padding and metal."""

HILUM = [sys.executable, "-c", "import sys; from hilum.cli import main; sys.exit(main(sys.argv[1:]))"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds, and four scans for the lungs")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    need("zlib_ng")
    dcm2niix = shutil.which("dcm2niix")
    if dcm2niix is None:
        sys.exit("no dcm2niix: its row would be lost (Debian's package dcm2niix)")
    missing = [scan for scan in SCANS if not (DATA / scan).is_dir()]
    if missing:
        sys.exit(f"no folder {missing[0]}: HILUM_DATA must name the folder with the shared data")
    found = machine("nibabel", "zlib-ng", "pydicom", "simpleitk")
    found["versions"]["dcm2niix"] = _version(dcm2niix)
    print(line(found))
    with tempfile.TemporaryDirectory() as folder:
        rows = _timed(dcm2niix, Path(folder), 3 if args.quick else args.rounds)
        same = _same_hu(Path(folder))
        lungs = _lungs(Path(folder), 2 if args.quick else 6)
    print(f"\n{SCANS[0]} to .nii.gz, level {LEVEL}\n{'':<12}{'median (min to max) s':>26}{'MB':>10}")
    for row in rows:
        seconds = f"{row['median_s']:.2f} ({row['min_s']:.2f} to {row['max_s']:.2f})"
        print(f"{row['row']:<12}{seconds:>26}{row['bytes'] / 1e6:>10.2f}")
    ratio = round(rows[1]["median_s"] / rows[0]["median_s"], 2)
    print(f"\nhilum is {ratio:.2f} times as fast as dcm2niix")
    apart = f"corners {same['apart_mm']:.1e} mm apart"
    print(f"HU at the same places: {same['differing']} of {same['voxels']} differ, {apart}")
    print(f"lungs: {lungs['scans']} scans in {lungs['seconds']:.2f} s, {lungs['per_second']:.2f} per second")
    if args.json:
        result = {"scan": SCANS[0], "level": LEVEL, "rows": rows, "ratio": ratio, "same_hu": same, "lungs": lungs}
        print(json.dumps({**result, "machine": found}))


def _version(dcm2niix: str) -> str:
    said = subprocess.run([dcm2niix, "-v"], capture_output=True, text=True, check=False).stdout
    return said.split()[-1]


def _timed(dcm2niix: str, folder: Path, rounds: int) -> list[dict[str, Any]]:
    scan = str(DATA / SCANS[0])
    ours, theirs = folder / "hilum" / "scan.nii.gz", folder / "dcm2niix" / "scan.nii.gz"
    their_flags = ["-z", "i", f"-{LEVEL}", "-b", "n", "-f", "scan", "-o", str(theirs.parent)]
    commands = {
        "hilum": (ours, [*HILUM, "convert", scan, str(ours), "--level", str(LEVEL)]),
        "dcm2niix": (theirs, [dcm2niix, *their_flags, scan]),
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name in list(commands)[:: 1 if number % 2 else -1]:
            out, command = commands[name]
            shutil.rmtree(out.parent, ignore_errors=True)
            out.parent.mkdir()
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            if number:  # the first warms up
                seconds[name].append(time.perf_counter() - started)
    return [
        {
            "row": name,
            "median_s": round(statistics.median(seconds[name]), 3),
            "min_s": round(min(seconds[name]), 3),
            "max_s": round(max(seconds[name]), 3),
            "rounds": rounds,
            "bytes": out.stat().st_size,
        }
        for name, (out, _) in commands.items()
    ]


def _same_hu(folder: Path) -> dict[str, Any]:
    """Compare both files voxel by voxel, whatever the directions of their axes."""
    ours, theirs = (nibabel.load(folder / name / "scan.nii.gz") for name in ("hilum", "dcm2niix"))
    step = np.linalg.inv(theirs.affine) @ ours.affine  # index in ours to index in theirs
    signs = np.rint(np.diag(step)[:3]).astype(int)
    assert np.abs(step[:3, :3] - np.diag(signs)).max() < 1e-3
    hu = np.asarray(theirs.dataobj)[tuple(slice(None, None, int(sign)) for sign in signs)]
    assert hu.shape == ours.shape
    last = np.array([*np.array(ours.shape) - 1, 1])
    corner = np.where(signs > 0, 0, last[:3])
    apart = (theirs.affine @ [*corner, 1] - ours.affine @ [0, 0, 0, 1])[:3]
    differing = np.count_nonzero(np.clip(np.rint(hu), *LIMITS_HU) != np.asarray(ours.dataobj))
    return {"voxels": int(hu.size), "differing": int(differing), "apart_mm": float(np.abs(apart).max())}


def _lungs(folder: Path, copies: int) -> dict[str, Any]:
    """Lungs of so many copies of each scan, in one command."""
    scans = folder / "scans"
    scans.mkdir()
    for name in SCANS:
        command = [*HILUM, "convert", str(DATA / name), str(folder / f"{name}.nii")]
        subprocess.run(command, check=True, capture_output=True)
        for number in range(copies):
            (scans / f"{name}-{number}.nii").hardlink_to(folder / f"{name}.nii")
    started = time.perf_counter()
    subprocess.run([*HILUM, "lungs", str(scans), "--out", str(folder / "masks")], check=True, capture_output=True)
    seconds = time.perf_counter() - started
    count = copies * len(SCANS)
    return {"scans": count, "seconds": round(seconds, 2), "per_second": round(count / seconds, 3)}


if __name__ == "__main__":
    main()
