"""Scans per second of whole ``hilum prepare`` processes with one core and with two.

    python benchmarks/prepare_scaling.py [--quick] [--rounds 5] [--json]

The cohort is 72 simulated series and, where they are there (HILUM_DATA or ../shared/data), three real scans, twelve
copies of each: each copy differs by a byte of its pixels, so that each is work of its own. Each process gets its cores
by sched_setaffinity and an empty store; one and two cores take turns. Start-up is what the same process takes to find
all samples there. The load of the machine before each run and the processor time of its processes are printed: other
work on the same cores spoils the ratio of the rates, not that of the processor times. Linux only.
"""

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import DATA, line, machine

from hilum.simulating.cohort import simulate_cohort

CONFIG = """
[cohort]
table = "cohort.csv"

[recipe]
size = [128, 128, 128]
extent_mm = [340.0, 360.0, 360.0]
"""
REAL = {"lidc-0314": 12, "lung-dx-a0001": 12, "ct-64/dicom": 12}
"""Real scans and how many copies of each there are in the cohort."""
COMMAND = "import os, sys; os.sched_setaffinity(0, {cores}); from hilum.cli import main; sys.exit(main({words}))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two rounds, 8 simulated scans and one copy of each")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    mine = sorted(os.sched_getaffinity(0))
    if len(mine) < 2:
        sys.exit("two cores are needed")
    found = machine("scipy", "joblib")
    print(line(found))
    rounds = 2 if args.quick else args.rounds
    with tempfile.TemporaryDirectory() as folder:
        number = _cohort(Path(folder), simulated=8 if args.quick else 72, copies=1 if args.quick else None)
        print(f"{number} scans, {rounds} rounds after round 0, which warms up")
        rows = []
        for turn in range(rounds + 1):
            for cores in ([1, 2], [2, 1])[turn % 2]:
                row = _round(Path(folder), mine[:cores], number)
                if turn:
                    rows.append(row)
                start = f"{row['without_start_per_s']:.3f} without start-up of {row['start_s']:.2f} s"
                rate = f"{row['scans_per_s']:.3f} scans/s ({start})"
                print(
                    f"round {turn}, {cores} cores: {rate}, cpu {row['cpu_s']:.1f} s, load {row['load']:.1f}", flush=True
                )
    answer = {"num_scans": number, "rounds": rounds, "rows": rows}
    for name in ("scans_per_s", "without_start_per_s"):
        one, two = (statistics.median(r[name] for r in rows if r["cores"] == n) for n in (1, 2))
        answer[f"ratio_{name}"] = round(two / one, 3)
        print(f"{name}: {one:.3f} on 1 core, {two:.3f} on 2, {two / one:.2f} times as many")
    one, two = (statistics.median(r["cpu_s"] for r in rows if r["cores"] == n) for n in (1, 2))
    answer["ratio_cpu_s"] = round(two / one, 3)
    print(f"processor time of all processes: {one:.1f} s on 1 core, {two:.1f} s on 2")
    if args.json:
        print(json.dumps(answer | {"machine": found}))


def _cohort(folder: Path, *, simulated: int, copies: int | None) -> int:
    """A cohort on disk; its number of scans."""
    simulate_cohort(folder, num_cases=simulated, seed=3, diseased=0.5, pixel_mm=1.5)
    (folder / "config.toml").write_text(CONFIG)
    lines = (folder / "cohort.csv").read_text().splitlines()
    rows = [",".join(one.split(",")[1:3]) for one in lines[1:]]
    for name, number in REAL.items():
        source = DATA / name
        for i in range(copies or number):
            if source.is_dir():
                rows.append(f"real/{i}-{source.name},0")
                shutil.copytree(source, folder / "real" / f"{i}-{source.name}")
                slices = sorted((folder / "real" / f"{i}-{source.name}").iterdir())
                _change(slices[0], i)
    # alike scans spread, so that neither core gets only large ones
    rows = [row for start in range(7) for row in rows[start::7]]
    (folder / "cohort.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    return len(rows)


def _change(path: Path, number: int) -> None:
    """Make a copy of a scan another one by the bytes of its content, by a pixel."""
    content = bytearray(path.read_bytes())
    content[-2] = (content[-2] + number) % 256
    path.write_bytes(bytes(content))


def _round(folder: Path, cores: list[int], number: int) -> dict[str, Any]:
    shutil.rmtree(folder / "store", ignore_errors=True)
    load = os.getloadavg()[0]
    before = _cpu_seconds()
    whole = _run(folder, cores, number)
    cpu = _cpu_seconds() - before
    again = _run(folder, cores, number)
    return {
        "cores": len(cores),
        "seconds": round(whole, 3),
        "start_s": round(again, 3),
        "scans_per_s": round(number / whole, 4),
        "without_start_per_s": round(number / (whole - again), 4),
        "cpu_s": round(cpu, 3),
        "load": round(load, 2),
    }


def _cpu_seconds() -> float:
    """Of all processes that were started here and have ended, and of theirs."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


def _run(folder: Path, cores: list[int], number: int) -> float:
    """Seconds that a whole process took."""
    code = COMMAND.format(cores=set(cores), words=["prepare", str(folder / "config.toml")])
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if f": {number} samples" not in done.stdout:
        sys.exit(f"not all scans were prepared:\n{done.stdout}{done.stderr}")
    return seconds


if __name__ == "__main__":
    main()
