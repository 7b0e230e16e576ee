"""All settings of a run with their meaning and checks."""

import math
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal, TypeAlias

import tyro

from hilum.errors import require
from hilum.findings import Policy, PolicyName
from hilum.settings.augmentation import AugmentConfig as AugmentConfig
from hilum.settings.decision import DecisionConfig as DecisionConfig
from hilum.settings.imbalance import AT_THE_PROBABILITY, OF_THE_BATCH
from hilum.settings.imbalance import HeadConfig as HeadConfig
from hilum.settings.imbalance import LossConfig as LossConfig
from hilum.settings.imbalance import SamplingConfig as SamplingConfig
from hilum.settings.recipe import Range as Range
from hilum.settings.recipe import Recipe as Recipe
from hilum.settings.recipe import Triple as Triple


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingConfig:
    """The policy for unusual scans, and a limit of memory."""

    policy: PolicyName = "standard"
    """strict: unusual geometry is refused. standard: repaired where safe. lenient: doubtful scans are accepted."""

    override: tuple[str, ...] = ()
    """Findings with another severity, as code=severity: slice-gap=note, few-slices=refused."""

    max_gb: float = 8.0
    """Largest scan, as voxels, and largest unpacked archive, in GB (10^9 bytes); decoders may take three times that."""

    def __post_init__(self) -> None:
        Policy(name=self.policy, override=self.override)  # raises if it is not allowed
        require(0 < self.max_gb < math.inf, "reading.max_gb", "positive", self.max_gb)

    @property
    def rules(self) -> Policy:
        """The policy with its overrides."""
        return Policy(name=self.policy, override=self.override)

    @property
    def max_bytes(self) -> int:
        """The limit in bytes."""
        return int(self.max_gb * 1e9)


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnsConfig:
    """Names of the table's columns. A column named here must exist; a default name may be absent."""

    case_id: str = "case_id"
    """Id of a case; without this column a keyed hash of its path."""

    path: str = "path"
    """Path of the scan; relative to the table."""

    label: str = "label"
    """The class."""

    patient_id: str = "patient_id"
    """Cases of one patient stay in one part; without this column each file counts as a patient."""

    x_mm: str = "x_mm"
    """Coordinate of a point in LPS mm, towards the patient's left."""

    y_mm: str = "y_mm"
    """Coordinate towards the patient's back."""

    z_mm: str = "z_mm"
    """Coordinate towards the patient's head."""

    split: str = "split"
    """train, val or test, if the table has its own split."""

    mask: str = "mask"
    """Lung mask from another program, for recipes that need the lungs; not 0 inside."""

    series: str = "series"
    """Series to read, if path holds several: a SeriesInstanceUID, or the hash that hilum inspect lists."""

    soft_label: str = "soft_label"
    """Probability of the second class, for example the share of readers; trained on instead of label."""

    labels: tuple[str, ...] = ()
    """Instead of label, for multi-label cohorts: a column for each label, 1 if present, 0 if absent, or a share of
    readers. Flag: --columns.labels nodule effusion"""

    num_readers: str = ""
    """Number of readers whose share soft_label is: the weight of a case is multiplied by it, so that the loss is the
    binomial likelihood of their votes. Empty: not used."""

    auxiliary: tuple[str, ...] = ()
    """Further columns, numbers or classes, that are learned beside the label from the same features; empty cells are
    left out. Prediction neither needs nor uses them."""

    case_weight: str = "case_weight"
    """Weight of a case in the loss; 1 without this column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CohortConfig:
    """The table of cases."""

    table: str = ""
    """CSV, Excel or Parquet file; relative to the config file, as a flag to the current folder."""

    columns: Annotated[ColumnsConfig, tyro.conf.arg(prefix_name=False)] = field(default_factory=ColumnsConfig)
    """Flags: --columns.path image"""

    classes: tuple[str, ...] = ()
    """Class names in the order of the model's outputs; empty: the sorted labels of the table."""

    unlabelled: Literal["error", "drop", "train"] = "error"
    """What to do with rows without a label. train: those with a soft label, as where readers tie, are trained on and
    never judged; the others are dropped."""

    max_refused: float = 0.1
    """Largest share of the cases that may be refused before it is an error."""

    def __post_init__(self) -> None:
        require(0 <= self.max_refused <= 1, "cohort.max_refused", "between 0 and 1", self.max_refused)
        require(len(set(self.classes)) == len(self.classes), "cohort.classes", "distinct names", self.classes)
        labels, defaults = self.columns.labels, ColumnsConfig()
        both = bool(labels) and (self.columns.label, self.columns.soft_label) != (defaults.label, defaults.soft_label)
        require(not both, "columns.labels", "empty where columns.label or columns.soft_label is given", labels)
        names = [f.name for f in fields(ColumnsConfig) if f.name not in ("label", "labels", "auxiliary")]
        others = {getattr(self.columns, name) for name in names} - {""} | set(self.columns.auxiliary)
        shared = sorted(others & set(labels))
        require(not shared, "columns.labels", "columns that hold nothing else", ", ".join(shared))
        distinct = len(labels) != 1 and len(set(labels)) == len(labels)
        require(distinct, "columns.labels", "empty or distinct columns, two or more (one alone is label)", labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitConfig:
    """How patients are split into training, validation and test parts, stratified by label."""

    val: float = 0.15
    """Share of the patients in the validation part; with folds, of the patients outside the test fold."""

    test: float = 0.15
    """Share of the patients in the test part; unused with folds."""

    folds: int = 0
    """Number of folds for cross-validation; 0: one split by val and test."""

    fold: int = 0
    """Number of the test fold, from 0."""

    seed: int = 0
    """Seed of the split alone."""

    def __post_init__(self) -> None:
        require(0 < self.val < 1, "split.val", "between 0 and 1", self.val)
        require(self.test > 0 and self.val + self.test < 1, "split.test", "positive, below 1 - val", self.test)
        require(self.folds == 0 or self.folds >= 2, "split.folds", "0 or at least 2", self.folds)
        require(0 <= self.fold < max(self.folds, 1), "split.fold", "at least 0 and below split.folds", self.fold)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The network."""

    depth: Literal[10, 18, 34, 50, 101, 152, 200] = 18
    """Layers of the ResNet."""

    width: int = 64
    """Channels of the first stage; 64 as in the tutorial, fewer are faster."""

    stem: Literal["full", "small"] = "full"
    """full: 7x7x7, stride 2 and pooling. small: 3x3x3, stride 1, for grids under about 48 voxels."""

    stem_stride: tuple[int, int, int] | None = None
    """Stride of the stem's convolution along Z Y X, 1 or 2 each, for anisotropic voxels; by default the stem's own."""

    norm: Literal["batch", "group", "instance"] = "batch"
    """Normalisation layers; group and instance do not depend on the batch."""

    shortcut: Literal["A", "B"] = "B"
    """Shortcut where the shape changes. B: projection. A: no parameters, as in MedicalNet's ResNet-18 and 34."""

    squeeze_excite: bool = False
    """Weigh the channels of each block (Hu 2018)."""

    dropout: float = 0.0
    """Probability that a feature is dropped before the last layer, in training."""

    stochastic_depth: float = 0.0
    """Probability that a case skips the last block in training; earlier blocks in proportion (Huang 2016)."""

    pooling: Literal["average", "attention"] = "average"
    """attention: a mean over voxels, weighted by a learned score (Ilse 2018)."""

    zero_init: bool = False
    """Start each block as the identity (Goyal 2017)."""

    measures: Literal["none", "nodule"] = "none"
    """nodule: the diameter and HU that rings around the point show are measured in the image, and joined to the learned
    features before the last layer; for region point."""

    def __post_init__(self) -> None:
        require(self.width >= 1, "model.width", "positive", self.width)
        for name in ("dropout", "stochastic_depth"):
            require(0 <= getattr(self, name) < 1, f"model.{name}", "at least 0 and below 1", getattr(self, name))
        strides = self.stem_stride or (1, 1, 1)
        require(all(s in (1, 2) for s in strides), "model.stem_stride", "1 or 2 along each axis", self.stem_stride)

    @property
    def least_cases(self) -> int:
        """Fewest cases that are trained on at a time: batch norm needs two."""
        return 2 if self.norm == "batch" else 1

    def stride_of(self, stage: int) -> tuple[int, ...]:
        """Voxels (z, y, x) of the input between two voxels of the maps of a stage, 1 to 4."""
        full = self.stem == "full"
        strides = self.stem_stride or ((2, 2, 2) if full else (1, 1, 1))
        later = (2 if full else 1) * 2 ** (stage - 1)
        return tuple(s * later for s in strides)

    def grid_of(self, stage: int, size: tuple[int, int, int]) -> tuple[int, ...]:
        """Voxels (z, y, x) of the maps of a stage, 1 to 4, for an input of this size: every stride rounds up."""
        return tuple(-(-n // s) for n, s in zip(size, self.stride_of(stage), strict=True))

    def check_for(self, size: tuple[int, int, int]) -> None:
        """Raise a ConfigError where a norm would be computed over a single number, which it sets to 0."""
        for stage in (1, 2, 3, 4):
            channels = self.width * 2 ** (stage - 1)
            together = {"instance": 1, "group": channels // math.gcd(32, channels), "batch": 2}[self.norm]
            seen = together * math.prod(self.grid_of(stage, size)) > 1
            need = f"larger: stage {stage} has one voxel, of which model.norm = {self.norm} leaves nothing"
            need += f" with model.width = {self.width}" if self.norm == "group" else ""
            require(seen, "recipe.size", need, size)


KeepBy: TypeAlias = Literal["loss", "auc", "average_precision", "balanced_accuracy"]

_MOST_WORKERS = 256
"""Largest number of loading processes (rule of thumb): each takes 0.4 GB, and more would fill the memory in silence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """The training loop: epochs, batches, optimizer, schedule and device."""

    epochs: int = 50
    """Largest number of passes over the training cases."""

    batch_size: int = 8
    """Cases in an optimizer step."""

    micro_batch: int = 0
    """Cases that are computed at a time; 0: the whole batch. The gradient is that of the whole batch."""

    checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time, the same result."""

    optimizer: Literal["adam", "adamw", "sgd"] = "adamw"
    """Optimizer; adamw decouples weight decay from the gradient. sgd wants a higher rate (0.05) and less decay (5e-4).
    """

    momentum: float = 0.9
    """Nesterov momentum of sgd."""

    lr: float = 1e-3
    """Highest learning rate, of the head."""

    lr_decay: float = 1.0
    """The rate of each earlier part (head, layer4, ... layer1, stem) is that of the next one times this."""

    weights: str = ""
    """File or model folder whose weights training begins with; relative to the config file, as a flag to the
    current folder."""

    freeze: int = 0
    """Number of frozen parts. 1: the stem; 2: and layer1; ... 5: all but the head."""

    weight_decay: float = 1e-2
    """Share of the weights that each step subtracts, times the rate."""

    schedule: Literal["plateau", "one-cycle", "cosine"] = "plateau"
    """plateau: lower the rate when validation loss stalls. one-cycle: warm up over 30 % of all steps, then anneal.
    cosine: warm up over warm_up, then anneal."""

    warm_up: float = 0.05
    """Share of all steps over which the rate rises from 0; with schedule = cosine."""

    ema_epochs: float = 2.0
    """Train as usual, but validate and keep an exponential moving average of the weights over about this many epochs;
    0: the weights themselves."""

    norm_statistics: Literal["recomputed", "running"] = "recomputed"
    """Batch norm's means and variances for validation and prediction. recomputed: of the validated weights, on up to
    256 training cases after each epoch. running: collected while the weights changed, as PyTorch does."""

    keep: Literal["best", "last"] = "best"
    """Epoch whose weights become the model: the best one by keep_by, or the last."""

    keep_by: KeepBy = "loss"
    """Validation figure by which an epoch is the best."""

    plateau_factor: float = 0.5
    """Factor by which the rate is multiplied when validation loss stalls."""

    plateau_patience: int = 5
    """Epochs without a better validation loss before the rate is multiplied by plateau_factor."""

    stop_patience: int = 15
    """Epochs without a better keep_by before training stops; 0: never."""

    checkpoint_minutes: float = 10.0
    """Within long epochs the state is saved this often too, as after each epoch; a resumed run is the same."""

    clip_norm: float = 1.0
    """Largest norm of the gradient."""

    workers: int = 0
    """Processes that load samples; they change the speed, never the result."""

    device: Annotated[str, tyro.conf.arg(prefix_name=False)] = "auto"
    """auto, cpu, cuda, cuda:1, mps. Flag: --device cuda"""

    seed: int = 0
    """Seed of weights, order, sampling and augmentation: the same seed gives the same run."""

    def __post_init__(self) -> None:
        for name in ("epochs", "plateau_patience"):
            require(getattr(self, name) >= 1, f"training.{name}", "at least 1", getattr(self, name))
        require(self.batch_size >= 2, "training.batch_size", "at least 2 (batch normalisation)", self.batch_size)
        require(self.micro_batch >= 0, "training.micro_batch", "at least 0 (0: the whole batch)", self.micro_batch)
        for name in ("lr", "clip_norm", "checkpoint_minutes"):
            value = getattr(self, name)
            require(math.isfinite(value) and value > 0, f"training.{name}", "positive", value)
        require(0 <= self.workers <= _MOST_WORKERS, "training.workers", f"0 to {_MOST_WORKERS}", self.workers)
        for name in ("weight_decay", "stop_patience", "seed"):
            require(0 <= getattr(self, name) < math.inf, f"training.{name}", "at least 0", getattr(self, name))
        for name in ("momentum", "warm_up"):
            require(0 <= getattr(self, name) < 1, f"training.{name}", "at least 0 and below 1", getattr(self, name))
        require(0 <= self.ema_epochs < math.inf, "training.ema_epochs", "at least 0 (0: none)", self.ema_epochs)
        require(0 < self.lr_decay <= 1, "training.lr_decay", "above 0 and at most 1", self.lr_decay)
        require(0 <= self.freeze <= 5, "training.freeze", "0 to 5", self.freeze)
        require(0 < self.plateau_factor < 1, "training.plateau_factor", "between 0 and 1", self.plateau_factor)


Switch = Literal["auto", "on", "off"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeedConfig:
    """How the network is computed; auto is chosen by measuring and written into the run folder's config."""

    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """bf16: convolutions and products in bfloat16, everything else and all weights in float32."""

    channels_last: Switch = "auto"
    """Memory layout with channels innermost."""

    folded_stem: Literal["auto", "off", "pairs", "blocks"] = "auto"
    """Space to depth in the stem, with the same weights: pairs of voxels along x, or 2 x 2 x 2, become channels."""

    products: Switch = "auto"
    """Convolutions on grids of a few voxels as one matrix product."""

    compile: Switch = "auto"
    """torch.compile; takes a minute or more before the first step, and a compiler on CPUs."""

    keep_memory: Switch = "auto"
    """Keep freed memory for the next step; Linux, CPU."""

    @property
    def is_resolved(self) -> bool:
        """Whether no setting is auto."""
        return not any(getattr(self, one.name) == "auto" for one in fields(self))


@dataclass(frozen=True, slots=True, kw_only=True)
class CardConfig:
    """Statements for the model card and the report, in your own words; what is empty is reported as not stated."""

    intended_use: str = ""
    """Task, patients and users that the model is meant for."""

    label_origin: str = ""
    """Who or what decided the labels, and on what evidence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """All settings of a run; the sections of config.toml."""

    cohort: CohortConfig = field(default_factory=CohortConfig)
    reading: ReadingConfig = field(default_factory=ReadingConfig)
    split: SplitConfig = field(default_factory=SplitConfig)
    recipe: Recipe = field(default_factory=Recipe)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    speed: SpeedConfig = field(default_factory=SpeedConfig)
    decision: DecisionConfig = field(default_factory=DecisionConfig)
    card: CardConfig = field(default_factory=CardConfig)
    store: str = "store"
    """Folder of the prepared samples; relative to the config file, as a flag to the current folder."""

    store_gb: float = 0.0
    """Largest size of the store after a command, in GB (10^9 bytes); removes the longest unused first; 0: no bound."""

    def __post_init__(self) -> None:
        require(0 <= self.store_gb < math.inf, "store_gb", "at least 0 (0: no bound)", self.store_gb)

    def check_together(self) -> None:
        """Raise a ConfigError where sections are inconsistent; not in __post_init__, for flags come one by one."""
        self.recipe.check_complete()
        frozen = self.training.freeze
        require(frozen == 0 or self.training.weights != "", "training.freeze", "0 without training.weights", frozen)
        micro, least = self.training.micro_batch, self.model.least_cases
        require(not 0 < micro < least, "training.micro_batch", "0 or at least 2 with model.norm = batch", micro)
        whole = self.loss.name not in OF_THE_BATCH or not micro
        require(whole, "training.micro_batch", f"0 with loss.name = {self.loss.name}, which is of a whole batch", micro)
        single = self.head.retrain == "none" or not self.recipe.sub_volumes
        require(
            single, "head.retrain", "none with recipe.sub_volumes, where a case is several grids", self.head.retrain
        )
        self._check_prior()
        for name in ("error", "coverage"):
            value, usual = (getattr(one, name) for one in (self.decision, DecisionConfig()))
            has_effect = value == usual or self.decision.abstain != "none"
            require(has_effect, f"decision.{name}", f"{usual:g} with decision.abstain = none", value)
        alone = not self.cohort.columns.auxiliary or not (self.augment.mixup or self.augment.cutmix)
        require(
            alone, "columns.auxiliary", "empty with augment.mixup and cutmix, which mix the cases of a batch", "both"
        )
        soft = self.cohort.unlabelled != "train" or not self.cohort.columns.labels
        require(soft, "cohort.unlabelled", "error or drop with columns.labels, which may hold shares", "train")
        at_point = self.model.measures == "none" or self.recipe.region == "point"
        require(at_point, "model.measures", "none unless recipe.region is point", self.model.measures)
        self.model.check_for(self.recipe.size)
        self.augment.check_for(self.recipe)

    def _check_prior(self) -> None:
        """Raise a ConfigError where prior offsets cannot undo what moved the probabilities."""
        if self.decision.calibration != "prior":
            return
        rules = {
            f"loss.name = {self.loss.name}": self.loss.name in ("auto", *AT_THE_PROBABILITY),
            f"head.retrain = {self.head.retrain}": self.head.retrain == "none",
            "several labels (columns.labels) that are sampled": not self.cohort.columns.labels
            or self.sampling.method == "none",
            f"loss.label_smoothing = {self.loss.label_smoothing:g}": self.loss.label_smoothing == 0,
        }
        for what, right in rules.items():
            require(right, "decision.calibration", f"another with {what}, which no offsets undo", "prior")

    def parts_of(self, cases: int) -> int:
        """Number of micro batches in a batch: as few as ``micro_batch`` allows, each large enough for the norm."""
        count = math.ceil(cases / self.training.micro_batch) if self.training.micro_batch else 1
        return max(1, min(count, cases // self.model.least_cases))

    def at_once(self, cases: int) -> int:
        """Cases in the largest micro batch; their sizes differ by one at most."""
        return math.ceil(cases / self.parts_of(cases))
