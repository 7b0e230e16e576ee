"""The simulation behind the coverage of intervals has the truth that it states, and goes on where it ended."""

import json
import subprocess
import sys
from pathlib import Path

import interval_coverage
import numpy as np
import pytest
from interval_coverage import CELLS, Cell, run_chunk, simulate

from hilum.measuring.agreement import calibration_line
from hilum.measuring.metrics import roc_auc
from hilum.measuring.roc_variance import mid_ranks

SCRIPT = Path(interval_coverage.__file__)


def test_simulated_cases_have_the_stated_prevalence_auc_sensitivity_and_calibration():
    cell = Cell(auc=0.9, patients=200_000, prevalence=0.3)
    study = simulate(cell, np.random.default_rng(0))
    positive, patients = study.y == 1, np.array(study.patients)
    assert positive.mean() == pytest.approx(0.3, abs=0.005)
    for p in (study.first, study.second):
        assert roc_auc(study.y, p) == pytest.approx(0.9, abs=0.003)
        assert (p[positive] >= study.threshold).mean() == pytest.approx(0.8, abs=0.005)
        assert calibration_line(study.y, p) == pytest.approx((0, 1), abs=0.02)
    of_one = patients[1:] == patients[:-1]
    pairs = np.flatnonzero(of_one)
    assert np.corrcoef(study.y[pairs], study.y[pairs + 1])[0, 1] == pytest.approx(0.5, abs=0.01)
    ranks = [mid_ranks(p[~positive]) for p in (study.first, study.second)]
    assert 0.4 < np.corrcoef(*ranks)[0, 1] < 0.5, "a correlation of 0.5, a little less of ranks"


def test_counts_do_not_depend_on_how_studies_are_divided():
    cell = CELLS[2]
    whole, parts = run_chunk(cell, 0, 6, 0), [run_chunk(cell, 0, 2, 0), run_chunk(cell, 2, 6, 0)]
    assert cell.patients == 120
    assert whole == {name: sum(part.get(name, 0) for part in parts) for name in whole}
    assert whole["slope there"] + whole["slope missing"] == 6


def test_it_goes_on_from_what_is_written_and_refuses_other_settings(tmp_path):
    out = tmp_path / "out.json"

    def run(*words):
        done = subprocess.run([sys.executable, SCRIPT, "--quick", "--out", out, *words], capture_output=True, text=True)
        return done.returncode, done.stderr

    assert run() == (0, "")
    first = json.loads(out.read_text())
    again = first | {"cells": dict(list(first["cells"].items())[:-1])}
    out.write_text(json.dumps(again))
    assert run() == (0, "")
    done = json.loads(out.read_text())
    assert done["cells"] == first["cells"]
    assert done["cells"][CELLS[0].name]["counts"]["auc there"] == 10
    code, said = run("--seed", "1")
    assert code == 1
    assert "has other settings" in said
