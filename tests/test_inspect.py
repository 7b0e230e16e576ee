"""The doctor looks at every series below a path and stops at none."""

import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from dicom_files import scan_hu, write_series
from hilum.errors import ReadError
from hilum.reading import examine


def test_every_series_is_described(tmp_path):
    write_series(tmp_path / "a", scan_hu(12), step_mm=(0, 0, 2.5))
    (found,), loose = examine(tmp_path)
    assert loose == []
    assert (found.where, found.modality, found.num_slices, found.size) == ("a", "CT", 12, (6, 8))
    assert (found.spacing_mm, found.thickness_mm, found.kernel) == ((2.5, 0.75, 0.5), 2.5, "B30f")
    assert found.verdict == "ok"
    assert found.findings == ()


def test_a_bad_series_does_not_hide_a_good_one(tmp_path):
    write_series(tmp_path / "good", scan_hu(12))
    gaps = write_series(tmp_path / "gaps", scan_hu(12), SeriesInstanceUID="1.2.3")
    gaps[4].unlink()
    write_series(
        tmp_path / "scout", scan_hu(1), SeriesInstanceUID="1.2.4", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    (tmp_path / "text.dcm").write_text("no image")
    (tmp_path / "bad.nii").write_bytes(b"no image")
    sitk.WriteImage(sitk.GetImageFromArray(scan_hu(12)), str(tmp_path / "fine.nrrd"))
    found, loose = examine(tmp_path)
    verdicts = {e.where: e.verdict for e in found}
    assert verdicts == {
        "good": "ok",
        "gaps": "refused",
        "scout/IM000.dcm": "refused",
        "bad.nii": "refused",
        "fine.nrrd": "ok",
    }
    assert {f.code for f in loose} == {"unreadable-file", "mixed-series"}


def test_repeated_slices_are_judged_by_their_pixels_as_in_reading(tmp_path):
    paths = write_series(tmp_path / "copies")
    shutil.copy(paths[0], tmp_path / "copies" / "again.dcm")
    write_series(tmp_path / "film" / "1", SeriesInstanceUID="1.2.3")
    write_series(tmp_path / "film" / "2", scan_hu() + 5, SeriesInstanceUID="1.2.3")
    found, _ = examine(tmp_path)
    assert [(e.verdict, [f.code for f in e.findings][-1]) for e in found] == [
        ("repaired", "duplicate-slices"),
        ("refused", "time-series"),
    ]


def test_a_tilted_series_is_repaired_and_keeps_its_spacing(tmp_path):
    write_series(tmp_path, step_mm=(0, 1.0, 2.5))
    (found,), _ = examine(tmp_path)
    assert found.verdict == "repaired"
    assert found.spacing_mm == (pytest.approx(np.hypot(1, 2.5), abs=1e-5), 0.75, 0.5)


def test_what_was_found_is_plain_values_for_json(tmp_path):
    write_series(tmp_path)
    (found,), _ = examine(tmp_path)
    told = json.loads(json.dumps(found.as_dict()))
    assert told["verdict"] == "ok"
    assert told["findings"][0]["code"] == "few-slices"
    assert told["size"] == [6, 8]


def test_a_single_file_is_examined_under_its_own_name(tmp_path):
    paths = write_series(tmp_path, scan_hu(3))
    (found,), _ = examine(paths[0])
    assert found.where == paths[0].name
    assert found.verdict == "refused"


def test_nothing_to_examine_is_an_empty_list_and_no_path_is_an_error(tmp_path):
    assert examine(tmp_path) == ([], [])
    with pytest.raises(ReadError, match=r"no file or folder .*nowhere"):
        examine(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "verdicts", "codes"),
    [
        ("compressed", {"refused"}, {"time-series", "single-slice", "lossy-compression", "processed-image"}),
        ("gantry-tilt", {"repaired"}, {"gantry-tilt"}),
        ("slice-increment", {"refused"}, {"missing-slices"}),
        ("slice-count", {"refused"}, {"wrong-modality", "single-slice"}),
        ("not-a-volume", {"refused"}, {"time-series"}),
        ("multiframe", {"refused"}, {"single-slice", "derived-image"}),
        ("abdomen.nii.gz", {"repaired"}, {"padding", "clipped"}),
    ],
)
def test_the_real_odd_inputs_get_the_diagnosis_they_are_known_for(shared_data, name, verdicts, codes):
    found, _ = examine(shared_data / "odd" / name)
    assert {e.verdict for e in found} == verdicts
    assert codes <= {f.code for e in found for f in e.findings}
