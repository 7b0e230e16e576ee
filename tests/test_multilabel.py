"""Findings that do not exclude one another, and classes by name, go the whole way from a table to figures and files."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from hilum.cli import main
from hilum.cohorts.dataset import CohortDataset
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.split_file import read_splits
from hilum.cohorts.table import Cohort
from hilum.deciding.decision import Decision, Decisions
from hilum.deciding.model_folder import ModelCard, build, load_model, save_model
from hilum.deciding.tta import Views, changes_of
from hilum.errors import CohortError, ConfigError
from hilum.judging import evaluate
from hilum.measuring.calibration import Calibration
from hilum.measuring.metrics import roc_auc
from hilum.modelling.augmenting.augment import apply
from hilum.modelling.input import model_input
from hilum.predicting import Predictor
from hilum.predicting.export_check import runner
from hilum.preparing import Store, prepare_path
from hilum.preparing.subvolumes import all_starts, cut
from hilum.settings.run import (
    AugmentConfig,
    CohortConfig,
    ColumnsConfig,
    DecisionConfig,
    HeadConfig,
    LossConfig,
    ModelConfig,
    Recipe,
    SamplingConfig,
)
from hilum.settings.toml import load, save
from hilum.training.train import train
from hilum.volume import Volume, affine_from

COLUMNS = ("n", "e", "r")
LABELS = ("nodule", "pleural effusion", "GGO / ä.")
"""In half, a quarter and an eighth of the cases; any of them together."""

CONFIG = """
[cohort]
table = "cohort.csv"
classes = ["nodule", "pleural effusion", "GGO / ä."]

[cohort.columns]
labels = ["n", "e", "r"]

[split]
val = 0.25
test = 0.25

[recipe]
region = "whole"
size = [12, 12, 12]
spacing_mm = [2.0, 2.0, 2.0]

[augment]
translation_mm = [2.0, 2.0, 2.0]

[model]
depth = 10
width = 4
stem = "small"

[training]
epochs = 5
batch_size = 8
lr = 5e-3

[speed]
precision = "fp32"
channels_last = "off"
folded_stem = "off"
products = "off"
compile = "off"
keep_memory = "off"
"""


def drawn(i, random):
    """A volume of noise with what its number says, and whether it has each label."""
    volume = random.normal(0.2, 0.05, (12, 12, 12))
    present = (i % 2 == 1, i % 4 == 2 or i % 16 == 5, i % 8 == 3)
    if present[0]:
        grid = np.stack(np.meshgrid(*[np.arange(12) - 5.5] * 3, indexing="ij"))
        volume[((grid - random.uniform(-2, 2, (3, 1, 1, 1))) ** 2).sum(axis=0) < 7] += 0.4
    if present[1]:
        volume[:4] += 0.2
    if present[2]:
        volume[:, :, ::3] += 0.2
    return np.clip(volume, 0, 1).astype(np.float32), present


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """160 prepared volumes of 80 patients, a table and a config.

    Of the first label the table has shares of readers, of the others 0 and 1; another column names a class.
    """
    folder = tmp_path_factory.mktemp("labels")
    random = np.random.default_rng(0)
    rows = ["case_id,path,patient_id,n,e,r,kind"]
    for i in range(160):
        volume, (n, e, r) = drawn(i, random)
        np.save(folder / f"{i:03d}.npy", volume)
        kind = "tumour" if r else "covid" if e else "healthy"
        share = (1, 0.5, 0.75)[i % 3] if n else (0, 0.25)[i % 2]
        rows.append(f"c{i:03d},{i:03d}.npy,SMITH-{i // 2},{share},{e:d},{r:d},{kind}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    (folder / "config.toml").write_text(CONFIG)
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """The run folder of a model of three labels, trained and judged by the command line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HILUM_KEY", "tests")
        assert main(["train", str(folder / "config.toml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def of_kinds(folder):
    """The run folder of a model of three classes by name, of the same volumes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HILUM_KEY", "tests")
        (folder / "kinds.toml").write_text(kinds(CONFIG))
        train(folder / "kinds.toml", folder / "kinds")
    return folder / "kinds"


def kinds(text):
    """The config of the classes by name."""
    lines = [line for line in text.splitlines() if not line.startswith(("classes", "labels"))]
    return "\n".join(lines).replace("[cohort.columns]", '[cohort.columns]\nlabel = "kind"')


def is_there(row, column):
    """Whether the table says that a label is present: for half of its readers, or more."""
    return float(row[column]) >= 0.5


def cells(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# the way of the labels


def test_a_table_of_labels_becomes_a_model_with_a_calibration_and_a_threshold_for_each(run, folder):
    _, card = load_model(run / "model")
    assert card.decisions.multi_label
    assert card.classes == LABELS
    assert {one.calibration.method for one in card.decisions.each} == {"platt"}  # smoothed labels are moved
    assert all(0 < at < 1 for at in card.decisions.thresholds.values())
    assert list(card.training["validation"]) == list(LABELS)
    parts = read_splits(run / "splits.csv").parts
    rows = [row for row in cells(folder / "cohort.csv") if parts[row["case_id"]] == "train"]
    counts = {f"class {name}": sum(is_there(row, c) for row in rows) for name, c in zip(LABELS, COLUMNS, strict=True)}
    assert card.training["counts"]["train"] == {"cases": len(rows), "patients": len(rows) // 2} | counts
    assert float(cells(run / "metrics.csv")[-1]["val_auc"]) > 0.9


def test_the_judgement_is_of_the_test_part_with_each_label_and_its_frozen_threshold(run, folder):
    answer = json.loads((run / "evaluation" / "evaluation.json").read_text())
    decisions = load_model(run / "model")[1].decisions
    rows = cells(run / "evaluation" / "cases.csv")
    table = {row["case_id"]: row for row in cells(folder / "cohort.csv")}
    parts = read_splits(run / "splits.csv").parts
    assert {row["case_id"] for row in rows} == {case for case, part in parts.items() if part == "test"}
    assert answer["threshold_rule"] == {name: one.rule for name, one in zip(LABELS, decisions.each, strict=True)}
    for name, column in zip(LABELS, COLUMNS, strict=True):
        there = [str(int(is_there(table[row["case_id"]], column))) for row in rows]
        assert [row[f"label_{name}"] for row in rows] == there
        y = np.array([int(row[f"label_{name}"]) for row in rows])
        p = np.array([float(row[f"prob_{name}"]) for row in rows])
        assert answer["by_label"][name]["auc"] == roc_auc(y, p) > 0.8
        assert answer["by_label"][name]["threshold"] == decisions.thresholds[name]
        for row, q in zip(rows, p, strict=True):
            called = str(int(q >= decisions.thresholds[name]))
            assert row[f"called_{name}"] == ("" if row["outcome"] == "no-result" else called)
    assert answer["num_cases"] == len(rows)
    for file in (run / "evaluation").iterdir():
        assert b"SMITH" not in file.read_bytes()


@pytest.mark.parametrize("flags", [[], ["--columns.labels", *LABELS[::-1]]], ids=["looked for", "given"])
def test_another_table_is_judged_by_columns_of_the_labels_names_in_any_order(run, folder, tmp_path, capsys, flags):
    lines = [line.split(",") for line in (folder / "cohort.csv").read_text().splitlines()[1:]]
    rows = [["case_id", "path", "patient_id", *reversed(LABELS)]]
    rows += [[case, f"{folder}/{path}", patient, r, e, n] for case, path, patient, n, e, r, _ in lines]
    (tmp_path / "other.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    words = [
        "evaluate",
        str(run / "model"),
        str(tmp_path / "other.csv"),
        "--out",
        str(tmp_path / "e"),
        "--json",
        *flags,
    ]
    assert main(words) == 0
    answer = json.loads(capsys.readouterr().out)
    own = json.loads((run / "evaluation" / "evaluation.json").read_text())
    assert answer["by_label"] == own["by_label"]
    assert answer["macro_auc_ci"] == own["macro_auc_ci"]
    assert answer["num_seen"] == 160 - own["num_cases"]


def test_columns_of_other_names_are_the_labels_in_the_order_given_and_gaps_are_left_out(run, folder, tmp_path, caplog):
    text = (folder / "cohort.csv").read_text().replace(",1,0,0,healthy", ",1,,0,healthy")
    (folder / "gaps.csv").write_text(text)
    answer = evaluate(run / "model", folder / "gaps.csv", tmp_path / "e", columns=ColumnsConfig(labels=COLUMNS))
    rows, whole = cells(tmp_path / "e" / "cases.csv"), cells(run / "evaluation" / "cases.csv")
    filled = {row["case_id"] for row in cells(folder / "gaps.csv") if row["e"]}
    whole_filled = [row for row in whole if row["case_id"] in filled]
    for row, same in zip(rows, whole_filled, strict=True):  # a last batch of another size may round otherwise
        probs = {
            name: pytest.approx(float(value), abs=1e-6) for name, value in same.items() if name.startswith("prob_")
        }
        assert {**row, **{name: float(row[name]) for name in probs}} == {**same, **probs}
    assert 0 < answer["num_cases"] < len(whole)
    assert f"{160 - len(filled)} of 160 rows have no label and are left out" in caplog.text


@pytest.mark.parametrize(
    ("labels", "error", "says"),
    [
        ((), CohortError, r"a column for each label of the model, got none for nodule, pleural effusion, GGO / ä\."),
        (
            ("n", "e"),
            ConfigError,
            r"columns.labels must be the columns of the model's 3 labels, in this order: nodule",
        ),
        (("e", "nodule", "r"), ConfigError, r"columns.labels must be .* in this order: nodule, pleural effusion, GGO"),
        (("n", "e", "x"), CohortError, "there must be a column 'x' for labels"),
    ],
)
def test_a_table_without_the_columns_of_the_labels_is_refused(run, folder, tmp_path, labels, error, says):
    with pytest.raises(error, match=says):
        evaluate(run / "model", folder / "cohort.csv", tmp_path / "e", columns=ColumnsConfig(labels=labels))
    assert not (tmp_path / "e").exists()


def test_a_model_of_classes_is_not_judged_by_labels(of_kinds, folder, tmp_path, capsys):
    words = ["evaluate", str(of_kinds / "model"), str(folder / "cohort.csv"), "--out", str(tmp_path / "e")]
    assert main([*words, "--columns.labels", "n", "e"]) == 1
    said = capsys.readouterr().err
    assert "columns.labels must be empty, for the model decides between classes (covid, healthy, tumour)" in said
    assert said.count("\n") == 1


def test_a_run_whose_config_has_lost_its_labels_is_not_judged_by_it(run, folder, tmp_path):
    shutil.copytree(run, folder / "lost")
    config = load(run / "config.toml")
    save(replace(config, cohort=replace(config.cohort, columns=ColumnsConfig())), folder / "lost" / "config.toml")
    with pytest.raises(ConfigError, match=r"columns.labels in .*config.toml must be labels, as the model has them"):
        evaluate(folder / "lost" / "model", None, tmp_path / "e")


def test_one_scan_is_predicted_with_a_probability_and_a_threshold_for_each_label(run, folder, capsys):
    assert main(["predict", str(run / "model"), str(folder / "003.npy"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert list(answer["probabilities"]) == list(answer["thresholds"]) == list(LABELS)
    called = [name for name in LABELS if answer["probabilities"][name] >= answer["thresholds"][name]]
    assert answer["decision"] == (" + ".join(called) or "no finding")
    assert main(["predict", str(run / "model"), str(folder / "003.npy")]) == 0
    shown = capsys.readouterr().out
    assert f"P(GGO / ä.) = {answer['probabilities'][LABELS[2]]:.3f}" in shown
    assert f"(thresholds nodule {answer['thresholds']['nodule']:.3f}, pleural effusion " in shown


def test_a_table_of_predictions_has_a_column_for_each_label_and_counts_decisions(run, folder, tmp_path, capsys):
    words = ["predict", str(run / "model"), str(folder / "cohort.csv"), "--out", str(tmp_path / "p.csv"), "--json"]
    assert main(words) == 0
    summary = json.loads(capsys.readouterr().out)
    rows = cells(tmp_path / "p.csv")
    assert list(rows[0]) == [
        "case_id",
        "row",
        *(f"prob_{name}" for name in LABELS),
        "decision",
        "reason_codes",
        "reason",
    ]
    assert len(rows) == 160
    thresholds = load_model(run / "model")[1].decisions.thresholds
    for row in rows:
        called = [name for name in LABELS if float(row[f"prob_{name}"]) >= thresholds[name]]
        assert row["decision"] in ("no-result", " + ".join(called) or "no finding")
    assert sum(summary["decisions"].values()) == 160
    assert summary["decisions"]["no finding"] == sum(row["decision"] == "no finding" for row in rows) > 0
    judged = {row["case_id"]: row for row in cells(run / "evaluation" / "cases.csv")}
    shared = [(row, judged[row["case_id"]]) for row in rows if row["case_id"] in judged]
    assert len(shared) == len(judged)
    for row, other in shared:
        for name in LABELS:
            assert float(row[f"prob_{name}"]) == pytest.approx(float(other[f"prob_{name}"]), abs=1e-6)


def test_probabilities_are_stated_at_a_prevalence_for_each_label_and_decisions_stay(run, folder, capsys):
    plain = Predictor(run / "model", device="cpu").predict(folder / "001.npy")
    words = ["predict", str(run / "model"), str(folder / "001.npy"), "--json", "--device", "cpu", "--prevalence"]
    assert main([*words, "0.02", "0.5", "0.001"]) == 0
    answer = json.loads(capsys.readouterr().out)
    calibrations = [one.calibration for one in load_model(run / "model")[1].decisions.each]
    for name, share, calibration in zip(LABELS, (0.02, 0.5, 0.001), calibrations, strict=True):
        ratio = share / (1 - share) * calibration.prevalence[0] / calibration.prevalence[1]
        odds = plain.probabilities[name] / (1 - plain.probabilities[name]) * ratio
        assert answer["probabilities"][name] == pytest.approx(odds / (1 + odds))
    assert answer["decision"] == plain.decision
    assert main([*words, "0.02"]) == 1
    assert "prevalence must be 3 shares, got 1" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [pytest.param("onnx", marks=pytest.mark.slow), "pt2"])
def test_an_exported_file_gives_the_probabilities_of_the_labels(run, folder, tmp_path, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    assert main(["export", str(run / "model"), "--format", kind, "--out", str(tmp_path / f"m.{kind}")]) == 0
    predictor = Predictor(run / "model", device="cpu")
    samples = [prepare_path(folder / f"{i:03d}.npy", predictor.card.recipe) for i in range(4)]
    got = runner(tmp_path / f"m.{kind}")(torch.stack([torch.from_numpy(s.voxels_hu).float()[None] for s in samples]))
    expected = np.array([list(one.probabilities.values()) for one in predictor.predict_samples(samples)])
    assert got == pytest.approx(expected, abs=1e-4)
    assert np.abs(expected.sum(axis=1) - 1).max() > 0.05  # they are no shares of one whole


def test_a_resumed_run_of_labels_equals_an_unbroken_one_bit_for_bit(folder, tmp_path, train_until):
    config = load(folder / "config.toml")
    config = replace(
        config,
        loss=LossConfig(name="asymmetric"),
        sampling=SamplingConfig(method="progressive"),
        augment=replace(config.augment, mixup=0.5),
        training=replace(config.training, epochs=2),
    )
    train(config, tmp_path / "whole", base=folder)
    train_until(config, tmp_path / "broken", base=folder)
    train(config, tmp_path / "broken", resume=True)
    for file in ("metrics.csv", "model/model.json", "config.toml"):
        assert (tmp_path / "broken" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()
    whole, broken = (load_file(tmp_path / one / "model" / "weights.safetensors") for one in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


@pytest.mark.parametrize(
    ("loss", "sampling"),
    [
        ("asymmetric", "over"),
        pytest.param("focal", "none", marks=pytest.mark.slow),
        pytest.param("dice", "none", marks=pytest.mark.slow),
        pytest.param("logit-adjusted", "none", marks=pytest.mark.slow),
    ],
)
def test_labels_are_learned_by_losses_for_rare_ones(folder, tmp_path, loss, sampling):
    config = quick(folder, loss=LossConfig(name=loss), sampling=SamplingConfig(method=sampling))
    _, card = load_model(train(config, tmp_path / "run", base=folder))
    assert max(float(row["val_auc"]) for row in cells(tmp_path / "run" / "metrics.csv")) > 0.75
    assert [one.calibration.method for one in card.decisions.each][1:] == ["platt", "platt"]


@pytest.mark.parametrize(
    ("loss", "sampling"),
    [
        pytest.param("ldam", "combined", marks=pytest.mark.slow),
        ("tversky", "progressive"),
        pytest.param("cross-entropy", "over", marks=pytest.mark.slow),
        pytest.param("focal", "none", marks=pytest.mark.slow),
        pytest.param("poly1", "under", marks=pytest.mark.slow),
        pytest.param("asymmetric", "none", marks=pytest.mark.slow),
        pytest.param("logit-adjusted", "none", marks=pytest.mark.slow),
        pytest.param("dice", "balanced", marks=pytest.mark.slow),
        pytest.param("combined", "none", marks=pytest.mark.slow),
    ],
)
def test_classes_by_name_are_learned_by_every_loss_and_sampling(folder, of_kinds, tmp_path, loss, sampling):
    config = load(folder / "kinds.toml")
    config = quick(folder, config, loss=LossConfig(name=loss), sampling=SamplingConfig(method=sampling))
    _, card = load_model(train(config, tmp_path / "run", base=folder))
    assert card.classes == ("covid", "healthy", "tumour")
    assert max(float(row["val_auc"]) for row in cells(tmp_path / "run" / "metrics.csv")) > 0.75
    assert card.decisions.each[0].calibration.method == "platt"


@pytest.mark.parametrize(
    "change",
    [
        {"decision": DecisionConfig(tta=2)},
        {"head": HeadConfig(retrain="balanced")},
        {"recipe": Recipe(region="whole", size=(8, 8, 8), spacing_mm=(2.0, 2.0, 2.0), sub_volumes=True)},
    ],
    ids=["tta", "head", "sub-volumes"],
)
def test_labels_are_validated_as_they_are_predicted(folder, tmp_path, change):
    """The figures that chose the thresholds are those of the predictor on the validation cases."""
    model = train(quick(folder, **change), tmp_path / "run", base=folder)
    predictor = Predictor(model, device="cpu")
    parts = read_splits(tmp_path / "run" / "splits.csv").parts
    rows = [row for row in cells(folder / "cohort.csv") if parts[row["case_id"]] == "val"]
    predictions = [predictor.predict(folder / row["path"]) for row in rows]
    for name, column in zip(LABELS, COLUMNS, strict=True):
        y = np.array([int(is_there(row, column)) for row in rows])
        p = np.array([one.probabilities[name] for one in predictions])
        said = predictor.card.training["validation"][name]
        assert said["auc"] == pytest.approx(roc_auc(y, p), abs=0.01)
        called = p >= predictor.card.decisions.thresholds[name]
        assert said["sensitivity"] == pytest.approx(np.mean(called[y == 1]))


def quick(folder, config=None, **changes):
    """Three epochs, with what is to be looked at."""
    config = config or load(folder / "config.toml")
    return replace(config, training=replace(config.training, epochs=3), **changes)


def test_the_classes_by_name_are_judged_each_against_the_rest(of_kinds, folder, tmp_path):
    answer = evaluate(of_kinds / "model", None, tmp_path / "e")
    assert answer["classes"] == list(answer["by_class"]) == ["covid", "healthy", "tumour"]
    rows = cells(tmp_path / "e" / "cases.csv")
    kind = {row["case_id"]: row["kind"] for row in cells(folder / "cohort.csv")}
    assert [row["label"] for row in rows] == [kind[row["case_id"]] for row in rows]
    for name, found in answer["by_class"].items():
        of_it = [row for row in rows if row["label"] == name and row["outcome"] == "decided"]
        assert found["sensitivity"] == pytest.approx(np.mean([row["decision"] == name for row in of_it]))
        assert found["auc"] > 0.75


# by hand


@pytest.mark.parametrize("views", [0, 2])
@pytest.mark.parametrize("aggregate", ["mean", "max"])
def test_a_label_in_one_grid_of_a_large_sample_is_what_one_computes_by_hand(tmp_path, aggregate, views):
    """Mean: over the grids; max: of each label that of the grid where it is most probable, whichever that is."""
    recipe = Recipe(region="whole", size=(8, 8, 8), spacing_mm=(2.0, 2.0, 2.0), sub_volumes=True, aggregate=aggregate)
    config = ModelConfig(depth=10, width=4, stem="small")
    torch.manual_seed(0)
    network = build(config, recipe, 3).eval()
    tilt = Calibration(method="platt", temperature=0.5, bias=(-0.3, 0.3))
    looked = Views(count=views, augment=AugmentConfig(flip=(0.5, 0.5, 0.5)).geometry) if views else None
    decisions = Decisions(
        classes=LABELS, multi_label=True, each=(Decision(calibration=tilt, threshold=0.5), Decision(), Decision())
    )
    card = ModelCard(model=config, recipe=recipe.in_numbers, training={}, views=looked, decisions=decisions)
    save_model(tmp_path / "model", network, card)
    hu = np.random.default_rng(0).integers(-1000, 400, (12, 15, 13)).astype(np.int16)
    sample = Volume(voxels_hu=hu, affine=affine_from(spacing_mm=(2.0, 2.0, 2.0), origin_mm=(0.0, 0.0, 0.0)))
    (got,) = Predictor(tmp_path / "model", device="cpu").predict_samples([sample])
    grids = []
    with torch.inference_mode():
        for start in all_starts(sample, recipe):
            x = torch.from_numpy(cut(sample, recipe, tuple(int(s) for s in start))).float()[None]
            seen = [
                x,
                *(apply(x, [one], np.full((1, 3), 2.0), recipe) for one in (changes_of(looked) if looked else ())),
            ]
            probs = [network(model_input(one, recipe.windows)).double().sigmoid()[0].numpy() for one in seen]
            grids.append(np.mean(probs, axis=0))
    assert len(grids) > 4
    case = np.mean(grids, axis=0) if aggregate == "mean" else np.max(grids, axis=0)
    odds = np.log(case[0] / (1 - case[0]))
    case[0] = 1 / (1 + np.exp(-(odds / 0.5 + 0.6)))
    assert list(got.probabilities.values()) == pytest.approx(case, abs=1e-5)


# tables


def table_of(tmp_path, *rows, header="path,n,e"):
    path = tmp_path / "t.csv"
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


TWO = ColumnsConfig(labels=("n", "e"))


def test_shares_of_readers_train_as_they_are_and_judge_from_a_half_on(folder, tmp_path):
    rows = [f"{folder}/000.npy,0.25,1", f"{folder}/001.npy,0.5,0", f"{folder}/002.npy,true,FALSE"]
    cohort = Cohort.read(table_of(tmp_path, *rows), CohortConfig(columns=TWO))
    recipe = load(folder / "config.toml").recipe
    prepared = prepare_cohort(cohort, recipe, Store(tmp_path / "store"))
    dataset = CohortDataset(prepared, {case.case_id: "train" for case in cohort.cases}, "train", 2, recipe)
    assert dataset.targets.tolist() == [[0.25, 1.0], [0.5, 0.0], [1.0, 0.0]]
    assert dataset.labels.tolist() == [[0, 1], [1, 0], [1, 0]]


@pytest.mark.parametrize("cell", ["2", "-0.1", "yes", "inf", "1e-400x"])
def test_a_cell_that_says_neither_presence_nor_absence_is_named(tmp_path, cell):
    with pytest.raises(CohortError, match=f"row 3, column 'e' must be 1 where the label is present.* got '{cell}'"):
        Cohort.read(table_of(tmp_path, "a.npy,0,1", f"b.npy,1,{cell}"), CohortConfig(columns=TWO))


def test_a_row_without_one_of_its_labels_is_an_error_unless_it_may_be_dropped(tmp_path):
    table = table_of(tmp_path, "a.npy,0,1", "b.npy,1,", "c.npy,1,0")
    with pytest.raises(
        CohortError, match=r"row 3, column 'e' must be filled, got an empty cell \(1 of 3 rows have none"
    ):
        Cohort.read(table, CohortConfig(columns=TWO))
    cohort = Cohort.read(table, CohortConfig(columns=TWO, unlabelled="drop"))
    assert [case.present for case in cohort.cases] == [(0.0, 1.0), (1.0, 0.0)]
    assert any("1 of 3 rows have no label and are left out" in warning for warning in cohort.warnings)


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(CohortError, match="there must be a column 'e' for labels, got the columns path, n"):
        Cohort.read(table_of(tmp_path, "a.npy,0", header="path,n"), CohortConfig(columns=TWO))


def test_labels_are_called_as_their_columns_are_spelled(tmp_path):
    """Labels 1 and 1.0 are one class; columns of these names are two."""
    columns = ColumnsConfig(labels=("1", "1.0"))
    cohort = Cohort.read(table_of(tmp_path, "a.npy,0,1", header="path,1,1.0"), CohortConfig(columns=columns))
    assert cohort.classes == ("1", "1.0")


def test_as_many_names_as_columns_are_needed(tmp_path):
    with pytest.raises(CohortError, match=r"as many names as columns.labels, 2, got 3"):
        Cohort.read(table_of(tmp_path, "a.npy,0,1"), CohortConfig(columns=TWO, classes=("a", "b", "c")))


@pytest.mark.parametrize(("cell", "says"), [("0", "'GGO / ä.', present"), ("1", "'GGO / ä.', absent")])
def test_a_label_that_no_case_has_or_all_have_is_named_before_any_scan_is_prepared(
    folder, tmp_path, capsys, cell, says
):
    rows = [line.split(",") for line in (folder / "cohort.csv").read_text().splitlines()]
    rows = [rows[0], *([*row[:5], cell, row[6]] for row in rows[1:])]
    (tmp_path / "cohort.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    (tmp_path / "config.toml").write_text(CONFIG)
    assert main(["train", str(tmp_path / "config.toml"), "--out", str(tmp_path / "run")]) == 1
    said = capsys.readouterr().err
    assert f"there must be cases with and without each label, got none of {says}\n" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort.csv", "config.toml"]


def test_a_label_that_no_training_case_has_is_named_before_any_scan_is_prepared(folder, tmp_path, capsys):
    """All cases of it are in other parts, by the table's own split."""
    rows = [line.split(",") for line in (folder / "cohort.csv").read_text().splitlines()]
    parts = [
        "split",
        *("test" if row[5] == "1" and k % 3 else "val" if row[5] == "1" else "train" for k, row in enumerate(rows[1:])),
    ]
    patients = ["patient_id", *(f"P{k}" for k in range(160))]
    table = [
        [row[0], row[1], patient, *row[3:6], part] for row, patient, part in zip(rows, patients, parts, strict=True)
    ]
    for k in range(1, 121):  # the common labels in every part
        if table[k][5] == "0":
            table[k][6] = ("train", "val", "test")[k % 3]
    (tmp_path / "cohort.csv").write_text("\n".join(",".join(row) for row in table) + "\n")
    (tmp_path / "config.toml").write_text(CONFIG)
    assert main(["train", str(tmp_path / "config.toml"), "--out", str(tmp_path / "run")]) == 1
    assert "patients of class 'GGO / ä.', present into train" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cohort.csv", "config.toml"]
