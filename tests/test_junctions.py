"""Two paths that meet: by hand, what each brings and how late."""

import pytest
import torch
from torch import nn

from snnkit import convert, junctions


class Unit(nn.Module):
    """x -> relu -> (relu -> relu -> times 3) + (shortcut), every weight 1 but the last."""

    def __init__(self):
        super().__init__()
        self.stem, self.first, self.second = (nn.Linear(1, 1, bias=False) for _ in range(3))
        self.out = nn.Linear(1, 1, bias=False)
        for layer, weight in ((self.stem, 1), (self.first, 1), (self.second, 3), (self.out, 1)):
            nn.init.constant_(layer.weight, weight)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.out((self.second(self.first(x).relu()) + x).relu())


THRESHOLDS = {"stem": 1.0, "first": 4.0, "second": 1.0, "out": 1.0}


def run(equalise, timesteps=40):
    net = Unit()
    spiking = convert.to_spiking(net, thresholds=THRESHOLDS, equalise=equalise)
    return junctions.junctions(net, spiking, torch.ones(2, 1), timesteps)  # the pixel 1 spikes at every step


def test_a_neuron_that_waits_for_four_spikes_makes_its_path_late():
    """The inner neuron fires in steps 4, 8, ...; its spike stands for four steps of its input, now 3, 2, 1, 0 late."""
    (found,) = run(equalise=True).items()
    key, (residual, shortcut) = found
    assert key == "second"
    assert (residual.layer, shortcut.layer) == ("second", "shortcut")
    assert residual.share.tolist() == [0, 0, 0, 4.0] * 10
    assert shortcut.share.tolist() == [1.0] * 40
    assert (residual.gain, shortcut.gain) == (1.0, 1.0)
    assert (residual.delay, shortcut.delay) == (1.5, 0.0)


def test_without_gains_the_shortcut_brings_what_its_spikes_are_worth_elsewhere():
    """One spike of the sum stands for 4; the shortcut's spike of worth 1 passes for 4."""
    residual, shortcut = run(equalise=False)["second"]
    assert (residual.gain, shortcut.gain) == (1.0, 4.0)
    assert shortcut.delay == 0


def test_a_net_without_junctions_is_refused():
    net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.ReLU(), nn.Linear(1, 1, bias=False))
    spiking = convert.to_spiking(net, thresholds={"0": 1.0, "2": 1.0})
    with pytest.raises(ValueError, match="Sequential has no junction"):
        junctions.junctions(net, spiking, torch.ones(1, 1), 5)


def test_a_path_that_begins_after_ten_steps_is_ten_steps_late():
    path = junctions.Path("conv", torch.tensor([0.0] * 10 + [0.5] * 30))
    assert (path.gain, path.delay) == (0.5, 10.0)
