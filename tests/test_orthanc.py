"""A real PACS, Orthanc, stores, finds and returns the objects of a result, and keeps each once."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pydicom
import pytest

import dicom_sources
from dicom_files import STUDY
from hilum import predict_to_dicom
from test_dicom_out import POINT, model

ORTHANC, DICOMWEB = Path("/usr/sbin/Orthanc"), Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
STORE = Path("/usr/bin/storescu")  # DCMTK's: pynetdicom has one of the same name
STARTS_S = 30.0


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    """The ports for HTTP and DICOM of an Orthanc that refuses other hosts."""
    if not (ORTHANC.exists() and DICOMWEB.exists() and STORE.exists()):
        pytest.skip("Orthanc, its DICOMweb or DCMTK is not here (Debian's orthanc, orthanc-dicomweb, dcmtk)")
    folder = tmp_path_factory.mktemp("orthanc")
    web, dicom = free_port(), free_port()
    config = {
        "StorageDirectory": str(folder / "db"),
        "IndexDirectory": str(folder / "db"),
        "HttpPort": web,
        "DicomPort": dicom,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "Plugins": [str(DICOMWEB)],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    }
    (folder / "orthanc.json").write_text(json.dumps(config))
    log = (folder / "log.txt").open("w")
    process = subprocess.Popen([str(ORTHANC), str(folder / "orthanc.json")], stdout=log, stderr=log)
    deadline = time.monotonic() + STARTS_S
    while True:
        try:
            ask(web, "/system")
            break
        except (urllib.error.URLError, ConnectionError):
            assert process.poll() is None, (folder / "log.txt").read_text()
            assert time.monotonic() < deadline, (folder / "log.txt").read_text()
            time.sleep(0.1)
    yield web, dicom
    process.terminate()
    process.wait(timeout=20)
    log.close()


def ask(web: int, path: str, body: bytes | None = None, **headers: str) -> bytes:
    request = urllib.request.Request(f"http://127.0.0.1:{web}{path}", data=body, headers=headers)
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
    rows = json.loads(ask(web, f"/dicom-web/studies/{study}/instances?includefield=Modality"))
    return {row["00080018"]["Value"][0]: row["00080060"]["Value"][0] for row in rows}


@pytest.mark.parametrize("kind", ["plain", "tilted", "multi-frame"])
def test_objects_are_stored_found_and_returned_and_twice_is_once(pacs, tmp_path, kind):
    web, dicom = pacs
    study = f"{STUDY}.{dicom_sources.KINDS.index(kind)}"
    scan = dicom_sources.write_source(tmp_path / "scan", kind, StudyInstanceUID=study)
    is_point = kind == "tilted"
    point = (20.0, -150.0, -400.0) if is_point else None
    made = predict_to_dicom(model(tmp_path / "model", *([POINT] if is_point else [])), scan, tmp_path / "out",
                            point_mm=point)  # fmt: skip
    folders = [str(scan), str(tmp_path / "out")]
    sent = subprocess.run([str(STORE), "-R", "+sd", "127.0.0.1", str(dicom), *folders], capture_output=True, text=True)
    assert sent.returncode == 0, sent.stderr
    found = found_in(web, study)
    slices = len(list(scan.iterdir()))
    assert len(found) == slices + 4
    modalities = {"report.dcm": "SR", "segmentation.dcm": "SEG", "map.dcm": "OT", "page.dcm": "OT"}
    for name, uid in made.files.items():
        own = pydicom.dcmread(tmp_path / "out" / name)
        assert found[uid] == own.Modality == modalities.get(name)
        (row,) = json.loads(ask(web, f"/dicom-web/instances?SOPInstanceUID={uid}"))
        where = json.loads(ask(web, "/tools/lookup", uid.encode()))[0]["Path"]
        back = pydicom.dcmread(_file(tmp_path / "back.dcm", ask(web, f"{where}/file")))
        assert row["00080018"]["Value"] == [uid]
        assert back.to_json_dict() == own.to_json_dict()
    again = stow(web, sorted((tmp_path / "out").iterdir()))
    assert len(again["00081199"]["Value"]) == 4
    made_again = predict_to_dicom(model(tmp_path / "model", *([POINT] if is_point else [])), scan, tmp_path / "again",
                                  point_mm=point)  # fmt: skip
    assert made_again.files == made.files
    stow(web, sorted((tmp_path / "again").iterdir()))
    assert found_in(web, study) == found
    (series,) = json.loads(ask(web, f"/dicom-web/studies/{study}/series?Modality=SR&includefield=SeriesDescription"))
    assert series["0008103E"]["Value"][0].endswith("RESEARCH - NOT FOR CLINICAL USE")


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path
