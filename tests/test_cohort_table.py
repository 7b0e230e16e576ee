"""A table of cases is read as it is meant, and what cannot be meant is named by row and column."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from hilum.cohorts import cells, names
from hilum.cohorts.names import derive_names, with_point
from hilum.cohorts.table import Cohort
from hilum.errors import CohortError, ConfigError
from hilum.settings.run import CohortConfig, ColumnsConfig

GOOD = """case_id,path,label,patient_id,x_mm,y_mm,z_mm,split,soft_label,site
a,scans/a.nii.gz,0,007,1.5,-2,3e1,train,0.25,north
b,scans/b.nii.gz,1,008,,,,val,,south
c,/elsewhere/c,0,008,,,,val,1,south
"""


@pytest.fixture
def table(tmp_path):
    def write(text: str, name: str = "cases.csv") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def read(path: Path, labelled: bool = True, **settings) -> Cohort:
    return Cohort.read(path, CohortConfig(**settings), labelled=labelled)


def test_every_column_is_read(table):
    path = table(GOOD)
    cohort = read(path)
    a, b, c = cohort.cases
    assert cohort.classes == ("0", "1")
    assert cohort.source == path
    assert cohort.warnings == ()
    assert (a.case_id, a.label, a.split, a.soft_label, a.row) == ("a", 0, "train", 0.25, 2)
    assert a.point_mm == (1.5, -2.0, 30.0)
    assert a.path == path.parent / "scans/a.nii.gz"
    assert c.path == Path("/elsewhere/c")
    assert a.groups == {"site": "north"}
    assert (b.point_mm, b.soft_label) == (None, None)
    assert b.patient_id == c.patient_id != a.patient_id


def test_patient_ids_do_not_show_when_a_case_is_printed(table):
    assert "007" not in repr(read(table(GOOD)))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".xlsx", ".parquet"])
def test_every_format_gives_the_same_cohort_and_keeps_leading_zeros(tmp_path, table, suffix):
    expected = read(table(GOOD))
    frame = pd.read_csv(tmp_path / "cases.csv", dtype=str, keep_default_na=False)
    path = tmp_path / f"again{suffix}"
    if suffix == ".xlsx":
        frame.to_excel(path, index=False)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False, sep="\t" if suffix == ".tsv" else ",")
    cohort = read(path)
    assert cohort.cases == expected.cases
    assert cohort.cases[0].patient_id.endswith("007")


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_numbers_in_typed_formats_become_the_labels_that_they_look_like(tmp_path, suffix):
    frame = pd.DataFrame(
        {"path": ["a", "b", "c"], "label": [0, 1, None], "patient_id": [11, 12, 13], "age": [61.5, 7, 8]}
    )
    path = tmp_path / f"cases{suffix}"
    (frame.to_excel(path, index=False) if suffix == ".xlsx" else frame.to_parquet(path))
    cohort = read(path, unlabelled="drop")
    assert [case.label for case in cohort.cases] == [0, 1]
    assert cohort.classes == ("0", "1")
    assert cohort.cases[0].groups == {"age": "61.5"}


def test_semicolons_and_a_byte_order_mark_are_read(table):
    cohort = read(table("\ufeffpath;label;patient_id\na.nii;0;1\nb.nii;1;2\n"))
    assert [case.name for case in cohort.cases] == ["a", "b"]


def test_a_list_of_paths_is_a_table(table):
    cohort = read(table("path\none.nii\ntwo.nii\n"), labelled=False)
    assert [case.name for case in cohort.cases] == ["one", "two"]


def test_blank_rows_are_passed_over_and_rows_keep_their_numbers(table):
    with pytest.raises(CohortError, match="row 4, column 'label' must be one of no, yes, got 'maybe'"):
        read(table("path,label\na,no\n\nb,maybe\n"), classes=("no", "yes"))


def test_columns_can_be_mapped(table):
    columns = ColumnsConfig(path="image", label="suspicious")
    cohort = read(table("image,suspicious,label\na,0,x\nb,1,y\n"), columns=columns)
    assert [case.label for case in cohort.cases] == [0, 1]
    assert cohort.cases[0].groups == {"label": "x"}


def test_a_mapped_column_must_be_there(table):
    with pytest.raises(CohortError, match=r"column 'patient' for patient_id, got the columns path, label;.*columns\."):
        read(table("path,label\na,0\n"), columns=ColumnsConfig(patient_id="patient"))


@pytest.mark.parametrize("column", ["path", "label"])
def test_path_and_label_must_be_there(table, column):
    text = "case_id,path,label\n1,a,0\n".replace(column, "other")
    with pytest.raises(CohortError, match=f"there must be a column '{column}'"):
        read(table(text))


def test_an_unlabelled_table_needs_paths_only(table):
    columns = ColumnsConfig(label="suspicious")
    cohort = read(table("path,split\na,of hairs\n"), labelled=False, columns=columns, classes=("0", "1"))
    assert cohort.cases[0].label is None
    assert cohort.cases[0].split is None
    assert cohort.classes == ("0", "1")


def test_labels_are_sorted_by_value_when_they_are_numbers(table):
    assert read(table("path,label\na,10\nb,9\nc,-1\n")).classes == ("-1", "9", "10")
    assert read(table("path,label\na,late\nb,early\n")).classes == ("early", "late")


def test_1_and_1_point_0_are_the_same_label(table):
    cohort = read(table("path,label\na,1.0\nb,1\nc,0\nd,0.\n"))
    assert cohort.classes == ("0", "1")
    assert [case.label for case in cohort.cases] == [1, 1, 0, 0]


def test_given_classes_set_the_order(table):
    cohort = read(table("path,label\na,benign\nb,malignant\n"), classes=("malignant", "benign"))
    assert [case.label for case in cohort.cases] == [1, 0]


def test_an_unknown_label_is_named_with_row_and_column(table):
    with pytest.raises(CohortError, match=r"cases\.csv: row 3, column 'label' must be one of 0, 1, got '2'"):
        read(table("path,label\na,0\nb,2\n"), classes=("0", "1"))


def test_labels_that_differ_in_case_only_are_refused(table):
    with pytest.raises(CohortError, match="must spell each label one way, got 'Benign' and 'benign'"):
        read(table("path,label\na,Benign\nb,benign\n"))


def test_a_column_of_measurements_is_no_label(table):
    rows = "".join(f"s{k},{k / 7}\n" for k in range(60))
    with pytest.raises(CohortError, match="must hold at most 50 different labels, got 60"):
        read(table(f"path,label\n{rows}"))


def test_an_empty_label_is_an_error_unless_it_may_be_dropped(table):
    path = table("path,label\na,0\nb,\nc,1\n")
    with pytest.raises(CohortError, match=r"row 3, column 'label' must be filled.*1 of 3 rows.*unlabelled = 'drop'"):
        read(path)
    cohort = read(path, unlabelled="drop")
    assert [case.name for case in cohort.cases] == ["a", "c"]
    assert "1 of 3 rows have no label and are left out" in cohort.warnings


def test_a_table_without_any_label_cannot_be_read_as_labelled(table):
    with pytest.raises(CohortError, match="column 'label' must hold labels, got 2 cells without"):
        read(table("path,label\na,\nb,\n"), unlabelled="drop")


def test_duplicate_case_ids_name_both_rows(table):
    with pytest.raises(CohortError, match="column 'case_id' must differ between rows, got 'x' in rows 2 and 4"):
        read(table("case_id,path,label\nx,a,0\ny,b,1\nx,c,1\n"))


def test_an_empty_cell_in_a_required_column_is_named(table):
    with pytest.raises(CohortError, match="row 3, column 'path' must be filled, got ''"):
        read(table("path,label\na,0\n,1\n"))
    with pytest.raises(CohortError, match="row 2, column 'case_id' must be filled"):
        read(table("case_id,path,label\n,a,0\n"))


def test_cases_are_named_after_their_paths(table):
    cohort = read(table("path,label\none/scan.nii.gz,0\n./two/scan.nii.gz,1\n../1.2.840.5,1\n"))
    assert [case.name for case in cohort.cases] == ["one/scan", "two/scan", "1.2.840.5"]
    assert any("named by keyed hashes of their paths" in warning for warning in cohort.warnings)


def test_names_from_paths_are_unique_where_files_or_points_differ():
    assert derive_names(["a.nii", "a.nrrd"], [None, None]) == ["a.nii", "a.nrrd"]
    points = [(1.0, 2.0, 3.0), (4.5, 5.0, 6.0)]
    names = derive_names(["a.nii", "a.nii"], points)
    assert [with_point(name, point) for name, point in zip(names, points, strict=True)] == ["a@1_2_3", "a@4.5_5_6"]


def test_the_same_file_twice_is_refused_where_nothing_tells_the_cases_apart(table):
    with pytest.raises(CohortError, match="'path' must differ between rows, got one text twice, in rows 2 and 3"):
        read(table("path,label\na.nii,0\n./a.nii,1\n"))


def test_without_patient_ids_each_file_is_its_own_patient_and_says_so(table):
    cohort = read(table("case_id,path,label\n1,a,0\n2,b,1\n3,./a,1\n"))
    one, two, three = (case.patient_id for case in cohort.cases)
    assert one == three != two
    assert any("each file counts as its own patient" in warning for warning in cohort.warnings)


@pytest.mark.parametrize("placeholder", ["ANONYMOUS", "anon", "Unknown", "0", "none", "n/a", ""])
def test_placeholder_patient_ids_group_nobody_and_are_named(table, placeholder):
    cohort = read(table(f"case_id,path,label,patient_id\n1,a,0,{placeholder}\n2,b,1,{placeholder}\n3,c,1,77\n"))
    assert len({case.patient_id for case in cohort.cases}) == 3
    (warning,) = cohort.warnings
    assert "in rows 2, 3" in warning
    assert (repr(placeholder) if placeholder else "empty") in warning
    assert "77" not in warning


def test_zero_is_a_patient_where_patients_are_counted_from_zero(table):
    cohort = read(table("case_id,path,label,patient_id\n1,a,0,0\n2,b,1,0\n3,c,1,1\n"))
    assert cohort.cases[0].patient_id == cohort.cases[1].patient_id
    assert cohort.warnings == ()


def test_a_nameless_row_belongs_to_the_patient_of_its_file(table):
    cohort = read(table("case_id,path,label,patient_id\n1,a,0,anon\n2,a,1,P5\n"))
    assert cohort.cases[0].patient_id == cohort.cases[1].patient_id


def test_one_file_cannot_be_of_two_patients(table):
    with pytest.raises(CohortError, match="two for the same file in rows 2 and 3") as caught:
        read(table("case_id,path,label,patient_id\n1,a,0,Miller\n2,a,1,Smith\n"))
    assert "Miller" not in str(caught.value)


def test_a_patient_in_two_splits_is_named_by_rows_and_not_by_id(table):
    text = "case_id,path,label,patient_id,split\n1,a,0,Miller,train\n2,b,1,P2,val\n3,c,1,Miller,test\n"
    with pytest.raises(CohortError, match=r"one patient in row 2 \(train\) and row 4 \(test\)") as caught:
        read(table(text))
    assert "Miller" not in str(caught.value)


def test_a_split_is_one_of_three(table):
    with pytest.raises(CohortError, match="row 2, column 'split' must be one of train, val, test, or empty, got 'dev'"):
        read(table("path,label,split\na,0,dev\n"))


def test_a_point_has_three_coordinates(table):
    with pytest.raises(
        CohortError, match="row 2 must give all of x_mm, y_mm, z_mm or none of them, got only x_mm, z_mm"
    ):
        read(table("path,label,x_mm,y_mm,z_mm\na,0,1,,3\n"))


@pytest.mark.parametrize("text", ["left", "nan", "inf", "1;5"])
def test_a_coordinate_is_a_finite_number(table, text):
    with pytest.raises(CohortError, match=f"row 2, column 'y_mm' must be a number in mm, got '{text}'"):
        read(table(f"path,label,x_mm,y_mm,z_mm\na,0,1,{text},3\n"))


@pytest.mark.parametrize("text", ["1.2", "-0.1", "often", "nan"])
def test_a_soft_label_is_a_probability(table, text):
    with pytest.raises(CohortError, match=f"row 2, column 'soft_label' must be a number from 0 to 1, got '{text}'"):
        read(table(f"path,label,soft_label\na,0,{text}\n"))


def test_a_missing_table_is_one_clear_error(tmp_path):
    with pytest.raises(CohortError, match=r"nowhere\.csv: there is no such table"):
        read(tmp_path / "nowhere.csv")


def test_a_folder_is_no_table(tmp_path):
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(CohortError, match="must be a file, got a folder"):
        read(tmp_path / "folder.csv")


def test_an_unknown_suffix_lists_the_known_ones(table):
    with pytest.raises(CohortError, match=r"must end in \.csv, \.tsv, \.xlsx, \.parquet, got \.xls"):
        read(table("", "cases.xls"))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "the table is empty"),
        ("path,label\n", "at least one case below its header"),
        ("path,label\n,\n\n", "at least one case below its header"),
        (",\na,b\n", "row 1 must hold the names of the columns"),
        ("path,label,label\na,0,1\n", "names of the columns must differ, got 'label' 2 times"),
        ("path,label,\na,0,x\n", "column 3 must have a name in row 1, since row 2 holds text there"),
        ("path,label\na,0\nb,1,2\n", r"cannot be read as a \.csv table: .*line 3"),
    ],
)
def test_a_table_that_is_none_is_one_clear_error(table, text, match):
    with pytest.raises(CohortError, match=match):
        read(table(text))


@pytest.mark.parametrize(
    ("name", "match"), [("a.csv", "UTF-8"), ("a.xlsx", r"read as a \.xlsx"), ("a.parquet", r"read as a \.parquet")]
)
def test_a_file_that_is_not_what_its_suffix_says_is_one_clear_error(tmp_path, name, match):
    (tmp_path / name).write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff\xfe not a table")
    with pytest.raises(CohortError, match=match) as caught:
        read(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_missing_extra_says_what_to_install(tmp_path, monkeypatch):
    def fail(*_args, **_settings):
        raise ImportError

    monkeypatch.setattr(pd, "read_parquet", fail)
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(CohortError, match=r"pip install 'hilum\[tables\]'"):
        read(tmp_path / "a.parquet")


# several findings, and weights of cases


FINDINGS = (
    "case_id,path,patient_id,nodule,pleural effusion,label\na,a.nii,1,1,0,x\nb,b.nii,2,0.25,TRUE,x\nc,c.nii,3,0,1,\n"
)
BOTH = ColumnsConfig(labels=("nodule", "pleural effusion"))


def test_findings_are_read_from_their_columns_as_present_absent_or_a_share(table):
    cohort = read(table(FINDINGS), columns=BOTH)
    assert cohort.multi_label
    assert cohort.classes == ("nodule", "pleural effusion")
    assert [case.present for case in cohort.cases] == [(1.0, 0.0), (0.25, 1.0), (0.0, 1.0)]
    assert {case.label for case in cohort.cases} == {None}
    assert cohort.cases[1].sides == {(0, False), (1, True)}
    assert "nodule" not in cohort.cases[0].groups


def test_findings_may_have_other_names_than_their_columns(table):
    assert read(table(FINDINGS), columns=BOTH, classes=("N", "E")).classes == ("N", "E")
    with pytest.raises(CohortError, match=r"empty or as many names as columns\.labels, 2, got 3"):
        read(table(FINDINGS), columns=BOTH, classes=("N", "E", "F"))


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (
            "2",
            "row 2, column 'nodule' must be 1 where the label is present, 0 where not, or a share between, got '2'",
        ),
        ("perhaps", "or a share between, got 'perhaps'"),
        ("", r"row 2, column 'nodule' must be filled, got an empty cell \(1 of 3 rows have none\)"),
    ],
)
def test_a_finding_that_is_neither_there_nor_not_is_named(table, cell, message):
    path = table(FINDINGS.replace("a,a.nii,1,1,0", f"a,a.nii,1,{cell},0"))
    with pytest.raises(CohortError, match=message):
        read(path, columns=BOTH)


def test_rows_that_lack_a_finding_can_be_left_out(table):
    cohort = read(table(FINDINGS.replace("1,1,0,x", "1,,0,x")), columns=BOTH, unlabelled="drop")
    assert [case.case_id for case in cohort.cases] == ["b", "c"]
    assert cohort.warnings == ("1 of 3 rows have no label and are left out",)


def test_a_column_of_findings_that_is_not_there_is_named(table):
    with pytest.raises(CohortError, match="there must be a column 'mass' for labels"):
        read(table(FINDINGS), columns=ColumnsConfig(labels=("nodule", "mass")))


@pytest.mark.parametrize("labels", [("nodule",), ("nodule", "nodule")])
def test_findings_are_two_or_more_different_columns(labels):
    with pytest.raises(ConfigError, match=r"columns\.labels must be empty or distinct columns, two or more"):
        CohortConfig(columns=ColumnsConfig(labels=labels))


@pytest.mark.parametrize("cell", ["NA", "NaN", "n/a", "null"])
def test_what_programs_write_for_nothing_is_no_label(table, cell):
    path = table(f"path,label\na.nii,0\nb.nii,1\nc.nii,{cell}\n")
    with pytest.raises(CohortError, match=f"row 4, column 'label' must be filled, got '{cell}'"):
        read(path)
    assert len(read(path, unlabelled="drop").cases) == 2
    assert read(path, classes=("0", "1", cell)).cases[2].label == 2


@pytest.mark.parametrize("name", ["no finding", "nodule + mass"])
def test_a_finding_is_not_named_as_decisions_are_written(table, name):
    path = table(f"path,{name},effusion\na.nii,1,0\nb.nii,0,1\n")
    with pytest.raises(CohortError, match="a label must not be named 'no finding' or hold"):
        read(path, columns=ColumnsConfig(labels=(name, "effusion")))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (ColumnsConfig(labels=("a", "b"), label="c"), r"columns\.labels must be empty where columns\.label or"),
        (ColumnsConfig(labels=("soft_label", "b")), "must be columns that hold nothing else, got soft_label"),
        (ColumnsConfig(labels=("path", "b")), "must be columns that hold nothing else, got path"),
    ],
    ids=["both", "soft", "path"],
)
def test_columns_of_findings_are_nothing_else(columns, message):
    with pytest.raises(ConfigError, match=message):
        CohortConfig(columns=columns)


def test_the_weight_of_a_case_is_read_and_is_one_without(table):
    text = "path,label,case_weight\na.nii,0,2.5\nb.nii,1,\n"
    assert [case.weight for case in read(table(text)).cases] == [2.5, 1.0]
    with pytest.raises(CohortError, match="row 2, column 'case_weight' must be a positive number up to 10000"):
        read(table(text.replace("2.5", "0")))


# patients who may be one


@pytest.mark.parametrize(
    ("ids", "says", "patients"),
    [
        (["7", "007", "8"], r"count as different patients: rows 2, 3\. Spell", 3),
        (["p1", "P1", "p2"], r"count as different patients: rows 2, 3\. Spell", 3),
        (["p1", "p2", "\u00a0P 1"], r"count as different patients: rows 2, 4\. Spell", 3),
        (["7", "7.0", "8"], "they count as one patient: rows 2, 3", 2),
        (["p1", '" p1"', "p1"], "they count as one patient: rows 2, 3", 1),
        (["7", "007", "7.0"], r"different patients: rows 2, 3\..* \| .* they count as one patient: rows 2, 4", 2),
    ],
)
def test_ids_that_may_be_one_patients_are_named_by_their_rows(table, ids, says, patients):
    text = "".join(f"{k}.nii,{k % 2},{patient}\n" for k, patient in enumerate(ids))
    cohort = read(table(f"path,label,patient_id\n{text}"))
    said = " | ".join(w for w in cohort.warnings if "count as" in w)
    assert re.search(says, said), said
    assert len({case.patient_id for case in cohort.cases}) == patients
    assert not re.search("p1|P1|007", said), "ids go to no output"


@pytest.mark.parametrize("ids", [["7", "8", "17"], ["p1", "p2", "p10"], ["ANONYMOUS", "anonymous", "x"]])
def test_ids_that_differ_are_not_named(table, ids):
    text = "".join(f"{k}.nii,{k % 2},{patient}\n" for k, patient in enumerate(ids))
    warnings = read(table(f"path,label,patient_id\n{text}")).warnings
    assert not any("as different patients" in warning or "count as one patient" in warning for warning in warnings)


# large tables


def test_a_large_table_keeps_each_text_once_and_reads_each_once(table, monkeypatch):
    """LUNA16 has half a million candidates in 888 scans: what they share must be one object, whatever the rows."""
    calls = Counter()

    def counted(name, function):
        def call(*args):
            calls[name] += 1
            return function(*args)

        return call

    for module, name in ((names, "_normal_path"), (names, "_without_suffix"), (names, "plain"), (cells, "plain")):
        monkeypatch.setattr(module, name, counted(name, getattr(module, name)))
    scans, count = 20, 4000
    text = "".join(f"u{k % scans},{k}.5,{-k},{k % 7},{k % 2},s/u{k % scans}.mhd,P{k % 5}\n" for k in range(count))
    path = table(f"seriesuid,x_mm,y_mm,z_mm,label,path,patient_id\n{text}")
    cases = read(path).cases
    assert [case.point_mm for case in cases] == [(k + 0.5, float(-k), float(k % 7)) for k in range(count)]
    assert [case.groups["seriesuid"] for case in cases] == [f"u{k % scans}" for k in range(count)]
    for shared in ("path", "groups", "path_name"):
        assert len({id(getattr(case, shared)) for case in cases}) == scans, shared
    assert len({id(case.patient_id) for case in cases}) == 5
    assert len({case.case_id for case in cases}) == len({case.name for case in cases}) == count
    assert sum(calls.values()) < 8 * scans, calls


def test_a_parquet_table_with_lists_in_its_cells_is_refused_in_one_line(tmp_path):
    pd.DataFrame({"path": ["a.nii"], "label": [[0, 1]]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(CohortError, match=r"the file cannot be read as a \.parquet table"):
        Cohort.read(tmp_path / "t.parquet")


@pytest.mark.parametrize("cell", ["", " ", "NA", "n/a", " NaN ", "Null"])
def test_a_missing_cell_is_missing_in_whatever_case(cell):
    assert cells.is_missing(cell)
    assert cells.number_in(cell) is None


@pytest.mark.parametrize(
    ("cell", "number"),
    [("12", 12.0), (" -1.5e1 ", -15.0), ("0", 0.0), ("12_3", None), ("inf", None), ("5 mm", None), ("none", None)],
)
def test_a_number_is_finite_and_alone_in_its_cell(cell, number):
    assert not cells.is_missing(cell)
    assert cells.number_in(cell) == number


@pytest.mark.parametrize(
    ("name", "is_size"),
    [
        *((name, True) for name in ("diameter", "Size (mm)", "nodule_volume_mm3", "LongestDiameter", "sizeMM")),
        *((name, True) for name in ("tumour-length_cm", "diameter_max", "DIAMETER_2", "volume [mm³]", "size in mm")),
        *((name, False) for name in ("resized", "volume_id", "length_of_stay", "wavelength", "sizes", "mm", "", "3")),
    ],
)
def test_a_column_is_a_size_if_its_name_ends_with_a_word_for_one(name, is_size):
    assert cells.is_size(name) is is_size
