"""Scans as files for other programs: right HU and mm, findings beside them, no names, and going on after a stop."""

import csv
import gzip
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import ExplicitVRBigEndian

import hilum
from dicom_files import SERIES, enhanced_dataset, scan_hu, write_series
from hilum.cli import main
from hilum.errors import ConfigError, GeometryError, HilumError, ReadError
from hilum.files import machine_id
from hilum.reading.doctor import examine
from hilum.reading.reader import read
from hilum.serving.record import without_names
from hilum.settings.files import FilesConfig
from hilum.simulating import Header, plan_cohort, simulate_case, write_dicom
from independent import assert_holds_slices, by_itk, by_nibabel


def run(*words):
    """The exit code of a command as users type it."""
    return main([str(word) for word in words])


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


SHEARED = {"tilted": {"step_mm": (0.0, 0.7, 2.5)}}
GRIDS = {
    "plain": {},
    "oblique": {
        "ImageOrientationPatient": [0.8, 0.6, 0.0, -0.6, 0.8, 0.0],
        "step_mm": (0.0, 0.0, 2.5),
    },
    "coronal": {"ImageOrientationPatient": [1.0, 0.0, 0.0, 0.0, 0.0, -1.0], "step_mm": (0.0, 2.5, 0.0)},
    "feet first": {"step_mm": (0.0, 0.0, -2.5)},
    "big endian": {"syntax": ExplicitVRBigEndian},
    **SHEARED,
}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("kind", GRIDS)
def test_every_pixel_has_its_hu_at_its_place_in_every_format(tmp_path, kind, suffix):
    changes = dict(GRIDS[kind])
    if kind == "big endian":
        changes["stored"] = (scan_hu(12).astype(np.int32) + 1024).astype(">u2")
    write_series(tmp_path / "s", scan_hu(12), **changes)
    out = tmp_path / f"out{suffix}"
    if kind in SHEARED and suffix in (".nrrd", ".mha"):
        with pytest.raises(GeometryError, match=r"right angles, this one is sheared, .*; NIfTI holds it"):
            hilum.convert(tmp_path / "s", out)
        assert sorted(one.name for one in tmp_path.iterdir()) == ["s"]
        return
    (done,) = hilum.convert(tmp_path / "s", out)
    assert done.verdict == ("repaired" if kind in SHEARED else "ok")
    if ".nii" in suffix:
        assert_holds_slices(by_nibabel(out), tmp_path / "s", at_least=12)
    if kind not in SHEARED:
        assert_holds_slices(by_itk(out), tmp_path / "s", at_least=12)


def test_an_enhanced_multiframe_is_one_file(tmp_path):
    hu = scan_hu(12)
    enhanced_dataset(hu, order=[*range(0, 12, 2), *range(1, 12, 2)]).save_as(
        tmp_path / "x.dcm", enforce_file_format=True
    )
    (done,) = hilum.convert(tmp_path / "x.dcm", tmp_path / "out.nii.gz")
    stored, affine = by_nibabel(tmp_path / "out.nii.gz")
    assert np.array_equal(stored.transpose(2, 1, 0), hu)
    assert np.allclose(affine, [[0.5, 0, 0, -10], [0, 0.75, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1]])
    assert done.shape == (12, 6, 8)


def test_a_missing_slice_is_interpolated_and_said_so(tmp_path):
    hu = scan_hu(30)
    write_series(tmp_path / "s", hu)[11].unlink()
    assert run("convert", tmp_path / "s", tmp_path / "out") == 0
    (row,) = rows(tmp_path / "out" / "convert.csv")
    assert (row["verdict"], row["shape"], row["spacing_mm"]) == ("repaired", "30x6x8", "2.5 0.75 0.5")
    assert "missing-slices" in row["findings"].split()
    stored, _ = by_nibabel(tmp_path / "out" / row["file"])
    assert np.array_equal(stored.transpose(2, 1, 0), hu), "HU that rise evenly come back"
    document = json.loads((tmp_path / "out" / f"{row['name']}.json").read_text())
    (finding,) = [one for one in document["findings"] if one["code"] == "missing-slices"]
    assert finding["severity"] == "repaired"
    assert set(finding) == {"code", "severity", "message"}
    assert document["interpolated"] == [[0, 11]], "axis and index"


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mha"])
def test_image_files_are_converted_too(tmp_path, suffix):
    image = sitk.GetImageFromArray(scan_hu(12))
    image.SetSpacing([0.5, 0.75, 2.5])
    image.SetOrigin([-10.0, -20.0, 30.0])
    image.SetDirection([-1, 0, 0, 0, 1, 0, 0, 0, 1])
    sitk.WriteImage(image, str(tmp_path / f"a{suffix}"))
    hilum.convert(tmp_path / f"a{suffix}", tmp_path / "out.nii")
    hu, affine = by_nibabel(tmp_path / "out.nii")
    before, of_source = by_itk(tmp_path / f"a{suffix}")
    for index in np.ndindex(2, 2, 2):
        corner = np.array(index) * (np.array(before.shape) - 1)
        there = np.rint(np.linalg.solve(affine, of_source @ [*corner, 1]))[:3].astype(int)
        assert hu[tuple(there)] == before[tuple(corner)]


def test_the_json_holds_what_other_programs_need(tmp_path):
    write_series(
        tmp_path / "s", scan_hu(12), Manufacturer="ACME", ManufacturerModelName="One", KVP="120", Exposure="90"
    )
    assert run("convert", tmp_path / "s", tmp_path / "x.nii.gz") == 0
    document = json.loads((tmp_path / "x.json").read_text())
    assert document["files"] == {"x.nii.gz": (tmp_path / "x.nii.gz").stat().st_size}
    assert (document["shape"], document["spacing_mm"], document["verdict"]) == ([12, 6, 8], [2.5, 0.75, 0.5], "ok")
    assert document["tags"] == {
        "modality": "CT", "kernel": "B30f", "thickness_mm": 2.5, "manufacturer": "ACME", "model": "One",
        "tube_voltage_kv": 120.0, "exposure_mas": 90.0,
    }  # fmt: skip
    assert np.allclose(np.array(document["affine"]) @ [0, 0, 0, 1], [-10, -20, 30, 1])
    assert document["hilum"] == hilum.__version__


def test_a_gz_has_one_member_that_everybody_reads(tmp_path):
    chest = simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=2.5)[0]
    write_dicom(chest, tmp_path / "s", header=Header())
    hilum.convert(tmp_path / "s", tmp_path / "x.nii.gz")
    hilum.convert(tmp_path / "s", tmp_path / "y.nii")
    packed = (tmp_path / "x.nii.gz").read_bytes()
    assert len(gzip.decompress(packed)) > 2 << 20, "more than the blocks of two threads"
    assert gzip.decompress(packed) == (tmp_path / "y.nii").read_bytes()
    assert packed.count(b"\x1f\x8b\x08\0\0\0\0\0") == 1
    assert packed[4:8] == bytes(4), "no date"
    hilum.convert(tmp_path / "s", tmp_path / "z.nii.gz", files=FilesConfig(level=1))
    assert len(packed) < (tmp_path / "z.nii.gz").stat().st_size


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_files_of_every_format_are_recognised_as_its_own(tmp_path, suffix):
    write_series(tmp_path / "s", scan_hu(12))
    out = tmp_path / f"x{suffix.upper()}"
    assert [hilum.convert(tmp_path / "s", out)[0].is_new for _ in range(2)] == [True, False]
    write_series(tmp_path / "s", scan_hu(12) + 1)
    assert hilum.convert(tmp_path / "s", out)[0].is_new
    assert read(out).voxels_hu[0, 0, 0] == -899


# a tree


def tree(folder):
    """Two good series, one that is refused, a localizer, an image file, and one that is damaged."""
    write_series(folder / "a", scan_hu(12))
    write_series(folder / "b", scan_hu(12) + 1, SeriesInstanceUID="1.2.3", step_mm=(0, 0.7, 2.5))
    gaps = write_series(folder / "c", scan_hu(12), SeriesInstanceUID="1.2.4")
    gaps[4].unlink()
    write_series(folder / "d", scan_hu(1), SeriesInstanceUID="1.2.5", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    sitk.WriteImage(sitk.GetImageFromArray(scan_hu(12)), str(folder / "e.nrrd"))
    return folder


def test_a_row_says_what_became_of_each_and_the_verdicts_are_those_of_inspect(tmp_path, capsys):
    scans = tree(tmp_path / "scans")
    (scans / "f.nii").write_bytes(b"damaged")
    assert run("convert", scans, tmp_path / "out", "--keep-paths") == 3
    told = capsys.readouterr().out
    assert told.splitlines()[-1] == f"{tmp_path / 'out'}: 3 scans, 3 refused, listed in convert.csv"
    table = {row["where"]: row for row in rows(tmp_path / "out" / "convert.csv")}
    verdicts = {one.where: one.verdict for one in examine(scans)[0]}
    assert {where: row["verdict"] for where, row in table.items()} == verdicts
    for row in table.values():
        assert bool(row["file"]) == (row["verdict"] != "refused") == (not row["reason"])
    assert table["c"]["reason"].startswith("missing-slices: ")
    written = {row["file"] for row in table.values()} - {""}
    assert {one.name for one in (tmp_path / "out").iterdir()} == {
        "convert.csv", *written, *(name.replace(".nii.gz", ".json") for name in written),
    }  # fmt: skip
    assert_holds_slices(by_nibabel(tmp_path / "out" / table["b"]["file"]), scans / "b", at_least=12)


def test_what_is_no_ct_is_a_row_but_no_reason_to_end_with_3(tmp_path, capsys):
    scans = tree(tmp_path / "scans")
    shutil.rmtree(scans / "c")
    assert run("convert", scans, tmp_path / "out") == 0
    assert "refused, series-" in capsys.readouterr().out
    assert sorted(row["verdict"] for row in rows(tmp_path / "out" / "convert.csv")) == [
        "ok", "ok", "refused", "repaired",
    ]  # fmt: skip


def test_where_nothing_is_usable_the_end_is_1_and_the_table_says_why(tmp_path, capsys):
    assert run("convert", tmp_path, tmp_path.parent / f"{tmp_path.name}-out") == 1
    assert "no CT here" in capsys.readouterr().err
    assert not (tmp_path.parent / f"{tmp_path.name}-out").exists()
    (tmp_path / "s" / "x.nii").parent.mkdir()
    (tmp_path / "s" / "x.nii").write_bytes(b"damaged")
    assert run("convert", tmp_path / "s", tmp_path / "out") == 1
    assert "the only scan is refused, listed in" in capsys.readouterr().err
    assert [row["verdict"] for row in rows(tmp_path / "out" / "convert.csv")] == ["refused"]
    assert [one.name for one in (tmp_path / "out").iterdir()] == ["convert.csv"]


def test_a_sheared_series_is_a_row_of_a_tree_in_a_format_without_shear(tmp_path):
    scans = tree(tmp_path / "scans")
    found = hilum.convert(scans, tmp_path / "out", files=FilesConfig(suffix=".mha"))
    (one,) = [one for one in found if one.where == "b"]
    assert (one.verdict, one.files) == ("refused", ())
    assert "gantry-tilt" in one.codes
    assert "NIfTI holds it" in one.reason
    assert {Path(name).suffix for one in found for name in one.files} == {".mha"}


NAMES = ("MILLER", "ANNA", "4711", "19640229", "4712")


def test_no_byte_that_is_written_holds_a_name_an_id_or_a_date(tmp_path, capsys):
    root = tmp_path / "MILLER^ANNA"
    named = {
        "PatientName": "MILLER^ANNA", "PatientID": "4711", "PatientBirthDate": "19640229", "StudyDate": "19640229",
        "AccessionNumber": "4712", "ReferringPhysicianName": "MILLER", "StudyDescription": "MILLER",
    }  # fmt: skip
    write_series(root / "ANNA 4711", scan_hu(12), **named)
    for suffix, uid in ((".ANNA", "1.2.3"), (".ANNA2", "1.2.4")):
        paths = write_series(root / f"MILLER{suffix}", scan_hu(12), SeriesInstanceUID=uid, **named)
        for number, path in enumerate(paths):
            path.rename(path.with_name(f"MILLER_ANNA_{number}.dcm"))
    last = root / "MILLER.ANNA2" / "MILLER_ANNA_5.dcm"
    last.write_bytes(last.read_bytes()[:-20])
    (root / "MILLER_ANNA.dcm").write_text("no image")
    (root / "MILLER ANNA.nii").write_bytes(b"damaged")
    (root / "MILLER_4711.hdr").write_bytes((348).to_bytes(4, "little") + bytes(344))
    (root / "MILLER.zip").write_bytes(b"PK damaged")
    sitk.WriteImage(sitk.GetImageFromArray(scan_hu(12)), str(root / "MILLER_ANNA.nrrd"))
    for suffix in (".nii", ".nii.gz", ".nrrd", ".mha"):
        out = tmp_path / "out" / suffix[1:]
        assert run("convert", root, f"{out}/", "--suffix", suffix) == 3
        assert run("convert", root / "ANNA 4711", out / f"one{suffix}") == 0
    said = capsys.readouterr()
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert len(written) == 4 * (2 * 4 + 1)
    content = [path.read_bytes() for path in written]
    content += [gzip.decompress(one) for one in content if one[:2] == b"\x1f\x8b"]
    texts = [said.out.replace(str(tmp_path), ""), said.err, *(path.name for path in written)]
    for word in (*NAMES, SERIES):
        assert all(word.encode() not in one for one in content), word
        assert all(word not in one for one in texts), word
    assert run("convert", root, tmp_path / "kept", "--keep-paths") == 3
    assert "MILLER_ANNA.nrrd" in (tmp_path / "kept" / "convert.csv").read_text()


@pytest.mark.parametrize(
    ("text", "names", "becomes"),
    [
        ("a/MILLER.dcm: 20 bytes are missing", ["a/MILLER.dcm"], "a file: 20 bytes are missing"),
        ("must lie beside it as MILLER.img", ["a/MILLER.hdr"], "must lie beside it as a file"),
        ("no file /tmp/x/MILLER.nii.gz", ["MILLER.nii.gz"], "no file a file"),
        ("12 slices, 12 at 3 mm", ["s/12", "s/3"], "12 slices, 12 at 3 mm"),
    ],
)
def test_a_sentence_loses_the_names_of_files_and_nothing_else(text, names, becomes):
    assert without_names(text, names) == becomes


def test_series_without_a_uid_and_files_of_one_name_do_not_meet(tmp_path):
    for name in ("a", "b"):
        write_series(tmp_path / "s" / name, scan_hu(12) + len(name), SeriesInstanceUID=None)
        sitk.WriteImage(sitk.GetImageFromArray(scan_hu(12)), str(tmp_path / "s" / name / "x.nrrd"))
    found = hilum.convert(tmp_path / "s", tmp_path / "out")
    assert len({one.name for one in found}) == len(found) >= 3


def images(folder, *hu):
    """A folder with image files of these HU, each in a folder of its own, all of one name."""
    for number, value in enumerate(hu):
        (folder / str(number)).mkdir(parents=True)
        image = sitk.GetImageFromArray(scan_hu(12) + np.int16(value))
        sitk.WriteImage(image, str(folder / str(number) / "scan.nii.gz"))
    return folder


def test_trees_with_the_same_names_go_into_one_folder_and_its_table_has_a_row_for_each_file(tmp_path, monkeypatch):
    out, table = tmp_path / "out", tmp_path / "out" / "convert.csv"
    (tmp_path / "x").mkdir()
    for name, value in (("A", 0), ("B", 1)):
        images(tmp_path / name, value)
        write_series(tmp_path / name / "no-uid", scan_hu(12) + np.int16(value), SeriesInstanceUID=None)
        (tmp_path / name / "damaged.nii").write_bytes(b"damaged")
        shutil.make_archive(str(tmp_path / name / "exam"), "zip", images(tmp_path / "x" / name, value + 2))
    first, second = (hilum.convert(tmp_path / name, out) for name in "AB")
    of_both = {name for one in (*first, *second) for name in one.files}
    assert len(of_both) == 6
    for tree, found in (("A", first), ("B", second)):
        (one,) = [one for one in found if one.where == "0/scan.nii.gz"]
        assert_same_image(by_nibabel(out / one.files[0]), by_nibabel(tmp_path / tree / "0" / "scan.nii.gz"))
    listed = rows(table)
    assert {row["file"] for row in listed} == {*of_both, ""}
    assert [row["name"] for row in listed] == sorted({row["name"] for row in listed})
    assert sum(not row["file"] for row in listed) == 1, "refused ones of this call only"
    assert {row["shape"] for row in listed if row["file"]} == {"12x6x8"}

    monkeypatch.chdir(tmp_path / "A")
    (tmp_path / "link").symlink_to(tmp_path / "A")
    for same in (".", tmp_path / "link", tmp_path / "B" / ".." / "A"):
        again = hilum.convert(same, out)
        assert [(one.files, one.is_new) for one in again if one.files] == [
            (one.files, False) for one in first if one.files
        ]
    (alone,) = hilum.convert("exam.zip", out)
    assert not alone.is_new, "an archive has one name, as a tree of its own too"
    assert {row["file"] for row in rows(table) if row["file"]} == of_both


def test_a_series_without_a_uid_in_two_archives_is_named_by_the_folder_around_them(tmp_path):
    names = []
    for tree in "AB":
        (tmp_path / tree).mkdir()
        paths = write_series(tmp_path / "x", scan_hu(12), SeriesInstanceUID=None)
        for half in (0, 1):
            (tmp_path / "half").mkdir()
            for path in paths[half::2]:
                path.rename(tmp_path / "half" / path.name)
            shutil.make_archive(str(tmp_path / tree / f"half{half}"), "zip", tmp_path / "half")
            shutil.rmtree(tmp_path / "half")
        (one,) = hilum.convert(tmp_path / tree, tmp_path / "out")
        assert (one.shape, one.where) == ((12, 6, 8), ".")
        names.append(one.name)
    assert len(set(names)) == len(rows(tmp_path / "out" / "convert.csv")) == 2


def test_rows_stay_as_long_as_their_files_and_only_rows_of_this_command(tmp_path):
    scans, out = images(tmp_path / "s", 0, 1, 2), tmp_path / "out"
    first = {one.where[0]: one for one in hilum.convert(scans, out, files=FilesConfig(keep_paths=True))}
    shutil.rmtree(scans / "0")
    shutil.rmtree(scans / "1")
    (out / first["1"].files[0]).unlink()
    (found,) = hilum.convert(scans, out, files=FilesConfig(keep_paths=True))
    assert found.where == "2/scan.nii.gz", "what is returned is of this call"
    assert {row["where"]: row["name"] for row in rows(out / "convert.csv")} == {
        f"{name}/scan.nii.gz": first[name].name for name in "02"
    }
    hilum.convert(scans, out)
    assert [list(row)[-1] for row in rows(out / "convert.csv")] == ["reason", "reason"], "paths only while asked for"
    (scans / "2" / "scan.nii.gz").write_bytes(b"damaged")
    with pytest.raises(HilumError, match="the only scan is refused"):
        hilum.convert(scans, out)
    verdicts = {row["name"]: row["verdict"] for row in rows(out / "convert.csv")}
    assert verdicts == {first["0"].name: first["0"].verdict, first["2"].name: "refused"}
    table = (out / "convert.csv").read_text()
    (out / "convert.csv").write_text(table + 'x,ok,"' + "x" * 200_000)
    with pytest.raises(HilumError, match=r"convert\.csv: cannot be read: field larger"):
        hilum.convert(images(tmp_path / "t", 3), out)


def test_an_archive_in_a_tree_is_converted_and_not_again(tmp_path):
    write_series(tmp_path / "x", scan_hu(12))
    (tmp_path / "s").mkdir()
    shutil.make_archive(str(tmp_path / "s" / "exam"), "zip", tmp_path / "x")
    (first,) = hilum.convert(tmp_path / "s", tmp_path / "out")
    assert_holds_slices(by_nibabel(tmp_path / "out" / first.files[0]), tmp_path / "x", at_least=12)
    (again,) = hilum.convert(tmp_path / "s", tmp_path / "out")
    assert (again.files, again.is_new) == (first.files, False)


# going on


def test_a_second_call_makes_only_what_is_new_changed_or_not_whole(tmp_path, capsys):
    scans, out = tree(tmp_path / "scans"), tmp_path / "out"
    first = {one.where: one for one in hilum.convert(scans, out)}
    table = (out / "convert.csv").read_text()

    def again(**settings):
        return {one.where: one.is_new for one in hilum.convert(scans, out, **settings) if one.files}

    assert again() == {"a": False, "b": False, "e.nrrd": False}
    assert (out / "convert.csv").read_text() == table
    write_series(scans / "a", scan_hu(12) + 7)
    assert again() == {"a": True, "b": False, "e.nrrd": False}
    assert_holds_slices(by_nibabel(out / first["a"].files[0]), scans / "a", at_least=12)
    (out / first["b"].files[0]).write_bytes(b"cut short")
    with pytest.raises(HilumError, match="this command did not write its content"):
        again()
    (out / first["b"].files[0]).unlink()
    assert again() == {"a": False, "b": True, "e.nrrd": False}
    (out / f"{first['e.nrrd'].name}.json").unlink()
    assert again() == {"a": False, "b": False, "e.nrrd": True}
    assert set(again(files=FilesConfig(level=1)).values()) == {True}
    shutil.copytree(scans, tmp_path / "moved")
    moved = hilum.convert(tmp_path / "moved", out, files=FilesConfig(level=1))
    assert {one.where: one.is_new for one in moved if one.files} == {"a": False, "b": False, "e.nrrd": True}


def test_files_of_a_scan_that_is_now_refused_are_removed(tmp_path):
    scans, out = tree(tmp_path / "scans"), tmp_path / "out"
    (one,) = [one for one in hilum.convert(scans, out) if one.where == "a"]
    next((scans / "a").iterdir()).unlink()
    (now,) = [one for one in hilum.convert(scans, out) if one.where == "a"]
    assert (now.name, now.verdict, now.files) == (one.name, "refused", ())
    assert not [path for path in out.iterdir() if path.name.startswith(one.name)]


KILLED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts jobs in the background with it ignored
import hilum.serving.scan_product as scan_product
from hilum.cli import main
original, calls = scan_product.replace_image, []
def killed(*arguments, **more):
    calls.append(arguments)
    if len(calls) == 2:
        os.kill(os.getpid(), signal.Signals[sys.argv[1]])
    return original(*arguments, **more)
scan_product.replace_image = killed
raise SystemExit(main(["convert", *sys.argv[2:], "--workers", "1"]))
"""


@pytest.mark.parametrize(("name", "status"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)])
def test_what_is_done_stays_after_a_signal_and_the_next_call_goes_on(tmp_path, name, status):
    scans, out = tmp_path / "scans", tmp_path / "out"
    for number in range(4):
        write_series(scans / str(number), scan_hu(12) + number, SeriesInstanceUID=f"1.2.{number}")
    done = subprocess.run([sys.executable, "-c", KILLED, name, scans, out], capture_output=True, text=True, check=False)
    assert done.returncode == status, done.stderr
    kept = 1 if name == "SIGKILL" else 2
    assert len(list(out.glob("*.json"))) == kept
    if name != "SIGKILL":
        assert "2 of 4 scans are done, 0 of them refused; the same command goes on from there" in done.stderr
        assert not list(out.glob(".*"))
    found = hilum.convert(scans, out)
    assert sum(not one.is_new for one in found) == kept
    assert len(rows(out / "convert.csv")) == 4
    assert not list(out.glob(".*"))
    for one in found:
        assert_holds_slices(by_nibabel(out / one.files[0]), scans / one.where, at_least=12)


def test_what_a_killed_writer_left_is_removed(tmp_path):
    write_series(tmp_path / "s", scan_hu(12))
    (one,) = hilum.convert(tmp_path / "s", tmp_path / "out")
    pid = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    left = tmp_path / "out" / f".{one.files[0]}.{int(pid.stdout)}.{machine_id()}abcd.nii.gz"
    other = tmp_path / "out" / f".mine.{int(pid.stdout)}.{machine_id()}abcd.nii.gz"
    for path in (left, other):
        path.write_bytes(b"half")
    hilum.convert(tmp_path / "s", tmp_path / "out")
    assert (left.exists(), other.exists()) == (False, True)


# what is never overwritten, and what cannot be written


def test_one_file_is_written_once_and_never_over_another_scan(tmp_path):
    write_series(tmp_path / "a", scan_hu(12))
    write_series(tmp_path / "b", scan_hu(12) + 1, SeriesInstanceUID="1.2.3")
    out = tmp_path / "x.nii.gz"
    assert hilum.convert(tmp_path / "a", out)[0].is_new
    content = out.read_bytes()
    assert not hilum.convert(tmp_path / "a", out)[0].is_new
    with pytest.raises(HilumError, match=r"x\.nii\.gz: holds another scan"):
        hilum.convert(tmp_path / "b", out)
    assert out.read_bytes() == content


def test_files_of_other_programs_are_never_overwritten(tmp_path):
    write_series(tmp_path / "s", scan_hu(12))
    read(tmp_path / "s").write(tmp_path / "x.nii.gz")
    (tmp_path / "y.json").write_text("{}")
    for name, at_fault in (("x.nii.gz", "x.nii.gz"), ("y.nii.gz", "y.json")):
        with pytest.raises(HilumError, match=rf"{at_fault}: would be overwritten: it exists, and this command"):
            hilum.convert(tmp_path / "s", tmp_path / name)
    (one,) = hilum.convert(tmp_path / "s", tmp_path / "out")
    file = tmp_path / "out" / one.files[0]
    file.unlink()
    read(tmp_path / "s").write(file)
    (tmp_path / "out" / "convert.csv").write_text("mine\n")
    with pytest.raises(HilumError, match=r"convert\.csv: would be overwritten"):
        hilum.convert(tmp_path / "s", tmp_path / "out")
    (tmp_path / "out" / "convert.csv").unlink()
    with pytest.raises(HilumError, match=r"series-\w+\.nii\.gz: would be overwritten"):
        hilum.convert(tmp_path / "s", tmp_path / "out")
    with pytest.raises(HilumError, match="is one of the inputs"):
        hilum.convert(tmp_path / "x.nii.gz", tmp_path / "x.nii.gz")


def test_out_lies_outside_the_scans(tmp_path):
    write_series(tmp_path / "s", scan_hu(12))
    (tmp_path / "link").symlink_to(tmp_path / "s")
    for out in (tmp_path / "s", tmp_path / "s" / "out", tmp_path / "s" / "x.nii.gz", tmp_path / "link" / "out"):
        with pytest.raises(HilumError, match="outside the folder of the scans"):
            hilum.convert(tmp_path / "s", out)
    assert len(list((tmp_path / "s").iterdir())) == 12


@pytest.mark.parametrize(
    ("out", "flags", "says"),
    [
        ("x.mhd", {}, "OUT must be a folder or a file named .nii, .nii.gz, .nrrd or .mha, got "),
        ("x.mgz", {}, "x.mgz; name a folder with a dot x.mgz/"),
        ("x.nii.g2", {}, "x.nii.g2; name a folder with a dot x.nii.g2/"),
        ("file.txt", {}, "OUT must be a folder or a file named .nii, .nii.gz, .nrrd or .mha, got the file"),
        ("file.txt/", {}, "OUT must be a folder or a file named .nii, .nii.gz, .nrrd or .mha, got the file"),
        ("file.txt/out", {}, "OUT must be files in a folder, got"),
        ("file.txt/x.nii", {}, "OUT must be files in a folder, got"),
        ("out", {"series": "thinnest"}, "series must be left out for a folder"),
        ("x.nii", {"files": FilesConfig(suffix=".mha")}, "suffix must be left out for one file, as x.nii is, got .mha"),
        ("x.nii", {"files": FilesConfig(workers=2)}, "workers must be left out for one file"),
        ("x.nii", {"files": FilesConfig(keep_paths=True)}, "keep-paths must be left out for one file"),
        ("x.nii", {"files": FilesConfig(level=1)}, "level must be left out for a .nii"),
        (".nii.gz", {}, "OUT must be the name of a file before its suffix"),
    ],
)
def test_what_has_no_effect_or_no_place_is_an_error_and_nothing_is_written(tmp_path, out, flags, says):
    write_series(tmp_path / "s", scan_hu(12))
    (tmp_path / "file.txt").write_text("mine")
    with pytest.raises(HilumError) as error:
        hilum.convert(tmp_path / "s", f"{tmp_path}/{out}", **flags)
    assert says in str(error.value)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file.txt", "s"]


def test_a_device_is_named_as_it_was_given(tmp_path, capsys):
    write_series(tmp_path / "s", scan_hu(12))
    for words in (("convert", tmp_path / "s", "/dev/null"), ("lungs", tmp_path / "s", "--out", "/dev/null")):
        assert run(*words) == 1
        flag = "OUT" if words[0] == "convert" else "--out"
        must = f"{flag} must be a folder or a file named .nii, .nii.gz, .nrrd or .mha, got the file /dev/null"
        assert capsys.readouterr().err == f"hilum: {must}\n"


@pytest.mark.parametrize("out", ["v1.0/", "nifti/", "x.nii/", ".hidden", "of.2026-01-01", "there.old", "a.longname"])
def test_a_folder_may_have_a_dot_in_its_name_if_it_is_there_or_ends_in_a_slash(tmp_path, out, capsys):
    write_series(tmp_path / "s", scan_hu(12))
    (tmp_path / "there.old").mkdir()
    assert run("convert", tmp_path / "s", f"{tmp_path}/{out}") == 0
    folder = tmp_path / out
    assert capsys.readouterr().out == f"{folder}: 1 scan, listed in convert.csv\n"
    assert len(rows(folder / "convert.csv")) == 1


@pytest.mark.parametrize(
    "flag", [("--level", "10"), ("--suffix", ".dcm"), ("--workers", "-1"), ("--suffix", ".nii", "--level", "3")]
)
def test_a_wrong_value_is_a_usage_error(flag, capsys):
    with pytest.raises(SystemExit) as stopped:
        run("convert", "x", "y", *flag)
    assert stopped.value.code == 2
    with pytest.raises(ConfigError, match="suffix must be one of"):
        FilesConfig(suffix="nii")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="to root all folders are open")
def test_a_closed_folder_is_one_line(tmp_path, capsys):
    write_series(tmp_path / "s", scan_hu(12))
    (tmp_path / "closed").mkdir(mode=0o500)
    for out in ("closed", "closed/x.nii.gz"):
        assert run("convert", tmp_path / "s", tmp_path / out) == 1
        assert "can be written to" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["out", "out/x.nii", "out/x.nii.gz", "out/x.mha", "out/x.nrrd"])
def test_a_full_disk_is_one_line_and_nothing_half_written(tmp_path, capsys, out):
    for name in ("a", "b"):
        noise = np.random.default_rng(0).integers(-900, 900, (12, 32, 32), dtype=np.int16)
        write_series(tmp_path / "s" / name, noise, SeriesInstanceUID=f"1.2.{len(out)}")
        if out != "out":
            break
    hilum.convert(tmp_path / "s", tmp_path / "warm")  # decoders and libraries are loaded
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        status = run("convert", tmp_path / "s", tmp_path / out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    said = capsys.readouterr().err
    assert (status, said.count("\n")) == (1, 1), said
    assert "cannot be written" in said
    assert list((tmp_path / "out").iterdir()) == []


def test_a_path_that_is_not_there_is_one_error(tmp_path):
    with pytest.raises(ReadError, match=r"nowhere: no file or folder"):
        hilum.convert(tmp_path / "nowhere", tmp_path / "x.nii")
    with pytest.raises(ReadError, match=r"nowhere: no file or folder"):
        hilum.convert(tmp_path / "nowhere", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_series_is_picked_as_in_reading(tmp_path):
    write_series(tmp_path / "s" / "a", scan_hu(12), SliceThickness="5")
    write_series(tmp_path / "s" / "b", scan_hu(24), SeriesInstanceUID="1.2.3", step_mm=(0, 0, 1.25))
    (thin,) = hilum.convert(tmp_path / "s", tmp_path / "x.nii", series="thinnest")
    assert thin.shape == (24, 6, 8)
    (other,) = [one for one in examine(tmp_path / "s")[0] if one.num_slices == 12]
    with pytest.raises(HilumError, match="holds another scan"):
        hilum.convert(tmp_path / "s", tmp_path / "x.nii", series=other.series)


def test_json_is_one_object_without_paths(tmp_path, capsys):
    scans = tree(tmp_path / "scans")
    assert run("convert", scans, tmp_path / "out", "--json") == 3
    told = json.loads(capsys.readouterr().out)
    assert told["num_refused"] == 1
    assert len(told["scans"]) == 5
    assert all("where" not in one for one in told["scans"])
    assert run("convert", scans, tmp_path / "out", "--json", "--keep-paths") == 3
    assert {one["where"] for one in json.loads(capsys.readouterr().out)["scans"]} == {
        "a",
        "b",
        "c",
        "d/IM000.dcm",
        "e.nrrd",
    }


def test_many_scans_are_converted_in_processes(tmp_path):
    for number in range(17):
        write_series(tmp_path / "s" / str(number), scan_hu(12) + number, SeriesInstanceUID=f"1.2.{number}")
    found = hilum.convert(tmp_path / "s", tmp_path / "out", files=FilesConfig(suffix=".nii", workers=2))
    assert len(found) == 17
    for one in found:
        assert_holds_slices(by_nibabel(tmp_path / "out" / one.files[0]), tmp_path / "s" / one.where, at_least=12)


# real scans


def assert_as_inspect_says(scans, out, found):
    """Each scan is written or refused as ``inspect`` says, and each file holds the HU of its source at their mm."""
    verdicts = {one.where: one.verdict for one in examine(scans)[0]}
    assert {one.where: one.verdict for one in found} == verdicts
    for one in found:
        assert bool(one.files) == (one.verdict != "refused"), one.where
        for name in one.files:
            source, content = scans / one.where, by_nibabel(out / name)
            if source.is_dir():
                assert_holds_slices(content, source, at_least=one.shape[0] - 1)
            else:
                assert_same_image(content, by_nibabel(source) if ".nii" in source.name else by_itk(source))
            if "gantry-tilt" not in one.codes:
                hu, affine = by_itk(out / name)
                assert np.array_equal(hu, content[0])
                assert np.abs(affine - content[1]).max() < 1e-3


def assert_same_image(content, source):
    """Two images hold the same HU at the same mm, whatever the order of their axes; HU are limited to a scanner's."""
    hu, affine = content
    before, of_before = source
    step = np.linalg.solve(affine, of_before)
    ends = (step @ [*np.array(before.shape) - 1, 1])[:3]
    turned = before.transpose(np.argmax(np.abs(step[:3, :3]), axis=1))
    first = np.rint(step[:3, 3]).astype(int)
    assert np.abs(step[:3, 3] - first).max() < 0.02, "a whole number of voxels"
    assert {*first, *np.rint(ends).astype(int)} <= {0, *(n - 1 for n in hu.shape)}
    turned = turned[tuple(slice(None, None, 1 if at == 0 else -1) for at in first)]
    same = np.clip(turned, -1024, 3071) == hu
    assert same[turned >= -1024].all()


def test_real_scans_are_converted_or_refused_as_inspect_says(shared_data, tmp_path):
    for name in ("odd", "ct-64"):
        assert_as_inspect_says(shared_data / name, tmp_path / name, hilum.convert(shared_data / name, tmp_path / name))


@pytest.mark.slow
def test_all_real_scans_are_converted_or_refused_as_inspect_says(shared_data, tmp_path):
    assert_as_inspect_says(shared_data, tmp_path / "out", hilum.convert(shared_data, tmp_path / "out"))
