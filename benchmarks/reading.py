"""Two real series from their folders to voxels in HU with their geometry, beside the readers that others use.

    python benchmarks/reading.py [--quick] [--rounds 11] [--json]

Rows are interleaved in each round, in one process, and none is kept from using threads; medians after one round to
warm up. Every row's voxels are compared with Hilum's. Memory is measured in a process of its own for each row and
scan: the most that it holds above what it held after its imports and after reading a tiny series, as a multiple of
the voxels in int16. The data are looked for at HILUM_DATA or ../shared/data. Takes about three minutes on two cores.
"""

import argparse
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import DATA, forget_peak, line, machine, need, peak_bytes

SCANS = ("lidc-0314", "lung-dx-a0001")
RIVALS = ("simpleitk", "monai", "torchio", "pydicom", "tutorial")
EXECUTE = "simpleitk, names given"

Read = Callable[[str], Any]
"""A folder to whatever the reader gives: it must be kept, as views do not keep their image."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--memory", nargs=3, metavar=("ROW", "TINY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    warnings.simplefilter("ignore")  # MONAI's, on each file that is no DICOM
    if args.memory:
        print(_peak(*args.memory))
        return
    need("pydicom", "skimage", "monai", "torchio")
    missing = [scan for scan in SCANS if not (DATA / scan).is_dir()]
    if missing:
        sys.exit(f"no folder {missing[0]}: HILUM_DATA must name the folder with the shared data")

    found = machine("pydicom", "simpleitk", "monai", "torchio", "torch")
    readers = {name: make() for name, make in ROWS.items()}
    print(line(found))
    print(f"threads: {_threads()}; MONAI reads by its PydicomReader (its ITKReader needs the package itk)")
    rows = _timed(readers, 3 if args.quick else args.rounds)
    medians = {(r["row"], r["scan"]): r["median_s"] for r in rows}
    memory = {name: {scan: _multiple(name, scan) for scan in SCANS} for name in readers}
    print(f"\n{'':<24}" + "".join(f"{scan:>36}" for scan in SCANS))
    print(f"{'':<24}" + f"{'median (min to max) s':>26}{'memory':>10}" * len(SCANS))
    for name in readers:
        cells = ""
        for scan in SCANS:
            row = next(r for r in rows if (r["row"], r["scan"]) == (name, scan))
            seconds = f"{row['median_s']:.3f} ({row['min_s']:.3f} to {row['max_s']:.3f})"
            cells += f"{seconds:>26}{memory[name][scan]:>10.2f}"
        print(f"{name:<24}{cells}")
    ratios = {
        name: round(min(medians[name, scan] / medians["hilum", scan] for scan in SCANS), 2)
        for name in (*RIVALS, EXECUTE)
    }
    print("\nhilum is so many times as fast, on the scan where it is least:")
    print(", ".join(f"{name}: {ratio:.2f}" for name, ratio in ratios.items()))
    if args.json:
        rivals = {name: ratio for name, ratio in ratios.items() if name != EXECUTE}
        print(json.dumps({"rows": rows, "ratios": rivals, "memory": memory, "machine": found}))


# the rows: each imports what it needs when it is made


def _hilum() -> Read:
    from hilum import read

    return read


def _simpleitk() -> Read:
    import SimpleITK as sitk

    def read(folder: str) -> Any:
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(folder))
        image = reader.Execute()
        return image, sitk.GetArrayViewFromImage(image)

    return read


def _execute() -> Read:
    import SimpleITK as sitk

    names: dict[str, Any] = {}

    def read(folder: str) -> Any:
        reader = sitk.ImageSeriesReader()
        if folder not in names:  # in the round that warms up
            names[folder] = reader.GetGDCMSeriesFileNames(folder)
        reader.SetFileNames(names[folder])
        image = reader.Execute()
        return image, sitk.GetArrayViewFromImage(image)

    return read


def _monai() -> Read:
    from monai.transforms import LoadImage

    return LoadImage(reader="PydicomReader", image_only=True)


def _torchio() -> Read:
    import torchio

    def read(folder: str) -> Any:
        image = torchio.ScalarImage(folder)
        image.load()
        return image

    return read


def _pydicom() -> Read:
    """The recipe of many a tutorial; its geometry is that of the slices, which must be regular."""
    import pydicom

    def read(folder: str) -> Any:
        slices = [pydicom.dcmread(path) for path in Path(folder).iterdir() if pydicom.misc.is_dicom(path)]
        slices.sort(key=lambda one: float(one.ImagePositionPatient[2]))
        first = slices[0]
        step = float(slices[1].ImagePositionPatient[2]) - float(first.ImagePositionPatient[2])
        rescales = [(float(one.RescaleSlope), float(one.RescaleIntercept)) for one in slices]
        pairs = zip(slices, rescales, strict=True)
        voxels = np.stack([(one.pixel_array * slope + intercept).astype(np.int16) for one, (slope, intercept) in pairs])
        return voxels, (step, *first.PixelSpacing), first.ImagePositionPatient

    return read


def _tutorial() -> Read:
    path = DATA.parent / "baseline" / "tutorial.py"
    spec = importlib.util.spec_from_file_location("tutorial", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    load: Read = module.load_dicom_series
    return load


ROWS: dict[str, Callable[[], Read]] = {
    "hilum": _hilum,
    "simpleitk": _simpleitk,
    EXECUTE: _execute,
    "monai": _monai,
    "torchio": _torchio,
    "pydicom": _pydicom,
    "tutorial": _tutorial,
}


def _voxels(name: str, result: Any) -> np.ndarray:
    """As Hilum orders them: (z, y, x), feet to head, front to back, right to left."""
    if name == "hilum":
        return result.voxels_hu
    if name in {"monai", "torchio"}:  # (x, y, z), RAS
        affine = np.asarray(result.affine)
        voxels = np.asarray(result.data if name == "monai" else result.data[0])
        away = [affine[0, 0] > 0, affine[1, 1] > 0, affine[2, 2] < 0]
        return np.flip(voxels, [axis for axis in range(3) if away[axis]]).transpose(2, 1, 0)
    return result[0] if name in {"pydicom", "tutorial"} else result[1]


# time


def _timed(readers: dict[str, Read], rounds: int) -> list[dict[str, Any]]:
    seconds: dict[tuple[str, str], list[float]] = {(name, scan): [] for scan in SCANS for name in readers}
    for scan in SCANS:
        ours = readers["hilum"](str(DATA / scan)).voxels_hu
        for name, read in readers.items():
            result = read(str(DATA / scan))
            voxels = np.clip(_voxels(name, result), -1024, 3071)  # hilum's limits
            if voxels.shape != ours.shape:
                print(f"{name} reads {scan} as {voxels.shape}, hilum as {ours.shape}")
            elif differing := int(np.count_nonzero(voxels != ours)):
                print(f"{name} reads {scan} with {differing} other voxels")
        del ours, voxels, result
    names = list(readers)
    for number in range(rounds):  # in another order each, so that none always follows the same one
        for scan in SCANS:
            for name in names[number % len(names) :] + names[: number % len(names)]:
                gc.collect()
                started = time.perf_counter()
                result = readers[name](str(DATA / scan))
                seconds[name, scan].append(time.perf_counter() - started)
                del result
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


def _threads() -> str:
    import SimpleITK as sitk
    import torch

    itk = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
    return f"ITK {itk}, torch {torch.get_num_threads()}"


# memory


def _multiple(name: str, scan: str) -> float:
    """Peak memory above that of the imports, over the bytes of the voxels as int16."""
    with tempfile.TemporaryDirectory() as tiny:
        from mutated import seeds

        for file, content in seeds("dicom explicit")[0].items():
            (Path(tiny) / file).write_bytes(content)
        command = [sys.executable, __file__, "--memory", name, tiny, str(DATA / scan)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return round(float(done.stdout.split()[-1]), 3)


def _peak(name: str, tiny: str, folder: str) -> float:
    read = ROWS[name]()
    read(tiny)
    gc.collect()
    held = forget_peak()
    result = read(folder)
    peak = peak_bytes() - held
    return peak / (2 * _voxels(name, result).size)


if __name__ == "__main__":
    main()
