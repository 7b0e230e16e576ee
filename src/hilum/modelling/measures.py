"""Size and HU around a point, measured in the image and joined to the learned features."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from hilum.errors import require
from hilum.settings.recipe import Triple

_STEP_MM = 1.0
"""Width of the rings around the point, in the plane of the slices."""

_CENTRE_MM = 2.0
"""What is nearer than this is the middle of a nodule."""

_LARGEST_MM = 15.0
"""A nodule is at most 30 mm wide by definition (Fleischner Society glossary 2024)."""


class NoduleMeasures(nn.Module):
    """Mean and standard deviation of HU in rings around the point, and the diameter that the means show.

    The rings are 1 mm wide in the plane of the slices, and as high as the grid; those without a voxel are left out. The
    diameter is twice the area under the means over the radius, from the middle's height of 1 down to the lowest mean's
    of 0. Beyond the radius where they have fallen to a value, larger means count as that value: there begins another
    structure, such as the pleura.

    Args:
        size: Voxels of the grid (z, y, x).
        spacing_mm: Distance between voxels (z, y, x).

    Attributes:
        num_measures: Length of the result.

    Raises:
        ConfigError: If the grid has fewer than two rings.
    """

    mean: Tensor
    scale: Tensor
    rings: Tensor
    widths: Tensor

    def __init__(self, size: tuple[int, int, int], spacing_mm: Triple) -> None:
        super().__init__()
        _, y, x = ((np.arange(n) - (n - 1) / 2) * step for n, step in zip(size, spacing_mm, strict=True))
        radius = np.hypot(y[:, None], x[None]).ravel()
        most = min(_LARGEST_MM, float(-y[0]), float(-x[0]))
        edges = np.arange(0, max(most, _STEP_MM) + 1e-6, _STEP_MM)
        inside = [(low, (radius >= low) & (radius < low + _STEP_MM)) for low in edges[:-1]]
        begins = [low for low, one in inside if one.any()]
        must = f"at least {2 * _STEP_MM:g} mm wide in the plane, of voxels much smaller than a nodule"
        require(len(begins) > 1, "the grid of model.measures", must, f"{size} voxels of {spacing_mm} mm")
        rings = np.stack([one / one.sum() for _, one in inside if one.any()]).astype(np.float32)
        self.num_middle = max(1, sum(low < _CENTRE_MM for low in begins))
        self.num_measures = 2 * len(rings) + 1
        self.register_buffer("rings", torch.from_numpy(rings), persistent=False)
        self.register_buffer("widths", torch.from_numpy(_widths(begins)), persistent=False)
        self.register_buffer("mean", torch.zeros(self.num_measures))
        self.register_buffer("scale", torch.ones(self.num_measures))

    @torch.no_grad()
    def fit(self, measured: Float[Tensor, "n m"]) -> None:
        """Standardise by what ``measured`` gives for training cases."""
        self.mean.copy_(measured.mean(dim=0))
        spread = measured.std(dim=0, correction=0)
        self.scale.copy_(torch.where(spread > 1e-6, spread, torch.ones_like(spread)))

    def forward(self, x: Float[Tensor, "b c z y x"]) -> Float[Tensor, "b m"]:
        """The measures in units of their standard deviation over the training cases."""
        return (self.measured(x) - self.mean) / self.scale

    @torch.no_grad()
    def measured(self, x: Float[Tensor, "b c z y x"]) -> Float[Tensor, "b m"]:
        """Diameter in mm, then means and standard deviations as shares of the first window.

        Args:
            x: Input of the network, whose first channel is HU as a share of the first window.
        """
        with torch.autocast(x.device.type, enabled=False):
            image = x[:, 0].float().flatten(2)  # (b, z, y x)
            means = image.mean(dim=1) @ self.rings.T
            squares = image.square().mean(dim=1) @ self.rings.T
            spreads = (squares - means.square()).clamp(min=0).sqrt()
            return torch.cat([self._diameter(means)[:, None], means, spreads], dim=1)

    def _diameter(self, means: Float[Tensor, "b r"]) -> Float[Tensor, " b"]:
        """The diameter that a profile of means shows, in mm."""
        falling = [means[:, 0]]
        for ring in means.unbind(dim=1)[1:]:  # not cummin, which ONNX lacks
            falling.append(torch.minimum(falling[-1], ring))
        profile = torch.stack(falling, dim=1)
        lowest = profile[:, -1:]
        height = means[:, : self.num_middle].amax(dim=1, keepdim=True) - lowest
        return 2 * ((profile - lowest) / height.clamp(min=1e-3) * self.widths).sum(dim=1)


def _widths(begins: Sequence[float]) -> Float32[np.ndarray, " r"]:
    """The width for which each ring stands, in mm: neighbours share a gap, in which a coarse grid has no voxel."""
    ends = np.array(begins) + _STEP_MM
    between = (ends[:-1] + begins[1:]) / 2
    return np.diff(np.concatenate([[0.0], between, ends[-1:]])).astype(np.float32)
