"""A 3D convolution that can be computed in several ways, with the same weights, to suit its grid."""

import math
from itertools import product
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

Way = Literal["plain", "pairs", "blocks", "product"]


_TRUSTED = 3
"""Largest kernel whose gradient is trusted in fp32 on CPUs if the output is shorter than the kernel.

In torch 2.13, on a processor with AVX512-BF16 and without AMX, the gradient of the weights is then wrong, by 100 % or
not finite, and memory is written out of bounds: in bf16 for a 3x3x3 convolution, as on the two slices of the
last stage of a ResNet at 64 cubed, and in fp32 too for the stem on some grids of 12 voxels or fewer, such as 5, 6 and
7. The stem is then computed as a product, a 3x3x3 convolution as a product or in fp32, which are right;
``tests/test_convolution.py`` compares with double precision.
"""


class Conv3D(nn.Conv3d):
    """A convolution with an odd kernel, padded by half of it.

    Attributes:
        way: ``plain``: PyTorch's. ``blocks``: along axes of stride 2, pairs of voxels become channels (space to
            depth), and the kernel, one wider, runs over half the grid with stride 1; for few input channels.
            ``pairs``: the same along x only, so that nothing is copied and fewer zeros are multiplied.
            ``product``: one matrix product, if the grid is so small that there are fewer output voxels than output
            channels; else plain.
    """

    way: Way = "plain"

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int | tuple[int, int, int] = 1
    ) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2, bias=False)

    def forward(self, input: Float[Tensor, "b _ z y x"]) -> Float[Tensor, "b _ _ _ _"]:  # noqa: A002 - nn.Conv3d's name
        """Convolve; every value of ``way`` gives the same result up to rounding."""
        device, kernel = input.device.type, self.kernel_size[0]
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        size = [-(-length // stride) for length, stride in zip(input.shape[2:], self.stride, strict=True)]
        untrusted = device == "cpu" and 1 < kernel > min(size) and torch.is_grad_enabled() and self.weight.requires_grad
        if untrusted and kernel > _TRUSTED:
            return self._product(input.to(dtype))
        untrusted = untrusted and dtype == torch.bfloat16
        if untrusted or (self.way == "product" and kernel > 1):
            if len(input) * math.prod(size) <= self.out_channels:
                return self._product(input.to(dtype))
            if untrusted:
                with torch.autocast(device, enabled=False):
                    return super().forward(input.to(self.weight.dtype)).to(dtype)
        if kernel > 1 and self.way in ("pairs", "blocks") and 2 in self.stride:
            x, weight, strides = self._folded(input.to(dtype))
            return F.conv3d(x, weight, self.bias, strides)
        return super().forward(input)

    def _product(self, x: Tensor) -> Tensor:
        out = cast("Tensor", _Product.apply(x, self.weight.to(x.dtype), self.stride))  # type: ignore[no-untyped-call]
        return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, 1, 1, 1)

    def _folded(self, x: Tensor) -> tuple[Tensor, Tensor, tuple[int, ...]]:
        """Input, weights and strides of an equal convolution with fewer strides.

        Along a folded axis, output i sums w[k] x[2 i + k - p] over k, p being half the kernel of 2 p + 1. With one zero
        before the weights, k + 1 = 2 q + r, that is x[2 (i + q - (p + 1) / 2) + r]: kernel position q and channel r of
        the folded grid.
        """
        p = self.kernel_size[0] // 2
        fold = [s if s == 2 and (axis == 2 or self.way == "blocks") else 1 for axis, s in enumerate(self.stride)]
        pads, kernel, front = [], [], []
        for length, n in zip(x.shape[2:], fold, strict=True):
            pads += [(p + 1, p - 1 + length % 2) if n == 2 else (p, p)]
            kernel += [p + 1 if n == 2 else 2 * p + 1, n]
            front += [(n - 1, 0)]
        x = F.pad(x, [n for pad in reversed(pads) for n in pad]).permute(0, 2, 3, 4, 1)
        x = x.reshape(*x.shape[:3], x.shape[3] // fold[2], -1)  # a view if channels are innermost
        if max(fold[:2]) == 2:
            x = torch.cat([x[:, i :: fold[0], j :: fold[1]] for i, j in product(range(fold[0]), range(fold[1]))], dim=4)
        weight = F.pad(self.weight, [n for pad in reversed(front) for n in pad])
        weight = weight.view(*weight.shape[:2], *kernel).permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4)
        strides = tuple(s // n for s, n in zip(self.stride, fold, strict=True))
        return x.permute(0, 4, 1, 2, 3), weight.permute(0, 4, 1, 2, 3), strides


class _Product(torch.autograd.Function):
    """Each output's neighbourhood as a row, times the weights: on small grids each weight is read only once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int, int]) -> Tensor:
        kernel = weight.shape[2:]
        padded = F.pad(x.permute(0, 2, 3, 4, 1), [0, 0] + [n for k in reversed(kernel) for n in (k // 2, k // 2)])
        windows = padded
        for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=1):
            windows = windows.unfold(axis, k, s)
        size = windows.shape[1:4]
        inside = not weight.is_contiguous()  # in prediction: channels are innermost already, so nothing is copied
        rows = (windows.permute(*_INSIDE) if inside else windows).reshape(len(x) * size.numel(), -1)
        matrix = (weight.permute(0, 2, 3, 4, 1) if inside else weight).reshape(len(weight), -1)
        ctx.save_for_backward(rows, matrix)
        ctx.shapes = x.shape, size, weight.shape, stride, inside
        return (rows @ matrix.t()).view(len(x), *size, len(weight)).permute(0, 4, 1, 2, 3)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        rows, matrix = ctx.saved_tensors
        (b, c, *grid), size, (o, _, *kernel), stride, inside = ctx.shapes
        of_rows = grad.permute(0, 2, 3, 4, 1).reshape(len(rows), -1)
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_matrix = of_rows.t() @ rows
            of_weight = (
                of_matrix.view(o, *kernel, c).permute(0, 4, 1, 2, 3) if inside else of_matrix.view(o, c, *kernel)
            )
        if not ctx.needs_input_grad[0]:
            return None, of_weight, None
        of_taps = of_rows @ matrix
        taps = of_taps.view(b, *size, *kernel, c).permute(*_OUTSIDE) if inside else of_taps.view(b, *size, c, *kernel)
        padded = [n + 2 * (k // 2) for n, k in zip(grid, kernel, strict=True)]
        total = grad.new_zeros((b, *padded, c), dtype=torch.promote_types(grad.dtype, torch.float32))
        for at in product(*map(range, kernel)):  # each tap of the kernel adds to the voxels that it read
            box = tuple(slice(i, i + s * n, s) for i, s, n in zip(at, stride, size, strict=True))
            total[(slice(None), *box)] += taps[(..., *at)]
        inner = tuple(slice(k // 2, k // 2 + n) for n, k in zip(grid, kernel, strict=True))
        return total[(slice(None), *inner)].to(grad.dtype).permute(0, 4, 1, 2, 3), of_weight, None


_INSIDE, _OUTSIDE = (0, 1, 2, 3, 5, 6, 7, 4), (0, 1, 2, 3, 7, 4, 5, 6)
"""Permutations that move the channels behind the kernel's three axes, and back."""
