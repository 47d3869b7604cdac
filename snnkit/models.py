"""Topologies as data, written like the papers' own tables, built once for any neuron.

A layer list such as ``[conv(64), conv(64), pool, repeat(2, conv(64)), pool, linear(512)]`` is the whole
description of a network: `build` adds the activations, the dropout, the flattening and the classifier.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn

from snnkit.dropout import Dropout, HeldDropout
from snnkit.neurons import Stateful
from snnkit.residual import NAME as RESIDUAL
from snnkit.residual import MSResNet
from snnkit.resnet import IMAGENET, ResNet
from snnkit.resnet import NAME as RESNET
from snnkit.simulation import simulate


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
    """BackRes (BR section II-A): the same weights applied `times` times, each pass with its own activation."""

    times: int
    layers: tuple[Conv, ...]


Layer = Conv | Pool | Linear | Repeat
conv, linear, pool = Conv, Linear, Pool()


def repeat(times: int, *layers: Conv) -> Repeat:
    """The block `layers` applied `times` times with shared weights."""
    return Repeat(times, layers)


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

RESNETS = ("resnet20", "resnet20-junction", "resnet20-basic")


class _Step(NamedTuple):
    """One layer of one pass: `key` is the layer's name, with the pass for a repeated layer."""

    layer: Conv | Pool | Linear
    name: str
    key: str
    first_pass: bool


def _unroll(layers: Sequence[Layer]) -> Iterator[_Step]:
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
                yield from (_Step(part, n, f"{n}#{k}", k == 1) for part, n in named)
        else:
            n = name(layer)
            yield _Step(layer, n, n, True)


class Net(nn.Module):
    """A feed-forward network built from a layer list: `[N, in_channels, size, size] -> [N, num_classes]`.

    Weight layers are called `conv1, conv2, ...` and `fc1, fc2, ...`; the activation behind a layer sits in
    `neurons` under the layer's name, with the pass for a repeated layer (`conv2#3`). Dropout follows every
    activation but those before a pool (SN section 7.1). `config` holds the arguments that rebuild the net.
    """

    def __init__(self, layers: Sequence[Layer], neuron: Callable[[], nn.Module] | None, config: dict):
        super().__init__()
        self.config = config
        self.neurons = nn.ModuleDict()
        self.order: list[str] = []  # module names in the order of the forward pass
        features, height, breadth = config["in_channels"], config["size"], config["size"]
        steps = list(_unroll(layers))
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            layer = step.layer
            if isinstance(layer, Pool):
                height, breadth = height // layer.height, breadth // layer.width
                if not height or not breadth:
                    raise ValueError(
                        f"{config['name']} pools an image of size {config['size']} away to nothing; give a larger size"
                    )
                self._append(step.name, nn.AvgPool2d((layer.height, layer.width)))
                continue
            if isinstance(layer, Linear) and "flatten" not in self.order:
                self._append("flatten", nn.Flatten())
                features *= height * breadth
            outputs = _scaled(layer, config["width"])
            if not step.first_pass:
                self.order.append(step.name)
            elif isinstance(layer, Conv):
                self._append(step.name, nn.Conv2d(features, outputs, 3, padding=1, bias=False))
            else:
                self._append(step.name, nn.Linear(features, outputs, bias=False))
            features = outputs
            self.neurons[step.key] = neuron() if neuron else nn.ReLU()
            self.neurons[step.key].key = step.key
            self.order.append(f"neurons.{step.key}")
            if config["dropout"] and not (following and isinstance(following.layer, Pool)):
                # a spiking net keeps one mask for all time steps of a presentation
                mask = HeldDropout(config["dropout"]) if neuron else Dropout(config["dropout"])
                self._append(f"dropout_{step.key}", mask)
        if "flatten" not in self.order:
            self._append("flatten", nn.Flatten())
            features *= height * breadth
        last = f"fc{1 + sum(isinstance(step.layer, Linear) for step in steps)}"
        self._append(last, nn.Linear(features, config["num_classes"], bias=False))

    def _append(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self.order.append(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for name in self.order:
            x = self.get_submodule(name)(x)
        return x


def _scaled(layer: Conv | Linear, width: float) -> int:
    return max(1, round(width * (layer.channels if isinstance(layer, Conv) else layer.features)))


def build(
    name: str,
    neuron: Callable[[], nn.Module] | None = None,
    width: float = 1.0,
    num_classes: int = 10,
    in_channels: int = 3,
    size: int | None = None,
    dropout: float = 0.0,
) -> nn.Module:
    """Build a topology of the papers by `name`, with freshly initialised weights.

    Names are those of `TOPOLOGIES`; `resnet20`, `resnet20-junction`, `resnet20-basic` (or another depth of 6 n + 2),
    `resnet18`, `resnet34` and `resnet104`, see `snnkit.resnet`; `ms-resnet20` (or another depth of 6 n + 2).
    `neuron` makes one neuron layer a call (`IF`, `functools.partial(LIF, leak=0.9)`); None builds the ANN with ReLUs,
    and an MS-ResNet with its paper's LIF. `width` scales every hidden channel count, `size` is the side of the square
    input image in pixels (default 32, or 224 for the ImageNet nets), `dropout` the probability of SN's regulariser.
    Convolutions and linear layers start as SN section 7.1 says: normal, standard deviation sqrt(2 / (k^2 n)), n output
    channels; in the residual paths of a `resnet` sqrt(2) / (k^2 n).

    Raises ValueError for an unknown name or a width, size or dropout that no net can have.
    """
    resnet = RESNET.fullmatch(name)
    if name not in TOPOLOGIES and not resnet and not RESIDUAL.fullmatch(name):
        deeper = [f"{kind} (or any depth 6 n + 2)" for kind in (*RESNETS, "ms-resnet20")]
        known = ", ".join(sorted([*TOPOLOGIES, *(f"resnet{depth}" for depth in IMAGENET), *deeper]))
        raise ValueError(f"unknown model {name!r}; the models are {known}")
    if not width > 0:
        raise ValueError(f"width is {width}; it must be above 0 (1.0 is the paper's net)")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in [0, 1)")
    size = default_size(name) if size is None else size
    for what, value in (("size", size), ("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{what} is {value!r}; it must be a whole number of at least 1")
    config = dict(name=name, width=width, num_classes=num_classes, in_channels=in_channels, size=size, dropout=dropout)
    if name in TOPOLOGIES:
        net = Net(TOPOLOGIES[name], neuron, config)
    else:
        net = (ResNet if resnet else MSResNet)(config, neuron)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_out = module.weight.shape[0] * math.prod(module.weight.shape[2:])
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if resnet:
        net.initialise_residual_paths()
    return net


def default_size(name: str) -> int:
    """The side of the images, in pixels, that the topology `name` was made for: 224 for the ImageNet nets, else 32."""
    resnet = RESNET.fullmatch(name)
    return 224 if name.startswith("imagenet-") or (resnet and int(resnet[1]) in IMAGENET) else 32


@torch.no_grad()
def unit_variance_init(
    net: nn.Module, images: torch.Tensor, classifier_gain: float = 0.3, timesteps: int = 4
) -> nn.Module:
    """Rescale every weight layer so that its output has unit variance on `images` [N, C, H, W]; in place.

    A spiking net is shown the images as constant currents for `timesteps` steps, and the variance is also over time.

    SN's own initialisation leaves a deep bias-free net with average pools untrainable for a long time: the
    pools shrink the signal. Layer-sequential unit variance (Mishkin & Matas 2016) makes it learn within its
    first hundred steps. The last layer is scaled by `classifier_gain` on top. Residual paths stay as they are, close to
    the identity. Returns `net`.
    """
    kept = net.residual_layers() if isinstance(net, ResNet) else []
    layers = {name: m for name, m in net.named_modules() if isinstance(m, nn.Conv2d | nn.Linear) and m not in kept}
    spiking = any(isinstance(module, Stateful) for module in net.modules())
    for name, layer in layers.items():
        seen: list[torch.Tensor] = []
        handle = layer.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        if spiking:
            simulate(net, images, timesteps, coding="constant")
        else:
            net(images)
        handle.remove()
        if not seen:
            raise ValueError(
                "a layer of the net is never called; unit_variance_init needs every layer on the forward path"
            )
        deviation = torch.cat(seen).std()
        if not deviation > 0:
            raise ValueError(f"{name} gives the same output for every image; give unit_variance_init other images")
        layer.weight /= deviation
    layer.weight *= classifier_gain
    return net
