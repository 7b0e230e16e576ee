"""A recipe says where the grid lies, how fine it is and what lies outside; and what makes no sense is refused."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hilum.cli import main
from hilum.cli.train import Train
from hilum.cohorts.table import Cohort
from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.model_folder import ModelCard, build, save_model
from hilum.errors import ConfigError, PrepareError
from hilum.modelling.input import model_input
from hilum.planning.plan import plan
from hilum.predicting import Predictor
from hilum.preparing import (
    Store,
    load_sample,
    locate_lungs,
    lungs_from_mask,
    prepare,
    prepare_path,
    resample,
    sample,
    save_sample,
)
from hilum.settings.recipe import WINDOWS
from hilum.settings.run import CohortConfig, ModelConfig, Recipe, RunConfig
from hilum.settings.toml import from_dict, load, save, to_dict
from hilum.simulating import Scanner, simulate_scan
from hilum.volume import Volume, crop, reorient

SIX = {"spacing_mm": (6.0, 6.0, 6.0), "size": (48, 56, 64)}


@pytest.fixture(scope="module")
def chest():
    return simulate_scan(7, scanner=Scanner(pixel_mm=4.0, pixels=96, thickness_mm=6.0, increment_mm=6.0))


@pytest.fixture(scope="module")
def known(chest):
    """The lungs as the phantom has them: 1 right, 2 left."""
    volume, truth = chest
    mask = lungs_from_mask(volume, replace(volume, voxels_hu=(truth.lungs > 0).astype(np.int16)))
    labels = truth.lungs.astype(np.uint8)
    return replace(mask, labels=labels, field=labels, affine=volume.affine)


# settings


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fit": "region", "spacing_mm": (1.0,) * 3}, "given no spacing_mm or extent_mm with fit = region"),
        ({"fit": "region", "extent_mm": (9.0,) * 3}, "given no spacing_mm or extent_mm with fit = region"),
        ({"fit": "region", "region": "point"}, r"recipe\.fit must be fixed for region point"),
        ({"fit": "region", "sub_volumes": True}, r"recipe\.fit must be fixed with sub_volumes"),
        ({"sub_volumes": True, "region": "point"}, r"recipe\.sub_volumes must be false for region point"),
        ({"overlap": 0.25}, r"recipe\.overlap must be left at 0\.5 with sub_volumes = false"),
        ({"aggregate": "max"}, r"recipe\.aggregate must be left at mean with sub_volumes = false"),
        ({"sub_volumes": True, "overlap": 1.0}, r"recipe\.overlap must be at least 0 and below 1, got 1\.0"),
        ({"margin_mm": 5.0}, r"recipe\.margin_mm must be 0 unless fit = region, sub_volumes = true or outside_lungs"),
        ({"margin_mm": -1.0, "fit": "region"}, r"recipe\.margin_mm must be 0 to 1000, got -1\.0"),
        ({"outside_lungs": "air", "region": "point"}, r"recipe\.outside_lungs must be keep for region point"),
        ({"windows_hu": ("lng",)}, "one of lung, mediastinum, bone"),
        ({"windows_hu": ((float("nan"), 3.0),)}, "low first"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_settings_that_make_no_sense_together_are_refused(settings, message):
    if settings.get("windows_hu") == ("lng",):  # the tests' type checker would be first
        with pytest.raises(ConfigError, match=message):
            from_dict(Recipe, {"windows_hu": ["lng"]})
        return
    with pytest.raises(ConfigError, match=message):
        Recipe(**settings)


@pytest.mark.parametrize("region", ["lungs", "lung-field", "left", "right"])
def test_what_lies_beyond_any_part_of_the_lungs_can_be_air(region):
    assert Recipe(region=region, outside_lungs="air", margin_mm=3.0, spacing_mm=(2.0,) * 3).part == region


def test_windows_come_by_name_from_toml_and_flags_and_go_back(tmp_path):
    (tmp_path / "c.toml").write_text('[recipe]\nwindows_hu = ["lung", [-160, 240], "bone"]\n')
    config = load(tmp_path / "c.toml")
    assert config.recipe.windows == ((-1000.0, 400.0), (-160.0, 240.0), (-500.0, 1300.0))
    assert config.recipe.num_channels == 3
    save(config, tmp_path / "again.toml")
    assert load(tmp_path / "again.toml") == config
    words = ["c.toml", "--recipe.windows-hu", "mediastinum", "-500", "1300"]
    got = Train(source=tmp_path / "c.toml").with_file([str(tmp_path / "c.toml"), *words[1:]]).settings.recipe
    assert got.windows == (WINDOWS["mediastinum"], WINDOWS["bone"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('windows_hu = ["lng"]', r"recipe\.windows_hu must be one of lung, mediastinum, bone, got 'lng'"),
        ("windows_hu = [3]", r"recipe\.windows_hu must be a list or one of lung, mediastinum, bone, got 3"),
        ("windows_hu = [[1, 2, 3]]", r"recipe\.windows_hu must be a list of 2, got \[1, 2, 3\]"),
        ('windows_hu = "lung"', r"recipe\.windows_hu must be a list, got 'lung'"),
    ],
)
def test_a_window_that_is_neither_is_named(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(f"[recipe]\n{text}\n")
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "c.toml")


def test_a_model_stores_windows_as_numbers_and_the_store_does_not_care(tmp_path, chest):
    named, numbers = Recipe(**SIX, windows_hu=("lung",)), Recipe(**SIX, windows_hu=((-1000.0, 400.0),))
    assert to_dict(named.in_numbers) == to_dict(numbers)
    chest[0].write(tmp_path / "scan.nii")
    store = Store(tmp_path / "store")
    assert store.fetch(tmp_path / "scan.nii", named).file == store.fetch(tmp_path / "scan.nii", numbers).file


# the grid


@pytest.mark.parametrize("region", ["lungs", "lung-field", "left", "right"])
def test_the_grid_is_centred_on_the_part_that_the_region_names(chest, known, region):
    volume, truth = chest
    labels = {"left": truth.lungs == 2, "right": truth.lungs == 1}.get(region, truth.lungs > 0)
    points = volume.index_to_mm(np.argwhere(labels))
    got = prepare(volume, Recipe(region=region, **SIX), lungs=known)
    assert got.centre_mm == pytest.approx((points.min(axis=0) + points.max(axis=0)) / 2)


@pytest.mark.parametrize("region", ["lungs", "left", "whole"])
@pytest.mark.parametrize("margin_mm", [0.0, 15.0])
def test_a_fitted_grid_just_holds_the_box_and_its_margin_at_one_scale(chest, region, margin_mm):
    """Defect 7: the tutorial squeezes each axis by another factor."""
    volume, _ = chest
    got = prepare(volume, Recipe(region=region, size=(40, 32, 48), fit="region", margin_mm=margin_mm))
    assert got.shape == (40, 32, 48)
    assert len(set(got.spacing_mm)) == 1
    box = np.abs(volume.affine[:3, :3]) @ volume.shape
    if region != "whole":
        lower, upper = locate_lungs(volume).box_mm(region)
        box = upper - lower
    filled = (box[::-1] + 2 * margin_mm) / got.extent_mm
    assert filled.max() == pytest.approx(1, abs=1e-6)


def test_fitted_grids_of_small_and_large_chests_differ_in_spacing(chest):
    volume, _ = chest
    large = replace(volume, affine=volume.affine @ np.diag([1.3, 1.3, 1.3, 1.0]))
    recipe = Recipe(region="whole", size=(32, 32, 32), fit="region")
    small, big = prepare(volume, recipe), prepare(large, recipe)
    assert big.spacing_mm[0] == pytest.approx(1.3 * small.spacing_mm[0])
    assert np.abs(big.voxels_hu.astype(int) - small.voxels_hu).max() <= 1


def test_a_spacing_that_differs_by_case_is_no_setting():
    with pytest.raises(ConfigError, match="each sample has a spacing of its own"):
        _ = Recipe(fit="region").grid_spacing_mm
    Recipe(fit="region").check_complete()
    with pytest.raises(ConfigError, match="has neither"):
        Recipe().check_complete()


def test_a_prediction_tells_the_box_of_its_own_sample(tmp_path, chest):
    recipe = Recipe(region="whole", size=(8, 8, 8), fit="region")
    config = ModelConfig(depth=10, width=2, stem="small")
    card = ModelCard(model=config, recipe=recipe, decisions=Decisions(classes=("0", "1")), training={})
    save_model(tmp_path / "model", build(config, recipe, 2), card)
    got = Predictor(tmp_path / "model", device="cpu").predict(chest[0]).geometry
    sizes = np.diff(got["box_lps_mm"], axis=0)[0]
    assert sizes == pytest.approx(np.array(got["spacing_zyx_mm"])[::-1] * 8, abs=0.01)


def test_the_interpolation_of_the_recipe_is_used(chest):
    volume, _ = chest
    kinds = {
        kind: prepare(
            volume, Recipe(region="whole", size=(30, 60, 60), extent_mm=(210.0, 270.0, 270.0), interpolation=kind)
        )
        for kind in ("linear", "cubic", "nearest")
    }
    assert not np.array_equal(kinds["linear"].voxels_hu, kinds["cubic"].voxels_hu)
    assert set(np.unique(kinds["nearest"].voxels_hu)) <= set(np.unique(volume.voxels_hu.clip(-1024, 3071))) | {-1000}


# the lungs


def test_a_margin_is_kept_around_the_lungs_where_the_rest_becomes_air(chest, known):
    volume, _ = chest
    recipe = Recipe(region="lungs", **SIX, outside_lungs="air")
    bare = prepare(volume, recipe, lungs=known)
    wide = prepare(volume, replace(recipe, margin_mm=12.0), lungs=known)
    kept = prepare(volume, replace(recipe, outside_lungs="keep"), lungs=known)
    from scipy.ndimage import distance_transform_edt

    mask = prepare(volume, replace(recipe, outside_lungs="keep", lung_channel=True), lungs=known).lungs > 0
    distance = distance_transform_edt(~mask, sampling=(6.0, 6.0, 6.0))
    assert np.array_equal(bare.voxels_hu, np.where(distance == 0, kept.voxels_hu, -1000))
    assert np.array_equal(wide.voxels_hu, np.where(distance <= 12, kept.voxels_hu, -1000))


def test_the_lungs_lie_in_the_sample_where_they_lie_in_the_scan(chest, known):
    volume, truth = chest
    for region, labels in (("lungs", (1, 2)), ("whole", (1, 2))):
        got = prepare(volume, Recipe(region=region, **SIX, lung_channel=True), lungs=known)
        inside = Volume(voxels_hu=np.isin(truth.lungs, labels).astype(np.float32), affine=volume.affine)
        share = sample(inside, got.affine, got.shape, air=0.0)
        assert got.lungs.dtype == np.uint8
        assert np.array_equal(got.lungs, share >= 0.5)


def test_one_lung_alone_is_the_channel_of_its_region(chest, known):
    volume, truth = chest
    got = prepare(volume, Recipe(region="left", **SIX, lung_channel=True), lungs=known)
    assert got.lungs.any()
    where = np.rint(volume.mm_to_index(got.index_to_mm(np.argwhere(got.lungs)))).astype(int)
    on_scan = where[(where >= 0).all(axis=1) & (where < volume.shape).all(axis=1)]
    assert (truth.lungs[tuple(on_scan.T)] == 1).mean() < 0.02


def test_without_lungs_points_and_whole_scans_have_an_empty_channel_and_lungs_are_refused():
    water = Volume(voxels_hu=np.zeros((20, 20, 20), np.int16), affine=np.diag([10.0, 10, 10, 1])[[2, 1, 0, 3]])
    for region in ("whole", "point"):
        got = prepare(water, Recipe(region=region, **SIX, lung_channel=True), point_mm=water.centre_mm)
        assert not got.lungs.any()
        (found,) = [f for f in got.findings if f.code == "no-lungs"]
        assert found.severity == "note"
    for region in ("lungs", "lung-field", "left", "right"):
        with pytest.raises(PrepareError, match=r"no-lungs \(refused\)"):
            prepare(water, Recipe(region=region, **SIX))


def test_a_lung_that_is_not_there_is_refused_by_name(chest, known):
    alone = replace(known, labels=np.where(known.labels == 1, 1, 0).astype(np.uint8))
    with pytest.raises(PrepareError, match=r"no-lungs \(refused\): no left lung found"):
        prepare(chest[0], Recipe(region="left", **SIX), lungs=alone)


def test_lungs_come_from_a_function_where_one_is_given(chest, known):
    volume, _ = chest
    recipe = Recipe(region="lungs", **SIX, lung_channel=True)
    asked = []
    got = prepare(volume, recipe, lungs=lambda scan: asked.append(scan) or known)
    assert asked == [volume]
    assert np.array_equal(got.lungs, prepare(volume, recipe, lungs=known).lungs)
    with pytest.raises(ConfigError, match="only where the recipe looks for them, it is of region whole"):
        prepare(volume, Recipe(region="whole", **SIX), lungs=known)


def test_the_lungs_of_a_sample_are_cropped_turned_resampled_and_stored_with_it(tmp_path, chest, known):
    volume, _ = chest
    got = prepare(volume, Recipe(region="lungs", **SIX, lung_channel=True), lungs=known)
    part = crop(got, (5, 6, 7), (30, 31, 32))
    assert np.array_equal(part.lungs, got.lungs[5:30, 6:31, 7:32])
    flipped = replace(
        got, voxels_hu=got.voxels_hu[::-1], lungs=got.lungs[::-1],
        affine=got.affine @ np.array([[-1.0, 0, 0, 47], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]),
    )  # fmt: skip
    assert np.array_equal(reorient(flipped).lungs, got.lungs)
    coarse = resample(got, (12.0, 12.0, 12.0))
    assert coarse.lungs.shape == coarse.shape
    assert coarse.lungs.sum() * 8 == pytest.approx(got.lungs.sum(), rel=0.1)
    save_sample(got, tmp_path / "x.safetensors")
    assert np.array_equal(load_sample(tmp_path / "x.safetensors").lungs, got.lungs)


def test_a_changed_byte_in_the_stored_lungs_is_damage(tmp_path, chest, known):
    got = prepare(chest[0], Recipe(region="lungs", **SIX, lung_channel=True), lungs=known)
    path = tmp_path / "x.safetensors"
    save_sample(got, path)
    spoiled = bytearray(path.read_bytes())
    place = bytes(spoiled).index(got.lungs.tobytes())
    spoiled[place + got.lungs.size // 2] ^= 1
    path.write_bytes(spoiled)
    with pytest.raises(PrepareError, match="damaged"):
        load_sample(path)


# the lungs on their way into the network


def test_the_lungs_are_the_last_channel_of_the_input_and_the_network_has_room_for_it():
    recipe = Recipe(**SIX, windows_hu=("lung", "bone"), lung_channel=True)
    x = torch.stack([torch.full((4, 4, 4), -300.0), torch.ones(4, 4, 4)])[None]
    got = model_input(x, recipe.windows)
    assert got.shape == (1, 3, 4, 4, 4)
    assert got[0, :, 0, 0, 0].tolist() == pytest.approx([0.5, 200 / 1800, 1])
    assert build(ModelConfig(depth=10, width=2, stem="small"), recipe, 2).eval()(got).shape == (1, 2)


# masks of other programs


@pytest.fixture
def masked(tmp_path, chest):
    """A scan, and a mask of its right lung alone, on a coarser grid."""
    volume, truth = chest
    volume.write(tmp_path / "scan.nii")
    mask = resample(replace(volume, voxels_hu=(truth.lungs == 1).astype(np.int16)), (8.0, 8.0, 8.0), outside="edge")
    right = replace(mask, voxels_hu=(mask.voxels_hu > 0.5).astype(np.int16))
    right.write(tmp_path / "mask.nii.gz")
    return tmp_path, right


def test_a_mask_in_the_table_decides_where_the_lungs_are_and_is_part_of_the_key(masked, chest):
    folder, right = masked
    (folder / "t.csv").write_text("case_id,path,label,mask,site\na,scan.nii,0,mask.nii.gz,A\nb,scan.nii,1,,B\n")
    (folder / "c.csv").write_text("path,label,lungmask,case_id\nscan.nii,0,mask.nii.gz,a\n")
    cohort = Cohort.read(folder / "t.csv", CohortConfig())
    assert cohort.cases[0].mask == folder / "mask.nii.gz"
    assert cohort.cases[1].mask is None
    assert cohort.cases[0].groups == {"site": "A"}
    columns = replace(CohortConfig().columns, mask="lungmask")
    assert Cohort.read(folder / "c.csv", CohortConfig(columns=columns)).cases[0].mask == folder / "mask.nii.gz"
    store, recipe = Store(folder / "store"), Recipe(region="lungs", **SIX, lung_channel=True)
    path, got, _ = store.fetch(folder / "scan.nii", recipe, mask=folder / "mask.nii.gz")
    where = right.index_to_mm(np.argwhere(right.voxels_hu))
    assert np.abs(got.centre_mm - (where.min(axis=0) + where.max(axis=0)) / 2).max() < 0.1
    assert got.lungs.sum() * 216 == pytest.approx(right.voxels_hu.sum() * 512, rel=0.05)
    without = store.fetch(folder / "scan.nii", recipe).file
    (folder / "mask.nii.gz").unlink()
    replace(right, voxels_hu=np.roll(right.voxels_hu, 1, axis=0)).write(folder / "mask.nii.gz")
    changed = store.fetch(folder / "scan.nii", recipe, mask=folder / "mask.nii.gz").file
    assert len({path, without, changed}) == 3
    whole = Recipe(region="whole", **SIX)
    assert (
        store.fetch(folder / "scan.nii", whole, mask=folder / "mask.nii.gz").file
        == store.fetch(folder / "scan.nii", whole).file
    )


def test_a_mask_that_cannot_be_used_is_refused_in_one_line(masked, chest):
    folder, right = masked
    recipe = Recipe(region="lungs", **SIX)
    (folder / "broken.nii").write_bytes(b"broken")
    moved = right.affine.copy()
    moved[0, 3] += 2000
    replace(right, affine=moved).write(folder / "far.nii")
    for name, says in (
        ("nowhere.nii", r"nowhere\.nii: the mask cannot be used: "),
        ("broken.nii", r"broken\.nii: the mask cannot be used: "),
        ("far.nii", r"far\.nii: a mask must lie on its scan"),
    ):
        with pytest.raises(PrepareError, match=says) as caught:
            prepare_path(folder / "scan.nii", recipe, mask=folder / name)
        assert "\n" not in str(caught.value)


def test_an_empty_mask_is_no_lungs(masked):
    folder, right = masked
    replace(right, voxels_hu=np.zeros_like(right.voxels_hu)).write(folder / "empty.nii")
    with pytest.raises(PrepareError, match="no-lungs"):
        prepare_path(folder / "scan.nii", Recipe(region="lungs", **SIX), mask=folder / "empty.nii")


def test_predict_takes_a_mask_for_models_that_look_for_lungs_only(masked, capsys):
    folder, _ = masked
    config = ModelConfig(depth=10, width=2, stem="small")
    for region in ("lungs", "whole"):
        recipe = Recipe(region=region, size=(12, 12, 12), fit="region")
        card = ModelCard(
            model=config,
            recipe=recipe,
            decisions=Decisions(classes=("0", "1"), each=(Decision(threshold=0.5),)),
            training={},
        )
        save_model(folder / region, build(config, recipe, 2), card)
    words = [str(folder / "scan.nii"), "--mask", str(folder / "mask.nii.gz"), "--json"]
    assert main(["predict", str(folder / "lungs"), *words]) == 0
    masked_box = json.loads(capsys.readouterr().out)["geometry"]["box_lps_mm"]
    assert main(["predict", str(folder / "lungs"), words[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["geometry"]["box_lps_mm"] != masked_box
    assert main(["predict", str(folder / "whole"), *words]) == 1
    assert "a mask is for models that look for the lungs, this one is of region whole" in capsys.readouterr().err
    np.save(folder / "x.npy", np.zeros((12, 12, 12), np.float32))
    assert main(["predict", str(folder / "lungs"), str(folder / "x.npy"), *words[1:]]) == 1
    assert "a mask needs a scan; " in capsys.readouterr().err
    (folder / "t.csv").write_text("path\nscan.nii\n")
    table = [str(folder / "t.csv"), "--out", str(folder / "p.csv")]
    assert main(["predict", str(folder / "lungs"), *table, "--mask", words[2]]) == 1
    assert "--mask is for one scan; a table has a column for it" in capsys.readouterr().err


def test_a_table_with_a_bad_mask_refuses_that_case_and_names_the_mask(masked, capsys):
    folder, _ = masked
    recipe = Recipe(region="lungs", size=(12, 12, 12), fit="region")
    config = ModelConfig(depth=10, width=2, stem="small")
    card = ModelCard(
        model=config,
        recipe=recipe,
        decisions=Decisions(classes=("0", "1"), each=(Decision(threshold=0.5),)),
        training={},
    )
    save_model(folder / "model", build(config, recipe, 2), card)
    (folder / "t.csv").write_text("case_id,path,mask\na,scan.nii,mask.nii.gz\nb,scan.nii,gone.nii\n")
    assert main(["predict", str(folder / "model"), str(folder / "t.csv"), "--out", str(folder / "p.csv")]) == 3
    with (folder / "p.refused.csv").open(newline="") as file:
        (row,) = list(csv.DictReader(file))
    assert row["case_id"] == "b"
    assert "the mask cannot be used" in row["reason"]
    assert str(folder) not in row["reason"]
    capsys.readouterr()


# the planner


def test_a_plan_leaves_a_fitted_recipe_alone(tmp_path, chest):
    chest[0].write(tmp_path / "scan.nii")
    rows = [f"scan.nii,{i % 2},c{i}" for i in range(4)]
    (tmp_path / "t.csv").write_text("\n".join(["path,label,case_id", *rows]) + "\n")
    for recipe in (
        Recipe(region="left", fit="region", size=(24, 24, 24), margin_mm=5.0),
        Recipe(sub_volumes=True, spacing_mm=(4.0, 4.0, 4.0), size=(16, 16, 16)),
    ):
        cohort = Cohort.read(tmp_path / "t.csv", CohortConfig())
        made = plan(cohort, replace(RunConfig(), recipe=recipe))
        assert made.config.recipe == recipe
        assert sum(reason.startswith("recipe:") for reason in made.reasons) == 1
