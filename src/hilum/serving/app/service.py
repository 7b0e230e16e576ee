"""The service as a whole: its data base, queue, engine and PACS, begun and ended in order."""

import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hilum.deciding.model_folder import model_digest, read_card
from hilum.errors import require
from hilum.files import user_path
from hilum.serving.app.database import Database
from hilum.serving.app.engine import Engine, EngineConfig
from hilum.serving.app.jobs import Job, Jobs, JobSettings
from hilum.serving.app.uploads import Uploads
from hilum.serving.app.worker import ServedModel
from hilum.serving.watching.reference import training_reference
from hilum.settings.serving import ServeConfig
from hilum.settings.toml import to_dict

if TYPE_CHECKING:
    from hilum.serving.pacs.pacs import Pacs

_log = logging.getLogger("hilum.serve")

_CLEAN_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlaces:
    """Where models lie, and what their outputs are called.

    Attributes:
        folders: Folder of each model, by its name.
        names: Names of the outputs of models that are not called by their own.
        devices: Devices of their networks.
    """

    folders: Mapping[str, Path]
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    devices: tuple[str, ...] = ("cpu",)


def named_models(given: Sequence[str]) -> dict[str, Path]:
    """Folders of models by name, from ``FOLDER`` or ``NAME=FOLDER``.

    A folder called model gets the name of the run folder around it.

    Raises:
        ConfigError: If two have the same name.
    """
    found: dict[str, Path] = {}
    for one in given:
        name, equals, path = one.partition("=")
        folder = user_path(path if equals else one)
        whole = folder.resolve()
        name = name if equals else (whole.parent if whole.name == "model" else whole).name
        require(name not in found, "names of models", "distinct: give NAME=FOLDER", f"{name} twice")
        require(name.isprintable() and "/" not in name and bool(name), "a model's name", "printable, no /", repr(name))
        found[name] = folder
    return found


def served_models(places: ModelPlaces) -> dict[str, ServedModel]:
    """The models with their cards.

    Raises:
        CheckpointError: If a folder is no model folder.
        ConfigError: If names are given that do not fit.
    """
    found = {}
    for name, folder in places.folders.items():
        card, names = read_card(folder), tuple(places.names.get(name, ()))
        trained = card.classes
        if names:
            classes = card.decisions.classes
            require(len(names) == len(classes), f"names of {name}", f"{len(classes)}", len(names))
            card = replace(card, decisions=replace(card.decisions, classes=names))
        reference = training_reference(card, trained)
        found[name] = ServedModel(name=name, card=card, digest=model_digest(folder), reference=reference)
    unknown = sorted(set(places.names) - set(found))
    require(not unknown, "names", "of models that are served", ", ".join(unknown))
    return found


class Service:
    """Everything behind the API.

    Args:
        data: The data folder.
        places: The models.
        config: Settings.

    Attributes:
        models: The models by name.
        config: Settings.
        database: The data base.
        jobs: The queue.
        engine: What works through it.
        uploads: Uploads under way.
        pacs: What works beside a PACS; None: nothing does.

    Raises:
        HilumError: If a model or the folder is not usable.
    """

    def __init__(self, data: Path, places: ModelPlaces, config: ServeConfig) -> None:
        self.config, self.models = config, served_models(places)
        known = ", ".join(self.models)
        for rule in config.rules:
            require(rule.model in self.models, "rules.model", f"one of {known}", rule.model)
            if config.node is not None or config.web:
                from hilum.serving.dicom_out.write import check_names

                check_names(self.models[rule.model].card.classes)  # results return as DICOM
        self.database = Database(data)
        self.jobs = Jobs(self.database, longest=config.limits.queue)
        self.uploads = Uploads(data / "uploads", config.limits)
        self.pacs: "Pacs | None" = None
        engine = EngineConfig(
            models=self.models, folders=places.folders, names=places.names, devices=places.devices,
            max_bytes=int(config.limits.unpacked_gb * 1e9), step_s=config.limits.step_s,
        )  # fmt: skip
        self.engine = Engine(self.jobs, engine, self._on_end)
        if config.node is not None or config.web:
            from hilum.serving.pacs import pacs

            self.pacs = pacs.Pacs(self.database, self.jobs, config, self.engine.wake)
        self._stop = threading.Event()
        self._cleaner = threading.Thread(target=self._clean, daemon=True)

    def start(self) -> None:
        """Go on where an earlier service stopped."""
        self.jobs.sweep()
        with self.database.change() as connection:
            for model in self.models.values():
                values = (model.digest, json.dumps(to_dict(model.reference)))
                connection.execute("INSERT OR REPLACE INTO models VALUES (?, ?)", values)
        for one in self.jobs.recover():
            _log.warning("recovered", extra={"job": one})
        self.engine.start()
        if self.pacs is not None:
            self.pacs.start()
        self._cleaner.start()

    def stop(self) -> None:
        """End in order."""
        self._stop.set()
        if self.pacs is not None:
            self.pacs.stop()
        self.engine.stop(self.config.stop_s)
        self.database.close()

    def submit(self, id: str, model: str, settings: JobSettings, num_bytes: int, who: str) -> Job:  # noqa: A002
        """Put an upload into the queue.

        Raises:
            QueueFullError: If as many jobs wait as may.
        """
        job = self.jobs.add(id, model=model, settings=settings, num_bytes=num_bytes, who=who)
        self.engine.wake()
        return job

    def cancel(self, id: str, who: str) -> Job:  # noqa: A002
        """Cancel a job."""
        job = self.jobs.cancel(id, who)
        self.engine.cancel(id)
        return job

    def _on_end(self, job: Job) -> None:
        if self.pacs is not None and job.study:
            self.pacs.on_end(job)

    def _clean(self) -> None:
        """Remove what is past its time."""
        config = self.config
        while not self._stop.wait(min(_CLEAN_S, config.keep_hours * 900)):
            keep_s, record_s = config.keep_hours * 3600, config.keep_days * 86400
            try:
                count = self.jobs.expire(keep_s=keep_s, record_s=record_s)
            except Exception as exc:  # noqa: BLE001  # a full disk must not end the cleaning
                _log.error("cleaning", extra={"code": type(exc).__name__})
                continue
            if count:
                _log.info("expired", extra={"count": count})


def job_record(job: Job, *, place: int | None = None) -> dict[str, Any]:
    """What the API tells of a job."""
    summary = job.summary if job.state == "done" else {}
    about: dict[str, Any] = {
        "id": job.id,
        "state": job.state,
        "step": job.step,
        "model": job.model,
        "origin": job.origin,
        "outputs": list(job.settings.outputs),
        "num_bytes": job.num_bytes,
        "place": place,
        "code": job.code,
        "reason": job.reason,
        "created": utc(job.created),
        "started": utc(job.started),
        "ended": utc(job.ended),
        "expired": job.removed is not None,
        "decision": summary.get("decision"),
        "outcome": summary.get("outcome"),
        "files": summary.get("files", []) if job.removed is None else [],
        "seconds": summary.get("seconds", {}),
    }
    return about


def utc(seconds: float | None) -> str | None:
    """A time in seconds since 1970 as the API writes it."""
    return None if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
