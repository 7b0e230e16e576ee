"""The second stage of decoupled training: refits the last layer on balanced features of the training cases.

Kang et al. 2020 (arXiv:1910.09217): features are learned from the unbalanced cohort, the classifier from balanced
classes. Synthetic features are made from features of training cases only, never from voxels, and never between cases of
one patient, which imbalanced-learn cannot exclude; with one case per patient they equal that library's.
"""

import logging
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances

from hilum.cohorts.dataset import CohortDataset, to_float
from hilum.modelling.device import tensor_like
from hilum.modelling.input import model_input
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.speed import EXACT, for_prediction
from hilum.randomness import torch_seed
from hilum.settings.run import HeadConfig, RunConfig

_log = logging.getLogger("hilum")

_Features = Float64[np.ndarray, "_ d"]
_Mask = Bool[np.ndarray, " _"]
_Places = Int[np.ndarray, " _"]
_Owners = Int[np.ndarray, " _"]
"""Number of each case's patient."""

_Maker = Callable[[_Features, _Mask, _Owners, int, int, np.random.RandomState], _Features]

_BORDER = 10
"""Nearest cases among which borderline SMOTE counts other classes; imbalanced-learn's default."""


@torch.inference_mode()
def features_of(
    network: ResNet3D, dataset: CohortDataset, device: torch.device, batch_size: int
) -> Float[np.ndarray, "n d"]:
    """Pooled features of each case, without augmentation, in order.

    Args:
        network: In evaluation mode, on the device.
        dataset: The cases.
        device: Device of the network.
        batch_size: Cases in a batch.
    """
    rows = []
    for start in range(0, len(dataset), batch_size):
        samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        hu = to_float(torch.stack([sample["hu"] for sample in samples]), device)
        x = model_input(hu, dataset.recipe.windows)
        features = network.forward_head(network.forward_features(x), network.measured(x), pre_logits=True)
        rows.append(features.cpu().double().numpy())
    return np.concatenate(rows)


def retrain_head(network: ResNet3D, dataset: CohortDataset, config: RunConfig, device: torch.device) -> None:
    """Replace the last layer by a logistic regression on balanced features of the training cases.

    Args:
        network: Its ``fc`` is replaced.
        dataset: The training cases, and no others.
        config: Balancing, batch size, and the seed of the synthetic features.
        device: Device of the network.
    """
    settings = config.training
    patients = [dataset.prepared.cases[i].patient_id for i in dataset.indices]
    owners: np.ndarray = np.unique(patients, return_inverse=True)[1].reshape(-1)
    features = features_of(for_prediction(network, EXACT), dataset, device, config.at_once(settings.batch_size))
    known = dataset.is_labelled
    weight, bias = fit_head(features[known], dataset.labels[known], owners[known], config.head, seed=settings.seed)
    with torch.no_grad():
        network.fc.weight.copy_(tensor_like(weight, network.fc.weight))
        network.fc.bias.copy_(tensor_like(bias, network.fc.bias))
    _log.info("head: fitted anew on the features of %d training cases (%s)", known.sum(), config.head.retrain)


def fit_head(
    features: _Features,
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    owners: _Owners,
    config: HeadConfig,
    *,
    seed: int,
) -> tuple[Float64[np.ndarray, "c d"], Float64[np.ndarray, " c"]]:
    """Fit weight and bias of a linear layer to features.

    Args:
        features: Features of the training cases.
        labels: Classes, or 0 and 1 for each label of a multi-label cohort, which are fitted and balanced one by one.
        owners: Patient of each case; no synthetic features are made between cases of one patient.
        config: Balancing of the classes, and the penalty.
        seed: Seed of the synthetic features.
    """
    mean, scale = features.mean(0), features.std(0)
    scale[scale == 0] = 1.0
    standard = (features - mean) / scale
    if labels.ndim == 2:
        fits = [_fit(standard, column, owners, config, seed + k) for k, column in enumerate(labels.T)]
        weight, bias = np.concatenate([w for w, _ in fits]), np.concatenate([b for _, b in fits])
    else:
        weight, bias = _fit(standard, labels, owners, config, seed)
        if len(weight) == 1:  # two classes: the log odds of the second
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale
    return weight, bias - weight @ mean


def _fit(
    features: _Features, labels: Int[np.ndarray, " n"], owners: _Owners, config: HeadConfig, seed: int
) -> tuple[Float64[np.ndarray, "k d"], Float64[np.ndarray, " k"]]:
    weights, num_cases = "balanced" if config.retrain == "balanced" else None, len(features)
    if weights is None:
        features, labels = balanced_features(features, labels, owners, config, seed=seed)
    strength = num_cases / len(features) / config.penalty  # independent of the number of synthetic features
    model = LogisticRegression(C=strength, class_weight=weights, max_iter=10_000).fit(features, labels)
    return np.asarray(model.coef_), np.asarray(model.intercept_)


def balanced_features(
    features: _Features, labels: Int[np.ndarray, " n"], owners: _Owners, config: HeadConfig, *, seed: int
) -> tuple[Float64[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
    """Add synthetic features until all classes are equally frequent; with ADASYN approximately.

    A class whose cases are all of one patient has no neighbours of other patients: its cases are repeated. If classes
    are so far apart that no case is near another class, borderline SMOTE and ADASYN make nothing, and SMOTE is used.
    """
    counts = np.bincount(labels)
    rare = [k for k, count in enumerate(counts) if 0 < count < counts.max()]
    state = torch_seed(seed, "head") % 2**32
    make = {"smote": _smote, "borderline-smote": _borderline_smote, "adasyn": _adasyn}[config.retrain]

    def made_by(method: _Maker) -> list[_Features]:
        random = (np.random.RandomState(state) for _ in rare)
        return [
            method(features, labels == k, owners, int(counts.max() - counts[k]), config.neighbours, rng)
            for k, rng in zip(rare, random, strict=True)
        ]

    made = made_by(make)
    if not all(map(len, made)):
        _log.warning("warning: head.retrain = %s makes nothing here of a rare class; SMOTE is taken", config.retrain)
        made = made_by(_smote)
    of_class = [np.full(len(new), k) for k, new in zip(rare, made, strict=True)]
    return np.concatenate([features, *made]), np.concatenate([labels, *of_class])


def _smote(
    features: _Features, is_rare: _Mask, owners: _Owners, missing: int, neighbours: int, random: np.random.RandomState
) -> _Features:
    """Features between random cases of a class and their neighbours in it (Chawla et al. 2002)."""
    return _between(features[is_rare], owners[is_rare], np.arange(is_rare.sum()), missing, neighbours, random)


def _borderline_smote(
    features: _Features, is_rare: _Mask, owners: _Owners, missing: int, neighbours: int, random: np.random.RandomState
) -> _Features:
    """SMOTE from cases with half or more, but not all, of their neighbours in other classes (Han et al. 2005)."""
    others = (~is_rare)[_near(features, owners, np.flatnonzero(is_rare), _BORDER)].sum(1)
    border = np.flatnonzero((others >= _BORDER / 2) & (others < _BORDER))
    return _between(features[is_rare], owners[is_rare], border, missing, neighbours, random)


def _adasyn(
    features: _Features, is_rare: _Mask, owners: _Owners, missing: int, neighbours: int, random: np.random.RandomState
) -> _Features:
    """SMOTE from each case in proportion to the other classes among its neighbours (He et al. 2008)."""
    others = (~is_rare)[_near(features, owners, np.flatnonzero(is_rare), neighbours)].mean(1)
    times = np.rint(others / max(others.sum(), 1e-300) * missing).astype(int)
    rows = np.repeat(np.arange(is_rare.sum()), times)
    columns = random.choice(neighbours, size=len(rows))
    rare, near = features[is_rare], _near(features[is_rare], owners[is_rare], np.arange(is_rare.sum()), neighbours)
    made: np.ndarray = rare[rows] + random.uniform(size=(len(rows), 1)) * (rare[near[rows, columns]] - rare[rows])
    return made


def _between(
    rare: _Features, owners: _Owners, bases: _Places, missing: int, neighbours: int, random: np.random.RandomState
) -> _Features:
    """Make ``missing`` features between base cases of a class and their neighbours; none without a base case."""
    if not len(bases):
        return rare[:0]
    near = _near(rare, owners, bases, neighbours)
    rows, columns = np.divmod(random.randint(0, near.size, size=missing), neighbours)
    steps = random.uniform(size=missing)[:, None]
    base = rare[bases[rows]]
    made: np.ndarray = base + steps * (rare[near[rows, columns]] - base)
    return made


def _near(features: _Features, owners: _Owners, cases: _Places, number: int) -> Int[np.ndarray, "_ {number}"]:
    """Indices of the nearest features of other patients, for some of the cases.

    If other patients have fewer features than ``number`` they repeat; if they have none, it is the case itself.
    """
    distances = pairwise_distances(features[cases], features)
    distances[owners[cases][:, None] == owners] = np.inf
    order = distances.argsort(1, kind="stable")
    found = np.isfinite(distances).sum(1)[:, None]
    places = np.arange(number) % np.maximum(found, 1)
    return np.where(found > 0, np.take_along_axis(order, places, 1), cases[:, None])
