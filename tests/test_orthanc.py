"""A real PACS, Orthanc, stores, finds and returns the objects of a result, and keeps each once."""

import json
import subprocess
from pathlib import Path

import pydicom
import pytest

import dicom_sources
from dicom_files import STUDY
from hilum import predict_to_dicom
from orthanc import STORE, Orthanc, ask, found_in, stow
from test_dicom_out import POINT, model


@pytest.fixture(scope="module")
def pacs(tmp_path_factory):
    """The ports for HTTP and DICOM of an Orthanc that refuses other hosts."""
    one = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield one.web, one.dicom
    one.stop()


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
