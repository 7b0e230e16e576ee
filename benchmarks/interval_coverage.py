"""How often the 95 % intervals hold the truth, and how often tests of no difference are significant, by simulation.

    python benchmarks/interval_coverage.py [--quick] [--runs 2000] [--workers 1] [--seed 0] [--out FILE] [--json]

A study has 60, 120 or 400 patients of 1 to 5 cases (equally often), AUC 0.75, 0.90 or 0.97, prevalence 0.1 or 0.3.

- Labels: each patient has one, drawn with the prevalence; each case takes its patient's with probability sqrt(0.5),
  else one of its own. So any case is positive with exactly the prevalence, and two of a patient correlate by 0.5.
- Scores: d times the label, plus noise of variance 1, half of which all cases of a patient share, and which does not
  depend on labels. So the scores of any case given its label are normal with variance 1.
- Hence the truth. AUC, of cases of two different patients, is Phi(d / sqrt(2)), which sets d. (Among pairs of one
  patient it is higher; they are less than 1 % of all pairs even with 60 patients.) Sensitivity at the threshold
  d - Phi^-1(0.8) is 0.8. The probability is that of a positive given the score, whose log odds are
  log(prevalence / (1 - prevalence)) + d score - d^2 / 2: the calibration line has intercept 0 and slope 1.
- In the cells of 60 and 120 patients a second model has the same curve; its noise, of patients and of cases, correlates
  with that of the first by 0.5. Their difference is 0.

Each study gives the intervals of ``with_intervals`` (200 resamples), those of ``obuchowski`` and, for contrast, of
``delong``; with 60 or 120 patients also those of the calibration line and of the difference, and the p-values of
``compare_ratings``, beside that of the z test. A figure that does not exist in a study, as without a positive, is
counted and left out.

The counts are written after every 100 studies of a cell, and the same command goes on from there. With --quick nothing
is written unless --out is given.
"""

import argparse
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import NormalDist
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
from machine import line, machine

from hilum.measuring.agreement import calibration_line_intervals
from hilum.measuring.bootstrap import Figure
from hilum.measuring.comparison import Rating, areas_test, compare_ratings
from hilum.measuring.intervals import with_intervals
from hilum.measuring.roc_variance import delong, obuchowski
from hilum.randomness import generator

RESULTS = Path(__file__).parent / "results" / "interval_coverage.json"
RESAMPLES = 200
SHARED, LABEL_CORRELATION, MODEL_CORRELATION, SENSITIVITY = 0.5, 0.5, 0.5, 0.8
CHUNK = 100
PAIRED = (60, 120)
NORMAL = NormalDist()
TESTS = ("equal_areas", "equal_curves", "equal_areas_z")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One kind of study."""

    auc: float
    patients: int
    prevalence: float

    @property
    def name(self) -> str:
        return f"auc {self.auc:.2f}, {self.patients} patients, prevalence {self.prevalence:.1f}"

    @property
    def distance(self) -> float:
        """Between the means of the scores of positives and negatives."""
        return math.sqrt(2) * NORMAL.inv_cdf(self.auc)


CELLS = [Cell(auc=a, patients=n, prevalence=p) for a, n, p in product((0.75, 0.90, 0.97), (60, 120, 400), (0.1, 0.3))]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Simulated cases: labels, probabilities by two models with equal curves, and patients."""

    y: np.ndarray
    first: np.ndarray
    second: np.ndarray
    patients: list[str]
    threshold: float


def simulate(cell: Cell, rng: np.random.Generator) -> Study:
    """Draw one study."""
    of = np.repeat(np.arange(cell.patients), rng.integers(1, 6, cell.patients))
    own, patients_own = rng.random(len(of)) < cell.prevalence, rng.random(cell.patients) < cell.prevalence
    y = np.where(rng.random(len(of)) < math.sqrt(LABEL_CORRELATION), patients_own[of], own).astype(np.int64)
    noise = [
        math.sqrt(SHARED) * rng.normal(size=cell.patients)[of] + math.sqrt(1 - SHARED) * rng.normal(size=len(of))
        for _ in range(2)
    ]
    noise[1] = MODEL_CORRELATION * noise[0] + math.sqrt(1 - MODEL_CORRELATION**2) * noise[1]
    d, odds = cell.distance, math.log(cell.prevalence / (1 - cell.prevalence))
    first, second = (1 / (1 + np.exp(-(odds + d * (d * y + one) - d**2 / 2))) for one in noise)
    at = odds + d * (d - NORMAL.inv_cdf(SENSITIVITY)) - d**2 / 2
    return Study(y=y, first=first, second=second, patients=[f"P{k}" for k in of], threshold=1 / (1 + math.exp(-at)))


def judged(cell: Cell, study: Study, seed: int) -> Iterator[tuple[str, bool | None]]:
    """Whether each interval holds the truth, and whether each test is significant; None: it does not exist."""
    y, p, of = study.y, study.first, study.patients
    figures = with_intervals(y, p, threshold=study.threshold, patients=of, seed=seed, num_resamples=RESAMPLES)
    yield "auc", _holds(figures["auc"], cell.auc)
    yield "sensitivity", _holds(figures["sensitivity"], SENSITIVITY)
    yield "auc_obuchowski", _holds(obuchowski(y, p, patients=of).figures[0], cell.auc)
    yield "auc_delong", _holds(delong(y, p).figures[0], cell.auc)
    if cell.patients not in PAIRED:
        return
    calibrated = calibration_line_intervals(y, p, patients=of)
    yield "slope", _holds(calibrated.slope, 1.0)
    yield "intercept", _holds(calibrated.intercept, 0.0)
    compared = compare_ratings(
        y, Rating(values=p), Rating(values=study.second), patients=of, seed=seed, num_resamples=RESAMPLES
    )
    yield "auc_difference", _holds(compared.differences["auc"], 0.0)
    error = areas_test(y, p, study.second, patients=of).error
    z = compared.differences["auc"].value / error if error > 0 else math.nan
    p_values = (compared.p_areas, compared.p_curves, 2 * NORMAL.cdf(-abs(z)))
    for name, value in zip(TESTS, p_values, strict=True):
        yield name, None if math.isnan(value) else value <= 0.05


def _holds(figure: Figure, truth: float) -> bool | None:
    return None if math.isnan(figure.low) else figure.low <= truth <= figure.high


def run_chunk(cell: Cell, first: int, stop: int, seed: int) -> dict[str, int]:
    """Counts of the studies from first up to stop: of each figure those that exist, and those that hold."""
    counts: Counter[str] = Counter()
    for number in range(first, stop):
        study = simulate(cell, generator(seed, "coverage", cell.name, number))
        for name, holds in judged(cell, study, number):
            counts[f"{name} missing"] += holds is None
            counts[f"{name} there"] += holds is not None
            counts[f"{name} true"] += bool(holds)
    return dict(counts)


def summary(counts: dict[str, int]) -> dict[str, dict[str, float]]:
    """Shares with their Monte Carlo standard error, and numbers of studies without the figure."""
    found = {}
    for name in (key.removesuffix(" there") for key in counts if key.endswith(" there")):
        there, share = counts[f"{name} there"], math.nan
        if there:
            share = counts[f"{name} true"] / there
        error = math.sqrt(share * (1 - share) / there) if there else math.nan
        found[name] = {"share": round(share, 4), "error": round(error, 4), "missing": counts[f"{name} missing"]}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ten studies of each kind")
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    runs = 10 if args.quick else args.runs
    out = args.out or (None if args.quick else RESULTS)
    found = machine("scipy")
    print(line(found), flush=True)
    settings = {"seed": args.seed, "resamples": RESAMPLES, "chunk": CHUNK}
    state: dict[str, Any] = {"settings": settings, "machine": found, "seconds": 0.0, "cells": {}}
    if out is not None and out.exists():
        state = json.loads(out.read_text())
        if state["settings"] != settings:
            sys.exit(f"{out} has other settings, {state['settings']}: remove it, or name another --out")
    for cell in CELLS:
        state["cells"].setdefault(cell.name, {"chunks": [], "counts": {}})
    left = [
        (cell, first, min(first + CHUNK, runs))
        for cell in CELLS
        for first in range(0, runs, CHUNK)
        if [first, min(first + CHUNK, runs)] not in state["cells"][cell.name]["chunks"]
    ]
    left.sort(key=lambda chunk: chunk[1])  # all cells grow together, so that a look at any time shows all
    for (cell, first, stop), counts, seconds in _done(left, args.seed, args.workers):
        kept = state["cells"][cell.name]
        kept["chunks"].append([first, stop])
        kept["counts"] = {name: kept["counts"].get(name, 0) + count for name, count in counts.items()}
        kept["summary"] = summary(kept["counts"])
        state["seconds"] = round(state["seconds"] + seconds, 1)
        if out is not None:
            new = out.with_suffix(".new")
            new.write_text(json.dumps(state, indent=1) + "\n")
            new.replace(out)
    _print(state)
    if args.json:
        print(json.dumps(state))


def _done(left: list[tuple[Cell, int, int]], seed: int, workers: int) -> Iterator[tuple[Any, dict[str, int], float]]:
    """Each chunk with its counts and seconds."""
    jobs = [(*chunk, seed) for chunk in left]
    if workers <= 1:
        yield from ((chunk, *_timed(job)) for chunk, job in zip(left, jobs, strict=True))
        return
    with ProcessPoolExecutor(workers) as pool:
        for chunk, answer in zip(left, pool.map(_timed, jobs), strict=True):
            yield chunk, *answer


def _timed(job: tuple[Cell, int, int, int]) -> tuple[dict[str, int], float]:
    started = time.perf_counter()
    return run_chunk(*job), time.perf_counter() - started


def _print(state: dict[str, Any]) -> None:
    for name, kept in state["cells"].items():
        runs = sum(stop - first for first, stop in kept["chunks"])
        print(f"{name}: {runs} studies")
        for figure, one in kept.get("summary", {}).items():
            what = "significant in" if figure in TESTS else "held in"
            missing = f", not there in {one['missing']}" if one["missing"] else ""
            print(f"    {figure:15} {what} {100 * one['share']:5.1f} ± {100 * one['error']:.1f} %{missing}")
    print(f"{state['seconds'] / 60:.1f} minutes of one core")


if __name__ == "__main__":
    main()
