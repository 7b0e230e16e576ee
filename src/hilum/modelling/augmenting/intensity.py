"""Changes of HU: noise, reconstruction kernel, slice thickness, calibration, window, gamma, a box cut out."""

import numpy as np
import torch
from jaxtyping import Float64
from scipy.special import ndtr

from hilum.modelling.augmenting.changes import Change, Channels
from hilum.modelling.device import tensor_like
from hilum.settings.recipe import Range, Triple
from hilum.volume import AIR_HU

_AT_ONCE = 16
"""Slices whose spectra are in memory at a time."""


def change_intensity(hu: Channels, change: Change, spacing_mm: Triple, window_hu: Range) -> None:
    """Change HU in place, in the order in which a scanner and a viewer would.

    Args:
        hu: Image channels in HU.
        change: The change drawn for this sample.
        spacing_mm: Spacing of the sample, (z, y, x).
        window_hu: HU of black and of white: level, width and gamma refer to it.
    """
    if not change.changes_intensity:
        return
    if change.noise_hu:
        hu.add_(_noise(hu.shape, change, spacing_mm, hu.device).mul_(hu != AIR_HU))  # padding has none
    if change.kernel:
        hu.lerp_(_blurred(hu, change.kernel_mm, spacing_mm), -change.kernel)
    if change.thickness_mm:
        hu.copy_(_thickened(hu, change.thickness_mm / spacing_mm[0], change.thickness_at))
    low, high = window_hu
    level = (low + high) / 2
    if (change.slope, change.offset_hu, change.level_hu, change.width) != (1, 0, 0, 1):
        hu.mul_(change.slope / change.width)
        hu.add_((change.offset_hu - level - change.level_hu) / change.width + level)
    if change.gamma != 1:
        inside = ((hu - low) / (high - low)).clamp_(0, 1)
        hu.add_(inside.pow(change.gamma).sub_(inside), alpha=high - low)
    if any(change.cutout_mm):
        _cut_out(hu, change, spacing_mm)


def _noise(shape: torch.Size, change: Change, spacing_mm: Triple, device: torch.device) -> Channels:
    """Noise whose power in the plane is that of filtered back projection, f times the kernel squared, from its seed.

    Riederer, Pelc and Chesler 1978, The noise power spectrum in computed X-ray tomography,
    doi:10.1088/0031-9155/23/3/008; the kernel is a Gaussian: f exp(-f^2 / 2 f_p^2) is largest at f_p. Slices are
    independent.
    """
    random = torch.Generator(device).manual_seed(change.noise_seed)
    white = torch.randn(shape, generator=random, device=device)
    y, x = shape[2:]
    frequency = np.hypot(np.fft.fftfreq(y, spacing_mm[1])[:, None], np.fft.fftfreq(x, spacing_mm[2]))
    power = frequency * np.exp(-(frequency**2) / (2 * change.noise_lp_mm**2))
    mean = power.mean()
    filter_ = np.sqrt(power / mean) if mean > 0 else np.ones_like(power)  # a plane of a single voxel has no texture
    half = tensor_like(change.noise_hu * filter_[:, : x // 2 + 1], white)
    for slices in torch.split(white.flatten(0, 1), _AT_ONCE):  # in place: a spectrum takes twice the room
        slices.copy_(torch.fft.irfft2(torch.fft.rfft2(slices).mul_(half), s=(y, x)))
    return white


def _blurred(hu: Channels, sigma_mm: float, spacing_mm: Triple) -> Channels:
    """Blur each slice with a Gaussian, like a smoother kernel; border voxels repeat."""
    _, _, y, x = hu.shape
    along_y, along_x = (
        tensor_like(_gaussian(n, sigma_mm / step), hu) for n, step in ((y, spacing_mm[1]), (x, spacing_mm[2]))
    )
    return along_y @ hu @ along_x.T


def _gaussian(n: int, sigma: float) -> Float64[np.ndarray, "n n"]:
    """Weights of an axis: the Gaussian's integral over each voxel; the outermost include what lies beyond the ends."""
    edges = np.arange(n + 1) - 0.5
    edges[0], edges[-1] = -np.inf, np.inf
    return np.diff(ndtr((edges - np.arange(n)[:, None]) / sigma), axis=1)


def _thickened(hu: Channels, slices: float, start: float) -> Channels:
    """Each slice becomes the mean of those that one thick slice covers; ``start`` is a share of the thickness."""
    n = hu.shape[1]
    number = np.floor((np.arange(n) + 0.5) / max(slices, 1.0) + start)
    together = number[:, None] == number
    weights = tensor_like(together / together.sum(axis=1, keepdims=True), hu)
    return (weights @ hu.flatten(2)).view_as(hu)


def _cut_out(hu: Channels, change: Change, spacing_mm: Triple) -> None:
    """Fill a box with its mean, which leaves the weakest possible edges."""
    box = []
    for n, step, edge, at in zip(hu.shape[1:], spacing_mm, change.cutout_mm, change.cutout_at, strict=True):
        voxels = min(n, max(1, round(edge / step)))
        first = min(max(round(at * n - voxels / 2), 0), n - voxels)
        box.append(slice(first, first + voxels))
    inside = hu[(slice(None), *box)]
    inside.copy_(inside.mean(dim=(1, 2, 3), keepdim=True).expand_as(inside))
