"""The conversion microscope: what each layer's spikes say beside what the ANN's activations say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from snnkit.graph import SiteGraph
from snnkit.neurons import LIF
from snnkit.simulation import simulate


@dataclass(frozen=True)
class Layer:
    """One layer under the microscope, a value a neuron and image.

    `expected` [B, ...]: the ANN's activation divided by all thresholds up to here, the spike rate that would carry it;
    `rate` [len(at), B, ...]: the spikes per step measured over the first `at[i]` steps.
    """

    expected: torch.Tensor
    rate: torch.Tensor

    def error(self) -> torch.Tensor:
        """Root mean square difference between rate and expectation after each of the steps, [len(at)]."""
        return (self.rate - self.expected).square().flatten(1).mean(1).sqrt()


@torch.no_grad()
def microscope(
    net: nn.Module,
    spiking: nn.Module,
    images: torch.Tensor,
    at: Sequence[int],
    generator: torch.Generator | None = None,
) -> dict[str, Layer]:
    """Compare the ANN `net` with `spiking`, made of it by `to_spiking`, on `images` [B, ...], layer by layer.

    `at` are increasing numbers of time steps. Returns {layer: Layer} from input to output, neuron layers only.
    """
    conversion = spiking.meta["conversion"]
    graph = SiteGraph(net, conversion["fold_batchnorm"], conversion["allow_bias"])
    expected, values, scales = {}, {graph.image: images}, graph.scales(conversion["thresholds"])
    for site in graph.sites:
        values[site.relu] = graph.part(site)(*(values[source] for source in site.sources)).relu()
        expected[site.key] = values[site.relu] / scales[site.relu]

    counts: dict[str, torch.Tensor] = {}
    snapshots: dict[str, list[torch.Tensor]] = {}
    steps = dict.fromkeys(expected, 0)

    def watch(layer, inputs, spikes):  # spikes [B, ...] of one step
        counts[layer.key] = counts.get(layer.key, 0) + spikes
        steps[layer.key] += 1
        if steps[layer.key] in at:
            snapshots.setdefault(layer.key, []).append(counts[layer.key] / steps[layer.key])

    handles = [m.register_forward_hook(watch) for m in spiking.modules() if isinstance(m, LIF)]
    try:
        simulate(spiking, images, max(at), generator=generator, chunk=1)
    finally:
        for handle in handles:
            handle.remove()
    return {key: Layer(expected[key], torch.stack(snapshots[key])) for key in expected if key in snapshots}
