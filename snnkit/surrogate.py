"""Surrogate gradients: what backpropagation uses in place of the derivative of a spike.

A surrogate is a function of (membrane, threshold, steps since the last spike) that returns d spike / d membrane,
all three broadcastable tensors. Each function below makes one. A surrogate that is a window says so in two attributes:
its value is `height` where |membrane - threshold| <= `window`, else 0. One that reads the third argument sets
`needs_spike_times`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Surrogate = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def rectangle(width: float = 1.0) -> Surrogate:
    """1/width where |u - v_th| <= width/2, else 0 (MS eq. 3; `width` is its a)."""
    _positive("width", width)

    def derivative(membrane, threshold, since_spike):
        return ((membrane - threshold).abs() <= width / 2).to(membrane.dtype) / width

    derivative.window, derivative.height = width / 2, 1 / width
    return derivative


def triangle(gamma: float = 0.3) -> Surrogate:
    """gamma * max(0, 1 - |u - v_th| / v_th) (BR eq. 4)."""
    _positive("gamma", gamma)

    def derivative(membrane, threshold, since_spike):
        return gamma * (1 - (membrane - threshold).abs() / threshold).clamp(min=0)

    return derivative


def spike_time(alpha: float = 0.3, beta: float = 0.01) -> Surrogate:
    """alpha * exp(-beta * dt), dt the steps since the neuron's latest spike (HC, spike-time-dependent backprop).

    A neuron that has not fired yet has dt = infinity and gets no gradient.
    """
    _positive("alpha", alpha)
    _positive("beta", beta)

    def derivative(membrane, threshold, since_spike):
        return alpha * torch.exp(-beta * since_spike)

    derivative.needs_spike_times = True
    return derivative


class Fire(torch.autograd.Function):
    """H(membrane - threshold) forward, `grad * derivative` backward."""

    @staticmethod
    def forward(ctx, membrane, threshold, derivative):
        ctx.save_for_backward(derivative)
        return (membrane >= threshold).to(membrane.dtype)

    @staticmethod
    def backward(ctx, grad):
        (derivative,) = ctx.saved_tensors
        return grad * derivative, None, None


def _positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} is {value}; a surrogate needs {name} > 0")
