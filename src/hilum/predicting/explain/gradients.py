"""Maps from gradients: class activation maps of a stage, and integrated gradients of the input.

HiResCAM: Draelos and Carin 2020 (arXiv:2011.08891). Grad-CAM: Selvaraju et al. 2017 (arXiv:1610.02391). Integrated
gradients: Sundararajan et al. 2017 (arXiv:1703.01365).
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from scipy import ndimage
from torch import Tensor

from hilum.errors import ConfigError
from hilum.modelling.ensemble import members_of
from hilum.modelling.resnet import ResNet3D
from hilum.predicting.explain.occlusion import patch_of
from hilum.predicting.explain.sample_odds import SampleOdds
from hilum.settings.recipe import Size, Triple
from hilum.settings.run import ModelConfig
from hilum.volume import AIR_HU

INTEGRATION_STEPS = 32
"""Points at which gradients are integrated, those of Gauss and Legendre."""


def usual_stage(model: ModelConfig, size: Size, spacing_mm: Triple) -> int:
    """The last stage whose voxels are no larger than a step of occlusion, half its patch; else the first.

    Later stages know more, and show less: a voxel may be of 50 mm, and sees further than that.
    """
    step_mm = patch_of(size, spacing_mm) / 2

    def voxel_mm(stage: int) -> float:
        strides = zip(model.stride_of(stage), size, spacing_mm, strict=True)
        return max(min(stride, length) * s for stride, length, s in strides)

    return max((stage for stage in (1, 2, 3, 4) if voxel_mm(stage) <= step_mm), default=1)


def activation_maps(
    sample_odds: SampleOdds, models: list[ModelConfig], method: Literal["hirescam", "gradcam"], stage: int
) -> Float32[np.ndarray, "k m z y x"]:
    """Maps of a stage by output and member: features times gradients (HiResCAM), or times mean gradients (Grad-CAM).

    Args:
        sample_odds: What is explained.
        models: Settings of each member.
        method: Grad-CAM may show places that change nothing; HiResCAM does not, if linear layers alone follow.
        stage: The residual stage, 1 to 4.
    """

    def map_of(network: ResNet3D, hu: Tensor, weights: Tensor, model: ModelConfig) -> np.ndarray:
        kept: list[Tensor] = []
        hook = network.stage(stage)[-1].register_forward_hook(lambda _module, _input, out: kept.append(out))
        try:
            logits = network(sample_odds.input_of(hu[None]).requires_grad_())[0]
        finally:
            hook.remove()
        (gradient,) = torch.autograd.grad((logits.float() * weights).sum(), kept)
        if method == "gradcam":
            gradient = gradient.mean(dim=(2, 3, 4), keepdim=True)
        coarse = (kept[0].detach() * gradient).sum(dim=1)[0].float().cpu().numpy()
        return _enlarged(coarse, model, stage, sample_odds.recipe.size)

    return _by_member(sample_odds, models, map_of)


def integrated_gradients(
    sample_odds: SampleOdds, models: list[ModelConfig], *, smoothed_mm: float, spacing_mm: Triple
) -> Float32[np.ndarray, "k m z y x"]:
    """Integrated gradients by output and member, from air to the sample, smoothed for their peak to mean a place.

    Args:
        sample_odds: What is explained.
        models: Settings of each member.
        smoothed_mm: Standard deviation of the Gaussian that smooths the maps; but at the edges of the box, the sum
            stays.
        spacing_mm: Of the sample's voxels.

    Raises:
        ConfigError: If captum is not installed.
    """
    try:
        from captum.attr import IntegratedGradients
    except ImportError as exc:
        msg = "integrated gradients need captum"
        raise ConfigError(msg, hint="pip install 'hilum[explain]'") from exc

    def map_of(network: ResNet3D, hu: Tensor, weights: Tensor, _model: ModelConfig) -> np.ndarray:
        def score(seen: Tensor) -> Tensor:
            total: Tensor = (network(seen).float() * weights).sum(dim=1)
            return total

        air = hu.clone()
        air[0] = AIR_HU
        attributed = IntegratedGradients(score).attribute(
            sample_odds.input_of(hu[None]),
            sample_odds.input_of(air[None]),
            n_steps=INTEGRATION_STEPS,
            internal_batch_size=1,
        )
        summed: np.ndarray = attributed.sum(dim=1)[0].detach().float().cpu().numpy()
        return summed

    maps = _by_member(sample_odds, models, map_of)
    sigmas = [smoothed_mm / s for s in spacing_mm]
    return np.asarray(ndimage.gaussian_filter(maps, (0, 0, *sigmas), mode="constant"))


def _by_member(
    sample_odds: SampleOdds,
    models: list[ModelConfig],
    map_of: Callable[[ResNet3D, Tensor, Tensor, ModelConfig], np.ndarray],
) -> Float32[np.ndarray, "k m z y x"]:
    """Sum over the grids of the sample of the maps of each, in which its logits count as they do in the log odds."""
    whole = sample_odds.whole()
    values = np.zeros((len(sample_odds.outputs), len(whole), *sample_odds.shape), np.float32)
    members = list(zip(members_of(sample_odds.network), models, strict=True))
    with torch.inference_mode(False), torch.enable_grad():
        for k, m in np.ndindex(*values.shape[:2]):
            for grid, weights in zip(sample_odds.grids, sample_odds.share_of_grids(whole[m], k), strict=True):
                if weights.any():  # with aggregate = max one grid alone decides
                    hu = sample_odds.hu[(slice(None), *grid)].float()
                    values[(k, m, *grid)] += map_of(members[m][0], hu, weights.to(sample_odds.device), members[m][1])
    return values


def _enlarged(
    coarse: Float[np.ndarray, "_ _ _"], model: ModelConfig, stage: int, size: Size
) -> Float32[np.ndarray, "z y x"]:
    """Maps of a stage on the input's grid, linearly between its voxels.

    Every layer pads evenly, so that voxel i of a stage is centred on voxel i times the stride of the input: not on the
    middle of the stride voxels from there on, as enlarging the array as a picture takes it.
    """
    large = coarse
    for axis, (length, stride) in enumerate(zip(size, model.stride_of(stage), strict=True)):
        known = np.arange(coarse.shape[axis]) * stride
        between = np.array([np.interp(np.arange(length), known, unit) for unit in np.eye(len(known))])
        large = np.moveaxis(np.tensordot(large, between, (axis, 0)), -1, axis)
    return large.astype(np.float32)
