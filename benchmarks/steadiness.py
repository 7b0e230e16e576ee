"""How steady training is on small cohorts: the demo's chests with several seeds, validation loss by epoch.

    python benchmarks/steadiness.py [--arms defaults plain ...] [--jobs 2] [--out runs/steadiness] [--quick] [--json]

Each seed draws its own cohort, split and training. ``defaults``: the demo's settings. ``planned``: ``hilum train
cohort.csv``, without a config. The other arms are ``defaults`` with a few other settings; ``before`` is what they were
when the loss jumped. ``ratio`` is the largest validation loss after the third epoch as a multiple of the first
epoch's; ``auc`` is that of the test part, by the kept epoch. What was broken off is resumed, what is finished is only
read; about an hour on two cores, one thread for each training.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean
from typing import Any

from machine import ROOT, line, machine

from hilum.demo import NUM_CASES, settings_for
from hilum.settings.toml import save
from hilum.simulating import simulate_cohort
from hilum.training.run_folder import Run

HILUM = "import sys; from hilum.cli import main; sys.exit(main(sys.argv[1:]))"
SGD = ["--training.optimizer", "sgd", "--training.lr", "0.05", "--training.weight-decay", "5e-4"]
ARMS: dict[str, list[str]] = {
    "defaults": [],
    "planned": [],
    "no-smoothing": ["--loss.label-smoothing", "0"],
    "sgd-cosine": [*SGD, "--training.schedule", "cosine"],
    "before": [
        "--loss.label-smoothing", "0", "--training.ema-epochs", "0", "--training.norm-statistics", "running",
    ],
}  # fmt: skip
SEEDS = {"defaults": 5, "planned": 5, "no-smoothing": 5}
"""Seeds of an arm; three of the others."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, help="by default 0 to 4, or 0 to 2")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "steadiness")
    parser.add_argument("--quick", action="store_true", help="one seed of 60 cases, four epochs: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = machine("torch")
    print(line(found), flush=True)
    out = args.out.with_name(f"{args.out.name}-quick") if args.quick else args.out
    runs = [
        (arm, seed)
        for arm in args.arms
        for seed in (range(1) if args.quick else args.seeds or range(SEEDS.get(arm, 3)))
    ]
    for seed in sorted({seed for _, seed in runs}):
        _simulate(out, seed, 60 if args.quick else NUM_CASES)
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda run: _train(out, *run, quick=args.quick), runs))
    rows = [_row(out, arm, seed) for arm, seed in runs]
    for arm in args.arms:
        _show(arm, [row for row in rows if row["arm"] == arm])
    if args.json:
        print(json.dumps({"rows": rows, "machine": found}))


def _simulate(out: Path, seed: int, num_cases: int) -> None:
    """The demo's cohort and config of a seed, if they are not there."""
    folder = out / f"cohort-{seed}"
    if not (folder / "config.toml").is_file():
        table = simulate_cohort(folder, num_cases=num_cases, seed=seed)
        save(settings_for(table, seed), folder / "config.toml")  # last: the cohort is whole


def _train(out: Path, arm: str, seed: int, *, quick: bool) -> None:
    """Train and judge by the command line, as a user would."""
    run, cohort = Run(out / f"{arm}-{seed}"), out / f"cohort-{seed}"
    if (run.evaluation / "evaluation.json").is_file():
        return
    flags = [*ARMS[arm], *(["--training.epochs", "4"] if quick else [])]
    flags += ["--training.seed", str(seed), "--split.seed", str(seed), "--store", str((cohort / "store").resolve())]
    command = ["train", str(cohort / ("cohort.csv" if arm == "planned" else "config.toml")), "--out", str(run.folder)]
    if run.state == "whole":
        command, flags = ["evaluate", str(run.folder)], []
    elif run.state == "begun":
        flags = ["--resume"]
    with (out / f"{arm}-{seed}.log").open("a") as log:
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        call = [sys.executable, "-c", HILUM, *command, *flags]
        if subprocess.run(call, stdout=log, stderr=log, env=environment, check=False).returncode:
            sys.exit(f"{arm}-{seed} failed, see {arm}-{seed}.log")
    print(f"{arm}-{seed} is trained", flush=True)


def _row(out: Path, arm: str, seed: int) -> dict[str, Any]:
    run = Run(out / f"{arm}-{seed}")
    with (run.folder / "metrics.csv").open(newline="") as file:
        losses = [float(row["val_loss"]) for row in csv.DictReader(file)]
    evaluation = json.loads((run.evaluation / "evaluation.json").read_text())
    model = json.loads((run.model / "model.json").read_text())
    return {
        "arm": arm,
        "seed": seed,
        "ratio": max(losses[3:]) / losses[0],
        "epochs": len(losses),
        "kept_epoch": model["training"]["epoch"],
        "val_loss": [round(loss, 4) for loss in losses],
        "auc": evaluation["auc"],
        "auc_ci": evaluation["auc_ci"],
    }


def _show(arm: str, rows: Sequence[dict[str, Any]]) -> None:
    each = ", ".join(f"{row['ratio']:.2f} / {row['auc']:.3f} (epoch {row['kept_epoch']})" for row in rows)
    largest, auc = max(row["ratio"] for row in rows), mean(row["auc"] for row in rows)
    print(f"{arm:14s} largest ratio {largest:5.2f}, mean AUC {auc:.3f}; by seed, ratio / AUC: {each}")


if __name__ == "__main__":
    main()
