"""Augmentation of a float32 sample of 128 cubed on the CPU: Hilum beside the tutorial, TorchIO and MONAI.

    python benchmarks/augment.py [--quick] [--rounds 3] [--json]

Three works: the tutorial's seven changes with its probabilities; all but elastic each time; all each time. Chance has
no part in which changes are on: the first work is a list of 40 draws that holds each change exactly as often as its
probability says (rotation, scaling and shift in all combinations, elastic in one of five of each), the same for every
row. How far they go each row draws itself, within the tutorial's ranges. Hilum adds noise as a kernel leaves it, the
others white noise.

TorchIO and MONAI go their fastest way that was found: no copies, no metadata, an affine step and then an elastic one
(MONAI: RandSmoothDeform). The rows "one step" are the one resampling that each has for both (MONAI: Rand3DElastic, a
Gaussian of 8 voxels). Brightness and contrast are one multiplication in place for both. A ratio is to the fastest of a
library's ways.

Rows are interleaved in each round, in one process, and none is kept from using threads; medians after one round to
warm up, in which the outputs are checked. Memory is measured in a process of its own for each row, warm from a sample
of 16 cubed: the most that it holds above the input, all changes on, for a batch of 1 and of 4, in batches of float32.
The data are looked for at HILUM_DATA or ../shared/data; ``scripts/bench augment`` installs what the rows need.
"""

import argparse
import gc
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from augmenters import CHANGES, EDGE, HIGH, LOW, RECIPE, ROWS, SPATIAL, On, Row, unit_of
from machine import DATA, forget_peak, line, machine, need, peak_bytes

from hilum.modelling.augmenting.augment import apply
from hilum.modelling.augmenting.changes import draw
from hilum.settings.augmentation import PROBABILITIES
from hilum.settings.presets import preset

SCAN, CUBE = "lidc-0314", (EDGE, EDGE, EDGE)
TUTORIAL, PLAIN, ELASTIC = "as the tutorial", "all on, no elastic", "all on, elastic"
RIVALS = ("tutorial", "torchio", "monai")
TARGETS = ((TUTORIAL, ("tutorial",), 10.0), (PLAIN, ("torchio", "monai"), 1.0), (ELASTIC, ("torchio", "monai"), 3.0))
"""In this work Hilum must be so many times as fast as the fastest of these."""

MEMORY, VOLUMES_PER_S, BANDWIDTH = 6.0, 2000.0, 0.6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round, shorter to warm up; no rows one step")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory", nargs=2, metavar=("ROW", "BATCH"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # of TorchIO, that control points may fold
    if args.memory:
        print(_peak(args.memory[0], int(args.memory[1])))
        return
    need("skimage", "elasticdeform", "torchio", "monai")
    if not (DATA / SCAN).is_dir():
        sys.exit(f"no folder {SCAN}: HILUM_DATA must name the folder with the shared data")

    found = machine("torch", "torchio", "simpleitk", "monai", "elasticdeform", "scipy")
    found["load"] = round(os.getloadavg()[0], 2)  # before this begins
    print(f"{line(found)}; load {found['load']:g}", flush=True)
    hu, spacing_mm = _sample()
    names = [name for name in ROWS if not (args.quick and "one step" in name)]
    rows = {name: ROWS[name](hu, spacing_mm) for name in names}
    works = _works()
    checked, failures = _checked(rows, {w: of[: 5 if args.quick else None] for w, of in works.items()}, hu, spacing_mm)
    rows = {name: row for name, row in rows.items() if name not in failures}
    timed = _timed(rows, works, 1 if args.quick else args.rounds)
    weighed = ["hilum"] if args.quick else list(rows)
    memory = {name: {str(n): _multiples(name, n) for n in (1, 4)} for name in weighed if name in rows}
    singles = _singles(hu, spacing_mm, 3 if args.quick else 15)
    gpu = _gpu()
    _show(timed, memory, checked, singles, list(works))
    for name, failure in failures.items():
        print(f"\n{name} FAILED: {failure}")
    if "hilum" in failures:
        sys.exit(1)
    by_work = {work: _ratios(timed, work, "median_s") for work in works}
    ratios = {name: min(of[name] for of in by_work.values() if name in of) for name in RIVALS if name in rows}
    missed = _show_targets(timed, memory, gpu)
    if args.json:
        report = {"rows": timed, "ratios": ratios, "ratios_by_work": by_work, "memory_batches": memory}
        print(json.dumps(report | {"outputs": checked, "changes_ms": singles, "gpu": gpu, "machine": found}))
    sys.exit(1 if failures or missed else 0)


def _works() -> dict[str, list[On]]:
    """What is on in each draw of each work."""
    lists: list[set[str]] = []
    for spatial in itertools.product((True, False), repeat=len(SPATIAL)):
        on = {name for name, is_on in zip(SPATIAL, spatial, strict=True) if is_on}
        lists += [on | {"elastic"}, *(set(on) for _ in range(4))]
    random = np.random.default_rng(0)
    for name in ("noise", "brightness", "contrast"):
        for i in random.permutation(len(lists))[: round(CHANGES[name] * len(lists))]:
            lists[i].add(name)
    for name, probability in CHANGES.items():
        assert math.isclose(sum(name in on for on in lists), probability * len(lists))
    everything = frozenset(CHANGES)
    return {TUTORIAL: [frozenset(on) for on in lists], PLAIN: [everything - {"elastic"}] * 4, ELASTIC: [everything] * 4}


def _sample() -> tuple[torch.Tensor, Any]:
    """A real chest as a batch of one in HU, and its spacing."""
    from hilum.preparing import prepare_path

    volume = prepare_path(DATA / SCAN, RECIPE)
    return torch.from_numpy(volume.voxels_hu.astype(np.float32))[None, None], volume.spacing_mm


# time


def _takes_part(name: str, work: str) -> bool:
    """One step is another way where both are on; MONAI's takes seconds."""
    return "one step" not in name or work == ELASTIC or (work == TUTORIAL and name.startswith("torchio"))


def _checked(
    rows: dict[str, Row], works: dict[str, list[On]], hu: torch.Tensor, spacing_mm: Any
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """A round to warm up: the type of each row's outputs, how alike they are to the input, and why a row failed."""
    checked: dict[str, dict[str, Any]] = defaultdict(dict)
    failures: dict[str, str] = {}
    unit = unit_of(hu).flatten().numpy()
    for name, row in rows.items():
        alike = defaultdict(list)
        try:
            for work, lists in works.items():
                for number, on in enumerate(lists if _takes_part(name, work) else []):
                    out = torch.as_tensor(row(on, number)[0])
                    if tuple(out.shape[-3:]) != CUBE or not out.isfinite().all():
                        failures[name] = f"{work}, draw {number}: {tuple(out.shape)}, must be finite and of {CUBE}"
                    checked[name]["dtype"] = str(out.dtype).removeprefix("torch.")
                    if work != TUTORIAL:
                        seen = unit_of(out) if name == "hilum" else out
                        alike[work].append(float(np.corrcoef(seen.flatten().numpy(), unit)[0, 1]))
        except Exception as exc:  # noqa: BLE001  # whatever a library raises
            failures[name] = f"{type(exc).__name__}: {exc}"
        checked[name] |= {work: round(statistics.mean(values), 3) for work, values in alike.items()}
    before = hu.clone()
    off = apply(hu, draw(preset("none", RECIPE), ["a"], seed=0, epoch=1), np.array([spacing_mm]), RECIPE)
    if not torch.equal(off, before):
        failures["hilum"] = "with everything off the output must be the input, bit for bit"
    return dict(checked), failures


def _timed(rows: dict[str, Row], works: dict[str, list[On]], rounds: int) -> list[dict[str, Any]]:
    """Seconds per volume, means over a round's draws."""
    seconds: dict[tuple[str, str], list[float]] = defaultdict(list)
    names = list(rows)
    for number in range(rounds):  # in another order each, so that none always follows the same one
        for work, lists in works.items():
            for name in names[number % len(names) :] + names[: number % len(names)]:
                if not _takes_part(name, work):
                    continue
                gc.collect()
                started = time.perf_counter()
                for i, on in enumerate(lists):
                    rows[name](on, i)
                seconds[name, work].append((time.perf_counter() - started) / len(lists))
    return [
        {
            "row": name,
            "work": work,
            "median_s": round(statistics.median(values), 5),
            "min_s": round(min(values), 5),
            "max_s": round(max(values), 5),
            "rounds": rounds,
        }
        for (name, work), values in seconds.items()
    ]


def _singles(hu: torch.Tensor, spacing_mm: Any, rounds: int) -> dict[str, float]:
    """Milliseconds of each of Hilum's changes alone, medians; the ranges are those of the preset standard."""
    off = preset("none", RECIPE)
    configs = {"nothing": off, "flip": replace(off, flip=(0.0, 0.0, 1.0))}
    affine = {"rotation": 1.0, "scaling": 1.0, "translation": 1.0}
    configs |= {"affine": replace(off, **affine), "affine and elastic": replace(off, **affine, elastic=1.0)}
    others = [name for name in PROBABILITIES if name not in (*affine, "shear", "mixup", "cutmix")]
    configs |= {name: replace(off, **{name: 1.0}) for name in others}
    configs |= {"level and width": replace(off, level=1.0, width=1.0)}
    taken: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        for name, config in configs.items():
            started = time.perf_counter()
            apply(hu, draw(config, ["a"], seed=0, epoch=number), np.array([spacing_mm]), RECIPE)
            if number:  # the first warms up
                taken[name].append(1000 * (time.perf_counter() - started))
    return {name: round(statistics.median(values), 2) for name, values in taken.items()}


def _gpu(num_batches: int = 40) -> dict[str, Any] | None:
    """Volumes of 64 cubed per second in batches of 32 with the preset standard, beside plain copies of the batch."""
    if not torch.cuda.is_available():
        return None
    hu = torch.empty(32, 1, 64, 64, 64, device="cuda").uniform_(LOW, HIGH)
    steps, case_ids, other = np.full((32, 3), 5.0), [str(i) for i in range(32)], torch.empty_like(hu)
    config = preset("standard", RECIPE)

    def per_s(work: Callable[[int], Any], times: int) -> float:
        for number in range(times // 4):
            work(number)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for number in range(times):
            work(number)
        torch.cuda.synchronize()
        return times / (time.perf_counter() - started)

    batches = per_s(lambda epoch: apply(hu, draw(config, case_ids, seed=0, epoch=epoch), steps, RECIPE), num_batches)
    copies = per_s(lambda _: other.copy_(hu), 50 * num_batches)
    return {
        "device": torch.cuda.get_device_name(),
        "volumes_per_s": round(32 * batches, 1),
        "gb_per_s": round(batches * 2 * hu.nbytes / 1e9, 2),
        "copy_gb_per_s": round(copies * 2 * hu.nbytes / 1e9, 2),
        "share_of_copy": round(batches / copies, 4),
    }


# memory


def _multiples(name: str, batch: int) -> float:
    """Peak memory above the input batch, in batches."""
    command = [sys.executable, __file__, "--memory", name, str(batch)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(done.stdout.split()[-1]) / (4 * batch * EDGE**3), 2)


def _peak(name: str, batch: int) -> int:
    random = torch.Generator().manual_seed(0)
    small, hu = (torch.rand(batch, 1, n, n, n, generator=random).mul_(HIGH - LOW).add_(LOW) for n in (16, EDGE))
    on = frozenset(CHANGES)
    ROWS[name](small, (2.5, 2.5, 2.5))(on, 0)
    row = ROWS[name](hu, (2.5, 2.5, 2.5))
    gc.collect()
    held = forget_peak()
    _kept = row(on, 0)
    return peak_bytes() - held


# what is printed


def _show(
    timed: list[dict[str, Any]],
    memory: dict[str, dict[str, float]],
    checked: dict[str, dict[str, Any]],
    singles: dict[str, float],
    works: list[str],
) -> None:
    for work in works:
        print(f"\n{work:<22}{'median (min to max) ms':>28}" + ("" if work == TUTORIAL else f"{'like the input':>18}"))
        for row in (r for r in timed if r["work"] == work):
            median, low, high = (1000 * row[which] for which in ("median_s", "min_s", "max_s"))
            alike = checked[row["row"]].get(work, "")
            print(f"{row['row']:<22}" + f"{median:.1f} ({low:.1f} to {high:.1f})".rjust(28) + f"{alike:>18}")
    print(f"\n{'memory, in batches':<22}{'batch of 1':>14}{'batch of 4':>14}{'output':>14}")
    for name, held in memory.items():
        print(f"{name:<22}{held['1']:>14.2f}{held['4']:>14.2f}{checked[name]['dtype']:>14}")
    print("\nhilum's changes alone, ms")
    for name, ms in singles.items():
        print(f"{name:<22}{ms:>14.2f}")


def _show_targets(timed: list[dict[str, Any]], memory: dict[str, dict[str, float]], gpu: dict[str, Any] | None) -> bool:
    """Whether the targets hold; True if one does not."""
    missed = False
    print("\nhilum is so many times as fast, by medians (by minima):")
    for work, rivals, target in TARGETS:
        of, least = (_ratios(timed, work, which) for which in ("median_s", "min_s"))
        present = [name for name in rivals if name in of]
        if present:
            name = min(present, key=lambda n: of[n])
            missed |= of[name] < target
            print(
                f"{work + ', ' + name:<34}{of[name]:>8.2f} ({least[name]:.2f}){_verdict(of[name] >= target)} {target:g}"
            )
    most = max(memory["hilum"].values())
    missed |= most > MEMORY
    print(f"{'memory, in batches':<34}{most:>8.2f}{_verdict(most <= MEMORY)} at most {MEMORY:g}")
    if gpu is None:
        print("no GPU here: volumes per second and the share of copy bandwidth are not measured")
        return missed
    holds = gpu["volumes_per_s"] >= VOLUMES_PER_S or gpu["share_of_copy"] >= BANDWIDTH
    print(
        f"{gpu['device']}: {gpu['volumes_per_s']:.0f} volumes of 64 cubed per s, {gpu['gb_per_s']:.1f} of "
        f"{gpu['copy_gb_per_s']:.1f} GB/s of a copy ({gpu['share_of_copy']:.1%}){_verdict(holds)} "
        f"{VOLUMES_PER_S:g} per s or {BANDWIDTH:.0%}"
    )
    return missed or not holds


def _ratios(timed: list[dict[str, Any]], work: str, which: str) -> dict[str, float]:
    """Of each rival's fastest way in a work to Hilum."""
    taken = {row["row"]: row[which] for row in timed if row["work"] == work}
    ways = {rival: [s for name, s in taken.items() if name.split(",")[0] == rival] for rival in RIVALS}
    return {rival: round(min(seconds) / taken["hilum"], 2) for rival, seconds in ways.items() if seconds}


def _verdict(holds: bool) -> str:
    return f"   {'holds' if holds else 'FAILS'}:"


if __name__ == "__main__":
    main()
