"""The parts of a net that need no time: they run once for each presentation (BR section VI)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from snnkit.neurons import Stateful


class Static(Stateful):
    """Runs `part` on B rows, once for each presentation, and repeats its result: [T*B, ...] -> [T*B, ...].

    At the entrance of a net it reads the image, which must be the same at every step (coding "constant"). With
    `average`, behind spiking layers, it reads the mean of its input over all steps; such a net is simulated in one
    chunk. `part` may also be given in each call, as `Net` does for a run of its layers.

    Raises ValueError for input that changes with time, such as Poisson spikes, unless it is to be averaged.
    """

    def __init__(self, part: nn.Module | None = None, average: bool = False):
        super().__init__()
        self.part, self.needs_all_steps = part, average

    def forward(self, folded: torch.Tensor, part: Callable[[torch.Tensor], torch.Tensor] | None = None) -> torch.Tensor:
        presentation = self.presentation()
        if self not in presentation.states:
            steps = folded.unflatten(0, (presentation.timesteps, -1))  # [T*B, ...] -> [T, B, ...]
            if not (self.needs_all_steps or presentation.constant):
                raise ValueError("the static part of the net runs once, on an image; simulate with coding='constant'")
            presentation.states[self] = (part or self.part)(steps.mean(0) if self.needs_all_steps else steps[0])
        result = presentation.states[self]
        repeated = result.expand(presentation.timesteps, *result.shape).flatten(0, 1)
        return repeated.contiguous(memory_format=torch.channels_last) if repeated.dim() == 4 else repeated
