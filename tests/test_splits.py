"""Patients never meet themselves in another part, every class is everywhere, and the order of rows is nothing."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hilum.cohorts.split_file import SPLITS_FORMAT, Splits, patient_key, read_splits, splits_text
from hilum.cohorts.splits import check_classes, check_parts, split
from hilum.cohorts.table import Case, Cohort
from hilum.errors import CohortError
from hilum.settings.run import SplitConfig


def cohort_of(patients: list[list[int]], num_classes: int = 2, splits: list[str | None] | None = None) -> Cohort:
    """A cohort from the labels of each patient's cases."""
    cases = [
        Case(
            case_id=f"case-{number:03d}-{k}",
            path=Path(f"{number}-{k}.nii"),
            label=label,
            patient_id=f"P{number}",
            split=splits[number] if splits else None,
        )
        for number, labels in enumerate(patients)
        for k, label in enumerate(labels)
    ]
    return Cohort(cases=tuple(cases), classes=tuple(map(str, range(num_classes))), source=Path("cases.csv"))


def parts_by_patient(cohort: Cohort, parts: dict[str, str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for case in cohort.cases:
        found.setdefault(case.patient_id, set()).add(parts[case.case_id])
    return found


def patients_strategy(num_classes: int):
    own = st.lists(st.integers(0, num_classes - 1), min_size=1, max_size=3)
    pure = [[k] for k in range(num_classes) for _ in range(6)]
    return st.lists(own, min_size=0, max_size=40).map(lambda extra: pure + extra)


CONFIGS = [SplitConfig(seed=3), SplitConfig(val=0.2, test=0.3), *(SplitConfig(folds=3, fold=k) for k in range(3))]


@pytest.mark.parametrize("config", CONFIGS)
@settings(max_examples=15, deadline=None)
@given(patients=st.integers(2, 3).flatmap(patients_strategy))
def test_no_patient_is_in_two_parts_and_every_class_is_in_each(config, patients):
    num_classes = 1 + max(map(max, patients))
    cohort = cohort_of(patients, num_classes)
    parts = split(cohort, config)
    assert set(parts) == {case.case_id for case in cohort.cases}
    assert all(len(found) == 1 for found in parts_by_patient(cohort, parts).values())
    seen = {(parts[case.case_id], case.label) for case in cohort.cases}
    assert len(seen) == 3 * num_classes


@pytest.mark.parametrize("config", CONFIGS)
def test_the_order_of_the_rows_is_irrelevant(config):
    cohort = cohort_of([[k % 2] * (1 + k % 3) for k in range(40)])
    shuffled = list(cohort.cases)
    np.random.default_rng(7).shuffle(shuffled)
    assert split(replace(cohort, cases=tuple(shuffled)), config) == split(cohort, config)


def test_the_seed_and_nothing_else_decides():
    cohort = cohort_of([[k % 2] for k in range(60)])
    assert split(cohort, SplitConfig(seed=1)) == split(cohort, SplitConfig(seed=1))
    assert split(cohort, SplitConfig(seed=1)) != split(cohort, SplitConfig(seed=2))
    renamed = tuple(replace(case, patient_id=case.patient_id[::-1] + "x") for case in cohort.cases)
    assert split(replace(cohort, cases=renamed), SplitConfig(seed=1)) == split(cohort, SplitConfig(seed=1))


@settings(max_examples=50, deadline=None)
@given(
    num_negative=st.integers(10, 150),
    num_positive=st.integers(10, 60),
    val=st.floats(0.1, 0.3),
    test=st.floats(0.1, 0.3),
)
def test_sizes_are_within_one_patient_of_the_shares_in_all_and_by_class(num_negative, num_positive, val, test):
    cohort = cohort_of([[0]] * num_negative + [[1]] * num_positive)
    parts = split(cohort, SplitConfig(val=val, test=test))
    for part, share in (("val", val), ("test", test)):
        inside = [case for case in cohort.cases if parts[case.case_id] == part]
        assert abs(len(inside) - share * len(cohort.cases)) <= 1
        assert abs(sum(case.label for case in inside) - share * num_positive) <= 1


def test_folds_partition_the_cases_and_are_the_same_whichever_is_asked_for():
    cohort = cohort_of([[k % 4 == 0] * (1 + k % 3) for k in range(80)])
    tests = [
        {case_id for case_id, part in split(cohort, SplitConfig(folds=5, fold=k)).items() if part == "test"}
        for k in range(5)
    ]
    assert sum(map(len, tests)) == len(cohort.cases)
    assert set.union(*tests) == {case.case_id for case in cohort.cases}
    labels = {case.case_id: case.label for case in cohort.cases}
    shares = [sum(labels[case_id] for case_id in test) / len(test) for test in tests]
    assert max(shares) - min(shares) < 0.12


def test_with_folds_val_is_a_share_of_the_rest():
    cohort = cohort_of([[k % 2] for k in range(100)])
    counts = Counter(split(cohort, SplitConfig(folds=5, val=0.25)).values())
    assert counts == {"test": 20, "val": 20, "train": 60}


def test_a_random_split_over_cases_would_ignore_patients_and_ours_does_not():
    """The tutorial's random_split draws cases: with three scans of each patient nearly all patients leak."""
    cohort = cohort_of([[k % 2] * 3 for k in range(50)])
    drawn = np.random.default_rng(0).permutation(150)
    careless = {case.case_id: "train" if drawn[k] < 105 else "test" for k, case in enumerate(cohort.cases)}
    assert sum(len(found) > 1 for found in parts_by_patient(cohort, careless).values()) > 20
    assert all(len(found) == 1 for found in parts_by_patient(cohort, split(cohort, SplitConfig())).values())


def test_class_weights_from_the_training_part_cannot_see_test_labels():
    """The tutorial counts classes over all cases; the labels of the test part must not reach those of train."""
    cohort = cohort_of([[k % 2] for k in range(40)])
    parts = split(cohort, SplitConfig())
    fixed = [replace(case, split=parts[case.case_id]) for case in cohort.cases]
    flipped = [replace(c, label=1 - c.label) if c.split == "test" else c for c in fixed]
    for cases in (fixed, flipped):
        again = split(replace(cohort, cases=tuple(cases)), SplitConfig())
        assert Counter(c.label for c in cases if again[c.case_id] == "train") == {0: 14, 1: 14}


def test_the_split_of_the_table_is_used_as_it_is():
    wanted = ["train", "train", "val", "val", "test", "test"]
    cohort = cohort_of([[0], [1], [0], [1], [0], [1]], splits=wanted)
    assert list(split(cohort, SplitConfig()).values()) == wanted


def test_val_is_taken_out_of_train_where_the_table_has_none():
    cohort = cohort_of([[k % 2] for k in range(40)], splits=["test"] * 10 + ["train"] * 20 + [None] * 10)
    parts = list(split(cohort, SplitConfig(val=0.2)).values())
    assert parts[:10] == ["test"] * 10
    assert Counter(parts[10:]) == {"train": 24, "val": 6}


def test_an_empty_split_follows_its_patient():
    cohort = cohort_of([[k % 2] * 2 for k in range(20)], splits=["test"] * 6 + [None] * 14)
    cases = [replace(case, split=None) if case.case_id.endswith("-1") else case for case in cohort.cases]
    parts = split(replace(cohort, cases=tuple(cases)), SplitConfig())
    assert parts["case-000-1"] == parts["case-000-0"] == "test"


def test_a_table_split_without_a_class_in_a_part_is_refused():
    cohort = cohort_of([[0], [1], [0], [1], [0]], splits=["train", "train", "val", "val", "test"])
    with pytest.raises(CohortError, match="none of the 2 patients of class '1' into test; move some"):
        split(cohort, SplitConfig())


def test_a_table_split_and_folds_exclude_each_other():
    cohort = cohort_of([[0], [1]] * 9, splits=["train"] * 6 + ["val"] * 6 + ["test"] * 6)
    with pytest.raises(CohortError, match=r"a split column and split\.folds = 3 is set"):
        split(cohort, SplitConfig(folds=3))


def test_too_few_patients_of_a_class_are_counted():
    cohort = cohort_of([[0]] * 20 + [[1, 1, 1], [1]])
    with pytest.raises(CohortError, match=r"at least 3 patients .*got 2 of class '1'; add patients .*leave the class"):
        split(cohort, SplitConfig())


def test_too_many_folds_for_a_class_say_how_many_are_possible():
    cohort = cohort_of([[0]] * 20 + [[1]] * 4)
    with pytest.raises(
        CohortError, match=r"at least 5 patients to be in all 5 folds, got 4 of class '1'.*at most 4 folds"
    ):
        split(cohort, SplitConfig(folds=5))


def test_a_class_that_no_draw_can_spread_is_refused():
    cohort = cohort_of([[0, 1, 2]] * 4 + [[0]] * 3 + [[1, 0]] * 3, 3)
    counted = [
        replace(case, label=0) if case.label == 2 and case.case_id[5:8] == "003" else case for case in cohort.cases
    ]
    parts = split(replace(cohort, cases=tuple(counted)), SplitConfig())
    assert {parts[case.case_id] for case in counted if case.label == 2} == {"train", "val", "test"}
    splits = ["test", "test", *["train"] * 8]
    few = cohort_of([[0], [1], [1], *[[0]] * 7], splits=splits)
    with pytest.raises(CohortError, match=r"class '1' \(1 patients here\) is missing from (train|val)"):
        split(few, SplitConfig())


def test_folds_that_cannot_have_every_class_are_refused(monkeypatch):
    class Unfair:
        def __init__(self, *_args, **_settings):
            pass

        def split(self, labels, *_args):
            return [(None, np.flatnonzero(labels == 0)), (None, np.flatnonzero(labels == 1))]

    monkeypatch.setattr("hilum.cohorts.splits.StratifiedGroupKFold", Unfair)
    with pytest.raises(CohortError, match=r"no 2 folds by patient have every class \(5 of '0', 5 of '1' patients\)"):
        split(cohort_of([[0]] * 5 + [[1]] * 5), SplitConfig(folds=2))


def test_one_class_cannot_be_trained_on():
    with pytest.raises(CohortError, match="at least two classes, got only 0"):
        split(cohort_of([[0]] * 9), SplitConfig())


def test_a_case_without_a_label_cannot_be_split():
    cohort = cohort_of([[0], [1]])
    cases = (cohort.cases[0], replace(cohort.cases[1], label=None))
    with pytest.raises(CohortError, match="every case must have a label to be split, got none for 'case-001-0'"):
        check_classes(replace(cohort, cases=cases))


def test_splits_are_written_and_read_back_with_patients_as_keyed_hashes_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HILUM_KEY", "a site's key")
    cohort = cohort_of([[k % 2] for k in range(20)])
    odd = replace(cohort.cases[0], case_id='odd, "name"', patient_id="id:SMITH-1")
    cohort = replace(cohort, cases=(odd, *cohort.cases[1:]))
    parts = split(cohort, SplitConfig()) | {odd.case_id: "train"}
    (tmp_path / "splits.csv").write_text(splits_text(cohort, parts, {odd.case_id: "0fab"}))
    assert read_splits(tmp_path / "splits.csv").parts == parts
    text = (tmp_path / "splits.csv").read_text()
    assert text.startswith("case_id,split,patient,scan_hu,format\n")
    assert "SMITH" not in text
    trained_on = read_splits(tmp_path / "splits.csv").trained_on
    assert patient_key(odd) in trained_on.patients
    assert trained_on.scans == {"0fab"}, "the digest of a scan is the same under every key"
    assert [file.name for file in tmp_path.iterdir()] == ["splits.csv"]


def test_a_patient_is_recognised_by_plain_id_and_by_the_hash_in_a_table_that_hilum_wrote(monkeypatch):
    monkeypatch.setenv("HILUM_KEY", "a site's key")
    case = cohort_of([[0]]).cases[0]
    plain = patient_key(replace(case, patient_id="id:SMITH-1"))
    assert plain.startswith("patient-")
    assert patient_key(replace(case, patient_id=f"id:{plain}")) == plain
    assert patient_key(replace(case, patient_id="file:scan.nii")) == ""


def test_patients_of_the_test_part_have_not_been_seen(tmp_path):
    lines = [
        "case_id,split,patient,scan_hu",  # format 2
        "a,train,p1,s1",
        "b,val,p2,s2",
        "c,test,p3,s3",
        "d,train,,s4",
        "e,val,p5,",
    ]
    (tmp_path / "splits.csv").write_text("\n".join(lines) + "\n")
    splits = read_splits(tmp_path / "splits.csv")
    assert splits.format == 2
    assert splits.trained_on.patients == {"p1", "p2", "p5"}
    assert splits.trained_on.scans == {"s1", "s2", "s4"}


def test_a_splits_file_of_a_newer_hilum_is_refused_in_one_line(tmp_path):
    (tmp_path / "splits.csv").write_text("case_id,split,patient,scan_hu,format\na,val,,,9\n")
    with pytest.raises(CohortError, match="format must be 3 or older, row 2 has '9': use the Hilum that wrote it"):
        read_splits(tmp_path / "splits.csv")


@given(st.dictionaries(st.text("abc_, \"'", min_size=1), st.sampled_from(["train", "val", "test"]), min_size=1))
@settings(max_examples=50)
def test_any_names_of_cases_are_read_back(tmp_path_factory, parts):
    path = tmp_path_factory.mktemp("splits") / "splits.csv"
    cases = tuple(replace(cohort_of([[0]]).cases[0], case_id=name) for name in parts)
    path.write_text(splits_text(replace(cohort_of([[0]]), cases=cases), parts, dict.fromkeys(parts, "0fab")))
    found = read_splits(path)
    assert isinstance(found, Splits)
    assert (found.parts, found.scans, found.format) == (parts, dict.fromkeys(parts, "0fab"), SPLITS_FORMAT)


def test_a_part_that_has_lost_a_class_to_refusals_is_named_before_training():
    cohort = cohort_of([[k % 2] for k in range(30)])
    parts = split(cohort, SplitConfig())
    check_parts(cohort.cases, parts, cohort)
    left = [case for case in cohort.cases if not (parts[case.case_id] == "val" and case.label == 1)]
    with pytest.raises(CohortError, match="no case of class '1' is left in val"):
        check_parts(left, parts, cohort)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "row 1 must be case_id,split,patient,scan_hu"),
        ("id,part\na,train\n", "row 1 must be case_id,split,patient,scan_hu,format, got 'id,part'"),
        ("case_id,split,patient,scan\na,dev,,\n", "row 2 must be a new case_id, one of train, val, test, .*'a', 'dev'"),
        ("case_id,split,patient,scan\na,val,,\na,val,,\n", "row 3 must be a new case_id"),
        ("case_id,split,patient,scan\na,val\n", "row 2 must be"),
    ],
)
def test_a_damaged_splits_file_is_named(tmp_path, text, match):
    (tmp_path / "splits.csv").write_text(text)
    with pytest.raises(CohortError, match=match):
        read_splits(tmp_path / "splits.csv")


def test_a_missing_splits_file_is_named(tmp_path):
    with pytest.raises(CohortError, match=r"splits\.csv: the splits cannot be read"):
        read_splits(tmp_path / "splits.csv")


# findings that do not exclude one another


def findings_of(patients: list[list[tuple[int, ...]]]) -> Cohort:
    """A cohort from the findings, 1 or 0, of each patient's cases."""
    plain = cohort_of([[0] * len(cases) for cases in patients])
    present = [tuple(map(float, one)) for cases in patients for one in cases]
    cases = tuple(replace(case, label=None, present=row) for case, row in zip(plain.cases, present, strict=True))
    return replace(plain, cases=cases, classes=tuple("abcdefgh"[: len(present[0])]), multi_label=True)


def drawn_findings(num_patients: int, shares: tuple[float, ...], seed: int = 0) -> Cohort:
    rng = np.random.default_rng(seed)
    return findings_of(
        [[tuple(map(int, rng.random(len(shares)) < shares)) for _ in range(2)] for _ in range(num_patients)]
    )


@pytest.mark.parametrize("config", CONFIGS)
def test_every_finding_is_there_and_is_not_in_every_part_and_no_patient_in_two(config):
    for seed in range(5):
        cohort = drawn_findings(60, (0.5, 0.2, 0.08), seed)
        parts = split(cohort, config)
        assert all(len(found) == 1 for found in parts_by_patient(cohort, parts).values())
        for part in ("train", "val", "test"):
            rows = np.array([case.present for case in cohort.cases if parts[case.case_id] == part])
            assert rows.any(axis=0).all()
            assert not rows.all(axis=0).any()


def test_a_rare_finding_is_spread_by_the_shares():
    """Of 20 patients in 200 with the rare finding a random draw would put 3 into the test part, give or take 1.6."""
    cohort = findings_of([[(1, int(n % 10 == 0))] if n % 2 == 0 else [(0, 0)] for n in range(200)])
    for seed in range(5):
        parts = split(cohort, SplitConfig(seed=seed))
        found = Counter(parts[case.case_id] for case in cohort.cases if case.present[1] == 1)
        assert found == {"train": 14, "val": 3, "test": 3}


def test_the_order_of_the_rows_is_irrelevant_for_findings_too():
    cohort = drawn_findings(40, (0.5, 0.3, 0.2))
    assert split(cohort, SplitConfig()) == split(replace(cohort, cases=cohort.cases[::-1]), SplitConfig())


def test_a_finding_that_no_case_has_or_all_have_is_named():
    rows = [[(n % 2, 0, 1)] for n in range(30)]
    with pytest.raises(CohortError, match=r"without each label, got none of 'b', present; 'c', absent$"):
        split(findings_of(rows), SplitConfig())


def test_too_few_patients_with_a_finding_are_counted():
    with pytest.raises(CohortError, match=r"at least 3 patients .* got 2 of class 'b', present"):
        split(findings_of([[(n % 2, int(n < 2))] for n in range(30)]), SplitConfig())


def test_folds_are_made_in_silence_where_a_finding_mostly_comes_with_a_rarer_one():
    """Alone, as the rarest finding of a case, it is in fewer cases than there are folds: scikit-learn warns."""
    rows = [(1, 1)] * 6 + [(1, 0)] * 2 + [(0, 0)] * 22
    cohort = findings_of([[row] for row in rows])
    tests = [{c for c, part in split(cohort, SplitConfig(folds=5, fold=k)).items() if part == "test"} for k in range(5)]
    assert sorted(c for test in tests for c in test) == [case.case_id for case in cohort.cases]
    there = {case.case_id: case.present for case in cohort.cases}
    assert all(np.array([there[c] for c in test]).any(axis=0).all() for test in tests)


def test_a_part_that_has_lost_all_without_a_finding_is_named():
    cohort = findings_of([[row] for row in [(1, 0), (0, 1), (1, 1), (0, 0)] * 8])
    parts = split(cohort, SplitConfig())
    left = [case for case in cohort.cases if not (parts[case.case_id] == "test" and (0, False) in case.sides)]
    with pytest.raises(CohortError, match="no case of class 'a', absent is left in test"):
        check_parts(left, parts, cohort)
