"""NIR: what goes out comes back with the same spikes; what it cannot carry is refused."""

from functools import partial

import nir
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snnkit import convert, exchange, models, simulate
from snnkit.neurons import LIF


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def conv(inputs, outputs, size=3, stride=1, bias=False):
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=bias)


class Joined(nn.Module):
    """One convolution and a classifier, joined as `run` says."""

    def __init__(self, run):
        super().__init__()
        self.run, self.a, self.fc = run, conv(2, 4), nn.Linear(4, 3, bias=False)

    def forward(self, x):
        return self.fc(self.run(F.relu(self.a(x))).mean((2, 3)))


class Grouped(nn.Sequential):
    def __init__(self):
        first = nn.Conv2d(2, 6, 3, groups=2, bias=False)
        super().__init__(first, nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


class Everything(nn.Module):
    """All that conversion carries: sums with gains, a concatenation, biases, pools of several kinds."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(2, 4, bias=True), conv(4, 4), conv(8, 6, stride=2, bias=True)
        self.pool, self.fc = nn.AvgPool2d(2), nn.Linear(6 * 4, 5, bias=True)
        self.fc2, self.fc3, self.drop = nn.Linear(6, 5, bias=False), nn.Linear(10, 3, bias=True), nn.Dropout(0.1)

    def forward(self, x):
        x = F.relu(self.a(x))
        y = F.relu(self.b(self.drop(x)) + 0.5 * x)
        z = F.relu(self.c(torch.cat([y, F.avg_pool2d(x, 3, 1, 1)], 1)))
        y = F.relu(self.fc(torch.flatten(F.adaptive_avg_pool2d(z, 2), 1)))
        return self.fc3(torch.cat([y, F.relu(self.fc2(z.mean((2, 3))))], 1))


def trains(net, images, steps):
    """Output, and the spikes of all neuron layers in order."""
    spikes = {}
    hooks = [
        m.register_forward_hook(
            lambda m, i, o: spikes.setdefault(m.key, []).append(o.as_subclass(torch.Tensor).clone())
        )
        for m in net.modules()
        if isinstance(m, LIF)
    ]
    with torch.no_grad():
        output = simulate(net, images, steps, generator=generator(5), chunk=steps).output
    for hook in hooks:
        hook.remove()
    return output, [torch.cat(parts) for parts in spikes.values()]


NETS = {
    "everything": (Everything, {"allow_bias": True}),
    "groups": (Grouped, {"allow_bias": True}),
    "resnet8": (lambda: models.build("resnet8", width=0.25, in_channels=2, size=8), {}),
    "vgg with passes": (lambda: models.build("vgg2x4-conversion", width=0.06, in_channels=2, size=8), {}),
    "leaky": (lambda: models.build("vgg3", width=0.06, in_channels=2, size=8), {"neuron": partial(LIF, 0.75)}),
}


@pytest.mark.parametrize("name", NETS)
def test_a_net_that_comes_back_spikes_the_same(name, tmp_path):
    make, options = NETS[name]
    torch.manual_seed(2)
    net, images = make(), torch.rand(3, 2, 8, 8, generator=generator(1)) * 2 - 1
    for block in getattr(net, "blocks", []):
        block.conv1.weight.data *= 8
        block.conv2.weight.data *= 8
    spiking = convert.to_spiking(net, images, "data", readout="spikes", **options)
    exchange.to_nir(spiking, images[:1], tmp_path / "net.nir")
    expected, ours = trains(spiking, images, 40)
    found, theirs = trains(exchange.from_nir(tmp_path / "net.nir"), images, 40)
    assert len(ours) == len(theirs) >= 3
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a, b)
        assert a.sum() > 0
    assert torch.equal(expected, found)


def test_what_is_written_is_what_nir_means_by_it():
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, 2, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3, bias=False)
    )
    spiking = convert.to_spiking(net, thresholds={"0": 0.75, "3": 1.0})
    graph = exchange.to_nir(spiking, torch.zeros(1, 1, 4, 4))
    assert [type(node) for node in graph.nodes.values()] == [
        nir.Input, nir.Conv2d, nir.IF, nir.Flatten, nir.Affine, nir.Output,
    ]  # fmt: skip
    neuron = next(node for node in graph.nodes.values() if isinstance(node, nir.IF))
    assert neuron.r.shape == neuron.v_threshold.shape == (2, 2, 2)
    assert np.unique(neuron.v_threshold) == np.nextafter(np.float32(0.75), np.float32(0))
    assert not neuron.v_reset.any()
    assert (neuron.r == 1).all()
    leaky = convert.to_spiking(net, thresholds={"0": 0.75, "3": 1.0}, neuron=partial(LIF, 0.75))
    node = next(n for n in exchange.to_nir(leaky, torch.zeros(1, 1, 4, 4)).nodes.values() if isinstance(n, nir.LIF))
    assert np.unique(node.tau) == np.unique(node.r) == 4.0  # v += (R i - v) / tau


def test_what_nir_cannot_carry_is_refused():
    net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
    image, thresholds = torch.zeros(1, 1, 6, 6), {"0": 1.0, "output": 1.0}
    with pytest.raises(ValueError, match=r"NIR cannot carry a neuron that resets by subtract, at neurons_0"):
        exchange.to_nir(convert.to_spiking(net, thresholds=thresholds, reset="subtract"), image)
    with pytest.raises(ValueError, match=r"uneven cells of a map of \(4, 4\)"):
        exchange.to_nir(convert.to_spiking(net, thresholds=thresholds), image)
    with pytest.raises(ValueError, match="Sequential is no converted net"):
        exchange.to_nir(net, image)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda x: torch.add(x, F.avg_pool2d(x, 3, 1, 1), alpha=2), "a sum with a factor alpha, at add"),
        (lambda x: x + x, "a tensor added to itself, at add"),
        (lambda x: F.avg_pool2d(x, 2, divisor_override=1), "an average pool with divisor_override, at avg_pool2d"),
        (nn.AvgPool2d(2, divisor_override=1), "an average pool with divisor_override, at run"),
        (lambda x: torch.cat([x, x], 2), "a concatenation along anything but the channels, at cat"),
        (lambda x: x - F.avg_pool2d(x, 3, 1, 1), "NIR cannot carry sub, at sub"),
    ],
)
def test_what_nir_would_say_otherwise_is_refused(run, message):
    spiking = convert.to_spiking(Joined(run), torch.rand(2, 2, 8, 8), "data")
    with pytest.raises(ValueError, match=message):
        exchange.to_nir(spiking, torch.zeros(1, 2, 8, 8))


def graph(*nodes, edges=None):
    named = {str(place): node for place, node in enumerate(nodes)}
    edges = edges or [(str(place), str(place + 1)) for place in range(len(nodes) - 1)]
    return nir.NIRGraph(named, edges, type_check=False)


def neuron(kind=nir.IF, **values):
    one = np.ones(2, "f4")
    options = {"r": one, "v_threshold": one, "v_reset": 0 * one} | {name: value * one for name, value in values.items()}
    return kind(**options)


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        ([nir.Scale(np.ones(2))], "1 is a NIR Scale; only IF"),
        ([neuron(r=2.0)], "1 is an IF with R = 2"),
        ([neuron(v_reset=0.5)], "1 has a resting or reset potential that is not 0"),
        ([neuron(nir.LIF, tau=2.0, v_leak=0.0)], "1 is a LIF that is not uniform, or whose R is not its tau"),
    ],
)
def test_what_we_cannot_run_is_refused(middle, message):
    ends = nir.Input({"input": np.array([2])}), nir.Output({"output": np.array([2])})
    with pytest.raises(ValueError, match=message):
        exchange.from_nir(graph(ends[0], *middle, ends[1]))
    with pytest.raises(ValueError, match="the NIR graph has 0 outputs"):
        exchange.from_nir(graph(ends[0], neuron()))
    with pytest.raises(ValueError, match="has a cycle"):
        exchange.from_nir(graph(ends[0], neuron(), ends[1], edges=[("0", "1"), ("1", "1"), ("1", "2")]))


def test_without_the_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "nir", None)
    with pytest.raises(ImportError, match="exchange needs the package nir: pip install nir"):
        exchange.from_nir("x.nir")
