"""``hilum serve``: serves models over HTTP, and beside a PACS."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

if TYPE_CHECKING:
    from hilum.settings.serving import ServeConfig

ModelPaths = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL [MODEL ...]")]


@dataclass(frozen=True, kw_only=True)
class Serve:
    """Serve models: a page to drop a scan on, an API, and a DICOM node or DICOMweb beside a PACS.

    Each MODEL is a run folder or the model folder in it, or NAME=FOLDER. Ends in order on SIGTERM or Ctrl-C.
    Not a medical device.
    """

    models: ModelPaths
    """Run folders, or the model folders in them; NAME=FOLDER gives one a name."""

    host: str = "127.0.0.1"
    """Address to listen on; one that other machines reach needs --token-file or --insecure."""

    port: int = 8000
    """Port; 0: a free one, which is printed."""

    data: Path | None = None
    """Folder for the queue, uploads and results; by default hilum/serve in XDG_STATE_HOME, or in ~/.local/state."""

    config: Path | None = None
    """TOML file with limits, times, and the PACS; see docs/how-to/deploy.md."""

    token_file: Path | None = None
    """File of tokens, one a line or NAME TOKEN; requests must then bring one of them."""

    insecure: bool = False
    """Serve other machines without a token."""

    names: tuple[str, ...] = ()
    """Names of the classes or labels of one model, in its order, in place of its own."""

    shadow: bool = False
    """Predict what comes from a PACS, and send nothing."""

    device: tuple[str, ...] = ("auto",)
    """auto, cpu, cuda, cuda:1, mps; one process for each."""

    def run(self) -> int:
        """Serve until told to stop."""
        from hilum.errors import require
        from hilum.files import check_place
        from hilum.modelling.device import pick_device
        from hilum.serving.app.access import Tokens
        from hilum.serving.app.app import check_address, private_files, run_service
        from hilum.serving.app.logs import log_as_json
        from hilum.serving.app.place import data_folder
        from hilum.serving.app.service import ModelPlaces, Service, named_models

        require(bool(self.models), "MODEL", "given", "nothing")
        require(0 <= self.port < 65536, "--port", "0 to 65535", self.port)
        check_address(self.host, has_tokens=self.token_file is not None, insecure=self.insecure)
        tokens = None if self.token_file is None else Tokens(self.token_file)
        folders, (config, names) = named_models(self.models), self._config()
        if self.names:
            require(len(folders) == 1, "--names", "for one MODEL; [names] of the config is for several", len(folders))
            names = {next(iter(folders)): self.names}
        devices = tuple(dict.fromkeys(str(pick_device(one)) for one in self.device))
        data = (self.data or data_folder()).absolute()
        check_place(data, "a folder", "--data")
        with private_files(data):
            service = Service(data, ModelPlaces(folders=folders, names=names, devices=devices), config)
            log_as_json()
            shown = f"[{self.host}]" if ":" in self.host else self.host
            run_service(
                service, host=self.host, port=self.port, tokens=tokens,
                on_start=lambda port: print(f"Hilum serves {', '.join(folders)} at http://{shown}:{port}/", flush=True),
            )  # fmt: skip
        return 0

    def _config(self) -> "tuple[ServeConfig, dict[str, tuple[str, ...]]]":
        """The settings of the file, and names of outputs by model."""
        from dataclasses import replace

        from hilum.settings.serving import ServeConfig
        from hilum.settings.toml import load_settings

        config = ServeConfig() if self.config is None else load_settings(ServeConfig, self.config)
        return replace(config, shadow=config.shadow or self.shadow), dict(config.names)
