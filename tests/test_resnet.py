"""SN's residual nets: sizes, the block by hand, the three variants, initial weights."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snnkit import models, simulate
from snnkit.dropout import Dropout
from snnkit.neurons import IF
from snnkit.resnet import Block


@torch.no_grad()
def test_a_block_is_a_residual_path_beside_a_shortcut_of_type_a():
    torch.manual_seed(0)
    block, x = Block(2, 5, 2, True, nn.ReLU, nn.Identity), torch.randn(3, 2, 7, 6)
    shortcut = torch.zeros(3, 5, 4, 3)
    for row in range(4):
        for column in range(3):
            shortcut[:, :2, row, column] = x[:, :, 2 * row, 2 * column]
    residual = F.conv2d(F.conv2d(x, block.conv1.weight, stride=2, padding=1).relu(), block.conv2.weight, padding=1)
    assert torch.allclose(block(x), (residual + shortcut).relu())
    basic = Block(2, 2, 1, False, nn.ReLU, nn.Identity)
    residual = F.conv2d(F.conv2d(x, basic.conv1.weight, padding=1).relu(), basic.conv2.weight, padding=1)
    assert torch.allclose(basic(x), residual + x)
    assert (basic(x) < 0).any()


@pytest.mark.parametrize(
    ("name", "plain", "neurons"), [("resnet20", 3, 21), ("resnet20-junction", 1, 19), ("resnet20-basic", 1, 10)]
)
def test_the_three_variants_have_their_layers_and_neurons(name, plain, neurons):
    net = models.build(name, dropout=0.2)
    assert sum(isinstance(m, nn.Conv2d) for m in net.stem) == plain
    assert sum(isinstance(m, nn.ReLU) for m in net.modules()) == neurons
    weighted = [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert len(weighted) == 18 + plain + 1
    assert {m.bias for m in weighted} == {None}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    assert [m.conv1.out_channels for m in net.blocks] == [16] * 3 + [32] * 3 + [64] * 3
    assert sum(isinstance(m, Dropout) for m in net.modules()) == 9  # in the residual paths only
    assert net.eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert net.blocks(net.stem(torch.zeros(1, 3, 32, 32))).shape == (1, 64, 8, 8)


def test_the_imagenet_nets_have_four_stages_behind_three_convolutions():
    net = models.build("resnet34", width=0.125, num_classes=7)
    assert len(net.blocks) == 16
    assert [m.conv1.out_channels for m in net.blocks] == [8] * 3 + [16] * 4 + [32] * 6 + [64] * 3
    assert [m.stride for m in net.blocks if m.stride > 1] == [2, 2, 2]
    assert net.config["size"] == 224
    assert net.stem(torch.zeros(1, 3, 224, 224)).shape == (1, 8, 56, 56)
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 7)


def test_residual_paths_start_small():
    """SN section 7.1: normal, sqrt(2 / (k^2 n)) and sqrt(2) / (k^2 n)."""
    torch.manual_seed(0)
    net = models.build("resnet20", width=4)
    assert float(net.stem[2].weight.detach().std()) == pytest.approx(math.sqrt(2 / (9 * 64)), rel=0.05)
    for block, n in ((net.blocks[0], 64), (net.blocks[8], 256)):
        for conv in (block.conv1, block.conv2):
            assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2) / (9 * n), rel=0.05)


@torch.no_grad()
def test_unit_variance_leaves_residual_paths_small():
    torch.manual_seed(0)
    net, images = models.build("resnet8"), torch.rand(32, 3, 32, 32) - 0.5
    before = [conv.weight.clone() for conv in net.residual_layers()]
    models.unit_variance_init(net, images)
    assert len(before) == 6
    assert all(torch.equal(conv.weight, old) for conv, old in zip(net.residual_layers(), before, strict=True))
    assert float(net.stem[:5](images).std()) == pytest.approx(1, rel=1e-3)
    assert float(net(images).std()) == pytest.approx(0.3, rel=1e-3)


def test_neurons_replace_every_relu():
    net = models.build("resnet8", neuron=IF, width=0.5, dropout=0.1).eval()
    with torch.no_grad():
        result = simulate(net, torch.rand(2, 3, 16, 16), 4)
    assert result.output.shape == (4, 2, 10)
    assert len(result.rates) == 3 + 2 * 3


@pytest.mark.parametrize("name", ["resnet21", "resnet2", "resnet20-plain", "resnet"])
def test_other_depths_and_variants_are_refused(name):
    with pytest.raises(ValueError, match=r"6 n \+ 2"):
        models.build(name)
