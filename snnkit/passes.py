"""What each pass through shared weights adds to their gradient (BR section IV)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F


def pass_gradients(net: nn.Module, loss: Callable[[], torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradient of `loss()`, which runs `net` once, with respect to shared weights, pass by pass.

    Returns {layer: [passes, ...]} for every convolution or linear layer that is used more than once; the sum over the
    passes is the gradient that training sees. Simulate in one chunk: each call of a layer counts as a pass. Gradients
    of the parameters themselves are left alone.

    Raises ValueError if no layer is used more than once.
    """
    copies: dict[str, list[torch.Tensor]] = {}

    def use_a_copy(name: str, layer: nn.Module, given: tuple, output: torch.Tensor) -> torch.Tensor:
        weight = layer.weight.detach().clone().requires_grad_()
        copies.setdefault(name, []).append(weight)
        run = layer._conv_forward if isinstance(layer, nn.Conv2d) else F.linear
        return run(given[0], weight, layer.bias)

    handles = [
        layer.register_forward_hook(lambda layer, given, output, name=name: use_a_copy(name, layer, given, output))
        for name, layer in net.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    try:
        value = loss()
    finally:
        for handle in handles:
            handle.remove()
    shared = {name: weights for name, weights in copies.items() if len(weights) > 1}
    if not shared:
        raise ValueError("no layer of the net is used more than once; give a BackRes net, for example vgg3x2")
    gradients = iter(torch.autograd.grad(value, [weight for weights in shared.values() for weight in weights]))
    return {name: torch.stack([next(gradients) for _ in weights]) for name, weights in shared.items()}


def alignment(gradients: torch.Tensor) -> torch.Tensor:
    """The cosine between the gradients [passes, ...] of every two passes: 1 if they pull alike, [passes, passes]."""
    flat = F.normalize(gradients.flatten(1), dim=1)
    return flat @ flat.T
