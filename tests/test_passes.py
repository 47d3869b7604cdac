"""Gradients of shared weights, pass by pass, against autograd's sum and by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from snnkit import models, simulate
from snnkit.neurons import LIF
from snnkit.passes import alignment, pass_gradients
from snnkit.surrogate import triangle

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("neuron", [None, partial(LIF, 0.9, 0.3, surrogate=triangle())])
def test_the_passes_add_up_to_the_gradient_of_training(neuron):
    torch.manual_seed(0)
    net = models.build("vgg3x4", neuron, width=1 / 8, size=8).double()
    images, labels = IMAGES.double(), torch.tensor([0, 1, 2])

    def loss():
        if neuron is None:
            return F.cross_entropy(net(images), labels)
        return F.cross_entropy(simulate(net, images, 4, coding="constant", chunk=4).output.mean(0), labels)

    found = pass_gradients(net, loss)
    assert all(parameter.grad is None for parameter in net.parameters())
    loss().backward()
    assert list(found) == ["conv3"]
    assert found["conv3"].shape == (4, 8, 8, 3, 3)
    torch.testing.assert_close(found["conv3"].sum(0), net.conv3.weight.grad, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(found["conv3"][0], found["conv3"][1])


def test_by_hand():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1, bias=False)

        def forward(self, x):
            return self.layer(self.layer(x))

    net = Twice()
    nn.init.constant_(net.layer.weight, 3.0)
    found = pass_gradients(net, lambda: net(torch.tensor([[2.0]])).sum())
    assert found["layer"].flatten().tolist() == [6.0, 6.0]  # w * x through the second pass, and w * x into it


def test_alignment_is_the_cosine():
    gradients = torch.tensor([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0]])
    expected = [[1, 0.5**0.5, -1], [0.5**0.5, 1, -(0.5**0.5)], [-1, -(0.5**0.5), 1]]
    assert torch.allclose(alignment(gradients), torch.tensor(expected))


def test_a_net_that_shares_nothing_is_refused():
    net = models.build("vgg3", width=1 / 8, size=8)
    with pytest.raises(ValueError, match="no layer of the net is used more than once; give a BackRes net"):
        pass_gradients(net, lambda: net(IMAGES).sum())
