"""Hybrid nets: what needs no time runs once, and answers as if it had run at every step."""

from functools import partial

import pytest
import torch
from torch import nn

from snnkit import energy, models, simulate
from snnkit.hybrid import Static
from snnkit.neurons import IF, LIF
from snnkit.surrogate import triangle
from snnkit.topologies import HYBRIDS

NEURON = partial(LIF, 0.9, 0.3, "subtract", triangle())
IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def hybrid(name="vgg3x2", relu=("conv1", "conv2"), **options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return models.build(name, NEURON, width=1 / 8, size=8, relu=relu, **options)


def count_calls(module):
    rows = []
    module.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    return rows


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_the_front_runs_once_and_answers_as_at_every_step(chunk):
    net, plain = hybrid(), hybrid()
    plain.runs = []  # every layer at every step
    rows = count_calls(net.conv1), count_calls(net.conv3), count_calls(net.fc1)
    found = simulate(net, IMAGES, 5, coding="constant", chunk=chunk)
    assert torch.allclose(found.output, simulate(plain, IMAGES, 5, coding="constant").output, atol=1e-6)
    assert rows[0] == [3]
    assert sum(rows[2]) == 5 * 3
    assert sum(rows[1]) == 3 + 5 * 3  # its first pass reads the front, its second spikes
    assert set(found.rates) == {"conv3#1", "conv3#2", "fc1"}


def test_relu_layers_behind_spikes_read_their_mean_over_time_once():
    net, steps = hybrid("vgg7", ("conv1", "conv4", "conv5")), 6
    rows = {name: count_calls(net.get_submodule(name)) for name in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc1")}
    spikes = []
    net.neurons["conv3"].register_forward_hook(lambda module, inputs, output: spikes.append(output.detach().clone()))
    output = simulate(net, IMAGES, steps, coding="constant").output
    assert rows["conv3"] == [18]
    assert all(rows[name] == [3] for name in ("conv1", "conv2", "conv4", "conv5"))
    x = spikes[0].unflatten(0, (steps, 3)).mean(0)
    for name in ("conv4", "conv5", "conv6"):
        x = net.get_submodule(name)(x)
        x = x.relu() if name != "conv6" else x
    with pytest.raises(ValueError, match=r"statics.1, which averages over time, needs all time steps"):
        simulate(net, IMAGES, steps, coding="constant", chunk=2)
    first = net.neurons["conv6"]
    first_currents = []
    first.register_forward_pre_hook(lambda module, inputs: first_currents.append(inputs[0].detach()))
    assert torch.equal(simulate(net, IMAGES, steps, coding="constant").output, output)
    assert torch.allclose(first_currents[0], x.repeat(steps, 1, 1, 1), atol=1e-6)


def test_a_relu_layer_between_spiking_ones_reads_their_mean():
    net = hybrid("vgg7", ("conv2",))
    rows = {name: count_calls(net.get_submodule(name)) for name in ("conv1", "conv2", "conv3", "conv4")}
    simulate(net, IMAGES, 6, coding="poisson")  # no static part reads the image
    assert {name: sum(found) for name, found in rows.items()} == {"conv1": 18, "conv2": 3, "conv3": 3, "conv4": 18}


def test_gradients_reach_the_front_as_if_it_had_run_at_every_step():
    nets = [hybrid().double(), hybrid().double(), hybrid().double()]
    nets[1].runs = []
    for net, recompute in zip(nets, (False, False, True), strict=True):
        output = simulate(net, IMAGES.double(), 5, coding="constant", chunk=2, recompute=recompute).output
        (output.sum(0) ** 2).sum().backward()
        assert net.conv1.weight.grad.abs().sum() > 0
    for one, *others in zip(*(net.parameters() for net in nets), strict=True):
        for other in others:
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-9, atol=1e-12)


def test_dropout_in_the_front_is_drawn_once_too():
    net = hybrid(dropout=0.5)
    net.train()
    torch.manual_seed(0)
    currents = []
    net.neurons["conv3#1"].register_forward_pre_hook(lambda module, inputs: currents.append(inputs[0].detach()))
    simulate(net, IMAGES, 4, coding="constant", chunk=2)
    steps = torch.cat(currents).unflatten(0, (4, 3))
    assert all(torch.equal(step, steps[0]) for step in steps)


@pytest.mark.parametrize("coding", ["poisson", None])
def test_input_that_changes_is_refused(coding):
    images = IMAGES if coding else IMAGES.expand(4, -1, -1, -1, -1)
    with pytest.raises(ValueError, match="runs once, on an image; simulate with coding='constant'"):
        simulate(hybrid(), images, 4, coding=coding)


def test_a_part_of_ones_own():
    front = nn.Sequential(nn.Flatten(), nn.Linear(192, 5), nn.ReLU())
    net, rows = nn.Sequential(Static(front), nn.Linear(5, 4), IF(), nn.Linear(4, 2)), count_calls(front)
    output = simulate(net, IMAGES, 7, coding="constant", chunk=2).output
    assert rows == [3]
    assert output.shape == (7, 3, 2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"relu": ["conv9"]}, "relu names conv9; the layers are conv1, conv2, conv3#1, conv3#2, fc1"),
        ({"relu": ["conv1", "conv2", "conv3#1", "conv3#2", "fc1"]}, "relu names every layer"),
        ({"relu": ["conv1"], "neuron": None}, "relu is for hybrid nets; give a neuron"),
        ({"relu": ["conv1"], "name": "resnet20"}, "relu is for .*; resnet20 is none of them"),
    ],
)
def test_a_choice_of_layers_that_makes_no_hybrid_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        models.build(**{"name": "vgg3x2", "neuron": NEURON, "size": 8} | arguments)


def test_the_papers_hybrids_build_and_their_front_costs_macs_once():
    for name, relu in HYBRIDS.items():
        small = models.build(name, NEURON, width=1 / 32, size=32, relu=relu)
        assert {key for key, layer in small.neurons.items() if isinstance(layer, nn.ReLU)} == set(relu)
        assert set(relu) < set(small.neurons)
        assert simulate(small, torch.zeros(1, 3, 32, 32), 2, coding="constant").output.shape == (2, 1, 10)
    account = energy.account(hybrid(), IMAGES, 5, coding="constant")
    rows = {row.layer: row for row in account.rows}
    assert [row.calls for row in account.rows] == [1, 1, 1, 5, 5, 5]
    assert [rows[name].kind for name in ("conv1", "conv2", "conv3#1")] == ["real"] * 3
    assert rows["conv3#2"].kind == "binary"
