"""The forty simulated scans on which the lungs are measured, each from a fixed seed, and a folder that keeps them."""

# ruff: noqa: E501 (one row of the table, one line)

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pathology import Surface, diffuse_disease, lobar_consolidation, pleural_nodule

from hilum.randomness import generator
from hilum.simulating import (
    Lesion,
    Pleura,
    Scanner,
    sample_anatomy,
    sample_disease,
    simulate_scan,
)
from hilum.volume import Volume

FORM = 2
"""Raise it when a phantom changes: kept scans of another form are made anew."""
_SURFACES: dict[str, Surface] = {"c": "costal", "d": "diaphragmatic", "m": "mediastinal"}


@dataclass(frozen=True, kw_only=True)
class Case:
    """One scan before it is simulated.

    Attributes:
        name: Its row in the table.
        shows: What it is there for.
        litres: Volume of the lungs, before anything is wrong with them.
        mm: Pixel, slice thickness and increment.
        noise: Standard deviation in HU of a soft 1 mm slice.
        fov: Edge or diameter of the field of view in mm; 512 pixels if it is 0.
        nodules: On the pleura: diameter in mm and c(ostal), d(iaphragmatic) or m(ediastinal).
        lobe: Side and share of a lung that is consolidated.
        diffuse: Disease and its number of large patches.
        disease: Of the usual lesions.
        scanner: Other settings of the scanner.
        body: Other settings of the patient.
    """

    name: str
    shows: str
    litres: float
    mm: tuple[float, float, float]
    noise: float = 15.0
    fov: float = 0.0
    nodules: str = ""
    lobe: Any = None
    diffuse: Any = None
    disease: Any = "none"
    scanner: Mapping[str, Any] = field(default_factory=dict)
    body: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """A simulated scan and the part of its truth that is measured against; the fields are those of ``Truth``."""

    volume: Volume
    lungs: np.ndarray
    field: np.ndarray
    lesion_numbers: np.ndarray
    lesions: tuple[Lesion, ...]


SHARP: dict[str, Any] = {"kernel": "sharp"}
GAUSS: dict[str, Any] = {"profile": "gaussian"}
CIRCLE: dict[str, Any] = {"padding": True}


def fluid(right: float = 0.0, left: float = 0.0, hu: float = 10.0) -> dict[str, Any]:
    """An effusion of so many ml."""
    return {"pleura": Pleura(effusion_ml=(right, left), fluid_hu=hu)}


def free_air(right: float = 0.0, left: float = 0.0) -> dict[str, Any]:
    """A pneumothorax so many mm wide."""
    return {"pleura": Pleura(pneumothorax_mm=(right, left))}


# fmt: off
CASES = (
    # name, what it shows, litres, (pixel, thickness, increment) in mm, the rest
    Case(name="plain-1", shows="thin, soft", litres=3.6, mm=(0.66, 0.6, 0.75), nodules="6c 6d 10m"),
    Case(name="plain-2", shows="thin, sharp", litres=4.5, mm=(0.75, 1.0, 0.8), scanner=SHARP, nodules="6c 8d 12m"),
    Case(name="plain-3", shows="large lungs", litres=7.2, mm=(0.95, 1.25, 1.25), nodules="8c 10d 20m"),
    Case(name="plain-4", shows="2.5 mm, sharp", litres=5.0, mm=(0.82, 2.5, 2.0), scanner=SHARP | GAUSS, nodules="6c 15d"),
    Case(name="plain-5", shows="small lungs, 3 mm", litres=2.0, mm=(0.7, 3.0, 3.0), scanner=GAUSS, nodules="8c 8m"),
    Case(name="plain-6", shows="5 mm, arms down", litres=4.5, mm=(0.78, 5.0, 5.0), nodules="10c 10d", body={"arms": "down"}),
    Case(name="touching-1", shows="lungs touch in front", litres=5.5, mm=(0.75, 1.0, 1.0), nodules="6c 6m", body={"front_gap_mm": 0.6}),
    Case(name="touching-2", shows="lungs touch, sharp", litres=6.5, mm=(0.85, 2.0, 2.0), scanner=SHARP, nodules="12c", body={"front_gap_mm": 1.0}),
    Case(name="touching-3", shows="lungs touch, 7 mm", litres=5.0, mm=(0.8, 7.0, 7.0), nodules="14c", body={"front_gap_mm": 0.6}),
    Case(name="prone-1", shows="prone", litres=4.0, mm=(0.72, 1.25, 1.0), nodules="7c 9d", body={"prone": True}),
    Case(name="prone-2", shows="prone, 100 ml both sides", litres=4.6, mm=(0.76, 2.5, 2.5), body={"prone": True} | fluid(100.0, 100.0)),
    Case(name="tilted-1", shows="rolled by 20 degrees", litres=4.4, mm=(0.74, 1.5, 1.5), nodules="6c 8d 10m", body={"roll_deg": 20.0}),
    Case(name="tilted-2", shows="leaning by 10 degrees", litres=5.2, mm=(0.78, 2.0, 2.0), nodules="8c 12d", body={"tilt_deg": -10.0}),
    Case(name="tilted-3", shows="both; right lobe filled", litres=4.8, mm=(0.8, 3.0, 2.5), lobe=("right", 0.25), body={"roll_deg": -15.0, "tilt_deg": 8.0}),
    Case(name="thick-1", shows="8 mm slices", litres=4.2, mm=(0.8, 8.0, 8.0), nodules="16c 18d"),
    Case(name="thick-2", shows="10 mm slices", litres=5.4, mm=(0.85, 10.0, 10.0), scanner=SHARP, nodules="20c"),
    Case(name="missing-1", shows="no right lung", litres=5.0, mm=(0.76, 1.5, 1.5), nodules="8c", body={"pleura": Pleura(missing="right", fluid_hu=15.0), "shift": -30.0}),
    Case(name="missing-2", shows="no left lung", litres=4.6, mm=(0.78, 5.0, 5.0), nodules="10d", body={"pleura": Pleura(missing="left", fluid_hu=12.0), "shift": 28.0}),
    Case(name="air-1", shows="small pneumothorax right", litres=4.8, mm=(0.74, 1.25, 1.25), nodules="8m", body=free_air(right=22.0)),
    Case(name="air-2", shows="large pneumothorax left", litres=5.2, mm=(0.76, 2.5, 2.5), body=free_air(left=48.0)),
    Case(name="air-3", shows="large pneumothorax right, 5 mm", litres=4.4, mm=(0.8, 5.0, 5.0), body=free_air(right=65.0)),
    Case(name="emphysema-1", shows="emphysema, large parts", litres=6.8, mm=(0.8, 1.5, 1.5), diffuse=("emphysema", 16), nodules="6c 8d", body={"emphysema": 160, "lung_hu": -925.0}),
    Case(name="emphysema-2", shows="emphysema nearly all over", litres=7.4, mm=(0.85, 2.5, 2.5), diffuse=("emphysema", 40), body={"emphysema": 160, "lung_hu": -945.0, "front_gap_mm": 1.0}),
    Case(name="emphysema-3", shows="emphysema, sharp, noise 115", litres=6.5, mm=(0.82, 1.25, 1.25), noise=43.0, scanner=SHARP, diffuse=("emphysema", 16), body={"emphysema": 160, "lung_hu": -925.0}),
    Case(name="bowel-1", shows="stomach and colon full of gas", litres=4.0, mm=(0.76, 1.5, 1.5), nodules="8d 12d", body={"bowel_gas_mm": 80.0}),
    Case(name="bowel-2", shows="much gas, 8 mm", litres=3.4, mm=(0.78, 8.0, 6.0), body={"bowel_gas_mm": 105.0}),
    Case(name="noise-1", shows="low dose: noise 45, soft", litres=4.6, mm=(0.72, 1.0, 1.0), noise=45.0, nodules="8c 8d"),
    Case(name="noise-2", shows="low dose: noise 130, sharp", litres=5.0, mm=(0.76, 1.0, 1.25), noise=43.0, scanner=SHARP, nodules="8c 8m"),
    Case(name="metal-1", shows="pacemaker", litres=4.8, mm=(0.76, 1.5, 1.5), nodules="8c", body={"metal": "pacemaker"}),
    Case(name="metal-2", shows="rods; ground glass", litres=4.2, mm=(0.74, 2.5, 2.5), diffuse=("ground-glass opacity", 16), body={"metal": "rods"}),
    Case(name="square-1", shows="body cut; breath of 8 mm", litres=4.6, mm=(0.62, 1.25, 1.25), fov=300.0, nodules="7c", scanner={"breath_mm": (8.0, 4.0)}),
    Case(name="square-2", shows="body cut close to the lungs", litres=4.6, mm=(0.57, 1.0, 1.0), fov=276.0, nodules="8c 10m"),
    Case(name="square-3", shows="lungs slightly cut", litres=5.4, mm=(0.6, 3.0, 3.0), fov=262.0),
    Case(name="circle-1", shows="circle cuts the body", litres=4.4, mm=(0.63, 1.25, 1.25), fov=310.0, scanner=CIRCLE, nodules="8c"),
    Case(name="circle-2", shows="circle touches the lungs", litres=4.6, mm=(0.58, 2.0, 2.0), fov=282.0, scanner=CIRCLE, nodules="10d 12m"),
    Case(name="circle-3", shows="circle cuts the lungs", litres=5.2, mm=(0.6, 5.0, 5.0), fov=270.0, scanner=CIRCLE),
    Case(name="fluid-1", shows="effusion: 1 l right", litres=5.0, mm=(0.76, 1.5, 1.5), nodules="8m", body=fluid(right=1000.0, hu=12.0)),
    Case(name="fluid-2", shows="effusion: 450 ml and 300 ml", litres=4.4, mm=(0.78, 5.0, 5.0), body=fluid(450.0, 300.0, hu=4.0)),
    Case(name="lobe-1", shows="lobe filled: 40 % of the left", litres=4.6, mm=(0.74, 1.25, 1.25), lobe=("left", 0.4), nodules="8c"),
    Case(name="opaque", shows="ground glass, consolidations", litres=4.0, mm=(0.76, 2.0, 2.0), diffuse=("ground-glass opacity", 14), disease="consolidation"),
)
# fmt: on
QUICK = ("plain-2", "touching-1", "prone-2", "tilted-1", "missing-1", "air-2", "circle-2", "fluid-1")


def make(case: Case, *, coarse: bool = False) -> Known:
    """Simulate one scan; coarse ones have pixels of twice the size and slices of at least 2.5 mm."""
    rng = generator(40, case.name)
    body = dict(case.body)
    anatomy = sample_anatomy(rng, prone=body.pop("prone", False), volume_l=case.litres)
    shift = anatomy.shift_mm + body.pop("shift", 0.0)
    anatomy = replace(anatomy, shift_mm=shift, **({"arms": "up"} | body))
    lesions = list(diffuse_disease(anatomy, case.diffuse[0], number=case.diffuse[1], rng=rng) if case.diffuse else ())
    lesions += sample_disease(anatomy, case.disease, rng=rng) if case.disease != "none" else ()
    lesions += [lobar_consolidation(anatomy, *case.lobe, rng=rng)] if case.lobe else []
    lesions += [pleural_nodule(anatomy, float(n[:-1]), _SURFACES[n[-1]], rng=rng) for n in case.nodules.split()]
    pixel, thickness, increment = case.mm
    if coarse:
        pixel, thickness, increment = 2 * pixel, max(2.5, thickness), max(2.5, increment)
    scanner = Scanner(
        pixel_mm=pixel,
        pixels=round(case.fov / pixel) if case.fov else 256 if coarse else 512,
        thickness_mm=thickness,
        increment_mm=increment,
        noise_hu=case.noise,
        **case.scanner,
    )
    volume, truth = simulate_scan(40, key=case.name, anatomy=anatomy, lesions=tuple(lesions), scanner=scanner)
    return Known(
        volume=volume, lungs=truth.lungs, field=truth.field, lesion_numbers=truth.lesion_numbers, lesions=truth.lesions
    )


def kept(case: Case, folder: Path, *, coarse: bool = False) -> Known:
    """The scan from the folder, or simulated and kept there."""
    stem = folder / f"{case.name}{'-coarse' if coarse else ''}-{FORM}"
    voxels, truth = stem.with_suffix(".npy"), stem.with_suffix(".npz")
    if not truth.is_file():
        known = make(case, coarse=coarse)
        folder.mkdir(parents=True, exist_ok=True)
        fields = ("kind", "centre_mm", "diameter_mm", "hu", "axes", "seed")
        lesions = json.dumps([{name: getattr(one, name) for name in fields} for one in known.lesions])
        masks = {"lungs": known.lungs, "field": known.field, "lesions": known.lesion_numbers}
        # The masks are written last and appear at once: a scan is there whole or not at all.
        np.save(voxels, known.volume.voxels_hu)
        half = truth.with_suffix(".half.npz")
        np.savez_compressed(half, **masks, affine=known.volume.affine, findings=np.array(lesions))
        half.replace(truth)
    with np.load(truth) as stored:
        lesions = json.loads(str(stored["findings"]))
        return Known(
            volume=Volume(voxels_hu=np.load(voxels), affine=stored["affine"]),
            lungs=stored["lungs"],
            field=stored["field"],
            lesion_numbers=stored["lesions"],
            lesions=tuple(
                Lesion(**{k: tuple(v) if isinstance(v, list) else v for k, v in one.items()}) for one in lesions
            ),
        )
