"""``hilum ensemble``: makes one calibrated ensemble of several runs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class MakeEnsemble:
    """Make one calibrated ensemble of runs that were trained on the same cases with the same split and recipe.

    Networks, losses and seeds may differ. Runs of folds are calibrated on their predictions out of fold, single runs on
    their validation part. The new folder can be named wherever a run or model is.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Run folders: all of folds, or all single."""

    out: Path
    """The new folder; must not exist, or be empty."""

    def run(self) -> int:
        """Make the ensemble, and judge it on cases that its members, each in its turn, have not seen."""
        from hilum.judging import evaluate, headline
        from hilum.training.merge import ensemble
        from hilum.training.run_folder import Run

        model = ensemble(self.runs, self.out)
        evaluation = evaluate(self.out)
        print(headline(evaluation))
        print(f"model: {model}")
        print(f"report: {Run(self.out).evaluation / 'report.html'}")
        return 3 if evaluation.get("lost_members") else 0
