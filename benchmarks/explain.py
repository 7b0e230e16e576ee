"""Whether maps lie where the model looks: simulated chests with one mass each, of which every voxel is known.

    python benchmarks/explain.py [--jobs 2] [--out runs/explain] [--quick] [--json]

Trains a model on 1,200 chests at 3 mm, half of them with a mass of 20 to 35 mm, and explains 400 new chests with a mass
and 60 healthy ones. ``hit``: share of the true positives whose map peaks within the mass plus 10 mm. ``deletion``:
share of them whose map, deleted cube by cube, lowers the log odds more than random orders do. ``distractor``: share of
the true positives with a benign lesion, and of the false positives with one, whose map peaks within such a lesion plus
10 mm. ``lost weights``: the default map of a new network, with random weights, of every fourth chest, beside a random
voxel within the lungs. The other methods are of every second chest. All intervals are Wilson's, 95 %. What was broken
off is resumed; about an hour and a half on two cores.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from chests import RECIPE, Chest, simulate, train_model
from machine import ROOT, line, machine, need
from scipy import ndimage

from hilum.measuring.bootstrap import wilson
from hilum.measuring.metrics import roc_auc
from hilum.predicting import Predictor
from hilum.predicting.explain import ExplainConfig, HeatMap, explain
from hilum.predicting.explain.check import deletion_gain, randomised
from hilum.predicting.explain.explainer import maps_of, odds_of_sample
from hilum.predicting.explain.occlusion import patch_of
from hilum.preparing import prepare
from hilum.simulating import Truth
from hilum.volume import Volume

METHODS = ("occlusion", "hirescam", "integrated-gradients")
MARGIN_MM = 10.0
CHESTS = (400, 60)
"""Chests with a mass, and healthy ones."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "explain")
    parser.add_argument("--quick", action="store_true", help="40 chests, one epoch, four maps: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    need("captum")
    found = machine("torch", "captum")
    print(line(found), flush=True)
    out = args.out.with_name(f"{args.out.name}-quick") if args.quick else args.out
    num_train, epochs, (ill, healthy) = (40, (1, 1), (2, 2)) if args.quick else (1200, (16, 6), CHESTS)
    run = train_model(out, num_train, epochs, args.jobs)
    chests = [Chest(part="test", number=i, diseased=True) for i in range(ill)]
    chests += [Chest(part="test", number=i, diseased=False) for i in range(healthy)]
    results = out / "maps"
    results.mkdir(exist_ok=True)
    left = [one for one in chests if not (results / f"{one.name}.json").is_file()]
    started = time.perf_counter()
    with ProcessPoolExecutor(args.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        for number, _ in enumerate(pool.map(_explain, left, [run.folder] * len(left), [results] * len(left)), 1):
            if number % 20 == 0:
                print(f"{number} of {len(left)} in {(time.perf_counter() - started) / 60:.0f} min", flush=True)
    rows = [json.loads((results / f"{one.name}.json").read_text()) for one in chests]
    summary = _summary(rows)
    for name, row in summary.items():
        share = "–" if row["share"] is None else f"{row['share']:.1%}"
        print(f"{name:42s} {share:>6s} ({row['ci'][0]:.1%} to {row['ci'][1]:.1%}) of {row['number']}")
    auc = roc_auc(np.array([row["label"] for row in rows]), np.array([row["p"] for row in rows]))
    seconds = _median(rows, "seconds")
    print(f"AUC of the model {auc:.3f} on these {len(rows)} chests; a map takes {seconds:.1f} s on one core")
    if args.json:
        print(json.dumps({"rows": summary, "auc": auc, "seconds": seconds, "machine": found}))


def _explain(chest: Chest, model: Path, results: Path) -> None:
    """Explain one chest by every method, and write what is counted."""
    volume, truth = simulate(chest)
    predictor = Predictor(model, device="cpu")
    sample = prepare(volume, RECIPE)
    prediction = predictor.predict_samples([sample])[0]
    mass_mm, benign_mm = _distances(truth, volume, is_mass=True), _distances(truth, volume, is_mass=False)
    row: dict[str, Any] = {"label": int(chest.diseased), "p": prediction.probabilities["1"]}
    row["positive"] = row["p"] >= prediction.thresholds["1"]
    row["has_benign"] = benign_mm is not None
    lungs = truth.lungs > 0
    row["random_voxel"] = float((mass_mm[lungs] <= MARGIN_MM).mean()) if mass_mm is not None else None
    patch_mm = patch_of(predictor.card.recipe.size, sample.spacing_mm)
    sample_odds = odds_of_sample(predictor, sample, ["1"])
    methods = METHODS if chest.diseased and chest.number % 2 == 0 else METHODS[:1]
    for method in methods:
        started = time.perf_counter()
        (found,) = explain(predictor, sample, ["1"], ExplainConfig(method=method))
        if method == "occlusion":
            row["seconds"] = time.perf_counter() - started
        row[method] = _near(found, volume, mass_mm, benign_mm)
        if chest.diseased:
            row[method]["deletion_gain"] = deletion_gain(sample_odds, found.values, patch_mm, sample.spacing_mm)
    if chest.diseased and chest.number % 4 == 0:
        *_, (_, network) = randomised(predictor.network, seed=chest.number)
        values, _ = maps_of(replace(sample_odds, network=network), predictor.card, sample.spacing_mm, ExplainConfig())
        lost = replace(found, values=values[0].mean(axis=0), spread=None)
        row["lost"] = _near(lost, volume, mass_mm, benign_mm)
        row["lost"]["deletion_gain"] = deletion_gain(sample_odds, lost.values, patch_mm, sample.spacing_mm)
    file = results / f"{chest.name}.json"
    file.with_suffix(".part").write_text(json.dumps(row))
    file.with_suffix(".part").replace(file)


def _distances(truth: Truth, volume: Volume, *, is_mass: bool) -> np.ndarray | None:
    """Distance of each voxel of the scan from the mass, or from the benign lesions, in mm; None without any."""
    numbers = [n for n, one in enumerate(truth.lesions, start=1) if (one.kind == "mass") == is_mass]
    there = np.isin(truth.lesion_numbers, numbers)
    return ndimage.distance_transform_edt(~there, sampling=volume.spacing_mm) if there.any() else None


def _near(
    heat_map: HeatMap, volume: Volume, mass_mm: np.ndarray | None, benign_mm: np.ndarray | None
) -> dict[str, Any]:
    """Whether the peak of a map lies near the mass, and near a benign lesion."""
    peak = heat_map.peak_mm
    if peak is None:
        return {"hit": False, "distractor": False}
    voxel = tuple(np.rint(volume.mm_to_index(peak)).astype(int).clip(0, np.array(volume.shape) - 1).tolist())
    return {
        "hit": mass_mm is not None and bool(mass_mm[voxel] <= MARGIN_MM),
        "distractor": benign_mm is not None and bool(benign_mm[voxel] <= MARGIN_MM),
    }


def _summary(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    true = [row for row in rows if row["label"] and row["positive"]]
    false = [row for row in rows if not row["label"] and row["positive"]]
    lost = [row for row in true if "lost" in row]
    shares = {"true positives of all with a mass": _share(row["positive"] for row in rows if row["label"])}
    for method in METHODS:
        shares[f"{method}: hit"] = _share(row[method]["hit"] for row in true if method in row)
        shares[f"{method}: deletion"] = _share(row[method]["deletion_gain"] > 0 for row in true if method in row)
    shares["lost weights: hit"] = _share(row["lost"]["hit"] for row in lost)
    shares["lost weights: deletion"] = _share(row["lost"]["deletion_gain"] > 0 for row in lost)
    random = [row["random_voxel"] for row in lost]
    shares["random voxel of the lungs: hit"] = {
        "share": float(np.mean(random)), "ci": _mean_ends(random), "number": len(random)
    }  # fmt: skip
    shares["occlusion: distractor, true positives"] = _share(
        row["occlusion"]["distractor"] for row in true if row["has_benign"]
    )
    shares["occlusion: distractor, false positives"] = _share(
        row["occlusion"]["distractor"] for row in false if row["has_benign"]
    )
    shares["false positives of all healthy"] = _share(row["positive"] for row in rows if not row["label"])
    return shares


def _share(hits: Iterable[bool]) -> dict[str, Any]:
    hits = list(hits)
    if not hits:
        return {"share": None, "ci": [0.0, 1.0], "number": 0}
    share = sum(hits) / len(hits)
    return {"share": share, "ci": list(wilson(share, len(hits))), "number": len(hits)}


def _mean_ends(values: Sequence[float]) -> list[float]:
    if not values:
        return [0.0, 1.0]
    error = float(np.std(values)) / max(1, len(values)) ** 0.5
    return [float(np.mean(values)) - 1.96 * error, float(np.mean(values)) + 1.96 * error]


def _median(rows: Sequence[dict[str, Any]], name: str) -> float:
    return float(np.median([row[name] for row in rows]))


if __name__ == "__main__":
    sys.exit(main())
