"""Public functions of arrays take whatever NumPy makes an array of, or say what must come."""

import subprocess
import sys

import jaxtyping
import numpy as np
import pandas as pd
import pytest
import torch
from beartype import beartype
from jaxtyping import Float32

import hilum
from hilum.arrays import flags, labelled, real, three, whole
from hilum.errors import CohortError, ConfigError, GeometryError
from hilum.measuring import agreement, calibration, fit_calibration, intervals, metrics, thresholds
from hilum.modelling.losses import LDAMLoss, LogitAdjustedLoss, PolyLoss
from hilum.modelling.losses.class_weights import class_counts
from hilum.preparing.grid_placement import place
from hilum.settings.run import DecisionConfig
from hilum.volume import Volume, affine_from

Y = [0, 1, 1, 0, 1, 0, 0, 1] * 5
P = [0.2, 0.7, 0.4, 0.5, 0.9, 0.1, 0.6, 0.8] * 5
PAIRS = [[1 - p, p] for p in P]
PATIENTS = [str(k) for k in range(40)]
EACH = {"patients": PATIENTS, "num_resamples": 20}

OF_CASES = {
    "roc_auc": (metrics.roc_auc, Y, P, {}),
    "average_precision": (metrics.average_precision, Y, P, {}),
    "brier": (metrics.brier, Y, P, {}),
    "log_loss": (metrics.log_loss, Y, P, {}),
    "log_loss of classes": (metrics.log_loss, Y, PAIRS, {}),
    "roc_curve": (metrics.roc_curve, Y, P, {}),
    "pr_curve": (metrics.pr_curve, Y, P, {}),
    "confusion": (metrics.confusion, Y, Y[::-1], {}),
    "confusion_matrix": (metrics.confusion_matrix, Y, Y[::-1], {"num_classes": 2}),
    "multiclass_accuracy": (metrics.multiclass_accuracy, Y, PAIRS, {}),
    "macro_auc": (metrics.macro_auc, Y, PAIRS, {}),
    "reliability": (agreement.reliability, Y, P, {}),
    "expected_calibration_error": (agreement.expected_calibration_error, Y, P, {}),
    "calibration_line": (agreement.calibration_line, Y, P, {}),
    "choose_threshold": (thresholds.choose_threshold, Y, P, {"rule": DecisionConfig()}),
    "with_intervals": (intervals.with_intervals, Y, P, {"threshold": 0.45, **EACH}),
    "with_called_intervals": (intervals.with_called_intervals, Y, P, {"called": [p > 0.3 for p in P], **EACH}),
    "with_class_intervals": (intervals.with_class_intervals, Y, PAIRS, EACH),
    "fit_calibration": (lambda y, z, **k: fit_calibration.fit_calibration(z, y, **k), Y, PAIRS, {"method": "platt"}),
    "fit_temperature": (lambda y, z: fit_calibration.fit_temperature(z, y), Y, PAIRS, {}),
}


def _arrays(values):
    return np.array(values) if isinstance(values, list) and not isinstance(values[0], str) else values


@pytest.mark.parametrize("name", OF_CASES)
def test_lists_columns_and_tensors_give_what_arrays_give(name):
    function, y, p, settings = OF_CASES[name]
    right = function(np.array(y), np.array(p), **{k: _arrays(v) for k, v in settings.items()})
    for labels, numbers in (
        (y, p),
        (tuple(y), tuple(p)),
        (torch.tensor(y), torch.tensor(p, dtype=torch.float64 if isinstance(np.ravel(p)[0], float) else torch.int64)),
        ([float(k) for k in y], p),
        ([bool(k) for k in y], p),
        (pd.Series(y), p if isinstance(p[0], list) else pd.Series(p)),
    ):
        np.testing.assert_equal(_plain(function(labels, numbers, **settings)), _plain(right))


def _plain(value):
    """Dataclasses as their text, which shows NaN alike."""
    return value if isinstance(value, float | np.ndarray | tuple) else str(value)


@pytest.mark.parametrize("name", OF_CASES)
def test_labels_that_are_none_and_cases_that_do_not_match_are_errors_that_say_what_must_come(name):
    function, y, p, settings = OF_CASES[name]
    with pytest.raises(
        ConfigError, match=r"labels must be an array, or something like one, of whole numbers, \(n,\); got"
    ):
        function([0.5, *y[1:]], p, **settings)
    with pytest.raises(ConfigError, match="labels must be an array"):
        function([str(k) for k in y], p, **settings)
    with pytest.raises(ConfigError, match=r"a label for each case, got 40 labels for \w+ of 39 cases"):
        function(y, p[1:], **settings)
    with pytest.raises(ConfigError, match="must be an array"):
        function(y, ["x" for _ in p], **settings)


def test_functions_of_numbers_alone_take_lists():
    assert agreement.ece_floor(P) == agreement.ece_floor(np.array(P))
    assert np.array_equal(
        calibration.probabilities([[0, 1], [2, 3]]), calibration.probabilities(np.array([[0.0, 1], [2, 3]]))
    )
    assert np.array_equal(calibration.class_log_odds([[0, 1]]), [[-1, 1]])
    assert calibration.Calibration().probabilities([[0, 0]]).tolist() == [[0.5, 0.5]]
    assert metrics.macro_recall([[3, 1], [0, 4]]) == 0.875
    assert metrics.macro_f1([[1, 0], [0, 1]]) == 1
    of_findings = intervals.with_label_intervals(
        [[0, 1], [1, 0]], [[0.2, 0.9], [0.6, 0.1]], called=[[0, 1], [1, 0]], patients=["a", "b"]
    )
    assert of_findings[0]["subset_accuracy"].value == 1
    with pytest.raises(ConfigError, match=r"logits must be an array, .* of numbers, \(n, c\); got float64 of shape"):
        calibration.class_log_odds([0.0, 1.0])
    with pytest.raises(ConfigError, match="got something else"):
        calibration.class_log_odds([[0.0], [1.0, 2.0]])


def test_class_weights_of_a_list_are_those_of_an_array():
    """The published example: an AttributeError."""
    assert (
        hilum.class_weights([0, 0, 1], num_classes=2).tolist()
        == hilum.class_weights(np.array([0, 0, 1]), num_classes=2).tolist()
    )
    assert hilum.class_weights([[0, 1], [1, 0], [0, 1]], num_classes=2).shape == (2, 2)
    assert class_counts(pd.Series([0, 1, 1]), num_classes=2).tolist() == [1, 2]
    for labels in (["a", "b"], [0.5, 1], [[0], [1, 2]]):
        with pytest.raises(ConfigError, match="labels must be an array, or something like one, of whole numbers"):
            hilum.class_weights(labels, num_classes=2)
    with pytest.raises(CohortError, match="labels must be 0 to 1, got -1"):
        hilum.class_weights([0, -1, 1], num_classes=2)


LOGITS, TARGET = torch.tensor([[0.3, -0.2], [1.0, 2.0], [0.0, 0.5]]), torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    "made",
    [
        lambda numbers: hilum.WeightedCrossEntropyLoss(numbers),
        lambda numbers: hilum.FocalLoss(alpha=numbers),
        lambda numbers: PolyLoss(weight=numbers),
        lambda numbers: hilum.CombinedLoss(alpha=numbers),
        lambda numbers: LogitAdjustedLoss(numbers),
        lambda numbers: LDAMLoss(numbers, weight=numbers),
    ],
    ids=["cross entropy", "focal", "poly-1", "combined", "logit-adjusted", "LDAM"],
)
def test_losses_take_what_class_weights_returns_and_lists(made):
    right = made(torch.tensor([1.0, 3.0]))(LOGITS, TARGET)
    for numbers in ([1, 3], (1.0, 3.0), np.array([1.0, 3.0])):
        assert torch.equal(made(numbers)(LOGITS, TARGET), right)
    with pytest.raises(ConfigError, match="must be an array"):
        made(["rare", "common"])


WITHOUT_CHECKS = """
import numpy as np, torch
import hilum
from hilum.volume import Volume, affine_from
affine = affine_from(spacing_mm=(1, 1, 1), origin_mm=(0, 0, 0))
logits = torch.zeros(2, 2)
for attempt in (
    lambda: hilum.FocalLoss()([[0.0, 1.0]], torch.tensor([0])),
    lambda: hilum.DiceLoss()(logits, [0, 1]),
    lambda: hilum.WeightedCrossEntropyLoss()(logits, np.array([0, 1])),
    lambda: Volume(voxels_hu=[[[0]]], affine=affine),
    lambda: Volume(voxels_hu=np.zeros((2, 2, 2)), affine=affine),
    lambda: Volume(voxels_hu=np.zeros((2, 2, 2), np.int16), affine=affine.tolist()),
    lambda: Volume(voxels_hu=np.zeros((2, 2, 2), np.int16), affine=affine[:3]),
):
    try:
        attempt()
    except hilum.HilumError as exc:
        print(exc)
"""


def test_losses_and_volumes_say_what_must_come_where_annotations_are_not_checked():
    done = subprocess.run([sys.executable, "-c", WITHOUT_CHECKS], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "logits must be a tensor, got list",
        "the target must be a tensor, got list",
        "the target must be a tensor, got ndarray",
        "a volume's voxels must be an int16 or float32 array (z, y, x) of HU, got list",
        "a volume's voxels must be an int16 or float32 array (z, y, x) of HU, got float64 of shape (2, 2, 2)",
        "a volume's affine must be a 4 x 4 array of floats, got list",
        "a volume's affine must be a 4 x 4 array of floats, got float64 of shape (3, 4)",
    ]


def test_grids_and_points_take_lists_or_say_that_three_numbers_must_come():
    affine = affine_from(spacing_mm=[2, 1, 1], origin_mm=np.array([0.0, 1.0, 2.0]))
    assert np.array_equal(affine, affine_from(spacing_mm=(2.0, 1.0, 1.0), origin_mm=(0.0, 1.0, 2.0)))
    volume = Volume(voxels_hu=np.zeros((4, 4, 4), np.int16), affine=affine)
    assert volume.index_to_mm([1, 0, 0]).tolist() == [0, 1, 4]
    assert volume.mm_to_index([0, 1, 4]).tolist() == [1, 0, 0]
    assert volume.contains_mm([0, 1, 4])
    assert hilum.resample(volume, [2.0, 2.0, 2.0]).shape == (4, 2, 2)
    with pytest.raises(GeometryError, match=r"a spacing in mm \(z, y, x\) must be three numbers, got \[1, 2\]"):
        affine_from(spacing_mm=[1, 2], origin_mm=[0, 0, 0])
    with pytest.raises(GeometryError, match=r"spacing_mm \(z, y, x\) must be three numbers"):
        hilum.resample(volume, [2.0, 2.0])
    recipe = hilum.Recipe(region="point", size=(4, 4, 4), spacing_mm=(1.0, 1.0, 1.0))
    for point in ([0, 1], "abc", [["a"]]):
        with pytest.raises(GeometryError, match=r"a point in LPS mm \(x, y, z\) must be three numbers"):
            place(volume, recipe, point_mm=point)


def test_helpers_keep_arrays_as_they_are():
    for kept, name in ((np.array([1, 2], np.int16), whole), (np.array([1.5], np.float32), real)):
        assert name(kept, "numbers") is kept
    assert flags([0, 1, 2], "decisions").tolist() == [False, True, True]
    assert three(range(3), "numbers").tolist() == [0, 1, 2]
    assert labelled([], [])[0].dtype.kind == "i"


@pytest.mark.parametrize("labels", [[0, np.inf], [0, 1e300], np.ma.array([0, 1], mask=[True, False])], ids=str)
def test_what_no_whole_number_can_hold_is_no_label(labels):
    with pytest.raises(ConfigError, match="labels must be an array, or something like one, of whole numbers"):
        metrics.roc_auc(labels, [0.1, 0.9])


def test_arrays_of_other_kinds_and_sizes_than_annotated_are_refused_in_tests():
    """Of arguments and of results, whose sizes belong together."""

    def joined(one: Float32[np.ndarray, " n"], other: Float32[np.ndarray, " n"]) -> Float32[np.ndarray, " n"]:
        return np.concatenate([one, other]) if one.sum() else one + other

    checked = jaxtyping.jaxtyped(typechecker=beartype)(joined)
    zeros, ones = np.zeros(3, np.float32), np.ones(3, np.float32)
    assert checked(zeros, ones).shape == (3,)
    assert checked(zeros[:2], ones[:2]).shape == (2,), "sizes of one call are none of the next"
    for one, other in ((zeros, ones[:2]), (zeros, ones.astype(float)), (zeros, ones[None]), (ones, ones)):
        with pytest.raises(Exception, match="joined"):
            checked(one, other)
