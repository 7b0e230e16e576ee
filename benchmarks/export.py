"""An exported ONNX file in ONNX Runtime beside the network in PyTorch, fp32, from HU to probabilities.

    python benchmarks/export.py [--depth 18] [--width 64] [--grids 64 128] [--batches 1 8] [--rounds 5] [--quick]
        [--json]

The file is what ``hilum export`` writes for fresh weights, checked as there. PyTorch runs the same module in inference
mode, its plain paths: ``prediction.py`` has the file beside what ``hilum predict`` computes. Rows are interleaved in
each round after one that is not counted; medians. Both have the same number of threads. Needs onnx, onnxscript and
onnxruntime (extra export).
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from machine import line, machine

from hilum import Recipe
from hilum.deciding.decision import Decisions
from hilum.deciding.model_folder import ModelCard, build, load_model, save_model
from hilum.predicting.calibrated_network import FromHU
from hilum.predicting.export import export_model
from hilum.settings.run import ModelConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--depth", type=int, default=18)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--grids", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="32 cubed alone, one case, one round")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.quick:
        args.grids, args.batches, args.rounds = [32], [1], 1
    torch.set_num_threads(args.threads)
    answer = {"machine": machine("torch", "onnx", "onnxruntime"), "settings": vars(args), "rows": []}
    for n in args.grids:
        for row in _rows(n, args):
            answer["rows"].append(row)
            if not args.json:
                print(
                    f"{row['grid']:>4} cubed, batch {row['batch']:>2}: ONNX Runtime {row['onnx_s']:.3f} s, PyTorch "
                    f"{row['torch_s']:.3f} s, ratio {row['ratio']:.2f}; difference {row['difference']:.1e}",
                    flush=True,
                )
    print(json.dumps(answer, indent=2) if args.json else line(answer["machine"]))


def _rows(n: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    model, recipe = (
        ModelConfig(depth=args.depth, width=args.width),
        Recipe(region="whole", size=(n, n, n), spacing_mm=(2.0, 2.0, 2.0)),
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        where, file = Path(folder) / "model", Path(folder) / "model.onnx"
        card = ModelCard(model=model, recipe=recipe.in_numbers, decisions=Decisions(classes=("0", "1")), training={})
        save_model(where, build(model, recipe, 2), card)
        difference = export_model(where, file, format="onnx").difference
        network = FromHU(load_model(where)[0], card.recipe.windows, card.decisions).eval()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        return [
            {"grid": n, "difference": difference} | _row(network, session, batch, n, args) for batch in args.batches
        ]


def _row(network: FromHU, session: Any, batch: int, n: int, args: argparse.Namespace) -> dict[str, Any]:
    hu = torch.rand(batch, 1, n, n, n) * 1400 - 1000
    runs = {"torch": lambda: network(hu), "onnx": lambda: session.run(None, {"hu": hu.numpy()})}
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(args.rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            with torch.inference_mode():
                run()
            if number:
                seconds[name].append(time.perf_counter() - start)
    median = {f"{name}_s": statistics.median(values) for name, values in seconds.items()}
    return {"batch": batch, **median, "ratio": median["onnx_s"] / median["torch_s"], "rounds": seconds}


if __name__ == "__main__":
    main()
