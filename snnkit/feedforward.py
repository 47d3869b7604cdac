"""Feed-forward nets from a list of layers, once for any neuron: the papers' chains, and the heads of other nets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import nn

from snnkit.backres import Halve
from snnkit.dropout import Dropout, HeldDropout
from snnkit.hybrid import Static
from snnkit.stochmax import Stochmax
from snnkit.topologies import Conv, Layer, Linear, Pool, unroll


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
            outputs = scaled(layer, config["width"])
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


def scaled(layer: Conv | Linear, width: float) -> int:
    """The channels or features of `layer` in a net of that `width`, at least one."""
    return max(1, round(width * (layer.channels if isinstance(layer, Conv) else layer.features)))
