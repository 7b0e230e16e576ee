"""The second stage of decoupled training: the last layer, fitted anew on balanced features of the training cases.

Kang et al. 2020 (arXiv:1910.09217): features learned from the cohort as it is, a classifier from balanced classes.
Synthetic features are imbalanced-learn's (SMOTE, Chawla et al. 2002; borderline SMOTE, Han et al. 2005; ADASYN, He et
al. 2008). They are made of training cases alone, never of raw voxels, and never between two cases of one patient.
"""

import logging
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import pairwise_distances
from sklearn.neighbors import NearestNeighbors

from hilum.cohorts.dataset import CohortDataset, to_float
from hilum.errors import require
from hilum.modelling.device import tensor_like
from hilum.modelling.input import model_input
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.speed import EXACT, for_prediction
from hilum.randomness import torch_seed
from hilum.settings.run import HeadConfig, RunConfig

_log = logging.getLogger("hilum")

Features = Float64[np.ndarray, "n d"]
_BORDER = 10
"""Nearest cases among which borderline SMOTE looks for another class; imbalanced-learn's number."""

Owners = Int[np.ndarray, " n"]
"""Patient of each case, as a number."""


def check_head(config: HeadConfig) -> None:
    """Raise a ConfigError before training where the library for the second stage is missing."""
    needed = config.retrain not in ("none", "balanced")
    found = not needed or find_spec("imblearn") is not None
    require(found, "head.retrain", "none or balanced without imbalanced-learn (hilum[balance])", config.retrain)


@torch.inference_mode()
def features_of(
    network: ResNet3D, dataset: CohortDataset, device: torch.device, batch_size: int
) -> Float[np.ndarray, "n d"]:
    """Pooled features of each case as it is, never augmented, in their order.

    Args:
        network: In evaluation mode, on the device.
        dataset: The cases.
        device: Where the network is.
        batch_size: Cases at a time.
    """
    rows = []
    for start in range(0, len(dataset), batch_size):
        samples = [dataset[i] for i in range(start, min(start + batch_size, len(dataset)))]
        hu = to_float(torch.stack([sample["hu"] for sample in samples]), device)
        maps = network.forward_features(model_input(hu, dataset.recipe.windows))
        rows.append(network.forward_head(maps, pre_logits=True).cpu().double().numpy())
    return np.concatenate(rows)


def retrain_head(network: ResNet3D, dataset: CohortDataset, config: RunConfig, device: torch.device) -> None:
    """Replace the last layer by a logistic regression on balanced features of the training cases.

    Args:
        network: Its ``fc`` is written.
        dataset: The training cases, and no others.
        config: How they are balanced, how many are seen at a time, and the seed of the synthetic features.
        device: Where the network is.
    """
    settings = config.training
    patients = [dataset.prepared.cases[i].patient_id for i in dataset.indices]
    owners: np.ndarray = np.unique(patients, return_inverse=True)[1].reshape(-1)
    features = features_of(for_prediction(network, EXACT), dataset, device, config.at_once(settings.batch_size))
    weight, bias = fit_head(features, dataset.labels, owners, config.head, seed=settings.seed)
    with torch.no_grad():
        network.fc.weight.copy_(tensor_like(weight, network.fc.weight))
        network.fc.bias.copy_(tensor_like(bias, network.fc.bias))
    _log.info("head: fitted anew on the features of %d training cases (%s)", len(features), config.head.retrain)


def fit_head(
    features: Features,
    labels: Int[np.ndarray, " n"] | Int[np.ndarray, "n c"],
    owners: Owners,
    config: HeadConfig,
    *,
    seed: int,
) -> tuple[Float64[np.ndarray, "c d"], Float64[np.ndarray, " c"]]:
    """Weight and bias of a linear layer for these features.

    Args:
        features: Of the training cases.
        labels: Classes, or 0 and 1 for each finding: then each finding is fitted, and balanced, on its own.
        owners: Patient of each case; between two cases of one patient nothing is made.
        config: How the classes are balanced, and the penalty.
        seed: Of the synthetic features.
    """
    mean, scale = features.mean(0), features.std(0)
    scale[scale == 0] = 1.0
    standard = (features - mean) / scale
    if labels.ndim == 2:
        fits = [_fit(standard, column, owners, config, seed + k) for k, column in enumerate(labels.T)]
        weight, bias = np.concatenate([w for w, _ in fits]), np.concatenate([b for _, b in fits])
    else:
        weight, bias = _fit(standard, labels, owners, config, seed)
        if len(weight) == 1:  # of two classes, the odds of the second
            weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    weight = weight / scale
    return weight, bias - weight @ mean


def _fit(
    features: Features, labels: Int[np.ndarray, " n"], owners: Owners, config: HeadConfig, seed: int
) -> tuple[Float64[np.ndarray, "k d"], Float64[np.ndarray, " k"]]:
    weights, num_cases = "balanced" if config.retrain == "balanced" else None, len(features)
    if weights is None:
        features, labels = balanced_features(features, labels, owners, config, seed=seed)
    strength = num_cases / len(features) / config.penalty  # so that a penalty is one, however many features were made
    model = LogisticRegression(C=strength, class_weight=weights, max_iter=10_000).fit(features, labels)
    return np.asarray(model.coef_), np.asarray(model.intercept_)


def balanced_features(
    features: Features, labels: Int[np.ndarray, " n"], owners: Owners, config: HeadConfig, *, seed: int
) -> tuple[Float64[np.ndarray, "m d"], Int[np.ndarray, " m"]]:
    """The features and synthetic ones, until all classes are equally many; with ADASYN about.

    A class whose cases are all of one patient has no neighbours to lie between: its cases are repeated. Where classes
    are so far apart that no case is near another class, borderline SMOTE and ADASYN make nothing, and SMOTE is taken.
    """
    from imblearn.over_sampling import ADASYN, SMOTE, BorderlineSMOTE

    near = _OtherPatients(config.neighbours + 1)
    state = torch_seed(seed, "head") % 2**32
    samplers: dict[str, Any] = {
        "smote": lambda: SMOTE(k_neighbors=near, random_state=state),
        "borderline-smote": lambda: BorderlineSMOTE(
            k_neighbors=near, m_neighbors=_OtherPatients(_BORDER + 1), random_state=state
        ),
        "adasyn": lambda: ADASYN(n_neighbors=near, random_state=state),
    }
    with_owners = np.column_stack([features, owners])  # the library hands on features alone; the last is no feature
    try:
        made, of_class = samplers[config.retrain]().fit_resample(with_owners, labels)
    except (ValueError, RuntimeError):  # ADASYN: no case has a neighbour of another class
        made, of_class = with_owners, labels
    nothing = len(made) == len(features) if config.retrain == "adasyn" else np.ptp(np.bincount(of_class)) > 0
    if nothing and np.ptp(np.bincount(labels)) > 0:
        _log.warning("warning: head.retrain = %s makes nothing here of a rare class; SMOTE is taken", config.retrain)
        made, of_class = samplers["smote"]().fit_resample(with_owners, labels)
    return np.asarray(made)[:, :-1], np.asarray(of_class)


class _OtherPatients(NearestNeighbors):  # type: ignore[misc]
    """Nearest neighbours among cases of other patients, as imbalanced-learn asks for them: first the case itself.

    The last column is the patient. Where fewer other patients are there than neighbours asked for, they repeat; where
    there is none, the case is its own neighbour.
    """

    def __init__(self, n_neighbors: int = 6) -> None:
        super().__init__(n_neighbors=n_neighbors)

    def kneighbors(
        self, features: Features, n_neighbors: int | None = None, return_distance: bool = True
    ) -> Int[np.ndarray, "n k"] | tuple[Float64[np.ndarray, "n k"], Int[np.ndarray, "n k"]]:
        """Of each case itself, then of the nearest of other patients."""
        fitted: np.ndarray = self._fit_X
        distances = pairwise_distances(features[:, :-1], fitted[:, :-1])
        same = features[:, -1:] == fitted[:, -1][None]
        own = np.where(same, distances, np.inf).argmin(1)
        distances = np.where(same, np.inf, distances)
        order = distances.argsort(1, kind="stable")
        wanted = (n_neighbors or self.n_neighbors) - 1
        found = np.isfinite(distances).sum(1)
        places = np.arange(wanted)[None] % np.maximum(found, 1)[:, None]
        near = np.where(found[:, None] > 0, np.take_along_axis(order, places, 1), own[:, None])
        near = np.concatenate([own[:, None], near], axis=1)
        return (np.take_along_axis(distances, near, 1), near) if return_distance else near
