"""A prediction is a decision only where the scan allows one."""

import numpy as np
import pytest

import hilum
from dicom_files import scan_hu, write_series
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.table import Cohort
from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.model_folder import ModelCard, build, save_model
from hilum.errors import GeometryError, ResourceError
from hilum.predicting import Predictor, predict_prepared
from hilum.preparing import Store
from hilum.reading.reader import read
from hilum.settings.run import ModelConfig, ReadingConfig, Recipe

RECIPE = Recipe(region="point", size=(4, 4, 4), spacing_mm=(1.0, 1.0, 1.0), outside="edge")


def _model(folder, reading: ReadingConfig):
    config = ModelConfig(depth=10, width=2, stem="small")
    card = ModelCard(
        model=config,
        recipe=RECIPE,
        reading=reading,
        decisions=Decisions(classes=("0", "1"), each=(Decision(threshold=0.5),)),
        training={},
    )
    save_model(folder, build(config, RECIPE, 2), card)
    return folder


@pytest.fixture
def scan(tmp_path):
    """Twenty-four slices with the eighth missing."""
    paths = write_series(tmp_path / "scan", scan_hu(24), step_mm=(0, 0, 2.0))
    paths[7].unlink()
    return tmp_path / "scan"


def test_a_point_in_a_slice_that_was_missing_has_no_result_and_one_beside_it_has(tmp_path, scan):
    predictor = Predictor(_model(tmp_path / "model", ReadingConfig()), device="cpu")
    volume = read(scan)
    assert volume.interpolated == ((0, 7),)
    decisions = {}
    for z in (5.6, 6.4, 6.6, 7.0, 7.4, 7.6):
        prediction = predictor.predict(scan, point_mm=volume.index_to_mm((z, 3, 4)))
        decisions[z] = prediction.decision
        if prediction.decision == "no-result":
            assert prediction.outcome.codes == ("point-interpolated",)
            assert prediction.outcome.reason == "the point lies in a missing slice, interpolated from its neighbours"
    assert [z for z, decision in decisions.items() if decision == "no-result"] == [6.6, 7.0, 7.4]


def test_a_model_keeps_the_policy_that_it_was_trained_with(tmp_path, scan):
    strict = Predictor(_model(tmp_path / "strict", ReadingConfig(policy="strict")), device="cpu")
    assert strict.card.reading.policy == "strict"
    with pytest.raises(GeometryError, match=r"missing-slices \(refused\)"):
        strict.predict(scan, point_mm=np.zeros(3))


def test_as_many_cases_are_predicted_at_once_as_the_memory_allows(trained_run, npy_cohort, monkeypatch):
    """A network that was trained on few cases at once must be judged on the same machine."""
    predictor, sizes = hilum.Predictor(trained_run), []
    cohort = Cohort.read(npy_cohort / "cohort.csv")
    samples = prepare_cohort(cohort, predictor.card.recipe, Store(npy_cohort / "store"))
    whole = list(predict_prepared(predictor, samples))
    predict = Predictor.predict_samples

    def within_three(self, batch):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise ResourceError
        return predict(self, batch)

    monkeypatch.setattr(Predictor, "predict_samples", within_three)
    parts = list(predict_prepared(predictor, samples))
    assert sizes == [16, 8, 4] + [2] * 30
    assert [p.probabilities["1"] for p in parts] == pytest.approx([p.probabilities["1"] for p in whole], abs=1e-6)
    monkeypatch.setattr(Predictor, "predict_samples", lambda *_: (_ for _ in ()).throw(ResourceError()))
    with pytest.raises(ResourceError):
        next(predict_prepared(predictor, samples))
