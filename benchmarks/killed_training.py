"""Kills trainings at random moments, and checks that each resumed one ends as the unbroken one, bit for bit.

    python benchmarks/killed_training.py [--kills 30] [--quick] [--json]

Plain, class-sampled and averaged (EMA) trainings of a small network, with dropout, take turns. Each is killed once by
SIGKILL: a third of them at a random moment of their first epoch, a third while a checkpoint is being written, a third
at any moment, validation and the last fits included. Then two of each kind are stopped by SIGTERM and by Ctrl-C. All
are resumed until they end, and ``metrics.csv``, ``model.json`` and the weights are compared byte by byte. A state is
saved after every second step, so that most kills fall within an epoch. Takes about ten minutes.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from machine import line, machine

from hilum.randomness import generator
from hilum.training.run_folder import Run

CONFIG = """
[cohort]
table = "cohort.csv"
[recipe]
region = "whole"
size = [16, 16, 16]
spacing_mm = [2.0, 2.0, 2.0]
[augment]
translation_mm = [2.0, 2.0, 2.0]
[model]
depth = 10
width = 8
stem = "small"
dropout = 0.2
[split]
val = 0.3
[training]
epochs = 4
batch_size = 6
lr = 5e-3
checkpoint_minutes = 1e-4
device = "cpu"
[speed]
precision = "fp32"
channels_last = "off"
folded_stem = "off"
products = "off"
compile = "off"
keep_memory = "off"
"""

KINDS = {
    "plain": [],
    "sampled": ["--sampling.method", "over"],
    "ema": ["--training.ema-epochs", "1"],
}
MOMENTS = ("first epoch", "checkpoint", "any")
HILUM = "import sys; from hilum.cli import main; sys.exit(main(sys.argv[1:]))"
COMPARED = ("metrics.csv", "model/model.json", "model/weights.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="three kills, no other signal")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    print(line(machine("torch")), flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="hilum-") as name:
        folder = Path(name)
        _cohort(folder)
        whole, began, ended = {}, {}, {}
        for kind in KINDS:
            whole[kind] = folder / f"whole-{kind}"
            started = time.monotonic()
            process = _started(folder, whole[kind], kind)
            while not (whole[kind] / "run.json").exists() and process.poll() is None:
                time.sleep(0.01)
            began[kind] = time.monotonic() - started
            if process.wait():
                sys.exit(f"the unbroken {kind} training failed")
            ended[kind] = time.monotonic() - started
            print(f"{kind}: training begins after {began[kind]:.1f} s and ends after {ended[kind]:.1f} s", flush=True)
        kills = 3 if args.quick else args.kills
        for number in range(kills):
            kind, moment = list(KINDS)[number % 3], MOMENTS[(number // 3) % 3]
            random = generator(number, "kill")
            share = float(random.random()) / (4 if moment == "first epoch" else 1)
            after = began[kind] + share * (ended[kind] - began[kind])
            rows.append(_row(folder, whole[kind], kind, signal.SIGKILL, moment, after, number))
        for number, sign in enumerate([] if args.quick else [signal.SIGTERM, signal.SIGINT] * 3):
            kind = list(KINDS)[number // 2]
            after = began[kind] + float(generator(number, "signal").uniform(0.2, 0.8)) * (ended[kind] - began[kind])
            rows.append(_row(folder, whole[kind], kind, sign, "any", after, kills + number))
    same = sum(row["same"] for row in rows)
    print(f"{same} of {len(rows)} resumed trainings equal the unbroken one")
    if args.json:
        print(json.dumps({"rows": rows, "same": same, "machine": machine("torch")}))
    sys.exit(same != len(rows))


def _cohort(folder: Path) -> None:
    """120 volumes of 16 cubed, a quarter of them with a bright ball, and the config."""
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(16) - 7.5] * 3, indexing="ij"))
    rows = ["case_id,path,label,patient_id"]
    for i in range(120):
        volume = random.normal(0.2, 0.05, (16, 16, 16))
        if i % 4 == 0:
            volume[((grid - random.uniform(-3, 3, (3, 1, 1, 1))) ** 2).sum(axis=0) < 9] += 0.3
        np.save(folder / f"{i:03d}.npy", np.clip(volume, 0, 1).astype(np.float32))
        rows.append(f"c{i:03d},{i:03d}.npy,{int(i % 4 == 0)},P{i}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    (folder / "config.toml").write_text(CONFIG)


def _started(folder: Path, run: Path, kind: str, *, resume: bool = False) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HILUM, "train", str(folder / "config.toml"), "--out", str(run)]
    command += ["--resume"] if resume else KINDS[kind]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))


def _row(
    folder: Path, whole: Path, kind: str, sign: signal.Signals, moment: str, after: float, number: int
) -> dict[str, object]:
    """Break a training, resume it until it ends, and compare it."""
    run = folder / f"broken-{number}"
    started = time.monotonic()
    process = _started(folder, run, kind)
    while process.poll() is None and time.monotonic() - started < after:
        time.sleep(0.005)
    while moment == "checkpoint" and process.poll() is None and not _is_writing(run):
        pass
    process.send_signal(sign)
    code = process.wait()
    where = _where(run)
    resumed = 0
    while Run(run).state != "whole" and resumed < 3:
        _started(folder, run, kind, resume=Run(run).state == "begun").wait()
        resumed += 1
    same = all(_content(run / name) == _content(whole / name) for name in COMPARED)
    row = {"kind": kind, "signal": sign.name, "moment": moment, "where": where, "exit": code, "same": same}
    print(f"{number:3d} {kind:8s} {sign.name:8s} {moment:12s} {where:28s} {'same' if same else 'DIFFERS'}", flush=True)
    shutil.rmtree(run, ignore_errors=True)
    return row


def _is_writing(run: Path) -> bool:
    """Whether a checkpoint is being written: its temporary file is there."""
    try:
        return any(file.name.startswith(".") for file in (run / "last").iterdir())
    except OSError:
        return False


def _where(run: Path) -> str:
    """How far the saved state is."""
    from safetensors import safe_open

    if Run(run).state == "whole":
        return "ended before"
    file = run / "last" / "state.safetensors"
    if not file.is_file():
        return "before the first checkpoint"
    with safe_open(file, framework="np") as opened:
        progress = json.loads(opened.metadata()["hilum"])["progress"]
    return f"epoch {progress['epoch'] + 1}, step {progress['step']}"


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


if __name__ == "__main__":
    main()
