"""Simulated chests of which half have one mass, and a model trained on them: what ``explain.py`` measures maps with.

The mass has a diameter of 20 to 35 mm. Scanner, body and benign lesions do not depend on it.
"""

import csv
import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hilum.preparing import prepare
from hilum.randomness import generator
from hilum.settings.recipe import Recipe
from hilum.settings.run import CohortConfig, ModelConfig, RunConfig, SplitConfig, TrainingConfig
from hilum.settings.toml import save
from hilum.simulating import Truth, sample_anatomy, sample_disease, sample_lesion, sample_scanner, simulate_scan
from hilum.training.run_folder import Run
from hilum.volume import Volume

RECIPE = Recipe(region="lung-field", size=(80, 72, 96), spacing_mm=(3.0, 3.0, 3.0), outside_lungs="air")
"""The model sees the lung fields alone: with the whole chest it did not learn to see one mass among 2,000 chests."""
MASS_MM = (20.0, 35.0)
HILUM = "import sys; from hilum.cli import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chest:
    """A chest to simulate.

    Attributes:
        part: ``train`` or ``test``: other patients.
        number: Number within the part.
        diseased: Whether it has a mass.
    """

    part: str
    number: int
    diseased: bool

    @property
    def name(self) -> str:
        """Key of its random numbers."""
        return f"{self.part}-{'mass' if self.diseased else 'healthy'}-{self.number:04d}"


def simulate(chest: Chest) -> tuple[Volume, Truth]:
    """Simulate a chest: benign lesions as in any chest, and the mass as the last lesion."""
    rng = generator(0, "explain", chest.name)
    anatomy = sample_anatomy(rng)
    lesions = sample_disease(anatomy, "none", rng=rng)
    scanner = sample_scanner(rng, pixel_mm=2.0, pixels=192)
    scanner = replace(scanner, thickness_mm=2.5, increment_mm=2.5)
    if chest.diseased:
        mass = sample_lesion(anatomy, "mass", rng=rng)
        lesions = (*lesions, replace(mass, diameter_mm=float(rng.uniform(*MASS_MM))))
    return simulate_scan(0, key=chest.name, anatomy=anatomy, lesions=lesions, scanner=scanner)


def train_model(out: Path, num_cases: int, epochs: int, jobs: int) -> Run:
    """Train on simulated chests, half of them with a mass; what is there already is kept."""
    run, folder = Run(out / "run"), out / "chests"
    if run.state == "whole":
        return run
    chests = [Chest(part="train", number=i, diseased=i % 2 == 0) for i in range(num_cases)]
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs) as pool:
        list(pool.map(_write, chests, [folder] * num_cases, chunksize=4))
    with (out / "chests.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case_id", "path", "label", "patient_id"])
        rows.writerows([one.name, f"chests/{one.name}.npy", int(one.diseased), one.name] for one in chests)
    settings = RunConfig(
        cohort=CohortConfig(table="chests.csv"),
        split=SplitConfig(val=0.15, test=0.05),
        recipe=Recipe(region="whole", size=RECIPE.size, spacing_mm=RECIPE.spacing_mm, npy_range="hu"),  # as prepared
        model=ModelConfig(depth=18, width=16),
        training=TrainingConfig(epochs=epochs, schedule="one-cycle", stop_patience=0),
    )
    if run.state != "begun":
        save(settings, out / "config.toml")
    command = ["train", str(out / "config.toml"), "--out", str(run.folder)]
    command += ["--resume"] if run.state == "begun" else []
    subprocess.run([sys.executable, "-c", HILUM, *command], check=True, env=os.environ | {"OMP_NUM_THREADS": str(jobs)})
    return run


def _write(chest: Chest, folder: Path) -> None:
    """Write the prepared sample of a chest; chests whose lungs are not found are an error."""
    path = folder / f"{chest.name}.npy"
    if not path.exists():
        partial = path.with_suffix(".part.npy")
        np.save(partial, prepare(simulate(chest)[0], RECIPE).voxels_hu)
        partial.replace(path)
