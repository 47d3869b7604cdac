"""MACs against torch's own counter, exact ACs against a loop over every synapse, the papers' figures repriced."""

import itertools

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from snnkit import convert, models, simulate
from snnkit.energy import TABLES, Account, Row, account
from snnkit.neurons import IF, LIF


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v3_small", "googlenet"])
def test_macs_agree_with_torchs_counter(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    net, image = getattr(torchvision.models, name)(weights=None, **options).eval(), torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    found = account(net, image)
    assert found.macs == counter.get_total_flops() / 2
    assert {row.kind for row in found.rows} == {"real"}
    assert found.picojoules("fp32") == pytest.approx(found.macs * 4.6)
    assert found.ratio() == pytest.approx(1)


class Odd(nn.Module):
    """Strides, padding, dilation, groups, pools, a sum and a concatenation of spikes, a padded and a cut map."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False)
        self.b = nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2, bias=False)
        self.c = nn.Conv2d(8, 3, (2, 3), bias=False)
        self.d = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        self.e = nn.Conv2d(4, 2, 1, bias=False)
        self.fc = nn.Linear(2 * 2 * 2, 3, bias=False)
        self.spikes = nn.ModuleList([IF(0.1) for _ in range(5)])

    def forward(self, x):
        x = self.spikes[0](self.a(x))
        y = self.spikes[1](self.b(F.avg_pool2d(x, 3, 1, 1)))
        z = self.spikes[2](self.c(torch.cat([x, y], 1)[:, :, :3]))
        y = self.spikes[3](self.d(F.pad(z, (0, 0, 1, 0)))) + self.spikes[4](F.adaptive_avg_pool2d(x, (3, 2)) * 0.5)
        return self.fc(F.adaptive_avg_pool2d(self.e(y).relu(), 2).flatten(1))


def synapses(function, shape):
    """{input position: output positions it reaches}, for a linear `function` of one map [1, C, H, W], by trying."""
    found = {}
    for place in itertools.product(*map(range, shape)):
        x = torch.zeros(1, *shape, dtype=torch.float64)
        x[(0, *place)] = 1.0
        found[place] = int((function(x) != 0).sum())
    return found


def layer(conv, weight=1.0):
    return lambda x: F.conv2d(
        x, torch.full_like(conv.weight, weight).double(), None, conv.stride, conv.padding, conv.dilation, conv.groups
    )


@torch.no_grad()
def test_exact_accumulates_are_those_of_a_loop_over_every_spike_and_synapse():
    torch.manual_seed(1)
    net, images = Odd(), torch.rand(2, 2, 7, 6) * 2 - 1
    trains = {}
    handles = [
        m.register_forward_hook(lambda m, i, o, k=k: trains.setdefault(k, []).append(o.as_subclass(torch.Tensor)))
        for k, m in enumerate(net.spikes)
    ]
    handles.append(net.register_forward_pre_hook(lambda m, i: trains.setdefault("image", []).append(i[0])))
    simulate(net, images, 6, generator=torch.Generator().manual_seed(0))
    for handle in handles:
        handle.remove()
    found = {r.layer: r for r in account(net, images, 6, generator=torch.Generator().manual_seed(0)).rows}

    def count(key, *functions):
        """Every spike of a train, one by one, times the outputs that it reaches (by each of its ways)."""
        train, total = torch.cat(trains[key]), 0
        for function in functions:
            reach = synapses(function, train.shape[1:])
            total += sum(reach[tuple(place[1:])] * int(train[tuple(place)] != 0) for place in train.nonzero().tolist())
        return total / 2  # images

    a, b, c, d = (layer(getattr(net, name)) for name in "abcd")
    assert found["a"].acs == count("image", a)
    assert found["c"].acs == count(0, lambda x: c(F.pad(x, (0,) * 5 + (4,))[:, :, :3])) + count(
        1, lambda x: c(F.pad(x, (0,) * 4 + (4, 0))[:, :, :3])
    )
    assert found["d"].acs == count(2, lambda x: d(F.pad(x, (0, 0, 1, 0))))
    # in overlapping cells of a pool, a spike is added in each of them
    cells = [torch.zeros(1, 1, 3, 3) for _ in range(9)]
    for place, cell in enumerate(cells):
        cell.view(-1)[place] = 1.0
    ways = [lambda x, k=k: b(F.conv2d(x, k.double().expand(4, 1, 3, 3), padding=1, groups=4)) for k in cells]
    assert found["b"].acs == count(0, *ways)
    assert found["e"].kind == "integer"
    assert found["fc"].kind == "real"
    assert [found[k].kind for k in "abcd"] == ["binary", "integer", "binary", "binary"]
    assert found["a"].macs == 4 * 3 * 4 * 2 * 9
    assert found["a"].rate == pytest.approx(float(torch.cat(trains["image"]).abs().mean()))
    assert found["a"].estimated == pytest.approx(found["a"].macs * found["a"].rate * 6)
    assert found["fc"].picojoules(TABLES["int32"]) == pytest.approx(6 * 24 * 3.2)


@torch.no_grad()
def test_a_pooled_spike_is_still_a_spike():
    net = nn.Sequential(IF(1.0), nn.AvgPool2d(2), nn.Conv2d(1, 5, 1, bias=False))
    found = account(net, torch.ones(1, 1, 4, 4), 3, coding="constant").rows[0]
    assert (found.kind, found.macs, found.calls, found.rate) == ("integer", 5 * 4, 3, 1.0)
    assert found.acs == 16 * 5 * 3  # each of 16 spikes reaches 5 synapses
    assert found.estimated == 4 * 5 * 3  # BR's formula knows the pooled map only


@torch.no_grad()
def test_every_pass_of_shared_weights_and_every_chunk_is_counted():
    net = models.build("vgg2x4-conversion", width=0.125, in_channels=1)
    images = torch.rand(3, 1, 32, 32)
    spiking = convert.to_spiking(net, images, "data")
    found = account(spiking, images, 7, generator=torch.Generator().manual_seed(0))
    names = ["conv1", "conv2#1", "conv2#2", "conv2#3", "conv2#4", "fc1", "fc2"]
    assert [row.layer for row in found.rows] == names
    assert {row.calls for row in found.rows} == {7}
    assert found.macs == account(net, images).macs
    result = simulate(spiking, images, 7, generator=torch.Generator().manual_seed(0))
    assert found.rows[2].rate == pytest.approx(result.rates["conv2#1"], rel=1e-6)
    assert found.ratio() == pytest.approx(found.macs * 3.2 / (0.1 * found.acs))
    assert TABLES["fp32"].break_even == pytest.approx(4.6 / 0.9)


@torch.no_grad()
def test_real_numbers_are_never_accumulates():
    torch.manual_seed(0)
    net = models.build("ms-resnet8", width=0.5, in_channels=1).eval()
    for module in net.modules():
        if isinstance(module, LIF):
            module.surrogate = None
    found = {row.layer: row for row in account(net, torch.rand(2, 1, 16, 16), 3, coding="constant").rows}
    assert found["stem.0"].kind == "real"
    assert found["blocks.0.path.conv1"].kind == "binary"
    assert found["blocks.1.shortcut.0"].kind == "real"  # membrane shortcut
    assert found["stem.0"].picojoules(TABLES["fp32"]) == pytest.approx(3 * found["stem.0"].macs * 4.6)


def priced(macs, acs):
    return Account([Row("all", "binary", macs, 1, acs=acs)], 1)


def test_the_papers_figures_follow_from_our_pricing():
    assert priced(1.0, 1.975).ratio("int32") == pytest.approx(16.2, abs=0.05)  # SN, VGG
    assert priced(1.0, 2.4).ratio("int32") == pytest.approx(13.3, abs=0.05)  # SN, ResNet
    for macs, acs, ann, snn in ((3.53e9, 4.77e9, 16.22e-3, 4.29e-3), (11.79e9, 11.32e9, 54.24e-3, 10.19e-3)):
        found = priced(macs, acs)  # MS Table V, in joules
        assert found.picojoules("fp32") * 1e-12 == pytest.approx(snn, rel=2e-3)
        assert found.picojoules("fp32") * found.ratio("fp32") * 1e-12 == pytest.approx(ann, rel=2e-3)
    events = priced(40.11e6, 8.32e6)
    assert events.picojoules("fp32") * events.ratio("fp32") * 1e-6 == pytest.approx(184.46, rel=1e-3)
    assert events.picojoules("fp32") * 1e-6 == pytest.approx(7.49, abs=0.005)  # the paper prints 7.46


def test_one_synapse_costs_what_br_table_i_says():
    """A multiplication and an addition as an ANN, an addition a spike as an SNN, nothing without a spike."""
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    for layer in (net[0], net[2]):
        nn.init.ones_(layer.weight)
    assert account(net, torch.ones(1, 1)).picojoules("int32") == pytest.approx(2 * (3.1 + 0.1))
    spiking = convert.to_spiking(net, thresholds={"0": 1.0, "2": 1.0})
    assert account(spiking, torch.ones(1, 1), 3).picojoules("int32") == pytest.approx(3 * 2 * 0.1)
    silent = account(spiking, torch.zeros(1, 1), 3)
    assert (silent.picojoules("int32"), silent.ratio("int32")) == (0, float("inf"))


@pytest.mark.parametrize(("depth", "macs"), [(34, 3.526e9), (104, 11.62e9)])
def test_the_residual_paths_of_imagenet_nets_cost_what_ms_table_v_counts(depth, macs):
    """Printed: 3.53 G, and 11.79 G for depth 104, which the same count does not give."""
    found = account(models.build(f"resnet{depth}"), torch.zeros(1, 3, 224, 224))
    assert sum(row.macs for row in found.rows if "conv" in row.layer) == pytest.approx(macs, rel=1e-3)


def test_ms_resnet20_for_large_recordings_costs_what_ms_table_v_counts():
    """Printed: 40.11 M. Stem and first stage halve the map."""
    net = models.build("ms-resnet20", in_channels=2, size=128).eval()
    found = account(net, torch.zeros(1, 2, 128, 128), 1, coding="constant")
    assert sum(row.macs for row in found.rows if ".path." in row.layer) == pytest.approx(40.11e6, rel=1e-4)
    smaller = models.build("ms-resnet20", in_channels=2, size=127)
    assert (smaller.stem[0].stride, smaller.blocks[0].path.conv1.stride) == ((1, 1), (1, 1))


def test_bad_arguments_get_one_clear_line():
    ann, snn, x = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(IF(), nn.Linear(2, 2)), torch.zeros(1, 2)
    with pytest.raises(ValueError, match="timesteps is None for a spiking net; give the number of timesteps"):
        account(snn, x)
    with pytest.raises(ValueError, match="timesteps is 5 for an ANN; it has no neurons, so give no timesteps"):
        account(ann, x, 5)
    with pytest.raises(ValueError, match="unknown table 'joules'; use one of 'int32', 'fp32'"):
        account(ann, x).ratio("joules")
    with pytest.raises(ValueError, match="Poisson coding needs values in"):
        account(snn, x + 3, 4)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in snn.modules())
