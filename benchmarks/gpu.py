"""All that a GPU changes, checked and timed in one run of under 8 minutes: networks, ways of computing, augmentation.

    python benchmarks/gpu.py --tutorial shared/baseline/tutorial.py [--bare] [--quick] [--out gpu.json]

Needs PyTorch, NumPy and MONAI; with --bare not the last: its rows and those of augmentation are then left out. Hilum's
modules are loaded from ../src, with plain stand-ins for jaxtyping and tyro where they are not installed, for both only
annotate. Rows are ResNet-18 and 50 at 64, 128 and 192 cubed: Hilum in the way that it chooses, the tutorial and MONAI
under bf16 autocast; then compiled ones of ResNet-18. A figure is volumes per second of whole training steps (forward,
backward, optimizer), medians of interleaved rounds, beside the share of the machine's own bf16 matrix rate that the
network's arithmetic reaches. With --quick on a CPU it only shows that it runs.
"""

import argparse
import ast
import importlib.util
import json
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from machine import need
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "src"))


def _annotations_only() -> None:
    """Stand-ins for what Hilum's modules import to annotate with, where it is not installed."""

    class Shape:
        def __class_getitem__(cls, _: Any) -> Any:
            return Any

    if importlib.util.find_spec("jaxtyping") is None:
        shapes = types.ModuleType("jaxtyping")
        for name in ("Bool", "Float", "Float32", "Float64", "Int", "Int16", "Int64", "Num", "Shaped", "UInt8"):
            setattr(shapes, name, Shape)
        sys.modules["jaxtyping"] = shapes
    if importlib.util.find_spec("tyro") is None:
        tyro, conf = types.ModuleType("tyro"), types.ModuleType("tyro.conf")
        conf.arg = lambda **_: None  # type: ignore[attr-defined]
        tyro.conf = conf  # type: ignore[attr-defined]
        sys.modules |= {"tyro": tyro, "tyro.conf": conf}


_annotations_only()

from hilum.modelling.convolution import Conv3D  # noqa: E402
from hilum.modelling.resnet import ResNet3D  # noqa: E402
from hilum.modelling.speed import EXACT, PLAIN, apply_speed, autocast, choose_speed, for_prediction, name_of  # noqa: E402
from hilum.settings.run import SpeedConfig  # noqa: E402

BATCH = {16: 4, 64: 32, 128: 8, 192: 4}
LEAST = 1.5
"""Times as fast as MONAI."""

CHANNELS_LAST = replace(EXACT, precision="bf16")
SECONDS = 420.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tutorial", type=Path, required=True, help="the tutorial's listings")
    parser.add_argument("--quick", action="store_true", help="16 cubed alone")
    parser.add_argument("--bare", action="store_true", help="no rows of MONAI, no augmentation")
    parser.add_argument("--out", type=Path, help="JSON to write after each part")
    args = parser.parse_args()
    if not args.bare:
        need("monai", "augment")  # the second brings Hilum's own needs along
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    began = time.perf_counter()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    result: dict[str, Any] = {"device": name, "torch": torch.__version__, "rows": []}
    print(f"{name}, torch {torch.__version__}", flush=True)
    result["checks"] = _checks(device)
    result["matrix_tflops"] = _matrix_rate(device, 512 if args.quick else 8192)
    print(f"bf16 matrix product: {result['matrix_tflops']:.1f} TFLOP/s", flush=True)
    edges = (16,) if args.quick else (64, 128, 192)
    for depth in (18, 50):
        for edge in edges:
            if time.perf_counter() - began < SECONDS:
                result["rows"] += _timed(depth, edge, device, args, result["matrix_tflops"])
                _keep(result, args.out)
    result["compiled"] = _compiled(edges[0], device, began) if device.type == "cuda" else []
    result["prediction"] = [_prediction(depth, edges[0], device) for depth in (18, 50)]
    result["augmentation"] = None if args.bare else _augmentation()
    result["ratios"] = {rival: _least(result["rows"], rival) for rival in ("tutorial", "monai")}
    result["seconds"] = round(time.perf_counter() - began, 1)
    _keep(result, args.out)
    print(json.dumps(result["ratios"]), f"{result['seconds']} s; at least {LEAST} of MONAI is wanted")
    missed = (result["ratios"]["monai"] or LEAST) < LEAST
    sys.exit(missed or any(not ok for ok in result["checks"].values()))


def _keep(result: dict[str, Any], out: Path | None) -> None:
    if out is not None:
        out.write_text(json.dumps(result, indent=1) + "\n")


# checks


def _checks(device: torch.device) -> dict[str, bool]:
    """What must hold before any time counts."""
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    network, x = ResNet3D(18, width=16), torch.rand(4, 1, 48, 40, 44)
    with torch.inference_mode():
        expected = network.eval()(x)
    there = network.to(device)
    found: dict[str, bool] = {}
    for way in (PLAIN, replace(PLAIN, channels_last="on", folded_stem="pairs", products="on")):
        apply_speed(there, way)
        with torch.inference_mode():
            found[f"logits as on a CPU: {name_of(way)}"] = _near(there(x.to(device)), expected, 1e-4)
    plain, folded = (_gradients(there, x.to(device), way) for way in (PLAIN, replace(PLAIN, folded_stem="blocks")))
    found["gradients of the folded stem"] = all(_near(a, b, 1e-3) for a, b in zip(folded, plain, strict=True))
    for size in ((2, 2, 2), (2, 8, 8), (1, 4, 4), (3, 3, 3), (16, 16, 16)):
        found[f"bf16 gradient of a convolution on {size}"] = _convolution_is_right(size, device)
    there.train()
    state = [m.running_mean.clone() for m in there.modules() if isinstance(m, nn.BatchNorm3d)]
    found["statistics move in training"] = bool(there(x.to(device)).isfinite().all()) and any(
        not torch.equal(a, m.running_mean)
        for a, m in zip(state, (m for m in there.modules() if isinstance(m, nn.BatchNorm3d)), strict=True)
    )
    for what, holds in found.items():
        print(f"{'holds' if holds else 'FAILS'}: {what}", flush=True)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    return found


def _near(a: torch.Tensor, b: torch.Tensor, share: float) -> bool:
    return bool((a.cpu().double() - b.cpu().double()).norm() <= share * b.cpu().double().norm() + 1e-12)


def _gradients(network: ResNet3D, x: torch.Tensor, way: SpeedConfig) -> list[torch.Tensor]:
    apply_speed(network.eval(), way)  # batch norm with fixed statistics: the convolutions alone differ
    network.zero_grad()
    network(x).square().sum().backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def _convolution_is_right(size: tuple[int, int, int], device: torch.device) -> bool:
    conv, x = Conv3D(64, 64, 3).to(device), torch.randn(8, 64, *size, device=device)
    grads = []
    for half in (False, True):
        conv.weight.grad = None
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            out = conv(x)
        out.backward(x.to(out.dtype))
        grads.append(conv.weight.grad)
    return _near(grads[1], grads[0], 0.02)


# times


def _matrix_rate(device: torch.device, n: int) -> float:
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16)
    seconds = statistics.median(_seconds(lambda: a @ a, device, 10))
    return round(2 * n**3 / seconds / 1e12, 2)


def _seconds(work: Callable[[], Any], device: torch.device, times: int) -> list[float]:
    taken = []
    for number in range(times + 3):
        began = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 3:
            taken.append(time.perf_counter() - began)
    return taken


def _stepper(
    network: nn.Module, run: Any, x: torch.Tensor, way: SpeedConfig, *, fused: bool | None
) -> Callable[[], Any]:
    y = torch.arange(len(x), device=x.device) % 2
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=fused)

    def step() -> None:
        with autocast(x.device, way):
            logits = run(x)
        optimizer.zero_grad()
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()

    return step


def _timed(depth: int, edge: int, device: torch.device, args: argparse.Namespace, rate: float) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    x = torch.rand(BATCH[edge], 1, edge, edge, edge, device=device)
    chosen = choose_speed(ResNet3D(depth), tuple(x.shape), SpeedConfig(compile="off"), device, cached=False)
    rows: dict[str, tuple[str, Callable[[], Any]]] = {}
    ours = ResNet3D(depth).to(device)
    apply_speed(ours, chosen.speed)
    rows["hilum"] = name_of(chosen.speed), _stepper(ours, ours, x, chosen.speed, fused=True)
    half = replace(PLAIN, precision="bf16")
    theirs = _tutorial(args.tutorial, depth).to(device)
    rows["tutorial"] = "bf16", _stepper(theirs, theirs, x, half, fused=None)
    if not args.bare:
        from monai.networks import nets

        make = getattr(nets, f"resnet{depth}")
        for order in ("contiguous", "channels last"):
            layout = torch.channels_last_3d if order == "channels last" else torch.contiguous_format
            monai = make(spatial_dims=3, n_input_channels=1, num_classes=2, conv1_t_stride=2, shortcut_type="B")
            monai = monai.to(device, memory_format=layout)
            rows[f"monai, {order}"] = (
                "bf16",
                _stepper(monai, monai, x.contiguous(memory_format=layout), half, fused=None),
            )
    taken: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(3):
        for name, (_way, step) in rows.items():
            taken[name] += _seconds(step, device, 5)
    gflop = _gflop(depth, edge)
    result = []
    for name, (way, _step) in rows.items():
        seconds = statistics.median(taken[name])
        row = {
            "row": name,
            "depth": depth,
            "edge": edge,
            "batch": len(x),
            "way": way,
            "step_s": round(seconds, 5),
            "volumes_per_s": round(len(x) / seconds, 1),
            "share_of_matrix_rate": round(gflop * len(x) / seconds / 1e3 / rate, 4),
        }
        print(
            f"ResNet-{depth}, {len(x):>2} x {edge:>3} cubed, {name:<22}{row['volumes_per_s']:>9.1f} volumes/s, "
            f"{row['share_of_matrix_rate']:.1%} of the matrix rate   {way}",
            flush=True,
        )
        result.append(row)
    result[0]["tried"] = chosen.seconds
    return result


def _gflop(depth: int, edge: int) -> float:
    """Of a training step on one volume, by the plain network's arithmetic."""
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, FakeTensorMode():
        ResNet3D(depth)(torch.empty(2, 1, edge, edge, edge)).sum().backward()
    return counter.get_total_flops() / 2e9


def _compiled(edge: int, device: torch.device, began: float) -> list[dict[str, Any]]:
    """ResNet-18 as it is, compiled, and compiled with CUDA graphs and with the longest search."""
    rows = []
    for mode in (None, "default", "reduce-overhead", "max-autotune"):
        if time.perf_counter() - began > SECONDS:
            break
        torch.manual_seed(0)
        x = torch.rand(BATCH[edge], 1, edge, edge, edge, device=device)
        network = ResNet3D(18).to(device)
        apply_speed(network, CHANNELS_LAST)
        run = network if mode is None else torch.compile(network, dynamic=False, mode=mode)
        step, first = _stepper(network, run, x, CHANNELS_LAST, fused=True), time.perf_counter()
        try:
            step()
            torch.cuda.synchronize()
            first = time.perf_counter() - first
            seconds = statistics.median(_seconds(step, device, 10))
        except Exception as exc:  # noqa: BLE001 - a mode that cannot be is a row that says so
            rows.append({"mode": str(mode), "failed": f"{type(exc).__name__}: {exc}"[:200]})
            continue
        rows.append({"mode": str(mode), "first_s": round(first, 1), "step_s": round(seconds, 5)})
        print(f"compile {mode}: first step {first:.1f} s, then {1000 * seconds:.2f} ms", flush=True)
    return rows


def _prediction(depth: int, edge: int, device: torch.device) -> dict[str, Any]:
    network, x = ResNet3D(depth).to(device).eval(), torch.rand(BATCH[edge], 1, edge, edge, edge, device=device)
    row: dict[str, Any] = {"depth": depth, "edge": edge}
    with torch.inference_mode():
        for name, run in (
            ("plain fp32", network),
            ("fp32", for_prediction(network, EXACT)),
            ("bf16", for_prediction(network, CHANNELS_LAST)),
        ):
            seconds = statistics.median(_seconds(lambda run=run: run(x), device, 10))
            row[name] = round(len(x) / seconds, 1)
    print(f"ResNet-{depth} predicts, volumes/s: {row}", flush=True)
    return row


def _augmentation() -> dict[str, Any] | None:
    """The figures of ``benchmarks/augment.py`` on a GPU."""
    from augment import _gpu

    return _gpu()


def _least(rows: list[dict[str, Any]], rival: str) -> float | None:
    """How many times as fast Hilum is as a rival's fastest row, the smallest over depths and sizes."""
    ratios = []
    for row in (r for r in rows if r["row"] == "hilum"):
        same = [r for r in rows if (r["depth"], r["edge"]) == (row["depth"], row["edge"])]
        theirs = [r["step_s"] for r in same if r["row"].split(",")[0] == rival]
        ratios += [min(theirs) / row["step_s"]] if theirs else []
    return round(min(ratios), 2) if ratios else None


def _tutorial(path: Path, depth: int) -> nn.Module:
    """The tutorial's network alone: the rest of its file imports what this machine may lack."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    wanted = ("BasicBlock3D", "Bottleneck3D", "ResNet3D", f"resnet{depth}_3d")
    tree.body = [n for n in tree.body if isinstance(n, ast.ClassDef | ast.FunctionDef) and n.name in wanted]
    names: dict[str, Any] = {"torch": torch, "nn": nn, "F": F}
    exec(compile(tree, str(path), "exec"), names)  # noqa: S102 - the listings that the project is measured against
    network: nn.Module = names[f"resnet{depth}_3d"]()
    return network


if __name__ == "__main__":
    main()
