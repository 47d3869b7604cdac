"""Fresh residual nets over a grid: what each block does to the spikes before it and to the gradient behind it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F

from snnkit.firing import changed, spike_trains
from snnkit.isometry import gradient_norms
from snnkit.models import build
from snnkit.residual import MSLIF, SpikingResNet, set_gains
from snnkit.simulation import simulate


class Blocks(NamedTuple):
    """One net. `rates`: spikes a neuron and step before the first block and behind each; `changed`: the share of firing
    states that each block changes (None where it halves the map); `norms` of the gradient at each block's input, over
    that at the last block's."""

    kind: str
    sigma: float
    threshold: float
    depth: int
    rates: list[float]
    changed: list[float | None]
    norms: list[float]


def block_norms(net: SpikingResNet, images: torch.Tensor, labels: torch.Tensor, timesteps: int) -> list[float]:
    """The norm of the loss's gradient at each block's input over that at the last block's; 0 where nothing arrives.

    `images` [B, C, H, W] as constant currents, cross-entropy of the mean readout with `labels` [B]. In training mode
    batch-norms take the statistics of these images.
    """
    chunk = None if net.training else timesteps

    def loss() -> torch.Tensor:
        answer = simulate(net, images, timesteps, coding="constant", chunk=chunk).output.mean(0)
        return F.cross_entropy(answer, labels)

    norms = [*gradient_norms({str(place): block for place, block in enumerate(net.blocks)}, loss).values()]
    return [norm / norms[-1] if norms[-1] else 0.0 for norm in norms]


def fresh_blocks(
    kinds: Sequence[str],
    sigmas: Sequence[float],
    thresholds: Sequence[float],
    depths: Sequence[int],
    images: torch.Tensor,
    labels: torch.Tensor,
    timesteps: int = 4,
    width: float = 0.25,
    seed: int = 0,
) -> list[Blocks]:
    """Every combination of `kinds` ("vanilla", "ms"), `sigmas`, `thresholds` and `depths`: a fresh net each.

    Batch-norms take their statistics from `images` [B, C, H, W]; the last of every residual path has the gain `sigma`,
    so that is the deviation of what the path brings, all others have the threshold (tdBN).

    Raises ValueError for an empty list, other kinds, or a sigma below 0.
    """
    for name, values in (("kinds", kinds), ("sigmas", sigmas), ("thresholds", thresholds), ("depths", depths)):
        if not len(values):
            raise ValueError(f"{name} is empty; give at least one")
    if unknown := set(kinds) - {"vanilla", "ms"}:
        raise ValueError(f"kinds names {', '.join(sorted(unknown))}; use 'vanilla' and 'ms'")
    if not min(sigmas) >= 0:
        raise ValueError(f"sigmas is {list(sigmas)}; a deviation must be 0 or above")
    found = []
    for kind, sigma, threshold, depth in itertools.product(kinds, sigmas, thresholds, depths):
        shape = {"width": width, "in_channels": images.shape[1], "size": images.shape[-1]}
        classes = max(2, int(labels.max()) + 1)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = build(f"{kind}-resnet{depth}", partial(MSLIF, threshold=threshold), num_classes=classes, **shape)
        net.train()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.constant_(module.weight, threshold)
        set_gains(net, threshold, sigma)
        trains = spike_trains(net, images, timesteps)
        shares = changed(trains)
        found.append(
            Blocks(
                kind,
                sigma,
                threshold,
                depth,
                [train.mean().item() for train in trains.values()],
                [shares.get(str(place + 1)) for place in range(len(net.blocks))],
                block_norms(net, images, labels, timesteps),
            )
        )
    return found
