"""``hilum serve`` under load, beside ``hilum predict`` on the same scans; and one real scan from its last byte to JSON.

    python benchmarks/serving.py [--quick] [--scans 200] [--clients 4] [--json]

Simulated chests, each in a deflated zip, are sent by clients of one thread each, which wait for each result; the
service, its clients and nothing else share the cores. Throughput is that from the first request to the last result.
``hilum predict`` reads the same series by a table, with the same model: its rate leaves out what a run of one scan
takes, which is mostly its start. Memory is that of all processes of the service, shared pages counted once (PSS).
The real scan is lidc-0314 of the shared data, in a zip that stores; it is sent once to warm up, then measured. Weights
are random, of the demo's network: they change no time. Takes about four minutes on two cores.
"""

import argparse
import csv
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import torch
from live_service import Live, zipped
from machine import DATA, line, machine, need

from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.model_folder import ModelCard, build, save_model
from hilum.settings.recipe import Recipe
from hilum.settings.run import ModelConfig
from hilum.simulating.cohort import simulate_cohort

REAL = "lidc-0314"
RECIPE = Recipe(region="lungs", size=(48, 40, 56), spacing_mm=(6.0, 6.0, 6.0))
NETWORK = ModelConfig(depth=18, width=16)
HILUM = [sys.executable, "-c", "import sys; from hilum.cli import main; sys.exit(main(sys.argv[1:]))"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 scans, and the real one three times")
    parser.add_argument("--scans", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    need("starlette", "uvicorn", "python_multipart", "prometheus_client")
    if not (DATA / REAL).is_dir():
        sys.exit(f"no folder {REAL}: HILUM_DATA must name the folder with the shared data")
    found = machine("torch", "starlette", "uvicorn")
    print(line(found))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        network = random_model(folder / "model")
        bodies = small_chests(folder, 24 if args.quick else args.scans)
        predict = _predicted(folder, network)
        live = Live(folder / "live", network)
        try:
            live.ready()
            load = _loaded(live, bodies, args.clients)
            real = _real(live, folder, 3 if args.quick else 9)
        finally:
            live.stop()
    ratio = round(load["per_second"] / predict["per_second"], 3)
    _print(load, predict, ratio, real)
    if args.json:
        print(json.dumps({"load": load, "predict": predict, "ratio": ratio, "real": real, "machine": found}))


def random_model(folder: Path) -> Path:
    """A model of the demo's size with random weights."""
    torch.manual_seed(0)
    decisions = Decisions(classes=("healthy", "diseased"), each=(Decision(threshold=0.5, rule="by hand"),))
    card = ModelCard(model=NETWORK, recipe=RECIPE, decisions=decisions, training={}, version="0.1.0")
    save_model(folder, build(NETWORK, RECIPE, 2), card)
    return folder


def small_chests(folder: Path, count: int) -> list[bytes]:
    """Simulated chests as bytes of zips, and a table of them."""
    table = simulate_cohort(folder / "cohort", num_cases=count, seed=3, pixel_mm=4.0)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [zipped(table.parent / row["path"], folder / "one.zip") for row in rows]


def _predicted(folder: Path, network: Path) -> dict[str, Any]:
    """``hilum predict`` on all scans and on one of them."""
    whole = folder / "cohort" / "cohort.csv"
    one = whole.with_name("one.csv")
    one.write_text("".join(whole.read_text().splitlines(keepends=True)[:2]))
    count = len(whole.read_text().splitlines()) - 1
    seconds = {}
    for name, table in (("one", one), ("all", whole)):
        start = time.perf_counter()
        out = folder / f"{name}.csv"
        subprocess.run(
            [*HILUM, "predict", str(network), str(table), "--out", str(out)], check=True, stdout=subprocess.DEVNULL
        )
        seconds[name] = time.perf_counter() - start
    rate = (count - 1) / (seconds["all"] - seconds["one"])
    return {
        "scans": count,
        "seconds": round(seconds["all"], 2),
        "start_s": round(seconds["one"], 2),
        "per_second": round(rate, 3),
    }


def _loaded(live: Live, bodies: list[bytes], clients: int) -> dict[str, Any]:
    """All scans by several clients."""
    for body in bodies[: 2 * clients]:
        live.ended(live.submit(body))  # warm
    lock, left, seconds, wrong, memory = threading.Lock(), list(bodies), list[float](), list[str](), dict[int, int]()
    marks = {len(bodies) * k // 4 for k in (1, 2, 3, 4)}

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", live.port)
        while True:
            with lock:
                if not left:
                    return
                body = left.pop()
            took, job = sent(connection, body)
            with lock:
                seconds.append(took)
                if job["state"] != "done":
                    wrong.append(job["code"])
                if len(seconds) in marks:
                    memory[len(seconds)] = live.memory()

    start = time.perf_counter()
    threads = [threading.Thread(target=client) for _ in range(clients)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    whole = time.perf_counter() - start
    cuts = statistics.quantiles(seconds, n=20)
    return {
        "scans": len(bodies), "clients": clients, "errors": wrong, "seconds": round(whole, 2),
        "per_second": round(len(bodies) / whole, 3), "p50_s": round(statistics.median(seconds), 3),
        "p95_s": round(cuts[18], 3), "memory_mb": {count: round(held / 1e6) for count, held in sorted(memory.items())},
    }  # fmt: skip


def sent(connection: http.client.HTTPConnection, body: bytes) -> tuple[float, dict[str, Any]]:
    """Seconds from the last byte of a scan to its JSON, and the job."""
    connection.putrequest("POST", "/v1/predictions")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders()
    connection.send(body)
    start = time.perf_counter()
    job = _json(connection)
    while job["state"] in ("queued", "running"):
        connection.request("GET", f"/v1/jobs/{job['id']}?wait=30")
        job = _json(connection)
    connection.request("GET", f"/v1/jobs/{job['id']}/result")
    result = _json(connection)
    assert job["state"] != "done" or result["probabilities"], result
    return time.perf_counter() - start, job


def _json(connection: http.client.HTTPConnection) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(connection.getresponse().read())
    return found


def _real(live: Live, folder: Path, rounds: int) -> dict[str, Any]:
    """A real scan, one at a time."""
    body = zipped(DATA / REAL, folder / "real.zip", stored=True)
    connection = http.client.HTTPConnection("127.0.0.1", live.port)
    sent(connection, body)
    took = [sent(connection, body) for _ in range(rounds)]
    seconds = [one for one, _ in took]
    steps = {name: statistics.median(job["seconds"][name] for _, job in took) for name in took[0][1]["seconds"]}
    median = statistics.median(seconds)
    steps["upload and waiting"] = median - sum(steps.values())
    return {
        "scan": REAL, "mb": round(len(body) / 1e6, 1), "rounds": rounds, "median_s": round(median, 3),
        "min_s": round(min(seconds), 3), "max_s": round(max(seconds), 3),
        "steps": {name: round(value, 3) for name, value in steps.items()},
    }  # fmt: skip


def _print(load: dict[str, Any], predict: dict[str, Any], ratio: float, real: dict[str, Any]) -> None:
    print(f"\n{load['scans']} simulated chests by {load['clients']} clients: {len(load['errors'])} errors")
    print(f"{'':<16}{'seconds':>10}{'per second':>12}")
    print(f"{'hilum serve':<16}{load['seconds']:>10.2f}{load['per_second']:>12.2f}")
    left_out = f"(start {predict['start_s']} s left out)"
    print(f"{'hilum predict':<16}{predict['seconds']:>10.2f}{predict['per_second']:>12.2f}  {left_out}")
    print(f"serve does {ratio:.2f} of predict; from last byte to JSON p50 {load['p50_s']} s, p95 {load['p95_s']} s")
    print("memory of all processes: " + ", ".join(f"{mb} MB at job {n}" for n, mb in load["memory_mb"].items()))
    spread = f"{real['min_s']} to {real['max_s']}, {real['rounds']} rounds"
    print(f"\n{real['scan']}, a zip of {real['mb']} MB: {real['median_s']} s ({spread}) from its last byte to JSON")
    for name, seconds in real["steps"].items():
        print(f"  {name:<20}{seconds:>7.3f} s{seconds / real['median_s']:>7.0%}")


if __name__ == "__main__":
    sys.dont_write_bytecode = True
    main()
