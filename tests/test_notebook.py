"""What a notebook shows of a scan, its lungs, a prediction, a cohort, an evaluation and a comparison."""

import base64
import io
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from dicom_sources import chest, planes_of
from hilum.cohorts.table import Cohort
from hilum.findings import find
from hilum.judging import compare, evaluate, judge
from hilum.judging.evaluation_figures import EvaluationFigures
from hilum.preparing import lungs_from_mask, segment_lungs
from hilum.settings.run import CohortConfig, ColumnsConfig
from hilum.volume import Volume, affine_from
from test_dicom_out import model


def picture_in(html: str) -> np.ndarray:
    (content,) = re.findall(r"data:image/png;base64,([^\"]+)", html)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1), (-1, -1, -1)])
def test_the_patients_right_is_on_the_left_and_the_head_up_whatever_the_order_of_the_axes(flips):
    hu = np.full((30, 40, 50), -800, np.int16)
    hu[24:, :, :8] = 400  # towards the head and the patient's right
    affine = affine_from(spacing_mm=(2, 1, 1), origin_mm=(0, 0, 0))
    affine[:3, 3] = affine[:3, :3] @ [n - 1 if flip < 0 else 0 for n, flip in zip(hu.shape, flips, strict=True)]
    affine[:3, :3] *= flips
    stored = np.ascontiguousarray(hu[:: flips[0], :: flips[1], :: flips[2]])
    axial, coronal, sagittal = Volume(voxels_hu=stored, affine=affine).pictures()
    assert [one.shape[:2] for one in (axial, coronal, sagittal)] == [(40, 50), (60, 50), (60, 40)]  # one size in mm
    bright = coronal[..., 0] > 200
    assert bright[:12, :8].all()
    assert bright.sum() == 12 * 8


def test_a_volume_says_its_grid_and_findings_and_escapes_them():
    volume = chest().with_findings(find("padding", "<b>half</b> of it"))
    html = volume._repr_html_()
    assert "51 x 64 x 64 voxels" in html
    assert "&lt;b&gt;half&lt;/b&gt;" in html
    assert "<b>" not in html
    assert picture_in(html).std() > 20


def test_lungs_are_drawn_over_their_scan_also_of_masks_on_another_grid():
    hu, affine = planes_of("prone")
    scan = Volume(voxels_hu=hu, affine=affine)
    lungs = segment_lungs(scan)
    shown = [picture_in(lungs._repr_html_())]
    coarse = Volume(
        voxels_hu=np.ascontiguousarray(lungs.labels[::2, ::2, ::2]).astype(np.int16),
        affine=affine @ np.diag([2.0, 2, 2, 1]),
    )
    shown.append(picture_in(lungs_from_mask(scan, coarse)._repr_html_()))
    for picture in shown:
        red, blue = (picture[..., a].astype(int) - picture[..., b] > 30 for a, b in ((0, 2), (2, 0)))
        axial = slice(0, picture.shape[1] // 4)
        assert np.nonzero(red[:, axial])[1].mean() < np.nonzero(blue[:, axial])[1].mean()  # right lung on the left


def test_a_prediction_shows_what_the_model_saw_its_probabilities_and_thresholds(tmp_path):
    predictor = model(tmp_path)
    html = predictor.predict(chest())._repr_html_()
    assert html.count("width: 16em") == 2
    assert "threshold 0.500" in html
    assert picture_in(html).size > 1000
    without = predictor.predict_samples([predictor.prepare(chest())])[0]
    assert without.sample is None
    assert "<img" not in without._repr_html_()


def test_a_prediction_without_a_result_says_that_it_is_not_negative(tmp_path):
    predictor = model(tmp_path)
    cut = Volume(voxels_hu=chest().voxels_hu[:20], affine=chest().affine)
    prediction = predictor.predict(cut)
    assert prediction.decision == "no-result"
    assert "not a negative result" in prediction._repr_html_()
    assert "upper border" in prediction._repr_html_()
    assert "width: 16em" not in prediction._repr_html_()  # no bar that could be taken for a low probability


@pytest.mark.parametrize("empty", [True, False])
def test_a_prepared_sample_shows_the_outline_of_its_lungs(empty):
    lungs = np.zeros((9, 9, 9), np.uint8)
    lungs[2:7, 2:7, 2:7] = 0 if empty else 1
    volume = Volume(
        voxels_hu=np.zeros((9, 9, 9), np.int16),
        affine=affine_from(spacing_mm=(1, 1, 1), origin_mm=(0, 0, 0)),
        lungs=lungs,
    )
    coloured = (volume.pictures()[0] == (213, 94, 0)).all(axis=-1)
    assert coloured.sum() == (0 if empty else 16)


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html, re.S)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_an_evaluation_shows_its_figures_with_intervals_and_is_a_dictionary(trained_run, npy_cohort):
    figures = evaluate(trained_run, npy_cohort / "cohort.csv", npy_cohort / "judged", unchecked=False)
    shown = {row[0]: row[1] for row in cells(figures._repr_html_())}
    low, high = figures["auc_ci"]
    assert shown["ROC AUC"] == f"{figures['auc']:.3f} ({low:.3f} to {high:.3f})"
    assert f"{figures['num_cases']} cases of {figures['num_patients']} patients" in figures._repr_html_()
    assert "left out, for the model has seen them" in figures._repr_html_()
    assert json.loads(json.dumps(figures)) == json.loads((npy_cohort / "judged" / "evaluation.json").read_text())


def test_an_evaluation_of_several_classes_shows_each_and_escapes_its_name(tmp_path):
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    probs = rng.dirichlet(np.ones(3), 60) * 0.5 + np.eye(3)[labels] * 0.5
    names = [f"{n}" for n in range(60)]
    judged = judge(
        case_ids=names, patients=names, labels=labels, probs=probs, classes=("a", "b<i>", "c"), threshold=None,
        folder=tmp_path,
    )  # fmt: skip
    html = EvaluationFigures(judged)._repr_html_()
    assert [row[0] for row in cells(html)[-3:]] == ["a", "b&lt;i&gt;", "c"]
    assert "<i>" not in html


def test_a_comparison_shows_both_figures_and_the_difference(trained_run):
    compared = compare([trained_run], columns=["diameter_mm"])
    header, *rows = cells(compared._repr_html_())
    assert len(header) == len(rows[0]) == 8
    assert rows == [[cell.replace("<", "&lt;") for cell in row] for row in compared.rows]
    assert rows[0][:3] == ["diameter_mm", "1", "ROC AUC"]
    pair = compared.pairs[0]
    assert rows[0][3:5] == [f"{pair['figures']['auc'][one]:.3f}" for one in ("first", "other")]


def test_a_cohort_shows_its_classes_and_neither_ids_nor_paths(npy_cohort):
    html = Cohort.read(npy_cohort / "cohort.csv")._repr_html_()
    assert cells(html) == [["class", "cases", "patients"], ["0", "30", "15"], ["1", "30", "15"]]
    assert "60 cases of 15 patients" in html
    assert "diameter_mm" in html
    assert not re.search(r"SMITH|c0\d|\.npy|cohort\.csv", html)


def test_one_case_and_no_figures_are_told_in_good_english(npy_cohort):
    cohort = Cohort.read(npy_cohort / "cohort.csv")
    assert "Cohort of 1 case of 1 patient" in replace(cohort, cases=cohort.cases[:1])._repr_html_()
    assert "0 cases of 0 patients" in EvaluationFigures({})._repr_html_()


def test_a_cohort_of_several_labels_shows_each_present_and_absent(tmp_path):
    (tmp_path / "table.csv").write_text(
        "path,patient_id,mass,fluid\n" + "".join(f"{n}.nii,{n},{n % 2},0\n" for n in range(4))
    )
    config = CohortConfig(columns=ColumnsConfig(labels=("mass", "fluid")))
    shown = cells(Cohort.read(tmp_path / "table.csv", config)._repr_html_())
    assert shown[1:] == [
        ["mass, present", "2", "2"],
        ["mass, absent", "2", "2"],
        ["fluid, present", "0", "0"],
        ["fluid, absent", "4", "4"],
    ]
