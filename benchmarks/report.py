"""Many cases: all figures with intervals, subgroups and the report of 10,000 probabilities with 20 columns.

    python benchmarks/report.py [--quick] [--json]

Demanded are at most 60 s and 2 GB on two cores. The cases are simulated; half of the columns are measurements.
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import machine

from hilum.judging import judge, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="500 cases: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    num_cases = 500 if args.quick else 10_000
    rng = np.random.default_rng(0)
    labels = (rng.random(num_cases) < 0.2).astype(np.int64)
    p = 1 / (1 + np.exp(-(rng.normal(size=num_cases) + 1.6 * labels - 2)))
    columns = {f"measure {k}": [f"{value:.3f}" for value in rng.normal(size=num_cases)] for k in range(10)}
    columns |= {f"group {k}": [str(value) for value in rng.integers(0, 3 + k, num_cases)] for k in range(10)}
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        judge(
            case_ids=[f"case-{k}" for k in range(num_cases)],
            patients=[f"patient-{k // 2}" for k in range(num_cases)],
            labels=labels,
            probs=np.stack([1 - p, p], axis=1),
            classes=("absent", "present"),
            threshold=0.3,
            folder=Path(folder) / "evaluation",
            columns=columns,
            prevalence=[0.05],
            doubts=["" if k % 20 else "in doubt" for k in range(num_cases)],
        )
        judged = time.perf_counter() - started
        page = report(Path(folder) / "evaluation")
        seconds = time.perf_counter() - started
        size = page.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    row = {
        "row": "hilum",
        "num_cases": num_cases,
        "num_columns": len(columns),
        "seconds": round(seconds, 1),
        "seconds_of_figures": round(judged, 1),
        "peak_gb": round(peak / 1e9, 2),
        "page_mb": round(size / 1e6, 2),
    }
    print(f"{num_cases} cases, {len(columns)} columns: {seconds:.1f} s ({judged:.1f} s of them figures and pictures),")
    print(f"peak {peak / 1e9:.2f} GB, page {size / 1e6:.2f} MB")
    if args.json:
        print(json.dumps({"rows": [row], "ratios": {}, "machine": machine()}))


if __name__ == "__main__":
    main()
