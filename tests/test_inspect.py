"""The doctor looks at every series below a path and stops at none."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from dicom_files import SERIES, scan_hu, write_series
from hilum.cli import main
from hilum.errors import ReadError
from hilum.reading.doctor import examine, examine_scan, list_scans
from hilum.reading.paths import opened_tree
from hilum.reading.reader import read
from hilum.settings.run import ReadingConfig


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


def test_a_scan_that_is_not_refused_comes_with_its_voxels(tmp_path):
    write_series(tmp_path / "good", scan_hu(12))
    write_series(tmp_path / "gap", scan_hu(12), SeriesInstanceUID="1.2.3")[4].unlink()
    (tmp_path / "damaged.nii").write_bytes(b"damaged")
    reading = ReadingConfig()
    with opened_tree(tmp_path, reading) as tree:
        found = [examine_scan(item, "", reading) for item in list_scans(tree, tmp_path, reading)[0]]
    assert [(one.verdict, volume is None) for one, volume in found] == [
        ("ok", False), ("refused", True), ("refused", True),
    ]  # fmt: skip
    assert np.array_equal(found[0][1].voxels_hu, read(tmp_path / "good").voxels_hu)


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
    with pytest.raises(ReadError, match=r"nowhere: no file or folder"):
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
        ("abdomen.nii.gz", {"repaired"}, {"air-noise", "clipped"}),
    ],
)
def test_the_real_odd_inputs_get_the_diagnosis_they_are_known_for(shared_data, name, verdicts, codes):
    found, _ = examine(shared_data / "odd" / name)
    assert {e.verdict for e in found} == verdicts
    assert codes <= {f.code for e in found for f in e.findings}


# what the command prints and writes


def test_the_page_shows_every_scan_with_a_picture_and_loads_nothing(tmp_path, capsys):
    write_series(tmp_path / "good", scan_hu(12))
    gaps = write_series(tmp_path / "gaps", scan_hu(12), SeriesInstanceUID="1.2.3")
    gaps[4].unlink()
    gaps[5].unlink()
    sitk.WriteImage(sitk.GetImageFromArray(scan_hu(12)), str(tmp_path / "fine & <b>.nrrd"))
    assert main(["inspect", str(tmp_path), "--html", str(tmp_path / "page.html")]) == 0
    text = (tmp_path / "page.html").read_text()
    assert text.count("<article") == 3
    assert text.count('src="data:image/png;base64,') == 3
    assert "missing-slices" in text
    assert "fine &amp; &lt;b&gt;.nrrd" in text
    assert not re.findall(r"(?:src|href)=\"(?!data:)|https?://|@import|url\(", text)
    assert capsys.readouterr().out.startswith("verdict")


def test_a_picture_is_the_scan_in_its_own_proportions(tmp_path):
    """Twelve slices of 2.5 mm, six rows of 0.75 mm, eight columns of 0.5 mm: 30 x 4.5 x 4 mm, pixels of 0.5 mm."""
    write_series(tmp_path, scan_hu(12))
    (found,), _ = examine(tmp_path, pictures=True)
    assert [plane.shape for plane in found.planes] == [(9, 8), (60, 8), (60, 9)]
    assert int(found.planes[1][0, 0]) > int(found.planes[1][-1, 0])  # the head, where HU are higher, is up


def test_a_screen_capture_is_never_shown(tmp_path):
    """Names are often burned into these."""
    write_series(tmp_path, scan_hu(12), SOPClassUID="1.2.840.10008.5.1.4.1.1.7")
    (found,), _ = examine(tmp_path, pictures=True)
    assert found.planes == ()
    assert "secondary-capture" in {f.code for f in found.findings}


def test_json_is_one_object_with_the_series_and_what_was_found(tmp_path, capsys):
    write_series(tmp_path, scan_hu(12))
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"series", "findings", "num_left_out"}
    (series,) = told["series"]
    assert series["verdict"] == "ok"
    assert series["score"] > 0
    assert all(set(f) == {"code", "severity", "message", "where"} for f in [*series["findings"], *told["findings"]])


def test_names_of_files_can_be_hidden_everywhere(tmp_path, capsys):
    root = tmp_path / "scans"
    gaps = write_series(root / "MILLER_ANNA", scan_hu(12))
    gaps[4].unlink()
    gaps[5].unlink()
    (root / "MILLER_ANNA" / "MILLER.dcm").write_text("no image")
    (root / "MILLER.nii").write_bytes(b"damaged")
    sitk.WriteImage(sitk.GetImageFromArray(scan_hu(12)), str(root / "MILLER.nrrd"))
    (root / "MILLER.zip").write_bytes(b"PK damaged")
    copies = write_series(root / "MILLER_BEN", SeriesInstanceUID="1.2.3")
    shutil.copy(copies[0], root / "MILLER_BEN" / "MILLER_again.dcm")
    for flags in (["--json"], []):
        assert main(["inspect", str(root), "--hide-paths", "--html", str(tmp_path / "p.html"), *flags]) == 0
        said = capsys.readouterr()
        for text in (said.out, said.err, (tmp_path / "p.html").read_text()):
            assert "MILLER" not in text
            assert "IM0" not in text
    assert main(["inspect", str(root)]) == 0
    assert "MILLER_ANNA" in capsys.readouterr().out


def test_uids_are_hashes_unless_a_site_wants_them(tmp_path, capsys):
    write_series(tmp_path, scan_hu(12))
    assert main(["inspect", str(tmp_path), "--json"]) == 0
    assert SERIES not in capsys.readouterr().out
    assert main(["inspect", str(tmp_path), "--json", "--keep-uids"]) == 0
    assert json.loads(capsys.readouterr().out)["series"][0]["series"] == SERIES


def test_the_policy_is_a_flag_and_so_is_each_exception_to_it(tmp_path, capsys):
    gaps = write_series(tmp_path, scan_hu(24), SliceThickness=None)
    gaps[4].unlink()
    verdicts = []
    for flags in (
        [],
        ["--reading.policy", "strict"],
        ["--reading.override", "missing-slices=refused"],
        ["--reading.policy", "lenient"],
    ):
        assert main(["inspect", str(tmp_path), "--json", *flags]) == 0
        verdicts.append(json.loads(capsys.readouterr().out)["series"][0]["verdict"])
    assert verdicts == ["repaired", "refused", "refused", "repaired"]
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", str(tmp_path), "--reading.override", "missing-slices=note"])
    assert stopped.value.code == 2
    assert "missing-slices must be repaired or refused" in " ".join(capsys.readouterr().err.split())


def test_an_archive_is_inspected_like_the_folder_in_it(tmp_path):
    write_series(tmp_path / "folder" / "deep", scan_hu(12))
    shutil.make_archive(str(tmp_path / "exam"), "zip", tmp_path / "folder")
    (inside,), loose = examine(tmp_path / "exam.zip")
    assert inside.where == "exam.zip/deep"
    assert (inside.verdict, inside.num_slices) == ("ok", 12)
    assert loose == []
    assert read(tmp_path / "exam.zip").shape == read(tmp_path / "folder").shape


def test_a_series_in_a_folder_and_in_an_archive_in_it_is_one_whose_place_is_that_folder(tmp_path, monkeypatch):
    write_series(tmp_path / "all" / "plain", scan_hu(12))
    shutil.make_archive(str(tmp_path / "all" / "exam"), "zip", tmp_path / "all" / "plain")
    monkeypatch.chdir(tmp_path)
    for path in (Path("all"), tmp_path / "all"):
        (series,), _ = examine(path)
        assert series.where == "."


def test_with_nothing_found_the_command_fails_and_says_so(tmp_path, capsys):
    (tmp_path / "LICENSE").write_text("free")
    (tmp_path / "labels.csv").write_text("a,b")
    assert main(["inspect", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "no CT was found\n"
    assert main(["inspect", str(tmp_path), "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"series": [], "findings": [], "num_left_out": 0}


def test_a_page_replaces_no_device_and_follows_a_link(tmp_path, capsys):
    write_series(tmp_path / "s", scan_hu(12))
    assert main(["inspect", str(tmp_path / "s"), "--html", "/dev/stdout"]) == 1
    assert "/dev/stdout: cannot be written: it must be a file" in capsys.readouterr().err
    (tmp_path / "real.html").write_text('<meta name="generator" content="hilum inspect">')
    (tmp_path / "page.html").symlink_to(tmp_path / "real.html")
    assert main(["inspect", str(tmp_path / "s"), "--html", str(tmp_path / "page.html")]) == 0
    assert (tmp_path / "page.html").is_symlink()
    assert "<article" in (tmp_path / "real.html").read_text()


@pytest.mark.parametrize(("ignored", "status"), [(False, 143), (True, 0)])
def test_a_signal_to_end_takes_unpacked_scans_along_unless_it_is_ignored(tmp_path, ignored, status):
    """nohup ignores a signal, which then stays ignored."""
    write_series(tmp_path / "s", scan_hu(12))
    shutil.make_archive(str(tmp_path / "exam"), "zip", tmp_path / "s")
    (tmp_path / "tmp").mkdir()
    script = f"""
import os, signal
{"signal.signal(signal.SIGTERM, signal.SIG_IGN)" if ignored else ""}
import hilum.reading.doctor as doctor
from hilum.cli import main
original = doctor.find_series
def killed(*arguments, **more):
    os.kill(os.getpid(), signal.SIGTERM)
    return original(*arguments, **more)
doctor.find_series = killed
raise SystemExit(main(["inspect", {str(tmp_path / "exam.zip")!r}]))
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path / "tmp")}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=False)
    assert done.returncode == status, done.stderr
    assert list((tmp_path / "tmp").iterdir()) == []
