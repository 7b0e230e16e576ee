"""The two fits behind calibration: softmax regression by Newton's method, and isotonic regression."""

from itertools import pairwise

import numpy as np
from jaxtyping import Float, Float64

_MOST_STEPS = 200
_SMALL = 1e-9
"""Twice the decrease of the loss by a Newton step, in nats, at which a full step is safe and the last one."""


def softmax(scores: Float64[np.ndarray, "n c"]) -> Float64[np.ndarray, "n c"]:
    """Probabilities of classes, each row summing to 1, without overflow."""
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return np.asarray(powers / powers.sum(1, keepdims=True))


def softmax_regression(
    features: Float64[np.ndarray, "n c k"],
    targets: Float64[np.ndarray, "n c"],
    *,
    offset: Float64[np.ndarray, "n c"] | float = 0.0,
) -> Float64[np.ndarray, " k"]:
    """The k coefficients of greatest likelihood for scores = offset + features @ coefficients.

    The loss is convex: Newton's method with halved steps finds its minimum from 0. A minimum must exist: with targets
    of exactly 0 and 1, the classes must overlap. A feature that never varies keeps the coefficient 0.

    Args:
        features: Features of each case, for each class.
        targets: Probability of each class; rows sum to 1.
        offset: Fixed part of the scores.
    """

    def loss(of: Float64[np.ndarray, " k"]) -> float:
        scores = offset + features @ of
        return float(np.sum(np.logaddexp.reduce(scores, axis=1) - (targets * scores).sum(1)))

    found = np.zeros(features.shape[2])
    for _ in range(_MOST_STEPS):
        probs = softmax(offset + features @ found)
        gradient = np.einsum("nc,nck->k", probs - targets, features)
        around = features - np.einsum("nc,nck->nk", probs, features)[:, None, :]
        curvature = np.einsum("nc,nck,ncl->kl", probs, around, around)
        ridge = 1e-12 * (np.trace(curvature) + 1)  # changes the step a little if all cases are sure, never the minimum
        step = np.linalg.solve(curvature + ridge * np.eye(len(found)), gradient)
        gain = float(gradient @ step)
        if gain < _SMALL:
            return np.asarray(found - step)
        now, share = loss(found), 1.0
        while share > 1e-30 and loss(found - share * step) > now - 1e-4 * share * gain:
            share /= 2
        found = found - share * step
    return found


def rising_corners(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> tuple[tuple[float, float], ...]:
    """Corners (x, value) of the rising curve with the least squared distance to y, by pool adjacent violators.

    Equal x are one point with the mean of their y. SciPy pools falling neighbours to a block of one value
    (Ayer et al. 1955; Barlow et al. 1972); a block has one corner at each end, or one if it is a single x. The curve
    is linear between blocks and constant beyond the ends, as in scikit-learn.
    """
    from scipy.optimize import isotonic_regression  # not at the top: prediction needs only softmax

    levels, level, sizes = np.unique(x, return_inverse=True, return_counts=True)
    fit = isotonic_regression(np.bincount(level.reshape(-1), weights=y) / sizes, weights=sizes)
    corners = []
    for first, stop in pairwise(fit.blocks.tolist()):
        corners += [(float(levels[end]), float(fit.x[first])) for end in sorted({first, stop - 1})]
    return tuple(corners)
