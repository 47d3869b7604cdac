"""Spike-Norm as it is usually written: for every layer, all layers before it run again, a step at a time."""

from __future__ import annotations

import torch
from torch import nn

from snnkit import coding


@torch.no_grad()
def spike_norm(net: nn.Module, images: torch.Tensor, timesteps: int, generator: torch.Generator) -> list[float]:
    """The largest input of every layer of `net` (of `models.build`), with IF neurons that reset to zero."""
    drawn, thresholds = generator.get_state(), []
    neurons = [name for name in net.order if name.startswith("neurons.")]
    for depth in range(len(neurons) + 1):
        generator.set_state(drawn)
        membranes, largest = {}, -float("inf")
        for _ in range(timesteps):
            x = coding.poisson(images, 1, generator)[0]
            for name in net.order:
                if not name.startswith("neurons."):
                    x = net.get_submodule(name)(x)
                    continue
                place = len(membranes) if name not in membranes else list(membranes).index(name)
                if place == depth:
                    break
                membrane = membranes.get(name, 0) + x
                x = (membrane >= thresholds[place]).float()
                membranes[name] = membrane * (1 - x)
            largest = max(largest, float(x.max()))
        thresholds.append(largest)
    return thresholds
