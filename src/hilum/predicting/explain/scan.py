"""Explains the prediction for one scan: reads it, makes maps, locates and tests them, and writes the folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from hilum.arrays import ArrayLike
from hilum.errors import GeometryError, PrepareError
from hilum.files import user_path
from hilum.predicting.explain.check import SanityCheck, check_map
from hilum.predicting.explain.explainer import check_outputs, explain, maps_of, odds_of_sample
from hilum.predicting.explain.folder import Explained, check_explanation_folder, write_explanation
from hilum.predicting.explain.heat_map import HeatMap
from hilum.predicting.explain.location import locate, places_of
from hilum.predicting.explain.occlusion import patch_of
from hilum.predicting.explain.progress import progress_bar
from hilum.predicting.explain.sample_odds import SampleOdds
from hilum.predicting.predictor import Predictor
from hilum.preparing.lungs.masks import read_lungs
from hilum.reading.reader import read
from hilum.settings.explain import ExplainConfig
from hilum.volume import Volume


def explain_scan(
    model: str | Path,
    scan: str | Path,
    out: str | Path,
    *,
    outputs: Sequence[str] = (),
    config: ExplainConfig = ExplainConfig(),  # noqa: B008  # frozen
    check: bool = False,
    point_mm: ArrayLike | None = None,
    series: str = "",
    mask: str | Path | None = None,
    device: str = "auto",
    show_progress: bool = False,
) -> dict[str, Any]:
    """Explain the prediction of a model for one scan, and write it to a folder.

    Args:
        model: A model folder, or the run folder around it.
        scan: A path that ``read`` accepts, or a prepared ``.npy`` volume, whose maps are on the model's grid.
        out: The folder; see ``write_explanation``.
        outputs: Names of classes or labels; see ``explain``.
        config: How the maps are made.
        check: Test each map by deletion, insertion and lost weights.
        point_mm: LPS mm (x, y, z), for models of region ``point``.
        series: The series to read, if the folder holds several.
        mask: File of a lung mask, for models that need the lungs.
        device: Device of the network.
        show_progress: Show a bar where occlusion or a test takes longer than two seconds.

    Returns:
        The content of explanation.json.

    Raises:
        HilumError: If the model, the scan or a setting is not usable, or the folder cannot be written.
    """
    check_explanation_folder(user_path(out), [user_path(one) for one in (scan, mask, model) if one is not None])
    predictor = Predictor(model, device=device)
    check_outputs(outputs, predictor.card.classes)
    volume, sample = _read(predictor, user_path(scan), point_mm, series, mask)
    prediction = predictor.predict_samples([sample])[0]
    with progress_bar(show_progress) as progress:
        heat_maps = explain(predictor, sample, outputs, config, progress=progress)
    places = None
    if volume is not sample:
        given = read_lungs(user_path(mask), volume) if mask is not None else None
        places = places_of(volume, sample, given)
    explained = [
        Explained(
            heat_map=one,
            location=None if places is None else locate(one, places),
            check=_checked(predictor, sample, one, config, show_progress) if check else None,
        )
        for one in heat_maps
    ]
    return write_explanation(out, volume, explained, prediction, predictor.card.version)


def _read(
    predictor: Predictor, path: Path, point_mm: Any, series: str, mask: str | Path | None
) -> tuple[Volume, Volume]:
    """The scan in its own geometry, and the sample prepared from it; of a prepared volume both are the same."""
    if path.suffix.lower() == ".npy":
        sample = predictor.prepare(path, point_mm=point_mm, series=series, mask=mask)
        return sample, sample
    volume = read(path, series=series or None, reading=predictor.card.reading)
    try:
        return volume, predictor.prepare(volume, point_mm=point_mm, mask=mask)
    except (GeometryError, PrepareError) as exc:
        exc.path = exc.path or path
        raise


def _checked(
    predictor: Predictor, sample: Volume, heat_map: HeatMap, config: ExplainConfig, show_progress: bool
) -> SanityCheck:
    sample_odds = odds_of_sample(predictor, sample, [heat_map.output])

    def map_of(other: SampleOdds) -> Float32[np.ndarray, "z y x"]:
        values, _ = maps_of(other, predictor.card, sample.spacing_mm, config)
        return np.asarray(values[0].mean(axis=0))

    patch_mm = config.patch_mm or patch_of(predictor.card.recipe.size, sample.spacing_mm)
    with predictor.within_memory("testing a map"), progress_bar(show_progress, "testing the map", "steps") as progress:
        return check_map(sample_odds, heat_map.values, map_of, patch_mm, sample.spacing_mm, progress=progress)
