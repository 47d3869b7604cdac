"""The workloads: nets with seeded weights and their inputs, the same for every contestant.

Weights lie on a grid of powers of two, eight bits each, and thresholds between its points. Then every weighted sum is
exact in float32, whatever the order of additions, and contestants must agree in every spike. With batch-norm they agree
up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from snnkit import coding, models
from snnkit.neurons import IF
from snnkit.scan import Dynamics, State, scan

OFF_GRID = 2.0**-16
THREADS = 2  # of every contestant
RATE = 0.04  # spikes a neuron and step that every layer is scaled to


@dataclass(frozen=True)
class Workload:
    """`kind` "infer", "train" or "calibrate"; `model` with neurons of `leak`, driven by spikes of noise images."""

    title: str
    kind: str
    model: str
    timesteps: int
    batch: int
    leak: float = 1.0
    threshold: float = 1 - OFF_GRID

    @property
    def normalised(self) -> bool:
        """Whether the net has batch-norm, which sees all time steps at once."""
        return self.model.startswith("ms-resnet")

    def smaller(self) -> Workload:
        """A tenth of the time steps, at least 5, of 32 images at most."""
        return replace(self, timesteps=max(5, self.timesteps // 10), batch=min(32, self.batch))


WORKLOADS = {
    "W1": Workload("converted VGG-16, inference", "infer", "vgg16", timesteps=100, batch=32),
    "W2": Workload("Spike-Norm of VGG-16", "calibrate", "vgg16", timesteps=20, batch=64, threshold=1.0),
    "W3": Workload("VGG5, one step of training through time", "train", "vgg5", timesteps=50, batch=32, leak=0.5),
    "W4": Workload(
        "MS-ResNet-20, one step of training through time",
        "train",
        "ms-resnet20",
        6,
        batch=100,
        leak=0.25,
        threshold=0.5,
    ),
}


def images(workload: Workload) -> torch.Tensor:
    """Seeded images [B, 3, 32, 32] in [-1, 1]."""
    return torch.rand(workload.batch, 3, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1


def input_train(workload: Workload) -> torch.Tensor:
    """The Poisson spikes [T, B, 3, 32, 32] that every contestant receives."""
    return coding.poisson(images(workload), workload.timesteps, torch.Generator().manual_seed(2))


@torch.no_grad()
def weights(workload: Workload, batch: int = 2) -> dict[str, torch.Tensor]:
    """Seeded weights that make every layer fire at about RATE, on the grid; a state dict of `models.build`.

    Layer by layer: the scale of random weights is found by bisection on the layer's firing rate over all steps, its
    input being the spikes of the layers before.
    """
    torch.manual_seed(0)
    net, steps = models.build(workload.model, neuron=IF), workload.timesteps
    if workload.normalised:  # batch-norm sets the rates, and no grid survives it
        for norm in (module for module in net.modules() if isinstance(module, nn.BatchNorm2d)):
            nn.init.constant_(norm.weight, 0.5)
        return {key: value for key, value in net.state_dict().items() if not key.endswith("threshold")}
    x = coding.poisson(images(workload)[:batch], steps, torch.Generator().manual_seed(2)).flatten(0, 1)
    for name in net.order:
        layer = net.get_submodule(name)
        if not isinstance(layer, IF):
            x = layer(x)
            if isinstance(layer, nn.Conv2d | nn.Linear):
                last = layer
            continue
        low, high = 2.0**-10, 2.0**20
        for _ in range(30):
            middle = (low * high) ** 0.5
            low, high = (low, middle) if _fire(x * middle, workload, steps).mean() > RATE else (middle, high)
        before = last.weight.clone()
        last.weight.copy_(_on_grid(before * low))
        ratio = (last.weight * before).sum() / (before * before).sum()  # what the rounding left of the scale
        x = _fire(x * ratio, workload, steps).flatten(0, 1)
    last = net.get_submodule(net.order[-1])
    last.weight.copy_(_on_grid(last.weight))
    return {key: value for key, value in net.state_dict().items() if key.endswith("weight")}


def store(workload: Workload, folder: Path) -> Path:
    """Write the weights to a file for the contestants: finding them takes more memory than some races."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{workload.model}-{workload.timesteps}.safetensors"
    save_file(weights(workload), file)
    return file


def _fire(folded: torch.Tensor, workload: Workload, steps: int) -> torch.Tensor:
    currents = folded.unflatten(0, (steps, -1))
    dynamics = Dynamics(workload.leak, torch.tensor(workload.threshold), "zero")
    return scan(currents, State(torch.zeros_like(currents[0])), dynamics)[0]


def _on_grid(weight: torch.Tensor) -> torch.Tensor:
    """Rounded to whole multiples, up to 127, of a power of two; the largest of each channel set to 127 of them."""
    unit = 2.0 ** torch.ceil(torch.log2(weight.abs().max() / 127))
    whole = (weight / unit).round()
    whole.flatten(1)[:, 0] = 127 * whole.flatten(1)[:, 0].sign().add(0.5).sign()
    return whole * unit
