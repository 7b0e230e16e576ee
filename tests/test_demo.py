import json
from dataclasses import replace
from functools import partial

import pytest

import hilum.demo
from hilum.demo import demo
from hilum.simulating import simulate_cohort


@pytest.mark.slow  # .ci/run runs the whole demo
def test_the_demo_goes_the_whole_way(tmp_path, monkeypatch, caplog):
    """From DICOM series to figures and a prediction; few of everything, since the demo itself is run in CI."""
    config = hilum.demo._config

    def short(table, seed):
        made = config(table, seed)
        model = replace(made.model, depth=10, width=4)
        return replace(made, model=model, training=replace(made.training, epochs=2))

    monkeypatch.setattr(hilum.demo, "_config", short)
    monkeypatch.setattr(hilum.demo, "simulate_cohort", partial(simulate_cohort, pixel_mm=6.0, workers=1))
    with caplog.at_level("INFO", "hilum"):
        answer = demo(tmp_path / "demo", num_cases=15)
    folder = tmp_path / "demo"
    assert len(list((folder / "scans").iterdir())) == 15
    assert next((folder / "scans").rglob("*.dcm")).read_bytes()[128:132] == b"DICM"
    assert {"config.toml", "cohort.csv", "run", "store", "new", "scans"} == {path.name for path in folder.iterdir()}
    assert json.loads((folder / "run" / "evaluation" / "evaluation.json").read_text())["auc"] == answer["auc"]
    assert "the mean HU of the lungs alone" in caplog.text
    assert f"report: {folder / 'run' / 'evaluation' / 'report.html'}" in caplog.text
