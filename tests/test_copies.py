"""The same scan under two names is one scan: found by its HU, kept in one part, refused where its labels differ."""

import csv
import json
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

import hilum.training.train as training
from hilum.cli import main
from hilum.cohorts.copies import find_copies, join_patients, join_within_parts
from hilum.cohorts.split_file import read_splits
from hilum.cohorts.splits import split
from hilum.cohorts.table import Case, Cohort
from hilum.errors import CohortError
from hilum.judging import evaluate
from hilum.preparing import Store, load_sample
from hilum.preparing.hu_digest import hu_digest
from hilum.reading.identity import hashed
from hilum.settings.run import CohortConfig, Recipe, RunConfig, SplitConfig
from hilum.settings.toml import load, save
from hilum.simulating import Header, plan_cohort, simulate_case, write_dicom
from hilum.training.train import train

RECIPE = Recipe(region="whole", size=(12, 12, 12), spacing_mm=(2.0, 2.0, 2.0), npy_range="hu")


# the digest


@pytest.fixture(scope="module")
def one_scan_in_many_files(tmp_path_factory):
    """Whole HU that a test wrote as DICOM, and as NIfTI, NRRD and MetaImage of several types and orders of axes."""
    folder = tmp_path_factory.mktemp("formats")
    volume = simulate_case(plan_cohort(1, seed=3)[0], seed=3, pixel_mm=8.0)[0]
    write_dicom(volume, folder / "dicom", header=Header(intercept=-1024))
    hu = volume.voxels_hu  # (z, y, x), feet to head, front to back, right to left
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine[:, [2, 1, 0, 3]]
    for name, kind in (("int16.nii.gz", np.int16), ("float32.nii", np.float32), ("float64.nii", np.float64)):
        nibabel.save(nibabel.Nifti1Image(hu.transpose(2, 1, 0).astype(kind), ras), folder / name)
    turned = nibabel.Nifti1Image(hu.transpose(2, 1, 0), ras).slicer[::-1, :, ::-1]
    nibabel.save(turned, folder / "turned.nii")
    z, y, x = volume.spacing_mm
    for name in ("scan.nrrd", "scan.mha"):
        image = sitk.GetImageFromArray(hu.astype(np.int32))
        image.SetSpacing((x, y, z))
        image.SetOrigin([100.0, 50.0, -7.0])  # somewhere else: a copy may have lost where it was
        sitk.WriteImage(image, str(folder / name))
    return folder


def test_one_scan_has_one_digest_whatever_its_format_type_order_recipe_point_or_place(one_scan_in_many_files, tmp_path):
    store = Store(tmp_path)
    files = sorted(one_scan_in_many_files.iterdir())
    assert len(files) == 7
    recipes = (RECIPE, replace(RECIPE, size=(16, 16, 16), windows_hu=((-160.0, 240.0),)))
    digests = {store.get(file, recipe).source.digest for file in files for recipe in recipes}
    digests.add(store.get(files[0], replace(RECIPE, region="point"), point_mm=(0.0, -150.0, -500.0)).source.digest)
    assert len(digests) == 1
    assert digests != {""}
    assert load_sample(store.fetch(files[0], RECIPE).file).source.digest in digests, "the sample on disk holds it"


def test_an_array_of_hu_has_the_digest_of_the_scan_and_of_unit_values_its_own_whatever_the_window(tmp_path):
    hu = np.random.default_rng(0).integers(-1000, 400, (12, 12, 12))
    for name, kind in (("a.npy", np.int16), ("b.npy", np.float32), ("c.npy", np.int64)):
        np.save(tmp_path / name, hu.astype(kind))
    store = Store(tmp_path / "store")
    assert {store.get(tmp_path / f"{name}.npy", RECIPE).source.digest for name in "abc"} == {
        hu_digest(hu.astype(np.int16))
    }
    np.save(tmp_path / "unit.npy", (hu + 1000) / 1400)
    units = [replace(RECIPE, npy_range="unit", windows_hu=(window,)) for window in ((-1000.0, 400.0), (-160.0, 240.0))]
    assert len({store.get(tmp_path / "unit.npy", recipe).source.digest for recipe in units}) == 1


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), whole=st.booleans(), big=st.booleans())
def test_one_voxel_more_or_less_is_another_scan(seed, whole, big):
    random = np.random.default_rng(seed)
    hu = random.integers(-1000, 3000, (5, 4, 3)).astype(np.float32)
    hu = hu if whole else hu + np.float32(0.25)
    other = hu.copy()
    other[tuple(random.integers(0, hu.shape))] += 40000 if big else 1
    assert hu_digest(other) != hu_digest(hu)
    assert whole or hu_digest(hu + np.float32(0.125)) != hu_digest(hu), "fractions count where not all are whole"
    assert hu_digest(hu.copy(order="F")) == hu_digest(hu)
    assert hu_digest(hu.reshape(4, 5, 3)) != hu_digest(hu)
    assert hu_digest(hu.astype(np.float64)) == hu_digest(hu.astype(">f4")) == hu_digest(hu)


def test_minus_zero_is_zero_and_a_large_scan_is_hashed_whole(monkeypatch):
    parts = np.full((2, 2, 2), 0.5, np.float32)
    parts[0, 0, 0] = -0.0
    assert hu_digest(parts) == hu_digest(np.abs(parts))
    monkeypatch.setattr("hilum.preparing.hu_digest._SLAB", 7)
    hu = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    digests = {hu_digest(hu)}
    for place in range(60):
        changed = hu.copy()
        changed.reshape(-1)[place] = -1
        digests.add(hu_digest(changed))
    assert len(digests) == 61


# who shares a scan


def case(name, patient, label=0, scan="", **more):
    return Case(
        case_id=name, path=Path(f"{name}.nii"), label=label, patient_id=patient, row=int(name[1:]), **more
    ), scan


def found(*pairs):
    cases = [one for one, _ in pairs]
    return cases, find_copies(cases, {one.case_id: scan for one, scan in pairs}, at_points=True)


def named(groups):
    return [tuple(one.case_id for one in group) for group in groups]


def test_copies_under_several_patients_are_joined_also_through_others():
    cases, copies = found(
        case("c1", "P1", scan="x"), case("c2", "P2", scan="x"), case("c3", "P2", scan="y"), case("c4", "P3", scan="y"),
        case("c5", "P4", scan="z"), case("c6", "P5"), case("c7", "P6"),
    )  # fmt: skip
    assert named(copies.alike) == [("c1", "c2"), ("c3", "c4")]
    assert copies.opposed == ()
    patients = [one.patient_id for one in join_patients(cases, copies)]
    assert len(set(patients[:4])) == 1
    opposite = found(case("c1", "P1", 0, scan="x"), case("c2", "P2", 1, scan="x"))
    assert len({one.patient_id for one in join_patients(*opposite)}) == 1, "refused, and one patient all the same"
    assert len(set(patients)) == 4
    (said,) = copies.warnings
    assert "'c1' (row 1) and 'c2' (row 2); 'c3' (row 3) and 'c4' (row 4)" in said
    assert "these count as one patient" in said
    assert "P1" not in said


def test_copies_with_opposite_labels_name_each_other():
    _, copies = found(case("c1", "P1", 0, "x"), case("c2", "P2", 1, "x"), case("c3", "P1", 1, "y"), case("c4", "P9", 1))
    assert named(copies.opposed) == [("c1", "c2")]
    assert copies.reasons["c1"] == "the same scan, by its voxels, as 'c2' (row 2), with another label"
    assert set(copies.reasons) == {"c1", "c2"}
    many = [case(f"c{k}", "P", None, "x", present=(1.0, float(k == 2))) for k in range(3)]
    assert named(found(*many)[1].opposed) == [("c0", "c1", "c2")]


def test_a_scan_has_one_label_where_the_recipe_does_not_look_at_points():
    here, there, near = ({"point_mm": (1.0, 2.0, z)} for z in (3.0, 6.0, 3.0001))
    pairs = [case("c1", "P1", 0, "x", **here), case("c2", "P1", 1, "x", **there)]
    cases, scans = [one for one, _ in pairs], {one.case_id: scan for one, scan in pairs}
    assert named(find_copies(cases, scans, at_points=False).opposed) == [("c1", "c2")]
    assert find_copies(cases, scans, at_points=True).opposed == ()
    assert named(found(case("c1", "P1", 0, "x", **here), case("c2", "P2", 1, "x", **near))[1].opposed) == [("c1", "c2")]


def test_several_points_of_one_scan_may_differ_in_label_and_stay_with_one_patient():
    here, there = {"point_mm": (1.0, 2.0, 3.0)}, {"point_mm": (4.0, 5.0, 6.0)}
    _, copies = found(case("c1", "P1", 0, "x", **here), case("c2", "P1", 1, "x", **there))
    assert (copies.opposed, copies.alike) == ((), ()), "nodules of one patient"
    cases, copies = found(case("c1", "P1", 0, "x", **here), case("c2", "P2", 1, "x", **there))
    assert (copies.opposed, named(copies.alike)) == ((), [("c1", "c2")])
    assert len({one.patient_id for one in join_patients(cases, copies)}) == 1
    _, copies = found(case("c1", "P1", 0, "x", **here), case("c2", "P2", 1, "x", **here))
    assert named(copies.opposed) == [("c1", "c2")]


def test_copies_of_one_patient_are_named_and_change_no_patient():
    cases, copies = found(case("c1", "P1", scan="x"), case("c2", "P1", scan="x"), case("c3", "P2"))
    assert join_patients(cases, copies) == tuple(cases)
    assert "is several cases of one patient: 'c1' (row 1) and 'c2' (row 2)" in copies.warnings[0]


def test_copies_are_joined_within_the_parts_that_a_table_gives_but_not_across_them():
    parts = {"c1": "test", "c2": "train", "c4": "train", "c6": "val"}
    cases, copies = found(*(case(f"c{i}", f"P{i}", scan=scan) for i, scan in enumerate("xxxxyy", start=1)))
    joined = {one.case_id: one.patient_id for one in join_within_parts(cases, copies, (), parts)}
    assert joined["c1"] not in {joined[i] for i in ("c2", "c3", "c4", "c5", "c6")}
    assert joined["c2"] == joined["c3"] == joined["c4"], "c3, without a part, goes with the training cases"
    assert joined["c5"] == joined["c6"] != joined["c2"]
    assert join_within_parts(cases, copies, (), {}) == join_patients(cases, copies)
    no_train = {"c1": "test", "c2": "val", "c4": "val"}
    joined = {one.case_id: one.patient_id for one in join_within_parts(cases, copies, (), no_train)}
    assert joined["c1"] == joined["c3"] != joined["c2"] == joined["c4"]


@pytest.mark.parametrize("config", [SplitConfig(seed=3), *(SplitConfig(folds=3, fold=k) for k in range(3))])
@settings(max_examples=25)
@given(data=st.data())
def test_no_drawn_part_meets_a_copy_of_another(config, data):
    pairs = [case(f"c{k}", f"P{k // 2}", k % 2) for k in range(60)]
    scans = data.draw(st.lists(st.integers(0, 70), min_size=60, max_size=60))
    pairs = [(replace(one, label=scan % 2), f"scan {scan}") for (one, _), scan in zip(pairs, scans, strict=True)]
    cases, copies = found(*pairs)
    cohort = Cohort(cases=tuple(join_patients(cases, copies)), classes=("0", "1"), source=Path("t.csv"))
    try:
        parts = split(cohort, config)
    except CohortError:
        return  # too few patients are left
    for scan in set(scans):
        assert len({parts[one.case_id] for (one, text) in pairs if text == f"scan {scan}"}) <= 1


# the whole way


def volumes(folder, number=36):
    """A table of distinct small volumes in HU, two cases of each patient; returns its rows."""
    folder.mkdir(exist_ok=True)
    random = np.random.default_rng(5)
    rows = []
    for i in range(number):
        hu = random.integers(-900, -500, (12, 12, 12)).astype(np.int16)
        hu[4:8, 4:8, 4:8] += 600 * (i // 2 % 2)
        np.save(folder / f"{i:02d}.npy", hu)
        rows.append([f"c{i:02d}", f"{i:02d}.npy", str(i // 2 % 2), f"P{i // 2}"])
    return rows


def written(folder, rows, header=("case_id", "path", "label", "patient_id"), **changes):
    (folder / "t.csv").write_text("\n".join(map(",".join, [header, *rows])) + "\n")
    config = RunConfig(cohort=CohortConfig(table="t.csv"), recipe=RECIPE, store="store")
    save(replace(config, **changes), folder / "config.toml")
    return folder / "config.toml"


@pytest.fixture
def no_training(monkeypatch):
    """Everything but the training itself; gives the patient of each case with which it would begin."""
    patients = {}

    def fit(config, data, run, *, resume=False):
        run.checkpoint.mkdir(exist_ok=True)
        (run.checkpoint / training.STATE).touch()
        patients.update({one.case_id: one.patient_id for one in data.prepared.cases})
        return run.model

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr("hilum.training.decided_settings._fastest", lambda config, *_: config.speed)
    return patients


def test_copies_in_another_format_are_kept_in_one_part_and_named(tmp_path, no_training, caplog):
    rows = volumes(tmp_path)
    np.save(tmp_path / "copy.npy", np.load(tmp_path / "00.npy").astype(np.float64))
    np.save(tmp_path / "other.npy", np.load(tmp_path / "21.npy"))
    config = written(tmp_path, [*rows, ["c90", "copy.npy", "0", "Q1"], ["c91", "other.npy", "0", "Q2"]])
    for seed in range(4):
        out = tmp_path / f"run{seed}"
        train(replace(load(config), split=SplitConfig(seed=seed)), out, base=tmp_path)
        parts = read_splits(out / "splits.csv").parts
        assert parts["c90"] == parts["c00"] == parts["c01"]
        assert parts["c91"] == parts["c20"] == parts["c21"]
        assert no_training["c90"] == no_training["c00"]
    assert "'c00' (row 2) and 'c90' (row 38); 'c21' (row 23) and 'c91' (row 39)" in caplog.text
    splits = read_splits(out / "splits.csv")
    assert len(splits.trained_on.patients) > 10, "each patient is still known by an id of its own"
    assert splits.scans["c90"] == splits.scans["c00"]


def test_without_copies_the_split_is_the_one_that_the_table_alone_gives(tmp_path, no_training):
    config = written(tmp_path, volumes(tmp_path), split=SplitConfig(folds=3, fold=1))
    train(config, tmp_path / "run")
    cohort = Cohort.read(tmp_path / "t.csv", CohortConfig())
    assert read_splits(tmp_path / "run" / "splits.csv").parts == split(cohort, SplitConfig(folds=3, fold=1))


def test_copies_with_opposite_labels_are_refused_listed_and_counted(tmp_path, no_training):
    rows = volumes(tmp_path)
    shutil.copy(tmp_path / "00.npy", tmp_path / "copy.npy")
    config = written(tmp_path, [*rows, ["c90", "copy.npy", "1", "Q1"]])
    train(config, tmp_path / "run")
    with (tmp_path / "run" / "refused.csv").open(newline="") as file:
        refused = [(row["case_id"], row["row"], row["reason"]) for row in csv.DictReader(file)]
    assert refused == [
        ("c00", "2", "the same scan, by its voxels, as 'c90' (row 38), with another label"),
        ("c90", "38", "the same scan, by its voxels, as 'c00' (row 2), with another label"),
    ]
    config = written(
        tmp_path, [*rows, ["c90", "copy.npy", "1", "Q1"]], cohort=CohortConfig(table="t.csv", max_refused=0.05)
    )
    with pytest.raises(CohortError, match=r"2 of 37 cases are refused, allowed are 5%.*row 2: the same scan"):
        train(config, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_table_that_puts_copies_into_two_parts_stops_the_training(tmp_path, no_training):
    rows = [[*row, ("train", "val", "test")[i // 12]] for i, row in enumerate(volumes(tmp_path))]
    shutil.copy(tmp_path / "00.npy", tmp_path / "copy.npy")
    header = ("case_id", "path", "label", "patient_id", "split")
    config = written(tmp_path, [*rows, ["c90", "copy.npy", "0", "Q1", "test"]], header)
    with pytest.raises(
        CohortError, match=r"in several parts: 'c00' \(row 2, train\) and 'c90' \(row 38, test\) \(change the split"
    ):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_prepare_names_copies_and_look_alike_patients(tmp_path, capsys):
    rows = volumes(tmp_path)[:6]
    shutil.copy(tmp_path / "00.npy", tmp_path / "copy.npy")
    config = written(tmp_path, [*rows, ["c90", "copy.npy", "0", "p1"]])
    assert main(["prepare", str(config)]) == 0
    said = capsys.readouterr().err
    assert "stands under several patients: 'c00' (row 2) and 'c90' (row 8)" in said
    assert "rows 4, 8" in said
    assert "P1" not in said


def test_evaluate_joins_copies_refuses_opposite_ones_and_gives_the_rows(trained_run, npy_cohort, tmp_path, caplog):
    parts = read_splits(trained_run / "splits.csv").parts
    unseen = [i for i in range(60) if parts[f"c{i:02d}"] == "test"]
    rows = [[f"t{i}", str(npy_cohort / f"{i:02d}.npy"), str(i % 2), f"T{i}"] for i in unseen]
    shutil.copy(npy_cohort / f"{unseen[0]:02d}.npy", tmp_path / "same.npy")
    shutil.copy(npy_cohort / f"{unseen[1]:02d}.npy", tmp_path / "opposite.npy")
    rows += [["same", "same.npy", rows[0][2], "Q1"], ["opposite", "opposite.npy", str(1 - int(rows[1][2])), "Q2"]]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(map(",".join, [("case_id", "path", "label", "patient_id"), *rows])) + "\n")
    answer = evaluate(trained_run / "model", table, tmp_path / "e", max_refused=0.5)
    assert (answer["num_cases"], answer["num_refused"]) == (len(unseen), 2)
    assert answer["num_patients"] == len(unseen) - 1
    assert f"'t{unseen[0]}' (row 2) and 'same'" in caplog.text
    with (tmp_path / "e" / "cases.csv").open(newline="") as file:
        cases = list(csv.DictReader(file))
    assert list(cases[0])[:2] == ["case_id", "row"]
    assert all(rows[int(one["row"]) - 2][0] == one["case_id"] for one in cases)
    with pytest.raises(CohortError, match=r"2 of .* cases are refused, allowed are 1%"):
        evaluate(trained_run / "model", table, tmp_path / "none", max_refused=0.01)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("through", ["a copy under a new id", "a new scan of a patient who trained"])
def test_what_is_known_of_a_patient_through_a_shared_scan_leaves_out_all_of_him(
    trained_run, npy_cohort, tmp_path, through
):
    parts = read_splits(trained_run / "splits.csv").parts
    seen = next(i for i in range(60) if parts[f"c{i:02d}"] == "train")
    unseen = [i for i in range(60) if parts[f"c{i:02d}"] == "test"]
    rows = [[f"t{i}", str(npy_cohort / f"{i:02d}.npy"), str(i % 2), f"T{i}"] for i in unseen]
    for name, number in (("new.npy", 1), ("other.npy", 2)):
        np.save(tmp_path / name, np.random.default_rng(number).uniform(0, 1, (12, 12, 12)))
    shutil.copy(tmp_path / "new.npy", tmp_path / "again.npy")
    if through == "a copy under a new id":
        rows += [["a", str(npy_cohort / f"{seen:02d}.npy"), str(seen % 2), "NEW"], ["b", "other.npy", "0", "NEW"]]
    else:
        rows += [
            ["a", "new.npy", "0", f"SMITH-{seen // 4}"],
            ["b", "again.npy", "0", "NEW"],
            ["c", "other.npy", "0", "NEW"],
        ]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(map(",".join, [("case_id", "path", "label", "patient_id"), *rows])) + "\n")
    answer = evaluate(trained_run / "model", table, tmp_path / "e")
    assert (answer["num_cases"], answer["num_seen"]) == (len(unseen), len(rows) - len(unseen))


def test_a_copy_that_a_program_saved_with_a_slope_of_its_own_is_a_copy(one_scan_in_many_files, tmp_path):
    scan = nibabel.load(one_scan_in_many_files / "int16.nii.gz")
    nibabel.save(nibabel.Nifti1Image(scan.get_fdata(), scan.affine, scan.header), tmp_path / "again.nii.gz")
    assert not np.array_equal(nibabel.load(tmp_path / "again.nii.gz").get_fdata(), scan.get_fdata())
    store = Store(tmp_path / "store")
    first, again = (
        store.get(path, RECIPE).source.digest
        for path in (one_scan_in_many_files / "int16.nii.gz", tmp_path / "again.nii.gz")
    )
    assert first == again


def test_voxels_that_are_all_the_same_identify_nothing(tmp_path):
    assert hu_digest(np.full((3, 4, 5), -1000, np.int16)) == ""
    dark = [np.random.default_rng(seed).uniform(0, 0.04, (12, 12, 12)) for seed in (0, 1)]
    unit = replace(RECIPE, npy_range="unit", windows_hu=((-1000.0, 400.0),))
    for number, values in enumerate(dark):
        np.save(tmp_path / f"{number}.npy", values)
    store = Store(tmp_path / "store")
    assert store.get(tmp_path / "0.npy", unit).source.digest != store.get(tmp_path / "1.npy", unit).source.digest


def test_a_run_made_with_another_key_says_so(tmp_path, monkeypatch, no_training):
    rows = [[path, label] for _, path, label, _ in volumes(tmp_path)]
    config = written(tmp_path, rows, header=("path", "label"))
    train(config, tmp_path / "run")
    monkeypatch.setenv("HILUM_KEY", "another")
    with pytest.raises(CohortError, match="was made with another key for hashing"):
        train(config, tmp_path / "run", resume=True)


def test_a_scan_that_trained_is_known_under_another_recipe_and_format(trained_run, npy_cohort):
    """splits.csv has a digest of the HU alone: the test computes it from the file's values itself."""
    splits = read_splits(trained_run / "splits.csv")
    for i in range(60):
        digest = hu_digest(np.load(npy_cohort / f"{i:02d}.npy").astype(np.float64) * 1000)
        assert (digest in splits.trained_on.scans) == (splits.parts[f"c{i:02d}"] != "test")


def test_a_run_of_an_older_hilum_is_judged_only_with_unchecked_and_patients_are_left_out(
    trained_run, npy_cohort, tmp_path, caplog
):
    shutil.copytree(trained_run, tmp_path / "run")
    (tmp_path / "run" / "run.json").unlink()
    card = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    del card["training"]["split"]
    (tmp_path / "run" / "model" / "model.json").write_text(json.dumps(card))
    with (tmp_path / "run" / "splits.csv").open(newline="") as file:
        lines = [",".join(row[:4]) for row in csv.reader(file)]
    lines[0] = "case_id,split,patient,scan"
    (tmp_path / "run" / "splits.csv").write_text("\n".join(lines) + "\n")
    with pytest.raises(CohortError, match=r"no fingerprint of its key: it is of an older Hilum.*--unchecked"):
        evaluate(tmp_path / "run" / "model", npy_cohort / "cohort.csv", tmp_path / "e")
    assert not (tmp_path / "e").exists()
    answer = evaluate(tmp_path / "run" / "model", npy_cohort / "cohort.csv", tmp_path / "e", unchecked=True)
    assert answer["seen_checked"] is False
    assert answer["num_seen"] > 30
    assert "unchecked: the run has no fingerprint of its key" in caplog.text


def test_a_run_of_an_older_hilum_goes_on_though_its_cases_were_named_after_their_paths(tmp_path, no_training, caplog):
    caplog.set_level(logging.WARNING)
    rows = [row[1:] for row in volumes(tmp_path)]
    shutil.copy(tmp_path / "00.npy", tmp_path / "copy.npy")
    config = written(tmp_path, [*rows, ["copy.npy", "0", "Q1"]], ("path", "label", "patient_id"))
    train(config, tmp_path / "run")
    old = [["case_id", "split", "patient", "scan"]]
    old += [
        [path[:-4], ("train", "val", "test")[i % 3], hashed("patient", who), ""]
        for i, (path, _, who) in enumerate(rows)
    ]
    old.append(["copy", "test", hashed("patient", "Q1"), ""])
    (tmp_path / "run" / "splits.csv").write_text("\n".join(map(",".join, old)) + "\n")
    (tmp_path / "run" / "run.json").unlink()
    train(config, tmp_path / "run", resume=True)
    assert "the split of this run, begun by an older Hilum, leaks, and stays: the same patient is" in caplog.text
    written(tmp_path, [*rows, ["copy.npy", "1", "Q1"]], ("path", "label", "patient_id"))
    with pytest.raises(CohortError, match="cannot be resumed: an older Hilum began it with cases that are refused now"):
        train(config, tmp_path / "run", resume=True)


# ids from paths


def test_case_ids_made_from_paths_are_hashed_in_all_that_is_written(tmp_path, no_training, monkeypatch):
    rows = [[f"DOE^JANE {row[1]}", *row[2:]] for row in volumes(tmp_path)]
    for row in rows:
        (tmp_path / row[0].removeprefix("DOE^JANE ")).rename(tmp_path / row[0])
    config = written(tmp_path, [*rows, ["DOE^gone.npy", "1", "P1"]], ("path", "label", "patient_id"))
    cohort = Cohort.read(tmp_path / "t.csv", CohortConfig())
    assert all(one.case_id.startswith("case-") for one in cohort.cases)
    assert "DOE" not in repr([replace(one, path=Path()) for one in cohort.cases])
    train(config, tmp_path / "run")
    assert "DOE" not in (tmp_path / "run" / "splits.csv").read_text()
    with (tmp_path / "run" / "refused.csv").open(newline="") as file:
        assert [(row["case_id"][:5], row["row"]) for row in csv.DictReader(file)] == [("case-", "38")]
    drawn = split(cohort, SplitConfig())
    monkeypatch.setenv("HILUM_KEY", "another site")
    elsewhere = Cohort.read(tmp_path / "t.csv", CohortConfig())
    assert elsewhere.cases[0].case_id != cohort.cases[0].case_id
    parts = split(elsewhere, SplitConfig())
    assert [parts[one.case_id] for one in elsewhere.cases] == [drawn[one.case_id] for one in cohort.cases]


def test_predictions_and_figures_of_cases_named_by_path_hold_no_path_and_lead_back_by_row(
    trained_run, npy_cohort, tmp_path, capsys
):
    for i in range(6):
        shutil.copy(npy_cohort / f"{i:02d}.npy", tmp_path / f"DOE-{i}.npy")
    np.save(tmp_path / "DOE-9.npy", np.full((12, 12, 12), 0.5))
    (tmp_path / "t.csv").write_text("path,label\n" + "".join(f"DOE-{i}.npy,{i % 2}\n" for i in (*range(6), 9)))
    words = [str(trained_run / "model"), str(tmp_path / "t.csv"), "--out", str(tmp_path / "p.csv"), "--json"]
    assert main(["predict", *words]) == 0
    capsys.readouterr()
    with (tmp_path / "p.csv").open(newline="") as file:
        assert [int(row["row"]) for row in csv.DictReader(file)] == list(range(2, 9))
    shutil.copytree(trained_run / "model", tmp_path / "m" / "model")
    assert main(["evaluate", str(tmp_path / "m" / "model"), words[1], "--out", str(tmp_path / "e")]) == 1
    asked = [*words[1:2], "--out", str(tmp_path / "e"), "--json", "--unchecked"]
    assert main(["evaluate", str(tmp_path / "m" / "model"), *asked]) == 0
    written_there = [file.read_text() for file in (tmp_path / "e").iterdir() if file.suffix != ".png"]
    assert "DOE" not in "".join([(tmp_path / "p.csv").read_text(), *written_there, capsys.readouterr().out])
    assert json.loads((tmp_path / "e" / "evaluation.json").read_text())["seen_checked"] is False
