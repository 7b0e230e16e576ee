"""Settings of the service: its limits, who may reach it, and the PACS that it works beside."""

import re
from dataclasses import dataclass, field
from typing import Literal

from hilum.errors import require


def _is_ae_title(title: str) -> bool:
    """Whether a text can be an AE title (PS3.5, 6.2: AE)."""
    return (
        0 < len(title) <= 16 and title.isascii() and title.isprintable() and "\\" not in title and bool(title.strip())
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitsConfig:
    """What one client, or all of them, may ask of the service."""

    body_gb: float = 4.0
    """Largest upload, in GB (10^9 bytes)."""

    unpacked_gb: float = 8.0
    """Largest scan and largest unpacked archive, in GB; a model's own reading.max_gb holds too."""

    parts: int = 20_000
    """Most files of one upload."""

    uploads: int = 16
    """Most uploads at a time; more get 429."""

    queue: int = 1000
    """Most jobs that wait; more get 429."""

    head_s: float = 15.0
    """Seconds that a client may take to begin a request, and for its head."""

    grace_s: float = 30.0
    """Seconds that a body may take, however slow."""

    slowest_kb_s: float = 200.0
    """Rate in kB/s that a body must reach after that."""

    free_gb: float = 1.0
    """Space that uploads leave free on the disk of the data folder, in GB; less gets 507."""

    step_s: float = 600.0
    """Longest step of a job in seconds; its process is then ended."""

    def __post_init__(self) -> None:
        for name in ("body_gb", "unpacked_gb", "head_s", "grace_s", "slowest_kb_s", "step_s"):
            require(getattr(self, name) > 0, f"limits.{name}", "positive", getattr(self, name))
        for name in ("parts", "uploads", "queue"):
            require(getattr(self, name) >= 1, f"limits.{name}", "at least 1", getattr(self, name))
        require(self.free_gb >= 0, "limits.free_gb", "at least 0", self.free_gb)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsConfig:
    """Files in PEM for TLS; without any, a connection is not encrypted."""

    certificate: str = ""
    """Own certificate, with those between it and its authority."""

    key: str = ""
    """Key of the own certificate."""

    authorities: str = ""
    """Certificates of the authorities that the other side's must come from; empty: this machine's."""

    def __post_init__(self) -> None:
        both = bool(self.certificate) == bool(self.key)
        require(both, "tls.certificate and tls.key", "given together", "one of them")

    @property
    def is_given(self) -> bool:
        """Whether any file is named."""
        return bool(self.certificate or self.authorities)


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleConfig:
    """Which studies go to which model: the first rule that a CT series of the study fits decides."""

    model: str
    """Name of the model."""

    modality: str = "CT"
    """Modality of the series."""

    body_part: str = ""
    """Regular expression that is found in BodyPartExamined, whatever the case; empty: any, also none."""

    description: str = ""
    """Regular expression that is found in StudyDescription or SeriesDescription; empty: any, also none."""

    youngest: float | None = None
    """Least age in years, by PatientAge or the birth date; a patient of unknown age does not fit."""

    oldest: float | None = None
    """Greatest age in years."""

    def __post_init__(self) -> None:
        for name in ("body_part", "description"):
            try:
                re.compile(getattr(self, name))
                is_pattern = True
            except re.error:
                is_pattern = False
            require(is_pattern, f"rules.{name}", "a regular expression", repr(getattr(self, name)))
        least, most = self.youngest, self.oldest
        right = least is None or most is None or least <= most
        require(right, "rules.youngest", "at most rules.oldest", least)


@dataclass(frozen=True, slots=True, kw_only=True)
class DestinationConfig:
    """Where results may be sent; nothing is sent anywhere else."""

    name: str
    """Its name in this file and in lists."""

    kind: Literal["dicom", "web"] = "dicom"
    """dicom: by C-STORE. web: by STOW-RS."""

    host: str = ""
    """Of kind dicom: host name or address."""

    port: int = 104
    """Of kind dicom: port."""

    ae_title: str = ""
    """Of kind dicom: AE title of the other side."""

    calling: str = ""
    """Of kind dicom: own AE title there; empty: that of the node, or HILUM."""

    url: str = ""
    """Of kind web: root of its DICOMweb, such as https://pacs.example/dicom-web."""

    token_file: str = ""
    """Of kind web: file with a bearer token."""

    tls: TlsConfig = field(default_factory=TlsConfig)
    """TLS; of kind web it follows the URL, of kind dicom it is used where authorities or a certificate are named."""

    def __post_init__(self) -> None:
        require(
            bool(re.fullmatch(r"[\w.-]{1,40}", self.name)), "destinations.name", "letters, digits, _ . -", self.name
        )
        if self.kind == "dicom":
            require(bool(self.host), f"host of the destination {self.name}", "given", "nothing")
            require(_is_ae_title(self.ae_title), f"ae_title of {self.name}", "1 to 16 characters", repr(self.ae_title))
            require(0 < self.port < 65536, f"port of {self.name}", "1 to 65535", self.port)
            own = not self.calling or _is_ae_title(self.calling)
            require(own, f"calling of {self.name}", "1 to 16 characters", repr(self.calling))
        else:
            require(bool(re.match(r"https?://\S+$", self.url)), f"url of {self.name}", "http(s)://...", repr(self.url))


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerConfig:
    """A DICOM node that may store studies here."""

    ae_title: str
    """Its calling AE title."""

    host: str
    """Its address, or a name that is looked up when the service starts."""

    def __post_init__(self) -> None:
        require(_is_ae_title(self.ae_title), "peers.ae_title", "1 to 16 characters", repr(self.ae_title))
        require(bool(self.host), "peers.host", "given", "nothing")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """A DICOM node that takes studies by C-STORE."""

    destination: str
    """Name of the destination of results."""

    ae_title: str = "HILUM"
    """Own AE title."""

    host: str = "127.0.0.1"
    """Own address; 0.0.0.0 is all of them."""

    port: int = 11112
    """Own port."""

    peers: tuple[PeerConfig, ...] = ()
    """Who may store studies; everybody else is refused."""

    stable_s: float = 30.0
    """Seconds without a new instance after which a study is complete."""

    associations: int = 10
    """Most associations at a time; more are refused."""

    tls: TlsConfig = field(default_factory=TlsConfig)
    """With a certificate, only TLS is taken; with authorities, only peers with a certificate of theirs."""

    def __post_init__(self) -> None:
        require(_is_ae_title(self.ae_title), "node.ae_title", "1 to 16 characters", repr(self.ae_title))
        require(0 < self.port < 65536, "node.port", "1 to 65535", self.port)
        require(self.stable_s > 0, "node.stable_s", "positive", self.stable_s)
        require(self.associations >= 1, "node.associations", "at least 1", self.associations)
        listens = bool(self.tls.certificate) or not self.tls.authorities
        require(listens, "node.tls", "with a certificate and its key where authorities are named", "none")
        require(bool(self.peers), "node.peers", "given: who may store studies", "nobody")


@dataclass(frozen=True, slots=True, kw_only=True)
class WebSourceConfig:
    """A PACS whose new studies are found by QIDO-RS and fetched by WADO-RS."""

    name: str
    """Its name: POST /v1/pacs/NAME tells of a study there."""

    url: str
    """Root of its DICOMweb, such as https://pacs.example/dicom-web."""

    destination: str
    """Name of the destination of results."""

    poll_s: float = 30.0
    """Seconds between searches for new studies; 0: studies are told by POST alone."""

    days: int = 2
    """Days before today whose studies are searched for; 0: all studies."""

    stable_s: float = 30.0
    """Seconds without a new instance after which a study is complete."""

    token_file: str = ""
    """File with a bearer token."""

    tls: TlsConfig = field(default_factory=TlsConfig)
    """Certificates; TLS follows the URL."""

    def __post_init__(self) -> None:
        named = bool(re.fullmatch(r"[\w.-]{1,40}", self.name)) and self.name not in ("node", "upload")
        require(named, "web.name", "letters, digits, _ . -, and neither node nor upload", repr(self.name))
        require(bool(re.match(r"https?://\S+$", self.url)), f"web.url of {self.name}", "http(s)://...", repr(self.url))
        require(self.poll_s >= 0, f"web.poll_s of {self.name}", "at least 0", self.poll_s)
        require(self.days >= 0, f"web.days of {self.name}", "at least 0", self.days)
        require(self.stable_s > 0, f"web.stable_s of {self.name}", "positive", self.stable_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryConfig:
    """How results are sent."""

    objects: tuple[Literal["report", "segmentation", "map", "page"], ...] = ("report", "segmentation")
    """Which objects of a result are sent."""

    first_retry_s: float = 5.0
    """Seconds before the second try; each later wait is twice as long."""

    longest_retry_s: float = 600.0
    """Longest wait between tries."""

    give_up_hours: float = 72.0
    """Hours after which a result is given up, until a person sends it again."""

    report_failures: bool = False
    """Send a report that says that no result was made, for a study that failed."""

    def __post_init__(self) -> None:
        require("report" in self.objects, "delivery.objects", "with report", ", ".join(self.objects))
        for name in ("first_retry_s", "longest_retry_s", "give_up_hours"):
            require(getattr(self, name) > 0, f"delivery.{name}", "positive", getattr(self, name))


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeConfig:
    """Settings of the service."""

    limits: LimitsConfig = field(default_factory=LimitsConfig)
    """What may be asked of the service."""

    keep_hours: float = 24.0
    """Hours after its end for which a job's result is kept; it is then removed with its upload."""

    keep_days: float = 90.0
    """Days for which the record of a job is kept: model, decision, probabilities, times, and no result."""

    stop_s: float = 30.0
    """Seconds that running jobs get to end when the service is told to stop; the rest is done after a new start."""

    names: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the classes or labels by model, in place of a model's own."""

    hosts: tuple[str, ...] = ()
    """Names by which the service is reached, beside its own address; requests for others are refused."""

    origins: tuple[str, ...] = ()
    """Origins of other pages that may call the API, such as https://ris.example."""

    shadow: bool = False
    """Predict what comes from a PACS, and send nothing."""

    rules: tuple[RuleConfig, ...] = ()
    """Which studies go to which model; without any, no study is predicted."""

    node: NodeConfig | None = None
    """A DICOM node that takes studies by C-STORE."""

    web: tuple[WebSourceConfig, ...] = ()
    """PACS whose studies are fetched by DICOMweb."""

    destinations: tuple[DestinationConfig, ...] = ()
    """Where results may be sent."""

    delivery: DeliveryConfig = field(default_factory=DeliveryConfig)
    """How they are sent."""

    def __post_init__(self) -> None:
        for name in ("keep_hours", "keep_days", "stop_s"):
            require(getattr(self, name) > 0, name, "positive", getattr(self, name))
        for what, names in (
            ("web", [one.name for one in self.web]),
            ("destinations", [one.name for one in self.destinations]),
        ):
            require(len(set(names)) == len(names), f"names of {what}", "distinct", ", ".join(names))
        known = [one.name for one in self.destinations]
        wanted = [one.destination for one in self.web] + ([self.node.destination] if self.node else [])
        for name in wanted:
            require(name in known, "a source's destination", f"one of {', '.join(known) or 'destinations'}", name)
        require(bool(self.rules) or not (self.node or self.web), "rules", "given with a node or a web source", "none")
