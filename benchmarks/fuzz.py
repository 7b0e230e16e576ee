"""Reads damaged files by the thousand: each must be read or refused in one line, in time and within its memory.

    python benchmarks/fuzz.py [--count 20000] [--seconds 30] [--quick] [--seed 0] [--processes 2] [--resume FILE]
        [--json]
    python benchmarks/fuzz.py --case 1234 [--keep FOLDER]

A case follows from the seed and its number (``mutated.py``); with --seconds as many are read, in order, as there is
time for. Linux only, as memory is measured in /proc. The exit status is 1 if anything did not hold:

- no exception but HilumError; one line of text, without folders and without anything that identifies a patient;
- no end of the process that reads, nothing printed, no open files, processes or temporary files left behind;
- at most 5 s, on a clock and on the processor, or 30 s on the clock however busy the machine is;
- the reading process may map twice ``reading.max_gb`` more than before each case; its decoders may hold three times
  as much (voxels as they are stored, as they are inflated, and the file).
"""

import argparse
import contextlib
import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from machine import forget_peak, line, machine, mapped_bytes, peak_bytes
from mutated import FORMATS, SECRETS, case

from hilum.errors import HilumError
from hilum.files import cores
from hilum.reading.doctor import examine
from hilum.reading.reader import read
from hilum.settings.run import ReadingConfig

READING = ReadingConfig(max_gb=0.25)
EXAMINED_EVERY = 10
LATE_S, LATE_CPU_S, TOO_LATE_S = 5.0, 4.0, 30.0
_THREADS = 64 << 20
"""Address space that the stacks of threads reserve and do not use."""

_DECODER_MB = 150 + 3 * READING.max_bytes / 1e6
"""A decoder that has just started holds a little less than the first number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--seconds", type=float, help="no case is begun after so many, start-up counted")
    parser.add_argument("--quick", action="store_true", help="500 cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--resume", type=Path, metavar="FILE", help="where results are kept, and taken up again")
    parser.add_argument("--case", type=int, help="read this one alone, in this process")
    parser.add_argument("--keep", type=Path, help="leave the files of --case in this folder")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.count = 500 if args.quick else args.count
    if args.worker:
        _work(args.seed)
        return
    if args.case is not None:
        sys.exit(_alone(args.seed, args.case, args.keep))
    sys.exit(_watch(args))


# one case


def _written(seed: int, number: int, folder: Path) -> tuple[Path, str, str]:
    one = case(seed, number)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in one.files.items():
        (folder / name).write_bytes(content)
    return folder / one.path, one.format, one.what


def _try(path: Path, *, examined: bool) -> tuple[str, list[str]]:
    """How reading ended, and what did not hold."""
    outcome, wrong = "read", []
    try:
        volume = read(path, reading=READING)
        wrong += _said([str(f) for f in volume.findings], path)
        if volume.voxels_hu.nbytes > 2 * READING.max_bytes:
            wrong.append(f"a volume of {volume.voxels_hu.nbytes} bytes")
        if not (np.isfinite(volume.voxels_hu).all() and np.isfinite(volume.affine).all()):
            wrong.append("a volume that is not finite")
    except HilumError as exc:
        outcome = type(exc).__name__
        wrong += _said([str(exc)], path)
    except BaseException as exc:  # noqa: BLE001  # whatever it is, it is what we look for
        outcome = type(exc).__name__
        wrong.append(f"{outcome}: {_last_lines(exc)}")
    if examined:
        try:
            found, loose = examine(path, READING, pictures=True)
            wrong += _said([*_texts([one.as_dict() for one in found]), *map(str, loose)], path)
        except BaseException as exc:  # noqa: BLE001
            wrong.append(f"examine: {type(exc).__name__}: {_last_lines(exc)}")
    return outcome, wrong


def _texts(record: Any) -> Iterator[str]:
    if isinstance(record, str):
        yield record
    elif isinstance(record, dict | list):
        for part in record.values() if isinstance(record, dict) else record:
            yield from _texts(part)


def _said(texts: list[str], path: Path) -> list[str]:
    """What no message may hold."""
    wrong = []
    for text in texts:
        rest = text.replace(str(path), "")
        if not text.isprintable():
            wrong.append(f"not printable: {text[:300]!r}")
        if re.search(r"(?:^|[\s'\"(=:])/\w[\w.-]*/|\bLine \d+|0x[0-9a-f]{6,}|\.cxx|site-packages", rest):
            wrong.append(f"a path: {rest[:300]!r}")
        if any(secret.lower() in rest.lower() for secret in SECRETS):
            wrong.append(f"an identifier: {rest[:300]!r}")
        if "fit into memory" in rest:
            wrong.append(f"more memory than is allowed: {rest[:300]!r}")
        if len(rest) > 1000:
            wrong.append(f"a text of {len(rest)} characters: {rest[:200]!r}")
    return wrong


def _last_lines(exc: BaseException) -> str:
    frames = traceback.extract_tb(exc.__traceback__)[-3:]
    return f"{exc} at " + " < ".join(f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in reversed(frames))


def _alone(seed: int, number: int, keep: Path | None) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        path, kind, what = _written(seed, number, keep or Path(scratch) / "case")
        print(f"case {number} of seed {seed}: {kind}, {what}")
        started = time.perf_counter()
        try:
            print(read(path, reading=READING).findings)
        except Exception:  # noqa: BLE001
            traceback.print_exc()
        outcome, wrong = _try(path, examined=True)
        print(f"{outcome} in {time.perf_counter() - started:.2f} s", *wrong, sep="\n")
    return bool(wrong)


# the process that reads


def _work(seed: int) -> None:
    """Answer each number on standard input with a record of its case."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    with tempfile.TemporaryDirectory() as scratch, tempfile.TemporaryFile() as printed:
        temporary = Path(scratch) / "tmp"
        temporary.mkdir()
        tempfile.tempdir = str(temporary)
        for fd in (1, 2):
            os.dup2(printed.fileno(), fd)
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        for kind in range(len(FORMATS)):  # imports and decoders are there before anything is measured
            _try(_written(seed, kind, Path(scratch) / "first" / str(kind))[0], examined=True)
        num_files, num_printed = _num_files(), printed.tell()
        _send(answers, {"ready": True})
        for row in sys.stdin.buffer:
            number = int(row)
            folder = Path(scratch) / "case"
            path, kind, what = _written(seed, number, folder)
            held = forget_peak()
            for pid in _children(os.getpid()):
                with contextlib.suppress(OSError):  # one that was ended
                    forget_peak(pid)
            resource.setrlimit(resource.RLIMIT_AS, (mapped_bytes() + 2 * READING.max_bytes + _THREADS, hard))
            started = time.perf_counter()
            outcome, wrong = _try(path, examined=number % EXAMINED_EVERY == 0)
            ms = (time.perf_counter() - started) * 1e3
            resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
            grown = peak_bytes() - held
            printed.seek(0, os.SEEK_END)
            if printed.tell() > num_printed:
                printed.seek(num_printed)
                wrong.append(f"printed: {printed.read(300)!r}")
                num_printed = printed.seek(0, os.SEEK_END)
            if left := [entry.name for entry in temporary.iterdir()]:
                wrong.append(f"temporary files left: {left}")
                shutil.rmtree(temporary)
                temporary.mkdir()
            if _num_files() > num_files + 2 * cores():
                wrong.append(f"open files: {_num_files()}, {num_files} at first")
                num_files = _num_files()
            children = list(_children(os.getpid()))
            if len(children) > cores():
                wrong.append(f"processes left: {len(children)}")
            decoders = max([_peak_or_none(pid) for pid in children], default=0)
            shutil.rmtree(folder)
            _send(answers, {
                "case": number, "format": kind, "what": what, "outcome": outcome, "ms": round(ms, 1), "wrong": wrong,
                "grown_mb": round(grown / 1e6), "held_mb": round(held / 1e6), "decoder_mb": round(decoders / 1e6),
            })  # fmt: skip


def _send(answers: BinaryIO, record: dict[str, Any]) -> None:
    answers.write(json.dumps(record).encode() + b"\n")


def _num_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208


def _children(pid: int) -> Iterator[int]:
    """Processes below a process."""
    try:
        lists = [tasks.read_text() for tasks in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return
    for child in map(int, " ".join(lists).split()):
        yield child
        yield from _children(child)


def _peak_or_none(pid: int) -> int:
    try:
        return peak_bytes(pid)
    except OSError:  # it has just ended
        return 0


# the process that watches


class _Worker:
    """A process that reads, and its decoders."""

    def __init__(self, seed: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", "--seed", str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=os.environ | {"MALLOC_ARENA_MAX": "1", "HILUM_KEY": "fuzz"},  # arenas map more than they use
        )
        assert self.process.stdin
        assert self.process.stdout
        self._numbers, self._answers = self.process.stdin, self.process.stdout
        if not select.select([self._answers], [], [], 120)[0] or not self._answers.readline():
            self.end()
            sys.exit("the process that reads does not start")

    def run(self, number: int) -> dict[str, Any]:
        """The record of a case, also where there is none because the process hangs or died."""
        started, used = time.monotonic(), self._cpu_s()
        most = 0
        self._numbers.write(b"%d\n" % number)
        self._numbers.flush()
        late = ""
        while not select.select([self._answers], [], [], 0.05)[0]:
            most = max([most, *map(_peak_or_none, _children(self.process.pid))])
            late = late or self._lateness(time.monotonic() - started, self._cpu_s() - used)
            if late:
                self.end()
                return {"case": number, "outcome": "hang", "wrong": [late]}
        row = self._answers.readline()
        if not row:
            status = self.process.wait()
            self.end()
            return {"case": number, "outcome": "died", "wrong": [f"the process that reads died with status {status}"]}
        record: dict[str, Any] = json.loads(row)
        late = self._lateness(time.monotonic() - started, self._cpu_s() - used)
        record["wrong"] += [late] if late else []
        record["decoder_mb"] = max(record["decoder_mb"], round(most / 1e6))
        if record["decoder_mb"] > _DECODER_MB:
            record["wrong"].append(f"a decoder held {record['decoder_mb']} MB")
        return record

    @staticmethod
    def _lateness(wall_s: float, cpu_s: float) -> str:
        if wall_s > TOO_LATE_S or (wall_s > LATE_S and cpu_s > LATE_CPU_S):
            return f"late: {wall_s:.1f} s, {cpu_s:.1f} s of computing"
        return ""

    def _cpu_s(self) -> float:
        """Seconds that the process and its children, dead ones too, have computed."""
        ticks = 0
        for pid in [self.process.pid, *_children(self.process.pid)]:
            try:
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            ticks += sum(map(int, fields[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def end(self) -> None:
        """End it and its decoders, now."""
        for pid in [*_children(self.process.pid), self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        self._numbers.close()
        self._answers.close()


def _watch(args: argparse.Namespace) -> int:
    started = time.monotonic()
    records = _kept(args.resume, args.seed)
    done = {record["case"] for record in records}
    numbers = (n for n in range(args.count) if n not in done)
    end = started + (args.seconds - 1 if args.seconds else float("inf"))
    lock = threading.Lock()
    log = args.resume.open("a") if args.resume else None

    def drive() -> None:
        worker = _Worker(args.seed)
        try:
            while True:
                with lock:
                    number = next(numbers, None) if time.monotonic() < end else None
                if number is None:
                    return
                record = worker.run(number)
                if worker.process.poll() is not None:
                    one = case(args.seed, number)
                    record |= {"format": one.format, "what": one.what, "ms": 0.0}
                    worker = _Worker(args.seed)
                with lock:
                    records.append(record)
                    if log:
                        log.write(json.dumps({"seed": args.seed} | record) + "\n")
                        log.flush()
                    for wrong in record["wrong"]:
                        print(f"case {number} ({record['format']}, {record['what']}): {wrong}", flush=True)
        finally:
            worker.end()

    threads = [threading.Thread(target=drive) for _ in range(args.processes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return _report(records, time.monotonic() - started, args)


def _kept(file: Path | None, seed: int) -> list[dict[str, Any]]:
    if file is None or not file.exists():
        return []
    records = [json.loads(row) for row in file.read_text().splitlines()]
    if any(record.pop("seed") != seed for record in records):
        sys.exit(f"{file} has results of another seed")
    return records


def _report(records: list[dict[str, Any]], seconds: float, args: argparse.Namespace) -> int:
    found = machine("pydicom", "simpleitk")
    print(line(found))
    heads = ("cases", "read", "ReadError", "GeometryError", "slowest ms", "wrong")
    print(f"{'format':<18}" + "".join(f"{head:>15}" for head in heads))
    formats = {}
    for kind in FORMATS:
        ours = [r for r in records if r["format"] == kind]
        outcomes = Counter(r["outcome"] for r in ours)
        wrong = sorted(r["case"] for r in ours if r["wrong"])
        slowest = max((r["ms"] for r in ours), default=0.0)
        formats[kind] = {"cases": len(ours), **outcomes, "slowest_ms": slowest, "wrong": wrong}
        columns = (
            len(ours),
            outcomes["read"],
            outcomes["ReadError"],
            outcomes["GeometryError"],
            round(slowest),
            len(wrong),
        )
        print(f"{kind:<18}" + "".join(f"{column:>15}" for column in columns))
    whole = [r for r in records if "held_mb" in r]
    most = {key: max((r[key] for r in whole), default=0) for key in ("grown_mb", "held_mb", "decoder_mb")}
    num_wrong = sum(bool(r["wrong"]) for r in records)
    print(
        f"{len(records)} cases of seed {args.seed} in {seconds:.0f} s; did not hold: {num_wrong}; the most memory: "
        f"{most['grown_mb']} MB for one case above {most['held_mb']} MB, {most['decoder_mb']} MB in a decoder"
    )
    if args.json:
        result = {"seed": args.seed, "cases": len(records), "seconds": round(seconds), "formats": formats, **most}
        print(json.dumps(result | {"wrong": num_wrong, "machine": found}))
    return int(num_wrong > 0)


if __name__ == "__main__":
    main()
