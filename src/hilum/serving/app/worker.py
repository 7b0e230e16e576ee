"""The process that reads, prepares and writes: a job goes through it from its upload to its result."""

import contextlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hilum.deciding.facts import facts_of, kernel_of
from hilum.deciding.model_folder import ModelCard
from hilum.errors import ConfigError, HilumError
from hilum.imagefile import write_image
from hilum.predicting.explain.ask import ModelAnswer
from hilum.predicting.prepare_scan import prepare_scan
from hilum.preparing.lungs.segment import segment_lungs
from hilum.reading.reader import read_source
from hilum.reading.source import ScanSource
from hilum.serving.app.jobs import JobSettings
from hilum.serving.app.network import READY
from hilum.serving.app.neutral import neutral_scan
from hilum.serving.scan_result import ScanResult
from hilum.serving.watching.reference import TrainingReference
from hilum.settings.explain import ExplainConfig
from hilum.volume import Volume

RESULT_FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a process needs to know of a job.

    Attributes:
        model: Name of the model.
        settings: What is wanted.
        scan: The upload: a file or a folder.
        out: Folder for the result, which is not there yet.
    """

    model: str
    settings: JobSettings
    scan: Path
    out: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedModel:
    """A model as the service's processes know it.

    Attributes:
        name: Its name.
        card: Its card, with the names of its outputs.
        digest: Digest of its folder.
        reference: What it met in training, by the names of its outputs here.
    """

    name: str
    card: ModelCard
    digest: str
    reference: TrainingReference = field(default_factory=TrainingReference)


def run_worker(connection: Connection, models: Mapping[str, ServedModel], max_bytes: int) -> None:
    """Say that it is ready, and work on one job after the other for ever.

    It sends ``("step", name)``; ``("ask",)`` and a question for the network, to which it receives the answer;
    and in the end ``("done", summary)`` or ``("failed", code, reason)``.

    Args:
        connection: Where orders come from.
        models: The models by name.
        max_bytes: Largest scan and largest unpacked archive.
    """
    with contextlib.suppress(ConfigError):  # without highdicom jobs that want DICOM objects say so
        import hilum.serving.dicom_out.write  # noqa: F401  # here, where nobody waits for it
    connection.send(READY)
    while True:
        order: Order = connection.recv()
        steps = _Steps(connection=connection)
        try:
            answer: tuple[Any, ...] = ("done", _work(order, models[order.model], steps, max_bytes))
        except HilumError as exc:
            reason = exc.message.replace(order.settings.series or "\0", "of that name")  # it may be a UID
            answer = ("failed", exc.code or _CODES.get(type(exc).__name__, "failed"), reason)
        except MemoryError:
            answer = ("failed", "memory", "memory does not suffice for this scan")
        except OSError as exc:
            answer = ("failed", "disk", f"a file cannot be read or written: {exc.strerror}")
        except Exception as exc:  # noqa: BLE001  # a bug: its words may hold names
            answer = ("failed", "bug", f"a fault in Hilum: {type(exc).__name__}")
        connection.send(answer)


_CODES = {
    "ReadError": "unreadable", "GeometryError": "geometry", "PrepareError": "preparing", "ConfigError": "settings",
    "CheckpointError": "model", "ResourceError": "memory",
}  # fmt: skip
"""Codes of errors that have none of their own."""


@dataclass(slots=True, kw_only=True)
class _Steps:
    """Tells the parent what this process does, and measures how long it takes."""

    connection: Connection
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        self.connection.send(("step", name))
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - start, 4)


def _ask(connection: Connection, model: str, sample: Volume, config: ExplainConfig | None) -> ModelAnswer:
    """Ask a model whose network runs in the process of a device, which the parent reaches."""
    connection.send(("ask",))
    connection.send((model, sample, config))
    answer = connection.recv()
    if isinstance(answer, ModelAnswer):
        return answer
    code, reason = answer
    raise HilumError(reason, code=code)


def _work(order: Order, served: ServedModel, steps: _Steps, max_bytes: int) -> dict[str, Any]:
    """Make the result of a job, and return its summary."""
    card, wanted = served.card, order.settings
    with steps.step("reading"):
        source = _read(order, card, max_bytes)
    with steps.step("preparing"):
        sample = prepare_scan(card, source.volume, point_mm=wanted.point_mm)
        lungs = segment_lungs(source.volume) if {"dicom", "page"} & set(wanted.outputs) else None
    with steps.step("predicting"):
        config = ExplainConfig() if "maps" in wanted.outputs else None
        answer = _ask(steps.connection, served.name, sample, config)
    order.out.mkdir(mode=0o700)
    files: list[str] = []
    objects: dict[str, str] = {}
    with steps.step("writing"):
        if "maps" in wanted.outputs:
            files += _write_maps(answer, source, order.out)
        if lungs is not None:
            result = ScanResult(
                source=source, prediction=answer.prediction, card=card, model_digest=served.digest, sample=sample,
                lungs=lungs, heat_maps=answer.heat_maps, point_mm=wanted.point_mm,
            )  # fmt: skip
            if "dicom" in wanted.outputs:
                objects = _write_dicom(result, order.out)
            if "page" in wanted.outputs:
                files.append(_write_page(result, order.out))
    made = {"files": [*files, *objects], "dicom": objects, "seconds": steps.seconds}
    prediction = answer.prediction
    about = {
        "format": RESULT_FORMAT,
        "model": {"name": served.name, "digest": served.digest, "version": card.version},
        **prediction.as_dict(),
        **made,
    }
    text = json.dumps(about, indent=2, ensure_ascii=False, allow_nan=False)
    (order.out / "result.json").write_text(text + "\n", encoding="utf-8")
    return {
        "digest": served.digest,
        "decision": prediction.decision,
        "outcome": prediction.outcome.kind,
        "codes": list(prediction.outcome.codes),
        "probabilities": prediction.probabilities,
        "facts": facts_of(sample, card.recipe),
        "kernel": kernel_of(sample),
        **made,
    }


def _read(order: Order, card: ModelCard, max_bytes: int) -> ScanSource:
    """The scan of an upload; for DICOM objects with its headers, which must allow them."""
    wanted = order.settings
    makes_dicom = "dicom" in wanted.outputs
    if makes_dicom:
        from hilum.serving.dicom_out.write import check_is_dicom, check_names

        check_names(card.classes)
    reading = replace(card.reading, max_gb=min(card.reading.max_gb, max_bytes / 1e9))
    with neutral_scan(order.scan, reading) as scan:
        source = read_source(scan.path, series=wanted.series or None, reading=reading, headers=makes_dicom)
        if makes_dicom:
            check_is_dicom(source)
    findings = (*scan.cleaned(source.volume.findings), *scan.findings)
    return replace(source, volume=replace(source.volume, findings=findings))


def _write_maps(answer: ModelAnswer, source: ScanSource, out: Path) -> list[str]:
    """Maps on the scan's own grid, as NIfTI."""
    from hilum.predicting.explain.folder import on_scan

    names = []
    for number, one in enumerate(answer.heat_maps, start=1):
        name = f"map-{number}.nii.gz" if len(answer.heat_maps) > 1 else "map.nii.gz"
        write_image(on_scan(one.values, one, source.volume), source.volume.affine, out / name)
        names.append(name)
    return names


def _write_dicom(result: ScanResult, out: Path) -> dict[str, str]:
    """DICOM objects, and the SOPInstanceUID of each by its file's name."""
    from hilum.serving.dicom_out.write import dicom_objects, quiet_dicom, write_objects

    with quiet_dicom():
        made = dicom_objects(result)
        write_objects(made, out)
    return {name: str(one.SOPInstanceUID) for name, one in made.items()}


def _write_page(result: ScanResult, out: Path) -> str:
    from hilum.serving.viewer.view import page_of_scan

    page, _ = page_of_scan(result.source, result, result.point_mm)
    (out / "page.html").write_bytes(page)
    return "page.html"
