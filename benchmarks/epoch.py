"""What an epoch costs beside its bare steps: ResNet-18 at 64 cubed, samples in the store, augmented and not.

    python benchmarks/epoch.py [--rounds 5] [--quick] [--json]

``bare``: forward, backward, clipping and optimizer step on batches that are in memory. ``epoch``: Hilum's own loop
over the same batches, which loads them from the store. Both are computed in the way that is chosen for this machine.
The rows take turns, each figure is a median, and the ratio is that of the medians. Then what follows an epoch: the
statistics of batch norm (of all 96 cases here, of 256 at most), and the validation of as many.
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import line, machine

from hilum.cohorts.dataset import SplitCohort
from hilum.cohorts.prepared import prepare_cohort
from hilum.cohorts.table import Cohort
from hilum.modelling.augmenting.augment import Augment
from hilum.modelling.input import model_input
from hilum.modelling.losses.make import make_loss
from hilum.modelling.memory import kept_memory
from hilum.preparing import Store
from hilum.settings.presets import preset
from hilum.settings.run import CohortConfig, ModelConfig, Recipe, RunConfig, TrainingConfig
from hilum.training.decided_settings import decided
from hilum.training.epoch import Learner, run_epoch, validate
from hilum.training.fit import fabric_of, network_of_run
from hilum.training.kept_weights import KeptWeights
from hilum.training.optimizer import make_optimizer
from hilum.training.part_loader import PartLoader
from hilum.training.run_folder import Run
from hilum.training.saver import Saver
from hilum.training.schedule import Schedule
from hilum.training.state import TrainingState
from hilum.training.tracking import Tracker

SIZE, BATCH = 64, 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one round of four batches of a thin network")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = machine("torch")
    print(line(found), flush=True)
    rounds = 1 if args.quick else args.rounds
    with tempfile.TemporaryDirectory(prefix="hilum-") as name:
        rows = _rows(Path(name), 4 if args.quick else 12, rounds, 4 if args.quick else 64)
    bare = rows["bare steps"]
    result = {
        "rounds": rounds,
        "seconds": rows,
        "ratio_of_an_epoch": rows["epoch"] / bare,
        "share_of_augmentation": 1 - rows["epoch"] / rows["epoch, augmented"],
        "machine": found,
    }
    print(f"\nResNet-18 at {SIZE} cubed, batches of {BATCH}; seconds of an epoch")
    for row, seconds in rows.items():
        print(f"  {row:<28}{seconds:8.2f} s   {seconds / bare:6.3f} of the bare steps")
    print(f"  augmentation (standard) is {result['share_of_augmentation']:.1%} of an epoch")
    if args.json:
        print(json.dumps(result))


def _rows(folder: Path, num_batches: int, rounds: int, width: int) -> dict[str, float]:
    config, data = _cohort(folder, num_batches, width)
    config = decided(config, data)
    plain, augmented = (_Epoch(folder / n, replace(config, augment=preset(n, config.recipe)), data)
                        for n in ("none", "standard"))  # fmt: skip
    ways: dict[str, Callable[[], None]] = {
        "bare steps": plain.bare,
        "epoch": plain.epoch,
        "epoch, augmented": augmented.epoch,
        "statistics of batch norm": plain.kept.after_epoch,
        "validation": plain.validate,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    with kept_memory(config.speed.keep_memory == "on"):
        for number in range(1 + rounds):  # the first is a warm-up
            for name, way in ways.items():
                started = time.perf_counter()
                way()
                if number:
                    seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times) for name, times in seconds.items()}


class _Epoch:
    """The loop of a run, and the bare steps of the same batches."""

    def __init__(self, folder: Path, config: RunConfig, data: SplitCohort) -> None:
        self.part = PartLoader(data.dataset("train", config.recipe), config, seed=0)
        self.val = PartLoader(data.dataset("train", config.recipe), config)
        network, _ = network_of_run(config, 2, load=False)
        fabric = fabric_of(torch.device("cpu"), config.speed.precision)
        steps = self.part.batches.num_batches
        schedule = Schedule(config.training, make_optimizer(config.training, network, fabric.device), steps)
        self.kept = KeptWeights(network, config, self.part.dataset, steps)
        self.state = TrainingState(self.kept, schedule, None, self.part.dataset)
        self.saver = Saver(self.state, Run(folder), minutes=1e6)
        model, self.optimizer = fabric.setup(network, schedule.optimizer)
        self.learner = Learner(
            config=config,
            fabric=fabric,
            model=model,
            kept_model=fabric.setup_module(self.kept.network),
            auxiliary=None,
            augment=Augment(config.augment, config.recipe),
            loss=make_loss(config, self.part.dataset.labels, ("0", "1")),
            tracker=Tracker(folder, [], 1),
        )
        self.batches = [
            (
                model_input(batch["hu"].float(), config.recipe.windows),
                self.part.dataset.targets_of(batch["index"].tolist()),
            )
            for batch in self.part.load(1, "batches")
        ]

    def epoch(self) -> None:
        """One epoch of Hilum's loop."""
        self.state.progress.step = 0
        self.state.running = self.state.new_metrics()
        run_epoch(self.learner, self.part, self.state, self.saver)

    def bare(self) -> None:
        """The steps alone."""
        learner = self.learner
        learner.model.train()
        for x, target in self.batches:
            self.optimizer.zero_grad()
            learner.fabric.backward(learner.loss(learner.model(x), target))
            learner.fabric.clip_gradients(learner.model, self.optimizer, max_norm=1.0, error_if_nonfinite=False)
            self.optimizer.step()

    def validate(self) -> None:
        """The validation of as many cases."""
        validate(self.learner, self.val)


def _cohort(folder: Path, num_batches: int, width: int) -> tuple[RunConfig, SplitCohort]:
    """Random volumes in a store."""
    random = np.random.default_rng(0)
    rows = ["case_id,path,label,patient_id"]
    for i in range(num_batches * BATCH):
        np.save(folder / f"{i}.npy", random.random((SIZE, SIZE, SIZE), dtype=np.float32))
        rows.append(f"c{i},{i}.npy,{i % 2},P{i}")
    (folder / "cohort.csv").write_text("\n".join(rows) + "\n")
    config = RunConfig(
        cohort=CohortConfig(table=str(folder / "cohort.csv")),
        recipe=Recipe(region="whole", size=(SIZE,) * 3, spacing_mm=(4.0, 4.0, 4.0)),
        model=ModelConfig(depth=18, width=width),
        training=TrainingConfig(batch_size=BATCH, device="cpu"),
    )
    cohort = Cohort.read(folder / "cohort.csv", config.cohort)
    prepared = prepare_cohort(cohort, config.recipe, Store(folder / "store"))
    parts: dict[str, Any] = dict.fromkeys((case.case_id for case in cohort.cases), "train")
    return config, SplitCohort(cohort=cohort, prepared=prepared, parts=parts)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    main()
