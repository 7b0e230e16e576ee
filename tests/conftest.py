"""What every test has: a key of its own for hashes, and the shared real CT where it is there."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from hilum.cli import main

settings.register_profile("hilum", deadline=None, derandomize=True)  # a busy machine is no failure; repeatable
settings.load_profile("hilum")


@pytest.fixture(autouse=True)
def _site_key(monkeypatch):
    """No test touches the key of the machine it runs on."""
    monkeypatch.setenv("HILUM_KEY", "tests")


@pytest.fixture(autouse=True, scope="session")
def _speed_cache(tmp_path_factory):
    """No test reads or writes what was measured for the user; what one test has measured, the next need not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data():
    """The folder of real CT; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("HILUM_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("the shared CT is not here (HILUM_DATA)")
    return folder


@pytest.fixture(scope="session")
def tutorial(shared_data):
    """The tutorial's listings, as a module."""
    path = shared_data.parent / "baseline" / "tutorial.py"
    if not path.is_file():
        pytest.skip("the tutorial's listings are not here")
    spec = importlib.util.spec_from_file_location("tutorial", path)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except ImportError as error:
        pytest.skip(f"the tutorial's listings need {error.name}")
    return module


CONFIG = """
[cohort]
table = "cohort.csv"

[recipe]
region = "whole"
size = [12, 12, 12]
spacing_mm = [2.0, 2.0, 2.0]

[augment]
translation_mm = [2.0, 2.0, 2.0]

[model]
depth = 10
width = 4
stem = "small"

[training]
epochs = 4
batch_size = 5
lr = 5e-3
"""


@pytest.fixture(scope="session")
def npy_cohort(tmp_path_factory):
    """A folder with 60 prepared volumes of 12 cubed, half of them with a bright ball, a table and a config."""
    folder = tmp_path_factory.mktemp("cohort")
    random = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(12) - 5.5] * 3, indexing="ij"))
    rows = ["case_id,path,label,patient_id,diameter_mm"]
    for i in range(60):
        volume = random.normal(0.2, 0.05, (12, 12, 12))
        if i % 2:
            centre = random.uniform(-2, 2, (3, 1, 1, 1))
            volume[((grid - centre) ** 2).sum(axis=0) < 7] += 0.4
        np.save(folder / f"{i:02d}.npy", np.clip(volume, 0, 1).astype(np.float32))
        rows.append(f"c{i:02d},{i:02d}.npy,{i % 2},SMITH-{i // 4},{5 + i % 3}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    (folder / "config.toml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="session")
def trained_run(npy_cohort):
    """The run folder of a model trained and judged on that cohort by the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HILUM_KEY", "tests")
        out = npy_cohort / "run"
        assert main(["train", str(npy_cohort / "config.toml"), "--out", str(out)]) == 0
    return out


@pytest.fixture
def train_until(monkeypatch):
    """Train, and stop as Ctrl-C does once so many epochs are whole."""
    from hilum.training.state import TrainingState
    from hilum.training.train import train

    def run(config, out, *, base, epochs=1):
        save, calls = TrainingState.save, []

        def save_then_stop(state, folder):
            save(state, folder)
            calls.append(folder)
            if len(calls) == epochs:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(TrainingState, "save", save_then_stop)
            with pytest.raises(KeyboardInterrupt):
                train(config, out, base=base)

    return run
