"""The losses, the class weights and the input against independent references."""

import inspect

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from hilum.errors import CohortError, ConfigError
from hilum.modelling.class_weights import class_weights
from hilum.modelling.input import model_input
from hilum.modelling.losses import FocalLoss, WeightedCrossEntropyLoss

# losses

ALPHA = np.array([0.2, 1.8, 1.0])


def _batch(seed, soft):
    random = np.random.default_rng(seed)
    logits = random.normal(0, 3, (7, 3))
    if soft:
        return logits, random.dirichlet([1, 1, 1], 7)
    return logits, np.eye(3)[random.integers(0, 3, 7)]


def _target(labels, soft):
    return torch.from_numpy(labels).float() if soft else torch.from_numpy(labels.argmax(axis=1))


def _log_p(logits):
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


@given(st.integers(0, 50), st.booleans(), st.booleans())
def test_cross_entropy_is_the_weighted_mean_of_the_formula(seed, soft, weighted):
    logits, labels = _batch(seed, soft)
    alpha = ALPHA if weighted else np.ones(3)
    loss = WeightedCrossEntropyLoss(torch.from_numpy(ALPHA) if weighted else None)
    got = loss(torch.from_numpy(logits), _target(labels, soft))
    terms = -(labels * alpha * _log_p(logits)).sum(axis=1)
    assert float(got) == pytest.approx(terms.sum() / (labels * alpha).sum(), rel=1e-5)


@given(st.integers(0, 50), st.booleans(), st.booleans(), st.floats(0, 5))
def test_focal_loss_is_the_formula_with_p_from_the_plain_logits(seed, soft, weighted, gamma):
    """Defect 12: the tutorial takes p from the class-WEIGHTED cross entropy."""
    logits, labels = _batch(seed, soft)
    alpha = ALPHA if weighted else np.ones(3)
    loss = FocalLoss(gamma, torch.from_numpy(ALPHA) if weighted else None)
    got = loss(torch.from_numpy(logits), _target(labels, soft))
    log_p = _log_p(logits)
    expected = -(labels * alpha * (1 - np.exp(log_p)) ** gamma * log_p).sum(axis=1).mean()
    assert float(got) == pytest.approx(expected, rel=1e-4, abs=1e-7)


def test_alpha_weighs_a_class_by_its_ratio_and_no_more():
    """Defect 12: weights of 0.2 and 1.8 must make 9:1; the tutorial's make 64:1 to 717:1."""
    loss = FocalLoss(2.0, torch.tensor([0.2, 1.8]))
    for margin in (-3.0, -0.5, 0.5, 3.0):
        majority = loss(torch.tensor([[margin, 0.0]]), torch.tensor([0]))
        minority = loss(torch.tensor([[0.0, margin]]), torch.tensor([1]))
        assert float(minority / majority) == pytest.approx(9, rel=1e-4)


@given(st.integers(0, 50), st.booleans())
def test_focal_loss_without_focus_is_cross_entropy(seed, soft):
    logits, labels = _batch(seed, soft)
    target = _target(labels, soft)
    focal = FocalLoss(0.0)(torch.from_numpy(logits), target)
    assert float(focal) == pytest.approx(float(WeightedCrossEntropyLoss()(torch.from_numpy(logits), target)), rel=1e-5)


def test_weighted_cross_entropy_of_hard_labels_is_torchs():
    logits, target = torch.randn(9, 3, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 3
    weight = torch.tensor([0.5, 1.0, 1.5])
    assert torch.allclose(WeightedCrossEntropyLoss(weight)(logits, target), F.cross_entropy(logits, target, weight))


def test_the_mean_over_batches_follows_from_the_terms():
    """Defect 19: the tutorial adds up means of weighted batches as if every case weighed the same."""
    logits, target = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 3
    loss = WeightedCrossEntropyLoss(torch.tensor([0.2, 1.0, 1.8]))
    parts = [loss.terms(logits[i : i + 4], target[i : i + 4]) for i in (0, 4, 8)]
    total = sum((a * w).sum() for a, w in parts) / sum(w.sum() for _, w in parts)
    assert torch.allclose(total, loss(logits, target))


def test_class_weights_travel_with_the_loss():
    """Defect 12: the tutorial's alpha is no buffer and stays behind on the CPU."""
    assert "alpha" in dict(FocalLoss(2.0, torch.ones(2)).named_buffers())
    assert "weight" in dict(WeightedCrossEntropyLoss(torch.ones(2)).named_buffers())
    assert FocalLoss(2.0, torch.ones(2)).to("meta").alpha.device.type == "meta"


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("loss", [FocalLoss(2.0), FocalLoss(0.5), FocalLoss(0.0), WeightedCrossEntropyLoss()])
def test_huge_logits_give_a_finite_loss_and_gradient(loss, kind):
    logits = torch.tensor([[80.0, -80.0], [-80.0, 80.0], [0.0, 0.0]], dtype=kind, requires_grad=True)
    for target in (torch.tensor([0, 0, 1]), torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.5, 0.5]])):
        value = loss(logits, target)
        (gradient,) = torch.autograd.grad(value, logits)
        assert value.isfinite()
        assert gradient.isfinite().all()
        assert value.dtype == torch.float32


def test_the_hardest_case_still_has_a_gradient():
    logits = torch.tensor([[30.0, -30.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(FocalLoss(2.0)(logits, torch.tensor([1])), logits)
    assert gradient.abs().min() > 0.5


def test_a_negative_gamma_is_refused():
    with pytest.raises(ConfigError, match=r"gamma must be at least 0, got -1\.0"):
        FocalLoss(-1.0)


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
