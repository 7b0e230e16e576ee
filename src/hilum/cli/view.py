"""``hilum view``: writes one HTML file that shows a scan in a browser."""

from dataclasses import dataclass
from pathlib import Path

from hilum.cli.arguments import ScanPath
from hilum.settings.explain import Method
from hilum.settings.run import Triple


@dataclass(frozen=True, kw_only=True)
class View:
    """Write one HTML file that shows a scan in a browser: planes, a render, lungs, findings, and what a model says.

    With --model it shows the prediction, the box that the model saw and a map. The page needs no network. It holds no
    names, ids or dates, but the pixels of a patient. Not a medical device.
    """

    path: ScanPath
    """A scan: DICOM folder or file, NIfTI, NRRD, MetaImage."""

    out: Path
    """The HTML file to write; an earlier page of this command is replaced."""

    model: Path | None = None
    """A run folder, or the model folder in it."""

    names: tuple[str, ...] = ()
    """With --model: names of the classes or labels, in the model's order, in place of its own."""

    map: bool = True
    """With --model: show a map of what the prediction depends on."""

    method: Method = "occlusion"
    """How the map is made; see hilum explain."""

    point: Triple | None = None
    """X Y Z in LPS mm: where the crosshair starts, and where models of region point look."""

    series: str = ""
    """Series to read, if the folder holds several."""

    mask: Path | None = None
    """Lung mask from another program."""

    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""

    def run(self) -> int:
        """Write the page, and print what it shows."""
        from hilum.modelling.memory import kept_memory
        from hilum.serving.viewer import view
        from hilum.settings.explain import ExplainConfig

        self._refuse_ineffective_flags()
        with kept_memory():
            viewed = view(
                self.path,
                self.out,
                model=self.model,
                names=self.names,
                with_map=self.map,
                config=ExplainConfig(method=self.method),
                point_mm=self.point,
                series=self.series,
                mask=self.mask,
                device=self.device,
                show_progress=True,
            )
        if viewed.prediction is not None:
            reason = viewed.prediction.outcome.reason
            print(f"decision: {viewed.prediction.decision}" + (f", because {reason}" if reason else ""))
        print(viewed.shown)
        print(f"page: {self.out} ({viewed.num_bytes / 1e6:.1f} MB)")
        return 0

    def _refuse_ineffective_flags(self) -> None:
        from hilum.errors import ConfigError

        if self.model is None and (self.names or not self.map or self.method != "occlusion" or self.device != "auto"):
            msg = "--names, --no-map, --method and --device are for a model; give --model"
            raise ConfigError(msg)
        if not self.map and self.method != "occlusion":
            msg = "--method is for a map, --no-map makes none"
            raise ConfigError(msg)
