"""Residual nets that learn with spikes: what their shortcuts carry, where neurons stand (MS sections II, III, V)."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from snnkit.dropout import HeldDropout
from snnkit.neurons import LIF
from snnkit.resnet import IMAGENET
from snnkit.surrogate import rectangle

GAIN = 0.5  # of tdBN: alpha * V_th with alpha = 1 and the paper's threshold (MS Table VII), whatever the neuron
MSLIF = partial(LIF, leak=0.25, threshold=0.5, reset="zero", surrogate=rectangle(1.0))


class Kind(NamedTuple):
    """What a block does: its residual `path`, whether a `shortcut` is added to it, whether neurons read the sum."""

    path: str
    shortcut: bool = True
    fires: bool = False


KINDS = {
    "plain": Kind("conv bn lif conv bn", shortcut=False, fires=True),
    "vanilla": Kind("conv bn lif conv bn", fires=True),  # MS eq. 5
    "no-interblock-lif": Kind("conv bn lif conv bn"),
    "ms": Kind("lif conv bn lif conv bn"),  # MS eq. 10, Fig. 2a; SR-A of Fig. 6
    "sr-b": Kind("bn lif conv bn lif conv"),
    "sr-c": Kind("conv bn lif conv bn lif"),
}
NAME = re.compile(rf"({'|'.join(KINDS)})-resnet(\d+)")


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    """tdBN: on folded tensors plain batch-norm averages over batch, time and space; only its gain is special."""
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, GAIN)
    return norm


class Block(nn.Module):
    """One block of a `kind` of `KINDS`: `[N, inputs, H, W] -> [N, outputs, ceil(H / stride), ceil(W / stride)]`.

    What it passes on has the dtype of its convolutions: in precision "bf16" the shortcut's sum too is rounded to
    bfloat16. The first convolution of the path has the stride. Where the map shrinks or channels change, the shortcut
    is a 1x1 convolution of that stride and BN, or if `pooled` an average pool, a 1x1 convolution and BN. A BN that ends
    a path beside a shortcut starts with gain 0: the block begins as the identity (MS section V-B).
    """

    forgettable = True  # see `snnkit.simulate`

    def __init__(self, kind: Kind, inputs: int, outputs: int, stride: int, neuron: Callable, pooled: bool = False):
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        parts, channels = kind.path.split(), inputs
        for place, part in enumerate(parts):
            name = f"{part}{1 + parts[:place].count(part)}"
            if part == "conv":
                layers[name] = _conv(channels, outputs, stride=stride if name == "conv1" else 1)
                channels = outputs
            else:
                layers[name] = neuron() if part == "lif" else _norm(channels)
        self.path = nn.Sequential(layers)
        self.shortcut = None
        if kind.shortcut:
            self.shortcut = nn.Identity()
            if kind.path.endswith("bn"):
                nn.init.zeros_(self.path[-1].weight)
            if pooled and stride > 1:
                self.shortcut = nn.Sequential(
                    nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False),
                    _conv(inputs, outputs, 1),
                    _norm(outputs),
                )
            elif stride > 1 or inputs != outputs:
                self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), _norm(outputs))
        self.lif = neuron() if kind.fires else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.path(x)
        return self.lif(residual if self.shortcut is None else self.shortcut(x) + residual)


class SpikingResNet(nn.Module):
    """A net of blocks of one kind: `[N, in_channels, size, size] -> [N, num_classes]`.

    Depth 6 n + 2 (MS Table I): stem conv-BN, three stages of n blocks (16, 32, 64 channels; the map is halved before
    the second and third). For images of 128 pixels a side or more, stem and first stage too begin with stride 2: for
    CIFAR10-DVS that gives Table V's count (our reading of section IV-A2). 18, 34, 104 (Table IX): stem 7x7 of stride 2,
    four stages (64 to 512 channels) that all begin with stride 2; 104 with three 3x3 convolutions as its stem and
    pooled shortcuts, as in the authors' code (that LIF stands between the three is our reading). Where blocks begin
    with a convolution, neurons follow the stem; where they do not end with neurons, neurons follow the last block. Then
    spatial mean, dropout and classifier.
    """

    def __init__(self, config: dict, neuron: Callable[[], nn.Module] | None):
        super().__init__()
        self.config, neuron = config, neuron or MSLIF
        name, depth = NAME.fullmatch(config["name"]).groups()
        kind, depth = KINDS[name], int(depth)
        large = depth in IMAGENET
        if not large and (depth < 8 or (depth - 2) % 6):
            raise ValueError(
                f"{config['name']} has {depth} layers; a depth must be 6 n + 2 (8, 14, 20, 32, 44, 56, 110, 482), or "
                "18, 34 or 104 for ImageNet"
            )
        stages = IMAGENET[depth] if large else ((depth - 2) // 6,) * 3
        widths = [max(1, round(config["width"] * (64 if large else 16) * 2**stage)) for stage in range(len(stages))]
        inputs, thrice = widths[0], depth == 104
        halved = large or config["size"] >= 128
        size, stride = 7 if large and not thrice else 3, 2 if halved else 1
        self.stem = nn.Sequential(_conv(config["in_channels"], inputs, size, stride), _norm(inputs))
        for _ in range(2 if thrice else 0):
            self.stem.extend([neuron(), _conv(inputs, inputs), _norm(inputs)])
        if kind.path.startswith("conv"):
            self.stem.append(neuron())
        self.blocks = nn.Sequential()
        for stage, (outputs, count) in enumerate(zip(widths, stages, strict=True)):
            for block in range(count):
                stride = 2 if not block and (stage or halved) else 1
                self.blocks.append(Block(kind, inputs, outputs, stride, neuron, pooled=thrice))
                inputs = outputs
        self.lif = nn.Identity() if kind.fires else neuron()
        self.dropout = HeldDropout(config["dropout"]) if config["dropout"] else nn.Identity()
        self.fc = nn.Linear(inputs, config["num_classes"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.lif(self.blocks(self.stem(x))).mean((2, 3))))


def set_gains(net: SpikingResNet, first: float, second: float) -> SpikingResNet:
    """Set the gains of the first and second BN of every block, MS section V-B's gamma 1 and 2, in place; the net."""
    for block in net.blocks:
        nn.init.constant_(block.path.bn1.weight, first)
        nn.init.constant_(block.path.bn2.weight, second)
    return net
