"""How tests are chosen and run; the fixtures of all are in ``common_fixtures``."""

import gc

import pytest
from hypothesis import settings


@pytest.hookimpl(trylast=True)  # after pytest-cov, which would miss what was imported before
def pytest_sessionstart(session):
    """Load the fixtures, and with them Hilum and PyTorch, but not where other processes run the tests."""
    if session.config.getoption("dist", "no") == "no":
        session.config.pluginmanager.import_plugin("common_fixtures")


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="run the tests marked slow, too")


LONGEST = ("service", "service_page", "pacs", "survival", "folds", "gate", "explain", "dicom_out", "view", "orthanc")
"""Files of tests that take longest, the longest first."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Order the files for several processes, and leave out tests marked slow, unless they are asked for.

    Each process runs whole files, so long ones come first: at the end short ones are left, and no process waits long.
    --slow, -m or the name of a test asks for slow tests.
    """
    if hasattr(config, "workerinput"):
        place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
        items.sort(key=lambda item: place.get(item.path.stem, len(place)))
    if config.option.slow or config.option.markexpr or any("::" in str(one) for one in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in set(slow)]


def pytest_collection_finish():
    """What was imported stays: the garbage collector need not look at it again after each test."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


settings.register_profile("hilum", deadline=None, derandomize=True)  # a busy machine is no failure; repeatable
settings.load_profile("hilum")
