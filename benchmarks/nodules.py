"""Real CT: configs/lidc_nodules.toml on all folds with three seeds, judged out of fold, and what it could cheat with.

    python benchmarks/nodules.py [--jobs 2] [--parts main shuffled ...] [--out runs/nodules] [--quick] [--json]

Trains 15 members, and 5 more for each control. Measured on two cores, with other work beside: 150 minutes for the
members where bfloat16 is not fast, 48 for the controls where it is. What was broken off is resumed, what is finished is
only read. The settings were chosen on folds 1 and 2 (benchmarks/learning.py): no choice ever saw folds 3 and 4, whose
AUC is the primary figure.

Each case is predicted by the members that held it out; calibration and threshold are fitted on the other folds.
Intervals are 95 %, by patient; a gain is the difference of two AUC on the same cases, with its paired interval.

- diameter: the readers' outline. automatic size: the diameter that the model's own measure finds in the image.
- crop extents: a logistic regression on how far a crop reaches along z, y and x, fitted on the other folds.
- jitter: change of the probability when a point moves by up to 2 mm, by the members that held the nodule out and the
  calibration of the ensemble.
- votes: log-likelihood of each reader's vote, given the probability of the mean logit, which was trained on the votes.
- controls, one seed each: the labels shuffled; the nodule blanked, a disc of 26 mm around the point at the mean of a
  lung; the shape alone, random waves instead of the image, so that only the crop's extents are left.

The data are looked for at HILUM_DATA or ../shared/data.
"""

import argparse
import csv
import json
import logging
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from jaxtyping import Float, Int
from machine import DATA, ROOT, line, machine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from hilum import Predictor, evaluate, prepare, read
from hilum.cohorts.table import Case, Cohort
from hilum.errors import GeometryError
from hilum.files import csv_text, write_whole
from hilum.judging.evaluation_folder import read_evaluation
from hilum.measuring.bootstrap import Figure
from hilum.measuring.comparison import Rating, compare_ratings
from hilum.measuring.intervals import Asked, with_called_intervals
from hilum.measuring.roc_variance import mean_area, obuchowski
from hilum.modelling.input import model_input
from hilum.modelling.measures import NoduleMeasures
from hilum.randomness import generator
from hilum.settings.run import RunConfig
from hilum.settings.toml import load, to_dict
from hilum.training.folds import train_folds
from hilum.training.out_of_fold import read_out_of_fold
from hilum.training.run_folder import Run
from hilum.volume import Volume, crop

FOLDER = DATA / "lidc-nodules"
TABLE = FOLDER / "nodules.csv"
FOLDS, SEEDS = 5, 3
UNSEEN = (3, 4)
MIDDLE_MM = (6.0, 15.0)
POINT_0314 = (-57.44, 131.23, -520.36)
DRAWS, JITTER_MM = 50, 2.0
RESAMPLES = 2000
BLANK_MM, LUNG_HU = 26.0, -850
CONTROLS = ("shuffled", "blanked", "shape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Cases with what is known of them, and their predictions out of fold.

    Attributes:
        cases: The 695 cases with a label.
        y: 1 where suspicious.
        p: Cross-fitted probability.
        folds: Fold of each.
        by_seed: Difference of the logits by the members of one seed.
        numbers: diameter_mm, automatic_mm and the extents of the crop (z, y, x) in mm.
    """

    cases: tuple[Case, ...]
    y: Int[np.ndarray, " n"]
    p: Float[np.ndarray, " n"]
    folds: Int[np.ndarray, " n"]
    by_seed: Float[np.ndarray, "s n"]
    numbers: dict[str, Float[np.ndarray, "..."]]

    @property
    def patients(self) -> list[str]:
        """Patient of each case."""
        return [case.patient_id for case in self.cases]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--parts", nargs="+", choices=("main", *CONTROLS), default=["main", *CONTROLS])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "nodules")
    parser.add_argument("--quick", action="store_true", help="one seed, one epoch, three draws: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if not TABLE.is_file():
        sys.exit(f"no {TABLE.name}: HILUM_DATA must name the folder with the shared data")
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(line(machine("torch", "scikit-learn")), flush=True)
    out = args.out.with_name(f"{args.out.name}-quick") if args.quick else args.out
    config = load(ROOT / "configs" / "lidc_nodules.toml")
    if args.quick:
        config = replace(config, training=replace(config.training, epochs=1), model=replace(config.model, width=4))
    seeds = 1 if args.quick else SEEDS

    result: dict[str, Any] = {
        "folds": FOLDS,
        "minutes": {},
        "machine": machine("torch", "scikit-learn"),
    }
    if "main" in args.parts:
        result["minutes"]["main"] = _trained(config, TABLE, out / "main", seeds, args.jobs)
        result |= _judged(out / "main", config, 3 if args.quick else DRAWS)
    for control in (part for part in CONTROLS if part in args.parts):
        table = _control_table(control, out / "controls" / control)
        result["minutes"][control] = _trained(config, table, out / control, 1, args.jobs)
        result.setdefault("controls", {})[control] = _control_auc(out / control)
    _show(result)
    if args.json:
        print(json.dumps(result))


def _judged(run: Path, config: RunConfig, draws: int) -> dict[str, Any]:
    """All figures of the main run."""
    found = _found(run, config)
    return {
        "seeds": Run(run).plan.seeds,
        "num_nodules": len(found.y),
        "num_patients": len(set(found.patients)),
        "num_suspicious": int(found.y.sum()),
        **_figures(found),
        "votes": _votes(run, config),
        "jitter": _jitter(found, run, draws),
        "lidc_0314": _whole_scan(run, draws),
    }


# the runs


def _trained(config: RunConfig, table: Path, run: Path, seeds: int, jobs: int) -> float | None:
    """Train and judge what is not yet; the minutes of a run in one sitting."""
    config = replace(
        config,
        cohort=replace(config.cohort, table=str(table.resolve())),
        store=str((run.parent / "store").resolve()),
    )
    taken, resume = run / "minutes.json", Run(run).state == "begun"
    if Run(run).state != "whole":
        started = time.perf_counter()
        train_folds(config, run, folds=FOLDS, seeds=seeds, jobs=jobs, base="/", resume=resume)
        if not resume:
            write_whole(taken, json.dumps(round((time.perf_counter() - started) / 60, 1)))
    _check_settings(run, config)
    if not (run / "evaluation" / "evaluation.json").is_file():
        evaluate(run)
    return json.loads(taken.read_text()) if taken.is_file() else None


def _check_settings(run: Path, config: RunConfig) -> None:
    """End with exit 1 if the run was trained with other settings than these."""
    own = load(run)
    same = replace(config, cohort=replace(config.cohort, table=own.cohort.table), store=own.store)
    same = replace(same, speed=own.speed, split=own.split, loss=replace(config.loss, name=own.loss.name))
    wanted, found = to_dict(same), to_dict(own)
    differ = [name for name in wanted if wanted[name] != found.get(name)]
    if differ:
        sys.exit(f"{run} was trained with other settings ({', '.join(differ)}); name another --out")


def _control_table(control: str, folder: Path) -> Path:
    """The table of a control, with images of its own but for shuffled labels."""
    table = folder / "nodules.csv"
    if table.is_file():
        return table
    with TABLE.open(newline="") as file:
        rows = list(csv.DictReader(file))
    if control == "shuffled":
        own = ("case_id", "image", "mask", "patient_id", "x_mm", "y_mm", "z_mm")
        order = generator(0, "shuffled").permutation(len(rows))
        said = [{name: rows[i][name] for name in rows[0] if name not in own} for i in order]
        rows = [row | other for row, other in zip(rows, said, strict=True)]
    for row in rows:
        image = (FOLDER / row["image"]).resolve()
        row["mask"] = ""
        row["image"] = str(image)
        if control != "shuffled":
            row["image"] = str(folder / Path(row["image"]).name)
            _changed(control, image, [float(row[name]) for name in ("x_mm", "y_mm", "z_mm")], Path(row["image"]))
    for row in rows:
        del row["mask"]
    write_whole(table, csv_text([list(rows[0]), *(list(row.values()) for row in rows)]))
    return table


def _changed(control: str, image: Path, point_mm: Sequence[float], out: Path) -> None:
    """Write a crop without its nodule, or noise of its shape."""
    out.parent.mkdir(parents=True, exist_ok=True)
    scan = sitk.ReadImage(str(image))
    hu = sitk.GetArrayFromImage(scan)
    if control == "shape":
        hu = _waves(scan, out.name)
    else:
        x, y, _ = scan.TransformPhysicalPointToContinuousIndex(tuple(point_mm))
        dx, dy, _ = scan.GetSpacing()
        rows, columns = np.indices(hu.shape[1:])
        hu[:, np.hypot((rows - y) * dy, (columns - x) * dx) <= BLANK_MM / 2] = LUNG_HU
    changed = sitk.GetImageFromArray(np.rint(hu).astype(np.int16))
    changed.CopyInformation(scan)
    sitk.WriteImage(changed, str(out))


def _waves(scan: sitk.Image, name: str) -> Float[np.ndarray, "z y x"]:
    """A random field of waves of 5 to 15 mm, evaluated at the voxels: not even their size can be told from it."""
    random = generator(0, name, "waves")
    direction = random.normal(size=(60, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    wave = direction * (2 * np.pi / random.uniform(5, 15, (60, 1)))
    phase = random.uniform(0, 2 * np.pi, 60)
    axes = [np.arange(n) * step for n, step in zip(scan.GetSize()[::-1], scan.GetSpacing()[::-1], strict=True)]
    at = np.stack(np.meshgrid(*axes, indexing="ij"))
    field = sum(np.cos(np.tensordot(k, at, 1) + shift) for k, shift in zip(wave, phase, strict=True))
    return np.clip(-400 + 300 * field * math.sqrt(2 / 60), -1000, 400)


def _control_auc(run: Path) -> dict[str, Any]:
    """Pooled AUC of a control, and that of the folds' mean."""
    evaluation = read_evaluation(run).evaluation
    figures = evaluation | evaluation["folds"]["outputs"]["1"]
    return {name: figures[name] for name in ("auc", "auc_ci", "auc_fold_mean", "auc_fold_mean_ci")}


# what was found


def _found(run: Path, config: RunConfig) -> Found:
    """The predictions of the main run, and the numbers that they are compared with."""
    cohort = Cohort.read(TABLE, replace(config.cohort, table=str(TABLE)))
    known = read_out_of_fold(run / "cases.csv", ("0", "1"), multi_label=False)
    cases = tuple(case for case in cohort.labelled if case.case_id in set(known.case_ids))
    predicted = known.of(cases)
    return Found(
        cases=cases,
        y=np.array([case.label for case in cases], int),
        p=predicted.probs[:, 1],
        folds=predicted.folds,
        by_seed=_by_seed(run, cases, predicted.folds),
        numbers=_numbers(cases, config),
    )


def _by_seed(run: Path, cases: Sequence[Case], folds: Int[np.ndarray, " n"]) -> Float[np.ndarray, "s n"]:
    """Log odds of each case by the one member of its fold and seed."""
    recipe, members = load(run).recipe, {}
    for member in Run(run).members:
        fold, seed = member.settings.split.fold, member.settings.training.seed
        members[seed, fold] = Predictor(member.folder)
    rows = np.zeros((len({seed for seed, _ in members}), len(cases)))
    for number, case in enumerate(cases):
        sample = prepare(read(case.path), recipe, point_mm=case.point_mm)
        for seed in range(len(rows)):
            negative, positive = members[seed, int(folds[number])].logits([sample])[0]
            rows[seed, number] = positive - negative
    return rows


def _numbers(cases: Sequence[Case], config: RunConfig) -> dict[str, Any]:
    recipe = config.recipe
    measures = NoduleMeasures(recipe.size, recipe.grid_spacing_mm)
    automatic, extents = [], []
    for case in cases:
        scan = read(case.path)
        hu = prepare(scan, recipe, point_mm=case.point_mm).voxels_hu
        x = model_input(torch.from_numpy(hu.astype(np.float32))[None, None], recipe.windows)
        automatic.append(float(measures.measured(x)[0, 0]))
        extents.append(scan.extent_mm)
    diameter = np.array([float(case.groups["diameter_mm"]) for case in cases])
    return {"diameter_mm": diameter, "automatic_mm": np.array(automatic), "extents_mm": np.array(extents)}


def _figures(found: Found) -> dict[str, Any]:
    """The keys of the result on the 695 nodules, of folds 3 and 4, and of the nodules of 6 to 15 mm."""
    diameter = found.numbers["diameter_mm"]
    low, high = MIDDLE_MM
    everywhere = np.ones(len(found.y), bool)
    subsets = {
        "": everywhere,
        "_folds_3_4": np.isin(found.folds, UNSEEN),
        "_6_15mm": (diameter >= low) & (diameter <= high),
    }
    shape = _cross_fitted(np.log(found.numbers["extents_mm"]), found)
    rivals = {"diameter": diameter, "automatic_size": found.numbers["automatic_mm"], "crop_extents": shape}
    result: dict[str, Any] = {}
    for suffix, inside in subsets.items():
        result |= _on(found, inside, suffix, rivals)
    result |= {
        "auc_suspicious": result["auc"], "auc_suspicious_ci": result["auc_ci"],
        "auc_by_fold": [_area(found, found.folds == fold, found.p) for fold in range(FOLDS)],
        "auc_by_seed": [_area(found, everywhere, row) for row in found.by_seed],
        "auc_by_seed_folds_3_4": [_area(found, subsets["_folds_3_4"], row) for row in found.by_seed],
        **_line_of(found),
    }  # fmt: skip
    del result["auc"], result["auc_ci"]
    return result


def _on(found: Found, inside: Any, suffix: str, rivals: dict[str, Any]) -> dict[str, Any]:
    """AUC of the model and of each rival on some cases, and the gains, with intervals."""
    y, p = found.y[inside], found.p[inside]
    patients = [patient for patient, one in zip(found.patients, inside, strict=True) if one]
    own = with_called_intervals(y, p, called=p >= 0.5, patients=patients, asked=Asked())
    result = {
        f"num{suffix or '_all'}": len(y),
        **_ends(f"auc{suffix}", own["auc"]),
        **_ends(f"sensitivity_at_90_specificity{suffix}", own["specificity 0.9 sensitivity"]),
    }
    for name, values in rivals.items():
        rating = Rating(values=values[inside], is_probability=False)
        compared = compare_ratings(y, Rating(values=p), rating, patients=patients)
        result[f"auc_{name}{suffix}"], *ends = _area(found, inside, values)
        result[f"auc_{name}{suffix}_ci"] = ends
        result |= _ends(f"gain_over_{name}{suffix}", compared.differences["auc"])
        result[f"p_equal_areas_{name}{suffix}"] = compared.p_areas
    if suffix != "_folds_3_4":
        result |= _ends(f"auc_fold_mean{suffix}", _fold_mean(found, inside))
    return result


def _area(found: Found, inside: Any, values: Any) -> list[float]:
    """AUC of some cases and the ends of its interval."""
    patients = [patient for patient, one in zip(found.patients, inside, strict=True) if one]
    area = obuchowski(found.y[inside], values[inside], patients=patients).figures[0]
    return [area.value, area.low, area.high]


def _fold_mean(found: Found, inside: Any) -> Figure:
    """Mean AUC of the folds."""
    each = []
    for fold in range(FOLDS):
        own = inside & (found.folds == fold)
        patients = [patient for patient, one in zip(found.patients, own, strict=True) if one]
        each.append(obuchowski(found.y[own], found.p[own], patients=patients))
    return mean_area(each)


def _line_of(found: Found) -> dict[str, Any]:
    """Slope and intercept of the cross-fitted probabilities."""
    from hilum.measuring.agreement import calibration_line_intervals

    fitted = calibration_line_intervals(found.y, found.p, patients=found.patients)
    return {**_ends("calibration_slope", fitted.slope), **_ends("calibration_intercept", fitted.intercept)}


def _ends(name: str, figure: Figure) -> dict[str, Any]:
    return {name: figure.value, f"{name}_ci": [figure.low, figure.high]}


def _cross_fitted(x: Float[np.ndarray, "n f"], found: Found) -> Float[np.ndarray, " n"]:
    """Log odds by a logistic regression that is fitted on the other folds."""
    odds = np.zeros(len(x))
    for fold in range(FOLDS):
        own = found.folds == fold
        model = make_pipeline(StandardScaler(), LogisticRegression()).fit(x[~own], found.y[~own])
        odds[own] = model.decision_function(x[own])
    return odds


def _votes(run: Path, config: RunConfig) -> dict[str, Any]:
    """Mean log-likelihood of a reader's vote, of all nodules with votes, ties included.

    The mean logit is taken as it is: it was learned from the shares of votes. ``constant``: everybody's share.
    ``share``: each nodule's own share, which no model can reach.
    """
    cohort = Cohort.read(TABLE, replace(config.cohort, table=str(TABLE)))
    known = read_out_of_fold(run / "cases.csv", ("0", "1"), multi_label=False)
    cases = [case for case in cohort.cases if case.case_id in set(known.case_ids) and case.soft_label is not None]
    logits = known.of(cases).logits
    z = logits[:, 1] - logits[:, 0]
    share = np.array([case.soft_label for case in cases])
    number = np.array([len(case.groups["votes"].split()) for case in cases], float)
    own = np.clip(share, 1e-12, 1 - 1e-12)
    mean = float((share * number).sum() / number.sum())
    by = {"model": -np.logaddexp(0, -z), "constant": np.full(len(z), np.log(mean)), "share": np.log(own)}
    against = {"model": -np.logaddexp(0, z), "constant": np.full(len(z), np.log(1 - mean)), "share": np.log1p(-own)}
    sums = {name: number * (share * by[name] + (1 - share) * against[name]) for name in by}
    patient = np.unique([case.patient_id for case in cases], return_inverse=True)[1].reshape(-1)
    count = int(patient.max()) + 1
    times = generator(0, "votes").multinomial(count, np.full(count, 1 / count), size=RESAMPLES)[:, patient]
    gain = times @ (sums["model"] - sums["constant"]) / (times @ number)
    return {
        "num_nodules": len(cases),
        "num_votes": int(number.sum()),
        "log_likelihood_per_vote": {name: float(sums[name].sum() / number.sum()) for name in by},
        "gain_over_constant_ci": np.quantile(gain, (0.025, 0.975)).tolist(),
    }


# how steady it is


def _ball(draws: int, *key: str) -> Float[np.ndarray, "d 3"]:
    """Shifts, uniform in a ball of 2 mm."""
    random = generator(0, *key, "jitter")
    direction = random.normal(size=(draws, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    return direction * JITTER_MM * random.random((draws, 1)) ** (1 / 3)


def _shifted(scan: Volume, point_mm: Any, shift: Any, recipe: Any) -> Volume | None:
    try:
        return prepare(scan, recipe, point_mm=np.add(point_mm, shift).tolist())
    except GeometryError:  # the shift leads out of a thin crop
        return None


def _jitter(found: Found, run: Path, draws: int) -> dict[str, Any]:
    """|dP| of each nodule when its point moves by up to 2 mm, by the members of its fold."""
    from hilum.cohorts.dataset import as_sample
    from hilum.deciding.inference import case_logits
    from hilum.deciding.model_folder import load_model, read_card
    from hilum.modelling.ensemble import Ensemble
    from hilum.modelling.speed import EXACT, for_prediction

    recipe = load(run).recipe
    networks: dict[int, dict[str, Any]] = {}
    for member in Run(run).members:
        networks.setdefault(member.settings.split.fold, {})[member.folder.name] = load_model(member.model)[0]
    by_fold = {fold: for_prediction(Ensemble(each).eval(), EXACT) for fold, each in networks.items()}
    card = read_card(Run(run).model)
    moved, num_outside = [], 0
    for case, fold in zip(found.cases, found.folds.tolist(), strict=True):
        scan = read(case.path)
        samples = [_shifted(scan, case.point_mm, shift, recipe) for shift in _ball(draws, case.case_id)]
        inside = [one for one in samples if one is not None]
        num_outside += len(samples) - len(inside)
        inside = [prepare(scan, recipe, point_mm=case.point_mm), *inside]
        with torch.inference_mode():
            cases = [as_sample(one, recipe) for one in inside]
            logits = case_logits(by_fold[fold], cases, recipe, torch.device("cpu"), card.views)
        p = card.decisions.probabilities(logits.double().numpy())[:, 1]
        moved.append(np.abs(p[1:] - p[0]))
    together = np.concatenate(moved)
    return {
        "draws": draws,
        "outside": num_outside,
        "p95": float(np.quantile(together, 0.95)),
        "median": float(np.median(together)),
        "share_above_0.1": float((together > 0.1).mean()),
    }


def _whole_scan(run: Path, draws: int) -> dict[str, Any] | None:
    """The nodule of a whole scan of another patient, by all members: cut ever shorter, and with its point moved."""
    if not (DATA / "lidc-0314").is_dir():
        return None
    predictor, scan = Predictor(run), read(DATA / "lidc-0314")
    _, rows, columns = scan.shape
    middle = scan.mm_to_index(POINT_0314)[0]
    found = {"whole scan": predictor.predict(scan, point_mm=POINT_0314).probabilities["1"]}
    for mm in (26, 12, 8):
        low, high = (round(middle + side * mm / 2 / scan.spacing_mm[0]) for side in (-1, 1))
        part = crop(scan, (low, 0, 0), (high, rows, columns))
        found[f"{mm} mm of it"] = predictor.predict(part, point_mm=POINT_0314).probabilities["1"]
    recipe = predictor.card.recipe
    samples = [_shifted(scan, POINT_0314, shift, recipe) for shift in _ball(draws, "lidc-0314")]
    p = [one.probabilities["1"] for one in predictor.predict_samples([s for s in samples if s is not None])]
    moved = np.abs(np.array(p) - found["whole scan"])
    return {"probability": found, "jitter_p95": float(np.quantile(moved, 0.95)), "jitter_largest": float(moved.max())}


def _show(result: dict[str, Any]) -> None:
    print()
    for name, value in result.items():
        ci = result.get(f"{name}_ci")
        if name.endswith("_ci") or name in ("machine", "minutes"):
            continue
        if ci is not None:
            print(f"  {name:<42}{value:8.4f} ({ci[0]:.4f} to {ci[1]:.4f})")
        else:
            print(f"  {name:<42}{value if not isinstance(value, float) else round(value, 4)}")


if __name__ == "__main__":
    main()
