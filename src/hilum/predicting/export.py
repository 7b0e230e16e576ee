"""Exports a model folder to one file for other programs, from HU to probabilities; verified before it is written."""

import importlib
import io
import json
import os
import re
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch

from hilum.deciding.model_folder import ModelCard, load_model
from hilum.errors import CheckpointError, ConfigError, HilumError, require
from hilum.files import check_place, write_whole
from hilum.modelling.ensemble import Network
from hilum.modelling.memory import within_memory
from hilum.predicting.calibrated_network import FromHU
from hilum.predicting.export_check import CHECKED, INPUT, OUTPUT, case_shape, largest_difference, quiet
from hilum.settings.toml import to_dict

Format = Literal["onnx", "pt2"]

_ALLOWED = 1e-4
"""Largest allowed difference between the file and the model, see ``largest_difference``."""

_TRACED = 3
"""Batch size of tracing: another one than in the check, which must show that the batch size is free; not 1, which
PyTorch takes as fixed. Tracing computes nothing, so it has the larger size."""

_ABOUT = "hilum.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """Result of an export.

    Attributes:
        difference: Largest difference from the model; see ``largest_difference``.
        notes: A sentence for each step of prediction that the file lacks, such as test-time augmentation.
    """

    difference: float
    notes: tuple[str, ...]


def export_model(folder: Path, out: Path, *, format: Format) -> Exported:  # noqa: A002 - the flag's name
    """Write a model as ONNX or as PyTorch's exported program.

    The input is HU as prepared by ``prepare``, float32 of shape (batch, channels, z, y, x), with any batch size and the
    recipe's grid. The file also holds classes, recipe and thresholds: in ONNX's ``metadata_props``, or ``hilum.json``.

    Args:
        folder: A model folder.
        out: The file to write.
        format: ``onnx`` or ``pt2``.

    Raises:
        ConfigError: If a package for ONNX is missing, or the file has the wrong suffix, exists or cannot be written.
        CheckpointError: If the model's output is not finite, or the file's differs from it by more than 1e-4; nothing
            is written then.
        ResourceError: If memory does not suffice.
    """
    require(out.suffix == f".{format}", "--out", f"a file named .{format}", out)
    require(not os.path.lexists(out), "--out", "a new file", out)
    check_place(out, "a file")
    if format == "onnx":
        _check_onnx()
    with within_memory(f"exporting {folder}", "free some"):
        network, card = load_model(folder)
        about = _about(card)
        program = _program(network, card)
        content = _onnx(program, about) if format == "onnx" else _pt2(program, about)
    most, grid = max(CHECKED), " x ".join(map(str, card.recipe.size))
    advice = f"free some: fewer than {most} would not show that the batch is free"
    with (
        within_memory(f"checking the file on {most} cases of {grid} voxels at a time", advice),
        tempfile.TemporaryDirectory(prefix="hilum-") as folder_of_check,
    ):
        file = Path(folder_of_check) / f"model.{format}"
        file.write_bytes(content)
        difference = largest_difference(file, network, card)
    if not difference <= _ALLOWED:
        msg = f"{out} is not written: it would differ from the model by up to {difference:.1e}"
        raise CheckpointError(msg)
    write_whole(out, content)
    return Exported(difference=difference, notes=_notes(card))


def _program(network: Network, card: ModelCard) -> torch.export.ExportedProgram:
    module = FromHU(network, card.recipe.windows, card.decisions).eval()
    with quiet():
        example = torch.zeros(_TRACED, *case_shape(card.recipe))
        program: torch.export.ExportedProgram = torch.export.export(
            module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )
        program = program.run_decompositions({})  # removes autocast regions, which other programs cannot read
    for graph in program.graph_module.modules():
        if isinstance(graph, torch.fx.GraphModule):
            for node in graph.graph.nodes:
                node.meta.pop("stack_trace", None)  # it holds paths of this machine
    program.example_inputs = None
    return program


def _pt2(program: torch.export.ExportedProgram, about: dict[str, str]) -> bytes:
    file = io.BytesIO()
    with quiet():
        torch.export.save(program, file, extra_files={_ABOUT: json.dumps(about, indent=2)})
    return file.getvalue()


def _onnx(program: torch.export.ExportedProgram, about: dict[str, str]) -> bytes:
    with quiet():
        made = torch.onnx.export(
            program, dynamo=True, input_names=[INPUT], output_names=[OUTPUT], external_data=False, verbose=False
        )
    if made is None:
        msg = "PyTorch made no ONNX model"
        raise HilumError(msg)
    model: Any = made.model_proto
    _name_batch(model.graph)
    for part in (model.graph, *model.functions):
        for one in (*part.node, *part.value_info, *getattr(part, "input", ()), *getattr(part, "output", ())):
            if hasattr(one, "metadata_props"):
                del one.metadata_props[:]  # the record of tracing
    for key, value in about.items():
        model.metadata_props.add(key=key, value=value)
    content: bytes = model.SerializeToString()
    return content


def _name_batch(graph: Any) -> None:
    """Name the free axis ``batch``; PyTorch's exporter numbers its symbols."""
    (hu,) = graph.input
    symbol = re.compile(rf"\b{re.escape(hu.type.tensor_type.shape.dim[0].dim_param)}\b")
    for one in (*graph.input, *graph.output, *graph.value_info):
        for axis in one.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_param = symbol.sub("batch", axis.dim_param)


def _about(card: ModelCard) -> dict[str, str]:
    """Metadata of the file, without paths and ids."""
    channels = "; of two channels the first is HU, the second the lungs: 1 inside, 0 outside"
    about: dict[str, Any] = {
        "input": "HU as prepared by the recipe, float32 (batch, channels, z, y, x); z from feet to head, y from front "
        f"to back, x from the patient's right to left{channels if card.recipe.lung_channel else ''}",
        "classes": card.classes,
        "recipe": to_dict(card.recipe),
        "multi_label": card.decisions.multi_label,
        "thresholds": card.decisions.thresholds,
        "decisions": [to_dict(one) for one in card.decisions.each],
        "notes": _notes(card),
        "version": version("hilum"),
        "use": "Not a medical device. For research and teaching only.",
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}


def _notes(card: ModelCard) -> tuple[str, ...]:
    notes = []
    if card.recipe.sub_volumes:
        grid = " x ".join(map(str, card.recipe.size))
        notes.append(
            f"the file sees one grid of {grid} voxels; the model takes the {card.recipe.aggregate} over all grids that "
            "cover a case"
        )
    if card.views is not None:
        notes.append(
            f"the file sees a case as it is; the model takes the mean over it and {card.views.count} moved views, with "
            "which its calibration and thresholds were chosen"
        )
    if card.gate is not None:
        notes.append("the file has no gate: it answers for scans too that the model gives no result for")
    if any(one.band is not None or one.sets is not None for one in card.decisions.each):
        notes.append("the file gives probabilities; where the model is undecided is not in it")
    return tuple(notes)


def _check_onnx() -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError as exc:
            msg = f"the format onnx needs the package {name}: pip install hilum[export]"
            raise ConfigError(msg) from exc
