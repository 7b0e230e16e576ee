"""Seconds and memory that a large table of cases takes: LUNA16's candidates, 551,065 rows on 888 scans.

    python benchmarks/tables.py [--quick] [--rounds 3] [--json]

The table is made anew, with the columns and the shape of LUNA16's ``candidates_V2.csv`` (seriesuid, coordX, coordY,
coordZ, class) and a column of paths; once so, and once with columns ``patient_id`` and ``case_id``. Each round is a
fresh process: ``Cohort.read``, then its peak memory (imports included), then a split into parts and one into five
folds. Medians of the rounds.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from machine import line, machine

ROWS, SCANS, POSITIVES = 551_065, 888, 1_557
CHILD = """
import json, resource, sys, time
from hilum.cohorts.table import Cohort
from hilum.settings.run import CohortConfig, ColumnsConfig, SplitConfig

columns = ColumnsConfig(label="class", x_mm="coordX", y_mm="coordY", z_mm="coordZ")
seconds = [time.perf_counter()]
cohort = Cohort.read(sys.argv[1], CohortConfig(columns=columns))
seconds.append(time.perf_counter())
read_s = seconds[1] - seconds[0]
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)
from hilum.cohorts.splits import split
seconds[-1] = time.perf_counter()
for config in (SplitConfig(), SplitConfig(folds=5)):
    split(cohort, config)
    seconds.append(time.perf_counter())
split_s, folds_s = (b - a for a, b in zip(seconds[1:], seconds[2:]))
answer = {"cases": len(cohort.cases), "read_s": read_s, "peak_mb": peak, "split_s": split_s, "folds_s": folds_s}
print(json.dumps(answer))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = machine("pandas")
    print(line(found))
    number, rounds = (ROWS // 10, 1) if args.quick else (ROWS, args.rounds)
    results = {}
    with tempfile.TemporaryDirectory() as name:
        for what, with_ids in (("without ids", False), ("with ids", True)):
            table = Path(name) / f"{what.replace(' ', '-')}.csv"
            _write(table, number, with_ids=with_ids)
            measured = [_measured(table) for _ in range(rounds)]
            result = {key: round(statistics.median(one[key] for one in measured), 2) for key in measured[0]}
            results[what] = result
            print(
                f"{what}: {number} rows read in {result['read_s']:.1f} s, peak {result['peak_mb']:.0f} MB; "
                f"split {result['split_s']:.1f} s, five folds {result['folds_s']:.1f} s",
                flush=True,
            )
    if args.json:
        print(json.dumps({"rows": number, "scans": SCANS, "rounds": rounds, "results": results, "machine": found}))


def _write(path: Path, number: int, *, with_ids: bool) -> None:
    random = np.random.default_rng(0)
    uids = [f"1.3.6.1.4.1.14519.5.2.1.6279.6001.{''.join(map(str, random.integers(0, 10, 30)))}" for _ in range(SCANS)]
    scans = np.sort(random.integers(0, SCANS, number)).tolist()
    points = random.normal(0, 100, (number, 3)).round(6).tolist()
    positive = set(random.choice(number, min(POSITIVES, number // 4), replace=False).tolist())
    with path.open("w", encoding="utf-8") as file:
        file.write("seriesuid,coordX,coordY,coordZ,class,path" + ",patient_id,case_id" * with_ids + "\n")
        for i, (scan, (x, y, z)) in enumerate(zip(scans, points, strict=True)):
            ids = f",LUNA-{scan:04d},candidate-{i:06d}" if with_ids else ""
            file.write(f"{uids[scan]},{x},{y},{z},{int(i in positive)},subset{scan % 10}/{uids[scan]}.mhd{ids}\n")


def _measured(table: Path) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-c", CHILD, str(table)], capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    main()
