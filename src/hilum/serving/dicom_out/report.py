"""The structured report: probabilities, decision, findings and what they refer to, by TID 1500."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
from highdicom import sr
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from hilum.cohorts.cells import NO_RESULT, UNDECIDED
from hilum.deciding.decision_words import decision_notes
from hilum.serving.dicom_out.identity import (
    CODING_SCHEME,
    MANUFACTURER,
    PRODUCT,
    RESEARCH,
    derived_uid,
    equipment,
    tracking_uid,
)
from hilum.serving.dicom_out.references import References
from hilum.serving.scan_result import ScanResult

MARK_MM = 5.0
"""Radius of the circle that marks a given point."""

_LONGEST_TEXT = 1024
"""Characters of a parameter of the algorithm; a text may be as long as it needs to be."""


def own_code(meaning: str) -> sr.CodedConcept:
    """A code of Hilum's own scheme; its value is a digest of the meaning."""
    value = hashlib.sha256(meaning.encode()).hexdigest()[:16]
    return sr.CodedConcept(value=value, scheme_designator=CODING_SCHEME, meaning=meaning)


DECISION, SCAN_FINDING, NOTICE = own_code("Decision"), own_code("Finding about the scan"), own_code("Intended use")
OTHER_OBJECT = own_code("Object of the same result")


def structured_report(result: ScanResult, references: References, others: Sequence[Dataset] = ()) -> Dataset:
    """A Comprehensive 3D SR: preliminary, unverified, with a group of measurements for each output.

    Where the model gives no result there is one group, without any probability.

    Args:
        result: The result.
        references: Its source.
        others: The other objects of the result, to which the report refers.
    """
    content = sr.MeasurementReport(
        observation_context=_observer(result),
        procedure_reported=codes.cid100.CTUnspecifiedBodyRegion,
        imaging_measurements=_groups(result, references),
        title=codes.cid7021.ImagingMeasurementReport,
    )
    root = content[0].ContentSequence
    root.append(text_item(NOTICE, f"{RESEARCH}. Preliminary and not verified by a person."))
    root.append(text_item(DECISION, decision_text(result)))
    root.extend(text_item(codes.DCM.Comment, line) for line in model_lines(result))
    if references.blanked:
        listed = ", ".join(references.blanked)
        root.append(
            text_item(codes.DCM.Comment, f"Left blank, for the source holds what DICOM does not allow: {listed}.")
        )
    if result.point_mm is not None:
        x, y, z = result.point_mm
        root.append(text_item(codes.DCM.Comment, f"Point given by the user: {x:.2f} {y:.2f} {z:.2f} (LPS mm)."))
    root.extend(
        text_item(SCAN_FINDING, f"{one.code} ({one.severity}): {one.message}") for one in result.prediction.findings
    )
    root.extend(
        sr.ImageContentItem(
            name=OTHER_OBJECT,
            referenced_sop_class_uid=one.SOPClassUID,
            referenced_sop_instance_uid=one.SOPInstanceUID,
            relationship_type=sr.RelationshipTypeValues.CONTAINS,
        )
        for one in others
    )
    scheme = CodingSchemeIdentificationItem(CODING_SCHEME, name="Hilum's own codes", responsible_organization="Hilum")
    return sr.Comprehensive3DSR(
        evidence=[*references.files, *others],
        content=content[0],
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[scheme],
        **equipment(result.model_digest, "report"),
    )


def decision_text(result: ScanResult) -> str:
    """The decision in words, with its codes and reason where there is none."""
    outcome, many = result.prediction.outcome, result.card.decisions.multi_label
    if outcome.kind == NO_RESULT:
        return (
            f"no-result ({', '.join(outcome.codes)}): {outcome.reason}. The model does not answer for this scan; "
            "this is not a negative result."
        )
    if outcome.kind == UNDECIDED and not many:
        return f"undecided ({', '.join(outcome.codes)}): {outcome.reason}. This is not a negative result."
    text = result.prediction.decision
    return f"{text}. Undecided labels are not negative ({', '.join(outcome.codes)})." if outcome.codes else text


def model_lines(result: ScanResult) -> list[str]:
    """What the model is, and how its probabilities are calibrated and decided, in sentences."""
    card = result.card
    lines = [f"Model: digest {result.model_digest}, made by Hilum {card.version}, read by Hilum {version('hilum')}."]
    for number in range(len(card.decisions.each)):
        whose = f"{card.classes[number]}: " if card.decisions.multi_label else ""
        lines += [whose + note for note in decision_notes(card.decisions, number)]
    if result.has_given_lungs:
        lines.append("The lungs are those of a mask that was given.")
    for key, members in result.prediction.sets.items():
        of = "" if key == "classes" else f" of {key}"
        lines.append(f"Conformal set{of}: {', '.join(members) or 'empty'}.")
    return lines


def text_item(name: Any, value: str) -> sr.TextContentItem:
    """A text that a container of the report holds."""
    return sr.TextContentItem(name=name, value=value, relationship_type=sr.RelationshipTypeValues.CONTAINS)


def _observer(result: ScanResult) -> sr.ObservationContext:
    device = sr.DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", result.model_digest),
        name=PRODUCT,
        manufacturer_name=MANUFACTURER,
        model_name=PRODUCT,
        serial_number=result.model_digest[:16],
    )
    observer = sr.ObserverContext(observer_type=codes.DCM.Device, observer_identifying_attributes=device)
    return sr.ObservationContext(observer_device_context=observer)


def _groups(result: ScanResult, references: References) -> list[Any]:
    """A group for each output; without a result one without measurements."""
    algorithm = sr.AlgorithmIdentification(
        name=PRODUCT,
        version=version("hilum"),
        parameters=[line[:_LONGEST_TEXT] for line in model_lines(result)],
        family=codes.DCM.ArtificialIntelligence,
        manufacturer=MANUFACTURER,
    )
    region = _region(result, references)
    probabilities = result.prediction.probabilities if result.has_result else {}
    named: Sequence[tuple[str, float | None]] = list(probabilities.items()) or [(NO_RESULT, None)]
    groups = []
    for name, probability in named:
        values: dict[str, Any] = {
            "tracking_identifier": sr.TrackingIdentifier(tracking_uid(result, name), f"Hilum: {name}"),
            "algorithm_id": algorithm,
        }
        if probability is not None:
            measured = sr.Measurement(name=codes.DCM.Probability, value=probability, unit=codes.UCUM.NoUnits)
            values |= {"finding_type": own_code(name), "measurements": [measured]}
        if region is not None:
            group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(referenced_region=region, **values)
        else:
            group = sr.MeasurementsAndQualitativeEvaluations(source_images=_source_images(references), **values)
        if probability is None:
            group[0].ContentSequence.append(text_item(DECISION, decision_text(result)))
        groups.append(group)
    return groups


def _source_images(references: References) -> list[sr.SourceImageForMeasurementGroup]:
    return [sr.SourceImageForMeasurementGroup.from_source_image(file, frames) for file, frames in references.images()]


def _region(result: ScanResult, references: References) -> sr.ImageRegion | None:
    """A circle around the given point on the measured slice nearest to it.

    None if no point was given, or frames of a file cannot be referred to.
    """
    if result.point_mm is None or (references.are_frames and not references.are_numbered):
        return None
    down, across = references.planes[:3, 1], references.planes[:3, 2]
    spacing = np.linalg.norm(down), np.linalg.norm(across)
    normal = np.cross(across, down) / (spacing[0] * spacing[1])
    away = np.array(result.point_mm) - [one.position_mm for one in result.source.slices]
    nearest = int(np.argmin(np.abs(away @ normal)))
    row, column = away[nearest] @ down / spacing[0] ** 2, away[nearest] @ across / spacing[1] ** 2
    centre = np.array([column, row]) + 0.5  # the corner of the first pixel is (0, 0), PS3.3 C.18.6.1.1
    file, frame = references.of_slices[nearest]
    frames = [frame] if references.are_numbered else None
    image = sr.SourceImageForRegion.from_source_image(references.files[file], frames)
    inward = -1 if centre[0] > references.files[file].Columns / 2 else 1  # the whole of a circle need not lie within
    edge = centre + np.array([inward * MARK_MM / spacing[1], 0.0])
    return sr.ImageRegion(
        graphic_type=sr.GraphicTypeValues.CIRCLE, graphic_data=np.array([centre, edge]), source_image=image
    )
