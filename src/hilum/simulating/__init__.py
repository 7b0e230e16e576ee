"""Simulates chest CT scans with known truth: anatomy, trees, lesions, a scanner, files, a cohort."""

from hilum.simulating.anatomy import Anatomy, Pleura, sample_anatomy
from hilum.simulating.cohort import SimulatedCase, plan_cohort, simulate_case, simulate_cohort
from hilum.simulating.lesions import Lesion, sample_disease, sample_lesion
from hilum.simulating.scan import Truth, simulate_scan
from hilum.simulating.scanner import Scanner, sample_scanner
from hilum.simulating.write import Header, write_dicom

__all__ = [
    "Anatomy",
    "Header",
    "Lesion",
    "Pleura",
    "Scanner",
    "SimulatedCase",
    "Truth",
    "plan_cohort",
    "sample_anatomy",
    "sample_disease",
    "sample_lesion",
    "sample_scanner",
    "simulate_case",
    "simulate_cohort",
    "simulate_scan",
    "write_dicom",
]
