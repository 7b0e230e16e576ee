"""Which answer to rare disease helps, on real CT: LIDC nodules whose suspicious ones are thinned to 10 and 5 %.

    python benchmarks/imbalance.py [--rates 0.10 0.05] [--thinnings 5] [--arms ...] [--out runs/imbalance] [--json]
    python benchmarks/imbalance.py --quick

A thinning is a fold of five by patient and a draw: in the training and in the validation part only so many patients
keep their suspicious nodules that these are the stated share of the nodules; the test part keeps all. Each arm trains
the same small, fast net with the same seed on the same cases. What is done is kept in --out, and a second call goes on.

The table gives the mean over the thinnings of figures on the test parts: AUC, average precision (PR-AUC, at the test
part's prevalence), sensitivity at 90 % specificity, and the calibration error (ECE) of the probabilities as they come,
with one temperature, and with Platt's factor and offset, all stated for the test part's prevalence; what was fitted was
fitted on the validation part. A perfectly calibrated model has an ECE too, its floor. Differences are paired with the
first arm within a thinning. Intervals are 95 %, by the corrected t of repeated cross-validation (Nadeau and Bengio,
Machine Learning 52, 2003; Bouckaert and Frank, PAKDD 2004), for the training parts of folds overlap.

The output of --json is kept as src/hilum/planning/imbalance.json: ``hilum advise`` reads its evidence there.
"""

import argparse
import json
import logging
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Int
from machine import DATA, ROOT, line, machine
from scipy.stats import t

from hilum.cohorts.splits import split
from hilum.cohorts.table import Cohort
from hilum.errors import CohortError
from hilum.files import write_whole
from hilum.measuring.agreement import ece_floor, expected_calibration_error
from hilum.measuring.calibration import Calibration
from hilum.measuring.fit_calibration import fit_calibration
from hilum.measuring.metrics import average_precision, roc_auc, roc_curve
from hilum.modelling.speed import PLAIN
from hilum.randomness import generator
from hilum.settings.presets import preset
from hilum.settings.run import (
    CohortConfig,
    ColumnsConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    Recipe,
    RunConfig,
    SamplingConfig,
    SplitConfig,
    TrainingConfig,
)
from hilum.settings.toml import to_dict

TABLE = DATA / "lidc-nodules" / "nodules.csv"
FOLDS = 5
VAL = 0.25
"""Share of the patients that do not test."""

COLUMNS = ColumnsConfig(path="image", label="suspicious")


@dataclass(frozen=True)
class Arm:
    """One answer to rare disease: a loss, a sampling, a second stage."""

    loss: LossConfig = field(default_factory=lambda: LossConfig(class_weights="none", label_smoothing=0.0))
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    head: HeadConfig = field(default_factory=HeadConfig)

    @property
    def method(self) -> dict[str, str]:
        """The method as ``hilum.planning.evidence`` names it."""
        return {
            "loss": self.loss.name,
            "class_weights": self.loss.class_weights,
            "sampling": self.sampling.method,
            "retrain": self.head.retrain,
        }


def _loss(name: str, weights: str = "none", **given: float) -> Arm:
    return Arm(loss=LossConfig(name=name, class_weights=weights, label_smoothing=0.0, **given))  # type: ignore[arg-type]


ARMS = {
    "plain": Arm(),
    "weights": _loss("cross-entropy", "inverse"),
    "weights-sqrt": _loss("cross-entropy", "sqrt"),
    "focal": _loss("focal"),
    "focal-weights": _loss("focal", "inverse"),
    "focal-balanced": _loss("focal", "effective"),
    "dice": _loss("dice"),
    "focal+dice": _loss("combined"),
    "asymmetric": _loss("asymmetric"),
    "tversky": _loss("tversky"),
    "logit-adjusted": _loss("logit-adjusted"),
    "ldam": _loss("ldam"),
    "poly1": _loss("poly1"),
    "over": Arm(sampling=SamplingConfig(method="over")),
    "under": Arm(sampling=SamplingConfig(method="under")),
    "over+under": Arm(sampling=SamplingConfig(method="combined")),
    "progressive": Arm(sampling=SamplingConfig(method="progressive")),
    "head-balanced": Arm(head=HeadConfig(retrain="balanced")),
    "head-smote": Arm(head=HeadConfig(retrain="smote")),
}
FIGURES = ("auc", "ap", "sens_at_90", "ece_plain", "ece_temperature", "ece_platt", "floor")


@dataclass(frozen=True)
class Job:
    """One training."""

    arm: str
    rate: float
    thinning: int
    epochs: int
    out: Path

    @property
    def name(self) -> str:
        return f"{self.rate:g}-{self.thinning}-{self.arm}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.10, 0.05], help="share of suspicious nodules")
    parser.add_argument("--thinnings", type=int, default=5)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="the first is compared with")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "imbalance")
    parser.add_argument("--quick", action="store_true", help="three arms, one thinning, two epochs: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not TABLE.is_file():
        sys.exit(f"no {TABLE.name}: HILUM_DATA must name the folder with the shared data")
    if args.quick:
        args.rates, args.thinnings, args.epochs, args.arms = [0.10], 1, 2, ["plain", "weights", "head-smote"]
        args.out = args.out.with_name(args.out.name + "-quick")
    found = machine("torch", "imbalanced-learn")
    print(line(found), flush=True)
    args.out.mkdir(parents=True, exist_ok=True)
    jobs = [
        Job(arm=arm, rate=rate, thinning=thinning, epochs=args.epochs, out=args.out.absolute())
        for thinning in range(args.thinnings)  # all arms of a thinning before the next: what is there can be compared
        for rate in args.rates
        for arm in args.arms
    ]
    left = [job for job in jobs if not _is_done(job)]
    started = time.perf_counter()
    if left:
        _prepare_store(left[0])
        with multiprocessing.get_context("spawn").Pool(args.workers, maxtasksperchild=20) as pool:
            for number, job in enumerate(pool.imap_unordered(_run, left), 1):
                minutes = (time.perf_counter() - started) / 60
                print(f"{number} of {len(left)} after {minutes:.1f} min: {job}", flush=True)
    result = {
        "epochs": args.epochs,
        "thinnings": args.thinnings,
        "core_minutes": round(sum(_read(job)["seconds"] for job in jobs) / 60, 1),
        "cohorts": _cohorts(jobs),
        "rows": [row for rate in args.rates for row in _rows(rate, args.arms, args.thinnings, jobs[0])],
        "machine": found,
    }
    _show(result)
    if args.json:
        print(json.dumps(result))


# one training


def _run(job: Job) -> str:
    import torch

    from hilum import train

    torch.set_num_threads(1)
    logging.getLogger("hilum").setLevel(logging.ERROR)
    started = time.perf_counter()
    folder = job.out / job.name
    shutil.rmtree(folder, ignore_errors=True)  # broken off
    folder.mkdir()
    _table_of(job).to_csv(folder / "cohort.csv", index=False)
    config = _config(job, str(folder / "cohort.csv"))
    train(config, folder / "run", base="/")
    logits = _logits_of(folder / "run" / "model", config)
    shutil.rmtree(folder)
    seconds = round(time.perf_counter() - started, 1)
    write_whole(_file(job), json.dumps({"settings": _settings(job), "seconds": seconds, **logits}))
    return job.name


def _config(job: Job, table: str) -> RunConfig:
    arm = ARMS[job.arm]
    recipe = Recipe(region="point", size=(3, 32, 32), extent_mm=(5.0, 32.0, 32.0), outside="edge")
    return RunConfig(
        cohort=CohortConfig(table=table, columns=COLUMNS, classes=("0", "1")),
        recipe=recipe,
        augment=preset("standard", recipe),
        model=ModelConfig(depth=10, width=8, stem="small"),
        loss=arm.loss,
        sampling=arm.sampling,
        head=arm.head,
        training=TrainingConfig(
            epochs=job.epochs, batch_size=32, schedule="one-cycle", keep="last", stop_patience=0, seed=job.thinning,
            device="cpu",
        ),
        speed=PLAIN,
        store=str(job.out / "store"),
    )  # fmt: skip


def _settings(job: Job) -> dict[str, Any]:
    """What makes a result another one; where it lies does not."""
    config = _config(replace(job, out=Path("/")), "cohort.csv")
    return {key: value for key, value in to_dict(config).items() if key not in ("store", "store_gb", "reading")}


def _table_of(job: Job) -> pd.DataFrame:
    """The fold's table with a split column, thinned."""
    table = pd.read_csv(TABLE).dropna(subset=["suspicious"])
    keep = ["case_id", "image", "suspicious", "patient_id", "x_mm", "y_mm", "z_mm"]
    table = table[keep].assign(
        image=[str((TABLE.parent / image).resolve()) for image in table["image"]],
        suspicious=table["suspicious"].astype(int),
    )
    cohort = Cohort.read(TABLE, CohortConfig(columns=COLUMNS, unlabelled="drop"))
    parts = split(cohort, SplitConfig(folds=FOLDS, fold=job.thinning % FOLDS, val=VAL, seed=job.thinning // FOLDS))
    table["split"] = table["case_id"].map(parts)
    kept = [_thinned(part, job) if name != "test" else part for name, part in table.groupby("split")]
    return pd.concat(kept).sort_values("case_id")


def _thinned(part: pd.DataFrame, job: Job) -> pd.DataFrame:
    """Only so many patients keep their suspicious nodules that these are the share of all that is asked for."""
    positive = part["suspicious"] == 1
    most = round(job.rate / (1 - job.rate) * int((~positive).sum()))
    patients = sorted(part.loc[positive, "patient_id"].unique())
    name = str(part["split"].iloc[0])
    order = generator(job.thinning, "thinning", name).permutation(len(patients))  # rarer is a part of less rare
    chosen: list[str] = []
    count = 0
    for patient in (patients[i] for i in order):
        here = int((positive & (part["patient_id"] == patient)).sum())
        if count + here <= most:
            chosen.append(patient)
            count += here
    return part[~positive | part["patient_id"].isin(chosen)]


def _prepare_store(job: Job) -> None:
    """All nodules once, so that the workers only read them."""
    from hilum.cohorts.prepared import prepare_cohort
    from hilum.preparing import Store

    config = _config(job, str(TABLE))
    cohort = Cohort.read(TABLE, replace(config.cohort, unlabelled="drop"))
    prepare_cohort(cohort, config.recipe, Store(Path(config.store), config.reading))


def _logits_of(model: Path, config: RunConfig) -> dict[str, Any]:
    """Logits, labels and patients (numbered) of the validation and the test part."""
    from hilum.cohorts.dataset import CohortDataset
    from hilum.cohorts.prepared import prepare_cohort
    from hilum.deciding.inference import case_logits
    from hilum.predicting import Predictor
    from hilum.preparing import Store

    cohort = Cohort.read(config.cohort.table, config.cohort)
    prepared = prepare_cohort(cohort, config.recipe, Store(Path(config.store), config.reading), workers=1)
    parts = {case.case_id: str(case.split) for case in cohort.cases}
    predictor = Predictor(model, device="cpu")
    answer: dict[str, Any] = {"counts": {}}
    for part in ("train", "val", "test"):
        dataset = CohortDataset(prepared, parts, part, 2, config.recipe)
        patients = [prepared.cases[i].patient_id for i in dataset.indices]
        answer["counts"][part] = [len(dataset), int(dataset.labels.sum()), len(set(patients))]
        if part == "train":
            continue
        samples = [dataset[i] for i in range(len(dataset))]
        logits = case_logits(predictor.network, samples, config.recipe, predictor.device)
        answer[part] = {
            "labels": dataset.labels.tolist(),
            "patients": np.unique(patients, return_inverse=True)[1].tolist(),
            "logits": logits.double().tolist(),
        }
    return answer


# what is kept


def _file(job: Job) -> Path:
    return job.out / f"{job.name}.json"


def _is_done(job: Job) -> bool:
    if not _file(job).is_file():
        return False
    if json.loads(_file(job).read_text())["settings"] != json.loads(json.dumps(_settings(job))):
        sys.exit(f"{_file(job)} was trained with other settings: give another --out, or remove it")
    return True


def _read(job: Job) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_file(job).read_text())
    return found


# the figures


def _figures(job: Job) -> dict[str, float]:
    """Of one training, on its test part."""
    found = _read(job)
    labels, logits = (np.array(found["test"][key]) for key in ("labels", "logits"))
    z = logits[:, 1] - logits[:, 0]
    positive = float(labels.mean())
    cases, positives, _ = found["counts"]["train"]
    calibrations = {"plain": Calibration(prevalence=(1 - positives / cases, positives / cases))}
    on = {key: np.array(found["val"][key]) for key in ("labels", "logits")}
    for method in ("temperature", "platt"):
        try:
            calibrations[method] = fit_calibration(on["logits"], on["labels"], method=method)
        except CohortError:  # fewer than 5 positives
            continue
    probs = {name: one.at((1 - positive, positive)).probabilities(logits)[:, 1] for name, one in calibrations.items()}
    return {
        "auc": roc_auc(labels, z),
        "ap": average_precision(labels, z),
        "sens_at_90": _sensitivity(labels, z),
        **{f"ece_{name}": expected_calibration_error(labels, p) for name, p in probs.items()},
        "floor": ece_floor(probs.get("platt", probs["plain"]), seed=job.thinning),
        "tests_by_training": len(labels) / cases,
    }


def _sensitivity(labels: Int[np.ndarray, " n"], z: Float[np.ndarray, " n"]) -> float:
    """The largest at a specificity of at least 90 %."""
    false_rate, true_rate = roc_curve(labels, z)
    return float(true_rate[false_rate <= 0.1 + 1e-12].max())


def _half_width(values: list[float], tests_by_training: float) -> float:
    """Of the mean over thinnings; the folds' training parts overlap, so they are not as many as they seem."""
    error = statistics.stdev(values) * math.sqrt(1 / len(values) + tests_by_training)
    return float(t.ppf(0.975, len(values) - 1)) * error


def _interval(values: list[float], tests_by_training: float) -> list[float] | None:
    """Of a difference."""
    if len(values) < 2:
        return None
    mean, half = statistics.mean(values), _half_width(values, tests_by_training)
    return [mean - half, mean + half]


def _share_interval(values: list[float], tests_by_training: float) -> list[float] | None:
    """Of a figure between 0 and 1: on the logit scale, as in ``hilum.measuring.intervals``."""
    mean = _mean(values)
    if mean is None or len(values) < 2 or not 0 < mean < 1:
        return None
    logit, half = math.log(mean / (1 - mean)), _half_width(values, tests_by_training) / (mean * (1 - mean))
    return [1 / (1 + math.exp(half - logit)), 1 / (1 + math.exp(-half - logit))]


def _rows(rate: float, arms: list[str], thinnings: int, job: Job) -> list[dict[str, Any]]:
    each = {
        arm: [_figures(replace(job, arm=arm, rate=rate, thinning=thinning)) for thinning in range(thinnings)]
        for arm in arms
    }
    rows = []
    ratio = statistics.mean(one["tests_by_training"] for one in each[arms[0]])
    for arm, found in each.items():
        row: dict[str, Any] = {"rate": rate, "arm": arm, "method": ARMS[arm].method}
        for name in FIGURES:
            pairs = [(a[name], b[name]) for a, b in zip(found, each[arms[0]], strict=True) if name in a and name in b]
            values, differences = [a for a, _ in pairs], [a - b for a, b in pairs]
            row[name] = {"mean": _mean(values), "ci": _share_interval(values, ratio), "each": values}
            if arm != arms[0]:
                row[name] |= {"difference": _mean(differences), "difference_ci": _interval(differences, ratio)}
        rows.append(row)
    return rows


def _mean(values: list[float]) -> float | None:
    """None where nothing could be fitted in any thinning."""
    return statistics.mean(values) if values else None


def _cohorts(jobs: list[Job]) -> list[dict[str, Any]]:
    """Cases, suspicious ones and patients of each part of each thinning."""
    of_cohort = {(job.rate, job.thinning): _read(job)["counts"] for job in jobs}
    return [{"rate": rate, "thinning": thinning, **counts} for (rate, thinning), counts in of_cohort.items()]


def _show(result: dict[str, Any]) -> None:
    names = ("PR-AUC", "sens@90", "ECE", "temp.", "Platt", "floor")
    for rate in dict.fromkeys(row["rate"] for row in result["rows"]):
        here = [one["train"] for one in result["cohorts"] if one["rate"] == rate]
        train = ", ".join(f"{positives} of {cases}" for cases, positives, _ in here)
        print(f"\n{rate:.0%} suspicious in training and validation; {len(here)} thinnings, training {train}")
        print(f"{'':<16}{'AUC':>7}  {'difference':<25}" + "".join(f"{name:>9}" for name in names))
        for row in (row for row in result["rows"] if row["rate"] == rate):
            auc = row["auc"]
            ci = auc.get("difference_ci")
            moved = f"{auc['difference']:+.3f} ({ci[0]:+.3f} to {ci[1]:+.3f})" if ci else ""
            means = [row[name]["mean"] for name in FIGURES[1:]]
            others = "".join(f"{'-':>9}" if mean is None else f"{mean:>9.3f}" for mean in means)
            print(f"{row['arm']:<16}{auc['mean']:>7.3f}  {moved:<25}{others}")


if __name__ == "__main__":
    main()
