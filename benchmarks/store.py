"""Formats for prepared samples side by side: size, writing, reading cold, warm and in part, and two writers at once.

    python benchmarks/store.py [--quick] [--rounds 7] [--json]

Samples are prepared from two real scans (HILUM_DATA or ../shared/data), or simulated where those are not there. Each
row writes one file (Zarr: one folder) a sample with its metadata. Rows are interleaved in each round; medians. A cold
read is one after the pages of the files were dropped (after fsync, posix_fadvise): what the disk below keeps in its own
memory is not dropped by that. "hilum" is load_sample, as it loads a file for the first time in a process (all bytes
checked) and afterwards; the others check nothing. Needs zarr and blosc2 for their rows (extra bench).
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from machine import DATA, line, machine, need

from hilum import Recipe, Volume, prepare, read
from hilum.preparing import load_sample, sample_file, save_sample
from hilum.simulating import plan_cohort, simulate_case

SCANS = ("lidc-0314", "lung-dx-a0001")
RECIPES = {
    "64x96x96": Recipe(size=(64, 96, 96), extent_mm=(320.0, 360.0, 360.0)),
    "128x128x128": Recipe(size=(128, 128, 128), extent_mm=(340.0, 360.0, 360.0)),
    "256x320x320": Recipe(size=(256, 320, 320), extent_mm=(340.0, 360.0, 360.0)),
}
CROP = 64
WRITERS, EACH = 2, 16
ABOUT = {"affine": np.eye(4).tolist(), "findings": []}


@dataclass(frozen=True)
class Format:
    """One way to keep a sample; ``crop`` gives a box of CROP cubed, with as little reading as the format allows."""

    write: Callable[[Path, Volume], None]
    read: Callable[[Path], np.ndarray]
    crop: Callable[[Path, tuple[slice, ...]], np.ndarray]


def _formats() -> dict[str, Format]:
    rows = {"hilum, first load": _hilum(first=True), "hilum": _hilum(first=False), "npy": _npy()}
    need("zarr", "blosc2")
    import blosc2

    rows |= {"zarr v3, default": _zarr(blosc=False), "zarr v3, blosc zstd": _zarr(blosc=True)}
    codecs = {"zstd": blosc2.Codec.ZSTD, "lz4": blosc2.Codec.LZ4}
    filters = {"bit": blosc2.Filter.BITSHUFFLE, "byte": blosc2.Filter.SHUFFLE}
    for codec, level, order in (
        ("zstd", 1, "bit"), ("zstd", 5, "bit"), ("zstd", 1, "byte"), ("zstd", 5, "byte"), ("lz4", 5, "bit"),
    ):  # fmt: skip
        rows[f"blosc2 {codec} {level} {order}shuffle"] = _blosc2(codecs[codec], level, filters[order])
    return rows


def _hilum(*, first: bool) -> Format:
    def load(path: Path) -> np.ndarray:
        if first:
            sample_file._checked.clear()
        return load_sample(path).voxels_hu

    return Format(
        lambda path, volume: save_sample(volume, path), lambda p: load(p).copy(), lambda p, b: load(p)[b].copy()
    )


def _npy() -> Format:
    def write(path: Path, volume: Volume) -> None:
        with path.open("wb") as file:
            np.save(file, volume.voxels_hu)
        path.with_suffix(".json").write_text(json.dumps(ABOUT))

    def load(path: Path) -> np.ndarray:
        json.loads(path.with_suffix(".json").read_text())
        with path.open("rb") as file:  # np.load maps only what is called .npy
            np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            return np.memmap(file, kind, "r", file.tell(), shape)

    return Format(write, lambda p: np.array(load(p)), lambda p, b: np.array(load(p)[b]))


def _zarr(*, blosc: bool) -> Format:
    import zarr

    def write(path: Path, volume: Volume) -> None:
        shuffle = zarr.codecs.BloscShuffle.bitshuffle
        codec = {"compressors": zarr.codecs.BloscCodec(cname="zstd", clevel=5, shuffle=shuffle)} if blosc else {}
        array = zarr.create_array(
            path, shape=volume.shape, dtype="int16", chunks=tuple(min(64, n) for n in volume.shape), **codec
        )
        array[...] = volume.voxels_hu
        array.attrs.update(ABOUT)

    def load(path: Path) -> Any:
        array = zarr.open_array(path, mode="r")
        dict(array.attrs)
        return array

    return Format(write, lambda p: np.asarray(load(p)[...]), lambda p, b: np.asarray(load(p)[b]))


def _blosc2(codec: Any, level: int, order: Any) -> Format:
    import blosc2

    def write(path: Path, volume: Volume) -> None:
        settings = {"codec": codec, "clevel": level, "filters": [order]}
        array = blosc2.asarray(np.ascontiguousarray(volume.voxels_hu), urlpath=str(path), cparams=settings, mode="w")
        array.schunk.vlmeta["about"] = ABOUT

    def load(path: Path) -> Any:
        array = blosc2.open(str(path), mode="r")
        array.schunk.vlmeta["about"]
        return array

    return Format(write, lambda p: load(p)[...], lambda p, b: load(p)[b])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three rounds, without the largest samples")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rounds, sizes = (3, list(RECIPES)[:2]) if args.quick else (args.rounds, list(RECIPES))
    found = machine("safetensors", "zarr", "blosc2")
    print(line(found))
    scans, source = _scans()
    rows = []
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # a disk, where /tmp may be memory
        for size in sizes:
            volumes = [prepare(scan, RECIPES[size]) for scan in scans]
            rows += _measured(size, volumes, rounds, Path(folder))
    print(f"samples of {source}; medians of {rounds} rounds; ms for one sample, MB (10^6)")
    heads = ("size MB", "write", "cold", "warm", "crop cold", "crop warm", "2 writers /s", "damaged")
    for size in sizes:
        print(f"\n{size:<30}" + "".join(f"{head:>14}" for head in heads))
        for row in (r for r in rows if r["samples"] == size):
            cells = [row[k] for k in ("mb", "write_ms", "cold_ms", "warm_ms", "crop_cold_ms", "crop_warm_ms")]
            print(f"{row['row']:<30}" + "".join(f"{c:>14.2f}" for c in cells), end="")
            print(f"{row['writers_per_s']:>14.1f}{row['damaged']:>14}")
    if args.json:
        print(json.dumps({"source": source, "rounds": rounds, "rows": rows, "machine": found}))


def _scans() -> tuple[list[Volume], str]:
    if all((DATA / scan).is_dir() for scan in SCANS):
        return [read(DATA / scan) for scan in SCANS], ", ".join(SCANS)
    return [simulate_case(case, seed=0, pixel_mm=1.5)[0] for case in plan_cohort(2, seed=0)], "two simulated scans"


def _measured(size: str, volumes: list[Volume], rounds: int, folder: Path) -> list[dict[str, Any]]:
    formats = _formats()
    seconds: dict[tuple[str, str], list[float]] = {}
    num_bytes = dict.fromkeys(formats, 0)
    rng = np.random.default_rng(0)
    names = list(formats)
    for number in range(rounds + 1):  # the first warms up
        for name in names[number % len(names) :] + names[: number % len(names)]:
            one = formats[name]
            for volume in volumes:
                path = folder / "sample.b2nd"
                corner = [int(rng.integers(0, n - CROP + 1)) for n in volume.shape]
                box = tuple(slice(start, start + CROP) for start in corner)
                steps: dict[str, Callable[[], Any]] = {
                    "write": lambda one=one, path=path, volume=volume: one.write(path, volume),
                    "cold": lambda one=one, path=path: one.read(path),
                    "warm": lambda one=one, path=path: one.read(path),
                    "crop_cold": lambda one=one, path=path, box=box: one.crop(path, box),
                    "crop_warm": lambda one=one, path=path, box=box: one.crop(path, box),
                }
                for step, work in steps.items():
                    if "cold" in step:
                        _drop(folder)
                    started = time.perf_counter()
                    got = work()
                    if number:
                        seconds.setdefault((name, step), []).append(time.perf_counter() - started)
                    if step in ("cold", "warm") and not np.array_equal(got, volume.voxels_hu):
                        raise AssertionError(name)
                    if step.startswith("crop") and not np.array_equal(got, volume.voxels_hu[box]):
                        raise AssertionError(name)
                num_bytes[name] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
                _empty(folder)
    rows = []
    for name in names:
        median = {s: round(1000 * statistics.median(seconds[name, s]), 3) for s in steps}
        per_s, damaged = _writers(name, volumes[0], folder)
        rows.append(
            {"row": name, "samples": size, "mb": round(num_bytes[name] / 1e6, 3)}
            | {f"{step}_ms": value for step, value in median.items()}
            | {"writers_per_s": per_s, "damaged": damaged}
        )
    return rows


def _drop(folder: Path) -> None:
    """Have the system forget what it keeps of the files in memory."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def _writers(name: str, volume: Volume, folder: Path) -> tuple[float, int]:
    """Samples that two processes write in a second, and how many of them do not read back as they were."""
    with ProcessPoolExecutor(WRITERS, mp_context=get_context("spawn")) as pool:
        list(pool.map(_write_many, [name] * WRITERS, [volume] * WRITERS, [folder] * WRITERS, ["w"] * WRITERS, [1] * 2))
        _empty(folder)
        spent = list(pool.map(_write_many, [name] * 2, [volume] * 2, [folder] * 2, ["a", "b"], [EACH] * 2))
    one = _formats()[name]
    damaged = 0
    for path in (folder / f"{who}{i}.b2nd" for who in "ab" for i in range(EACH)):
        try:
            damaged += not np.array_equal(one.read(path), volume.voxels_hu)
        except Exception:  # noqa: BLE001 - whatever a damaged file raises
            damaged += 1
    _empty(folder)
    return round(WRITERS * EACH / max(spent), 1), damaged


def _write_many(name: str, volume: Volume, folder: Path, who: str, number: int) -> float:
    one = _formats()[name]
    started = time.perf_counter()
    for i in range(number):
        path = folder / f"{who}{os.getpid() if who == 'w' else ''}{i}.b2nd"
        one.write(path, volume)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
