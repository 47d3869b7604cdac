"""The nets of BR Tables VII and XIII: what reads what, counted and by hand."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F

from snnkit import energy, simulate
from snnkit.concat import BACKBONES
from snnkit.models import build
from snnkit.neurons import LIF


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("stdp-resnet2", 18.9),
        ("stdp-resnet3", 28.35),  # printed as 28.37; the 28.35 in the paper's row of ResNet2x2 is this one
        ("stdp-resnet2x2", 18.9),  # printed as 28.35
    ],
)
def test_parameters_are_those_of_concatenated_maps(name, millions):
    assert sum(p.numel() for p in build(name).parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.parametrize(("name", "features"), [("stdp-resnet2", 18432), ("stdp-resnet3", 27648)])
def test_the_first_linear_layer_reads_as_many_features_as_printed(name, features):
    assert build(name).head.fc1.in_features == features


@pytest.mark.parametrize(("name", "features"), [("stdp-resnet2-convnn", 2304), ("stdp-resnet3-convnn", 3456)])
def test_the_convolutional_head_ends_in_as_many_features_as_printed(name, features):
    net = build(name)
    assert net.head.fc1.in_features == features
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_the_answer_by_hand():
    torch.manual_seed(0)
    net = build("stdp-resnet2", width=0.1, in_channels=2, size=6, num_classes=3)
    x, body, head = torch.rand(4, 2, 6, 6), net.body, net.head
    first = F.conv2d(x, body.conv1.weight, padding=1).relu()
    second = F.conv2d(torch.cat([first, x], 1), body.conv2.weight, padding=1).relu()
    features = F.avg_pool2d(torch.cat([first, second], 1), 2).flatten(1)
    answer = (features @ head.fc1.weight.T).relu() @ head.fc2.weight.T
    torch.testing.assert_close(net(x), answer)


def test_a_later_pass_reads_its_own_output_and_the_image():
    torch.manual_seed(0)
    net = build("stdp-resnet2x2", width=0.1, size=6)
    x, body = torch.rand(4, 3, 6, 6), net.body
    first = value = F.conv2d(x, body.conv1.weight, padding=1).relu()
    for _ in range(2):
        value = F.conv2d(torch.cat([value, x], 1), body.conv2.weight, padding=1).relu()
    torch.testing.assert_close(body(x), F.avg_pool2d(torch.cat([first, value], 1), 2))


def test_the_third_convolution_reads_the_second_alone():
    net = build("stdp-resnet3", width=0.5)
    inputs = [net.body.get_submodule(layer).in_channels for layer in net.body.passes]
    assert inputs == [3, 18 + 3, 18]
    assert net.body.channels == 54


@pytest.mark.parametrize("name", BACKBONES)
def test_the_head_runs_once_on_the_rates_of_the_body(name):
    torch.manual_seed(0)
    net = build(name, partial(LIF, 0.9, 0.3), width=0.1, size=8)
    images = torch.rand(3, 3, 8, 8)
    spikes = simulate(net.body, images, 6, coding="constant").output
    answers = simulate(net, images, 6, coding="constant").output
    assert spikes.max() > 0
    for answer in answers:
        torch.testing.assert_close(answer, net.head(spikes.mean(0)))


def test_the_body_adds_and_the_head_multiplies_once():
    net = build("stdp-resnet2x2", partial(LIF, 0.9, 0.3), width=0.1, size=8)
    counted = energy.account(net, torch.rand(2, 3, 8, 8), 5)
    kinds = {row.layer: row.kind for row in counted.rows}
    assert kinds == {
        "body.conv1": "binary", "body.conv2#1": "binary", "body.conv2#2": "binary", "head.fc1": "real",
        "head.fc2": "real",
    }  # fmt: skip
    assert {row.calls for row in counted.rows} == {5, 1}


def test_stochmax_is_the_heads():
    torch.manual_seed(0)
    net = build("stdp-resnet2", width=0.1, size=8, stochmax=True)
    assert net.train()(torch.rand(2, 3, 8, 8)).shape == (2, 30)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"dropout": 0.1}, "dropout is 0.1; stdp-resnet2 has none"),
        ({"size": 1}, "pools an image of size 1 away to nothing"),
        ({"relu": ["conv1"]}, "stdp-resnet2 is none of them"),
    ],
)
def test_what_these_nets_have_not_is_refused(options, words):
    with pytest.raises(ValueError, match=words):
        build("stdp-resnet2", LIF, **options)
