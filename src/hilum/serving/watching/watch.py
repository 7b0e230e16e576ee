"""Counts what a service has answered and refused, and compares its scans with those of training."""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from hilum.cohorts.cells import NO_RESULT, UNDECIDED
from hilum.deciding.facts import FACTS
from hilum.errors import ReadError
from hilum.measuring.bootstrap import wilson
from hilum.serving.app.database import opened_database
from hilum.serving.watching.reference import TrainingReference
from hilum.settings.toml import from_dict

_LEAST = 20
"""Results under which nothing is said of a drift (rule of thumb)."""
_RECENT = 0.25
"""Share of the results, the latest, that is compared with those before."""
_UNLIKELY = 0.001
"""p of the Kolmogorov-Smirnov test under which probabilities are said to have changed: it is looked at often."""
_OUTSIDE = 0.1
"""Share of scans outside what training saw that is said (rule of thumb)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A share with Wilson's 95 % interval.

    Attributes:
        count: How many.
        of: Of how many.
    """

    count: int
    of: int

    @property
    def value(self) -> float:
        """The share; 0 of nothing."""
        return self.count / self.of if self.of else 0.0

    @property
    def interval(self) -> tuple[float, float]:
        """Its interval."""
        return wilson(self.value, self.of) if self.of else (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedOutput:
    """Probabilities of a class or label, of scans that have a result.

    Attributes:
        name: Its name.
        count: Number of scans.
        mean: Their mean; calibrated, it is near the share of such patients. None without scans.
        quartiles: 25, 50 and 75 %.
        training: Share of the training cases that have it; None: unknown.
        p_changed: p of the Kolmogorov-Smirnov test between the latest quarter of scans and those before; None: too few.
    """

    name: str
    count: int
    mean: float | None
    quartiles: tuple[float, ...]
    training: float | None
    p_changed: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedFact:
    """A fact of the scans, such as the distance of slices.

    Attributes:
        name: Its name, a key of ``FACTS``.
        words: The same in words.
        unit: Its unit.
        median: Of the scans.
        middle: 5 and 95 % of the scans.
        accepted: What the gate accepts, by what training saw; None: it does not judge this fact.
        outside: Share of the scans outside; None where nothing is judged.
    """

    name: str
    words: str
    unit: str
    median: float
    middle: tuple[float, float]
    accepted: tuple[float, float] | None
    outside: Share | None


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedModel:
    """What a model has answered.

    Attributes:
        name: Its name.
        digest: Digest of its folder.
        results: Number of results.
        no_result: Share without a result.
        undecided: Share undecided.
        reasons: Number of results by code, of those without a result.
        decisions: Number of results by decision.
        outputs: Probabilities.
        facts: Facts of the scans.
        kernels: Number of scans by kernel; empty: unknown.
        trained_kernels: Kernels of training.
        notes: What someone should look at, in sentences.
    """

    name: str
    digest: str
    results: int
    no_result: Share
    undecided: Share
    reasons: dict[str, int]
    decisions: dict[str, int]
    outputs: tuple[WatchedOutput, ...]
    facts: tuple[WatchedFact, ...]
    kernels: dict[str, int]
    trained_kernels: tuple[str, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """What a service has done.

    Attributes:
        days: Days that were looked at; 0: all records.
        states: Number of jobs by state.
        failures: Number of failed jobs by code.
        studies: Number of studies of a PACS by state.
        objects: Number of DICOM objects by state of their delivery.
        models: The models.
    """

    days: float
    states: dict[str, int]
    failures: dict[str, int]
    studies: dict[str, int]
    objects: dict[str, int]
    models: tuple[WatchedModel, ...] = field(default=())


def watch_file(file: Path, *, days: float = 0.0) -> Watched:
    """Watch a service by its data base, which may be in use.

    Args:
        file: The data base.
        days: Days to look back; 0: all records.

    Raises:
        ReadError: If it is no data base of a service.
    """
    if not file.is_file():
        msg = "there is no data base of a service in the data folder"
        raise ReadError(msg, path=file.parent)
    connection = opened_database(file, writing=False)
    try:
        return watch(connection, days=days)
    except sqlite3.Error as exc:
        msg = f"is no data base of this service, or is damaged: {exc}"
        raise ReadError(msg, path=file) from exc
    finally:
        connection.close()


def watch(connection: sqlite3.Connection, *, days: float = 0.0) -> Watched:
    """Watch a service by a connection to its data base; see ``watch_file``."""
    since = time.time() - days * 86400 if days else 0.0

    def counted(query: str) -> dict[str, int]:
        return {str(name): int(count) for name, count in connection.execute(query, (since,))}

    rows = connection.execute(
        "SELECT model, summary FROM jobs WHERE summary LIKE '%\"digest\"%' AND created >= ? ORDER BY ended", (since,)
    ).fetchall()
    by_model: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in rows:
        summary = json.loads(row["summary"])
        by_model.setdefault((row["model"], summary["digest"]), []).append(summary)
    known = {row["digest"]: row["reference"] for row in connection.execute("SELECT digest, reference FROM models")}
    models = tuple(
        _model(name, digest, found, from_dict(TrainingReference, json.loads(known.get(digest, "{}"))))
        for (name, digest), found in sorted(by_model.items())
    )
    return Watched(
        days=days,
        states=counted("SELECT state, count(*) FROM jobs WHERE created >= ? GROUP BY 1"),
        failures=counted("SELECT code, count(*) FROM jobs WHERE state = 'failed' AND created >= ? GROUP BY 1"),
        studies=counted("SELECT state, count(*) FROM studies WHERE created >= ? GROUP BY 1"),
        objects=counted("SELECT state, count(*) FROM objects WHERE created >= ? GROUP BY 1"),
        models=models,
    )


def _model(name: str, digest: str, found: Sequence[dict[str, Any]], reference: TrainingReference) -> WatchedModel:
    results, outcomes = len(found), Counter(str(one["outcome"]) for one in found)
    answered = [one for one in found if one["outcome"] != NO_RESULT]
    outputs = tuple(
        _output(
            each, [float(one["probabilities"][each]) for one in answered if each in one["probabilities"]], reference
        )
        for each in dict.fromkeys(key for one in found for key in one["probabilities"])
    )
    facts = tuple(
        _fact(each, np.array([one["facts"][each] for one in found if each in one["facts"]]), reference)
        for each in FACTS
        if any(each in one["facts"] for one in found)
    )
    reasons = Counter(str(code) for one in found if one["outcome"] == NO_RESULT for code in one["codes"])
    model = WatchedModel(
        name=name,
        digest=digest,
        results=results,
        no_result=Share(count=outcomes[NO_RESULT], of=results),
        undecided=Share(count=outcomes[UNDECIDED], of=results),
        reasons=dict(reasons.most_common()),
        decisions=dict(Counter(str(one["decision"]) for one in found).most_common()),
        outputs=outputs,
        facts=facts,
        kernels=dict(Counter(str(one["kernel"]) for one in found if one["kernel"]).most_common()),
        trained_kernels=reference.kernels,
    )
    return WatchedModel(
        **{slot: getattr(model, slot) for slot in model.__slots__ if slot != "notes"}, notes=_notes(model)
    )


def _output(name: str, p: list[float], reference: TrainingReference) -> WatchedOutput:
    recent = int(len(p) * _RECENT)
    p_changed = None
    if recent >= _LEAST:
        p_changed = float(stats.ks_2samp(p[-recent:], p[:-recent]).pvalue)
    return WatchedOutput(
        name=name,
        count=len(p),
        mean=float(np.mean(p)) if p else None,
        quartiles=tuple(float(one) for one in np.percentile(p, [25, 50, 75])) if p else (),
        training=reference.shares.get(name),
        p_changed=p_changed,
    )


def _fact(name: str, values: np.ndarray, reference: TrainingReference) -> WatchedFact:
    low, middle, high = (float(one) for one in np.percentile(values, [5, 50, 95]))
    accepted = reference.ranges.get(name)
    outside = None
    if accepted is not None:
        count = int(np.sum((values < accepted[0]) | (values > accepted[1])))
        outside = Share(count=count, of=len(values))
    fact = FACTS[name]
    return WatchedFact(
        name=name, words=fact.words, unit=fact.unit, median=middle, middle=(low, high), accepted=accepted,
        outside=outside,
    )  # fmt: skip


def _notes(model: WatchedModel) -> tuple[str, ...]:
    """What someone should look at."""
    notes = []
    for share, what in ((model.no_result, "have no result"), (model.undecided, "are undecided")):
        if share.interval[0] > _OUTSIDE:
            notes.append(f"{share.count} of {share.of} scans {what}: more than one in ten")
    for fact in model.facts:
        if fact.outside is not None and fact.outside.of >= _LEAST and fact.outside.interval[0] > _OUTSIDE:
            share = fact.outside
            notes.append(f"{fact.words}: {share.count} of {share.of} scans lie outside what training saw")
    changed = [one.name for one in model.outputs if one.p_changed is not None and one.p_changed < _UNLIKELY]
    unlike = "the latest quarter of scans is unlike the rest"
    notes += [f"the probabilities of {name} have changed: {unlike}" for name in changed]
    unseen = sum(count for kernel, count in model.kernels.items() if kernel not in model.trained_kernels)
    of = sum(model.kernels.values())
    if model.trained_kernels and Share(count=unseen, of=of).interval[0] > _OUTSIDE:
        notes.append(f"{unseen} of {of} scans have a kernel that training did not see")
    return tuple(notes)
