import sys
from pathlib import Path

import numpy as np
import pytest

from hilum.cohorts import worker_limit as workers
from hilum.cohorts.prepared import Refusal, prepare_cohort, write_refusals
from hilum.cohorts.table import Cohort
from hilum.cohorts.worker_limit import worker_limit
from hilum.errors import CohortError
from hilum.files import free_bytes
from hilum.preparing import Store
from hilum.settings.run import CohortConfig, Recipe

RECIPE = Recipe(region="whole", size=(4, 4, 4), spacing_mm=(1.0, 1.0, 1.0))


def cohort_in(folder, number=20):
    folder.mkdir()
    for i in range(number):
        np.save(folder / f"{i}.npy", np.full((4, 4, 4), i / number, np.float32))
    (folder / "t.csv").write_text("\n".join(["path,label", *(f"{i}.npy,{i % 2}" for i in range(number))]) + "\n")


def test_relative_paths_mean_the_folder_one_is_in_now(tmp_path, monkeypatch):
    """The processes that prepare outlive a call, and stay where they were started."""
    for name in ("first", "second"):
        cohort_in(tmp_path / name)
        monkeypatch.chdir(tmp_path / name)
        prepared = prepare_cohort(Cohort.read(Path("t.csv"), CohortConfig()), RECIPE, Store(Path("store")))
        assert len(prepared.cases) == 20
        assert len(list((tmp_path / name / "store").rglob("*.safetensors"))) == 20


def test_the_samples_are_those_of_the_cases_in_order(tmp_path):
    cohort_in(tmp_path / "c")
    prepared = prepare_cohort(Cohort.read(tmp_path / "c" / "t.csv", CohortConfig()), RECIPE, Store(tmp_path / "s"))
    store = Store(tmp_path / "s")
    for case, sample in zip(prepared.cases, prepared.samples, strict=True):
        assert store.fetch(case.path, RECIPE).file == sample


def test_a_cohort_of_which_every_case_is_refused_is_an_error(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\na.npy,0\nb.npy,1\n")
    with pytest.raises(
        CohortError, match=r"2 of 2 cases are refused, at least one must be usable.*row 2: a.npy: no file or folder"
    ):
        prepare_cohort(Cohort.read(tmp_path / "t.csv", CohortConfig()), RECIPE, Store(tmp_path / "s"))


def test_refusals_are_listed_and_an_old_list_does_not_stay(tmp_path):
    write_refusals(tmp_path / "refused.csv", (Refusal(case_id="a", row=2, reason='odd, "quoted"'),))
    assert (tmp_path / "refused.csv").read_text() == 'case_id,row,reason\na,2,"odd, ""quoted"""\n'
    write_refusals(tmp_path / "refused.csv", ())
    assert not (tmp_path / "refused.csv").exists()


def test_as_many_scans_at_once_as_memory_holds(tmp_path, monkeypatch):
    paths = [tmp_path / f"{i}.nii" for i in range(8)]
    for path in paths:
        path.write_bytes(bytes(1_000_000))
    monkeypatch.setattr(workers, "free_bytes", lambda: 2e9)
    assert worker_limit(paths, 4) == (4, "")
    assert worker_limit(paths[:3], 4) == (3, "")
    monkeypatch.setattr(workers, "free_bytes", lambda: 0.7e9)
    number, why = worker_limit(paths, 4)
    assert number == 2
    assert "2 instead of 4 scans at once" in why
    monkeypatch.setattr(workers, "free_bytes", lambda: 0.0)
    assert worker_limit(paths, 4)[0] == 1


@pytest.mark.parametrize("version", [1, 2])
def test_cached_files_of_a_container_count_as_free_memory(tmp_path, monkeypatch, version):
    limit, used, stat, cached = {
        1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat", "total_inactive_file"),
        2: ("memory.max", "memory.current", "memory.stat", "inactive_file"),
    }[version]
    folder = tmp_path / ("memory" if version == 1 else "")
    for name, text in {limit: "900000", used: "850000", stat: f"anon 1\n{cached} 300000\n"}.items():
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.setattr("hilum.files._CGROUP", tmp_path)
    assert free_bytes() == 350000
    (folder / used).write_text("1300000")  # over the limit for a moment, before the system ends a process
    assert free_bytes() == 0


def test_the_memory_that_is_free_is_known_on_linux():
    assert 0 < free_bytes() < 1e15 or sys.platform != "linux"
