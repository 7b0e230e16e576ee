"""The pages of the service, in a browser and as HTML: what a user sees of a scan, from its upload to its result."""

import asyncio
import json
import re
import shutil
import sqlite3
import subprocess
import time
from dataclasses import dataclass
from types import SimpleNamespace
from urllib.parse import unquote

import pytest
from live_service import BIRTH, ID, NAME, Live, zipped
from starlette.datastructures import Headers

import dicom_sources
from hilum.serving.app.access import Tokens
from hilum.serving.app.app import make_app
from hilum.serving.app.jobs import JobSettings
from hilum.serving.app.service import ModelPlaces, Service
from hilum.settings.serving import ServeConfig
from test_dicom_out import POINT, model
from test_view import BROWSER, CHROMIUM, numbers

TOKEN = "correct-horse-battery-staple"  # noqa: S105


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    folder = tmp_path_factory.mktemp("network")
    model(folder)
    return folder


@pytest.fixture(scope="module")
def used(tmp_path_factory, network):
    """What Chromium saw of a service, and the service's folder."""
    node = shutil.which("node")
    if node is None or not CHROMIUM.exists() or not (BROWSER / "node_modules").is_dir():
        pytest.skip("node, Chromium or playwright-core is not here (scripts/tools)")
    folder = tmp_path_factory.mktemp("pages")
    about = {"PatientName": NAME, "PatientID": ID, "PatientBirthDate": BIRTH, "StudyDate": "20190331"}
    scan = dicom_sources.write_source(folder / NAME / "series", "plain", **about)
    (scan.parent / ".DS_Store").write_bytes(b"of the file manager")
    zipped(scan, folder / f"{NAME}.zip")
    model(folder / "spot", POINT)
    tokens = folder / "tokens"
    tokens.write_text(f"anna {TOKEN}\n")
    tokens.chmod(0o600)
    live = Live(folder / "live", network, "", f"spot={folder / 'spot'}", "--token-file", str(tokens))
    live.token = TOKEN
    try:
        live.ready()
        shots = folder / "shots"
        starts = [one for one in live.events() if one["event"] == "process"]
        workers = [one["pid"] for one in starts if one["of"].startswith("worker-")]
        command = [node, "service.mjs", live.url, TOKEN, folder / f"{NAME}.zip", scan.parent, shots, *workers]
        done = subprocess.run([str(one) for one in command], cwd=BROWSER, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stderr + live.logged()
        yield json.loads(done.stdout), live, len(list(scan.iterdir()))
    finally:
        live.stop()


def test_nobody_gets_in_without_a_token_and_logins_are_audited(used):
    seen, live, _ = used
    assert seen["first"] == "/login"
    assert seen["wrong"] == "This token is not known here."
    (cookie,) = seen["cookies"]
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["expires"]) == (True, "Strict", -1)
    assert TOKEN not in cookie["value"]
    assert seen["out"] == 0
    with sqlite3.connect(live.data / "service.sqlite") as connection:
        rows = connection.execute("SELECT who, did FROM audit ORDER BY time").fetchall()
    assert rows[:2] == [("unknown", "failed login"), ("anna", "logged in")]
    assert rows[-1] == ("anna", "logged out")
    assert ("anna", "fetched page.html") in rows


def test_a_dropped_zip_is_followed_from_its_upload_to_the_viewer(used):
    seen = used[0]
    assert re.fullmatch(rf"{re.escape(NAME)}\.zip, \d+ kB", seen["chosen"])
    shares = [one for one in seen["progress"] if one is not None]
    assert any(0 < one < 1 for one in shares)
    assert shares == sorted(shares)
    assert seen["steps"] == sorted(seen["steps"], key=["queued", "reading", "preparing", "predicting", "writing"].index)
    assert len(seen["steps"]) >= 2
    decision = seen["decision"].removeprefix("Decision: ")
    assert decision in ("healthy", "mass")
    assert seen["viewer"] == f"Decision: {decision}"
    assert seen["links"] == ["All figures (JSON)", "Map (NIfTI)", "Open the viewer on its own"]


def test_the_viewer_scrolls_changes_its_window_and_jumps(used):
    seen, read = used[0], {name: numbers(one) for name, one in used[0]["readouts"].items()}
    assert seen["sandbox"] == "allow-scripts"
    assert any("Right lung" in one for one in seen["layers"])
    assert any("mass" in one for one in seen["layers"])  # the map
    assert read["wheel"][2] != read["start"][2]
    assert read["wheel"][:2] == read["start"][:2]
    assert seen["window"] == [-160, 240]
    assert read["jump"][:3] == pytest.approx([float(mm) for mm in seen["jump"].split()], abs=0.06)
    assert read["key"][2] > read["jump"][2]


def test_a_scan_is_sent_and_its_job_cancelled_by_keyboard_alone(used):
    seen = used[0]
    assert seen["reaches"]
    assert re.fullmatch(r"\d jobs? comes? before this one\.", seen["waits"])
    assert seen["cancels"]
    assert seen["cancelled"] == "The job was cancelled"


def test_the_list_of_jobs_follows_them_and_cancels_and_deletes(used):
    seen = used[0]
    states = [row[1] for row in seen["rows"]]
    assert states.count("cancelled") == 2
    assert states.count("done") == len(states) - 2 >= 6
    assert [row[2] for row in seen["rows"] if row[1] == "done"] == [seen["decision"]] * (len(states) - 2)
    assert all(re.fullmatch(r"[0-9a-f]{8}", row[0]) for row in seen["rows"])
    assert re.fullmatch(r"Job [0-9a-f]{8}: .*", seen["news"])


def test_no_name_of_a_file_or_patient_leaves_the_browser(used):
    seen, live, count = used
    assert seen["sent"] == ["1.zip"]
    assert seen["folder"].startswith(f"{count} files, ")  # without that of the file manager
    assert sorted(seen["names"]) == sorted(f"{n}.dcm" for n in range(1, count + 1))
    for one in (NAME, ID, BIRTH, "PETERSEN"):
        assert one not in live.logged()


def test_a_cancelled_upload_leaves_nothing(used):
    seen, live, _ = used
    assert seen["stop"] == "stop"
    assert seen["stopped"] == "The upload was cancelled; the service has kept nothing of it."
    deadline = time.monotonic() + 5
    while live.left() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert live.left() == []


def test_each_refusal_is_said_in_a_sentence_and_the_scan_stays_chosen(used):
    said = used[0]["refusals"]
    assert said["408"] == "The service has said 408. The connection is too slow for this service."
    assert said["413"].startswith("The service has said 413. ")
    assert said["429"] == "The service has said 429. The service is busy: try again in 7 s. The scan is still chosen."
    assert said["507"] == "The service has said 507. Whoever runs the service must make room."
    assert "the connection was lost" in said["0"]
    assert used[0]["still"] == used[0]["folder"]


def test_a_model_that_takes_a_point_asks_for_it(used):
    assert used[0]["invalid"]
    assert used[0]["query"] == {"model": "spot", "outputs": "page,maps", "point": "12.5,-3,40.5"}


def test_pages_ask_no_other_host_and_write_no_errors(used):
    seen, live, _ = used
    assert {one for one in seen["requests"] if not one.startswith(f"{live.url}/")} == set()
    errors = [one for one in seen["console"] if one.startswith("error")]
    expected = ("login", "v1/predictions")  # the wrong token, and the refusals that the test makes up
    assert [one for one in errors if not any(name in one for name in expected)] == []


def test_pages_fit_every_width_are_dark_in_the_dark_and_name_all_controls(used):
    seen = used[0]
    assert len(seen["overflow"]) == 10
    assert all(over <= 0 for over in seen["overflow"].values()), seen["overflow"]
    assert set(seen["dark"].values()) == {"rgb(21, 23, 26)"}
    assert set(map(str, seen["unnamed"].values())) == {"[]"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Headers
    text: str


class Client:
    """Asks an app in this process."""

    def __init__(self, service: Service, tokens: Tokens | None = None) -> None:
        self.app = make_app(service, tokens=tokens, hosts=["here"])

    def get(self, path: str) -> Answer:
        return asyncio.run(self._ask("GET", path, b"", {}))

    def login(self, body: bytes, **headers: str) -> Answer:
        return asyncio.run(self._ask("POST", "/login", body, headers))

    async def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        sent = []
        named = {"host": "here", **headers}
        scope = {
            "type": "http", "method": method, "path": unquote(path), "query_string": b"", "scheme": "http",
            "server": ("here", 80), "headers": [(name.encode(), one.encode()) for name, one in named.items()],
        }  # fmt: skip

        async def receive():
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message):
            sent.append(message)

        await self.app(scope, receive, send)
        text = b"".join(one.get("body", b"") for one in sent[1:]).decode()
        return Answer(sent[0]["status"], Headers(raw=sent[0]["headers"]), text)


@pytest.fixture
def quiet(tmp_path, network):
    """A service that works on nothing, and a client of it."""
    service = Service(tmp_path / "data", ModelPlaces(folders={"a <b>": network}), ServeConfig())
    yield service, Client(service)
    service.database.close()


def ended_job(service: Service, state="done", result=None, **end) -> str:
    id = service.jobs.new_id()  # noqa: A001
    service.jobs.add(id, model="a <b>", settings=JobSettings(), num_bytes=1, who="x")
    service.jobs.take()
    if result is not None:
        folder = service.database.folder / "results" / id
        folder.mkdir()
        (folder / "result.json").write_text(json.dumps(result))
    service.jobs.end(id, state, **end)
    return id


def summary(outcome: str, decision: str, *files: str) -> dict:
    probabilities = {"healthy": 0.3, "mass <i>": 0.7}
    return {"outcome": outcome, "decision": decision, "codes": [], "probabilities": probabilities, "files": list(files)}


@pytest.mark.parametrize("kind", ["no-result", "undecided"])
def test_no_result_and_undecided_are_never_shown_as_negative(quiet, kind):
    service, client = quiet
    found = {"reason": "it is <b>odd</b>", "findings": [{"code": "gap", "severity": "refused", "message": "a <gap>"}]}
    id = ended_job(service, result=found, summary=summary(kind, kind))  # noqa: A001
    text = client.get(f"/jobs/{id}").text
    assert "This is not a negative result" in text
    assert "it is &lt;b&gt;odd&lt;/b&gt;" in text
    assert "a &lt;gap&gt;" in text
    assert ("0.700" in text) == (kind == "undecided")
    assert "<iframe" not in text


def test_a_failed_job_tells_its_reason_and_is_no_negative_result(quiet):
    service, client = quiet
    id = ended_job(service, "failed", code="unreadable", reason="a file <x> is damaged")  # noqa: A001
    text = client.get(f"/jobs/{id}").text
    assert "A file &lt;x&gt; is damaged." in text
    assert "it is not a negative result" in text


def test_an_expired_result_is_said_and_a_deleted_job_is_gone(quiet):
    service, client = quiet
    id = ended_job(service, result={}, summary=summary("decided", "mass <i>", "page.html"))  # noqa: A001
    assert "<iframe" in client.get(f"/jobs/{id}").text
    service.jobs.expire(keep_s=0.0, record_s=1e9)
    text = client.get(f"/jobs/{id}").text
    assert "The result has expired." in text
    assert "mass &lt;i&gt;" in text
    assert "<iframe" not in text
    assert "/v1/jobs/" not in text
    service.jobs.delete(id, "x")
    gone = client.get(f"/jobs/{id}")
    assert gone.status == 410
    assert "This job was deleted." in gone.text


def test_pages_hold_no_script_or_style_of_their_own_and_allow_none(quiet):
    service, client = quiet
    id = ended_job(service, result={}, summary=summary("decided", "mass", "page.html"))  # noqa: A001
    for path in ("/", f"/jobs/{id}", "/models/a%20%3Cb%3E", "/jobs/none", "/studies"):
        answer = client.get(path)
        assert "'unsafe-inline'" not in answer.headers["content-security-policy"]
        assert not re.search(r"<style|<script>| style=| on\w+=", answer.text), path
        assert set(re.findall(r"<script[^>]*>", answer.text)) == {'<script src="/static/app.js" defer>'}
        assert not re.search(r"https?://(?!www\.w3\.org)", answer.text), path


def test_the_card_of_a_model_is_readable(quiet):
    _, client = quiet
    assert "a &lt;b&gt;" in client.get("/").text
    text = client.get("/models/a%20%3Cb%3E").text
    assert "Decides between the classes healthy, mass." in text
    assert "Threshold 0.500: by hand." in text
    assert "The model has no gate" in text
    assert "not stated" in text
    assert client.get("/models/other").status == 404


def test_studies_are_listed_with_what_was_sent_of_them_and_without_uids(quiet):
    service, client = quiet
    assert client.get("/studies").status == 404
    done = ended_job(service, summary=summary("no-result", "no-result"))
    names = ("study", "result", "num_bytes", "changed", "created")
    each = [
        {"id": "a" * 16, "state": "predicted", "code": "", "reason": "", "job": done},
        {"id": "b" * 16, "state": "failed", "code": "unreadable", "reason": "a <file>", "job": ""},
    ]
    studies = [SimpleNamespace(source="node", **dict.fromkeys(names, 0.0), **one) for one in each]
    sent = [
        SimpleNamespace(study="a" * 16, destination="pacs", state=state, reason=why)
        for state, why in (("sent", ""), ("dead", "it was away"))
    ]
    service.pacs = SimpleNamespace(studies=lambda: studies, deliveries=lambda: sent)
    text = client.get("/studies").text
    assert "no result, not negative" in text.split("b" * 8)[0]
    assert "no result, not negative" in text.split("b" * 8)[1]
    assert "a &lt;file&gt;" in text
    assert "1 to pacs: sent" in text
    assert re.search(r"1 to pacs: given up\s+<span class=\"dim\">\(it was away\)", text)
    assert f'data-send="{"a" * 16}"' in text
    assert 'href="/studies" aria-current="page"' in text
    service.pacs = None


def test_static_files_are_served_and_no_others(quiet):
    _, client = quiet
    for name, kind in (("app.css", "text/css"), ("app.js", "text/javascript"), ("icon.svg", "image/svg+xml")):
        assert client.get(f"/static/{name}").headers["content-type"].startswith(kind)
    for name in ("base.html", "..%2Fweb_pages.py", "web_pages.py"):
        assert client.get(f"/static/{name}").status == 404


def test_who_needs_no_token_is_not_asked_for_one(quiet):
    _, client = quiet
    for answer in (client.get("/login"), client.login(b"token=x")):
        assert (answer.status, answer.headers["location"]) == (303, "/")
    assert "Log out" not in client.get("/").text


def test_the_login_bounds_its_form_and_its_audit_and_marks_cookies_of_https_secure(tmp_path, network):
    file = tmp_path / "tokens"
    file.write_text(TOKEN)
    file.chmod(0o600)
    service = Service(tmp_path / "data", ModelPlaces(folders={"net": network}), ServeConfig())
    client = Client(service, Tokens(file))
    assert client.login(b"token=" + b"x" * 5000).status == 413
    for _ in range(30):
        assert client.login(b"token=wrong").status == 401
    assert len(service.database.rows("SELECT * FROM audit WHERE did = 'failed login'")) == 20
    for origin, is_secure in (("http://here", False), ("https://here", True)):
        cookie = client.login(f"token=+{TOKEN}+".encode(), origin=origin).headers["set-cookie"]
        assert ("Secure" in cookie) == is_secure
        assert "HttpOnly" in cookie
        assert "samesite=strict" in cookie.lower()
    assert client.login(f"token={TOKEN}".encode(), origin="https://elsewhere.example").status == 403
    service.database.close()
