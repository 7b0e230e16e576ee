"""Beside a real PACS: studies come by C-STORE or DICOMweb, and results go back once, whatever is away meanwhile."""

import contextlib
import http.server
import inspect
import io
import json
import logging
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace

import pydicom
import pytest
from orthanc import Orthanc, ask, found_in, free_port, missing, storescu, stow
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage

import dicom_sources
from dicom_files import SERIES, write_series
from hilum.errors import ConfigError, HilumError
from hilum.serving.app.database import Database
from hilum.serving.app.engine import Engine, EngineConfig
from hilum.serving.app.jobs import Jobs, QueueFullError
from hilum.serving.app.worker import ServedModel
from hilum.serving.pacs import web_source
from hilum.serving.pacs.deliveries import Deliveries, back_off
from hilum.serving.pacs.destination import SendStatus, status_of
from hilum.serving.pacs.instance import InstanceHeader, read_instance
from hilum.serving.pacs.pacs import Pacs
from hilum.serving.pacs.rules import model_for
from hilum.serving.pacs.studies import Studies
from hilum.settings.serving import (
    DeliveryConfig,
    DestinationConfig,
    LimitsConfig,
    NodeConfig,
    PeerConfig,
    RuleConfig,
    ServeConfig,
    TlsConfig,
    WebSourceConfig,
)
from test_dicom_out import errors_of, model

ROOT_UID = "1.2.826.0.1.3680043.8.498.23"
WAIT_S = 40.0
QUICK = DeliveryConfig(first_retry_s=0.2, longest_retry_s=0.5)
RULES = (RuleConfig(model="m"),)
PRIVATE = ("ller", "P-1", "19500102", "20200304", "101112", "A-9", "House", "THORAX", "Elsewhere", ROOT_UID, SERIES,
           "2.25.", "127.0.0.1", "http:", "STORESCU", "ORTHANC")  # fmt: skip


def words_of(about: Mapping[str, object]) -> dict[str, object]:
    """All but numbers and names of threads: the digits of times are those of a private value now and then."""
    return {name: one for name, one in about.items() if not isinstance(one, int | float) and name != "threadName"}


class Beside:
    """A service without HTTP: its queue, its engine, and what is beside a PACS, if there is one now."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.pacs, self.logged = folder / "data", None, []
        predictor = model(folder / "model")
        self.database = Database(self.folder)
        self.jobs = Jobs(self.database, longest=100)
        served = {"m": ServedModel(name="m", card=predictor.card, digest=predictor.digest)}
        config = EngineConfig(models=served, folders={"m": folder / "model"}, workers=1)
        self.engine = Engine(self.jobs, config, lambda job: self.pacs.on_end(job))
        self.engine.start()

    @contextlib.contextmanager
    def works(self, config: ServeConfig):
        """The part of the service under test, with this config; nothing private may be told meanwhile."""
        self.pacs = Pacs(self.database, self.jobs, config, self.engine.wake)
        handler = logging.Handler(logging.DEBUG)
        handler.emit = lambda record: self.logged.append(str(words_of(record.__dict__)))
        logging.getLogger().addHandler(handler)
        logging.getLogger("hilum.serve").setLevel(logging.DEBUG)
        self.pacs.start()
        try:
            yield self.pacs
            told = [*self.logged]
            for one in (*self.pacs.studies(), *self.pacs.deliveries()):
                told.append(
                    str(words_of({field.name: getattr(one, field.name) for field in fields(one) if field.repr}))
                )
            told += [str(path.relative_to(self.folder)) for path in self.folder.rglob("*")]
            rows = self.database.rows("SELECT id, state, code, reason, summary FROM jobs")
            rows += self.database.rows("SELECT * FROM audit")
            told += [
                str(words_of(dict(row))).replace("2.25.", "") for row in rows
            ]  # a job knows the UIDs of its own objects
            assert not [(word, one) for one in told for word in PRIVATE if word in one]
        finally:
            self.pacs.stop()
            logging.getLogger().removeHandler(handler)

    def forget(self) -> None:
        """Begin anew."""
        until(lambda: not self.jobs.counts().keys() & {"queued", "running"})
        with self.database.change() as connection:
            for table in ("studies", "objects", "jobs"):
                connection.execute(f"DELETE FROM {table}")  # noqa: S608
        for name in ("pacs", "outbox", "results"):
            for entry in (self.folder / name).iterdir():
                self.database.remove(name, entry.name)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    one = Beside(tmp_path_factory.mktemp("service"))
    yield one
    one.engine.stop(2.0)
    one.database.close()


@pytest.fixture
def service(running):
    yield running
    running.forget()


@pytest.fixture(scope="module")
def running_orthanc(tmp_path_factory):
    if missing():
        pytest.skip(missing())
    one = Orthanc(tmp_path_factory.mktemp("orthanc"))
    yield one
    one.stop()


@pytest.fixture
def orthanc(running_orthanc):
    yield running_orthanc
    for study in json.loads(ask(running_orthanc.web, "/studies")):
        ask(running_orthanc.web, f"/studies/{study}", method="DELETE")


def until(holds, seconds: float = WAIT_S):
    """What a condition gives, as soon as it holds."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"did not come to hold: {inspect.getsource(holds)}"
        time.sleep(0.05)
    return found


def beside_node(orthanc, *, port=None, **changes) -> ServeConfig:
    """A node whose results go to Orthanc by C-STORE."""
    peers = (PeerConfig(ae_title="STORESCU", host="localhost"), PeerConfig(ae_title="ELSEWHERE", host="192.0.2.1"))
    node = NodeConfig(destination="o", port=port or free_port(), stable_s=0.5, peers=peers)
    destination = DestinationConfig(name="o", host="127.0.0.1", port=orthanc.dicom, ae_title="ORTHANC")
    values = {"node": node, "destinations": (destination,), "rules": RULES, "delivery": QUICK, **changes}
    return ServeConfig(**values)


def beside_web(orthanc, *, poll_s=0.5, **changes) -> ServeConfig:
    """Orthanc over DICOMweb, both ways."""
    url = f"http://127.0.0.1:{orthanc.web}/dicom-web"
    source = WebSourceConfig(name="o", url=url, destination="o", poll_s=poll_s, days=0, stable_s=0.5)
    destination = DestinationConfig(name="o", kind="web", url=url)
    values = {"web": (source,), "destinations": (destination,), "rules": RULES, "delivery": QUICK, **changes}
    return ServeConfig(**values)


def scan_of(folder: Path, study: int, **changes) -> Path:
    return dicom_sources.write_source(folder, "plain", StudyInstanceUID=f"{ROOT_UID}.{study}", **changes)


def own_in(orthanc, study: int) -> list[str]:
    """Modalities of what is in a study in Orthanc beside CT."""
    return sorted(one for one in found_in(orthanc.web, f"{ROOT_UID}.{study}").values() if one != "CT")


def report_in(orthanc, uid: str) -> pydicom.Dataset:
    where = json.loads(ask(orthanc.web, "/tools/lookup", uid.encode()))[0]["Path"]
    return pydicom.dcmread(io.BytesIO(ask(orthanc.web, f"{where}/file")))


def one_study(pacs, state: str):
    """The only study, once it is in a state."""
    return until(lambda: [one for one in pacs.studies() if one.state == state])[0]


def test_a_study_by_c_store_comes_back_once_and_only_peers_may_store(service, orthanc, tmp_path, monkeypatch):
    scan, config = scan_of(tmp_path / "scan", 1), beside_node(orthanc)
    port = config.node.port
    with service.works(config) as pacs:
        for called, calling in (("HILUM", "FOREIGN"), ("OTHER", "STORESCU"), ("HILUM", "ELSEWHERE")):
            assert storescu(port, scan, called=called, calling=calling) != 0
        assert subprocess.run(["/usr/bin/echoscu", "-aet", "FOREIGN", "-aec", "HILUM", "127.0.0.1", str(port)],
                              capture_output=True).returncode != 0  # fmt: skip
        assert pacs.studies() == []
        assert "'code': 'association'" in service.logged[0]
        assert subprocess.run(["/usr/bin/echoscu", "-aet", "STORESCU", "-aec", "HILUM", "127.0.0.1", str(port)],
                              capture_output=True).returncode == 0  # fmt: skip
        note, lost = pacs._deliveries.sent, []
        monkeypatch.setattr(pacs._deliveries, "sent", lambda one: note(one) if lost else lost.append(one) or 1 / 0)
        assert storescu(port, scan) == 0
        until(lambda: own_in(orthanc, 1) == ["SEG", "SR"])
        line = one_study(pacs, "predicted")
        assert (line.source, line.result, line.reason) == ("node", "predicted", "")
        until(lambda: {one.state for one in pacs.deliveries()} == {"sent"})
        assert sorted(one.tries for one in pacs.deliveries()) == [2, 2]  # the first answer was lost
        assert storescu(port, scan) == 0  # sent twice
        own = (service.folder / "results" / line.job).glob("*.dcm")
        assert storescu(port, *own) == 0  # and its own results come back
        one_study(pacs, "receiving")
        one_study(pacs, "predicted")
        assert len(pacs.studies()) == len(service.jobs.latest()) == 1
        assert own_in(orthanc, 1) == ["SEG", "SR"]
    assert list((service.folder / "tmp" / "node").iterdir()) == list((service.folder / "outbox").iterdir()) == []


def test_a_study_over_dicomweb_comes_back_once_and_a_late_series_supersedes(service, orthanc, tmp_path):
    scan = scan_of(tmp_path / "scan", 2)
    stow(orthanc.web, sorted(scan.iterdir()))
    with service.works(beside_web(orthanc)) as pacs:
        until(lambda: own_in(orthanc, 2) == ["SEG", "SR"])
        one_study(pacs, "predicted")
        time.sleep(1.2)  # its own results are found by the next searches
        pacs.tell("o", f"{ROOT_UID}.2")
        one_study(pacs, "predicted")
        assert len(service.jobs.latest()) == 1
        uids = {one: uid for uid, one in found_in(orthanc.web, f"{ROOT_UID}.2").items()}
        late = write_series(tmp_path / "late", StudyInstanceUID=f"{ROOT_UID}.2", SeriesInstanceUID=f"{SERIES}.77",
                            PatientName="Müller^Jörg", PatientBirthDate="19500102")  # fmt: skip
        stow(orthanc.web, late)
        until(lambda: own_in(orthanc, 2) == ["SEG", "SR", "SR"])  # the segmentation is the same, and so not sent again
        reports = [uid for uid, one in found_in(orthanc.web, f"{ROOT_UID}.2").items() if one == "SR"]
        (new,) = [report_in(orthanc, uid) for uid in reports if uid != uids["SR"]]
        (study,) = new.PredecessorDocumentsSequence
        named = study.ReferencedSeriesSequence[0].ReferencedSOPSequence[0]
        assert (study.StudyInstanceUID, named.ReferencedSOPInstanceUID) == (f"{ROOT_UID}.2", uids["SR"])
        assert study.ReferencedSeriesSequence[0].SeriesInstanceUID == report_in(orthanc, uids["SR"]).SeriesInstanceUID
        assert len(service.jobs.latest()) == 2
        (tmp_path / "new.dcm").write_bytes(b"")
        new.save_as(tmp_path / "new.dcm")
        assert errors_of(tmp_path / "new.dcm") == []
        for wrong in ("http://elsewhere", "1.2.x", ""):
            with pytest.raises(HilumError, match="must be a UID"):
                pacs.tell("o", wrong)
        with pytest.raises(KeyError):
            pacs.tell("elsewhere", "1.2")


@pytest.mark.parametrize("way", ["node", "web"])
def test_results_wait_while_the_pacs_is_away_and_what_was_given_up_can_be_sent_again(service, orthanc, tmp_path, way):
    number = 3 if way == "node" else 4
    scan = scan_of(tmp_path / "scan", number)
    given_up = DeliveryConfig(first_retry_s=0.2, longest_retry_s=0.4, give_up_hours=1e-7)
    config = beside_node(orthanc, delivery=given_up) if way == "node" else beside_web(orthanc, delivery=given_up)
    with contextlib.ExitStack() as stack:
        if way == "web":
            stow(orthanc.web, sorted(scan.iterdir()))
        with service.works(config) as pacs:
            if way == "node":
                assert storescu(config.node.port, scan) == 0
            until(lambda: [one for one in service.jobs.latest() if one.state == "running"])
            orthanc.kill()
            stack.callback(lambda: orthanc.process.poll() is None or orthanc.start())
            until(lambda: {one.state for one in pacs.deliveries()} == {"dead"})
            assert all(one.tries for one in pacs.deliveries("dead"))
            assert pacs.counts()[1] == {("o", "dead"): 2}
    assert own_in(orthanc, number) == []
    patient = beside_node(orthanc) if way == "node" else beside_web(orthanc)
    with service.works(patient) as pacs:  # after a new start
        (line,) = pacs.studies()
        assert pacs.send_again(line.id, "tester") == 2
        until(lambda: own_in(orthanc, number) == ["SEG", "SR"])
        until(lambda: {one.state for one in pacs.deliveries()} == {"sent"})
        assert pacs.send_again(line.id, "tester") == 0
        with pytest.raises(KeyError):
            pacs.send_again("unknown", "tester")
    assert list((service.folder / "outbox").iterdir()) == []


def test_a_study_that_failed_is_told_and_one_that_no_rule_fits_is_forgotten(service, orthanc, tmp_path):
    few = write_series(tmp_path / "few", dicom_few(), StudyInstanceUID=f"{ROOT_UID}.5", BodyPartExamined="CHEST")
    config = beside_node(
        orthanc, delivery=DeliveryConfig(first_retry_s=0.2, report_failures=True),
        rules=(RuleConfig(model="m", body_part="chest|thorax"),),
    )  # fmt: skip
    with service.works(config) as pacs:
        assert storescu(config.node.port, few[0].parent) == 0
        line = one_study(pacs, "failed")
        assert line.code
        assert line.reason
        until(lambda: own_in(orthanc, 5) == ["SR"])
        (uid,) = [uid for uid, one in found_in(orthanc.web, f"{ROOT_UID}.5").items() if one == "SR"]
        report = report_in(orthanc, uid)
        said = [item.TextValue for item in report.ContentSequence if item.ValueType == "TEXT"]
        assert any(f"no-result ({line.code})" in one and "not a negative result" in one for one in said)
        assert report.PatientID == "P-1"
        report.save_as(tmp_path / "failed.dcm")
        assert errors_of(tmp_path / "failed.dcm") == []
        assert storescu(config.node.port, few[0].parent) == 0  # tried again, and says the same
        until(lambda: len(service.jobs.latest(state="failed")) == 2)
        one_study(pacs, "failed")
        time.sleep(0.6)
        assert len(pacs.deliveries()) == 1
        scan = scan_of(tmp_path / "scan", 6, BodyPartExamined="HEAD")
        assert storescu(config.node.port, scan) == 0
        line = one_study(pacs, "ignored")
        assert (line.code, line.num_bytes) == ("no-rule", 0)
        until(lambda: not (service.folder / "pacs" / line.id).exists())
        assert storescu(config.node.port, scan) == 0
        one_study(pacs, "receiving")
        until(lambda: not [one for one in pacs.studies() if one.state == "receiving"])
        until(lambda: not (service.folder / "pacs" / line.id).exists())
        assert len(service.jobs.latest()) == 2


def dicom_few():
    """Too few slices for a volume."""
    from dicom_files import scan_hu

    return scan_hu(2)


def test_a_merged_patient_is_predicted_again_and_a_shadow_sends_nothing(service, orthanc, tmp_path):
    scan = scan_of(tmp_path / "scan", 7)
    config = beside_node(orthanc, shadow=True)
    with service.works(config) as pacs:
        assert storescu(config.node.port, scan) == 0
        one_study(pacs, "predicted")
        assert {one.state for one in pacs.deliveries()} == {"shadow"}
    assert own_in(orthanc, 7) == []
    assert list((service.folder / "outbox").iterdir()) == []
    merged = scan_of(tmp_path / "merged", 7, PatientID="P-12", PatientName="Müller^J")
    config = beside_node(orthanc)
    with service.works(config) as pacs:
        assert storescu(config.node.port, scan) == 0
        one_study(pacs, "receiving")
        assert storescu(config.node.port, merged) == 0
        until(lambda: own_in(orthanc, 7) == ["SEG", "SR"])
        (uid,) = [uid for uid, one in found_in(orthanc.web, f"{ROOT_UID}.7").items() if one == "SR"]
        assert report_in(orthanc, uid).PatientID == "P-12"


def test_a_store_that_stops_in_the_middle_or_finds_no_room_leaves_nothing(service, orthanc, tmp_path):
    hu = dicom_sources.planes_of("plain")[0]
    (file, *_) = write_series(tmp_path / "large", hu[:1].repeat(20, axis=1).repeat(20, axis=2),
                              StudyInstanceUID=f"{ROOT_UID}.8")  # fmt: skip
    config = beside_node(orthanc)
    scratch = service.folder / "tmp" / "node"
    with service.works(config) as pacs:
        entity = AE(ae_title="STORESCU")
        entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", config.node.port, ae_title="HILUM")
        assert association.is_established
        plain, sent = association.dul.socket.send, []

        def send(content):
            sent.append(len(content))
            if sum(sent) > 500_000:
                until(lambda: any(one.stat().st_size for one in scratch.iterdir()))
                association.dul.socket.socket.shutdown(2)
            plain(content)

        association.dul.socket.send = send
        with contextlib.suppress(RuntimeError, OSError):
            association.send_c_store(file)
        until(lambda: not list(scratch.iterdir()))
        association.kill()
        assert pacs.studies() == []
    full = beside_node(orthanc, limits=LimitsConfig(free_gb=1e6))
    with service.works(full) as pacs:
        assert storescu(full.node.port, file) != 0
        until(lambda: not list(scratch.iterdir()))
        assert pacs.studies() == []
    assert list((service.folder / "pacs").iterdir()) == []


def test_a_connection_that_is_no_dicom_or_never_ends_a_pdu_is_closed(service, orthanc):
    config = beside_node(orthanc)
    with service.works(config) as pacs:
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"\x01\x00\xff\xff\xff\xff" + bytes(100)):
            with socket.create_connection(("127.0.0.1", config.node.port), timeout=10) as one:
                one.sendall(said)
                one.settimeout(10)
                with contextlib.suppress(ConnectionError):
                    while one.recv(4096):
                        pass
        assert pacs.studies() == []


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost and its key, signed by itself."""
    if missing() or shutil.which("openssl") is None:
        pytest.skip(missing() or "openssl is not here")
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
                    "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "key.pem", "-out", "own.pem"],
                   cwd=folder, check=True, capture_output=True)  # fmt: skip
    return folder


def encrypted(port: int, own: str, key: str) -> socket.socket:
    """TLS before a port, for clients with a certificate (Debian's Orthanc crashes with its own HTTPS)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(own, key)
    context.load_verify_locations(own)
    context.verify_mode = ssl.CERT_REQUIRED
    listening = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)

    def copy(one, other):
        with contextlib.suppress(OSError):
            while content := one.recv(1 << 16):
                other.sendall(content)
        with contextlib.suppress(OSError):
            other.shutdown(socket.SHUT_RDWR)

    def carry(client):
        with client, socket.create_connection(("127.0.0.1", port)) as far:
            back = threading.Thread(target=copy, args=(far, client), daemon=True)
            back.start()
            copy(client, far)
            back.join()

    def serve():
        while True:
            try:
                client = listening.accept()[0]
            except ssl.SSLError:
                continue
            except OSError:
                return
            threading.Thread(target=carry, args=(client,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    return listening


def test_both_ways_and_both_protocols_are_encrypted(service, certificate, tmp_path):
    own, key = str(certificate / "own.pem"), str(certificate / "key.pem")
    (tmp_path / "orthanc").mkdir()
    far = Orthanc(tmp_path / "orthanc", DicomTlsEnabled=True, DicomTlsCertificate=own, DicomTlsPrivateKey=key,
                  DicomTlsTrustedCertificates=own)  # fmt: skip
    tls, port = TlsConfig(certificate=own, key=key, authorities=own), free_port()
    proxy = encrypted(far.web, own, key)
    url = f"https://localhost:{proxy.getsockname()[1]}/dicom-web"
    config = ServeConfig(
        node=NodeConfig(destination="dicom", port=port, stable_s=0.5, tls=tls,
                        peers=(PeerConfig(ae_title="STORESCU", host="127.0.0.1"),)),
        web=(WebSourceConfig(name="far", url=url, destination="web", poll_s=0.0, stable_s=0.5, tls=tls),),
        destinations=(
            DestinationConfig(name="dicom", host="localhost", port=far.dicom, ae_title="ORTHANC", tls=tls),
            DestinationConfig(name="web", kind="web", url=url, tls=tls),
            DestinationConfig(name="plain", host="localhost", port=far.dicom, ae_title="ORTHANC"),
        ),
        rules=RULES, delivery=QUICK,
    )  # fmt: skip
    try:
        with service.works(config) as pacs:
            scan = scan_of(tmp_path / "scan", 9)
            assert storescu(port, scan) != 0
            assert storescu(port, scan, flags=("+tls", key, own, "+cf", own)) == 0
            until(lambda: [one.state for one in pacs.deliveries() if one.destination == "dicom"] == ["sent"] * 2)
            until(lambda: [one.result for one in pacs.studies() if one.source == "node"] == ["predicted"])
            scan = scan_of(tmp_path / "other", 10)
            assert storescu(far.dicom, scan, called="ORTHANC", flags=("+tls", key, own, "+cf", own)) == 0
            pacs.tell("far", f"{ROOT_UID}.10")  # nothing else finds it
            until(lambda: [one.state for one in pacs.deliveries() if one.destination == "web"] == ["sent"] * 2)
    finally:
        proxy.close()
        far.stop()
    with pytest.raises(ConfigError, match="certificates and a key in PEM"):
        Pacs(service.database, service.jobs, ServeConfig(
            destinations=(DestinationConfig(name="o", host="h", ae_title="A", tls=TlsConfig(authorities=key)),)),
            lambda: None)  # fmt: skip


def test_a_redirect_is_not_followed_and_an_endless_answer_ends(tmp_path):
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from hilum.serving.pacs.destination import UnreachableError
    from hilum.serving.pacs.web_session import TooLargeError, reaching, web_client

    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path, self.headers.get("Authorization")))
            if "series" in self.path:
                self.send_response(200)
                self.send_header("Content-Type", 'multipart/related; type="application/dicom"; boundary=b')
                self.end_headers()
                with contextlib.suppress(ConnectionError):
                    while True:
                        self.wfile.write(bytes(1 << 20))
            self.send_response(302)
            self.send_header("Location", f"http://localhost:{self.server.server_port}/secret")
            self.end_headers()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "token").write_text("abc\n")
    url = f"http://127.0.0.1:{server.server_port}/dicom-web"
    source = WebSourceConfig(name="s", url=url, destination="s", token_file=str(tmp_path / "token"))
    client = web_client(source, most_bytes=10_000_000)
    with pytest.raises(UnreachableError), reaching():
        client.search_for_studies()
    assert asked == [("/dicom-web/studies", "Bearer abc")]
    with pytest.raises(TooLargeError), reaching():
        list(client.iter_series("1.2", "1.3"))
    server.shutdown()
    server.server_close()
    with pytest.raises(UnreachableError) as told, reaching():
        client.search_for_studies()
    assert "127" not in str(told.value)
    with pytest.raises(ConfigError, match="token_file of s"):
        web_client(replace(source, token_file=str(tmp_path / "nowhere")), most_bytes=1)


# Without an engine: what stands in the data base


@pytest.fixture
def shelf(tmp_path):
    """Studies over a data base and a queue of three, in which nothing runs."""
    config = ServeConfig(
        node=NodeConfig(destination="o", peers=(PeerConfig(ae_title="A", host="127.0.0.1"),)),
        destinations=(DestinationConfig(name="o", host="h", ae_title="A"),), rules=RULES, keep_hours=1.0,
        limits=LimitsConfig(queue=3, unpacked_gb=0.001),
    )  # fmt: skip
    database = Database(tmp_path / "data")
    jobs = Jobs(database, longest=3)
    yield Studies(database, jobs, Deliveries(database, config), config, lambda: None)
    database.close()


def placed(studies: Studies, folder: Path, study: int = 1, **changes) -> str:
    """Put a small series into a study; the study's id."""
    for file in write_series(folder, StudyInstanceUID=f"{ROOT_UID}.{study}", **changes):
        found = studies.place(read_instance(file), file)
    return found


def test_late_instances_cancel_a_job_that_waits_and_a_new_one_is_made(shelf, tmp_path):
    found = placed(shelf, tmp_path / "a")
    shelf.settle(shelf[found])
    first = shelf[found]
    assert (first.state, shelf.jobs[first.job].state, shelf.jobs[first.job].study) == ("waiting", "queued", found)
    assert placed(shelf, tmp_path / "b", SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4") == found
    assert shelf[found].state == "receiving"
    assert shelf.jobs[first.job].state == "cancelled"
    shelf.settle(shelf[found])
    second = shelf[found]
    assert second.job != first.job
    assert len(second.content.split()) == len(list((shelf.folder / found).iterdir())) == 6
    shelf.jobs.take()
    placed(shelf, tmp_path / "c", SeriesInstanceUID="1.2.4", SOPInstanceUID="1.2.4.4")
    shelf.settle(shelf[found])  # not before the job that runs has ended
    assert (shelf[found].state, shelf[found].job) == ("receiving", second.job)
    shelf.jobs.end(second.job, "failed", code="hung", reason="it hung")
    shelf.on_end(shelf.jobs[second.job])
    assert (shelf[found].state, shelf[found].result) == ("receiving", "failed")
    shelf.settle(shelf[found])
    assert shelf[found].state == "waiting"


def test_a_study_survives_a_full_queue_a_new_start_and_a_job_that_vanished(shelf, tmp_path):
    ids = [placed(shelf, tmp_path / str(n), n) for n in range(4)]
    for one in ids[:3]:
        shelf.settle(shelf[one])
    with pytest.raises(QueueFullError):
        shelf.settle(shelf[ids[3]])
    assert shelf[ids[3]].state == "receiving"
    with shelf.database.change() as connection:
        connection.execute("DELETE FROM jobs WHERE id = ?", (shelf[ids[0]].job,))
    shelf.jobs.cancel(shelf[ids[1]].job, "tester")
    (shelf.folder / "orphan").mkdir()
    new = Studies(shelf.database, shelf.jobs, shelf.deliveries, shelf.config, lambda: None)
    new.recover()
    new.reconcile()
    assert not (shelf.folder / "orphan").exists()
    states = [new[one].state for one in ids]
    assert states == ["receiving", "failed", "waiting", "receiving"]
    assert new[ids[1]].code == "cancelled"
    assert new.quiet_s(new[ids[0]]) < 5
    new.settle(new[ids[0]])
    assert new[ids[0]].state == "waiting"
    with pytest.raises(HilumError, match="must have ended"):
        new.again(ids[0])
    new.again(ids[1])
    assert new[ids[1]].state == "receiving"


def test_files_of_a_study_are_removed_on_time_and_too_large_a_study_fails(shelf, tmp_path):
    found = placed(shelf, tmp_path / "a")
    shelf.settle(shelf[found])
    job = shelf.jobs.take()
    shelf.jobs.end(job.id, "done", summary={})
    shelf.on_end(shelf.jobs[job.id])
    shelf.expire()
    assert (shelf.folder / found).is_dir()
    with shelf.database.change() as connection:
        connection.execute("UPDATE studies SET changed = changed - 4000")
    shelf.expire()
    assert not (shelf.folder / found).exists()
    assert placed(shelf, tmp_path / "again") == found  # the same instances once more
    shelf.settle(shelf[found])
    assert (shelf[found].state, len(shelf.jobs.latest())) == ("predicted", 1)
    with shelf.database.change() as connection:
        connection.execute("UPDATE studies SET changed = changed - 100 * 86400")
    shelf.expire()
    shelf.expire()
    assert shelf.of() == []
    hu = dicom_sources.planes_of("plain")[0][:4].repeat(8, axis=1).repeat(8, axis=2)
    with pytest.raises(HilumError, match="larger than"):
        placed(shelf, tmp_path / "large", 9, hu=hu)
    (study,) = shelf.of()
    shelf.settle(study)
    assert (shelf[study.id].state, shelf[study.id].code) == ("failed", "too-large")


def put(shelf, folder: Path, job: str, uids: dict[str, str], study: str = "s") -> None:
    """Deliver objects that hold little more than their UIDs."""
    folder.mkdir()
    files = {}
    for name, uid in uids.items():
        (made,) = [pydicom.dcmread(one) for one in write_series(folder / f"{name}-", dicom_few()[:1])]
        made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = uid
        made.save_as(folder / name)
        files[folder / name] = uid
    shelf.deliveries.add("node", study, job, files, study_uid="1.2")


def test_the_report_is_last_and_an_outdated_result_that_was_never_tried_is_not_sent(shelf, tmp_path):
    deliveries = shelf.deliveries
    put(shelf, tmp_path / "1", "j1", {"report.dcm": "1.1", "segmentation.dcm": "1.2", "page.dcm": "1.3"})
    assert [one.kind for one in deliveries.due("o")] == ["segmentation", "report"]
    put(shelf, tmp_path / "2", "j2", {"report.dcm": "2.1", "segmentation.dcm": "1.2"})
    assert {one.uid: one.state for one in deliveries.of()} == {
        "1.1": "superseded", "1.2": "waiting", "2.1": "waiting"}  # fmt: skip
    batch = deliveries.due("o")
    assert [(one.uid, one.job) for one in batch] == [("1.2", "j2"), ("2.1", "j2")]
    assert "PredecessorDocumentsSequence" not in pydicom.dcmread(batch[1].file)
    deliveries.begin(batch)
    put(shelf, tmp_path / "3", "j3", {"report.dcm": "3.1", "segmentation.dcm": "1.2"})  # the other may have arrived
    new = {one.uid: one for one in deliveries.of()}
    assert new["2.1"].state == new["3.1"].state == "waiting"
    named = pydicom.dcmread(new["3.1"].file).PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert named.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == "2.1"
    for one in deliveries.of(state="waiting"):
        deliveries.sent(one)
    put(shelf, tmp_path / "4", "j4", {"report.dcm": "2.1", "segmentation.dcm": "1.2"})  # as it was before
    (again,) = deliveries.due("o")
    assert again.uid not in ("2.1", "3.1")
    assert pydicom.dcmread(again.file).SOPInstanceUID == again.uid
    put(shelf, tmp_path / "5", "j5", {"report.dcm": "2.1", "segmentation.dcm": "1.2"})
    assert [one.uid for one in deliveries.due("o")] == [again.uid]
    deliveries.recover()
    assert [one.name for one in deliveries.folder.iterdir()] == [again.file.name]


def test_a_response_of_stow_says_of_each_instance_what_became_of_it():
    from hilum.serving.pacs.stow import status_about

    def said(keyword: str, **values) -> pydicom.Dataset:
        item, response = pydicom.Dataset(), pydicom.Dataset()
        for name, value in {"ReferencedSOPInstanceUID": "1.2", **values}.items():
            setattr(item, name, value)
        setattr(response, keyword, [item])
        return response

    conflict = SendStatus(reason="refused with status 409")
    assert status_about(said("ReferencedSOPSequence", WarningReason=0xB000), "1.2", conflict) == SendStatus()
    assert status_about(said("FailedSOPSequence", FailureReason=0x0111), "1.2", conflict) == SendStatus()
    assert status_about(said("FailedSOPSequence", FailureReason=0x0122), "1.2", SendStatus()).is_final
    assert status_about(said("FailedSOPSequence", FailureReason=0xC000), "1.2", SendStatus()).reason.endswith("C000")
    assert status_about(said("ReferencedSOPSequence"), "1.3", conflict) == conflict
    assert status_about(pydicom.Dataset(), "1.2", SendStatus()) == SendStatus()


def test_statuses_and_waits():
    assert status_of(0) == status_of(0x0111) == status_of(0xB007) == SendStatus()
    assert status_of(0xA700) == SendStatus(reason="refused with status A700")
    assert status_of(0x0122).is_final
    waits = [back_off(n, 2.0, 60.0) for n in (1, 2, 3, 100)]
    assert all(0.75 * w <= got <= 1.25 * w for got, w in zip(waits, (2, 4, 8, 60), strict=True))


def header(**changes) -> InstanceHeader:
    values = {"study": "1", "series": "2", "instance": "3", "sop_class": "4", "modality": "CT", "manufacturer": "",
              "body_part": "CHEST", "descriptions": ("CT Thorax", "lung 1.0"), "age": 63.0, **changes}  # fmt: skip
    return InstanceHeader(**values)


def test_the_first_rule_that_fits_chooses_the_model():
    rules = (
        RuleConfig(model="child", oldest=17.0, body_part="chest"),
        RuleConfig(model="lung", description=r"lung|thin"),
        RuleConfig(model="chest", body_part="^(chest|thorax)$", youngest=18.0),
        RuleConfig(model="any", body_part="head"),
    )
    assert model_for([header()], rules) == "lung"
    assert model_for([header(age=9.0)], rules) == "child"
    soft = header(descriptions=("CT", "soft"))
    assert model_for([soft], rules) == "chest"
    assert model_for([header(descriptions=("CT", "soft"), age=None)], rules) is None
    assert model_for([soft, header(series="9")], rules) == "lung"
    assert model_for([header(modality="MR")], rules) is None
    assert model_for([], rules) is None
    with pytest.raises(ConfigError, match="regular expression"):
        RuleConfig(model="m", body_part="(")


def test_a_package_that_is_missing_is_named(shelf, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "hilum.serving.pacs.node", None)
    with pytest.raises(ConfigError, match="needs the package pynetdicom") as told:
        Pacs(shelf.database, shelf.jobs, shelf.config, lambda: None)
    assert "hilum[dicom]" in told.value.hint


# A PACS over DICOMweb that is at fault, to which Orthanc cannot be brought


class Faulty:
    """A DICOMweb server with three series; a study that is named in ``faults`` is answered for with that fault.

    Args:
        studies: Content of the instances of each study, by its StudyInstanceUID.
        faults: How each of them is at fault: cut, garbage, or nothing.
    """

    def __init__(self, studies: dict[str, list[bytes]], faults: dict[str, str]) -> None:
        self.studies, self.faults, self.searches = studies, faults, 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self, self.path.split("?")[0].removeprefix("/dicom-web").strip("/").split("/"))

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, to, parts: list[str]) -> None:
        if parts == ["studies"]:  # it takes no notice of filters, limit and offset
            self.searches += 1
            named = [uid for uid in self.studies if f"={uid}&" in f"{to.path}&"]
            rows = [{"0020000D": value(uid), "00201208": value(len(self.studies[uid]))} for uid in self.studies
                    if not named or uid in named]  # fmt: skip
            odd = [3, {"0020000D": 3}, {"0020000D": {"Value": 7}}, {}] * 50
            self.say(to, json.dumps([*odd, *rows] if not named else rows).encode(), "application/dicom+json")
            return
        files, fault = self.studies[parts[1]], self.faults.get(parts[1], "")
        heads = [pydicom.dcmread(io.BytesIO(one), stop_before_pixels=True) for one in files]
        if parts[-1] == "series":
            row = {"0020000E": value(heads[0].SeriesInstanceUID), "00080060": value("CT"),
                   "00201209": value(len(files))}  # fmt: skip
            self.say(to, json.dumps([row]).encode(), "application/dicom+json")
        elif parts[-1] == "instances":
            rows = [{"00080018": value(one.SOPInstanceUID), "00080016": value(one.SOPClassUID)} for one in heads]
            self.say(to, json.dumps(rows).encode(), "application/dicom+json")
        else:
            wanted = [one for one, head in zip(files, heads, strict=True) if parts[-1] == head.SOPInstanceUID] or files
            if fault == "garbage":
                wanted = [b"no DICOM" * 100]
            body = b"".join(b"\r\n--XX\r\nContent-Type: application/dicom\r\n\r\n" + one for one in wanted)
            self.say(to, body[2:] + b"\r\n--XX--\r\n", 'multipart/related; type="application/dicom"; boundary=XX',
                     is_cut=fault == "cut")  # fmt: skip

    @staticmethod
    def say(to, body: bytes, kind: str, *, is_cut: bool = False) -> None:
        to.send_response(200)
        to.send_header("Content-Type", kind)
        to.send_header("Content-Length", str(len(body)))
        to.end_headers()
        to.wfile.write(body[:100] if is_cut else body)


def value(one) -> dict:
    return {"vr": "UI", "Value": [str(one) if not isinstance(one, int) else one]}


@pytest.mark.parametrize("most", [1, 7, 200, 1000])
@pytest.mark.parametrize("is_paged", [True, False])
def test_a_search_finds_all_whatever_the_other_side_gives_at_a_time(most, is_paged):
    uids = [f"1.2.{n}" for n in range(410)]
    rows = [odd for uid in uids for odd in ({"0020000D": value(uid)}, {})]  # every other row cannot be read

    def search(limit: int, offset: int) -> list[dict]:
        return rows[offset : offset + min(limit, most)] if is_paged else rows

    assert [uid for uid, _ in web_source._found(search, "0020000D")] == uids


def test_a_study_at_fault_is_told_and_given_up_while_the_others_go_on(service, tmp_path, monkeypatch):
    monkeypatch.setattr(web_source, "_FIRST_BACK_OFF_S", 0.2)
    contents = {}
    for number in (21, 22, 23):
        scan = scan_of(tmp_path / f"{number}", number)
        contents[f"{ROOT_UID}.{number}"] = [one.read_bytes() for one in sorted(scan.iterdir())]
    capture = pydicom.dcmread(io.BytesIO(contents[f"{ROOT_UID}.23"][0]))
    capture.SOPClassUID = capture.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    capture.SOPInstanceUID = capture.file_meta.MediaStorageSOPInstanceUID = "1.2.3.4"
    made = io.BytesIO()
    capture.save_as(made, enforce_file_format=True)
    contents[f"{ROOT_UID}.23"].insert(0, made.getvalue())
    far = Faulty(contents, {f"{ROOT_UID}.21": "cut", f"{ROOT_UID}.22": "garbage"})
    config = beside_web(SimpleNamespace(web=far.server.server_port), shadow=True)
    try:
        with service.works(config) as pacs:
            until(lambda: [one.state for one in pacs.studies()].count("predicted") == 1)
            reasons = until(lambda: {one.reason for one in pacs.studies("receiving") if one.reason})
            assert reasons <= {"the other side ends the connection, or does not answer in time",
                               "the other side's answer cannot be understood"}  # fmt: skip
            until(lambda: {one.code for one in pacs.studies("receiving")} == {"fetch"})
            pacs._studies.config = replace(config, delivery=replace(QUICK, give_up_hours=1e-7))
            until(lambda: [one.state for one in pacs.studies()].count("failed") == 2)
            searches = far.searches
            until(lambda: far.searches > searches + 2)
            assert len(pacs.studies("failed")) == 2
            far.faults.clear()
            pacs._studies.config = config
            for number in (21, 22):
                pacs.tell("o", f"{ROOT_UID}.{number}")
            until(lambda: [one.state for one in pacs.studies()].count("predicted") == 3)
            assert {(one.code, one.reason) for one in pacs.studies()} == {("", "")}
            assert len(pacs.studies(most=2)) == len(pacs.studies(most=2, offset=1)) == 2
            assert [one.id for one in pacs.studies(offset=1)] == [one.id for one in pacs.studies()][1:]
    finally:
        far.close()


def test_files_that_come_again_after_their_time_are_removed_again(shelf, tmp_path):
    found = placed(shelf, tmp_path / "a")
    predicted(shelf, found)
    for folder in ("b", "c"):
        with shelf.database.change() as connection:
            connection.execute("UPDATE studies SET changed = changed - 4000")
        shelf.expire()
        assert (shelf[found].num_bytes, (shelf.folder / found).exists()) == (0, False)
        placed(shelf, tmp_path / folder)
        shelf.settle(shelf[found])
        assert shelf[found].state == "predicted"
        assert shelf[found].num_bytes > 0
    assert shelf._arrived == shelf._sizes == {}


def predicted(shelf, study: str) -> None:
    shelf.settle(shelf[study])
    job = shelf.jobs.take()
    shelf.jobs.end(job.id, "done", summary={})
    shelf.on_end(shelf.jobs[job.id])


@pytest.mark.parametrize("result", ["predicted", "ignored"])
def test_an_instance_that_comes_while_a_study_is_decided_on_is_kept(shelf, tmp_path, monkeypatch, result):
    from hilum.serving.pacs import studies as module

    changes = {"Modality": "CT"} if result == "predicted" else {"BodyPartExamined": "HEAD"}
    shelf.config = replace(shelf.config, rules=(RuleConfig(model="m", body_part="^(?!HEAD)"),))
    found = placed(shelf, tmp_path / "a", **changes)
    if result == "predicted":
        predicted(shelf, found)
    else:
        shelf.settle(shelf[found])
    assert shelf[found].state == result
    placed(shelf, tmp_path / "again", **changes)
    plain = module.content_of

    def late(folder: Path):
        made = plain(folder)
        placed(shelf, tmp_path / "late", SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.3.4")
        return made

    monkeypatch.setattr(module, "content_of", late)
    shelf.settle(shelf[found])
    monkeypatch.undo()
    assert shelf[found].state == "receiving"
    assert len(list((shelf.folder / found).iterdir())) == 6
    shelf.settle(shelf[found])
    assert (shelf[found].state, len(shelf[found].content.split())) == ("waiting", 6)


def test_what_a_destination_takes_no_class_of_is_dead_at_once_and_others_are_sent(shelf, tmp_path):
    from pynetdicom import evt
    from pynetdicom.sop_class import Verification

    from hilum.serving.pacs.outbox import Outbox
    from hilum.serving.pacs.store_scu import StoreScu

    taken = AE(ae_title="A")
    taken.add_supported_context(Verification)
    port = free_port()
    server = taken.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0)])
    scu = StoreScu(DestinationConfig(name="o", host="127.0.0.1", port=port, ae_title="A"), "HILUM")
    outbox = Outbox("o", scu, shelf.deliveries, lambda _: "1.2")
    outbox.start()
    try:
        put(shelf, tmp_path / "1", "j1", {"report.dcm": "1.1"}, study="a")
        until(lambda: [one.state for one in shelf.deliveries.of()] == ["dead"])
        taken.add_supported_context(CTImageStorage)
        server.shutdown()
        server = taken.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, lambda _: 0)])
        put(shelf, tmp_path / "2", "j2", {"report.dcm": "2.1"}, study="b")
        until(lambda: [one.state for one in shelf.deliveries.of()] == ["sent", "dead"])
        assert shelf.deliveries.of()[1].tries == 1
    finally:
        outbox.stop(5.0)
        server.shutdown()


def test_a_disk_without_hard_links_and_a_report_that_cannot_be_made(shelf, tmp_path, monkeypatch):
    import os

    from hilum.serving.pacs import failure

    def refuses(*_):
        raise OSError(95, "no links")

    monkeypatch.setattr(os, "link", refuses)
    put(shelf, tmp_path / "1", "j1", {"report.dcm": "1.1"})
    assert [pydicom.dcmread(one.file).SOPInstanceUID for one in shelf.deliveries.of()] == ["1.1"]
    shelf.config = replace(shelf.config, delivery=DeliveryConfig(report_failures=True))
    ids = [placed(shelf, tmp_path / f"s{n}", n) for n in (1, 2)]
    for one in ids:
        shelf.fail(shelf[one], "x", "it failed")
    plain, later = failure.failure_report, {}

    def fails(headers, **about):
        if str(headers[0].StudyInstanceUID).endswith(".1"):
            raise RecursionError
        return plain(headers, **about)

    monkeypatch.setattr(failure, "failure_report", fails)
    assert failure.add_failure_reports(shelf, shelf.deliveries, later) == 2
    assert (later, failure.add_failure_reports(shelf, shelf.deliveries, later)) == ({}, 0)
    assert [one.study for one in shelf.deliveries.of() if one.study in ids] == [ids[1]]


def test_a_data_base_that_cannot_be_written_refuses_an_instance_and_an_idle_association_is_not_waited_for(
    service, tmp_path, monkeypatch
):
    import sqlite3

    (file, *_) = write_series(tmp_path / "a", dicom_few())
    port = free_port()
    peers = (PeerConfig(ae_title="STORESCU", host="127.0.0.1"),)
    node = NodeConfig(destination="o", port=port, stable_s=0.1, peers=peers)
    destination = DestinationConfig(name="o", host="127.0.0.1", port=1, ae_title="A")
    config = ServeConfig(node=node, destinations=(destination,), rules=RULES, shadow=True)
    with service.works(config) as pacs:
        entity = AE(ae_title="STORESCU")
        entity.add_requested_context(CTImageStorage, "1.2.840.10008.1.2.1")
        association = entity.associate("127.0.0.1", port, ae_title="HILUM")
        with monkeypatch.context() as patch:

            def locked(*_):
                raise sqlite3.OperationalError

            patch.setattr(pacs._studies, "expect", locked)
            assert association.send_c_store(file).Status == 0xA700
        assert pacs.studies() == []
        assert association.send_c_store(file).Status == 0
        assert pacs._node.is_storing(pacs.studies()[0].id)
        one_study(pacs, "failed")
        assert association.is_established
        association.release()
