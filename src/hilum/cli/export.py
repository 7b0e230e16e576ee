"""``hilum export``: exports a model as one file for other programs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from hilum.cli.arguments import ModelPath


@dataclass(frozen=True, kw_only=True)
class Export:
    """Export a model as one file for other programs, from HU to probabilities; verified against the model."""

    model: ModelPath
    """A run folder, or the model folder in it."""

    format: Literal["onnx", "pt2"]
    """onnx: ONNX. pt2: PyTorch's exported program (torch.export)."""

    out: Path
    """The file to write, named .onnx or .pt2."""

    def run(self) -> int:
        """Export, check and print."""
        from hilum.predicting.export import export_model

        exported = export_model(self.model, self.out, format=self.format)
        for note in exported.notes:
            print(f"note: {note}")
        print(
            f"{self.out}: checked, probabilities and their logarithms within {exported.difference:.1e} of the model's"
        )
        return 0
