"""Whether the map of one real chest lies at the same place whatever form the scan has.

    python benchmarks/explain_forms.py [--run runs/demo/run] [--point X Y Z] [--json]

Explains ``lidc-0314`` (275 slices) as its DICOM series, as NIfTI, cut around the model's box, and with a simulated tilt
of the gantry, by the demo's model (``hilum demo``), or by one of nodules at a point. ``off``: distance of the peak from
that of the DICOM series along the axis of the model's grid on which it is largest, in voxels of this grid.
"""

import argparse
import itertools
import json
import math
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from machine import DATA, ROOT, line, machine, need

from hilum.predicting import Predictor
from hilum.predicting.explain.scan import explain_scan
from hilum.reading.reader import read
from hilum.volume import AIR_HU, Volume, crop

TILTS_DEGREES = (3, 6, 12)
AROUND_MM = 10.0
"""What is left around the model's box of a scan that is cut."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "demo" / "run")
    parser.add_argument("--point", type=float, nargs=3, help="X Y Z in LPS mm, for a model of region point")
    parser.add_argument("--quick", action="store_true", help="the NIfTI alone: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    need("SimpleITK")
    if not (DATA / "lidc-0314").is_dir():
        sys.exit("no lidc-0314: HILUM_DATA must name the folder with the shared data")
    found = machine("torch", "SimpleITK")
    print(line(found), flush=True)
    predictor, point_mm, series, rows = Predictor(args.run, device="cpu"), args.point, DATA / "lidc-0314", {}
    volume = read(series)
    sample = predictor.prepare(volume, point_mm=point_mm)
    forms = {"NIfTI": volume}
    if not args.quick:
        forms |= {"cut": _cut(volume, sample)}
        forms |= {f"tilted by {degrees} degrees": _tilted(volume, degrees) for degrees in TILTS_DEGREES}
    with tempfile.TemporaryDirectory() as name:
        paths = {"DICOM": series} | {form: Path(name) / f"{form}.nii.gz" for form in forms}
        for form, path in paths.items():
            if form in forms:
                forms[form].write(path)
            (one,) = explain_scan(args.run, path, Path(name) / "out", point_mm=point_mm, device="cpu")["maps"]
            peak_mm = np.array(one["peak_lps_mm"])
            off_mm = np.abs(peak_mm - (rows["DICOM"]["peak_lps_mm"] if rows else peak_mm))
            off = float((off_mm / sample.spacing_mm[::-1]).max())
            rows[form] = {"peak_lps_mm": peak_mm.tolist(), "log_odds": one["log_odds"], "off": off}
            shown = " ".join(f"{mm:.2f}" for mm in peak_mm)
            print(f"{form:22s} peak {shown} LPS mm, log odds {one['log_odds']:.2f}, off {off:.2f} voxels", flush=True)
    if args.json:
        print(json.dumps({"rows": rows, "spacing_mm": list(sample.spacing_mm), "machine": found}))


def _cut(volume: Volume, sample: Volume) -> Volume:
    """The scan without what lies further from the model's box than a margin."""
    corners = np.array(list(itertools.product(*((0, n - 1) for n in sample.shape))))
    inside = volume.mm_to_index(sample.index_to_mm(corners))
    around = AROUND_MM / np.array(volume.spacing_mm)
    low = np.floor(inside.min(axis=0) - around).astype(int).clip(0)
    high = np.minimum(np.ceil(inside.max(axis=0) + around).astype(int) + 1, volume.shape)
    return crop(volume, tuple(low.tolist()), tuple(high.tolist()))


def _tilted(volume: Volume, degrees: float) -> Volume:
    """The scan as a tilted gantry takes it: every slice moved along y by its height times the tangent."""
    shear = math.tan(math.radians(degrees)) * volume.spacing_mm[0]
    room = math.ceil(abs(shear) * volume.shape[0] / volume.spacing_mm[1])  # so that nothing leaves the slices
    hu = np.pad(volume.voxels_hu, [(0, 0), (room, room), (0, 0)], constant_values=AIR_HU)
    affine = volume.affine.copy()
    affine[:3, 3] = volume.index_to_mm((0, -room, 0))
    image = replace(volume, voxels_hu=hu, affine=affine).to_sitk()
    affine[1, 0] += shear
    for z in range(volume.shape[0]):
        moved = sitk.TranslationTransform(2, (0.0, shear * z))
        hu[z] = sitk.GetArrayFromImage(sitk.Resample(image[:, :, z], moved, sitk.sitkLinear, AIR_HU))
    return replace(volume, voxels_hu=hu, affine=affine)


if __name__ == "__main__":
    sys.exit(main())
