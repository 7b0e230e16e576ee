"""The page of a scan: one small file, with everything where the scan has it."""

import base64
import gzip
import json
import re
import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

import dicom_sources
import hilum
from hilum.cli import main
from hilum.findings import find
from hilum.predicting.explain.heat_map import HeatMap
from hilum.reading.reader import read
from hilum.serving.viewer.embedded import embed
from hilum.serving.viewer.layers import map_layers
from hilum.serving.viewer.page import NamedPlace, PageContent, viewer_page
from hilum.volume import Volume, affine_from
from test_dicom_out import model

BROWSER = Path(__file__).parent / "browser"
CHROMIUM = Path("/usr/bin/chromium")
SPACING, ORIGIN = (4.0, 2.5, 3.0), (-90.0, -130.0, 40.0)
SHAPE = (48, 64, 60)
BEAD, PEAK = (37, 14, 11), (12, 45, 44)
"""Voxels towards the head, front and right, and towards the feet, back and left."""


def phantom() -> Volume:
    """Lung everywhere, and a bright bead."""
    hu = np.full(SHAPE, -700, np.int16)
    z, y, x = BEAD
    hu[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = 1500
    return Volume(voxels_hu=hu, affine=affine_from(spacing_mm=SPACING, origin_mm=ORIGIN))


def images_in(page: str) -> list[nibabel.Nifti1Image]:
    """The scan and the layers of a page."""
    (text,) = re.findall(r'<script type="application/json" id="scene">(.*?)</script>', page, re.S)
    scene = json.loads(text)
    contents = [scene["scan"], *(one["nifti"] for one in scene["layers"])]
    return [nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(one))) for one in contents]


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """What Chromium saw of a page with a bead and a map, and the folder of its screenshots."""
    node = shutil.which("node")
    if node is None or not CHROMIUM.exists() or not (BROWSER / "node_modules").is_dir():
        pytest.skip("node, Chromium or playwright-core is not here (scripts/tools)")
    folder, scan = tmp_path_factory.mktemp("page"), phantom()
    distance = np.linalg.norm((np.moveaxis(np.indices(SHAPE), 0, -1) - PEAK) * SPACING, axis=-1)
    values = 2.0 * np.exp(-((distance / 9) ** 2)) - 0.01
    heat_map = HeatMap(
        values=values.astype(np.float32), spread=None, affine=scan.affine, output="a <class>", method="occlusion",
        log_odds=1.0,
    )  # fmt: skip
    content = PageContent(
        start_mm=tuple(scan.centre_mm.tolist()),
        places=(
            NamedPlace(name="Bead", lps_mm=tuple(scan.index_to_mm(BEAD).tolist())),
            NamedPlace(name="Peak", lps_mm=tuple(scan.index_to_mm(PEAK).tolist())),
        ),
        findings=((find("missing-slices", "one of 48"), tuple(scan.index_to_mm((20, 32, 30)).tolist())),),
    )
    page = folder / "page.html"
    page.write_text(viewer_page(embed(scan, 4_000_000), map_layers([heat_map]), content), encoding="utf-8")
    done = subprocess.run(
        [node, str(BROWSER / "view.mjs"), str(page), str(folder)], capture_output=True, text=True, timeout=180
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), folder, page


def where_in(used, name: str, is_wanted) -> dict[str, tuple[float, float]]:
    """Centre of the wanted pixels in each plane's tile of a screenshot, as shares of its width and height."""
    seen, folder, _ = used
    picture = np.asarray(Image.open(folder / f"{name}.png").convert("RGB")).astype(int)
    found = {}
    for tile in seen["tiles"][name]:
        kind = tile["text"].split(",")[0].split("\n")[0]
        if kind not in ("Axial", "Coronal", "Sagittal"):
            continue
        left, top, width, height = tile["rectangle"]
        first_row, first_column = round(top) + 2, round(left) + 2  # beside the edge, which may be the page's
        rows = picture[first_row : round(top + height) - 2, first_column : round(left + width) - 2]
        y, x = np.nonzero(is_wanted(rows))
        assert len(y), (name, kind)
        found[kind] = (x.mean() + 0.5 + first_column - left, y.mean() + 0.5 + first_row - top, width, height)
    assert len(found) == 3
    return found


def expected(index) -> dict[str, tuple[float, float]]:
    """Shares of width and height at which a voxel lies by the radiological convention: right on the left, head up."""
    z, y, x = ((i + 0.5) / n for i, n in zip(index, SHAPE, strict=True))
    return {"Axial": (x, y), "Coronal": (x, 1 - z), "Sagittal": (y, 1 - z)}


def white(pixels):
    return pixels.min(axis=-1) > 230


def yellow(pixels):
    return (pixels[..., 0] > 150) & (pixels[..., 1] > 110) & (pixels[..., 2] < 120)


@pytest.mark.parametrize(
    ("shot", "index", "is_wanted"),
    [("without overlays", BEAD, white), ("Bead", BEAD, white), ("Peak", PEAK, yellow)],
)
def test_a_bright_voxel_and_the_peak_of_a_map_are_drawn_where_they_are(used, shot, index, is_wanted):
    for kind, (x, y, width, height) in where_in(used, shot, is_wanted).items():
        share_x, share_y = expected(index)[kind]
        assert abs(x - share_x * width) <= 2, kind
        assert abs(y - share_y * height) <= 2, kind


def test_each_plane_has_the_letters_of_its_sides(used):
    texts = {tile["text"].split(",")[0]: tile["text"].split("\n")[1:] for tile in used[0]["tiles"]["Bead"]}
    assert texts["Axial"] == ["R", "L", "A", "P"]
    assert texts["Coronal"] == ["R", "L", "H", "F"]
    assert texts["Sagittal"] == ["A", "P", "H", "F"]


def test_nothing_is_asked_of_a_network_and_nothing_is_complained_of(used):
    seen, _, page = used
    assert seen["requests"] == [f"file://{page}"]
    assert [line for line in seen["console"] if not line.startswith("warning: [.WebGL")] == []


def numbers(text: str) -> list[float]:
    return [float(n) for n in re.findall(r"-?\d+\.?\d*", text.replace("−", "-"))]


def test_buttons_lead_to_their_places_and_the_readout_says_where_and_how_bright(used):
    seen, scan = used[0]["readouts"], phantom()
    assert numbers(seen["Bead"]) == pytest.approx([*scan.index_to_mm(BEAD), 1500], abs=0.06)
    assert numbers(seen["Peak"]) == pytest.approx([*scan.index_to_mm(PEAK), -700], abs=0.06)
    assert numbers(seen["Go to the slice"]) == pytest.approx([*scan.index_to_mm((20, 32, 30)), -700], abs=0.06)
    x, y, z = scan.index_to_mm(BEAD)
    assert numbers(seen["PageUp"])[:3] == pytest.approx([x, y, z + 4.0], abs=0.06)
    assert numbers(seen["ArrowLeft"])[:3] == pytest.approx([x - 3.0, y, z + 4.0], abs=0.06)
    assert numbers(seen["Shift+ArrowDown"])[:3] == pytest.approx([x - 3.0, y + 25.0, z + 4.0], abs=0.06)
    assert numbers(seen["wheel"])[:3] == pytest.approx([x - 3.0, y + 25.0, z], abs=0.06)


def test_keys_choose_windows_and_layouts_and_open_the_help(used):
    seen, folder, _ = used
    assert [seen["buttons"][key].split()[0] for key in ("1", "2", "3")] == ["Lung", "Soft", "Bone"]
    layouts = [seen["buttons"][f"v {press}"] for press in range(5)]
    assert layouts == ["Axial", "Coronal", "Sagittal", "Render", "All"]
    assert seen["helps"]
    assert seen["closes"]
    lung, soft = (np.asarray(Image.open(folder / f"window {key}.png").convert("L")).astype(int) for key in "12")
    row, column = 200, 200  # within the first tile, in lung
    assert lung[row, column] == pytest.approx(255 * 650 / 1500, abs=2)
    assert soft[row, column] == 0  # -700 HU are black in the window of soft tissue


def test_the_page_fits_every_width_is_dark_in_the_dark_and_names_all_controls(used):
    seen = used[0]
    assert all(over <= 0 for over in seen["overflow"].values()), seen["overflow"]
    assert seen["dark"] == "rgb(21, 23, 26)"
    assert seen["unnamed"] == []


@pytest.mark.parametrize("kind", ["tilted", "oblique", "prone", "plain"])
def test_every_voxel_of_the_embedded_scan_lies_where_the_scan_has_its_hu(tmp_path, kind):
    scan = dicom_sources.write_source(tmp_path / "scan", kind)
    hilum.view(scan, tmp_path / "page.html")
    image = images_in((tmp_path / "page.html").read_text(encoding="utf-8"))[0]
    volume = read(scan)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in image.shape), indexing="ij"), axis=-1)[::3, ::3, ::3]
    mm = (index @ image.affine[:3, :3].T + image.affine[:3, 3]) * (-1, -1, 1)  # RAS to LPS
    at = np.moveaxis(volume.mm_to_index(mm), -1, 0)
    inside = np.all((at >= 1) & (at <= np.array(volume.shape)[:, None, None, None] - 2), axis=0)
    expected_hu = ndimage.map_coordinates(volume.voxels_hu.astype(np.float32), at[:, inside], order=1)
    shown = np.asarray(image.dataobj, np.float32)[::3, ::3, ::3][inside]
    limit = 1 if kind in ("plain", "prone") else 120  # edges are averaged where a grid is straightened
    assert np.percentile(np.abs(shown - expected_hu), 90) <= limit
    assert np.corrcoef(shown, expected_hu)[0, 1] > 0.99


def test_the_page_of_a_large_noisy_chest_stays_under_8_mb_and_says_what_was_lost(tmp_path):
    noise = np.random.default_rng(0).normal(-400, 300, (300, 384, 384)).astype(np.int16)
    scan = Volume(voxels_hu=noise, affine=affine_from(spacing_mm=(1.0, 0.8, 0.8), origin_mm=(0, 0, 0)))
    found = hilum.view(scan, tmp_path / "page.html")
    assert found.num_bytes == (tmp_path / "page.html").stat().st_size < 8_000_000
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "from 300 slices of 384 x 384 pixels" in text
    assert found.shown in text


def test_a_small_scan_is_shown_as_it_is(tmp_path):
    scan = phantom()
    assert hilum.view(scan, tmp_path / "page.html").shown.startswith("Shown as it is")
    (image,) = images_in((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert np.array_equal(np.asarray(image.dataobj).transpose(2, 1, 0), scan.voxels_hu)


def test_a_scan_without_lungs_has_no_overlays_of_them_and_says_so(tmp_path):
    hilum.view(phantom(), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "No lungs were found in this scan." in text
    assert "Right lung" not in text


def test_the_page_holds_no_name_id_date_or_path_of_the_source(tmp_path, capsys):
    scan = dicom_sources.write_source(tmp_path / "MUELLER" / "scan", "repaired")
    assert main(["view", str(scan), "--out", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    for secret in ("ller^J", "MUELLER", "19500102", "20200304", "A-9", "Elsewhere", dicom_sources.STUDY):
        assert secret not in text, secret
    assert not re.search(r"IM\d{3}\.dcm", text)
    assert "missing-slices" in text
    assert 'data-lps="' in text.split("missing-slices")[1][:900]  # and leads to its slice
    assert "page:" in capsys.readouterr().out


def test_what_a_model_says_stands_on_the_page_with_threshold_calibration_and_map(tmp_path):
    predictor = model(tmp_path / "model", classes=("well & good", "<ill>"))
    found = hilum.view(dicom_sources.chest(), tmp_path / "page.html", model=predictor.folder, device="cpu")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "P(&lt;ill&gt;)" in text
    assert "<ill>" not in text
    assert "threshold 0.500" in text
    assert "Calibration (none): as the model was trained." in text
    assert found.heat_maps[0].meaning.replace("'", "&#39;") in text
    assert len(images_in(text)) == 1 + 3 + 1 + 1  # lungs and their fields, box, map
    assert "Not a medical device" in text


def test_the_volumes_of_the_lungs_are_those_of_hilum_lungs(tmp_path):
    chest = dicom_sources.chest()
    lungs = hilum.segment_lungs(chest)
    hilum.view(chest, tmp_path / "page.html")
    expected_words = f"right {lungs.right_ml / 1000:.2f} litres, left {lungs.left_ml / 1000:.2f} litres"
    assert expected_words in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_no_result_is_said_to_be_no_negative_result(tmp_path):
    chest = dicom_sources.chest()
    cut = Volume(voxels_hu=chest.voxels_hu[:20], affine=chest.affine)
    hilum.view(cut, tmp_path / "page.html", model=model(tmp_path / "model").folder, device="cpu")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "This is not a negative result" in text
    assert "upper border" in text
    assert "P(" not in text.split('<script type="application/json"')[0]  # no probability, no map
    assert len(images_in(text)) == 1 + 3 + 1
    assert "Peak of the map" not in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "NOTES"], "exists, and this command did not write its content"),
        (["--out", "NOTES/page.html"], "is no folder"),
        (["--no-map", "--out", "page.html"], "give --model"),
        (["--point", "9999", "0", "0", "--out", "page.html"], "must lie within the scan"),
        (["--model", "nothing", "--out", "page.html"], "is no model folder"),
    ],
)
def test_wrong_uses_end_in_one_line(tmp_path, monkeypatch, capsys, flags, message):
    dicom_sources.chest().write(tmp_path / "scan.nii.gz")
    (tmp_path / "NOTES").write_text("mine")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert main(["view", "scan.nii.gz", *flags]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_a_page_is_written_over_an_earlier_page_alone(tmp_path):
    hilum.view(phantom(), tmp_path / "page.html")
    hilum.view(phantom(), tmp_path / "page.html")
    assert [one.name for one in tmp_path.iterdir()] == ["page.html"]
