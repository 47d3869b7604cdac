"""A converted net as the start of training with spikes."""

from functools import partial

import pytest
import torch

from snnkit import convert, models, simulate, stdb
from snnkit.neurons import IF, LIF
from snnkit.surrogate import spike_time

NEURON = partial(LIF, 1.0, reset="subtract", surrogate=spike_time())
IMAGES = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1


def ann(name="vgg3x2", **options):
    torch.manual_seed(0)
    return models.unit_variance_init(models.build(name, width=1 / 8, size=8, **options), IMAGES)


def test_with_a_scale_of_one_it_is_the_converted_net():
    net = ann(dropout=0.2)
    thresholds = convert.data_norm(net, IMAGES)
    start = stdb.converted_start(net, thresholds, NEURON, scale=1.0).eval()
    converted = convert.to_spiking(net, thresholds=thresholds, reset="subtract")
    with torch.no_grad():
        draws = [torch.Generator().manual_seed(0) for _ in range(2)]
        nets = zip((start, converted), draws, strict=True)
        assert torch.equal(*(simulate(each, IMAGES, 20, generator=draw).output for each, draw in nets))


def test_lower_thresholds_fire_more_and_the_ann_stays_as_it_was():
    net = ann()
    thresholds, before = convert.data_norm(net, IMAGES), {k: v.clone() for k, v in net.state_dict().items()}
    start = stdb.converted_start(net, thresholds, NEURON, dropout=0.1)
    assert start.neurons["conv3#2"].threshold == pytest.approx(0.7 * thresholds["conv3#2"])
    assert start.config["dropout"] == 0.1
    simulate(start, IMAGES, 10, coding="constant").output.sum(0).square().sum().backward()
    assert start.conv3.weight.grad.abs().max() > 0
    assert all(torch.equal(value, net.state_dict()[key]) for key, value in before.items())
    full = stdb.converted_start(net, thresholds, NEURON, scale=1.0)
    rates = [simulate(n.eval(), IMAGES, 30, coding="constant").rates["conv1"] for n in (start, full)]
    assert rates[0] > rates[1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: stdb.converted_start(models.build("resnet20"), {}, NEURON), "give a chain of layers"),
        (lambda: stdb.converted_start(ann(), {"conv1": 1.0}, NEURON), "thresholds lack conv2, conv3#1, conv3#2, fc1;"),
        (lambda: stdb.converted_start(ann(), convert.data_norm(ann(), IMAGES), IF, scale=0), "scale is 0; it must be"),
        (
            lambda: stdb.converted_start(ann(), convert.data_norm(ann(), IMAGES), torch.nn.ReLU),
            "neuron makes a ReLU; give a factory of snnkit.neurons.LIF",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()
