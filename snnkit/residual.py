"""MS-ResNet: residual nets whose shortcuts carry membrane input, not spikes (MS section III)."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from snnkit.neurons import LIF
from snnkit.surrogate import rectangle

NAME = re.compile(r"ms-resnet(\d+)")
GAIN = 0.5  # of tdBN: alpha * V_th (MS Table VII)
MSLIF = partial(LIF, leak=0.25, threshold=0.5, reset="zero", surrogate=rectangle(1.0))


def _conv(inputs: int, outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)


def _norm(channels: int, gain: float = GAIN) -> nn.BatchNorm2d:
    """tdBN: on folded tensors plain batch-norm averages over batch, time and space; only its gain is special."""
    norm = nn.BatchNorm2d(channels)
    nn.init.constant_(norm.weight, gain)
    return norm


class MSBlock(nn.Module):
    """`I + F(LIF(I))` with F = conv-BN-LIF-conv-BN: no neuron after the sum (MS eq. 6, Fig. 2a).

    Where the map shrinks, the shortcut is a 1x1 convolution of stride 2 and BN. The last gain of F starts at 0.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, neuron: Callable[[], nn.Module]):
        super().__init__()
        self.lif1, self.conv1, self.bn1 = neuron(), _conv(inputs, outputs, stride=stride), _norm(outputs)
        self.lif2, self.conv2, self.bn2 = neuron(), _conv(outputs, outputs), _norm(outputs, 0.0)
        self.shortcut = nn.Identity()
        if stride > 1 or inputs != outputs:
            self.shortcut = nn.Sequential(_conv(inputs, outputs, 1, stride), _norm(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.bn1(self.conv1(self.lif1(x)))
        return self.shortcut(x) + self.bn2(self.conv2(self.lif2(residual)))


class MSResNet(nn.Module):
    """A net of 6 n + 2 weight layers (MS Table I): `[N, in_channels, size, size] -> [N, num_classes]`.

    Stem conv-BN, three stages of n blocks (16, 32, 64 channels; the map is halved before the second and third), one
    LIF, spatial mean, classifier.
    """

    def __init__(self, config: dict, neuron: Callable[[], nn.Module] | None):
        super().__init__()
        self.config, neuron = config, neuron or MSLIF
        depth = int(NAME.fullmatch(config["name"])[1])
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(
                f"{config['name']} has {depth} layers; a depth must be 6 n + 2: 8, 14, 20, 32, 44, 56, 110"
            )
        channels = [max(1, round(config["width"] * c)) for c in (16, 32, 64)]
        self.stem = nn.Sequential(_conv(config["in_channels"], channels[0]), _norm(channels[0]))
        blocks, inputs = [], channels[0]
        for stage, outputs in enumerate(channels):
            for block in range((depth - 2) // 6):
                blocks.append(MSBlock(inputs, outputs, 2 if stage and not block else 1, neuron))
                inputs = outputs
        self.blocks, self.lif = nn.Sequential(*blocks), neuron()
        self.dropout, self.fc = nn.Dropout(config["dropout"]), nn.Linear(inputs, config["num_classes"])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.dropout(self.lif(self.blocks(self.stem(x))).mean((2, 3))))
