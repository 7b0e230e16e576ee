"""Convolutions: each way gives the library's output and gradients, and bf16 those of fp32 on the smallest grids."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from hilum.modelling.convolution import Conv3D

sizes = st.tuples(*[st.integers(1, 9)] * 3)
strides = st.tuples(*[st.integers(1, 2)] * 3)


def _both(conv, x, *, autocast=False):
    """Output and gradients of input and weights, for one gradient of the output."""
    x = x.clone().requires_grad_()
    conv.weight.grad = None
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        out = conv(x)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    out.backward(grad.to(out.dtype))
    return out.detach().float(), x.grad, conv.weight.grad.clone()


def _dirty():
    """Freed memory that is not zero: what is read before it is written shows."""
    held = [torch.full((n,), torch.nan) for n in (100, 1000, 3000, 10000, 30000, 100000) for _ in range(4)]
    del held


@given(
    size=sizes,
    stride=strides,
    channels=st.integers(1, 3),
    kernel=st.sampled_from([1, 3, 7]),
    way=st.sampled_from(["pairs", "blocks", "product"]),
    inside=st.booleans(),
)
def test_every_way_is_the_librarys_convolution_with_its_gradients(size, stride, channels, kernel, way, inside):
    torch.manual_seed(0)
    conv = Conv3D(channels, 5, kernel, stride).double()
    x = torch.randn(2, channels, *size, dtype=torch.float64)
    plain = _both(conv, x)
    assert torch.allclose(plain[0].double(), F.conv3d(x, conv.weight, None, stride, kernel // 2), atol=1e-5)
    conv.way = way
    if inside:
        conv.weight = torch.nn.Parameter(conv.weight.detach().contiguous(memory_format=torch.channels_last_3d))
    for got, expected in zip(_both(conv, x), plain, strict=True):
        assert got.shape == expected.shape
        assert torch.allclose(got, expected, atol=1e-5)


def test_a_product_is_taken_where_outputs_are_fewer_than_channels(monkeypatch):
    conv = Conv3D(4, 8, 3)
    conv.way = "product"
    taken = []
    monkeypatch.setattr(
        "hilum.modelling.convolution._Product.apply", lambda x, w, s: taken.append(len(x)) or F.conv3d(x, w, None, s, 1)
    )
    conv(torch.ones(1, 4, 2, 2, 2))
    conv(torch.ones(2, 4, 2, 2, 2))
    assert taken == [1]


@pytest.mark.parametrize("way", ["plain", "product"])
@pytest.mark.parametrize("stride", [1, 2])
def test_bf16_gradients_are_those_of_fp32_on_the_smallest_grids(stride, way):
    """PyTorch's own are wrong on some processors; freed memory is filled first, for they may read it."""
    torch.manual_seed(0)
    conv = Conv3D(16, 32, 3, stride)
    conv.way = way
    for size in itertools.product((1, 2, 3, 5), repeat=3):
        x = torch.randn(2, 16, *size)
        expected = _both(conv, x)
        _dirty()
        for got, exact in zip(_both(conv, x, autocast=True), expected, strict=True):
            assert (got - exact).norm() <= 0.02 * exact.norm(), size


@pytest.mark.parametrize("way", ["plain", "pairs", "blocks"])
@pytest.mark.parametrize("autocast", [False, True])
def test_the_stems_gradients_are_right_on_the_smallest_grids(way, autocast):
    torch.manual_seed(0)
    conv, exact = Conv3D(1, 16, 7, 2), Conv3D(1, 16, 7, 2).double()
    exact.load_state_dict(conv.state_dict())
    conv.way = way
    for size in ((1, 1, 1), (2, 5, 9), (4, 4, 4), (7, 8, 9), (7, 12, 8), (13, 7, 2), (14, 15, 16)):
        x = torch.randn(2, 1, *size)
        expected = _both(exact, x.double())
        _dirty()
        for got, right in zip(_both(conv, x, autocast=autocast), expected, strict=True):
            assert (got - right).norm() <= (0.02 if autocast else 1e-5) * right.norm(), size
