"""Topologies as data, written like the papers' own tables.

A layer list such as ``[conv(64), conv(64), pool, repeat(2, conv(64)), pool, linear(512)]`` is the whole
description of a network: `snnkit.models.build` adds activations, dropout, flattening and the classifier.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from snnkit.backres import CHOICES


@dataclass(frozen=True)
class Conv:
    """A 3x3 convolution, stride 1, padding 1, no bias, followed by an activation."""

    channels: int


@dataclass(frozen=True)
class Pool:
    """Average pooling over `height` x `width` cells, without a neuron of its own (SN section 4.3.2)."""

    height: int = 2
    width: int = 2


@dataclass(frozen=True)
class Linear:
    """A fully connected layer without bias, followed by an activation."""

    features: int


@dataclass(frozen=True)
class Repeat:
    """BackRes (BR section II-A): the same weights applied `times` times, each pass with its own activation.

    `halve` says how a block with twice as many output as input channels reads its own output (`snnkit.backres`).
    """

    times: int
    layers: tuple[Conv, ...]
    halve: str | None = None


Layer = Conv | Pool | Linear | Repeat
conv, linear, pool = Conv, Linear, Pool()


def repeat(times: int, *layers: Conv, halve: str | None = None) -> Repeat:
    """The block `layers` applied `times` times with shared weights."""
    return Repeat(times, layers, halve)


def _convs(*channels: int) -> list[Conv]:
    return [conv(c) for c in channels]


# BR's conversion nets print FC1 as 2048-512, which three 2x2 pools of a 32x32 map cannot give (they leave 1024
# features): the last pool runs over 2x1 cells instead.
_CONVERSION_HEAD = [pool, pool, Pool(2, 1), linear(512)]

TOPOLOGIES: dict[str, list[Layer]] = {
    # SN section 5 (CIFAR)
    "vgg16": [
        *_convs(64, 64), pool, *_convs(128, 128), pool, *_convs(256, 256, 256), pool,
        *_convs(512, 512, 512), pool, *_convs(512, 512, 512), pool, linear(512), linear(512),
    ],
    # BR Table III, ANN-to-SNN conversion
    "vgg7-conversion": [*_convs(64, 64, 64, 64, 64), *_CONVERSION_HEAD],
    **{f"vgg2x{n}-conversion": [conv(64), repeat(n, conv(64)), *_CONVERSION_HEAD] for n in range(1, 7)},  # BR: n = 4
    # BR section IV: 64 channels in, 128 out
    **{f"vgg2x4-{half}": [conv(64), repeat(4, conv(128), halve=half), *[pool] * 3, linear(512)] for half in CHOICES},
    "vgg3x2-conversion": [conv(64), repeat(2, conv(64), conv(64)), *_CONVERSION_HEAD],
    # BR, approximate gradient descent
    "vgg5": [*_convs(64, 64), pool, *_convs(64, 64), pool, linear(512)],
    "vgg3x2": [*_convs(64, 64), pool, repeat(2, conv(64)), pool, linear(512)],
    "vgg7": [*_convs(64, 64), pool, *_convs(64, 64, 64, 64), pool, linear(512)],
    "vgg3x4": [*_convs(64, 64), pool, repeat(4, conv(64)), pool, linear(512)],
    "vgg3": [conv(64), pool, conv(64), pool, linear(512)],  # stochmax
    # BR section VI, hybridization (the ReLU layers of its spiking form are chosen there)
    "vgg9": [
        *_convs(64, 64), pool, *_convs(128, 128), pool, *_convs(256, 256, 256), pool, linear(1024),
    ],
    "vgg8x2": [
        *_convs(64, 64), pool, *_convs(128, 128), pool, conv(256), repeat(2, conv(256)), pool, linear(1024),
    ],
    # SN section 5 (ImageNet)
    "imagenet-vgg16-sn": [
        *_convs(64, 64), pool, *_convs(128, 128), pool, *_convs(256, 256, 256), pool,
        *_convs(512, 512, 512), pool, *_convs(512, 512, 512), pool, linear(4096), linear(4096),
    ],
    # BR Tables V and XVII, ImageNet at 224 px, as printed (so with two pools in a row at the end of the first two)
    "imagenet-vgg16": [
        *_convs(64, 64), pool, conv(128), pool, *_convs(256, 256, 256), pool,
        *_convs(512, 512, 512, 512, 512, 512, 512), pool, pool, linear(4096),
    ],
    "imagenet-vgg11x2": [
        *_convs(64, 64), pool, conv(128), pool, conv(256), repeat(2, conv(256)), pool,
        conv(512), repeat(2, *_convs(512, 512, 512)), pool, pool, linear(4096),
    ],
    "imagenet-vgg13": [
        *_convs(64, 64), pool, *_convs(128, 128), pool, *_convs(256, 256), pool,
        *_convs(512, 512), pool, *_convs(512, 512), pool, linear(4096), linear(4096),
    ],
}  # fmt: skip

# The layers of BR's hybrid nets that keep their ReLU (BR sections VI and VIII, Table XVII); the others spike.
HYBRIDS: dict[str, tuple[str, ...]] = {
    "vgg9": ("conv1", "conv2"),
    "vgg8x2": ("conv1", "conv2"),
    "imagenet-vgg13": (*(f"conv{n}" for n in (1, 2, 3, 4, 5, 6, 9, 10)), "fc1", "fc2"),
}


class Step(NamedTuple):
    """One layer of one pass: `key` is the layer's name, with the pass for a repeated layer; `halve`: its input."""

    layer: Conv | Pool | Linear
    name: str
    key: str
    first_pass: bool
    halve: str | None = None


def unroll(layers: Sequence[Layer]) -> Iterator[Step]:
    """The layers in the order of the forward pass, named, repeated blocks once a pass."""
    counts: Counter[str] = Counter()

    def name(layer: Layer) -> str:
        kind = {Conv: "conv", Pool: "pool", Linear: "fc"}[type(layer)]
        counts[kind] += 1
        return f"{kind}{counts[kind]}"

    for layer in layers:
        if isinstance(layer, Repeat):
            named = [(part, name(part)) for part in layer.layers]
            for k in range(1, layer.times + 1):
                for place, (part, n) in enumerate(named):
                    again = k > 1 and place == 0
                    yield Step(part, n, f"{n}#{k}", k == 1, layer.halve if again else None)
        else:
            n = name(layer)
            yield Step(layer, n, n, True)
