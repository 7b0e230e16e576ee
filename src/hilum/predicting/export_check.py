"""Compares the probabilities of an exported file with those of its model."""

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from hilum.deciding.model_folder import ModelCard
from hilum.errors import CheckpointError
from hilum.modelling.ensemble import Network
from hilum.modelling.input import model_input
from hilum.settings.recipe import Recipe

INPUT, OUTPUT = "hu", "probabilities"
"""Names of input and output in the file."""

CHECKED = (1, 2)
"""Batch sizes of the check."""

_TINY = 1e-30
"""Lower limit of probabilities in logarithms; the smallest normal float32 is 1e-38."""


@torch.inference_mode()
def largest_difference(file: Path, network: Network, card: ModelCard) -> float:
    """Largest difference between a file's probabilities and a model's, on random HU in batches of 1 and 2.

    It is that of a probability p, or of log p relative to 1 + |log p|: on noise p is often close to 0 or 1, and would
    hide differences.

    Args:
        file: ONNX or pt2.
        network: In evaluation mode, on the CPU.
        card: Card of the network.

    Raises:
        CheckpointError: If the model's own probabilities are not finite.
    """
    recipe, random = card.recipe, torch.Generator().manual_seed(0)
    low, high = min(w[0] for w in recipe.windows), max(w[1] for w in recipe.windows)
    run = runner(file)
    worst = 0.0
    for batch in CHECKED:
        hu = torch.rand((batch, *case_shape(recipe)), generator=random)
        hu[:, :1] = low + (high - low) * hu[:, :1]
        hu[:, 1:].round_()
        logits = network(model_input(hu, recipe.windows))
        expected = card.decisions.probabilities(logits.double().numpy())
        if not np.isfinite(expected).all():
            msg = "the network's output must be finite; the weights of this model are damaged"
            raise CheckpointError(msg)
        got = run(hu)
        if got.shape != expected.shape or not np.isfinite(got).all():
            return np.inf
        log_got, log_expected = (np.log(np.maximum(p, _TINY)) for p in (got.astype(np.float64), expected))
        of_logarithm = np.abs(log_got - log_expected) / (1 - log_expected)
        worst = max(worst, float(np.abs(got - expected).max()), float(of_logarithm.max()))
    return worst


def case_shape(recipe: Recipe) -> tuple[int, ...]:
    """Channels and grid of the file's input."""
    return (1 + recipe.lung_channel, *recipe.size)


def runner(file: Path) -> Callable[[Tensor], np.ndarray]:
    """Load an exported file (.onnx or .pt2) as a function from HU to probabilities."""
    if file.suffix == ".onnx":
        onnxruntime = importlib.import_module("onnxruntime")
        with _memory_of_onnx():
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 4  # all that it logs is raised too
            session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

        def run(hu: Tensor) -> np.ndarray:
            with _memory_of_onnx():
                return np.asarray(session.run([OUTPUT], {INPUT: hu.numpy()})[0])

        return run
    with quiet():
        module = torch.export.load(file).module()
    return lambda hu: np.asarray(module(hu))


@contextmanager
def _memory_of_onnx() -> Iterator[None]:
    """Turn ONNX Runtime's own exceptions about a lack of memory into MemoryError."""
    try:
        yield
    except Exception as exc:
        if "allocat" in str(exc) or "bad_alloc" in str(exc):
            raise MemoryError from exc
        raise


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings of PyTorch's exporters about themselves."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
