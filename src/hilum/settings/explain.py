"""Settings of maps that explain a prediction."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from hilum.errors import require

Method: TypeAlias = Literal["occlusion", "hirescam", "gradcam", "integrated-gradients"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainConfig:
    """How maps are made.

    Attributes:
        method: ``occlusion`` measures what replacing a part changes. The others follow gradients, and cost less.
        patch_mm: Edge of the cubes of occlusion; None: an eighth of the shortest edge of the model's box.
        stage: Stage of HiResCAM and Grad-CAM, 1 to 4; None: the last with voxels of half a patch, or the first.
    """

    method: Method = "occlusion"
    patch_mm: float | None = None
    stage: int | None = None

    def __post_init__(self) -> None:
        require(self.method in get_args(Method), "method", f"one of {', '.join(get_args(Method))}", self.method)
        if self.patch_mm is not None:
            require(0 < self.patch_mm < math.inf, "patch_mm", "positive", self.patch_mm)
            require(self.method == "occlusion", "patch_mm", f"absent with {self.method}", self.patch_mm)
        if self.stage is not None:
            require(1 <= self.stage <= 4, "stage", "1 to 4", self.stage)
            require(self.method in ("hirescam", "gradcam"), "stage", f"absent with {self.method}", self.stage)
