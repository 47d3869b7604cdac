"""What the blocks of a residual net change: firing states, and maps of firing rates along depth (MS section III-A)."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import nn
from torch.special import ndtr

from snnkit.neurons import LIF
from snnkit.residual import SpikingResNet
from snnkit.simulation import simulate


def change_probability(sigma: float, threshold: float, rate: float) -> float:
    """The probability that a vanilla block changes a neuron's firing state (MS eqs. 7 and 8).

    The residual path brings a normal value of mean 0 and standard deviation `sigma` > 0 beside a spike that is there
    with probability `rate`; `threshold` > 0 in the same unit. What the membrane remembers is left out.

    Raises ValueError for values out of range.
    """
    check_gate(sigma, threshold, rate)
    fires, stops = ndtr(torch.tensor([-threshold / sigma, (threshold - 1) / sigma], dtype=torch.float64)).tolist()
    return (1 - rate) * fires + rate * stops


def check_gate(sigma: float, threshold: float, rate: float) -> None:
    """Raise ValueError unless deviation and threshold are above 0 and the rate is a probability."""
    for name, value in (("sigma", sigma), ("threshold", threshold)):
        if not value > 0:
            raise ValueError(f"{name} is {value}; it must be above 0")
    if not 0 <= rate <= 1:
        raise ValueError(f"rate is {rate}; it must lie in [0, 1]")


@torch.no_grad()
def spike_trains(
    net: SpikingResNet, images: torch.Tensor, timesteps: int, coding: str | None = "constant", **options
) -> dict[str, torch.Tensor]:
    """Spikes [T, B, C, H, W] along depth: what goes from block to block.

    (Our reading of MS Fig. 2a, whose picture is not in the text that we have.)

    {"0": before the first block, "1": after it, ...}: the neurons of the sums, or of an "ms" net, whose blocks pass on
    membrane currents, those that read the currents first. `options` as for `snnkit.simulate`. In training mode
    batch-norms take the statistics of these images, and count them among those that they have seen.

    Raises ValueError for a net whose blocks pass on no spikes.
    """
    sites: list[nn.Module] = [*net.stem[-1:], *(block.lif for block in net.blocks)]
    if net.config["name"].startswith("ms-"):
        sites = [*(block.path.lif1 for block in net.blocks), net.lif]
    if not all(isinstance(site, LIF) for site in sites):
        raise ValueError(f"the blocks of {net.config['name']} pass on no spikes; give a plain, vanilla or ms net")
    seen: dict[str, list[torch.Tensor]] = {str(place): [] for place in range(len(sites))}
    handles = [
        site.register_forward_hook(lambda module, inputs, spikes, place=str(place): seen[place].append(spikes))
        for place, site in enumerate(sites)
    ]
    try:
        simulate(net, images, timesteps, coding=coding, **options)
    finally:
        for handle in handles:
            handle.remove()
    batch = images.shape[1] if coding is None else len(images)
    return {
        place: torch.cat([part.as_subclass(torch.Tensor).unflatten(0, (-1, batch)) for part in parts]).float()
        for place, parts in seen.items()
    }


def changed(trains: dict[str, torch.Tensor]) -> dict[str, float]:
    """Share of firing states, over neurons, images and steps, that each block changes; blocks that keep the size.

    `trains` from `spike_trains`; block "3" lies between trains "2" and "3".
    """
    return {
        after: (trains[before] != trains[after]).double().mean().item()
        for before, after in pairwise(trains)
        if trains[before].shape == trains[after].shape
    }


def similarity(trains: dict[str, torch.Tensor]) -> dict[str, float]:
    """SSIM (MS eq. 11) of the maps of firing rates before and after each block that keeps the size.

    The mean over images and channels of scikit-image's `structural_similarity` with windows of 7 x 7 and a data range
    of 1; nan where a map is smaller than a window.
    """
    from skimage.metrics import structural_similarity

    found = {}
    for before, after in pairwise(trains):
        if trains[before].shape != trains[after].shape:
            continue
        rates = [trains[place].mean(0).flatten(0, 1).double().cpu().numpy() for place in (before, after)]  # [B*C, H, W]
        if min(rates[0].shape[1:]) < 7:
            found[after] = math.nan
            continue
        values = [structural_similarity(*maps, data_range=1.0, win_size=7) for maps in zip(*rates, strict=True)]
        found[after] = float(sum(values) / len(values))
    return found


def rates_by_stage(net: SpikingResNet, rates: dict[str, float]) -> dict[str, dict[int, float]]:
    """Mean firing rates {"lif1" or "lif2": {stage: rate}} of the neurons in the blocks' paths (MS Fig. 3a).

    `rates` as in `snnkit.simulate`'s answer; a stage, from 1, ends where a block halves the map. Blocks of vanilla and
    plain nets have "lif1" only.
    """
    stages = [1]
    for block in net.blocks[1:]:
        stages.append(stages[-1] + (block.path.conv1.stride[0] > 1))
    found: dict[str, dict[int, list[float]]] = {}
    for place, stage in enumerate(stages):
        for position in ("lif1", "lif2"):
            key = f"blocks.{place}.path.{position}"
            if key in rates:
                found.setdefault(position, {}).setdefault(stage, []).append(rates[key])
    return {
        position: {stage: sum(values) / len(values) for stage, values in by_stage.items()}
        for position, by_stage in found.items()
    }
