"""The process of one device: it holds the models, and asks them about prepared samples, one after the other."""

from collections.abc import Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path

from hilum.errors import HilumError
from hilum.files import cores
from hilum.predicting.explain.ask import ModelAnswer, ask
from hilum.predicting.predictor import Predictor
from hilum.settings.explain import ExplainConfig
from hilum.volume import Volume

READY = "ready"


def run_networks(
    connection: Connection, models: Mapping[str, Path], names: Mapping[str, Sequence[str]], device: str
) -> None:
    """Load models, say that they are ready, and answer for ever.

    A question is the name of a model, a prepared sample and how maps are made, if at all; the answer is a
    ``ModelAnswer``, or the code and the words of an error.

    Args:
        connection: Where questions come from.
        models: Folder of each model, by its name.
        names: Names of the outputs of models that are not called by their own.
        device: The device.
    """
    import torch

    if device == "cpu":
        torch.set_num_threads(max(1, cores() // 2))
    predictors = {name: Predictor(folder, device=device).named(names.get(name, ())) for name, folder in models.items()}
    connection.send(READY)
    while True:
        connection.send(_answer(predictors, *connection.recv()))


def _answer(
    predictors: Mapping[str, Predictor], model: str, sample: Volume, config: ExplainConfig | None
) -> ModelAnswer | tuple[str, str]:
    try:
        return ask(predictors[model], sample, config)
    except HilumError as exc:
        return exc.code or "model", exc.message
