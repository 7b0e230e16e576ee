"""``hilum report``: writes the report of an evaluation as one HTML file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass(frozen=True, kw_only=True)
class MakeReport:
    """Write the report of an evaluation again: one HTML file that opens from disk without a network.

    The page shows the figures of evaluation.json, curves, subgroups, baselines, the audit, errors and the model card.
    By default it holds no pixels of patients and merges groups under ten cases.
    """

    source: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN|EVALUATION")]
    """A run folder that has been judged, or a folder that hilum evaluate wrote."""

    out: Path | None = None
    """The HTML file; by default report.html in the evaluation folder."""

    pictures: bool = False
    """Show planes and maps of the most certain errors, of a run's own test part; the page must then not be shared."""

    def run(self) -> int:
        """Write the page and print its path."""
        from hilum.judging import report
        from hilum.judging.evaluate import own_pictures

        print(report(self.source, self.out, pictures=own_pictures(self.source) if self.pictures else None))
        return 0
