"""Masks of the lungs as files: on the scan's own grid, with volumes, and none where there are no lungs."""

import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk

import hilum
from dicom_files import scan_hu, write_series
from hilum.cli import main
from hilum.errors import HilumError, PrepareError
from hilum.preparing.lungs.segment import Lungs
from hilum.reading.reader import read
from hilum.settings.files import FilesConfig
from hilum.settings.run import ReadingConfig
from hilum.simulating import Header, Scanner, simulate_scan, write_dicom
from independent import by_itk, by_nibabel

QUICK = Scanner(pixel_mm=3.0, pixels=126, thickness_mm=4.0, increment_mm=4.0, noise_hu=15.0)


def run(*words):
    """The exit code of a command as users type it."""
    return main([str(word) for word in words])


def dice(one, other):
    return 2 * np.count_nonzero(one & other) / (np.count_nonzero(one) + np.count_nonzero(other))


@pytest.fixture(scope="module")
def chest():
    return simulate_scan(7, disease="mass", scanner=QUICK)


@pytest.fixture(scope="module")
def series(chest, tmp_path_factory):
    """A DICOM series of it."""
    folder = tmp_path_factory.mktemp("chest") / "series"
    write_dicom(chest[0], folder, header=Header(patient_name="MILLER^ANNA", patient_id="4711"))
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_the_mask_lies_on_the_scan_and_is_the_truth_right_1_left_2(chest, series, tmp_path, suffix, capsys):
    assert run("convert", series, tmp_path / f"hu{suffix}") == 0
    assert run("lungs", series, "--out", tmp_path / f"m{suffix}", "--field") == 0
    mask, affine = by_itk(tmp_path / f"m{suffix}")
    hu, of_hu = by_itk(tmp_path / f"hu{suffix}")
    assert mask.dtype == np.uint8
    assert mask.shape == hu.shape
    assert np.array_equal(affine, of_hu)
    truth = chest[1].lungs.transpose(2, 1, 0)
    for side in (1, 2):
        assert dice(mask == side, truth == side) > 0.97
    field, _ = by_itk(tmp_path / f"m-field{suffix}")
    assert set(np.unique(field)) == {0, 1, 2}
    assert (field[mask > 0] == mask[mask > 0]).all()
    if suffix == ".nii.gz":
        assert np.array_equal(by_nibabel(tmp_path / f"m{suffix}")[0], mask)
    printed = capsys.readouterr().out
    assert "right lung" in printed
    assert "ml: " in printed


def test_volumes_are_those_of_the_mask_in_json_and_table(chest, series, tmp_path):
    assert run("lungs", series, "--out", tmp_path / "m.nii", "--field", "--table", tmp_path / "volumes.csv") == 0
    lungs = json.loads((tmp_path / "m.json").read_text())["lungs"]
    voxel_ml = chest[0].voxel_mm3 / 1000
    mask, field = (by_nibabel(tmp_path / name)[0] for name in ("m.nii", "m-field.nii"))
    assert lungs["right_ml"] == pytest.approx(np.count_nonzero(mask == 1) * voxel_ml, abs=0.06)
    assert lungs["left_ml"] == pytest.approx(np.count_nonzero(mask == 2) * voxel_ml, abs=0.06)
    assert lungs["field_ml"] == pytest.approx(np.count_nonzero(field) * voxel_ml, abs=0.06)
    (row,) = rows(tmp_path / "volumes.csv")
    assert list(row) == ["name", "right_ml", "left_ml", "field_ml", "verdict", "file", "findings", "reason"]
    for name in ("right_ml", "left_ml", "field_ml"):
        assert row[name] == f"{lungs[name]:.1f}"
    assert row["verdict"] == lungs["verdict"] == hilum.segment_lungs(read(series)).verdict


def test_a_volume_is_rounded_once(series, tmp_path, capsys, monkeypatch):
    """As in a notebook; 2539.46 ml would be 2539.5 and then 2540."""
    monkeypatch.setattr(Lungs, "_ml", lambda self, side: {1: 2539.46, 2: 1000.5451}[side])
    for _ in range(2):
        assert run("lungs", series, "--out", tmp_path / "m.nii", "--table", tmp_path / "t.csv") == 0
        assert "right lung 2539 ml, left lung 1001 ml, " in capsys.readouterr().out
    assert "right 2539 ml, left 1001 ml" in hilum.segment_lungs(read(series))._repr_html_()
    (row,) = rows(tmp_path / "t.csv")
    assert (row["right_ml"], row["left_ml"]) == ("2539.5", "1000.5")


def test_a_table_keeps_the_rows_of_other_trees_and_files_in_the_same_folder(series, tmp_path):
    table = tmp_path / "t.csv"
    for name in "ab":
        (tmp_path / name).mkdir()
        read(series).write(tmp_path / name / "scan.nii")
        hilum.lung_masks(tmp_path / name, tmp_path / "out", table=table)
    assert {row["file"] for row in rows(table)} == {one.name for one in (tmp_path / "out").glob("*.nii.gz")}
    assert len(rows(table)) == 2
    for name in ("one.nii", "two.nii"):
        hilum.lung_masks(series, tmp_path / "out" / name, table=table)
    assert len(rows(table)) == 4
    hilum.lung_masks(series, tmp_path / "out" / "one.nii", table=table)
    (tmp_path / "out" / "two.nii").unlink()
    hilum.lung_masks(tmp_path / "a", tmp_path / "out", table=table)
    assert len(rows(table)) == 3


def test_a_mask_lies_on_an_oblique_grid_and_on_a_sheared_one_too(chest, tmp_path):
    volume, truth = chest
    angle = np.radians(8)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    shear = np.eye(4)
    shear[1, 2] = np.tan(np.radians(10))
    for name, change in (("turned", turn), ("sheared", shear)):
        hilum.Volume(voxels_hu=volume.voxels_hu, affine=change @ volume.affine).write(tmp_path / f"{name}.nii")
        hilum.lung_masks(tmp_path / f"{name}.nii", tmp_path / f"{name}-mask.nii.gz")
        mask, affine = by_nibabel(tmp_path / f"{name}-mask.nii.gz")
        assert np.allclose(affine, by_nibabel(tmp_path / f"{name}.nii")[1], atol=1e-3)
        if name == "turned":
            assert dice(mask > 0, truth.lungs.transpose(2, 1, 0) > 0) > 0.95


def test_a_tree_has_a_row_for_each_scan_and_no_mask_where_there_are_no_lungs(series, tmp_path, capsys):
    scans, out, table = tmp_path / "scans", tmp_path / "masks", tmp_path / "volumes.csv"
    write_series(scans / "ball", scan_hu(12))
    write_series(scans / "gaps", scan_hu(12), SeriesInstanceUID="1.2.3")[4].unlink()
    (scans / "chest").symlink_to(series)
    assert run("lungs", scans, "--out", out, "--table", table, "--keep-paths") == 3
    assert capsys.readouterr().out.splitlines()[-1] == f"{out}: 1 scan, 2 refused, listed in {table}"
    found = {row["where"]: row for row in rows(table)}
    assert {where: row["verdict"] for where, row in found.items()} == {
        "ball": "no-lungs", "gaps": "refused", "chest": found["chest"]["verdict"],
    }  # fmt: skip
    assert "no-lungs" in found["ball"]["findings"].split()
    assert found["ball"]["reason"].startswith("no-lungs: no lungs found")
    assert found["ball"]["right_ml"] == found["ball"]["file"] == ""
    assert {one.name for one in out.iterdir()} == {found["chest"]["file"], f"{found['chest']['name']}.json"}
    content = [path.read_bytes() for path in [table, *out.iterdir()]]
    assert all(word not in one for one in content for word in (b"MILLER", b"4711"))
    again = hilum.lung_masks(scans, out, files=FilesConfig(keep_paths=True))
    assert {one.where: one.is_new for one in again if one.files} == {"chest": False}
    with_field = hilum.lung_masks(scans, out, field=True)
    names = (found["chest"]["file"], f"{found['chest']['name']}-field.nii.gz")
    assert [(one.files, one.is_new) for one in with_field if one.files] == [(names, True)]
    without = hilum.lung_masks(scans, out)
    assert [(one.files, one.is_new) for one in without if one.files] == [(names, False)]
    hilum.lung_masks(scans, out, files=FilesConfig(level=1))
    assert not (out / names[1]).exists(), "a lung field of other settings"


def test_one_scan_without_lungs_is_an_error_and_nothing_is_written(tmp_path):
    write_series(tmp_path / "s", scan_hu(12))
    with pytest.raises(PrepareError, match="/s: no lungs found"):
        hilum.lung_masks(tmp_path / "s", tmp_path / "m.nii.gz", table=tmp_path / "t.csv")
    with pytest.raises(HilumError, match=r"the only scan is refused; series-\w+: no-lungs: no lungs found"):
        hilum.lung_masks(tmp_path / "s", tmp_path / "out")
    assert [one.name for one in tmp_path.iterdir() if one.is_file()] == []


def test_masks_and_scans_do_not_overwrite_each_other(series, tmp_path):
    hilum.convert(series, tmp_path / "out")
    with pytest.raises(HilumError, match="this command did not write its content"):
        hilum.lung_masks(series, tmp_path / "out")
    (tmp_path / "t.csv").write_text("mine\n")
    with pytest.raises(HilumError, match=r"t\.csv: would be overwritten"):
        hilum.lung_masks(series, tmp_path / "masks", table=tmp_path / "t.csv")
    with pytest.raises(HilumError, match="--table must be a table in a folder"):
        hilum.lung_masks(series, tmp_path / "masks", table=tmp_path / "t.csv" / "x.csv")
    assert not (tmp_path / "masks").exists()


def test_a_field_of_view_of_one_voxel_has_no_direction_inwards():
    """As of some masks of nodules: a few voxels differ from the value all around, and the outermost are left out."""
    hu = np.zeros((11, 11, 11), np.int16)
    hu[4:7, 4:7, 4:7] = 1
    assert hilum.segment_lungs(hilum.Volume.from_array(hu, spacing_mm=(3, 3, 3))).verdict == "no-lungs"


# real scans


def test_written_masks_of_real_scans_agree_with_readers_as_in_the_benchmark(shared_data, tmp_path):
    maps = ReadingConfig(policy="lenient")
    found = hilum.lung_masks(shared_data / "ct-64", tmp_path / "out", files=FilesConfig(workers=1))
    masks = {one.where: by_itk(tmp_path / "out" / one.files[0])[0] for one in found if one.files}
    assert masks.keys() == {"ct-64.nrrd", "ct-64-transformed.nrrd", "dicom"}
    whole = sitk.GetArrayFromImage(sitk.ReadImage(str(shared_data / "ct-64" / "wholeLung-64.nrrd")))
    ours = read(shared_data / "ct-64" / "wholeLung-64.nrrd", reading=maps).voxels_hu
    assert np.count_nonzero(whole) == np.count_nonzero(ours)
    for mask in masks.values():
        assert dice(mask.transpose(2, 1, 0) > 0, ours > 0) > 0.975


@pytest.mark.slow
def test_all_real_scans_have_masks_or_reasons(shared_data, tmp_path):
    found = hilum.lung_masks(shared_data, tmp_path / "out", table=tmp_path / "t.csv")
    verdicts = {one.where: one.lungs["verdict"] for one in found if one.lungs}
    assert verdicts == {
        "ct-64/ct-64.nrrd": "good", "ct-64/ct-64-transformed.nrrd": "good", "ct-64/dicom": "good",
        "lung-dx-a0001": "good", "lidc-0314": "doubtful", "odd/abdomen.nii.gz": "doubtful",
    }  # fmt: skip
    assert all(one.reason for one in found if not one.lungs)
    assert len(rows(tmp_path / "t.csv")) == len(found)
