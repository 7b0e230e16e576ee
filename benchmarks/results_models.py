"""The pages on training: its speed, the nodules of LIDC-IDRI, rare classes."""

import statistics
from collections.abc import Mapping
from typing import Any

from results_format import (
    NOT_KEPT,
    Result,
    between,
    constant,
    default_rounds,
    digits,
    fixed,
    grid,
    page,
    percent,
    result,
    seconds,
    small,
    span,
    table,
)

NETWORKS = [{"depth": depth, "edge": edge} for depth in (18, 50) for edge in (64, 96)]
OF_NETWORKS = [f"ResNet-{column['depth']} at {column['edge']} cubed" for column in NETWORKS]
STEPS = {
    "hilum": "Hilum",
    "monai, bf16, channels last": "MONAI, bf16, channels last",
    "monai, bf16": "MONAI, bf16",
    "monai, fp32, channels last": "MONAI, fp32, channels last",
    "monai, fp32": "MONAI, fp32",
    "tutorial": "the tutorial",
}
LIDC = "LIDC-IDRI nodules, label `suspicious` (by most readers)"
BY_PATIENT = "95 % intervals in brackets, by patient"


def training() -> str:
    fast, slow, fp32 = result("training_step"), result("training_step_slow_bf16"), result("training_step_no_amx")
    conv = max(fast["conv_gflops"].values())
    return page(
        "Training",
        "## A training step",
        "Batches of 8, forward, backward and optimizer, without a loader. MONAI's ResNet has the tutorial's structure. "
        "How Hilum computes is chosen by measuring at the start of a training: [speed](../concepts/speed.md).",
        "### A processor with AVX512-BF16 and without a matrix unit",
        "Hilum chose bf16. Its networks are computed at "
        f"{span((row['gflops'] for row in fast['rows'] if row['row'] == 'hilum'), lambda value: f'{value:.0f}')} "
        f"GFLOP/s, all else included, beside {conv:.0f} of one convolution alone.",
        _steps(fast),
        "Error of the weights' gradients in stage 4, relative to fp32 from the same activations "
        "([where they are wrong](../concepts/speed.md#gradients-that-are-wrong)):",
        _gradients(fast),
        "### The same in fp32",
        "Runs of their own, in which the processor's matrix unit is switched off and the tutorial alone is compared.",
        _steps(fp32),
        _gradients(fp32),
        "### A processor on which bf16 is no faster",
        f"Hilum chose fp32: {span(_ratios(slow, 'tutorial'), digits)} times as fast as the tutorial, and "
        f"{span(_ratios(slow, 'monai'), digits)} times as fast as the fastest of MONAI's rows.",
        _steps(slow),
        *_epoch(),
        *_learning(),
        *_steadiness(),
        "## Augmentation",
        "That the preset `standard` is the default was decided on one fold, with the settings of then: a slab of 5 mm, "
        "without votes, auxiliary targets and measures. Its gain has the same sign with each seed, and is not proven.",
        *_compared(result("augment_lidc_fold1")),
        "## bf16 beside fp32",
        "Training in bf16, which is chosen where it is faster, on the same fold with the same seeds.",
        *_compared(result("compare_lidc_precision_fold1")),
    )


def rounds_of_steps(found: Result) -> str:
    """How often a training step was timed; older files do not keep it, and the script's own constant stands."""
    rounds = [row.get("rounds") for row in found["rows"]]
    if all(rounds):
        return f"medians of {span(rounds)} interleaved rounds"
    return f"medians of {span(constant('training_step', 'ROUNDS').values())} interleaved rounds (by the script)"


def _steps(found: Result) -> str:
    names = {name: text for name, text in STEPS.items() if any(row["row"] == name for row in found["rows"])}
    way = next(row["way"] for row in found["rows"] if row["row"] == "hilum").partition(",")[0]
    names["hilum"] = f"Hilum, {way}" + (", chosen by measuring" if not found["no_amx"] else "")
    return table(
        found,
        ["row", *OF_NETWORKS],
        grid(found["rows"], names, NETWORKS, seconds, least="median_s"),
        runs=rounds_of_steps(found),
        spread="smallest and largest, in brackets",
    )


def _gradients(found: Result) -> str:
    names = {name: text for name, text in STEPS.items() if any(row["row"] == name for row in found["rows"])}
    return table(
        found,
        ["row", *OF_NETWORKS],
        grid(found["rows"], names, NETWORKS, lambda row: small(row["gradient_error"])),
        runs="once, after the timed steps",
        spread=NOT_KEPT,
    )


def _ratios(found: Result, rival: str) -> list[float]:
    """The rival's fastest row over Hilum's, for each network."""
    ratios = []
    for column in NETWORKS:
        rows = [row for row in found["rows"] if all(row[key] == value for key, value in column.items())]
        own = next(row["median_s"] for row in rows if row["row"] == "hilum")
        ratios.append(min(row["median_s"] for row in rows if row["row"].split(",")[0] == rival) / own)
    return ratios


def _epoch() -> list[str]:
    found = result("epoch")
    bare = found["seconds"]["bare steps"]
    rounds = found.data.get("rounds") or f"{default_rounds('epoch')} (the script's default)"
    return [
        "## An epoch",
        "A ResNet-18 at 64 cubed in batches of 8, 96 cases. `bare steps` are forward, backward, clipping and optimizer "
        "on batches in memory; `epoch` is Hilum's loop over the same batches from the store, averaging of weights "
        f"included. The preset `standard` is {percent(found['share_of_augmentation'])} of an augmented epoch.",
        table(
            found,
            ["row", "seconds", "of the bare steps"],
            [[name, digits(taken), fixed(taken / bare, 2)] for name, taken in found["seconds"].items()],
            runs=f"medians of {rounds} interleaved rounds",
            spread=NOT_KEPT,
        ),
    ]


def _learning() -> list[str]:
    found = result("learning")
    names = {
        "base": "base",
        "box-32": "a box of 32 mm whose crops end where they ended",
        "ema": "`ema_epochs = 2`",
        "votes": '`num_readers`, `unlabelled = "train"`: the readers\' votes',
        "auxiliary": "`auxiliary`: mean vote, diameter, texture, spiculation, margin, subtlety",
        "group-norm": '`norm = "group"`',
        "sgd-cosine": "`sgd`, `lr = 0.05`, `weight_decay = 5e-4`, `cosine`",
        "measures": '`measures = "nodule"`',
    }
    folds, seeds = (", ".join(map(str, found[key])) for key in ("folds", "seeds"))
    return [
        "## What each setting was worth",
        f"{LIDC}, folds {folds} of 5 with seeds {seeds}; a ResNet-10 of width 16, 40 epochs of one cycle, the last "
        "epoch. Each arm is `base` with the settings named; base is a box of 5 x 25.6 x 25.6 mm. The settings of "
        "`configs/lidc_nodules.toml` were chosen here, so these folds judge none of them. No difference is beyond "
        "chance. [What that says](../concepts/training.md#what-each-was-worth).",
        table(
            found,
            "arm | AUC, mean | difference, paired | AUC of the seeds together | difference, paired | each: fold by "
            "fold, seed by seed | minutes",
            [
                [
                    names[row["arm"]],
                    fixed(row["auc"], 4),
                    _difference(row, "auc_difference"),
                    fixed(row["ensemble"], 4),
                    _difference(row, "ensemble_difference"),
                    ", ".join(fixed(one) for one in row["each"]),
                    digits(row["minutes"]),
                ]
                for row in found["rows"]
            ],
            runs=f"{len(found['folds']) * len(found['seeds'])} trainings of each arm",
            spread="each training; 95 % intervals of differences in brackets, by a bootstrap of "
            f"{constant_resamples():,} resamples of patients in which all arms see the same ones",
        ),
    ]


def constant_resamples() -> int:
    return int(constant("learning", "NUM_RESAMPLES"))


def _difference(row: Mapping[str, Any], key: str) -> str:
    value, *ends = row[key]
    return "" if row["arm"] == "base" else between(value, ends, 4, signed=True)


def _steadiness() -> list[str]:
    found = result("steadiness")
    names = {
        "defaults": "the demo's settings",
        "planned": "`hilum train cohort.csv`, without a config",
        "no-smoothing": "`label_smoothing = 0`",
        "sgd-cosine": "`sgd`, `lr = 0.05`, `weight_decay = 5e-4`, `cosine`",
    }
    rows = []
    for arm, text in names.items():
        own = [row for row in found["rows"] if row["arm"] == arm]
        aucs = [row["auc"] for row in own]
        rows.append(
            [
                text,
                len(own),
                fixed(max(row["ratio"] for row in own), 2),
                f"{fixed(statistics.mean(aucs))}, {fixed(statistics.stdev(aucs))}",
                "<br>".join(f"{fixed(row['ratio'], 2)}; {between(row['auc'], row['auc_ci'])}" for row in own),
            ]
        )
    return [
        "## How steadily a small cohort is trained",
        "The demo's simulated chests, no patients; each seed has a cohort, split and training of its own. Ratio: the "
        "largest validation loss after the third epoch as a multiple of the first epoch's. The test parts have so few "
        "positives that a single AUC means little, and the demo's settings were tuned on its own cohort (seed 0): the "
        "figures show that the pipeline works, and nothing on patients.",
        table(
            found,
            ["arm", "seeds", "largest ratio", "AUC: mean, sd over the seeds", "seed by seed: ratio; AUC (95 %)"],
            rows,
            runs="one training of each seed",
            spread="each seed, with the 95 % interval of its AUC by patient",
        ),
    ]


def _compared(found: Result) -> list[str]:
    (difference,) = found["differences"]
    return [
        table(
            found,
            ["arm", "AUC", "seed by seed", "sd over the seeds"],
            [
                *(
                    [row["arm"], between(row["auc"], row["ci"]), _each(row["aucs"]), fixed(row["sd_over_seeds"], 4)]
                    for row in found["rows"]
                ),
                [
                    difference["arms"].replace("-", "minus") + ", paired",
                    between(difference["auc"], difference["ci"], signed=True),
                    ", ".join(fixed(one, 4, signed=True) for one in difference["by_seed"]),
                    fixed(difference["sd_over_seeds"], 4),
                ],
            ],
            runs=f"{len(found['rows'][0]['aucs'])} seeds of {found['epochs']} epochs for each arm, on fold "
            f"{found['fold']} of 5: {found['num_cases']} nodules of {found['num_patients']} patients, "
            f"{found['num_positives']} suspicious",
            spread=f"{BY_PATIENT}; sd over the seeds",
        )
    ]


def _each(values: list[float]) -> str:
    return ", ".join(fixed(value) for value in values)


PARTS = {"": "all nodules", "_folds_3_4": "folds 3 and 4, which no choice ever saw", "_6_15mm": "6 to 15 mm"}
"""Of the nodules that are judged, by the suffix of their figures."""
RIVALS = {
    "diameter": "the readers' diameter",
    "automatic_size": "the diameter that the image shows, without a reader",
    "crop_extents": "the crop's extents in z, y and x",
}


def nodules() -> str:
    found = result("nodules")
    numbers = {part: found["num_nodules" if not part else f"num{part}"] for part in PARTS}
    own = {part: ("auc_suspicious" if not part else f"auc{part}") for part in PARTS}
    rows: list[list[str]] = [
        [
            "Hilum: ensembles of ResNet-10 of width 16 on a slab of 3.75 mm around the point",
            *(between(found[key], found[f"{key}_ci"]) for key in own.values()),
        ]
    ]
    rows += [[f"size alone: {text}", *_cells(found, f"auc_{rival}")] for rival, text in RIVALS.items()]
    for rival, text in RIVALS.items():
        rows.append([f"gain over {text}, paired", *_cells(found, f"gain_over_{rival}", signed=True)])
        rows.append(
            ["p of that gain, by equal areas", *(digits(found[f"p_equal_areas_{rival}{part}"], 2) for part in PARTS)]
        )
    rows.append(["sensitivity at a specificity of 0.90", *_cells(found, "sensitivity_at_90_specificity")])
    runs = f"{found['folds']} folds x {found['seeds']} seeds"
    return page(
        "Nodules of LIDC-IDRI",
        f"{LIDC}: {found['num_nodules']} nodules of {found['num_patients']} patients, {found['num_suspicious']} "
        "suspicious. Each is predicted by the members that held its patient out, by `configs/lidc_nodules.toml`. The "
        "settings were chosen on folds 1 and 2 ([what each was worth](training.md#what-each-setting-was-worth)): no "
        "choice ever saw folds 3 and 4, whose AUC is the primary figure.",
        "**On folds 3 and 4 no gain over a diameter is beyond chance.** On all folds the gain over the diameter that "
        "the image shows is, and that over a ruler in a reader's hand is not. The nodules are crops that the readers "
        "marked: the figures say nothing about detecting nodules, nor about cancer, for the label is the readers' "
        "opinion.",
        "## AUC out of fold",
        table(
            found,
            ["", *(f"{text}: {numbers[part]}" for part, text in PARTS.items())],
            rows,
            runs=f"{runs}, {found['minutes']['main']:.0f} minutes in all",
            spread=BY_PATIENT,
        ),
        "## Folds and seeds",
        "The pooled figures mix the scales of five folds; the mean of the folds does not.",
        table(
            found,
            ["what", "AUC"],
            [
                ["mean of the folds", between(found["auc_fold_mean"], found["auc_fold_mean_ci"])],
                [
                    "mean of the folds, 6 to 15 mm",
                    between(found["auc_fold_mean_6_15mm"], found["auc_fold_mean_6_15mm_ci"]),
                ],
                *([f"fold {number}", _triple(one)] for number, one in enumerate(found["auc_by_fold"])),
                *([f"seed {number}, all folds", _triple(one)] for number, one in enumerate(found["auc_by_seed"])),
                *(
                    [f"seed {number}, folds 3 and 4", _triple(one)]
                    for number, one in enumerate(found["auc_by_seed_folds_3_4"])
                ),
            ],
            runs=runs,
            spread=BY_PATIENT,
        ),
        *_probabilities(found, runs),
        "## Controls",
        "The same training with one seed, by which it would be found out if it cheated.",
        table(
            found,
            ["control", "AUC", "mean of the folds"],
            [
                [text, *(between(control[key], control[f"{key}_ci"]) for key in ("auc", "auc_fold_mean"))]
                for text, control in (
                    ("shuffled labels", found["controls"]["shuffled"]),
                    ("random waves instead of the image: only the crop's extents are left", found["controls"]["shape"]),
                    ("a disc of 26 mm around the point blanked", found["controls"]["blanked"]),
                )
            ],
            machine=found["controls_machine"],
            runs=f"{found['folds']} folds with one seed for each control",
            spread=BY_PATIENT,
        ),
    )


def _cells(found: Result, key: str, *, signed: bool = False) -> list[str]:
    return [between(found[f"{key}{part}"], found[f"{key}{part}_ci"], signed=signed) for part in PARTS]


def _triple(found: list[float]) -> str:
    return between(found[0], found[1:])


def _probabilities(found: Result, runs: str) -> list[str]:
    votes, jitter, whole = found["votes"], found["jitter"], found["lidc_0314"]
    likelihood = votes["log_likelihood_per_vote"]
    gain = likelihood["model"] - likelihood["constant"]
    return [
        "## Probabilities",
        "Cross-fitted calibration: the line's slope is 1 and its intercept 0 where probabilities are right. Votes: the "
        "mean log-likelihood of each reader's vote, beside the share of all votes and each nodule's own share, which "
        "bounds it. Moved points: the change of the probability when a point moves by up to 2 mm.",
        table(
            found,
            ["what", "value"],
            [
                ["calibration slope", between(found["calibration_slope"], found["calibration_slope_ci"], 2)],
                [
                    "calibration intercept",
                    between(found["calibration_intercept"], found["calibration_intercept_ci"], 2),
                ],
                [
                    f"log-likelihood of a vote ({votes['num_votes']:,} votes on {votes['num_nodules']} nodules)",
                    fixed(likelihood["model"]),
                ],
                ["the same, by the share of all votes", fixed(likelihood["constant"])],
                ["the same, by each nodule's own share", fixed(likelihood["share"])],
                ["gain over the share of all votes", between(gain, votes["gain_over_constant_ci"], signed=True)],
                [
                    f"change by a moved point, {jitter['draws']} draws a nodule: median; 95 of 100 below",
                    f"{fixed(jitter['median'])}; {fixed(jitter['p95'])}",
                ],
                [
                    f"the nodule of the whole scan LIDC-IDRI-0314: probability ({', '.join(whole['probability'])})",
                    ", ".join(fixed(value) for value in whole["probability"].values()),
                ],
                ["the same, its point moved: largest change", fixed(whole["jitter_largest"])],
            ],
            runs=f"{runs}, calibration fitted on the other folds",
            spread=BY_PATIENT,
        ),
    ]


ANSWERS = {
    "plain": "plain cross entropy",
    "weights": "class weights 1/n",
    "weights-sqrt": "class weights 1/sqrt(n)",
    "focal": "focal",
    "focal-weights": "focal, weights 1/n",
    "focal-balanced": "focal, effective number",
    "dice": "Dice",
    "focal+dice": "focal + Dice",
    "asymmetric": "asymmetric",
    "tversky": "Tversky 0.3, 0.7",
    "logit-adjusted": "logit adjustment",
    "ldam": "LDAM",
    "poly1": "poly-1",
    "over": "oversampling",
    "under": "undersampling",
    "over+under": "combined sampling",
    "progressive": "progressive sampling",
    "head-balanced": "second stage, balanced",
    "head-smote": "second stage, SMOTE",
}


def imbalance() -> str:
    found = result("imbalance")
    rates = dict.fromkeys(row["rate"] for row in found["rows"])
    floors = [row["floor"]["mean"] for row in found["rows"]]
    parts = []
    for rate in rates:
        cohorts = [cohort for cohort in found["cohorts"] if cohort["rate"] == rate]
        rows = [row for row in found["rows"] if row["rate"] == rate]
        counts = {part: span(cohort[part][1] for cohort in cohorts) for part in ("train", "val", "test")}
        parts += [
            f"## {percent(rate)} suspicious in training and validation",
            f"Suspicious nodules: {counts['train']} in training, {counts['val']} in validation, {counts['test']} in "
            "the test part, which keeps all.",
            table(
                found,
                "answer | AUC | difference, paired | PR-AUC | difference, paired | sensitivity at 90 % specificity | "
                "difference, paired | ECE as trained | one temperature | Platt",
                [_answer(row) for row in rows],
                runs=f"{found['thinnings']} thinnings, each on a fold of its own, the same seed and cases for all "
                "answers",
                spread="95 % intervals in brackets, by the corrected t of repeated cross-validation; each thinning's "
                "figures are in the JSON",
            ),
        ]
    return page(
        "Rare classes",
        f"{LIDC}: the suspicious ones are thinned by patient in the training and in the validation part, and one small "
        f"ResNet-10 of width 8 on a slab of 5 mm is trained for {found['epochs']} epochs with each answer. No labels "
        "were smoothed. PR-AUC and ECE are at the test part's share of suspicious nodules; a perfectly calibrated "
        f"model would have an ECE of {span(floors, fixed)} by chance alone.",
        "Of the answers beside plain cross entropy none has a better AUC beyond chance, and undersampling is worse at "
        "the smaller share. This is one task, one small network and few positives. "
        "[What that says](../concepts/imbalance.md#what-it-was-worth-measured).",
        *parts,
    )


def _answer(row: Mapping[str, Any]) -> list[str]:
    cells = [ANSWERS[row["arm"]]]
    for key in ("auc", "ap", "sens_at_90"):
        figure = row[key]
        cells.append(between(figure["mean"], figure["ci"]))
        has = "difference" in figure
        cells.append(between(figure["difference"], figure["difference_ci"], signed=True) if has else "")
    return cells + [between(row[key]["mean"], row[key]["ci"]) for key in ("ece_plain", "ece_temperature", "ece_platt")]
