"""Spikes are convolved, pooled and remembered as plain tensors are: other layouts, the same numbers."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snnkit import neurons, simulate, spikes
from snnkit.neurons import IF, LIF
from snnkit.spikes import Spikes, as_spikes
from snnkit.surrogate import rectangle, triangle

MATRIX, ROW, PLAIN = "one matrix", "side by side", "as it is"


def drawn(*shape, rate=0.3, seed=0):
    maps = (torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate).float()
    return maps.contiguous(memory_format=torch.channels_last) if len(shape) == 4 else maps


def whole(conv):
    """Whole numbers for weights: every sum is exact, whatever its order."""
    numbers = torch.randint(-9, 10, conv.weight.shape, generator=torch.Generator().manual_seed(1))
    conv.weight.data = numbers.to(conv.weight.dtype)
    return conv


@pytest.fixture
def layouts(monkeypatch):
    """Which layouts were used."""
    used = []
    for name, layout in (("as_matrix", MATRIX), ("side_by_side", ROW)):
        original = getattr(spikes, name)
        monkeypatch.setattr(
            spikes, name, lambda *a, original=original, layout=layout: used.append(layout) or original(*a)
        )
    spikes.forget_layouts()
    return used


@pytest.mark.parametrize(
    ("size", "options", "layout"),
    [
        ((2, 2), {}, MATRIX),
        ((1, 4), {}, MATRIX),
        ((2, 4), {}, MATRIX),
        ((3, 3), {}, ROW),
        ((4, 4), {}, ROW),
        ((9, 7), {}, ROW),
        ((9, 8), {}, PLAIN),
        ((4, 4), {"kernel_size": 5, "padding": 2}, MATRIX),
        ((6, 6), {"kernel_size": 5, "padding": 2}, ROW),
        ((2, 2), {"kernel_size": 1, "padding": 0}, ROW),
        ((5, 5), {"kernel_size": (1, 3), "padding": (0, 1)}, ROW),
        ((4, 4), {"bias": True}, ROW),
        ((2, 2), {"bias": True}, ROW),
        ((4, 4), {"groups": 2}, ROW),
        ((4, 4), {"padding": 0}, PLAIN),
        ((4, 4), {"stride": 2}, PLAIN),
        ((5, 5), {"dilation": 2, "padding": 2}, PLAIN),
        ((4, 4), {"padding": "same"}, PLAIN),
    ],
)
@torch.no_grad()
def test_every_layout_of_a_convolution_gives_the_same_sums(size, options, layout, layouts):
    conv = whole(nn.Conv2d(4, 6, **{"kernel_size": 3, "padding": 1, "bias": False} | options))
    x = drawn(5, 4, *size)
    found = conv(as_spikes(x))
    assert type(found) is torch.Tensor
    assert torch.equal(found, conv(x))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (layouts or [PLAIN]) == [layout]


@pytest.mark.parametrize("size", [2, 4])
@torch.no_grad()
def test_under_autocast_the_sums_are_those_of_bfloat16(size):
    conv, x = whole(nn.Conv2d(4, 6, 3, padding=1, bias=False)), drawn(5, 4, size, size)
    with torch.autocast("cpu", torch.bfloat16):
        found, expected = conv(as_spikes(x)), conv(x)
    assert found.dtype == torch.bfloat16
    assert torch.equal(found, expected)


@torch.no_grad()
def test_a_matrix_is_made_once_a_simulation_and_anew_in_the_next(layouts):
    """Also after a change that leaves no trace."""
    net = nn.Sequential(IF(0.5), whole(nn.Conv2d(2, 3, 3, padding=1, bias=False)))
    train = torch.rand(6, 1, 2, 2, 2)
    first = simulate(net, train, 6, coding=None, chunk=2).output
    assert layouts == [MATRIX]
    net[1].weight.data.mul_(2)
    assert torch.equal(simulate(net, train, 6, coding=None, chunk=2).output, 2 * first)
    assert first.abs().sum() > 0


@torch.no_grad()
def test_pools_and_reshaping_stay_spikes_and_whatever_else_is_plain(layouts):
    x = drawn(3, 4, 8, 8)
    pooled = nn.AvgPool2d(2)(as_spikes(x))
    assert isinstance(pooled, Spikes)
    assert torch.equal(pooled + 0, F.avg_pool2d(x, 2))
    assert torch.equal(whole(nn.Conv2d(4, 2, 3, padding=1, bias=False))(pooled), F.conv2d(
        F.avg_pool2d(x, 2), whole(nn.Conv2d(4, 2, 3, padding=1, bias=False)).weight, padding=1))  # fmt: skip
    assert layouts == [ROW]
    assert isinstance(nn.Flatten()(as_spikes(x)), Spikes)
    for result in (as_spikes(x) * 2, torch.cat([as_spikes(x)] * 2), as_spikes(x).sum(), F.relu(as_spikes(x))):
        assert type(result) is torch.Tensor
    assert torch.equal(torch.cat([as_spikes(x), x]), torch.cat([x, x]))


def test_with_gradients_and_without_codes_spikes_are_plain():
    assert type(as_spikes(drawn(1, 2, 3, 3))) is torch.Tensor


def trained(surrogate, pool, plain, monkeypatch):
    """Spikes and all gradients of a small net, and the floats that autograd saved of the size of its spikes."""
    if plain:
        monkeypatch.setattr(neurons, "as_spikes", lambda tensor, codes=None: tensor)
    torch.manual_seed(0)
    lif = lambda: LIF(0.5, 0.1, "zero", surrogate)  # noqa: E731
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, bias=False), lif(), nn.Conv2d(4, 4, 3, padding=1, bias=False), lif(), pool,
        nn.Conv2d(4, 4, 3, padding=1, bias=False), lif(), nn.Flatten(), nn.LazyLinear(5, bias=False), lif(),
        nn.Linear(5, 3, bias=False),
    )  # fmt: skip
    train, saved = torch.rand(6, 3, 2, 8, 8, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x) or x, lambda x: x):
        output = simulate(net, train, 6, coding=None, chunk=2).output
    (output * torch.arange(output.numel()).view(output.shape).sin()).sum().backward()
    of_spikes = [
        x for x in saved if x.is_floating_point() and x.shape == (6, 4, 8, 8) and set(x.unique().tolist()) == {0, 1}
    ]
    return output.detach(), [train.grad, *(p.grad for p in net.parameters())], of_spikes


@pytest.mark.parametrize("pool", [nn.AvgPool2d(2), nn.AvgPool2d((2, 1)), nn.AvgPool2d(3, 1, 1)], ids=str)
def test_gradients_from_codes_are_those_from_the_spikes_themselves(pool, monkeypatch):
    expected, gradients, saved = trained(rectangle(), pool, True, monkeypatch)
    assert len(saved) == 2 * 3  # what two convolutions, or one and a pool, save in each chunk
    monkeypatch.undo()
    output, found, saved = trained(rectangle(), pool, False, monkeypatch)
    assert not saved
    assert torch.equal(output, expected)
    for gradient, reference in zip(found, gradients, strict=True):
        assert torch.allclose(gradient, reference, rtol=1e-5, atol=1e-7)
        assert reference.abs().sum() > 0


def test_surrogates_without_a_window_have_no_codes(monkeypatch):
    *_, saved = trained(triangle(), nn.AvgPool2d(2), False, monkeypatch)
    assert len(saved) >= 2 * 3


def test_what_a_convolution_saves_of_spikes_is_their_codes(monkeypatch):
    hooks, saved = torch.autograd.graph.saved_tensors_hooks, []

    def recording(pack, unpack):
        return hooks(lambda tensor: saved.append(pack(tensor)) or saved[-1], unpack)

    monkeypatch.setattr(torch.autograd.graph, "saved_tensors_hooks", recording)
    net = nn.Sequential(LIF(0.5, 0.3, "zero", rectangle()), nn.Conv2d(2, 3, 3, bias=False))
    train = torch.rand(4, 1, 2, 8, 8, requires_grad=True)
    simulate(net, train, 4, coding=None, chunk=4).output.sum().backward()
    ((codes, dtype),) = (x for x in saved if not isinstance(x, torch.Tensor))
    assert (codes.dtype, codes.shape, dtype) == (torch.int8, (4, 2, 8, 8), torch.float32)
    assert [x.shape for x in saved if isinstance(x, torch.Tensor)] == [net[1].weight.shape]
