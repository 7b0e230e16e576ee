"""The class weights and the input against independent references."""

import inspect

import numpy as np
import pytest
import torch

from hilum.errors import CohortError, ConfigError
from hilum.modelling.class_weights import class_weights
from hilum.modelling.input import model_input

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
