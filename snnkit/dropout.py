"""Dropout for nets without batch-norm (SN section 4.3.1), and its form for spiking nets."""

from __future__ import annotations

import torch
from torch import nn

from snnkit.neurons import Stateful


def dropout_mask(like: torch.Tensor, p: float) -> torch.Tensor:
    """A mask shaped like `like`: 0 with probability `p` (to 1/256), else the gain that keeps the mean.

    One random byte an element. torch's own Bernoulli draws took 40 % of a training step on two CPU cores; drawing
    eight bytes at a time takes 5 %.
    """
    dropped = round(256 * p)
    words = torch.randint(-(2**63), 2**63 - 1, (-(-like.numel() // 8),), device=like.device)
    keep = words.view(torch.uint8)[: like.numel()].view(like.shape) >= dropped
    return keep.to(like.dtype).mul_(256 / (256 - dropped))


def check_probability(p: float) -> None:
    """Raise ValueError unless `p` is a probability that leaves something: in [0, 1), and not rounded to 1."""
    if not 0 <= p < 255.5 / 256:
        raise ValueError(f"dropout is {p}; it must lie in [0, 0.998)")


class Dropout(nn.Module):
    """Zero each element with probability `p` in [0, 0.998) while training, scale the others by 1 / (1 - p)."""

    def __init__(self, p: float):
        super().__init__()
        check_probability(p)
        self.p = p

    def extra_repr(self) -> str:
        return f"p={self.p}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * dropout_mask(x, self.p) if self.training else x


class HeldDropout(Stateful):
    """Dropout whose mask [B, ...] is drawn once per presentation and held over time; nothing in eval mode (HC)."""

    def __init__(self, p: float):
        super().__init__()
        check_probability(p)
        self.p = p

    def forward(self, folded: torch.Tensor) -> torch.Tensor:
        if not self.training:
            return folded
        presentation = self.presentation()
        unfolded = folded.unflatten(0, (presentation.timesteps, -1))  # [T*B, ...] -> [T, B, ...]
        if self not in presentation.states:
            presentation.states[self] = dropout_mask(unfolded[0], self.p)
        return (unfolded * presentation.states[self]).flatten(0, 1)
