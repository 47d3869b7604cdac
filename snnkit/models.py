"""Networks built from the papers' topologies, once for any neuron."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from snnkit.backres import Halve
from snnkit.dropout import Dropout, HeldDropout
from snnkit.hybrid import Static
from snnkit.neurons import LIF
from snnkit.residual import KINDS, SpikingResNet
from snnkit.residual import NAME as RESIDUAL
from snnkit.resnet import IMAGENET, ResNet
from snnkit.resnet import NAME as RESNET
from snnkit.simulation import simulate
from snnkit.stochmax import Stochmax
from snnkit.topologies import TOPOLOGIES, Conv, Layer, Linear, Pool, unroll

RESNETS = ("resnet20", "resnet20-junction", "resnet20-basic")


class Net(nn.Module):
    """A feed-forward network built from a layer list: `[N, in_channels, size, size] -> [N, num_classes]`.

    Weight layers are called `conv1, conv2, ...` and `fc1, fc2, ...`; the activation behind a layer sits in
    `neurons` under the layer's name, with the pass for a repeated layer (`conv2#3`). Dropout follows every
    activation but those before a pool (SN section 7.1). In a hybrid net the layers in config["relu"] keep their ReLU:
    what needs no time runs once (`snnkit.hybrid.Static`). `config` holds the arguments that rebuild the net.
    """

    def __init__(self, layers: Sequence[Layer], neuron: Callable[[], nn.Module] | None, config: dict):
        super().__init__()
        self.config = config
        self.neurons = nn.ModuleDict()
        self.order: list[str] = []  # module names in the order of the forward pass
        features, height, breadth = config["in_channels"], config["size"], config["size"]
        steps = list(unroll(layers))
        keys = [step.key for step in steps if not isinstance(step.layer, Pool)]
        relu = _check_relu(config.get("relu", ()), keys, neuron)
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
            if step.halve:
                self._append(f"halve_{step.key}", Halve(step.halve, features))
            outputs = _scaled(layer, config["width"])
            if not step.first_pass:
                self.order.append(step.name)
            elif isinstance(layer, Conv):
                self._append(step.name, nn.Conv2d(features, outputs, 3, padding=1, bias=False))
            else:
                self._append(step.name, nn.Linear(features, outputs, bias=False))
            features = outputs
            spiking = neuron and step.key not in relu
            self.neurons[step.key] = neuron() if spiking else nn.ReLU()
            self.neurons[step.key].key = step.key
            self.order.append(f"neurons.{step.key}")
            if config["dropout"] and not (following and isinstance(following.layer, Pool)):
                # a spiking net keeps one mask for all time steps of a presentation
                mask = HeldDropout(config["dropout"]) if spiking else Dropout(config["dropout"])
                self._append(f"dropout_{step.key}", mask)
        if "flatten" not in self.order:
            self._append("flatten", nn.Flatten())
            features *= height * breadth
        last = f"fc{1 + sum(isinstance(step.layer, Linear) for step in steps)}"
        classifier = Stochmax if config.get("stochmax") else partial(nn.Linear, bias=False)
        self._append(last, classifier(features, config["num_classes"]))
        self.runs = _runs(self.order, {f"neurons.{key}": key in relu for key in self.neurons}) if relu else []
        self.statics = nn.ModuleList(Static(average=bool(n)) for n, (static, _) in enumerate(self.runs) if static)

    def _append(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self.order.append(name)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.runs:
            return self._through(self.order, x)
        statics = iter(self.statics)
        for static, names in self.runs:
            part = partial(self._through, names)
            x = next(statics)(x, part) if static else part(x)
        return x

    def _through(self, names: list[str], x: torch.Tensor) -> torch.Tensor:
        for name in names:
            x = self.get_submodule(name)(x)
        return x


def _check_relu(relu: Sequence[str], keys: list[str], neuron) -> set[str]:
    """The layers that keep their ReLU; ValueError unless they are some, but not all, of the `keys` of a spiking net."""
    unknown = sorted(set(relu) - set(keys))
    if unknown:
        raise ValueError(f"relu names {', '.join(unknown)}; the layers are {', '.join(keys)}")
    if relu and neuron is None:
        raise ValueError("relu is for hybrid nets; give a neuron for the other layers, or leave it out")
    if relu and set(relu) == set(keys):
        raise ValueError("relu names every layer; leave out relu and neuron for an ANN")
    return set(relu)


def _runs(order: list[str], is_relu: dict[str, bool]) -> list[tuple[bool, list[str]]]:
    """`order` in runs of layers that need no time (True) and such that do, in turns; `is_relu` of each activation.

    What follows a ReLU, up to the next neuron, needs no time: its input is the same at every step. What follows a
    neuron does, unless the next activation is a ReLU, which reads the mean over time.
    """
    runs: list[tuple[bool, list[str]]] = []
    activations = [name for name in order if name in is_relu]
    following, *later = activations
    static, coming = is_relu[following], iter([*later, None])
    for name in order:
        if name in is_relu:
            static, following = is_relu[name], next(coming)
        elif runs and not static and not name.startswith("dropout_"):
            static = is_relu.get(following, False)
        if not runs or runs[-1][0] != static:
            runs.append((static, []))
        runs[-1][1].append(name)
    return runs


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
    relu: Sequence[str] = (),
    stochmax: bool = False,
) -> nn.Module:
    """Build a topology of the papers by `name`, with freshly initialised weights.

    Names are those of `TOPOLOGIES`; `resnet20`, `resnet20-junction`, `resnet20-basic` (or another depth of 6 n + 2),
    `resnet18`, `resnet34` and `resnet104`, see `snnkit.resnet`; and the same depths of spiking residual nets,
    `ms-resnet20` or another kind of `snnkit.residual.KINDS`.
    `neuron` makes one neuron layer a call (`IF`, `functools.partial(LIF, leak=0.9)`); None builds the ANN with ReLUs,
    and a spiking residual net with its paper's LIF. `width` scales every hidden channel count, `size` is the side of
    the square input image in pixels (default 32, or 224 for the ImageNet nets), `dropout` the probability of SN's
    regulariser, or in a spiking residual net of that before the classifier. `relu` names the layers of a net in
    `TOPOLOGIES` that keep their ReLU: a hybrid net (`HYBRIDS` has BR's choice); `stochmax` gives it that classifier
    (`snnkit.stochmax`).
    Convolutions and linear layers start as SN section 7.1 says: normal, standard deviation sqrt(2 / (k^2 n)), n output
    channels; in the residual paths of a `resnet` sqrt(2) / (k^2 n).

    Raises ValueError for an unknown name or a width, size or dropout that no net can have.
    """
    resnet = RESNET.fullmatch(name)
    if name not in TOPOLOGIES and not resnet and not RESIDUAL.fullmatch(name):
        deeper = [f"{kind} (or any depth 6 n + 2)" for kind in (*RESNETS, *(f"{kind}-resnet20" for kind in KINDS))]
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
    config: dict = dict(
        name=name, width=width, num_classes=num_classes, in_channels=in_channels, size=size, dropout=dropout
    )
    extras = {"relu": list(relu), "stochmax": stochmax}
    config |= {option: value for option, value in extras.items() if value}
    if (relu or stochmax) and name not in TOPOLOGIES:
        raise ValueError(f"relu and stochmax are for {', '.join(sorted(TOPOLOGIES))}; {name} is none of them")
    if name in TOPOLOGIES:
        net = Net(TOPOLOGIES[name], neuron, config)
    else:
        net = (ResNet if resnet else SpikingResNet)(config, neuron)
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            fan_out = module.weight.shape[0] * math.prod(module.weight.shape[2:])
            nn.init.normal_(module.weight, std=math.sqrt(2 / fan_out))
    if resnet:
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
