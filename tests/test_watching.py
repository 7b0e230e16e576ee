"""The monitor: counts, shares and drift, from a data base of known content."""

import json
import time

import numpy as np
import pytest

from hilum.cli import main
from hilum.serving.app.database import DATABASE, Database
from hilum.serving.app.jobs import Jobs, JobSettings
from hilum.serving.watching.page import monitor_lines, monitor_page
from hilum.serving.watching.reference import TrainingReference
from hilum.serving.watching.watch import watch_file
from hilum.settings.toml import to_dict

DIGEST = "ab" * 32


def filled(folder, summaries, *, failed=0, reference=None):
    """A data base with these results, oldest first."""
    database = Database(folder)
    jobs = Jobs(database, longest=10_000)
    with database.change() as connection:
        text = json.dumps(to_dict(reference or TrainingReference()))
        connection.execute("INSERT INTO models VALUES (?, ?)", (DIGEST, text))
        for summary in [*summaries, *[None] * failed]:
            job = jobs.add(jobs.new_id(), model="net", settings=JobSettings(), num_bytes=1)
            jobs.take()
            if summary is None:
                jobs.end(job.id, "failed", code="unsafe-archive", reason="it holds a link")
            else:
                jobs.end(job.id, "done", summary=summary)
    database.close()
    return folder / DATABASE


def result(p=0.2, *, outcome="decided", codes=(), slice_mm=1.0, kernel="soft"):
    decision = outcome if outcome != "decided" else "mass" if p > 0.5 else "healthy"
    return {
        "digest": DIGEST, "decision": decision, "outcome": outcome, "codes": list(codes), "kernel": kernel,
        "probabilities": {"healthy": 1 - p, "mass": p}, "facts": {"slice_mm": slice_mm},
    }  # fmt: skip


def test_counts_and_shares_are_those_of_the_data_base(tmp_path):
    results = [result(0.1)] * 60 + [result(0.9)] * 20
    results += [result(outcome="no-result", codes=["unseen-spacing"])] * 15 + [result(outcome="undecided")] * 5
    reference = TrainingReference(shares={"mass": 0.25}, ranges={"slice_mm": (0.5, 2.0)}, kernels=("sharp",))
    watched = watch_file(filled(tmp_path / "data", results, failed=3, reference=reference))
    assert watched.states == {"done": 100, "failed": 3}
    assert watched.failures == {"unsafe-archive": 3}
    (model,) = watched.models
    assert (model.no_result.count, model.undecided.count, model.results) == (15, 5, 100)
    assert model.no_result.interval == pytest.approx((0.0931, 0.2328), abs=1e-4)  # Wilson, by hand
    assert model.reasons == {"unseen-spacing": 15}
    mass = next(one for one in model.outputs if one.name == "mass")
    assert mass.count == 85  # not of scans without a result
    assert mass.mean == pytest.approx((60 * 0.1 + 20 * 0.9 + 5 * 0.2) / 85)
    assert mass.training == 0.25
    assert any("kernel that training did not see" in note for note in model.notes)
    lines = "\n".join(monitor_lines(watched))
    assert "no-result 0.15 (0.09 to 0.23)" in lines
    page = monitor_page(watched)
    assert "not negative" in page
    assert "unseen-spacing" in page


def test_drift_is_said_and_steadiness_is_not(tmp_path):
    rng = np.random.default_rng(0)
    reference = TrainingReference(ranges={"slice_mm": (0.5, 2.0)})
    steady = [result(float(p)) for p in rng.beta(2, 8, 200)]
    (calm,) = watch_file(filled(tmp_path / "calm", steady, reference=reference)).models
    assert calm.notes == ()
    moved = steady[:150] + [result(float(p), slice_mm=5.0) for p in rng.beta(8, 2, 50)]
    (drifted,) = watch_file(filled(tmp_path / "moved", moved, reference=reference)).models
    assert any(note.startswith("the distance of slices: 50 of 200") for note in drifted.notes), drifted.notes
    assert any("probabilities of mass have changed" in note for note in drifted.notes)


def test_the_verb_prints_writes_a_page_and_looks_back_some_days(tmp_path, capsys):
    file = filled(tmp_path / "data", [result()] * 4)
    old = Database(tmp_path / "data")
    with old.change() as connection:
        connection.execute("UPDATE jobs SET created = ? WHERE number <= 3", (time.time() - 10 * 86400,))
    assert main(["monitor", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "page.html")]) == 0  # in use
    old.close()
    assert "model net (abababab): 4 results, 4 healthy" in capsys.readouterr().out
    assert "Model net" in (tmp_path / "page.html").read_text()
    assert main(["monitor", "--data", str(tmp_path / "data"), "--days", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][0]["results"] == 1
    assert main(["monitor", "--data", str(tmp_path / "nothing")]) == 1
    assert "there is no data base of a service" in capsys.readouterr().err
    assert not (tmp_path / "nothing").exists()
    file.write_bytes(b"no data base at all" * 100)
    assert main(["monitor", "--data", str(tmp_path / "data")]) == 1


def test_an_empty_data_base_is_shown_as_such(tmp_path, capsys):
    filled(tmp_path / "data", [])
    assert main(["monitor", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "page.html")]) == 0
    assert "jobs: none" in capsys.readouterr().out
