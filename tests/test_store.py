"""Samples on disk: made once, found by what they were made from, never half-written, never believed when damaged."""

import json
import os
import re
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from safetensors import safe_open

from dicom_files import scan_hu, write_series
from hilum.cohorts.dataset import CohortDataset
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.table import Cohort
from hilum.errors import HilumError, PrepareError, ReadError, StoreError
from hilum.files import machine_id
from hilum.preparing import Store, load_sample, prepare, prepare_path, sample_file, save_sample, sources
from hilum.preparing import store as store_module
from hilum.reading.reader import read
from hilum.settings.run import CohortConfig, Recipe

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
    return str(Store(Path(folder)).fetch(Path(scan), RECIPE).file)


def test_a_sample_comes_back_as_it_was_prepared(scan, store):
    made, got = prepare(read(scan), RECIPE), store.get(scan, RECIPE)
    assert np.array_equal(made.voxels_hu, got.voxels_hu)
    assert got.voxels_hu.dtype == np.int16
    assert made.affine.tobytes() == got.affine.tobytes()
    assert (made.tags, made.findings) == (got.tags, got.findings)


def test_the_second_time_nothing_is_prepared(scan, store, monkeypatch):
    first = store.fetch(scan, RECIPE).file
    monkeypatch.setattr(store_module, "prepare_path", lambda *_, **__: pytest.fail("prepared again"))
    assert store.fetch(scan, RECIPE).file == first


def test_the_same_bytes_under_other_names_are_the_same_sample(scan, store, tmp_path):
    copy = tmp_path / "elsewhere"
    copy.mkdir()
    for number, path in enumerate(sorted(scan.iterdir(), reverse=True)):
        (copy / f"{number}.dcm").write_bytes(path.read_bytes())
    assert store.fetch(copy, RECIPE).file == store.fetch(scan, RECIPE).file


def test_what_is_done_to_a_sample_later_makes_no_other_sample(scan, store):
    """Windows are applied on the device; grids are aggregated after the network."""
    windowed = replace(RECIPE, windows_hu=("bone", (-160.0, 240.0)))
    assert store.fetch(scan, windowed).file == store.fetch(scan, RECIPE).file
    many = replace(RECIPE, sub_volumes=True)
    assert store.fetch(scan, replace(many, overlap=0.25, aggregate="max")).file == store.fetch(scan, many).file


def test_an_array_in_unit_range_is_another_sample_in_another_window(tmp_path, store):
    np.save(tmp_path / "a.npy", np.full(RECIPE.size, 0.5, np.float32))
    narrow = replace(RECIPE, windows_hu=((-160.0, 240.0),))
    assert store.get(tmp_path / "a.npy", RECIPE).voxels_hu.max() == -300
    assert store.get(tmp_path / "a.npy", narrow).voxels_hu.max() == 40


def test_another_scan_recipe_point_series_or_version_is_another_sample(scan, store, tmp_path, monkeypatch):
    write_series(tmp_path / "other", scan_hu(12) + 1)
    point = read(scan).centre_mm
    samples = [
        store.fetch(scan, RECIPE).file,
        store.fetch(tmp_path / "other", RECIPE).file,
        store.fetch(scan, replace(RECIPE, outside="edge")).file,
        store.fetch(scan, POINT, point_mm=point).file,
        store.fetch(scan, POINT, point_mm=point + 1).file,
        store.fetch(scan, RECIPE, series=read(scan).tags.series).file,
    ]
    monkeypatch.setattr(store_module, "_VERSION", -1)
    samples.append(store.fetch(scan, RECIPE).file)
    assert len(set(samples)) == len(samples)


def test_a_point_is_the_same_point_however_it_is_written(scan, store):
    point = [-8, -18, 40]
    same = {store.fetch(scan, POINT, point_mm=p).file for p in (point, tuple(map(float, point)), np.array(point))}
    assert len(same) == 1


def test_voxels_in_a_file_beside_the_header_count_as_content(scan, store, tmp_path):
    """A .mhd header says nothing of the voxels in its .raw file."""
    volume = read(scan)
    sitk.WriteImage(volume.to_sitk(), str(tmp_path / "x.mhd"))
    first = store.get(tmp_path / "x.mhd", RECIPE)
    brighter = replace(volume, voxels_hu=volume.voxels_hu + np.int16(50))
    sitk.WriteImage(brighter.to_sitk(), str(tmp_path / "x.mhd"))
    second = store.get(tmp_path / "x.mhd", RECIPE)
    assert (second.voxels_hu > first.voxels_hu).any()


@pytest.mark.parametrize("damage", ["truncated", "a byte changed", "empty", "text"])
def test_a_damaged_sample_is_made_again(scan, store, damage):
    path = store.fetch(scan, RECIPE).file
    good = path.read_bytes()
    changed = bytearray(good)
    changed[-7] ^= 0xFF
    path.write_bytes({"truncated": good[:-9], "a byte changed": bytes(changed), "empty": b"", "text": b"text"}[damage])
    with pytest.raises(PrepareError, match=r"\.safetensors is (not there or )?damaged"):
        load_sample(path)
    assert np.array_equal(store.get(scan, RECIPE).voxels_hu, prepare(read(scan), RECIPE).voxels_hu)
    assert path.read_bytes() == good


def test_a_sample_whose_header_contradicts_itself_is_damaged(scan, store):
    path = store.fetch(scan, RECIPE).file
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    about = json.loads(header["__metadata__"]["hilum"])
    header["__metadata__"]["hilum"] = json.dumps(about | {"shape": [16, 16]})
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + content[start:])
    with pytest.raises(PrepareError, match="is damaged: its header gives two shapes"):
        load_sample(path)


def test_a_missing_sample_is_a_prepare_error(tmp_path):
    with pytest.raises(PrepareError, match=r"nowhere.safetensors is not there"):
        load_sample(tmp_path / "nowhere.safetensors")


def test_many_threads_and_processes_make_one_whole_sample(scan, store):
    with ThreadPoolExecutor(4) as pool:
        paths = set(pool.map(lambda _: store.fetch(scan, RECIPE).file, range(8)))
    next(iter(paths)).unlink()
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        paths |= set(map(Path, pool.map(_ensure, [str(store.folder)] * 4, [str(scan)] * 4)))
    (path,) = paths
    assert np.array_equal(load_sample(path).voxels_hu, prepare(read(scan), RECIPE).voxels_hu)
    assert list(store.folder.glob("*/*")) == [path]


def test_an_error_while_writing_leaves_nothing_behind(scan, store, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(HilumError, match="cannot be written: No space left"):
        store.fetch(scan, RECIPE)
    assert not [p for p in store.folder.rglob("*") if p.is_file()]


def test_a_store_that_is_a_file_is_one_clear_error(scan, tmp_path):
    (tmp_path / "store").write_text("")
    with pytest.raises(HilumError, match=r"store.*\.safetensors: cannot be written"):
        Store(tmp_path / "store").fetch(scan, RECIPE)


def test_a_scan_that_cannot_be_prepared_leaves_no_sample(store, tmp_path):
    with pytest.raises(ReadError, match="no file or folder"):
        store.fetch(tmp_path / "nowhere", RECIPE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ReadError, match="an empty folder"):
        store.fetch(tmp_path / "empty", RECIPE)
    assert not store.folder.exists()


def test_a_sample_holds_no_path_and_no_identifier(scan, store):
    with safe_open(store.fetch(scan, RECIPE).file, framework="np") as file:
        about = file.metadata()["hilum"]
    assert str(scan) not in about
    assert "P-1" not in about
    assert set(json.loads(about)) == {"key", "shape", "affine", "tags", "findings", "source", "checksum"}


def test_a_sample_of_a_view_is_saved_in_its_own_order(tmp_path, scan):
    volume = read(scan)
    turned = replace(volume, voxels_hu=volume.voxels_hu[::-1, :, ::2])
    save_sample(turned, tmp_path / "x.safetensors")
    assert np.array_equal(load_sample(tmp_path / "x.safetensors").voxels_hu, turned.voxels_hu)


# the sample's file


def test_the_voxels_are_a_view_of_the_file_that_cannot_be_written_to(scan, store):
    voxels = load_sample(store.fetch(scan, RECIPE).file).voxels_hu
    with pytest.raises(ValueError, match="read-only"):
        voxels[0, 0, 0] = 1


def test_any_program_that_reads_safetensors_reads_a_sample(scan, store):
    path = store.fetch(scan, RECIPE).file
    with safe_open(path, framework="np") as file:
        assert np.array_equal(file.get_tensor("voxels_hu"), load_sample(path).voxels_hu)


def test_every_flipped_bit_is_noticed_or_changes_nothing(scan, store):
    """Of voxels and header alike: whatever is loaded is what was written."""
    path = store.fetch(scan, RECIPE).file
    good, before = path.read_bytes(), load_sample(path)
    unnoticed = []
    for place in [*range(0, len(good), 7), len(good) - 1]:
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        path.write_bytes(bytes(changed))
        try:
            got = load_sample(path)
        except PrepareError:
            continue
        unnoticed.append(place)
        assert np.array_equal(got.voxels_hu, before.voxels_hu), place
        assert got.affine.tobytes() == before.affine.tobytes(), place
        assert (got.tags, got.findings) == (before.tags, before.findings), place
    assert len(unnoticed) < 5


def test_a_bit_that_flips_after_preparing_is_not_trained_on(npy_cohort, tmp_path):
    cohort = Cohort.read(npy_cohort / "cohort.csv", CohortConfig())
    recipe = Recipe(region="whole", size=(12, 12, 12), spacing_mm=(2.0, 2.0, 2.0))
    prepared = prepare_cohort(cohort, recipe, Store(tmp_path / "s"))
    dataset = CohortDataset(
        prepared, dict.fromkeys((case.case_id for case in cohort.cases), "train"), "train", 2, recipe
    )
    assert dataset[3]["hu"].shape == (1, 12, 12, 12)
    content = bytearray(prepared.samples[3].read_bytes())
    content[-1000] ^= 0x10
    prepared.samples[3].write_bytes(bytes(content))
    with pytest.raises(PrepareError, match="is damaged: its bytes are not those that were written"):
        dataset[3]


def test_the_bytes_of_a_sample_are_checked_once_in_a_process(scan, store, monkeypatch):
    path = store.fetch(scan, RECIPE).file
    load_sample(path)
    monkeypatch.setattr(sample_file, "_checksum", lambda *_: pytest.fail("checked again"))
    load_sample(path)


def test_a_sample_under_the_name_of_another_is_noticed(scan, store):
    path = store.fetch(scan, RECIPE).file
    other = path.with_name(f"{'0' * 32}.safetensors")
    path.rename(other)
    with pytest.raises(PrepareError, match="under another name"):
        load_sample(other)


def test_a_sample_that_a_reader_has_mapped_outlives_its_removal(scan, store):
    path = store.fetch(scan, RECIPE).file
    held = load_sample(path).voxels_hu
    path.unlink()
    assert np.array_equal(held, prepare(read(scan), RECIPE).voxels_hu)


# what is remembered of the sources


@pytest.fixture
def settled(monkeypatch):
    """Files count as old enough at once."""
    monkeypatch.setattr(sources, "_SETTLED_NS", -(10**9))


def _no_hashing(monkeypatch):
    monkeypatch.setattr(sources, "_file_digest", lambda path: pytest.fail(f"{path} was hashed again"))


def test_files_that_have_not_changed_are_not_hashed_again(scan, store, settled, monkeypatch):
    path = store.fetch(scan, RECIPE).file
    _no_hashing(monkeypatch)
    again = Store(store.folder)
    assert again.fetch(scan, RECIPE).file == path
    found = again.find(scan, RECIPE)
    assert found is not None
    assert (found.file, found.made) == (path, False)


def test_files_changed_only_just_now_are_hashed_each_time(scan, store, monkeypatch):
    """They could be changed again without another time of change."""
    store.fetch(scan, RECIPE)
    assert not (store.folder / "sources.txt").exists()
    assert Store(store.folder).find(scan, RECIPE) is None


@pytest.mark.parametrize("keeps_its_times", [False, True])
def test_a_changed_file_is_never_taken_for_what_it_was(scan, store, settled, keeps_its_times):
    first = store.get(scan, RECIPE).voxels_hu.copy()
    before = {path.name: path.stat() for path in scan.iterdir()}
    write_series(scan, scan_hu(12) + 1)
    for path in scan.iterdir():
        assert path.stat().st_size == before[path.name].st_size
        if keeps_its_times:
            os.utime(path, ns=(before[path.name].st_atime_ns, before[path.name].st_mtime_ns))
    assert Store(store.folder).find(scan, RECIPE) is None
    for one in (store, Store(store.folder)):
        assert not np.array_equal(one.get(scan, RECIPE).voxels_hu, first)


def test_a_file_more_is_another_scan(scan, store, settled):
    store.fetch(scan, RECIPE)
    (scan / "note.txt").write_text("x")
    assert store.find(scan, RECIPE) is None


def test_damaged_lines_of_the_list_of_sources_are_no_lines(scan, store, settled):
    path = store.fetch(scan, RECIPE).file
    index = store.folder / "sources.txt"
    state, digest, check = index.read_text().split()
    wrong = digest[:-1] + ("0" if digest[-1] != "0" else "1")
    for text in (f"{state} {wrong} {check}\n", f"{state} {digest}", "", f"{state[:9]}{state} {digest} {check}\n"):
        index.write_text(text)
        assert Store(store.folder).find(scan, RECIPE) is None
    index.write_bytes(b"\xff\xfe\n")
    assert Store(store.folder).fetch(scan, RECIPE).file == path


def test_the_list_of_sources_names_no_file(scan, store, settled):
    store.fetch(scan, RECIPE)
    assert re.fullmatch(r"[0-9a-f]{32} [0-9a-f]{32} [0-9a-f]{8}\n", (store.folder / "sources.txt").read_text())


def test_a_scan_that_changes_while_it_is_read_leaves_no_sample(scan, store, monkeypatch):
    def meanwhile(path, recipe, **which):
        made = prepare_path(path, recipe, **which)
        (scan / "one-more.dcm").write_text("still being copied")
        return made

    monkeypatch.setattr(store_module, "prepare_path", meanwhile)
    with pytest.raises(ReadError, match="was changed while it was read"):
        store.fetch(scan, RECIPE)
    assert store.samples() == []


# the bound


def _filled(store, folder, number):
    """Samples of that many scans, used one after the other a minute apart, long ago."""
    paths = []
    for i in range(number):
        np.save(folder / f"{i}.npy", np.full(RECIPE.size, i / number, np.float32))
        path = store.fetch(folder / f"{i}.npy", RECIPE).file
        os.utime(path, ns=((1_000_000 + 60 * i) * 10**9, path.stat().st_mtime_ns))
        paths.append(path)
    return paths


def _bounded(store, number):
    """The same store with room for that many samples."""
    largest = max(one.num_bytes for one in store.samples())
    return Store(store.folder, max_gb=number * largest / 1e9)


def test_the_longest_unused_go_first(store, tmp_path):
    paths = _filled(store, tmp_path, 6)
    load_sample(paths[0])  # used now
    assert _bounded(store, 3).trim() == 3
    assert [path for path in paths if path.exists()] == [paths[0], paths[4], paths[5]]


def test_use_is_noted_without_a_change_of_the_sample(store, tmp_path):
    (path,) = _filled(store, tmp_path, 1)
    before = path.stat()
    load_sample(path)
    after = path.stat()
    assert after.st_atime > before.st_atime
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_what_the_running_command_needs_is_never_removed(store, tmp_path):
    paths = _filled(store, tmp_path, 4)
    assert _bounded(store, 1).trim(keep=paths[:2]) == 2
    assert [path.exists() for path in paths] == [True, True, False, False]


def test_without_a_bound_nothing_is_removed(store, tmp_path):
    _filled(store, tmp_path, 3)
    assert store.trim() == 0


def test_files_that_are_no_samples_are_never_counted_or_removed(store, tmp_path):
    (path,) = _filled(store, tmp_path, 1)
    outside = tmp_path / "outside" / "ab"
    outside.mkdir(parents=True)
    key = "ab" * 16
    mine = [
        store.folder / "notes.txt",
        path.parent / "x.safetensors",
        path.parent / f"{key}.safetensors.bak",
        path.parent / f".{key}.safetensors.999999999.12345678.swp",
        outside / f"{key}.safetensors",
        outside / f".{key}.safetensors.999999999.12345678",
    ]
    for one in mine:
        one.write_text("mine")
    (store.folder / "ab").symlink_to(outside)
    (path.parent / f"{key}.safetensors").symlink_to(outside / f"{key}.safetensors")
    assert [one.file for one in store.samples()] == [path]
    assert store.sweep() == 0
    assert _bounded(store, 0.5).trim() == 1
    assert all(one.read_text() == "mine" for one in mine)


def test_leftovers_of_killed_writers_are_removed_and_those_of_living_ones_not(store, tmp_path):
    (path,) = _filled(store, tmp_path, 1)
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    killed, living, old = (
        path.with_name(f".{path.name}.{pid}.{machine_id()}{letter * 4}")
        for pid, letter in ((int(done.stdout), "a"), (os.getpid(), "b"), (os.getpid(), "c"))
    )
    for one in (killed, living, old):
        one.write_bytes(b"half")
    os.utime(old, (0, time.time() - 3601))
    other = ("0" if machine_id()[0] != "0" else "1") + machine_id()[1:]
    elsewhere = path.with_name(f".{path.name}.{int(done.stdout)}.{other}aaaa")
    elsewhere.write_bytes(b"half")  # the writer's process is on another machine
    assert store.sweep() == 2
    assert [one.exists() for one in (killed, living, old, elsewhere)] == [False, True, False, True]


def test_no_link_is_followed_when_a_sample_is_written_or_read(store, tmp_path):
    (path,) = _filled(store, tmp_path, 1)
    mine = tmp_path / "mine"
    mine.write_text("mine")
    path.unlink()
    path.symlink_to(mine)
    assert store.fetch(tmp_path / "0.npy", RECIPE).made
    assert mine.read_text() == "mine"
    assert path.is_file()
    assert not path.is_symlink()
    path.unlink()
    path.parent.rmdir()
    (tmp_path / "elsewhere").mkdir()
    path.parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="is a link"):
        store.fetch(tmp_path / "0.npy", RECIPE)


def test_a_store_that_is_trimmed_while_others_write_and_read_stays_whole(store, tmp_path):
    _filled(store, tmp_path, 12)
    bounded = _bounded(store, 4)

    def use(i):
        got = bounded.get(tmp_path / f"{i % 12}.npy", RECIPE).voxels_hu
        if i % 3 == 0:
            bounded.trim()
        assert np.allclose(got, -1000 + 1400 * (i % 12) / 12, atol=1)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(use, range(60)))
    bounded.trim()
    assert len(bounded.samples()) <= 4
    assert list(bounded.damaged(bounded.samples())) == []
