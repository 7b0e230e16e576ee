"""Samples on disk: made once, found by what they were made from, never half-written, never believed when damaged."""

import json
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from dicom_files import scan_hu, write_series
from hilum.config import Recipe
from hilum.errors import HilumError, PrepareError, ReadError
from hilum.preparing import Store, load_sample, prepare, save_sample
from hilum.preparing import store as store_module
from hilum.reading import read
from hilum.simulating import write_image

RECIPE = Recipe(region="whole", size=(4, 5, 6), spacing_mm=(2.0, 1.0, 1.0))
POINT = Recipe(region="point", size=(4, 5, 6), spacing_mm=(2.0, 1.0, 1.0))


@pytest.fixture
def scan(tmp_path):
    write_series(tmp_path / "scan", scan_hu(12))
    return tmp_path / "scan"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def _ensure(folder: str, scan: str) -> str:
    return str(Store(Path(folder)).ensure(Path(scan), RECIPE))


def test_a_sample_comes_back_as_it_was_prepared(scan, store):
    made, got = prepare(read(scan), RECIPE), store.get(scan, RECIPE)
    assert np.array_equal(made.voxels_hu, got.voxels_hu)
    assert got.voxels_hu.dtype == np.int16
    assert made.affine.tobytes() == got.affine.tobytes()
    assert (made.tags, made.findings) == (got.tags, got.findings)


def test_the_second_time_nothing_is_prepared(scan, store, monkeypatch):
    first = store.ensure(scan, RECIPE)
    monkeypatch.setattr(store_module, "prepare_path", lambda *_, **__: pytest.fail("prepared again"))
    assert store.ensure(scan, RECIPE) == first


def test_the_same_bytes_under_other_names_are_the_same_sample(scan, store, tmp_path):
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for number, path in enumerate(sorted(scan.iterdir(), reverse=True)):
        (copy / f"{number}.dcm").write_bytes(path.read_bytes())
    assert store.ensure(copy, RECIPE) == store.ensure(scan, RECIPE)


def test_another_scan_recipe_point_series_or_version_is_another_sample(scan, store, tmp_path, monkeypatch):
    write_series(tmp_path / "other", scan_hu(12) + 1)
    point = read(scan).centre_mm
    samples = [
        store.ensure(scan, RECIPE),
        store.ensure(tmp_path / "other", RECIPE),
        store.ensure(scan, replace(RECIPE, outside="edge")),
        store.ensure(scan, replace(RECIPE, windows_hu=((-160.0, 240.0),))),
        store.ensure(scan, POINT, point_mm=point),
        store.ensure(scan, POINT, point_mm=point + 1),
        store.ensure(scan, RECIPE, series=read(scan).tags.series),
    ]
    monkeypatch.setattr(store_module, "_VERSION", -1)
    samples.append(store.ensure(scan, RECIPE))
    assert len(set(samples)) == len(samples)


def test_a_point_is_the_same_point_however_it_is_written(scan, store):
    point = [-8, -18, 40]
    same = {store.ensure(scan, POINT, point_mm=p) for p in (point, tuple(map(float, point)), np.array(point))}
    assert len(same) == 1


def test_voxels_in_a_file_beside_the_header_count_as_content(scan, store, tmp_path):
    """A .mhd header says nothing of the voxels in its .raw file."""
    volume = read(scan)
    write_image(volume, tmp_path / "x.mhd")
    first = store.get(tmp_path / "x.mhd", RECIPE)
    write_image(replace(volume, voxels_hu=volume.voxels_hu + np.int16(50)), tmp_path / "x.mhd")
    second = store.get(tmp_path / "x.mhd", RECIPE)
    assert (second.voxels_hu > first.voxels_hu).any()


@pytest.mark.parametrize("damage", ["truncated", "a byte changed", "empty", "text"])
def test_a_damaged_sample_is_made_again(scan, store, damage):
    path = store.ensure(scan, RECIPE)
    good = path.read_bytes()
    changed = bytearray(good)
    changed[-7] ^= 0xFF
    path.write_bytes({"truncated": good[:-9], "a byte changed": bytes(changed), "empty": b"", "text": b"text"}[damage])
    with pytest.raises(PrepareError, match=r"\.safetensors is (not there or )?damaged"):
        load_sample(path)
    assert np.array_equal(store.get(scan, RECIPE).voxels_hu, prepare(read(scan), RECIPE).voxels_hu)
    assert path.read_bytes() == good


def test_a_missing_sample_is_a_prepare_error(tmp_path):
    with pytest.raises(PrepareError, match=r"nowhere.safetensors is not there"):
        load_sample(tmp_path / "nowhere.safetensors")


def test_many_threads_and_processes_make_one_whole_sample(scan, store):
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: store.ensure(scan, RECIPE), range(16)))
    next(iter(paths)).unlink()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        paths |= set(map(Path, pool.map(_ensure, [str(store.folder)] * 4, [str(scan)] * 4)))
    (path,) = paths
    assert np.array_equal(load_sample(path).voxels_hu, prepare(read(scan), RECIPE).voxels_hu)
    assert [p for p in store.folder.rglob("*") if p.is_file()] == [path]


def test_an_error_while_writing_leaves_nothing_behind(scan, store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(HilumError, match="cannot be written: No space left"):
        store.ensure(scan, RECIPE)
    assert not [p for p in store.folder.rglob("*") if p.is_file()]


def test_a_store_that_is_a_file_is_one_clear_error(scan, tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(HilumError, match=r"store.*\.safetensors cannot be written"):
        Store(tmp_path / "store").ensure(scan, RECIPE)


def test_a_scan_that_cannot_be_prepared_leaves_no_sample(store, tmp_path):
    with pytest.raises(ReadError, match="no file or folder"):
        store.ensure(tmp_path / "nowhere", RECIPE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="an empty folder"):
        store.ensure(tmp_path / "empty", RECIPE)
    assert not store.folder.exists()


def test_a_sample_holds_no_path_and_no_identifier(scan, store):
    with safe_open(store.ensure(scan, RECIPE), framework="np") as file:
        about = file.metadata()["hilum"]
    assert str(scan) not in about
    assert "P-1" not in about
    assert set(json.loads(about)) == {"key", "recipe", "shape", "affine", "tags", "findings", "checksum"}


def test_a_sample_of_a_view_is_saved_in_its_own_order(tmp_path, scan):
    volume = read(scan)
    turned = replace(volume, voxels_hu=volume.voxels_hu[::-1, :, ::2])
    save_sample(turned, tmp_path / "x.safetensors")
    assert np.array_equal(load_sample(tmp_path / "x.safetensors").voxels_hu, turned.voxels_hu)
