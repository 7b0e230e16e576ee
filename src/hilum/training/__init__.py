"""Settings and a cohort to a run folder: the loop, its rate, its checkpoints and its record."""

from hilum.training.loop import fit
from hilum.training.run import train

__all__ = ["fit", "train"]
