"""Prepares a Volume as the sample that the model sees, in HU on the model's grid."""

from hilum.preparing.lungs.segment import FindLungs, Lungs, locate_lungs, lungs_from_mask, segment_lungs
from hilum.preparing.prepare import normalize, prepare, prepare_path, window
from hilum.preparing.resample import resample, sample
from hilum.preparing.sample_file import load_sample, save_sample
from hilum.preparing.store import Fetched, Store

__all__ = [
    "Fetched",
    "FindLungs",
    "Lungs",
    "Store",
    "load_sample",
    "locate_lungs",
    "lungs_from_mask",
    "normalize",
    "prepare",
    "prepare_path",
    "resample",
    "sample",
    "save_sample",
    "segment_lungs",
    "window",
]
