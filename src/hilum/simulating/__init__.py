"""Simulates chest CT scans with known truth: anatomy, trees, lesions, a scanner, files, a cohort."""

from hilum.simulating.anatomy import Anatomy, Pleura, sample_anatomy
from hilum.simulating.cohort import SimulatedCase, plan_cohort, simulate_case, simulate_cohort
from hilum.simulating.elsewhere import simulate_abdomen, simulate_head
from hilum.simulating.lesions import Lesion, sample_disease, sample_lesion
from hilum.simulating.pathology import Surface, diffuse_disease, lobar_consolidation, pleural_nodule
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
    "Surface",
    "Truth",
    "diffuse_disease",
    "lobar_consolidation",
    "plan_cohort",
    "pleural_nodule",
    "sample_anatomy",
    "sample_disease",
    "sample_lesion",
    "sample_scanner",
    "simulate_abdomen",
    "simulate_case",
    "simulate_cohort",
    "simulate_head",
    "simulate_scan",
    "write_dicom",
]
