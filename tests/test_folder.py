import csv
import os
import re
import shutil

import numpy as np
import pandas as pd
import pydicom
import pytest

from dicom_files import enhanced_dataset, scan_hu
from hilum.cli import main
from hilum.cohorts.folder import from_class_folders, from_spreadsheet, write_table
from hilum.cohorts.scans import find_scans
from hilum.cohorts.table import Cohort
from hilum.errors import CohortError
from hilum.reading.reader import read
from hilum.reading.select import rate
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.simulating import Header, plan_cohort, simulate_case, write_dicom
from hilum.volume import crop

WHOLE = simulate_case(plan_cohort(1, seed=0)[0], seed=0, pixel_mm=8.0)[0]
CHEST = crop(WHOLE, (0, 0, 0), (20, *WHOLE.shape[1:]))
"""Few slices, which are quick to write and to read."""


def series(folder, patient="SMITH", study="1", number=1, **tags):
    """A DICOM series of a simulated chest, with some of its tags replaced."""
    header = Header(
        patient_id=patient,
        patient_name="SMITH^ANNA",
        study=study,
        series=number,
        study_date="20200101",
        intercept=-1024,
    )
    for path in write_dicom(CHEST, folder, header=header):
        dataset = pydicom.dcmread(path)
        for name, value in tags.items():
            setattr(dataset, name, value)
        dataset.save_as(path)
    return folder


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_sub_folders_are_classes_and_the_table_is_one_that_training_reads(tmp_path, capsys):
    series(tmp_path / "scans" / "healthy" / "a", "SMITH")
    series(tmp_path / "scans" / "healthy" / "deep" / "b", "JONES", "2")
    series(tmp_path / "scans" / "sick" / "c", "MILLER", "3")
    CHEST.write(tmp_path / "scans" / "sick" / "d.nii.gz")
    assert main(["cohort", str(tmp_path / "scans"), "--out", str(tmp_path / "cohort.csv")]) == 0
    shown = capsys.readouterr()
    assert "4 scans, 2 of healthy, 2 of sick" in shown.out
    assert "1 of 4 scans have no PatientID" in shown.err
    cohort = Cohort.read(tmp_path / "cohort.csv", CohortConfig())
    assert cohort.classes == ("healthy", "sick")
    assert [case.label for case in cohort.cases] == [0, 0, 1, 1]
    assert all(case.path.exists() for case in cohort.cases)


def test_no_name_id_or_date_reaches_the_table(tmp_path):
    for label, patient in (("a", "SECRET-1"), ("b", "SECRET-2")):
        series(tmp_path / label / "x", patient, patient, AccessionNumber="SECRET-ACC")
    write_table(from_class_folders(tmp_path).scans, tmp_path / "cohort.csv")
    text = (tmp_path / "cohort.csv").read_text()
    assert "SECRET" not in text
    assert "SMITH" not in text
    assert "2020" not in text
    assert [row["patient_id"].startswith("patient-") for row in rows(tmp_path / "cohort.csv")] == [True, True]


def test_two_kernels_of_one_acquisition_count_once(tmp_path):
    series(tmp_path / "soft", number=1, ConvolutionKernel="B30f")
    series(tmp_path / "sharp", number=2, ConvolutionKernel="B70f")
    listing = find_scans(tmp_path)
    assert len(listing.scans) == 1
    assert "2 reconstructions of one acquisition (kernels B30f, B70f) count once" in listing.notes[0]


def test_two_acquisitions_of_one_patient_count_twice(tmp_path):
    series(tmp_path / "before", study="1")
    series(tmp_path / "after", study="2")
    scans = find_scans(tmp_path).scans
    assert len(scans) == 2
    assert len({scan.tags.patient for scan in scans}) == 1


def test_series_that_share_a_folder_are_told_apart_by_the_series_column(tmp_path):
    for label in ("a", "b"):
        for study in ("1", "2"):
            for path in sorted(series(tmp_path / "one", f"P{label}{study}", f"{label}{study}").iterdir()):
                (tmp_path / label).mkdir(exist_ok=True)
                path.rename(tmp_path / label / f"{study}-{path.name}")
    write_table(from_class_folders_of(tmp_path), tmp_path / "cohort.csv")
    cohort = Cohort.read(tmp_path / "cohort.csv", CohortConfig())
    assert [case.path.name for case in cohort.cases] == ["a", "a", "b", "b"]
    assert len({case.series for case in cohort.cases}) == 4
    assert len({case.case_id for case in cohort.cases}) == 4


def from_class_folders_of(folder):
    (folder / "one").rmdir()
    return from_class_folders(folder).scans


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize(
    ("key", "column", "values"),
    [
        ("accession", "Accession Number", ["A001", "A002", "A009"]),
        ("patient-id", "PatientID", ["SMITH", "JONES", "NOBODY"]),
    ],
)
def test_a_hospitals_spreadsheet_is_joined_by_a_tag(tmp_path, suffix, key, column, values):
    series(tmp_path / "scans" / "x", "SMITH", "1", AccessionNumber="A001")
    series(tmp_path / "scans" / "y", "JONES", "2", AccessionNumber="A002")
    series(tmp_path / "scans" / "z", "BROWN", "3", AccessionNumber="A003")
    sheet = pd.DataFrame({column: values, "label": ["healthy", "sick", "sick"], "name": "SMITH^ANNA"})
    path = tmp_path / f"ris{suffix}"
    sheet.to_csv(path, index=False) if suffix == ".csv" else sheet.to_excel(path, index=False)
    listing = from_spreadsheet(tmp_path / "scans", path, key=key)
    assert [scan.labels for scan in listing.scans] == [("healthy",), ("sick",)]
    assert any("left out, because they have no row in ris" in note and "1 of 3 scans" in note for note in listing.notes)
    assert any("that match no scan: 1 (row 4)" in note for note in listing.notes)


def test_the_study_uid_joins_too(tmp_path):
    series(tmp_path / "scans" / "x", study="1")
    uid = pydicom.dcmread(next((tmp_path / "scans" / "x").iterdir())).StudyInstanceUID
    (tmp_path / "ris.csv").write_text(f"StudyInstanceUID,finding\n{uid},mass\n")
    listing = from_spreadsheet(tmp_path / "scans", tmp_path / "ris.csv", key="study-uid", columns=("finding",))
    assert [scan.labels for scan in listing.scans] == [("mass",)]


def test_a_spreadsheet_may_have_a_column_for_each_finding(tmp_path, capsys):
    for number, name in enumerate("xyz"):
        series(tmp_path / "scans" / name, f"P{number}", str(number), AccessionNumber=f"A{number}")
    (tmp_path / "ris.csv").write_text("accession,nodule,effusion\nA0,1,0\nA1,0,1\nA2,1,1\n")
    words = [tmp_path / "scans", "--labels", tmp_path / "ris.csv", "--columns.labels", "nodule", "effusion"]
    assert main(["cohort", *map(str, words), "--out", str(tmp_path / "cohort.csv")]) == 0
    assert "3 scans, 2 of effusion = 1, 2 of nodule = 1" in capsys.readouterr().out
    findings = ColumnsConfig(labels=("nodule", "effusion"))
    cohort = Cohort.read(tmp_path / "cohort.csv", CohortConfig(columns=findings))
    assert sorted(case.present for case in cohort.cases) == [(0.0, 1.0), (1.0, 0.0), (1.0, 1.0)]


def test_a_finding_cannot_be_called_as_the_table_calls_its_own_columns(tmp_path):
    series(tmp_path / "scans", AccessionNumber="A001")
    (tmp_path / "ris.csv").write_text("accession,kernel,effusion\nA001,1,0\n")
    with pytest.raises(CohortError, match="a label must have a name of its own, got 'kernel'"):
        from_spreadsheet(tmp_path / "scans", tmp_path / "ris.csv", key="accession", columns=("kernel", "effusion"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("number,label\nA1,x\n", "must have a column for accession .*, has the columns number, label"),
        ("accession,diagnosis\nA1,x\n", "must have a column 'label', has the columns accession, diagnosis"),
        ("accession,label\nA001,x\nA001,y\n", "rows 2 and 3 give one accession the labels 'x' and 'y'"),
        ("accession,label\nB1,x\n", "no accession of the 1 in .* is that of one of the 1 scans"),
    ],
)
def test_a_spreadsheet_that_cannot_be_joined_is_named(tmp_path, text, says):
    series(tmp_path / "scans", AccessionNumber="A001")
    (tmp_path / "ris.csv").write_text(text)
    with pytest.raises(CohortError, match=says):
        from_spreadsheet(tmp_path / "scans", tmp_path / "ris.csv", key="accession")


def test_blank_and_placeholder_patient_ids_are_named_and_not_used(tmp_path):
    for label, patient in (("a", "ANONYMOUS"), ("b", "ANONYMOUS"), ("b", "")):
        series(tmp_path / label / f"x{len(list(tmp_path.rglob('*')))}", patient, f"s{len(list(tmp_path.rglob('*')))}")
    listing = from_class_folders(tmp_path)
    assert "3 of 3 scans have a blank or placeholder PatientID" in listing.notes[-1]
    assert [scan.tags.patient for scan in listing.scans] == ["", "", ""]


def test_an_id_that_stands_in_most_studies_names_nobody(tmp_path):
    for i in range(12):
        series(tmp_path / "ab"[i % 2] / f"{i:02d}", "PROJECT-X", f"study {i}")
    listing = from_class_folders(tmp_path)
    assert "stands in 12 studies, more than half of all: it names nobody" in listing.notes[-1]
    assert {scan.tags.patient for scan in listing.scans} == {""}


def test_a_series_that_is_refused_is_left_out_and_named(tmp_path):
    series(tmp_path / "a" / "x", "P1", "1")
    series(tmp_path / "b" / "y", "P2", "2")
    series(tmp_path / "b" / "scout", "P2", "3", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    listing = from_class_folders(tmp_path)
    assert len(listing.scans) == 2
    assert any("is left out: a localizer" in note for note in listing.notes)


def test_one_class_is_not_enough(tmp_path):
    CHEST.write(tmp_path / "a" / "x.nii.gz")
    with pytest.raises(CohortError, match="at least two classes, has scans in a; or give a spreadsheet"):
        from_class_folders(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CohortError, match="no folder"):
        from_class_folders(tmp_path / "nowhere")


def test_an_archive_counts_as_the_scan_in_it_and_can_be_read_by_its_row(tmp_path):
    """One zip for each patient, as an archive's web page gives them; and one with two scans."""
    for label, patient in (("a", "SMITH"), ("b", "JONES")):
        series(tmp_path / "unpacked" / patient, patient, patient)
        shutil.make_archive(str(tmp_path / "scans" / label / patient), "zip", tmp_path / "unpacked" / patient)
    both = series(tmp_path / "both" / "x", "MILLER", "3").parent
    series(both / "y", "MILLER", "4", number=2)
    shutil.make_archive(str(tmp_path / "scans" / "b" / "both"), "gztar", both)
    write_table(from_class_folders(tmp_path / "scans").scans, tmp_path / "cohort.csv")
    table = rows(tmp_path / "cohort.csv")
    assert sorted((r["path"], bool(r["series"])) for r in table) == [
        ("scans/a/SMITH.zip", False),
        ("scans/b/JONES.zip", False),
        ("scans/b/both.tar.gz", True),
        ("scans/b/both.tar.gz", True),
    ]
    for case in Cohort.read(tmp_path / "cohort.csv", CohortConfig()).cases:
        assert np.array_equal(read(case.path, series=case.series or None).voxels_hu.shape, CHEST.shape)


def test_a_damaged_archive_is_left_out_and_named(tmp_path):
    series(tmp_path / "a")
    (tmp_path / "b.zip").write_bytes(b"PK\x03\x04 damaged")
    listing = find_scans(tmp_path)
    assert len(listing.scans) == 1
    assert any(note.startswith("b.zip: ") for note in listing.notes)


# which series are one acquisition


ONE = {
    "StudyInstanceUID": "1.2.3",
    "FrameOfReferenceUID": "1.2.4",
    "AcquisitionNumber": 3,
    "AcquisitionDate": "20200101",
    "AcquisitionTime": "101010.50",
    "KVP": "120",
    "Exposure": "100",
}


def acquisitions(folder, *changes):
    """The number of scans that count, of series with the tags of one acquisition but for these changes."""
    for number, tags in enumerate(changes, 1):
        series(folder / str(number), number=number, SeriesNumber=number, **(ONE | tags))
    return len(find_scans(folder).scans)


@pytest.mark.parametrize(
    "other",
    [
        {"PatientID": "JONES"},
        {"PatientID": ""},
        {"StudyInstanceUID": "1.2.9"},
        {"FrameOfReferenceUID": "1.2.9"},
        {"AcquisitionNumber": 4},
        {"AcquisitionTime": "101210"},
        {"AcquisitionDate": "20200102"},
        {"KVP": "100"},
        {"Exposure": "140"},
        {"ContrastBolusAgent": "IOMERON"},
    ],
    ids=str,
)
def test_series_that_differ_in_one_sign_of_an_acquisition_are_two_scans(tmp_path, other):
    assert acquisitions(tmp_path, {}, other) == 2


@pytest.mark.parametrize(
    "other",
    [
        {"ConvolutionKernel": "B70f"},
        {"SliceThickness": "5"},
        {"AcquisitionTime": "101010.500000"},
        {"PatientID": "SMITH "},
        {"AcquisitionDate": "", "AcquisitionTime": "", "AcquisitionDateTime": "20200101101010.5+0100"},
    ],
    ids=str,
)
def test_series_that_differ_in_how_they_were_made_or_written_are_one_scan(tmp_path, other):
    assert acquisitions(tmp_path, {}, other) == 1


@pytest.mark.parametrize(
    "blank",
    [
        {"StudyInstanceUID": ""},
        {"FrameOfReferenceUID": ""},
        {"AcquisitionNumber": None, "AcquisitionTime": "", "AcquisitionDateTime": ""},
        {"AcquisitionNumber": None, "AcquisitionTime": "", "AcquisitionDateTime": "20200101"},
    ],
    ids=str,
)
def test_a_blank_identifies_nothing_so_the_series_count_alone(tmp_path, blank):
    """Six patients' scans, anonymised, were merged into two by their blanks."""
    assert acquisitions(tmp_path, blank, blank | {"ConvolutionKernel": "B70f"}, blank | {"PatientID": "JONES"}) == 3


def test_a_frame_of_reference_of_each_slice_identifies_nothing_and_a_modulated_tube_is_one(tmp_path):
    for name in ("a", "b"):
        for number, path in enumerate(sorted(series(tmp_path / name, number=ord(name), **ONE).iterdir())):
            dataset = pydicom.dcmread(path)
            dataset.Exposure = str(90 + number + ord(name))
            dataset.save_as(path)
    assert len(find_scans(tmp_path).scans) == 1
    for number, path in enumerate(sorted((tmp_path / "a").iterdir())):
        dataset = pydicom.dcmread(path)
        dataset.FrameOfReferenceUID = f"1.2.4.{number}"
        dataset.save_as(path)
    assert len(find_scans(tmp_path).scans) == 2


def test_phases_of_an_enhanced_file_have_acquisitions_of_their_own(tmp_path):
    for number, moment in enumerate(("20200101101010", "20200101101010", "20200101101210"), 1):
        dataset = enhanced_dataset(scan_hu(12))
        dataset.SeriesInstanceUID = f"1.2.3.{number}"
        dataset.FrameOfReferenceUID = "1.2.4"
        dataset.AcquisitionDateTime = "20200101101000"
        for frame in dataset.PerFrameFunctionalGroupsSequence:
            item = pydicom.Dataset()
            item.FrameAcquisitionDateTime = moment
            frame.FrameContentSequence = pydicom.Sequence([item])
        dataset.save_as(tmp_path / f"{number}.dcm", enforce_file_format=True)
    assert len(find_scans(tmp_path).scans) == 2


def test_the_reconstruction_that_counts_is_the_one_that_reading_takes(tmp_path, monkeypatch):
    """By the points of ``read``: not the one with more slices, if it is the sharper and has no more points."""
    series(tmp_path / "study" / "soft", number=1, ConvolutionKernel="B30f", **ONE)
    series(tmp_path / "study" / "sharp", number=2, ConvolutionKernel="B70f", **ONE)
    shutil.make_archive(str(tmp_path / "packed" / "sharp"), "zip", tmp_path / "study" / "sharp")
    shutil.copytree(tmp_path / "study" / "soft", tmp_path / "packed" / "soft")
    taken = read(tmp_path / "study").tags
    cleared = []
    monkeypatch.setattr("hilum.cohorts.scans.rate", lambda one: cleared.append(one.opened) or rate(one))
    for folder in ("study", "packed"):
        listing = find_scans(tmp_path / folder)
        assert [scan.tags.series for scan in listing.scans] == [taken.series]
        (note,) = listing.notes
        assert "2 reconstructions of one acquisition (kernels B30f, B70f) count once" in note
        assert re.search(r"B30f, with \d+ points before \d+: \+4 lungs", note)
    assert len(cleared) == 4
    assert not any(cleared), "no pixels stay in memory"


# what a walk finds and leaves out


def test_classes_and_scans_may_be_links_and_no_loop_brings_a_scan_to_another_class(tmp_path, capsys):
    series(tmp_path / "archive" / "normals" / "x", "P1", "1")
    series(tmp_path / "elsewhere" / "y", "P2", "2")
    scans = tmp_path / "scans"
    scans.mkdir()
    (scans / "healthy").symlink_to(tmp_path / "archive" / "normals")
    (scans / "sick").mkdir()
    (scans / "sick" / "patient").symlink_to(tmp_path / "elsewhere")
    (scans / "sick" / "up").symlink_to(scans)
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "archive" / "normals" / "x")
    (tmp_path / "elsewhere" / "lost").symlink_to("nowhere")
    assert main(["cohort", str(scans), "--out", str(tmp_path / "t.csv")]) == 3
    shown = capsys.readouterr()
    assert [(row["label"], row["path"]) for row in rows(tmp_path / "t.csv")] == [
        ("healthy", "scans/healthy/x"),
        ("sick", "scans/sick/patient/y"),
    ]
    assert "sick/patient/lost: a link that leads to nothing" in shown.err
    assert shown.out.splitlines()[-1].startswith("left out: 1 scans, files, folders and links that cannot be used, 0 ")


def test_a_file_that_cannot_be_read_is_named_with_its_folder(tmp_path):
    for name in ("a", "b"):
        series(tmp_path / name / "deep" / "x", name, name)
    (tmp_path / "b" / "deep" / "x" / "IM999.dcm").write_bytes(b"no scan")
    (tmp_path / "b" / "c").mkdir()
    (tmp_path / "b" / "c" / "d.zip").write_bytes(b"PK\x03\x04 damaged")
    listing = from_class_folders(tmp_path)
    assert listing.num_refused == 2
    assert any(note.startswith("b/deep/x/IM999.dcm: ") for note in listing.notes)
    assert any(note.startswith("b/c/d.zip: ") for note in listing.notes)


def test_the_map_leads_from_hashed_cases_to_scans_and_is_its_owners_alone(tmp_path, capsys):
    series(tmp_path / "scans" / "a" / "DOE^JANE", "P1", "1")
    for name in ("DOE^JOHN", "DOE^JIM"):
        CHEST.write(tmp_path / "scans" / "b" / f"{name}.nii.gz")
    (tmp_path / "cohort.map.csv").write_text("case_id,row,path\nold,2,x\n")
    assert main(["cohort", str(tmp_path / "scans"), "--out", str(tmp_path / "cohort.csv")]) == 0
    assert "cohort.map.csv: which case is which scan; keep it to yourself" in capsys.readouterr().out
    table, back = rows(tmp_path / "cohort.csv"), rows(tmp_path / "cohort.map.csv")
    assert list(back[0]) == ["case_id", "row", "path", "digest"]
    assert [(line["case_id"], line["path"]) for line in back] == [(line["case_id"], line["path"]) for line in table]
    assert [int(line["row"]) for line in back] == [2, 3, 4]
    assert [re.sub("[0-9a-f]{16}", "", line["case_id"]) for line in table] == ["series-", "case-", "case-"]
    assert len({line["case_id"] for line in table}) == 3
    if os.name == "posix":
        assert (tmp_path / "cohort.map.csv").stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".cohort*"))


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
def test_a_table_that_was_edited_is_not_written_again(tmp_path, capsys, suffix):
    for name in ("a", "b"):
        CHEST.write(tmp_path / "scans" / name / "scan.nii.gz")
    out = tmp_path / f"cohort{suffix}"
    command = ["cohort", str(tmp_path / "scans"), "--out", str(out)]
    assert (main(command), main(command)) == (0, 0)
    sheet = pd.read_csv(out, dtype=str) if suffix == ".csv" else pd.read_excel(out, dtype=str)
    for edited in (sheet.assign(age="61"), sheet.assign(label=["a", "a"]), sheet[:1]):
        edited.to_csv(out, index=False) if suffix == ".csv" else edited.to_excel(out, index=False)
        before = out.read_bytes()
        capsys.readouterr()
        assert main(command) == 1
        assert "this command did not write it" in capsys.readouterr().err
        assert out.read_bytes() == before


def test_the_map_replaces_a_link_and_nothing_is_written_where_the_table_cannot_be(tmp_path, capsys):
    series(tmp_path / "scans" / "a" / "x", "P1", "1")
    series(tmp_path / "scans" / "b" / "x", "P2", "2")
    (tmp_path / "elsewhere").write_text("mine\n")
    (tmp_path / "cohort.map.csv").symlink_to("elsewhere")
    assert main(["cohort", str(tmp_path / "scans"), "--out", str(tmp_path / "cohort.csv")]) == 1
    assert "cohort.map.csv: would be overwritten: it exists, and this command did not" in capsys.readouterr().err
    assert not (tmp_path / "cohort.csv").exists()
    (tmp_path / "elsewhere").write_text("case_id,row,path\n")  # an earlier map, which its owner keeps elsewhere
    assert main(["cohort", str(tmp_path / "scans"), "--out", str(tmp_path / "cohort.csv")]) == 0
    assert (tmp_path / "elsewhere").read_text() == "case_id,row,path\n"
    assert len(rows(tmp_path / "cohort.map.csv")) == 2
    (tmp_path / "folder").mkdir()
    assert main(["cohort", str(tmp_path / "scans"), "--out", str(tmp_path / "folder")]) == 1
    assert not (tmp_path / "folder.map.csv").exists()
    labels = tmp_path / "labels.csv"
    labels.write_text("accession,label\n1,a\n")
    assert main(["cohort", str(tmp_path / "scans"), "--labels", str(labels), "--out", str(labels)]) == 1
    assert "labels.csv: would be overwritten: it is one of the inputs" in capsys.readouterr().err
    assert labels.read_text() == "accession,label\n1,a\n"


@pytest.mark.parametrize("patient", ["", "ANONYMOUS"])
def test_patients_that_nobody_names_are_not_one_acquisition_by_a_number_alone(tmp_path, patient):
    shared = {"StudyInstanceUID": "1.2", "FrameOfReferenceUID": "1.3", "AcquisitionNumber": 1, "AcquisitionTime": ""}
    for number in range(3):
        tags = {**shared, "SeriesInstanceUID": f"1.4.{number}", "PatientID": patient, "AcquisitionDate": ""}
        series(tmp_path / "scans" / str(number), "P", number=number, **tags)
    assert len(find_scans(tmp_path / "scans").scans) == 3


def test_folders_of_scans_without_any_id_are_scans_of_their_own(tmp_path):
    blank = {"StudyInstanceUID": "", "SeriesInstanceUID": "", "PatientID": ""}
    for number in range(2):
        series(tmp_path / str(number), number=number, **blank)
    assert len(find_scans(tmp_path).scans) == 2


def test_two_archives_of_one_series_are_two_cases_of_different_names(tmp_path):
    series(tmp_path / "x")
    for label in ("a", "b"):
        shutil.make_archive(str(tmp_path / "scans" / label / "x"), "zip", tmp_path / "x")
    for path in (tmp_path / "scans" / "a").iterdir():
        path.rename(path.with_name("y.zip"))
    write_table(from_class_folders(tmp_path / "scans").scans, tmp_path / "t.csv")
    assert len(Cohort.read(tmp_path / "t.csv", CohortConfig()).cases) == 2
