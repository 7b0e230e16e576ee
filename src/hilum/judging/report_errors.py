"""The most certain errors of a report, with planes of their samples and maps of what they depended on."""

import base64
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from hilum.judging.evaluation_folder import EvaluationFolder
from hilum.judging.figures import ClassJudgement
from hilum.pages import grey, png
from hilum.predicting import Predictor
from hilum.predicting.explain import explain
from hilum.predicting.explain.planes import planes_of
from hilum.preparing import load_sample
from hilum.reading.identity import hashed

_MOST_ERRORS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class CasePictures:
    """What is needed to show cases.

    Attributes:
        samples: Prepared samples by case id.
        predictor_of: The model that predicted a case, by its id; None: no maps are shown.
    """

    samples: Mapping[str, Path]
    predictor_of: Callable[[str], Predictor] | None = None


def errors(judged: EvaluationFolder, pictures: CasePictures | None) -> list[dict[str, Any]]:
    """The wrong decisions that were furthest from the threshold, with pictures of their samples if these are given."""
    found = []
    for one in judged.each:
        wrong = np.flatnonzero((one.called != (one.y == 1)) & one.is_decided)
        if not judged.multi_label and len(judged.classes) > 2:
            wrong = wrong[one.called[wrong]]  # each wrong case once, under the class that was decided
        threshold = 0.5 if one.asked.threshold is None else one.asked.threshold
        for row in wrong.tolist():
            beyond = float(one.p[row]) - threshold
            distance, room = (beyond, 1 - threshold) if one.called[row] else (-beyond, threshold)
            found.append((distance / room if room > 0 else 1.0, row, one))
    found.sort(key=lambda error: -error[0])
    shown = tqdm(found[:_MOST_ERRORS], desc="maps of errors", unit=" maps", delay=2, disable=None, leave=False)
    return [_error(judged, row, one, pictures) for _, row, one in shown]


def _error(judged: EvaluationFolder, row: int, one: ClassJudgement, pictures: CasePictures | None) -> dict[str, Any]:
    case_id = judged.case_ids[row]
    if judged.multi_label:
        truth, decision = ("present" if one.y[row] else "absent"), ("present" if one.called[row] else "absent")
    else:
        truth, decision = judged.classes[judged.labels[row]], judged.classes[judged.decided[row]]
    sample = None if pictures is None else pictures.samples.get(case_id)
    of = None if pictures is None or sample is None else pictures.predictor_of
    predictor = None if of is None else of(case_id)
    return {
        "case": hashed("case", case_id),
        "output": one.name,
        "truth": truth,
        "decision": decision,
        "p": float(one.p[row]),
        "picture": "" if sample is None else _planes(sample),
        "map": None if sample is None or predictor is None else _map(predictor, sample, one.name),
    }


def _map(predictor: Predictor, file: Path, output: str) -> dict[str, str]:
    """Planes of a sample with the map of an output, as a PNG, and what the map means."""
    sample = load_sample(file)
    (found,) = explain(predictor, sample, [output])
    panels = planes_of(found, sample, title="", foot="")
    picture = io.BytesIO()
    panels.picture.savefig(picture, format="png", dpi=72)
    return {"picture": base64.b64encode(picture.getvalue()).decode("ascii"), "meaning": found.meaning}


def _planes(file: Path) -> str:
    """The three middle planes of a sample, head up, in true proportions, as a PNG."""
    from PIL import Image

    volume = load_sample(file)
    hu, (dz, dy, dx) = volume.voxels_hu, volume.spacing_mm
    z, y, x = (n // 2 for n in hu.shape)
    planes = ((hu[z], dy, dx), (hu[::-1, y], dz, dx), (hu[::-1, :, x], dz, dy))
    mm = max(volume.extent_mm) / 192
    pictures = []
    for plane, down, across in planes:
        size = (max(1, round(plane.shape[1] * across / mm)), max(1, round(plane.shape[0] * down / mm)))
        pictures.append(np.asarray(Image.fromarray(grey(plane)).resize(size, Image.Resampling.BILINEAR)))
    return png(pictures)
