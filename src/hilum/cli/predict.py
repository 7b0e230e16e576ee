"""``hilum predict``: a model on one scan, or on a table of scans."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import tyro

from hilum.config import ColumnsConfig, Triple


@dataclass(frozen=True, kw_only=True)
class Predict:
    """A model on one scan, or on a whole table without labels."""

    model: tyro.conf.Positional[Path]
    """The model folder of a run."""

    path: tyro.conf.Positional[Path]
    """A scan: DICOM folder or file, NIfTI, NRRD, MetaImage; or a table (.csv, .xlsx, .parquet), with --out."""

    point: Triple | None = None
    """X Y Z in LPS mm, for models of region point."""

    series: str = ""
    """Which series, where the folder holds several."""

    out: Path | None = None
    """For a table: the CSV of predictions to write."""

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """For a table: which column holds what."""

    device: str = "cpu"
    """cpu, cuda, cuda:1, mps"""

    json: bool = False
    """One JSON object instead of a few lines."""

    def run(self) -> int:
        """Predict and print."""
        from hilum.predicting import Predictor, predict_table

        predictor = Predictor(self.model, device=self.device)
        if self.path.suffix.lower() in (".csv", ".tsv", ".xlsx", ".parquet"):
            summary = predict_table(predictor, self.path, self.out, columns=self.columns)
            print(json.dumps(summary, indent=2) if self.json else f"{self.out}: {summary['num_cases']} predictions")
            return 0
        prediction = predictor.predict(self.path, point_mm=self.point, series=self.series)
        if self.json:
            print(json.dumps(prediction.as_dict(), indent=2))
            return 0
        for name, probability in prediction.probabilities.items():
            print(f"P({name}) = {probability:.3f}")
        at = "" if prediction.threshold is None else f" (threshold {prediction.threshold:.3f})"
        print(f"decision: {prediction.decision}{at}" + (f", because {prediction.reason}" if prediction.reason else ""))
        for finding in prediction.findings:
            print(finding)
        return 0
