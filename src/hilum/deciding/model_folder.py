"""Reads and writes the model folder: weights and everything prediction needs, without pickle, ids or paths.

A folder holds one network, or the members of an ensemble under ``members/NAME``, of one recipe.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from hilum.deciding.decision import Decisions
from hilum.deciding.gate import FeatureStatistics, Gate
from hilum.deciding.tta import Views
from hilum.errors import CheckpointError, require
from hilum.files import write_whole
from hilum.modelling.ensemble import Ensemble, Network, members_of
from hilum.modelling.measures import NoduleMeasures
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.weights.file import write_tensors
from hilum.settings.run import ModelConfig, ReadingConfig, Recipe
from hilum.settings.toml import from_dict, to_dict

MODEL_FORMAT = 4
"""1: without operating points. 2: one network only. 3: without a gate, bands and conformal sets."""
_WEIGHTS = "weights.safetensors"
_GATE = "gate.safetensors"
_ABOUT = "model.json"
_MEMBERS = "members"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
"""Names of members, which are folders."""

_MOVED = ("classes", "temperature", "threshold", "threshold_rule")
"""Keys of older cards that ``decisions`` replaces."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnsembleMember:
    """A member of an ensemble.

    Attributes:
        name: Its folder under ``members/``.
        model: Settings of its network.
    """

    name: str
    model: ModelConfig

    def __post_init__(self) -> None:
        require(bool(_NAME.fullmatch(self.name)), "the name of a member", "letters, digits, _, . and -", self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelCard:
    """Content of ``model.json``.

    Attributes:
        model: Settings of the network; of an ensemble those of its first member.
        recipe: Recipe of its input.
        reading: Policy of reading, the same as in training.
        decisions: Names of the outputs, their calibration and thresholds.
        views: Test-time augmentation; None: none.
        training: The training card: settings, numbers of cases and patients, validation figures.
        version: Version of Hilum.
        members: The members of an ensemble; empty for one network.
        gate: What training saw; None: a model of an older version, or decision.gate = off.
    """

    model: ModelConfig
    recipe: Recipe
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    decisions: Decisions
    views: Views | None = None
    training: dict[str, Any]
    version: str = ""
    members: tuple[EnsembleMember, ...] = ()
    gate: Gate | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the outputs, in order."""
        return self.decisions.classes


def build(config: ModelConfig, recipe: Recipe, num_classes: int) -> ResNet3D:
    """Build the network of the settings, with random weights."""
    options = {one.name: getattr(config, one.name) for one in fields(config) if one.name not in ("depth", "measures")}
    if config.measures == "nodule":
        options["measures"] = NoduleMeasures(recipe.size, recipe.grid_spacing_mm)
    return ResNet3D(config.depth, recipe.num_channels, num_classes, **options)


def save_model(folder: Path, network: Network, card: ModelCard, statistics: Sequence[FeatureStatistics] = ()) -> None:
    """Write a model folder; ``model.json`` is written last, so that a folder with it is complete.

    Args:
        folder: The folder.
        network: The network or ensemble.
        card: Its card.
        statistics: Of the features of each member, for the gate; empty: features are not judged.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _ABOUT).unlink(missing_ok=True)
    places = [folder]
    if isinstance(network, Ensemble):
        places = [folder / _MEMBERS / name for name in network.members]
    for n, (where, one) in enumerate(zip(places, members_of(network), strict=True)):
        where.mkdir(parents=True, exist_ok=True)
        write_tensors(where / _WEIGHTS, one.state_dict())
        (where / _GATE).unlink(missing_ok=True)
        if statistics:
            arrays = {name: torch.from_numpy(getattr(statistics[n], name)) for name in ("means", "covariance")}
            write_tensors(where / _GATE, arrays)
    about = {"format": MODEL_FORMAT, **to_dict(card), "version": version("hilum")}
    write_whole(folder / _ABOUT, json.dumps(about, indent=2) + "\n")


def load_model(folder: Path) -> tuple[Network, ModelCard]:
    """Load the network or ensemble, in evaluation mode on the CPU, and its card.

    Args:
        folder: A model folder, or a run folder with one.

    Raises:
        CheckpointError: If the folder is not a complete model folder, or the weights do not fit or are not float32.
    """
    folder = _model_in(folder)
    card = read_card(folder)
    if not card.members:
        return _loaded(folder, card.model, card), card
    each = {one.name: _loaded(folder / _MEMBERS / one.name, one.model, card) for one in card.members}
    return Ensemble(each).eval(), card


def load_statistics(folder: Path, card: ModelCard) -> tuple[FeatureStatistics, ...]:
    """Statistics of the features of each member; empty if the gate does not judge features.

    Raises:
        CheckpointError: If they are missing or damaged.
    """
    if card.gate is None or card.gate.limit is None:
        return ()
    folder = _model_in(folder)
    places = [folder / _MEMBERS / one.name for one in card.members] or [folder]
    models = [one.model for one in card.members] or [card.model]
    found = []
    for where, model in zip(places, models, strict=True):
        try:
            arrays = load_file(where / _GATE)
            found.append(FeatureStatistics(**{name: one.numpy() for name, one in arrays.items()}))
            found[-1].distances(found[-1].means)  # that the covariance has a root
            with torch.device("meta"):
                size = build(model, card.recipe, len(card.classes)).num_features
            require(found[-1].means.shape[1] == size, "the gate's features", f"{size} as the network's", "others")
        except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as exc:
            msg = f"{where} is damaged: the {_GATE} that its gate needs cannot be read: {_last_line(exc)}"
            raise CheckpointError(msg) from exc
    return tuple(found)


def _loaded(folder: Path, model: ModelConfig, card: ModelCard) -> ResNet3D:
    """The network whose weights lie in a folder."""
    try:
        weights = load_file(folder / _WEIGHTS)
    except FileNotFoundError as exc:
        if card.members:
            msg = f"{folder} of the ensemble has no {_WEIGHTS}"
            raise CheckpointError(msg) from exc
        raise _no_model(folder) from exc
    except (OSError, SafetensorError, ValueError) as exc:
        msg = f"{folder} is damaged: {exc}"
        raise CheckpointError(msg) from exc
    try:
        with torch.device("meta"):  # no memory and no random numbers for weights that come from the file
            network = build(model, card.recipe, len(card.classes))
        for name, wanted in network.state_dict().items():
            if name in weights and weights[name].dtype != wanted.dtype:
                must, found = (str(t.dtype).removeprefix("torch.") for t in (wanted, weights[name]))
                msg = f"{folder}: the weights must be as they were saved, {name} of {must}, is {found}"
                raise CheckpointError(msg)
        network.load_state_dict(weights, assign=True)
    except (RuntimeError, MemoryError) as exc:
        msg = f"{folder}: the weights do not fit the network in {_ABOUT}: {_last_line(exc)}"
        raise CheckpointError(msg) from exc
    network.requires_grad_(False)
    return network.eval()


def model_digest(folder: Path) -> str:
    """SHA-256 of a model folder: of its card, and of the weights and gate of every network.

    Args:
        folder: A model folder, or a run folder with one.

    Raises:
        CheckpointError: If the folder is no model folder, or a file cannot be read.
    """
    folder, digest = _model_in(folder), hashlib.sha256()
    names = [_WEIGHTS, _GATE]
    places = [folder / _MEMBERS / one.name for one in read_card(folder).members] or [folder]
    for file in [folder / _ABOUT, *(place / name for place in places for name in names)]:
        try:
            own = hashlib.sha256(file.read_bytes()).hexdigest() if file.name != _GATE or file.exists() else ""
        except OSError as exc:
            msg = f"{folder} cannot be read: {exc.strerror or exc}"
            raise CheckpointError(msg) from exc
        digest.update(f"{file.relative_to(folder).as_posix()} {own}\n".encode())
    return digest.hexdigest()


def read_card(folder: Path) -> ModelCard:
    """The card of a model, without its weights.

    Args:
        folder: A model folder, or a run folder with one.

    Raises:
        CheckpointError: If the folder is no model folder, or its card is damaged.
    """
    folder = _model_in(folder)
    try:
        return from_dict(ModelCard, _upgraded(json.loads((folder / _ABOUT).read_text(encoding="utf-8"))), _ABOUT)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise _no_model(folder) from exc
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
        msg = f"{folder} is damaged: {exc}"
        raise CheckpointError(msg) from exc


def _model_in(folder: Path) -> Path:
    return folder / "model" if (folder / "model" / _ABOUT).is_file() else folder


def _no_model(folder: Path) -> CheckpointError:
    return CheckpointError(f"{folder} is no model folder: it must hold {_ABOUT} and {_WEIGHTS}")


def _last_line(exc: BaseException) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[-1].strip()


def _upgraded(about: dict[str, Any]) -> dict[str, Any]:
    """Convert an older card to the current form: until November 2026 it had one temperature and threshold, no format.

    Raises:
        CheckpointError: If a newer version wrote it.
    """
    if not isinstance(about, dict):
        msg = f"{_ABOUT} must hold an object"
        raise TypeError(msg)
    number = about.pop("format", 1)
    if type(number) is not int or not 1 <= number <= MODEL_FORMAT:
        by = f"Hilum {about.get('version', '')}"
        msg = f"the format must be {MODEL_FORMAT} or older, is {number!r}: use the {by} that wrote it"
        raise CheckpointError(msg, path=_ABOUT)
    if "decisions" in about or "temperature" not in about:
        return about
    now = {key: value for key, value in about.items() if key not in _MOVED}
    calibration = {"method": "temperature", "temperature": about["temperature"]}
    decision = {"calibration": calibration, "rule": about.get("threshold_rule", "")}
    if about.get("threshold") is not None:
        decision["threshold"] = about["threshold"]
    return now | {"decisions": {"classes": about["classes"], "each": [decision]}}
