"""The audit: altered copies and leaks are found and named, and so is what gives a label away."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

import hilum.training.train as training
from hilum.cli import main
from hilum.cli.audit import AuditCohort
from hilum.cohorts.audit import audit, odd_values, refused_by_class
from hilum.cohorts.giveaways import find_giveaways
from hilum.cohorts.links import find_links
from hilum.cohorts.near_copies import find_near_copies
from hilum.cohorts.prepared import PreparedCohort, Refusal, prepare_cohort
from hilum.cohorts.signature_file import read_signatures
from hilum.cohorts.split_file import read_splits
from hilum.cohorts.table import Case, Cohort
from hilum.errors import CheckpointError, CohortError, ConfigError
from hilum.preparing import Store, load_sample, save_sample
from hilum.preparing.signature import sign
from hilum.settings.run import CohortConfig, Recipe, RunConfig, TrainingConfig
from hilum.settings.toml import load, save
from hilum.simulating import Scanner, simulate_scan
from hilum.training.run_cases import known_cases
from hilum.training.run_folder import Run
from hilum.training.train import train
from hilum.volume import NO_BIN, Tags, Volume

SCANNER = Scanner(pixel_mm=4.0, pixels=96, thickness_mm=4.0, increment_mm=4.0)
RECIPE = Recipe(region="whole", size=(8, 8, 8), extent_mm=(384.0, 384.0, 384.0))


@pytest.fixture(scope="module")
def patients():
    """Chests of different patients in one scanner."""
    return [simulate_scan(5, key=f"p{i}", scanner=SCANNER)[0] for i in range(40)]


def of(volume, hu, spacing_mm=None):
    return Volume.from_array(np.ascontiguousarray(hu), spacing_mm=spacing_mm or volume.spacing_mm)


def resampled(volume):
    smooth = ndimage.gaussian_filter(volume.voxels_hu.astype(np.float32), 0.4)
    hu = ndimage.zoom(smooth, (1.6, 0.8, 0.8), order=1, grid_mode=True, mode="nearest")
    spacing = tuple(mm * n / m for mm, n, m in zip(volume.spacing_mm, volume.shape, hu.shape, strict=True))
    return of(volume, np.rint(hu).astype(np.int16), spacing)


def padded(volume, shift):
    hu = np.full_like(volume.voxels_hu, -1024)
    hu[shift:, :, shift:] = volume.voxels_hu[:-shift, :, :-shift]
    return of(volume, hu)


ALTERED = {
    "flipped right to left": (lambda v: of(v, v.voxels_hu[:, :, ::-1]), "flipped right to left"),
    "upside down": (lambda v: of(v, v.voxels_hu[::-1]), "flipped feet to head"),
    "resampled": (resampled, "resampled (4 x 4 x 4 and 2.5"),
    "shifted": (lambda v: of(v, np.roll(v.voxels_hu, (3, -2, 1), (0, 1, 2))), "shifted by about 12 mm feet to head"),
    "shifted into air": (lambda v: padded(v, 2), "shifted by about 8 mm feet to head"),
    "without ten slices": (lambda v: of(v, v.voxels_hu[4:-6]), "cropped by 40 mm feet to head"),
    "flipped, cropped": (
        lambda v: of(v, v.voxels_hu[8:, ::-1]),
        "flipped front to back, cropped by 32 mm feet to head",
    ),
}


@pytest.mark.parametrize("kind", ALTERED)
def test_an_altered_copy_is_found_among_other_patients_and_told_how_it_differs(patients, kind):
    alter, says = ALTERED[kind]
    sources = {f"p{i}": sign(one) for i, one in enumerate(patients[:8])} | {"copy": sign(alter(patients[3]))}
    (found,) = find_near_copies(sources)
    assert {found.first, found.second} == {"p3", "copy"}
    assert says in found.how
    (between,) = find_near_copies({"x": sources["copy"]}, {name: sources[name] for name in ("p2", "p3", "p4")})
    assert (between.first, between.second) == ("x", "p3")


def test_no_two_patients_of_one_scanner_are_called_copies(patients):
    assert find_near_copies({str(i): sign(one) for i, one in enumerate(patients)}) == ()


def test_volumes_that_tell_nothing_are_no_copies():
    noise = [np.random.default_rng(i).integers(-1000, 400, (12, 12, 12)).astype(np.int16) for i in range(40)]
    flat = [np.full((40, 40, 40), value, np.int16) for value in (-1000, 0)]
    slopes = [np.broadcast_to(np.arange(n).astype(np.int16)[:, None, None], (n, 40, 40)) for n in (40, 41)]
    volumes = [Volume.from_array(hu.copy(), spacing_mm=(2.0, 2.0, 2.0)) for hu in (*noise, *flat, *slopes)]
    assert find_near_copies({str(i): sign(one) for i, one in enumerate(volumes)}) == ()


def test_a_copy_is_found_in_a_set_too_large_for_all_pairs(patients, monkeypatch):
    monkeypatch.setattr("hilum.cohorts.near_copies._ALL_PAIRS", 10)
    monkeypatch.setattr("hilum.cohorts.near_copies._NEIGHBOURS", 8)
    sources = {f"p{i}": sign(one) for i, one in enumerate(patients)} | {
        f"{kind} of p{i}": sign(alter(patients[i])) for i, (kind, (alter, _)) in enumerate(ALTERED.items())
    }
    found = {frozenset((pair.first, pair.second)) for pair in find_near_copies(sources)}
    assert found == {frozenset((f"p{i}", f"{kind} of p{i}")) for i, kind in enumerate(ALTERED)}


def test_a_signature_is_in_mm_and_kept_with_the_sample(patients, tmp_path):
    source = sign(patients[0])
    bins = (source.profiles != NO_BIN).sum(1)
    assert np.abs(bins * 2 - np.array(source.extent_mm)).max() <= 1
    means = source.profiles[0][source.profiles[0] != NO_BIN] / 16 - 1000
    whole = np.clip(patients[0].voxels_hu, -1000, 400).mean()
    assert means.mean() == pytest.approx(whole, abs=3)
    save_sample(replace(patients[0], source=source), tmp_path / "x.safetensors")
    kept = load_sample(tmp_path / "x.safetensors").source
    assert (kept.digest, kept.shape, kept.spacing_mm) == (source.digest, source.shape, source.spacing_mm)
    assert np.array_equal(kept.profiles, source.profiles)


# leaks


def cohort_of(tmp_path, volumes, rows, header=("case_id", "path", "label", "patient_id")):
    """A table of NIfTI files; the rows name volumes by number."""
    lines = [header]
    for case_id, number, *rest in rows:
        path = tmp_path / f"{number}.nii"
        if not path.exists():
            volumes[number].write(path)
        lines.append((case_id, path.name, *rest))
    (tmp_path / "t.csv").write_text("\n".join(",".join(map(str, line)) for line in lines) + "\n")
    cohort = Cohort.read(tmp_path / "t.csv", CohortConfig())
    return cohort, prepare_cohort(cohort, RECIPE, Store(tmp_path / "store"))


def test_a_patient_in_two_parts_one_scan_under_two_ids_and_a_copy_are_leaks_that_name_the_cases(patients, tmp_path):
    volumes = {0: patients[0], 1: patients[1], 2: patients[2], 3: of(patients[2], patients[2].voxels_hu[:, ::-1])}
    rows = [("a", 0, 0, "P0"), ("b", 1, 1, "P0"), ("c", 1, 1, "P1"), ("d", 2, 0, "P2"), ("e", 3, 0, "P3")]
    cohort, prepared = cohort_of(tmp_path, volumes, [rows[0], rows[3], rows[4]])
    found = audit(cohort, prepared, {"a": "train", "d": "train", "e": "test"})
    assert found.leaks == (
        "nearly the same scan is in several parts: 'd' (row 3, train) and 'e' (row 4, test) (flipped front to back)",
    )
    assert audit(cohort, prepared, dict.fromkeys("ade", "train")).leaks == ()
    assert "stands under several patients, which must be one: 'd' (row 3) and 'e' (row 4)" in found.warnings[0]
    json.dumps(found.as_dict(), allow_nan=False)
    cases = [
        Case(case_id=i, path=Path(i), label=label, patient_id=who, row=k) for k, (i, _, label, who) in enumerate(rows)
    ]
    known = PreparedCohort(
        cases=tuple(cases), samples=(), refusals=(), scans={"b": "x", "c": "x"},
        tags={"a": Tags(study="s1"), "d": Tags(study="s1"), "e": Tags(study="")},
    )  # fmt: skip
    links = {(link.kind, *(case.case_id for case in link.cases)) for link in find_links(cases, known)}
    assert links == {("patient", "a", "b"), ("scan", "b", "c"), ("study", "a", "d")}


def test_near_copies_are_joined_by_train_and_stop_it_where_the_tables_own_split_puts_them_apart(
    patients, tmp_path, monkeypatch, caplog, capsys
):
    copy = of(patients[0], patients[0].voxels_hu[:, :, ::-1])
    volumes = dict(enumerate([*patients[:12], copy]))
    rows = [(f"c{i}", i, i % 2, f"P{i}") for i in range(12)] + [("copy", 12, 0, "P12")]
    cohort_of(tmp_path, volumes, rows)
    config = RunConfig(
        cohort=CohortConfig(table="t.csv"), recipe=RECIPE, training=TrainingConfig(epochs=1, batch_size=4, device="cpu")
    )
    monkeypatch.setattr(training, "decided", lambda config, data: config)
    monkeypatch.setattr(training, "fit", lambda config, data, run: fitted.append(data) or run.model)
    monkeypatch.setattr(Run, "clear", lambda self: None)
    fitted = []
    train(config, tmp_path / "run", base=tmp_path)
    assert (
        "nearly the same scan stands under several patients, which must be one: 'c0' (row 2) and 'copy' (row 14)"
        in caplog.text
    )
    assert fitted[0].parts["c0"] == fitted[0].parts["copy"]
    assert fitted[0].leakage == ""
    kept = read_signatures(tmp_path / "run" / "signatures.safetensors")
    assert kept.keys() == {row[0] for row in rows}
    content = (tmp_path / "run" / "signatures.safetensors").read_bytes()
    content = content[: content.index(b"}}")]
    assert not any(word.encode() in content for word in ("P0", "P12", ".nii", str(tmp_path))), "no patient, no path"
    known = known_cases(Run(tmp_path / "run"))
    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    assert known.sources.keys() == {case_id for case_id, part in parts.items() if part != "test"}
    assert (known.notes, known.unchecked) == ((), "")

    ways = ("train", "train", "val", "val", "test", "test")
    split = [
        (*row, "test" if row[0] == "copy" else "train" if row[0] == "c0" else ways[i % 6]) for i, row in enumerate(rows)
    ]
    cohort_of(tmp_path, volumes, split, ("case_id", "path", "label", "patient_id", "split"))
    with pytest.raises(CohortError, match=r"own split leaks: nearly the same scan .*'c0' \(row 2, train\) and 'copy'"):
        train(config, tmp_path / "other", base=tmp_path)
    assert not (tmp_path / "other").exists()
    train(config, tmp_path / "other", base=tmp_path, allow_leakage=True)
    assert fitted[1].leakage == "leaks between the parts were allowed (near copies: 1)"
    assert (fitted[1].parts["c0"], fitted[1].parts["copy"]) == ("train", "test")
    assert main(["audit", str(tmp_path / "t.csv"), "--out", str(tmp_path / "audit.json")]) == 1
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1 + said.err.count("there is no column")
    assert "leaks: nearly the same scan is in several parts: 'c0' (row 2, train) and 'copy' (row 14, test)" in said.err
    assert json.loads((tmp_path / "audit.json").read_text())["leaks"][0]["cases"] == ["c0", "copy"]


def test_a_table_is_compared_with_the_cases_that_trained_a_run(patients, tmp_path, monkeypatch, capsys):
    cohort_of(tmp_path, dict(enumerate(patients[:12])), [(f"c{i}", i, i % 2, f"P{i}") for i in range(12)])
    config = RunConfig(cohort=CohortConfig(table="t.csv"), recipe=RECIPE, training=TrainingConfig(device="cpu"))
    monkeypatch.setattr(training, "decided", lambda config, data: config)
    monkeypatch.setattr(training, "fit", lambda config, data, run: run.model)
    monkeypatch.setattr(Run, "clear", lambda self: None)
    train(config, tmp_path / "run", base=tmp_path)
    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    seen = next(i for i in range(12) if parts[f"c{i}"] == "train")
    (tmp_path / "new").mkdir()
    volumes = {0: of(patients[seen], patients[seen].voxels_hu[5:-5]), 1: patients[20], 2: patients[21]}
    rows = [("x", 0, 0, "Q0"), ("y", 1, 1, "Q1"), ("z", 2, 1, f"P{seen}")]
    cohort, prepared = cohort_of(tmp_path / "new", volumes, rows)
    found = audit(cohort, prepared, known=known_cases(Run(tmp_path / "run")))
    assert [(link.kind, link.cases[0].case_id) for link in found.leaking] == [("patient", "z"), ("near copy", "x")]
    assert f"trained or validated the model: 'x' (row 2) (as 'c{seen}' of the run, cropped by 40 mm" in found.leaks[1]
    assert main(["audit", str(tmp_path / "new" / "t.csv"), "--run", str(tmp_path / "run")]) == 1
    assert main(["audit", str(tmp_path / "t.csv"), "--run", str(tmp_path / "run")]) == 0
    assert "no leak was found" in capsys.readouterr().out
    (tmp_path / "run" / "signatures.safetensors").write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"signatures\.safetensors: the signatures cannot be read"):
        known_cases(Run(tmp_path / "run"))
    (tmp_path / "run" / "signatures.safetensors").unlink()
    older = audit(cohort, prepared, known=known_cases(Run(tmp_path / "run")))
    assert [link.case_id for one in older.leaking for link in one.cases] == ["z"]
    assert "holds no signatures of its scans (it is of an older Hilum)" in older.notes[0]


def test_the_card_of_a_model_keeps_the_leaks_that_were_allowed(npy_cohort, tmp_path):
    rows = [f"c{i:02d},{npy_cohort}/{i:02d}.npy,{i % 2},P{i},{('train', 'val', 'test')[i // 2 % 3]}" for i in range(24)]
    shutil.copy(npy_cohort / "00.npy", tmp_path / "again.npy")
    rows.append("again,again.npy,0,Q,test")
    (tmp_path / "t.csv").write_text("\n".join(["case_id,path,label,patient_id,split", *rows]) + "\n")
    config = load(npy_cohort / "config.toml")
    config = replace(
        config,
        cohort=replace(config.cohort, table=str(tmp_path / "t.csv")),
        training=replace(config.training, epochs=1),
    )
    save(config, tmp_path / "c.toml")
    with pytest.raises(CohortError, match=r"by its voxels, is in several parts: 'c00' \(row 2, train\) and 'again'"):
        train(tmp_path / "c.toml", tmp_path / "run")
    model = train(tmp_path / "c.toml", tmp_path / "run", allow_leakage=True)
    card = json.loads((model / "model.json").read_text())["training"]
    assert card["leakage"] == "leaks between the parts were allowed (scans: 1)", "without case ids"


# what gives the label away


def simple(number, **more):
    cases = [
        Case(case_id=f"c{i}", path=Path("x"), label=i % 2, patient_id=f"id:{i // 2 * 2 + i % 2}", row=i + 2, **more)
        for i in range(number)
    ]
    return Cohort(cases=tuple(cases), classes=("benign", "malignant"), source=Path("t.csv"))


def with_samples(cohort, folder, tags, hu=lambda case: 0):
    files = []
    for case in cohort.cases:
        rng = np.random.default_rng(case.row)
        voxels = (rng.normal(hu(case), 50, (4, 4, 4))).astype(np.int16)
        files.append(folder / f"{case.case_id}.safetensors")
        save_sample(Volume.from_array(voxels, spacing_mm=(1.0, 1.0, 1.0)), files[-1])
    by_case = {case.case_id: tags(case) for case in cohort.cases}
    return PreparedCohort(cases=cohort.cases, samples=tuple(files), refusals=(), tags=by_case)


def test_a_kernel_that_gives_the_label_away_is_warned_of_and_one_that_does_not_is_not(tmp_path):
    cohort = simple(80)
    rng = np.random.default_rng(0)
    makers = {case.case_id: str(rng.integers(3)) for case in cohort.cases}

    def tags(case):
        kernel = "B70f" if (case.label == 1) == (case.row % 10 > 1) else "B30f"
        return Tags(kernel=kernel, manufacturer=makers[case.case_id], thickness_mm=None if case.row % 7 else 2.0)

    found = audit(cohort, with_samples(cohort, tmp_path, tags, hu=lambda case: 400 * (case.label or 0)))
    (warning,) = found.warnings
    assert warning.startswith("kernel alone tells 'malignant': cross-validated AUC 0.")
    by_tag = {one.tag: one for one in found.giveaways}
    assert by_tag["kernel"].auc > 0.7
    assert by_tag["kernel"].low < by_tag["kernel"].auc < by_tag["kernel"].high
    assert by_tag["manufacturer"].low < 0.5 < by_tag["manufacturer"].high
    assert by_tag["HU histogram"].auc > 0.95, "it may know the disease, and is no warning"
    assert (by_tag["model"].auc, by_tag["model"].reason) == (None, "all cases have the same value, or none")


def test_sizes_are_measured_beside_and_too_few_patients_give_a_reason(tmp_path):
    cohort = simple(40)
    cases = tuple(
        replace(case, groups={"diameter_mm": str(5 + 4 * case.label + case.row % 3)}) for case in cohort.cases
    )
    cohort = replace(cohort, cases=cases)
    prepared = with_samples(cohort, tmp_path, lambda case: Tags())
    size = next(one for one in audit(cohort, prepared).giveaways if one.tag.startswith("size"))
    assert (size.tag, size.auc, size.is_technical) == ("size (diameter_mm)", 1.0, False)
    few = replace(cohort, cases=cases[:10])
    some = replace(prepared, cases=cases[:10], samples=prepared.samples[:10])
    assert {one.reason[:34] for one in audit(few, some).giveaways} == {"too few patients: 5 with the class"}


def test_a_class_whose_scans_are_refused_more_often_is_warned_of():
    cohort = simple(60)
    gone = [case for case in cohort.cases if case.label == 1][:12]
    refusals = tuple(Refusal(case_id=case.case_id, row=case.row, reason="damaged") for case in gone)
    left = tuple(case for case in cohort.cases if case not in gone)
    (found,) = refused_by_class(cohort, PreparedCohort(cases=left, samples=(), refusals=refusals))
    assert (found.refused, found.used) == ({"benign": 0, "malignant": 12}, {"benign": 30, "malignant": 18})
    assert found.p < 0.001
    (none,) = refused_by_class(cohort, PreparedCohort(cases=cohort.cases, samples=(), refusals=()))
    assert (none.p, none.reason) == (None, "no case was refused")
    many = replace(cohort, classes=("a", "b"), multi_label=True)
    many = replace(many, cases=tuple(replace(c, label=None, present=(float(c.row % 2), 1.0)) for c in cohort.cases))
    first, second = refused_by_class(many, PreparedCohort(cases=left, samples=(), refusals=refusals))
    assert (first.target, first.refused) == ("a", {"absent": 0, "present": 12})
    assert (second.p, second.reason) == (None, "there is one class, or no usable case")


def test_missing_and_extreme_values_are_told_by_column_and_case():
    cohort = simple(50)
    groups = [{"age": str(40 + i), "sex": "f", "dose": "na" if i < 5 else "1"} for i in range(50)]
    groups[7]["age"] = "6300"
    cases = [replace(case, groups=one) for case, one in zip(cohort.cases, groups, strict=True)]
    age, dose = odd_values(cases)
    assert (age.column, age.missing, dict(age.extreme)) == ("age", 0.0, {"c7": 6300.0})
    assert (dose.column, dose.missing, dict(dose.extreme)) == ("dose", 0.1, {})


def test_the_verb_audits_a_table_alone_and_says_what_was_refused(patients, tmp_path, capsys):
    cohort_of(tmp_path, dict(enumerate(patients[:4])), [(f"c{i}", i, i % 2, f"P{i}") for i in range(4)])
    with (tmp_path / "t.csv").open("a", newline="") as file:
        csv.writer(file).writerow(["gone", "nowhere.nii", "1", "P9"])
    assert main(["audit", str(tmp_path / "t.csv"), "--json"]) == 3
    answer = json.loads(capsys.readouterr().out)
    assert (answer["num_cases"], answer["leaks"], answer["refused"][0]["refused"]) == (5, [], {"0": 0, "1": 1})


# the parts that are trained


@pytest.fixture
def fitted(monkeypatch):
    """What would be trained, begun or resumed."""
    fitted = []

    def fit(config, data, run, *, resume=False):
        run.checkpoint.mkdir(exist_ok=True)
        (run.checkpoint / training.STATE).touch()
        fitted.append(data)
        return run.model

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(training, "decided", lambda config, data: config)
    return fitted


def copied(patients, tmp_path, splits):
    """A table of twelve patients with these parts, and flipped copies of the first three under other patients."""
    flipped = [of(one, one.voxels_hu[:, :, ::-1]) for one in patients[:3]]
    rows = [(f"c{i}", i, i % 2, f"P{i}") for i in range(12)] + [(f"copy{i}", 12 + i, i % 2, f"Q{i}") for i in range(3)]
    rows = [(*row, part) for row, part in zip(rows, splits, strict=True)]
    header = ("case_id", "path", "label", "patient_id", "split")
    cohort_of(tmp_path, dict(enumerate([*patients[:12], *flipped])), rows, header)
    return RunConfig(cohort=CohortConfig(table="t.csv"), recipe=RECIPE, training=TrainingConfig(epochs=1, device="cpu"))


WAYS = ("train", "test", "test", "train", "train", "train", "val", "val", "val", "test", "test", "train")


def test_a_copy_without_a_part_goes_with_its_original_and_the_audit_is_of_the_parts_that_are_trained(
    patients, tmp_path, fitted
):
    config = copied(patients, tmp_path, (*WAYS, "", "", ""))
    train(config, tmp_path / "run", base=tmp_path)
    parts = fitted[0].parts
    assert [(parts[f"c{i}"], parts[f"copy{i}"]) for i in range(3)] == [("train",) * 2, ("test",) * 2, ("test",) * 2]
    assert json.loads((tmp_path / "run" / "audit.json").read_text())["leaks"] == []
    assert fitted[0].leakage == ""
    assert len({case.patient_id for case in fitted[0].cohort.cases}) == 12


def test_the_error_names_only_cases_that_are_in_several_parts(patients, tmp_path, fitted):
    config = copied(patients, tmp_path, (*WAYS, "train", "", "train"))
    message = r"leaks: nearly the same scan is in several parts: 'c2' \(row 4, test\) and 'copy2' \(row 16, train\) \(f"
    with pytest.raises(CohortError, match=message) as caught:
        train(config, tmp_path / "run", base=tmp_path)
    assert "copy0" not in str(caught.value)
    assert "copy1" not in str(caught.value)
    assert "more leaks" not in str(caught.value)


def test_a_resumed_run_has_the_patients_and_the_sentence_on_leaks_of_an_unbroken_one(
    patients, tmp_path, fitted, caplog
):
    config = copied(patients, tmp_path, (*WAYS, "train", "", "train"))
    train(config, tmp_path / "run", base=tmp_path, allow_leakage=True)
    train(config, tmp_path / "run", resume=True)
    begun, resumed = fitted
    assert begun.leakage == resumed.leakage == "leaks between the parts were allowed (near copies: 1)"
    assert begun.cohort.cases == resumed.cohort.cases
    assert begun.prepared.cases == resumed.prepared.cases
    of_case = {case.case_id: case.patient_id for case in begun.cohort.cases}
    assert of_case["c0"] == of_case["copy0"]
    assert of_case["c2"] != of_case["copy2"]
    audit_file = tmp_path / "run" / "audit.json"
    older = json.loads(audit_file.read_text())
    older["leaks"] = []  # audited by the parts of the table, not by those that were trained
    audit_file.write_text(json.dumps(older))
    caplog.clear()
    train(config, tmp_path / "run", resume=True)
    audit_file.unlink()
    train(config, tmp_path / "run", resume=True)
    assert (
        fitted[2].leakage
        == fitted[3].leakage
        == "there are leaks between the parts, found after training began (near copies: 1)"
    )
    warning = (
        "begun by an older Hilum, leaks, and stays: nearly the same scan is in several parts: 'c2' (row 4, test) and"
    )
    assert warning in caplog.text


def test_without_several_parts_the_audit_says_that_nothing_could_leak(patients, tmp_path, capsys):
    rows = [(f"c{i}", i, i % 2, f"P{i}") for i in range(4)]
    cohort_of(tmp_path, dict(enumerate(patients[:4])), rows)
    assert main(["audit", str(tmp_path / "t.csv")]) == 0
    said = capsys.readouterr().out
    assert "there are no several parts between which cases could leak: scans are compared for copies only" in said
    assert "no leak was found\n" not in said
    header = ("case_id", "path", "label", "patient_id", "split")
    rows = [(*row, part) for row, part in zip(rows, ("train", "test", "", "train"), strict=True)]
    cohort_of(tmp_path, dict(enumerate(patients[:4])), rows, header)
    assert main(["audit", str(tmp_path / "t.csv")]) == 0
    assert "cases without a part, which may leak into any: 'c2' (row 4)" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--unchecked must be given with --run"):
        AuditCohort(table=tmp_path / "t.csv", unchecked=True)
    rows[2] = (*rows[2][:4], "val")
    cohort_of(tmp_path, dict(enumerate(patients[:4])), rows, header)
    assert main(["audit", str(tmp_path / "t.csv")]) == 0
    assert "no leak was found\n" in capsys.readouterr().out


# folds and intervals of what gives the label away


def table_of(labels, patients, tags=None):
    """Cases with these labels and patients, and their tags."""
    cases = tuple(
        Case(case_id=f"c{i}", path=Path("x"), label=int(label), patient_id=f"id:{who}", row=i + 2)
        for i, (label, who) in enumerate(zip(labels, patients, strict=True))
    )
    tags = {case.case_id: tag for case, tag in zip(cases, tags or [Tags()] * len(cases), strict=True)}
    prepared = PreparedCohort(cases=cases, samples=tuple(Path(case.case_id) for case in cases), refusals=(), tags=tags)
    return Cohort(cases=cases, classes=("0", "1"), source=Path("t.csv")), prepared


@pytest.fixture
def noise(monkeypatch):
    """Samples of noise without files: the name of a sample is ``c`` and its number; two numbers in turn share one."""
    shared = {}

    def load(file):
        scan = int(file.stem[1:]) // 2
        if scan not in shared:
            voxels = np.random.default_rng(scan).normal(0, 400, (6, 6, 6)).clip(-1000, 1000).astype(np.int16)
            shared[scan] = Volume.from_array(voxels, spacing_mm=(1.0, 1.0, 1.0))
        return shared[scan]

    monkeypatch.setattr("hilum.cohorts.giveaways.load_sample", load)


def test_a_scan_under_two_patients_is_in_one_fold_so_that_noise_tells_nothing(noise):
    labels = np.repeat(np.random.default_rng(1).integers(0, 2, 150), 2)
    cohort, prepared = table_of(labels, range(300))
    prepared = replace(prepared, scans={f"c{i}": str(i // 2) for i in range(300)})
    (alone,) = (one.auc for one in find_giveaways(cohort, prepared) if one.tag == "HU histogram")
    (joined,) = (one.auc for one in audit(cohort, prepared).giveaways if one.tag == "HU histogram")
    assert alone > 0.6, "the copies leak between the folds"
    assert 0.4 < joined < 0.55, joined


def test_a_tag_that_only_tells_the_patient_does_not_tell_the_label(noise):
    """Five cases of each patient share a kernel of their own: known in training, it would tell the label."""
    labels = np.repeat(np.random.default_rng(2).integers(0, 2, 60), 5)
    patients = np.repeat(np.arange(60), 5)
    cohort, prepared = table_of(labels, patients, [Tags(kernel=f"K{who}") for who in patients])
    (kernel,) = (one.auc for one in find_giveaways(cohort, prepared) if one.tag == "kernel")
    assert 0.35 < kernel < 0.6


def test_the_interval_of_a_size_is_as_wide_as_the_figures_of_many_tables_scatter(noise):
    figures, widths = [], []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = np.repeat([0, 1], 60)
        cohort, prepared = table_of(labels, range(120))
        sizes = rng.normal(10 + 3 * labels, 3)
        cases = tuple(replace(c, groups={"size_mm": f"{s:.2f}"}) for c, s in zip(cohort.cases, sizes, strict=True))
        found = find_giveaways(replace(cohort, cases=cases), replace(prepared, cases=cases))
        (one,) = (one for one in found if one.tag == "size (size_mm)")
        figures.append(one.auc)
        widths.append(one.high - one.low)
    ratio = np.mean(widths) / (2 * 1.96 * np.std(figures))
    assert 0.75 < ratio < 1.5, ratio


def test_prepared_volumes_of_whatever_size_are_audited_without_a_run(npy_cohort, capsys):
    assert main(["audit", str(npy_cohort / "cohort.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["num_cases"] == 60
    assert found["leaks"] == []
    assert all(not sum(one["refused"].values()) for one in found["refused"])
