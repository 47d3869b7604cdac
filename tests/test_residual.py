"""MS-ResNet: sizes of the paper, the block against its equation by hand, membrane shortcuts."""

from functools import partial

import pytest
import torch
from torch import nn

from snnkit import models, simulate
from snnkit.neurons import IF, LIF
from snnkit.residual import MSBlock


def test_its_size_is_the_papers():
    net = models.build("ms-resnet20")
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(0.27e6, rel=0.03)  # MS Table IV
    weighted = [
        m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d) and getattr(m, "kernel_size", 3) != (1, 1)
    ]
    assert len(weighted) == 20
    lifs = [m for m in net.modules() if isinstance(m, LIF)]
    assert len(lifs) == 2 * 9 + 1
    assert {(lif.leak, float(lif.threshold), lif.reset) for lif in lifs} == {(0.25, 0.5, "zero")}
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sorted({float(norm.weight[0].detach()) for norm in norms}) == [0.0, 0.5]
    assert sum(float(norm.weight[0].detach()) == 0 for norm in norms) == 9


@torch.no_grad()
def test_a_block_adds_membrane_input_to_membrane_input():
    torch.manual_seed(0)
    block, x = MSBlock(2, 4, 2, partial(IF, 0.5)), torch.randn(3, 1, 2, 6, 6)  # [T, B, C, H, W]
    block.bn2.weight.fill_(1.0)
    block.eval()
    out = simulate(block, x, 3, coding=None).output
    for t, one in enumerate(x):
        state = x[: t + 1]
        spikes = simulate(IF(0.5), state, t + 1, coding=None).output
        inner = torch.stack([block.bn1(block.conv1(s)) for s in spikes])
        second = simulate(IF(0.5), inner, t + 1, coding=None).output[-1]
        expected = block.shortcut(one) + block.bn2(block.conv2(second))
        assert torch.allclose(out[t], expected, atol=1e-6)
    assert (out < 0).any()  # no neuron after the sum


def test_a_fresh_block_passes_its_input_on():
    block = MSBlock(3, 3, 1, partial(IF, 0.5)).eval()
    x = torch.randn(2, 1, 3, 4, 4)
    with torch.no_grad():
        assert torch.equal(simulate(block, x, 2, coding=None).output, x)


def test_it_learns_over_all_steps_and_every_weight_gets_a_gradient():
    torch.manual_seed(0)
    net = models.build("ms-resnet8", width=0.5, num_classes=3, in_channels=1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 0.5)
    output = simulate(net, torch.rand(4, 1, 16, 16), 3, coding="constant").output
    assert output.shape == (3, 4, 3)
    output.mean(0).logsumexp(1).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.parameters())


@pytest.mark.parametrize("name", ["ms-resnet18", "ms-resnet2", "ms-resnet21"])
def test_a_depth_that_is_not_six_n_plus_two_is_refused(name):
    with pytest.raises(ValueError, match=r"a depth must be 6 n \+ 2"):
        models.build(name)
