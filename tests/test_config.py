"""Settings come from TOML and go back, and what is not allowed is said by name."""

import dataclasses
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hilum.deciding.tta import Views
from hilum.errors import ConfigError
from hilum.settings.augmentation import PresetName
from hilum.settings.document import commented_toml
from hilum.settings.presets import preset
from hilum.settings.run import (
    CohortConfig,
    DecisionConfig,
    LossConfig,
    ModelConfig,
    Recipe,
    RunConfig,
    SpeedConfig,
    SplitConfig,
    TrainingConfig,
)
from hilum.settings.toml import from_dict, load, relative_to, save, to_dict

positive = st.floats(0.25, 100, allow_nan=False)
sizes = st.tuples(*[st.integers(1, 200)] * 3)
window = st.sampled_from(["lung", "mediastinum", "bone"]) | st.tuples(st.floats(-1024, 0), st.floats(1, 3000))
windows = st.lists(window, min_size=1, max_size=3).map(tuple)


@st.composite
def recipes(draw):
    given_as = draw(st.sampled_from(["spacing_mm", "extent_mm"]))
    region = draw(st.sampled_from(["lungs", "lung-field", "left", "right", "point", "whole"]))
    is_part = region not in ("point", "whole")
    sub_volumes = region != "point" and draw(st.booleans())
    return {
        "region": region,
        "size": draw(sizes),
        "windows_hu": draw(windows),
        "outside": draw(st.sampled_from(["air", "edge"])),
        "outside_lungs": draw(st.sampled_from(["keep", "air"])) if is_part else "keep",
        "interpolation": draw(st.sampled_from(["linear", "cubic", "nearest"])),
        "lung_channel": draw(st.booleans()),
        "sub_volumes": sub_volumes,
        "overlap": draw(st.floats(0, 0.9)) if sub_volumes else 0.5,
        "margin_mm": draw(st.floats(0, 30)) if sub_volumes else 0.0,
        given_as: draw(st.tuples(positive, positive, positive)),
    }


@given(recipes(), st.sampled_from(get_args(PresetName)), st.integers(0, 10**9))
def test_a_config_written_as_toml_is_read_back_as_it_was(tmp_path_factory, settings, name, seed):
    path = tmp_path_factory.getbasetemp() / "config.toml"
    config = RunConfig(
        recipe=Recipe(**settings),
        augment=preset(name, Recipe(**settings)),
        training=TrainingConfig(seed=seed),
        speed=SpeedConfig(precision="bf16"),
        cohort=CohortConfig(table="a  b.csv", classes=("healthy", "krank,  \n ü")),
    )
    save(config, path)
    assert relative_to(load(path), path.parent) == config
    path.write_text(commented_toml(config), encoding="utf-8")
    assert relative_to(load(path), path.parent) == config


@given(recipes())
def test_spacing_times_size_is_the_extent_however_the_box_is_given(settings):
    recipe = Recipe(**settings)
    for extent, spacing, size in zip(recipe.grid_extent_mm, recipe.grid_spacing_mm, recipe.size, strict=True):
        assert extent == pytest.approx(spacing * size)
    if recipe.extent_mm is not None:
        assert recipe.grid_extent_mm == pytest.approx(recipe.extent_mm)


def test_an_empty_file_is_the_default_config(tmp_path):
    (tmp_path / "c.toml").write_text("")
    assert relative_to(load(tmp_path / "c.toml"), tmp_path) == RunConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[training]\nepoch = 3", r"c\.toml: unknown setting training\.epoch; known are: epochs, batch_size"),
        ("[recip]\nsize = [1, 1, 1]", r"unknown setting recip; known are: cohort, reading, split"),
        ("[cohort.columns]\nfile = 'a'", r"unknown setting cohort\.columns\.file; known are: case_id, path"),
        ("training = 3", r"training must be a table, got 3"),
        ("[training]\nepochs = 'ten'", r"training\.epochs must be of type int, got 'ten'"),
        ("[training]\nepochs = 1.5", r"training\.epochs must be of type int, got 1\.5"),
        ("[training]\nepochs = true", r"training\.epochs must be of type int, got True"),
        ("[training]\nlr = true", r"training\.lr must be of type float, got True"),
        ("[training]\ndevice = 0", r"training\.device must be of type str, got 0"),
        ("[model]\ndepth = 19", r"model\.depth must be one of 10, 18, 34, 50, 101, 152, 200, got 19"),
        ("[model]\ndepth = 18.0", r"model\.depth must be one of 10, 18, 34, 50, 101, 152, 200, got 18\.0"),
        ("[model]\nstem = ['full']", r"model\.stem must be one of full, small, got \['full'\]"),
        ("[recipe]\nspacing_mm = [1, 1]", r"recipe\.spacing_mm must be a list of 3, got \[1, 1\]"),
        ("[recipe]\nspacing_mm = 1.0", r"recipe\.spacing_mm must be a list of 3, got 1\.0"),
        (
            "[recipe]\nspacing_mm = [1,1,1]\nextent_mm = [9,9,9]",
            r"recipe must be given spacing_mm or extent_mm, not both",
        ),
        ("[recipe]\nspacing_mm = [1, 'a', 1]", r"recipe\.spacing_mm must be of type float, got 'a'"),
        ("[training", r"c\.toml: is not a TOML file"),
    ],
)
def test_what_is_not_allowed_in_a_file_is_one_line_that_names_it(tmp_path, text, message):
    (tmp_path / "c.toml").write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        load(tmp_path / "c.toml")
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_binary_file_are_config_errors(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.toml: there is no such config file"):
        load(tmp_path / "nowhere.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"b\.toml: is not a TOML file"):
        load(tmp_path / "b.toml")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe(spacing_mm=(1.0,) * 3, extent_mm=(9.0,) * 3), r"spacing_mm = \(1.0.*extent_mm = \(9.0"),
        (lambda: Recipe(spacing_mm=(1.0, 0.0, 1.0)), "recipe.spacing_mm must be positive"),
        (lambda: Recipe(extent_mm=(1.0, math.inf, 1.0)), "recipe.extent_mm must be positive"),
        (lambda: Recipe(spacing_mm=(1.0, 1.0, 1.0), size=(0, 1, 1)), "recipe.size must be positive"),
        (lambda: Recipe(spacing_mm=(1.0, 1.0, 1.0), windows_hu=()), "at least one window"),
        (lambda: Recipe(spacing_mm=(1.0, 1.0, 1.0), windows_hu=((400.0, -1000.0),)), "low first"),
        (lambda: Recipe(spacing_mm=(1.0, 1.0, 1.0), region="whole", outside_lungs="air"), "keep for region whole"),
        (lambda: CohortConfig(max_refused=1.2), "max_refused must be between 0 and 1, got 1.2"),
        (lambda: CohortConfig(classes=("a", "a")), "classes must be distinct names"),
        (lambda: SplitConfig(val=0.0), "split.val must be between 0 and 1"),
        (lambda: SplitConfig(val=0.6, test=0.4), "split.test must be positive, below 1 - val"),
        (lambda: SplitConfig(folds=1), "split.folds must be 0 or at least 2"),
        (lambda: SplitConfig(folds=5, fold=5), "split.fold must be at least 0 and below split.folds, got 5"),
        (lambda: ModelConfig(width=0), "model.width must be positive"),
        (lambda: ModelConfig(dropout=1.0), "model.dropout must be at least 0 and below 1"),
        (lambda: LossConfig(gamma=-1.0), "loss.gamma must be at least 0"),
        (lambda: LossConfig(gamma=math.nan), "loss.gamma must be at least 0, got nan"),
        (lambda: TrainingConfig(epochs=0), "training.epochs must be at least 1"),
        (lambda: TrainingConfig(lr=math.nan), "training.lr must be positive"),
        (lambda: TrainingConfig(weight_decay=math.inf), "training.weight_decay must be at least 0"),
        (lambda: TrainingConfig(workers=-1), "training.workers must be 0 to 256, got -1"),
        (lambda: TrainingConfig(workers=10**5), "training.workers must be 0 to 256, got 100000"),
        (lambda: TrainingConfig(plateau_factor=1.0), "training.plateau_factor must be between 0 and 1"),
        (lambda: DecisionConfig(at=1.0), "decision.at must be between 0 and 1"),
        (lambda: DecisionConfig(tta=65), "decision.tta must be 0 to 64, got 65"),
    ],
)
def test_a_value_out_of_range_is_refused_where_it_is_made(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(("norm", "width"), [("instance", 64), ("group", 4)])
def test_a_norm_of_single_numbers_is_refused(norm, width):
    def config(size, width=width):
        recipe = Recipe(spacing_mm=(1.0, 1.0, 1.0), size=size)
        return RunConfig(model=ModelConfig(norm=norm, width=width), recipe=recipe)

    config((32, 32, 33)).check_together()
    with pytest.raises(ConfigError, match=r"recipe\.size must be larger: stage 4 has one voxel.*, got \(32, 32, 32\)"):
        config((32, 32, 32)).check_together()
    with pytest.raises(ConfigError, match="stage 3 has one voxel"):
        config((16, 16, 16)).check_together()
    if norm == "group":
        config((32, 32, 32), width=8).check_together()


def test_a_setting_that_must_be_given_is_named():
    with pytest.raises(ConfigError, match=r"views\.augment must be given, got nothing"):
        from_dict(Views, {"count": 3}, "views")


def test_a_config_error_is_a_value_error_too():
    assert issubclass(ConfigError, ValueError)


def test_whole_numbers_are_accepted_where_decimals_are_meant():
    assert from_dict(Recipe, {"spacing_mm": [1, 2, 3]}).spacing_mm == (1.0, 2.0, 3.0)


def test_settings_that_are_not_given_are_left_out_of_the_file():
    values = to_dict(RunConfig())
    assert "extent_mm" not in values["recipe"]


def test_every_setting_of_every_section_survives_as_plain_values():
    for section in dataclasses.fields(RunConfig):
        value = getattr(RunConfig(), section.name)
        if dataclasses.is_dataclass(value):
            assert from_dict(type(value), to_dict(value)) == value


def test_the_settings_need_no_torch():
    code = "import sys, hilum.settings.run; print('torch' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"


def test_every_config_that_ships_loads_and_survives_a_round_trip(tmp_path):
    configs = sorted((Path(__file__).parents[1] / "configs").glob("*.toml"))
    assert configs
    for path in configs:
        config = load(path)
        save(config, tmp_path / "again.toml")
        again = load(tmp_path / "again.toml")
        tables = [Path(one.cohort.table) for one in (config, again)]
        assert tables[0].resolve() == tables[1].resolve()  # links in the way to it are resolved in the file
        assert replace(again, cohort=config.cohort) == config
        assert replace(again.cohort, table="") == replace(config.cohort, table="")


def test_a_recipe_without_spacing_and_extent_is_for_planning_and_cannot_be_used():
    with pytest.raises(ConfigError, match="recipe must be given spacing_mm or extent_mm, has neither"):
        _ = Recipe().grid_spacing_mm
