"""Surrogate gradients: what backpropagation uses in place of the derivative of a spike.

A surrogate is a function of (membrane, threshold, steps since the last spike) that returns d spike / d membrane,
all three broadcastable tensors. One that is a window says so in two attributes: its value is `height` where
|membrane - threshold| <= `window`, else 0. One that reads the third argument sets `needs_spike_times`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields

import torch

Surrogate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


@dataclass(frozen=True)
class _Positive:
    def __post_init__(self):
        for field in fields(self):
            if not getattr(self, field.name) > 0:
                value = getattr(self, field.name)
                raise ValueError(f"{field.name} is {value}; a surrogate needs {field.name} > 0")


@dataclass(frozen=True)
class rectangle(_Positive):
    """1/width where |u - v_th| <= width/2, else 0 (MS eq. 3; `width` is its a)."""

    width: float = 1.0

    @property
    def window(self) -> float:
        return self.width / 2

    @property
    def height(self) -> float:
        return 1 / self.width

    def __call__(self, membrane, threshold, since_spike):
        return ((membrane - threshold).abs() <= self.width / 2).to(membrane.dtype) / self.width


@dataclass(frozen=True)
class triangle(_Positive):
    """gamma * max(0, 1 - |u - v_th| / v_th) (BR eq. 4)."""

    gamma: float = 0.3

    def __call__(self, membrane, threshold, since_spike):
        return self.gamma * (1 - (membrane - threshold).abs() / threshold).clamp(min=0)


@dataclass(frozen=True)
class spike_time(_Positive):
    """alpha * exp(-beta * dt), dt the steps since the neuron's latest spike (HC, spike-time-dependent backprop).

    A neuron that has not fired yet has dt = infinity and gets no gradient.
    """

    alpha: float = 0.3
    beta: float = 0.01
    needs_spike_times = True

    def __call__(self, membrane, threshold, since_spike):
        return self.alpha * torch.exp(-self.beta * since_spike)


BY_NAME = {kind.__name__: kind for kind in (rectangle, triangle, spike_time)}


def describe(surrogate: Surrogate | None) -> dict | None:
    """A surrogate of this module as a dictionary, for `BY_NAME[name](**others)`; None for None.

    Raises ValueError for any other function.
    """
    if surrogate is None:
        return None
    if type(surrogate) not in BY_NAME.values():
        raise ValueError(f"the surrogate {surrogate!r} has no name to be stored by; use one of {', '.join(BY_NAME)}")
    return {"name": type(surrogate).__name__} | asdict(surrogate)


class Fire(torch.autograd.Function):
    """H(membrane - threshold) forward, `grad * derivative` backward, with the other sign for a threshold tensor."""

    @staticmethod
    def forward(ctx, membrane, threshold, derivative):
        ctx.save_for_backward(derivative)
        ctx.threshold_shape = getattr(threshold, "shape", None)
        return (membrane >= threshold).to(membrane.dtype)

    @staticmethod
    def backward(ctx, grad):
        (derivative,) = ctx.saved_tensors
        grad = grad * derivative
        return grad, -grad.sum_to_size(ctx.threshold_shape) if ctx.needs_input_grad[1] else None, None
