"""What is counted, whoever calls it: against torch's own counter, and spikes through whatever carries them."""

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.flop_counter import FlopCounterMode

from snnkit.energy import account
from snnkit.neurons import IF


class Calls(nn.Module):
    """A net of the modules given, run as `forward(net, x)` says."""

    def __init__(self, run, **modules):
        super().__init__()
        self.run = run
        for name, module in modules.items():
            self.register_parameter(name, module) if isinstance(module, nn.Parameter) else self.add_module(name, module)

    def forward(self, x):
        return self.run(self, x)


def matrix(*shape):
    return nn.Parameter(torch.ones(shape))


OTHERS = {
    "transposed": (nn.ConvTranspose2d(2, 6, 3, 2, groups=2), (2, 2, 5, 5), ["0"]),
    "weight norm": (weight_norm(nn.Conv2d(2, 3, 3)), (2, 2, 5, 5), ["0"]),
    "tokens": (nn.Linear(4, 3), (2, 5, 4), ["0"]),
    "tokens, flattened": (Calls(lambda n, x: n.fc(x.reshape(-1, 4)), fc=nn.Linear(4, 3)), (2, 5, 4), ["0.fc"]),
    "operator": (Calls(lambda n, x: x @ n.w, w=matrix(4, 3)), (2, 4), ["0.w"]),
    "operator, left": (Calls(lambda n, x: n.w.t() @ x.mT, w=matrix(4, 3)), (2, 5, 4), ["0"]),
    "by name": (Calls(lambda n, x: F.linear(input=x, weight=n.w), w=matrix(3, 4)), (2, 4), ["0.w"]),
    "einsum": (Calls(lambda n, x: torch.einsum("bi,io->bo", x, n.w), w=matrix(4, 3)), (2, 4), ["0"]),
    "attention": (Calls(lambda n, x: F.scaled_dot_product_attention(x, x, x)), (2, 1, 5, 4), ["0"]),
}


@pytest.mark.parametrize("case", OTHERS)
@torch.no_grad()
def test_every_product_is_counted_and_named(case):
    net, shape, names = OTHERS[case]
    net, images = nn.Sequential(net).eval(), torch.rand(shape)
    with FlopCounterMode(display=False) as counter:
        net(images)
    found = account(net, images)
    assert found.macs * len(images) == counter.get_total_flops() / 2 > 0
    assert [row.layer for row in found.rows] == names
    assert {(row.calls, row.kind) for row in found.rows} == {(1, "real")}


def test_a_vision_transformer_is_counted_as_torch_counts_it():
    net, image = torchvision.models.swin_t(weights=None).eval(), torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(image)
    assert account(net, image).macs == counter.get_total_flops() / 2


def test_what_is_not_counted_is_named():
    net = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 5))
    found = account(net, torch.rand(2, 4))
    assert [row.layer for row in found.rows] == ["0"]
    assert found.uncounted == ("1.weight_ih_l0", "1.weight_hh_l0")
    assert account(nn.Sequential(weight_norm(nn.Linear(4, 4))), torch.rand(2, 4)).uncounted == ()


CARRIED = {
    "avg_pool1d": lambda x: F.avg_pool1d(x.flatten(2), 3, 2, 1),
    "AvgPool1d": lambda x: nn.AvgPool1d(2)(x.flatten(2)),
    "avg_pool3d": lambda x: F.avg_pool3d(x, 2),
    "adaptive 1d": lambda x: F.adaptive_avg_pool1d(x.flatten(2), 5),
    "chunk": lambda x: torch.chunk(x, 2, 1)[1],
    "split": lambda x: x.split([1, 3], 1)[1],
    "stack": lambda x: torch.stack([x, x]).sum(0),
    "minus": lambda x: -x,
    "neg": torch.neg,
    "dropout1d": lambda x: F.dropout1d(x.flatten(2), training=False),
    "dropout3d": lambda x: F.dropout3d(x, training=False),
    "by name": lambda x: torch.cat(tensors=[F.avg_pool2d(input=x, kernel_size=2)] * 2, dim=1),
    "in place": lambda x: x.clone().mul_(2).add_(x),
    "operators": lambda x: (x + x) - x * 2 / 3,
}


TWICE_OR_MORE = {"stack": 2, "in place": 2, "operators": 3}  # how often a spike arrives where it meets itself


@pytest.mark.parametrize("case", CARRIED)
def test_spikes_stay_spikes_through_what_carries_them(case):
    """The additions behind an operation are the spikes in front of it, each as often as it is passed on."""
    carried = CARRIED[case]
    width = carried(torch.zeros(1, 4, 6, 6)).flatten(1).shape[1]
    net = nn.Sequential(IF(0.5), Calls(lambda n, x: n.fc(carried(x).flatten(1)), fc=nn.Linear(width, 1, bias=False)))
    images = torch.rand(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    row = account(net, images, 3, coding="constant").rows[0]
    assert row.kind in ("binary", "integer")
    fan_out = torch.zeros(4 * 6 * 6)
    for place in range(len(fan_out)):
        one = torch.zeros(1, 4, 6, 6)
        one.view(-1)[place] = 1.0
        fan_out[place] = TWICE_OR_MORE.get(case, int((carried(one) != 0).sum()))
    by_hand = account(nn.Sequential(IF(0.5), _Weighted(fan_out)), images, 3, coding="constant").rows[0]
    assert row.acs == pytest.approx(by_hand.acs)
    assert row.acs > 0


class _Weighted(nn.Module):
    """One linear layer behind as many copies of each input as `copies` [inputs] says."""

    def __init__(self, copies):
        super().__init__()
        self.index = torch.arange(len(copies)).repeat_interleave(copies.long())
        self.fc = nn.Linear(len(self.index), 1, bias=False)

    def forward(self, x):
        return self.fc(x.flatten(1)[:, self.index])


def test_transposed_convolutions_add_a_spike_into_every_output_it_reaches():
    net = nn.Sequential(IF(0.5), nn.ConvTranspose2d(1, 2, 3, stride=2, padding=1, bias=False))
    image = torch.zeros(1, 1, 3, 3)
    image[0, 0, 0, 0] = image[0, 0, 1, 1] = 1.0
    row = account(net, image, 1, coding="constant").rows[0]
    assert row.acs == 2 * (4 + 9)  # a corner reaches 2 x 2 outputs of two channels, the middle 3 x 3


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="images is an empty batch"):
        account(nn.Linear(2, 2), torch.zeros(0, 2))
