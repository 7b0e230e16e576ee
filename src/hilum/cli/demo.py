"""``hilum demo``: runs the whole pipeline on a simulated cohort."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Demo:
    """Run the pipeline on a simulated cohort: DICOM series, preparing, training, figures, prediction of a new scan."""

    out: Path = Path("runs/demo")
    """A new or empty folder."""

    seed: int = 0
    """Seed of the cohort, the split and the training."""

    def run(self) -> int:
        """Run the demo."""
        from hilum.demo import demo

        demo(self.out, seed=self.seed)
        return 0
