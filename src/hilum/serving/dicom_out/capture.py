"""The page as a secondary capture, for viewers that show nothing else."""

from typing import Any

import numpy as np
from highdicom import sc
from jaxtyping import UInt8
from pydicom.dataset import Dataset

from hilum.serving.dicom_out.identity import equipment
from hilum.serving.dicom_out.page_picture import page_picture
from hilum.serving.dicom_out.references import References
from hilum.serving.scan_result import ScanResult


def capture(result: ScanResult, references: References) -> Dataset:
    """An RGB picture without any name, id or date in its pixels."""
    pixels: UInt8[np.ndarray, "y x rgb"] = page_picture(result)
    about: dict[str, Any] = equipment(result.model_digest, "page")
    made = sc.SCImage.from_ref_dataset(
        references.files[0],
        pixel_array=pixels,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        patient_orientation=("L", "F"),
        **about,
    )
    made["PatientOrientation"].value = None  # it is a page, and highdicom wants one
    made.BurnedInAnnotation = "NO"
    return made
