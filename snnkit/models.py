"""Networks built from the papers' topologies, once for any neuron."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence

import torch
from torch import nn

from snnkit.concat import BACKBONES, ConcatNet
from snnkit.concat import NAME as CONCAT
from snnkit.feedforward import Net
from snnkit.neurons import LIF
from snnkit.residual import KINDS, SpikingResNet
from snnkit.residual import NAME as RESIDUAL
from snnkit.resnet import IMAGENET, ResNet
from snnkit.resnet import NAME as RESNET
from snnkit.simulation import simulate
from snnkit.topologies import TOPOLOGIES

RESNETS = ("resnet20", "resnet20-junction", "resnet20-basic")


def build(
    name: str,
    neuron: Callable[[], nn.Module] | None = None,
    width: float = 1.0,
    num_classes: int = 10,
    in_channels: int = 3,
    size: int | None = None,
    dropout: float = 0.0,
    relu: Sequence[str] = (),
    stochmax: bool = False,
) -> nn.Module:
    """Build a topology of the papers by `name`, with freshly initialised weights.

    Names are those of `TOPOLOGIES`; `resnet20`, `resnet20-junction`, `resnet20-basic` (or another depth of 6 n + 2),
    `resnet18`, `resnet34` and `resnet104`, see `snnkit.resnet`; and the same depths of spiking residual nets,
    `ms-resnet20` or another kind of `snnkit.residual.KINDS`; and `stdp-resnet2`, `stdp-resnet3`, `stdp-resnet2x2`, also
    with `-convnn` behind, see `snnkit.concat`.
    `neuron` makes one neuron layer a call (`IF`, `functools.partial(LIF, leak=0.9)`); None builds the ANN with ReLUs,
    and a spiking residual net with its paper's LIF. `width` scales every hidden channel count, `size` is the side of
    the square input image in pixels (default 32, or 224 for the ImageNet nets), `dropout` the probability of SN's
    regulariser, or in a spiking residual net of that before the classifier. `relu` names the layers of a net in
    `TOPOLOGIES` that keep their ReLU: a hybrid net (`HYBRIDS` has BR's choice); `stochmax` gives it, or the head of
    a `stdp` net, that classifier (`snnkit.stochmax`).
    Convolutions and linear layers start as SN section 7.1 says: normal, standard deviation sqrt(2 / (k^2 n)), n output
    channels; in the residual paths of a `resnet` sqrt(2) / (k^2 n).

    Raises ValueError for an unknown name or a width, size or dropout that no net can have.
    """
    kinds = {ResNet: RESNET, SpikingResNet: RESIDUAL, ConcatNet: CONCAT}
    kind = Net if name in TOPOLOGIES else next((kind for kind, known in kinds.items() if known.fullmatch(name)), None)
    if kind is None:
        deeper = [f"{kind} (or any depth 6 n + 2)" for kind in (*RESNETS, *(f"{kind}-resnet20" for kind in KINDS))]
        learned = [backbone + tail for backbone in BACKBONES for tail in ("", "-convnn")]
        known = ", ".join(sorted([*TOPOLOGIES, *learned, *(f"resnet{depth}" for depth in IMAGENET), *deeper]))
        raise ValueError(f"unknown model {name!r}; the models are {known}")
    if not width > 0:
        raise ValueError(f"width is {width}; it must be above 0 (1.0 is the paper's net)")
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; it must lie in [0, 1)")
    size = default_size(name) if size is None else size
    for what, value in (("size", size), ("num_classes", num_classes), ("in_channels", in_channels)):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{what} is {value!r}; it must be a whole number of at least 1")
    config: dict = dict(
        name=name, width=width, num_classes=num_classes, in_channels=in_channels, size=size, dropout=dropout
    )
    extras = {"relu": list(relu), "stochmax": stochmax}
    config |= {option: value for option, value in extras.items() if value}
    feedforward = ", ".join(sorted(TOPOLOGIES))
    if relu and kind is not Net:
        raise ValueError(f"relu is for {feedforward}; {name} is none of them")
    if stochmax and kind not in (Net, ConcatNet):
        raise ValueError(f"stochmax is for {feedforward} and the stdp nets; {name} is none of them")
    net = Net(TOPOLOGIES[name], neuron, config) if kind is Net else kind(config, neuron)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_out = module.weight.shape[0] * math.prod(module.weight.shape[2:])
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if kind is ResNet:
        net.initialise_residual_paths()
    return net


def default_size(name: str) -> int:
    """The side of the images, in pixels, that the topology `name` was made for: 224 for the ImageNet nets, else 32."""
    depth = re.search(r"resnet(\d+)", name)
    return 224 if name.startswith("imagenet-") or (depth and int(depth[1]) in IMAGENET) else 32


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
    spiking = any(isinstance(module, LIF) for module in net.modules())
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
