"""A config to a run folder: the table is read, split and prepared before anything is written, then the model fitted."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from hilum.cohorts.prepared import prepare_cohort, write_refusals
from hilum.cohorts.splits import split, write_splits
from hilum.cohorts.table import Cohort
from hilum.config import RunConfig
from hilum.configfile import load, save
from hilum.errors import ConfigError
from hilum.preparing import Store
from hilum.training.loop import fit

_log = logging.getLogger("hilum")


def train(config: RunConfig | str | Path, out: str | Path, *, base: str | Path = ".", resume: bool = False) -> Path:
    """Train a classifier.

    Args:
        config: Settings, or the TOML file that holds them.
        out: The run folder; must be new or empty unless a run is resumed.
        base: Folder to which the settings' paths are relative; that of the file, where there is one.
        resume: Go on after the last whole epoch of the run in ``out``, with that run's own settings and split.

    Returns:
        The model folder, ``out/model``.

    Raises:
        HilumError: If the table, the scans or the settings are not usable; nothing is written then.
    """
    out = Path(out)
    if not isinstance(config, RunConfig):
        base, config = Path(config).parent, load(Path(config))
    if resume:
        if not (out / "last").is_dir():
            msg = f"{out} cannot be resumed: it holds no last/"
            raise ConfigError(msg)
        base, config = out, load(out / "config.toml")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        msg = f"the run folder {out} must be new or empty (or resume the run in it)"
        raise ConfigError(msg)
    table, store = Path(base) / config.cohort.table, Path(base) / config.store
    if not config.cohort.table:
        msg = "cohort.table must name the table of cases"
        raise ConfigError(msg)
    cohort = Cohort.read(table, config.cohort)
    for warning in cohort.warnings:
        _log.warning("%s", warning)
    parts = split(cohort, config.split)
    prepared = prepare_cohort(
        cohort,
        config.recipe,
        Store(store),
        npy_range=config.cohort.npy_range,
        max_refused=config.cohort.max_refused,
    )
    for refusal in prepared.refusals:
        _log.warning("refused, row %d: %s", refusal.row, refusal.reason)
    out.mkdir(parents=True, exist_ok=True)
    here = replace(
        config,
        cohort=replace(config.cohort, table=os.path.relpath(table, out)),
        store=os.path.relpath(store, out),
    )
    save(here, out / "config.toml")
    write_splits(out / "splits.csv", cohort, parts)
    write_refusals(out / "refused.csv", prepared.refusals)
    return fit(config, prepared, parts, cohort.classes, out, resume=resume)
