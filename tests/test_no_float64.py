"""Apple's MPS has no float64: whatever runs on a device stays in float32. The meta device stands for it here."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace
from typing import get_args

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from hilum.cohorts.dataset import to_float
from hilum.deciding.inference import case_logits
from hilum.deciding.tta import Views
from hilum.modelling.augmenting.augment import Augment
from hilum.modelling.device import tensor_like
from hilum.modelling.input import model_input
from hilum.modelling.losses.make import make_loss
from hilum.predicting import Predictor
from hilum.preparing import prepare_path
from hilum.settings.augmentation import PROBABILITIES
from hilum.settings.imbalance import LossConfig, LossName
from hilum.settings.presets import preset
from hilum.settings.recipe import Recipe
from hilum.settings.run import RunConfig
from hilum.training.second_stage import features_of

META = torch.device("meta")
aten = torch.ops.aten


class WithoutFloat64(TorchDispatchMode):
    """A device (meta) that computes nothing and refuses float64, as MPS does; what is copied from it is 0."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # what is made of other operations comes back as those; in inference mode it has not been yet
            made = func.decompose(*args, **kwargs)
        if made is not NotImplemented:
            return made
        source = next((t for t in tree_leaves(args) if isinstance(t, torch.Tensor)), None)
        of_device = source is not None and source.device.type == "meta"
        target = kwargs.get("device")
        if func is aten._to_copy.default and target is not None and torch.device(target).type == "meta":
            self.check([source])  # a float64 tensor must not set out for the device, whatever it becomes there
        if func is aten._to_copy.default and of_device and target is not None and torch.device(target).type == "cpu":
            self.check([torch.empty(0, dtype=kwargs.get("dtype") or source.dtype)])
            return torch.zeros(source.shape, dtype=kwargs.get("dtype") or source.dtype)
        if func is aten._local_scalar_dense.default and of_device:
            return 1 if not source.is_floating_point() else 1.0
        out = func(*args, **kwargs)
        self.check([t for t in tree_leaves(out) if isinstance(t, torch.Tensor) and t.device.type == "meta"])
        return out

    @staticmethod
    def check(tensors):
        if any(t.dtype == torch.float64 for t in tensors):
            msg = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64."
            raise TypeError(msg)


@pytest.fixture(autouse=True)
def _lacking(monkeypatch):
    """The meta device has no random numbers of its own, and no autocast."""
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    monkeypatch.setattr(torch, "Generator", lambda device=None: SimpleNamespace(manual_seed=lambda seed: None))


def test_the_stand_in_refuses_what_mps_refuses():
    for attempt in (
        lambda: torch.zeros(2, device=META).double(),
        lambda: torch.zeros(2, dtype=torch.float64, device=META),
        lambda: torch.zeros(2, dtype=torch.float64).to(META),
        lambda: torch.tensor(np.float64([1.0])).to(torch.zeros(1, device=META)),
        lambda: torch.zeros(2, device=META).double().cpu(),
    ):
        with WithoutFloat64(), pytest.raises(TypeError, match="doesn't support float64"):
            attempt()
    with WithoutFloat64():
        assert torch.zeros(2, device=META).cpu().double().tolist() == [0, 0]
        assert tensor_like(np.ones(3), torch.zeros(1, device=META)).dtype == torch.float32


def _hu(device=META) -> torch.Tensor:
    return to_float(torch.zeros(2, 1, 12, 12, 12, dtype=torch.int16), device)


def _recipe(outside="air", **changes) -> Recipe:
    return Recipe(region="whole", size=(12, 12, 12), spacing_mm=(2.0, 2.0, 2.0), outside=outside, **changes)


EVERYTHING = replace(preset("strong", _recipe()), **(dict.fromkeys(PROBABILITIES, 1.0) | {"mixup": 0.5, "cutmix": 0.5}))


@pytest.mark.parametrize("outside", ["air", "edge"])
def test_no_augmentation_makes_float64_on_the_device(outside):
    augment = Augment(EVERYTHING, _recipe(outside), seed=1)
    with WithoutFloat64():
        for epoch in range(8):
            x = augment(_hu(), np.full((2, 3), 2.0), ["a", "b"], epoch=epoch)
            x, target = augment.mixed(x, torch.zeros(2, 2).to(META), ["a", "b"], epoch=epoch)
            assert x.dtype == target.dtype == torch.float32
            assert model_input(x, _recipe().windows).dtype == torch.float32


@pytest.mark.parametrize("name", get_args(LossName))
@pytest.mark.parametrize(
    "labels", [np.array([0, 1, 1]), np.array([[0, 1], [1, 0], [1, 1]])], ids=["classes", "findings"]
)
def test_no_loss_makes_float64_on_the_device(name, labels):
    if name == "auto":
        return
    weighted = name in ("cross-entropy", "focal", "poly1")
    config = RunConfig(loss=LossConfig(name=name, class_weights="inverse" if weighted else "none"))
    with WithoutFloat64():
        loss = make_loss(config, np.array(labels), ("a", "b")).to(META)
        logits = torch.zeros(3, 2, device=META, requires_grad=True)
        target, counts = torch.zeros(3, 2).to(META), torch.ones(3).to(META)
        value = loss(logits, target, counts) * loss.weights(target, target, counts).sum() / 3.0
        value.backward()
        assert logits.grad.dtype == torch.float32


@pytest.mark.parametrize("aggregate", ["", "mean", "max"])
@pytest.mark.parametrize("views", [None, Views(count=3, augment=preset("standard", _recipe()))], ids=["plain", "views"])
def test_prediction_with_and_without_views_makes_no_float64_on_the_device(trained_run, npy_cohort, aggregate, views):
    predictor = Predictor(trained_run / "model", device="cpu")
    predictor.device = META
    predictor.network = predictor.network.to(META)
    predictor.card = replace(predictor.card, views=views)
    sample = prepare_path(npy_cohort / "01.npy", predictor.card.recipe)
    with WithoutFloat64():
        (prediction,) = predictor.predict_samples([sample])
        if aggregate:
            many = replace(predictor.card.recipe, sub_volumes=True, aggregate=aggregate)
            parts = {
                "hu": torch.zeros(1, 12, 12, 18, dtype=torch.int16),
                "starts": torch.tensor([[0, 0, 0], [0, 0, 6]]),
            }
            sample = parts | {"spacing_mm": torch.full((3,), 2.0, dtype=torch.float64)}
            assert case_logits(predictor.network, [sample], many, META, views).dtype == torch.float32
    assert sum(prediction.probabilities.values()) == pytest.approx(1)


def test_features_for_the_second_stage_leave_the_device_before_they_become_double(trained_run):
    network = Predictor(trained_run / "model", device="cpu").network.to(META)
    dataset = SimpleNamespace(recipe=_recipe())
    samples = [{"hu": torch.zeros(1, 12, 12, 12, dtype=torch.int16)}] * 3
    cases = type("Cases", (list,), {"recipe": dataset.recipe})(samples)
    with WithoutFloat64():
        unchecked(features_of)(network, cases, META, 2)


def unchecked(function):
    """Without the checks of annotations: the cases here are no data set."""
    while hasattr(function, "__wrapped__"):
        function = function.__wrapped__
    return function
