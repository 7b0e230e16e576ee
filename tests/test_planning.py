import sys
from dataclasses import replace

import numpy as np
import pytest

from hilum.cohorts.table import Cohort
from hilum.errors import CohortError
from hilum.planning.plan import draft, plan
from hilum.planning.resources import training_memory
from hilum.settings.run import CohortConfig, RunConfig
from hilum.simulating import plan_cohort, simulate_case, simulate_cohort
from hilum.volume import crop


@pytest.fixture(scope="module")
def chests(tmp_path_factory):
    """A table of ten simulated chests on coarse pixels, two of them diseased."""
    return simulate_cohort(tmp_path_factory.mktemp("chests"), num_cases=10, seed=1, pixel_mm=6.0, workers=1)


@pytest.fixture(autouse=True, scope="module")
def _scans_are_looked_at_once():
    """What a plan measures on the scans is the same however often a table is planned."""
    planning, known = sys.modules["hilum.planning.plan"], {}
    looked_at = planning.fingerprint

    def once(cohort, part, reading):
        key = (*(case.path for case in cohort.cases), part, reading)
        if key not in known:
            known[key] = looked_at(cohort, part, reading)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "fingerprint", once)
        yield


def planned(table, **settings):
    cohort = Cohort.read(table, CohortConfig())
    return plan(cohort, draft(cohort, RunConfig()), **settings)


def test_whole_chests_are_planned_around_the_lungs_and_fit_into_the_grid(chests):
    made = planned(chests)
    recipe = made.config.recipe
    assert recipe.region == "lungs"
    assert np.prod(recipe.size) <= 1.5 * 64**3
    assert all(150 < extent < 450 for extent in recipe.grid_extent_mm)
    assert any(reason.startswith("recipe: the lungs of 9 scans in 10 fit into") for reason in made.reasons)


def test_a_gpu_gets_a_finer_grid_and_a_wider_network(chests):
    small, large = planned(chests), planned(chests, gpu=True)
    assert large.config.recipe.grid_spacing_mm[0] < small.config.recipe.grid_spacing_mm[0]
    assert large.config.model.width > small.config.model.width


def test_the_sample_size_is_said_and_too_few_positives_are_a_warning(chests):
    made = planned(chests)
    assert any("can show an AUC to +-" in reason for reason in made.reasons)
    assert any("too few to judge a classifier" in warning for warning in made.warnings)


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """A table of crops around points, of several lengths, as sets of nodules have them."""
    folder = tmp_path_factory.mktemp("crops")
    chest = simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=3.0)[0]
    rows = ["path,label,x_mm,y_mm,z_mm,diameter_mm"]
    for i in range(12):
        half = 2 + i % 3
        z, y, x = (n // 2 for n in chest.shape)
        part = crop(chest, (z - half, y - 6, x - 6), (z + half, y + 6, x + 6))
        part.write(folder / f"{i}.nii.gz")
        x, y, z = part.centre_mm
        rows.append(f"{i}.nii.gz,{i % 2},{x},{y},{z},2.0")
    (folder / "t.csv").write_text("\n".join(rows) + "\n")
    return folder / "t.csv"


def test_points_in_the_table_are_planned_as_points_within_what_the_crops_hold(crops):
    made = planned(crops)
    recipe = made.config.recipe
    assert recipe.region == "point"
    assert recipe.outside == "edge"
    assert recipe.grid_extent_mm[0] <= 20
    assert recipe.grid_extent_mm[1] <= 36
    assert any("the network cannot learn from where a crop ends" in reason for reason in made.reasons)


def test_a_target_that_the_grid_hardly_shows_is_a_warning(crops):
    assert any("the median target of 2.0 mm spans" in warning for warning in planned(crops).warnings)


def test_a_region_asked_for_is_kept(crops):
    cohort = Cohort.read(crops, CohortConfig())
    config = RunConfig()
    made = plan(cohort, replace(config, recipe=replace(config.recipe, region="whole")))
    assert made.config.recipe.region == "whole"


@pytest.mark.parametrize(("positives", "loss"), [(3, "focal"), (10, "cross-entropy"), (20, "cross-entropy")])
def test_the_loss_follows_the_share_of_the_rarest_class(tmp_path, monkeypatch, positives, loss):
    """Where nothing is measured, by the tutorial's rule."""
    monkeypatch.setattr("hilum.planning.advise.EVIDENCE", ())
    for i in range(40):
        np.save(tmp_path / f"{i}.npy", np.zeros((8, 8, 8), np.float32))
    rows = [f"c{i},{i}.npy,{int(i < positives)}" for i in range(40)]
    (tmp_path / "t.csv").write_text("\n".join(["case_id,path,label", *rows]) + "\n")
    made = planned(tmp_path / "t.csv").config
    assert made.loss.name == loss
    assert (made.loss.class_weights == "none") == (positives == 20)


@pytest.mark.parametrize(("num_cases", "epochs"), [(40, 100), (200, 44), (4000, 20)])
def test_epochs_make_400_steps_of_the_training_part_within_20_to_100(tmp_path, num_cases, epochs):
    np.save(tmp_path / "0.npy", np.zeros((8, 8, 8), np.float32))
    rows = [f"c{i},0.npy,{i % 2}" for i in range(num_cases)]
    (tmp_path / "t.csv").write_text("\n".join(["case_id,path,label", *rows]) + "\n")
    made = planned(tmp_path / "t.csv").config
    num_train = num_cases * (1 - made.split.val - made.split.test)
    assert made.training.epochs == epochs
    if epochs not in (20, 100):
        assert epochs * num_train / made.training.batch_size == pytest.approx(400, rel=0.05)


def test_a_table_of_unreadable_scans_is_an_error(tmp_path):
    (tmp_path / "t.csv").write_text("path,label\na.nii,0\nb.nii,1\n")
    with pytest.raises(CohortError, match=r"none of the 2 scans looked at can be read; the last: .*no file or folder"):
        planned(tmp_path / "t.csv")


def test_a_planned_batch_fits_into_the_memory_there_is(chests, monkeypatch):
    free = planned(chests)
    assert not any(reason.startswith("memory:") for reason in free.reasons)
    limit = 0.8 * training_memory(free.config, 2).total
    monkeypatch.setattr(sys.modules["hilum.planning.plan"], "usable_bytes", lambda device: limit)
    made = planned(chests)
    assert training_memory(made.config, 2).total <= limit
    assert made.config.training.batch_size == free.config.training.batch_size
    assert any(reason.startswith("memory: ") and "cases at a time" in reason for reason in made.reasons)
    monkeypatch.setattr(sys.modules["hilum.planning.plan"], "usable_bytes", lambda device: 1e5)
    assert any("training does not fit into" in warning for warning in planned(chests).warnings)
