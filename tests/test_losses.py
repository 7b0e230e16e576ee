"""The losses against plain NumPy in double precision, against PyTorch's and MONAI's, and where the tutorial's fail."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from hilum.errors import CohortError, ConfigError
from hilum.modelling.losses import (
    AsymmetricLoss,
    CombinedLoss,
    DiceLoss,
    FocalLoss,
    LDAMLoss,
    LogitAdjustedLoss,
    PolyLoss,
    TverskyLoss,
    WeightedCrossEntropyLoss,
)
from hilum.modelling.losses.class_weights import class_weights

COUNTS = {2: [90, 10], 3: [80, 15, 5], 4: [50, 30, 15, 5]}
WEIGHTS = {2: [0.2, 1.8], 3: [0.2, 1.8, 1.0], 4: [0.1, 0.4, 1.5, 2.0]}
BOTH_WEIGHTS = [[0.2, 1.8], [0.5, 1.5], [1.0, 1.0]]
BOTH_COUNTS = [[90, 10], [60, 40], [97, 3]]


# the references: probabilities, labels and weights (n, heads, classes) in double precision


def softmax(z):
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def in_heads(logits, labels, multi_label):
    """Logits and labels as heads of exclusive classes; a finding is a head of two."""
    if not multi_label:
        return logits[:, None], labels[:, None]
    return np.stack([np.zeros_like(logits), logits], axis=2), np.stack([1 - labels, labels], axis=2)


def mean_of(terms, label, weight, case, *, by_weight):
    """Weighted mean over cases of the mean over heads."""
    losses = (label * weight * terms).sum(axis=2).mean(axis=1)
    counts = (label * weight).sum(axis=2).mean(axis=1) if by_weight else np.ones(len(losses))
    return (losses * case).sum() / (counts * case).sum()


def cross_entropy(z, y, w, case, **_):
    return mean_of(-np.log(softmax(z)), y, w, case, by_weight=True)


def focal(z, y, w, case, **_):
    p = softmax(z)
    return mean_of(-((1 - p) ** 1.7) * np.log(p), y, w, case, by_weight=False)


def poly1(z, y, w, case, **_):
    p = softmax(z)
    return mean_of(-np.log(p) + 0.8 * (1 - p), y, w, case, by_weight=True)


def logit_adjusted(z, y, w, case, counts):
    prior = counts / counts.sum(axis=-1, keepdims=True)
    return mean_of(-np.log(softmax(z + 1.3 * np.log(prior))), y, np.ones_like(w), case, by_weight=False)


def ldam(z, y, w, case, counts):
    margins = counts**-0.25
    margins = 0.4 * margins / margins.max(axis=-1, keepdims=True)
    terms = np.empty_like(z)
    for k in range(z.shape[2]):
        shifted = z.copy()
        shifted[:, :, k] -= margins[..., k]
        terms[:, :, k] = -np.log(softmax(3 * shifted))[:, :, k]
    return mean_of(terms, y, w, case, by_weight=True)


def overlap(z, y, case, alpha, beta, smooth):
    p, case = softmax(z), case[:, None, None]
    hits = (case * p * y).sum(axis=0)
    wrong = alpha * (case * p * (1 - y)).sum(axis=0) + beta * (case * (1 - p) * y).sum(axis=0)
    index = (hits + smooth) / (hits + wrong + smooth)
    if len(index) > 1:  # of findings those that are present
        index = index[:, 1]
    return 1 - index.mean()


def dice(z, y, w, case, **_):
    p, case = softmax(z), case[:, None, None]
    index = (2 * (case * p * y).sum(axis=0) + 0.7) / ((case * p).sum(axis=0) + (case * y).sum(axis=0) + 0.7)
    return 1 - (index[:, 1] if len(index) > 1 else index).mean()


def tversky(z, y, w, case, **_):
    return overlap(z, y, case, 0.3, 0.7, 0.7)


def combined(z, y, w, case, **_):
    return 0.6 * focal(z, y, w, case) + 0.4 * dice(z, y, w, case)


def asymmetric(z, y, w, case, **_):
    p = softmax(z)
    if z.shape[2] == 2:
        p, y = p[:, :, 1], y[:, :, 1]
        q = np.maximum(p - 0.05, 0)
        losses = -y * (1 - p) * np.log(p) - (1 - y) * q**4 * np.log(1 - q)
        return (losses.mean(axis=1) * case).sum() / case.sum()
    classes = z.shape[2]
    losses = np.zeros(z.shape[:2])
    for true in range(classes):  # the authors' single-label form, hard label by hard label
        target = np.eye(classes)[true]
        smooth = target * (1 - 0.1) + 0.1 / classes
        pt = np.where(target == 1, p, 1 - p)
        focus = (1 - pt) ** np.where(target == 1, 1, 4)
        losses += y[:, :, true] * -(smooth * focus * np.log(p)).sum(axis=2)
    return (losses.mean(axis=1) * case).sum() / case.sum()


LOSSES = {
    "cross-entropy": (lambda w, n, many: WeightedCrossEntropyLoss(w, multi_label=many), cross_entropy),
    "focal": (lambda w, n, many: FocalLoss(1.7, w, multi_label=many), focal),
    "poly1": (lambda w, n, many: PolyLoss(0.8, w, multi_label=many), poly1),
    "asymmetric": (lambda w, n, many: AsymmetricLoss(multi_label=many), asymmetric),
    "logit-adjusted": (lambda w, n, many: LogitAdjustedLoss(n, 1.3, multi_label=many), logit_adjusted),
    "ldam": (lambda w, n, many: LDAMLoss(n, 0.4, 3.0, w, multi_label=many), ldam),
    "dice": (lambda w, n, many: DiceLoss(0.7, multi_label=many), dice),
    "tversky": (lambda w, n, many: TverskyLoss(0.3, 0.7, 0.7, multi_label=many), tversky),
    "combined": (lambda w, n, many: CombinedLoss(w, 1.7, 0.6, 0.4, 0.7, multi_label=many), combined),
}
CASES = st.tuples(st.integers(0, 10_000), st.booleans(), st.booleans(), st.booleans(), st.sampled_from([0, 2, 3, 4]))


def batch(seed, soft, weighted, cases_weighted, num_classes):
    """Logits, labels (n, c), class weights, weights of cases, counts; 0 classes: three findings."""
    random = np.random.default_rng(seed)
    many = num_classes == 0
    logits = random.normal(0, 3, (7, num_classes or 3))
    if many:
        labels = random.random((7, 3)) if soft else random.integers(0, 2, (7, 3)).astype(float)
    else:
        labels = (
            random.dirichlet(np.ones(num_classes), 7)
            if soft
            else np.eye(num_classes)[random.integers(0, num_classes, 7)]
        )
    counts = np.array(BOTH_COUNTS if many else COUNTS[num_classes], float)
    weight = np.array(BOTH_WEIGHTS if many else WEIGHTS[num_classes]) if weighted else None
    case = random.uniform(0.2, 3, 7) if cases_weighted else None
    return many, logits, labels, weight, case, counts


def tensor(array):
    return None if array is None else torch.from_numpy(array)


@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=8)  # of 32 kinds of batch, for each of nine losses
@given(CASES)
def test_a_loss_and_its_gradient_are_those_of_its_formula(name, case_of):
    """Defects 12 to 14. The gradient is checked against differences in double precision."""
    make, formula = LOSSES[name]
    many, logits, labels, weight, case, counts = batch(*case_of)
    loss = make(tensor(weight), torch.from_numpy(counts), many)
    z, y = in_heads(logits, labels, many)
    w = np.ones(y.shape[1:]) if weight is None else weight.reshape(y.shape[1:])
    n = counts.reshape(y.shape[1:])
    expected = formula(z, y, w, np.ones(7) if case is None else case, counts=n)
    target = torch.from_numpy(labels)
    wide = torch.from_numpy(logits).requires_grad_()
    assert float(loss(wide.detach(), target, tensor(case))) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert float(loss(wide.detach().float(), target, tensor(case))) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    if not (labels % 1).any() and not many:
        classes = torch.from_numpy(labels.argmax(axis=1))
        assert float(loss(wide.detach(), classes, tensor(case))) == pytest.approx(expected, rel=1e-6, abs=1e-9)
    assert torch.autograd.gradcheck(lambda x: loss(x, target, tensor(case)), wide, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_huge_logits_give_a_finite_loss_and_gradient(name, kind, classes):
    many, _, _, weight, case, counts = batch(0, False, True, True, classes)
    loss = LOSSES[name][0](tensor(weight), torch.from_numpy(counts), many)
    columns = classes or 3
    logits = torch.tensor([[80.0] + [-80.0] * (columns - 1), [-80.0] * (columns - 1) + [80.0], [0.0] * columns])
    for label in (np.eye(columns)[[0, 0, 1]], np.eye(columns)[[1, 1, 1]], np.full((3, columns), 1 / columns)):
        given = logits.to(kind).requires_grad_()
        value = loss(given, torch.from_numpy(label), tensor(case[:3]))
        (gradient,) = torch.autograd.grad(value, given)
        assert value.isfinite()
        assert value.dtype == torch.float32
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", LOSSES)
def test_weights_and_counts_travel_with_the_loss(name):
    """Defect 12: the tutorial's alpha is no buffer and stays behind on the CPU."""
    loss = LOSSES[name][0](torch.ones(2), torch.tensor([90.0, 10.0]), False)
    tensors = [value for part in loss.modules() for value in vars(part).values() if isinstance(value, torch.Tensor)]
    assert not tensors
    assert all(buffer.device.type == "meta" for buffer in loss.to("meta").buffers())


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [0, 2, 3])
def test_a_case_of_weight_two_is_two_cases(name, classes):
    many, logits, labels, weight, _, counts = batch(3, True, True, False, classes)
    loss = LOSSES[name][0](tensor(weight), torch.from_numpy(counts), many)
    case = np.array([2.0, 1, 1, 1, 1, 1, 1])
    twice = [0, *range(7)]
    once = loss(torch.from_numpy(logits), torch.from_numpy(labels), torch.from_numpy(case))
    assert torch.isclose(loss(torch.from_numpy(logits[twice]), torch.from_numpy(labels[twice])), once)


# the same as others', where the definition is the same


def _of_torch(classes, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.randn(9, classes, generator=random) * 3, torch.arange(9) % classes


def test_cross_entropy_is_pytorchs_with_weights_and_for_findings():
    logits, target = _of_torch(3)
    weight = torch.tensor([0.5, 1.0, 1.5])
    assert torch.allclose(WeightedCrossEntropyLoss(weight)(logits, target), F.cross_entropy(logits, target, weight))
    present = (logits.roll(1, 0) > 0).float()
    ours = WeightedCrossEntropyLoss(multi_label=True)(logits, present)
    assert torch.allclose(ours, F.binary_cross_entropy_with_logits(logits, present))
    odds = torch.tensor([[1.0, 3.0], [1.0, 0.5], [1.0, 1.0]])  # PyTorch's pos_weight, whose mean is over the number
    ours = WeightedCrossEntropyLoss(odds, multi_label=True).case_losses(logits, present).mean()
    assert torch.allclose(ours, F.binary_cross_entropy_with_logits(logits, present, pos_weight=odds[:, 1]))


def test_soft_labels_are_pytorchs():
    logits, _ = _of_torch(4)
    soft = logits.roll(1, 0).softmax(dim=1)
    assert torch.allclose(WeightedCrossEntropyLoss()(logits, soft), F.cross_entropy(logits, soft))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_is_monais_for_each_case(gamma):
    """torchvision's sigmoid_focal_loss without alpha is the same formula."""
    losses = pytest.importorskip("monai.losses")
    logits, target = _of_torch(3)
    theirs = losses.FocalLoss(gamma=gamma, use_softmax=True, reduction="none", to_onehot_y=True)(
        logits, target[:, None]
    )
    assert torch.allclose(FocalLoss(gamma).case_losses(logits, target), theirs.sum(dim=1), rtol=1e-5, atol=1e-6)
    present = (logits.roll(1, 0) > 0).float()
    theirs = losses.FocalLoss(gamma=gamma, reduction="none")(logits, present)
    ours = FocalLoss(gamma, multi_label=True).case_losses(logits, present)
    assert torch.allclose(ours, theirs.mean(dim=1), rtol=1e-5, atol=1e-6)


def test_focal_loss_of_findings_with_alpha_is_torchvisions_formula():
    logits, _ = _of_torch(3)
    present, p = (logits.roll(1, 0) > 0).float(), logits.sigmoid()
    p_t = p * present + (1 - p) * (1 - present)
    alpha_t = 0.25 * present + 0.75 * (1 - present)
    expected = alpha_t * (1 - p_t) ** 2 * F.binary_cross_entropy_with_logits(logits, present, reduction="none")
    ours = FocalLoss(2.0, torch.tensor([[0.75, 0.25]] * 3), multi_label=True)
    assert torch.allclose(ours(logits, present), expected.mean(), rtol=1e-5)


@pytest.mark.parametrize("many", [False, True])
def test_dice_and_tversky_are_monais_over_the_batch(many):
    losses = pytest.importorskip("monai.losses")
    logits, target = _of_torch(3)
    rows = (logits.roll(1, 0) > 0).float() if many else F.one_hot(target, 3).float()
    how = {"batch": True, "smooth_nr": 1.0, "smooth_dr": 1.0, "sigmoid": many, "softmax": not many}
    given = (logits[:, :, None], rows[:, :, None])
    assert torch.allclose(DiceLoss(multi_label=many)(logits, rows), losses.DiceLoss(**how)(*given), rtol=1e-5)
    theirs = losses.TverskyLoss(alpha=0.3, beta=0.7, **how)(*given)
    assert torch.allclose(TverskyLoss(multi_label=many)(logits, rows), theirs, rtol=1e-5)


def test_the_asymmetric_loss_of_findings_is_its_authors():
    """Ridnik 2021, written down from the paper with the shift of the negatives alone; theirs is a sum over findings."""
    logits, _ = _of_torch(3)
    present, p = (logits.roll(1, 0) > 0).float(), logits.sigmoid()
    q = (1 - p + 0.05).clamp(max=1)
    pt = p * present + q * (1 - present)
    focus = (1 - pt) ** (1 * present + 4 * (1 - present))
    theirs = -(focus * (present * p.clamp(min=1e-8).log() + (1 - present) * q.clamp(min=1e-8).log())).sum()
    assert torch.allclose(AsymmetricLoss(multi_label=True)(logits, present) * logits.numel(), theirs, rtol=1e-5)


def test_class_balanced_focal_is_cuis():
    labels = np.repeat([0, 1, 2], [500, 60, 4])
    alpha = class_weights(labels, method="effective", num_classes=3)
    raw = (1 - 0.999) / (1 - 0.999 ** np.array([500.0, 60, 4]))
    logits, target = _of_torch(3)
    loss = FocalLoss(2.0, torch.from_numpy(alpha).float()).case_losses(logits, target)
    plain = FocalLoss(2.0).case_losses(logits, target)
    assert torch.allclose(loss / plain, torch.from_numpy(raw / raw.sum() * 3).float()[target], rtol=1e-5)


# what the tutorial's losses get wrong


def test_alpha_weighs_a_class_by_its_ratio_and_no_more():
    """Defect 12: weights of 0.2 and 1.8 must make 9:1; the tutorial's make 64:1 to 717:1."""
    loss = FocalLoss(2.0, torch.tensor([0.2, 1.8]))
    for margin in (-3.0, -0.5, 0.5, 3.0):
        majority = loss(torch.tensor([[margin, 0.0]]), torch.tensor([0]))
        minority = loss(torch.tensor([[0.0, margin]]), torch.tensor([1]))
        assert float(minority / majority) == pytest.approx(9, rel=1e-4)


@given(CASES)
def test_focal_loss_without_focus_and_alpha_is_cross_entropy(case_of):
    many, logits, labels, _, case, _ = batch(*case_of)
    given = torch.from_numpy(logits), torch.from_numpy(labels), tensor(case)
    plain = WeightedCrossEntropyLoss(multi_label=many)(*given)
    assert torch.isclose(FocalLoss(0.0, multi_label=many)(*given), plain, rtol=1e-9)
    assert torch.isclose(PolyLoss(0.0, multi_label=many)(*given), plain, rtol=1e-9)


@pytest.mark.parametrize("loss", [DiceLoss(), TverskyLoss(), TverskyLoss(positive=1)])
def test_a_perfect_prediction_has_no_dice_loss(loss):
    """Defect 13: the tutorial adds smooth below the line only; its permute crashes before that."""
    target = torch.tensor([0, 1, 1, 0, 0])
    assert float(loss(F.one_hot(target, 2) * 100.0, target)) == 0
    assert float(loss(F.one_hot(1 - target, 2) * 100.0, target)) > 0.3
    present = torch.tensor([[0.0, 1, 1], [1, 0, 0]])
    assert float(DiceLoss(multi_label=True)(present * 200 - 100, present)) == 0


def test_a_class_that_a_batch_lacks_costs_only_what_is_called_it():
    target = torch.zeros(4, dtype=torch.long)
    sure, unsure = torch.tensor([[90.0, -90.0]] * 4), torch.zeros(4, 2)
    assert float(DiceLoss()(sure, target)) == 0
    assert float(DiceLoss()(unsure, target)) > 0.4


def test_tversky_of_one_class_asks_for_its_recall_and_that_of_both_does_not():
    """'Recall first: Dice' is unfounded: Dice follows F1, and over both classes any preference cancels."""
    target = torch.tensor([0, 0, 0, 0, 1, 1])
    missed = F.one_hot(torch.tensor([0, 0, 0, 0, 0, 1]), 2) * 20.0
    alarmed = F.one_hot(torch.tensor([0, 0, 0, 1, 1, 1]), 2) * 20.0
    tversky = TverskyLoss(positive=1)
    assert float(tversky(missed, target)) > 2.5 * float(tversky(alarmed, target))
    ratio = float(TverskyLoss()(missed, target)) / float(TverskyLoss()(alarmed, target))
    assert ratio < 1.4


@pytest.mark.parametrize("gamma_neg", [0.0, 1.0, 4.0])
@pytest.mark.parametrize("clip", [0.0, 0.05])
def test_the_asymmetric_loss_has_a_gradient_for_every_logit(gamma_neg, clip):
    """Defect 14: the tutorial clamps on both sides, so its gradient is exactly 0 for the hardest cases."""
    loss = AsymmetricLoss(gamma_neg=gamma_neg, clip=clip, multi_label=True)
    logits = torch.tensor([[-20.0, -5.0, 0.0, 5.0, 20.0]], requires_grad=True)
    (present,) = torch.autograd.grad(loss(logits, torch.ones(1, 5)), logits)
    (absent,) = torch.autograd.grad(loss(logits, torch.zeros(1, 5)), logits)
    assert (present < 0).all()
    easy = logits[0].sigmoid() < clip
    assert (absent[0, ~easy] > 0).all()
    assert (absent[0, easy] == 0).all(), "below the clip a negative costs nothing: that is its authors' purpose"


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("true", [0, 1])
def test_the_asymmetric_loss_of_classes_pulls_at_every_logit(classes, true):
    loss = AsymmetricLoss(clip=0.0)
    for sure in range(classes):
        logits = torch.full((1, classes), -10.0)
        logits[0, sure] = 10.0
        logits.requires_grad_()
        (gradient,) = torch.autograd.grad(loss(logits, torch.tensor([true])), logits)
        assert (gradient != 0).all(), (sure, gradient)


def test_gradients_of_the_asymmetric_loss_are_right_at_the_ends():
    """In float32 against double precision, where a softmax of 1 would lose them."""
    for sign in (-20.0, 20.0):
        for label in (0.0, 1.0):
            grads = []
            for kind in (torch.float32, torch.float64):
                logits = torch.tensor([[sign]], dtype=kind, requires_grad=True)
                loss = AsymmetricLoss(clip=0.0, multi_label=True)(logits, torch.tensor([[label]], dtype=kind))
                grads.append(float(torch.autograd.grad(loss, logits)[0]))
            assert grads[0] == pytest.approx(grads[1], rel=1e-4), (sign, label)
            assert grads[0] != 0


def test_the_finding_of_an_asymmetric_loss_may_be_either_class():
    logits, target = _of_torch(2)
    assert torch.isclose(
        AsymmetricLoss(positive=0)(logits, target), AsymmetricLoss(positive=1)(logits.flip(1), 1 - target)
    )


def test_the_surest_mistake_has_the_full_gradient_of_focal_and_cross_entropy():
    for loss in (FocalLoss(2.0), WeightedCrossEntropyLoss()):
        logits = torch.tensor([[30.0, -30.0]], requires_grad=True)
        (gradient,) = torch.autograd.grad(loss(logits, torch.tensor([1])), logits)
        assert gradient.abs().min() > 0.5


def test_plain_logits_under_the_adjustment_are_those_of_balanced_classes():
    """Menon 2021: with z = log p(x | y) the adjusted softmax is the cohort's posterior, the plain one the balanced."""
    counts = torch.tensor([95.0, 5.0])
    z, target = torch.zeros(1, 2), torch.tensor([1])  # x says nothing
    assert float(LogitAdjustedLoss(counts)(z, target)) == pytest.approx(-math.log(0.05), rel=1e-6)


def test_the_rarest_class_has_the_largest_margin():
    loss = LDAMLoss(torch.tensor([625.0, 16.0]))
    assert loss.margins.tolist() == pytest.approx([0.5 * (16 / 625) ** 0.25, 0.5])


# what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FocalLoss(-1.0), r"gamma must be at least 0, got -1\.0"),
        (lambda: AsymmetricLoss(clip=1.0), r"clip must be at least 0 and below 1, got 1\.0"),
        (lambda: AsymmetricLoss(positive=2), "positive must be 0 or 1, got 2"),
        (lambda: TverskyLoss(0.0, 0.0), "alpha and beta must be at least 0, not both 0"),
        (lambda: DiceLoss(0.0), r"smooth must be positive, got 0\.0"),
        (lambda: PolyLoss(-2.0), r"epsilon must be at least -1, got -2\.0"),
        (
            lambda: WeightedCrossEntropyLoss(torch.ones(3))(torch.zeros(4, 2), torch.zeros(4).long()),
            "one weight for each",
        ),
        (lambda: WeightedCrossEntropyLoss()(torch.zeros(4, 1), torch.zeros(4).long()), "logits must have two columns"),
        (lambda: FocalLoss(multi_label=True)(torch.zeros(4, 2), torch.zeros(4).long()), r"shape \(4, 2\), is int64 of"),
    ],
)
def test_nonsense_is_refused_in_words(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize("make", [LDAMLoss, LogitAdjustedLoss])
def test_a_class_without_cases_has_no_margin_and_no_prior(make):
    with pytest.raises(CohortError, match=r"every class must have training cases; got counts \[9\.0, 0\.0\]"):
        make(torch.tensor([9.0, 0.0]))
