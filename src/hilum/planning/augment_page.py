"""The page of ``hilum augment``: pictures of what a config's random changes do to a sample."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
import tomli_w
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hilum.modelling.augmenting.augment import apply
from hilum.modelling.augmenting.changes import Change, draw
from hilum.modelling.augmenting.spatial import smallest_jacobian
from hilum.pages import grey, html_page, outline, png
from hilum.planning.describe import describe, describe_settings
from hilum.preparing.lungs.overlay import FIELD_RGB
from hilum.preparing.subvolumes import channels, cut, random_start
from hilum.randomness import generator
from hilum.settings.augmentation import PROBABILITIES, AugmentConfig
from hilum.settings.presets import preset
from hilum.settings.recipe import Range, Recipe
from hilum.settings.toml import to_dict
from hilum.volume import Volume

CASE = "look"
"""The case id for which changes are drawn: draw N is its epoch N."""

_TRIES = 200
"""Draws of which the one that goes furthest is shown."""

_LUNG_HU = -850.0
"""HU of aerated lung, at which a change of calibration is measured."""

Plane: TypeAlias = UInt8[np.ndarray, "_ _"] | UInt8[np.ndarray, "_ _ 3"]

_DISTANCES: dict[str, tuple[Callable[[Change], float], ...]] = {
    "extent": (lambda c: -float(np.prod(c.extent)),),
    "rotation": (lambda c: -float(np.trace(_linear(c))),),
    "scaling": (lambda c: float(np.linalg.det(_linear(c))), lambda c: -float(np.linalg.det(_linear(c)))),
    "translation": (lambda c: float(np.linalg.norm(np.array(c.affine)[:, 3])),),
    "shear": (lambda c: float(np.abs(_linear(c)).sum()),),
    "zoom": (lambda c: c.zoom,),
    "elastic": (lambda c: c.elastic_mm,),
    "noise": (lambda c: c.noise_hu / c.noise_lp_mm, lambda c: c.noise_hu * c.noise_lp_mm),
    "kernel": (lambda c: -c.kernel, lambda c: c.kernel),
    "thickness": (lambda c: c.thickness_mm,),
    "calibration": (lambda c: c.slope * _LUNG_HU + c.offset_hu, lambda c: -c.slope * _LUNG_HU - c.offset_hu),
    "level": (lambda c: -c.level_hu, lambda c: c.level_hu),
    "width": (lambda c: -c.width, lambda c: c.width),
    "gamma": (lambda c: -c.gamma, lambda c: c.gamma),
    "cutout": (lambda c: float(np.prod(c.cutout_mm)),),
}
"""How far a change goes; two distances if it can go in two directions."""


def _linear(change: Change) -> np.ndarray:
    return np.array(change.affine)[:, :3]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A changed sample on the page.

    Attributes:
        lines: Description of the change.
        differs_hu: Mean absolute difference to the unchanged sample, over all voxels.
        pictures: Axial, coronal and sagittal, PNG in base64.
    """

    lines: list[str]
    differs_hu: float
    pictures: tuple[str, ...]


def augment_page(sample: Volume, recipe: Recipe, config: AugmentConfig, *, number: int = 8, seed: int = 0) -> str:
    """One self-contained HTML page, which loads nothing and names nothing of the scan.

    It shows the unchanged sample and ``number`` draws, then each change of the config alone, nearly at its limit.

    Args:
        sample: Prepared with the recipe; with ``sub_volumes`` one grid of it is shown.
        recipe: Recipe of the sample.
        config: Probabilities and ranges of the changes.
        number: Number of random changes that are shown.
        seed: Seed of the sampling.

    Raises:
        ConfigError: If the config would destroy the recipe's region, such as moving a point out of the grid.
    """
    config.check_for(recipe)
    hu = torch.from_numpy(_training_view(sample, recipe, seed)).float()
    window = recipe.windows[0]

    def card(change: Change) -> Card:
        return _card(hu, change, sample, recipe)

    settings = describe_settings(config)
    mixes = [one.name for one in settings if one.name in ("mixup", "cutmix")]
    z, y, x = (n * step for n, step in zip(hu.shape[1:], sample.spacing_mm, strict=True))
    return html_page(
        "hilum.planning",
        "augment_page.html",
        facts=_facts(sample, recipe, hu),
        preset=f"preset {config.preset}{'' if config == preset(config.preset, recipe) else ', changed'}",
        settings=settings,
        window=f"{window[0]:g} to {window[1]:g} HU",
        has_lungs=len(hu) > 1,
        seed=seed,
        case=CASE,
        as_it_is=[png([plane]) for plane in planes(hu, window)],
        tries=_TRIES,
        draws=[card(draw(config, [CASE], seed=seed, epoch=epoch)[0]) for epoch in range(1, number + 1)],
        alone=[
            (one, [card(change) for change in strongest_changes(config, one.name, seed=seed)])
            for one in settings
            if one.name not in mixes
        ],
        mixes=mixes,
        planes=[("axial", x, y), ("coronal", x, z), ("sagittal", y, z)],
        toml=tomli_w.dumps({"recipe": to_dict(recipe), "augment": to_dict(config)}),
    )


def _card(hu: Float[Tensor, "c z y x"], change: Change, sample: Volume, recipe: Recipe) -> Card:
    _, z, y, x = hu.shape
    changed = apply(hu[None], [change], np.array([sample.spacing_mm]), recipe)[0]
    lines = describe(change, (z, y, x), sample.spacing_mm)
    if change.elastic_mm:
        lines.append(f"smallest Jacobian {smallest_jacobian(change, (z, y, x), sample.spacing_mm):.2f}")
    pictures = tuple(png([plane]) for plane in planes(changed, recipe.windows[0]))
    return Card(lines=lines, differs_hu=float((changed[0] - hu[0]).abs().mean()), pictures=pictures)


def strongest_changes(config: AugmentConfig, name: str, *, seed: int) -> list[Change]:
    """The strongest of many sampled changes with only one augmentation on.

    Args:
        config: Has the ranges to sample from.
        name: The augmentation: the name of its probability in the config, or ``flip``.
        seed: Seed of the sampling.

    Returns:
        One change, or two in opposite directions; for ``flip`` one for each axis. A cut-out box is moved to the middle.
    """
    off: dict[str, Any] = dict.fromkeys(PROBABILITIES, 0.0) | {"flip": (0.0, 0.0, 0.0)}
    if name == "flip":
        axes = [axis for axis, p in enumerate(config.flip) if p]
        ways = [replace(config, **off | {"flip": tuple(float(a == axis) for a in range(3))}) for axis in axes]
        return [draw(way, [CASE], seed=seed, epoch=0)[0] for way in ways]
    only = replace(config, **off | {name: 1.0})
    drawn = [draw(only, [CASE], seed=seed, epoch=epoch)[0] for epoch in range(_TRIES)]
    furthest = [max(drawn, key=distance) for distance in _DISTANCES[name]]
    if name == "cutout":  # the planes that are shown go through the middle
        furthest = [replace(change, cutout_at=(0.5, 0.5, 0.5)) for change in furthest]
    return list(dict.fromkeys(furthest))


def planes(sample: Float[Tensor, "c z y x"], window_hu: Range) -> tuple[Plane, Plane, Plane]:
    """The middle axial, coronal and sagittal plane, one pixel for each voxel, in radiological orientation: head up.

    Args:
        sample: HU, and the lungs where there is a second channel: their outline is yellow. The axes run feet to head,
            front to back, right to left.
        window_hu: HU of black and of white.
    """
    hu = sample[0].numpy()
    lungs = sample[1].numpy() > 0 if len(sample) > 1 else None
    z, y, x = (n // 2 for n in hu.shape)
    axial, coronal, sagittal = (
        grey(hu[at], window_hu) if lungs is None else _outlined(grey(hu[at], window_hu), lungs[at])
        for at in np.s_[z, (slice(None, None, -1), y), (slice(None, None, -1), slice(None), x)]
    )
    return axial, coronal, sagittal


def _outlined(plane: np.ndarray, mask: np.ndarray) -> Plane:
    picture = np.repeat(plane[..., None], 3, axis=-1)
    picture[outline(mask)] = FIELD_RGB
    return picture


def _training_view(sample: Volume, recipe: Recipe, seed: int) -> np.ndarray:
    """The input of the network in training, before any change."""
    if not recipe.sub_volumes:
        return channels(sample, recipe)
    return cut(sample, recipe, random_start(sample, recipe, generator(seed, 0, CASE, "sub-volume")))


def _facts(sample: Volume, recipe: Recipe, hu: Float[Tensor, "c z y x"]) -> str:
    """The prepared sample in one line; findings by code only, as their sentences may name files."""
    shape = hu.shape[1:]
    edge = ", its nearest voxels beyond the scan" if recipe.outside != "air" else ""
    extent = " x ".join(f"{n * step:.0f}" for n, step in zip(shape, sample.spacing_mm, strict=True))
    parts = [
        f"a point{edge}" if recipe.region == "point" else f"region {recipe.region}",
        " x ".join(map(str, shape)) + " voxels of " + " x ".join(f"{s:.3g}" for s in sample.spacing_mm),
        f"{extent} mm (z, y, x)",
    ]
    codes = sorted({finding.code for finding in sample.findings})
    return " · ".join(parts) + (f" · findings: {', '.join(codes)}" if codes else "")
