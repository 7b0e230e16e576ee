"""What every test has: a key of its own for hashes, and the shared real CT where it is there."""

import importlib.util
import os
from contextlib import contextmanager
from pathlib import Path

# jaxtyping's import hook compiles anew whatever is first imported from within Hilum, so these come before it
import beartype  # noqa: F401
import jinja2  # noqa: F401
import lightning_fabric  # noqa: F401
import loky  # noqa: F401
import matplotlib.figure  # noqa: F401
import numpy as np
import pandas  # noqa: F401
import pydicom  # noqa: F401
import pytest
import scipy.ndimage  # noqa: F401
import sklearn.model_selection  # noqa: F401
import torch.utils.tensorboard  # noqa: F401
import tyro  # noqa: F401

import array_checks  # noqa: F401 - before the import of Hilum
from hilum.cli import main
from hilum.modelling import speed
from hilum.planning import resources


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


RACE = speed._race
"""How Hilum measures the ways to compute a network."""


def no_race(network, x, ways, seconds):
    """Write likely seconds of the ways without computing any: a pass in bf16 takes seconds on many processors."""
    for way in ways:
        base = (4.0 if way.precision == "bf16" else 1.0) * (2.0 if way.products == "on" else 1.0)
        seconds[speed.name_of(way)] = base * (0.5 if way.channels_last == "on" else 1.0)


@contextmanager
def races(race=RACE):
    """Choose the way to compute a network by another race; by default as Hilum does, for a moment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "_race", race)
        patch.setattr(speed, "_SECONDS", 0.1)
        yield


@pytest.fixture(autouse=True, scope="session")
def _ways_do_not_race():
    """Tests need a choice of the way to compute a network, not the right one for this machine."""
    with races(no_race):
        yield


@pytest.fixture
def real_race():
    """The ways to compute a network are measured."""
    with races():
        yield


@pytest.fixture(autouse=True, scope="session")
def _memory_is_estimated_once():
    """Plans ask for the memory of the same few networks, on a machine of 16 GB."""

    def once(estimate):
        known = {}

        def look_up(config, *counts, **how):
            training = config.training
            cut = (training.batch_size, training.micro_batch, training.checkpointing, training.freeze)
            key = (config.model, config.recipe, config.speed, cut, counts, *sorted(how.items()))
            if key not in known:
                known[key] = estimate(config, *counts, **how)
            return known[key]

        return look_up

    with pytest.MonkeyPatch.context() as patch:
        for module, name in [
            ("resource_plan", "cost_of"),
            ("resource_plan", "training_memory"),
            ("resource_plan", "prediction_bytes"),
            ("memory_fit", "training_memory"),
        ]:
            patch.setattr(f"hilum.planning.{module}.{name}", once(getattr(resources, name)))
        for module in ("hilum.planning.resource_plan", "hilum.planning.plan"):
            patch.setattr(importlib.import_module(module), "usable_bytes", lambda device: 16e9)
        yield


@pytest.fixture
def brief_plan(monkeypatch):
    """A plan lists the memory of two cases alone, and looks for no largest batch."""
    monkeypatch.setattr("hilum.planning.resource_plan._CASES", (2,))
    monkeypatch.setattr("hilum.planning.resource_plan.largest_batch", lambda *_, **__: 64)


MODULES = ("hilum.training.history", "hilum.judging.pictures")
RENDERED = {name: importlib.import_module(name).write for name in MODULES}
"""How charts are rendered, by the module that does."""


@contextmanager
def charts(write=None):
    """Render charts by another function; None: as Hilum does."""
    with pytest.MonkeyPatch.context() as patch:
        for module, own in RENDERED.items():
            patch.setattr(f"{module}.write", write or own)
        yield


@pytest.fixture(autouse=True, scope="session")
def _charts_are_left_blank():
    """Charts are plotted but not rendered, which takes half of a short training."""
    with charts(lambda panels, path, **_: path.write_bytes(BLANK)):
        yield


@pytest.fixture(scope="session")
def rendered_charts():
    """A context in which charts are rendered, for fixtures whose pictures a test looks at."""
    return charts


@pytest.fixture(autouse=True)
def _charts_are_rendered_where_a_test_is_marked_so(request):
    if request.node.get_closest_marker("charts"):
        with charts():
            yield
    else:
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


BLANK = b"\x89PNG\r\n\x1a\nSoftware\0Hilum"
"""What stands for a chart that no test looks at."""

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
        with charts(), races():
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
