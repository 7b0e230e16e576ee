"""The most certain errors of a report, with planes of their samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hilum.judging.evaluation_folder import EvaluationFolder
from hilum.judging.figures import ClassJudgement
from hilum.pages import grey, png
from hilum.preparing import load_sample
from hilum.reading.identity import hashed

_MOST_ERRORS = 12


def errors(judged: EvaluationFolder, samples: Mapping[str, Path] | None) -> list[dict[str, Any]]:
    """The wrong decisions that were furthest from the threshold, with planes of their samples if these are given."""
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
    return [_error(judged, row, one, samples) for _, row, one in found[:_MOST_ERRORS]]


def _error(
    judged: EvaluationFolder, row: int, one: ClassJudgement, samples: Mapping[str, Path] | None
) -> dict[str, Any]:
    case_id = judged.case_ids[row]
    if judged.multi_label:
        truth, decision = ("present" if one.y[row] else "absent"), ("present" if one.called[row] else "absent")
    else:
        truth, decision = judged.classes[judged.labels[row]], judged.classes[judged.decided[row]]
    sample = None if samples is None else samples.get(case_id)
    return {
        "case": hashed("case", case_id),
        "output": one.name,
        "truth": truth,
        "decision": decision,
        "p": float(one.p[row]),
        "picture": "" if sample is None else _planes(sample),
    }


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
