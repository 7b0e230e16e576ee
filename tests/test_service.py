"""The service: jobs that are never lost, and clients that mean no good."""

import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import sqlite3
import subprocess
import tarfile
import tempfile
import time
import urllib.request
import zipfile
from collections import Counter
from pathlib import Path
from urllib.parse import quote, urlencode

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_service import BIRTH, ID, NAME, Live, descendants, zipped

import dicom_sources
from hilum.cli import main
from test_dicom_out import model

LIMITS = """
[limits]
body_gb = 0.02
unpacked_gb = 0.05
queue = 2000
head_s = 1.0
grace_s = 1.5
slowest_kb_s = 20.0
step_s = 60.0
free_gb = 0.0
"""
ROOT = Path(__file__).parents[1]
FORM = "multipart/form-data; boundary=XX"
ESCAPED = Path("/tmp/escaped.dcm")  # noqa: S108
TOKEN = "correct-horse-battery-staple"  # noqa: S105
EVERYWHERE = "0.0.0.0"  # noqa: S104


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    """A simulated chest as a folder of DICOM files, and as the bytes of a zip."""
    folder = tmp_path_factory.mktemp(NAME)
    about = {"PatientName": NAME, "PatientID": ID, "PatientBirthDate": BIRTH, "StudyDate": "20190331"}
    scan = dicom_sources.write_source(folder / "scan", "plain", **about)
    return scan, zipped(scan, folder / "scan.zip")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    model(folder)
    return folder


@pytest.fixture(scope="module")
def live(tmp_path_factory, network):
    """A service with narrow limits; at the end nothing private may lie where it should not."""
    one = Live(tmp_path_factory.mktemp("live"), network, LIMITS)
    one.ready()
    yield one
    if one.process.poll() is None:
        one.stop()


def form(files: dict[str, bytes], boundary: str = "XX") -> bytes:
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="f"; filename="{name}"\r\n\r\n'.encode()
        + content
        + b"\r\n"
        for name, content in files.items()
    ]
    return b"".join(parts) + f"--{boundary}--\r\n".encode()


def raw(live: Live, head: str, pieces=(), *, wait: float = 0.0, timeout: float = 30.0) -> bytes:
    """The answer to bytes that are sent one after the other; what a server that closed has said counts."""
    with socket.create_connection(("127.0.0.1", live.port), timeout=timeout) as connection:
        try:
            connection.sendall(head.encode())
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(wait)
        except OSError:
            pass
        answer = b""
        try:
            while piece := connection.recv(1 << 16):
                answer += piece
        except (ConnectionError, TimeoutError):
            pass
    return answer


def head(live: Live, *lines: str, path: str = "/v1/predictions", host: str = "") -> str:
    return "\r\n".join([f"POST {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{live.port}'}", *lines, "", ""])


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1]) if answer else 0


def test_a_zip_a_tar_and_a_form_give_what_predict_gives(live, chest, network, tmp_path):
    scan, zipped_scan = chest
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w:gz") as archive:
        archive.add(scan, NAME)
    status_of_form, answer = live.ask(
        "/v1/predictions", form({f"{NAME}/{one.name}": one.read_bytes() for one in sorted(scan.iterdir())}),
        content_type=FORM,
    )  # fmt: skip
    assert status_of_form == 202, answer
    jobs = [live.submit(zipped_scan), live.submit(whole.getvalue()), json.loads(answer)["id"]]
    expected = model(tmp_path / "net").predict(scan).as_dict()
    for job in jobs:
        assert live.ended(job)["state"] == "done"
        result = live.json(f"/v1/jobs/{job}/result")
        for name in ("decision", "outcome", "thresholds", "geometry", "reason_codes"):
            assert result[name] == expected[name], name
        assert result["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-6)
        assert [one["code"] for one in result["findings"]] == [one["code"] for one in expected["findings"]]
    assert live.left(within=5) == []


def test_a_job_makes_dicom_objects_maps_and_a_page(live, chest):
    job = live.submit(chest[1], "?outputs=dicom,page,maps&model=net")
    ended = live.ended(job)
    assert ended["state"] == "done", ended
    assert set(ended["seconds"]) == {"reading", "preparing", "predicting", "writing"}
    kinds = {"report.dcm": "SR", "segmentation.dcm": "SEG", "map.dcm": "OT", "page.dcm": "OT"}
    assert set(ended["files"]) == {*kinds, "map.nii.gz", "page.html"}
    study = pydicom.dcmread(next(chest[0].iterdir())).StudyInstanceUID
    for name, modality in kinds.items():
        code, content = live.ask(f"/v1/jobs/{job}/files/{name}")
        made = pydicom.dcmread(io.BytesIO(content))
        assert (code, made.Modality, made.StudyInstanceUID) == (200, modality, study)
        assert str(made.PatientName) == NAME
    page = live.ask(f"/v1/jobs/{job}/files/page.html")[1].decode()
    assert "What the model says" in page
    assert NAME not in page
    assert live.ask(f"/v1/jobs/{job}", method="DELETE")[0] == 204
    assert live.ask(f"/v1/jobs/{job}/files/report.dcm")[0] == 410
    assert not (live.data / "results" / job).exists()


def test_what_cannot_be_read_fails_with_its_reason_and_without_names(live, chest, tmp_path):
    broken = tmp_path / f"{NAME}.zip"
    with zipfile.ZipFile(broken, "w") as archive:
        archive.writestr(f"{NAME}/{ID}.txt", "no scan")
    cases = {
        "unreadable": broken.read_bytes(),
        "unreadable-file": b"PK\3\4" + b"\0" * 100,
    }
    for body in cases.values():
        ended = live.ended(live.submit(body))
        assert ended["state"] == "failed"
        assert ended["reason"]
        assert NAME not in ended["reason"]
        assert ID not in ended["reason"]
        assert live.ask(f"/v1/jobs/{ended['id']}/result")[0] == 409
    image = live.ask("/v1/predictions?outputs=dicom", form({f"{NAME}.nii": b"\0" * 400}),
                     content_type=FORM)  # fmt: skip
    assert live.ended(json.loads(image[1])["id"])["state"] == "failed"
    assert live.left(within=5) == []


def test_images_of_any_format_are_predicted_and_their_names_are_not_kept(live, tmp_path):
    volume = dicom_sources.chest()
    for suffix in (".nii.gz", ".nrrd", ".mha"):
        volume.write(tmp_path / f"{NAME}{suffix}")
        body = (tmp_path / f"{NAME}{suffix}").read_bytes()
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(f"{ID}/{NAME}{suffix}", body)
        by_form = live.json("/v1/predictions", form({f"{NAME}{suffix}": body}), content_type=FORM)
        for job in (live.submit(file.getvalue()), by_form["id"]):
            assert live.ended(job)["state"] == "done", live.ended(job)
            result = live.ask(f"/v1/jobs/{job}/result")[1].decode()
            assert NAME not in result
            assert ID not in result
    alone = live.ended(live.submit(body))  # its name would have said what it is
    assert alone["reason"].startswith("the body is no zip, tar or DICOM file"), alone


def test_bad_requests_are_refused_in_a_sentence(live, chest):
    for path, code in [
        ("/v1/predictions?model=other", 422), ("/v1/predictions?outputs=everything", 422),
        ("/v1/predictions?point=1,2,3", 422), ("/v1/predictions?series=../../etc", 422),
        ("/v1/predictions?url=http://127.0.0.1/", 422), ("/v1/predictions?model=net&model=net", 422),
    ]:  # fmt: skip
        found, answer = live.ask(path, chest[1])
        assert found == code, answer
        assert json.loads(answer)["detail"]
    assert live.ask("/v1/predictions", b"", method="POST")[0] == 400
    assert live.ask(f"/v1/jobs/{'0' * 32}")[0] == 404
    assert live.ask("/v1/jobs/..%2f..%2fetc")[0] == 404
    assert live.ask("/v1/jobs?limit=0")[0] == 422
    assert live.ask("/v1/predictions", form({})[:-4], content_type=FORM)[0] == 400
    field = b'--XX\r\nContent-Disposition: form-data; name="model"\r\n\r\nnet\r\n--XX--\r\n'
    assert live.ask("/v1/predictions", field, content_type=FORM)[0] == 400
    assert live.left(within=5) == []


# attacks


def test_endless_and_oversize_bodies_are_refused(live):
    answer = raw(live, head(live, "Content-Length: 900000000000"), [b"x" * 100])
    assert status(answer) == 413
    piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
    assert status(raw(live, head(live, "Transfer-Encoding: chunked"), [piece] * 400)) == 413
    part = b'--XX\r\nContent-Disposition: form-data; name="f"; filename="' + b"n" * 100_000
    lines = ["Content-Type: multipart/form-data; boundary=XX", "Content-Length: 9000000"]
    assert status(raw(live, head(live, *lines), [part])) == 400
    assert live.left(within=5) == []


def test_a_hundred_thousand_parts_are_refused(live):
    one = b'--XX\r\nContent-Disposition: form-data; name="f"; filename="a.dcm"\r\n\r\nx\r\n'
    lines = ["Content-Type: multipart/form-data; boundary=XX", f"Content-Length: {len(one) * 100_000 + 8}"]
    assert status(raw(live, head(live, *lines), [one * 1000] * 100)) == 413
    assert live.left(within=5) == []


@pytest.mark.parametrize("kind", ["bomb", "traversal", "absolute", "nested", "link"])
def test_harmful_archives_fail_alone(live, kind, chest):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        if kind == "bomb":
            archive.writestr("0001.dcm", b"\0" * 120_000_000)
        elif kind == "nested":
            archive.writestr("inner.zip", chest[1])
        elif kind == "link":
            link = zipfile.ZipInfo("0001.dcm")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        else:
            archive.writestr("../../../escaped.dcm" if kind == "traversal" else str(ESCAPED), b"x" * 1000)
    ended = live.ended(live.submit(file.getvalue()))
    assert (ended["state"], ended["code"]) == ("failed", "unsafe-archive"), ended
    assert not list(live.folder.rglob("escaped*"))
    assert not ESCAPED.exists()
    assert live.left(within=5) == []


def test_a_client_of_one_byte_a_second_is_cut_off(live):
    start = time.monotonic()
    answer = raw(live, head(live, "Content-Length: 1000"), [b"x"] * 8, wait=1.0)
    assert status(answer) == 408
    request = head(live, "Content-Length: 10")
    assert raw(live, "", [letter.encode() for letter in request[:8]], wait=1.0) == b""  # before its head is whole
    assert time.monotonic() - start < 25
    assert live.left(within=5) == []


def test_another_host_or_origin_is_refused(live):
    assert status(raw(live, head(live, "Content-Length: 0", host="evil.example"))) == 400
    assert status(raw(live, head(live, "Content-Length: 0", host=""), timeout=2)) == 400
    assert live.ask("/v1/predictions", b"x", origin="http://evil.example")[0] == 403
    assert live.ask("/v1/predictions", b"x", sec_fetch_site="cross-site")[0] == 403
    assert live.ask("/v1/jobs", host="evil.example:80")[0] == 400
    assert live.ask("/v1/predictions", b"x", origin="null")[0] == 403
    job = live.json("/v1/predictions", b"x", origin=live.url)
    assert live.ended(job["id"])["state"] == "failed"


def test_answers_forbid_frames_foreign_scripts_and_caches(live):
    with socket.create_connection(("127.0.0.1", live.port)) as connection:
        connection.sendall(f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{live.port}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    top = answer.split(b"\r\n\r\n")[0].decode().lower()
    assert "default-src 'none'" in top
    assert "unsafe-inline" not in top
    assert "frame-ancestors 'none'" in top
    assert "x-content-type-options: nosniff" in top
    assert "access-control-allow-origin" not in top


def test_a_cancelled_upload_leaves_nothing(live):
    before = len(live.json("/v1/jobs")["jobs"])
    with socket.create_connection(("127.0.0.1", live.port)) as connection:
        connection.sendall(head(live, "Content-Length: 1000000").encode() + b"x" * 50_000)
        time.sleep(0.2)
        assert any(name.startswith("uploads/.new-") for name in live.left())
    deadline = time.monotonic() + 10
    while live.left() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert live.left(within=5) == []
    assert len(live.json("/v1/jobs")["jobs"]) == before


def test_a_decoder_that_aborts_fails_its_job_alone(live, chest, tmp_path):
    dicom_sources.chest().write(tmp_path / "scan.nii.gz")
    image = (tmp_path / "scan.nii.gz").read_bytes()
    aborted = set()

    def abort() -> None:
        for pid, line in descendants(live.process.pid).items():
            if "decoder_child" in line and pid not in aborted:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGABRT)
                aborted.add(pid)

    abort()  # those that wait for work: a new one takes a moment to start
    deadline = time.monotonic() + 20
    job = live.json("/v1/predictions", form({"scan.nii.gz": image}), content_type=FORM)["id"]
    while time.monotonic() < deadline and live.json(f"/v1/jobs/{job}")["state"] in ("queued", "running"):
        abort()
    other = live.submit(chest[1])
    assert live.ended(job)["state"] == "failed"
    assert "decoder" in live.ended(job)["reason"]
    assert live.ended(other)["state"] == "done"
    again = live.json("/v1/predictions", form({"scan.nii.gz": image}), content_type=FORM)["id"]
    assert live.ended(again)["state"] == "done"


@pytest.mark.parametrize("of", ["network-cpu", "worker-0"])
def test_a_killed_process_fails_no_job_and_twice_its_own_alone(live, chest, of):
    other = live.submit(chest[1])
    assert live.ended(other)["state"] == "done"
    os.kill(live.pid(of), signal.SIGKILL)
    jobs = [live.submit(chest[1], "?outputs=maps") for _ in range(3)]
    assert [live.ended(job)["state"] for job in jobs] == ["done"] * 3
    live.ready()
    assert live.left(within=5) == []


def test_a_network_that_is_killed_while_nothing_waits_for_it_comes_back(live):
    before = live.pid("network-cpu")
    os.kill(before, signal.SIGKILL)
    deadline = time.monotonic() + 60
    while live.pid("network-cpu") == before or live.ask("/readyz")[0] != 200:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_data_base_that_another_program_holds_keeps_nobody_waiting_and_costs_no_job(live, chest):
    job = live.submit(chest[1], "?outputs=page")
    other = sqlite3.connect(live.data / "service.sqlite", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    start = time.monotonic()
    while time.monotonic() - start < 4:  # its result is ready by then
        for path in ("/healthz", f"/v1/jobs/{job}", "/v1/jobs", "/"):
            asked = time.monotonic()
            assert live.ask(path)[0] == 200
            assert time.monotonic() - asked < 2, path
    assert live.json(f"/v1/jobs/{job}")["state"] == "running"
    other.execute("ROLLBACK")
    other.close()
    assert live.ended(job)["state"] == "done"


def test_a_refusal_is_heard_by_a_client_that_still_sends(live):
    body = b"x" * 4_000_000
    assert [live.ask("/v1/predictions?model=other", body)[0] for _ in range(10)] == [422] * 10
    assert live.ask("/v1/predictions", body, origin="http://evil.example")[0] == 403


def test_a_folder_of_others_is_not_touched(tmp_path, network, capsys):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "report.dcm").write_bytes(b"mine")
    tmp_path.chmod(0o755)
    assert main(["serve", str(network), "--data", str(tmp_path), "--port", "0"]) == 1
    assert "must be new, empty or of an earlier service" in capsys.readouterr().err
    assert (tmp_path / "results" / "report.dcm").read_bytes() == b"mine"
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results"]


def test_a_series_that_is_not_there_is_refused_without_its_uid(live, chest):
    ended = live.ended(live.submit(chest[1], "?series=1.2.840.99"))
    assert ended["state"] == "failed"
    assert "1.2.840.99" not in ended["reason"]


def test_a_job_whose_process_crashes_twice_fails_and_says_so(live, chest):
    live.ready()
    job = live.submit(chest[1], "?outputs=page,maps")
    deadline, killed = time.monotonic() + 60, set()
    while (found := live.json(f"/v1/jobs/{job}"))["state"] in ("queued", "running") and time.monotonic() < deadline:
        pids = {live.pid(f"worker-{n}") for n in (0, 1)} if found["state"] == "running" else set()
        for pid in pids - killed:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            killed.add(pid)
    assert (found["state"], found["code"]) == ("failed", "killed"), found
    assert "twice" in found["reason"]
    live.ready()
    assert live.ended(live.submit(chest[1]))["state"] == "done"


def test_a_running_job_can_be_cancelled(live, chest):
    live.ready()
    for n in (0, 1):
        os.kill(live.pid(f"worker-{n}"), signal.SIGSTOP)
    jobs = [live.submit(chest[1], "?outputs=maps,page") for _ in range(3)]
    time.sleep(0.3)
    states = [live.json(f"/v1/jobs/{job}")["state"] for job in jobs]
    assert states == ["running", "running", "queued"]
    assert live.ask(f"/v1/jobs/{jobs[0]}", method="DELETE")[0] == 409
    for job in jobs:
        assert live.ask(f"/v1/jobs/{job}/cancel", b"")[0] == 200
    assert [live.ended(job, within=10)["state"] for job in jobs] == ["cancelled"] * 3
    live.ready()
    assert live.ended(live.submit(chest[1]))["state"] == "done"
    assert live.left(within=5) == []


def test_two_thousand_jobs_are_queued_and_the_rest_is_told_to_wait(live):
    live.ready()
    for n in (0, 1):
        os.kill(live.pid(f"worker-{n}"), signal.SIGSTOP)
    try:
        answers = [0]
        connection = http.client.HTTPConnection("127.0.0.1", live.port)
        for _ in range(2010):
            connection.request("POST", "/v1/predictions", b"no scan")
            answer = connection.getresponse()
            answers.append(answer.status)
            after = answer.getheader("retry-after")
            answer.read()
        connection.close()
        assert answers.count(202) in (2000, 2001, 2002)
        assert answers.count(429) == 2010 - answers.count(202)
        assert after == "30"
        start = time.monotonic()
        assert live.ask("/healthz")[0] == 200
        assert len(live.json("/v1/jobs?limit=500")["jobs"]) == 500
        assert time.monotonic() - start < 2
    finally:
        for n in (0, 1):
            os.kill(live.pid(f"worker-{n}"), signal.SIGCONT)
    deadline = time.monotonic() + 90
    while live.json("/v1/jobs")["counts"]["queued"] or live.json("/v1/jobs")["counts"]["running"]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert live.left(within=5) == []


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path, network, chest):
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(place)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    live = None
    try:
        live = Live(tmp_path / "live", network, LIMITS, data=place / "data")
        live.ready()
        code, answer = live.ask("/v1/predictions", b"x" * 4_000_000)
        assert (code, json.loads(answer)["code"]) == (507, "disk-full")
        many = form({f"{n}.dcm": b"x" * 400_000 for n in range(10)})
        assert live.ask("/v1/predictions", many, content_type=FORM)[0] == 507
        assert live.left(within=5) == []
        assert live.ended(live.submit(chest[1]))["state"] == "done"
        ended = live.ended(live.submit(chest[1], "?outputs=page,dicom"))  # its result finds no room
        assert (ended["state"], ended["code"]) == ("failed", "disk"), ended
        assert live.left(within=5) == []
    finally:
        if live is not None:
            live.stop()
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_tokens_are_wanted_and_told_apart_and_results_go_when_their_time_is_over(tmp_path, network, chest):
    tokens = tmp_path / "tokens"
    tokens.write_text("# who may ask\nris correct-horse-battery-staple\n")
    tokens.chmod(0o600)
    live = Live(tmp_path / "live", network, f"keep_hours = 0.0005\n{LIMITS}", "--token-file", str(tokens))
    try:
        assert live.ask("/healthz")[0] == 200
        for path in ("/v1/jobs", "/metrics", "/openapi.json", "/readyz"):
            assert live.ask(path)[0] == 401
            assert live.ask(path, authorization="Bearer correct-horse-battery-stapl")[0] == 401
            assert live.ask(path, authorization="Bearer ")[0] == 401
            assert live.ask(path, cookie="hilum=correct-horse-battery-staple")[0] == 401
        assert live.ask("/v1/predictions", b"x", authorization="Basic eDp4")[0] == 401
        live.token = TOKEN
        live.ready()
        job = live.submit(chest[1])
        assert live.ended(job)["state"] == "done"
        deadline = time.monotonic() + 20
        while live.ask(f"/v1/jobs/{job}/result")[0] != 410:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert not (live.data / "results" / job).exists()
        assert live.json(f"/v1/jobs/{job}")["expired"]
        assert {one["who"] for one in live.events() if one["event"] == "request" and one["status"] == 202} == {"ris"}
    finally:
        assert live.stop() == 143


def test_a_service_that_does_not_start_leaves_the_process_as_it_was(tmp_path, network):
    def state():
        os.umask(umask := os.umask(0))
        return umask, tempfile.gettempdir(), os.environ.get("TMPDIR")

    before = state()
    (tmp_path / "file").touch()
    assert main(["serve", str(network), "--data", str(tmp_path), "--port", "0"]) == 1
    assert state() == before


def test_other_machines_need_a_token(tmp_path, network):
    assert main(["serve", str(network), "--host", EVERYWHERE, "--data", str(tmp_path / "data")]) == 1
    open_file = tmp_path / "tokens"
    open_file.write_text("correct-horse-battery-staple\n")
    open_file.chmod(0o644)
    args = ["--token-file", str(open_file), "--data", str(tmp_path / "data")]
    assert main(["serve", str(network), "--host", EVERYWHERE, *args]) == 1
    assert not (tmp_path / "data").exists()


def test_a_killed_service_goes_on_where_it_was(tmp_path, network, chest, capsys):
    live = Live(tmp_path / "live", network, LIMITS)
    live.ready()
    jobs = [live.submit(chest[1], "?outputs=page") for _ in range(4)]  # one ends, two run, one waits
    live.ended(jobs[0])
    assert live.stop(signal.SIGKILL) == -signal.SIGKILL
    pids = [live.pid(name) for name in ("network-cpu", "worker-0", "worker-1")]
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_text() for pid in pids):
        assert time.monotonic() < deadline, "its processes live on"
        time.sleep(0.05)
    live.start()
    assert [live.ended(job)["state"] for job in jobs] == ["done"] * 4
    assert live.left(within=5) == []
    assert main(["serve", str(network), "--data", str(live.data), "--port", "0"]) == 1
    assert "another uses" in capsys.readouterr().err
    more = [live.submit(chest[1], "?outputs=page") for _ in range(3)]
    assert live.stop() == 143
    assert live.events()[-1]["event"] == "end"
    live.start()
    assert [live.ended(job)["state"] for job in more] == ["done"] * 3
    assert live.stop(signal.SIGINT) == 130


def test_the_script_of_the_readme_serves_a_model(tmp_path, network):
    command = [str(ROOT / "scripts" / "serve"), str(network), "--port", "0", "--data", str(tmp_path / "data")]
    assert "scripts/serve runs/demo/run/model" in (ROOT / "README.md").read_text()
    if "VIRTUAL_ENV" not in os.environ:
        pytest.skip("the script would make an environment of its own")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    url = process.stdout.readline().rpartition(" at ")[2].strip()
    with urllib.request.urlopen(f"{url}healthz", timeout=30) as answer:  # noqa: S310
        assert json.loads(answer.read()) == {"status": "ok"}
    process.terminate()
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (143, ""), errors
    assert [json.loads(line)["event"] for line in errors.splitlines()][-1] == "end"


# any requests


def anything_for(schema: dict) -> st.SearchStrategy[str]:
    """Values that a schema allows, and others."""
    right: st.SearchStrategy[str] = st.text(max_size=20)
    if "enum" in schema:
        right = st.sampled_from([str(one) for one in schema["enum"]])
    elif schema.get("type") == "integer":
        right = st.integers(schema.get("minimum", 0) - 1, min(schema.get("maximum", 9) + 1, 3)).map(str)
    elif "pattern" in schema:
        right = st.from_regex(schema["pattern"], fullmatch=True)
    odd = st.sampled_from(
        ["", "../../etc/passwd", "%00", "-1", "1e9", "NaN", "a" * 3000, "\ud7ff", "'; DROP TABLE jobs", "٣"]
    )
    return right | st.text(max_size=8) | odd


@st.composite
def requests_of(draw, about: dict, jobs: list[str]):
    """A request that follows the description, more or less."""
    path = draw(st.sampled_from(sorted(about["paths"])))
    method, operation = draw(st.sampled_from(sorted(about["paths"][path].items())))
    query = []
    for one in operation["parameters"]:
        value = draw(anything_for(one["schema"]) | st.sampled_from(jobs))
        if one["in"] == "path":
            path = path.replace("{" + one["name"] + "}", quote(value, safe="") or "x")
        elif draw(st.booleans()):
            query.append((one["name"], value))
    if draw(st.integers(0, 9)) == 0:
        query.append((draw(st.text(max_size=8)), draw(st.text(max_size=8))))
    kinds = [
        *operation.get("requestBody", {}).get("content", {"text/plain": {}}),
        "multipart/form-data; boundary=XX",
        "x",
    ]
    body = draw(st.none() | st.binary(max_size=200) | st.sampled_from(BODIES))
    headers = {"content-type": draw(st.sampled_from(kinds))} if draw(st.booleans()) else {}
    if draw(st.integers(0, 9)) == 0:
        named = st.sampled_from(
            ["origin", "cookie", "authorization", "accept", "range", "content-type", "sec-fetch-site"]
        )
        headers[draw(named)] = draw(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)).strip()
    method = (
        method.upper()
        if draw(st.integers(0, 19))
        else draw(st.sampled_from(["PUT", "HEAD", "OPTIONS", "POST", "TRACE"]))
    )
    return method, path + (f"?{urlencode(query)}" if query else ""), body, headers, operation["responses"]


ODD = ["", "../../etc/passwd", "%00", "-1", "1e9", "NaN", "a" * 3000, "\ud7ff", "'; DROP TABLE jobs", "٣"]
HEADERS = ["origin", "cookie", "authorization", "accept", "range", "content-type", "sec-fetch-site"]
METHODS = ["PUT", "HEAD", "OPTIONS", "POST", "TRACE"]
JUNK = [b"\0" * 200, b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"]
BODIES = [
    b'{"study_uid": "1.2.3"}', b'{"study_uid": 1}', b"[]", b"PK\3\4", form({"a.dcm": b"x"}), form({"a.zip": b"PK\3\4"}),
    form({})[:-4], b"--XX\r\n\r\n",
]  # fmt: skip
ANY_REQUESTS = settings(
    max_examples=5000, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


def test_five_thousand_requests_give_no_fault(live, chest):
    about = live.json("/openapi.json")
    jobs = [live.submit(chest[1]), live.submit(b"x")]
    for job in jobs:
        live.ended(job)
    connection = http.client.HTTPConnection("127.0.0.1", live.port, timeout=60)
    statuses: Counter[int] = Counter()

    @ANY_REQUESTS
    @given(requests_of(about, jobs))
    def ask(request):
        method, path, body, headers, responses = request
        connection.request(method, path.replace("wait=3", "wait=0"), body, headers)
        answer = connection.getresponse()
        content = answer.read()
        statuses[answer.status] += 1
        assert answer.status < 500 or answer.status == 503, (request, content)
        assert str(answer.status) in {*responses, "404", "405", "400", "403"}, (request, content)
        if answer.status >= 400 and method != "HEAD":
            assert json.loads(content)["status"] == answer.status

    ask()
    connection.close()
    assert sum(statuses.values()) >= 5000
    assert {200, 202, 404, 405, 422} <= set(statuses), statuses
    for junk in (
        b"\0" * 200,
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
    ):
        assert status(raw(live, junk.decode("latin1"), timeout=5)) in (0, 400)
    deadline = time.monotonic() + 60
    while any(live.json("/v1/jobs")["counts"][state] for state in ("queued", "running")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert live.ended(live.submit(chest[1]))["state"] == "done"
    assert not [one for one in live.events() if one["event"] in ("bug", "gave-up")]
    assert live.left(within=5) == []


# the last of this file, on the service that all of the above was done to


def test_nothing_of_the_patient_is_left_but_in_stored_results(live, chest):
    job = live.submit(chest[1], "?outputs=dicom,page,maps")
    assert live.ended(job)["state"] == "done"
    metrics = live.ask("/metrics")[1].decode()
    pages = [live.ask(path)[1].decode() for path in ("/", "/v1/jobs?limit=500", f"/v1/jobs/{job}", "/openapi.json")]
    pages += [live.ask(f"/v1/jobs/{job}/{name}")[1].decode() for name in ("result", "files/page.html")]
    secret = re.compile("|".join(map(re.escape, [NAME, "PETERSEN", ID, BIRTH, "20190331", "/scan.zip", str(chest[0])])))
    assert not secret.search(live.logged())
    assert not secret.search(metrics)
    for page in pages:
        assert not secret.search(page)
    names = [str(path.relative_to(live.data)) for path in live.data.rglob("*")]
    assert not [name for name in names if secret.search(name)]
    binary = re.compile(secret.pattern.encode())
    holding = {
        path.relative_to(live.data).parts[0]
        for path in live.data.rglob("*") if path.is_file() and binary.search(path.read_bytes())
    }  # fmt: skip
    assert holding == {"results"}  # the DICOM objects that return to their source
    for path in live.data.rglob("*"):
        assert not path.stat().st_mode & 0o077, path
    live.events()  # every line is JSON
    assert live.stop() == 143
    assert live.left(within=5) == []
