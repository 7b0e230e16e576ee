"""Prediction: the forward pass of ResNet-18 and 50, Hilum beside the tutorial as written and ONNX Runtime, batch 8.

    python benchmarks/prediction.py [--quick] [--json]

All rows have the same weights and input; the difference is that of a logit from the tutorial's, relative to the
largest logit. "hilum" may choose bf16 (``hilum predict --precision auto``), "hilum, fp32" is the default; ONNX is the
network that ``hilum export`` writes. Rows are interleaved, medians count.
"""

import argparse
import json
import statistics
import sys
from typing import Any

import numpy as np
from machine import DATA, line, machine, need
from networks import Row

BATCH = 8
ROWS = ("hilum", "hilum, fp32", "tutorial", "onnx")
ROUNDS = {64: 15, 128: 5}
TARGETS = {64: 3.0, 128: 2.0}
"""Least times as fast as the tutorial, by edge."""

ONNX = 2.0
"""Most times as long as Hilum in fp32."""

AGREES = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ResNet-18 at 64 cubed alone")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not (DATA.parent / "baseline" / "tutorial.py").is_file():
        sys.exit("no baseline/tutorial.py: HILUM_DATA must name the folder with the shared data")
    need("skimage", "onnxruntime")
    found = machine("torch", "onnxruntime")
    print(line(found), flush=True)
    rows = [Row(name) for name in ROWS]
    for row in rows:
        row.ask("started")
    timed: list[dict[str, Any]] = []
    cases = [(18, 64)] if args.quick else [(18, 64), (18, 128), (50, 64), (50, 128)]
    for depth, edge in cases:
        timed += _timed(rows, depth, edge, rounds=ROUNDS[edge])
        _show(timed[-len(ROWS) :])
    for row in rows:
        row.stop()
    ratios = {"tutorial": min(_ratio(timed, "tutorial", *case) for case in cases)}
    missed = _verdicts(timed, cases)
    if args.json:
        print(json.dumps({"rows": timed, "ratios": ratios, "machine": found}))
    sys.exit(missed)


def _timed(rows: list[Row], depth: int, edge: int, *, rounds: int) -> list[dict[str, Any]]:
    ways = {row.name: row.ask("predict", depth, edge, BATCH) for row in rows}
    for _ in range(2):
        for row in rows:
            row.ask("forward")
    taken: dict[str, list[float]] = {row.name: [] for row in rows}
    for number in range(rounds):
        for row in rows[number % len(rows) :] + rows[: number % len(rows)]:
            taken[row.name].append(row.ask("forward"))
    logits = {row.name: np.array(row.ask("outputs")) for row in rows}
    exact = logits["tutorial"]
    return [
        {
            "row": name,
            "depth": depth,
            "edge": edge,
            "way": ways[name],
            "median_s": round(statistics.median(seconds), 4),
            "min_s": round(min(seconds), 4),
            "max_s": round(max(seconds), 4),
            "rounds": rounds,
            "difference": float(np.abs(logits[name] - exact).max() / np.abs(exact).max()),
        }
        for name, seconds in taken.items()
    ]


def _ratio(timed: list[dict[str, Any]], slow: str, depth: int, edge: int, fast: str = "hilum") -> float:
    of = {row["row"]: row["median_s"] for row in timed if (row["depth"], row["edge"]) == (depth, edge)}
    return round(of[slow] / of[fast], 2)


def _show(rows: list[dict[str, Any]]) -> None:
    title = f"ResNet-{rows[0]['depth']}, {BATCH} x {rows[0]['edge']} cubed"
    print(f"\n{title:<28}{'s (min to max)':>24}{'difference':>12}")
    for row in rows:
        span = f"{row['median_s']:.3f} ({row['min_s']:.3f} to {row['max_s']:.3f})"
        print(f"{row['row']:<28}{span:>24}{row['difference']:>12.1e}   {row['way']}", flush=True)


def _verdicts(timed: list[dict[str, Any]], cases: list[tuple[int, int]]) -> bool:
    print()
    missed = False
    for depth, edge in cases:
        ratio, onnx = _ratio(timed, "tutorial", depth, edge), _ratio(timed, "onnx", depth, edge, "hilum, fp32")
        differs = next(r["difference"] for r in timed if (r["row"], r["depth"], r["edge"]) == ("onnx", depth, edge))
        for what, value, holds, rule in (
            ("times as fast as the tutorial", ratio, ratio >= TARGETS[edge], f"at least {TARGETS[edge]:g}"),
            ("ONNX takes, times hilum, fp32", onnx, onnx <= ONNX, f"at most {ONNX:g}"),
            ("ONNX differs by", differs, differs <= AGREES, f"at most {AGREES:g}"),
        ):
            missed |= not holds
            verdict = "holds" if holds else "FAILS"
            print(f"ResNet-{depth} at {edge:>3} cubed, {what:<32}{value:>10.2g}   {verdict}: {rule}")
    return missed


if __name__ == "__main__":
    main()
