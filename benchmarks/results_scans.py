"""The pages on scans: reading, the lungs, preparing, augmentation."""

import statistics
from collections.abc import Mapping
from typing import Any

from results_format import (
    NOT_KEPT,
    between,
    digits,
    fixed,
    grid,
    milliseconds,
    page,
    percent,
    result,
    seconds,
    span,
    table,
)

SCANS = {"lidc-0314": "275 slices of 512 x 512", "lung-dx-a0001": "64 slices of 512 x 512"}
OF_SCANS = [{"scan": scan} for scan in SCANS]
RANGES = "smallest and largest, in brackets"


def reading() -> str:
    found, converted = result("reading"), result("convert")
    names = {
        "hilum": "Hilum, with all its checks",
        "simpleitk": "SimpleITK",
        "simpleitk, names given": "SimpleITK, the files of the series already found and sorted",
        "torchio": "TorchIO",
        "monai": "MONAI",
        "pydicom": "pydicom",
        "tutorial": "the tutorial",
    }
    rows = grid(
        found["rows"],
        names,
        OF_SCANS,
        seconds,
        least="median_s",
        last=lambda name: ", ".join(digits(found["memory"][name][scan]) for scan in SCANS),
    )
    same, lungs = converted["same_hu"], converted["lungs"]
    return page(
        "Reading and converting",
        "## From a folder of DICOM to HU with its affine",
        "All rows give the same voxels. Memory is the most that a process holds beyond its imports, as a multiple of "
        "the voxels in int16; each row and scan has a process of its own.",
        table(
            found,
            ["row", *SCANS.values(), "peak memory, in voxels"],
            rows,
            runs=f"medians of {found['rows'][0]['rounds']} interleaved rounds in one process",
            spread=f"{RANGES}; memory was measured once",
        ),
        "## To .nii.gz",
        f"Whole processes on `{converted['scan']}`, compressed at level {converted['level']}. dcm2niix compresses by "
        f"its own zlib, on one core. Of {same['voxels']:,} voxels {same['differing']:,} have another HU, and places "
        f"differ by at most {same['apart_mm']:.0e} mm.",
        table(
            converted,
            ["row", "time", "file"],
            [
                [{"hilum": "`hilum convert`, with all its checks"}.get(row["row"], row["row"]), seconds(row), _mb(row)]
                for row in converted["rows"]
            ],
            runs=f"medians of {converted['rows'][0]['rounds']} interleaved rounds",
            spread=RANGES,
        ),
        "## Masks of the lungs",
        "`hilum lungs` on a folder of copies of two real scans (275 and 64 slices) as NIfTI; masks are written, and "
        "the start of the process is included.",
        table(
            converted,
            ["scans", "time", "scans per second"],
            [[lungs["scans"], f"{digits(lungs['seconds'])} s", digits(lungs["per_second"])]],
            runs="one run",
            spread=NOT_KEPT,
        ),
    )


def _mb(row: Mapping[str, Any]) -> str:
    return f"{row['bytes'] / 1e6:.1f} MB"


def lungs() -> str:
    found, written = result("lungs"), result("lungs_written")
    summary = found["summary"]
    simulated = [row for row in found["rows"] if "shows" in row]
    worst = min(simulated, key=lambda row: row["dice"])
    worst_good = next(row for row in simulated if row["scan"] == summary["worst_scan_not_doubtful"])
    fluids = sorted((row for row in simulated if row["fluid"] is not None), key=lambda row: row["fluid"])
    beyond = max(simulated, key=lambda row: row["field_beyond"])
    others = [row for row in found["rows"] if "shows" not in row]
    return page(
        "The lungs",
        f"{summary['scans']} simulated scans of healthy and diseased chests, listed in `benchmarks/phantoms.py`, of "
        "which every voxel is known. The mask starts from air, so it excludes a consolidated lobe; the lung field "
        "includes it. Thin layers of fluid may lie outside the field. How the lungs are found: "
        "[the lungs](../concepts/lungs.md).",
        "## Simulated scans",
        table(
            found,
            ["figure", "value"],
            [
                ["Dice of the lungs, median", fixed(summary["median_dice"])],
                [
                    "worst Dice of a scan without a finding that makes it doubtful",
                    f"{fixed(summary['worst_dice_not_doubtful'])} ({worst_good['shows']})",
                ],
                [
                    "worst Dice of all",
                    f"{fixed(worst['dice'])} ({worst['shows']}; {', '.join(f'`{code}`' for code in worst['codes'])})",
                ],
                [
                    "95 % Hausdorff distance, median (larger of the two directions)",
                    f"{fixed(summary['median_hd95_mm'], 1)} mm",
                ],
                ["right and left swapped", summary["swapped"]],
                [
                    "nodules of 6 to 20 mm on the pleura inside the lung field",
                    f"{summary['nodules'] - summary['nodules_not_inside']} of {summary['nodules']}; smallest share of "
                    f"one {fixed(summary['smallest_nodule_share'])}",
                ],
                ["smallest share of a consolidation inside the field", fixed(summary["smallest_dense_share"])],
                [
                    "smallest share of fluid inside the field; the next",
                    "; ".join(f"{fixed(row['fluid'])} ({row['shows']})" for row in fluids[:2]),
                ],
                [
                    "field further than 5 mm from the true one, largest share",
                    f"{fixed(beyond['field_beyond'], 2)} ({beyond['shows']})",
                ],
                ["doubtful", f"{summary['doubtful']} of {summary['scans']} ({percent(summary['share_doubtful'])})"],
                ["seconds for a scan, one thread, median", digits(summary["median_seconds"])],
            ],
            runs=f"each of {summary['scans']} scans once",
            spread=f"Dice {span((row['dice'] for row in simulated), fixed)} over the scans, 95 % Hausdorff "
            f"{span((row['hd95_mm'] for row in simulated), digits)} mm, "
            f"{span((row['seconds'] for row in simulated), digits)} s",
        ),
        "## Other scans",
        "`ct-64` has a reference mask. The abdomen shows the bases of the lungs. The head and the simulated abdomen "
        "have no lungs, and none must be found. Share in the field: of the nodule's or the tumour's outline by the "
        "readers, which reaches into rib and aorta in `lung-dx-a0001`.",
        table(
            found,
            [
                "scan",
                "verdict",
                "findings",
                "litres",
                "Dice: both, right, left",
                "95 % Hausdorff",
                "share in the field",
            ],
            [_other(row) for row in others],
            runs="each scan once",
            spread=NOT_KEPT,
        ),
        "## Masks as written to files",
        "The same scans; each mask is written by `hilum.lung_masks` and read by SimpleITK.",
        table(
            written,
            ["median Dice", "worst Dice", "median 95 % Hausdorff", "swapped", "doubtful"],
            [
                [
                    fixed(written["summary"]["median_dice"]),
                    fixed(written["summary"]["worst_dice"]),
                    f"{fixed(written['summary']['median_hd95_mm'], 1)} mm",
                    written["summary"]["swapped"],
                    f"{written['summary']['doubtful']} of {written['summary']['scans']}",
                ]
            ],
            runs=f"each of {written['summary']['scans']} scans once",
            spread=f"Dice {span((row['dice'] for row in written['rows'] if 'shows' in row), fixed)} over the scans",
        ),
    )


def _other(row: Mapping[str, Any]) -> list[str]:
    share = row.get("nodule_in_field", row.get("tumour_in_field"))
    return [
        row["scan"].partition(" (")[0],
        row["verdict"],
        ", ".join(f"`{code}`" for code in row["codes"]),
        fixed(row["litres"], 2),
        ", ".join(fixed(row[key]) for key in ("dice", "dice_right", "dice_left") if key in row),
        f"{fixed(row['hd95_mm'], 1)} mm" if "hd95_mm" in row else "",
        percent(share) if share is not None else "",
    ]


def preparing() -> str:
    found, scaling, store = result("preparing"), result("prepare_scaling"), result("store")
    names = {
        "hilum": "Hilum: lungs and lung fields found and checked, one interpolation",
        "hilum, lungs cut out": "Hilum, all but the lungs set to air",
        "hilum, whole": "Hilum, the whole scan, without lungs",
        "torchio": "TorchIO, the tutorial's steps, without lungs",
        "monai": "MONAI, the tutorial's steps, without lungs",
        "tutorial": "the tutorial, with its mask",
        "torchio, one step": "TorchIO, straight to the last grid, without lungs",
        "monai, one step": "MONAI, straight to the last grid, without lungs",
    }
    rows = grid(
        found["rows"],
        names,
        OF_SCANS,
        seconds,
        last=lambda name: ", ".join(f"{found['memory_mib'][name][scan]:.0f}" for scan in SCANS),
    )
    steps = list(found["steps_ms"]["lidc-0314"])
    return page(
        "Preparing and the store",
        "## From a folder of DICOM to a model's input of 128 cubed",
        "MONAI and TorchIO go through the tutorial's steps and find no lungs. The rows without lungs do less than the "
        "first, and are to be compared with one another.",
        table(
            found,
            ["row", *SCANS.values(), "peak memory, MiB"],
            rows,
            runs=f"medians of {found['rows'][0]['rounds']} interleaved rounds in one process",
            spread=f"{RANGES}; memory was measured once, in a process for each row and scan",
        ),
        "Correlation of the outputs, so that no row is fast because it does something else:",
        table(
            found,
            ["rows", *SCANS.values()],
            [[pair, *(fixed(values[scan], 4) for scan in SCANS)] for pair, values in found["alike"].items()],
            runs="one comparison",
            spread="none, the outputs are deterministic",
        ),
        "Where Hilum's time goes, in ms; `raw` is reading the bytes of the files alone:",
        table(
            found,
            ["step", *SCANS.values()],
            [[step, *(f"{found['steps_ms'][scan][step]:.0f}" for scan in SCANS)] for step in steps],
            runs=f"medians of {found['rows'][0]['rounds']} rounds of their own",
            spread=NOT_KEPT,
        ),
        "## Scans per second of `hilum prepare`",
        f"Whole processes on {scaling['num_scans']} scans, simulated and real. Two cores give "
        f"{digits(scaling['ratio_scans_per_s'])} times the rate of one, {digits(scaling['ratio_without_start_per_s'])} "
        "without the start of the processes.",
        table(
            scaling,
            ["cores", "scans per second", "without the start", "load of the machine before"],
            [_rate(scaling["rows"], cores) for cores in (1, 2)],
            runs=f"medians of {scaling['rounds']} rounds in which one and two cores take turns",
            spread=RANGES,
        ),
        "## Formats for prepared samples",
        "Each format with its metadata. A cold read follows the removal of the file's pages from memory. Hilum's first "
        "load in a process checks all bytes; the other formats check nothing. Under two writers "
        f"{sum(row['damaged'] for row in store['rows'])} samples were damaged.",
        *(part for size in dict.fromkeys(row["samples"] for row in store["rows"]) for part in _store(size)),
        "Compression halves the size. On this disk most rows of Blosc2 make the cold read of a sample faster than raw "
        "voxels, and Zarr that of a crop of a large sample; every read after that, which is what the epochs of a "
        "training consist of, and writing, take longer than with raw voxels.",
    )


def _rate(rows: list[dict[str, Any]], cores: int) -> list[str]:
    own = [row for row in rows if row["cores"] == cores]
    cells = [str(cores)]
    for key in ("scans_per_s", "without_start_per_s"):
        values = [row[key] for row in own]
        cells.append(between(statistics.median(values), (min(values), max(values)), 2))
    return [*cells, span(row["load"] for row in own)]


def _store(size: str) -> list[str]:
    store = result("store")
    rows = [row for row in store["rows"] if row["samples"] == size]
    names = {
        "hilum": "Hilum (raw, safetensors layout)",
        "hilum, first load": "the same, first load in a process",
        "npy": ".npy and a .json beside it",
        "zarr v3, default": "Zarr v3, default",
        "zarr v3, blosc zstd": "Zarr v3, Blosc zstd 5, bitshuffle",
    }
    columns = ("write_ms", "cold_ms", "warm_ms", "crop_cold_ms", "crop_warm_ms")
    return [
        f"Samples of {size.replace('x', ' x ')} voxels; the crop is of 64 cubed:",
        table(
            store,
            "format | MB | write, ms | cold read, ms | warm read, ms | crop, cold, ms | crop, warm, ms | two writers, "
            "samples/s",
            [
                [
                    names.get(row["row"], row["row"].replace("blosc2", "Blosc2")),
                    fixed(row["mb"], 1),
                    *(fixed(row[key], 1) for key in columns),
                    digits(row["writers_per_s"]),
                ]
                for row in sorted(rows, key=lambda row: list(names).index(row["row"]) if row["row"] in names else 9)
            ],
            runs=f"medians of {store['rounds']} interleaved rounds, other work on the same cores",
            spread=NOT_KEPT,
        ),
    ]


def augmentation() -> str:
    found = result("augment")
    names = {
        "hilum": "Hilum: one field, one interpolation, correlated noise",
        "torchio": "TorchIO",
        "torchio, one step": "TorchIO, one resampling for affine and elastic",
        "monai": "MONAI",
        "monai, one step": "MONAI, one resampling for affine and elastic",
        "tutorial": "the tutorial",
    }
    works = {
        "as the tutorial": "all seven, as often as the tutorial",
        "all on, no elastic": "all but elastic, always",
        "all on, elastic": "all seven, always",
    }
    rows = grid(
        found["rows"],
        names,
        [{"work": work} for work in works],
        milliseconds,
        least="median_s",
        last=lambda name: ", ".join(digits(found["memory_batches"][name][size], 2) for size in ("1", "4")),
    )
    return page(
        "Augmentation",
        "A float32 sample of 128 cubed on the CPU, with the tutorial's seven changes. Memory is the most that a "
        "process holds above its input, all changes on, in multiples of a batch of 1 and of 4.",
        table(
            found,
            ["row", *works.values(), "peak memory, in batches of 1, 4"],
            rows,
            runs=f"medians of {found['rows'][0]['rounds']} interleaved rounds in one process",
            spread=f"{RANGES}; memory was measured once",
        ),
        "Hilum's changes alone, in ms; `nothing` is the cost of a call without a change:",
        table(
            found,
            ["change", "ms"],
            [[change, digits(taken)] for change, taken in found["changes_ms"].items()],
            runs="medians, in runs of their own whose number was not kept",
            spread=NOT_KEPT,
        ),
        "Whether the preset `standard` helps a training is on [the page on training](training.md#augmentation).",
    )
