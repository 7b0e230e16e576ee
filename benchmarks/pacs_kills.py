"""``hilum serve`` beside a real Orthanc, killed with SIGKILL at random moments while studies arrive, both ways.

    python benchmarks/pacs_kills.py [--quick] [--kills 10] [--studies 16] [--seed 0] [--json]

(a) C-STORE in, C-STORE out; (b) QIDO-RS and WADO-RS in, STOW-RS out. Simulated studies are sent to Orthanc, and for (a)
to Hilum's node too, one after the other, again until each is taken, as a modality does. The service is killed after a
random time, again and again, and started again; Orthanc does not answer for 15 s meanwhile, and then is killed and
away for 15 s. In the end the service is left to
finish. Then every study must be predicted, Orthanc must hold exactly one report and one segmentation of each, and
nothing may be left to be sent, half received or half written. It prints a line for each study, and exits with 1 if
anything is wrong.
"""

import argparse
import json
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
import torch
from machine import line, machine
from orthanc import Orthanc, found_in, free_port, missing, storescu, stow

from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.model_folder import ModelCard, build, save_model
from hilum.serving.app.database import DATABASE, opened_database
from hilum.settings.run import ModelConfig, Recipe
from hilum.simulating.cohort import simulate_cohort

_LONGEST_S = 24.0
"""Longest time between two kills: the service needs some 8 s to load its models."""

HILUM = "import sys; from hilum.cli import main; sys.exit(main(sys.argv[1:]))"
RULES = """
[[rules]]
model = "m"

[delivery]
first_retry_s = 0.5
longest_retry_s = 3.0
"""
NODE = """
[node]
destination = "orthanc"
port = {port}
stable_s = 1.0
peers = [{{ae_title = "STORESCU", host = "127.0.0.1"}}]

[[destinations]]
name = "orthanc"
host = "127.0.0.1"
port = {dicom}
ae_title = "ORTHANC"
"""
WEB = """
[[web]]
name = "orthanc"
url = "http://127.0.0.1:{web}/dicom-web"
destination = "orthanc"
poll_s = 1.0
days = 0
stable_s = 1.0

[[destinations]]
name = "orthanc"
kind = "web"
url = "http://127.0.0.1:{web}/dicom-web"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three kills, three studies, Orthanc away for 5 s")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--studies", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if missing():
        sys.exit(missing())
    kills, studies, away_s = (3, 3, 5.0) if args.quick else (args.kills, args.studies, 30.0)
    found = machine("pynetdicom", "dicomweb-client")
    print(line(found))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _write_model(folder / "model")
        for way in ("C-STORE", "DICOMweb"):
            trial = _Trial(folder, way, studies, random.Random(f"{args.seed} {way}"))  # noqa: S311 - when to kill
            rows += trial.run(kills, away_s)
    wrong = [f"{row['way']}, study {row['study']}: {one}" for row in rows for one in row["wrong"]]
    print(
        "\n".join(["wrong:", *wrong]) if wrong else "every study has one report and one segmentation; nothing is left"
    )
    if args.json:
        print(json.dumps({"kills": kills, "away_s": away_s, "rows": rows, "machine": found}))
    sys.exit(bool(wrong))


def _write_model(folder: Path) -> None:
    """A model with random weights, which answers for every scan."""
    torch.manual_seed(0)
    network, recipe = ModelConfig(depth=10, width=2, stem="small"), Recipe(size=(12, 12, 12), spacing_mm=(25.0,) * 3)
    decisions = Decisions(
        classes=("healthy", "mass"), multi_label=False, each=(Decision(threshold=0.5, rule="by hand"),)
    )
    card = ModelCard(model=network, recipe=recipe, decisions=decisions, training={}, version="0.1.0")
    save_model(folder, build(network, recipe, 2), card)


class _Trial:
    """One way, with an Orthanc and a service of its own."""

    def __init__(self, folder: Path, way: str, studies: int, rng: random.Random) -> None:
        self.folder, self.way, self.rng = folder / way, way, rng
        (self.folder / "orthanc").mkdir(parents=True)
        simulate_cohort(self.folder, num_cases=studies, seed=len(way), pixel_mm=4.0, workers=1)
        self.scans = sorted(path for path in (self.folder / "scans").iterdir() if path.is_dir())
        first = [next(path for path in sorted(scan.rglob("*.dcm"))) for scan in self.scans]
        self.uids = [str(pydicom.dcmread(file, stop_before_pixels=True).StudyInstanceUID) for file in first]
        self.orthanc, self.port = Orthanc(self.folder / "orthanc"), free_port()
        about = {"port": self.port, "dicom": self.orthanc.dicom, "web": self.orthanc.web}
        config = (NODE if way == "C-STORE" else WEB).format(**about)
        (self.folder / "serve.toml").write_text(config + RULES)
        self.gap_s = 0.0
        self.result: list[dict[str, Any]] = []

    def run(self, kills: int, away_s: float) -> list[dict[str, Any]]:
        arriving = threading.Thread(target=self._arrive, daemon=True)
        self.gap_s = 0.9 * kills * _LONGEST_S / len(self.scans)
        start = time.perf_counter()
        service = self._service()
        arriving.start()
        away: threading.Thread | None = None
        for number in range(1, kills + 1):
            time.sleep(self.rng.uniform(0.5, _LONGEST_S))
            if number == kills // 2:
                away = threading.Thread(target=self._go_away, args=(away_s,), daemon=True)
                away.start()
            service.send_signal(signal.SIGKILL)
            service.wait()
            states = [
                ", ".join(f"{n} {state}" for state, n in self._rows(f"SELECT state, count(*) FROM {table} GROUP BY 1"))  # noqa: S608
                for table in ("studies", "objects")
            ]
            at = f"kill {number:>2} at {time.perf_counter() - start:5.1f} s"
            print(f"{self.way}: {at}, studies: {states[0] or 'none'}; objects: {states[1] or 'none'}", flush=True)
            service = self._service()
        if away is not None:
            away.join()
        arriving.join()
        try:
            self._until(self._is_done, 300.0)
        finally:
            service.terminate()
            if service.wait(timeout=60) not in (0, 143):
                print(f"{self.way}: the service ends with exit code {service.returncode}")
            self.orthanc.stop()
        print(f"{self.way}: after {time.perf_counter() - start:.0f} s")
        for row in self.result[:-1]:
            counts = f"{row['jobs']} jobs, {row['tries']} tries, {row['SR']} SR and {row['SEG']} SEG in Orthanc"
            print(f"  study {row['study']:>2}: {row['state']}, {counts}")
        return self.result

    def _service(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", HILUM, "serve", f"m={self.folder.parent / 'model'}", "--port", "0"]
        command += ["--config", str(self.folder / "serve.toml"), "--data", str(self.folder / "data")]
        command += ["--device", "cpu"]
        with (self.folder / "log.txt").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def _go_away(self, seconds: float) -> None:
        """Orthanc does not answer, and then is not there."""
        self.orthanc.pause()
        time.sleep(seconds / 2)
        self.orthanc.kill()
        time.sleep(seconds / 2)
        self.orthanc.start()

    def _arrive(self) -> None:
        """Send each study until it is taken."""
        for scan in self.scans:
            files = sorted(scan.rglob("*.dcm"))
            self._until(lambda files=files: self._stowed(files), 300.0)
            if self.way == "C-STORE":
                self._until(lambda scan=scan: storescu(self.port, scan, flags=("+r",)) == 0, 300.0)
            time.sleep(self.rng.uniform(0.0, self.gap_s))

    def _stowed(self, files: list[Path]) -> bool:
        with suppress(OSError):
            return not stow(self.orthanc.web, files).get("00081198", {}).get("Value")
        return False

    def _rows(self, query: str) -> list[sqlite3.Row]:
        if not (self.folder / "data" / DATABASE).is_file():
            return []
        with suppress(sqlite3.OperationalError):  # it was killed before the first table
            connection = opened_database(self.folder / "data" / DATABASE, writing=False)
            try:
                return connection.execute(query).fetchall()
            finally:
                connection.close()
        return []

    def _is_done(self) -> bool:
        self.result = self._result()
        return not any(row["wrong"] for row in self.result)

    def _result(self) -> list[dict[str, Any]]:
        """A row for each study, with what is wrong about it; the last row is about what is left over."""
        studies = {row["uid"]: row for row in self._rows("SELECT * FROM studies")}
        jobs = Counter(row["study"] for row in self._rows("SELECT study FROM jobs"))
        tries = Counter[str]()
        for row in self._rows("SELECT study, tries FROM objects"):
            tries[row["study"]] += row["tries"]
        rows = []
        for number, uid in enumerate(self.uids, start=1):
            study, there = studies.get(uid), Counter(found_in(self.orthanc.web, uid).values())
            state = study["state"] if study else "unknown"
            row = {
                "way": self.way, "study": number, "state": state, "SR": there["SR"], "SEG": there["SEG"],
                "jobs": jobs[study["id"]] if study else 0, "tries": tries[study["id"]] if study else 0, "wrong": [],
            }  # fmt: skip
            if state != "predicted":
                row["wrong"].append(f"it is {state}")
            row["wrong"] += [f"{there[one]} {one} in Orthanc" for one in ("SR", "SEG") if there[one] != 1]
            rows.append(row)
        left = [f"{row['state']} object" for row in self._rows("SELECT state FROM objects WHERE state != 'sent'")]
        for place in ("outbox", "tmp/node"):
            path = self.folder / "data" / place
            left += [f"a file in {place}" for _ in (path.iterdir() if path.is_dir() else ())]
        rows.append({"way": self.way, "study": "all", "state": "", "wrong": left})
        return rows

    @staticmethod
    def _until(holds: Callable[[], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not holds() and time.monotonic() < deadline:
            time.sleep(0.5)


if __name__ == "__main__":
    main()
