"""What makes it learn better: arms of settings on real nodules, folds 1 and 2 of 5, the same seeds, paired by patient.

    python benchmarks/learning.py [--arms base ema ...] [--jobs 2] [--out FOLDER] [--quick] [--json]

An arm is configs/lidc_nodules.toml with a few other settings; the first arm is what the others are compared with. An
arm is four trainings, of three to eight minutes each on one core; ``--jobs`` trains as many at a time, one thread each.
What was broken off is resumed, what is finished is only read.

A figure is the mean AUC over folds and seeds. Its 95 % interval, and that of a difference, comes from a bootstrap of the
patients of each fold, in which all arms and seeds see the same patients. ``ensemble`` is the AUC of the mean logit of
the seeds. The data are looked for at HILUM_DATA or ../shared/data.
"""

import argparse
import csv
import json
import logging
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import DATA, ROOT, line, machine

from hilum import Predictor, train
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.table import Cohort
from hilum.files import csv_text, write_whole
from hilum.measuring.bootstrap import Z95
from hilum.measuring.metrics import auc_from, ranked_counts
from hilum.modelling.speed import PLAIN
from hilum.preparing import Store, load_sample
from hilum.randomness import generator
from hilum.settings.run import RunConfig
from hilum.settings.toml import from_dict, load, to_dict
from hilum.training.run_folder import Run

TABLE = DATA / "lidc-nodules" / "nodules.csv"
FOLDS, SEEDS = (1, 2), (0, 1)
NUM_RESAMPLES = 2000

BOX_32 = {"recipe": {"size": [4, 48, 48], "extent_mm": [5.0, 32.0, 32.0]}, "augment": {"extent_by": [0.5, 1.0, 1.0]}}
ARMS: dict[str, dict[str, dict[str, Any]]] = {
    "box-32": BOX_32,
    "base": {},
    "ema": {"training": {"ema_epochs": 2.0}},
    "smoothing": {"loss": {"label_smoothing": 0.1}},
    "sgd-cosine": {"training": {"optimizer": "sgd", "lr": 0.05, "weight_decay": 5e-4, "schedule": "cosine"}},
    "votes": {"cohort": {"unlabelled": "train"}, "columns": {"num_readers": "num_readers"}},
    "auxiliary": {
        "columns": {
            "auxiliary": [
                "mean_vote",
                "diameter_mm",
                "texture_1to5",
                "spiculation_1to5",
                "margin_1to5",
                "subtlety_1to5",
            ]
        }
    },
    "group-norm": {"model": {"norm": "group"}},
    "measures": {"model": {"measures": "nodule"}},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["base"], help="the first is compared with")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "learning")
    parser.add_argument("--quick", action="store_true", help="one epoch, in another folder: that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--one", nargs=3, metavar=("ARM", "FOLD", "SEED"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not TABLE.is_file():
        sys.exit(f"no {TABLE.name}: HILUM_DATA must name the folder with the shared data")
    out = args.out.with_name(f"{args.out.name}-quick") if args.quick and not args.one else args.out
    if args.one:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        arm, fold, seed = args.one
        _train(arm, int(fold), int(seed), out, quick=args.quick)
        return
    print(line(machine("torch")), flush=True)
    _run_all(list(dict.fromkeys(args.arms)), out, args.jobs, args.quick)


def _run_all(arms, out, jobs, quick):
    wanted = [(arm, fold, seed) for arm in arms for seed in SEEDS for fold in FOLDS]

    def one(what):
        name = "-".join(map(str, what))
        if (out / name / "test.csv").is_file():
            return
        out.mkdir(parents=True, exist_ok=True)
        with (out / f"{name}.log").open("a") as log:
            command = [sys.executable, __file__, "--one", *map(str, what), "--out", str(out)]
            done = subprocess.run(
                command + (["--quick"] if quick else []),
                stdout=log,
                stderr=log,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        print(name, "done" if not done.returncode else f"failed, see {name}.log", flush=True)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, wanted))
    figures(arms, out)


def config_of(arm, fold, seed, quick=False):
    values = to_dict(load(ROOT / "configs" / "lidc_nodules.toml"))
    for section, changed in ARMS[arm].items():
        (values["cohort"]["columns"] if section == "columns" else values[section]).update(changed)
    values["cohort"]["table"] = str(TABLE.resolve())
    values["store"] = str((ROOT / "runs" / "store").resolve())
    values["split"]["fold"] = fold
    values["training"]["seed"] = seed
    values["speed"] = to_dict(replace(PLAIN, precision="bf16", channels_last="on", keep_memory="on"))
    if quick:
        values["training"]["epochs"] = 1
    return from_dict(RunConfig, values)


def _train(arm, fold, seed, out, quick=False):
    config = config_of(arm, fold, seed, quick)
    run = Run(out / f"{arm}-{fold}-{seed}")
    started = time.perf_counter()
    if run.state != "whole":
        train(config, run.folder, base="/", resume=run.state == "begun")
    minutes = (time.perf_counter() - started) / 60
    cohort = Cohort.read(TABLE, replace(config.cohort, unlabelled="drop"))
    parts = run.splits(cohort).parts
    tested = replace(cohort, cases=tuple(c for c in cohort.cases if parts.get(c.case_id) == "test"))
    prepared = prepare_cohort(tested, config.recipe, Store(Path(config.store), config.reading))
    predictor = Predictor(run.model)
    samples = [load_sample(file) for file in prepared.samples]
    logits = np.concatenate([predictor.logits(samples[i : i + 32]) for i in range(0, len(samples), 32)])
    rows = [
        (c.case_id, c.patient_id, c.label, f"{z[1] - z[0]:.9g}") for c, z in zip(prepared.cases, logits, strict=True)
    ]
    write_whole(run.folder / "minutes.json", json.dumps(minutes))
    write_whole(run.folder / "test.csv", csv_text([("case_id", "patient", "label", "logit"), *rows]))


def read_test(file):
    with file.open(newline="") as f:
        rows = list(csv.DictReader(f))
    return (
        [r["case_id"] for r in rows],
        [r["patient"] for r in rows],
        np.array([int(r["label"]) for r in rows]),
        np.array([float(r["logit"]) for r in rows]),
    )


def figures(arms, out):
    first = None
    stats = {}
    for arm in arms:
        if not all((out / f"{arm}-{f}-{s}" / "test.csv").is_file() for f in FOLDS for s in SEEDS):
            continue
        boots, values, ens, eboots = [], [], [], []
        for fold in FOLDS:
            logit = []
            for seed in SEEDS:
                ids, patients, y, z = read_test(out / f"{arm}-{fold}-{seed}" / "test.csv")
                logit.append(z)
            pat = np.unique(patients, return_inverse=True)[1]
            n = pat.max() + 1
            times = generator(fold, "bootstrap").multinomial(n, np.full(n, 1 / n), size=NUM_RESAMPLES)
            w = times[:, pat].astype(float)
            one = np.ones((1, len(y)))
            for z in logit:
                values.append(float(auc_from(*ranked_counts(y, z, weights=one))[0]))
                boots.append(auc_from(*ranked_counts(y, z, weights=w)))
            ens.append(float(auc_from(*ranked_counts(y, np.mean(logit, 0), weights=one))[0]))
            eboots.append(auc_from(*ranked_counts(y, np.mean(logit, 0), weights=w)))
        stats[arm] = (np.mean(values), np.mean(boots, 0), values, np.mean(ens), np.mean(eboots, 0))
        minutes = [json.loads((out / f"{arm}-{f}-{s}" / "minutes.json").read_text()) for f in FOLDS for s in SEEDS]
        base = next(iter(stats.values()))
        d, e = stats[arm][0] - base[0], np.nanstd(stats[arm][1] - base[1], ddof=1)
        de, ee = stats[arm][3] - base[3], np.nanstd(stats[arm][4] - base[4], ddof=1)
        print(
            f"{arm:12s} AUC {stats[arm][0]:.4f}  {d:+.4f} +- {Z95 * e:.4f}   ensemble {stats[arm][3]:.4f} {de:+.4f} +- {Z95 * ee:.4f}  each {' '.join(f'{v:.4f}' for v in values)}  {np.mean(minutes):.1f} min",
            flush=True,
        )


if __name__ == "__main__":
    main()
