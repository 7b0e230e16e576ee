"""Another scanner: calibration of the demo's model on simulated chests of a site that it never saw, before and after.

    python benchmarks/recalibrate.py [--run runs/demo/run] [--cases 600] [--quick] [--json]

The other site's scanner has a sharp kernel, three times the noise, and HU that lie 40 too high. Half of its patients
recalibrate the model (rows with split = val), the other half judge both models (split = test). Demanded is that the
interval of the old model's slope excludes 1 or that of its intercept excludes 0, and that the new model's do neither.
The run is trained first if it is not there (scripts/demo).
"""

import argparse
import csv
import json
import logging
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from machine import line, machine

import hilum
from hilum.demo import demo
from hilum.files import cores, csv_text
from hilum.randomness import generator
from hilum.simulating import plan_cohort, simulate_scan
from hilum.simulating.anatomy import sample_anatomy
from hilum.simulating.lesions import sample_disease
from hilum.simulating.scanner import sample_scanner
from hilum.working.tasks import run_tasks

ROOT = Path(__file__).parents[1]
SEED, PIXEL_MM, OFFSET_HU = 2026, 2.0, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "demo" / "run")
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--quick", action="store_true", help="120 cases: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    found = machine("torch")
    print(line(found))
    if not (args.run / "model" / "model.json").exists():
        demo(args.run.parent)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        table = _simulated(folder, 120 if args.quick else args.cases)
        before = hilum.evaluate(args.run, table, folder / "before", store=folder / "store")
        fitted = hilum.recalibrate(args.run, table, folder / "new", store=folder / "store")
        after = hilum.evaluate(folder / "new", table, folder / "after", store=folder / "store")
        hilum.evaluate(args.run, table, folder / "again", store=folder / "store")
        same = _decisions(folder / "before") == _decisions(folder / "again")
    rows = [{"row": "as trained", **_figures(before)}, {"row": "recalibrated", **_figures(after)}]
    for row in rows:
        print(
            f"{row['row']:<13} {row['num_cases']} cases: AUC {row['auc']:.3f}, Brier {row['brier']:.3f}, "
            + ", ".join(f"{name} {_shown(row[f'calibration_{name}'])}" for name in ("slope", "intercept"))
            + f", sensitivity {row['sensitivity']:.3f}, specificity {row['specificity']:.3f}"
        )
    wrong, right = (_excludes(row) for row in rows)
    print(f"as trained: interval excludes {wrong or 'neither 1 nor 0'}; recalibrated: {right or 'neither'}")
    print(f"decisions of the old model unchanged: {same}")
    if args.json:
        counts = {"fitted_on": fitted["counts"], "old_decisions_unchanged": same}
        print(json.dumps({"rows": rows, "ratios": {}, **counts, "machine": found}))


def _simulated(folder: Path, number: int) -> Path:
    """Scans of the other site with their table; patients alternate between recalibrating and judging."""
    cases = plan_cohort(number, seed=SEED, diseased=0.3)
    (folder / "scans").mkdir()
    jobs = [(case, folder / "scans" / f"{case.case_id}.nii.gz") for case in cases]
    list(run_tasks(_write, jobs, workers=cores()))
    patients = sorted({case.patient_id for case in cases})
    rows = [
        (
            c.case_id,
            f"scans/{c.case_id}.nii.gz",
            c.label,
            c.patient_id,
            ("val", "test")[patients.index(c.patient_id) % 2],
        )
        for c in cases
    ]
    table = folder / "site.csv"
    table.write_text(csv_text([("case_id", "path", "label", "patient_id", "split"), *rows]))
    return table


def _write(job: tuple[Any, Path]) -> None:
    case, path = job
    anatomy = sample_anatomy(generator(SEED, case.patient_id, "anatomy"))
    scanner = sample_scanner(
        generator(SEED, case.case_id, "scanner"), pixel_mm=PIXEL_MM, pixels=round(384 / PIXEL_MM), thin=False
    )
    scanner = replace(scanner, kernel="sharp", noise_hu=3 * scanner.noise_hu, padding=False)
    lesions = sample_disease(anatomy, case.disease, rng=generator(SEED, case.patient_id, "lesions"))
    volume, _ = simulate_scan(SEED, key=case.case_id, anatomy=anatomy, lesions=lesions, scanner=scanner)
    hu = np.clip(volume.voxels_hu.astype(np.int32) + OFFSET_HU, -1024, 3071).astype(np.int16)
    replace(volume, voxels_hu=hu).write(path)


def _figures(answer: dict[str, Any]) -> dict[str, Any]:
    names = ("auc", "brier", "calibration_slope", "calibration_intercept", "sensitivity", "specificity", "threshold")
    found = {"num_cases": answer["num_cases"], "num_positives": answer["num_positives"]}
    for name in names:
        found[name] = answer[name]
        if f"{name}_ci" in answer:
            found[f"{name}_ci"] = answer[f"{name}_ci"]
    shown = {name: [found[name], *found[f"{name}_ci"]] for name in ("calibration_slope", "calibration_intercept")}
    return found | shown


def _shown(figure: list[float]) -> str:
    return "{:.3f} ({:.3f} to {:.3f})".format(*figure)


def _excludes(row: dict[str, Any]) -> str:
    """Names of the figures whose interval does not hold the right value."""
    ideal = {"slope": 1.0, "intercept": 0.0}
    ends = {name: row[f"calibration_{name}"][1:] for name in ideal}
    return " and ".join(f"{name} {ideal[name]:g}" for name, (a, b) in ends.items() if not a <= ideal[name] <= b)


def _decisions(folder: Path) -> list[tuple[str, str]]:
    with (folder / "cases.csv").open(newline="") as file:
        return [(row["case_id"], row["decision"]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
