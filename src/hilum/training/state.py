"""The training state, with which a run resumes exactly: tensors, and numbers as JSON, in one file."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from hilum.cohorts.dataset import CohortDataset
from hilum.errors import CheckpointError
from hilum.modelling.weights.file import write_tensors
from hilum.settings.run import KeepBy
from hilum.training.auxiliary import AuxiliaryHead
from hilum.training.epoch_metrics import EpochFigures, EpochMetrics
from hilum.training.kept_weights import KeptWeights
from hilum.training.run_folder import STATE
from hilum.training.schedule import Schedule

_FORMAT = 3
"""1: only after whole epochs, without averaged weights; 2: averaged after each step."""

Tensors = dict[str, Tensor]


@dataclass(slots=True, kw_only=True)
class Progress:
    """The progress of a run.

    Attributes:
        epoch: The last complete epoch; 0 before the first.
        step: Steps already taken in the epoch after it.
        best: Best validation figure; None before the first that is finite.
        best_epoch: Epoch of the best validation figure; 0 before the first.
        rows: Rows of ``metrics.csv``.
        began: The card's entry about initial weights.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    best_epoch: int = 0
    rows: list[dict[str, str]] = field(default_factory=list)
    began: dict[str, Any] = field(default_factory=dict)


class TrainingState:
    """The network, its optimizer and the progress of a run; saves and restores itself.

    Args:
        kept: The network in training, and the weights that are kept.
        schedule: The schedule, which holds the optimizer.
        head: The auxiliary head, if any.
        dataset: The training cases.

    Attributes:
        progress: Epochs and figures so far.
        running: The figures of the epoch that is running.
        best: Weights of the best epoch, on the CPU; before that the network's own.
    """

    def __init__(
        self, kept: KeptWeights, schedule: Schedule, head: AuxiliaryHead | None, dataset: CohortDataset
    ) -> None:
        self.kept = kept
        self.schedule = schedule
        self.head = head
        self.dataset = dataset
        self.progress = Progress()
        self.running = self.new_metrics()
        self.best: Tensors = kept.source.state_dict()

    @property
    def stalled(self) -> int:
        """Epochs since the best validation figure."""
        return self.progress.epoch - self.progress.best_epoch

    def kept_epoch(self, keep: str) -> int:
        """The epoch whose weights become the model, by ``training.keep``; 0: none."""
        return self.progress.best_epoch if keep == "best" else self.progress.epoch

    def new_metrics(self) -> EpochMetrics:
        """The figures of an epoch before its first step."""
        return EpochMetrics(self.dataset.labels, self.dataset.is_labelled)

    def after_step(self) -> None:
        """Count a step of the optimizer."""
        self.progress.step += 1
        self.kept.after_step(self.progress.step)

    def after_epoch(self, validated: EpochFigures, keep_by: KeepBy) -> None:
        """Count an epoch, and keep its weights if its validation figure is the best."""
        progress = self.progress
        progress.epoch, progress.step = progress.epoch + 1, 0
        self.running = self.new_metrics()
        self.schedule.after_epoch(validated["loss"])
        value = validated[keep_by]
        if math.isfinite(value) and (progress.best is None or _is_better(value, progress.best, keep_by)):
            progress.best, progress.best_epoch = value, progress.epoch
            self.best = {name: t.detach().cpu().clone() for name, t in self.kept.network.state_dict().items()}

    def save(self, folder: Path) -> None:
        """Write the state into ``last/`` of a run, atomically."""
        optimizer = self.schedule.optimizer.state_dict()
        tensors = self._own_tensors()
        if self.progress.best_epoch:
            tensors |= {f"best.{name}": t for name, t in self.best.items()}
        numbers: dict[str, dict[str, Any]] = {}
        for key, state in optimizer["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{key}.{name}"] = value
                else:
                    numbers.setdefault(str(key), {})[name] = value
        running, running_tensors = self.running.as_state()
        tensors |= {f"running.{name}": t for name, t in running_tensors.items()}
        about = {
            "format": _FORMAT,
            "member": self._member,
            "progress": asdict(self.progress),
            "running": running,
            "optimizer": {"numbers": numbers, "groups": optimizer["param_groups"]},
            "plateau": self.schedule.plateau.state_dict(),
        }
        write_tensors(folder / STATE, tensors, {"hilum": json.dumps(about)})

    @property
    def _member(self) -> list[int | None]:
        """Fold and seeds, which tell the members of a run of folds apart: each has seen other cases."""
        config = self.kept.config
        return [config.split.fold, config.split.seed, config.training.seed]

    def _own_tensors(self) -> Tensors:
        """The tensors of the network, the averaged weights and the auxiliary head, by name."""
        parts: dict[str, Any] = {"model": self.kept.source, "average": self.kept.averaged if self.kept.decay else None}
        parts["auxiliary"] = self.head
        return {f"{part}.{k}": t for part, m in parts.items() if m is not None for k, t in m.state_dict().items()}

    def restore(self, folder: Path) -> None:
        """Restore the state that ``save`` wrote.

        Raises:
            CheckpointError: If it is missing, damaged, of another model or another version.
        """
        try:
            with safe_open(folder / STATE, framework="pt") as file:
                about = json.loads(file.metadata()["hilum"])
                if about.get("format", 1) != _FORMAT:
                    msg = f"{folder} cannot be resumed: another version of Hilum began it, and would train otherwise"
                    raise CheckpointError(msg, hint="resume it with that version, or train a new run")
                if about["member"] != self._member:
                    msg = f"{folder} cannot be resumed: it is the state of another fold or seed"
                    raise CheckpointError(msg)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            self.kept.source.load_state_dict(_named(tensors, "model."))
            if self.kept.decay:
                self.kept.averaged.load_state_dict(_named(tensors, "average."))
            if self.head is not None:
                self.head.load_state_dict(_named(tensors, "auxiliary."))
            state: dict[int, dict[str, Any]] = {int(k): v for k, v in about["optimizer"]["numbers"].items()}
            for name, tensor in _named(tensors, "optimizer.").items():
                key, field_name = name.split(".", 1)
                state.setdefault(int(key), {})[field_name] = tensor
            groups = about["optimizer"]["groups"]
            self.schedule.optimizer.load_state_dict({"state": state, "param_groups": groups})
            self.schedule.plateau.load_state_dict(about["plateau"])
            self.progress = Progress(**about["progress"])
            labels = self.dataset.labels, self.dataset.is_labelled
            self.running = EpochMetrics.of_state(*labels, about["running"], _named(tensors, "running."))
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as exc:
            lines = [line.strip() for line in str(exc).splitlines()]  # PyTorch's first line is a heading
            msg = f"{folder} cannot be resumed: {next((line for line in lines if not line.endswith(':')), '')}"
            raise CheckpointError(msg) from exc
        self.best = _named(tensors, "best.") or self.kept.source.state_dict()


def _is_better(value: float, best: float, keep_by: KeepBy) -> bool:
    return value < best if keep_by == "loss" else value > best


def _named(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
