"""A training step of the ResNet: Hilum beside the tutorial as written and MONAI at its best, batch 8, no loader.

    python benchmarks/training_step.py [--quick] [--json] [--no-amx]

Rows are interleaved, medians count. MONAI is its ResNet with the tutorial's structure, in fp32 and under bf16
autocast, contiguous and channels last: the fastest of the four counts, be its gradients right or not. GFLOP/s are
those of the plain network's arithmetic, beside what a 3x3x3 convolution of 64 channels reaches here alone. The error
is that of stage 4's weight gradients against fp32 from the same activations; beside it stands the loss after the last
step. With --no-amx Hilum is held to fp32, the processor's matrix unit is switched off, and the tutorial alone is
compared.
"""

import argparse
import json
import statistics
import sys
from typing import Any

import torch
from machine import DATA, line, machine, need
from networks import MONAI, Row
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from hilum.modelling.resnet import ResNet3D

BATCH = 8
TARGETS = {(18, 64): (2.2, 1.35), (18, 96): (1.8, 1.5), (50, 64): (1.5, 1.2), (50, 96): (1.5, 1.2)}
"""Least times as fast as the tutorial and as MONAI's best, by depth and edge."""

ROUNDS = {(18, 64): 9, (18, 96): 9, (50, 64): 9, (50, 96): 5}
"""Odd, for a median; as many as ten minutes allow."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="ResNet-18 at 64 cubed alone")
    parser.add_argument("--no-amx", action="store_true", help="fp32, and no matrix unit")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not (DATA.parent / "baseline" / "tutorial.py").is_file():
        sys.exit("no baseline/tutorial.py: HILUM_DATA must name the folder with the shared data")
    need("skimage", *([] if args.no_amx else ["monai"]))
    found = machine("torch", "monai")
    print(line(found), flush=True)
    names = ["hilum", "tutorial", *([] if args.no_amx else MONAI)]
    rows = [Row(name, amx=not args.no_amx) for name in names]
    for row in rows:
        row.ask("started")
    conv = rows[0].ask("conv_rates")
    print(
        "a 3x3x3 convolution alone, forward and backward: " + ", ".join(f"{n} {r:.0f} GFLOP/s" for n, r in conv.items())
    )
    cases = [(18, 64)] if args.quick else list(TARGETS)
    timed = []
    for depth, edge in cases:
        timed += _timed(rows, depth, edge, precision="fp32" if args.no_amx else "auto")
        _show(timed, depth, edge)
    for row in rows:
        row.stop()
    ratios = {name: min(_ratio(timed, name, *case) for case in cases) for name in ("tutorial", "monai")}
    ratios = {name: ratio for name, ratio in ratios.items() if ratio != float("inf")}
    missed = _verdicts(timed, cases, no_amx=args.no_amx)
    if args.json:
        print(
            json.dumps({"rows": timed, "ratios": ratios, "conv_gflops": conv, "no_amx": args.no_amx, "machine": found})
        )
    sys.exit(missed)


def _timed(rows: list[Row], depth: int, edge: int, *, precision: str) -> list[dict[str, Any]]:
    rounds = ROUNDS[depth, edge]
    about = {
        row.name: row.ask("train", depth, edge, BATCH, *([precision] if row.name == "hilum" else [])) for row in rows
    }
    with FlopCounterMode(display=False) as counter, FakeTensorMode():
        ResNet3D(depth)(torch.empty(BATCH, 1, edge, edge, edge)).sum().backward()
    gflop = counter.get_total_flops() / 1e9
    taken: dict[str, list[tuple[float, float, float]]] = {row.name: [] for row in rows}
    for row in rows:
        row.ask("step")
    for number in range(rounds):
        for row in rows[number % len(rows) :] + rows[: number % len(rows)]:
            taken[row.name].append(row.ask("step"))
    result = []
    for row in rows:
        middle = sorted(taken[row.name], key=sum)[rounds // 2]
        seconds = statistics.median(map(sum, taken[row.name]))
        result.append(
            {
                "row": row.name,
                "depth": depth,
                "edge": edge,
                "median_s": round(seconds, 4),
                "min_s": round(min(map(sum, taken[row.name])), 4),
                "max_s": round(max(map(sum, taken[row.name])), 4),
                "rounds": rounds,
                "forward_s": round(middle[0], 4),
                "backward_s": round(middle[1], 4),
                "optimizer_s": round(middle[2], 4),
                "gflops": round(gflop / seconds, 1),
                "loss": row.ask("last_loss"),
                "gradient_error": row.ask("gradient_error"),
                **about[row.name],
            }
        )
    return result


def _of(timed: list[dict[str, Any]], depth: int, edge: int) -> list[dict[str, Any]]:
    return [row for row in timed if (row["depth"], row["edge"]) == (depth, edge)]


def _ratio(timed: list[dict[str, Any]], rival: str, depth: int, edge: int) -> float:
    """How many times as fast Hilum is as the rival's fastest row."""
    rows = _of(timed, depth, edge)
    theirs = [row["median_s"] for row in rows if row["row"].split(",")[0] == rival]
    return round(min(theirs, default=float("inf")) / rows[0]["median_s"], 2)


def _show(timed: list[dict[str, Any]], depth: int, edge: int) -> None:
    title = f"ResNet-{depth}, {BATCH} x {edge} cubed"
    print(f"\n{title:<28}{'s (min to max)':>24}  forward backward optimizer  GFLOP/s  error of stage 4      loss")
    for row in _of(timed, depth, edge):
        span = f"{row['median_s']:.3f} ({row['min_s']:.3f} to {row['max_s']:.3f})"
        shares = "".join(f"{row[f'{part}_s'] / row['median_s']:>9.0%}" for part in ("forward", "backward", "optimizer"))
        print(
            f"{row['row']:<28}{span:>24}{shares}{row['gflops']:>10.0f}{row['gradient_error']:>16.1e}{row['loss']:>12.2g}"
        )
    own = _of(timed, depth, edge)[0]
    print(f"hilum: {own['way']}, chosen in {own['choosing_s']:.1f} s", flush=True)


def _verdicts(timed: list[dict[str, Any]], cases: list[tuple[int, int]], *, no_amx: bool) -> bool:
    print("\nhilum is so many times as fast:")
    missed = False
    for depth, edge in cases:
        least = {"tutorial": 1.0} if no_amx else dict(zip(("tutorial", "monai"), TARGETS[depth, edge], strict=True))
        for rival, target in least.items():
            ratio = _ratio(timed, rival, depth, edge)
            missed |= ratio < target
            verdict = "holds" if ratio >= target else "FAILS"
            print(f"ResNet-{depth} at {edge} cubed, {rival:<10}{ratio:>6.2f}   {verdict}: {target:g}")
    return missed


if __name__ == "__main__":
    main()
