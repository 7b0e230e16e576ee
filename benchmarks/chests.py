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
from jaxtyping import Float, Int16

from hilum.preparing import prepare
from hilum.randomness import generator
from hilum.settings.recipe import Recipe
from hilum.settings.run import CohortConfig, ModelConfig, RunConfig, SplitConfig, TrainingConfig
from hilum.settings.toml import save
from hilum.simulating import Truth, sample_anatomy, sample_disease, sample_lesion, sample_scanner, simulate_scan
from hilum.training.run_folder import Run
from hilum.volume import AIR_HU, Volume

RECIPE = Recipe(region="lung-field", size=(80, 72, 96), spacing_mm=(3.0, 3.0, 3.0), outside_lungs="air")
MASS_MM = (20.0, 35.0)
BOX = (40, 40, 40)
"""Voxels of the boxes that training begins with."""
SHIFT = 10
"""Largest distance of the mass from the centre of its box, in voxels along each axis."""
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


def train_model(out: Path, num_cases: int, epochs: tuple[int, int], jobs: int) -> Run:
    """Train on simulated chests, half of them with a mass; ``epochs`` are those of boxes and of chests.

    Training begins with boxes of 120 mm, of a mass or of lung anywhere: from whole chests alone, of which a mass is one
    part in a thousand, the network learned nothing in six epochs of 2,000 of them. What is there already is kept.
    """
    run = Run(out / "run")
    if run.state == "whole":
        return run
    chests = [Chest(part="train", number=i, diseased=i % 2 == 0) for i in range(num_cases)]
    for name in ("chests", "boxes"):
        (out / name).mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs) as pool:
        list(pool.map(_write, chests, [out] * num_cases, chunksize=4))
    _train(Run(out / "boxes-run"), out, "boxes", chests, BOX, epochs[0], jobs)
    _train(run, out, "chests", chests, RECIPE.size, epochs[1], jobs, begin=out / "boxes-run" / "model")
    return run


def _train(
    run: Run,
    out: Path,
    name: str,
    chests: list[Chest],
    size: tuple[int, int, int],
    epochs: int,
    jobs: int,
    begin: Path | None = None,
) -> None:
    """Train on prepared volumes, by the command line as a user would; a broken run goes on."""
    if run.state == "whole":
        return
    with (out / f"{name}.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["case_id", "path", "label", "patient_id"])
        rows.writerows([one.name, f"{name}/{one.name}.npy", int(one.diseased), one.name] for one in chests)
    settings = RunConfig(
        cohort=CohortConfig(table=f"{name}.csv"),
        split=SplitConfig(val=0.15, test=0.05),
        recipe=Recipe(region="whole", size=size, spacing_mm=RECIPE.spacing_mm, npy_range="hu"),  # as they were prepared
        model=ModelConfig(depth=18, width=16),
        training=TrainingConfig(
            epochs=epochs, schedule="one-cycle", stop_patience=0, weights="" if begin is None else str(begin)
        ),
    )
    if run.state != "begun":
        save(settings, out / f"{name}.toml")
    command = ["train", str(out / f"{name}.toml"), "--out", str(run.folder)]
    command += ["--resume"] if run.state == "begun" else []
    subprocess.run([sys.executable, "-c", HILUM, *command], check=True, env=os.environ | {"OMP_NUM_THREADS": str(jobs)})


def _write(chest: Chest, out: Path) -> None:
    """Write the prepared sample of a chest and a box of it."""
    whole, box = (out / name / f"{chest.name}.npy" for name in ("chests", "boxes"))
    if whole.exists() and box.exists():
        return
    volume, truth = simulate(chest)
    sample = prepare(volume, RECIPE)
    for path, voxels in ((whole, sample.voxels_hu), (box, _box_of(sample, truth, chest))):
        partial = path.with_suffix(".part.npy")
        np.save(partial, voxels)
        partial.replace(path)


def _box_of(sample: Volume, truth: Truth, chest: Chest) -> Int16[np.ndarray, "z y x"]:
    """A box around the mass, or around any voxel of aerated lung, off centre by a random shift."""
    rng, hu = generator(0, "boxes", chest.name), sample.voxels_hu
    lung = np.argwhere((hu > -950) & (hu < -500))
    centre: Float[np.ndarray, "3"] = lung[rng.integers(len(lung))].astype(float)
    if chest.diseased:
        centre = sample.mm_to_index(truth.lesions[-1].centre_mm)
    start = np.rint(centre + rng.integers(-SHIFT, SHIFT + 1, 3)).astype(
        int
    )  # of the box, after the padding by its half
    half = [n // 2 for n in BOX]
    padded = np.pad(hu, [(h, h) for h in half], constant_values=AIR_HU)
    start = np.clip(start, 0, np.array(hu.shape))
    return padded[tuple(slice(s, s + n) for s, n in zip(start, BOX, strict=True))]
