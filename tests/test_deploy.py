"""Dockerfile, compose file, unit and Orthanc's script use flags and settings that exist, and agree with each other."""

import http.server
import json
import re
import shlex
import shutil
import threading
import tomllib
import urllib.error
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml
from orthanc import Orthanc, ask, missing

import dicom_sources
from dicom_files import STUDY
from hilum.settings.serving import ServeConfig
from hilum.settings.toml import from_dict

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yml").read_text())
DOCKERFILE = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
ORTHANC_TOKEN, HILUM_TOKEN = "o" * 32, "h" * 32


def _arguments(instruction: str) -> list[str]:
    """The list of ENTRYPOINT or CMD."""
    (found,) = re.findall(rf"^{instruction} (\[.*\])$", DOCKERFILE, re.M)
    return json.loads(found)


def _settings() -> ServeConfig:
    return from_dict(ServeConfig, tomllib.loads((DEPLOY / "serve.toml").read_text()))


def test_every_flag_of_the_service_exists():
    unit = re.search(r"^ExecStart=\S+/hilum (.*)$", (DEPLOY / "hilum.service").read_text(), re.M)
    entry = _arguments("ENTRYPOINT")
    assert entry[:2] == ["hilum", "serve"]
    lines = [
        shlex.split(unit[1]),
        [*entry[1:], *_arguments("CMD")],
        [*entry[1:], *COMPOSE["services"]["hilum"]["command"]],
    ]
    known = (ROOT / "tests" / "flags.txt").read_text().splitlines()
    for line in lines:
        flags = [one for one in line if one.startswith("--")]
        assert len(flags) >= 3
        assert [one for one in flags if f"serve {one}" not in known] == []


def test_every_file_that_the_image_copies_exists_and_reaches_the_builder():
    copied = [one for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.M) for one in line.split()]
    ignored = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    kept = {line[1:] for line in ignored if line.startswith("!")}
    assert "*" in ignored
    assert set(copied) == kept
    assert all((ROOT / one).exists() for one in copied)
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    needed = [project["readme"], *project["license-files"]]
    assert all(any(one == path or one.startswith(f"{path}/") for path in copied) for one in needed)


def test_the_image_runs_as_a_user_of_its_own_with_extras_that_exist():
    with (ROOT / "pyproject.toml").open("rb") as file:
        extras = tomllib.load(file)["project"]["optional-dependencies"]
    (asked,) = re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE)
    assert set(asked.split(",")) <= set(extras)
    assert re.search(r"^USER hilum$", DOCKERFILE, re.M)
    assert DOCKERFILE.index("-c constraints.txt torch") < DOCKERFILE.index(f".[{asked}]")


def test_the_settings_beside_orthanc_are_those_of_the_compose_file():
    config, services = _settings(), COMPOSE["services"]
    hilum, orthanc = services["hilum"], services["orthanc"]["environment"]
    assert "hilum" in config.hosts
    (web,), (destination,), (peer,) = config.web, config.destinations, config.node.peers
    assert web.url == f"http://orthanc:8042{orthanc['ORTHANC__DICOM_WEB__ROOT'].rstrip('/')}"
    assert Path(web.token_file).name in hilum["secrets"]
    assert (
        (destination.host, destination.ae_title)
        == (peer.host, peer.ae_title)
        == ("orthanc", orthanc["ORTHANC__DICOM_AET"])
    )
    assert str(destination.port) in " ".join(services["orthanc"]["ports"])
    modality = json.loads(orthanc["ORTHANC__DICOM_MODALITIES"])["hilum"]
    assert modality == {"AET": config.node.ae_title, "Host": "hilum", "Port": config.node.port}
    assert float(orthanc["ORTHANC__STABLE_AGE"]) == web.stable_s == config.node.stable_s
    models = [one.partition("=")[0] for one in hilum["command"] if re.match(r"\w+=/", one)]
    assert {rule.model for rule in config.rules} == set(models)
    grace = int(hilum["stop_grace_period"].rstrip("s"))
    assert grace > config.stop_s


def test_the_compose_file_shares_nothing_with_other_machines_and_names_every_file():
    services, networks = COMPOSE["services"], COMPOSE["networks"]
    assert networks["private"]["internal"] is True
    for service in services.values():
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert set(service["networks"]) <= set(networks)
        assert set(service["secrets"]) == set(COMPOSE["secrets"])
        for volume in service["volumes"]:
            source, _, target = volume.removesuffix(":ro").rpartition(":")
            assert target.startswith("/")
            if source.startswith("./"):
                assert (DEPLOY / source).is_file()
            elif not source.startswith("${"):
                assert source in COMPOSE["volumes"]
    for secret in COMPOSE["secrets"].values():
        assert (DEPLOY / secret["file"]).resolve().parent == DEPLOY / "secrets"
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    assert any(fnmatch("deploy/secrets", line) for line in ignored)


@pytest.fixture
def told():
    """A server that keeps what Orthanc tells the service: address, headers, content; and its port."""
    found = []

    class Keeper(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.append((self.path, dict(self.headers), json.loads(body)))
            self.send_response(202)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_):
            """Print nothing."""

    server = http.server.HTTPServer(("127.0.0.1", 0), Keeper)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield found, server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def _status(web: int, **headers: str) -> int:
    try:
        ask(web, "/dicom-web/studies", **headers)
    except urllib.error.HTTPError as exc:
        exc.close()
        return exc.code
    return 200


def test_orthanc_answers_only_with_the_token_and_tells_of_each_stable_study(tmp_path, told, monkeypatch):
    if missing():
        pytest.skip(missing())
    found, port = told
    monkeypatch.setenv("HILUM_SECRETS", str(tmp_path))
    monkeypatch.setenv("HILUM_URL", f"http://127.0.0.1:{port}")
    shutil.copy(DEPLOY / "orthanc.lua", tmp_path)
    (tmp_path / "hilum-token").write_text(f"orthanc {HILUM_TOKEN}\n")
    orthanc = Orthanc(tmp_path, LuaScripts=[str(tmp_path / "orthanc.lua")], StableAge=1)
    try:
        assert _status(orthanc.web, Authorization=f"Bearer {ORTHANC_TOKEN}") == 403  # no token is known
        (tmp_path / "orthanc-token").write_text(f"{ORTHANC_TOKEN}\n")
        assert _status(orthanc.web) == 403
        assert _status(orthanc.web, Authorization=f"Bearer {HILUM_TOKEN}") == 403
        assert _status(orthanc.web, Authorization=f"Bearer {ORTHANC_TOKEN}") == 200
        scan = dicom_sources.write_source(tmp_path / "scan", "plain", StudyInstanceUID=f"{STUDY}.1")
        token = {"Authorization": f"Bearer {ORTHANC_TOKEN}"}
        for file in sorted(scan.iterdir()):
            ask(orthanc.web, "/instances", file.read_bytes(), **token)
        for _ in range(200):
            if found:
                break
            threading.Event().wait(0.1)
        ((path, headers, body),) = found
        (source,) = _settings().web
        assert path == f"/v1/pacs/{source.name}"
        assert body == {"study_uid": f"{STUDY}.1"}
        assert headers["Authorization"] == f"Bearer {HILUM_TOKEN}"
    finally:
        orthanc.stop()
