"""A service in processes of its own, as a user starts it, for benchmarks and tests, and what they do to it."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

STARTS_S = 60.0
NAME, ID, BIRTH = "PETERSEN^ANNELIESE", "PID-77123-X", "19610823"
"""Of the patient of all uploads: neither may stand anywhere but in stored results."""


class Live:
    """``hilum serve`` with a model, in a folder.

    Attributes:
        folder: Holds the data folder, the log and the settings.
        data: The data folder.
        url: Its address.
        port: Its port.
    """

    def __init__(self, folder: Path, model: Path, config: str = "", *args: str, data: Path | None = None) -> None:
        self.folder, self.data, self.model = folder, data or folder / "data", model
        folder.mkdir(exist_ok=True, parents=True)
        (folder / "serve.toml").write_text(config)
        self.args = args
        self.token = ""
        self.start()

    def start(self) -> None:
        command = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        command += "from hilum.cli import main; sys.exit(main(sys.argv[1:]))"
        self.log = (self.folder / "log.txt").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, "serve", f"net={self.model}", *self.args, "--data", str(self.data),
             "--port", "0", "--config", str(self.folder / "serve.toml")],
            stdout=subprocess.PIPE, stderr=self.log, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert "at http://" in line, (self.folder / "log.txt").read_text()
        self.url = line.split(" at ")[1].strip().rstrip("/")
        self.port = int(self.url.rsplit(":", 1)[1])

    def ready(self) -> None:
        """Wait until all processes are there."""
        deadline = time.monotonic() + STARTS_S
        while self.ask("/readyz")[0] != 200:
            assert time.monotonic() < deadline, self.logged()
            time.sleep(0.05)

    def ask(self, path: str, body: bytes | None = None, method: str = "", **headers: str) -> tuple[int, bytes]:
        """The status and body of an answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if self.token:
            named.setdefault("authorization", f"Bearer {self.token}")
        verb = method or ("GET" if body is None else "POST")
        request = urllib.request.Request(self.url + path, data=body, headers=named, method=verb)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return answer.status, answer.read()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read()

    def json(self, path: str, body: bytes | None = None, **headers: str) -> dict:
        return json.loads(self.ask(path, body, **headers)[1])

    def submit(self, body: bytes, query: str = "") -> str:
        """The id of a new job."""
        status, answer = self.ask(f"/v1/predictions{query}", body, content_type="application/octet-stream")
        assert status == 202, answer
        return json.loads(answer)["id"]

    def ended(self, job: str, *, within: float = 60.0) -> dict:
        """The job once it has ended."""
        deadline = time.monotonic() + within
        while True:
            found = self.json(f"/v1/jobs/{job}?wait=5")
            if found["state"] not in ("queued", "running"):
                return found
            assert time.monotonic() < deadline, (found, self.logged())

    def logged(self) -> str:
        return (self.folder / "log.txt").read_text()

    def events(self) -> list[dict]:
        """The lines of the log: each must be JSON."""
        return [json.loads(line) for line in self.logged().splitlines()]

    def pid(self, of: str) -> int:
        """The number of one of its processes, as the log tells it."""
        return next(one["pid"] for one in reversed(self.events()) if one["event"] == "process" and one["of"] == of)

    def left(self, *, within: float = 0.0) -> list[str]:
        """Files of uploads and temporary files, and results that are not whole; waited for that there are none."""
        deadline = time.monotonic() + within
        while (found := self._left()) and time.monotonic() < deadline:
            time.sleep(0.05)
        return found

    def _left(self) -> list[str]:
        found = [path for name in ("uploads", "tmp") for path in (self.data / name).rglob("*") if path.is_file()]
        found += [*(self.data / "uploads").iterdir(), *(self.data / "results").glob(".new-*")]
        return sorted({str(path.relative_to(self.data)) for path in found})

    def memory(self) -> int:
        """Bytes that all of its processes hold, shared pages counted once."""
        total = 0
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            try:
                rows = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:  # it has ended
                continue
            total += sum(int(row.split()[1]) * 1024 for row in rows if row.startswith("Pss:"))
        return total

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self.process.stdout.close()
        self.log.close()
        return code


def descendants(pid: int) -> dict[int, str]:
    """Command lines of the processes below one."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    found, waiting = {}, [pid]
    while waiting:
        for child in children.get(waiting.pop(), []):
            waiting.append(child)
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
    return found


def zipped(folder: Path, file: Path, *, stored: bool = False) -> bytes:
    """A folder as the bytes of a zip."""
    kind = zipfile.ZIP_STORED if stored else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(file, "w", kind) as archive:
        for one in sorted(folder.rglob("*")):
            archive.write(one, f"{NAME}/{one.name}")
    return file.read_bytes()
