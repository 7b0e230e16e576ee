"""``hilum prepare`` killed with SIGKILL at random moments, then left to finish: nothing damaged, no work done twice.

    python benchmarks/killed.py [--quick] [--kills 20] [--seed 0] [--json]

A cohort of 24 simulated series is prepared in a process group that is killed after a random time, again and again.
After each kill ``hilum store verify`` must find no damaged sample, and the samples that were there before must not
have been written again: the same file (inode) with the same time of change. Where fewer than half are missing, the
script removes some first, and a run that ended before it was killed counts for no kill. In the end a run is left to
finish; then the samples must be as many as the scans, as many must have been prepared as were missing, and nothing may
be left over.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import line, machine

from hilum.simulating.cohort import simulate_cohort

CONFIG = """
[cohort]
table = "cohort.csv"

[recipe]
size = [64, 96, 96]
extent_mm = [320.0, 360.0, 360.0]
"""
CASES = 24
HILUM = "import sys; from hilum.cli import main; sys.exit(main(sys.argv[1:]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="five kills")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    kills = 5 if args.quick else args.kills
    found = machine("joblib")
    print(line(found))
    rng = random.Random(args.seed)  # noqa: S311 - when to kill
    wrong: list[str] = []
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_cohort(folder, num_cases=CASES, seed=5, diseased=0.5, pixel_mm=3.0)
        (folder / "config.toml").write_text(CONFIG)
        config = str(folder / "config.toml")
        whole = _seconds_of_a_run(config, folder)
        print(f"an undisturbed run takes {whole:.1f} s")
        runs = 0
        while (number := sum(row["killed"] for row in rows) + 1) <= kills:
            runs += 1
            if runs > 3 * kills:
                sys.exit("most runs end before they are killed")
            row = _kill(config, folder, rng, whole, wrong)
            rows.append(row)
            counts = f"{row['before']:>2} -> {row['there']:>2} samples, {row['damaged']} damaged"
            rest = f"{row['leftovers']} left over, {row['written_again']} written again"
            what = f"kill {number:>2} after" if row["killed"] else "ended before"
            print(f"{what} {row['after_s']:5.2f} s: {counts}, {rest}", flush=True)
        before = _samples(folder)
        done = _hilum("prepare", config)
        after = _samples(folder)
        counts = f"{CASES} samples, {len(before)} were there, 0 refused"
        if done.returncode or counts not in done.stdout:
            wrong.append(f"the last run must say {counts!r}, says {done.stdout!r} {done.stderr!r}")
        _compare(before, after, "the last run", wrong)
        if len(after) != CASES:
            wrong.append(f"in the end there must be {CASES} samples, are {len(after)}")
        answer = _verified(config, wrong, "the last run")
        if answer["num_leftovers"]:
            wrong.append(f"{answer['num_leftovers']} files are left over in the end")
        print(f"left to finish: {len(before)} samples were there, {len(after) - len(before)} were prepared")
    print("\n".join(["wrong:", *wrong]) if wrong else "nothing damaged, nothing done twice, nothing left over")
    if args.json:
        print(json.dumps({"cases": CASES, "seed": args.seed, "kills": rows, "wrong": wrong, "machine": found}))
    sys.exit(bool(wrong))


def _seconds_of_a_run(config: str, folder: Path) -> float:
    """How long a run takes; its samples are removed again, and so is what it remembers of the sources."""
    started = time.perf_counter()
    done = _hilum("prepare", config)
    seconds = time.perf_counter() - started
    if done.returncode:
        sys.exit(f"hilum prepare fails:\n{done.stdout}{done.stderr}")
    for path in [*_samples(folder), folder / "store" / "sources.txt"]:
        path.unlink(missing_ok=True)
    return seconds


def _kill(config: str, folder: Path, rng: random.Random, whole: float, wrong: list[str]) -> dict[str, Any]:
    """One run that is killed with all its processes, and what it left."""
    there = sorted(_samples(folder))
    for path in rng.sample(there, max(0, len(there) - CASES // 2)):
        path.unlink()
    before = _samples(folder)
    seconds = rng.uniform(0.1, 1.0) * whole * (CASES - len(before)) / CASES
    command = [sys.executable, "-c", HILUM, "prepare", config]
    running = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(seconds)
    os.killpg(running.pid, signal.SIGKILL)
    killed = running.wait() == -signal.SIGKILL
    after = _samples(folder)
    which = f"the run killed after {seconds:.2f} s"
    again = _compare(before, after, which, wrong)
    answer = _verified(config, wrong, which)
    return {
        "after_s": round(seconds, 3),
        "killed": killed,
        "before": len(before),
        "there": len(after),
        "damaged": len(answer["damaged"]),
        "leftovers": answer["num_leftovers"],
        "written_again": again,
    }


def _compare(before: dict[Path, Any], after: dict[Path, Any], which: str, wrong: list[str]) -> int:
    """How many samples that were there before are other files now, or gone."""
    changed = [path.name for path, about in before.items() if after.get(path) != about]
    wrong.extend(f"{which} wrote {name} again" for name in changed)
    return len(changed)


def _verified(config: str, wrong: list[str], which: str) -> dict[str, Any]:
    done = _hilum("store", "verify", config, "--json")
    if done.returncode and "there is no store" in done.stderr:
        return {"damaged": [], "num_leftovers": 0}
    answer: dict[str, Any] = json.loads(done.stdout)
    if done.returncode or answer["damaged"]:
        wrong.append(f"{which} left damaged samples: {answer['damaged']}")
    return answer


def _samples(folder: Path) -> dict[Path, tuple[int, int]]:
    """Each sample with its inode and time of change."""
    found = {}
    for path in (folder / "store").glob("[0-9a-f][0-9a-f]/*.safetensors"):
        if not path.name.startswith("."):
            about = path.stat()
            found[path] = (about.st_ino, about.st_mtime_ns)
    return found


def _hilum(*words: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", HILUM, *words], check=False, capture_output=True, text=True)


if __name__ == "__main__":
    main()
