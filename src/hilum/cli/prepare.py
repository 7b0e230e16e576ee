"""``hilum prepare``: every case of a config into the store."""

from dataclasses import dataclass
from pathlib import Path

import tyro


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Every case of a config into the store, so that training starts at once."""

    config: tyro.conf.Positional[Path]
    """CONFIG.toml."""

    def run(self) -> int:
        """Prepare, and list what was refused."""
        from hilum.cohorts.prepared import prepare_cohort
        from hilum.cohorts.table import Cohort
        from hilum.configfile import load
        from hilum.preparing import Store

        config, base = load(self.config), self.config.parent
        cohort = Cohort.read(base / config.cohort.table, config.cohort)
        store = Store(base / config.store, config.reading)
        prepared = prepare_cohort(cohort, config.recipe, store)
        for refusal in prepared.refusals:
            print(f"refused, row {refusal.row}: {refusal.reason}")
        if prepared.notes:
            print(f"findings: {prepared.notes}")
        print(f"{store.folder}: {len(prepared.cases)} samples, {len(prepared.refusals)} refused")
        return 0
