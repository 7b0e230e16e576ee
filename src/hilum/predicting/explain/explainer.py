"""Makes maps of a prepared sample, one for each output that is asked for, by one method."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32

from hilum.cohorts.dataset import as_sample
from hilum.deciding.model_folder import ModelCard
from hilum.errors import require
from hilum.modelling.ensemble import Network
from hilum.predicting.explain.gradients import INTEGRATION_STEPS, activation_maps, integrated_gradients, usual_stage
from hilum.predicting.explain.heat_map import HeatMap
from hilum.predicting.explain.occlusion import occlude, patch_of
from hilum.predicting.explain.sample_odds import SampleOdds
from hilum.predicting.predictor import Predictor
from hilum.settings.explain import ExplainConfig
from hilum.settings.recipe import Triple
from hilum.volume import AIR_HU, Volume

_PATCHES = 4
"""How much smaller or larger than by default the cubes of occlusion may be: up to half of the box."""


def explain(
    predictor: Predictor,
    sample: Volume,
    outputs: Sequence[str] = (),
    config: ExplainConfig = ExplainConfig(),  # noqa: B008  # frozen
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[HeatMap, ...]:
    """Map what each part of a prepared sample adds to the log odds of outputs.

    Args:
        predictor: The model.
        sample: From ``Predictor.prepare``.
        outputs: Names of classes or labels; empty: the second of two classes, the most probable of more classes, or
            every label.
        config: How.
        progress: Called by occlusion with the number of cubes that are done, and of all as far as known.

    Returns:
        A map for each output.

    Raises:
        ConfigError: If an output is unknown.
        ResourceError: If memory does not suffice.
    """
    with predictor.within_memory("explaining a scan"):
        names = tuple(outputs) or _default_outputs(predictor, sample)
        sample_odds = odds_of_sample(predictor, sample, names)
        each, settings = maps_of(sample_odds, predictor.card, sample.spacing_mm, config, progress=progress)
        odds = sample_odds.of_grids(sample_odds.whole()).mean(axis=0)
    return tuple(
        HeatMap(
            values=members.mean(axis=0),
            spread=members.std(axis=0) if len(members) > 1 else None,
            affine=sample.affine,
            output=name,
            method=config.method,
            settings=about,
            log_odds=float(value),
        )
        for members, about, name, value in zip(each, settings, names, odds, strict=True)
    )


def check_outputs(outputs: Sequence[str], classes: Sequence[str]) -> None:
    """Raise a ConfigError if an output is not one of the classes, or is named twice."""
    for name in outputs:
        require(name in classes, "an output", f"one of {', '.join(classes)}", repr(name))
    require(len(set(outputs)) == len(outputs), "outputs", "distinct", ", ".join(outputs))


def odds_of_sample(
    predictor: Predictor, sample: Volume, outputs: Sequence[str], network: Network | None = None
) -> SampleOdds:
    """The log odds of outputs for a sample; by another network of the same input and outputs, if one is given.

    Raises:
        ConfigError: If an output is unknown.
    """
    card = predictor.card
    check_outputs(outputs, card.classes)
    case = as_sample(sample, card.recipe)
    return SampleOdds(
        network=predictor.network if network is None else network,
        hu=case["hu"],
        starts=[(z, y, x) for z, y, x in case["starts"].tolist()],
        recipe=card.recipe,
        outputs=tuple(card.classes.index(name) for name in outputs),
        multi_label=card.decisions.multi_label,
        device=predictor.device,
    )


def _default_outputs(predictor: Predictor, sample: Volume) -> tuple[str, ...]:
    classes = predictor.card.classes
    if predictor.card.decisions.multi_label:
        return classes
    if len(classes) == 2:
        return classes[1:]
    return (classes[int(predictor.logits([sample])[0].argmax())],)


def maps_of(
    sample_odds: SampleOdds,
    card: ModelCard,
    spacing_mm: Triple,
    config: ExplainConfig,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Float32[np.ndarray, "k m z y x"], Sequence[dict[str, Any]]]:
    """Maps by output and member, and the settings of each output's.

    Raises:
        ConfigError: If the maps of a stage have a single voxel along each axis, or the patch does not suit the box.
    """
    models = [one.model for one in card.members] or [card.model]
    usual_mm = patch_of(card.recipe.size, spacing_mm)
    patch_mm = config.patch_mm or usual_mm
    least, most = usual_mm / _PATCHES, usual_mm * _PATCHES
    require(least <= patch_mm <= most, "patch_mm", f"{least:.3g} to {most:.3g} for this model's box", patch_mm)
    if config.method == "occlusion":
        found = occlude(sample_odds, spacing_mm, patch_mm, progress=progress)
        return found.values, found.settings
    if config.method == "integrated-gradients":
        sigma_mm = patch_mm / 4
        values = integrated_gradients(sample_odds, models, smoothed_mm=sigma_mm, spacing_mm=spacing_mm)
        about = {"baseline": f"air ({AIR_HU} HU)", "steps": INTEGRATION_STEPS, "smoothed_mm": round(sigma_mm, 3)}
        return values, [about] * len(values)
    size = card.recipe.size
    stage = config.stage or min(usual_stage(model, size, spacing_mm) for model in models)
    for model in models:
        grid = model.grid_of(stage, size)
        require(max(grid) > 1, "stage", "one whose maps have more than one voxel", f"{stage}, which has one")
    values = activation_maps(sample_odds, models, config.method, stage)
    voxel_mm = [round(n * s, 3) for n, s in zip(models[0].stride_of(stage), spacing_mm, strict=True)]
    return values, [{"stage": stage, "voxel_mm": voxel_mm}] * len(values)
