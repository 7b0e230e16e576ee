"""What makes it learn better: settings on real nodules, folds 1 and 2 of 5, two seeds, paired by patient.

    python benchmarks/learning.py [--arms base votes ...] [--jobs 2] [--out FOLDER] [--quick] [--json]

An arm is ``base`` with a few other settings: four trainings of three to eight minutes each on one core; ``--jobs``
trains as many at a time, one thread each. What was broken off is resumed, what is finished is only read. ``base`` is
what configs/lidc_nodules.toml was before these arms were trained: a box of 25.6 mm whose crops end at random (see
``BASE``), soft labels, AdamW, one cycle, the last epoch.

A figure is the mean AUC over folds and seeds. Its difference from the first arm has a 95 % interval, by a bootstrap of
the patients of each fold in which all arms and seeds see the same patients: it says what other patients would have
changed. ``ensemble`` is the AUC of the mean log odds of the seeds. The data are looked for at HILUM_DATA or
../shared/data.
"""

import argparse
import csv
import json
import logging
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from machine import DATA, ROOT, line, machine

from hilum import Predictor, train
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.table import Cohort
from hilum.files import csv_text, write_whole
from hilum.measuring.bootstrap import Z95
from hilum.measuring.metrics import auc_from, ranked_counts
from hilum.modelling.speed import PLAIN
from hilum.predicting.tables import logits_of_prepared
from hilum.preparing import Store
from hilum.randomness import generator
from hilum.settings.run import RunConfig
from hilum.settings.toml import from_dict, load, to_dict
from hilum.training.run_cases import splits_of
from hilum.training.run_folder import Run

TABLE = DATA / "lidc-nodules" / "nodules.csv"
FOLDS, SEEDS = (1, 2), (0, 1)
NUM_RESAMPLES = 2000

Changes = dict[str, dict[str, Any]]
"""Settings by section; ``columns`` stands for cohort.columns."""

READ = ["mean_vote", "diameter_mm", "texture_1to5", "spiculation_1to5", "margin_1to5", "subtlety_1to5"]

BASE: Changes = {
    "cohort": {"unlabelled": "drop"},
    "columns": {"num_readers": "", "auxiliary": []},
    "recipe": {"size": [4, 40, 40], "extent_mm": [5.0, 25.6, 25.6]},
    "augment": {"extent_by": [0.5, 0.75, 0.75]},
    "model": {"norm": "batch", "measures": "none"},
    "training": {"ema_epochs": 0.0, "keep": "last"},
    "decision": {"tta": 0},
}

ARMS: dict[str, Changes] = {
    "base": {},
    "box-32": {
        "recipe": {"size": [4, 48, 48], "extent_mm": [5.0, 32.0, 32.0]},
        "augment": {"extent_by": [0.5, 1.0, 1.0]},
    },
    "ema": {"training": {"ema_epochs": 2.0}},
    "votes": {"cohort": {"unlabelled": "train"}, "columns": {"num_readers": "num_readers"}},
    "auxiliary": {"columns": {"auxiliary": READ}},
    "group-norm": {"model": {"norm": "group"}},
    "sgd-cosine": {"training": {"optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4, "schedule": "cosine"}},
    "measures": {"model": {"measures": "nodule"}},
}
"""``box-32`` is the box of before, whose crops end where they ended; the first arm is compared with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """The test cases of a fold, and the log odds of each seed."""

    labels: Int[np.ndarray, " n"]
    patients: Int[np.ndarray, " n"]
    odds: Float[np.ndarray, "s n"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="the first is compared with")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "learning")
    parser.add_argument("--quick", action="store_true", help="one epoch, in another folder: that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("ARM", "FOLD", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not TABLE.is_file():
        sys.exit(f"no {TABLE.name}: HILUM_DATA must name the folder with the shared data")
    if args.one:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        arm, fold, seed = args.one
        _train(arm, int(fold), int(seed), args.out, quick=args.quick)
        return
    found = machine("torch")
    print(line(found), flush=True)
    out = args.out.with_name(f"{args.out.name}-quick") if args.quick else args.out
    arms = list(dict.fromkeys(args.arms))
    _run_all(arms, out, args.jobs, quick=args.quick)
    rows = _rows(arms, out)
    for row in rows:
        _show(row)
    if args.json:
        print(json.dumps({"folds": FOLDS, "seeds": SEEDS, "rows": rows, "machine": found}))


# the runs


def _run_all(arms: Sequence[str], out: Path, jobs: int, *, quick: bool) -> None:
    """Train what is not yet, as many at a time; the seeds of an arm before the next arm."""
    out.mkdir(parents=True, exist_ok=True)

    def one(name: tuple[str, int, int]) -> None:
        label = "-".join(map(str, name))
        if (out / label / "test.csv").is_file():
            return
        command = [sys.executable, __file__, "--one", *map(str, name), "--out", str(out), *(["--quick"] * quick)]
        with (out / f"{label}.log").open("a") as log:
            one_thread = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(command, stdout=log, stderr=log, env=one_thread, check=False)
        if done.returncode:
            sys.exit(f"{label} failed, see {label}.log")
        print(f"{label} is trained", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, [(arm, fold, seed) for arm in arms for seed in SEEDS for fold in FOLDS]))


def _config(arm: str, fold: int, seed: int, *, quick: bool) -> RunConfig:
    values = to_dict(load(ROOT / "configs" / "lidc_nodules.toml"))
    values["cohort"]["table"] = str(TABLE.resolve())
    values["store"] = str((ROOT / "runs" / "store").resolve())
    values["split"] |= {"folds": 5, "fold": fold}
    values["speed"] = to_dict(replace(PLAIN, precision="bf16", channels_last="on", keep_memory="on"))
    for changes in (BASE, ARMS[arm], {"training": {"seed": seed, **({"epochs": 1} if quick else {})}}):
        for section, changed in changes.items():
            (values["cohort"]["columns"] if section == "columns" else values[section]).update(changed)
    return from_dict(RunConfig, values)


def _train(arm: str, fold: int, seed: int, out: Path, *, quick: bool) -> None:
    """Train a run, and write the log odds of its test cases."""
    config, run = _config(arm, fold, seed, quick=quick), Run(out / f"{arm}-{fold}-{seed}")
    started = time.perf_counter()
    if run.state != "whole":
        train(config, run.folder, base="/", resume=run.state == "begun")
    minutes = (time.perf_counter() - started) / 60
    cohort = Cohort.read(TABLE, replace(config.cohort, unlabelled="drop"))
    parts = splits_of(run, cohort).parts
    tested = replace(cohort, cases=tuple(case for case in cohort.cases if parts.get(case.case_id) == "test"))
    prepared = prepare_cohort(tested, config.recipe, Store(Path(config.store), config.reading))
    logits = logits_of_prepared(Predictor(run.model), prepared)
    rows = [
        (case.case_id, case.patient_id, case.label, f"{positive - negative:.9g}")
        for case, (negative, positive) in zip(prepared.cases, logits.tolist(), strict=True)
    ]
    write_whole(run.folder / "minutes.json", json.dumps(minutes))
    write_whole(run.folder / "test.csv", csv_text([("case_id", "patient", "label", "logit"), *rows]))


# the figures


def _tested(arm: str, fold: int, out: Path) -> Tested:
    odds = []
    for seed in SEEDS:
        with (out / f"{arm}-{fold}-{seed}" / "test.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        odds.append([float(row["logit"]) for row in rows])
    return Tested(
        labels=np.array([int(row["label"]) for row in rows]),
        patients=np.unique([row["patient"] for row in rows], return_inverse=True)[1].reshape(-1),
        odds=np.array(odds),
    )


def _rows(arms: Sequence[str], out: Path) -> list[dict[str, Any]]:
    """The figures of each arm, and its differences from the first."""
    rows: list[dict[str, Any]] = []
    first: dict[str, Any] = {}
    for arm in arms:
        single, together = [], []  # AUC of all cases, then of each resample
        for fold in FOLDS:
            one = _tested(arm, fold, out)
            patients = int(one.patients.max()) + 1
            random = generator(fold, "bootstrap")
            times = random.multinomial(patients, np.full(patients, 1 / patients), size=NUM_RESAMPLES)
            weights = np.vstack([np.ones(len(one.labels)), times[:, one.patients]])
            single += [auc_from(*ranked_counts(one.labels, odds, weights=weights)) for odds in one.odds]
            together.append(auc_from(*ranked_counts(one.labels, one.odds.mean(axis=0), weights=weights)))
        kinds = {"auc": np.mean(single, axis=0), "ensemble": np.mean(together, axis=0)}
        first = first or kinds
        files = [out / f"{arm}-{fold}-{seed}" / "minutes.json" for fold in FOLDS for seed in SEEDS]
        rows.append(
            {
                "arm": arm,
                "each": [float(auc[0]) for auc in single],
                "minutes": float(np.mean([json.loads(file.read_text()) for file in files])),
                **{name: float(auc[0]) for name, auc in kinds.items()},
                **{f"{name}_difference": _difference(auc, first[name]) for name, auc in kinds.items()},
            }
        )
    return rows


def _difference(auc: Float[np.ndarray, " b"], first: Float[np.ndarray, " b"]) -> list[float]:
    """The difference of all cases, and the ends of its interval."""
    value, error = float(auc[0] - first[0]), float(np.nanstd((auc - first)[1:], ddof=1))
    return [value, value - Z95 * error, value + Z95 * error]


def _show(row: dict[str, Any]) -> None:
    shown = [f"{row['arm']:12s}"]
    for name in ("auc", "ensemble"):
        value, low, high = row[f"{name}_difference"]
        shown.append(f"{name} {row[name]:.4f}, {value:+.4f} ({low:+.4f} to {high:+.4f})")
    each = " ".join(f"{auc:.4f}" for auc in row["each"])
    print(f"{'   '.join(shown)}   each {each}   {row['minutes']:.1f} min")


if __name__ == "__main__":
    main()
