"""Simulates a cohort: healthy and diseased chests as DICOM series, with the table of cases.

Nothing but the disease depends on the label: scanner, kernel, thickness, field of view, body, inspiration, emphysema,
contrast and benign nodules are sampled from the same distributions for all patients.
"""

from dataclasses import dataclass
from pathlib import Path

from hilum.errors import ConfigError
from hilum.files import cores, csv_text, write_whole
from hilum.randomness import generator
from hilum.simulating.anatomy import sample_anatomy
from hilum.simulating.lesions import DISEASES, Disease, sample_disease
from hilum.simulating.scan import Truth, simulate_scan
from hilum.simulating.scanner import sample_scanner
from hilum.simulating.write import Header, write_dicom
from hilum.volume import Volume
from hilum.working.tasks import Failed, run_tasks

TABLE = "cohort.csv"
_COLUMNS = ("case_id", "path", "label", "patient_id", "disease", "kernel", "thickness_mm", "contrast")
_EXTENT_MM = 384.0
"""Edge of the field of view of the cohort's scans."""
_INTERCEPTS = (0, -1000, -1024, -1024, -1024, -8192)
"""RescaleIntercepts that scanners use, the usual one more often."""
_TWO_SCANS = 0.12
"""Share of the patients with a second scan."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedCase:
    """One planned scan of a cohort.

    Attributes:
        case_id: Name of the scan and of its folder.
        patient_id: Scans of one patient share the body and the lesions.
        number: Number of the patient, for the name in the header.
        visit: 1, or 2 for a second scan.
        disease: Disease of the lungs.
    """

    case_id: str
    patient_id: str
    number: int
    visit: int
    disease: Disease

    @property
    def label(self) -> int:
        """1 if diseased, else 0."""
        return int(self.disease != "none")


def plan_cohort(num_cases: int, *, seed: int, diseased: float = 0.2) -> tuple[SimulatedCase, ...]:
    """Plan patients, their scans and diseases; exactly round(num_cases * diseased) scans show disease.

    Raises:
        ConfigError: If there are no cases or the share is not between 0 and 1.
    """
    if num_cases < 1:
        msg = f"num_cases must be at least 1, got {num_cases}"
        raise ConfigError(msg)
    if not 0 <= diseased <= 1:
        msg = f"diseased must be a share between 0 and 1, got {diseased}"
        raise ConfigError(msg)
    rng = generator(seed, "plan")
    num_diseased = round(num_cases * diseased)
    patients: list[tuple[Disease, int]] = []
    for group_size, ill in ((num_diseased, True), (num_cases - num_diseased, False)):
        left, start = group_size, len(patients)
        while left > 0:
            scans = 2 if left >= 2 and rng.random() < _TWO_SCANS else 1
            patients.append((DISEASES[(len(patients) - start) % len(DISEASES)] if ill else "none", scans))
            left -= scans
    cases: list[SimulatedCase] = []
    for number, chosen in enumerate(rng.permutation(len(patients)), start=1):
        disease, scans = patients[int(chosen)]
        for visit in range(1, scans + 1):
            case = SimulatedCase(
                case_id=f"case-{len(cases) + 1:04d}",
                patient_id=f"PHANTOM-{seed}-{number:04d}",
                number=number,
                visit=visit,
                disease=disease,
            )
            cases.append(case)
    return tuple(cases)


def simulate_case(case: SimulatedCase, *, seed: int, pixel_mm: float = 2.0) -> tuple[Volume, Truth]:
    """Simulate one case of a cohort; slices are thick if pixels are larger than 1 mm."""
    anatomy = sample_anatomy(generator(seed, case.patient_id, "anatomy"))
    return simulate_scan(
        seed,
        key=case.case_id,
        anatomy=anatomy,
        lesions=sample_disease(anatomy, case.disease, rng=generator(seed, case.patient_id, "lesions")),
        scanner=sample_scanner(
            generator(seed, case.case_id, "scanner"),
            pixel_mm=pixel_mm,
            pixels=round(_EXTENT_MM / pixel_mm),
            thin=pixel_mm <= 1,
        ),
    )


def simulate_cohort(
    folder: Path,
    *,
    num_cases: int,
    seed: int = 0,
    diseased: float = 0.2,
    pixel_mm: float = 2.0,
    workers: int | None = None,
) -> Path:
    """Simulate and write a cohort; the result does not depend on the number of workers.

    Args:
        folder: Output folder for ``cohort.csv`` and ``scans`` with a DICOM series for each case.
        num_cases: Number of scans.
        seed: The same seed gives the same files, byte for byte.
        diseased: Share of the scans with label 1.
        pixel_mm: Mean size of the pixels.
        workers: Number of processes; None: one for each core.

    Returns:
        The table, with paths relative to it.

    Raises:
        ConfigError: If a number is not usable.
    """
    if pixel_mm <= 0 or _EXTENT_MM / pixel_mm < 16:
        msg = f"pixel_mm must be above 0 and at most {_EXTENT_MM / 16:g}, got {pixel_mm}"
        raise ConfigError(msg)
    if workers is not None and workers < 1:
        msg = f"workers must be at least 1, got {workers}"
        raise ConfigError(msg)
    cases = plan_cohort(num_cases, seed=seed, diseased=diseased)
    processes = min(cores() if workers is None else workers, num_cases)
    jobs = [(case, folder.absolute() / "scans" / case.case_id, seed, pixel_mm) for case in cases]
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in run_tasks(_write_case, jobs, workers=processes):
        if isinstance(row, Failed):
            raise row.error
        rows.append(row)
    write_whole(folder / TABLE, csv_text([_COLUMNS, *([row[name] for name in _COLUMNS] for row in rows)]))
    return folder / TABLE


def _write_case(job: tuple[SimulatedCase, Path, int, float]) -> dict[str, str | int | float]:
    """Simulate one case and write its series; returns its row of the table."""
    case, folder, seed, pixel_mm = job
    volume, truth = simulate_case(case, seed=seed, pixel_mm=pixel_mm)
    rng = generator(seed, case.case_id, "storage")
    header = Header(
        patient_id=case.patient_id,
        patient_name=f"PHANTOM^{case.number:04d}",
        study=str(case.visit),
        study_date=f"20{rng.integers(15, 25)}{rng.integers(1, 13):02d}{rng.integers(1, 29):02d}",
        intercept=int(rng.choice(_INTERCEPTS)),
        position="HFS" if rng.random() < 0.8 else "FFS",
    )
    write_dicom(volume, folder, header=header)
    return {
        "case_id": case.case_id,
        "path": f"scans/{case.case_id}",
        "label": case.label,
        "patient_id": case.patient_id,
        "disease": case.disease,
        "kernel": truth.scanner.kernel,
        "thickness_mm": truth.scanner.thickness_mm,
        "contrast": int(truth.anatomy.blood_hu > 100),
    }
