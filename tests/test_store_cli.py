"""``hilum prepare`` goes on where it was stopped and keeps to the bound; ``hilum store`` finds what is damaged."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from hilum.cli import main
from hilum.cohorts import worker_limit as workers
from hilum.files import machine_id
from hilum.preparing import Store
from hilum.simulating import plan_cohort, simulate_case


def run(*words):
    """The exit code of a command as users type it."""
    return main([str(word) for word in words])


@pytest.fixture
def cohort(npy_cohort, tmp_path):
    """A folder with twelve volumes, a table and a config."""
    folder = tmp_path / "c"
    folder.mkdir()
    lines = (npy_cohort / "cohort.csv").read_text().splitlines()[:13]
    for line in lines[1:]:
        shutil.copy(npy_cohort / line.split(",")[1], folder)
    (folder / "cohort.csv").write_text("\n".join(lines) + "\n")
    shutil.copy(npy_cohort / "config.toml", folder)
    return folder


def samples(folder):
    return sorted((folder / "store").glob("[0-9a-f][0-9a-f]/*.safetensors"))


def damage(path):
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(bytes(content))


def bound(path, size):
    """A config with a bound of that many bytes; a setting of no section stands on top."""
    path.write_text(f"store_gb = {size / 1e9:.9f}\n{path.read_text()}")


def test_the_second_time_all_were_there_and_nothing_is_written(cohort, capsys):
    assert run("prepare", cohort / "config.toml") == 0
    assert "12 samples, 0 were there, 0 refused" in capsys.readouterr().out
    before = [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in samples(cohort)]
    assert run("prepare", cohort / "config.toml") == 0
    assert "12 samples, 12 were there, 0 refused" in capsys.readouterr().out
    assert [(path, path.stat().st_ino, path.stat().st_mtime_ns) for path in samples(cohort)] == before


def test_only_what_is_missing_or_damaged_is_made_again(cohort, capsys):
    run("prepare", cohort / "config.toml")
    good = {path: path.read_bytes() for path in samples(cohort)}
    missing, damaged, *_ = good
    missing.unlink()
    damage(damaged)
    capsys.readouterr()
    assert run("prepare", cohort / "config.toml") == 0
    assert "12 samples, 10 were there, 0 refused" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in samples(cohort)} == good


@pytest.mark.parametrize("number", [1, 2])
def test_the_number_of_workers_changes_no_sample(cohort, capsys, number):
    assert run("prepare", cohort / "config.toml", "--workers", number) == 0
    made = {path.name: path.read_bytes() for path in samples(cohort)}
    shutil.rmtree(cohort / "store")
    assert run("prepare", cohort / "config.toml") == 0
    assert {path.name: path.read_bytes() for path in samples(cohort)} == made


def test_the_refused_are_listed_in_the_store_until_they_are_well(cohort, capsys):
    (cohort / "03.npy").rename(cohort / "away.npy")
    assert run("prepare", cohort / "config.toml") == 3
    assert "1 refused, listed in refused.csv" in capsys.readouterr().out
    listed = (cohort / "store" / "refused.csv").read_text()
    assert listed == "case_id,row,reason\nc03,5,03.npy: no file or folder\n"
    (cohort / "away.npy").rename(cohort / "03.npy")
    assert run("prepare", cohort / "config.toml") == 0
    assert not (cohort / "store" / "refused.csv").exists()


def test_what_killed_writers_left_is_removed_by_the_next_prepare(cohort, capsys):
    run("prepare", cohort / "config.toml")
    left = samples(cohort)[0].with_name(f".{samples(cohort)[0].name}.999999999.{machine_id()}2c3d")
    left.write_bytes(b"half")
    assert run("store", "verify", cohort / "config.toml") == 0
    assert "0 damaged, 1 left over" in capsys.readouterr().out
    assert left.exists()
    assert run("prepare", cohort / "config.toml") == 0
    assert not left.exists()


# the bound


def test_a_cohort_that_the_bound_cannot_hold_is_one_clear_error_before_any_work(cohort, capsys):
    bound(cohort / "config.toml", 50_000)
    assert run("prepare", cohort / "config.toml") == 1
    assert "store_gb must be at least 0.001 for this cohort of 12 samples" in capsys.readouterr().err
    assert not (cohort / "store").exists()
    assert run("train", cohort / "config.toml", "--out", cohort / "run") == 1
    assert "store_gb must be at least" in capsys.readouterr().err
    assert not (cohort / "run").exists()


def test_after_a_command_the_store_is_within_its_bound_and_holds_the_cohort(cohort, npy_cohort, tmp_path, capsys):
    whole = shutil.copytree(npy_cohort, tmp_path / "whole", ignore=shutil.ignore_patterns("run", "store"))
    run("prepare", whole / "config.toml")
    shutil.move(whole / "store", cohort / "store")
    assert len(samples(cohort)) == 60
    shared = {path.name for path in samples(cohort)}
    np.save(cohort / "00.npy", np.full((12, 12, 12), 0.5, np.float32))  # one that is not among them
    assert run("prepare", cohort / "config.toml", "--store-gb", 0.00015) == 0
    assert "12 samples, 11 were there" in capsys.readouterr().out
    assert sum(path.stat().st_size for path in samples(cohort)) <= 150_000
    assert len(samples(cohort)) > 12
    assert len({path.name for path in samples(cohort)} - shared) == 1
    assert run("prepare", cohort / "config.toml") == 0
    assert "12 samples, 12 were there" in capsys.readouterr().out


def test_memory_for_fewer_scans_than_cores_means_fewer_at_once(cohort, capsys, monkeypatch):
    monkeypatch.setattr(workers, "free_bytes", lambda: 0.5e9)
    assert run("prepare", cohort / "config.toml", "--workers", 4) == 0
    assert "1 instead of 4 scans at once: the largest may take 0.3 GB, 0.5 GB of memory are free" in (
        capsys.readouterr().err
    )


# hilum store


def test_a_sound_store_verifies_and_a_damaged_one_exits_with_1(cohort, capsys):
    run("prepare", cohort / "config.toml")
    capsys.readouterr()
    assert run("store", "verify", cohort / "store") == 0
    assert re.search(r"12 samples, 0\.000 GB, 0 damaged, 0 left over", capsys.readouterr().out)
    flipped, short = samples(cohort)[3], samples(cohort)[7]
    damage(flipped)
    short.write_bytes(short.read_bytes()[:-10])
    assert run("store", "verify", cohort / "store") == 1
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith(f"{flipped.parent.name}/{flipped.name}: ")
    assert "not those that were written" in lines[0]
    assert lines[1].startswith(f"{short.parent.name}/{short.name}: ")
    assert "12 samples, 0.000 GB, 2 damaged" in lines[2]


def test_repair_removes_what_is_damaged_and_the_next_prepare_makes_it_anew(cohort, capsys):
    run("prepare", cohort / "config.toml")
    good = samples(cohort)[5].read_bytes()
    damage(samples(cohort)[5])
    left = samples(cohort)[0].with_name(f".{samples(cohort)[0].name}.999999999.{machine_id()}2c3d")
    left.write_bytes(b"half")
    assert run("store", "verify", cohort / "config.toml", "--repair") == 0
    assert not left.exists()
    assert len(samples(cohort)) == 11
    assert run("store", "verify", cohort / "config.toml") == 0
    capsys.readouterr()
    assert run("prepare", cohort / "config.toml") == 0
    assert "12 samples, 11 were there" in capsys.readouterr().out
    assert samples(cohort)[5].read_bytes() == good


def test_verifying_is_no_use_of_a_sample(cohort):
    run("prepare", cohort / "config.toml")
    os.utime(samples(cohort)[0], (1_000_000, samples(cohort)[0].stat().st_mtime))
    before = [path.stat().st_atime_ns for path in samples(cohort)]
    assert run("store", "verify", cohort / "store") == 0
    assert [path.stat().st_atime_ns for path in samples(cohort)] == before


def test_verify_and_list_speak_json(cohort, capsys):
    run("prepare", cohort / "config.toml")
    damage(samples(cohort)[2])
    capsys.readouterr()
    assert run("store", "verify", cohort / "store", "--json") == 1
    answer = json.loads(capsys.readouterr().out)
    assert (answer["num_samples"], answer["num_leftovers"]) == (12, 0)
    assert [one["key"] for one in answer["damaged"]] == [samples(cohort)[2].stem]
    assert run("store", "list", cohort / "store", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert {one["key"] for one in answer["samples"]} == {path.stem for path in samples(cohort)}
    assert answer["bytes"] == sum(path.stat().st_size for path in samples(cohort))


def test_list_shows_the_longest_unused_first(cohort, capsys):
    run("prepare", cohort / "config.toml")
    old = samples(cohort)[6]
    os.utime(old, (1_000_000, old.stat().st_mtime))
    capsys.readouterr()
    assert run("store", "list", cohort / "config.toml") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[0] == old.stem
    assert "used 1970-01-12 13:46 UTC" in lines[0]
    assert len(lines) == 13


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("verify", "nowhere"), "there is no store nowhere"),
        (("verify", "nowhere.toml"), "nowhere.toml: there is no such config file"),
        (("list", ".", "--repair"), "--repair goes with verify"),
    ],
)
def test_a_store_that_is_not_there_is_one_line_and_exit_1(tmp_path, monkeypatch, capsys, words, says):
    monkeypatch.chdir(tmp_path)
    assert run("store", *words) == 1
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


# stopping


@pytest.fixture(scope="module")
def chests(tmp_path_factory):
    """Twelve scans that take a while each, more than threads are used for."""
    folder = tmp_path_factory.mktemp("chests")
    volume = simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=3.0)[0]
    for i in range(12):
        replace(volume, voxels_hu=volume.voxels_hu + np.int16(i)).write(folder / f"{i}.nii")
    (folder / "cohort.csv").write_text("\n".join(["path,label", *(f"{i}.nii,{i % 2}" for i in range(12))]) + "\n")
    (folder / "config.toml").write_text(
        '[cohort]\ntable = "cohort.csv"\n[recipe]\nsize = [32, 32, 32]\nspacing_mm = [12.0, 12.0, 12.0]\n'
    )
    return folder


@pytest.mark.skipif(os.name == "nt", reason="signals to a group of processes")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), pytest.param("SIGTERM", 143, marks=pytest.mark.slow)])
def test_a_signal_to_end_keeps_what_is_done_and_the_same_command_goes_on(chests, capfd, name, code):
    shutil.rmtree(chests / "store", ignore_errors=True)
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from hilum.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "prepare", str(chests / "config.toml")]
    running = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not samples(chests) and running.poll() is None:
        time.sleep(0.02)
    os.killpg(running.pid, getattr(signal, name))
    error = running.communicate()[1]
    assert running.returncode == code, error
    assert "Traceback" not in error
    said = re.search(
        r"stopped: (\d+) of 12 cases are done and kept, 0 of them refused; the same command goes on", error
    )
    assert said, error
    number = int(said[1])
    assert 1 <= number < 12
    assert len(samples(chests)) == number
    assert not list(chests.glob("store/*/.*"))
    store = Store(chests / "store")
    assert list(store.damaged(store.samples())) == []
    capfd.readouterr()
    assert run("prepare", chests / "config.toml") == 0
    assert f"12 samples, {number} were there, 0 refused" in capfd.readouterr().out


def test_a_strangers_list_of_refusals_is_noticed_before_any_scan_is_prepared(npy_cohort, tmp_path, capsys):
    config = tmp_path / "config.toml"
    table = npy_cohort / "cohort.csv"
    config.write_text((npy_cohort / "config.toml").read_text().replace('"cohort.csv"', f'"{table}"'))
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "refused.csv").write_text("mine")
    assert main(["prepare", str(config)]) == 1
    assert "refused.csv: would be overwritten" in capsys.readouterr().err
    assert [file.name for file in (tmp_path / "store").iterdir()] == ["refused.csv"]
    config.write_text(config.read_text().replace(f'"{table}"', '""'))
    assert main(["prepare", str(config)]) == 1
    assert "cohort.table must name the table of cases" in capsys.readouterr().err
