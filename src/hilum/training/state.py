"""The training state, with which a run resumes exactly: tensors, and numbers as JSON, in one file."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from hilum.errors import CheckpointError
from hilum.modelling.resnet import ResNet3D
from hilum.modelling.weights.file import write_tensors
from hilum.training.run_folder import STATE
from hilum.training.schedule import Schedule

Tensors = dict[str, Tensor]


@dataclass(slots=True, kw_only=True)
class Progress:
    """The progress of a run.

    Attributes:
        epoch: The last complete epoch; 0 before the first.
        best_loss: Lowest validation loss.
        best_epoch: Epoch of the lowest validation loss; 0 before the first.
        rows: Rows of ``metrics.csv``.
        began: The card's entry about initial weights.
    """

    epoch: int = 0
    best_loss: float = math.inf
    best_epoch: int = 0
    rows: list[dict[str, str]] = field(default_factory=list)
    began: dict[str, Any] = field(default_factory=dict)


class TrainingState:
    """The network, its optimizer and the progress of a run; saves and restores itself.

    Args:
        network: On its device.
        schedule: The schedule, which holds the optimizer.

    Attributes:
        progress: Epochs and losses so far.
        best: Weights of the best epoch, on the CPU; before that the network's own.
    """

    def __init__(self, network: ResNet3D, schedule: Schedule) -> None:
        self.network = network
        self.schedule = schedule
        self.progress = Progress()
        self.best: Tensors = network.state_dict()

    @property
    def stalled(self) -> int:
        """Epochs since the best validation loss."""
        return self.progress.epoch - self.progress.best_epoch

    def kept_epoch(self, keep: str) -> int:
        """The epoch whose weights become the model, by ``training.keep``; 0: none."""
        return self.progress.best_epoch if keep == "best" else self.progress.epoch

    def after_epoch(self, val_loss: float) -> None:
        """Count an epoch, and keep its weights if its loss is the lowest."""
        self.progress.epoch += 1
        self.schedule.after_epoch(val_loss)
        if val_loss < self.progress.best_loss:
            self.progress.best_loss, self.progress.best_epoch = val_loss, self.progress.epoch
            self.best = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}

    def save(self, folder: Path) -> None:
        """Write the state into ``last/`` of a run, atomically."""
        optimizer = self.schedule.optimizer.state_dict()
        tensors = {f"model.{name}": t for name, t in self.network.state_dict().items()}
        if self.progress.best_epoch:
            tensors |= {f"best.{name}": t for name, t in self.best.items()}
        numbers: dict[str, dict[str, Any]] = {}
        for key, state in optimizer["state"].items():
            for name, value in state.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{key}.{name}"] = value
                else:
                    numbers.setdefault(str(key), {})[name] = value
        about = {
            "progress": asdict(self.progress),
            "optimizer": {"numbers": numbers, "groups": optimizer["param_groups"]},
            "plateau": self.schedule.plateau.state_dict(),
        }
        write_tensors(folder / STATE, tensors, {"hilum": json.dumps(about)})

    def restore(self, folder: Path) -> None:
        """Restore the state that ``save`` wrote.

        Raises:
            CheckpointError: If it is missing, damaged or of another model.
        """
        try:
            with safe_open(folder / STATE, framework="pt") as file:
                about = json.loads(file.metadata()["hilum"])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
            self.network.load_state_dict(_named(tensors, "model."))
            state: dict[int, dict[str, Any]] = {int(k): v for k, v in about["optimizer"]["numbers"].items()}
            for name, tensor in _named(tensors, "optimizer.").items():
                key, field_name = name.split(".", 1)
                state.setdefault(int(key), {})[field_name] = tensor
            groups = about["optimizer"]["groups"]
            self.schedule.optimizer.load_state_dict({"state": state, "param_groups": groups})
            self.schedule.plateau.load_state_dict(about["plateau"])
            self.progress = Progress(**about["progress"])
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as exc:
            lines = [line.strip() for line in str(exc).splitlines()]  # PyTorch's first line is a heading
            msg = f"{folder} cannot be resumed: {next((line for line in lines if not line.endswith(':')), '')}"
            raise CheckpointError(msg) from exc
        self.best = _named(tensors, "best.") or self.network.state_dict()


def _named(tensors: Tensors, prefix: str) -> Tensors:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
