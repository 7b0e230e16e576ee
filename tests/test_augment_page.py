"""The page of augmentation shows what training would see, says it in words that are true, and names nobody."""

import base64
import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from hilum import AugmentConfig, Finding, Recipe, read
from hilum.cli import main
from hilum.cli.augment import ShowAugmentation
from hilum.modelling.augmenting.augment import apply
from hilum.modelling.augmenting.changes import Change, draw
from hilum.planning.augment_page import CASE, augment_page, planes, strongest_changes
from hilum.planning.describe import describe, describe_settings
from hilum.preparing.lungs.overlay import FIELD_RGB
from hilum.settings.augmentation import PROBABILITIES
from hilum.settings.presets import preset
from hilum.simulating import Header, plan_cohort, simulate_case, write_dicom
from hilum.volume import Volume, affine_from

SHAPE, SPACING = (10, 14, 18), (5.0, 2.0, 2.0)
RECIPE = Recipe(region="whole", size=SHAPE, spacing_mm=SPACING)
OFF = dict.fromkeys(PROBABILITIES, 0.0)
STRONG = preset("strong", RECIPE)


@pytest.fixture(scope="module")
def sample():
    """Smooth tissue in air that is alike nowhere, on a grid of thick slices."""
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in SHAPE], indexing="ij")
    body = (z**2 + y**2 + x**2 < 1.2) * (1040 + 300 * np.sin(3 * z + 1) + 200 * x + 150 * np.cos(4 * y))
    return Volume(
        voxels_hu=np.rint(body - 1000).astype(np.int16),
        affine=affine_from(spacing_mm=SPACING, origin_mm=(0.0, 0.0, 0.0)),
    )


@pytest.fixture(scope="module")
def strong(sample):
    return augment_page(sample, RECIPE, STRONG, number=5, seed=3)


@pytest.fixture(scope="module")
def chest(tmp_path_factory):
    """A folder with a simulated chest in a file that is named as a patient."""
    folder = tmp_path_factory.mktemp("WARD-7")
    simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=6.0)[0].write(folder / "SMITH-JOHN.nii.gz")
    return folder / "SMITH-JOHN.nii.gz"


def pictures(html):
    """The PNGs of a page's cards, three for each, in order; first those of the sample as it is."""
    arrays = [
        np.array(Image.open(io.BytesIO(base64.b64decode(text)))) for text in re.findall(r"base64,([^\")]+)", html)
    ]
    return [tuple(arrays[i : i + 3]) for i in range(0, len(arrays), 3)]


def changed(sample, change):
    hu = torch.from_numpy(sample.voxels_hu).float()
    return apply(hu[None, None], [change], np.array([sample.spacing_mm]), RECIPE)[0]


def run(*words):
    return main([str(word) for word in words])


def test_the_same_seed_gives_the_same_page_and_another_seed_another(sample, strong):
    assert augment_page(sample, RECIPE, STRONG, number=5, seed=3) == strong
    level = AugmentConfig(**OFF | {"level": 1.0})
    assert augment_page(sample, RECIPE, level, number=1, seed=4) != augment_page(
        sample, RECIPE, level, number=1, seed=5
    )


def test_a_draw_on_the_page_is_what_training_would_see_in_that_epoch(sample, strong):
    shown = pictures(strong)
    for one, hu in zip(shown[0], planes(changed(sample, Change()), RECIPE.windows[0]), strict=True):
        np.testing.assert_array_equal(one, hu)
    for epoch in range(1, 6):
        change = draw(STRONG, [CASE], seed=3, epoch=epoch)[0]
        for one, hu in zip(shown[epoch], planes(changed(sample, change), RECIPE.windows[0]), strict=True):
            np.testing.assert_array_equal(one, hu)
    assert len(shown) == 1 + 5 + sum(len(strongest_changes(STRONG, name, seed=3)) for name in listed(strong)[:-2])


def listed(html):
    """Names in the page's table of changes."""
    return re.findall(r"<tr><td><code>(\w+)", html)


def test_planes_are_the_middle_ones_with_the_head_up_in_the_first_window(sample):
    axial, coronal, sagittal = planes(torch.from_numpy(sample.voxels_hu).float()[None], (-1000.0, 400.0))
    grey = np.rint((sample.voxels_hu.astype(float) + 1000).clip(0, 1400) / 1400 * 255)
    assert np.abs(axial - grey[5]).max() <= 1
    assert np.abs(coronal - grey[::-1, 7]).max() <= 1
    assert np.abs(sagittal - grey[::-1, :, 9]).max() <= 1


def test_pictures_have_the_proportions_of_the_body_whatever_the_voxels(strong):
    boxes = re.findall(r"\.(\w+) \{ flex: ([\d.]+) 1 0; aspect-ratio: ([\d.]+) / ([\d.]+);", strong)
    z, y, x = (n * step for n, step in zip(SHAPE, SPACING, strict=True))
    sizes = {name: (float(share), float(across), float(down)) for name, share, across, down in boxes}
    assert sizes == {"axial": (x, x, y), "coronal": (x, x, z), "sagittal": (y, y, z)}
    assert [one.shape for one in pictures(strong)[2]] == [(14, 18), (10, 18), (10, 14)]


@pytest.mark.parametrize("name", ["tutorial", pytest.param("standard", marks=pytest.mark.slow), "strong"])
def test_each_change_alone_changes_the_sample_and_only_those_with_a_probability_are_listed(sample, name):
    config = replace(preset(name, RECIPE), flip=(0.0, 0.0, 0.5), thickness_mm=(11.0, 16.0))
    html = augment_page(sample, RECIPE, config, number=1)
    wanted = {one for one in PROBABILITIES if getattr(config, one)} | {"flip"}
    assert set(listed(html)) == wanted
    for one in sorted(wanted - {"mixup", "cutmix"}):
        assert f"<h3><code>{one}</code>" in html
        for change in strongest_changes(config, one, seed=0):
            before, after = (planes(changed(sample, c), (-1024.0, 3071.0)) for c in (Change(), change))
            assert any((a != b).any() for a, b in zip(before, after, strict=True)), one
            assert len(describe(change, SHAPE, SPACING)) == (2 if one == "zoom" else 1), one
    assert ("mixup and cutmix, which need two" in html) == (name == "strong")


def test_alone_a_change_goes_nearly_as_far_as_the_config_lets_it_and_both_ways():
    def ends(name, value):
        return sorted(value(change) for change in strongest_changes(STRONG, name, seed=0))

    assert ends("level", lambda c: c.level_hu) == pytest.approx([-60, 60], rel=0.05)
    assert ends("width", lambda c: math.log(c.width)) == pytest.approx([-math.log(1.2), math.log(1.2)], rel=0.05)
    assert ends("kernel", lambda c: c.kernel) == pytest.approx([-1, 1], rel=0.05)
    assert ends("elastic", lambda c: c.elastic_mm) == pytest.approx([8], rel=0.05)
    assert ends("zoom", lambda c: c.zoom) == pytest.approx([1.2], rel=0.05)
    assert ends("thickness", lambda c: c.thickness_mm) == pytest.approx([8], rel=0.05)
    most = 15 * math.sqrt(1 / 0.15 - 1)
    assert all(0.8 * most < noise <= most for noise in ends("noise", lambda c: c.noise_hu))
    assert np.diff(ends("noise", lambda c: c.noise_lp_mm)) > 0.2  # of a smooth kernel, and of a sharp one
    flips = [change.flip for change in strongest_changes(replace(STRONG, flip=(0.5, 0.0, 0.1)), "flip", seed=0)]
    assert flips == [(True, False, False), (False, False, True)]


def test_a_config_that_does_nothing_shows_only_draws_that_are_the_sample(sample):
    html = augment_page(sample, RECIPE, preset("none", RECIPE), number=2)
    assert "Nothing has a probability above 0" in html
    assert html.count("nothing happens") == 2
    first, *others = pictures(html)
    assert all((a == b).all() for other in others for a, b in zip(other, first, strict=True))
    assert "Each change alone" not in html


def spot(at):
    """A bright spot in tissue, at a place in mm about the middle of a cube of 33 mm."""
    places = np.stack(np.meshgrid(*[np.arange(33) - 16.0] * 3, indexing="ij"), axis=-1)
    return torch.from_numpy(1000 * np.exp(-((places - at) ** 2).sum(axis=-1) / 8) - 1000).float()[None, None]


def middle(hu):
    """Where the spot is, in mm about the middle."""
    weights = hu[0, 0].double().numpy() + 1000
    return np.array(
        [(weights.sum(axis=tuple({0, 1, 2} - {a})) @ (np.arange(33) - 16)) / weights.sum() for a in range(3)]
    )


@pytest.mark.parametrize(("axis", "start", "down"), [(0, (0, 0, 8), 1), (1, (0, 0, 8), 0), (2, (0, 8, 0), 0)])
@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_a_turn_goes_as_far_and_the_way_that_the_words_say(axis, start, down, epoch):
    """Clockwise takes what is on the right of a picture down: to the back on axial ones, to the feet on others."""
    most = tuple(30.0 * (a == axis) for a in range(3))
    change = draw(AugmentConfig(**OFF | {"rotation": 1.0}, rotation_deg=most), ["a"], seed=0, epoch=epoch)[0]
    (words,) = describe(change, (33, 33, 33), (1.0, 1.0, 1.0))
    degrees, name, way = re.fullmatch(r"rotated ([\d.]+)° about (\w) \((\w+)\)", words).groups()
    moved = middle(apply(spot(start), [change], np.ones((1, 3)), RECIPE))
    assert name == "zyx"[axis]
    downwards = moved[down] if axis == 0 else -moved[down]
    assert math.degrees(math.asin(downwards / 8)) == pytest.approx(
        float(degrees) * (1 if way == "clockwise" else -1), abs=0.4
    )


@pytest.mark.parametrize("epoch", [0, 1, 2, 3])
def test_what_the_words_say_moved_was_moved(epoch):
    config = AugmentConfig(**OFF | {"rotation": 1.0, "translation": 1.0})
    change = draw(config, ["a"], seed=1, epoch=epoch)[0]
    _, words = describe(change, (33, 33, 33), (1.0, 1.0, 1.0))
    sides = {"head": (0, 1), "feet": (0, -1), "back": (1, 1), "front": (1, -1), "left": (2, 1), "right": (2, -1)}
    said = np.zeros(3)
    for mm, side in re.findall(r"([\d.]+) mm to the (\w+)", words):
        axis, sign = sides[side]
        said[axis] = sign * float(mm)
    np.testing.assert_allclose(middle(apply(spot((0, 0, 0)), [change], np.ones((1, 3)), RECIPE)), said, atol=0.1)


def test_the_parts_that_the_words_name_make_the_map_again():
    config = AugmentConfig(**OFF | {"rotation": 1.0, "scaling": 1.0, "shear": 1.0}, rotation_deg=(40.0, 40.0, 40.0))
    for epoch in range(20):
        change = draw(config, ["a"], seed=0, epoch=epoch)[0]
        turned, sized, sheared = describe(change, SHAPE, SPACING)
        matrix = np.eye(3)
        for axis, name in enumerate("zyx"):
            if found := re.search(rf"([\d.]+)° about {name} \((\w+)\)", turned):
                positive = (found[2] == "clockwise") == (axis == 0)
                angle = math.radians(float(found[1])) * (1 if positive else -1)
                i, j = (a for a in range(3) if a != axis)
                turn = np.eye(3)
                turn[[i, i, j, j], [i, j, i, j]] = math.cos(angle), -math.sin(angle), math.sin(angle), math.cos(angle)
                matrix = matrix @ turn
        sizes = [1.0, 1.0, 1.0]
        for percent, way, name in re.findall(r"([\d.]+) % (longer|shorter) in (\w)", sized):
            sizes["zyx".index(name)] = 1 + float(percent) / 100 * (1 if way == "longer" else -1)
        rest = np.linalg.inv(matrix @ np.diag(1 / np.array(sizes))) @ np.array(change.affine)[:, :3]
        np.testing.assert_allclose(np.tril(rest), np.eye(3), atol=0.004)
        for name, at in {"z against y": (0, 1), "z against x": (0, 2), "y against x": (1, 2)}.items():
            found = re.search(rf"{name} ([\d.]+)°", sheared)
            assert (float(found[1]) if found else 0) == pytest.approx(abs(math.degrees(math.atan(rest[at]))), abs=0.3)


def test_every_number_of_a_change_is_in_its_words():
    change = Change(
        extent=(0.6, 1.0, 1.0), flip=(False, True, False), zoom=1.15, zoom_at=(1.0, 0.0, 0.0), elastic_mm=3.21,
        elastic_grid_mm=44.0, noise_hu=18.3, noise_lp_mm=0.31, kernel=-0.4, kernel_mm=0.9, thickness_mm=7.7,
        slope=1.012, offset_hu=-6.2, level_hu=12.0, width=1.08, gamma=0.91, cutout_mm=(20.0, 999.0, 15.0),
        cutout_at=(0.4, 0.1, 0.9),
    )  # fmt: skip
    assert describe(change, SHAPE, SPACING) == [
        "cropped to the middle 60.0 % of z",
        "front and back flipped",
        "a box 1.15 times smaller fills the grid",
        "its middle 3.3 mm to the head",  # 25 (1 - 1 / 1.15)
        "deformed, points 44 mm apart by up to 3.2 mm along each axis",
        "noise of 18 HU, strongest at 0.31 lp/mm (the grid ends at 0.25)",
        "smoother kernel: 40 % of a blur of 0.9 mm",
        "slices 7.7 mm thick",
        "calibration: HU about water times 1.012, -6.2 HU",
        "level +12 HU (darker)",
        "width times 1.08 (less contrast)",
        "gamma 0.91 (brighter)",
        "a box of 20 x 28 x 15 mm (z, y, x) filled with its mean",
        "its middle 5.0 mm to the feet, 10.5 mm to the left",  # as far as the grid goes
    ]
    assert describe(Change(), SHAPE, SPACING) == []
    assert describe(Change(level_hu=0.3, width=1.001, gamma=0.999), SHAPE, SPACING) == []
    assert describe(Change(thickness_mm=4.0), SHAPE, SPACING)[0].endswith("nothing changes)")


@pytest.mark.parametrize(("change", "darker"), [(Change(level_hu=50.0), True), (Change(gamma=0.7), False)])
def test_darker_is_darker_and_brighter_brighter(sample, change, darker):
    (words,) = describe(change, SHAPE, SPACING)
    assert ("darker" in words) == darker
    inside = sample.voxels_hu > -900
    assert (changed(sample, change)[0].numpy()[inside].mean() < sample.voxels_hu[inside].mean()) == darker


def test_settings_are_said_with_their_probability_and_their_range():
    said = {one.name: (one.how_often, one.how_far) for one in describe_settings(replace(STRONG, flip=(0.0, 0.2, 0.5)))}
    assert said["rotation"] == ("80 %", "rotated by up to 20° about z, 15° about y, 15° about x")
    assert said["translation"] == ("80 %", "moved by up to 15 mm along each axis")
    assert said["noise"] == ("50 %", "0 to 36 HU (15 to 100 % of the dose), strongest at 0.15 to 0.45 lp/mm")
    tutorial = {one.name: one.how_far for one in describe_settings(preset("tutorial", RECIPE))}
    assert tutorial["scaling"] == "0.9 to 1.1 times as large"
    assert tutorial["noise"].startswith("70 HU (50 % of the dose)")
    assert said["width"] == ("50 %", "the window's width times 0.83 to 1.20 (contrast)")
    assert said["flip"] == ("20 % y, 50 % x", "front and back (y), left and right (x)")
    assert list(said)[:2] == ["flip", "rotation"]
    assert list(said)[-2:] == ["mixup", "cutmix"]


def test_a_bent_sample_is_shown_with_its_smallest_jacobian(sample):
    config = AugmentConfig(**OFF | {"elastic": 1.0})
    html = augment_page(sample, RECIPE, config, number=2)
    found = [float(value) for value in re.findall(r"<li>smallest Jacobian ([\d.]+)", html)]
    assert len(found) == 3  # two draws, and alone
    assert all(0 < value < 1 for value in found)


def test_the_lungs_of_a_recipe_that_sees_them_are_outlined_and_move_with_the_scan(sample):
    recipe = replace(RECIPE, lung_channel=True)
    inside = np.zeros(SHAPE, np.uint8)
    inside[2:8, 4:11, 3:9] = 1
    flipped = replace(preset("none", recipe), flip=(0.0, 0.0, 1.0))
    html = augment_page(replace(sample, lungs=inside), recipe, flipped, number=1)
    assert "the lungs outlined" in html
    before, after, _ = pictures(html)
    for axial, columns in ((before[0], (3, 9)), (after[0], (9, 15))):
        outline = (axial == FIELD_RGB).all(axis=-1)
        rows, places = np.nonzero(outline)
        assert (rows.min(), rows.max() + 1, places.min(), places.max() + 1) == (4, 11, *columns)
        assert outline.sum() == 2 * (7 + 6) - 4
    np.testing.assert_array_equal(after[1], before[1][:, ::-1])


def test_with_sub_volumes_one_grid_of_the_sample_is_shown(sample):
    recipe = Recipe(region="whole", size=(6, 8, 8), spacing_mm=SPACING, sub_volumes=True)
    html = augment_page(sample, recipe, preset("none", recipe), number=1)
    assert [one.shape for one in pictures(html)[0]] == [(8, 8), (6, 8), (6, 8)]


def test_the_command_writes_a_page_of_the_lungs_that_names_nobody(chest, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert run("augment", chest, "--out", out, "--number", 2, "--recipe.size", 16, 16, 16) == 0
    assert "2 draws of preset standard" in capsys.readouterr().out
    html = out.read_text()
    assert "region lungs · 16 x 16 x 16 voxels" in html
    assert len(re.findall(r">Draw \d<", html)) == 2
    for secret in ("SMITH", "JOHN", "WARD", str(tmp_path), "nii"):
        assert secret not in html


def test_no_tag_of_a_dicom_series_is_on_the_page(tmp_path):
    volume = simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=6.0)[0]
    header = Header(patient_id="DOE-7", patient_name="DOE^JANE", study_date="20190807")
    write_dicom(volume, tmp_path / "scan", header=header)
    words = ("--out", tmp_path / "page.html", "--number", 1, "--recipe.size", 8, 8, 8, "--recipe.region", "whole")
    assert run("augment", tmp_path / "scan", *words, "--augment.preset", "none") == 0
    html = re.sub(r"base64,[^\")]+", "", (tmp_path / "page.html").read_text())
    tags = read(tmp_path / "scan").tags
    for secret in ("DOE", "JANE", "20190807", tags.patient, tags.series, tags.study, "series-", "1.2."):
        assert secret
        assert secret not in html


def test_findings_are_on_the_page_by_their_codes_alone(sample):
    found = Finding(code="padding", severity="note", message="SMITH has padding", where="SMITH/0001.dcm")
    html = augment_page(replace(sample, findings=(found,)), RECIPE, preset("none", RECIPE), number=1)
    assert "findings: padding" in html
    assert "SMITH" not in html


def test_a_point_is_looked_at_in_a_box_of_40_mm_with_the_preset_for_points(chest, tmp_path):
    out = tmp_path / "page.html"
    words = ["--recipe.region", "point", "--point", 60, -120, -400, "--recipe.size", 8, 8, 8, "--number", 1]
    assert run("augment", chest, "--out", out, *words) == 0
    html = out.read_text()
    assert "8 x 8 x 8 voxels of 5 x 5 x 5 · 40 x 40 x 40 mm" in html
    assert "180° about z" in html
    assert "preset standard</h1>" in html
    assert "outside = &#34;edge&#34;" in html


def test_flags_win_over_the_file_and_a_preset_by_flag_is_all_of_it(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(
        "[recipe]\nsize = [8, 8, 8]\nspacing_mm = [9.0, 9.0, 9.0]\n[augment]\nnoise_hu = 7.0\n"
        '[reading]\npolicy = "lenient"\n'
    )

    def command(*flags):
        args = [str(tmp_path / "scan.nii"), "--out", "page.html", "--config", str(file), *flags]
        return ShowAugmentation(path=tmp_path / "scan.nii", out=tmp_path, config=file).with_file(args)

    assert command().augment == replace(AugmentConfig(), noise_hu=7.0)
    assert command().recipe.size == (8, 8, 8)
    assert command().reading.policy == "lenient"
    assert command("--augment.level", "0.9").augment == replace(AugmentConfig(), noise_hu=7.0, level=0.9)
    strong = command("--augment.preset", "strong", "--augment.level", "0.9")
    assert strong.augment == replace(preset("strong", strong.recipe), level=0.9)
    assert strong.reading.policy == "lenient"
    assert command("--recipe.size", "6", "6", "6").recipe.spacing_mm == (9.0, 9.0, 9.0)


def test_a_volume_that_is_prepared_already_is_taken_as_it_is(npy_cohort, tmp_path):
    out = tmp_path / "page.html"
    assert run("augment", npy_cohort / "01.npy", "--out", out, "--number", 1) == 0
    assert "region whole · 12 x 12 x 12 voxels of 1 x 1 x 1" in out.read_text()
    words = ["--config", npy_cohort / "config.toml", "--number", 1, "--augment.preset", "none"]
    assert run("augment", npy_cohort / "01.npy", "--out", out, *words) == 0
    assert "12 x 12 x 12 voxels of 2 x 2 x 2" in out.read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.nii.gz"], "nowhere.nii.gz"),
        (["SCAN", "--config", "nowhere.toml"], "nowhere.toml: there is no such config file"),
        (["SCAN", "--point", "0", "0", "0"], "--point is for recipes of region point"),
        (["SCAN", "--recipe.region", "point"], "region point needs a point"),
        (["SCAN", "--recipe.region", "point", "--point", "0", "0", "9999"], "must lie inside the scan"),
        (["SCAN", "--recipe.region", "whole", "--mask", "m.nii"], "--mask is for recipes that look for the lungs"),
        (["vol.npy", "--mask", "m.nii"], "--mask is for"),
        (["vol.npy", "--recipe.region", "point", "--point", "0", "0", "0"], "--point needs a scan"),
        (["vol.npy", "--series", "a"], "--series needs a scan"),
        (["vol.npy"], "no file or folder"),
        (["SCAN", "--recipe.region", "point", "--augment.scaling-by", "0.2"], "at most 0.03"),
        (["SCAN", "--recipe.sub-volumes"], "fixed with sub_volumes"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_written(words, said, chest, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [str(chest) if word == "SCAN" else word for word in words]
    assert run("augment", *words, "--out", "page.html") == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [0, 65])
def test_the_number_of_draws_is_a_flag_within_its_bounds(number, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        run("augment", "scan.nii", "--out", tmp_path / "page.html", "--number", number)
    assert stop.value.code == 2
    assert "number must be 1 to 64" in " ".join(capsys.readouterr().err.split())
