"""Spikes as bytes: integers give what float32 gives for weights that eight bits hold, and close to it for others."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snnkit import convert, int8, models, simulation
from snnkit.graph import SiteGraph
from snnkit.int8 import SpikeBytes, spike_bytes
from snnkit.neurons import IF
from snnkit.simulation import choose_precision, simulate

vnni = pytest.mark.skipif(not int8.has_fast_int8(), reason="this processor has no integer dot products")


def spikes(*shape, rate=0.3, seed=0):
    drawn = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < rate
    return drawn.to(torch.uint8).contiguous(
        memory_format=torch.channels_last if len(shape) == 4 else torch.preserve_format
    )


def on_the_grid(module):
    """Weights that eight bits hold exactly: whole numbers with a largest of 127 a channel, over 256."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            whole = torch.randint(-127, 128, layer.weight.shape, generator=torch.Generator().manual_seed(1)).float()
            whole.flatten(1)[:, 0] = 127
            layer.weight.data = whole / 256
    return module


@vnni
@pytest.mark.parametrize(
    "options", [{}, {"padding": 1}, {"stride": 2, "padding": (1, 0)}, {"dilation": 2}, {"groups": 2}, {"bias": True}]
)
def test_a_convolution_of_bytes_equals_the_one_of_floats_with_rounded_weights(options):
    torch.manual_seed(0)
    conv, x = nn.Conv2d(4, 6, 3, **{"bias": False, **options}), spikes(2, 4, 9, 8)
    scale = conv.weight.detach().abs().amax((1, 2, 3), keepdim=True) / 127
    exact, rounded = conv.weight.detach().clone(), (conv.weight.detach() / scale).round() * scale
    with torch.no_grad():
        found = conv(spike_bytes(x))
        conv.weight.copy_(rounded)
        expected = conv.double()(x.double())
    assert type(found) is torch.Tensor
    assert found.dtype == torch.float32
    assert torch.allclose(found.double(), expected, atol=1e-5)
    assert not torch.equal(exact, rounded)


@vnni
@pytest.mark.parametrize("size", [(2, 2), (1, 1), (1, 4), (2, 4)])
def test_a_map_smaller_than_its_kernel_is_a_matrix_product_with_the_same_result(size, monkeypatch):
    """Four by two cells are less than nine taps."""
    torch.manual_seed(0)
    conv, x = on_the_grid(nn.Conv2d(4, 6, 3, padding=1, bias=False)), spikes(5, 4, *size)
    expected = conv(x.float()).detach()
    monkeypatch.setattr(int8, "_pack", lambda *_: pytest.fail("that was a convolution"))
    with torch.no_grad():
        found = conv(spike_bytes(x, scale=0.5))
    assert torch.equal(found, expected / 2)
    assert found.is_contiguous(memory_format=torch.channels_last)


@vnni
@pytest.mark.parametrize("change", [lambda w: w.mul_(2), lambda w: w.data.mul_(2)], ids=["in place", "behind autograd"])
@torch.no_grad()
def test_weights_are_packed_once_a_simulation_and_anew_in_the_next(change, monkeypatch):
    torch.manual_seed(0)
    net, calls, pack = nn.Sequential(IF(0.5), nn.Conv2d(2, 3, 3, bias=False)), [], int8._pack
    monkeypatch.setattr(int8, "_pack", lambda *a: calls.append(1) or pack(*a))
    train = torch.rand(6, 1, 2, 5, 5)
    first = simulate(net, train, 6, coding=None, precision="int8", chunk=2).output
    assert len(calls) == 1
    change(net[1].weight)
    again = simulate(net, train, 6, coding=None, precision="int8", chunk=2).output
    assert torch.allclose(again, 2 * first)
    assert again.abs().sum() > 0


@vnni
def test_pools_are_sums_that_the_next_convolution_scales():
    conv = on_the_grid(nn.Conv2d(3, 5, 3, bias=False))
    x = spikes(2, 3, 16, 16)
    for pools in (nn.AvgPool2d(2), nn.AvgPool2d((2, 1)), nn.Sequential(nn.AvgPool2d(2), nn.AvgPool2d(2))):
        with torch.no_grad():
            pooled = pools(spike_bytes(x))
            assert isinstance(pooled, SpikeBytes)
            assert torch.equal(pooled + 0, pools(x.float()))
            assert torch.allclose(conv(pooled), conv(pools(x.float())), atol=1e-5)


@pytest.mark.parametrize(
    "pool",
    [
        nn.AvgPool2d(3, stride=1),
        nn.AvgPool2d(2, padding=1),
        nn.AvgPool2d(16),
        nn.AvgPool2d(5),
        nn.AvgPool2d(3, 2, ceil_mode=True),
    ],
    ids=str,
)
def test_other_pools_and_other_operations_see_floats(pool):
    x = spikes(2, 3, 16, 16)
    found = pool(spike_bytes(x))
    assert found.dtype == torch.float32
    assert torch.equal(found, pool(x.float()))


def test_whatever_is_not_known_works_on_the_values():
    x = spikes(2, 3, 4, 4)
    a = spike_bytes(x, scale=0.25)
    assert torch.equal(a + a, x.float() / 2)
    assert torch.equal(torch.cat([a, a]), torch.cat([x, x]) / 4)
    assert torch.equal(F.relu(a), x / 4)
    assert torch.equal(a.sum(), x.sum() / 4)
    assert a.shape == x.shape
    assert torch.equal(a.flatten(1) * 1, x.flatten(1) / 4)
    assert isinstance(nn.Flatten()(a), SpikeBytes)
    with torch.no_grad():
        layer = nn.Linear(48, 2)
        assert torch.equal(layer(a.flatten(1)), layer(x.flatten(1) / 4))


@vnni
@pytest.mark.parametrize("readout", ["membrane", "spikes"])
def test_a_net_on_the_grid_spikes_the_same_in_int8_and_fp32_whatever_the_chunk(readout):
    """Dyadic thresholds, eight-bit weights and eight-bit linear layers: every sum is exact in float32."""
    net = on_the_grid(models.build("vgg7-conversion", width=0.125, in_channels=2, size=16))
    for layer in net.modules():
        if isinstance(layer, nn.Linear):
            layer.weight.data = (layer.weight.data * 256).round() / 256
    images = (torch.rand(3, 2, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.9
    keys = [site.key for site in SiteGraph(net).sites]
    spiking = convert.to_spiking(net, thresholds={key: 0.5 for key in keys}, readout=readout)

    def run(precision, chunk=None):
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            return simulate(spiking, images, 30, generator=generator, precision=precision, chunk=chunk)

    expected = run("fp32")
    assert min(rate for layer, rate in expected.rates.items() if layer != keys[-1]) > 0.01
    for chunk in (None, 1, 7):
        found = run("int8", chunk)
        assert torch.equal(found.output, expected.output)
        assert found.rates == expected.rates
        assert (found.precision, expected.precision) == ("int8", "fp32")


@vnni
def test_a_net_off_the_grid_stays_close():
    torch.manual_seed(0)
    net = models.build("vgg3", width=0.5, in_channels=1, size=16)
    images = torch.rand(16, 1, 16, 16) * 2 - 1
    spiking = convert.to_spiking(net, images, method="data")
    with torch.no_grad():
        a, b = (
            simulate(spiking, images, 100, precision=p, generator=torch.Generator().manual_seed(0)).counts()[-1]
            for p in ("fp32", "int8")
        )
    assert not torch.equal(a, b)
    assert (a - b).abs().mean() < 0.05 * a.std()


def test_integers_have_no_gradients():
    with pytest.raises(ValueError, match=r"'int8' has no gradients.*no_grad"):
        simulate(IF(), torch.zeros(2, 1, 1), 2, coding=None, precision="int8")


def test_a_machine_without_integer_convolutions_runs_in_what_it_has_and_says_so(monkeypatch):
    monkeypatch.setattr(simulation, "has_fast_int8", lambda device: False)
    fast = choose_precision("auto", "cpu")
    with torch.no_grad(), pytest.warns(UserWarning, match=f"no integer convolutions on this cpu; running in {fast}"):
        assert simulate(IF(), torch.zeros(2, 1, 1), 2, coding=None, precision="int8").precision == fast


@pytest.mark.parametrize(("hardware", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_takes_bfloat16_where_the_hardware_has_it_and_never_integers(monkeypatch, hardware, chosen):
    monkeypatch.setattr(simulation, "has_fast_bfloat16", lambda device: hardware)
    monkeypatch.setattr(simulation, "has_fast_int8", lambda device: True)
    assert choose_precision("auto", "cpu") == chosen
    assert [choose_precision(p, "cpu") for p in (None, "fp32", "bf16", "int8")] == [None, "fp32", "bf16", "int8"]
