"""A real PACS for tests, Orthanc, on free ports, which refuses other hosts; and what is asked of it."""

import json
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ORTHANC, DICOMWEB = Path("/usr/sbin/Orthanc"), Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
STORE = Path("/usr/bin/storescu")  # DCMTK's: pynetdicom has one of the same name
STARTS_S = 30.0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Orthanc:
    """An Orthanc over a folder, which can be stopped, started again, and held up.

    Args:
        folder: For its data base and log.
        more: Further keys of its configuration.

    Attributes:
        web: Its port for HTTP.
        dicom: Its port for DICOM.
    """

    def __init__(self, folder: Path, **more) -> None:
        if not (ORTHANC.exists() and DICOMWEB.exists() and STORE.exists()):
            pytest.skip("Orthanc, its DICOMweb or DCMTK is not here (Debian's orthanc, orthanc-dicomweb, dcmtk)")
        self.folder, self.web, self.dicom = folder, free_port(), free_port()
        self.config = {
            "StorageDirectory": str(folder / "db"),
            "IndexDirectory": str(folder / "db"),
            "HttpPort": self.web,
            "DicomPort": self.dicom,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAet": "ORTHANC",
            "Plugins": [str(DICOMWEB)],
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
            **more,
        }
        self.start()

    def start(self) -> None:
        """Start it, and wait until it answers."""
        (self.folder / "orthanc.json").write_text(json.dumps(self.config))
        log = self.folder / "log.txt"
        with log.open("a") as opened:
            self.process = subprocess.Popen(
                [str(ORTHANC), str(self.folder / "orthanc.json")], stdout=opened, stderr=opened
            )
        deadline = time.monotonic() + STARTS_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self.web), timeout=5):
                    return
            except OSError:
                assert self.process.poll() is None, log.read_text()
                assert time.monotonic() < deadline, log.read_text()
                time.sleep(0.1)

    def stop(self) -> None:
        """Stop it; what it holds stays in its folder."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        self.process.wait(timeout=20)

    def pause(self) -> None:
        """Hold it up: connections are made, and nobody answers."""
        self.process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it go on."""
        self.process.send_signal(signal.SIGCONT)


def ask(web: int, path: str, body: bytes | None = None, method: str | None = None, **headers: str) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{web}{path}", data=body, headers=headers, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return answer.read()


def stow(web: int, files: list[Path]) -> dict:
    """Store files by STOW-RS."""
    parts = [b"--part\r\nContent-Type: application/dicom\r\n\r\n" + one.read_bytes() + b"\r\n" for one in files]
    kind = 'multipart/related; type="application/dicom"; boundary=part'
    headers = {"Content-Type": kind, "Accept": "application/dicom+json"}
    return json.loads(ask(web, "/dicom-web/studies", b"".join([*parts, b"--part--\r\n"]), **headers))


def found_in(web: int, study: str) -> dict[str, str]:
    """SOPInstanceUID and modality of the instances of a study, by QIDO-RS."""
    try:
        rows = json.loads(ask(web, f"/dicom-web/studies/{study}/instances?includefield=Modality") or b"[]")
    except urllib.error.HTTPError as exc:
        if exc.code == 404:
            return {}
        raise
    return {row["00080018"]["Value"][0]: row["00080060"]["Value"][0] for row in rows}


def storescu(port: int, *paths: Path, called: str = "HILUM", calling: str = "STORESCU", flags=()) -> int:
    """Store files or folders with DCMTK's storescu; its exit code."""
    command = [
        str(STORE),
        "-R",
        "-aet",
        calling,
        "-aec",
        called,
        *flags,
        "+sd",
        "127.0.0.1",
        str(port),
        *map(str, paths),
    ]
    return subprocess.run(command, capture_output=True, check=False).returncode
