"""The model folder: weights and all that prediction needs to know about them, without pickle, ids or paths."""

import json
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from hilum.config import ModelConfig, Recipe
from hilum.configfile import from_dict, to_dict
from hilum.errors import CheckpointError, ConfigError
from hilum.modelling.resnet import ResNet3D

_WEIGHTS = "weights.safetensors"
_ABOUT = "model.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """What ``model.json`` holds.

    Attributes:
        model: The network.
        recipe: Its input.
        classes: Names of its outputs, in order.
        temperature: The logits are divided by it before the softmax.
        threshold: Of two classes: positive is a probability of the second at or above it.
        threshold_rule: The sentence that says how it was chosen.
        training: The training card: settings, numbers of cases and patients, validation figures.
        version: Of Hilum.
    """

    model: ModelConfig
    recipe: Recipe
    classes: tuple[str, ...]
    temperature: float = 1.0
    threshold: float | None = None
    threshold_rule: str = ""
    training: dict[str, Any]
    version: str = ""


def build(config: ModelConfig, recipe: Recipe, num_classes: int) -> ResNet3D:
    """The network that the settings describe, with fresh weights."""
    return ResNet3D(
        config.depth,
        in_channels=len(recipe.windows_hu),
        num_classes=num_classes,
        width=config.width,
        stem=config.stem,
        dropout=config.dropout,
    )


def save_model(folder: Path, network: ResNet3D, card: ModelCard) -> None:
    """Write a model folder; ``model.json`` last, so that a folder with it is whole."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT).unlink(missing_ok=True)
    weights = {name: t.detach().cpu().contiguous() for name, t in network.state_dict().items()}
    save_file(weights, folder / _WEIGHTS)
    about = {**to_dict(card), "version": version("hilum")}
    new = folder / f"{_ABOUT}.tmp"
    new.write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    new.replace(folder / _ABOUT)


def load_model(folder: Path) -> tuple[ResNet3D, ModelCard]:
    """The network, in evaluation mode on the CPU, and its card.

    Raises:
        CheckpointError: If the folder is no whole model folder, or the weights do not fit.
    """
    try:
        about = json.loads((folder / _ABOUT).read_text(encoding="utf-8"))
        training = about.pop("training")
        card = from_dict(ModelCard, {**about, "training": {}}, "model.json")
        weights = load_file(folder / _WEIGHTS)
    except (FileNotFoundError, NotADirectoryError) as exc:
        msg = f"{folder} is no model folder: it must hold {_ABOUT} and {_WEIGHTS}"
        raise CheckpointError(msg) from exc
    except (OSError, SafetensorError, ConfigError, ValueError, KeyError, TypeError, AttributeError) as exc:
        msg = f"{folder} is damaged: {exc}"
        raise CheckpointError(msg) from exc
    network = build(card.model, card.recipe, len(card.classes))
    try:
        network.load_state_dict(weights)
    except RuntimeError as exc:
        msg = f"{folder}: the weights do not fit the network in {_ABOUT}: {str(exc).splitlines()[-1].strip()}"
        raise CheckpointError(msg) from exc
    network.requires_grad_(False)
    card = ModelCard(**{name: getattr(card, name) for name in card.__slots__ if name != "training"}, training=training)
    return network.eval(), card


def probabilities(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Calibrated probabilities, (b, c)."""
    return torch.softmax(logits.float() / temperature, dim=1)
