"""Asks a model about a prepared sample: its prediction, and what that depends on."""

from dataclasses import dataclass

from hilum.cohorts.cells import NO_RESULT
from hilum.predicting.explain.explainer import explain
from hilum.predicting.explain.heat_map import HeatMap
from hilum.predicting.explain.progress import progress_bar
from hilum.predicting.predictor import Prediction, Predictor
from hilum.settings.explain import ExplainConfig
from hilum.volume import Volume


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ModelAnswer:
    """What a model says of a sample.

    Attributes:
        prediction: Its prediction.
        heat_maps: Its maps; empty where they were not asked for, or it has no result.
    """

    prediction: Prediction
    heat_maps: tuple[HeatMap, ...] = ()


def ask(
    predictor: Predictor, sample: Volume, config: ExplainConfig | None, *, show_progress: bool = False
) -> ModelAnswer:
    """The prediction of a model for a prepared sample, and its maps.

    Args:
        predictor: The model.
        sample: From ``Predictor.prepare``.
        config: How maps are made; None: none are.
        show_progress: Show a bar where a map takes longer than two seconds.
    """
    prediction = predictor.predict_samples([sample])[0]
    if config is None or prediction.outcome.kind == NO_RESULT:
        return ModelAnswer(prediction=prediction)
    with progress_bar(show_progress, "map") as progress:
        return ModelAnswer(
            prediction=prediction, heat_maps=explain(predictor, sample, config=config, progress=progress)
        )
