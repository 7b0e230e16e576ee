"""Of several series the one to take is taken for reasons that are said, or the choice is left to the user."""

import numpy as np
import pytest

from dicom_files import SERIES, write_series
from hilum.errors import ReadError
from hilum.reading.dicom.series import find_series
from hilum.reading.doctor import examine
from hilum.reading.paths import source_files
from hilum.reading.reader import read
from hilum.reading.select import RULES, choose_series, is_sharp, rate

LUNG, TISSUE = -850, 40


def _slices(count: int, hu: int = LUNG, value: int = 0) -> np.ndarray:
    """Slices half of one HU, half of soft tissue; ``value`` tells one series from another."""
    scan = np.full((count, 8, 8), TISSUE, np.int16)
    scan[:, :4] = hu
    scan[:, 7, 7] = value
    return scan


def _write(folder, name, *, step=2.5, count=40, value=0, hu=LUNG, **changes):
    changes = {"SeriesInstanceUID": f"1.2.{abs(hash(name)) % 10**8}", "BodyPartExamined": "CHEST", **changes}
    write_series(folder / name, _slices(count, hu, value), step_mm=(0, 0, step), SliceThickness=str(step), **changes)
    return changes["SeriesInstanceUID"]


def _taken(folder, series=None) -> int:
    return int(read(folder, series=series).voxels_hu[0, 7, 7])


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"step": 1.0, "count": 100}, {"step": 5.0, "count": 20}),
        ({}, {"BodyPartExamined": "ABDOMEN"}),
        ({}, {"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED"]}),
        ({}, {"hu": 60}),
        ({"ConvolutionKernel": "B30f"}, {"ConvolutionKernel": "B70f"}),
        ({"count": 60}, {"count": 30}),
        ({}, {"ImageOrientationPatient": [1, 0, 0, 0, 0, -1]}),
    ],
    ids=["thin", "chest", "original", "lungs", "kernel", "coverage", "axial"],
)
def test_each_rule_decides_where_all_else_is_equal(tmp_path, better, worse):
    _write(tmp_path, "a", value=1, **worse)
    _write(tmp_path, "b", value=2, **better)
    if "ImageOrientationPatient" in worse:  # slices lie along y
        series, _ = find_series(source_files(tmp_path))
        assert rate(series[0]).score != rate(series[1]).score
    else:
        assert _taken(tmp_path) == 2


def test_the_reasons_are_said_with_their_points(tmp_path):
    _write(tmp_path, "thick", step=5.0, count=30)
    _write(tmp_path, "thin", step=1.0, count=150)
    note = next(f for f in read(tmp_path).findings if f.code == "mixed-series")
    assert note.severity == "note"
    assert "one of 2 series here, taken with" in note.message
    assert "+3 a slice every 1 mm" in note.message
    assert "+4 lungs in 50% of the field" in note.message
    found, _ = examine(tmp_path)
    scores = {e.where: e.score for e in found}
    assert scores["thin"] > scores["thick"]
    assert all("+2 body part chest" in e.reasons for e in found)


def test_equally_good_series_are_left_to_the_user(tmp_path):
    one, other = _write(tmp_path, "a", value=1), _write(tmp_path, "b", value=2)
    with pytest.raises(ReadError, match=r"2 of 2 series are equally good, pick one with series: series-\w+: CT, 40 sl"):
        read(tmp_path)
    assert (_taken(tmp_path, one), _taken(tmp_path, other)) == (1, 2)


def test_series_of_two_studies_are_never_chosen_between(tmp_path):
    _write(tmp_path, "a", step=1.0, value=1)
    other = _write(tmp_path, "b", step=5.0, value=2, StudyInstanceUID="1.2.3.9")
    with pytest.raises(ReadError, match="series of several studies lie here, pick one"):
        read(tmp_path)
    assert _taken(tmp_path, other) == 2


def test_a_refused_series_is_no_choice(tmp_path):
    _write(tmp_path, "scout", count=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    _write(tmp_path, "scan", value=2)
    note = next(f for f in read(tmp_path).findings if f.code == "mixed-series")
    assert note.message == "one of 2 series here, the others are refused"
    _write(tmp_path, "scan", Modality="MR")
    with pytest.raises(ReadError, match=r"all 2 series are refused: .*wrong-modality.*localizer"):
        read(tmp_path)


@pytest.mark.parametrize(("rule", "value"), [("thinnest", 1), ("most-slices", 2), ("soft", 3), ("sharp", 4)])
def test_a_rule_picks_the_series_that_it_is_named_for(tmp_path, rule, value):
    assert rule in RULES
    _write(tmp_path, "thin", step=0.5, count=20, value=1, ConvolutionKernel="B60f")
    _write(tmp_path, "many", step=2.0, count=90, value=2, ConvolutionKernel="B60f", BodyPartExamined="NECK")
    _write(tmp_path, "soft", step=2.5, count=60, value=3, ConvolutionKernel="B30f")
    _write(tmp_path, "sharp", step=1.5, count=80, value=4, ConvolutionKernel="B80f")
    volume = read(tmp_path, series=rule)
    assert int(volume.voxels_hu[0, 7, 7]) == value
    assert any(f"taken by the rule {rule}" in f.message for f in volume.findings)


@pytest.mark.parametrize(
    "kernel", ["B60f", "B70s", "Br64d\\3", "Bl57", "I70f", "LUNG", "BONEPLUS", "YA", "L", "FC51", "EDGE"]
)
def test_sharp_kernels_are_known(kernel):
    assert is_sharp(kernel)


@pytest.mark.parametrize(
    "kernel", ["B30f", "B31s", "Br40d\\3", "I31f", "STANDARD", "SOFT", "B", "A", "C", "FC08", "", "FC13"]
)
def test_soft_kernels_are_known(kernel):
    assert not is_sharp(kernel)


def test_a_name_that_fits_several_series_is_not_guessed(tmp_path):
    _write(tmp_path, "a")
    _write(tmp_path, "b")
    series, _ = find_series(source_files(tmp_path))
    with pytest.raises(ReadError, match="there are several series that begin with series-: "):
        choose_series(series, "series-")
    assert choose_series(series, series[0].name[:14])[0] is series[0]


def test_a_series_alone_is_taken_without_a_word(tmp_path):
    write_series(tmp_path, _slices(12))
    assert not [f for f in read(tmp_path, series=SERIES).findings if f.code == "mixed-series"]
    assert not [f for f in read(tmp_path, series="best").findings if f.code == "mixed-series"]
