"""The service in figures, in the text form of Prometheus."""

import shutil
import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from hilum.cohorts.cells import NO_RESULT, UNDECIDED
from hilum.serving.app.database import DATABASE
from hilum.serving.app.service import Service
from hilum.serving.watching.watch import Watched, watch_file

_WATCH_S = 60.0


class Metrics:
    """Figures of a service, counted in its data base when they are asked for: they outlive it.

    Args:
        service: The service.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        self._watch: tuple[float, Watched] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)

    def text(self) -> str:
        """The figures."""
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterator[Metric]:
        """The figures, for the registry."""
        service = self._service
        database = service.database
        jobs = GaugeMetricFamily("hilum_jobs", "Jobs on record", labels=["state"])
        for state, count in service.jobs.counts().items():
            jobs.add_metric([state], count)
        yield jobs
        failed = GaugeMetricFamily("hilum_failed_jobs", "Failed jobs on record by reason", labels=["code"])
        for code, count in _counted(database.rows("SELECT code, count(*) FROM jobs WHERE state = 'failed' GROUP BY 1")):
            failed.add_metric([code], count)
        yield failed
        oldest = database.rows("SELECT min(created) FROM jobs WHERE state = 'queued'")[0][0]
        waited = 0.0 if oldest is None else time.time() - oldest
        yield GaugeMetricFamily("hilum_oldest_queued_seconds", "Age of the job that has waited longest", waited)
        seconds = GaugeMetricFamily("hilum_step_seconds", "Sum of the seconds of done jobs on record", labels=["step"])
        query = (
            "SELECT key, sum(value) FROM jobs, json_each(jobs.summary, '$.seconds') WHERE state = 'done' GROUP BY key"
        )
        for step, total in database.rows(query):
            seconds.add_metric([str(step)], total)
        yield seconds
        yield GaugeMetricFamily("hilum_open_uploads", "Uploads under way", service.uploads.num_open)
        yield GaugeMetricFamily("hilum_ready", "Whether all processes are there", float(service.engine.is_ready))
        lost = CounterMetricFamily("hilum_lost_processes", "Processes that crashed, hung or were killed")
        lost.add_metric([], service.engine.num_lost)
        yield lost
        free = shutil.disk_usage(database.folder).free
        yield GaugeMetricFamily("hilum_free_bytes", "Room on the disk of the data folder", free)
        for name, table, what in (
            ("hilum_studies", "studies", "Studies of a PACS"),
            ("hilum_objects", "objects", "DICOM objects of results to be sent"),
        ):
            family = GaugeMetricFamily(name, f"{what} on record", labels=["state"])
            for state, count in _counted(database.rows(f"SELECT state, count(*) FROM {table} GROUP BY 1")):  # noqa: S608
                family.add_metric([state], count)
            yield family
        yield from _of_models(self._watched())

    def _watched(self) -> Watched:
        """What the monitor counts, at most once a minute."""
        if self._watch is None or time.monotonic() - self._watch[0] > _WATCH_S:
            self._watch = time.monotonic(), watch_file(self._service.database.folder / DATABASE)
        return self._watch[1]


def _of_models(watched: Watched) -> Iterator[Metric]:
    """Figures of the models' results on record."""
    results = GaugeMetricFamily("hilum_results", "Results on record by decision", labels=["model", "decision"])
    shares = GaugeMetricFamily("hilum_outcome_share", "Share of results of an outcome", labels=["model", "outcome"])
    means = GaugeMetricFamily("hilum_mean_probability", "Mean probability of results", labels=["model", "output"])
    outside = GaugeMetricFamily(
        "hilum_outside_share", "Share of scans outside what training saw", labels=["model", "fact"]
    )
    for model in watched.models:
        name = f"{model.name}:{model.digest[:8]}"
        for decision, count in model.decisions.items():
            results.add_metric([name, decision], count)
        shares.add_metric([name, NO_RESULT], model.no_result.value)
        shares.add_metric([name, UNDECIDED], model.undecided.value)
        for output in model.outputs:
            if output.mean is not None:
                means.add_metric([name, output.name], output.mean)
        for fact in model.facts:
            if fact.outside is not None:
                outside.add_metric([name, fact.name], fact.outside.value)
    yield from (results, shares, means, outside)


def _counted(rows: list[Any]) -> list[tuple[str, int]]:
    return [(str(name), int(count)) for name, count in rows]
