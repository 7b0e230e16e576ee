"""Tasks on many cores: results in order, a failure fails its own task, and an end in order."""

import os
import signal
import sys
import time
from concurrent.futures.process import BrokenProcessPool
from operator import neg

import pytest

from hilum.errors import ConfigError, ReadError
from hilum.files import cores
from hilum.working import tasks
from hilum.working.stop import Stop
from hilum.working.tasks import Failed, run_tasks


def _square_slowly(number):
    time.sleep(0.05 if number == 0 else 0.0)
    return number * number


def _fail(number):
    if number == 1:
        msg = "damaged"
        raise ReadError(msg, path="scan.nii", code="truncated-file")
    if number == 2:
        raise MemoryError
    if number == 3:
        return {}["a bug"]
    return number


def _die(number):
    if number % 7 == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def _slowly(number):
    time.sleep(0.02)
    return number


def _own_cores(_):
    return cores()


@pytest.mark.parametrize(("workers", "threads"), [(1, True), (1, False), (2, True), (2, False)])
def test_results_come_in_the_order_of_the_tasks(workers, threads):
    assert list(run_tasks(_square_slowly, range(9), workers=workers, threads=threads)) == [n * n for n in range(9)]


@pytest.mark.parametrize("threads", [True, False])
def test_an_error_is_the_value_of_its_task_with_all_its_facts(threads):
    ok, damaged, memory = run_tasks(_fail, [0, 1, 2], workers=2, threads=threads)
    assert ok == 0
    assert isinstance(damaged, Failed)
    assert (str(damaged.error), str(damaged.error.path), damaged.error.code) == (
        "scan.nii: damaged", "scan.nii", "truncated-file"
    )  # fmt: skip
    assert isinstance(memory.error, MemoryError)


def test_no_worker_is_an_error_before_any_task_is_lost():
    with pytest.raises(ConfigError, match="workers must be at least 1, got 0"):
        list(run_tasks(_square_slowly, range(3), workers=0))


def test_what_is_a_bug_shows_itself():
    with pytest.raises(KeyError):
        list(run_tasks(_fail, [0, 3], workers=2, threads=True))


def test_a_process_that_is_ended_from_outside_fails_its_own_task_alone():
    """As by a system that runs out of memory."""
    results = list(run_tasks(_die, range(12), workers=2))
    lost = {n for n, result in enumerate(results) if isinstance(result, Failed)}
    assert lost == {3, 10}
    assert [result for result in results if not isinstance(result, Failed)] == [n for n in range(12) if n not in lost]
    assert all("was killed, perhaps because memory ran out" in str(results[n].error) for n in lost)


def test_a_pool_that_breaks_before_a_task_is_submitted_is_replaced(monkeypatch):
    get, broken = tasks._processes, []

    class Broken:
        def submit(self, *_):
            broken.append(True)
            raise BrokenProcessPool

    monkeypatch.setattr(tasks, "_processes", lambda workers: get(workers) if broken else Broken())
    assert list(run_tasks(neg, [1, 2, 3], workers=2)) == [-1, -2, -3]
    assert broken


@pytest.mark.parametrize("threads", [True, False])
def test_no_task_is_begun_once_a_signal_asked_for_an_end(threads):
    stop = Stop()
    done = []
    for number in run_tasks(_slowly, range(100), workers=2, threads=threads, stop=stop):
        stop.signal = signal.SIGINT
        done.append(number)
    assert 1 <= len(done) < 20
    with pytest.raises(KeyboardInterrupt):
        stop.end()


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="cores of a process are known on Linux")
def test_processes_share_the_cores():
    assert list(run_tasks(_own_cores, [0], workers=2)) == [max(1, len(os.sched_getaffinity(0)) // 2)]
    assert cores() == len(os.sched_getaffinity(0))


def test_a_script_without_a_main_guard_is_not_run_again_by_its_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "print('begun')\nfrom operator import neg\nfrom hilum.working.tasks import run_tasks\n"
        "print(*run_tasks(neg, [1, 2, 3], workers=2))\n"
    )
    import subprocess

    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["begun", "-1 -2 -3"]
