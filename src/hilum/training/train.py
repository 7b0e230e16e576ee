"""Trains a model from a config: reads, splits and prepares the cohort before anything is written, then fits."""

from pathlib import Path

from hilum.cohorts.links import find_leaks, find_links
from hilum.cohorts.splits import check_parts
from hilum.errors import ConfigError
from hilum.files import user_path
from hilum.modelling.memory import kept_memory
from hilum.settings.run import RunConfig
from hilum.settings.toml import settings_of
from hilum.training.cohort import (
    audited_cohort,
    check_copies,
    joined,
    prepared,
    read_cohort,
    same_cohort,
    were_allowed,
)
from hilum.training.decided_settings import check_abstaining, check_settings, check_weights, decided
from hilum.training.fit import fit
from hilum.training.run_cases import check_unchanged
from hilum.training.run_folder import STATE, Run


def train(
    config: RunConfig | str | Path,
    out: str | Path,
    *,
    base: str | Path = ".",
    resume: bool = False,
    allow_leakage: bool = False,
) -> Path:
    """Train a classifier.

    Patients who share a scan, a study or near copies of a scan count as one when the parts are drawn. Then the cohort
    is audited: where the table's own split puts them into several parts, training stops.

    Args:
        config: Settings, or a TOML file.
        out: The run folder; must be new or empty unless a run is resumed.
        base: Folder to which paths in ``config`` are relative if it is not a file.
        resume: Continue the run in ``out`` after its last complete epoch, with its own settings and split.
        allow_leakage: Train even if the table's own split leaks; the model's card says so.

    Returns:
        The model folder, ``out/model``.

    Raises:
        HilumError: If the table, the scans or the settings are not usable; nothing is written then.
    """
    run = Run(out)
    if resume:
        return _resumed(run)
    inputs = [] if isinstance(config, RunConfig) else [user_path(config)]
    config = settings_of(config, base)
    run.check_new([*inputs, *filter(None, (config.cohort.table, config.training.weights))])
    check_settings(config)
    cohort = read_cohort(config)
    check_abstaining(config, cohort, is_of_folds=False)
    if config.training.weights:
        check_weights(config, Path(config.training.weights), len(cohort.classes))
    data, found = audited_cohort(config, cohort, allow_leakage=allow_leakage)
    config = decided(config, data)
    with run.writing(), run.locked(), kept_memory(config.speed.keep_memory == "on"):
        run.check_new()
        try:
            run.begin(config, cohort, data.prepared, data.parts, found)
            return fit(config, data, run)
        finally:
            run.clear()  # if stopped before the first checkpoint, there is nothing to resume


def _resumed(run: Run) -> Path:
    """Continue a run."""
    if not (run.checkpoint / STATE).is_file():
        msg = f"{run.folder} cannot be resumed: it holds no last/{STATE}"
        raise ConfigError(msg)
    run.check_own()
    config = run.settings
    check_settings(config)
    cohort, splits = same_cohort(run, config)
    data = prepared(config, cohort, splits.parts)
    check_copies(run, data, splits)
    links = find_links(cohort.cases, data.prepared)
    data = joined(data, links, is_accepted=were_allowed(run, find_leaks(links, data.parts)[0]))
    check_unchanged(run, cohort, data.prepared)
    check_parts(data.prepared.cases, data.parts, data.cohort)
    with run.writing(), run.locked(), kept_memory(config.speed.keep_memory == "on"):
        run.remove_temporaries()
        return fit(config, data, run, resume=True)
