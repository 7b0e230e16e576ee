"""A script of a user, which type checkers check against the package; it is not run."""

from pathlib import Path
from typing import Any, assert_type

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

import hilum


def reads_and_prepares() -> None:
    """Scans, lungs and samples."""
    scan = hilum.read("scan.nii.gz")
    assert_type(scan, hilum.Volume)
    assert_type(scan.spacing_mm, tuple[float, float, float])
    assert_type(scan.findings, tuple[hilum.Finding, ...])
    darkest: np.ndarray[Any, Any] = scan.voxels_hu.min(axis=0)
    print(darkest.shape, scan.affine @ np.array([0, 0, 0, 1]), [finding.code for finding in scan.findings])
    lungs = hilum.segment_lungs(scan)
    assert_type(lungs.right_ml, float)
    recipe = hilum.Recipe(region="lungs", size=(48, 56, 64), spacing_mm=(6.0, 6.0, 6.0))
    assert_type(hilum.prepare(scan, recipe, lungs=lungs), hilum.Volume)
    assert_type(hilum.prepare(scan, hilum.Recipe(region="point"), point_mm=(10.0, -20.0, 30.0)), hilum.Volume)
    scan.write("copy.nrrd")


def trains_and_judges() -> None:
    """Training, evaluation, prediction."""
    model = hilum.train("config.toml", "runs/first")
    assert_type(model, Path)
    figures = hilum.evaluate("runs/first")
    auc: float = figures["auc"]
    print(f"AUC {auc:.3f}", figures["auc_ci"])
    predictor = hilum.Predictor(model, device="cpu")
    prediction = predictor.predict("scan.nii.gz", point_mm=np.zeros(3))
    assert_type(prediction, hilum.Prediction)
    assert_type(prediction.probabilities, dict[str, float])
    assert_type(prediction.decision, str)
    assert_type(hilum.report("runs/first"), Path)
    assert_type(hilum.train_folds("config.toml", "runs/folds", folds=5), Path)
    assert_type(hilum.ensemble(["runs/first", "runs/second"], "runs/both"), Path)


def has_a_loop_of_its_own() -> None:
    """The data sets, network and losses in plain PyTorch."""
    recipe = hilum.Recipe(region="lungs")
    parts = hilum.datasets("config.toml")
    part: Dataset[Any] = parts["train"]
    network = hilum.resnet18_3d(num_classes=2)
    assert_type(network, hilum.ResNet3D)
    loss = hilum.FocalLoss(gamma=2.0, alpha=[0.25, 0.75])
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for batch in DataLoader(part, batch_size=8):
        value = loss(network(hilum.model_input(batch["hu"], recipe.windows)), batch["target"])
        value.backward()
        optimizer.step()
    assert_type(hilum.class_weights([0, 0, 1], num_classes=2).tolist(), Any)
    assert_type(hilum.__version__, str)
