"""Prediction by an ensemble of 15: the network's part against one member's, preparing once, and its ONNX file.

    python benchmarks/ensemble.py [--rounds 15] [--quick] [--json]

Fifteen networks as of configs/lidc_nodules.toml with random weights, saved as an ensemble. ``network``: the logits of
one prepared case; ``whole``: a scan of 128 slices prepared and predicted. One member and the ensemble take turns, each
figure is a median.
"""

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from machine import ROOT, line, machine

from hilum import Predictor, Volume, prepare
from hilum.deciding.decision import Decisions
from hilum.deciding.model_folder import EnsembleMember, ModelCard, build, save_model
from hilum.modelling.ensemble import Ensemble
from hilum.predicting import predictor as predicting
from hilum.predicting.export import export_model
from hilum.settings.toml import load

MEMBERS = 15


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = machine("torch", "onnxruntime")
    print(line(found), flush=True)
    config = load(ROOT / "configs" / "lidc_nodules.toml")
    torch.manual_seed(0)
    networks = {f"member-{i}": build(config.model, config.recipe, 2).eval() for i in range(MEMBERS)}
    card = ModelCard(
        model=config.model, recipe=config.recipe.in_numbers, decisions=Decisions(classes=("0", "1")), training={}
    )
    with tempfile.TemporaryDirectory(prefix="hilum-") as name:
        folder = Path(name)
        save_model(folder / "one", networks["member-0"], card)
        members = tuple(EnsembleMember(name=one, model=config.model) for one in networks)
        save_model(folder / "ensemble", Ensemble(networks), replace(card, members=members))
        rounds = 3 if args.quick else args.rounds
        seconds, prepared = _seconds(folder, rounds)
        exported = export_model(folder / "ensemble", folder / "ensemble.onnx", format="onnx")
    result = {
        "members": MEMBERS,
        "rounds": rounds,
        "seconds": seconds,
        "network_ratio": seconds["ensemble, network"] / seconds["one, network"],
        "whole_ratio": seconds["ensemble, whole"] / seconds["one, whole"],
        "prepared_for_each_prediction": prepared,
        "onnx_difference": exported.difference,
        "machine": found,
    }
    for row, taken in seconds.items():
        print(f"  {row:<20}{1000 * taken:8.2f} ms")
    ratios = f"{result['network_ratio']:.2f} times one member's, the whole {result['whole_ratio']:.2f}"
    print(f"  the network's part takes {ratios}")
    print(f"  a scan is prepared {prepared} time for each prediction; ONNX differs by up to {exported.difference:.1e}")
    if args.json:
        print(json.dumps(result))


def _seconds(folder: Path, rounds: int) -> tuple[dict[str, float], float]:
    """Median seconds by row, and how often a scan was prepared for each prediction by the ensemble."""
    random = np.random.default_rng(0)
    scan = Volume.from_array(random.normal(-700, 200, (128, 256, 256)).astype(np.int16), spacing_mm=(1.0, 1.0, 1.0))
    point = scan.index_to_mm((64, 128, 128))
    predictors = {name: Predictor(folder / name) for name in ("one", "ensemble")}
    sample = prepare(scan, predictors["one"].card.recipe, point_mm=point)
    calls = []
    own = predicting.prepare
    predicting.prepare = lambda *a, **k: calls.append(1) or own(*a, **k)  # type: ignore[assignment]
    taken: dict[str, list[float]] = {f"{name}, {part}": [] for name in predictors for part in ("network", "whole")}
    for number in range(1 + rounds):
        for name, predictor in predictors.items():
            for part, way in (
                ("network", lambda p=predictor: p.logits([sample])),
                ("whole", lambda p=predictor: p.predict(scan, point_mm=point)),
            ):
                before, started = len(calls), time.perf_counter()
                way()
                if number:
                    taken[f"{name}, {part}"].append(time.perf_counter() - started)
                if (name, part) == ("ensemble", "whole"):
                    prepared = len(calls) - before
    return {name: statistics.median(times) for name, times in taken.items()}, prepared


if __name__ == "__main__":
    main()
