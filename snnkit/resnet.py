"""Residual nets for conversion: the four rungs of SN section 6, without batch-norm or bias."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torch.nn import functional as F

from snnkit.dropout import Dropout, HeldDropout

NAME = re.compile(r"resnet(\d+)(-basic|-junction)?")
IMAGENET = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 104: (3, 8, 32, 8)}  # depth: blocks a stage


class Block(nn.Module):
    """A residual path, conv-neuron-dropout-conv, and a shortcut: their sum, through neurons if there is a `junction`.

    With it, SN Fig. 2B; without, Fig. 2A.
    The shortcut is of type A (He 2016a): every second pixel where the map shrinks, zeros for the channels it lacks.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, junction: bool, make: Callable, drop: Callable):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.neuron1, self.dropout = make(), drop()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.junction = make() if junction else nn.Identity()
        self.stride, self.more = stride, outputs - inputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.conv2(self.dropout(self.neuron1(self.conv1(x))))
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.more:
            x = F.pad(x, (0, 0, 0, 0, 0, self.more))
        return self.junction(residual + x)


class ResNet(nn.Module):
    """SN's residual net: `[N, in_channels, size, size] -> [N, num_classes]`.

    `resnet20`, or another depth of 6 n + 2: plain 3x3 convolutions, three stages of n blocks (16, 32, 64 channels,
    the map halved before the second and third), spatial mean, classifier. `resnet18`, `resnet34`, `resnet104`: for
    ImageNet, with 64 to 512 channels in four stages; instead of He's 7x7 convolution and max-pool, three 3x3
    convolutions, the first with stride 2, and an average pool. The plain name has a neuron at every junction and two
    pre-processing convolutions before the one that He has (SN's constraint 3); `-junction` leaves those two out
    (constraints 1 and 2: they differ in the thresholds), `-basic` the neurons at junctions as well. Dropout follows the
    inner neurons only.
    """

    def __init__(self, config: dict, neuron: Callable[[], nn.Module] | None):
        super().__init__()
        self.config = config
        depth, variant = NAME.fullmatch(config["name"]).groups()
        depth, large = int(depth), int(depth) in IMAGENET
        if not large and (depth < 8 or (depth - 2) % 6):
            raise ValueError(
                f"{config['name']} has {depth} layers; a depth must be 6 n + 2 (8, 14, 20, 32, 44, 56, 110), or 18, "
                "34 or 104 for ImageNet"
            )
        stages = IMAGENET[depth] if large else ((depth - 2) // 6,) * 3
        widths = [max(1, round(config["width"] * (64 if large else 16) * 2**stage)) for stage in range(len(stages))]
        make = neuron or nn.ReLU
        drop = partial(HeldDropout if neuron else Dropout, config["dropout"]) if config["dropout"] else nn.Identity
        self.stem = nn.Sequential()
        inputs = config["in_channels"]
        for place in range(1 if variant else 3):
            stride = 2 if large and not place else 1
            self.stem.extend([nn.Conv2d(inputs, widths[0], 3, stride, padding=1, bias=False), make()])
            inputs = widths[0]
        if large:
            self.stem.append(nn.AvgPool2d(2))
        self.blocks = nn.Sequential()
        for stage, (outputs, count) in enumerate(zip(widths, stages, strict=True)):
            for block in range(count):
                stride = 2 if stage and not block else 1
                self.blocks.append(Block(inputs, outputs, stride, variant != "-basic", make, drop))
                inputs = outputs
        self.pool, self.flatten = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(inputs, config["num_classes"], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.flatten(self.pool(self.blocks(self.stem(x)))))

    def residual_layers(self) -> list[nn.Conv2d]:
        """The convolutions of the residual paths."""
        return [conv for block in self.blocks for conv in (block.conv1, block.conv2)]

    @torch.no_grad()
    def initialise_residual_paths(self) -> None:
        """Normal weights of standard deviation sqrt(2) / (k^2 n), n output channels (SN section 7.1): small enough for
        a block to begin close to the identity."""
        for conv in self.residual_layers():
            nn.init.normal_(conv.weight, std=math.sqrt(2) / (conv.weight[0, 0].numel() * conv.out_channels))
