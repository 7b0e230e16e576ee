"""``hilum prepare``: prepares every case of a config into the store."""

import sys
from dataclasses import dataclass, replace
from pathlib import Path

from hilum.cli.arguments import ConfigPath
from hilum.errors import require


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Prepare every case of a config into the store, so that training starts at once; continues after a stop.

    Exits with 3 if some cases were refused; the store then holds the rest.
    """

    config: ConfigPath
    """CONFIG.toml."""

    workers: int = 0
    """Scans at once, if memory allows; 0: one for each core."""

    store_gb: float | None = None
    """Largest size of the store, in GB, instead of the config's."""

    def __post_init__(self) -> None:
        require(self.workers >= 0, "workers", "at least 0", self.workers)

    def run(self) -> int:
        """Prepare, and list the refused cases."""
        from hilum.cohorts.prepared import prepare_cohort
        from hilum.cohorts.table import Cohort
        from hilum.preparing import Store
        from hilum.settings.toml import load

        config = load(self.config)
        if self.store_gb is not None:
            config = replace(config, store_gb=self.store_gb)
        config.recipe.check_complete()
        cohort = Cohort.read(config.cohort.table, config.cohort)
        store = Store(Path(config.store), config.reading, max_gb=config.store_gb)
        listed = store.folder / "refused.csv"
        prepared = prepare_cohort(cohort, config.recipe, store, workers=self.workers, listed=listed)
        for warning in (*cohort.warnings, *prepared.copies.warnings):
            sys.stderr.write(f"{warning}\n")
        for refusal in prepared.refusals:
            print(f"refused, row {refusal.row}: {refusal.reason}")
        if prepared.notes:
            print(f"findings: {prepared.notes}")
        counts = f"{len(prepared.cases)} samples, {prepared.num_there} were there, {len(prepared.refusals)} refused"
        print(f"{store.folder}: {counts}" + (f", listed in {listed.name}" if prepared.refusals else ""))
        return 3 if prepared.refusals else 0
