"""Two real series from their folders to a model's input of 128 cubed in [0, 1], beside what others do for that.

    python benchmarks/preparing.py [--quick] [--rounds 5] [--json]

Hilum finds the lungs, checks them and lays the grid around them. The tutorial, its lung mask included, is run as it
stands; MONAI and TorchIO go through the tutorial's steps (1 mm, window, 128 cubed) and find no lungs. The rows "one
step" are their fastest way to a grid without squeezing, over the whole scan, as "hilum, whole".

Rows are interleaved in each round, in one process, and none is kept from using threads; medians after one round to
warm up, in which the outputs are checked. Memory is measured in a process of its own for each row and scan: the most
that it holds above what it held after its imports. The data are looked for at HILUM_DATA or ../shared/data.
"""

import argparse
import gc
import importlib
import importlib.util
import json
import statistics
import subprocess
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import DATA, forget_peak, line, machine, need, peak_bytes

SCANS = ("lidc-0314", "lung-dx-a0001")
RIVALS = ("tutorial", "monai", "torchio")
TUTORIAL_TIMES, OTHERS_TIMES, MEMORY = 8.0, 5.0, 1 / 3
"""Hilum must be so many times as fast as the tutorial and as MONAI and TorchIO, with this share of its memory."""

EDGE, LOW, HIGH = 128, -1000.0, 400.0
SIZE = (EDGE, EDGE, EDGE)
STEPS = (
    ("read the headers", "hilum.reading.reader", ("find_series", "choose_series")),
    ("read the voxels", "hilum.reading.reader", ("load_series", "check_hu")),
    ("coarse grid", "hilum.preparing.lungs.segment", ("_coarse",)),
    ("body", "hilum.preparing.lungs.segment", ("find_body", "leftward_mm")),
    ("airways", "hilum.preparing.lungs.segment", ("find_airways",)),
    ("right and left", "hilum.preparing.lungs.segment", ("right_and_left",)),
    ("closing", "hilum.preparing.lungs.segment", ("_closed",)),
    ("lung fields", "hilum.preparing.lungs.segment", ("lung_field",)),
    ("check", "hilum.preparing.lungs.segment", ("measure", "judge_lungs")),
    ("the one resampling", "hilum.preparing.prepare", ("sample",)),
)

Prepare = Callable[[str], np.ndarray]
"""A folder to the model's input."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory", nargs=2, metavar=("ROW", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # MONAI's, on each file that is no DICOM
    if args.memory:
        print(_peak(*args.memory))
        return
    need("pydicom", "skimage", "monai", "torchio")
    missing = [scan for scan in SCANS if not (DATA / scan).is_dir()]
    if missing:
        sys.exit(f"no folder {missing[0]}: HILUM_DATA must name the folder with the shared data")

    found = machine("scipy", "simpleitk", "scikit-image", "monai", "torchio", "torch")
    print(line(found), flush=True)
    print("MONAI reads by its PydicomReader (its ITKReader needs the package itk)", flush=True)
    rows = {name: make() for name, make in ROWS.items()}
    alike, failures = _checked(rows)
    works = {name: row for name, row in rows.items() if name not in failures}
    timed = _timed(works, 1 if args.quick else args.rounds)
    memory = {name: {scan: _mebibytes(name, scan) for scan in SCANS} for name in works}
    shares = {scan: _shares(DATA / scan, 3 if args.quick else 9) for scan in SCANS}
    _show_rows(timed, memory)
    _show_shares(shares)
    print("\ncorrelation of outputs on comparable grids, to be sure that rows do the same work:")
    for pair, values in alike.items():
        print(f"{pair:<40}" + "".join(f"{scan:>20}: {value:.3f}" for scan, value in values.items()))
    for name, failure in failures.items():
        print(f"\n{name} FAILED: {failure}")
    if "hilum" in failures:
        sys.exit(1)
    ratios = _show_targets(timed, memory)
    if args.json:
        report = {"rows": timed, "ratios": ratios, "memory_mib": memory, "steps_ms": shares, "alike": alike}
        print(json.dumps(report | {"machine": found}))
    sys.exit(1 if failures else 0)


# the rows: each imports what it needs when it is made


def _hilum(**settings: Any) -> Prepare:
    from hilum import Recipe
    from hilum.preparing import normalize, prepare_path

    recipe = Recipe(size=SIZE, fit="region", **settings)
    return lambda folder: normalize(prepare_path(Path(folder), recipe), (LOW, HIGH))


def _tutorial() -> Prepare:
    spec = importlib.util.spec_from_file_location("tutorial", DATA.parent / "baseline" / "tutorial.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(folder: str) -> np.ndarray:
        done: np.ndarray = module.preprocess_image(*module.load_dicom_series(folder), SIZE)[0]
        return done

    return run


def _monai() -> Prepare:
    import pydicom  # noqa: F401  # which MONAI imports when it reads
    from monai import transforms as t

    steps = t.Compose(
        [
            t.LoadImage(reader="PydicomReader", image_only=True),
            t.EnsureChannelFirst(),
            t.Orientation("RAS"),
            t.Spacing((1.0, 1.0, 1.0), mode="bilinear"),
            t.ScaleIntensityRange(LOW, HIGH, 0, 1, clip=True),
            t.Resize(SIZE, mode="trilinear"),
        ]
    )
    return lambda folder: _zyx(steps(folder)[0].numpy())


def _monai_one_step() -> Prepare:
    import pydicom  # noqa: F401
    from monai import transforms as t

    load = t.Compose([t.LoadImage(reader="PydicomReader", image_only=True), t.EnsureChannelFirst()])
    turn = t.Orientation("RAS")
    finish = t.Compose([t.ScaleIntensityRange(LOW, HIGH, 0, 1, clip=True), t.ResizeWithPadOrCrop(SIZE)])

    def run(folder: str) -> np.ndarray:
        image = turn(load(folder))
        step = _widest(image.pixdim.numpy(), image.shape[1:])
        return _zyx(finish(t.Spacing((step, step, step), mode="bilinear")(image))[0].numpy())

    return run


def _torchio() -> Prepare:
    import torchio as t

    steps = t.Compose(
        [
            t.ToCanonical(),
            t.Resample(1),
            t.Clamp(LOW, HIGH),
            t.RescaleIntensity((0, 1), in_min_max=(LOW, HIGH)),
            t.Resize(SIZE),
        ]
    )
    return lambda folder: _zyx(steps(t.ScalarImage(folder)).numpy()[0])


def _torchio_one_step() -> Prepare:
    import torchio as t

    turn = t.ToCanonical()
    finish = t.Compose(
        [t.Clamp(LOW, HIGH), t.RescaleIntensity((0, 1), in_min_max=(LOW, HIGH)), t.CropOrPad(SIZE, padding_mode=0)]
    )

    def run(folder: str) -> np.ndarray:
        image = turn(t.ScalarImage(folder))
        return _zyx(finish(t.Resample(_widest(image.spacing, image.spatial_shape))(image)).numpy()[0])

    return run


ROWS: dict[str, Callable[[], Prepare]] = {
    "hilum": lambda: _hilum(region="lungs"),
    "tutorial": _tutorial,
    "monai": _monai,
    "torchio": _torchio,
    "hilum, lungs cut out": lambda: _hilum(region="lungs", outside_lungs="air"),
    "hilum, whole": lambda: _hilum(region="whole"),
    "monai, one step": _monai_one_step,
    "torchio, one step": _torchio_one_step,
}


def _widest(spacing_mm: Any, shape: Any) -> float:
    """The spacing at which the whole scan just fits into the grid, unsqueezed."""
    return float(max(s * n for s, n in zip(spacing_mm, shape, strict=True))) / EDGE


def _zyx(ras: np.ndarray) -> np.ndarray:
    """From right to left, back to front, feet to head as (x, y, z) to Hilum's order."""
    return np.flip(ras, (0, 1)).transpose(2, 1, 0)


# time


def _checked(rows: dict[str, Prepare]) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Each row run once: which outputs are alike, and why a row failed."""
    alike: dict[str, dict[str, float]] = defaultdict(dict)
    failures: dict[str, str] = {}
    for scan in SCANS:
        outputs: dict[str, np.ndarray] = {}
        for name, row in rows.items():
            try:
                out = row(str(DATA / scan))
            except Exception as exc:  # noqa: BLE001  # whatever a library raises
                failures[name] = f"{scan}: {type(exc).__name__}: {exc}"
                continue
            if out.shape != SIZE or not np.isfinite(out).all() or out.min() < -1e-5 or out.max() > 1 + 1e-5:
                range_ = f"{np.nanmin(out):g} to {np.nanmax(out):g}"
                failures[name] = f"{scan}: {out.dtype} of {out.shape} in {range_}, must be of {SIZE} in [0, 1]"
            outputs[name] = out
        for one, other in (
            ("hilum, whole", "torchio, one step"),
            ("hilum, whole", "monai, one step"),
            ("monai", "torchio"),
        ):
            if one in outputs and other in outputs:
                value = np.corrcoef(outputs[one].ravel(), outputs[other].ravel())[0, 1]
                alike[f"{one} and {other}"][scan] = round(float(value), 4)
    return dict(alike), failures


def _timed(rows: dict[str, Prepare], rounds: int) -> list[dict[str, Any]]:
    seconds: dict[tuple[str, str], list[float]] = {(name, scan): [] for scan in SCANS for name in rows}
    names = list(rows)
    for number in range(rounds):  # in another order each, so that none always follows the same one
        for scan in SCANS:
            for name in names[number % len(names) :] + names[: number % len(names)]:
                gc.collect()
                started = time.perf_counter()
                rows[name](str(DATA / scan))
                seconds[name, scan].append(time.perf_counter() - started)
    return [
        {
            "row": name,
            "scan": scan,
            "median_s": round(statistics.median(values), 4),
            "min_s": round(min(values), 4),
            "max_s": round(max(values), 4),
            "rounds": rounds,
        }
        for (name, scan), values in seconds.items()
    ]


def _shares(folder: Path, rounds: int) -> dict[str, float]:
    """Milliseconds of each step of the first row, medians, in runs of their own; and of reading the files' bytes."""
    prepare = ROWS["hilum"]()
    taken: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds + 1):
        spent: dict[str, float] = dict.fromkeys((step for step, _, _ in STEPS), 0.0)
        originals = []
        for step, module, functions in STEPS:
            place = importlib.import_module(module)
            for name in functions:
                originals.append((place, name, getattr(place, name)))
                setattr(place, name, _with_clock(getattr(place, name), spent, step))
        started = time.perf_counter()
        prepare(str(folder))
        total = time.perf_counter() - started
        for place, name, original in originals:
            setattr(place, name, original)
        started = time.perf_counter()
        for file in folder.iterdir():
            file.read_bytes()
        raw = time.perf_counter() - started
        if number:  # the first warms up
            rest = total - sum(spent.values())
            for step, value in {**spent, "the window and the rest": rest, "all": total, "raw": raw}.items():
                taken[step].append(1000 * value)
    return {step: round(statistics.median(values), 2) for step, values in taken.items()}


def _with_clock(function: Callable[..., Any], spent: dict[str, float], step: str) -> Callable[..., Any]:
    def run(*args: Any, **named: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **named)
        finally:
            spent[step] += time.perf_counter() - started

    return run


# memory


def _mebibytes(name: str, scan: str) -> float:
    """Peak memory above that of the imports."""
    command = [sys.executable, __file__, "--memory", name, str(DATA / scan)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(done.stdout.split()[-1]) / 2**20, 1)


def _peak(name: str, folder: str) -> int:
    row = ROWS[name]()
    gc.collect()
    held = forget_peak()
    row(folder)
    return peak_bytes() - held


# what is printed


def _show_rows(timed: list[dict[str, Any]], memory: dict[str, dict[str, float]]) -> None:
    print(f"\n{'':<22}" + "".join(f"{scan:>40}" for scan in SCANS))
    print(f"{'':<22}" + f"{'median (min to max) s':>28}{'MiB':>12}" * len(SCANS))
    for name, held in memory.items():
        cells = ""
        for scan in SCANS:
            row = next(r for r in timed if (r["row"], r["scan"]) == (name, scan))
            cells += f"{row['median_s']:.3f} ({row['min_s']:.3f} to {row['max_s']:.3f})".rjust(28)
            cells += f"{held[scan]:>12.0f}"
        print(f"{name:<22}{cells}")


def _show_shares(shares: dict[str, dict[str, float]]) -> None:
    print("\nwhere hilum's time goes, ms" + "".join(f"{scan:>24}" for scan in SCANS))
    for step in shares[SCANS[0]]:
        cells = "".join(f"{s[step]:>16.1f}{s[step] / s['all']:>8.1%}" for s in shares.values())
        print(f"{'the floor: the bytes read' if step == 'raw' else step:<33}{cells}")


def _show_targets(timed: list[dict[str, Any]], memory: dict[str, dict[str, float]]) -> dict[str, float]:
    """Whether the targets hold; the ratios, each on the scan where it is least."""
    ratios, least = (_ratios(timed, which) for which in ("median_s", "min_s"))
    print("\nhilum is so many times as fast, on the scan where it is least, by medians (by minima):")
    for name, ratio in ratios.items():
        target = TUTORIAL_TIMES if name == "tutorial" else OTHERS_TIMES
        print(f"{name:<22}{ratio:>8.2f} ({least[name]:.2f}){_verdict(ratio >= target)} at least {target:g}")
    if "tutorial" in memory:
        share = max(memory["hilum"][scan] / memory["tutorial"][scan] for scan in SCANS)
        print(f"{'memory of the tutorial':<22}{share:>8.2f}{_verdict(share <= MEMORY)} at most {MEMORY:.2f}")
    return ratios


def _ratios(timed: list[dict[str, Any]], which: str) -> dict[str, float]:
    taken = {(r["row"], r["scan"]): r[which] for r in timed}
    present = [name for name in RIVALS if (name, SCANS[0]) in taken]
    return {name: round(min(taken[name, scan] / taken["hilum", scan] for scan in SCANS), 2) for name in present}


def _verdict(holds: bool) -> str:
    return f"   {'holds' if holds else 'FAILS'}:"


if __name__ == "__main__":
    main()
