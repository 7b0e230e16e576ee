"""What every test has: a key of its own for hashes, and the shared real CT where it is there."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _site_key(monkeypatch):
    """No test touches the key of the machine it runs on."""
    monkeypatch.setenv("HILUM_KEY", "tests")


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real CT; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("HILUM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the shared CT is not here (HILUM_DATA)")
    return folder
