"""Topologies against the papers' tables, and what `build` makes of them."""

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch import nn

from snnkit import models, simulate
from snnkit.dropout import Dropout, HeldDropout
from snnkit.models import build, default_size, unit_variance_init
from snnkit.neurons import IF, LIF
from snnkit.topologies import Conv, Linear, Pool, Repeat, conv, linear, pool, repeat


@pytest.fixture(autouse=True)
def seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def on_paper(name: str) -> nn.Module:
    """The full-width net without memory for its weights."""
    with torch.device("meta"):
        return build(name, num_classes=1000 if name.startswith("imagenet-") else 10)


# printed, in millions; the hybrid nets' counts include the two 1024-10 heads of stochmax (spec: found by counting);
# VGG3x4's printed 2.19 counts to 2.18
@pytest.mark.parametrize(
    ("name", "printed", "decimals", "extra"),
    [
        ("vgg7-conversion", 1.2, 1, 0),
        ("vgg2x4-conversion", 1.09, 2, 0),
        ("vgg3x2-conversion", 1.13, 2, 0),
        ("vgg5", 2.21, 2, 0),
        ("vgg3x2", 2.18, 2, 0),
        ("vgg7", 2.3, 1, 0),
        ("vgg3x4", 2.18, 2, 0),
        ("vgg9", 5.96, 2, 2 * 1024 * 10),
        ("vgg8x2", 5.37, 2, 2 * 1024 * 10),
        ("imagenet-vgg16", 123.8, 1, 0),
        ("imagenet-vgg11x2", 116.1, 1, 0),
    ],
)
def test_parameter_counts_are_the_papers(name, printed, decimals, extra):
    assert round((parameters(on_paper(name)) + extra) / 1e6, decimals) == printed


# no count is printed for these: 3x3 convolutions in -> out, then the fully connected layers, by hand
@pytest.mark.parametrize(
    ("name", "convs", "fully"),
    [
        (
            "vgg16",
            [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
            [512, 512, 512, 10],
        ),
        ("vgg3", [3, 64, 64], [64 * 8 * 8, 512, 10]),
        *((f"vgg2x{n}-conversion", [3, 64, 64], [2048, 512, 10]) for n in (1, 2, 3, 5, 6)),
        *((f"vgg2x4-{choice}", [3, 64, 128], [128 * 4 * 4, 512, 10]) for choice in ("top", "random", "average")),
        (
            "imagenet-vgg16-sn",
            [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512],
            [512 * 7 * 7, 4096, 4096, 1000],
        ),
        (
            "imagenet-vgg13",
            [3, 64, 64, 128, 128, 256, 256, 512, 512, 512, 512],
            [512 * 7 * 7, 4096, 4096, 1000],
        ),
    ],
)
def test_parameter_counts_by_hand(name, convs, fully):
    by_hand = sum(9 * a * b for a, b in pairwise(convs))
    by_hand += sum(a * b for a, b in pairwise(fully))
    assert parameters(on_paper(name)) == by_hand


def test_every_topology_is_counted_above():
    counted = {
        mark.args[1][i][0]
        for test in (test_parameter_counts_are_the_papers, test_parameter_counts_by_hand)
        for mark in test.pytestmark
        for i in range(len(mark.args[1]))
    }
    assert counted == set(models.TOPOLOGIES)


@pytest.mark.parametrize("name", sorted(models.TOPOLOGIES))
def test_every_topology_runs_as_an_ann(name):
    size = 64 if name.startswith("imagenet-") else 32
    net = build(name, width=1 / 32, num_classes=7, in_channels=2, size=size)
    assert net(torch.rand(2, 2, size, size)).shape == (2, 7)


@pytest.mark.parametrize("name", sorted(models.TOPOLOGIES))
def test_every_topology_spikes(name):
    size = 64 if name.startswith("imagenet-") else 32
    net = build(name, partial(IF, 0.1), width=1 / 32, size=size)
    with torch.no_grad():
        result = simulate(net, torch.rand(1, 3, size, size), 3, coding="constant")
    assert result.output.shape == (3, 1, 10)
    assert list(result.rates) == list(net.neurons)


def test_at_full_width_shapes_are_the_tables():
    with torch.device("meta"):
        net, seen = build("vgg9"), {}
        for name, module in net.named_modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: tuple(o.shape[1:])}))
        net(torch.zeros(1, 3, 32, 32))
    assert seen == {
        "conv1": (64, 32, 32), "conv2": (64, 32, 32), "conv3": (128, 16, 16), "conv4": (128, 16, 16),
        "conv5": (256, 8, 8), "conv6": (256, 8, 8), "conv7": (256, 8, 8), "fc1": (1024,), "fc2": (10,),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["vgg7-conversion", "vgg2x4-conversion", "vgg3x2-conversion"])
def test_conversion_nets_have_the_2048_features_that_the_paper_prints(name):
    assert on_paper(name).fc1.in_features == 2048


def test_weight_layers_have_no_bias_and_pools_are_averages_without_neurons():
    net = build("vgg16", IF, width=1 / 16)
    assert all(m.bias is None for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert sum(isinstance(m, nn.AvgPool2d) for m in net.modules()) == 5
    assert list(net.neurons) == [f"conv{i}" for i in range(1, 14)] + ["fc1", "fc2"]
    assert "fc3" not in net.neurons  # the classifier accumulates


def test_backres_passes_share_their_weights_and_have_neurons_of_their_own():
    net = build("vgg3x2-conversion", IF, width=1 / 16)
    assert list(net.neurons) == ["conv1", "conv2#1", "conv3#1", "conv2#2", "conv3#2", "fc1"]
    assert len({id(neuron) for neuron in net.neurons.values()}) == 6
    assert net.order.count("conv2") == net.order.count("conv3") == 2
    assert all(neuron.key == key for key, neuron in net.neurons.items())
    calls = []
    net.conv2.register_forward_hook(lambda module, inputs, output: calls.append(module))
    with torch.no_grad():
        simulate(net, torch.rand(1, 3, 32, 32), 2)
    assert len(calls) >= 2
    assert parameters(build("vgg3x2")) == parameters(build("vgg3x4"))


def test_a_repeated_block_is_the_same_function_applied_again():
    net = build("vgg3x2", width=1 / 16).double()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    half = nn.functional.avg_pool2d(net.conv2(net.conv1(x).relu()).relu(), 2)
    twice = net.conv3(net.conv3(half).relu()).relu()
    features = nn.functional.avg_pool2d(twice, 2).flatten(1)
    torch.testing.assert_close(net(x), net.fc2(net.fc1(features).relu()))


def test_gradients_of_the_passes_add_up():
    net = build("vgg3x4", width=1 / 16, size=8).double()
    index, nudge = (1, 2, 0, 1), 1e-6
    x = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    net(x).square().sum().backward()
    analytic, values = net.conv3.weight.grad[index].item(), []
    with torch.no_grad():
        for sign in (1, -1):
            net.conv3.weight[index] += sign * nudge
            values.append(net(x).square().sum().item())
            net.conv3.weight[index] -= sign * nudge
    assert analytic == pytest.approx((values[0] - values[1]) / (2 * nudge), rel=1e-4)


@pytest.mark.parametrize(("neuron", "layer"), [(None, Dropout), (IF, HeldDropout)])
def test_dropout_follows_every_activation_but_those_before_a_pool(neuron, layer):
    net = build("vgg5", neuron, width=1 / 16, dropout=0.3)
    masks = [name for name in net.order if isinstance(net.get_submodule(name), layer)]
    assert masks == ["dropout_conv1", "dropout_conv3", "dropout_fc1"]
    for name in masks:
        assert net.order[net.order.index(name) - 1] == f"neurons.{name.removeprefix('dropout_')}"
        assert net.get_submodule(name).p == 0.3
    assert not any(isinstance(m, layer) for m in build("vgg5", neuron, width=1 / 16).modules())


def test_width_scales_the_hidden_layers_only():
    net = build("vgg5", width=0.25, num_classes=10)
    assert (net.conv1.in_channels, net.conv1.out_channels, net.conv4.out_channels) == (3, 16, 16)
    assert (net.fc1.in_features, net.fc1.out_features, net.fc2.out_features) == (16 * 64, 128, 10)
    assert build("vgg5", width=1e-6, size=8).conv1.out_channels == 1


def test_the_config_rebuilds_the_net():
    net = build("vgg8x2", width=0.1, num_classes=4, in_channels=1, size=16, dropout=0.2)
    again = build(**net.config)
    again.load_state_dict(net.state_dict())
    x = torch.rand(2, 1, 16, 16)
    assert torch.equal(net.eval()(x), again.eval()(x))


def test_imagenet_nets_take_224_pixels_by_default_and_cifar_nets_32():
    assert [default_size(name) for name in ("imagenet-vgg16-sn", "resnet34", "resnet20", "vgg9")] == [224, 224, 32, 32]
    assert on_paper("imagenet-vgg13").config["size"] == 224
    assert on_paper("vgg5").config["size"] == 32


def test_neurons_come_from_the_given_maker_one_a_layer():
    net = build("vgg5", partial(LIF, leak=0.9, threshold=0.5, reset="subtract"), width=1 / 16)
    assert {(n.leak, n.threshold.item(), n.reset) for n in net.neurons.values()} == {(0.9, 0.5, "subtract")}
    assert len({id(n) for n in net.neurons.values()}) == len(net.neurons) == 5
    assert all(type(n) is nn.ReLU for n in build("vgg5", width=1 / 16).neurons.values())


def test_weights_start_normal_with_the_papers_deviation():
    # the relative standard error of a deviation over n weights is 1 / sqrt(2 n): 6 of them fail by chance below 1e-8
    net = build("vgg5")
    for layer, fan_out in ((net.conv2, 9 * 64), (net.fc1, 512)):
        weights = layer.weight.detach()
        error = 6 / math.sqrt(2 * weights.numel())
        assert weights.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=error)
        assert abs(weights.mean().item()) < 6 * math.sqrt(2 / fan_out / weights.numel())


def test_unit_variance_init_gives_every_layer_unit_variance_and_the_last_its_gain():
    net = build("vgg16", width=1 / 8)
    images = torch.rand(16, 3, 32, 32) - 0.5
    assert unit_variance_init(net, images) is net
    assert not any(module._forward_hooks for module in net.modules())  # it cleans up behind itself
    seen = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(lambda m, i, o, name=name: seen.update({name: o.std().item()}))
    net(images)
    assert seen.pop("fc3") == pytest.approx(0.3, rel=1e-3)
    assert seen == {name: pytest.approx(1, rel=1e-3) for name in seen}
    assert len(seen) == 15


def test_unit_variance_init_refuses_images_that_leave_a_layer_silent():
    net = build("vgg3", width=1 / 16)
    with pytest.raises(ValueError, match=r"conv1.*same output for every image"):
        unit_variance_init(net, torch.zeros(2, 3, 32, 32))
    assert all(parameter.isfinite().all() for parameter in net.parameters())


def test_unit_variance_init_refuses_a_layer_off_the_forward_path():
    net = build("vgg3", width=1 / 16)
    net.add_module("spare", nn.Linear(2, 2))
    with pytest.raises(ValueError, match="never called"):
        unit_variance_init(net, torch.rand(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "vgg19"}, r"unknown model 'vgg19'; the models are .*vgg16"),
        ({"name": "vgg5", "width": 0}, "width is 0; it must be above 0"),
        ({"name": "vgg5", "width": math.nan}, "width is nan"),
        ({"name": "vgg5", "dropout": 1.0}, "dropout is 1.0"),
        ({"name": "vgg5", "dropout": -0.1}, "dropout is -0.1"),
        ({"name": "vgg5", "size": 3}, "vgg5 pools an image of size 3 away to nothing; give a larger size"),
        ({"name": "vgg5", "size": 0}, "size is 0; it must be a whole number of at least 1"),
        ({"name": "vgg5", "size": -32}, "size is -32; it must be a whole number of at least 1"),
        ({"name": "vgg5", "num_classes": 0}, "num_classes is 0; it must be a whole number of at least 1"),
        ({"name": "vgg5", "in_channels": 1.5}, "in_channels is 1.5; it must be a whole number of at least 1"),
    ],
)
def test_what_no_net_can_have_is_refused_in_one_line(arguments, words):
    with pytest.raises(ValueError, match=words) as refusal:
        build(**arguments)
    assert "\n" not in str(refusal.value)


def test_layer_lists_read_like_the_papers_table():
    assert [conv(64), pool, linear(512)] == [Conv(64), Pool(2, 2), Linear(512)]
    assert repeat(2, conv(8)) == Repeat(2, (conv(8),))
