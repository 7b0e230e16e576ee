"""Tests of what ends a training early: signals, kills, full disks, damaged samples and dead loader processes."""

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hilum import train
from hilum.cli import main
from hilum.errors import CohortError, ConfigError, HilumError, PrepareError, ResourceError
from hilum.settings.toml import load
from hilum.training.events import Events
from hilum.training.run_folder import Run
from hilum.training.saver import Saver
from hilum.training.state import TrainingState


def config_of(folder, **settings):
    config = load(folder / "config.toml")
    return replace(config, training=replace(config.training, **{"epochs": 3, **settings}))


def same(one, other):
    """Whether two runs have the same weights, figures and card."""
    for name in ("metrics.csv", "model/model.json", "model/weights.safetensors"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name


class Killed(BaseException):
    """Ends a training at once, as SIGKILL does: nothing that Hilum catches."""


@pytest.fixture
def killed_after(monkeypatch):
    """Train with a checkpoint after each step, and end at once after so many steps."""

    def run(config, out, steps, *, base):
        taken = []
        after_step = Saver.after_step

        def counted(self):
            self._save()
            taken.append(1)
            if len(taken) == steps:
                raise Killed
            after_step(self)

        with monkeypatch.context() as patch:
            patch.setattr(Saver, "after_step", counted)
            with pytest.raises(Killed):
                train(config, out, base=base)

    return run


ARMS = {
    "plain": {"training": {"ema_epochs": 0.0}},
    "ema": {"training": {"ema_epochs": 1.0}},
    "sgd, cosine": {"training": {"optimizer": "sgd", "lr": 0.05, "schedule": "cosine"}},
    "dropout": {"model": {"dropout": 0.3, "stochastic_depth": 0.2}},
    "sampled": {"sampling": {"method": "over"}, "training": {"ema_epochs": 0.0}},
    "auxiliary": {"columns": {"auxiliary": ("diameter_mm",)}},
    "last": {"training": {"keep": "last", "norm_statistics": "running"}},
}


def arm(folder, name):
    config = config_of(folder)
    for section, changed in ARMS[name].items():
        if section == "columns":
            cohort = config.cohort
            config = replace(config, cohort=replace(cohort, columns=replace(cohort.columns, **changed)))
        else:
            config = replace(config, **{section: replace(getattr(config, section), **changed)})
    return config


@pytest.mark.parametrize("name", ARMS)
def test_a_run_killed_within_an_epoch_goes_on_bit_for_bit(npy_cohort, tmp_path, killed_after, name):
    """Killed in the second of its epochs of nine steps each."""
    config = arm(npy_cohort, name)
    train(config, tmp_path / "whole", base=npy_cohort)
    killed_after(config, tmp_path / "broken", 12, base=npy_cohort)
    assert Run(tmp_path / "broken").state == "begun"
    train(config, tmp_path / "broken", resume=True)
    same(tmp_path / "broken", tmp_path / "whole")


def test_a_run_killed_while_it_validates_goes_on_bit_for_bit(npy_cohort, tmp_path, monkeypatch):
    config = config_of(npy_cohort, ema_epochs=1.0)
    train(config, tmp_path / "whole", base=npy_cohort)
    calls = []

    def killed(self):
        calls.append(1)
        if len(calls) == 3:
            self._save()
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "after_batch", killed)
        with pytest.raises(Killed):
            train(config, tmp_path / "broken", base=npy_cohort)
    train(config, tmp_path / "broken", resume=True)
    same(tmp_path / "broken", tmp_path / "whole")


def test_a_run_killed_after_its_last_epoch_still_gets_its_model(npy_cohort, tmp_path, monkeypatch):
    config = config_of(npy_cohort, keep="last", ema_epochs=1.0)
    train(config, tmp_path / "whole", base=npy_cohort)
    with monkeypatch.context() as patch:
        patch.setattr("hilum.training.fit.finish", lambda *_: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            train(config, tmp_path / "broken", base=npy_cohort)
    train(config, tmp_path / "broken", resume=True)
    same(tmp_path / "broken", tmp_path / "whole")


def test_a_state_is_saved_within_long_epochs(npy_cohort, tmp_path, monkeypatch):
    saved = []
    save = TrainingState.save
    monkeypatch.setattr(
        TrainingState, "save", lambda self, folder: saved.append(self.progress.step) or save(self, folder)
    )
    train(config_of(npy_cohort, epochs=1, checkpoint_minutes=1e-9), tmp_path / "run", base=npy_cohort)
    assert saved[:-1] == list(range(1, len(saved)))
    assert saved[-1] == 0
    saved.clear()
    train(config_of(npy_cohort, epochs=2), tmp_path / "other", base=npy_cohort)
    assert saved == [0, 0]


TRAINING = """
import signal, sys
from hilum.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts jobs in the background with it ignored
sys.exit(main(["train", *sys.argv[1:]]))
"""

WAITING = """
import sys, time
from pathlib import Path
from hilum.training.saver import Saver
steps, after_step = [], Saver.after_step
def wait(self):
    steps.append(1)
    if len(steps) == 12:  # in the second epoch
        Path(sys.argv[1]).with_name("waits").touch()
        until = time.monotonic() + 120
        while not Path(sys.argv[1]).with_name("sent").exists() and time.monotonic() < until:
            time.sleep(0.02)
    after_step(self)
Saver.after_step = wait
"""
"""The training waits within its second epoch, so that a signal meets it there on any machine."""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(npy_cohort, tmp_path, number, code):
    folder = tmp_path / "c"
    shutil.copytree(npy_cohort, folder, ignore=shutil.ignore_patterns("run"))
    flags = [str(folder / "config.toml"), "--training.epochs", "3", "--training.stop-patience", "0"]
    out = tmp_path / "run"
    command = [sys.executable, "-c", WAITING + TRAINING, *flags, "--out", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300  # a busy machine is no failure
    while not (folder / "waits").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(number)
    (folder / "sent").touch()
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    assert "stopping after this step, and saving; once more: at once" in said
    assert f"stopped by {signal.Signals(number).name}: 1 epochs and 3 steps are saved" in said
    assert f"hilum train {out / 'config.toml'} --out {out} --resume goes on" in said
    assert "Traceback" not in said
    assert Run(out).state == "begun"
    settings = load(out)
    assert main(["train", flags[0], "--out", str(out), "--resume"]) == 0
    train(settings, tmp_path / "whole", base="/")
    same(out, tmp_path / "whole")


def test_members_save_though_a_scheduler_signals_them_and_their_parent(npy_cohort, tmp_path):
    folder, out = tmp_path / "c", tmp_path / "run"
    shutil.copytree(npy_cohort, folder, ignore=shutil.ignore_patterns("run"))
    flags = ["--training.epochs", "200", "--training.stop-patience", "0", "--folds", "2", "--jobs", "2"]
    command = [sys.executable, "-c", TRAINING, str(folder / "config.toml"), "--out", str(out), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300  # a busy machine is no failure
    while len(list(out.glob("*/metrics.csv"))) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    for pid in (*_children(process.pid, b"popen_loky"), process.pid):
        os.kill(pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert said.count("stopped by SIGTERM: ") == 2
    assert said.count("steps are saved in") == 2
    assert f"stopped: hilum train {out / 'config.toml'} --out {out} --resume goes on" in said


def test_a_signal_to_the_loader_processes_too_ends_in_order(npy_cohort, tmp_path):
    folder, out = tmp_path / "c", tmp_path / "run"
    shutil.copytree(npy_cohort, folder, ignore=shutil.ignore_patterns("run"))
    flags = ["--training.epochs", "200", "--training.stop-patience", "0", "--training.workers", "2"]
    command = [sys.executable, "-c", TRAINING, str(folder / "config.toml"), "--out", str(out), *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 300  # a busy machine is no failure
    while not (out / "metrics.csv").exists() and time.monotonic() < until:
        time.sleep(0.05)
    for pid in (process.pid, *_children(process.pid)):
        os.kill(pid, signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143, said
    assert "steps are saved in" in said


def test_auxiliary_targets_that_changed_since_the_run_began_are_noticed(npy_cohort, tmp_path, killed_after):
    folder = tmp_path / "c"
    shutil.copytree(npy_cohort, folder, ignore=shutil.ignore_patterns("run", "store"))
    killed_after(arm(folder, "auxiliary"), tmp_path / "run", 12, base=folder)
    table = folder / "cohort.csv"
    lines = table.read_text().splitlines()
    lines[5] = ",".join([*lines[5].split(",")[:-1], "99"])
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(CohortError, match="the auxiliary targets of case 'c04'"):
        train(arm(folder, "auxiliary"), tmp_path / "run", resume=True)


def test_rows_in_another_order_since_the_run_began_are_noticed(npy_cohort, tmp_path, killed_after):
    """Batches are drawn by the places of the cases."""
    folder = tmp_path / "c"
    shutil.copytree(npy_cohort, folder, ignore=shutil.ignore_patterns("run", "store"))
    killed_after(config_of(folder), tmp_path / "run", 12, base=folder)
    head, *lines = (folder / "cohort.csv").read_text().splitlines()
    (folder / "cohort.csv").write_text("\n".join([head, *lines[::-1]]) + "\n")
    with pytest.raises(CohortError, match="changed since it was begun: the order of the cases, by which batches"):
        train(config_of(folder), tmp_path / "run", resume=True)


def test_settings_edited_since_the_run_began_are_refused_but_for_what_costs_only_time(
    npy_cohort, tmp_path, killed_after
):
    config = config_of(npy_cohort)
    train(config, tmp_path / "whole", base=npy_cohort)
    killed_after(config, tmp_path / "run", 12, base=npy_cohort)
    file = tmp_path / "run" / "config.toml"
    text = file.read_text()
    file.write_text(text.replace("\nlr = ", "\nlr = 1"))
    with pytest.raises(ConfigError, match=r"was begun with other settings: training.lr must be .* \(give them back"):
        train(config, tmp_path / "run", resume=True)
    file.write_text(text.replace("checkpoint_minutes = ", "checkpoint_minutes = 1"))
    train(config, tmp_path / "run", resume=True)
    for name in ("metrics.csv", "model/weights.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_number_of_threads_is_said_when_a_run_is_resumed(npy_cohort, tmp_path, killed_after, caplog):
    config = config_of(npy_cohort)
    killed_after(config, tmp_path / "run", 3, base=npy_cohort)
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        train(config, tmp_path / "run", resume=True)
    finally:
        torch.set_num_threads(before)
    assert f"in the last digits: threads was {before}, is {before + 1}" in caplog.text


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with few kilobytes; only root may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size):
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("a file system can be mounted by root only")
        return folder

    yield mount
    subprocess.run(["umount", "--lazy", str(folder)], capture_output=True, check=False)  # weights may still be mapped


@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount")
def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(npy_cohort, tmp_path, small_disk, capfd):
    config = config_of(npy_cohort, epochs=3)
    train(config, tmp_path / "whole", base=npy_cohort)
    disk = small_disk("16m")
    size = []

    def fill(state, folder):
        SAVE(state, folder)
        if state.progress.epoch == 1 and not size:
            size.append(1)
            with (disk / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(b"0" * 65536)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "save", fill)
        with pytest.raises(HilumError, match="No space left on device") as error:
            train(config, disk / "run", base=npy_cohort)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith("config.toml --out " + str(disk / "run") + " --resume goes on)")
    assert Run(disk / "run").state == "begun"
    (disk / "filler").unlink()
    train(config, disk / "run", resume=True)
    same(disk / "run", tmp_path / "whole")


SAVE = TrainingState.save


def test_events_that_cannot_be_written_are_a_warning_and_the_run_goes_on(npy_cohort, tmp_path, caplog):
    """A limit of the size of files stops the events alone, whose pictures are larger than all else before the model."""
    events = Events(tmp_path, 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        events.scalar("loss", 0.5, 1)
        for step in range(3):
            events.image("batch", np.random.default_rng(0).integers(0, 255, (200, 200)).astype(np.uint8), step)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = [record.getMessage() for record in caplog.records]
    assert said == ["warning: TensorBoard's events are no longer written: File too large"]


@pytest.mark.parametrize("workers", [0, 2])
def test_a_sample_damaged_since_it_was_prepared_is_named_and_nothing_is_lost(
    npy_cohort, tmp_path, monkeypatch, workers
):
    """It is truncated after a step, while training goes on, and restored before the resume."""
    folder = tmp_path / "c"
    shutil.copytree(npy_cohort, folder, ignore=shutil.ignore_patterns("run", "store"))
    config = config_of(folder, epochs=3, workers=workers)
    train(config, tmp_path / "whole", base=folder)
    damaged = {}
    after_epoch = Saver.after_epoch

    def damage(self):
        after_epoch(self)
        if not damaged:
            for sample in (folder / "store").rglob("*.safetensors"):
                damaged[sample] = sample.read_bytes()
                sample.unlink()  # a new file: the old one may still be mapped
                sample.write_bytes(damaged[sample][:-100])

    monkeypatch.setattr(Saver, "after_epoch", damage)
    with pytest.raises(PrepareError, match=r"case 'c\d\d'.*damaged") as error:
        train(config, tmp_path / "broken", base=folder)
    assert "\n" not in str(error.value)
    assert Run(tmp_path / "broken").state == "begun"
    for sample, content in damaged.items():
        sample.unlink()
        sample.write_bytes(content)
    train(config, tmp_path / "broken", resume=True)
    same(tmp_path / "broken", tmp_path / "whole")


def test_a_killed_loader_process_is_one_line_and_nothing_is_lost(npy_cohort, tmp_path, monkeypatch):
    config = config_of(npy_cohort, epochs=3, workers=1)
    list(torch.utils.data.DataLoader([1, 2], num_workers=1))  # whose handler of dead processes would stay
    train(config, tmp_path / "whole", base=npy_cohort)
    after_step, steps = Saver.after_step, []

    def kill(self):
        after_step(self)
        steps.append(1)
        if len(steps) == 12:
            for child in _children(os.getpid()):
                os.kill(child, signal.SIGKILL)
            time.sleep(0.3)

    with monkeypatch.context() as patch:
        patch.setattr(Saver, "after_step", kill)
        with pytest.raises(ResourceError, match="a loader process was killed, perhaps because memory ran out") as error:
            train(config, tmp_path / "broken", base=npy_cohort)
    assert "\n" not in str(error.value)
    train(config, tmp_path / "broken", resume=True)
    same(tmp_path / "broken", tmp_path / "whole")


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare")
def test_a_small_dev_shm_is_one_line_that_says_what_helps(npy_cohort, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(npy_cohort, folder, ignore=shutil.ignore_patterns("run", "store"))
    flags = ["--training.workers", "2", "--training.batch-size", "40", "--training.epochs", "1"]
    python = [sys.executable, "-c", TRAINING, str(folder / "config.toml"), "--out", str(tmp_path / "run"), *flags]
    mounted = 'mount -t tmpfs -o size=128k tmpfs /dev/shm && exec "$@"'
    if subprocess.run(
        ["unshare", "-m", "sh", "-c", mounted, "sh", "true"], check=False, capture_output=True
    ).returncode:
        pytest.skip("a file system can be mounted by root only")
    command = ["unshare", "-m", "sh", "-c", mounted, "sh", *python]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("hilum: the loader processes ran out of shared memory, /dev/shm"), done.stderr
    assert "training.workers = 0" in last
    assert "Traceback" not in done.stderr


def _children(pid, of=b""):
    """Processes that this one has forked to load samples, or others whose command contains some bytes."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state = (folder / "stat").read_text().rsplit(")", 1)[1].split()
                command = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            is_loader = b"resource_tracker" not in command and b"loky" not in command
            if int(state[1]) == pid and (of in command if of else is_loader):
                yield int(folder.name)


def test_a_long_path_of_temporary_files_is_no_hindrance_to_loader_processes(npy_cohort, tmp_path, monkeypatch):
    (far := tmp_path / ("x" * 100)).mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(far))
    for name, workers in (("one", 0), ("other", 2)):
        train(config_of(npy_cohort, epochs=1, workers=workers), tmp_path / name, base=npy_cohort)
    assert (tmp_path / "one" / "metrics.csv").read_bytes() == (tmp_path / "other" / "metrics.csv").read_bytes()
    assert list(far.iterdir()) == []


def test_a_batch_that_cannot_be_sent_ends_the_training_and_is_not_waited_for(npy_cohort, tmp_path, monkeypatch):
    (far := tmp_path / ("x" * 100)).mkdir()
    # of this process, and so of its loader processes: too late for them to choose another
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", str(far))
    with pytest.raises(ResourceError, match="path of the temporary folder is too long") as told:
        train(config_of(npy_cohort, epochs=1, workers=1), tmp_path / "run", base=npy_cohort)
    assert "TMPDIR" in told.value.hint


def test_too_few_open_files_are_one_line_that_says_what_helps(npy_cohort, tmp_path):
    folder = tmp_path / "c"
    shutil.copytree(npy_cohort, folder, ignore=shutil.ignore_patterns("run", "store"))
    flags = ["--training.workers", "2", "--training.batch-size", "4", "--training.epochs", "1"]
    python = [sys.executable, "-c", TRAINING, str(folder / "config.toml"), "--out", str(tmp_path / "run"), *flags]
    limited = ["sh", "-c", 'ulimit -n 42 && exec "$@"', "sh", *python]
    done = subprocess.run(limited, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 1, done.stderr
    assert "the loader processes may open too few files" in done.stderr.strip().splitlines()[-1], done.stderr
