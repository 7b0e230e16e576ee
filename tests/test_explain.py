"""Maps that explain a prediction."""

import json
import math
from dataclasses import replace
from itertools import pairwise

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from hilum.cli import main
from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.model_folder import EnsembleMember, ModelCard, build, save_model
from hilum.modelling.ensemble import Ensemble
from hilum.modelling.resnet import ResNet3D
from hilum.predicting import Predictor
from hilum.predicting.explain import ExplainConfig, HeatMap, explain
from hilum.predicting.explain.check import Curves, SanityCheck, check_map, curves_of, randomised, rank_correlation
from hilum.predicting.explain.explainer import maps_of, odds_of_sample
from hilum.predicting.explain.gradients import integrated_gradients, usual_stage
from hilum.predicting.explain.location import locate, places_of
from hilum.predicting.explain.occlusion import patch_of
from hilum.predicting.explain.sample_odds import SampleOdds, odds_when_filled
from hilum.predicting.explain.scan import explain_scan
from hilum.settings.recipe import Recipe
from hilum.settings.run import ModelConfig
from hilum.simulating import Lesion, Scanner, sample_anatomy, simulate_scan
from hilum.volume import Volume, affine_from, crop

SIZE, SPACING = (24, 32, 40), (3.0, 2.0, 2.5)
NETWORK = ModelConfig(depth=10, width=1, stem="small", zero_init=True)
"""Its blocks begin as the identity, so that its weights can be set to weigh brightness alone."""
RANDOM = ModelConfig(depth=10, width=4, stem="small")
BRIGHT = (slice(6, 10), slice(20, 26), slice(8, 14))


def brightness(network: ResNet3D, sign: float = 1.0) -> ResNet3D:
    """A network whose last logit is the mean brightness of its input: what it depends on is known everywhere."""
    with torch.no_grad():
        network.conv1.weight.fill_(1 / network.conv1.weight[0].numel())
        for number in (2, 3, 4):  # their first blocks halve the grid: by means, not by every second voxel
            block = network.stage(number)[0]
            block.conv1.weight.fill_(1 / block.conv1.weight[0].numel())
            block.conv2.weight.zero_()
            block.conv2.weight[..., 1, 1, 1] = 1 / block.conv2.weight.shape[1]
            block.bn2.weight.fill_(1.0)
            block.downsample[0].weight.zero_()
        network.fc.weight.zero_()
        network.fc.weight[-1] = sign * 40 / network.fc.weight.shape[1]
        network.fc.bias.zero_()
    return network.eval()


def recipe(**changes):
    return Recipe(**({"region": "whole", "size": SIZE, "spacing_mm": SPACING} | changes))


def model(folder, *, classes=("0", "1"), multi_label=False, of=None, members=1, random=False):
    """Write the model folder of a brightness network, or of one with random weights."""
    of, model = of or recipe(), (RANDOM if random is True else random) if random else NETWORK
    torch.manual_seed(0)
    each = [build(model, of, len(classes)) for _ in range(members)]
    networks = [one.eval() if random else brightness(one, 1.0 + k) for k, one in enumerate(each)]
    each_label = (Decision(),) * (len(classes) if multi_label else 1)
    decisions = Decisions(classes=classes, multi_label=multi_label, each=each_label)
    names = [f"m{k}" for k in range(members)] if members > 1 else []
    card = ModelCard(
        model=model,
        recipe=of,
        decisions=decisions,
        training={},
        members=tuple(EnsembleMember(name=name, model=model) for name in names),
    )
    save_model(folder, Ensemble(dict(zip(names, networks, strict=True))) if names else networks[0], card)
    return folder


def sample_with_object(size=SIZE):
    hu = np.random.default_rng(0).integers(-900, -800, size).astype(np.int16)
    hu[BRIGHT] = 100
    return Volume(voxels_hu=hu, affine=affine_from(spacing_mm=SPACING, origin_mm=(5.0, -7.0, 11.0)))


def distance_mm(heat_map: HeatMap, volume: Volume) -> float:
    """Distance of the peak from the object's centre."""
    centre = volume.index_to_mm([(side.start + side.stop - 1) / 2 for side in BRIGHT])
    return float(np.linalg.norm(heat_map.peak_mm - centre))


@pytest.mark.parametrize("method", ["occlusion", "hirescam", "gradcam", "integrated-gradients"])
def test_every_method_finds_the_one_bright_object_that_a_network_of_brightness_depends_on(tmp_path, method):
    predictor, sample = Predictor(model(tmp_path / "model"), device="cpu"), sample_with_object()
    (found,) = explain(predictor, sample, config=ExplainConfig(method=method))
    assert (found.output, found.method, found.values.shape) == ("1", method, SIZE)
    assert distance_mm(found, sample) < (3.0 if method == "integrated-gradients" else 4.0)  # of 12 x 12 x 15 mm
    assert found.log_odds == pytest.approx(np.diff(predictor.logits([sample])[0])[0], abs=1e-4)


@pytest.mark.parametrize(
    "options",
    [
        {"stem": "small"},
        {"stem": "full"},
        {"stem": "full", "stem_stride": (1, 2, 1)},
        {"stem": "small", "stem_stride": (2, 1, 2), "norm": "group"},
    ],
    ids=str,
)
def test_the_fall_of_a_cube_is_what_replacing_it_by_hand_gives(tmp_path, options):
    """Although the first layer is computed again around the cube alone."""
    one = ModelConfig(depth=10, width=4, **options)
    of = recipe(windows_hu=((-1000.0, 400.0), (-160.0, 240.0)))
    predictor = Predictor(model(tmp_path / "model", of=of, random=one), device="cpu")
    sample, rng = sample_with_object(), np.random.default_rng(1)
    sample_odds = odds_of_sample(predictor, sample, ["1"])
    boxes = [BRIGHT, tuple(slice(0, n) for n in SIZE), (slice(23, 24), slice(31, 32), slice(0, 1))]
    for _ in range(12):
        ends = [np.sort(rng.choice(n + 1, 2, replace=False)) for n in SIZE]
        boxes.append(tuple(slice(int(a), int(b)) for a, b in ends))
    fills = rng.integers(-1000, 300, len(boxes)).astype(float).tolist()
    found = odds_when_filled(sample_odds, boxes, fills, sample_odds.whole())
    assert np.ptp(found) > 1e-3
    for box, fill, odds in zip(boxes, fills, found[:, 0, 0], strict=True):
        by_hand = sample.voxels_hu.copy()
        by_hand[box] = fill
        logits = predictor.logits([replace(sample, voxels_hu=by_hand)])[0]
        assert odds == pytest.approx(logits[1] - logits[0], abs=5e-5)


def test_of_sub_volumes_only_grids_that_a_cube_touches_change_and_the_case_is_aggregated_as_in_prediction(tmp_path):
    for aggregate in ("mean", "max"):
        of = recipe(size=(12, 16, 20), sub_volumes=True, aggregate=aggregate)
        predictor = Predictor(model(tmp_path / aggregate, of=of, random=True), device="cpu")
        sample = sample_with_object()
        sample_odds = odds_of_sample(predictor, sample, ["1"])
        assert len(sample_odds.starts) == 27
        (odds,) = odds_when_filled(sample_odds, [BRIGHT], [-1000.0], sample_odds.whole())[0, 0]
        by_hand = sample.voxels_hu.copy()
        by_hand[BRIGHT] = -1000
        logits = predictor.logits([replace(sample, voxels_hu=by_hand)])[0]
        assert odds == pytest.approx(logits[1] - logits[0], abs=1e-4)


@pytest.mark.parametrize("method", ["occlusion", "hirescam", "integrated-gradients"])
def test_maps_of_sub_volumes_cover_the_whole_sample_and_find_the_object(tmp_path, method):
    of = recipe(size=(12, 16, 20), sub_volumes=True)
    predictor, sample = Predictor(model(tmp_path / "model", of=of), device="cpu"), sample_with_object()
    config = ExplainConfig(method=method, patch_mm=8.0 if method == "occlusion" else None)  # half of it takes ten times
    (found,) = explain(predictor, sample, config=config)
    assert found.values.shape == SIZE
    assert distance_mm(found, sample) < 9.0


def test_integrated_gradients_add_up_to_the_difference_from_air(tmp_path):
    predictor = Predictor(model(tmp_path / "model", random=True), device="cpu")
    sample = sample_with_object()
    sample_odds = odds_of_sample(predictor, sample, ["1"])
    values = integrated_gradients(sample_odds, [RANDOM], smoothed_mm=1e-6, spacing_mm=SPACING)
    air = replace(sample, voxels_hu=np.full(SIZE, -1000, np.int16))
    whole, none = (np.diff(predictor.logits([one])[0])[0] for one in (sample, air))
    assert abs(whole - none) > 1e-4
    assert values.sum() == pytest.approx(whole - none, rel=0.02)


def test_the_map_of_an_ensemble_is_the_mean_of_its_members_maps_with_their_spread(tmp_path):
    sample = sample_with_object()
    both = Predictor(model(tmp_path / "both", members=2, random=True), device="cpu")
    (found,) = explain(both, sample, config=ExplainConfig(method="hirescam"))
    each = []
    for network in both.network.members.values():
        sample_odds = odds_of_sample(both, sample, ["1"], network)
        card = replace(both.card, members=())
        each.append(maps_of(sample_odds, card, SPACING, ExplainConfig(method="hirescam"))[0][0, 0])
    assert np.allclose(found.values, np.mean(each, axis=0), atol=1e-5)
    assert np.allclose(found.spread, np.std(each, axis=0), atol=1e-5)
    assert found.spread.max() > 0


def test_several_labels_have_a_map_each_and_the_most_probable_of_three_classes_has_one(tmp_path):
    sample = sample_with_object()
    labels = Predictor(model(tmp_path / "labels", classes=("a", "b"), multi_label=True), device="cpu")
    coarse = ExplainConfig(patch_mm=24.0)
    first, second = explain(labels, sample, config=ExplainConfig(patch_mm=8.0))
    assert (first.output, second.output) == ("a", "b")
    assert np.all(first.values == 0)  # its weights are zero
    assert first.peak_mm is None
    assert distance_mm(second, sample) < 4.0
    three = Predictor(model(tmp_path / "three", classes=("a", "b", "c")), device="cpu")
    assert [one.output for one in explain(three, sample, config=coarse)] == ["c"]
    assert [one.output for one in explain(three, sample, ["a", "c"], config=coarse)] == ["a", "c"]


def test_the_patch_is_an_eighth_of_the_box_and_not_of_a_slabs_thickness():
    assert patch_of((48, 40, 56), (6.0, 6.0, 6.0)) == pytest.approx(30.0)
    assert patch_of((3, 60, 60), (1.25, 0.7, 0.7)) == pytest.approx(5.25)


@pytest.mark.parametrize(
    ("stem", "size", "spacing_mm", "stage"),
    [
        ("small", (128, 128, 128), (2.0, 2.0, 2.0), 4),  # voxels of 16 mm, and a patch of 32 mm
        ("full", (128, 128, 128), (2.0, 2.0, 2.0), 2),
        ("full", (80, 72, 96), (3.0, 3.0, 3.0), 1),
        ("full", (48, 40, 56), (6.0, 6.0, 6.0), 1),  # none is as fine
    ],
)
def test_activation_maps_are_as_fine_as_the_steps_of_occlusion(stem, size, spacing_mm, stage):
    assert usual_stage(ModelConfig(stem=stem), size, spacing_mm) == stage


def test_air_that_is_filled_with_air_costs_nothing_and_changes_nothing(tmp_path):
    predictor = Predictor(model(tmp_path / "model"), device="cpu")
    empty = replace(sample_with_object(), voxels_hu=np.full(SIZE, -1000, np.int16))
    seen = []
    predictor.network.register_forward_hook(lambda *_: seen.append(1))
    (found,) = explain(predictor, empty)
    assert np.all(found.values == 0)
    assert len(seen) <= 2


def test_the_centre_of_a_peak_moves_with_the_map_by_parts_of_a_voxel():
    z, y, x = np.indices((20, 20, 20)).astype(float)
    for shift in (0.0, 0.3, 0.5, 0.8):
        values = np.exp(-((z - 9 - shift) ** 2 + (y - 11) ** 2 + (x - 8) ** 2) / 30).astype(np.float32)
        values[0, 0, 0] = 0.9  # apart from it
        one = HeatMap(values=values, spread=None, affine=np.eye(4), output="1", method="occlusion", log_odds=0.0)
        assert one.peak_index == pytest.approx([9 + shift, 11, 8], abs=0.12)


# the same place in every form of a scan


@pytest.fixture(scope="module")
def chest():
    rng = np.random.default_rng(4)
    anatomy = sample_anatomy(rng)
    mass = Lesion(kind="mass", centre_mm=(-70.0, 10.0, 0.55 * anatomy.height_mm), diameter_mm=32.0, hu=2600.0)
    scanner = Scanner(pixel_mm=3.0, pixels=128, thickness_mm=3.0, increment_mm=3.0)
    return simulate_scan(1, anatomy=anatomy, lesions=(mass,), scanner=scanner)


@pytest.fixture(scope="module")
def chest_model(tmp_path_factory):
    """It depends on what is denser than bone alone, which the lesion is."""
    of = Recipe(region="lungs", size=(40, 40, 48), spacing_mm=(6.0, 6.0, 6.0), windows_hu=((1500.0, 3000.0),))
    return model(tmp_path_factory.mktemp("chest") / "model", of=of)


def test_a_map_lies_at_the_same_place_in_a_scan_as_nifti_cut_and_tilted(chest, chest_model, tmp_path):
    volume, _ = chest
    predictor = Predictor(chest_model, device="cpu")

    def peak(one):
        return explain(predictor, predictor.prepare(one))[0].peak_mm

    expected = peak(volume)
    volume.write(tmp_path / "scan.nii.gz")
    written = explain_scan(chest_model, tmp_path / "scan.nii.gz", tmp_path / "out", device="cpu")
    assert written["maps"][0]["peak_lps_mm"] == pytest.approx(expected, abs=0.01)
    cut = crop(volume, (2, 6, 8), tuple(n - 4 for n in volume.shape))
    assert np.abs(peak(cut) - expected).max() < 6.0
    tilted = tilt(volume, degrees=12.0)
    assert np.abs(peak(tilted) - expected).max() < 6.0


def tilt(volume: Volume, degrees: float) -> Volume:
    """The scan as a tilted gantry takes it: every slice moved along y by its height times the tangent."""
    shear = math.tan(math.radians(degrees))
    affine = volume.affine.copy()
    affine[1, 0] += shear * volume.spacing_mm[0]
    image = volume.to_sitk()
    hu = np.empty_like(volume.voxels_hu)
    for z in range(volume.shape[0]):
        moved = sitk.TranslationTransform(2, (0.0, shear * volume.spacing_mm[0] * z))
        hu[z] = sitk.GetArrayFromImage(sitk.Resample(image[:, :, z], moved, sitk.sitkLinear, -1000.0))
    return replace(volume, voxels_hu=hu, affine=affine)


def test_the_map_on_disk_lies_on_the_scans_own_grid_and_is_zero_where_the_model_saw_nothing(tmp_path):
    rng = np.random.default_rng(0)
    hu = rng.integers(-900, -800, (30, 40, 50)).astype(np.int16)
    hu[20:24, 18:23, 22:28] = 100
    scan = Volume(voxels_hu=hu, affine=affine_from(spacing_mm=(2.0, 1.5, 1.5), origin_mm=(-30.0, 10.0, 400.0)))
    scan.write(tmp_path / "scan.nii.gz")
    of = Recipe(region="point", size=(16, 16, 16), spacing_mm=(2.0, 2.0, 2.0))
    point = scan.index_to_mm((20, 20, 25))
    folder = model(tmp_path / "model", of=of)
    about = explain_scan(folder, tmp_path / "scan.nii.gz", tmp_path / "out", point_mm=point, device="cpu")
    image = nibabel.load(tmp_path / "out" / "map.nii.gz")
    assert image.shape == (50, 40, 30)
    assert np.allclose(image.affine, nibabel.load(tmp_path / "scan.nii.gz").affine, atol=1e-4)
    values = np.asarray(image.dataobj).transpose(2, 1, 0)
    inside = np.zeros(values.shape, bool)
    low, high = (scan.mm_to_index(point + side * 16) for side in (-1, 1))
    inside[tuple(slice(math.floor(a), math.ceil(b) + 1) for a, b in zip(low, high, strict=True))] = True
    assert np.all(values[~inside] == 0)
    top = scan.index_to_mm(np.argwhere(values > 0.9 * values.max()).mean(axis=0))
    assert np.linalg.norm(top - about["maps"][0]["peak_lps_mm"]) < 4.0
    assert np.linalg.norm(top - scan.index_to_mm((21.5, 20, 24.5))) < 4.0


def test_shares_of_a_map_say_where_it_lies(chest, chest_model):
    volume, truth = chest
    predictor = Predictor(chest_model, device="cpu")
    sample = predictor.prepare(volume)
    places = places_of(volume, sample)
    assert np.array_equal(np.sum([mask.astype(int) for mask in places.values()], axis=0), np.ones(sample.shape, int))
    values = np.zeros(sample.shape, np.float32)
    index = np.rint(sample.mm_to_index(truth.lesions[0].centre_mm)).astype(int)
    values[tuple(slice(i - 1, i + 2) for i in index)] = 1.0
    values[:, 0, 0] = -5.0
    one = HeatMap(values=values, spread=None, affine=sample.affine, output="1", method="occlusion", log_odds=0.0)
    found = locate(one, places)
    assert found.peak in ("lungs", "lung-field")
    assert found.shares["lungs"] + found.shares["lung-field"] == pytest.approx(1.0)
    assert locate(replace(one, values=-np.abs(values)), places).shares is None


# can it be believed


def sample_odds(folder) -> SampleOdds:
    return odds_of_sample(Predictor(folder, device="cpu"), sample_with_object(), ["1"])


def test_deleting_what_a_map_of_brightness_shows_lowers_the_output_and_inserting_it_raises_it(tmp_path):
    folder = model(tmp_path / "model")
    (found,) = explain(Predictor(folder, device="cpu"), sample_with_object())
    curves = curves_of(sample_odds(folder), found.values, 8.0, SPACING)
    assert curves.shares[0] == 0
    assert curves.shares[-1] == pytest.approx(0.1, abs=0.01)
    assert curves.deletion[0] == pytest.approx(found.log_odds, abs=1e-3)
    assert curves.deletion[-1] < curves.random_deletion[-1]
    assert curves.deletion_gain > 0
    assert curves.insertion_gain > 0
    turned = curves_of(sample_odds(folder), -found.values, 8.0, SPACING)
    assert turned.deletion_gain < 0


def test_weights_are_lost_from_the_head_down_and_the_network_itself_stays(tmp_path):
    predictor = Predictor(model(tmp_path / "model", random=True), device="cpu")
    before = {name: one.clone() for name, one in predictor.network.state_dict().items()}
    parts, changed = [], []
    for part, lost in randomised(predictor.network):
        parts.append(part)
        changed.append({n for n, one in lost.state_dict().items() if not torch.equal(one, before[n])})
    assert parts == ["head", "layer4", "layer3", "layer2", "layer1", "stem"]
    assert all(first <= second for first, second in pairwise(changed))
    assert {name.split(".")[0] for name in changed[0]} == {"fc"}
    assert not any(torch.equal(one, before[name]) for name, one in lost.state_dict().items() if "conv" in name)
    assert "conv1.weight" in changed[-1]
    assert "conv1.weight" not in changed[-2]
    assert all(torch.equal(one, before[name]) for name, one in predictor.network.state_dict().items())


@pytest.mark.parametrize("options", [{}, {"squeeze_excite": True}, {"pooling": "attention"}, {"norm": "group"}])
def test_after_the_stem_no_trained_number_is_left(tmp_path, options):
    network = build(replace(RANDOM, **options), recipe(), 2).eval()
    with torch.no_grad():
        for one in network.state_dict().values():
            one.fill_(7)
    *_, (_, lost) = randomised(network)
    left = {name for name, one in lost.state_dict().items() if (one == 7).any()}
    assert not left
    assert all((one == 7).all() for one in network.state_dict().values())


def test_a_map_that_ignores_the_weights_is_said_to_say_nothing(tmp_path):
    one = sample_odds(model(tmp_path / "model"))
    edges = np.abs(np.gradient(one.hu[0].numpy().astype(np.float32))).sum(axis=0).astype(np.float32)
    check = check_map(one, edges, lambda _: edges, 8.0, SPACING)
    assert list(check.correlations.values()) == pytest.approx([1.0] * 6)
    assert not check.holds
    assert "does not change when the weights are lost, and says nothing" in check.verdict


@pytest.mark.parametrize(
    ("deletion", "at_random", "holds", "verdict"),
    [
        ((0.0, -1.0, -2.0), (0.0, -0.1, -0.2), True, "lowers the output more than chance."),
        ((0.0, 0.1, 0.2), (0.0, 1.0, 2.0), False, "does not lower the output: it says nothing."),
        ((0.0, -0.1, -0.2), (0.0, -1.0, -2.0), False, "lowers the output no more than chance or lost weights"),
    ],
)
def test_a_map_holds_only_where_deleting_what_it_shows_lowers_the_output_itself(deletion, at_random, holds, verdict):
    """Deleting may raise the output less than chance does: that shows nothing of what the output depends on."""
    curves = Curves(
        shares=(0.0, 0.05, 0.1), deletion=deletion, insertion=(0.0, 1.0, 2.0), random_deletion=at_random,
        random_insertion=(0.0, 1.5, 2.5),
    )  # fmt: skip
    check = SanityCheck(curves=curves, random_gain=0.0, correlations={"head": 0.9, "stem": 0.1})
    assert check.holds is holds
    assert verdict in check.verdict
    assert "Putting it back into a blurred image does not raise the output more than chance does." in check.verdict


def test_a_rank_correlation_leaves_out_where_both_maps_are_zero():
    rng = np.random.default_rng(0)
    one, other = np.zeros((2, 16, 16, 16), np.float32)
    one[:8], other[:8] = rng.normal(size=(2, 8, 16, 16))
    assert rank_correlation(one, one, 4.0, (2.0, 2.0, 2.0)) == pytest.approx(1.0)
    assert rank_correlation(one, -one, 4.0, (2.0, 2.0, 2.0)) == pytest.approx(-1.0)
    assert abs(rank_correlation(one, other, 4.0, (2.0, 2.0, 2.0))) < 0.3
    assert rank_correlation(one, np.zeros_like(one), 4.0, (2.0, 2.0, 2.0)) == 0.0


# the command


@pytest.fixture
def scan(tmp_path):
    volume = sample_with_object((40, 48, 48))
    volume.write(tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_a_folder_is_written_whole_and_again_over_itself_alone(tmp_path, scan, capsys):
    folder, out = model(tmp_path / "model", members=2), tmp_path / "out"
    large = ["--patch-mm", "24"]  # few cubes, for each of the networks whose weights are lost
    assert main(["explain", str(folder), str(scan), "--out", str(out), "--check", "--device", "cpu", *large]) == 0
    told = capsys.readouterr().out
    assert told.startswith("decision: ")
    assert "1: peak at " in told
    assert "it locates no disease" in told
    assert "when the weights are lost" in told or "says nothing" in told
    files = {"explanation.html", "explanation.json", "map.nii.gz", "spread.nii.gz", "planes.png"}
    assert {file.name for file in out.iterdir()} == files
    about = json.loads((out / "explanation.json").read_text())
    (one,) = about["maps"]
    assert one["settings"]["fills"] == ["air", "local mean"]
    assert set(one["check"]["correlations"]) == {"head", "layer4", "layer3", "layer2", "layer1", "stem"}
    assert about["prediction"]["spread"]["1"] >= 0
    page = (out / "explanation.html").read_text()
    assert page.count("it locates no disease") >= 2
    assert str(tmp_path) not in page + json.dumps(about)
    assert main(["explain", str(folder), str(scan), "--out", str(out), "--method", "hirescam", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["maps"][0]["method"] == "hirescam"
    assert again["meaning"].startswith("It estimates by gradients where replacing")
    (out / "notes.txt").write_text("mine")
    assert main(["explain", str(folder), str(scan), "--out", str(out)]) == 1
    assert "holds notes.txt" in capsys.readouterr().err
    assert (out / "notes.txt").read_text() == "mine"


def test_no_file_is_replaced_that_no_explanation_wrote(tmp_path, scan, capsys):
    folder, out = model(tmp_path / "model"), tmp_path / "out"
    out.mkdir()
    own = scan.rename(out / "map.nii.gz")
    before = own.read_bytes()
    assert main(["explain", str(folder), str(own), "--out", str(out)]) == 1
    assert "holds map.nii.gz" in capsys.readouterr().err
    assert own.read_bytes() == before
    own.rename(scan)
    (out / "planes.png").write_text("precious")
    assert main(["explain", str(folder), str(scan), "--out", str(out)]) == 1
    assert "holds planes.png" in capsys.readouterr().err
    (out / "planes.png").unlink()
    (tmp_path / "mine.json").write_text("{}")
    (out / "explanation.json").symlink_to(tmp_path / "mine.json")
    assert main(["explain", str(folder), str(scan), "--out", str(out)]) == 1
    assert "holds explanation.json" in capsys.readouterr().err
    (out / "explanation.json").unlink()
    assert main(["explain", str(folder), str(scan), "--out", str(out), "--method", "hirescam"]) == 0
    (out / "planes-2.png").write_text("precious")
    assert main(["explain", str(folder), str(scan), "--out", str(out)]) == 1
    assert "holds planes-2.png" in capsys.readouterr().err


def test_a_class_may_have_any_name_and_a_map_in_doubt_says_so(tmp_path, scan, capsys):
    folder = model(tmp_path / "model", classes=("0", r"$\foo$ x_{"), random=True)
    flags = ["--device", "cpu", "--patch-mm", "16"]
    assert main(["explain", str(folder), str(scan), "--out", str(tmp_path / "out"), *flags]) == 0
    (one,) = json.loads((tmp_path / "out" / "explanation.json").read_text())["maps"]
    told = capsys.readouterr().out
    agreement = one["settings"]["fill_agreement"]
    assert bool(one["doubt"]) == (agreement is None or agreement < 0.5)
    assert one["doubt"] in told
    doubtful = HeatMap(
        values=np.zeros((2, 2, 2), np.float32), spread=None, affine=np.eye(4), output="1", method="occlusion",
        settings={"fill_agreement": 0.22}, log_odds=0.0,
    )  # fmt: skip
    agree_little = "The two fills of occlusion agree little, by a correlation of 0.22"
    assert doubtful.doubt == f"{agree_little}: this map shows the fill as much as the image."
    assert not replace(doubtful, settings={"fill_agreement": 0.7}).doubt
    assert not replace(doubtful, settings={}, method="hirescam").doubt


def test_several_findings_have_numbered_files(tmp_path, scan):
    folder = model(tmp_path / "model", classes=("a b", "c/d"), multi_label=True)
    about = explain_scan(folder, scan, tmp_path / "out", config=ExplainConfig(method="hirescam"), device="cpu")
    assert [one["files"] for one in about["maps"]] == [[f"map-{k}.nii.gz", f"planes-{k}.png"] for k in (1, 2)]


def test_a_prepared_volume_has_a_map_on_the_models_grid_and_no_place(tmp_path):
    folder = model(tmp_path / "model", of=recipe(npy_range="hu"))
    np.save(tmp_path / "case.npy", sample_with_object().voxels_hu)
    about = explain_scan(folder, tmp_path / "case.npy", tmp_path / "out", device="cpu")
    assert about["maps"][0]["peak_in"] is about["maps"][0]["peak_lps_mm"] is None
    assert about["maps"][0]["peak_index_zyx"] == pytest.approx([7.5, 22.5, 10.5], abs=2.0)
    assert nibabel.load(tmp_path / "out" / "map.nii.gz").shape == SIZE[::-1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--finding", "cancer"], "an output must be one of 0, 1, got 'cancer'"),
        (["--finding", "1", "1"], "outputs must be distinct, got 1, 1"),
        (["--patch-mm", "0"], "patch_mm must be positive, got 0"),
        (["--patch-mm", "0.01"], "patch_mm must be 2 to 32 for this model's box, got 0.01"),
        (["--patch-mm", "1e9"], "patch_mm must be 2 to 32 for this model's box"),
        (["--patch-mm", "nan"], "patch_mm must be positive, got nan"),
        (["--patch-mm", "5", "--method", "hirescam"], "patch_mm must be absent with hirescam"),
        (["--stage", "2"], "stage must be absent with occlusion"),
        (["--stage", "5", "--method", "gradcam"], "stage must be 1 to 4, got 5"),
        (["--mask", "mask.nii.gz"], "a mask is for models that look for the lungs"),
        (["--point", "1", "2", "3"], "--point is for models of region point, this one is of region whole"),
        (["--device", "tpu"], "device"),
    ],
)
def test_wrong_flags_end_in_one_line_before_anything_is_written(tmp_path, scan, capsys, flags, message):
    folder = model(tmp_path / "model")
    assert main(["explain", str(folder), str(scan), "--out", str(tmp_path / "out"), *flags]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_the_out_folder_must_be_one(tmp_path, scan, capsys):
    folder = model(tmp_path / "model")
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file", tmp_path / "file" / "below"):
        assert main(["explain", str(folder), str(scan), "--out", str(out)]) == 1
        assert "--out must be" in capsys.readouterr().err
