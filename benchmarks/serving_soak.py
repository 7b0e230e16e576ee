"""``hilum serve`` at full load, with a SIGKILL every minute: each job that was taken has its end, and says why.

    python benchmarks/serving_soak.py [--quick] [--minutes 20] [--seed 0] [--json]

Four clients send simulated chests, as fast as results come, some of them damaged; one in ten jobs is cancelled. After
each minute one process is killed, in turn the whole service, which is started again with the same folder, a process
that prepares, the process of the network, and the service again. In the end the queue runs empty, and each job to
which the service said 202 must be done with its result on disk, failed with its reason, or cancelled; no file of an
upload may be left. Twelve hours of this are not to be had here.
"""

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import tempfile
import threading
import time
import urllib.error
from collections import Counter
from pathlib import Path
from typing import Any

from live_service import Live
from machine import line, machine, need
from serving import random_model, small_chests

CLIENTS = 4
WAITING = 8
"""Jobs that each client leaves in the queue before it waits for one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two minutes, with a kill every 20 seconds")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    need("starlette", "uvicorn", "python_multipart", "prometheus_client")
    minutes, every_s = (2.0, 20.0) if args.quick else (args.minutes, 60.0)
    found = machine("torch", "starlette", "uvicorn")
    print(line(found))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network, bodies = random_model(folder / "model"), small_chests(folder, 12)
        soak = _Soak(Live(folder / "live", network), bodies, args.seed)
        result = soak.run(minutes * 60, every_s)
    _print(result)
    if args.json:
        print(json.dumps({**result, "minutes": minutes, "machine": found}))
    sys.exit(bool(result["lost"] or result["left"]))


class _Soak:
    """Clients, kills and the account of all jobs."""

    def __init__(self, live: Live, bodies: list[bytes], seed: int) -> None:
        self.live, self.bodies, self.seed = live, bodies, seed
        self.taken: dict[str, str] = {}
        self.refused: Counter[str] = Counter()
        self.stop, self.lock = threading.Event(), threading.Lock()

    def run(self, seconds: float, every_s: float) -> dict[str, Any]:
        self.live.ready()
        clients = [threading.Thread(target=self._client, args=(n,)) for n in range(CLIENTS)]
        for one in clients:
            one.start()
        start, kills, memory = time.monotonic(), Counter[str](), list[int]()
        targets = ["service", "worker-0", "network-cpu", "service", "worker-1"]
        while time.monotonic() - start < seconds:
            time.sleep(every_s)
            target = targets[sum(kills.values()) % len(targets)]
            memory.append(self.live.memory())
            self._kill(target)
            kills[target] += 1
        self.stop.set()
        for one in clients:
            one.join()
        while any(self.live.json("/v1/jobs?limit=1")["counts"][state] for state in ("queued", "running")):
            time.sleep(0.5)
        result = self._account()
        left = self.live.left()
        self.live.stop()
        return {
            "taken": len(self.taken), "not_taken": dict(self.refused), "kills": dict(kills), **result, "left": left,
            "memory_mb": [round(one / 1e6) for one in memory],
        }  # fmt: skip

    def _kill(self, target: str) -> None:
        if target != "service":
            with contextlib.suppress(ProcessLookupError, StopIteration):
                os.kill(self.live.pid(target), signal.SIGKILL)
            return
        self.live.stop(signal.SIGKILL)
        self.live.start()

    def _client(self, number: int) -> None:
        rng, waiting = random.Random(self.seed * 100 + number), list[str]()  # noqa: S311 - what to send
        while not self.stop.is_set():
            kind, body = "good", rng.choice(self.bodies)
            if rng.random() < 0.1:
                kind, body = "damaged", body[: rng.randrange(1, len(body))]
            try:
                status, answer = self.live.ask("/v1/predictions", body, content_type="application/zip")
                if status != 202:
                    self.refused[str(status)] += 1
                    continue
                job = json.loads(answer)["id"]
                with self.lock:
                    self.taken[job] = kind
                waiting.append(job)
                if rng.random() < 0.1:
                    self.live.ask(f"/v1/jobs/{job}/cancel", b"")
                while len(waiting) > WAITING and not self.stop.is_set():
                    if self.live.json(f"/v1/jobs/{waiting[0]}?wait=5")["state"] not in ("queued", "running"):
                        waiting.pop(0)
            except (urllib.error.URLError, ConnectionError, TimeoutError, OSError, ValueError):
                self.refused["no service"] += 1
                time.sleep(0.5)

    def _account(self) -> dict[str, Any]:
        """What became of each job that was taken."""
        ends: Counter[str] = Counter()
        lost = []
        for job, kind in self.taken.items():
            status, answer = self.live.ask(f"/v1/jobs/{job}")
            found = json.loads(answer)
            state = found.get("state", status)
            ends[f"{kind}: {state}" + (f" ({found['code']})" if state == "failed" else "")] += 1
            has_result = (self.live.data / "results" / job / "result.json").is_file()
            right = {"done": has_result, "failed": bool(found.get("reason")), "cancelled": True}
            if not right.get(state, False):
                lost.append(f"{kind}: {state}")
        return {"ends": dict(sorted(ends.items())), "lost": lost}


def _print(result: dict[str, Any]) -> None:
    kills = ", ".join(f"{count} x {name}" for name, count in result["kills"].items())
    print(f"\n{result['taken']} jobs were taken; kills: {kills}")
    for name, count in result["ends"].items():
        print(f"  {name:<40}{count:>6}")
    print(f"  {'lost':<40}{len(result['lost']):>6}")
    print(f"requests not taken: {result['not_taken']}; files of uploads left: {len(result['left'])}")
    print(f"memory of all processes before each kill, MB: {result['memory_mb']}")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
