"""The machine's limit: how fast the convolutions of a net are when they run alone."""

from __future__ import annotations

import copy
import functools
import time

import torch
from torch import nn
from torch.nn.modules.module import register_module_forward_hook

from snnkit import models
from snnkit.int8 import spike_bytes


@functools.cache
def rate(model: str, precision: str, device: str) -> float:
    """The rate, in MAC/s, of the fastest convolution of the model.

    Maps smaller than the kernel do not count: they skip taps, so not all their MACs are done.
    """
    net, whole = models.build(model, neuron=nn.ReLU), {}

    def note(layer, inputs, output):
        if isinstance(layer, nn.Conv2d) and inputs[0][0, 0].numel() >= layer.weight[0, 0].numel():
            macs = output[0, 0].numel() * layer.weight.numel()
            whole[layer.weight.shape, inputs[0].shape[1:]] = layer, macs

    with torch.no_grad():
        with register_module_forward_hook(note):
            net(torch.zeros(1, 3, 32, 32))
        return max(macs / _seconds(layer, shape, precision, device) for (_, shape), (layer, macs) in whole.items())


def _seconds(layer: nn.Conv2d, shape, precision: str, device: str) -> float:
    """What `layer` takes alone for an image's map of spikes: the fastest of six calls."""
    rows = max(1, 2**22 // shape.numel())
    x = (torch.rand(rows, *shape) < 0.05).float().contiguous(memory_format=torch.channels_last).to(device)
    layer = copy.deepcopy(layer).to(device, memory_format=torch.channels_last)
    if precision == "int8":
        x = spike_bytes(x.to(torch.uint8))
    elif precision == "bf16":
        x, layer = x.bfloat16(), layer.bfloat16()
    times = []
    for _ in range(6):
        start = time.perf_counter()
        layer(x)
        wait(device)
        times.append(time.perf_counter() - start)
    return min(times) / rows


def wait(device: str) -> None:
    """Until the device has done what it was asked."""
    if device == "cuda":
        torch.cuda.synchronize()
