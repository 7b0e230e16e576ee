"""The pages on using a model: maps, abstaining, intervals, prediction, the service, robustness."""

import re
import statistics
from collections.abc import Mapping, Sequence
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
    percent_between,
    result,
    seconds,
    small,
    span,
    table,
)

WILSON = "95 % intervals in brackets, by Wilson"
MAPS = {
    "occlusion": "occlusion, the default",
    "integrated-gradients": "integrated gradients",
    "hirescam": "HiResCAM",
    "lost weights": "occlusion, of a new network with random weights",
    "random voxel of the lungs": "a random voxel of the lungs",
}


def explaining() -> str:
    found = result("explain")
    rows = found["rows"]
    positives, healthy = rows["true positives of all with a mass"], rows["false positives of all healthy"]
    distractor = rows["occlusion: distractor, true positives"]
    return page(
        "Maps that explain",
        "Simulated chests of which every voxel is known, half of them with one mass of 20 to 35 mm. A model is trained "
        f"on them (AUC {fixed(found['auc'])}); it calls {_of(positives)} new chests with a mass, and {_of(healthy)} "
        "healthy ones. What a map says, and what it does not: [explaining](../concepts/explaining.md).",
        "## Where maps peak",
        "Deletion: deleting what the map shows lowers the output more than random orders do. "
        f"In {_of(distractor)} chests that also have a benign lesion the default map peaks there.",
        table(
            found,
            ["map", "peak within the mass plus 10 mm", "deletion", "chests"],
            [
                [
                    text,
                    percent_between(rows[f"{name}: hit"]),
                    percent_between(rows[f"{name}: deletion"]) if f"{name}: deletion" in rows else "",
                    rows[f"{name}: hit"]["number"],
                ]
                for name, text in MAPS.items()
            ],
            runs="one model; each chest once",
            spread=f"{WILSON}; of the random voxel that of the mean over chests",
        ),
        "## One scan in several forms",
        "The map of the whole scan `lidc-0314`, as its DICOM series, as NIfTI, cut around the model's box, and with a "
        "simulated tilt of the gantry. Off: distance of the peak from that of the DICOM series, in voxels of the "
        "model's grid, along the axis on which it is largest.",
        "A model of nodules at a point:",
        _forms(result("explain_forms_nodules")),
        "The demo's model, which does not know such scans and gives no result; where it is far off, another of several "
        "nearly equal maxima has become the highest:",
        _forms(result("explain_forms_demo")),
    )


def _of(found: Mapping[str, Any]) -> str:
    return f"{round(found['share'] * found['number'])} of {found['number']}"


def _forms(found: Result) -> str:
    return table(
        found,
        ["form", "off, voxels", "log odds at the peak"],
        [[form, digits(row["off"], 2), fixed(row["log_odds"], 2)] for form, row in found["rows"].items()],
        runs="each form once",
        spread="none, maps are deterministic",
    )


def abstaining() -> str:
    found, gate = result("abstaining"), result("gate")
    inside = [row["inside"] for row in found["rows"] if "inside" in row]
    return page(
        "Abstaining and the gate",
        "What a model gives no result for, and where it does not decide: [abstaining](../concepts/abstaining.md).",
        "## Bands and conformal sets",
        "Sets and bands are fitted, and counted on new cases. Simulated scores of 2,000 scans, one or one to five of a "
        "patient; and predictions of LIDC nodules out of fold (`configs/lidc_nodules.toml`, one seed), fitted on one "
        "half of the patients and counted on the other. Shares of negatives, then of positives. Of the simulated fits "
        f"{span(inside, lambda value: percent(value, 1))} lie within their beta-binomial interval of 95 %.",
        table(
            found,
            "cases | error asked for | covered by sets | sets of one class | decided wrongly by a band | decided by it",
            [
                [
                    row["what"].replace("1 to 1 a patient", "one a patient"),
                    row["error"],
                    _both(row, "covered"),
                    between(row["singles"], row["singles_ci"], 2),
                    _both(row, "wrong"),
                    between(row["decided"], row["decided_ci"], 2),
                ]
                for row in found["rows"]
            ],
            runs=f"{constant('abstaining', 'FITS')} fits of each row (by the script)",
            spread="the range of 95 of 100 fits, in brackets",
        ),
        "## The gate on other scans",
        "The demo's model, on scans unlike those of its training and on new ones like them.",
        table(
            gate,
            ["scans", "number", "without a result", "why (a scan may have several reasons)"],
            [
                [
                    row["what"],
                    row["number"],
                    row["without_decision"],
                    ", ".join(f"{k}: {n}" for k, n in row["codes"].items()),
                ]
                for row in gate["rows"]
            ],
            runs="one model; each scan once",
            spread=NOT_KEPT,
        ),
        "## The share held back",
        "New chests of the training scanner, the limit chosen anew on held-out ones.",
        table(
            gate,
            ["asked for", "held back", "chests", "rule"],
            [
                [percent(row["asked"]), percent_between(row, share="held_back"), row["number"], row["rule"]]
                for row in gate["shares"]
            ],
            runs="one model; each chest once",
            spread=WILSON,
        ),
    )


def _both(row: Mapping[str, Any], key: str) -> str:
    return ", ".join(between(*one) for one in zip(row[key], row[f"{key}_ci"], strict=True))


CELL = re.compile(r"auc ([\d.]+), (\d+) patients, prevalence ([\d.]+)")
INTERVALS = {
    "auc": "AUC",
    "auc_obuchowski": "AUC, Obuchowski",
    "auc_delong": "AUC, DeLong",
    "sensitivity": "sensitivity",
    "slope": "slope",
    "intercept": "intercept",
    "auc_difference": "difference of AUC",
}
TESTS = {"equal_areas": "equal areas", "equal_areas_z": "equal areas, z test", "equal_curves": "equal curves"}


def intervals() -> str:
    found, moved = result("interval_coverage"), result("recalibrate")
    cells = {CELL.fullmatch(name): cell for name, cell in found["cells"].items()}
    with_pairs = {match: cell for match, cell in cells.items() if "equal_areas" in cell["summary"]}
    counts = [cell["counts"] for cell in with_pairs.values()]
    missing = [count["slope missing"] for count in counts]
    studies = [count["slope there"] + count["slope missing"] for count in counts]
    error = max(figure["error"] for cell in cells.values() for figure in cell["summary"].values())
    each = {count["auc there"] + count["auc missing"] for count in (cell["counts"] for cell in cells.values())}
    runs = f"{span(each) if len(each) > 1 else f'{each.pop():,}'} simulated studies of each kind"
    spread = f"Monte Carlo standard error of each figure at most {100 * error:.1f} points"
    fitted = moved["fitted_on"]
    return page(
        "Intervals and calibration",
        "## How often intervals hold the truth",
        "Simulated studies whose truth is known: patients of 1 to 5 cases, half of the noise shared by a patient's "
        f"cases, labels that correlate by 0.5 within a patient; {found['settings']['resamples']} resamples for each "
        "interval. How they are made: [intervals and tests](../concepts/intervals.md).",
        "Percent of studies whose interval of 95 % holds the truth; bold outside 92 to 98. DeLong's interval, which "
        "takes cases as independent, is there for contrast and is outside throughout.",
        table(
            found,
            ["true AUC", "patients", "prevalence", *INTERVALS.values()],
            [[*match.groups(), *_shares(cell, INTERVALS)] for match, cell in cells.items() if match],
            runs=runs,
            spread=spread,
        ),
        "A figure that did not exist was left out: the calibration line where a threshold separates the classes, in "
        f"{sum(missing)} of {sum(studies):,} studies, at most {max(missing)} of {studies[0]:,} of one kind.",
        "Percent of tests with p at most 0.05 between two models of equal curves:",
        table(
            found,
            ["true AUC", "patients", "prevalence", *TESTS.values()],
            [[*match.groups(), *_shares(cell, TESTS)] for match, cell in with_pairs.items() if match],
            runs=runs,
            spread=spread,
        ),
        "## Recalibration for another site",
        "The demo's model on new simulated chests of another scanner, with a sharp kernel, three times the noise and "
        f"HU 40 too high. {fitted['cases']} scans of {fitted['patients']} patients recalibrate, and the other "
        f"{moved['rows'][0]['num_cases']} scans ({moved['rows'][0]['num_positives']} diseased) judge.",
        table(
            moved,
            ["model", "slope", "intercept", "Brier", "AUC", "sensitivity", "specificity", "threshold"],
            [
                [
                    row["row"],
                    *(
                        between(row[f"calibration_{key}"][0], row[f"calibration_{key}_ci"], 2)
                        for key in ("slope", "intercept")
                    ),
                    *(between(row[key], row[f"{key}_ci"]) for key in ("brier", "auc", "sensitivity", "specificity")),
                    fixed(row["threshold"]),
                ]
                for row in moved["rows"]
            ],
            runs="one model, one cohort",
            spread="95 % intervals in brackets, by patient",
        ),
    )


def _shares(cell: Mapping[str, Any], names: Mapping[str, str]) -> list[str]:
    texts = []
    for name in names:
        found = cell["summary"].get(name)
        text = f"{100 * found['share']:.1f}" if found else ""
        bold = found and name in INTERVALS and name != "auc_delong" and not 0.92 <= found["share"] <= 0.98
        texts.append(f"**{text}**" if bold else text)
    return texts


def prediction() -> str:
    found, many, file = result("prediction"), result("ensemble"), result("export")
    networks = [{"depth": depth, "edge": edge} for depth in (18, 50) for edge in (64, 128)]
    names = {
        "hilum": "Hilum, `--precision auto`: bf16",
        "hilum, fp32": "Hilum, fp32, the default",
        "onnx": "the ONNX file of `hilum export`, in ONNX Runtime",
        "tutorial": "the tutorial",
    }
    rows = grid(
        found["rows"],
        names,
        networks,
        seconds,
        least="median_s",
        last=lambda name: small(max(one["difference"] for one in found["rows"] if one["row"] == name)),
    )
    rounds = many.data.get("rounds") or f"{default_rounds('ensemble')} (the script's default)"
    return page(
        "Prediction, ensembles and export",
        "## The forward pass",
        "Batches of 8, the same weights and input in all rows. Difference: that of a logit from the tutorial's, "
        "relative to the largest logit, at most.",
        table(
            found,
            ["row", *(f"ResNet-{column['depth']} at {column['edge']} cubed" for column in networks), "difference"],
            rows,
            runs=rounds_of_prediction(found),
            spread="smallest and largest, in brackets",
        ),
        "## An ensemble",
        f"{many['members']} members as of `configs/lidc_nodules.toml`, random weights. A scan is prepared "
        f"{many['prepared_for_each_prediction']} time for each prediction. The network's part takes "
        f"{digits(many['network_ratio'])} times one member's, and the whole {digits(many['whole_ratio'])} times. The "
        f"ensemble's ONNX file differs by up to {many['onnx_difference']:.0e}.",
        table(
            many,
            ["what", "ms"],
            [[name, digits(1000 * taken)] for name, taken in many["seconds"].items()],
            runs=f"medians of {rounds} rounds in which one member and the ensemble take turns",
            spread=NOT_KEPT,
        ),
        "## An exported file",
        "ResNet-18 of width 64 in fp32, from HU to probabilities, in ONNX Runtime and in PyTorch's plain paths, which "
        "`hilum predict` does not use; [the forward pass](#the-forward-pass) has the file beside what it computes.",
        table(
            file,
            ["grid, batch", "ONNX Runtime", "PyTorch, plain", "probabilities differ by at most"],
            [
                [
                    f"{row['grid']} cubed, {row['batch']}",
                    _timed(row, "onnx"),
                    _timed(row, "torch"),
                    small(row["difference"]),
                ]
                for row in file["rows"]
            ],
            runs=f"medians of {len(file['rows'][0]['rounds']['onnx'])} interleaved rounds",
            spread="smallest and largest, in brackets",
        ),
    )


def rounds_of_prediction(found: Result) -> str:
    """How often a forward pass was timed; older files do not keep it, and the script's own constant stands."""
    rounds = [row.get("rounds") for row in found["rows"]]
    if all(rounds):
        return f"medians of {span(rounds)} interleaved rounds"
    return f"medians of {span(constant('prediction', 'ROUNDS').values())} interleaved rounds (by the script)"


def _timed(row: Mapping[str, Any], name: str) -> str:
    taken = row["rounds"][name]
    return seconds({"median_s": statistics.median(taken), "min_s": min(taken), "max_s": max(taken)})


def service() -> str:
    load, soak, pacs = result("serving"), result("serving_soak"), result("pacs_kills")
    served, predicted, real = load["load"], load["predict"], load["real"]
    steps = ", ".join(f"{name} {percent(taken / real['median_s'])}" for name, taken in real["steps"].items())
    return page(
        "The service and the PACS",
        "## Under load",
        f"{served['scans']} small simulated chests by {served['clients']} clients on the same cores, with the demo's "
        f"network; errors: {len(served['errors'])}. `{real['scan']}` is sent as a zip that stores, {real['mb']:.0f} "
        f"MB; its time goes from the last byte of the scan to the JSON: {steps}.",
        table(
            load,
            ["what", "value"],
            [
                ["scans per second of the service", digits(served["per_second"])],
                ["the same of `hilum predict` on the same table", digits(predicted["per_second"])],
                ["ratio of the two", fixed(load["ratio"], 2)],
                ["from the last byte to the JSON: median; 95 %", f"{served['p50_s']:.2f} s; {served['p95_s']:.2f} s"],
                [
                    f"memory of all processes after {', '.join(served['memory_mb'])} jobs",
                    ", ".join(str(value) for value in served["memory_mb"].values()) + " MB",
                ],
                [f"`{real['scan']}`", seconds(real)],
            ],
            runs=f"one run under load; {real['rounds']} rounds of `{real['scan']}`",
            spread=f"smallest and largest of `{real['scan']}` in brackets; that under load was not kept",
        ),
        "## Killed every minute",
        "Full load with a SIGKILL every minute, in turn of the whole service, a process that prepares, the process of "
        "the network; some scans are damaged, and one in ten jobs is cancelled.",
        table(
            soak,
            ["what", "value"],
            [
                ["jobs taken", f"{soak['taken']:,}"],
                *([f"ended as {end}", f"{number:,}"] for end, number in soak["ends"].items()),
                ["lost", len(soak["lost"])],
                ["uploads left behind", len(soak["left"])],
                ["not taken, as the service was down", soak["not_taken"]["no service"]],
                ["memory of all processes, minute by minute", f"{span(soak['memory_mb'])} MB"],
            ],
            runs=f"one run of {soak['minutes']:.0f} minutes, {sum(soak['kills'].values())} kills: "
            + ", ".join(f"{name} {number}" for name, number in soak["kills"].items()),
            spread=NOT_KEPT,
        ),
        "## Beside a PACS",
        "`hilum serve` beside a real Orthanc, killed with SIGKILL at random moments while studies arrive; Orthanc "
        f"itself is away for {pacs['away_s']:.0f} s. In the end Orthanc must hold exactly one report and one "
        "segmentation of each study.",
        table(
            pacs,
            ["way", "studies", "predicted", "with one report", "with one segmentation", "tries", "anything wrong"],
            [_way(pacs["rows"], way) for way in dict.fromkeys(row["way"] for row in pacs["rows"])],
            runs=f"one run of each way, {pacs['kills']} kills",
            spread="that of the tries; else not kept",
        ),
    )


def _way(rows: Sequence[Mapping[str, Any]], way: str) -> list[object]:
    own = [row for row in rows if row["way"] == way]
    studies = [row for row in own if "SR" in row]
    return [
        way,
        len(studies),
        sum(row["state"] == "predicted" for row in studies),
        sum(row["SR"] == 1 for row in studies),
        sum(row["SEG"] == 1 for row in studies),
        span(row["tries"] for row in studies),
        sum(len(row["wrong"]) for row in own),
    ]


def robustness() -> str:
    return page("Robustness", *_fuzz(), *_killed(), *_mutations(), *_near_copies(), *_large())


def _fuzz() -> list[str]:
    found = result("fuzz")
    slowest = max(row["slowest_ms"] for row in found["formats"].values())
    return [
        "## Damaged files",
        f"{found['cases']:,} damaged files: each must be read or refused in one line, within its memory and in time. "
        f"{found['wrong']} were not. The slowest took {slowest / 1000:.1f} s. The reading process mapped at most "
        f"{found['grown_mb']} MB more than before, held {found['held_mb']} MB, and its decoders {found['decoder_mb']} "
        "MB.",
        table(
            found,
            ["format", "files", "read", "refused: cannot be read", "refused: no volume", "slowest, ms", "wrong"],
            [
                [
                    name,
                    row["cases"],
                    row["read"],
                    row["ReadError"],
                    row["GeometryError"],
                    f"{row['slowest_ms']:.0f}",
                    len(row["wrong"]),
                ]
                for name, row in found["formats"].items()
            ],
            runs=f"each file once, seed {found['seed']}",
            spread="the slowest of each format",
        ),
    ]


def _killed() -> list[str]:
    store, trained = result("killed"), result("killed_training")
    kills = store["kills"]
    return [
        "## `hilum prepare`, killed",
        f"A cohort of {store['cases']} simulated series; SIGKILL at a random moment, again and again, then left to "
        "finish.",
        table(
            store,
            ["kills", "samples damaged", "samples written again", "temporary files left, then removed", "wrong"],
            [
                [
                    sum(kill["killed"] for kill in kills),
                    *(sum(kill[key] for kill in kills) for key in ("damaged", "written_again", "leftovers")),
                    len(store["wrong"]),
                ]
            ],
            runs=f"{len(kills)} kills, seed {store['seed']}",
            spread=f"killed after {span((kill['after_s'] for kill in kills), digits)} s",
        ),
        "## `hilum train`, killed or signalled",
        "Each is resumed, and must end bit for bit as an unbroken run: weights, `metrics.csv` and `model.json`.",
        table(
            trained,
            ["training", "signal", "runs", "the same as unbroken"],
            [
                [kind, signal, len(own), sum(row["same"] for row in own)]
                for kind, signal in dict.fromkeys((row["kind"], row["signal"]) for row in trained["rows"])
                for own in [[row for row in trained["rows"] if (row["kind"], row["signal"]) == (kind, signal)]]
            ],
            runs=f"{len(trained['rows'])} runs, each broken off once at a random moment",
            spread="none, the outcome is yes or no",
        ),
    ]


def _mutations() -> list[str]:
    found = result("mutations")
    unnoticed = [row for row in found["rows"] if row["noticed_by"] is None]
    return [
        "## Mutated lines",
        "One operator, number or truth value of Hilum is changed at random, and the tests are run. "
        f"{len(found['rows']) - len(unnoticed)} of {len(found['rows'])} changes were noticed. Those that were not, and "
        "the test that has been written since, or why there is none:",
        table(
            found,
            ["module", "change", "since"],
            [[f"`{row['module']}`", f"`{row['change']}`", row["since"]] for row in unnoticed],
            runs=f"{len(found['rows'])} mutations, seed {found['seed']}",
            spread="none, the outcome is yes or no",
        ),
    ]


ALTERED = {
    "flip": "flipped along any axes",
    "roll": "shifted by up to three voxels along each axis, rolled",
    "pad": "the same, filled with air",
    "crop": "without ten slices (a third of a small scan)",
    "resample": "other spacing",
    "flip+roll": "flipped and shifted",
    "flip+crop": "flipped, without ten slices",
    "crop+resample": "without ten slices, other spacing",
    "flip+pad+crop+resample": "flipped, shifted into air, without ten slices, other spacing",
}


def _near_copies() -> list[str]:
    found = result("near_copies")
    groups, audit = found["results"], found["audit"]
    return [
        "## Near copies",
        "Share of altered copies that is found, and the largest residual. Scans count as near copies up to "
        f"a residual of {found['limit']}. The crops of lidc-nodules are 2 to 6 cm wide and mostly of 3 to 8 slices: "
        "most altered copies of them are not found.",
        table(
            found,
            ["alteration", *(f"{name}: {group['scans']:,} scans" for name, group in groups.items())],
            [[text, *(_copies(group["copies"][key]) for group in groups.values())] for key, text in ALTERED.items()],
            runs="one run; copies of the first 100 scans of each",
            spread="largest residual",
        ),
        "Pairs of different scans:",
        table(
            found,
            ["scans", "pairs", "called copies", "smallest residuals"],
            [
                [
                    name,
                    f"{group['pairs']:,}",
                    group["called copies"],
                    ", ".join(f"{one:.3f}" for one in group["closest"]),
                ]
                for name, group in groups.items()
            ],
            runs="all pairs once",
            spread="the smallest residuals",
        ),
        f"An audit of {audit['samples']:,} samples:",
        table(
            found,
            "seconds | with the start | peak memory, MB | altered copies found | other pairs | of these without a "
            "patient in common",
            [
                [
                    audit["seconds"],
                    audit["with_start_s"],
                    audit["peak_mb"],
                    f"{percent(audit['found'])} of {audit['copies']:,}",
                    audit["others"],
                    audit["others without a patient in common"],
                ]
            ],
            runs="one run",
            spread=NOT_KEPT,
        ),
    ]


def _copies(found: Mapping[str, Any]) -> str:
    largest = found["largest"]
    return percent(found["found"]) + (f", {largest:.3f}" if largest is not None else "")


def _large() -> list[str]:
    report, tables = result("report"), result("tables")
    (row,) = report["rows"]
    return [
        "## Many cases",
        "All figures with intervals, subgroups and the report of simulated cases.",
        table(
            report,
            ["cases", "columns", "seconds", "of these the figures", "peak memory, GB", "page, MB"],
            [
                [f"{row['num_cases']:,}"]
                + [row[key] for key in ("num_columns", "seconds", "seconds_of_figures", "peak_gb", "page_mb")]
            ],
            runs="one run",
            spread=NOT_KEPT,
        ),
        f"A table in the shape of LUNA16's candidates: {tables['rows']:,} rows on {tables['scans']} scans.",
        table(
            tables,
            ["table", "reading, s", "peak memory, MB", "a split, s", "five folds, s"],
            [
                [name, *(digits(found[key]) for key in ("read_s", "peak_mb", "split_s", "folds_s"))]
                for name, found in tables["results"].items()
            ],
            runs=f"medians of {tables['rounds']} rounds, each a fresh process",
            spread=NOT_KEPT,
        ),
    ]
