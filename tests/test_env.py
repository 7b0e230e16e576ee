"""``hilum env``: what a bug report needs, and nothing private."""

import getpass
import json
import os
import platform
import re
import socket
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from hilum.cli import main
from hilum.planning import installation
from hilum.reading.identity import _key, key_fingerprint


def described(capsys) -> dict:
    assert main(["env", "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_versions_cores_and_devices_are_those_of_this_process(capsys):
    found = described(capsys)
    assert found["packages"]["torch"] == version("torch")
    assert found["python"] == platform.python_version()
    assert found["cores"] == len(os.sched_getaffinity(0))
    assert len(found["devices"]) == 1 + torch.cuda.device_count() + torch.backends.mps.is_available()
    total = re.search(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    assert abs(found["memory_gb"] - int(total[1]) * 1024 / 1e9) < 0.1
    assert 0 < found["memory_free_gb"] <= found["memory_gb"]
    shm = os.statvfs("/dev/shm")  # noqa: S108 - its size
    assert abs(found["shm_gb"] - shm.f_blocks * shm.f_frsize / 1e9) < 0.01


def test_a_missing_package_of_an_extra_is_named_with_what_installs_it(capsys, monkeypatch):
    def requires(_name):
        return [
            "numpy>=2.0",
            'captum>=0.8; extra == "explain"',
            'nosuch[x]>=1; extra == "tune"',
            'mypy; extra == "test"',
        ]

    monkeypatch.setattr(installation, "requires", requires)
    assert described(capsys)["extras"] == {"explain": {"captum": version("captum")}, "tune": {"nosuch": ""}}
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^extras +explain$", shown, re.M)
    assert re.search(r"tune +nosuch MISSING; pip install 'hilum\[tune\]'", shown)


def test_the_key_is_told_by_four_digits_of_its_fingerprint(capsys, monkeypatch):
    monkeypatch.setenv("HILUM_KEY", "a word")
    digits = described(capsys)["key"]
    assert digits == {"origin": "HILUM_KEY", "fingerprint": key_fingerprint().removeprefix("key-")[:4]}
    monkeypatch.setenv("HILUM_KEY", "another")
    assert described(capsys)["key"]["fingerprint"] != digits["fingerprint"]


def test_no_key_is_made_where_there_is_none(capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("HILUM_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert described(capsys)["key"] is None
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "hilum").mkdir()
    (tmp_path / "hilum" / "key").write_text("0123456789abcdef\n")
    assert described(capsys)["key"]["origin"] == "file"


@pytest.mark.parametrize("broken", ["empty", "a folder"])
def test_a_key_that_cannot_be_read_is_told_without_its_path_and_stops_nothing(broken, capsys, monkeypatch, tmp_path):
    monkeypatch.delenv("HILUM_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    _key.cache_clear()
    (tmp_path / "hilum").mkdir()
    key = tmp_path / "hilum" / "key"
    key.write_text("") if broken == "empty" else key.mkdir()
    assert described(capsys)["key"] == {"origin": "file", "problem": "cannot be read, or is empty"}
    assert main(["env"]) == 0
    shown = capsys.readouterr().out
    assert "file: cannot be read" in shown
    assert str(tmp_path) not in shown


def test_neither_user_nor_host_nor_a_path_is_told(capsys, monkeypatch):
    monkeypatch.setenv("HILUM_KEY", "the-secret-key")
    shown = json.dumps(described(capsys))
    assert main(["env"]) == 0
    shown += capsys.readouterr().out
    words = set(re.findall(r"[\w.-]+", shown))
    assert not words & {getpass.getuser(), socket.gethostname(), "the-secret-key"}
    assert not re.search(r"(?<!/dev)/(?!dev/shm)\w+/", shown)
    assert str(Path.home()) not in shown or str(Path.home()) == "/"
