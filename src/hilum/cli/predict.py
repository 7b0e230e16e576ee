"""``hilum predict``: predicts one scan, or a table of scans."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hilum.cli.arguments import ModelPath, ScanPath, refuse_flags_of_scans
from hilum.errors import ConfigError
from hilum.settings.run import ColumnsConfig, Triple

if TYPE_CHECKING:
    from hilum.deciding.decision import Decision
    from hilum.predicting import Prediction, Predictor


@dataclass(frozen=True, kw_only=True)
class Predict:
    """Predict one scan, or a table without labels; exits with 3 if some scans of a table were refused."""

    model: ModelPath
    """A run folder, or the model folder in it."""

    path: ScanPath
    """A scan: DICOM folder or file, NIfTI, NRRD, MetaImage; or a table (.csv, .xlsx, .parquet), with --out."""

    point: Triple | None = None
    """X Y Z in LPS mm, for models of region point."""

    series: str = ""
    """Series to read, if the folder holds several."""

    mask: Path | None = None
    """Lung mask from another program, for models that need the lungs."""

    out: Path | None = None
    """For a table: the CSV of predictions to write."""

    columns: ColumnsConfig = field(default_factory=ColumnsConfig)
    """For a table: names of the columns."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""

    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    """fp32: the same digits everywhere. bf16: faster where the hardware has it. auto: measured."""

    prevalence: tuple[float, ...] | None = None
    """Prevalence of the second class to which probabilities are adjusted, from that of the calibration; decisions by a
    threshold do not change. For more classes, or several labels, a share for each."""

    dicom: Path | None = None
    """Folder for DICOM objects of the scan's study: report, segmentation, map, page; new, empty or of earlier ones."""

    names: tuple[str, ...] = ()
    """Names of the classes or labels, in the model's order, in place of its own."""

    maps: bool = True
    """With --dicom: whether to make a map by occlusion, which takes seconds."""

    uids: Literal["derived", "new"] = "derived"
    """With --dicom: the same result is the same instance, or always another one."""

    json: bool = False
    """Print one JSON object instead of a few lines."""

    def _refuse_ineffective_flags(self, region: str, *, is_table: bool) -> None:
        if not is_table and self.columns != ColumnsConfig():
            msg = "--columns is for a table, the path is one scan"
            raise ConfigError(msg)
        if is_table and (self.point is not None or self.series):
            msg = "--point and --series are for one scan; a table has columns for them"
            raise ConfigError(msg)
        if is_table and self.mask is not None:
            msg = "--mask is for one scan; a table has a column for it"
            raise ConfigError(msg)
        if not is_table and self.out is not None:
            msg = "--out is for a table; the prediction of one scan is printed"
            raise ConfigError(msg)
        if is_table and self.dicom is not None:
            msg = "--dicom is for one scan, the path is a table"
            raise ConfigError(msg)
        if self.dicom is None and (not self.maps or self.uids != "derived"):
            msg = "--no-maps and --uids are for --dicom"
            raise ConfigError(msg)
        refuse_flags_of_scans(self.path, region, point=self.point, series=self.series)

    def run(self) -> int:
        """Predict and print."""
        from hilum.modelling.memory import kept_memory

        with kept_memory():
            return self._predict()

    def _predict(self) -> int:
        from hilum.cohorts.spreadsheet import SUFFIXES
        from hilum.deciding.decision_words import shown_probability
        from hilum.predicting import Predictor, predict_table

        predictor = Predictor(self.model, device=self.device, precision=self.precision, prevalence=self.prevalence)
        predictor = predictor.named(self.names)
        is_table = self.path.suffix.lower() in SUFFIXES
        self._refuse_ineffective_flags(predictor.card.recipe.region, is_table=is_table)
        if is_table:
            summary = predict_table(predictor, self.path, self.out, columns=self.columns)
            print(json.dumps(summary, indent=2) if self.json else _line(summary))
            return 3 if summary["num_refused"] else 0
        prediction, files = self._predict_scan(predictor)
        if self.json:
            dicom = {} if self.dicom is None else {"dicom": files}
            print(json.dumps(prediction.as_dict() | dicom, indent=2))
            return 0
        for name, probability in prediction.probabilities.items():
            print(f"P({name}) = {shown_probability(probability)}")
        decisions = predictor.card.decisions
        for name, members in prediction.sets.items():
            of = "" if name == "classes" else f" of {name}"
            print(f"conformal set{of}: {', '.join(members) or 'empty'}")
        shown = [_cut(name, one, many=decisions.multi_label) for name, one in decisions.cuts.items()]
        word = f"threshold{'s' * decisions.multi_label} " if shown else ""
        at, why = f" ({word}{', '.join(shown)})" if shown else "", prediction.outcome.reason
        print(f"decision: {prediction.decision}{at}" + (f", because {why}" if why else ""))
        for finding in prediction.findings:
            print(finding)
        if self.dicom is not None:
            print(f"DICOM: {', '.join(sorted(files))} in {self.dicom}")
        return 0

    def _predict_scan(self, predictor: "Predictor") -> "tuple[Prediction, dict[str, str]]":
        """The prediction of one scan, and the DICOM objects that were written with their SOPInstanceUIDs."""
        where: dict[str, Any] = {"point_mm": self.point, "series": self.series, "mask": self.mask}
        if self.dicom is None:
            return predictor.predict(self.path, **where), {}
        from hilum.serving.dicom_out.write import predict_to_dicom

        options: dict[str, Any] = {"maps": self.maps, "uids": self.uids}
        found = predict_to_dicom(predictor, self.path, self.dicom, **options, **where)
        return found.prediction, found.files


def _cut(name: str, decision: "Decision", *, many: bool) -> str:
    """The threshold that decides an output, or the two of a band."""
    from hilum.deciding.decision_words import shown_probability

    whose = f"{name} " if many else ""
    band, at = decision.band, decision.threshold
    if band is not None and band.low <= band.high:
        return f"{whose}{shown_probability(band.low)} to {shown_probability(band.high)}"
    return whose + ("" if at is None else shown_probability(at))


def _line(summary: dict[str, Any]) -> str:
    """Numbers of predicted and refused scans of a table, with their files."""
    line, refused = f"{summary['out']}: {summary['num_cases']} predictions", summary["num_refused"]
    counts = summary["decisions"]
    line += "".join(f", {counts[kind]} {kind}" for kind in ("no-result", "undecided") if kind in counts)
    return line + (f", {refused} refused, listed in {summary['refused']}" if refused else "")
