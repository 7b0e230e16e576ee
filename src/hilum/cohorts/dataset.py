"""Prepared samples as a torch data set: HU, class and place, nothing random."""

from collections.abc import Iterator
from typing import TypedDict

import numpy as np
import torch
from jaxtyping import Float32, Float64, Int, Int16
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from hilum.cohorts.prepared import PreparedCohort
from hilum.preparing import load_sample
from hilum.randomness import generator


class Sample(TypedDict):
    """What the data set gives for one case: voxels, where it stands in the cohort."""

    hu: Int16[Tensor, "1 z y x"]
    index: int


class CohortDataset(Dataset[Sample]):
    """The cases of a prepared cohort that are in one part.

    Augmentation is the training loop's, so that validation and test cases can never be augmented.

    Attributes:
        indices: Places of this part's cases in the cohort.
        case_ids: Their ids.
        labels: Their classes.
        targets: Their labels as a probability for each class; soft where the table has soft labels.
    """

    def __init__(self, prepared: PreparedCohort, parts: dict[str, str], part: str, num_classes: int) -> None:
        self.prepared = prepared
        self.indices = [i for i, case in enumerate(prepared.cases) if parts[case.case_id] == part]
        cases = [prepared.cases[i] for i in self.indices]
        self.case_ids = [case.case_id for case in cases]
        self.labels: Int[np.ndarray, " n"] = np.array([case.label for case in cases], int)
        self.targets: Float64[np.ndarray, "n c"] = np.eye(num_classes)[self.labels]
        for row, case in enumerate(cases):
            if case.soft_label is not None and num_classes == 2:
                self.targets[row] = 1 - case.soft_label, case.soft_label

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, item: int) -> Sample:
        """The case at a place of this part."""
        volume = load_sample(self.prepared.samples[self.indices[item]])
        return {"hu": torch.from_numpy(np.array(volume.voxels_hu, np.int16))[None], "index": item}


class EpochBatches(Sampler[list[int]]):
    """Batches of an epoch, shuffled by (seed, epoch) alone; without a seed in order.

    A last batch of one case joins the batch before it: batch normalisation cannot be computed on one.

    Attributes:
        epoch: Set before each epoch.
    """

    def __init__(self, num_cases: int, batch_size: int, *, seed: int | None = None) -> None:
        self.num_cases = num_cases
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __iter__(self) -> Iterator[list[int]]:
        order = np.arange(self.num_cases)
        if self.seed is not None:
            order = generator(self.seed, self.epoch, "order").permutation(self.num_cases)
        batches = [order[i : i + self.batch_size].tolist() for i in range(0, self.num_cases, self.batch_size)]
        if len(batches) > 1 and len(batches[-1]) == 1:
            batches[-2:] = [batches[-2] + batches[-1]]
        yield from batches


def to_float(hu: Int16[Tensor, "b 1 z y x"], device: torch.device) -> Float32[Tensor, "b 1 z y x"]:
    """A batch of HU as the network's number type, on its device: int16 travels, half as many bytes."""
    return hu.to(device, non_blocking=True).float()
