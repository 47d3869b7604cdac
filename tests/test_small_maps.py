"""Convolutions as matrix products: the same sums and gradients, and only where they pay."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snnkit import small_maps
from snnkit.small_maps import SmallMaps, as_product


@pytest.mark.parametrize(("shape", "kernel", "padding"), [((2, 2), 3, 1), ((4, 3), (3, 2), (1, 0)), ((1, 1), 3, 1)])
def test_the_product_is_the_convolution_and_has_its_gradients(shape, kernel, padding):
    torch.manual_seed(0)
    conv = nn.Conv2d(5, 7, kernel, padding=padding, dtype=torch.float64)
    images = torch.randn(3, 5, *shape, dtype=torch.float64, requires_grad=True)
    inputs = (images, conv.weight, conv.bias)
    expected, got = F.conv2d(*inputs, padding=padding), as_product(*inputs, padding=padding)
    torch.testing.assert_close(got, expected)
    error = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, error), torch.autograd.grad(expected, inputs, error), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("side", "dtype", "options", "taken"),
    [
        (4, torch.bfloat16, {}, True),
        (2, torch.bfloat16, {}, True),
        (5, torch.bfloat16, {}, False),
        (4, torch.float32, {}, False),
        (4, torch.bfloat16, {"stride": 2}, False),
        (4, torch.bfloat16, {"dilation": 2}, False),
        (4, torch.bfloat16, {"padding": "same"}, False),
    ],
)
def test_only_calls_that_pay_are_replaced(monkeypatch, side, dtype, options, taken):
    calls = []
    monkeypatch.setattr(small_maps, "as_product", lambda *a, **k: calls.append(a) or as_product(*a, **k))
    conv = nn.Conv2d(342, 342, 3, bias=False, **({"padding": 1} | options)).to(dtype)
    images = torch.randn(2, 342, side, side).to(dtype)
    with torch.no_grad():
        expected = conv(images)
        with SmallMaps():
            got = conv(images)
    assert bool(calls) is taken
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0.02)


def test_autocast_counts_as_bfloat16_and_few_weights_do_not_pay(monkeypatch):
    calls = []
    monkeypatch.setattr(small_maps, "as_product", lambda *a, **k: calls.append(a) or as_product(*a, **k))
    small, large = nn.Conv2d(64, 64, 3, padding=1), nn.Conv2d(342, 342, 3, padding=1)
    with torch.no_grad(), SmallMaps(), torch.autocast("cpu", dtype=torch.bfloat16):
        small(torch.randn(2, 64, 4, 4))
        assert not calls
        assert large(torch.randn(2, 342, 4, 4)).dtype == torch.bfloat16
    assert len(calls) == 1
