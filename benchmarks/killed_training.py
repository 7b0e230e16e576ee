"""Kills trainings at random moments, and checks that each resumed one ends as the unbroken one, bit for bit.

    python benchmarks/killed_training.py [--kills 30] [--quick] [--json]

Plain, class-sampled and averaged (EMA) trainings of a small network, with dropout, take turns. Each is killed once by
SIGKILL: a third of them at a random moment of their first epoch, a third while a checkpoint is being written, a third
at any moment until there is a model, validation and the last fits included. Then two of each kind are stopped by
SIGTERM and by Ctrl-C, and must exit with 143 and 130. All are resumed until they end, and ``metrics.csv``,
``model.json`` and the weights are compared byte by byte. A state is saved after each step. A kill that leaves nothing
to resume, for it came before the first state or after the model, is drawn again. Takes about ten minutes.
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
from dataclasses import dataclass
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
    "plain": ["--training.ema-epochs", "0"],
    "sampled": ["--training.ema-epochs", "0", "--sampling.method", "over"],
    "ema": ["--training.ema-epochs", "1"],
}
CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}
DRAWS = 10
MOMENTS = ("first epoch", "checkpoint", "any")
HILUM = "import sys; from hilum.cli import main; sys.exit(main(sys.argv[1:]))"
COMPARED = ("metrics.csv", "model/model.json", "model/weights.safetensors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--quick", action="store_true", help="three kills, no other signal")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts jobs in the background with it ignored
    print(line(machine("torch")), flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="hilum-") as name:
        folder = Path(name)
        _cohort(folder)
        whole = {kind: _unbroken(folder, kind) for kind in KINDS}
        plans = [
            (list(KINDS)[number % 3], signal.SIGKILL, MOMENTS[(number // 3) % 3])
            for number in range(3 if args.quick else args.kills)
        ]
        plans += (
            [] if args.quick else [(kind, sign, "any") for kind in KINDS for sign in (signal.SIGTERM, signal.SIGINT)]
        )
        for number, (kind, sign, moment) in enumerate(plans):
            rows.append(_row(folder, whole[kind], sign, moment, number))
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


@dataclass(frozen=True)
class Whole:
    """An unbroken training, and when it began, had its first epoch and had its model, in seconds."""

    kind: str
    run: Path
    began: float
    first: float
    ended: float


def _unbroken(folder: Path, kind: str) -> Whole:
    run, started, seconds = folder / f"whole-{kind}", time.monotonic(), []
    process = _started(folder, run, kind)
    for file in ("run.json", "metrics.csv", "model/model.json"):
        while not (run / file).exists() and process.poll() is None:
            time.sleep(0.005)
        seconds.append(time.monotonic() - started)
    if process.wait():
        sys.exit(f"the unbroken {kind} training failed")
    whole = Whole(kind, run, *seconds)
    print(f"{kind}: begins after {whole.began:.1f} s, its first epoch ends after {whole.first:.1f} s, ", end="")
    print(f"its model is there after {whole.ended:.1f} s", flush=True)
    return whole


def _started(folder: Path, run: Path, kind: str, *, resume: bool = False) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", HILUM, "train", str(folder / "config.toml"), "--out", str(run)]
    command += ["--resume"] if resume else KINDS[kind]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ))


def _row(folder: Path, whole: Whole, sign: signal.Signals, moment: str, number: int) -> dict[str, object]:
    """Break a training, resume it until it ends, and compare it."""
    run = folder / f"broken-{number}"
    for draw in range(DRAWS):
        shutil.rmtree(run, ignore_errors=True)
        share = float(generator(number, draw, "kill").random())
        until = whole.first if moment == "first epoch" else whole.ended
        code = _broken(folder, run, whole, sign, moment, share * (until - whole.began))
        if Run(run).state == "begun":
            break
    else:
        sys.exit(f"none of {DRAWS} kills left anything to resume")
    where = _where(run)
    _started(folder, run, whole.kind, resume=True).wait()
    same = code == CODES[sign] and all(_content(run / name) == _content(whole.run / name) for name in COMPARED)
    row = {"kind": whole.kind, "signal": sign.name, "moment": moment, "where": where, "exit": code, "same": same}
    said = "same" if same else "DIFFERS"
    print(f"{number:3d} {whole.kind:8s} {sign.name:8s} {moment:12s} {where:20s} exit {code:4d} {said}", flush=True)
    return row


def _broken(folder: Path, run: Path, whole: Whole, sign: signal.Signals, moment: str, after: float) -> int:
    """Start a training and send it a signal some seconds after it began; its exit code."""
    process = _started(folder, run, whole.kind)
    while process.poll() is None and not (run / "run.json").exists():
        time.sleep(0.005)
    started = time.monotonic()
    while process.poll() is None and time.monotonic() - started < after:
        time.sleep(0.005)
    while moment == "checkpoint" and process.poll() is None and not _is_writing(run):
        pass
    process.send_signal(sign)
    return process.wait()


def _is_writing(run: Path) -> bool:
    """Whether a checkpoint is being written: its temporary file is there."""
    try:
        return any(file.name.startswith(".") for file in (run / "last").iterdir())
    except OSError:
        return False


def _where(run: Path) -> str:
    """How far the saved state is."""
    from safetensors import safe_open

    with safe_open(run / "last" / "state.safetensors", framework="np") as opened:
        progress = json.loads(opened.metadata()["hilum"])["progress"]
    return f"epoch {progress['epoch'] + 1}, step {progress['step']}"


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.is_file() else b""


if __name__ == "__main__":
    main()
