"""Nets whose convolutions all speak to the classifier, for learning layer by layer (BR Tables VII and XIII)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import nn

from snnkit.feedforward import Net, scaled
from snnkit.hybrid import Static
from snnkit.topologies import Layer, conv, linear, pool, repeat, unroll

BACKBONES: dict[str, list[Layer]] = {
    "stdp-resnet2": [conv(36), conv(36)],
    "stdp-resnet3": [conv(36), conv(36), conv(36)],
    "stdp-resnet2x2": [conv(36), repeat(2, conv(36))],
}
READS_IMAGE = "conv2"  # beside the maps before it, in every pass
NAME = re.compile(rf"({'|'.join(BACKBONES)})(-convnn)?")


def head(maps: int, convolutional: bool) -> list[Layer]:
    """The layers behind `maps` pooled maps: one fully connected layer, or the ConvNN of BR Table XIII."""
    if not convolutional:
        return [linear(1024)]
    return [conv(maps), conv(maps), pool, conv(2 * maps), conv(2 * maps), pool, linear(1024)]


class Concat(nn.Module):
    """Convolutions and a 2x2 average pool: `[N, in_channels, size, size] -> [N, maps, size / 2, size / 2]`.

    The second convolution reads the image beside the maps of the first; the maps of all convolutions, of a repeated one
    those of its last pass, go side by side to the pool. `passes` {convolution: keys of its passes} tells their order;
    neurons sit in `neurons` under these keys.
    """

    def __init__(self, layers: Sequence[Layer], neuron: Callable[[], nn.Module] | None, in_channels: int, width: float):
        super().__init__()
        self.neurons, self.passes, self.channels = nn.ModuleDict(), {}, 0
        inputs = in_channels
        for layer, steps in groupby(unroll(layers), key=lambda step: step.name):
            steps = list(steps)
            inputs += in_channels * (layer == READS_IMAGE)
            outputs = scaled(steps[0].layer, width)
            self.add_module(layer, nn.Conv2d(inputs, outputs, 3, padding=1, bias=False))
            self.passes[layer] = [step.key for step in steps]
            for key in self.passes[layer]:
                self.neurons[key] = neuron() if neuron else nn.ReLU()
                self.neurons[key].key = key
            inputs, self.channels = outputs, self.channels + outputs
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps, value = [], x
        for layer, keys in self.passes.items():
            for key in keys:
                value = self.neurons[key](self.get_submodule(layer)(self.read_by(layer, value, x)))
            maps.append(self.pool(value))
        return torch.cat(maps, 1)

    def read_by(self, layer: str, before: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """What the convolution `layer` reads, given the maps `before` it and the image; channels are dimension -3.

        In the dtype of the maps: torch puts tensors of two dtypes together sixteen times more slowly.
        """
        return torch.cat([before, image.to(before.dtype)], -3) if layer == READS_IMAGE else before


class ConcatNet(nn.Module):
    """`[N, in_channels, size, size] -> [N, num_classes]`: a `body`, and a `head` of ReLU layers on its maps.

    Both "skips" of the paper are concatenations: its parameter counts show that of the maps before the head; that of
    the image before the second convolution, a thousand weights more or less, is too small to show in them and our
    reading. In its spiking form the body spikes and the head runs once, on rates: the means of the pooled spikes over
    all steps (`snnkit.hybrid.Static`). `config` holds the arguments that rebuild the net.

    Raises ValueError for a dropout, which these nets have not.
    """

    def __init__(self, config: dict, neuron: Callable[[], nn.Module] | None):
        super().__init__()
        name, convolutional = NAME.fullmatch(config["name"]).groups()
        if config["dropout"]:
            raise ValueError(f"dropout is {config['dropout']}; {config['name']} has none, leave it at 0")
        if config["size"] < (least := 8 if convolutional else 2):
            raise ValueError(
                f"{config['name']} pools an image of size {config['size']} away to nothing; give at least {least}"
            )
        self.config = config
        self.body = Concat(BACKBONES[name], neuron, config["in_channels"], config["width"])
        layers = head(36 * len(self.body.passes), bool(convolutional))
        shape = {"in_channels": self.body.channels, "size": config["size"] // 2}
        self.head = Net(layers, None, config | {"name": f"the head of {config['name']}"} | shape)
        self.rates = Static(average=True) if neuron else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.body(x)
        return self.rates(maps, self.head) if self.rates else self.head(maps)
