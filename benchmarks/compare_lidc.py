"""Does it help, or harm, on real CT: LIDC nodules of configs/lidc_nodules.toml, each arm with the same seeds.

    python benchmarks/compare_lidc.py [--arms none standard] [--seeds 3] [--fold 1] [--out FOLDER] [--quick] [--json]
    python benchmarks/compare_lidc.py --arms fp32 bf16

An arm is a preset of [augment], or a precision of [speed]. Everything else, but training.seed, is as the config has it,
computed in fp32 unless the arm says otherwise: the net, the split, the epochs. The first arm is what the others are
compared with. Takes three to ten minutes a run on two cores, so up to an hour for two arms and three seeds.
What was broken off is resumed, what is finished is only read.

A figure is the mean over the seeds of the AUC of the test patients. Its 95 % interval, and that of a difference, comes
from a bootstrap of the patients, in which all arms and seeds see the same patients: it says what other patients would
have changed. What other seeds would have changed is the spread beside it, of too few to be an interval. The data are
looked for at HILUM_DATA or ../shared/data.
"""

import argparse
import csv
import json
import logging
import math
import shutil
import statistics
import sys
import time
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from jaxtyping import Float, Int
from machine import DATA, ROOT, line, machine

from hilum import evaluate, train
from hilum.cohorts.table import Cohort
from hilum.files import write_whole
from hilum.measuring.bootstrap import Z95
from hilum.measuring.metrics import auc_from, ranked_counts
from hilum.modelling.speed import PLAIN
from hilum.randomness import generator
from hilum.settings.augmentation import PresetName
from hilum.settings.presets import preset
from hilum.settings.run import RunConfig
from hilum.settings.toml import from_dict, load, to_dict
from hilum.training.run_folder import Run

TABLE = DATA / "lidc-nodules" / "nodules.csv"
NUM_RESAMPLES = 2000
PRECISIONS = ("fp32", "bf16")


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What the runs say of the test cases.

    Attributes:
        labels: 1 where suspicious.
        patients: Patient of each case, as an index.
        probs: Of each arm, for each seed and case.
    """

    labels: Int[np.ndarray, " n"]
    patients: Int[np.ndarray, " n"]
    probs: dict[str, Float[np.ndarray, "s n"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = (*get_args(PresetName), *PRECISIONS)
    parser.add_argument("--arms", nargs="+", choices=names, default=["none", "standard"], help="the first is compared")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--epochs", type=int, help="default: as in the config")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "compare-lidc")
    parser.add_argument("--quick", action="store_true", help="one seed and one epoch, in another folder: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.seeds, args.epochs, args.out = 1, 1, args.out.with_name(f"{args.out.name}-quick")
    if not TABLE.is_file():
        sys.exit(f"no {TABLE.name}: HILUM_DATA must name the folder with the shared data")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    found = machine("torch")
    print(line(found), flush=True)

    arms, seeds = list(dict.fromkeys(args.arms)), range(args.seeds)
    configs = {arm: _config(arm, args.fold, args.epochs) for arm in arms}
    minutes: dict[str, list[float | None]] = {arm: [] for arm in arms}
    for seed in seeds:  # all arms of a seed before the next, so that what there is can always be compared
        for arm in arms:
            config = replace(configs[arm], training=replace(configs[arm].training, seed=seed))
            print(f"\n{arm}, seed {seed}", flush=True)
            minutes[arm].append(_finished(config, args.out / f"{arm}-{seed}"))

    tested = _tested({arm: [args.out / f"{arm}-{seed}" for seed in seeds] for arm in arms}, configs[arms[0]])
    rows, differences = _figures(tested)
    for row in rows:
        row["minutes"] = minutes[row["arm"]]
    result = {
        "fold": args.fold,
        "epochs": configs[arms[0]].training.epochs,
        "num_cases": len(tested.labels),
        "num_positives": int(tested.labels.sum()),
        "num_patients": int(tested.patients.max()) + 1,
        "rows": rows,
        "differences": differences,
        "machine": found,
    }
    _show(result)
    if args.json:
        print(json.dumps(result))


# the runs


def _config(arm: Any, fold: int, epochs: int | None) -> RunConfig:
    """The config with an arm's preset in place of its own changes, or computed in the arm's precision."""
    path = ROOT / "configs" / "lidc_nodules.toml"
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    values.pop("augment")
    config = from_dict(RunConfig, values) if arm not in PRECISIONS else load(path)
    config = replace(config, speed=replace(PLAIN, precision=arm if arm in PRECISIONS else "fp32"))
    return replace(
        config,
        cohort=replace(config.cohort, table=str(TABLE.resolve())),
        split=replace(config.split, fold=fold),
        augment=preset(arm, config.recipe) if arm not in PRECISIONS else config.augment,
        training=replace(config.training, epochs=epochs or config.training.epochs),
        store=str((ROOT / "runs" / "store").resolve()),
    )


def _finished(config: RunConfig, run: Path) -> float | None:
    """Train and judge what is not yet; the minutes that the run takes in one sitting, None if that is not known."""
    if run.is_dir() and Run(run).state == "new":  # killed in its first epoch: there is nothing to go on from
        if any(run.iterdir()) and not (run / "config.toml").is_file():
            sys.exit(f"{run} holds something else than a run: give another --out")
        shutil.rmtree(run)
    begun = run.is_dir()
    if begun and _settings(load(run / "config.toml")) != _settings(config):
        sys.exit(f"{run} was trained with other settings: give another --out, or remove it")
    taken = run / "minutes.json"
    if not (run / "model" / "model.json").is_file():
        before, started = _epochs(run), time.perf_counter()
        train(config, run, base="/", resume=begun)
        here = (time.perf_counter() - started) / 60
        done = _epochs(run) - before
        if done:  # a run of several sittings: its last one, as if all epochs had taken as long
            write_whole(taken, json.dumps(round(here * _epochs(run) / done, 2)))
    if not (run / "evaluation" / "evaluation.json").is_file():
        evaluate(run / "model", None, run / "evaluation")
    return json.loads(taken.read_text()) if taken.is_file() else None


def _settings(config: RunConfig) -> dict[str, Any]:
    """All but where the files lie, which a run keeps relative to itself."""
    return to_dict(replace(config, store="", cohort=replace(config.cohort, table="")))


def _epochs(run: Path) -> int:
    metrics = run / "metrics.csv"
    return len(metrics.read_text().splitlines()) - 1 if metrics.is_file() else 0


def _tested(runs: dict[str, list[Path]], config: RunConfig) -> Tested:
    """The predictions of all runs, which must be of the same cases in the same order."""
    probs: dict[str, Any] = {}
    cases: list[tuple[str, str]] = []
    for arm, folders in runs.items():
        probs[arm] = []
        for folder in folders:
            with (folder / "evaluation" / "cases.csv").open(newline="") as file:
                rows = list(csv.DictReader(file))
            here = [(row["case_id"], row["label"]) for row in rows]
            if cases and here != cases:
                sys.exit(f"{folder} was tested on other cases than the runs before it")
            cases = here
            probs[arm].append([float(row["prob_1"]) for row in rows])
    patient_of = {case.case_id: case.patient_id for case in Cohort.read(TABLE, config.cohort).cases}
    patients = np.unique([patient_of[case_id] for case_id, _ in cases], return_inverse=True)[1].reshape(-1)
    labels = np.array([int(label) for _, label in cases])
    return Tested(labels=labels, patients=patients, probs={arm: np.array(rows) for arm, rows in probs.items()})


# the figures


def _figures(tested: Tested) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Of each arm, and of each against the first."""
    once = np.ones((1, len(tested.labels)))
    aucs = {arm: _aucs(tested, arm, once)[:, 0] for arm in tested.probs}
    patients = int(tested.patients.max()) + 1
    times = generator(0, "bootstrap").multinomial(patients, np.full(patients, 1 / patients), size=NUM_RESAMPLES)
    weights = times[:, tested.patients].astype(np.float64)
    means = {arm: _aucs(tested, arm, weights).mean(axis=0) for arm in tested.probs}
    first, *others = tested.probs
    rows = [
        {
            "arm": arm,
            "auc": float(aucs[arm].mean()),
            "ci": _on_logits(float(aucs[arm].mean()), _error(means[arm])),
            "aucs": aucs[arm].tolist(),
            "sd_over_seeds": _spread(aucs[arm]),
        }
        for arm in tested.probs
    ]
    differences = []
    for arm in others:
        value, error = float(aucs[arm].mean() - aucs[first].mean()), _error(means[arm] - means[first])
        differences.append(
            {
                "arms": f"{arm} - {first}",
                "auc": value,
                "ci": [value - Z95 * error, value + Z95 * error],
                "by_seed": (aucs[arm] - aucs[first]).tolist(),
                "sd_over_seeds": _spread(aucs[arm] - aucs[first]),
            }
        )
    return rows, differences


def _aucs(tested: Tested, arm: str, weights: Float[np.ndarray, "b n"]) -> Float[np.ndarray, "s b"]:
    """The AUC of each seed on each resample."""
    rows = [auc_from(*ranked_counts(tested.labels, probs, weights=weights)) for probs in tested.probs[arm]]
    return np.array(rows).reshape(len(rows), -1)


def _error(resampled: Float[np.ndarray, " b"]) -> float:
    """The standard error, from the resamples that hold both classes."""
    return float(np.std(resampled[np.isfinite(resampled)], ddof=1))


def _on_logits(value: float, error: float) -> list[float] | None:
    """Normal on the logit scale, as ``hilum.measuring.intervals`` has it; None at exactly 0 or 1."""
    if not 0 < value < 1:
        return None
    logit, half = math.log(value / (1 - value)), Z95 * error / (value * (1 - value))
    return [1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-half - logit))]


def _spread(values: Float[np.ndarray, " s"]) -> float | None:
    return statistics.stdev(values.tolist()) if len(values) > 1 else None


def _show(result: dict[str, Any]) -> None:
    print(
        f"\nfold {result['fold']}, {result['epochs']} epochs, tested on {result['num_cases']} nodules of "
        f"{result['num_patients']} patients, {result['num_positives']} suspicious"
    )
    print(f"{'':<20}{'AUC, mean over seeds (95 %)':>30}{'sd over seeds':>15}   of each seed; minutes a run")
    for row in result["rows"]:
        ci = "" if row["ci"] is None else f" ({row['ci'][0]:.4f} to {row['ci'][1]:.4f})"
        known = [m for m in row["minutes"] if m is not None]
        cost = f"{statistics.mean(known):.1f}" if known else "not known"
        each = " ".join(f"{auc:.4f}" for auc in row["aucs"])
        print(f"{row['arm']:<20}{row['auc']:>9.4f}{ci:>21}{_shown(row['sd_over_seeds']):>15}   {each}; {cost}")
    for row in result["differences"]:
        ci = f" ({row['ci'][0]:+.4f} to {row['ci'][1]:+.4f})"
        each = " ".join(f"{auc:+.4f}" for auc in row["by_seed"])
        print(f"{row['arms']:<20}{row['auc']:>+9.4f}{ci:>21}{_shown(row['sd_over_seeds']):>15}   {each}")


def _shown(spread: float | None) -> str:
    return "" if spread is None else f"{spread:.4f}"


if __name__ == "__main__":
    main()
