"""Whether bands and conformal sets are wrong as seldom as they say: simulated scores, and LIDC nodules out of fold.

    python benchmarks/abstaining.py [--run runs/lidc-folds] [--jobs 2] [--quick] [--json]

Simulated: 2,000 scans, of one scan or one to five scans a patient, whose scores share half of their chance; the rest
is a logistic model. Sets and bands are fitted on them, and counted on 2,000 others, one scan of each patient; 200
times. ``inside``: share of the fits whose coverage lies within its beta-binomial interval of 95 %.

LIDC: the predictions of ``--run``, a run of folds of configs/lidc_nodules.toml (trained here with one seed if it is not
there, about an hour on two cores). Patients are halved at random 200 times; sets and bands are fitted on one half and
counted on the other. Intervals hold 95 of 100 halvings.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from machine import DATA, ROOT, line, machine

from hilum.cohorts.table import Cohort
from hilum.errors import CohortError
from hilum.measuring.abstaining import choose_band, coverage_ends, fit_sets, one_each
from hilum.training.out_of_fold import read_out_of_fold
from hilum.training.run_folder import Run

HILUM = "import sys; from hilum.cli import main; sys.exit(main(sys.argv[1:]))"
ERRORS = (0.05, 0.1, 0.2)
FITS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "lidc-folds")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="five fits of simulated scores alone: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = machine("scipy")
    print(line(found), flush=True)
    fits = 5 if args.quick else FITS
    rows = [_simulated(scans, error, fits) for scans in ((1, 1), (1, 5)) for error in ERRORS]
    if not args.quick:
        _train(args.run, args.jobs)
        rows += [_lidc(args.run, error, fits) for error in ERRORS]
    for row in rows:
        print(_line(row))
    if args.json:
        print(json.dumps({"rows": rows, "machine": found}))


def _simulated(scans: tuple[int, int], error: float, fits: int) -> dict[str, Any]:
    covered, inside, wrong, singles, decided = [], [], [], [], []
    for seed in range(fits):
        rng = np.random.default_rng(seed)
        y, p, owners = _scores(rng, scans)
        new_y, new_p, new_owners = _scores(rng, scans)
        first = one_each(new_y, new_owners)
        new_y, new_p = new_y[first], new_p[first]
        sets, counts = fit_sets(y, _two(p), error=error, patients=owners), _counts(new_y)
        one = _counted(y, p, owners, new_y, new_p, error)
        ends = [coverage_ends(n, error, m) for n, m in zip(sets.patients, counts, strict=True)]
        inside += [low <= share <= high for (low, high), share in zip(ends, one["covered"], strict=True)]
        covered.append(one["covered"])
        wrong.append(one["wrong"])
        singles.append(one["singles"])
        decided.append(one["decided"])
    return {
        "what": f"2,000 simulated scans, {scans[0]} to {scans[1]} a patient",
        "error": error,
        "inside": float(np.mean(inside)),
        **_ends(covered, wrong, singles, decided),
    }


def _scores(
    rng: np.random.Generator, scans: tuple[int, int]
) -> tuple[Int[np.ndarray, " n"], Float[np.ndarray, " n"], list[str]]:
    """Labels, probabilities and patients of 2,000 scans."""
    labels: list[int] = []
    odds: list[float] = []
    owners: list[str] = []
    while len(labels) < 2000:
        label, own = int(rng.random() < 0.3), rng.normal()
        for _ in range(int(rng.integers(scans[0], scans[1] + 1))):
            labels.append(label)
            odds.append(2.0 * label - 1.0 + (own + rng.normal()) / 2**0.5)
            owners.append(f"p{own}")
    return np.array(labels), 1 / (1 + np.exp(-np.array(odds))), owners


def _train(run: Path, jobs: int) -> None:
    """Train the folds as a user would, or go on where they were broken off."""
    state = Run(run).state
    if state == "whole":
        return
    if not (DATA / "lidc-nodules").is_dir():
        sys.exit("no lidc-nodules: HILUM_DATA must name the folder with the shared data")
    flags = ["--cohort.table", str(DATA / "lidc-nodules" / "nodules.csv"), "--folds", "5", "--seeds", "1"]
    flags += ["--jobs", str(jobs), "--out", str(run), *(["--resume"] if state == "begun" else [])]
    call = [sys.executable, "-c", HILUM, "train", str(ROOT / "configs" / "lidc_nodules.toml"), *flags]
    subprocess.run(call, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"})


def _lidc(folder: Path, error: float, fits: int) -> dict[str, Any]:
    run = Run(folder)
    cohort = Cohort.read(run.table, run.settings.cohort)
    found = read_out_of_fold(run.cases_file, cohort.classes, multi_label=False)
    cases = {case.case_id: case for case in cohort.labelled}
    known = [n for n, case_id in enumerate(found.case_ids) if case_id in cases]
    y = np.array([cases[found.case_ids[n]].label for n in known], int)
    owners = [cases[found.case_ids[n]].patient_id for n in known]
    p = found.probs[known, 1]
    patients, counted = sorted(set(owners)), []
    for seed in range(fits):
        chosen = set(np.random.default_rng(seed).permutation(patients)[: len(patients) // 2].tolist())
        half = np.array([owner in chosen for owner in owners])
        fitted_on = [owner for owner in owners if owner in chosen]
        others = [owner for owner in owners if owner not in chosen]
        first = one_each(y[~half], others)
        try:
            counted.append(_counted(y[half], p[half], fitted_on, y[~half][first], p[~half][first], error))
        except CohortError as exc:
            return {"what": "LIDC nodules out of fold", "error": error, "refused": exc.message}
    columns = ([one[name] for one in counted] for name in ("covered", "wrong", "singles", "decided"))
    return {
        "what": f"LIDC nodules out of fold, {len(y)} of {len(patients)} patients",
        "error": error,
        **_ends(*columns),
    }


def _counted(
    y: Int[np.ndarray, " n"],
    p: Float[np.ndarray, " n"],
    owners: Sequence[str],
    new_y: Int[np.ndarray, " m"],
    new_p: Float[np.ndarray, " m"],
    error: float,
) -> dict[str, Any]:
    """What sets and a band do on new cases, by class, and how many they decide."""
    sets = fit_sets(y, _two(p), error=error, patients=owners)
    band = choose_band(y, p, threshold=0.5, error=error, coverage=0.0, patients=owners)
    members = sets.members(_two(new_p))
    against = np.where(new_y == 1, new_p < band.low, new_p > band.high)
    return {
        "covered": [float(members[new_y == k, k].mean()) for k in (0, 1)],
        "wrong": [float(against[new_y == k].mean()) for k in (0, 1)],
        "singles": float((members.sum(axis=1) == 1).mean()),
        "decided": 1 - float(band.holds(new_p).mean()),
    }


def _ends(covered: Any, wrong: Any, singles: Any, decided: Any) -> dict[str, Any]:
    """Means over the fits with the range of 95 of 100."""
    found = {}
    for name, values in (("covered", covered), ("wrong", wrong), ("singles", singles), ("decided", decided)):
        array = np.array(list(values))
        found[name] = np.mean(array, axis=0).tolist()
        found[f"{name}_ci"] = np.percentile(array, [2.5, 97.5], axis=0).T.tolist()
    return found


def _two(p: Float[np.ndarray, " n"]) -> Float[np.ndarray, "n 2"]:
    return np.stack([1 - p, p], axis=1)


def _counts(y: Int[np.ndarray, " n"]) -> tuple[int, int]:
    return int((y == 0).sum()), int((y == 1).sum())


def _line(row: dict[str, Any]) -> str:
    begin = f"{row['what']}, error {row['error']:g}: "
    if "refused" in row:
        return begin + row["refused"]
    sets, wrong = (
        " and ".join(f"{m:.3f} ({a:.3f} to {b:.3f})" for m, (a, b) in zip(row[name], row[f"{name}_ci"], strict=True))
        for name in ("covered", "wrong")
    )
    inside = f", {row['inside']:.0%} within beta-binomial" if "inside" in row else ""
    return (
        f"{begin}sets cover {sets} of negatives and positives{inside}, {row['singles']:.0%} hold one class; "
        f"a band decides {wrong} of them wrongly, and {row['decided']:.0%} at all"
    )


if __name__ == "__main__":
    main()
