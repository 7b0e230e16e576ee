"""All that a run needs to go on exactly where it stopped, in one file: tensors, and numbers as JSON beside them."""

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from hilum.errors import CheckpointError
from hilum.files import write_whole
from hilum.training.schedule import Schedule

STATE = "state.safetensors"

_KINDS = {"<f8": "F64", "<f4": "F32", "<i8": "I64"}
"""How safetensors calls the types of weights, moments and counts."""

Weights = dict[str, Tensor]


def save_checkpoint(
    folder: Path, model: nn.Module, schedule: Schedule, progress: dict[str, Any], best: Weights
) -> None:
    """Write the state of a run; the old one stays until the new one is whole.

    Args:
        folder: ``last/`` of a run.
        model: Its weights now.
        schedule: Holds the optimizer.
        progress: Plain values that the loop needs.
        best: The best weights so far.
    """
    optimizer = schedule.optimizer.state_dict()
    tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
    tensors |= {f"best.{name}": t for name, t in best.items()}
    numbers: dict[str, dict[str, Any]] = {}
    for key, state in optimizer["state"].items():
        for name, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{key}.{name}"] = value
            else:
                numbers.setdefault(str(key), {})[name] = value
    about = {
        "progress": progress,
        "optimizer": {"numbers": numbers, "groups": optimizer["param_groups"]},
        "plateau": schedule.plateau.state_dict(),
    }
    write_whole(folder / STATE, _parts(tensors, {"hilum": json.dumps(about)}))


def _parts(tensors: Weights, metadata: dict[str, str]) -> tuple[Any, ...]:
    """A safetensors file as it lies in memory; its own writer holds all tensors three times more."""
    arrays = {name: t.detach().cpu().contiguous().numpy() for name, t in tensors.items()}
    arrays = dict(sorted(arrays.items(), key=lambda item: -item[1].itemsize))  # each where a processor likes it
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _KINDS[array.dtype.str], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little"), text, *(array.data for array in arrays.values())


def load_checkpoint(folder: Path, model: nn.Module, schedule: Schedule) -> tuple[dict[str, Any], Weights]:
    """Put a state back into the model, the optimizer and the schedule; returns the progress and best weights.

    Raises:
        CheckpointError: If it is not there, damaged or of another model.
    """
    try:
        with safe_open(folder / STATE, framework="pt") as file:
            about = json.loads(file.metadata()["hilum"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dictionary
        model.load_state_dict(_named(tensors, "model."))
        state: dict[int, dict[str, Any]] = {int(k): v for k, v in about["optimizer"]["numbers"].items()}
        for name, tensor in tensors.items():
            if name.startswith("optimizer."):
                _, key, field = name.split(".", 2)
                state.setdefault(int(key), {})[field] = tensor
        schedule.optimizer.load_state_dict({"state": state, "param_groups": about["optimizer"]["groups"]})
        schedule.plateau.load_state_dict(about["plateau"])
        progress: dict[str, Any] = about["progress"]
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError) as exc:
        msg = f"{folder} cannot be resumed: {str(exc).splitlines()[0]}"
        raise CheckpointError(msg) from exc
    return progress, _named(tensors, "best.")


def _named(tensors: Weights, prefix: str) -> Weights:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
