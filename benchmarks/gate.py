"""What a model gives no result for: the demo's model on scans unlike those of its training, and on new ones like them.

    python benchmarks/gate.py [--jobs 2] [--out runs/gate] [--quick] [--json]

Runs the demo, then predicts with its model: the odd scans that can be read, an abdomen, real chests of other scanners,
and 40 new chests of its own scanner, each also shifted by 300 HU, averaged to slices of 12 mm or more, turned upside
down, with a sharp kernel, and with a quarter of the dose. The limit of the features is then chosen anew on 300 chests
that were held out, for 2 % and for 20 %, and the share held back of 300 further ones is counted, with Wilson's
interval. What was broken off is resumed; about fifteen minutes on two cores.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import DATA, ROOT, line, machine

from hilum.deciding.facts import facts_of, kernel_of
from hilum.deciding.fit_gate import Seen, outside, with_limit
from hilum.errors import HilumError
from hilum.measuring.bootstrap import wilson
from hilum.predicting import Predictor
from hilum.randomness import generator
from hilum.simulating import plan_cohort, sample_anatomy, sample_disease, sample_scanner, simulate_case, simulate_scan
from hilum.simulating.cohort import SimulatedCase
from hilum.volume import Volume

HILUM = "import sys; from hilum.cli import main; sys.exit(main(sys.argv[1:]))"
SHARES = (0.02, 0.2)
SEED = 1000
"""Of the new chests; the demo's is 0."""
ODD = ("abdomen.nii.gz", "gantry-tilt", "slice-increment", "slice-count", "not-a-volume", "compressed", "multiframe")
REAL = ("lidc-0314", "lung-dx-a0001", "ct-64")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "gate")
    parser.add_argument("--quick", action="store_true", help="a demo of 60 chests, 8 new ones: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = machine("torch")
    print(line(found), flush=True)
    out = args.out.with_name(f"{args.out.name}-quick") if args.quick else args.out
    run = _demo(out, args.jobs, quick=args.quick)
    changed, held_out, tested = (4, 8, 8) if args.quick else (40, 300, 300)
    predictor = Predictor(run, device="cpu")
    rows = _files(predictor) + _changed(predictor, changed)
    for row in rows:
        print(
            f"{row['what']:34s} {row['without_decision']:3d} of {row['number']:3d} without a decision: {row['codes']}"
        )
    cases = _patients(held_out + tested)
    with ProcessPoolExecutor(args.jobs, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        seen = list(pool.map(_seen, cases, [run] * len(cases), [out / "facts"] * len(cases), chunksize=4))
    shares = [_share(predictor, seen[:held_out], seen[held_out:], asked) for asked in SHARES]
    for row in shares:
        print(f"asked {row['asked']:.0%}: {row['held_back']:.1%} ({row['ci'][0]:.1%} to {row['ci'][1]:.1%}) held back")
    if args.json:
        print(json.dumps({"rows": rows, "shares": shares, "machine": found}))


def _demo(out: Path, jobs: int, *, quick: bool) -> Path:
    """The run of the demo, if it is not there yet."""
    run = out / "demo" / "run"
    if not (run / "model" / "model.json").is_file():
        code = f"import pathlib, hilum.demo; hilum.demo.demo(pathlib.Path({str(out / 'demo')!r}), num_cases=60)"
        call = (
            [sys.executable, "-c", code] if quick else [sys.executable, "-c", HILUM, "demo", "--out", str(out / "demo")]
        )
        subprocess.run(call, check=True, env=os.environ | {"OMP_NUM_THREADS": str(jobs)})
    return run


def _files(predictor: Predictor) -> list[dict[str, Any]]:
    """Outcomes of real scans; one that cannot be read or prepared is refused, which is no decision either."""
    scans = [DATA / "odd" / name for name in ODD] + [DATA / name for name in REAL]
    rows = [_row(path.name, [_outcome(predictor, path)]) for path in scans if path.exists()]
    return [*rows, _row("a head of two ellipsoids", [_outcome(predictor, _head())])]


def _head() -> Volume:
    """Brain within a skull within air, with the demo's voxels: no lungs, and nothing else that a chest has."""
    z, y, x = np.ogrid[-100:100:5.0, -192:192:2.0, -192:192:2.0]
    inner, outer = ((z / (a + 15)) ** 2 + (y / (a + 10)) ** 2 + (x / a) ** 2 <= 1 for a in (65, 73))
    hu = np.where(inner, 35, np.where(outer, 1000, -1000)) + generator(SEED, "head").normal(0, 10, inner.shape)
    return Volume.from_array(np.rint(hu).astype(np.int16), spacing_mm=(5.0, 2.0, 2.0))


def _outcome(predictor: Predictor, scan: Path | Volume) -> tuple[str, ...]:
    """Codes of why there is no decision; empty with one."""
    try:
        return predictor.predict(scan).outcome.codes
    except HilumError as exc:
        return (f"refused: {exc.code or 'cannot be read'}",)


def _changed(predictor: Predictor, number: int) -> list[dict[str, Any]]:
    """Outcomes of new chests as they are, and changed."""
    chests = [(case, simulate_case(case, seed=SEED)[0]) for case in plan_cohort(number, seed=SEED)]
    changes: dict[str, Callable[[SimulatedCase, Volume], Volume]] = {
        "new chests": lambda _, v: v,
        "shifted by 300 HU": lambda _, v: replace(
            v, voxels_hu=np.clip(v.voxels_hu + 300, -1024, 3071).astype(np.int16)
        ),
        "slices of 12 mm or more": lambda _, v: _thick(v, 12.0),
        "upside down": lambda _, v: replace(v, voxels_hu=np.ascontiguousarray(v.voxels_hu[::-1])),
        "a sharp kernel": lambda case, _: _scanned(case, kernel="sharp"),
        "a quarter of the dose": lambda case, _: _scanned(case, dose=0.25),
    }
    return [_row(name, [_outcome(predictor, change(*one)) for one in chests]) for name, change in changes.items()]


def _scanned(case: SimulatedCase, *, kernel: str = "", dose: float = 1.0) -> Volume:
    """The same patient by the same scanner, with another kernel or dose."""
    anatomy = sample_anatomy(generator(SEED, case.patient_id, "anatomy"))
    scanner = sample_scanner(generator(SEED, case.case_id, "scanner"), pixel_mm=2.0, pixels=192, thin=False)
    scanner = replace(scanner, kernel=kernel or scanner.kernel, noise_hu=scanner.noise_hu / dose**0.5)
    lesions = sample_disease(anatomy, case.disease, rng=generator(SEED, case.patient_id, "lesions"))
    return simulate_scan(SEED, key=case.case_id, anatomy=anatomy, lesions=lesions, scanner=scanner)[0]


def _thick(volume: Volume, mm: float) -> Volume:
    """Slices averaged to ones of at least this thickness."""
    number = int(np.ceil(mm / volume.spacing_mm[0]))
    count = volume.shape[0] // number
    hu = volume.voxels_hu[: count * number].reshape(count, number, *volume.shape[1:]).mean(axis=1)
    affine = volume.affine.copy()
    affine[:3, 0] *= number
    affine[:3, 3] = volume.index_to_mm(((number - 1) / 2, 0, 0))
    return replace(volume, voxels_hu=np.rint(hu).astype(np.int16), affine=affine)


def _row(what: str, outcomes: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    codes = sorted({code for one in outcomes for code in one})
    return {
        "what": what,
        "number": len(outcomes),
        "without_decision": sum(map(bool, outcomes)),
        "codes": {code: sum(code in one for one in outcomes) for code in codes},
    }


def _patients(number: int) -> list[SimulatedCase]:
    """The first scans of new patients."""
    cases = plan_cohort(2 * number, seed=SEED + 1)
    return [case for case in cases if case.visit == 1][:number]


def _seen(case: SimulatedCase, run: Path, folder: Path) -> dict[str, Any]:
    """Facts and distance of a new chest, kept on disk; no facts where it is refused."""
    file = folder / f"{case.case_id}.json"
    if file.is_file():
        return dict(json.loads(file.read_text()))
    predictor = Predictor(run, device="cpu")
    found: dict[str, Any] = {"facts": None, "kernel": "", "distance": 0.0}
    try:
        sample = predictor.prepare(simulate_case(case, seed=SEED + 1)[0])
    except HilumError:
        pass
    else:
        facts = facts_of(sample, predictor.card.recipe)
        _, distances = predictor.logits_and_distances([sample])
        distance = None if distances is None else float(distances[0])
        found = {"facts": facts, "kernel": kernel_of(sample), "distance": distance}
    folder.mkdir(parents=True, exist_ok=True)
    file.with_suffix(".part").write_text(json.dumps(found))
    file.with_suffix(".part").replace(file)
    return found


def _share(
    predictor: Predictor, held_out: Iterable[dict[str, Any]], tested: Iterable[dict[str, Any]], asked: float
) -> dict[str, Any]:
    """Share of new chests that the gate holds back, with a limit from chests that were held out."""
    known = [one for one in held_out if one["facts"] is not None]
    seen = Seen(
        facts=tuple(one["facts"] for one in known),
        kernels=tuple(one["kernel"] for one in known),
        patients=tuple(map(str, range(len(known)))),
    )
    own = predictor.card.gate
    assert own is not None
    distances = np.array([one["distance"] for one in known], float)
    gate = with_limit(own, seen.patients, outside(own, seen), distances, asked)
    new = [one for one in tested if one["facts"] is not None]
    back = [bool(gate.findings(one["facts"], one["kernel"], one["distance"])) for one in new]
    share = float(np.mean(back))
    ends = {"held_back": share, "ci": list(wilson(share, len(back))), "number": len(back)}
    return {"asked": asked, **ends, "rule": gate.rule}


if __name__ == "__main__":
    main()
