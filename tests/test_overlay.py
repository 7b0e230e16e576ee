"""What is drawn over a scan is where the lungs are, and the table, the page and JSON say the same about them."""

import json

import numpy as np
import pytest

from dicom_files import scan_hu, write_series
from hilum.cli import main
from hilum.preparing import segment_lungs
from hilum.preparing.lungs.overlay import FIELD_RGB, LEFT_RGB, RIGHT_RGB, inspect_lungs, overlay
from hilum.simulating import Scanner, simulate_scan

QUICK = Scanner(pixel_mm=3.0, pixels=128, thickness_mm=4.0, increment_mm=4.0, noise_hu=10.0)


@pytest.fixture(scope="module")
def chest():
    return simulate_scan(7, scanner=QUICK)[0]


def _nearest_colour(picture, colour):
    """Pixels that lean towards a colour."""
    grey = picture.astype(float).mean(axis=-1, keepdims=True)
    tint = picture - grey
    wanted = np.array(colour) - np.mean(colour)
    return (tint @ wanted) / np.linalg.norm(wanted) > 0.2 * np.linalg.norm(wanted)


def test_right_and_left_have_their_colours_and_fields_an_outline(chest):
    lungs = segment_lungs(chest)
    axial, coronal, sagittal = overlay(chest, lungs, pixel_mm=3.0)
    assert axial.shape == (128, 128, 3)
    assert coronal.shape[1] == 128
    assert sagittal.shape[1] == 128
    for picture in (axial, coronal):
        right, left = (np.argwhere(_nearest_colour(picture, c))[:, 1].mean() for c in (RIGHT_RGB, LEFT_RGB))
        assert right < left  # the patient's right is on the left of the picture
        assert (picture == FIELD_RGB).all(axis=-1).any()
    heights = np.flatnonzero(_nearest_colour(coronal, LEFT_RGB).any(axis=1))
    widths = [np.count_nonzero(_nearest_colour(coronal, LEFT_RGB)[y]) for y in (heights[2], heights[-12])]
    assert widths[0] < widths[1]  # the apex, narrow, is up


def test_the_planes_meet_where_they_are_told_to(chest):
    lungs = segment_lungs(chest)
    centre = chest.index_to_mm((20, 60, 40))
    axial = overlay(chest, lungs, point_mm=centre, pixel_mm=3.0)[0]
    plain = np.clip((chest.voxels_hu[20].astype(float) + 1000) / 1400, 0, 1) * 255
    untouched = (lungs.labels[20] == 0) & (lungs.field[20] == 0)
    assert np.abs(axial[untouched] - plain[untouched][:, None]).max() <= 0.5


def test_a_scan_without_lungs_is_drawn_plain_and_says_so(chest):
    seen = inspect_lungs(type(chest)(voxels_hu=np.full((20, 40, 40), 40, np.int16), affine=chest.affine))
    assert (seen.verdict, seen.summary) == ("no-lungs", "no lungs found")
    assert [picture.ndim for picture in seen.pictures] == [3, 3, 3]


def test_table_page_and_json_say_the_same_about_the_lungs(chest, tmp_path, capsys):
    chest.write(tmp_path / "scans" / "chest.nii.gz")
    gaps = write_series(tmp_path / "scans" / "gaps", scan_hu(12))
    gaps[4].unlink()
    assert main(["inspect", str(tmp_path / "scans"), "--lungs", "--html", str(tmp_path / "page.html")]) == 0
    table = capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "scans"), "--lungs", "--json"]) == 0
    series = {one["where"]: one for one in json.loads(capsys.readouterr().out)["series"]}
    lungs = series["chest.nii.gz"]["lungs"]
    assert lungs["verdict"] == "good"
    assert lungs["findings"] == []
    summary = f"lungs good: {lungs['litres']:.2f} litres, {lungs['right']:.0%} right"
    assert summary in table
    page = (tmp_path / "page.html").read_text()
    assert summary in page
    assert page.count("data:image/png") == 2 + 1  # of the refused series only its middle slice
    assert "lungs" not in series["gaps"]
    assert main(["inspect", str(tmp_path / "scans"), "--json"]) == 0
    assert "litres" not in capsys.readouterr().out
