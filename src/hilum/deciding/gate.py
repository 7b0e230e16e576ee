"""Tells scans that are unlike those of training: by ranges of what training saw, and by their features.

The distance of features is Mahalanobis' to the nearest class mean, with one covariance (Lee et al. 2018,
arXiv:1807.03888), shrunken (Ledoit and Wolf 2004, doi:10.1016/S0047-259X(03)00096-4).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Float, Float32, Float64
from scipy.linalg import cholesky, solve_triangular

from hilum.deciding.facts import FACTS
from hilum.errors import require
from hilum.findings import Finding, find
from hilum.settings.recipe import Range

_PRIVACY = (
    "Ranges, means and covariance are of training cases: they hold no case, but may reveal membership, that a scan was "
    "among these."
)


@dataclass(frozen=True, kw_only=True, eq=False)
class FeatureStatistics:
    """Where the features of one network lie in training.

    Attributes:
        means: Mean of each class of twenty patients or more, and of the rest together, (k, d).
        covariance: Covariance about these means, shrunken, (d, d).
    """

    means: Float32[np.ndarray, "k d"]
    covariance: Float32[np.ndarray, "d d"]

    def __post_init__(self) -> None:
        arrays, size = (self.means, self.covariance), self.means.shape[-1]
        right = self.means.ndim == 2 and len(self.means) > 0 and self.covariance.shape == (size, size)
        right = right and all(one.dtype == np.float32 and bool(np.isfinite(one).all()) for one in arrays)
        shapes = f"{self.means.shape} and {self.covariance.shape}"
        require(right, "means and covariance", "finite float32 of shapes (k, d) and (d, d)", shapes)
        require(bool(np.allclose(self.covariance, self.covariance.T)), "a covariance", "symmetric", "another")

    @cached_property
    def _root(self) -> Float64[np.ndarray, "d d"]:
        return np.asarray(cholesky(self.covariance.astype(np.float64), lower=True))

    def distances(self, features: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
        """Distance of cases from the nearest mean, over the root of the number of features: about 1 in training."""
        away = features[None].astype(np.float64) - self.means[:, None]
        flat = solve_triangular(self._root, away.reshape(-1, away.shape[-1]).T, lower=True)
        squares = (flat**2).sum(axis=0).reshape(len(self.means), len(features))
        found: np.ndarray = np.sqrt(squares.min(axis=0) / features.shape[1])
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """What training saw, and how far a scan may lie from it.

    Attributes:
        policy: ``no-result``: a scan outside gets no decision. ``note``: only a finding.
        ranges: Lowest and highest value of each fact that is accepted, by its name in ``FACTS``.
        kernels: Kernels of training, sharp or soft; empty: not judged.
        limit: Largest accepted distance of the features, the mean over the members; None: not judged.
        share: Share of scans like those of training that the gate holds back.
        num_held_out: Patients, not trained on, on whose scans the limit was chosen.
        rule: Sentence that says how.
        privacy: What ranges and statistics may reveal.
    """

    policy: Literal["no-result", "note"] = "no-result"
    ranges: dict[str, Range] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()
    limit: float | None = None
    share: float | None = None
    num_held_out: int = 0
    rule: str = ""
    privacy: str = _PRIVACY

    def __post_init__(self) -> None:
        known = set(self.ranges) <= set(FACTS)
        require(known, "ranges of a gate", f"of {', '.join(FACTS)}", ", ".join(self.ranges))
        for name, (low, high) in self.ranges.items():
            require(-math.inf < low <= high < math.inf, f"the range of {name}", "finite, low first", (low, high))
        require(set(self.kernels) <= {"sharp", "soft"}, "kernels of a gate", "sharp, soft", ", ".join(self.kernels))
        for what, most in (("limit", math.inf), ("share", 1.0)):
            value = getattr(self, what)
            right = value is None or (0 <= value <= most and math.isfinite(value))
            require(right, f"the {what} of a gate", "finite, and at least 0" + (", at most 1" * (most == 1)), value)
        require(self.num_held_out >= 0, "num_held_out of a gate", "at least 0", self.num_held_out)

    def findings(self, facts: Mapping[str, float], kernel: str, distance: float | None) -> tuple[Finding, ...]:
        """What of a scan lies outside; empty for a scan like those of training.

        Args:
            facts: From ``facts_of``; facts that training or the scan lacks are not judged.
            kernel: From ``kernel_of``.
            distance: Distance of its features; None: not judged.
        """
        found = []
        for name, (low, high) in self.ranges.items():
            if name in facts and not low <= facts[name] <= high:
                fact = FACTS[name]
                value = f"{facts[name]:.4g} {fact.unit}".strip()
                message = f"{fact.words} is {value}, accepted is {low:.4g} to {high:.4g}"
                found.append(find(fact.code, f"{message}, by what training saw"))
        if kernel and self.kernels and kernel not in self.kernels:
            message = f"the kernel is {kernel}, training saw {' and '.join(self.kernels)} ones alone"
            found.append(find("unseen-kernel", message))
        if distance is not None and self.limit is not None and not distance <= self.limit:
            message = f"the features lie {distance:.3g} from those of training, the limit is {self.limit:.3g}"
            found.append(find("unseen-features", message))
        return tuple(found)


def mean_distance(
    statistics: Sequence[FeatureStatistics], features: Sequence[Float[np.ndarray, "n d"]]
) -> Float64[np.ndarray, " n"]:
    """Distance of cases by each member's own features, averaged over the members."""
    each = [one.distances(own) for one, own in zip(statistics, features, strict=True)]
    return np.asarray(np.mean(each, axis=0))
