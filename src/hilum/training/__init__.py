"""Settings and a prepared cohort to a run folder: the loop, its rate, its checkpoints and its record."""

from hilum.training.loop import fit

__all__ = ["fit"]
