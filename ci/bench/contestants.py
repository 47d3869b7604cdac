"""The neurons of every library, set up to compute the same thing, behind one small interface.

A peer makes neuron layers that keep their state between calls until `reset`. In style "multi" a layer gets a folded
chunk [T*B, ...] and scans it in the way its library offers; in style "single" it gets one step [B, ...] a call. All
fire where the membrane reaches the threshold (snnTorch: exceeds it; on the weights of these workloads that is the
same), reset to zero at once, and pass gradients through a window of width 1 (norse: through its default surrogate).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import nn


class Folded(nn.Module):
    """`layer` on [T, B, ...] for folded input [T*B, ...] of `batch` images."""

    def __init__(self, layer: nn.Module, batch: int):
        super().__init__()
        self.layer, self.batch = layer, batch

    def forward(self, folded):
        return self.layer(folded.unflatten(0, (-1, self.batch))).flatten(0, 1)


class Stepped(nn.Module):
    """`layer`, one step a call, looped over a train [T, B, ...]."""

    def __init__(self, layer: nn.Module):
        super().__init__()
        self.layer = layer

    def forward(self, train):
        return torch.stack([self.layer(current) for current in train.unbind(0)])


class Window(torch.autograd.Function):
    """A step whose gradient is 1 within half a unit, for libraries that take a surrogate as a function."""

    @staticmethod
    def forward(ctx, distance):
        ctx.save_for_backward(distance)
        return (distance >= 0).to(distance.dtype)

    @staticmethod
    def backward(ctx, gradient):
        (distance,) = ctx.saved_tensors
        return gradient * (distance.abs() <= 0.5).to(gradient.dtype)


def spikingjelly(leak: float, threshold: float, style: str, batch: int) -> nn.Module:
    from spikingjelly.activation_based import neuron, surrogate

    options = {"v_threshold": threshold, "v_reset": 0.0, "surrogate_function": surrogate.Rect(), "detach_reset": True}
    options["step_mode"] = "m" if style == "multi" else "s"
    make = neuron.IFNode if leak == 1 else partial(neuron.LIFNode, tau=1 / (1 - leak), decay_input=False)
    layer = make(**options)
    return Folded(layer, batch) if style == "multi" else layer


def snntorch(leak: float, threshold: float, style: str, batch: int) -> nn.Module:
    import snntorch as snn

    layer = snn.Leaky(
        beta=leak,
        threshold=threshold,
        spike_grad=Window.apply,
        init_hidden=True,
        reset_mechanism="zero",
        reset_delay=False,
    )
    return Folded(Stepped(layer), batch) if style == "multi" else layer


class _NorseState(nn.Module):
    """A norse cell that keeps its state, as norse's SequentialState does."""

    def __init__(self, cell: nn.Module, gain: float):
        super().__init__()
        self.cell, self.gain, self.state = cell, gain, None

    def forward(self, current):
        spikes, self.state = self.cell(current if self.gain == 1 else current * self.gain, self.state)
        return spikes


def norse(leak: float, threshold: float, style: str, batch: int) -> nn.Module:
    from norse.torch import IAFCell, LIFBoxCell
    from norse.torch.functional.iaf import IAFParameters
    from norse.torch.functional.lif_box import LIFBoxParameters

    limit = torch.tensor(threshold)
    if leak == 1:
        layer = _NorseState(IAFCell(IAFParameters(v_th=limit)), 1)
    else:  # v += (1 - leak) * (i - v): currents are divided by 1 - leak
        parameters = LIFBoxParameters(tau_mem_inv=torch.tensor(1000 * (1 - leak)), v_th=limit)
        layer = _NorseState(LIFBoxCell(parameters), 1 / (1 - leak))
    return Folded(Stepped(layer), batch) if style == "multi" else layer


def sinabs(leak: float, threshold: float, style: str, batch: int) -> nn.Module:
    from sinabs import layers
    from sinabs.activation import MembraneReset, SingleSpike

    def window(membrane, limit):
        return ((membrane - limit).abs() <= 0.5).float()

    options = {"spike_threshold": torch.tensor(threshold), "spike_fn": SingleSpike, "reset_fn": MembraneReset()}
    options["surrogate_grad_fn"] = window
    make = layers.IAF if leak == 1 else partial(layers.LIF, tau_mem=-1 / math.log(leak), norm_input=False)
    return _BatchFirst(make(**options), batch if style == "multi" else None)


class _BatchFirst(nn.Module):
    """sinabs takes [B, T, ...]."""

    def __init__(self, layer: nn.Module, batch: int | None):
        super().__init__()
        self.layer, self.batch = layer, batch

    def forward(self, x):
        if self.batch is None:
            return self.layer(x.unsqueeze(1)).squeeze(1)
        return self.layer(x.unflatten(0, (-1, self.batch)).transpose(0, 1)).transpose(0, 1).flatten(0, 1)


PEERS: dict[str, Callable[..., nn.Module]] = {
    "spikingjelly": spikingjelly, "snntorch": snntorch, "norse": norse, "sinabs": sinabs,
}  # fmt: skip


def reset(net: nn.Module) -> None:
    """Forget what the peers' layers in `net` remember of the images before."""
    for layer in net.modules():
        if isinstance(layer, _NorseState):
            layer.state = None
        elif type(layer).__module__.startswith("spikingjelly") and hasattr(layer, "step_mode"):
            layer.reset()
        elif type(layer).__module__.startswith("snntorch") and hasattr(layer, "mem"):
            layer.mem = torch.zeros(0, device=layer.mem.device)
        elif type(layer).__module__.startswith("sinabs") and hasattr(layer, "reset_states"):
            layer.zero_grad()
            layer.reset_states()
