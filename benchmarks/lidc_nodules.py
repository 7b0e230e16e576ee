"""Real CT: trains configs/lidc_nodules.toml on one fold and judges it beside the diameter and the crop's shape alone.

    python benchmarks/lidc_nodules.py [--fold 0] [--out runs/lidc] [--quick] [--json]

Takes about ten minutes a fold on two cores. A run that was broken off is resumed. The data are looked for at
HILUM_DATA or ../shared/data.
"""

import argparse
import csv
import json
import logging
import os
import platform
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from hilum import evaluate, read, train
from hilum.cohorts.table import Cohort
from hilum.measuring.intervals import with_intervals
from hilum.settings.toml import load
from hilum.volume import crop

ROOT = Path(__file__).parents[1]
DATA = Path(os.environ.get("HILUM_DATA", ROOT.parent / "shared" / "data"))
POINT_0314 = (-57.44, 131.23, -520.36)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "lidc")
    parser.add_argument("--quick", action="store_true", help="one epoch, in another folder: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    out = args.out.with_name(f"{args.out.name}-quick") if args.quick else args.out
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    config = load(ROOT / "configs" / "lidc_nodules.toml")
    table = DATA / "lidc-nodules" / "nodules.csv"
    config = replace(
        config,
        cohort=replace(config.cohort, table=str(table.resolve())),
        split=replace(config.split, fold=args.fold),
        store=str((ROOT / "runs" / "store").resolve()),
    )
    if args.quick:
        config = replace(config, training=replace(config.training, epochs=1))
    started = time.perf_counter()
    if not (out / "model" / "model.json").exists():
        train(config, out, base="/", resume=(out / "last").is_dir())
    minutes = (time.perf_counter() - started) / 60
    answer = evaluate(out / "model", None, out / "evaluation")

    cohort = Cohort.read(table, config.cohort)
    with (out / "evaluation" / "cases.csv").open(newline="") as file:
        tested = {row["case_id"] for row in csv.DictReader(file)}
    cases = [case for case in cohort.cases if case.case_id in tested]
    labels = np.array([case.label for case in cases], int)
    patients = [case.patient_id for case in cases]
    alone = {
        "diameter": np.array([float(case.groups["diameter_mm"]) for case in cases]),
        "crop_z_extent": np.array([read(case.path).extent_mm[0] for case in cases]),
    }
    rows = [{"row": "hilum", "auc": answer["auc"], "ci": answer["auc_ci"]}]
    for name, values in alone.items():
        unit = values / values.max()
        figure = with_intervals(labels, unit, threshold=0.5, patients=patients)["auc"]
        rows.append({"row": name, "auc": figure.value, "ci": [figure.low, figure.high]})
    result = {
        "fold": args.fold,
        "num_cases": answer["num_cases"],
        "num_positives": answer["num_positives"],
        "num_patients": answer["num_patients"],
        "rows": rows,
        "evaluation": {k: answer[k] for k in answer if k in FIGURES or k.removesuffix("_ci") in FIGURES},
        "lidc_0314": _cut(out / "model") if (DATA / "lidc-0314").is_dir() else None,
        "minutes": round(minutes, 1),
        "machine": {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine(), "torch": torch.__version__},
    }
    print(f"\nfold {args.fold}: {len(cases)} nodules of {answer['num_patients']} patients, {labels.sum()} suspicious")
    for row in rows:
        print(f"  {row['row']:<14} AUC {row['auc']:.3f} ({row['ci'][0]:.3f} to {row['ci'][1]:.3f})")
    print(f"  trained in {minutes:.1f} minutes" if minutes > 0.5 else "  (trained before)")
    for name, probability in (result["lidc_0314"] or {}).items():
        print(f"  lidc-0314, {name}: P = {probability:.3f}")
    if args.json:
        print(json.dumps(result))


FIGURES = {
    "accuracy", "auc", "average_precision", "sensitivity", "specificity", "ppv", "npv", "balanced_accuracy", "f1",
    "brier", "threshold",
}  # fmt: skip


def _cut(model: Path) -> dict[str, float]:
    """The nodule of a whole scan, which must not depend on how much of the scan there is above and below it."""
    from hilum import Predictor

    predictor, scan = Predictor(model), read(DATA / "lidc-0314")
    _, rows, columns = scan.shape
    middle = scan.mm_to_index(POINT_0314)[0]
    found = {"whole scan": predictor.predict(scan, point_mm=POINT_0314).probabilities["1"]}
    for mm in (26, 12, 8):
        low, high = (round(middle + side * mm / 2 / scan.spacing_mm[0]) for side in (-1, 1))
        part = crop(scan, (low, 0, 0), (high, rows, columns))
        found[f"{mm} mm of it"] = predictor.predict(part, point_mm=POINT_0314).probabilities["1"]
    return found


if __name__ == "__main__":
    main()
