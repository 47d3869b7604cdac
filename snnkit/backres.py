"""Feeding a block's output back to its own input when it has twice as many channels (BR section IV)."""

from __future__ import annotations

import torch
from torch import nn

CHOICES = ("top", "random", "average")


class Halve(nn.Module):
    """Half of the channels of maps: [N, 2 C, H, W] -> [N, C, H, W].

    `choice` "top" keeps, of each image (and step), the channels with the largest sum, in their order; "random" a half
    that torch's generator draws here, once for all; "average" takes the mean of neighbouring pairs.

    Raises ValueError for an unknown choice or an odd number of channels.
    """

    def __init__(self, choice: str, channels: int):
        super().__init__()
        if choice not in CHOICES:
            raise ValueError(f"halve is {choice!r}; use one of {', '.join(map(repr, CHOICES))}")
        if channels % 2:
            raise ValueError(f"{channels} channels have no half; take an even number")
        self.choice = choice
        if choice == "random":
            self.register_buffer("kept", torch.randperm(channels)[: channels // 2].sort().values)

    def extra_repr(self) -> str:
        return repr(self.choice)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if self.choice == "random":
            return maps[:, self.kept]
        if self.choice == "average":
            return maps.unflatten(1, (-1, 2)).mean(2)
        kept = maps.sum((2, 3)).topk(maps.shape[1] // 2).indices.sort(-1).values
        return maps[torch.arange(len(maps), device=maps.device)[:, None], kept]
