"""What a config does to a sample as one page to look at, before any network sees it."""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, TypeAlias

import numpy as np
import tomli_w
import torch
from jaxtyping import Float, UInt8
from jinja2 import Environment, StrictUndefined
from PIL import Image
from scipy import ndimage
from torch import Tensor

from hilum.modelling.augmenting.augment import apply
from hilum.modelling.augmenting.changes import Change, draw
from hilum.modelling.augmenting.spatial import smallest_jacobian
from hilum.planning.describe import in_words, settings_in_words
from hilum.preparing.lungs.overlay import FIELD_RGB
from hilum.preparing.subvolumes import channels, cut, random_start
from hilum.randomness import generator
from hilum.settings.augmentation import PROBABILITIES, AugmentConfig
from hilum.settings.presets import preset
from hilum.settings.recipe import Range, Recipe, Triple
from hilum.settings.toml import to_dict
from hilum.volume import Volume

CASE = "look"
"""The case whose changes are drawn: draw N is its epoch N."""

_TRIES = 200
"""Draws among which the furthest is looked for."""

_LUNG_HU = -850.0
"""Where a calibration that goes far is seen."""

Plane: TypeAlias = UInt8[np.ndarray, "_ _"] | UInt8[np.ndarray, "_ _ 3"]

_FURTHEST: dict[str, tuple[Callable[[Change], float], ...]] = {
    "extent": (lambda c: -float(np.prod(c.extent)),),
    "flip": (lambda c: 0.0,),
    "rotation": (lambda c: -float(np.trace(np.array(c.affine)[:, :3])),),
    "scaling": (
        lambda c: np.linalg.det(np.array(c.affine)[:, :3]),
        lambda c: -np.linalg.det(np.array(c.affine)[:, :3]),
    ),
    "translation": (lambda c: float(np.linalg.norm(np.array(c.affine)[:, 3])),),
    "shear": (lambda c: float(np.abs(np.array(c.affine)[:, :3]).sum()),),
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
"""What grows as a change goes further, in the order in which changes are done; two where it goes two ways."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A sample after a change, as the page shows it.

    Attributes:
        words: What was done, in words.
        differs_hu: Mean difference to the sample as it is, over all voxels.
        pictures: Axial, coronal and sagittal, PNG in base64.
    """

    words: list[str]
    differs_hu: float
    pictures: tuple[str, ...]


def page(sample: Volume, recipe: Recipe, config: AugmentConfig, *, number: int = 8, seed: int = 0) -> str:
    """One self-contained HTML page; nothing is loaded from anywhere, and nothing of the scan is named.

    It shows the sample as it is and ``number`` draws, then each change of the config alone, nearly as far as it goes.

    Args:
        sample: Prepared with the recipe; with ``sub_volumes`` one grid of it is shown.
        recipe: Of the sample.
        config: What may happen.
        number: Of draws.
        seed: Of the draws.

    Raises:
        ConfigError: If the config would destroy what the recipe's region is looked at for.
    """
    config.check_for(recipe)
    hu = torch.from_numpy(_seen(sample, recipe, seed)).float()
    look = _Look(hu=hu, spacing_mm=sample.spacing_mm, recipe=recipe)
    settings = settings_in_words(config)
    epochs = range(1, number + 1)
    draws = [look.card(draw(config, [CASE], seed=seed, epoch=epoch)[0]) for epoch in epochs]
    alone = [
        (setting, [look.card(change) for change in alone_at_its_furthest(config, setting.name, seed=seed)])
        for setting in settings
        if setting.name in _FURTHEST
    ]
    z, y, x = look.extent_mm
    template = files("hilum.modelling").joinpath("looking.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    return environment.from_string(template).render(
        facts=_facts(sample, recipe, look),
        preset=_preset_in_words(config, recipe),
        settings=settings,
        window=f"{recipe.windows[0][0]:g} to {recipe.windows[0][1]:g} HU",
        has_lungs=len(hu) > 1,
        seed=seed,
        case=CASE,
        as_it_is=[_png(plane) for plane in planes(hu, recipe.windows[0])],
        tries=_TRIES,
        draws=draws,
        alone=alone,
        mixes=[setting.name for setting in settings if setting.name not in _FURTHEST],
        planes=[("axial", x, y), ("coronal", x, z), ("sagittal", y, z)],
        toml=tomli_w.dumps({"recipe": to_dict(recipe), "augment": to_dict(config)}),
    )


def alone_at_its_furthest(config: AugmentConfig, name: str, *, seed: int) -> list[Change]:
    """Changes in which only one of a config's happens, nearly as far as it goes: the furthest of many draws.

    Args:
        config: Its ranges are drawn from.
        name: A setting that is a probability, or ``flip``.
        seed: Of the draws.

    Returns:
        One change, or two that go opposite ways; for flips one for each axis. A box that is cut out is in the middle.
    """
    off: dict[str, Any] = dict.fromkeys(PROBABILITIES, 0.0) | {"flip": (0.0, 0.0, 0.0)}
    if name == "flip":
        axes = [axis for axis, p in enumerate(config.flip) if p]
        ways = [replace(config, **off | {"flip": tuple(float(a == axis) for a in range(3))}) for axis in axes]
        return [draw(way, [CASE], seed=seed, epoch=0)[0] for way in ways]
    only = replace(config, **off | {name: 1.0})
    drawn = [draw(only, [CASE], seed=seed, epoch=epoch)[0] for epoch in range(_TRIES)]
    furthest = [max(drawn, key=far) for far in _FURTHEST[name]]
    if name == "cutout":  # wherever a box is drawn, it is looked at where the planes are
        furthest = [replace(change, cutout_at=(0.5, 0.5, 0.5)) for change in furthest]
    return list(dict.fromkeys(furthest))


def planes(sample: Float[Tensor, "c z y x"], window_hu: Range) -> tuple[Plane, Plane, Plane]:
    """The middle axial, coronal and sagittal plane, a pixel for each voxel, as radiologists see them: head up.

    Args:
        sample: HU, and the lungs where there is a second channel: their outline is yellow. The axes run feet to head,
            front to back, right to left.
        window_hu: HU of black and of white.
    """
    low, high = window_hu
    grey = ((sample[0] - low) / (high - low)).clamp(0, 1).mul(255).round().to(torch.uint8).numpy()
    lungs = sample[1].numpy() > 0 if len(sample) > 1 else None
    z, y, x = (n // 2 for n in grey.shape)
    axial, coronal, sagittal = (
        grey[at] if lungs is None else _outlined(grey[at], lungs[at])
        for at in np.s_[z, (slice(None, None, -1), y), (slice(None, None, -1), slice(None), x)]
    )
    return axial, coronal, sagittal


def _outlined(grey: np.ndarray, mask: np.ndarray) -> Plane:
    picture = np.repeat(grey[..., None], 3, axis=-1)
    picture[mask & ~ndimage.binary_erosion(mask, border_value=1)] = FIELD_RGB
    return picture


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    """A sample and how it is shown."""

    hu: Float[Tensor, "c z y x"]
    spacing_mm: Triple
    recipe: Recipe

    @property
    def shape(self) -> tuple[int, int, int]:
        _, z, y, x = self.hu.shape
        return z, y, x

    @property
    def extent_mm(self) -> Triple:
        z, y, x = (n * step for n, step in zip(self.shape, self.spacing_mm, strict=True))
        return z, y, x

    def card(self, change: Change) -> Card:
        changed = apply(self.hu[None], [change], np.array([self.spacing_mm]), self.recipe)[0]
        words = in_words(change, self.shape, self.spacing_mm)
        if change.elastic_mm:
            least = smallest_jacobian(change, self.shape, self.spacing_mm)
            words.append(f"smallest Jacobian {least:.2f}")
        return Card(
            words=words,
            differs_hu=float((changed[0] - self.hu[0]).abs().mean()),
            pictures=tuple(_png(plane) for plane in planes(changed, self.recipe.windows[0])),
        )


def _seen(sample: Volume, recipe: Recipe, seed: int) -> np.ndarray:
    """What the network would see of a sample in training."""
    if not recipe.sub_volumes:
        return channels(sample, recipe)
    return cut(sample, recipe, random_start(sample, recipe, generator(seed, 0, CASE, "sub-volume")))


def _facts(sample: Volume, recipe: Recipe, look: _Look) -> str:
    """What was prepared, in one line; findings by their codes alone, as their sentences may name files."""
    region = f"a point{'' if recipe.outside == 'air' else ', its nearest voxels beyond the scan'}"
    parts = [
        f"region {recipe.region}" if recipe.region != "point" else region,
        " x ".join(map(str, look.shape)) + " voxels of " + " x ".join(f"{s:.3g}" for s in look.spacing_mm),
        " x ".join(f"{mm:.0f}" for mm in look.extent_mm) + " mm (z, y, x)",
    ]
    codes = sorted({finding.code for finding in sample.findings})
    return " · ".join(parts) + (f" · findings: {', '.join(codes)}" if codes else "")


def _preset_in_words(config: AugmentConfig, recipe: Recipe) -> str:
    return f"preset {config.preset}{'' if config == preset(config.preset, recipe) else ', changed'}"


def _png(plane: Plane) -> str:
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(plane)).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")
