"""Small maps side by side: the same sums and gradients, and only where they pay."""

import pytest
import torch
from torch import nn

from snnkit import small_maps
from snnkit.small_maps import SmallMaps
from snnkit.spikes import as_spikes


@pytest.fixture
def taken(monkeypatch):
    """A list that grows with every convolution that takes its maps side by side; no layer is too small."""
    calls, real = [], small_maps._wide_conv2d
    monkeypatch.setattr(small_maps, "FEWEST_WEIGHTS", 1)
    monkeypatch.setattr(small_maps, "_wide_conv2d", lambda *a, **k: calls.append(a) or real(*a, **k))
    return calls


@pytest.mark.parametrize(("shape", "kernel"), [((2, 2), 3), ((6, 3), (3, 5)), ((1, 1), 3), ((4, 4), 1)])
def test_maps_side_by_side_have_the_convolution_and_its_gradients(monkeypatch, taken, shape, kernel):
    torch.manual_seed(0)
    monkeypatch.setattr(torch, "bfloat16", torch.float64)  # the arithmetic aside, the same code
    conv = nn.Conv2d(5, 7, kernel, padding=[k // 2 for k in small_maps.pair(kernel)], dtype=torch.float64)
    images = torch.randn(3, 5, *shape, dtype=torch.float64, requires_grad=True)
    inputs = (images, conv.weight, conv.bias)
    expected = conv(images)
    with SmallMaps():
        got = conv(images)
    assert taken
    torch.testing.assert_close(got, expected)
    error = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, error), torch.autograd.grad(expected, inputs, error), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("shape", "dtype", "options", "pays"),
    [
        ((2, 8, 4, 4), torch.bfloat16, {}, True),
        ((2, 8, 9, 2), torch.bfloat16, {}, True),
        ((2, 8, 4, 5), torch.bfloat16, {}, False),
        ((1, 8, 4, 4), torch.bfloat16, {}, False),
        ((8, 4, 4), torch.bfloat16, {}, False),
        ((2, 8, 4, 4), torch.float32, {}, False),
        ((2, 8, 4, 4), torch.bfloat16, {"stride": 2}, False),
        ((2, 8, 4, 4), torch.bfloat16, {"dilation": 2, "padding": 2}, False),
        ((2, 8, 4, 4), torch.bfloat16, {"padding": 0}, False),
        ((2, 8, 4, 4), torch.bfloat16, {"padding": "same"}, False),
        ((2, 8, 4, 4), torch.bfloat16, {"groups": 2}, False),
    ],
)
def test_only_convolutions_that_pay_are_replaced(taken, shape, dtype, options, pays):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 6, 3, bias=False, **({"padding": 1} | options)).to(dtype)
    images = torch.randn(shape).to(dtype)
    expected = conv(images)
    with SmallMaps():
        got = conv(images)
    assert bool(taken) is pays
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0.02)


def test_autocast_counts_as_bfloat16_and_layers_with_few_weights_do_not_pay(taken, monkeypatch):
    conv = nn.Conv2d(8, 6, 3, padding=1)
    with SmallMaps(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(torch.randn(2, 8, 4, 4)).dtype == torch.bfloat16
        assert len(taken) == 1
        monkeypatch.setattr(small_maps, "FEWEST_WEIGHTS", 8 * 6 * 9 + 1)
        conv(torch.randn(2, 8, 4, 4))
    assert len(taken) == 1


def test_spikes_are_left_to_themselves(taken):
    conv = nn.Conv2d(8, 6, 3, padding=1, bias=False).bfloat16()
    with torch.no_grad(), SmallMaps():
        conv(as_spikes(torch.ones(2, 8, 4, 4).bfloat16()))
    assert not taken
