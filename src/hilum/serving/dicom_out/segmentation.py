"""The segmentation: right lung, left lung and the box that the model saw, each frame on its source slice."""

from importlib.metadata import version
from typing import Any

import highdicom as hd
import numpy as np
from highdicom import seg
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from hilum.serving.dicom_out.identity import MANUFACTURER, RESEARCH, equipment, tracking_uid
from hilum.serving.dicom_out.placement import placed
from hilum.serving.dicom_out.references import References
from hilum.serving.dicom_out.report import own_code
from hilum.serving.scan_result import ScanResult

_RIGHT = hd.sr.CodedConcept("3341006", "SCT", "Right lung")
_LEFT = hd.sr.CodedConcept("44029006", "SCT", "Left lung")
_SEEN = own_code("Region that the model saw")


def segmentation(result: ScanResult, references: References) -> Dataset:
    """A BINARY segmentation of the lungs that were found and of the model's box, with a frame for every slice.

    Empty frames are kept: viewers shift segments without them.
    """
    lungs = result.source.on_slices(result.lungs_on_scan)
    given = result.has_given_lungs
    parts = [
        ("Right lung", codes.SCT.AnatomicalStructure, _RIGHT, codes.DCM.MorphologicalOperations, lungs == 1),
        ("Left lung", codes.SCT.AnatomicalStructure, _LEFT, codes.DCM.MorphologicalOperations, lungs == 2),
        (
            _SEEN.meaning,
            codes.SCT.SpatialAndRelationalConcept,
            _SEEN,
            codes.DCM.ArtificialIntelligence,
            result.source.on_slices(result.seen),
        ),
    ]
    parts = [part for part in parts if part[-1].any()]
    described = [
        seg.SegmentDescription(
            segment_number=number,
            segment_label=label,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type="SEMIAUTOMATIC" if given and kind != _SEEN else "AUTOMATIC",
            algorithm_identification=_algorithm(family, is_given=given and kind != _SEEN),
            tracking_uid=tracking_uid(result, label),
            tracking_id=f"Hilum: {label}",
        )
        for number, (label, category, kind, family, _) in enumerate(parts, start=1)
    ]
    return seg.Segmentation(
        pixel_array=np.stack([part[-1] for part in parts], axis=-1),
        segmentation_type=seg.SegmentationTypeValues.BINARY,
        segment_descriptions=described,
        content_label="LUNGS_AND_INPUT",
        content_description=RESEARCH,
        omit_empty_frames=False,
        **placed(result.source, references),
        **equipment(result.model_digest, "segmentation"),
    )


def _algorithm(family: Any, *, is_given: bool) -> hd.AlgorithmIdentificationSequence:
    """What made a segment; of a mask that was given Hilum knows no maker, and tells the sides apart alone."""
    name = "Mask that the user gave; sides by Hilum" if is_given else MANUFACTURER
    return hd.AlgorithmIdentificationSequence(name=name, family=family, version=version("hilum"), source=MANUFACTURER)
