"""Plans the settings of a run for a cohort without a config, each with its reason."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from hilum.cohorts.table import Cohort
from hilum.planning.advise import choose_loss
from hilum.planning.classes import ClassTable, class_table
from hilum.planning.fingerprint import Fingerprint, fingerprint
from hilum.planning.memory_fit import fit_into_memory, usable_bytes
from hilum.preparing.grid_placement import PART_NAMES
from hilum.settings.presets import preset
from hilum.settings.run import LossConfig, ModelConfig, Recipe, RunConfig, TrainingConfig

_VOXELS_CPU = 64 * 64 * 64
_VOXELS_GPU = 128 * 128 * 128
"""Voxels of a planned grid; rules of thumb for what a CPU or a GPU trains on in hours."""

_POINT_MM = 40.0
"""Edge of the box around a point: it holds a nodule, at most 30 mm by definition, with its surroundings."""

_CROP_MM = 100.0
"""Scans smaller than this along every axis are crops around a lesion: a chest is larger."""

_SUB_VOLUME_MM = 1.5
"""Spacing of sub-volumes, unless it is given; a rule of thumb."""

_LEAST_VOXELS = 4.0
"""Voxels in the plane that a target should span; a rule of thumb."""

_STEPS = 400
"""Training steps of a planned run, within 20 to 100 epochs: the demo's chests have learned all they do after a quarter
of 1000 (benchmarks/steadiness.py), LIDC nodules after 520."""

_SMALL_GRID = 48
"""Smaller grids get the small stem: the full one leaves a few voxels in the last stage."""

_WHY_STANDARD = {
    "point": "flips and rotations, for a lesion has no side; its size is kept within 3 %",
    "chest": "small rotations, shifts and noise; no flips, for the heart has a side",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Planned settings.

    Attributes:
        config: All settings.
        reasons: A sentence for each choice.
        warnings: Problems that no setting solves.
    """

    config: RunConfig
    reasons: tuple[str, ...]
    warnings: tuple[str, ...]


def draft(cohort: Cohort, config: RunConfig) -> RunConfig:
    """The settings with the region that the table suggests: a point if it has points, else the lungs."""
    region: Literal["point", "lungs"] = "point" if any(case.point_mm for case in cohort.cases) else "lungs"
    return replace(config, recipe=replace(config.recipe, region=region))


def plan(cohort: Cohort, config: RunConfig, *, gpu: bool = False) -> Plan:
    """Plan a run from its table and a dozen of its scans.

    Args:
        cohort: The cases.
        config: Its cohort, split, sampling, head and decision sections are kept, as are a loss that is not cross
            entropy and the given settings of its recipe; the rest is planned.
        gpu: Whether there is a GPU to train on.
    """
    found = fingerprint(cohort, config.recipe.part, config.reading)
    reasons: list[str] = []
    warnings: list[str] = []
    recipe = _recipe(found, config.recipe, _VOXELS_GPU if gpu else _VOXELS_CPU, reasons)
    table = class_table(cohort, config.split)
    small = min(recipe.size[1:]) < _SMALL_GRID or min(recipe.size) < _SMALL_GRID // 3
    model = ModelConfig(depth=18, width=64 if gpu else 16, stem="small" if small else "full")
    reasons.append(
        f"model: ResNet-18, width {model.width} ({'GPU' if gpu else 'CPU'}), {model.stem} stem for this grid"
    )
    batch = 16 if math.prod(recipe.size) <= _VOXELS_CPU else 8
    steps = math.ceil(0.7 * found.num_cases / batch)
    epochs = int(np.clip(round(_STEPS / steps), 20, 100))
    training = TrainingConfig(epochs=epochs, batch_size=batch, schedule="one-cycle", keep="best", stop_patience=0)
    reasons.append(f"training: {epochs} epochs of about {steps} batches of {batch}, {epochs * steps} steps in all")
    planned = replace(config, recipe=recipe, model=model, training=training)
    planned = replace(planned, training=_that_fits(planned, len(cohort.classes), gpu, reasons, warnings))
    loss = _loss(table, planned, reasons)
    augment = preset(config.augment.preset, recipe)
    why = _WHY_STANDARD["point" if recipe.region == "point" else "chest"]
    reasons.append(f"augment: {why}" if augment.preset == "standard" else f"augment: {augment.preset}, as given")
    reasons.append(f"sample size: {table.sample_size()}")
    warnings.extend(table.warnings())
    if found.target_mm and recipe.fit == "fixed":
        spanned = found.target_mm / max(recipe.grid_spacing_mm[1:])
        if spanned < _LEAST_VOXELS:
            warnings.append(
                f"the median target of {found.target_mm:.1f} mm spans {spanned:.1f} voxels in the plane; "
                f"under {_LEAST_VOXELS:g} it can hardly be seen. Use region point, or a finer recipe.spacing_mm"
            )
    return Plan(config=replace(planned, augment=augment, loss=loss), reasons=tuple(reasons), warnings=tuple(warnings))


def _loss(table: ClassTable, config: RunConfig, reasons: list[str]) -> LossConfig:
    """The loss that ``hilum advise`` chooses for the table; a given one is kept."""
    choice = choose_loss(table, config)
    if config.loss.name == "auto":
        reasons.append(f"loss: auto, by the training part when the run begins; of the whole table {choice.reason}")
        return config.loss
    if config.loss.name != "cross-entropy":
        reasons.append(f"loss: {config.loss.name}, as given")
        return config.loss
    reasons.append(f"loss: {choice.reason}")
    return choice.loss


def _that_fits(
    config: RunConfig, num_classes: int, gpu: bool, reasons: list[str], warnings: list[str]
) -> TrainingConfig:
    """Training settings with a micro batch that fits into memory, in float32, which takes more than bfloat16."""
    if gpu and not torch.cuda.is_available():
        return config.training
    limit = usable_bytes(torch.device("cuda" if gpu else "cpu"))
    if limit is None:
        return config.training
    fits = fit_into_memory(config, num_classes, limit)
    if fits is None:
        warnings.append(f"training does not fit into {limit / 1e9:.1f} GB; take a coarser recipe or a smaller width")
        return config.training
    if fits.training != config.training:
        twice = " and blocks computed twice" if fits.training.checkpointing else ""
        at_once = fits.at_once(fits.training.batch_size)
        reasons.append(f"memory: {at_once} cases at a time{twice}, for {limit / 1e9:.1f} GB may be used")
    return fits.training


def _recipe(found: Fingerprint, given: Recipe, budget: int, reasons: list[str]) -> Recipe:
    """The box of the region, as fine as the budget of voxels allows; given settings are kept."""
    if found.npy_size is not None:
        reasons.append(f"recipe: .npy volumes of {found.npy_size} are taken as they are; their spacing is not known")
        return replace(given, region="whole", size=found.npy_size, spacing_mm=(1.0, 1.0, 1.0), extent_mm=None)
    if given.fit == "region":
        what = PART_NAMES[given.part] if given.part else "scan"
        reasons.append(f"recipe: one scale for each case, at which its {what} just fit {given.size} voxels, as given")
        return given
    if given.sub_volumes:
        reasons.append(f"recipe: sub-volumes of {given.size} voxels, as given")
        return given if given.spacing_mm or given.extent_mm else replace(given, spacing_mm=(_SUB_VOLUME_MM,) * 3)
    if given.region == "point":
        return _point_recipe(found, given, reasons)
    if given.extent_mm is not None:
        extent, what = np.array(given.extent_mm), "a box as given"
    elif given.part is not None and len(found.lungs_mm):
        extent, what = np.quantile(found.lungs_mm, 0.9, axis=0) * 1.05, f"the {PART_NAMES[given.part]} of 9 scans in 10"
    else:
        extent, what = np.quantile(found.extents_mm, 0.9, axis=0), "9 scans in 10"
    finest = max(1.0, math.ceil(2 * (float(np.prod(extent)) / budget) ** (1 / 3)) / 2)
    spacing = given.spacing_mm or (finest, finest, finest)
    size = given.size if given.size != Recipe().size else _size(extent, spacing)
    box = " x ".join(f"{e:.0f}" for e in extent)
    step = " x ".join(f"{s:g}" for s in spacing)
    reasons.append(f"recipe: {what} fit into {box} mm (z, y, x); at {step} mm that is {size} voxels")
    if given.extent_mm is not None:
        return replace(given, size=size)
    return replace(given, size=size, spacing_mm=spacing)


def _point_recipe(found: Fingerprint, given: Recipe, reasons: list[str]) -> Recipe:
    """A cube around the point; of crops no more than nearly all of them contain."""
    extent = np.array(given.extent_mm) if given.extent_mm is not None else np.full(3, _POINT_MM)
    shortest = np.quantile(found.extents_mm, 0.1, axis=0)
    crops = bool(np.all(np.median(found.extents_mm, axis=0) < _CROP_MM))
    if given.extent_mm is None and crops and np.any(shortest < extent):
        extent = np.floor(np.minimum(extent, shortest))
        reasons.append(
            f"recipe: the scans are crops; the box of {' x '.join(f'{e:g}' for e in extent)} mm (z, y, x) is inside "
            "9 of 10 of them, so that the network cannot learn from where a crop ends"
        )
    else:
        reasons.append(f"recipe: a box of {' x '.join(f'{e:g}' for e in extent)} mm (z, y, x) around each point")
    assert found.spacing_mm is not None  # there are scans, or npy_size would be set  # noqa: S101
    in_plane = max(0.65, min(1.0, round(found.spacing_mm[1], 2)))
    spacing = given.spacing_mm or (max(in_plane, min(found.spacing_mm[0], 1.25)), in_plane, in_plane)
    z, y, x = (max(2, round(e / s)) for e, s in zip(extent.tolist(), spacing, strict=True))
    size = given.size if given.size != Recipe().size else (z, y, x)
    if given.spacing_mm is not None:
        return replace(given, size=size, outside="edge")
    z_mm, y_mm, x_mm = extent.tolist()
    return replace(given, size=size, extent_mm=(z_mm, y_mm, x_mm), outside="edge")


def _size(extent: np.ndarray, spacing: tuple[float, float, float]) -> tuple[int, int, int]:
    """Voxels that cover an extent, a multiple of 8 where that is not much more."""
    z, y, x = (max(8, 8 * math.ceil(e / s / 8 - 0.1)) for e, s in zip(extent, spacing, strict=True))
    return z, y, x
