"""The class weights and the input against independent references."""

import inspect

import numpy as np
import pytest
import torch

from hilum.errors import CohortError, ConfigError
from hilum.modelling.input import model_input
from hilum.modelling.losses.class_weights import class_weights

# class weights


@pytest.mark.parametrize(
    ("method", "expected"),
    [("none", [1, 1]), ("inverse", [0.2, 1.8]), ("sqrt", [0.5, 1.5]), ("effective", None)],
)
def test_class_weights_follow_their_formulas_and_sum_to_the_number_of_classes(method, expected):
    """Defect 15: the effective number is (1 - beta) / (1 - beta^n), Cui et al. 2019."""
    labels = np.repeat([0, 1], [90, 10])
    got = class_weights(labels, method=method, num_classes=2)
    if expected is None:
        raw = 0.001 / (1 - 0.999 ** np.array([90.0, 10.0]))
        expected = raw / raw.sum() * 2
    assert got == pytest.approx(expected)
    assert got.sum() == pytest.approx(2)


@pytest.mark.parametrize(("labels", "absent"), [([0, 0, 2], "1"), ([0, 1, 1], "2"), ([], "0, 1, 2")])
def test_a_class_without_cases_is_named(labels, absent):
    """Defect 15: the tutorial returns nan for a missing class and a short vector for a missing top one."""
    with pytest.raises(CohortError, match=f"must have training cases; got counts .*, none of class {absent}$"):
        class_weights(np.array(labels, int), num_classes=3)


def test_a_label_beyond_the_classes_is_refused():
    with pytest.raises(CohortError, match="every class from 0 to 1 must have training cases"):
        class_weights(np.array([0, 1, 2]), num_classes=2)


def test_a_class_without_cases_is_said_by_its_name():
    with pytest.raises(CohortError, match=r"got counts .*, none of class tumour$"):
        class_weights(np.array([0, 1, 1]), num_classes=3, names=("healthy", "covid", "tumour"))


def test_each_finding_has_weights_of_its_own():
    labels = np.array([[1, 0]] * 10 + [[0, 0]] * 80 + [[0, 1]] * 10)
    assert class_weights(labels, num_classes=2) == pytest.approx(np.array([[5 / 9, 5.0], [5 / 9, 5.0]]))
    with pytest.raises(CohortError, match="with and without each label; got 100 with nodule, 0 without"):
        class_weights(np.ones((100, 2), int), num_classes=2, names=("nodule", "effusion"))


@pytest.mark.parametrize("method", ["inverse", "sqrt", "effective"])
def test_the_rarer_of_two_findings_counts_as_much_in_their_mean(method):
    """Weights that sum to 2 would leave a finding of 1 % a twenty-fifth of the gradient of one of 50 %."""
    labels = np.zeros((1000, 2), int)
    labels[:500, 0] = labels[:10, 1] = 1
    weights = class_weights(labels, method=method, num_classes=2)
    of_cases = np.take_along_axis(np.broadcast_to(weights, (1000, 2, 2)), labels[:, :, None], 2)[:, :, 0]
    assert of_cases.mean(0) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999999])
def test_the_effective_number_lies_between_no_weights_and_the_inverse(beta):
    labels = np.repeat([0, 1], [90, 10])
    ratio = class_weights(labels, method="effective", num_classes=2, beta=beta)
    expected = {0.0: 1.0, 0.9: (1 - 0.9**90) / (1 - 0.9**10), 0.999999: 9.0}[beta]
    assert ratio[1] / ratio[0] == pytest.approx(expected, rel=1e-4)


def test_an_unknown_method_lists_the_known_ones():
    """Defect 15: the tutorial raises UnboundLocalError."""
    unchecked = inspect.unwrap(class_weights)  # the tests' type checker would be first
    with pytest.raises(ConfigError, match="method must be one of none, inverse, sqrt, effective, got sqr"):
        unchecked(np.array([0, 1]), method="sqr", num_classes=2)


# input


def test_every_window_is_a_channel_between_zero_and_one():
    hu = torch.tensor([-2000.0, -1000.0, -300.0, 40.0, 400.0, 3000.0]).reshape(1, 1, 1, 1, 6)
    got = model_input(hu, ((-1000.0, 400.0), (-160.0, 240.0)))
    assert got.shape == (1, 2, 1, 1, 6)
    assert torch.allclose(got[0, 0, 0, 0], torch.tensor([0, 0, 0.5, 1040 / 1400, 1, 1]))
    assert torch.allclose(got[0, 1, 0, 0], torch.tensor([0, 0, 0, 0.5, 1, 1]))
