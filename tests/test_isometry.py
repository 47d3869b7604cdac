"""Block dynamical isometry and gradient norms against Jacobians that are known or written out."""

from functools import partial

import pytest
import torch
from torch import nn

from snnkit import models, simulate
from snnkit.isometry import gate_isometry, gradient_norms, isometry
from snnkit.neurons import LIF
from snnkit.residual import KINDS, MSLIF, Block, set_gains
from snnkit.surrogate import rectangle


class Scale(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


def seeded():
    return torch.Generator().manual_seed(0)


def test_a_rotation_keeps_gradients_and_a_factor_scales_them_by_its_square():
    rotation = nn.utils.parametrizations.orthogonal(nn.Linear(32, 32, bias=False))
    net = nn.Sequential(rotation, Scale(3.0), Scale(0.5))
    found = isometry(dict(net.named_children()), lambda: net(torch.randn(4, 32)), generator=seeded())
    assert found == pytest.approx({"0": 1.0, "1": 9.0, "2": 0.25}, rel=1e-5)


def test_the_estimate_is_that_of_the_jacobian_written_out():
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 7)).double(), torch.randn(1, 6).double()
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x)[0], x)[:, 0]
    exact = (jacobian @ jacobian.T).trace().item() / 7
    found = isometry({"net": net}, lambda: net(x), 4000, seeded())["net"]
    assert found == pytest.approx(exact, rel=0.05)
    assert found != isometry({"net": net}, lambda: net(x), 4000, seeded().manual_seed(1))["net"]


def test_a_layer_of_neurons_has_the_papers_share_of_open_gates():
    # MS eq. 14: p / a^2, p the share of membranes within a / 2 of the threshold; one step, so that none is remembered
    for width in (1.0, 0.5):
        neuron, x = MSLIF(surrogate=rectangle(width)), torch.randn(1, 50, 40)
        share = ((x - 0.5).abs() <= width / 2).double().mean().item()
        found = isometry({"lif": neuron}, lambda neuron=neuron, x=x: simulate(neuron, x, 1, coding=None), 1)["lif"]
        assert found == pytest.approx(share / width**2, rel=1e-5)


def test_a_fresh_ms_block_is_an_isometry_and_a_vanilla_block_is_a_gate():
    x = torch.randn(1, 8, 4, 6, 6)
    found = {}
    for kind in ("ms", "vanilla"):
        block = Block(KINDS[kind], 4, 4, 1, MSLIF)
        found[kind] = isometry({"block": block}, lambda block=block: simulate(block, x, 1, coding=None), 2)["block"]
    assert found["ms"] == pytest.approx(1.0, rel=1e-5)
    assert found["vanilla"] == pytest.approx(((x - 0.5).abs() <= 0.5).double().mean().item(), rel=1e-5)


def test_time_is_part_of_the_jacobian():
    # two steps without a spike: u[2] = leak * x[1] + x[2], so J = d * [[1, 0], [leak, 1]]
    neuron, x = LIF(0.5, 10.0, surrogate=rectangle(100.0)), torch.rand(2, 1, 5)
    found = isometry({"lif": neuron}, lambda: simulate(neuron, x, 2, coding=None, chunk=2), 4000, seeded())
    assert found["lif"] == pytest.approx(0.01**2 * (1 + 1 + 0.25) / 2, rel=0.05)


def test_gradient_norms_fall_by_each_factor():
    net, x = nn.Sequential(Scale(2.0), Scale(0.5), Scale(3.0)), torch.randn(4, 5)  # an image has no gradient
    found = gradient_norms(dict(net.named_children()), lambda: net(x).sum())
    root = 20**0.5
    assert found == pytest.approx({"0": 3 * root, "1": 1.5 * root, "2": 3 * root}, rel=1e-6)


def test_deep_nets_of_both_kinds_as_the_paper_says():
    torch.manual_seed(0)
    images, labels = torch.rand(8, 1, 16, 16), torch.randint(0, 3, (8,))
    deep = {}
    for kind in ("ms", "vanilla"):
        net = set_gains(models.build(f"{kind}-resnet32", width=0.5, num_classes=3, in_channels=1, size=16), 0.5, 0.1)
        run = partial(simulate, net, images, 2, coding="constant")

        def loss(run=run):
            return nn.functional.cross_entropy(run().output.mean(0), labels)

        blocks = {f"{place}": block for place, block in enumerate(net.blocks)}
        norms, phi = [*gradient_norms(blocks, loss).values()], isometry(blocks, run, 2, seeded())
        deep[kind] = norms[0] / norms[-1], torch.tensor([phi[name] for name in ("1", "2", "6", "7")])
    assert 0.2 < deep["ms"][0] < 5
    assert deep["vanilla"][0] < 0.1
    assert (deep["ms"][1] > 0.9).all()
    assert (deep["vanilla"][1] < 0.9).all()


def test_blocks_that_do_not_suit_are_named():
    net, other = nn.Sequential(Scale(1.0)), Scale(1.0)
    x = torch.ones(1, 2, requires_grad=True)
    with pytest.raises(ValueError, match="other was not called"):
        isometry({"other": other}, lambda: net(x))
    with pytest.raises(ValueError, match=r"0 is a part of net; give blocks that follow one another"):
        isometry({"net": net, "0": net[0]}, lambda: net(x))
    with pytest.raises(ValueError, match="lif lets no gradient through; give its neurons a surrogate"):
        isometry({"lif": (silent := LIF())}, lambda: simulate(silent, torch.rand(1, 2, 3), 1, coding=None))
    with pytest.raises(ValueError, match="block is called twice"):
        gradient_norms({"block": other}, lambda: other(other(x)).sum())
    with pytest.raises(ValueError, match="probes is 0"):
        isometry({"0": net[0]}, lambda: net(x), 0)
    assert not net[0]._forward_hooks


@pytest.mark.parametrize(("sigma", "threshold", "rate", "width"), [(0.5, 0.5, 0.3, 1.0), (0.2, 0.9, 0.6, 0.5)])
def test_gate_isometry_is_that_of_neurons_behind_a_sum(sigma, threshold, rate, width):
    generator = torch.Generator().manual_seed(0)
    spikes = (torch.rand(1, 200_000, generator=generator) < rate).float()
    currents = spikes + sigma * torch.randn(1, 200_000, generator=generator)
    gate = nn.Sequential(LIF(0.25, threshold, surrogate=rectangle(width)))
    found = isometry({"gate": gate}, lambda: simulate(gate, currents, 1, coding="constant"), probes=1)
    assert found["gate"] == pytest.approx(gate_isometry(sigma, threshold, rate, width), rel=0.02)


def test_half_of_a_window_as_wide_as_the_spike_is_open_at_the_papers_values():
    # within half a spike of the threshold of half a spike: one deviation around the mean, on one side
    assert gate_isometry(0.5, 0.5, 0.7) == pytest.approx(0.4772, abs=1e-4)
    with pytest.raises(ValueError, match=r"width is 0.0; it must be above 0"):
        gate_isometry(0.5, 0.5, 0.5, 0.0)
    with pytest.raises(ValueError, match=r"sigma is 0.0; it must be above 0"):
        gate_isometry(0.0, 0.5, 0.5)
