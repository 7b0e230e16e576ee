"""The whole pipeline on a simulated cohort: scans on disk to a trained, judged model and a prediction."""

import json
import logging
from pathlib import Path

import numpy as np

from hilum.cohorts.split_file import read_splits
from hilum.cohorts.table import Cohort
from hilum.errors import ConfigError
from hilum.files import write_whole
from hilum.judging import evaluate, headline
from hilum.measuring.metrics import roc_auc
from hilum.modelling.speed import PLAIN
from hilum.predicting import Predictor
from hilum.preparing import segment_lungs
from hilum.reading.doctor import examine
from hilum.reading.reader import read
from hilum.settings.run import (
    CardConfig,
    CohortConfig,
    LossConfig,
    ModelConfig,
    Recipe,
    RunConfig,
    SplitConfig,
    TrainingConfig,
)
from hilum.settings.toml import save
from hilum.simulating import simulate_cohort
from hilum.training.train import train

_log = logging.getLogger("hilum")

NUM_CASES = 220


def demo(out: Path, *, seed: int = 0, num_cases: int = NUM_CASES) -> dict[str, object]:
    """Simulate chest CTs as DICOM series, train a 3D ResNet to detect disease, and judge it.

    Args:
        out: A new or empty folder, which gets the cohort, ``config.toml`` and ``run/``.
        seed: Seed of the cohort, the split and the training.
        num_cases: Scans to simulate; a fifth of them are diseased.

    Returns:
        The content of ``run/evaluation/evaluation.json``.

    Raises:
        ConfigError: If the folder is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"the demo's folder {out} must be new or empty"
        raise ConfigError(msg)
    _log.info("1. Simulating %d chest CTs, a fifth of them diseased, written as DICOM series ...", num_cases)
    table = simulate_cohort(out, num_cases=num_cases, seed=seed)

    cohort = Cohort.read(table, CohortConfig())
    examined = examine(cohort.cases[0].path)[0][0]
    spacing = " x ".join(f"{s:g}" for s in examined.spacing_mm or ())
    _log.info(
        "2. The first of them: %d slices of %d x %d pixels, %s mm (z, y, x), kernel %s: %s",
        examined.num_slices, *examined.size, spacing, examined.kernel, examined.verdict,
    )  # fmt: skip

    config = out / "config.toml"
    save(settings_for(table, seed), config)
    _log.info("3. Preparing the lungs and training a 3D ResNet by %s ...", config)
    model = train(config, out / "run")

    _log.info("4. Judging on patients that the model has never seen ...")
    pictures = out / "run" / "evaluation"
    evaluation = evaluate(out / "run")
    mean_hu = _mean_hu_auc(cohort, read_splits(out / "run" / "splits.csv").parts)
    evaluation["mean_lung_hu_auc"] = mean_hu
    write_whole(pictures / "mean_lung_hu.json", json.dumps({"auc": mean_hu}) + "\n")

    new = simulate_cohort(out / "new", num_cases=1, seed=seed + 1, diseased=1.0)
    scan = Cohort.read(new, CohortConfig()).cases[0]
    prediction = Predictor(model).predict(scan.path)
    _log.info(
        "5. A new scan, %s (%s): P(diseased) = %.3f, threshold %.3f, decision %s",
        scan.case_id, scan.groups["disease"], prediction.probabilities["1"], prediction.thresholds["1"],
        prediction.decision,
    )  # fmt: skip

    _log.info("test: %s", headline(evaluation))
    _log.info("the mean HU of the lungs alone, on the same cases: AUC %.3f", mean_hu)
    _log.info("report: %s", pictures / "report.html")
    return evaluation


def settings_for(table: Path, seed: int) -> RunConfig:
    """Settings with which a laptop's CPU trains in minutes."""
    return RunConfig(
        cohort=CohortConfig(table=table.name, classes=("0", "1")),
        split=SplitConfig(val=0.15, test=0.3, seed=seed),
        recipe=Recipe(region="lungs", size=(48, 40, 56), spacing_mm=(6.0, 6.0, 6.0)),
        model=ModelConfig(depth=18, width=16),
        loss=LossConfig(class_weights="inverse"),
        training=TrainingConfig(epochs=40, batch_size=8, schedule="one-cycle", stop_patience=0, seed=seed),
        card=CardConfig(
            intended_use="A demonstration on simulated chests; of no use for patients.",
            label_origin="The simulation: whether a disease was drawn into the chest.",
        ),
        speed=PLAIN,  # without faster paths, so that machines give the same figures as far as possible
    )


def _mean_hu_auc(cohort: Cohort, parts: dict[str, str]) -> float:
    """AUC of the mean HU inside the lungs on the test cases, denser counting as diseased: a baseline."""
    cases = [case for case in cohort.cases if parts.get(case.case_id) == "test"]
    means = []
    for case in cases:
        volume = read(case.path)
        means.append(float(volume.voxels_hu[segment_lungs(volume).mask].mean()))
    return roc_auc(np.array([case.label for case in cases], int), np.array(means))
