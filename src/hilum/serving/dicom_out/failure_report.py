"""The structured report of a study that failed: it says that no result was made, and why."""

import copy
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from hilum.cohorts.cells import NO_RESULT
from hilum.errors import ReadError
from hilum.serving.dicom_out.identity import (
    CODING_SCHEME,
    MANUFACTURER,
    PRODUCT,
    RESEARCH,
    derived_uid,
    equipment,
    with_uids,
)
from hilum.serving.dicom_out.references import blank_header
from hilum.serving.dicom_out.report import DECISION, NOTICE, text_item


def failure_report(headers: Sequence[Dataset], *, code: str, reason: str, content: str) -> Dataset:
    """A Comprehensive 3D SR of TID 1500 like that of a scan without a result, for a study that could not be predicted.

    Args:
        headers: Headers of the study's instances, without pixels; at least one.
        code: Code of the failure.
        reason: The same in words.
        content: Digest of the study's content: with the same one, code and reason it is the same instance.

    Raises:
        ReadError: If the headers do not allow it.
    """
    files = [blank_header(copy.deepcopy(one)) for one in headers]
    said = f"{NO_RESULT} ({code}): {reason}. No result was made for this study; this is not a negative result."
    try:
        report = _report(files, said)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as exc:
        # The text of the cause may quote the patient's values.
        msg = f"the source's headers do not allow a report: highdicom raised {type(exc).__name__}"
        raise ReadError(msg) from exc
    return with_uids(report, content, "derived")


def _report(files: Sequence[Dataset], said: str) -> Dataset:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", PRODUCT), name=PRODUCT, manufacturer_name=MANUFACTURER, model_name=PRODUCT
    )
    observer = sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    study = str(files[0].StudyInstanceUID)
    group = sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(
            derived_uid("tracking", study, NO_RESULT), f"{MANUFACTURER}: {NO_RESULT}"
        ),
        algorithm_id=sr.AlgorithmIdentification(
            name=PRODUCT,
            version=version("hilum"),
            family=codes.DCM.ArtificialIntelligence,
            manufacturer=MANUFACTURER,
        ),
    )
    group[0].ContentSequence.append(text_item(DECISION, said))
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.cid100.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
        title=codes.cid7021.ImagingMeasurementReport,
    )
    root = content[0].ContentSequence
    root.append(text_item(NOTICE, f"{RESEARCH}. Preliminary and not verified by a person."))
    root.append(text_item(DECISION, said))
    about: dict[str, Any] = equipment("", "report")
    return sr.Comprehensive3DSR(
        evidence=files,
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[
            CodingSchemeIdentificationItem(CODING_SCHEME, name="Hilum's own codes", responsible_organization="Hilum")
        ],
        **about,
    )
