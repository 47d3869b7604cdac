"""Half of a block's channels, chosen in three ways, go round again."""

from functools import partial

import pytest
import torch

from snnkit import models, simulate
from snnkit.backres import Halve
from snnkit.neurons import LIF
from snnkit.surrogate import triangle

MAPS = torch.tensor([[1.0, 4, 3, 2], [5, 0, 0, 7]])[:, :, None, None].expand(2, 4, 1, 2)


def test_each_choice_by_hand():
    assert Halve("top", 4)(MAPS)[:, :, 0, 0].tolist() == [[4, 3], [5, 7]]
    assert Halve("average", 4)(MAPS)[:, :, 0, 0].tolist() == [[2.5, 2.5], [2.5, 3.5]]
    torch.manual_seed(0)
    random = Halve("random", 4)
    first, second = random.kept.tolist()
    assert random(MAPS)[:, :, 0, 1].tolist() == [[row[first], row[second]] for row in MAPS[:, :, 0, 0].tolist()]
    assert {tuple(Halve("random", 4).kept.tolist()) for _ in range(40)} == {
        (a, b) for a in range(4) for b in range(a + 1, 4)
    }


@pytest.mark.parametrize("choice", ["top", "random", "average"])
def test_a_wide_block_goes_round_in_anns_and_spiking_nets_and_learns(choice):
    for neuron in (None, partial(LIF, 0.9, 0.2, surrogate=triangle())):
        torch.manual_seed(0)
        net = models.build(f"vgg2x4-{choice}", neuron, width=1 / 8, size=8)
        assert tuple(net.conv2.weight.shape) == (16, 8, 3, 3)
        images = torch.rand(2, 3, 8, 8)
        output = simulate(net, images, 3, coding="constant").output.sum(0) if neuron else net(images)
        assert output.shape == (2, 10)
        output.square().sum().backward()
        assert net.conv2.weight.grad.abs().max() > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(("best", 4), "halve is 'best'; use one of 'top', 'random', 'average'"), (("top", 5), "5 channels have no half")],
)
def test_what_cannot_be_halved_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Halve(*arguments)
