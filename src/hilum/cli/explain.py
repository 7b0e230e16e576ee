"""``hilum explain``: shows which parts of a scan a prediction depends on."""

import json
from dataclasses import dataclass
from pathlib import Path

from hilum.cli.arguments import ModelPath, ScanPath, refuse_flags_of_scans
from hilum.settings.explain import ExplainConfig, Method
from hilum.settings.run import Triple


@dataclass(frozen=True, kw_only=True)
class Explain:
    """Show which parts of a scan a prediction depends on: maps in the scan's geometry, pictures, JSON and a page.

    A map shows where replacing the image changes this model's output; it locates no disease.
    """

    model: ModelPath
    """A run folder, or the model folder in it."""

    path: ScanPath
    """A scan: DICOM folder or file, NIfTI, NRRD, MetaImage; or a prepared .npy volume."""

    out: Path
    """Folder to write; new, empty or of an earlier explanation."""

    finding: tuple[str, ...] = ()
    """Classes or labels, one map each; by default the second of two classes, the most probable of more, every label."""

    method: Method = "occlusion"
    """occlusion measures what replacing a part changes. hirescam, gradcam and integrated-gradients follow gradients."""

    patch_mm: float | None = None
    """Edge of the cubes of occlusion; by default an eighth of the shortest edge of the model's box."""

    stage: int | None = None
    """Stage of hirescam and gradcam, 1 to 4; by default the last with voxels of half a patch, or the first."""

    check: bool = False
    """Test whether the map says anything: deletion, insertion, and maps of lost weights; takes about ten times as long.
    """

    point: Triple | None = None
    """X Y Z in LPS mm, for models of region point."""

    series: str = ""
    """Series to read, if the folder holds several."""

    mask: Path | None = None
    """Lung mask from another program, for models that need the lungs."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""

    json: bool = False
    """Print explanation.json instead of a few lines."""

    def run(self) -> int:
        """Explain, write and print."""
        from hilum.deciding.model_folder import read_card
        from hilum.modelling.memory import kept_memory
        from hilum.predicting.explain.scan import explain_scan

        refuse_flags_of_scans(self.path, read_card(self.model).recipe.region, point=self.point, series=self.series)
        with kept_memory():
            about = explain_scan(
                self.model,
                self.path,
                self.out,
                outputs=self.finding,
                config=ExplainConfig(method=self.method, patch_mm=self.patch_mm, stage=self.stage),
                check=self.check,
                point_mm=self.point,
                series=self.series,
                mask=self.mask,
                device=self.device,
                show_progress=True,
            )
        if self.json:
            print(json.dumps(about, indent=2))
            return 0
        found = about["prediction"]
        print(f"decision: {found['decision']}" + (f", because {found['reason']}" if found["reason"] else ""))
        for one in about["maps"]:
            print(_line(one))
            if one["doubt"]:
                print(one["doubt"])
            if one["check"] is not None:
                print(one["check"]["verdict"])
        print(about["meaning"])
        print(f"page: {self.out / 'explanation.html'}")
        return 0


def _line(one: dict[str, object]) -> str:
    """Peak and place of a map."""
    peak, index = one["peak_lps_mm"], one["peak_index_zyx"]
    if isinstance(peak, list):
        return f"{one['output']}: peak at {' '.join(f'{mm:.1f}' for mm in peak)} (LPS mm), {one['peak_in']}"
    if isinstance(index, list):
        return f"{one['output']}: peak at voxel {' '.join(f'{i:g}' for i in index)} (z, y, x)"
    return f"{one['output']}: nothing in the image speaks for it"
