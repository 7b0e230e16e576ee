"""The rows of benchmarks/augment.py: one way each to make the tutorial's seven changes to a batch.

What is on is given; how far it goes each row draws itself, within the tutorial's ranges. TorchIO and MONAI go their
fastest way that was found: no copies, no metadata, an affine step and then an elastic one. The rows "one step" are the
one resampling that each has for both. Brightness and contrast are one multiplication in place for both.
"""

import importlib.util
import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from machine import DATA

from hilum import Recipe
from hilum.modelling.augmenting.augment import apply
from hilum.modelling.augmenting.changes import draw
from hilum.settings.augmentation import AugmentConfig
from hilum.settings.presets import preset

EDGE, LOW, HIGH = 128, -1000.0, 400.0
RECIPE = Recipe(region="lungs", size=(EDGE, EDGE, EDGE), fit="region")

CHANGES = {
    "rotation": 0.5, "scaling": 0.5, "shift": 0.5, "noise": 0.3, "brightness": 0.3, "contrast": 0.3, "elastic": 0.2
}  # fmt: skip
"""The tutorial's, with its probabilities."""

SPATIAL = ("rotation", "scaling", "shift")

On = frozenset[str]
Row = Callable[[On, int], list[Any]]
"""What is on, and the draw's number, to a volume for each sample of the batch that the row was made with."""


def _hilum(hu: torch.Tensor, spacing_mm: Any) -> Row:
    case_ids = [f"case-{i}" for i in range(len(hu))]
    steps = np.tile(np.array(spacing_mm, np.float64), (len(hu), 1))
    return lambda on, number: list(
        apply(hu, draw(_config(on), case_ids, seed=0, epoch=number), steps, RECIPE).unbind(0)
    )


@cache
def _config(on: On) -> AugmentConfig:
    """The preset tutorial with these changes and no others."""
    config = preset("tutorial", RECIPE)
    names = dict(
        zip(CHANGES, ("rotation", "scaling", "translation", "noise", "level", "width", "elastic"), strict=True)
    )
    assert all(getattr(config, ours) == CHANGES[theirs] for theirs, ours in names.items())
    return replace(config, **{ours: float(theirs in on) for theirs, ours in names.items()})


def _tutorial(hu: torch.Tensor, spacing_mm: Any) -> Row:  # it counts in voxels
    spec = importlib.util.spec_from_file_location("tutorial", DATA.parent / "baseline" / "tutorial.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    volumes = list(unit_of(hu)[:, 0].numpy())

    def run(on: On, number: int) -> list[Any]:
        names = dict(
            zip(CHANGES, ("rotation", "scale", "shift", "noise", "brightness", "contrast", "elastic"), strict=True)
        )
        change = module.CTAugmentation3D(**{f"p_{theirs}": float(ours in on) for ours, theirs in names.items()})
        np.random.seed(number)  # noqa: NPY002
        return [change(volume) for volume in volumes]

    return run


def _torchio(hu: torch.Tensor, spacing_mm: Any, *, one_step: bool = False) -> Row:
    import torchio as t

    unit, voxels_to_mm = unit_of(hu), np.diag([*spacing_mm, 1.0])
    bending = {"num_control_points": 5, "max_displacement": 13.0, "locked_borders": 0}
    elastic, noise = t.RandomElasticDeformation(**bending, copy=False), t.RandomNoise(std=(0.05, 0.05), copy=False)

    @cache
    def affine(on: On) -> dict[str, Any]:
        return {
            "scales": (0.9, 1.1) if "scaling" in on else (1.0, 1.0),
            "degrees": 10.0 if "rotation" in on else 0.0,
            "translation": 5 * spacing_mm[0] if "shift" in on else 0.0,
            "isotropic": True,
            "default_pad_value": 0.0,
        }

    @cache
    def steps(on: On) -> list[Any]:
        moved = not on.isdisjoint(SPATIAL)
        if one_step and moved and "elastic" in on:
            found = [t.RandomAffineElasticDeformation(affine_kwargs=affine(on), elastic_kwargs=bending, copy=False)]
        else:
            found = ([t.RandomAffine(**affine(on), copy=False)] if moved else []) + [elastic] * ("elastic" in on)
        return found + [noise] * ("noise" in on)

    def run(on: On, number: int) -> list[Any]:
        torch.manual_seed(number)
        random = np.random.default_rng(number)
        done = []
        for sample in unit:
            image = t.ScalarImage(tensor=sample, affine=voxels_to_mm)
            for step in steps(on):
                image = step(image)
            done.append(_windowed(image.data, on, random))
        return done

    return run


def _monai(hu: torch.Tensor, spacing_mm: Any, *, one_step: bool = False) -> Row:  # it counts in voxels
    from monai import transforms as t
    from monai.data import set_track_meta

    set_track_meta(False)
    unit, shape = unit_of(hu), tuple(hu.shape[2:])
    noise = t.RandGaussianNoise(prob=1.0, std=0.05, sample_std=False)
    elastic = t.RandSmoothDeform(
        shape,
        (5, 5, 5),
        prob=1.0,
        def_range=0.08,
        field_mode="trilinear",
        grid_mode="bilinear",
        grid_dtype=torch.float32,
    )

    def params(on: On, random: np.random.Generator) -> dict[str, Any]:
        angles, shifts = random.uniform(-math.radians(10), math.radians(10), 3), random.uniform(-5, 5, 3)
        return {
            "rotate_params": angles.tolist() if "rotation" in on else None,
            "translate_params": shifts.tolist() if "shift" in on else None,
            "scale_params": [random.uniform(0.9, 1.1)] * 3 if "scaling" in on else None,
        }

    @cache
    def both(on: On) -> Any:
        far = 3 / 0.577 * (2 * math.sqrt(math.pi) * 8) ** 1.5  # a standard deviation of 3 voxels after the Gaussian
        return t.Rand3DElastic(
            (8, 8), (far, far), prob=1.0, padding_mode="zeros",
            rotate_range=[math.radians(10)] * 3 if "rotation" in on else None,
            translate_range=[5] * 3 if "shift" in on else None,
            scale_range=[0.1] * 3 if "scaling" in on else None,
        )  # fmt: skip

    def run(on: On, number: int) -> list[Any]:
        random = np.random.default_rng(number)
        done = []
        for i, x in enumerate(unit):
            moved = not on.isdisjoint(SPATIAL)
            if one_step and moved and "elastic" in on:
                x = both(on).set_random_state(number + i)(x)
            else:
                x = t.Affine(**params(on, random), padding_mode="zeros", image_only=True)(x) if moved else x
                x = elastic.set_random_state(number + i)(x) if "elastic" in on else x
            x = noise.set_random_state(number + i)(x) if "noise" in on else x
            done.append(_windowed(x, on, random))
        return done

    return run


def unit_of(hu: torch.Tensor) -> torch.Tensor:
    """In [0, 1] within the window, as all but Hilum take it."""
    return ((hu - LOW) / (HIGH - LOW)).clamp_(0, 1)


def _windowed(x: torch.Tensor, on: On, random: np.random.Generator) -> torch.Tensor:
    """Brightness and contrast about the middle at once, and the range kept, as Lambda would do it."""
    if on.isdisjoint(("noise", "brightness", "contrast")):
        return x
    bright = random.uniform(0.9, 1.1) if "brightness" in on else 1.0
    wide = random.uniform(0.9, 1.1) if "contrast" in on else 1.0
    return x.mul(bright * wide).add_(0.5 * (1 - wide)).clamp_(0, 1)


ROWS: dict[str, Callable[[torch.Tensor, Any], Row]] = {
    "hilum": _hilum,
    "tutorial": _tutorial,
    "torchio": _torchio,
    "monai": _monai,
    "torchio, one step": lambda hu, mm: _torchio(hu, mm, one_step=True),
    "monai, one step": lambda hu, mm: _monai(hu, mm, one_step=True),
}
