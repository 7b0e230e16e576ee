"""Settings of how a model decides: its calibration, thresholds, abstaining and gate."""

from dataclasses import dataclass
from typing import Literal

from hilum.errors import require


@dataclass(frozen=True, slots=True, kw_only=True)
class DecisionConfig:
    """Calibration, threshold and test-time augmentation, fitted on the validation part."""

    rule: Literal["youden", "sensitivity", "specificity", "f1"] = "youden"
    """youden: largest sensitivity + specificity. sensitivity, specificity: at least `at`. f1: largest F1."""

    at: float = 0.9
    """The sensitivity or specificity that the rule asks for."""

    calibration: Literal["auto", "none", "temperature", "platt", "isotonic", "prior"] = "auto"
    """How logits become probabilities, fitted on the validation part. temperature: one factor. platt: a factor and an
    offset for each class. isotonic: any rising curve. prior: no fit, the offsets that undo weights and sampling, for
    cross entropy only. auto: platt after weights, sampling or a loss that moves probabilities, else temperature."""

    tta: int = 0
    """Test-time augmentation: number of moved views of a case that are averaged with the case itself."""

    gate: Literal["no-result", "note", "off"] = "no-result"
    """What happens to a scan unlike those of training: no-result: it gets no decision; note: a finding alone; off: the
    model learns nothing to tell them by."""

    gate_share: float = 0.01
    """Share of scans like those of training that the gate may hold back: 0.01 needs 99 cases that were held out."""

    abstain: Literal["none", "band", "sets"] = "none"
    """band: undecided between two thresholds, outside of which at most `error` of each class is decided wrongly. sets:
    undecided where a conformal set holds not one class; only for folds and recalibrate, whose cases chose no epoch."""

    error: float = 0.1
    """The share of each class that may be decided wrongly; with abstain."""

    coverage: float = 0.5
    """Smallest share of the cases that must be decided for abstain to be used at all."""

    def __post_init__(self) -> None:
        require(0 < self.at < 1, "decision.at", "between 0 and 1", self.at)
        require(0 <= self.tta <= 64, "decision.tta", "0 to 64", self.tta)
        require(0 < self.gate_share < 1, "decision.gate_share", "above 0 and below 1", self.gate_share)
        require(0 < self.error < 0.5, "decision.error", "above 0 and below 0.5", self.error)
        require(0 <= self.coverage < 1, "decision.coverage", "at least 0 and below 1", self.coverage)
